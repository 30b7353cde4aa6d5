"""benchmarks/few_shot.py: which clips are drawn, which are evaluated, and what is recorded."""

import json
from collections import Counter
from pathlib import Path

import few_shot
import pytest
import torch
from test_benchmarks import assert_picture
from train_helpers import tiny_config

import train
from skeletons.storage import read_labels, read_meta, split_files
from training import engine


def test_which_clips_are_drawn():
    labels = torch.arange(30) % 3
    candidates = [clip for clip in range(30) if clip % 5]
    drawn = [few_shot.draw_clips(labels, candidates, count, seed=1) for count in (1, 4, 8)]
    for count, clips in zip((1, 4, 8), drawn, strict=True):
        assert Counter(labels[clips].tolist()) == {0: count, 1: count, 2: count}
        assert len(set(clips)) == len(clips) and set(clips) <= set(candidates)
    assert set(drawn[0]) < set(drawn[1]) < set(drawn[2])
    assert drawn[1] != few_shot.draw_clips(labels, candidates, 4, seed=2)
    with pytest.raises(ValueError, match="a class has only 8 clips to train on\nlower --per_class 9"):
        few_shot.draw_clips(labels, candidates, 9, seed=1)


@pytest.fixture
def base(data, tmp_path, monkeypatch):
    """The path of a network of one epoch."""
    config = tiny_config(data, tmp_path, monkeypatch)
    return str(train.main(train.with_fields(config, epochs=1)) / "last.pt")


def test_the_study(base, data, monkeypatch, capsys):
    evaluated, evaluate, trained, make_loader = [], engine.evaluate, [], few_shot.make_loader

    def spy_on_evaluation(model, batches, device):
        evaluated.append([batches.feeder.name[clip] for clip in batches.sampler.clips])
        return evaluate(model, batches, device)

    def spy_on_training(feeder, clips, batch_size, generator=None):
        if generator:
            trained.append(list(clips))
        return make_loader(feeder, clips, batch_size, generator)

    monkeypatch.setattr(engine, "evaluate", spy_on_evaluation)
    monkeypatch.setattr(few_shot, "make_loader", spy_on_training)
    monkeypatch.setattr(engine, "count_flops", lambda *_: 0)  # takes seconds
    monkeypatch.setattr(few_shot, "PER_CLASS_TO_CHOOSE", 1)
    options = [base, "--data", str(data / "xview"), "--per_class", "1", "3", "--steps", "2"]
    options += ["--seeds", "4", "--learning_rates", "0.01", "0.02", "--validation_camera", "2"]
    few_shot.main(options)
    record = json.loads(Path("results/few_shot.json").read_text())
    runs = record["runs"]
    assert [run["evaluated_on"] for run in runs] == ["training camera 2"] * 6 + ["test"] * 6
    assert [run["clips"] for run in runs] == [4] * 9 + [12] * 3
    assert {run["steps"] for run in runs} == {2}
    cameras = read_meta(data / "xview")["camera"]["train"]
    assert all(cameras[clip] != 2 for clips in trained[:6] for clip in clips)
    train_names, test_names = (
        read_labels(split_files(data / "xview", s)[1])[0] for s in ("train", "val")
    )
    held_out = [name for name, camera in zip(train_names, cameras, strict=True) if camera == 2]
    assert evaluated == [held_out] * 6 + [test_names] * 6
    # The same clips for all starts; the best learning rate of each.
    assert all(trained[i] == trained[i + 1] == trained[i + 2] for i in (6, 9))
    for start, rate in record["learning_rates"].items():
        mine = [run for run in runs if run["start"] == start]
        scores = {run["learning_rate"]: run["accuracy"]["fused"] for run in mine[:2]}
        assert scores[rate] == max(scores.values())
        assert [run["learning_rate"] for run in mine[2:]] == [rate, rate]
    assert_picture(Path("github/few_shot.png"))
    assert "fine-tuned     3" in capsys.readouterr().out
    # A second start repeats nothing.
    monkeypatch.setattr(train, "Run", None)
    few_shot.main(options)
    assert json.loads(Path("results/few_shot.json").read_text()) == record
    with pytest.raises(SystemExit, match="holds a study of other settings\ngive another --out"):
        few_shot.main([*options, "--steps", "3"])
