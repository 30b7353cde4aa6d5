"""export.py: the ONNX file equals PyTorch, and is not written otherwise."""

import json
import re
import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pytest
import torch
from test_model import CAUSAL, GENERAL, SMALL, configs

import export
import train
from extensions import ExtensionConfig
from feeder import Feeder
from model import SPATIAL, TEMPORAL, NetworkConfig, TwoStreamRNN
from pretrained import ActionRecognizer
from skeletons.layout import KINECT_V2, Layout
from skeletons.preprocess import REFERENCE_FRAMES, Preprocess
from skeletons.storage import split_files
from training.checkpoint import load_checkpoint, save_checkpoint

WHOLE = {"crop_resize": False, "window_size": 0, "normalization": "first-frame"}
CLASSES = [f"class {i}" for i in range(60)]
EXTENDED = GENERAL | {"view_adaptation": 3}


def build(layout=KINECT_V2, channels=3, **options):
    torch.manual_seed(0)
    model = TwoStreamRNN(layout, len(CLASSES), *configs(**SMALL | options), channels).eval()
    for parameter in model.parameters():
        parameter.data *= 3  # initial weights give nearly the same probabilities to all clips
    return model


def save_untrained(path, data, preprocessing=None, **options):
    """A checkpoint as train.py writes it, with the initial weights of a network, but larger."""
    model, (network, extensions) = build(**options), configs(**SMALL | options)
    preprocessing = {"window_size": 16} | (preprocessing or {})
    preprocess = Preprocess(KINECT_V2, 3, **preprocessing).eval()
    contents = {
        "model": model.state_dict(),
        "model_args": {"network": asdict(network), "extensions": asdict(extensions), "channels": 3},
        "layout": KINECT_V2.to_dict(),
        "classes": CLASSES,
        "preprocessing": preprocess.options(),
        "config": {"data": str(data)},
        "epoch": 0,
    }
    save_checkpoint(path, contents)
    return path


def session_of(model):
    onnxruntime = pytest.importorskip("onnxruntime")
    exported = export.export(model, {})
    return onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])


def padded(clips, before=0, after=0):
    """Clips (T, C, V, M) of any length -> (N, C, T', V, M), zeros around the shorter ones."""
    frames = before + max(map(len, clips)) + after
    batch = np.zeros((len(clips), 3, frames, *clips[0].shape[2:]), np.float32)
    for row, clip in zip(batch, clips, strict=True):
        row[:, before : before + len(clip)] = clip.swapaxes(0, 1)
    return batch


@pytest.fixture
def mixed(clips):
    """Clips of 1 to 150 frames: a second body that comes late and goes, one in the second slot only,
    no body for a while."""
    late, first, gap = clips[3].copy(), clips[0][..., ::-1].copy(), clips[4].copy()
    late[:20, ..., 1], late[45:, ..., 1] = 0, 0
    gap[20:25] = 0
    return [*clips, late, first, gap, clips[3][..., ::-1].copy()]


def check_against_predict(checkpoint, clips):
    """The exported file agrees with predict.py, whatever surrounds a clip in a batch."""
    predictor = ActionRecognizer(checkpoint, "cpu")
    expected = predictor.classify(clips)
    assert expected.std(0).max() > 1e-3  # the network distinguishes them
    session = session_of(export.ExportableModel(predictor.model, predictor.preprocess))

    def run(joints):
        return session.run(None, {"joints": joints})[0]

    alone = np.concatenate([run(padded([clip])) for clip in clips])
    for found in (alone, run(padded(clips)), run(padded(clips, 20, 130))):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    single = padded(clips[:3], 7)[..., :1]  # of one body slot, next to a clip without any body
    both = run(np.concatenate((single, np.zeros_like(single[:1]))))
    np.testing.assert_allclose(both[:3], expected[:3], atol=1e-5)
    assert np.isnan(both[3:]).all()


