"""Files of a benchmark: what is read back, and that nothing is lost when a conversion is stopped."""

import contextlib
import json
import os
import pickle
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import contents, convert_to

from convert_data import convert
from skeletons import lock, readers, storage
from skeletons.layout import KINECTS, LAYOUTS
from skeletons.storage import read_array, read_labels, read_meta, read_split

# --- Reading ------------------------------------------------------------------------------------------


def test_without_num_frame_frames_of_zeros_at_the_end_are_padding(clips, write_split):
    clips[2][40:50] = 0  # a gap within a clip is not padding
    data, label, num_frame = write_split(clips, padded=True)
    expected = read_split(data, label, num_frame)
    for mmap in (False, True):
        found = read_split(data, label, mmap=mmap)
        assert found[1].dtype == np.int64 and found[1].tolist() == [30, 1, 150, 60, 100]
        np.testing.assert_array_equal(found[0], expected[0])
        assert found[2:] == expected[2:]
    np.save(data, np.concatenate((np.load(data), np.zeros((5, 3, 10, 25, 2))), 2))
    assert read_split(data, label)[1].tolist() == [30, 1, 150, 60, 100]


def test_packed_data_needs_num_frame(clips, write_split):
    data, label, _ = write_split(clips)
    with pytest.raises(ValueError, match=r"is not padded.*\ngive the path of num_frame"):
        read_split(data, label)


def test_files_of_different_conversions(clips, write_split):
    data, label, num_frame = write_split(clips)
    counts = np.load(num_frame)
    for bad, fault in (
        (counts + 1, "counts 346 frames, .*data.npy has 341"),
        (counts[:4], "different numbers of clips: .*label.pkl 5, .*num_frame.npy 4"),
        ([341, 0, 0, 1, -1], "counts 341 frames"),
    ):
        np.save(num_frame, bad)
        with pytest.raises(ValueError, match=f"files of different conversions.*{fault}.*\nmake"):
            read_split(data, label, num_frame)


def test_either_byte_order_is_read(tmp_path):
    array = np.arange(12, dtype=">f4").reshape(3, 4)
    np.save(tmp_path / "x.npy", array)
    for mmap in (False, True):
        found = read_array(tmp_path / "x.npy", mmap)
        assert found.dtype == np.dtype("=f4") and found.dtype.isnative
        np.testing.assert_array_equal(found, array)


def test_a_file_shorter_than_declared_is_corrupt(tmp_path):
    """And does not fill the memory."""
    with open(tmp_path / "x.npy", "wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (10**12, 3)}
        np.lib.format.write_array_header_1_0(file, header)
    for mmap in (False, True):
        with pytest.raises(ValueError, match=r"x\.npy is corrupt: .*\nmake the data again"):
            read_array(tmp_path / "x.npy", mmap)


def test_full_memory_is_not_a_corrupt_file(tmp_path, monkeypatch):
    def full(*_, **__):
        raise MemoryError

    np.save(tmp_path / "x.npy", np.zeros(3))
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(([], [])))
    monkeypatch.setattr(np.lib.format, "read_array", full)
    monkeypatch.setattr("skeletons.safe_pickle._PlainUnpickler.load", full)
    for read, name in ((read_array, "x.npy"), (read_labels, "x.pkl")):
        with pytest.raises(MemoryError):
            read(tmp_path / name)


def test_meta_of_an_earlier_version(data, tmp_path):
    meta = json.loads((data / "xsub/meta.json").read_text())
    meta["performer"] = meta.pop("subject")
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    assert read_meta(tmp_path) == read_meta(data / "xsub")


# --- Writing ------------------------------------------------------------------------------------------


def test_labels_are_whole_numbers_and_names_are_lists(tmp_path):
    path = tmp_path / "train_label.pkl"
    path.write_bytes(pickle.dumps((["a", "b"], [np.int64(1), 2])))
    assert read_labels(path) == (["a", "b"], [1, 2])
    for bad, fault in (
        ((["a"], [True]), "the label of clip 0 is True"),
        ((["a", "b"], [1, 1.5]), "the label of clip 1 is 1.5"),
        ((["a"], ["walk"]), "the label of clip 0 is 'walk'"),
        ((["a"], [[0, 1, 1]]), "the label of clip 0 is a list of 3"),
        ((["a"], [-1]), "the label of clip 0 is -1"),
        (([None], [0]), "the name of clip 0 is None"),
        ((["a"], [0, 1]), "it has 1 names and 2 labels"),
        (("ab", [0, 1]), "it is a tuple of 2\nsave a tuple: a list"),
        ([0, 1, 2, 3], "it is a list of 4\nsave a tuple: a list"),
        ({"a": 1}, "it is a dict of 1\nsave a tuple: a list"),
    ):
        path.write_bytes(pickle.dumps(bad))
        with pytest.raises(ValueError, match=rf"train_label\.pkl (is not|does not contain).*{fault}"):
            read_labels(path)


