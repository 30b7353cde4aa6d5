import numpy as np
import pytest
import torch
from test_model import GENERAL, SMALL

import train
from feeder import Feeder
from layers import POOLINGS
from live import Recognizer
from model import SPATIAL, TEMPORAL, TwoStreamRNN
from skeletons.storage import split_files
from training import engine
from training.checkpoint import build_model, load_checkpoint
from training.loader import make_loader

FEEDING = {"origin_transfer": "view", "normalization": "start", "crop_resize": False, "window_size": 0}
OPTIONS = GENERAL | {"view_units": 0, "causal": True, "spatial_window": 9, "spatial_stride": 4}


def build(feeder, **options):
    torch.manual_seed(0)
    return TwoStreamRNN(feeder.layout, 5, **SMALL | OPTIONS | options).eval()


@pytest.fixture
def feeder(write_part, clips):
    """Clips of one body, of one frame, with a gap, of two bodies of which one comes later and goes."""
    clips[0][10:14] = 0
    clips[3][:7, ..., 0] = 0
    clips[3][20:25, ..., 1] = 0
    clips[3][50:, ..., 1] = 0
    return Feeder(*write_part(clips), **FEEDING)


@pytest.mark.parametrize("temporal", TEMPORAL)
@pytest.mark.parametrize("spatial", SPATIAL)
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("options", [{}, {"residual": False, "window_layers": 0, "body_fusion": "max"}])
def test_streaming_equals_the_whole_clip(feeder, clips, temporal, spatial, pooling, options):
    """Frame by frame, to 1e-5: after n frames what the network says of the first n frames."""
    model = build(feeder, temporal=temporal, spatial=spatial, pooling=pooling, **options)
    recognizer = Recognizer(model, feeder.layout, list("abcde"), FEEDING)
    for i in (0, 1, 3):
        data = feeder.batch([i])[0]
        recognizer.reset()
        for t in range(len(clips[i])):
            live = recognizer(clips[i][t].transpose(2, 1, 0))
            if t % 7 == 0 or 8 < t < 28:
                with torch.no_grad():
                    whole = model.posterior(model(data[:, :, : t + 1]))[0]
                np.testing.assert_allclose(live, whole, atol=1e-5)
    for body in recognizer.bodies.values():
        assert body.states[1]["frames"].shape[2] < model.spatial.window + model.spatial.stride


def test_an_unknown_joint_stays_where_it_was(feeder, clips):
    recognizer = Recognizer(build(feeder), feeder.layout, list("abcde"), FEEDING)
    frames = clips[0][:30, ..., 0].transpose(0, 2, 1).copy()  # (T, V, C)
    held = frames.copy()
    held[20:28, 3], held[22, 4] = held[19, 3], held[21, 4]
    expected = [recognizer(frame) for frame in held]
    frames[20:28, 3], frames[22, 4, 0] = np.nan, np.nan
    recognizer.reset()
    np.testing.assert_array_equal([recognizer(frame) for frame in frames], expected)
    recognizer.reset()
    frame = frames[20]  # not known yet: no body
    assert recognizer(frame).tolist() == pytest.approx([0.2] * 5) and not recognizer.bodies
    with pytest.raises(ValueError, match=r"a frame of shape \(1, 24, 3\): needs \(25, 3\)"):
        recognizer(frame[:24])


def test_only_causal_networks_are_live(feeder):
    for options, feeding in (
        ({"causal": False}, FEEDING),
        ({}, FEEDING | {"normalization": True}),
        ({}, FEEDING | {"origin_transfer": "each"}),
    ):
        with pytest.raises(ValueError, match="--setting live"):
            Recognizer(build(feeder, **options), feeder.layout, list("abcde"), feeding)
    with pytest.raises(ValueError, match="needs whole clips"):
        build(feeder, view_units=4)


def test_a_trained_network_answers_live_as_in_its_test(data, tmp_path, monkeypatch):
    """--setting live, smaller: what it says at the end of a clip is what test.py counts."""
    monkeypatch.chdir(tmp_path)
    small = {"units": 8, "part_units": 4, "layers": 2, "window_layers": 1, "embedding": 4, "epochs": 1}
    folder = train.main(
        train.Config(data=str(data / "xview"), **train.PRESETS["live"] | small, device="cpu")
    )
    recognizer = Recognizer.load(folder / "last.pt")
    checkpoint = load_checkpoint(folder / "last.pt")
    feeder = Feeder(*split_files(data / "xview", "val"), **checkpoint["feeding"])
    batches = make_loader(feeder, range(len(feeder)), 5)
    posterior = engine.evaluate(build_model(checkpoint), batches, "cpu")[1][:, 2]
    frames, counts = (np.load(data / "xview" / f"val_{end}.npy") for end in ("data", "num_frame"))
    for i, clip in enumerate(np.split(frames, counts.cumsum()[:-1])):
        recognizer.reset()
        for frame in clip:
            said = recognizer(frame.transpose(2, 1, 0))
        np.testing.assert_allclose(said, posterior[i], atol=1e-5)
    with pytest.raises(ValueError, match=r"demo.pt: only a causal network"):
        train.main(
            train.Config(data=str(data / "xview"), name="demo", epochs=1, units=8, window=16,
                         spatial_window=16, device="cpu", temporal="stacked")
        )  # fmt: skip
        (tmp_path / "checkpoints/demo/last.pt").rename("demo.pt")
        Recognizer.load("demo.pt")
