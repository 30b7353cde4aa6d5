"""Export a trained network to ONNX, to run it without Python or PyTorch.

    pip install onnx onnxruntime
    python export.py checkpoints/my-run/best.pt            # -> checkpoints/my-run/best.onnx

The file contains the preprocessing, too. Input "joints", float32 (N, C, T, V, M): clips as they were
recorded, in the unit and axes of the training data, with zeros for absent bodies; N, T and M are free
(M up to 2 with the modality partner or the reference frame pair).
Frames without any body do not count, so clips of different lengths are padded with zeros. Output
"probabilities", float32 (N, classes); NaN for a clip with an invalid coordinate (NaN, infinite, or 1e6
and more), or without any body. The metadata names the classes and the joints.

Before the file is written, it is compared with PyTorch on random clips and, if there are any, on test
clips. The times for one clip are printed.
"""

from __future__ import annotations

import argparse
import io
import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import training.environment  # noqa: F401

import numpy as np
import torch
from torch import Tensor, nn

from feeder import Feeder
from layers import LSTMEncoder, MeanPool
from model import TwoStreamRNN
from skeletons.batch import BodyBatch, visible_first, visible_frames
from skeletons.clip import MAX_COORDINATE
from skeletons.output import check_output, error_message, make_console_safe, write_partial
from skeletons.preprocess import Preprocess
from skeletons.storage import read_split, split_files
from training.checkpoint import build_model, build_preprocess, load_checkpoint
from training.distributed import require_one_process
from training.released import find_checkpoint, output_folder

TOLERANCE = 1e-4  # largest difference of probabilities between ONNX and PyTorch
MAX_CLIPS = 64  # test clips to compare on


class ExportableModel(nn.Module):
    """Evaluation preprocessing and a network as one function of tensors, without decisions that depend
    on the data: absent bodies are computed, too, and do not count. A causal network reads whole clips.

    model       a trained TwoStreamRNN
    preprocess  of the clips that it was trained with
    """

    def __init__(self, model: TwoStreamRNN, preprocess: Preprocess) -> None:
        super().__init__()
        self.model, self.preprocess = model, preprocess.eval()
        if not model.causal and self.preprocess.window_size <= 0:
            raise ValueError(
                "only clips of one window can be exported\ntrain with a window_size above 0"
            )
        self.eval()

    def forward(self, joints: Tensor) -> Tensor:
        """Clips (N, C, T, V, M), padded with zeros -> class probabilities (N, classes), NaN for a clip
        with invalid coordinates, or without any body."""
        bodies = self.preprocess.dense(joints)
        if self.model.causal:
            logits = self.model.classify(encode_causally(self.model, bodies), bodies)
        else:
            logits = self.model(bodies)
        probabilities = self.model.posterior(logits)
        # (onnxruntime's ReduceMax ignores NaN, so that a probability would come out.)
        valid = (joints.abs() < MAX_COORDINATE).flatten(1).all(1, keepdim=True)
        shown = (joints != 0).flatten(1).any(1, keepdim=True)
        return torch.where(valid & shown, probabilities, torch.nan)


