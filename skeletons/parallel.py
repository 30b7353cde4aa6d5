"""Clips read by many processes at once, in order and within bounded memory."""

import mmap
import multiprocessing
import os
import signal
import sys
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from threading import Thread

import numpy as np

from skeletons.clip import Clip

CHUNK = 32  # items that a process takes at a time
SHARED = 8 << 20  # bytes of shared memory for the data of a chunk; the rest takes a pipe


def in_parallel(function, items, jobs, chunk=None):
    """Yield function(item) for each item, in order, computed by `jobs` processes; a few chunks are in
    flight, so memory does not grow with the number of items.

    The data of clips comes back in memory shared by the processes, where the system can do that, and
    is valid until the next item is asked for: through a pipe everything would take a tenth longer.
    """
    # Once it has freed so large a block, glibc keeps what is freed in place of giving each file's
    # arrays back to the system and asking for them again, page by page: a quarter of the time.
    bytearray(31 << 20)
    chunk = chunk or CHUNK
    jobs = min(jobs, len(items) // (2 * chunk), 61)  # (61: Windows)
    if jobs <= 1:
        yield from map(function, items)
        return
    slots = 4 * jobs  # chunks in flight
    forks = sys.platform == "linux"
    shared = [mmap.mmap(-1, SHARED) for _ in range(slots)] if forks else None  # no room until written
    context = multiprocessing.get_context("fork" if forks else "spawn")
    pool = ProcessPoolExecutor(jobs, context, _start_worker, (shared,))
    waiting = deque()

    def oldest():
        future, slot = waiting.popleft()
        for result in future.result():
            if isinstance(result, Clip) and isinstance(result.data, tuple):
                shape, offset = result.data
                result.data = np.ndarray(shape, np.float32, shared[slot], offset)
            yield result

    try:
        for number, start in enumerate(range(0, len(items), chunk)):
            if len(waiting) == slots:
                yield from oldest()
            slot = number % slots  # which is the oldest one's
            task = pool.submit(_call_each, function, items[start : start + chunk], slot)
            waiting.append((task, slot))
        while waiting:
            yield from oldest()
    finally:
        pool.shutdown(cancel_futures=True)


_shared = None  # in a worker process: the memory shared with its parent, a slot a chunk


def _call_each(function, items, slot):
    """[function(item), ...]; the data of clips goes into shared memory while there is room, and the
    clip holds (shape, offset) instead."""
    results, offset = [function(item) for item in items], 0
    for result in results:
        if _shared and isinstance(result, Clip) and offset + result.data.nbytes <= SHARED:
            data, result.data = result.data, (result.data.shape, offset)
            np.ndarray(data.shape, np.float32, _shared[slot], offset)[...] = data
            offset += data.nbytes
    return results


def _start_worker(shared):
    """Ctrl-C is the parent's business; and a worker whose parent was killed ends too."""
    global _shared
    _shared = shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
