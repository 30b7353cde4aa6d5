"""Data of other projects that is corrupt, hostile or of something else: arrays, .npz files, pickles."""

import json
import pickle
import shutil

import numpy as np
import pytest
from helpers import (
    Malicious,
    contents,
    convert_to,
    load,
    recording,
    write_annotations,
    write_npz,
    write_padded,
)

from skeletons import other_projects
from skeletons.clip import Clip, InvalidClip
from skeletons.clip_stream import Failure
from skeletons.datasets import DATASETS
from skeletons.layout import COCO17
from skeletons.other_projects import identify
from skeletons.readers import open_input, read_clips

# --- Arrays -------------------------------------------------------------------------------------------


def test_corrupt_meta(data, tmp_path):
    shutil.copytree(data / "xsub", tmp_path / "xsub")
    path = tmp_path / "xsub/meta.json"
    good = json.loads(path.read_text())
    for bad in ([], good | {"classes": 3}, good | {"classes": [1]}, good | {"camera": {"train": [1]}},
                good | {"classes": "abc"}, good | {"subject": {"train": [1], "val": []}}):  # fmt: skip
        path.write_text(json.dumps(bad))
        with pytest.raises(
            ValueError, match=r"meta\.json is corrupt: (?!\w+Error).*\nmake the data again"
        ):
            open_input([tmp_path])


