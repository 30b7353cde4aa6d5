"""The arrays of custom recordings: the order of their axes, scores, missing joints.

Where the shape of an array allows two readings, its numbers decide; if they cannot, it is refused.
"""

import math
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import combinations, permutations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from skeletons.clip import MAX_BODIES, MAX_CLIP_BYTES, InvalidClip, validate_coordinates
from skeletons.layout import LAYOUTS, Layout
from skeletons.storage import AGAIN, read_array

ORDERS = {3: "TVC", 4: "MTVC", 5: "NCTVM"}  # of the axes, as documented; see model.py for the letters
MAX_TRACKED = 6  # bodies, which is what a Kinect tracks; a longer axis is rather time
CLEARLY = 2.0  # a reading is refuted by another one that fits so much better
MAX_SAMPLES = 32  # frames or clips that are looked at
# What is larger is neither a unit square nor a room in metres, but pixels, millimetres, centimetres.
LARGE_UNIT = 10.0


class ArrayFormat(NamedTuple):
    """What the arrays of a recording contain.

    layout    of the bodies
    channels  coordinates of a joint, C: 2 or 3
    scores    a confidence follows the coordinates of each joint
    """

    layout: Layout
    channels: int
    scores: bool = False


def open_array(path: Path) -> np.ndarray:
    """The array in a .npy file, left on disk where possible. Raises InvalidClip, OSError."""
    if not path.is_file():
        raise InvalidClip("there is no such file; clips.csv must give its path from this folder")
    if path.stat().st_size > 2 * MAX_CLIP_BYTES:  # (in float64; float32 is checked later)
        raise InvalidClip(f"larger than {2 * MAX_CLIP_BYTES >> 20} MiB, which no clip is")
    try:
        return read_array(path, mmap=True)
    except ValueError as error:
        fault, _, remedy = str(error).removeprefix(f"{path} ").partition("\n")
        fault = fault.removeprefix("is corrupt: ") + f"; {remedy}" * (remedy not in ("", AGAIN))
        raise InvalidClip(f"truncated, or not a .npy file of numbers: {fault}") from None


def find_format(array: np.ndarray, form: ArrayFormat) -> tuple[str, ArrayFormat]:
    """The order of an array's axes, and its format: as `form`, with scores or without, as it has them.
    The array is of one clip, or (N, C, T, V, M) of several. Raises InvalidClip."""
    axes = find_axes(array, [form.layout], {form.channels, form.channels + 1})
    return axes, form._replace(scores=to_clip(array, axes).shape[-3] > form.channels)


def load_clip(array: np.ndarray, form: ArrayFormat, axes: str = "") -> np.ndarray:
    """One clip, as recorded -> (T, C, V, M), with missing joints filled in.

    axes  their order, e.g. "TMVC", if it is known
    Raises InvalidClip.
    """
    data = order_axes(array, [form.layout], {form.channels + form.scores}, axes)
    if data.size * data.itemsize > MAX_CLIP_BYTES:
        raise InvalidClip(f"larger than {MAX_CLIP_BYTES >> 20} MiB, which no clip is")
    return prepare_frames(data, form)


def prepare_frames(data: np.ndarray, form: ArrayFormat, scores: np.ndarray | None = None) -> np.ndarray:
    """Frames (T, C, V, M), with scores as the last channel or as `scores` (T, V, M), if there are any
    -> without scores, with missing joints filled in. Raises InvalidClip."""
    validate_coordinates(np.where(data != data, 0, data))  # (NaN is a missing joint)
    if form.scores:
        data, scores = data[:, :-1], data[:, -1]
        if not are_scores(data, scores):
            raise InvalidClip("the last number of each joint is not a score, from 0 to 1")
    check_body(data, form.layout)
    return fill_missing_joints(data, form.layout, scores)


def order_axes(
    array: np.ndarray, layouts: Sequence[Layout], numbers: Collection[int], axes: str = ""
) -> np.ndarray:
    """An array of one clip -> a view (T, C, V, M). The order of its axes is `axes`, or what `find_axes`
    finds. Raises InvalidClip."""
    if array.ndim == 5 and len(array) == 1:  # a batch of one clip
        array, axes = array[0], axes.removeprefix("N")
    if array.ndim not in (3, 4):
        raise InvalidClip(f"an array {array.shape}; reshape it to (T, V, C) or (M, T, V, C)")
    data = to_clip(array, axes or find_axes(array, layouts, numbers))
    sizes = {len(layout.joints) for layout in layouts}
    if data.shape[2] not in sizes or data.shape[1] not in numbers:
        raise InvalidClip(f"axes {axes}: {_describe(data.shape[2], data.shape[1], sizes, numbers)}")
    return data


