"""Save and load checkpoints, and rebuild a model from one."""

import os
from pathlib import Path

import torch
from torch import distributed

from model import TwoStreamRNN
from skeletons.layout import Layout
from training.distributed import get_world_size

VERSION = 3  # of the checkpoint format

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


def rng_states():
    """States of torch's global random number generators, CPU and current GPU, for a checkpoint: one of
    each process that trains."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    states = [state] * get_world_size()
    if get_world_size() > 1:
        distributed.all_gather_object(states, state)
    return states


def set_rng_state(state):
    """Restore one of what `rng_states` returned."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
