"""Augmentations of batches of clips: the paper's 3D transforms and the choice of a time window.

Pure functions on tensors of any device. Joints are (B, C, T, V): B bodies, C = 3 coordinates x, y, z
in metres, T frames, V joints. Random numbers come from `generator`, a torch.Generator on the same
device (None: torch's global one), each of N clips drawing its own.

Space: a transform is a 3 x 3 matrix a clip; build them, multiply them, `apply` the product once.
Time: a window is a table (N, window) of positions in the clip, in frames, fractions allowed, with
positions outside [0, num_frame - 1] standing for empty frames; `sample` reads the frames there.
"""

import torch


def uniform(low, high, shape, generator=None, device=None):
    """Uniform random numbers in [low, high)."""
    return low + (high - low) * torch.rand(shape, generator=generator, device=device)


# Space: the paper's "3D transformation of skeletons".


def rotation(angles):
    """Rotation about x, then y, then z: angles (..., 3) in radians -> matrices (..., 3, 3)."""
    sin_x, sin_y, sin_z = angles.sin().unbind(-1)
    cos_x, cos_y, cos_z = angles.cos().unbind(-1)
    one, zero = torch.ones_like(sin_x), torch.zeros_like(sin_x)

    def matrix(*entries):
        return torch.stack(entries, -1).unflatten(-1, (3, 3))

    about_x = matrix(one, zero, zero, zero, cos_x, -sin_x, zero, sin_x, cos_x)
    about_y = matrix(cos_y, zero, sin_y, zero, one, zero, -sin_y, zero, cos_y)
    about_z = matrix(cos_z, -sin_z, zero, sin_z, cos_z, zero, zero, zero, one)
    return about_z @ about_y @ about_x


def scaling(factors):
    """Stretching along x, y, z: factors (..., 3) -> matrices (..., 3, 3)."""
    return torch.diag_embed(factors)


def shear(amounts):
    """Each coordinate shifted in proportion to the other two: amounts (..., 6), the entries
    xy, xz, yx, yz, zx, zy of the matrix -> matrices (..., 3, 3) with ones on the diagonal."""
    xy, xz, yx, yz, zx, zy = amounts.unbind(-1)
    one = torch.ones_like(xy)
    return torch.stack((one, xy, xz, yx, one, yz, zx, zy, one), -1).unflatten(-1, (3, 3))


def random_matrix(count, rotate=(0, 0, 0), scale=0.0, sheared=0.0, generator=None, device=None):
    """`count` random 3D transforms (count, 3, 3): rotation, then scaling, then shear.

    rotate   largest angle about x, y, z in radians, drawn from [-angle, angle]
    scale    factors along the axes are drawn from [1 - scale, 1 + scale]
    sheared  the six shear amounts are drawn from [-sheared, sheared]
    """
    draw = {"generator": generator, "device": device}
    angles = uniform(-1, 1, (count, 3), **draw).unbind(1)
    turn = rotation(torch.stack([a * largest for a, largest in zip(angles, rotate, strict=True)], 1))
    stretch = scaling(uniform(1 - scale, 1 + scale, (count, 3), **draw))
    return shear(uniform(-sheared, sheared, (count, 6), **draw)) @ stretch @ turn


def apply(joints, matrix, offset=None):
    """Multiply every joint of a body by its matrix (B, C, C) and add its offset (B, C)."""
    flat = joints.flatten(2)
    moved = matrix @ flat if offset is None else torch.baddbmm(offset[:, :, None], matrix, flat)
    return moved.view(joints.shape)


def swap_left_right(joints, other, mirrored, exchanged):
    """Left and right: bodies seen in a mirror, and bodies whose sides a sensor takes for each other.

    other      (V,) the joint on the other side, of each joint
    mirrored   bool (B,): x is negated and the joints of both sides change places
    exchanged  bool (B,): the joints alone change places, as when a back is taken for a front
    """
    changed = (mirrored ^ exchanged)[:, None, None, None]
    joints = torch.where(changed, joints.index_select(3, other), joints)
    joints[:, 0] *= torch.where(mirrored, -1.0, 1.0)[:, None, None]
    return joints


def scale_bones(joints, factors, bones, paths):
    """Bodies of other proportions: the bone that ends at each joint gets `factors` (B, V) times its
    length and keeps its direction.

    bones  (V, V): joints times this are the bones, from parent to joint (the root: from the origin)
    paths  (V, V): bones times this are the joints
    """
    return joints @ ((bones * factors[:, None, None]) @ paths)


