"""How fast convert_data.py converts NTU RGB+D, and in how much memory, compared with a baseline.

    python benchmarks/convert.py                      # minutes; some 20 GB of disk below --folder
    python benchmarks/convert.py --distinct 456 --clips 5000 --baseline 300   # a quick look

The data set has the size of NTU-60: 56,880 names. --distinct of them are synthetic clips that are
written to disk, each repeated once so that they are as long as NTU's (250 kB); the other names are hard
links to these. All in one run, on the same files:

    baseline    a line-by-line parser with a dictionary for each joint, run once for each benchmark, and
                padded arrays of 300 frames and two bodies, as in public converters. Measured on a
                sample of --baseline clips, because all of them would take half an hour
    proposed    `python convert_data.py`, the whole command, on the same sample and on all clips
    read_only   reading the bytes of all files, in one process
    clips_shared, clips_pipes   all clips read by several processes and not written, in one run with
                and without shared memory (skeletons/parallel.py)

Writes results/convert.json. Reading comes first, so files that fit are then in the operating system's
cache, for all three alike.
"""

import argparse
import json
import os
import pickle
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import synthesize  # noqa: E402
from skeletons import ntu, parallel  # noqa: E402
from skeletons.clip import Clip  # noqa: E402
from skeletons.datasets import DATASETS  # noqa: E402

# --- The baseline -------------------------------------------------------------------------------------

JOINT_KEYS = ("x", "y", "z", "depthX", "depthY", "colorX", "colorY", "orientationW",
              "orientationX", "orientationY", "orientationZ", "trackingState")  # fmt: skip
INFO_KEYS = ("bodyID", "clipedEdges", "handLeftConfidence", "handLeftState", "handRightConfidence",
             "handRightState", "isRestricted", "leanX", "leanY", "trackingState")  # fmt: skip


def baseline_parse(path: Path) -> dict:
    """A dictionary for each frame, body and joint."""
    sequence = {"frames": []}
    with open(path) as file:
        sequence["count"] = int(file.readline())
        for _ in range(sequence["count"]):
            frame = {"count": int(file.readline()), "bodies": []}
            for _ in range(frame["count"]):
                body = {k: float(v) for k, v in zip(INFO_KEYS, file.readline().split(), strict=True)}
                body["joints"] = []
                for _ in range(int(file.readline())):
                    values = zip(JOINT_KEYS, file.readline().split(), strict=True)
                    body["joints"].append({key: float(value) for key, value in values})
                frame["bodies"].append(body)
            sequence["frames"].append(frame)
    return sequence


def baseline_array(path: Path, bodies: int = 4, keep: int = 2) -> np.ndarray:
    """(3, T, 25, 2): a loop over frames, bodies and joints, then the two most varying bodies."""
    sequence = baseline_parse(path)
    data = np.zeros((bodies, sequence["count"], 25, 3))
    for t, frame in enumerate(sequence["frames"]):
        for m, body in enumerate(frame["bodies"][:bodies]):
            for v, joint in enumerate(body["joints"]):
                data[m, t, v, :] = [joint["x"], joint["y"], joint["z"]]

    def energy(body: np.ndarray) -> float:
        frames = body[body.sum((1, 2)) != 0]
        return sum(frames[:, :, c].std() for c in range(3)) if len(frames) else 0

    order = np.argsort([energy(body) for body in data])[::-1][:keep]
    return data[order].transpose(3, 1, 2, 0)


def baseline_convert(files: list[Path], out: Path) -> None:
    """Both benchmarks one after the other; every file is parsed for each of them."""
    dataset = DATASETS["ntu"]
    for benchmark, in_training in dataset.benchmarks.items():
        (out / benchmark).mkdir(parents=True)
        clips = {"train": [], "val": []}
        for file in files:
            label, subject, camera = dataset.parse_name(file.stem)
            clip = Clip(file.stem, label, None, subject, camera)
            clips["train" if in_training(clip) else "val"].append((file, label))
        for split, listed in clips.items():
            data = np.zeros((len(listed), 3, 300, 25, 2), np.float32)
            for row, (file, _) in zip(data, listed, strict=True):
                array = baseline_array(file)
                row[:, : array.shape[1]] = array
            np.save(out / benchmark / f"{split}_data.npy", data)
            with open(out / benchmark / f"{split}_label.pkl", "wb") as file:
                pickle.dump(([f.name for f, _ in listed], [label for _, label in listed]), file)


# --- Measuring ----------------------------------------------------------------------------------------


def make_files(folder: Path, distinct: int, clips: int) -> tuple[list[Path], int]:
    """`clips` names of NTU-60, hard links to `distinct` synthetic clips -> (paths, distinct clips)."""
    source, raw = folder / "distinct", folder / "raw"
    raw.mkdir(parents=True)
    per_subject = 3 * len(synthesize.ACTIONS)
    synthesize.synthesize(source, subjects=max(1, round(distinct / per_subject)), replications=1)
    originals = sorted(source.iterdir())
    for path in originals:
        path.write_bytes(twice(path.read_bytes()))
    names = (
        f"S{s:03}C{c:03}P{p:03}R{r:03}A{a:03}.skeleton"
        for s in range(1, 18)
        for p in range(1, 41)
        for r in (1, 2)
        for c in (1, 2, 3)
        for a in range(1, 61)
    )
    files = []
    for i, name in zip(range(clips), names, strict=False):
        os.link(originals[i % len(originals)], raw / name)
        files.append(raw / name)
    return files, len(originals)


def twice(content: bytes) -> bytes:
    """The content of a raw file with its frames repeated."""
    count, frames = content.split(b"\r\n", 1)
    return b"%d\r\n" % (2 * int(count)) + 2 * frames


