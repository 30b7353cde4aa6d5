"""The checkpoint format: write, read, rebuild a network from it."""

import io
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from extensions import ExtensionConfig
from model import NetworkConfig, TwoStreamRNN
from skeletons.layout import Layout
from skeletons.output import write_partial
from skeletons.preprocess import Preprocess
from training.distributed import get_rank, get_world_size
from training.released import find_checkpoint, released_names, usage_hint, verify

VERSION = 4  # of the checkpoint format
# What a network is rebuilt from, and its input prepared.
REQUIRED = {"model", "model_args", "layout", "classes", "preprocessing", "config", "epoch"}


def save_checkpoint(path: str | Path, contents: dict[str, Any]) -> None:
    """Write a checkpoint, a dict of tensors and plain values. A write that is interrupted or fails
    leaves the file that was there before. Raises OSError, for example for a full disk."""
    os.replace(write_partial(path, to_bytes(contents)), path)


def to_bytes(contents: dict[str, Any]) -> bytes:
    """The bytes of a checkpoint file. (Where torch writes a file itself, errors have no reason.)"""
    buffer = io.BytesIO()
    torch.save({"version": VERSION} | contents, buffer)
    return buffer.getvalue()


def load_checkpoint(source: str | Path) -> dict[str, Any]:
    """Read a checkpoint into CPU memory, without running code from it (weights_only).

    source  a path, the name of a released network, or an address (released.py); weights are float16 in
            some released files
    Raises OSError or ValueError, with what to do on the message's second line.
    """
    path = find_checkpoint(source)
    if path.is_dir():
        raise FileNotFoundError(f"{path} is a folder\ngive a checkpoint in it: {path}/best.pt")
    if not path.is_file():
        released = f"; released networks: {', '.join(released_names()) or 'none'}"
        raise FileNotFoundError(f"{path} is missing\ntrain.py writes checkpoints{released}")
    verify(path)
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
        version, missing = contents["version"], REQUIRED - contents.keys()
    except (OSError, MemoryError):
        raise
    except Exception as error:  # corrupt files raise nearly anything
        raise ValueError(
            f"{path} is not a checkpoint of train.py, or is corrupt\n{usage_hint(path)}"
        ) from error
    if version != VERSION:
        raise ValueError(
            f"{path} has version {version} of the checkpoint format, this code reads {VERSION}\n"
            "train again, or use the code that it was trained with"
        )
    if missing:
        raise ValueError(
            f"{path} is not a checkpoint of train.py: {', '.join(sorted(missing))} missing\ntrain again"
        )
    return contents


def known_settings(kind: type, stored: dict[str, Any]) -> dict[str, Any]:
    """Stored settings without those that were removed from the code, and were off. ValueError for one
    that was not."""
    known = {field.name for field in fields(kind)}
    if removed := [name for name, value in stored.items() if value and name not in known]:
        raise ValueError(
            "the checkpoint was made by another version of this code, which had the settings "
            f"{', '.join(removed)}\ntrain again, or use the code that it was trained with"
        )
    return {name: value for name, value in stored.items() if name in known}


def build_model(checkpoint: dict[str, Any]) -> TwoStreamRNN:
    """The trained network in evaluation mode, in float32, from nothing but the checkpoint."""
    options = checkpoint["model_args"]
    model = TwoStreamRNN(
        Layout.from_dict(checkpoint["layout"]),
        len(checkpoint["classes"]),
        NetworkConfig(**known_settings(NetworkConfig, options["network"])),
        ExtensionConfig(**known_settings(ExtensionConfig, options["extensions"])),
        channels=options["channels"],
        opposite_axes=options.get("opposite_axes", False),
    )
    try:
        model.load_state_dict(checkpoint["model"])
    except RuntimeError as error:
        raise ValueError(
            f"the checkpoint's weights belong to another version of this code\ntrain again ({error})"
        ) from error
    return model.eval()


def build_preprocess(checkpoint: dict[str, Any]) -> Preprocess:
    """What prepares clips for the network, as in its test. ValueError for options that do not fit."""
    layout, channels = Layout.from_dict(checkpoint["layout"]), checkpoint["model_args"]["channels"]
    return Preprocess(layout, channels, **checkpoint["preprocessing"]).eval()


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
        scaler: torch.amp.GradScaler,
    ) -> None:
        self.model, self.optimizer, self.scheduler = model, optimizer, scheduler
        self.order, self.scaler = order, scaler
        self.device = next(model.parameters()).device

    def state_dict(self) -> dict[str, Any]:
        """The state, for a checkpoint. All processes that train together must call this."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng_states": rng_states(self.device),
            "sampler": self.order.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to what `state_dict` returned; a checkpoint may hold more.

        Raises ValueError for a checkpoint without the state of the optimizer, or of another one.
        """
        if "optimizer" not in state:
            raise ValueError(
                "the checkpoint holds no state of the optimizer, as best.pt\nresume from a last.pt"
            )
        groups = [
            [len(group["params"]) for group in optimizer["param_groups"]]
            for optimizer in (state["optimizer"], self.optimizer.state_dict())
        ]
        if groups[0] != groups[1]:
            raise ValueError(
                "the run was started by an earlier version of this code, which applied weight decay to "
                "biases and normalization layers, too\ntrain again, or resume with that version"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.scaler.load_state_dict(state.get("scaler", {}))
        self.order.set_state(state["sampler"])
        states = state["rng_states"]
        set_rng_state(states[get_rank() % len(states)], self.device)


def rng_states(device: torch.device) -> list[dict[str, torch.Tensor]]:
    """States of torch's global random number generators, of the CPU and of the device if that is a GPU,
    one dict per process."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    states = [state] * get_world_size()
    if get_world_size() > 1:
        distributed.all_gather_object(states, state)
    return states


def set_rng_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    """Restore one of the states that `rng_states` returned."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
