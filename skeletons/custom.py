"""Custom recordings: a folder of .npy files with a clips.csv and, for other bodies, a layout.json."""

import contextlib
import csv
import io
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path
from typing import NoReturn

import numpy as np

from skeletons.clip import Clip, InvalidClip
from skeletons.clip_stream import SPLIT_NAMES, ClipStream, Failure, clean_clips
from skeletons.custom_arrays import (
    MAX_SAMPLES,
    ArrayFormat,
    are_scores,
    bone_ratio,
    is_in_large_unit,
    load_clip,
    open_array,
    order_axes,
)
from skeletons.layout import BODY_PARTS, DEPTH_SENSORS, KINECTS, LAYOUTS, Layout

REQUIRED_COLUMNS = ("name", "label")
BENCHMARK_COLUMNS = ("split", "fold")  # one is required
COLUMNS = (*REQUIRED_COLUMNS, *BENCHMARK_COLUMNS, "subject", "camera", "axes")
OLDER_NAMES = {"part": "split", "performer": "subject"}  # of columns
SEPARATORS = ",;\t"
UNKNOWN = {"", "-", "?", "n.a.", "n/a", "na", "nan", "none", "null", "unknown"}  # subjects and cameras
BENCHMARK = "custom"  # of the column split
CHANNELS = (["x", "y"], ["x", "y", "z"], ["x", "y", "score"], ["x", "y", "z", "score"])
LAYOUT_HINT = (
    'add a layout.json that names a known layout, as {"name": "openpose25"} '
    f"({', '.join(LAYOUTS)}), or describes the joints (docs/data.md)"
)
UNLIKE_A_BODY = 0.8  # bone_ratio; 0.3 to 0.5 for bodies


def read_custom(folder: Path, encoding: str = "") -> ClipStream:
    """A folder of custom recordings.

    clips.csv    with the columns name, label, split (train or val) or fold and, if known, subject,
                 camera, axes
    NAME.npy     for each name: (T, V, C) or, with several bodies, (M, T, V, C), or in another order of
                 these axes; C is 2D or 3D, and a score if there is one
    layout.json  if the joints are not those of a Kinect in 3D; see `read_layout`
    encoding     of clips.csv ("": UTF-8, or UTF-16)
    Raises ValueError if the table is wrong, or does not fit the files. A corrupt file is a failure in
    the stream.
    """
    path = find_file(folder, "clips.csv")
    rows, notes = read_table(path, encoding)
    return open_recordings(path, rows, notes, folder)


def open_recordings(
    path: Path,
    rows: Sequence[tuple[int, dict[str, str]]],
    notes: list[str],
    folder: Path,
    failures: Mapping[str, Failure] | None = None,
) -> ClipStream:
    """The recordings that the rows of a clips.csv list.

    path      of the clips.csv; rows and notes are what `read_table` returns
    folder    of the arrays and of the layout.json
    failures  names of clips that cannot be read, and why, as far as this is known
    """
    failures = failures or {}
    classes = sorted({row["label"] for _, row in rows}, key=lambda name: (_number(name), name))
    clips = _read_rows(path, rows, classes)
    axes = {name: re.sub("[^A-Z]", "", row.get("axes", "").upper())
            for name, (_, row) in zip(clips, rows, strict=True) if name not in failures}  # fmt: skip
    notes += _find_doubts(rows, classes)
    form = _find_format(folder, axes, notes)
    files = {folder / f"{name}.npy": clips[name] for name in axes}
    # (A copy of each clip, so that their data does not stay in memory.)
    found = (
        (str(file), replace(clip), partial(load_custom_clip, file, form, axes[clip.name]))
        for file, clip in files.items()
    )
    clean = clean_clips(found, classes, (form.channels, len(form.layout.joints)))
    title = path.absolute().parent.name
    return ClipStream(
        title,
        form.layout,
        classes,
        list(next(iter(clips.values())).splits),
        total=len(clips),
        clips=chain(failures.values(), clean),
        channels=form.channels,
        out_folder=f"{title}-converted",
        notes=notes,
    )


def load_custom_clip(path: Path, form: ArrayFormat, axes: str = "") -> np.ndarray:
    """A .npy file of one clip -> (T, C, V, M), with missing joints filled in. Raises InvalidClip."""
    return load_clip(open_array(path), form, axes)


def find_file(folder: Path, name: str) -> Path:
    """The path of the file of this name in a folder, in whatever capitals its name is."""
    path = folder / name
    if os.path.lexists(path) or not folder.is_dir():
        return path
    return next((file for file in folder.iterdir() if file.name.lower() == name), path)


