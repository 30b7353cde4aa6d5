"""Camera, window and live recognition, without a camera or a screen; predict.py with videos."""

import re
import sys
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch
from test_model import CAUSAL, SMALL, configs
from video_helpers import (  # noqa: F401
    BODY,
    BROKEN,
    LAYOUT,
    LEGS,
    NOBODY,
    POSES,
    FakeEstimator,
    fake,
    fake_poses,
    write_video,
)

import camera
import live
import overlay
import predict
import pretrained
from camera import FrameByFrame, LatestFrames, Screen, complete, read_camera, watch
from live import Recognizer
from model import TwoStreamRNN
from pretrained import ActionRecognizer
from segmentation import Segmenter
from skeletons.background import BACKGROUND
from skeletons.custom_arrays import ArrayFormat, prepare_frames
from skeletons.layout import KINECT_V2
from skeletons.preprocess import Preprocess
from training.checkpoint import save_checkpoint

CLASSES = ["clap", "wave", "walk"]
LIVE = {"crop_resize": False, "window_size": 0, "normalization": "first-frame"}


def save_network(path, layout=LAYOUT, classes=CLASSES, **options):
    """A checkpoint with larger initial weights of a network."""
    torch.manual_seed(0)
    network, extensions = configs(**SMALL | options)
    model = TwoStreamRNN(layout, len(classes), network, extensions)
    for parameter in model.parameters():
        parameter.data *= 3
    preprocessing = LIVE if options.get("causal") else {"window_size": 16}
    save_checkpoint(path, {
        "model": model.state_dict(),
        "model_args": {"network": asdict(network), "extensions": asdict(extensions), "channels": 3},
        "layout": layout.to_dict(), "classes": classes, "config": {"data": "none"}, "epoch": 0,
        "preprocessing": Preprocess(layout, 3, **preprocessing).eval().options(),
    })  # fmt: skip
    return path


@pytest.fixture
def whole(fake):  # noqa: F811
    """A checkpoint of a network that reads whole clips, in the current folder."""
    return save_network(fake / "whole.pt")


@pytest.fixture
def causal(fake):  # noqa: F811
    return save_network(fake / "causal.pt", **CAUSAL)


@pytest.fixture
def video(fake):  # noqa: F811
    """A video: nobody in the first three of 40 frames, ten per second."""
    (fake / "a.mp4").write_text(" ".join(map(str, [NOBODY] * 3 + [BODY] * 37)))
    return fake / "a.mp4"


class Shown:
    """A screen that remembers, and on which keys are pressed: {number of the picture: key}."""

    def __init__(self, keys=()):
        self.keys, self.pictures, self.times = dict(keys), [], []

    def show(self, picture, seconds):
        self.pictures.append(picture)
        self.times.append(seconds)
        return self.keys.get(len(self.pictures), "")


class Camera:
    """What OpenCV's camera does, with `pictures` pictures until it is unplugged."""

    CAP_PROP_BUFFERSIZE = 38

    def __init__(self, pictures):
        self.left, self.released = pictures, False

    def VideoCapture(self, number):
        return self

    def isOpened(self):
        return self.left is not None

    def set(self, *_):
        pass

    def read(self):
        if not self.left:
            return False, None
        self.left -= 1
        image = np.zeros((48, 64, 3), np.uint8)
        image[..., 0] = 255  # blue
        return True, image

    def release(self):
        self.released = True


# --- Pictures -----------------------------------------------------------------------------------------


def test_a_camera_that_is_unplugged(monkeypatch):
    device = Camera(3)
    monkeypatch.setitem(sys.modules, "cv2", device)
    frames = read_camera(0)
    taken = [next(frames) for _ in range(3)]
    assert taken[0].image[0, 0].tolist() == [0, 0, 255]  # red, green, blue
    assert taken[0].time < taken[1].time < taken[2].time
    with pytest.raises(OSError, match=r"camera 0 gives no picture\nconnect it"):
        next(frames)
    assert device.released


