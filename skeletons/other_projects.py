"""Data that other projects have preprocessed: padded arrays, .npz files, pickles of annotations."""

import math
import os
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np

from skeletons.clip import Clip, InvalidClip
from skeletons.clip_stream import (
    MAX_CLIP_BYTES,
    SPLIT_NAMES,
    ClipStream,
    Failure,
    clean_clips,
)
from skeletons.custom import read_layout
from skeletons.datasets import DATASETS, DatasetSpec
from skeletons.layout import Layout
from skeletons.safe_pickle import read_pickle
from skeletons.storage import SPLITS, find_layout, is_integer, read_meta, read_split, split_files

MAX_CLIPS = 10_000_000

Found = Iterator[tuple[str, Clip, Callable[[], np.ndarray]]]  # what clean_clips takes


def _dataset_layout(dataset: DatasetSpec, path: Path, joints: int) -> Layout:
    """The layout of data that does not describe its own."""
    if joints != len(dataset.layout.joints):
        raise ValueError(
            f"{path} has {joints} joints; {dataset.title} has {len(dataset.layout.joints)}\n"
            f"choose another --dataset ({', '.join(DATASETS)}), or make custom recordings of it"
        )
    return dataset.layout


def _subject_and_camera(dataset: DatasetSpec, name: str) -> tuple[int, int]:
    """As the clip's name gives them; 0 if it does not."""
    try:
        return dataset.parse_name(name)[1:]
    except InvalidClip:
        return 0, 0


# --- Arrays -------------------------------------------------------------------------------------------


def read_arrays(files: Sequence[Path], dataset: DatasetSpec) -> ClipStream:
    """{train,val}_data.npy with label.pkl and, if it exists, num_frame.npy next to it: padded
    (N, C, T, V, M), or packed as convert_data.py writes them. Each folder is a benchmark."""
    splits: dict[tuple[str, str], tuple] = {}
    for file in sorted(files):  # data.npy before data_joint.npy
        prefix, _, rest = file.name.partition("_")
        benchmark, split = file.parent.resolve().name, SPLIT_NAMES.get(prefix)
        if not split or (rest == "data_joint.npy" and file.with_name(f"{prefix}_data.npy") in files):
            continue
        if (benchmark, split) in splits:
            earlier = splits[benchmark, split][0]
            raise ValueError(
                f"{earlier} and {file} are both {benchmark} {split}\nconvert only one of them"
            )
        _, label, num_frame = split_files(file.parent, prefix)
        if not label.exists():
            raise FileNotFoundError(
                f"{label} is missing\nit gives the names and labels of the clips in {file}"
            )
        num_frame = num_frame if os.path.lexists(num_frame) else None
        data, counts, names, labels = read_split(file, label, num_frame, mmap=True)
        names = [name.removesuffix(dataset.suffix) for name in names]
        splits[benchmark, split] = (file, read_meta(file.parent), (data, counts, names, labels))
    if not splits:
        raise FileNotFoundError(f"{files[0]} is not called train_data.npy or val_data.npy\nrename it")
    _refuse_overlap(splits)
    title, classes, layout = _common_description(splits.values(), dataset)
    data = next(iter(splits.values()))[2][0]
    bodies = {meta.get("bodies") or "" for _, meta, _ in splits.values()}

    def found() -> Found:
        for (benchmark, split), (file, meta, arrays) in splits.items():
            known = [meta[key][split] for key in ("subject", "camera") if key in meta]
            for i, (name, label, frames) in enumerate(_clips_of(*arrays)):
                people = [column[i] for column in known] or _subject_and_camera(dataset, name)
                clip = Clip(name, label, None, *people, {benchmark: split})
                yield f"{file}, clip {i} ({name})", clip, lambda frames=frames: frames

    return ClipStream.from_dataset(
        dataset,
        dict.fromkeys(benchmark for benchmark, _ in splits),
        total=sum(len(arrays[1]) for *_, arrays in splits.values()),
        clips=clean_clips(found(), classes, (data.shape[1], len(layout.joints))),
        title=title,
        layout=layout,
        classes=classes,
        channels=data.shape[1],
        bodies=bodies.pop() if len(bodies) == 1 else "",
        official_counts=dataset.official_counts if title == dataset.title else {},
        # (The files may be links.)
        folders=tuple(
            folder
            for file, *_ in splits.values()
            for folder in (file.parent.resolve(), file.resolve().parent)
        ),
    )


