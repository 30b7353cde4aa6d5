"""Fine-tuning: weights copied by name, frozen streams; train.py --init and --freeze."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from helpers import recording
from train_helpers import STILL, StopAt, assert_same_run, changed, equal, load, tiny_config

import train
from extensions import ExtensionConfig
from model import NetworkConfig, TwoStreamRNN
from skeletons.batch import BodyBatch
from skeletons.layout import COCO17, KINECT_V1, KINECT_V2, MEDIAPIPE33, SBU15
from training import engine
from training.checkpoint import build_model, load_checkpoint, save_checkpoint
from training.finetune import copy_weights, freeze, frozen_modules, shared_joints

SIZES = {"hidden_size": 6, "part_hidden_size": 4, "spatial_window": 4, "num_layers": 2}
FULL = {
    "modalities": ("joint", "motion", "bone", "distance", "partner"), "view_adaptation": 3,
    "input_norm": True, "residual": True, "window_layers": 1,
}  # fmt: skip
NETWORKS = {
    "hierarchical": ({"temporal": "hierarchical"}, {}),
    "stacked": ({"temporal": "stacked", "spatial": "chain"}, {}),
    "full": ({"temporal": "hierarchical"}, FULL),
    "full, one body": ({"temporal": "hierarchical"}, FULL | {"modalities": FULL["modalities"][:-1]}),
    "stacked full": ({"temporal": "stacked", "bidirectional": False}, FULL),
    "live": ({"temporal": "hierarchical"}, FULL | {"view_adaptation": 0, "causal": True}),
}


def build(layout, kind="full", classes=3, channels=3, seed=0):
    """A network whose buffers are random, too, in evaluation mode."""
    torch.manual_seed(seed)
    network, extensions = NETWORKS[kind]
    configs = NetworkConfig(**SIZES, **network), ExtensionConfig(**extensions)
    model = TwoStreamRNN(layout, classes, *configs, channels=channels).eval()
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    return model


def as_checkpoint(model, layout, kind="full", classes=("a", "b", "c"), channels=3):
    network, extensions = NETWORKS[kind]
    options = {"network": SIZES | network, "extensions": extensions, "channels": channels}
    entries = {"layout": layout.to_dict(), "classes": list(classes), "epoch": 7}
    return entries | {"model": model.state_dict(), "model_args": options, "config": {"data": "d"}}


def start(source, source_layout, target_layout, kind="full", classes=("a", "b", "c")):
    """-> (a network for the target's layout that starts from the source's weights, what was copied)."""
    model = build(target_layout, kind, len(classes), seed=1)
    copied = copy_weights(model, target_layout, classes, as_checkpoint(source, source_layout, kind))
    return model, copied


def bodies(layout, joints=None):
    """A batch of one body (1, 3, T, V, 1); `joints` gives each joint's place among the made ones."""
    clip = torch.tensor(recording(KINECT_V2, frames=9, bodies=1), dtype=torch.float32)
    return clip.permute(1, 0, 2, 3)[None][:, :, :, joints if joints else range(len(layout.joints))]


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_same_layout_gives_the_same_network(kind):
    source = build(KINECT_V1, kind)
    model, copied = start(source, KINECT_V1, KINECT_V1, kind)
    assert equal(model.state_dict(), source.state_dict())
    assert copied == {"data": "d", "epoch": 7, "classifiers": "copied", "new_joints": [],
                      "joints": list(KINECT_V1.joints)}  # fmt: skip


@pytest.mark.parametrize("classes", [("a", "b"), ("a", "c", "b"), ("a", "b", "c", "d")])
def test_classifiers_are_new_for_other_classes(classes):
    source = build(KINECT_V1)
    fresh = build(KINECT_V1, classes=len(classes), seed=1).state_dict()
    model, copied = start(source, KINECT_V1, KINECT_V1, classes=classes)
    assert copied["classifiers"] == "new"
    for name, weights in model.state_dict().items():
        expected = fresh if "_classifier" in name else source.state_dict()
        assert torch.equal(weights, expected[name])


@pytest.mark.parametrize("kind", NETWORKS)
def test_weights_survive_a_layout_with_more_joints(kind):
    """Kinect v2 has all joints of v1: to v2 and back changes nothing."""
    source = build(KINECT_V1, kind)
    there, copied = start(source, KINECT_V1, KINECT_V2, kind)
    assert len(copied["joints"]) == 20
    assert copied["new_joints"] == ["neck", "left hand tip", "left thumb", "right hand tip",
                                    "right thumb"]  # fmt: skip
    back, copied = start(there, KINECT_V2, KINECT_V1, kind)
    assert equal(back.state_dict(), source.state_dict()) and not copied["new_joints"]


