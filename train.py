"""Train a two-stream RNN.

    python train.py                                  # the settings below
    python train.py --spatial chain --epochs 50      # the same fields on the command line
    python train.py --setting small --data NW-UCLA/xview
    python train.py --name my-run --resume           # go on where an interrupted run stopped
    torchrun --nproc_per_node=2 train.py             # on several GPUs, which share each batch

A run writes checkpoints/<name>/: config.json, log.jsonl (one line an epoch), last.pt, best.pt and
curves.png. The test part of the data is not touched; that is what test.py is for.
"""

import argparse
import inspect
import json
import math
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path

import torch

import plot
from feeder import Feeder
from layers import check
from model import TwoStreamRNN
from skeletons.storage import read_meta, split_files
from training import engine
from training.checkpoint import load_checkpoint, rng_states, save_checkpoint, set_rng_state
from training.distributed import (
    any_rank,
    destroy_distributed,
    get_rank,
    get_world_size,
    init_distributed,
)
from training.loader import STOPS, make_loader


@dataclass(frozen=True)
class Config:
    """Hyperparameters: edit them here or give them on the command line. A named `--setting` (PRESETS,
    below) replaces what it names, whatever stands here."""

    # Data
    data: str = "NTU-RGB-D/xview"  # a folder made by convert_data.py
    name: str = ""  # the run's folder in checkpoints/; "": <data>-<spatial>-<temporal>
    held_out: float = 0.05  # least share of the training clips that chooses best.pt: those of whole
    #                         subjects; 0: train on every clip, best.pt is the last epoch
    held_out_camera: int = 0  # hold out the training clips of this camera instead, as for cross view
    # Network (model.py)
    temporal: str = "hierarchical"  # or "stacked"
    spatial: str = "traversal"  # or "chain"
    units: int = 512  # LSTM units of a layer, in each direction
    part_units: int = 256  # the same for each body part of the hierarchical RNN
    layers: int = 2  # LSTM layers of each stream
    bidirectional: bool = True  # read in both directions
    dropout: float = 0.5  # between layers and before the classifier
    pooling: str = "max"  # over the steps: "max", "mean" or "last"
    spatial_window: int = 100  # frames of a joint's way in one step of the spatial RNN
    spatial_stride: int = 0  # frames from one such window to the next; 0: the window's
    window_layers: int = 0  # of the spatial stream's layers, for the windows one after the other
    inputs: tuple = ("position",)  # told of a joint: "position", "motion", "bone", "distance"
    view_units: int = 0  # LSTM units that find the view in which a body is read; 0: as it is fed
    input_norm: bool = False  # batch normalisation of these, joint by joint
    embedding: int = 0  # features that a step of the spatial RNN is embedded in; 0: none
    residual: bool = False  # layers add to what they read, normalised
    input_dropout: float = 0.0  # of what the temporal RNN reads
    body_fusion: str = "mean"  # over the bodies of a clip: "mean" or "max"
    causal: bool = False  # read frames as they come, at their own rate, for live use
    temporal_weight: float = 0.5  # of the temporal stream in the fused score
    # Feeding (feeder.py)
    window: int = 100  # frames of an item
    crop: tuple = (0.5, 1.0)  # share of a clip, cut at random and resized to the window; 1 1: all
    origin: str = "view"  # origin and axes: "none", "first", "each", "start" or "view"
    normalization: bool = True  # divide by the body's mean bone length
    rotate: tuple = (0.3, 0.3, 0.3)  # 3D transforms: largest angles about x, y, z, radians
    scale: float = 0.1  # 3D transforms: sizes along x, y, z from 1 +- this
    shear: float = 0.1  # 3D transforms: shear amounts from +- this
    bones: float = 0.0  # lengths of the bones from 1 +- this: other proportions
    mirror: float = 0.0  # share of the clips that are seen in a mirror
    exchange: float = 0.0  # share of the clips with left and right exchanged, a back taken for a front
    # Optimisation
    epochs: int = 300  # passes over the training clips
    batch_size: int = 256  # clips of a step, of all processes
    learning_rate: float = 0.001  # of Adam
    schedule: str = "steps"  # of the learning rate; or "cosine", to zero at the last epoch
    milestones: tuple = (100, 160, 220)  # "steps": epochs after which it drops ...
    gamma: float = 0.5  # ... by this factor
    warm_up: int = 0  # epochs in which it grows
    weight_decay: float = 0.0  # of AdamW; 0: Adam
    label_smoothing: float = 0.0  # share of the target that all classes have in equal parts
    clip_gradient: float = 0.0  # largest norm of the gradient; 0: any
    seed: int = 0  # of everything random
    # Machine
    device: str = ""  # "cuda", "cpu"; "": the GPU when there is one
    precision: str = "float32"  # or "bfloat16": half the bits in the networks, if supported
    workers: int = 0  # processes that make batches; 0: batches are made on the device, from its memory
    mmap: bool = False  # leave the data on disk, when it does not fit into memory
    tensorboard: bool = False  # log for TensorBoard too, in the run's folder


