from itertools import pairwise

import pytest

from skeletons.layout import KINECT_V2, LAYOUTS, Layout, class_names

HAND_DRAWN = Layout(  # neither Kinect: other sizes, other numbering
    "hand-drawn",
    ("left hand", "chest", "right hand", "head", "hip", "left foot", "right foot", "tail"),
    (1, -1, 1, 1, 1, 4, 4, 4),
    {"left arm": (0,), "right arm": (2,), "trunk": (3, 1, 4, 7), "left leg": (5,), "right leg": (6,)},
)
EVERY = pytest.mark.parametrize("layout", [*LAYOUTS.values(), HAND_DRAWN], ids=lambda x: x.name)


@EVERY
def test_traversal_walks_every_bone_forward_and_back(layout):
    walk = layout.traversal
    steps = list(pairwise(walk))
    both_ways = {(a, b) for a, b in layout.bones} | {(b, a) for a, b in layout.bones}
    assert len(steps) == len(both_ways) == 2 * len(layout.joints) - 2
    assert set(steps) == both_ways
    assert walk[0] == walk[-1] == layout.root


@EVERY
def test_chain_visits_every_joint_once_with_the_trunk_in_the_middle(layout):
    assert sorted(layout.chain) == list(range(len(layout.joints)))
    part_of = {j: part for part, joints in layout.parts.items() for j in joints}
    visited = list(dict.fromkeys(part_of[j] for j in layout.chain))
    assert visited == ["left arm", "right arm", "trunk", "left leg", "right leg"]


def test_chain_runs_from_hand_to_hand_and_from_foot_to_foot():
    names = [KINECT_V2.joints[j] for j in KINECT_V2.chain]
    assert names[0] == "left hand tip"
    assert names[5:7] == ["left shoulder", "right shoulder"]
    assert names[12:17] == ["head", "neck", "spine shoulder", "spine mid", "spine base"]
    assert [names[i] for i in (17, 20, 21, 24)] == ["left hip", "left foot", "right foot", "right hip"]


def test_traversal_takes_arms_then_head_then_legs():
    first = [KINECT_V2.traversal.index(KINECT_V2.joint(name)) for name in
             ("left hand", "right hand", "head", "left foot", "right foot")]  # fmt: skip
    assert first == sorted(first)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda x: x.name)
def test_parts_hold_the_joints_of_their_own_side(layout):
    """The original's arm group held a foot joint, and its comments swapped left and right."""
    for part, joints in layout.parts.items():
        side = part.split()[0]
        sides = {layout.joints[j].split()[0] for j in joints}
        assert sides == {side} if side in ("left", "right") else not sides & {"left", "right"}
    arm, leg = {"shoulder", "elbow", "wrist", "hand", "tip", "thumb"}, {"hip", "knee", "ankle", "foot"}
    for part in ("left arm", "right arm", "left leg", "right leg"):
        words = {layout.joints[j].split()[-1] for j in layout.parts[part]}
        assert words <= (arm if "arm" in part else leg)


def test_a_layout_survives_json():
    assert Layout.from_dict(KINECT_V2.to_dict()) == KINECT_V2


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"parents": (1, -1, 1, 1, 1, 4, 4)}, "8 joints need 8 parents"),
        ({"parents": (1, -1, 1, 1, -1, 4, 4, 4)}, "2 of them -1"),
        ({"parents": (1, -1, 1, 1, 7, 4, 4, 4)}, "loop"),
        ({"parents": (1, -1, 1, 1, 1, 4, 4, 9)}, "outside 0-7"),
        ({"parts": {"all": (0, 1, 2, 3, 4, 5, 6)}}, "each of the joints 0-7 once"),
        ({"parts": {"a": (0, 2), "b": (1, 3, 4, 5, 6, 7)}}, "do not tie the a together"),
    ],
)
def test_what_is_not_a_body_is_refused(changes, message):
    fields = HAND_DRAWN.to_dict() | changes
    with pytest.raises(ValueError, match=message):
        Layout.from_dict(fields)


def test_an_unknown_joint_lists_the_names():
    with pytest.raises(ValueError, match="left elbow"):
        KINECT_V2.joint("left ellbow")


def test_class_names():
    assert [len(class_names(d)) for d in ("ntu", "nw_ucla", "utd_mhad")] == [120, 10, 27]
    assert class_names("ntu")[57] == "handshaking"
