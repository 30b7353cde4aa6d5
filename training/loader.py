"""Batches of clips, made where the data is or by worker processes."""

import atexit
import multiprocessing
import signal
import sys
from multiprocessing import resource_tracker

import torch
from torch.utils.data import DataLoader

from training.distributed import get_rank, get_world_size

# --- Batches ------------------------------------------------------------------------------------------


class Sampler:
    """Which clips make up which batch: an iterable of (clip numbers, seed of the batch's transforms).

    clips       clip numbers
    batch_size  clips of a batch, over all processes that train together
    generator   shuffles the clips and draws the seeds, each epoch anew; None: in order, seeds None
    shuffle     False: it draws the seeds only

    The generator alone decides which clips are fed when, and, for batches made on a CPU, how they are
    transformed, whatever the number of worker processes; a GPU draws other numbers from the same seeds.
    """

    def __init__(self, clips, batch_size, generator=None, shuffle=True):
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: must be at least 1")
        self.clips, self.batch_size = torch.as_tensor(clips, dtype=torch.int64), batch_size
        self.generator, self.shuffle = generator, shuffle
        self.done = 0  # batches that the next epoch leaves out, because they are trained on already

    def __len__(self):
        return -(-len(self.clips) // self.batch_size)

    def sizes(self):
        """Clips of each batch, over all processes."""
        starts = range(0, len(self.clips), self.batch_size)
        return [min(self.batch_size, len(self.clips) - start) for start in starts]

    def __iter__(self):
        clips, seeds, rank = self.clips, [None] * len(self), get_rank()
        if self.generator:
            if self.shuffle:
                clips = clips[torch.randperm(len(clips), generator=self.generator)]
            seeds = torch.randint(2**62, (len(self),), generator=self.generator) + rank
            seeds = seeds.tolist()
        batches = list(zip(clips.split(self.batch_size), seeds, strict=False))[self.done :]
        for batch, seed in batches:
            # A process without a share runs along with a clip that does not count.
            yield batch[mine(len(batch))] if rank < len(batch) else batch[:1], seed


def mine(size):
    """The share of a batch of `size` clips that this process has."""
    return slice(get_rank(), size, get_world_size())


class Batches:
    """Batches (BodyBatch, labels) of a Feeder, made one after the other where its data lies."""

    def __init__(self, feeder, sampler):
        self.feeder, self.sampler = feeder, sampler

    def __len__(self):
        return len(self.sampler)

    def __getitem__(self, item):
        """(clip numbers, seed) -> (BodyBatch, labels)."""
        clips, seed = item
        generator = None
        if seed is not None:
            generator = torch.Generator(self.feeder.label.device).manual_seed(seed)
        return self.feeder.bodies(clips, generator)

    def __iter__(self):
        return map(self.__getitem__, self.sampler)


def make_loader(feeder, clips, batch_size, generator=None, workers=0, device="cpu", shuffle=True):
    """Batches over the clip numbers `clips` of a Feeder; by worker processes of a DataLoader if there
    are to be any. generator, shuffle: as in `Sampler`."""
    batches = Batches(feeder, Sampler(clips, batch_size, generator, shuffle))
    if not workers:
        return batches
    pin = torch.device(device).type == "cuda"
    return SignalSafeLoader(
        Batches(feeder, None),  # (spawned workers could not read the generator)
        sampler=batches.sampler,
        batch_size=None,
        num_workers=workers,
        multiprocessing_context="fork" if sys.platform == "linux" else "spawn",
        pin_memory=pin,
        worker_init_fn=ignore_signals,
        generator=torch.Generator(),  # (it would take a number from the global one each epoch)
    )


STOPS = (signal.SIGINT, signal.SIGTERM)


class SignalSafeLoader(DataLoader):
    """A DataLoader whose workers survive a Ctrl-C or SIGTERM to the whole group: the main process ends
    them."""

    def __iter__(self):
        if not hasattr(signal, "pthread_sigmask"):  # Windows
            return super().__iter__()
        if self.multiprocessing_context.get_start_method() == "spawn":
            resource_tracker.ensure_running()  # (to start it later would let the signals through)
        held = signal.pthread_sigmask(signal.SIG_BLOCK, ())  # (a signal may interrupt the next call)
        try:
            # SignalSafeLoader inherit this, so that none is killed before it ignores them.
            signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
            return super().__iter__()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)


def ignore_signals(_):
    """In a worker: that the run is to stop is the main process's business."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)


@atexit.register
def end_workers():
    """Kill the workers that an error left: they ignore SIGTERM, which is all that multiprocessing would
    send before it waits for them for ever."""
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # (a DataLoader raises an error when one ends)
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()
