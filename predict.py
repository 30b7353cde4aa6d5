"""Recognise clips, or a live stream of frames, with a trained network.

    python predict.py examples/hand-waving.npy --checkpoint demo-small      # a released network
    python predict.py S002C001P001R001A010.skeleton --checkpoint checkpoints/my-run/best.pt
    python predict.py NTU-RGB-D/xview --clip S002C001P001R001A010 --checkpoint ... --animate clip.gif
    python predict.py clip.skeleton --checkpoint ... --explain why.png   # important joints and frames
    python predict.py clip.mp4 --checkpoint checkpoints/my-videos/best.pt --animate clip-answer.mp4
    python predict.py --camera 0 --checkpoint checkpoints/my-videos/best.pt
    python predict.py capture.npy --live --checkpoint checkpoints/live/best.pt
    SENSOR | python predict.py --live --checkpoint checkpoints/live/best.pt

A FILE is anything that convert_data.py reads, a raw file under any name, a video, or a .npy file of one
clip, (T, V, C) or (M, T, V, C), or of several, (N, C, T, V, M); other orders of the axes are found.

--camera opens a window: the space bar begins a new clip, q quits. As videos do, it needs a network that
was trained on poses of videos or of record.py. A causal network (train.py --preset live) reads each
frame as it comes; another one reads the latest --window seconds again and again.

--live needs a causal network and prints a prediction after every frame; or, if it has a class
"background", where each action begins and ends: frame, seconds, the probability of the class among the
actions, the class. Without FILE it reads frames from the standard input: one line per frame,
V x C numbers for each body (x, y, z of the first joint, of the second, ...), with decimal points,
separated by spaces, tabs, commas or semicolons; nan or 0 for the coordinates of a joint that was not
detected. An empty line is a frame without a body. A line that is not such a frame is reported and left
out.
"""

import argparse
import contextlib
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import training.environment  # noqa: F401

import numpy as np

from explain import explain_clip
from live import Recognizer
from pretrained import ActionRecognizer, rank_classes
from segmentation import Event, Segmenter
from skeletons.background import BACKGROUND
from skeletons.clip import Clip
from skeletons.clip_stream import Failure
from skeletons.custom_arrays import ArrayFormat
from skeletons.datasets import DATASETS
from skeletons.output import check_output, error_message, make_console_safe
from skeletons.pose_estimation import PoseOptions, open_estimator
from skeletons.readers import read_clips
from skeletons.video import VIDEO_SUFFIXES, VideoClip, check_layout
from training.distributed import require_one_process

CHUNK = 256  # clips in memory at a time
TOP = 5  # classes that are printed
ANIMATION_SUFFIXES = (".gif", ".mp4")  # of pictures of a video or camera
MAX_ANIMATED = 5  # clips
MAX_EXPLAINED = 3  # clips
MAX_PREFIX_FRAMES = 400_000  # of all beginnings of a long video, for the predictions of an animation


def select_clips(
    paths: Iterable[str],
    wanted: Sequence[str] | None,
    recognizer: ActionRecognizer,
    failures: list[Failure],
    poses: PoseOptions | None = None,
) -> Iterator[Clip]:
    """The clips of the files that are wanted, by name or number (None: all). Clips that are invalid or
    missing are added to `failures`."""
    missing = dict.fromkeys(wanted or ())
    form = ArrayFormat(recognizer.layout, recognizer.model.channels)
    # The data set whose formats are expected: the one with these classes.
    classes = [name for name in recognizer.classes if name != BACKGROUND]
    named = (name for name, spec in DATASETS.items() if spec.classes == classes)
    dataset_name = next(named, None)
    for path in paths:
        for number, clip in enumerate(read_clips(path, dataset_name, form=form, poses=poses)):
            if isinstance(clip, Failure):
                failures.append(clip)
            elif wanted is None or clip.name in wanted or str(number) in wanted:
                for found in (clip.name, str(number)):
                    missing.pop(found, None)
                try:
                    recognizer.check_layout(clip.data)
                    yield clip
                except ValueError as error:
                    failures.append(Failure(str(path), "", f"{clip.name}: {error}"))
    failures.extend(Failure(", ".join(paths), "", f"no clip called {name}") for name in missing)


