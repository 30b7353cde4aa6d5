"""The raw format of NTU RGB+D: the strict and the fast parser, and what is said of corrupt files."""

import numpy as np
import pytest
from helpers import NAME, plain_parse, skeleton_text, standing

from skeletons.clip import InvalidClip, match_name
from skeletons.datasets import DATASETS
from skeletons.ntu import parse_fast, parse_ntu, parse_ntu_name, parse_skeleton, parse_strict
from skeletons.tracking import sensor_order, track_bodies

NTU = DATASETS["ntu"]


def assert_same(parsed, expected):
    for a, b in zip(parsed, expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_coordinates_equal_those_of_a_plain_parser(raw):
    for path in raw.iterdir():
        content = path.read_bytes()
        frame_index, ids, joints = parse_skeleton(content)
        expected = [(t, *body) for t, shown in enumerate(plain_parse(path)) for body in shown]
        assert frame_index.tolist() == [t for t, _, _ in expected]
        assert ids.tolist() == [body_id for _, body_id, _ in expected]
        assert joints.tolist() == [body for _, _, body in expected]  # to the last bit


def test_the_fast_parser_equals_the_strict_one(raw):
    for path in sorted(raw.iterdir())[::4]:
        content = path.read_bytes()
        fast = parse_fast(content)
        assert fast is not None
        assert_same(fast, parse_strict(content))


@pytest.mark.parametrize("newline", ["\r\n", "\n"])
def test_numbers_of_every_form(newline):
    """Exponents, negative zeros, no point, many digits: as float() reads them, signs of zeros too."""
    forms = ["1.5E-05", "-0", "-2.25e+0", "0.0", "-0.0", "3", "-7", "12.5", "0.123456789", ".5", "5.",
             "0.12345678", "-0.00000001", "1e-300", "+0.5", "9.99999999", "0.30000000000000004",
             "-1.7976931348623157e0", "00.1", "7.000000", "1.E0000001"]  # fmt: skip
    rng = np.random.default_rng(0)
    forms += [f"{value:.{digits}G}" for digits in range(1, 18) for value in rng.normal(0, 2, 20)]
    while len(forms) % 75:
        forms.append("0.25")
    bodies = np.array(forms).reshape(-1, 25, 3)
    content = skeleton_text([[(72057594037931691, body)] for body in bodies], newline=newline)
    expected = np.array([float(form) for form in forms])
    for parse in (parse_fast, parse_strict):
        _, ids, joints = parse(content)
        np.testing.assert_array_equal(joints.ravel(), expected)
        np.testing.assert_array_equal(np.signbit(joints.ravel()), np.signbit(expected))
        assert ids[0] == 72057594037931691  # 17 digits, more than a float holds


def test_other_white_space_reads_the_same():
    content = skeleton_text([[(7, standing())], [], [(7, standing()), (8, standing(1))]])
    expected = parse_skeleton(content)
    for other in (content.replace(b" ", b"  "), content.replace(b" ", b"\t"), content + b"\r\n \r\n",
                  content.replace(b"\r\n", b" \r\n"), content[:-2]):  # fmt: skip
        assert_same(parse_skeleton(other), expected)


GOOD = skeleton_text([[(1, standing())]] * 3)
WORD_LINE = GOOD[: GOOD.index(b"\r\n0.")].count(b"\n") + 2
FAULTS = {
    "empty": (b"", "^empty"),
    "one line": (b"3\r\n", "line 1: truncated"),
    "cut": (GOOD[:-300], "line 82: 7 fields where 12 belong"),
    "text": (b"<html>\r\n<body>Not found</body>\r\n", "line 1: '<html>' is not a number"),
    "binary": (bytes(range(256)) * 20, "line 1: "),
    "UTF-16": (GOOD.decode().encode("utf-16"), r"line 1: .*is not a number"),
    "20 joints": (skeleton_text([[(1, standing())]], joints=20), "line 4: not a body of 25 joints"),
    "word": (GOOD.replace(b"\r\n0.", b"\r\nzero.", 1), f"line {WORD_LINE}: 'zero.*' is not a number"),
    "underscore": (GOOD.replace(b"1 0 1 1 1 1 0", b"1_0 0 1 1 1 1 0", 1), "line 3: '1_0' is not"),
    "nan": (skeleton_text([[(1, standing())], [(1, np.full((25, 3), np.nan))]]),
            "frame 2: invalid coordinate nan"),
    "infinite": (skeleton_text([[(1, np.full((25, 3), -np.inf))]]), "frame 1: invalid coordinate -inf"),
    "huge": (skeleton_text([[(1, np.full((25, 3), 1e30))]]),
             "frame 1: invalid coordinate 1e.30, not a finite number below 1,000,000"),
    "cut in a joint": (GOOD[:-12], r"line 85: \d+ fields where 12 belong"),
    "all zero": (skeleton_text([[(1, np.zeros((25, 3)))]] * 3), "all bodies are zero"),
    "nobody": (b"2\r\n0\r\n0\r\n", "no body in any frame"),
    "negative count": (b"2\r\n-1\r\n0\r\n", "line 2: '-1' is not a count"),
    "huge count": (b"1\r\n99999999999\r\n", "line 2: truncated"),
    "fewer frames than there are": (b"2" + GOOD[1:], "line 58: more lines than"),
    "huge ID": (skeleton_text([[(10**30, standing())]]), "ID of more than 18 digits"),
}  # fmt: skip


@pytest.mark.parametrize("content, reason", FAULTS.values(), ids=FAULTS.keys())
def test_a_corrupt_file_says_where(content, reason):
    with pytest.raises(InvalidClip, match=reason):
        NTU.read(NAME.removesuffix(".skeleton"), content)


@pytest.mark.parametrize("change", [
    lambda text: text.replace(b" 277.4 191.8 ", b" 277.4  ", 1),  # one field empty
    lambda text: text.replace(b" 277.4 ", b" ", 1).replace(b" 277.4 ", b" 1 277.4 ", 1),
    lambda text: text.replace(b"\r\n", b"\r-\n", 1),
    lambda text: text.replace(b"\r\n25", b"\r0\n25", 1),
    lambda text: text.replace(b" 277.4 ", b"\n277.4 ", 1),
    lambda text: text.replace(b"\r\n25\r\n", b"\r\n24\r\n", 1),
    lambda text: text.replace(b"\r\n25\r\n", b"\r\n025\r\n", 1),
    lambda text: text.replace(b" 277.4 ", b" 27_7.4 ", 1),
    lambda text: text[:-1],
])  # fmt: skip
def test_the_fast_parser_is_for_regular_files_only(change):
    assert parse_fast(GOOD) is not None
    assert change(GOOD) != GOOD and parse_fast(change(GOOD)) is None


def test_a_name_says_label_subject_and_camera():
    assert parse_ntu_name("S001C002P003R004A005") == (4, 3, 2)
    assert match_name(r"a(\d+)b(\d+)", "a1b1", "a007b12") == (7, 12)


def test_names_that_are_invalid():
    content = skeleton_text([[(1, standing())]])
    for name in ("walk", "S001C001P001R001A0011", "S01C001P001R001A001"):
        with pytest.raises(InvalidClip, match="the name is not of the form S001C001P001R001A001"):
            NTU.read(name, content)
    with pytest.raises(InvalidClip, match="action 61 is not one of the 60"):
        NTU.read("S001C001P001R001A061", content)
    assert DATASETS["ntu120"].read("S018C001P041R001A061", content).label == 60


def test_the_two_rules_for_bodies():
    left, right = [(1, standing(-1))], [(2, standing(1, seed=1))]
    content = skeleton_text([left + right] + [right + left] * 3)
    rules = {"track": track_bodies, "sensor-order": sensor_order}
    parsed = parse_skeleton(content)
    for rule, arrange in rules.items():
        expected = arrange(*parsed).data
        assert parse_ntu(content, rule).label is None
        np.testing.assert_array_equal(parse_ntu(content, rule).data, expected)
        np.testing.assert_array_equal(NTU.read("S001C001P001R001A050", content, rule).data, expected)
    by_rule = [parse_ntu(content, rule).data for rule in rules]
    assert by_rule[0].shape == by_rule[1].shape and not np.array_equal(*by_rule)
