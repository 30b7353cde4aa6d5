"""Test a trained network on the test part of its data, which training never touches.

    python test.py checkpoints/NTU-RGB-D-xview-traversal-hierarchical/best.pt
    python test.py checkpoints/my-run/last.pt --draws 10     # the mean over random crops and transforms
    python test.py checkpoints/a/last.pt checkpoints/b/last.pt          # the mean of their scores
    python test.py checkpoints/my-run/last.pt --fractions    # also: how much of a clip must be seen

Prints accuracy, top-5 accuracy and loss of the temporal stream, the spatial stream and their fusion,
the accuracy of each class, camera and subject, and the pairs most confused. Beside the (first)
checkpoint it writes, for best.pt (last.pt: last_...):

best_test.json         all of this, the configuration and the machine; benchmarks/tables.py reads it
best_confusion.png     the confusion matrix
best_report.png        accuracy over the fusion weight, and over the fraction of the clip seen
best_predictions.csv   a line a clip: name, class, prediction and probability
best_scores.npz        posterior (N, 3, classes) of temporal, spatial, fused; label (N,); name (N,)

The network and its feeding are rebuilt from the checkpoint alone. The fusion weight that is best on the
clips held out from training is told beside; the figures are those of the checkpoint's own weight.
"""

import argparse
import csv
import json
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch

import plot
from feeder import Feeder
from skeletons.layout import Layout
from skeletons.storage import read_meta, split_files
from training import engine
from training.checkpoint import build_model, load_checkpoint
from training.loader import make_loader

GROUPS = ("camera", "subject")  # that a clip belongs to
WEIGHTS = torch.linspace(0, 1, 21)
FRACTIONS = [i / 10 for i in range(1, 11)]


def open_part(checkpoint, folder, path, part="val", **options):
    """A part of the data in `folder` as the checkpoint's network was fed -> Feeder; `options` are its
    own.

    Raises ValueError when the data has other classes or another layout than the checkpoint.
    """
    meta = read_meta(folder)
    feeder = Feeder(*split_files(folder, part), **checkpoint["feeding"], **options)
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
    if any(len(meta[field].get(part, ())) != len(feeder) for field in GROUPS if field in meta):
        raise ValueError(
            f"{folder}/meta.json does not belong to the arrays beside it: convert the data again"
        )
    return feeder


def training_seconds(folder, epochs):
    """What the epochs took, from the run's log; None where that is missing."""
    try:
        lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()[:epochs]
        return round(sum(json.loads(line)["seconds"] for line in lines), 1)
    except (OSError, ValueError, KeyError):
        return None


class Evaluation:
    """A checkpoint, and its network on the device."""

    def __init__(self, path, arguments, device):
        self.path, self.arguments, self.device = path, arguments, device
        self.contents = load_checkpoint(path)
        if arguments.temporal_weight is not None:
            self.contents["network"]["temporal_weight"] = arguments.temporal_weight
        self.model = build_model(self.contents).to(device)
        self.data = arguments.data or self.contents["config"]["data"]

    def open(self, part, **options):
        try:
            feeder = open_part(
                self.contents, self.data, self.path, part, mmap=self.arguments.mmap, **options
            )
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}; or say with --data where it is") from error
        if not self.arguments.mmap and not self.arguments.workers:
            feeder.to(self.device)
        return feeder

    def posterior(self, feeder, clips=None, order=None, title=""):
        """Posteriors (N, 3, classes) and labels (N,) of the clips (None: all)."""
        batches = make_loader(
            feeder, range(len(feeder)) if clips is None else clips, self.arguments.batch_size, order,
            self.arguments.workers, self.device, shuffle=False,
        )  # fmt: skip
        return engine.evaluate(self.model, batches, self.device, title, self.arguments.precision)[1:]

    def test(self):
        """-> posteriors, labels, the Feeder, seconds."""
        drawn = self.contents["random_feeding"] if self.arguments.draws > 1 else {}
        feeder = self.open("val", **drawn)
        posterior, order = 0, torch.Generator().manual_seed(self.contents["config"]["seed"])
        began = time.perf_counter()
        for draw in range(self.arguments.draws):
            fed = feeder if draw else feeder.eval()
            one, label = self.posterior(fed, order=order, title=f"test {draw + 1}")
            posterior = posterior + one / self.arguments.draws
        return posterior, label, feeder, time.perf_counter() - began

    def held_out(self):
        """The clips held out from training -> posteriors, labels; None where they are not at hand."""
        if not self.contents.get("held_out"):
            return None
        try:
            feeder = self.open("train")
        except (ValueError, OSError):
            return None
        if len(feeder) != sum(self.contents["clips"].values()):  # other data than it was trained on
            return None
        return self.posterior(feeder, self.contents["held_out"])

    def operations(self):
        """Multiplications and additions for a clip of one body, as long as those trained on."""
        window = self.contents["config"]["window"]
        one = torch.ones(1, self.model.channels, window, self.model.joints, 1)
        return engine.operations(self.model, one.to(self.device))


