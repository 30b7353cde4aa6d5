"""From recorded bodies to the input of the networks: window, augmentation, normalisation.

`Preprocess` is the one object that does this, for `Feeder`, export.py and live.py. `Preprocess.eval()`
is its deterministic form.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, fields, replace
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Generator, Tensor

from skeletons import transforms
from skeletons.batch import (
    BodyBatch,
    Tracks,
    frames_with_bodies_first,
    mean_bone_length,
    scale_or_one,
)
from skeletons.layout import BODY_PARTS, Layout
from skeletons.options import check_flag, check_numbers, check_whole, require

ReferenceFrame = Literal[
    "camera", "first-body", "per-frame", "part-centres", "first-frame", "body", "pair"
]
REFERENCE_FRAMES: tuple[str, ...] = get_args(ReferenceFrame)


@dataclass(repr=False)
class Preprocess:
    """Cuts windows out of clips, augments and normalises them.

    Called with the tracks of a batch, it returns a `BodyBatch`. Absent bodies are zero in input and
    output. Options whose names begin with "rand", and a pair for p_interval, make windows and
    augmentation random, for training; `eval()` turns them off.

    layout    of the bodies
    channels  coordinates of a joint: 3 (x, y, z) or 2
    Window, in time
        window_size          frames of an item; 0 or less: as many as the longest clip has
        crop_resize          crop a part of the clip and stretch or shrink it to the window. Otherwise
                             take `window_size` consecutive frames: the middle of a longer clip; a
                             shorter clip is followed by zeros; whole clips in evaluation
        front_padding        only with crop_resize=False: the first frames of a longer clip; zeros
                             precede a shorter clip; the same in evaluation
        p_interval           share of the clip that the crop keeps, in (0, 1]. A number: from the middle
                             of the clip. A pair, least and most: a random share, at a random position
        rand_crop            probability of such a random crop; other clips are kept whole
        rand_end             clips longer than window_size: the first or the last frames, drawn; only
                             with front_padding
        rand_start           the first frames of the window become zeros: a random number of them, up to
                             this share of the window, with probability rand_prob; only with
                             front_padding
        rand_time_warp       the speed varies at random within the clip, as of `transforms.time_warp`:
                             standard deviation of its logarithm; only with crop_resize=True
        random_choose        clips longer than window_size: random start; only with crop_resize=False
        random_shift         clips shorter than window_size: random position, zeros around it; only with
                             crop_resize=False
        random_valid_choose  both of these
        observation_ratio    early recognition: fraction of the clip, from its start, that is used, in
                             (0, 1]; at least one frame
    Normalisation, the same in training and evaluation
        origin_transfer  reference frame of the coordinates.
                         "camera" (or False, None): as recorded
                         "first-body": in every frame, the origin is the root joint of the first body
                         "per-frame": in every frame, the origin of each body is its own root joint
                         "part-centres": in every frame, the origin of the arms of each body is the
                         centre of its shoulders, that of its other joints the centre of its hips
                         (`Layout.part_centres`)
                         "first-frame": the origin is the root of the first body in its first frame of
                         the window, so that trajectories through the room are kept
                         "body": as "first-frame", and the axes are those of that body: x from its left
                         to its right, y up its spine
                         "pair": as "body", but for two bodies that are visible together, the origin
                         is midway between their roots in the first frame that shows both, x is, for
                         each of them, the direction towards the other one, and y the mean direction of
                         both spines. So x and z of one are x and z of the other, negated:
                         `BodyBatch.with_partners`, and `TwoStreamRNN`, need opposite_axes=True
        normalization    divide by the mean bone length of the whole clip (all its bodies), so that
                         people and layouts of different size are comparable. "first-frame": by that of
                         the first body in its first frame of the window, which live recognition knows
                         at once
    Augmentation
        random_move      slow random drift of the camera during the clip. It comes before normalisation,
                         which undoes those parts of it that move the origin
        rand_rotate      largest angle in radians about each axis, or three for x, y, z (2D: z)
        rand_scale       coordinates are multiplied by a random factor from 1 - x to 1 + x, one per axis
        rand_uniform     rand_scale draws one factor for all axes
        rand_shear       random shear factors from -x to x, one per ordered pair of axes
        rand_prob        probability that a clip is rotated, scaled and sheared
        rand_bone_scale  bone lengths are multiplied by a random factor from 1 - x to 1 + x, one per
                         bone, equal on both sides
        rand_noise       random errors of tracking, as of `transforms.tracking_noise`: largest standard
                         deviation, in mean bone lengths
        rand_flip        probability that a clip is mirrored, with left and right joints swapped
        rand_swap_sides  probability that left and right joints are exchanged, as when the sensor
                         mistakes back for front; in the reference frame "body" this turns the body
                         round

    Raises ValueError for an option that is not allowed; it names the option, its value and what is
    allowed.
    """

    layout: Layout
    channels: int
    _: KW_ONLY
    window_size: int = 100
    crop_resize: bool = True
    front_padding: bool = False
    p_interval: float | tuple[float, float] = 1.0
    # `eval()` resets every option whose name begins with "rand". Random options must be named so.
    random_choose: bool = False
    random_shift: bool = False
    random_valid_choose: bool = False
    rand_crop: float = 1.0
    rand_end: bool = False
    rand_start: float = 0.0
    rand_time_warp: float = 0.0
    observation_ratio: float = 1.0
    origin_transfer: str | Literal[False] | None = "body"
    normalization: bool | Literal["first-frame"] = True
    random_move: bool = False
    rand_rotate: float | tuple[float, float, float] = 0.0
    rand_scale: float = 0.0
    rand_uniform: bool = False
    rand_shear: float = 0.0
    rand_prob: float = 1.0
    rand_bone_scale: float = 0.0
    rand_noise: float = 0.0
    rand_flip: float = 0.0
    rand_swap_sides: float = 0.0

    def __post_init__(self) -> None:
        _check_values(self)
        _check_combination(self)
        self._tables = {"cpu": Tables.from_layout(self.layout)}

    def __repr__(self) -> str:
        options = (f"{k}={v!r}" for k, v in self.options().items() if v != getattr(Preprocess, k))
        return f"Preprocess({', '.join([self.layout.name, str(self.channels), *options])})"

    def options(self) -> dict[str, Any]:
        """All options: `Preprocess(layout, channels, **options)` makes an equal object."""
        return {name: getattr(self, name) for name in OPTIONS}

    def eval(self, observation_ratio: float = 1.0) -> Preprocess:
        """The deterministic form, for evaluation: whole clips, or their first frames, not augmented."""
        return replace(
            self,
            window_size=self.window_size if self.crop_resize or self.front_padding else 0,
            observation_ratio=observation_ratio,
            p_interval=1.0,
            **{name: field.default for name, field in self.__dataclass_fields__.items()
               if name.startswith("rand")},
        )  # fmt: skip

    def observed_frames(self, num_frame: Tensor) -> Tensor:
        """How many frames of clips of `num_frame` (N,) frames exist for `observation_ratio`."""
        observed = (num_frame * self.observation_ratio).round().clamp(min=1)
        return observed.to(num_frame.dtype).minimum(num_frame)

    @property
    def bones(self) -> Tensor:
        """(V, V - 1): poses times this are the bones, as in `batch.mean_bone_length`."""
        return self._tables["cpu"].bones

    def __call__(
        self,
        tracks: Tracks,
        num_frame: Tensor,
        generator: Generator | None = None,
        default_size: int | None = None,
    ) -> BodyBatch:
        """Preprocess the clips of `tracks`, on the device of their joints.

        num_frame     (N,) frames of each clip, on the host
        generator     source of random numbers, on the device of the joints (None: torch's global one)
        default_size  frames of an item for window_size=0 (None: the largest of num_frame)

        Needs no GPU synchronisation (except with observation_ratio < 1).

        Raises ValueError for a third body in the reference frame "pair".
        """
        if self.origin_transfer == "pair" and (tracks.offsets[:, 2:] >= 0).any():
            raise ValueError(
                f"clips of {tracks.offsets.shape[1]} bodies, of which the reference frame 'pair' knows "
                "two\nchoose body (--reference_frame of train.py, origin_transfer of Feeder)"
            )
        device, slots = tracks.joints.device, tracks.offsets.shape[1]
        size = self.window_size
        if size <= 0:
            size = int(num_frame.max()) if default_size is None else default_size
        if self.observation_ratio < 1:
            num_frame = self.observed_frames(num_frame)
            tracks = tracks.truncate(num_frame, self._on(device).bones)
        offsets = tracks.offsets.flatten()
        present = offsets >= 0
        slot = present.nonzero()[:, 0]

        def send(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        num_frame, offset, slot, present = map(
            send, (num_frame, offsets[slot], slot, present.view(-1, slots))
        )
        return self._process(
            tracks, offset, BodyBatch(tracks.joints, slot, present), num_frame, size, generator
        )

    def dense(self, clips: Tensor) -> BodyBatch:
        """The same for clips (N, C, T, V, M), without decisions that depend on the data, as export.py
        needs it: absent bodies are in the batch, too, as zeros. For the result of `eval()`.

        Frames that show no body do not count, wherever they are: a clip may be padded with zeros.
        """
        clips, num_frame = frames_with_bodies_first(clips)
        tracks = Tracks.from_dense(clips, self.bones)
        present = torch.ones_like(tracks.offsets, dtype=torch.bool)
        offset = tracks.offsets.flatten()
        slot = torch.arange(offset.shape[0])  # (numel() would be a constant in what export.py traces)
        bodies = BodyBatch(tracks.joints, slot, present)
        num_frame = num_frame.clamp(min=1)  # a clip without any body is a frame of zeros
        size = self.window_size if self.window_size > 0 else clips.shape[2]
        return self._process(tracks, offset, bodies, num_frame, size, None)

    def _process(
        self,
        tracks: Tracks,
        offset: Tensor,
        bodies: BodyBatch,
        num_frame: Tensor,
        size: int,
        generator: Generator | None,
    ) -> BodyBatch:
        """Window, augmentation and normalisation of the bodies that begin at the rows `offset` (B,) of
        `tracks`. `bodies` says to which clips and slots they belong; its joints are not used."""
        clip, scale = bodies.clip, tracks.bone_scale
        positions = self._positions(num_frame, size, generator)  # (N, T)
        frames = (tracks.joints, tracks.visible)
        joints, visible = transforms.sample(frames, offset, num_frame[clip], positions[clip])
        # (Not unflatten, which makes the number of bodies a constant in what export.py traces.)
        joints = joints.view(*visible.shape, self.channels, len(self.layout.joints))
        joints = joints.transpose(1, 2).contiguous()  # (B, C, T, V)
        joints = self._augment(joints, clip, scale, generator)
        bodies = bodies._replace(joints=joints)
        matrix, origin = self.reference(bodies, visible, scale)
        if any(self._rotate) or self.rand_scale or self.rand_shear:
            random = transforms.random_matrix(
                scale.shape[0],
                self._rotate,
                self.rand_scale,
                self.rand_shear,
                generator,
                joints.device,
                uniform_scale=self.rand_uniform,
                probability=self.rand_prob,
            )
            random = random[clip, : self.channels, : self.channels]
            if self.origin_transfer == "pair":  # the same for both bodies, in the axes of the first
                signs = bodies.half_turns(visible)
                random = random * signs[:, :, None] * signs[:, None]
            matrix = random @ matrix
        joints = to_reference(joints, matrix, origin)
        joints.mul_(visible[:, None, :, None])  # a body is zero where it is absent
        return bodies._replace(joints=joints, visible=bodies.scatter(visible.any(1)))

    def _positions(self, num_frame: Tensor, size: int, generator: Generator | None) -> Tensor:
        """The windows, as tables of positions (N, size)."""
        anywhere, drawn = (0.0, 1.0), isinstance(self.p_interval, tuple)
        choose = drawn or self.random_choose or self.random_valid_choose
        ratio = self.p_interval
        if drawn and self.rand_crop < 1:
            source = (num_frame.shape[0], generator, num_frame.device)
            share = transforms.uniform(*ratio, *source)
            ratio = torch.where(transforms.uniform(0, 1, *source) < self.rand_crop, share, 1.0)
        window = {"ratio": ratio, "crop_position": anywhere if choose else 0.5}
        if self.crop_resize:
            positions = transforms.crop_resize(num_frame, size, **window, generator=generator)
            if self.rand_time_warp:
                positions = transforms.time_warp(positions, self.rand_time_warp, generator=generator)
            return positions
        shift = self.random_shift or self.random_valid_choose
        window["pad_position"] = anywhere if shift else 0.0
        if self.front_padding:
            window |= {"crop_position": 0.0, "pad_position": 1.0}
        if self.rand_end:
            drawn = transforms.uniform(0, 2, num_frame.shape[0], generator, num_frame.device)
            window["crop_position"] = drawn.floor()  # 0 or 1
        positions = transforms.crop(num_frame, size, **window, generator=generator)
        if self.rand_start:
            positions = transforms.drop_start(positions, self.rand_start, self.rand_prob, generator)
        return positions

    def _augment(
        self, joints: Tensor, clip: Tensor, bone_scale: Tensor, generator: Generator | None
    ) -> Tensor:
        """The augmentations in the coordinates of the camera: joints (B, C, T, V) -> the same."""
        count, tables = bone_scale.shape[0], self._on(joints.device)
        if self.random_move:
            joints = transforms.random_move(joints, clip, bone_scale, generator=generator)
        if self.rand_flip or self.rand_swap_sides:
            flipped, swapped = (
                (transforms.uniform(0, 1, count, generator, joints.device) < probability)[clip]
                for probability in (self.rand_flip, self.rand_swap_sides)
            )
            joints = transforms.swap_left_right(joints, tables.mirror_index, flipped, swapped)
        if self.rand_bone_scale:
            low, high = 1 - self.rand_bone_scale, 1 + self.rand_bone_scale
            shape = (len(joints), joints.shape[3])  # (B, V)
            factors = transforms.uniform(low, high, shape, generator, joints.device)
            factors[:, self.layout.root] = 1  # the body stays where it is
            factors = factors.index_select(1, tables.one_side)
            joints = transforms.scale_bones(joints, factors, tables.bone_matrix, tables.joint_matrix)
        if self.rand_noise:
            unit = bone_scale[clip]
            joints = transforms.tracking_noise(
                joints, tables.part, unit, self.rand_noise, generator=generator
            )
        return joints

    @property
    def _rotate(self) -> tuple[float, ...]:
        """Largest angles about x, y, z."""
        angles = self.rand_rotate if isinstance(self.rand_rotate, tuple) else (self.rand_rotate,) * 3
        return (0.0, 0.0, angles[2]) if self.channels == 2 else angles

    def reference(
        self, bodies: BodyBatch, visible: Tensor, bone_scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        """How clips are normalised, from recorded bodies.

        visible     bool (B, T)
        bone_scale  (N,) mean bone length of each clip
        Returns matrices (B, C, C) and the origin of each body, (B, C), or where it moves (B, C, T, 1),
        or (B, C, T, V) if each joint has its own; both are for `to_reference`.
        """
        joints, root, channels = bodies.joints, self.layout.root, bodies.joints.shape[1]
        matrix = torch.eye(channels, device=joints.device).expand(joints.shape[0], -1, -1)
        origin = torch.zeros_like(joints[:, :, 0, 0])
        pose = first_pose(bodies, visible)
        if self.origin_transfer == "per-frame":
            origin = joints[..., root, None]
        elif self.origin_transfer == "part-centres":
            origin = joints @ self._on(joints.device).centres
        elif self.origin_transfer == "first-body":
            body = bodies.scatter(visible).int().argmax(1)  # (N, T), the first one that is visible
            roots = bodies.scatter(joints[..., root])  # (N, M, C, T)
            first = roots.gather(1, body[:, None, None].expand(-1, -1, channels, -1))[:, 0]
            origin = first[bodies.clip, ..., None]
        elif self.origin_transfer in ("first-frame", "body", "pair"):
            origin = pose[bodies.clip, :, root]
            if self.origin_transfer != "first-frame":
                matrix = body_axes(pose, self.layout)[bodies.clip]
            if self.origin_transfer == "pair":
                matrix, origin = pair_axes(bodies, visible, self.layout, matrix, origin)
        if self.normalization == "first-frame":
            bone_scale = scale_or_one(mean_bone_length(pose, self._on(joints.device).bones), 1)
        if self.normalization:
            matrix = matrix / bone_scale[bodies.clip, None, None]
        return matrix, origin

    def _on(self, device: torch.device) -> Tables:
        """The tables on a device; copied there once."""
        key = str(device)
        if key not in self._tables:
            self._tables[key] = Tables(*(table.to(device) for table in self._tables["cpu"]))
        return self._tables[key]

    def __getstate__(self) -> dict[str, Any]:
        # Another process makes its own copies for other devices.
        return self.__dict__ | {"_tables": {"cpu": self._tables["cpu"]}}


# All options of Preprocess, that is, its fields after layout and channels.
OPTIONS = tuple(field.name for field in fields(Preprocess)[2:])


class Tables(NamedTuple):
    """What the transforms need of a layout, as tensors.

    mirror_index  (V,) as in `Layout`
    one_side      (V,) the joint that stands for a joint and its mirror image
    part          (V,) index of the body part of each joint
    bone_matrix   (V, V) as in `bone_matrix`
    joint_matrix  (V, V) its inverse
    bones         (V, V - 1) bone_matrix without the root
    centres       (V, V) as in `centre_matrix`
    """

    mirror_index: Tensor
    one_side: Tensor
    part: Tensor
    bone_matrix: Tensor
    joint_matrix: Tensor
    bones: Tensor
    centres: Tensor

    @classmethod
    def from_layout(cls, layout: Layout) -> Tables:
        """The tables of a layout."""
        mirror_index, matrix, root = torch.tensor(layout.mirror_index), bone_matrix(layout), layout.root
        one_side = mirror_index.minimum(torch.arange(len(layout.joints)))
        part = torch.empty_like(one_side)
        for index, of_part in enumerate(layout.parts.values()):
            part[list(of_part)] = index
        bones = torch.cat((matrix[:, :root], matrix[:, root + 1 :]), 1)
        inverse = matrix.inverse().round()
        return cls(mirror_index, one_side, part, matrix, inverse, bones, centre_matrix(layout))


def to_reference(joints: Tensor, matrix: Tensor, origin: Tensor) -> Tensor:
    """Joints (B, C, T, V) in the frame of matrix (B, C, C) and origin, (B, C) or (B, C, T, 1 or V)."""
    if origin.dim() > 2:  # it moves from frame to frame
        joints, origin = joints - origin, torch.zeros_like(origin[:, :, 0, 0])
    return transforms.affine(joints, matrix, -(matrix @ origin[..., None])[..., 0])


def first_pose(bodies: BodyBatch, visible: Tensor) -> Tensor:
    """The body that is visible first in each clip, in its first frame: visible (B, T) -> (N, C, V)."""
    _, channels, _, joints = bodies.joints.shape
    frame = visible.int().argmax(1)  # (gather below: export.py cannot index by two tensors)
    index = frame[:, None, None, None].expand(-1, channels, 1, joints)
    poses = bodies.scatter(bodies.joints.gather(2, index)[:, :, 0])  # (N, M, C, V)
    body = bodies.scatter((visible.shape[1] - frame) * visible.any(1)).argmax(1)
    index = body[:, None, None, None].expand(-1, 1, channels, joints)
    return poses.gather(1, index)[:, 0]


def bone_matrix(layout: Layout) -> Tensor:
    """(V, V): joints (..., C, V) times this are the bones, from parent to joint (the root: from the
    origin)."""
    matrix = torch.eye(len(layout.joints))
    for joint, parent in layout.bones:
        matrix[parent, joint] = -1
    return matrix


def centre_matrix(layout: Layout) -> Tensor:
    """(V, V): joints (..., C, V) times this are the centre that belongs to each joint, as in
    `Layout.part_centres`. Zero for a layout without arms and legs."""
    matrix = torch.zeros(len(layout.joints), len(layout.joints))
    if set(BODY_PARTS) <= set(layout.parts):
        for joints, centre in layout.part_centres:
            for joint in centre:
                matrix[joint, joints] = 1 / len(centre)
    return matrix


def body_axes(pose: Tensor, layout: Layout) -> Tensor:
    """Rotation (N, 3, 3) from the camera's axes to those of a body in a pose (N, 3, V).

    y points up the spine, from the hips towards the head, whatever the root of the layout. x is the
    direction from the left shoulder and hip to the right ones, made orthogonal to y. z completes a
    right-handed system, so a body that stands facing a Kinect is not rotated at all. The identity where
    a pose has no such directions (an absent body).
    """
    ends = {
        name: [pose[:, :, joint] for joint in joints] for name, joints in layout.axis_joints.items()
    }
    top, bottom = sum(ends["top"]) / 2, sum(ends["bottom"]) / 2
    across = sum(ends["right"]) - ends["left"][0] - ends["left"][1]
    y = torch.nn.functional.normalize(top - bottom)
    x = torch.nn.functional.normalize(across - (across * y).sum(1, keepdim=True) * y)
    axes = torch.stack((x, y, torch.linalg.cross(x, y)), 1)
    defined = (axes.norm(dim=2) > 0.5).all(1)[:, None, None]
    return torch.where(defined, axes, torch.eye(3, device=pose.device))


NEARLY_VERTICAL = 0.1  # sine of the angle between y and the direction to the other body


def pair_axes(
    bodies: BodyBatch, visible: Tensor, layout: Layout, axes: Tensor, origin: Tensor
) -> tuple[Tensor, Tensor]:
    """The reference frame "pair": rotations (B, 3, 3) and origins (B, 3) of the bodies.

    In clips whose bodies are visible together, the origin is midway between them in the first such
    frame, y is the mean direction of both spines, x the direction towards the other body, and z
    completes a right-handed system. So the axes of the second body are those of the first after half a
    turn about y.

    visible       bool (B, T)
    axes, origin  those of a body that is never visible together with another one. The two have them,
                  the second after half a turn, if x is not defined: at the same place, within 6 degrees
                  above each other, or upside down to each other
    """
    both = bodies.together(visible)  # (B, T)
    index = both.int().argmax(1)[:, None, None, None].expand(-1, 3, 1, bodies.joints.shape[3])
    own = bodies.joints.gather(2, index)[:, :, 0]  # (B, 3, V)
    other = bodies.of_partner(own)
    middle, towards = (own + other)[..., layout.root] / 2, (other - own)[..., layout.root]
    spines = body_axes(own, layout)[:, 1] + body_axes(other, layout)[:, 1]
    y = torch.nn.functional.normalize(spines)
    across = towards - (towards * y).sum(1, keepdim=True) * y
    x = torch.nn.functional.normalize(across)
    beside = across.norm(dim=1) > NEARLY_VERTICAL * towards.norm(dim=1)
    together = both.any(1)[:, None]  # (B, 1)
    defined = together & (beside & (spines.norm(dim=1) > NEARLY_VERTICAL))[:, None]
    pair = torch.stack((x, y, torch.linalg.cross(x, y)), 1)
    turned = axes * bodies.half_turns(visible)[:, :, None]
    return torch.where(defined[..., None], pair, turned), torch.where(defined, middle, origin)


# --- Checks of the options ----------------------------------------------------------------------------

FLAGS = (
    "crop_resize", "front_padding", "random_choose", "random_shift", "random_valid_choose", "rand_end",
    "random_move", "rand_uniform",
)  # fmt: skip
# Option -> how many numbers it may have, what is true of them, the same in words.
NUMBERS: dict[str, tuple[tuple[int, ...], Callable[..., bool], str]] = {
    "p_interval": (
        (1, 2),
        lambda low, high=1: 0 < low <= high <= 1,
        "a share of the clip in (0, 1], or two of them, the smaller one first",
    ),
    "observation_ratio": ((1,), lambda x: 0 < x <= 1, "a share of the clip in (0, 1]"),
    "rand_rotate": (
        (1, 3),
        lambda *angles: all(0 <= angle <= math.pi for angle in angles),
        "one angle or three (x, y, z), in radians, from 0 to pi",
    ),
    "rand_scale": ((1,), lambda x: 0 <= x < 1, "a number from 0 to less than 1"),
    "rand_bone_scale": ((1,), lambda x: 0 <= x < 1, "a number from 0 to less than 1"),
    "rand_noise": ((1,), lambda x: x >= 0, "a number of 0 or more"),
    "rand_shear": ((1,), lambda x: x >= 0, "a number of 0 or more"),
    "rand_start": ((1,), lambda x: 0 <= x < 1, "a number from 0 to less than 1"),
    "rand_crop": ((1,), lambda x: 0 <= x <= 1, "a probability from 0 to 1"),
    "rand_time_warp": ((1,), lambda x: x >= 0, "a number of 0 or more"),
    "rand_prob": ((1,), lambda x: 0 <= x <= 1, "a probability from 0 to 1"),
    "rand_flip": ((1,), lambda x: 0 <= x <= 1, "a probability from 0 to 1"),
    "rand_swap_sides": ((1,), lambda x: 0 <= x <= 1, "a probability from 0 to 1"),
}


def _check_values(options: Preprocess) -> None:
    """Check each option alone, and replace it by a plain value: a float, a tuple of floats, ..."""
    require(isinstance(options.layout, Layout), "layout", options.layout, "a Layout")
    options.channels = check_whole("channels", options.channels, 1)
    options.window_size = check_whole("window_size", options.window_size)
    for name in FLAGS:
        setattr(options, name, check_flag(name, getattr(options, name)))
    for name, rule in NUMBERS.items():
        setattr(options, name, check_numbers(name, getattr(options, name), *rule))
    value = options.normalization
    known = isinstance(value, (bool, np.bool_)) or (isinstance(value, str) and value == "first-frame")
    require(known, "normalization", value, "False, True or 'first-frame'")
    if options.origin_transfer is False or options.origin_transfer is None:
        options.origin_transfer = "camera"
    value = options.origin_transfer
    known = isinstance(value, str) and value in REFERENCE_FRAMES
    require(known, "origin_transfer", value, f"one of {', '.join(REFERENCE_FRAMES)}")


def _check_combination(options: Preprocess) -> None:
    """ValueError for options that exclude each other or do not suit the layout or the coordinates."""
    layout, channels = options.layout, options.channels
    random = options.random_choose or options.random_shift or options.random_valid_choose
    if options.crop_resize and (random or options.front_padding):
        raise ValueError(
            "random_choose, random_shift, random_valid_choose and front_padding do nothing with "
            "crop_resize=True\nset crop_resize=False, or do not use these options"
        )
    if options.rand_time_warp and not options.crop_resize:
        raise ValueError(
            "rand_time_warp needs crop_resize=True (train.py: neither --no_resample nor --causal)\n"
            "choose rand_time_warp=0 (train.py: --time_warp 0), or set crop_resize=True"
        )
    if options.front_padding and random:
        raise ValueError(
            "random_choose, random_shift and random_valid_choose exclude front_padding\n"
            "use rand_end, or set front_padding=False"
        )
    if not options.front_padding and (options.rand_end or options.rand_start):
        raise ValueError(
            "rand_end and rand_start need front_padding (train.py: --no_resample)\n"
            "set it, or do not use these options"
        )
    frame, needs = options.origin_transfer, ""
    if frame in ("body", "pair", "part-centres") and not set(BODY_PARTS) <= set(layout.parts):
        needs = f"parts called {', '.join(BODY_PARTS)}; {layout.name} has {', '.join(layout.parts)}"
    if frame in ("body", "pair") and channels != 3:
        needs = f"3D joints; these have {channels} coordinates"
    if needs:
        others = ", ".join(other for other in REFERENCE_FRAMES if other != frame)
        raise ValueError(
            f"the reference frame '{frame}' needs {needs}\nchoose another one ({others}): "
            "--reference_frame of train.py, origin_transfer of Feeder"
        )
    if channels not in (2, 3) and (
        options.random_move or any(options._rotate) or options.rand_scale or options.rand_shear
    ):
        raise ValueError(
            "random_move, rand_rotate, rand_scale and rand_shear need 2 or 3 coordinates; these joints "
            f"have {channels}\ndo not use these options"
        )
    if (options.rand_flip or options.rand_swap_sides) and (
        layout.mirror_index == list(range(len(layout.joints))) or layout.unpaired
    ):
        raise ValueError(
            "rand_flip and rand_swap_sides need joints called 'left ...' and 'right ...'; layout "
            f"{layout.name} has {', '.join(layout.joints)}\nrename them, or leave these options out"
        )
