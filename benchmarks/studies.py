"""Series of training runs, recorded: what the tables of README.md and results/README.md are made from.

    python benchmarks/studies.py combinations --data NW-UCLA/xview --settings small full --seeds 0 1 2
    python benchmarks/studies.py ablation --data NW-UCLA/xview --held_out_camera 2 --seeds 0 1
    python benchmarks/studies.py ablation --data UTD-MHAD/xsub --held_out 0.05 --seeds 0 1
    python benchmarks/studies.py views --seeds 0 1 2
    python benchmarks/tables.py

combinations  settings of train.py with --temporal and --spatial (default: all four), trained on every
              training clip; the last epoch is tested. With --exchange two runs make all four: streams
              that share nothing are trained each alone, whichever the other is, so stacked + chain and
              hierarchical + traversal are trained, and tested with their spatial streams exchanged too
ablation      each ingredient of `full` added alone to `paper` or `small` and taken alone from `full`
              (--settings chooses among them; --batch_size replaces that of `paper` and `small`), looked
              at on the held-out training camera or subjects (each seed holds out others); the test
              part is not touched
views         the demo's clips: trained on two cameras, tested on the third, with and without 3D
              transforms, with the body's own axes and with the camera's

A run leaves one record in results/<study>/ of the folder this is called in. One that has its record is
not made again, so a study that was stopped goes on; with --resume the run that was under way, too.
--jobs runs go on at a time, each with its share of the CPU's threads.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import date
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import train  # noqa: E402
from model import SPATIAL, TEMPORAL  # noqa: E402
from training import engine  # noqa: E402
from training.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402

# What `full` has and `paper` has not; `small` has the first.
COMPONENTS = {
    "fewer units, shorter clips": ("units", "part_units", "window"),
    "motion, bone, distance": ("inputs",),
    "learned view": ("view_units",),
    "normalised inputs": ("input_norm",),
    "embedding": ("embedding",),
    "residual layers": ("residual", "layers"),
    "windows along time": ("spatial_window", "spatial_stride", "window_layers"),
    "dropout": ("dropout", "input_dropout"),
    "larger rotations": ("rotate",),
    "other proportions": ("bones",),
    "left and right": ("mirror", "exchange"),
    "optimisation": ("batch_size", "learning_rate", "schedule", "milestones", "warm_up", "weight_decay",
                     "clip_gradient"),
    "smooth labels": ("label_smoothing",),
}  # fmt: skip


# The two runs whose streams make all four combinations.
TRAINED = tuple(zip(TEMPORAL, SPATIAL, strict=True))

STILL = {"rotate": (0.0, 0.0, 0.0), "scale": 0.0, "shear": 0.0}


def combinations(settings, temporal, spatial, still):
    """Pairs of a label and changes to the Config of train.py, as the other studies."""
    for setting in settings:
        for t in temporal:
            for s in spatial:
                config = train.PRESETS[setting] | {"temporal": t, "spatial": s}
                yield setting, config
                if still:
                    yield f"{setting} without 3D transforms", config | STILL


def ablation(settings=("small", "full"), changes=None):
    """changes  to `paper` and `small`"""
    known = asdict(train.Config()) | {"temporal": "stacked", "spatial": "chain"}
    paper, small, full = (known | train.PRESETS[name] for name in ABLATED)
    sizes = {field: paper[field] for field in COMPONENTS["fewer units, shorter clips"]}
    changes = changes or {}
    for setting, how, one, other in (("paper", "with", paper | changes, full),
                                     ("small", "with", small | changes, full),
                                     ("full", "without", full, small | sizes)):  # fmt: skip
        if setting in settings:
            yield setting, one
            for name, fields in COMPONENTS.items():
                changed = one | {field: other[field] for field in fields}
                # The first layer of windows needs one below it; a window is no longer than a clip.
                changed["window_layers"] = min(changed["window_layers"], changed["layers"] - 1)
                changed["spatial_window"] = min(changed["spatial_window"], changed["window"])
                if changed != one:
                    yield f"{setting} {how} {name}", changed


ABLATED = ("paper", "small", "full")


def views():
    for origin in ("start", "view"):
        for label, changes in (("no 3D transforms", STILL), ("3D transforms", {})):
            demo = train.PRESETS["demo"] | {"origin": origin} | changes
            yield f"axes of the {'camera' if origin == 'start' else 'body'}, {label}", demo


def options(config):
    """The command line of train.py for a dict of its fields."""
    for field, value in config.items():
        if isinstance(value, bool):
            yield f"--{field}" if value else f"--no-{field}"
        else:
            yield from (f"--{field}", *map(str, value if isinstance(value, tuple) else [value]))


def what_is_held_out(config):
    """Of the training clips, in words; "": nothing, so that the test part is tested."""
    if config.get("held_out_camera"):
        return f"camera {config['held_out_camera']}"
    return "subjects" if config.get("held_out") else ""


def checkpoints(record):
    """The folder of a record's run."""
    return Path("checkpoints") / "-".join((record.parent.name, record.stem))


def run(label, config, record, resume=False):
    """Train, test or look at the held-out clips, write the record -> whether that went well."""
    folder = checkpoints(record)
    config = config | {"name": folder.name}
    go_on = "--resume" if resume and (folder / "last.pt").exists() else "--overwrite"
    if not succeeds([ROOT / "train.py", go_on, *options(config)], folder):
        return False
    held_out = what_is_held_out(config)
    if not held_out:
        return test(label, record)
    line = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
    made = json.loads((folder / "config.json").read_text())
    made |= {"data": f"{config['data']}, {held_out} held out"}
    made |= {"epoch": line["epoch"], "results": line["held_out"], "date": date.today().isoformat()}
    return write(label, made, record)