# The most accurate found so far, for small data sets; results/README.md tells what each line gives.
FULL = {
    "inputs": ("position", "motion", "bone", "distance"), "view_units": 64,
    "input_norm": True, "embedding": 64, "input_dropout": 0.2, "dropout": 0.3,
    "residual": True, "layers": 3, "units": 128, "part_units": 64,
    "window": 48, "spatial_window": 8, "spatial_stride": 4, "window_layers": 2,
    "rotate": (0.5, 0.5, 0.5), "bones": 0.2, "mirror": 0.5, "exchange": 0.3,
    "epochs": 120, "batch_size": 32, "learning_rate": 0.002, "schedule": "cosine", "warm_up": 3,
    "weight_decay": 0.01, "label_smoothing": 0.1, "clip_gradient": 1.0,
}  # fmt: skip

# Named changes to the settings above: `python train.py --setting demo`.
PRESETS = {
    "paper": {},
    # The same with fewer units, minutes on two CPU cores: for small data sets and laptops.
    "small": {
        "units": 128, "part_units": 64, "window": 48, "spatial_window": 48,
        "epochs": 120, "batch_size": 64, "milestones": (60, 90),
    },
    "full": FULL,
    # Class probabilities after every frame (live.py).
    "live": FULL | {"causal": True, "view_units": 0, "temporal": "stacked", "spatial": "chain"},
    "demo": {
        "data": "demo/xview", "units": 64, "part_units": 32, "window": 48, "spatial_window": 48,
        "epochs": 30, "batch_size": 64, "learning_rate": 0.003, "milestones": (20, 25),
    },
}  # fmt: skip

SCHEDULES = ("steps", "cosine")
# May differ when a run is resumed.
RESUMABLE = ("name", "data", "epochs", "device", "workers", "mmap", "tensorboard")
# Of the time, what saving may take: after short epochs nothing is written. But a new best on held-out
# clips, the first and the last epoch are always saved.
SAVING = 0.05


def hold_out(subjects, share, seed):
    """Split the training clips by subject -> (clips to train on, clips held out), sorted.

    subjects  (N,) subject of each clip; people held out are drawn until `share` is reached, so
                that no listed subject is on both sides
    Raises ValueError when nobody would be left to train on.
    """
    subjects = torch.as_tensor(subjects)
    people = subjects.unique()
    people = people[torch.randperm(len(people), generator=torch.Generator().manual_seed(seed))]
    out = torch.zeros(len(subjects), dtype=torch.bool)
    for person in people:
        if out.sum() >= share * len(out):
            break
        out |= subjects == person
    if out.all():
        raise ValueError(
            f"held_out={share} leaves nothing to train on: the data has {len(people)} subject(s). "
            "With --held_out 0 the last epoch is taken in place of the best one"
        )
    return (~out).nonzero()[:, 0].tolist(), out.nonzero()[:, 0].tolist()


