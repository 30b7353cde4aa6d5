"""Conversion: every input form, the splits, damaged input, and nothing lost whatever happens."""

import _codecs
import contextlib
import csv
import functools
import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from helpers import NAME, Malicious, skeleton_text, standing

import convert_data
from convert_data import convert
from feeder import Feeder
from skeletons import (
    clip_stream,
    custom,
    datasets,
    kinect_v1,
    ntu,
    parallel,
    readers,
    safe_pickle,
    storage,
)
from skeletons.clip import InvalidClip
from skeletons.layout import KINECT_V2
from skeletons.parallel import in_parallel
from skeletons.readers import open_input
from skeletons.storage import read_labels, read_meta, split_files

ROOT = Path(convert_data.__file__).parent


def convert_to(out, *paths, dataset="ntu", padded=False, strict=False, **options):
    """Convert `paths` -> (out, meta.json's contents, faults)."""
    metas, faults = convert(open_input(paths, dataset, **options), out, padded, strict)
    return out, metas, faults


def load(folder, part):
    """(data, names, labels, counts) of one part."""
    names, labels = read_labels(folder / f"{part}_label.pkl")
    return (np.load(folder / f"{part}_data.npy"), names, labels,
            np.load(folder / f"{part}_num_frame.npy"))  # fmt: skip


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- Splits -----------------------------------------------------------------------------------------


def test_every_clip_lands_in_its_part(data, raw):
    clips = len(list(raw.iterdir()))
    for benchmark, in_training in (
        ("xsub", lambda n: int(n[9:12]) != 3),
        ("xview", lambda n: n[7] != "1"),
    ):
        meta = read_meta(data / benchmark)
        total = 0
        for part in ("train", "val"):
            array, names, labels, counts = load(data / benchmark, part)
            assert array.shape == (counts.sum(), 3, 25, 2) and array.dtype == np.float32
            assert all(in_training(name) == (part == "train") for name in names)
            assert labels == [int(name[-3:]) - 1 for name in names]
            assert meta["clips"][part] == len(names)
            assert meta["subject"][part] == [int(name[9:12]) for name in names]
            assert meta["camera"][part] == [int(name[5:8]) for name in names]
            total += len(names)
        assert total == clips
        assert meta["layout"] == KINECT_V2.to_dict()
        assert meta["classes"][57] == "handshaking" and len(meta["classes"]) == 60


def test_a_clip_keeps_its_frames(data, raw):
    array, names, _, counts = load(data / "xview", "val")
    start = 0
    for name, count in zip(names, counts, strict=True):
        _, expected = ntu.parse_ntu((raw / f"{name}.skeleton").read_bytes(), "follow")
        stored = array[start : start + count]
        np.testing.assert_array_equal(stored[..., : expected.shape[-1]], expected)
        assert not stored[..., expected.shape[-1] :].any()
        start += count


def test_data_that_leaves_the_cache_is_the_same(data, raw, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "CACHED", 1000)
    convert_to(tmp_path / "out", raw)
    assert contents(tmp_path / "out") == contents(data)


def test_each_file_is_read_once(raw, tmp_path, monkeypatch):
    """The original parsed everything once per benchmark."""
    seen = []
    read = readers._content
    monkeypatch.setattr(readers, "_content", lambda *a: seen.append(a) or read(*a))
    convert_to(tmp_path, raw)
    assert len(seen) == len(set(seen)) == len(list(raw.iterdir()))


def test_ignored_clips_are_left_out(raw, tmp_path):
    names = sorted(path.stem for path in raw.iterdir())
    _, metas, _ = convert_to(tmp_path, raw, ignored=frozenset(names[:4]))
    assert metas["xsub"]["excluded"] == 4
    assert sum(metas["xsub"]["clips"].values()) == len(names) - 4


def test_ntu_120(tmp_path):
    """Cross set-up splits by set-up, cross subject by 53 subjects; NTU-60 leaves the rest out."""
    content = skeleton_text([[(1, standing())]])
    raw = tmp_path / "raw"
    raw.mkdir()
    for name in ("S017C001P001R001A060", "S018C001P003R001A061", "S032C003P103R001A120"):
        (raw / f"{name}.skeleton").write_bytes(content)
    _, metas, faults = convert_to(tmp_path / "120", raw, dataset="ntu120")
    assert not faults and list(metas) == ["xsub", "xset"]
    assert load(tmp_path / "120/xset", "train")[1] == ["S018C001P003R001A061", "S032C003P103R001A120"]
    assert load(tmp_path / "120/xsub", "val")[1:3] == (["S018C001P003R001A061"], [60])
    _, metas, faults = convert_to(tmp_path / "60", raw)
    assert not faults and metas["xsub"]["excluded"] == 2
    assert metas["xsub"]["clips"] == {"train": 1, "val": 0}
    assert len(datasets.NTU120_TRAINING_PERFORMERS) == 53


# --- Input forms ------------------------------------------------------------------------------------