def test_arrays_of_either_byte_order(data, tmp_path):
    write_padded(tmp_path / "padded", data)
    for path in (tmp_path / "padded/xsub").glob("*.npy"):
        array = np.load(path)
        np.save(path, array.astype(array.dtype.newbyteorder(">")))
    out, _, failures = convert_to(tmp_path / "out", tmp_path / "padded")
    assert not failures
    for split in ("train", "val"):
        for found, expected in zip(load(out / "xsub", split), load(data / "xsub", split), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_float_numbers_of_frames(data, tmp_path):
    """Whole ones are as good as integers; others are an error with a remedy."""
    write_padded(tmp_path / "padded", data)
    path = tmp_path / "padded/xsub/train_num_frame.npy"
    counts = np.load(path)
    np.save(path, counts.astype(float))
    out, _, _ = convert_to(tmp_path / "out", tmp_path / "padded")
    np.testing.assert_array_equal(load(out / "xsub", "train")[3], counts)
    for bad in (counts + 0.5, counts * np.nan, counts * np.inf, counts[:, None], -1e300 * counts):
        np.save(path, bad)
        with pytest.raises(ValueError, match=r"train_num_frame.npy is not a list of whole .*\nmake"):
            open_input([tmp_path / "padded"])


def test_missing_labels(data, tmp_path):
    write_padded(tmp_path / "padded", data)
    (tmp_path / "padded/xsub/val_label.pkl").unlink()
    with pytest.raises(FileNotFoundError, match=r"val_label\.pkl is missing\nit gives the names"):
        open_input([tmp_path / "padded"])


def rename_clips(folder, split, names):
    path = folder / f"{split}_label.pkl"
    labels = pickle.loads(path.read_bytes())[1]
    path.write_bytes(pickle.dumps((names, labels)))


def test_a_clip_of_arrays_is_in_one_split(data, tmp_path):
    write_padded(tmp_path, data)
    folder = tmp_path / "xsub"
    train, val = (load(folder, split)[1] for split in ("train", "val"))
    rename_clips(folder, "val", [train[2].removesuffix(".skeleton"), *val[1:]])
    name = train[2].removesuffix(".skeleton")
    with pytest.raises(
        ValueError, match=f"_data.npy have clips in common .1.: {name}\nremove them from"
    ):
        open_input([tmp_path])


def test_a_duplicate_in_arrays_is_a_failure(data, tmp_path):
    """In one benchmark; the same clip in another benchmark is none."""
    shutil.copytree(data, tmp_path / "in")
    names = load(data / "xsub", "train")[1]
    rename_clips(tmp_path / "in/xsub", "train", [names[0], names[0], *names[2:]])
    out, _, (failure,) = convert_to(tmp_path / "out", tmp_path / "in")
    assert f"xsub/train_data.npy, clip 1 ({names[0]})" in failure.file
    assert failure.reason.endswith(f"xsub/train_data.npy, clip 0 ({names[0]})")
    assert failure.reason.startswith("other data than the clip of the same name, ")
    assert load(out / "xsub", "train")[1] == [names[0], *names[2:]]
    assert load(out / "xview", "train")[1] == load(data / "xview", "train")[1]


@pytest.mark.parametrize("change, what", [
    ({"dataset": "another"}, "data set"),
    ({"classes": ["a", "b"]}, "classes"),
    (None, "classes"),  # without a meta.json, it is of --dataset
])  # fmt: skip
def test_arrays_of_two_data_sets(change, what, data, tmp_path):
    shutil.copytree(data, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "xview/meta.json"
    meta = json.loads(path.read_text())
    if change:
        path.write_text(json.dumps(meta | change))
    else:
        other = tmp_path / "xsub/meta.json"
        other.write_text(json.dumps(meta | {"classes": meta["classes"][::-1]}))
        path.unlink()
    with pytest.raises(ValueError, match=f"xsub and .*xview are not of the same {what}\nconvert them"):
        open_input([tmp_path])


def test_arrays_with_another_layout(data, tmp_path):
    shutil.copytree(data, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "xview/meta.json"
    meta = json.loads(path.read_text())
    meta["layout"]["name"] = "another"
    path.write_text(json.dumps(meta))
    with pytest.raises(ValueError, match="are not of the same layout\n"):
        open_input([tmp_path])


def test_arrays_that_are_links_belong_to_their_own_folder(data, tmp_path):
    (tmp_path / "mine").mkdir()
    for path in (data / "xsub").iterdir():
        (tmp_path / "mine" / path.name).symlink_to(path)
    stream = open_input([tmp_path / "mine"])
    assert stream.benchmarks == ["mine"]
    assert {(tmp_path / "mine").resolve(), (data / "xsub").resolve()} == set(stream.folders)
    assert stream.total == len(list(stream.clips)) == 36


def test_arrays_of_somebody_s_own_classes(data, tmp_path):
    write_padded(tmp_path / "mine", data)
    for split in ("train", "val"):
        names = load(tmp_path / "mine/xsub", split)[1]
        labels = [i % 3 for i, _ in enumerate(names)]
        content = ([f"{split}{i}" for i, _ in enumerate(names)], labels)
        (tmp_path / f"mine/xsub/{split}_label.pkl").write_bytes(pickle.dumps(content))
    stream = open_input([tmp_path / "mine"])
    assert (stream.title, stream.classes) == ("xsub", ["0", "1", "2"])
    assert stream.out_folder == "xsub-converted" and "does not name its classes" in stream.notes[0]
    assert len([clip for clip in stream.clips if isinstance(clip, Clip)]) == 36
    assert open_input([tmp_path / "mine"], "ntu").classes[0] == "drink water"


@pytest.mark.parametrize("change, fault", [
    (lambda name, n: (name, n + 1), r"S0.* is 1, its name says 0 .36 of 36 .*\ncorrect the labels"),
    (lambda name, n: (name.replace("S002", "S018"), n), r"S018.* is not .*\ngive --dataset ntu120"),
    (lambda name, n: (name.replace("C002", "x"), n), r"of NTU RGB.D .S0.*C.* and others .S0.*x"),
])  # fmt: skip
def test_names_that_contradict_the_reading(change, fault, data, tmp_path):
    """Of arrays and of annotations: other labels, clips of another data set, clips of two kinds."""
    write_padded(tmp_path / "padded", data)
    write_annotations(tmp_path / "pkl", data, 4)
    for split in ("train", "val"):
        path = tmp_path / f"padded/xsub/{split}_label.pkl"
        names, labels = pickle.loads(path.read_bytes())
        path.write_bytes(pickle.dumps(tuple(zip(*map(change, names, labels), strict=True))))
    with pytest.raises(ValueError, match=fault):
        open_input([tmp_path / "padded"])
    path = tmp_path / "pkl/ntu60_3danno.pkl"
    content = pickle.loads(path.read_bytes())
    for annotation in content["annotations"]:
        name, label = change(annotation["frame_dir"], annotation["label"])
        annotation |= {"frame_dir": name, "label": label}
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=fault):
        open_input([path])


def test_clips_that_are_in_no_data_set(tmp_path):
    """There is no other --dataset to propose."""
    with pytest.raises(
        ValueError, match=r"s01s01_01_001 is not a clip of SBU.*\nremove it, or rename it"
    ):
        identify(tmp_path / "a.pkl", DATASETS["sbu"], ["s01s01_01_001"], [0])


@pytest.mark.parametrize("layout", ["", '{"name": "kinect-v2"}', '{"name": "openpose25"}'])
@pytest.mark.parametrize("axes", ["NTVCM", "NMTVC", "NTMVC", "NVCTM"])
def test_arrays_with_other_axes_are_refused(axes, layout, data, tmp_path):
    """Also if they could be 2D bodies, of which three are in (N, 2, T, 25, 3)."""
    write_padded(tmp_path, data)
    path = tmp_path / "xsub/train_data.npy"
    np.save(path, np.load(path)[:, :, :20].transpose(["NCTVM".index(axis) for axis in axes]))
    (tmp_path / "xsub/train_num_frame.npy").unlink()
    if layout:
        (path.parent / "layout.json").write_text(layout)
    with pytest.raises(
        ValueError, match=r"train_data.npy is .* which are the axes .*\ntranspose it to .N, C"
    ):
        open_input([tmp_path])


def test_frames_with_other_axes_are_refused(data, tmp_path):
    """(frames, M, V, C) can be 2D bodies, too."""
    shutil.copytree(data / "xsub", tmp_path / "xsub")
    (tmp_path / "xsub/meta.json").unlink()
    assert len(list(open_input([tmp_path]).clips)) == 36
    path = tmp_path / "xsub/train_data.npy"
    np.save(path, np.load(path).transpose(0, 3, 2, 1))
    (tmp_path / "xsub/layout.json").write_text('{"name": "openpose25"}')
    with pytest.raises(ValueError, match=r"axes T, M, V, C.*\ntranspose it to .T, C, V, M"):
        open_input([tmp_path])


def test_pixels_and_scores_are_no_kinect(data, tmp_path):
    """25 joints of OpenPose, x, y, score, in arrays and in annotations."""
    rng = np.random.default_rng(0)
    write_padded(tmp_path / "padded", data)
    write_annotations(tmp_path / "pkl", data, 4)
    for split in ("train", "val"):
        path = tmp_path / f"padded/xsub/{split}_data.npy"
        array = np.load(path) * 300 + 500
        array[:, 2] = rng.uniform(0, 1, array[:, 2].shape)
        np.save(path, array)
    path = tmp_path / "pkl/ntu60_3danno.pkl"
    content = pickle.loads(path.read_bytes())
    for annotation in content["annotations"]:
        annotation["keypoint"] = annotation["keypoint"] * 300 + 500
        annotation["keypoint"][..., 2] = rng.uniform(0, 1, annotation["keypoint"].shape[:3])
    path.write_bytes(pickle.dumps(content))
    for source in (tmp_path / "padded", path):
        with pytest.raises(ValueError, match=r"is not of kinect-v2\n.*scores, not z"):
            open_input([source])


# --- .npz ---------------------------------------------------------------------------------------------


def test_npz_of_something_else(data, tmp_path):
    write_npz(tmp_path / "good", data)
    path = tmp_path / "NTU60_CS.npz"
    good = dict(np.load(tmp_path / "good/NTU60_CS.npz"))
    attack = np.array([Malicious(tmp_path / "attacked")], object)
    for change, reason in (
        ({"x_train": good["x_train"][..., :60]}, "60 numbers, which are not bodies of 25 joints in 3D"),
        ({"y_test": good["y_test"][:2]}, r"x_test is \(12, 300, 150\), .*\nit needs x_train"),
        ({"x_test": good["x_test"][..., None]}, r"x_test is \(12, 300, 150, 1\), y_test is"),
        ({"y_train": good["y_train"][:, :10]}, "classes of the training clips are not"),
        ({"x_val": good["x_test"]}, "x_test and x_val are both test splits"),
        ({f"y_{x}": np.full(len(good[f"y_{x}"]), 60) for x in ("train", "test")},
         r"labels of 61 classes; NTU RGB\+D has 60\ngive another --dataset"),
        ({"x_test": attack}, "not a plain array"),
        ({"y_train": attack}, "not a plain array"),
    ):  # fmt: skip
        np.savez(path, **good | change)
        with pytest.raises(ValueError, match=reason):
            open_input([path])
    np.savez(path, data=good["x_train"])
    with pytest.raises(ValueError, match="it has data, but no x_train, y_train, x_test, y_test\nit"):
        open_input([path])
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"is corrupt: .*\ndownload it, or save it, again"):
        open_input([path])
    content = bytearray((tmp_path / "good/NTU60_CS.npz").read_bytes())
    content[500_000] ^= 255
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"is corrupt in x_train, row .*\ndownload it again"):
        convert_to(tmp_path / "out", path)
    assert not (tmp_path / "attacked").exists() and not contents(tmp_path / "out")


