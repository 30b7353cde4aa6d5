"""Test a trained network: report of accuracy per stream, class, camera and subject, and of confusions.

    python test.py checkpoints/NTU-RGB-D-xview-traversal-hierarchical/best.pt
    python test.py checkpoints/my-run/last.pt --tta 10       # test-time augmentation
    python test.py checkpoints/a/last.pt checkpoints/b/last.pt          # an ensemble: mean of both
    python test.py checkpoints/my-run/last.pt --early_recognition    # also on the beginnings of clips
    python test.py checkpoints/my-run/last.pt --explain      # what the worst confusions rest on
    python test.py demo-small                     # a released network (checkpoints/README.md)

Prints accuracy, top-5 accuracy and loss of the temporal stream, the spatial stream and their fusion;
the accuracy of each class, camera and subject; and the most confused pairs of classes. For best.pt it
writes, next to the (first) checkpoint (of a released network NAME: checkpoints/NAME/) or into the
folder --out:

best_test.json         all of this, the configuration and the machine; benchmarks/tables.py reads it
best_confusion.png     the confusion matrix
best_report.png        accuracy by fusion weight and, with --early_recognition, by observation ratio
best_explained.png     with --explain: for each of the three most confused pairs of classes, the clip
                       with the most probable wrong prediction, and the joints and frames that this
                       prediction rests on
best_predictions.csv   a line per clip: its name, class, the class that the fusion predicts and its
                       probability, and the classes that the temporal and spatial streams predict
best_scores.npz        posterior (N, 3, classes) of temporal, spatial, fused; label (N,); name (N,)

Network and preprocessing are rebuilt from the checkpoint alone. The results are those of the
checkpoint's own fusion weight; the best weight on the validation clips is printed for comparison.
"""

import argparse
import csv
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import training.environment  # noqa: F401

import numpy as np
import torch
from torch import Tensor

from explain import Explanation, explain_clip
from feeder import Feeder
from model import fuse
from skeletons.layout import Layout
from skeletons.options import check_whole
from skeletons.output import check_output, error_message, make_console_safe
from skeletons.storage import read_meta, split_files
from training import engine
from training.checkpoint import build_model, load_checkpoint
from training.distributed import require_one_process
from training.loader import make_loader
from training.released import find_checkpoint, output_folder, run_name
from training.run import TEST_OUTPUTS, RunFolder

GROUPS = ("camera", "subject")
TEMPORAL_WEIGHTS = torch.linspace(0, 1, 21)
EXPLAINED = 3  # pairs of classes
OBSERVATION_RATIOS = [i / 10 for i in range(1, 11)]


def open_split(
    checkpoint: dict[str, Any], path: Path, folder: str | Path, split: str = "val", **options: Any
) -> Feeder:
    """A split of the data in `folder`, prepared as the checkpoint's network needs it.

    path     of the checkpoint, for messages
    options  more options of Feeder
    Raises ValueError when the data has other classes or another layout than the checkpoint.
    """
    meta, classes = read_meta(folder), checkpoint["classes"]
    feeder = Feeder(*split_files(folder, split), **checkpoint["preprocessing"], **options)
    layout = Layout.from_dict(checkpoint["layout"])
    if feeder.layout != layout:
        raise ValueError(
            f"{path} was trained on layout {layout.name} ({len(layout.joints)} joints), {folder} has "
            f"{feeder.layout.name} ({len(feeder.layout.joints)} joints)\n"
            "give the data that it was trained for with --data"
        )
    if meta.get("classes", classes) != classes or feeder.label.max() >= len(classes):
        raise ValueError(
            f"{path} distinguishes {len(classes)} classes ({classes[0]}, ...), {folder} has others\n"
            "give the data that it was trained for with --data"
        )
    if any(len(meta[group].get(split, ())) != len(feeder) for group in GROUPS if group in meta):
        raise ValueError(
            f"{folder}/meta.json does not belong to the arrays next to it\nconvert the data again"
        )
    return feeder


