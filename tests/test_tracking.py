"""Bodies tracked through a clip: slots, spurious detections, and what is said of dropped tracks."""

from itertools import permutations

import numpy as np
import pytest
from helpers import skeleton_text, standing

from skeletons.clip import DroppedTrack, InvalidClip
from skeletons.datasets import DATASETS
from skeletons.ntu import parse_skeleton
from skeletons.tracking import sensor_order, track_bodies


def track(bodies, rule=track_bodies):
    return rule(*parse_skeleton(skeleton_text(bodies)))


def slots(bodies, rule=track_bodies):
    """The bodies of a clip in the slots that are in use."""
    data = track(bodies, rule).data
    assert data.shape[-1] == 2
    return data if data[..., 1].any() else data[..., :1]


def lying(x=0.0, seed=0):
    """A body (25, 3) six times as wide and a fifth as tall as a standing one: 2.4 m by 0.36 m."""
    return (standing(0, seed) * (6, 0.2, 1)) + (x, 0, 0)


def over_time(*tracks):
    """Tracks (ID, first frame, list of bodies) -> bodies by frame."""
    frames = [[] for _ in range(max(first + len(shown) for _, first, shown in tracks))]
    for body_id, first, shown in tracks:
        for t, body in enumerate(shown, first):
            frames[t].append((body_id, body))
    return frames


# --- Tracks and slots -------------------------------------------------------------------------------


def test_a_body_that_returns_under_a_new_id_is_one_body():
    body = standing()
    bodies = [[(1, body)]] * 12 + [[]] * 3 + [[(2, body)]] * 5
    data = slots(bodies)
    assert data.shape == (17, 3, 25, 1)  # frames without any body are left out
    assert data.any((1, 2)).all()
    assert track(bodies).dropped == []


@pytest.mark.parametrize("distance, bodies", [(0.45, 1), (0.55, 2)])
def test_a_body_returns_within_half_a_metre(distance, bodies):
    body = standing()
    moved = body + (0.6 * distance, 0, 0.8 * distance)
    assert slots([[(1, body)]] * 15 + [[]] + [[(2, moved)]] * 15).shape == (30, 3, 25, bodies)


def test_one_of_two_returns_under_a_new_id():
    left, right = standing(-1), standing(1, seed=1)
    moved = left + (0.1, 0, 0)
    both = [(1, left), (2, right)]
    data = slots([both] * 20 + [both[1:]] * 4 + [[both[1], (3, moved)]] * 20)
    assert data.shape == (44, 3, 25, 2)
    visible = data.any((1, 2))
    assert visible.all(0).tolist() in ([True, False], [False, True])
    assert (~visible.all(1)).nonzero()[0].tolist() == [20, 21, 22, 23]


def test_one_that_appears_elsewhere_is_another():
    data = slots([[(1, standing(-1))]] * 15 + [[(2, standing(1))]] * 15)
    assert data.shape[-1] == 2 and not (data.any((1, 2)).all(1)).any()


def test_bodies_that_swap_their_position_in_the_list_keep_their_slot():
    left, right = [(1, standing(-1))], [(2, standing(1, seed=1))]
    data = slots([left + right] * 10 + [right + left] * 10)
    assert np.ptp(data, axis=0).max() == 0 and data[0].any((0, 1)).all()


def test_two_near_each_other_at_the_same_time_are_two():
    left, right = standing(), standing(0.3)
    data = slots([[(1, left)]] * 15 + [[(1, left), (2, right)]] * 15)
    assert data.shape[-1] == 2 and np.ptp(data[..., data[0].any((0, 1))], axis=0).max() == 0


def test_one_id_twice_in_a_frame_is_two_bodies():
    data = slots([[(1, standing()), (1, standing(1, seed=1))]] * 20)
    assert data.shape[-1] == 2 and data.any((1, 2)).all() and np.ptp(data, axis=0).max() == 0


def crowd(t, bodies):
    """Body i moves i times as fast as body 1 and stands at 2 i metres."""
    return [(i, standing(2.0 * i, seed=i) + (0, 0.01 * t * i, 0)) for i in bodies]


@pytest.mark.parametrize("bodies", [(1, 2, 3), (3, 1, 2), (2, 4, 1, 3)])
def test_the_two_that_move_most_are_kept_the_most_active_first(bodies):
    data, dropped = track([crowd(t, bodies) for t in range(20)])
    first, second, *others = sorted(bodies)[::-1]
    assert data.shape == (20, 3, 25, 2)
    assert abs(data[0, 0, :, 0].mean() - 2 * first) < 0.5
    assert abs(data[0, 0, :, 1].mean() - 2 * second) < 0.5
    assert dropped == [DroppedTrack(i, 1, 20, 20, "third body") for i in others]


