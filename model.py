"""The two-stream RNN of Wang & Wang (CVPR 2017) and its late fusion.

"Modeling Temporal Dynamics and Spatial Configurations of Actions Using Two-Stream Recurrent Neural
Networks", arXiv 1704.02581.

    clips (N, C, T, V, M) -- the bodies that are present --> (B, C, T, V)
        temporal RNN   a step is a frame: the coordinates of all joints            T steps
        spatial RNN    a step is a joint: its coordinates in a window of frames    V or 2 V - 1 steps
    each stream: features of a body (B, F) -> mean over the bodies of a clip -> class logits
    late fusion: weight * softmax(temporal) + (1 - weight) * softmax(spatial)

Letters:
    N clips                  C channels of a joint: coordinates x, y, z, or features
    M body slots of a clip   B bodies in the batch, of all clips
    T frames                 W windows of frames                  V joints
    S steps of an RNN        F features

The terms are the paper's: temporal and spatial RNN, stacked and hierarchical, chain and traversal.
Optional components beyond the paper are in extensions.py, off by default. docs/paper.md lists the
other deviations.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from extensions import (
    CausalSpatialRNN,
    CausalTemporalRNN,
    ExtensionConfig,
    JointFeatures,
    encode_causally,
    extend_spatial,
    extend_temporal,
    make_view_adaptation,
)
from layers import (
    PERSON_POOLINGS,
    Dropout,
    LSTMEncoder,
    MeanPool,
    PersonPooling,
    Pooling,
    State,
    check_choice,
    pool_persons,
    read_by_each,
)
from skeletons.batch import BodyBatch
from skeletons.layout import Layout

if TYPE_CHECKING:
    from pretrained import ActionRecognizer

ChainLegs = Literal["feet", "hips"]
WeightInit = Literal["default", "normal"]
Temporal = Literal["stacked", "hierarchical"]
Spatial = Literal["chain", "traversal"]
TEMPORAL: tuple[str, ...] = get_args(Temporal)
SPATIAL: tuple[str, ...] = get_args(Spatial)


@dataclass(frozen=True)
class NetworkConfig:
    """The paper's two streams, as implemented here. Sizes, directions and pooling are those of the
    authors' released code. The paper's text has bidirectional=False and pooling="last"."""

    temporal: Temporal = "hierarchical"  # structure of the temporal RNN
    spatial: Spatial = "traversal"  # order of the joints in the spatial RNN
    chain_legs: ChainLegs = "feet"  # where the chain passes from one leg to the other
    hidden_size: int = 512  # LSTM units of a layer, in each direction
    # LSTM units of each body part's RNN with temporal=hierarchical (128 in ports of the paper); with
    # window_layers (extensions.py), also of the spatial RNN's layers over the joints
    part_hidden_size: int = 256
    # LSTM layers of each stream; with temporal=hierarchical, the part RNNs are the first
    num_layers: int = 2
    # initial weights. default: PyTorch's; normal: normal distribution of standard deviation 0.1 in the
    # LSTMs, Glorot's uniform distribution in linear layers, biases zero
    weight_init: WeightInit = "default"
    bidirectional: bool = True  # read each sequence forwards and backwards
    dropout: float = 0.5  # dropout before the classifiers and between the LSTM layers
    dropout_between_layers: bool = True  # False: only before the classifiers
    # pooling of the hidden states over the steps of an RNN (temporal: frames; spatial: joints)
    pooling: Pooling = "max"
    spatial_window: int = 100  # frames of a joint that one step of the spatial RNN reads
    # maximum distance in frames between the starts of spatial windows, which are evenly spaced over the
    # clip (causal: exactly this distance); 0: spatial_window
    spatial_stride: int = 0
    person_pooling: PersonPooling = "mean"  # pooling over the bodies of a clip
    temporal_weight: float = 0.5  # weight of the temporal stream in the fusion, 0 to 1


class Logits(NamedTuple):
    """Class scores before the softmax, (N, classes) each."""

    temporal: Tensor
    spatial: Tensor


class TwoStreamRNN(nn.Module):
    """Both streams and their late fusion.

    layout       joints, bones and body parts
    num_classes  number of action classes
    network      settings of the paper's two streams
    extensions   settings of the components beyond the paper, all off by default
    channels     coordinates of a joint, C
    opposite_axes
                 the two bodies of a clip have opposite axes, as in the reference frame "pair"
    """

    def __init__(
        self,
        layout: Layout,
        num_classes: int,
        network: NetworkConfig = NetworkConfig(),
        extensions: ExtensionConfig = ExtensionConfig(),  # noqa: B008
        channels: int = 3,
        opposite_axes: bool = False,
    ) -> None:
        super().__init__()
        check_choice("person_pooling", network.person_pooling, PERSON_POOLINGS)
        if not 0 <= network.temporal_weight <= 1:
            raise ValueError(f"temporal_weight={network.temporal_weight}\nchoose one between 0 and 1")
        self.num_joints, self.channels, self.causal = len(layout.joints), channels, extensions.causal
        self.person_pooling, self.temporal_weight = network.person_pooling, network.temporal_weight
        self.hidden_size, self.opposite_axes = network.hidden_size, opposite_axes
        joint_features = JointFeatures(layout, channels, extensions)
        size = joint_features.output_size
        self.view_adaptation = make_view_adaptation(layout, channels, extensions)
        self.dropout = Dropout(network.dropout)
        if not network.dropout_between_layers:
            network = replace(network, dropout=0.0)
        # With extensions, `network` is changed, and other arguments of the streams are given.
        self.temporal = TemporalRNN(layout, size, **extend_temporal(network, extensions))
        self.spatial = SpatialRNN(layout, size, **extend_spatial(network, extensions))
        if extensions.causal:
            self.temporal = CausalTemporalRNN(self.temporal)
            self.spatial = CausalSpatialRNN(self.spatial)
        # After the streams: the optimizer state of checkpoints depends on the order of parameters.
        self.joint_features = joint_features
        self.temporal_classifier = nn.Linear(self.temporal.output_size, num_classes)
        self.spatial_classifier = nn.Linear(self.spatial.output_size, num_classes)
        check_choice("weight_init", network.weight_init, get_args(WeightInit))
        if network.weight_init == "normal":
            streams = (self.temporal, self.spatial)
            for part in (*streams, self.temporal_classifier, self.spatial_classifier):
                part.apply(init_normal)

    @staticmethod
    def from_pretrained(source: str | Path, device: str = "") -> "ActionRecognizer":
        """A trained network with its preprocessing, which takes raw clips (pretrained.py).

        source  the name of a released network (checkpoints/README.md), the path of a checkpoint, or an
                http(s) address
        device  "cuda" or "cpu"; "": the GPU if there is one
        """
        from pretrained import ActionRecognizer  # which is built on this file

        return ActionRecognizer(source, device)

    def forward(self, clips: BodyBatch | Tensor) -> Logits:
        """Clips, as a BodyBatch or as a tensor (N, C, T, V, M) with zeros for absent bodies -> Logits.

        The features of a clip without any body are zero.
        """
        bodies = clips if isinstance(clips, BodyBatch) else BodyBatch.from_dense(clips)
        count, channels, _, num_joints = bodies.joints.shape
        if (channels, num_joints) != (self.channels, self.num_joints):
            raise ValueError(
                f"clips of another layout: {num_joints} joints with {channels} coordinates\n"
                f"this model reads {self.num_joints} joints with {self.channels} coordinates"
            )
        # Without any body, the RNNs run on one dummy body, so that every parameter has a gradient
        # (DistributedDataParallel waits for all).
        joints = self.select_joints(bodies)
        joints = joints if count else joints.new_zeros(1, *joints.shape[1:])
        return self.classify([features[:count] for features in self.encode(joints)], bodies)

    def select_joints(self, bodies: BodyBatch) -> Tensor:
        """What is read of the bodies: (B, C, T, V), or with their partners (B, C, T, 2 V)."""
        partner = self.joint_features.partner
        return bodies.with_partners(self.opposite_axes) if partner else bodies.joints

    def encode(self, joints: Tensor) -> list[Tensor]:
        """Joints, as of `select_joints` -> features of the bodies from both streams, (B, F) each."""
        streams = (self.temporal, self.spatial)
        if self.causal:
            return encode_causally(streams, self.joint_features, joints, self.hidden_size)
        features = self.joint_features(self.view_adaptation(joints))
        return read_by_each(
            streams, features, lambda stream, features: stream(features), self.hidden_size
        )

    def classify(self, features: list[Tensor], bodies: BodyBatch) -> Logits:
        """Features of all bodies from both streams, (B, F) each -> Logits of the clips."""
        temporal, spatial = (
            self.dropout(pool_persons(stream, bodies, self.person_pooling)) for stream in features
        )
        return Logits(self.temporal_classifier(temporal), self.spatial_classifier(spatial))

    def posterior(self, logits: Logits) -> Tensor:
        """Logits -> class probabilities of the fusion (N, classes)."""
        temporal, spatial = (stream.float().softmax(1) for stream in logits)
        return fuse(temporal, spatial, self.temporal_weight)


def init_normal(module: nn.Module) -> None:
    """The initial weights of LSTMs and linear layers in the authors' code: Lasagne's defaults."""
    if not isinstance(module, (nn.LSTM, nn.Linear)):
        return
    for weights in module.parameters():
        if weights.ndim == 1:  # biases
            nn.init.zeros_(weights)
        elif isinstance(module, nn.LSTM):
            nn.init.normal_(weights, std=0.1)
        else:
            nn.init.xavier_uniform_(weights)


def fuse(temporal: Tensor, spatial: Tensor, temporal_weight: float | Tensor) -> Tensor:
    """Late fusion: the weighted mean of both streams' softmax outputs (N, classes), which the paper
    calls softmax class posteriors."""
    return temporal_weight * temporal + (1 - temporal_weight) * spatial


class TemporalRNN(nn.Module):
    """The paper's temporal RNN: a step is a frame.

    stacked       LSTM layers read the coordinates of all joints.
    hierarchical  One LSTM for each body part of the layout (five in the paper: two arms, trunk, two
                  legs) reads the joints of this part. Their hidden states are concatenated, frame by
                  frame, and read by the LSTM of the whole body.

    channels     features of a joint, in the paper its coordinates
    encoder      class of the RNNs
    input_layer  module that the input (B, T, V, C) passes first
    """

    def __init__(
        self,
        layout: Layout,
        channels: int,
        network: NetworkConfig,
        encoder: type[LSTMEncoder] = LSTMEncoder,
        input_layer: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_choice("temporal", network.temporal, TEMPORAL)
        rnn = partial(encoder, bidirectional=network.bidirectional, dropout=network.dropout)
        self.input_layer = input_layer or nn.Identity()
        self.parts = nn.ModuleList()
        input_size, num_layers = channels * len(layout.joints), network.num_layers
        if network.temporal == "hierarchical":
            if num_layers < 2:
                raise ValueError(
                    "the hierarchical temporal RNN needs num_layers >= 2: parts, then whole body"
                )
            for joints in layout.parts.values():
                self.parts.append(rnn(channels * len(joints), network.part_hidden_size, 1))
            input_size, num_layers = sum(part.output_size for part in self.parts), num_layers - 1
        # A buffer: indices on the device of the weights. A list would be copied there for every batch.
        part_order = [joint for part in layout.parts.values() for joint in part]
        self.register_buffer("part_order", torch.tensor(part_order), persistent=False)
        self.part_sizes = [len(joints) for joints in layout.parts.values()]
        self.dropout = Dropout(network.dropout)
        self.whole_body = rnn(input_size, network.hidden_size, num_layers, pooling=network.pooling)
        self.output_size = self.whole_body.output_size

    def forward(self, features: Tensor) -> Tensor:
        """Features of the joints (B, C, T, V) -> of the body (B, F)."""
        return self.whole_body(self.body_inputs(features))

    def body_inputs(self, features: Tensor, part_states: list[State] | None = None) -> Tensor:
        """Features of the joints (B, C, T, V) -> what the RNN of the body reads (B, T, input size).

        part_states  the states of the part RNNs, if the frames are read in pieces (extensions.py)
        """
        frames = self.input_layer(features.permute(0, 2, 3, 1))  # (B, T, V, C)
        if not self.parts:
            return frames.flatten(2)  # (B, T, V * C)
        parts = frames.index_select(2, self.part_order).split(self.part_sizes, 2)
        states = part_states or [{} for _ in parts]
        outputs = [
            rnn.hidden_states(joints.flatten(2), state)  # (B, T, V * C) of a part -> (B, T, F)
            for rnn, joints, state in zip(self.parts, parts, states, strict=True)
        ]
        return self.dropout(torch.cat(outputs, 2))  # (B, T, F of all parts)


class SpatialRNN(nn.Module):
    """The paper's spatial RNN: a step is a joint, and the input is the coordinates of this joint in all
    frames of a window. The sequence runs over the skeleton, not over time.

    chain      every joint once: arms, trunk and legs, the trunk in the middle
    traversal  a depth-first walk over the skeleton that passes each bone forwards and back, so that
               neighbours in the sequence are neighbours in the skeleton

    Longer clips are cut into windows, which are read one by one; their features are averaged. (Since
    the classifier is linear, this averages the windows' class scores before the softmax.)

    channels        features of a joint, in the paper its coordinates
    encoder         class of the RNN
    across_windows  callable: features of a window -> module that pools (B, W, F) over W
    """

    def __init__(
        self,
        layout: Layout,
        channels: int,
        network: NetworkConfig,
        encoder: type[LSTMEncoder] = LSTMEncoder,
        across_windows: Callable[[int], nn.Module] = MeanPool,
    ) -> None:
        super().__init__()
        check_choice("spatial", network.spatial, SPATIAL)
        check_choice("chain_legs", network.chain_legs, get_args(ChainLegs))
        chain = layout.chain if network.chain_legs == "feet" else layout.chain_at_hips
        order = chain if network.spatial == "chain" else layout.traversal
        self.register_buffer("order", torch.tensor(order), persistent=False)  # (S,) joint of each step
        self.window = network.spatial_window
        self.stride = network.spatial_stride or self.window
        rnn = partial(encoder, bidirectional=network.bidirectional, dropout=network.dropout)
        self.rnn = rnn(
            channels * self.window, network.hidden_size, network.num_layers, pooling=network.pooling
        )
        self.across_windows = across_windows(self.rnn.output_size)
        self.output_size = self.across_windows.output_size

    def forward(self, features: Tensor) -> Tensor:
        """Features of the joints (B, C, T, V) -> of the body (B, F). T is at least the window. As few
        windows as cover the clip, at most `stride` frames apart, are evenly spaced over it."""
        frames = int(features.shape[2])  # (a constant in an exported network: export.py)
        if frames < self.window:
            raise ValueError(
                f"{frames} frames (window_size) are shorter than the spatial window of {self.window}\n"
                "choose a smaller spatial_window, or a larger window_size"
            )
        count = 1 - (self.window - frames) // self.stride  # 1 + ceil((frames - window) / stride)
        starts = [i * (frames - self.window) // max(count - 1, 1) for i in range(count)]
        windows = torch.stack([features[:, :, at : at + self.window] for at in starts], 1)
        return self.across_windows(self.read_windows(windows.permute(0, 1, 4, 2, 3)))

    def read_windows(self, windows: Tensor) -> Tensor:
        """Features of the joints in windows (B, W, V, C, window) -> of each window (B, W, F)."""
        steps = windows.flatten(3).index_select(2, self.order)  # (B, W, S, C * window)
        return self.rnn(steps.flatten(0, 1)).view(*steps.shape[:2], self.rnn.output_size)
