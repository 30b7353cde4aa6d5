"""One epoch of training, evaluation, accuracy and loss, devices (loop and schedule: train.py)."""

import copy
import os
import platform
import re
import textwrap
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, distributed
from torch.nn.functional import cross_entropy, nll_loss
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from layers import check_choice
from model import Logits, TwoStreamRNN
from skeletons.batch import BodyBatch
from training.distributed import any_rank, get_world_size, is_launched
from training.finetune import frozen_modules
from training.loader import BatchLoader, shard

STREAMS = ("temporal", "spatial", "fused")
Precision = Literal["auto", "float32", "mixed"]
PRECISIONS: tuple[str, ...] = get_args(Precision)[1:]
BFLOAT16_CPUS = ("avx512_bf16", "amx_tile")  # instruction sets of CPUs
StreamMetrics = dict[str, dict[str, float]]  # {stream: {"accuracy", "top5", "loss"}}

# --- Devices ------------------------------------------------------------------------------------------


def resolve_device(name: str = "") -> torch.device:
    """A torch.device by name; "": the GPU if there is one. ValueError if it cannot be used."""
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda":  # each of several processes has its own GPU
        name = f"cuda:{os.environ['LOCAL_RANK'] if is_launched() else 0}"
    try:
        device = torch.zeros(1, device=name).device
        torch.zeros(1, device=device).item()  # ("meta" holds no numbers)
        return device
    except Exception as error:  # whatever a driver or a build of torch raises
        # (The first sentence: torch may list all of its backends.)
        reason = textwrap.shorten(re.split(r"(?<=\w)\.\s|\n", str(error))[0], 120)
        raise ValueError(f"device '{name}' cannot be used here: {reason}\ntry --device cpu") from error


def resolve_precision(precision: str, device: torch.device) -> str:
    """The one of PRECISIONS in which the device is to compute; "auto": mixed on a CPU with instructions
    for bfloat16, where small networks train 1.5 times as fast (docs/speed.md), float32 elsewhere.
    ValueError for a precision that is unknown, or that the device does not support."""
    check_choice("precision", precision, get_args(Precision))
    if precision == "auto":
        # (Private functions, for want of public ones; missing ones mean float32.)
        tests = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in BFLOAT16_CPUS)
        fast = device.type == "cpu" and any(test and test() for test in tests)
        return "mixed" if fast and "mixed" in precisions(device) else "float32"
    if precision not in precisions(device):
        raise ValueError(f"this {device.type} cannot compute in {precision}\nuse --precision float32")
    return precision


def precisions(device: torch.device) -> tuple[str, ...]:
    """The PRECISIONS in which a device can run LSTMs; some CPUs cannot do so in bfloat16."""
    try:
        with autocast("mixed", device):
            torch.nn.LSTM(1, 1, device=device)(torch.zeros(1, 1, 1, device=device))
    except RuntimeError:
        return ("float32",)
    return PRECISIONS


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Context in which a network computes. In mixed precision, matrix products and LSTMs use float16 on
    a GPU (cuDNN has no LSTM in bfloat16 under autocast), bfloat16 on a CPU."""
    dtype = torch.bfloat16 if device.type == "cpu" else torch.float16
    return torch.autocast(device.type, dtype, enabled=precision == "mixed")


def make_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """Scales the loss in mixed precision on a GPU, so that small gradients are not lost in float16. A
    step whose gradients overflow changes no weight; the next ones have a smaller scale."""
    return torch.amp.GradScaler("cuda", enabled=device.type == "cuda" and precision == "mixed")


def use_deterministic_algorithms() -> None:
    """Make all later results on a GPU the same in each run, as they always are on a CPU. To be called
    before the GPU is used for the first time."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    torch.use_deterministic_algorithms(True)


