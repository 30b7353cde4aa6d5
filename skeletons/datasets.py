"""The published data sets: how clips are named, raw formats, classes, official splits and counts.

A clip's data is float32 (T, C, V, M): T frames that show a body, C = x, y, z in metres in the camera's
axes, V joints, M = 2 bodies; zeros where a body is absent. This module works on names and on the bytes
of one file; readers.py finds the files.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from skeletons.clip import Clip, InvalidClip, ParsedFile
from skeletons.kinect_v1 import (
    NW_UCLA_NAME,
    UTD_MHAD_NAME,
    parse_nw_ucla,
    parse_nw_ucla_name,
    parse_utd_mhad,
    parse_utd_mhad_name,
)
from skeletons.layout import KINECT_V1, KINECT_V2, SBU15, Layout, class_names
from skeletons.ntu import NTU_NAME, parse_ntu, parse_ntu_name
from skeletons.sbu import SBU_FOLDS, SBU_NAME, parse_sbu, parse_sbu_name
from skeletons.tracking import BODY_RULES as BODY_RULES


@dataclass(frozen=True)
class DatasetSpec:
    """A published data set.

    suffix         of its raw files
    name_form      of its clips: a regular expression, and an example
    parse_name     name of a clip -> (label or None, subject, camera); raises InvalidClip
    parse          bytes of a raw file, one of BODY_RULES -> ParsedFile; raises InvalidClip
    benchmarks     name -> rule: is this clip (of known name, subject and camera) in the training split?
    data_path, out_folder   where the raw files are and the arrays go if the user does not say
    name_depth     how many names at the end of a raw file's path, joined by _, contain the clip's name
    contains       is a clip of this name part of the data set? Other clips are excluded
    padded_frames  length of its padded arrays, where other projects expect a fixed one; 0: any
    official_counts   benchmark -> (training, test) clips of the complete data set, without the
                   clips listed as missing; a benchmark whose counts are not known is not in it
    """

    title: str
    suffix: str
    name_form: tuple[str, str]
    parse_name: Callable[[str], tuple[int | None, int, int]]
    parse: Callable[[bytes, str], ParsedFile]
    layout: Layout
    classes: list[str]
    benchmarks: dict[str, Callable[[Clip], bool]]
    data_path: str
    out_folder: str
    name_depth: int = 1
    contains: Callable[[str], bool] = lambda name: True
    padded_frames: int = 0
    official_counts: dict[str, tuple[int, int]] = field(default_factory=dict)

    def find_name(self, file: str) -> str:
        """The name of the clip in the name or path of a file, however that is written (capitals,
        "_rgb", " (1)", any suffix); "" if it contains none."""
        path = file.replace("\\", "/").split("/")[-self.name_depth :]
        return next(iter(self.find_names("/".join(path))), "")

    def find_names(self, text: str) -> list[str]:
        """All names of clips in a text, however they are written and separated."""
        pattern, example = self.name_form
        if self.name_depth > 1:  # the name is in the folders
            text = re.sub(r"[\\/]", "_", text)
        found = re.finditer(rf"(?<![a-z0-9]){pattern}(?![a-z0-9])", text, re.IGNORECASE | re.ASCII)
        return [name[0].upper() if example.isupper() else name[0].lower() for name in found]

    def is_raw(self, file: str) -> bool:
        """Whether a file is a raw file, by its name."""
        file = file.lower().replace("\\", "/").rpartition("/")[2]
        return file.endswith(self.suffix) or (file.endswith(".txt") and self.find_name(file) != "")

    def read(self, name: str, content: bytes, bodies: str = "track") -> Clip:
        """The name and the bytes of a raw file -> Clip, without its splits."""
        name = self.find_name(name) or name
        label, subject, camera = self.parse_name(name)
        parsed = self.parse(content, bodies)
        label = parsed.label if label is None else label
        if not 0 <= label < len(self.classes):
            raise InvalidClip(
                f"action {label + 1} is not one of the {len(self.classes)} of {self.title}"
            )
        return Clip(name, label, parsed.data, subject, camera, dropped=parsed.dropped)

    def splits(self, clip: Clip) -> dict[str, str]:
        """benchmark -> "train" or "val" for a clip of known name, subject and camera."""
        return {name: "train" if rule(clip) else "val" for name, rule in self.benchmarks.items()}


# --- The data sets and their official splits ----------------------------------------------------------

NTU60_TRAINING_SUBJECTS = frozenset(
    (1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38)
)
NTU120_TRAINING_SUBJECTS = NTU60_TRAINING_SUBJECTS | frozenset(
    (45, 46, 47, 49, 50, 52, 53, 54, 55, 56, 57, 58, 59, 70, 74, 78, 80, 81, 82, 83, 84, 85, 86, 89,
     91, 92, 93, 94, 95, 97, 98, 100, 103)
)  # fmt: skip
NTU60_SETUPS = 17  # NTU-120 adds the setups 18 to 32


def setup(name: str) -> int:
    """The setup in the name of an NTU clip: camera height, distance and background."""
    return int(name[1:4])


def in_training_folds(fold: str, clip: Clip) -> bool:
    """Whether a clip of SBU is in the training split of a fold."""
    return clip.subject not in SBU_FOLDS[fold]


def is_sbu_pair(name: str) -> bool:
    """Whether the pair of people in the name of a clip of SBU is in one of its folds."""
    pairs = (f"s{pair // 100:02}s{pair % 100:02}" for pairs in SBU_FOLDS.values() for pair in pairs)
    return not re.match(SBU_NAME[0], name) or name.startswith(tuple(pairs))


ntu = partial(
    DatasetSpec,
    suffix=".skeleton",
    name_form=NTU_NAME,
    parse_name=parse_ntu_name,
    parse=parse_ntu,
    layout=KINECT_V2,
    data_path="nturgb+d_skeletons",
    padded_frames=300,
)
DEFAULT_DATASET = "ntu"
DATASETS = {
    "ntu": ntu(
        title="NTU RGB+D",
        classes=class_names("ntu")[:60],
        benchmarks={
            "xsub": lambda clip: clip.subject in NTU60_TRAINING_SUBJECTS,
            "xview": lambda clip: clip.camera in (2, 3),
        },
        out_folder="NTU-RGB-D",
        # (A name of another form is reported as invalid, not excluded.)
        contains=lambda name: not re.match(NTU_NAME[0], name) or setup(name) <= NTU60_SETUPS,
        official_counts={"xsub": (40_091, 16_487), "xview": (37_646, 18_932)},
    ),
    "ntu120": ntu(
        title="NTU RGB+D 120",
        classes=class_names("ntu"),
        benchmarks={
            "xsub": lambda clip: clip.subject in NTU120_TRAINING_SUBJECTS,
            "xset": lambda clip: setup(clip.name) % 2 == 0,
        },
        out_folder="NTU-RGB-D-120",
        official_counts={"xsub": (63_026, 50_919), "xset": (54_468, 59_477)},
    ),
    "nw-ucla": DatasetSpec(
        title="Northwestern-UCLA",
        suffix=".json",
        name_form=NW_UCLA_NAME,
        parse_name=parse_nw_ucla_name,
        parse=parse_nw_ucla,
        layout=KINECT_V1,
        classes=class_names("nw_ucla"),
        benchmarks={"xview": lambda clip: clip.camera in (1, 2)},
        data_path="all_sqe",
        out_folder="NW-UCLA",
        official_counts={"xview": (1_020, 464)},
    ),
    "utd-mhad": DatasetSpec(
        title="UTD-MHAD",
        suffix=".mat",
        name_form=UTD_MHAD_NAME,
        parse_name=parse_utd_mhad_name,
        parse=parse_utd_mhad,
        layout=KINECT_V1,
        classes=class_names("utd_mhad"),
        benchmarks={"xsub": lambda clip: clip.subject % 2 == 1},
        data_path="Skeleton",
        out_folder="UTD-MHAD",
        official_counts={"xsub": (431, 430)},
    ),
    "sbu": DatasetSpec(
        title="SBU Kinect Interaction",
        suffix="skeleton_pos.txt",
        name_form=SBU_NAME,
        name_depth=4,
        parse_name=parse_sbu_name,
        parse=parse_sbu,
        layout=SBU15,
        classes=class_names("sbu"),
        benchmarks={fold: partial(in_training_folds, fold) for fold in SBU_FOLDS},
        data_path="SBU-raw",
        out_folder="SBU",
        contains=is_sbu_pair,
        official_counts={
            fold: (282 - test, test) for fold, test in zip(SBU_FOLDS, (55, 52, 56, 54, 65), strict=True)
        },
    ),
}
