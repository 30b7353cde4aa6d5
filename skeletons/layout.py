"""Body layouts: joints, bones and body parts, and the joint orders that the networks read.

A layout is a tree of joints. Only the tree and its parts are written down here. The chain and the
traversal, the joint sequences of the paper's spatial RNN (section 3.3), are derived from them for any
layout.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

BODY_PARTS = ("left arm", "right arm", "trunk", "left leg", "right leg")  # in the paper's order


@dataclass(frozen=True)
class Layout:
    """A body: V named joints connected into a tree by V - 1 bones.

    name     of the layout
    joints   (V,) names; "left" and "right" in a name are the person's own sides
    parents  (V,) index of each joint's parent; -1 for the root, where the traversal starts and where
             the reference frames put the origin
    parts    name of a body part -> indices of its joints; each joint is in one part. Named and ordered
             as in BODY_PARTS wherever the body has these parts

    Raises ValueError unless these describe one tree.
    """

    name: str
    joints: tuple[str, ...]
    parents: tuple[int, ...]
    parts: dict[str, tuple[int, ...]]

    def __post_init__(self) -> None:
        count = len(self.joints)
        roots = [j for j, parent in enumerate(self.parents) if parent == -1]
        if len(self.parents) != count or len(roots) != 1:
            raise ValueError(
                f"layout {self.name}: {count} joints need {count} parents, exactly one of them -1 (the "
                f"root); there are {len(self.parents)} parents, {len(roots)} of them -1"
            )
        if sorted(j for part in self.parts.values() for j in part) != list(range(count)):
            raise ValueError(
                f"layout {self.name}: the parts must contain each of the joints 0-{count - 1} once"
            )
        if any(parent != -1 and not 0 <= parent < count for parent in self.parents):
            raise ValueError(f"layout {self.name}: a parent is outside 0-{count - 1}")
        if sorted(self._walk(self.root, range(count))) != list(range(count)):
            raise ValueError(
                f"layout {self.name}: the parents contain a loop, so this is not a tree (joints "
                "are numbered from 0)"
            )
        for part, joints in self.parts.items():
            if not joints or len(self._walk(joints[0], joints)) != len(joints):
                raise ValueError(f"layout {self.name}: bones do not connect the joints of the {part}")

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Layout:
        """The inverse of `to_dict`; accepts what json.load returns."""
        return cls(
            fields["name"],
            tuple(fields["joints"]),
            tuple(fields["parents"]),
            {name: tuple(joints) for name, joints in fields["parts"].items()},
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and strings, for meta.json and for checkpoints."""
        return json.loads(json.dumps(asdict(self)))

    def joint(self, name: str) -> int:
        """Index of the joint called `name`; ValueError lists the names."""
        if name not in self.joints:
            raise ValueError(f"layout {self.name} has no joint '{name}': {', '.join(self.joints)}")
        return self.joints.index(name)

    @property
    def root(self) -> int:
        """Index of the root."""
        return self.parents.index(-1)

    @property
    def bones(self) -> list[tuple[int, int]]:
        """(V - 1) pairs (joint, its parent)."""
        return [(j, parent) for j, parent in enumerate(self.parents) if parent != -1]

    @property
    def mirror_index(self) -> list[int]:
        """(V,) for each joint, the joint of the same name on the other side of the body; the joint
        itself if it has no side. (left eye, LeftEye, left_eye, LEye, eye_l, leye: each has one.)"""
        index = {name: j for j, name in enumerate(self.joints)}
        return [
            next((index[other] for other in _other_sides(name) if index.get(other, j) != j), j)
            for j, name in enumerate(self.joints)
        ]

    @property
    def unpaired(self) -> list[str]:
        """Names of joints of the left or right side that have no counterpart on the other side."""
        alone = (name for name, j in zip(self.joints, self.mirror_index, strict=True)
                 if self.joints[j] == name)  # fmt: skip
        return [name for name in alone if re.search("left|right", name, re.IGNORECASE)]

    @cached_property
    def traversal(self) -> tuple[int, ...]:
        """The joints in the order of a walk over the tree that starts and ends at the root.

        Consecutive joints are connected by a bone. Each bone is walked forward and back, so the walk
        has 2 V - 1 steps. Branches are taken in the order of the parts: arms, then head, then legs.
        """
        part_of = {j: i for i, part in enumerate(self.parts.values()) for j in part}

        def walk(joint: int, came_from: int | None) -> list[int]:
            branches = [j for j in self._neighbours(joint) if j != came_from]
            first_part = {j: min(part_of[k] for k in self._branch(j, joint)) for j in branches}
            order = [joint]
            for j in sorted(branches, key=lambda j: (first_part[j], j)):
                order += [*walk(j, joint), joint]
            return order

        return tuple(walk(self.root, None))

    @cached_property
    def chain(self) -> tuple[int, ...]:
        """Every joint once: the parts one after the other, arms, trunk, legs.

        Every other part is walked from its tip (hand, head, foot), the rest towards it, so that each
        part starts near the end of the one before: left hand to shoulder, right shoulder to hand, head
        to hips, left hip to foot, right foot to hip.
        """
        return self._end_to_end(list(self.parts)[1::2])

    @cached_property
    def chain_at_hips(self) -> tuple[int, ...]:
        """The chain with each leg walked the other way, so that the legs meet at the hips: left foot to
        hip, right hip to foot."""
        return self._end_to_end(("right arm", "right leg"))

    def _end_to_end(self, outwards: Collection[str]) -> tuple[int, ...]:
        """The joints of all parts; those called `outwards` are walked towards their tip."""
        walks = (self.tip_first(part)[:: -1 if part in outwards else 1] for part in self.parts)
        return tuple(joint for walk in walks for joint in walk)

    def tip_first(self, part: str) -> list[int]:
        """The joints of a part from its tip (hand, head, foot) inwards, wherever the root is.

        The tip is the joint with the most bones between it and the joints to which the legs are
        attached; between it and the root, if there are no legs.
        """
        pelvis = (self.root,)
        if set(BODY_PARTS) <= set(self.parts) and self.parts["trunk"]:
            pelvis = [self.attachment(leg)[1] for leg in ("left leg", "right leg")]
        distance = [sum(bones) for bones in zip(*map(self.distances, pelvis), strict=True)]
        joints = self.parts[part]
        return self._walk(max(joints, key=lambda j: (distance[j], -j)), joints)

    def attachment(self, limb: str) -> tuple[int, int]:
        """Where an arm or a leg is attached: (its joint nearest to the trunk, as a shoulder or a hip;
        the joint of the trunk nearest to it)."""
        pairs = [
            (distance, joint, inner)
            for inner in self.parts["trunk"]
            for joint, distance in enumerate(self.distances(inner))
            if joint in self.parts[limb]
        ]
        return min(pairs)[1:]

    @cached_property
    def axis_joints(self) -> dict[str, tuple[int, int]]:
        """Pairs of joints whose means are the ends of the body's axes: "bottom" and "top" of the spine,
        "left" and "right" (shoulder, hip).

        The top is the tip of the trunk: the head, or both ears. The bottom is the joint of the trunk to
        which the legs are attached, or both hips if the arms are attached to the same joint.
        """
        shoulders, arms = zip(*map(self.attachment, ("left arm", "right arm")), strict=True)
        hips, legs = zip(*map(self.attachment, ("left leg", "right leg")), strict=True)
        head = self.tip_first("trunk")[0]
        return {
            "bottom": hips if set(legs) & set(arms) else legs,
            "top": (head, self.mirror_index[head]),
            "left": (shoulders[0], hips[0]),
            "right": (shoulders[1], hips[1]),
        }

    @cached_property
    def part_centres(self) -> list[tuple[list[int], list[int]]]:
        """The authors' two centres of a body with arms and legs, as pairs: joints, and those whose mean
        is their centre. Arms: shoulders, neck, upper spine; others: hips, middle and base of the spine,
        as far as the layout has these."""
        arms = [joint for side in ("left", "right") for joint in self.parts[f"{side} arm"]]
        others = [joint for joint in range(len(self.joints)) if joint not in arms]
        centres = []
        for joints, limb, spine in (
            (arms, "arm", ("neck", "spine shoulder")),
            (others, "leg", ("spine mid", "spine base")),
        ):
            centre = [self.attachment(f"{side} {limb}")[0] for side in ("left", "right")]
            centres.append((joints, centre + [self.joint(x) for x in spine if x in self.joints]))
        return centres

    def depth(self, joint: int) -> int:
        """Number of bones between a joint and the root."""
        return self.distances(self.root)[joint]

    def distances(self, start: int) -> list[int]:
        """(V,) number of bones between `start` and each joint."""
        distance, queue = {start: 0}, [start]
        for joint in queue:
            for j in self._neighbours(joint):
                if j not in distance:
                    distance[j] = distance[joint] + 1
                    queue.append(j)
        return [distance[j] for j in range(len(self.joints))]

    def _neighbours(self, joint: int) -> list[int]:
        return [j for j, p in enumerate(self.parents) if p == joint or self.parents[joint] == j]

    def _branch(self, joint: int, came_from: int) -> list[int]:
        """The joints behind `joint`, seen from its neighbour `came_from`."""
        return self._walk(joint, [j for j in range(len(self.joints)) if j != came_from])

    def _walk(self, start: int, joints: Iterable[int]) -> list[int]:
        """Depth-first order over the bones between `joints`, short branches first."""
        joints = set(joints) - {start}
        branches = [self._walk(j, joints) for j in self._neighbours(start) if j in joints]
        return [start, *(j for branch in sorted(branches, key=len) for j in branch)]


