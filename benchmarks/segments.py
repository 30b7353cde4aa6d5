"""How well actions are found in streams: segmentation.py against a sliding window.

    python benchmarks/segments.py --validation VAL/last.pt                     # choose settings
    python benchmarks/segments.py --validation VAL/last.pt --test RUN/last.pt  # and test them

Each option takes a causal network trained with a class "background" (convert_data.py --background),
and, if wanted, one without, for another sliding window. Settings are chosen on the validation clips of
the first option's networks (train.py --validation_camera), and used once on the test clips with those
of the second. Writes results/segments.json.

A stream holds all clips of one subject and camera, with a random pause (skeletons/background.py) before
each and at the end. A reported segment and an action belong together if their intersection is at least
0.3 of their union; one segment per action, those that overlap most first. All other segments are false
alarms. The delay is counted from the first frame of the action to the frame in which the segment was
first reported. Settings with the highest F1 of segments with the right class are chosen.
"""

import argparse
import json
import platform
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import training.environment  # noqa: E402, F401

import torch  # noqa: E402

from live import Recognizer  # noqa: E402
from segmentation import SegmentSettings, Switch  # noqa: E402
from skeletons.background import (  # noqa: E402
    BACKGROUND,
    Edges,
    choose_next,
    draw_pause_length,
    make_pause,
)
from skeletons.batch import BodyBatch  # noqa: E402
from skeletons.output import check_output, make_console_safe  # noqa: E402
from skeletons.preprocess import to_reference  # noqa: E402
from skeletons.storage import read_meta, read_split, split_files  # noqa: E402
from skeletons.version import git_commit  # noqa: E402
from training import engine  # noqa: E402
from training.checkpoint import load_checkpoint  # noqa: E402

MIN_OVERLAP = 0.3  # intersection over union
FPS = 30  # frames per second of the sensor, for false alarms per minute
STEP = 4  # frames from one sliding window to the next
WINDOWS = (24, 48)  # frames
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.92, 0.94, 0.96, 0.98)
MEMORIES = (8, 12, 16, 24)
SMOOTHINGS = (0.1, 0.2, 0.3, 0.5)
BEGIN_ABOVE = (0.5, 0.6, 0.7, 0.8, 0.9)
END_BELOW = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
BATCH_SIZE = 64  # windows
VALIDATION_SEED, TEST_SEEDS = 100, (0, 1, 2)


class Segment(NamedTuple):
    """An action in a stream, frames counted from 1. noticed: the frame in which it was reported."""

    begin: int
    end: int
    name: str
    noticed: int = 0


class Stream(NamedTuple):
    """frames (T, V, C), and the actions in them."""

    frames: np.ndarray
    actions: list[Segment]


# --- Streams ------------------------------------------------------------------------------------------


def read_clips(
    folder: str | Path, split: str, numbers: Sequence[int] | None = None
) -> list[list[tuple[str, np.ndarray]]]:
    """The clips of a split (those of these numbers) but for pauses: for each subject and camera, pairs
    of class and frames (T, C, V, 1)."""
    data, counts, _, labels = read_split(*split_files(folder, split), mmap=True)
    meta, begin = read_meta(folder), np.cumsum(counts) - counts
    groups: dict[tuple[int, int], list[tuple[str, np.ndarray]]] = {}
    for i in range(len(labels)) if numbers is None else numbers:
        name = meta["classes"][labels[i]]
        clip = np.array(data[begin[i] : begin[i] + counts[i]])
        if clip[..., 1:].any():
            raise ValueError(f"{folder}: clips of two bodies\nthis benchmark is for clips of one body")
        if name != BACKGROUND:
            key = (meta["subject"][split][i], meta["camera"][split][i])
            groups.setdefault(key, []).append((name, clip[..., :1]))
    return list(groups.values())


