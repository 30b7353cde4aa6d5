import json
import pickle

import numpy as np
import pytest

import convert_data
from convert_data import DATASETS, SkippedFile, convert, follow_bodies, parse_skeleton
from feeder import read_labels
from skeleton import KINECT_V2

NTU = DATASETS["ntu"]


def load(folder, part):
    """(data, names, labels, counts) of one part."""
    names, labels = read_labels(folder / f"{part}_label.pkl")
    return (np.load(folder / f"{part}_data.npy"), names, labels,
            np.load(folder / f"{part}_num_frame.npy"))  # fmt: skip


def plain_parse(path):
    """The file format read line by line with float(): a list over frames of lists of (ID, (25, 3))."""
    lines = iter(path.read_text().splitlines())
    frames = []
    for _ in range(int(next(lines))):
        bodies = []
        for _ in range(int(next(lines))):
            body_id = int(next(lines).split()[0])
            rows = [next(lines).split()[:3] for _ in range(int(next(lines)))]
            bodies.append((body_id, [[float(v) for v in row] for row in rows]))
        frames.append(bodies)
    return frames


def skeleton_text(bodies, joints=25, newline="\r\n"):
    """A raw file; bodies: list over frames of lists of (ID, (25, 3))."""
    lines = [str(len(bodies))]
    for shown in bodies:
        lines.append(str(len(shown)))
        for body_id, places in shown:
            lines += [f"{body_id} 0 1 1 1 1 0 0.02 0.05 2", str(joints)]
            lines += [" ".join(map(str, row)) + " 277.4 191.8 1036.2 519.1 0 0 0 0 2" for row in places]
    return (newline.join(lines) + newline).encode()


def standing(x=0.0, seed=0):
    """An upright body (25, 3) at x metres."""
    rng = np.random.default_rng(seed)
    return rng.uniform((x - 0.2, -0.9, 2.9), (x + 0.2, 0.9, 3.1), (25, 3))


NAME = "S001C002P001R001A010.skeleton"


def test_coordinates_equal_those_of_a_plain_parser(raw):
    for path in sorted(raw.iterdir())[::5]:
        frame_of, ids, joints = parse_skeleton(path.read_bytes())
        expected = [(t, *body) for t, shown in enumerate(plain_parse(path)) for body in shown]
        assert frame_of.tolist() == [t for t, _, _ in expected]
        assert ids.tolist() == [body_id for _, body_id, _ in expected]
        np.testing.assert_allclose(joints, [body for _, _, body in expected], atol=1e-6)


def test_exponents_negative_zeros_and_unix_line_ends():
    body = np.zeros((25, 3)).tolist()
    body[3] = ["1.5E-05", "-0", "-2.25e+0"]
    for newline in ("\r\n", "\n"):
        _, ids, joints = parse_skeleton(skeleton_text([[(72057594037931691, body)]], newline=newline))
        np.testing.assert_array_equal(joints[0, 3], [1.5e-5, 0, -2.25])
        assert ids[0] == 72057594037931691  # 17 digits, more than a float holds


def test_every_clip_lands_in_its_part(data, raw):
    clips = len(list(raw.iterdir()))
    for benchmark, in_training in (
        ("xsub", lambda n: int(n[9:12]) != 3),
        ("xview", lambda n: n[7] != "1"),
    ):
        meta = json.loads((data / benchmark / "meta.json").read_text())
        total = 0
        for part in ("train", "val"):
            array, names, labels, counts = load(data / benchmark, part)
            assert array.shape == (counts.sum(), 3, 25, 2) and array.dtype == np.float32
            assert all(in_training(name) == (part == "train") for name in names)
            assert labels == [int(name[-3:]) - 1 for name in names]
            assert meta["clips"][part] == len(names)
            assert meta["performer"][part] == [int(name[9:12]) for name in names]
            assert meta["camera"][part] == [int(name[5:8]) for name in names]
            total += len(names)
        assert total == clips
        assert meta["layout"] == KINECT_V2.to_dict()
        assert meta["classes"][57] == "handshaking" and len(meta["classes"]) == 60


