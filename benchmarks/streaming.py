"""What a frame costs in live use: one CPU core, one frame after the other.

    python benchmarks/streaming.py            # 10,000 frames each; writes results/streaming.json

Networks of the preset `live`, all four architectures, for NTU's 25 joints and 60 classes, with random
weights (which do not change the cost), on randomly moving bodies. Prints and records frames per second,
median and 99th percentile of the time per frame, and the median of each tenth of the frames relative to
that of the first: 1 means that the cost does not grow.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import training.environment  # noqa: E402, F401

import torch  # noqa: E402

import train  # noqa: E402
from live import Recognizer  # noqa: E402
from model import SPATIAL, TEMPORAL, TwoStreamRNN  # noqa: E402
from skeletons.layout import KINECT_V2, class_names  # noqa: E402
from skeletons.preprocess import Preprocess  # noqa: E402
from training import engine  # noqa: E402


def make_recognizer(temporal: str, spatial: str) -> Recognizer:
    """A network of the preset with random weights."""
    config = train.make_config("live", temporal=temporal, spatial=spatial)
    classes = class_names("ntu")[:60]
    torch.manual_seed(0)
    model = TwoStreamRNN(KINECT_V2, len(classes), config.network, config.extensions)
    preprocess = Preprocess(KINECT_V2, 3, origin_transfer="body", normalization="first-frame")
    return Recognizer(model, preprocess, classes)


def measure(recognizer: Recognizer, frames: int, bodies: int) -> dict:
    rng = np.random.default_rng(0)
    joints = rng.normal(size=(bodies, 25, 3)).astype(np.float32)
    recognizer.reset()
    times = np.zeros(frames)
    for i in range(frames):
        joints += 0.01 * rng.normal(size=joints.shape).astype(np.float32)
        started = time.perf_counter()
        recognizer(joints)
        times[i] = time.perf_counter() - started
    medians = np.median(times[: frames // 10 * 10].reshape(10, -1), 1)
    return {
        "frames_per_second": round(frames / times.sum()),
        "median_ms": round(1000 * float(np.median(times)), 3),
        "p99_ms": round(1000 * float(np.percentile(times, 99)), 3),
        "median_by_tenth_relative_to_first": (medians / medians[0]).round(2).tolist(),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--out", default=ROOT / "results" / "streaming.json")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    record = {"frames": arguments.frames, "networks": {}}
    for temporal in TEMPORAL:
        for spatial in SPATIAL:
            recognizer = make_recognizer(temporal, spatial)
            for bodies in (1, 2):
                name = f"{temporal} + {spatial}, {bodies} bod{'y' if bodies == 1 else 'ies'}"
                record["networks"][name] = measure(recognizer, arguments.frames, bodies)
                print(name, record["networks"][name], flush=True)
    record |= {"device": engine.device_name(torch.device("cpu")), "python": platform.python_version()}
    record |= {"torch": torch.__version__, "date": date.today().isoformat()}
    Path(arguments.out).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
