"""Several processes that train together, started by torchrun."""

import os
import sys
from collections.abc import Callable

import torch
from torch import distributed
from torch.distributed.elastic.multiprocessing.errors import get_error_handler


def get_world_size() -> int:
    """Number of processes that train together; 1 without torchrun."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def get_rank() -> int:
    """Number of this process among them, from 0. The process of rank 0 writes the files."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_launched() -> bool:
    """Whether torchrun, or another launcher of torch, started this process and others. A LOCAL_RANK
    alone may be left over in the environment."""
    names = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return all(map(os.environ.get, names)) and os.environ["WORLD_SIZE"] != "1"


def require_one_process(script: str) -> None:
    """SystemExit if torchrun started this script, whose processes would all do the same work."""
    if is_launched():
        raise SystemExit(f"{script}: it runs in one process, not under torchrun\nuse: python {script}")


def init_distributed(device: torch.device) -> None:
    """Join the process group of torchrun, if there is one and this process is not in it yet. OSError if
    the processes cannot connect."""
    if not is_launched() or distributed.is_initialized():
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Imported before the group exists. DistributedDataParallel imports this module too, and its
    # functions keep the current group as a default argument. The group's threads would then live until
    # Python shuts down, and a thread that frees a tensor at that moment aborts the process.
    from torch.distributed import nn  # noqa: F401

    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    found = ", ".join(f"{name}={os.environ[name]}" for name in names)
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # not of torchrun: the variables may be left over
        print(f"waiting for the other processes ({found}); for one, unset LOCAL_RANK", file=sys.stderr)
    # CPU tensors use gloo, so that the processes can agree on something without waiting for their GPUs.
    try:
        distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        raise OSError(
            f"the processes cannot connect ({found}): {str(error).splitlines()[0]}\n"
            "start them with torchrun; for one process, unset LOCAL_RANK"
        ) from error


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


class OtherRankFailed(Exception):
    """Another process ends with an error, and says which."""


def on_first_rank(function: Callable[..., None], *arguments: object) -> None:
    """Call a function, which writes files, in the process of rank 0 only. All processes must call this.

    What the function raises is raised there, and OtherRankFailed in all other processes.
    """
    failed = True
    try:
        if get_rank() == 0:
            function(*arguments)
        failed = False
    finally:
        failed = any_rank(failed)
    if failed:
        raise OtherRankFailed


def record_error(message: str) -> None:
    """Tell torchrun, if it started this process, why it fails: then its last lines have the reason."""
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        try:
            raise SystemExit(message)
        except SystemExit as error:
            get_error_handler().record_exception(error)
