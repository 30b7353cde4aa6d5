"""Arrays of custom recordings: order of the axes, scores, joints that were not found, other layouts."""

from itertools import permutations

import numpy as np
import pytest
from helpers import recording

from skeletons.clip import InvalidClip
from skeletons.custom_arrays import ArrayFormat, check_body, find_axes, load_clip, to_clip
from skeletons.layout import COCO17, KINECT_V1, KINECT_V2, MEDIAPIPE33, OPENPOSE25

ORDERS = ["".join(order) for axes in ("TVC", "TMVC") for order in permutations(axes)]


def ordered(clip, order):
    """A clip (T, C, V, M), or its first body, with its axes in another order."""
    clip, axes = (clip, "TCVM") if "M" in order else (clip[..., 0], "TCV")
    return clip.transpose([axes.index(letter) for letter in order])


# --- The order of the axes ----------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [60, 25, 3])  # as many as there are joints, or coordinates
@pytest.mark.parametrize("order", ORDERS)
def test_every_order_of_the_axes_is_found(order, frames):
    clip = recording(KINECT_V2, frames)
    expected = clip if "M" in order else clip[..., :1]
    for layouts in ([KINECT_V2], [KINECT_V1, KINECT_V2]):
        array = ordered(clip, order)
        np.testing.assert_array_equal(to_clip(array, find_axes(array, layouts, {3})), expected)


@pytest.mark.parametrize("order", [order for order in ORDERS if "M" in order])
def test_scores_change_more_than_coordinates(order):
    """Three frames of three numbers: which axis is time?"""
    scores = np.random.default_rng(0).uniform(0.3, 1, (3, 1, 25, 2))
    clip = np.concatenate((recording(OPENPOSE25, 3, channels=2) / 10, scores), 1)
    array = ordered(clip, order)
    np.testing.assert_array_equal(to_clip(array, find_axes(array, [OPENPOSE25], {2, 3})), clip)


def test_several_clips_in_one_array():
    clips = np.stack([recording(KINECT_V2, 9, seed=seed) for seed in range(4)])  # (N, T, C, V, M)
    for axes, order in (("NCTVM", (0, 2, 1, 3, 4)), ("NMTVC", (0, 4, 1, 3, 2))):
        assert find_axes(clips.transpose(order), [KINECT_V2], {3}) == axes


def test_an_array_of_one_clip_with_an_axis_for_the_batch():
    clip = recording(KINECT_V2, 9)
    array = clip.transpose(1, 0, 2, 3)[None]  # (1, C, T, V, M)
    np.testing.assert_array_equal(load_clip(array, ArrayFormat(KINECT_V2, 3)), clip)
    with pytest.raises(InvalidClip, match=r"an array \(2, 3, 9, 25, 2\); reshape it"):
        load_clip(np.concatenate((array, array)), ArrayFormat(KINECT_V2, 3))


def test_two_bodies_in_3d_are_not_three_in_2d():
    """(3, 40, 17, 2) can be (C, T, V, M) or (M, T, V, C): an absent body and the bones tell."""
    clip = recording(COCO17)
    for absent in (False, True):
        clip[..., 1] *= not absent
        assert find_axes(ordered(clip, "CTVM"), [COCO17], {2, 3}) == "CTVM"
    flat = recording(COCO17, channels=2, bodies=3)
    flat[..., 2] = 0
    assert find_axes(ordered(flat, "MTVC"), [COCO17], {2, 3}) == "MTVC"


def test_what_cannot_be_known_is_refused_unless_it_is_said():
    array = np.random.default_rng(0).normal(size=(3, 40, 17, 2))  # neither a body nor a movement
    with pytest.raises(InvalidClip, match="can be MTVC or CTVM; a column axes of"):
        find_axes(array, [COCO17], {2, 3})
    assert load_clip(array, ArrayFormat(COCO17, 3), "CTVM").shape == (40, 3, 17, 2)
    for axes, reason in (("CTVMX", "axes CTVMX do not fit"), ("TMVC", "17 joints with 2 coordinates"),
                         ("TVC", "axes TVC do not fit")):  # fmt: skip
        with pytest.raises(InvalidClip, match=reason):
            load_clip(array, ArrayFormat(COCO17, 3), axes)
    with pytest.raises(InvalidClip, match=r"an array \(60, 75\); reshape it to \(T, V, C\) or"):
        find_axes(np.ones((60, 75)), [KINECT_V2], {3})
    with pytest.raises(InvalidClip, match=r"up to 6 bodies; save .* clips\.csv must say MTVC or"):
        find_axes(np.ones((8, 20, 25, 3)), [KINECT_V2], {3})
    with pytest.raises(InvalidClip, match="18 joints with 3 coordinates each; expected are 25 with 3"):
        find_axes(np.ones((60, 18, 3)), [KINECT_V2], {3})