def _describe(joints: int, number: int, sizes: Collection[int], numbers: Collection[int]) -> str:
    """For messages: what an array contains, and what it should."""
    expected = (" or ".join(map(str, sorted(counts))) for counts in (sizes, numbers))
    text = "{} joints with {} coordinates each; expected are {} with {}"
    return text.format(joints, number, *expected)


def to_clip(array: np.ndarray, axes: str) -> np.ndarray:
    """An array whose axes are `axes` -> a view (T, C, V, M), or (N, T, C, V, M)."""
    if sorted(axes) not in map(sorted, ORDERS.values()) or len(axes) != array.ndim:
        raise InvalidClip(f"axes {axes} do not fit an array {array.shape}")
    if "M" not in axes:
        array, axes = array[..., None], f"{axes}M"
    return array.transpose([axes.index(letter) for letter in "NTCVM" if letter in axes])


# --- The order of the axes ----------------------------------------------------------------------------


def find_axes(array: np.ndarray, layouts: Sequence[Layout], numbers: Collection[int]) -> str:
    """The order of an array's axes, as "MTVC".

    layouts  that its bodies may have
    numbers  how many numbers a joint may have
    The sizes of V and C tell, and that bodies are few. If several orders remain: bodies move little
    from frame to frame, their bones keep their lengths, and two bodies are alike. If that does not tell
    either, the documented order is meant, if its bodies are few; else this raises InvalidClip.
    """
    if array.ndim not in ORDERS:
        raise InvalidClip(f"an array {array.shape}; reshape it to (T, V, C) or (M, T, V, C)")
    orders = remaining_axes(array, layouts, numbers, ORDERS[array.ndim])
    if not orders:
        sizes = {len(layout.joints) for layout in layouts}
        found = _describe(array.shape[-2], array.shape[-1], sizes, numbers)
        remedy = "give such bodies, or another layout.json or --checkpoint"
        raise InvalidClip(f"an array {array.shape}: {found}; {remedy}")
    if len(orders) > 1:
        raise InvalidClip(
            f"an array {array.shape} can be {' or '.join(orders)}; a column axes of clips.csv must say "
            "which, or save it as (M, T, V, C)"
        )
    return orders[0]


def remaining_axes(
    array: np.ndarray, layouts: Sequence[Layout], numbers: Collection[int], documented: str
) -> list[str]:
    """The orders of its axes that an array can have, as `find_axes` finds out; `documented` alone if it
    is one of them and its bodies are few."""
    orders = _possible_orders(array.shape, {len(layout.joints) for layout in layouts}, numbers)
    for measure in (_unused_coordinates, _step_between_frames, _bone_variation):
        orders = _keep_best(orders, array, layouts, measure)
    if len({order.index("T") for order in orders}) == 1:  # (a body is like itself at another time)
        orders = _keep_best(orders, array, layouts, _difference_between_bodies)
    bodies = array.shape[documented.index("M")] if "M" in documented else 1
    return [documented] if documented in orders and bodies <= MAX_BODIES else orders


def _possible_orders(
    shape: tuple[int, ...], joints: Collection[int], numbers: Collection[int]
) -> list[str]:
    """The orders of the axes that the shape allows, without those that mean the same. Raises
    InvalidClip if there would be too many bodies."""
    orders: dict[str, str] = {}
    for order in map("".join, permutations(ORDERS.get(len(shape), ""))):
        size = dict(zip(order, shape, strict=False))
        if (
            order.startswith("N" * (len(shape) == 5))
            and size.get("V") in joints
            and size.get("C") in numbers
        ):
            longer = "".join(letter for letter in order if size[letter] > 1)
            orders.setdefault(longer, order)
    few = [o for o in orders.values() if "M" not in o or shape[o.index("M")] <= MAX_TRACKED]
    if orders and not few:
        raise InvalidClip(
            f"an array {shape} is not of one clip with up to {MAX_TRACKED} bodies; save several clips "
            f"one by one, or a column axes of clips.csv must say {' or '.join(orders.values())}"
        )
    return few


