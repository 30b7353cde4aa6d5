"""The files of a benchmark: how a part (train or val) lies on disk, written and read in one place.

{train,val}_data.npy       float32 (frames, C, V, M): the frames of all clips end to end; or padded
                           with zeros, (N, C, T, V, M), as ST-GCN and its relatives write them
{train,val}_num_frame.npy  int64 (N,): frames in each clip
{train,val}_label.pkl      (names, labels): lists of N; labels count from 0
meta.json                  data set, benchmark, layout, class names, counts; subject and camera of
                           each clip where they are known
"""

import contextlib
import ctypes
import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np

from skeletons.layout import LAYOUTS, Layout
from skeletons.safe_pickle import read_pickle

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

PARTS = ("train", "val")

# --- Reading ------------------------------------------------------------------------------------------


def split_files(folder, part):
    """The three files of a part ("train" or "val") of a benchmark, in the order Feeder takes."""
    return [Path(folder) / f"{part}_{end}" for end in ("data.npy", "label.pkl", "num_frame.npy")]


def read_array(path, mmap=False):
    """An array from a .npy file. FileNotFoundError names the command that makes it; ValueError says
    that the file is damaged."""
    if not Path(path).is_file():
        earlier = _beside(Path(path).resolve().parent, "replaced")
        if earlier.exists():
            raise FileNotFoundError(
                f"{path} is missing: a conversion ended while it replaced the data. Run it again, or "
                f"give the earlier data its name back: {earlier}"
            )
        raise FileNotFoundError(
            f"{path} is missing: make it with 'python convert_data.py' (NTU RGB+D, NW-UCLA, "
            "UTD-MHAD, your own recordings), or 'make demo' for synthetic data; see the README"
        )
    try:
        if mmap:
            array = np.lib.format.open_memmap(path, mode="r")
        else:
            with open(path, "rb") as file:
                array = np.lib.format.read_array(file)
    except OSError:
        raise
    except Exception as error:  # a damaged header raises nearly anything
        raise ValueError(f"{path} is damaged, convert the data again: {error}") from error
    if array.dtype.kind not in "iuf" or not array.dtype.isnative:
        raise ValueError(f"{path} holds {array.dtype}, not numbers of this machine: convert it here")
    return array


def read_labels(path):
    """(names, labels) from a .pkl file; ValueError for anything but names and whole numbers."""
    if not Path(path).is_file():
        read_array(path)  # says what to do
    try:
        names, labels = map(list, read_pickle(path))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a pickle of (names, labels): {error}") from error
    plain = all(isinstance(label, (int, np.integer)) and 0 <= label < 2**31 for label in labels)
    if not plain or not all(isinstance(name, str) for name in names) or len(names) != len(labels):
        raise ValueError(f"{path}: needs one name and one label, counted from 0, for each clip")
    return list(map(str, names)), list(map(int, labels))


def read_split(data_path, label_path, num_frame_path=None, mmap=False):
    """The files of a part -> (data, num_frame (N,), names, labels), which belong together.

    num_frame_path  None: padded data whose clips all fill the array
    Raises FileNotFoundError, and ValueError for files that come from different conversions.
    """
    data = read_array(data_path, mmap)
    names, labels = read_labels(label_path)
    padded = data.ndim == 5
    if num_frame_path is not None:
        counts = read_array(num_frame_path)
    else:
        counts = np.full(len(data), data.shape[2]) if padded else np.zeros(0, np.int64)
    if data.ndim not in (4, 5) or counts.ndim != 1:
        raise ValueError(
            f"{data_path}: shape {data.shape} is neither (frames, C, V, M) nor (N, C, T, V, M); make "
            "the data again with convert_data.py"
        )
    clips = {label_path: len(labels)}
    if num_frame_path is not None or not padded:
        clips[num_frame_path] = len(counts)
    if padded:
        clips[data_path] = len(data)
    if len(set(clips.values())) != 1:
        listing = ", ".join(f"{path} {count}" for path, count in clips.items())
        raise ValueError(
            f"these files hold different numbers of clips: {listing}. They come from different "
            "conversions; make all of them again with convert_data.py"
        )
    frames = data.shape[2] if padded else len(data)
    used = counts.max(initial=0) if padded else counts.sum()
    if counts.min(initial=0) < 0 or (used > frames if padded else used != frames):
        raise ValueError(
            f"{num_frame_path} counts {used} frames and {data_path} holds {frames}. They come from "
            "different conversions; make both again with convert_data.py"
        )
    return data, counts, names, labels