def test_npz_labels_that_are_not_one_class(data, tmp_path):
    write_npz(tmp_path / "good", data)
    good = dict(np.load(tmp_path / "good/NTU60_CS.npz"))
    one_hot, numbers = good["y_test"].copy(), good["y_test"].argmax(1).astype(float)
    one_hot[0] = numbers[0] = 0
    one_hot[0, :2], numbers[0] = 0.5, 3.7
    for labels in (one_hot, numbers):
        np.savez(tmp_path / "NTU60_CS.npz", **good | {"y_test": labels})
        (*clips,) = open_input([tmp_path / "NTU60_CS.npz"]).clips
        (failure,) = (clip for clip in clips if isinstance(clip, Failure))
        assert failure.file.endswith("x_test 0") and "its label is not one of" in failure.reason
        assert clips[-1].label == numbers[-1]


@pytest.mark.parametrize("labels", ["one-hot", "numbers", "column", "floats"])
@pytest.mark.parametrize("test", ["test", "val"])
def test_npz_of_somebody_s_own_classes(labels, test, data, tmp_path):
    """Their names are their numbers, whatever NTU calls its first classes."""
    write_npz(tmp_path / "ntu", data)
    good = dict(np.load(tmp_path / "ntu/NTU60_CS.npz"))
    arrays = {}
    for suffix, name in (("train", "train"), ("test", test)):
        y = np.arange(len(good[f"x_{suffix}"])) % 3
        forms = {"one-hot": np.eye(3)[y], "numbers": y, "column": y[:, None], "floats": y.astype(float)}
        arrays |= {f"x_{name}": good[f"x_{suffix}"], f"y_{name}": forms[labels]}
    path = tmp_path / "my gestures.npz"
    np.savez(path, **arrays)
    stream = open_input([path])
    assert (stream.title, stream.classes, stream.benchmarks) == (
        "my gestures",
        ["0", "1", "2"],
        ["my_gestures"],
    )
    assert (
        stream.out_folder == "my gestures-converted" and "does not name its classes" in stream.notes[0]
    )
    assert [clip.label for clip in stream.clips] == [i % 3 for n in (24, 12) for i in range(n)]
    path = path.rename(tmp_path / "NTU60_CS.npz")
    if labels == "one-hot":
        with pytest.raises(
            ValueError, match=r"has labels of 3 classes; NTU RGB.D has 60\ngive another"
        ):
            open_input([path])
    else:
        assert open_input([path]).title == "NTU RGB+D"