def write_zip(out, raw):
    out.mkdir()
    files = sorted(raw.iterdir())
    for i, half in enumerate((files[::2], files[1::2])):
        with zipfile.ZipFile(out / f"{i}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path in half:
                archive.write(path, f"nturgb+d_skeletons/{path.name}")
            archive.writestr("__MACOSX/nturgb+d_skeletons/._S001C001P001R001A001.skeleton", b"\0")


def clips_of(folder, part):
    """Lists of name, label, (T, C, V, M)."""
    data, names, labels, counts = load(folder, part)
    return list(zip(names, labels, np.split(data, np.cumsum(counts)[:-1]), strict=True))


def write_padded(out, data, num_frame=True):
    for part in ("train", "val"):
        (out / "xsub").mkdir(parents=True, exist_ok=True)
        clips = clips_of(data / "xsub", part)
        array = np.zeros((len(clips), 3, 300, 25, 2), np.float32)
        for row, (_, _, frames) in zip(array, clips, strict=True):
            row[:, : len(frames)] = frames.swapaxes(0, 1)
        ending = "data.npy" if num_frame else "data_joint.npy"  # as 2s-AGCN calls it
        np.save(out / "xsub" / f"{part}_{ending}", array)
        if num_frame:
            np.save(out / "xsub" / f"{part}_num_frame.npy", [len(frames) for *_, frames in clips])
        labels = ([f"{name}.skeleton" for name, *_ in clips], [label for _, label, _ in clips])
        (out / "xsub" / f"{part}_label.pkl").write_bytes(pickle.dumps(labels))


def write_npz(out, data, compressed=False, one_hot=True):
    out.mkdir()
    arrays = {}
    for part, suffix in (("train", "train"), ("val", "test")):
        clips = clips_of(data / "xsub", part)
        x = np.zeros((len(clips), 300, 150), np.float32)
        for row, (_, _, frames) in zip(x, clips, strict=True):
            row[: len(frames)] = frames.transpose(0, 3, 2, 1).reshape(len(frames), -1)
        y = np.array([label for _, label, _ in clips])
        arrays |= {f"x_{suffix}": x, f"y_{suffix}": np.eye(60)[y] if one_hot else y}
    (np.savez_compressed if compressed else np.savez)(out / "NTU60_CS.npz", **arrays)


def write_annotations(out, data, protocol):
    out.mkdir()
    split = {"xsub_train": [], "xsub_val": []}
    annotations = []
    for part in ("train", "val"):
        for name, label, frames in clips_of(data / "xsub", part):
            split[f"xsub_{part}"].append(name)
            keypoint = frames.transpose(3, 0, 2, 1)  # (M, T, V, C)
            padding = np.zeros((len(keypoint), 5, 25, 3), np.float32)
            annotations.append({
                "frame_dir": name, "label": label, "total_frames": len(frames),
                "keypoint": np.concatenate((keypoint, padding), 1),
            })  # fmt: skip
    content = {"split": split, "annotations": annotations}
    (out / "ntu60_3danno.pkl").write_bytes(pickle.dumps(content, protocol))


def write_own(out, data, separator=","):
    out.mkdir()
    lines = [separator.join(("name", "label", "part", "subject"))]
    for part in ("train", "val"):
        for name, label, frames in clips_of(data / "xsub", part):
            lines.append(separator.join((name, str(label), part, name[8:12])))
            bodies = frames.transpose(3, 0, 2, 1)
            np.save(out / f"{name}.npy", bodies if bodies[1:].any() else bodies[0])
    (out / "clips.csv").write_text("\r\n".join(lines), encoding="utf-8-sig")


FORMS = {
    "folder": lambda out, raw, data: out.symlink_to(raw),
    "zip": lambda out, raw, data: write_zip(out, raw),
    "packed": lambda out, raw, data: out.symlink_to(data),
    "padded": lambda out, raw, data: write_padded(out, data),
    "padded, no counts": lambda out, raw, data: write_padded(out, data, num_frame=False),
    "npz": lambda out, raw, data: write_npz(out, data),
    "npz, compressed": lambda out, raw, data: write_npz(out, data, compressed=True, one_hot=False),
    "pkl 2": lambda out, raw, data: write_annotations(out, data, 2),
    "pkl 4": lambda out, raw, data: write_annotations(out, data, 4),
    "pkl 5": lambda out, raw, data: write_annotations(out, data, 5),
    "own": lambda out, raw, data: write_own(out, data),
    "own, semicolons": lambda out, raw, data: write_own(out, data, ";"),
}


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_items(form, padded, raw, data, tmp_path):
    source = tmp_path / "source"
    FORMS[form](source, raw, data)
    single = [path for path in source.iterdir() if path.suffix in (".npz", ".pkl", ".zip")]
    out, metas, faults = convert_to(tmp_path / "out", *(single or [source]), padded=padded)
    assert not faults
    benchmark = "own" if form.startswith("own") else "xsub"
    for part in ("train", "val"):
        expected = Feeder(*split_files(data / "xsub", part), window_size=50)
        found = Feeder(*split_files(out / benchmark, part), window_size=50)
        stored = np.load(split_files(out / benchmark, part)[0], mmap_mode="r")
        assert stored.ndim == (5 if padded else 4)
        if padded:
            longest = max(np.load(split_files(data / "xsub", p)[2]).max() for p in ("train", "val"))
            assert stored.shape[2] == (300 if benchmark == "xsub" else longest)
        if "npz" not in form:
            assert found.name == expected.name
            known = read_meta(data / "xsub")["subject"][part]
            assert metas[benchmark]["subject"][part] == known or form.startswith("own")
        else:
            assert "subject" not in metas[benchmark]
        for a, b in zip(found[range(len(found))], expected[range(len(expected))], strict=True):
            assert (benchmark == "own" and a.dim() == 1) or torch.equal(a, b)
        if benchmark == "own":  # four classes of the sixty
            assert found.label.unique(return_inverse=True)[1].equal(
                expected.label.unique(return_inverse=True)[1]
            )


def test_half_precision_and_three_bodies(tmp_path):
    rng = np.random.default_rng(0)
    keypoint = rng.normal(0, 1, (3, 20, 25, 3)).astype(np.float16)
    keypoint[1] = keypoint[1, :1]  # does not move
    annotation = {"frame_dir": "a", "label": 3, "keypoint": keypoint}
    content = {"split": {"train": ["a"], "val": []}, "annotations": [annotation]}
    (tmp_path / "mine.pkl").write_bytes(pickle.dumps(content))
    out, _, _ = convert_to(tmp_path / "out", tmp_path / "mine.pkl")
    array, names, labels, _ = load(out / "mine", "train")
    assert (names, labels) == (["a"], [3]) and array.shape == (20, 3, 25, 2)
    kept = {array[..., m].tobytes() for m in range(2)}
    assert kept == {keypoint[m].astype(np.float32).swapaxes(1, 2).tobytes() for m in (0, 2)}


def test_nw_ucla_as_a_folder(tmp_path):
    joints = np.arange(3 * 20 * 3).reshape(3, 20, 3) / 100
    for name in ("a12_s03_e01_v02", "a12_s03_e01_v03"):
        content = {"file_name": "x", "skeletons": joints.tolist(), "label": 10}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "a01_s01_e02_v01.json").write_text("{")
    out, metas, faults = convert_to(tmp_path / "out", tmp_path, dataset="nw-ucla")
    assert metas["xview"]["clips"] == {"train": 1, "val": 1} and len(faults) == 1
    array, names, labels, _ = load(out / "xview", "train")
    assert (names, labels, metas["xview"]["subject"]["train"]) == (["a12_s03_e01_v02"], [9], [3])
    np.testing.assert_allclose(array[..., 0], joints.swapaxes(1, 2), atol=1e-6)
    assert not array[..., 1].any()
    (clip,) = (clip for clip in readers.read_clips(out / "xview", "nw-ucla") if clip.name == names[0])
    np.testing.assert_array_equal(clip.data, array)  # (meta.json is no recording)


