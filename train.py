"""Train a two-stream RNN: settings, presets, learning rate schedule, the loop over epochs.

    python train.py                                  # the defaults (preset baseline)
    python train.py --spatial chain --epochs 50      # any setting can be given on the command line
    python train.py --preset small --data NW-UCLA/xview
    python train.py --name my-run --resume           # go on with a run that was stopped
    python train.py --config checkpoints/my-run/config.json --name again       # repeat a run
    python train.py --init other.pt --data mine/xsub           # fine-tune another run's network
    torchrun --nproc_per_node=2 train.py             # on several GPUs, which share each batch

A run writes checkpoints/<name>/: config.json, log.jsonl (one line per epoch), last.pt, best.pt and
curves.png. It does not read the test clips (the val files of the data); test.py does.
"""

import argparse
import json
import math
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import training.environment  # noqa: F401

import torch

from extensions import ExtensionConfig
from feeder import Feeder
from layers import check_choice
from model import NetworkConfig, TwoStreamRNN
from skeletons.layout import KINECT_V2, Layout
from skeletons.options import require
from skeletons.output import error_message, make_console_safe
from skeletons.preprocess import Preprocess, ReferenceFrame
from skeletons.storage import read_meta, split_files
from skeletons.version import git_commit
from training import engine
from training.checkpoint import TrainingState, load_checkpoint
from training.distributed import (
    OtherRankFailed,
    any_rank,
    destroy_distributed,
    get_rank,
    get_world_size,
    init_distributed,
    on_first_rank,
    record_error,
)
from training.finetune import Freeze, copy_weights, describe_copy, freeze
from training.loader import make_loader
from training.run import (
    RunFolder,
    StopRequest,
    describe_epoch,
    describe_run,
    tensorboard_writer,
)
from training.settings import check_values, flat, from_nested, with_fields
from training.validation import validation_split

# --- Settings -----------------------------------------------------------------------------------------
# The network's settings are in model.py (NetworkConfig) and extensions.py (ExtensionConfig). The
# defaults are the preset `baseline`. docs/paper.md compares it and the preset `paper` with the paper.

Optimizer = Literal["adamw", "sgd"]
Schedule = Literal["multistep", "cosine"]


@dataclass(frozen=True)
class PreprocessingConfig:
    """How a clip is brought to one length, position and size (skeletons/preprocess.py)."""

    # frames that clips are resampled to (causal: frames of an item, not resampled); 0: as many as the
    # longest clip has
    window_size: int = 100
    # False: not resampled, but window_size consecutive frames, in training the first or the last ones
    # of a longer clip, in evaluation the first; zeros precede a shorter clip
    resample: bool = True
    # coordinate system. camera: as recorded; first-body: origin at the root joint of the first body, in
    # every frame; per-frame: origin at each body's own root joint, in every frame; part-centres: in
    # every frame, origin of a body's arms between its shoulders, of its other joints between its hips;
    # first-frame: origin at the root joint of the first body in the first frame; body: as first-frame,
    # and axes along that body; pair: as body, but in clips with two bodies, origin midway between them
    # and, for each, x axis towards the other one
    reference_frame: ReferenceFrame = "body"
    # divide by the mean bone length of the clip (all its bodies; causal networks: the first body in its
    # first frame)
    normalization: bool = True


@dataclass(frozen=True)
class AugmentationConfig:
    """Random changes to each training clip, drawn anew in each epoch (skeletons/preprocess.py)."""

    # share of the clip that the random crop keeps, least and most
    crop_ratio: tuple[float, float] = (0.5, 1.0)
    crop_prob: float = 1.0  # probability that a clip is cropped; no effect with crop_ratio 1 1
    # time warping: the speed varies at random within the clip; standard deviation of its logarithm
    time_warp: float = 0.0
    # with no_resample: largest share of the window that is set to zero at its start
    random_start: float = 0.0
    rotate: tuple[float, float, float] = (0.3, 0.3, 0.3)  # largest angles about x, y, z, in radians
    # coordinates are multiplied by a random factor from 1 - scale to 1 + scale, one per axis
    scale: float = 0.1
    uniform_scale: bool = False  # the same factor for all axes
    shear: float = 0.1  # random shear factors from -shear to shear, one per ordered pair of axes
    # probability that a clip is rotated, scaled and sheared; and that it has a random start
    transform_prob: float = 1.0
    # bone lengths are multiplied by a random factor from 1 - this to 1 + this, one per bone, the same
    # on both sides
    bone_length_jitter: float = 0.0
    # random errors of tracking: for some of the clip, the joints of some body parts wander about their
    # place; largest standard deviation, in mean bone lengths
    tracking_noise: float = 0.0
    flip_prob: float = 0.0  # probability that a clip is mirrored, left and right joints swapped
    # probability that left and right joints are exchanged, as when the sensor mistakes back for front
    swap_sides_prob: float = 0.0


