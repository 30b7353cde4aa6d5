"""What a preset costs on NTU RGB+D: time and memory of a run, on random data of NTU's size and shape.

    python benchmarks/ntu.py                      # full and baseline; four minutes and 2.6 GB of disk
    python benchmarks/ntu.py --presets full --temporal stacked --spatial chain --seconds 300

40,091 training clips of 60 to 150 frames, 60 classes, 18 % with two bodies, written as by
convert_data.py; random numbers, so nothing is learned. After a few
steps of warm-up, one epoch is timed, or as many of its steps as fit into --seconds; the time of a whole
run is extrapolated. Memory is the peak (on a CPU, the peak so far: name smaller presets first). Writes
results/ntu-<device>.json. `make gpu` measures more on a GPU.
"""

import argparse
import copy
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import speed  # noqa: E402
import torch  # noqa: E402

import train  # noqa: E402
from feeder import Feeder  # noqa: E402
from model import SPATIAL, TEMPORAL  # noqa: E402
from skeletons.clip import Clip  # noqa: E402
from skeletons.datasets import DATASETS  # noqa: E402
from skeletons.preprocess import Preprocess  # noqa: E402
from skeletons.storage import BenchmarkWriter, read_meta, split_files  # noqa: E402
from training import engine  # noqa: E402

CLIPS, TWO_BODIES = 40_091, 0.183
WARM_UP = 8  # steps; on a GPU, some of them are recorded


def write_ntu(folder: str | Path, clips: int = CLIPS) -> None:
    """The training split of a benchmark like NTU-60's cross-subject one."""
    rng, dataset = np.random.default_rng(0), DATASETS["ntu"]
    writer = BenchmarkWriter(Path(folder), (3, 25, 2))
    movement = rng.normal(0, 0.02, (1000, 3, 25, 2)).astype(np.float32)
    for i in range(clips):
        frames, start = rng.integers(60, 150, endpoint=True), rng.integers(800)
        data = rng.normal(3, 1, (1, 3, 25, 2)).astype(np.float32) + movement[start : start + frames]
        if rng.random() > TWO_BODIES:
            data[..., 1] = 0
        writer.add("train", Clip(f"clip {i}", i % 60, data, subject=i % 20 + 1))
    meta = {"layout": dataset.layout.to_dict(), "classes": dataset.classes, "dataset": "random"}
    writer.finish(meta)
    writer.commit()


def open_ntu(clips: int, device: torch.device) -> tuple[Feeder, dict]:
    """Such data in the memory of the device -> (Feeder, meta.json)."""
    with tempfile.TemporaryDirectory() as folder:
        write_ntu(Path(folder) / "xsub", clips)
        feeder = Feeder(*split_files(Path(folder) / "xsub", "train"))
        return feeder.to(device), read_meta(Path(folder) / "xsub")


def make_run(config: train.Config, feeder: Feeder, meta: dict, device: torch.device) -> train.Run:
    """A run of train.py on all clips of a Feeder, whose window and augmentation the config decides."""
    feeder = copy.copy(feeder)
    feeder.preprocess = Preprocess(feeder.layout, feeder.channels, **train.preprocess_options(config))
    return train.Run(train.with_fields(config, validation_ratio=0.0), device, feeder, meta)


def measure(run: train.Run, seconds: float = float("inf")) -> dict:
    """Time of an epoch, or of so many seconds of one, after some steps -> cost of a whole run."""
    step, done = run.training_step(), 0
    if run.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(run.device)

    def count(limit: int, until: float = float("inf")) -> bool:
        nonlocal done
        done += 1
        return done >= limit or time.perf_counter() > until

    def epoch(*limits: float) -> float:
        """Seconds of an epoch that ends after so many steps or at some time."""
        nonlocal done
        done, began = 0, time.perf_counter()
        try:
            engine.train_epoch(step, run.batches, stop=lambda: count(*limits))
            done += 1  # (`stop` is not asked after the last step)
        except engine.Interrupted:
            speed.synchronise(run.device)
        return time.perf_counter() - began

    epoch(WARM_UP)
    taken = epoch(sys.maxsize, time.perf_counter() + seconds)
    optimization = run.config.optimization
    epoch_seconds = taken / done * len(run.batches)
    return {
        "steps": done,
        "step_ms": round(1e3 * taken / done, 2),
        "clips_per_second": round(len(run.batches.sampler.clips) / epoch_seconds, 1),
        "epoch_seconds": round(epoch_seconds, 2),
        "epochs": optimization.epochs,
        "run_hours": round(optimization.epochs * epoch_seconds / 3600, 2),
        "parameters": run.run_info["parameters"],
        "flops": run.run_info["flops"],
        "memory_mib": {name: round(size) for name, size in speed.memory(run.device).items()},
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--presets", nargs="+", choices=train.PRESETS, default=["full", "baseline"])
    parser.add_argument("--temporal", choices=TEMPORAL, default="hierarchical")
    parser.add_argument("--spatial", choices=SPATIAL, default="traversal")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--precision", choices=engine.PRECISIONS, default="float32")
    parser.add_argument("--clips", type=int, default=CLIPS)
    parser.add_argument("--out", help="default: results/ntu-<device>.json")
    arguments = parser.parse_args(argv)
    device = engine.resolve_device("")
    network = {name: getattr(arguments, name) for name in ("temporal", "spatial", "precision")}
    record = {"clips": arguments.clips} | network | {"presets": {}}
    feeder, meta = open_ntu(arguments.clips, device)
    for preset in arguments.presets:
        run = make_run(train.make_config(preset, **network), feeder, meta, device)
        record["presets"][preset] = measure(run, arguments.seconds)
        print(preset, record["presets"][preset], flush=True)
    record |= {"device": engine.device_name(device), "torch": torch.__version__}
    record["date"] = date.today().isoformat()
    out = Path(arguments.out or ROOT / "results" / f"ntu-{device.type}.json")
    out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