def hold_out_camera(meta, camera):
    """The same by camera: -> (clips of the others, clips of this one)."""
    cameras = meta.get("camera", {}).get("train", [])
    if camera not in cameras or len(set(cameras)) < 2:
        raise ValueError(
            f"held_out_camera={camera}: the training clips are of the cameras "
            f"{sorted(set(cameras)) or 'unknown'}"
        )
    clips = range(len(cameras))
    return [i for i in clips if cameras[i] != camera], [i for i in clips if cameras[i] == camera]


def learning_rate(config, epoch):
    """Share of the learning rate in an epoch, counted from 0."""
    share = min(1, (epoch + 1) / (config.warm_up + 1))
    if config.schedule == "cosine":
        return share * (1 + math.cos(math.pi * epoch / config.epochs)) / 2
    return share * config.gamma ** sum(epoch >= drop for drop in config.milestones)


def random_feeding(config):
    """Feeder's options that make each draw of a clip another one."""
    return {
        "random_choose": config.causal,
        "p_interval": tuple(config.crop),
        "rand_rotate": tuple(config.rotate),
        "rand_scale": config.scale,
        "rand_shear": config.shear,
        "rand_bones": config.bones,
        "rand_mirror": config.mirror,
        "rand_exchange": config.exchange,
    }


def network(config):
    """Options of TwoStreamRNN."""
    options = inspect.signature(TwoStreamRNN).parameters
    return {field: getattr(config, field) for field in options if hasattr(config, field)}


def open_data(config):
    """The training part of the data -> (Feeder, meta.json)."""
    meta = read_meta(config.data)
    feeder = Feeder(
        *split_files(config.data, "train"),
        window_size=config.window,
        origin_transfer=config.origin,
        normalization="start" if config.causal and config.normalization else config.normalization,
        crop_resize=not config.causal,
        mmap=config.mmap,
        **random_feeding(config),
    )
    meta.setdefault("classes", [str(i) for i in range(int(feeder.label.max()) + 1)])
    meta.setdefault("subject", {"train": list(range(len(feeder)))})
    if feeder.label.max() >= len(meta["classes"]) or len(meta["subject"]["train"]) != len(feeder):
        raise ValueError(
            f"{config.data}/meta.json does not belong to the arrays beside it: convert the data again"
        )
    return feeder, meta


def run_name(config):
    parts = (part.strip("/\\:.") for part in Path(config.data).parts[-2:])
    return config.name or "-".join((*filter(None, parts), config.spatial, config.temporal))


