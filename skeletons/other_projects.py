"""Data that other projects have preprocessed: padded arrays and .npz files; pickles: annotations.py."""

import math
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from skeletons.clip import MAX_BODIES, Clip, InvalidClip, validate_coordinates
from skeletons.clip_stream import (
    MAX_CLIP_BYTES,
    SPLIT_NAMES,
    ClipStream,
    clean_clips,
    find_repeated,
    fingerprint,
)
from skeletons.custom import has_scores, read_layout
from skeletons.custom_arrays import ArrayFormat, are_scores, check_body, prepare_frames, remaining_axes
from skeletons.datasets import DATASETS, DEFAULT_DATASET, DatasetSpec
from skeletons.layout import KINECTS, LAYOUTS, Layout
from skeletons.safe_pickle import AGAIN, other_kind
from skeletons.storage import (
    SPLITS,
    as_integer,
    as_label,
    find_layout,
    read_meta,
    read_split,
    split_files,
)

MAX_CLIPS = 10_000_000
MAX_CLASSES = 10_000
MAX_FRAMES = 256  # that are looked at
MAX_SAMPLES = 16  # clips whose bodies are compared with the layout

Found = Iterator[tuple[str, Clip, Callable[[], np.ndarray]]]  # what clean_clips takes

# --- Which data set it is -----------------------------------------------------------------------------


def identify(
    path: Path, named: DatasetSpec | None, names: Sequence[str], labels: Sequence[object]
) -> DatasetSpec | None:
    """The published data set of clips with these names and labels; None: somebody's own classes.

    named  the one that the user named; without it, the names of the clips must be NTU's
    Raises ValueError if the names contradict each other, the data set or the labels.
    """
    dataset = named or DATASETS[DEFAULT_DATASET]
    found = {name: dataset.find_name(name) for name in names}
    if not named and not all(found.values()):
        if not any(found.values()):
            return None
        ours, other = (next(n for n in found if bool(found[n]) == known) for known in (True, False))
        raise ValueError(
            f"{path} has clips of {dataset.title} ({ours}) and others ({other})\n"
            f"give --dataset {DEFAULT_DATASET} if all labels are those of it, or separate the clips"
        )
    for name, clip in found.items():
        if clip and not dataset.contains(clip):
            others = [key for key, spec in DATASETS.items()
                      if spec.find_name(clip) and spec.contains(clip)]  # fmt: skip
            remedy = f"give --dataset {' or '.join(others)}" if others else "remove it, or rename it"
            raise ValueError(f"{path}: {name} is not a clip of {dataset.title}\n{remedy}")
    pairs = zip(names, map(as_integer, labels), strict=True)
    wrong = [pair for pair in pairs if read_name(dataset, pair[0])[0] not in (None, pair[1])
             and pair[1] is not None]  # fmt: skip
    if 2 * len(wrong) > len(names):
        name, label = wrong[0]
        expected = read_name(dataset, name)[0]
        raise ValueError(
            f"{path}: the label of {name} is {label}, its name says {expected} ({len(wrong)} of "
            f"{len(names)} labels differ)\ncorrect the labels, which count from 0, or rename the clips"
        )
    return dataset


def read_name(dataset: DatasetSpec | None, name: str) -> tuple[int | None, int, int]:
    """(label, subject, camera) as a clip's name gives them; None or 0 if it does not."""
    clip = dataset.find_name(name) if dataset else ""
    return dataset.parse_name(clip) if clip else (None, 0, 0)


def is_published(name: str) -> bool:
    """Whether a name is that of a clip of a published data set, so that no other clip has it."""
    return any(dataset.find_name(name) for dataset in DATASETS.values())


def complete_clip(clip: Clip, dataset: DatasetSpec | None) -> None:
    """Add subject and camera, as the clip's name gives them. Raises InvalidClip if its label is not
    that of its name."""
    label, clip.subject, clip.camera = read_name(dataset, clip.name)
    if label not in (None, clip.label):
        raise InvalidClip(f"its label is {clip.label}, its name says {label}")


