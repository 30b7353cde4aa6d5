"""train.py in this process: settings, runs, resuming, stopping."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import contents
from train_helpers import STILL, StopAt, assert_same_run, changed, equal, load, log_of, tiny_config

import train
from feeder import Feeder
from skeletons.storage import read_meta, split_files
from training import engine
from training.checkpoint import build_model, load_checkpoint, save_checkpoint
from training.loader import make_loader

ROOT = Path(train.__file__).parent


@pytest.fixture
def config(data, tmp_path, monkeypatch):
    return tiny_config(data, tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The folder of an uninterrupted run with the same configuration."""
    with pytest.MonkeyPatch.context() as patch:
        config = tiny_config(data, tmp_path_factory.mktemp("whole"), patch)
        return train.main(config).resolve()


# --- Settings -----------------------------------------------------------------------------------------


def test_the_default_is_the_run_of_the_earlier_implementation():
    values = train.flat(train.Config())
    assert values["data"] == "NTU-RGB-D/xview"
    assert (values["spatial"], values["temporal"]) == ("traversal", "hierarchical")
    assert (values["batch_size"], values["learning_rate"], values["epochs"]) == (256, 0.001, 300)
    assert (values["milestones"], values["gamma"], values["window_size"]) == ((100, 160, 220), 0.5, 100)
    assert train.make_config("baseline") == train.make_config() == train.Config()


def test_presets_name_fields_that_exist():
    names = train.flat(train.Config()).keys()
    for preset, values in train.PRESETS.items():
        assert values.keys() <= names
        config = train.make_config(preset)
        assert values.items() <= train.flat(config).items()
        train.validate(config)


def test_field_names_are_unique():
    """So that a name alone says which field is meant."""
    groups = asdict(train.Config())
    names = [name for name, value in groups.items() if not isinstance(value, dict)]
    names += [name for value in groups.values() if isinstance(value, dict) for name in value]
    assert len(names) == len(set(names)) == len(train.flat(train.Config()))


def test_make_config():
    config = train.make_config("small", hidden_size=7, seed=2, rotate=(0.0, 0.1, 0.2))
    assert (config.network.hidden_size, config.seed) == (7, 2)
    assert config.augmentation.rotate == (0.0, 0.1, 0.2)
    assert config.optimization.milestones == train.PRESETS["small"]["milestones"]
    assert train.config_from_dict(json.loads(json.dumps(asdict(config)))) == config
    with pytest.raises(
        ValueError, match=r"no such setting: hiden_size\nchoose from data, name.*hidden_"
    ):
        train.make_config(hiden_size=7)
    with pytest.raises(ValueError, match=r"no such setting: network\n"):
        train.make_config(network={})
    with pytest.raises(
        ValueError,
        match=r"preset='large' is unknown\nchoose from baseline, paper, small, full, live, demo",
    ):
        train.make_config("large")