# --- clips.csv ----------------------------------------------------------------------------------------


def decode_text(path: Path, encoding: str = "") -> str:
    """The contents of a text file: UTF-8, or UTF-16 as spreadsheets write it, if nothing is given."""
    content = path.read_bytes()
    if not encoding:
        encoding = "utf-8-sig"
        if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
            encoding = "utf-16"
        elif b"\0" in content[:2]:  # ASCII in UTF-16 without a byte order mark
            encoding = "utf-16-le" if content[1] == 0 else "utf-16-be"
    try:
        return content.decode(encoding).removeprefix("\ufeff")
    except (UnicodeDecodeError, LookupError) as error:
        raise ValueError(
            f"{path} is not a {path.suffix[1:].upper()} file in "
            f"{encoding.upper().removesuffix('-SIG')}: {error}\n"
            "save it as one in UTF-8, or give its --encoding, such as cp1252 or gbk"
        ) from None


def read_table(path: Path, encoding: str) -> tuple[list[tuple[int, dict[str, str]]], list[str]]:
    """(number of its line, dict) for each row of a CSV file, with commas, semicolons or tabs; notes."""
    text = decode_text(path, encoding)
    # Before the header there may be empty lines, and one in which Excel names the separator.
    start = re.match(r'\s*("?sep=.?"?\s*)?', text)[0]
    file = io.StringIO(text[len(start) :], newline="")
    header = file.readline().strip()
    file.seek(0)
    earlier = len(start.splitlines())
    separator = max(SEPARATORS, key=header.count)
    try:
        table = csv.reader(file, delimiter=separator, skipinitialspace=True)
        columns = [column.strip().lower() for column in next(table, ())]
        for older, name in OLDER_NAMES.items():
            if name not in columns:
                columns = [name if column == older else column for column in columns]
        numbered = [(earlier + table.line_num, list(map(str.strip, row))) for row in table if any(row)]
    except csv.Error as error:
        raise ValueError(f"{path} is not a CSV file: {error}\nsave it as one") from error
    required = [*REQUIRED_COLUMNS, *(set(BENCHMARK_COLUMNS) & set(columns) or BENCHMARK_COLUMNS[:1])]
    if not set(required) <= set(columns) or not numbered:
        raise ValueError(
            f"{path}: its first line is '{header[:100]}'\n"
            "it needs a first line 'name,label,split' (or fold, for cross-validation) and one line per "
            "clip"
        )
    twice = [column for column in COLUMNS if columns.count(column) > 1]
    mixed = [column for column in columns if any(other in column for other in SEPARATORS)]
    if twice or mixed:
        fault = f"two columns '{twice[0]}'" if twice else f"a column '{mixed[0]}'"
        remedy = "remove one" if twice else "separate all columns in the same way"
        raise ValueError(f"{path} has {fault}\n{remedy}")
    for line, row in numbered:
        if any(row[len(columns) :]) or len(row) <= max(map(columns.index, required)):
            raise ValueError(
                f"{path}, line {line}: {len(row)} values for {len(columns)} columns\n"
                f"separate values as in the first line, and put a text with a '{separator}' in quotes"
            )
    rows = [(line, dict(zip_longest(columns, row[: len(columns)], fillvalue="")))
            for line, row in numbered]  # fmt: skip
    ignored = [column for column in columns if column and column not in COLUMNS]
    return rows, [f"columns of {path} that are not used: {', '.join(ignored)}"] if ignored else []


def _read_rows(
    path: Path, rows: Sequence[tuple[int, dict[str, str]]], classes: Sequence[str]
) -> dict[str, Clip]:
    """The rows of clips.csv -> name -> Clip without data."""
    subjects, cameras = (_numbered([row.get(key) for _, row in rows]) for key in ("subject", "camera"))
    clips: dict[str, Clip] = {}
    files: set[str] = set()
    every_splits = _read_splits(path, rows)
    for (line, row), subject, camera, splits in zip(rows, subjects, cameras, every_splits, strict=True):
        name = re.sub(r"\.npy$", "", row["name"].replace("\\", "/"), flags=re.IGNORECASE)
        file = os.path.normpath(path.parent.absolute() / name)  # a, ./a and b/../a are one file
        if file in files:
            raise ValueError(f"{path}, line {line}: {name} is listed twice\nremove one of the lines")
        if not row["label"]:
            raise ValueError(f"{path}, line {line}: {name} has no label\nadd the name of its class")
        files.add(file)
        clips[name] = Clip(name, classes.index(row["label"]), None, subject, camera, splits)
    for benchmark in every_splits[0]:
        labels = {split: {row["label"] for (_, row), splits in zip(rows, every_splits, strict=True)
                          if splits[benchmark] == split} for split in SPLIT_NAMES.values()}  # fmt: skip
        if labels["train"] and (test_only := labels["val"] - labels["train"]):
            of = "" if benchmark == BENCHMARK else f" of {benchmark}"
            raise ValueError(
                f"{path}: no training clip{of} has the label {', '.join(sorted(test_only))}\n"
                "check its spelling, or add training clips"
            )
    return clips


