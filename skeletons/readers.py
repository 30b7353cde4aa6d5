"""The forms in which people hold recordings, each turned into a stream of clips.

    a folder of raw files           or .zip files of them, read without unpacking, several at once
    arrays                          {train,val}_data.npy, padded (ST-GCN, 2s-AGCN) or packed (our own)
    .npz                            x_train, y_train, x_test, y_test (the CTR-GCN family)
    .pkl                            split and annotations (PYSKL, MMAction2)
    a folder with clips.csv         own recordings; the README says how

`open_input` tells them apart. What is damaged comes out of the stream as a Failure.
"""

import math
import os
import re
import stat
import zipfile
import zlib
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path

import numpy as np

from skeletons.clip import Clip, InvalidClip
from skeletons.clip_stream import MAX_CLIP_BYTES, SPLIT_NAMES, ClipStream, Failure, clean_clips
from skeletons.custom import load_custom_clip, read_custom, read_layout
from skeletons.datasets import DATASETS
from skeletons.parallel import in_parallel
from skeletons.safe_pickle import read_pickle
from skeletons.storage import find_layout, read_array, read_meta, read_split, split_files

# Bytes. The longest NTU clip has 2 MB, 4 bodies in it; a larger file would only fill the memory.
MAX_FILE_BYTES = 16 << 20
MAX_CLIPS = 10_000_000


def open_input(paths, dataset_name="ntu", ignored=frozenset(), bodies="follow", jobs=1):
    """Find out what `paths` hold -> ClipStream.

    ignored  names of clips to leave out, of raw files
    bodies   one of recordings.BODY_RULES, for raw NTU files
    jobs     processes that read raw files
    Raises FileNotFoundError or ValueError with what was looked for and the remedy.
    """
    dataset = DATASETS[dataset_name]
    paths = [Path(path) for path in paths]
    paths = [path.parent if path.name == "clips.csv" else path for path in paths]
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist: {usage_hint(dataset)}")
        single = {".npz": read_npz, ".pkl": read_annotations, ".pickle": read_annotations}.get(
            path.suffix
        )
        single = read_custom if (path / "clips.csv").is_file() else single
        if single and len(paths) > 1:
            raise ValueError(f"{path} is converted alone: give one --data_path, then the other")
        if single:
            return single(path, dataset)
    files = list_files(paths, dataset.ending)
    arrays = [Path(file) for file in files if file.endswith(("_data.npy", "_data_joint.npy"))]
    prepared = {path.parent for path in arrays}  # (a meta.json beside them is no recording)
    raw = [f for f in files if f.endswith(dataset.ending) and Path(f).parent not in prepared]
    zips = [file for file in files if file.endswith(".zip") and Path(file).is_file()]
    if raw or zips:
        return read_raw(raw, zips, dataset_name, ignored, bodies, jobs)
    if arrays:
        return read_arrays(arrays, dataset)
    raise FileNotFoundError(f"no {dataset.ending} files in {paths[0]}: {usage_hint(dataset)}")


def read_clips(path, dataset_name="ntu", bodies="follow"):
    """The clips in a file or folder of any form, to be recognised: a raw file of any data set under any
    name; a .npy of one clip, (T, V, C) or (M, T, V, C), or of many, (N, C, T, V, M); or what
    `open_input` reads -> iterator of Clip and Failure. Labels of the first two are 0."""
    path = Path(path)
    raw = {dataset.ending: dataset for dataset in DATASETS.values()}
    prepared = path.name.endswith(("_data.npy", "_data_joint.npy"))
    if path.suffix in raw and path.exists():
        try:
            yield Clip(path.stem, 0, raw[path.suffix].parse(_content("", str(path)), bodies)[1])
        except Exception as error:
            yield Failure.of(str(path), error)
    elif path.suffix == ".npy" and path.exists() and not prepared:
        try:
            many = read_array(path, mmap=True)
            clips = (
                many.swapaxes(1, 2) if many.ndim == 5 else [load_custom_clip(path)]
            )  # (T, C, V, M) each
            if not len(clips):
                raise ValueError("no clip in it")
        except Exception as error:
            yield Failure.of(str(path), error)
            return
        names = [f"{path.stem} {i}" for i in range(len(clips))] if len(clips) > 1 else [path.stem]
        found = (
            (f"{path.parent / name}", Clip(name, 0, None), lambda clip=clip: clip)
            for name, clip in zip(names, clips, strict=False)
        )
        yield from clean_clips(found, [""], clips[0].shape[1:3])
    else:
        try:
            items = open_input([path], dataset_name, bodies=bodies).items
        except FileNotFoundError:
            reason = "no clips in it in a form that convert_data.py reads"
            yield Failure(str(path), "", reason if path.exists() else "there is no such file")
        except (OSError, ValueError) as error:
            yield Failure(str(path), "", str(error))
        else:
            yield from items