def _refuse_overlap(splits: Mapping[tuple[str, str], tuple[Path, dict, tuple]]) -> None:
    """Raise ValueError if a clip is in both splits of a benchmark."""
    for benchmark in dict.fromkeys(benchmark for benchmark, _ in splits):
        found = [splits[key] for split in SPLITS if (key := (benchmark, split)) in splits]
        files, names = [file for file, *_ in found], [set(arrays[2]) for *_, arrays in found]
        if len(found) == 2 and (both := sorted(names[0] & names[1])):
            raise ValueError(
                f"{files[0]} and {files[1]} have clips in common ({len(both)}): {', '.join(both[:3])}"
                f"{', ...' * (len(both) > 3)}\n"
                "remove them from one of the two: a test clip must not be trained on"
            )


def _common_description(
    found: Iterable[tuple[Path, dict, tuple]], dataset: DatasetSpec
) -> tuple[str, list[str], Layout]:
    """(title, classes, layout) of the arrays. Raises ValueError if their folders differ in them."""
    first: tuple[Path, tuple[str, list[str], Layout]] | None = None
    for file, meta, (data, *_) in found:
        joints = data.shape[-2]
        layout = find_layout(file, joints) if meta else _dataset_layout(dataset, file, joints)
        title, classes = meta.get("dataset", dataset.title), meta.get("classes", dataset.classes)
        described = (title, classes, layout)
        first = first or (file.parent, described)
        for what, one, other in zip(
            ("data set", "classes", "layout"), first[1], described, strict=True
        ):
            if one != other:
                raise ValueError(
                    f"{first[0]} and {file.parent} are not of the same {what}\n"
                    "convert them one after the other, each to its own --out_folder"
                )
    return first[1]


def _clips_of(
    data: np.ndarray, counts: np.ndarray, names: Sequence[str], labels: Sequence[int]
) -> Iterator[tuple[str, int, np.ndarray]]:
    """What `read_split` returns -> name, label and frames (T, C, V, M) of each clip."""
    starts = np.cumsum(counts) - counts
    for i, (name, label) in enumerate(zip(names, labels, strict=True)):
        if data.ndim == 5:
            yield name, label, data[i, :, : counts[i]].swapaxes(0, 1)
        else:
            yield name, label, data[starts[i] : starts[i] + counts[i]]


# --- .npz ---------------------------------------------------------------------------------------------

# How the files of CTR-GCN and related projects call the benchmarks.
BENCHMARK_WORDS = {"cs": "xsub", "csub": "xsub", "cv": "xview", "cview": "xview", "cset": "xset"}
NPZ_SPLITS = {"train": "train", "val": "test"}