def test_no_camera(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", Camera(None))
    with pytest.raises(OSError, match=r"camera 5 gives no picture\n.*another number or a video file"):
        next(camera.open_frames("5"))
    with pytest.raises(OSError, match=r"--camera no.mp4 is not a file\ngive the number"):
        camera.open_frames("no.mp4")


def test_without_opencv(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ValueError, match=r"needs the package opencv.*\n.*requirements-video.txt"):
        next(read_camera(0))


def test_no_screen(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(OSError, match=r"there is no screen\ngive --frames_out"):
        Screen("a")


def test_a_build_of_opencv_without_windows(monkeypatch):
    def failing(title):
        raise RuntimeError("not implemented")

    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(error=RuntimeError, namedWindow=failing))
    with pytest.raises(OSError, match=r"this build of OpenCV has none\npip install opencv-python"):
        Screen("a")


@pytest.mark.parametrize("key, visible, expected", [
    (-1, 1, ""), (ord("Q"), 1, "q"), (ord(" "), 1, " "), (-1, 0, "q"),
])  # fmt: skip
def test_keys_of_the_window(key, visible, expected, monkeypatch):
    shown = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(
        error=RuntimeError, WND_PROP_VISIBLE=4, waitKey=lambda _: key, namedWindow=lambda _: None,
        imshow=lambda title, picture: shown.append(picture), getWindowProperty=lambda *_: visible,
        destroyAllWindows=lambda: shown.append("closed"),
    ))  # fmt: skip
    with Screen("a") as screen:
        assert screen.show(np.full((4, 4, 3), [1, 2, 3], np.uint8), 0.0) == expected
    assert shown[0][0, 0].tolist() == [3, 2, 1] and shown[1] == "closed"


# --- Live recognition ---------------------------------------------------------------------------------


def test_a_causal_network_reads_what_a_conversion_would_give(causal):
    """With complete poses: after each frame, as Recognizer; with the legs never seen, as a conversion
    puts them at the nearest joints."""
    for hidden in ([], LEGS):
        reader, expected = FrameByFrame(Recognizer.load(causal)), Recognizer.load(causal)
        assert reader(fake_poses(0, found=False), 0.0) is None
        for i in range(4):  # (in the fifth frame, a joint is missing)
            poses = fake_poses(i, hidden=hidden)
            scored = poses.scored.transpose(2, 1, 0)[None]  # (1, C + 1, V, M)
            clip = prepare_frames(scored, ArrayFormat(LAYOUT, 3, True))
            np.testing.assert_allclose(reader(poses, i / 10), expected(clip[0].T), atol=1e-6)
        reader.reset()
        assert reader(fake_poses(0, found=False), 0.0) is None


def test_a_network_that_knows_pauses_reads_as_a_segmenter(fake):  # noqa: F811
    """It begins anew again and again; a joint that is missing then keeps its position."""
    checkpoint = save_network(fake / "pauses.pt", classes=[*CLASSES, BACKGROUND], **CAUSAL)
    reader, expected = FrameByFrame(Recognizer.load(checkpoint)), Segmenter.load(checkpoint)
    assert reader(fake_poses(0, found=False), 0.0) is None
    wrist = LAYOUT.joint("left wrist")
    for i in range(60):
        bodies = fake_poses(i % 4).bodies.copy()
        if i > 2:  # it is not seen any more
            bodies[0, wrist] = fake_poses(2).bodies[0, wrist]
        bodies[1] = np.nan
        found = reader(fake_poses(i % 4, hidden=[wrist] if i > 2 else []), i / 10)
        answer = expected(bodies)
        np.testing.assert_allclose(found, answer.probabilities, atol=1e-6)
        assert reader.action == answer.action


