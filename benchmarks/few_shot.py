"""Few training clips per class: accuracy with and without the weights of a network of other data.

    python benchmarks/few_shot.py checkpoints/utd/last.pt --data NW-UCLA/xview

Three starts, with the network and preprocessing settings of the given checkpoint, and augmentation and
optimization of the preset `full`, but for the numbers below:

scratch     random weights
fine-tuned  the weights of the checkpoint (train.py --init); new classifiers
frozen      the same, and only the classifiers are trained (train.py --init --freeze both)

All are trained for the same number of steps on the same clips. A seed draws clips and initial weights;
the clips of 5 per class contain those of 1 per class. The learning rate of each start is chosen with 5
clips per class, as the most accurate one on the training clips of --validation_camera, which are then
not trained on. After that, each run is tested once, after its last step, on all test clips.

Writes results/few_shot.json after each run, whose runs are not repeated, and github/few_shot.png.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import training.environment  # noqa: E402, F401

import torch  # noqa: E402

import plot  # noqa: E402
import train  # noqa: E402
from skeletons.output import error_message, make_console_safe  # noqa: E402
from skeletons.version import git_commit  # noqa: E402
from test import open_split  # noqa: E402
from training import engine  # noqa: E402
from training.checkpoint import load_checkpoint  # noqa: E402
from training.loader import make_loader  # noqa: E402
from training.run import prepared  # noqa: E402
from training.validation import validation_split  # noqa: E402

STARTS = {"scratch": "none", "fine-tuned": "none", "frozen": "both"}  # -> what is frozen
PER_CLASS_TO_CHOOSE = 5  # clips per class with which the learning rates are compared
BATCH_SIZE = 20  # divides the numbers of clips of 10 classes


def draw_clips(labels: torch.Tensor, candidates: Sequence[int], per_class: int, seed: int) -> list[int]:
    """So many of the candidates of each class, at random; fewer clips are among those of a larger
    number. ValueError for a class that has not enough."""
    order = torch.randperm(len(candidates), generator=torch.Generator().manual_seed(seed))
    members: dict[int, list[int]] = {}
    for clip in torch.as_tensor(candidates)[order].tolist():
        members.setdefault(int(labels[clip]), []).append(clip)
    fewest = min(map(len, members.values()))
    if fewest < per_class:
        raise ValueError(f"a class has only {fewest} clips to train on\nlower --per_class {per_class}")
    return sorted(clip for clips in members.values() for clip in clips[:per_class])


class Study:
    """Data, checkpoint, and the record of the runs so far."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments, self.device = arguments, torch.device("cpu")
        self.checkpoint = load_checkpoint(arguments.checkpoint)
        self.record = {
            "checkpoint": str(arguments.checkpoint),
            "checkpoint_data": self.checkpoint["config"]["data"],
            "checkpoint_epoch": self.checkpoint["epoch"],
            "data": arguments.data,
            "steps": arguments.steps,
            "batch_size": BATCH_SIZE,
            "validation_camera": arguments.validation_camera,
            "commit": git_commit(),
            "device": engine.device_name(self.device),
            "torch": torch.__version__,
            "runs": [],
        }
        if arguments.out.exists():
            earlier = json.loads(arguments.out.read_text(encoding="utf-8"))
            fixed = ("checkpoint", "data", "steps", "validation_camera")
            if any(earlier[key] != self.record[key] for key in fixed):
                raise ValueError(f"{arguments.out} holds a study of other settings\ngive another --out")
            self.record = earlier
        config = self.config("scratch", seed=0, learning_rate=arguments.learning_rates[0], batches=1)
        self.record["config"] = asdict(config)  # of the first run, but for its epochs
        self.feeder, self.meta = train.open_data(config)

    def config(self, start: str, seed: int, learning_rate: float, batches: int) -> train.Config:
        """Settings of a run with so many batches per epoch."""
        epochs = self.arguments.steps // batches
        init = "" if start == "scratch" else self.arguments.checkpoint
        config = train.make_config(
            "full", data=self.arguments.data, init=init,
            freeze=STARTS[start], seed=seed, learning_rate=learning_rate, epochs=epochs,
            warmup_epochs=epochs // 40, batch_size=BATCH_SIZE, validation_ratio=0.0, device="cpu",
        )  # fmt: skip
        return train.inherit(config, self.checkpoint)

    def accuracy(
        self, start: str, per_class: int, seed: int, learning_rate: float, camera: int
    ) -> dict[str, float]:
        """Train, then evaluate on the clips of a training camera, or, if that is 0, on the test clips;
        from the record if that has the run. -> {stream: accuracy}."""
        run = {"start": start, "per_class": per_class, "seed": seed, "learning_rate": learning_rate,
               "evaluated_on": f"training camera {camera}" if camera else "test"}  # fmt: skip
        for earlier in self.record["runs"]:
            if run.items() <= earlier.items():
                return earlier["accuracy"]
        began = time.process_time()
        candidates, evaluated = validation_split(self.meta, 0.0, camera)
        clips = draw_clips(self.feeder.label, candidates, per_class, seed)
        config = self.config(start, seed, learning_rate, -(-len(clips) // BATCH_SIZE))
        one = train.Run(config, self.device, self.feeder, self.meta)
        if config.init:
            one.initialise(self.checkpoint)
        one.batches = make_loader(self.feeder, clips, BATCH_SIZE, one.state.order)
        step = one.training_step()
        for _ in range(config.optimization.epochs):
            engine.train_epoch(step, one.batches)
            one.state.scheduler.step()
        feeder = self.feeder.eval()
        if not camera:
            feeder = open_split(one.fixed_entries, self.arguments.checkpoint, self.arguments.data)
            evaluated = range(len(feeder))
        metrics = engine.evaluate(one.state.model, make_loader(feeder, evaluated, 64), self.device)[0]
        run["steps"] = config.optimization.epochs * len(one.batches)
        run["clips"], run["evaluated"] = len(clips), len(evaluated)
        run["accuracy"] = {stream: values["accuracy"] for stream, values in metrics.items()}
        run["cpu_seconds"] = round(time.process_time() - began, 1)
        self.record["runs"].append(run)
        self.save()
        fused = plot.percent([run["accuracy"]["fused"]])[0]
        name = f"{start}, {per_class} per class, seed {seed}, learning rate {learning_rate:g}"
        print(f"{name}: {fused:.1f} % on {run['evaluated_on']}, {run['cpu_seconds']} s", flush=True)
        return run["accuracy"]

    def save(self) -> None:
        """Write the record."""
        self.arguments.out.parent.mkdir(parents=True, exist_ok=True)
        contents = (json.dumps(self.record, indent=1) + "\n").encode()
        with prepared({self.arguments.out: contents}) as partials:
            partials[self.arguments.out].replace(self.arguments.out)

    def choose_learning_rates(self) -> dict[str, float]:
        """The most accurate learning rate of each start on the validation camera; of equal ones the
        first."""
        camera, rates = self.arguments.validation_camera, self.arguments.learning_rates
        return {
            start: max(rates, key=lambda rate: self.accuracy(
                start, PER_CLASS_TO_CHOOSE, self.arguments.seeds[0], rate, camera)["fused"])
            for start in STARTS
        }  # fmt: skip

    def run(self) -> None:
        """All runs, the summary and the picture."""
        arguments, rates = self.arguments, self.choose_learning_rates()
        accuracies: dict[str, dict[int, list[float]]] = {start: {} for start in STARTS}
        for seed, per_class, start in product(arguments.seeds, arguments.per_class, STARTS):
            accuracy = self.accuracy(start, per_class, seed, rates[start], camera=0)["fused"]
            accuracies[start].setdefault(per_class, []).append(accuracy)
        self.record |= {"learning_rates": rates, "summary": accuracies}
        self.save()
        for start, per_class in product(STARTS, arguments.per_class):
            values = plot.percent(accuracies[start][per_class])
            deviation = statistics.stdev(values) if len(values) > 1 else 0.0
            print(f"{start:12s}{per_class:4d} {statistics.mean(values):6.1f} ± {deviation:.1f}")
        draw(self.record, arguments.picture)
        print(arguments.picture)


def draw(record: dict, path: Path) -> None:
    """Accuracy over the number of clips per class: a dot for each seed, a line through the means, a
    band from the lowest to the highest."""
    from matplotlib.ticker import NullLocator

    source, data = (Path(record[key]).parts[-2] for key in ("checkpoint_data", "data"))
    labels = {
        "scratch": "from scratch",
        "fine-tuned": f"fine-tuned from {source}",
        "frozen": f"frozen streams of {source}, new classifiers",
    }
    figure = plot.new_figure(labels.values(), figsize=(6, 4))
    axis = figure.subplots()
    for color, (start, label) in zip(plot.COLORS, labels.items(), strict=False):
        values = {int(n): plot.percent(each) for n, each in record["summary"][start].items()}
        numbers = sorted(values)
        axis.plot(numbers, [statistics.mean(values[n]) for n in numbers], color=color, label=label)
        axis.fill_between(numbers, *([f(values[n]) for n in numbers] for f in (min, max)),
                          color=color, alpha=0.15, linewidth=0)  # fmt: skip
        pairs = [(n, value) for n in numbers for value in values[n]]
        axis.plot(*zip(*pairs, strict=True), "o", color=color, markersize=3)
    axis.set(xscale="log", xlabel="training clips per class", ylabel="accuracy on the test clips, %")
    axis.set_xticks(numbers, map(str, numbers))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_title(f"{data}, few training clips: {record['steps']} steps each", fontsize=11)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    plot.open_axes(axis)
    plot.save(figure, path)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    make_console_safe()
    parser.add_argument("checkpoint", help="of a network that was trained on other data")
    parser.add_argument("--data", default="NW-UCLA/xview", help="folder of the benchmark")
    parser.add_argument("--per_class", type=int, nargs="+", default=[1, 5, 10, 20])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=240, help="of each run")
    parser.add_argument("--learning_rates", type=float, nargs="+", default=[0.002, 0.0007, 0.006, 0.02])
    parser.add_argument("--validation_camera", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("results/few_shot.json"))
    parser.add_argument("--picture", type=Path, default=Path("github/few_shot.png"))
    try:
        Study(parser.parse_args(argv)).run()
    except (ValueError, OSError) as error:
        raise SystemExit(f"few_shot.py: {error_message(error)}") from error


if __name__ == "__main__":
    main()