def test_one_frame():
    assert slots([[(1, standing())]]).shape == (1, 3, 25, 1)
    assert slots([[(1, standing()), (2, standing(1))]]).shape == (1, 3, 25, 2)


def test_no_body_in_some_frames():
    body = standing()
    data = slots([[], [(1, body)], [], [(1, body)], []])
    assert data.shape == (2, 3, 25, 1)


# --- Spurious detections ----------------------------------------------------------------------------


def test_spurious_detections_are_dropped_unless_nothing_else_is_visible():
    body, ghost = standing(), lying(2)
    for bodies in ([(1, body), (2, ghost)], [(2, ghost), (1, body)]):
        data, dropped = track([bodies] * 30)
        np.testing.assert_allclose(data[0, :, :, 0], body.T, atol=1e-6)
        assert not data[..., 1].any()
        assert dropped == [DroppedTrack(2, 1, 30, 30, "spread")]
    for frames in (1, 30):
        data, dropped = track([[(2, ghost)]] * frames)
        assert data[..., 0].any((1, 2)).all() and len(data) == frames and dropped == []


@pytest.mark.parametrize("ratio, reasons", [(0.75, []), (0.85, ["spread"])])
def test_spread_is_wider_than_four_fifths_of_the_height(ratio, reasons):
    other = np.zeros((25, 3)) + (2, 0, 3)
    other[0, 0] += ratio
    other[1, 1] += 1
    _, dropped = track([[(1, standing()), (2, other)]] * 30)
    assert [track.reason for track in dropped] == reasons


@pytest.mark.parametrize("wide, reasons", [(69, []), (70, ["spread"])])
def test_spread_in_70_of_100_frames_is_spurious_in_69_it_is_not(wide, reasons):
    """CTR-GCN's and PYSKL's preprocessing: at least 69.754 % of the frames."""
    second = [standing(2, seed=1)] * (100 - wide) + [lying(2)] * wide
    _, dropped = track(over_time((1, 0, [standing()] * 110), (2, 0, second)))
    assert [track.reason for track in dropped] == reasons


def test_a_person_who_falls_and_lies_is_kept_and_a_brief_bystander_is_not():
    """Lying in 45 of 60 frames, beside a bystander who is upright in 12 of them."""
    person = [standing(0, seed=1)] * 15 + [lying()] * 45
    for tracks in permutations(((1, 0, person), (2, 20, [standing(3)] * 12))):
        data, dropped = track(over_time(*tracks))
        assert data.shape == (60, 3, 25, 2) and not data[..., 1].any()
        np.testing.assert_allclose(data[..., 0], np.swapaxes(person, 1, 2), atol=1e-6)
        assert dropped == [DroppedTrack(2, 21, 32, 12, "brief")]


@pytest.mark.parametrize("frames, first, reasons", [
    (14, 20, ["brief"]),  # of 60
    (15, 20, []),
    (15, 0, []),  # leaves early
    (15, 45, []),  # comes late
])  # fmt: skip
def test_a_second_person_is_visible_for_a_quarter_of_the_frames(frames, first, reasons):
    bodies = over_time((1, 0, [standing()] * 60), (2, first, [standing(2, seed=1)] * frames))
    data, dropped = track(bodies)
    assert [track.reason for track in dropped] == reasons
    assert data[..., 1].any((1, 2)).sum() == (0 if reasons else frames)


@pytest.mark.parametrize("frames, of, reasons", [
    (11, 40, ["brief"]), (12, 40, []),  # 11 frames is brief ...
    (5, 10, ["brief"]), (6, 10, []), (1, 1, []), (1, 2, ["brief"]),  # ... but not in short clips
])  # fmt: skip
def test_brief_in_short_clips(frames, of, reasons):
    bodies = over_time((1, 0, [standing()] * of), (2, 0, [standing(2, seed=1)] * frames))
    assert [track.reason for track in track(bodies).dropped] == reasons


def test_a_bystander_lost_and_found_is_counted_once():
    """10 + 10 of 60 frames: each part is brief, together they are not."""
    second = [standing(2, seed=1)] * 10
    bodies = over_time((1, 0, [standing()] * 60), (2, 0, second), (3, 30, second))
    data, dropped = track(bodies)
    assert dropped == [] and data[..., 1].any((1, 2)).nonzero()[0].tolist() == [
        *range(10),
        *range(30, 40),
    ]