@pytest.mark.parametrize("channels", [2, 3])
@pytest.mark.parametrize("bodies", [1, 2])
def test_npz_of_other_joints(channels, bodies, tmp_path):
    """Which ones, a layout.json says; it is asked for."""
    path = tmp_path / "mine.npz"
    x = np.random.default_rng(0).normal(0, 1, (4, 6, bodies, 17, channels))
    arrays = {name: x.reshape(4, 6, -1) for name in ("x_train", "x_test")}
    np.savez(path, **arrays, y_train=np.arange(4), y_test=np.arange(4))
    with pytest.raises(ValueError, match=r"numbers, which are not bodies of 25 .* layout\.json"):
        open_input([path])
    (tmp_path / "layout.json").write_text(json.dumps(COCO17.to_dict()))
    stream = open_input([path])
    assert (stream.layout, stream.channels) == (COCO17, channels)
    for clip, expected in zip(stream.clips, [*x, *x], strict=True):
        np.testing.assert_array_equal(
            clip.data[..., :bodies], expected.transpose(0, 3, 2, 1).astype("f4")
        )


def test_limits(tmp_path, monkeypatch, data):
    write_npz(tmp_path / "npz", data)
    monkeypatch.setattr(other_projects, "MAX_CLIPS", 10)
    with pytest.raises(ValueError, match="declares"):
        open_input([tmp_path / "npz/NTU60_CS.npz"])
    monkeypatch.setattr(other_projects, "MAX_CLIPS", 100)
    monkeypatch.setattr(other_projects, "MAX_CLIP_BYTES", 1000)
    with pytest.raises(ValueError, match="not a plain array"):
        open_input([tmp_path / "npz/NTU60_CS.npz"])


# --- Pickles of annotations ---------------------------------------------------------------------------

GOOD = {"frame_dir": "a", "label": 0, "keypoint": np.ones((1, 4, 25, 3))}


def write(folder, annotations, split=None):
    split = {"xsub_train": ["a"], "xsub_val": ["b"]} if split is None else split
    (folder / "x.pkl").write_bytes(pickle.dumps({"split": split, "annotations": annotations}))
    return folder / "x.pkl"


def test_half_precision_and_three_bodies(tmp_path):
    rng = np.random.default_rng(0)
    keypoint = rng.normal(0, 1, (3, 20, 25, 3)).astype(np.float16)
    keypoint[1] = keypoint[1, :1]  # does not move
    annotation = {"frame_dir": "a", "label": 3, "keypoint": keypoint}
    out, _, _ = convert_to(tmp_path / "out", write(tmp_path, [annotation], {"train": ["a"], "val": []}))
    array, names, labels, _ = load(out / "x", "train")
    assert (names, labels) == (["a"], [3]) and array.shape == (20, 3, 25, 2)
    bodies = {array[..., m].tobytes() for m in range(2)}
    assert bodies == {keypoint[m].astype(np.float32).swapaxes(1, 2).tobytes() for m in (0, 2)}