@pytest.mark.parametrize("preset", train.PRESETS)
def test_padding_does_not_change_the_answer(preset, mixed, tmp_path):
    """For clips shorter and longer than the window, and with frames before the first body."""
    small = {"hidden_size": 16, "part_hidden_size": 8}
    options = train.flat(train.make_config(preset, **small))
    preprocessing = {
        "window_size": options["window_size"], "crop_resize": options["resample"],
        "front_padding": not options["resample"], "origin_transfer": options["reference_frame"],
        "normalization": options["normalization"],
    }  # fmt: skip
    if options["causal"]:
        preprocessing = WHOLE
    names = {field.name for group in (NetworkConfig, ExtensionConfig) for field in fields(group)}
    options = {name: value for name, value in options.items() if name in names}
    checkpoint = save_untrained(tmp_path / "net.pt", "gone", preprocessing, **options)
    check_against_predict(checkpoint, mixed)


@pytest.mark.parametrize("options", [
    {}, {"temporal": "hierarchical", "pooling": "mean", "window_layers": 0, "spatial_window": 3},
    {"residual": False, "pooling": "last", "person_pooling": "max", "spatial": "traversal"},
], ids=str)  # fmt: skip
def test_causal_networks_read_whole_clips(options, mixed, tmp_path):
    checkpoint = save_untrained(tmp_path / "net.pt", "gone", WHOLE, **CAUSAL | options)
    check_against_predict(checkpoint, mixed)


def test_invalid_coordinates_have_no_probabilities(mixed):
    """And do not change those of other clips."""
    session = session_of(export.ExportableModel(build(), Preprocess(KINECT_V2, 3, window_size=12)))
    joints = padded(mixed[:4])
    (expected,) = session.run(None, {"joints": joints})
    joints[0, 1, 3, 2, 0], joints[1, 0, 0, 0, 0], joints[3, 0, 30, 24, 1] = np.nan, -1e6, np.inf
    (found,) = session.run(None, {"joints": joints})
    assert np.isnan(found).all(1).tolist() == [True, True, False, True]
    np.testing.assert_array_equal(found[2], expected[2])


@pytest.mark.parametrize("temporal", TEMPORAL)
@pytest.mark.parametrize("spatial", SPATIAL)
def test_export_writes_a_file_that_equals_pytorch(temporal, spatial, data, tmp_path, capsys):
    """For one and for two bodies, and for the clips of the data as Feeder makes them: export.py
    compares, and fails if not."""
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    options = (EXTENDED if temporal == "stacked" else {}) | {"temporal": temporal, "spatial": spatial}
    checkpoint = save_untrained(tmp_path / "best.pt", data / "xview", **options)
    export.main([str(checkpoint), "--out", str(tmp_path / "net.onnx")])
    out = capsys.readouterr().out
    differences = [float(d) for d in re.findall(r"differs from PyTorch by at most (\S+)", out)]
    assert len(differences) == 2 and max(differences) < 1e-5
    assert "4 random clips" in out and "12 test clips, preprocessed by Feeder" in out
    described = onnx.load(tmp_path / "net.onnx")
    properties = {p.key: json.loads(p.value) for p in described.metadata_props}
    assert properties["classes"] == CLASSES
    assert Layout.from_dict(properties["layout"]) == KINECT_V2
    # The file alone, and not only what was compared on the way.
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    files = split_files(data / "xview", "val")
    feeder = Feeder(*files, **load_checkpoint(checkpoint)["preprocessing"])
    model = build(**options)
    for i, clip in list(export.test_clips(files))[:3]:
        with torch.no_grad():
            expected = model.posterior(model(feeder.bodies([i])[0])).numpy()
        np.testing.assert_allclose(session.run(None, {"joints": clip})[0], expected, atol=1e-5)


@pytest.mark.parametrize("frame", REFERENCE_FRAMES)
@pytest.mark.parametrize("normalization", [True, "first-frame"])
def test_every_reference_frame_can_be_exported(frame, normalization):
    """For clips of any number, length and number of slots; in "pair", with the other body as input."""
    preprocess = Preprocess(
        KINECT_V2, 3, window_size=12, origin_transfer=frame, normalization=normalization
    )
    pair = frame == "pair"
    network = build(modalities=("joint", "partner") if pair else ("joint",))
    network.opposite_axes = pair
    model = export.ExportableModel(network, preprocess)
    session = session_of(model)
    for clips in export.random_clips(model):
        clips[..., -1] *= np.linspace(0, 1, clips.shape[2])[:, None] > 0.3  # comes later
        with torch.no_grad():
            expected = model(torch.from_numpy(clips)).numpy()
        np.testing.assert_allclose(session.run(None, {"joints": clips})[0], expected, atol=1e-5)


