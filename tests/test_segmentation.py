"""segmentation.py: what begins and ends when, with networks whose answers are known."""

import json
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import segments
from test_live import build, frames_of

from live import Recognizer
from segmentation import Segmenter, SegmentSettings, Switch
from skeletons.background import BACKGROUND
from skeletons.layout import KINECT_V2
from skeletons.preprocess import Preprocess

CLASSES = ["wave", "jump", "run", "sit", BACKGROUND]
WHOLE = {"crop_resize": False, "window_size": 0, "normalization": "first-frame"}
REST = 4


def real_recognizer(**options):
    """Of a small causal network with random weights."""
    return Recognizer(build(**options), Preprocess(KINECT_V2, 3, **WHOLE), CLASSES)


class Scripted(Recognizer):
    """Says that most of the frames that it has read, of any body, are of one class: the class is the
    first coordinate, less one."""

    calls = 0

    def __init__(self):
        super().__init__(build(), Preprocess(KINECT_V2, 3, **WHOLE), CLASSES)

    def __call__(self, joints):
        Scripted.calls += 1
        joints = self.check_frame(joints).nan_to_num()
        for slot, body in enumerate(joints):
            if body.any():
                self.bodies.setdefault(slot, []).append(int(body[0, 0]) - 1)
        read = [label for labels in self.bodies.values() for label in labels]
        if not read:
            return np.full(5, 0.2, np.float32)
        return (np.bincount(read, minlength=5) / len(read)).astype(np.float32)


def frame(label, slot=0, slots=1):
    bodies = np.zeros((slots, 25, 3))
    bodies[slot] = 1
    bodies[slot, 0, 0] = label + 1
    return bodies


def frames(*runs):
    """(label, number of frames), ... -> frames (1, V, C). None: nobody."""
    shown = {label: frame(label) if label is not None else np.zeros((1, 25, 3)) for label, _ in runs}
    return [shown[label] for label, count in runs for _ in range(count)]


def events(segmenter, stream):
    found = [event for one in stream for event in segmenter(one).events]
    return found + segmenter.finish()


def named(found):
    return [(event.kind, event.name) for event in found]


@pytest.fixture
def segmenter():
    return Segmenter(Scripted())


@pytest.mark.parametrize("length", [1, 12, 500])
def test_a_stream_of_pauses_has_no_events(segmenter, length):
    assert events(segmenter, frames((REST, length))) == []
    assert events(segmenter, frames((None, length))) == []


def test_an_action_between_pauses_is_one_segment(segmenter):
    begin, end = events(segmenter, frames((REST, 50), (1, 40), (REST, 60)))
    assert (begin.kind, end.kind, begin.name, end.name) == ("begin", "end", "jump", "jump")
    assert abs(begin.frame - 51) <= 8 and abs(end.frame - 90) <= 8
    assert begin.probability > 0.5 and end.probability > 0.5


def test_each_action_has_its_class(segmenter):
    found = events(segmenter, frames((REST, 40), (1, 40), (REST, 40), (2, 60), (REST, 60), (0, 40)))
    pair = ("begin", "end")
    assert named(found) == [(kind, name) for name in ("jump", "run", "wave") for kind in pair]
    boundaries = [event.frame for event in found]
    assert boundaries == sorted(boundaries) and len(set(boundaries)) == 6
    assert boundaries[-1] == 280  # the end of the stream


def test_a_long_action_is_one_segment_and_its_class_is_that_of_all_of_it(segmenter):
    """Longer than any recognizer that says whether something happens remembers."""
    stream = frames((REST, 30), (1, 400), (2, 60), (REST, 60))
    assert named(events(segmenter, stream)) == [("begin", "jump"), ("end", "jump")]


def test_a_single_frame_is_no_action(segmenter):
    stream = frames((REST, 30), (1, 1), (REST, 30), (1, 40), (REST, 1), (1, 30), (REST, 40))
    assert named(events(segmenter, stream)) == [("begin", "jump"), ("end", "jump")]


def test_an_answer_says_what_is_going_on(segmenter):
    assert not segmenter.reset() and segmenter.frame == 0
    for number, joints in enumerate(frames((REST, 30), (1, 40), (REST, 60)), 1):
        answer = segmenter(joints)
        assert segmenter.frame == number and answer.probabilities.sum() == pytest.approx(1)
        assert answer.action == (segmenter.current is not None)
        if answer.events:
            assert answer.action == (answer.events[-1].kind == "begin")
        if number == 60:
            assert answer.action and answer.probabilities.argmax() == 1
    assert not answer.action and answer.probabilities.argmax() == REST


