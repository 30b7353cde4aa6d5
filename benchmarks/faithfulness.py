"""How faithful are the explanations of explain.py? Writes results/faithfulness.json.

    python benchmarks/faithfulness.py checkpoints/demo/best.pt --split validation
    python benchmarks/faithfulness.py checkpoints/demo/best.pt --split test

Joints, or frames, of a clip are removed one after the other, the most important ones first (deletion),
and added in the same order to a clip from which all are removed (insertion; the same as deletion in the
reversed order). The curve of the predicted class's probability has a small area for deletion and a
large one for insertion if the order is right; the difference is 0 on average for random orders.
Occlusion (explain.py), integrated gradients and random orders are compared.

Each is measured with two ways of removing. The first is that of explain.py. No method was made for the
second: joints move as in a clip of another class; frames are cut out, and the others are stretched to
the length of the clip.

The validation clips are for the choice of a method, the test clips for its final figures.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import training.environment  # noqa: E402, F401

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from explain import (  # noqa: E402
    WINDOWS,
    class_probabilities,
    explain_clip,
    hold_joints,
    interpolate_frames,
    least_typical,
    sliding_windows,
)
from feeder import Feeder  # noqa: E402
from model import TwoStreamRNN  # noqa: E402
from skeletons.batch import BodyBatch, visible_frames  # noqa: E402
from skeletons.output import check_output, error_message, make_console_safe  # noqa: E402
from test import open_split  # noqa: E402
from training import engine  # noqa: E402
from training.checkpoint import build_model, load_checkpoint  # noqa: E402
from training.released import find_checkpoint, run_name  # noqa: E402

STEPS = 10  # in which a clip's joints, or frames, are removed
RANDOM_ORDERS = 3  # for each clip; their mean counts
GRADIENT_STEPS = 16
COLUMNS = ("deletion", "insertion", "difference", "standard error")  # (of the mean difference)
Remove = Callable[[Tensor, Tensor], Tensor]  # as hold_joints and interpolate_frames
Scores = tuple[Tensor, Tensor]  # of the joints (B, V) and of the frames (T,)


def occlusion(model: TwoStreamRNN, bodies: BodyBatch, label: int) -> Scores:
    """What explain.py computes."""
    explanation = explain_clip(model, bodies, label)
    return torch.from_numpy(explanation.joints), torch.from_numpy(explanation.frames)


def integrated_gradients(model: TwoStreamRNN, bodies: BodyBatch, label: int) -> Scores:
    """Integrated gradients of the log probability (Sundararajan et al., 2017) from the bodies
    that stand still (`least_typical`) to the clip."""
    joints, baseline = bodies.joints, least_typical(model, bodies, label)
    share = (torch.arange(GRADIENT_STEPS, device=joints.device) + 0.5) / GRADIENT_STEPS
    path = baseline + share.view(-1, 1, 1, 1, 1) * (joints - baseline)  # (P, B, C, T, V)
    # (cuDNN has no gradients of an LSTM in evaluation mode.)
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        path.requires_grad_()
        probability = class_probabilities(model, bodies, path, lambda _, clips: clips)[:, label]
        (gradient,) = torch.autograd.grad(probability.clamp(min=1e-30).log().sum(), path)
    importance = (gradient.mean(0) * (joints - baseline)).sum(1)  # (B, T, V)
    return importance.sum(1).cpu(), importance.sum((0, 2)).cpu()


METHODS = {"occlusion": occlusion, "integrated gradients": integrated_gradients}


def move_as_another(other: Tensor, joints: Tensor, removed: Tensor) -> Tensor:
    """As `hold_joints`: removed joints move relative to the body's centre as in another clip.

    other  joints (B', C, T', V) of that clip
    """
    time = torch.linspace(0, other.shape[2] - 1, joints.shape[2], device=joints.device).round().long()
    body = torch.arange(len(joints), device=joints.device) % len(other)
    other = other[body][:, :, time]
    moved = joints.mean(3, keepdim=True) + other - other.mean(3, keepdim=True)
    moved = moved * visible_frames(joints)[:, None, :, None]
    return torch.where(removed[:, :, None, None], moved, joints)


def cut_frames(joints: Tensor, removed: Tensor) -> Tensor:
    """As `interpolate_frames`: the frames that are left are stretched to the length of the clip. If
    none is left, the first one is."""
    clips, num_frames = [], joints.shape[2]
    for cut in removed:
        left = (~cut).nonzero()[:, 0] if not cut.all() else cut.new_zeros(1, dtype=torch.long)
        time = torch.linspace(0, len(left) - 1, num_frames, device=joints.device)
        start, end = joints[:, :, left[time.floor().long()]], joints[:, :, left[time.ceil().long()]]
        clips.append(torch.lerp(start, end, time.frac()[:, None]))
    return torch.stack(clips)


def random_scores(bodies: BodyBatch, generator: torch.Generator) -> Scores:
    """Random scores of joints, and of windows of frames, averaged as in explain.py."""
    count, _, num_frames, num_joints = bodies.joints.shape
    windows = sliding_windows(num_frames, WINDOWS)
    by_window = torch.rand(len(windows), 1, generator=generator)
    frames = (windows * by_window).sum(0) / windows.sum(0)
    return torch.rand(count, num_joints, generator=generator), frames


def areas(order: Tensor, probabilities: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """Areas under the curves of deletion and insertion, both over the share of the parts.

    order          (n,) the parts, the most important one first
    probabilities  parts that are removed, bool (P, n) -> the class's probability (P,)
    """
    rank = order.argsort()
    counts = torch.linspace(0, len(order), STEPS + 1).round()[:, None]
    curve = probabilities(torch.cat((rank < counts, rank >= counts)))
    deletion, insertion = (float(torch.trapezoid(half)) / STEPS for half in curve.chunk(2))
    return deletion, insertion


@torch.no_grad()
def measure_clip(
    model: TwoStreamRNN, bodies: BodyBatch, other: Tensor, generator: torch.Generator
) -> dict[tuple[str, str, str], np.ndarray]:
    """{(parts, way of removing, order): areas of deletion and insertion (2,)} for one clip.

    other  joints of a clip of another class
    """
    label = int(model.posterior(model(bodies)).argmax())
    scores = [(name, method(model, bodies, label)) for name, method in METHODS.items()]
    scores += [("random", random_scores(bodies, generator)) for _ in range(RANDOM_ORDERS)]
    ways = (
        ("joints", "held", partial(hold_joints, least_typical(model, bodies, label))),
        ("joints", "of another clip", partial(move_as_another, other)),
        ("frames", "interpolated", interpolate_frames),
        ("frames", "cut out", cut_frames),
    )
    found: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for (parts, way, remove), (name, pair) in product(ways, scores):
        values = pair[parts == "frames"]

        def probabilities(removed: Tensor, remove: Remove = remove, values: Tensor = values) -> Tensor:
            removed = removed.view(-1, *values.shape).to(bodies.joints.device)
            return class_probabilities(model, bodies, removed, remove)[:, label].cpu()

        order = values.flatten().argsort(descending=True, stable=True)
        found.setdefault((parts, way, name), []).append(areas(order, probabilities))
    return {key: np.mean(pairs, 0) for key, pairs in found.items()}


def measure(model: TwoStreamRNN, feeder: Feeder, clips: Sequence[int]) -> dict[str, Any]:
    """{parts and way of removing: {order: {column: mean over the clips}}}"""
    found: dict[tuple[str, str, str], list[np.ndarray]] = {}
    label = feeder.label.tolist()
    for number, clip in enumerate(clips):
        generator = torch.Generator().manual_seed(clip)
        after = [*clips[number:], *clips[:number]]  # the next clip of another class
        other = next((i for i in after if label[i] != label[clip]), None)
        if other is None:
            raise ValueError("all clips are of one class\ntake more --clips")
        bodies, other_bodies = (feeder.bodies([i])[0] for i in (clip, other))
        for key, pair in measure_clip(model, bodies, other_bodies.joints, generator).items():
            found.setdefault(key, []).append(pair)
    table: dict[str, Any] = {}
    for (parts, way, name), pairs in found.items():
        deletion, insertion = np.array(pairs).T
        difference = insertion - deletion
        error = difference.std() / max(len(pairs) - 1, 1) ** 0.5
        values = (deletion.mean(), insertion.mean(), difference.mean(), error)
        row = {column: round(float(x), 4) for column, x in zip(COLUMNS, values, strict=True)}
        table.setdefault(f"{parts}, {way}", {})[name] = row
    return table


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="faithfulness.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", help="checkpoint of train.py, or name of a released network")
    parser.add_argument("--split", choices=("validation", "test"), required=True, help="of its data")
    parser.add_argument("--clips", type=int, default=60, help="drawn at random (default: 60)")
    parser.add_argument("--device", default="", help="cuda or cpu (default: the GPU if there is one)")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "faithfulness.json")
    make_console_safe()
    arguments = parser.parse_args(argv)
    try:
        check_output(arguments.out, "--out names another file")
        key, entry = evaluate(arguments)
    except (ValueError, OSError) as error:
        raise SystemExit(f"faithfulness.py: {error_message(error)}") from None
    for parts, rows in entry["areas"].items():
        print(parts)
        for name, row in rows.items():
            values = "   ".join(f"{column} {value:.3f}" for column, value in row.items())
            print(f"  {name:20s}   {values}")
    record = {}
    if arguments.out.is_file():
        record = json.loads(arguments.out.read_text(encoding="utf-8"))
    text = json.dumps(record | {key: entry}, indent=1, ensure_ascii=False) + "\n"
    arguments.out.write_text(text, encoding="utf-8")
    print(arguments.out)


def evaluate(arguments: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Measure a network -> the name of the record's entry, and the entry."""
    path, checkpoint = find_checkpoint(arguments.checkpoint), load_checkpoint(arguments.checkpoint)
    device, data = engine.resolve_device(arguments.device), checkpoint["config"]["data"]
    model = build_model(checkpoint).to(device)
    split = "train" if arguments.split == "validation" else "val"
    feeder = open_split(checkpoint, path, data, split).eval().to(device)
    clips = checkpoint["validation"] if arguments.split == "validation" else range(len(feeder))
    if not clips:
        raise ValueError(f"{path} was trained without validation clips\ngive --split test")
    drawn = torch.randperm(len(clips), generator=torch.Generator().manual_seed(0))[: arguments.clips]
    started = time.perf_counter()
    table = measure(model, feeder, [clips[i] for i in drawn])
    entry = {
        "checkpoint": run_name(path),
        "epoch": checkpoint["epoch"],
        "clips": len(drawn),
        "areas": table,
        "seconds": round(time.perf_counter() - started, 1),
        "config": checkpoint["config"],
        "commit": checkpoint["commit"],
        "device": engine.device_name(device),
        "torch": torch.__version__,
        "date": date.today().isoformat(),
    }
    return f"{run_name(path)}, {arguments.split}", entry


if __name__ == "__main__":
    main()