# --- Own recordings ---------------------------------------------------------------------------------

STICK = {
    "joints": ["hip", "neck", "left hand", "right hand", "left foot", "right foot"],
    "parents": [None, "hip", "neck", "neck", "hip", "hip"],
    "parts": {"left arm": ["left hand"], "right arm": ["right hand"], "trunk": ["neck", "hip"],
              "left leg": ["left foot"], "right leg": ["right foot"]},
}  # fmt: skip


def own(folder, table, channels=2, layout=STICK):
    folder.mkdir()
    (folder / "clips.csv").write_text(table, encoding="utf-8")
    if layout:
        (folder / "layout.json").write_text(json.dumps(layout))
    rng = np.random.default_rng(0)
    for line in table.splitlines()[1:]:
        np.save(folder / f"{line.split(',')[0]}.npy", rng.normal(size=(9, 6, channels)))
    return folder


TABLE = "name,label,part,subject\na,jump,train,Ann\nb,run,train,Bob\nc,run,val,Ann\n"


@pytest.mark.parametrize("channels", [2, 3])
def test_own_recordings_in_their_own_layout(channels, tmp_path):
    folder = own(tmp_path / "mine", TABLE, channels)
    out, metas, faults = convert_to(tmp_path / "out", folder)
    assert metas["own"]["classes"] == ["jump", "run"] and not faults
    assert metas["own"]["subject"] == {"train": [1, 2], "val": [1]}
    feeder = Feeder(*split_files(out / "own", "train"), window_size=9, origin_transfer="start",
                    random_move=True, rand_rotate=0.5, rand_scale=0.1, rand_shear=0.1)  # fmt: skip
    assert feeder.layout.joints == tuple(STICK["joints"]) and feeder.layout.root == 0
    assert feeder[0][0].shape == (channels, 9, 6, 2) and feeder.label.tolist() == [0, 1]
    still = feeder.eval()
    expected = np.load(folder / "b.npy").transpose(2, 0, 1)
    found, expected = still[1][0][..., 0].numpy(), expected - expected[:, :1, :1]
    scale = np.linalg.norm(found) / np.linalg.norm(expected)
    np.testing.assert_allclose(found, expected * scale, atol=1e-5)


def test_joints_that_were_not_seen(tmp_path):
    """NaN: filled between the frames where a joint was seen; a body without any joint is absent."""
    folder = own(tmp_path / "mine", TABLE, 3)
    whole = np.arange(1, 10)[:, None, None] * np.ones((9, 6, 3))
    gaps = np.stack((whole, whole))
    gaps[0, 0, 2, 1] = gaps[0, 3:6, 2] = gaps[0, 8, 5] = np.nan
    gaps[1, 4] = np.nan
    gaps[1, 5] = 0
    np.save(folder / "a.npy", gaps)
    gaps[0, :, 4] = np.nan
    np.save(folder / "b.npy", gaps)
    out, _, faults = convert_to(tmp_path / "out", folder)
    assert [fault.reason for fault in faults] == ["joint 5 is NaN in every frame"]
    data, *_ = load(out / "own", "train")
    expected = np.stack((whole, whole)).transpose(1, 3, 2, 0)
    expected[0, :, 2, 0], expected[8, :, 5, 0], expected[4:6, ..., 1] = 2, 8, 0
    np.testing.assert_allclose(data, expected)


def test_one_odd_clip_is_the_fault_whichever_it_is(tmp_path):
    for name in "abc":
        folder = own(tmp_path / f"mine-{name}", TABLE, 3)
        np.save(folder / f"{name}.npy", np.ones((9, 6, 2)))
        _, _, faults = convert_to(tmp_path / f"out-{name}", folder)
        assert [Path(fault.file).stem for fault in faults] == [name]
        assert "6 joints with 2 coordinates each" in faults[0].reason


def test_tables_as_people_save_them(tmp_path):
    table = TABLE.replace("name,label", "Name, Label").replace("\nb", "\n\nb") + "\n"
    folder = own(tmp_path / "mine", table.replace("\n\n", "\n").rstrip() + "\n")
    (folder / "clips.csv").write_text(table, encoding="utf-8-sig")
    _, metas, _ = convert_to(tmp_path / "out", folder / "clips.csv")
    assert metas["own"]["clips"] == {"train": 2, "val": 1}


OWN_FAULTS = {
    "empty": ("", {}, "its first line is ''"),
    "no label": (TABLE.replace("jump", ""), {}, "clips.csv, line 2: a has no label"),
    "test only": (TABLE.replace("run,val", "ran,val"), {}, "no training clip has the label ran"),
    "unknown joint": (TABLE, {"layout": STICK | {"parents": [None, "hop", *["neck"] * 4]}},
                      "layout.json .*: hop is not among its joints"),
    "same joint": (TABLE, {"layout": STICK | {"joints": ["hip"] * 6}}, "the same name"),
    "no parts": (TABLE, {"layout": {"joints": ["hip"], "parents": [None]}}, "'parts' is missing"),
    "columns": ("name,class\na,jump\n", {}, "name,label,part"),
    "part": (TABLE.replace("val", "test set"), {}, "clips.csv, line 4: part is 'test set'"),
    "twice": (TABLE.replace("\nc,", "\na,"), {}, "line 4: a is listed twice"),
    "no layout": (TABLE, {"layout": None}, "6 joints; layout.json is missing"),
    "other layout": (TABLE, {"layout": STICK | {
        "joints": ["hip"], "parents": [None], "parts": {"trunk": ["hip"]}}}, "describes 1"),
    "loop": (TABLE, {"layout": STICK | {"parents": ["neck", *STICK["parents"][1:]]}}, "layout.json"),
    "4D": (TABLE, {"channels": 4}, "4 coordinates"),
}  # fmt: skip


@pytest.mark.parametrize("table, options, reason", OWN_FAULTS.values(), ids=OWN_FAULTS.keys())
def test_own_recordings_that_do_not_fit(table, options, reason, tmp_path):
    with pytest.raises(ValueError, match=reason):
        open_input([own(tmp_path / "mine", table, **options)])