# --- Layouts and scores -------------------------------------------------------------------------------


def test_bodies_of_another_layout_are_refused():
    for layout, other in ((KINECT_V2, OPENPOSE25), (OPENPOSE25, KINECT_V2)):
        clip = recording(layout)
        clip[:, :, 7] = 0  # a joint that is not found does not hide it
        check_body(clip, layout)
        with pytest.raises(
            InvalidClip, match=f'the bones of .* A layout.json .*"name": "{layout.name}"'
        ):
            check_body(clip, other)
    pixels = 300 * recording(KINECT_V1) + 500
    pixels[:, 2] = 0.7
    with pytest.raises(InvalidClip, match="scores, not z of kinect-v1"):
        check_body(pixels, KINECT_V1)


def test_a_joint_with_the_score_0_is_missing_and_scores_are_not_coordinates():
    clip = recording(MEDIAPIPE33, channels=2, bodies=1)
    scores = np.full((40, 1, 33, 1), 0.9)
    scores[5, :, 3] = scores[6:8, :, 4] = 0
    damaged = clip.copy()
    damaged[5, :, 3] = damaged[6:8, :, 4] = 7
    damaged[9, :, 2] = clip[9, :, 2] = 0  # a position, by its score
    loaded = load_clip(np.concatenate((damaged, scores), 1)[..., 0].swapaxes(1, 2),
                       ArrayFormat(MEDIAPIPE33, 2, scores=True))  # fmt: skip
    clip[5, :, 3] = (clip[4, :, 3] + clip[6, :, 3]) / 2
    clip[6, :, 4], clip[7, :, 4] = (
        (2 * clip[5, :, 4] + clip[8, :, 4]) / 3, (clip[5, :, 4] + 2 * clip[8, :, 4]) / 3
    )  # fmt: skip
    np.testing.assert_allclose(loaded, clip, rtol=1e-6)
    with pytest.raises(InvalidClip, match="not a score, from 0 to 1"):
        load_clip(np.concatenate((damaged, 3 * scores), 1)[..., 0].swapaxes(1, 2),
                  ArrayFormat(MEDIAPIPE33, 2, scores=True))  # fmt: skip


# --- Joints that were not found -----------------------------------------------------------------------


def test_zeros_are_joints_that_were_not_found():
    clip = recording(COCO17)
    damaged = clip.copy()
    damaged[10, :, 4, 0] = 0
    damaged[20, ..., 1] = 0  # an absent body stays absent
    damaged[:, :, 9, 1] = 0  # the left wrist, never found, is put at the elbow
    expected = clip.copy()
    expected[10, :, 4, 0] = (clip[9, :, 4, 0] + clip[11, :, 4, 0]) / 2
    expected[:, :, 9, 1] = clip[:, :, 7, 1]
    expected[20, ..., 1] = 0
    loaded = load_clip(ordered(damaged, "MTVC"), ArrayFormat(COCO17, 3))
    np.testing.assert_allclose(loaded, expected, rtol=1e-6)


@pytest.mark.parametrize("channels", [2, 3])
def test_the_origin_of_centred_coordinates_is_a_position(channels):
    clip = recording(KINECT_V2, channels=channels, bodies=1)
    centred = [clip - clip[:, :, joint : joint + 1] for joint in (0, 1, 3, 15)]  # of every frame
    centred += [clip - clip[:1, :, 1:2]]  # of the first frame
    for expected in centred:
        loaded = load_clip(ordered(expected, "TVC"), ArrayFormat(KINECT_V2, channels))
        np.testing.assert_array_equal(loaded, expected)
    pixels = 300 * clip + 500
    pixels[:, :, 3] = 0  # the head, which no pixel at the corner is
    loaded = load_clip(ordered(pixels, "TVC"), ArrayFormat(KINECT_V2, channels))
    np.testing.assert_allclose(loaded[:, :, 3], pixels[:, :, 2], rtol=1e-6)
