"""Pickles: plain values and arrays are read, everything else is refused before it does harm."""

import _codecs
import bz2
import functools
import gzip
import lzma
import pickle
from collections import defaultdict

import numpy as np
import pytest
from helpers import Malicious, write_padded

from feeder import Feeder
from skeletons.readers import open_input
from skeletons.safe_pickle import read_pickle
from skeletons.storage import read_labels, split_files

DEEP = functools.reduce(lambda x, _: [x, x], range(99), 0)  # 2^99 numbers, written out


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
        with pytest.raises(ValueError, match=r"it contains a (posix|nt|os)\.mkdir object"):
            read()
    assert not (tmp_path / "attacked").exists()
    pickle.loads(labels)
    assert (tmp_path / "attacked").exists()  # the attack does work


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
    "frame of 10^12 bytes": b"\x80\x04\x95" + (10**12).to_bytes(8, "little") + b"N.",
    "10^9 bytes to be changed": b"\x80\x05\x96" + (10**9).to_bytes(8, "little") + b".",
    "much larger than the file": pickle.dumps(
        [reduced(_codecs.encode, text, "latin1") for text in ["x" * 10000] * 100], 2
    ),
    "shape of 10^12": pickle.dumps(np.zeros(1)).replace(b"K\x01\x85", b"\x8a\x06\0\0\0\0\0\1\x85", 2),
    "objects": pickle.dumps(np.array([1, "a", None], object)),
    "structure": pickle.dumps(np.zeros(2, "f8,i4")),
    "filled twice": filled_twice(),
    "view of an array": pickle.dumps(
        reduced(np.ones(1).__reduce_ex__(5)[0], np.zeros(9, "u1"), np.dtype("u1"), (9,), "C"), 4
    ),
    "type of types": pickle.dumps(reduced(np.dtype, DEEP)),
    "extension": b"\x80\x02\x82\x01.",
    "factory that is called": pickle.dumps(reduced(list, (1, 2)), 2),
    "endless": b"\x80\x02" + b"]" * 10,
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_pickles_are_refused(content, tmp_path):
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.pkl is not a pickle of plain values"):
        read_pickle(tmp_path / "x.pkl")


@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_a_pickle_that_is_text_with_other_line_ends(protocol, tmp_path):
    """Windows or FTP put a CR before each line feed of protocol 0; other pickles are as they are."""
    content = (["a\r\nb", "c"], [10, 13, 0x0A0D], np.arange(3.0))
    saved = pickle.dumps(content, protocol)
    (tmp_path / "x.pkl").write_bytes(saved if protocol else saved.replace(b"\n", b"\r\n"))
    names, labels, array = read_pickle(tmp_path / "x.pkl")
    assert (names, labels) == content[:2]
    np.testing.assert_array_equal(array, content[2])


def test_names_in_a_pickle_are_text(tmp_path):
    """str() of lists of lists of lists ... would fill the memory."""
    (tmp_path / "x_label.pkl").write_bytes(pickle.dumps(([DEEP], [0])))
    with pytest.raises(ValueError, match="does not contain one name and one label"):
        read_labels(tmp_path / "x_label.pkl")
    annotation = {"frame_dir": DEEP, "label": 0, "keypoint": np.ones((1, 4, 25, 3))}
    content = {
        "split": {"xsub_train": ["a"]},
        "annotations": [annotation, annotation | {"frame_dir": "a"}],
    }
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content))
    failure, clip = open_input([tmp_path / "x.pkl"]).clips
    assert failure.reason == "no frame_dir or filename that is text" and clip.name == "a"


def test_a_pickle_cannot_reserve_memory(tmp_path):
    """Python's faster unpickler makes room for 2^32 entries because of these nine bytes."""
    (tmp_path / "x.pkl").write_bytes(b"\x80\x02]r\xff\xff\xff\x7f.")
    assert read_pickle(tmp_path / "x.pkl") == []


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
    found = read_pickle(tmp_path / "x.pkl")
    assert list(found) == list(value) and found["a"] == value["a"] and found["bytes"] == b""
    for key in ("big", "columns", "half", "none", "zero", "text", "scalar"):
        np.testing.assert_array_equal(found[key], value[key])
        assert found[key].dtype.newbyteorder("=") == value[key].dtype.newbyteorder("=")


@pytest.mark.parametrize("protocol", range(6))
def test_defaultdicts_and_sets_are_read(protocol, tmp_path):
    value = defaultdict(list, {"a": [1]}), defaultdict(int), defaultdict(dict), {1, "b"}, frozenset("c")
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(value, protocol))
    found = read_pickle(tmp_path / "x.pkl")
    assert found == value and type(found[0]) is dict


@pytest.mark.parametrize("content, fault", [
    (gzip.compress(pickle.dumps({})), r"it is compressed .gzip.\ndecompress it first"),
    (bz2.compress(b""), "it is compressed .bzip2"), (lzma.compress(b""), "it is compressed .xz"),
    (b"PK\3\4...", "it is a .zip file, or saved by torch.save\ngive a pickle"),
    (b"<!DOCTYPE html>", "it is a web page"), (b"\x93NUMPY\1", "it is a .npy file"), (b"", "empty"),
    (pickle.dumps([1, 2])[:-3], "truncated or corrupt\ndownload it"), (b"7\n", "truncated or"),
], ids=range(9))  # fmt: skip
def test_files_of_another_kind(content, fault, tmp_path):
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=f"x.pkl is not a pickle of plain values and arrays: {fault}"):
        read_pickle(tmp_path / "x.pkl")


def test_a_label_file_contains_plain_values(data):
    names, labels = pickle.loads((data / "xsub" / "train_label.pkl").read_bytes())
    assert type(names) is list and type(labels[0]) is int