def test_damaged_own_recordings_cost_themselves_only(tmp_path):
    lines = "".join(f"{name},x,train\n" for name in "abcdefghijklmn")
    folder = own(tmp_path / "mine", "name,label,part\n" + lines)
    np.save(folder / "a.npy", np.array([Malicious(tmp_path / "attacked")]), allow_pickle=True)
    (folder / "b.npy").unlink()
    (folder / "c.npy").write_bytes((folder / "c.npy").read_bytes()[:-8])
    np.save(folder / "d.npy", np.zeros((9, 6, 2)))
    np.save(folder / "e.npy", np.full((9, 6, 2), np.nan))
    np.save(folder / "f.npy", np.ones((9, 5, 2)))
    with open(folder / "g.npy", "wb") as file:  # claims 10^13 bytes
        header = {"descr": "<f4", "fortran_order": False, "shape": (10**12, 6, 2)}
        np.lib.format.write_array_header_1_0(file, header)
    np.savez(folder / "i.npz", np.ones(3))
    (folder / "i.npz").rename(folder / "i.npy")
    (folder / "j.npy").write_bytes(b"PK\x03\x04 cut")
    (folder / "k.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', ((((" + b" " * 200)
    (folder / "l.npy").write_bytes(b"")
    (folder / "m.npy").unlink()
    os.mkfifo(folder / "m.npy")
    with open(folder / "n.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, header | {"shape": (6_000_000, 6, 2)})
        file.truncate(6_000_000 * 48 + 128)
    _, metas, faults = convert_to(tmp_path / "out", folder)
    assert metas["own"]["clips"]["train"] == 1 and not (tmp_path / "attacked").exists()
    reasons = {Path(fault.file).stem: fault.reason for fault in faults}
    for name, reason in {
        "a": "no .npy file of numbers", "b": "no such file", "c": "cut short",
        "d": "no body in any frame", "e": "no body in any frame", "f": "5 joints with 2 coordinates",
        "g": "no .npy file of numbers", **dict.fromkeys("ijkl", "no .npy file of numbers"),
        "m": "no such file", "n": "larger than 256 MiB",
    }.items():  # fmt: skip
        assert reason in reasons[name], reasons


# --- Faults -----------------------------------------------------------------------------------------


def test_a_damaged_file_costs_itself_only(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / NAME).write_bytes(skeleton_text([[(1, standing())]] * 12)[:-200])
    (raw / NAME.replace("C002", "C003")).write_bytes(skeleton_text([[(1, standing())]] * 12))
    out, metas, _ = convert_to(tmp_path / "out", raw)
    assert metas["xview"]["clips"] == {"train": 1, "val": 0} and metas["xview"]["skipped"] == 1
    with open(out / "skipped.csv", newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert Path(row["file"]).name == NAME and row["where"] == "line 335" and "fields" in row["reason"]
    before = contents(out)
    with pytest.raises(InvalidClip, match=f"1 of 2 clips are damaged.*\n.*{NAME}: line 335"):
        convert_to(out, raw, strict=True)
    assert contents(out) == before


def test_other_things_in_the_folder(tmp_path):
    good = skeleton_text([[(1, standing())]] * 12)
    for name in (NAME, "walk.skeleton", NAME.replace("A010", "A061"), ".hidden.skeleton"):
        (tmp_path / name).write_bytes(good)
    (tmp_path / NAME.replace("P001", "P002")).mkdir()
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / NAME.replace("C002", "C001")).write_bytes(good)
    (tmp_path / "inside" / NAME).write_bytes(good)
    with open(tmp_path / NAME.replace("P001", "P004"), "wb") as file:
        file.truncate(readers.MAX_FILE_BYTES + 1)
    os.mkfifo(tmp_path / NAME.replace("P001", "P005"))  # reading it would wait for ever
    (tmp_path / NAME.replace("P001", "P006")).symlink_to("nowhere")
    _, metas, faults = convert_to(tmp_path / "out", tmp_path)
    assert metas["xview"]["clips"] == {"train": 1, "val": 1}
    reasons = {Path(fault.file).name: fault.reason for fault in faults}
    for name, reason in {
        "walk.skeleton": "the name is not of the form",
        NAME.replace("A010", "A061"): "action 61",
        NAME: "the same clip as",
        NAME.replace("P001", "P002"): "not a file",
        NAME.replace("P001", "P004"): "larger than 16 MiB",
        NAME.replace("P001", "P005"): "not a file",
        NAME.replace("P001", "P006"): "No such file",
    }.items():
        assert reason in reasons.pop(name), name
    assert not reasons
    (tmp_path / NAME).write_bytes(b"")  # the first of two is damaged: the second one counts
    _, metas, _ = convert_to(tmp_path / "out", tmp_path)
    assert metas["xview"]["clips"] == {"train": 1, "val": 1}


def test_nothing_to_convert(tmp_path):
    with pytest.raises(FileNotFoundError, match="--data_path"):
        open_input([tmp_path])
    with pytest.raises(FileNotFoundError, match="gone does not exist"):
        open_input([tmp_path / "gone"])
    (tmp_path / NAME).write_bytes(b"")
    with pytest.raises(InvalidClip, match=f"1 of 1 clips.*\n.*{NAME}: empty"):
        convert_to(tmp_path / "out", tmp_path)
    assert not contents(tmp_path / "out")


def test_damaged_archives(raw, tmp_path):
    write_zip(tmp_path / "zips", raw)
    path = tmp_path / "zips" / "0.zip"
    content = bytearray(path.read_bytes())
    content[2000] ^= 255  # inside the first member
    path.write_bytes(content)
    _, metas, faults = convert_to(tmp_path / "out", path)
    assert sum(metas["xsub"]["clips"].values()) == 17
    assert len(faults) == 1 and "damaged in the .zip file" in faults[0].reason
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"0\.zip is no complete \.zip file, download it again"):
        convert_to(tmp_path / "out", path)
    empty = tmp_path / "empty.zip"
    zipfile.ZipFile(empty, "w").close()
    with pytest.raises(FileNotFoundError, match=r"no \.skeleton files in .*empty\.zip"):
        open_input([empty])


def test_npz_of_something_else(data, tmp_path):
    write_npz(tmp_path / "good", data)
    path = tmp_path / "NTU60_CS.npz"
    good = dict(np.load(tmp_path / "good/NTU60_CS.npz"))
    attack = np.array([Malicious(tmp_path / "attacked")], object)
    for change, reason in (
        ({"x_train": good["x_train"][..., :60]}, "width 60"),
        ({"y_test": good["y_test"][:2]}, "12 clips"),
        ({"y_test": good["y_test"][:2]}, "is damaged, or does not hold"),
        ({"y_train": good["y_train"][:, :10]}, "10 classes; is it another --dataset"),
        ({"x_test": attack}, "no plain array"),
        ({"y_train": attack}, "no plain array"),
    ):
        np.savez(path, **good | change)
        with pytest.raises(ValueError, match=reason):
            open_input([path])
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match="is damaged, or does not hold x_train"):
        open_input([path])
    content = bytearray((tmp_path / "good/NTU60_CS.npz").read_bytes())
    content[500_000] ^= 255
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"is damaged in x_train"):
        convert_to(tmp_path / "out", path)
    assert not (tmp_path / "attacked").exists() and not contents(tmp_path / "out")


