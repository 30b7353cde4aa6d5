"""Kill conversions at random moments and check that no data is lost.

    python benchmarks/kill.py [--times 20] [--seed 0]

Each time `convert_data.py` with its worker processes replaces an earlier conversion and is killed. Then
each benchmark must be the earlier one or the new one, to the last byte, and the next conversion must
succeed and leave nothing of the killed one. Prints what was found after each kill; ends with an error
at the first violation. (tests/test_storage.py kills a conversion at each of its operations on files.)
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import synthesize  # noqa: E402

BENCHMARKS = ("xsub", "xview")


def command(data: Path, out: Path) -> list[str]:
    """The conversion of a folder of raw files by two processes."""
    options = ("--data_path", data, "--out_folder", out, "--jobs", 2)
    return [sys.executable, *map(str, (ROOT / "convert_data.py", *options))]


def contents(out: Path) -> dict[str, dict[str, bytes]]:
    """benchmark -> name -> bytes of each file; of a hidden folder while the benchmark is replaced."""
    folders = {name: out / name if (out / name).exists() else out / f".{name}.replaced"
               for name in BENCHMARKS}  # fmt: skip
    return {name: {path.name: path.read_bytes() for path in folder.iterdir()}
            for name, folder in folders.items()}  # fmt: skip


def make_data(folder: Path) -> tuple[Path, Path]:
    """36 raw files and 1,080 others."""
    few, many = folder / "few", folder / "many"
    synthesize.synthesize(few, (1, 10, 24, 58), subjects=3, replications=1)
    many.mkdir()
    for i, path in enumerate(sorted(few.iterdir()) * 30):
        os.link(path, many / f"S001C001P{i // 60 + 1:03}R001A{i % 60 + 1:03}.skeleton")
    return few, many


def kill_once(data: Path, out: Path, seconds: float) -> None:
    """Convert, and kill the conversion after so many seconds."""
    child = subprocess.Popen(command(data, out), stdout=subprocess.DEVNULL)
    time.sleep(seconds)
    child.kill()
    child.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        few, many = make_data(folder)
        out, earlier, new = (folder / name for name in ("out", "earlier", "new"))
        subprocess.run(command(few, earlier), check=True, stdout=subprocess.DEVNULL)
        began = time.perf_counter()
        subprocess.run(command(many, new), check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - began
        versions = {"earlier": contents(earlier), "new": contents(new)}
        rng = np.random.default_rng(options.seed)
        for number in range(options.times):
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(earlier, out)
            after = rng.uniform(0.3, 1) * seconds
            kill_once(many, out, after)
            states = []
            for benchmark, files in contents(out).items():
                same = [name for name, version in versions.items() if files == version[benchmark]]
                states += same or ["LOST"]
            print(f"{number + 1}: killed after {after:.2f} s: {', '.join(states)}")
            if "LOST" in states:
                raise SystemExit("data was lost")
            subprocess.run(command(many, out), check=True, stdout=subprocess.DEVNULL)
            if contents(out) != versions["new"] or list(out.glob(".*")):
                raise SystemExit("the conversion after a killed one is not complete")


if __name__ == "__main__":
    main()
