"""Turn raw skeleton recordings into the arrays that `Feeder` reads. Run once.

    python convert_data.py --data_path nturgb+d_skeletons              # NTU RGB+D
    python convert_data.py --dataset nw-ucla --data_path NW-UCLA-raw   # Northwestern-UCLA
    python convert_data.py --dataset utd-mhad --data_path UTD-MHAD-raw

Each raw file is read once. For each benchmark of the data set (xsub: unseen performers in the test,
xview: an unseen camera) the output folder gets

    {train,val}_data.npy       float32 (frames, C, V, M): the frames of all clips end to end, metres
    {train,val}_num_frame.npy  int64 (N,): frames in each clip
    {train,val}_label.pkl      (names, labels): lists of N; labels count from 0
    meta.json                  data set, layout, class names, counts, performer and camera of each
                               clip, and what was skipped and why

"val" is the official test part. A damaged file is skipped and reported; the rest converts.
"""

import argparse
import json
import os
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.io
from tqdm import tqdm

from skeleton import KINECT_V1, KINECT_V2, Layout, class_names

MAX_BODIES = 2
MISSING_LIST = Path(__file__).parent / "lists" / "ntu_missing.txt"


class SkippedFile(ValueError):
    """A raw file that cannot be converted; the message is the reason."""


@dataclass
class Clip:
    """One recording. data: float32 (T, C, V, M), zeros where a body is absent; label from 0."""

    name: str
    label: int
    performer: int
    camera: int
    data: np.ndarray


@dataclass(frozen=True)
class DataSet:
    """A data set that can be converted.

    read        file -> Clip; raises SkippedFile
    benchmarks  name -> rule that says whether a clip is in the training part
    """

    title: str
    pattern: str
    read: Callable[[Path], Clip]
    layout: Layout
    classes: list
    benchmarks: dict
    data_path: str
    out_folder: str


# --- NTU RGB+D ------------------------------------------------------------------------------------

NTU_NAME = re.compile(r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})")
NTU_TRAINING_PERFORMERS = frozenset(
    (1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38)
)
NTU_CLASSES = class_names("ntu")[:60]


def parse_skeleton(content):
    """The text of a raw NTU file -> (frame (B,), body ID (B,), joints (B, 25, 3)), B bodies in all.

    The format: the number of frames; for each frame the number of bodies; for each body a line of
    10 fields (body ID first), the number of joints and a line of 12 fields a joint (x y z first).
    Raises SkippedFile with the line that is wrong.
    """
    lines = content.splitlines()
    frame_of, body_ids, rows = [], [], []
    at = 0
    try:
        frames = int(lines[0])
        for frame in range(frames):
            at += 1
            bodies = int(lines[at])
            for _ in range(bodies):
                body_ids.append(int(lines[at + 1].split()[0]))
                at += 2
                if int(lines[at]) != len(KINECT_V2.joints):
                    raise SkippedFile(f"line {at + 1}: not a body of 25 joints")
                rows += lines[at + 1 : at + 26]
                frame_of.append(frame)
                at += 25
    except IndexError:
        raise SkippedFile("empty" if not lines else f"truncated: ends at line {len(lines)}") from None
    except ValueError as error:
        if isinstance(error, SkippedFile):
            raise
        raise SkippedFile(f"line {at + 1}: not a skeleton file") from None
    if not rows:
        raise SkippedFile("no body in any frame")
    if len(rows[-1].split()) != 12:  # the other rows are followed by something
        raise SkippedFile("truncated: ends inside a joint")
    try:
        joints = np.loadtxt(rows, usecols=(0, 1, 2), ndmin=2).reshape(-1, 25, 3)
    except ValueError as error:
        raise SkippedFile(f"a joint is not a row of numbers: {error}") from None
    if not np.isfinite(joints).all():
        raise SkippedFile("a coordinate is not finite")
    return np.array(frame_of), np.array(body_ids), joints


# A body that vanishes and comes back this near (metres) is the same one under a new ID.
REJOIN_DISTANCE = 0.5
# The sensor takes furniture for bodies. Those last no longer than this (frames) ...
GHOST_FRAMES = 10
# ... or are wider than this share of their height, in most of their frames.
GHOST_WIDTH = 0.8


