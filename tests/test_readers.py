"""Reading: every format gives the same clips; raw files in folders and archives; many processes."""

import csv
import io
import json
import os
import re
import shutil
import time
import tracemalloc
import weakref
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from helpers import (
    NAME,
    clips_of,
    contents,
    convert_to,
    load,
    recording,
    skeleton_text,
    standing,
    write_annotations,
    write_custom,
    write_npz,
    write_padded,
    write_zip,
)

from convert_data import convert
from skeletons import clip_stream, datasets, kinect_v1, ntu, parallel, readers
from skeletons.clip import InvalidClip
from skeletons.custom_arrays import ArrayFormat
from skeletons.layout import KINECT_V2, LAYOUTS
from skeletons.parallel import in_parallel
from skeletons.readers import open_input
from skeletons.storage import read_meta


def write_raw(folder, names, content=None):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}.skeleton").write_bytes(content or skeleton_text([[(1, standing())]] * 12))
    return folder


# --- Clips and their splits ---------------------------------------------------------------------------


def test_every_clip_is_in_its_split(data, raw):
    clips = len(list(raw.iterdir()))
    for benchmark, in_training in (
        ("xsub", lambda name: int(name[9:12]) != 3),
        ("xview", lambda name: name[7] != "1"),
    ):
        meta = read_meta(data / benchmark)
        total = 0
        for split in ("train", "val"):
            array, names, labels, counts = load(data / benchmark, split)
            assert array.shape == (counts.sum(), 3, 25, 2) and array.dtype == np.float32
            assert all(in_training(name) == (split == "train") for name in names)
            assert labels == [int(name[-3:]) - 1 for name in names]
            assert meta["clips"][split] == len(names)
            assert meta["subject"][split] == [int(name[9:12]) for name in names]
            assert meta["camera"][split] == [int(name[5:8]) for name in names]
            total += len(names)
        assert total == clips
        assert meta["layout"] == KINECT_V2.to_dict()
        assert meta["classes"][57] == "handshaking" and len(meta["classes"]) == 60


def test_a_clip_keeps_its_frames(data, raw):
    for name, _, frames in clips_of(data / "xview", "val"):
        expected = ntu.parse_ntu((raw / f"{name}.skeleton").read_bytes(), "track").data
        np.testing.assert_array_equal(frames, expected)


def test_each_file_is_read_once(raw, tmp_path, monkeypatch):
    """The original parsed everything once per benchmark."""
    files = []
    read = readers.read_content
    monkeypatch.setattr(readers, "read_content", lambda *a: files.append(a) or read(*a))
    convert_to(tmp_path, raw)
    assert len(files) == len(set(files)) == len(list(raw.iterdir()))


def test_listed_clips_are_excluded(raw, tmp_path):
    names = sorted(path.stem for path in raw.iterdir())
    _, metas, _ = convert_to(tmp_path, raw, ignored=frozenset(names[:4]))
    assert metas["xsub"]["excluded"] == metas["xsub"]["ignored"] == 4
    assert sum(metas["xsub"]["clips"].values()) == len(names) - 4


def test_ntu_120(tmp_path):
    """Cross setup splits by setup, cross subject by 53 subjects; NTU-60 excludes the other clips."""
    names = ("S017C001P001R001A060", "S018C001P003R001A061", "S032C003P103R001A120")
    raw = write_raw(tmp_path / "raw", names, skeleton_text([[(1, standing())]]))
    _, metas, failures = convert_to(tmp_path / "120", raw, dataset="ntu120")
    assert not failures and list(metas) == ["xsub", "xset"]
    assert load(tmp_path / "120/xset", "train")[1] == ["S018C001P003R001A061", "S032C003P103R001A120"]
    assert load(tmp_path / "120/xsub", "val")[1:3] == (["S018C001P003R001A061"], [60])
    _, metas, failures = convert_to(tmp_path / "60", raw)
    assert not failures and metas["xsub"]["excluded"] == 2 and metas["xsub"]["ignored"] == 0
    assert metas["xsub"]["clips"] == {"train": 1, "val": 0}
    assert len(datasets.NTU120_TRAINING_SUBJECTS) == 53


# --- Formats ------------------------------------------------------------------------------------------

