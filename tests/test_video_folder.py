"""Folders of videos: their table, their poses, the cache, and all that can be wrong with them."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from helpers import contents, convert_to, load
from video_helpers import BROKEN, LAYOUT, LEGS, NOBODY, POSES, FakeEstimator, fake, write_video  # noqa: F401

import convert_data
from skeletons import readers, video_folder
from skeletons.pose_estimation import PoseOptions
from skeletons.readers import open_input, read_clips
from skeletons.video import VideoClip
from skeletons.video_folder import default_splits


@pytest.fixture
def videos(fake):  # noqa: F811
    """my-videos: five of walking, three of waving, without a clips.csv."""
    folder = fake / "my-videos"
    for i in range(5):
        write_video(folder / f"walk/{i}.mp4", 20 + i)
    for suffix in ("MP4", "avi", "webm"):
        write_video(folder / f"wave/clip.{suffix}", 30)
    return folder


def table_of(folder):
    with open(folder / "clips.csv", encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def write_table(folder, *rows, columns="name,label,split"):
    (folder / "clips.csv").write_text("\n".join((columns, *rows)))


def test_folders_are_labels_and_the_last_quarter_is_the_test(videos):
    stream = open_input([videos])
    rows = {row["name"]: (row["label"], row["split"]) for row in table_of(videos)}
    assert rows == {
        **{f"walk/{i}.mp4": ("walk", "train") for i in range(4)}, "walk/4.mp4": ("walk", "val"),
        "wave/clip.MP4": ("wave", "train"), "wave/clip.avi": ("wave", "train"),
        "wave/clip.webm": ("wave", "val"),
    }  # fmt: skip
    notes = "\n".join(stream.notes)
    assert "had no clips.csv" in notes and "columns split and subject" in notes
    done = "poses are in my-videos-poses: 8 videos (8 estimated now), 200 frames, a body in 100.0%"
    assert done in notes


def test_the_poses_are_converted_as_custom_recordings(videos, tmp_path):
    out, metas, failures = convert_to(tmp_path / "out", videos)
    assert not failures and metas["custom"]["layout"] == LAYOUT.to_dict()
    assert metas["custom"]["dataset"] == "my-videos"
    assert metas["custom"]["classes"] == ["walk", "wave"]
    data, names, labels, counts = load(out / "custom", "val")
    assert names == ["walk/4.mp4", "wave/clip.webm"]
    assert labels == [0, 1] and counts.tolist() == [24, 30]
    expected = POSES[:24].copy()
    expected[4::5, 15] = (POSES[3:23:5, 15] + POSES[5:25:5, 15]) / 2  # joint that is missing
    np.testing.assert_allclose(data[:24, :, :, 0].transpose(0, 2, 1), expected, atol=1e-6)
    assert not data[..., 1].any()


def test_nothing_is_estimated_twice(videos, tmp_path):
    convert_to(tmp_path / "out", videos)
    assert FakeEstimator.calls == 8
    first = contents(tmp_path / "out")
    _, _, failures = convert_to(tmp_path / "out", videos)
    assert FakeEstimator.calls == 8 and not failures
    assert contents(tmp_path / "out") == first


@pytest.mark.parametrize("change", ["content", "time", "poses", "about"])
def test_a_changed_video_is_estimated_again_alone(change, videos):
    open_input([videos])
    video, poses = videos / "walk/0.mp4", videos.with_name("my-videos-poses") / "walk/0.mp4.npy"
    if change == "content":
        write_video(video, 7)
    elif change == "time":
        os.utime(video, ns=(10**9, 10**9))
    elif change == "poses":
        poses.unlink()
    else:
        poses.with_suffix(".json").write_text("{")
    open_input([videos])
    assert FakeEstimator.calls == 9
    assert np.load(poses).shape == (7 if change == "content" else 20, 2, 33, 4)


def test_other_options_are_other_poses(videos):
    open_input([videos])
    for options, calls in ((["--min_confidence", "0.7"], 16), (["--max_fps", "15"], 24)):
        convert_data.main(["--data_path", str(videos), "--out_folder", "out", *options])
        assert FakeEstimator.calls == calls


def test_a_video_that_cannot_be_read_costs_itself_only(videos, tmp_path):
    write_video(videos / "walk/1.mp4", 20, NOBODY)
    (videos / "walk/2.mp4").write_text(f"200 200 {BROKEN} 200")
    (videos / "walk/3.mp4").write_text("")
    (videos / "clips.csv").unlink(missing_ok=True)
    open_input([videos])
    (videos / "wave/clip.avi").unlink()
    out, metas, failures = convert_to(tmp_path / "out", videos)
    reasons = {Path(failure.file).name: failure.reason for failure in failures}
    assert reasons == {
        "1.mp4": "nobody is found in any of its 20 frames",
        "2.mp4": "not a complete video: fake",
        "3.mp4": "a video without pictures",
        "clip.avi": "there is no such video",
    }
    assert [failure.where for failure in failures if "2.mp4" in failure.file] == ["after frame 2"]
    assert metas["custom"]["clips"] == {"train": 2, "val": 2} and metas["custom"]["skipped"] == 4
    assert "fake" in (out / "custom" / "skipped.csv").read_text()
    assert not list(tmp_path.rglob("*.partial")) and not list(tmp_path.rglob("2.mp4.*"))


def test_a_stop_keeps_the_poses_so_far(videos, monkeypatch):
    whole = FakeEstimator.__call__

    def stopped(self, frames):
        poses = whole(self, frames)
        yield next(poses)
        if FakeEstimator.calls == 3:
            raise KeyboardInterrupt
        yield from poses

    monkeypatch.setattr(FakeEstimator, "__call__", stopped)
    with pytest.raises(SystemExit) as done:
        convert_data.main(["--data_path", str(videos)])
    assert "stopped" in str(done.value)
    poses = videos.with_name("my-videos-poses")
    assert sorted(path.name for path in poses.glob("*/*")) == [
        "0.mp4.json", "0.mp4.npy", "1.mp4.json", "1.mp4.npy"
    ]  # fmt: skip
    monkeypatch.setattr(FakeEstimator, "__call__", whole)
    open_input([videos])
    assert FakeEstimator.calls == 3 + 6


def test_an_error_of_one_video_that_nobody_expects(videos, tmp_path, monkeypatch):
    whole = FakeEstimator.__call__

    def failing(self, frames):
        yield from whole(self, frames)
        if FakeEstimator.calls == 2:
            raise RuntimeError("odd")

    monkeypatch.setattr(FakeEstimator, "__call__", failing)
    _, metas, failures = convert_to(tmp_path / "out", videos)
    assert [failure.reason for failure in failures] == ["unexpected RuntimeError: odd"]
    assert failures[0].file.endswith("1.mp4") and sum(metas["custom"]["clips"].values()) == 7


def test_legs_that_the_camera_never_sees(videos, tmp_path, monkeypatch):
    """As at a desk: they are put at the nearest joint that is seen, which is no reason to fail."""
    estimator = FakeEstimator(hidden=LEGS)
    monkeypatch.setattr(video_folder, "open_estimator", lambda options: estimator)
    out, _, failures = convert_to(tmp_path / "out", videos)
    assert not failures
    data, *_ = load(out / "custom", "val")
    np.testing.assert_array_equal(data[:, :, LAYOUT.joint("left foot index")],
                                  data[:, :, LAYOUT.joint("left shoulder")])  # fmt: skip


@pytest.mark.parametrize("rows", [
    ["walk/0.mp4,a,train", "walk/1.mp4,b,train", "wave/clip.avi,a,val"],
    ["walk/0,a,train", "./walk/1,b,train", "wave\\clip.avi,a,val"],
])  # fmt: skip
def test_a_table_names_videos_with_or_without_suffix(rows, videos, tmp_path):
    write_table(videos, *rows)
    out, metas, failures = convert_to(tmp_path / "out", videos / "clips.csv")
    assert not failures and metas["custom"]["clips"] == {"train": 2, "val": 1}
    assert load(out / "custom", "train")[1] == ["walk/0.mp4", "walk/1.mp4"]


def test_a_missing_video_is_reported_once(videos, tmp_path):
    write_table(videos, "walk/0,a,train", "walk/1,a,val", "wave\\gone.avi,a,val")
    failures = convert_to(tmp_path / "out", videos)[2]
    assert [failure.reason for failure in failures] == ["there is no such video"]


def test_videos_that_the_table_does_not_list(videos):
    write_table(videos, "walk/0,a,train", "walk/1,a,val")
    assert "WARNING: 6 videos are not in" in "\n".join(open_input([videos]).notes)


def test_folds_of_videos(videos, tmp_path):
    write_table(videos, "walk/0,a,1", "walk/1,a,2", columns="name,label,fold")
    assert set(convert_to(tmp_path / "out", videos)[1]) == {"fold1", "fold2"}


@pytest.mark.parametrize("rows, fault, remedy", [
    (["wave/clip,a,train", "walk/0,a,val"], "line 2: wave/clip can be .*MP4 or .*avi or", "its suffix"),
    (["walk/0,a,train", "walk/0.mp4,a,val"], "line 3: walk/0.mp4 is listed twice", "remove one"),
    (["walk/0,a,train", "pose,a,val"], "videos .line 2: walk/0. and arrays .line 3: pose.", "folders"),
    (["walk/0,a,train", "walk/1,b,val"], "no training clip has the label b", "spelling"),
    (["gone.mp4,a,train", "walk/9.mp4,a,val", "walk/2,,train"], "walk/2.mp4 has no label", "add"),
])  # fmt: skip
def test_faults_of_a_table(rows, fault, remedy, videos):
    np.save(videos / "pose.npy", np.ones((5, 33, 3)))
    write_table(videos, *rows)
    with pytest.raises(ValueError, match=rf"{fault}.*\n.*{remedy}"):
        open_input([videos])


def test_videos_without_a_label(videos):
    for name, fault in (("loose.mp4", "in no folder"), ("a/b/deep.mkv", "in several folders")):
        video = write_video(videos / name)
        with pytest.raises(ValueError, match=rf"{name} is {fault}.*\n.*clips.csv: name,label,split"):
            open_input([videos])
        video.unlink()
    assert not (videos / "clips.csv").exists()
    with pytest.raises(ValueError, match=r"0.mp4 is a video\ngive one folder of videos"):
        open_input([videos / "walk/0.mp4"])


def test_no_video_can_be_used(videos):
    for path in videos.glob("*/*"):
        write_video(path, 3, NOBODY)
    with pytest.raises(ValueError, match=r"none of the 8 videos can be used\nfor example .*nobody"):
        open_input([videos])


def test_videos_next_to_raw_files_are_left_alone(raw, fake):  # noqa: F811
    folder = fake / "raw"
    folder.mkdir()
    file = min(raw.iterdir())
    (folder / file.name).write_bytes(file.read_bytes())
    write_video(folder / f"{file.stem}_rgb.avi")
    stream = open_input([folder])
    assert stream.title == "NTU RGB+D" and not stream.notes
    assert [clip.name for clip in read_clips(folder)] == [file.stem]
    assert FakeEstimator.calls == 0


def test_recognition_of_a_folder_needs_no_labels_and_writes_nothing(videos, monkeypatch):
    """The options of poses count; a video that cannot be read is a failure, the others are read."""
    given = []
    monkeypatch.setattr(
        readers, "open_estimator", lambda options: given.append(options) or FakeEstimator()
    )
    write_video(videos / "loose.mp4", 9)
    write_video(videos / "walk/1.mp4", 20, NOBODY)
    files, poses = sorted(videos.rglob("*")), PoseOptions(min_confidence=0.7)
    *found, failure = sorted(read_clips(videos, poses=poses), key=lambda clip: hasattr(clip, "reason"))
    assert [len(clip.data) for clip in found] == [9, 20, 22, 23, 24, 30, 30, 30]
    assert all(isinstance(clip, VideoClip) for clip in found) and given == [poses] * 9
    assert failure.file.endswith("1.mp4") and failure.reason.startswith("nobody is found")
    assert sorted(videos.rglob("*")) == files and list(videos.parent.iterdir()) == [videos]


def test_recognition_of_a_folder_with_a_table(videos, monkeypatch):
    given = []
    monkeypatch.setattr(
        video_folder, "open_estimator", lambda options: given.append(options) or FakeEstimator()
    )
    write_table(videos, "walk/0,a,train", "walk/1,b,train", "walk/2,a,val")
    clips = list(read_clips(videos, poses=PoseOptions(max_fps=15)))
    assert [clip.name for clip in clips] == ["walk/0.mp4", "walk/1.mp4", "walk/2.mp4"]
    assert given == [PoseOptions(max_fps=15)]


@pytest.mark.parametrize("count", range(1, 40))
def test_default_splits(count):
    splits = default_splits(count)
    assert len(splits) == count and splits == sorted(splits)  # train before val
    assert splits.count("val") == (0 if count == 1 else max(1, round(count / 4)))
    assert "train" in splits


def test_the_layout_file_says_what_the_numbers_are(videos):
    open_input([videos])
    about = json.loads((videos.with_name("my-videos-poses") / "layout.json").read_text())
    assert about == {"name": "mediapipe33", "channels": ["x", "y", "z", "score"]}


def test_a_file_in_the_place_of_the_poses(videos):
    videos.with_name("my-videos-poses").write_text("")
    with pytest.raises(OSError, match=r"my-videos-poses.* cannot be written: .*\nrun this in another"):
        open_input([videos])
