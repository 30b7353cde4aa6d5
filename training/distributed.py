"""Several processes that train together (torchrun)."""

import os

import torch
from torch import distributed

# --- Several processes (torchrun) ---------------------------------------------------------------------


def get_world_size():
    """Processes that train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def get_rank():
    """Which of them this one is, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def init_distributed(device):
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


def destroy_distributed():
    """All processes part, if there are several; the network has to be gone by then.

    DistributedDataParallel, freed after the group, would end the group's threads without letting go of
    Python's lock, and wait for ever for a thread that needs it to drop a tensor.
    """
    if distributed.is_initialized():
        distributed.destroy_process_group()


def any_rank(wish):
    """Whether any of the processes wishes it."""
    wish = torch.tensor(int(bool(wish)))
    if get_world_size() > 1:
        distributed.all_reduce(wish, distributed.ReduceOp.MAX)
    return bool(wish)
