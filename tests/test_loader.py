"""Batches: which clips, in which order, by which processes; and signals to these processes."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from feeder import Feeder
from skeletons.storage import split_files
from training import loader
from training.loader import Sampler, make_loader

ROOT = Path(loader.__file__).parent.parent


@pytest.fixture
def feeder(data):
    feeder = Feeder(*split_files(data / "xview", "train"), window_size=4, rand_rotate=0.5)
    feeder.label = torch.arange(len(feeder))  # which clip it is
    return feeder


def clips_of(batches):
    return torch.cat([label for _, label in batches]).tolist()


def test_a_shuffled_loader_gives_every_clip_once_in_another_order(feeder):
    clips = list(range(3, 24))
    shuffled = make_loader(feeder, clips, 5, torch.Generator().manual_seed(0))
    assert [len(label) for _, label in shuffled] == [5, 5, 5, 5, 1] == shuffled.sampler.sizes()
    first, second = clips_of(shuffled), clips_of(shuffled)
    assert sorted(first) == sorted(second) == clips != first != second
    assert clips_of(make_loader(feeder, clips, 5)) == clips


def test_without_shuffling_the_generator_draws_the_augmentation_only(feeder):
    generator = torch.Generator().manual_seed(0)
    batches = make_loader(feeder, range(24), 24, generator, shuffle=False)
    ((one, label),), ((two, _),) = batches, batches
    assert label.tolist() == list(range(24))
    assert not torch.equal(one.joints, two.joints)  # two draws
    generator.manual_seed(0)
    ((again, _),) = batches
    assert torch.equal(one.joints, again.joints)


def test_workers_make_the_same_batches(feeder):
    here, there = (
        make_loader(feeder, range(24), 5, torch.Generator().manual_seed(0), num_workers)
        for num_workers in (0, 2)
    )
    state = torch.get_rng_state()
    for _ in range(2):  # epochs
        for (one, label), (two, other) in zip(here, there, strict=True):
            assert torch.equal(one.joints, two.joints) and torch.equal(label, other)
    assert torch.equal(torch.get_rng_state(), state)  # nothing is drawn from the global generator


def test_several_processes_share_each_batch(monkeypatch):
    """Each clip once, in all; a process without a share has a clip that does not count."""
    monkeypatch.setattr(loader, "get_world_size", lambda: 3)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(loader, "get_rank", lambda r=rank: r)
        batches = list(Sampler(range(10), 4, torch.Generator().manual_seed(1)))
        counts = [len(range(size)[loader.shard(size)]) for size in Sampler(range(10), 4).sizes()]
        shares.append([clips[:n].tolist() for (clips, _), n in zip(batches, counts, strict=True)])
        assert all(len(clips) for clips, _ in batches)
    assert [[len(share) for share in batches] for batches in shares] == [
        [2, 2, 1],
        [1, 1, 1],
        [1, 1, 0],
    ]
    assert sorted(clip for batches in shares for share in batches for clip in share) == list(range(10))


def test_batches_of_no_clips(feeder):
    with pytest.raises(ValueError, match="batch_size=0: must be at least 1"):
        make_loader(feeder, range(24), 0)
    assert list(make_loader(feeder, [], 5)) == []


WORKERS_STOPPED = """
import multiprocessing, os, signal, sys
from contextlib import suppress
sys.path.insert(0, sys.argv[1])
import torch
from feeder import Feeder
from skeletons.storage import split_files
from training.loader import STOP_SIGNALS, make_loader

if __name__ == "__main__":
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    received = []
    for number in STOP_SIGNALS:
        signal.signal(number, lambda number, _: received.append(number))
    feeder = Feeder(*split_files(sys.argv[2], "train"), window_size=16)
    batches = make_loader(feeder, range(len(feeder)), 1, torch.Generator(), num_workers=2)
    for method in sys.argv[3:]:
        batches.multiprocessing_context = method
        started = iter(batches)
        for worker in multiprocessing.active_children():
            for number in STOP_SIGNALS:
                with suppress(ProcessLookupError):  # it may have ended, if it is of the round before
                    os.kill(worker.pid, number)
        assert len(list(started)) == len(feeder) > 0
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    for number in STOP_SIGNALS:
        os.kill(os.getpid(), number)
    assert sorted(received) == sorted(STOP_SIGNALS)
"""


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="needs signal masks")
def test_workers_survive_a_stop_from_their_first_moment(data, tmp_path):
    """Signalled while they start, they make every batch. The main process receives the signals."""
    script = tmp_path / "script.py"  # spawned workers import the main module
    script.write_text(WORKERS_STOPPED)
    methods = ["fork", "fork", "spawn"] if sys.platform == "linux" else ["spawn", "spawn"]
    command = [sys.executable, script, ROOT, data / "xview", *methods]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


WORKER_KILLED = """
import multiprocessing, sys
sys.path.insert(0, sys.argv[1])
import torch
from feeder import Feeder
from skeletons.storage import split_files
from training.loader import make_loader

feeder = Feeder(*split_files(sys.argv[2], "train"), window_size=16)
batches = make_loader(feeder, range(len(feeder)), 1, torch.Generator(), num_workers=2)
for _ in batches:
    workers = multiprocessing.active_children()
    if len(workers) == 2:
        print("killed", flush=True)
        workers[0].kill()
"""


def test_a_worker_that_is_killed_ends_the_run(data):
    """As by a system that is out of memory: the other worker does not keep the process alive."""
    command = [sys.executable, "-c", WORKER_KILLED, ROOT, data / "xview"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "killed" in done.stdout, done.stderr  # and it has ended
