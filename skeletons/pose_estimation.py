"""From pictures to poses. An estimator is one function, frames in, poses out; MediaPipe Pose is here.

Another estimator takes its place if it has what `PoseEstimator` describes and `open_estimator` returns
it. The coordinates follow a depth sensor's axes: y points up, z away from the camera, x to the right of
a person who faces the camera.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
from argparse import ArgumentParser, Namespace
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from skeletons.clip import MAX_BODIES
from skeletons.layout import LAYOUTS, Layout

INSTALL = "install the optional packages: pip install -r requirements-video.txt"
TASK_FILES = "https://ai.google.dev/edge/mediapipe/solutions/vision/pose_landmarker"


class VideoFrame(NamedTuple):
    """One picture of a video or camera.

    image  uint8 (H, W, 3), red, green, blue
    time   in seconds; increases from frame to frame
    """

    image: np.ndarray
    time: float


class FramePoses(NamedTuple):
    """The bodies in one frame, each in the same slot from frame to frame.

    bodies       float32 (M, V, C); zeros for a joint or body that was not found
    confidences  float32 (M, V), from 0 to 1; 0 for a joint that was not found
    positions    float32 (M, V, 2), where the joints are in the picture: x to the right and y down, as
                 fractions of its width and height
    """

    bodies: np.ndarray
    confidences: np.ndarray
    positions: np.ndarray

    @property
    def scored(self) -> np.ndarray:
        """(M, V, C + 1): the confidence after the coordinates of each joint, as custom recordings."""
        return np.concatenate((self.bodies, self.confidences[..., None]), -1)


class PoseEstimator(Protocol):
    """Finds the bodies in the pictures of one video.

    layout       of the bodies, one of LAYOUTS
    channels     C, coordinates of a joint: 2 or 3
    description  library, version, model and options: all that its poses depend on
    """

    layout: Layout
    channels: int
    description: str

    def __call__(self, frames: Iterable[VideoFrame]) -> Iterator[FramePoses]:
        """The poses of each frame, as soon as the frame is there. Each call begins another video."""


def with_poses(
    frames: Iterable[VideoFrame], estimator: PoseEstimator
) -> Iterator[tuple[VideoFrame, FramePoses]]:
    """Each frame with its poses, as soon as they are known."""
    waiting: deque[VideoFrame] = deque()

    def read() -> Iterator[VideoFrame]:
        for frame in frames:
            waiting.append(frame)
            yield frame

    for poses in estimator(read()):
        yield waiting.popleft(), poses


@dataclass(frozen=True)
class PoseOptions:
    """Options of the commands that estimate poses.

    model           a .task file of MediaPipe, for up to two people; "": the model in its package
    min_confidence  joints below it are missing
    max_fps         frames of faster videos are left out; 0: none
    """

    model: str = ""
    min_confidence: float = 0.5
    max_fps: float = 30.0

    @staticmethod
    def add_to(parser: ArgumentParser) -> None:
        """Add the options to those of a command."""
        group = parser.add_argument_group("poses in videos")
        group.add_argument("--pose_model", default="", metavar="FILE.task",
                           help="model of MediaPipe's PoseLandmarker, for up to two people (default: "
                                "that in the package mediapipe 0.10.21, for one person)")  # fmt: skip
        group.add_argument("--min_confidence", type=float, default=PoseOptions.min_confidence,
                           help="a joint that is less visible, from 0 to 1, is missing (default: "
                                "%(default)s)")  # fmt: skip
        group.add_argument("--max_fps", type=float, default=PoseOptions.max_fps,
                           help="leave out frames of videos with more frames per second (default: "
                                "%(default)s); 0: none")  # fmt: skip

    @classmethod
    def from_arguments(cls, arguments: Namespace) -> PoseOptions:
        """What the user gave. ValueError for numbers that are not possible."""
        options = cls(arguments.pose_model, arguments.min_confidence, arguments.max_fps)
        if not 0 <= options.min_confidence < 1:
            raise ValueError(
                f"--min_confidence {options.min_confidence}\ngive a number from 0, below 1"
            )
        if not options.max_fps >= 0:
            raise ValueError(f"--max_fps {options.max_fps}\ngive frames per second, or 0 for all")
        return options


def open_estimator(options: PoseOptions) -> PoseEstimator:
    """The estimator of the commands. ValueError or OSError, with a remedy, if it cannot be used."""
    return MediaPipe(options.model, options.min_confidence)


class MediaPipe:
    """MediaPipe Pose: 33 joints in metres. The origin is between the hips in every frame, so a body
    does not move through the room.

    model           a .task file, for up to MAX_BODIES people; "": the model that the package has up to
                    0.10.21, for one person
    min_confidence  joints whose visibility is lower are missing
    Raises ValueError if the package or the model is missing.
    """

    layout = LAYOUTS["mediapipe33"]
    channels = 3

    def __init__(self, model: str = "", min_confidence: float = 0.5) -> None:
        self.model, self.min_confidence = model, min_confidence
        try:
            version = importlib.metadata.version("mediapipe")
        except importlib.metadata.PackageNotFoundError:
            raise ValueError(f"poses need the package mediapipe, which is missing\n{INSTALL}") from None
        content = ""
        if model:
            if not Path(model).is_file():
                fault = "is a folder" if Path(model).is_dir() else "does not exist"
                raise ValueError(
                    f"--pose_model {model} {fault}\n"
                    f"download a pose landmarker (.task) from {TASK_FILES}"
                )
            content = f" of {Path(model).stat().st_size} bytes"
        elif tuple(map(int, re.findall(r"\d+", version)[:3])) > (0, 10, 21):
            raise ValueError(
                f"mediapipe {version} comes without a model\n"
                f"download a pose landmarker (.task) from {TASK_FILES} and give it as --pose_model; or "
                "install mediapipe==0.10.21 (Python up to 3.12)"
            )
        self.description = (
            f"mediapipe {version}, {Path(model).name + content if model else 'its own model'}, "
            f"min_confidence {min_confidence:g}"
        )

    def __call__(self, frames: Iterable[VideoFrame]) -> Iterator[FramePoses]:
        """As `PoseEstimator` says. Raises ValueError for a file that is not a model."""
        slots: list[np.ndarray | None] = [None] * MAX_BODIES
        detector, any_found = None, False
        try:
            for frame in frames:
                with nullcontext() if any_found else silent():
                    detector = detector or (SeveralPeople(self.model) if self.model else OnePerson())
                    found = detector.detect(frame)
                any_found |= bool(found)
                yield self._in_slots(found, slots)
        finally:
            if detector:
                detector.close()

    def _in_slots(self, found: list[tuple[Any, Any]], slots: list[np.ndarray | None]) -> FramePoses:
        """The landmarks that were found, in the picture and in the world, as poses."""
        count = len(self.layout.joints)
        poses = FramePoses(
            *(np.zeros((MAX_BODIES, count, *last), np.float32) for last in ((3,), (), (2,)))
        )
        positions = [np.array([(p.x, p.y) for p in picture], np.float32) for picture, _ in found]
        visible = [np.array([p.visibility for p in picture], np.float32) for picture, _ in found]
        visible = [np.where(v >= max(self.min_confidence, 1e-6), v, 0) for v in visible]
        for i, slot in enumerate(assign_slots([p.mean(0) for p in positions], slots)):
            # MediaPipe: x to the right of the picture, y down.
            world = np.array([(-p.x, -p.y, p.z) for p in found[i][1]], np.float32)
            poses.bodies[slot] = np.where(visible[i][:, None] > 0, world, 0)
            poses.confidences[slot] = visible[i].clip(0, 1)
            poses.positions[slot] = positions[i]
        return poses


def assign_slots(centres: list[np.ndarray], slots: list[np.ndarray | None]) -> tuple[int, ...]:
    """The slot of each body, so that bodies move as little as possible from frame to frame.

    centres  (2,) of each body, in the picture
    slots    the latest centre of the body in each slot, or None; updated
    """
    far = 10.0  # farther than any picture is wide: a free slot is only for a body that has no other

    def distance(order: tuple[int, ...]) -> float:
        steps = ((centre, slots[slot]) for centre, slot in zip(centres, order, strict=True))
        return sum(far if last is None else float(np.linalg.norm(c - last)) for c, last in steps)

    best = min(permutations(range(len(slots)), len(centres)), key=distance)
    for centre, slot in zip(centres, best, strict=True):
        slots[slot] = centre
    return best


@contextmanager
def silent() -> Iterator[None]:
    """Nothing is written to the error output, where MediaPipe prints lines about itself for each video,
    without any option against it. Python's own output is not affected."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


