"""Decode videos; keep the poses in them as .npy files. Memory does not grow with a video's length."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from tqdm import tqdm

from skeletons.clip import Clip, InvalidClip
from skeletons.clip_stream import clean_clip
from skeletons.custom_arrays import ArrayFormat, load_clip
from skeletons.layout import Layout
from skeletons.pose_estimation import INSTALL, FramePoses, PoseEstimator, VideoFrame, with_poses

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm")
MAX_SIDE = 1280  # pixels; larger pictures are made smaller, which saves time and memory
POSE_AXES = "TMVC"  # of the files of poses


# --- Decoding -----------------------------------------------------------------------------------------


def import_av() -> ModuleType:
    """PyAV. ValueError says how to install it."""
    try:
        import av
    except ImportError:
        raise ValueError(f"videos need the package av, which is missing\n{INSTALL}") from None
    return av


def read_video(path: str | Path, max_fps: float = 0.0) -> Iterator[VideoFrame]:
    """The frames of a video, upright, at most MAX_SIDE pixels wide and high.

    max_fps  leave out frames so that at most about so many per second remain; 0: keep all
    Raises OSError for a file that cannot be opened, InvalidClip for one that is not a complete video.
    """
    av = import_av()
    count = 0
    open(path, "rb").close()  # an error of the system is raised as such
    try:
        with av.open(file_address(path)) as container:
            for frame, time in select_frames(container, max_fps):
                count += 1
                yield VideoFrame(to_upright_image(frame), time)
    except av.FFmpegError as error:
        where = f"after frame {count}" if count else ""
        raise InvalidClip(f"not a complete video: {error.strerror or error}", where) from None
    if not count:
        raise InvalidClip("a video without pictures")


def file_address(path: str | Path) -> str:
    """A path for FFmpeg, which would take a name with a colon for another kind of address."""
    return f"file:{path}"


def select_frames(container: Any, max_fps: float) -> Iterator[tuple[Any, float]]:
    """(frame of PyAV, its time in seconds) of an open video, at most about `max_fps` per second."""
    if not container.streams.video:
        raise InvalidClip("not a video: it contains no pictures")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    # A frame is due a little early: 60 per second become 30, not 20, whatever the rounding of times.
    step = 0.9 / max_fps if max_fps else 0.0
    rate = float(stream.average_rate or 30)
    due = -np.inf
    for number, frame in enumerate(container.decode(stream)):
        time = number / rate if frame.time is None else frame.time
        if time >= due:
            due = time + step
            yield frame, time


def to_upright_image(frame: Any) -> np.ndarray:
    """A frame of PyAV -> uint8 (H, W, 3), rotated as the camera says that it was held."""
    scale = min(1.0, MAX_SIDE / max(frame.width, frame.height))
    width, height = (max(1, round(side * scale)) for side in (frame.width, frame.height))
    image = frame.to_ndarray(format="rgb24", width=width, height=height)
    return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90)))


def expected_frames(path: str | Path, max_fps: float) -> int | None:
    """About how many frames `read_video` gives, for a progress bar; None if that is unknown."""
    av = import_av()
    try:
        with av.open(file_address(path)) as container:
            rate = float(container.streams.video[0].average_rate)
            seconds = container.duration / av.time_base
    except (av.FFmpegError, IndexError, TypeError):
        return None
    return round(seconds * min(rate, max_fps or rate))


# --- Poses --------------------------------------------------------------------------------------------


def estimate(
    path: str | Path, estimator: PoseEstimator, max_fps: float
) -> Iterator[tuple[float, FramePoses]]:
    """(time, poses) of each frame of a video, with a progress bar. Raises as `read_video`."""
    frames = with_poses(read_video(path, max_fps), estimator)
    total = expected_frames(path, max_fps)
    name = f"  {Path(path).name}"
    for frame, poses in tqdm(frames, name, total, unit=" frames", disable=None, leave=False):
        yield frame.time, poses


@dataclass
class VideoClip(Clip):
    """The bodies in a video, without the frames that show none.

    path   of the video
    poses  of all its frames
    fps    frames per second of these poses; 0 for a single frame
    """

    path: Path = Path()
    poses: list[FramePoses] = field(default_factory=list)
    fps: float = 0.0

    def all_frames(self) -> np.ndarray:
        """The bodies in all frames, (T, C, V, M): zeros in a frame that shows none."""
        shown = [bool(frame.confidences.any()) for frame in self.poses]
        frames = np.zeros((len(shown), *self.data.shape[1:]), np.float32)
        frames[shown] = self.data
        return frames


def read_video_clip(
    path: Path, estimator: PoseEstimator, max_fps: float, layout: Layout | None = None
) -> VideoClip:
    """The poses in a video as a clip for recognition.

    layout  that the bodies must have (None: any)
    Raises as `read_video`; InvalidClip if nobody is found, ValueError for another layout.
    """
    if layout:
        check_layout(layout, estimator)
    timed = list(estimate(path, estimator, max_fps))
    poses = [frame for _, frame in timed]
    if not any(frame.confidences.any() for frame in poses):
        raise InvalidClip(f"nobody is found in any of its {len(poses)} frames")
    data = scored_to_clip(np.stack([frame.scored for frame in poses]), estimator)
    fps = frame_rate(len(poses), timed[0][0], timed[-1][0])
    return VideoClip(path.stem, 0, data, path=path, poses=poses, fps=fps)


def frame_rate(frames: int, first: float, last: float) -> float:
    """Frames per second, from the times of the first and the last frame; 0 for a single frame."""
    return (frames - 1) / (last - first) if last > first else 0.0


def check_layout(layout: Layout, estimator: PoseEstimator) -> None:
    """ValueError if a network for bodies of this layout cannot read the poses of the estimator."""
    if layout != estimator.layout:
        raise ValueError(
            f"poses in videos are {estimator.layout.name}; the network was trained on {layout.name}\n"
            "train one on videos: convert_data.py --data_path FOLDER_OF_VIDEOS, or record.py"
        )


def scored_to_clip(scored: np.ndarray, estimator: PoseEstimator) -> np.ndarray:
    """Poses with confidences (T, M, V, C + 1), at least one body -> float32 (T', C, V, M): the frames
    that show a body, without missing joints, as in a conversion."""
    form = ArrayFormat(estimator.layout, estimator.channels, scores=True)
    return clean_clip(load_clip(scored, form, POSE_AXES))


class PoseWriter:
    """Writes poses to a .npy file (T, M, V, C + 1), frame by frame. As a context, it leaves a complete
    file, or after an error none."""

    def __init__(self, path: Path) -> None:
        self.path, self.partial = path, path.with_name(f"{path.name}.partial")
        self.frames = self.frames_with_body = 0
        self.shape: tuple[int, ...] = (0, 0, 0)

    def __enter__(self) -> PoseWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(self.partial, "wb")
        return self

    def add(self, poses: FramePoses) -> None:
        """Append a frame."""
        frame = np.ascontiguousarray(poses.scored, "<f4")
        if not self.frames:
            self.shape = frame.shape
            self._write_header()
        self.file.write(frame)
        self.frames += 1
        self.frames_with_body += bool(poses.confidences.any())

    def _write_header(self) -> None:
        """numpy leaves room in it for any number of frames, so it can be written again."""
        fields = {"descr": "<f4", "fortran_order": False, "shape": (self.frames, *self.shape)}
        np.lib.format.write_array_header_1_0(self.file, fields)

    def __exit__(self, error: type[BaseException] | None, *others: object) -> None:
        self.file.seek(0)
        self._write_header()
        self.file.close()
        if error or not self.frames:
            self.partial.unlink()
        else:
            self.partial.replace(self.path)


def cached_poses(
    video: Path, poses: Path, estimator: PoseEstimator, max_fps: float
) -> tuple[dict[str, Any], bool]:
    """Make sure that the file `poses` has those of a video.

    They are estimated unless the file is there already, with a .json next to it that says that it is of
    this video (its size and time of change) and of these options.
    Returns (contents of the .json, whether anything was estimated). Raises as `read_video`.
    """
    status = video.stat()
    key = {
        "bytes": status.st_size,
        "changed": status.st_mtime_ns,
        "estimator": estimator.description,
        "max_fps": max_fps,
    }
    about = poses.with_suffix(".json")
    try:
        info = json.loads(about.read_text(encoding="utf-8"))
        if poses.is_file() and key.items() <= info.items():
            return info, False
    except (OSError, ValueError, AttributeError):
        pass  # there is nothing, or nothing complete
    about.unlink(missing_ok=True)
    first = last = 0.0
    with PoseWriter(poses) as writer:
        for last, frame in estimate(video, estimator, max_fps):
            first = first if writer.frames else last
            writer.add(frame)
    fps = frame_rate(writer.frames, first, last)
    info = key | {
        "frames": writer.frames,
        "frames_with_body": writer.frames_with_body,
        "fps": round(fps, 3),
    }
    about.write_text(json.dumps(info, indent=1), encoding="utf-8")
    return info, True
