"""Raw files: the parser, the rules for bodies, and every data set's own format."""

import io
import json

import numpy as np
import pytest
import scipy.io
from helpers import NAME, plain_parse, skeleton_text, standing

from skeletons import ntu
from skeletons.clip import InvalidClip
from skeletons.datasets import DATASETS
from skeletons.ntu import parse_skeleton
from skeletons.tracking import sensor_order, track_bodies

NTU = DATASETS["ntu"]


def test_coordinates_equal_those_of_a_plain_parser(raw):
    for path in raw.iterdir():
        content = path.read_bytes()
        frame_of, ids, joints = parse_skeleton(content)
        expected = [(t, *body) for t, shown in enumerate(plain_parse(path)) for body in shown]
        assert frame_of.tolist() == [t for t, _, _ in expected]
        assert ids.tolist() == [body_id for _, body_id, _ in expected]
        assert joints.tolist() == [body for _, _, body in expected]  # to the last bit
        assert ntu._parse_regular(content) is not None  # the fast way was taken


@pytest.mark.parametrize("newline", ["\r\n", "\n"])
def test_numbers_of_every_form(newline):
    """Exponents, negative zeros, no point, many digits: as float() reads them, signs of zeros too."""
    forms = ["1.5E-05", "-0", "-2.25e+0", "0.0", "-0.0", "3", "-7", "12.5", "0.123456789", ".5", "5.",
             "0.12345678", "-0.00000001", "1e-300", "+0.5", "9.99999999", "0.30000000000000004",
             "-1.7976931348623157e0", "00.1", "7.000000"]  # fmt: skip
    rng = np.random.default_rng(0)
    forms += [f"{value:.{digits}G}" for digits in range(1, 18) for value in rng.normal(0, 2, 20)]
    while len(forms) % 75:
        forms.append("0.25")
    bodies = np.array(forms).reshape(-1, 25, 3)
    content = skeleton_text([[(72057594037931691, body)] for body in bodies], newline=newline)
    assert ntu._parse_regular(content) is not None
    for _, ids, joints in (parse_skeleton(content), ntu._parse_lines(content)):
        expected = np.array([float(form) for form in forms])
        np.testing.assert_array_equal(joints.ravel(), expected)
        np.testing.assert_array_equal(np.signbit(joints.ravel()), np.signbit(expected))
        assert ids[0] == 72057594037931691  # 17 digits, more than a float holds


def test_other_white_space_reads_the_same():
    content = skeleton_text([[(7, standing())], [], [(7, standing()), (8, standing(1))]])
    expected = parse_skeleton(content)
    for other in (content.replace(b" ", b"  "), content.replace(b" ", b"\t"), content + b"\r\n \r\n",
                  content.replace(b"\r\n", b" \r\n"), content[:-2]):  # fmt: skip
        for a, b in zip(parse_skeleton(other), expected, strict=True):
            np.testing.assert_array_equal(a, b)


GOOD = skeleton_text([[(1, standing())]] * 3)
WORD_LINE = GOOD[: GOOD.index(b"\r\n0.")].count(b"\n") + 2
BAD = {
    "empty": (b"", "^empty"),
    "one line": (b"3\r\n", "line 1: truncated"),
    "cut": (GOOD[:-300], "line 82: 7 fields where 12 belong"),
    "text": (b"<html>\r\n<body>Not found</body>\r\n", "line 1: '<html>' is not a number"),
    "binary": (bytes(range(256)) * 20, "line 1: "),
    "UTF-16": (GOOD.decode().encode("utf-16"), r"line 1: .*is not a number"),
    "20 joints": (skeleton_text([[(1, standing())]], joints=20), "line 4: not a body of 25 joints"),
    "word": (GOOD.replace(b"\r\n0.", b"\r\nzero.", 1), f"line {WORD_LINE}: 'zero.*' is not a number"),
    "underscore": (GOOD.replace(b"1 0 1 1 1 1 0", b"1_0 0 1 1 1 1 0", 1), "line 3: '1_0' is not"),
    "nan": (skeleton_text([[(1, standing())], [(1, np.full((25, 3), np.nan))]]), "frame 2: .* nan"),
    "infinite": (skeleton_text([[(1, np.full((25, 3), -np.inf))]]), "frame 1: .* -inf"),
    "huge": (skeleton_text([[(1, np.full((25, 3), 1e30))]]), "frame 1: .* 1e.30"),
    "cut in a joint": (GOOD[:-12], r"line 85: \d+ fields where 12 belong"),
    "all zero": (skeleton_text([[(1, np.zeros((25, 3)))]] * 3), "all bodies are zero"),
    "nobody": (b"2\r\n0\r\n0\r\n", "no body in any frame"),
    "negative count": (b"2\r\n-1\r\n0\r\n", "line 2: '-1' is not a count"),
    "huge count": (b"1\r\n99999999999\r\n", "line 2: truncated"),
    "fewer frames than there are": (b"2" + GOOD[1:], "line 58: more lines than"),
    "huge ID": (skeleton_text([[(10**30, standing())]]), "ID of more than 18 digits"),
}  # fmt: skip


