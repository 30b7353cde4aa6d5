"""cross_validate.py on tiny folds: results, going on after a stop, and what is refused."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from test_sbu import write_sbu

import cross_validate
import plot
import test as test_script
import train
from convert_data import convert
from skeletons.readers import open_input
from skeletons.storage import find_folds
from training import engine
from training.checkpoint import load_checkpoint, save_checkpoint

TINY = [
    "--hidden_size", "6", "--part_hidden_size=3", "--window_size=8", "--spatial_window=8",
    "--batch_size=8", "--epochs=2", "--milestones", "1", "--device=cpu", "--name", "cv",
]  # fmt: skip


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with SBU/fold1, ..., of 10 clips: 2 in each."""
    monkeypatch.chdir(tmp_path)
    for picture in ("curves", "confusion", "report"):
        monkeypatch.setattr(plot, picture, lambda *_: None)
    convert(open_input([write_sbu(tmp_path / "raw")], "sbu"), "SBU")
    return tmp_path


def cross_validation(capsys, *options):
    """Run the command -> (record, lines of its output)."""
    cross_validate.main(["SBU", *TINY, *options])
    lines = capsys.readouterr().out.splitlines()
    path = "checkpoints/cv/cross_validation.json"
    assert lines[-1].replace("\\", "/") == path
    with open(path, encoding="utf-8") as file:
        return json.load(file), lines


def test_each_clip_is_tested_once_by_a_network_that_has_not_seen_it(workplace, capsys, monkeypatch):
    record, lines = cross_validation(capsys)
    assert list(record["folds"]) == [f"fold{i}" for i in range(1, 6)] and record["clips"] == 10
    for stream in engine.STREAMS:
        accuracies = [fold["results"][stream]["accuracy"] for fold in record["folds"].values()]
        assert record["results"][stream]["accuracy"] == pytest.approx(np.mean(accuracies))
        assert record["mean"][stream] == pytest.approx(np.mean(accuracies))
        assert record["standard_deviation"][stream] == pytest.approx(np.std(accuracies, ddof=1))
    row = next(line.split() for line in lines if line.startswith("all clips"))
    assert row[2] == "10" and float(row[-2]) == round(100 * record["results"]["fused"]["accuracy"], 2)
    test_script.main(["checkpoints/cv/fold2/last.pt", "--device=cpu"])
    with open("checkpoints/cv/fold2/last_test.json", encoding="utf-8") as file:
        one = json.load(file)
    assert one["results"] == record["folds"]["fold2"]["results"] and one["epoch"] == 2
    assert one["config"]["validation_ratio"] == 0 and one["clips"] == 2
    # Again: nothing is trained, the same results.
    monkeypatch.setattr(train, "main", lambda *_: pytest.fail("trained again"))
    again, lines = cross_validation(capsys)
    assert again == record and sum(line.endswith("finished before") for line in lines) == 5


def test_the_same_command_goes_on_after_a_stop(workplace, capsys, monkeypatch):
    expected, _ = cross_validation(capsys)
    shutil.rmtree("checkpoints/cv")
    train_epoch, calls = engine.train_epoch, []

    def stop_at_the_fourth(*arguments, **options):
        calls.append(0)
        if len(calls) == 4:  # the second of fold2
            raise engine.Interrupted
        return train_epoch(*arguments, **options)

    monkeypatch.setattr(engine, "train_epoch", stop_at_the_fourth)
    with pytest.raises(SystemExit) as stopped:
        cross_validate.main(["SBU", *TINY])
    assert stopped.value.code == 143
    assert "the same command goes on" in capsys.readouterr().err
    record, _ = cross_validation(capsys)
    assert len(calls) == 4 + 1 + 6 and record == expected


def test_runs_of_other_settings_or_data_are_not_taken_for_these(workplace, capsys):
    cross_validation(capsys)
    with pytest.raises(SystemExit, match=r"fold1 holds another run: .*: seed\nchoose another --name"):
        cross_validate.main(["SBU", *TINY, "--seed=1"])
    shutil.copytree("SBU", "other/SBU")
    with pytest.raises(SystemExit, match=r"fold1 holds another run: it was trained on SBU.fold1\n"):
        cross_validate.main(["other/SBU", *TINY])
    os.utime("SBU/fold2/train_data.npy", (2e9, 2e9))
    with pytest.raises(SystemExit, match=r"fold2 holds another run: SBU.fold2 was converted again"):
        cross_validate.main(["SBU", *TINY])