@pytest.mark.parametrize(
    "names, labels",
    [
        (["a", "b"], [1.0, 2.0]),
        (["a", "b"], np.array([[1], [2]])),
        (["a", "b"], np.eye(3)[1:]),
        (["a", "b"], [[0, 1, 0], [0, 0, 1]]),
        (["a", "b"], ["1", "2.0"]),
        ([b"a", b"b"], [[1], (2,)]),
        (np.array(["a\r", " b"]), np.array(["1", "2"])),
        (np.array([b"a", b"b"]), [True + np.int8(0), np.float16(2)]),
    ],
)
def test_forms_of_names_and_labels(names, labels, tmp_path):
    path = tmp_path / "train_label.pkl"
    for protocol in (0, 2, 4):
        path.write_bytes(pickle.dumps((names, labels), protocol))
        assert read_labels(path) == (["a", "b"], [1, 2])


def test_data_that_leaves_the_cache_is_the_same(data, raw, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "MAX_CACHED", 1000)
    convert_to(tmp_path / "out", raw)
    assert contents(tmp_path / "out") == contents(data)


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


FILE_EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.listdir", "os.scandir")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_any_step(two_versions):
    """The process is killed at its 1st, 2nd, ... operation on a file. Each benchmark is then the whole
    earlier one or the whole new one, the user's own file is there, and the next conversion succeeds.
    Between the two renamings the earlier one has its name for the meantime, and whoever looks for it is
    told."""
    here = two_versions
    versions = []
    for name in ("earlier", "new"):
        convert_to(here / name / "out", here / name)
        versions.append(contents(here / name / "out/xsub"))
    outcomes, step, between, done = set(), 0, 0, None
    (here / "out").rename(here / "before")
    while done != 0:
        step += 1
        shutil.rmtree(here / "out", ignore_errors=True)
        shutil.copytree(here / "before", here / "out")
        child = os.fork()
        if child == 0:
            left = [step]

            def count(event, _, left=left):
                if event in FILE_EVENTS:
                    left[0] -= 1
                    if not left[0]:
                        os._exit(9)

            sys.addaudithook(count)
            convert_to(here / "out", here / "new")
            os._exit(0)
        done = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert done in (0, 9)
        folder = here / "out/xsub"
        if not folder.exists():  # killed between the two renamings
            with pytest.raises(FileNotFoundError, match=r"run it again, or rename .*\.xsub\.replaced"):
                read_labels(folder / "train_label.pkl")
            folder = here / "out/.xsub.replaced"
            between += 1
        names = read_labels(folder / "train_label.pkl")
        found = contents(folder)
        notes = list((here / "out").rglob("notes.txt"))
        assert len(notes) == 1 and notes[0].read_text() == "mine"
        found.pop(Path("notes.txt"), None)
        version = versions.index(found)
        assert names == pickle.loads(versions[version][Path("train_label.pkl")])
        outcomes.add(version)
        if done and (version == 1 or (here / "out/.xsub.replaced").exists() or step % 7 == 0):
            convert_to(here / "out", here / "new")
            found = contents(here / "out/xsub")
            assert found.pop(Path("notes.txt")) == b"mine" and found == versions[1]
            assert not list((here / "out").glob(".*"))
    assert not list((here / "out").glob(".*"))
    assert outcomes == {0, 1} and step > 30 and between


def test_other_files_are_kept(two_versions):
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