@pytest.mark.parametrize("kind", ["hierarchical", "stacked", "stacked full"])
def test_joints_are_matched_by_name(kind):
    """Both streams map a clip in another order of the joints, with one more joint, to the same
    features, whatever the new joint does. (Both spatial RNNs visit the joints in the same order.)"""
    source = build(KINECT_V1, kind)
    order = [*range(10, 20), *range(10)]  # of v1's joints in the other layout
    place = {old: new for new, old in enumerate(order)}
    parts = {name: (*(place[j] for j in members),) for name, members in KINECT_V1.parts.items()}
    parts["trunk"] += (20,)
    other = replace(
        KINECT_V1,
        name="other",
        joints=(*(KINECT_V1.joints[j] for j in order), "nose"),
        parents=(*(place.get(KINECT_V1.parents[j], -1) for j in order), place[3]),
        parts=dict(reversed(parts.items())),
    )
    model, copied = start(source, KINECT_V1, other, kind)
    assert copied["new_joints"] == ["nose"]
    expected = source.encode(source.select_joints(BodyBatch.from_dense(bodies(KINECT_V1))))
    model.spatial.order = torch.tensor([place[joint] for joint in source.spatial.order.tolist()])
    for nose in (3, 17):
        moved = BodyBatch.from_dense(bodies(other, [*order, nose]))
        features = model.encode(model.select_joints(moved))
        torch.testing.assert_close(features, expected)


def test_a_partner_that_the_checkpoint_does_not_know_is_ignored_at_first():
    source, model = build(KINECT_V1, "full, one body"), build(KINECT_V1, "full", seed=1)
    copy_weights(model, KINECT_V1, "abc", as_checkpoint(source, KINECT_V1, "full, one body"))
    clips = BodyBatch.from_dense(bodies(KINECT_V1))
    one, two = (network.encode(network.select_joints(clips)) for network in (source, model))
    torch.testing.assert_close(two, one)


def test_which_joints_are_the_same():
    assert shared_joints(SBU15, KINECT_V2)[:3] == ["neck", "head", "left shoulder"]
    numbered = replace(KINECT_V1, joints=tuple(f"joint {i}" for i in range(20)))
    turned = replace(numbered, joints=numbered.joints[::-1])
    assert shared_joints(numbered, numbered) == list(numbered.joints)
    assert shared_joints(numbered, turned) == []


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_body_part_without_a_joint_in_common(kind):
    """The trunk of SBU is head, neck and torso, that of MediaPipe a face."""
    model, copied = start(build(SBU15, kind), SBU15, MEDIAPIPE33, kind)
    assert copied["joints"][:2] == ["left shoulder", "right shoulder"]
    assert not set(copied["joints"]) & {MEDIAPIPE33.joints[j] for j in MEDIAPIPE33.parts["trunk"]}
    assert all(logits.isfinite().all() for logits in model(torch.rand(2, 3, 9, 33, 1)))


def test_networks_that_do_not_fit():
    flat = as_checkpoint(build(COCO17, channels=2), COCO17, channels=2)
    with pytest.raises(ValueError, match="reads 2 coordinates of a joint, the data has 3\n"):
        copy_weights(build(KINECT_V1), KINECT_V1, "abc", flat)
    named = replace(KINECT_V1, joints=tuple(f"{name}!" for name in KINECT_V1.joints))
    arms = {"arms" if name == "left arm" else f"{name}!": j for name, j in KINECT_V1.parts.items()}
    for layout in (named, replace(KINECT_V1, parts=arms)):
        with pytest.raises(ValueError, match="have no joints, or no body parts, of the same names\n"):
            start(build(KINECT_V1), KINECT_V1, layout)


# --- Frozen streams -----------------------------------------------------------------------------------


@pytest.mark.parametrize("streams", ["temporal", "spatial", "both"])
def test_what_is_frozen(streams):
    model = build(KINECT_V1)
    freeze(model, streams)
    trained = {name.split(".")[0] for name, w in model.named_parameters() if w.requires_grad}
    kept = {"temporal": {"spatial"}, "spatial": {"temporal"}, "both": set()}[streams]
    assert trained == kept | {"temporal_classifier", "spatial_classifier"}
    named = {module: name for name, module in model.named_children()}
    frozen = {"temporal", "spatial", "view_adaptation", "joint_features"} - kept
    assert {named[module] for module in frozen_modules(model)} == frozen


def test_nothing_is_frozen_by_default():
    model = build(KINECT_V1)
    freeze(model, "none")
    assert not frozen_modules(model) and all(w.requires_grad for w in model.parameters())


# --- train.py -----------------------------------------------------------------------------------------