def test_the_probabilities_are_those_of_a_recognizer_from_the_beginning_of_the_segment(clips):
    """With a real network: of the frames that the older of the two recognizers had read, and after."""
    stream = list(frames_of(clips[2]))[:50]
    settings = SegmentSettings(memory=7, begin_above=0.5, end_below=0.0)
    segmenter = Segmenter(real_recognizer(), settings)
    recognizer, start = real_recognizer(), None
    for number, joints in enumerate(stream):
        answer = segmenter(joints)
        if start is None and answer.action:
            start = (number // 7 - 1) * 7
            for earlier in stream[start:number]:
                recognizer(earlier)
        if start is not None:
            np.testing.assert_allclose(recognizer(joints), answer.probabilities, atol=1e-6)
    assert start is not None and answer.action


def test_the_cost_of_a_frame_does_not_grow(segmenter):
    """At most three calls of a network per frame; and what is kept stays as small."""
    for label, most in ((REST, 2), (1, 3)):
        for joints in frames((label, 30)):  # (until the state is as it stays)
            segmenter(joints)
        calls = []
        for joints in frames((label, 1000)):
            before = Scripted.calls
            segmenter(joints)
            calls.append(Scripted.calls - before)
        assert set(calls) == {most}
        read = [len(body) for one in segmenter.detectors for body in one.bodies.values()]
        assert max(read) <= 2 * segmenter.settings.memory


def test_an_action_ends_when_its_body_leaves(segmenter):
    _, end = events(segmenter, frames((REST, 30), (1, 40), (None, 60), (REST, 40)))
    assert end.frame == 70 and end.name == "jump"
    # Nothing is remembered of it: the next body does not begin in an action.
    assert not segmenter(frame(REST)).events


@pytest.mark.parametrize("gone", [1, 5])
def test_a_body_that_is_lost_for_some_frames_goes_on(segmenter, gone):
    stream = frames((REST, 30), (1, 20), (None, gone), (1, 20), (REST, 40))
    assert named(events(segmenter, stream)) == [("begin", "jump"), ("end", "jump")]


def test_a_second_body_that_comes_ends_the_action(segmenter):
    alone = [np.concatenate((one, 0 * one)) for one in frames((REST, 30), (1, 40))]
    both = [np.concatenate((one, one)) for one in frames((2, 60))]
    found = events(segmenter, alone + both)
    assert named(found) == [("begin", "jump"), ("end", "jump"), ("begin", "run"), ("end", "run")]
    assert found[1].frame == 70 and found[2].frame > 70
    # For a few frames, it may be a spurious detection.
    segmenter.reset()
    assert named(events(segmenter, alone + both[:5] + alone[-20:])) == named(found[:2])


def test_a_reset_forgets_everything(segmenter):
    stream = frames((REST, 30), (1, 40), (REST, 40))
    first = events(segmenter, stream)
    for joints in frames((2, 50)):
        segmenter(joints)
    segmenter.reset()
    assert events(segmenter, stream) == first


def test_an_invalid_frame_does_not_count(segmenter):
    stream = frames((REST, 30), (1, 40), (REST, 40))
    expected = events(segmenter, stream)
    segmenter.reset()
    found = []
    for joints in stream:
        for invalid in (np.ones((24, 3)), np.full((25, 3), 1e30)):
            with pytest.raises(ValueError, match=r"a frame of shape|invalid coordinate"):
                segmenter(invalid)
        found += segmenter(joints).events
    assert found + segmenter.finish() == expected


def test_a_switch_does_not_flicker():
    settings = SegmentSettings(smoothing=1, begin_above=0.7, end_below=0.3)
    switch = Switch(settings)
    states = [switch(p) for p in (0.6, 0.69, 0.8, 0.5, 0.31, 0.2, 0.6)]
    assert states == [False, False, True, True, True, False, False]


def test_the_default_settings_are_those_that_were_chosen_and_tested():
    path = Path(segments.__file__).parent.parent / "results" / "segments.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    assert asdict(SegmentSettings()) == record["chosen"]["segmenter"]


def test_settings_that_are_not_allowed():
    for wrong in ({"memory": 0}, {"smoothing": 0}, {"begin_above": 0.2}, {"end_delay": -1}):
        with pytest.raises(ValueError, match="is not allowed\n"):
            SegmentSettings(**wrong)


def test_a_network_without_the_class():
    recognizer = Scripted()
    recognizer.classes = list("abcde")
    with pytest.raises(ValueError, match=r"without a class background .*\n.*--background"):
        Segmenter(recognizer)


# --- benchmarks/segments.py ---------------------------------------------------------------------------


def test_the_benchmark_finds_what_a_segmenter_reports(clips):
    """It computes many frames at a time."""
    recognizer = real_recognizer()
    stream = segments.Stream(clips[2][:100, ..., 0].swapaxes(1, 2), [])
    for memory in (3, 5):
        known = segments.action_probabilities(recognizer, stream, memory)
        middle = np.sort(known[memory:])
        middle = middle[len(middle) * 2 // 5 : len(middle) * 3 // 5]
        widest = np.diff(middle).argmax()  # (so that rounding changes nothing)
        middle = float(middle[widest : widest + 2].mean())
        settings = SegmentSettings(memory, 1.0, middle, middle, begin_delay=3, end_delay=2)
        found = segments.segmenter_segments(recognizer, stream, settings)
        segmenter, reported, noticed = Segmenter(recognizer, settings), [], []
        for number, joints in enumerate(stream.frames, 1):
            new = segmenter(joints).events
            noticed += [number for event in new if event.kind == "begin"]
            reported += new
        reported += segmenter.finish()
        begins, ends = reported[::2], reported[1::2]
        assert len(found) > 2
        assert found == [
            segments.Segment(a.frame, b.frame, b.name, number)
            for a, b, number in zip(begins, ends, noticed, strict=True)
        ]


def test_segments_and_actions_are_matched_one_to_one():
    actions = [segments.Segment(11, 20, "a"), segments.Segment(31, 40, "b")]
    reported = [
        segments.Segment(11, 15, "a", 14),  # half of the first action
        segments.Segment(16, 20, "a", 18),  # the other half: a false alarm
        segments.Segment(33, 42, "c", 36),  # the second action, another class
        segments.Segment(60, 70, "a", 62),
    ]
    assert segments.overlap(reported[0], actions[0]) == 0.5
    assert segments.overlap(reported[2], actions[1]) == pytest.approx(8 / 12)
    result = segments.score([(reported, segments.Stream(np.zeros((1800, 25, 3)), actions))])
    assert (result["detected"], result["detected_right_class"], result["false_alarms"]) == (2, 1, 2)
    assert result["false_alarms_per_minute"] == 2  # 1,800 frames are a minute
    assert (result["delay_median"], result["delay_90th_percentile"]) == pytest.approx((4, 4.8))
    assert segments.score([([], segments.Stream(np.zeros((9, 25, 3)), actions))])["detected"] == 0


def test_a_stream_holds_every_clip_between_pauses():
    rng = np.random.default_rng(0)
    clips = [(str(i), rng.normal(size=(20 + i, 3, 25, 1)).astype(np.float32)) for i in range(6)]
    frames, actions = segments.make_stream(clips, rng)
    assert sorted(action.name for action in actions) == list("012345")
    for action in actions:
        clip = clips[int(action.name)][1][..., 0].swapaxes(1, 2)
        np.testing.assert_array_equal(frames[action.begin - 1 : action.end], clip)
    edges = [(0, 0), *((one.begin, one.end) for one in actions), (len(frames) + 1, 0)]
    assert all(after[0] - before[1] > 10 for before, after in pairwise(edges))


def test_segments_of_a_sliding_window():
    classes, ends = ["a", "b", BACKGROUND], np.arange(24, 24 + 4 * 6, 4)
    p = np.array([[0.1, 0, 0.9], [0.9, 0, 0.1], [0.7, 0.2, 0.1], [0, 0.8, 0.2], [0, 0, 1], [0, 1, 0]])
    found = segments.window_segments(p, ends, classes, 0.6, False)
    assert found == [segments.Segment(28, 36, "a", 28), segments.Segment(44, 44, "b", 44)]
    found = segments.window_segments(p, ends, classes, 0.6, True)
    assert [(one.begin, one.end, one.name) for one in found] == [
        (28, 32, "a"), (36, 36, "b"), (44, 44, "b"),
    ]  # fmt: skip
