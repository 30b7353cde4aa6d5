"""Transforms of batches of clips: the paper's 3D transformations, other augmentations, time windows.

Pure functions on tensors of any device. Joints are (B, C, T, V): B bodies, C = 3 coordinates x, y, z
(or 2), T frames, V joints. Random numbers come from `generator`, a torch.Generator on the same device
(None: torch's global one); each of the N clips draws its own (tracking_noise: each body).

Space: a transform is a 3 x 3 matrix per clip. Make matrices, multiply them, and apply the product once
with `affine`.
Time: a window is a table (N, window) of positions in the clip, in frames. Positions may be fractional;
those outside [0, num_frame - 1] are padding. `sample` reads the bodies there.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Generator, Tensor

Amount = float | tuple[float, float] | Tensor  # a number, a range to draw from, or one number per clip


def uniform(
    low: float,
    high: float,
    shape: int | Sequence[int],
    generator: Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Uniform random numbers in [low, high)."""
    return low + (high - low) * torch.rand(shape, generator=generator, device=device)


# --- Space: the paper's "3D transformation of skeletons" (section 3.4) --------------------------------


def rotation(angles: Tensor) -> Tensor:
    """Rotation about x, then y, then z: angles (..., 3) in radians -> matrices (..., 3, 3)."""
    sin_x, sin_y, sin_z = angles.sin().unbind(-1)
    cos_x, cos_y, cos_z = angles.cos().unbind(-1)
    one, zero = torch.ones_like(sin_x), torch.zeros_like(sin_x)

    def matrix(*entries: Tensor) -> Tensor:
        return torch.stack(entries, -1).unflatten(-1, (3, 3))

    about_x = matrix(one, zero, zero, zero, cos_x, -sin_x, zero, sin_x, cos_x)
    about_y = matrix(cos_y, zero, sin_y, zero, one, zero, -sin_y, zero, cos_y)
    about_z = matrix(cos_z, -sin_z, zero, sin_z, cos_z, zero, zero, zero, one)
    return about_z @ about_y @ about_x


def scaling(factors: Tensor) -> Tensor:
    """Scaling along x, y, z: factors (..., 3) -> matrices (..., 3, 3)."""
    return torch.diag_embed(factors)


def shear(amounts: Tensor) -> Tensor:
    """Each coordinate shifted in proportion to the other two: amounts (..., 6), the entries
    xy, xz, yx, yz, zx, zy of the matrix -> matrices (..., 3, 3) with ones on the diagonal."""
    xy, xz, yx, yz, zx, zy = amounts.unbind(-1)
    one = torch.ones_like(xy)
    return torch.stack((one, xy, xz, yx, one, yz, zx, zy, one), -1).unflatten(-1, (3, 3))


def random_matrix(
    count: int,
    rotate: Sequence[float] = (0, 0, 0),
    scale: float = 0.0,
    max_shear: float = 0.0,
    generator: Generator | None = None,
    device: torch.device | str | None = None,
    uniform_scale: bool = False,
    probability: float = 1.0,
) -> Tensor:
    """`count` random 3D transforms (count, 3, 3): rotation, then scaling, then shear.

    rotate         largest angle about x, y, z in radians; angles are drawn from [-rotate, rotate]
    scale          factors along the axes are drawn from [1 - scale, 1 + scale]
    max_shear      the six shear amounts are drawn from [-max_shear, max_shear]
    uniform_scale  one factor for all axes
    probability    of a transform; otherwise the matrix is the identity
    """
    source = {"generator": generator, "device": device}
    angles = uniform(-1, 1, (count, 3), **source).unbind(1)
    angles = torch.stack([a * largest for a, largest in zip(angles, rotate, strict=True)], 1)
    factors = uniform(1 - scale, 1 + scale, (count, 1 if uniform_scale else 3), **source)
    amounts = uniform(-max_shear, max_shear, (count, 6), **source)
    matrices = shear(amounts) @ scaling(factors.expand(count, 3)) @ rotation(angles)
    if probability < 1:
        unchanged = uniform(0, 1, (count, 1, 1), **source) >= probability
        matrices = torch.where(unchanged, torch.eye(3, device=device), matrices)
    return matrices