FORMATS = {
    "folder": lambda out, raw, data: out.symlink_to(raw),
    "zip": lambda out, raw, data: write_zip(out, raw),
    "packed": lambda out, raw, data: out.symlink_to(data),
    "padded": lambda out, raw, data: write_padded(out, data),
    "padded, no num_frame": lambda out, raw, data: write_padded(out, data, num_frame=False),
    "npz": lambda out, raw, data: write_npz(out, data),
    "npz, compressed": lambda out, raw, data: write_npz(out, data, compressed=True, one_hot=False),
    "pkl 2": lambda out, raw, data: write_annotations(out, data, 2),
    "pkl 4": lambda out, raw, data: write_annotations(out, data, 4),
    "pkl 5, filename": lambda out, raw, data: write_annotations(out, data, 5, key="filename"),
    "custom": lambda out, raw, data: write_custom(out, data),
    "custom, semicolons": lambda out, raw, data: write_custom(out, data, ";"),
}


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_clips(name, padded, raw, data, tmp_path):
    source = tmp_path / "source"
    FORMATS[name](source, raw, data)
    single = [path for path in source.iterdir() if path.suffix in (".npz", ".pkl", ".zip")]
    out, metas, failures = convert_to(tmp_path / "out", *(single or [source]), padded=padded)
    assert not failures
    benchmark = "custom" if name.startswith("custom") else "xsub"
    meta, reference = metas[benchmark], read_meta(data / "xsub")
    for split in ("train", "val"):
        stored = np.load(out / benchmark / f"{split}_data.npy", mmap_mode="r")
        assert stored.ndim == (5 if padded else 4)
        if padded:
            longest = max(load(data / "xsub", split)[3].max() for split in ("train", "val"))
            assert stored.shape[2] == (300 if benchmark == "xsub" else longest)
        clips, expected = (clips_of(f, split) for f in (out / benchmark, data / "xsub"))
        for clip, same in zip(clips, expected, strict=True):
            assert clip[0] == same[0] or "npz" in name
            assert meta["classes"][clip[1]] == (
                str(same[1]) if benchmark == "custom" else reference["classes"][same[1]]
            )
            np.testing.assert_array_equal(clip[2], same[2])
        if benchmark == "custom":  # P001 and so on are numbered
            assert meta["subject"][split] == reference["subject"][split]
        elif "npz" in name:
            assert "subject" not in meta
        else:
            assert meta["subject"][split] == reference["subject"][split]
            assert meta["camera"][split] == reference["camera"][split]


@pytest.mark.parametrize("name", ["folder", "packed", "npz", "pkl 5, filename", "custom"])
def test_clips_are_not_kept_in_memory(name, raw, data, tmp_path):
    FORMATS[name](tmp_path / "source", raw, data)
    single = [path for path in (tmp_path / "source").iterdir() if path.suffix in (".npz", ".pkl")]
    stream = open_input(single or [tmp_path / "source"])
    written = []

    def watched(clips):
        for clip in clips:
            assert sum(data() is not None for data in written) <= 1  # the one before
            written.append(weakref.ref(clip.data))
            yield clip

    stream.clips = watched(stream.clips)
    convert(stream, tmp_path / "out")
    assert len(written) == stream.total


def test_nw_ucla_as_a_folder(tmp_path):
    joints = np.arange(3 * 20 * 3).reshape(3, 20, 3) / 100
    for name in ("a12_s03_e01_v02", "a12_s03_e01_v03"):
        content = {"file_name": "x", "skeletons": joints.tolist(), "label": 10}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "a01_s01_e02_v01.json").write_text("{")
    out, metas, failures = convert_to(tmp_path / "out", tmp_path, dataset="nw-ucla")
    assert metas["xview"]["clips"] == {"train": 1, "val": 1} and len(failures) == 1
    array, names, labels, _ = load(out / "xview", "train")
    assert (names, labels, metas["xview"]["subject"]["train"]) == (["a12_s03_e01_v02"], [9], [3])
    np.testing.assert_allclose(array[..., 0], joints.swapaxes(1, 2), atol=1e-6)
    assert not array[..., 1].any()
    (clip,) = (clip for clip in readers.read_clips(out / "xview", "nw-ucla") if clip.name == names[0])
    np.testing.assert_array_equal(clip.data, array)  # (meta.json is not a recording)