def make_stream(clips: Sequence[tuple[str, np.ndarray]], rng: np.random.Generator) -> Stream:
    """All clips, pairs of class and frames (T, C, V, 1), in a random order, with pauses."""
    remaining, actions, pieces, length = list(clips), [], [], 0
    last = None  # frames before the next pause
    while remaining:
        edges = [Edges.from_frames(*clip) for clip in remaining]
        chosen = rng.integers(len(edges)) if last is None else choose_next(last, edges, rng)
        name, clip = remaining.pop(chosen)
        first = edges[chosen].first
        pause = make_pause(first[:1] if last is None else last, first, draw_pause_length(rng), rng)
        begin = length + len(pause) + 1
        pieces += [pause, clip]
        length += len(pause) + len(clip)
        actions.append(Segment(begin, length, name))
        last = edges[chosen].last
    pieces.append(make_pause(last, last[-1:], draw_pause_length(rng), rng))
    return Stream(np.concatenate(pieces)[..., 0].swapaxes(1, 2), actions)


# --- What is compared ---------------------------------------------------------------------------------


@torch.no_grad()
def prefix_probabilities(recognizer: Recognizer, windows: np.ndarray) -> np.ndarray:
    """Windows (B, T, V, C) of a body -> class probabilities after each of their frames (B, T, classes),
    as a Recognizer gives them that begins with the window."""
    model, results = recognizer.model, []
    for batch in torch.from_numpy(windows).permute(0, 3, 1, 2).split(BATCH_SIZE):  # (B, C, T, V)
        count, _, num_frames, _ = batch.shape
        visible = torch.ones(count, num_frames, dtype=torch.bool)
        bodies = BodyBatch(batch, torch.arange(count), visible[:, :1])
        reference = recognizer.preprocess.reference(bodies, visible, torch.ones(count))
        bodies = bodies._replace(joints=to_reference(batch, *reference))
        features = model.joint_features(model.select_joints(bodies))
        streams = [stream.step(features).flatten(0, 1) for stream in (model.temporal, model.spatial)]
        clips = BodyBatch(None, torch.arange(count * num_frames), visible.view(-1, 1))
        posterior = model.posterior(model.classify(streams, clips))
        results.append(posterior.view(count, num_frames, -1).numpy())
    return np.concatenate(results)


