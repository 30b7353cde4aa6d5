"""Explanations: what decides is found, a body remains when a part of it is removed, pictures."""

import json

import faithfulness
import numpy as np
import pytest
import torch
from helpers import recording

import explain
import plot
import train
from explain import explain_clip, hold_joints, interpolate_frames, sliding_windows
from feeder import Feeder
from model import NetworkConfig, TwoStreamRNN
from skeletons.batch import BodyBatch
from skeletons.layout import COCO17, KINECT_V1, KINECT_V2
from training import engine

V = len(KINECT_V2.joints)
HAND = KINECT_V2.joints.index("right hand")


def batch(*clips):
    """Clips (T, C, V, M) -> a BodyBatch."""
    return BodyBatch.from_dense(torch.from_numpy(np.stack(clips)).float().transpose(1, 2))


def tiny(layout=KINECT_V2, channels=3, preset="paper", **fields):
    """An untrained network of a preset."""
    fields = {"hidden_size": 6, "part_hidden_size": 4, "window_size": 24, "spatial_window": 8} | fields
    config = train.make_config(preset, **fields)
    torch.manual_seed(0)
    return (
        TwoStreamRNN(layout, 5, config.network, config.extensions, channels=channels)
        .eval()
        .requires_grad_(False)
    )


def one_joint_network(joint):
    """A network that reads no other joint, in the temporal stream alone."""
    torch.manual_seed(0)
    network = NetworkConfig(
        "stacked", "chain", hidden_size=8, num_layers=1, temporal_weight=1.0, spatial_window=8
    )
    model = TwoStreamRNN(KINECT_V2, 3, network).eval()
    (lstm,) = model.temporal.whole_body.layers
    unread = torch.ones(V, 3, dtype=torch.bool)
    unread[joint] = False
    with torch.no_grad():
        for name, weight in lstm.named_parameters():
            if name.startswith("weight_ih"):
                weight *= 20
                weight[:, unread.flatten()] = 0
    return model


# --- What is found ------------------------------------------------------------------------------------


def test_the_joint_that_decides_is_found():
    clip = recording(KINECT_V2, frames=30, bodies=1)
    clip[:, :, HAND] += np.sin(np.linspace(0, 6, 30))[:, None, None]
    explanation = explain_clip(one_joint_network(HAND), batch(clip))
    assert explanation.joints.shape == (1, V) and explanation.joints[0].argmax() == HAND
    others = np.delete(explanation.joints[0], HAND)
    assert explanation.joints[0, HAND] > 0.01 and np.abs(others).max() < 1e-4
    assert explanation.poses.shape == (1, 3, 30, V)


def test_two_people_are_shown_in_the_same_axes():
    """In the reference frame "pair", each has axes of its own."""
    network = NetworkConfig(hidden_size=4, part_hidden_size=4, spatial_window=8)
    model = TwoStreamRNN(KINECT_V2, 5, network, opposite_axes=True).eval()
    bodies = batch(recording(KINECT_V2, frames=20))
    first, second = explain_clip(model, bodies).poses
    assert np.array_equal(first, bodies.joints[0])
    assert np.array_equal(second, bodies.joints[1] * torch.tensor([-1, 1, -1])[:, None, None])
    bodies.joints[0, :, 10:] = 0  # never together: in the same axes
    bodies.joints[1, :, :10] = 0
    assert np.array_equal(explain_clip(model, bodies).poses, bodies.joints)


def test_the_body_that_decides_is_found():
    """Of two bodies, one of which stands still, the joint of the other one."""
    clip = recording(KINECT_V2, frames=30)
    clip[..., 0] = clip[:1, ..., 0]
    clip[:, :, HAND, 1] += np.sin(np.linspace(0, 6, 30))[:, None]
    joints = explain_clip(one_joint_network(HAND), batch(clip)).joints
    assert joints.shape == (2, V) and np.unravel_index(joints.argmax(), joints.shape) == (1, HAND)
    assert np.abs(joints[0]).max() < 1e-4


