"""Series of training runs; their records are what the tables of the pages show.

    python benchmarks/studies.py combinations --data NW-UCLA/xview --presets small full --seeds 0 1 2
    python benchmarks/studies.py ablation --data NW-UCLA/xview --validation_camera 2 --seeds 0 1
    python benchmarks/studies.py ablation --data UTD-MHAD/xsub --validation_ratio 0.05 --seeds 0 1
    python benchmarks/studies.py reference_frames --seeds 0 1 2
    python benchmarks/studies.py ensembles --data NW-UCLA/xview --seeds 0 1 2
    python benchmarks/tables.py

combinations      presets of train.py with the given temporal and spatial RNNs (default: all four
                  architectures), trained on all training clips; the last epoch is tested. With
                  --swap_streams two trained networks give all four architectures: where the streams
                  share no weights, each is trained independently of the other, so stacked + chain and
                  hierarchical + traversal are trained, and tested again with their spatial streams
                  swapped
ablation          each component of `full` added alone to `baseline` or `small`, and removed alone
                  from `full` (--presets selects among them; --batch_size replaces that of `baseline`
                  and `small`). Evaluated on the validation camera or validation subjects (--split_seed
                  selects others); the test clips are not used
reference_frames  the demo: trained on two cameras, tested on the third, with and without 3D transforms,
                  in the body's reference frame and in that of the first frame
ensembles         `full`, the same with fewer modalities (ENSEMBLE), and ensembles of the first 2 and of
                  all 4 of these networks

Data with folds (SBU) is cross-validated.

Each run writes one record to results/<study>/ in the current folder. A run that already has a record is
skipped, so a study that was stopped can be started again; with --resume its unfinished run continues
(cross-validations always continue).
--jobs runs execute at the same time and share the CPU's threads.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from training.environment import GIVEN, usable_cpus  # noqa: E402

from tables import differences  # noqa: E402

import cross_validate  # noqa: E402
import train  # noqa: E402
from convert_data import positive  # noqa: E402
from model import SPATIAL, TEMPORAL  # noqa: E402
from skeletons.storage import find_folds  # noqa: E402
from test import output_paths  # noqa: E402
from training.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from training.engine import PRECISIONS  # noqa: E402

# What `full` has and `baseline` has not: component -> fields of Config. `small` has the first.
COMPONENTS = {
    "smaller hidden size, shorter window": ("hidden_size", "part_hidden_size", "window_size"),
    "motion, bone, distance modalities": ("modalities",),
    "view adaptation": ("view_adaptation",),
    "input normalization": ("input_norm",),
    "residual layers": ("residual", "num_layers"),
    "windowed spatial stream": ("spatial_window", "spatial_stride", "window_layers"),
    "dropout": ("dropout", "input_dropout"),
    "larger rotations": ("rotate",),
    "bone length jitter": ("bone_length_jitter",),
    "flip and left-right swap": ("flip_prob", "swap_sides_prob"),
    "uncropped clips": ("crop_prob",),
    "time warping": ("time_warp",),
    "tracking noise": ("tracking_noise",),
    "optimizer and schedule": ("batch_size", "learning_rate", "schedule", "milestones",
                               "warmup_epochs", "weight_decay", "max_grad_norm"),
    "label smoothing": ("label_smoothing",),
}  # fmt: skip
ABLATED = ("baseline", "small", "full")

# The two architectures that are trained with --swap_streams.
TRAINED = tuple(zip(TEMPORAL, SPATIAL, strict=True))
# The networks of an ensemble: `full`, and `full` with fewer modalities.
ENSEMBLE = {
    "full": train.PRESETS["full"]["modalities"],
    "full, bone and motion": ("bone", "motion", "partner"),
    "full, motion and distance": ("motion", "distance", "partner"),
    "full, joint and distance": ("joint", "distance", "partner"),
}
NO_3D_TRANSFORMS = {"rotate": (0.0, 0.0, 0.0), "scale": 0.0, "shear": 0.0}

Study = Iterator[tuple[str, dict]]  # pairs of a label and fields of Config


def combinations(
    presets: Sequence[str], temporal: Sequence[str], spatial: Sequence[str], without_transforms: bool
) -> Study:
    for preset, t, s in product(presets, temporal, spatial):
        config = train.PRESETS[preset] | {"temporal": t, "spatial": s}
        yield preset, config
        if without_transforms:
            yield f"{preset} without 3D transforms", config | NO_3D_TRANSFORMS


def ablation(presets: Sequence[str] = ("small", "full"), changes: dict | None = None) -> Study:
    """Each component added and removed; `changes` are made to `baseline` and `small`."""
    baseline, small, full = (
        train.flat(train.make_config(name, temporal="stacked", spatial="chain")) for name in ABLATED
    )
    sizes = {field: baseline[field] for field in COMPONENTS["smaller hidden size, shorter window"]}
    changes = changes or {}
    for preset, how, base, other in (("baseline", "with", baseline | changes, full),
                                     ("small", "with", small | changes, full),
                                     ("full", "without", full, small | sizes)):  # fmt: skip
        if preset not in presets:
            continue
        yield preset, base
        for name, fields in COMPONENTS.items():
            config = base | {field: other[field] for field in fields}
            # A layer over windows needs one below it, and a window is not longer than a clip.
            config["window_layers"] = min(config["window_layers"], config["num_layers"] - 1)
            config["spatial_window"] = min(config["spatial_window"], config["window_size"])
            if config != base:
                yield f"{preset} {how} {name}", config


def reference_frames() -> Study:
    for frame in ("first-frame", "body"):
        for label, changes in (("no 3D transforms", NO_3D_TRANSFORMS), ("3D transforms", {})):
            config = train.PRESETS["demo"] | {"reference_frame": frame} | changes
            yield f"{frame} reference, {label}", config


def ensembles() -> Study:
    for label, modalities in ENSEMBLE.items():
        yield label, train.PRESETS["full"] | {"modalities": modalities}


# --- One run ----------------------------------------------------------------------------------------


def command_line(config: dict) -> Iterator[str]:
    """The options of train.py for a dict of fields."""
    for field, value in config.items():
        if isinstance(value, bool):
            yield f"--{field}" if value else f"--no_{field}"
        else:
            yield from (f"--{field}", *map(str, value if isinstance(value, tuple) else [value]))


def validation_set(config: dict) -> str:
    """In words which training clips are used for validation; "": none, so the test clips are tested."""
    if config.get("validation_camera"):
        return f"validation camera {config['validation_camera']}"
    if not config.get("validation_ratio"):
        return ""
    split_seed = config.get("split_seed")
    return f"validation subjects, split {split_seed}" if split_seed else "validation subjects"


def folds_of(data: str) -> list[Path]:
    """The folds of a data set; none of another benchmark. ValueError for some that do not fit."""
    return find_folds(Path(data)) if (Path(data) / "fold1").is_dir() else []


def run_folder(record: Path) -> Path:
    """The folder of a record's run."""
    return Path("checkpoints") / f"{record.parent.name}-{record.stem}"


