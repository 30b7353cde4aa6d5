"""Cross-validation: train a network for each fold of a data set, and test it on that fold.

    python cross_validate.py SBU --preset small
    python cross_validate.py my-recordings-converted --preset full --name mine --seed 1

SBU is the folder of fold1, fold2, ..., made by convert_data.py (docs/data.md); the options are those of
train.py. Each network is trained without validation clips, and tested after its last epoch.

Writes the runs to checkpoints/<name>/fold1/, ..., and checkpoints/<name>/cross_validation.json: the
accuracy of both streams and of their fusion in each fold, mean and standard deviation over the folds,
and the accuracy on the clips of all folds, each tested once. The same command continues after a
stop: finished folds are not trained again.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import test
import train
from skeletons.output import error_message, make_console_safe
from skeletons.storage import find_folds, split_files
from skeletons.version import git_commit
from training import engine
from training.checkpoint import load_checkpoint
from training.distributed import require_one_process
from training.run import prepared
from training.settings import with_fields

# Options of train.py that are decided here.
FIXED = {"data", "validation_ratio", "validation_camera", "resume", "overwrite"}


def is_finished(config: train.Config) -> bool | None:
    """Whether the last epoch of a run is saved; None if there is no run. ValueError for a run of other
    settings or data."""
    run = train.run_folder(config)
    if not run.last.exists():
        return None
    checkpoint = load_checkpoint(run.last)
    try:
        train.check_resumable(config, checkpoint)
        if Path(checkpoint["config"]["data"]).resolve() != Path(config.data).resolve():
            raise ValueError(f"it was trained on {checkpoint['config']['data']}")
        files = split_files(config.data, "train")
        if max(file.stat().st_mtime for file in files) > run.last.stat().st_mtime:
            raise ValueError(f"{config.data} was converted again since its last epoch")
    except ValueError as error:
        raise ValueError(
            f"{run.path} holds another run: {str(error).splitlines()[0]}\n"
            f"choose another --name, or remove {run.path.parent} to train all folds again"
        ) from None
    return checkpoint["epoch"] == config.optimization.epochs


def train_folds(configs: Sequence[train.Config]) -> None:
    """Train each fold that is not finished. Raises SystemExit after an error or a stop."""
    states = list(map(is_finished, configs))  # all, before the first one is trained
    for config, finished in zip(configs, states, strict=True):
        if finished:
            print(f"{train.run_folder(config).path}: finished before")
            continue
        try:
            train.train_or_exit(config, resume=finished is not None, overwrite=False)
        except SystemExit:
            print("cross_validate.py: the same command goes on with all folds", file=sys.stderr)
            raise


def test_folds(configs: Sequence[train.Config]) -> dict[str, Any]:
    """The entries of cross_validation.json that are results."""
    folds, pooled = {}, engine.Metrics()
    for config in configs:
        last, machine = str(train.run_folder(config).last), config.machine
        options = [last, "--data", config.data, "--device", machine.device, *["--mmap"] * machine.mmap]
        arguments, device = test.parse_arguments(options), engine.resolve_device(machine.device)
        metrics, evaluation = engine.Metrics(), test.Evaluation(Path(last), arguments, device)
        posterior, label, _ = evaluation.test()
        for each in (metrics, pooled):
            each.add(posterior, label)
        folds[Path(config.data).name] = {"clips": len(label), "results": metrics.results()}
    record = {"clips": len(pooled.collected()[1]), "results": pooled.results(), "folds": folds}
    for name, function in (("mean", statistics.mean), ("standard_deviation", statistics.stdev)):
        record[name] = {stream: function(fold["results"][stream]["accuracy"] for fold in folds.values())
                        for stream in engine.STREAMS}  # fmt: skip
    return record


def print_record(record: dict[str, Any]) -> None:
    """Print the accuracies as a table."""
    print(f"{'':12s}clips" + "".join(f"{stream:>15s}" for stream in engine.STREAMS))
    for name, row in (*record["folds"].items(), ("all clips", record)):
        cells = (f"{100 * values['accuracy']:13.2f} %" for values in row["results"].values())
        print(f"{name:12s}{row['clips']:5d}" + "".join(cells))
    pairs = zip(record["mean"].values(), record["standard_deviation"].values(), strict=True)
    print(f"{'mean':17s}" + "".join(f"{100 * mean:7.2f} ± {100 * std:5.2f}" for mean, std in pairs))


def run(folder: Path, options: Sequence[str]) -> Path:
    """Cross-validate with the options of train.py; returns the path of cross_validation.json."""
    given = [text[2:].partition("=")[0].replace("-", "_") for text in options if text[:2] == "--"]
    if fixed := sorted(FIXED.intersection(given)):
        raise ValueError(f"--{fixed[0]} is an option of train.py only\nleave it out")
    config, _, _ = train.parse_command_line(options)
    config = with_fields(config, data=str(folder), validation_ratio=0.0, validation_camera=0)
    config = with_fields(config, name=train.run_name(config))
    train.validate(config)
    configs = [with_fields(config, data=str(fold), name=f"{config.name}/{fold.name}")
               for fold in find_folds(folder)]  # fmt: skip
    train_folds(configs)
    record = test_folds(configs) | {"config": asdict(config), "commit": git_commit()}
    print_record(record)
    path = train.run_folder(config).path / "cross_validation.json"
    with prepared({path: (json.dumps(record, indent=1) + "\n").encode()}) as partials:
        partials[path].replace(path)
    return path


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    make_console_safe()
    require_one_process("cross_validate.py")
    parser = argparse.ArgumentParser(
        prog="cross_validate.py", usage="cross_validate.py FOLDER [options of train.py]",
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("folder", type=Path, help="folder of fold1, fold2, ...", metavar="FOLDER")
    argv = sys.argv[1:] if argv is None else argv
    try:
        print(run(parser.parse_args(argv[:1]).folder, argv[1:]))
    except (ValueError, OSError) as error:
        raise SystemExit(f"cross_validate.py: {error_message(error)}") from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
