"""The forms in which people hold recordings, each turned into a stream of clips.

    a folder of raw files           or .zip files of them, read without unpacking, several at once
    arrays                          {train,val}_data.npy, padded (ST-GCN, 2s-AGCN) or packed (our own)
    .npz                            x_train, y_train, x_test, y_test (the CTR-GCN family)
    .pkl                            split and annotations (PYSKL, MMAction2)
    a folder with clips.csv         own recordings; the README says how

`open_source` tells them apart. What is damaged comes out of the stream as a Fault.
"""

import csv
import json
import math
import os
import re
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np

from parallel import in_parallel
from recordings import DATASETS, MAX_BODIES, Clip, SkippedFile, checked
from skeleton import LAYOUTS, Layout
from storage import find_layout, part_files, read_array, read_meta, read_part, read_pickle

# Bytes. The longest NTU clip has 2 MB, 4 bodies in it; a larger file would only fill the memory.
LARGEST_FILE = 16 << 20
LARGEST_CLIP = 256 << 20  # as an array
MOST_CLIPS = 10_000_000


@dataclass
class Fault:
    """A clip that could not be converted."""

    file: str
    where: str
    reason: str

    @classmethod
    def of(cls, file, error):
        """A fault from the exception that it raised."""
        if isinstance(error, SkippedFile):
            return cls(file, error.where, error.reason)
        if isinstance(error, OSError) and error.strerror:
            return cls(file, "", error.strerror)
        return cls(file, "", f"damaged: {type(error).__name__} {str(error)[:200]}")


@dataclass
class Source:
    """What a conversion reads.

    benchmarks  their names; every clip says in which part of which it is
    channels    C of the clips
    total       clips and faults in the stream
    left_out    clips that the data set does without, not read
    padded      as in DataSet
    out_folder  where the benchmarks go if nothing else is said
    folders     that are read, and must not be replaced by what is written
    """

    title: str
    layout: Layout
    classes: list
    benchmarks: list
    total: int
    items: Iterator
    channels: int = 3
    left_out: int = 0
    padded: int = 0
    out_folder: str = ""
    folders: tuple = ()

    @classmethod
    def of(cls, dataset, benchmarks, total, items, **others):
        """A source of clips of a published data set."""
        fields = {name: getattr(dataset, name) for name in ("title", "layout", "classes", "padded")}
        fields |= {"out_folder": dataset.out_folder, "benchmarks": list(benchmarks)}
        return cls(**fields | {"total": total, "items": items} | others)


def open_source(paths, dataset_name="ntu", ignored=frozenset(), bodies="follow", jobs=1):
    """Find out what `paths` hold -> Source.

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
            raise FileNotFoundError(f"{path} does not exist: {_remedy(dataset)}")
        single = {".npz": read_npz, ".pkl": read_annotations, ".pickle": read_annotations}.get(
            path.suffix
        )
        single = read_own if (path / "clips.csv").is_file() else single
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
    raise FileNotFoundError(f"no {dataset.ending} files in {paths[0]}: {_remedy(dataset)}")


def read_clips(path, dataset_name="ntu", bodies="follow"):
    """The clips in a file or folder of any form, to be recognised: a raw file of any data set under any
    name; a .npy of one clip, (T, V, C) or (M, T, V, C), or of many, (N, C, T, V, M); or what
    `open_source` reads -> iterator of Clip and Fault. Labels of the first two are 0."""
    path = Path(path)
    raw = {dataset.ending: dataset for dataset in DATASETS.values()}
    prepared = path.name.endswith(("_data.npy", "_data_joint.npy"))
    if path.suffix in raw and path.exists():
        try:
            yield Clip(path.stem, 0, raw[path.suffix].parse(_content("", str(path)), bodies)[1])
        except Exception as error:
            yield Fault.of(str(path), error)
    elif path.suffix == ".npy" and path.exists() and not prepared:
        try:
            many = read_array(path, mmap=True)
            clips = many.swapaxes(1, 2) if many.ndim == 5 else [_load_own(path)]  # (T, C, V, M) each
            if not len(clips):
                raise ValueError("no clip in it")
        except Exception as error:
            yield Fault.of(str(path), error)
            return
        names = [f"{path.stem} {i}" for i in range(len(clips))] if len(clips) > 1 else [path.stem]
        found = (
            (f"{path.parent / name}", Clip(name, 0, None), lambda clip=clip: clip)
            for name, clip in zip(names, clips, strict=False)
        )
        yield from tidied(found, [""], clips[0].shape[1:3])
    else:
        try:
            items = open_source([path], dataset_name, bodies=bodies).items
        except FileNotFoundError:
            reason = "no clips in it in a form that convert_data.py reads"
            yield Fault(str(path), "", reason if path.exists() else "there is no such file")
        except (OSError, ValueError) as error:
            yield Fault(str(path), "", str(error))
        else:
            yield from items


def _remedy(dataset):
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
        raise FileNotFoundError(f"no {dataset.ending} files in {', '.join(zips)}: {_remedy(dataset)}")
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
                    yield Fault(_shown(archive, file), "", f"the same clip as {seen[item.name]}")
                    continue
                seen[item.name] = _shown(archive, file)
                item.parts = dataset.parts(item)
            yield item

    left_out = len(entries) - len(kept)
    return Source.of(dataset, dataset.benchmarks, len(kept), clips(), left_out=left_out)


def _stem(file):
    """A clip's name. (pathlib would take seconds for all files of NTU.)"""
    return file.replace("\\", "/").rpartition("/")[2].rpartition(".")[0]