@dataclass(frozen=True)
class OptimizationConfig:
    """Optimizer, learning rate schedule and loss."""

    epochs: int = 300  # passes over the training clips
    batch_size: int = 256  # clips per step, over all processes
    optimizer: Optimizer = "adamw"  # without weight decay, AdamW is Adam
    momentum: float = 0.9  # sgd: Nesterov momentum; 0: none
    learning_rate: float = 0.001  # peak learning rate
    schedule: Schedule = "multistep"  # cosine: decays to zero after the last epoch
    milestones: tuple[int, ...] = (100, 160, 220)  # multistep: epochs after which the rate drops
    gamma: float = 0.5  # multistep: factor of each drop
    warmup_epochs: int = 0  # epochs in which the learning rate grows
    # weight decay of matrices, not of biases and normalization layers
    weight_decay: float = 0.0
    label_smoothing: float = 0.0  # probability mass spread evenly over all classes
    max_grad_norm: float = 0.0  # gradient clipping: largest norm; 0: off


@dataclass(frozen=True)
class MachineConfig:
    """Where and how to compute. Device, precision, cuda_graphs and, on a GPU, whether num_workers is 0
    change random numbers or rounding, not the method. On a CPU, the result does not depend on
    num_workers."""

    device: str = ""  # cuda or cpu; empty: the GPU if there is one
    # mixed: matrix products and LSTMs in float16 on a GPU, in bfloat16 on a CPU. auto: mixed on a CPU
    # with instructions for bfloat16, float32 elsewhere
    precision: engine.Precision = "float32"
    cuda_graphs: bool = True  # on a GPU, replay recorded training steps (CUDA graphs): faster
    # on a GPU, runs with the same settings give the same numbers; slower
    deterministic: bool = False
    # DataLoader worker processes; 0: the data is copied to the device, and batches are made there
    num_workers: int = 0
    mmap: bool = False  # read each batch from disk, for data that does not fit into memory
    tensorboard: bool = False  # log for TensorBoard, too, in the run's folder


