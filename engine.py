"""Train for an epoch, evaluate, save and load checkpoints. Takes model and data as arguments."""

import atexit
import multiprocessing
import os
import platform
import signal
import sys
from multiprocessing import resource_tracker
from pathlib import Path

import torch
from torch import distributed
from torch.nn.functional import cross_entropy, nll_loss
from torch.utils.data import DataLoader
from tqdm import tqdm

from model import Scores, TwoStreamRNN, check
from skeleton import Layout

# The system hands out large tensors in large pages: on a CPU a third of the time of a training step.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

VERSION = 3  # of the checkpoint format
STREAMS = ("temporal", "spatial", "fused")


def open_device(name=""):
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


# --- Batches ------------------------------------------------------------------------------------------


class Sampler:
    """Which clips make up which batch: an iterable of (clip numbers, seed of the batch's transforms).

    clips       clip numbers
    batch_size  clips of a batch, over all processes that train together
    generator   shuffles the clips and draws the seeds, each epoch anew; None: in order, seeds None
    shuffle     False: it draws the seeds only

    The generator alone decides which clips are fed when, and, for batches made on a CPU, how they are
    transformed, whatever the number of worker processes; a GPU draws other numbers from the same seeds.
    """

    def __init__(self, clips, batch_size, generator=None, shuffle=True):
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: must be at least 1")
        self.clips, self.batch_size = torch.as_tensor(clips, dtype=torch.int64), batch_size
        self.generator, self.shuffle = generator, shuffle
        self.done = 0  # batches that the next epoch leaves out, because they are trained on already

    def __len__(self):
        return -(-len(self.clips) // self.batch_size)

    def sizes(self):
        """Clips of each batch, over all processes."""
        starts = range(0, len(self.clips), self.batch_size)
        return [min(self.batch_size, len(self.clips) - start) for start in starts]

    def __iter__(self):
        clips, seeds, rank = self.clips, [None] * len(self), parallel_rank()
        if self.generator:
            if self.shuffle:
                clips = clips[torch.randperm(len(clips), generator=self.generator)]
            seeds = torch.randint(2**62, (len(self),), generator=self.generator) + rank
            seeds = seeds.tolist()
        batches = list(zip(clips.split(self.batch_size), seeds, strict=False))[self.done :]
        for batch, seed in batches:
            # A process without a share runs along with a clip that does not count.
            yield batch[mine(len(batch))] if rank < len(batch) else batch[:1], seed


def mine(size):
    """The share of a batch of `size` clips that this process has."""
    return slice(parallel_rank(), size, parallel_size())


class Batches:
    """Batches (Bodies, labels) of a Feeder, made one after the other where its data lies."""

    def __init__(self, feeder, sampler):
        self.feeder, self.sampler = feeder, sampler

    def __len__(self):
        return len(self.sampler)

    def __getitem__(self, item):
        """(clip numbers, seed) -> (Bodies, labels)."""
        clips, seed = item
        generator = None
        if seed is not None:
            generator = torch.Generator(self.feeder.label.device).manual_seed(seed)
        return self.feeder.bodies(clips, generator)

    def __iter__(self):
        return map(self.__getitem__, self.sampler)


def loader(feeder, clips, batch_size, generator=None, workers=0, device="cpu", shuffle=True):
    """Batches over the clip numbers `clips` of a Feeder; by worker processes of a DataLoader if there
    are to be any. generator, shuffle: as in `Sampler`."""
    batches = Batches(feeder, Sampler(clips, batch_size, generator, shuffle))
    if not workers:
        return batches
    pin = torch.device(device).type == "cuda"
    return Workers(
        Batches(feeder, None),  # (spawned workers could not read the generator)
        sampler=batches.sampler,
        batch_size=None,
        num_workers=workers,
        multiprocessing_context="fork" if sys.platform == "linux" else "spawn",
        pin_memory=pin,
        worker_init_fn=ignore_signals,
        generator=torch.Generator(),  # (it would take a number from the global one each epoch)
    )


STOPS = (signal.SIGINT, signal.SIGTERM)


class Workers(DataLoader):
    """A DataLoader whose workers survive a Ctrl-C or SIGTERM to the whole group: the main process ends
    them."""

    def __iter__(self):
        if not hasattr(signal, "pthread_sigmask"):  # Windows
            return super().__iter__()
        if self.multiprocessing_context.get_start_method() == "spawn":
            resource_tracker.ensure_running()  # (to start it later would let the signals through)
        held = signal.pthread_sigmask(signal.SIG_BLOCK, ())  # (a signal may interrupt the next call)
        try:
            # Workers inherit this, so that none is killed before it ignores them.
            signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
            return super().__iter__()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)


