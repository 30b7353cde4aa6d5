"""Pickles of annotations, as PYSKL and MMAction2 write them."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from skeletons.clip import Clip, InvalidClip
from skeletons.clip_stream import SPLIT_NAMES, ClipStream, Failure, clean_clips
from skeletons.custom_arrays import fill_missing_joints
from skeletons.datasets import DatasetSpec
from skeletons.layout import Layout
from skeletons.other_projects import (
    MAX_SAMPLES,
    Found,
    benchmark_name,
    check_bodies,
    complete_clip,
    count_classes,
    describe_data,
    find_data_layout,
    identify,
)
from skeletons.safe_pickle import read_pickle
from skeletons.storage import is_integer


def read_annotations(path: Path, named: DatasetSpec | None) -> ClipStream:
    """A pickled dict: split (benchmark_train, benchmark_val -> names) and annotations, dicts with
    frame_dir or filename (the name), label, total_frames, keypoint (M, T, V, C). Without split, or as a
    list of annotations alone, the names must be those of a published data set. If the joints are not
    those of a Kinect, a layout.json in the same folder describes them."""
    split, annotations = _split_and_annotations(path, read_pickle(path))
    shapes = Counter(keypoint.shape[2:] for keypoint in map(_keypoint, annotations)
                     if keypoint is not None)  # fmt: skip
    if not shapes:
        raise ValueError(
            f"{path} has no annotation with a keypoint array (M, T, V, C){_contents(annotations)}\n"
            "see docs/data.md for the formats that can be converted"
        )
    (joints, channels), _ = shapes.most_common(1)[0]  # an annotation of another shape is corrupt
    known = [(name, annotation.get("label")) for annotation in annotations
             if (name := _annotation_name(annotation))]  # fmt: skip
    names, labels = ([pair[i] for pair in known] for i in (0, 1))
    dataset = identify(path, named, names, labels)
    layout = find_data_layout(path, dataset, channels, joints)
    keypoints = filter(lambda keypoint: keypoint is not None, map(_keypoint, annotations))
    clips = (keypoint.transpose(1, 3, 2, 0) for keypoint in keypoints
             if keypoint.shape[2:] == (joints, channels))  # fmt: skip
    check_bodies(path, layout, islice(clips, MAX_SAMPLES))
    if split is None:
        unknown = next((name for name in names if not (dataset and dataset.find_name(name))), None)
        if unknown:
            raise ValueError(
                f"{path} does not say whether {unknown} is for training or for the test\n"
                "save a dict: {'split': {'train': [names], 'val': [names]}, 'annotations': [...]}"
            )
        benchmarks, splits_of = list(dataset.benchmarks), None
    else:
        benchmarks, splits_of = _read_splits(path, split, set(names))

    def found() -> Found:
        for i, annotation in enumerate(annotations):
            clip = Clip("", -1, None)
            yield (
                f"{path}, annotation {i}",
                clip,
                partial(_load_annotation, annotation, clip, dataset, layout, splits_of),
            )

    unannotated = (splits_of or {}).keys() - set(names)
    missing = [Failure(str(path), "", f"{name} is in a split and has no annotation")
               for name in splits_of or () if name in unannotated]  # fmt: skip
    fields = describe_data(path, dataset, count_classes(labels))
    return ClipStream(
        **fields,
        layout=layout,
        benchmarks=benchmarks,
        total=len(annotations) + len(missing),
        clips=chain(clean_clips(found(), fields["classes"], (channels, joints)), missing),
        channels=channels,
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
    return split, list(annotations)


def _contents(annotations: Sequence[object]) -> str:
    """For messages: what the first annotation is."""
    if not annotations:
        return ": it has none"
    first = annotations[0]
    if not isinstance(first, dict):
        return f": the first is a {type(first).__name__}"
    shape = getattr(first.get("keypoint"), "shape", "")
    return f": the first has {', '.join(map(str, first))}"[:200] + f", keypoint {shape}" * bool(shape)


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


def _read_splits(
    path: Path, split: Mapping[Any, Any], annotated: AbstractSet[str]
) -> tuple[list[str], dict[str, dict[str, str]]]:
    """The split of a pickle -> (benchmarks, name of a clip -> benchmark -> "train" or "val").

    annotated  names of the clips
    """
    find = _path_finder(annotated)
    splits_of: dict[str, dict[str, str]] = {}
    keys: dict[str, dict[str, str]] = {}  # benchmark -> "train" or "val" -> the key in the file
    for key, names in split.items():
        fields = re.fullmatch(r"(.*?)_?(train|val|test)(\d*)", str(key))
        if not fields:
            raise ValueError(f"{path}: split {key} is neither ..._train nor ..._val nor ..._test\n"
                             "rename or remove it")  # fmt: skip
        benchmark, name = fields[1] + fields[3] or benchmark_name(path), SPLIT_NAMES[fields[2]]
        if (earlier := keys.setdefault(benchmark, {}).setdefault(name, key)) != key:
            raise ValueError(f"{path}: {earlier} and {key} are both test splits\nremove one of them")
        listed = isinstance(names, (list, tuple, set)) or (
            isinstance(names, np.ndarray) and names.ndim == 1
        )
        if not listed or not all(isinstance(clip, str) for clip in names):
            raise ValueError(f"{path}: split {key} does not contain names of clips only\n"
                             "it must be a list of names")  # fmt: skip
        for clip in names:
            clip = find(clip)
            if splits_of.setdefault(clip, {}).setdefault(benchmark, name) != name:
                raise ValueError(
                    f"{path}: {clip} is in {keys[benchmark]['train']} and in {keys[benchmark]['val']}\n"
                    "remove it from one of them: a test clip must not be trained on"
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
    layout: Layout,
    splits_of: Mapping[str, dict[str, str]] | None,
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
    bodies, frames = keypoint.shape[:2]
    if count > frames or (bodies > frames and "total_frames" not in annotation):
        known = f"total_frames is {count}" if "total_frames" in annotation else "no total_frames"
        raise InvalidClip(f"{known}, and keypoint is {keypoint.shape}, which should be (M, T, V, C)")
    clip.name, clip.label = name, label
    complete_clip(clip, dataset)
    clip.splits = dataset.splits(clip) if splits_of is None else splits_of.get(name, {})
    data, scores = keypoint.transpose(1, 3, 2, 0), annotation.get("keypoint_score")
    if scores is not None:
        if not isinstance(scores, np.ndarray) or scores.shape != keypoint.shape[:3]:
            raise InvalidClip(f"keypoint_score does not fit keypoint {keypoint.shape}")
        scores = scores.transpose(1, 2, 0)
    if not dataset or layout != dataset.layout:
        data = fill_missing_joints(data, layout, scores)
    return data[: max(count, 0)]