def cut_windows(frames: np.ndarray, size: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames (T, ...) -> windows (B, size, ...) that begin every `step` frames, and the number of the
    last frame of each."""
    ends = np.arange(size, len(frames) + 1, step)
    return np.stack([frames[end - size : end] for end in ends]), ends


def window_segments(
    probabilities: np.ndarray,
    ends: np.ndarray,
    classes: Sequence[str],
    threshold: float,
    split_classes: bool,
) -> list[Segment]:
    """Segments of a sliding window: consecutive windows in which an action has a probability of
    `threshold` or more.

    probabilities  (B, classes) of the windows that end with the frames `ends`
    split_classes  another class is another segment; else the class has the highest mean probability
    """
    actions = probabilities[:, [name != BACKGROUND for name in classes]]  # (it is the last one)
    on, labels = actions.max(1) >= threshold, actions.argmax(1)
    segments, begin = [], None
    for i in range(len(ends) + 1):
        going_on = i < len(ends) and on[i]
        same = going_on and not (split_classes and begin is not None and labels[i] != labels[begin])
        if begin is not None and not same:
            label = actions[begin:i].mean(0).argmax()
            segments.append(Segment(ends[begin], ends[i - 1], classes[label], ends[begin]))
            begin = None
        if going_on and begin is None:
            begin = i
    return segments


def segmenter_segments(
    recognizer: Recognizer,
    stream: Stream,
    settings: SegmentSettings,
    probabilities: Sequence[float] | None = None,
) -> list[Segment]:
    """What a Segmenter reports, many frames at a time (tests/test_segmentation.py compares the two).

    probabilities  what `action_probabilities` gives, if it is known
    """
    memory, last = settings.memory, 0
    if probabilities is None:
        probabilities = action_probabilities(recognizer, stream, memory)
    segments = []
    for noticed, until in switched(probabilities, settings):
        # The older recognizer, from which a third one went on, has read 1 to 2 memories.
        start = ((noticed - 1) // memory - 1) * memory
        end = until - (settings.end_delay if until <= len(stream.frames) else 1)
        window = stream.frames[None, start : max(end, noticed)]
        read = prefix_probabilities(recognizer, window)[0, -1].copy()
        read[recognizer.classes.index(BACKGROUND)] = 0
        begin = max(noticed - settings.begin_delay, last + 1)
        last = max(end, begin)
        segments.append(Segment(begin, last, recognizer.classes[read.argmax()], noticed))
    return segments


def action_probabilities(recognizer: Recognizer, stream: Stream, memory: int) -> list[float]:
    """How probable an action is after each frame (T,), by what a Segmenter with this memory has read:
    zero as long as it does not know."""
    count = len(stream.frames)
    padding = np.repeat(stream.frames[-1:], 2 * memory, 0)
    windows, _ = cut_windows(np.concatenate((stream.frames, padding)), 2 * memory, memory)
    background = recognizer.classes.index(BACKGROUND)
    older = prefix_probabilities(recognizer, windows)[:, memory:, background]
    return ([0.0] * memory + (1 - older).flatten().tolist())[:count]


def switched(probabilities: Sequence[float], settings: SegmentSettings) -> list[tuple[int, int]]:
    """Frames, counted from 1, in which a Segmenter would notice the beginning and the end of an action;
    one after the last frame for the end of an action that goes on. Before `memory` frames are read, it
    notices nothing."""
    switch, segments, begin = Switch(settings), [], 0
    for number, probability in enumerate(probabilities[settings.memory :], settings.memory + 1):
        on = switch(probability)
        if on and not begin:
            begin = number
        elif begin and not on:
            segments.append((begin, number))
            begin = 0
    return segments + [(begin, len(probabilities) + 1)] * bool(begin)


# --- Scores -------------------------------------------------------------------------------------------


def overlap(one: Segment, other: Segment) -> float:
    """Intersection over union."""
    both = min(one.end, other.end) - max(one.begin, other.begin) + 1
    return max(both, 0) / (one.end - one.begin + other.end - other.begin + 2 - max(both, 0))


def match(
    reported: Sequence[Segment], actions: Sequence[Segment], least: float = MIN_OVERLAP
) -> list[tuple[Segment, Segment]]:
    """Pairs of a reported segment and an action, those with the largest overlap first."""
    pairs = [(-overlap(one, other), i, j) for i, one in enumerate(reported)
             for j, other in enumerate(actions)]  # fmt: skip
    matched, used = [], (set(), set())
    for negative, i, j in sorted(pairs):  # (of equal ones the earliest)
        if -negative >= least and i not in used[0] and j not in used[1]:
            used[0].add(i)
            used[1].add(j)
            matched.append((reported[i], actions[j]))
    return matched


def allow_for_delay(segments: Iterable[Segment], begin_delay: int, end_delay: int) -> list[Segment]:
    """Segments that began and ended so much earlier than it was noticed."""
    earlier = []
    for one in segments:
        begin = max(one.begin - begin_delay, 1)
        earlier.append(one._replace(begin=begin, end=max(one.end - end_delay, begin)))
    return earlier


def typical_delays(results: Iterable[tuple[Sequence[Segment], Stream]]) -> tuple[int, int]:
    """Median delay of the reported beginnings and ends, 0 or more."""
    pairs = [pair for reported, stream in results for pair in match(reported, stream.actions, 0.01)]
    if not pairs:
        return 0, 0
    delays = [(one.begin - other.begin, one.end - other.end) for one, other in pairs]
    begin, end = np.median(delays, 0)
    return max(round(begin), 0), max(round(end), 0)


def score(results: Sequence[tuple[Sequence[Segment], Stream]]) -> dict[str, Any]:
    """Pairs of reported segments and their stream -> shares, rates, delays and the numbers behind
    them."""
    actions = sum(len(stream.actions) for _, stream in results)
    frames = sum(len(stream.frames) for _, stream in results)
    reported = sum(len(segments) for segments, _ in results)
    pairs = [pair for segments, stream in results for pair in match(segments, stream.actions)]
    right = sum(one.name == other.name for one, other in pairs)
    delays = [one.noticed - other.begin for one, other in pairs]
    delays = np.percentile(delays, (50, 90)).tolist() if delays else (None, None)
    return {
        "actions": actions,
        "frames": frames,
        "reported": reported,
        "detected": len(pairs),
        "detected_right_class": right,
        "detected_share": len(pairs) / actions,
        "detected_right_class_share": right / actions,
        "f1": 2 * len(pairs) / (actions + reported),
        "f1_right_class": 2 * right / (actions + reported),
        "false_alarms": reported - len(pairs),
        "false_alarms_per_minute": (reported - len(pairs)) / (frames / FPS / 60),
        "delay_median": delays[0],
        "delay_90th_percentile": delays[1],
    }


# --- Choosing settings on validation streams ----------------------------------------------------------


class Method(NamedTuple):
    """A way to find actions, with the settings that were chosen for it.

    window  frames of a sliding window; 0: segmentation.py
    """

    recognizer: Recognizer
    window: int
    settings: dict[str, Any]

    def find(self, stream: Stream) -> list[Segment]:
        """The segments that it reports in a stream."""
        if not self.window:
            return segmenter_segments(self.recognizer, stream, SegmentSettings(**self.settings))
        probabilities, ends = window_probabilities(self.recognizer, stream, self.window)
        return self.from_windows(probabilities, ends)

    def from_windows(self, probabilities: np.ndarray, ends: np.ndarray) -> list[Segment]:
        """As `find`, of a sliding window."""
        classes, settings = self.recognizer.classes, dict(self.settings)
        delays = settings.pop("begin_delay", 0), settings.pop("end_delay", 0)
        return allow_for_delay(window_segments(probabilities, ends, classes, **settings), *delays)


def window_probabilities(
    recognizer: Recognizer, stream: Stream, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Class probabilities of a sliding window (B, classes), and the last frame of each (B,)."""
    windows, ends = cut_windows(stream.frames, size, STEP)
    return prefix_probabilities(recognizer, windows)[:, -1], ends


def choose_window(recognizer: Recognizer, streams: Sequence[Stream], size: int) -> Method:
    """The threshold and the rule for classes with the best F1."""
    known = [window_probabilities(recognizer, stream, size) for stream in streams]
    best = (-1.0, None)
    for threshold, split_classes in product(THRESHOLDS, (False, True)):
        method = Method(recognizer, size, {"threshold": threshold, "split_classes": split_classes})
        found = [method.from_windows(*one) for one in known]
        begin, end = typical_delays(zip(found, streams, strict=True))
        method = method._replace(settings=method.settings | {"begin_delay": begin, "end_delay": end})
        found = [method.from_windows(*one) for one in known]
        f1 = score(list(zip(found, streams, strict=True)))["f1_right_class"]
        best = max(best, (f1, method), key=lambda pair: pair[0])
    return best[1]


def choose_segmenter(recognizer: Recognizer, streams: Sequence[Stream]) -> Method:
    """For each memory, the thresholds with the best F1 of segments whatever their class; of these, the
    memory with the best F1 of segments with the right class."""
    best = (-1.0, None)
    for memory in MEMORIES:
        known = [action_probabilities(recognizer, stream, memory) for stream in streams]
        candidate = (-1.0, None)
        for smoothing, above, below in product(SMOOTHINGS, BEGIN_ABOVE, END_BELOW):
            if below > above:
                continue
            settings = SegmentSettings(memory, smoothing, above, below)
            found = [
                [Segment(*edges, "", edges[0]) for edges in switched(one, settings)] for one in known
            ]
            begin, end = typical_delays(zip(found, streams, strict=True))
            found = [allow_for_delay(one, begin, end) for one in found]
            f1 = score(list(zip(found, streams, strict=True)))["f1"]
            settings = replace(settings, begin_delay=begin, end_delay=end)
            candidate = max(candidate, (f1, settings), key=lambda pair: pair[0])
        method = Method(recognizer, 0, asdict(candidate[1]))
        f1 = score([(method.find(stream), stream) for stream in streams])["f1_right_class"]
        print(
            f"memory {memory}: F1 {candidate[0]:.3f}, right class {f1:.3f}, {candidate[1]}", flush=True
        )
        best = max(best, (f1, method), key=lambda pair: pair[0])
    return best[1]


def choose(paths: Sequence[Path], seed: int) -> tuple[dict[str, Method], dict[str, Any]]:
    """Settings of all methods, by the validation clips of networks with and without background."""
    checkpoint = load_checkpoint(paths[0])
    clips = read_clips(checkpoint["config"]["data"], "train", checkpoint["validation"])
    rng = np.random.default_rng(seed)
    streams = [make_stream(group, rng) for group in clips]
    recognizers = [Recognizer.load(path) for path in paths]
    methods = {"segmenter": choose_segmenter(recognizers[0], streams)}
    for text, recognizer in zip(("with", "without"), recognizers, strict=False):
        for size in WINDOWS:
            name = f"window of {size} frames, {text} background"
            methods[name] = choose_window(recognizer, streams, size)
    scores = {}
    for name, method in methods.items():
        scores[name] = score([(method.find(stream), stream) for stream in streams])
        report(name, scores[name])
    return methods, scores


# --- The test -----------------------------------------------------------------------------------------


def run_test(
    methods: dict[str, Method], paths: Sequence[Path], seeds: Sequence[int]
) -> tuple[dict[str, list[dict[str, Any]]], list[float]]:
    """Scores of the chosen settings with other networks on streams of the test clips, one per seed; and
    the networks' accuracy on these clips."""
    clips = read_clips(load_checkpoint(paths[0])["config"]["data"], "val")
    recognizers = [Recognizer.load(path) for path in paths]
    scores: dict[str, list[dict[str, Any]]] = {name: [] for name in methods}
    for seed in seeds:
        rng = np.random.default_rng(seed)
        streams = [make_stream(group, rng) for group in clips]
        for name, method in methods.items():
            method = method._replace(recognizer=recognizers["without" in name])
            scores[name].append(score([(method.find(stream), stream) for stream in streams]))
            report(f"seed {seed}, {name}", scores[name][-1])
    return scores, [clip_accuracy(recognizer, clips) for recognizer in recognizers]


def clip_accuracy(recognizer: Recognizer, groups: Sequence[Sequence[tuple[str, np.ndarray]]]) -> float:
    """Share of the clips of actions whose class is right, of a whole clip each; background is wrong."""
    right = []
    for name, clip in (pair for group in groups for pair in group):
        frames = clip[None, ..., 0].swapaxes(2, 3)  # (1, T, V, C)
        label = prefix_probabilities(recognizer, frames)[0, -1].argmax()
        right.append(recognizer.classes[label] == name)
    return float(np.mean(right))


def report(name: str, scores: dict[str, Any]) -> None:
    """A line."""
    print(
        f"{name}: {scores['detected_right_class_share']:.1%} of {scores['actions']} actions with the "
        f"right class, {scores['detected_share']:.1%} with any; "
        f"{scores['false_alarms_per_minute']:.2f} false alarms per minute; delay "
        f"{scores['delay_median']}, 90 %: {scores['delay_90th_percentile']} frames",
        flush=True,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    pair = {"nargs": "+", "type": Path, "metavar": "CHECKPOINT"}
    parser.add_argument("--validation", required=True, help="networks to choose with", **pair)
    parser.add_argument("--test", help="networks to test", **pair)
    parser.add_argument("--seeds", nargs="+", type=int, default=TEST_SEEDS, help="of the test streams")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "segments.json")
    make_console_safe()
    arguments = parser.parse_args(argv)
    if arguments.test and len(arguments.test) != len(arguments.validation):
        parser.error("--validation and --test need as many networks: with background, and without")
    torch.set_num_threads(1)
    check_output(arguments.out, "--out names another file")
    methods, validation = choose(arguments.validation, VALIDATION_SEED)
    record = {
        "min_overlap": MIN_OVERLAP,
        "fps": FPS,
        "chosen": {name: method.settings for name, method in methods.items()},
        "validation": validation,
    }
    if arguments.test:
        scores, accuracies = run_test(methods, arguments.test, arguments.seeds)
        record |= {"seeds": list(arguments.seeds), "test": scores, "clip_accuracy": accuracies}
    for name in ("validation", "test"):
        paths = getattr(arguments, name) or ()
        record[f"{name}_networks"] = [load_checkpoint(path)["config"] for path in paths]
    record |= {"commit": git_commit(), "device": engine.device_name(torch.device("cpu"))}
    record |= {"python": platform.python_version(), "torch": torch.__version__}
    record |= {"date": date.today().isoformat()}
    arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