def _other_sides(name: str) -> Iterator[str]:
    """The names that a joint on the other side may have, the likeliest one first."""
    words = {"left": "right", "Left": "Right", "LEFT": "RIGHT"}
    words |= {right: left for left, right in words.items()}
    letters = str.maketrans("lrLR", "rlRL")
    yield re.sub("left|right", lambda word: words.get(word[0], word[0]), name, flags=re.IGNORECASE)
    # A letter alone: l_eye, eye.L; LEye, eyeL. Last, before a small letter: leye.
    single = r"(?<![A-Za-z])[lrLR](?![a-z])|(?<=[a-z0-9])[LR](?![A-Za-z])"
    yield re.sub(single, lambda letter: letter[0].translate(letters), name)
    yield name[:1].translate(letters) + name[1:]


# fmt: off
KINECT_V2 = Layout(
    name="kinect-v2",
    joints=(
        "spine base", "spine mid", "neck", "head",
        "left shoulder", "left elbow", "left wrist", "left hand",
        "right shoulder", "right elbow", "right wrist", "right hand",
        "left hip", "left knee", "left ankle", "left foot",
        "right hip", "right knee", "right ankle", "right foot",
        "spine shoulder",
        "left hand tip", "left thumb", "right hand tip", "right thumb",
    ),
    parents=(
        1, -1, 20, 2,
        20, 4, 5, 6,
        20, 8, 9, 10,
        0, 12, 13, 14,
        0, 16, 17, 18,
        1,
        7, 6, 11, 10,
    ),
    parts={
        "left arm": (4, 5, 6, 7, 21, 22),
        "right arm": (8, 9, 10, 11, 23, 24),
        "trunk": (0, 1, 2, 3, 20),
        "left leg": (12, 13, 14, 15),
        "right leg": (16, 17, 18, 19),
    },
)

