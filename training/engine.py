"""One epoch of training, evaluation, accuracy and loss, devices (loop and schedule: train.py)."""

import copy
import os
import platform
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
from training.distributed import any_rank, get_world_size
from training.loader import BatchLoader, shard

# Linux then hands out large tensors in large pages, which saves a third of the time of a step on a CPU.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

STREAMS = ("temporal", "spatial", "fused")
Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
StreamMetrics = dict[str, dict[str, float]]  # {stream: {"accuracy", "top5", "loss"}}

# --- Devices ------------------------------------------------------------------------------------------


def resolve_device(name: str = "") -> torch.device:
    """A torch.device by name; "": the GPU if there is one. ValueError if it cannot be used."""
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda":  # each of several processes has its own GPU
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    try:
        device = torch.zeros(1, device=name).device
        torch.zeros(1, device=device).item()  # ("meta" holds no numbers)
        return device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device '{name}' cannot be used here: {reason}\ntry --device cpu") from error


def precisions(device: torch.device) -> tuple[str, ...]:
    """The PRECISIONS in which a device can run LSTMs; some CPUs cannot do so in bfloat16."""
    try:
        with torch.autocast(device.type, torch.bfloat16):
            torch.nn.LSTM(1, 1, device=device)(torch.zeros(1, 1, 1, device=device))
    except RuntimeError:
        return ("float32",)
    return PRECISIONS


def check_precision(precision: str, device: torch.device) -> None:
    """ValueError for a precision that is unknown, or that the device does not support."""
    check_choice("precision", precision, PRECISIONS)
    if precision != "float32" and precision not in precisions(device):
        raise ValueError(f"this {device.type} cannot compute in {precision}\nuse --precision float32")


def device_name(device: torch.device | str) -> str:
    """Name of the GPU, or kind of the CPU."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{platform.machine()} CPU, {threads} thread{'s' if threads > 1 else ''}"


# --- Epochs -------------------------------------------------------------------------------------------


class Interrupted(Exception):
    """Training was asked to stop."""


def train_epoch(
    model: torch.nn.Module,
    batches: BatchLoader,
    optimizer: torch.optim.Optimizer,
    device: torch.device | str,
    *,
    title: str = "",
    precision: str = "float32",
    label_smoothing: float = 0.0,
    max_grad_norm: float = 0.0,
    stop: Callable[[], bool] | None = None,
) -> StreamMetrics:
    """One pass over the training clips; returns the metrics of the training logits.

    model            TwoStreamRNN, or DistributedDataParallel of one
    title            of the progress bar and of errors
    precision        "bfloat16": the network computes in bfloat16 (autocast)
    label_smoothing  probability mass spread evenly over all classes
    max_grad_norm    gradient clipping: largest norm; 0: off
    stop             asked after each step (after every 16 steps if there are several processes) whether
                     to raise Interrupted

    Nothing waits for a GPU before the end of the epoch. Raises FloatingPointError with the step whose
    loss is not finite.
    """
    device = torch.device(device)
    model.train()
    metrics = Metrics(getattr(model, "module", model), device)
    sizes = batches.sampler.sizes()
    stop_every = 1 if get_world_size() == 1 else 16
    # In bfloat16, cuDNN's LSTMs compute in float16, in which small gradients would underflow to zero.
    loss_scale = 1024 if (device.type, precision) == ("cuda", "bfloat16") else 1
    failed = torch.full((), len(sizes), device=device)  # the first step whose loss is not finite
    progress = tqdm(batches, title, len(sizes), leave=False, disable=None)
    for step, (data, label) in enumerate(progress):
        data, label = data.to(device), label.to(device, non_blocking=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            logits = model(data)
        count = shard_size(sizes[step])
        logits, label = Logits(*(stream[:count].float() for stream in logits)), label[:count]
        loss = training_loss(logits, label, label_smoothing)
        # The mean over the clips of all processes, whose gradients are averaged.
        loss = loss * (get_world_size() / sizes[step])
        optimizer.zero_grad(set_to_none=True)
        (loss * loss_scale).backward()
        if loss_scale > 1:
            torch._foreach_div_([weights.grad for weights in model.parameters()], loss_scale)
        if max_grad_norm:
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        optimizer.step()
        failed = torch.where(loss.detach().isfinite(), failed, failed.clamp(max=step))
        metrics.add(logits, label)
        done = step + 1
        if stop and done < len(sizes) and done % stop_every == 0 and any_rank(stop()):
            raise Interrupted
    # The loss of the last step says nothing about the weights that this step made.
    finite = torch.stack([weights.isfinite().all() for weights in model.parameters()]).all()
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
    metrics, posteriors, labels = Metrics(model, device), [], []
    progress = tqdm(batches, title, leave=False, disable=None)
    for size, (data, label) in zip(batches.sampler.sizes(), progress, strict=True):
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            logits = model(data.to(device))
        count = shard_size(size)
        labels.append(label[:count].to(device, non_blocking=True))
        posteriors.append(metrics.add(Logits(*(stream[:count] for stream in logits)), labels[-1]))
    return metrics.results(), torch.cat(posteriors).cpu(), torch.cat(labels).cpu()


# --- Measures -----------------------------------------------------------------------------------------


class Metrics:
    """Accuracy, top-5 accuracy (0 to 1) and loss of the two streams and of their fusion: sums over the
    clips of all processes, divided by the number of clips at the end."""

    def __init__(self, model: TwoStreamRNN, device: torch.device | str) -> None:
        self.model = model  # only for its `posterior`
        # Correct clips, clips with the label among the first five, and losses, of three streams each;
        # then the number of clips.
        self.sums = torch.zeros(10, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, logits: Logits, label: Tensor) -> Tensor:
        """Add a batch; returns its posteriors (N, 3, classes)."""
        streams = [stream.float().softmax(1) for stream in logits]
        posterior = torch.stack((*streams, self.model.posterior(logits)), 1)
        self.add_posterior(posterior, label)
        return posterior

    @torch.no_grad()
    def add_posterior(self, posterior: Tensor, label: Tensor) -> None:
        """Add a batch by its posteriors (N, 3, classes) and labels (N,)."""
        target = label[:, None].expand(-1, len(STREAMS))
        best = posterior.topk(min(5, posterior.shape[2]), dim=2).indices
        hits = best == target[:, :, None]
        log = posterior.clamp(min=1e-12).log().transpose(1, 2)
        loss = nll_loss(log, target, reduction="none")
        batch = torch.stack((hits[:, :, 0], hits.any(2), loss)).double()
        self.sums[:9] += batch.sum(1).flatten()
        self.sums[9] += len(label)

    def results(self) -> StreamMetrics:
        """{"temporal": {"accuracy", "top5", "loss"}, "spatial": ..., "fused": ...}."""
        sums = self.sums.clone()
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