def test_a_new_person_gets_no_joints_of_the_one_who_left(fake):  # noqa: F811
    """But one who is out of sight for a moment keeps them."""
    checkpoint = save_network(fake / "pauses.pt", classes=[*CLASSES, BACKGROUND], **CAUSAL)
    reader, fresh = (FrameByFrame(Recognizer.load(checkpoint)) for _ in range(2))
    patience, count = reader.recognizer.settings.patience, 0

    def read(found, frames):
        nonlocal count
        for _ in range(frames):
            reader(fake_poses(0, found), count / 10)
            count += 1

    read(True, 15)
    read(False, patience - 1)
    assert reader.seen[0].all() and np.isfinite(reader.latest[0]).all()
    read(True, 1)
    read(False, patience)
    assert not reader.seen.any() and np.isnan(reader.latest).all()
    for i in range(100, 130):
        poses = fake_poses(i, hidden=LEGS)
        np.testing.assert_allclose(reader(poses, i / 10), fresh(poses, i / 10), atol=1e-6)


def test_complete_fills_what_was_never_seen_and_leaves_the_rest_to_the_recognizer():
    wrist, index = LAYOUT.joint("left wrist"), LAYOUT.joint("left index")
    bodies, seen = complete(fake_poses(0, hidden=[wrist, index]), None, LAYOUT)
    np.testing.assert_array_equal(bodies[0, [wrist, index]], POSES[0, [LAYOUT.joint("left elbow")] * 2])
    assert np.isnan(bodies[1]).all() and seen[0].sum() == 31 and not seen[1].any()
    bodies, seen = complete(fake_poses(1, hidden=[index]), seen, LAYOUT)
    np.testing.assert_array_equal(bodies[0, [wrist, index]], POSES[1, [wrist, wrist]])
    bodies, seen = complete(fake_poses(2, hidden=[wrist, index]), seen, LAYOUT)
    assert np.isnan(bodies[0, wrist]).all() and np.isfinite(bodies[0, index]).all()
    bodies, _ = complete(fake_poses(3, found=False), seen, LAYOUT)
    assert np.isnan(bodies).all()


def test_a_network_for_clips_reads_the_latest_seconds(whole):
    recognizer = ActionRecognizer(whole, "cpu")
    reader = LatestFrames(recognizer, FakeEstimator(), seconds=1.0)
    for i in range(30):
        found = reader(fake_poses(i, found=i >= 5), i / 10)
        assert (found is None) == (i < 5)
    # The latest prediction is that after frame 28, because there is one in 0.2 s.
    clip = np.stack([fake_poses(i).scored for i in range(19, 30)]).swapaxes(0, 1)
    np.testing.assert_allclose(found, recognizer.probabilities(clip)[0], atol=1e-5)
    for i in range(30, 50):
        found = reader(fake_poses(i, found=False), i / 10)
    assert found is None  # the body has left
    reader(fake_poses(50), 5.0)
    reader.reset()
    assert not reader.frames


@pytest.mark.parametrize("front_padding, window, count", [
    (True, 8, 8), (True, 30, 21), (True, 0, 21), (True, -1, 21), (False, 8, 21),
])  # fmt: skip
def test_a_network_that_takes_the_first_frames_is_given_the_latest(front_padding, window, count):
    clips = []
    network = SimpleNamespace(
        preprocess=SimpleNamespace(front_padding=front_padding, window_size=window),
        classify=lambda given: clips.extend(given) or [np.ones(3)],
    )
    reader = LatestFrames(network, FakeEstimator(), seconds=10.0)
    for i in range(21):
        reader(fake_poses(i), i / 4)
    assert len(clips[-1]) == count
    np.testing.assert_array_equal(clips[-1][-1, ..., 0].T, POSES[20])


def test_watching_a_video(video, causal):
    screen, reader = Shown({30: "q"}), FrameByFrame(Recognizer.load(causal))
    count, with_body, fps = watch(str(video), reader, FakeEstimator(), CLASSES, screen)
    assert (count, with_body) == (30, 27) and fps > 0 and len(screen.pictures) == 30
    assert screen.pictures[0].shape == (480, 640 + overlay.PANEL, 3)
    assert screen.times == [i / 10 for i in range(30)]