def affine(joints: Tensor, matrix: Tensor, offset: Tensor | None = None) -> Tensor:
    """Multiply every joint of a body by its matrix (B, C, C) and add its offset (B, C)."""
    flat = joints.flatten(2)
    moved = matrix @ flat if offset is None else torch.baddbmm(offset[:, :, None], matrix, flat)
    return moved.view(joints.shape)


def swap_left_right(joints: Tensor, mirror_index: Tensor, flipped: Tensor, swapped: Tensor) -> Tensor:
    """Flip bodies as in a mirror, and swap the sides of bodies.

    mirror_index  (V,) as in `Layout.mirror_index`
    flipped       bool (B,): x is negated, and left and right joints are swapped
    swapped       bool (B,): left and right joints are exchanged, as when the sensor mistakes back for
                  front
    """
    changed = (flipped ^ swapped)[:, None, None, None]
    joints = torch.where(changed, joints.index_select(3, mirror_index), joints)
    joints[:, 0] *= torch.where(flipped, -1.0, 1.0)[:, None, None]
    return joints


def scale_bones(joints: Tensor, factors: Tensor, bone_matrix: Tensor, joint_matrix: Tensor) -> Tensor:
    """Scale the length of the bone that ends at each joint by `factors` (B, V); directions stay.

    bone_matrix   (V, V): joints times this are the bones, from parent to joint (the root: from the
                  origin)
    joint_matrix  (V, V): its inverse; bones times this are the joints
    """
    return joints @ ((bone_matrix * factors[:, None, None]) @ joint_matrix)


def tracking_noise(
    joints: Tensor,
    part: Tensor,
    unit: Tensor,
    size: float,
    probability: float = 0.3,
    points: int = 6,
    generator: Generator | None = None,
) -> Tensor:
    """Random errors, as of a sensor that loses track of an arm: during some of the window, the joints
    of some body parts wander about the place where they are, each for itself. (Where these joints give
    a clip its reference frame, the errors change the whole clip, as they do in a recording.)

    part         (V,) index of the body part of each joint
    unit         (B,) mean bone length of the clip of each body, in the unit of the data
    size         largest standard deviation of the errors, in mean bone lengths; each body draws its own
    probability  of each part to have errors
    points       the errors are drawn at so many times, evenly spaced over the window, and change evenly
                 between them
    """
    bodies, channels, frames, num_joints = joints.shape
    source = {"generator": generator, "device": joints.device}
    drawn = torch.randn(bodies, channels * num_joints, points, **source)
    errors = torch.nn.functional.interpolate(drawn, size=frames, mode="linear", align_corners=True)
    errors = errors.view(bodies, channels, num_joints, frames).transpose(2, 3)
    largest = uniform(0, size, bodies, **source) * unit
    # (V is the most parts possible; reading the real number would wait for the GPU.)
    parts = (bodies, num_joints)
    disturbed = (uniform(0, 1, parts, **source) < probability).index_select(1, part)  # (B, V)
    middle, half = uniform(0, 1, bodies, **source), uniform(0.1, 0.5, bodies, **source)
    time = torch.linspace(0, 1, frames, device=joints.device)
    during = (time - middle[:, None]).abs() <= half[:, None]  # (B, T)
    amount = largest[:, None, None] * (during[..., None] & disturbed[:, None])  # (B, T, V)
    return joints + errors * amount[:, None]


