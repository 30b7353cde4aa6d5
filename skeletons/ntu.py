"""The raw format of NTU RGB+D (.skeleton files, Kinect v2)."""

import numpy as np

from skeletons.clip import InvalidClip, checked, named
from skeletons.layout import KINECT_V2
from skeletons.tracking import sensor_order, track_bodies

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

    The coordinates are those that float() reads, in float64. Raises InvalidClip with the line that is
    wrong.
    """
    # (Python alone takes 1_000 for a number.)
    found = None if b"_" in content else _parse_regular(content)
    frame_of, body_ids, joints = found or _parse_lines(content)
    if not len(frame_of):
        raise InvalidClip("no body in any frame")
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
            raise InvalidClip("truncated" if lines else "empty", f"line {at}" if lines else "")
        at += 1
        found = lines[at - 1].split()
        if len(found) != count:
            raise InvalidClip(f"{len(found)} fields where {count} belong", f"line {at}")
        return found

    def number(kind, field):
        try:
            if b"_" in field:
                raise ValueError
            return kind(field)
        except ValueError:
            shown = field[:20].decode("ascii", "backslashreplace")
            raise InvalidClip(f"'{shown}' is not a number", f"line {at}") from None

    def count():
        found = number(int, fields(1)[0])
        if found < 0:
            raise InvalidClip(f"'{found}' is not a count", f"line {at}")
        return found

    frame_of, body_ids, joints = [], [], []
    for frame in range(count()):
        for _ in range(count()):
            body_id = number(int, fields(INFO_FIELDS)[0])
            if count() != JOINTS:
                raise InvalidClip(f"not a body of {JOINTS} joints", f"line {at}")
            xyz = ([number(float, x) for x in fields(JOINT_FIELDS)[:3]] for _ in range(JOINTS))
            joints.append(list(xyz))
            frame_of.append(frame)
            body_ids.append(body_id)
    if b"".join(lines[at:]).strip():
        raise InvalidClip("more lines than the number of frames says", f"line {at + 1}")
    try:
        body_ids = np.array(body_ids, np.int64)
    except OverflowError:
        raise InvalidClip("a body ID of more than 18 digits") from None
    return np.array(frame_of, int), body_ids, np.array(joints).reshape(-1, JOINTS, 3)


def parse_ntu(content, bodies):
    found = parse_skeleton(content)
    checked(found[2], found[0])
    arrange = track_bodies if bodies == "follow" else sensor_order
    return None, arrange(*found)


NTU_NAME = r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})"


def parse_ntu_name(name):
    _, camera, subject, _, action = named(NTU_NAME, "S001C001P001R001A001", name)
    return action - 1, subject, camera