@pytest.mark.parametrize("option", ["--data=x", "--validation-ratio=0.1", "--resume", "--overwrite"])
def test_options_that_cross_validation_sets(option, workplace):
    with pytest.raises(SystemExit, match=r"is an option of train.py only\nleave it out"):
        cross_validate.main(["SBU", *TINY, option])


def test_folds_that_do_not_belong_together(workplace):
    (workplace / "SBU/fold5").rename("SBU/fold10")
    names = [fold.name for fold in find_folds(workplace / "SBU")]
    assert names == ["fold1", "fold2", "fold3", "fold4", "fold10"]
    shutil.copytree("SBU/fold1", "SBU/fold6")
    with pytest.raises(SystemExit, match=r"fold1 does not belong to the other folds: .*\nremove"):
        cross_validate.main(["SBU", *TINY])
    shutil.rmtree("SBU/fold6")
    shutil.rmtree("SBU/fold2")
    with pytest.raises(SystemExit, match=r"does not belong to the other folds"):
        cross_validate.main(["SBU", *TINY])
    with pytest.raises(SystemExit, match=r"fold1 does not contain folds .*\nmake them with"):
        cross_validate.main(["SBU/fold1", *TINY])
    assert not (workplace / "checkpoints").exists()


def test_an_ensemble_is_the_mean_of_the_posteriors(workplace, capsys):
    for name, seed in (("a", "0"), ("b", "1")):
        cross_validate.main(["SBU", *TINY, "--name", name, "--seed", seed])
    cross_validate.main(["SBU", "--ensemble", "a", "b", "--name", "both"])
    with open("checkpoints/both/cross_validation.json", encoding="utf-8") as file:
        record = json.load(file)
    with open("checkpoints/a/cross_validation.json", encoding="utf-8") as file:
        one = json.load(file)
    assert (record["ensemble_size"], one["ensemble_size"], record["clips"]) == (2, 1, 10)
    assert record["training_precision"] == one["training_precision"] == "float32"
    assert record["parameters"] == 2 * one["parameters"] and record["flops"] == 2 * one["flops"]
    assert (record["config"]["data"], record["config"]["name"]) == ("SBU", "both")
    test_script.main(["checkpoints/a/fold3/last.pt", "checkpoints/b/fold3/last.pt", "--out", "."])
    with open("fold3-last+fold3-last_test.json", encoding="utf-8") as file:
        assert json.load(file)["results"] == record["folds"]["fold3"]["results"]


def test_an_ensemble_is_of_finished_folds(workplace, capsys):
    cross_validate.main(["SBU", *TINY])
    shutil.copytree("checkpoints/cv", "checkpoints/validated")
    checkpoint = load_checkpoint(Path("checkpoints/validated/fold1/last.pt"))
    checkpoint["clips"]["validation"] = 2
    save_checkpoint(Path("checkpoints/validated/fold1/last.pt"), checkpoint)
    shutil.copytree("checkpoints/cv", "checkpoints/leaking")  # with a network that saw the test clips
    shutil.copy("checkpoints/cv/fold1/last.pt", "checkpoints/leaking/fold2/last.pt")
    shutil.copytree("checkpoints/cv", "checkpoints/short")
    shutil.rmtree("checkpoints/short/fold2")
    for names, name, message in (
        (["cv"], "./cv", "cv holds a run\nchoose another --name"),
        (["cv"], "short", "short holds a run\nchoose another --name"),
        (["cv", "./cv"], "both", "names a run twice\n"),
        (["cv", ""], "both", "a name is empty\n"),
        (["cv", "short"], "both", r"short.fold2 is no finished run .* missing\nmake it"),
        (["leaking"], "both", r"leaking.fold2 is no finished run .* trained on SBU.fold1\nmake it"),
        (["validated"], "both", r"validated.fold1 is no finished run .* not trained on all clips"),
    ):
        with pytest.raises(SystemExit, match=message):
            cross_validate.main(["SBU", "--ensemble", *names, "--name", name])
    assert not (workplace / "checkpoints/both").exists()
    cross_validate.main(["SBU", "--ensemble", "cv", "--name", "alone"])
    with pytest.raises(SystemExit, match="alone holds the result of an ensemble\nchoose another"):
        cross_validate.main(["SBU", *TINY, "--name", "alone"])
