"""Poses: coordinates, confidences, slots; MediaPipe where it is installed, or what is said."""

import importlib.metadata
import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest
from video_helpers import LAYOUT, FakeEstimator

import convert_data
from skeletons import pose_estimation
from skeletons.pose_estimation import MediaPipe, PoseOptions, VideoFrame, assign_slots, with_poses

FRAMES = [VideoFrame(np.zeros((48, 64, 3), np.uint8), i / 10) for i in range(6)]


def landmarks(points, visibility=1.0):
    return [SimpleNamespace(x=x, y=y, z=z, visibility=visibility) for x, y, z in points]


@pytest.fixture
def installed(monkeypatch):
    """MediaPipe whose model finds what the test says: a function that sets it."""
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.10.21")
    found = []

    class Model:
        def detect(self, frame):
            return found.pop(0)

        def close(self):
            found.append("closed")

    monkeypatch.setattr(pose_estimation, "OnePerson", Model)
    return found


def person(x, visibility=None):
    """Landmarks of a person who faces the camera, at x of the picture (0 to 1)."""
    rng = np.random.default_rng(0)
    world = rng.uniform(-0.1, 0.1, (33, 3))
    for i, name in enumerate(LAYOUT.joints):
        world[i, 0] += 0.3 * ("left" in name) - 0.3 * ("right" in name)
    world[0] = (0, -0.6, -0.2)  # the nose: above the hips (y is down), nearer to the camera
    picture = landmarks(world * [0.2, 0.3, 0.2] + [x, 0.5, 0])
    for joint, value in (visibility or {}).items():
        picture[joint].visibility = value
    return picture, landmarks(world)


def test_the_axes_are_those_of_a_sensor(installed):
    """As in recordings of a Kinect: y up, z away, x to the right of a person who faces it."""
    installed.append([person(0.5)])
    (poses,) = MediaPipe()(FRAMES[:1])
    nose, left, right = (poses.bodies[0, LAYOUT.joint(n)] for n in ("nose", "left hip", "right hip"))
    assert nose[1] > 0.5 and nose[2] < -0.1 and left[0] < -0.1 < 0.1 < right[0]
    assert poses.positions[0, 23, 0] > poses.positions[0, 24, 0]  # the same hips
    assert installed == ["closed"]


def test_a_rotation_of_the_picture_not_a_mirror_image(installed):
    """Handedness is kept: (x right, y down, z away) of MediaPipe is right-handed, too."""
    axes = np.eye(3)
    installed.append([(landmarks(np.zeros((33, 3))), landmarks([*axes, *np.zeros((30, 3))]))])
    (poses,) = MediaPipe()(FRAMES[:1])
    assert np.linalg.det(poses.bodies[0, :3]) == pytest.approx(1)


@pytest.mark.parametrize("threshold, missing", [(0.5, [3]), (0.0, []), (0.95, [3, 4])])
def test_joints_of_low_confidence_are_missing(threshold, missing, installed):
    installed.append([person(0.5, {3: 0.4, 4: 0.9, 5: 1.0000001})])
    (poses,) = MediaPipe(min_confidence=threshold)(FRAMES[:1])
    lost = np.flatnonzero(poses.confidences[0] == 0)
    assert lost.tolist() == missing and not poses.bodies[0, lost].any()
    assert poses.bodies[0].any(1).sum() == 33 - len(missing) and poses.confidences.max() <= 1
    assert poses.scored.shape == (2, 33, 4) and not poses.scored[1].any()


def test_bodies_keep_their_slots_in_whatever_order_they_are_found(installed):
    left, right = person(0.2), person(0.8)
    again = [person(0.78), person(0.24)]
    installed += [[right], [left, right], [right, left], [], [person(0.22)], again]
    means = [poses.positions[..., 0].mean(1) for poses in MediaPipe()(FRAMES)]
    slots = [[round(float(x), 1) for x in mean] for mean in means]
    assert slots == [[0.8, 0], [0.8, 0.2], [0.8, 0.2], [0, 0], [0, 0.2], [0.8, 0.2]]


def test_assign_slots_is_the_least_movement():
    rng = np.random.default_rng(0)
    for _ in range(50):
        last, now = rng.uniform(size=(2, 2, 2))
        same, swapped = (np.linalg.norm(now - last[order], axis=1).sum() for order in ([0, 1], [1, 0]))
        assert assign_slots(list(now), list(last)) == ((0, 1) if same <= swapped else (1, 0))


def test_with_poses_pairs_each_frame_with_its_own():
    """Also with an estimator that reads ahead."""

    class Ahead(FakeEstimator):
        def __call__(self, frames):
            yield from super().__call__(list(frames))

    for estimator in (FakeEstimator(), Ahead()):
        pairs = list(with_poses(iter(FRAMES), estimator))
        assert [frame.time for frame, _ in pairs] == [frame.time for frame in FRAMES]


# --- What is missing ----------------------------------------------------------------------------------


def test_without_the_package(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(ValueError, match=r"mediapipe, which is missing\n.* -r requirements-video.txt"):
        MediaPipe()


@pytest.mark.parametrize("version", ["0.10.30", "1.2.3", "0.10.22rc1"])
def test_packages_without_a_model_need_a_file(version, monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    with pytest.raises(ValueError, match=rf"{version} comes without a model\n.*https://.*--pose_model"):
        MediaPipe()
    with pytest.raises(ValueError, match=r"does not exist\ndownload .*https://"):
        MediaPipe(str(tmp_path / "no.task"))
    with pytest.raises(ValueError, match=r"is a folder\n"):
        MediaPipe(str(tmp_path))
    (tmp_path / "a.task").write_text("x")
    assert MediaPipe(str(tmp_path / "a.task")).description == (
        f"mediapipe {version}, a.task of 1 bytes, min_confidence 0.5"
    )


@pytest.mark.parametrize("arguments, fault", [
    (["--min_confidence", "1"], "--min_confidence 1.0"),
    (["--min_confidence", "nan"], "--min_confidence nan"),
    (["--max_fps", "-1"], "--max_fps -1.0"),
])  # fmt: skip
def test_impossible_options(arguments, fault, tmp_path):
    with pytest.raises(SystemExit, match=rf"convert_data.py: {fault}.*\ngive"):
        convert_data.main(["--data_path", str(tmp_path), *arguments])


# --- The real one -------------------------------------------------------------------------------------

needs_mediapipe = pytest.mark.skipif(
    importlib.util.find_spec("mediapipe") is None, reason="needs the package mediapipe"
)


@needs_mediapipe
def test_mediapipe_finds_nobody_in_grey_pictures(capfd):
    """And it is silent. (On a real video it is tested by hand: docs.)"""
    if importlib.util.find_spec("mediapipe.python") is None:
        pytest.skip("this version has no model of its own")
    frames = [VideoFrame(np.full((120, 160, 3), 50 * i, np.uint8), i / 30) for i in range(4)]
    poses = list(MediaPipe()(frames))
    assert len(poses) == 4 and not any(p.confidences.any() for p in poses)
    assert capfd.readouterr().err == ""


@needs_mediapipe
def test_a_file_that_is_not_a_model(tmp_path):
    (tmp_path / "a.task").write_text("no model")
    with pytest.raises(ValueError, match=r"a.task cannot be used: .*\ndownload"):
        list(MediaPipe(str(tmp_path / "a.task"))(FRAMES))


def test_options_that_are_not_given():
    assert PoseOptions() == PoseOptions("", 0.5, 30.0)