@dataclass(frozen=True)
class Config:
    """Data, name, validation and seed of a run."""

    data: str = "NTU-RGB-D/xview"  # folder of a benchmark, made by convert_data.py
    name: str = ""  # folder of the run in checkpoints/; empty: <data>-<spatial>-<temporal>
    network: NetworkConfig = field(default_factory=NetworkConfig)
    preprocessing: PreprocessingConfig = field(default_factory=PreprocessingConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    optimization: OptimizationConfig = field(default_factory=OptimizationConfig)
    # minimum fraction of the training clips to hold out, in whole subjects, for choosing best.pt; 0:
    # train on all, best.pt is the last epoch
    validation_ratio: float = 0.05
    validation_camera: int = 0  # hold out the training clips of this camera instead; 0: by subject
    split_seed: int = 0  # decides which subjects are held out
    seed: int = 0  # random seed of everything else
    # fine-tuning: start from the weights in this checkpoint, with its settings of network and
    # preprocessing (other values are an error, except of dropout and the like, on which no weight
    # depends). The classifiers are new unless the classes are the same
    init: str = ""
    # with init, leave a stream, or both, as in the checkpoint, and with it what both read (view
    # adaptation, input normalisation): train the rest
    freeze: Freeze = "none"
    extensions: ExtensionConfig = field(default_factory=ExtensionConfig)
    machine: MachineConfig = field(default_factory=MachineConfig)


# The published method, after the authors' released code of the temporal stream and, for the spatial
# stream and the fusion, after ports of the paper (docs/paper.md).
PAPER = {
    "chain_legs": "hips", "spatial_window": 25, "temporal_weight": 0.9,
    "dropout_between_layers": False, "weight_init": "normal",
    "resample": False, "reference_frame": "part-centres", "normalization": False,
    "crop_ratio": (1.0, 1.0), "random_start": 0.3, "transform_prob": 0.5, "shear": 0.0,
    "rotate": (math.radians(10), math.radians(10), 0.0), "scale": 0.1, "uniform_scale": True,
    "optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.02, "gamma": 0.7,
    "milestones": tuple(range(40, 300, 40)),
}  # fmt: skip

# The most accurate preset, for small data sets; results/ablation.md has what most settings add.
FULL = {
    "temporal": "stacked", "spatial": "chain",
    "modalities": ("joint", "motion", "bone", "distance", "partner"), "view_adaptation": 64,
    "input_norm": True, "input_dropout": 0.2, "dropout": 0.3,
    "residual": True, "num_layers": 3, "hidden_size": 128, "part_hidden_size": 64,
    "window_size": 48, "spatial_window": 8, "spatial_stride": 4, "window_layers": 2,
    "reference_frame": "pair",
    "crop_prob": 0.5, "time_warp": 0.3, "rotate": (0.5, 0.5, 0.5), "bone_length_jitter": 0.2,
    "tracking_noise": 1.0, "flip_prob": 0.5, "swap_sides_prob": 0.3,
    "epochs": 120, "batch_size": 32, "learning_rate": 0.002, "schedule": "cosine", "warmup_epochs": 3,
    "weight_decay": 0.01, "label_smoothing": 0.1, "max_grad_norm": 1.0, "precision": "auto",
}  # fmt: skip

# Named changes to the settings above: `python train.py --preset demo`.
PRESETS: dict[str, dict[str, Any]] = {
    # The architecture of the paper, with the training of the PyTorch implementation that this
    # repository succeeds.
    "baseline": {},
    "paper": PAPER,
    # A smaller network and shorter windows: minutes on two CPU cores, for small data sets and laptops.
    "small": {
        "hidden_size": 128, "part_hidden_size": 64, "window_size": 48, "spatial_window": 48,
        "epochs": 120, "batch_size": 64, "milestones": (60, 90),
    },
    "full": FULL,
    # Class probabilities after every frame (live.py).
    "live": FULL | {
        "causal": True, "view_adaptation": 0, "reference_frame": "body",
        "crop_prob": 1.0, "time_warp": 0.0, "tracking_noise": 0.0,
    },
    "demo": {
        "data": "demo/xview", "hidden_size": 64, "part_hidden_size": 32, "window_size": 48,
        "spatial_window": 48, "epochs": 30, "batch_size": 64, "learning_rate": 0.003,
        "milestones": (20, 25),
    },
}  # fmt: skip

# Fields of AugmentationConfig -> options of Feeder.
FEEDER_OPTIONS = {
    "crop_ratio": "p_interval", "crop_prob": "rand_crop", "time_warp": "rand_time_warp",
    "random_start": "rand_start", "rotate": "rand_rotate",
    "scale": "rand_scale", "uniform_scale": "rand_uniform", "shear": "rand_shear",
    "transform_prob": "rand_prob", "bone_length_jitter": "rand_bone_scale",
    "tracking_noise": "rand_noise", "flip_prob": "rand_flip", "swap_sides_prob": "rand_swap_sides",
}  # fmt: skip

# These may differ when a run is resumed; with a cosine schedule, epochs may not.
RESUMABLE = (
    "name", "data", "epochs", "device", "cuda_graphs", "num_workers", "mmap", "tensorboard"
)  # fmt: skip

# With --init, these groups are those of the checkpoint, except the settings that no weight depends on.
INHERITED = ("network", "preprocessing", "extensions")
NOT_INHERITED = (
    "dropout", "dropout_between_layers", "input_dropout", "temporal_weight", "weight_init"
)  # fmt: skip


def make_config(preset: str = "baseline", **values: Any) -> Config:
    """The Config of a preset, with other values of some fields, in whatever group they are.

    Raises ValueError for an unknown preset or field.
    """
    check_choice("preset", preset, PRESETS)
    return with_fields(Config(), **PRESETS[preset] | values)


def config_from_dict(nested: dict[str, Any]) -> Config:
    """The Config of a checkpoint, of config.json or of a test record: the inverse of asdict."""
    known = flat(Config())
    # (Earlier versions of this code had other settings, which may be off, and one seed.)
    values = {k: v for k, v in from_nested(nested).items() if v or k in known}
    return with_fields(Config(), **{"split_seed": values.get("seed", 0)} | values)


def validate(config: Config) -> None:
    """ValueError for settings that are not allowed, or do not fit together."""
    check_values(config)
    run_folder(config)
    check_choice("optimizer", config.optimization.optimizer, get_args(Optimizer))
    check_choice("schedule", config.optimization.schedule, get_args(Schedule))
    check_choice("freeze", config.freeze, get_args(Freeze))
    if config.freeze != "none" and not config.init:
        raise ValueError(
            f"freeze={config.freeze}: without init, what is frozen would stay random\n"
            "give a checkpoint with --init, or leave --freeze out"
        )
    if config.extensions.causal and not config.preprocessing.resample:
        raise ValueError("a causal network reads whole clips\nleave resample=False out")
    if config.extensions.causal and config.preprocessing.reference_frame == "pair":
        raise ValueError(
            "reference_frame=pair depends on the first frame that shows both bodies, which a causal "
            "network may not have read yet\nchoose --reference_frame body"
        )
    stride = config.network.spatial_stride or config.network.spatial_window
    if config.extensions.causal and 0 < config.preprocessing.window_size < stride:
        raise ValueError(
            f"the spatial RNN would read nothing: its first window is full after {stride} frames, and "
            f"a training item has {config.preprocessing.window_size}\n"
            "lower --spatial_stride or --spatial_window, or raise --window_size"
        )
    # Modules check their own settings: before the data is read, those of a network of single units do.
    sizes = ("hidden_size", "part_hidden_size", "view_adaptation")
    sizes = {name: 1 for name in sizes if flat(config)[name]}  # 0: off
    small, window_size = with_fields(config, **sizes), config.preprocessing.window_size
    with names_of_settings():
        Preprocess(KINECT_V2, 3, **preprocess_options(config))
    model = TwoStreamRNN(KINECT_V2, 2, small.network, small.extensions).eval()
    frames = window_size if window_size > 0 else config.network.spatial_window
    with torch.no_grad():
        model(torch.zeros(1, 3, frames, len(KINECT_V2.joints), 1))


# --- Building -----------------------------------------------------------------------------------------


# What no name of a file may contain in Windows, and the names of its devices.
UNSAFE = re.compile(r'[<>:"|?*\x00-\x1f]')
DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d) *(\.|$)", re.IGNORECASE)