# Kinect v1 calls the first four hip center, spine, shoulder center, head.
KINECT_V1 = Layout(
    name="kinect-v1",
    joints=(
        "spine base", "spine mid", "spine shoulder", "head",
        "left shoulder", "left elbow", "left wrist", "left hand",
        "right shoulder", "right elbow", "right wrist", "right hand",
        "left hip", "left knee", "left ankle", "left foot",
        "right hip", "right knee", "right ankle", "right foot",
    ),
    parents=(
        1, -1, 1, 2,
        2, 4, 5, 6,
        2, 8, 9, 10,
        0, 12, 13, 14,
        0, 16, 17, 18,
    ),
    parts={
        "left arm": (4, 5, 6, 7),
        "right arm": (8, 9, 10, 11),
        "trunk": (0, 1, 2, 3),
        "left leg": (12, 13, 14, 15),
        "right leg": (16, 17, 18, 19),
    },
)

# SBU Kinect Interaction, as OpenNI tracks a body with the first Kinect.
SBU15 = Layout(
    name="sbu15",
    joints=(
        "head", "neck", "torso",
        "left shoulder", "left elbow", "left hand",
        "right shoulder", "right elbow", "right hand",
        "left hip", "left knee", "left foot",
        "right hip", "right knee", "right foot",
    ),
    parents=(
        1, 2, -1,
        1, 3, 4,
        1, 6, 7,
        2, 9, 10,
        2, 12, 13,
    ),
    parts={
        "left arm": (3, 4, 5),
        "right arm": (6, 7, 8),
        "trunk": (0, 1, 2),
        "left leg": (9, 10, 11),
        "right leg": (12, 13, 14),
    },
)

