"""Custom recordings: tables, layouts, missing joints, and everything that can be wrong with them."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from helpers import Malicious, convert_to, load, recording

from feeder import Feeder
from skeletons import custom
from skeletons.layout import LAYOUTS
from skeletons.readers import open_input
from skeletons.storage import split_files

STICK = {
    "joints": ["hip", "neck", "left hand", "right hand", "left foot", "right foot"],
    "parents": [None, "hip", "neck", "neck", "hip", "hip"],
    "parts": {"left arm": ["left hand"], "right arm": ["right hand"], "trunk": ["neck", "hip"],
              "left leg": ["left foot"], "right leg": ["right foot"]},
}  # fmt: skip


def write(folder, table, channels=2, layout=STICK):
    folder.mkdir()
    (folder / "clips.csv").write_text(table, encoding="utf-8")
    if layout:
        (folder / "layout.json").write_text(json.dumps(layout))
    rng = np.random.default_rng(0)
    for line in table.splitlines()[1:]:
        np.save(folder / f"{line.split(',')[0]}.npy", rng.normal(size=(9, 6, channels)))
    return folder


TABLE = "name,label,split,subject\na,jump,train,Ann\nb,run,train,Bob\nc,run,val,Ann\n"


@pytest.mark.parametrize("channels", [2, 3])
def test_custom_recordings_in_their_own_layout(channels, tmp_path):
    folder = write(tmp_path / "mine", TABLE, channels)
    out, metas, failures = convert_to(tmp_path / "out", folder)
    assert metas["custom"]["classes"] == ["jump", "run"] and not failures
    assert metas["custom"]["subject"] == {"train": [1, 2], "val": [1]}
    feeder = Feeder(*split_files(out / "custom", "train"), window_size=9, origin_transfer="first-frame",
                    random_move=True, rand_rotate=0.5, rand_scale=0.1, rand_shear=0.1)  # fmt: skip
    assert feeder.layout.joints == tuple(STICK["joints"]) and feeder.layout.root == 0
    assert feeder[0][0].shape == (channels, 9, 6, 2) and feeder.label.tolist() == [0, 1]
    expected = np.load(folder / "b.npy").transpose(2, 0, 1)
    found, expected = feeder.eval()[1][0][..., 0].numpy(), expected - expected[:, :1, :1]
    scale = np.linalg.norm(found) / np.linalg.norm(expected)
    np.testing.assert_allclose(found, expected * scale, atol=1e-5)


@pytest.mark.parametrize("dtype", [">f8", ">f4", "<f2", ">i2", "<i4"])
def test_numbers_of_any_type_and_byte_order(dtype, tmp_path):
    folder = write(tmp_path / "mine", TABLE)
    array = (np.arange(1, 109).reshape(9, 6, 2) / (4 if "f" in dtype else 1)).astype(dtype)
    np.save(folder / "a.npy", array)
    out, _, failures = convert_to(tmp_path / "out", folder)
    assert not failures
    data, _, _, counts = load(out / "custom", "train")
    np.testing.assert_array_equal(data[: counts[0], ..., 0], array.swapaxes(1, 2))


def test_missing_joints_are_interpolated(tmp_path):
    """NaN: between the frames where a joint was seen; a body without any joint is absent."""
    folder = write(tmp_path / "mine", TABLE, 3)
    whole = np.arange(1, 10)[:, None, None] * np.ones((9, 6, 3))
    gaps = np.stack((whole, whole))
    gaps[0, 0, 2, 1] = gaps[0, 3:6, 2] = gaps[0, 8, 5] = np.nan
    gaps[1, 4] = np.nan
    gaps[1, 5] = 0
    np.save(folder / "a.npy", gaps)
    gaps[0, :, 4] = np.nan
    np.save(folder / "b.npy", gaps)
    out, _, failures = convert_to(tmp_path / "out", folder)
    assert [failure.reason for failure in failures] == [
        "joint 5 is NaN in every frame; leave it out, or write zeros"
    ]
    data, *_ = load(out / "custom", "train")
    expected = np.stack((whole, whole)).transpose(1, 3, 2, 0)
    expected[0, :, 2, 0], expected[8, :, 5, 0], expected[4:6, ..., 1] = 2, 8, 0
    np.testing.assert_allclose(data, expected)


def test_the_odd_clip_is_the_failure_whichever_it_is(tmp_path):
    for name in "abc":
        folder = write(tmp_path / f"mine-{name}", TABLE, 3)
        np.save(folder / f"{name}.npy", np.ones((9, 6, 2)))
        _, _, failures = convert_to(tmp_path / f"out-{name}", folder)
        assert [Path(failure.file).stem for failure in failures] == [name]
        assert "6 joints with 2 coordinates each" in failures[0].reason


@pytest.mark.parametrize("change", [
    lambda table: table.replace("name,label", "Name, Label").replace("\nb", "\n\nb") + "\n",
    lambda table: table.replace("split,subject", "part,performer"),  # earlier names
    lambda table: table.replace(",", ";").replace("\n", "\r\n"),
    lambda table: table.replace(",", "\t").replace("\n", "\r"),
    lambda table: table.replace("train", "Train").replace("val", "TEST") + ",,,\n",
])  # fmt: skip
def test_tables_as_people_save_them(change, tmp_path):
    folder = write(tmp_path / "mine", TABLE)
    (folder / "clips.csv").write_text(change(TABLE), encoding="utf-8-sig", newline="")
    _, metas, _ = convert_to(tmp_path / "out", folder / "clips.csv")
    assert metas["custom"]["clips"] == {"train": 2, "val": 1}
    assert metas["custom"]["subject"] == {"train": [1, 2], "val": [1]}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "cp1252", "gbk"])
def test_encodings_of_spreadsheets(encoding, tmp_path):
    """UTF-16 shows itself; of other encodings the user must say which."""
    folder = write(tmp_path / "mine", TABLE)
    name = "挥手" if encoding == "gbk" else "drücken"
    (folder / "clips.csv").write_bytes(TABLE.replace("run", name).encode(encoding))
    if "16" not in encoding:
        with pytest.raises(ValueError, match=r"clips.csv is not a CSV file in UTF-8: .*\n.*--encoding"):
            open_input([folder])
        with pytest.raises(ValueError, match=r"is not a CSV file in ASCII: .*\n.*--encoding"):
            open_input([folder], encoding="ascii")
    stream = open_input([folder], encoding="" if "16" in encoding else encoding)
    assert stream.classes == sorted(["jump", name])


def test_doubts_about_a_table_are_told(tmp_path):
    folder = write(tmp_path / "mine", TABLE + "d,run,train,Bob\n")
    (folder / "clips.csv").write_text(
        "name,label,split,subject,team\na,RUN,train,Ann,1\nb,Run,train,,1\nc,Run,val,Bob,1\n"
        "d,run,train,?,1\n"
    )
    notes = open_input([folder]).notes
    assert notes[0].endswith("clips.csv that are not used: team")
    assert notes[1] == "WARNING: RUN, Run, run are different classes; do you mean one?"
    assert notes[2].startswith("WARNING: 2 of 4 clips have no subject; they count as one")


@pytest.mark.parametrize("name", ["openpose25", "BODY_25"])
@pytest.mark.parametrize("scores", [False, True])
def test_a_layout_by_its_name(name, scores, tmp_path):
    """2D bodies of 25 joints are not a Kinect's, and scores are not z, whatever the layout."""
    folder = write(tmp_path / "mine", TABLE, layout=None)
    for i, clip in enumerate("abc"):
        xy = 300 * recording(LAYOUTS["openpose25"], channels=2, bodies=1, seed=i)[..., 0] + 500
        xys = np.concatenate((xy, np.full_like(xy[:, :1], 0.7)), 1) if scores else xy
        np.save(folder / f"{clip}.npy", xys.swapaxes(1, 2))
    fault = (
        "a score, not z of kinect-v2" if scores else "25 joints with 2 coordinates; .* Kinect have 3"
    )
    with pytest.raises(ValueError, match=rf"{fault}.*\nadd a layout.json .*openpose25"):
        open_input([folder])
    (folder / "layout.json").write_text(json.dumps({"name": name}))
    out, metas, failures = convert_to(tmp_path / "out", folder)
    assert metas["custom"]["layout"] == LAYOUTS["openpose25"].to_dict() and not failures
    np.testing.assert_allclose(load(out / "custom", "val")[0][..., 0], xy, rtol=1e-6)


