"""The command convert_data.py: messages, tables, meta.json, and that no process stays behind."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import NAME, contents, convert_to, load, skeleton_text, standing

import convert_data
from convert_data import main
from skeletons.storage import BenchmarkWriter, read_meta
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
    assert lines[-3:] == [
        "excluded, as not part of the data set or listed as missing: 2 clips",
        "WARNING, the data may be incomplete: 1 of 2 clips (50.00%) skipped, listed in "
        f"{out}/xsub/skipped.csv",
        f"  {tmp_path / NAME.replace('P001', 'P004')}: empty",
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
        "bodies": "sensor-order", "padded": False, "strict": False,
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
    (raw / os.fsdecode(b"\xe9.skeleton")).write_bytes(b"")
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


# --- Errors -------------------------------------------------------------------------------------------


def test_errors_have_a_fault_and_a_remedy(raw, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_bytes("S001\n".encode("utf-16"))
    (tmp_path / "empty").mkdir()
    for options, first, second in (
        ([], "nturgb+d_skeletons does not exist", "give as --data_path a folder of raw .skel"),
        (["--dataset", "nw-ucla"], "all_sqe does not exist", "give as --data_path"),
        (["--data_path", "empty"], "no .skeleton files in empty", "give as --data_path"),
        (["--data_path", raw, "--ignored_sample_path", "gone.txt"],
         "--ignored_sample_path gone.txt does not exist", "give a text file of names"),
        (["--data_path", raw, "--ignored_sample_path", "list.txt"],
         "list.txt is not a text file in UTF-8: ", "save it as one"),
    ):  # fmt: skip
        message = fail(*options)
        lines = message.splitlines()
        assert lines[0].startswith(f"convert_data.py: {first}") and len(lines) == 2, message
        assert lines[1].startswith(second), message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "list.txt"]


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