def read_meta(folder):
    """The meta.json that convert_data.py wrote beside the arrays, or {} without one."""
    path = Path(folder) / "meta.json"
    if not path.is_file():
        return {}
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        if "layout" in meta:
            Layout.from_dict(meta["layout"])
        if not all(isinstance(name, str) for name in meta.get("classes", [])):
            raise ValueError("classes are not a list of names")
        for part in PARTS:
            people = [len(meta[key][part]) for key in ("subject", "camera") if key in meta]
            if any(count != meta["clips"][part] for count in people):
                raise ValueError("subjects or cameras are not one a clip")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged, convert the data again: {error!r}") from error
    return meta


def find_layout(data_path, joints):
    """The layout of the data's meta.json, else the Kinect with as many joints."""
    layout = read_meta(Path(data_path).parent).get("layout")
    known = [Layout.from_dict(layout)] if layout else LAYOUTS.values()
    for candidate in known:
        if len(candidate.joints) == joints:
            return candidate
    raise ValueError(
        f"{data_path} has {joints} joints; the layouts here have "
        + ", ".join(f"{len(c.joints)} ({c.name})" for c in known)
        + ". Give Feeder a layout, or put one into meta.json beside the data"
    )


# --- Writing ------------------------------------------------------------------------------------------

WRITTEN = (*(path.name for part in PARTS for path in split_files("", part)), "meta.json")


# Bytes. What is written passes through so much of the system's cache of files and is not kept there:
# new memory for 6 GB costs more than writing them, and the raw files still to be read stay cached.
CACHED = 8 << 20