def usage_hint(dataset):
    return (
        f"with --data_path give the folder of the raw {dataset.ending} files of {dataset.title}, or "
        ".zip files of them, or data converted for another project (a folder of *_data.npy, a .npz, a "
        ".pkl), or a folder of your own recordings with a clips.csv; or choose another --dataset "
        f"({', '.join(DATASETS)})"
    )


def list_files(paths, ending):
    """All files in and below `paths`, and folders under a raw file's name, as strings; none that are
    hidden."""
    found = [str(path) for path in paths if not path.is_dir()]
    for path in paths:
        for folder, folders, files in os.walk(path):
            files += (name for name in folders if name.endswith(ending))
            found += (f"{folder}/{name}" for name in files if not name.startswith("."))
    return found


# --- Raw files ----------------------------------------------------------------------------------------


def read_raw(files, zips, dataset_name, ignored, bodies, jobs):
    """Raw files of a data set, one clip each, in folders and in .zip files."""
    dataset = DATASETS[dataset_name]
    found = [("", file) for file in files]
    for path in zips:
        try:
            with zipfile.ZipFile(path) as archive:
                found += ((path, name) for name in archive.namelist() if name.endswith(dataset.ending))
        except Exception as error:  # a damaged directory raises nearly anything
            raise ValueError(f"{path} is no complete .zip file, download it again: {error}") from error
    entries = sorted((_stem(file), archive, file) for archive, file in found)
    entries = [entry for entry in entries if not entry[0].startswith(".")]
    kept = [entry for entry in entries if entry[0] not in ignored and dataset.belongs(entry[0])]
    if not entries:
        raise FileNotFoundError(
            f"no {dataset.ending} files in {', '.join(zips)}: {usage_hint(dataset)}"
        )
    if not kept:
        raise ValueError(
            f"all {len(entries)} {dataset.ending} files are left out, as listed as missing or not in "
            f"{dataset.title}: is it another --dataset ({', '.join(DATASETS)})?"
        )

    def clips():
        seen = {}
        read = partial(_read_file, dataset_name, bodies)
        for (_, archive, file), item in zip(kept, in_parallel(read, kept, jobs), strict=True):
            if isinstance(item, Clip):
                if item.name in seen:
                    yield Failure(
                        display_path(archive, file), "", f"the same clip as {seen[item.name]}"
                    )
                    continue
                seen[item.name] = display_path(archive, file)
                item.parts = dataset.parts(item)
            yield item

    excluded = len(entries) - len(kept)
    return ClipStream.of(dataset, dataset.benchmarks, len(kept), clips(), excluded=excluded)


def _stem(file):
    """A clip's name. (pathlib would take seconds for all files of NTU.)"""
    return file.replace("\\", "/").rpartition("/")[2].rpartition(".")[0]


def display_path(archive, file):
    return f"{archive}/{file}" if archive else file


def _read_file(dataset_name, bodies, entry):
    """One raw file -> Clip or Failure; runs in the worker processes."""
    name, archive, file = entry
    try:
        return DATASETS[dataset_name].read(name, _content(archive, file), bodies)
    except Exception as error:
        return Failure.of(display_path(archive, file), error)


def _content(archive, file):
    """The bytes of a file or of a member of a .zip file."""
    if not archive:
        status = os.stat(file)  # noqa: PTH116 (this is faster than pathlib, and often called)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidClip("not a file, but a folder or a device")
        _check_size(status.st_size)
        with open(file, "rb", buffering=0) as opened:
            return opened.read()
    try:
        with _open_member(_open_zip(archive, os.getpid()), file) as member:
            content = member.read(MAX_FILE_BYTES + 1)  # whatever size it claims
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise InvalidClip(f"damaged in the .zip file: {error}") from None
    _check_size(len(content))
    return content


def _open_member(archive, name):
    if archive.getinfo(name).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InvalidClip(f"{name} is compressed neither by deflate nor not at all: zip it anew")
    return archive.open(name)


def _check_size(size):
    if size > MAX_FILE_BYTES:
        raise InvalidClip(f"larger than {MAX_FILE_BYTES >> 20} MiB, which no clip is")


@lru_cache(maxsize=8)
def _open_zip(path, process):
    """(A forked process must not share its parent's file position.)"""
    return zipfile.ZipFile(path)