def test_a_third_number_that_can_be_a_score_or_z(tmp_path):
    folder = write(tmp_path / "mine", TABLE, 3)
    rng = np.random.default_rng(0)
    for clip in "abc":
        np.save(folder / f"{clip}.npy", rng.uniform(0.2, 0.9, (9, 6, 3)))
    with pytest.raises(ValueError, match="it can be z, or a score\nlayout"):
        open_input([folder])
    for channels, count in ((["x", "y", "score"], 2), (["x", "y", "z"], 3)):
        (folder / "layout.json").write_text(json.dumps(STICK | {"channels": channels}))
        assert open_input([folder]).channels == count


def test_bodies_that_do_not_look_like_their_layout(tmp_path):
    folder, kinect = write(tmp_path / "mine", TABLE, layout=None), LAYOUTS["kinect-v2"]
    order = np.random.default_rng(0).permutation(25)
    for joints, warns in ((np.arange(25), False), (order, True)):
        for clip in "abc":
            np.save(folder / f"{clip}.npy", recording(kinect)[:, :, joints, 0].swapaxes(1, 2))
        notes = open_input([folder]).notes
        assert any(note.startswith("WARNING: the bodies do not look like") for note in notes) == warns


def test_a_column_says_the_order_of_the_axes(tmp_path):
    rows = 'a,x,train,"(C, T, V, M)"\nb,x,train,ctvm\nc,x,train,\nd,x,val,CVTM\n'
    folder = write(tmp_path / "mine", "name,label,split,axes\n" + rows)
    array = np.random.default_rng(0).normal(size=(2, 9, 6, 2))
    for clip in "abc":
        np.save(folder / f"{clip}.npy", array)
    np.save(folder / "d.npy", array.swapaxes(1, 2))
    out, _, failures = convert_to(tmp_path / "out", folder)
    assert not failures
    data = load(out / "custom", "train")[0]
    for i, expected in enumerate((array, array, array.transpose(3, 1, 2, 0))):
        np.testing.assert_allclose(data[9 * i : 9 * i + 9], expected.swapaxes(0, 1), rtol=1e-6)
    np.testing.assert_allclose(load(out / "custom", "val")[0], array.swapaxes(0, 1), rtol=1e-6)