def ignore_signals(_):
    """In a worker: that the run is to stop is the main process's business."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)


@atexit.register
def end_workers():
    """Kill the workers that an error left: they ignore SIGTERM, which is all that multiprocessing would
    send before it waits for them for ever."""
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # (a DataLoader raises an error when one ends)
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()


# --- Several processes (torchrun) ---------------------------------------------------------------------


def parallel_size():
    """Processes that train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def parallel_rank():
    """Which of them this one is, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def join_parallel(device):
    """Join the processes that torchrun started, if it did."""
    if "LOCAL_RANK" not in os.environ:
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Its functions take the group they find as a default. Imported later, by DistributedDataParallel,
    # they would hold it to the very end, and threads of it that drop a tensor while Python shuts down
    # abort the process.
    from torch.distributed import nn  # noqa: F401

    # CPU tensors go over gloo, so that the processes can agree without waiting for their GPUs.
    distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")


def leave_parallel():
    """All processes part, if there are several; the network has to be gone by then.

    DistributedDataParallel, freed after the group, would end the group's threads without letting go of
    Python's lock, and wait for ever for a thread that needs it to drop a tensor.
    """
    if distributed.is_initialized():
        distributed.destroy_process_group()


def agreed(wish):
    """Whether any of the processes wishes it."""
    wish = torch.tensor(int(bool(wish)))
    if parallel_size() > 1:
        distributed.all_reduce(wish, distributed.ReduceOp.MAX)
    return bool(wish)


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
    if progress and parallel_rank() == 0:
        metrics.sums += progress["sums"].to(device)
    sizes = batches.sampler.sizes()
    every = 1 if parallel_size() == 1 else 16
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
        scores, label = Scores(*(stream[:count].float() for stream in scores)), label[:count]
        # The mean over the clips of all processes; their gradients are averaged.
        loss = sum(
            cross_entropy(stream, label, reduction="sum", label_smoothing=label_smoothing)
            for stream in scores
        )
        loss = loss * (parallel_size() / sizes[step])
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
        if stop and done % every == 0 and done < len(sizes) and agreed(stop()):
            break
    if parallel_size() > 1:
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
    if parallel_size() > 1:  # the first process's running statistics, which are those that are saved
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
        posteriors.append(metrics.add(Scores(*(stream[:count] for stream in scores)), labels[-1]))
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
        if parallel_size() > 1:
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

# --- Checkpoints --------------------------------------------------------------------------------------


def save_checkpoint(path, contents):
    """Write a checkpoint, a dict of tensors and plain values; complete or not at all."""
    partial = Path(f"{path}.partial")
    torch.save({"version": VERSION} | contents, partial)
    os.replace(partial, path)


def load_checkpoint(path):
    """Read a checkpoint of `train.py` into the CPU's memory, without running code from it.

    Raises FileNotFoundError or ValueError with the remedy.
    """
    if Path(path).is_dir():
        raise FileNotFoundError(f"{path} is a folder: give a checkpoint in it, {path}/best.pt")
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is missing: python train.py makes checkpoints")
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
        version = contents["version"]
    except Exception as error:  # damaged files raise nearly anything
        raise ValueError(f"{path} is not a checkpoint of train.py, or damaged") from error
    if version != VERSION:
        raise ValueError(f"{path} has version {version}, this code reads {VERSION}: train again")
    return contents


def build_model(checkpoint):
    """The trained model of a checkpoint, rebuilt from nothing but the checkpoint."""
    layout = Layout.from_dict(checkpoint["layout"])
    model = TwoStreamRNN(layout, len(checkpoint["classes"]), **checkpoint["network"])
    try:
        model.load_state_dict(checkpoint["model"])
    except RuntimeError as error:
        raise ValueError(f"weights of another version of this code, train again: {error}") from error
    return model


def random_states():
    """States of torch's global random number generators, CPU and current GPU, for a checkpoint: one of
    each process that trains."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    states = [state] * parallel_size()
    if parallel_size() > 1:
        distributed.all_gather_object(states, state)
    return states


def set_random_state(state):
    """Restore one of what `random_states` returned."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
