"""Recognise clips with a trained network: the most probable classes, by name.

    python predict.py S002C001P001R001A010.skeleton --checkpoint checkpoints/my-run/best.pt
    python predict.py NTU-RGB-D/xview --clip S002C001P001R001A010 --checkpoint ... --animate clip.gif
    python predict.py capture.npy --stream --checkpoint checkpoints/live/best.pt
    SENSOR | python predict.py --stream --checkpoint checkpoints/live/best.pt

A FILE is anything that convert_data.py reads, a raw file of any name, or a .npy of one clip,
(T, V, C) or (M, T, V, C), or of many, (N, C, T, V, M). --stream needs a causal network (train.py
--setting live) and answers after every frame; without FILE it reads frames from the standard input:
a line a frame, V x C numbers for each body (x, y, z of the first joint, of the second, ...), in
metres; an empty line is a frame with nobody.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

import plot
from feeder import Feeder
from live import Recognizer
from skeletons.clip import MAX_BODIES
from skeletons.clip_stream import Failure
from skeletons.datasets import DATASETS
from skeletons.layout import Layout
from skeletons.readers import read_clips
from skeletons.storage import SplitWriter, split_files
from training import engine
from training.checkpoint import build_model, load_checkpoint
from training.loader import make_loader

CHUNK = 256  # clips in memory at a time
MOST_ANIMATED = 5  # clips


class Predictor:
    """A trained network of a checkpoint, and how it is fed."""

    def __init__(self, checkpoint, device=""):
        self.contents = load_checkpoint(checkpoint)
        self.classes = self.contents["classes"]
        self.layout = Layout.from_dict(self.contents["layout"])
        self.device = engine.resolve_device(device)
        self.model = build_model(self.contents).to(self.device)

    def dataset(self):
        """The data set whose forms are expected: the one of these classes."""
        return next((name for name, data in DATASETS.items() if data.classes == self.classes), "ntu")

    def check(self, clip):
        """ValueError for a clip of other bodies than the network reads."""
        if clip.data.shape[1:3] != (self.model.channels, self.model.joints):
            channels, joints = clip.data.shape[1:3]
            raise ValueError(
                f"{joints} joints with {channels} coordinates each; the network was trained on "
                f"{self.layout.name}, {self.model.joints} with {self.model.channels}"
            )

    def __call__(self, clips):
        """Clips (T, C, V, M) -> class probabilities (N, classes), as test.py feeds and fuses them."""
        if not len(clips):
            return np.zeros((0, len(self.classes)), np.float32)
        with tempfile.TemporaryDirectory() as folder:
            frame_shape = (self.model.channels, self.model.joints, MAX_BODIES)
            writer = SplitWriter(folder, "val", frame_shape)
            for clip in clips:
                writer.add(replace(clip, label=0))  # whatever it is, the network may have fewer classes
            writer.finish()
            feeder = Feeder(*split_files(folder, "val"), layout=self.layout, **self.contents["feeding"])
        feeder.to(self.device)
        batches = make_loader(feeder, range(len(feeder)), 64)
        return engine.evaluate(self.model, batches, self.device)[1][:, 2].numpy()

    def running(self, clip, most=40):
        """Class probabilities of the beginnings of a clip: after each frame, or after `most` of them
        -> (frames seen (K,), probabilities (K, classes))."""
        seen = np.unique(np.linspace(1, len(clip.data), most).astype(int))
        return seen, self([replace(clip, data=clip.data[:count]) for count in seen])


def chosen(paths, wanted, predictor, faults):
    """Clips of the files that are wanted, by name or number (None: all); what is damaged or not there
    is added to `faults`."""
    missing = dict.fromkeys(wanted or ())
    for path in paths:
        for number, clip in enumerate(read_clips(path, predictor.dataset())):
            if isinstance(clip, Failure):
                faults.append(clip)
            elif wanted is None or clip.name in wanted or str(number) in wanted:
                for said in (clip.name, str(number)):
                    missing.pop(said, None)
                try:
                    predictor.check(clip)
                    yield clip
                except ValueError as error:
                    faults.append(Failure(str(path), "", f"{clip.name}: {error}"))
    faults.extend(Failure(", ".join(paths), "", f"no clip called {name}") for name in missing)


def best(probabilities, classes, count=5):
    """The most probable classes -> [(name, probability)]."""
    order = np.argsort(-probabilities, kind="stable")[:count]
    return [(classes[i], float(probabilities[i])) for i in order]


def frames_from(lines, recognizer):
    """Lines of numbers -> frames (M, V, C); ValueError names a line that is none."""
    shape = (-1, recognizer.model.joints, recognizer.model.channels)
    for number, line in enumerate(lines, 1):
        try:
            numbers = np.array(line.replace(",", " ").split(), np.float32)
            yield numbers.reshape(shape)
        except ValueError:
            raise ValueError(
                f"line {number}: needs {shape[1]} x {shape[2]} numbers for each body"
            ) from None


def stream(recognizer, frames, rate=0.0):
    """Print the most probable class after each frame, at most `rate` frames a second (0: no limit)."""
    began, count = time.perf_counter(), 0
    for count, frame in enumerate(frames, 1):
        early = began + count / rate - time.perf_counter() if rate else 0
        time.sleep(max(early, 0))
        ((name, probability),) = best(recognizer(frame), recognizer.classes, 1)
        said = f"{100 * probability:5.1f} %  {name}" if recognizer.bodies else "nobody was seen yet"
        print(f"{count:6d}  {said}", flush=True)
    seconds = time.perf_counter() - began
    print(f"{count} frames, {count / seconds:.0f} a second", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", metavar="FILE")
    parser.add_argument("--checkpoint", required=True, type=Path)
    parser.add_argument(
        "--clip",
        nargs="+",
        metavar="NAME",
        help="these clips of FILE, by name or number (from 0; the training part's come first)",
    )
    parser.add_argument(
        "--animate", metavar="OUT.gif", help="draw the clips (at most five) and the running prediction"
    )
    parser.add_argument("--stream", action="store_true", help="answer after every frame")
    parser.add_argument("--fps", type=float, default=30.0,
                        help="of the recording (default: 30); 0: do not wait")  # fmt: skip
    parser.add_argument("--device", default="", help="default: the GPU when there is one")
    arguments = parser.parse_args()
    if not arguments.files and not arguments.stream:
        parser.error("give a FILE, or --stream to read frames from the standard input")
    if arguments.animate and (arguments.stream or not arguments.animate.endswith(".gif")):
        parser.error("--animate draws whole clips, not a --stream, as a .gif")
    faults = []
    try:
        predictor = Predictor(arguments.checkpoint, "cpu" if arguments.stream else arguments.device)
        clips = chosen(arguments.files, arguments.clip, predictor, faults)
        if arguments.stream:
            recognizer = Recognizer.load(arguments.checkpoint)
            if not arguments.files:
                stream(recognizer, frames_from(sys.stdin, recognizer))
            for clip in clips:
                print(clip.name)
                recognizer.reset()
                stream(recognizer, clip.data.transpose(0, 3, 2, 1), arguments.fps)
        else:
            report(predictor, clips, arguments)
    except (KeyboardInterrupt, BrokenPipeError):
        raise SystemExit(1) from None
    except (ValueError, OSError) as error:
        raise SystemExit(f"predict.py: {error}") from None
    finally:
        for fault in faults:
            said = ": ".join(filter(None, (fault.file, fault.where, fault.reason)))
            print(f"predict.py: {said}", file=sys.stderr)
    if faults:
        raise SystemExit(1)


def report(predictor, clips, arguments):
    """Print what is seen in each clip, animate the first ones."""
    first = []
    while chunk := list(islice(clips, CHUNK)):
        first = first or chunk[:MOST_ANIMATED]
        for clip, probabilities in zip(chunk, predictor(chunk), strict=True):
            people = clip.data.any((0, 1, 2)).sum()
            print(f"{clip.name} ({len(clip.data)} frames, {people} bod{'ies' if people > 1 else 'y'})")
            for name, probability in best(probabilities, predictor.classes):
                print(f"  {100 * probability:5.1f} %  {name}")
    if arguments.animate and first:
        moving = [(clip.name, clip.data, *predictor.running(clip)) for clip in first]
        plot.animate(moving, predictor.layout, predictor.classes, arguments.animate, arguments.fps)
        print(arguments.animate)


if __name__ == "__main__":
    main()
