"""Tiny training runs for the tests of training."""

import json
import shutil

import plot
import train
from training.checkpoint import load_checkpoint

# 24 training clips, 16 of which are trained on, in 4 batches; 8 are for validation.
TINY = {
    "hidden_size": 12, "part_hidden_size": 6, "window_size": 16, "spatial_window": 16, "batch_size": 5,
    "epochs": 4, "milestones": (2, 3), "validation_ratio": 0.3, "seed": 3, "device": "cpu",
}  # fmt: skip
STILL = {  # nothing random but the initial weights and the order of the clips
    "dropout": 0.0, "crop_ratio": (1.0, 1.0), "rotate": (0.0, 0.0, 0.0), "scale": 0.0, "shear": 0.0,
}  # fmt: skip


def tiny_config(data, tmp_path, monkeypatch):
    """A tiny configuration on a copy of the data without test clips. Pictures are not drawn."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plot, "curves", lambda runs, path: None)
    monkeypatch.setattr(train, "git_commit", lambda: "abc")
    folder = tmp_path / "xview"
    shutil.copytree(data / "xview", folder, ignore=shutil.ignore_patterns("val_*"))
    return train.make_config(data=str(folder), name="run", **TINY)


def changed(config, **values):
    """The configuration with other values of some fields."""
    return train.with_fields(config, **values)


def log_of(folder):
    """The lines of log.jsonl without the time that each epoch took."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("seconds")
    return lines


def load(folder, name="last.pt"):
    return load_checkpoint(folder / name)


def equal(one, two):
    """Whether two dicts of tensors are equal to the bit."""
    return one.keys() == two.keys() and all((one[key] == two[key]).all() for key in one)


def assert_same_run(one, two):
    """Logs, networks, optimizers and best networks of two runs are equal to the bit."""
    assert log_of(one) == log_of(two)
    a, b = load(one), load(two)
    assert equal(a["model"], b["model"])
    assert a["scheduler"] == b["scheduler"] and a["best"] == b["best"] and a["epoch"] == b["epoch"]
    assert (a["sampler"] == b["sampler"]).all()
    states = a["optimizer"]["state"], b["optimizer"]["state"]
    assert all(equal(x, y) for x, y in zip(*(state.values() for state in states), strict=True))
    a, b = load(one, "best.pt"), load(two, "best.pt")
    assert equal(a["model"], b["model"]) and a["epoch"] == b["epoch"]


class StopAt:
    """Asks to stop the so-many-th time it is asked. Training asks after each step but the last of an
    epoch, and after the epoch is saved."""

    def __init__(self, times):
        self.times = times

    def __call__(self):
        self.times -= 1
        return self.times <= 0
