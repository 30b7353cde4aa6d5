"""Custom recordings: a folder of .npy files with a clips.csv and, for other bodies, a layout.json."""

import csv
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from pathlib import Path

import numpy as np

from skeletons.clip import Clip, InvalidClip
from skeletons.clip_stream import MAX_CLIP_BYTES, SPLIT_NAMES, ClipStream, clean_clips
from skeletons.layout import LAYOUTS, Layout
from skeletons.storage import read_array

REQUIRED_COLUMNS = ("name", "label", "split")
OLDER_NAMES = {"part": "split", "performer": "subject"}  # of columns
BENCHMARK = "custom"  # the only one


def read_custom(folder: Path) -> ClipStream:
    """A folder of custom recordings.

    clips.csv    with the columns name, label, split (train or val) and, if known, subject and camera
    NAME.npy     for each name: (T, V, C) or, with several bodies, (M, T, V, C), 2D or 3D
    layout.json  if the joints are not those of a Kinect; see `read_layout`
    Raises ValueError if the table is wrong, or does not fit the files. A corrupt file is a failure in
    the stream.
    """
    path = folder / "clips.csv"
    rows = _read_table(path)
    classes = sorted({row["label"] for _, row in rows}, key=lambda name: (_number(name), name))
    clips = _read_rows(path, rows, classes)
    shapes, problem = Counter(), ""
    for name in clips:
        try:
            shapes[open_custom_clip(folder / f"{name}.npy").shape[1:3]] += 1
        except (InvalidClip, OSError) as error:
            problem = f"{name}.npy: {error}"
    if not shapes:
        raise ValueError(f"{path}: none of the clips in it can be read\nfor example {problem}")
    (channels, joints), _ = shapes.most_common(1)[0]  # a clip of another shape is corrupt
    layout = _find_layout(folder, channels, joints)
    files = {folder / f"{name}.npy": clip for name, clip in clips.items()}
    # (A copy of each clip, so that their data does not stay in memory.)
    found = (
        (str(file), replace(clip), partial(load_custom_clip, file)) for file, clip in files.items()
    )
    title = folder.absolute().name
    return ClipStream(
        title,
        layout,
        classes,
        [BENCHMARK],
        total=len(clips),
        clips=clean_clips(found, classes, (channels, joints)),
        channels=channels,
        out_folder=f"{title}-converted",
    )


