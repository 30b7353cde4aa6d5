"""Small data for all tests: synthetic raw files, converted once per session."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported; child processes have one thread, too

import pickle
import threading

import training.environment  # noqa: F401

import numpy as np
import pytest
import torch
from tqdm import tqdm

import convert_data
import synthesize
from skeletons import readers

torch.set_num_threads(1)
# tqdm's own lock is shared with forked processes; one that a test kills would keep it for ever.
tqdm.set_lock(threading.RLock())

ACTIONS = (1, 10, 24, 58)  # one of them, 58, with two people


@pytest.fixture(scope="session")
def raw(tmp_path_factory):
    """A folder of 36 raw NTU files: 4 actions, subjects 1-3 (3 is a test subject), 3 cameras."""
    folder = tmp_path_factory.mktemp("raw")
    synthesize.synthesize(folder, ACTIONS, subjects=3, replications=1)
    return folder


@pytest.fixture(scope="session")
def data(raw, tmp_path_factory):
    """The same, converted: a folder with xsub and xview."""
    folder = tmp_path_factory.mktemp("data")
    convert_data.convert(readers.open_input([raw]), folder)
    return folder


@pytest.fixture
def write_split(tmp_path):
    """A function that writes clips, a list of (T, C, V, M) arrays, as a split that Feeder reads, and
    returns its three paths."""

    def write(clips, labels=None, name="split", padded=False):
        labels = list(range(len(clips))) if labels is None else labels
        paths = [tmp_path / f"{name}_{file}" for file in ("data.npy", "label.pkl", "num_frame.npy")]
        if padded:
            array = np.zeros((len(clips), 3, max(map(len, clips)), *clips[0].shape[2:]), np.float32)
            for row, clip in zip(array, clips, strict=True):
                row[:, : len(clip)] = clip.swapaxes(0, 1)
        else:
            array = np.concatenate(clips)
        np.save(paths[0], array)
        paths[1].write_bytes(pickle.dumps(([f"clip{i}" for i in range(len(labels))], labels)))
        np.save(paths[2], np.array([len(clip) for clip in clips]))
        return paths

    return write


@pytest.fixture
def clips():
    """Five random clips (T, 3, 25, 2) of 1 to 150 frames; only the fourth one has a second body."""
    rng = np.random.default_rng(0)
    made = [rng.normal(size=(t, 3, 25, 2)).astype(np.float32) for t in (30, 1, 150, 60, 100)]
    for i, clip in enumerate(made):
        clip[:, 2] += 3
        if i != 3:
            clip[..., 1] = 0
    return made