def test_every_field_is_an_option_with_help(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as done:
        train.parse_command_line(["--help"])
    assert done.value.code == 0
    texts, name = {}, ""
    for line in capsys.readouterr().out.partition("--help")[2].splitlines():
        line = line.strip("\u2502| ")
        if option := re.match(r"--(\w+)", line):
            name = option[1]
        texts[name] = f"{texts.get(name, '')} {line}"
    others = {"preset", "config", "resume", "overwrite"}
    assert texts.keys() - {""} == train.flat(train.Config()).keys() | others
    for name in texts.keys() - {""}:  # a text between the option with its values and its default
        text = re.sub(r"--\w+|[A-Z]{3,}|\{.*?\}|[][.,]", "", texts[name].partition("(default:")[0])
        assert len(text.split()) > 1, texts[name]
        texts[name] = " ".join(text.split())
    assert len(set(texts.values())) == len(texts)  # none has the text of another
    assert texts["hidden_size"] == "units of a layer in each direction"  # (without capitals)


def test_options():
    options = "--preset small --hidden_size 32 --milestones 3 5 --rotate 0 0.5 0 --no_normalization"
    config, resume, overwrite = train.parse_command_line([*options.split(), "--overwrite"])
    assert (resume, overwrite) == (False, True)
    assert config == train.make_config(
        "small", hidden_size=32, milestones=(3, 5), rotate=(0.0, 0.5, 0.0), normalization=False
    )
    modalities = train.parse_command_line(["--modalities", "joint", "bone"])[0].extensions.modalities
    assert modalities == ("joint", "bone")
    for wrong in ("--spatial tree", "--preset big", "--crop_ratio 0.5 0.9 1", "--rotate 0.1 0.2",
                  "--hidden", "--epochs many", "--unknown 3"):  # fmt: skip
        with pytest.raises(SystemExit) as done:
            train.parse_command_line(wrong.split())
        assert done.value.code == 2


@pytest.mark.parametrize(
    "values, message",
    [
        ({"epochs": 0}, "epochs=0 is not allowed\nepochs must be a whole number from 1"),
        ({"batch_size": 2.5}, "batch_size=2.5 is not allowed"),
        ({"spatial_stride": -3}, "spatial_stride=-3 is not allowed"),
        ({"num_workers": -1}, "num_workers=-1 is not allowed"),
        ({"milestones": (3, -1)}, "milestones=-1 is not allowed"),
        ({"label_smoothing": 5.0}, "label_smoothing=5.0 is not allowed\n.* from 0 to less than 1"),
        ({"dropout": math.nan}, "dropout=nan is not allowed"),
        ({"learning_rate": math.inf}, "learning_rate=inf is not allowed\n.* above 0"),
        ({"max_grad_norm": math.nan}, "max_grad_norm=nan is not allowed"),
        ({"validation_ratio": -1.0}, "validation_ratio=-1.0 is not allowed"),
        ({"device": "meta"}, "device 'meta' cannot be used here"),
        ({"modalities": ()}, "modalities="),
        ({"schedule": "linear"}, "schedule='linear'.*\nchoose from multistep, cosine"),
        ({"precision": "fp4"}, "precision='fp4'.*\nchoose from auto, float32, mixed"),
        ({"device": "gpu"}, "device 'gpu' cannot be used here"),
        ({"window_size": 8}, "shorter than the spatial window"),
        ({"temporal_weight": 3.0}, "temporal_weight=3.0"),
        ({"crop_ratio": (0.5, 1.5)}, "^crop_ratio=.* is not allowed\ncrop_ratio must be"),
        ({"rotate": (9.0, 0.0, 0.0)}, "^rotate=.* is not allowed"),
        ({"num_layers": 1}, "num_layers"),
        ({"window_layers": 2}, "window_layers"),
        ({"causal": True, "view_adaptation": 3}, "view_adaptation"),
        ({"causal": True, "reference_frame": "pair"}, "may not have read yet\nchoose"),
        ({"causal": True, "time_warp": 0.3}, "nor --causal.\nchoose time_warp=0"),
        ({"causal": True, "resample": False}, "reads whole clips\nleave resample=False out"),
        ({"random_start": 0.3}, "random_start need front_padding .*--no_resample"),
        ({"chain_legs": "knees"}, "chain_legs='knees'.*\nchoose from feet, hips"),
        ({"optimizer": "adam"}, "optimizer='adam'.*\nchoose from adamw, sgd"),
        ({"momentum": 1.0}, "momentum=1.0 is not allowed\n.* less than 1"),
        ({"transform_prob": 2.0}, "^transform_prob=2.0 is not allowed"),
        ({"causal": True, "window_size": 20, "spatial_window": 30}, "would read nothing"),
        ({"spatial": "tree"}, "spatial='tree'.*\nchoose from chain, traversal"),
        ({"pooling": "sum"}, "pooling='sum'.*\nchoose from max, mean, last"),
        ({"reference_frame": "foot"}, "^reference_frame='foot'"),
        ({"shear": -0.1}, "^shear=-0.1 is not allowed"),
        ({"window_size": -5}, "window_size=-5 is not allowed"),
        ({"bidirectional": "no"}, "bidirectional='no' is not allowed\n.* True or False"),
        ({"name": "../outside"}, "name='../outside' is not allowed\n.* inside checkpoints/"),
        ({"name": "a/../../b"}, "name='a/../../b' is not allowed"),
        ({"name": "."}, r"name='\.' is not allowed"),
        ({"name": " "}, "name=' ' is not allowed"),
        *(({"name": n}, r"\nname must be free of .* Windows") for n in ("lr:1", "con", "a/NUL.x", "?")),
        ({"name": str(Path.cwd())}, "is not allowed"),
    ],
)
def test_settings_that_cannot_be(config, values, message):
    """The field is named before the data is read, and nothing is written."""
    with pytest.raises(ValueError, match=message):
        train.main(changed(config, data="missing", **values))
    assert not Path("checkpoints").exists()


def test_a_run_is_repeated_from_its_config(config, whole, capsys):
    path = str(whole / "config.json")
    given = ["--config", path, "--data", config.data, "--name", "again"]
    train.run_command([*given, "--local-rank=0"])  # (as torch.distributed.launch adds it)
    assert_same_run(whole, Path("checkpoints/again"))
    assert train.parse_command_line([*given, "--epochs", "9"])[0].optimization.epochs == 9
    settings = json.loads(Path(path).read_text())["config"]
    settings["optimization"].pop("gamma")
    # (With a byte order mark, as some editors write it.)
    Path("older.json").write_text(json.dumps({"config": settings}), encoding="utf-8-sig")
    assert train.flat(train.read_config("older.json")) == train.flat(train.read_config(path))
    assert capsys.readouterr().err.endswith("older.json has no gamma: the defaults are used\n")
    Path("other.json").write_text('{"config": {"hiden_size": 7}}')
    Path("preset.json").write_text('{"config": {"preset": "demo"}}')
    Path("type.json").write_text('{"config": {"milestones": 5}}')
    Path("inner.json").write_text('{"data": ""}')
    for options, message in (
        (["--config", path, "--preset", "small"], "--config excludes --preset and --resume"),
        (["--config", path, "--resume"], "--config excludes --preset and --resume"),
        (["--config", "gone.json"], "gone.json cannot be read: No such file"),
        (["--config", "other.json"], "other.json does not hold .* run: no such setting: hiden_size\n"),
        (["--config", "preset.json"], "no such setting: preset\n"),
        (["--config", "type.json"], "milestones=5 is not allowed\n"),
        (["--config", "inner.json"], "'config' is missing\n"),
    ):
        with pytest.raises(ValueError, match=message):
            train.parse_command_line(options)


def test_run_names():
    for data in ("NTU-RGB-D/xview", "NTU-RGB-D/xview/", "/home/me/NTU-RGB-D/xview"):
        assert train.run_name(train.Config(data=data)) == "NTU-RGB-D-xview-traversal-hierarchical"
    for data in ("xsub", "../xsub", "./xsub", "/xsub"):
        assert train.run_name(train.Config(data=data)) == "xsub-traversal-hierarchical"
    assert train.run_name(train.Config(name="mine")) == "mine"


def test_learning_rates():
    def factors(**values):
        optimization = train.make_config(epochs=8, **values).optimization
        return [train.learning_rate_factor(optimization, epoch) for epoch in range(8)]

    assert factors(milestones=(2, 5)) == [1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25]
    cosine = factors(schedule="cosine")
    assert cosine[0] == 1 and cosine[4] == pytest.approx(0.5) and 0 < cosine[7] < 0.05
    assert factors(warmup_epochs=3, milestones=()) == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]