# OpenPose's BODY_25.
OPENPOSE25 = Layout(
    name="openpose25",
    joints=(
        "nose", "neck",
        "right shoulder", "right elbow", "right wrist",
        "left shoulder", "left elbow", "left wrist",
        "mid hip",
        "right hip", "right knee", "right ankle",
        "left hip", "left knee", "left ankle",
        "right eye", "left eye", "right ear", "left ear",
        "left big toe", "left small toe", "left heel",
        "right big toe", "right small toe", "right heel",
    ),
    parents=(
        1, 8,
        1, 2, 3,
        1, 5, 6,
        -1,
        8, 9, 10,
        8, 12, 13,
        0, 0, 15, 16,
        14, 19, 14,
        11, 22, 11,
    ),
    parts={
        "left arm": (5, 6, 7),
        "right arm": (2, 3, 4),
        "trunk": (0, 1, 8, 15, 16, 17, 18),
        "left leg": (12, 13, 14, 19, 20, 21),
        "right leg": (9, 10, 11, 22, 23, 24),
    },
)

# COCO's keypoints. It has no joint in the middle of the body: arms and legs are attached to the nose
# through the shoulders, as in PYSKL.
COCO17 = Layout(
    name="coco17",
    joints=(
        "nose", "left eye", "right eye", "left ear", "right ear",
        "left shoulder", "right shoulder", "left elbow", "right elbow", "left wrist", "right wrist",
        "left hip", "right hip", "left knee", "right knee", "left ankle", "right ankle",
    ),
    parents=(
        -1, 0, 0, 1, 2,
        0, 0, 5, 6, 7, 8,
        5, 6, 11, 12, 13, 14,
    ),
    parts={
        "left arm": (5, 7, 9),
        "right arm": (6, 8, 10),
        "trunk": (0, 1, 2, 3, 4),
        "left leg": (11, 13, 15),
        "right leg": (12, 14, 16),
    },
)

# MediaPipe Pose (BlazePose). As COCO's, with more of face, hands and feet.
MEDIAPIPE33 = Layout(
    name="mediapipe33",
    joints=(
        "nose",
        "left eye inner", "left eye", "left eye outer",
        "right eye inner", "right eye", "right eye outer",
        "left ear", "right ear", "left mouth", "right mouth",
        "left shoulder", "right shoulder", "left elbow", "right elbow", "left wrist", "right wrist",
        "left pinky", "right pinky", "left index", "right index", "left thumb", "right thumb",
        "left hip", "right hip", "left knee", "right knee", "left ankle", "right ankle",
        "left heel", "right heel", "left foot index", "right foot index",
    ),
    parents=(
        -1,
        0, 1, 2,
        0, 4, 5,
        3, 6, 0, 0,
        0, 0, 11, 12, 13, 14,
        15, 16, 15, 16, 15, 16,
        11, 12, 23, 24, 25, 26,
        27, 28, 29, 30,
    ),
    parts={
        "left arm": (11, 13, 15, 17, 19, 21),
        "right arm": (12, 14, 16, 18, 20, 22),
        "trunk": (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10),
        "left leg": (23, 25, 27, 29, 31),
        "right leg": (24, 26, 28, 30, 32),
    },
)
# fmt: on

# Bodies that are recognised by their number of joints, if they are 3D. (17 joints may be COCO's or
# those of Human3.6M: pose estimators are given by name.)
KINECTS = (KINECT_V2, KINECT_V1)
LAYOUTS = {layout.name: layout for layout in (*KINECTS, SBU15, OPENPOSE25, COCO17, MEDIAPIPE33)}
DEPTH_SENSORS = (*KINECTS, SBU15)  # whose third number is z; that of pose estimators may be a score


def class_names(dataset: str) -> list[str]:
    """Names of the actions of "ntu", "nw_ucla", "sbu" or "utd_mhad", in the order of their labels."""
    path = Path(__file__).parent.parent / "lists" / f"{dataset}_actions.txt"
    return path.read_text(encoding="utf-8").split("\n")[:-1]