def test_a_bad_annotation_costs_only_itself(tmp_path):
    bad = {
        "no frame_dir or filename": {"label": 1, "keypoint": GOOD["keypoint"]},
        "no frame_dir or filename that is text": 7,
        "no keypoint that is an array": GOOD | {"keypoint": np.ones((4, 75))},
        "no keypoint": GOOD | {"keypoint": [[[1, 2], [1]]]},
        "17 joints with 2 coordinates": GOOD | {"keypoint": np.ones((1, 4, 17, 2))},
        "its label is not one of 0-59": GOOD | {"label": 99},
        "no label that is a whole number": GOOD | {"label": [0, 1, 1]},
        "no label that": GOOD | {"label": 3.7},
        "no label th": GOOD | {"label": True},
        "no label t": GOOD | {"label": "walk"},
        "no total_frames that is a whole number": GOOD | {"total_frames": 2.5},
        "coordinates are complex128, not numbers": GOOD | {"keypoint": 1j * GOOD["keypoint"]},
        "no label": {key: GOOD[key] for key in ("frame_dir", "keypoint")},
        "invalid coordinate": GOOD | {"keypoint": np.full((1, 4, 25, 3), np.inf)},
        "no frames": GOOD | {"total_frames": 0},
    }
    # The good one is in the middle: neither the first one nor the last one decides for all.
    annotations = [*list(bad.values())[:5], GOOD, {**GOOD, "frame_dir": "c"}, *list(bad.values())[5:]]
    path = write(tmp_path, annotations, {"xsub_train": ["a", "c"], "xsub_val": ["b"]})
    _, metas, failures = convert_to(tmp_path / "out", path)
    assert metas["xsub"]["clips"] == {"train": 2, "val": 0}
    *failures, missing = failures
    for failure, reason in zip(failures, bad, strict=True):
        assert failure.reason.startswith(reason), failure
    assert missing.reason == "b is in a split and has no annotation"


def test_names_and_numbers_of_an_annotation(tmp_path):
    good = GOOD | {
        "frame_dir": None,
        "filename": "a",
        "label": np.int64(3),
        "total_frames": np.int32(2),
    }
    out, _, failures = convert_to(tmp_path / "out", write(tmp_path, [good], {"x_train": ["a"]}))
    _, names, labels, counts = load(out / "x", "train")
    assert (names, labels, counts.tolist(), failures) == (["a"], [3], [2], [])


@pytest.mark.parametrize("name, change, expected", [
    ("a", {"keypoint": 2 * GOOD["keypoint"]}, "WARNING: 1 clips have the name of an earlier one, "),
    ("a", {}, "1 clips are in the input twice, with the same data: counted once"),
    ("a", {"label": 3}, "another label than the same clip, "),
    ("S001C001P001R001A001", {"keypoint": 2 * GOOD["keypoint"]}, "other data than the clip of the "),
])  # fmt: skip
def test_clips_with_the_same_name(name, change, expected, tmp_path):
    """Published names identify a clip, somebody's own may be those of classes."""
    annotation = GOOD | {"frame_dir": name}
    stream = open_input(
        [write(tmp_path, [annotation, annotation | change], {"x_train": [name]})], "ntu"
    )
    first, *others = stream.clips
    assert isinstance(first, Clip) and first.data.max() == 1
    if "clips" in expected:
        assert any(note.startswith(expected) for note in stream.notes)
        assert len(others) == ("WARNING" in expected)
    else:
        assert others[0].reason.startswith(expected) and others[0].reason.endswith("annotation 0")


@pytest.mark.parametrize("name", ["clip", "", "S001C001P001R001A001"])
def test_arrays_whose_names_are_not_those_of_clips(name, data, tmp_path):
    """All of them are kept, unless one clip is in both splits."""
    write_padded(tmp_path / "in", data)
    for split in ("train", "val"):
        path = tmp_path / f"in/xsub/{split}_label.pkl"
        _, labels = pickle.loads(path.read_bytes())
        labels = [0 if name.startswith("S0") else label % 3 for label in labels]
        path.write_bytes(pickle.dumps(([name] * len(labels), labels)))
    if name.startswith("S0"):
        with pytest.raises(ValueError, match=f"have clips in common .1.: {name}\nremove"):
            open_input([tmp_path / "in"])
        return
    stream = open_input([tmp_path / "in"])
    assert all(isinstance(clip, Clip) for clip in stream.clips)
    assert "both have clips called" in stream.notes[-2] and stream.notes[-1].startswith("WARNING: 35")
    shutil.copy(tmp_path / "in/xsub/train_data.npy", tmp_path / "in/xsub/val_data.npy")
    for kind in ("label.pkl", "num_frame.npy"):
        shutil.copy(tmp_path / f"in/xsub/train_{kind}", tmp_path / f"in/xsub/val_{kind}")
    with pytest.raises(ValueError, match="have clips in common"):
        open_input([tmp_path / "in"])