def _shown(archive, file):
    return f"{archive}/{file}" if archive else file


def _read_file(dataset_name, bodies, entry):
    """One raw file -> Clip or Fault; runs in the worker processes."""
    name, archive, file = entry
    try:
        return DATASETS[dataset_name].read(name, _content(archive, file), bodies)
    except Exception as error:
        return Fault.of(_shown(archive, file), error)


def _content(archive, file):
    """The bytes of a file or of a member of a .zip file."""
    if not archive:
        status = os.stat(file)  # noqa: PTH116 (this is faster than pathlib, and often called)
        if not stat.S_ISREG(status.st_mode):
            raise SkippedFile("not a file, but a folder or a device")
        _check_size(status.st_size)
        with open(file, "rb", buffering=0) as opened:
            return opened.read()
    try:
        with _open_member(_open_zip(archive, os.getpid()), file) as member:
            content = member.read(LARGEST_FILE + 1)  # whatever size it claims
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise SkippedFile(f"damaged in the .zip file: {error}") from None
    _check_size(len(content))
    return content


def _open_member(archive, name):
    if archive.getinfo(name).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise SkippedFile(f"{name} is compressed neither by deflate nor not at all: zip it anew")
    return archive.open(name)


def _check_size(size):
    if size > LARGEST_FILE:
        raise SkippedFile(f"larger than {LARGEST_FILE >> 20} MiB, which no clip is")


@lru_cache(maxsize=8)
def _open_zip(path, process):
    """(A forked process must not share its parent's file position.)"""
    return zipfile.ZipFile(path)


# --- Data converted by other projects -----------------------------------------------------------------

PART_NAMES = {"train": "train", "val": "val", "test": "val"}


def tidied(found, classes, frame_shape):
    """Clips as others prepared them -> a stream of Clip and Fault.

    found        (what to call it in an error, Clip without data, function that gives the data
                 (T, C, V, M) and may fill in the rest of the clip)
    frame_shape  (C, V)
    """
    for shown, clip, load in found:
        try:
            data = load()
            if data.ndim != 4:
                raise SkippedFile(f"an array of {data.ndim} dimensions")
            if data.shape[1:3] != frame_shape:
                text = "{1} joints with {0} coordinates each"
                there, expected = text.format(*data.shape[1:3]), text.format(*frame_shape)
                raise SkippedFile(f"{there}, where the data set has {expected}")
            if not 0 <= clip.label < len(classes):
                raise SkippedFile(f"its label is not one of 0-{len(classes) - 1}")
            if data.size * 4 > LARGEST_CLIP:
                raise SkippedFile(f"larger than {LARGEST_CLIP >> 20} MiB, which no clip is")
            clip.data = tidy(data)
        except Exception as error:
            yield Fault.of(shown, error)
        else:
            yield clip


