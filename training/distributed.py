"""Several processes that train together, started by torchrun."""

import os

import torch
from torch import distributed


def get_world_size() -> int:
    """Number of processes that train together; 1 without torchrun."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def get_rank() -> int:
    """Number of this process among them, from 0. The process of rank 0 writes the files."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def init_distributed(device: torch.device) -> None:
    """Join the process group of torchrun, if there is one and this process is not in it yet."""
    if "LOCAL_RANK" not in os.environ or distributed.is_initialized():
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Imported before the group exists. DistributedDataParallel imports this module too, and its
    # functions keep the current group as a default argument. The group's threads would then live until
    # Python shuts down, and a thread that frees a tensor at that moment aborts the process.
    from torch.distributed import nn  # noqa: F401

    # CPU tensors use gloo, so that the processes can agree on something without waiting for their GPUs.
    distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")


def destroy_distributed() -> None:
    """Leave the process group, if there is one. DistributedDataParallel must be freed before.

    Freed after the group, it would end the group's threads while it holds Python's lock, and wait for
    ever for a thread that needs the lock to free a tensor.
    """
    if distributed.is_initialized():
        distributed.destroy_process_group()


def any_rank(condition: bool) -> bool:
    """Whether the condition holds in any of the processes. All of them must call this."""
    holds = torch.tensor(int(condition))
    if get_world_size() > 1:
        distributed.all_reduce(holds, distributed.ReduceOp.MAX)
    return bool(holds)
