"""Release a trained network: write checkpoints/released/NAME.pt and NAME.json.

    python test.py checkpoints/my-run/last.pt
    python benchmarks/release.py checkpoints/my-run/last.pt --name nw-ucla-full \\
        --records results/combinations/NW-UCLA-xview-full-stacked-chain-?.json
    python benchmarks/release.py --check      # test all released networks again

NAME.pt is the checkpoint without the state of the optimizer, with weights in half precision (float16).
It is tested, and if one accuracy differs from that of the run's test, its weights are left in float32.
NAME.json is the record of that test, with the file's SHA-256, the training log, and, from the --records
of runs that differ only in seed, the mean and standard deviation of their accuracies. The table of
checkpoints/README.md is made again from these files.

--check tests each released network whose data is there, and ends with an error if an accuracy is not
exactly that of its record.
"""

import argparse
import json
import re
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import training.environment  # noqa: E402, F401

import torch  # noqa: E402
from tables import read_released, row_key, write_zoo  # noqa: E402

import test  # noqa: E402
from skeletons.output import error_message, make_console_safe  # noqa: E402
from skeletons.storage import split_files  # noqa: E402
from training import engine, released  # noqa: E402
from training.checkpoint import load_checkpoint, to_bytes  # noqa: E402
from training.run import TEST_OUTPUTS, RunFolder, prepared  # noqa: E402

# What TrainingState adds to a checkpoint.
TRAINING_ONLY = {"optimizer", "scheduler", "scaler", "rng_states", "sampler"}
Record = dict[str, Any]


def short_data(data: str) -> str:
    """The last two parts of a benchmark's folder, which are the same on every machine."""
    return "/".join(Path(data).parts[-2:])


def accuracies(record: Record) -> dict[str, float]:
    """Accuracy of each stream."""
    return {stream: record["results"][stream]["accuracy"] for stream in engine.STREAMS}


def test_checkpoint(path: Path, data: str) -> Record:
    """What test.py writes about a checkpoint, on the CPU."""
    arguments = test.parse_arguments([str(path), "--data", data, "--device", "cpu"])
    evaluation = test.Evaluation(path, arguments, engine.resolve_device("cpu"))
    return test.make_record([evaluation], test.run_tests([evaluation], early_recognition=False))


# --- Releasing ----------------------------------------------------------------------------------------


def release(checkpoint: Path, name: str, records: Sequence[Path], data: str | None) -> Record:
    """Write NAME.pt and NAME.json -> the record. ValueError or OSError before anything is written.

    records  test records, or cross_validation.json files, of runs that differ only in seed
    data     folder of the benchmark (None: the one trained on)
    """
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise ValueError(f"--name {name}\nchoose lower-case letters and digits, with hyphens between")
    contents, expected = load_checkpoint(checkpoint), read_run_record(checkpoint)
    data = data or contents["config"]["data"]
    portable = {"name": name, "checkpoint": name, "data": short_data(data)}
    runs = spread(expected | portable, records)
    contents = {k: v for k, v in contents.items() if k not in TRAINING_ONLY}
    contents["config"] |= {"data": short_data(data)}
    contents["config"]["machine"] |= {"device": ""}
    precision, content, record = halve(contents, name, data, expected)
    folder = RunFolder(checkpoint.parent)
    record |= {k: expected[k] for k in ("training_seconds", "clips_per_second", "device", "torch")}
    record |= portable | {
        "weights": precision,
        "bytes": len(content),
        released.CHECKSUM: released.sha256(content),
        "runs": runs,
        "trained_on": json.loads(folder.config.read_text(encoding="utf-8"))["device"],
        "log": list(map(json.loads, folder.read_log(contents["epoch"]))),
    }
    path = released.RELEASED / f"{name}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    with prepared({path: content, path.with_suffix(".json"): to_json(record)}) as partials:
        for final, partial in partials.items():
            partial.replace(final)
    return record


def read_run_record(checkpoint: Path) -> Record:
    """The record of the test of a run. FileNotFoundError or ValueError without a plain one."""
    path = checkpoint.with_name(checkpoint.stem + TEST_OUTPUTS["record"])
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing\nfirst run: python test.py {checkpoint}")
    record = json.loads(path.read_text(encoding="utf-8"))
    weight = record["config"]["network"]["temporal_weight"]
    if (record["tta"], record["temporal_weight"]) != (1, weight):
        raise ValueError(
            f"{path} was made with other options of test.py\nrun again: python test.py {checkpoint}"
        )
    return record