FOLDS = "name,label,fold,subject\na,jump,1,Ann\nb,run,2,Bob\nc,run,1,Ann\nd,jump,2,Cid\n"


def test_folds(tmp_path):
    """Each clip is in the test of its fold, and in the training of the others."""
    out, metas, failures = convert_to(tmp_path / "out", write(tmp_path / "mine", FOLDS))
    assert list(metas) == ["fold1", "fold2"] and not failures
    for fold, other, names in (("fold1", "fold2", ["a", "c"]), ("fold2", "fold1", ["b", "d"])):
        assert load(out / fold, "val")[1] == load(out / other, "train")[1] == names
    assert metas["fold1"]["subject"] == {"train": [2, 3], "val": [1, 1]}


def test_folds_next_to_a_split_and_of_any_name(tmp_path):
    """Such as subjects, to leave one out. A column split makes a benchmark of its own."""
    table = "name,label,split,fold\na,x,train,Ann B.\nb,x,train,fold_2\nc,x,val,Zoë/2\nd,x,val,Ann B.\n"
    out, metas, _ = convert_to(tmp_path / "out", write(tmp_path / "mine", table))
    assert list(metas) == ["custom", "foldAnn-B", "foldZoë-2", "fold_2"]
    assert load(out / "custom", "val")[1] == ["c", "d"]
    assert load(out / "foldAnn-B", "val")[1] == ["a", "d"]


