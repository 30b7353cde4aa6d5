"""Raw recordings, one clip a file: how each data set names its files, writes them and is split.

A clip is float32 (T, C, V, M): T frames in which somebody is seen, C = x, y, z in metres in the
camera's axes, V joints, M = 2 bodies, zeros where a body is absent. Everything here works on the
bytes of one file and knows nothing of folders, archives or processes (sources.py).
"""

import io
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from skeleton import KINECT_V1, KINECT_V2, Layout, class_names

MAX_BODIES = 2
BODY_RULES = ("follow", "raw")
# Metres. Farther than this nothing was seen: the number is damaged, and its square would not do.
FARTHEST = 1e4


class SkippedFile(ValueError):
    """A clip that cannot be converted: the reason, and where in the file ("line 12"), if known."""

    def __init__(self, reason, where=""):
        super().__init__(f"{where}: {reason}" if where else reason)
        self.reason, self.where = reason, where


@dataclass
class Clip:
    """One recording.

    label   class, from 0
    parts   benchmark -> "train" or "val"; a benchmark that does not use the clip is missing
    performer, camera   from 1; 0 where they are not known
    """

    name: str
    label: int
    data: np.ndarray
    performer: int = 0
    camera: int = 0
    parts: dict = field(default_factory=dict)


@dataclass(frozen=True)
class DataSet:
    """A published data set.

    ending      of its raw files
    identify    name of a clip -> (label or None, performer, camera); raises SkippedFile
    parse       bytes of a raw file, one of BODY_RULES -> (label or None, data); raises SkippedFile
    benchmarks  name -> rule: is this clip in the training part?
    belongs     is a clip of this name in the data set? Others are left alone
    padded      frames of its padded arrays where other people's code expects a fixed number
    """

    title: str
    ending: str
    identify: Callable[[str], tuple]
    parse: Callable[[bytes, str], tuple]
    layout: Layout
    classes: list
    benchmarks: dict
    data_path: str
    out_folder: str
    belongs: Callable[[str], bool] = lambda name: True
    padded: int = 0

    def read(self, name, content, bodies="follow"):
        """A raw file -> Clip, without its parts."""
        label, performer, camera = self.identify(name)
        inside, data = self.parse(content, bodies)
        label = inside if label is None else label
        if not 0 <= label < len(self.classes):
            raise SkippedFile(
                f"action {label + 1} is not one of the {len(self.classes)} of {self.title}"
            )
        return Clip(name.removesuffix("_skeleton"), label, data, performer, camera)

    def parts(self, clip):
        """benchmark -> the part that a clip of known performer and camera falls into."""
        return {name: "train" if rule(clip) else "val" for name, rule in self.benchmarks.items()}


def named(pattern, example, name):
    """The numbers in a clip's name."""
    fields = re.fullmatch(pattern, name)
    if not fields:
        raise SkippedFile(f"the name is not of the form {example}")
    return tuple(map(int, fields.groups()))


def checked(joints, frame_of=None):
    """Refuse coordinates that are none. joints (T, ...), or (B, ...) with the frame (B,) of each body;
    returned as they are."""
    if joints.dtype.kind not in "iuf":
        raise SkippedFile(f"coordinates are {joints.dtype}, not numbers")
    if not (joints.max(initial=0) < FARTHEST and joints.min(initial=0) > -FARTHEST):  # NaN as well
        wrong = ~(np.abs(joints) < FARTHEST)
        row = np.argwhere(wrong)[0, 0]
        frame = row if frame_of is None else frame_of[row]
        raise SkippedFile(
            f"a coordinate is {joints[wrong][0]:g}: not finite, or no place in a room",
            f"frame {frame + 1}",
        )
    return joints


# --- The raw format of NTU RGB+D ----------------------------------------------------------------------
#
# Text. The number of frames; for each frame the number of bodies; for each body a line of 10 fields
# (body ID first), a line "25" and 25 lines of 12 fields (x y z first). A clip of 90 frames holds
# 27,000 numbers, of which 6,750 are wanted.

JOINTS = len(KINECT_V2.joints)
INFO_FIELDS, JOINT_FIELDS = 10, 12
# A line ends at a line feed; any other byte up to the space separates fields.
BLANKS = bytes.maketrans(bytes(range(10)) + bytes(range(11, 32)), b" " * 31)


