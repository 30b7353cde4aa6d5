"""Export a trained network to ONNX, to run without Python or PyTorch.

    pip install onnx onnxruntime
    python export.py checkpoints/my-run/best.pt            # -> checkpoints/my-run/best.onnx

The file holds the feeding too: from "joints" float32 (N, C, T, V, M), clips as they were recorded
(metres, the sensor's axes, zeros for absent bodies), of any number, length and number of places for
bodies, to "probabilities" float32 (N, classes). Its metadata names the classes and the joints. Before
it is written it is compared with PyTorch on random clips and, if they are there, on test clips; the
time for one clip is told.
"""

import argparse
import io
import json
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from feeder import Feeder
from skeletons import transforms
from skeletons.batch import BodyBatch
from skeletons.layout import Layout
from skeletons.preprocess import bone_length, bone_matrix, normalisation
from skeletons.storage import read_split, split_files
from training.checkpoint import build_model, load_checkpoint

TOLERANCE = 1e-4


class ExportableModel(nn.Module):
    """What test.py does with a clip, as one function of tensors without choices: absent bodies are
    computed too, and do not count.

    model, layout  a trained TwoStreamRNN that is not causal, and its body
    feeding        options of its Feeder: "window_size", "origin_transfer", "normalization"
    """

    def __init__(self, model, layout, feeding):
        super().__init__()
        if model.causal:
            raise ValueError("a causal network keeps what it read from frame to frame: use live.py")
        self.model, self.layout, self.feeding = model, layout, feeding
        self.register_buffer("bones", bone_matrix(layout))
        self.eval()

    def forward(self, joints):
        """Clips (N, C, T, V, M) -> class probabilities (N, classes)."""
        count, channels, frames, joint_count, places = joints.shape
        bodies = joints.permute(0, 4, 2, 1, 3).flatten(0, 1)  # (B, T, C, V)
        number = bodies.shape[0]
        seen = (bodies != 0).flatten(2).any(2)  # (B, T)
        size = self._size(bodies, seen, (count, places))
        length = torch.full((1,), frames).expand(number)
        positions = transforms.crop_resize(length, self.feeding["window_size"])
        tracks = (bodies.flatten(2).flatten(0, 1), seen.flatten())
        start = torch.arange(number) * frames
        bodies, seen = transforms.sample(tracks, start, length, positions)
        bodies = bodies.unflatten(2, (channels, joint_count)).transpose(1, 2)  # (B, C, T, V)
        there = seen.any(1).view(count, places)
        bodies = BodyBatch(bodies, torch.arange(number), there)
        how = (self.feeding["origin_transfer"], self.feeding["normalization"])
        matrix, origin = normalisation(bodies, seen, size, self.layout, self.bones, *how)
        matrix = matrix[bodies.clip]
        if origin.dim() == 2:
            origin = origin[:, :, None]
        bodies = bodies.joints - origin[..., None]
        bodies = transforms.apply(bodies, matrix) * seen[:, None, :, None]
        model = self.model
        bodies = model.describe(model.view(bodies) if model.view else bodies)
        read = [stream(bodies) for stream in (model.temporal, model.spatial)]
        return model.posterior(model.classify(read, BodyBatch(None, torch.arange(number), there)))

    def _size(self, bodies, seen, shape):
        """Mean length of the bones of all bodies of a clip in all frames (N,)."""
        lengths = bone_length(bodies.flatten(0, 1), self.bones, self.layout.root)
        lengths = (lengths.view(seen.shape) * seen).sum(1).view(shape).sum(1)
        number = seen.sum(1).view(shape).sum(1)
        return torch.where(number > 0, lengths / number.clamp(min=1), 1.0)


def export(model, about):
    """An `ExportableModel` as the bytes of an .onnx file; `about` is its metadata, {key: value}."""
    import onnx

    example = torch.randn(2, model.model.channels, 30, model.model.joints, 2)
    dynamic = {"joints": {0: "clips", 2: "frames", 4: "bodies"}, "probabilities": {0: "clips"}}
    file = io.BytesIO()
    with warnings.catch_warnings():  # about sizes that are constants indeed; all is compared below
        warnings.simplefilter("ignore")
        names = {"input_names": ["joints"], "output_names": ["probabilities"], "dynamic_axes": dynamic}
        torch.onnx.export(model, (example,), file, dynamo=False, opset_version=17, **names)
    described = onnx.load_from_string(file.getvalue())
    onnx.helper.set_model_props(described, {key: json.dumps(value) for key, value in about.items()})
    return described.SerializeToString()