def parse_frame(line: str, joints: int, channels: int) -> np.ndarray:
    """A line of numbers -> a frame (M, V, C). ValueError for any other line, and for one that is also a
    frame with commas in its numbers: whether 0,12 or 1,234 is one number or two cannot be known."""
    decimal = re.sub(r"(\d),(\d+)", r"\1.\2", line)
    thousands = re.sub(r"(?<![\d.])(\d{1,3}),(?=\d{3}(?!\d))", r"\1", line)
    for other in {decimal, thousands} - {line}:
        with contextlib.suppress(ValueError):
            read_numbers(other, joints, channels)
            break
    else:
        return read_numbers(line, joints, channels)
    raise ValueError("has decimal commas, or commas that can be taken for them: write 0.12 0.34")


def read_numbers(line: str, joints: int, channels: int) -> np.ndarray:
    """What `parse_frame` returns, whatever the commas may mean."""
    values = re.split(r"[^\S\t]*[,;\t][^\S\t]*|\s+", line.strip(" \r\n"))
    values = values if values[-1] else values[:-1]  # a separator at the end; a line without a body
    needs = f"needs {joints} x {channels} numbers for each body"
    for number, value in enumerate(values, 1):
        try:
            float(value)
        except ValueError:
            raise ValueError(f"value {number} is {value[:20]!r}, not a number; {needs}") from None
    if len(values) % (joints * channels):
        raise ValueError(f"has {len(values)} values, {needs}")
    return np.array(values, np.float32).reshape(-1, joints, channels)


def print_stream(
    recognizer: Recognizer | Segmenter,
    frames: Iterable[Any],
    fps: float = 0.0,
    read: Callable[[Any], np.ndarray] = np.asarray,
    rate: float = 0.0,
) -> int:
    """Print the most probable class after each frame, or what a Segmenter finds, at most `fps` frames
    per second (0: no limit).

    read  called with each of `frames`, gives (V, C) or (M, V, C), or raises ValueError
    rate  frames per second of the recording, for the times of events (0: as fast as they are read)
    Returns how many frames were left out, each with a message, because they are invalid.
    """
    started, count, invalid = time.perf_counter(), 0, 0
    for count, frame in enumerate(frames, 1):
        early = started + count / fps - time.perf_counter() if fps else 0
        time.sleep(max(early, 0))
        try:
            answer = recognizer(read(frame))
        except ValueError as error:
            invalid += 1
            print(f"predict.py: line {count}: {error}; left out", file=sys.stderr, flush=True)
            continue
        if isinstance(recognizer, Segmenter):
            print_events(answer.events, rate or count / (time.perf_counter() - started))
            continue
        ((name, probability),) = rank_classes(answer, recognizer.classes, 1)
        text = f"{100 * probability:5.1f} %  {name}" if recognizer.bodies else "no body so far"
        print(f"{count:6d}  {text}", flush=True)
    seconds = time.perf_counter() - started
    count -= invalid
    if isinstance(recognizer, Segmenter):
        print_events(recognizer.finish(), rate or count / seconds)
    print(f"{count} frames, {count / seconds:.0f} per second", file=sys.stderr)
    return invalid


def print_events(events: Iterable[Event], fps: float) -> None:
    """Print the beginnings and ends of actions."""
    for event in events:
        time_and_kind = f"{event.frame:6d}  {event.frame / fps:8.2f} s  {event.kind:5}"
        print(f"{time_and_kind}  {100 * event.probability:5.1f} %  {event.name}", flush=True)


def draw_explanations(recognizer: ActionRecognizer, clips: Sequence[Clip], path: str) -> None:
    """Draw which joints and frames the predictions of the clips rest on."""
    import plot

    explained = []
    for clip in clips:
        explanation = explain_clip(recognizer.model, recognizer.bodies([clip.data]))
        name, percent = recognizer.classes[explanation.label], 100 * explanation.probability
        explained.append((f"{clip.name}: {name}, {percent:.1f} %", explanation))
    plot.explanations(explained, recognizer.layout, path)
    print(path)


