"""The checkpoint format: write, read, rebuild a network from it."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from extensions import ExtensionConfig
from model import NetworkConfig, TwoStreamRNN
from skeletons.layout import Layout
from training.distributed import get_rank, get_world_size

VERSION = 4  # of the checkpoint format


def save_checkpoint(path: str | Path, contents: dict[str, Any]) -> None:
    """Write a checkpoint, a dict of tensors and plain values. An interrupted write leaves the file that
    was there before."""
    partial = Path(f"{path}.partial")
    torch.save({"version": VERSION} | contents, partial)
    os.replace(partial, path)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of train.py into CPU memory, without running code from it (weights_only).

    Raises FileNotFoundError or ValueError, with what to do on the message's second line.
    """
    if Path(path).is_dir():
        raise FileNotFoundError(f"{path} is a folder\ngive a checkpoint in it: {path}/best.pt")
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is missing\ntrain.py writes checkpoints")
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
        version = contents["version"]
    except Exception as error:  # corrupt files raise nearly anything
        raise ValueError(
            f"{path} is not a checkpoint of train.py, or is corrupt\ntrain again"
        ) from error
    if version != VERSION:
        raise ValueError(
            f"{path} has version {version} of the checkpoint format, this code reads {VERSION}\n"
            "train again, or use the code that it was trained with"
        )
    return contents


def build_model(checkpoint: dict[str, Any]) -> TwoStreamRNN:
    """The trained network, rebuilt from nothing but the checkpoint."""
    options = checkpoint["model_args"]
    model = TwoStreamRNN(
        Layout.from_dict(checkpoint["layout"]),
        len(checkpoint["classes"]),
        NetworkConfig(**options["network"]),
        ExtensionConfig(**options["extensions"]),
        channels=options["channels"],
    )
    try:
        model.load_state_dict(checkpoint["model"])
    except RuntimeError as error:
        raise ValueError(
            f"the checkpoint's weights belong to another version of this code\ntrain again ({error})"
        ) from error
    return model


class TrainingState:
    """Everything that changes while a network is trained.

    order  generator that decides when a clip comes up, and how it is augmented
    """

    def __init__(
        self,
        model: TwoStreamRNN,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler,
        order: torch.Generator,
    ) -> None:
        self.model, self.optimizer, self.scheduler = model, optimizer, scheduler
        self.order = order

    def state_dict(self) -> dict[str, Any]:
        """The state, for a checkpoint. All processes that train together must call this."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "rng_states": rng_states(),
            "sampler": self.order.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to what `state_dict` returned; a checkpoint may hold more."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.order.set_state(state["sampler"])
        states = state["rng_states"]
        set_rng_state(states[get_rank() % len(states)])


def rng_states() -> list[dict[str, torch.Tensor]]:
    """States of torch's global random number generators (CPU and current GPU), one dict per process."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    states = [state] * get_world_size()
    if get_world_size() > 1:
        distributed.all_gather_object(states, state)
    return states


def set_rng_state(state: dict[str, torch.Tensor]) -> None:
    """Restore one of the states that `rng_states` returned."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