class Evaluation:
    """A checkpoint, its network on the device, and the options of the command line."""

    def __init__(self, source: str | Path, arguments: argparse.Namespace, device: torch.device) -> None:
        self.source, self.path = source, find_checkpoint(source)
        self.arguments, self.device = arguments, device
        self.checkpoint = load_checkpoint(source)
        if arguments.temporal_weight is not None:
            options = self.checkpoint["model_args"]["network"]
            options["temporal_weight"] = arguments.temporal_weight
        self.model = build_model(self.checkpoint).to(device)
        self.data = arguments.data or self.checkpoint["config"]["data"]
        self.seconds = 0.0  # that the test took

    def open(self, split: str, **options: Any) -> Feeder:
        """A split of the data, on the device where possible."""
        mmap = self.arguments.mmap
        try:
            feeder = open_split(self.checkpoint, self.path, self.data, split, mmap=mmap, **options)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}; or say with --data where it is") from error
        if not mmap and not self.arguments.num_workers:
            feeder.to(self.device)
        return feeder

    def predict(
        self,
        feeder: Feeder,
        clips: Sequence[int] | None = None,
        generator: torch.Generator | None = None,
        title: str = "",
    ) -> tuple[Tensor, Tensor]:
        """Posteriors (N, 3, classes) and labels (N,) of the clips (None: all)."""
        clips = range(len(feeder)) if clips is None else clips
        arguments = self.arguments
        batches = make_loader(
            feeder, clips, arguments.batch_size, generator, arguments.num_workers, self.device,
            shuffle=False,
        )  # fmt: skip
        return engine.evaluate(self.model, batches, self.device, title, arguments.precision)[1:]

    def test(self) -> tuple[Tensor, Tensor, Feeder]:
        """-> posteriors (N, 3, classes), labels (N,), the test clips.

        With --tta, the mean over the whole clips and random crops and transforms of them.
        """
        repeats = self.arguments.tta
        feeder = self.open("val", **(self.checkpoint["augmentation"] if repeats > 1 else {}))
        posterior = 0
        generator = torch.Generator().manual_seed(self.checkpoint["config"]["seed"])
        if self.device.type == "cuda":  # whose first batch takes longer
            self.predict(feeder.eval(), range(min(len(feeder), self.arguments.batch_size)))
        started = time.perf_counter()
        for repeat in range(repeats):
            view = feeder if repeat else feeder.eval()
            one, label = self.predict(view, generator=generator, title=f"test {repeat + 1}")
            posterior = posterior + one / repeats
        self.seconds = time.perf_counter() - started
        return posterior, label, feeder

    def validate(self) -> tuple[Tensor, Tensor] | None:
        """The validation clips -> posteriors, labels; None where they are not available."""
        if not self.checkpoint["validation"]:
            return None
        try:
            feeder = self.open("train")
        except (ValueError, OSError):
            return None
        if len(feeder) != sum(self.checkpoint["clips"].values()):  # not the data it was trained on
            return None
        return self.predict(feeder, self.checkpoint["validation"])

    def flops(self) -> int:
        """FLOPs for a clip of one body, of as many frames as a training item."""
        frames = self.checkpoint["config"]["preprocessing"]["window_size"]
        return engine.count_flops(self.model, frames or self.checkpoint["preprocessing"]["window_size"])


@dataclass
class Results:
    """What the networks, averaged, predict; N test clips."""

    posterior: Tensor  # (N, 3, classes) of temporal, spatial, fused
    label: Tensor  # (N,)
    names: list[str]  # (N,)
    validation: tuple[Tensor, Tensor] | None  # posteriors and labels of the validation clips
    early: list[list[float]]  # for each observation ratio: accuracy of temporal, spatial, fused

    @property
    def predicted(self) -> Tensor:
        """(N, 3) classes."""
        return self.posterior.argmax(2)