def print_predictions(
    recognizer: ActionRecognizer,
    clips: Iterator[Clip],
    animation: str | None,
    fps: float,
    max_fps: float,
    explanation: str | None = None,
) -> None:
    """Print the most probable classes of each clip; animate and explain the first clips.

    max_fps  with which poses in videos are estimated
    """
    first = []
    while chunk := list(islice(clips, CHUNK)):
        first = first or chunk[:MAX_ANIMATED]
        found = recognizer.classify([clip.data for clip in chunk])
        for clip, probabilities in zip(chunk, found, strict=True):
            bodies = clip.data.any((0, 1, 2)).sum()
            noun = "body" if bodies == 1 else "bodies"
            print(f"{clip.name} ({len(clip.data)} frames, {bodies} {noun})")
            for name, probability in rank_classes(probabilities, recognizer.classes, TOP):
                print(f"  {100 * probability:5.1f} %  {name}")
    if animation and first and isinstance(first[0], VideoClip):
        from overlay import animate_video

        clip = first[0]
        limit = max(1, min(40, MAX_PREFIX_FRAMES // len(clip.data)))
        prefixes = recognizer.classify_prefixes(clip.data, limit)
        animate_video(clip, *prefixes, recognizer.layout, recognizer.classes, animation, max_fps)
        print(animation)
    elif animation and first:
        import plot

        animated = [(c.name, c.data, *recognizer.classify_prefixes(c.data)) for c in first]
        plot.animate(animated, recognizer.layout, recognizer.classes, animation, fps)
        print(animation)
    if explanation and first:
        draw_explanations(recognizer, first[:MAX_EXPLAINED], explanation)


def live_recognizer(recognizer: ActionRecognizer, checkpoint: str) -> Recognizer:
    """The same network, frame by frame. ValueError, with the name of its checkpoint, if it cannot read
    frames as they arrive."""
    try:
        return Recognizer(recognizer.model, recognizer.preprocess, recognizer.classes)
    except ValueError as error:
        raise ValueError(f"{checkpoint}: {error}") from error


def watch_camera(arguments: argparse.Namespace, poses: PoseOptions) -> None:
    """Recognise what a camera shows, in a window or for --frames_out."""
    from camera import FrameByFrame, LatestFrames, Screen, watch

    recognizer, estimator = ActionRecognizer(arguments.checkpoint, "cpu"), open_estimator(poses)
    check_layout(recognizer.layout, estimator)
    if recognizer.model.causal:
        reader = FrameByFrame(live_recognizer(recognizer, arguments.checkpoint))
    else:
        reader = LatestFrames(recognizer, estimator, arguments.window)
    with Screen("predict.py", arguments.frames_out) as screen:
        count, with_body, fps = watch(
            arguments.camera, reader, estimator, recognizer.classes, screen, poses.max_fps
        )
    print(f"{count} frames, a body in {with_body} of them, {fps:.1f} frames per second")
    if arguments.frames_out:
        print(arguments.frames_out)


def predict(arguments: argparse.Namespace, failures: list[Failure]) -> None:
    """Do what the options say; what cannot be read is added to `failures`."""
    for option in ("animate", "explain", "frames_out"):
        if path := getattr(arguments, option):
            check_output(path, f"--{option} names another file")
    poses = PoseOptions.from_arguments(arguments)
    if arguments.camera:
        watch_camera(arguments, poses)
        return
    recognizer = ActionRecognizer(arguments.checkpoint, "cpu" if arguments.live else arguments.device)
    clips = select_clips(arguments.files, arguments.clip, recognizer, failures, poses)
    if not arguments.live:
        print_predictions(
            recognizer, clips, arguments.animate, arguments.fps, poses.max_fps, arguments.explain
        )
        return
    live: Recognizer | Segmenter = live_recognizer(recognizer, arguments.checkpoint)
    if BACKGROUND in live.classes:
        live = Segmenter(live)
    if not arguments.files:
        model = recognizer.model
        read = partial(parse_frame, joints=model.num_joints, channels=model.channels)
        with contextlib.suppress(AttributeError):  # (replaced by an object that is not a file)
            sys.stdin.reconfigure(encoding="utf-8-sig", errors="replace")
        if invalid := print_stream(live, sys.stdin or (), read=read):  # (None: it is closed)
            failures.append(Failure("standard input", "", f"lines left out: {invalid}"))
    for clip in clips:
        print(clip.name)
        live.reset()
        frames, rate = clip.data, arguments.fps
        if isinstance(clip, VideoClip):
            frames, rate = clip.all_frames(), clip.fps
        print_stream(live, frames.transpose(0, 3, 2, 1), rate if arguments.fps else 0.0, rate=rate)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        prog="predict.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    # fmt: off
    add("files", nargs="*", metavar="FILE", help="recordings, in one of the formats above")
    add("--checkpoint", required=True,
        help="checkpoint of train.py, or the name of a released network (checkpoints/README.md)")
    add("--clip", nargs="+", metavar="NAME",
        help="select clips of FILE by name or by index (training clips first, then test clips)")
    add("--animate", metavar="OUT.gif",
        help="draw the clips, at most five, and the prediction after each frame; of a video (.gif or "
             ".mp4), over its pictures")
    add("--explain", metavar="OUT.png",
        help="draw which joints and frames the prediction rests on, for at most three clips")
    add("--live", action="store_true",
        help="print a prediction after every frame, or where actions begin and end")
    add("--fps", type=float, default=30.0,
        help="frames per second of --animate and --live (default: 30; always those of the video, if it "
             "is one); 0: --live as fast as possible; ignored with the standard input")
    add("--device", default="",
        help="cuda or cpu (default: the GPU if there is one); ignored with --live and --camera, which "
             "use the CPU")
    add("--camera", default="", metavar="NUMBER",
        help="recognise live what a camera shows; a video file can take its place")
    add("--window", type=float, default=3.0, metavar="SECONDS",
        help="of --camera, for a network that is not causal: as long as its training clips (default: "
             "%(default)s)")
    add("--frames_out", default="", metavar="OUT.mp4",
        help="of --camera: write what the window would show; no window is opened")
    # fmt: on
    PoseOptions.add_to(parser)
    arguments = parser.parse_args(argv)
    if fault := find_fault(arguments):
        parser.error(fault)
    return arguments


def find_fault(arguments: argparse.Namespace) -> str:
    """What is wrong with options that do not fit each other, or ""."""
    files, animation = arguments.files, arguments.animate
    if arguments.camera and (files or arguments.live or animation or arguments.explain):
        return (
            "--camera takes no FILE, --live, --animate or --explain; --frames_out writes what it shows"
        )
    if not files and not arguments.live and not arguments.camera:
        return "give a FILE, --camera 0, or --live to read frames from the standard input"
    if animation and arguments.live:
        return "--animate draws whole clips, not a stream: leave out --animate or --live"
    if arguments.explain and arguments.live:
        return "--explain reads whole clips, not a stream: leave out --explain or --live"
    if arguments.explain and not arguments.explain.lower().endswith((".png", ".pdf")):
        return f"--explain draws no {arguments.explain}: give a name that ends in .png or .pdf"
    videos = any(file.lower().endswith(VIDEO_SUFFIXES) for file in files)
    suffixes = ANIMATION_SUFFIXES if videos else (".gif",)
    if animation and not animation.lower().endswith(suffixes):
        endings = " or ".join(suffixes)
        return f"--animate draws no {animation}: give a name that ends in {endings}"
    frames_out = arguments.frames_out
    if frames_out and not arguments.camera:
        return "--frames_out writes what --camera shows: add --camera, or leave it out"
    if frames_out and not frames_out.lower().endswith(ANIMATION_SUFFIXES):
        endings = " or ".join(ANIMATION_SUFFIXES)
        return f"--frames_out writes no {frames_out}: give a name that ends in {endings}"
    if animation and videos and len(files) > 1:
        return "--animate draws one video: give it alone"
    return "" if arguments.window > 0 else "--window must be more than 0 seconds"


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    make_console_safe()
    require_one_process("predict.py")
    arguments = parse_arguments(argv)
    failures = []
    try:
        predict(arguments, failures)
    except (KeyboardInterrupt, BrokenPipeError):
        raise SystemExit(1) from None
    except (ValueError, OSError) as error:
        raise SystemExit(f"predict.py: {error_message(error)}") from None
    finally:
        for failure in failures:
            text = ": ".join(filter(None, (failure.file, failure.where, failure.reason)))
            print(f"predict.py: {text}", file=sys.stderr)
    if failures:
        if not any("\n" in failure.reason for failure in failures):  # (the others name a remedy)
            print("give recordings in one of the formats that --help lists", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
