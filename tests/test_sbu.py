"""The raw format of SBU Kinect Interaction and its folds."""

import shutil
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers import clips_of, convert_to

from skeletons.clip import Clip, InvalidClip
from skeletons.datasets import DATASETS
from skeletons.readers import read_clips

SBU = DATASETS["sbu"]
NAME = "s03s04_05_002"


def normalised(frames=4, seed=0):
    """(T, M, V, C): two people, head up: y grows downwards, from the head to the feet."""
    rng = np.random.default_rng(seed)
    joints = rng.uniform((0.2, 0.4, 2), (0.3, 0.5, 2.1), (frames, 2, 15, 3))
    joints[:, 1, :, 0] += 0.5
    joints[..., [11, 14], 1] += 0.5
    return joints


def content(joints, newline="\r\n"):
    """A skeleton_pos.txt."""
    rows = (",".join(map(str, [180 + i, *frame.ravel()])) for i, frame in enumerate(joints))
    return (newline.join(rows) + newline).encode()


def test_two_people_in_metres():
    """As the data set's page says, in millimetres: x = 1280 - 2560 nx, y = 960 - 1920 ny,
    z = nz 10000 / 7.8125."""
    joints = normalised()
    clip = SBU.read(NAME, content(joints))
    assert (clip.name, clip.label, clip.subject, clip.camera) == (NAME, 4, 304, 1)
    assert SBU.classes[clip.label] == "shaking hands"
    assert clip.data.shape == (4, 3, 15, 2) and clip.data.dtype == np.float32
    for t, m, v in np.ndindex(4, 2, 15):
        x, y, z = joints[t, m, v]
        expected = [1280 - 2560 * x, 960 - 1920 * y, z * 10000 / 7.8125]
        np.testing.assert_allclose(1000 * clip.data[t, :, v, m], expected, rtol=1e-5, atol=1e-3)
    head, foot = (SBU.layout.joint(name) for name in ("head", "left foot"))
    assert (clip.data[:, 1, head] > clip.data[:, 1, foot]).all()
    assert (SBU.read(NAME, content(joints, "\n") + b"\n").data == clip.data).all()


def test_missing_joints_and_bodies():
    """Numbers that are all zero stand for no position, not for the corner of the picture."""
    joints = normalised(5)
    joints[1, 0, 4] = 0  # between two frames in which it is there
    joints[2, 1] = 0
    joints[4] = 0
    data = SBU.read(NAME, content(joints)).data
    assert len(data) == 4 and not data[2, ..., 1].any() and data[2, ..., 0].all()
    np.testing.assert_allclose(data[1, :, 4, 0], data[[0, 2], :, 4, 0].mean(0), rtol=1e-5)


@pytest.mark.parametrize("text, reason", [
    (b"", "no body in any frame"),
    (content(np.zeros((3, 2, 15, 3))), "no body in any frame"),
    (content(normalised())[:-40], "line 4: [0-9]+ numbers, not 91"),
    (content(normalised()[:, :1]), "line 1: 46 numbers, not 91"),
    (content(normalised()).replace(b",", b" "), "line 1: not numbers with commas between them"),
    (content(normalised() * 1000), "numbers up to 2[0-9.]+, which are not normalised"),
    (content(normalised() * np.nan), "frame 1: invalid coordinate nan"),
], ids=range(7))  # fmt: skip
def test_corrupt_files(text, reason):
    with pytest.raises(InvalidClip, match=reason):
        SBU.read(NAME, text)


def test_the_folds_test_each_pair_once():
    counts = Counter()
    for benchmark in SBU.benchmarks:
        for pair in ("s01s02", "s03s04", "s05s02", "s06s04", "s02s03", "s02s07", "s03s05", "s05s03",
                     "s01s03", "s01s07", "s07s01", "s07s03", "s02s01", "s02s06", "s03s02", "s03s06",
                     "s04s02", "s04s03", "s04s06", "s06s02", "s06s03"):  # fmt: skip
            label, subject, camera = SBU.parse_name(f"{pair}_01_001")
            split = SBU.splits(Clip("", label, None, subject, camera))[benchmark]
            counts[split, pair if split == "val" else benchmark] += 1
    assert len(counts) == 21 + 5 and all(counts[key] == 1 for key in counts if key[0] == "val")
    assert [counts["train", fold] for fold in SBU.benchmarks] == [17, 17, 17, 17, 16]
    assert all(sum(clips) == 282 for clips in SBU.official_counts.values())
    assert sum(test for _, test in SBU.official_counts.values()) == 282
    assert SBU.contains("s01s02_01_001") and not SBU.contains("s01s04_01_001")


def write_sbu(folder, pairs=("s01s02", "s02s03", "s01s03", "s02s01", "s04s02"), repetitions=1):
    """Raw files as the data set has them, and others that it may have next to them."""
    for seed, pair in enumerate(pairs):
        for action in (1, 5):
            for repetition in range(1, repetitions + 1):
                path = folder / pair / f"{action:02}" / f"{repetition:03}" / "skeleton_pos.txt"
                path.parent.mkdir(parents=True)
                path.write_bytes(content(normalised(6, 100 * seed + action)))
                (path.parent / "readme.txt").write_text("x")
    return folder


def test_conversion_of_folders_and_archives(tmp_path):
    """Bytes for bytes the same; the name of a clip is in its folders."""
    raw = write_sbu(tmp_path / "raw")
    (raw / "s01s02/01/001/skeleton_pos.txt").write_bytes(b"cut")
    out, metas, (failure,) = convert_to(tmp_path / "out", raw, dataset="sbu")
    assert Path(failure.file).parts[-4:] == ("s01s02", "01", "001", "skeleton_pos.txt")
    assert [metas[f"fold{i}"]["clips"] for i in range(1, 6)] == [
        {"train": 8, "val": 1}, *[{"train": 7, "val": 2}] * 4
    ]  # fmt: skip
    ((name, label, data),) = clips_of(out / "fold1", "val")
    assert (name, label, data.shape) == ("s01s02_05_001", 4, (6, 3, 15, 2))
    assert metas["fold1"]["layout"]["name"] == "sbu15" and metas["fold1"]["subject"]["val"] == [102]
    with zipfile.ZipFile(tmp_path / "sbu.zip", "w") as archive:
        for path in raw.rglob("*.txt"):
            archive.write(path, path.relative_to(raw))
    zipped, _, _ = convert_to(tmp_path / "zipped", tmp_path / "sbu.zip", dataset="sbu")
    for file in ("train_data.npy", "val_label.pkl"):
        assert (zipped / "fold3" / file).read_bytes() == (out / "fold3" / file).read_bytes()


def test_recognition_reads_a_raw_file(tmp_path):
    """By its name, or by the data set of the checkpoint."""
    (tmp_path / "skeleton_pos.txt").write_bytes(content(normalised()))
    shutil.copy(tmp_path / "skeleton_pos.txt", tmp_path / "clip.txt")
    for file, dataset in (("skeleton_pos.txt", None), ("skeleton_pos.txt", "sbu"), ("clip.txt", "sbu")):
        (clip,) = read_clips(tmp_path / file, dataset)
        assert isinstance(clip, Clip) and clip.data.shape == (4, 3, 15, 2)