@pytest.mark.parametrize("form", [
    lambda a: a | {"keypoint": a["keypoint"][0], "keypoint_score": a["keypoint_score"][0]},
    lambda a: a | {key: a[key].tolist() for key in ("keypoint", "keypoint_score")},
    lambda a: a | {key: list(a[key][0]) for key in ("keypoint", "keypoint_score")},
    lambda a: a | {"frame_dir": b"a", "label": "2"},
    lambda a: a | {"frame_dir": "a\r", "label": [2], "total_frames": 3.0},
    lambda a: a | {"label": np.eye(3)[2]},
])  # fmt: skip
def test_forms_of_an_annotation(form, tmp_path):
    """One body without an axis, lists, bytes and text: what is meant is plain."""
    (tmp_path / "layout.json").write_text('{"name": "coco17"}')
    keypoint = np.random.default_rng(0).uniform(10, 300, (1, 3, 17, 2))
    plain = GOOD | {"label": 2, "keypoint": keypoint, "keypoint_score": np.ones((1, 3, 17))}
    clip, *_ = open_input([write(tmp_path, [form(plain)], {b"x_train": [b"a "]})]).clips
    assert (clip.name, clip.label, clip.splits) == ("a", 2, {"x": "train"})
    np.testing.assert_array_equal(clip.data[..., 0], keypoint[0].swapaxes(1, 2).astype(np.float32))


def test_pickles_that_do_not_fit(tmp_path):
    small = GOOD | {"keypoint": np.ones((1, 4, 17, 2))}
    for annotations, split, reason in (
        ([], None, "no annotation with a keypoint array.*\nsave keypoint as one array"),
        (7, None, "not a dict of split and annotations: .*\nsee docs/data.md"),
        ([small], None, "17 joints with 2 coordinates, .*\n.* layout.json next to it.*coco17"),
        (
            [GOOD | {"keypoint": np.ones((1, 4, 25, 2))}],
            None,
            "25 joints with 2 coordinates, .*\n.* layout",
        ),
        (
            [{"frame_dir": "a", "label": 0, "raw_file": "a.pkl"}],
            None,
            "first has frame_dir, label, raw_file",
        ),
        ([GOOD], {"x_val": ["a"], "x_test": ["b"]}, "x_val and x_test are both test splits\nremove"),
        ([GOOD], {"fold": ["a"]}, "split fold is neither .*\nrename"),
        ([GOOD], {"x_train": ["b", "a"], "x_val": ["a"]}, "a is in x_train and in x_val\nremove it"),
        *(
            ([GOOD], {"x_train": names}, "x_train does not .*\nit must be a list of names")
            for names in ([["a"]], None, 5, "a", {"a": 1}, np.array("a"))
        ),
    ):
        with pytest.raises(ValueError, match=reason):
            open_input([write(tmp_path, annotations, split)])


def test_annotations_that_share_a_name_cannot_be_split(tmp_path):
    annotations = [GOOD | {"frame_dir": "walk", "keypoint": i * GOOD["keypoint"]} for i in range(1, 4)]
    path = write(tmp_path, annotations, {"train": ["walk"], "val": ["walk"]})
    with pytest.raises(ValueError, match="in train and in val\n3 annotations are called so: give each"):
        open_input([path])


def test_annotations_of_somebody_s_own_classes(tmp_path):
    """Their names are their numbers, unless the user names a data set."""
    annotations = [GOOD | {"frame_dir": f"v{i}", "label": i % 3} for i in range(6)]
    path = write(tmp_path, annotations, {"train": ["v0", "v1", "v2"], "val": ["v3", "v4", "v5"]})
    path = path.rename(tmp_path / "mine (1).pkl")
    stream = open_input([path])
    assert (stream.title, stream.classes, stream.benchmarks) == (
        "mine (1)",
        ["0", "1", "2"],
        ["mine_1"],
    )
    assert stream.out_folder == "mine (1)-converted" and "does not name its classes" in stream.notes[0]
    assert [clip.label for clip in stream.clips] == [0, 1, 2, 0, 1, 2] and not stream.official_counts
    stream = open_input([path], "ntu")
    assert stream.classes[0] == "drink water" and stream.out_folder == "NTU-RGB-D" and not stream.notes


