"""Training, checkpoints and resuming, in this process; test_scripts.py runs the commands."""

import inspect
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, fields, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import train
from feeder import Feeder
from layers import LSTMEncoder
from model import Logits, TwoStreamRNN
from skeletons.storage import read_meta, split_files
from training import engine
from training.checkpoint import build_model, load_checkpoint, save_checkpoint
from training.loader import make_loader

ROOT = Path(train.__file__).parent
TINY = {
    "units": 12, "part_units": 6, "window": 16, "spatial_window": 16, "batch_size": 5, "epochs": 4,
    "milestones": (2, 3), "held_out": 0.3, "seed": 3,
}  # fmt: skip


@pytest.fixture
def config(data, tmp_path, monkeypatch):
    """A tiny configuration over a copy of the data that has no test part at all."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "xview"
    shutil.copytree(data / "xview", folder, ignore=shutil.ignore_patterns("val_*"))
    return train.Config(data=str(folder), name="run", device="cpu", **TINY)


def log_of(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("seconds")
    return lines


def load(folder, name="last.pt"):
    return load_checkpoint(folder / name)


def same(one, two):
    return all(torch.equal(one[key], two[key]) for key in one) and one.keys() == two.keys()


def test_the_default_is_the_published_run():
    config = train.Config()
    assert (config.data, config.spatial, config.temporal) == (
        "NTU-RGB-D/xview",
        "traversal",
        "hierarchical",
    )
    assert (config.batch_size, config.learning_rate, config.epochs) == (256, 0.001, 300)
    assert (config.milestones, config.gamma, config.window) == ((100, 160, 220), 0.5, 100)
    assert train.PRESETS["paper"] == {}


def test_a_run_needs_no_test_part_and_leaves_everything_behind(config):
    """The original chose its best epoch on the test set; here training cannot even see it."""
    folder = train.main(config)
    assert {p.name for p in folder.iterdir()} == {
        "config.json", "log.jsonl", "last.pt", "best.pt", "curves.png"}  # fmt: skip
    assert json.loads((folder / "config.json").read_text())["config"]["units"] == 12
    lines = log_of(folder)
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert [line["learning_rate"] for line in lines] == [0.001, 0.001, 0.0005, 0.00025]
    best = max(
        lines, key=lambda x: (x["held_out"]["fused"]["accuracy"], -x["held_out"]["fused"]["loss"])
    )
    assert load(folder, "best.pt")["epoch"] == best["epoch"]
    assert load(folder)["epoch"] == 4


def test_the_same_seed_gives_the_same_run(config):
    one, two = train.main(config), train.main(replace(config, name="again"))
    assert log_of(one) == log_of(two)
    assert same(load(one)["model"], load(two)["model"])
    other = train.main(replace(config, name="other", seed=4))
    assert not same(load(one)["model"], load(other)["model"])


def assert_same_run(one, two):
    assert log_of(one) == log_of(two)
    a, b = load(one), load(two)
    assert same(a["model"], b["model"])
    assert a["scheduler"] == b["scheduler"] and a["best"] == b["best"] and a["epoch"] == b["epoch"]
    for x, y in zip(a["optimizer"]["state"].values(), b["optimizer"]["state"].values(), strict=True):
        assert same(x, y)
    a, b = load(one, "best.pt"), load(two, "best.pt")
    assert same(a["model"], b["model"]) and a["epoch"] == b["epoch"]


@pytest.mark.parametrize("workers", [0, 1])
def test_resuming_equals_no_interruption(config, workers):
    config = replace(config, workers=workers)
    whole = train.main(config)
    broken = train.main(replace(config, name="broken", epochs=2))
    torch.manual_seed(99)
    train.main(replace(config, name="broken"), resume=True)
    assert_same_run(whole, broken)


class StopAt:
    """Asks training to stop the so-manieth time it is asked: after steps, the last of an epoch after
    its evaluation."""

    def __init__(self, steps):
        self.steps = steps

    def __call__(self):
        self.steps -= 1
        return self.steps <= 0


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("steps", [1, 4, 6])  # within an epoch of four, at its end, in the next
def test_a_run_stopped_at_a_step_goes_on_there(config, workers, steps):
    whole = train.main(config)
    broken = replace(config, name="broken", workers=workers)
    with pytest.raises(engine.Interrupted):
        train.main(broken, stop=StopAt(steps))
    folder = whole.parent / "broken"
    assert len(log_of(folder)) == load(folder)["epoch"] == steps // 4
    progress = load(folder)["progress"]
    assert (progress["step"] if progress else 0) == steps % 4
    torch.manual_seed(99)
    train.main(broken, resume=True)
    assert_same_run(whole, folder)


def test_worker_processes_change_nothing(config):
    one, two = train.main(config), train.main(replace(config, name="workers", workers=2))
    assert_same_run(one, two)


def test_precisions_that_cannot_be_are_refused(config, monkeypatch):
    """An unknown one, and bfloat16 where there are no LSTMs of it: before anything is replaced."""
    with pytest.raises(ValueError, match="float32, bfloat16"):
        train.main(replace(config, precision="fp4"))

    def without_bfloat16(*_):
        raise RuntimeError("could not create a primitive descriptor")

    monkeypatch.setattr(torch.nn.LSTM, "forward", without_bfloat16)
    with pytest.raises(ValueError, match="cannot compute in bfloat16: use float32"):
        train.main(replace(config, precision="bfloat16"))
    assert not Path("checkpoints").exists()


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() == "AVX2", reason="no LSTM in bfloat16")
def test_half_the_bits_give_nearly_the_same_loss(config):
    config = replace(config, epochs=1, units=32, dropout=0.0)
    whole = log_of(train.main(config))[0]
    half = log_of(train.main(replace(config, name="half", precision="bfloat16")))[0]
    for part in ("train", "held_out"):
        for stream in engine.STREAMS:
            assert half[part][stream]["loss"] == pytest.approx(whole[part][stream]["loss"], rel=0.01)
    assert half != whole


@pytest.mark.parametrize("held_out", [0.3, 0.0])
@pytest.mark.parametrize("stopped_at", ["log.jsonl", "best.pt", "last.pt"])
def test_resuming_after_a_stop_while_saving(config, monkeypatch, held_out, stopped_at):
    """Stopped in epoch 3 while this file is written: half a line, or nothing of a checkpoint."""
    monkeypatch.setattr(train, "SAVING", 1e9)
    config = replace(config, held_out=held_out)
    whole = train.main(config)
    save = save_checkpoint

    def interrupted(path, contents):
        if contents["epoch"] == 3 and stopped_at == "log.jsonl":
            log = path.parent / "log.jsonl"
            log.write_text(log.read_text()[:-20])
        if contents["epoch"] == 3 and (stopped_at == "log.jsonl" or path.name == stopped_at):
            raise KeyboardInterrupt
        save(path, contents)

    monkeypatch.setattr(engine, "save_checkpoint", interrupted)
    try:
        train.main(replace(config, name="broken"))
    except KeyboardInterrupt:
        monkeypatch.setattr(engine, "save_checkpoint", save)
        train.main(replace(config, name="broken"), resume=True)
    assert_same_run(whole, whole.parent / "broken")


def test_where_saving_takes_too_long_not_every_epoch_is_saved(config, monkeypatch):
    """And a run that dies between goes on with what was saved."""
    monkeypatch.setattr(train, "SAVING", 1e-9)
    config = replace(config, held_out=0.0)
    saved, save = [], save_checkpoint

    def spy(path, contents):
        saved.append((path.name, contents["epoch"]))
        save(path, contents)

    monkeypatch.setattr(engine, "save_checkpoint", spy)
    whole = train.main(config)
    assert saved == [("best.pt", 1), ("last.pt", 1), ("best.pt", 4), ("last.pt", 4)]
    broken = replace(config, name="broken")
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(train, "describe", lambda line: 1 / (3 - line["epoch"]))
        train.main(broken)
    assert load(whole.parent / "broken")["epoch"] == 1
    assert len(log_of(whole.parent / "broken")) == 3
    train.main(broken, resume=True)
    assert_same_run(whole, whole.parent / "broken")


def test_who_is_trained_on_and_who_chooses_the_best(config, monkeypatch):
    """The clips and the feeding of each loader: people held out are never trained on, and they are
    fed as in a test."""
    loaders = []
    loader = make_loader

    def spy(feeder, clips, batch_size, generator=None, *rest):
        loaders.append((feeder, list(clips), generator))
        return loader(feeder, clips, batch_size, generator, *rest)

    monkeypatch.setattr(engine, "loader", spy)
    train.main(
        replace(config, epochs=1, crop=(0.7, 0.9), rotate=(0.1, 0.2, 0.3), scale=0.05, shear=0.02)
    )
    (feeder, trained, shuffled), (still, held_out, held_out_shuffled) = loaders
    subjects = read_meta(config.data)["subject"]["train"]
    assert (trained, held_out) == train.hold_out(subjects, config.held_out, config.seed)
    assert held_out and not set(trained) & set(held_out)
    assert shuffled and not held_out_shuffled
    assert feeder.window == {"share": (0.7, 0.9), "cut": (0, 1)}
    assert feeder.transform == {"rotate": (0.1, 0.2, 0.3), "scale": 0.05, "sheared": 0.02}
    assert torch.equal(still[held_out][0], feeder.eval()[held_out][0])
    assert not torch.equal(feeder[held_out][0], still[held_out][0])


def test_a_shuffled_loader_gives_every_clip_once_in_another_order(data):
    feeder = Feeder(*split_files(data / "xview", "train"), window_size=4)
    feeder.label = torch.arange(len(feeder))
    clips = list(range(3, 24))
    shuffled = make_loader(feeder, clips, 5, torch.Generator().manual_seed(0))
    first, second = (torch.cat([label for _, label in shuffled]).tolist() for _ in range(2))
    assert sorted(first) == sorted(second) == clips != first != second
    in_order = torch.cat([label for _, label in make_loader(feeder, clips, 5)])
    assert in_order.tolist() == clips


def test_dropout_is_on_in_training_and_off_in_evaluation(config, monkeypatch):
    modes = []
    forward = TwoStreamRNN.forward
    monkeypatch.setattr(
        TwoStreamRNN,
        "forward",
        lambda self, x: modes.append((self.training, len(getattr(x, "there", x)))) or forward(self, x),
    )
    train.main(replace(config, epochs=1))
    # A look whether everything fits; 16 clips to train on; 8 held out.
    training, held_out = [(True, 5)] * 3 + [(True, 1)], [(False, 5), (False, 3)]
    assert modes == [(False, 1), *training, *held_out]


def test_both_streams_learn(config):
    """Far above chance (a quarter) on their own training clips after a minute's worth of steps."""
    quick = {"epochs": 25, "learning_rate": 0.01, "milestones": (20,), "dropout": 0.0, "held_out": 0.0}
    folder = train.main(
        replace(config, crop=(1.0, 1.0), rotate=(0.0, 0.0, 0.0), scale=0.0, shear=0.0, **quick)
    )
    last = log_of(folder)[-1]["train"]
    assert min(last[stream]["accuracy"] for stream in engine.STREAMS) > 0.7
    checkpoint = load(folder)
    feeder = Feeder(*split_files(config.data, "train"), **checkpoint["feeding"])
    batches = make_loader(feeder, range(len(feeder)), 8)
    results = engine.evaluate(build_model(checkpoint), batches, "cpu")[0]
    assert min(results[stream]["accuracy"] for stream in engine.STREAMS) > 0.7