def test_annotations_that_do_not_fit(tmp_path):
    good = {"frame_dir": "a", "label": 0, "keypoint": np.ones((1, 4, 25, 3))}
    path = tmp_path / "x.pkl"

    def write(annotations, split=None):
        split = split or {"xsub_train": ["a"], "xsub_val": ["b"]}
        path.write_bytes(pickle.dumps({"split": split, "annotations": annotations}))
        return path

    damaged = [{"label": 1}, 7, good | {"keypoint": np.ones((4, 25, 3))}, good | {"label": 99},
               good | {"keypoint": np.full((1, 4, 25, 3), np.inf)}]  # fmt: skip
    _, metas, faults = convert_to(tmp_path / "out", write([good, *damaged]))
    assert metas["xsub"]["clips"] == {"train": 1, "val": 0} and len(faults) == len(damaged) + 1
    assert faults[-1].reason == "b is in a split and has no annotation"
    for annotations, split, reason in (
        ([], None, "not a dict of split and annotations"),
        ([good | {"keypoint": np.ones((1, 4, 17, 2))}], None, "17 joints, NTU RGB.D has 25"),
        ([good], {"x_val": ["a"], "x_test": ["b"]}, "x_val and x_test are both test parts"),
        ([good], {"fold": ["a"]}, "split fold is neither"),
    ):
        with pytest.raises(ValueError, match=reason):
            open_input([write(annotations, split)])


def test_what_is_read_is_not_replaced(data, tmp_path):
    with pytest.raises(ValueError, match="is what is read: give another --out_folder"):
        convert_to(data, data, padded=True)
    (tmp_path / "a.npz").touch()
    with pytest.raises(ValueError, match="converted alone"):
        open_input([tmp_path / "a.npz", tmp_path])


@pytest.mark.parametrize("protocol", range(6))
def test_malicious_pickles_are_refused(protocol, data, tmp_path):
    """Everywhere where a pickle is read: annotations, labels of arrays, labels of a Feeder."""
    attack = pickle.dumps({"split": {}, "annotations": [Malicious(tmp_path / "attacked")]}, protocol)
    (tmp_path / "x.pkl").write_bytes(attack)
    write_padded(tmp_path / "padded", data)
    labels = pickle.dumps((["a"], [Malicious(tmp_path / "attacked")]), protocol)
    label = tmp_path / "padded/xsub/train_label.pkl"
    label.write_bytes(labels)
    for read in (
        lambda: open_input([tmp_path / "x.pkl"]),
        lambda: open_input([tmp_path / "padded"]),
        lambda: Feeder(*split_files(tmp_path / "padded/xsub", "train")),
    ):
        with pytest.raises(ValueError, match=r"it holds a (posix|nt|os)\.mkdir object"):
            read()
    assert not (tmp_path / "attacked").exists()
    pickle.loads(labels)
    assert (tmp_path / "attacked").exists()  # the attack does work


DEEP = functools.reduce(lambda x, _: [x, x], range(99), 0)  # 2^99 numbers, written out


def reduced(name, *arguments):
    """An object whose pickle calls the function of this name."""
    return type("Reduced", (), {"__reduce__": lambda self: (name, arguments)})()


def filled_twice():
    """An array whose memory would be freed while it is in use."""
    array = pickle.dumps(np.arange(1000.0), 2)
    assert array.endswith(b"b.") and array[-4:-3] == b"q"  # its state is in the memo
    return array[:-1] + b"h" + array[-3:-2] + b"b."


HOSTILE = {
    "10^12 bytes": b"\x80\x04\x8e" + (10**12).to_bytes(8, "little") + b"x.",
    "10^9 bytes to be changed": b"\x80\x05\x96" + (10**9).to_bytes(8, "little") + b".",
    "much out of little": pickle.dumps(
        [reduced(_codecs.encode, text, "latin1") for text in ["x" * 10000] * 100], 2
    ),
    "shape of 10^12": pickle.dumps(np.zeros(1)).replace(b"K\x01\x85", b"\x8a\x06\0\0\0\0\0\1\x85", 2),
    "objects": pickle.dumps(np.array([1, "a", None], object)),
    "structure": pickle.dumps(np.zeros(2, "f8,i4")),
    "filled twice": filled_twice(),
    "view of an array": pickle.dumps(
        reduced(np.ones(1).__reduce_ex__(5)[0], np.zeros(9, "u1"), np.dtype("u1"), (9,), "C"), 4
    ),
    "type of types": pickle.dumps(
        reduced(np.dtype, functools.reduce(lambda x, _: [x, x], range(99), 0))
    ),
    "extension": b"\x80\x02\x82\x01.",
    "endless": b"\x80\x02" + b"]" * 10,
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_pickles_are_refused(content, tmp_path):
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.pkl is no pickle of plain values"):
        safe_pickle.read_pickle(tmp_path / "x.pkl")


def test_names_in_a_pickle_are_text(tmp_path):
    """str() of lists of lists of lists ... would fill the memory."""
    (tmp_path / "x_label.pkl").write_bytes(pickle.dumps(([DEEP], [0])))
    with pytest.raises(ValueError, match="needs one name and one label"):
        read_labels(tmp_path / "x_label.pkl")
    annotation = {"frame_dir": DEEP, "label": 0, "keypoint": np.ones((1, 4, 25, 3))}
    split = {"xsub_train": ["a"], "xsub_val": []}
    content = {"split": split, "annotations": [annotation, annotation | {"frame_dir": "a"}]}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content))
    _, _, faults = convert_to(tmp_path / "out", tmp_path / "x.pkl")
    assert len(faults) == 1


