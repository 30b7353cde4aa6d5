"""Train for an epoch, evaluate, save and load checkpoints. Takes model and data as arguments."""

import os
import platform

import torch
from torch import distributed
from torch.nn.functional import cross_entropy, nll_loss
from tqdm import tqdm

from layers import check
from model import Logits
from training.distributed import any_rank, get_rank, get_world_size
from training.loader import mine

# The system hands out large tensors in large pages: on a CPU a third of the time of a training step.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
STREAMS = ("temporal", "spatial", "fused")


def resolve_device(name=""):
    """A torch.device by name; "": the GPU when there is one. ValueError where it cannot be used."""
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda":  # of several processes each has its own
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device '{name}' cannot be used here ({reason}): try cpu") from error


def precisions(device):
    """Those of PRECISIONS that a device has LSTMs of: CPUs without AVX-512 have none of bfloat16."""
    try:
        with torch.autocast(device.type, torch.bfloat16):
            torch.nn.LSTM(1, 1, device=device)(torch.zeros(1, 1, 1, device=device))
    except RuntimeError:
        return ("float32",)
    return PRECISIONS


def check_precision(precision, device):
    """ValueError for a precision that is unknown, or that the device does not have."""
    check("precision", precision, PRECISIONS)
    if precision != "float32" and precision not in precisions(device):
        raise ValueError(f"this {device.type} cannot compute in {precision}: use float32")


def device_name(device):
    """What the device is called: the GPU's name, or the processor's kind."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


# --- Epochs -------------------------------------------------------------------------------------------

PRECISIONS = ("float32", "bfloat16")


class Interrupted(Exception):
    """Training was asked to stop; holds how far the epoch is."""

    def __init__(self, progress):
        super().__init__(f"after step {progress['step']}")
        self.progress = progress


def train_epoch(
    model,
    batches,
    optimizer,
    device,
    description="",
    precision="float32",
    stop=None,
    progress=None,
    label_smoothing=0.0,
    clip_gradient=0.0,
):
    """One pass over the training clips; returns metrics (see `Metrics`) of the training scores.

    precision  "bfloat16": the networks compute with half the bits (autocast)
    stop       function that says whether to stop: raises Interrupted after the step that is under way
               (several processes look every 16 steps), if it is not the last
    progress   of an interrupted epoch: go on with it
    label_smoothing  share of the target that all classes have in equal parts
    clip_gradient    largest norm of the gradient; 0: any

    The loss is the sum of both streams' cross entropies: they share no weights (but those of a learned
    view), so this trains each alone, and only their posteriors are fused. Nothing waits for the device
    before the end of the epoch. Raises FloatingPointError with the step whose loss is not finite.
    """
    device = torch.device(device)
    model.train()
    metrics = Metrics(getattr(model, "module", model), device)
    done = progress["step"] if progress else 0
    if progress and get_rank() == 0:
        metrics.sums += progress["sums"].to(device)
    sizes = batches.sampler.sizes()
    every = 1 if get_world_size() == 1 else 16
    # With bfloat16 cuDNN's LSTMs compute in float16, where gradients this small would be lost.
    enlarged = 1024 if (device.type, precision) == ("cuda", "bfloat16") else 1
    failed = torch.full((), len(sizes), device=device)  # the first step whose loss is not finite
    batches.sampler.done = done
    shown = tqdm(batches, description, len(sizes), leave=False, initial=done, disable=None)
    for step, (data, label) in enumerate(shown, done):
        data, label = data.to(device), label.to(device, non_blocking=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            scores = model(data)
        count = len(range(sizes[step])[mine(sizes[step])])
        scores, label = Logits(*(stream[:count].float() for stream in scores)), label[:count]
        # The mean over the clips of all processes; their gradients are averaged.
        loss = sum(
            cross_entropy(stream, label, reduction="sum", label_smoothing=label_smoothing)
            for stream in scores
        )
        loss = loss * (get_world_size() / sizes[step])
        optimizer.zero_grad(set_to_none=True)
        (loss * enlarged).backward()
        if enlarged > 1:
            torch._foreach_div_([weights.grad for weights in model.parameters()], enlarged)
        if clip_gradient:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip_gradient)
        optimizer.step()
        failed = torch.where(loss.detach().isfinite(), failed, failed.clamp(max=step))
        metrics.add(scores, label)
        done = step + 1
        if stop and done % every == 0 and done < len(sizes) and any_rank(stop()):
            break
    if get_world_size() > 1:
        distributed.all_reduce(failed, distributed.ReduceOp.MIN)
    if failed < len(sizes):
        raise FloatingPointError(f"the loss is not finite in step {int(failed) + 1} of {len(sizes)}")
    if done < len(sizes):
        raise Interrupted({"step": done, "sums": metrics.total().cpu()})
    return metrics.results()


@torch.no_grad()
def evaluate(model, batches, device, description="", precision="float32"):
    """Score every clip once, in order. Returns (metrics, posteriors (N, 3, classes) of temporal,
    spatial and fused, labels (N,)), on the CPU; the posteriors are those of this process's clips."""
    device = torch.device(device)
    model.eval()
    if get_world_size() > 1:  # the first process's running statistics, which are those that are saved
        for buffer in model.buffers():
            distributed.broadcast(buffer, 0)
    metrics, posteriors, labels = Metrics(getattr(model, "module", model), device), [], []
    sizes = batches.sampler.sizes()
    for size, (data, label) in zip(sizes, tqdm(batches, description, leave=False, disable=None),
                                   strict=True):  # fmt: skip
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            scores = metrics.model(data.to(device))
        count = len(range(size)[mine(size)])
        labels.append(label[:count].to(device, non_blocking=True))
        posteriors.append(metrics.add(Logits(*(stream[:count] for stream in scores)), labels[-1]))
    return metrics.results(), torch.cat(posteriors).cpu(), torch.cat(labels).cpu()


