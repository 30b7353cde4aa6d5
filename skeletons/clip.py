"""One clip, and what makes it invalid."""

import re
from dataclasses import dataclass, field

import numpy as np

MAX_BODIES = 2
# Metres. Farther than this nothing was seen: the number is damaged, and its square would not do.
MAX_COORDINATE = 1e4


class InvalidClip(ValueError):
    """A clip that cannot be converted: the reason, and where in the file ("line 12"), if known."""

    def __init__(self, reason, where=""):
        super().__init__(f"{where}: {reason}" if where else reason)
        self.reason, self.where = reason, where


@dataclass
class Clip:
    """One recording.

    label   class, from 0
    parts   benchmark -> "train" or "val"; a benchmark that does not use the clip is missing
    subject, camera   from 1; 0 where they are not known
    """

    name: str
    label: int
    data: np.ndarray
    subject: int = 0
    camera: int = 0
    parts: dict = field(default_factory=dict)


def named(pattern, example, name):
    """The numbers in a clip's name."""
    fields = re.fullmatch(pattern, name)
    if not fields:
        raise InvalidClip(f"the name is not of the form {example}")
    return tuple(map(int, fields.groups()))


def checked(joints, frame_of=None):
    """Refuse coordinates that are none. joints (T, ...), or (B, ...) with the frame (B,) of each body;
    returned as they are."""
    if joints.dtype.kind not in "iuf":
        raise InvalidClip(f"coordinates are {joints.dtype}, not numbers")
    if not (
        joints.max(initial=0) < MAX_COORDINATE and joints.min(initial=0) > -MAX_COORDINATE
    ):  # NaN as well
        wrong = ~(np.abs(joints) < MAX_COORDINATE)
        row = np.argwhere(wrong)[0, 0]
        frame = row if frame_of is None else frame_of[row]
        raise InvalidClip(
            f"a coordinate is {joints[wrong][0]:g}: not finite, or no place in a room",
            f"frame {frame + 1}",
        )
    return joints