def test_a_clip_keeps_its_frames(data, raw):
    array, names, _, counts = load(data / "xview", "val")
    start = 0
    for name, count in zip(names, counts, strict=True):
        expected = convert_data.read_ntu(raw / f"{name}.skeleton").data
        np.testing.assert_array_equal(array[start : start + count], expected)
        start += count


def test_each_file_is_read_once(raw, tmp_path, monkeypatch):
    """The original parsed everything once per benchmark."""
    seen = []
    read = NTU.read
    counting = convert_data.DataSet(
        **{**vars(NTU), "read": lambda path: seen.append(path) or read(path)}
    )
    convert(counting, raw, tmp_path)
    assert len(seen) == len(set(seen)) == len(list(raw.iterdir()))


def test_ignored_clips_are_left_out(raw, tmp_path):
    names = sorted(path.stem for path in raw.iterdir())
    metas = convert(NTU, raw, tmp_path, ignored=frozenset(names[:4]))
    assert metas["xsub"]["ignored"] == 4
    assert sum(metas["xsub"]["clips"].values()) == len(names) - 4


BAD = {
    "empty": (b"", "empty"),
    "one line": (b"3\r\n", "truncated: ends at line 1"),
    "cut": (skeleton_text([[(1, standing())]] * 3)[:-300], "truncated|not a row of numbers"),
    "text": (b"<html>\r\n<body>Not found</body>\r\n", "line 1: not a skeleton file"),
    "binary": (bytes(range(256)) * 20, "not a skeleton file"),
    "20 joints": (skeleton_text([[(1, standing())]], joints=20), "line 4: not a body of 25 joints"),
    "word": (skeleton_text([[(1, standing())]]).replace(b"277.4", b"x")
             .replace(b"\r\n0.", b"\r\nzero."), "not a row of numbers"),
    "nan": (skeleton_text([[(1, np.full((25, 3), np.nan))]]), "not finite"),
    "cut in a joint": (skeleton_text([[(1, standing())]] * 3)[:-12], "ends inside a joint"),
    "all zero": (skeleton_text([[(1, np.zeros((25, 3)))]] * 3), "all bodies are zero"),
    "nobody": (b"2\r\n0\r\n0\r\n", "no body in any frame"),
}  # fmt: skip


@pytest.mark.parametrize("content, reason", BAD.values(), ids=BAD.keys())
def test_a_damaged_file_costs_itself_only(content, reason, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / NAME).write_bytes(content)
    (raw / NAME.replace("C002", "C003")).write_bytes(skeleton_text([[(1, standing())]] * 12))
    meta = convert(NTU, raw, tmp_path / "out")["xview"]
    assert meta["clips"] == {"train": 1, "val": 0}
    assert [item["file"] for item in meta["skipped"]] == [NAME]
    with pytest.raises(SkippedFile, match=reason):
        NTU.read(raw / NAME)


def test_other_things_in_the_folder(tmp_path):
    good = skeleton_text([[(1, standing())]] * 12)
    for name in (NAME, "walk.skeleton", NAME.replace("A010", "A061")):
        (tmp_path / name).write_bytes(good)
    (tmp_path / NAME.replace("P001", "P002")).mkdir()
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / NAME.replace("C002", "C001")).write_bytes(good)
    (tmp_path / "inside" / NAME).write_bytes(good)
    meta = convert(NTU, tmp_path, tmp_path / "out")["xview"]
    assert meta["clips"] == {"train": 1, "val": 1}
    reasons = {item["file"]: item["reason"] for item in meta["skipped"]}
    assert "the name is not of the form" in reasons["walk.skeleton"]
    assert "action 61" in reasons[NAME.replace("A010", "A061")]
    assert "the same name as" in reasons[NAME]
    (tmp_path / NAME).write_bytes(b"")  # the first of two is damaged: the second one counts
    again = convert(NTU, tmp_path, tmp_path / "out")["xview"]
    assert again["clips"] == {"train": 1, "val": 1}
    reason = reasons[NAME.replace("P001", "P002")]  # on Windows the system says it otherwise
    assert "directory" in reason.lower() or "permission" in reason.lower()


