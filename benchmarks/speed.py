"""How fast clips are loaded, trained on and recognised, compared with a baseline and a roofline.

    python benchmarks/speed.py                  # ten minutes on two CPU cores
    python benchmarks/speed.py --repeats 1 --hidden_size 64 --part_hidden_size 32    # a quick look

Synthetic clips shaped like NTU RGB+D (60 to 150 frames, 18 % with two bodies), networks of the paper's
size, batches of 64 clips of 100 frames (256 on a GPU). All in one run, on the same clips:

    baseline   what the repository that this one succeeds did: numpy clip by clip in a DataLoader;
               always two bodies, one after the other; a step of the spatial RNN for every single
               coordinate; one LSTM per body part; the same layer sizes, the same torch
    proposed   the Feeder and the networks of this repository
    roofline   the floating point operations of our networks at the rate that this machine reaches on
               large matrices, and the bytes of a loaded clip at the bandwidth of its memory

Also: how the time of an epoch scales with clips and with frames, over a factor of 16, and the memory.
Medians of --repeats. Writes results/speed-<device>.json and prints the results.
"""

import argparse
import json
import os
import pickle
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import training.environment  # noqa: E402

import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.functional import cross_entropy, interpolate  # noqa: E402

from feeder import Feeder  # noqa: E402
from model import SPATIAL, TEMPORAL, NetworkConfig, TwoStreamRNN  # noqa: E402
from skeletons.layout import KINECT_V2 as LAYOUT  # noqa: E402
from training import engine  # noqa: E402
from training.loader import make_loader  # noqa: E402

FRAMES, CLASSES, TWO_BODIES = 100, 60, 0.183  # TWO_BODIES: ratio of the clips

# --- The baseline -------------------------------------------------------------------------------------


class BaselineFeeder(torch.utils.data.Dataset):
    """Padded arrays (N, 3, 300, 25, 2), a clip at a time in numpy: crop and resize, centre, rotate."""

    def __init__(self, data: np.ndarray, num_frame: np.ndarray, label: Sequence[int]) -> None:
        self.data, self.num_frame, self.label = data, num_frame, label
        self.rng = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        data, frames = np.array(self.data[index]), self.num_frame[index]
        kept = max(1, int(frames * self.rng.uniform(0.5, 1)))
        start = self.rng.integers(frames - kept + 1)
        data = torch.from_numpy(data[:, start : start + kept]).permute(0, 2, 3, 1)
        data = interpolate(data.reshape(1, -1, kept), size=FRAMES, mode="linear", align_corners=False)
        data = data.view(3, 25, 2, FRAMES).permute(0, 3, 1, 2).numpy()
        data = data - data[:, :, 1:2, 0:1]
        x, y, z = self.rng.uniform(-0.3, 0.3, 3)
        about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
        about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
        about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
        matrix = about_z @ about_y @ about_x @ np.diag(self.rng.uniform(0.9, 1.1, 3))
        data = (matrix @ data.reshape(3, -1)).reshape(data.shape).astype(np.float32)
        return data, self.label[index]