def _read_splits(path: Path, rows: Sequence[tuple[int, dict[str, str]]]) -> list[dict[str, str]]:
    """The splits of each row: of BENCHMARK by the column split, of a benchmark per fold by the column
    fold, as far as the table has these columns."""
    every_splits: list[dict[str, str]] = [{} for _ in rows]
    if "split" in rows[0][1]:
        named: dict[str, str] = {}
        for (line, row), splits in zip(rows, every_splits, strict=True):
            split = SPLIT_NAMES.get(row["split"].lower())
            if split is None:
                raise ValueError(
                    f"{path}, line {line}: split is '{row['split']}'\nit must be train or val"
                )
            if named.setdefault(split, row["split"].lower()) != row["split"].lower():
                raise ValueError(
                    f"{path} has val and test clips; val means the test split here\n"
                    "call the validation clips train: train.py takes its validation clips from them"
                )
            splits[BENCHMARK] = split
    if "fold" in rows[0][1]:
        folds = _read_folds(path, rows)
        names = sorted(set(folds))
        for fold, splits in zip(folds, every_splits, strict=True):
            splits |= {name: "val" if name == fold else "train" for name in names}
    return every_splits


def _read_folds(path: Path, rows: Sequence[tuple[int, dict[str, str]]]) -> list[str]:
    """The fold in whose test each row is: "fold" and its label, as the name of a folder."""
    alike: dict[float | str, str] = {}
    folds = []
    for line, row in rows:
        label = row["fold"]
        if label.lower() in UNKNOWN:
            raise ValueError(f"{path}, line {line}: no fold\ngive every clip the fold that tests it")
        short = re.sub(r"^fold(?=.)", "", label, flags=re.IGNORECASE)
        folds.append("fold" + re.sub(r"[^\w.+-]+", "-", short).rstrip("."))
        other = alike.setdefault(float(short) if _is_number(short) else folds[-1].casefold(), label)
        if other != label:  # (folders A and a are one on Windows)
            raise ValueError(
                f"{path}, line {line}: the folds '{other}' and '{label}' have nearly the same name\n"
                "write it in one way if they are one fold, else rename one"
            )
    if len(set(folds)) < 2:
        raise ValueError(f"{path}: all clips have the fold '{label}'\ngive two folds or more")
    return folds


def _find_doubts(rows: Sequence[tuple[int, dict[str, str]]], classes: Sequence[str]) -> list[str]:
    """Notes on what is probably meant in another way."""
    notes = []
    subjects = sorted({row.get("subject", "") for _, row in rows})
    for what, texts in (("classes", classes), ("subjects", subjects)):
        alike: dict[float | str, list[str]] = {}
        for text in texts:
            alike.setdefault(_number(text) or re.sub(r"[\s_-]+", " ", text).casefold(), []).append(text)
        notes += [f"WARNING: {', '.join(names)} are different {what}; do you mean one?"
                  for names in alike.values() if len(names) > 1 and names[0].lower() not in UNKNOWN
                  and (what == "classes" or len(set(_numbered(names))) > 1)]  # fmt: skip
    unknown = [(row.get("subject") or "").lower() in UNKNOWN for _, row in rows]
    if any(unknown) and not all(unknown):
        notes.append(
            f"WARNING: {sum(unknown)} of {len(rows)} clips have no subject; they count as one subject"
        )
    return notes


def _number(text: str) -> float:
    """The number that a text is, or 0."""
    return float(text) if _is_number(text) else 0


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?", text) is not None


def _numbered(values: Sequence[str | None]) -> list[int]:
    """Numbers from 1 are kept; other numbers and names are numbered from 1, in order. Unknown is 0."""
    known = ["" if (value or "").lower() in UNKNOWN else value for value in values]

    def order(name: str) -> tuple[bool, float, str]:
        return not _is_number(name), _number(name), name

    names = sorted(set(filter(None, known)), key=order)
    if all(name.isdecimal() and 0 < int(name) < 2**31 for name in names):
        return [int(value or 0) for value in known]
    return [names.index(value) + 1 if value else 0 for value in known]