def commit():
    """The commit of the code, with a + when it was changed since; "" outside a git checkout."""
    try:
        arguments = {"capture_output": True, "text": True, "cwd": Path(__file__).parent}
        head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], check=True, **arguments)
        changed = subprocess.run(["git", "diff", "--quiet", "HEAD"], **arguments).returncode
        return head.stdout.strip() + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def main(config, resume=False, overwrite=False, stop=None):
    """Train; returns the run's folder.

    stop  function that says whether to stop: after the step that is under way the state is saved and
          engine.Interrupted raised

    Of several processes, the caller leaves the group (destroy_distributed) once this has
    returned or raised.
    """
    folder = Path("checkpoints") / run_name(config)
    last = folder / "last.pt"
    if not (resume or overwrite) and (last.exists() or (folder / "best.pt").exists()):
        go_on = "go on with it (--resume), " if last.exists() else ""
        raise ValueError(
            f"{folder} holds a run: {go_on}choose another --name, or replace it (--overwrite)"
        )
    for field in ("epochs", "batch_size", "units", "part_units", "layers", "spatial_window"):
        if getattr(config, field) < 1:
            raise ValueError(f"{field}={getattr(config, field)}: must be at least 1")
    for field in ("spatial_stride", "window_layers", "view_units", "embedding", "warm_up"):
        if getattr(config, field) < 0:
            raise ValueError(f"{field}={getattr(config, field)}: must not be negative")
    stride = config.spatial_stride or config.spatial_window
    if config.causal and stride > config.window:
        raise ValueError(
            f"the spatial RNN would read nothing: its first window is full after {stride} frames, and "
            f"a clip in training has {config.window}. Lower --spatial_stride, or --spatial_window"
        )
    check("schedule", config.schedule, SCHEDULES)
    device = engine.resolve_device(config.device)
    engine.check_precision(config.precision, device)
    init_distributed(device)
    alone, writes = get_world_size() == 1, get_rank() == 0
    torch.manual_seed(config.seed)
    # Decides which clips are fed when, and how they are transformed.
    order = torch.Generator().manual_seed(config.seed)

    feeder, meta = open_data(config)
    feeding = {  # as test.py will feed
        "window_size": 0 if config.causal else feeder.window_size,  # 0: whole clips
        "origin_transfer": feeder.origin_transfer,
        "normalization": feeder.normalization,
        "crop_resize": feeder.crop_resize,
    }
    if config.held_out_camera:
        training, held_out = hold_out_camera(meta, config.held_out_camera)
    else:
        training, held_out = hold_out(meta["subject"]["train"], config.held_out, config.seed)
    options = network(config) | {"channels": feeder.channels}
    model = TwoStreamRNN(feeder.layout, len(meta["classes"]), **options).to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(learning_rate, config))
    if not config.workers and not config.mmap:
        feeder.to(device)
    # What does not fit together shows here, before anything of an earlier run is replaced.
    still = feeder.eval()
    one = torch.ones(1, feeder.channels, feeder.window_size, len(feeder.layout.joints), 1)
    operations = engine.operations(model, one.to(device))
    board = tensorboard_writer(folder) if config.tensorboard and writes else lambda line: None
    batches = make_loader(feeder, training, config.batch_size, order, config.workers, device)
    unseen = make_loader(still, held_out, config.batch_size)

    # What a resumed run must find again.
    data = {"layout": feeder.layout.to_dict(), "classes": meta["classes"],
            "clips": {"training": len(training), "held_out": len(held_out)}}  # fmt: skip
    epoch, best, progress = 0, [-1.0, 0.0], None
    torch.manual_seed(config.seed + get_rank())
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log.jsonl"
    if resume:
        state = load_checkpoint(last)
        differing = [key for key, value in data.items() if state[key] != value]
        if differing:
            raise ValueError(
                f"{config.data} is not the data of {last}: other {', '.join(differing)}. Give the "
                "folder it was trained on with --data"
            )
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        epoch, best, progress = state["epoch"], state["best"], state["progress"]
        order.set_state(state["order"])
        random = state["random"]
        set_rng_state(random[get_rank() % len(random)])
    if resume and writes:
        step = f", step {progress['step']} of the next," if progress else ""
        print(f"resuming after epoch {epoch}{step} of {config.epochs} with the run's own settings")
        lines = log.read_text(encoding="utf-8").splitlines(keepends=True)[:epoch]
        shorter = log.with_suffix(".partial")
        shorter.write_text("".join(lines), encoding="utf-8")
        shorter.replace(log)
    elif writes:
        endings = (".pt", ".pt.partial", ".onnx", *engine.TEST_OUTPUTS)
        made = ("last", "best", "last+*", "best+*")  # (+: with other networks)
        for pattern in ("curves.png", *(stem + ending for stem in made for ending in endings)):
            for path in folder.glob(pattern):
                path.unlink()  # of the run that is replaced
        log.write_text("", encoding="utf-8")
    about = {"config": asdict(config), "commit": commit(), "torch": torch.__version__,
             "device": engine.device_name(device), "clips": data["clips"],
             "parameters": sum(p.numel() for p in model.parameters()),
             "operations": operations}  # fmt: skip
    if writes:
        (folder / "config.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        machines = about["device"] if alone else f"{get_world_size()} x {about['device']}"
        print(f"{folder}: {len(training)} clips to train on, {len(held_out)} held out, "
              f"{about['parameters']:,} parameters, on {machines}")  # fmt: skip
    trained = model
    if not alone:
        trained = torch.nn.parallel.DistributedDataParallel(model)
        trained.broadcast_buffers = False  # engine.evaluate does that

    def save(path):
        contents = {
            "model": model.state_dict(),
            "network": options,
            **data,
            "held_out": held_out,
            "feeding": feeding,
            "random_feeding": random_feeding(config),
            "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(),
            "random": rng_states(),
            "order": before if progress else order.get_state(),
            "progress": progress,
            "epoch": epoch,
            "best": best,
            "config": asdict(config),
            "commit": about["commit"],
        }
        if writes:
            save_checkpoint(path, contents)

    # The epoch that last.pt holds, when it was written and how many seconds that took.
    kept, saved, saving = epoch, time.perf_counter(), 0.0
    while epoch < config.epochs:
        began = time.perf_counter() - (progress["seconds"] if progress else 0)
        before = order.get_state()
        line = {"epoch": epoch + 1, "learning_rate": scheduler.get_last_lr()[0]}
        title = f"epoch {epoch + 1}"
        try:
            line["train"] = engine.train_epoch(
                trained,
                batches,
                optimizer,
                device,
                title,
                config.precision,
                stop,
                progress,
                config.label_smoothing,
                config.clip_gradient,
            )
        except engine.Interrupted as interrupted:
            progress = interrupted.progress | {"seconds": time.perf_counter() - began}
            save(last)
            raise
        except FloatingPointError as error:
            good = f"{last} holds epoch {kept}" if kept else "no epoch was finished"
            raise FloatingPointError(
                f"{title}: {error}; {good}. Lower --learning_rate and train again"
            ) from None
        scheduler.step()
        if held_out:
            line["held_out"] = engine.evaluate(model, unseen, device, "", config.precision)[0]
        line["seconds"] = round(time.perf_counter() - began, 3)
        epoch, progress = epoch + 1, None

        fused = line.get("held_out", {}).get("fused")
        # Highest accuracy, at equal accuracy lowest loss; without held-out clips, the last epoch.
        score = [fused["accuracy"], -fused["loss"]] if fused else best
        improved, best = score >= best, max(score, best)
        if writes:
            with open(log, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            board(line)
        stopping = any_rank(stop and stop()) and epoch < config.epochs
        now = time.perf_counter()
        due = epoch == config.epochs or (now - saved) * SAVING >= saving
        if stopping or (held_out and improved) or any_rank(due and writes):
            # last.pt comes last: a resumed run does again whatever was written after it.
            if improved:
                save(folder / "best.pt")
            save(last)
            kept, saved = epoch, time.perf_counter()
            saving = saved - now
        if writes:
            print(describe(line))
        if stopping:
            raise engine.Interrupted({"step": 0})
    if writes:
        plot.curves([folder], folder / "curves.png")
        print(f"{folder / 'curves.png'}\nnow: python test.py {folder / 'best.pt'}")
    return folder


def describe(line):
    """An epoch in a line of text."""
    parts = [f"epoch {line['epoch']:3d}  {line['seconds']:5.1f} s"]
    for name in ("train", "held_out"):
        if name in line:
            accuracy = "  ".join(f"{s} {100 * line[name][s]['accuracy']:5.1f}" for s in engine.STREAMS)
            parts.append(
                f"{name.replace('_', ' ')}: loss {line[name]['fused']['loss']:.3f}  {accuracy}"
            )
    return " | ".join(parts)


def tensorboard_writer(folder):
    """A function that logs an epoch's line for TensorBoard. ValueError where that is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError("--tensorboard needs TensorBoard: pip install tensorboard") from error
    writer = None

    def write(line):
        nonlocal writer
        # (TensorBoard forgets what an earlier run logged of this epoch and later ones.)
        writer = writer or SummaryWriter(folder, purge_step=line["epoch"])
        for part in ("train", "held_out"):
            for stream, values in line.get(part, {}).items():
                for metric, value in values.items():
                    writer.add_scalar(f"{metric}/{stream}/{part}", value, line["epoch"])
        writer.add_scalar("learning_rate", line["learning_rate"], line["epoch"])
        writer.flush()

    return write


def explanations():
    """What the comments of Config say of each field."""
    found = {}
    for line in inspect.getsource(Config).splitlines():
        code, _, comment = line.partition("#")
        if match := re.match(r"    (\w+): ", code):
            field = match[1]
            found[field] = comment.strip()
        elif line.startswith("    #  "):  # goes on
            found[field] += f" {comment.strip()}"
    return found


def parse_arguments():
    """-> (config, resume, overwrite); every field of Config is an option."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS, allow_abbrev=False)  # fmt: skip
    explained = explanations()
    for field in fields(Config):
        kind = type(field.default)
        shape = {"type": kind, "metavar": kind.__name__.upper()}
        if kind is bool:
            shape = {"action": argparse.BooleanOptionalAction}
        if kind is tuple:
            shape = {"type": type(field.default[0]), "nargs": "*", "metavar": "VALUE"}
        parser.add_argument(
            f"--{field.name}",
            help=f"{explained[field.name]} (default: {field.default})".replace("%", "%%"),
            **shape,
        )
    parser.add_argument("--setting", choices=PRESETS, help="start from these named settings")
    parser.add_argument("--resume", action="store_true", help="continue checkpoints/<name>")
    parser.add_argument("--overwrite", action="store_true", help="replace checkpoints/<name>")
    given = vars(parser.parse_args())
    given = {key: tuple(v) if isinstance(v, list) else v for key, v in given.items()}
    resume, overwrite = given.pop("resume", False), given.pop("overwrite", False)
    named = PRESETS[given.pop("setting", "paper")]
    config = replace(Config(), **named | given)
    if resume:  # the run's own settings hold
        last = Path("checkpoints") / run_name(config) / "last.pt"
        if not last.exists():
            raise ValueError(f"{last} is missing, so no epoch was finished: start without --resume")
        saved = load_checkpoint(last)["config"]
        saved = {key: tuple(v) if isinstance(v, list) else v for key, v in saved.items()}
        saved = asdict(Config()) | saved  # (an earlier version knew fewer)
        differing = [key for key in given if key not in RESUMABLE and given[key] != saved[key]]
        if differing:
            raise ValueError(
                f"a resumed run keeps its settings; differing here: {', '.join(differing)}. "
                f"These may change: {', '.join(RESUMABLE)}"
            )
        config = replace(Config(**saved), **given)
    return config, resume, overwrite


class Stop:
    """Ctrl-C and the system's wish to end the process, noticed after the step that is under way; a
    second Ctrl-C ends it at once."""

    def __init__(self):
        self.asked = False
        for number in STOPS:
            signal.signal(number, self.ask)

    def ask(self, number, _):
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True
        print("\ntrain.py: stopping", file=sys.stderr)

    def __call__(self):
        return self.asked


if __name__ == "__main__":
    said, together = None, True
    try:
        config, *how = parse_arguments()
        try:
            main(config, *how, stop=Stop())
        except (engine.Interrupted, KeyboardInterrupt) as stopped:
            # (a second Ctrl-C finds the processes anywhere)
            together = isinstance(stopped, engine.Interrupted)
            said = (
                f"\ntrain.py: stopped{', everything is saved' if together else ''}; go on with: "
                f"python train.py --name {run_name(config)} --resume"
            )
    except (ValueError, OSError, FloatingPointError) as error:
        together = not isinstance(error, OSError)  # which need not happen to all
        said = f"train.py: {error}"
    if said:
        print(said, file=sys.stderr)
    # Not within `except`, where the traceback holds the network.
    if together:
        destroy_distributed()
    raise SystemExit(bool(said))
