"""Building blocks of the networks: LSTM encoder, pooling over steps and bodies, dropout, threads.

Letters as in model.py: N clips, M slots for bodies, B bodies, S steps of a sequence, F features.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache, partial
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from skeletons.batch import BodyBatch
from skeletons.transforms import cumulative_sum

Pooling = Literal["max", "mean", "last"]
POOLINGS: tuple[str, ...] = get_args(Pooling)
PersonPooling = Literal["mean", "max"]
PERSON_POOLINGS: tuple[str, ...] = get_args(PersonPooling)

# What a module keeps from one call to the next while frames arrive one by one. It is {} at first.
State = dict[str | int, Any]


class LSTMEncoder(nn.Module):
    """LSTM layers over a sequence, and pooling of the last layer's hidden states over the steps.

    input_size     features of a step
    hidden_size    LSTM units of each layer, in each direction
    num_layers     number of layers
    bidirectional  read the sequence forwards and backwards
    dropout        probability of dropout between the layers
    pooling        "max" or "mean" over the steps, or "last": the final state of each direction
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bidirectional: bool = True,
        dropout: float = 0.0,
        pooling: Pooling = "max",
    ) -> None:
        super().__init__()
        check_choice("pooling", pooling, POOLINGS)
        self.hidden_size, self.pooling = hidden_size, pooling
        self.output_size = hidden_size * (2 if bidirectional else 1)
        # One nn.LSTM per layer. The dropout between them then uses torch's own random generator, whose
        # state a checkpoint holds, and not the hidden one of cuDNN.
        self.layers = nn.ModuleList(
            nn.LSTM(size, hidden_size, batch_first=True, bidirectional=bidirectional)
            for size in self.layer_input_sizes(input_size, num_layers)
        )
        self.dropout = Dropout(dropout)

    def layer_input_sizes(self, input_size: int, num_layers: int) -> list[int]:
        """Features that each layer reads."""
        return [self.output_size if i else input_size for i in range(num_layers)]

    def hidden_states(self, sequence: Tensor, state: State | None = None) -> Tensor:
        """Sequence (B, S, input_size) -> hidden states of the last layer (B, S, F).

        state  to read a sequence in pieces: the same dict for every piece, {} for the first
        """
        state = {} if state is None else state
        for i, lstm in enumerate(self.layers):
            sequence, state[i] = lstm(self.dropout(sequence) if i else sequence, state.get(i))
        return sequence

    def forward(self, sequence: Tensor) -> Tensor:
        """Sequence (B, S, input_size) -> features (B, F)."""
        outputs = self.hidden_states(sequence)
        if self.pooling == "max":
            return outputs.amax(1)
        if self.pooling == "mean":
            return outputs.mean(1)
        # Each direction ends after it has read all steps: forwards at the last, backwards at the first.
        return torch.cat((outputs[:, -1, : self.hidden_size], outputs[:, 0, self.hidden_size :]), 1)

    def step(self, sequence: Tensor, state: State) -> Tensor:
        """The next steps of a sequence (B, S, input_size) -> features after each of them (B, S, F),
        pooled over all steps up to it. For encoders of one direction."""
        return cumulative_pool(self.hidden_states(sequence, state), self.pooling, state)


class MeanPool(nn.Module):
    """Mean over the steps of a sequence."""

    def __init__(self, input_size: int) -> None:
        super().__init__()
        self.output_size = input_size

    def forward(self, sequence: Tensor) -> Tensor:
        """(B, S, F) -> (B, F)."""
        return sequence.mean(1)

    def step(self, sequence: Tensor, state: State) -> Tensor:
        """The next steps (B, S, F) -> the mean of all steps up to each of them (B, S, F)."""
        return cumulative_pool(sequence, "mean", state)


def cumulative_pool(outputs: Tensor, pooling: Pooling, state: State) -> Tensor:
    """Outputs (B, S, F) -> at each step, the outputs up to this step pooled (B, S, F).

    state  the dict given with the earlier steps of the sequence, {} at first
    """
    if pooling == "max":
        earlier = state.get("max")  # (B, 1, F)
        if earlier is not None:
            outputs = torch.cat((earlier, outputs), 1)
        pooled = outputs.cummax(1)[0]
        state["max"] = pooled[:, -1:]
        return pooled if earlier is None else pooled[:, 1:]
    if pooling == "mean":
        total, count = state.get("mean", (0, 0))
        count = count + torch.arange(1, outputs.shape[1] + 1, device=outputs.device)[:, None]
        total = total + cumulative_sum(outputs)
        state["mean"] = (total[:, -1:], count[-1:])
        return total / count
    return outputs


def pool_persons(features: Tensor, bodies: BodyBatch, pooling: PersonPooling) -> Tensor:
    """Features of the bodies (B, F) -> of the clips (N, F), zeros for clips without a body."""
    features, visible = bodies.scatter(features.float()), bodies.visible  # (N, M, F), (N, M)
    absent = ~visible[:, :, None]
    if pooling == "mean":
        return features.masked_fill(absent, 0).sum(1) / visible.sum(1, keepdim=True).clamp(min=1)
    # The zeros of an absent body must not exceed the negative features of another one.
    highest = features.masked_fill(absent, -torch.inf).amax(1)
    return highest.masked_fill(~visible.any(1, keepdim=True), 0)