def _read_table(path: Path) -> list[tuple[int, dict[str, str]]]:
    """(number of its line, dict) for each row of a CSV file, with commas or semicolons."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            file.seek(0)
            table = csv.reader(file, delimiter=";" if ";" in header else ",", skipinitialspace=True)
            columns = [column.strip().lower() for column in next(table, ())]
            for older, name in OLDER_NAMES.items():
                if name not in columns:
                    columns = [name if column == older else column for column in columns]
            rows = [(table.line_num, dict(zip_longest(columns, map(str.strip, row), fillvalue="")))
                    for row in table if row]  # fmt: skip
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a CSV file in UTF-8: {error}\nsave it as one") from error
    if not set(REQUIRED_COLUMNS) <= set(columns) or not rows:
        raise ValueError(
            f"{path}: its first line is '{header.strip()[:100]}'\n"
            f"it needs a first line '{','.join(REQUIRED_COLUMNS)}' and one line per clip"
        )
    return rows


def _read_rows(
    path: Path, rows: Sequence[tuple[int, dict[str, str]]], classes: Sequence[str]
) -> dict[str, Clip]:
    """The rows of clips.csv -> name -> Clip without data."""
    subjects, cameras = (_numbered([row.get(key) for _, row in rows]) for key in ("subject", "camera"))
    clips: dict[str, Clip] = {}
    files: set[str] = set()
    labels: dict[str, set[str]] = {split: set() for split in SPLIT_NAMES.values()}
    for (line, row), subject, camera in zip(rows, subjects, cameras, strict=True):
        name, split = row["name"].removesuffix(".npy"), SPLIT_NAMES.get(row["split"])
        if split is None:
            raise ValueError(f"{path}, line {line}: split is '{row['split']}'\nit must be train or val")
        file = os.path.normpath(path.parent.absolute() / name)  # a, ./a and b/../a are one file
        if file in files:
            raise ValueError(f"{path}, line {line}: {name} is listed twice\nremove one of the lines")
        if not row["label"]:
            raise ValueError(f"{path}, line {line}: {name} has no label\nadd the name of its class")
        files.add(file)
        labels[split].add(row["label"])
        clips[name] = Clip(name, classes.index(row["label"]), None, subject, camera, {BENCHMARK: split})
    if labels["train"] and (test_only := labels["val"] - labels["train"]):
        raise ValueError(f"{path}: no training clip has the label {', '.join(sorted(test_only))}\n"
                         "check its spelling, or add training clips")  # fmt: skip
    return clips


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def _numbered(values: Sequence[str | None]) -> list[int]:
    """Numbers are kept; names are numbered from 1. Unknown is 0."""
    names = sorted(set(filter(None, values)))
    if all(name.isdecimal() for name in names):
        return [int(value or 0) for value in values]
    return [names.index(value) + 1 if value else 0 for value in values]


def open_custom_clip(path: Path) -> np.ndarray:
    """A .npy file (T, V, C) or (M, T, V, C) -> (T, C, V, M), left on disk where possible."""
    if not path.is_file():
        raise InvalidClip("there is no such file")
    if path.stat().st_size > 2 * MAX_CLIP_BYTES:  # (in float64; float32 is checked later)
        raise InvalidClip(f"larger than {2 * MAX_CLIP_BYTES >> 20} MiB, which no clip is")
    try:
        data = read_array(path, mmap=True)
    except ValueError as error:
        fault = str(error.__cause__ or error).partition("\n")[0]
        raise InvalidClip(f"truncated, or not a .npy file of numbers: {fault}") from None
    if data.ndim not in (3, 4):
        raise InvalidClip(f"an array {data.shape}, neither (T, V, C) nor (M, T, V, C)")
    return (data if data.ndim == 4 else data[None]).transpose(1, 3, 2, 0)


def load_custom_clip(path: Path) -> np.ndarray:
    """As `open_custom_clip`, with missing joints interpolated."""
    data = open_custom_clip(path)
    if data.size * data.itemsize > MAX_CLIP_BYTES or not np.isnan(data).any():
        return data
    return interpolate_missing_joints(data)


def interpolate_missing_joints(data: np.ndarray) -> np.ndarray:
    """Clip (T, C, V, M) with NaN for missing joints -> float32 without NaN.

    A missing joint is interpolated linearly between the frames in which it was seen; before the first
    and after the last of them it keeps that position. A body without any visible joint is absent from
    the frame: zeros. Raises InvalidClip for a joint that is never seen.
    """
    data = np.array(data, np.float32)
    missing = np.isnan(data).any(1)  # (T, V, M)
    absent = (missing | (data == 0).all(1)).all(1)  # (T, M)
    for joint, body in np.argwhere(missing.any(0)):
        frames = np.flatnonzero(~absent[:, body])
        known = frames[~missing[frames, joint, body]]
        if len(frames) and not len(known):
            raise InvalidClip(f"joint {joint + 1} is NaN in every frame")
        for trajectory in data[:, :, joint, body].T:
            trajectory[frames] = np.interp(frames, known, trajectory[known]) if len(frames) else 0
    data.transpose(0, 3, 1, 2)[absent] = 0
    return data


def _find_layout(folder: Path, channels: int, joints: int) -> Layout:
    """The layout of the clips in a folder: its layout.json, or the Kinect with as many joints."""
    if channels not in (2, 3):
        raise ValueError(f"{folder}: the clips have {channels} coordinates per joint\n"
                         "they need 2 or 3: arrays are (T, V, C) or (M, T, V, C)")  # fmt: skip
    path = folder / "layout.json"
    by_count = {len(known.joints): known for known in LAYOUTS.values()}
    layout = read_layout(path) if os.path.lexists(path) else by_count.get(joints)
    if not layout:
        raise ValueError(f"{folder}: the clips have {joints} joints; layout.json is missing\n"
                         "add one, as docs/data.md describes")  # fmt: skip
    if len(layout.joints) != joints:
        raise ValueError(f"{folder}: the clips have {joints} joints; layout.json describes "
                         f"{len(layout.joints)}\ncorrect layout.json, or the arrays")  # fmt: skip
    return layout


def read_layout(path: Path) -> Layout:
    """A layout.json: joints (names), parents (names, null for the root), parts (name -> names)."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8-sig"))
        name, joints = fields.get("name", path.parent.name), fields["joints"]
        if not isinstance(name, str):
            raise ValueError(f"its name is {name!r}, not text")
        if not isinstance(joints, list) or not all(isinstance(joint, str) for joint in joints):
            raise ValueError("its joints are not a list of names")

        def numbers(names: Iterable[str]) -> tuple[int, ...]:
            unknown = [name for name in names if name not in joints]
            if unknown:
                raise ValueError(f"{', '.join(map(str, unknown))} is not among its joints")
            return tuple(map(joints.index, names))

        if len(set(joints)) != len(joints):
            raise ValueError("two joints have the same name")
        parents = [-1 if name in (None, -1) else numbers([name])[0] for name in fields["parents"]]
        parts = {part: numbers(names) for part, names in fields["parts"].items()}
        return Layout(name, tuple(joints), tuple(parents), parts)
    except KeyError as error:
        raise ValueError(f"{path} does not describe a layout: {error} is missing\n"
                         "docs/data.md describes the file") from error  # fmt: skip
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} does not describe a layout: {error}\n"
                         "docs/data.md describes the file") from error  # fmt: skip
