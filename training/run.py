"""The folder of a run: the names of all files in it, log and config.json."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from training.checkpoint import load_checkpoint

# What test.py writes next to a checkpoint: content -> what follows the stem of the checkpoint's name.
TEST_OUTPUTS = {
    "record": "_test.json",
    "confusion": "_confusion.png",
    "report": "_report.png",
    "predictions": "_predictions.csv",
    "scores": "_scores.npz",
}


class RunFolder:
    """Paths and log of a run.

    config.json  configuration, commit, machine, size of the network
    log.jsonl    one line of JSON per epoch
    last.pt      checkpoint of the last epoch
    best.pt      checkpoint of the best epoch
    curves.png   accuracy and loss over the epochs
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last, self.best = path / "last.pt", path / "best.pt"
        self.log, self.config, self.curves = (
            path / name for name in ("log.jsonl", "config.json", "curves.png")
        )

    def check_unused(self) -> None:
        """ValueError if a run is in the folder."""
        if self.last.exists() or self.best.exists():
            go_on = "go on with it (--resume), " if self.last.exists() else ""
            raise ValueError(
                f"{self.path} holds a run\n"
                f"{go_on}choose another --name, or replace the run (--overwrite)"
            )

    def describe(self) -> str:
        """What last.pt holds, in words."""
        if not self.last.exists():
            return "no epoch was finished"
        return f"{self.last} holds epoch {load_checkpoint(self.last)['epoch']}"

    def begin(self, run_info: dict[str, Any], resume_after: int = 0) -> None:
        """Write `run_info` as config.json and prepare the log.

        resume_after  keep the log of so many epochs; 0: delete all files of an earlier run, no others
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lines = []
        if resume_after:
            lines = self.log.read_text(encoding="utf-8").splitlines(keepends=True)[:resume_after]
        else:
            endings = (".pt", ".pt.partial", ".onnx", *TEST_OUTPUTS.values())
            stems = ("last", "best", "last+*", "best+*")  # +: tested in an ensemble
            for pattern in (self.curves.name, *(stem + end for stem in stems for end in endings)):
                for file in self.path.glob(pattern):
                    file.unlink()
        partial = self.log.with_suffix(".partial")
        partial.write_text("".join(lines), encoding="utf-8")
        partial.replace(self.log)
        self.config.write_text(json.dumps(run_info, indent=1) + "\n", encoding="utf-8")

    def append_log(self, line: dict[str, Any]) -> None:
        """Add an epoch to log.jsonl."""
        with open(self.log, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def describe_run(run_info: dict[str, Any], processes: int) -> str:
    """config.json in a line of text."""
    clips, device = run_info["clips"], run_info["device"]
    machines = device if processes == 1 else f"{processes} x {device}"
    return (
        f"{clips['train']} training clips, {clips['validation']} validation clips, "
        f"{run_info['parameters']:,} parameters, on {machines}"
    )


def describe_epoch(line: dict[str, Any]) -> str:
    """A line of log.jsonl in a line of text."""
    parts = [f"epoch {line['epoch']:3d}  {line['seconds']:5.1f} s"]
    for clips in ("train", "validation"):
        if clips in line:
            accuracy = "  ".join(f"{s} {100 * m['accuracy']:5.1f}" for s, m in line[clips].items())
            parts.append(f"{clips}: loss {line[clips]['fused']['loss']:.3f}  {accuracy}")
    return " | ".join(parts)


def tensorboard_writer(folder: Path) -> Callable[[dict[str, Any]], None]:
    """A function that logs an epoch's line for TensorBoard. ValueError if that is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError("--tensorboard needs TensorBoard\npip install tensorboard") from error
    writer = None

    def write(line: dict[str, Any]) -> None:
        nonlocal writer
        # purge_step: TensorBoard drops what an earlier run logged of this epoch and later ones.
        writer = writer or SummaryWriter(folder, purge_step=line["epoch"])
        for clips in ("train", "validation"):
            for stream, values in line.get(clips, {}).items():
                for metric, value in values.items():
                    writer.add_scalar(f"{metric}/{stream}/{clips}", value, line["epoch"])
        writer.add_scalar("learning_rate", line["learning_rate"], line["epoch"])
        writer.flush()

    return write