def run_name(config: Config) -> str:
    """Name of the run's folder in checkpoints/."""
    parts = (part.strip("/\\:.") for part in Path(config.data).parts[-2:])
    default = "-".join((*filter(None, parts), config.network.spatial, config.network.temporal))
    return config.name or UNSAFE.sub("_", default)


def run_folder(config: Config) -> RunFolder:
    """The run's folder. ValueError for a name outside checkpoints/, or that Windows refuses."""
    name = Path(run_name(config))
    # (Windows drops dots and spaces at the end of a name.)
    inside = name.parts and not name.anchor and all(part.strip(" .") for part in name.parts)
    require(bool(inside), "name", config.name, "that of a folder inside checkpoints/")
    portable = not any(UNSAFE.search(part) or DEVICE.match(part) for part in name.parts)
    require(portable, "name", config.name, 'free of <>:"|?* and of what Windows refuses, as con or nul')
    return RunFolder(Path("checkpoints") / name)


def augmentation_options(config: Config) -> dict[str, Any]:
    """The random options of Feeder."""
    values = asdict(config.augmentation)
    options = {option: values[name] for name, option in FEEDER_OPTIONS.items()}
    resample = config.preprocessing.resample
    return {"random_choose": config.extensions.causal, "rand_end": not resample} | options


def preprocess_options(config: Config) -> dict[str, Any]:
    """The options of Feeder or Preprocess for training."""
    causal, preprocessing = config.extensions.causal, config.preprocessing
    return {
        "window_size": preprocessing.window_size,
        "origin_transfer": preprocessing.reference_frame,
        # A causal network cannot know the bone length of the whole clip.
        "normalization": preprocessing.normalization and ("first-frame" if causal else True),
        "crop_resize": preprocessing.resample and not causal,
        "front_padding": not preprocessing.resample,
    } | augmentation_options(config)


@contextmanager
def names_of_settings() -> Iterator[None]:
    """In errors of Feeder and Preprocess, the names of the settings in place of those of options."""
    try:
        yield
    except ValueError as error:
        message = str(error)
        for name, option in ({"reference_frame": "origin_transfer"} | FEEDER_OPTIONS).items():
            message = re.sub(rf"\b{option}\b", name, message)
        raise ValueError(message) from None


def evaluation_options(feeder: Feeder) -> dict[str, Any]:
    """The options of Feeder or Preprocess that prepare clips for evaluation as this Feeder does."""
    options = feeder.preprocess.eval().options()
    names = ("crop_resize", "front_padding", "origin_transfer", "normalization")
    # Otherwise, as for causal networks, whole clips are evaluated.
    one_window = options["crop_resize"] or options["front_padding"]
    window_size = feeder.window_size if one_window else 0
    return {"window_size": window_size} | {name: options[name] for name in names}


def open_data(config: Config) -> tuple[Feeder, dict[str, Any]]:
    """The training clips -> (Feeder, meta.json with the subject of each clip)."""
    meta = read_meta(config.data)
    try:
        with names_of_settings():
            feeder = Feeder(
                *split_files(config.data, "train"),
                mmap=config.machine.mmap,
                **preprocess_options(config),
            )
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; or say with --data where it is") from error
    meta.setdefault("subject", {"train": list(range(len(feeder)))})
    if feeder.label.max() >= len(feeder.classes) or len(meta["subject"]["train"]) != len(feeder):
        raise ValueError(
            f"{config.data}/meta.json does not belong to the arrays next to it\nconvert the data again"
        )
    return feeder, meta


