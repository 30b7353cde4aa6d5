"""The two-stream RNN of Wang & Wang, CVPR 2017 (arXiv 1704.02581): one recurrent network reads a
moving body along time, the other along the skeleton, and their class posteriors are averaged.

    clip (N, C, T, V, M) -- bodies that are present --> (B, C, T, V)
        what is told of a joint: its position; its motion and its bone too
        temporal RNN   a step is a frame: all joints of the frame        T steps
        spatial RNN    a step is a joint: its way through a time window  V or 2V - 1 steps
    features of a body -> mean over the bodies of the clip -> class scores of each stream
    two-stream score = weight * softmax(temporal) + (1 - weight) * softmax(spatial)

Letters: N clips, C coordinates, T frames, V joints, M places for bodies, B bodies present in the
batch, S steps of a recurrent network, F features. The paper's words mean the same here: temporal and
spatial RNN, stacked and hierarchical, chain and traversal sequence.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from layers import (
    Dropout,
    LSTMEncoder,
    ViewAdaptation,
    check,
    cumulative_pool,
    run_on_cuda_streams,
    seen_frames,
)
from skeletons.batch import BodyBatch

TEMPORAL = ("stacked", "hierarchical")
SPATIAL = ("chain", "traversal")
MODALITIES = ("position", "motion", "bone", "distance")
PERSON_POOLINGS = ("mean", "max")


class Logits(NamedTuple):
    """Class scores before the softmax, (N, classes) each."""

    temporal: torch.Tensor
    spatial: torch.Tensor


class TwoStreamRNN(nn.Module):
    """Both streams and their late fusion.

    layout           the body (skeleton.Layout); sets V, the parts and the joint orders
    num_classes      classes to tell apart
    temporal         "stacked" or "hierarchical"
    spatial          "chain" or "traversal"
    units            LSTM units of each layer, in each direction
    part_units       the same for the five part networks of the hierarchical stream
    layers           LSTM layers of each stream; the part networks of the hierarchical stream are the
                     first
    bidirectional    read in both directions
    dropout          between the layers and before the classifier
    pooling          outputs of all steps to one: "max", "mean", or "last" (where reading ended)
    spatial_window   frames of a joint's way that one step of the spatial RNN sees; longer clips are
                     cut into such windows and the features of the windows averaged
    spatial_stride   frames from one such window to the next, at most; 0: as many as a window has
    window_layers    how many of the spatial stream's layers, the last ones, read the features of the
                     windows one after the other, which are averaged otherwise; the layers before,
                     which read the joints of a window, then have part_units
    inputs           what the networks are told of a joint: "position", "motion" (from frame to frame),
                     "bone" (from the joint it hangs on), "distance" (to every joint of the body)
    view_units       LSTM units of a network that reads the body first and turns it to the view in
                     which the streams read it; 0: they read it as it is fed
    causal           read frames as they come, for live use (live.py): along time in one direction, the
                     windows of the spatial RNN ending at frames that were seen, and no frame that the
                     body is absent from. Excludes view_units, which sees the whole clip
    input_norm       bring each of these, joint by joint, to mean 0 and variance 1 (batch normalisation)
    embedding        features that a step of the spatial RNN is embedded in, with a learned vector for
                     each joint; 0: the step is read as it is
    residual         LSTM layers add to what they read, normalised
    input_dropout    dropout of what the temporal RNN reads
    body_fusion      features of several bodies to one: "mean" or "max"
    temporal_weight  share of the temporal stream in the fused score; may be set after training
    channels         coordinates of a joint

    As in the authors' code: units=512, part_units=256, bidirectional, pooling="max", dropout=0.5.
    As in the paper's text: bidirectional=False, pooling="last".
    """

    def __init__(
        self,
        layout,
        num_classes,
        temporal="hierarchical",
        spatial="traversal",
        units=512,
        part_units=256,
        layers=2,
        bidirectional=True,
        dropout=0.5,
        pooling="max",
        spatial_window=100,
        body_fusion="mean",
        temporal_weight=0.5,
        channels=3,
        spatial_stride=0,
        window_layers=0,
        inputs=("position",),
        input_norm=False,
        embedding=0,
        residual=False,
        input_dropout=0.0,
        view_units=0,
        causal=False,
    ):
        super().__init__()
        check("body_fusion", body_fusion, PERSON_POOLINGS)
        for name in inputs or [""]:
            check("inputs", name, MODALITIES)
        if not 0 <= temporal_weight <= 1:
            raise ValueError(f"temporal_weight={temporal_weight}: a share between 0 and 1")
        if causal and view_units:
            raise ValueError("view_units needs whole clips, a causal network has none")
        reader = {"layers": layers, "bidirectional": bidirectional, "dropout": dropout}
        reader |= {"units": units, "part_units": part_units, "pooling": pooling, "residual": residual}
        count = len(layout.joints)
        told = sum(count if name == "distance" else channels for name in inputs)
        self.view = ViewAdaptation(channels, count, view_units) if view_units else None
        along_time = reader | {"bidirectional": bidirectional and not causal}
        self.temporal = TemporalRNN(layout, temporal, told, input_dropout, **along_time)
        self.spatial = SpatialRNN(layout, spatial, told, spatial_window, spatial_stride, window_layers,
                                  embedding, causal, **reader)  # fmt: skip
        self.inputs = tuple(inputs)
        hangs_on = [joint if parent < 0 else parent for joint, parent in enumerate(layout.parents)]
        self.register_buffer("hangs_on", torch.tensor(hangs_on), persistent=False)
        self.norm = nn.BatchNorm1d(told * count) if input_norm else None
        self.dropout = Dropout(dropout)
        self.temporal_classifier = nn.Linear(self.temporal.features, num_classes)
        self.spatial_classifier = nn.Linear(self.spatial.features, num_classes)
        self.body_fusion, self.temporal_weight = body_fusion, temporal_weight
        self.joints, self.channels, self.causal = count, channels, causal

    def forward(self, clips):
        """Clips, as BodyBatch or as a tensor (N, C, T, V, M) with zeros for absent bodies -> Logits.

        A clip without any body gets the scores of features that are all zero.
        """
        bodies = clips if isinstance(clips, BodyBatch) else BodyBatch.of(clips)
        _, channels, _, joints = bodies.joints.shape
        if (channels, joints) != (self.channels, self.joints):
            raise ValueError(
                f"clips of {joints} joints with {channels} coordinates; this model reads {self.joints} "
                f"with {self.channels}: another layout than it was made for?"
            )
        present = len(bodies.joints)
        # Nobody at all is read as somebody who does not count: every weight has its gradient.
        joints = bodies.joints if present else bodies.joints.new_zeros(1, *bodies.joints.shape[1:])
        streams = (self.temporal, self.spatial)
        if self.causal:
            joints, last = seen_frames(joints)
            read = run_on_cuda_streams(
                [partial(stream.follow, self.describe(joints)) for stream in streams]
            )
            bodies_of = torch.arange(len(last), device=last.device)
            read = [features[bodies_of, last] for features in read]
        else:
            joints = self.describe(self.view(joints) if self.view else joints)
            read = run_on_cuda_streams([partial(stream, joints) for stream in streams])
        return self.classify([features[:present] for features in read], bodies)

    def classify(self, read, bodies):
        """Features of all bodies from both streams, (B, F) each -> Logits of the clips."""
        temporal, spatial = (self.dropout(self._fuse(features, bodies)) for features in read)
        return Logits(self.temporal_classifier(temporal), self.spatial_classifier(spatial))

    def describe(self, joints):
        """Joints (B, C, T, V) -> what the networks are told of each (B, told, T, V). There is no
        motion into the first frame, nor into or out of frames that a body is absent from."""
        told = []
        if "position" in self.inputs:
            told.append(joints)
        if "motion" in self.inputs:
            there = joints.abs().sum((1, 3)) > 0  # (B, T)
            both = (there[:, 1:] & there[:, :-1])[:, None, :, None]
            told.append(nn.functional.pad((joints[:, :, 1:] - joints[:, :, :-1]) * both, (0, 0, 1, 0)))
        if "bone" in self.inputs:
            told.append(joints - joints.index_select(3, self.hangs_on))
        if "distance" in self.inputs:
            bodies = joints.detach().permute(0, 2, 3, 1)  # (B, T, V, C); the same in every view
            apart = torch.cdist(bodies, bodies, compute_mode="donot_use_mm_for_euclid_dist")
            told.append(apart.transpose(1, 2))  # (its faster way is exact to 0.001 only)
        told = torch.cat(told, 1)
        if self.norm:
            each = told.transpose(2, 3)  # (B, told, V, T)
            told = self.norm(each.flatten(1, 2)).view(each.shape).transpose(2, 3)
        return told

    def _fuse(self, features, bodies):
        """Features of all bodies (B, F) -> of the clips (N, F)."""
        features, there = bodies.scatter(features.float()), bodies.there  # (N, M, F)
        absent = ~there[:, :, None]
        if self.body_fusion == "mean":
            return features.masked_fill(absent, 0).sum(1) / there.sum(1, keepdim=True).clamp(min=1)
        # An absent body must not win over negative features; nobody at all gives zeros.
        highest = features.masked_fill(absent, -torch.inf).amax(1)
        return highest.masked_fill(~there.any(1, keepdim=True), 0)

    def posterior(self, scores):
        """Late fusion, the mean of the posteriors: Logits -> class probabilities (N, classes)."""
        temporal, spatial = (s.float().softmax(1) for s in scores)
        return self.temporal_weight * temporal + (1 - self.temporal_weight) * spatial


class TemporalRNN(nn.Module):
    """Reads the body frame by frame (the paper's "temporal RNN").

    stacked       LSTM layers over the coordinates of all joints
    hierarchical  an LSTM for each part (two arms, trunk, two legs); their outputs, side by side,
                  are read by the LSTM of the whole body
    """

    def __init__(self, layout, kind, channels, input_dropout, units, part_units, layers, bidirectional,
                 dropout, pooling, residual):  # fmt: skip
        super().__init__()
        check("temporal", kind, TEMPORAL)
        shared = {"bidirectional": bidirectional, "dropout": dropout, "residual": residual}
        self.input_dropout = Dropout(input_dropout)
        self.parts = nn.ModuleList()
        self.sizes = [len(joints) for joints in layout.parts.values()]
        # (A buffer lies where the weights do; a list would be sent to the GPU for every batch.)
        joints = [joint for part in layout.parts.values() for joint in part]
        self.register_buffer("joints", torch.tensor(joints), persistent=False)
        inputs = channels * len(layout.joints)
        if kind == "hierarchical":
            if layers < 2:
                raise ValueError("the hierarchical temporal RNN needs layers >= 2: parts, then body")
            for size in self.sizes:
                self.parts.append(LSTMEncoder(channels * size, part_units, 1, **shared))
            inputs, layers = sum(part.features for part in self.parts), layers - 1
        self.dropout = Dropout(dropout)
        self.body = LSTMEncoder(inputs, units, layers, pooling=pooling, **shared)
        self.features = self.body.features

    def forward(self, bodies):
        """Bodies (B, C, T, V) -> features (B, F)."""
        return self.body(self.frames(bodies, {}))

    def follow(self, bodies, state=None):
        """Bodies (B, C, T, V) -> features after each frame (B, T, F), those of one direction.

        state  dict that keeps what was read, {} before the first frames: go on with the next ones
        """
        state = {} if state is None else state
        return self.body.follow(self.frames(bodies, state), state.setdefault("body", {}))

    def frames(self, bodies, state):
        """What the RNN of the body reads at each frame (B, T, inputs)."""
        frames = self.input_dropout(bodies.permute(0, 2, 3, 1))  # (B, T, V, C)
        if not self.parts:
            return frames.flatten(2)  # (B, T, V C)
        ways = frames.index_select(2, self.joints).split(self.sizes, 2)
        states = state.setdefault("parts", [{} for _ in self.parts])
        parts = zip(self.parts, ways, states, strict=True)
        read = run_on_cuda_streams(
            [partial(part.steps, way.flatten(2), kept) for part, way, kept in parts]
        )
        return self.dropout(torch.cat(read, 2))


class SpatialRNN(nn.Module):
    """Reads the skeleton joint by joint (the paper's "spatial RNN"): a step is one joint and its input
    is the joint's way through a window of time; the sequence runs over the body, not over time.

    chain      every joint once: arms, trunk, legs, the trunk in the middle
    traversal  a walk over the tree of bones, every bone forward and back, so that neighbours in the
               sequence are neighbours on the body
    """

    def __init__(self, layout, kind, channels, window, stride, window_layers, embedding, causal, units,
                 part_units, layers, bidirectional, dropout, pooling, residual):  # fmt: skip
        super().__init__()
        check("spatial", kind, SPATIAL)
        shared = {"bidirectional": bidirectional, "dropout": dropout, "pooling": pooling}
        shared["residual"] = residual
        order = layout.chain if kind == "chain" else layout.traversal
        self.register_buffer("order", torch.tensor(order), persistent=False)
        self.window, self.stride = window, stride or window
        self.embed, inputs = None, channels * window
        if embedding:
            self.embed, inputs = nn.Linear(inputs, embedding), embedding
            self.joint = nn.Parameter(0.02 * torch.randn(len(layout.joints), embedding))
        if window_layers >= layers:
            raise ValueError(f"window_layers={window_layers}: fewer than layers={layers}")
        lower = part_units if window_layers else units
        self.reader = LSTMEncoder(inputs, lower, layers - window_layers, **shared)
        self.windows = None
        if window_layers:
            along_time = shared | {"bidirectional": bidirectional and not causal}
            self.windows = LSTMEncoder(self.reader.features, units, window_layers, **along_time)
        self.features = (self.windows or self.reader).features

    def forward(self, bodies):
        """Bodies (B, C, T, V) -> features (B, F). T is at least the window; longer clips are cut
        into as few windows as cover them, evenly spaced, and the windows' features averaged."""
        frames = int(bodies.shape[2])  # (a constant in what export.py makes)
        if frames < self.window:
            raise ValueError(
                f"clips of {frames} frames are shorter than the spatial window of {self.window}"
            )
        count = 1 - (self.window - frames) // self.stride
        starts = [i * (frames - self.window) // max(count - 1, 1) for i in range(count)]
        ways = torch.stack([bodies[:, :, at : at + self.window] for at in starts], 1)
        read = self.read(ways.permute(0, 1, 4, 2, 3))
        return self.windows(read) if self.windows else read.mean(1)

    def follow(self, bodies, state=None):
        """Bodies (B, C, T, V) -> features after each frame (B, T, F): those of the windows that are
        full by then, one every `stride` frames, the first after `stride`; zeros before.

        state  as in TemporalRNN.follow
        """
        state = {} if state is None else state
        batch, channels, frames, joints = bodies.shape
        empty = bodies.new_zeros(batch, channels, max(self.window - self.stride, 0), joints)
        last = bodies.new_zeros(batch, 1, self.features)
        kept, last = state.get("frames", empty), state.get("last", last)
        waiting = kept.shape[2] - empty.shape[2]  # frames since the last window
        bodies = torch.cat((kept, bodies), 2)
        full = (waiting + torch.arange(1, frames + 1, device=bodies.device)) // self.stride
        count = (waiting + frames) // self.stride
        features = last
        if count:
            ways = bodies.unfold(2, self.window, self.stride)  # (B, C, windows, V, window)
            read = self.read(ways[:, :, :count].permute(0, 2, 3, 1, 4))
            if self.windows:
                read = self.windows.follow(read, state.setdefault("windows", {}))
            else:
                read = cumulative_pool(read, "mean", state.setdefault("windows", {}))
            features = torch.cat((last, read), 1)
        state |= {"frames": bodies[:, :, count * self.stride :], "last": features[:, -1:]}
        return features.index_select(1, full)

    def read(self, ways):
        """Ways of the joints through windows (B, windows, V, C, window) -> features (B, windows, F)."""
        ways = ways.flatten(3)
        if self.embed:
            ways = torch.relu(self.embed(ways) + self.joint)
        steps = ways.index_select(2, self.order)
        return self.reader(steps.flatten(0, 1)).view(*ways.shape[:2], self.reader.features)
