"""live.py: the probabilities after n frames are those of a clip of n frames."""

import numpy as np
import pytest
import torch
from test_export import save_untrained
from test_model import CAUSAL, SMALL, configs

import train
from feeder import Feeder
from layers import POOLINGS
from live import Recognizer, detected_joints
from model import SPATIAL, TEMPORAL, TwoStreamRNN
from skeletons.layout import KINECT_V2
from skeletons.preprocess import Preprocess
from skeletons.storage import split_files
from training import engine
from training.checkpoint import build_model, load_checkpoint
from training.loader import make_loader

WHOLE = {"crop_resize": False, "window_size": 0, "normalization": "first-frame"}
CLASSES = list("abcde")


def build(**options):
    torch.manual_seed(0)
    options = SMALL | CAUSAL | {"spatial_window": 9} | options
    return TwoStreamRNN(KINECT_V2, 5, *configs(**options)).eval()


def recognize(model, **options):
    return Recognizer(model, Preprocess(KINECT_V2, 3, **WHOLE | options), CLASSES)


def frames_of(clip):
    """(T, C, V, M) -> T arrays (M, V, C), as a sensor gives them."""
    return clip.transpose(0, 3, 2, 1)


@pytest.fixture
def gaps(clips):
    """Clips of one body, of one frame, with a gap, of two bodies of which one comes later and goes."""
    clips[0][10:14] = 0
    clips[3][:7, ..., 0] = 0
    clips[3][20:25, ..., 1] = 0
    clips[3][50:, ..., 1] = 0
    return clips


@pytest.mark.parametrize("temporal", TEMPORAL)
@pytest.mark.parametrize("spatial", SPATIAL)
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize(
    "options", [{}, {"residual": False, "window_layers": 0, "person_pooling": "max"}], ids=str
)
def test_streaming_equals_the_whole_clip(write_split, gaps, temporal, spatial, pooling, options):
    """Frame by frame, to 1e-5: after n frames, what the network gives for the first n frames."""
    feeder = Feeder(*write_split(gaps), **WHOLE)
    model = build(temporal=temporal, spatial=spatial, pooling=pooling, **options)
    recognizer = recognize(model)
    for i in (0, 1, 3):
        data = feeder.batch([i])[0]
        recognizer.reset()
        for t, frame in enumerate(frames_of(gaps[i])):
            live = recognizer(frame)
            if t % 7 == 0 or 8 < t < 28:
                with torch.no_grad():
                    whole = model.posterior(model(data[:, :, : t + 1]))[0]
                np.testing.assert_allclose(live, whole, atol=1e-5)
    for body in recognizer.bodies.values():  # what is kept does not grow with the clip
        assert body.states[1]["frames"].shape[2] < model.spatial.window + model.spatial.stride


@pytest.mark.parametrize("frame", ["camera", "first-frame", "body"])
@pytest.mark.parametrize("normalization", [False, "first-frame"])
def test_every_reference_frame_known_at_once_is_normalised_as_by_feeder(
    write_split, gaps, frame, normalization
):
    options = {"origin_transfer": frame, "normalization": normalization}
    feeder = Feeder(*write_split(gaps), **WHOLE | options)
    model = build()
    recognizer = recognize(model, **options)
    for live_frame in frames_of(gaps[3]):
        live = recognizer(live_frame)
    with torch.no_grad():
        whole = model.posterior(model(feeder.bodies([3])[0]))[0]
    np.testing.assert_allclose(live, whole, atol=1e-5)


def test_a_joint_that_is_not_detected_keeps_its_position(clips):
    recognizer = recognize(build())
    frames = clips[0][:30, ..., 0].transpose(0, 2, 1).copy()  # (T, V, C)
    held = frames.copy()
    held[20:28, 3], held[22, 4] = held[19, 3], held[21, 4]
    expected = [recognizer(frame) for frame in held]
    for missing in (np.nan, 0):  # as pose estimators write it
        frames[20:28, 3], frames[22, 4] = missing, missing
        frames[22, 4, 1:] = held[22, 4, 1:] if missing else 0
        recognizer.reset()
        np.testing.assert_array_equal([recognizer(frame) for frame in frames], expected)


def test_a_joint_at_the_origin_is_detected(clips):
    """In coordinates relative to one of the joints, and only there."""
    frames = clips[0][:9, ..., 0].transpose(0, 2, 1)  # (T, V, C)
    relative = torch.from_numpy(frames - frames[:, 4:5]).mT
    assert all(detected_joints(pose, None).all() for pose in relative)
    relative[:, :, 7] = torch.nan
    assert all(detected_joints(pose, None).sum() == 24 for pose in relative)
    missing = torch.from_numpy(frames.copy()).mT
    missing[:, 2] += 5  # metres from the sensor
    missing[:, :, 4] = 0
    assert not any(detected_joints(pose, None)[4] for pose in missing)