def parse_skeleton(content):
    """The bytes of a raw NTU file -> (frame (B,), body ID (B,), joints (B, 25, 3)), B bodies in all.

    The coordinates are those that float() reads, in float64. Raises SkippedFile with the line that is
    wrong.
    """
    # (Python alone takes 1_000 for a number.)
    found = None if b"_" in content else _parse_regular(content)
    frame_of, body_ids, joints = found or _parse_lines(content)
    if not len(frame_of):
        raise SkippedFile("no body in any frame")
    return frame_of, body_ids, joints


def _parse_regular(content):
    """Read a file as the sensor's software writes it: one separator between fields, CRLF or LF between
    lines. None for any other file, however it deviates.

    Nothing is split. The ends of all fields are found in one pass over the bytes; which of them end
    which fields follows from the numbers of bodies alone, and is then checked.
    """
    text = np.frombuffer(content, np.uint8)
    ends = np.flatnonzero(text <= ord(" "))
    newline = 2 if b"\r\n" in content[:16] else 1  # ends in a line's end
    # Steps along `ends`, from a body's first field:
    to_count = INFO_FIELDS - 1 + newline
    to_joint = to_count + newline + (JOINT_FIELDS - 1 + newline) * np.arange(JOINTS + 1)
    to_line_end = np.append(to_count, to_joint) - 1
    per_body = int(to_joint[-1])

    end, after = ends.item, newline
    starts, counts = [], []  # of each frame: where its number of bodies ends, and that number
    try:
        for _ in range(int(content[: end(0)])):
            count = content[end(after) - 1] - ord("0")  # one digit, which is checked below
            starts.append(after)
            counts.append(count)
            after += newline + count * per_body
            if not 0 <= count <= 9:
                return None
        if after != len(ends) or end(-1) != len(text) - 1:
            return None
        starts, frame_of = np.array(starts), np.repeat(np.arange(len(counts)), counts)
        place = np.arange(len(frame_of)) - np.repeat(np.cumsum(counts) - counts, counts)
        bodies = starts[frame_of] + newline + place * per_body
        fields = zip((ends[bodies - 1] + 1).tolist(), ends[bodies].tolist(), strict=True)
        names = [content[start:end] for start, end in fields]
        number = {name: int(name) for name in set(names)}
        body_ids = np.array([number[name] for name in names], np.int64)
    except (IndexError, ValueError, OverflowError):
        return None

    last = (bodies[:, None] + to_line_end).ravel()
    last = np.concatenate(([newline - 1], starts + newline - 1, last))
    adjacent = np.diff(ends) == 1
    joint_count = ends[bodies + to_count]
    regular = (
        (ends[starts] - ends[starts - 1] == 2).all()
        # Lines end where they must and nowhere else; no other field is empty.
        and (text[ends[last]] == ord("\n")).all()
        and np.count_nonzero(text.take(ends) == ord("\n")) == len(last)
        and (newline == 1 or adjacent[last - 1].all())
        and np.count_nonzero(adjacent) == len(last) * (newline - 1)
        # The counts of joints are "25".
        and (joint_count - ends[bodies + to_count - 1] == 3).all()
        and (text[joint_count - 2] == ord("2")).all()
        and (text[joint_count - 1] == ord("5")).all()
    )
    if not regular:
        return None
    xyz = bodies[:, None] + (to_joint[:-1, None] + np.arange(3)).ravel()
    try:
        joints = _numbers(content, text, (ends[xyz - 1] + 1).ravel(), ends[xyz].ravel())
    except ValueError:
        return None
    return frame_of, body_ids, joints.reshape(-1, JOINTS, 3)


POWERS = 10.0 ** np.arange(10)
WORD = np.uint64