def tidy(data):
    """(T, C, V, M) -> float32: the frames that hold somebody, the two bodies that move most."""
    data = checked(data).astype(np.float32)
    there = data.any((1, 2))  # (T, M)
    if not there.any():
        raise SkippedFile("no body in any frame")
    if data.shape[-1] > MAX_BODIES:
        movement = [data[there[:, m], ..., m].var(0).sum() if there[:, m].any() else -1.0
                    for m in range(data.shape[-1])]  # fmt: skip
        kept = np.argsort(movement)[: -MAX_BODIES - 1 : -1]
        data, there = data[..., kept], there[:, kept]
    absent = MAX_BODIES - data.shape[-1]
    return np.pad(data[there.any(1)], ((0, 0), (0, 0), (0, 0), (0, absent)))


def _layout_of(dataset, path, joints):
    """The layout of data beside whose file `path` no meta.json stands."""
    if joints != len(dataset.layout.joints):
        raise ValueError(
            f"{path} has {joints} joints, {dataset.title} has {len(dataset.layout.joints)}: choose "
            f"another --dataset ({', '.join(DATASETS)}), or make own recordings of it (README)"
        )
    return dataset.layout


def _people(dataset, name):
    """(performer, camera), where the name of the clip tells."""
    try:
        return dataset.identify(name)[1:]
    except SkippedFile:
        return 0, 0