def run_tests(evaluations: list[Evaluation], early_recognition: bool) -> Results:
    """Test the networks and average their posteriors. ValueError if their test clips differ."""
    tests = [one.test() for one in evaluations]
    first, names = evaluations[0], tests[0][2].name
    for one, (_, _, feeder) in zip(evaluations, tests, strict=True):
        same = (feeder.name, one.checkpoint["classes"]) == (names, first.checkpoint["classes"])
        if not same:
            raise ValueError(
                f"{first.path} and {one.path} have other classes or test clips\n"
                "only posteriors of the same classes and clips can be averaged"
            )
    label, early = tests[0][1], []
    for ratio in OBSERVATION_RATIOS if early_recognition else ():
        views = [feeder.eval(ratio) for *_, feeder in tests]
        posterior = mean(one.predict(v)[0] for one, v in zip(evaluations, views, strict=True))
        early.append((posterior.argmax(2) == label[:, None]).float().mean(0).tolist())
    validation = None
    clips = [one.checkpoint["validation"] for one in evaluations]
    if clips.count(clips[0]) == len(clips):
        found = [one.validate() for one in evaluations]
        if None not in found:
            validation = mean(posterior for posterior, _ in found), found[0][1]
    return Results(mean(test[0] for test in tests), label, names, validation, early)


def mean(posteriors: Iterable[Tensor]) -> Tensor:
    """The mean of the posteriors of several networks."""
    posteriors = list(posteriors)
    return sum(posteriors) / len(posteriors)


# --- The record ---------------------------------------------------------------------------------------


def make_record(evaluations: list[Evaluation], results: Results) -> dict[str, Any]:
    """What <checkpoint>_test.json holds."""
    first = evaluations[0]
    checkpoint, label = first.checkpoint, results.label
    classes, meta = checkpoint["classes"], read_meta(first.data)
    metrics = engine.Metrics()
    metrics.add(results.posterior, label)
    correct = results.predicted[:, 2] == label
    per_class = accuracy_by_group(correct, label.tolist())
    record = {
        "checkpoint": " ".join(str(one.source) for one in evaluations),
        "ensemble_size": len(evaluations),
        "epoch": checkpoint["epoch"],
        "data": str(first.data),
        "clips": len(label),
        "tta": first.arguments.tta,
        "temporal_weight": first.model.temporal_weight,
        "results": metrics.results(),
        # Of the fusion:
        "per_class": {classes[i]: entry for i, entry in per_class.items()},
        "most_confused": most_confused(confusion_matrix(results, len(classes)), classes),
        "fusion_weight_sweep": fusion_weight_sweep(results),
        "config": checkpoint["config"],
        "commit": checkpoint["commit"],
        "training_precision": training_precision(evaluations),
        "parameters": sum(p.numel() for one in evaluations for p in one.model.parameters()),
        "flops": sum(one.flops() for one in evaluations),
        "training_seconds": training_seconds(evaluations),
        "clips_per_second": len(label) / sum(one.seconds for one in evaluations),
        "device": engine.device_name(first.device),
        "torch": torch.__version__,
        "date": date.today().isoformat(),
    }
    for group in GROUPS:
        if group in meta:
            record[f"per_{group}"] = accuracy_by_group(correct, meta[group]["val"])
    if results.early:
        columns = zip(engine.STREAMS, zip(*results.early, strict=True), strict=True)
        record["early_recognition"] = {
            "observation_ratios": OBSERVATION_RATIOS,
            **{stream: list(column) for stream, column in columns},
        }
    return record


def confusion_matrix(results: Results, classes: int) -> Tensor:
    """(classes, classes): clips of the row's class that the fusion predicts as the column's."""
    pairs = results.label * classes + results.predicted[:, 2]
    return torch.bincount(pairs, minlength=classes**2).view(classes, -1)