@pytest.mark.parametrize("change", [
    lambda text: text.replace(b" 277.4 191.8 ", b" 277.4  ", 1),  # one field empty
    lambda text: text.replace(b" 277.4 ", b" ", 1).replace(b" 277.4 ", b" 1 277.4 ", 1),
    lambda text: text.replace(b"\r\n", b"\r-\n", 1),
    lambda text: text.replace(b"\r\n25", b"\r0\n25", 1),
    lambda text: text.replace(b" 277.4 ", b"\n277.4 ", 1),
    lambda text: text.replace(b"\r\n25\r\n", b"\r\n24\r\n", 1),
    lambda text: text.replace(b"\r\n25\r\n", b"\r\n025\r\n", 1),
    lambda text: text[:-1],
])  # fmt: skip
def test_the_fast_way_is_for_regular_files_only(change):
    assert ntu._parse_regular(GOOD) is not None
    assert ntu._parse_regular(change(GOOD)) is None


@pytest.mark.parametrize("content, reason", BAD.values(), ids=BAD.keys())
def test_a_damaged_file_says_where(content, reason):
    with pytest.raises(InvalidClip, match=reason):
        NTU.read(NAME.removesuffix(".skeleton"), content)


def test_names_that_are_none():
    content = skeleton_text([[(1, standing())]])
    with pytest.raises(InvalidClip, match="the name is not of the form"):
        NTU.read("walk", content)
    with pytest.raises(InvalidClip, match="action 61 is not one of the 60"):
        NTU.read("S001C001P001R001A061", content)
    assert DATASETS["ntu120"].read("S018C001P041R001A061", content).label == 60


# --- Bodies -----------------------------------------------------------------------------------------


def follow(bodies, rule=track_bodies):
    """The bodies of a clip in the slots that are in use."""
    data = rule(*parse_skeleton(skeleton_text(bodies)))
    assert data.shape[-1] == 2
    return data if data[..., 1].any() else data[..., :1]


def test_a_body_that_returns_under_a_new_id_is_one_body():
    body = standing()
    data = follow([[(1, body)]] * 12 + [[]] * 3 + [[(2, body)]] * 5)
    assert data.shape == (17, 3, 25, 1)  # frames without anybody are left out
    assert data.any((1, 2)).all()


def test_one_of_two_returns_under_a_new_id():
    left, right = standing(-1), standing(1, seed=1)
    moved = left + (0.1, 0, 0)
    both = [(1, left), (2, right)]
    data = follow([both] * 20 + [both[1:]] * 4 + [[both[1], (3, moved)]] * 20)
    assert data.shape == (44, 3, 25, 2)
    there = data.any((1, 2))
    assert there.all(0).tolist() in ([True, False], [False, True])
    assert (~there.all(1)).nonzero()[0].tolist() == [20, 21, 22, 23]


def test_one_that_appears_elsewhere_is_another():
    data = follow([[(1, standing(-1))]] * 15 + [[(2, standing(1))]] * 15)
    assert data.shape[-1] == 2 and not (data.any((1, 2)).all(1)).any()


def test_bodies_that_swap_their_place_in_the_list_keep_their_slot():
    left, right = [(1, standing(-1))], [(2, standing(1, seed=1))]
    data = follow([left + right] * 10 + [right + left] * 10)
    assert np.ptp(data, axis=0).max() == 0 and data[0].any((0, 1)).all()


def test_ghosts_are_dropped_unless_nothing_else_is_there():
    body, ghost = standing(), standing(2) * (6, 0.2, 1)  # wider than tall
    data = follow([[(1, body), (2, ghost)]] * 30)
    assert data.shape[-1] == 1
    np.testing.assert_allclose(data[0, :, :, 0], body.T, atol=1e-6)
    data = follow([[(1, body), (2, standing(2))]] * 5 + [[(1, body)]] * 25)  # short
    assert data.shape == (30, 3, 25, 1)
    assert follow([[(2, ghost)]] * 30).shape == (30, 3, 25, 1)
    assert follow([[(2, ghost)]]).shape == (1, 3, 25, 1)


@pytest.mark.parametrize("ratio, dropped", [(0.75, False), (0.85, True)])
def test_a_ghost_is_wider_than_four_fifths_of_its_height(ratio, dropped):
    other = np.zeros((25, 3)) + (2, 0, 3)
    other[0, 0] += ratio
    other[1, 1] += 1
    data = follow([[(1, standing()), (2, other)]] * 30)
    assert data.shape[-1] == (1 if dropped else 2)


def test_two_near_each_other_at_the_same_time_are_two():
    left, right = standing(), standing(0.3)
    data = follow([[(1, left)]] * 15 + [[(1, left), (2, right)]] * 15)
    assert data.shape[-1] == 2 and np.ptp(data[..., data[0].any((0, 1))], axis=0).max() == 0