def describe_data(
    path: Path, dataset: DatasetSpec | None, labels: Iterable[object], notes: list[str]
) -> dict[str, Any]:
    """Title, classes, output folder and so on, as fields of a ClipStream. Somebody's own classes are
    called by their numbers, as nothing gives their names.

    notes  a list to which doubts are added
    """
    if dataset:
        names = ("title", "classes", "padded_frames", "official_counts", "out_folder")
        return {name: getattr(dataset, name) for name in names} | {"notes": notes}
    title = path.name.removesuffix(path.suffix) if path.is_file() else path.name
    present = set(map(as_integer, labels))
    classes = count_classes(present)
    notes.append(
        f"{path} does not name its classes: they are called 0 to {classes - 1}; give --dataset if "
        "they are those of a published data set"
    )
    if unused := [label for label in range(classes) if label not in present]:
        notes.append(
            f"WARNING: {len(unused)} of {classes} classes have no clip: no label is {unused[0]}. "
            "Labels count from 0"
        )
    return {
        "title": title,
        "classes": [str(label) for label in range(classes)],
        "out_folder": f"{title}-converted",
        "notes": notes,
    }


def benchmark_name(path: Path) -> str:
    """The name of a file as that of a benchmark: "mine (1).pkl" -> "mine_1"."""
    return re.sub(r"[^\w.+-]+", "_", path.stem, flags=re.ASCII).strip("_.+-") or "data"


def count_classes(labels: Iterable[object]) -> int:
    """The number of classes that these labels need."""
    numbers = filter(None, map(as_integer, labels))  # (None or 0)
    return 1 + max((number for number in numbers if 0 <= number < MAX_CLASSES), default=0)


def find_format(
    path: Path,
    dataset: DatasetSpec | None,
    shape: tuple[int, int],
    clips: Iterable[np.ndarray],
    notes: list[str],
) -> ArrayFormat:
    """The format of a file's bodies: of the layout.json next to it, or that of the data set; a Kinect's
    for somebody's own 3D data.

    shape  how many numbers a joint has, and how many joints there are
    clips  some of them, (T, C, V, M)
    notes  a list to which doubts are added
    Raises ValueError if it is not known, or if most of the clips contradict it.
    """
    number, joints = shape
    if number not in (2, 3, 4):
        raise ValueError(
            f"{path} has {joints} joints with {number} coordinates each\n"
            "they need 2 or 3; is the order of the axes another one? docs/data.md describes the formats"
        )
    given, channels = read_layout(path.parent) or (None, None)
    known = [given] if given else [dataset.layout] if dataset else KINECTS
    fitting = [layout for layout in known if len(layout.joints) == joints]
    counts = [(joints, "joints", given.joints)] if given else []
    counts += [(number, "numbers per joint", channels)] if channels else []
    for count, what, expected in counts:
        if count != len(expected):
            raise ValueError(
                f"{path} has {count} {what}; the layout.json describes {len(expected)}\n"
                "correct it, or move it if it belongs to other data"
            )
    if not given and (number != 3 or not fitting):
        like = [known.name for known in LAYOUTS.values() if len(known.joints) == joints]
        raise ValueError(
            f"{path} has {joints} joints with {number} coordinates, but does not say which they are\n"
            "describe them in a layout.json next to it, such as "
            + " or ".join(f'{{"name": "{name}"}}' for name in like or ["..."])
            + " (docs/data.md)"
            + (f", or choose another --dataset ({', '.join(DATASETS)})" if dataset else "")
        )
    (layout,) = fitting
    samples = [data for data in islice(clips, MAX_SAMPLES) if data.dtype.kind in "iuf"]
    scores = False
    if given and samples and not (dataset and layout == dataset.layout):
        scores = has_scores(path, samples, layout, True, channels, notes)
    elif not dataset and 2 * sum(are_scores(xyz[:, :2], xyz[:, 2]) for xyz in samples) > len(samples):
        notes.append(
            f"WARNING: the third number of each joint in {path} is from 0 to 1: taken for z; if it is "
            'a score, a layout.json next to it must say "channels": ["x", "y", "score"]'
        )
    check_bodies(path, layout, (data[:, : number - scores] for data in samples))
    return ArrayFormat(layout, number - scores, scores)


def load_frames(
    data: np.ndarray,
    form: ArrayFormat,
    dataset: DatasetSpec | None,
    scores: np.ndarray | None = None,
) -> np.ndarray:
    """Frames (T, C, V, M), and scores (T, V, M) if there are any -> the same without scores and missing
    joints, unless the bodies are those of a data set."""
    if dataset and form.layout == dataset.layout:
        return data
    return prepare_frames(data, form, scores)


def check_bodies(path: Path, layout: Layout, clips: Iterable[np.ndarray]) -> None:
    """Raise ValueError if most of the clips (T, C, V, M) contradict the layout."""
    faults: list[InvalidClip | None] = []
    for data in clips:
        try:
            validate_coordinates(np.where(data != data, 0, data))
        except InvalidClip:
            continue  # reported when it is converted
        try:
            check_body(data, layout)
            faults.append(None)
        except InvalidClip as error:
            faults.append(error)
    contradictions = list(filter(None, faults))
    if 2 * len(contradictions) > len(faults):
        raise ValueError(f"{path} is not of {layout.name}\n{contradictions[0]}")


