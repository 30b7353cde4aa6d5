"""The command convert_data.py: messages, tables, meta.json, and that no process stays behind."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers import NAME, contents, convert_to, load, skeleton_text, standing, write_custom

import convert_data
from convert_data import main
from feeder import Feeder
from skeletons.datasets import DATASETS
from skeletons.readers import read_clips
from skeletons.storage import BenchmarkWriter, read_meta, split_files
from skeletons.version import git_commit

ROOT = Path(convert_data.__file__).parent


def run(capsys, *options):
    """Run the command in this process -> the lines that it prints."""
    main([str(option) for option in options])
    return capsys.readouterr().out.splitlines()


def fail(*options):
    """Run the command in this process -> the message that it ends with."""
    with pytest.raises(SystemExit) as info:
        main([str(option) for option in options])
    return info.value.code


# --- What it prints and writes ------------------------------------------------------------------------


def test_the_summary_compares_with_the_official_split(raw, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(capsys, "--data_path", raw, "--out_folder", out) == [
        f"{out}/xsub: 24 training clips, 12 test clips, 60 classes",
        f"{out}/xview: 24 training clips, 12 test clips, 60 classes",
        "xsub: 24 of 40,091 training clips and 12 of 16,487 test clips of the official split",
        "xview: 24 of 37,646 training clips and 12 of 18,932 test clips of the official split",
    ]


def test_a_complete_data_set_is_not_commented(raw, tmp_path, capsys, monkeypatch):
    spec = convert_data.DATASETS["ntu"]
    monkeypatch.setitem(spec.official_counts, "xsub", (24, 12))
    monkeypatch.setitem(spec.official_counts, "xview", (24, 12))
    assert len(run(capsys, "--data_path", raw, "--out_folder", tmp_path / "out")) == 2


def test_pauses_are_a_class_and_do_not_count_as_official_clips(raw, tmp_path, capsys):
    out = tmp_path / "out"
    lines = run(capsys, "--data_path", raw, "--out_folder", out, "--background")
    assert re.fullmatch(r".*xsub: 3\d training clips, 1\d test clips, 61 classes", lines[0])
    assert lines[2].startswith("xsub: 24 of 40,091 training clips and 12 of 16,487 test clips")
    # What was converted can be converted again, and keeps the class.
    lines = run(capsys, "--data_path", out, "--out_folder", tmp_path / "again", "--padded")
    again, meta = (read_meta(folder / "xsub") for folder in (tmp_path / "again", out))
    assert again["classes"][-1] == "background" and again["background"] == meta["background"]
    assert meta["arguments"]["background"]
    message = fail("--data_path", out, "--out_folder", tmp_path / "twice", "--background")
    assert "has clips with the label background\nleave --background out" in message


def test_the_summary_of_exclusions_and_failures(tmp_path, capsys):
    for name in (NAME, NAME.replace("P001", "P002"), "S018C001P001R001A061.skeleton"):
        (tmp_path / name).write_bytes(skeleton_text([[(1, standing())]] * 12))
    (tmp_path / NAME.replace("P001", "P004")).write_bytes(b"")
    (tmp_path / "names.txt").write_text(f"{NAME}\n", encoding="utf-8-sig")  # as Windows writes it
    out = tmp_path / "out"
    lines = run(capsys, "--data_path", tmp_path, "--out_folder", out,
                "--ignored_sample_path", tmp_path / "names.txt")  # fmt: skip
    assert (
        lines[0]
        == f"{out}/xsub: 1 training clips, 0 test clips, 60 classes (WARNING: a split is empty)"
    )
    assert lines[-4:] == [
        "excluded, as not part of the data set or listed as missing: 2 clips",
        "WARNING, the data may be incomplete: 1 of 2 clips (50.00%) skipped, listed in "
        f"{out}/xsub/skipped.csv",
        f"  {tmp_path / NAME.replace('P001', 'P004')}: empty",
        "repair these, or download or save them again, and convert again; or leave them out",
    ]
    meta = read_meta(out / "xsub")
    assert (meta["excluded"], meta["ignored"], meta["skipped"]) == (2, 1, 1)


def test_meta_says_how_the_data_was_made(raw, tmp_path, capsys):
    (tmp_path / "none.txt").touch()
    options = ["--data_path", raw, "--out_folder", tmp_path / "out", "--bodies", "sensor-order",
               "--ignored_sample_path", tmp_path / "none.txt", "--jobs", 1]  # fmt: skip
    run(capsys, *options)
    meta = json.loads((tmp_path / "out/xsub/meta.json").read_text())
    assert meta["bodies"] == "sensor-order" and meta["version"] == git_commit()
    assert meta["arguments"] == {
        "dataset": "ntu", "data_path": [str(raw)], "ignored_sample_path": str(tmp_path / "none.txt"),
        "bodies": "sensor-order", "background": False, "padded": False, "strict": False,
    }  # fmt: skip
    run(capsys, "--data_path", tmp_path / "out", "--out_folder", tmp_path / "again", "--padded")
    again = read_meta(tmp_path / "again/xsub")
    assert again["bodies"] == "sensor-order" and again["arguments"]["padded"]


def test_dropped_bodies_are_listed(tmp_path):
    frames = [[(1, standing())] + [(2, standing(2))] * (3 <= t < 8) for t in range(40)]
    for name in (NAME, NAME.replace("P001", "P002")):
        (tmp_path / name).write_bytes(skeleton_text(frames if name == NAME else frames[:3]))
    out, _, _ = convert_to(tmp_path / "out", tmp_path)
    assert (out / "xsub/dropped.csv").read_bytes() == (out / "xview/dropped.csv").read_bytes()
    with open(out / "xsub/dropped.csv", newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row.pop("reason") == "brief"
    assert row == {"clip": Path(NAME).stem, "body_id": "2", "first_frame": "4", "last_frame": "8",
                   "frames": "5"}  # fmt: skip
    assert not load(out / "xsub", "train")[0][..., 1].any()
    assert sorted(path.name for path in out.iterdir()) == ["xsub", "xview"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems refuse such names")
def test_names_that_are_not_utf_8(tmp_path):
    """Of the folders, and of a stray file: one line in skipped.csv."""
    raw = tmp_path / os.fsdecode(b"raw\xff")
    raw.mkdir()
    (raw / NAME).write_bytes(skeleton_text([[(1, standing())]] * 12))
    (raw / os.fsdecode(b"\xe9.skeleton")).write_bytes(b"x")
    out = tmp_path / os.fsdecode(b"out\xff")
    done = subprocess.run(
        [*command(raw, out), "--strict"], capture_output=True, env=os.environ | {"PYTHONUTF8": "1"}
    )
    assert done.returncode == 1 and b"\\udce9.skeleton: the name is not of the form" in done.stderr
    done = subprocess.run(command(raw, out), capture_output=True, env=os.environ | {"PYTHONUTF8": "1"})
    assert done.returncode == 0 and b"out\\udcff/xsub: 1 training clips" in done.stdout, done.stderr
    with open(out / "xsub/skipped.csv", newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["file"].endswith(r"raw\udcff/\udce9.skeleton") and "name is not" in row["reason"]
    assert read_meta(out / "xsub")["arguments"]["data_path"] == [str(raw)]


# --- Which files are read -----------------------------------------------------------------------------

CLIP = Path(NAME).stem


@pytest.mark.parametrize("text", [
    "{0}\n", "{0}\r\n", "\ufeff{0}\n", "{0},\n", '"{0}"\n', "'{0}', 'S001C001P001R001A009'",
    "{0};1;x\n", "{0}_rgb.avi\n", "nturgb+d skeletons/{0}.skeleton\n", "C:\\data\\{0}.skeleton.npy\n",
    "{0}.SKELETON\n", "s001c002p001r001a010\n", "# missing:\n\n  {0} (1).skeleton\n", "[{0}]",
    "S001C001P001R001A009\uff0c{0}\u3001", "<li>{0}</li>\n",
    "{0} # not S001C001P001R001A008\n#S001C001P001R001A007",
], ids=range(17))  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_list_of_clips_in_any_form(text, encoding, tmp_path):
    (tmp_path / "list.txt").write_bytes(text.format(CLIP).encode(encoding))
    names, other_lines = convert_data.read_names(tmp_path / "list.txt", DATASETS["ntu"])
    assert CLIP in names and names <= {CLIP, "S001C001P001R001A009"} and not other_lines


def test_a_list_that_excludes_nothing_is_a_warning(raw, tmp_path, capsys):
    path = tmp_path / "list.txt"
    options = ["--data_path", raw, "--out_folder", tmp_path / "out", "--ignored_sample_path", path]
    path.write_text("missing clips\nS017C001P001R001A001\nS001C001\n")
    assert run(capsys, *options)[-2:] == [
        f"WARNING: lines of {path} that contain no name of a clip exclude nothing: 2, such as 'missing "
        "clips'",
        f"WARNING: no clip is excluded: none of the 1 that are listed in {path} is among the raw files",
    ]
    path.write_text("")  # to exclude none
    assert not any("WARNING" in line for line in run(capsys, *options))


@pytest.mark.parametrize("name", [
    NAME.replace("skeleton", "SKELETON"), NAME.lower(), f"{CLIP} (1).skeleton", f"{CLIP}_rgb.skeleton",
    f"{CLIP}.txt", f"{CLIP}.skeleton.txt", f"Copy of {NAME}", f"{CLIP}.Skeleton",
])  # fmt: skip
@pytest.mark.parametrize("archive", ["", "x.zip", "x.ZIP"])
def test_names_of_raw_files(name, archive, tmp_path):
    content = skeleton_text([[(1, standing())]] * 12)
    (tmp_path / "in").mkdir()
    if archive:
        with zipfile.ZipFile(tmp_path / "in" / archive, "w") as file:
            file.writestr(f"deep/{name}", content)
    else:
        (tmp_path / "in" / name).write_bytes(content)
        (clip,) = read_clips(tmp_path / "in" / name)
        assert clip.data.shape == (12, 3, 25, 2)
    out, _, failures = convert_to(tmp_path / "out", tmp_path / "in")
    assert not failures and load(out / "xsub", "train")[1:3] == ([CLIP], [9])


def test_an_archive_next_to_its_files_is_counted_once(raw, tmp_path, capsys):
    """A copy with other contents is a failure: which one is right?"""
    shutil.copytree(raw, tmp_path / "in")
    with zipfile.ZipFile(tmp_path / "in/x.zip", "w") as archive:
        for path in sorted(raw.iterdir()):
            archive.write(path)
    lines = run(capsys, "--data_path", tmp_path / "in", "--out_folder", tmp_path / "out")
    assert lines[0] == f"{tmp_path}/out/xsub: 24 training clips, 12 test clips, 60 classes"
    assert lines[-1] == "36 clips are in the input twice, with the same data: counted once"
    first = min((tmp_path / "in").glob("*.skeleton"))
    first.write_bytes(skeleton_text([[(1, standing())]] * 12))
    _, _, (failure,) = convert_to(tmp_path / "out", tmp_path / "in")
    assert failure.file.endswith(first.name) and failure.reason.startswith("other data than the ")


def test_what_is_not_read_is_named(raw, tmp_path, capsys):
    shutil.copytree(raw, tmp_path / "in")
    (tmp_path / "empty").mkdir()
    (tmp_path / "in" / f"{NAME}.gz").touch()
    (tmp_path / "in/train_data.npy").touch()
    (tmp_path / "in/S018C001P008R001A061.skeleton").touch()
    with zipfile.ZipFile(tmp_path / "in/x.zip", "w") as archive:
        archive.writestr("inner.ZIP", b"")
    options = ["--data_path", tmp_path / "in", tmp_path / "empty", "--out_folder", tmp_path / "out"]
    found = run(capsys, *options)[4:]
    remedy = "unpack archives, and convert other data alone"
    assert found == [
        f"WARNING: not read: {tmp_path}/in/x.zip/inner.ZIP; {remedy}",
        f"WARNING: no .skeleton files in {tmp_path}/in/x.zip",
        "1 files are not clips of NTU RGB+D: if they should be converted, give another --dataset",
        f"WARNING: no .skeleton files in {tmp_path}/empty",
        f"WARNING: not read: {tmp_path}/in/{NAME}.gz and 1 more; {remedy}",
        "excluded, as not part of the data set or listed as missing: 1 clips",
    ]


def test_a_benchmark_is_not_replaced_by_a_part_of_itself(raw, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(raw, tmp_path / "in")
    convert_to(out, tmp_path / "in")
    before = contents(out)
    lost = sorted((tmp_path / "in").iterdir())[3]
    lost.write_bytes(b"")
    for change in (lambda: None, lost.unlink):
        change()
        fault = f"36 clips, the new data only 35, without {lost.stem}\ngive all"
        with pytest.raises(ValueError, match=fault):
            convert_to(out, tmp_path / "in")
        assert contents(out) == before
    lost.touch()
    convert_to(out, tmp_path / "in", ignored=frozenset([lost.stem]))  # the user excludes it
    convert_to(out, raw)


def test_custom_recordings_may_become_fewer(data, tmp_path):
    """If clips.csv says so, but not if clips in it cannot be read."""
    write_custom(tmp_path / "mine", data)
    convert_to(tmp_path / "out", tmp_path / "mine")
    table = tmp_path / "mine/clips.csv"
    lines = table.read_text(encoding="utf-8-sig").splitlines()
    table.write_text("\n".join(lines[:-1]))
    _, metas, _ = convert_to(tmp_path / "out", tmp_path / "mine")
    assert sum(metas["custom"]["clips"].values()) == 35
    (tmp_path / "mine" / lines[1].split(",")[0]).with_suffix(".npy").unlink()
    with pytest.raises(ValueError, match="has 35 clips, the new data only 34, without "):
        convert_to(tmp_path / "out", tmp_path / "mine")


# --- Errors -------------------------------------------------------------------------------------------


def test_errors_have_a_fault_and_a_remedy(raw, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_bytes("S001\n".encode("utf-16"))
    (tmp_path / "latin.txt").write_bytes(b"\xe4\n")
    (tmp_path / "empty").mkdir()
    for options, first, second in (
        ([], "nturgb+d_skeletons does not exist", "give as --data_path a folder of raw .skel"),
        (["--dataset", "nw-ucla"], "all_sqe does not exist", "give as --data_path"),
        (["--data_path", "empty"], "no .skeleton files in empty", "give as --data_path"),
        (["--data_path", raw, "--ignored_sample_path", "gone.txt"],
         "--ignored_sample_path gone.txt does not exist", "give a text file of names"),
        (["--data_path", raw, "--ignored_sample_path", "empty"],
         "--ignored_sample_path empty is a folder", "give a text file of names"),
        (["--data_path", raw, "--ignored_sample_path", "list.txt"],
         "list.txt contains no name of a clip of NTU RGB+D, but 'S001'", "give names like S001C001P"),
        (["--data_path", raw, "--ignored_sample_path", "latin.txt"],
         "latin.txt contains no name of a clip of NTU RGB+D, but 'ä'", "give names like"),
    ):  # fmt: skip
        message = fail(*options)
        lines = message.splitlines()
        assert lines[0].startswith(f"convert_data.py: {first}") and len(lines) == 2, message
        assert lines[1].startswith(second), message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "latin.txt", "list.txt"]


def test_options_that_are_wrong(capsys):
    assert fail("--dataset", "ntu60") == 2
    assert fail("--bodies", "first") == 2
    assert "'track'" in capsys.readouterr().err
    for jobs in ("0", "-3", "2.5"):
        assert fail("--jobs", jobs) == 2
        assert f"argument --jobs: {jobs} is not a whole number from 1" in capsys.readouterr().err


def test_a_full_memory_is_reported_as_such(raw, tmp_path, monkeypatch):
    def full(*_):
        raise MemoryError

    monkeypatch.setattr(BenchmarkWriter, "add", full)
    message = fail("--data_path", raw, "--out_folder", tmp_path / "out")
    assert message == "convert_data.py: the memory is full; earlier data is unchanged\ntry --jobs 1"
    assert not contents(tmp_path / "out")


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_a_full_disk_gives_a_clear_error(raw, tmp_path, capsys):
    import resource

    out = tmp_path / "out"
    run(capsys, "--data_path", raw, "--out_folder", out)
    before = contents(out)
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        message = fail("--data_path", raw, "--out_folder", out)
        (tmp_path / "message").write_text(message)
        os._exit(0)
    os.waitpid(child, 0)
    assert contents(out) == before  # nothing that fills the disk remains
    assert (tmp_path / "message").read_text() == (
        f"convert_data.py: no space left for {out} (File too large)\n"
        "free some, or give another --out_folder; earlier data is unchanged"
    )


# --- The command with its worker processes ------------------------------------------------------------


@pytest.fixture
def many(raw, tmp_path):
    """A folder of 1,080 raw files, enough for several processes."""
    (tmp_path / "raw").mkdir()
    for i, path in enumerate(sorted(raw.iterdir()) * 30):
        os.link(path, tmp_path / "raw" / f"S001C001P{i // 60 + 1:03}R001A{i % 60 + 1:03}.skeleton")
    return tmp_path / "raw"


def command(folder, out):
    return [sys.executable, ROOT / "convert_data.py", "--data_path", folder, "--out_folder", out,
            "--jobs", "2"]  # fmt: skip


def test_the_command(raw, data, tmp_path):
    done = subprocess.run(command(raw, "out"), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "out/xsub: 24 training clips" in done.stdout, done.stderr
    for split in ("train", "val"):
        for file in ("data.npy", "label.pkl", "num_frame.npy"):
            path = f"xsub/{split}_{file}"
            assert (tmp_path / "out" / path).read_bytes() == (data / path).read_bytes()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("killed", ["parent", "worker", "Ctrl-C"])
def test_no_process_stays_behind(killed, many, tmp_path):
    child = subprocess.Popen(
        command(many, tmp_path / "out"), stderr=subprocess.PIPE, text=True, start_new_session=True,
        # (a background job ignores Ctrl-C, and what it starts does too)
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    children = Path(f"/proc/{child.pid}/task/{child.pid}/children")
    while len(workers := children.read_text().split()) < 2:
        time.sleep(0.005)
    time.sleep(0.03)
    if killed == "Ctrl-C":
        os.killpg(child.pid, signal.SIGINT)
    else:
        os.kill(child.pid if killed == "parent" else int(workers[0]), signal.SIGKILL)
    message = child.communicate(timeout=30)[1]
    expected = {"parent": "", "worker": "a process was killed", "Ctrl-C": "stopped; earlier data"}
    assert expected[killed] in message and "Traceback" not in message
    deadline = time.time() + 10
    while any(Path(f"/proc/{pid}/cmdline").exists() for pid in workers):
        assert time.time() < deadline
        time.sleep(0.05)


def test_one_class_is_nothing_to_learn(data, tmp_path, capsys):
    """And a training split without clips says where to look."""
    write_custom(tmp_path / "mine", data)
    table = tmp_path / "mine/clips.csv"
    lines = table.read_text(encoding="utf-8-sig").splitlines()
    table.write_text("\n".join([lines[0], *(re.sub(r",\d+,", ",walk,", line) for line in lines[1:])]))
    printed = run(capsys, "--data_path", tmp_path / "mine", "--out_folder", tmp_path / "out")
    assert any("training clips of custom have the same label: nothing to learn" in x for x in printed)
    table.write_text("\n".join(line.replace(",train,", ",val,") for line in lines))
    run(capsys, "--data_path", tmp_path / "mine", "--out_folder", tmp_path / "out")
    with pytest.raises(ValueError, match=r"train_data.npy contains no clips\nput .* column split"):
        Feeder(*split_files(tmp_path / "out/custom", "train"))


def test_an_array_without_frames(data, tmp_path):
    write_custom(tmp_path / "mine", data)
    path = min((tmp_path / "mine").glob("*.npy"))
    np.save(path, np.zeros((0, 25, 3)))
    _, _, (failure,) = convert_to(tmp_path / "out", tmp_path / "mine")
    assert (failure.file, failure.reason) == (str(path), "no frames")
