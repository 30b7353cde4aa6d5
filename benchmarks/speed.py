"""How fast clips are fed, trained on and recognised, beside the usual way and the machine's limits.

    python benchmarks/speed.py                  # ten minutes on two CPU cores; a minute on a GPU
    python benchmarks/speed.py --repeats 1 --units 64 --part_units 32    # a quick look

Synthetic clips shaped like NTU RGB+D (60 to 150 frames, 18 % with two bodies), networks of the
published size, batches of 64 clips of 100 frames (256 on a GPU). In one run, on the same clips:

    usual   what the repository that this one succeeds did: numpy clip by clip in a DataLoader, two
            bodies always, one after the other, a step of the spatial network for every single
            coordinate, one LSTM for each part; the same layer sizes, the same torch
    ours    feeding and networks of this repository
    floor   the multiplications and additions of our networks at the rate that this machine reaches on
            large matrices, and the bytes of a fed clip at its memory's rate

Also: how the time of an epoch grows with clips and with frames, over a factor of 16, and the memory.
Medians of --repeats. Writes results/speed-<device>.json and prints the table.
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
from datetime import date
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.functional import cross_entropy, interpolate  # noqa: E402

from feeder import Feeder  # noqa: E402
from model import SPATIAL, TEMPORAL, TwoStreamRNN  # noqa: E402
from skeletons.layout import KINECT_V2 as LAYOUT  # noqa: E402
from training import engine  # noqa: E402
from training.loader import make_loader  # noqa: E402

FRAMES, CLASSES, TWO_BODIES = 100, 60, 0.183

# --- The usual way ------------------------------------------------------------------------------------


class UsualFeeder(torch.utils.data.Dataset):
    """Padded arrays (N, 3, 300, 25, 2), a clip at a time in numpy: crop and resize, centre, rotate."""

    def __init__(self, data, num_frame, label):
        self.data, self.num_frame, self.label = data, num_frame, label
        self.rng = np.random.default_rng(0)

    def __len__(self):
        return len(self.label)

    def __getitem__(self, index):
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


class UsualNetwork(nn.Module):
    """Both bodies of every clip, one after the other."""

    def __init__(self, temporal, spatial, units, part_units):
        super().__init__()
        both = {"batch_first": True, "bidirectional": True}
        self.order = list(LAYOUT.chain if spatial == "chain" else LAYOUT.traversal)
        self.joints = [list(joints) for joints in LAYOUT.parts.values()]
        self.parts = nn.ModuleList()
        if temporal == "hierarchical":
            self.parts = nn.ModuleList(nn.LSTM(3 * len(j), part_units, **both) for j in self.joints)
            self.body = nn.LSTM(2 * part_units * len(self.joints), units, **both)
        else:
            self.body = nn.LSTM(75, units, 2, dropout=0.5, **both)
        self.spatial = nn.LSTM(FRAMES, units, 2, dropout=0.5, **both)
        self.dropout = nn.Dropout(0.5)
        self.temporal_classifier = nn.Linear(2 * units, CLASSES)
        self.spatial_classifier = nn.Linear(2 * units, CLASSES)

    def single_body_clip(self, body):  # (N, 3, T, 25)
        frames = body.permute(0, 2, 3, 1)
        if self.parts:
            parts = zip(self.parts, self.joints, strict=True)
            read = [lstm(frames[:, :, joints].flatten(2))[0] for lstm, joints in parts]
            temporal = self.body(self.dropout(torch.cat(read, 2)))[0]
        else:
            temporal = self.body(frames.flatten(2))[0]
        steps = body[..., self.order].permute(0, 3, 1, 2).flatten(1, 2)  # (N, joints * 3, T)
        spatial = self.spatial(steps)[0]
        return (self.temporal_classifier(self.dropout(temporal.amax(1))),
                self.spatial_classifier(self.dropout(spatial.amax(1))))  # fmt: skip

    def forward(self, data):
        scores = [self.single_body_clip(data[..., body]) for body in range(2)]
        return [(a + b) / 2 for a, b in zip(*scores, strict=True)]


# --- Measuring ----------------------------------------------------------------------------------------


def write_clips(folder, clips, frames=(60, 150), seed=0):
    """A part of `clips` random walks in the packed form -> (three paths, padded arrays or None)."""
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


def open_ours(paths, device, **options):
    feeder = Feeder(*paths, window_size=FRAMES, p_interval=(0.5, 1.0), rand_rotate=0.3, rand_scale=0.1,
                    rand_shear=0.1, **options)  # fmt: skip
    return feeder.to(device)


def seconds(function, device, repeats, warm=1):
    """Seconds of each of `repeats` calls after `warm` others."""
    times = []
    for _ in range(warm + repeats):
        synchronise(device)
        began = time.perf_counter()
        function()
        synchronise(device)
        times.append(time.perf_counter() - began)
    return times[warm:]


def synchronise(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def limits(device, precisions):
    """Multiplications and additions a second on large matrices, bytes a second of copying."""
    found = {}
    for name in precisions:
        dtype = getattr(torch, name)
        size = 2048 if device.type == "cpu" else 8192
        a, b = torch.randn(2, size, size, device=device, dtype=dtype)
        if device.type == "cpu" and dtype == torch.float32:  # the faster of two libraries
            multiply = [lambda a=a, b=b: a @ b, lambda a=a, b=b: nn.functional.linear(a.to_mkldnn(), b)]
        else:
            multiply = [lambda a=a, b=b: a @ b]
        best = min(min(seconds(way, device, 50, 10)) for way in multiply)
        found[f"{name}_operations"] = 2 * size**3 / best
    data = torch.ones(2**26, device=device)
    out = torch.empty_like(data)
    found["bytes"] = 2 * data.nbytes / min(seconds(lambda: out.copy_(data), device, 10, 3))
    return found


def feeding(paths, usual, device, batch, repeats):
    feeders = {
        "ours": open_ours(paths, device),
        "ours with camera drift": open_ours(paths, device, random_move=True),
    }
    index = torch.arange(len(feeders["ours"]))

    def feed(feeder):
        generator = torch.Generator(device).manual_seed(0)
        for some in index.split(batch):
            feeder.bodies(some, generator)

    rates = {name: [len(index) / s for s in seconds(lambda f=f: feed(f), device, repeats)]
             for name, f in feeders.items()}  # fmt: skip
    loader = torch.utils.data.DataLoader(usual, batch, shuffle=True)
    rates["usual"] = [len(index) / s for s in seconds(lambda: list(loader), device, min(repeats, 3))]
    return rates


def training(paths, usual, device, batch, repeats, temporal, spatial, sizes, precisions):
    """Clips a second, feeding included, of the ways in turn."""
    feeder = open_ours(paths, device)
    clips = torch.arange(len(feeder))
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    ours = TwoStreamRNN(LAYOUT, CLASSES, temporal, spatial, **sizes).to(device)
    theirs = UsualNetwork(temporal, spatial, **sizes).to(device)
    optimizers = [
        torch.optim.Adam(ours.parameters(), fused=True),
        torch.optim.Adam(theirs.parameters()),
    ]
    batches = endless(lambda: torch.utils.data.DataLoader(usual, batch, shuffle=True, drop_last=True))

    def step_ours(precision):
        one = clips[torch.randperm(len(clips), generator=generator)[:batch]]
        engine.train_epoch(ours, make_loader(feeder, one, batch, generator), optimizers[0], device,
                           precision=precision)  # fmt: skip

    def step_theirs():
        data, label = (x.to(device) for x in next(batches))
        loss = sum(cross_entropy(scores, label) for scores in theirs(data))
        optimizers[1].zero_grad()
        loss.backward()
        optimizers[1].step()
        return loss.item()

    theirs.train()
    ways = {precision: lambda p=precision: step_ours(p) for precision in precisions} | {
        "usual": step_theirs
    }
    rates = {name: [] for name in ways}
    for repeat in range(1 + repeats):
        for name, step in ways.items():
            (taken,) = seconds(step, device, 1, 0)
            if repeat:
                rates[name].append(batch / taken)
    return rates, ours, theirs


def endless(make):
    while True:
        yield from make()


def inference(paths, usual, ours, theirs, device, batch, repeats, precisions):
    """Clips a second in batches, and milliseconds of one clip (median, 99th percentile)."""
    feeder = open_ours(paths, device).eval()
    some = torch.arange(batch)
    rates = {name: [] for name in (*precisions, "usual")}
    loader = torch.utils.data.DataLoader(torch.utils.data.Subset(usual, range(batch)), batch)
    ours.eval(), theirs.eval()

    def run(precision, index):
        bodies, _ = feeder.bodies(index)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            scores = ours(bodies)
        return ours.posterior(scores).argmax(1).tolist()

    def run_usual():
        for data, _ in loader:
            return sum(theirs(data.to(device))).argmax(1).tolist()

    with torch.no_grad():
        for repeat in range(1 + repeats):
            for name in rates:
                way = run_usual if name == "usual" else lambda p=name: run(p, some)
                (taken,) = seconds(way, device, 1, 0)
                if repeat:
                    rates[name].append(batch / taken)
        single = iter(range(10**6))
        times = seconds(lambda: run("float32", [next(single) % len(feeder)]), device, 100, 10)
    return rates, {"median": 1e3 * statistics.median(times), "p99": 1e3 * np.percentile(times, 99)}


def growth(folder, device, precision="float32"):
    """Seconds of an epoch of the small network, by clips and by frames, over a factor of 16."""
    found = {"clips": {}, "frames": {}}
    model = TwoStreamRNN(LAYOUT, CLASSES, units=64, part_units=32, spatial_window=25).to(device)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    for clips, frames in ((128, 50), (512, 50), (2048, 50), (128, 25), (128, 100), (128, 400)):
        paths = write_clips(folder, clips, (frames, frames))
        feeder = Feeder(*paths, window_size=frames, rand_rotate=0.3).to(device)
        batches = make_loader(feeder, range(clips), 32, torch.Generator().manual_seed(0))
        taken = seconds(lambda b=batches: engine.train_epoch(model, b, optimizer, device), device, 3)
        table, size = ("clips", clips) if frames == 50 else ("frames", frames)
        found[table][size] = statistics.median(taken)
    return found


def memory(device):
    """Largest memory so far in MiB: of the process, and on the GPU."""
    try:
        import resource

        found = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    except ImportError:  # Windows
        found = {}
    if device.type == "cuda":
        found["gpu"] = torch.cuda.max_memory_allocated(device) / 2**20
    return found


def summary(rates):
    """Median and range of each list of numbers."""
    if isinstance(rates, list):
        return {"median": rounded(statistics.median(rates)), "from": rounded(min(rates)),
                "to": rounded(max(rates)), "n": len(rates)}  # fmt: skip
    return {key: summary(value) for key, value in rates.items()}


def rounded(number):
    return float(f"{number:.4g}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="")
    parser.add_argument("--batch_size", type=int)
    parser.add_argument("--clips", type=int, default=2048)
    parser.add_argument("--units", type=int, default=512)
    parser.add_argument("--part_units", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    device = engine.resolve_device(arguments.device)
    torch.backends.cuda.matmul.allow_tf32 = True  # as cuDNN's LSTMs do: for the limit
    batch = arguments.batch_size or (64 if device.type == "cpu" else 256)
    sizes = {"units": arguments.units, "part_units": arguments.part_units}
    repeats, precisions = arguments.repeats, engine.precisions(device)
    record = {
        "date": date.today().isoformat(),
        "machine": engine.device_name(device),
        "cores": os.cpu_count(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "batch": batch, "frames": FRAMES, "sizes": sizes, "clips": arguments.clips,
        "two_bodies": TWO_BODIES, "repeats": repeats,
        "limits": {key: rounded(value) for key, value in limits(device, precisions).items()},
        "training": {}, "inference": {},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        paths = write_clips(folder, arguments.clips)
        packed, count = np.load(paths[0]), np.load(paths[2])
        padded = np.zeros((len(count), 3, 300, 25, 2), np.float32)
        for row, end, n in zip(padded, count.cumsum(), count, strict=True):
            row[:, :n] = packed[end - n : end].swapaxes(0, 1)
        del packed
        usual = UsualFeeder(padded, count, pickle.loads(paths[1].read_bytes())[1])

        record["feeding"] = summary(feeding(paths, usual, device, batch, repeats))
        fed = 4 * 75 * FRAMES * (1 + TWO_BODIES)
        record["feeding"]["floor"] = rounded(record["limits"]["bytes"] / fed)
        print("feeding, clips/s", *(f"{k}: {v}" for k, v in record["feeding"].items()), sep="\n  ")
        for temporal in TEMPORAL:
            for spatial in SPATIAL:
                name = f"{temporal} + {spatial}"
                rates, *models = training(
                    paths, usual, device, batch, repeats, temporal, spatial, sizes, precisions
                )
                ratio = [a / b for a, b in zip(rates["float32"], rates["usual"], strict=True)]
                bodies = open_ours(paths, device).bodies(torch.arange(batch))[0]
                work = engine.operations(models[0], bodies) / batch
                row = summary(rates) | {
                    "ratio": summary(ratio),
                    "parameters": sum(p.numel() for p in models[0].parameters()),
                    "operations": rounded(work),
                }
                row["floor"] = {
                    p: rounded(record["limits"][f"{p}_operations"] / (3 * work)) for p in precisions
                }
                record["training"][name] = row
                print(
                    f"training, {name}", *(f"{k}: {v}" for k, v in row.items()), sep="\n  ", flush=True
                )
                rates, latency = inference(paths, usual, *models, device, batch, repeats, precisions)
                row = summary(rates) | {"one_clip_ms": {k: rounded(v) for k, v in latency.items()}}
                row["floor"] = {
                    p: rounded(record["limits"][f"{p}_operations"] / work) for p in precisions
                }
                record["inference"][name] = row
                print(
                    f"inference, {name}", *(f"{k}: {v}" for k, v in row.items()), sep="\n  ", flush=True
                )
        record["epoch_seconds"] = {
            k: {n: rounded(s) for n, s in v.items()} for k, v in growth(folder, device).items()
        }
    record["memory_mib"] = {name: round(size) for name, size in memory(device).items()}
    print("an epoch's seconds:", record["epoch_seconds"], "memory:", record["memory_mib"])
    out = arguments.out or ROOT / "results" / f"speed-{device.type}.json"
    out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