def _numbers(content, text, starts, ends):
    """The decimal numbers content[starts:ends] -> float64; `text` is `content` as an array.

    A coordinate is a digit, a point and up to 9 decimals, with or without a sign. The last 8 bytes of
    each are taken as one 64-bit word, whose digits are added up in three steps for all numbers at
    once: neighbours to 0-99, those to 0-9999, those to the whole. (digit * 10^n + decimals) / 10^n of
    exact operands rounds once, as float() does. Whatever looks otherwise is given to float(), which
    raises ValueError for what is no number.
    """
    negative = text[starts] == ord("-")
    digit = starts + negative
    decimals = ends - digit - 2
    whole = text[digit] - np.uint8(ord("0"))
    other = (text[digit + 1] != ord(".")) | (whole > 9) | (decimals < 1) | (decimals > 9)
    other |= (decimals == 9) & (
        text[ends - 9] != ord("0")
    )  # 0.001234567: the word holds all but a zero
    shift = (8 * np.maximum(8 - decimals, 0)).astype(WORD)
    words = np.ndarray(len(content) - 7, "V8", content, strides=(1,))  # at every byte
    words = words[ends - 8].view("<u8") ^ WORD(0x3030303030303030)  # characters to digits
    words = words >> shift << shift  # only the decimals
    other |= ((words + WORD(0x7676767676767676) | words) & WORD(0x8080808080808080)) != 0  # any > 9
    words = words * WORD(1 + (10 << 8)) >> WORD(8) & WORD(0x00FF00FF00FF00FF)
    words = words * WORD(1 + (100 << 16)) >> WORD(16) & WORD(0x0000FFFF0000FFFF)
    words = words * WORD(1 + (10000 << 32)) >> WORD(32)
    power = POWERS.take(decimals, mode="clip")
    numbers = (whole * power + words) / power
    numbers = np.where(negative, -numbers, numbers)
    other = np.flatnonzero(other)
    fields = zip(starts[other].tolist(), ends[other].tolist(), strict=True)
    numbers[other] = [float(content[start:end]) for start, end in fields]
    return numbers


def _parse_lines(content):
    """Read a file line by line: any blanks between fields, and errors with their line."""
    lines = content.translate(BLANKS).rstrip().split(b"\n") if content.strip() else []
    at = 0

    def fields(count):
        nonlocal at
        if at == len(lines):
            raise SkippedFile("truncated" if lines else "empty", f"line {at}" if lines else "")
        at += 1
        found = lines[at - 1].split()
        if len(found) != count:
            raise SkippedFile(f"{len(found)} fields where {count} belong", f"line {at}")
        return found

    def number(kind, field):
        try:
            if b"_" in field:
                raise ValueError
            return kind(field)
        except ValueError:
            shown = field[:20].decode("ascii", "backslashreplace")
            raise SkippedFile(f"'{shown}' is not a number", f"line {at}") from None

    def count():
        found = number(int, fields(1)[0])
        if found < 0:
            raise SkippedFile(f"'{found}' is not a count", f"line {at}")
        return found

    frame_of, body_ids, joints = [], [], []
    for frame in range(count()):
        for _ in range(count()):
            body_id = number(int, fields(INFO_FIELDS)[0])
            if count() != JOINTS:
                raise SkippedFile(f"not a body of {JOINTS} joints", f"line {at}")
            xyz = ([number(float, x) for x in fields(JOINT_FIELDS)[:3]] for _ in range(JOINTS))
            joints.append(list(xyz))
            frame_of.append(frame)
            body_ids.append(body_id)
    if b"".join(lines[at:]).strip():
        raise SkippedFile("more lines than the number of frames says", f"line {at + 1}")
    try:
        body_ids = np.array(body_ids, np.int64)
    except OverflowError:
        raise SkippedFile("a body ID of more than 18 digits") from None
    return np.array(frame_of, int), body_ids, np.array(joints).reshape(-1, JOINTS, 3)


# --- Bodies -------------------------------------------------------------------------------------------

# A body that was lost and is found this near (metres) is the same one under a new ID: two people
# stand farther apart, measured at the base of the spine, and a body out of sight hardly walks away.
REJOIN_DISTANCE = 0.5
# The sensor takes furniture and reflections for bodies. Those last no longer than this (frames; a
# third of a second, shorter than any action), nor than half of the clip ...
GHOST_FRAMES = 10
# ... or are wider than this share of their height in most of their frames: a person with both arms
# stretched out is as wide as tall, but not for half of the clip.
GHOST_WIDTH = 0.8