def test_settings_reach_the_optimiser_and_the_network(config):
    checkpoint = load(train.main(replace(config, epochs=1, weight_decay=0.02, learning_rate=0.003)))
    group = checkpoint["optimizer"]["param_groups"][0]
    assert (group["weight_decay"], group["lr"]) == (0.02, 0.003)
    assert checkpoint["network"]["units"] == 12 and checkpoint["feeding"]["window_size"] == 16


def test_config_and_model_have_the_same_defaults():
    defaults = inspect.signature(TwoStreamRNN).parameters
    config = train.Config()
    shared = [name for name in defaults if hasattr(config, name)]
    assert len(shared) == 20
    for name in shared:
        assert defaults[name].default == getattr(config, name), name


def test_the_longest_clip_of_the_training_part_is_the_window_everywhere(config):
    checkpoint = load(train.main(replace(config, window=0, epochs=1)))
    longest = Feeder(*split_files(config.data, "train")).num_frame.max()
    assert checkpoint["feeding"]["window_size"] == longest


def test_a_checkpoint_rebuilds_the_model(config):
    checkpoint = load(train.main(config))
    assert {"epoch", "optimizer", "scheduler", "random", "best", "config", "commit", "version"} <= set(
        checkpoint
    )
    feeder = Feeder(*split_files(config.data, "train"), **checkpoint["feeding"])
    batches = make_loader(feeder, range(len(feeder)), 7)
    model = build_model(checkpoint)
    first, posterior, label = engine.evaluate(model, batches, "cpu")
    again, _, _ = engine.evaluate(build_model(checkpoint), batches, "cpu")
    assert first == again
    assert posterior.shape == (len(feeder), 3, 60) and label.tolist() == feeder.label.tolist()


