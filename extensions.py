"""Optional components beyond the paper, all off by default; the presets `full` and `live` use them.

    joints -> ViewAdaptation -> JointFeatures -> both streams (model.py)
    temporal RNN   dropout of its input
    spatial RNN    LSTM layers over the windows in place of their mean
    both           ResidualLSTMEncoder in place of LSTMEncoder
    live use       CausalTemporalRNN and CausalSpatialRNN read frames as they arrive

Letters as in model.py: B bodies, C channels of a joint, T frames, V joints, S steps, W windows,
F features.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, distributed, nn

from layers import Dropout, LSTMEncoder, Pooling, State, check_choice, read_by_each
from skeletons.batch import visible_first, visible_frames
from skeletons.layout import Layout
from skeletons.transforms import rotation

Modality = Literal["joint", "motion", "bone", "distance", "partner"]
MODALITIES: tuple[str, ...] = get_args(Modality)
Network = TypeVar("Network")  # NetworkConfig of model.py, which imports this module


@dataclass(frozen=True)
class ExtensionConfig:
    """Optional components beyond the paper, all off by default."""

    # input features of each joint, concatenated (not an ensemble of networks): joint (position), motion
    # (difference to the previous frame), bone (vector from the parent), distance (to all joints),
    # partner (in data with two bodies: vector to the same joint of the other, distance to all of its)
    modalities: tuple[Modality, ...] = ("joint",)
    view_adaptation: int = 0  # LSTM units of the network that rotates bodies to a learned view; 0: off
    input_norm: bool = False  # batch normalisation of each feature of each joint
    residual: bool = False  # residual LSTM layers with layer normalisation
    input_dropout: float = 0.0  # dropout of the input of the temporal RNN
    # how many of the spatial RNN's num_layers run over the spatial windows, one step per window; the
    # others run over the joints of a window, with part_hidden_size units. 0: all run over the joints,
    # and the features of the windows are averaged
    window_layers: int = 0
    # read frames as they arrive: RNNs over time run forwards only, clips are not resampled, and
    # normalization uses the first frame; excludes view_adaptation
    causal: bool = False


class JointFeatures(nn.Module):
    """The features of a joint that both streams read: its modalities, normalised with `input_norm`.

    channels  coordinates of a joint

    The attribute `output_size` is the number of features of a joint, those of the partner last.
    """

    def __init__(self, layout: Layout, channels: int, extensions: ExtensionConfig) -> None:
        super().__init__()
        for name in extensions.modalities or ("",):
            check_choice("modalities", name, MODALITIES)
        num_joints = len(layout.joints)
        sizes = {"joint": channels, "motion": channels, "bone": channels, "distance": num_joints}
        self.modalities, self.num_joints = frozenset(extensions.modalities), num_joints
        if self.modalities == {"partner"}:
            raise ValueError(
                "modalities=('partner',) says nothing of a body that is alone\nadd joint, for example"
            )
        self.output_size = sum(sizes[name] for name in self.modalities & sizes.keys())
        # The root has no parent; it counts as its own, so its bone is zero.
        parents = [joint if parent < 0 else parent for joint, parent in enumerate(layout.parents)]
        self.register_buffer("parents", torch.tensor(parents), persistent=False)
        self.norm = VisibleBatchNorm(self.output_size * num_joints) if extensions.input_norm else None
        self.partner = None
        if "partner" in self.modalities:
            self.partner = PartnerFeatures(num_joints, channels, extensions.input_norm)
            self.output_size += self.partner.output_size

    def forward(self, joints: Tensor) -> Tensor:
        """Joints (B, C, T, V) -> features (B, output_size, T, V). With the modality partner, joints are
        (B, C, T, 2 V), as of `BodyBatch.with_partners`."""
        joints, partner = joints[..., : self.num_joints], joints[..., self.num_joints :]
        modalities = []
        if "joint" in self.modalities:
            modalities.append(joints)
        if "motion" in self.modalities:
            modalities.append(motion(joints))
        if "bone" in self.modalities:  # from the parent of each joint to the joint
            modalities.append(joints - joints.index_select(3, self.parents))
        if "distance" in self.modalities:
            modalities.append(joint_distances(joints, joints))
        features = torch.cat(modalities, 1)
        if self.norm:
            features = self.norm(features, visible_frames(joints))
        return torch.cat((features, self.partner(joints, partner)), 1) if self.partner else features


class PartnerFeatures(nn.Module):
    """For each joint of a body, the vector to the same joint of the other body, and the distances to
    all joints of it, normalised with `norm`. Zero in frames that do not show both bodies."""

    def __init__(self, num_joints: int, channels: int, norm: bool) -> None:
        super().__init__()
        self.output_size = channels + num_joints
        self.norm = VisibleBatchNorm(self.output_size * num_joints) if norm else None

    def forward(self, joints: Tensor, partner: Tensor) -> Tensor:
        """Joints of a body and of the other one (B, C, T, V) -> features (B, output_size, T, V)."""
        both = visible_frames(joints) & visible_frames(partner)
        features = torch.cat((partner - joints, joint_distances(joints, partner)), 1)
        if self.norm:
            features = self.norm(features, both)
        return features * both[:, None, :, None]


class VisibleBatchNorm(nn.BatchNorm1d):
    """Batch normalisation with the statistics of the frames in which bodies are visible, over all
    processes that train together. The zeros of the other frames would pull them towards zero."""

    def forward(self, features: Tensor, visible: Tensor) -> Tensor:
        """Features (B, C, T, V), visible frames bool (B, T) -> the same, each of the C V normalised."""
        per_joint = features.transpose(2, 3)  # (B, C, V, T)
        return self._normalise(per_joint.flatten(1, 2), visible).view(per_joint.shape).transpose(2, 3)

    def _normalise(self, features: Tensor, visible: Tensor) -> Tensor:
        """The same for features (B, F, T)."""
        if not self.training:
            return super().forward(features)
        weight = visible[:, None].to(features.dtype)  # (B, 1, T)
        count = SumOverProcesses.apply(weight.sum().expand(self.num_features))
        mean = SumOverProcesses.apply((features * weight).sum((0, 2))) / count.clamp(min=1)
        centred = features - mean[:, None]
        squares = SumOverProcesses.apply((centred.square() * weight).sum((0, 2)))
        with torch.no_grad():
            momentum = self.momentum * (count > 0)
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(squares / (count - 1).clamp(min=1), momentum)
            self.num_batches_tracked.add_(1)
        scale = self.weight * (squares / count.clamp(min=1) + self.eps).rsqrt()
        return centred * scale[:, None] + self.bias[:, None]


class SumOverProcesses(torch.autograd.Function):
    """Sum of a tensor over the processes that train together, with gradients."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        """(any shape) -> the same shape."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return values
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        """The gradient of every process's result counts."""
        return SumOverProcesses.forward(None, gradient)


