"""Environment variables that torch reads when it is loaded. Commands import this module before torch.

Each keeps a value that the user has set. On Windows and macOS the first two do nothing.
"""

import os
from pathlib import Path


def available_cores(cgroup: str = "/sys/fs/cgroup/cpu.max") -> int:
    """Number of cores that this process may use: those of its affinity (taskset, a batch system), or
    fewer if its cgroup (a container) has a limit."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        limit, period = map(int, Path(cgroup).read_text().split())
    except (OSError, ValueError):  # no such file; "max": no limit
        return cores
    return max(1, min(cores, limit // period))


# The threads of a matrix product wait for each other. By default they do so in a loop, of which another
# process on the same core knows nothing.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Linux then hands out large tensors in large pages, which saves a third of the time of a step on a CPU.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
os.environ.setdefault("OMP_NUM_THREADS", str(available_cores()))