def follow_bodies(frame_of, body_ids, joints):
    """Sort the bodies of a clip into at most two tracks -> float32 (T, C, V, M).

    Bodies are followed by ID. A track that begins where an earlier one was lost continues it; ghosts
    are dropped unless nothing else is there; the two that move most are kept, the most active
    first, each in one slot for the whole clip. Frames without any body are left out.
    """
    tracks = []
    for body_id in dict.fromkeys(body_ids.tolist()):
        rows = np.flatnonzero(body_ids == body_id)
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

    def is_ghost(rows):
        spread = np.ptp(joints[rows], axis=1)
        return len(rows) <= GHOST_FRAMES or np.median(spread[:, 0] / spread[:, 1]) > GHOST_WIDTH

    with np.errstate(divide="ignore", invalid="ignore"):  # no height at all: infinitely wide
        bodies = [rows for rows in tracks if not is_ghost(rows)] or [max(tracks, key=len)]
    bodies.sort(key=lambda rows: joints[rows].var(axis=0).sum(), reverse=True)

    data = np.zeros((frame_of.max() + 1, 3, len(KINECT_V2.joints), MAX_BODIES), np.float32)
    for slot, rows in enumerate(bodies[:MAX_BODIES]):
        data[frame_of[rows], :, :, slot] = joints[rows].swapaxes(1, 2)
    return data[data.any(axis=(1, 2, 3))]


def read_ntu(path):
    """One raw NTU RGB+D file (Kinect v2)."""
    fields = NTU_NAME.fullmatch(path.stem)
    if not fields:
        raise SkippedFile("the name is not of the form S001C001P001R001A001.skeleton")
    _, camera, performer, _, action = map(int, fields.groups())
    if not 1 <= action <= len(NTU_CLASSES):
        raise SkippedFile(f"action {action} is not one of the {len(NTU_CLASSES)} of NTU RGB+D")
    data = follow_bodies(*parse_skeleton(path.read_bytes()))
    if not len(data):
        raise SkippedFile("all bodies are zero")
    return Clip(path.stem, action - 1, performer, camera, data)


# --- Northwestern-UCLA and UTD-MHAD (Kinect v1) -----------------------------------------------------


NW_UCLA_CLASSES = class_names("nw_ucla")
UTD_MHAD_CLASSES = class_names("utd_mhad")


def one_body(joints):
    """(T, V, C) of the only body -> float32 (T, C, V, M)."""
    count = len(KINECT_V1.joints)
    try:
        joints = np.asarray(joints, np.float32)
    except (ValueError, TypeError) as error:
        raise SkippedFile(f"the joints are not an array of numbers: {error}") from None
    if joints.ndim != 3 or joints.shape[1:] != (count, 3) or not len(joints):
        raise SkippedFile(f"joints of shape {joints.shape}, not (frames, {count}, 3)")
    if not np.isfinite(joints).all():
        raise SkippedFile("a coordinate is not finite")
    data = np.zeros((len(joints), 3, count, MAX_BODIES), np.float32)
    data[..., 0] = joints.swapaxes(1, 2)
    return data


def read_nw_ucla(path):
    """One .json file as the CTR-GCN family distributes Northwestern-UCLA."""
    fields = re.fullmatch(r"a\d+_s(\d+)_e\d+_v(\d+)", path.stem)
    if not fields:
        raise SkippedFile("the name is not of the form a01_s01_e00_v01.json")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        label, joints = int(content["label"]) - 1, content["skeletons"]
    except (KeyError, TypeError, ValueError) as error:
        raise SkippedFile(f"not JSON with label and skeletons: {error}") from None
    if not 0 <= label < len(NW_UCLA_CLASSES):
        raise SkippedFile(f"label {label + 1} is not one of 1-{len(NW_UCLA_CLASSES)}")
    return Clip(path.stem, label, *map(int, fields.groups()), one_body(joints))


# UTD-MHAD lists head, shoulder center, spine, hip center first; the layout the other way round.
UTD_MHAD_JOINTS = [3, 2, 1, 0, *range(4, 20)]


