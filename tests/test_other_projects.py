"""Data of other projects that is corrupt, hostile or of something else: arrays, .npz files, pickles."""

import json
import pickle
import shutil

import numpy as np
import pytest
from helpers import Malicious, contents, convert_to, load, write_npz, write_padded

from skeletons import other_projects
from skeletons.clip import InvalidClip
from skeletons.clip_stream import Failure
from skeletons.readers import open_input

# --- Arrays -------------------------------------------------------------------------------------------


def test_corrupt_meta(data, tmp_path):
    shutil.copytree(data / "xsub", tmp_path / "xsub")
    path = tmp_path / "xsub/meta.json"
    good = json.loads(path.read_text())
    for bad in ([], good | {"classes": 3}, good | {"classes": [1]}, good | {"camera": {"train": [1]}},
                good | {"classes": "abc"}, good | {"subject": {"train": [1], "val": []}}):  # fmt: skip
        path.write_text(json.dumps(bad))
        with pytest.raises(ValueError, match=r"meta\.json is corrupt.*\nmake the data again"):
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
    assert failure.reason.startswith("the same clip as ")
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


# --- .npz ---------------------------------------------------------------------------------------------


def test_npz_of_something_else(data, tmp_path):
    write_npz(tmp_path / "good", data)
    path = tmp_path / "NTU60_CS.npz"
    good = dict(np.load(tmp_path / "good/NTU60_CS.npz"))
    attack = np.array([Malicious(tmp_path / "attacked")], object)
    for change, reason in (
        ({"x_train": good["x_train"][..., :60]}, "width 60"),
        ({"y_test": good["y_test"][:2]}, "12 clips.*\nit needs x_train"),
        ({"y_train": good["y_train"][:, :10]}, "10 classes; is it another --dataset"),
        ({"x_test": attack}, "not a plain array"),
        ({"y_train": attack}, "not a plain array"),
    ):
        np.savez(path, **good | change)
        with pytest.raises(ValueError, match=reason):
            open_input([path])
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"is corrupt, or of something else: .*\nit needs x_train"):
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
        "no keypoint that is an array": GOOD | {"keypoint": np.ones((4, 25, 3))},
        "no keypoint": GOOD | {"keypoint": GOOD["keypoint"].tolist()},
        "17 joints with 2 coordinates": GOOD | {"keypoint": np.ones((1, 4, 17, 2))},
        "its label is not one of 0-59": GOOD | {"label": 99},
        "no label that is a whole number": GOOD | {"label": [0]},
        "no label that": GOOD | {"label": 3.7},
        "no label th": GOOD | {"label": True},
        "no label t": GOOD | {"label": "3"},
        "no total_frames that is a whole number": GOOD | {"total_frames": 2.5},
        "coordinates are complex128, not numbers": GOOD | {"keypoint": 1j * GOOD["keypoint"]},
        "no label": {key: GOOD[key] for key in ("frame_dir", "keypoint")},
        "invalid coordinate": GOOD | {"keypoint": np.full((1, 4, 25, 3), np.inf)},
        "no body in any frame": GOOD | {"total_frames": 0},
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


def test_a_clip_that_is_annotated_twice_is_written_once(tmp_path):
    second = GOOD | {"keypoint": 2 * GOOD["keypoint"]}
    out, _, (failure, _) = convert_to(tmp_path / "out", write(tmp_path, [GOOD, second]))
    data, names, *_ = load(out / "xsub", "train")
    assert names == ["a"] and data[..., 0].max() == 1
    assert failure.file.endswith("annotation 1") and failure.reason.startswith("the same clip as ")
    assert failure.reason.endswith("x.pkl, annotation 0")


def test_pickles_that_do_not_fit(tmp_path):
    small = GOOD | {"keypoint": np.ones((1, 4, 17, 2))}
    for annotations, split, reason in (
        ([], None, "no annotation with a keypoint array.*\nsee docs/data.md"),
        (7, None, "not a dict of split and annotations: .*\nsee docs/data.md"),
        ([small], None, "17 joints; NTU RGB.D has 25\nchoose another --dataset"),
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
