"""record.py: what it writes, and the whole way from recorded poses to an answer."""

import csv

import numpy as np
import PIL.Image
import pytest
from helpers import convert_to
from test_camera import Shown
from video_helpers import BODY, LAYOUT, NOBODY, POSES, FakeEstimator, fake, read_fake  # noqa: F401

import plot
import predict
import record
import train
from camera import Screen
from overlay import draw
from skeletons.layout import LAYOUTS


class Nowhere(Shown):
    def __init__(self, title, frames_out):
        super().__init__()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.fixture
def video(fake, monkeypatch):  # noqa: F811
    """A video of ten frames per second, and 20 seconds. Nothing is drawn."""
    monkeypatch.setattr(record, "draw", lambda image, *_: image)
    monkeypatch.setattr(record, "Screen", Nowhere)
    (fake / "a.mp4").write_text(" ".join([str(BODY)] * 200))
    return str(fake / "a.mp4")


def run(video, *arguments):
    record.main(["--camera", video, *map(str, arguments)])


def failure(video, *arguments):
    with pytest.raises(SystemExit) as done:
        run(video, *arguments)
    return str(done.value.code)


def table(folder="my-recordings"):
    with open(f"{folder}/clips.csv", encoding="utf-8-sig", newline="") as file:
        return list(csv.reader(file))


def test_clips_are_recorded_after_a_countdown(video, capsys):
    run(video, "--label", "wave both/hands", "--clips", 4, "--seconds", 2, "--countdown", 1)
    assert table() == [
        ["name", "label", "split", "subject"],
        *(["wave-both-hands_00" + str(i), "wave both/hands", "val" if i == 4 else "train", ""]
          for i in (1, 2, 3, 4)),
    ]  # fmt: skip
    for i in range(4):  # ten frames of countdown, twenty of the clip; one at which it is complete
        clip = np.load(f"my-recordings/wave-both-hands_00{i + 1}.npy")
        start = 10 + 31 * i
        assert clip.shape == (20, 33, 4)
        found = clip[..., 3] > 0
        np.testing.assert_array_equal(clip[found][:, :3], POSES[start : start + 20][found])
    printed = capsys.readouterr().out
    assert "wave-both-hands_002: 20 frames, 10 per second, a body in 100% of them" in printed
    assert "clips.csv: 4 clips added" in printed


def test_what_the_window_would_show(video, monkeypatch):
    monkeypatch.setattr(record, "Screen", Screen)
    monkeypatch.setattr(record, "draw", draw)
    run(video, "--label", "wave", "--clips", 1, "--seconds", 0.5, "--countdown", 0.5,
        "--frames_out", "out.gif")  # fmt: skip
    with PIL.Image.open("out.gif") as gif:
        assert gif.n_frames == 11


def test_clips_are_added_to_those_in_the_folder(video):
    run(video, "--label", "wave", "--clips", 2, "--seconds", 1, "--subject", "Ann")
    run(video, "--label", "wave", "--clips", 1, "--seconds", 1, "--subject", "Bob", "--split", "val")
    assert table()[1:] == [
        ["wave_001", "wave", "train", "Ann"], ["wave_002", "wave", "val", "Ann"],
        ["wave_003", "wave", "val", "Bob"],
    ]  # fmt: skip


@pytest.mark.parametrize("content", [
    "label;name;camera;split;subject\nclap;old;1;train;Cid", "Label,Name,camera,Split,subject\r\n",
])  # fmt: skip
def test_a_table_that_the_user_has_changed(content, video, fake):  # noqa: F811
    folder = fake / "my-recordings"
    folder.mkdir()
    (folder / "clips.csv").write_text(content, newline="")
    run(video, "--label", "wave", "--clips", 1, "--seconds", 1, "--subject", "A;B")
    text = (folder / "clips.csv").read_text()
    assert text.splitlines()[-1] in ('wave;wave_001;;train;"A;B"', "wave,wave_001,,train,A;B")
    assert text.startswith(content.replace("\r\n", "\n"))


@pytest.mark.parametrize("content, fault", [
    ("name,label,split\n", "has no column subject"),
    ("name,label,fold,subject\n", "has no column split"),
    ("name,label,split,subject\n".encode("utf-16"), "is not a CSV file in UTF-8"),
])  # fmt: skip
def test_a_table_to_which_nothing_can_be_added(content, fault, video, fake):  # noqa: F811
    folder = fake / "my-recordings"
    folder.mkdir()
    content = content if isinstance(content, bytes) else content.encode()
    (folder / "clips.csv").write_bytes(content)
    message = failure(video, "--label", "wave", "--subject", "Ann")
    assert fault in message and "\n" in message
    assert (folder / "clips.csv").read_bytes() == content and FakeEstimator.calls == 0


