"""Tests and measurements that need a GPU, in one command: make gpu

    python benchmarks/gpu.py                   # about five minutes on an H100; needs no network

    tests       tests/test_gpu.py, among them: nothing waits for the GPU, recorded steps (CUDA graphs),
                resuming, deterministic runs, two processes if there are two GPUs
    agreement   log probabilities of the same networks on the CPU and on the GPU, in each precision
    epochs      time and peak memory of an epoch on random data of NTU-60's size (benchmarks/ntu.py):
                `baseline` and `full` in all four combinations of RNNs; also `live` and `small`; each
                preset also without CUDA graphs and in mixed precision
    profile     kernels of a training step, and how long they keep the GPU busy
    inference   clips per second in batches, and milliseconds of one clip

A part that fails is recorded with its error, and the others go on; the exit status is then 1. Writes
results/gpu.json and prints it.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import date
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import ntu  # noqa: E402
import speed  # noqa: E402
import torch  # noqa: E402

import train  # noqa: E402
from feeder import Feeder  # noqa: E402
from model import SPATIAL, TEMPORAL  # noqa: E402
from training import engine  # noqa: E402

COMBINATIONS = list(product(TEMPORAL, SPATIAL))
TESTS = "tests/test_gpu.py"
# Settings of --tiny, with which a test runs this script on a CPU.
TINY = {
    "hidden_size": 8, "part_hidden_size": 4, "batch_size": 8, "window_size": 8, "spatial_window": 4,
    "spatial_stride": 0,
}  # fmt: skip


class Measurements:
    """The parts of the record: each method returns one."""

    def __init__(self, device: torch.device, clips: int, changes: dict, seconds: float) -> None:
        self.device, self.changes, self.seconds = device, changes, seconds
        self.feeder, self.meta = ntu.open_ntu(clips, device)

    def run(self, preset: str, **values: object) -> train.Run:
        """A run of train.py on the random data."""
        config = train.make_config(preset, **(self.changes | values))
        return ntu.make_run(config, self.feeder, self.meta, self.device)

    def agreement(self) -> dict:
        """{network: {precision: largest difference of a log probability between GPU and CPU}}."""
        found = {}
        networks = [("baseline", {"temporal": t, "spatial": s}) for t, s in COMBINATIONS]
        for preset, values in (*networks, ("full", {}), ("live", {})):
            run = self.run(preset, **values)
            network = run.state.model.eval()
            evaluation: Feeder = run.validation_batches.feeder
            bodies, _ = evaluation.bodies(range(16))
            with torch.no_grad():
                made = {}
                for precision in engine.precisions(self.device):
                    with engine.autocast(precision, self.device):
                        made[precision] = engine.posteriors(network, network(bodies)).log().cpu()
                expected = engine.posteriors(network, network.cpu()(bodies.to("cpu"))).log()
            name = " ".join((preset, *values.values()))
            found[name] = {k: float((v - expected).abs().max()) for k, v in made.items()}
            for precision, limit in (("float32", 0.01), ("mixed", 0.05)):
                if found[name].get(precision, 0) > limit:
                    raise AssertionError(f"{name}, {precision}: GPU and CPU differ: {found[name]}")
        return found

    def epochs(self) -> dict:
        """{preset: {combination: cost}}: seconds, memory and hours of a run."""
        found: dict[str, dict] = {}
        for preset, (temporal, spatial) in product(("full", "baseline"), COMBINATIONS):
            values = {"temporal": temporal, "spatial": spatial}
            name = f"{preset} {temporal} {spatial}"
            found[name] = ntu.measure(self.run(preset, **values))
            print(name, found[name], flush=True)
        for preset in ("full", "baseline", "live", "small"):
            for change in ({}, {"cuda_graphs": False}, {"precision": "mixed"}):
                if change or preset in ("live", "small"):
                    name = " ".join((preset, *(f"{k}={v}" for k, v in change.items())))
                    found[name] = ntu.measure(self.run(preset, **change), self.seconds)
                    print(name, found[name], flush=True)
        return found

    def profile(self) -> dict:
        """{network: kernels, launches and milliseconds of a step}."""
        return {
            f"{preset}, {'CUDA graphs' if graphs else 'single kernels'}": profile(
                self.run(preset, cuda_graphs=graphs)
            )
            for preset, graphs in product(("baseline", "full"), (True, False))
        }

    def inference(self) -> dict:
        """{preset: clips per second in batches, milliseconds of a single clip}."""
        found = {}
        for preset in ("baseline", "full", "small"):
            run = self.run(preset)
            network, evaluation = run.state.model.eval(), run.validation_batches.feeder
            batch = torch.arange(min(256, len(evaluation)))

            def classify(clips: torch.Tensor, network=network, evaluation=evaluation) -> list:  # noqa: ANN001
                with torch.no_grad():
                    return network.posterior(network(evaluation.bodies(clips)[0])).tolist()

            many = speed.seconds(lambda f=classify, b=batch: f(b), self.device, 10, 3)
            one = speed.seconds(lambda f=classify: f(torch.arange(1)), self.device, 30, 5)
            found[preset] = {
                "clips_per_second": speed.rounded(len(batch) / statistics.median(many)),
                "one_clip_ms": speed.rounded(1e3 * statistics.median(one)),
            }
        return found


def profile(run: train.Run, steps: int = 3) -> dict:
    """Kernels of a training step, and the time in which the GPU computes."""
    step, cuda = run.training_step(), run.device.type == "cuda"

    def epoch() -> None:
        left = iter(range(steps - 1, -1, -1))
        try:
            engine.train_epoch(step, run.batches, stop=lambda: not next(left))
        except engine.Interrupted:
            speed.synchronise(run.device)

    epoch()
    epoch()
    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [torch.profiler.ProfilerActivity.CUDA] * cuda
    began = time.perf_counter()
    with torch.profiler.profile(activities=activities) as profiler:
        epoch()
    wall = time.perf_counter() - began
    events = profiler.events()
    kernels = [e for e in events if e.device_type == torch.autograd.DeviceType.CUDA]
    busy, end = 0.0, 0.0
    for kernel in sorted(kernels, key=lambda e: e.time_range.start):
        busy += max(kernel.time_range.end - max(kernel.time_range.start, end), 0)
        end = max(end, kernel.time_range.end)
    launches = sum("LaunchKernel" in e.name or "GraphLaunch" in e.name for e in events)
    longest: dict[str, float] = {}
    for kernel in kernels:
        name = kernel.name.split("<")[0][-60:]
        longest[name] = longest.get(name, 0) + kernel.time_range.elapsed_us() / 1e3 / steps
    longest = dict(sorted(longest.items(), key=lambda item: -item[1])[:6])
    return {
        "kernels": len(kernels) // steps,
        "launches": launches // steps,
        "gpu_busy_ms": round(busy / 1e3 / steps, 2),
        "step_ms": round(1e3 * wall / steps, 2),  # slowed down by the profiler
        "longest_kernels_ms": {name: round(ms, 3) for name, ms in longest.items()},
    }


def run_tests() -> dict:
    """What pytest says of the tests that need a GPU."""
    command = [sys.executable, "-m", "pytest", TESTS, "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = (done.stderr + done.stdout).splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR", "E  "))]
    if done.returncode:
        raise AssertionError("\n".join((*failed, *lines[-1:])))
    return {"summary": lines[-1]}


def attempt(part: Callable[[], dict]) -> dict:
    """What a part of the record returns, with its time; or its error."""
    began = time.perf_counter()
    try:
        found = part()
    except Exception:
        found = {"error": traceback.format_exc()}
    return found | {"seconds": round(time.perf_counter() - began, 1)}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--clips", type=int, default=ntu.CLIPS, help="default: as many as NTU-60 has")
    parser.add_argument("--seconds", type=float, default=10, help="of an epoch without CUDA graphs")
    parser.add_argument("--tiny", action="store_true", help="tiny networks, as for a test on a CPU")
    parser.add_argument("--skip", nargs="*", default=[], help="parts to leave out")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "gpu.json")
    arguments = parser.parse_args(argv)
    device = engine.resolve_device(arguments.device)
    record = {
        "date": date.today().isoformat(),
        "machine": engine.device_name(device),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "clips": arguments.clips,
    }
    if device.type == "cuda":
        record["versions"] |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    measurements = Measurements(
        device, arguments.clips, TINY if arguments.tiny else {}, arguments.seconds
    )
    parts = {
        "tests": run_tests,
        "agreement": measurements.agreement,
        "epochs": measurements.epochs,
        "profile": measurements.profile,
        "inference": measurements.inference,
    }
    for name, part in parts.items():
        if name not in arguments.skip:
            record[name] = attempt(part)
            print(name, json.dumps(record[name], indent=1), flush=True)
            arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    failed = [name for name in parts if "error" in record.get(name, {})]
    if failed:
        raise SystemExit(f"gpu.py: these parts failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
