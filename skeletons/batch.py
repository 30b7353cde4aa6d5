"""Bodies of clips, as they are kept in memory and as the networks read them: only those that are there.

Most clips show one person, and data sets keep a place for two. Absent bodies are neither stored nor
computed here. Letters: N clips, M places for bodies in a clip, B bodies that are there, F frames of all
of them.
"""

from typing import NamedTuple

import numpy as np
import torch


class BodyBatch(NamedTuple):
    """A batch of clips.

    joints  float32 (B, C, T, V), the bodies clip by clip; zeros in frames a body is absent from
    place   int64 (B,): whose body it is, clip * M + place
    there   bool (N, M): who is to be seen in the frames of the batch; a body may be in the clip and not
            in a window of it
    """

    joints: torch.Tensor
    place: torch.Tensor
    there: torch.Tensor

    @classmethod
    def of(cls, data):
        """From clips (N, C, T, V, M), zeros for absent bodies."""
        there = (data != 0).flatten(1, 3).any(1)
        place = there.flatten().nonzero()[:, 0]
        return cls(data.permute(0, 4, 1, 2, 3)[there], place, there)

    def dense(self):
        """-> clips (N, C, T, V, M), zeros for absent bodies."""
        return self.scatter(self.joints).permute(0, 2, 3, 4, 1).contiguous()

    def scatter(self, values):
        """Something of each body (B, ...) -> (N, M, ...), zeros for absent bodies."""
        count, places = self.there.shape
        dense = values.new_zeros(count * places, *values.shape[1:])
        return dense.index_copy(0, self.place, values).view(count, places, *values.shape[1:])

    @property
    def clip(self):
        """(B,) the clip of each body."""
        return self.place // self.there.shape[1]

    def to(self, device):
        return BodyBatch(*(tensor.to(device, non_blocking=True) for tensor in self))


class Tracks(NamedTuple):
    """All bodies of many clips, the frames of each body one after the other.

    joints  float32 (F, C V)
    seen    bool (F,): the body is in the frame
    start   int64 (N, M): where the frames of each body begin; -1: the clip has no such body
    size    float32 (N,): mean length of the bones of all bodies in all frames; 1 where there are none
    """

    joints: torch.Tensor
    seen: torch.Tensor
    start: torch.Tensor
    size: torch.Tensor

    @classmethod
    def of(cls, data, count, bones):
        """From the frames of clips end to end (frames, C, V, M), their number in each clip (N,), and
        the pairs of joints (joint, parent) that bones tie together."""
        clip = torch.arange(len(count)).repeat_interleave(count)
        joints, seen, clips, starts, rows = [], [], [], [], 0
        for body in data.unbind(3):
            body = body.flatten(1)  # (frames, C V)
            there = torch.zeros(len(count), dtype=torch.bool)
            there[clip[(visible := (body != 0).any(1))]] = True
            frames = there[clip]
            length = count * there
            starts.append(torch.where(there, rows + length.cumsum(0) - length, -1))
            rows += int(length.sum())
            joints.append(body[frames])
            seen.append(visible[frames])
            clips.append(clip[frames])
        joints, seen, clip = map(torch.cat, (joints, seen, clips))

        ends = torch.zeros(data.shape[2], len(bones))  # joints times this: bones
        for i, (joint, parent) in enumerate(bones):
            ends[joint, i], ends[parent, i] = 1, -1
        bone = (joints.unflatten(1, data.shape[1:3]) @ ends).square().sum(1).sqrt().mean(1)
        total = torch.zeros(len(count)).index_add_(0, clip, bone * seen)
        number = torch.zeros(len(count)).index_add_(0, clip, seen.float())
        size = total / number.clamp(min=1)
        size = torch.where(size > 0, size, 1.0)
        return cls(joints, seen, torch.stack(starts, 1), size)

    @classmethod
    def join(cls, many, most):
        """Tracks of clips after Tracks of clips, with `most` frames at most -> Tracks. What comes is
        laid into one array, which is shortened in place: memory is never needed twice."""
        joints, rows, others = None, 0, []
        for tracks in many:
            if joints is None:
                joints = np.empty((most, tracks.joints.shape[1]), np.float32)
            joints[rows : rows + len(tracks.joints)] = tracks.joints
            start = torch.where(tracks.start < 0, -1, tracks.start + rows)
            others.append((tracks.seen, start, tracks.size))
            rows += len(tracks.joints)
        joints.resize((rows, joints.shape[1]), refcheck=False)
        return cls(torch.from_numpy(joints), *map(torch.cat, zip(*others, strict=True)))

    def to(self, device):
        """Everything but `start`, which says on the host how many bodies a batch has."""
        return self._replace(
            **{name: getattr(self, name).to(device) for name in ("joints", "seen", "size")}
        )
