"""Decoding with PyAV, files of poses, drawing: exact on videos that the tests write."""

import os
import sys
import tracemalloc
from fractions import Fraction

import numpy as np
import PIL.Image
import pytest
from video_helpers import LAYOUT, FakeEstimator, fake_poses

import overlay
from skeletons import video
from skeletons.clip import InvalidClip
from skeletons.video import MAX_SIDE, PoseWriter, expected_frames, read_video, read_video_clip


def test_without_the_package(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match=r"package av, which is missing\n.*-r requirements-video.txt"):
        next(read_video(tmp_path / "a.mp4"))


# --- Files of poses -----------------------------------------------------------------------------------


def test_poses_are_written_frame_by_frame(tmp_path):
    path = tmp_path / "a" / "poses.npy"
    with PoseWriter(path) as writer:
        for i in range(25):
            writer.add(fake_poses(i, found=i % 3 > 0))
            assert not path.exists()
    expected = np.stack([fake_poses(i, found=i % 3 > 0).scored for i in range(25)])
    np.testing.assert_array_equal(np.load(path), expected)
    assert (writer.frames, writer.frames_with_body) == (25, 16)
    assert len(list(path.parent.iterdir())) == 1


def test_the_header_of_a_long_video_is_as_long_as_that_of_a_short_one(tmp_path):
    """So it can be written again at the end."""
    writer = PoseWriter(tmp_path / "a.npy")
    with writer:
        writer.add(fake_poses(0))
        end = writer.file.tell()
        writer.file.seek(0)
        writer.frames = 10**9
        writer._write_header()
        assert writer.file.tell() == end - fake_poses(0).scored.nbytes
        writer.frames = 1
    assert np.load(writer.path).shape == (1, 2, 33, 4)


def test_an_interrupted_file_is_removed(tmp_path):
    with pytest.raises(KeyboardInterrupt), PoseWriter(tmp_path / "a.npy") as writer:
        writer.add(fake_poses(0))
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_memory_does_not_grow_with_a_video(tmp_path, monkeypatch):
    def endless(path, max_fps):
        image = np.full((48, 64, 3), 200, np.uint8)
        for i in range(int(path.name)):
            yield video.VideoFrame(image, i / 30)

    monkeypatch.setattr(video, "read_video", endless)
    monkeypatch.setattr(video, "expected_frames", lambda *_: None)
    peaks = []
    for frames in (100, 500):
        (tmp_path / str(frames)).touch()
        tracemalloc.start()
        poses = tmp_path / f"{frames}.npy"
        info, _ = video.cached_poses(tmp_path / str(frames), poses, FakeEstimator(), 30)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert info["frames"] == frames and info["fps"] == pytest.approx(30)
    assert peaks[1] - peaks[0] < 400 * fake_poses(0).scored.nbytes / 4


# --- Drawing ------------------------------------------------------------------------------------------


def test_bones_are_drawn_where_joints_are_found():
    """In the colour of the part; a joint that is missing has none."""
    image = np.full((480, 640, 3), 90, np.uint8)
    poses = fake_poses(0, hidden=[LAYOUT.joint("left wrist")])
    poses.positions[0] = np.random.default_rng(0).uniform(0.1, 0.9, (33, 2))
    picture = overlay.draw(image, poses, LAYOUT)
    assert picture.shape == (480, 640, 3)

    def middle(one, other):
        ends = poses.positions[0, [LAYOUT.joint(one), LAYOUT.joint(other)]]
        x, y = (ends.mean(0) * (640, 480)).astype(int)
        return picture[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3).tolist()

    blue = [0x00, 0x72, 0xB2]  # the left arm
    assert blue in middle("left shoulder", "left elbow")
    assert blue not in middle("left elbow", "left wrist")
    np.testing.assert_array_equal(overlay.draw(image, fake_poses(0, found=False), LAYOUT), image)


def test_bars_are_as_long_as_probabilities():
    image = np.zeros((100, 200, 3), np.uint8)
    bars = [("clap", 0.75), ("wave \u4e2d", 0.25), ("none", 0.0)]
    picture = overlay.draw(image, fake_poses(0, False), LAYOUT, "title", bars)
    assert picture.shape == (480, 960 + overlay.PANEL, 3)
    orange = (picture[72, 960:] == [0xE6, 0x9F, 0x00]).all(1).sum()
    light = (picture[72 + overlay.BAR + overlay.GAP, 960:] == [0x56, 0xB4, 0xE9]).all(1).sum()
    width = overlay.PANEL - 20
    assert abs(orange - 0.75 * width) < 2 and abs(light - 0.25 * width) < 2