def test_a_run_is_resumed_on_its_own_data_only(config):
    """The data may have moved; another benchmark's would put test clips into the training."""
    folder = train.main(replace(config, epochs=1))
    moved = f"{config.data}-moved"
    shutil.move(config.data, moved)
    train.main(replace(config, epochs=2, data=moved), resume=True)
    before = (folder / "log.jsonl").read_text()
    with open(f"{moved}/meta.json", encoding="utf-8") as file:
        meta = json.load(file)
    meta["classes"] = meta["classes"][::-1]
    with open(f"{moved}/meta.json", "w", encoding="utf-8") as file:
        json.dump(meta, file)
    with pytest.raises(ValueError, match=r"other classes.*--data"):
        train.main(replace(config, data=moved), resume=True)
    assert (folder / "log.jsonl").read_text() == before


def test_run_names_say_which_data():
    for data in ("NTU-RGB-D/xview", "NTU-RGB-D/xview/", "/home/me/NTU-RGB-D/xview"):
        assert train.run_name(train.Config(data=data)) == "NTU-RGB-D-xview-traversal-hierarchical"
    for data in ("xsub", "../xsub", "./xsub", "/xsub"):
        assert train.run_name(train.Config(data=data)) == "xsub-traversal-hierarchical"


def test_without_held_out_clips_best_is_the_last_epoch(config):
    folder = train.main(replace(config, held_out=0.0, epochs=2))
    assert load(folder, "best.pt")["epoch"] == 2
    assert "held_out" not in log_of(folder)[0]