def read_npz(path: Path, dataset: DatasetSpec) -> ClipStream:
    """x_train (N, T, M * V * C), y_train (N, classes) or (N,), x_test, y_test; read row by row."""
    joints = len(dataset.layout.joints)
    words = re.split("[^a-z]+", path.stem.lower())
    benchmark = next((BENCHMARK_WORDS[word] for word in words if word in BENCHMARK_WORDS), path.stem)
    labels = {}
    try:
        archive = zipfile.ZipFile(path)
        for split, suffix in NPZ_SPLITS.items():
            (count, *_, width), _ = _rows(archive, f"x_{suffix}.npy")
            shape, rows = _rows(archive, f"y_{suffix}.npy")
            if width % (3 * joints) or shape[0] != count or len(shape) > 2:
                raise ValueError(f"{count} clips of width {width}, labels of shape {shape}")
            if len(shape) == 2 and shape[1] != len(dataset.classes):
                raise ValueError(f"labels of {shape[1]} classes; is it another --dataset?")
            labels[split] = list(map(_label, rows))
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a corrupt file raises nearly anything
        raise ValueError(
            f"{path} is corrupt, or of something else: {error}\n"
            f"it needs x_train (clips, frames, bodies * {joints} * 3), "
            f"y_train (clips, {len(dataset.classes)}), x_test and y_test of {dataset.title}"
        ) from error

    def found() -> Found:
        for split, suffix in NPZ_SPLITS.items():
            _, rows = _rows(archive, f"x_{suffix}.npy")
            for i, label in enumerate(labels[split]):
                try:
                    row = next(rows)
                except (OSError, MemoryError):
                    raise
                except Exception as error:
                    raise ValueError(
                        f"{path} is corrupt in x_{suffix}, row {i}: {error}\ndownload it again"
                    ) from error
                frames = row.reshape(len(row), -1, joints, 3).transpose(0, 3, 2, 1)
                clip = Clip(f"{suffix}_{i:06}", label, None, splits={benchmark: split})
                yield f"{path}, x_{suffix} {i}", clip, lambda frames=frames: frames

    total = sum(map(len, labels.values()))
    clips = clean_clips(found(), dataset.classes, (3, joints))
    return ClipStream.from_dataset(dataset, [benchmark], total, clips)


def _label(row: np.ndarray) -> int:
    """A label, one-hot or a whole number. -1, which is refused later, if it is neither."""
    if row.ndim:
        return int(row.argmax()) if np.count_nonzero(row) == 1 and row.sum() == 1 else -1
    return int(row) if row.dtype.kind != "b" and float(row).is_integer() else -1


def open_member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    """A file in a .zip file, to be read piece by piece. Raises InvalidClip, KeyError."""
    if archive.getinfo(name).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InvalidClip(f"{name} is compressed by another method than deflate; recompress it")
    return archive.open(name)


def _rows(archive: zipfile.ZipFile, member: str) -> tuple[tuple[int, ...], Iterator[np.ndarray]]:
    """A .npy file in a .zip file -> (shape, iterator over its rows), never the whole array."""
    file = open_member(archive, member)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError(f"{member} is of an unknown version")
    shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
    size = math.prod(shape[1:]) * dtype.itemsize
    if by_columns or dtype.kind not in "biuf" or not shape or not 0 < size <= MAX_CLIP_BYTES:
        raise ValueError(f"{member} is not a plain array of numbers, row by row: {dtype} {shape}")
    if shape[0] > MAX_CLIPS:
        raise ValueError(f"{member} declares {shape[0]} clips")

    def rows() -> Iterator[np.ndarray]:
        for _ in range(shape[0]):
            content = file.read(size)
            if len(content) < size:
                raise EOFError("truncated")
            yield np.frombuffer(content, dtype).reshape(shape[1:])

    return shape, rows()


# --- Pickles of annotations ---------------------------------------------------------------------------