@pytest.mark.parametrize("form", ["videos/{}.mp4", "C:\\x\\{}", "{}.skeleton", "a/b/{}.npy"])
@pytest.mark.parametrize("path_in", ["split", "annotations", "both"])
def test_names_that_are_paths(form, path_in, tmp_path):
    names = ["a", "b", "c.1", "c.2"]
    paths = [form.format(name) for name in names]
    annotations = [GOOD | {"frame_dir": name} for name in (names if path_in == "split" else paths)]
    listed = names if path_in == "annotations" else paths
    stream = open_input([write(tmp_path, annotations, {"train": listed[:2], "val": listed[2:]})])
    assert [clip.splits for clip in stream.clips] == [
        {"x": s} for s in ("train", "train", "val", "val")
    ]


def test_paths_that_fit_two_clips_are_not_guessed(tmp_path):
    annotations = [GOOD | {"frame_dir": name} for name in ("x/a", "y/a", "w.1")]
    path = write(tmp_path, annotations, {"train": ["a", "y/a"], "val": ["w.2"]})
    *clips, a, w = open_input([path]).clips
    assert [clip.splits for clip in clips] == [{}, {"x": "train"}, {}]
    assert [a.reason, w.reason] == [
        f"{name} is in a split and has no annotation" for name in ("a", "w.2")
    ]


@pytest.mark.parametrize("whole", [True, False])
def test_annotations_without_a_split(whole, tmp_path):
    """The names of NTU's clips tell the official splits; of other clips, nothing does."""
    annotations = [GOOD | {"frame_dir": f"S001C00{i}P00{i}R001A001"} for i in (1, 2, 3)]
    (tmp_path / "x.pkl").write_bytes(
        pickle.dumps(annotations if whole else {"annotations": annotations})
    )
    stream = open_input([tmp_path / "x.pkl"])
    assert [clip.splits for clip in stream.clips] == [
        {"xsub": xsub, "xview": xview}
        for xsub, xview in (("train", "val"), ("train", "train"), ("val", "train"))
    ]
    (tmp_path / "x.pkl").write_bytes(pickle.dumps([GOOD] if whole else {"annotations": [GOOD]}))
    with pytest.raises(ValueError, match=r"does not say whether a is for training .*\nsave a dict"):
        open_input([tmp_path / "x.pkl"])


def test_bodies_where_frames_belong(tmp_path):
    """(T, M, V, C): total_frames tells, or that bodies are few."""
    keypoint = np.ones((20, 2, 25, 3))
    other = GOOD | {"frame_dir": "b", "keypoint": keypoint}
    path = write(tmp_path, [GOOD, other | {"total_frames": 20}, other])
    _, *failures = open_input([path]).clips
    assert [failure.reason for failure in failures[:2]] == [
        f"{known}, and keypoint is (20, 2, 25, 3), which should be (M, T, V, C)"
        for known in ("total_frames is 20", "no total_frames")
    ]


def test_joints_with_the_score_0_are_missing(tmp_path):
    """They are interpolated, as in custom recordings."""
    (tmp_path / "layout.json").write_text(json.dumps(COCO17.to_dict()))
    keypoint = np.ones((1, 3, 17, 2)) * np.arange(100, 400, 100)[:, None, None]
    keypoint[0, 1, 9], score = 0, np.ones((1, 3, 17))
    score[0, 1, 9] = 0
    annotation = GOOD | {"keypoint": keypoint, "keypoint_score": score}
    clip, *_ = open_input([write(tmp_path, [annotation])]).clips
    np.testing.assert_array_equal(clip.data[1, :, 9, 0], [200, 200])
    *_, failure = open_input(
        [write(tmp_path, [annotation | {"keypoint_score": score[:, 1:]}], {})]
    ).clips
    assert failure.reason.startswith("keypoint_score does not fit")


def test_a_layout_of_other_joints(tmp_path):
    (tmp_path / "layout.json").write_text(json.dumps(COCO17.to_dict()))
    with pytest.raises(ValueError, match=r"has 25 joints; .*layout\.json describes 17\ncorrect it"):
        open_input([write(tmp_path, [GOOD])])


def test_names_of_benchmarks_cannot_leave_the_folder(tmp_path):
    for name in ("../up", str(tmp_path / "evil"), "..", "a/b", ".hidden"):
        path = write(tmp_path, [GOOD], {f"{name}_train": ["a"]})
        with pytest.raises(ValueError, match="cannot be the name of a folder\nrename"):
            convert_to(tmp_path / "out", path)
    assert [path.name for path in tmp_path.iterdir()] == ["x.pkl"]


def test_an_empty_benchmark_replaces_nothing(tmp_path):
    for split, reason in (
        ({"xsub_train": ["b"], "xsub_val": []}, "1 are excluded, none remains for xsub"),
        ({}, "1 are excluded"),
    ):
        with pytest.raises(InvalidClip, match=reason):
            convert_to(tmp_path / "out", write(tmp_path, [GOOD], split))
    assert not contents(tmp_path / "out")


