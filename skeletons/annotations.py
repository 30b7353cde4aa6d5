"""Pickles of annotations, as PYSKL and MMAction2 write them."""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from skeletons.clip import Clip, InvalidClip
from skeletons.clip_stream import SPLIT_NAMES, ClipStream, Failure, clean_clips, find_repeated
from skeletons.custom_arrays import ArrayFormat
from skeletons.datasets import DatasetSpec
from skeletons.other_projects import (
    Found,
    benchmark_name,
    complete_clip,
    describe_data,
    find_format,
    identify,
    is_published,
    load_frames,
)
from skeletons.safe_pickle import read_pickle
from skeletons.storage import as_integer, as_label, as_text, describe

MAX_NUMBERS = 10_000_000  # of a clip, in lists


def read_annotations(path: Path, named: DatasetSpec | None, need_split: bool = True) -> ClipStream:
    """A pickled dict: split (benchmark_train, benchmark_val -> names) and annotations, dicts with
    frame_dir or filename (the name), label, total_frames, keypoint (M, T, V, C), or (T, V, C) of one
    body. Without split, or as a list of annotations alone, the names must be those of a published
    data set, unless `need_split` is False. If the joints are not those of a Kinect, a layout.json in
    the same folder describes them."""
    split, annotations = _split_and_annotations(path, read_pickle(path))
    shapes = Counter(keypoint.shape[2:] for keypoint in map(_keypoint, annotations)
                     if keypoint is not None)  # fmt: skip
    if not shapes:
        raise ValueError(
            f"{path} has no annotation with a keypoint array (M, T, V, C){_contents(annotations)}\n"
            "save keypoint as one array of numbers per clip; docs/data.md describes the formats"
        )
    (joints, number), _ = shapes.most_common(1)[0]  # an annotation of another shape is corrupt
    known = [(name, as_label(annotation.get("label"))) for annotation in annotations
             if (name := _annotation_name(annotation)) is not None]  # fmt: skip
    names, labels = ([pair[i] for pair in known] for i in (0, 1))
    dataset = identify(path, named, names, labels)
    notes: list[str] = []
    keypoints = filter(lambda keypoint: keypoint is not None, map(_keypoint, annotations))
    clips = (keypoint.transpose(1, 3, 2, 0) for keypoint in keypoints
             if keypoint.shape[2:] == (joints, number))  # fmt: skip
    fields = describe_data(path, dataset, labels, notes)
    form = find_format(path, dataset, (number, joints), clips, notes)
    if split is None:
        unknown = next((name for name in names if not (dataset and dataset.find_name(name))), None)
        if unknown and need_split:
            raise ValueError(
                f"{path} does not say whether {unknown} is for training or for the test\n"
                "save a dict: {'split': {'train': [names], 'val': [names]}, 'annotations': [...]}"
            )
        benchmarks, splits_of = list(dataset.benchmarks) if dataset else [], None
    else:
        benchmarks, splits_of = _read_splits(path, split, Counter(names))

    def found() -> Found:
        for i, annotation in enumerate(annotations):
            clip = Clip("", -1, None)
            yield (
                f"{path}, annotation {i}",
                clip,
                partial(_load_annotation, annotation, clip, dataset, form, splits_of),
            )

    repeated = find_repeated(names)
    unannotated = (splits_of or {}).keys() - set(names)
    missing = [Failure(str(path), "", f"{name} is in a split and has no annotation")
               for name in splits_of or () if name in unannotated]  # fmt: skip
    return ClipStream(
        **fields,
        layout=form.layout,
        benchmarks=benchmarks,
        total=len(annotations) + len(missing),
        clips=chain(
            clean_clips(
                found(),
                fields["classes"],
                (form.channels, joints),
                repeated,
                notes,
                {name for name in repeated if not is_published(name)},
            ),
            missing,
        ),
        channels=form.channels,
    )


