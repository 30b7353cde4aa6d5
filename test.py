"""Test a trained network on the test part of its data, which training never touches.

    python test.py checkpoints/NTU-RGB-D-xview-traversal-hierarchical/best.pt
    python test.py checkpoints/my-run/last.pt --draws 10     # the mean over random crops and transforms

Prints accuracy, top-5 accuracy and loss of the temporal stream, the spatial stream and their fusion,
and the accuracy of each class; writes best_test.json and best_confusion.png (for last.pt: last_...)
beside the checkpoint. The network and its feeding are rebuilt from the checkpoint alone.
"""

import argparse
import json
import time
from datetime import date
from pathlib import Path

import torch

import engine
import plot
from feeder import Feeder
from skeleton import Layout
from storage import part_files, read_meta


def open_test_data(checkpoint, folder, path, **options):
    """The test part in `folder` as the checkpoint's network was fed -> Feeder; `options` are its own.

    Raises ValueError when the data has other classes or another layout than the checkpoint.
    """
    meta = read_meta(folder)
    feeder = Feeder(*part_files(folder, "val"), **checkpoint["feeding"], **options)
    layout = Layout.from_dict(checkpoint["layout"])
    if feeder.layout != layout:
        raise ValueError(
            f"{path} was trained on bodies of layout {layout.name} ({len(layout.joints)} joints), "
            f"{folder} holds {feeder.layout.name} ({len(feeder.layout.joints)} joints): give the data "
            "it was made for with --data"
        )
    classes = checkpoint["classes"]
    if meta.get("classes", classes) != classes or feeder.label.max() >= len(classes):
        raise ValueError(
            f"{path} tells {len(classes)} classes apart ({classes[0]}, ...), {folder} has others: "
            "give the data it was trained for with --data"
        )
    return feeder


def training_seconds(folder, epochs):
    """What the epochs took, from the run's log; None where that is missing."""
    try:
        lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()[:epochs]
        return round(sum(json.loads(line)["seconds"] for line in lines), 1)
    except (OSError, ValueError, KeyError):
        return None


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", help="folder of the benchmark (default: the one trained on)")
    parser.add_argument("--temporal_weight", type=float, help="of the temporal stream in the fusion")
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--device", default="", help="default: the GPU when there is one")
    parser.add_argument("--precision", choices=engine.PRECISIONS, default="float32",
                        help="bfloat16: half the bits, where the device has them")  # fmt: skip
    parser.add_argument("--draws", type=int, default=1,
                        help="average so many: the whole clip, and random crops of it")  # fmt: skip
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--mmap", action="store_true", help="leave the data on disk")
    arguments = parser.parse_args()
    try:
        if arguments.draws < 1:
            raise ValueError(f"draws={arguments.draws}: must be at least 1")
        checkpoint = engine.load_checkpoint(arguments.checkpoint)
        folder = arguments.data or checkpoint["config"]["data"]
        try:
            drawn = checkpoint["random_feeding"] if arguments.draws > 1 else {}
            feeder = open_test_data(
                checkpoint, folder, arguments.checkpoint, mmap=arguments.mmap, **drawn
            )
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}; or say with --data where it is") from error
        device = engine.open_device(arguments.device)
        if arguments.temporal_weight is not None:
            checkpoint["network"]["temporal_weight"] = arguments.temporal_weight
        model = engine.build_model(checkpoint).to(device)
        clips = range(len(feeder))
        if not arguments.mmap and not arguments.workers:
            feeder.to(device)
        posterior, order = 0, torch.Generator().manual_seed(checkpoint["config"]["seed"])
        began = time.perf_counter()
        for draw in range(arguments.draws):
            fed = feeder if draw else feeder.without_randomness()
            batches = engine.loader(
                fed, clips, arguments.batch_size, order, arguments.workers, device, shuffle=False
            )
            title = f"test {draw + 1}"
            _, one, label = engine.evaluate(model, batches, device, title, arguments.precision)
            posterior = posterior + one / arguments.draws
        seconds = time.perf_counter() - began
        metrics = engine.Metrics(model, "cpu")
        metrics.count(posterior, label)
        results = metrics.results()
    except (ValueError, OSError) as error:
        raise SystemExit(f"test.py: {error}") from error

    names, count = checkpoint["classes"], len(checkpoint["classes"])
    predicted = posterior.argmax(2)  # (N, 3)
    confusion = torch.bincount(label * count + predicted[:, 2], minlength=count**2)
    confusion = confusion.view(count, count)
    per_class = {  # for the fusion
        names[i]: {"clips": clips, "accuracy": confusion[i, i].item() / clips}
        for i, clips in enumerate(confusion.sum(1).tolist())
        if clips
    }
    print(f"{arguments.checkpoint} (epoch {checkpoint['epoch']}) on {folder}: {len(label)} clips")
    for name, entry in per_class.items():
        print(f"  {100 * entry['accuracy']:5.1f} %  {entry['clips']:5d} clips  {name}")
    print("          accuracy   top-5    loss")
    for stream, values in results.items():
        print(f"{stream:9s} {100 * values['accuracy']:6.2f} %  {100 * values['top5']:6.2f} %  "
              f"{values['loss']:.3f}")  # fmt: skip

    record = {
        "checkpoint": str(arguments.checkpoint),
        "epoch": checkpoint["epoch"],
        "data": str(folder),
        "clips": len(label),
        "draws": arguments.draws,
        "temporal_weight": model.temporal_weight,
        "results": results,
        "per_class": per_class,
        "config": checkpoint["config"],
        "commit": checkpoint["commit"],
        "parameters": sum(p.numel() for p in model.parameters()),
        "operations": engine.operations(model, torch.ones(1, *feeder[0][0].shape[:3], 1).to(device)),
        "training_seconds": training_seconds(arguments.checkpoint.parent, checkpoint["epoch"]),
        "clips_per_second": len(label) / seconds,
        "device": engine.device_name(device),
        "torch": torch.__version__,
        "date": date.today().isoformat(),
    }
    out, stem = arguments.checkpoint.parent, arguments.checkpoint.stem
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    (out / f"{stem}_test.json").write_text(text, encoding="utf-8")
    title = f"{out.name}: {100 * results['fused']['accuracy']:.1f} % of {len(label)} clips"
    plot.confusion(confusion, names, out / f"{stem}_confusion.png", title)
    print(out / f"{stem}_test.json", out / f"{stem}_confusion.png", sep="\n")


if __name__ == "__main__":
    main()