def mean(posteriors):
    """The mean of what several networks say of the same clips: [(posterior, label)] -> the same."""
    return sum(posterior for posterior, _ in posteriors) / len(posteriors), posteriors[0][1]


def share(hits):
    return hits.float().mean().item()


def by_group(right, groups):
    """Clips and accuracy of each group: right (N,) bool, groups (N,)."""
    members = {}
    for hit, group in zip(right.tolist(), groups, strict=True):
        members.setdefault(group, []).append(hit)
    return {
        group: {"clips": len(hits), "accuracy": sum(hits) / len(hits)}
        for group, hits in sorted(members.items())
    }


def over_weight(posterior, label):
    """Accuracy of the fusion for each of WEIGHTS of the temporal stream."""
    temporal, spatial = posterior[:, 0], posterior[:, 1]
    return [share((w * temporal + (1 - w) * spatial).argmax(1) == label) for w in WEIGHTS]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoints", type=Path, nargs="+", metavar="CHECKPOINT")
    parser.add_argument("--data", help="folder of the benchmark (default: the one trained on)")
    parser.add_argument("--temporal_weight", type=float, help="of the temporal stream in the fusion")
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--device", default="", help="default: the GPU when there is one")
    parser.add_argument("--precision", choices=engine.PRECISIONS, default="float32",
                        help="bfloat16: half the bits, where the device has them")  # fmt: skip
    parser.add_argument("--draws", type=int, default=1,
                        help="average so many: the whole clip, and random crops of it")  # fmt: skip
    parser.add_argument("--fractions", action="store_true",
                        help="test the first tenth of each clip, too, the first two, ...")  # fmt: skip
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--mmap", action="store_true", help="leave the data on disk")
    arguments = parser.parse_args()
    try:
        make_report(arguments)
    except (ValueError, OSError) as error:
        raise SystemExit(f"test.py: {error}") from error
    except KeyboardInterrupt:
        raise SystemExit(1) from None


