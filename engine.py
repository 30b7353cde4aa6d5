"""Train for an epoch, evaluate, save and load checkpoints. Takes model and data as arguments."""

import os
import platform
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy, nll_loss
from torch.utils.data import BatchSampler, DataLoader, SubsetRandomSampler
from tqdm import tqdm

from model import TwoStreamRNN
from skeleton import Layout

VERSION = 1  # of the checkpoint format
STREAMS = ("temporal", "spatial", "fused")


def open_device(name=""):
    """A torch.device by name; "": the GPU when there is one. ValueError where it cannot be used."""
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device '{name}' cannot be used here ({reason}): try cpu") from error


def device_name(device):
    """What the device is called: the GPU's name, or the processor's kind."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def loader(feeder, clips, batch_size, shuffle, workers=0, device="cpu"):
    """A DataLoader over the clip numbers `clips` of a Feeder, which makes whole batches."""
    return DataLoader(
        feeder,
        sampler=BatchSampler(SubsetRandomSampler(clips) if shuffle else clips, batch_size, False),
        batch_size=None,
        num_workers=workers,  # not persistent: each epoch seeds them anew, so a resumed one can too
        pin_memory=torch.device(device).type == "cuda",
    )


def train_epoch(model, batches, optimizer, device, description=""):
    """One pass over the training clips; returns metrics (see `Metrics`) of the training scores.

    The loss is the sum of both streams' cross entropies: they share no weights, so this trains each
    alone, and only their posteriors are fused. Raises FloatingPointError when it is no longer finite.
    """
    model.train()
    metrics = Metrics(model)
    for data, label in tqdm(batches, description, leave=False, disable=None):
        data, label = data.to(device, non_blocking=True), label.to(device, non_blocking=True)
        scores = model(data)
        loss = cross_entropy(scores.temporal, label) + cross_entropy(scores.spatial, label)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        metrics.add(scores, label)
    results = metrics.results()
    if not all(torch.tensor(results[stream]["loss"]).isfinite() for stream in STREAMS):
        raise FloatingPointError("the training loss is not finite: lower the learning rate")
    return results


@torch.no_grad()
def evaluate(model, batches, device, description=""):
    """Score every clip once, in order. Returns (metrics, posteriors (N, 3, classes) of temporal,
    spatial and fused, labels (N,)), on the CPU."""
    model.eval()
    metrics, posteriors, labels = Metrics(model), [], []
    for data, label in tqdm(batches, description, leave=False, disable=None):
        label = label.to(device, non_blocking=True)
        scores = model(data.to(device, non_blocking=True))
        posteriors.append(metrics.add(scores, label))
        labels.append(label)
    return metrics.results(), torch.cat(posteriors).cpu(), torch.cat(labels).cpu()


class Metrics:
    """Accuracy, top-5 accuracy (shares of 1) and loss of the two streams and of their fusion:
    sums over clips, divided by the number of clips at the end."""

    def __init__(self, model):
        self.model = model
        self.sums, self.clips = 0, 0

    def add(self, scores, label):
        """Add a batch; returns its posteriors (N, 3, classes)."""
        with torch.no_grad():
            single = [stream.float().softmax(1) for stream in scores]
            posterior = torch.stack((*single, self.model.posterior(scores)), 1)
            target = label[:, None].expand(-1, len(STREAMS))
            best = posterior.topk(min(5, posterior.shape[2]), dim=2).indices
            hits = best == target[:, :, None]
            log = posterior.clamp(min=1e-12).log().transpose(1, 2)
            loss = nll_loss(log, target, reduction="none")
            batch = torch.stack((hits[:, :, 0], hits.any(2), loss)).double()
            self.sums = self.sums + batch.sum(1)
            self.clips += len(label)
        return posterior

    def results(self):
        """{"temporal": {"accuracy", "top5", "loss"}, "spatial": ..., "fused": ...}."""
        columns = (self.sums / self.clips).T.tolist()
        return {
            stream: dict(zip(("accuracy", "top5", "loss"), column, strict=True))
            for stream, column in zip(STREAMS, columns, strict=True)
        }


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
        reason = f"{type(error).__name__}: {error}".split("\n")[0][:80]
        raise ValueError(f"{path} is not a checkpoint of train.py ({reason})") from error
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


def random_state():
    """States of torch's global random number generators, CPU and current GPU, for a checkpoint."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state):
    """Restore what `random_state` returned."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
