"""Make batches of clips, where the data is or by worker processes; stop signals of the workers."""

import atexit
import multiprocessing
import signal
import sys
from collections.abc import Iterator, Sequence
from multiprocessing import resource_tracker

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from feeder import Feeder
from skeletons.batch import BodyBatch
from training.distributed import get_rank, get_world_size

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Sampler:
    """Decides which clips make up which batch. Yields (clip numbers, seed of the batch's augmentation).

    clips       clip numbers
    batch_size  clips in a batch, over all processes that train together
    generator   shuffles the clips and draws the seeds, anew in each epoch; None: in order, no seeds
    shuffle     False: the generator draws the seeds only

    The generator alone decides when a clip comes up and, for batches made on a CPU, how it is
    augmented, whatever the number of worker processes. A GPU draws other numbers from the same seeds.
    """

    def __init__(
        self,
        clips: Sequence[int],
        batch_size: int,
        generator: torch.Generator | None = None,
        shuffle: bool = True,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: must be at least 1")
        self.clips, self.batch_size = torch.as_tensor(clips, dtype=torch.int64), batch_size
        self.generator, self.shuffle = generator, shuffle

    def __len__(self) -> int:
        return -(-len(self.clips) // self.batch_size)

    def sizes(self) -> list[int]:
        """Number of clips of each batch, over all processes."""
        starts = range(0, len(self.clips), self.batch_size)
        return [min(self.batch_size, len(self.clips) - start) for start in starts]

    def __iter__(self) -> Iterator[tuple[Tensor, int | None]]:
        clips, seeds, rank = self.clips, [None] * len(self), get_rank()
        if self.generator:
            if self.shuffle:
                clips = clips[torch.randperm(len(clips), generator=self.generator)]
            seeds = torch.randint(2**62, (len(self),), generator=self.generator) + rank
            seeds = seeds.tolist()
        for batch, seed in zip(clips.split(self.batch_size), seeds, strict=False):
            # A process without a share computes one clip, which does not count.
            yield batch[shard(len(batch))] if rank < len(batch) else batch[:1], seed


def shard(size: int) -> slice:
    """This process's share of a batch of `size` clips."""
    return slice(get_rank(), size, get_world_size())


class Batches:
    """Batches (BodyBatch, labels (N,)) of a Feeder, made one after the other where its data is.

    sampler  None: only for the worker processes, which index this by what the Sampler yields
    """

    def __init__(self, feeder: Feeder, sampler: Sampler | None) -> None:
        self.feeder, self.sampler = feeder, sampler

    def __len__(self) -> int:
        return len(self.sampler)

    def __getitem__(self, item: tuple[Tensor, int | None]) -> tuple[BodyBatch, Tensor]:
        """(clip numbers, seed) -> (BodyBatch, labels)."""
        clips, seed = item
        generator = None
        if seed is not None:
            generator = torch.Generator(self.feeder.label.device).manual_seed(seed)
        return self.feeder.bodies(clips, generator)

    def __iter__(self) -> Iterator[tuple[BodyBatch, Tensor]]:
        return map(self.__getitem__, self.sampler)


class SignalSafeLoader(DataLoader):
    """A DataLoader whose workers survive a Ctrl-C or SIGTERM that is sent to the whole process group.
    The main process decides when to stop, and ends them."""

    def __iter__(self) -> Iterator[tuple[BodyBatch, Tensor]]:
        if not hasattr(signal, "pthread_sigmask"):  # Windows
            return super().__iter__()
        if self.multiprocessing_context.get_start_method() == "spawn":
            resource_tracker.ensure_running()  # started later, it would reset the signal mask
        # Read first: a signal may interrupt the call within `try`.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        try:
            # The workers inherit the blocked signals, so that none is killed before it ignores them.
            signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
            return super().__iter__()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


BatchLoader = Batches | SignalSafeLoader


def make_loader(
    feeder: Feeder,
    clips: Sequence[int],
    batch_size: int,
    generator: torch.Generator | None = None,
    num_workers: int = 0,
    device: torch.device | str = "cpu",
    shuffle: bool = True,
) -> BatchLoader:
    """Batches (BodyBatch, labels) over the clip numbers `clips` of a Feeder.

    generator, shuffle  as in `Sampler`
    num_workers         processes that make the batches; 0: they are made here, where the data is
    device              where the batches will be used: memory is pinned for a GPU
    """
    batches = Batches(feeder, Sampler(clips, batch_size, generator, shuffle))
    if not num_workers:
        return batches
    return SignalSafeLoader(
        Batches(feeder, None),  # a generator cannot be pickled for spawned workers
        sampler=batches.sampler,
        batch_size=None,
        num_workers=num_workers,
        multiprocessing_context="fork" if sys.platform == "linux" else "spawn",
        pin_memory=torch.device(device).type == "cuda",
        worker_init_fn=ignore_stop_signals,
        generator=torch.Generator(),  # the default would draw from the global generator in each epoch
    )


def ignore_stop_signals(_: int) -> None:
    """Called in each worker process when it starts."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@atexit.register
def kill_workers() -> None:
    """Kill workers that are left after an error. They ignore SIGTERM, which is all that multiprocessing
    sends before it waits for them for ever."""
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # DataLoader's handler raises when a worker ends
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()