def fit_extensions(
    extensions: ExtensionConfig, feeder: Feeder, reference_frame: str
) -> ExtensionConfig:
    """The extensions without the modality partner if no clip has two bodies. ValueError if partner or
    the reference frame cannot be computed."""
    if reference_frame == "pair" and feeder.has_third_slot():
        raise ValueError(
            f"{feeder.data_path} has clips with a third body, which reference_frame=pair cannot "
            "read\nleave such bodies out (convert_data.py keeps the two that move most), or choose "
            "--reference_frame body"
        )
    if "partner" not in extensions.modalities:
        return extensions
    others = tuple(modality for modality in extensions.modalities if modality != "partner")
    if not feeder.has_pairs():
        return replace(extensions, modalities=others)
    without = f"--modalities {' '.join(others)}"
    if reference_frame in ("per-frame", "part-centres"):
        raise ValueError(
            f"reference_frame={reference_frame}: each body has an origin of its own, so the "
            "modality partner would not see where the other one is\n"
            f"leave it out: {without}, or choose another frame: --reference_frame pair"
        )
    if feeder.max_bodies > 2:
        raise ValueError(
            f"{feeder.data_path} has room for {feeder.max_bodies} bodies in a clip, of which the "
            "modality partner can read two\nleave other bodies out (convert_data.py keeps the two that "
            f"move most), or leave the modality out: {without}"
        )
    return extensions


def learning_rate_factor(optimization: OptimizationConfig, epoch: int) -> float:
    """What the learning rate is multiplied by in an epoch, counted from 0."""
    factor = min(1, (epoch + 1) / (optimization.warmup_epochs + 1))
    if optimization.schedule == "cosine":
        return factor * (1 + math.cos(math.pi * epoch / optimization.epochs)) / 2
    return factor * optimization.gamma ** sum(epoch >= drop for drop in optimization.milestones)


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trained parameters of the network, for an optimizer. Weight decay is for the matrices, not for
    biases and normalization layers."""
    parameters = [weights for weights in model.parameters() if weights.requires_grad]
    if not weight_decay:  # one group, as in checkpoints of earlier versions
        return [{"params": parameters}]
    matrices = [weights for weights in parameters if weights.ndim > 1]
    vectors = [weights for weights in parameters if weights.ndim <= 1]
    return [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]


def make_optimizer(model: torch.nn.Module, optimization: OptimizationConfig) -> torch.optim.Optimizer:
    """The optimizer of a network's parameters."""
    groups = parameter_groups(model, optimization.weight_decay)
    options = {"lr": optimization.learning_rate, "weight_decay": optimization.weight_decay}
    if optimization.optimizer == "sgd":
        momentum = optimization.momentum
        return torch.optim.SGD(groups, momentum=momentum, nesterov=momentum > 0, fused=True, **options)
    return torch.optim.AdamW(groups, fused=True, **options)


class Run:
    """What is trained and what it is trained on, built from a Config: data, network, optimizer."""

    def __init__(
        self, config: Config, device: torch.device, feeder: Feeder, meta: dict[str, Any]
    ) -> None:
        self.config, self.device = config, device
        torch.manual_seed(config.seed)
        # Decides when a clip comes up, and how it is augmented.
        order = torch.Generator().manual_seed(config.seed)
        train_clips, self.validation_clips = validation_split(
            meta, config.validation_ratio, config.validation_camera, config.split_seed
        )
        frame = config.preprocessing.reference_frame
        extensions = fit_extensions(config.extensions, feeder, frame)
        data_args = {"channels": feeder.channels, "opposite_axes": frame == "pair"}
        model = TwoStreamRNN(
            feeder.layout, len(feeder.classes), config.network, extensions, **data_args
        ).to(device)
        freeze(model, config.freeze)
        optimization, machine = config.optimization, config.machine
        optimizer = make_optimizer(model, optimization)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, partial(learning_rate_factor, optimization)
        )
        self.precision = engine.resolve_precision(machine.precision, device)
        scaler = engine.make_scaler(self.precision, device)
        self.state = TrainingState(model, optimizer, scheduler, order, scaler)
        # Settings that do not fit the data are found here, before an earlier run is replaced.
        flops = engine.count_flops(model, feeder.window_size)
        if not machine.num_workers and not machine.mmap:
            feeder.to(device)
        batch_size = optimization.batch_size
        self.batches = make_loader(feeder, train_clips, batch_size, order, machine.num_workers, device)
        self.validation_batches = make_loader(feeder.eval(), self.validation_clips, batch_size)

        self.run_info = {  # config.json
            "config": asdict(config),
            "commit": git_commit(),
            "torch": torch.__version__,
            "device": engine.device_name(device),
            "precision": self.precision,
            "clips": {"train": len(train_clips), "validation": len(self.validation_clips)},
            "parameters": sum(p.numel() for p in model.parameters()),
            "flops": flops,
        }
        self.fixed_entries = {  # the part of a checkpoint that stays the same
            "model_args": {
                "network": asdict(config.network),
                "extensions": asdict(extensions),
                **data_args,
            },
            "layout": feeder.layout.to_dict(),
            "classes": feeder.classes,
            "clips": self.run_info["clips"],
            "validation": self.validation_clips,
            "preprocessing": evaluation_options(feeder),
            "augmentation": augmentation_options(config),
            "config": self.run_info["config"],
            "commit": self.run_info["commit"],
            "precision": self.precision,
        }
        torch.manual_seed(config.seed + get_rank())

    def training_step(self) -> engine.TrainingStep:
        """What trains the network on a batch."""
        model, optimization, machine = self.state.model, self.config.optimization, self.config.machine
        if get_world_size() > 1:
            model = torch.nn.parallel.DistributedDataParallel(model)
            model.broadcast_buffers = False  # engine.evaluate does that
        return engine.TrainingStep(
            model,
            self.state.optimizer,
            self.device,
            precision=self.precision,
            scaler=self.state.scaler,
            label_smoothing=optimization.label_smoothing,
            max_grad_norm=optimization.max_grad_norm,
            cuda_graphs=machine.cuda_graphs,
        )

    def restore(self, checkpoint: dict[str, Any], path: Path) -> tuple[int, list[float]]:
        """Go back to the state of a checkpoint, read from `path` -> (its epoch, its best score)."""
        differing = [
            k for k in ("layout", "classes", "clips") if checkpoint[k] != self.fixed_entries[k]
        ]
        if differing:
            raise ValueError(
                f"{self.run_info['config']['data']} is not the data of {path}: other "
                f"{', '.join(differing)}\ngive the folder that it was trained on with --data"
            )
        try:
            self.state.load_state_dict(checkpoint)
        except ValueError as error:
            raise ValueError(f"{path} cannot be resumed: {error}") from error
        self.set_origin(checkpoint.get("init"))
        # On another device, precision="auto" can be another one. (None: an earlier version began it.)
        earlier = checkpoint.get("precision")
        names = earlier and ", ".join(sorted({*earlier.split(", "), self.precision}))
        self.fixed_entries["precision"] = names
        return checkpoint["epoch"], checkpoint["best"]

    def initialise(self, checkpoint: dict[str, Any]) -> None:
        """Start from the weights of a checkpoint, that of --init."""
        check_inherited(self.config, checkpoint)
        model, entries = self.state.model, self.fixed_entries
        layout = Layout.from_dict(entries["layout"])
        try:
            copied = copy_weights(model, layout, entries["classes"], checkpoint)
        except ValueError as error:
            raise ValueError(f"{self.config.init} does not fit: {error}") from error
        self.set_origin({"checkpoint": self.config.init} | copied)

    def set_origin(self, origin: dict[str, Any] | None) -> None:
        """Record where the weights come from, if they were copied."""
        if origin:
            self.run_info["init"] = self.fixed_entries["init"] = origin


