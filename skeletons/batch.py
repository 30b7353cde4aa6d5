"""Bodies in memory: a batch, all clips of a data set, visible frames, mean bone length.

Most clips show one person, while data sets keep two slots. Absent bodies are neither stored nor
computed. An absent body has zero coordinates, in memory and on disk; `visible_frames` tests for it.

Letters: N clips, M slots for bodies in a clip, B bodies in the batch, C coordinates, T frames of a
window, V joints, R rows: the frames of all bodies, one body after the other.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


def visible_frames(joints: Tensor) -> Tensor:
    """The frames in which a body is visible: joints (B, C, T, V) -> bool (B, T).

    A body is absent from a frame when all its coordinates are zero there.
    """
    return (joints != 0).any(3).any(1)


def frames_with_bodies_first(clips: Tensor) -> tuple[Tensor, Tensor]:
    """Clips (N, C, T, V, M) -> the same with the frames that show no body last, and the number of the
    other frames (N,). Padding and the time before the first body are such frames; converted clips have
    none (clip_stream.py, tracking.py). Without decisions that depend on the data, as export.py needs.
    """
    visible = visible_frames(clips.flatten(3))  # (N, T)
    return visible_first(clips, visible), visible.sum(1)


def visible_first(values: Tensor, visible: Tensor) -> Tensor:
    """Values (N, C, T, ...) with the frames that are visible, bool (N, T), first, in their order."""
    time = torch.arange(visible.shape[1], device=visible.device)
    order = torch.where(visible, time, time + visible.shape[1]).argsort(1)
    order = order.view(order.shape[0], 1, -1, *[1] * (values.dim() - 3))
    return values.gather(2, order.expand_as(values))


def mean_bone_length(joints: Tensor, bones: Tensor) -> Tensor:
    """Mean length of the bones in each pose (..., C, V) -> (...), in the unit of the data.

    bones  (V, V - 1): poses times this are the bones, without the root (`preprocess.bone_matrix`)
    """
    return (joints @ bones).square().sum(-2).sqrt().mean(-1)


def scale_or_one(total: Tensor, count: Tensor | int) -> Tensor:
    """What a clip is divided by: the mean total / count of its bone lengths; 1 if there are none, or if
    all of them are zero."""
    scale = total / count  # (0 / 0 is not a number, and so not greater than 0)
    return torch.where(scale > 0, scale, 1.0)


class BodyBatch(NamedTuple):
    """The bodies of a batch of clips.

    joints   float32 (B, C, T, V), the bodies clip by clip; zeros in frames that a body is absent from
    slot     int64 (B,): where each body belongs, clip * M + its slot in the clip
    visible  bool (N, M): which slots hold a body that is visible in the window; a body may be in the
             clip and not in this window of it
    """

    joints: Tensor
    slot: Tensor
    visible: Tensor

    @classmethod
    def from_dense(cls, clips: Tensor) -> BodyBatch:
        """From clips (N, C, T, V, M), zeros for absent bodies."""
        bodies = clips.permute(0, 4, 1, 2, 3)  # (N, M, C, T, V)
        visible = visible_frames(bodies.flatten(0, 1)).any(1).view(bodies.shape[:2])
        return cls(bodies[visible], visible.flatten().nonzero()[:, 0], visible)

    def to_dense(self) -> Tensor:
        """-> clips (N, C, T, V, M), zeros for absent bodies."""
        return self.scatter(self.joints).permute(0, 2, 3, 4, 1).contiguous()

    def scatter(self, values: Tensor) -> Tensor:
        """One value of any shape for each body, (B, ...) -> (N, M, ...), zeros for absent bodies."""
        clips, slots = self.visible.shape
        dense = values.new_zeros(clips * slots, *values.shape[1:])
        return dense.index_copy(0, self.slot, values).view(clips, slots, *values.shape[1:])

    def with_partners(self, opposite_axes: bool = False) -> Tensor:
        """(B, C, T, 2 V): the joints of each body, then those of its partner, the other body of the
        clip, in the same axes; zeros where it is absent. ValueError for more than two slots.

        opposite_axes  the axes of the two bodies are opposite, as in the reference frame "pair": x and
                       z of one are x and z of the other, negated
        """
        slots = self.visible.shape[1]
        if slots > 2:
            raise ValueError(
                f"{slots} bodies, of which the modality partner can read two\n"
                "leave the other bodies out, or train without this modality"
            )
        partner = self.of_partner(self.joints)
        if opposite_axes:
            x, y, z = partner.unbind(1)
            partner = torch.stack((-x, y, -z), 1)
        return torch.cat((self.joints, partner), 3)

    def of_partner(self, values: Tensor) -> Tensor:
        """One value of any shape for each body, (B, ...) -> that of the other body of the clip, zeros
        where it is absent. Slots after the second have none."""
        slots = self.visible.shape[1]
        # (With one more slot, since a clip may have only one. export.py can trace these operations.)
        dense = torch.nn.functional.pad(self.scatter(values.flatten(1)), (0, 0, 0, 1))
        others = torch.cat((dense[:, 1:2], dense[:, :1], torch.zeros_like(dense[:, 2:])), 1)[:, :slots]
        return others.flatten(0, 1).index_select(0, self.slot).view(values.shape)

    def together(self, visible: Tensor) -> Tensor:
        """Of the frames that show each body, bool (B, T), those that show the other body of the clip,
        too."""
        return visible & (self.of_partner(visible.to(self.joints.dtype)) > 0)

    def half_turns(self, visible: Tensor) -> Tensor:
        """Signs (B, 3): x, y and z of the first body, multiplied by these, are the axes of each body in
        the reference frame "pair". (-1, 1, -1), half a turn about y, for a second body that is visible
        together with the first one; ones for all others.

        visible  bool (B, T), the frames that show each body
        """
        second = self.slot % self.visible.shape[1] == 1
        signs = torch.where(second & self.together(visible).any(1), -1.0, 1.0)
        return torch.stack((signs, torch.ones_like(signs), signs), 1)

    @property
    def clip(self) -> Tensor:
        """(B,) the clip of each body."""
        return self.slot // self.visible.shape[1]

    def pad_bodies(self, multiple: int) -> BodyBatch:
        """The same with absent bodies added in slots that hold none, up to a multiple of so many bodies
        (if there are as many slots). They change nothing that a network computes of the clips."""
        count, slots = len(self.slot), self.visible.numel()
        missing = min(-(-count // multiple) * multiple, slots) - count
        taken = self.slot.new_zeros(slots).index_fill(0, self.slot, 1)
        free = taken.argsort(stable=True)[:missing]
        absent = self.joints.new_zeros(missing, *self.joints.shape[1:])
        return BodyBatch(torch.cat((self.joints, absent)), torch.cat((self.slot, free)), self.visible)

    def to(self, device: torch.device | str) -> BodyBatch:
        """The same on another device."""
        return BodyBatch(*(tensor.to(device, non_blocking=True) for tensor in self))


class Tracks(NamedTuple):
    """The bodies of many clips, each in all frames of its clip, one body after the other.

    joints      float32 (R, C V)
    visible     bool (R,): the body is visible in the frame
    offsets     int64 (N, M): first row of each body; -1: the clip has no such body. Always on the host,
                which must know how many bodies a batch has
    bone_scale  float32 (N,): mean length of the bones of all bodies in the frames in which they are
                visible; 1 for a clip without bodies
    """

    joints: Tensor
    visible: Tensor
    offsets: Tensor
    bone_scale: Tensor

    @classmethod
    def from_frames(cls, frames: Tensor, num_frame: Tensor, bones: Tensor) -> Tracks:
        """From the frames of clips end to end, (sum of num_frame, C, V, M).

        num_frame  (N,) frames in each clip
        bones      (V, V - 1), as in `mean_bone_length`
        """
        frame_clip = torch.arange(len(num_frame)).repeat_interleave(num_frame)
        joints, visible, clips, offsets, rows = [], [], [], [], 0
        for body in frames.unbind(3):  # (frames, C, V)
            body_visible = visible_frames(body[:, :, None])[:, 0]
            present = torch.zeros(len(num_frame), dtype=torch.bool)
            present[frame_clip[body_visible]] = True
            kept = present[frame_clip]
            length = num_frame * present
            offsets.append(torch.where(present, rows + length.cumsum(0) - length, -1))
            rows += int(length.sum())
            joints.append(body[kept])
            visible.append(body_visible[kept])
            clips.append(frame_clip[kept])
        joints, visible, clip = map(torch.cat, (joints, visible, clips))
        scale = _clip_scale(mean_bone_length(joints, bones), visible, clip, len(num_frame))
        return cls(joints.flatten(1), visible, torch.stack(offsets, 1), scale)

    @classmethod
    def from_dense(cls, clips: Tensor, bones: Tensor) -> Tracks:
        """From clips (N, C, T, V, M). Absent bodies are kept, as zeros, and have rows, too: nothing
        here depends on the data, so that export.py can trace it.

        bones  (V, V - 1), as in `mean_bone_length`
        """
        count, frames, slots = clips.shape[0], clips.shape[2], clips.shape[4]
        bodies = clips.permute(0, 4, 1, 2, 3).flatten(0, 1)  # (B, C, T, V)
        visible = visible_frames(bodies)
        joints = bodies.transpose(1, 2)  # (B, T, C, V)
        total = mean_bone_length(joints, bones).sum(1).view(count, slots).sum(1)
        scale = scale_or_one(total, visible.sum(1).view(count, slots).sum(1))
        offsets = (torch.arange(bodies.shape[0]) * frames).view(count, slots)
        return cls(joints.flatten(2).flatten(0, 1), visible.flatten(), offsets, scale)

    @classmethod
    def concat(cls, chunks: Iterable[Tracks], max_frames: int) -> Tracks:
        """Tracks of clips after Tracks of clips, with at most `max_frames` rows in all.

        The rows are copied into one array, which is then shortened in place, so that the data is never
        in memory twice.
        """
        joints, rows, others = None, 0, []
        for chunk in chunks:
            if joints is None:
                joints = np.empty((max_frames, chunk.joints.shape[1]), np.float32)
            joints[rows : rows + len(chunk.joints)] = chunk.joints
            offsets = torch.where(chunk.offsets < 0, -1, chunk.offsets + rows)
            others.append((chunk.visible, offsets, chunk.bone_scale))
            rows += len(chunk.joints)
        joints.resize((rows, joints.shape[1]), refcheck=False)
        return cls(torch.from_numpy(joints), *map(torch.cat, zip(*others, strict=True)))

    def select(self, clips: Tensor) -> Tracks:
        """The clips of these numbers, an index on the host; the frames are shared, not copied."""
        on_device = clips.to(self.bone_scale.device, non_blocking=True)
        return self._replace(offsets=self.offsets[clips], bone_scale=self.bone_scale[on_device])

    def truncate(self, num_frame: Tensor, bones: Tensor) -> Tracks:
        """The same clips as if each ended after its first `num_frame` (N,) frames.

        Bodies that become visible only later are dropped, and bone lengths of later frames do not
        count. The frames are shared, not copied. On a GPU this waits for the device.

        bones  (V, V - 1), as in `mean_bone_length`
        """
        slots = self.offsets.shape[1]
        # (M N,): all first bodies, then all second ones, the order in which from_frames adds lengths up
        body = self.offsets.T.flatten()
        number = num_frame.repeat(slots) * (body >= 0)
        frame = torch.arange(int(number.sum())) - (number.cumsum(0) - number).repeat_interleave(number)
        rows = (body.repeat_interleave(number) + frame).to(self.joints.device)
        clip = torch.arange(len(num_frame)).repeat(slots).repeat_interleave(number)
        slot = torch.arange(slots).repeat_interleave(len(num_frame)).repeat_interleave(number)

        visible = self.visible[rows].cpu()
        lengths = mean_bone_length(self.joints[rows].unflatten(1, (-1, len(bones))), bones).cpu()
        present = torch.zeros_like(self.offsets, dtype=torch.bool)
        present[clip[visible], slot[visible]] = True
        scale = _clip_scale(lengths, visible, clip, len(num_frame))
        return self._replace(
            offsets=torch.where(present, self.offsets, -1),
            bone_scale=scale.to(self.bone_scale.device),
        )

    def to(self, device: torch.device | str) -> Tracks:
        """The same on another device; the offsets stay on the host."""
        return self._replace(
            joints=self.joints.to(device),
            visible=self.visible.to(device),
            bone_scale=self.bone_scale.to(device),
        )


def _clip_scale(lengths: Tensor, visible: Tensor, clip: Tensor, count: int) -> Tensor:
    """Mean bone length of each of `count` clips, from that of each row (R,) and the row's clip (R,)."""
    total = torch.zeros(count).index_add_(0, clip, lengths)
    return scale_or_one(total, torch.zeros(count).index_add_(0, clip, visible.float()))