def motion(joints: Tensor) -> Tensor:
    """Joints (B, C, T, V) -> their difference to the previous frame, the same shape. Zero where the
    body is absent from one of the two frames."""
    visible = visible_frames(joints)  # (B, T)
    both = (visible[:, 1:] & visible[:, :-1])[:, None, :, None]
    return nn.functional.pad((joints[:, :, 1:] - joints[:, :, :-1]) * both, (0, 0, 1, 0))


def joint_distances(joints: Tensor, others: Tensor) -> Tensor:
    """Joints and others, (B, C, T, V) each -> distances of each joint to all others of its frame, which
    are the channels (B, V, T, V). They have no gradient: the rotation of ViewAdaptation does not change
    them."""
    joints, others = (x.detach().permute(0, 2, 3, 1) for x in (joints, others))  # (B, T, V, C)
    if joints.is_cuda:  # (where cdist takes 40 times as long: a block of threads for each distance)
        distances = torch.linalg.vector_norm(others[:, :, :, None] - joints[:, :, None], dim=-1)
    else:  # (cdist's faster mode, by matrix multiplication, is exact to 0.001 only.)
        distances = torch.cdist(others, joints, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.transpose(1, 2)


class ViewAdaptation(nn.Module):
    """Rotates each body by angles that an LSTM over its frames predicts; trained with the streams.

    After the view adaptive networks of Zhang et al., ICCV 2017, but with one rotation for a whole clip.
    Bodies with two coordinates are rotated in their plane.
    """

    def __init__(self, channels: int, num_joints: int, hidden_size: int) -> None:
        super().__init__()
        self.num_joints = num_joints
        self.encoder = LSTMEncoder(channels * num_joints, hidden_size, bidirectional=False)
        self.angles = nn.Linear(hidden_size, 3 if channels == 3 else 1)
        # Angles are close to zero at first: training starts from the view of the data.
        nn.init.normal_(self.angles.weight, std=0.001)
        nn.init.zeros_(self.angles.bias)

    def forward(self, joints: Tensor) -> Tensor:
        """Joints (B, C, T, V) -> the same, rotated; and so is a partner after them (B, C, T, 2 V)."""
        channels, body = joints.shape[1], joints[..., : self.num_joints]
        angles = self.angles(self.encoder(body.transpose(1, 2).flatten(2))).float()  # (B, 3 or 1)
        matrix = rotation(nn.functional.pad(angles, (3 - angles.shape[1], 0))).float()  # (B, 3, 3)
        # In mixed precision, a matrix product would round the joints, and motion, the difference of two
        # frames, would be off by several percent.
        columns = matrix[:, :channels, :channels, None, None].unbind(2)
        return sum(c * joints[:, i, None] for i, c in enumerate(columns))


class ResidualLSTMEncoder(LSTMEncoder):
    """LSTMEncoder whose layers each add their output to their input, which they read after layer
    normalisation. A linear layer first projects the sequence to the width of the layers."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bidirectional: bool = True,
        dropout: float = 0.0,
        pooling: Pooling = "max",
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, bidirectional, dropout, pooling)
        self.input_proj = nn.Linear(input_size, self.output_size)
        self.norms = nn.ModuleList(nn.LayerNorm(self.output_size) for _ in range(num_layers + 1))

    def layer_input_sizes(self, input_size: int, num_layers: int) -> list[int]:
        """Features that each layer reads."""
        return [self.output_size] * num_layers

    def hidden_states(self, sequence: Tensor, state: State | None = None) -> Tensor:
        """As in LSTMEncoder."""
        state = {} if state is None else state
        sequence = self.input_proj(sequence)
        for i, lstm in enumerate(self.layers):
            outputs, state[i] = lstm(self.norms[i](sequence), state.get(i))
            sequence = sequence + self.dropout(outputs)
        return self.norms[-1](sequence)


# Causal reading: the features after a frame depend on this frame and the earlier ones only.


class CausalTemporalRNN(nn.Module):
    """Reads frames as they arrive with a TemporalRNN of one direction (model.py)."""

    def __init__(self, stream: nn.Module) -> None:
        super().__init__()
        self.stream, self.output_size = stream, stream.output_size

    def step(self, features: Tensor, state: State | None = None) -> Tensor:
        """The next frames (B, C, T, V) -> features of the body after each of them (B, T, F).

        state  to read a clip in pieces: the same dict for every piece, {} for the first
        """
        state = {} if state is None else state
        part_states = state.setdefault("parts", [{} for _ in self.stream.parts])
        frames = self.stream.body_inputs(features, part_states)
        return self.stream.whole_body.step(frames, state.setdefault("body", {}))


class CausalSpatialRNN(nn.Module):
    """Reads frames as they arrive with a SpatialRNN (model.py): a window every `stride` frames, the
    first one after `stride` frames. A window that starts before the clip has zeros there."""

    def __init__(self, stream: nn.Module) -> None:
        super().__init__()
        self.stream, self.output_size = stream, stream.output_size
        self.window, self.stride = stream.window, stream.stride

    def step(self, features: Tensor, state: State | None = None) -> Tensor:
        """The next frames (B, C, T, V) -> features of the body after each of them (B, T, F), from the
        windows that have ended by then; zeros before the first.

        state  as in CausalTemporalRNN
        """
        state = {} if state is None else state
        batch, channels, num_frames, num_joints = features.shape
        overlap = max(self.window - self.stride, 0)
        pending = state.get("frames", features.new_zeros(batch, channels, overlap, num_joints))
        latest = state.get("latest", features.new_zeros(batch, 1, self.output_size))
        waiting = pending.shape[2] - overlap  # frames since the last window
        frames = torch.cat((pending, features), 2)
        num_windows = (waiting + num_frames) // self.stride
        per_window = latest  # (B, 1 + num_windows, F)
        if num_windows:
            windows = frames.unfold(2, self.window, self.stride)  # (B, C, W, V, window)
            outputs = self.stream.read_windows(windows[:, :, :num_windows].permute(0, 2, 3, 1, 4))
            outputs = self.stream.across_windows.step(outputs, state.setdefault("windows", {}))
            per_window = torch.cat((latest, outputs), 1)
        state["frames"], state["latest"] = frames[:, :, num_windows * self.stride :], per_window[:, -1:]
        ended = torch.arange(1, num_frames + 1, device=features.device)  # windows ended by each frame
        return per_window.index_select(1, (waiting + ended) // self.stride)


def encode_causally(
    streams: Sequence[CausalTemporalRNN | CausalSpatialRNN],
    joint_features: JointFeatures,
    joints: Tensor,
    hidden_size: int,
) -> list[Tensor]:
    """Joints, as JointFeatures reads them -> features from each stream after the last frame with the
    body, (B, F) each. Frames without the body are skipped, as in live use.

    hidden_size  as in `read_by_each`
    """
    visible = visible_frames(joints[..., : joint_features.num_joints])  # (B, T)
    features = joint_features(visible_first(joints, visible))
    bodies, last = torch.arange(len(visible), device=visible.device), visible.sum(1).clamp(min=1) - 1
    return read_by_each(
        streams, features, lambda stream, features: stream.step(features)[bodies, last], hidden_size
    )


# How model.py puts these modules into its networks; `network` is a NetworkConfig.


def make_view_adaptation(layout: Layout, channels: int, extensions: ExtensionConfig) -> nn.Module:
    """Module that maps joints (B, C, T, V) to the view in which the streams read them."""
    if not extensions.view_adaptation:
        return nn.Identity()
    if extensions.causal:
        raise ValueError(
            "view_adaptation needs whole clips, which a causal network does not read\n"
            "choose view_adaptation=0 or causal=False"
        )
    return ViewAdaptation(channels, len(layout.joints), extensions.view_adaptation)


def extend_temporal(network: Network, extensions: ExtensionConfig) -> dict[str, Any]:
    """Options of TemporalRNN."""
    return {
        "network": _over_time(network, extensions),
        "encoder": _encoder(extensions),
        "input_layer": Dropout(extensions.input_dropout),
    }


def extend_spatial(network: Network, extensions: ExtensionConfig) -> dict[str, Any]:
    """Options of SpatialRNN."""
    options: dict[str, Any] = {"network": network, "encoder": _encoder(extensions)}
    window_layers, num_layers = extensions.window_layers, network.num_layers
    if window_layers >= num_layers:
        raise ValueError(
            f"window_layers={window_layers} leaves no LSTM layer for the joints\n"
            f"choose fewer than num_layers={num_layers}"
        )
    if window_layers:
        options["across_windows"] = partial(
            _encoder(extensions),
            hidden_size=network.hidden_size,
            num_layers=window_layers,
            bidirectional=_over_time(network, extensions).bidirectional,
            dropout=network.dropout,
            pooling=network.pooling,
        )
        options["network"] = replace(
            network, hidden_size=network.part_hidden_size, num_layers=num_layers - window_layers
        )
    return options


def _encoder(extensions: ExtensionConfig) -> type[LSTMEncoder]:
    return ResidualLSTMEncoder if extensions.residual else LSTMEncoder


def _over_time(network: Network, extensions: ExtensionConfig) -> Network:
    """The configuration of RNNs over time, which read forwards only if causal."""
    return replace(network, bidirectional=network.bidirectional and not extensions.causal)
