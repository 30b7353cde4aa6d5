"""Which joints and which frames a prediction rests on, by occlusion; plot.explanations draws it.

    recognizer = TwoStreamRNN.from_pretrained("demo-small")
    bodies = recognizer.bodies([recognizer.read_clip(clip)])
    explanation = explain_clip(recognizer.model, bodies)

A part of the clip, a joint or some frames, is removed so that a plausible body remains: the joint takes
the place, relative to the body, that it has in the pose of the clip that looks least like the class
(`hold_joints`); frames are interpolated between their neighbours (`interpolate_frames`). The importance
of a part is the mean of two changes of the logarithm of the class's probability: how much is lost when
only this part is removed, and how much is gained when only this part is left. The second one finds
parts that say the same, as hand and wrist: one of them can be removed without effect. (They are the
first and the last term of the part's Shapley value.) benchmarks/faithfulness.py tests this method.

Letters: P removals, B bodies of the clip, C coordinates, T frames of the network's input, V joints.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model import TwoStreamRNN
from skeletons.batch import BodyBatch, visible_frames

WINDOWS = 12  # a window of frames is this part of a clip
BATCH_SIZE = 64  # bodies


class Explanation(NamedTuple):
    """How much a class's log probability rests on joints and frames; negative: they lower it.

    label        the class
    probability  that the network gives it
    joints       importance of each joint, float32 (B, V)
    frames       importance of each frame, from the first to the last one that shows a body, float32
                 (T,)
    poses        the bodies as the network reads them, both of two in the axes of the first, float32
                 (B, C, T, V); zeros where absent
    """

    label: int
    probability: float
    joints: np.ndarray
    frames: np.ndarray
    poses: np.ndarray


@torch.no_grad()
def explain_clip(model: TwoStreamRNN, bodies: BodyBatch, label: int | None = None) -> Explanation:
    """Explain the probability of a class in the fusion of both streams.

    model   in evaluation mode
    bodies  one clip, preprocessed, on the model's device
    label   the class; None: the most probable one
    Raises ValueError for several clips, and for a clip without a body.
    """
    if len(bodies.visible) != 1 or not bodies.visible.any():
        problem = "no body is visible" if len(bodies.visible) == 1 else f"{len(bodies.visible)} clips"
        raise ValueError(f"nothing to explain: {problem}\ngive one clip that shows a body")
    joints = bodies.joints
    span = shown_span(joints)
    posterior = model.posterior(model(bodies))[0]
    label = int(posterior.argmax()) if label is None else label

    def importance(remove: Callable[[Tensor, Tensor], Tensor], parts: Tensor) -> Tensor:
        """Parts of the clip, bool (P, ...) -> how much the answer rests on each (P,)."""
        whole, nothing = torch.zeros_like(parts[:1]), torch.ones_like(parts[:1])
        removed = torch.cat((whole, nothing, parts, ~parts))
        probability = class_probabilities(model, bodies, removed, remove)[:, label]
        log = probability.clamp(min=1e-30).log()  # (0 is possible in float32)
        without, alone = log[2:].chunk(2)
        return ((log[0] - without) + (alone - log[1])) / 2

    count, _, num_frames, num_joints = joints.shape
    windows = sliding_windows(span.stop - span.start, WINDOWS).to(joints.device)
    padded = torch.nn.functional.pad(windows, (span.start, num_frames - span.stop))
    each_joint = torch.eye(count * num_joints, dtype=torch.bool, device=joints.device)
    still = least_typical(model, bodies, label)
    by_joint = importance(partial(hold_joints, still), each_joint.view(-1, count, num_joints))
    by_window = importance(interpolate_frames, padded)
    frames = (windows * by_window[:, None]).sum(0) / windows.sum(0)
    poses = joints[:, :, span]
    if model.opposite_axes:
        poses = poses * bodies.half_turns(visible_frames(joints))[..., None, None]
    arrays = (x.cpu().numpy() for x in (by_joint.view(count, num_joints), frames, poses))
    return Explanation(label, float(posterior[label]), *arrays)


def shown_span(joints: Tensor) -> slice:
    """From the first to the last frame of joints (B, C, T, V) that shows a body: without padding."""
    shown = visible_frames(joints).any(0).nonzero()[:, 0]
    return slice(int(shown.min()), int(shown.max()) + 1)


def class_probabilities(
    model: TwoStreamRNN,
    bodies: BodyBatch,
    removed: Tensor,
    remove: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Class probabilities of one clip after each of some removals -> (P, classes).

    removed  bool (P, ...), for `remove`
    remove   joints (B, C, T, V) and some of `removed` -> joints (P, B, C, T, V)
    """
    slots, found = bodies.visible.shape[1], []
    for some in removed.split(max(1, BATCH_SIZE // len(bodies.joints))):
        first = torch.arange(len(some), device=some.device)[:, None] * slots
        slot = (first + bodies.slot).flatten()
        joints = remove(bodies.joints, some).flatten(0, 1)
        batch = BodyBatch(joints, slot, bodies.visible.expand(len(some), -1))
        found.append(model.posterior(model(batch)))
    return torch.cat(found)


def least_typical(model: TwoStreamRNN, bodies: BodyBatch, label: int) -> Tensor:
    """The bodies standing still in the pose of the clip that looks least like the class: joints
    (B, C, T, V) with the lowest probability of the class, among 2 * WINDOWS frames."""
    num_frames, span = bodies.joints.shape[2], shown_span(bodies.joints)
    frames = torch.linspace(span.start, span.stop - 1, 2 * WINDOWS).round().long().unique()
    others = ~torch.eye(num_frames, dtype=torch.bool)[frames].to(bodies.joints.device)
    lowest = class_probabilities(model, bodies, others, interpolate_frames)[:, label].argmin()
    return interpolate_frames(bodies.joints, others[lowest][None])[0]


def hold_joints(still: Tensor, joints: Tensor, removed: Tensor) -> Tensor:
    """Joints (B, C, T, V) -> (P, B, C, T, V): removed joints, bool (P, B, V), have the place relative
    to the body's centre that they have in `still` (B, C, T, V)."""
    visible = visible_frames(joints)[:, None, :, None]
    held = (joints.mean(3, keepdim=True) + still - still.mean(3, keepdim=True)) * visible
    return torch.where(removed[:, :, None, None], held, joints)


def interpolate_frames(joints: Tensor, removed: Tensor) -> Tensor:
    """Joints (B, C, T, V) -> (P, B, C, T, V): between the nearest frames that are left, joints move in
    straight lines; before the first and after the last such frame, they do not move. Of a body of which
    no frame is left, the first one is kept.

    removed  bool (P, T)
    """
    visible = visible_frames(joints)  # (B, T)
    left = visible & ~removed[:, None]  # (P, B, T)
    num_frames = left.shape[2]
    time = torch.arange(num_frames, device=left.device)
    left |= ~left.any(2, keepdim=True) & (time == visible.int().argmax(1, keepdim=True))
    before = torch.where(left, time, -1).cummax(2).values
    after = torch.where(left, time, num_frames).flip(2).cummin(2).values.flip(2)
    before, after = (
        torch.where(before < 0, after, before),
        torch.where(after == num_frames, before, after),
    )
    weight = ((time - before) / (after - before).clamp(min=1))[:, :, None, :, None]
    clips = joints.expand(len(removed), *joints.shape)
    start, end = (clips.gather(3, i[:, :, None, :, None].expand_as(clips)) for i in (before, after))
    return torch.lerp(start, end, weight) * visible[:, None, :, None]


def sliding_windows(num_frames: int, count: int) -> Tensor:
    """Windows of 1 / `count` of the frames, half a window apart, bool (P, T). Each frame is in one of
    them or more."""
    width = max(1, round(num_frames / count))
    step = max(1, width // 2)
    starts = torch.arange(step - width, num_frames, step)[:, None]
    time = torch.arange(num_frames)
    return (time >= starts) & (time < starts + width)