def exchange(label, temporal, spatial, record):
    """Test the temporal stream of one record's run with the spatial stream of another's, write the
    record -> whether that went well. FileNotFoundError where a run's checkpoint is gone."""
    made, other = (load_checkpoint(checkpoints(run) / "last.pt") for run in (temporal, spatial))
    made["model"] |= {name: w for name, w in other["model"].items() if name.startswith("spatial")}
    for about in ("network", "config"):
        made[about]["spatial"] = other[about]["spatial"]
    folder = checkpoints(record)
    folder.mkdir(parents=True, exist_ok=True)
    save_checkpoint(folder / "last.pt", made)
    return test(label, record, streams=[temporal.stem, spatial.stem])


def test(label, record, **more):
    """Test the last epoch of the record's run, write the record -> whether that went well."""
    folder = checkpoints(record)
    if not succeeds([ROOT / "test.py", folder / "last.pt"], folder):
        return False
    return write(label, json.loads((folder / "last_test.json").read_text()) | more, record)


def succeeds(command, folder):
    """Run a script, add what it prints to <folder>.out -> whether that went well."""
    log = folder.with_name(f"{folder.name}.out")
    log.parent.mkdir(exist_ok=True)
    with open(log, "a") as out:
        done = subprocess.run([sys.executable, *command], stdout=out, stderr=out)
    if done.returncode:
        print(f"{folder.name}: stopped, see {log}", flush=True)
    return not done.returncode


def write(label, made, record):
    record.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(made | {"label": label}, indent=1, ensure_ascii=False)
    record.write_text(text + "\n", encoding="utf-8")
    accuracy = {
        stream: round(100 * values["accuracy"], 1) for stream, values in made["results"].items()
    }
    print(record.stem, accuracy, flush=True)
    return True


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", choices=("combinations", "ablation", "views"))
    parser.add_argument("--data", default="demo/xview", help="folder of the benchmark")
    parser.add_argument("--settings", nargs="+", choices=train.PRESETS, default=["small", "full"])
    parser.add_argument("--temporal", nargs="+", choices=TEMPORAL, default=TEMPORAL)
    parser.add_argument("--spatial", nargs="+", choices=SPATIAL, default=SPATIAL)
    parser.add_argument("--still", action="store_true", help="combinations: without 3D transforms too")
    parser.add_argument("--held_out_camera", type=int, default=0)
    parser.add_argument("--held_out", type=float, default=0.0, help="share of the clips, by subject")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, help="in place of the setting's")
    parser.add_argument("--batch_size", type=int, help="ablation: in place of that of paper and small")
    parser.add_argument("--precision", choices=engine.PRECISIONS, default="float32")
    parser.add_argument("--exchange", action="store_true", help="combinations: all four from two runs")
    parser.add_argument("--resume", action="store_true", help="go on with the run that was stopped")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time")
    arguments = parser.parse_args()
    held_out = what_is_held_out(vars(arguments))
    if arguments.study == "ablation" and not held_out:
        parser.error("an ablation looks at training clips: --held_out_camera, or --held_out 0.05")
    if arguments.study == "ablation" and not set(arguments.settings) <= set(ABLATED):
        parser.error(f"an ablation is of the settings {', '.join(ABLATED)}")
    if arguments.study != "ablation" and arguments.batch_size:
        parser.error("--batch_size: for an ablation")
    if arguments.exchange:
        known = [asdict(train.Config()) | train.PRESETS[name] for name in arguments.settings]
        apart = not any(config["view_units"] or config["input_norm"] for config in known)
        if arguments.study != "combinations" or held_out or not apart:
            parser.error("--exchange: for tests of combinations whose streams share no weights")
    if arguments.study == "combinations":
        found = combinations(arguments.settings, arguments.temporal, arguments.spatial, arguments.still)
    elif arguments.study == "views":
        found = views()
    else:
        changes = {"batch_size": arguments.batch_size} if arguments.batch_size else {}
        found = ablation(arguments.settings, changes)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, os.cpu_count() // arguments.jobs)))
    shared = ("data", "held_out", "held_out_camera", "precision")
    shared = {field: getattr(arguments, field) for field in shared}
    if arguments.epochs:
        shared["epochs"] = arguments.epochs

    def record(label, temporal, spatial, seed):
        about = [arguments.data, label, temporal, spatial, str(seed)]
        if held_out:
            about.insert(1, held_out)
        stem = "-".join(re.findall(r"\w+", " ".join(about)))
        return Path("results") / arguments.study / f"{stem}.json"

    trained, exchanged = [], []
    for seed, (label, config) in product(arguments.seeds, list(found)):
        streams = config.get("temporal", ""), config.get("spatial", "")
        file = record(label, *streams, seed)
        if file.exists():
            made = json.loads(file.read_text(encoding="utf-8"))["config"]
            wanted = asdict(train.Config()) | config | shared
            for field in ("epochs", "batch_size"):
                if made[field] != wanted[field]:
                    parser.error(f"{file} has {field}={made[field]}: move it away to make another")
        elif arguments.exchange and streams not in TRAINED:
            runs = [next(pair for pair in TRAINED if kind in pair) for kind in streams]
            exchanged.append((label, *(record(label, *pair, seed) for pair in runs), file))
        else:
            trained.append((label, config | shared | {"seed": seed}, file, arguments.resume))
    with ThreadPoolExecutor(arguments.jobs) as pool:
        done = list(pool.map(lambda one: run(*one), trained))
    try:
        done += [all(run.exists() for run in one[1:3]) and exchange(*one) for one in exchanged]
    except FileNotFoundError as error:
        raise SystemExit(f"studies.py: {error}") from error
    if not all(done):
        raise SystemExit("studies.py: some runs stopped; the others have their records")


if __name__ == "__main__":
    main()