def make_report(arguments):
    """Test, write and print what this file's first lines tell of."""
    if arguments.draws < 1:
        raise ValueError(f"draws={arguments.draws}: must be at least 1")
    device = engine.resolve_device(arguments.device)
    engine.check_precision(arguments.precision, device)
    tested = [Evaluation(path, arguments, device) for path in arguments.checkpoints]
    found = [one.test() for one in tested]
    first, feeder = tested[0], found[0][2]
    for one, (*_, other, _) in zip(tested, found, strict=True):
        same = (other.name, one.contents["classes"]) == (feeder.name, first.contents["classes"])
        if not same:
            raise ValueError(
                f"{first.path} and {one.path} are not of the same classes and test clips: their "
                "scores cannot be averaged"
            )
    posterior, label = mean([entry[:2] for entry in found])
    fractions = []
    for fraction in FRACTIONS if arguments.fractions else ():
        shorter = [entry[2].eval(fraction) for entry in found]
        seen = [one.posterior(feeder) for one, feeder in zip(tested, shorter, strict=True)]
        fractions.append((mean(seen)[0].argmax(2) == label[:, None]).float().mean(0).tolist())
    held_out = [one.contents.get("held_out") for one in tested]
    unseen = [one.held_out() for one in tested] if held_out.count(held_out[0]) == len(tested) else []
    unseen = mean(unseen) if unseen and None not in unseen else None

    checkpoint, classes = first.contents, first.contents["classes"]
    metrics = engine.Metrics(first.model, "cpu")
    metrics.count(posterior, label)
    predicted = posterior.argmax(2)  # (N, 3)
    right = predicted[:, 2] == label
    confusion = torch.bincount(label * len(classes) + predicted[:, 2], minlength=len(classes) ** 2)
    confusion = confusion.view(len(classes), -1)
    weights = {"weights": WEIGHTS.tolist(), "test": over_weight(posterior, label)}
    if unseen:
        weights["held_out"] = over_weight(*unseen)
        # The middle of the best ones.
        highest = [i for i, a in enumerate(weights["held_out"]) if a == max(weights["held_out"])]
        chosen = highest[len(highest) // 2]
        weights |= {"chosen": weights["weights"][chosen], "test_at_chosen": weights["test"][chosen]}
    record = {
        "checkpoint": " ".join(str(one.path) for one in tested),
        "networks": len(tested),
        "epoch": checkpoint["epoch"],
        "data": str(first.data),
        "clips": len(label),
        "draws": arguments.draws,
        "temporal_weight": first.model.temporal_weight,
        "results": metrics.results(),
        # Of the fusion:
        "per_class": {classes[i]: entry for i, entry in by_group(right, label.tolist()).items()},
        "confused": most_confused(confusion, classes),
        "over_weight": weights,
        "config": checkpoint["config"],
        "commit": checkpoint["commit"],
        "parameters": sum(p.numel() for one in tested for p in one.model.parameters()),
        "operations": sum(one.operations() for one in tested),
        "training_seconds": training_seconds(first.path.parent, checkpoint["epoch"]),
        "clips_per_second": len(label) / sum(entry[3] for entry in found),
        "device": engine.device_name(device),
        "torch": torch.__version__,
        "date": date.today().isoformat(),
    }
    meta = read_meta(first.data)
    for field in GROUPS:
        if field in meta:
            record[f"per_{field}"] = by_group(right, meta[field]["val"])
    if fractions:
        columns = zip(engine.STREAMS, zip(*fractions, strict=True), strict=True)
        record["over_fraction"] = {"fractions": FRACTIONS, **{s: list(c) for s, c in columns}}
    others = "".join(f"+{one.path.parent.name}-{one.path.stem}" for one in tested[1:])
    others = others if len(others) < 100 else f"+{len(tested) - 1}-others"  # names have limits
    stem = str(first.path.with_suffix("")) + others
    outputs = [stem + ending for ending in engine.TEST_OUTPUTS]
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    Path(outputs[0]).write_text(text, encoding="utf-8")
    accuracy = record["results"]["fused"]["accuracy"]
    title = f"{first.path.parent.name}{others}: {100 * accuracy:.1f} % of {len(label)} clips"
    plot.confusion(confusion, classes, outputs[1], title)
    plot.report(record, outputs[2], title)
    with open(outputs[3], "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("clip", "class", "predicted", "probability", "temporal", "spatial"))
        for name, true, (temporal, spatial, fused), one in zip(
            feeder.name, label.tolist(), predicted.tolist(), posterior[:, 2].tolist(), strict=True
        ):
            named = [classes[i] for i in (true, fused, temporal, spatial)]
            table.writerow((name, *named[:2], f"{one[fused]:.4f}", *named[2:]))
    np.savez(outputs[4], posterior=posterior.numpy(), label=label.numpy(), name=np.array(feeder.name))
    show(record)
    print(*outputs, sep="\n")


def most_confused(confusion, classes, most=10):
    """The pairs of a class and what it is taken for most often -> [[class, taken for, clips, of]]."""
    wrong = confusion.clone().fill_diagonal_(0)
    order = wrong.flatten().argsort(descending=True, stable=True)[:most].tolist()
    pairs = [divmod(i, len(classes)) for i in order]
    clips = confusion.sum(1).tolist()
    return [[classes[a], classes[b], int(wrong[a, b]), clips[a]] for a, b in pairs if wrong[a, b]]


def show(record):
    """Print what a user wants to see of a record."""
    print(f"{record['checkpoint']} (epoch {record['epoch']}) on {record['data']}: "
          f"{record['clips']} clips")  # fmt: skip
    for group in ("class", *GROUPS):
        for name, entry in record.get(f"per_{group}", {}).items():
            name = name if group == "class" else f"{group} {name}"
            print(f"  {100 * entry['accuracy']:5.1f} %  {entry['clips']:5d} clips  {name}")
    if record["confused"]:
        print("most confused")
    for true, taken_for, clips, of in record["confused"]:
        print(f"  {clips:3d} of {of:4d}  {true}  taken for  {taken_for}")
    print("          accuracy   top-5    loss")
    for stream, values in record["results"].items():
        print(f"{stream:9s} {100 * values['accuracy']:6.2f} %  {100 * values['top5']:6.2f} %  "
              f"{values['loss']:.3f}")  # fmt: skip
    weights = record["over_weight"]
    if "chosen" in weights:
        print(f"temporal weight {weights['chosen']:.2f}, the best on the clips held out from training: "
              f"{100 * weights['test_at_chosen']:.2f} %")  # fmt: skip


if __name__ == "__main__":
    main()
