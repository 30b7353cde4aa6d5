"""Recognise clips, or a live stream of frames, with a trained network.

    python predict.py S002C001P001R001A010.skeleton --checkpoint checkpoints/my-run/best.pt
    python predict.py NTU-RGB-D/xview --clip S002C001P001R001A010 --checkpoint ... --animate clip.gif
    python predict.py capture.npy --live --checkpoint checkpoints/live/best.pt
    SENSOR | python predict.py --live --checkpoint checkpoints/live/best.pt

A FILE is anything that convert_data.py reads, a raw file under any name, or a .npy file of one clip,
(T, V, C) or (M, T, V, C), or of several, (N, C, T, V, M). --live needs a causal network (train.py
--preset live) and prints a prediction after every frame. Without FILE it reads frames from the standard
input: one line per frame, V x C numbers for each body (x, y, z of the first joint, of the second, ...);
an empty line is a frame without a body.
"""

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from live import Recognizer
from skeletons.batch import Tracks
from skeletons.clip import Clip
from skeletons.clip_stream import Failure
from skeletons.datasets import DATASETS
from skeletons.layout import Layout
from skeletons.preprocess import Preprocess
from skeletons.readers import read_clips
from training import engine
from training.checkpoint import build_model, load_checkpoint

CHUNK = 256  # clips in memory at a time
BATCH_SIZE = 64  # clips
MAX_ANIMATED = 5  # clips


class Predictor:
    """The network of a checkpoint, with its preprocessing. Called with clips, it gives probabilities.

    classes  names of the classes
    layout   of the bodies that it reads
    """

    def __init__(self, checkpoint: str | Path, device: str = "") -> None:
        contents = load_checkpoint(checkpoint)
        self.classes = contents["classes"]
        self.layout = Layout.from_dict(contents["layout"])
        self.device = engine.resolve_device(device)
        self.model = build_model(contents).to(self.device).eval()
        options = contents["preprocessing"]
        self.preprocess = Preprocess(self.layout, self.model.channels, **options).eval()

    def dataset_name(self) -> str:
        """The data set whose formats are expected: the one with these classes."""
        names = (name for name, dataset in DATASETS.items() if dataset.classes == self.classes)
        return next(names, "ntu")

    def check(self, clip: Clip) -> None:
        """ValueError for a clip of other bodies than the network reads."""
        expected = (self.model.channels, self.model.num_joints)
        if clip.data.shape[1:3] != expected:
            channels, joints = clip.data.shape[1:3]
            raise ValueError(
                f"{joints} joints with {channels} coordinates each; the network was trained on "
                f"{self.layout.name}, {expected[1]} joints with {expected[0]}"
            )

    def __call__(self, clips: Sequence[Clip]) -> np.ndarray:
        """Clips (T, C, V, M) -> class probabilities of the fusion (N, classes), as in test.py."""
        batches = [clips[i : i + BATCH_SIZE] for i in range(0, len(clips), BATCH_SIZE)]
        none = np.zeros((0, len(self.classes)), np.float32)
        return np.concatenate([none, *map(self._predict_batch, batches)])

    @torch.no_grad()
    def _predict_batch(self, clips: Sequence[Clip]) -> np.ndarray:
        num_frame = torch.tensor([len(clip.data) for clip in clips])
        slots = max(clip.data.shape[3] for clip in clips)
        absent = [((0, 0),) * 3 + ((0, slots - clip.data.shape[3]),) for clip in clips]
        frames = [np.pad(clip.data, pad) for clip, pad in zip(clips, absent, strict=True)]
        tracks = Tracks.from_frames(
            torch.from_numpy(np.concatenate(frames)), num_frame, self.preprocess.bones
        )
        bodies = self.preprocess(tracks.to(self.device), num_frame)
        return self.model.posterior(self.model(bodies)).cpu().numpy()

    def predict_prefixes(self, clip: Clip, limit: int = 40) -> tuple[np.ndarray, np.ndarray]:
        """Class probabilities of the beginnings of a clip, after each frame or after `limit` of them
        -> (frames shown (K,), probabilities (K, classes))."""
        lengths = np.unique(np.linspace(1, len(clip.data), limit).astype(int))
        return lengths, self([Clip(clip.name, 0, clip.data[:length]) for length in lengths])


def select_clips(
    paths: Iterable[str], wanted: Sequence[str] | None, predictor: Predictor, failures: list[Failure]
) -> Iterator[Clip]:
    """The clips of the files that are wanted, by name or number (None: all). Clips that are invalid or
    missing are added to `failures`."""
    missing = dict.fromkeys(wanted or ())
    for path in paths:
        for number, clip in enumerate(read_clips(path, predictor.dataset_name())):
            if isinstance(clip, Failure):
                failures.append(clip)
            elif wanted is None or clip.name in wanted or str(number) in wanted:
                for found in (clip.name, str(number)):
                    missing.pop(found, None)
                try:
                    predictor.check(clip)
                    yield clip
                except ValueError as error:
                    failures.append(Failure(str(path), "", f"{clip.name}: {error}"))
    failures.extend(Failure(", ".join(paths), "", f"no clip called {name}") for name in missing)