def test_a_pickle_cannot_reserve_memory(tmp_path):
    """Python's faster reader makes room for 2^32 entries at the word of these nine bytes."""
    (tmp_path / "x.pkl").write_bytes(b"\x80\x02]r\xff\xff\xff\x7f.")
    assert safe_pickle.read_pickle(tmp_path / "x.pkl") == []


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_and_arrays_are_read(protocol, tmp_path):
    value = {
        "a": [1, 2.5, "é", b"\xff", None, True, (1, 2)],
        "big": np.arange(6, dtype=">i2").reshape(2, 3),
        "columns": np.asfortranarray(np.random.default_rng(0).normal(size=(3, 4))),
        "half": np.ones((2, 2), np.float16), "none": np.zeros((0, 3)), "zero": np.array(5.0),
        "text": np.array(["left", "rechts"]), "scalar": np.float32(1.5), "bytes": b"",
    }  # fmt: skip
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(value, protocol))
    found = safe_pickle.read_pickle(tmp_path / "x.pkl")
    assert list(found) == list(value) and found["a"] == value["a"] and found["bytes"] == b""
    for key in ("big", "columns", "half", "none", "zero", "text", "scalar"):
        np.testing.assert_array_equal(found[key], value[key])
        assert found[key].dtype.newbyteorder("=") == value[key].dtype.newbyteorder("=")


def test_archives_that_lie(tmp_path):
    """A member that claims few bytes and unpacks to many; one compressed in a way that cannot be
    unpacked piece by piece; a .mat file that unpacks to much."""
    path = tmp_path / "x.zip"
    good = skeleton_text([[(1, standing())]])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("S001C001P001R001A001.skeleton", good)
        archive.writestr("S001C001P001R001A002.skeleton", bytes(100 << 20))
        archive.writestr("S001C001P001R001A003.skeleton", good, zipfile.ZIP_LZMA)
        archive.writestr("S001C001P001R001A004.skeleton", b" " * (20 << 20))
    content = bytearray(path.read_bytes())
    for signature, at in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):  # where the sizes stand
        start = content.index(b"A002.skeleton", content.index(signature)) - 200
        start = content.index(signature, max(0, start))
        while b"A002" not in content[start : start + 80]:
            start = content.index(signature, start + 1)
        content[start + at : start + at + 4] = (1000).to_bytes(4, "little")
    path.write_bytes(content)
    tracemalloc.start()
    _, metas, faults = convert_to(tmp_path / "out", path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert metas["xsub"]["clips"] == {"train": 1, "val": 0} and peak < 80 << 20
    reasons = {Path(fault.file).stem[-1]: fault.reason for fault in faults}
    assert "damaged in the .zip file" in reasons["2"] and "compressed" in reasons["3"]
    assert "larger than 16 MiB" in reasons["4"]
    file = io.BytesIO()
    scipy.io.savemat(file, {"d_skel": np.zeros((20, 3, 300_000))}, do_compression=True)
    with pytest.raises(InvalidClip, match="it is of shape"):
        kinect_v1.parse_utd_mhad(file.getvalue(), "follow")


def test_limits(tmp_path, monkeypatch, data):
    write_npz(tmp_path / "npz", data)
    monkeypatch.setattr(readers, "MAX_CLIPS", 10)
    with pytest.raises(ValueError, match="claims"):
        open_input([tmp_path / "npz/NTU60_CS.npz"])
    monkeypatch.setattr(readers, "MAX_CLIPS", 100)
    monkeypatch.setattr(readers, "MAX_CLIP_BYTES", 1000)
    with pytest.raises(ValueError, match="no plain array"):
        open_input([tmp_path / "npz/NTU60_CS.npz"])


def test_names_of_benchmarks_stay_below_the_folder(tmp_path):
    annotation = {"frame_dir": "a", "label": 0, "keypoint": np.ones((1, 4, 25, 3))}
    for name in ("../up", str(tmp_path / "evil"), "..", "a/b", ".hidden"):
        content = {"split": {f"{name}_train": ["a"]}, "annotations": [annotation]}
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(content))
        with pytest.raises(ValueError, match="cannot be the name of a folder"):
            convert_to(tmp_path / "out", tmp_path / "x.pkl")
    assert [path.name for path in tmp_path.iterdir()] == ["x.pkl"]


def test_nothing_replaces_something_only_by_something(data, tmp_path):
    annotation = {"frame_dir": "a", "label": 0, "keypoint": np.ones((1, 4, 25, 3))}
    for split, reason in (
        ({"xsub_train": ["b"], "xsub_val": []}, "1 left out, none remains for xsub"),
        ({}, "1 left out"),
    ):
        (tmp_path / "x.pkl").write_bytes(pickle.dumps({"split": split, "annotations": [annotation]}))
        with pytest.raises(InvalidClip, match=reason):
            convert_to(tmp_path / "out", tmp_path / "x.pkl")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/S018C001P001R001A061.skeleton").touch()
    with pytest.raises(ValueError, match=r"all 1 .* left out.* another --dataset"):
        open_input([tmp_path / "raw"])


def test_ambiguous_input(raw, data, tmp_path):
    write_own(tmp_path / "own", data)
    write_padded(tmp_path / "a", data)
    write_padded(tmp_path / "b", data)
    with pytest.raises(ValueError, match="own is converted alone"):
        open_input([raw, tmp_path / "own"])
    with pytest.raises(ValueError, match="are both xsub train: convert one alone"):
        open_input([tmp_path / "a", tmp_path / "b"])
    for path in (tmp_path / "a/xsub").glob("val*"):
        path.with_name(path.name.replace("val", "test")).write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match="are both xsub val"):
        open_input([tmp_path / "a"])
    (tmp_path / "link").symlink_to(tmp_path / "b")
    with pytest.raises(ValueError, match="is what is read"):
        convert_to(tmp_path / "link", tmp_path / "b/../b")
    os.mkfifo(tmp_path / "x.zip")  # reading it would wait for ever
    with pytest.raises(ValueError, match="both"):
        open_input([tmp_path / "x.zip", tmp_path / "a"])


def test_damaged_meta(data, tmp_path):
    shutil.copytree(data / "xsub", tmp_path / "xsub")
    path = tmp_path / "xsub/meta.json"
    good = json.loads(path.read_text())
    for bad in ([], good | {"classes": 3}, good | {"classes": [1]}, good | {"camera": {"train": [1]}},
                good | {"subject": {"train": [1], "val": []}}):  # fmt: skip
        path.write_text(json.dumps(bad))
        with pytest.raises(ValueError, match=r"meta\.json is damaged"):
            open_input([tmp_path])