def test_ambiguous_input(raw, data, tmp_path):
    write_custom(tmp_path / "custom", data)
    write_padded(tmp_path / "a", data)
    write_padded(tmp_path / "b", data)
    with pytest.raises(ValueError, match="custom cannot be converted together with other data\ngive"):
        open_input([raw, tmp_path / "custom"])
    with pytest.raises(ValueError, match="are both xsub train\nconvert only one"):
        open_input([tmp_path / "a", tmp_path / "b"])
    for path in (tmp_path / "a/xsub").glob("val*"):
        path.with_name(path.name.replace("val", "test")).write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match="are both xsub val"):
        open_input([tmp_path / "a"])
    (tmp_path / "link").symlink_to(tmp_path / "b")
    with pytest.raises(ValueError, match="is the input folder\ngive another --out_folder"):
        convert_to(tmp_path / "link", tmp_path / "b/../b")
    os.mkfifo(tmp_path / "x.zip")  # reading it would wait for ever
    with pytest.raises(ValueError, match="both"):
        open_input([tmp_path / "x.zip", tmp_path / "a"])


def test_clips_for_recognition(data, raw, tmp_path):
    """What predict.py reads besides the formats that can be converted."""
    shutil.copy(raw / "S002C002P001R001A058.skeleton", tmp_path / "mine.skeleton")
    (clip,) = readers.read_clips(tmp_path / "mine.skeleton")
    assert (clip.name, clip.label) == ("mine", 0)
    expected = {name: frames for split in ("train", "val") for name, _, frames in
                clips_of(data / "xsub", split)}["S002C002P001R001A058"]  # fmt: skip
    np.testing.assert_array_equal(clip.data, expected)
    np.save(tmp_path / "one.npy", expected.transpose(3, 0, 2, 1))
    (clip,) = readers.read_clips(tmp_path / "one.npy")
    assert clip.name == "one"
    np.testing.assert_array_equal(clip.data, expected)
    np.save(tmp_path / "many.npy", np.stack([expected, expected * 2]).swapaxes(1, 2))
    clips = list(readers.read_clips(tmp_path / "many.npy"))
    assert [clip.name for clip in clips] == ["many 0", "many 1"]
    np.testing.assert_array_equal(clips[1].data, expected * 2)
    for layout, channels in ((LAYOUTS["kinect-v2"], 3), (LAYOUTS["coco17"], 2)):
        expected = recording(layout, channels=channels)
        scores = np.ones_like(expected[:, :1])
        for array, order in ((expected, (0, 3, 2, 1)), (expected, (1, 0, 2, 3)),
                             (np.concatenate((expected, scores), 1), (0, 3, 2, 1))):  # fmt: skip
            np.save(tmp_path / "order.npy", array.transpose(order))
            (clip,) = readers.read_clips(tmp_path / "order.npy", form=ArrayFormat(layout, channels))
            np.testing.assert_array_equal(clip.data, expected.astype(np.float32))
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY")
    np.save(tmp_path / "none.npy", np.zeros((0, 3, 5, 25, 2)))
    (tmp_path / "bad.skeleton").write_text("1\n")
    (tmp_path / "empty").mkdir()
    for name, reason in {
        "bad.npy": "bad.npy is corrupt: .*\nmake the data again", "none.npy": "an array of no clips",
        "bad.skeleton": "truncated", "gone.npy": "no such file", "empty": "no clips in it in a format",
    }.items():  # fmt: skip
        (failure,) = readers.read_clips(tmp_path / name)
        with pytest.raises(AssertionError, match=reason):
            raise AssertionError(failure.reason)


# --- Folders ------------------------------------------------------------------------------------------


