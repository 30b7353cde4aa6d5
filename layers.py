"""What the networks of model.py are made of: LSTM layers, pooling, view adaptation, dropout."""

from functools import cache

import torch
from torch import nn

from skeletons.transforms import apply, rotation

POOLINGS = ("max", "mean", "last")


def seen_frames(joints):
    """Joints (B, C, T, V) -> the same, the frames that each body is in first, and which of them is its
    last (B,)."""
    there = joints.abs().sum((1, 3)) > 0  # (B, T)
    order = (~there).int().argsort(dim=1, stable=True)[:, None, :, None]
    return joints.take_along_dim(order, 2), there.sum(1).clamp(min=1) - 1


class ViewAdaptation(nn.Module):
    """Turns each body as a whole to the view that is best to read, found by an LSTM over its frames
    (learned with the streams; after view adaptive networks, Zhang et al., ICCV 2017)."""

    def __init__(self, channels, joints, units):
        super().__init__()
        self.reader = LSTMEncoder(channels * joints, units, 1, bidirectional=False)
        self.angles = nn.Linear(units, 3 if channels == 3 else 1)
        nn.init.normal_(self.angles.weight, std=0.001)  # at first, the view it is fed in
        nn.init.zeros_(self.angles.bias)

    def forward(self, bodies):
        """Bodies (B, C, T, V) -> the same, turned."""
        channels = bodies.shape[1]
        angles = self.angles(self.reader(bodies.transpose(1, 2).flatten(2))).float()
        matrix = rotation(nn.functional.pad(angles, (3 - angles.shape[1], 0)))
        return apply(bodies, matrix[:, :channels, :channels])


class LSTMEncoder(nn.Module):
    """LSTM layers that read a sequence, and the pooling of what they say at its steps.

    residual  each layer adds to what it read, which is brought to the layers' width before the first;
              a layer reads it normalised
    """

    def __init__(self, inputs, units, layers, bidirectional, dropout=0.0, pooling="max",
                 residual=False):  # fmt: skip
        super().__init__()
        check("pooling", pooling, POOLINGS)
        # One module a layer: the dropout between them then draws from torch's own random state,
        # which a checkpoint keeps, and not from a hidden one of cuDNN.
        self.features = units * (2 if bidirectional else 1)
        self.layers = nn.ModuleList(
            nn.LSTM(
                self.features if i or residual else inputs,
                units,
                batch_first=True,
                bidirectional=bidirectional,
            )
            for i in range(layers)
        )
        self.dropout = Dropout(dropout)
        self.units, self.pooling, self.residual = units, pooling, residual
        if residual:
            self.enter = nn.Linear(inputs, self.features)
            self.norms = nn.ModuleList(nn.LayerNorm(self.features) for _ in range(layers + 1))

    def steps(self, sequence, state=None):
        """Sequence (B, S, inputs) -> what the last layer says at each step (B, S, F).

        state  dict that keeps the layers' states, {} before the first steps: go on with the next ones
        """
        state = {} if state is None else state
        if self.residual:
            sequence = self.enter(sequence)
        for i, lstm in enumerate(self.layers):
            if self.residual:
                said, state[i] = lstm(self.norms[i](sequence), state.get(i))
                sequence = sequence + self.dropout(said)
            else:
                sequence, state[i] = lstm(self.dropout(sequence) if i else sequence, state.get(i))
        return self.norms[-1](sequence) if self.residual else sequence

    def follow(self, sequence, state):
        """Sequence (B, S, inputs) -> features after each step (B, S, F), of one direction."""
        return cumulative_pool(self.steps(sequence, state), self.pooling, state)

    def forward(self, sequence):
        """Sequence (B, S, inputs) -> features (B, F)."""
        said = self.steps(sequence)
        if self.pooling == "max":
            return said.amax(1)
        if self.pooling == "mean":
            return said.mean(1)
        # Where each direction has read everything: the last step forward, the first backward.
        return torch.cat((said[:, -1, : self.units], said[:, 0, self.units :]), 1)


def cumulative_pool(said, pooling, state):
    """Pooling of what is said up to each step: (B, S, F) -> (B, S, F); `state` as in
    LSTMEncoder.steps."""
    if pooling == "max":
        if "highest" in state:
            said = torch.cat((state["highest"], said), 1)
        highest = said.cummax(1)[0]
        said = highest[:, 1:] if "highest" in state else highest
        state["highest"] = said[:, -1:]
    elif pooling == "mean":
        total, count = state.get("total", (0, 0))
        count = count + torch.arange(1, said.shape[1] + 1, device=said.device)[:, None]
        total = total + said.cumsum(1)
        state["total"], said = (total[:, -1:], count[-1:]), total / count
    return said


def run_on_cuda_streams(calls):
    """What functions return, each a functools.partial of a tensor. A GPU computes them at once: a
    small LSTM alone leaves most of it idle."""
    device = calls[0].args[0].device
    shared = torch.distributed.is_available() and torch.distributed.is_initialized()
    if device.type != "cuda" or shared:  # (processes that train together sum gradients in one stream)
        return [call() for call in calls]
    here, results = torch.cuda.current_stream(device), []
    streams = _streams(len(calls), device)
    for call, stream in zip(calls, streams, strict=True):
        stream.wait_stream(here)
        call.args[0].record_stream(stream)
        with torch.cuda.stream(stream):
            results.append(call())
    for result, stream in zip(results, streams, strict=True):
        here.wait_stream(stream)
        result.record_stream(here)
    return results


@cache
def _streams(count, device):
    return [torch.cuda.Stream(device) for _ in range(count)]


class Dropout(nn.Module):
    """Values set to zero with probability `share` in training (on a CPU rounded to 1/256), the others
    enlarged to the same mean."""

    def __init__(self, share):
        super().__init__()
        self.share = share

    def forward(self, x):
        if not self.training or not 0 < self.share < 1 or x.device.type != "cpu":
            return nn.functional.dropout(x, self.share, self.training)
        # A CPU draws one number after the other: eight values share one, a byte each.
        words = torch.randint(-(2**63), 2**63 - 1, (-(-x.numel() // 8),))
        dropped = min(max(round(256 * self.share), 1), 255)
        kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= dropped
        return x * kept.to(x.dtype).mul_(256 / (256 - dropped))


def check(option, value, choices):
    """ValueError that lists the choices of an option."""
    if value not in choices:
        raise ValueError(f"{option}={value!r} is unknown: choose from {', '.join(choices)}")