def most_probable(
    probabilities: np.ndarray, classes: Sequence[str], count: int = 5
) -> list[tuple[str, float]]:
    """The most probable classes -> [(name, probability)]."""
    order = np.argsort(-probabilities, kind="stable")[:count]
    return [(classes[i], float(probabilities[i])) for i in order]


def parse_frames(lines: Iterable[str], joints: int, channels: int) -> Iterator[np.ndarray]:
    """Lines of numbers -> frames (M, V, C). ValueError with the number of a line that is not one."""
    for number, line in enumerate(lines, 1):
        try:
            values = np.array(line.replace(",", " ").split(), np.float32)
            yield values.reshape(-1, joints, channels)
        except ValueError:
            raise ValueError(
                f"line {number}: needs {joints} x {channels} numbers for each body"
            ) from None


def print_stream(recognizer: Recognizer, frames: Iterable[np.ndarray], fps: float = 0.0) -> None:
    """Print the most probable class after each frame, at most `fps` frames per second (0: no limit)."""
    started, count = time.perf_counter(), 0
    for count, frame in enumerate(frames, 1):
        early = started + count / fps - time.perf_counter() if fps else 0
        time.sleep(max(early, 0))
        ((name, probability),) = most_probable(recognizer(frame), recognizer.classes, 1)
        text = f"{100 * probability:5.1f} %  {name}" if recognizer.bodies else "no body so far"
        print(f"{count:6d}  {text}", flush=True)
    seconds = time.perf_counter() - started
    print(f"{count} frames, {count / seconds:.0f} per second", file=sys.stderr)


def print_predictions(
    predictor: Predictor, clips: Iterator[Clip], animation: str | None, fps: float
) -> None:
    """Print the most probable classes of each clip, and animate the first clips."""
    first = []
    while chunk := list(islice(clips, CHUNK)):
        first = first or chunk[:MAX_ANIMATED]
        for clip, probabilities in zip(chunk, predictor(chunk), strict=True):
            bodies = clip.data.any((0, 1, 2)).sum()
            noun = "body" if bodies == 1 else "bodies"
            print(f"{clip.name} ({len(clip.data)} frames, {bodies} {noun})")
            for name, probability in most_probable(probabilities, predictor.classes):
                print(f"  {100 * probability:5.1f} %  {name}")
    if animation and first:
        import plot

        animated = [(clip.name, clip.data, *predictor.predict_prefixes(clip)) for clip in first]
        plot.animate(animated, predictor.layout, predictor.classes, animation, fps)
        print(animation)


def predict(arguments: argparse.Namespace, failures: list[Failure]) -> None:
    """Do what the options say; what cannot be read is added to `failures`."""
    predictor = Predictor(arguments.checkpoint, "cpu" if arguments.live else arguments.device)
    clips = select_clips(arguments.files, arguments.clip, predictor, failures)
    if not arguments.live:
        print_predictions(predictor, clips, arguments.animate, arguments.fps)
        return
    recognizer = Recognizer.load(arguments.checkpoint)
    if not arguments.files:
        model = predictor.model
        print_stream(recognizer, parse_frames(sys.stdin, model.num_joints, model.channels))
    for clip in clips:
        print(clip.name)
        recognizer.reset()
        print_stream(recognizer, clip.data.transpose(0, 3, 2, 1), arguments.fps)


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="predict.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "files", nargs="*", metavar="FILE", help="recordings, in one of the formats above"
    )
    parser.add_argument("--checkpoint", required=True, type=Path, help="checkpoint of train.py")
    parser.add_argument(
        "--clip",
        nargs="+",
        metavar="NAME",
        help="select clips of FILE by name or by index (training clips first, then test clips)",
    )
    parser.add_argument(
        "--animate",
        metavar="OUT.gif",
        help="draw the clips, at most five, and the prediction after each frame",
    )
    parser.add_argument("--live", action="store_true", help="print a prediction after every frame")
    parser.add_argument(
        "--fps",
        type=float,
        default=30.0,
        help="frames per second of --animate and --live (default: 30); 0: as fast as possible; ignored "
        "with frames from the standard input",
    )
    parser.add_argument(
        "--device",
        default="",
        help="cuda or cpu (default: the GPU if there is one); ignored with --live, which uses the CPU",
    )
    arguments = parser.parse_args(argv)
    if not arguments.files and not arguments.live:
        parser.error("give a FILE, or --live to read frames from the standard input")
    if arguments.animate and (arguments.live or not arguments.animate.endswith(".gif")):
        parser.error("--animate draws whole clips as a .gif, and not with --live")
    failures = []
    try:
        predict(arguments, failures)
    except (KeyboardInterrupt, BrokenPipeError):
        raise SystemExit(1) from None
    except (ValueError, OSError) as error:
        raise SystemExit(f"predict.py: {error}") from None
    finally:
        for failure in failures:
            text = ": ".join(filter(None, (failure.file, failure.where, failure.reason)))
            print(f"predict.py: {text}", file=sys.stderr)
    if failures:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
