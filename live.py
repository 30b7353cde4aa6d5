"""Recognition while it happens: class probabilities after every frame, at the same cost each.

    recognizer = Recognizer.load("checkpoints/live/best.pt")  # of a causal network: --setting live
    for joints in sensor:  # (V, C), or (M, V, C) for several bodies; metres, in the sensor's axes
        probabilities = recognizer(joints)

The temporal stream keeps the states of its LSTMs from frame to frame; the spatial stream keeps the last
frames and reads a window of them every few frames. After n frames the probabilities are those of the
same network for a clip of these n frames.
"""

import numpy as np
import torch

from skeletons.batch import BodyBatch
from skeletons.layout import Layout
from skeletons.preprocess import bone_matrix, normalisation
from training.checkpoint import build_model, load_checkpoint


class Recognizer:
    """Reads one frame after the other.

    model    causal TwoStreamRNN
    layout   its body (skeleton.Layout)
    classes  names of the classes
    feeding  options of the Feeder that it was trained with: "origin_transfer", "normalization"

    Raises ValueError for a network that is not causal, or was fed in another way than as frames come.
    """

    def __init__(self, model, layout, classes, feeding):
        origin, size = feeding["origin_transfer"], feeding["normalization"]
        if not model.causal or origin not in ("none", "start", "view") or size not in (False, "start"):
            raise ValueError(
                "only a causal network reads frames as they come: train one with --setting live (with "
                "an --origin of none, start or view)"
            )
        self.model, self.layout, self.classes = model.eval(), layout, classes
        self.origin, self.size = origin, size
        self.reset()

    @classmethod
    def load(cls, checkpoint):
        """From a checkpoint of train.py."""
        contents = load_checkpoint(checkpoint)
        model, layout = build_model(contents), Layout.from_dict(contents["layout"])
        try:
            return cls(model, layout, contents["classes"], contents["feeding"])
        except ValueError as error:
            raise ValueError(f"{checkpoint}: {error}") from error

    def reset(self):
        """Forget what was read: another clip begins."""
        self.bodies = {}  # place -> what is kept of the body there
        self.view = None  # matrix (C, C) and origin (C,), from the first frame with a body

    @torch.no_grad()
    def __call__(self, joints):
        """The next frame (V, C) or (M, V, C) -> class probabilities (classes,), float32 numpy. A body
        keeps its place; one that is absent is zero or NaN. A joint that was not seen is NaN, and stays
        where it was; a body counts from the first frame in which all its joints were seen."""
        joints = torch.as_tensor(np.array(joints, np.float32))
        joints = joints[None] if joints.dim() == 2 else joints
        expected = (self.model.joints, self.model.channels)
        if joints.dim() != 3 or joints.shape[1:] != expected:
            raise ValueError(
                f"a frame of shape {tuple(joints.shape)}: needs {expected}, joints and coordinates"
            )
        for place, body in enumerate(joints.mT):  # (C, V)
            known, earlier = body.isfinite().all(0), self.bodies.get(place)  # (V,)
            if body[:, known].any() and (earlier or known.all()):
                body = torch.where(known, body, earlier.seen) if earlier else body
                self._read(self.bodies.setdefault(place, Body()), body)
        bodies = self.bodies.values()
        if not bodies:
            return np.full(len(self.classes), 1 / len(self.classes), np.float32)
        read = [
            torch.cat(features) for features in zip(*(body.features for body in bodies), strict=True)
        ]
        count = len(bodies)
        one_clip = BodyBatch(None, torch.arange(count), torch.ones(1, count, dtype=torch.bool))
        return self.model.posterior(self.model.classify(read, one_clip))[0].numpy()

    def _read(self, body, joints):
        """The next frame (C, V) of a body."""
        body.seen = joints
        if self.view is None:
            self.view = self._first_view(joints[None])
        matrix, origin = self.view
        joints = (matrix @ (joints - origin))[None, :, None]  # (1, C, 1, V)
        before = joints if body.joints is None else body.joints
        told = self.model.describe(torch.cat((before, joints), 2))[:, :, 1:]
        streams = zip((self.model.temporal, self.model.spatial), body.states, strict=True)
        body.features = [stream.follow(told, state)[:, 0] for stream, state in streams]
        body.joints = joints

    def _first_view(self, pose):
        """From the first pose (1, C, V): matrix (C, C) and origin (C, 1), as `Feeder` takes them."""
        yes = torch.ones(1, 1, dtype=torch.bool)
        bodies = BodyBatch(pose[:, :, None], torch.zeros(1, dtype=torch.int64), yes)
        how = (self.layout, bone_matrix(self.layout), self.origin, self.size)
        matrix, origin = normalisation(bodies, yes, torch.ones(1), *how)
        return matrix[0], origin[0, :, None]


class Body:
    """What is kept of a body: its last frame, as it was seen and as the network is told of it, the
    streams' states, and its features now."""

    def __init__(self):
        self.seen, self.joints, self.states, self.features = None, None, ({}, {}), None