def follow_bodies(frame_of, body_ids, joints):
    """Sort the bodies of a clip into at most two tracks -> float32 (T, C, V, M).

    Bodies are followed by ID, so that their places in the sensor's list do not matter. A track that
    begins where an earlier one was lost continues it; ghosts are dropped unless nothing else is there;
    the two that move most (variance of the joints' places, over time) are kept, the most active first,
    each in one slot for the whole clip. Frames without any body are left out.
    """
    tracks = []
    for body_id in dict.fromkeys(body_ids.tolist()):
        rows = np.flatnonzero(body_ids == body_id)
        again = frame_of[rows[1:]] == frame_of[rows[:-1]]  # twice in a frame: two bodies
        if again.any():
            tracks.append(rows[1:][again])
            rows = np.delete(rows, 1 + np.flatnonzero(again))
        near = [
            (np.linalg.norm(joints[rows[0], 0] - joints[track[-1], 0]), i)
            for i, track in enumerate(tracks)
            if frame_of[track[-1]] < frame_of[rows[0]]
        ]
        distance, i = min(near, default=(np.inf, None))
        if distance < REJOIN_DISTANCE:
            tracks[i] = np.concatenate((tracks[i], rows))
        else:
            tracks.append(rows)

    if len(tracks) > 1:
        frames = 1 + np.count_nonzero(frame_of[1:] != frame_of[:-1])
        people = [rows for rows in tracks if not is_ghost(joints[rows], frames)]
        tracks = people or [max(tracks, key=len)]
        tracks.sort(key=lambda rows: joints[rows].var(axis=0).sum(), reverse=True)
    return in_slots(frame_of, joints, tracks[:MAX_BODIES])


def is_ghost(body, frames):
    """Whether a track (T, V, 3) of a clip of so many frames is not a person's."""
    if len(body) <= min(GHOST_FRAMES, frames / 2):
        return True
    x_and_y = body[..., :2].transpose(2, 0, 1).copy()  # (numpy is fast along the last axis)
    width, height = np.ptp(x_and_y, axis=2)
    return np.count_nonzero(width > GHOST_WIDTH * height) > len(body) / 2


def sensor_order(frame_of, body_ids, joints):
    """The first two bodies of each frame in the sensor's own order -> float32 (T, C, V, M)."""
    place = np.arange(len(frame_of)) - np.searchsorted(frame_of, frame_of)
    slots = [np.flatnonzero(place == slot) for slot in range(MAX_BODIES)]
    return in_slots(frame_of, joints, slots)


def in_slots(frame_of, joints, slots):
    """Bodies (B, V, 3), their frames (B,), the rows of the bodies in each slot -> float32 (T, C, V, M),
    frames without a body left out."""
    row = np.append(0, np.cumsum(frame_of[1:] != frame_of[:-1]))  # only frames that list a body
    data = np.zeros((row[-1] + 1, 3, joints.shape[1], MAX_BODIES), np.float32)
    for slot, bodies in enumerate(slots):
        data[row[bodies], :, :, slot] = joints[bodies].swapaxes(1, 2)
    seen = data.any((1, 2, 3))
    if not seen.any():
        raise SkippedFile("all bodies are zero")
    return data if seen.all() else data[seen]


def parse_ntu(content, bodies):
    found = parse_skeleton(content)
    checked(found[2], found[0])
    arrange = follow_bodies if bodies == "follow" else sensor_order
    return None, arrange(*found)


NTU_NAME = r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})"


def identify_ntu(name):
    _, camera, performer, _, action = named(NTU_NAME, "S001C001P001R001A001", name)
    return action - 1, performer, camera


# --- Northwestern-UCLA and UTD-MHAD (Kinect v1) -------------------------------------------------------