@pytest.mark.parametrize("action, text", [(True, ", action"), (False, ", pause"), (None, "")])
def test_the_title_says_whether_an_action_is_going_on(action, text, video, monkeypatch):
    """And then `background` is not one of the bars."""
    drawn, classes = [], [*CLASSES, BACKGROUND]

    def draw(image, poses, layout, title, bars):
        drawn.append((title, bars))

    class Known:
        def __call__(self, poses, seconds):
            return np.array([0.1, 0.3, 0.05, 0.55])

    monkeypatch.setattr(camera, "draw", draw)
    reader = Known()
    reader.action = action
    watch(str(video), reader, FakeEstimator(), classes, Shown())
    title, bars = drawn[-1]
    assert re.fullmatch(rf"\d+ frames per second{text}\nspace: new clip, q: quit", title)
    expected = [("wave", 0.3), ("clap", 0.1), ("walk", 0.05)]
    assert bars == expected if action is not None else bars == [(BACKGROUND, 0.55), *expected]


def test_the_space_bar_begins_a_new_clip(video, causal):
    class Counted(FrameByFrame):
        resets = 0

        def reset(self):
            self.resets += 1
            super().reset()

    reader = Counted(Recognizer.load(causal))
    watch(str(video), reader, FakeEstimator(), CLASSES, Shown({10: " ", 20: " "}))
    assert reader.resets == 1 + 2


# --- predict.py ---------------------------------------------------------------------------------------


def failure(*arguments):
    with pytest.raises(SystemExit) as done:
        predict.main([str(argument) for argument in arguments])
    return str(done.value.code)


@pytest.mark.parametrize("network", ["whole", "causal"])
def test_a_camera_as_a_command(network, video, request, capsys):
    checkpoint = request.getfixturevalue(network)
    predict.main(["--camera", str(video), "--checkpoint", str(checkpoint), "--frames_out", "out.gif"])
    assert re.match(r"40 frames, a body in 37 of them, \d+\.\d frames per second\nout.gif\n",
                    capsys.readouterr().out)  # fmt: skip
    with PIL.Image.open("out.gif") as gif:
        assert 35 < gif.n_frames <= 40  # (equal pictures are one)


@pytest.mark.parametrize("mode", ["--live", "--camera"])
def test_a_checkpoint_is_read_once(mode, video, causal, monkeypatch):
    read, load = [], pretrained.load_checkpoint
    for module in (pretrained, live):
        monkeypatch.setattr(module, "load_checkpoint", lambda path: read.append(path) or load(path))
    out = ["--frames_out", "out.gif"] if mode == "--camera" else ["--fps", "0"]
    predict.main([mode, str(video), "--checkpoint", str(causal), *out])
    assert read == [str(causal)]


@pytest.mark.parametrize("mode", ["--live", "--camera"])
def test_a_causal_network_that_needs_the_whole_clip(mode, video, causal):
    """The message names its checkpoint."""
    contents = pretrained.load_checkpoint(causal)
    contents["preprocessing"]["normalization"] = True
    save_checkpoint(causal, contents)
    text = failure(mode, video, "--checkpoint", causal)
    assert f"{causal}: normalization=True needs the whole clip\ntrain one" in text


@pytest.mark.parametrize("fps, pace", [("0", 0), ("30", 10)])
def test_a_video_as_a_stream(fps, pace, video, causal, monkeypatch, capsys):
    """All its frames count, with or without a body; its frame rate is its own."""
    video.write_text(" ".join(map(str, [NOBODY] * 3 + [BODY] * 9 + [NOBODY] * 15 + [BODY] * 5)))
    given, printed = [], predict.print_stream

    def print_stream(recognizer, frames, fps, rate):
        given.append((frames.any((1, 2, 3)).tolist(), fps, rate))
        return printed(recognizer, frames, rate=rate)

    monkeypatch.setattr(predict, "print_stream", print_stream)
    predict.main([str(video), "--live", "--fps", fps, "--checkpoint", str(causal)])
    ((shown, *rates),) = given
    assert shown == [False] * 3 + [True] * 9 + [False] * 15 + [True] * 5
    assert rates == pytest.approx([pace, 10])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:4] == [f"{i:6d}  no body so far" for i in (1, 2, 3)] and "%" in lines[4]
    assert len(lines) == 1 + 32


