"""What a preset costs on NTU RGB+D: time and memory of a run, on random data of NTU's size and shape.

    python benchmarks/ntu.py                      # full and paper; four minutes and 2.6 GB of disk
    python benchmarks/ntu.py --presets full --temporal stacked --spatial chain --seconds 300

40,091 training clips of 60 to 150 frames, 60 classes, 18 % with two bodies, written as by
convert_data.py; random numbers, so nothing is learned. train.py trains on them for a while; the time of
all epochs is extrapolated from the steps done. Memory is the peak so far, so name smaller presets
first. Writes results/ntu-<device>.json.
"""

import argparse
import json
import os
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
from model import SPATIAL, TEMPORAL  # noqa: E402
from skeletons.clip import Clip  # noqa: E402
from skeletons.datasets import DATASETS  # noqa: E402
from skeletons.storage import BenchmarkWriter  # noqa: E402
from training import engine  # noqa: E402

CLIPS, TWO_BODIES = 40_091, 0.183


def write_ntu(folder: str | Path) -> None:
    """The training split of a benchmark like NTU-60's cross-subject one."""
    rng, dataset = np.random.default_rng(0), DATASETS["ntu"]
    writer = BenchmarkWriter(Path(folder), (3, 25, 2))
    for i in range(CLIPS):
        frames = rng.integers(60, 150, endpoint=True)
        data = rng.normal(3, 1, (1, 3, 25, 2)) + rng.normal(0, 0.02, (frames, 3, 25, 2))
        if rng.random() > TWO_BODIES:
            data[..., 1] = 0
        writer.add("train", Clip(f"clip {i}", i % 60, data.astype(np.float32), subject=i % 20 + 1))
    meta = {"layout": dataset.layout.to_dict(), "classes": dataset.classes, "dataset": "random"}
    writer.finish(meta)
    writer.commit()


def measure(config: train.Config, seconds: float, device: torch.device) -> dict:
    """Train for so many seconds after the first ten steps -> cost of a whole run."""
    steps, started = 0, None

    def stop() -> bool:
        nonlocal steps, started
        steps += 1
        if steps == 10:
            started = time.perf_counter()
        return started is not None and time.perf_counter() - started > seconds

    try:
        train.main(config, overwrite=True, stop=stop)
        raise SystemExit("ntu.py: an epoch took less time than that\ngive fewer --seconds")
    except engine.Interrupted:
        clips = (steps - 10) * config.optimization.batch_size
        rate = clips / (time.perf_counter() - started)
    about = json.loads((Path("checkpoints") / config.name / "config.json").read_text())
    epoch = CLIPS / rate
    return {
        "clips_per_second": round(rate, 1),
        "epoch_seconds": round(epoch, 1),
        "epochs": config.optimization.epochs,
        "run_hours": round(config.optimization.epochs * epoch / 3600, 2),
        "parameters": about["parameters"],
        "flops": about["flops"],
        "memory_mib": {name: round(size) for name, size in speed.memory(device).items()},
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--presets", nargs="+", choices=train.PRESETS, default=["full", "paper"])
    parser.add_argument("--temporal", choices=TEMPORAL, default="hierarchical")
    parser.add_argument("--spatial", choices=SPATIAL, default="traversal")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--precision", choices=engine.PRECISIONS, default="float32")
    parser.add_argument("--out", help="default: results/ntu-<device>.json")
    arguments = parser.parse_args(argv)
    device = engine.resolve_device("")
    record = {"clips": CLIPS, "temporal": arguments.temporal, "spatial": arguments.spatial}
    record |= {"precision": arguments.precision, "presets": {}}
    with tempfile.TemporaryDirectory() as folder:
        write_ntu(Path(folder) / "NTU-shaped" / "xsub")
        here = Path.cwd()
        os.chdir(folder)
        for preset in arguments.presets:
            shared = {"data": "NTU-shaped/xsub", "name": preset, "precision": arguments.precision}
            shared |= {"temporal": arguments.temporal, "spatial": arguments.spatial}
            config = train.make_config(preset, **shared, validation_ratio=0.0)
            record["presets"][preset] = measure(config, arguments.seconds, device)
            print(preset, record["presets"][preset], flush=True)
        os.chdir(here)
    record |= {"device": engine.device_name(device), "torch": torch.__version__}
    record["date"] = date.today().isoformat()
    out = Path(arguments.out or ROOT / "results" / f"ntu-{device.type}.json")
    out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
