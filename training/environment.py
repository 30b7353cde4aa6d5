"""Environment variables that torch and its OpenMP library read when they are loaded or soon after, and
the CPUs that this process may use. Scripts import this module before torch; variables that are already
set stay."""

import math
import os
import re
from collections.abc import MutableMapping
from pathlib import Path, PurePosixPath

SPIN_COUNT = 1_000
BLOCK_TIME = 1  # milliseconds


def cpu_quota(root: Path = Path("/")) -> float:
    """How many CPUs Linux control groups (containers) let this process use, such as 1.5; inf: no limit.
    root: the folder of /proc and /sys."""
    quota = math.inf
    for controllers, path in re.findall(r"^\d+:([^:]*):(/.*)$", _text(root / "proc/self/cgroup"), re.M):
        if not controllers:  # version 2: "200000 100000", or "max 100000"; microseconds
            mount, names = root / "sys/fs/cgroup", ["cpu.max"]
        elif "cpu" in controllers.split(","):  # version 1: a file of each; -1 for no limit
            mount, names = root / "sys/fs/cgroup/cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        # A limit holds for all groups inside. In a container, the outer ones may not be there to read.
        for group in (PurePosixPath(path), *PurePosixPath(path).parents):
            folder = mount / group.relative_to("/")
            limit = re.fullmatch(r"(\d+)\s+([1-9]\d*)\s*", " ".join(_text(folder / n) for n in names))
            if limit:
                quota = min(quota, int(limit[1]) / int(limit[2]))
    return quota


def _text(path: Path) -> str:
    """The content of a file, or "" if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def allowed_cpus() -> int:
    """The CPUs that the operating system may run this process on."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usable_cpus() -> int:
    """How many CPUs this process can keep busy: those that it may run on, at most its quota."""
    return max(1, int(min(allowed_cpus(), cpu_quota())))


def set_variables(environment: MutableMapping[str, str]) -> None:
    """Set what is not set in an environment.

    GOMP_SPINCOUNT, KMP_BLOCKTIME
        Threads of OpenMP wait for each other in a loop before they sleep. If another process has the
        CPU of the thread that they wait for, the loop only keeps CPUs busy. libgomp (torch on Linux)
        counts rounds of the loop, 300,000 by default: manual of libgomp, "GOMP_SPINCOUNT". libomp and
        libiomp5 (Windows, macOS, conda) take milliseconds, 200 by default:
        https://openmp.llvm.org/design/Runtimes.html. Either has precedence over OMP_WAIT_POLICY, so
        neither is set where that is.
    OMP_NUM_THREADS
        OpenMP counts the CPUs that a process may run on, but does not read the quota of a container.
    THP_MEM_ALLOC_ENABLE
        Linux then gives torch large tensors in large pages, which saves a third of the time of a step
        on a CPU.
    """
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", str(SPIN_COUNT))
        environment.setdefault("KMP_BLOCKTIME", str(BLOCK_TIME))
    if usable_cpus() < allowed_cpus():
        environment.setdefault("OMP_NUM_THREADS", str(usable_cpus()))
    environment.setdefault("THP_MEM_ALLOC_ENABLE", "1")


GIVEN = dict(os.environ)  # what the user has set
set_variables(os.environ)