class OnePerson:
    """The model in the package mediapipe, up to 0.10.21."""

    def __init__(self) -> None:
        from mediapipe.python.solutions.pose import Pose

        self.pose = Pose(model_complexity=1)  # the only one for which nothing is downloaded

    def detect(self, frame: VideoFrame) -> list[tuple[Any, Any]]:
        """(landmarks in the picture, landmarks in the world) of each body."""
        result = self.pose.process(frame.image)
        if result.pose_landmarks is None:
            return []
        return [(result.pose_landmarks.landmark, result.pose_world_landmarks.landmark)]

    def close(self) -> None:
        """End the threads of the library."""
        self.pose.close()


class SeveralPeople:
    """MediaPipe's PoseLandmarker with the .task file `model`. ValueError if it is not such a file."""

    def __init__(self, model: str) -> None:
        from mediapipe.tasks.python import BaseOptions, vision

        options = vision.PoseLandmarkerOptions(
            base_options=BaseOptions(model_asset_path=model),
            running_mode=vision.RunningMode.VIDEO,
            num_poses=MAX_BODIES,
        )
        try:
            self.landmarker = vision.PoseLandmarker.create_from_options(options)
        except (ValueError, RuntimeError) as error:
            reason = str(error).partition("\n")[0][:200]
            raise ValueError(
                f"--pose_model {model} cannot be used: {reason}\n"
                f"download a pose landmarker (.task) from {TASK_FILES}"
            ) from error
        self.milliseconds = -1

    def detect(self, frame: VideoFrame) -> list[tuple[Any, Any]]:
        """(landmarks in the picture, landmarks in the world) of each body."""
        from mediapipe import Image, ImageFormat

        self.milliseconds = max(self.milliseconds + 1, round(1000 * frame.time))  # it must increase
        image = Image(image_format=ImageFormat.SRGB, data=np.ascontiguousarray(frame.image))
        result = self.landmarker.detect_for_video(image, self.milliseconds)
        return list(zip(result.pose_landmarks, result.pose_world_landmarks, strict=True))

    def close(self) -> None:
        """End the threads of the library."""
        self.landmarker.close()