def test_metrics_count_every_clip_once(config):
    """Deterministic and complete: equal whatever the batches, no last batch dropped."""
    checkpoint = load(train.main(replace(config, epochs=1)))
    feeder = Feeder(*split_files(config.data, "train"), **checkpoint["feeding"])
    model = build_model(checkpoint)
    results = []
    for size in (5, 7, 100):
        batches = make_loader(feeder, range(len(feeder)), size)
        result, posterior, label = engine.evaluate(model, batches, "cpu")
        assert len(label) == len(feeder)
        results.append(result)
    for other in results[1:]:
        for stream in engine.STREAMS:
            assert results[0][stream] == pytest.approx(other[stream], abs=1e-5)
    accuracy = (posterior[:, 2].argmax(1) == label).double().mean().item()
    loss = -posterior[torch.arange(len(label)), 2, label].log().mean().item()
    assert results[0]["fused"]["accuracy"] == pytest.approx(accuracy)
    assert results[0]["fused"]["loss"] == pytest.approx(loss, abs=1e-5)


def test_metrics_by_hand():
    class Halves:
        @staticmethod
        def posterior(scores):
            return (scores.temporal.softmax(1) + scores.spatial.softmax(1)) / 2

    metrics = engine.Metrics(Halves, "cpu")
    sure, even = torch.tensor([[50.0, 0, 0]]), torch.zeros(1, 3)
    metrics.add(Logits(sure, even), torch.tensor([0]))
    metrics.add(Logits(sure, sure), torch.tensor([2]))
    results = metrics.results()
    assert results["temporal"]["accuracy"] == 0.5
    assert results["spatial"]["loss"] == pytest.approx((math.log(3) - math.log(1e-12)) / 2, rel=1e-4)
    assert results["fused"]["top5"] == 1


def test_people_are_held_out_whole():
    subjects = [1] * 10 + [2] * 10 + [3] * 10 + [4] * 70
    for seed in range(20):
        training, held_out = train.hold_out(subjects, 0.05, seed)
        assert sorted(training + held_out) == list(range(100))
        assert not {subjects[i] for i in training} & {subjects[i] for i in held_out}
        assert len(held_out) >= 5
    assert train.hold_out(subjects, 0, 0) == (list(range(100)), [])
    with pytest.raises(ValueError, match="--held_out 0"):
        train.hold_out([1, 1], 0.05, 0)


def test_a_camera_is_held_out():
    meta = {"camera": {"train": [1, 2, 2, 1]}}
    assert train.hold_out_camera(meta, 2) == ([0, 3], [1, 2])
    for wrong in (meta, {}, {"camera": {"train": [3, 3]}}):
        with pytest.raises(ValueError, match="held_out_camera=3"):
            train.hold_out_camera(wrong, 3)