def one_body(joints):
    """(T, V, C) of the only body -> float32 (T, C, V, M)."""
    expected = (len(KINECT_V1.joints), 3)
    try:
        joints = np.asarray(joints, np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise SkippedFile(f"the joints are not an array of numbers: {error}") from None
    if joints.ndim != 3 or joints.shape[1:] != expected or not len(joints):
        raise SkippedFile(f"joints of shape {joints.shape}, not (frames, {expected[0]}, 3)")
    data = np.zeros((len(joints), 3, expected[0], MAX_BODIES), np.float32)
    data[..., 0] = checked(joints).swapaxes(1, 2)
    return data


def identify_nw_ucla(name):
    return None, *named(r"a\d+_s(\d+)_e\d+_v(\d+)", "a01_s01_e00_v01", name)


def parse_nw_ucla(content, bodies):
    """.json, as the CTR-GCN family of repositories distributes the data."""
    try:
        fields = json.loads(content)
        label, joints = int(fields["label"]) - 1, fields["skeletons"]
    except Exception as error:  # too deep, too long a number, ...
        raise SkippedFile(f"not JSON with label and skeletons: {str(error)[:100]}") from None
    return label, one_body(joints)


# UTD-MHAD lists head, shoulder center, spine, hip center first; the layout the other way round.
UTD_MHAD_JOINTS = [3, 2, 1, 0, *range(4, 20)]


def identify_utd_mhad(name):
    action, performer = named(r"a(\d+)_s(\d+)_t\d+_skeleton", "a1_s1_t1_skeleton", name)
    return action - 1, performer, 1  # the only camera


def parse_utd_mhad(content, bodies):
    """.mat, with the key d_skel (20, 3, T)."""
    import scipy.io  # slow to load, and of no use to the others

    try:
        (shape,) = (
            shape for name, shape, _ in scipy.io.whosmat(io.BytesIO(content)) if name == "d_skel"
        )
        if math.prod(shape) > 10_000_000:  # before so much is unpacked
            raise ValueError(f"it is of shape {shape}")
        joints = scipy.io.loadmat(io.BytesIO(content), variable_names="d_skel")["d_skel"]
        joints = joints.transpose(2, 0, 1)[:, UTD_MHAD_JOINTS]
    except Exception as error:  # scipy raises nearly anything on a damaged file
        raise SkippedFile(f"not a .mat file with d_skel (20, 3, frames): {error}") from None
    return None, one_body(joints)


# --- The data sets and their official splits ----------------------------------------------------------

NTU_TRAINING_PERFORMERS = frozenset(
    (1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38)
)
NTU120_TRAINING_PERFORMERS = NTU_TRAINING_PERFORMERS | frozenset(
    (45, 46, 47, 49, 50, 52, 53, 54, 55, 56, 57, 58, 59, 70, 74, 78, 80, 81, 82, 83, 84, 85, 86, 89,
     91, 92, 93, 94, 95, 97, 98, 100, 103)
)  # fmt: skip
NTU60_SETUPS = 17

ntu = partial(
    DataSet,
    ending=".skeleton",
    identify=identify_ntu,
    parse=parse_ntu,
    layout=KINECT_V2,
    data_path="nturgb+d_skeletons",
    padded=300,
)
DATASETS = {
    "ntu": ntu(
        title="NTU RGB+D",
        classes=class_names("ntu")[:60],
        benchmarks={
            "xsub": lambda clip: clip.performer in NTU_TRAINING_PERFORMERS,
            "xview": lambda clip: clip.camera in (2, 3),
        },
        out_folder="NTU-RGB-D",
        belongs=lambda name: not re.match(NTU_NAME, name) or int(name[1:4]) <= NTU60_SETUPS,
    ),
    "ntu120": ntu(
        title="NTU RGB+D 120",
        classes=class_names("ntu"),
        benchmarks={
            "xsub": lambda clip: clip.performer in NTU120_TRAINING_PERFORMERS,
            "xset": lambda clip: int(clip.name[1:4]) % 2 == 0,
        },
        out_folder="NTU-RGB-D-120",
    ),
    "nw-ucla": DataSet(
        title="Northwestern-UCLA",
        ending=".json",
        identify=identify_nw_ucla,
        parse=parse_nw_ucla,
        layout=KINECT_V1,
        classes=class_names("nw_ucla"),
        benchmarks={"xview": lambda clip: clip.camera in (1, 2)},
        data_path="all_sqe",
        out_folder="NW-UCLA",
    ),
    "utd-mhad": DataSet(
        title="UTD-MHAD",
        ending=".mat",
        identify=identify_utd_mhad,
        parse=parse_utd_mhad,
        layout=KINECT_V1,
        classes=class_names("utd_mhad"),
        benchmarks={"xsub": lambda clip: clip.performer % 2 == 1},
        data_path="Skeleton",
        out_folder="UTD-MHAD",
    ),
}
