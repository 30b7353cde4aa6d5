"""A class of pauses between actions, for data sets that have none: `with_background`.

A live network must know when nothing happens. Recordings of a user may hold clips labelled BACKGROUND.
For other data, pauses are made from the clips: from the end of one to the beginning of another one, of
the same subject, camera and split. They are synthetic, and easier than real pauses, in which people
scratch their heads.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from skeletons.clip import MAX_BODIES, Clip
from skeletons.clip_stream import ClipStream, Failure

BACKGROUND = "background"  # the name of the class

PAUSE_FRAMES = (10, 120)  # shortest and longest pause: 0.3 to 4 s at 30 frames per second
EDGE_FRAMES = 5  # frames at the beginning and end of a clip from which pauses are made
MAX_EDGES = 32  # clips of a group that are remembered
CANDIDATES = 8  # clips of which the one with the nearest first pose follows a pause
RELATIVE_CLASS_SIZE = 2.0  # pauses per clip of the average class
# In units of the body's size, the root mean square distance of its joints from their centre (0.45 m for
# a standing adult).
MAX_SPEED = 0.05  # mean distance per frame that joints move during a pause
SWAY = 0.02  # standard deviation of slow random movements
SWAY_FRAMES = 15  # from one random position to the next
STOPPING_FRAMES = 2.0  # time constant with which the movement of a clip ends, and the next one begins


class Edges(NamedTuple):
    """The beginning and the end of a clip, up to EDGE_FRAMES frames (T, C, V, M) each in which all its
    bodies are visible."""

    name: str
    first: np.ndarray
    last: np.ndarray

    @classmethod
    def from_frames(cls, name: str, frames: np.ndarray) -> "Edges":
        """From frames (T, C, V, M) in which all bodies are visible. (Copies, so that the clip can be
        freed.)"""
        return cls(name, frames[:EDGE_FRAMES].copy(), frames[-EDGE_FRAMES:].copy())


def make_pause(
    before: np.ndarray, after: np.ndarray, num_frames: int, rng: np.random.Generator
) -> np.ndarray:
    """The frames between two clips: float32 (T, C, V, M).

    The body comes to rest, is held, moves slowly to where the next clip begins, is held, and starts to
    move. Random slow movements and the noise of the sensor are added.

    before, after  the last frames of a clip and the first ones of the next, (T, C, V, M) of the same
                   bodies, all of them visible
    num_frames     T; more if the way is too far for MAX_SPEED
    """
    pose, next_pose = before[-1].astype(np.float64), after[0].astype(np.float64)
    size = np.sqrt(((pose - pose.mean(1, keepdims=True)) ** 2).sum(0).mean())
    moving = mean_distance(pose, next_pose) / max(MAX_SPEED * size, 1e-9)  # frames
    num_frames = max(num_frames, int(np.ceil(moving)))
    time = np.arange(1, num_frames + 1)[:, None, None, None]
    moving = rng.uniform(moving, num_frames)
    held = rng.uniform(0, num_frames - moving)
    progress = np.clip((time - held) / max(moving, 1), 0, 1)
    progress = progress**2 * (3 - 2 * progress)
    stopping = pose + _velocity(before) * _glide(time)
    starting = next_pose - _velocity(after) * _glide(num_frames + 1 - time)
    frames = stopping + progress * (starting - stopping)
    frames += SWAY * size * _slow_noise(frames.shape, rng)
    noise = (_noise_level(before) + _noise_level(after)) / 2
    return (frames + noise * rng.normal(size=frames.shape)).astype(np.float32)


def mean_distance(pose: np.ndarray, other: np.ndarray) -> float:
    """Mean distance of the joints of two poses (C, V, M)."""
    return float(np.sqrt(((pose - other) ** 2).sum(0)).mean())


def _velocity(frames: np.ndarray) -> np.ndarray:
    """Movement per frame (C, V, M)."""
    return (frames[-1] - frames[0]) / max(len(frames) - 1, 1)


def _glide(time: np.ndarray) -> np.ndarray:
    """How far, in frames at the first speed, a body goes that comes to rest."""
    return STOPPING_FRAMES * (1 - np.exp(-time / STOPPING_FRAMES))


def _noise_level(frames: np.ndarray) -> float:
    """Standard deviation of a sensor's noise, by the second differences of few frames. (Median of
    absolute values: fast joints do not count. 0.6745: of a normal distribution. 6 = 1 + 4 + 1.)"""
    if len(frames) < 3:
        return 0.0
    return float(np.median(np.abs(np.diff(frames, 2, axis=0)))) / 0.6745 / np.sqrt(6)


def _slow_noise(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Random (T, ...), interpolated between independent values; almost zero at both ends."""
    knots = rng.normal(size=(shape[0] // SWAY_FRAMES + 3, *shape[1:]))
    knots[0] = knots[-1] = 0
    position = np.linspace(0, len(knots) - 1, shape[0] + 2)[1:-1]
    index = position.astype(int)
    weight = (position - index).reshape(-1, *(1,) * (len(shape) - 1))
    return knots[index] * (1 - weight) + knots[index + 1] * weight


def draw_pause_length(rng: np.random.Generator) -> int:
    """Frames of a pause: its logarithm is uniform."""
    return round(float(np.exp(rng.uniform(*np.log(PAUSE_FRAMES)))))


def choose_next(last: np.ndarray, edges: Sequence[Edges], rng: np.random.Generator) -> int:
    """Which clip may follow a pause: of a few random ones, that with the first pose nearest to the
    frames `last`. (Else pauses would hold movements like sitting down.)"""
    some = rng.choice(len(edges), min(CANDIDATES, len(edges)), replace=False)
    return int(min(some, key=lambda i: mean_distance(last[-1], edges[i].first[0])))


@dataclass
class _Group:
    """Clips of one subject, camera and split, with the same bodies: their number, and some of them."""

    clips: int = 0
    edges: list[Edges] = field(default_factory=list)

    def add(self, edges: Edges, rng: np.random.Generator) -> None:
        """Each clip is kept with the same probability (reservoir sampling)."""
        self.clips += 1
        if len(self.edges) < MAX_EDGES:
            self.edges.append(edges)
        elif (place := rng.integers(self.clips)) < MAX_EDGES:
            self.edges[place] = edges


def with_background(stream: ClipStream, seed: int = 0) -> ClipStream:
    """The stream with a class BACKGROUND, whose clips follow after all others, and a default output
    folder of its own.

    A clip of it is the end of a clip and a pause after it. There are RELATIVE_CLASS_SIZE times as many
    as there are clips of the average class, at least one per group. An unknown subject or camera counts
    as one.

    Raises ValueError if the stream has such a class.
    """
    if BACKGROUND in stream.classes:
        raise ValueError(
            f"{stream.title} has clips with the label {BACKGROUND}\nleave --background out"
        )
    clips = _add_pauses(stream.clips, len(stream.classes), np.random.default_rng(seed))
    classes, out_folder = [*stream.classes, BACKGROUND], f"{stream.out_folder}-{BACKGROUND}"
    return replace(stream, classes=classes, clips=clips, out_folder=out_folder)


def _add_pauses(
    clips: Iterator[Clip | Failure], num_classes: int, rng: np.random.Generator
) -> Iterator[Clip | Failure]:
    groups: dict[tuple, _Group] = {}
    for clip in clips:
        if isinstance(clip, Clip) and clip.splits:
            bodies = tuple(clip.data.any((0, 1, 2)).nonzero()[0].tolist())
            frames = clip.data[..., bodies]
            frames = frames[frames.any((1, 2)).all(1)]
            if len(frames):
                key = (clip.subject, clip.camera, tuple(sorted(clip.splits.items())), bodies)
                groups.setdefault(key, _Group()).add(Edges.from_frames(clip.name, frames), rng)
        yield clip
    number = 0
    for (subject, camera, splits, bodies), group in groups.items():
        for _ in range(max(round(RELATIVE_CLASS_SIZE * group.clips / num_classes), 1)):
            before = group.edges[rng.integers(len(group.edges))]
            others = [edges for edges in group.edges if edges is not before] or [before]
            after = others[choose_next(before.last, others, rng)]
            pause = make_pause(before.last, after.first, draw_pause_length(rng), rng)
            frames = np.concatenate((before.last, pause))
            data = np.zeros((*frames.shape[:3], MAX_BODIES), np.float32)
            data[..., bodies] = frames
            number += 1
            name = f"{BACKGROUND}{number:05d}"
            yield Clip(name, num_classes, data, subject, camera, dict(splits))
