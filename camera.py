"""A camera, or a video in its place: its pictures, poses in them, a window, live recognition.

predict.py --camera and record.py are the commands.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np

from live import Recognizer
from overlay import TOP, AnimationWriter, draw
from pretrained import ActionRecognizer, rank_classes
from segmentation import Segmenter
from skeletons.background import BACKGROUND
from skeletons.clip import InvalidClip
from skeletons.layout import Layout
from skeletons.pose_estimation import INSTALL, FramePoses, PoseEstimator, VideoFrame, with_poses
from skeletons.video import read_video, scored_to_clip

PAUSE = 0.2  # seconds between two predictions of a network that reads whole clips
RATE_FRAMES = 30  # the frames per second that are shown are those of so many latest frames
QUIT, NEW_CLIP = "q", " "


def import_cv2() -> ModuleType:
    """OpenCV. ValueError says how to install it."""
    try:
        import cv2
    except ImportError as error:
        raise ValueError(f"a camera or window needs the package opencv: {error}\n{INSTALL}") from None
    return cv2


# --- Pictures -----------------------------------------------------------------------------------------


def open_frames(source: str, max_fps: float = 0.0) -> Iterator[VideoFrame]:
    """The frames of a camera, by its number, or of a video file.

    max_fps  of a video, see `read_video`
    Raises OSError if there is no such camera or file, if the camera is unplugged, for a corrupt video.
    """
    if not source.isdecimal():
        if not Path(source).is_file():
            raise OSError(f"--camera {source} is not a file\ngive the number of a camera, or a video")
        return read_file(source, max_fps)
    return read_camera(int(source))


def read_file(path: str, max_fps: float) -> Iterator[VideoFrame]:
    """The frames of a video. Raises OSError, with its name, if it is none or corrupt."""
    try:
        yield from read_video(path, max_fps)
    except InvalidClip as error:
        raise OSError(f"{path}: {error}\ngive another video") from error


def read_camera(number: int) -> Iterator[VideoFrame]:
    """The pictures of a camera, the latest one each time. Raises OSError as `open_frames`."""
    cv2 = import_cv2()
    capture = cv2.VideoCapture(number)
    try:
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # no old pictures wait
        while capture.isOpened():
            complete, image = capture.read()
            if not complete:
                break
            yield VideoFrame(np.ascontiguousarray(image[..., ::-1]), time.perf_counter())
    finally:
        capture.release()
    raise OSError(
        f"camera {number} gives no picture\nconnect it, close other programs that use it, allow this "
        "program to use it, or give another number or a video file as --camera"
    )


class Screen:
    """Where drawn pictures go: a window, or a file in its place.

    frames_out  a .mp4 or .gif file, or "" for a window
    As a context it closes the window, or completes the file.
    Raises ValueError, OSError if no window can be opened.
    """

    def __init__(self, title: str, frames_out: str = "") -> None:
        self.title = title
        self.writer = AnimationWriter(frames_out) if frames_out else None
        if not self.writer:
            remedy = "give --frames_out OUT.mp4, which the pictures are written to"
            if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ):
                raise OSError(f"no window can be opened: there is no screen\n{remedy}")
            self.cv2 = import_cv2()
            try:
                self.cv2.namedWindow(title)
            except self.cv2.error:
                raise OSError(
                    "no window can be opened: this build of OpenCV has none\n"
                    f"pip install opencv-python in place of opencv-python-headless; or {remedy}"
                ) from None

    def show(self, picture: np.ndarray, seconds: float) -> str:
        """Show a picture, uint8 (H, W, 3), of the time `seconds` -> the key that was pressed, or "".
        Closing the window is QUIT."""
        if self.writer:
            self.writer.add(picture, seconds)
            return ""
        self.cv2.imshow(self.title, np.ascontiguousarray(picture[..., ::-1]))
        key = self.cv2.waitKey(1)
        if self.cv2.getWindowProperty(self.title, self.cv2.WND_PROP_VISIBLE) < 1:
            return QUIT
        return "" if key < 0 else chr(key & 0xFF).lower()

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *error: object) -> None:
        if self.writer:
            self.writer.__exit__(*error)
        else:
            self.cv2.destroyAllWindows()


class Rate:
    """Frames per second of the latest frames."""

    def __init__(self) -> None:
        self.times: deque[float] = deque(maxlen=RATE_FRAMES)

    def __call__(self) -> float:
        """To be called after each frame; 0 after the first one."""
        self.times.append(time.perf_counter())
        passed = self.times[-1] - self.times[0]
        return (len(self.times) - 1) / passed if passed else 0.0


# --- Live recognition ---------------------------------------------------------------------------------


class FrameByFrame:
    """A causal network reads each frame once. With a class "background", it begins anew after each
    action (segmentation.py)."""

    def __init__(self, recognizer: Recognizer) -> None:
        self.layout = recognizer.layout
        knows_pauses = BACKGROUND in recognizer.classes
        self.recognizer = Segmenter(recognizer) if knows_pauses else recognizer
        self.reset()

    def reset(self) -> None:
        """Begin another clip."""
        self.recognizer.reset()
        self.seen: np.ndarray | None = None
        self.latest = np.float32(np.nan)  # (M, V, C) the latest position of each joint
        self.action: bool | None = None  # whether one is going on; None: the network does not know

    def __call__(self, poses: FramePoses, seconds: float) -> np.ndarray | None:
        """Probabilities (classes,) after this frame; None: no body so far."""
        bodies, self.seen = complete(poses, self.seen, self.layout)
        # A missing joint keeps its position, as in `Recognizer`, which a Segmenter begins anew.
        self.latest = np.where(np.isnan(bodies), self.latest, bodies)
        bodies = np.where(poses.confidences.any(1)[:, None, None], self.latest, np.nan)
        if isinstance(self.recognizer, Segmenter):
            before = self.recognizer.visible
            answer = self.recognizer(bodies)
            # Whoever comes next into the slot of a body that has left may be another person.
            gone = list(before - self.recognizer.visible)
            self.seen[gone], self.latest[gone] = False, np.nan
            self.action = answer.action
            return answer.probabilities if self.recognizer.visible else None
        probabilities = self.recognizer(bodies)
        return probabilities if self.recognizer.bodies else None


def complete(
    poses: FramePoses, seen: np.ndarray | None, layout: Layout
) -> tuple[np.ndarray, np.ndarray]:
    """Poses for `Recognizer`, which waits for a body's first complete frame, although a camera may
    never see the legs. A joint that was not seen so far is put at the nearest one that is, as in a
    conversion; one that is missing later is NaN, and keeps its position.

    seen  (M, V) which joints were seen in earlier frames; None: there are none
    Returns (bodies (M, V, C), seen with this frame).
    """
    found = poses.confidences > 0
    seen = found if seen is None else seen | found
    bodies = np.where(found[..., None], poses.bodies, np.nan).astype(np.float32)
    for slot, joint in np.argwhere(~seen & found.any(1, keepdims=True)).tolist():
        distance = np.where(found[slot], layout.distances(joint), np.inf)
        bodies[slot, joint] = poses.bodies[slot, int(distance.argmin())]
    return bodies, seen


class LatestFrames:
    """A network that reads whole clips reads the latest seconds again and again.

    seconds  that it reads: as long as the clips that it was trained on
    """

    action = None  # as that of FrameByFrame

    def __init__(self, recognizer: ActionRecognizer, estimator: PoseEstimator, seconds: float) -> None:
        self.recognizer, self.estimator, self.seconds = recognizer, estimator, seconds
        self.reset()

    def reset(self) -> None:
        """Begin another clip."""
        self.frames: deque[tuple[float, np.ndarray]] = deque()
        self.probabilities: np.ndarray | None = None
        self.due = -np.inf

    def __call__(self, poses: FramePoses, seconds: float) -> np.ndarray | None:
        """As that of FrameByFrame."""
        if poses.confidences.any():
            self.frames.append((seconds, poses.scored))
        while self.frames and self.frames[0][0] < seconds - self.seconds:
            self.frames.popleft()
        if not self.frames:
            self.probabilities = None
        elif seconds >= self.due:
            self.due = seconds + PAUSE
            clip = scored_to_clip(np.stack([frame for _, frame in self.frames]), self.estimator)
            preprocess = self.recognizer.preprocess
            if preprocess.front_padding:  # it takes the first frames of a clip; the latest are wanted
                clip = clip[-max(0, preprocess.window_size) :]
            self.probabilities = self.recognizer.classify([clip])[0]
        return self.probabilities


def watch(
    source: str,
    recognizer: FrameByFrame | LatestFrames,
    estimator: PoseEstimator,
    classes: list[str],
    screen: Screen,
    max_fps: float = 0.0,
) -> tuple[int, int, float]:
    """Recognise what a camera or video shows, and draw it, until it ends or a key says so.

    Returns (frames, frames with a body, frames per second).
    """
    count = with_body = 0
    rate, started = Rate(), time.perf_counter()
    for frame, poses in with_poses(open_frames(source, max_fps), estimator):
        probabilities = recognizer(poses, frame.time)
        count, with_body = count + 1, with_body + bool(poses.confidences.any())
        bars = []
        state = "no body"
        if probabilities is not None:
            ranked = rank_classes(probabilities, classes)
            if recognizer.action is not None:  # (the title says what the background would)
                ranked = [one for one in ranked if one.name != BACKGROUND]
            bars = [tuple(one) for one in ranked[:TOP]]
            state = "space: new clip, q: quit"
        action = {True: ", action", False: ", pause", None: ""}[recognizer.action]
        title = f"{rate():.0f} frames per second{action}\n{state}"
        key = screen.show(draw(frame.image, poses, estimator.layout, title, bars), frame.time)
        if key == NEW_CLIP:
            recognizer.reset()
        if key == QUIT:
            break
    return count, with_body, count / (time.perf_counter() - started)