def _layout_of(dataset, path, joints):
    """The layout of data beside whose file `path` no meta.json stands."""
    if joints != len(dataset.layout.joints):
        raise ValueError(
            f"{path} has {joints} joints, {dataset.title} has {len(dataset.layout.joints)}: choose "
            f"another --dataset ({', '.join(DATASETS)}), or make own recordings of it (README)"
        )
    return dataset.layout


def _people(dataset, name):
    """(subject, camera), where the name of the clip tells."""
    try:
        return dataset.identify(name)[1:]
    except InvalidClip:
        return 0, 0


def read_arrays(files, dataset):
    """{train,val}_data.npy with label.pkl and, where there is one, num_frame.npy beside: padded
    (N, C, T, V, M), or packed as convert_data.py writes them. Each folder is a benchmark."""
    parts = {}
    for file in sorted(files):  # data.npy before data_joint.npy
        prefix, _, ending = file.name.partition("_")
        key = (file.resolve().parent.name, SPLIT_NAMES.get(prefix))
        if not key[1] or (ending == "data_joint.npy" and file.with_name(f"{prefix}_data.npy") in files):
            continue
        if key in parts:
            raise ValueError(f"{parts[key][0]} and {file} are both {' '.join(key)}: convert one alone")
        _, label, num_frame = split_files(file.parent, prefix)
        if not label.exists():
            raise FileNotFoundError(f"{label} is missing: names and labels of the clips in {file}")
        num_frame = num_frame if num_frame.exists() else None
        parts[key] = (file, read_meta(file.parent), read_split(file, label, num_frame, mmap=True))
    if not parts:
        raise FileNotFoundError(f"{files[0]} is not called train_data.npy or val_data.npy: rename it")
    first, meta, (data, *_) = next(iter(parts.values()))
    channels, joints = data.shape[1], data.shape[-2]
    layout = find_layout(first, joints) if meta else _layout_of(dataset, first, joints)
    classes = meta.get("classes", dataset.classes)

    def found():
        for (benchmark, part), (file, meta, (data, counts, names, labels)) in parts.items():
            starts = np.cumsum(counts) - counts
            known = [meta[key][part] for key in ("subject", "camera") if key in meta]
            for i, name in enumerate(names):
                name = name.removesuffix(dataset.ending)
                people = [column[i] for column in known] if known else _people(dataset, name)
                if data.ndim == 5:
                    frames = data[i, :, : counts[i]].swapaxes(0, 1)
                else:
                    frames = data[starts[i] : starts[i] + counts[i]]
                clip = Clip(name, labels[i], None, *people, {benchmark: part})
                yield f"{file}, clip {i} ({name})", clip, lambda frames=frames: frames

    return ClipStream.of(
        dataset,
        dict.fromkeys(benchmark for benchmark, _ in parts),
        total=sum(len(arrays[1]) for *_, arrays in parts.values()),
        items=clean_clips(found(), classes, (channels, len(layout.joints))),
        title=meta.get("dataset", dataset.title),
        layout=layout,
        classes=classes,
        channels=channels,
        folders=tuple(file.resolve().parent for file, *_ in parts.values()),
    )


# How the files of the CTR-GCN family and their relatives call the benchmarks.
BENCHMARK_WORDS = {"cs": "xsub", "csub": "xsub", "cv": "xview", "cview": "xview", "cset": "xset"}
NPZ_PARTS = {"train": "train", "val": "test"}


def read_npz(path, dataset):
    """x_train (N, T, M * V * C), y_train (N, classes) or (N,), x_test, y_test; read row by row."""
    joints = len(dataset.layout.joints)
    words = re.split("[^a-z]+", path.stem.lower())
    benchmark = next((BENCHMARK_WORDS[word] for word in words if word in BENCHMARK_WORDS), path.stem)
    labels = {}
    try:
        archive = zipfile.ZipFile(path)
        for part, suffix in NPZ_PARTS.items():
            (count, *_, width), _ = _rows(archive, f"x_{suffix}.npy")
            shape, rows = _rows(archive, f"y_{suffix}.npy")
            if width % (3 * joints) or shape[0] != count:
                raise ValueError(f"{count} clips of width {width}, labels of shape {shape}")
            if len(shape) == 2 and shape[1] != len(dataset.classes):
                raise ValueError(f"labels of {shape[1]} classes; is it another --dataset?")
            # One-hot or a number; a row that names no class, or several, is refused later.
            one_hot = (row.argmax() if row.sum() == 1 else -1 for row in rows)
            labels[part] = list(map(int, one_hot if len(shape) == 2 else rows))
    except Exception as error:  # a damaged file raises nearly anything
        raise ValueError(
            f"{path} is damaged, or does not hold x_train (clips, frames, bodies * {joints} * 3), "
            f"y_train (clips, {len(dataset.classes)}), x_test and y_test of {dataset.title}: {error}"
        ) from error

    def found():
        for part, suffix in NPZ_PARTS.items():
            _, rows = _rows(archive, f"x_{suffix}.npy")
            for i, label in enumerate(labels[part]):
                try:
                    row = next(rows)
                except Exception as error:
                    raise ValueError(f"{path} is damaged in x_{suffix} at {i}: {error}") from error
                frames = row.reshape(len(row), -1, joints, 3).transpose(0, 3, 2, 1)
                clip = Clip(f"{suffix}_{i:06}", label, None, parts={benchmark: part})
                yield f"{path}, x_{suffix} {i}", clip, lambda frames=frames: frames

    total = sum(map(len, labels.values()))
    return ClipStream.of(
        dataset, [benchmark], total, clean_clips(found(), dataset.classes, (3, joints))
    )