@pytest.mark.parametrize("table, reason", [
    (FOLDS.replace("run,2", "run,"), "line 3: no fold\ngive every clip"),
    (FOLDS.replace("run,2", "run,?"), "line 3: no fold\ngive every clip"),
    (FOLDS.replace("run,1", "run,01"), "line 4: the folds '1' and '01' have nearly the same name\n"),
    (FOLDS.replace("run,1", "run,Fold1"), "line 4: the folds '1' and 'Fold1' have nearly the same"),
    (FOLDS + "e,hop,2,Cid\n", "no training clip of fold2 has the label hop\ncheck its"),
    (FOLDS.replace(",2,", ",1,"), "all clips have the fold '1'\ngive two folds or more"),
    (FOLDS.replace("fold,subject", "fold,fold"), "two columns 'fold'\nremove one"),
], ids=range(7))  # fmt: skip
def test_folds_that_are_not(table, reason, tmp_path):
    with pytest.raises(ValueError, match=reason):
        open_input([write(tmp_path / "mine", table)])


def test_depth_is_not_taken_for_a_score(tmp_path):
    """Of sensors that measure depth: z from 0 to 1 in any layout that is known to be theirs."""
    folder = write(tmp_path / "mine", TABLE, layout={"name": "sbu15"})
    for i, name in enumerate("abc"):
        joints = recording(LAYOUTS["sbu15"], frames=9, bodies=1, seed=i)[..., 0].swapaxes(1, 2)
        joints[..., 2] = 0.5 + 0.1 * joints[..., 2]
        np.save(folder / f"{name}.npy", joints)
    stream = open_input([folder])
    assert stream.channels == 3 and stream.layout == LAYOUTS["sbu15"]