@pytest.mark.parametrize("name", ["a.gif", "a.mp4"])
def test_an_animation_keeps_its_pictures_and_their_times(name, tmp_path):
    if name.endswith("mp4"):
        pytest.importorskip("av")
    with overlay.AnimationWriter(tmp_path / name) as writer:
        for i, time in enumerate((5.0, 5.1, 5.3, 5.4)):
            writer.add(np.full((480, 640, 3), 60 * i, np.uint8), time)
    if name.endswith("gif"):
        with PIL.Image.open(tmp_path / name) as gif:
            assert gif.n_frames == 4 and gif.size == (320, 240)
            durations = []
            for i in range(4):
                gif.seek(i)
                durations.append(gif.info["duration"])
        assert durations == [100, 200, 100, 100]
    else:
        frames = list(read_video(tmp_path / name))
        assert [round(frame.time, 2) for frame in frames] == [0, 0.1, 0.3, 0.4]
        assert [round(frame.image.mean() / 60) for frame in frames] == [0, 1, 2, 3]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_animation_of_another_kind(tmp_path):
    with pytest.raises(ValueError, match=r"a.png cannot be drawn\n.* ends in .mp4 or .gif"):
        overlay.AnimationWriter(tmp_path / "a.png")


# --- Decoding: with PyAV ------------------------------------------------------------------------------


@pytest.fixture
def encode(tmp_path):
    """A function that writes a video: frame i is brighter than frame i - 1, and has a dark corner."""
    av = pytest.importorskip("av")

    def write(name="a.mp4", frames=12, fps=30, size=(64, 48), codec="mpeg4"):
        with av.open(str(tmp_path / name), "w") as container:
            stream = container.add_stream(codec, rate=fps, pix_fmt="yuv420p")
            stream.width, stream.height = size
            stream.codec_context.time_base = Fraction(1, fps)
            for i in range(frames):
                image = np.full((size[1], size[0], 3), 100 + 10 * (i % 12), np.uint8)
                image[: size[1] // 2, : size[0] // 2] = 0  # upper left
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())
        return tmp_path / name

    return write


COLON = pytest.param("a:b.mp4", marks=pytest.mark.skipif(os.name == "nt", reason="no such name"))


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.mov", "a.mkv", "\u4e2d a.MP4", COLON])
def test_every_frame_in_order_with_its_time(name, encode):
    frames = list(read_video(encode(name)))
    assert [round((frame.image[-8:, -8:].mean() - 100) / 10) for frame in frames] == list(range(12))
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(12) / 30, atol=0.002)
    assert frames[0].image.shape == (48, 64, 3) and frames[0].image.flags.c_contiguous


@pytest.mark.parametrize("fps, max_fps, every", [
    (30, 30, 1), (25, 30, 1), (60, 30, 2), (120, 30, 4), (50, 30, 2), (60, 0, 1), (30, 10, 3),
])  # fmt: skip
def test_frames_of_faster_videos_are_left_out(fps, max_fps, every, encode):
    path = encode(frames=24, fps=fps)
    times = [frame.time for frame in read_video(path, max_fps)]
    np.testing.assert_allclose(times, np.arange(0, 24, every) / fps, atol=0.002)
    assert abs(expected_frames(path, max_fps) - len(times)) <= 24 / every * 0.25 + 1


def test_large_pictures_are_made_smaller(encode):
    (frame,) = read_video(encode(frames=1, size=(2 * MAX_SIDE, 600)))
    assert frame.image.shape == (300, MAX_SIDE, 3)


@pytest.mark.parametrize("matrix, dark", [
    ((0, 1, -1, 0), "upper right"),  # to be turned clockwise, as of a phone that is held upright
    ((-1, 0, 0, -1), "lower right"),
    ((0, -1, 1, 0), "lower left"),
])  # fmt: skip
def test_a_video_is_upright_as_the_camera_was_held(matrix, dark, encode):
    """The rotation is in the header of the track, as 16.16 numbers a, b, u, c, d, v, x, y, w."""
    path = encode(frames=2)
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 4 + 4 + 20 + 8 + 8  # version and flags, times and IDs, layer
    numbers = np.frombuffer(bytes(content[start : start + 36]), ">i4").copy()
    assert numbers.tolist() == [1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30]
    numbers[[0, 1, 3, 4]] = np.array(matrix) << 16
    content[start : start + 36] = numbers.tobytes()
    path.write_bytes(content)
    image = next(read_video(path)).image
    height, width = image.shape[:2]
    assert (height, width) == ((48, 64) if dark == "lower right" else (64, 48))
    corners = {
        "upper left": image[:8, :8], "upper right": image[:8, -8:],
        "lower left": image[-8:, :8], "lower right": image[-8:, -8:],
    }  # fmt: skip
    assert min(corners, key=lambda name: corners[name].mean()) == dark


def test_a_corrupt_video_is_named_as_such(encode, tmp_path):
    path = encode()
    content = path.read_bytes()
    for name, changed in (("cut.mp4", content[: len(content) // 2]), ("text.mp4", b"hello" * 100),
                          ("empty.mp4", b"")):  # fmt: skip
        (tmp_path / name).write_bytes(changed)
        with pytest.raises(InvalidClip, match=r"not a (complete )?video: "):
            list(read_video(tmp_path / name))
        assert expected_frames(tmp_path / name, 30) is None
    with pytest.raises(FileNotFoundError):
        next(read_video(tmp_path / "no.mp4"))


def test_a_file_without_pictures(tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(InvalidClip, match="it contains no pictures"):
        list(read_video(tmp_path / "a.mp4"))


def test_a_video_of_one_frame_is_a_clip(encode):
    clip = read_video_clip(encode(frames=1), FakeEstimator(), 30)
    assert clip.data.shape == (1, 3, 33, 2) and clip.name == "a" and len(clip.poses) == 1