# --- Runs ---------------------------------------------------------------------------------------------


def test_a_run_needs_no_test_clips_and_leaves_everything_behind(config, capsys):
    """The original chose its best epoch on the test clips; here training cannot even see them."""
    folder = train.main(config)
    assert {p.name for p in folder.iterdir()} == {"config.json", "log.jsonl", "last.pt", "best.pt"}
    about = json.loads((folder / "config.json").read_text())
    assert about["config"] == json.loads(json.dumps(asdict(config)))
    assert about["clips"] == {"train": 16, "validation": 8} and about["commit"] == "abc"
    model = build_model(load(folder))
    assert about["parameters"] == sum(p.numel() for p in model.parameters())
    assert about["flops"] == engine.count_flops(model, 16)
    lines = log_of(folder)
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert [line["learning_rate"] for line in lines] == [0.001, 0.001, 0.0005, 0.00025]

    def score(line):
        fused = line["validation"]["fused"]
        return fused["accuracy"], -fused["loss"]

    assert load(folder, "best.pt")["epoch"] == max(lines, key=score)["epoch"]
    assert load(folder)["epoch"] == 4
    printed = capsys.readouterr().out
    assert "16 training clips, 8 validation clips" in printed and "epoch   4" in printed
    assert "validation: loss" in printed and f"now: python test.py {folder / 'best.pt'}" in printed


def test_the_same_seed_gives_the_same_run(config, whole):
    assert_same_run(whole, train.main(config))
    other = train.main(changed(config, name="other", seed=4, epochs=1))
    assert log_of(other)[0]["train"] != log_of(whole)[0]["train"]


def test_worker_processes_and_mmap_change_nothing(config, whole):
    assert_same_run(whole, train.main(changed(config, num_workers=2, mmap=True)))


def test_which_clips_are_trained_on_and_which_choose_the_best(config, monkeypatch):
    """Validation clips are never trained on, and are preprocessed as in a test."""
    loaders = []

    def spy(feeder, clips, batch_size, generator=None, *rest):
        loaders.append((feeder, list(clips), generator))
        return make_loader(feeder, clips, batch_size, generator, *rest)

    monkeypatch.setattr(train, "make_loader", spy)
    augmentation = {"crop_ratio": (0.7, 0.9), "rotate": (0.1, 0.2, 0.3), "scale": 0.05, "shear": 0.02}
    augmentation |= {
        "bone_length_jitter": 0.04,
        "tracking_noise": 0.06,
        "time_warp": 0.07,
        "crop_prob": 0.8,
        "flip_prob": 0.2,
        "swap_sides_prob": 0.1,
    }
    train.main(changed(config, epochs=1, **augmentation))
    (feeder, trained, shuffled), (evaluation, validation, in_order) = loaders
    subjects = read_meta(config.data)["subject"]["train"]
    assert len(trained) == 16 and sorted(trained + validation) == list(range(24))
    assert not {subjects[i] for i in trained} & {subjects[i] for i in validation}
    assert shuffled and not in_order
    options = feeder.preprocess.options()
    assert options["p_interval"] == (0.7, 0.9) and options["rand_rotate"] == (0.1, 0.2, 0.3)
    assert (options["rand_scale"], options["rand_shear"]) == (0.05, 0.02)
    assert (options["rand_bone_scale"], options["rand_flip"]) == (0.04, 0.2)
    assert (options["rand_swap_sides"], options["rand_noise"]) == (0.1, 0.06)
    assert (options["rand_time_warp"], options["rand_crop"]) == (0.07, 0.8)
    assert evaluation.preprocess == feeder.eval().preprocess != feeder.preprocess


def test_dropout_is_on_in_training_and_off_in_evaluation(config, monkeypatch):
    modes, forward = [], train.TwoStreamRNN.forward

    def spy(self, clips):
        modes.append((self.training, len(clips.visible)))
        return forward(self, clips)

    monkeypatch.setattr(train, "validate", lambda config: None)
    monkeypatch.setattr(train.TwoStreamRNN, "forward", spy)
    train.main(changed(config, epochs=1))
    # One to count FLOPs; 16 clips to train on; 8 for validation.
    training, validation = [(True, 5)] * 3 + [(True, 1)], [(False, 5), (False, 3)]
    assert modes == [(False, 1), *training, *validation]


