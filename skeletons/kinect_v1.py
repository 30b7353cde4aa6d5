"""The raw formats of Northwestern-UCLA (.json) and UTD-MHAD (.mat): one body, Kinect v1, 20 joints."""

import io
import json
import math

import numpy as np

from skeletons.clip import MAX_BODIES, InvalidClip, ParsedFile, match_name, validate_coordinates
from skeletons.layout import KINECT_V1


def single_body_clip(joints: object) -> np.ndarray:
    """Anything like an array (T, V, C), of the only body -> float32 (T, C, V, M)."""
    expected = (len(KINECT_V1.joints), 3)
    try:
        joints = np.asarray(joints, np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidClip(f"the joints are not an array of numbers: {error}") from None
    if joints.ndim != 3 or joints.shape[1:] != expected or not len(joints):
        raise InvalidClip(f"joints of shape {joints.shape}, not (frames, {expected[0]}, 3)")
    data = np.zeros((len(joints), 3, expected[0], MAX_BODIES), np.float32)
    data[..., 0] = validate_coordinates(joints).swapaxes(1, 2)
    return data


# --- Northwestern-UCLA --------------------------------------------------------------------------------


NW_UCLA_NAME = (r"a\d+_s(\d+)_e\d+_v(\d+)", "a01_s01_e00_v01")  # a regular expression, an example


def parse_nw_ucla_name(name: str) -> tuple[None, int, int]:
    """Name of a clip -> (None, subject, camera). The label in the file counts: names skip numbers."""
    subject, camera = match_name(*NW_UCLA_NAME, name)
    return None, subject, camera


def parse_nw_ucla(content: bytes, bodies: str) -> ParsedFile:
    """The bytes of a .json file, as the CTR-GCN family of repositories distributes the data."""
    try:
        fields = json.loads(content)
        label, joints = int(fields["label"]) - 1, fields["skeletons"]
    except Exception as error:  # nested too deeply, a number with too many digits, ...
        raise InvalidClip(f"not JSON with label and skeletons: {str(error)[:100]}") from None
    return ParsedFile(label, single_body_clip(joints))


# --- UTD-MHAD -----------------------------------------------------------------------------------------

# The file lists head, shoulder center, spine, hip center first; the layout lists them in reverse.
UTD_MHAD_JOINTS = [3, 2, 1, 0, *range(4, 20)]
UTD_MHAD_CAMERA = 1  # there is only one
UTD_MHAD_NAME = (r"a(\d+)_s(\d+)_t\d+", "a1_s1_t1")


def parse_utd_mhad_name(name: str) -> tuple[int, int, int]:
    """Name of a clip -> (label, subject, camera)."""
    action, subject = match_name(*UTD_MHAD_NAME, name.removesuffix("_skeleton"))
    return action - 1, subject, UTD_MHAD_CAMERA


def parse_utd_mhad(content: bytes, bodies: str) -> ParsedFile:
    """The bytes of a .mat file with the key d_skel (20, 3, T)."""
    import scipy.io  # slow to import, and needed for this data set only

    try:
        variables = scipy.io.whosmat(io.BytesIO(content))
        (shape,) = (shape for name, shape, _ in variables if name == "d_skel")
        if math.prod(shape) > 10_000_000:  # a small file can unpack to any size
            raise ValueError(f"it is of shape {shape}")
        joints = scipy.io.loadmat(io.BytesIO(content), variable_names="d_skel")["d_skel"]
        joints = joints.transpose(2, 0, 1)[:, UTD_MHAD_JOINTS]
    except Exception as error:  # scipy raises almost any exception on a corrupt file
        raise InvalidClip(f"not a .mat file with d_skel (20, 3, frames): {error}") from None
    return ParsedFile(None, single_body_clip(joints))