def test_nothing_to_convert(tmp_path):
    with pytest.raises(FileNotFoundError, match="--data_path"):
        convert(NTU, tmp_path, tmp_path / "out")
    (tmp_path / NAME).write_bytes(b"")
    with pytest.raises(SkippedFile, match=f"none of the 1 files.*\n.*{NAME}: empty"):
        convert(NTU, tmp_path, tmp_path / "out")
    assert not list(tmp_path.rglob("*.partial"))


# --- Bodies -----------------------------------------------------------------------------------------


def follow(bodies):
    return follow_bodies(*parse_skeleton(skeleton_text(bodies)))


def test_a_body_that_returns_under_a_new_id_is_one_body():
    body = standing()
    data = follow([[(1, body)]] * 12 + [[]] * 3 + [[(2, body)]] * 5)
    assert data.shape[0] == 17  # frames without anybody are left out
    assert data[..., 0].any((1, 2)).all() and not data[..., 1].any()


def test_bodies_that_swap_their_place_in_the_list_keep_their_slot():
    left, right = [(1, standing(-1))], [(2, standing(1, seed=1))]
    data = follow([left + right] * 10 + [right + left] * 10)
    assert np.ptp(data, axis=0).max() == 0 and data[0].any((0, 1)).all()


def test_ghosts_are_dropped_unless_nothing_else_is_there():
    body, ghost = standing(), standing(2) * (6, 0.2, 1)
    data = follow([[(1, body), (2, ghost)]] * 30)
    assert not data[..., 1].any()
    np.testing.assert_allclose(data[0, :, :, 0], body.T, atol=1e-6)
    data = follow([[(1, body), (2, standing(2))]] * 5 + [[(1, body)]] * 25)
    assert not data[..., 1].any()
    assert follow([[(2, ghost)]] * 30)[..., 0].any()
    assert follow([[(2, ghost)]]).shape == (1, 3, 25, 2)


def test_the_two_that_move_most_are_kept_the_most_active_first():
    def frame(t):
        return [(i, standing(2.0 * i, seed=i) + (0, 0.01 * t * moves, 0))
                for i, moves in ((1, 0), (2, 1), (3, 3))]  # fmt: skip

    data = follow([frame(t) for t in range(20)])
    assert abs(data[0, 0, :, 0].mean() - 6) < 0.5 and abs(data[0, 0, :, 1].mean() - 4) < 0.5


# --- Other data sets --------------------------------------------------------------------------------


def test_nw_ucla(tmp_path):
    joints = np.arange(3 * 20 * 3).reshape(3, 20, 3) / 100
    for name, content in {
        "a12_s03_e01_v02": {"file_name": "x", "skeletons": joints.tolist(), "label": 10},
        "a12_s03_e01_v03": {"file_name": "x", "skeletons": joints.tolist(), "label": 10},
        "a01_s01_e00_v01": {"file_name": "x", "skeletons": joints[:, :5].tolist(), "label": 1},
        "a01_s01_e01_v01": {"label": 1},
        "a01_s01_e03_v01": {"skeletons": joints.tolist(), "label": "x"},
        "a01_s01_e04_v01": {"skeletons": [joints[0].tolist(), [[1, 2, 3]]], "label": 1},
    }.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "a01_s01_e02_v01.json").write_text("{")
    meta = convert(DATASETS["nw-ucla"], tmp_path, tmp_path / "out")["xview"]
    assert meta["clips"] == {"train": 1, "val": 1} and len(meta["skipped"]) == 5
    array, names, labels, _ = load(tmp_path / "out" / "xview", "train")
    assert (names, labels, meta["performer"]["train"]) == (["a12_s03_e01_v02"], [9], [3])
    np.testing.assert_allclose(array[..., 0], joints.swapaxes(1, 2), atol=1e-6)
    assert not array[..., 1].any()