def test_the_frames_that_decide_are_found():
    """To a window, which is 5 frames: the body moves in frames 20 to 25 alone, of 60."""
    clip = np.repeat(recording(KINECT_V2, frames=1, bodies=1), 60, axis=0)
    clip[20:26, 1, HAND] += 1.5
    frames = explain_clip(one_joint_network(HAND), batch(clip)).frames
    assert 16 <= frames.argmax() < 30 and frames.max() > 0.01
    far = np.r_[:15, 31:60]
    assert np.abs(frames[far]).max() < 1e-4


def test_importance_is_the_mean_of_both_effects():
    """Compared with plain code, which removes one joint, and all others, of a clip of one body."""
    model, clip = tiny(), batch(recording(KINECT_V2, frames=24, bodies=1))
    explanation = explain_clip(model, clip, label=2)
    still = explain.least_typical(model, clip, 2)

    def log_probability(*removed):
        mask = torch.zeros(1, 1, V, dtype=torch.bool)
        mask[..., list(removed)] = True
        changed = clip._replace(joints=hold_joints(still, clip.joints, mask)[0])
        return float(model.posterior(model(changed))[0, 2].log())

    everything = range(V)
    for joint in (0, HAND):
        lost = log_probability() - log_probability(joint)
        gained = log_probability(*(set(everything) - {joint})) - log_probability(*everything)
        assert explanation.joints[0, joint] == pytest.approx((lost + gained) / 2, abs=1e-5)
    assert explanation.label == 2
    assert explanation.probability == pytest.approx(float(model.posterior(model(clip))[0, 2]))
    assert explain_clip(model, clip).label == int(model.posterior(model(clip)).argmax())


@pytest.mark.parametrize("preset", ["small", "full", "live"])
@pytest.mark.parametrize(("layout", "channels"), [(KINECT_V1, 3), (COCO17, 2)])
def test_every_network(preset, layout, channels, monkeypatch):
    """The size of the batches changes nothing."""
    model = tiny(layout, channels, preset, spatial_stride=4)
    clip = batch(recording(layout, 24, channels))
    whole = explain_clip(model, clip)
    monkeypatch.setattr(explain, "BATCH_SIZE", 7)
    for one, two in zip(whole, explain_clip(model, clip), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)
    assert whole.joints.shape == (2, len(layout.joints)) and whole.frames.shape == (24,)
    assert np.isfinite(whole.joints).all() and np.abs(whole.joints).max() > 0
    assert np.isfinite(whole.frames).all() and np.abs(whole.frames).max() > 0


def test_a_causal_network_does_not_read_padding():
    model, clip = tiny(preset="live"), recording(KINECT_V2, 20)
    alone = explain_clip(model, batch(clip))
    padded = explain_clip(model, batch(np.pad(clip, ((0, 10), (0, 0), (0, 0), (0, 0)))))
    for one, two in zip(alone, padded, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)


@pytest.mark.parametrize("padding", [(0, 10), (40, 0)])
def test_padding_is_not_explained(padding):
    """The windows are those of the frames that show a body."""
    clip = np.repeat(recording(KINECT_V2, frames=1, bodies=1), 20, axis=0)
    clip[12:, 1, HAND] += 1.5
    padded = np.pad(clip, (padding, (0, 0), (0, 0), (0, 0)))
    explanation = explain_clip(one_joint_network(HAND), batch(padded))
    assert explanation.frames.shape == (20,) and explanation.poses.shape == (1, 3, 20, V)
    np.testing.assert_allclose(explanation.poses[0], clip[..., 0].transpose(1, 0, 2))
    assert explanation.joints.argmax() == HAND