def _split_and_annotations(path: Path, content: object) -> tuple[dict | None, list]:
    """The two parts of a pickle of annotations; None if it has no split."""
    split, annotations = None, content
    if isinstance(content, dict):
        split, annotations = content.get("split"), content.get("annotations")
    if not isinstance(annotations, (list, tuple)) or not isinstance(split, (dict, type(None))):
        kind = type(content).__name__.strip("_")
        keys = f" with {', '.join(map(str, content))}"[:200] if isinstance(content, dict) else ""
        raise ValueError(
            f"{path} is not a dict of split and annotations: it is a {kind}{keys}\n"
            "see docs/data.md for the formats that can be converted"
        )
    return split, [_with_arrays(annotation) for annotation in annotations]


def _with_arrays(annotation: object) -> object:
    """An annotation with keypoint (M, T, V, C) and keypoint_score (M, T, V) as arrays, if it has lists,
    or one body without an axis."""
    if not isinstance(annotation, dict):
        return annotation
    arrays = {}
    for key, dimensions in (("keypoint", 3), ("keypoint_score", 2)):
        array = _as_array(annotation.get(key))
        if array is not None:
            arrays[key] = array[None] if array.ndim == dimensions else array
    return annotation | arrays


def _as_array(value: object) -> np.ndarray | None:
    """An array, or lists of lists of numbers or of arrays -> array; None if it is neither, or if it is
    larger than any clip."""
    if isinstance(value, np.ndarray):
        return value
    shape, items = (), [value]
    while all(isinstance(item, (list, tuple)) for item in items):
        shape += (len(items[0]),)
        if {len(item) for item in items} != {shape[-1]} or not 0 < math.prod(shape) <= MAX_NUMBERS:
            return None
        items = list(chain(*items))
    plain = all(isinstance(item, (np.ndarray, np.number, int, float)) for item in items)
    if not plain or len(set(map(np.shape, items))) > 1:
        return None
    return np.array(items).reshape(shape + np.shape(items[0]))


def _contents(annotations: Sequence[object]) -> str:
    """For messages: what the first annotation is."""
    if not annotations:
        return ": it has none"
    first = annotations[0]
    if not isinstance(first, dict):
        return f": the first is a {type(first).__name__}"
    keypoint = first.get("keypoint")
    kind = str(getattr(keypoint, "shape", ""))
    if isinstance(keypoint, (list, tuple)):
        kind = "a list, not of equal lists of numbers"
    return f": the first has {', '.join(map(str, first))}"[:200] + f"; keypoint is {kind}" * bool(kind)


def _keypoint(annotation: object) -> np.ndarray | None:
    """The array (M, T, V, C) of an annotation, or None if it has no such array."""
    keypoint = annotation.get("keypoint") if isinstance(annotation, dict) else None
    return keypoint if isinstance(keypoint, np.ndarray) and keypoint.ndim == 4 else None


def _annotation_name(annotation: object) -> str | None:
    """The name of an annotation's clip, or None if it is not text."""
    if not isinstance(annotation, dict):
        return None
    names = (as_text(annotation.get(key)) for key in ("frame_dir", "filename"))
    return next((name for name in names if name is not None), None)


