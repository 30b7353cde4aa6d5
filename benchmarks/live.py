"""What a frame costs in live use: one CPU core, one frame after the other, for as long as it takes.

    python benchmarks/live.py            # 10,000 frames, one and two bodies; results/live.json

Networks of `--setting live`, each of the four combinations, for NTU's 25 joints and 60 classes, with
random weights (the cost does not depend on them), reading bodies that move at random. Prints and
records frames a second, the median and the 99th percentile of a frame's time, and the median of each
tenth of the frames compared with that of the first: 1 is flat.
"""

import argparse
import json
import platform
import sys
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import train  # noqa: E402
from live import Recognizer  # noqa: E402
from model import SPATIAL, TEMPORAL, TwoStreamRNN  # noqa: E402
from skeletons.layout import KINECT_V2, class_names  # noqa: E402
from training import engine  # noqa: E402


def recognizer(temporal, spatial):
    setting = train.PRESETS["live"] | {"temporal": temporal, "spatial": spatial}
    config = train.replace(train.Config(), **setting)
    classes = class_names("ntu")[:60]
    torch.manual_seed(0)
    model = TwoStreamRNN(KINECT_V2, len(classes), **train.network(config))
    return Recognizer(model, KINECT_V2, classes, {"origin_transfer": "view", "normalization": "start"})


def measure(live, frames, bodies):
    random = np.random.default_rng(0)
    joints = random.normal(size=(bodies, 25, 3)).astype(np.float32)
    live.reset()
    times = np.zeros(frames)
    for i in range(frames):
        joints += 0.01 * random.normal(size=joints.shape).astype(np.float32)
        began = time.perf_counter()
        live(joints)
        times[i] = time.perf_counter() - began
    medians = np.median(times[: frames // 10 * 10].reshape(10, -1), 1)
    return {
        "frames_per_second": round(frames / times.sum()),
        "median_ms": round(1000 * float(np.median(times)), 3),
        "p99_ms": round(1000 * float(np.percentile(times, 99)), 3),
        "tenths_to_the_first": (medians / medians[0]).round(2).tolist(),
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--out", default=ROOT / "results" / "live.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    record = {"frames": arguments.frames, "networks": {}}
    for temporal in TEMPORAL:
        for spatial in SPATIAL:
            live = recognizer(temporal, spatial)
            for bodies in (1, 2):
                name = f"{temporal} + {spatial}, {bodies} bod{'y' if bodies == 1 else 'ies'}"
                record["networks"][name] = measure(live, arguments.frames, bodies)
                print(name, record["networks"][name], flush=True)
    record |= {"device": engine.device_name(torch.device("cpu")), "python": platform.python_version()}
    record |= {"torch": torch.__version__, "date": date.today().isoformat()}
    Path(arguments.out).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