def test_a_corrupt_file_costs_only_itself(tmp_path):
    good = skeleton_text([[(1, standing())]] * 12)
    raw = write_raw(tmp_path / "raw", [Path(NAME).stem], good[:-200])
    write_raw(raw, [Path(NAME).stem.replace("C002", "C003")], good)
    out, metas, _ = convert_to(tmp_path / "out", raw)
    assert metas["xview"]["clips"] == {"train": 1, "val": 0} and metas["xview"]["skipped"] == 1
    with open(out / "xview/skipped.csv", newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert Path(row["file"]).name == NAME and row["where"] == "line 335" and "fields" in row["reason"]
    before = contents(out)
    with pytest.raises(InvalidClip, match=f"1 of 2 clips cannot be read.*\n.*{NAME}: line 335"):
        convert_to(out, raw, strict=True)
    assert contents(out) == before


def test_other_things_in_the_folder(tmp_path):
    good = skeleton_text([[(1, standing())]] * 12)
    for name in (NAME, "walk.skeleton", NAME.replace("A010", "A061")):
        (tmp_path / name).write_bytes(good)
    (tmp_path / NAME.replace("P001", "P002")).mkdir()
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / NAME.replace("C002", "C001")).write_bytes(good)
    (tmp_path / "inside" / NAME).write_bytes(skeleton_text([[(1, standing(1))]] * 12))
    with open(tmp_path / NAME.replace("P001", "P004"), "wb") as file:
        file.truncate(readers.MAX_FILE_BYTES + 1)
    os.mkfifo(tmp_path / NAME.replace("P001", "P005"))  # reading it would wait for ever
    (tmp_path / NAME.replace("P001", "P006")).symlink_to("nowhere")
    _, metas, failures = convert_to(tmp_path / "out", tmp_path)
    assert metas["xview"]["clips"] == {"train": 1, "val": 1}
    reasons = {Path(failure.file).name: failure.reason for failure in failures}
    for name, reason in {
        "walk.skeleton": "the name is not of the form",
        NAME.replace("A010", "A061"): "action 61",
        NAME: "other data than the clip of the same name",
        NAME.replace("P001", "P002"): "not a file",
        NAME.replace("P001", "P004"): "larger than 16 MiB",
        NAME.replace("P001", "P005"): "not a file",
        NAME.replace("P001", "P006"): "No such file",
    }.items():
        assert reason in reasons.pop(name), name
    assert not reasons
    (tmp_path / NAME).write_bytes(b"")  # the first of two is corrupt: the second one counts
    _, metas, _ = convert_to(tmp_path / "out", tmp_path)
    assert metas["xview"]["clips"] == {"train": 1, "val": 1}


def test_links_to_folders_are_followed(tmp_path):
    """Also in a loop, and to a folder that is reached twice: each file once."""
    elsewhere = write_raw(tmp_path / "elsewhere/more", ["S001C001P001R001A001"]).parent
    raw = write_raw(tmp_path / "raw", ["S001C002P001R001A001"])
    (raw / "link").symlink_to(elsewhere)
    (raw / "twice").symlink_to(elsewhere / "more")
    (elsewhere / "loop").symlink_to(raw)
    _, metas, failures = convert_to(tmp_path / "out", raw)
    assert metas["xview"]["clips"] == {"train": 1, "val": 1} and not failures


@pytest.mark.parametrize("name", ["more", "x.zip", "S001.v1"])
def test_a_broken_link_is_an_error(name, tmp_path):
    """It may stand for many recordings. A raw file that is a broken link is a failure."""
    raw = write_raw(tmp_path / "raw", ["S001C002P001R001A001"])
    (raw / ".hidden").symlink_to("nowhere")
    (raw / "S001C003P001R001A001.skeleton").symlink_to("nowhere")
    assert [type(clip).__name__ for clip in open_input([raw]).clips] == ["Clip", "Failure"]
    (raw / name).symlink_to("nowhere")
    with pytest.raises(FileNotFoundError, match=f"{name} is a broken link, .*\nrepair or remove it"):
        open_input([raw])


def test_hidden_files_and_folders_are_skipped(tmp_path, data):
    """Among them the remains of a conversion that was killed."""
    raw = write_raw(tmp_path / "raw", ["S001C002P001R001A001", ".S001C001P001R001A001"])
    write_raw(raw / ".trash", ["S001C003P001R001A001"])
    with zipfile.ZipFile(raw / "x.zip", "w") as archive:
        for name in (".git/S001C001P001R001A002.skeleton", "./S001C001P001R001A003.skeleton"):
            archive.writestr(name, skeleton_text([[(1, standing())]]))
    stream = open_input([raw])
    assert [clip.name for clip in stream.clips] == ["S001C001P001R001A003", "S001C002P001R001A001"]
    shutil.copytree(data / "xsub", tmp_path / "converted/xsub")
    shutil.copytree(data / "xsub", tmp_path / "converted/.xsub.partial")
    assert open_input([tmp_path / "converted"]).benchmarks == ["xsub"]


