"""The folder of a run: the names of all files in it, log and config.json. Stopping a run."""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from skeletons.lock import FileLock
from skeletons.output import write_partial
from training.checkpoint import load_checkpoint, to_bytes
from training.distributed import get_rank, on_first_rank
from training.loader import STOP_SIGNALS

# What test.py writes next to a checkpoint: content -> what follows the stem of the checkpoint's name.
TEST_OUTPUTS = {
    "record": "_test.json",
    "confusion": "_confusion.png",
    "report": "_report.png",
    "explained": "_explained.png",  # with --explain
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

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Make the folder, and keep other processes from writing into it. All processes that train
        together must call this. ValueError if another run has the lock; OSError where the folder cannot
        be written. A folder in which nothing was written is removed again."""
        made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        lock = FileLock(self.path / ".lock")

        def acquire() -> None:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                acquired = lock.acquire()
            except OSError as error:
                raise OSError(
                    f"{self.path} cannot be written: {error.strerror or error}\n"
                    "choose another --name, or start train.py in a folder that can be written"
                ) from error
            if not acquired:
                raise ValueError(
                    f"another process is training the run in {self.path}\n"
                    "wait until it ends, or choose another --name"
                )

        on_first_rank(acquire)
        try:
            yield
        finally:
            if get_rank() == 0:
                lock.release()
                with suppress(OSError):  # not empty
                    for folder in made:
                        folder.rmdir()

    def check_unused(self) -> None:
        """ValueError if a run is in the folder."""
        if self.last.exists() or self.best.exists():
            go_on = "go on with it (--resume), " if self.last.exists() else ""
            raise ValueError(
                f"{self.path} holds a run\n"
                f"{go_on}choose another --name, or replace the run (--overwrite)"
            )

    def check_saved(self) -> None:
        """ValueError if there is no epoch to go on after."""
        if self.last.exists():
            return
        if not self.path.exists():
            others = sorted(Path("checkpoints").glob("*/last.pt"), key=os.path.getmtime)
            names = ", ".join(last.parent.name for last in others[:-6:-1])
            raise ValueError(
                f"{self.path} is missing: there is no run of this name\n"
                f"give its name with --name{'; the latest runs are ' if names else ''}{names}"
            )
        overwrite = ", with --overwrite" if self.best.exists() else ""
        raise ValueError(
            f"{self.last} is missing: no epoch was finished\nstart without --resume{overwrite}"
        )

    def describe(self) -> str:
        """Which epoch was saved last, in words."""
        if not self.last.exists():
            return "no epoch was finished"
        return f"{self.last} holds epoch {load_checkpoint(self.last)['epoch']}"

    def begin(self, run_info: dict[str, Any], resume_after: int = 0) -> None:
        """Write `run_info` as config.json and prepare the log.

        resume_after  keep the log of so many epochs; 0: delete all files of an earlier run, no others
        """
        lines = self.read_log(resume_after)
        if len(lines) < resume_after:
            print(
                f"{self.log}: only {len(lines)} of {resume_after} epochs can be read\n"
                "the others will be missing in the curves",
                file=sys.stderr,
            )
        config = json.dumps(run_info, indent=1) + "\n"
        files = {self.log: "".join(lines).encode(), self.config: config.encode()}
        with prepared(files) as partials:
            if not resume_after:
                self._delete_run()
            for path, partial in partials.items():
                partial.replace(path)

    def _delete_run(self) -> None:
        endings = (".pt", ".pt.partial", ".onnx", *TEST_OUTPUTS.values())
        stems = ("last", "best", "last+*", "best+*")  # +: tested in an ensemble
        for pattern in (self.curves.name, *(stem + end for stem in stems for end in endings)):
            for file in self.path.glob(pattern):
                file.unlink()

    def read_log(self, epochs: int) -> list[str]:
        """The lines of the first epochs in log.jsonl; without those that are missing or cut off, as
        after a crash of the machine."""
        if not self.log.exists():
            return []
        lines = {}
        for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, TypeError, KeyError):
                lines[json.loads(line)["epoch"]] = f"{line}\n"
        return [lines[epoch] for epoch in range(1, epochs + 1) if epoch in lines]

    def save_epoch(self, line: dict[str, Any], checkpoints: dict[Path, dict[str, Any]]) -> None:
        """Add an epoch to log.jsonl and write its checkpoints {path: contents}, last.pt as the last:
        a resumed run repeats whatever was written after it.

        Raises OSError, for example for a full disk. The folder is then as it was before the epoch.
        """
        size = self.log.stat().st_size
        files = {path: to_bytes(contents) for path, contents in checkpoints.items()}
        try:
            with prepared(files) as partials:
                with open(self.log, "a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                for path, partial in partials.items():
                    partial.replace(path)
        except OSError as error:
            os.truncate(self.log, size)
            raise OSError(
                f"epoch {line['epoch']} cannot be saved: {error}; {self.describe()}\n"
                f"make room, then train again{' with --resume' if self.last.exists() else ''}"
            ) from error


@contextmanager
def prepared(files: dict[Path, bytes]) -> Iterator[dict[Path, Path]]:
    """Write all files {path: content} next to their places -> {path: partial file}, to be renamed in a
    `with` statement. At its end, also after an error, there are no partial files."""
    partials = {}
    try:
        for path, content in files.items():
            partials[path] = write_partial(path, content)
        yield partials
    finally:
        for partial in partials.values():
            partial.unlink(missing_ok=True)


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


class StopRequest:
    """Notices Ctrl-C and SIGTERM, so that the run can end after the step in progress. A second Ctrl-C
    ends it at once. Used in a `with` statement, which restores the signal handlers."""

    def __init__(self) -> None:
        self.number = 0  # of the signal

    def __enter__(self) -> "StopRequest":
        self.handlers = {number: signal.signal(number, self.request) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def request(self, number: int, _: FrameType | None) -> None:
        """The signal handler."""
        if self.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number
        print("\ntrain.py: stopping after this step", file=sys.stderr)

    def __call__(self) -> bool:
        return bool(self.number)