def most_confused(
    confusion: Tensor, classes: list[str], limit: int = 10
) -> list[tuple[str, str, int, int]]:
    """The most frequent confusions -> [(class, predicted as, such clips, clips of the class)]."""
    wrong = confusion.clone().fill_diagonal_(0)
    order = wrong.flatten().argsort(descending=True, stable=True)[:limit].tolist()
    pairs = [divmod(i, len(classes)) for i in order]
    clips = confusion.sum(1).tolist()
    return [(classes[a], classes[b], int(wrong[a, b]), clips[a]) for a, b in pairs if wrong[a, b]]


def explain_confusions(
    evaluation: Evaluation, results: Results, limit: int = EXPLAINED
) -> list[tuple[str, Explanation]]:
    """For each of the most confused pairs of classes, the clip with the most probable wrong prediction
    -> what it is, and the explanation of the prediction."""
    checkpoint, classes = evaluation.checkpoint, evaluation.checkpoint["classes"]
    feeder = open_split(checkpoint, evaluation.path, evaluation.data, mmap=True).eval()
    probability, predicted = results.posterior[:, 2].max(1)
    explained = []
    for true, wrong, *_ in most_confused(confusion_matrix(results, len(classes)), classes, limit):
        label = classes.index(wrong)
        confused = (results.label == classes.index(true)) & (predicted == label)
        clip = int(probability.masked_fill(~confused, -1).argmax())
        bodies, _ = feeder.bodies([clip])
        explanation = explain_clip(evaluation.model, bodies.to(evaluation.device), label)
        title = f"{results.names[clip]}: {true} predicted as {wrong}, {100 * probability[clip]:.1f} %"
        explained.append((title, explanation))
    return explained


def accuracy_by_group(correct: Tensor, groups: Sequence[Any]) -> dict[Any, dict[str, float]]:
    """Clips and accuracy of each group: correct (N,) bool, groups (N,)."""
    members = {}
    for hit, group in zip(correct.tolist(), groups, strict=True):
        members.setdefault(group, []).append(hit)
    return {
        group: {"clips": len(hits), "accuracy": sum(hits) / len(hits)}
        for group, hits in sorted(members.items())
    }


def accuracies_by_weight(posterior: Tensor, label: Tensor) -> list[float]:
    """Accuracy of the fusion for each of TEMPORAL_WEIGHTS."""
    temporal, spatial = posterior[:, 0], posterior[:, 1]
    fused = [fuse(temporal, spatial, weight).argmax(1) for weight in TEMPORAL_WEIGHTS]
    return [(predicted == label).float().mean().item() for predicted in fused]