def test_a_folder_that_cannot_be_read_is_an_error(raw, tmp_path, monkeypatch):
    """A partial conversion without a warning would be worse."""
    walk = os.walk

    def denied(folder, onerror, **options):
        onerror(PermissionError(13, "Permission denied", f"{folder}/locked"))
        return walk(folder, **options)

    monkeypatch.setattr(os, "walk", denied)
    with pytest.raises(PermissionError, match="locked"):
        open_input([raw])


def test_nothing_to_convert(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no .skeleton files in .*\ngive as --data_path"):
        open_input([tmp_path])
    with pytest.raises(FileNotFoundError, match="gone does not exist\ngive"):
        open_input([tmp_path / "gone"])
    (tmp_path / NAME).write_bytes(b"")
    with pytest.raises(InvalidClip, match=f"1 of 1 clips.*\n.*{NAME}: empty"):
        convert_to(tmp_path / "out", tmp_path)
    assert not contents(tmp_path / "out")
    write_raw(tmp_path / "raw", ["S018C001P001R001A061"], b"x")
    with pytest.raises(ValueError, match=r"all 1 .* excluded.*\nchoose another --dataset"):
        open_input([tmp_path / "raw"])


def test_an_input_folder_is_not_replaced(data, tmp_path):
    with pytest.raises(ValueError, match="is the input folder\ngive another --out_folder"):
        convert_to(data, data, padded=True)
    (tmp_path / "a.npz").touch()
    with pytest.raises(ValueError, match="cannot be converted together"):
        open_input([tmp_path / "a.npz", tmp_path])


# --- Archives -----------------------------------------------------------------------------------------


def test_corrupt_archives(raw, tmp_path):
    write_zip(tmp_path / "zips", raw)
    path = tmp_path / "zips" / "0.zip"
    content = bytearray(path.read_bytes())
    content[2000] ^= 255  # inside the first member
    path.write_bytes(content)
    _, metas, failures = convert_to(tmp_path / "out", path)
    assert sum(metas["xsub"]["clips"].values()) == 17
    assert len(failures) == 1 and "corrupt in the .zip file" in failures[0].reason
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"0\.zip is not a complete \.zip file: .*\ndownload it again"):
        convert_to(tmp_path / "out", path)
    empty = tmp_path / "empty.zip"
    zipfile.ZipFile(empty, "w").close()
    with pytest.raises(FileNotFoundError, match=r"no \.skeleton files in .*empty\.zip"):
        open_input([empty])


def test_a_replaced_archive_is_read_anew(tmp_path):
    """Another file under the same name, in the same process."""
    path = tmp_path / "x.zip"
    for frames in (12, 20):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(NAME, skeleton_text([[(1, standing())]] * frames))
        (clip,) = open_input([path]).clips
        assert len(clip.data) == frames
    stream = open_input([path])
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other.txt", "x")
    (failure,) = stream.clips
    assert failure.reason == "no longer in the .zip file"


