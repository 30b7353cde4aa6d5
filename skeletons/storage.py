"""The converted arrays on disk: write and read them, replace them safely.

{train,val}_data.npy       float32 (frames, C, V, M): the frames of all clips, one after the other; or
                           padded with zeros, (N, C, T, V, M), as ST-GCN and related projects write them
{train,val}_num_frame.npy  int64 (N,): number of frames of each clip
{train,val}_label.pkl      (names, labels): lists of length N; labels count from 0
meta.json                  data set, benchmark, layout, class names, numbers of clips, how the data was
                           converted; subject and camera of each clip where they are known
skipped.csv, dropped.csv   clips that could not be read; bodies that were dropped from a clip
"""

import contextlib
import io
import json
import os
import pickle
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from skeletons.clip import Clip
from skeletons.layout import KINECTS, Layout
from skeletons.lock import FileLock
from skeletons.safe_pickle import other_kind, read_pickle

SPLITS = ("train", "val")
AGAIN = "make the data again with convert_data.py, or with the program that it comes from"

# --- Reading ------------------------------------------------------------------------------------------


def split_files(folder: str | Path, split: str) -> list[Path]:
    """The three files of a split ("train" or "val") of a benchmark, in the order that Feeder takes."""
    return [Path(folder) / f"{split}_{name}" for name in ("data.npy", "label.pkl", "num_frame.npy")]


def _check_file(path: Path) -> None:
    """Raise FileNotFoundError, which says how to make the file, unless it exists."""
    if path.is_file():
        return
    if path.parent.is_file():
        raise FileNotFoundError(f"{path.parent} is not a folder\ngive the folder that it is in")
    if inside := sorted(str(file.parent) for file in path.parent.glob(f"*/{path.name}")):
        raise FileNotFoundError(
            f"{path} is missing\ngive the folder of one benchmark: {', '.join(inside)}"
        )
    folder = path.parent.resolve()  # (the file may be a link)
    earlier = _sibling(folder, "replaced")
    if earlier.exists():
        raise FileNotFoundError(
            f"{path} is missing: a conversion was interrupted while it replaced the data\n"
            f"run it again, or rename {earlier}, which is the earlier data, to {folder.name}"
        )
    raise FileNotFoundError(
        f"{path} is missing\nmake it with 'python convert_data.py' (NTU RGB+D, NW-UCLA, UTD-MHAD, SBU, "
        "custom recordings) or with 'make demo' (synthetic data); see docs/data.md"
    )


def read_array(path: str | Path, mmap: bool = False) -> np.ndarray:
    """An array of numbers, in this machine's byte order, from a .npy file.

    mmap  leave it on disk (but for an array of the other byte order)
    Raises FileNotFoundError, and ValueError for a corrupt file.
    """
    _check_file(Path(path))
    try:
        # Never reads more than there is in the file, whatever its header declares.
        array = np.lib.format.open_memmap(path, mode="r")
        if array.dtype.kind in "iuf" and array.dtype.isnative and not mmap:
            with open(path, "rb") as file:
                array = np.lib.format.read_array(file)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a corrupt header raises nearly anything
        if "Python objects" in str(error):
            raise ValueError(
                f"{path} contains Python objects (None, or lists of different lengths); save it as "
                "float32, with NaN for gaps"
            ) from None
        with open(path, "rb") as file:
            fault, remedy = other_kind(file.read(32)) or (str(error), AGAIN)
        raise ValueError(f"{path} is corrupt: {fault}\n{remedy}") from error
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{path} contains {array.dtype}, not numbers\n{AGAIN}")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def as_text(value: object) -> str | None:
    """A name: text, bytes (of Python 2) or a whole number -> text without space around it; or None."""
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            value = value.decode("latin1")
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        value = str(value)
    return str(value).strip() if isinstance(value, str) else None


