"""Layouts: trees of bones, body parts, chain and traversal, mirror images."""

from dataclasses import replace
from itertools import pairwise

import pytest

from skeletons.layout import KINECT_V2, KINECTS, LAYOUTS, Layout, class_names

HAND_DRAWN = Layout(  # not a Kinect: another number and another order of joints
    "hand-drawn",
    ("left hand", "chest", "right hand", "head", "hip", "left foot", "right foot", "tail"),
    (1, -1, 1, 1, 1, 4, 4, 4),
    {"left arm": (0,), "right arm": (2,), "trunk": (3, 1, 4, 7), "left leg": (5,), "right leg": (6,)},
)
OPENPOSE = Layout(  # legs and arms are attached to the neck, which is the root
    "openpose-18",
    (
        "nose", "neck", "right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow",
        "left wrist", "right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle",
        "right eye", "left eye", "right ear", "left ear",
    ),
    (1, -1, 1, 2, 3, 1, 5, 6, 1, 8, 9, 1, 11, 12, 0, 0, 14, 15),
    {
        "left arm": (5, 6, 7), "right arm": (2, 3, 4), "trunk": (0, 1, 14, 15, 16, 17),
        "left leg": (11, 12, 13), "right leg": (8, 9, 10),
    },
)  # fmt: skip


def rooted_at(layout, joint):
    """The same tree, and another root."""
    parents, came_from = list(layout.parents), -1
    while joint != -1:
        parents[joint], came_from, joint = came_from, joint, parents[joint]
    return replace(layout, parents=tuple(parents))


EVERY = pytest.mark.parametrize(
    "layout", [*LAYOUTS.values(), HAND_DRAWN, OPENPOSE], ids=lambda x: x.name
)


@EVERY
def test_traversal_passes_every_bone_forward_and_back(layout):
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


@EVERY
def test_the_chain_at_hips_has_the_legs_the_other_way_round(layout):
    legs = [layout.parts[leg] for leg in ("left leg", "right leg")]
    lengths = [len(layout.joints) - sum(map(len, legs)), len(legs[0])]
    ends = lengths[0], sum(lengths)
    one, other = layout.chain, layout.chain_at_hips
    assert other[: ends[0]] == one[: ends[0]]
    assert other[ends[0] : ends[1]] == one[ends[0] : ends[1]][::-1]
    assert other[ends[1] :] == one[ends[1] :][::-1]


def test_the_chain_at_hips_passes_from_hip_to_hip():
    names = [KINECT_V2.joints[j] for j in KINECT_V2.chain_at_hips]
    assert [names[i] for i in (17, 20, 21, 24)] == ["left foot", "left hip", "right hip", "right foot"]


@EVERY
def test_part_centres_belong_to_all_joints_and_lie_between_shoulders_and_hips(layout):
    (arms, shoulders), (others, hips) = layout.part_centres
    assert sorted(arms + others) == list(range(len(layout.joints)))
    assert set(arms) == {*layout.parts["left arm"], *layout.parts["right arm"]}
    sides = layout.axis_joints["left"], layout.axis_joints["right"]
    assert {side[0] for side in sides} <= set(shoulders) and {side[1] for side in sides} <= set(hips)


def test_part_centres_of_25_joints_are_those_of_the_authors_code():
    """Neck, right and left shoulder, upper spine; middle and base of the spine, right and left hip."""
    (_, shoulders), (_, hips) = KINECT_V2.part_centres
    assert sorted(shoulders) == [2, 4, 8, 20] and sorted(hips) == [0, 1, 12, 16]


def test_chain_of_another_layout_runs_from_tip_to_tip():
    """Head to hips; a tail is not the tip of the trunk."""
    names = [HAND_DRAWN.joints[j] for j in HAND_DRAWN.chain]
    assert names[:2] == ["left hand", "right hand"] and names[6:] == ["left foot", "right foot"]
    assert names[2:6] == ["head", "chest", "hip", "tail"]


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda x: x.name)
def test_tips_and_chain_do_not_depend_on_the_root(layout):
    """Hand, head and foot are the tips wherever the root is: at the neck, a hand or a foot."""
    for joint in range(len(layout.joints)):
        other = rooted_at(layout, joint)
        assert other.root == joint and sorted(map(sorted, other.bones)) == sorted(
            map(sorted, layout.bones)
        )
        assert other.chain == layout.chain and other.axis_joints == layout.axis_joints
        assert other.traversal[0] == joint


def test_ends_of_the_axes_of_the_body():
    def names(layout):
        return {end: {layout.joints[j] for j in pair} for end, pair in layout.axis_joints.items()}

    sides = {side: {f"{side} shoulder", f"{side} hip"} for side in ("left", "right")}
    assert names(LAYOUTS["sbu15"]) == {"bottom": {"torso"}, "top": {"head"}, **sides}
    for layout in KINECTS:
        assert names(layout) == {"bottom": {"spine base"}, "top": {"head"}, **sides}
    # No joint of the trunk is between hips and shoulders; the top is between the ears.
    ends = {"bottom": {"left hip", "right hip"}, "top": {"left ear", "right ear"}}
    for layout in (OPENPOSE, LAYOUTS["coco17"], LAYOUTS["mediapipe33"]):
        assert names(layout) == ends | sides
    assert names(LAYOUTS["openpose25"]) == ends | sides | {"bottom": {"mid hip"}}


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
        if side in ("left", "right"):
            assert sides == {side}
        else:  # (eyes and ears)
            assert layout not in KINECTS or not sides & {"left", "right"}
    arm = {"shoulder", "elbow", "wrist", "hand", "tip", "thumb", "pinky", "index"}
    leg = {"hip", "knee", "ankle", "foot", "toe", "heel", "index"}
    for part in ("left arm", "right arm", "left leg", "right leg"):
        words = {layout.joints[j].split()[-1] for j in layout.parts[part]}
        assert words <= (arm if "arm" in part else leg)