def random_move(
    joints: Tensor,
    clip: Tensor,
    bone_scale: Tensor,
    rotate: float = 0.17,
    scale: float = 0.1,
    distance: float = 1.0,
    generator: Generator | None = None,
) -> Tensor:
    """A slow random drift of the camera: between two random states, rotation, size and position change
    evenly over the window.

    clip        (B,) the clip of each body; the bodies of a clip move together
    bone_scale  (N,) mean bone length of each clip, in the unit of the data
    rotate      largest angle about the y axis, in radians
    scale       sizes are drawn from [1 - scale, 1 + scale]
    distance    largest shift along each axis, in mean bone lengths, so that it does not depend on the
                unit of the data. That of a person recorded by a Kinect is 0.19 m to 0.22 m on average
    """
    channels, frames, count = *joints.shape[1:3], len(bone_scale)
    source = {"generator": generator, "device": joints.device}
    time = torch.linspace(0, 1, frames, device=joints.device)[None, :, None]

    def drift(low: float, high: float, size: int) -> Tensor:  # (N, T, size)
        start, end = uniform(low, high, (2, count, 1, size), **source)
        return start + (end - start) * time

    angle = torch.nn.functional.pad(drift(-rotate, rotate, 1), (1, 1))
    matrix = rotation(angle) * drift(1 - scale, 1 + scale, 1)[..., None]
    matrix = matrix[clip, :, :channels, :channels].permute(0, 2, 3, 1)[..., None]  # (B, C, C, T, 1)
    shift = drift(-distance, distance, channels) * bone_scale[:, None, None]
    moved = shift[clip].mT[..., None]  # (B, C, T, 1)
    for axis in range(channels):
        moved = torch.addcmul(moved, matrix[:, :, axis], joints[:, axis, None])
    return moved


# --- Time: windows as tables of positions -------------------------------------------------------------