@pytest.fixture
def config(data, tmp_path, monkeypatch):
    return tiny_config(data, tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def base(data, tmp_path_factory):
    """last.pt of a run of two epochs with all extensions."""
    with pytest.MonkeyPatch.context() as patch:
        config = tiny_config(data, tmp_path_factory.mktemp("base"), patch)
        return str(train.main(changed(config, **FULL, dropout=0.4, epochs=2)).resolve() / "last.pt")


def from_base(config, base, **values):
    """Settings of a run that starts from the base."""
    return changed(train.inherit(changed(config, init=base), load_checkpoint(base)), **values)


@pytest.fixture
def other_classes(config):
    """The same data with other names of classes."""
    folder = Path("other")
    shutil.copytree(config.data, folder)
    meta = json.loads((folder / "meta.json").read_text())
    meta["classes"] = [f"new {name}" for name in meta["classes"]]
    (folder / "meta.json").write_text(json.dumps(meta))
    return str(folder)


def test_a_run_starts_from_the_weights(config, base, capsys):
    """A run without a step that changes anything ends with the weights that it started from."""
    folder = train.main(from_base(config, base, epochs=1, learning_rate=1e-30, freeze="both"))
    contents = load(folder)
    assert equal(contents["model"], load_checkpoint(base)["model"])
    assert (contents["config"]["init"], contents["config"]["freeze"]) == (base, "both")
    about = json.loads((folder / "config.json").read_text())
    assert about["init"] == contents["init"]
    assert about["init"]["checkpoint"] == base and about["init"]["epoch"] == 2
    printed = capsys.readouterr().out
    assert f"start: {base} (epoch 2 on {about['init']['data']}); weights of 25 joints copied" in printed
    assert "classifiers: copied, since the classes are the same" in printed


@pytest.mark.parametrize("streams", ["temporal", "both"])
def test_frozen_streams_stay_and_the_rest_is_trained(
    config, base, other_classes, streams, monkeypatch, capsys
):
    """A frozen stream has no dropout; its weights and statistics stay, and so do those of what both
    streams read."""
    modes, forward = [], TwoStreamRNN.forward

    def spy(self, clips):
        modes.append((self.training, {n for n, module in self.named_children() if module.training}))
        return forward(self, clips)

    monkeypatch.setattr(TwoStreamRNN, "forward", spy)
    start_from = from_base(config, base, data=other_classes, epochs=2, weight_decay=0.1)
    folder = train.main(changed(start_from, freeze=streams))
    trained = {"temporal_classifier", "spatial_classifier", *["spatial"] * (streams == "temporal")}
    assert all(names == (trained | {"dropout"} if training else set()) for training, names in modes)
    assert any(training for training, _ in modes)
    before, after = load_checkpoint(base)["model"], load(folder)["model"]
    for name in before:
        assert torch.equal(before[name], after[name]) == (name.split(".")[0] not in trained), name
    printed = capsys.readouterr().out
    assert "classifiers: new, for 60 other classes; " in printed and " are frozen" in printed
    optimized = sum(len(group["params"]) for group in load(folder)["optimizer"]["param_groups"])
    model = build_model(load(folder))
    assert optimized == sum(name.split(".")[0] in trained for name, _ in model.named_parameters())


def test_a_fine_tuned_run_is_resumed_without_the_checkpoint(config, base, tmp_path):
    mine = str(shutil.copy(base, tmp_path / "mine.pt"))
    start_from = from_base(config, mine, freeze="spatial")
    whole = train.main(changed(start_from, name="whole"))
    with pytest.raises(engine.Interrupted):
        train.main(start_from, stop=StopAt(8))
    Path(mine).unlink()
    settings, resume, _ = train.parse_command_line(["--resume", "--name", "run"])
    assert resume and settings == start_from
    folder = train.main(settings, resume=True)
    assert_same_run(whole, folder)
    about = json.loads((folder / "config.json").read_text())
    assert about["init"] == load(folder)["init"] == load(whole)["init"]
    with pytest.raises(ValueError, match="these differ: freeze\n"):
        train.main(changed(settings, freeze="none"), resume=True)


def test_a_fine_tuned_run_is_repeated_from_its_config(config, base):
    whole = train.main(from_base(config, base, freeze="temporal", epochs=2))
    options = ["--config", str(whole / "config.json"), "--name", "again"]
    train.run_command(options)
    assert_same_run(whole, Path("checkpoints/again"))
    settings = train.parse_command_line([*options, "--hidden_size", "7"])[0]
    with pytest.raises(ValueError, match=r"hidden_size \(12, not 7\)\n"):
        train.main(changed(settings, name="third"))


def test_best_pt_has_no_optimizer_and_is_enough(config, base):
    best = str(Path(base).with_name("best.pt"))
    assert "optimizer" not in load_checkpoint(best)
    assert train.main(from_base(config, best, epochs=1)).exists()


def test_settings_come_from_the_checkpoint(config, base):
    source = train.config_from_dict(load_checkpoint(base)["config"])
    settings = train.parse_command_line(["--init", base, "--data", "mine", "--batch_size", "3"])[0]
    for group in train.INHERITED:
        assert getattr(settings, group) == getattr(source, group)
    assert settings.optimization == replace(train.OptimizationConfig(), batch_size=3)
    assert settings.augmentation == train.AugmentationConfig()
    # A preset gives the rest, and what no weight depends on.
    settings = train.parse_command_line(["--init", base, "--preset", "live", "--dropout", "0.1"])[0]
    assert settings.network.dropout == 0.1 and settings.extensions.input_dropout == 0.2
    assert settings.optimization == train.make_config("live").optimization
    train.check_inherited(
        changed(train.inherit(settings, load_checkpoint(base)), dropout=0.0), load_checkpoint(base)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--hidden_size", "7"], r"^{base} has other settings .*: hidden_size \(12, not 7\)\n"),
        (["--causal", "--view_adaptation", "0"],
         r"view_adaptation \(3, not 0\), causal \(False, not True\)\n"),
        (["--window_size", "20"], r": window_size \(16, not 20\)\n"),
        (["--reference_frame", "camera"], r": reference_frame \(body, not camera\)\n"),
        (["--preset", "demo"], r"hidden_size \(12, not 64\).*\n.*leave them out, and a --preset"),
        (["--freeze", "all"], ""),
    ],
)  # fmt: skip
def test_other_settings_than_those_of_the_checkpoint(config, base, options, message, capsys):
    command = ["--init", base, "--data", config.data, "--name", "run", "--device", "cpu", *options]
    if not message:
        with pytest.raises(SystemExit):
            train.run_command(command)
        assert "freeze" in capsys.readouterr().err
        return
    with pytest.raises(ValueError, match=message.format(base=base)):
        train.main(train.parse_command_line(command)[0])
    assert not Path("checkpoints").exists()