def test_utd_mhad_joints_are_put_into_the_layout_s_order(tmp_path):
    import scipy.io

    head_first = ("head", "shoulder_center", "spine", "hip_center")
    limbs = (("shoulder", "elbow", "wrist", "hand"), ("hip", "knee", "ankle", "foot"))
    order = [*head_first, *(f"{s}_{j}" for limb in limbs for s in ("left", "right") for j in limb)]
    ours = {"hip_center": "spine base", "spine": "spine mid", "shoulder_center": "spine shoulder"}
    joints = np.zeros((20, 3, 4))
    for row, name in zip(joints, order, strict=True):
        row[0] = 1 + DATASETS["utd-mhad"].layout.joint(ours.get(name, name.replace("_", " ")))
    for performer in (1, 2):
        scipy.io.savemat(tmp_path / f"a27_s{performer}_t4_skeleton.mat", {"d_skel": joints})
    (tmp_path / "a3_s1_t1_skeleton.mat").write_bytes(b"not a mat file" * 30)
    cells = np.empty((20, 3, 4), object)
    cells[:] = "x"
    scipy.io.savemat(tmp_path / "a3_s1_t2_skeleton.mat", {"d_skel": cells})
    meta = convert(DATASETS["utd-mhad"], tmp_path, tmp_path / "out")["xsub"]
    assert meta["clips"] == {"train": 1, "val": 1} and len(meta["skipped"]) == 2
    array, names, labels, _ = load(tmp_path / "out" / "xsub", "train")
    assert (names, labels) == (["a27_s1_t4"], [26])
    assert array[0, 0, :, 0].tolist() == list(range(1, 21))


# --- The official splits ----------------------------------------------------------------------------


def test_the_official_splits_of_ntu(tmp_path):
    """All 56,880 names of NTU RGB+D as one-frame clips: the missing ones are left out, the rest
    splits as published."""
    raw = tmp_path / "raw"
    raw.mkdir()
    content = skeleton_text([[(1, standing())]])
    names = ntu_names()
    assert len(names) == 56880
    for name in names:
        (raw / f"{name}.skeleton").write_bytes(content)
    ignored = frozenset(convert_data.MISSING_LIST.read_text().split())
    metas = convert(NTU, raw, tmp_path / "out", ignored)
    assert metas["xsub"]["ignored"] == 302
    assert metas["xsub"]["clips"] == {"train": 40091, "val": 16487}
    assert metas["xview"]["clips"] == {"train": 37646, "val": 18932}


# Which performers were recorded in which setup (S001 to S017), and how often (replications).
# fmt: off
RECORDED = {
    1: (1, 2, 3, 4, 5, 6, 7, 8),
    2: (3, 7, 8, 9, 10, 11, 12, 13, 14),
    3: (1, 2, 7, 8, 15, 16, 17, 18, 19),
    4: (3, 7, 8, 20),
    5: (4, 10, 13, 15, 16, 17, 18, 21),
    6: (1, 7, 8, 15, 16, 17, 19, 22, 23, 24),
    7: (1, 7, 8, 15, 16, 17, 18, 19, 25, 26, 27, 28),
    8: (1, 7, 8, 15, 19, 25, 29, 30, 31, 32, 33, 34, 35, 36),
    9: (7, 8, 15, 16, 17, 19, 25),
    10: (7, 8, 13, 15, 16, 17, 18, 19, 21, 25),
    11: (1, 2, 7, 8, 15, 16, 17, 18, 19, 25, 27, 28, 38),
    12: (7, 8, 15, 16, 17, 18, 19, 25, 27, 28, 37),
    13: (7, 8, 15, 16, 17, 18, 19, 25, 27, 28, 37),
    14: (7, 8, 15, 17, 19, 25, 27, 37, 39),
    15: (7, 8, 15, 16, 17, 19, 25, 37),
    16: (7, 8, 19, 21, 25, 39, 40),
    17: (3, 7, 8, 9, 15, 16, 17, 20),
}
# fmt: on


def ntu_names():
    return [
        f"S{setup:03}C{camera:03}P{performer:03}R{replication:03}A{action:03}"
        for setup, performers in RECORDED.items()
        for performer in performers
        for camera in (1, 2, 3)
        for replication in (1, 2)
        for action in range(1, 61)
    ]


def test_a_label_file_holds_plain_values(data):
    names, labels = pickle.loads((data / "xsub" / "train_label.pkl").read_bytes())
    assert type(names) is list and type(labels[0]) is int