def test_both_streams_learn(config):
    """Far above chance (a quarter) on their own training clips, and so in a test of them."""
    quick = {"epochs": 25, "learning_rate": 0.01, "milestones": (20,), "validation_ratio": 0.0}
    folder = train.main(changed(config, **STILL, **quick))
    last = log_of(folder)[-1]["train"]
    assert min(last[stream]["accuracy"] for stream in engine.STREAMS) > 0.7
    checkpoint = load(folder)
    feeder = Feeder(*split_files(config.data, "train"), **checkpoint["preprocessing"])
    batches = make_loader(feeder, range(len(feeder)), 8)
    results = engine.evaluate(build_model(checkpoint), batches, "cpu")[0]
    assert min(results[stream]["accuracy"] for stream in engine.STREAMS) > 0.7


def test_settings_reach_the_optimizer_and_the_network(config, monkeypatch):
    steps = []

    class Spy(engine.TrainingStep):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            steps.append(self)

    monkeypatch.setattr(engine, "TrainingStep", Spy)
    values = {"label_smoothing": 0.2, "max_grad_norm": 0.7, "weight_decay": 0.02}
    checkpoint = load(train.main(changed(config, epochs=1, **values, learning_rate=0.003)))
    assert (steps[0].label_smoothing, steps[0].max_grad_norm) == (0.2, 0.7)
    group = checkpoint["optimizer"]["param_groups"][0]
    assert (group["weight_decay"], group["lr"]) == (0.02, 0.003)
    # Biases and normalization layers do not decay.
    model = build_model(checkpoint)
    matrices = [weights.ndim > 1 for weights in model.parameters()]
    groups = checkpoint["optimizer"]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.02, 0.0]
    assert [len(group["params"]) for group in groups] == [sum(matrices), len(matrices) - sum(matrices)]
    assert checkpoint["model_args"]["network"] == asdict(config.network)
    assert checkpoint["model_args"]["extensions"] == asdict(config.extensions)
    assert checkpoint["preprocessing"] == {
        "window_size": 16, "crop_resize": True, "front_padding": False, "origin_transfer": "body",
        "normalization": True,
    }  # fmt: skip
    assert (
        checkpoint["augmentation"].keys()
        <= Feeder(*split_files(config.data, "train")).preprocess.options().keys()
    )


def test_the_modality_partner_is_for_data_with_two_bodies(config):
    """Without, the network, and each number of its run, is the one without this modality."""
    with_partner = changed(config, epochs=1, modalities=("joint", "partner"), name="two")
    of_two = load(train.main(with_partner))["model_args"]["extensions"]
    assert tuple(of_two["modalities"]) == ("joint", "partner")
    per_frame = changed(with_partner, reference_frame="per-frame", name="per-frame")
    with pytest.raises(ValueError, match=r"origin of its own, .*\n.*: --modalities joint, or choose"):
        train.main(per_frame)
    in_pair = load(train.main(changed(with_partner, reference_frame="pair", name="pair")))
    assert in_pair["model_args"]["opposite_axes"] and build_model(in_pair).opposite_axes
    earlier = Path("checkpoints/pair/last.pt")
    contents = load_checkpoint(earlier)
    del contents["model_args"]["opposite_axes"]  # as an earlier version wrote it
    save_checkpoint(earlier, contents)
    in_pair = changed(with_partner, reference_frame="pair", name="pair", epochs=2)
    with pytest.raises(ValueError, match=r"read partners in other axes, began the run\ntrain again"):
        train.main(in_pair, resume=True)
    with pytest.raises(ValueError, match=r"earlier version .* in other axes\nstart from"):
        train.main(changed(in_pair, init=str(earlier), name="fine-tuned"))
    path = Path(config.data) / "train_data.npy"
    of_two = np.load(path)
    np.save(path, np.concatenate((of_two, of_two[..., :1]), -1))
    whole = changed(with_partner, reference_frame="body")
    with pytest.raises(ValueError, match=r"3 bodies .* read two\n.*: --modalities joint"):
        train.main(whole, overwrite=True)
    of_pairs = changed(whole, modalities=("joint",), reference_frame="pair")
    with pytest.raises(ValueError, match=r"a third body, .*pair .*\n.* --reference_frame body"):
        train.main(of_pairs, overwrite=True)
    np.save(path, np.concatenate((0 * of_two, of_two[..., :1]), -1))  # alone, in the third slot
    with pytest.raises(ValueError, match="a third body"):
        train.main(of_pairs, overwrite=True)
    np.save(path, np.concatenate((of_two, 0 * of_two[..., :1]), -1))  # an empty third slot
    train.main(changed(of_pairs, name="three slots"))
    assert Path("checkpoints/two/last.pt").is_file()  # (a run that is refused replaces no other one)
    np.save(path, of_two * np.array([1, 0], np.float32))
    with_partner = changed(with_partner, name="one")
    one, expected = train.main(with_partner), train.main(changed(config, epochs=1))
    assert_same_run(one, expected)
    assert load(one)["model_args"] == load(expected)["model_args"]
    mapped = changed(with_partner, name="mapped", mmap=True)
    assert load(train.main(mapped))["model_args"] == load(expected)["model_args"]
    train.main(changed(with_partner, epochs=2), resume=True)


def test_a_causal_network_reads_consecutive_frames_and_is_tested_on_whole_clips(config):
    checkpoint = load(train.main(changed(config, epochs=1, causal=True, spatial_window=8)))
    assert checkpoint["preprocessing"] == {
        "window_size": 0, "crop_resize": False, "front_padding": False, "origin_transfer": "body",
        "normalization": "first-frame",
    }  # fmt: skip
    assert checkpoint["augmentation"]["random_choose"]