def as_integer(value: object) -> int | None:
    """A whole number, as 3, 3.0, "3", or an array of one, -> int; None if it is none, as True."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if isinstance(value, (float, np.floating)):
        return int(value) if value.is_integer() else None
    text = as_text(value) or ""
    return int(text.partition(".")[0]) if re.fullmatch(r"-?[0-9]{1,18}(\.0+)?", text) else None


def as_label(value: object) -> int | None:
    """A label: a whole number, as for `as_integer`, or in a list, or one-hot -> int; or None."""
    if isinstance(value, (list, tuple)):
        if not all(isinstance(number, (int, float, np.number, str)) for number in value):
            return None
        value = np.array(value)
    if isinstance(value, np.ndarray) and value.size > 1:
        is_one_hot = value.dtype.kind in "biuf" and np.count_nonzero(value) == 1 == value.sum()
        return int(value.argmax()) if is_one_hot else None
    return as_integer(value)


def describe(value: object) -> str:
    """For messages: a value of a pickle. (The text of lists of lists of lists could fill memory.)"""
    if isinstance(value, np.ndarray):
        return f"an array {value.shape}"
    if isinstance(value, (list, tuple, dict, set)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"{value!r:.60}"


def read_labels(path: str | Path) -> tuple[list[str], list[int]]:
    """(names, labels) from a .pkl file. Labels are whole numbers from 0, in any form that `as_label`
    takes. Raises FileNotFoundError, and ValueError for anything else."""
    _check_file(Path(path))
    content = read_pickle(path)
    columns = list(content) if isinstance(content, (list, tuple, np.ndarray)) else []
    if len(columns) != 2 or not all(isinstance(c, (list, tuple, np.ndarray)) for c in columns):
        raise ValueError(
            f"{path} is not a pickle of (names, labels): it is {describe(content)}\n"
            "save a tuple: a list with the name of each clip, and a list of labels"
        )
    names, labels = list(map(as_text, columns[0])), list(map(as_label, columns[1]))
    fault = f"it has {len(names)} names and {len(labels)} labels" * (len(names) != len(labels))
    for what, values, column in (("name", names, columns[0]), ("label", labels, columns[1])):
        for i, value in enumerate(values):
            if value is None or (what == "label" and not 0 <= value < 2**31):
                fault = fault or f"the {what} of clip {i} is {describe(column[i])}"
    if fault:
        raise ValueError(
            f"{path} does not contain one name and one label, a whole number from 0, per clip: "
            f"{fault}\n{AGAIN}"
        )
    return names, labels


def _read_counts(path: str | Path) -> np.ndarray:
    """Numbers of frames as int64 (N,); whole numbers stored as float are accepted."""
    stored = read_array(path)
    with np.errstate(invalid="ignore"):
        counts = stored.astype(np.int64)
    if counts.ndim != 1 or not (counts == stored).all():
        raise ValueError(f"{path} is not a list of whole numbers of frames, one per clip\n{AGAIN}")
    return counts


def count_frames(data: np.ndarray) -> np.ndarray:
    """Padded clips (N, C, T, V, M) -> int64 (N,): frames up to the last one that is not zero."""
    counts = np.zeros(len(data), np.int64)
    for i, clip in enumerate(data):
        frames = np.flatnonzero(clip.any((0, 2, 3)))
        counts[i] = frames[-1] + 1 if len(frames) else 0
    return counts


def read_split(
    data_path: str | Path,
    label_path: str | Path,
    num_frame_path: str | Path | None = None,
    mmap: bool = False,
) -> tuple[np.ndarray, np.ndarray, list[str], list[int]]:
    """The files of a split -> (data, num_frame (N,), names, labels).

    num_frame_path  None: the data is padded; all frames of zeros at the end of a clip are padding
    Raises FileNotFoundError, and ValueError for corrupt files and those of different conversions.
    """
    data = read_array(data_path, mmap)
    names, labels = read_labels(label_path)
    if data.ndim not in (4, 5):
        raise ValueError(
            f"{data_path}: {data.shape} is neither (frames, C, V, M) nor (N, C, T, V, M)\n{AGAIN}"
        )
    padded = data.ndim == 5
    if num_frame_path is not None:
        counts = _read_counts(num_frame_path)
    elif padded:
        counts = count_frames(data)
    else:
        raise ValueError(f"{data_path} is not padded, so the numbers of frames are needed\n"
                         "give the path of num_frame.npy, too")  # fmt: skip
    clips = {label_path: len(labels), num_frame_path or data_path: len(counts)}
    if padded:
        clips[data_path] = len(data)
    if len(set(clips.values())) != 1:
        listing = ", ".join(f"{path} {count}" for path, count in clips.items())
        raise ValueError(f"files of different conversions, with different numbers of clips: {listing}\n"
                         f"{AGAIN}")  # fmt: skip
    frames = data.shape[2] if padded else len(data)
    used = counts.max(initial=0) if padded else counts.sum()
    if counts.min(initial=0) < 0 or (used > frames if padded else used != frames):
        axes = "(N, C, T, V, M)" if padded else "(frames, C, V, M)"
        raise ValueError(
            f"files of different conversions: {num_frame_path} counts {used} frames, {data_path} has "
            f"{frames}; or its axes {data.shape} are not {axes}\n{AGAIN}"
        )
    return data, counts, names, labels


def read_meta(folder: str | Path) -> dict[str, Any]:
    """The meta.json that convert_data.py wrote next to the arrays, or {} if there is none. (Earlier
    versions wrote "performer" where it is "subject" now.)"""
    path = Path(folder) / "meta.json"
    if not os.path.lexists(path):
        return {}
    try:
        meta = json.loads(path.read_text(encoding="utf-8-sig"))
        if not isinstance(meta, dict):
            raise ValueError("it is not an object of names and values")
        if "performer" in meta:
            meta["subject"] = meta.pop("performer")
        if "layout" in meta:
            Layout.from_dict(meta["layout"])
        classes = meta.get("classes", [])
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise ValueError("classes are not a list of names")
        for split in SPLITS:
            counts = [len(meta[key][split]) for key in ("subject", "camera") if key in meta]
            if any(count != meta["clips"][split] for count in counts):
                raise ValueError("not one subject and one camera per clip")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        fault = f"{error} is missing" if isinstance(error, KeyError) else error
        raise ValueError(f"{path} is corrupt: {fault}\n{AGAIN}") from error
    return meta


def find_folds(folder: Path) -> list[Path]:
    """The folds of a cross-validation in a folder, by their numbers. ValueError unless each clip is in
    the test split of one fold and in the training split of all others."""
    folds = [path for path in folder.glob("fold*") if path.is_dir()]
    folds.sort(key=lambda fold: re.sub(r"\d+", lambda number: number[0].zfill(20), fold.name))
    if len(folds) < 2:
        raise ValueError(
            f"{folder} does not contain folds (fold1, fold2, ...)\nmake them with convert_data.py: "
            "--dataset sbu, or a column fold in clips.csv (docs/data.md)"
        )
    names = {fold: [read_labels(split_files(fold, split)[1])[0] for split in SPLITS] for fold in folds}
    every = sorted(name for _, tested in names.values() for name in tested)
    for fold, (trained, tested) in names.items():
        if not tested or sorted(trained + tested) != every or len(set(every)) < len(every):
            raise ValueError(
                f"{fold} does not belong to the other folds: each clip must be in the test of one and "
                "in the training of all others\n"
                "remove the folds of another conversion, or convert the data again"
            )
    return folds


def find_layout(data_path: str | Path, joints: int, channels: int = 3) -> Layout:
    """The layout in the data's meta.json, or else, in 3D, the Kinect with this number of joints."""
    layout = read_meta(Path(data_path).parent).get("layout")
    known = [Layout.from_dict(layout)] if layout else list(KINECTS)
    for candidate in known:
        if len(candidate.joints) == joints and (layout or channels == 3):
            return candidate
    listing = ", ".join(f"{len(candidate.joints)} ({candidate.name})" for candidate in known)
    flat = f", in 3D; these have {channels} coordinates" * (not layout and channels != 3)
    raise ValueError(
        f"{data_path} has {joints} joints per body; the known layouts have {listing}{flat}\n"
        "give Feeder a layout, or add one to meta.json in the folder of the data"
    )