def test_checkpoints_that_cannot_be_used(config, base, tmp_path, capsys):
    older = load_checkpoint(base)
    save_checkpoint(tmp_path / "setting.pt", older | {"config": older["config"] | {"hiden_size": 3}})
    save_checkpoint(tmp_path / "weights.pt", older | {"model": {"w": torch.zeros(1)}})
    save_checkpoint(tmp_path / "format.pt", older)
    contents = torch.load(tmp_path / "format.pt", weights_only=True) | {"version": 3}
    torch.save(contents, tmp_path / "format.pt")
    for name, message in (
        ("gone.pt", "gone.pt is missing\n"),
        ("setting.pt", "setting.pt was made by another version of this code: no such setting: hiden"),
        ("weights.pt", "weights.pt does not fit: the checkpoint's weights belong to another version"),
        ("format.pt", "format.pt has version 3 of the checkpoint format"),
    ):
        with pytest.raises(SystemExit) as raised:
            train.run_command(["--init", name, "--data", config.data, "--name", "run"])
        error = capsys.readouterr().err or raised.value.code
        assert error.startswith(f"train.py: {message}") and len(error.splitlines()) > 1
    assert not Path("checkpoints").exists()


def test_an_earlier_run_is_replaced_only_if_the_checkpoint_fits(config, base):
    folder = train.main(config)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    flat = load_checkpoint(base)
    flat["model_args"]["channels"] = 2
    flat["layout"] = asdict(COCO17)
    save_checkpoint("flat.pt", flat)
    with pytest.raises(ValueError, match=r"^flat\.pt does not fit"):
        train.main(from_base(config, "flat.pt"), overwrite=True)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_freezing_needs_weights(config):
    with pytest.raises(ValueError, match=r"freeze=both: without init, .* random\n"):
        train.main(changed(config, freeze="both"))
    with pytest.raises(ValueError, match="freeze='all' is unknown\nchoose from none, temporal"):
        train.main(changed(config, freeze="all"))


def test_training_starts_from_what_was_learned(config):
    """After one epoch at a low rate, a network that starts from a trained one has a lower loss."""
    trained = train.main(changed(config, **STILL, epochs=8, learning_rate=0.01, name="base"))
    quick = {"epochs": 1, "learning_rate": 1e-6}
    losses = []
    for init in ("", str(trained / "last.pt")):
        folder = train.main(changed(config, **STILL, **quick, init=init, name=f"run{bool(init)}"))
        line = json.loads((folder / "log.jsonl").read_text())
        losses.append(line["train"]["fused"]["loss"])
    assert losses[1] < losses[0] - 0.2
