"""`Clip`, how many bodies it may have, what makes it invalid, and the check of coordinates."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

MAX_BODIES = 2
MAX_CLIP_BYTES = 256 << 20  # as an array
# In the unit of the recording, which is metres in the published data sets and any unit in custom
# recordings. In millimetres this is 1 km, farther than any sensor sees, so a larger number is an error
# in the file. Sums of squares of such coordinates are still far below the largest float32 (3e38).
MAX_COORDINATE = 1e6


class InvalidClip(ValueError):
    """A clip that cannot be converted: the reason, and where in the file ("line 12"), if known."""

    def __init__(self, reason: str, where: str = "") -> None:
        super().__init__(f"{where}: {reason}" if where else reason)
        self.reason, self.where = reason, where


class DroppedTrack(NamedTuple):
    """A body that the sensor reported and that is not in the converted clip.

    body_id     the sensor's ID of the body; of a body that was lost and found again, the first one
    first_frame, last_frame   of the raw file, from 1
    frames      frames in which the body was dropped
    reason      one of the reasons in tracking.py: "brief", "spread", ...
    """

    body_id: int
    first_frame: int
    last_frame: int
    frames: int
    reason: str


class ParsedFile(NamedTuple):
    """The contents of a raw file. The label, from 0, is None if only the file's name gives it."""

    label: int | None
    data: np.ndarray
    dropped: Sequence[DroppedTrack] = ()


@dataclass
class Clip:
    """One recording.

    label    class, from 0
    data     float32 (T, C, V, M); while a clip is only announced, None
    subject, camera   from 1; 0 if unknown
    splits   benchmark -> "train" or "val"; a benchmark that does not use the clip is not in it
    dropped  bodies in the raw file that are not in the data
    """

    name: str
    label: int
    data: np.ndarray | None
    subject: int = 0
    camera: int = 0
    splits: dict[str, str] = field(default_factory=dict)
    dropped: Sequence[DroppedTrack] = ()


def match_name(pattern: str, example: str, name: str) -> tuple[int, ...]:
    """The numbers in a clip's name. Raises InvalidClip if it does not match the regular expression."""
    fields = re.fullmatch(pattern, name)
    if not fields:
        raise InvalidClip(f"the name is not of the form {example}")
    return tuple(map(int, fields.groups()))


def validate_coordinates(joints: np.ndarray, frame_index: np.ndarray | None = None) -> np.ndarray:
    """Return the joints unchanged; raise InvalidClip unless all coordinates are finite and below
    MAX_COORDINATE.

    joints       (T, ...), or (B, ...) for B bodies with the frame_index (B,) of each body
    """
    if joints.dtype.kind not in "iuf":
        raise InvalidClip(f"coordinates are {joints.dtype}, not numbers")
    # float(): the limit itself does not fit into a float16. NaN fails both comparisons.
    highest, lowest = float(joints.max(initial=0)), float(joints.min(initial=0))
    if not (highest < MAX_COORDINATE and lowest > -MAX_COORDINATE):
        invalid = ~(np.abs(joints.astype(np.float64)) < MAX_COORDINATE)
        row = np.argwhere(invalid)[0, 0]
        frame = row if frame_index is None else frame_index[row]
        reason = f"invalid coordinate {joints[invalid][0]:g}, not a finite number"
        raise InvalidClip(f"{reason} below {MAX_COORDINATE:,.0f}", f"frame {frame + 1}")
    return joints
