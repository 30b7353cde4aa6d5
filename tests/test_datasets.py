"""The registry: official splits and counts, class lists, and what makes coordinates invalid."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers import skeleton_text, standing

from skeletons.clip import Clip, InvalidClip, validate_coordinates
from skeletons.datasets import BODY_RULES, DATASETS

LISTS = Path(__file__).parent.parent / "lists"
MISSING = frozenset((LISTS / "ntu_missing.txt").read_text().split())

# --- NTU RGB+D --------------------------------------------------------------------------------------

# Which subjects were recorded in which setup (S001 to S017). Everybody did the 60 actions twice.
# fmt: off
RECORDED = {
    1: (1, 2, 3, 4, 5, 6, 7, 8),
    2: (3, 7, 8, 9, 10, 11, 12, 13, 14),
    3: (1, 2, 7, 8, 15, 16, 17, 18, 19),
    4: (3, 7, 8, 20),
    5: (4, 10, 13, 15, 16, 17, 18, 21),
    6: (1, 7, 8, 15, 16, 17, 19, 22, 23, 24),
    7: (1, 7, 8, 15, 16, 17, 18, 19, 25, 26, 27, 28),
    8: (1, 7, 8, 15, 19, 25, 29, 30, 31, 32, 33, 34, 35, 36),
    9: (7, 8, 15, 16, 17, 19, 25),
    10: (7, 8, 13, 15, 16, 17, 18, 19, 21, 25),
    11: (1, 2, 7, 8, 15, 16, 17, 18, 19, 25, 27, 28, 38),
    12: (7, 8, 15, 16, 17, 18, 19, 25, 27, 28, 37),
    13: (7, 8, 15, 16, 17, 18, 19, 25, 27, 28, 37),
    14: (7, 8, 15, 17, 19, 25, 27, 37, 39),
    15: (7, 8, 15, 16, 17, 19, 25, 37),
    16: (7, 8, 19, 21, 25, 39, 40),
    17: (3, 7, 8, 9, 15, 16, 17, 20),
}
# fmt: on
CLIPS_PER_SUBJECT_AND_SETUP = 3 * 2 * 60  # cameras, repetitions, actions


def ntu60_names():
    return [
        f"S{setup:03}C{camera:03}P{subject:03}R{repetition:03}A{action:03}"
        for setup, subjects in RECORDED.items()
        for subject in subjects
        for camera in (1, 2, 3)
        for repetition in (1, 2)
        for action in range(1, 61)
    ]


def count_splits(dataset, names):
    """(benchmark, split) -> number of clips, from names alone."""
    counts = Counter()
    for name in names:
        label, subject, camera = dataset.parse_name(name)
        assert 0 <= label < len(dataset.classes)
        counts.update(dataset.splits(Clip(name, label, None, subject, camera)).items())
    return counts


def official(dataset):
    return {
        (benchmark, split): count
        for benchmark, counts in dataset.official_counts.items()
        for split, count in zip(("train", "val"), counts, strict=True)
    }


def test_the_official_splits_of_ntu60():
    """All 56,880 names, of which 302 are listed as missing."""
    dataset, names = DATASETS["ntu"], ntu60_names()
    assert len(names) == len(set(names)) == 56_880
    assert all(map(dataset.contains, names))
    assert len(MISSING.intersection(names)) == 302
    complete = [name for name in names if name not in MISSING]
    assert count_splits(dataset, complete) == official(dataset)
    assert dataset.official_counts == {"xsub": (40_091, 16_487), "xview": (37_646, 18_932)}


def test_the_official_splits_of_ntu120():
    """Every subject did 60 actions, twice, before 3 cameras, in each setup: with the clips listed as
    missing, each split is a multiple of 360. NTU-60 is part of it."""
    dataset = DATASETS["ntu120"]
    assert len(MISSING) == 535 and all(map(dataset.contains, MISSING))
    missing = count_splits(dataset, MISSING)
    for key, count in official(dataset).items():
        assert (count + missing[key]) % CLIPS_PER_SUBJECT_AND_SETUP == 0
    for train, test in dataset.official_counts.values():
        assert train + test == 114_480 - 535
    ntu60 = count_splits(dataset, ntu60_names())
    assert ntu60["xsub", "train"] == 40_091 + count_splits(DATASETS["ntu"], [
        name for name in MISSING if DATASETS["ntu"].contains(name)])["xsub", "train"]  # fmt: skip
    even = sum(len(subjects) for setup, subjects in RECORDED.items() if setup % 2 == 0)
    assert ntu60["xset", "train"] == even * CLIPS_PER_SUBJECT_AND_SETUP


@pytest.mark.parametrize("name, expected", [
    ("S018C001P042R001A061", {"xsub": "val", "xset": "train"}),
    ("S019C001P045R001A120", {"xsub": "train", "xset": "val"}),
    ("S032C003P103R002A100", {"xsub": "train", "xset": "train"}),
    ("S031C003P106R002A100", {"xsub": "val", "xset": "val"}),
])  # fmt: skip
def test_splits_of_single_clips_of_ntu120(name, expected):
    dataset = DATASETS["ntu120"]
    assert dataset.splits(Clip(name, 0, None, *dataset.parse_name(name)[1:])) == expected


def test_ntu60_does_not_contain_the_setups_of_ntu120():
    assert DATASETS["ntu"].contains("S017C001P001R001A001")
    assert not DATASETS["ntu"].contains("S018C001P001R001A001")
    assert DATASETS["ntu120"].contains("S018C001P001R001A001")
    assert DATASETS["ntu"].contains("walk")  # to be reported as a name of another form


# --- The other data sets ----------------------------------------------------------------------------


def test_the_official_splits_of_nw_ucla_and_utd_mhad():
    dataset = DATASETS["nw-ucla"]
    names = [f"a01_s01_e00_v{camera:02}" for camera in (1, 2, 3)]
    clips = [Clip(name, 0, None, *dataset.parse_name(name)[1:]) for name in names]
    assert [dataset.splits(clip)["xview"] for clip in clips] == ["train", "train", "val"]
    assert dataset.official_counts == {"xview": (1_020, 464)}
    dataset = DATASETS["utd-mhad"]
    names = [f"a1_s{subject}_t1_skeleton" for subject in range(1, 9)]
    clips = [Clip(name, 0, None, *dataset.parse_name(name)[1:]) for name in names]
    assert [dataset.splits(clip)["xsub"] for clip in clips] == ["train", "val"] * 4
    assert dataset.official_counts == {"xsub": (431, 430)}


def test_classes():
    counts = {name: len(dataset.classes) for name, dataset in DATASETS.items()}
    assert counts == {"ntu": 60, "ntu120": 120, "nw-ucla": 10, "utd-mhad": 27, "sbu": 8}
    assert DATASETS["ntu"].classes[42] == DATASETS["ntu120"].classes[42] == "falling"
    for dataset in DATASETS.values():
        assert len(set(dataset.classes)) == len(dataset.classes) and all(dataset.classes)
        assert set(dataset.official_counts) == set(dataset.benchmarks)


def test_reading_gives_label_subject_and_camera():
    content = skeleton_text([[(1, standing())]])
    clip = DATASETS["ntu"].read("S003C002P007R001A010", content, BODY_RULES[0])
    assert (clip.name, clip.label, clip.subject, clip.camera) == ("S003C002P007R001A010", 9, 7, 2)
    assert clip.splits == {} and len(clip.dropped) == 0


# --- Coordinates ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int16, np.int64, np.uint8])
def test_coordinates_in_any_unit_are_valid(dtype):
    """12 m in millimetres, and the largest and smallest number of the type if that is less."""
    most = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else np.finfo(dtype).max
    joints = np.full((4, 3, 25, 2), min(12_000, int(most)), dtype)
    if np.dtype(dtype).kind != "u":
        joints[1] *= -1
    assert validate_coordinates(joints) is joints
    limit = 999_999
    if float(most) > limit:
        joints[2, 0, 0, 0] = limit
        assert validate_coordinates(joints) is joints
    assert np.isfinite(np.square(joints.astype(np.float32)).sum())


@pytest.mark.parametrize("value, dtype, shown", [
    (np.nan, np.float64, "nan"), (np.inf, np.float32, "inf"), (-np.inf, np.float32, "-inf"),
    (np.nan, np.float16, "nan"), (np.inf, np.float16, "inf"),
    (1e6, np.float32, r"1e\+06"), (-1e6, np.float64, r"-1e\+06"), (2_000_000, np.int64, r"2e\+06"),
    (2**63, np.uint64, r"9.22337e\+18"), (-(2**63), np.int64, r"-9.22337e\+18"),
], ids=str)  # fmt: skip
def test_invalid_coordinates_say_which_frame(value, dtype, shown):
    joints = np.zeros((4, 3, 25, 2), dtype)
    joints[2, 1, 7, 0] = value
    expected = f"frame 3: invalid coordinate {shown}, not a finite number below 1,000,000"
    with pytest.raises(InvalidClip, match=f"^{expected}$"):
        validate_coordinates(joints)
    with pytest.raises(InvalidClip, match=r"^frame 10: "):
        validate_coordinates(joints, np.array([5, 5, 9, 9]))


def test_coordinates_are_numbers():
    for joints in (np.zeros((2, 3), complex), np.zeros((2, 3), object), np.zeros((2, 3), bool)):
        with pytest.raises(InvalidClip, match=f"coordinates are {joints.dtype}, not numbers"):
            validate_coordinates(joints)


# --- Names of files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset, file, name", [
    ("ntu", r"C:\x\S001C002P003R001A004.skeleton", "S001C002P003R001A004"),
    ("ntu", "nturgb+d/copy of s001c002p003r001a004_rgb (2).AVI", "S001C002P003R001A004"),
    ("ntu", "S001C002P003R001A0041.skeleton", ""),
    ("ntu", "XS001C002P003R001A004.skeleton", ""),
    ("ntu", "S001C002P003R001A004/clip.skeleton", ""),
    ("nw-ucla", "A12_S03_E01_V02.JSON", "a12_s03_e01_v02"),
    ("utd-mhad", "a27_s2_t4_skeleton (1).mat", "a27_s2_t4"),
    ("utd-mhad", "a27_s2_t4b.mat", ""),
    ("sbu", "SBU/s01s02/03/001/skeleton_pos.txt", "s01s02_03_001"),
    ("sbu", r"C:\SBU\S01S02\03\001\skeleton_pos.txt", "s01s02_03_001"),
    ("sbu", "s01s02/03/001", "s01s02_03_001"),
    ("sbu", "lists/s01s02_03_001.txt", "s01s02_03_001"),
    ("sbu", "03/001/skeleton_pos.txt", ""),
])  # fmt: skip
def test_the_name_of_a_clip_in_that_of_a_file(dataset, file, name):
    assert DATASETS[dataset].find_name(file) == name