def random_move(joints, clip, count, rotate=0.17, scale=0.1, distance=0.2, generator=None):
    """A slow drift of the camera: rotation, size and position change evenly over the window
    between two random states (rotation about y up to `rotate` radians, size 1 +- scale,
    position up to `distance` along each axis, in the unit of the data).

    clip, count  (B,) the clip of each body, and the number of clips: bodies of a clip move together
    """
    channels, frames = joints.shape[1:3]
    draw = {"generator": generator, "device": joints.device}
    time = torch.linspace(0, 1, frames, device=joints.device)[None, :, None]

    def drift(low, high, size):  # (N, T, size), from one random state to another
        start, end = uniform(low, high, (2, count, 1, size), **draw)
        return start + (end - start) * time

    angle = torch.nn.functional.pad(drift(-rotate, rotate, 1), (1, 1))
    matrix = rotation(angle) * drift(1 - scale, 1 + scale, 1)[..., None]
    matrix = matrix[clip, :, :channels, :channels].permute(0, 2, 3, 1)[..., None]  # (B, C, C, T, 1)
    moved = drift(-distance, distance, channels)[clip].mT[..., None]
    for axis in range(channels):
        moved = torch.addcmul(moved, matrix[:, :, axis], joints[:, axis, None])
    return moved


# Time: windows as tables of positions.


def drawn(value, count, generator=None, device=None):
    """(N,) numbers: `value` itself, or drawn for each clip where it is a pair (low, high)."""
    if isinstance(value, (tuple, list)):
        return uniform(*value, count, generator, device)
    if isinstance(value, torch.Tensor):
        return value.expand(count)
    return torch.full((count,), float(value), device=device)


def crop(num_frame, window, share=1.0, cut=0.5, place=0.0, generator=None):
    """`window` consecutive frames: num_frame (N,) -> positions (N, window).

    share  how much of the clip is kept, in (0, 1]; a pair: drawn
    cut    where a longer clip is cut: 0 its first frames, 1 its last; a pair: drawn (random start)
    place  where a shorter clip lies in the window, between empty frames: 0 at the start, 1 at the
           end; a pair: drawn (random shift)
    """
    draw = {"generator": generator, "device": num_frame.device}
    kept = (num_frame * drawn(share, len(num_frame), **draw)).round().clamp(min=1)
    first = _whole(drawn(cut, len(kept), **draw), num_frame - kept)
    spare = kept - window  # frames too many (positive) or too few
    inside = _whole(drawn(cut, len(kept), **draw), spare)
    before = _whole(drawn(place, len(kept), **draw), -spare)
    start = torch.where(spare > 0, inside, -before)
    frame = start[:, None] + torch.arange(window, device=num_frame.device)
    moved = torch.where(frame < kept[:, None], first[:, None], (num_frame - kept)[:, None])
    return torch.where(frame < 0, frame, frame + moved).long()


def _whole(share, largest):
    """A share in [0, 1] of the whole numbers from 0 to `largest`."""
    return (share * (largest + 1)).trunc().minimum(largest)


def crop_resize(num_frame, window, share=1.0, cut=0.5, generator=None):
    """A part of the clip, stretched or shrunk to `window` frames -> positions (N, window).

    share  how much of the clip is kept, in (0, 1]; a pair: drawn
    cut    where that part is cut out: 0 first frames, 1 last ones; a pair: drawn
    """
    draw = {"generator": generator, "device": num_frame.device}
    count = num_frame.shape[0]  # (not len: export.py would take it for a constant)
    keep = (num_frame * drawn(share, count, **draw)).clamp(min=1)
    start = (num_frame - keep) * drawn(cut, count, **draw)
    steps = torch.linspace(0, 1, window, device=num_frame.device)
    return start[:, None] + (keep - 1)[:, None] * steps


def sample(tracks, start, num_frame, positions):
    """Read bodies at fractional positions by linear interpolation.

    tracks     joints (F, C V) and seen (F,), as in bodies.Tracks
    start      (B,) where the frames of each body begin
    num_frame  (B,) their number
    positions  (B, T) in frames; outside [0, num_frame - 1] nobody is seen
    Returns joints (B, T, C V) and seen (B, T). A body that is absent in one of the two neighbouring
    frames is taken from the other one alone, so that nobody is drawn half-way towards the origin.
    """
    last = (num_frame - 1)[:, None]
    inside = (positions >= 0) & (positions <= last)
    lower = positions.clamp(min=0).long().minimum(last)

    def read(frame):
        row = (start[:, None] + frame).flatten()
        return [values.index_select(0, row).view(*frame.shape, *values.shape[1:]) for values in tracks]

    joints, seen = read(lower)
    if positions.is_floating_point():
        upper, seen_there = read((lower + 1).minimum(last))
        weight = torch.where(seen_there, (positions - lower).clamp(0, 1), 0)
        weight = torch.where(seen, weight, (weight > 0).float())
        joints, seen = torch.lerp(joints, upper, weight[..., None]), seen | (weight > 0)
    return joints, seen & inside