def test_learning_rates():
    def rates(**settings):
        config = replace(train.Config(), epochs=8, **settings)
        return [train.learning_rate(config, epoch) for epoch in range(8)]

    assert rates(milestones=(2, 5)) == [1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25]
    cosine = rates(schedule="cosine")
    assert cosine[0] == 1 and cosine[4] == pytest.approx(0.5) and 0 < cosine[7] < 0.05
    assert rates(warm_up=3, milestones=()) == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    "field, value",
    [
        ("label_smoothing", 0.5),
        ("clip_gradient", 1e-5),
        ("mirror", 1.0),
        ("exchange", 1.0),
        ("bones", 0.5),
    ],
)
def test_settings_change_the_training(config, field, value):
    one = log_of(train.main(replace(config, epochs=1)))
    two = log_of(train.main(replace(config, epochs=1, name="other", **{field: value})))
    assert one[0]["held_out"]["fused"]["loss"] != two[0]["held_out"]["fused"]["loss"]


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"embedding": -1}, "embedding=-1: must not be negative"),
        ({"spatial_stride": -3}, "spatial_stride=-3: must not be negative"),
        ({"inputs": ()}, "inputs='' is unknown"),
        ({"causal": True, "window": 20, "spatial_window": 30}, "would read nothing"),
    ],
)
def test_settings_that_cannot_be(config, settings, said):
    with pytest.raises(ValueError, match=said):
        train.main(replace(config, name="never", **settings))
    assert not Path("checkpoints/never").exists()


def test_help_tells_what_the_comments_tell():
    told = train.explanations()
    assert told.keys() == {field.name for field in fields(train.Config)} and all(told.values())
    assert told["units"] == "LSTM units of a layer, in each direction"
    assert told["held_out"].endswith("train on every clip, best.pt is the last epoch")


def test_tensorboard(config, monkeypatch):
    logged, purged = {}, []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            assert folder == Path("checkpoints/run")
            purged.append(purge_step)

        def add_scalar(self, name, value, epoch):
            logged[name, epoch] = value

        def flush(self):
            pass

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match="pip install tensorboard"):
        train.main(replace(config, tensorboard=True))
    fake = SimpleNamespace(SummaryWriter=SummaryWriter)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    folder = train.main(replace(config, tensorboard=True, epochs=2))
    for line in log_of(folder):
        assert logged["accuracy/fused/held_out", line["epoch"]] == line["held_out"]["fused"]["accuracy"]
        assert logged["loss/spatial/train", line["epoch"]] == line["train"]["spatial"]["loss"]
    assert len(logged) == 2 * (2 * 9 + 1)
    train.main(replace(config, tensorboard=True, epochs=4), resume=True)
    assert len(logged) == 4 * (2 * 9 + 1) and purged == [1, 3]


def test_a_run_is_not_overwritten_by_accident(config):
    folder = train.main(replace(config, epochs=1))
    before = (folder / "log.jsonl").read_text()
    with pytest.raises(ValueError, match=r"--resume.*--name.*--overwrite"):
        train.main(config)
    assert (folder / "log.jsonl").read_text() == before
    with pytest.raises(ValueError, match="shorter than the spatial window"):
        train.main(replace(config, window=8), overwrite=True)
    assert (folder / "log.jsonl").read_text() == before  # a mistake costs nothing
    (folder / "last_test.json").write_text("of the old network")
    (folder / "notes.txt").write_text("mine")
    train.main(replace(config, epochs=2), overwrite=True)
    assert len(log_of(folder)) == 2 and not (folder / "last_test.json").exists()
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_loss_that_is_not_finite_stops_the_run(config):
    with pytest.raises(FloatingPointError, match=r"epoch 1: .* step 2 of 4; no epoch was finished"):
        train.main(replace(config, learning_rate=float("inf")))
    folder = train.main(replace(config, name="later", epochs=1))
    checkpoint = load(folder)
    for group in checkpoint["optimizer"]["param_groups"]:
        group["lr"] = float("inf")
    save_checkpoint(folder / "last.pt", checkpoint)
    with pytest.raises(
        FloatingPointError, match=r"epoch 2: .*last\.pt holds epoch 1\. Lower --learning"
    ):
        train.main(replace(config, name="later"), resume=True)
    assert load(folder)["epoch"] == 1