class BaselineNetwork(nn.Module):
    """Both bodies of every clip, one after the other."""

    def __init__(self, temporal: str, spatial: str, hidden_size: int, part_hidden_size: int) -> None:
        super().__init__()
        both = {"batch_first": True, "bidirectional": True}
        self.order = list(LAYOUT.chain if spatial == "chain" else LAYOUT.traversal)
        self.joints = [list(joints) for joints in LAYOUT.parts.values()]
        self.parts = nn.ModuleList()
        if temporal == "hierarchical":
            self.parts = nn.ModuleList(
                nn.LSTM(3 * len(j), part_hidden_size, **both) for j in self.joints
            )
            self.body = nn.LSTM(2 * part_hidden_size * len(self.joints), hidden_size, **both)
        else:
            self.body = nn.LSTM(75, hidden_size, 2, dropout=0.5, **both)
        self.spatial = nn.LSTM(FRAMES, hidden_size, 2, dropout=0.5, **both)
        self.dropout = nn.Dropout(0.5)
        self.temporal_classifier = nn.Linear(2 * hidden_size, CLASSES)
        self.spatial_classifier = nn.Linear(2 * hidden_size, CLASSES)

    def one_body(self, body: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # (N, 3, T, 25)
        frames = body.permute(0, 2, 3, 1)
        if self.parts:
            parts = zip(self.parts, self.joints, strict=True)
            outputs = [lstm(frames[:, :, joints].flatten(2))[0] for lstm, joints in parts]
            temporal = self.body(self.dropout(torch.cat(outputs, 2)))[0]
        else:
            temporal = self.body(frames.flatten(2))[0]
        steps = body[..., self.order].permute(0, 3, 1, 2).flatten(1, 2)  # (N, joints * 3, T)
        spatial = self.spatial(steps)[0]
        return (self.temporal_classifier(self.dropout(temporal.amax(1))),
                self.spatial_classifier(self.dropout(spatial.amax(1))))  # fmt: skip

    def forward(self, data: torch.Tensor) -> list[torch.Tensor]:
        scores = [self.one_body(data[..., body]) for body in range(2)]
        return [(a + b) / 2 for a, b in zip(*scores, strict=True)]


# --- Measuring ----------------------------------------------------------------------------------------


def write_clips(
    folder: str | Path, clips: int, frames: tuple[int, int] = (60, 150), seed: int = 0
) -> list[Path]:
    """Write `clips` random clips in the packed format -> paths of data, labels and frame counts."""
    rng = np.random.default_rng(seed)
    count = rng.integers(*frames, clips, endpoint=True)
    data = rng.normal(scale=0.02, size=(count.sum(), 3, 25, 2)).astype(np.float32)
    data += rng.normal(size=(1, 3, 25, 2)).astype(np.float32) + 3
    label = rng.integers(CLASSES, size=clips)
    for end, n, two in zip(count.cumsum(), count, rng.random(clips) < TWO_BODIES, strict=True):
        if not two:
            data[end - n : end, ..., 1] = 0
    paths = [Path(folder) / name for name in ("data.npy", "label.pkl", "num_frame.npy")]
    np.save(paths[0], data)
    paths[1].write_bytes(pickle.dumps(([f"clip {i}" for i in range(clips)], label.tolist())))
    np.save(paths[2], count)
    return paths


def open_feeder(paths: list[Path], device: torch.device, **options: bool) -> Feeder:
    feeder = Feeder(*paths, window_size=FRAMES, p_interval=(0.5, 1.0), rand_rotate=0.3, rand_scale=0.1,
                    rand_shear=0.1, **options)  # fmt: skip
    return feeder.to(device)


def seconds(function: Callable, device: torch.device, repeats: int, warmup: int = 1) -> list[float]:
    """Seconds of each of `repeats` calls, after `warmup` calls that do not count."""
    times = []
    for _ in range(warmup + repeats):
        synchronise(device)
        began = time.perf_counter()
        function()
        synchronise(device)
        times.append(time.perf_counter() - began)
    return times[warmup:]


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def machine_peak(device: torch.device, precisions: Sequence[str]) -> dict[str, float]:
    """Floating point operations per second on large matrices, bytes per second of copying."""
    found = {}
    for name in precisions:
        half = torch.bfloat16 if device.type == "cpu" else torch.float16
        dtype = half if name == "mixed" else torch.float32
        size = 2048 if device.type == "cpu" else 8192
        a, b = torch.randn(2, size, size, device=device, dtype=dtype)
        if device.type == "cpu" and dtype == torch.float32:  # the faster of two libraries
            multiply = [lambda a=a, b=b: a @ b, lambda a=a, b=b: nn.functional.linear(a.to_mkldnn(), b)]
        else:
            multiply = [lambda a=a, b=b: a @ b]
        best = min(min(seconds(call, device, 50, 10)) for call in multiply)
        found[f"{name}_flops"] = 2 * size**3 / best
    data = torch.ones(2**26, device=device)
    out = torch.empty_like(data)
    found["bytes"] = 2 * data.nbytes / min(seconds(lambda: out.copy_(data), device, 10, 3))
    return found


def data_loading(
    paths: list[Path], baseline: BaselineFeeder, device: torch.device, batch: int, repeats: int
) -> dict[str, list[float]]:
    """Clips per second."""
    feeders = {
        "proposed": open_feeder(paths, device),
        "proposed, with camera drift": open_feeder(paths, device, random_move=True),
    }
    index = torch.arange(len(feeders["proposed"]))

    def load(feeder: Feeder) -> None:
        generator = torch.Generator(device).manual_seed(0)
        for clips in index.split(batch):
            feeder.bodies(clips, generator)

    rates = {name: [len(index) / s for s in seconds(lambda f=f: load(f), device, repeats)]
             for name, f in feeders.items()}  # fmt: skip
    loader = torch.utils.data.DataLoader(baseline, batch, shuffle=True)
    rates["baseline"] = [len(index) / s for s in seconds(lambda: list(loader), device, min(repeats, 3))]
    return rates


def training(
    paths: list[Path],
    baseline: BaselineFeeder,
    device: torch.device,
    batch: int,
    repeats: int,
    temporal: str,
    spatial: str,
    sizes: dict[str, int],
    precisions: Sequence[str],
) -> tuple[dict[str, list[float]], TwoStreamRNN, BaselineNetwork]:
    """Clips per second, data loading included; proposed (in each precision) and baseline take turns."""
    feeder = open_feeder(paths, device)
    clips = torch.arange(len(feeder))
    generator = torch.Generator().manual_seed(0)
    device_generator = torch.Generator(device).manual_seed(0)
    torch.manual_seed(0)
    config = NetworkConfig(temporal=temporal, spatial=spatial, **sizes)
    proposed_model = TwoStreamRNN(LAYOUT, CLASSES, config).to(device)
    baseline_model = BaselineNetwork(temporal, spatial, **sizes).to(device)
    optimizer = torch.optim.Adam(proposed_model.parameters(), fused=True)
    baseline_optimizer = torch.optim.Adam(baseline_model.parameters())
    # Several steps are timed together on a GPU, which works while the host prepares the next one.
    rounds = 1 if device.type == "cpu" else 10
    batches = endless(
        lambda: torch.utils.data.DataLoader(baseline, batch, shuffle=True, drop_last=True)
    )

    def proposed_steps(step: engine.TrainingStep) -> None:
        proposed_model.train()
        for _ in range(rounds):
            one = clips[torch.randperm(len(clips), generator=generator)[:batch]]
            step(*feeder.bodies(one, device_generator), batch)

    def baseline_steps() -> None:
        for _ in range(rounds):
            data, label = (x.to(device) for x in next(batches))
            loss = sum(cross_entropy(logits, label) for logits in baseline_model(data))
            baseline_optimizer.zero_grad()
            loss.backward()
            baseline_optimizer.step()

    baseline_model.train()
    steps = {}
    for precision in precisions:
        step = engine.TrainingStep(proposed_model, optimizer, device, precision=precision)
        steps[precision] = lambda s=step: proposed_steps(s)
    rates = take_turns(steps | {"baseline": baseline_steps}, device, rounds * batch, repeats)
    return rates, proposed_model, baseline_model


def take_turns(
    steps: dict[str, Callable], device: torch.device, batch: int, repeats: int
) -> dict[str, list[float]]:
    """Clips per second of each step, called one after the other, so that all meet the same conditions.
    The first round does not count."""
    rates: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(1 + repeats):
        for name, step in steps.items():
            (taken,) = seconds(step, device, 1, 0)
            if repeat:
                rates[name].append(batch / taken)
    return rates


def endless(make: Callable) -> Iterator:
    while True:
        yield from make()


def inference(
    paths: list[Path],
    baseline: BaselineFeeder,
    proposed_model: TwoStreamRNN,
    baseline_model: BaselineNetwork,
    device: torch.device,
    batch: int,
    repeats: int,
    precisions: Sequence[str],
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Clips per second in batches, and milliseconds of one clip (median, 99th percentile)."""
    feeder = open_feeder(paths, device).eval()
    clips = torch.arange(batch)
    loader = torch.utils.data.DataLoader(torch.utils.data.Subset(baseline, range(batch)), batch)
    proposed_model.eval(), baseline_model.eval()

    def classify(precision: str, index: torch.Tensor | list[int]) -> list[int]:
        bodies, _ = feeder.bodies(index)
        with engine.autocast(precision, device):
            logits = proposed_model(bodies)
        return proposed_model.posterior(logits).argmax(1).tolist()

    def baseline_classify() -> list[int]:
        for data, _ in loader:
            return sum(baseline_model(data.to(device))).argmax(1).tolist()

    with torch.no_grad():
        steps = {precision: lambda p=precision: classify(p, clips) for precision in precisions}
        rates = take_turns(steps | {"baseline": baseline_classify}, device, batch, repeats)
        single = iter(range(10**6))
        times = seconds(lambda: classify("float32", [next(single) % len(feeder)]), device, 100, 10)
    return rates, {"median": 1e3 * statistics.median(times), "p99": 1e3 * np.percentile(times, 99)}


def scaling(folder: str | Path, device: torch.device) -> dict[str, dict[int, float]]:
    """Seconds of an epoch of a small network, by clips and by frames, over a factor of 16."""
    found: dict[str, dict[int, float]] = {"clips": {}, "frames": {}}
    config = NetworkConfig(hidden_size=64, part_hidden_size=32, spatial_window=25)
    model = TwoStreamRNN(LAYOUT, CLASSES, config).to(device)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    for clips, frames in ((128, 50), (512, 50), (2048, 50), (128, 25), (128, 100), (128, 400)):
        paths = write_clips(folder, clips, (frames, frames))
        feeder = Feeder(*paths, window_size=frames, rand_rotate=0.3).to(device)
        batches = make_loader(feeder, range(clips), 32, torch.Generator().manual_seed(0))
        step = engine.TrainingStep(model, optimizer, device)
        taken = seconds(lambda s=step, b=batches: engine.train_epoch(s, b), device, 3)
        table, size = ("clips", clips) if frames == 50 else ("frames", frames)
        found[table][size] = statistics.median(taken)
    return found


def memory(device: torch.device) -> dict[str, float]:
    """Peak memory so far in MiB: of the process, and of the GPU."""
    try:
        import resource

        found = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    except ImportError:  # Windows
        found = {}
    if device.type == "cuda":
        found["gpu"] = torch.cuda.max_memory_allocated(device) / 2**20
    return found


def summary(rates: list | dict) -> dict:
    """Median and range of each list of numbers."""
    if isinstance(rates, list):
        return {"median": rounded(statistics.median(rates)), "from": rounded(min(rates)),
                "to": rounded(max(rates)), "n": len(rates)}  # fmt: skip
    return {key: summary(value) for key, value in rates.items()}


def rounded(number: float) -> float:
    return float(f"{number:.4g}")


def measure_architecture(
    record: dict, name: str, rates: tuple[dict, dict], latency: dict, model: TwoStreamRNN, bodies: float
) -> None:
    """Add the rows of one architecture to the record; bodies: mean number in a clip."""
    train_rates, inference_rates = rates
    flops = engine.count_flops(model, FRAMES) * bodies
    peak = {k.removesuffix("_flops"): v for k, v in record["machine_peak"].items() if "flops" in k}
    pairs = zip(train_rates["float32"], train_rates["baseline"], strict=True)
    record["training"][name] = summary(train_rates) | {
        "ratio": summary([proposed / baseline for proposed, baseline in pairs]),
        "parameters": sum(p.numel() for p in model.parameters()),
        "flops": rounded(flops),
        # The backward pass takes twice the operations of the forward pass.
        "roofline": {precision: rounded(rate / (3 * flops)) for precision, rate in peak.items()},
    }
    record["inference"][name] = summary(inference_rates) | {
        "one_clip_ms": {key: rounded(value) for key, value in latency.items()},
        "roofline": {precision: rounded(rate / flops) for precision, rate in peak.items()},
    }
    for what in ("training", "inference"):
        print(f"{what}, {name}, clips/s", *(f"{k}: {v}" for k, v in record[what][name].items()),
              sep="\n  ", flush=True)  # fmt: skip


def open_baseline(paths: list[Path]) -> BaselineFeeder:
    """The same clips, padded to 300 frames."""
    packed, count = np.load(paths[0]), np.load(paths[2])
    padded = np.zeros((len(count), 3, 300, 25, 2), np.float32)
    for row, end, n in zip(padded, count.cumsum(), count, strict=True):
        row[:, :n] = packed[end - n : end].swapaxes(0, 1)
    return BaselineFeeder(padded, count, pickle.loads(paths[1].read_bytes())[1])


def measure(record: dict, folder: str, device: torch.device, arguments: argparse.Namespace) -> None:
    """All measurements, added to the record."""
    batch, repeats, precisions = record["batch"], record["repeats"], engine.precisions(device)
    peak = machine_peak(device, precisions)
    record["machine_peak"] = {key: rounded(value) for key, value in peak.items()}
    paths = write_clips(folder, arguments.clips)
    baseline = open_baseline(paths)
    record["data_loading"] = summary(data_loading(paths, baseline, device, batch, repeats))
    bytes_per_clip = 4 * 75 * FRAMES * (1 + TWO_BODIES)
    record["data_loading"]["roofline"] = rounded(peak["bytes"] / bytes_per_clip)
    print("data loading, clips/s", *(f"{k}: {v}" for k, v in record["data_loading"].items()),
          sep="\n  ")  # fmt: skip
    bodies = len(open_feeder(paths, device).bodies(torch.arange(batch))[0].joints) / batch
    record |= {"training": {}, "inference": {}}
    for temporal in TEMPORAL:
        for spatial in SPATIAL:
            train_rates, *models = training(paths, baseline, device, batch, repeats, temporal,
                                            spatial, record["sizes"], precisions)  # fmt: skip
            rates, latency = inference(paths, baseline, *models, device, batch, repeats, precisions)
            name = f"{temporal} + {spatial}"
            measure_architecture(record, name, (train_rates, rates), latency, models[0], bodies)
    record["epoch_seconds"] = {
        what: {size: rounded(s) for size, s in times.items()}
        for what, times in scaling(folder, device).items()
    }
    record["memory_mib"] = {name: round(size) for name, size in memory(device).items()}
    print("seconds of an epoch:", record["epoch_seconds"], "memory:", record["memory_mib"])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="")
    parser.add_argument("--batch_size", type=int)
    parser.add_argument("--clips", type=int, default=2048)
    parser.add_argument("--hidden_size", type=int, default=512)
    parser.add_argument("--part_hidden_size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="default: results/speed-<device>.json")
    arguments = parser.parse_args(argv)
    device = engine.resolve_device(arguments.device)
    torch.backends.cuda.matmul.allow_tf32 = True  # as cuDNN's LSTMs do: for the roofline
    record = {
        "date": date.today().isoformat(),
        "machine": engine.device_name(device),
        "cores": os.cpu_count(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "batch": arguments.batch_size or (64 if device.type == "cpu" else 256),
        "frames": FRAMES,
        "sizes": {
            "hidden_size": arguments.hidden_size,
            "part_hidden_size": arguments.part_hidden_size,
        },
        "clips": arguments.clips,
        "two_bodies": TWO_BODIES,
        "repeats": arguments.repeats,
    }
    with tempfile.TemporaryDirectory() as folder:
        measure(record, folder, device, arguments)
    out = arguments.out or ROOT / "results" / f"speed-{device.type}.json"
    out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