def test_2d_joints_can_be_exported():
    preprocess = Preprocess(KINECT_V2, 2, window_size=12, origin_transfer="first-frame")
    model = export.ExportableModel(build(channels=2), preprocess)
    session = session_of(model)
    for clips in export.random_clips(model):
        with torch.no_grad():
            expected = model(torch.from_numpy(clips)).numpy()
        np.testing.assert_allclose(session.run(None, {"joints": clips})[0], expected, atol=1e-5)


def test_nothing_is_written_that_was_not_compared(data, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    checkpoint = save_untrained(tmp_path / "best.pt", data / "xview")
    with pytest.raises(SystemExit, match=r"val_data.npy is missing"):
        export.main([str(checkpoint), "--data", str(tmp_path / "nothing")])
    exact = export.ExportableModel.forward
    monkeypatch.setattr(export.ExportableModel, "forward", lambda self, x: 0.9 * exact(self, x))
    with pytest.raises(SystemExit, match=r"best.onnx was not written: ONNX and PyTorch differ by more"):
        export.main([str(checkpoint)])
    assert not (tmp_path / "best.onnx").exists() and not (tmp_path / "best.onnx.partial").exists()


def test_the_output_is_checked_before_the_work(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    checkpoint = save_untrained(tmp_path / "best.pt", tmp_path / "gone")
    with monkeypatch.context() as without_work:
        without_work.setattr(export, "load_checkpoint", None)
        with pytest.raises(SystemExit, match=r"best.pt/x.onnx cannot be written: .+\n--out names"):
            export.main([str(checkpoint), "--out", f"{checkpoint}/x.onnx"])
    export.main([str(checkpoint), "--out", str(tmp_path / "new/x.onnx")])
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.onnx"]
    content = checkpoint.read_bytes()
    with pytest.raises(SystemExit, match=r"best\.pt is the checkpoint itself\n--out names another"):
        export.main([str(checkpoint), "--out", str(tmp_path / "new/../best.pt")])
    assert checkpoint.read_bytes() == content


def test_without_test_clips_it_is_compared_on_random_ones(tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    export.main([str(save_untrained(tmp_path / "best.pt", tmp_path / "gone"))])
    out = capsys.readouterr().out
    assert "no test clips to compare on" in out and "4 random clips" in out
    assert (tmp_path / "best.onnx").is_file()


def test_test_clips_are_those_of_the_split(write_split, clips):
    for padded in (False, True):
        gap = np.concatenate((clips[0], 0 * clips[1], clips[0]))
        found = dict(export.test_clips(write_split([*clips, clips[0][:0], gap], padded=padded)))
        assert list(found) == [0, 1, 2, 3, 4]  # clips without frames, or with empty ones, are left out
        for i, clip in found.items():
            np.testing.assert_array_equal(clip[0].swapaxes(0, 1), clips[i])
        assert list(dict(export.test_clips(write_split(clips, padded=padded), limit=2))) == [0, 4]


def test_networks_that_cannot_be_exported():
    whole = Preprocess(KINECT_V2, 3, crop_resize=False)
    with pytest.raises(ValueError, match="only clips of one window"):
        export.ExportableModel(build(), whole)


def test_missing_files_and_packages(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match=r"gone.pt is missing"):
        export.main([str(tmp_path / "gone.pt")])
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(SystemExit, match="pip install onnx onnxruntime"):
        export.main([str(save_untrained(tmp_path / "best.pt", tmp_path))])


def test_the_command_starts():
    script = Path(export.__file__)
    done = subprocess.run(
        [sys.executable, script, "--help"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and "--data" in done.stdout