class DropoutGenerator(threading.local):
    """What the dropout of a thread draws its random numbers from; None: torch's global generator."""

    current: torch.Generator | None = None


dropout_generator = DropoutGenerator()


class Dropout(nn.Module):
    """In training, sets values to zero with probability `p` and multiplies the others by 1 / (1 - p).
    On a CPU it is faster than nn.Dropout, and `p` is rounded to a multiple of 1/256."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """(any shape) -> the same shape."""
        if not self.training or not 0 < self.p < 1 or x.device.type != "cpu":
            return nn.functional.dropout(x, self.p, self.training)
        # A CPU draws random numbers one by one. Each has 64 bits, a byte for each of eight values.
        count = -(-x.numel() // 8)
        words = torch.randint(-(2**63), 2**63 - 1, (count,), generator=dropout_generator.current)
        dropped = min(max(round(256 * self.p), 1), 255)
        kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= dropped
        return x * kept.to(x.dtype).mul_(256 / (256 - dropped))


Result = TypeVar("Result")


# Up to so many units, a thread for each stream is faster than threads that share each operation. (Two
# CPUs, alone: `demo` 1.2 times as fast, `small` with 256 units 0.9 times, `baseline`, 512 units, 0.64.)
FEW_UNITS = 128


def read_by_each(
    streams: Sequence[nn.Module],
    features: Tensor,
    read: Callable[[nn.Module, Tensor], Tensor],
    hidden_size: int,
) -> list[Tensor]:
    """[read(stream, features) for each stream].

    hidden_size  LSTM units of a layer of the streams

    In training on a CPU, each stream of a small network runs in a thread of its own. Threads that share
    each operation would wait for each other after each of them, and so for other programs that run on a
    CPU of theirs. The number of threads changes nothing but rounding.
    """
    if features.device.type != "cpu" or not streams[0].training or hidden_size > FEW_UNITS:
        return [read(stream, features) for stream in streams]
    weights = (weights for stream in streams for weights in stream.parameters())
    return list(ParallelStreams.apply(streams, read, features, *weights))


class ParallelStreams(torch.autograd.Function):
    """What `read_by_each` does in training on a CPU. The gradients are computed in threads, too."""

    @staticmethod
    def forward(
        ctx: Any,
        streams: Sequence[nn.Module],
        read: Callable[[nn.Module, Tensor], Tensor],
        features: Tensor,
        *weights: Tensor,
    ) -> tuple[Tensor, ...]:
        mixed, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

        def run(stream: nn.Module, seed: int) -> tuple[Tensor, Tensor]:
            inputs = features.detach().requires_grad_(features.requires_grad)
            dropout_generator.current = torch.Generator().manual_seed(seed)
            try:
                with torch.enable_grad(), torch.autocast("cpu", dtype, mixed):
                    return inputs, read(stream, inputs)
            finally:
                dropout_generator.current = None

        # Of the same random numbers, whichever thread is faster.
        seeds = torch.randint(2**63 - 1, (len(streams),)).tolist()
        ctx.recorded = run_in_threads(
            [partial(run, *args) for args in zip(streams, seeds, strict=True)]
        )
        ctx.streams = streams
        return tuple(outputs.detach() for _, outputs in ctx.recorded)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        def run(
            stream: nn.Module, inputs: Tensor, outputs: Tensor, gradient: Tensor
        ) -> list[Tensor | None]:
            wanted = [inputs, *stream.parameters()]
            found = iter(())
            if outputs.requires_grad:
                trained = [tensor for tensor in wanted if tensor.requires_grad]
                found = iter(torch.autograd.grad(outputs, trained, gradient, allow_unused=True))
            return [next(found, None) if tensor.requires_grad else None for tensor in wanted]

        if ctx.recorded is None:
            raise RuntimeError(
                "in training on a CPU, small networks compute gradients once per forward pass\n"
                "add the losses and call backward once"
            )
        recorded = zip(ctx.streams, ctx.recorded, gradients, strict=True)
        found = run_in_threads(
            [partial(run, stream, *both, gradient) for stream, both, gradient in recorded]
        )
        ctx.recorded = None
        inputs = [of_stream[0] for of_stream in found if of_stream[0] is not None]
        weights = (gradient for of_stream in found for gradient in of_stream[1:])
        return None, None, sum(inputs) if inputs else None, *weights


def run_in_threads(functions: Sequence[Callable[[], Result]]) -> list[Result]:
    """The results of functions, which share torch's threads if there is one for each of them."""
    threads = torch.get_num_threads()
    if threads < len(functions):
        return [function() for function in functions]

    def run(function: Callable[[], Result]) -> Result:
        torch.set_num_threads(threads // len(functions))
        return function()

    others = [thread_pool().submit(run, function) for function in functions[1:]]
    try:
        first = run(functions[0])
    finally:
        wait(others)
        torch.set_num_threads(threads)
    return [first, *(other.result() for other in others)]


@cache
def thread_pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor()


def check_choice(option: str, value: object, choices: Iterable[str]) -> None:
    """Raise a ValueError that lists the choices if `value` is none of them."""
    if value not in choices:
        raise ValueError(f"{option}={value!r} is unknown\nchoose from {', '.join(choices)}")