def encode_causally(model: TwoStreamRNN, bodies: BodyBatch) -> list[Tensor]:
    """Features of the bodies after their last frame from each stream, (B, F) each, as the function of
    this name in extensions.py returns them, in operations that ONNX has."""
    visible = visible_frames(bodies.joints)
    features = model.joint_features(visible_first(model.select_joints(bodies), visible))
    count = visible.sum(1).clamp(min=1)
    temporal, spatial = model.temporal.stream, model.spatial.stream
    body = pool_first(temporal.whole_body, temporal.body_inputs(features), count)
    # A window ends after every `stride` frames; one more at the end, so that there is always one.
    stride, overlap = spatial.stride, max(spatial.window - spatial.stride, 0)
    starts = stride * torch.arange(features.shape[2] // stride + 1)
    index = (starts[:, None] + torch.arange(spatial.window)).flatten()
    frames = nn.functional.pad(features, (0, 0, overlap, stride)).index_select(2, index)
    frames = frames.view(*frames.shape[:2], -1, spatial.window, frames.shape[3])
    windows = spatial.read_windows(frames.permute(0, 2, 4, 1, 3))  # (B, W, V, C, window)
    return [body, pool_first(spatial.across_windows, windows, count // stride)]


def pool_first(encoder: LSTMEncoder | MeanPool, sequence: Tensor, count: Tensor) -> Tensor:
    """Features (B, F) of the first `count` (B,) steps of sequences (B, S, F); zeros without a step."""
    pooling = encoder.pooling if isinstance(encoder, LSTMEncoder) else "mean"
    outputs = encoder.hidden_states(sequence) if isinstance(encoder, LSTMEncoder) else sequence
    step, count = torch.arange(outputs.shape[1])[:, None], count[:, None, None]  # (S, 1), (B, 1, 1)
    if pooling == "max":
        pooled = outputs.masked_fill(step >= count, -torch.inf).amax(1)
    else:  # the mean of these steps, or the last of them alone
        counted = step < count if pooling == "mean" else step == count - 1
        pooled = (outputs * counted).sum(1) / counted.sum(1).clamp(min=1)
    return torch.where(count[:, 0] > 0, pooled, 0.0)


def export(model: ExportableModel, metadata: Mapping[str, Any]) -> bytes:
    """The contents of an .onnx file; the values of `metadata` are stored as JSON."""
    import onnx

    example = torch.randn(2, model.model.channels, 30, model.model.num_joints, 2)
    dynamic = {"joints": {0: "clips", 2: "frames", 4: "bodies"}, "probabilities": {0: "clips"}}
    names = {"input_names": ["joints"], "output_names": ["probabilities"], "dynamic_axes": dynamic}
    file = io.BytesIO()
    with (
        warnings.catch_warnings()
    ):  # of sizes that become constants, rightly: the result is compared below
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (example,), file, dynamo=False, opset_version=17, **names)
    described = onnx.load_from_string(file.getvalue())
    onnx.helper.set_model_props(described, {key: json.dumps(value) for key, value in metadata.items()})
    return described.SerializeToString()


def random_clips(model: ExportableModel) -> Iterator[np.ndarray]:
    """Clips (N, C, T, V, M) of one and of two bodies, of one to 300 frames; the last ones of different
    lengths, padded."""
    rng, channels, num_joints = np.random.default_rng(0), model.model.channels, model.model.num_joints
    for count, frames, slots in ((1, 1, 1), (1, 100, 1), (3, 37, 2), (4, 300, 2)):
        clips = rng.normal(size=(count, channels, frames, num_joints, slots)).astype(np.float32)
        clips[0, ..., 1:] = 0
        for i, clip in enumerate(clips):
            clip[:, frames // (i + 1) :] = 0
        yield clips


def test_clips(files: Sequence[Path], limit: int = MAX_CLIPS) -> Iterator[tuple[int, np.ndarray]]:
    """Numbers and clips (1, C, T, V, M) of a split, evenly spaced, at most `limit`. Clips with frames
    that show no body, which convert_data.py does not write, are left out: Feeder counts such frames."""
    data, counts, *_ = read_split(*files, mmap=True)
    ends = counts.cumsum()
    for i in np.unique(np.linspace(0, len(counts) - 1, limit).astype(int)):
        if data.ndim == 5:  # padded
            clip = data[i : i + 1, :, : counts[i]]
        else:
            clip = data[ends[i] - counts[i] : ends[i]].swapaxes(0, 1)[None]
        if counts[i] and clip.any((0, 1, 3, 4)).all():
            yield i, clip.astype(np.float32)


def milliseconds(function: Callable[[], object], repeats: int = 50) -> str:
    """Median and 99th percentile of the time that a call takes."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        times.append(1000 * (time.perf_counter() - began))
    return f"{np.median(times):.1f} ms (99 %: {np.percentile(times, 99):.1f} ms)"


def compare(
    run: Callable[[np.ndarray], np.ndarray],
    model: ExportableModel,
    feeder: Feeder | None,
    files: Sequence[Path],
) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """Pairs of probabilities from ONNX (`run`) and from PyTorch, by kind of clip.

    feeder  of the split in `files`; None: random clips only
    """
    with torch.no_grad():
        pairs = {
            "random clips, of one and two bodies": [
                (run(clips), model(torch.from_numpy(clips)).numpy()) for clips in random_clips(model)
            ]
        }
        if feeder:
            pairs["test clips, preprocessed by Feeder"] = [
                (run(clip), model.model.posterior(model.model(feeder.bodies([i])[0])).numpy())
                for i, clip in test_clips(files)
            ]
    return pairs


def export_checkpoint(checkpoint: Path, out: Path, data: str | None) -> None:
    """Export, compare, write, and print the result. ValueError where ONNX and PyTorch differ, or for
    data of another layout; nothing is written then. OSError before the work if `out` cannot be written.

    data  folder of the benchmark to compare on (None: the one trained on, if it is there)
    """
    import onnxruntime

    if out.resolve() == checkpoint.resolve():
        raise ValueError(f"{out} is the checkpoint itself\n--out names another file")
    check_output(out, "--out names another file")
    contents = load_checkpoint(checkpoint)
    model = ExportableModel(build_model(contents), build_preprocess(contents))
    files = split_files(data or contents["config"]["data"], "val")
    feeder = None
    if data or files[0].is_file():
        feeder = Feeder(*files, layout=model.preprocess.layout, **contents["preprocessing"]).eval()
    else:
        print(f"no test clips to compare on: {files[0]} is missing\n--data gives the folder")
    exported = export(model, {"classes": contents["classes"], "layout": contents["layout"]})
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])

    def run(clips: np.ndarray) -> np.ndarray:
        return session.run(None, {"joints": np.ascontiguousarray(clips)})[0]

    @torch.no_grad()
    def run_pytorch(clips: np.ndarray) -> np.ndarray:
        return model(torch.from_numpy(clips)).numpy()

    for kind, pairs in compare(run, model, feeder, files).items():
        difference = max((np.abs(one - other).max() for one, other in pairs), default=0.0)
        print(f"{len(pairs)} {kind}: ONNX differs from PyTorch by at most {difference:.1e}")
        if not difference <= TOLERANCE:
            raise ValueError(f"{out} was not written: ONNX and PyTorch differ by more than {TOLERANCE}")
    clip = list(random_clips(model))[1]
    times = [milliseconds(lambda: run(clip)), milliseconds(lambda: run_pytorch(clip))]
    print(f"one clip, {torch.get_num_threads()} threads: onnxruntime {times[0]}, PyTorch {times[1]}")
    write_partial(out, exported).replace(out)  # a failed write leaves the file that was there before
    print(f"{out}: {len(exported) / 1e6:.1f} MB")


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; SystemExit with a message for what the user can mend."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="checkpoint of train.py, or name of a released network"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="output file (default: next to the checkpoint, with the suffix .onnx; of a released "
        "network: checkpoints/NAME/NAME.onnx)",
    )
    parser.add_argument(
        "--data", help="folder made by convert_data.py, to compare on (default: the one trained on)"
    )
    make_console_safe()
    require_one_process("export.py")
    arguments = parser.parse_args(argv)
    try:
        checkpoint = find_checkpoint(arguments.checkpoint)
        out = arguments.out or output_folder(checkpoint) / f"{checkpoint.stem}.onnx"
        export_checkpoint(checkpoint, out, arguments.data)
    except ImportError as error:
        raise SystemExit(f"export.py: {error}\npip install onnx onnxruntime") from error
    except (ValueError, OSError) as error:
        raise SystemExit(f"export.py: {error_message(error)}") from error


if __name__ == "__main__":
    main()
