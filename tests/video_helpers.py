"""Videos and an estimator for the tests without the optional packages. A fake video is a text file: one
word per frame, "BODY" or another."""

import re
from pathlib import Path

import numpy as np
import pytest
from helpers import recording

import camera
import overlay
import predict
import record
from skeletons import readers, video, video_folder
from skeletons.clip import InvalidClip
from skeletons.layout import LAYOUTS
from skeletons.pose_estimation import FramePoses, VideoFrame

LAYOUT = LAYOUTS["mediapipe33"]
LEGS = [joint for part in ("left leg", "right leg") for joint in LAYOUT.parts[part]]
POSES = recording(LAYOUT, 300, bodies=1)[..., 0].transpose(0, 2, 1).astype(np.float32)  # (T, V, C)
BODY, NOBODY, BROKEN = 200, 0, "broken"  # brightness of the picture, or a frame that fails


class FakeEstimator:
    """In frame n of a video it finds POSES[n], if the picture is bright. The legs are not found if they
    are said to be hidden; one joint is missing in every fifth frame."""

    layout, channels = LAYOUT, 3
    calls = 0

    def __init__(self, description="fake 1", hidden=()):
        self.description, self.hidden = description, list(hidden)

    def __call__(self, frames):
        type(self).calls += 1
        for number, frame in enumerate(frames):
            yield fake_poses(number, frame.image.mean() > 50, self.hidden)


def fake_poses(number, found=True, hidden=()):
    poses = FramePoses(*(np.zeros((2, 33, *last), np.float32) for last in ((3,), (), (2,))))
    if found:
        poses.confidences[0] = 0.9
        poses.confidences[0, list(hidden)] = 0
        if number % 5 == 4:
            poses.confidences[0, 15] = 0
        poses.bodies[0] = np.where(poses.confidences[0, :, None] > 0, POSES[number % 300], 0)
        poses.positions[0] = 0.3 + 0.05 * POSES[number % 300, :, :2]
    return poses


def write_video(path, frames=20, brightness=BODY):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(" ".join([str(brightness)] * frames))
    return path


def read_fake(path, max_fps=0.0):
    words = Path(path).read_text().split()
    for number, word in enumerate(words):
        if word == BROKEN:
            raise InvalidClip("not a complete video: fake", f"after frame {number}")
        yield VideoFrame(np.full((36, 48, 3), int(word), np.uint8), number / 10)
    if not words:
        raise InvalidClip("a video without pictures")


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """The current folder is empty; videos are fake ones, and poses those of the FakeEstimator."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(FakeEstimator, "calls", 0)
    monkeypatch.setattr(video, "expected_frames", lambda path, max_fps: None)
    monkeypatch.setattr(video_folder, "import_av", lambda: None)

    def open_estimator(options):
        return FakeEstimator(f"fake {options.min_confidence}")

    for module in (video, camera, overlay):
        monkeypatch.setattr(module, "read_video", read_fake)
    for module in (video_folder, readers, predict, record):
        monkeypatch.setattr(module, "open_estimator", open_estimator)
    return tmp_path


def first_line(error):
    return str(error).partition("\n")[0]


def matches(text, *patterns):
    return all(re.search(pattern, text) for pattern in patterns)