PAPER = {name: value for name, value in train.PRESETS["paper"].items() if name != "milestones"}


def test_the_paper_reads_first_or_last_frames_and_is_tested_on_the_first(config):
    paper = changed(config, **PAPER | {"spatial_window": 4, "epochs": 1})
    checkpoint = load(train.main(paper))
    assert checkpoint["preprocessing"] == {
        "window_size": 16, "crop_resize": False, "front_padding": True,
        "origin_transfer": "part-centres", "normalization": False,
    }  # fmt: skip
    augmentation = checkpoint["augmentation"]
    assert augmentation["rand_end"] and augmentation["rand_uniform"]
    assert (augmentation["rand_start"], augmentation["rand_prob"]) == (0.3, 0.5)
    group = checkpoint["optimizer"]["param_groups"][0]
    assert (group["momentum"], group["nesterov"], group["lr"]) == (0.9, True, 0.02)


def test_resuming_the_paper_s_training_equals_no_interruption(config):
    """The momentum of the optimizer is saved."""
    paper = changed(config, **PAPER | {"spatial_window": 4})
    whole = train.main(changed(paper, name="whole"))
    with pytest.raises(engine.Interrupted):
        train.main(paper, stop=StopAt(9))
    assert_same_run(whole, train.main(paper, resume=True))


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_sgd_is_nesterov_s(momentum):
    """Against the update as its authors write it: w += -m v + (1 + m) v', v' = m v - lr g."""
    weights = torch.nn.Linear(3, 2)
    expected, velocity = weights.weight.detach().clone(), torch.zeros(2, 3)
    optimization = train.OptimizationConfig(optimizer="sgd", momentum=momentum, learning_rate=0.02)
    optimizer = train.make_optimizer(weights, optimization)
    for step in range(4):
        x = torch.arange(3.0) + step
        optimizer.zero_grad()
        weights(x).square().sum().backward()
        before, velocity = velocity, momentum * velocity - 0.02 * weights.weight.grad
        expected += (1 + momentum) * velocity - momentum * before
        optimizer.step()
        torch.testing.assert_close(weights.weight.detach(), expected)


def test_the_split_has_a_seed_of_its_own(config):
    def validation(**seeds):
        return load(train.main(changed(config, epochs=1, **seeds), overwrite=True))["validation"]

    splits = [validation(seed=seed) for seed in (0, 1, 2)]
    assert splits[0] == splits[1] == splits[2]
    assert any(validation(split_seed=seed) != splits[0] for seed in (1, 2, 3))
    # A run of before had one seed for both.
    old = asdict(changed(config, seed=5))
    old.pop("split_seed")
    assert train.config_from_dict(old).split_seed == 5


def test_a_window_as_long_as_the_longest_training_clip(config):
    checkpoint = load(train.main(changed(config, window_size=0, epochs=1)))
    longest = Feeder(*split_files(config.data, "train")).num_frame.max()
    assert checkpoint["preprocessing"]["window_size"] == longest


def test_without_validation_clips_best_is_the_last_epoch(config):
    folder = train.main(changed(config, validation_ratio=0.0, epochs=2))
    assert load(folder, "best.pt")["epoch"] == 2
    assert "validation" not in log_of(folder)[0]


def test_a_camera_for_validation(config):
    folder = train.main(changed(config, validation_camera=2, epochs=1))
    cameras = read_meta(config.data)["camera"]["train"]
    assert load(folder)["validation"] == [i for i, camera in enumerate(cameras) if camera == 2]


def test_meta_json_of_other_data(config):
    path = Path(config.data, "meta.json")
    meta = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(meta | {"classes": meta["classes"][:5]}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"meta\.json does not belong to the arrays.*\nconvert"):
        train.main(config)


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
        train.main(changed(config, tensorboard=True))
    fake = SimpleNamespace(SummaryWriter=SummaryWriter)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    folder = train.main(changed(config, tensorboard=True, epochs=2))
    for line in log_of(folder):
        accuracy = line["validation"]["fused"]["accuracy"]
        assert logged["accuracy/fused/validation", line["epoch"]] == accuracy
        assert logged["loss/spatial/train", line["epoch"]] == line["train"]["spatial"]["loss"]
    assert len(logged) == 2 * (2 * 9 + 1)
    train.main(changed(config, tensorboard=True, epochs=4), resume=True)
    assert len(logged) == 4 * (2 * 9 + 1) and purged == [1, 3]


# --- Earlier runs, resuming, stopping -----------------------------------------------------------------