@pytest.mark.parametrize(
    ("clips", "problem"),
    [((np.zeros((24, 3, V, 2)),), "no body is visible"), ((recording(KINECT_V2, 24),) * 2, "2 clips")],
)
def test_what_cannot_be_explained(clips, problem):
    with pytest.raises(ValueError, match=f"nothing to explain: {problem}\ngive one clip that shows"):
        explain_clip(tiny(), batch(*clips))


def test_a_clip_of_one_frame():
    explanation = explain_clip(tiny(preset="live"), batch(recording(KINECT_V2, 1)))
    assert explanation.frames.shape == (1,) and np.abs(explanation.joints).max() < 1e-6


# --- Removals -----------------------------------------------------------------------------------------


def partly_visible():
    """Joints (2, C, T, V): the second body is visible in frames 10 to 19 of 30."""
    clip = recording(KINECT_V2, 30)
    clip[:10, ..., 1] = clip[20:, ..., 1] = 0
    return batch(clip).joints


def test_removed_joints_move_with_the_body():
    joints, still = partly_visible(), partly_visible()[:, :, 12:13].expand(-1, -1, 30, -1)
    removed = torch.zeros(2, 2, V, dtype=torch.bool)
    removed[0, 0, HAND] = removed[1] = True
    one, everything = hold_joints(still, joints, removed)
    changed = (one != joints).any(1).any(1)  # (B, V)
    assert changed.nonzero().tolist() == [[0, HAND]]
    centre = joints.mean(3, keepdim=True)
    offset = (one - centre)[0, :, :, HAND]
    torch.testing.assert_close(offset, offset[:, 12:13].expand_as(offset))
    pose = (everything - centre)[0]
    torch.testing.assert_close(pose, pose[:, 12:13].expand_as(pose))
    assert not everything[1, :, :10].any() and not everything[1, :, 20:].any()


def test_removed_frames_are_interpolated():
    joints = partly_visible()
    removed = torch.zeros(3, 30, dtype=torch.bool)
    removed[0, 12:15] = removed[1, :15] = removed[2] = True
    inner, start, everything = interpolate_frames(joints, removed)
    kept = ~removed[0]
    assert torch.equal(inner[:, :, kept], joints[:, :, kept])
    middle = (joints[:, :, 11] + joints[:, :, 15]) / 2
    torch.testing.assert_close(inner[:, :, 13], middle)
    for body, first in ((0, 0), (1, 10)):
        assert torch.equal(start[body, :, first], joints[body, :, 15])
        assert torch.equal(everything[body, :, 19], joints[body, :, first])
    for changed in (inner, start, everything):
        assert torch.equal((changed[1] != 0).any(0).any(1), (joints[1] != 0).any(0).any(1))


@pytest.mark.parametrize("num_frames", [1, 5, 24, 48, 101])
def test_windows_cover_all_frames(num_frames):
    windows = sliding_windows(num_frames, 12)
    assert windows.any(0).all() and windows.any(1).all()
    assert windows.sum(1).max() == max(1, round(num_frames / 12))


# --- Pictures and measurements ------------------------------------------------------------------------


@pytest.mark.parametrize(("layout", "channels"), [(KINECT_V2, 3), (COCO17, 2)])
def test_picture(layout, channels, tmp_path):
    model = tiny(layout, channels)
    clips = [recording(layout, 30, channels), recording(layout, 24, channels, bodies=1)]
    clips[0][:20, ..., 1] = 0
    explained = [(f"clip {i}", explain_clip(model, batch(clip))) for i, clip in enumerate(clips)]
    plot.explanations(explained, layout, tmp_path / "new/why.png")
    plot.explanations(explained[:1], layout, tmp_path / "one.png")
    from PIL import Image

    with Image.open(tmp_path / "new/why.png") as two, Image.open(tmp_path / "one.png") as one:
        assert two.height > 1.7 * one.height > 600
        assert np.asarray(two.convert("L")).std() > 5


