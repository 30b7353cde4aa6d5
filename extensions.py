"""Optional components beyond the paper, all off by default; the presets `full` and `live` use them.

    joints -> ViewAdaptation -> JointFeatures -> both streams (model.py)
    temporal RNN   dropout of its input
    spatial RNN    JointEmbedding of its input; LSTM layers over the windows in place of their mean
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

from layers import Dropout, LSTMEncoder, Pooling, State, check_choice
from skeletons.batch import visible_frames
from skeletons.layout import Layout
from skeletons.transforms import rotation

Modality = Literal["joint", "motion", "bone", "distance"]
MODALITIES: tuple[str, ...] = get_args(Modality)
Network = TypeVar("Network")  # NetworkConfig of model.py, which imports this module


@dataclass(frozen=True)
class ExtensionConfig:
    """Optional components beyond the paper, all off by default."""

    # input features of each joint, concatenated (not an ensemble of networks): joint (position), motion
    # (difference to the previous frame), bone (vector from the parent), distance (to all joints)
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

    The attribute `output_size` is the number of features of a joint.
    """

    def __init__(self, layout: Layout, channels: int, extensions: ExtensionConfig) -> None:
        super().__init__()
        for name in extensions.modalities or ("",):
            check_choice("modalities", name, MODALITIES)
        num_joints = len(layout.joints)
        sizes = {"joint": channels, "motion": channels, "bone": channels, "distance": num_joints}
        self.modalities = frozenset(extensions.modalities)
        self.output_size = sum(sizes[name] for name in self.modalities)
        # The root has no parent; it counts as its own, so its bone is zero.
        parents = [joint if parent < 0 else parent for joint, parent in enumerate(layout.parents)]
        self.register_buffer("parents", torch.tensor(parents), persistent=False)
        self.norm = VisibleBatchNorm(self.output_size * num_joints) if extensions.input_norm else None

    def forward(self, joints: Tensor) -> Tensor:
        """Joints (B, C, T, V) -> features (B, output_size, T, V)."""
        modalities = []
        if "joint" in self.modalities:
            modalities.append(joints)
        if "motion" in self.modalities:
            modalities.append(motion(joints))
        if "bone" in self.modalities:  # from the parent of each joint to the joint
            modalities.append(joints - joints.index_select(3, self.parents))
        if "distance" in self.modalities:
            modalities.append(joint_distances(joints))
        features = torch.cat(modalities, 1)
        if self.norm:
            per_joint = features.transpose(2, 3)  # (B, output_size, V, T)
            normalised = self.norm(per_joint.flatten(1, 2), visible_frames(joints))
            features = normalised.view(per_joint.shape).transpose(2, 3)
        return features


class VisibleBatchNorm(nn.BatchNorm1d):
    """Batch normalisation with the statistics of the frames in which bodies are visible, over all
    processes that train together. The zeros of the other frames would pull them towards zero."""

    def forward(self, features: Tensor, visible: Tensor) -> Tensor:
        """Features (B, F, T), visible frames bool (B, T) -> normalised features (B, F, T)."""
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


def joint_distances(joints: Tensor) -> Tensor:
    """Joints (B, C, T, V) -> distances of each joint to all joints of its frame (B, V, T, V). They have
    no gradient, since the rotation of ViewAdaptation does not change them."""
    frames = joints.detach().permute(0, 2, 3, 1)  # (B, T, V, C)
    if frames.is_cuda:  # (where cdist takes 40 times as long: a block of threads for each distance)
        distances = torch.linalg.vector_norm(frames[:, :, :, None] - frames[:, :, None], dim=-1)
    else:  # (cdist's faster mode, by matrix multiplication, is exact to 0.001 only.)
        distances = torch.cdist(frames, frames, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.transpose(1, 2)


class ViewAdaptation(nn.Module):
    """Rotates each body by angles that an LSTM over its frames predicts; trained with the streams.

    After the view adaptive networks of Zhang et al., ICCV 2017, but with one rotation for a whole clip.
    Bodies with two coordinates are rotated in their plane.
    """

    def __init__(self, channels: int, num_joints: int, hidden_size: int) -> None:
        super().__init__()
        self.encoder = LSTMEncoder(channels * num_joints, hidden_size, bidirectional=False)
        self.angles = nn.Linear(hidden_size, 3 if channels == 3 else 1)
        # Angles are close to zero at first: training starts from the view of the data.
        nn.init.normal_(self.angles.weight, std=0.001)
        nn.init.zeros_(self.angles.bias)

    def forward(self, joints: Tensor) -> Tensor:
        """Joints (B, C, T, V) -> the same, rotated."""
        channels = joints.shape[1]
        angles = self.angles(self.encoder(joints.transpose(1, 2).flatten(2))).float()  # (B, 3 or 1)
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
) -> list[Tensor]:
    """Joints (B, C, T, V) -> features from each stream after the last frame with the body, (B, F) each.
    Frames without the body are skipped, as in live use."""
    joints, last = visible_frames_first(joints)
    features = joint_features(joints)
    bodies = torch.arange(len(last), device=last.device)
    return [stream.step(features)[bodies, last] for stream in streams]


def visible_frames_first(joints: Tensor) -> tuple[Tensor, Tensor]:
    """Joints (B, C, T, V) -> the same, frames with the body first, and the index of the last of them
    (B,)."""
    visible = visible_frames(joints)  # (B, T)
    order = (~visible).int().argsort(dim=1, stable=True)[:, None, :, None]
    return joints.take_along_dim(order, 2), visible.sum(1).clamp(min=1) - 1


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