def run(label: str, config: dict, record: Path, resume: bool = False) -> bool:
    """Train, test (or take the validation results) and write the record -> whether this succeeded."""
    folder = run_folder(record)
    config = config | {"name": folder.name}
    if folds_of(config["data"]):
        options = command_line({k: v for k, v in config.items() if k not in cross_validate.FIXED})
        if not run_script("cross_validate.py", [config["data"], *options], folder):
            return False
        return write_record(label, folder / "cross_validation.json", record)
    how = "--resume" if resume and (folder / "last.pt").exists() else "--overwrite"
    if not run_script("train.py", [how, *command_line(config)], folder):
        return False
    validation = validation_set(config)
    if not validation:
        return test(label, config["data"], [folder], record)
    last = json.loads((folder / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    return write_record(
        label,
        folder / "config.json",
        record,
        data=f"{config['data']}, {validation}",
        epoch=last["epoch"],
        results=last["validation"],
        date=date.today().isoformat(),
    )


def test(label: str, data: str, runs: Sequence[Path], record: Path, **more: object) -> bool:
    """Test the last epoch of a run, or the ensemble of several runs, and write the record -> whether
    this succeeded."""
    folder = run_folder(record)
    if folds_of(data):
        names = (run.name for run in runs)
        command = [data, "--ensemble", *names, "--name", folder.name]
        if not run_script("cross_validate.py", command, folder):
            return False
        return write_record(label, folder / "cross_validation.json", record, **more)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints = [run / "last.pt" for run in runs]
    if not run_script("test.py", [*checkpoints, "--out", folder], folder):
        return False
    return write_record(label, output_paths(checkpoints, folder)["record"], record, **more)


def swap_streams(label: str, data: str, temporal: Path, spatial: Path, record: Path) -> bool:
    """Test the temporal stream of one record's run with the spatial stream of another's, and write the
    record -> whether this succeeded. Raises FileNotFoundError where a checkpoint is missing."""
    folders = run_folder(temporal), run_folder(spatial)
    swapped = run_folder(record).with_name(f"{run_folder(record).name}-swapped")
    for fold in [path.name for path in folds_of(data)] or [""]:
        contents, other = (load_checkpoint(folder / fold / "last.pt") for folder in folders)
        contents["model"] |= {k: v for k, v in other["model"].items() if k.startswith("spatial")}
        for key in ("model_args", "config"):
            contents[key]["network"]["spatial"] = other[key]["network"]["spatial"]
        (swapped / fold).mkdir(parents=True, exist_ok=True)
        save_checkpoint(swapped / fold / "last.pt", contents)
    return test(label, data, [swapped], record, streams=[temporal.stem, spatial.stem])


def run_script(script: str, arguments: Sequence[str | Path], folder: Path) -> bool:
    """Run a script as a command and append its output to <folder>.out -> whether it succeeded."""
    log = folder.with_name(f"{folder.name}.out")
    log.parent.mkdir(exist_ok=True)
    with open(log, "a") as out:
        done = subprocess.run([sys.executable, ROOT / script, *arguments], stdout=out, stderr=out)
    if done.returncode:
        print(f"{folder.name}: {script} failed, see {log}", flush=True)
    return not done.returncode


def write_record(label: str, source: Path, record: Path, **more: object) -> bool:
    """Write what is in a JSON file, and more, as a record -> True."""
    contents = json.loads(source.read_text(encoding="utf-8")) | more
    record.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(contents | {"label": label}, indent=1, ensure_ascii=False)
    record.write_text(text + "\n", encoding="utf-8")
    accuracy = {name: round(100 * v["accuracy"], 1) for name, v in contents["results"].items()}
    print(record.stem, accuracy, flush=True)
    return True


# --- The command ------------------------------------------------------------------------------------


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", choices=("combinations", "ablation", "reference_frames", "ensembles"))
    parser.add_argument("--data", default="demo/xview", help="folder of the benchmark")
    parser.add_argument("--presets", nargs="+", choices=train.PRESETS, default=["small", "full"])
    parser.add_argument("--temporal", nargs="+", choices=TEMPORAL, default=TEMPORAL)
    parser.add_argument("--spatial", nargs="+", choices=SPATIAL, default=SPATIAL)
    parser.add_argument("--without_transforms", action="store_true",
                        help="combinations: also without 3D transforms")  # fmt: skip
    parser.add_argument("--validation_camera", type=int, default=0)
    parser.add_argument("--validation_ratio", type=float, default=0.0,
                        help="least part of the training clips used for validation")  # fmt: skip
    parser.add_argument("--split_seed", type=int, default=0,
                        help="which subjects are used for validation")  # fmt: skip
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, help="number of epochs, instead of the preset's")
    parser.add_argument("--batch_size", type=int, help="ablation: that of `baseline` and `small`")
    parser.add_argument("--precision", choices=PRECISIONS, help="instead of the preset's")
    parser.add_argument("--swap_streams", action="store_true",
                        help="combinations: four architectures from two runs")  # fmt: skip
    parser.add_argument("--resume", action="store_true", help="continue the unfinished run")
    parser.add_argument("--jobs", type=positive, default=usable_cpus(), help="runs at the same time")
    return parser


def check_arguments(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """End with a message where options do not fit together."""
    validation = validation_set(vars(arguments))
    if arguments.study == "ablation":
        if not validation:
            parser.error("an ablation needs --validation_camera or --validation_ratio")
        if not set(arguments.presets) <= set(ABLATED):
            parser.error(f"an ablation is of the presets {', '.join(ABLATED)}")
    elif arguments.batch_size:
        parser.error("--batch_size is an option of the ablation")
    if validation and (arguments.study == "ensembles" or folds_of(arguments.data)):
        parser.error("ensembles, and data with folds, are tested: leave the validation options out")
    if arguments.swap_streams:
        configs = [train.flat(train.make_config(name)) for name in arguments.presets]
        shared = any(config["view_adaptation"] or config["input_norm"] for config in configs)
        if arguments.study != "combinations" or validation or shared:
            parser.error("--swap_streams: for tests of combinations whose streams share no weights")


def select_study(arguments: argparse.Namespace) -> Study:
    if arguments.study == "combinations":
        return combinations(arguments.presets, arguments.temporal, arguments.spatial,
                            arguments.without_transforms)  # fmt: skip
    if arguments.study == "reference_frames":
        return reference_frames()
    if arguments.study == "ensembles":
        return ensembles()
    changes = {"batch_size": arguments.batch_size} if arguments.batch_size else {}
    return ablation(arguments.presets, changes)


def record_path(
    arguments: argparse.Namespace, label: str, temporal: str, spatial: str, seed: int
) -> Path:
    about = [arguments.data, validation_set(vars(arguments)), label, temporal, spatial, str(seed)]
    stem = "-".join(re.findall(r"\w+", " ".join(about)))
    return Path("results") / arguments.study / f"{stem}.json"


def check_record(parser: argparse.ArgumentParser, path: Path, config: dict) -> None:
    """End with a message where a record was made with other settings."""
    record = json.loads(path.read_text(encoding="utf-8"))
    if differing := differences(record, config):
        parser.error(f"{path} has {', '.join(differing)}\nmove it away to make another record")


def test_ensembles(arguments: argparse.Namespace) -> Iterator[bool]:
    """Test the ensembles of each seed that have no record yet -> whether each test succeeded."""
    members = [(label, config["temporal"], config["spatial"]) for label, config in ensembles()]
    for seed, count in product(arguments.seeds, (2, len(members))):
        label = f"full, {count} networks"
        runs = [record_path(arguments, *member, seed) for member in members[:count]]
        record = record_path(arguments, label, "", "", seed)
        if not record.exists():
            yield test(label, arguments.data, list(map(run_folder, runs)), record)


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser()
    arguments = parser.parse_args(argv)
    check_arguments(parser, arguments)
    if "OMP_NUM_THREADS" not in GIVEN:
        os.environ["OMP_NUM_THREADS"] = str(max(1, usable_cpus() // arguments.jobs))
    shared = ("data", "validation_ratio", "validation_camera", "split_seed")
    shared = {field: getattr(arguments, field) for field in shared}
    for field in ("epochs", "precision"):
        if getattr(arguments, field):
            shared[field] = getattr(arguments, field)
    to_train, to_swap = [], []
    for seed, (label, config) in product(arguments.seeds, list(select_study(arguments))):
        config = config | shared
        streams = config.get("temporal", ""), config.get("spatial", "")
        record = record_path(arguments, label, *streams, seed)
        if record.exists():
            check_record(parser, record, train.flat(train.make_config(**config)))
        elif arguments.swap_streams and streams not in TRAINED:
            runs = [next(pair for pair in TRAINED if kind in pair) for kind in streams]
            runs = [record_path(arguments, label, *pair, seed) for pair in runs]
            to_swap.append((label, arguments.data, *runs, record))
        else:
            to_train.append((label, config | {"seed": seed}, record, arguments.resume))
    with ThreadPoolExecutor(arguments.jobs) as pool:
        done = list(pool.map(lambda one: run(*one), to_train))
    try:
        done += [all(path.exists() for path in one[2:4]) and swap_streams(*one) for one in to_swap]
    except FileNotFoundError as error:
        raise SystemExit(f"studies.py: {error}") from error
    if arguments.study == "ensembles" and all(done):
        done += test_ensembles(arguments)
    if not all(done):
        raise SystemExit("studies.py: some runs failed; the others have their records")


if __name__ == "__main__":
    main()