def fusion_weight_sweep(results: Results) -> dict[str, Any]:
    """Accuracy for each of TEMPORAL_WEIGHTS on the test and the validation clips, and the best weight
    on the latter: of several, the one in the middle."""
    weights, test = TEMPORAL_WEIGHTS.tolist(), accuracies_by_weight(results.posterior, results.label)
    sweep = {"temporal_weights": weights, "test": test}
    if results.validation:
        validation = accuracies_by_weight(*results.validation)
        highest = [i for i, accuracy in enumerate(validation) if accuracy == max(validation)]
        best = highest[len(highest) // 2]
        sweep |= {"validation": validation, "best_on_validation": weights[best]}
        sweep |= {"test_at_best": test[best]}
    return sweep


def training_precision(evaluations: Sequence[Evaluation]) -> str | None:
    """In which precision the networks were trained, all that occur; None if that of one is unknown (of
    an earlier version)."""
    found = [one.checkpoint.get("precision") for one in evaluations]
    if None in found:
        return None
    return ", ".join(sorted({name for names in found for name in names.split(", ")}))


def training_seconds(evaluations: list[Evaluation]) -> float | None:
    """How long the training of all networks took, from the logs of their runs; None if one of these
    does not have all epochs of its network."""
    seconds: list[float] = []
    for one in evaluations:
        epochs = one.checkpoint["epoch"]
        try:
            lines = RunFolder(one.path.parent).read_log(epochs)
            seconds += (json.loads(line)["seconds"] for line in lines)
        except (OSError, KeyError):
            return None
        if len(lines) < epochs:
            return None
    return round(sum(seconds), 1)


# --- Output -------------------------------------------------------------------------------------------


def output_paths(checkpoints: Sequence[Path], folder: Path | None) -> dict[str, Path]:
    """{content: path} of the files that the first lines of this file list. OSError where one cannot be
    written.

    folder  None: that of the first checkpoint; else their names begin with that of the run
    """
    first = checkpoints[0]
    stem = (full_name(first) if folder else first.stem) + others(checkpoints)
    folder = folder or output_folder(first)
    outputs = {content: folder / f"{stem}{end}" for content, end in TEST_OUTPUTS.items()}
    for path in outputs.values():
        check_output(path, "--out names another folder")
    return outputs


def full_name(path: Path) -> str:
    """What to call a checkpoint where those of several runs are together."""
    return "-".join(dict.fromkeys((run_name(path), path.stem)))


def others(checkpoints: Sequence[Path]) -> str:
    """What the names of files and pictures say about all checkpoints of an ensemble but the first."""
    names = "".join(f"+{full_name(path)}" for path in checkpoints[1:])
    return names if len(names) < 100 else f"+{len(checkpoints) - 1}-others"  # names have limits


def write_outputs(outputs: dict[str, Path], write: Callable[[dict[str, Path]], None]) -> None:
    """Write the files of `output_paths`, all or, after an error, none. OSError where that fails.

    write  writes them to paths in another folder that it is given
    """
    folder = outputs["record"].parent
    try:
        with tempfile.TemporaryDirectory(prefix=".", dir=folder) as temporary:
            write({content: Path(temporary, path.name) for content, path in outputs.items()})
            for path in Path(temporary).iterdir():
                path.replace(folder / path.name)
    except OSError as error:
        raise OSError(
            f"{folder}: the results, printed above, cannot be written: {error.strerror or error}\n"
            "make room, or name another folder with --out"
        ) from error


def write_files(
    evaluations: list[Evaluation],
    results: Results,
    record: dict[str, Any],
    explained: list[tuple[str, Explanation]],
    outputs: dict[str, Path],
) -> None:
    """Write the files that the first lines of this file list."""
    import plot

    first = evaluations[0]
    classes, label = first.checkpoint["classes"], results.label.tolist()
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    # A path that is not UTF-8 has parts that cannot be encoded: they become escapes.
    outputs["record"].write_text(text, encoding="utf-8", errors="backslashreplace")
    accuracy = record["results"]["fused"]["accuracy"]
    name = run_name(first.path) + others([one.path for one in evaluations])
    title = f"{name}: {100 * accuracy:.1f} % of {len(label)} clips"
    plot.confusion(confusion_matrix(results, len(classes)), classes, outputs["confusion"], title)
    plot.report(record, outputs["report"], title)
    if explained:
        plot.explanations(explained, Layout.from_dict(first.checkpoint["layout"]), outputs["explained"])
    with open(
        outputs["predictions"], "w", encoding="utf-8", errors="backslashreplace", newline=""
    ) as file:
        table = csv.writer(file)
        table.writerow(("clip", "class", "predicted", "probability", "temporal", "spatial"))
        for name, true, (temporal, spatial, fused), posterior in zip(
            results.names, label, results.predicted.tolist(), results.posterior[:, 2].tolist(),
            strict=True,
        ):  # fmt: skip
            true, fused_name, *streams = (classes[i] for i in (true, fused, temporal, spatial))
            table.writerow((name, true, fused_name, f"{posterior[fused]:.4f}", *streams))
    np.savez(
        outputs["scores"],
        posterior=results.posterior.numpy(),
        label=np.array(label),
        name=results.names,
    )


def print_record(record: dict[str, Any]) -> None:
    """Print what a user wants to see of a record."""
    print(f"{record['checkpoint']} (epoch {record['epoch']}) on {record['data']}: "
          f"{record['clips']} clips")  # fmt: skip
    for group in ("class", *GROUPS):
        for name, entry in record.get(f"per_{group}", {}).items():
            name = name if group == "class" else f"{group} {name}"
            print(f"  {100 * entry['accuracy']:5.1f} %  {entry['clips']:5d} clips  {name}")
    if record["most_confused"]:
        print("most confused")
    for true, predicted, clips, of in record["most_confused"]:
        print(f"  {clips:3d} of {of:4d}  {true}  predicted as  {predicted}")
    print("          accuracy   top-5    loss")
    for stream, values in record["results"].items():
        print(f"{stream:9s} {100 * values['accuracy']:6.2f} %  {100 * values['top5']:6.2f} %  "
              f"{values['loss']:.3f}")  # fmt: skip
    sweep = record["fusion_weight_sweep"]
    if "best_on_validation" in sweep:
        print(f"temporal weight {sweep['best_on_validation']:.2f}, the best on the validation clips: "
              f"{100 * sweep['test_at_best']:.2f} %")  # fmt: skip


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        prog="test.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT",
                        help="checkpoint of train.py, or name of a released network; several form an "
                             "ensemble")  # fmt: skip
    parser.add_argument(
        "--data",
        help="folder made by convert_data.py, as NTU-RGB-D/xview (default: the one trained on)",
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER",
                        help="folder for the outputs (default: that of the checkpoint; "
                             "checkpoints/NAME for a released network)")  # fmt: skip
    parser.add_argument("--temporal_weight", type=float, metavar="WEIGHT",
                        help="weight of the temporal stream in the fusion "
                             "(default: the setting of the checkpoint; it is not learned)")  # fmt: skip
    parser.add_argument("--batch_size", type=int, default=256, help="clips per batch (default: 256)")
    parser.add_argument("--device", default="", help="cuda or cpu (default: the GPU if there is one)")
    parser.add_argument("--precision", choices=engine.PRECISIONS, default="float32",
                        help="mixed: float16 on a GPU, bfloat16 on a CPU "
                             "(default: float32)")  # fmt: skip
    parser.add_argument("--tta", type=int, default=1, metavar="N",
                        help="test-time augmentation: mean over the whole clip and N - 1 others, "
                             "augmented as in training (default: 1, none)")  # fmt: skip
    parser.add_argument("--early_recognition", action="store_true",
                        help="test also on the first 10 %% of each clip, 20 %%, ...")  # fmt: skip
    parser.add_argument("--explain", action="store_true", help="draw what the worst confusions rest on")
    parser.add_argument("--num_workers", type=int, default=0,
                        help="DataLoader worker processes; 0: batches are made on the device "
                             "(default: 0)")  # fmt: skip
    parser.add_argument("--mmap", action="store_true", help="leave the data on disk")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    make_console_safe()
    require_one_process("test.py")
    arguments = parse_arguments(argv)
    try:
        for name, least in (("tta", 1), ("batch_size", 1), ("num_workers", 0)):
            check_whole(name, getattr(arguments, name), least)
        device = engine.resolve_device(arguments.device)
        engine.resolve_precision(arguments.precision, device)
        evaluations = [Evaluation(source, arguments, device) for source in arguments.checkpoints]
        if arguments.explain and len(evaluations) > 1:
            raise ValueError("--explain explains one network\ngive one checkpoint")
        outputs = output_paths([one.path for one in evaluations], arguments.out)
        results = run_tests(evaluations, arguments.early_recognition)
        record = make_record(evaluations, results)
        print_record(record)
        explained = explain_confusions(evaluations[0], results) if arguments.explain else []
        if not explained:
            path = outputs.pop("explained")
            if arguments.explain:
                print(f"every clip is classified correctly: no {path.name}")
        write_outputs(outputs, partial(write_files, evaluations, results, record, explained))
    except (ValueError, OSError) as error:
        raise SystemExit(f"test.py: {error_message(error)}") from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    print(*outputs.values(), sep="\n")


if __name__ == "__main__":
    main()