def test_a_run_is_not_overwritten_by_accident(config):
    folder = train.main(changed(config, epochs=1))
    before = (folder / "log.jsonl").read_text()
    with pytest.raises(ValueError, match=r"holds a run\n.*--resume.*--name.*--overwrite"):
        train.main(config)
    with pytest.raises(ValueError, match="shorter than the spatial window"):
        train.main(changed(config, window_size=8), overwrite=True)
    assert (folder / "log.jsonl").read_text() == before and load(folder)["epoch"] == 1
    (folder / "last_test.json").write_text("of the old network")
    (folder / "notes.txt").write_text("mine")
    train.main(changed(config, epochs=2), overwrite=True)
    assert len(log_of(folder)) == 2 and not (folder / "last_test.json").exists()
    assert (folder / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("num_workers", [0, 1])
def test_resuming_equals_no_interruption(config, whole, num_workers):
    config = changed(config, num_workers=num_workers)
    broken = train.main(changed(config, name="broken", epochs=2))
    torch.manual_seed(99)
    train.main(changed(config, name="broken"), resume=True)
    assert_same_run(whole, broken)


# After a step of the first epoch, at its end, after a step of the second, at the end of the third.
@pytest.mark.parametrize(
    "times, saved, num_workers", [(1, 0, 0), (4, 1, 0), (6, 1, 0), (12, 3, 0), (6, 1, 1)]
)
def test_a_stop_loses_at_most_the_epoch_in_progress(config, whole, times, saved, num_workers):
    broken = changed(config, name="broken", num_workers=num_workers)
    with pytest.raises(engine.Interrupted):
        train.main(broken, stop=StopAt(times))
    folder = Path("checkpoints/broken")
    assert len(log_of(folder)) == saved
    assert (load(folder)["epoch"] if saved else 0) == saved
    assert (folder / "last.pt").exists() == bool(saved)
    torch.manual_seed(99)
    train.main(broken, resume=saved > 0)
    assert_same_run(whole, folder)


@pytest.mark.parametrize("validation_ratio", [0.3, 0.0])
@pytest.mark.parametrize("stopped_at", ["log.jsonl", "best.pt", "last.pt"])
def test_resuming_after_a_stop_while_saving(config, monkeypatch, validation_ratio, stopped_at):
    """Stopped in epoch 3 (or in the best one) while this file is written: half a line, or nothing of a
    checkpoint."""
    config = changed(config, validation_ratio=validation_ratio)
    whole = train.main(config)
    epoch = load(whole, "best.pt")["epoch"] if stopped_at == "best.pt" else 3

    def interrupted(partial, path, replace=Path.replace):
        if path.suffix == ".pt" and load_checkpoint(partial)["epoch"] == epoch:
            if stopped_at == "log.jsonl":
                log = path.parent / "log.jsonl"
                log.write_text(log.read_text()[:-20])
            if stopped_at in ("log.jsonl", path.name):
                raise KeyboardInterrupt
        replace(partial, path)

    broken = changed(config, name="broken")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", interrupted)
        train.main(broken)
    assert not list(Path("checkpoints/broken").glob("*.partial"))
    assert len((whole.parent / "broken/log.jsonl").read_text().splitlines()) == epoch
    train.main(broken, resume=(whole.parent / "broken/last.pt").exists())
    assert_same_run(whole, whole.parent / "broken")


KILLED = """
import os, signal, sys
sys.path[:0] = sys.argv[1:3]
import train
from training import run

written = 0

def killed(path, content, write=run.write_partial):
    global written
    written += path.name == "last.pt"
    if written < 3:
        return write(path, content)
    write(path, content[:1000])
    os.kill(os.getpid(), signal.SIGKILL)

run.write_partial = killed
train.main(train.config_from_dict(eval(sys.argv[3])))
"""


@contextmanager
def largest_file(size):
    """A limit on the size of files: what a quota or a full disk does to a write."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_disk_that_is_full_at_the_start(config):
    """The run that was to be replaced is still there."""
    folder = train.main(changed(config, epochs=1))
    before = contents(folder)
    with largest_file(100), pytest.raises(OSError, match=r"File too large: '.*config\.json'"):
        train.main(config, overwrite=True)
    assert contents(folder) == before


def test_a_full_disk(config, whole):
    """The epoch that cannot be saved leaves no trace; the run can go on."""
    folder = Path("checkpoints/run")
    with (
        largest_file(20_000),
        pytest.raises(OSError, match=r"epoch 1 .*; no epoch .*\nmake room, then"),
    ):
        train.main(config)
    assert contents(folder).keys() == {Path("config.json"), Path("log.jsonl")}
    train.main(changed(config, epochs=2))
    before = contents(folder)
    message = (
        r"epoch 3 cannot be saved: .*File too large: '.*run.last\.pt'; .*last\.pt holds epoch 2\n"
        "make room, then train again with --resume"
    )
    size = (folder / "best.pt").stat().st_size
    with largest_file(size + 10_000), pytest.raises(OSError, match=message):
        train.main(config, resume=True)
    after = contents(folder)
    assert after.pop(Path("config.json")) != before.pop(Path("config.json"))  # other epochs
    assert after == before
    train.main(config, resume=True)
    assert_same_run(whole, folder)


def test_a_checkpoint_that_cannot_be_replaced(config, monkeypatch):
    """As on Windows while another program reads it: the log does not have the epoch."""
    folder = train.main(changed(config, epochs=1))
    log, replace = (folder / "log.jsonl").read_text(), Path.replace

    def in_use(partial, path):
        if path.name == "last.pt":
            raise PermissionError("in use")
        return replace(partial, path)

    monkeypatch.setattr(Path, "replace", in_use)
    with pytest.raises(OSError, match=r"epoch 2 cannot be saved: in use; .*last\.pt holds epoch 1\n"):
        train.main(config, resume=True)
    assert (folder / "log.jsonl").read_text() == log and not list(folder.glob("*.partial"))


HOLDER = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from skeletons.lock import FileLock
lock = FileLock(Path("checkpoints/run/.lock"))
print(lock.acquire(), flush=True)
sys.stdin.read()
"""


def test_two_runs_of_one_name(config):
    """The second one is refused, until the first one ends, in whatever way."""
    folder = train.main(changed(config, epochs=1))
    before = contents(folder)
    command = [sys.executable, "-c", HOLDER, str(ROOT)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline().startswith(b"True")
        for options in ({"resume": True}, {"overwrite": True}, {}):
            with pytest.raises(ValueError, match=r"another process is .* run in .*run\nwait .* --name"):
                train.main(config, **options)
        other.kill()
    left = contents(folder)
    assert left.pop(Path(".lock")) == b"" and left == before
    train.main(changed(config, epochs=2), resume=True)
    assert len(log_of(folder)) == 2 and not (folder / ".lock").exists()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a system that kills processes")
def test_killed_while_the_last_checkpoint_is_written(config, whole):
    """benchmarks/kill_training.py does the same at random moments."""
    killed = changed(config, name="killed")
    command = [sys.executable, "-c", KILLED, str(ROOT), str(ROOT / "tests"), repr(asdict(killed))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    folder = Path("checkpoints/killed")
    assert (len(log_of(folder)), load(folder)["epoch"]) == (2, 2)
    train.main(killed, resume=True)
    assert_same_run(whole, folder)


def test_a_run_is_resumed_on_its_own_data_only(config):
    """The data may have moved; another benchmark's would put test clips into the training."""
    folder = train.main(changed(config, epochs=1))
    moved = f"{config.data}-moved"
    shutil.move(config.data, moved)
    train.main(changed(config, epochs=2, data=moved), resume=True)
    before = (folder / "log.jsonl").read_text()
    path = Path(moved, "meta.json")
    meta = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(meta | {"classes": meta["classes"][::-1]}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"is not the data of .*: other classes\n.*--data"):
        train.main(changed(config, data=moved), resume=True)
    assert (folder / "log.jsonl").read_text() == before


@pytest.mark.parametrize("log", ["gone", "half a line", "zeros"])
def test_resuming_without_a_whole_log(config, whole, log, capsys):
    """As after a crash of the machine, or where only last.pt was copied."""
    folder = train.main(changed(config, epochs=2))
    path = folder / "log.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(
        {"half a line": lines[0] + lines[1][:-20], "zeros": lines[0] + "\0" * 99}.get(log, "")
    )
    if log == "gone":
        path.unlink()
        (folder / "best.pt").unlink()
    train.main(config, resume=True)
    kept = 0 if log == "gone" else 1
    assert f"log.jsonl: only {kept} of 2 epochs can be read\n" in capsys.readouterr().err
    assert [line["epoch"] for line in log_of(folder)] == [1, 3, 4][1 - kept :]
    assert equal(load(folder)["model"], load(whole)["model"])
    assert load(folder, "best.pt")["epoch"] > (2 if log == "gone" else 0)


def test_a_resumed_run_keeps_the_precisions_of_its_epochs(config):
    """Precision "auto" can be another one on another device."""
    last = train.main(changed(config, epochs=1)) / "last.pt"
    for epoch, (before, after) in enumerate([("mixed", "float32, mixed"), (None, None)], 2):
        save_checkpoint(last, load_checkpoint(last) | {"precision": before})
        train.main(changed(config, epochs=epoch), resume=True)
        assert load_checkpoint(last)["precision"] == after


def test_what_cannot_be_resumed(config):
    folder = train.main(changed(config, epochs=2, schedule="cosine"))
    before = contents(folder)

    def fails(message, **values):
        with pytest.raises(ValueError, match=message):
            train.main(changed(config, **{"epochs": 2, "schedule": "cosine"} | values), resume=True)
        assert contents(folder) == before

    fails("these differ: epochs\nthe cosine schedule depends on epochs: leave --epochs out", epochs=3)
    fails("these differ: weight_decay\nonly these may differ", weight_decay=0.1)
    fails("gone.last.pt is missing|gone is missing: there is no run of this name", name="gone")
    last = folder / "last.pt"
    last.write_bytes((folder / "best.pt").read_bytes())
    before = contents(folder)
    fails(r"last\.pt cannot be resumed: .* no state of the optimizer, as best\.pt\nresume from a last")
    assert not load(folder, "best.pt").keys() & {"optimizer", "scheduler", "rng_states", "sampler"}


def test_a_run_of_an_earlier_version_with_weight_decay_cannot_be_resumed(config):
    """Its optimizer has one group, of all parameters."""
    folder = train.main(changed(config, epochs=1, weight_decay=0.1))
    checkpoint = load(folder)
    first, second = checkpoint["optimizer"]["param_groups"]
    first["params"] += second["params"]
    checkpoint["optimizer"]["param_groups"] = [first]
    save_checkpoint(folder / "last.pt", checkpoint)
    with pytest.raises(ValueError, match=r"cannot be resumed: .* earlier version .*\ntrain again"):
        train.main(changed(config, weight_decay=0.1), resume=True)


def test_fewer_epochs_than_were_trained(config):
    train.main(changed(config, epochs=3))
    with pytest.raises(ValueError, match="epochs=2, but the run has finished epoch 3\ngive as many"):
        train.main(changed(config, epochs=2), resume=True)


def test_resuming_from_the_command_line_keeps_the_settings(config, whole, capsys):
    """Those of the run hold, whatever the defaults; only some may change."""
    folder = train.main(changed(config, epochs=2))
    train.run_command(["--name", "run", "--resume", "--epochs", "4"])
    assert "resuming after epoch 2 of 4" in capsys.readouterr().out
    assert_same_run(whole, folder)
    for options, message in (
        (["--name", "run", "--hidden_size", "13"],
         "a resumed run keeps its settings; these differ: hidden_size\nonly these may differ: name, "),
        (["--name", "run", "--preset", "small"], "these differ: hidden_size, part_hidden_size, "),
        (["--name", "run", "--overwrite"], "--resume and --overwrite exclude each other"),
        (["--name", "gone"], "checkpoints/gone is missing: there is no run of this name\n"
         "give its name with --name; the latest runs are run"),
        (["--name", "checkpoints/run"], "checkpoints/checkpoints/run is missing: there is no run of"),
    ):  # fmt: skip
        with pytest.raises(SystemExit) as done:
            train.run_command([*options, "--resume"])
        assert message in f"{capsys.readouterr().err}{done.value.code}"


def test_errors_of_the_command(config, capsys):
    """Error messages in place of tracebacks: the fault on the first line, then what to do."""
    options = ["--data", config.data, "--window_size", "16", "--spatial_window", "16", "--name", "x"]
    for wrong, message in (
        (["--data", "nothing"], r"nothing/train_data.npy is missing\n.*; or say with --data where"),
        (["--data", "."], r"train_data.npy is missing\ngive the folder of one benchmark: xview"),
        (["--data", f"{config.data}/train_data.npy"], r"train_data.npy is not a folder\n"),
        (["--epochs", "0"], r"epochs=0 is not allowed\n"),
        (["--window_size", "8"], "8 frames.* shorter than the spatial window"),
        (["--device", "gpu"], r"device 'gpu' cannot be used here: .*\ntry --device cpu"),
    ):
        with pytest.raises(SystemExit) as done:
            train.run_command([*options, *wrong])
        error = capsys.readouterr().err
        assert done.value.code == 1
        assert re.search(rf"\Atrain\.py: .*{message}", error), error
    assert not Path("checkpoints").exists()


def test_a_stopped_command_says_how_to_go_on(config, monkeypatch, capsys):
    """Ctrl-C ends the run after the step in progress; a second one ends it at once."""
    train.main(changed(config, epochs=1))
    options = ["--name", "run", "--resume", "--epochs", "3"]
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    forward, signals = train.TwoStreamRNN.forward, []

    def interrupted(self, clips):
        if self.training:
            for number in signals:
                os.kill(os.getpid(), number)
        return forward(self, clips)

    monkeypatch.setattr(train.TwoStreamRNN, "forward", interrupted)
    for signals[:], status in (
        ([signal.SIGINT], 130),
        ([signal.SIGTERM], 143),
        ([signal.SIGTERM, signal.SIGINT], 143),
    ):
        with pytest.raises(SystemExit) as done:
            train.run_command(options)
        error = capsys.readouterr().err
        assert done.value.code == status and "train.py: stopping after this step" in error
        assert error.endswith(
            "train.py: stopped; checkpoints/run/last.pt holds epoch 1\n"
            "go on with: python train.py --name run --resume\n"
        )
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert load(Path("checkpoints/run"))["epoch"] == len(log_of(Path("checkpoints/run"))) == 1


def test_a_validation_loss_that_is_not_finite_is_not_saved(config, monkeypatch):
    evaluate = engine.evaluate

    def diverged(*arguments):
        metrics, *others = evaluate(*arguments)
        metrics["spatial"]["loss"] = math.nan
        return metrics, *others

    monkeypatch.setattr(engine, "evaluate", diverged)
    with pytest.raises(FloatingPointError, match="epoch 1: the validation loss is not finite"):
        train.main(config)
    assert not list(Path("checkpoints/run").glob("*.pt"))


def test_too_little_memory_on_a_gpu(config, monkeypatch, capsys):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")

    monkeypatch.setattr(engine.TrainingStep, "__call__", full)
    with pytest.raises(SystemExit):
        train.run_command(
            ["--data", config.data, "--name", "run", "--batch_size", "6", "--device", "cpu"]
        )
    assert "has not enough memory for batches of 6 clips; " in (message := capsys.readouterr().err)
    assert message.endswith("\nlower --batch_size, for example to 3\n")


def test_a_loss_that_is_not_finite_stops_the_run(config, capsys):
    with pytest.raises(FloatingPointError, match=r"epoch 1: .* not finite in step 2 of 4"):
        train.main(changed(config, learning_rate=1e300))
    assert not Path("checkpoints/run/last.pt").exists()
    folder = train.main(changed(config, epochs=1))
    checkpoint = load(folder)
    for group in checkpoint["optimizer"]["param_groups"]:
        group["lr"] = float("inf")
    save_checkpoint(folder / "last.pt", checkpoint)
    with pytest.raises(SystemExit):
        train.run_command(["--name", "run", "--resume", "--epochs", "2"])
    assert capsys.readouterr().err.endswith(
        "train.py: epoch 2: loss or weights are not finite in step 2 of 4; "
        "checkpoints/run/last.pt holds epoch 1\nlower --learning_rate and train again\n"
    )
    assert load(folder)["epoch"] == 1
