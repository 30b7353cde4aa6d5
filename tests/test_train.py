"""Training, checkpoints and resuming, in this process; test_scripts.py runs the commands."""

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch

import engine
import train
from feeder import Feeder
from model import Scores

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
    return engine.load_checkpoint(folder / name)


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
    assert train.SETTINGS["published"] == {}


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


def test_resuming_equals_no_interruption(config):
    whole = train.main(config)
    broken = train.main(replace(config, name="broken", epochs=2))
    with open(broken / "log.jsonl", "a", encoding="utf-8") as file:
        file.write('{"epoch": 3, "unfinished": true}\n')  # logged, but cut off before its checkpoint
    torch.manual_seed(99)
    train.main(replace(config, name="broken"), resume=True)
    assert log_of(broken) == log_of(whole)
    one, two = load(whole), load(broken)
    assert same(one["model"], two["model"])
    assert one["scheduler"] == two["scheduler"] and one["best"] == two["best"]
    for a, b in zip(
        one["optimizer"]["state"].values(), two["optimizer"]["state"].values(), strict=True
    ):
        assert same(a, b)
    assert same(load(whole, "best.pt")["model"], load(broken, "best.pt")["model"])


def test_a_checkpoint_rebuilds_the_model(config):
    checkpoint = load(train.main(config))
    assert {"epoch", "optimizer", "scheduler", "random", "best", "config", "commit", "version"} <= set(
        checkpoint
    )
    feeder = Feeder(*train.files(config.data, "train"), **checkpoint["feeding"])
    batches = engine.loader(feeder, range(len(feeder)), 7, False)
    model = engine.build_model(checkpoint)
    first, posterior, label = engine.evaluate(model, batches, "cpu")
    again, _, _ = engine.evaluate(engine.build_model(checkpoint), batches, "cpu")
    assert first == again
    assert posterior.shape == (len(feeder), 3, 60) and label.tolist() == feeder.label.tolist()


def test_without_held_out_clips_best_is_the_last_epoch(config):
    folder = train.main(replace(config, held_out=0.0, epochs=2))
    assert load(folder, "best.pt")["epoch"] == 2
    assert "held_out" not in log_of(folder)[0]


def test_metrics_count_every_clip_once(config):
    """Deterministic and complete: equal whatever the batches, no last batch dropped."""
    checkpoint = load(train.main(replace(config, epochs=1)))
    feeder = Feeder(*train.files(config.data, "train"), **checkpoint["feeding"])
    model = engine.build_model(checkpoint)
    results = []
    for size in (5, 7, 100):
        batches = engine.loader(feeder, range(len(feeder)), size, False)
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

    metrics = engine.Metrics(Halves)
    sure, even = torch.tensor([[50.0, 0, 0]]), torch.zeros(1, 3)
    metrics.add(Scores(sure, even), torch.tensor([0]))
    metrics.add(Scores(sure, sure), torch.tensor([2]))
    results = metrics.results()
    assert results["temporal"]["accuracy"] == 0.5
    assert results["spatial"]["loss"] == pytest.approx((math.log(3) - math.log(1e-12)) / 2, rel=1e-4)
    assert results["fused"]["top5"] == 1


def test_people_are_held_out_whole():
    performers = [1] * 10 + [2] * 10 + [3] * 10 + [4] * 70
    for seed in range(20):
        training, held_out = train.hold_out(performers, 0.05, seed)
        assert sorted(training + held_out) == list(range(100))
        assert not {performers[i] for i in training} & {performers[i] for i in held_out}
        assert len(held_out) >= 5
    assert train.hold_out(performers, 0, 0) == (list(range(100)), [])
    with pytest.raises(ValueError, match="--held_out 0"):
        train.hold_out([1, 1], 0.05, 0)


def test_a_run_is_not_overwritten_by_accident(config):
    folder = train.main(replace(config, epochs=1))
    before = (folder / "log.jsonl").read_text()
    with pytest.raises(ValueError, match=r"--resume.*--name.*--overwrite"):
        train.main(config)
    assert (folder / "log.jsonl").read_text() == before
    train.main(replace(config, epochs=2), overwrite=True)
    assert len(log_of(folder)) == 2


def test_a_loss_that_is_not_finite_stops_the_run(config):
    with pytest.raises(FloatingPointError, match="learning rate"):
        train.main(replace(config, learning_rate=float("inf")))


def test_checkpoints_that_are_none(tmp_path):
    path = tmp_path / "x.pt"
    with pytest.raises(FileNotFoundError, match=r"train\.py"):
        engine.load_checkpoint(path)
    for content in (b"", b"garbage", b"PK\x03\x04"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.pt is not a checkpoint"):
            engine.load_checkpoint(path)
    torch.save({"weights": torch.ones(1)}, path)
    with pytest.raises(ValueError, match="is not a checkpoint"):
        engine.load_checkpoint(path)
    torch.save({"version": 0}, path)
    with pytest.raises(ValueError, match="version 0"):
        engine.load_checkpoint(path)
    torch.save(torch.nn.LSTM(1, 1), path)  # a pickled module is code
    with pytest.raises(ValueError, match="is not a checkpoint"):
        engine.load_checkpoint(path)


def test_meta_json_of_other_data(config):
    path = f"{config.data}/meta.json"
    with open(path, encoding="utf-8") as file:
        meta = json.load(file)
    meta["classes"] = meta["classes"][:5]
    with open(path, "w", encoding="utf-8") as file:
        json.dump(meta, file)
    with pytest.raises(ValueError, match=r"meta\.json does not belong"):
        train.main(config)