# --- Arrays -------------------------------------------------------------------------------------------


def read_arrays(files: Sequence[Path], named: DatasetSpec | None) -> ClipStream:
    """{train,val}_data.npy with label.pkl and, if it exists, num_frame.npy next to it: padded
    (N, C, T, V, M), or packed as convert_data.py writes them. Each folder is a benchmark."""
    suffix = (named or DATASETS[DEFAULT_DATASET]).suffix
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
        names = [name.removesuffix(suffix) for name in names]
        splits[benchmark, split] = (file, read_meta(file.parent), (data, counts, names, labels))
    if not splits:
        raise FileNotFoundError(f"{files[0]} is not called train_data.npy or val_data.npy\nrename it")
    notes = _find_overlap(splits)
    dataset, fields, form = _common_description(list(splits.values()), named)
    fields["notes"] += notes
    bodies = {meta.get("bodies") or "" for _, meta, _ in splits.values()}
    repeated = set().union(*(find_repeated(names) for *_, (_, _, names, _) in splits.values()))

    def found() -> Found:
        for (benchmark, split), (file, meta, arrays) in splits.items():
            known = [meta[key][split] for key in ("subject", "camera") if key in meta]
            for i, (name, label, frames) in enumerate(_clips_of(*arrays)):
                people = [column[i] for column in known]
                clip = Clip(name, label, None, *people, splits={benchmark: split})
                yield f"{file}, clip {i} ({name})", clip, partial(load, clip, frames, meta)

    def load(clip: Clip, frames: np.ndarray, meta: dict) -> np.ndarray:
        if not (clip.subject or clip.camera):
            complete_clip(clip, dataset)
        return frames if "classes" in meta else load_frames(frames, form, dataset)

    return ClipStream(
        **fields,
        layout=form.layout,
        benchmarks=list(dict.fromkeys(benchmark for benchmark, _ in splits)),
        total=sum(len(arrays[1]) for *_, arrays in splits.values()),
        clips=clean_clips(
            found(),
            fields["classes"],
            (form.channels, len(form.layout.joints)),
            repeated,
            fields["notes"],
            {name for name in repeated if not is_published(name)},
        ),
        channels=form.channels,
        bodies=bodies.pop() if len(bodies) == 1 else "",
        # (The files may be links.)
        folders=tuple(
            folder
            for file, *_ in splits.values()
            for folder in (file.parent.resolve(), file.resolve().parent)
        ),
    )


def _find_overlap(splits: Mapping[tuple[str, str], tuple[Path, dict, tuple]]) -> list[str]:
    """Raise ValueError if a clip is in both splits of a benchmark. Returns notes on names that are in
    both, with other data: somebody's own names need not identify a clip."""
    notes = []
    for benchmark in dict.fromkeys(benchmark for benchmark, _ in splits):
        found = [splits[key] for split in SPLITS if (key := (benchmark, split)) in splits]
        files, names = [file for file, *_ in found], [set(arrays[2]) for *_, arrays in found]
        if len(found) < 2 or not (alike := sorted(names[0] & names[1])):
            continue
        contents = [
            {(name, fingerprint(frames)) for name, _, frames in _clips_of(*arrays) if name in alike}
            for *_, arrays in found
        ]
        equal = {name for name, _ in contents[0] & contents[1]}
        if both := [name for name in alike if name in equal or is_published(name)]:
            raise ValueError(
                f"{files[0]} and {files[1]} have clips in common ({len(both)}): {', '.join(both[:3])}"
                f"{', ...' * (len(both) > 3)}\n"
                "remove them from one of the two: a test clip must not be trained on"
            )
        notes.append(
            f"WARNING: {files[0]} and {files[1]} both have clips called '{alike[0]}', with other data: "
            "taken for other clips; give each clip its own name"
        )
    return notes