def _rows(archive, member):
    """A .npy file in a .zip file -> (shape, iterator over its rows), never the whole array."""
    file = _open_member(archive, member)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError(f"{member} is of an unknown version")
    shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
    size = math.prod(shape[1:]) * dtype.itemsize
    if by_columns or dtype.kind not in "biuf" or not shape or not 0 < size <= MAX_CLIP_BYTES:
        raise ValueError(f"{member} is no plain array of numbers, row by row: {dtype} {shape}")
    if shape[0] > MAX_CLIPS:
        raise ValueError(f"{member} claims {shape[0]} clips")

    def rows():
        for _ in range(shape[0]):
            content = file.read(size)
            if len(content) < size:
                raise EOFError("the file ends early")
            yield np.frombuffer(content, dtype).reshape(shape[1:])

    return shape, rows()


def read_annotations(path, dataset):
    """A dict: split (benchmark_train, benchmark_val -> names) and annotations, dicts with frame_dir
    (the name), label, total_frames, keypoint (M, T, V, C). Where the joints are not those of the data
    set, a layout.json beside the file says which they are."""
    content = read_pickle(path)
    try:
        split, annotations = content["split"].items(), list(content["annotations"])
        shapes = [a["keypoint"].shape for a in annotations if isinstance(a, dict) and "keypoint" in a]
        _, _, joints, channels = next(shape for shape in shapes if len(shape) == 4)
    except (KeyError, TypeError, AttributeError, StopIteration) as error:
        raise ValueError(f"{path} is not a dict of split and annotations: {error!r}") from error
    parts_of, benchmarks = {}, {}
    for key, names in split:
        fields = re.fullmatch(r"(.*?)_?(train|val|test)(\d*)", str(key))
        if not fields:
            raise ValueError(f"{path}: split {key} is neither ..._train nor ..._val nor ..._test")
        benchmark, part = fields[1] + fields[3] or path.stem, SPLIT_NAMES[fields[2]]
        if (earlier := benchmarks.setdefault(benchmark, {}).setdefault(part, key)) != key:
            raise ValueError(f"{path}: {earlier} and {key} are both test parts: remove one of them")
        for name in names:
            parts_of.setdefault(name, {})[benchmark] = part
    file = path.parent / "layout.json"
    layout = read_layout(file) if file.is_file() else _layout_of(dataset, path, joints)

    def found():
        for i, annotation in enumerate(annotations):
            clip = Clip("", -1, None)
            yield f"{path}, annotation {i}", clip, partial(load, annotation, clip)

    def load(annotation, clip):
        try:
            clip.name, clip.label = annotation["frame_dir"], int(annotation["label"])
            frames = annotation["keypoint"].transpose(1, 3, 2, 0)
            frames = frames[: int(annotation.get("total_frames", len(frames)))]
            clip.subject, clip.camera = _people(dataset, clip.name)
        except Exception as error:
            raise InvalidClip(f"no frame_dir, label and keypoint (M, T, V, C): {error!r}") from None
        clip.parts = parts_of.get(clip.name, {})
        return frames

    there = [a.get("frame_dir") for a in annotations if isinstance(a, dict)]
    there = {name for name in there if isinstance(name, str)}
    missing = [Failure(str(path), "", f"{name} is in a split and has no annotation")
               for name in parts_of if isinstance(name, str) and name not in there]  # fmt: skip
    items = chain(clean_clips(found(), dataset.classes, (channels, joints)), missing)
    total = len(annotations) + len(missing)
    return ClipStream.of(dataset, benchmarks, total, items, layout=layout, channels=channels)