@torch.no_grad()
def operations(model, data):
    """Multiplications and additions of the model's layers for a batch: forward, in evaluation."""
    total = 0

    def count(layer, arguments, _):
        nonlocal total
        steps = arguments[0].shape[:-1].numel()
        if isinstance(layer, torch.nn.LSTM):
            width = arguments[0].shape[-1] + layer.hidden_size
            total += 2 * steps * (1 + layer.bidirectional) * 4 * layer.hidden_size * width
        else:
            total += 2 * steps * layer.in_features * layer.out_features

    layers = [m for m in model.modules() if isinstance(m, (torch.nn.LSTM, torch.nn.Linear))]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    training = model.training
    model.eval()(data)
    model.train(training)
    for hook in hooks:
        hook.remove()
    return total


class Metrics:
    """Accuracy, top-5 accuracy (shares of 1) and loss of the two streams and of their fusion:
    sums over clips, of all processes, divided by the number of clips at the end."""

    def __init__(self, model, device):
        self.model = model
        # Of hits, hits among the first five and losses, each of three streams; and the number of clips.
        self.sums = torch.zeros(10, dtype=torch.float64, device=device)

    def add(self, scores, label):
        """Add a batch; returns its posteriors (N, 3, classes)."""
        with torch.no_grad():
            single = [stream.float().softmax(1) for stream in scores]
            return self.count(torch.stack((*single, self.model.posterior(scores)), 1), label)

    def count(self, posterior, label):
        """Add a batch by its posteriors (N, 3, classes); returns them."""
        with torch.no_grad():
            target = label[:, None].expand(-1, len(STREAMS))
            best = posterior.topk(min(5, posterior.shape[2]), dim=2).indices
            hits = best == target[:, :, None]
            log = posterior.clamp(min=1e-12).log().transpose(1, 2)
            loss = nll_loss(log, target, reduction="none")
            batch = torch.stack((hits[:, :, 0], hits.any(2), loss)).double()
            self.sums[:9] += batch.sum(1).flatten()
            self.sums[9] += len(label)
        return posterior

    def total(self):
        """The sums over all processes."""
        sums = self.sums.clone()
        if get_world_size() > 1:
            distributed.all_reduce(sums)
        return sums

    def results(self):
        """{"temporal": {"accuracy", "top5", "loss"}, "spatial": ..., "fused": ...}."""
        sums = self.total()
        columns = (sums[:-1] / sums[-1]).view(3, -1).T.tolist()
        return {
            stream: dict(zip(("accuracy", "top5", "loss"), column, strict=True))
            for stream, column in zip(STREAMS, columns, strict=True)
        }


# What test.py writes beside a checkpoint, after its stem.
TEST_OUTPUTS = ("_test.json", "_confusion.png", "_report.png", "_predictions.csv", "_scores.npz")