def device_name(device: torch.device | str) -> str:
    """Name of the GPU, or kind of the CPU."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{platform.machine()} CPU, {threads} thread{'s' if threads > 1 else ''}"


# --- Epochs -------------------------------------------------------------------------------------------


class Interrupted(Exception):
    """Training was asked to stop."""


class TrainingStep:
    """Forward pass, gradients and weight update for one batch after the other.

    model            TwoStreamRNN, or DistributedDataParallel of one
    precision        as in `autocast`
    scaler           as of `make_scaler`
    label_smoothing  probability mass spread evenly over all classes
    max_grad_norm    gradient clipping: largest norm; 0: off
    cuda_graphs      on a GPU, record the thousands of small kernels of a step once for each shape of a
                     batch, and replay them together (CUDA graphs). Only rounding and the random
                     numbers of dropout differ
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        device: torch.device | str,
        *,
        precision: str = "float32",
        scaler: torch.amp.GradScaler | None = None,
        label_smoothing: float = 0.0,
        max_grad_norm: float = 0.0,
        cuda_graphs: bool = True,
    ) -> None:
        self.model, self.optimizer, self.device = model, optimizer, torch.device(device)
        self.network: TwoStreamRNN = getattr(model, "module", model)
        self.precision, self.label_smoothing = precision, label_smoothing
        self.max_grad_norm = max_grad_norm
        self.scaler = scaler or make_scaler(precision, self.device)
        self.graphs = None
        if cuda_graphs and self.device.type == "cuda" and get_world_size() == 1:
            self.graphs = CudaGraphs(self.forward_backward)

    def __call__(self, data: BodyBatch, label: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Train on a batch of `size` clips over all processes, of which `data` and `label` are this
        process's share; returns the loss () and the posteriors (N, 3, classes)."""
        forward_backward = self.graphs or self.forward_backward
        loss, posterior = forward_backward(data, label, size)
        self.scaler.unscale_(self.optimizer)
        if self.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss, posterior

    def forward_backward(self, data: BodyBatch, label: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """The gradients of a batch, and what `__call__` returns."""
        with autocast(self.precision, self.device):
            logits = self.model(data)
        count = shard_size(size)
        logits, label = Logits(*(stream[:count].float() for stream in logits)), label[:count]
        # The mean over the clips of all processes, whose gradients are averaged.
        loss = training_loss(logits, label, self.label_smoothing) * (get_world_size() / size)
        # (In place, since CUDA graphs write to the same memory again.)
        self.optimizer.zero_grad(set_to_none=self.graphs is None)
        self.scaler.scale(loss).backward()
        return loss.detach(), posteriors(self.network, logits)


class CudaGraphs:
    """Calls of a function of a batch, recorded as CUDA graphs. The first call with a shape runs without
    a graph; the second one is recorded; it and all later ones are replayed.

    Batches have different numbers of bodies. They are padded with absent bodies to a multiple of 32, so
    that few graphs are needed; this changes only the random numbers of dropout. The graphs share their
    memory: what a call returns is valid until the next call.
    """

    BODIES = 32

    def __init__(self, function: Callable[[BodyBatch, Tensor, int], tuple[Tensor, ...]]) -> None:
        self.function = function
        self.recorded: dict[tuple[int, ...], Recording | None] = {}  # None: ran once
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, data: BodyBatch, label: Tensor, size: int) -> tuple[Tensor, ...]:
        """What the function returns."""
        data = data.pad_bodies(self.BODIES)
        shape = (*data.joints.shape, *data.visible.shape, size)
        if shape not in self.recorded:
            self.recorded[shape] = None
            return self.function(data, label, size)
        if self.recorded[shape] is None:
            self.recorded[shape] = Recording(self.function, data, label, size, self.pool)
        return self.recorded[shape].replay(data, label)


class Recording:
    """One CUDA graph, with the memory that it reads from and writes to."""

    def __init__(
        self, function: Callable, data: BodyBatch, label: Tensor, size: int, pool: tuple[int, int]
    ) -> None:
        self.inputs = [tensor.clone() for tensor in (*data, label)]
        self.graph = torch.cuda.CUDAGraph()
        # (Thread-local: the thread that pins the memory of loaded batches may go on.)
        with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
            self.outputs = function(BodyBatch(*self.inputs[:3]), self.inputs[3], size)

    def replay(self, data: BodyBatch, label: Tensor) -> tuple[Tensor, ...]:
        """What the function would return for this batch."""
        for own, new in zip(self.inputs, (*data, label), strict=True):
            own.copy_(new)
        self.graph.replay()
        return self.outputs


def train_epoch(
    step: TrainingStep,
    batches: BatchLoader,
    *,
    title: str = "",
    stop: Callable[[], bool] | None = None,
) -> StreamMetrics:
    """One pass over the training clips; returns the metrics of the training logits.

    title  of the progress bar and of errors
    stop   asked after each step (after every 16 steps if there are several processes) whether to raise
           Interrupted

    Nothing waits for a GPU before the end of the epoch. Raises FloatingPointError with the step whose
    loss is not finite.
    """
    step.model.train()
    for module in frozen_modules(step.network):
        module.eval()
    metrics = Metrics()
    sizes = batches.sampler.sizes()
    stop_every = 1 if get_world_size() == 1 else 16
    # The first step whose loss is not finite.
    failed = torch.full((), len(sizes), device=step.device)
    progress = tqdm(batches, title, len(sizes), leave=False, disable=None)
    for i, (data, label) in enumerate(progress):
        data, label = data.to(step.device), label.to(step.device, non_blocking=True)
        loss, posterior = step(data, label, sizes[i])
        failed = torch.where(loss.isfinite(), failed, failed.clamp(max=i))
        metrics.add(posterior.clone(), label[: len(posterior)])
        if stop and i + 1 < len(sizes) and (i + 1) % stop_every == 0 and any_rank(stop()):
            raise Interrupted
    # The loss of the last step says nothing about the weights that this step made.
    weights = step.network.state_dict().values()
    finite = torch.stack([weight.isfinite().all() for weight in weights]).all()
    failed = torch.where(finite, failed, failed.clamp(max=len(sizes) - 1))
    if get_world_size() > 1:
        distributed.all_reduce(failed, distributed.ReduceOp.MIN)
    if failed < len(sizes):
        raise FloatingPointError(
            f"{title}: loss or weights are not finite in step {int(failed) + 1} of {len(sizes)}"
        )
    return metrics.results()


def training_loss(logits: Logits, label: Tensor, label_smoothing: float) -> Tensor:
    """Sum over clips and streams of the cross entropy -> ().

    The streams share no weights (except those of a view adaptation network), so this trains each stream
    on its own. Only their posteriors are fused.
    """
    return sum(
        cross_entropy(stream, label, reduction="sum", label_smoothing=label_smoothing)
        for stream in logits
    )


def shard_size(size: int) -> int:
    """Number of clips in this process's share of a batch of `size` clips."""
    return len(range(size)[shard(size)])


@torch.no_grad()
def evaluate(
    model: TwoStreamRNN,
    batches: BatchLoader,
    device: torch.device | str,
    title: str = "",
    precision: str = "float32",
) -> tuple[StreamMetrics, Tensor, Tensor]:
    """Classify every clip once, in order.

    Returns (metrics, posteriors (N, 3, classes) of temporal, spatial and fused, labels (N,)), on the
    CPU. The metrics are over all processes; posteriors and labels are of this process's clips.
    """
    device = torch.device(device)
    model.eval()
    if get_world_size() > 1:  # all use the running statistics of rank 0, which are the saved ones
        for buffer in model.buffers():
            distributed.broadcast(buffer, 0)
    metrics = Metrics()
    progress = tqdm(batches, title, leave=False, disable=None)
    for size, (data, label) in zip(batches.sampler.sizes(), progress, strict=True):
        with autocast(precision, device):
            logits = model(data.to(device))
        posterior = posteriors(model, logits)[: shard_size(size)]
        metrics.add(posterior, label[: len(posterior)].to(device, non_blocking=True))
    return metrics.results(), *(tensor.cpu() for tensor in metrics.collected())


# --- Measures -----------------------------------------------------------------------------------------


@torch.no_grad()
def posteriors(model: TwoStreamRNN, logits: Logits) -> Tensor:
    """Class probabilities of the temporal and the spatial stream and of their fusion
    (N, 3, classes)."""
    streams = [stream.float().softmax(1) for stream in logits]
    return torch.stack((*streams, model.posterior(logits)), 1)


class Metrics:
    """Accuracy, top-5 accuracy (0 to 1) and loss of the two streams and of their fusion, over the clips
    of all processes. They are computed at the end, from what `add` collected."""

    def __init__(self) -> None:
        self.batches: list[tuple[Tensor, Tensor]] = []

    def add(self, posterior: Tensor, label: Tensor) -> None:
        """Add a batch by its posteriors (N, 3, classes) and labels (N,)."""
        self.batches.append((posterior, label))

    def collected(self) -> tuple[Tensor, Tensor]:
        """All posteriors and labels."""
        posterior, label = (torch.cat(tensors) for tensors in zip(*self.batches, strict=True))
        return posterior, label

    @torch.no_grad()
    def results(self) -> StreamMetrics:
        """{"temporal": {"accuracy", "top5", "loss"}, "spatial": ..., "fused": ...}."""
        posterior, label = self.collected()
        target = label[:, None].expand(-1, len(STREAMS))
        best = posterior.topk(min(5, posterior.shape[2]), dim=2).indices
        hits = best == target[:, :, None]
        log = posterior.clamp(min=1e-12).log().transpose(1, 2)
        loss = nll_loss(log, target, reduction="none")
        measures = torch.stack((hits[:, :, 0], hits.any(2), loss))  # (3, N, 3)
        # In float64, which not every device has; then the number of clips.
        sums = measures.cpu().double().sum(1).flatten()
        sums = torch.cat((sums, sums.new_full((1,), len(label))))
        if get_world_size() > 1:
            distributed.all_reduce(sums)
        columns = (sums[:-1] / sums[-1]).view(3, -1).T.tolist()
        return {
            stream: dict(zip(("accuracy", "top5", "loss"), column, strict=True))
            for stream, column in zip(STREAMS, columns, strict=True)
        }


@torch.no_grad()
def count_flops(model: TwoStreamRNN, frames: int) -> int:
    """Floating point operations (multiplications and additions) of a forward pass in evaluation, for a
    clip of one body of so many frames."""
    copied = copy.deepcopy(model).cpu().eval()
    clip = BodyBatch(
        torch.ones(1, model.channels, frames, model.num_joints),
        torch.zeros(1, dtype=torch.int64),
        torch.ones(1, 1, dtype=torch.bool),
    )
    # The counter does not know the LSTM of oneDNN. Without oneDNN, an LSTM is a sequence of matrix
    # products.
    # (Device "meta" gives the same figures, and takes six times as long.)
    onednn, torch.backends.mkldnn.enabled = torch.backends.mkldnn.enabled, False
    try:
        with FlopCounterMode(display=False) as counter:
            copied(clip)
    finally:
        torch.backends.mkldnn.enabled = onednn
    return counter.get_total_flops()