def test_rows_of_a_table(tmp_path):
    own(tmp_path / "mine", "name,label,part,subject\n\na,jump,train,1\n\nb,run,west,Ann\n")
    with pytest.raises(ValueError, match=r"clips.csv, line 5: part is 'west'"):
        open_input([tmp_path / "mine"])
    assert custom._numbered(["1", "", "Ann"]) == [1, 0, 2]
    assert custom._numbered(["7", None, "3"]) == [7, 0, 3]


def test_absence_is_no_movement():
    """A still ghost in every second frame and two people who move a little."""
    rng = np.random.default_rng(0)
    data = np.tile(rng.normal(size=(1, 3, 25, 3)), (40, 1, 1, 1))
    data[:, :, :, 1:] += rng.normal(0, 0.05, (40, 3, 25, 2))
    data[::2, :, :, 0] = 0
    kept = clip_stream.clean_clip(data)
    people = data[..., 1:].astype(np.float32)
    assert np.array_equal(kept, people) or np.array_equal(kept, people[..., ::-1])


# --- Many processes ---------------------------------------------------------------------------------


def test_processes_do_not_change_the_result(raw, data, tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "CHUNK", 4)
    out, _, _ = convert_to(tmp_path / "out", raw, jobs=3)
    assert contents(out) == contents(data)
    write_zip(tmp_path / "zips", raw)
    out, _, _ = convert_to(tmp_path / "out2", tmp_path / "zips", jobs=2)
    assert contents(out) == contents(data)


def test_few_results_are_waiting(tmp_path):
    """The reader must not run ahead of the writer, or memory would fill."""
    log = tmp_path / "log"
    results = in_parallel(_note, [(log, i) for i in range(1000)], 2, chunk=10)
    assert [next(results) for _ in range(100)] == list(range(100))
    results.close()
    assert len(log.read_text().split()) < 400


def _note(item):
    path, i = item
    with open(path, "a") as file:
        file.write(f"{i}\n")
    return i


@pytest.fixture
def many(raw, tmp_path):
    """A folder of 1,080 raw files, enough for several processes."""
    (tmp_path / "raw").mkdir()
    for i, path in enumerate(sorted(raw.iterdir()) * 30):
        os.link(path, tmp_path / "raw" / f"S001C001P{i // 60 + 1:03}R001A{i % 60 + 1:03}.skeleton")
    return tmp_path / "raw"


def command(folder, out):
    return [sys.executable, ROOT / "convert_data.py", "--data_path", folder, "--out_folder", out,
            "--jobs", "2"]  # fmt: skip


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("deadly", ["parent", "worker", "Ctrl-C"])
def test_no_process_stays_behind(deadly, many, tmp_path):
    child = subprocess.Popen(
        command(many, tmp_path / "out"), stderr=subprocess.PIPE, text=True, start_new_session=True,
        # (a background job ignores Ctrl-C, and what it starts does too)
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    children = Path(f"/proc/{child.pid}/task/{child.pid}/children")
    while len(workers := children.read_text().split()) < 2:
        time.sleep(0.005)
    time.sleep(0.03)
    if deadly == "Ctrl-C":
        os.killpg(child.pid, signal.SIGINT)
    else:
        os.kill(child.pid if deadly == "parent" else int(workers[0]), signal.SIGKILL)
    message = child.communicate(timeout=30)[1]
    expected = {"parent": "", "worker": "a process was killed", "Ctrl-C": "stopped; earlier data"}
    assert expected[deadly] in message and "Traceback" not in message
    deadline = time.time() + 10
    while any(Path(f"/proc/{pid}/cmdline").exists() for pid in workers):
        assert time.time() < deadline
        time.sleep(0.05)


# --- Interruptions ----------------------------------------------------------------------------------


@pytest.fixture
def two_versions(raw, tmp_path):
    """A folder `out` with a conversion of some clips, and raw files of others in `new`."""
    files = sorted(raw.iterdir())
    for name, chosen in (("earlier", files[:3]), ("new", files[3:6])):
        (tmp_path / name).mkdir()
        for path in chosen:
            (tmp_path / name / path.name).symlink_to(path)
    convert_to(tmp_path / "out", tmp_path / "earlier")
    (tmp_path / "out" / "xsub" / "notes.txt").write_text("mine")
    return tmp_path


def test_killed_at_twenty_random_moments(raw, many, tmp_path):
    """The command with its worker processes. Each benchmark is the earlier one or the new one, to the
    last byte, and the next run succeeds and leaves nothing of the killed one behind."""
    out, earlier = tmp_path / "out", tmp_path / "earlier"
    convert_to(earlier, raw)
    began = time.perf_counter()
    subprocess.run(command(many, tmp_path / "new"), check=True, capture_output=True)
    seconds = time.perf_counter() - began
    versions = [contents(earlier), contents(tmp_path / "new")]
    rng = np.random.default_rng(0)
    untouched = 0
    for _ in range(20):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(earlier, out)
        child = subprocess.Popen(command(many, out), stdout=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.3, 1) * seconds)
        child.kill()
        child.wait()
        found = {path: content for path, content in contents(out).items() if path.parts[0][0] != "."}
        assert len(found) == len(versions[0])
        for benchmark in ("xsub", "xview"):
            one = {path: content for path, content in found.items() if path.parts[0] == benchmark}
            assert any(one.items() <= version.items() for version in versions)
        untouched += found == versions[0]
        subprocess.run(command(many, out), check=True, capture_output=True)
        assert contents(out) == versions[1]
    assert untouched >= 5  # most were killed at work


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("at_once", [True, False])
def test_killed_at_any_step(at_once, two_versions, monkeypatch):
    """The process dies at its 1st, 2nd, ... operation on a file. Each benchmark is then the whole
    earlier one or the whole new one, the user's own file is there, and a second run succeeds. Where
    the system cannot exchange two folders at once, there is a moment between two renamings when the
    earlier one is beside its place, and whoever looks for it is told."""
    here = two_versions
    if not at_once:
        monkeypatch.setattr("skeletons.storage.swap_directories", lambda *_: False)
    elif not storage.swap_directories(here / "earlier", here / "new"):
        pytest.skip("this system or disk cannot exchange two folders at once")
    else:
        storage.swap_directories(here / "earlier", here / "new")
    versions = []
    for name in ("earlier", "new"):
        convert_to(here / name / "out", here / name)
        versions.append(contents(here / name / "out"))
    parts = [
        {path: versions[v][path] for path in versions[v] if path.parts[0] == "xsub"} for v in (0, 1)
    ]
    outcomes, step, between = set(), 0, 0
    (here / "out").rename(here / "before")
    while True:
        step += 1
        shutil.rmtree(here / "out", ignore_errors=True)
        shutil.copytree(here / "before", here / "out")
        child = os.fork()
        if child == 0:
            left = [step]

            def count(event, _, left=left):
                if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.listdir",
                             "ctypes.dlsym"):  # fmt: skip
                    left[0] -= 1
                    if not left[0]:
                        os._exit(9)

            sys.addaudithook(count)
            convert_to(here / "out", here / "new")
            os._exit(0)
        done = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert done in (0, 9)
        place = here / "out/xsub"
        if not place.exists():  # it died between two renamings; the message says so
            with pytest.raises(
                FileNotFoundError, match=r"give the earlier data its name back.*replaced"
            ):
                read_labels(place / "train_label.pkl")
            place = here / "out/.xsub.replaced"
            between += 1
        names = read_labels(place / "train_label.pkl")
        found = contents(place)
        notes = list((here / "out").rglob("notes.txt"))
        assert len(notes) == 1 and notes[0].read_text() == "mine"
        found.pop(Path("notes.txt"), None)
        version = parts.index({Path("xsub") / path: content for path, content in found.items()})
        assert names == pickle.loads(versions[version][Path("xsub/train_label.pkl")])
        outcomes.add(version)
        if done == 0:
            break
        if version == 1 or (here / "out/.xsub.replaced").exists() or step % 7 == 0:
            convert_to(here / "out", here / "new")
            assert not list((here / "out").glob(".*"))
            assert (here / "out/xsub/notes.txt").read_text() == "mine"
    assert outcomes == {0, 1} and step > 30 and bool(between) == (not at_once)


