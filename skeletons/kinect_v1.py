"""The raw formats of Northwestern-UCLA (.json) and UTD-MHAD (.mat), both Kinect v1."""

import io
import json
import math

import numpy as np

from skeletons.clip import MAX_BODIES, InvalidClip, checked, named
from skeletons.layout import KINECT_V1

# --- Northwestern-UCLA and UTD-MHAD (Kinect v1) -------------------------------------------------------


def single_body_clip(joints):
    """(T, V, C) of the only body -> float32 (T, C, V, M)."""
    expected = (len(KINECT_V1.joints), 3)
    try:
        joints = np.asarray(joints, np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidClip(f"the joints are not an array of numbers: {error}") from None
    if joints.ndim != 3 or joints.shape[1:] != expected or not len(joints):
        raise InvalidClip(f"joints of shape {joints.shape}, not (frames, {expected[0]}, 3)")
    data = np.zeros((len(joints), 3, expected[0], MAX_BODIES), np.float32)
    data[..., 0] = checked(joints).swapaxes(1, 2)
    return data


def parse_nw_ucla_name(name):
    return None, *named(r"a\d+_s(\d+)_e\d+_v(\d+)", "a01_s01_e00_v01", name)


def parse_nw_ucla(content, bodies):
    """.json, as the CTR-GCN family of repositories distributes the data."""
    try:
        fields = json.loads(content)
        label, joints = int(fields["label"]) - 1, fields["skeletons"]
    except Exception as error:  # too deep, too long a number, ...
        raise InvalidClip(f"not JSON with label and skeletons: {str(error)[:100]}") from None
    return label, single_body_clip(joints)


# UTD-MHAD lists head, shoulder center, spine, hip center first; the layout the other way round.
UTD_MHAD_JOINTS = [3, 2, 1, 0, *range(4, 20)]


def parse_utd_mhad_name(name):
    action, subject = named(r"a(\d+)_s(\d+)_t\d+_skeleton", "a1_s1_t1_skeleton", name)
    return action - 1, subject, 1  # the only camera


def parse_utd_mhad(content, bodies):
    """.mat, with the key d_skel (20, 3, T)."""
    import scipy.io  # slow to load, and of no use to the others

    try:
        (shape,) = (
            shape for name, shape, _ in scipy.io.whosmat(io.BytesIO(content)) if name == "d_skel"
        )
        if math.prod(shape) > 10_000_000:  # before so much is unpacked
            raise ValueError(f"it is of shape {shape}")
        joints = scipy.io.loadmat(io.BytesIO(content), variable_names="d_skel")["d_skel"]
        joints = joints.transpose(2, 0, 1)[:, UTD_MHAD_JOINTS]
    except Exception as error:  # scipy raises nearly anything on a damaged file
        raise InvalidClip(f"not a .mat file with d_skel (20, 3, frames): {error}") from None
    return None, single_body_clip(joints)
