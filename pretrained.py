"""`ActionRecognizer`: raw clips in, class names with probabilities out.

    from model import TwoStreamRNN

    recognizer = TwoStreamRNN.from_pretrained("demo-small")  # or a path, or an http(s) address
    predictions = recognizer(clip)  # clip: (T, V, C), or (M, T, V, C) for several bodies
    print(predictions[0].name, predictions[0].probability)

predict.py is its command; live.py reads frame by frame.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import training.environment  # noqa: F401

import numpy as np
import torch

from skeletons.batch import BodyBatch, Tracks
from skeletons.clip import InvalidClip
from skeletons.clip_stream import clean_clip
from skeletons.custom_arrays import ArrayFormat, find_format, load_clip
from skeletons.layout import Layout
from training import engine
from training.checkpoint import build_model, build_preprocess, load_checkpoint

BATCH_SIZE = 64  # clips
RawClip = np.ndarray | torch.Tensor  # (T, V, C) or (M, T, V, C)


class Prediction(NamedTuple):
    """A class and its probability."""

    name: str
    probability: float


class ActionRecognizer:
    """A trained network and the preprocessing of its input.

    checkpoint  path of a checkpoint of train.py, the name of a released network, or an http(s) address
    device      "cuda" or "cpu"; "": the GPU if there is one
    Attributes:
        classes     names of the classes
        layout      the joints of the bodies that it reads
        model       the TwoStreamRNN, in evaluation mode
        preprocess  what brings clips to the form of the network's input

    Raises OSError or ValueError for what is no checkpoint, and for a device that cannot be used.
    """

    def __init__(self, checkpoint: str | Path, device: str = "") -> None:
        contents = load_checkpoint(checkpoint)
        self.classes: list[str] = contents["classes"]
        self.device = engine.resolve_device(device)
        self.model = build_model(contents).to(self.device)
        self.preprocess = build_preprocess(contents)

    @property
    def layout(self) -> Layout:
        """The layout of the bodies."""
        return self.preprocess.layout

    def __call__(self, clips: RawClip | Sequence[RawClip]) -> list[Prediction] | list[list[Prediction]]:
        """All classes with their probabilities, the most probable first; for a list or tuple of clips,
        a list of these. Clips and errors are those of `probabilities`."""
        predictions = [rank_classes(row, self.classes) for row in self.probabilities(clips)]
        return predictions if isinstance(clips, list | tuple) else predictions[0]

    def probabilities(self, clips: RawClip | Sequence[RawClip]) -> np.ndarray:
        """One clip, or a list or tuple of clips -> class probabilities, float32 (N, classes).

        A clip is an array (T, V, C) or (M, T, V, C) in the coordinates of the sensor, of the layout,
        unit and axes of the training data. As in custom recordings (docs/data.md), another order of the
        axes is found, a score may follow the coordinates of each joint, missing joints are NaN or zero,
        and absent bodies are zero.

        Raises ValueError for an array that is not such a clip, or that can be read in several ways.
        """
        clips = clips if isinstance(clips, list | tuple) else [clips]
        read = []
        for i, clip in enumerate(clips):
            try:
                read.append(self.read_clip(clip))
            except ValueError as error:
                where = f"clip {i} of the list: " if len(clips) > 1 else ""
                raise ValueError(f"{where}{error}") from error
        return self.classify(read)

    def read_clip(self, clip: RawClip) -> np.ndarray:
        """A clip as for `probabilities` -> the same as float32 (T, C, V, M): the frames that show a
        body, with missing joints filled in. ValueError as there."""
        if isinstance(clip, torch.Tensor):
            clip = clip.detach().float().cpu().numpy()
        array = np.asarray(clip)
        if array.dtype.kind not in "iuf" or not array.size:
            raise InvalidClip(f"an array {array.shape} of {array.dtype}: give numbers (T, V, C)")
        axes, form = find_format(array, ArrayFormat(self.layout, self.model.channels))
        return clean_clip(load_clip(array, form, axes))

    def check_layout(self, data: np.ndarray) -> None:
        """ValueError for a clip (T, C, V, M) of other bodies than the network reads."""
        expected = (self.model.channels, self.model.num_joints)
        if data.shape[1:3] != expected:
            channels, joints = data.shape[1:3]
            raise ValueError(
                f"{joints} joints with {channels} coordinates each; the network was trained on "
                f"{self.layout.name}, {expected[1]} joints with {expected[0]}\n"
                "give clips of such bodies, or the --checkpoint of a network for these"
            )

    def classify(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """Clips (T, C, V, M) without missing joints, as `read_clip` and the readers of files give them
        -> class probabilities of the fusion (N, classes), as in test.py. Frames that show no body do
        not count, as in a conversion."""
        batches = [clips[i : i + BATCH_SIZE] for i in range(0, len(clips), BATCH_SIZE)]
        none = np.zeros((0, len(self.classes)), np.float32)
        return np.concatenate([none, *map(self._classify_batch, batches)])

    @torch.no_grad()
    def _classify_batch(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        return self.model.posterior(self.model(self.bodies(clips))).cpu().numpy()

    def bodies(self, clips: Sequence[np.ndarray]) -> BodyBatch:
        """Clips (T, C, V, M), as for `classify`, -> their bodies as the network reads them."""
        slots = max(clip.shape[3] for clip in clips)
        frames = []
        for clip in clips:
            shown = clip[clip.any((1, 2, 3))]
            shown = shown if len(shown) else clip[:1]  # no body at all
            frames.append(np.pad(shown, ((0, 0),) * 3 + ((0, slots - shown.shape[3]),)))
        num_frame = torch.tensor(list(map(len, frames)))
        tracks = Tracks.from_frames(
            torch.from_numpy(np.concatenate(frames)), num_frame, self.preprocess.bones
        )
        return self.preprocess(tracks.to(self.device), num_frame)

    def classify_prefixes(self, clip: np.ndarray, limit: int = 40) -> tuple[np.ndarray, np.ndarray]:
        """Class probabilities of the beginnings of a clip (T, C, V, M), after each frame or after
        `limit` of them -> (frames shown (K,), probabilities (K, classes))."""
        lengths = np.unique(np.linspace(1, len(clip), limit).astype(int))
        return lengths, self.classify([clip[:length] for length in lengths])


def rank_classes(
    probabilities: np.ndarray, classes: Sequence[str], count: int | None = None
) -> list[Prediction]:
    """The `count` most probable classes (None: all), the most probable first.

    probabilities  (classes,)
    """
    order = np.argsort(-probabilities, kind="stable")[:count]
    return [Prediction(classes[i], float(probabilities[i])) for i in order]
