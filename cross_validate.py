"""Cross-validation: train a network for each fold of a data set, and test it on that fold.

    python cross_validate.py SBU --preset small
    python cross_validate.py my-recordings-converted --preset full --name mine --seed 1
    python cross_validate.py SBU --ensemble sbu-joint sbu-bone --name sbu-both      # the mean of both

SBU is the folder of fold1, fold2, ..., made by convert_data.py (docs/data.md); the options are those of
train.py. Each network is trained without validation clips, and tested after its last epoch.

Writes the runs to checkpoints/<name>/fold1/, ..., and checkpoints/<name>/cross_validation.json: the
accuracy of both streams and of their fusion in each fold, mean and standard deviation over the folds,
and the accuracy on the clips of all folds, each tested once. The same command continues after a
stop: finished folds are not trained again. With --ensemble, nothing is trained: the mean of the
posteriors of earlier runs of this command is tested in each fold.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any

import training.environment  # noqa: F401

import torch

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

RECORD = "cross_validation.json"
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
        check_data(checkpoint, run.last, config.data)
    except ValueError as error:
        raise ValueError(
            f"{run.path} holds another run: {str(error).splitlines()[0]}\n"
            f"choose another --name, or remove {run.path.parent} to train all folds again"
        ) from None
    return checkpoint["epoch"] == config.optimization.epochs


def check_data(checkpoint: dict[str, Any], path: Path, data: str | Path) -> None:
    """ValueError if the checkpoint at `path` was not trained on the data as it is now."""
    if Path(checkpoint["config"]["data"]).resolve() != Path(data).resolve():
        raise ValueError(f"it was trained on {checkpoint['config']['data']}")
    files = split_files(data, "train")
    if max(file.stat().st_mtime for file in files) > path.stat().st_mtime:
        raise ValueError(f"{data} was converted again since its last epoch")


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


def test_folds(folds: Sequence[Path], runs: Sequence[Path], machine: train.MachineConfig) -> dict:
    """The entries of cross_validation.json that are results, of the mean posteriors of the networks
    <run>/<fold>/last.pt."""
    device = engine.resolve_device(machine.device)
    tested, pooled, networks = {}, engine.Metrics(), []
    for fold in folds:
        paths = [str(run / fold.name / "last.pt") for run in runs]
        arguments = test.parse_arguments([*paths, "--data", str(fold), *["--mmap"] * machine.mmap])
        evaluations = [test.Evaluation(path, arguments, device) for path in paths]
        networks += evaluations
        results = test.run_tests(evaluations, early_recognition=False)
        metrics = engine.Metrics()
        for each in (metrics, pooled):
            each.add(results.posterior, results.label)
        tested[fold.name] = {"clips": len(results.label), "results": metrics.results()}
    record = {"clips": len(pooled.collected()[1]), "results": pooled.results(), "folds": tested}
    for name, function in (("mean", statistics.mean), ("standard_deviation", statistics.stdev)):
        record[name] = {
            stream: function(fold["results"][stream]["accuracy"] for fold in tested.values())
            for stream in engine.STREAMS
        }
    return record | {
        "ensemble_size": len(evaluations),
        "parameters": sum(p.numel() for one in evaluations for p in one.model.parameters()),
        "flops": sum(one.flops() for one in evaluations),
        "training_precision": test.training_precision(networks),
        "device": engine.device_name(device),
        "torch": torch.__version__,
        "date": date.today().isoformat(),
    }


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
    folder_of_run = train.run_folder(config).path
    if (folder_of_run / RECORD).exists() and not next(folder_of_run.rglob("last.pt"), None):
        raise ValueError(f"{folder_of_run} holds the result of an ensemble\nchoose another --name")
    folds = find_folds(folder)
    train_folds([with_fields(config, data=str(fold), name=f"{config.name}/{fold.name}")
                 for fold in folds])  # fmt: skip
    record = test_folds(folds, [folder_of_run], config.machine) | {"config": asdict(config)}
    return write_record(record, folder_of_run)


def run_ensemble(folder: Path, names: Sequence[str], name: str, device: str = "") -> Path:
    """Test the ensemble of the cross-validations of these names; returns the path of
    cross_validation.json, in checkpoints/<name>/."""
    if not all((name, *names)):
        raise ValueError("a name is empty\ngive the names of runs, in checkpoints/")
    target, *runs = (train.run_folder(train.make_config(name=one)).path for one in (name, *names))
    if len(set(runs)) < len(runs):
        raise ValueError("--ensemble names a run twice\nname each once")
    if next(target.rglob("last.pt"), None):
        raise ValueError(f"{target} holds a run\nchoose another --name for the ensemble")
    folds = find_folds(folder)
    configs = [finished_config(run, fold) for run, fold in product(runs, folds)]
    config = with_fields(configs[0], data=str(folder), name=name)
    record = test_folds(folds, runs, train.MachineConfig(device=device))
    return write_record(record | {"config": asdict(config), "checkpoint": " ".join(names)}, target)


def finished_config(run: Path, fold: Path) -> train.Config:
    """The settings of the network of a fold. ValueError unless it is finished, and was trained by this
    script on the other folds."""
    path = run / fold.name / "last.pt"
    try:
        if not path.exists():
            raise ValueError(f"{path} is missing")
        checkpoint = load_checkpoint(path)
        config = train.config_from_dict(checkpoint["config"])
        check_data(checkpoint, path, fold)
        if checkpoint["epoch"] < config.optimization.epochs:
            raise ValueError(f"it ends after epoch {checkpoint['epoch']}")
        if checkpoint["clips"]["validation"]:
            raise ValueError("it was not trained on all clips of the other folds")
    except ValueError as error:
        name = run.relative_to("checkpoints").as_posix()
        raise ValueError(
            f"{path.parent} is no finished run of cross_validate.py: {str(error).splitlines()[0]}\n"
            f"make it, with its own options: python cross_validate.py {fold.parent} --name {name}"
        ) from error
    return config


def write_record(record: dict[str, Any], folder: Path) -> Path:
    """Print the record and write it into a folder; returns its path."""
    record = record | {"commit": git_commit()}
    print_record(record)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RECORD
    with prepared({path: (json.dumps(record, indent=1) + "\n").encode()}) as partials:
        partials[path].replace(path)
    return path


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    make_console_safe()
    require_one_process("cross_validate.py")
    parser = argparse.ArgumentParser(
        prog="cross_validate.py", usage="cross_validate.py FOLDER [options of train.py]\n"
        "       cross_validate.py FOLDER --ensemble NAME NAME ... --name NAME",
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("folder", type=Path, help="folder of fold1, fold2, ...", metavar="FOLDER")
    argv = list(sys.argv[1:] if argv is None else argv)
    parser.add_argument("--ensemble", nargs="+", metavar="NAME", dest="names",
                        help="test the ensemble of the runs of these names")  # fmt: skip
    parser.add_argument("--name", required="--ensemble" in argv, help="folder in checkpoints/")
    parser.add_argument("--device", default="", help="cuda or cpu (default: the GPU if there is one)")
    try:
        if "--ensemble" in argv:
            arguments = parser.parse_args(argv)
            print(run_ensemble(**vars(arguments)))
        else:
            print(run(parser.parse_args(argv[:1]).folder, argv[1:]))
    except (ValueError, OSError) as error:
        raise SystemExit(f"cross_validate.py: {error_message(error)}") from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
