"""The raw formats of Northwestern-UCLA and UTD-MHAD."""

import io
import json

import numpy as np
import pytest
import scipy.io

from skeletons.clip import InvalidClip
from skeletons.datasets import DATASETS

NAME = "a12_s03_e01_v02"
JOINTS = np.arange(3 * 20 * 3).reshape(3, 20, 3) / 100


def json_bytes(**fields):
    return json.dumps({"file_name": "x", "skeletons": JOINTS.tolist(), "label": 10} | fields).encode()


def test_nw_ucla():
    clip = DATASETS["nw-ucla"].read(NAME, json_bytes())
    assert (clip.name, clip.label, clip.subject, clip.camera) == (NAME, 9, 3, 2)
    assert clip.data.shape == (3, 3, 20, 2) and clip.data.dtype == np.float32
    np.testing.assert_allclose(clip.data[..., 0], JOINTS.swapaxes(1, 2), atol=1e-6)
    assert not clip.data[..., 1].any() and not clip.dropped
    with pytest.raises(InvalidClip, match="the name is not of the form a01_s01_e00_v01"):
        DATASETS["nw-ucla"].read("a12_s03", json_bytes())


@pytest.mark.parametrize("content, reason", [
    (json_bytes(skeletons=JOINTS[:, :5].tolist()), r"of shape \(3, 5, 3\), not \(frames, 20, 3\)"),
    (json_bytes(skeletons=[]), "joints of shape"),
    (json_bytes(skeletons=[JOINTS[0].tolist(), [[1, 2, 3]]]), "not an array of numbers"),
    (json_bytes(skeletons=(JOINTS * np.nan).tolist()), "frame 1: invalid coordinate nan"),
    (json_bytes(label="x"), "not JSON with label"),
    (json_bytes(label=11), "action 11 is not one of the 10 of Northwestern-UCLA"),
    (b"{", "not JSON"),
    (b"[" * 100000, "not JSON"),
    (b'{"label": 1}', "not JSON with label and skeletons"),
], ids=str)  # fmt: skip
def test_corrupt_nw_ucla_files(content, reason):
    with pytest.raises(InvalidClip, match=reason):
        DATASETS["nw-ucla"].read(NAME, content)


def mat_bytes(joints):
    file = io.BytesIO()
    scipy.io.savemat(file, {"d_skel": joints})
    return file.getvalue()


def test_utd_mhad_joints_are_put_into_the_layout_s_order():
    dataset = DATASETS["utd-mhad"]
    head_first = ("head", "shoulder_center", "spine", "hip_center")
    limbs = (("shoulder", "elbow", "wrist", "hand"), ("hip", "knee", "ankle", "foot"))
    order = [*head_first, *(f"{s}_{j}" for limb in limbs for s in ("left", "right") for j in limb)]
    ours = {"hip_center": "spine base", "spine": "spine mid", "shoulder_center": "spine shoulder"}
    joints = np.zeros((20, 3, 4))
    for row, name in zip(joints, order, strict=True):
        row[0] = 1 + dataset.layout.joint(ours.get(name, name.replace("_", " ")))
    clip = dataset.read("a27_s2_t4_skeleton", mat_bytes(joints))
    assert (clip.name, clip.label, clip.subject, clip.camera) == ("a27_s2_t4", 26, 2, 1)
    assert clip.data[0, 0, :, 0].tolist() == list(range(1, 21))


def test_corrupt_utd_mhad_files():
    cells = np.empty((20, 3, 4), object)
    cells[:] = "x"
    good = mat_bytes(np.zeros((20, 3, 4)))
    for corrupt in (mat_bytes(cells), b"not a mat file" * 30, b"", good[:-100]):
        with pytest.raises(InvalidClip):
            DATASETS["utd-mhad"].read("a27_s2_t4_skeleton", corrupt)
    for shape in ((19, 3, 4), (20, 3)):
        with pytest.raises(InvalidClip, match=r"not a .mat file with d_skel \(20, 3, frames\)"):
            DATASETS["utd-mhad"].read("a27_s2_t4_skeleton", mat_bytes(np.ones(shape)))