def test_pose_estimators_number_the_joints_as_they_publish():
    """From their documentation: BODY_25, COCO keypoints, MediaPipe Pose."""
    for name, numbers in {
        "openpose25": {"nose": 0, "neck": 1, "right wrist": 4, "left wrist": 7, "mid hip": 8,
                       "right ankle": 11, "left ankle": 14, "right eye": 15, "left ear": 18,
                       "left big toe": 19, "left heel": 21, "right heel": 24},
        "coco17": {"nose": 0, "left eye": 1, "right ear": 4, "left shoulder": 5, "right elbow": 8,
                   "left hip": 11, "right ankle": 16},
        "mediapipe33": {"nose": 0, "left eye": 2, "right eye": 5, "left ear": 7, "right mouth": 10,
                        "left shoulder": 11, "right wrist": 16, "left index": 19, "right thumb": 22,
                        "left hip": 23, "right ankle": 28, "left heel": 29, "right foot index": 32},
    }.items():  # fmt: skip
        layout = LAYOUTS[name]
        assert len(layout.joints) == int(name[-2:])
        assert {joint: layout.joint(joint) for joint in numbers} == numbers
        assert not layout.unpaired


@pytest.mark.parametrize("pair", [
    "left eye/right eye", "left_eye/right_eye", "LeftEye/RightEye", "eye-left/eye-right", "l_eye/r_eye",
    "LEye/REye", "eyeL/eyeR", "Eye.l/Eye.r", "leye/reye", "LEFT/RIGHT",
])  # fmt: skip
def test_joints_have_another_side_however_they_are_called(pair):
    joints = ("pelvis", *pair.split("/"), "lower spine", "rib")
    layout = Layout("x", joints, (-1, 0, 0, 0, 0), {"all": (0, 1, 2, 3, 4)})
    assert layout.mirror_index == [0, 2, 1, 3, 4] and not layout.unpaired
    layout = replace(layout, joints=("pelvis", "left eye", "rigth eye", "spine", "rib"))
    assert layout.mirror_index == [0, 1, 2, 3, 4] and layout.unpaired == ["left eye"]


def test_a_layout_survives_a_round_trip_through_json():
    assert Layout.from_dict(KINECT_V2.to_dict()) == KINECT_V2


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"parents": (1, -1, 1, 1, 1, 4, 4)}, "8 joints need 8 parents"),
        ({"parents": (1, -1, 1, 1, -1, 4, 4, 4)}, "2 of them -1"),
        ({"parents": (1, -1, 1, 1, 7, 4, 4, 4)}, "loop"),
        ({"parents": (1, -1, 1, 1, 1, 4, 4, 9)}, "outside 0-7"),
        ({"parts": {"all": (0, 1, 2, 3, 4, 5, 6)}}, "each of the joints 0-7 once"),
        ({"parts": HAND_DRAWN.parts | {"tail": ()}}, "do not connect the joints of the tail"),
        ({"parts": {"a": (0, 2), "b": (1, 3, 4, 5, 6, 7)}}, "do not connect the joints of the a"),
    ],
)
def test_an_invalid_layout_is_refused(changes, message):
    fields = HAND_DRAWN.to_dict() | changes
    with pytest.raises(ValueError, match=message):
        Layout.from_dict(fields)


def test_an_unknown_joint_lists_the_names():
    with pytest.raises(ValueError, match="left elbow"):
        KINECT_V2.joint("left ellbow")


def test_class_names():
    assert [len(class_names(d)) for d in ("ntu", "nw_ucla", "utd_mhad", "sbu")] == [120, 10, 27, 8]
    assert class_names("ntu")[57] == "handshaking"


def test_hips_in_the_trunk_are_the_bottom_whatever_the_order_of_the_joints():
    """The legs are attached to both hips, of which each is as far from the other as the neck is."""
    names = ["pelvis", "left hip", "right hip", "left knee", "right knee", "left hand", "right hand",
             "neck"]  # fmt: skip
    parent = {"left hip": "pelvis", "right hip": "pelvis", "left knee": "left hip", "neck": "pelvis",
              "right knee": "right hip", "left hand": "neck", "right hand": "neck"}  # fmt: skip
    parts = {"left arm": ["left hand"], "right arm": ["right hand"],
             "trunk": ["pelvis", "left hip", "right hip", "neck"],
             "left leg": ["left knee"], "right leg": ["right knee"]}  # fmt: skip
    for joints in (names, names[::-1], sorted(names)):
        index = joints.index
        layout = Layout(
            "hips",
            tuple(joints),
            tuple(index(parent[name]) if name in parent else -1 for name in joints),
            {part: tuple(map(index, members)) for part, members in parts.items()},
        )
        axes = layout.axis_joints
        assert axes["top"] == (index("neck"), index("neck"))
        assert set(axes["bottom"]) == {index("left hip"), index("right hip")}
