"""Checkpoints: complete, rebuilt without other files, never code."""

from pathlib import Path

import pytest
import torch
from train_helpers import equal

from extensions import ExtensionConfig
from model import NetworkConfig, TwoStreamRNN
from skeletons.layout import LAYOUTS
from training.checkpoint import (
    REQUIRED,
    VERSION,
    TrainingState,
    build_model,
    load_checkpoint,
    rng_states,
    save_checkpoint,
    set_rng_state,
)

LAYOUT = LAYOUTS["kinect-v1"]
EMPTY = dict.fromkeys(REQUIRED)


def contents(model, **extensions):
    """The part of a checkpoint that a network is rebuilt from."""
    network = {"hidden_size": 4, "part_hidden_size": 3, "num_layers": 3, "spatial_window": 8}
    return {
        "model": model.state_dict(),
        "model_args": {"network": network, "extensions": extensions, "channels": 2},
        "layout": LAYOUT.to_dict(),
        "classes": ["a", "b", "c"],
        "preprocessing": {},
        "config": {},
        "epoch": 1,
    }


def test_settings_that_were_removed(tmp_path):
    """Those that were off do not matter; others made another network."""
    network = NetworkConfig(hidden_size=4, part_hidden_size=3, num_layers=3, spatial_window=8)
    model = TwoStreamRNN(LAYOUT, 3, network, channels=2).eval()
    for value in (0, 64):
        checkpoint = contents(model)
        checkpoint["model_args"]["extensions"]["embedding_size"] = value
        save_checkpoint(tmp_path / f"{value}.pt", checkpoint)
    build_model(load_checkpoint(tmp_path / "0.pt"))
    with pytest.raises(ValueError, match="had the settings embedding_size\ntrain again"):
        build_model(load_checkpoint(tmp_path / "64.pt"))


@pytest.mark.parametrize(
    "extensions",
    [
        {},
        {
            "modalities": ("bone", "motion"),
            "view_adaptation": 3,
            "input_norm": True,
            "window_layers": 1,
        },
        {"residual": True, "causal": True},
    ],
)
def test_a_network_is_rebuilt_from_its_checkpoint_alone(tmp_path, extensions):
    network = NetworkConfig(hidden_size=4, part_hidden_size=3, num_layers=3, spatial_window=8)
    model = TwoStreamRNN(LAYOUT, 3, network, ExtensionConfig(**extensions), channels=2).eval()
    save_checkpoint(tmp_path / "x.pt", contents(model, **extensions))
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]
    rebuilt = build_model(load_checkpoint(tmp_path / "x.pt"))
    assert not rebuilt.training
    clips = torch.rand(2, 2, 16, 20, 2)
    with torch.no_grad():
        for one, two in zip(model(clips), rebuilt(clips), strict=True):
            assert torch.equal(one, two)


def test_weights_of_another_network(tmp_path):
    model = TwoStreamRNN(LAYOUT, 3, NetworkConfig(hidden_size=5, spatial_window=8), channels=2)
    with pytest.raises(
        ValueError, match=r"weights belong to another version of this code\ntrain again"
    ):
        build_model(contents(model))


def test_files_that_are_not_checkpoints(tmp_path):
    path = tmp_path / "x.pt"
    with pytest.raises(FileNotFoundError, match=r"x\.pt is missing\ntrain\.py writes"):
        load_checkpoint(path)
    with pytest.raises(FileNotFoundError, match=r"is a folder\ngive a checkpoint in it: .*/best\.pt"):
        load_checkpoint(tmp_path)
    for content in (b"", b"garbage", b"PK\x03\x04"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.pt is not a checkpoint"):
            load_checkpoint(path)
    torch.save({"weights": torch.ones(1)}, path)
    with pytest.raises(ValueError, match="is not a checkpoint"):
        load_checkpoint(path)
    torch.save({"version": VERSION, "model": {}}, path)
    with pytest.raises(ValueError, match=r"is not a checkpoint of train\.py: classes, .* missing"):
        load_checkpoint(path)
    torch.save(torch.nn.LSTM(1, 1), path)  # a pickled module is code
    with pytest.raises(ValueError, match="is not a checkpoint"):
        load_checkpoint(path)


@pytest.mark.parametrize("version", [0, 3, VERSION + 1])
def test_checkpoints_of_other_versions(tmp_path, version):
    torch.save({"version": version, "model": {}}, tmp_path / "x.pt")
    message = rf"has version {version} of the checkpoint format, this code reads {VERSION}\ntrain again"
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path / "x.pt")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_failed_write_keeps_the_earlier_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "x.pt"
    save_checkpoint(path, EMPTY | {"epoch": 1})

    def write(partial, content, write=Path.write_bytes):
        write(partial, content[:10])
        write(Path("/dev/full"), content)

    monkeypatch.setattr(Path, "write_bytes", write)
    with pytest.raises(OSError, match=r"No space left on device: '.*x\.pt'"):
        save_checkpoint(path, EMPTY | {"epoch": 2})
    monkeypatch.undo()
    assert load_checkpoint(path)["epoch"] == 1 and list(tmp_path.iterdir()) == [path]


def test_training_goes_on_from_its_state(tmp_path):
    """Weights, optimizer, learning rate and random numbers after a checkpoint are those without it."""

    def start():
        model = torch.nn.Linear(3, 2)
        optimizer = torch.optim.Adam(model.parameters())
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        return TrainingState(model, optimizer, scheduler, torch.Generator().manual_seed(1), scaler)

    def step(state):
        factor = torch.rand(1, generator=state.order)
        state.optimizer.zero_grad()
        (state.model(torch.rand(4, 3)) * factor).square().sum().backward()
        state.optimizer.step()
        state.scheduler.step()

    state = start()
    step(state)
    save_checkpoint(tmp_path / "x.pt", EMPTY | state.state_dict())
    step(state)
    torch.manual_seed(99)
    resumed = start()
    resumed.load_state_dict(load_checkpoint(tmp_path / "x.pt"))
    step(resumed)
    assert equal(resumed.model.state_dict(), state.model.state_dict())
    assert resumed.scheduler.get_last_lr() == state.scheduler.get_last_lr() == [0.00025]
    assert torch.equal(torch.rand(3, generator=resumed.order), torch.rand(3, generator=state.order))


def test_random_states():
    (state,) = rng_states(torch.device("cpu"))
    drawn = torch.rand(3)
    torch.manual_seed(5)
    set_rng_state(state, torch.device("cpu"))
    assert torch.equal(torch.rand(3), drawn)