def run_command(data_path: Path, out: Path, jobs: int) -> tuple[float, float]:
    """convert_data.py as a command -> (seconds, peak memory of all its processes together in MiB).

    The memory is the sum of the resident set sizes, sampled ten times a second. Shared pages count once
    for each process, so it is an upper bound.
    """
    command = [sys.executable, ROOT / "convert_data.py", "--data_path", data_path, "--out_folder", out,
               "--ignored_sample_path", os.devnull, "--jobs", str(jobs)]  # fmt: skip
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = 0
    while child.poll() is None:
        peak = max(peak, memory(child.pid))
        time.sleep(0.1)
    if child.returncode:
        raise SystemExit(f"convert_data.py failed with {child.returncode}")
    return time.perf_counter() - started, peak


READ_CLIPS = """
import sys, time
sys.path.insert(0, sys.argv[1])
from skeletons import parallel, readers
parallel.SHARED_BYTES = int(sys.argv[4])
started = time.perf_counter()
for _ in readers.open_input([sys.argv[2]], jobs=int(sys.argv[3])).clips:
    pass
print(time.perf_counter() - started)
"""


def read_clips(data_path: Path, jobs: int, shared_bytes: int) -> float:
    """Seconds to read all clips with `jobs` processes, in a process of its own."""
    command = [sys.executable, "-c", READ_CLIPS, ROOT, data_path, jobs, shared_bytes]
    return float(subprocess.check_output(list(map(str, command))))


def memory(pid: int) -> float:
    """Resident set size in MiB of a process and its children (Linux)."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return pages * resource.getpagesize() / 2**20 + sum(map(memory, children))


def timed(function: Callable, *arguments: object) -> float:
    """Seconds of a call."""
    started = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - started


def read_all(files: list[Path]) -> None:
    for file in files:
        with open(file, "rb") as opened:
            opened.read()


def parse_times(files: list[Path], repeats: int = 200) -> dict[str, float]:
    """Parsing a clip of 90 frames with one body: medians in ms."""
    for file in files:
        content = file.read_bytes()
        frames = int(content.split(maxsplit=1)[0])
        if frames >= 90 and content.count(b"\r\n25\r\n") == frames:
            break
    content = b"\r\n".join([b"90", *content.split(b"\r\n")[1 : 1 + 90 * 28], b""])
    path = file.parent.parent / "90.skeleton"
    path.write_bytes(content)
    parallel.keep_freed_memory()  # as in a conversion
    proposed = [timed(ntu.parse_skeleton, content) for _ in range(repeats)]
    strict = [timed(ntu.parse_strict, content) for _ in range(repeats // 10)]
    tracked = [timed(ntu.parse_ntu, content, "track") for _ in range(repeats)]
    baseline = [timed(baseline_parse, path) for _ in range(repeats // 10)]
    return {"bytes": len(content)} | {
        name: round(1e3 * statistics.median(times), 3)
        for name, times in (
            ("parse_ms", proposed),
            ("strict_parse_ms", strict),
            ("parse_and_track_ms", tracked),
            ("baseline_ms", baseline),
        )
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("/tmp/convert-benchmark"))
    parser.add_argument("--clips", type=int, default=56880)
    parser.add_argument("--distinct", type=int, default=5700, help="clips written to disk")
    parser.add_argument("--baseline", type=int, default=1000, help="clips converted by the baseline")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "convert.json")
    arguments = parser.parse_args(argv)
    folder = arguments.folder
    if folder.exists():
        raise SystemExit(f"{folder} exists: remove it or choose another --folder")
    try:
        files, distinct = make_files(folder, arguments.distinct, arguments.clips)
        sample = files[:: max(1, len(files) // arguments.baseline)][: arguments.baseline]
        (folder / "sample").mkdir()
        for file in sample:
            os.link(file, folder / "sample" / file.name)
        size = sum(file.stat().st_size for file in files)

        runs = []
        for i in range(arguments.repeats):
            run = {"read_only_s": timed(read_all, files), "read_only_sample_s": timed(read_all, sample)}
            run["baseline_sample_s"] = timed(baseline_convert, sample, folder / "baseline")
            run["proposed_sample_s"], _ = run_command(
                folder / "sample", folder / "proposed", arguments.jobs
            )
            run["proposed_s"], run["memory_mib"] = run_command(
                folder / "raw", folder / "proposed", arguments.jobs
            )
            run["ratio"] = (run["baseline_sample_s"] / len(sample)) / (run["proposed_s"] / len(files))
            run["ratio_on_the_sample"] = run["baseline_sample_s"] / run["proposed_sample_s"]
            for name, size_of_slot in (("shared", parallel.SHARED_BYTES), ("pipes", 1)):
                run[f"clips_{name}_s"] = read_clips(folder / "raw", arguments.jobs, size_of_slot)
            output = sum(path.stat().st_size for path in (folder / "proposed").rglob("*.npy"))
            shutil.rmtree(folder / "baseline")
            shutil.rmtree(folder / "proposed")
            runs.append({name: round(value, 2) for name, value in run.items()})
            print(f"run {i + 1}: {runs[-1]}", flush=True)
        record = {
            "date": date.today().isoformat(),
            "machine": f"{arguments.jobs} processes on {os.cpu_count()} cores, {platform.machine()}, "
                       f"Python {platform.python_version()}, numpy {np.__version__}",
            "clips": len(files), "distinct": distinct, "raw_bytes": size, "output_bytes": output,
            "baseline_clips": len(sample),
            "extrapolated": "the baseline's time for all clips, from its time on the sample",
            "parse": parse_times(files),
            "median": {name: statistics.median(run[name] for run in runs) for name in runs[0]},
            "runs": runs,
        }  # fmt: skip
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps({key: record[key] for key in ("parse", "median")}, indent=1))


if __name__ == "__main__":
    main()