def read_annotations(path: Path, dataset: DatasetSpec) -> ClipStream:
    """A pickled dict: split (benchmark_train, benchmark_val -> names) and annotations, dicts with
    frame_dir or filename (the name), label, total_frames, keypoint (M, T, V, C). If the joints are not
    those of the data set, a layout.json in the same folder describes them."""
    content = read_pickle(path)
    try:
        split, annotations = dict(content["split"]), list(content["annotations"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is not a dict of split and annotations: {error!r}\n"
            "see docs/data.md for the formats that can be converted"
        ) from error
    shapes = Counter(keypoint.shape[2:] for keypoint in map(_keypoint, annotations)
                     if keypoint is not None)  # fmt: skip
    if not shapes:
        raise ValueError(f"{path} has no annotation with a keypoint array (M, T, V, C)\n"
                         "see docs/data.md for the formats that can be converted")  # fmt: skip
    (joints, channels), _ = shapes.most_common(1)[0]  # an annotation of another shape is corrupt
    benchmarks, splits_of = _read_splits(path, split)
    file = path.parent / "layout.json"
    layout = read_layout(file) if os.path.lexists(file) else _dataset_layout(dataset, path, joints)

    def found() -> Found:
        for i, annotation in enumerate(annotations):
            clip = Clip("", -1, None)
            yield (
                f"{path}, annotation {i}",
                clip,
                partial(_load_annotation, annotation, clip, dataset, splits_of),
            )

    annotated = set(filter(None, map(_annotation_name, annotations)))
    missing = [Failure(str(path), "", f"{name} is in a split and has no annotation")
               for name in splits_of if name not in annotated]  # fmt: skip
    cleaned = clean_clips(found(), dataset.classes, (channels, joints))
    return ClipStream.from_dataset(
        dataset,
        benchmarks,
        total=len(annotations) + len(missing),
        clips=chain(cleaned, missing),
        layout=layout,
        channels=channels,
    )


def _keypoint(annotation: object) -> np.ndarray | None:
    """The array (M, T, V, C) of an annotation, or None if it has no such array."""
    keypoint = annotation.get("keypoint") if isinstance(annotation, dict) else None
    return keypoint if isinstance(keypoint, np.ndarray) and keypoint.ndim == 4 else None


def _annotation_name(annotation: object) -> str | None:
    """The name of an annotation's clip, or None if it is not text."""
    if not isinstance(annotation, dict):
        return None
    names = (annotation.get(key) for key in ("frame_dir", "filename"))
    return next((str(name) for name in names if isinstance(name, str)), None)


def _read_splits(path: Path, split: Mapping[Any, Any]) -> tuple[list[str], dict[str, dict[str, str]]]:
    """The split of a pickle -> (benchmarks, name of a clip -> benchmark -> "train" or "val")."""
    splits_of: dict[str, dict[str, str]] = {}
    keys: dict[str, dict[str, str]] = {}  # benchmark -> "train" or "val" -> the key in the file
    for key, names in split.items():
        fields = re.fullmatch(r"(.*?)_?(train|val|test)(\d*)", str(key))
        if not fields:
            raise ValueError(f"{path}: split {key} is neither ..._train nor ..._val nor ..._test\n"
                             "rename or remove it")  # fmt: skip
        benchmark, name = fields[1] + fields[3] or path.stem, SPLIT_NAMES[fields[2]]
        if (earlier := keys.setdefault(benchmark, {}).setdefault(name, key)) != key:
            raise ValueError(f"{path}: {earlier} and {key} are both test splits\nremove one of them")
        listed = isinstance(names, (list, tuple, set)) or (
            isinstance(names, np.ndarray) and names.ndim == 1
        )
        if not listed or not all(isinstance(clip, str) for clip in names):
            raise ValueError(f"{path}: split {key} does not contain names of clips only\n"
                             "it must be a list of names")  # fmt: skip
        for clip in names:
            if splits_of.setdefault(clip, {}).setdefault(benchmark, name) != name:
                raise ValueError(
                    f"{path}: {clip} is in {keys[benchmark]['train']} and in {keys[benchmark]['val']}\n"
                    "remove it from one of them: a test clip must not be trained on"
                )
    return list(keys), splits_of


def _load_annotation(
    annotation: object,
    clip: Clip,
    dataset: DatasetSpec,
    splits_of: Mapping[str, dict[str, str]],
) -> np.ndarray:
    """Complete the clip but for its data; returns the frames (T, C, V, M)."""
    name, keypoint = _annotation_name(annotation), _keypoint(annotation)
    if name is None:
        raise InvalidClip("no frame_dir or filename that is text")
    if keypoint is None:
        raise InvalidClip("no keypoint that is an array (M, T, V, C)")
    label, count = annotation.get("label"), annotation.get("total_frames", keypoint.shape[1])
    for key, value in (("label", label), ("total_frames", count)):
        if not is_integer(value):
            raise InvalidClip(f"no {key} that is a whole number")
    label, count = int(label), int(count)
    clip.name, clip.label, clip.splits = name, label, splits_of.get(name, {})
    clip.subject, clip.camera = _subject_and_camera(dataset, name)
    return keypoint.transpose(1, 3, 2, 0)[: max(count, 0)]