# --- What somebody's own data contains ----------------------------------------------------------------


@pytest.mark.parametrize("form", ["pickle", "npz", "padded"])
@pytest.mark.parametrize("said", [True, False])
def test_scores_are_not_coordinates_in_any_format(form, said, tmp_path):
    """A layout.json may say it; pixels say it themselves. A joint with the score 0 was not found."""
    clip = 100 * recording(COCO17, 12, channels=2, bodies=2) + 500  # (T, C, V, M)
    scores = np.full((12, 1, 17, 2), 0.8)
    scores[5, 0, 9] = 0
    damaged = np.concatenate((clip, scores), 1)
    damaged[5, :2, 9] = 0
    channels = {"channels": ["x", "y", "score"]} if said else {}
    (tmp_path / "layout.json").write_text(json.dumps({"name": "coco17"} | channels))
    if form == "pickle":
        keypoint = damaged.transpose(3, 0, 2, 1)
        annotations = [{"frame_dir": name, "label": 0, "keypoint": keypoint} for name in "ab"]
        path = write(tmp_path, annotations, {"train": ["a"], "val": ["b"]})
    elif form == "npz":
        path = tmp_path / "mine.npz"
        x, y = damaged.transpose(0, 3, 2, 1).reshape(1, 12, -1), [0]
        np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
    else:
        path = tmp_path
        for split in ("train", "val"):
            np.save(tmp_path / f"{split}_data.npy", damaged.swapaxes(0, 1)[None])
            (tmp_path / f"{split}_label.pkl").write_bytes(pickle.dumps(([split], [0])))
    stream = open_input([path])
    assert any("taken for its score" in note for note in stream.notes) != said
    clip[5, :, 9] = (clip[4, :, 9] + clip[6, :, 9]) / 2
    for found in stream.clips:
        np.testing.assert_allclose(found.data, clip, rtol=1e-6)
    (tmp_path / "layout.json").write_text('{"name": "coco17", "channels": ["x", "y"]}')
    if form != "npz":  # (there, these can be three bodies in 2D)
        with pytest.raises(ValueError, match=r"has 3 numbers per joint; .*layout\.json describes 2\n"):
            open_input([path])


def test_a_third_number_that_can_be_a_score_is_a_warning(tmp_path):
    keypoint = np.random.default_rng(0).random((1, 9, 25, 3))
    path = write(tmp_path, [GOOD | {"keypoint": keypoint}], {"train": ["a"]})
    assert any("WARNING: the third number of each joint in" in n for n in open_input([path]).notes)


def test_labels_that_leave_classes_out_are_a_warning(tmp_path):
    """As labels that count from 1 do. 2.0 is the label 2."""
    keypoint = np.random.default_rng(0).normal(size=(1, 9, 25, 3))
    annotations = [{"frame_dir": f"v{i}", "label": float(1 + i % 2), "total_frames": np.float32(9),
                    "keypoint": keypoint} for i in range(4)]  # fmt: skip
    split = {"Train": ["v0", "v1"], "TEST": ["v2", "v3"]}
    stream = open_input([write(tmp_path, annotations, split)])
    assert "WARNING: 1 of 3 classes have no clip: no label is 0" in stream.notes[-1]
    assert [(clip.label, clip.splits) for clip in stream.clips] == [
        (1 + i % 2, {"x": "val" if i > 1 else "train"}) for i in range(4)
    ]


def test_the_name_of_an_npz_says_which_ntu_it_is(tmp_path):
    arrays = {
        "x_train": np.ones((1, 4, 75)),
        "y_train": [3],
        "x_test": np.ones((1, 4, 75)),
        "y_test": [0],
    }
    for name, title in (("NTU120_CSub", "NTU RGB+D 120"), ("NTU60_CS", "NTU RGB+D")):
        np.savez(tmp_path / f"{name}.npz", **arrays)
        stream = open_input([tmp_path / f"{name}.npz"])
        assert stream.title == title and "WARNING" in stream.notes[0] and "its name" in stream.notes[0]


def test_recognition_needs_no_split(tmp_path):
    path = tmp_path / "mine.pkl"
    path.write_bytes(pickle.dumps([GOOD]))
    with pytest.raises(ValueError, match="does not say whether a is for training"):
        open_input([path])
    (clip,) = read_clips(path)
    assert clip.name == "a" and clip.splits == {}
    path.write_bytes(b"junk")
    (failure,) = read_clips(path)
    assert failure.file == "" and failure.reason.startswith(f"{path} is not a pickle")