def _read_splits(
    path: Path, split: Mapping[Any, Any], annotated: Counter[str]
) -> tuple[list[str], dict[str, dict[str, str]]]:
    """The split of a pickle -> (benchmarks, name of a clip -> benchmark -> "train" or "val").

    annotated  names of the clips -> how many have it
    Raises ValueError if it does not say to which split a clip belongs.
    """
    find = _path_finder(annotated.keys())
    splits_of: dict[str, dict[str, str]] = {}
    keys: dict[str, dict[str, str]] = {}  # benchmark -> "train" or "val" -> the key in the file
    for key, names in split.items():
        key = as_text(key) or str(key)
        fields = re.fullmatch(r"(.*?)_?(train|val|test)(\d*)", key, re.IGNORECASE)
        if not fields:
            raise ValueError(f"{path}: split {key} is neither ..._train nor ..._val nor ..._test\n"
                             "rename or remove it")  # fmt: skip
        benchmark, name = fields[1] + fields[3] or benchmark_name(path), SPLIT_NAMES[fields[2].lower()]
        if (earlier := keys.setdefault(benchmark, {}).setdefault(name, key)) != key:
            raise ValueError(f"{path}: {earlier} and {key} are both test splits\nremove one of them")
        listed = isinstance(names, (list, tuple, set)) or (
            isinstance(names, np.ndarray) and names.ndim == 1
        )
        names = list(map(as_text, names)) if listed else [None]
        if None in names:
            raise ValueError(f"{path}: split {key} does not contain names of clips only\n"
                             "it must be a list of names")  # fmt: skip
        for clip in names:
            clip = find(clip)
            if splits_of.setdefault(clip, {}).setdefault(benchmark, name) != name:
                remedy = "remove it from one of them"
                if annotated[clip] > 1:
                    remedy = f"{annotated[clip]} annotations are called so: give each its own name"
                raise ValueError(
                    f"{path}: {clip} is in {keys[benchmark]['train']} and in {keys[benchmark]['val']}\n"
                    f"{remedy}: a test clip must not be trained on"
                )
    return list(keys), splits_of


def _path_finder(annotated: AbstractSet[str]) -> Callable[[str], str]:
    """A function: name in a split -> name of its annotation. If one of them is a path, folder and
    suffix make no difference, as long as only one annotation has the name without them."""

    def base(name: str) -> str:
        return name.replace("\\", "/").rpartition("/")[2]

    def stem(name: str) -> str:
        return re.sub(r"\.\w+$", "", base(name))

    def index(key: Callable[[str], str]) -> dict[str, str]:
        counts = Counter(map(key, annotated))
        return {key(name): name for name in annotated if counts[key(name)] == 1}

    by_base, by_stem = index(base), index(stem)

    def find(name: str) -> str:
        if name in annotated:
            return name
        others = (by_base.get(base(name)), by_base.get(stem(name)), by_stem.get(base(name)))
        return next(filter(None, others), name)

    return find


def _load_annotation(
    annotation: object,
    clip: Clip,
    dataset: DatasetSpec | None,
    form: ArrayFormat,
    splits_of: Mapping[str, dict[str, str]] | None,
) -> np.ndarray:
    """Complete the clip but for its data; returns the frames (T, C, V, M)."""
    name, keypoint = _annotation_name(annotation), _keypoint(annotation)
    if name is None:
        raise InvalidClip("no frame_dir or filename that is text")
    if keypoint is None:
        raise InvalidClip("no keypoint that is an array (M, T, V, C)")
    numbers = []
    for key, default, read in (
        ("label", None, as_label),
        ("total_frames", keypoint.shape[1], as_integer),
    ):
        value = annotation.get(key, default)
        numbers.append(read(value))
        if numbers[-1] is None:
            remedy = "; number the classes from 0" * (key == "label")
            raise InvalidClip(f"no {key} that is a whole number, but {describe(value)}{remedy}")
    label, count = numbers
    bodies, frames = keypoint.shape[:2]
    if count > frames or (bodies > frames and "total_frames" not in annotation):
        known = f"total_frames is {count}" if "total_frames" in annotation else "no total_frames"
        raise InvalidClip(f"{known}, and keypoint is {keypoint.shape}, which should be (M, T, V, C)")
    clip.name, clip.label = name, label
    complete_clip(clip, dataset)
    if splits_of is not None:
        clip.splits = splits_of.get(name, {})
    elif dataset and dataset.find_name(name):
        clip.splits = dataset.splits(clip)
    data, scores = keypoint.transpose(1, 3, 2, 0), annotation.get("keypoint_score")
    if scores is not None:
        if not isinstance(scores, np.ndarray) or scores.shape != keypoint.shape[:3]:
            raise InvalidClip(f"keypoint_score does not fit keypoint {keypoint.shape}")
        scores = scores.transpose(1, 2, 0)
    data = data[: max(count, 0)]
    return load_frames(data, form, dataset, None if scores is None else scores[: len(data)])