# --- What the arrays contain --------------------------------------------------------------------------


def _find_format(folder: Path, axes: Mapping[str, str], notes: list[str]) -> ArrayFormat:
    """The format of the arrays of a folder, by its layout.json, if there is one, and by their numbers.

    axes   name of each clip -> order of its axes, if it is known
    notes  a list to which doubts are added
    """
    given, channels = read_layout(folder) or (None, None)
    layouts = [given] if given else list(KINECTS)
    numbers = {len(channels)} if channels else {2, 3, 4} if given else {3}

    def open_clip(name: str) -> np.ndarray:
        return order_axes(open_array(folder / f"{name}.npy"), layouts, numbers, axes[name])

    shapes: dict[tuple[int, int], list[str]] = {}
    problem = ""
    for name in axes:
        try:
            shapes.setdefault(open_clip(name).shape[1:3], []).append(name)
        except (InvalidClip, OSError) as error:
            problem = f"{name}.npy: {error}"
    if not shapes:
        _refuse_all(folder, axes, given, problem)
    (number, joints), names = max(shapes.items(), key=lambda item: len(item[1]))
    layout = next(layout for layout in layouts if len(layout.joints) == joints)
    some = np.unique(np.linspace(0, len(names) - 1, MAX_SAMPLES).astype(int))
    samples = [open_clip(names[i]) for i in some]
    scores = has_scores(folder, samples, layout, bool(given), channels, notes)
    ratio = bone_ratio([data[:, : number - scores] for data in samples], layout)
    if ratio > UNLIKE_A_BODY:
        notes.append(
            f"WARNING: the bodies do not look like {layout.name}: joints that a bone connects are as "
            "far apart as others; is the order of the joints another one?"
        )
    return ArrayFormat(layout, number - scores, scores)


def _refuse_all(folder: Path, names: Iterable[str], given: Layout | None, problem: str) -> NoReturn:
    """Raise ValueError because none of the clips can be read; `problem` is that of one of them."""
    shape: tuple[int, ...] = ()
    for name in names:
        with contextlib.suppress(InvalidClip, OSError):
            shape = open_array(folder / f"{name}.npy").shape
            break
    *_, joints, channels = (0, 0, *shape)
    fault = f"{folder}: the clips have {joints} joints"
    fits = any(len(layout.joints) == joints and (given or channels == 3)
               for layout in ([given] if given else KINECTS))  # fmt: skip
    if fits or len(shape) not in (3, 4) or channels not in (2, 3, 4):
        raise ValueError(f"{folder / 'clips.csv'}: none of the clips in it can be read\n"
                         f"for example {problem}")  # fmt: skip
    if given:
        raise ValueError(f"{fault}; layout.json describes {len(given.joints)}\n"
                         "correct layout.json, or the arrays")  # fmt: skip
    if joints in (len(kinect.joints) for kinect in KINECTS):
        fault += f" with {channels} coordinates; those of a Kinect have 3"
    raise ValueError(f"{fault}; layout.json is missing\n{LAYOUT_HINT}")


def has_scores(
    path: Path,
    samples: Sequence[np.ndarray],
    layout: Layout,
    given: bool,
    channels: Sequence[str] | None,
    notes: list[str],
) -> bool:
    """Whether the last number of each joint is a score, in most of the clips `samples` (T, C, V, M).

    given, channels  whether layout.json names the layout; what it says about the numbers
    notes  a list to which doubts are added
    Raises ValueError if they can be z, or if layout.json must say it.
    """
    if channels:
        return channels[-1] == "score"
    number = samples[0].shape[1]
    parts = [(data[:, :-1], data[:, -1]) for data in samples]
    likely = number > 2 and 2 * sum(are_scores(*part) for part in parts) > len(parts)
    if number == 4 and not likely:
        raise ValueError(f"{path}: the clips have 4 coordinates per joint\n"
                         "they need 2 or 3, and a score from 0 to 1 if there is one")  # fmt: skip
    if number == 4 or not likely:
        return likely
    large = any(is_in_large_unit(xy) for xy, _ in parts)
    if layout in DEPTH_SENSORS and large:
        raise ValueError(f"{path}: the third number of each joint is a score, not z of "
                         f"{layout.name}\n{LAYOUT_HINT}")  # fmt: skip
    if layout in DEPTH_SENSORS and given:
        return False
    if layout not in DEPTH_SENSORS and (large or layout in LAYOUTS.values()):
        notes.append(
            f"the third number of each joint in {path} is from 0 to 1: taken for its score; "
            'if it is z, layout.json must say "channels": ["x", "y", "z"]'
        )
        return True
    raise ValueError(
        f"{path}: the third number of each joint is from 0 to 1: it can be z, or a score\n"
        'layout.json must say "channels": ["x", "y", "z"] or ["x", "y", "score"]'
        + f' and "name": one of {", ".join(LAYOUTS)}'
        * (not given)
    )