def random_clips(model):
    """Clips (N, C, T, V, M) of one and two bodies, of one to 300 frames."""
    random, shape = np.random.default_rng(0), (model.model.channels, model.model.joints)
    for count, frames, places in ((1, 1, 1), (1, 100, 1), (3, 37, 2), (4, 300, 2)):
        clips = random.normal(size=(count, shape[0], frames, shape[1], places)).astype(np.float32)
        clips[0, ..., 1:] = 0
        yield clips


def test_clips(files, most=64):
    """Numbers and clips (1, C, T, V, M) of the test part in these files, evenly spaced."""
    packed, counts, *_ = read_split(*files, mmap=True)
    ends = counts.cumsum()
    for i in np.unique(np.linspace(0, len(counts) - 1, most).astype(int)):
        if packed.ndim == 5:  # padded
            clip = packed[i : i + 1, :, : counts[i]]
        else:
            clip = packed[ends[i] - counts[i] : ends[i]].swapaxes(0, 1)[None]
        if counts[i]:
            yield i, clip.astype(np.float32)


def milliseconds(function, repeats=50):
    """Median and 99th percentile of the time that a call takes."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        times.append(1000 * (time.perf_counter() - began))
    return f"{np.median(times):.1f} ms (99 %: {np.percentile(times, 99):.1f} ms)"


def make(checkpoint, out, data):
    """Export, compare, write. ValueError where the two differ, or for data of another layout."""
    import onnxruntime

    contents = load_checkpoint(checkpoint)
    layout = Layout.from_dict(contents["layout"])
    model = ExportableModel(build_model(contents), layout, contents["feeding"])
    test_part = split_files(data or contents["config"]["data"], "val")
    feeder = None
    if data or test_part[0].is_file():
        feeder = Feeder(*test_part, layout=layout, **contents["feeding"])
    exported = export(model, {"classes": contents["classes"], "layout": contents["layout"]})
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])

    def run(clips):
        return session.run(None, {"joints": np.ascontiguousarray(clips)})[0]

    @torch.no_grad()
    def reference(clips):
        return model(torch.from_numpy(clips)).numpy()

    @torch.no_grad()
    def fed(i):
        return model.model.posterior(model.model(feeder.bodies([i])[0])).numpy()

    random = [(run(clips), reference(clips)) for clips in random_clips(model)]
    compared = {"random clips, of one and two bodies": random}
    if feeder:
        compared["test clips, fed by Feeder"] = [
            (run(clip), fed(i)) for i, clip in test_clips(test_part)
        ]
    else:
        print(f"no test clips: {test_part[0]} is missing; --data says where they are")
    for kind, pairs in compared.items():
        difference = max(np.abs(one - other).max() for one, other in pairs)
        print(f"{len(pairs)} {kind}: ONNX differs from PyTorch by at most {difference:.1e}")
        if not difference <= TOLERANCE:
            raise ValueError(f"{out} was not written: that is more than {TOLERANCE}")
    clip = list(random_clips(model))[1]
    both = [milliseconds(lambda: run(clip)), milliseconds(lambda: reference(clip))]
    print(f"one clip, {torch.get_num_threads()} threads: onnxruntime {both[0]}, PyTorch {both[1]}")
    out.write_bytes(exported)
    print(f"{out}: {len(exported) / 1e6:.1f} MB")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, help="default: beside the checkpoint, .onnx")
    parser.add_argument(
        "--data", help="folder of the benchmark to compare on (default: the one trained on)"
    )
    arguments = parser.parse_args()
    out = arguments.out or arguments.checkpoint.with_suffix(".onnx")
    try:
        make(arguments.checkpoint, out, arguments.data)
    except ImportError as error:
        raise SystemExit(f"export.py: {error}: pip install onnx onnxruntime") from error
    except (ValueError, OSError) as error:
        raise SystemExit(f"export.py: {error}") from error


if __name__ == "__main__":
    main()