WRONG = {
    "empty": ("", {}, "its first line is ''\nit needs a first line 'name,label,split'"),
    "no label": (TABLE.replace("jump", ""), {}, "clips.csv, line 2: a has no label\n"),
    "test only": (TABLE.replace("run,val", "ran,val"), {}, "no training clip has the label ran\ncheck"),
    "unknown joint": (TABLE, {"layout": STICK | {"parents": [None, "hop", *["neck"] * 4]}},
                      "layout.json .*: hop is not among its joints\ndocs/data.md"),
    "same joint": (TABLE, {"layout": STICK | {"joints": ["hip"] * 6}}, "the same name"),
    "no parts": (TABLE, {"layout": {"joints": ["hip"], "parents": [None]}}, "'parts' is missing"),
    "columns": ("name,class\na,jump\n", {}, "first line is 'name,class'\n.*name,label,split"),
    "split": (TABLE.replace("val", "test set"), {}, "clips.csv, line 4: split is 'test set'\n"),
    "twice": (TABLE.replace("\nc,", "\na,"), {}, "line 4: a is listed twice\n"),
    "./": (TABLE.replace("\nc,", "\n./a,"), {}, "line 4: ./a is listed twice\nremove"),
    ".npy": (TABLE.replace("\nc,", "\na.npy,"), {}, "line 4: a is listed twice\n"),
    "../": (TABLE.replace("\nc,", "\n../mine/a,"), {}, "line 4: ../mine/a is listed twice\n"),
    "layout 5": (TABLE, {"layout": STICK | {"name": 5}}, "layout: its name is 5, not text\ndocs"),
    "layout null": (TABLE, {"layout": STICK | {"name": None}}, "its name is None, not text"),
    "joints": (TABLE, {"layout": STICK | {"joints": [1, 2]}}, "its joints are not a list of names\n"),
    "mixed": (TABLE.replace("split,subject", "split,subject;team"), {}, "a column 'subject;team'\nsep"),
    "header only": (TABLE.replace("name,label,split,subject", "name;label;split;subject"), {},
                    "line 2: 1 values for 4 columns\nseparate values as"),
    "comma": (TABLE.replace("Bob", "Bob, Ben"), {}, "line 3: 5 values for 4 columns\n.*in quotes"),
    "columns twice": (TABLE.replace("split,subject", "split,label"), {}, "two columns 'label'\nremove"),
    "val and test": (TABLE + "d,run,test,Bob\n", {}, "val and test clips; val means the test split"),
    "known name": (TABLE, {"layout": {"name": "openpose"}}, "'openpose' is none of kinect-v2, "),
    "empty part": (TABLE, {"layout": STICK | {"parts": STICK["parts"] | {"tail": []}}},
                   "the part 'tail' has no joints; leave it out\n"),
    "part": (TABLE, {"layout": STICK | {"parts": {"trunk": "hip"}}}, "parts are not lists of joints"),
    "parts": (TABLE, {"layout": STICK | {"parts": [["hip"]]}}, "its parts are not lists of joints"),
    "list": (TABLE, {"layout": [STICK]}, "layout: it is not a {...} with joints"),
    "indices from 1": (
        TABLE,
        {"layout": STICK | {"parents": [1, 1, 2, 2, 1, 1]}},
        "layout.json .*: 0 joints have the parent null or -1.* count from 0\ndocs",
    ),
    "indices from 1, but for the root": (
        TABLE,
        {"layout": STICK | {"parents": [None, 1, 2, 2, 1, 1]}},
        "layout.json .*: .* loop, .*numbered from 0",
    ),
    "index": (TABLE, {"layout": STICK | {"parents": [None, 6, 1, 1, 0, 0]}}, "6 is not among its"),
    "channels": (TABLE, {"layout": STICK | {"channels": "xyz"}}, "its channels are 'xyz', none of"),
    "no layout": (TABLE, {"layout": None}, "6 joints; layout.json is missing\n"),
    "other layout": (TABLE, {"layout": STICK | {
        "joints": ["hip"], "parents": [None], "parts": {"trunk": ["hip"]}}}, "describes 1\n"),
    "loop": (TABLE, {"layout": STICK | {"parents": ["neck", *STICK["parents"][1:]]}}, "layout.json"),
    "4D": (TABLE, {"channels": 4}, "4 coordinates per joint\n"),
}  # fmt: skip


@pytest.mark.parametrize("table, options, reason", WRONG.values(), ids=WRONG.keys())
def test_recordings_that_do_not_fit(table, options, reason, tmp_path):
    with pytest.raises(ValueError, match=reason):
        open_input([write(tmp_path / "mine", table, **options)])


def test_a_table_that_is_not_utf_8(tmp_path):
    folder = write(tmp_path / "mine", TABLE)
    (folder / "clips.csv").write_bytes(TABLE.replace("Ann", "Jürgen").encode("latin1"))
    with pytest.raises(ValueError, match=r"clips.csv is not a CSV file in UTF-8: .*\nsave it as one"):
        open_input([folder])


def test_none_of_the_clips_can_be_read(tmp_path):
    folder = write(tmp_path / "mine", TABLE)
    for path in folder.glob("*.npy"):
        path.unlink()
    with pytest.raises(ValueError, match=r"none of the clips .*\nfor example c.npy: there is no "):
        open_input([folder])


