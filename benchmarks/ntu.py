"""What a setting costs on NTU RGB+D: time of a run and memory, on a made-up set of its size and shape.

    python benchmarks/ntu.py                      # full and paper; four minutes and 2.6 GB of disk
    python benchmarks/ntu.py --settings full --temporal stacked --spatial chain --seconds 300

40,091 training clips of 60 to 150 frames, 60 classes, 18 % with two bodies, written as convert_data.py
does; random walks, so nothing is learned. train.py trains on it for a while; the time of all epochs is
extrapolated from the steps done; memory is the largest so far, so name smaller settings first. Writes
results/ntu-<device>.json.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import replace
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


def write_ntu(folder):
    """The training part of a benchmark like NTU-60's cross subject."""
    random, dataset = np.random.default_rng(0), DATASETS["ntu"]
    writer = BenchmarkWriter(Path(folder), (3, 25, 2))
    for i in range(CLIPS):
        frames = random.integers(60, 150, endpoint=True)
        data = random.normal(3, 1, (1, 3, 25, 2)) + random.normal(0, 0.02, (frames, 3, 25, 2))
        if random.random() > TWO_BODIES:
            data[..., 1] = 0
        writer.add("train", Clip(f"clip {i}", i % 60, data.astype(np.float32), subject=i % 20 + 1))
    meta = {"layout": dataset.layout.to_dict(), "classes": dataset.classes, "dataset": "made up"}
    writer.finish(meta)
    writer.publish()


def measure(config, seconds, device):
    """Train for so many seconds after the first ten steps -> what a whole run takes."""
    steps, began = 0, None

    def stop():
        nonlocal steps, began
        steps += 1
        if steps == 10:
            began = time.perf_counter()
        return began and time.perf_counter() - began > seconds

    try:
        train.main(config, overwrite=True, stop=stop)
        raise SystemExit("ntu.py: an epoch was over before: give fewer --seconds")
    except engine.Interrupted:
        rate = (steps - 10) * config.batch_size / (time.perf_counter() - began)
    about = json.loads((Path("checkpoints") / config.name / "config.json").read_text())
    epoch = CLIPS / rate
    return {
        "clips_per_second": round(rate, 1),
        "epoch_seconds": round(epoch, 1),
        "epochs": config.epochs,
        "run_hours": round(config.epochs * epoch / 3600, 2),
        "parameters": about["parameters"],
        "operations": about["operations"],
        "memory_mib": {name: round(size) for name, size in speed.memory(device).items()},
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--settings", nargs="+", choices=train.PRESETS, default=["full", "paper"])
    parser.add_argument("--temporal", choices=TEMPORAL, default="hierarchical")
    parser.add_argument("--spatial", choices=SPATIAL, default="traversal")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--precision", choices=engine.PRECISIONS, default="float32")
    parser.add_argument("--out", help="default: results/ntu-<device>.json")
    arguments = parser.parse_args()
    device = engine.resolve_device("")
    record = {"clips": CLIPS, "temporal": arguments.temporal, "spatial": arguments.spatial}
    record |= {"precision": arguments.precision, "settings": {}}
    with tempfile.TemporaryDirectory() as folder:
        write_ntu(Path(folder) / "NTU-shaped" / "xsub")
        here = Path.cwd()
        os.chdir(folder)
        for setting in arguments.settings:
            shared = {"data": "NTU-shaped/xsub", "name": setting, "precision": arguments.precision}
            shared |= {"temporal": arguments.temporal, "spatial": arguments.spatial}
            config = replace(train.Config(), **train.PRESETS[setting] | shared, held_out=0.0)
            record["settings"][setting] = measure(config, arguments.seconds, device)
            print(setting, record["settings"][setting], flush=True)
        os.chdir(here)
    record |= {"device": engine.device_name(device), "torch": torch.__version__}
    record["date"] = date.today().isoformat()
    out = Path(arguments.out or ROOT / "results" / f"ntu-{device.type}.json")
    out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
