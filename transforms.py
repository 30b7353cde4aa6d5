"""Augmentations of batches of clips: the paper's 3D transforms and the choice of a time window.

Pure functions on tensors of any device. Data is (N, C, T, V, M): N clips, C = 3 coordinates x, y, z
in metres, T frames, V joints, M bodies; a body that is absent from a frame is exactly zero there and
stays so. Random numbers come from `generator`, a torch.Generator on the same device (None: torch's
global one), each clip drawing its own.

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
    largest = torch.tensor(rotate, dtype=torch.float32, device=device)
    turn = rotation(largest * uniform(-1, 1, (count, 3), **draw))
    stretch = scaling(uniform(1 - scale, 1 + scale, (count, 3), **draw))
    return shear(uniform(-sheared, sheared, (count, 6), **draw)) @ stretch @ turn


def apply(data, matrix):
    """Multiply every joint by its clip's matrix (N, 3, 3), or its frame's (N, T, 3, 3)."""
    if matrix.dim() == 3:
        matrix = matrix[:, None]
    # One (N T, 3, 3) @ (N T, 3, V M) product.
    moved = matrix @ data.transpose(1, 2).flatten(3)
    return moved.unflatten(3, data.shape[3:]).transpose(1, 2)


def present(data):
    """Which bodies are there in which frames: (N, C, T, V, M) -> bool (N, T, M)."""
    return (data != 0).any(dim=3).any(dim=1)


def translate(data, offset):
    """Add offset (N, C, T or 1, M or 1) to all joints of the bodies that are there."""
    return data + offset[:, :, :, None] * present(data)[:, None, :, None]


def random_move(data, rotate=0.17, scale=0.1, distance=0.2, generator=None):
    """A slow drift of the camera: rotation, size and position change evenly over the window
    between two random states (rotation about y up to `rotate` radians, size 1 +- scale,
    position up to `distance` along each axis, in the unit of the data)."""
    count, channels, frames = data.shape[:3]
    draw = {"generator": generator, "device": data.device}
    time = torch.linspace(0, 1, frames, device=data.device)[None, :, None]

    def drift(low, high, size):  # (N, T, size), from one random state to another
        start, end = uniform(low, high, (2, count, 1, size), **draw)
        return start + (end - start) * time

    angle = torch.nn.functional.pad(drift(-rotate, rotate, 1), (1, 1))
    matrix = rotation(angle) * drift(1 - scale, 1 + scale, 1)[..., None]
    moved = apply(data, matrix[..., :channels, :channels])
    return translate(moved, drift(-distance, distance, channels).mT[..., None])


# Time: windows as tables of positions.


def drawn(value, count, generator=None, device=None):
    """(N,) numbers: `value` itself, or drawn for each clip where it is a pair (low, high)."""
    if isinstance(value, (tuple, list)):
        return uniform(*value, count, generator, device)
    return torch.as_tensor(value, dtype=torch.float32, device=device).expand(count)


def crop(num_frame, window, cut=0.5, place=0.0, generator=None):
    """`window` consecutive frames: num_frame (N,) -> positions (N, window).

    cut    where a longer clip is cut: 0 its first frames, 1 its last; a pair: drawn (random start)
    place  where a shorter clip lies in the window, between empty frames: 0 at the start, 1 at the
           end; a pair: drawn (random shift)
    """
    draw = {"generator": generator, "device": num_frame.device}
    spare = num_frame - window  # frames too many (positive) or too few
    inside = (drawn(cut, len(spare), **draw) * (spare + 1)).trunc().minimum(spare)
    before = (drawn(place, len(spare), **draw) * (1 - spare)).trunc().minimum(-spare)
    start = torch.where(spare > 0, inside, -before)
    return start[:, None] + torch.arange(window, device=num_frame.device)


def crop_resize(num_frame, window, share=1.0, cut=0.5, generator=None):
    """A part of the clip, stretched or shrunk to `window` frames -> positions (N, window).

    share  how much of the clip is kept, in (0, 1]; a pair: drawn
    cut    where that part is cut out: 0 first frames, 1 last ones; a pair: drawn
    """
    draw = {"generator": generator, "device": num_frame.device}
    keep = (num_frame * drawn(share, len(num_frame), **draw)).clamp(min=1)
    start = (num_frame - keep) * drawn(cut, len(num_frame), **draw)
    steps = torch.linspace(0, 1, window, device=num_frame.device)
    return start[:, None] + (keep - 1)[:, None] * steps


def sample(frames, positions, num_frame):
    """Read clips at fractional positions by linear interpolation.

    frames     function (clip row (N, 1), frame number (N, window)) -> (N, window, C, V, M)
    positions  (N, window) in frames; outside [0, num_frame - 1] gives an empty frame
    Returns (N, C, window, V, M). A body that is absent in one of the two neighbouring frames is
    taken from the other one alone, so that nobody is drawn half-way towards the origin.
    """
    rows = torch.arange(len(positions), device=positions.device)[:, None]
    last = (num_frame - 1)[:, None]
    inside = (positions >= 0) & (positions <= last)
    lower = positions.clamp(min=0).floor().long().minimum(last)
    fraction = (positions - lower).clamp(0, 1)
    data = frames(rows, lower).transpose(1, 2)
    if fraction.any():
        upper = frames(rows, (lower + 1).minimum(last)).transpose(1, 2)
        weight = fraction[:, :, None].expand(-1, -1, data.shape[-1])
        weight = torch.where(present(upper), weight, 0)
        weight = torch.where(present(data), weight, (weight > 0).float())[:, None, :, None]
        data = torch.lerp(data, upper, weight)
    return data * inside[:, None, :, None, None]