def test_events_in_a_video_are_at_its_times(video, fake, monkeypatch):  # noqa: F811
    checkpoint, rates = save_network(fake / "a.pt", classes=[*CLASSES, BACKGROUND], **CAUSAL), []
    monkeypatch.setattr(predict, "print_events", lambda events, fps: rates.append(fps))
    predict.main([str(video), "--live", "--fps", "0", "--checkpoint", str(checkpoint)])
    assert rates == pytest.approx([10] * (40 + 1))


def test_a_video_as_a_command(video, whole, capsys):
    predict.main([str(video), "--checkpoint", str(whole), "--animate", "answer.gif"])
    printed = capsys.readouterr().out
    assert printed.startswith("a (37 frames, 1 body)\n") and printed.count("%") == 3
    clip = np.stack([fake_poses(i).scored for i in range(3, 40)]).swapaxes(0, 1)
    recognizer = ActionRecognizer(whole, "cpu")
    best = recognizer(clip)[0]
    assert f"{100 * best.probability:5.1f} %  {best.name}\n" in printed
    with PIL.Image.open("answer.gif") as gif:
        assert 35 < gif.n_frames <= 40 and gif.size == ((640 + overlay.PANEL) // 2, 240)


def test_a_long_video_is_thinned_in_a_gif(video, whole, monkeypatch):
    monkeypatch.setattr(overlay, "MAX_GIF", 15)
    predict.main([str(video), "--checkpoint", str(whole), "--animate", "answer.gif"])
    with PIL.Image.open("answer.gif") as gif:
        assert gif.n_frames == 14


def test_videos_that_cannot_be_used(video, whole, capsys):
    write_video(video.parent / "nobody.avi", 9, NOBODY)
    (video.parent / "broken.mkv").write_text(f"200 200 {BROKEN}")
    assert failure("nobody.avi", "broken.mkv", video, "none.mp4", "--checkpoint", whole) == "1"
    printed = capsys.readouterr()
    assert printed.out.startswith("a (37 frames")
    for text in ("nobody.avi: nobody is found in any of its 9 frames",
                 "none.mp4: there is no such file",
                 "broken.mkv: after frame 2: not a complete video"):  # fmt: skip
        assert text in printed.err
    assert "broken.mkv: after frame 2" in failure("--camera", "broken.mkv", "--checkpoint", whole,
                                                  "--frames_out", "out.gif")  # fmt: skip


def test_a_network_of_other_bodies(video, fake, capsys):  # noqa: F811
    kinect = save_network(fake / "kinect.pt", KINECT_V2)
    text = "poses in videos are mediapipe33; the network was trained on kinect-v2\ntrain one on videos"
    assert text in failure("--camera", video, "--checkpoint", kinect, "--frames_out", "out.gif")
    failure(video, "--checkpoint", kinect)
    assert text in capsys.readouterr().err
    assert FakeEstimator.calls == 0


@pytest.mark.parametrize("arguments, fault", [
    (["--camera", "0", "a.npy"], "--camera takes no FILE"),
    (["--camera", "0", "--live"], "--camera takes no FILE"),
    (["--camera", "0", "--window", "0"], "--window must be more"),
    ([], "give a FILE, --camera 0"),
    (["a.npy", "--animate", "a.mp4"], "ends in .gif"),
    (["a.mp4", "--animate", "a.png"], "ends in .gif or .mp4"),
    (["a.mp4", "b.mp4", "--animate", "a.gif"], "one video"),
    (["a.mp4", "--frames_out", "a.gif"], "--frames_out writes what --camera shows: add --camera"),
    (["--live", "--frames_out", "a.gif"], "--frames_out writes what --camera shows: add --camera"),
    (["--camera", "0", "--frames_out", "a.png"], "no a.png: give a name that ends in .gif or .mp4"),
])  # fmt: skip
def test_options_that_do_not_fit(arguments, fault, capsys):
    assert failure(*arguments, "--checkpoint", "x") == "2"
    assert fault in capsys.readouterr().err
