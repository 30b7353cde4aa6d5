"""Series of training runs, recorded: what the tables of README.md and results/README.md are made from.

    python benchmarks/studies.py combinations --data NW-UCLA/xview --settings small full --seeds 0 1 2
    python benchmarks/studies.py ablation --data NW-UCLA/xview --held_out_camera 2 --seeds 0 1
    python benchmarks/studies.py views --seeds 0 1 2
    python benchmarks/tables.py

combinations  settings of train.py with --temporal and --spatial (default: all four), trained on every
              training clip; the last epoch is tested
ablation      each ingredient of `full` added alone to `small` and taken alone from `full`, looked at on
              the held-out training camera; the test part is not touched
views         the demo's clips: trained on two cameras, tested on the third, with and without 3D
              transforms, with the body's own axes and with the camera's

A run leaves one record in results/<study>/ of the folder this is called in. One that has its record is
not made again, so a study that was stopped goes on. --jobs runs go on at a time, each with its share
of the CPU's threads.
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
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import train  # noqa: E402
from model import SPATIAL, TEMPORAL  # noqa: E402

# What `full` has and `small` has not.
INGREDIENTS = {
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


STILL = {"rotate": (0.0, 0.0, 0.0), "scale": 0.0, "shear": 0.0}


def combinations(settings, temporal, spatial, still):
    """Pairs of a label and changes to the Config of train.py, as the other studies."""
    for setting in settings:
        for t in temporal:
            for s in spatial:
                config = train.SETTINGS[setting] | {"temporal": t, "spatial": s}
                yield setting, config
                if still:
                    yield f"{setting} without 3D transforms", config | STILL


def ablation():
    known = asdict(train.Config())
    small, full = (known | train.SETTINGS[name] for name in ("small", "full"))
    streams = {"temporal": "stacked", "spatial": "chain"}
    yield "small", small | streams
    for name, fields in INGREDIENTS.items():
        yield f"small with {name}", small | {field: full[field] for field in fields} | streams
    yield "full", full | streams
    for name, fields in INGREDIENTS.items():
        yield f"full without {name}", full | {field: small[field] for field in fields} | streams


def views():
    for origin in ("start", "view"):
        for label, changes in (("no 3D transforms", STILL), ("3D transforms", {})):
            demo = train.SETTINGS["demo"] | {"origin": origin} | changes
            yield f"axes of the {'camera' if origin == 'start' else 'body'}, {label}", demo


def options(config):
    """The command line of train.py for a dict of its fields."""
    for field, value in config.items():
        if isinstance(value, bool):
            yield f"--{field}" if value else f"--no-{field}"
        else:
            yield from (f"--{field}", *map(str, value if isinstance(value, tuple) else [value]))


def run(label, config, record):
    """Train, test or look at the held-out clips, write the record -> whether that went well."""
    config = config | {"name": "-".join((record.parent.name, record.stem))}
    # The first layer of windows needs one below it.
    layers = config.get("layers", train.Config.layers)
    config["window_layers"] = min(config.get("window_layers", 0), layers - 1)
    folder = Path("checkpoints") / config["name"]
    log = Path("checkpoints") / f"{config['name']}.out"
    log.parent.mkdir(exist_ok=True)
    commands = [[ROOT / "train.py", "--overwrite", *options(config)]]
    if not config.get("held_out_camera"):
        commands.append([ROOT / "test.py", folder / "last.pt"])
    with open(log, "w") as out:
        for command in commands:
            done = subprocess.run([sys.executable, *command], stdout=out, stderr=out)
            if done.returncode:
                print(f"{record.stem}: stopped, see {log}", flush=True)
                return False
    if config.get("held_out_camera"):
        line = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
        made = json.loads((folder / "config.json").read_text())
        made |= {"data": f"{config['data']}, camera {config['held_out_camera']} held out"}
        made |= {"epoch": line["epoch"], "results": line["held_out"], "date": date.today().isoformat()}
    else:
        made = json.loads((folder / "last_test.json").read_text())
    made["label"] = label
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
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
    parser.add_argument("--settings", nargs="+", choices=train.SETTINGS, default=["small", "full"])
    parser.add_argument("--temporal", nargs="+", choices=TEMPORAL, default=TEMPORAL)
    parser.add_argument("--spatial", nargs="+", choices=SPATIAL, default=SPATIAL)
    parser.add_argument("--still", action="store_true", help="combinations: without 3D transforms too")
    parser.add_argument("--held_out_camera", type=int, default=0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, help="in place of the setting's")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time")
    arguments = parser.parse_args()
    if arguments.study == "ablation" and not arguments.held_out_camera:
        parser.error("an ablation looks at a training camera: --held_out_camera")
    if arguments.study == "combinations":
        found = combinations(arguments.settings, arguments.temporal, arguments.spatial, arguments.still)
    else:
        found = {"ablation": ablation, "views": views}[arguments.study]()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, os.cpu_count() // arguments.jobs)))
    shared = {"data": arguments.data, "held_out": 0.0, "held_out_camera": arguments.held_out_camera}
    if arguments.epochs:
        shared["epochs"] = arguments.epochs
    found, made = list(found), []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for seed in arguments.seeds:
            for label, config in found:
                about = [arguments.data, label, config.get("temporal", ""), config.get("spatial", "")]
                if arguments.held_out_camera:
                    about.insert(1, f"camera {arguments.held_out_camera}")
                name = "-".join(re.findall(r"\w+", " ".join((*about, str(seed)))))
                record = Path("results") / arguments.study / f"{name}.json"
                if not record.exists():
                    made.append(pool.submit(run, label, config | shared | {"seed": seed}, record))
    if not all(one.result() for one in made):
        raise SystemExit("studies.py: some runs stopped; the others have their records")


if __name__ == "__main__":
    main()