@contextlib.contextmanager
def other_process(function):
    """Run a function in a forked process, which is killed at the end."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            function()
        os._exit(0)
    try:
        yield
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def wait_for(path):
    deadline = time.time() + 30
    while not path.exists():
        assert time.time() < deadline
        time.sleep(0.01)


@pytest.mark.skipif(not lock.fcntl, reason="needs file locks")
def test_two_conversions_into_one_folder(two_versions):
    out = two_versions / "out"

    def slow_conversion():
        readers.in_parallel = lambda *_: time.sleep(60)
        convert_to(out, two_versions / "earlier")

    with other_process(slow_conversion):
        wait_for(out / ".xview.partial/val_data.npy")
        before = contents(out)
        with pytest.raises(ValueError, match=r"another conversion is writing .*xsub\nwait until"):
            convert_to(out, two_versions / "new")
        assert contents(out) == before
    convert_to(out, two_versions / "new")  # the lock of a killed process does not count
    assert not list(out.glob(".*"))


def test_two_conversions_of_other_benchmarks_into_one_folder(two_versions):
    """Each benchmark has the tables of its own conversion."""
    out, tables = two_versions / "out", {}
    for benchmark, version in (("a", "earlier"), ("b", "new")):
        stream = readers.open_input([two_versions / version])
        clips = list(stream.clips)
        for clip in clips:
            clip.splits = {benchmark: "train"}
            clip.dropped = [(1, 1, 2, 2, benchmark)]
        stream.benchmarks, stream.clips = [benchmark], iter(clips)
        tables[benchmark] = stream
    first = tables["a"].clips

    def interleaved():
        yield from first
        convert(tables["b"], out)  # all of it while the other one is at work

    tables["a"].clips = interleaved()
    convert(tables["a"], out)
    for benchmark in "ab":
        rows = (out / benchmark / "dropped.csv").read_text(encoding="utf-8").splitlines()[1:]
        assert len(rows) == 3 and all(row.endswith(f",{benchmark}") for row in rows)
    assert not list(out.glob(".*"))


@pytest.mark.skipif(not lock.fcntl, reason="needs file locks")
def test_the_lock_is_held_while_the_data_is_replaced(two_versions):
    out = two_versions / "out"
    rename = Path.rename

    def slow_rename(path, target):
        if path.name == ".xsub.partial":
            (two_versions / "renaming").touch()
            time.sleep(60)
        return rename(path, target)

    def slow_conversion():
        Path.rename = slow_rename
        convert_to(out, two_versions / "earlier")

    with other_process(slow_conversion):
        wait_for(two_versions / "renaming")
        before = contents(out)
        with pytest.raises(ValueError, match=r"another conversion is writing .*xsub"):
            convert_to(out, two_versions / "new")
        assert contents(out) == before  # the finished folder is not emptied
    convert_to(out, two_versions / "new")
    assert not list(out.glob(".*")) and (out / "xsub/notes.txt").read_text() == "mine"


@pytest.mark.skipif(not lock.fcntl, reason="needs file locks")
def test_a_lock_on_a_removed_file_does_not_count(tmp_path, monkeypatch):
    """The other conversion removes its lock file between our opening and locking it."""
    lockf = lock.fcntl.lockf

    def late(file, operation):
        Path(file.name).unlink()
        lockf(file, operation)

    monkeypatch.setattr(lock.fcntl, "lockf", late)
    with pytest.raises(ValueError, match="another conversion is writing"):
        storage.BenchmarkWriter(tmp_path / "xsub", (3, 25, 2))


def refuse_to_rename(name, monkeypatch):
    """As Windows does while a program has files of the folder open."""
    rename = Path.rename

    def fails(path, target):
        if path.name == name:
            raise PermissionError(13, "in use")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fails)


def test_a_benchmark_that_cannot_be_replaced(two_versions, monkeypatch):
    """As on Windows, while a training reads it."""
    out = two_versions / "out"
    before = contents(out / "xview")
    refuse_to_rename("xview", monkeypatch)
    with pytest.raises(OSError, match=r"xview cannot be replaced: .*in use\nclose the programs"):
        convert_to(out, two_versions / "new")
    assert contents(out / "xview") == before and not list(out.glob(".*"))


def test_the_earlier_data_is_restored_if_the_new_data_cannot_take_its_place(two_versions, monkeypatch):
    out = two_versions / "out"
    before = contents(out)
    refuse_to_rename(".xsub.partial", monkeypatch)
    with pytest.raises(OSError, match="xsub cannot be replaced"):
        convert_to(out, two_versions / "new")
    assert contents(out) == before


def test_an_error_leaves_the_earlier_data(two_versions, monkeypatch):
    out = two_versions / "out"
    before = contents(out)

    def full(*_):
        raise OSError(28, "No space left on device")

    for target in (
        (storage.SplitWriter, "__init__"),
        (storage.SplitWriter, "add"),
        (storage.SplitWriter, "finish"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(*target, full)
            with pytest.raises(OSError, match="No space"):
                convert_to(out, two_versions / "new")
        assert contents(out) == before
    convert_to(out, two_versions / "new")
    assert contents(out) != before


def test_the_layout_of_arrays_that_do_not_say_it(tmp_path):
    """A Kinect's, by the number of joints, in 3D only. A meta.json may have a byte order mark."""
    for layout in KINECTS:
        assert storage.find_layout(tmp_path / "x.npy", len(layout.joints)) == layout
        with pytest.raises(ValueError, match=r"in 3D; these have 2 coordinates\ngive Feeder a layout"):
            storage.find_layout(tmp_path / "x.npy", len(layout.joints), channels=2)
    with pytest.raises(ValueError, match="has 17 joints per body; the known layouts have 25"):
        storage.find_layout(tmp_path / "x.npy", 17)
    meta = {"layout": LAYOUTS["coco17"].to_dict()}
    (tmp_path / "meta.json").write_text(json.dumps(meta), encoding="utf-8-sig")
    assert storage.find_layout(tmp_path / "x.npy", 17, channels=2) == LAYOUTS["coco17"]


@pytest.mark.parametrize("folder", ["file", "file/custom"])
def test_a_folder_that_cannot_be_written(folder, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match=rf"{folder} cannot be written: .*\ngive another --out_folder"):
        storage.BenchmarkWriter(tmp_path / folder, (3, 25, 2))
    assert (tmp_path / "file").read_text() == "mine"
