"""Apply a function to many items by several processes, in order and with bounded memory."""

import mmap
import multiprocessing
import os
import pickle
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from threading import Thread
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK = 32  # items that a process takes at a time
SHARED_BYTES = 8 << 20  # of memory for the arrays of a chunk; those of a larger chunk use a pipe


def keep_freed_memory() -> None:
    """Make glibc keep the memory of each file for the next file, instead of returning it to the
    system page by page, which takes a fifth of the processor time of a conversion."""
    bytearray(31 << 20)  # it does so once a block of this size was freed


def in_parallel(
    function: Callable[[Item], Result], items: Sequence[Item], jobs: int, chunk: int | None = None
) -> Iterator[Result]:
    """Yield function(item) for each item, in order, computed by up to `jobs` processes.

    At most 4 chunks per process are in progress or waiting to be yielded, so memory does not grow with
    the number of items. With few items, or one job, everything is computed in this process.

    Arrays are passed to this process in shared memory, where the system has it (Linux), and copied
    from there. Reading NTU files with pipes alone takes 7 % more processor time.
    """
    keep_freed_memory()
    chunk = chunk or CHUNK
    jobs = min(jobs, len(items) // (2 * chunk), 61)  # (61: the limit of Windows)
    if jobs <= 1:
        yield from map(function, items)
        return
    linux = sys.platform == "linux"
    slots = [mmap.mmap(-1, SHARED_BYTES) if linux else None for _ in range(4 * jobs)]
    context = multiprocessing.get_context("fork" if linux else "spawn")
    pool = ProcessPoolExecutor(jobs, context, _start_worker, (slots,) if linux else (None,))
    pending: deque[tuple[Future, mmap.mmap | None]] = deque()
    try:
        for number, start in enumerate(range(0, len(items), chunk)):
            slot = number % len(slots)
            if len(pending) == len(slots):  # the oldest one used this slot
                yield from _receive(*pending.popleft())
            task = pool.submit(_call_each, function, items[start : start + chunk], slot)
            pending.append((task, slots[slot]))
        while pending:
            yield from _receive(*pending.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _receive(task: Future, shared: mmap.mmap | None) -> list:
    """The results of a chunk, in memory of their own."""
    content, sizes = task.result()
    buffers, start = [], 0
    for size in sizes:
        buffers.append(bytearray(memoryview(shared)[start : start + size]))
        start += size
    return pickle.loads(content, buffers=buffers)


_slots: Sequence[mmap.mmap] | None = None  # in a worker process: the shared memory


def _call_each(
    function: Callable[[Item], Result], items: Sequence[Item], slot: int
) -> tuple[bytes, list[int]]:
    """The results for a chunk, pickled; the data of arrays is in the shared memory, in pieces of the
    returned sizes, if there is any and if it is large enough."""
    results = [function(item) for item in items]
    if _slots:
        buffers: list[pickle.PickleBuffer] = []
        content = pickle.dumps(results, 5, buffer_callback=buffers.append)
        pieces = [buffer.raw() for buffer in buffers]
        sizes = [piece.nbytes for piece in pieces]
        if sum(sizes) <= SHARED_BYTES:
            shared = _slots[slot]
            shared.seek(0)
            for piece in pieces:
                shared.write(piece)
            return content, sizes
    return pickle.dumps(results, 5), []


def _start_worker(slots: Sequence[mmap.mmap] | None) -> None:
    """Leave Ctrl-C to the parent process, and end when the parent is killed."""
    global _slots
    _slots = slots
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