def test_a_folder_of_other_bodies(video, fake):  # noqa: F811
    (fake / "my-recordings").mkdir()
    (fake / "my-recordings" / "layout.json").write_text('{"name": "coco17"}')
    assert "has clips of coco17, this records mediapipe33\n" in failure(video, "--label", "wave")


def test_a_video_that_ends_before(video):
    message = failure(video, "--label", "wave", "--clips", 9, "--seconds", 2, "--countdown", 1)
    assert message == (
        "record.py: 3 clips were not recorded\nrecord them later: clips are added to the folder"
    )
    assert len(table()) == 1 + 6


def test_nobody_in_a_clip_is_not_a_clip(video, fake, capsys):  # noqa: F811
    (fake / "a.mp4").write_text(" ".join([str(NOBODY)] * 45 + [str(BODY)] * 50))
    run(video, "--label", "wave", "--clips", 1, "--seconds", 2, "--countdown", 1)
    assert "wave, clip 1 of 1: nobody was found; once more" in capsys.readouterr().out
    clip = np.load("my-recordings/wave_001.npy")
    assert 0 < (clip[..., 3] > 0).any(1).sum() < 20


def test_keys(video, fake):  # noqa: F811
    """Space: the clip begins anew. q: the end, complete clips are kept."""
    recording = record.Recording(fake / "mine", "wave", "", FakeEstimator())
    screen = Shown({15: " ", 75: "q"})
    count = record.record(recording, video, ["train"] * 5, 2, 1, screen, FakeEstimator())
    assert count == 1 and len(screen.pictures) == 75
    clip = np.load("mine/wave_001.npy")  # after the key: 10 frames of countdown
    np.testing.assert_array_equal(clip[0, :10, :3], POSES[25, :10])


def test_a_camera_that_is_unplugged_costs_no_complete_clip(video, monkeypatch):
    def unplugged(source, max_fps):
        yield from list(read_fake(source))[:70]
        raise OSError("camera 0 gives no picture\nconnect it")

    monkeypatch.setattr(record, "open_frames", unplugged)
    assert failure(video, "--label", "a", "--clips", 9, "--seconds", 2, "--countdown", 1).startswith(
        "record.py: camera 0 gives no picture"
    )
    assert len(table()) == 1 + 2


@pytest.mark.parametrize("arguments", [
    ["--clips", "0"], ["--seconds", "0"], ["--seconds", "nan"], ["--countdown", "-1"], ["--label", " "],
])  # fmt: skip
def test_impossible_options(arguments, video, capsys):
    assert failure(video, "--label", "wave", *arguments) == "2"


def test_the_whole_way_from_recorded_poses_to_an_answer(video, fake, monkeypatch, capsys):  # noqa: F811
    """Two labels of different poses: a walk through POSES, and POSES of other joints' positions."""
    whole = FakeEstimator.__call__

    def other(self, frames):
        for poses in whole(self, frames):
            poses.bodies[0, :, 1] *= -1
            yield poses

    monkeypatch.setattr(plot, "curves", lambda *_: None)
    run(video, "--label", "stand", "--clips", 8, "--seconds", 1, "--countdown", 0)
    monkeypatch.setattr(FakeEstimator, "__call__", other)
    run(video, "--label", "handstand", "--clips", 8, "--seconds", 1, "--countdown", 0)
    _, metas, failures = convert_to(fake / "out", fake / "my-recordings")
    assert not failures and metas["custom"]["clips"] == {"train": 12, "val": 4}
    assert metas["custom"]["layout"] == LAYOUTS["mediapipe33"].to_dict()
    train.run_command([
        "--data", "out/custom", "--name", "run", "--hidden_size=12", "--part_hidden_size=6",
        "--window_size=16", "--spatial_window=16", "--batch_size=4",
        "--epochs=12", "--milestones", "10", "--device=cpu", "--reference_frame=camera",
        "--validation_ratio=0",
    ])  # fmt: skip
    capsys.readouterr()
    predict.main(["my-recordings/handstand_008.npy", "my-recordings/stand_008.npy",
                  "--checkpoint", "checkpoints/run/last.pt"])  # fmt: skip
    answers = [line.split()[-1] for line in capsys.readouterr().out.splitlines() if "%" in line][::2]
    assert answers == ["handstand", "stand"]
