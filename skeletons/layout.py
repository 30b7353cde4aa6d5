"""Body layouts: joints, bones and parts, and the joint orders that the networks read.

A layout is a tree of joints. Only the tree and its parts are written down here; the chain and the
traversal, the sequences of the paper's spatial RNN, are derived from them and so hold for any layout.
"""

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """A body: V named joints tied into a tree by V - 1 bones.

    name     what the layout is called
    joints   (V,) names; the words "left" and "right" are the person's own sides
    parents  (V,) index of the joint that each joint hangs on; -1 for the root, the centre of the
             body, where the traversal starts and where normalisation puts the origin
    parts    part name -> indices of its joints; together the parts hold every joint once. The
             paper's order: left arm, right arm, trunk, left leg, right leg.

    Raises ValueError when these do not describe one tree.
    """

    name: str
    joints: tuple
    parents: tuple
    parts: dict

    def __post_init__(self):
        count = len(self.joints)
        roots = [j for j, parent in enumerate(self.parents) if parent == -1]
        if len(self.parents) != count or len(roots) != 1:
            raise ValueError(
                f"layout {self.name}: {count} joints need {count} parents, one of them -1 "
                f"(the root); there are {len(self.parents)}, {len(roots)} of them -1"
            )
        if sorted(j for part in self.parts.values() for j in part) != list(range(count)):
            raise ValueError(
                f"layout {self.name}: the parts must hold each of the joints 0-{count - 1} once"
            )
        if any(p != -1 and not 0 <= p < count for p in self.parents):
            raise ValueError(f"layout {self.name}: a parent lies outside 0-{count - 1}")
        if sorted(self._walk(self.root, range(count))) != list(range(count)):
            raise ValueError(f"layout {self.name}: the parents contain a loop, not a tree")
        for part, joints in self.parts.items():
            if len(self._walk(joints[0], joints)) != len(joints):
                raise ValueError(f"layout {self.name}: bones do not tie the {part} together")

    @classmethod
    def from_dict(cls, fields):
        """The inverse of `to_dict`; takes what json.load returns."""
        return cls(
            fields["name"],
            tuple(fields["joints"]),
            tuple(fields["parents"]),
            {name: tuple(joints) for name, joints in fields["parts"].items()},
        )

    def to_dict(self):
        """Plain lists and strings, for meta.json and for checkpoints."""
        return json.loads(json.dumps(asdict(self)))

    def joint(self, name):
        """Index of the joint called `name`; ValueError lists the names."""
        if name not in self.joints:
            raise ValueError(f"layout {self.name} has no joint '{name}': {', '.join(self.joints)}")
        return self.joints.index(name)

    @property
    def root(self):
        return self.parents.index(-1)

    @property
    def bones(self):
        """(V - 1) pairs (joint, its parent)."""
        return [(j, parent) for j, parent in enumerate(self.parents) if parent != -1]

    @property
    def mirror_index(self):
        """(V,) the joint of the same name on the other side of the body; a joint itself where it has
        no side."""
        words = {"left": "right", "right": "left"}
        names = [" ".join(words.get(word, word) for word in name.split()) for name in self.joints]
        return [self.joints.index(n) if n in self.joints else j for j, n in enumerate(names)]

    @cached_property
    def traversal(self):
        """The joints in the order of a walk over the tree that starts and ends at the root.

        Consecutive joints are tied by a bone and each bone is walked forward and back, so the
        walk has 2 V - 1 steps. Branches are taken in the order of the parts: arms, then head,
        then legs.
        """
        part_of = {j: i for i, part in enumerate(self.parts.values()) for j in part}

        def walk(joint, came_from):
            branches = [j for j in self._neighbours(joint) if j != came_from]
            first_part = {j: min(part_of[k] for k in self._branch(j, joint)) for j in branches}
            order = [joint]
            for j in sorted(branches, key=lambda j: (first_part[j], j)):
                order += [*walk(j, joint), joint]
            return order

        return tuple(walk(self.root, None))

    @cached_property
    def chain(self):
        """Every joint once: the parts laid end to end, arms, trunk, legs.

        Every other part is walked from its tip (hand, head, foot) and the rest towards it, so that
        the end of one part is near the start of the next: left hand to shoulder, right shoulder
        to hand, head to hips, left hip to foot, right foot to hip.
        """
        return tuple(
            joint
            for i, part in enumerate(self.parts)
            for joint in (self.tip_first(part) if i % 2 == 0 else self.tip_first(part)[::-1])
        )

    def tip_first(self, part):
        """The joints of a part from the one farthest from the root (hand, head, foot) inwards."""
        joints = self.parts[part]
        return self._walk(max(joints, key=lambda j: (self.depth(j), -j)), joints)

    def _neighbours(self, joint):
        return [j for j, p in enumerate(self.parents) if p == joint or self.parents[joint] == j]

    def _branch(self, joint, came_from):
        """The joints behind `joint`, seen from its neighbour `came_from`."""
        return self._walk(joint, [j for j in range(len(self.joints)) if j != came_from])

    def _walk(self, start, joints):
        """Depth-first order over the bones among `joints`, short branches first."""
        joints = set(joints) - {start}
        branches = [self._walk(j, joints) for j in self._neighbours(start) if j in joints]
        return [start, *(j for branch in sorted(branches, key=len) for j in branch)]

    def depth(self, joint):
        return 0 if self.parents[joint] == -1 else 1 + self.depth(self.parents[joint])


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
# fmt: on

LAYOUTS = {layout.name: layout for layout in (KINECT_V2, KINECT_V1)}


def class_names(dataset):
    """Names of the actions of 'ntu', 'nw_ucla' or 'utd_mhad', in the order of their labels."""
    path = Path(__file__).parent.parent / "lists" / f"{dataset}_actions.txt"
    return path.read_text(encoding="utf-8").split("\n")[:-1]