def _common_description(
    splits: Sequence[tuple[Path, dict, tuple]], named: DatasetSpec | None
) -> tuple[DatasetSpec | None, dict[str, Any], ArrayFormat]:
    """(data set, fields of a ClipStream, format) of the arrays, which either a meta.json describes or
    the names of their clips. Raises ValueError if their folders differ in them."""
    bare = [(file, arrays) for file, meta, arrays in splits if "classes" not in meta]
    names, labels = ([x for _, arrays in bare for x in arrays[i]] for i in (2, 3))
    dataset = identify(bare[0][0], named, names, labels) if bare else named
    root = Path(os.path.commonpath([file.parent.resolve() for file, *_ in splits]))
    first: tuple[Path, tuple] | None = None
    notes: list[str] = []
    for file, meta, arrays in splits:
        channels, joints = arrays[0].shape[1], arrays[0].shape[-2]
        if "classes" in meta:
            title = meta.get("dataset", root.name)
            dataset = next((spec for spec in DATASETS.values() if spec.title == title), None)
            fields = describe_data(root, dataset, (), [])
            fields |= {"title": title, "classes": meta["classes"]}
            form = ArrayFormat(find_layout(file, joints, channels), channels)
        else:
            _check_axes(file, dataset, arrays[0])
            fields = describe_data(root, dataset, labels, notes)
            clips = (frames for *_, frames in _clips_of(*arrays))
            form = find_format(file, dataset, (channels, joints), clips, notes)
        described = (fields["title"], fields["classes"], form)
        first = first or (file.parent, described)
        for what, one, other in zip(
            ("data set", "classes", "layout"), first[1], described, strict=True
        ):
            if one != other:
                raise ValueError(
                    f"{first[0]} and {file.parent} are not of the same {what}\n"
                    "convert them one after the other, each to its own --out_folder"
                )
    return dataset, fields | {"notes": list(dict.fromkeys(notes))}, form


def _check_axes(file: Path, dataset: DatasetSpec | None, data: np.ndarray) -> None:
    """Raise ValueError if the numbers in an array show that its axes are not (N, C, T, V, M), or not
    (frames, C, V, M); or if they do not tell."""
    given, channels = read_layout(file.parent) or (None, None)
    layouts = [given] if given else [dataset.layout] if dataset else KINECTS
    numbers = {2, 3, 4} if given else {2, 3}
    documented = "NCTVM" if data.ndim == 5 else "NTCVM"
    sample = data[:MAX_SAMPLES] if data.ndim == 5 else data[None, :MAX_FRAMES]
    try:
        axes = remaining_axes(sample, layouts, numbers, documented)
    except InvalidClip:
        return  # (of more bodies than any other order allows)
    if channels:
        axes = [order for order in axes if sample.shape[order.index("C")] == len(channels)]
    if axes and axes != [documented]:
        found, expected = (
            [", ".join(order[data.ndim == 4 :]) for order in orders] for orders in (axes, [documented])
        )
        raise ValueError(
            f"{file} is {data.shape}, which are the axes {' or '.join(found)}\n"
            f"transpose it to ({expected[0]}), with one or two bodies; a layout.json next to it with "
            '"channels" can tell, too'
        )


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