def read_utd_mhad(path):
    """One .mat file of UTD-MHAD's Skeleton folder; the camera is the only one."""
    fields = re.fullmatch(r"a(\d+)_s(\d+)_t\d+_skeleton", path.stem)
    if not fields:
        raise SkippedFile("the name is not of the form a1_s1_t1_skeleton.mat")
    action, performer = map(int, fields.groups())
    if not 1 <= action <= len(UTD_MHAD_CLASSES):
        raise SkippedFile(f"action {action} is not one of 1-{len(UTD_MHAD_CLASSES)}")
    try:
        joints = scipy.io.loadmat(path, variable_names="d_skel")["d_skel"]
        joints = joints.transpose(2, 0, 1)[:, UTD_MHAD_JOINTS]
    except OSError:
        raise
    except Exception as error:  # scipy raises nearly anything on a damaged file
        raise SkippedFile(f"not a .mat file with d_skel (20, 3, frames): {error}") from None
    return Clip(path.stem.removesuffix("_skeleton"), action - 1, performer, 1, one_body(joints))


DATASETS = {
    "ntu": DataSet(
        title="NTU RGB+D",
        pattern="*.skeleton",
        read=read_ntu,
        layout=KINECT_V2,
        classes=NTU_CLASSES,
        benchmarks={
            "xsub": lambda clip: clip.performer in NTU_TRAINING_PERFORMERS,
            "xview": lambda clip: clip.camera in (2, 3),
        },
        data_path="nturgb+d_skeletons",
        out_folder="NTU-RGB-D",
    ),
    "nw-ucla": DataSet(
        title="Northwestern-UCLA",
        pattern="*.json",
        read=read_nw_ucla,
        layout=KINECT_V1,
        classes=NW_UCLA_CLASSES,
        benchmarks={"xview": lambda clip: clip.camera in (1, 2)},
        data_path="all_sqe",
        out_folder="NW-UCLA",
    ),
    "utd-mhad": DataSet(
        title="UTD-MHAD",
        pattern="*.mat",
        read=read_utd_mhad,
        layout=KINECT_V1,
        classes=UTD_MHAD_CLASSES,
        benchmarks={"xsub": lambda clip: clip.performer % 2 == 1},
        data_path="Skeleton",
        out_folder="UTD-MHAD",
    ),
}


# --- Output -----------------------------------------------------------------------------------------


class PartWriter:
    """Writes one part (train or val) of a benchmark clip by clip, never holding the data.

    The files appear under their names only at `publish`; until then they end in .partial.
    """

    def __init__(self, folder, part, layout):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.part = folder, part
        self.shape = (3, len(layout.joints), MAX_BODIES)
        self.names, self.labels, self.counts, self.performers, self.cameras = [], [], [], [], []
        self.file = open(self._partial("data.npy"), "wb")  # noqa: SIM115 (open until published)
        self._header()

    def _partial(self, ending):
        return self.folder / f"{self.part}_{ending}.partial"

    def _header(self):
        """A .npy header of fixed size, so that it can be written again when the length is known."""
        fields = {"descr": "<f4", "fortran_order": False, "shape": (sum(self.counts), *self.shape)}
        text = str(fields).ljust(128 - 10 - 1) + "\n"
        self.file.write(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode())

    def add(self, clip):
        self.file.write(np.ascontiguousarray(clip.data, "<f4").tobytes())
        self.names.append(clip.name)
        self.labels.append(clip.label)
        self.counts.append(len(clip.data))
        self.performers.append(clip.performer)
        self.cameras.append(clip.camera)

    def discard(self):
        """Give up what is not published."""
        self.file.close()
        for path in self.folder.glob(f"{self.part}_*.partial"):
            path.unlink()

    def publish(self):
        self.file.seek(0)
        self._header()
        self.file.close()
        with open(self._partial("label.pkl"), "wb") as file:
            pickle.dump((self.names, self.labels), file)
        with open(self._partial("num_frame.npy"), "wb") as file:
            np.save(file, np.array(self.counts, np.int64))
        for ending in ("data.npy", "label.pkl", "num_frame.npy"):
            os.replace(self._partial(ending), self.folder / f"{self.part}_{ending}")