def test_corrupt_recordings_cost_only_themselves(tmp_path):
    lines = "".join(f"{name},x,train\n" for name in "abcdefghijklmno")
    folder = write(tmp_path / "mine", "name,label,split\n" + lines)
    np.save(folder / "a.npy", np.array([Malicious(tmp_path / "attacked")]), allow_pickle=True)
    (folder / "b.npy").unlink()
    (folder / "c.npy").write_bytes((folder / "c.npy").read_bytes()[:-8])
    np.save(folder / "d.npy", np.zeros((9, 6, 2)))
    np.save(folder / "e.npy", np.full((9, 6, 2), np.nan))
    np.save(folder / "f.npy", np.ones((9, 5, 2)))
    with open(folder / "g.npy", "wb") as file:  # declares 10^13 bytes
        header = {"descr": "<f4", "fortran_order": False, "shape": (10**12, 6, 2)}
        np.lib.format.write_array_header_1_0(file, header)
    np.savez(folder / "i.npz", np.ones(3))
    (folder / "i.npz").rename(folder / "i.npy")
    (folder / "j.npy").write_bytes(b"PK\x03\x04 cut")
    (folder / "k.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', ((((" + b" " * 200)
    (folder / "l.npy").write_bytes(b"")
    (folder / "m.npy").unlink()
    os.mkfifo(folder / "m.npy")
    for name, descr, length in (("n", "<f4", 6_000_000), ("o", ">f8", 6_000_000)):
        with open(folder / f"{name}.npy", "wb") as file:
            header |= {"descr": descr, "shape": (length, 6, 2)}
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(length * 12 * int(descr[-1]) + 128)
    _, metas, failures = convert_to(tmp_path / "out", folder)
    assert metas["custom"]["clips"]["train"] == 1 and not (tmp_path / "attacked").exists()
    reasons = {Path(failure.file).stem: failure.reason for failure in failures}
    for name, reason in {
        "a": "not a .npy file of numbers", "b": "no such file", "c": "truncated",
        "d": "no body in any frame", "e": "no body in any frame", "f": "5 joints with 2 coordinates",
        "g": "not a .npy file of numbers", **dict.fromkeys("ijkl", "not a .npy file of numbers"),
        "m": "no such file", "n": "larger than 256 MiB", "o": "larger than 512 MiB",
    }.items():  # fmt: skip
        assert reason in reasons.pop(name), name
    assert not reasons


def test_a_broken_link_to_a_layout(tmp_path):
    """The Kinect's layout must not take its place."""
    folder = write(tmp_path / "mine", TABLE, layout=None)
    (folder / "layout.json").symlink_to("nowhere")
    with pytest.raises(ValueError, match=r"layout\.json does not .*: No such file.*\ndocs"):
        open_input([folder])


def test_a_wrong_order_of_the_axes_costs_only_the_clip(tmp_path):
    table = "name,label,split,axes\na,x,train,VTC\nb,x,train,TVC\n"
    folder = write(tmp_path / "mine", table)
    _, _, failures = convert_to(tmp_path / "out", folder)
    assert [failure.reason for failure in failures] == [
        "axes VTC: 9 joints with 2 coordinates each; expected are 6 with 2"
    ]
    (folder / "clips.csv").write_text(table.replace("TVC", "TCV"))
    with pytest.raises(ValueError, match=r"none of the clips .*\nfor example b.npy: axes TCV: 2 "):
        open_input([folder])


def test_rows_of_a_table(tmp_path):
    write(tmp_path / "mine", "name,label,split,subject\n\na,jump,train,1\n\nb,run,west,Ann\n")
    with pytest.raises(ValueError, match=r"clips.csv, line 5: split is 'west'"):
        open_input([tmp_path / "mine"])
    assert custom._numbered(["1", "", "Ann"]) == [1, 0, 2]
    assert custom._numbered(["7", None, "3"]) == [7, 0, 3]
    assert custom._numbered(["0", "10", "2", "nan"]) == [1, 3, 2, 0]  # 0 is a subject
    assert custom._numbered(["1.0", "10.0", "2.0"]) == [1, 3, 2]