def sampled(
    amount: Amount,
    count: int,
    generator: Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """(count,) numbers: drawn for each clip from a range (low, high), or `amount` itself."""
    if isinstance(amount, (tuple, list)):
        return uniform(*amount, count, generator, device)
    if isinstance(amount, Tensor):
        return amount.expand(count)
    return torch.full((count,), float(amount), device=device)


def crop(
    num_frame: Tensor,
    window: int,
    ratio: Amount = 1.0,
    crop_position: Amount = 0.5,
    pad_position: Amount = 0.0,
    generator: Generator | None = None,
) -> Tensor:
    """`window` consecutive frames: num_frame (N,) -> positions (N, window).

    ratio          share of the clip that is kept, in (0, 1]; a pair: drawn
    crop_position  where a longer clip is cropped: 0 its first frames, 1 its last; a pair: drawn
    pad_position   where a shorter clip is put in the window, between padding: 0 at the start, 1 at the
                   end; a pair: drawn
    """
    source = {"generator": generator, "device": num_frame.device}
    count = num_frame.shape[0]  # (len would be a constant in what export.py traces)
    kept = (num_frame * sampled(ratio, count, **source)).round().clamp(min=1)
    first = _whole(sampled(crop_position, count, **source), num_frame - kept)
    excess = kept - window  # frames too many (positive) or too few
    skipped = _whole(sampled(crop_position, count, **source), excess)
    padding = _whole(sampled(pad_position, count, **source), -excess)
    start = torch.where(excess > 0, skipped, -padding)
    frame = start[:, None] + torch.arange(window, device=num_frame.device)
    # What is past the kept frames is moved past the clip, where it is padding.
    moved = torch.where(frame < kept[:, None], first[:, None], (num_frame - kept)[:, None])
    return torch.where(frame < 0, frame, frame + moved).long()


def _whole(position: Tensor, largest: Tensor) -> Tensor:
    """A position in [0, 1] -> one of the whole numbers from 0 to `largest`."""
    # (long() truncates as trunc(), which ONNX lacks.)
    return (position * (largest + 1)).long().to(largest.dtype).minimum(largest)


def drop_start(
    positions: Tensor, largest: float, probability: float = 1.0, generator: Generator | None = None
) -> Tensor:
    """Random start: positions (N, window) -> the same with the first frames of a window as padding.

    largest      share of the window: their number is drawn from 0 to this share
    probability  of a random start; otherwise no frame is dropped
    """
    count, window = positions.shape
    share, chance = uniform(0, 1, (2, count, 1), generator, positions.device)
    dropped = (share * (int(largest * window) + 1)).floor() * (chance < probability)
    frame = torch.arange(window, device=positions.device)
    return torch.where(frame < dropped, -1, positions)


def crop_resize(
    num_frame: Tensor,
    window: int,
    ratio: Amount = 1.0,
    crop_position: Amount = 0.5,
    generator: Generator | None = None,
) -> Tensor:
    """A part of the clip, stretched or shrunk to `window` frames -> positions (N, window).

    ratio          share of the clip that is kept, in (0, 1]; a pair: drawn
    crop_position  where that part is: 0 the first frames, 1 the last; a pair: drawn
    """
    source = {"generator": generator, "device": num_frame.device}
    count = num_frame.shape[0]
    kept = (num_frame * sampled(ratio, count, **source)).clamp(min=1)
    start = (num_frame - kept) * sampled(crop_position, count, **source)
    steps = torch.linspace(0, 1, window, device=num_frame.device)
    return start[:, None] + (kept - 1)[:, None] * steps


def cumulative_sum(x: Tensor) -> Tensor:
    """The sums over the steps up to each step, x (N, S, ...) -> the same shape. With deterministic
    algorithms step by step, in float32: Tensor.cumsum raises an error there on a GPU."""
    if torch.are_deterministic_algorithms_enabled():
        return torch.stack(list(accumulate(x.float().unbind(1))), 1).to(x.dtype)
    return x.cumsum(1)


def time_warp(
    positions: Tensor, deviation: float, points: int = 6, generator: Generator | None = None
) -> Tensor:
    """Time warping: a clip is slower here and faster there. positions (N, window) -> others between the
    same first and last position, in the same order.

    deviation  standard deviation of the logarithm of the speed
    points     the speed is drawn at so many times, evenly spaced over the window, and changes evenly
               between them
    """
    count, window = positions.shape
    if window < 3:  # there is nothing between the first and the last position
        return positions
    source = {"generator": generator, "device": positions.device}
    speed = deviation * torch.randn(count, 1, points, **source)
    speed = (speed - speed.amax(2, keepdim=True)).exp()  # at most 1: only ratios count
    speed = torch.nn.functional.interpolate(speed, window - 1, mode="linear", align_corners=True)
    passed = cumulative_sum(speed[:, 0])
    first, last = positions[:, :1], positions[:, -1:]
    warped = first + (last - first) * (passed / passed[:, -1:])
    return torch.cat((first, warped), 1)


def sample(
    tracks: Sequence[Tensor], offset: Tensor, num_frame: Tensor, positions: Tensor
) -> tuple[Tensor, Tensor]:
    """Read bodies at fractional positions by linear interpolation.

    tracks     joints (R, C V) and visible (R,), as in batch.Tracks
    offset     (B,) first row of each body
    num_frame  (B,) its number of frames
    positions  (B, T) in frames; outside [0, num_frame - 1] no body is visible
    Returns joints (B, T, C V) and visible (B, T). Where a body is absent from one of the two
    neighbouring frames, the other one alone counts: interpolation with zeros would move the body
    towards the origin.
    """
    last = (num_frame - 1)[:, None]
    inside = (positions >= 0) & (positions <= last)
    lower = positions.clamp(min=0).long().minimum(last)

    def read(frame: Tensor) -> list[Tensor]:
        row = (offset[:, None] + frame).flatten()
        return [values.index_select(0, row).view(*frame.shape, *values.shape[1:]) for values in tracks]

    joints, visible = read(lower)
    if positions.is_floating_point():
        upper, upper_visible = read((lower + 1).minimum(last))
        weight = torch.where(upper_visible, (positions - lower).clamp(0, 1), 0)
        weight = torch.where(visible, weight, (weight > 0).float())
        joints, visible = torch.lerp(joints, upper, weight[..., None]), visible | (weight > 0)
    return joints, visible & inside