class SplitWriter:
    """Writes one part of a benchmark into `folder`, clip by clip, never holding the data."""

    def __init__(self, folder, part, frame_shape):
        self.paths = split_files(folder, part)
        self.frame_shape = tuple(frame_shape)  # (C, V, M)
        self.names, self.labels, self.counts, self.subjects, self.cameras = [], [], [], [], []
        # A megabyte at a time: the system takes larger pages for larger writes.
        self.file = open(self.paths[0], "wb", buffering=1 << 20)  # noqa: SIM115 (open until finished)
        self.cached = 0  # bytes, about
        self._header()

    def _header(self):
        """A .npy header of fixed size, so that it can be written again when the length is known."""
        shape = (sum(self.counts), *self.frame_shape)
        fields = {"descr": "<f4", "fortran_order": False, "shape": shape}
        text = str(fields).ljust(128 - 10 - 1) + "\n"
        self.file.write(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode())

    def add(self, clip):
        self.file.write(np.ascontiguousarray(clip.data, "<f4"))
        self.cached += clip.data.nbytes
        if self.cached > CACHED and hasattr(os, "posix_fadvise"):  # Linux
            os.posix_fadvise(self.file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            self.cached = 0
        self.names.append(clip.name)
        self.labels.append(clip.label)
        self.counts.append(len(clip.data))
        self.subjects.append(clip.subject)
        self.cameras.append(clip.camera)

    def finish(self, frames=None):
        """Complete the files; `frames`: pad each clip with zeros to so many."""
        data, label, num_frame = self.paths
        self.file.seek(0)
        self._header()
        self.file.close()
        if frames is not None:
            self._pad(data, frames)
        label.write_bytes(pickle.dumps((self.names, self.labels)))
        np.save(num_frame, np.array(self.counts, np.int64))

    def _pad(self, path, frames):
        """(frames, C, V, M) -> (N, C, T, V, M)."""
        packed, start = np.load(path, mmap_mode="r"), 0
        row = np.zeros((self.frame_shape[0], frames, *self.frame_shape[1:]), "<f4")
        shape = (len(self.counts), *row.shape)
        padded = path.with_suffix(".padded")
        with open(padded, "wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for count in self.counts:
                row[:, :count] = packed[start : start + count].swapaxes(0, 1)
                row[:, count:] = 0
                file.write(row)
                start += count
        del packed
        os.replace(padded, path)


class BenchmarkWriter:
    """Writes a benchmark beside its folder; `publish` puts the complete one in the place of an earlier
    one, which until then stays as it is, whatever happens."""

    def __init__(self, folder, frame_shape):
        self.folder = Path(folder).resolve()  # a link to another disk stays one
        self.partial, self.parts = _beside(self.folder, "partial"), {}
        self.published = False
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self._claim()
        recover(self.folder)
        self.parts = {part: SplitWriter(self.partial, part, frame_shape) for part in PARTS}

    def _claim(self):
        """Take the folder of unfinished files. The system drops the lock with its process, so that the
        remains of a conversion that was killed are told from one that is running."""
        self.partial.mkdir(exist_ok=True)
        self.lock = open(self.partial / "lock", "w")  # noqa: SIM115 (open until published)
        try:
            if fcntl:  # Windows itself does not remove files that are open
                fcntl.lockf(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            self.lock.close()
            raise ValueError(
                f"another conversion is writing {self.folder}: wait for it or give another --out_folder"
            ) from None
        except OSError:
            pass  # a disk that knows no locks
        for path in self.partial.iterdir():
            if path.name != "lock":
                path.unlink()

    def add(self, part, clip):
        self.parts[part].add(clip)

    def finish(self, meta, frames=None):
        """Complete the files.

        meta    what goes into meta.json, beside the counts, subjects and cameras
        frames  pad each clip with zeros to so many frames, or to the longest clip's
        Returns meta.json's contents.
        """
        meta = meta | {"clips": {part: len(writer.names) for part, writer in self.parts.items()}}
        for field in ("subject", "camera"):
            known = {part: getattr(writer, field + "s") for part, writer in self.parts.items()}
            if any(map(any, known.values())):
                meta[field] = known
        if frames is not None:
            frames = max([frames, *(n for writer in self.parts.values() for n in writer.counts)])
        for writer in self.parts.values():
            writer.finish(frames)
        text = json.dumps(meta, ensure_ascii=False, indent=1)
        (self.partial / "meta.json").write_text(text + "\n", encoding="utf-8")
        return meta

    def publish(self):
        self.lock.close()
        (self.partial / "lock").unlink()
        try:
            replaced = _beside(self.folder, "replaced")
            if self.folder.exists():
                self.partial.rename(replaced)
                if not swap_directories(replaced, self.folder):  # a moment without either
                    replaced.rename(self.partial)
                    self.folder.rename(replaced)
                    self.partial.rename(self.folder)
            else:
                self.partial.rename(self.folder)
        except OSError as error:  # on Windows, while a program reads the earlier data
            recover(self.folder)
            raise OSError(f"{self.folder} cannot be replaced, is it in use? {error}") from error
        self.published = True
        recover(self.folder)

    def discard(self):
        """Give up what is not published."""
        if self.published:
            return
        for file in (self.lock, *(writer.file for writer in self.parts.values())):
            with contextlib.suppress(OSError):  # closing writes what is left, on a full disk in vain
                file.close()
        shutil.rmtree(self.partial, ignore_errors=True)


def _beside(folder, ending):
    return folder.with_name(f".{folder.name}.{ending}")


def swap_directories(one, other):
    """Two folders change names at once -> whether the system and the disk can do that (Linux)."""
    try:
        call = ctypes.CDLL(None).renameat2  # glibc 2.28
    except (AttributeError, OSError, TypeError):
        return False
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return call(here, os.fsencode(one), here, os.fsencode(other), swap) == 0


def recover(folder):
    """After a conversion that ended while it replaced `folder`: if there is nothing in its place, put
    the earlier one back; else remove what it replaced, or did not come to replace. Files in there that
    no conversion wrote are kept."""
    earlier = _beside(folder, "replaced")
    if not earlier.exists():
        return
    if not (folder / "meta.json").is_file():
        if folder.exists():
            folder.rmdir()  # an empty one; an error says if it is not
        earlier.rename(folder)
        return
    for path in earlier.iterdir():
        if path.name in WRITTEN:
            path.unlink()
        else:
            os.replace(path, folder / path.name)
    earlier.rmdir()
