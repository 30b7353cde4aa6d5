"""`Segmenter`: finds actions in a stream of frames: when one begins, which one it is, when it ends.

    segmenter = Segmenter.load("checkpoints/live/best.pt")  # a causal network with a class "background"
    for joints in sensor:  # as live.Recognizer reads them
        answer = segmenter(joints)
        for event in answer.events:
            print(event.kind, event.name, event.frame)

Two recognizers are restarted in turn, every `memory` frames. The older one has read the latest `memory`
to 2 `memory` frames, and says whether something happens: how probable all classes but "background" are.
When an action begins, a third recognizer goes on from the state of the older one until the action ends:
its classes are those of the action. So a frame costs three times as much as with `Recognizer`, however
long the stream is.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from live import Recognizer
from skeletons.background import BACKGROUND
from skeletons.options import require


@dataclass(frozen=True)
class SegmentSettings:
    """When an action begins and ends. The defaults were chosen on validation clips of NW-UCLA
    (benchmarks/segments.py). All durations are in frames.

    memory        after how many a recognizer is restarted
    smoothing     share of the newest frame in the moving average of the probability of an action
    begin_above   an action begins when this average is above, ...
    end_below     ... and ends when it is below
    begin_delay   how long after its beginning an action is usually noticed; `Event.frame` allows for it
    end_delay     the same of its end
    patience      after how many frames a body that is gone, or that is new, counts
    """

    memory: int = 8
    smoothing: float = 0.2
    begin_above: float = 0.8
    end_below: float = 0.6
    begin_delay: int = 11
    end_delay: int = 9
    patience: int = 10

    def __post_init__(self) -> None:
        for name in ("memory", "patience"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        for name in ("begin_delay", "end_delay"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        require(0 < self.smoothing <= 1, "smoothing", self.smoothing, "in (0, 1]")
        ordered = 0 <= self.end_below <= self.begin_above < 1
        thresholds = (self.end_below, self.begin_above)
        require(ordered, "end_below, begin_above", thresholds, "in this order, in [0, 1)")


class Event(NamedTuple):
    """The beginning or the end of an action.

    frame        when it happened, counted from 1 (estimated: it is noticed later)
    name         the most probable class: at the beginning, when it is noticed (it may change); at the
                 end, of the whole action
    probability  of this class among the actions
    """

    kind: Literal["begin", "end"]
    frame: int
    name: str
    probability: float


class Answer(NamedTuple):
    """What is known after a frame.

    action         whether an action is going on
    probabilities  float32 (classes,), background among them: of the action that is going on; else of
                   the latest frames
    events         that were noticed in this frame
    """

    action: bool
    probabilities: np.ndarray
    events: list[Event]


class Switch:
    """Says whether an action is going on, by a probability per frame: a moving average with two
    thresholds (hysteresis), so that it does not flicker."""

    def __init__(self, settings: SegmentSettings) -> None:
        self.settings, self.average, self.on = settings, 0.0, False

    def __call__(self, probability: float) -> bool:
        settings = self.settings
        self.average += settings.smoothing * (probability - self.average)
        self.on = self.average > (settings.end_below if self.on else settings.begin_above)
        return self.on


class Segmenter:
    """Reads one frame after the other.

    Raises ValueError for a network without a class "background".
    """

    def __init__(self, recognizer: Recognizer, settings: SegmentSettings | None = None) -> None:
        if BACKGROUND not in recognizer.classes:
            raise ValueError(
                f"a network without a class {BACKGROUND} does not know when nothing happens\n"
                "train one on recordings with this label, or on data converted with --background"
            )
        self.recognizer, self.settings = recognizer, settings or SegmentSettings()
        self.classes, self.background = recognizer.classes, recognizer.classes.index(BACKGROUND)
        self.reset()

    @classmethod
    def load(cls, checkpoint: str | Path, settings: SegmentSettings | None = None) -> Segmenter:
        """From a checkpoint of train.py."""
        recognizer = Recognizer.load(checkpoint)
        try:
            return cls(recognizer, settings)
        except ValueError as error:
            raise ValueError(f"{checkpoint}: {error}") from error

    def reset(self) -> None:
        """Begin another stream: forget all frames."""
        self.frame = 0  # the latest one, counted from 1
        self.last_boundary = 0  # the latest one that no action may contain
        self.visible: frozenset[int] = frozenset()  # slots with a body
        self.changed = 0  # frames since others are visible
        self._restart()

    def _restart(self) -> None:
        """Forget the frames of the bodies so far."""
        self.detectors: list[Recognizer] = []  # the older one first
        self.read = 0  # frames that the newer one has read
        self.switch = Switch(self.settings)
        self.current: Recognizer | None = None  # reads the action that is going on
        self.begin = 0  # its first frame
        # Of the action, in the latest frames: when its end is noticed, what came before counts.
        self.recent: deque[np.ndarray] = deque(maxlen=self.settings.end_delay + 1)
        self.probabilities = np.zeros(len(self.classes), np.float32)
        self.probabilities[self.background] = 1

    def __call__(self, joints: ArrayLike) -> Answer:
        """The next frame (V, C) or (M, V, C), as for `Recognizer`. Raises ValueError as `Recognizer`
        does; the frame does not count."""
        joints = self.recognizer.check_frame(joints)
        self.frame += 1
        events = self._follow_bodies(frozenset(visible_slots(joints)))
        if self.visible and visible_slots(joints):
            events += self._read(joints)
        return Answer(self.current is not None, self.probabilities, events)

    def finish(self) -> list[Event]:
        """The end of the stream -> the end of the action that is going on, if any."""
        events = self._end(self.frame, self.probabilities) if self.current else []
        self._restart()
        return events

    def _follow_bodies(self, visible: frozenset[int]) -> list[Event]:
        """Restart when a body has come or gone -> the end of the action that was going on."""
        self.changed = self.changed + 1 if visible != self.visible else 0
        if not self.changed or (self.visible and self.changed < self.settings.patience):
            return []
        last = self.frame - self.changed
        events = self._end(last, self.probabilities) if self.current else []
        self.visible, self.changed, self.last_boundary = visible, 0, max(last, self.last_boundary)
        self._restart()
        return events

    def _read(self, joints: torch.Tensor) -> list[Event]:
        """A frame with a body -> events."""
        settings = self.settings
        if not self.detectors or self.read >= settings.memory:
            new = self.recognizer.fork()
            new.reset()
            self.detectors, self.read = [*self.detectors[-1:], new], 0
        answers = [detector(joints) for detector in self.detectors]
        self.read += bool(self.detectors[-1].bodies)
        if self.current:
            self.probabilities = self.current(joints)
            self.recent.append(self.probabilities)
        elif self.detectors[0].bodies:
            self.probabilities = answers[0]
        if len(self.detectors) < 2:  # too few frames
            return []
        on = self.switch(1 - float(answers[0][self.background]))
        if on and not self.current:
            self.current = self.detectors[0].fork()
            self.begin = max(self.frame - settings.begin_delay, self.last_boundary + 1)
            self.recent.clear()
            self.recent.append(self.probabilities)
            return [self._event("begin", self.begin, self.probabilities)]
        if self.current and not on:
            return self._end(self.frame - settings.end_delay, self.recent[0])
        return []

    def _end(self, frame: int, probabilities: np.ndarray) -> list[Event]:
        """The action that is going on has ended."""
        self.current, self.last_boundary = None, max(frame, self.begin)
        return [self._event("end", self.last_boundary, probabilities)]

    def _event(self, kind: Literal["begin", "end"], frame: int, probabilities: np.ndarray) -> Event:
        """With the most probable action."""
        actions = probabilities.copy()
        actions[self.background] = 0
        label = int(actions.argmax())
        total = float(actions.sum())
        return Event(kind, frame, self.classes[label], float(actions[label]) / total if total else 0.0)


def visible_slots(joints: torch.Tensor) -> list[int]:
    """The slots that hold a body in a frame (M, V, C): some coordinate is neither zero nor NaN."""
    return (joints.nan_to_num() != 0).any(2).any(1).nonzero()[:, 0].tolist()