def test_archives_that_lie(tmp_path):
    """A member that declares few bytes and unpacks to many; one compressed in a way that cannot be
    unpacked piece by piece; a .mat file that unpacks to much."""
    path = tmp_path / "x.zip"
    good = skeleton_text([[(1, standing())]])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("S001C001P001R001A001.skeleton", good)
        archive.writestr("S001C001P001R001A002.skeleton", bytes(60 << 20))
        archive.writestr("S001C001P001R001A003.skeleton", good, zipfile.ZIP_LZMA)
        archive.writestr("S001C001P001R001A004.skeleton", b" " * (20 << 20))
    content = bytearray(path.read_bytes())
    for signature, at in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):  # where the sizes are
        start = content.index(b"A002.skeleton", content.index(signature)) - 200
        start = content.index(signature, max(0, start))
        while b"A002" not in content[start : start + 80]:
            start = content.index(signature, start + 1)
        content[start + at : start + at + 4] = (1000).to_bytes(4, "little")
    path.write_bytes(content)
    tracemalloc.start()
    _, metas, failures = convert_to(tmp_path / "out", path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert metas["xsub"]["clips"] == {"train": 1, "val": 0} and peak < 55 << 20
    reasons = {Path(failure.file).stem[-1]: failure.reason for failure in failures}
    assert "corrupt in the .zip file" in reasons["2"] and "recompress it" in reasons["3"]
    assert "larger than 16 MiB" in reasons["4"]
    file = io.BytesIO()
    scipy.io.savemat(file, {"d_skel": np.zeros((20, 3, 300_000), np.int8)}, do_compression=True)
    with pytest.raises(InvalidClip, match="it is of shape"):
        kinect_v1.parse_utd_mhad(file.getvalue(), "track")


# --- Errors of the program ----------------------------------------------------------------------------


@pytest.fixture
def broken_parser(monkeypatch):
    """A function that makes the parser of NTU files raise an error, with forked workers, too."""

    def break_it(error, only=""):
        spec = datasets.DATASETS["ntu"]
        read = type(spec).read

        def fails(self, name, content, bodies="track"):
            if only in name:
                raise error
            return read(self, name, content, bodies)

        monkeypatch.setattr(type(spec), "read", fails)

    return break_it


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_unexpected_error_in_every_clip_is_raised(jobs, raw, tmp_path, broken_parser, monkeypatch):
    monkeypatch.setattr(parallel, "CHUNK", 4)
    broken_parser(KeyError("spine"))
    with pytest.raises(
        RuntimeError, match=r"each of 36 clips failed .*KeyError: 'spine'\n.*report"
    ) as e:
        convert_to(tmp_path / "out", raw, jobs=jobs)
    assert "in fails" in str(e.value.__cause__)  # the traceback
    assert not contents(tmp_path / "out")


def test_an_unexpected_error_in_one_clip_is_a_failure(raw, tmp_path, broken_parser):
    broken_parser(KeyError("spine"), only="S002C001P001R001A001")
    _, metas, (failure,) = convert_to(tmp_path / "out", raw)
    assert failure.reason == "unexpected KeyError: 'spine'" and "in fails" in failure.traceback
    assert sum(metas["xsub"]["clips"].values()) == 35


@pytest.mark.parametrize("jobs", [1, 2])
def test_full_memory_is_not_a_corrupt_file(jobs, raw, tmp_path, broken_parser, monkeypatch):
    monkeypatch.setattr(parallel, "CHUNK", 4)
    broken_parser(MemoryError(), only="A024")
    with pytest.raises(MemoryError):
        convert_to(tmp_path / "out", raw, jobs=jobs)
    assert not contents(tmp_path / "out")


# --- Cleaning -----------------------------------------------------------------------------------------


def test_absence_is_not_movement():
    """A body that does not move, in every second frame, and two people who move a little."""
    rng = np.random.default_rng(0)
    data = np.tile(rng.normal(size=(1, 3, 25, 3)), (40, 1, 1, 1))
    data[:, :, :, 1:] += rng.normal(0, 0.05, (40, 3, 25, 2))
    data[::2, :, :, 0] = 0
    cleaned = clip_stream.clean_clip(data)
    people = data[..., 1:].astype(np.float32)
    assert np.array_equal(cleaned, people) or np.array_equal(cleaned, people[..., ::-1])


# --- Many processes -----------------------------------------------------------------------------------


def test_processes_do_not_change_the_result(raw, data, tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "CHUNK", 4)
    out, _, _ = convert_to(tmp_path / "out", raw, jobs=3)
    assert contents(out) == contents(data)
    write_zip(tmp_path / "zips", raw)
    out, _, _ = convert_to(tmp_path / "out2", tmp_path / "zips", jobs=2)
    assert contents(out) == contents(data)


@pytest.mark.parametrize("shared", [8 << 20, 1000])
def test_clips_of_many_processes_can_be_kept(shared, raw, monkeypatch):
    """Whether they come through shared memory, which is used again, or are too large for it."""
    monkeypatch.setattr(parallel, "SHARED_BYTES", shared)
    monkeypatch.setattr(parallel, "CHUNK", 2)
    clips = list(open_input([raw], jobs=2).clips)
    assert len(clips) == 36
    for clip in clips:
        expected = ntu.parse_ntu((raw / f"{clip.name}.skeleton").read_bytes(), "track").data
        np.testing.assert_array_equal(clip.data, expected)
        assert clip.splits["xsub"] == ("val" if "P003" in clip.name else "train")


def test_few_results_are_waiting(tmp_path):
    """Reading must not run ahead of writing, or memory would fill."""
    log = tmp_path / "log"
    results = in_parallel(_note, [(log, i) for i in range(1000)], 2, chunk=10)
    assert next(results) == 0
    time.sleep(0.3)
    assert len(log.read_text().split()) <= 80  # 4 chunks for each process
    assert list(results) == list(range(1, 1000))


def _note(item):
    path, i = item
    with open(path, "a") as file:
        file.write(f"{i}\n")
    return i


def test_raw_files_that_are_called_otherwise_are_not_passed_over_in_silence(raw, tmp_path):
    """A copy "S... (1)" does not take the place of the original."""
    first, *others = sorted(raw.iterdir())[:6]
    for file, suffix in zip(others, (".skel", ".skeleton_", "", ".avi", ".skeleton"), strict=True):
        shutil.copy(file, tmp_path / f"{file.stem}{suffix}")
    shutil.copy(first, tmp_path / f"{others[4].stem} (1).skeleton")
    stream = readers.open_input([tmp_path])
    clip, failure = stream.clips
    assert clip.name == others[4].stem and failure.file.endswith(" (1).skeleton")
    (note,) = stream.notes
    assert re.search(r"WARNING: not read: \S+ and 2 more; .*; rename them to \*\.skeleton", note)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"


@pytest.mark.parametrize("change", [
    lambda content: b"\xef\xbb\xbf" + content,
    lambda content: content.decode().encode("utf-16"),
    lambda content: b"\xfe\xff" + content.decode().encode("utf-16-be"),
])  # fmt: skip
def test_raw_files_that_an_editor_saved(change, raw, data, tmp_path):
    """With a byte order mark, in UTF-16: in folders and in archives."""
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in/x.zip", "w") as archive:
        for i, path in enumerate(sorted(raw.iterdir())):
            content = change(path.read_bytes())
            if i % 2:
                archive.writestr(path.name, content)
            else:
                (tmp_path / "in" / path.name).write_bytes(content)
    assert contents(convert_to(tmp_path / "out", tmp_path / "in")[0]) == contents(data)


@pytest.mark.parametrize("content, fault", [
    (POINTER, "it is a pointer of Git LFS; get the file itself with: git lfs pull"),
    (b"\n<!DOCTYPE html>", "it is a web page; download it, or save it, again"),
    (b"", "empty"),
    (b" \r\n", "empty"),
])  # fmt: skip
def test_raw_files_that_are_something_else(content, fault, tmp_path):
    (tmp_path / NAME).write_bytes(content)
    (failure,) = open_input([tmp_path]).clips
    assert failure.reason == fault


@pytest.mark.parametrize("name", ["x.npz", "x.pkl", "x.zip", "train_data.npy"])
def test_files_that_git_lfs_has_not_fetched(name, tmp_path):
    for file in {name, "train_label.pkl"}:
        (tmp_path / file).write_bytes(POINTER)
    path = tmp_path / name
    with pytest.raises(ValueError, match=rf"{name} .* pointer of Git LFS\nget the file .*git lfs pull"):
        open_input([path if path.suffix in (".npz", ".pkl") else tmp_path])


def test_archives_that_must_be_unpacked(raw, tmp_path):
    with zipfile.ZipFile(tmp_path / "own.zip", "w") as archive:
        archive.writestr("clips.csv", "name,label,split\n")
    with pytest.raises(FileNotFoundError, match=r"not read: .*own\.zip/clips\.csv; unpack archives"):
        open_input([tmp_path / "own.zip"])
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(min(raw.iterdir()), NAME)
    content = bytearray((tmp_path / "x.zip").read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1  # the flag for encryption
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.zip is encrypted\nunpack it with its password"):
        open_input([tmp_path / "x.zip"])