def read_npz(path: Path, named: DatasetSpec | None) -> ClipStream:
    """x_train (N, T, M * V * C), y_train (N, classes), (N,) or (N, 1), x_test (or x_val), y_test; read
    row by row. The data set is the one that the user named, or NTU (NTU 120) if the name of the file
    says so. A layout.json next to the file describes joints that are not those of a Kinect in 3D."""
    is_ntu = re.search("(?<![a-z])ntu", path.stem.lower())
    is_ntu120 = re.search(r"(?<!\d)120(?!\d)", path.stem)
    dataset = named or (DATASETS["ntu120" if is_ntu120 else DEFAULT_DATASET] if is_ntu else None)
    words = re.split("[^a-z]+", path.stem.lower())
    known = (BENCHMARK_WORDS[word] for word in words if word in BENCHMARK_WORDS)
    benchmark = next(known, benchmark_name(path))
    forms = [(layout, 3) for layout in ([dataset.layout] if dataset else KINECTS)]
    if found_layout := read_layout(path.parent):
        given, names = found_layout
        forms = [(given, number) for number in ([len(names)] if names else [3, 2])]
    labels: dict[str, list[int]] = {}
    try:
        archive = zipfile.ZipFile(path)
        suffixes = _npz_suffixes([name.removesuffix(".npy") for name in archive.namelist()])
        found_forms, columns = [], {0}  # (0: whole numbers)
        for split, suffix in suffixes.items():
            shape, _ = _rows(archive, f"x_{suffix}.npy")
            label_shape, rows = _rows(archive, f"y_{suffix}.npy")
            if len(shape) != 3 or label_shape[0] != shape[0] or len(label_shape) > 2:
                raise InvalidClip(f"x_{suffix} is {shape}, y_{suffix} is {label_shape}")
            found_forms.append(_npz_form(f"x_{suffix}", shape[2], forms))
            columns.add(label_shape[1] if label_shape[1:] > (1,) else 0)
            # (-1, which is no label, is refused later.)
            labels[split] = [-1 if label is None else label for label in map(as_label, rows)]
        if len(columns) > 2 or found_forms[0] != found_forms[1]:
            raise InvalidClip("bodies or classes of the training clips are not those of the test clips")
        layout, number = found_forms[0]
        used = range(max(columns)) if max(columns) else list(chain(*labels.values()))
        classes = count_classes(used)
    except (OSError, MemoryError):
        raise
    except InvalidClip as error:
        raise ValueError(
            f"{path}: {error}\nit needs x_train (clips, frames, bodies * joints * coordinates), "
            "y_train (clips,) or (clips, classes), and x_test and y_test in the same way"
        ) from None
    except Exception as error:  # a corrupt file raises nearly anything
        with open(path, "rb") as file:
            fault, remedy = other_kind(file.read(32)) or (str(error), AGAIN)
        raise ValueError(f"{path} is corrupt: {fault}\n{remedy}") from error
    known = len(dataset.classes) if dataset else classes
    if classes > known or not columns <= {0, known}:
        raise ValueError(
            f"{path} has labels of {classes} classes; {dataset.title} has {len(dataset.classes)}\n"
            f"give another --dataset ({', '.join(DATASETS)}); if it is none of them, rename the file"
        )

    def to_frames(row: np.ndarray) -> np.ndarray:
        return row.reshape(len(row), -1, len(layout.joints), number).transpose(0, 3, 2, 1)

    def load(row: np.ndarray) -> np.ndarray:
        return load_frames(to_frames(row), form, dataset)

    def found(load: Callable[[np.ndarray], np.ndarray]) -> Found:
        for split, suffix in suffixes.items():
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
                clip = Clip(f"{suffix}_{i:06}", label, None, splits={benchmark: split})
                yield f"{path}, x_{suffix} {i}", clip, partial(load, row)

    notes: list[str] = []
    if classes < known and not named:
        notes.append(
            f"WARNING: {path} is taken for {dataset.title} because of its name, with clips of the "
            f"first {classes} of {known} classes; rename it if it is not"
        )
    samples = (frames() for *_, frames in found(to_frames))
    fields = describe_data(path, dataset, used, notes)
    form = find_format(path, dataset, (number, len(layout.joints)), samples, notes)
    return ClipStream(
        **fields,
        layout=layout,
        benchmarks=[benchmark],
        total=sum(map(len, labels.values())),
        clips=clean_clips(found(load), fields["classes"], (form.channels, len(layout.joints))),
        channels=form.channels,
    )


def _npz_suffixes(names: Sequence[str]) -> dict[str, str]:
    """Split -> what it is called in the file. Raises InvalidClip if that is not plain."""
    tests = [suffix for suffix in ("test", "val") if f"x_{suffix}" in names]
    if len(tests) > 1:
        raise InvalidClip("x_test and x_val are both test splits; remove one of them")
    suffixes = {"train": "train", "val": tests[0] if tests else "test"}
    expected = [f"{x}_{suffix}" for suffix in suffixes.values() for x in "xy"]
    if missing := [name for name in expected if name not in names]:
        raise InvalidClip(f"it has {', '.join(names) or 'no arrays'}, but no {', '.join(missing)}")
    return suffixes


def _npz_form(name: str, width: int, forms: Sequence[tuple[Layout, int]]) -> tuple[Layout, int]:
    """(layout, coordinates of a joint), among those that are possible, of the array of this name, whose
    frames have so many numbers."""
    fitting = [
        (width / (len(layout.joints) * channels), layout, channels) for layout, channels in forms
    ]
    fitting = [form for form in fitting if form[0] >= 1 and form[0].is_integer()]
    fitting = [form for form in fitting if form[0] <= MAX_BODIES] or fitting
    if len(fitting) != 1:
        known = " or ".join(f"{len(layout.joints)} joints in {channels}D" for layout, channels in forms)
        raise InvalidClip(
            f"a frame of {name} has {width} numbers, which {'can be' if fitting else 'are not'} bodies "
            f"of {known}; a layout.json next to it describes joints and channels"
        )
    return fitting[0][1:]


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
        raise InvalidClip(f"{member} is not a plain array of numbers, row by row: {dtype} {shape}")
    if shape[0] > MAX_CLIPS:
        raise ValueError(f"{member} declares {shape[0]} clips")

    def rows() -> Iterator[np.ndarray]:
        for _ in range(shape[0]):
            content = file.read(size)
            if len(content) < size:
                raise EOFError("truncated")
            yield np.frombuffer(content, dtype).reshape(shape[1:])

    return shape, rows()