# --- layout.json --------------------------------------------------------------------------------------


def read_layout(folder: Path) -> tuple[Layout, list[str] | None] | None:
    """The layout.json in a folder: the name of one of LAYOUTS alone, or joints (names), parents (names
    or indices, null or -1 for the root) and parts (name -> names or indices).

    Returns the layout and what the numbers of each joint are ("channels"), if the file says it; None if
    there is no such file. Raises ValueError.
    """
    path = find_file(folder, "layout.json")
    if not os.path.lexists(path):
        return None
    try:
        fields = json.loads(decode_text(path))
    except OSError as error:
        raise _layout_error(path, str(error.strerror)) from error
    except (ValueError, RecursionError) as error:
        raise _layout_error(path, str(error).partition("\n")[0]) from error
    try:
        return _parse_layout(fields, path.absolute().parent.name)
    except KeyError as error:
        raise _layout_error(path, f"{error} is missing") from error
    except ValueError as error:
        raise _layout_error(path, str(error)) from error


def _layout_error(path: Path, fault: str) -> ValueError:
    return ValueError(f"{path} does not describe a layout: {fault}\ndocs/data.md describes the file")


def _parse_layout(fields: object, default_name: str) -> tuple[Layout, list[str] | None]:
    """The contents of a layout.json -> as `read_layout`. Raises KeyError, ValueError."""
    fields = {"name": fields} if isinstance(fields, str) else fields
    if not isinstance(fields, dict):
        raise ValueError("it is not a {...} with joints, parents and parts")
    name, channels = fields.get("name", default_name), fields.get("channels")
    if not isinstance(name, str):
        raise ValueError(f"its name is {name!r}, not text")
    if channels not in (None, *CHANNELS):
        raise ValueError(f"its channels are {channels!r}, none of {', '.join(map(str, CHANNELS))}")
    if not fields.keys() & {"joints", "parents", "parts"} and "name" in fields:
        known = {re.sub("[^a-z0-9]", "", known): layout for known, layout in LAYOUTS.items()}
        known["body25"] = LAYOUTS["openpose25"]
        key = re.sub("[^a-z0-9]", "", name.lower())
        if key not in known:
            raise ValueError(f"'{name}' is none of {', '.join(LAYOUTS)}, and joints are missing")
        return known[key], channels
    joints, parents, parts = fields["joints"], fields["parents"], fields["parts"]
    if not isinstance(joints, list) or not all(isinstance(joint, str) for joint in joints):
        raise ValueError("its joints are not a list of names")
    if len(set(joints)) != len(joints):
        raise ValueError("two joints have the same name")
    if not isinstance(parents, list):
        raise ValueError("its parents are not a list")
    if not isinstance(parts, dict) or not all(isinstance(part, list) for part in parts.values()):
        raise ValueError("its parts are not lists of joints by the name of the part")

    def index(joint: object) -> int:
        if isinstance(joint, int) and not isinstance(joint, bool) and 0 <= joint < len(joints):
            return joint
        if joint not in joints:
            remedy = f"; numbers count from 0 to {len(joints) - 1}" * isinstance(joint, int)
            raise ValueError(f"{joint or repr(joint)} is not among its joints{remedy}")
        return joints.index(joint)

    members: dict[str, tuple[int, ...]] = {}
    for part, names in parts.items():
        if not names:
            raise ValueError(f"the part '{part}' has no joints; leave it out")
        plain = re.sub(r"[\s_-]+", " ", part).strip().lower()
        members[plain if plain in BODY_PARTS else part] = tuple(map(index, names))
    parents = tuple(-1 if joint is None or joint == -1 else index(joint) for joint in parents)
    if len(parents) == len(joints) and parents.count(-1) != 1:
        raise ValueError(
            f"{parents.count(-1)} joints have the parent null or -1; it must be one, the root. Numbers "
            "of joints count from 0"
        )
    return Layout(name, tuple(joints), parents, members), channels