def _keep_best(
    orders: list[str],
    array: np.ndarray,
    layouts: Sequence[Layout],
    measure: Callable[[np.ndarray, Sequence[Layout]], float],
) -> list[str]:
    """The orders that the measure does not clearly refute. It takes a clip, (T, C, V, M) or
    (N, T, C, V, M); the smaller, the better."""
    if len(orders) < 2:
        return orders
    with np.errstate(invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # (means of what is NaN everywhere)
        values = [measure(to_clip(array, order), layouts) for order in orders]
    values = [math.inf if math.isnan(value) else value for value in values]
    return [order for order, value in zip(orders, values, strict=True)
            if value <= CLEARLY * min(values)]  # fmt: skip


def _unused_coordinates(data: np.ndarray, layouts: Sequence[Layout]) -> float:
    """1 if a coordinate is zero or NaN all the time, as a body that is absent is; else 0."""
    used = np.nan_to_num(data).any(tuple(axis for axis in range(data.ndim) if axis != data.ndim - 3))
    return float(not used.all())


def _step_between_frames(data: np.ndarray, layouts: Sequence[Layout]) -> float:
    """Mean change of a coordinate between frames; of one frame, a quarter of the body's size. (Scores
    change more, and so do joints that are found again.)"""
    data = np.asarray(data, np.float64)
    coordinates, last = data[..., :-1, :, :], data[..., -1, :, :]
    if data.shape[-3] > 2 and are_scores(coordinates, last):
        data = coordinates
    if data.shape[-4] == 1:
        return float(np.nanstd(data, -2).mean()) / 4
    return float(np.nanmean(np.abs(np.diff(np.where(data == 0, np.nan, data), axis=-4))))


def _bone_variation(data: np.ndarray, layouts: Sequence[Layout]) -> float:
    """How much the lengths of the bones vary between frames and bodies, relative to their mean."""
    lengths = np.linalg.norm(_bones(data, layouts), axis=0)
    lengths = lengths.reshape(len(lengths), -1)
    variation = [np.nanstd(bone) / np.nanmean(bone) for bone in lengths if np.nansum(bone)]
    return float(np.mean(variation)) if variation else math.nan


def _difference_between_bodies(data: np.ndarray, layouts: Sequence[Layout]) -> float:
    """1 - the mean cosine between the bones of the first body and those of others, at the same time:
    people stand upright, so it is near 0; between coordinates it is near 1."""
    bones = _bones(data, layouts)
    one, others = bones[..., :1], bones[..., 1:]
    norms = np.linalg.norm(one, axis=(0, 1)) * np.linalg.norm(others, axis=(0, 1))
    cosines = ((one * others).sum((0, 1)) / norms)[norms > 0]
    return 1 - float(cosines.mean()) if cosines.size else math.nan


def _bones(data: np.ndarray, layouts: Sequence[Layout]) -> np.ndarray:
    """(C, bones, ..., T, M), float64; NaN for absent bodies."""
    layout = next(layout for layout in layouts if len(layout.joints) == data.shape[-2])
    data = np.moveaxis(np.array(data, np.float64), (-3, -2), (0, 1))
    child, parent = np.array(layout.bones, int).reshape(-1, 2).T
    return np.where((data == 0).all((0, 1)), np.nan, data[:, child] - data[:, parent])


# --- What the numbers are -----------------------------------------------------------------------------


def are_scores(coordinates: np.ndarray, last: np.ndarray) -> bool:
    """Whether the last numbers (T, V, M) of the joints can be scores of the coordinates (T, C, V, M):
    from 0 to 1, or a little more, which some estimators give; not all 0."""
    known = last[~np.isnan(last)]
    finite = coordinates[np.isfinite(coordinates)]
    extent = np.ptp(finite) if finite.size else 0
    return bool(len(known) and known.min() >= 0 and 0 < known.max() <= max(1.0, 0.02 * extent))


def is_in_large_unit(coordinates: np.ndarray) -> bool:
    """Whether coordinates are too large for metres, and for parts of a picture's width."""
    return bool(np.nanmax(np.abs(coordinates), initial=0) > LARGE_UNIT)


def check_body(data: np.ndarray, layout: Layout) -> None:
    """Raise InvalidClip if bodies (T, C, V, M) contradict a known layout: if they look like those of
    another one with as many joints, or if their z is a score."""
    if layout not in LAYOUTS.values():
        return
    others = [other for other in LAYOUTS.values() if len(other.joints) == len(layout.joints)]
    if len(others) > 1:
        poses = _poses(data)
        lengths = [np.nanmean([0, *_distances(poses, other.bones).ravel()]) for other in others]
        best = others[int(np.argmin(lengths))]
        if min(lengths) < 0.7 * lengths[others.index(layout)]:
            raise InvalidClip(
                f"the bones of {layout.name} are too long; with those of {best.name} it is a body. "
                f'A layout.json with {{"name": "{best.name}"}} says so'
            )
    if data.shape[1] == 3 and are_scores(data[:, :2], data[:, 2]) and is_in_large_unit(data[:, :2]):
        raise InvalidClip(
            f"its third numbers are scores, not z of {layout.name}; a layout.json must name another "
            f"layout ({', '.join(LAYOUTS)}), or describe it"
        )


def bone_ratio(clips: Iterable[np.ndarray], layout: Layout) -> float:
    """Mean length of the bones in clips (T, C, V, M), relative to the mean distance of any two joints:
    about 0.4 for a body, about 1 for joints in another order than the layout's. 0 if unknown."""
    pairs = np.array(list(combinations(range(len(layout.joints)), 2)), int)
    poses = [_poses(data) for data in clips]
    with np.errstate(over="ignore", invalid="ignore"):  # (clips are validated later)
        lengths = np.concatenate([_distances(pose, layout.bones) for pose in poses])
        distances = np.concatenate([_distances(pose, pairs) for pose in poses])
        if np.isnan(lengths).all() or not np.nansum(distances):
            return 0.0
        return float(np.nanmean(lengths) / np.nanmean(distances))


def _poses(data: np.ndarray) -> np.ndarray:
    """(T, C, V, M) -> some of its poses (P, C, V), float64, with NaN for joints that are missing."""
    some = np.unique(np.linspace(0, len(data) - 1, MAX_SAMPLES).astype(int)) if len(data) else []
    poses = np.array(data[some], np.float64).transpose(0, 3, 1, 2).reshape(-1, *data.shape[1:3])
    return np.where((poses == 0).all(1, keepdims=True), np.nan, poses)


def _distances(poses: np.ndarray, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """(P, pairs): distances between pairs of joints in (P, C, V)."""
    one, other = np.array(pairs, int).reshape(-1, 2).T
    return np.linalg.norm(poses[..., one] - poses[..., other], axis=1)


# --- Joints that were not found -----------------------------------------------------------------------


def fill_missing_joints(
    data: np.ndarray, layout: Layout, scores: np.ndarray | None = None
) -> np.ndarray:
    """Clip (T, C, V, M), in which missing joints are NaN or, as pose estimators write them, zero or of
    the score (T, V, M) 0 -> float32 without missing joints; the data itself if there are none.

    A missing joint is interpolated linearly between the frames in which it was found; before the first
    and after the last of them it keeps that position. A joint that was never found is put at the
    nearest one that was. A body without any joint is absent from the frame: zeros. Raises InvalidClip
    for a joint that is always NaN.
    """
    nan = np.isnan(data).any(1)  # (T, V, M)
    lost = (data == 0).all(1) if scores is None else ~(scores > 0)
    absent = (nan | lost).all(1)  # (T, M)
    if scores is None:
        lost &= ~absent[:, None] & ~_is_origin(data, lost, nan)
    missing = nan | lost
    if not missing.any():
        return data
    data = np.array(data, np.float32)
    never: list[tuple[int, int]] = []
    for joint, body in np.argwhere(missing.any(0)).tolist():
        frames = np.flatnonzero(~absent[:, body])
        known = frames[~missing[frames, joint, body]]
        if len(frames) and not len(known):
            if nan[frames, joint, body].all():
                raise InvalidClip(
                    f"joint {joint + 1} is NaN in every frame; leave it out, or write zeros"
                )
            never.append((joint, body))
            continue
        for trajectory in data[:, :, joint, body].T:
            trajectory[frames] = np.interp(frames, known, trajectory[known]) if len(frames) else 0
    for joint, body in never:
        distance = layout.distances(joint)
        nearest = min((j for j in range(len(distance)) if (j, body) not in never),
                      key=distance.__getitem__)  # fmt: skip
        data[:, :, joint, body] = data[:, :, nearest, body]
    data.transpose(0, 3, 1, 2)[absent] = 0
    return data


def _is_origin(data: np.ndarray, zero: np.ndarray, nan: np.ndarray) -> np.ndarray:
    """Joints (V, M) at which the origin of the coordinates is, always or in the first frame: zeros that
    are positions. The body of such a joint is around the origin, and no other joint is always zero.

    zero, nan  (T, V, M) which joints are zero, NaN
    """
    origin = np.zeros(zero.shape[1:], bool)
    for body in range(zero.shape[2]):
        frames = np.flatnonzero(~(zero | nan)[..., body].all(1))
        if not len(frames):
            continue
        at_zero = zero[frames, :, body]
        joints = np.flatnonzero(at_zero.all(0) | (at_zero[0] & (at_zero.sum(0) == 1)))
        others = data[frames[0], :, ~(zero | nan)[frames[0], :, body], body]  # (joints, C)
        if len(joints) == 1 and is_around_origin(others):
            origin[joints, body] = True
    return origin


def is_around_origin(joints: np.ndarray) -> bool:
    """Whether the joints (V, C) of a body, at least one, are around the origin of the coordinates, so
    that it can be another joint. Pixels and the coordinates of most sensors are elsewhere."""
    centre = joints.mean(0)
    radius = np.linalg.norm(joints - centre, axis=1).max()
    # (Pixels are counted from a corner of the picture, so they are not negative.)
    return bool((joints < 0).any() and np.linalg.norm(centre) <= 1.2 * radius)
