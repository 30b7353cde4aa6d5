"""Raw recordings, one clip a file: how each data set names its files, writes them and is split.

A clip is float32 (T, C, V, M): T frames in which somebody is seen, C = x, y, z in metres in the
camera's axes, V joints, M = 2 bodies, zeros where a body is absent. Everything here works on the
bytes of one file and knows nothing of folders, archives or processes (sources.py).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from skeletons.clip import Clip, InvalidClip
from skeletons.kinect_v1 import parse_nw_ucla, parse_nw_ucla_name, parse_utd_mhad, parse_utd_mhad_name
from skeletons.layout import KINECT_V1, KINECT_V2, Layout, class_names
from skeletons.ntu import NTU_NAME, parse_ntu, parse_ntu_name

BODY_RULES = ("follow", "raw")


@dataclass(frozen=True)
class DatasetSpec:
    """A published data set.

    ending      of its raw files
    identify    name of a clip -> (label or None, subject, camera); raises InvalidClip
    parse       bytes of a raw file, one of BODY_RULES -> (label or None, data); raises InvalidClip
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
        label, subject, camera = self.identify(name)
        inside, data = self.parse(content, bodies)
        label = inside if label is None else label
        if not 0 <= label < len(self.classes):
            raise InvalidClip(
                f"action {label + 1} is not one of the {len(self.classes)} of {self.title}"
            )
        return Clip(name.removesuffix("_skeleton"), label, data, subject, camera)

    def parts(self, clip):
        """benchmark -> the part that a clip of known subject and camera falls into."""
        return {name: "train" if rule(clip) else "val" for name, rule in self.benchmarks.items()}


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
    DatasetSpec,
    ending=".skeleton",
    identify=parse_ntu_name,
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
            "xsub": lambda clip: clip.subject in NTU_TRAINING_PERFORMERS,
            "xview": lambda clip: clip.camera in (2, 3),
        },
        out_folder="NTU-RGB-D",
        belongs=lambda name: not re.match(NTU_NAME, name) or int(name[1:4]) <= NTU60_SETUPS,
    ),
    "ntu120": ntu(
        title="NTU RGB+D 120",
        classes=class_names("ntu"),
        benchmarks={
            "xsub": lambda clip: clip.subject in NTU120_TRAINING_PERFORMERS,
            "xset": lambda clip: int(clip.name[1:4]) % 2 == 0,
        },
        out_folder="NTU-RGB-D-120",
    ),
    "nw-ucla": DatasetSpec(
        title="Northwestern-UCLA",
        ending=".json",
        identify=parse_nw_ucla_name,
        parse=parse_nw_ucla,
        layout=KINECT_V1,
        classes=class_names("nw_ucla"),
        benchmarks={"xview": lambda clip: clip.camera in (1, 2)},
        data_path="all_sqe",
        out_folder="NW-UCLA",
    ),
    "utd-mhad": DatasetSpec(
        title="UTD-MHAD",
        ending=".mat",
        identify=parse_utd_mhad_name,
        parse=parse_utd_mhad,
        layout=KINECT_V1,
        classes=class_names("utd_mhad"),
        benchmarks={"xsub": lambda clip: clip.subject % 2 == 1},
        data_path="Skeleton",
        out_folder="UTD-MHAD",
    ),
}