def read_arrays(files, dataset):
    """{train,val}_data.npy with label.pkl and, where there is one, num_frame.npy beside: padded
    (N, C, T, V, M), or packed as convert_data.py writes them. Each folder is a benchmark."""
    parts = {}
    for file in sorted(files):  # data.npy before data_joint.npy
        prefix, _, ending = file.name.partition("_")
        key = (file.resolve().parent.name, PART_NAMES.get(prefix))
        if not key[1] or (ending == "data_joint.npy" and file.with_name(f"{prefix}_data.npy") in files):
            continue
        if key in parts:
            raise ValueError(f"{parts[key][0]} and {file} are both {' '.join(key)}: convert one alone")
        _, label, num_frame = part_files(file.parent, prefix)
        if not label.exists():
            raise FileNotFoundError(f"{label} is missing: names and labels of the clips in {file}")
        num_frame = num_frame if num_frame.exists() else None
        parts[key] = (file, read_meta(file.parent), read_part(file, label, num_frame, mmap=True))
    if not parts:
        raise FileNotFoundError(f"{files[0]} is not called train_data.npy or val_data.npy: rename it")
    first, meta, (data, *_) = next(iter(parts.values()))
    channels, joints = data.shape[1], data.shape[-2]
    layout = find_layout(first, joints) if meta else _layout_of(dataset, first, joints)
    classes = meta.get("classes", dataset.classes)

    def found():
        for (benchmark, part), (file, meta, (data, counts, names, labels)) in parts.items():
            starts = np.cumsum(counts) - counts
            known = [meta[key][part] for key in ("performer", "camera") if key in meta]
            for i, name in enumerate(names):
                name = name.removesuffix(dataset.ending)
                people = [column[i] for column in known] if known else _people(dataset, name)
                if data.ndim == 5:
                    frames = data[i, :, : counts[i]].swapaxes(0, 1)
                else:
                    frames = data[starts[i] : starts[i] + counts[i]]
                clip = Clip(name, labels[i], None, *people, {benchmark: part})
                yield f"{file}, clip {i} ({name})", clip, lambda frames=frames: frames

    return Source.of(
        dataset,
        dict.fromkeys(benchmark for benchmark, _ in parts),
        total=sum(len(arrays[1]) for *_, arrays in parts.values()),
        items=tidied(found(), classes, (channels, len(layout.joints))),
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
    return Source.of(dataset, [benchmark], total, tidied(found(), dataset.classes, (3, joints)))


def _rows(archive, member):
    """A .npy file in a .zip file -> (shape, iterator over its rows), never the whole array."""
    file = _open_member(archive, member)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError(f"{member} is of an unknown version")
    shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
    size = math.prod(shape[1:]) * dtype.itemsize
    if by_columns or dtype.kind not in "biuf" or not shape or not 0 < size <= LARGEST_CLIP:
        raise ValueError(f"{member} is no plain array of numbers, row by row: {dtype} {shape}")
    if shape[0] > MOST_CLIPS:
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
        benchmark, part = fields[1] + fields[3] or path.stem, PART_NAMES[fields[2]]
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
            clip.performer, clip.camera = _people(dataset, clip.name)
        except Exception as error:
            raise SkippedFile(f"no frame_dir, label and keypoint (M, T, V, C): {error!r}") from None
        clip.parts = parts_of.get(clip.name, {})
        return frames

    there = [a.get("frame_dir") for a in annotations if isinstance(a, dict)]
    there = {name for name in there if isinstance(name, str)}
    missing = [Fault(str(path), "", f"{name} is in a split and has no annotation")
               for name in parts_of if isinstance(name, str) and name not in there]  # fmt: skip
    items = chain(tidied(found(), dataset.classes, (channels, joints)), missing)
    total = len(annotations) + len(missing)
    return Source.of(dataset, benchmarks, total, items, layout=layout, channels=channels)


# --- Own recordings -----------------------------------------------------------------------------------


def read_own(folder, _):
    """clips.csv with the columns name, label, part (train or val) and, if known, performer and camera;
    for each name a .npy file (T, V, C) or, several bodies, (M, T, V, C), 2D or 3D; layout.json where
    the joints are not a Kinect's."""
    path = folder / "clips.csv"
    rows = _read_table(path, required=("name", "label", "part"))
    classes = {row["label"] for _, row in rows}
    classes = sorted(classes, key=lambda name: (int(name) if name.isdecimal() else 0, name))
    performers, cameras = (
        _numbered([row.get(key) for _, row in rows]) for key in ("performer", "camera")
    )
    clips, shapes, problem = {}, Counter(), ""
    for (line, row), performer, camera in zip(rows, performers, cameras, strict=True):
        name = row["name"].removesuffix(".npy")
        if row["part"] not in PART_NAMES:
            raise ValueError(f"{path}, line {line}: part is '{row['part']}', not train or val")
        if name in clips:
            raise ValueError(f"{path}, line {line}: {name} is listed twice")
        if not row["label"]:
            raise ValueError(f"{path}, line {line}: {name} has no label")
        parts = {"own": PART_NAMES[row["part"]]}
        clips[name] = Clip(name, classes.index(row["label"]), None, performer, camera, parts)
        try:
            shapes[_open_own(folder / f"{name}.npy").shape[1:3]] += 1
        except (SkippedFile, OSError) as error:
            problem = f"{name}.npy: {error}"
    if not shapes:
        raise ValueError(f"none of the clips that {path} names can be read; {problem}")
    (channels, joints), _ = shapes.most_common(1)[0]  # whatever differs is damaged
    file = folder / "layout.json"
    by_count = {len(known.joints): known for known in LAYOUTS.values()}
    layout = read_layout(file) if file.is_file() else by_count.get(joints)
    if channels not in (2, 3):
        raise ValueError(f"{folder}: the clips have {channels} coordinates a joint, not 2 or 3")
    if not layout or len(layout.joints) != joints:
        held = f"describes {len(layout.joints)}" if layout else "is missing; the README says how"
        raise ValueError(f"{folder}: the clips have {joints} joints; {file.name} {held}")
    seen = {part: {row["label"] for _, row in rows if PART_NAMES[row["part"]] == part}
            for part in set(PART_NAMES.values())}  # fmt: skip
    if seen["train"] and (unseen := seen["val"] - seen["train"]):
        raise ValueError(
            f"{path}: no training clip has the label {', '.join(sorted(unseen))}: is it misspelt?"
        )
    files = {folder / f"{name}.npy": clip for name, clip in clips.items()}
    found = ((str(file), clip, partial(_load_own, file)) for file, clip in files.items())
    items = tidied(found, classes, (channels, joints))
    name = folder.absolute().name
    others = {"channels": channels, "out_folder": f"{name}-converted"}
    return Source(name, layout, classes, ["own"], len(clips), items, **others)


def _read_table(path, required):
    """(number of its line, dict) for each row of a CSV file; commas or semicolons."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            file.seek(0)
            table = csv.reader(file, delimiter=";" if ";" in header else ",", skipinitialspace=True)
            columns = [column.strip().lower() for column in next(table, ())]
            rows = [(table.line_num, dict(zip_longest(columns, map(str.strip, row), fillvalue="")))
                    for row in table if row]  # fmt: skip
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a CSV file in UTF-8, save it as one: {error}") from error
    if not set(required) <= set(columns) or not rows:
        raise ValueError(
            f"{path} needs a first line '{','.join(required)}' and a line for each clip; its first "
            f"line is '{header.strip()[:100]}'"
        )
    return rows


def _numbered(values):
    """Numbers as they are; names are numbered from 1. What is not known is 0."""
    names = sorted(set(filter(None, values)))
    if all(name.isdecimal() for name in names):
        return [int(value or 0) for value in values]
    return [names.index(value) + 1 if value else 0 for value in values]


def _open_own(path):
    """A .npy file (T, V, C) or (M, T, V, C) -> (T, C, V, M), left on the disk."""
    if not path.is_file():
        raise SkippedFile("there is no such file")
    try:
        data = read_array(path, mmap=True)
    except ValueError as error:
        raise SkippedFile(
            f"cut short, or no .npy file of numbers: {error.__cause__ or error}"
        ) from None
    if data.ndim not in (3, 4):
        raise SkippedFile(f"an array {data.shape}, neither (T, V, C) nor (M, T, V, C)")
    return (data if data.ndim == 4 else data[None]).transpose(1, 3, 2, 0)


def _load_own(path):
    """As `_open_own`, with NaN filled in."""
    data = _open_own(path)
    if data.size * data.itemsize > LARGEST_CLIP or not np.isnan(data).any():
        return data
    return filled(data)


def filled(data):
    """Clip (T, C, V, M) with NaN -> float32 without.

    A joint that was not seen is put on the straight way between the frames in which it was, before the
    first and after the last of them where it was then. A body of which nothing is seen in a frame is
    absent from it: zeros. Raises SkippedFile for a joint that is never seen.
    """
    data = np.array(data, np.float32)
    unseen = np.isnan(data).any(1)  # (T, V, M)
    absent = (unseen | (data == 0).all(1)).all(1)  # (T, M)
    for joint, body in np.argwhere(unseen.any(0)):
        frames = np.flatnonzero(~absent[:, body])
        known = frames[~unseen[frames, joint, body]]
        if len(frames) and not len(known):
            raise SkippedFile(f"joint {joint + 1} is NaN in every frame")
        for way in data[:, :, joint, body].T:
            way[frames] = np.interp(frames, known, way[known]) if len(frames) else 0
    data.transpose(0, 3, 1, 2)[absent] = 0
    return data


def read_layout(path):
    """A layout.json: joints (names), parents (names, null for the root), parts (name -> names)."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8-sig"))
        joints = list(fields["joints"])

        def numbers(names):
            unknown = [name for name in names if name not in joints]
            if unknown:
                raise ValueError(f"{', '.join(map(str, unknown))} is not among its joints")
            return tuple(map(joints.index, names))

        if len(set(joints)) != len(joints):
            raise ValueError("two joints have the same name")
        parents = [-1 if name in (None, -1) else numbers([name])[0] for name in fields["parents"]]
        parts = {part: numbers(names) for part, names in fields["parts"].items()}
        return Layout(fields.get("name", path.parent.name), tuple(joints), tuple(parents), parts)
    except KeyError as error:
        raise ValueError(f"{path} does not describe a layout: {error} is missing") from error
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} does not describe a layout: {error}") from error