# --- Training -----------------------------------------------------------------------------------------

NO_SCORE = [-1.0, 0.0]  # (accuracy, -loss) before the first epoch


def main(
    config: Config,
    resume: bool = False,
    overwrite: bool = False,
    stop: Callable[[], bool] | None = None,
) -> Path:
    """Train; returns the run's folder.

    resume     go on after the last saved epoch
    overwrite  replace a run of the same name
    stop       as in engine.train_epoch, and also asked after each epoch; when engine.Interrupted is
               raised, the epoch in progress is lost

    If several processes train together, the caller calls destroy_distributed afterwards.
    """
    validate(config)
    folder = run_folder(config)
    if config.machine.deterministic:
        engine.use_deterministic_algorithms()
    device = engine.resolve_device(config.machine.device)
    engine.resolve_precision(config.machine.precision, device)
    tensorboard = tensorboard_writer(folder.path) if config.machine.tensorboard else None
    init_distributed(device)
    with folder.lock():
        if resume:
            folder.check_saved()
            checkpoint = load_checkpoint(folder.last)
            check_resumable(config, checkpoint)
        elif not overwrite:
            folder.check_unused()
        run = Run(config, device, *open_data(config))
        epoch, best = run.restore(checkpoint, folder.last) if resume else (0, NO_SCORE)
        if config.init and not resume:
            run.initialise(load_checkpoint(config.init))
        on_first_rank(folder.begin, run.run_info, epoch)
        if get_rank() == 0:
            if resume:
                print(f"resuming after epoch {epoch} of {config.optimization.epochs}")
            elif config.init:
                print(describe_copy(run.run_info["init"], run.state.model))
            print(f"{folder.path}: {describe_run(run.run_info, get_world_size())}")
        train_epochs(run, folder, epoch, best, stop, tensorboard)
    return folder.path


def check_resumable(config: Config, checkpoint: dict[str, Any]) -> None:
    """ValueError for settings with which the run of the checkpoint cannot go on."""
    before, now = flat(config_from_dict(checkpoint["config"])), flat(config)
    allowed = [k for k in RESUMABLE if k != "epochs" or before["schedule"] != "cosine"]
    differing = [k for k in now if k not in allowed and now[k] != before[k]]
    if differing:
        remedy = f"only these may differ: {', '.join(allowed)}"
        if "epochs" in differing:
            remedy = "the cosine schedule depends on epochs: leave --epochs out, or train again"
        raise ValueError(
            f"a resumed run keeps its settings; these differ: {', '.join(differing)}\n{remedy}"
        )
    reads_partner = "partner" in checkpoint["model_args"]["extensions"]["modalities"]
    opposite_axes = checkpoint["model_args"].get("opposite_axes", False)
    if reads_partner and opposite_axes != (now["reference_frame"] == "pair"):
        raise ValueError(
            "an earlier version of this code, which read partners in other axes, began the run\n"
            "train again"
        )
    if now["epochs"] < checkpoint["epoch"]:
        raise ValueError(
            f"epochs={now['epochs']}, but the run has finished epoch {checkpoint['epoch']}\n"
            "give as many --epochs, or more"
        )