def halve(
    contents: dict[str, Any], name: str, data: str, expected: Record
) -> tuple[str, bytes, Record]:
    """The smallest file with the accuracies of the run's record -> (precision of its weights, its
    content, record of its test). ValueError if there is none."""
    for precision in (torch.float16, torch.float32):
        weights = {k: w.to(precision) if w.is_floating_point() else w
                   for k, w in contents["model"].items()}  # fmt: skip
        content = to_bytes(contents | {"model": weights})
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"{name}.pt")
            path.write_bytes(content)
            record = test_checkpoint(path, data)
        if accuracies(record) == accuracies(expected):
            return str(precision).removeprefix("torch."), content, record
        print(f"with weights in {precision}: {accuracies(record)}, not {accuracies(expected)}")
    raise ValueError(f"{name}: the accuracies are not those of the run's record\ntest the run again")


def spread(record: Record, paths: Sequence[Path]) -> Record | None:
    """Mean and standard deviation of the accuracies of runs that differ from that of `record` only in
    seed, from their records; None without any. ValueError for a record of another setting."""
    values, seeds, fold = [], [], Path(record["data"]).name
    for path in paths:
        other = json.loads(path.read_text(encoding="utf-8"))
        if fold in other.get("folds", ()):  # of cross_validate.py
            other |= {"data": f"{other['config']['data']}/{fold}"} | other["folds"][fold]
        if "data" not in other or setting(other) != setting(record):
            raise ValueError(
                f"{path} is not the record of a run that differs from this one only in seed\n"
                "leave it out, or give another one"
            )
        values.append(accuracies(other)["fused"])
        seeds.append(other["config"]["seed"])
    if not values:
        return None
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"n": len(values), "mean": statistics.mean(values), "std": deviation, "seeds": seeds}


def setting(record: Record) -> tuple:
    """What runs that differ only in seed have in common."""
    plain = {key: value for key, value in record.items() if key != "label"}
    validation = (record["config"][key] for key in ("validation_ratio", "validation_camera"))
    return short_data(record["data"]), *validation, row_key(plain)


def to_json(record: Record) -> bytes:
    """A record as the text of a file, with one line for each epoch of the log."""
    others = {key: value for key, value in record.items() if key != "log"}
    text = json.dumps(others, indent=1, ensure_ascii=False).removesuffix("\n}")
    log = ",\n  ".join(map(json.dumps, record["log"]))
    return f'{text},\n "log": [\n  {log}\n ]\n}}\n'.encode()


# --- The command --------------------------------------------------------------------------------------


def check(root: Path) -> bool:
    """Test the released networks whose data is in `root` again and print a table -> whether all
    accuracies are those of the records. ValueError for a file that is not the released one."""
    same = True
    for record in read_released():
        folder = root / record["data"]
        path = released.RELEASED / f"{record['name']}.pt"
        load_checkpoint(path)
        outcome = f"not tested: {folder} is missing"
        if split_files(folder, "val")[0].is_file():
            measured = accuracies(test_checkpoint(path, str(folder)))
            equal = measured == accuracies(record)
            numbers = ", ".join(f"{stream} {100 * value:.2f} %" for stream, value in measured.items())
            outcome = f"{numbers}: {'equal' if equal else f'NOT EQUAL, {accuracies(record)}'}"
            same &= equal
        print(f"{record['name']:20s} {outcome}", flush=True)
    return same


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="release.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", nargs="?", type=Path, help="checkpoint of a run that was tested")
    parser.add_argument("--name", help="of the released network")
    parser.add_argument("--records", nargs="+", type=Path, default=[],
                        help="records of runs that differ only in seed")  # fmt: skip
    parser.add_argument("--data", help="folder of the benchmark (default: the one trained on)")
    parser.add_argument("--check", action="store_true", help="test the released networks again")
    parser.add_argument("--data_root", type=Path, default=Path(),
                        help="--check: folder that has NW-UCLA/xview and others (default: this "
                             "folder)")  # fmt: skip
    make_console_safe()
    arguments = parser.parse_args(argv)
    if arguments.check == bool(arguments.checkpoint) or arguments.check == bool(arguments.name):
        parser.error("give a checkpoint and its --name, or --check")
    try:
        if arguments.check:
            if not check(arguments.data_root):
                raise SystemExit("release.py: not all accuracies are those of the records")
            return
        record = release(arguments.checkpoint, arguments.name, arguments.records, arguments.data)
        write_zoo()
    except (ValueError, OSError) as error:
        raise SystemExit(f"release.py: {error_message(error)}") from error
    print(f"{record['name']}: {record['bytes']:,} bytes, {record['weights']}, {accuracies(record)}")


if __name__ == "__main__":
    main()
