"""Your own recordings: a folder of .npy files with a clips.csv."""

import csv
import json
from collections import Counter
from functools import partial
from itertools import zip_longest

import numpy as np

from skeletons.clip import Clip, InvalidClip
from skeletons.clip_stream import MAX_CLIP_BYTES, SPLIT_NAMES, ClipStream, clean_clips
from skeletons.layout import LAYOUTS, Layout
from skeletons.storage import read_array

# --- Own recordings -----------------------------------------------------------------------------------


def read_custom(folder, _):
    """clips.csv with the columns name, label, part (train or val) and, if known, subject and camera;
    for each name a .npy file (T, V, C) or, several bodies, (M, T, V, C), 2D or 3D; layout.json where
    the joints are not a Kinect's."""
    path = folder / "clips.csv"
    rows = _read_table(path, required=("name", "label", "part"))
    classes = {row["label"] for _, row in rows}
    classes = sorted(classes, key=lambda name: (int(name) if name.isdecimal() else 0, name))
    subjects, cameras = (_numbered([row.get(key) for _, row in rows]) for key in ("subject", "camera"))
    clips, shapes, problem = {}, Counter(), ""
    for (line, row), subject, camera in zip(rows, subjects, cameras, strict=True):
        name = row["name"].removesuffix(".npy")
        if row["part"] not in SPLIT_NAMES:
            raise ValueError(f"{path}, line {line}: part is '{row['part']}', not train or val")
        if name in clips:
            raise ValueError(f"{path}, line {line}: {name} is listed twice")
        if not row["label"]:
            raise ValueError(f"{path}, line {line}: {name} has no label")
        parts = {"own": SPLIT_NAMES[row["part"]]}
        clips[name] = Clip(name, classes.index(row["label"]), None, subject, camera, parts)
        try:
            shapes[open_custom_clip(folder / f"{name}.npy").shape[1:3]] += 1
        except (InvalidClip, OSError) as error:
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
    seen = {part: {row["label"] for _, row in rows if SPLIT_NAMES[row["part"]] == part}
            for part in set(SPLIT_NAMES.values())}  # fmt: skip
    if seen["train"] and (unseen := seen["val"] - seen["train"]):
        raise ValueError(
            f"{path}: no training clip has the label {', '.join(sorted(unseen))}: is it misspelt?"
        )
    files = {folder / f"{name}.npy": clip for name, clip in clips.items()}
    found = ((str(file), clip, partial(load_custom_clip, file)) for file, clip in files.items())
    items = clean_clips(found, classes, (channels, joints))
    name = folder.absolute().name
    others = {"channels": channels, "out_folder": f"{name}-converted"}
    return ClipStream(name, layout, classes, ["own"], len(clips), items, **others)


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


def open_custom_clip(path):
    """A .npy file (T, V, C) or (M, T, V, C) -> (T, C, V, M), left on the disk."""
    if not path.is_file():
        raise InvalidClip("there is no such file")
    try:
        data = read_array(path, mmap=True)
    except ValueError as error:
        raise InvalidClip(
            f"cut short, or no .npy file of numbers: {error.__cause__ or error}"
        ) from None
    if data.ndim not in (3, 4):
        raise InvalidClip(f"an array {data.shape}, neither (T, V, C) nor (M, T, V, C)")
    return (data if data.ndim == 4 else data[None]).transpose(1, 3, 2, 0)


def load_custom_clip(path):
    """As `open_custom_clip`, with NaN filled in."""
    data = open_custom_clip(path)
    if data.size * data.itemsize > MAX_CLIP_BYTES or not np.isnan(data).any():
        return data
    return interpolate_missing_joints(data)


def interpolate_missing_joints(data):
    """Clip (T, C, V, M) with NaN -> float32 without.

    A joint that was not seen is put on the straight way between the frames in which it was, before the
    first and after the last of them where it was then. A body of which nothing is seen in a frame is
    absent from it: zeros. Raises InvalidClip for a joint that is never seen.
    """
    data = np.array(data, np.float32)
    unseen = np.isnan(data).any(1)  # (T, V, M)
    absent = (unseen | (data == 0).all(1)).all(1)  # (T, M)
    for joint, body in np.argwhere(unseen.any(0)):
        frames = np.flatnonzero(~absent[:, body])
        known = frames[~unseen[frames, joint, body]]
        if len(frames) and not len(known):
            raise InvalidClip(f"joint {joint + 1} is NaN in every frame")
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