def test_what_is_not_ours_stays(two_versions):
    """Folders that look like backups, and a benchmark's folder that is a link to another disk."""
    here = two_versions
    for name in ("xsub.old", "xsub.partial", "xsub.replaced"):
        (here / "out" / name).mkdir()
        (here / "out" / name / "train_data.npy").write_text("mine")
    (here / "disk").mkdir()
    (here / "out/xview").rename(here / "disk/xview")
    (here / "out/xview").symlink_to(here / "disk/xview")
    for _ in range(2):
        convert_to(here / "out", here / "new")
    assert (here / "out/xview").is_symlink()
    assert sum(read_meta(here / "disk/xview")["clips"].values()) == 3
    assert not list((here / "disk").glob(".*"))
    for name in ("xsub.old", "xsub.partial", "xsub.replaced"):
        assert (here / "out" / name / "train_data.npy").read_text() == "mine"


@pytest.mark.skipif(not storage.fcntl, reason="needs file locks")
def test_two_conversions_into_one_folder(two_versions):
    out = two_versions / "out"
    child = os.fork()
    if child == 0:
        parallel.in_parallel = lambda *_: time.sleep(60)  # a slow one
        with contextlib.suppress(BaseException):
            convert_to(out, two_versions / "earlier")
        os._exit(0)
    while not (out / ".xview.partial/val_data.npy").exists():
        time.sleep(0.01)
    before = contents(out)
    with pytest.raises(ValueError, match=r"another conversion is writing .*xsub: wait for it"):
        convert_to(out, two_versions / "new")
    assert contents(out) == before
    os.kill(child, 9)
    os.waitpid(child, 0)
    convert_to(out, two_versions / "new")
    assert not list(out.glob(".*"))


def test_a_benchmark_that_cannot_be_put_in_its_place(two_versions, monkeypatch):
    """As on Windows, while a training reads it."""
    out = two_versions / "out"
    before = contents(out / "xview")
    rename = Path.rename

    def fails(path, target):
        if path.name == "xview":
            raise PermissionError(13, "in use")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fails)
    monkeypatch.setattr("skeletons.storage.swap_directories", lambda *_: False)
    with pytest.raises(OSError, match=r"xview cannot be replaced, is it in use\?"):
        convert_to(out, two_versions / "new")
    assert contents(out / "xview") == before and not list(out.glob(".x*"))


def test_an_error_leaves_the_earlier_data(two_versions, monkeypatch):
    out = two_versions / "out"
    before = contents(out)

    def full(*_):
        raise OSError(28, "No space left on device")

    for place in ((storage.SplitWriter, "add"), (storage.SplitWriter, "finish")):
        with monkeypatch.context() as patch:
            patch.setattr(*place, full)
            with pytest.raises(OSError, match="No space"):
                convert_to(out, two_versions / "new")
        assert contents(out) == before
    convert_to(out, two_versions / "new")
    assert contents(out) != before


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_a_full_disk_gives_a_clear_error(two_versions, raw):
    out = two_versions / "out"
    before = contents(out)
    code = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000));"
        f"sys.argv[0] = 'convert_data.py'; sys.path.insert(0, {str(ROOT)!r});"
        f"runpy.run_path({str(ROOT / 'convert_data.py')!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--data_path", raw, "--out_folder", out],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1 and contents(out) == before  # nothing that fills the disk stays
    assert done.stderr.startswith(f"convert_data.py: no room for {out} (File too large); earlier data")


# --- The official splits ----------------------------------------------------------------------------


def test_the_official_splits_of_ntu(tmp_path):
    """All 56,880 names of NTU RGB+D as one-frame clips: the missing ones are left out, the rest
    splits as published."""
    raw = tmp_path / "raw"
    raw.mkdir()
    content = skeleton_text([[(1, standing())]])
    names = ntu_names()
    assert len(names) == 56880
    for name in names:
        (raw / f"{name}.skeleton").write_bytes(content)
    ignored = frozenset(convert_data.MISSING_LIST.read_text().split())
    _, metas, _ = convert_to(tmp_path / "out", raw, ignored=ignored, jobs=2)
    assert metas["xsub"]["excluded"] == 302
    assert metas["xsub"]["clips"] == {"train": 40091, "val": 16487}
    assert metas["xview"]["clips"] == {"train": 37646, "val": 18932}


# Which subjects were recorded in which setup (S001 to S017), and how often (replications).
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


def ntu_names():
    return [
        f"S{setup:03}C{camera:03}P{subject:03}R{replication:03}A{action:03}"
        for setup, subjects in RECORDED.items()
        for subject in subjects
        for camera in (1, 2, 3)
        for replication in (1, 2)
        for action in range(1, 61)
    ]


def test_a_label_file_holds_plain_values(data):
    names, labels = pickle.loads((data / "xsub" / "train_label.pkl").read_bytes())
    assert type(names) is list and type(labels[0]) is int