def inherit(config: Config, checkpoint: dict[str, Any]) -> Config:
    """The settings with network and preprocessing of a checkpoint, that of --init."""
    try:
        source = config_from_dict(checkpoint["config"])
    except ValueError as error:
        raise ValueError(
            f"{config.init} was made by another version of this code: {str(error).splitlines()[0]}\n"
            "train its network again"
        ) from error
    return replace(config, **{group: getattr(source, group) for group in INHERITED})


def check_inherited(config: Config, checkpoint: dict[str, Any]) -> None:
    """ValueError for settings that differ from those of the checkpoint of --init, but must not."""
    before, now = flat(inherit(config, checkpoint)), flat(config)
    differing = [k for k in now if now[k] != before[k] and k not in NOT_INHERITED]
    if differing:
        values = ", ".join(f"{k} ({before[k]}, not {now[k]})" for k in differing)
        raise ValueError(
            f"{config.init} has other settings of network or preprocessing: {values}\n"
            "--init takes these from the checkpoint: leave them out, and a --preset or --config with "
            "other values"
        )


def train_epochs(
    run: Run,
    folder: RunFolder,
    epoch: int,
    best: list[float],
    stop: Callable[[], bool] | None = None,
    tensorboard: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """The loop over the epochs after `epoch`; `best` is the best score up to there."""
    epochs = run.config.optimization.epochs
    writes, device = get_rank() == 0, run.device
    if not folder.best.exists():
        best = NO_SCORE
        if epoch and writes:  # only last.pt was copied
            print(f"{folder.best} is missing: it will be the best of the next epochs", file=sys.stderr)
    scheduler, step = run.state.scheduler, run.training_step()
    while epoch < epochs:
        started = time.perf_counter()
        line = {"epoch": epoch + 1, "learning_rate": scheduler.get_last_lr()[0]}
        line["train"] = engine.train_epoch(step, run.batches, title=f"epoch {epoch + 1}", stop=stop)
        scheduler.step()
        score = best  # without validation clips, each epoch is as good as the best
        if run.validation_clips:
            metrics, *_ = engine.evaluate(
                run.state.model, run.validation_batches, device, "", run.precision
            )
            line["validation"] = metrics
            # The highest accuracy; if equal, the lowest loss.
            score = [metrics["fused"]["accuracy"], -metrics["fused"]["loss"]]
            if not all(math.isfinite(stream["loss"]) for stream in metrics.values()):
                raise FloatingPointError(f"epoch {epoch + 1}: the validation loss is not finite")
        line["seconds"] = round(time.perf_counter() - started, 3)
        epoch, improved, best = epoch + 1, score >= best, max(score, best)
        state = run.state.state_dict()
        network = run.fixed_entries | {"model": state["model"], "epoch": epoch, "best": best}
        checkpoints = {folder.best: network} if improved else {}
        on_first_rank(folder.save_epoch, line, checkpoints | {folder.last: network | state})
        if writes:
            if tensorboard:
                tensorboard(line)
            print(describe_epoch(line))
        if stop and any_rank(stop()) and epoch < epochs:
            raise engine.Interrupted
    if writes and folder.read_log(epochs):
        import plot

        try:
            plot.curves([folder.path], folder.curves)
            print(folder.curves)
        except OSError as error:  # the run itself is saved
            print(f"{folder.curves} cannot be written: {error}\n"
                  f"draw it later: python plot.py curves {folder.path}", file=sys.stderr)  # fmt: skip
    if writes:
        print(f"now: python test.py {folder.best}")


# --- Command line -------------------------------------------------------------------------------------


def parse_command_line(argv: Sequence[str] | None = None) -> tuple[Config, bool, bool]:
    """-> (config, resume, overwrite). Every field of Config is an option."""
    import tyro  # only here: training from Python needs no tyro

    # torch.distributed.launch adds --local-rank=0; the environment has it, too.
    argv = sys.argv[1:] if argv is None else argv
    argv = [text for text in argv if not re.match("--local[-_]rank=", text)]
    flag = tyro.conf.FlagCreatePairsOff[bool]

    @dataclass(frozen=True)
    class Options:
        preset: Literal[tuple(PRESETS)] = "baseline"  # start from these settings (PRESETS in train.py)
        # go on with the run in checkpoints/<name>; settings other than its own are an error (epochs
        # and most machine options may differ)
        resume: flag = False
        overwrite: flag = False  # replace the run in checkpoints/<name>
        # start from the settings in this config.json of a run, to repeat it under another --name
        settings: Annotated[str, tyro.conf.arg(name="config")] = ""
        config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)

    def parse(default: Config) -> Options:
        return tyro.cli(
            tyro.conf.OmitArgPrefixes[Options],
            args=argv,
            default=Options(config=default),
            prog="train.py",
            description=__doc__,
            use_underscores=True,
        )

    first = argparse.ArgumentParser(prog="train.py", add_help=False, allow_abbrev=False)
    first.add_argument("--preset", choices=PRESETS)
    first.add_argument("--config")
    start = first.parse_known_args(argv)[0]
    given = parse(
        read_config(start.config) if start.config else make_config(start.preset or "baseline")
    )
    if start.config and (start.preset or given.resume):
        raise ValueError("--config excludes --preset and --resume\nleave one of them out")
    if given.resume and given.overwrite:
        raise ValueError("--resume and --overwrite exclude each other\nleave one of them out")
    if given.resume:
        folder = run_folder(given.config)
        folder.check_saved()
        default, free = config_from_dict(load_checkpoint(folder.last)["config"]), RESUMABLE
    elif given.config.init and not start.config:
        default, free = inherit(given.config, load_checkpoint(given.config.init)), ()
    else:
        return given.config, False, given.overwrite
    config = parse(default).config
    # `main` refuses other settings, whether the preset or an option gives them.
    preset = flat(given.config).items() if start.preset else ()
    fixed = {k: v for k, v in preset if k in PRESETS[start.preset] and k not in free}
    return with_fields(config, **fixed), given.resume, given.overwrite