# --- Writing ------------------------------------------------------------------------------------------

TABLES = ("skipped.csv", "dropped.csv")
WRITTEN = (*(path.name for split in SPLITS for path in split_files("", split)), "meta.json", *TABLES)

# Bytes. After so many, what was written is dropped from the system's file cache: new memory for 6 GB
# takes longer than writing them, and the raw files that are still to be read stay in the cache.
MAX_CACHED = 8 << 20


class SplitWriter:
    """Writes one split of a benchmark into `folder`, clip by clip, without keeping the data in memory.

    frame_shape  (C, V, M)
    """

    def __init__(self, folder: Path, split: str, frame_shape: Sequence[int]) -> None:
        self.paths = split_files(folder, split)
        self.frame_shape = tuple(frame_shape)
        self.names: list[str] = []
        self.labels: list[int] = []
        self.counts: list[int] = []
        self.subjects: list[int] = []
        self.cameras: list[int] = []
        # A megabyte at a time: the system takes larger pages for larger writes.
        self.file = open(self.paths[0], "wb", buffering=1 << 20)  # noqa: SIM115 (open until finished)
        self.cached = 0  # bytes, about
        self._write_header()

    def _write_header(self) -> None:
        """A .npy header of fixed size, so that it can be written again when the length is known."""
        shape = (sum(self.counts), *self.frame_shape)
        fields = {"descr": "<f4", "fortran_order": False, "shape": shape}
        text = str(fields).ljust(128 - 10 - 1) + "\n"
        self.file.write(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode())

    def add(self, clip: Clip) -> None:
        """Append a clip, whose data is (T, C, V, M)."""
        self.file.write(np.ascontiguousarray(clip.data, "<f4"))
        self.cached += clip.data.nbytes
        if self.cached > MAX_CACHED and hasattr(os, "posix_fadvise"):  # Linux
            os.posix_fadvise(self.file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            self.cached = 0
        self.names.append(clip.name)
        self.labels.append(clip.label)
        self.counts.append(len(clip.data))
        self.subjects.append(clip.subject)
        self.cameras.append(clip.camera)

    def finish(self, frames: int | None = None) -> None:
        """Complete the files. frames: pad each clip with zeros to this length."""
        data, label, num_frame = self.paths
        self.file.seek(0)
        self._write_header()
        self.file.close()
        if frames is not None:
            self._pad(data, frames)
        label.write_bytes(pickle.dumps((self.names, self.labels)))
        content = io.BytesIO()  # (numpy's own error for a full disk does not say so)
        np.save(content, np.array(self.counts, np.int64))
        num_frame.write_bytes(content.getbuffer())

    def _pad(self, path: Path, frames: int) -> None:
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
    """Writes a benchmark into a hidden folder next to its own; `commit` replaces the earlier data by
    the complete new data. Until then the earlier data stays as it is, whatever happens.

    frame_shape  (C, V, M)
    Raises ValueError if another process writes the same benchmark.
    """

    def __init__(self, folder: str | Path, frame_shape: Sequence[int]) -> None:
        self.folder = Path(folder).resolve()  # a link to another disk remains a link
        self.partial = _sibling(self.folder, "partial")
        self.splits: dict[str, SplitWriter] = {}
        self.committed = False
        # Held until the commit or rollback is complete.
        self.lock = FileLock(_sibling(self.folder, "lock"))
        fault = "it is a file" if self.folder.is_file() else ""
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            locked = not fault and self.lock.acquire()
        except OSError as error:
            fault = error.strerror
        if fault:
            raise OSError(f"{self.folder} cannot be written: {fault}\ngive another --out_folder")
        if not locked:
            raise ValueError(
                f"another conversion is writing {self.folder}\n"
                "wait until it is complete, or give another --out_folder"
            )
        try:
            recover(self.folder)
            if self.partial.exists():  # of a conversion that was killed
                shutil.rmtree(self.partial)
            self.partial.mkdir()
            for split in SPLITS:
                self.splits[split] = SplitWriter(self.partial, split, frame_shape)
        except BaseException:
            self.rollback()
            raise

    def add(self, split: str, clip: Clip) -> None:
        """Append a clip to a split."""
        self.splits[split].add(clip)

    @property
    def names(self) -> list[str]:
        """Of the clips so far."""
        return [name for writer in self.splits.values() for name in writer.names]

    def __len__(self) -> int:
        """The number of clips so far."""
        return sum(len(writer.names) for writer in self.splits.values())

    def finish(self, meta: dict[str, Any], frames: int | None = None) -> dict[str, Any]:
        """Complete the files.

        meta    contents of meta.json without the numbers of clips, the subjects and the cameras
        frames  pad each clip with zeros to this length, or that of the longest clip
        Returns the contents of meta.json.
        """
        meta = meta | {"clips": {split: len(writer.names) for split, writer in self.splits.items()}}
        for field in ("subject", "camera"):
            known = {split: getattr(writer, field + "s") for split, writer in self.splits.items()}
            if any(map(any, known.values())):
                meta[field] = known
        if frames is not None:
            frames = max([frames, *(n for writer in self.splits.values() for n in writer.counts)])
        for writer in self.splits.values():
            writer.finish(frames)
        text = json.dumps(meta, ensure_ascii=False, indent=1)
        # A path that is not UTF-8 contains surrogates; as \udcff they are valid JSON.
        path = self.partial / "meta.json"
        path.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
        return meta

    def commit(self) -> None:
        """Replace the earlier data. If the process is killed between the two renamings, the folder is
        missing and the next conversion restores the earlier data."""
        try:
            if self.folder.exists():
                self.folder.rename(_sibling(self.folder, "replaced"))
            self.partial.rename(self.folder)
        except OSError as error:  # on Windows, while another program reads the earlier data
            recover(self.folder)
            raise OSError(
                f"{self.folder} cannot be replaced: {error}\nclose the programs that use it, then "
                "convert again"
            ) from error
        self.committed = True
        recover(self.folder)
        self.lock.release()

    def rollback(self) -> None:
        """Remove what is not committed."""
        if not self.committed:
            for writer in self.splits.values():
                with contextlib.suppress(OSError):  # on a full disk, closing fails to write the rest
                    writer.file.close()
            shutil.rmtree(self.partial, ignore_errors=True)
        self.lock.release()


def _sibling(folder: Path, suffix: str) -> Path:
    return folder.with_name(f".{folder.name}.{suffix}")


def recover(folder: Path) -> None:
    """Complete or undo an interrupted replacement of `folder`. If it is missing, restore the earlier
    data; otherwise remove the earlier data, but keep the files there that no conversion wrote."""
    earlier = _sibling(folder, "replaced")
    if not earlier.exists():
        return
    if not (folder / "meta.json").is_file():
        if folder.exists():
            folder.rmdir()  # raises OSError unless it is empty
        earlier.rename(folder)
        return
    for path in earlier.iterdir():
        if path.name in WRITTEN:
            path.unlink()
        else:
            os.replace(path, folder / path.name)
    earlier.rmdir()