def test_a_person_found_lying_under_a_new_id_is_kept():
    """After a fall the sensor finds the person again, too far off to be joined: 70 frames of standing,
    15 of lying. Nobody else is visible in those, so they are no ghost."""
    bodies = over_time((1, 0, [standing()] * 70), (2, 72, [lying(1.5)] * 15))
    data, dropped = track(bodies)
    assert data.shape == (85, 3, 25, 2) and dropped == []
    # The same track beside the person is a ghost.
    _, dropped = track(over_time((1, 0, [standing()] * 70), (2, 50, [lying(1.5)] * 20)))
    assert dropped == [DroppedTrack(2, 51, 70, 20, "spread")]


@pytest.mark.parametrize("others", [1, 2, 3])
def test_the_longest_track_is_never_dropped(others):
    """Neither as spread (40 of 50 frames) nor as the body that moves least."""
    longest = [standing(0, seed=9)] * 10 + [lying()] * 40
    moving = [
        [standing(3.0 * i) + (0, 0.1 * i * t, 0) for t in range(49)] for i in range(1, others + 1)
    ]
    tracks = [(i, 1, shown) for i, shown in enumerate(moving, 1)]
    data, dropped = track(over_time(*tracks, (9, 0, longest)))
    kept = [slot for slot in range(2) if np.allclose(data[..., slot], np.swapaxes(longest, 1, 2))]
    assert len(kept) == 1 and data[1:].any((1, 2)).all()
    assert {lost.reason for lost in dropped} <= {"third body"} and len(dropped) == max(0, others - 1)


def test_of_two_longest_tracks_the_one_that_is_spread_less_is_kept():
    spread = [lying()] * 40 + [standing(0, seed=9)] * 10
    for tracks in permutations(((2, 0, [standing(3)] * 50), (3, 0, spread))):
        _, dropped = track(over_time(*tracks))
        assert dropped == [DroppedTrack(3, 1, 50, 50, "spread")]


def test_a_person_who_lies_longest_is_kept_beside_a_shorter_visitor():
    """Lying in all of 60 frames, beside somebody who is upright in 30 of them."""
    data, dropped = track(over_time((1, 0, [lying()] * 60), (2, 30, [standing(3)] * 30)))
    assert dropped == [] and data.any((1, 2)).all(0).tolist().count(True) == 1


def test_the_longest_track_is_kept_even_if_it_is_spread_in_every_frame():
    """Nothing but its shape distinguishes furniture from a person who lies all the time: both stay."""
    for tracks in permutations(((1, 5, [standing()] * 50), (2, 0, [lying(2)] * 60))):
        data, dropped = track(over_time(*tracks))
        assert data.shape[0] == 60 and dropped == []
        assert sorted(data.any((1, 2)).sum(0)) == [50, 60]


def test_a_body_of_zeros_is_absent():
    zeros = np.zeros((25, 3))
    data, dropped = track(over_time((1, 0, [zeros] * 60), (2, 20, [standing()] * 12)))
    assert data.shape[0] == 12 and dropped == []
    with pytest.raises(InvalidClip, match="all bodies are zero"):
        track(over_time((1, 0, [zeros] * 60)))


# --- The sensor's order -----------------------------------------------------------------------------


def test_bodies_in_the_sensor_s_order():
    left, right = [(1, standing(-1))], [(2, standing(1, seed=1))]
    third = [(3, lying(2))]
    bodies = [left + right + third] * 3 + [right] * 2 + [[]] + [right + left]
    data, dropped = track(bodies, sensor_order)
    assert data.shape == (6, 3, 25, 2)
    position = data[:, 0].mean(1)
    np.testing.assert_allclose(position, [[-1, 1]] * 3 + [[1, 0]] * 2 + [[1, -1]], atol=0.1)
    assert dropped == [DroppedTrack(3, 1, 3, 3, "third body")]


def test_a_clip_says_what_was_dropped():
    content = skeleton_text([[(1, standing()), (2, lying(2))]] * 30)
    read = DATASETS["ntu"].read
    assert read("S001C001P001R001A001", content).dropped == [DroppedTrack(2, 1, 30, 30, "spread")]
    assert read("S001C001P001R001A001", content, "sensor-order").dropped == []
