"""The raw format of SBU Kinect Interaction: two people, 15 joints, one frame per line; its five folds.

A line is the number of the frame, then x, y, z of each joint of the first and of the second person,
normalised to the picture: x to the right, y down. Body m keeps one person through all clips of a pair;
which of the two acts changes from clip to clip.
"""

import numpy as np

from skeletons.clip import MAX_BODIES, InvalidClip, ParsedFile, match_name, validate_coordinates
from skeletons.custom_arrays import fill_missing_joints
from skeletons.layout import SBU15

SBU_NAME = (r"s(\d\d)s(\d\d)_(\d\d)_(\d\d\d)", "s01s02_01_001")  # folders s01s02/01/001
SBU_CAMERA = 1  # there is only one
# The official folds, by the pairs of people in the test. A pair is a subject here: 102 is s01s02.
SBU_FOLDS = {
    "fold1": (102, 304, 502, 604),
    "fold2": (203, 207, 305, 503),
    "fold3": (103, 107, 701, 703),
    "fold4": (201, 206, 302, 306),
    "fold5": (402, 403, 406, 602, 603),
}
VALUES = 1 + MAX_BODIES * len(SBU15.joints) * 3  # of a line
MAX_NORMALISED = 10  # as published, numbers are between -0.2 and 2.5
# metres = OFFSET + SCALE * normalised; y is up in metres
OFFSET, SCALE = (1.28, 0.96, 0), (-2.56, -1.92, 1.28)


def parse_sbu_name(name: str) -> tuple[int, int, int]:
    """Name of a clip -> (label, pair of people, camera)."""
    first, second, action, _ = match_name(*SBU_NAME, name)
    return action - 1, 100 * first + second, SBU_CAMERA


def parse_sbu(content: bytes, bodies: str) -> ParsedFile:
    """The bytes of a skeleton_pos.txt. A joint whose numbers are all zero is missing."""
    frames = []
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            values = [float(value) for value in line.split(b",")]
        except ValueError:
            raise InvalidClip("not numbers with commas between them", f"line {number}") from None
        if len(values) != VALUES:
            raise InvalidClip(f"{len(values)} numbers, not {VALUES}", f"line {number}")
        frames.append(values[1:])
    joints = np.reshape(frames, (-1, MAX_BODIES, len(SBU15.joints), 3))
    missing = ~validate_coordinates(joints).any(-1)  # (T, M, V)
    if np.abs(joints).max(initial=0) > MAX_NORMALISED:
        raise InvalidClip(f"numbers up to {np.abs(joints).max():g}, which are not normalised")
    visible = ~missing.all((1, 2))
    if not visible.any():
        raise InvalidClip("no body in any frame")
    metres = np.where(missing[..., None], 0, np.multiply(joints, SCALE) + OFFSET)
    data = np.ascontiguousarray(metres[visible].transpose(0, 3, 2, 1), np.float32)
    return ParsedFile(None, fill_missing_joints(data, SBU15))