def read_config(path: str) -> Config:
    """The settings in the config.json of a run, with a warning if some are missing. ValueError if there
    are none, or others than this version has."""
    try:
        settings = json.loads(Path(path).read_text(encoding="utf-8-sig"))["config"]
        config = config_from_dict(settings)
        check_values(config)
        known = {"split_seed", *from_nested(settings)}  # (split_seed: config_from_dict)
        missing = [k for k in flat(config) if k not in known]
        if missing:
            print(f"{path} has no {', '.join(missing)}: the defaults are used", file=sys.stderr)
        return config
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    except KeyError as error:
        reason = f"does not hold the settings of a run: {error} is missing"
    except (ValueError, TypeError, AttributeError) as error:
        reason = f"does not hold the settings of a run: {str(error).splitlines()[0]}"
    raise ValueError(f"{path} {reason}\ngive the config.json of a run, of this version of the code")


def run_command(argv: Sequence[str] | None = None) -> None:
    """Train as the command line says. Raises SystemExit after an error or a stop."""
    make_console_safe()
    try:
        config, resume, overwrite = parse_command_line(argv)
    except (ValueError, OSError) as error:
        raise SystemExit(f"train.py: {error_message(error)}") from None
    train_or_exit(config, resume, overwrite)


def train_or_exit(config: Config, resume: bool, overwrite: bool) -> None:
    """`main`, with messages. Raises SystemExit after an error or a stop."""
    message, status, all_stop, stop = "", 0, True, StopRequest()
    try:
        folder = run_folder(config)
        with stop:
            main(config, resume, overwrite, stop)
    except (engine.Interrupted, KeyboardInterrupt) as stopped:
        all_stop = isinstance(stopped, engine.Interrupted)  # a second Ctrl-C comes at different moments
        # As a shell says it, so that a batch system can tell it from an error, and start the run again.
        status = 128 + (stop.number or signal.SIGTERM)  # 0: another process was asked
        message = f"stopped; {folder.describe()}\nstart again with the same options"
        if folder.last.exists():
            message = (
                f"stopped; {folder.describe()}\n"
                f"go on with: python train.py --name {run_name(config)} --resume"
            )
    except OtherRankFailed:
        status = 1
    except torch.OutOfMemoryError:
        status, all_stop, size = 1, False, config.optimization.batch_size
        message = (
            f"the GPU has not enough memory for batches of {size} clips; {folder.describe()}\n"
            f"lower --batch_size, for example to {max(size // 2, 1)}"
        )
    except FloatingPointError as error:
        status = 1
        message = f"{error}; {folder.describe()}\nlower --learning_rate and train again"
    except (ValueError, OSError) as error:
        status = 1
        all_stop = not isinstance(error, OSError)  # an OSError may happen to one process alone
        message = error_message(error)
    # Not within `except`, where the traceback keeps the network alive.
    if message:
        print(f"train.py: {message}", file=sys.stderr)
        record_error(f"train.py: {message}")
    if all_stop:
        destroy_distributed()
    if status:
        raise SystemExit(status)


if __name__ == "__main__":
    run_command()