def test_key_frames_are_visible_peaks_in_order():
    importance = np.zeros(60)
    importance[[3, 25, 59]] = 1
    frames = plot.key_frames(importance, np.arange(60) >= 2, 4)
    assert frames[0] == 3 and frames[1] == 25 and frames[-1] == 59 and frames == sorted(frames)
    assert plot.key_frames(importance, np.arange(60) == 7, 4) == [7]


def test_areas_of_known_curves():
    """Half of the probability rests on part 2, the other half on part 0."""
    weights = torch.tensor([0.5, 0.0, 0.5, 0.0])

    def probabilities(removed):
        return (~removed * weights).sum(1)

    best = faithfulness.areas(torch.tensor([2, 0, 1, 3]), probabilities)
    worst = faithfulness.areas(torch.tensor([1, 3, 0, 2]), probabilities)
    assert best[0] < 0.3 and best[1] > 0.7
    assert worst == pytest.approx(best[::-1])


def test_other_ways_of_removing():
    joints, other = partly_visible(), batch(recording(KINECT_V2, 12, bodies=1, seed=5)).joints
    nothing, everything = torch.zeros(1, 2, V).bool(), torch.ones(1, 2, V).bool()
    assert torch.equal(faithfulness.move_as_another(other, joints, nothing)[0], joints)
    moved = faithfulness.move_as_another(other, joints, everything)[0]
    torch.testing.assert_close(moved.mean(3), joints.mean(3))
    assert not moved[1, :, :10].any()
    removed = torch.zeros(3, 30, dtype=torch.bool)
    removed[1, 10:] = removed[2] = True
    whole, start, first = faithfulness.cut_frames(joints, removed)
    assert torch.equal(whole, joints)
    assert torch.equal(start[0, :, [0, 29]], joints[0, :, [0, 9]])
    assert torch.equal(first[0], joints[0, :, :1].expand_as(first[0]))


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A checkpoint, trained for an epoch."""
    folder = tmp_path_factory.mktemp("trained")
    options = ["--hidden_size=6", "--part_hidden_size=4", "--window_size=12", "--spatial_window=12"]
    options += ["--epochs=1", "--validation_ratio=0.3", "--device=cpu", "--name=run"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(plot, "curves", lambda *_: None)
        patch.setattr(engine, "count_flops", lambda *_: 1)  # takes seconds
        train.run_command([*options, "--data", str(data / "xview")])
    return folder / "checkpoints/run/best.pt"


def test_faithfulness(trained, tmp_path, capsys):
    for split in ("validation", "test"):
        arguments = [str(trained), "--split", split, "--clips", "4", "--out", str(tmp_path / "f.json")]
        faithfulness.main(arguments)
    record = json.loads((tmp_path / "f.json").read_text(encoding="utf-8"))
    assert list(record) == ["run, validation", "run, test"]
    for entry in record.values():
        assert entry["clips"] == 4 and len(entry["areas"]) == 4
        for rows in entry["areas"].values():
            assert list(rows) == ["occlusion", "integrated gradients", "random"]
            for row in rows.values():
                assert 0 <= row["deletion"] <= 1 and 0 <= row["insertion"] <= 1
                difference = row["insertion"] - row["deletion"]
                assert row["difference"] == pytest.approx(difference, abs=2e-4)
    assert "joints, of another clip" in capsys.readouterr().out


def test_the_clips_of_a_test_are_explained_as_alone(trained, data):
    """Feeder's batches and a recognizer's bodies give the same explanation."""
    from pretrained import ActionRecognizer
    from skeletons.readers import read_clips
    from skeletons.storage import split_files

    recognizer = ActionRecognizer(trained, "cpu")
    feeder = Feeder(*split_files(data / "xview", "val"), window_size=12)
    clip = next(c for c in read_clips(data / "xview") if c.name == feeder.name[0])
    from_file = explain_clip(recognizer.model, recognizer.bodies([clip.data]))
    from_feeder = explain_clip(recognizer.model, feeder.bodies([0])[0])
    for one, two in zip(from_file, from_feeder, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)