def test_a_layout_as_meta_json_writes_it(tmp_path):
    """Indices for names; parts under names that people write."""
    names = STICK["joints"]
    parts = {part.replace(" ", "_").title(): [names.index(joint) for joint in joints]
             for part, joints in STICK["parts"].items()}  # fmt: skip
    layout = STICK | {"parents": [-1, 0, 1, 1, 0, 0], "parts": parts}
    for name, contents in (("layout.json", STICK), ("Layout.JSON", layout)):
        (tmp_path / name[0]).mkdir()
        text = json.dumps(contents | {"name": "stick"})
        (tmp_path / name[0] / name).write_text(text, encoding="utf-8-sig")
    assert custom.read_layout(tmp_path) is None
    found, _ = custom.read_layout(tmp_path / "l")
    assert custom.read_layout(tmp_path / "L") == (found, None) and found.name == "stick"


# --- As people write them -----------------------------------------------------------------------------


def test_lines_before_the_header_and_names_in_capitals(tmp_path):
    """As Excel and Windows leave them."""
    folder = write(tmp_path / "mine", TABLE)
    text = '"sep=;"\r\n\r\n' + TABLE.replace(",", ";").replace("\nb;", "\nB.NPY;")
    (folder / "clips.csv").rename(folder / "Clips.CSV")
    (folder / "Clips.CSV").write_bytes(text.encode())
    (folder / "layout.json").rename(folder / "LAYOUT.json")
    (folder / "b.npy").rename(folder / "B.npy")
    for path in (folder, folder / "Clips.CSV"):
        stream = open_input([path])
        assert [clip.name for clip in stream.clips] == ["a", "B", "c"] and stream.layout.joints[
            0
        ] == "hip"
    (folder / "Clips.CSV").write_bytes(text.replace("c;run;val", "c;run;vall").encode())
    with pytest.raises(ValueError, match=r"Clips\.CSV, line 6: split is 'vall'"):
        open_input([folder])


@pytest.mark.parametrize(("subjects", "numbers", "doubts"), [
    (("Ann", "ann", "Bob"), [1, 3, 2], "WARNING: Ann, ann are different subjects"),
    (("NA", "1", "2"), [0, 1, 2], "1 of 3 clips have no subject"),
    (("1", "01", "1.0"), [2, 1, 3], "WARNING: 01, 1, 1.0 are different subjects"),
    (("1", "01", "2"), [1, 1, 2], ""),
    (("9" * 12, "1", "2"), [3, 1, 2], ""),
])  # fmt: skip
def test_subjects_as_people_write_them(subjects, numbers, doubts, tmp_path):
    rows = zip("abc", ("jump", "run", "run"), ("train", "train", "val"), subjects, strict=True)
    folder = write(tmp_path / "mine", "name,label,split,subject\n" + "\n".join(map(",".join, rows)))
    stream = open_input([folder])
    assert [clip.subject for clip in stream.clips] == numbers
    notes = [note for note in stream.notes if "subject" in note]
    assert doubts in "".join(notes) and len(notes) == bool(doubts)


def test_what_is_wrong_with_an_array_and_what_to_do(tmp_path):
    folder = write(tmp_path / "mine", TABLE)
    for array, reason in (
        (np.array([None, [1, 2]], object), "contains Python objects .*; save it as float32, with NaN"),
        (np.ones((9, 12)), r"an array \(9, 12\); reshape it to \(T, V, C\)"),
        (np.ones((9, 6, 2), complex), "numbers: contains complex128"),
    ):
        np.save(folder / "a.npy", array)
        _, _, (failure,) = convert_to(tmp_path / "out", folder)
        assert re.search(reason, failure.reason)
    (folder / "a.npy").unlink()
    _, _, (failure,) = convert_to(tmp_path / "out", folder)
    assert "no such file; clips.csv must give its path from this folder" in failure.reason


def test_a_layout_without_a_name_has_that_of_its_folder(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    unnamed = {key: value for key, value in STICK.items() if key != "name"}
    (tmp_path / "mine/layout.json").write_text(json.dumps(unnamed))
    monkeypatch.chdir(tmp_path / "mine")
    assert custom.read_layout(Path())[0].name == "mine"