def read_clips(dataset, paths, ignored, skipped):
    """Yield the clips of `paths`, with a progress bar; append (file, reason) to `skipped`."""
    seen = {}
    for path in tqdm(paths, dataset.title, unit=" clips", disable=None):
        if path.stem in ignored:
            continue
        try:
            if path.stem in seen:
                raise SkippedFile(f"the same name as {seen[path.stem]}")
            clip = dataset.read(path)
            seen[path.stem] = path
            yield clip
        except (SkippedFile, OSError) as error:
            skipped.append((path.name, getattr(error, "strerror", None) or str(error)))


def convert(dataset, data_path, out_folder, ignored=frozenset()):
    """Convert every raw file below `data_path` into the benchmarks below `out_folder`.

    Returns the contents of the meta.json of each benchmark. Raises FileNotFoundError when there are
    no raw files, SkippedFile when none of them could be read.
    """
    paths = sorted(Path(data_path).rglob(dataset.pattern))
    if not paths:
        raise FileNotFoundError(
            f"no {dataset.pattern} files in {data_path}: give the folder that holds the raw files of "
            f"{dataset.title} with --data_path, or another --dataset ({', '.join(DATASETS)})"
        )
    writers = {
        (benchmark, part): PartWriter(Path(out_folder) / benchmark, part, dataset.layout)
        for benchmark in dataset.benchmarks
        for part in ("train", "val")
    }
    skipped = []
    try:
        for clip in read_clips(dataset, paths, ignored, skipped):
            for benchmark, in_training in dataset.benchmarks.items():
                writers[benchmark, "train" if in_training(clip) else "val"].add(clip)
        if not any(writer.names for writer in writers.values()):
            listing = "\n".join(f"  {name}: {reason}" for name, reason in skipped[:5])
            raise SkippedFile(f"none of the {len(paths)} files in {data_path} was converted\n{listing}")
        for writer in writers.values():
            writer.publish()
    finally:
        for writer in writers.values():
            writer.discard()

    metas = {}
    for benchmark in dataset.benchmarks:
        parts = {part: writers[benchmark, part] for part in ("train", "val")}
        metas[benchmark] = {
            "dataset": dataset.title,
            "benchmark": benchmark,
            "layout": dataset.layout.to_dict(),
            "classes": dataset.classes,
            "clips": {part: len(writer.names) for part, writer in parts.items()},
            "performer": {part: writer.performers for part, writer in parts.items()},
            "camera": {part: writer.cameras for part, writer in parts.items()},
            "ignored": sum(path.stem in ignored for path in paths),
            "skipped": [{"file": name, "reason": reason} for name, reason in skipped],
        }
        text = json.dumps(metas[benchmark], ensure_ascii=False, indent=1)
        (Path(out_folder) / benchmark / "meta.json").write_text(text + "\n", encoding="utf-8")
    return metas


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", choices=DATASETS, default="ntu")
    parser.add_argument("--data_path", help="folder of raw files, searched with its subfolders")
    parser.add_argument(
        "--ignored_sample_path",
        default=MISSING_LIST,
        help="text file of clip names to leave out (default: the official list of missing skeletons)",
    )
    parser.add_argument("--out_folder", help="where the arrays go (default: NTU-RGB-D, NW-UCLA, ...)")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    dataset = DATASETS[arguments.dataset]
    try:
        names = Path(arguments.ignored_sample_path).read_text(encoding="utf-8").split()
        ignored = frozenset(name.removesuffix(".skeleton") for name in names)
        out_folder = arguments.out_folder or dataset.out_folder
        metas = convert(dataset, arguments.data_path or dataset.data_path, out_folder, ignored)
    except (SkippedFile, OSError) as error:
        raise SystemExit(f"convert_data.py: {error}") from error
    for benchmark, meta in metas.items():
        print(f"{out_folder}/{benchmark}: {meta['clips']['train']} training clips, "
              f"{meta['clips']['val']} test clips")  # fmt: skip
    if meta["ignored"]:
        print(f"left out as listed in {arguments.ignored_sample_path}: {meta['ignored']}")
    for item in meta["skipped"]:
        print(f"skipped {item['file']}: {item['reason']}")


if __name__ == "__main__":
    main()
