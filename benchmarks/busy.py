"""Training on a CPU that other programs use, too: steps of training alone and beside busy processes.

    python benchmarks/busy.py                                    # about ten minutes on two CPU cores
    python benchmarks/busy.py --presets small --environment GOMP_SPINCOUNT=1000
    python benchmarks/busy.py --environment OMP_NUM_THREADS=1 --environment OMP_WAIT_POLICY=passive

The same training (batches of 64 clips, augmentation and weight updates, on random data of NTU's shape)
in several environments:

    default      threads wait as without training/environment.py (large pages are on all the same)
    repository   with its variables (layers.py decides in both cases what the threads do)
    other ones   with the variables of one --environment, and those of the repository that it leaves

Each environment has a process of its own, which trains when it is its turn. In each round all of them
train alone, then all beside one busy process per usable CPU. Medians of the rounds; ratios are of one
round. The presets are `demo`, `small` and `baseline` (the network of the paper). Writes
results/busy-cpu.json and prints a table.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from training.environment import GIVEN, set_variables, usable_cpus  # noqa: E402

import gpu  # noqa: E402
import ntu  # noqa: E402
import speed  # noqa: E402
import torch  # noqa: E402

import train  # noqa: E402
from convert_data import positive  # noqa: E402
from training import engine  # noqa: E402

DEFAULT, REPOSITORY = "default", "repository"
BATCH_SIZE = 64  # of `demo` and `small`; with the 256 clips of `baseline`, a process takes 7 GiB
# Ends with the process that started it, however that one ended: its input is then closed.
BUSY = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0))).start()
while True: pass
"""


def work(preset: str, clips: int, tiny: bool) -> None:
    """What a training process does: for each line of its input, a number of seconds, train for so long
    (at least one step), and print the median of the milliseconds per step."""
    device = torch.device("cpu")
    config = train.make_config(preset, **(gpu.TINY if tiny else {"batch_size": BATCH_SIZE}))
    run = ntu.make_run(config, *ntu.open_ntu(clips, device), device)
    step, batches = run.training_step(), speed.endless(lambda: run.batches)
    step.model.train()

    def one_step() -> None:
        data, label = next(batches)
        step(data, label, len(label))

    one_step()
    for line in sys.stdin:
        times, until = [], time.perf_counter() + float(line)
        while not times or time.perf_counter() < until:
            times += speed.seconds(one_step, device, repeats=1, warmup=0)
        print(1e3 * statistics.median(times), flush=True)


@contextmanager
def started(command: Sequence[str], environment: dict[str, str]) -> Iterator[subprocess.Popen]:
    """A child process with pipes, which is killed in the end."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as child:
        try:
            yield child
        finally:
            child.kill()


def train_for(child: subprocess.Popen, seconds: float) -> float:
    """Let a training process train -> median of the milliseconds per step."""
    child.stdin.write(f"{seconds}\n")
    child.stdin.flush()
    answer = child.stdout.readline()
    if not answer:
        raise ChildProcessError("a training process ended early: see its message above")
    return float(answer)


def measure(
    preset: str, environments: dict[str, dict[str, str]], arguments: argparse.Namespace
) -> dict[str, dict]:
    """{environment: medians and ratios} of a preset, for environments {name: all variables}."""
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r}); import busy; "
    code += f"busy.work({preset!r}, {arguments.clips}, {arguments.tiny})"
    times = {name: {"alone": [], "busy": []} for name in environments}
    with ExitStack() as stack:
        children = {}
        for name, environment in environments.items():
            # OpenMP has read its variables when torch is imported, and does not know those that
            # training/environment.py sets then; THP_MEM_ALLOC_ENABLE is read later.
            own = "import torch; " + code if name == DEFAULT else code
            command = [sys.executable, "-c", own]
            children[name] = stack.enter_context(started(command, environment))
            train_for(children[name], 0)  # waits for its start
        for _ in range(arguments.rounds):
            for name, child in children.items():
                times[name]["alone"].append(train_for(child, arguments.seconds))
            with ExitStack() as others:
                for _ in range(usable_cpus()):
                    others.enter_context(started([sys.executable, "-c", BUSY], GIVEN))
                time.sleep(0.5)  # until they have started
                for name, child in children.items():
                    times[name]["busy"].append(train_for(child, arguments.seconds))
    return {name: compare(found, times[DEFAULT]["alone"]) for name, found in times.items()}


def compare(times: dict[str, list[float]], default: list[float]) -> dict[str, dict]:
    """Medians and ranges of the milliseconds per step, of busy / alone, and of default / alone."""
    alone, busy = times["alone"], times["busy"]
    found = {
        "alone_ms": alone,
        "busy_ms": busy,
        "busy_to_alone": [b / a for a, b in zip(alone, busy, strict=True)],
        "speed_alone_to_default": [d / a for a, d in zip(alone, default, strict=True)],
    }
    return speed.summary(found)


def parse_variables(parser: argparse.ArgumentParser, given: Sequence[str]) -> dict[str, str]:
    """The variables of one --environment."""
    pairs = [text.partition("=") for text in given]
    if not all(name and equals for name, equals, _ in pairs):
        parser.error("--environment takes NAME=VALUE, such as GOMP_SPINCOUNT=1000")
    return {name: value for name, _, value in pairs}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    presets = ["demo", "small", "baseline"]
    parser.add_argument("--presets", nargs="+", choices=train.PRESETS, default=presets)
    parser.add_argument("--environment", nargs="+", action="append", default=[],
                        metavar="NAME=VALUE",
                        help="variables to try, too; can be given several times")  # fmt: skip
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--seconds", type=float, default=3, help="of training, each time")
    parser.add_argument("--clips", type=int, default=512, help="a multiple of the batch size")
    parser.add_argument("--tiny", action="store_true", help="tiny networks, as for a test")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "busy-cpu.json")
    arguments = parser.parse_args(argv)
    if not arguments.out.parent.is_dir():
        parser.error(f"--out {arguments.out}: there is no such folder")
    environments = {DEFAULT: dict(GIVEN), REPOSITORY: dict(GIVEN)}
    for given in arguments.environment:
        environments[" ".join(given)] = GIVEN | parse_variables(parser, given)
    for name, environment in environments.items():
        if name != DEFAULT:
            set_variables(environment)
    record = {
        "date": date.today().isoformat(),
        "machine": engine.device_name("cpu"),
        "busy_processes": usable_cpus(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "batch": gpu.TINY["batch_size"] if arguments.tiny else BATCH_SIZE,
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        "environments": {
            name: dict(sorted(environment.items() - GIVEN.items()))
            for name, environment in environments.items()
        },
        "presets": {},
    }
    print("preset, environment: ms per step alone, busy; busy / alone; speed alone / default")
    for preset in arguments.presets:
        record["presets"][preset] = measure(preset, environments, arguments)
        for name, found in record["presets"][preset].items():
            alone, busy, ratio, relative = (value["median"] for value in found.values())
            print(f"{preset}, {name}: {alone}, {busy}; {ratio}; {relative}", flush=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
