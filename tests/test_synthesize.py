"""Synthetic recordings: the raw format, the bodies and the faults of the sensor."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import convert_data
import synthesize
from skeletons import ntu
from skeletons.layout import KINECT_V2, class_names

ROOT = Path(__file__).parent.parent
NUMBER = re.compile(r"-?\d+(\.\d+)?(E[-+]\d\d)?")


def test_the_format_byte_for_byte(raw):
    """Lines as the sensor's software writes them: counts, 10 fields per body, 12 per joint, CRLF."""
    for path in sorted(raw.iterdir())[::4]:
        content = path.read_bytes()
        assert content.endswith(b"\r\n") and content.count(b"\n") == content.count(b"\r\n")
        lines = iter(content.decode("ascii").split("\r\n")[:-1])
        for _ in range(int(next(lines))):
            for _ in range(int(next(lines))):
                body = next(lines).split(" ")
                assert len(body) == 10 and re.fullmatch(r"\d{17}", body[0])
                assert next(lines) == "25"
                for _ in range(25):
                    joint = next(lines).split(" ")
                    assert len(joint) == 12 and all(NUMBER.fullmatch(field) for field in joint)
                    assert joint[11] in "012" and all(len(field) <= 14 for field in joint)
        assert next(lines, None) is None


def test_actions_are_those_of_ntu_with_partners_cameras_and_subjects():
    assert len(synthesize.ACTIONS) >= 12 and set(synthesize.ACTIONS) <= set(range(1, 61))
    pairs = [class_names("ntu")[a - 1] for a, action in synthesize.ACTIONS.items() if action.partner]
    assert len(pairs) >= 3 and "handshaking" in pairs
    assert all(50 <= a <= 60 for a, action in synthesize.ACTIONS.items() if action.partner)
    assert np.diff(sorted(synthesize.CAMERA_ANGLES.values())).tolist() == [45, 45]
    sizes = {synthesize.Subject(number).size for number in range(1, 9)}
    assert len(sizes) == 8


def test_no_name_is_on_the_list_of_missing_skeletons():
    missing = set(convert_data.MISSING_LIST.read_text().split())
    names = {
        f"S{synthesize.SETUP:03}C{c:03}P{p:03}R{r:03}A{a:03}"
        for c in (1, 2, 3) for p in range(1, 9) for r in (1, 2) for a in synthesize.ACTIONS
    }  # fmt: skip
    assert not names & missing


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        synthesize.synthesize(tmp_path / folder, [10], subjects=1, replications=1, seed=seed)
    name = "S002C001P001R001A010.skeleton"
    a, b, c = ((tmp_path / folder / name).read_bytes() for folder in "abc")
    assert a == b != c


@pytest.mark.parametrize("action", synthesize.ACTIONS)
def test_bodies_keep_their_bones_and_stand_on_the_floor(action):
    people = [synthesize.Subject(1), synthesize.Subject(2)]
    rng = np.random.default_rng(action)
    bodies = synthesize.perform(synthesize.ACTIONS[action], people, 1, rng)
    assert len(bodies) == (2 if synthesize.ACTIONS[action].partner else 1)
    for (joints, rotations), person in zip(bodies, people, strict=False):
        for joint, parent in KINECT_V2.bones:
            length = np.linalg.norm(joints[:, joint] - joints[:, parent], axis=1)
            np.testing.assert_allclose(length, np.linalg.norm(person.offsets()[joint]), atol=1e-9)
        np.testing.assert_allclose(
            rotations @ rotations.swapaxes(2, 3), np.eye(3) + 0 * rotations, atol=1e-9
        )
        assert joints[..., 1].min() > -1e-9 and joints[..., 1].max() < 2.6


def test_cameras_are_45_degrees_apart():
    rng = np.random.default_rng(0)
    (body,) = synthesize.perform(synthesize.ACTIONS[31], [synthesize.Subject(1)], 1, rng)
    left, right = KINECT_V2.joint("left shoulder"), KINECT_V2.joint("right shoulder")
    directions = []
    for angle in (-45, 0, 45):
        joints, _ = synthesize.to_camera(body, angle, 1.0, 3.0)
        across = joints[0, right] - joints[0, left]
        directions.append(np.degrees(np.arctan2(-across[2], across[0])))
        assert (joints[..., 2] > 1.5).all()  # in front of the camera
    np.testing.assert_allclose(np.diff(directions), 45, atol=0.1)


def test_the_faults_of_the_sensor_occur(tmp_path):
    """Lost frames, changed IDs, changed orders and spurious bodies, in some clips of a handful."""
    synthesize.synthesize(tmp_path, [10, 58], subjects=8, replications=1)
    lost = changed = reordered = spurious = 0
    for path in tmp_path.iterdir():
        frame_index, ids, _ = ntu.parse_skeleton(path.read_bytes())
        people = 2 if "A058" in path.name else 1
        counts = np.bincount(frame_index)
        lost += (counts == 0).any()
        changed += len(set(ids)) > people and counts.max() == people
        spurious += counts.max() > people
        orders = [tuple(ids[frame_index == t]) for t in range(len(counts)) if counts[t] == 2]
        reordered += any(pair[::-1] in orders for pair in orders)
    assert lost and changed and reordered and spurious


def test_as_a_command(tmp_path):
    """One start of the script; its errors are tested in the next test."""
    command = [sys.executable, ROOT / "synthesize.py", "--actions", "7"]
    command += ["--subjects", "1", "--replications", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "3 files in demo/raw" in done.stdout
    assert len(list((tmp_path / "demo/raw").glob("*.skeleton"))) == 3


def test_errors(tmp_path, capsys):
    (tmp_path / "S001C001P001R001A001.skeleton").touch()
    with pytest.raises(SystemExit, match=r"already holds \.skeleton files\nremove them"):
        synthesize.main(["--out", str(tmp_path), "--actions", "7"])
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match=r"file: .+\ncheck it"):
        synthesize.main(["--out", str(tmp_path / "file"), "--actions", "7"])
    for wrong, message in (
        (["--actions", "99"], "no action 99"),
        (["--subjects", "0"], "--subjects must be at least 1"),
    ):
        with pytest.raises(SystemExit):
            synthesize.main(wrong)
        assert message in capsys.readouterr().err