def test_one_id_twice_in_a_frame_is_two_bodies():
    data = follow([[(1, standing()), (1, standing(1, seed=1))]] * 20)
    assert data.shape[-1] == 2 and data.any((1, 2)).all() and np.ptp(data, axis=0).max() == 0


def crowd(t, bodies):
    """Body i moves i times as fast as body 1 and stands at 2 i metres."""
    return [(i, standing(2.0 * i, seed=i) + (0, 0.01 * t * i, 0)) for i in bodies]


@pytest.mark.parametrize("bodies", [(1, 2, 3), (3, 1, 2), (2, 4, 1, 3)])
def test_the_two_that_move_most_are_kept_the_most_active_first(bodies):
    data = follow([crowd(t, bodies) for t in range(20)])
    first, second = sorted(bodies)[:-3:-1]
    assert data.shape == (20, 3, 25, 2)
    assert abs(data[0, 0, :, 0].mean() - 2 * first) < 0.5
    assert abs(data[0, 0, :, 1].mean() - 2 * second) < 0.5


def test_one_frame():
    assert follow([[(1, standing())]]).shape == (1, 3, 25, 1)
    assert follow([[(1, standing()), (2, standing(1))]]).shape == (1, 3, 25, 2)


def test_no_body_in_some_frames():
    body = standing()
    data = follow([[], [(1, body)], [], [(1, body)], []])
    assert data.shape == (2, 3, 25, 1)


def test_bodies_in_the_sensor_s_order():
    left, right = [(1, standing(-1))], [(2, standing(1, seed=1))]
    ghost = [(3, standing(2) * (6, 0.2, 1))]
    data = follow([left + right + ghost] * 3 + [right] * 2 + [[]] + [right + left], sensor_order)
    assert data.shape == (6, 3, 25, 2)
    place = data[:, 0].mean(1)
    np.testing.assert_allclose(place, [[-1, 1]] * 3 + [[1, 0]] * 2 + [[1, -1]], atol=0.1)
    content = skeleton_text([left + right] + [right + left] * 3)
    by_rule = [NTU.read("S001C001P001R001A050", content, rule).data for rule in ("raw", "follow")]
    assert by_rule[0].shape == by_rule[1].shape and not np.array_equal(*by_rule)


# --- Other data sets --------------------------------------------------------------------------------


def test_nw_ucla():
    read = DATASETS["nw-ucla"].read
    joints = np.arange(3 * 20 * 3).reshape(3, 20, 3) / 100

    def content(**fields):
        return json.dumps(
            {"file_name": "x", "skeletons": joints.tolist(), "label": 10} | fields
        ).encode()

    clip = read("a12_s03_e01_v02", content())
    assert (clip.name, clip.label, clip.subject, clip.camera) == ("a12_s03_e01_v02", 9, 3, 2)
    np.testing.assert_allclose(clip.data[..., 0], joints.swapaxes(1, 2), atol=1e-6)
    for damaged, reason in {
        content(skeletons=joints[:, :5].tolist()): "joints of shape",
        content(skeletons=[joints[0].tolist(), [[1, 2, 3]]]): "not an array of numbers",
        content(label="x"): "not JSON with label",
        content(label=11): "action 11 is not one of the 10",
        b"{": "not JSON",
        b"[" * 100000: "not JSON",
        b'{"label": 1}': "not JSON with label and skeletons",
    }.items():
        with pytest.raises(InvalidClip, match=reason):
            read("a12_s03_e01_v02", damaged)
    with pytest.raises(InvalidClip, match="the name is not"):
        read("a12_s03", content())


def test_utd_mhad_joints_are_put_into_the_layout_s_order():
    dataset = DATASETS["utd-mhad"]
    head_first = ("head", "shoulder_center", "spine", "hip_center")
    limbs = (("shoulder", "elbow", "wrist", "hand"), ("hip", "knee", "ankle", "foot"))
    order = [*head_first, *(f"{s}_{j}" for limb in limbs for s in ("left", "right") for j in limb)]
    ours = {"hip_center": "spine base", "spine": "spine mid", "shoulder_center": "spine shoulder"}
    joints = np.zeros((20, 3, 4))
    for row, name in zip(joints, order, strict=True):
        row[0] = 1 + dataset.layout.joint(ours.get(name, name.replace("_", " ")))

    def content(joints):
        file = io.BytesIO()
        scipy.io.savemat(file, {"d_skel": joints})
        return file.getvalue()

    clip = dataset.read("a27_s2_t4_skeleton", content(joints))
    assert (clip.name, clip.label, clip.subject) == ("a27_s2_t4", 26, 2)
    assert clip.data[0, 0, :, 0].tolist() == list(range(1, 21))
    cells = np.empty((20, 3, 4), object)
    cells[:] = "x"
    for damaged in (content(cells), b"not a mat file" * 30, b"", content(joints)[:-100]):
        with pytest.raises(InvalidClip):
            dataset.read("a27_s2_t4_skeleton", damaged)