def test_stopping_after_a_loss_that_is_not_finite_saves_nothing(config):
    steps = iter(range(10))
    with pytest.raises(FloatingPointError, match="step 2 of 4"):
        train.main(replace(config, learning_rate=float("inf")), stop=lambda: next(steps) == 2)
    assert not Path("checkpoints/run/last.pt").exists()


def test_checkpoints_that_are_none(tmp_path):
    path = tmp_path / "x.pt"
    with pytest.raises(FileNotFoundError, match=r"train\.py"):
        load_checkpoint(path)
    for content in (b"", b"garbage", b"PK\x03\x04"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.pt is not a checkpoint"):
            load_checkpoint(path)
    torch.save({"weights": torch.ones(1)}, path)
    with pytest.raises(ValueError, match="is not a checkpoint"):
        load_checkpoint(path)
    torch.save({"version": 0}, path)
    with pytest.raises(ValueError, match="version 0"):
        load_checkpoint(path)
    torch.save(torch.nn.LSTM(1, 1), path)  # a pickled module is code
    with pytest.raises(ValueError, match="is not a checkpoint"):
        load_checkpoint(path)


def test_meta_json_of_other_data(config):
    path = f"{config.data}/meta.json"
    with open(path, encoding="utf-8") as file:
        meta = json.load(file)
    meta["classes"] = meta["classes"][:5]
    with open(path, "w", encoding="utf-8") as file:
        json.dump(meta, file)
    with pytest.raises(ValueError, match=r"meta\.json does not belong"):
        train.main(config)


# --- GPU ----------------------------------------------------------------------------------------------

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@GPU
@pytest.mark.parametrize("precision", engine.PRECISIONS)
def test_nothing_in_an_epoch_waits_for_the_gpu(config, precision):
    device = torch.device("cuda")
    feeder, meta = train.open_data(config)
    model = TwoStreamRNN(feeder.layout, len(meta["classes"]), units=16, part_units=8, spatial_window=16)
    model.to(device)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    batches = make_loader(feeder.to(device), range(20), 4, torch.Generator().manual_seed(0))

    def run():
        steps = iter(range(10))

        def stop():
            if next(steps) == 3:
                torch.cuda.set_sync_debug_mode(0)
                return True
            return False

        with pytest.raises(engine.Interrupted):
            engine.train_epoch(model, batches, optimizer, device, "", precision, stop)

    run()  # what is done once may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode(0)


@GPU
@pytest.mark.parametrize("precision", engine.PRECISIONS)
def test_a_gpu_learns_the_same(config, precision):
    """Without anything random, with overlapping streams, the losses agree with the CPU's."""
    still = {"dropout": 0.0, "crop": (1.0, 1.0), "rotate": (0.0,) * 3, "scale": 0.0, "shear": 0.0}
    here = log_of(train.main(replace(config, **still)))
    there = log_of(train.main(replace(config, **still, name="gpu", device="cuda", precision=precision)))
    for one, two in zip(here, there, strict=True):
        for stream in engine.STREAMS:
            assert two["train"][stream]["loss"] == pytest.approx(one["train"][stream]["loss"], rel=0.02)


# --- Processes ----------------------------------------------------------------------------------------

KILLED = """
import os, sys, threading
sys.path.insert(0, sys.argv[1])
import torch, train
from pathlib import Path
torch.set_num_threads(1)
steps, delay = int(sys.argv[3]), float(sys.argv[4])

def count():
    global steps
    steps -= 1
    if not steps:  # this step's own end, or whatever is under way a moment later: saving too
        threading.Timer(delay, os.kill, (os.getpid(), 9)).start()

resume = (Path("checkpoints/killed/last.pt")).exists()
train.main(train.Config(**eval(sys.argv[2])), resume, not resume, count)
"""


@pytest.fixture
def one_thread():
    """Sums come out the same only if they are shared out in the same way."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a system that kills processes")
def test_killed_ten_times_and_resumed(config, one_thread):
    """kill -9 at random moments, while it saves too."""
    config = replace(config, epochs=40)
    whole = train.main(config)
    killed = replace(config, name="killed")
    rng, log = random.Random(0), whole.parent / "killed/log.jsonl"
    for _ in range(10):
        command = [sys.executable, "-c", KILLED, str(ROOT), repr(asdict(killed)),
                   str(rng.randint(1, 9)), str(rng.uniform(0, 0.02))]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == -signal.SIGKILL, done.stderr
    # It got somewhere, and was killed on the way every time.
    assert 3 < len(log.read_text().splitlines()) < 40
    train.main(killed, resume=True)
    assert_same_run(whole, log.parent)


def command_line(config):
    """The options of train.py that give this configuration."""
    options = []
    for field, value in asdict(config).items():
        if isinstance(value, bool):
            options.append(f"--{field}" if value else f"--no-{field}")
        else:
            options += [f"--{field}", *map(str, value if isinstance(value, tuple) else [value])]
    return options


TWO = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
       ROOT / "train.py")  # fmt: skip


# train.py with its options. Prints how many networks there are when the group of processes ends, and
# what still runs on its behalf afterwards (on Linux).
IN_PARALLEL = """
import gc, runpy, sys, time
from contextlib import suppress
from pathlib import Path
from torch import distributed, nn

def threads():
    for path in Path("/proc/self/task").glob("*/comm"):
        with suppress(OSError):  # (it ends just now)
            yield path.read_text()

def leave(destroy=distributed.destroy_process_group):
    kinds = [type(thing) for thing in gc.get_objects()]
    destroy()
    for _ in range(50):  # (one that has ended may be listed for a moment)
        left = [name for name in threads() if "gloo" in name]
        if not left:
            break
        time.sleep(0.1)
    print(f"left over: {kinds.count(nn.parallel.DistributedDataParallel)} networks, {left}")

distributed.destroy_process_group = leave
del sys.argv[0]
sys.path.insert(0, str(Path(sys.argv[0]).parent))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


# Of 16 clips. 8: equal shares; 5: shares of 3 and 2, and the last batch is one clip, nothing for the
# second process; 1: never anything for it
@pytest.mark.parametrize("batch_size", [1, 5, 8])
def test_two_processes_train_as_one(config, batch_size):
    """Over gloo: the same parameters, each clip seen once an epoch, metrics over both."""
    config = replace(config, dropout=0.0, crop=(1.0, 1.0), rotate=(0.0, 0.0, 0.0), scale=0.0,
                     shear=0.0, batch_size=batch_size)  # fmt: skip
    one = train.main(config)
    command = [*TWO[:-1], "--no-python", sys.executable, "-c", IN_PARALLEL, ROOT / "train.py",
               *command_line(replace(config, name="two"))]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("epoch   1") == 1 and "2 x" in done.stdout
    # A network that outlives the group waits for ever for a thread of it that drops a tensor; such a
    # thread that does so while Python shuts down aborts the process.
    assert done.stdout.count("left over: 0 networks, []") == 2
    assert "FutureWarning" not in done.stderr
    two = one.parent / "two"
    a, b = load(one), load(two)
    assert len(b["random"]) == 2
    for name, value in a["model"].items():
        # Adam divides a gradient by its own size, so a single weight of a tensor whose gradients are
        # nothing but rounding may go another way.
        apart = (b["model"][name] - value).abs()
        assert (apart > 1e-5).sum() <= 1 and apart.mean() < 1e-6, name
    for x, y in zip(log_of(one), log_of(two), strict=True):
        for part in ("train", "held_out"):
            for stream in engine.STREAMS:
                # (An accuracy may differ by a clip that stands on the edge.)
                assert y[part][stream]["loss"] == pytest.approx(x[part][stream]["loss"], abs=1e-5)


def test_two_processes_hold_out_with_the_statistics_that_are_saved(config):
    """Each normalises its own share of a batch, and would else keep its own running mean."""
    config = replace(config, input_norm=True, epochs=2)
    subprocess.run([*TWO, *command_line(config)], check=True, capture_output=True, timeout=300)
    last = load(Path("checkpoints/run"))
    feeder = train.open_data(config)[0].eval()
    unseen = make_loader(feeder, last["held_out"], config.batch_size)
    found = engine.evaluate(build_model(last), unseen, "cpu")[0]
    logged = log_of(Path("checkpoints/run"))[-1]["held_out"]
    assert found["fused"]["loss"] == pytest.approx(logged["fused"]["loss"], abs=1e-5)


def start_and_stop(command, number, everyone=False):
    """Start a long run, send it a signal in its third epoch -> (returncode, stderr, last.pt)."""
    process = subprocess.Popen(
        [*command, "--name=stopped", "--epochs=10000"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        # (a background job ignores Ctrl-C, and what it starts does too)
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    log = Path("checkpoints/stopped/log.jsonl")
    while not log.exists() or len(log.read_text().splitlines()) < 2:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    (os.killpg if everyone else os.kill)(process.pid, number)
    _, said = process.communicate(timeout=60)
    return process.returncode, said, load(log.parent)


def resume_stopped(command, epochs):
    resumed = [*command, "--name=stopped", f"--epochs={epochs}", "--resume"]
    subprocess.run(resumed, check=True, capture_output=True)
    assert load(Path("checkpoints/stopped"))["epoch"] == epochs


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs signals to groups of processes")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_it_saves_and_says_how_to_go_on(config, number, workers):
    """Ctrl-C, and a batch system's SIGTERM to all processes."""
    config = replace(config, batch_size=1, workers=workers)
    command = [sys.executable, ROOT / "train.py", *command_line(config)]
    code, said, last = start_and_stop(command, number, everyone=True)
    assert code == 1 and "Traceback" not in said
    assert "everything is saved; go on with: python train.py --name stopped --resume" in said
    resume_stopped(command, last["epoch"] + 1)


WORKER_KILLED = """
import multiprocessing, sys
sys.path.insert(0, sys.argv[1])
import train

def kill():
    workers = multiprocessing.active_children()
    if len(workers) == 2:
        print("killed", flush=True)
        workers[0].kill()

train.main(train.Config(**eval(sys.argv[2])), stop=kill)
"""


def test_a_worker_that_is_killed_ends_the_run(config):
    """As by a system that is out of memory: the other worker does not keep it."""
    config = replace(config, batch_size=1, workers=2)
    command = [sys.executable, "-c", WORKER_KILLED, str(ROOT), repr(asdict(config))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "killed" in done.stdout, done.stderr  # and has ended


WORKERS_STOPPED = """
import multiprocessing, os, signal, sys
from contextlib import suppress
sys.path.insert(0, sys.argv[1])
from training import checkpoint, torch, train
from training import engine, torch, train
from training import loader, torch, train

if __name__ == "__main__":
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    heard = []
    for number in STOPS:
        signal.signal(number, lambda number, _: heard.append(number))
    feeder = train.open_data(train.Config(data=sys.argv[2], window=16))[0]
    batches = make_loader(feeder, range(len(feeder)), 1, torch.Generator(), workers=2)
    batches.multiprocessing_context = sys.argv[3]
    for _ in range(2):
        made = iter(batches)
        for worker in multiprocessing.active_children():
            for number in STOPS:
                with suppress(ProcessLookupError):  # (one of the round before)
                    os.kill(worker.pid, number)
        assert len(list(made)) == len(feeder) > 0
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    for number in STOPS:
        os.kill(os.getpid(), number)
    assert sorted(heard) == sorted(STOPS)
"""


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="needs masks of signals")
@pytest.mark.parametrize("start", ["fork", "spawn"] if sys.platform == "linux" else ["spawn"])
def test_workers_survive_a_stop_from_their_first_moment(data, start):
    """Told to stop while they start, they still make every batch; the main process hears of it."""
    done = subprocess.run(
        [sys.executable, "-c", WORKERS_STOPPED, str(ROOT), data / "xview", start],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs signals to groups of processes")
def test_two_processes_asked_to_stop_one_goes_on(config):
    config = replace(config, batch_size=1, held_out=0.0)
    code, said, last = start_and_stop([*TWO, *command_line(config)], signal.SIGTERM)
    assert code != 0 and "everything is saved" in said and "terminate called" not in said
    if last["progress"]:  # (not if the signal came at the end of an epoch)
        assert last["progress"]["sums"][9] == last["progress"]["step"]
    resume_stopped([sys.executable, ROOT / "train.py", *command_line(config)], last["epoch"] + 1)
    line = log_of(Path("checkpoints/stopped"))[-1]
    clips = last["clips"]["training"]
    assert clips > 16
    accuracy = clips * line["train"]["fused"]["accuracy"]
    assert accuracy == pytest.approx(round(accuracy))  # each clip counted once


def test_operations_of_a_model():
    """Multiplications and additions: of LSTMs, 2 x directions x 4 units (inputs + units) a step."""
    reader = LSTMEncoder(6, 5, 1, bidirectional=True)
    work = engine.operations(reader, torch.zeros(2, 7, 6))
    assert work == 2 * 7 * 2 * 2 * 4 * 5 * (6 + 5)
    assert reader.training
