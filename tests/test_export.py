"""export.py: the ONNX file equals PyTorch, and is not written otherwise."""

import json
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from test_model import CAUSAL, GENERAL, SMALL, configs

import export
from feeder import Feeder
from model import SPATIAL, TEMPORAL, TwoStreamRNN
from skeletons.layout import KINECT_V2, Layout
from skeletons.preprocess import REFERENCE_FRAMES, Preprocess
from skeletons.storage import split_files
from training.checkpoint import load_checkpoint, save_checkpoint

CLASSES = [f"class {i}" for i in range(60)]
EXTENDED = GENERAL | {"embedding_size": 4, "view_adaptation": 3}


def build(layout=KINECT_V2, channels=3, **options):
    torch.manual_seed(0)
    return TwoStreamRNN(layout, len(CLASSES), *configs(**SMALL | options), channels).eval()


def save_untrained(path, data, preprocessing=None, **options):
    """A checkpoint as train.py writes it, with the initial weights of a network."""
    model, (network, extensions) = build(**options), configs(**SMALL | options)
    preprocess = Preprocess(KINECT_V2, 3, window_size=16, **preprocessing or {}).eval()
    contents = {
        "model": model.state_dict(),
        "model_args": {"network": asdict(network), "extensions": asdict(extensions), "channels": 3},
        "layout": KINECT_V2.to_dict(),
        "classes": CLASSES,
        "preprocessing": preprocess.options(),
        "config": {"data": str(data)},
    }
    save_checkpoint(path, contents)
    return path


def session_of(model):
    onnxruntime = pytest.importorskip("onnxruntime")
    exported = export.export(model, {})
    return onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])


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
    """For clips of any number, length and number of slots."""
    preprocess = Preprocess(
        KINECT_V2, 3, window_size=12, origin_transfer=frame, normalization=normalization
    )
    model = export.ExportableModel(build(), preprocess)
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
    assert not (tmp_path / "best.onnx").exists()


def test_without_test_clips_it_is_compared_on_random_ones(tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    export.main([str(save_untrained(tmp_path / "best.pt", tmp_path / "gone"))])
    out = capsys.readouterr().out
    assert "no test clips to compare on" in out and "4 random clips" in out
    assert (tmp_path / "best.onnx").is_file()


def test_test_clips_are_those_of_the_split(write_split, clips):
    for padded in (False, True):
        found = dict(export.test_clips(write_split([*clips, clips[0][:0]], padded=padded)))
        assert list(found) == [0, 1, 2, 3, 4]  # a clip without frames is left out
        for i, clip in found.items():
            np.testing.assert_array_equal(clip[0].swapaxes(0, 1), clips[i])
        assert list(dict(export.test_clips(write_split(clips, padded=padded), limit=2))) == [0, 4]


def test_networks_that_cannot_be_exported():
    preprocess = Preprocess(KINECT_V2, 3, window_size=12)
    with pytest.raises(ValueError, match=r"a causal network has states.*\nuse live.py"):
        export.ExportableModel(build(**CAUSAL), preprocess)
    whole = Preprocess(KINECT_V2, 3, crop_resize=False)
    with pytest.raises(ValueError, match="only clips resized to a window"):
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
