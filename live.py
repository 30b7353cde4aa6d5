"""`Recognizer`: class probabilities after every frame (predict.py reads frames, plot.py draws).

Each frame costs the same. All frames count as one clip; segmentation.py finds actions in a stream.

    recognizer = Recognizer.load("checkpoints/live/best.pt")  # a causal network: --preset live
    for joints in sensor:  # (V, C), or (M, V, C) for several bodies; in the axes of the sensor
        probabilities = recognizer(joints)

The temporal stream keeps the states of its LSTMs from frame to frame. The spatial stream keeps the
latest frames and reads a window of them every few frames. After n frames, the probabilities are those
that the same network gives for a clip of these n frames.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import training.environment  # noqa: F401

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from model import TwoStreamRNN
from skeletons.batch import BodyBatch, visible_frames
from skeletons.clip import MAX_COORDINATE
from skeletons.custom_arrays import is_around_origin
from skeletons.layout import Layout
from skeletons.preprocess import Preprocess, to_reference
from training.checkpoint import build_model, build_preprocess, load_checkpoint

# The reference frames that are known in the first frame.
LIVE_REFERENCE_FRAMES = ("camera", "first-frame", "body")


class Recognizer:
    """Reads one frame after the other.

    model       a causal TwoStreamRNN
    preprocess  of the clips that it was trained with, with normalization False or "first-frame", and an
                origin_transfer that is known in the first frame
    classes     names of the classes

    Raises ValueError for a network that is not causal, that needs the whole clip to be normalised, or
    whose reference frame cannot be used frame by frame.
    """

    def __init__(self, model: TwoStreamRNN, preprocess: Preprocess, classes: list[str]) -> None:
        if not model.causal:
            raise ValueError(
                "only a causal network can read frames as they arrive\ntrain one with --preset live"
            )
        if preprocess.normalization not in (False, "first-frame"):
            raise ValueError(
                f"normalization={preprocess.normalization} needs the whole clip\n"
                'train one with --preset live, which has normalization="first-frame"'
            )
        if preprocess.origin_transfer not in LIVE_REFERENCE_FRAMES:
            raise ValueError(
                f"the network was trained with reference_frame={preprocess.origin_transfer}, which "
                "cannot be used frame by frame\ntrain one with --preset live, and with one of these "
                f"reference frames: {', '.join(LIVE_REFERENCE_FRAMES)}"
            )
        self.model, self.preprocess, self.classes = model.eval(), preprocess.eval(), classes
        self.reset()

    @classmethod
    def load(cls, checkpoint: str | Path) -> Recognizer:
        """From a checkpoint: a path, the name of a released network, or an address."""
        contents = load_checkpoint(checkpoint)
        try:
            return cls(build_model(contents), build_preprocess(contents), contents["classes"])
        except ValueError as error:
            raise ValueError(f"{checkpoint}: {error}") from error

    @property
    def layout(self) -> Layout:
        """The layout of the bodies."""
        return self.preprocess.layout

    def reset(self) -> None:
        """Begin another clip: forget all frames."""
        self.bodies: dict[int, BodyState] = {}  # slot -> state of the body in it
        self.reference: tuple[Tensor, Tensor] | None = None  # from the first frame with a body

    def fork(self) -> Recognizer:
        """Another one with the same network that has read the same frames."""
        other = copy.copy(self)
        other.bodies = copy.deepcopy(self.bodies)
        return other

    def check_frame(self, joints: ArrayLike) -> Tensor:
        """A frame (V, C) or (M, V, C) -> float32 (M, V, C). Raises ValueError as `__call__` does."""
        joints = torch.as_tensor(np.array(joints, np.float32))
        joints = joints[None] if joints.dim() == 2 else joints
        expected = (self.model.num_joints, self.model.channels)
        if joints.dim() != 3 or joints.shape[1:] != expected:
            raise ValueError(
                f"a frame of shape {tuple(joints.shape)}: needs {expected}, joints and coordinates"
            )
        invalid = joints[joints.abs() >= MAX_COORDINATE]
        if len(invalid):
            raise ValueError(
                f"invalid coordinate {invalid[0]:g}, not a finite number below {MAX_COORDINATE:,.0f}"
            )
        if self.model.joint_features.partner and len(joints) > 2:
            raise ValueError(f"{len(joints)} bodies, of which the modality partner can read two")
        return joints

    @torch.no_grad()
    def __call__(self, joints: ArrayLike) -> np.ndarray:
        """The next frame (V, C) or (M, V, C) -> class probabilities, float32 (classes,).

        A body keeps its slot. An absent body is zero or NaN. A joint that was not detected is NaN or
        zero (but for the joint, if any, that is the origin of the coordinates), and keeps its last
        position. A body exists from the first frame in which all its joints are detected. Without any
        body so far, all classes are equally probable.

        Raises ValueError for a frame of another shape, with a coordinate that no file may have (see
        MAX_COORDINATE), or with three bodies where the network has the modality partner: the frame is
        not read, and the next one can be.
        """
        joints = self.check_frame(joints)
        poses = {}  # slot -> pose (C, V) of the bodies in this frame
        for slot, body in enumerate(joints.mT):
            state = self.bodies.get(slot)
            detected = detected_joints(body, state.recorded if state else None)  # (V,)
            visible = visible_frames(torch.where(detected, body, 0)[None, :, None]).any()
            if visible and (state or detected.all()):
                poses[slot] = torch.where(detected, body, state.recorded) if state else body
        if poses:
            self._read(poses, len(joints))
        bodies = self.bodies.values()
        if not bodies:
            return np.full(len(self.classes), 1 / len(self.classes), np.float32)
        features = [
            torch.cat(stream) for stream in zip(*(body.features for body in bodies), strict=True)
        ]
        count = len(bodies)
        one_clip = BodyBatch(None, torch.arange(count), torch.ones(1, count, dtype=torch.bool))
        return self.model.posterior(self.model.classify(features, one_clip))[0].numpy()

    def _read(self, poses: dict[int, Tensor], slots: int) -> None:
        """The next frame: poses (C, V) by slot, of so many `slots`."""
        reference = self.reference or self._reference(next(iter(poses.values())))
        frame = torch.cat([to_reference(pose[None, :, None], *reference) for pose in poses.values()])
        visible = torch.tensor([[slot in poses for slot in range(slots)]])
        inputs = self.model.select_joints(BodyBatch(frame, torch.tensor(list(poses)), visible))
        self.reference = reference
        for slot, joints in zip(poses, inputs.split(1), strict=True):
            body = self.bodies.setdefault(slot, BodyState())
            previous = joints if body.joints is None else body.joints
            features = self.model.joint_features(torch.cat((previous, joints), 2))[:, :, 1:]
            streams = zip((self.model.temporal, self.model.spatial), body.states, strict=True)
            body.features = [stream.step(features, state)[:, 0] for stream, state in streams]
            body.recorded, body.joints = poses[slot], joints

    def _reference(self, pose: Tensor) -> tuple[Tensor, Tensor]:
        """How all frames are normalised, from the first pose (C, V): matrix and origin for
        `to_reference`."""
        visible = torch.ones(1, 1, dtype=torch.bool)
        body = BodyBatch(pose[None, :, None], torch.zeros(1, dtype=torch.int64), visible)
        return self.preprocess.reference(body, visible, torch.ones(1))


def detected_joints(pose: Tensor, recorded: Tensor | None) -> Tensor:
    """The joints of a pose (C, V) that are positions -> bool (V,). As in custom recordings, missing
    joints are NaN or zero.

    recorded  the earlier pose of the body, if any: the origin of the coordinates was zero there
    """
    zero, finite = (pose == 0).all(0), pose.isfinite().all(0)
    if zero.sum() == 1 and (recorded is None or not recorded[:, zero].any()):
        others = pose.T[finite & ~zero].numpy()
        if len(others) and is_around_origin(others):
            return finite
    return finite & ~zero


@dataclass
class BodyState:
    """What is kept of a body from frame to frame.

    recorded  (C, V) its latest frame, as recorded
    joints    (1, C, 1, V) the same, normalised, or with its partner (1, C, 1, 2 V)
    states    of the temporal and of the spatial stream
    features  of both streams, (1, F) each
    """

    recorded: Tensor | None = None
    joints: Tensor | None = None
    states: tuple[dict[str, Any], dict[str, Any]] = field(default_factory=lambda: ({}, {}))
    features: list[Tensor] | None = None