def test_a_body_exists_from_its_first_complete_frame(clips):
    recognizer = recognize(build())
    frame = clips[0][20, ..., 0].T.copy()  # (V, C)
    incomplete = frame.copy()
    incomplete[3] = np.nan
    zero = np.nan_to_num(incomplete) + (0, 0, 9) * np.isfinite(incomplete)  # far from the origin
    for nobody in (incomplete, zero, 0 * frame, np.full_like(frame, np.nan)):
        assert recognizer(nobody).tolist() == pytest.approx([0.2] * 5) and not recognizer.bodies
    first = recognizer(frame)
    assert list(recognizer.bodies) == [0] and first.sum() == pytest.approx(1)
    # A body that is absent again does not count as a frame.
    for nobody in (np.zeros_like(frame), np.full_like(frame, np.nan)):
        np.testing.assert_array_equal(recognizer(nobody), first)


def test_a_partner_is_one_body(clips):
    frame = clips[3][0].transpose(2, 1, 0)  # (M, V, C)
    recognizer = recognize(build())
    with pytest.raises(ValueError, match="3 bodies, of which the modality partner can read two"):
        recognizer(np.concatenate((frame, frame[:1])))
    assert recognizer.reference is None and not recognizer.bodies
    three = recognize(build(modalities=("joint",)))(np.concatenate((frame, frame[:1])))
    assert three.sum() == pytest.approx(1)


@pytest.mark.parametrize("shape", [(24, 3), (25, 2), (2, 24, 3), (25,), (1, 1, 25, 3)])
def test_a_frame_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"a frame of shape .*: needs \(25, 3\), joints and"):
        recognize(build())(np.ones(shape))


@pytest.mark.parametrize("number", [1e30, -1e6, np.inf, 1e300])
def test_a_frame_with_an_invalid_coordinate_is_refused_and_not_read(clips, number):
    recognizer = recognize(build())
    frames = clips[0][10:13, ..., 0].transpose(0, 2, 1)  # (T, V, C)
    expected = [recognizer(frame) for frame in frames]
    recognizer.reset()
    invalid = frames[0].astype(np.float64)
    invalid[3, 1] = number
    found = []
    for frame in frames:
        with np.errstate(over="ignore"), pytest.raises(ValueError, match="invalid coordinate"):
            recognizer([np.ones_like(frame), invalid])  # in the second body alone
        found.append(recognizer(frame))
    np.testing.assert_array_equal(found, expected)


def test_only_causal_networks_are_live():
    with pytest.raises(ValueError, match=r"only a causal network.*\n.*--preset live"):
        recognize(build(causal=False))
    with pytest.raises(ValueError, match=r"normalization=True needs the whole clip\ntrain one"):
        recognize(build(), normalization=True)
    for frame in ("per-frame", "first-body", "pair"):
        with pytest.raises(ValueError, match=rf"reference_frame={frame}, which cannot be used frame"):
            recognize(build(), origin_transfer=frame)
    with pytest.raises(ValueError, match="needs whole clips"):
        build(view_adaptation=4)


def test_a_trained_network_answers_live_as_in_its_test(data, tmp_path, monkeypatch):
    """The preset live, smaller: its answer at the end of a clip is the one that test.py counts."""
    monkeypatch.chdir(tmp_path)
    small = {"hidden_size": 8, "part_hidden_size": 4, "num_layers": 2, "window_layers": 1,
             "epochs": 1, "device": "cpu"}  # fmt: skip
    folder = train.main(train.make_config("live", data=str(data / "xview"), **small))
    recognizer = Recognizer.load(folder / "last.pt")
    checkpoint = load_checkpoint(folder / "last.pt")
    assert recognizer.classes == checkpoint["classes"] and recognizer.layout == KINECT_V2
    feeder = Feeder(*split_files(data / "xview", "val"), **checkpoint["preprocessing"])
    batches = make_loader(feeder, range(len(feeder)), 5)
    posterior = engine.evaluate(build_model(checkpoint), batches, "cpu")[1][:, 2]
    frames, counts = (np.load(data / "xview" / f"val_{end}.npy") for end in ("data", "num_frame"))
    for i, clip in enumerate(np.split(frames, counts.cumsum()[:-1])):
        recognizer.reset()
        for frame in frames_of(clip):
            live = recognizer(frame)
        np.testing.assert_allclose(live, posterior[i], atol=1e-5)


def test_a_checkpoint_of_another_network_is_named(tmp_path):
    path = save_untrained(tmp_path / "whole.pt", tmp_path)
    with pytest.raises(ValueError, match=r"whole.pt: only a causal network"):
        Recognizer.load(path)
