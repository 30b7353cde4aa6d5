"""Kill training at random moments, resume it, and compare with a run that was never killed.

    python benchmarks/kill_training.py --data demo/xview --kills 10

Each kill (SIGKILL) comes a random time after a random step, so that it also hits the saving. In the
end, the log and the checkpoints of both runs must be equal to the bit. tests/test_train.py kills once,
while a checkpoint is written.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import training.environment  # noqa: E402, F401

import torch  # noqa: E402
from train_helpers import TINY, assert_same_run, log_of  # noqa: E402

import train  # noqa: E402


class Killer:
    """Asked after each step whether to stop; kills the process `delay` seconds after a step."""

    def __init__(self, steps: int, delay: float) -> None:
        self.steps, self.delay = steps, delay

    def __call__(self) -> bool:
        self.steps -= 1
        if not self.steps:
            threading.Timer(self.delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return False


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder of a benchmark")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0, help="random seed of the moments")
    parser.add_argument("--victim", nargs=3, help=argparse.SUPPRESS)  # config, steps, delay
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    if arguments.victim:
        config, steps, delay = arguments.victim
        config = train.config_from_dict(json.loads(config))
        resume = Path("checkpoints", config.name, "last.pt").exists()
        train.main(config, resume, not resume, Killer(int(steps), float(delay)))
        return
    settings = TINY | {"data": str(Path(arguments.data).resolve()), "epochs": arguments.epochs}
    rng, config = random.Random(arguments.seed), train.make_config(**settings, name="killed")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        whole = train.main(train.with_fields(config, name="whole"))
        clips = json.loads((whole / "config.json").read_text())["clips"]["train"]
        steps = arguments.epochs * -(-clips // config.optimization.batch_size)
        for number in range(arguments.kills):
            after = rng.randint(1, max(2 * steps // arguments.kills, 1))
            moment = [str(after), str(rng.uniform(0, 0.02))]
            command = [sys.executable, __file__, "--data", arguments.data, "--victim",
                       json.dumps(asdict(config)), *moment]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode == 0:
                print(f"finished before kill {number + 1}")
                break
            if done.returncode != -signal.SIGKILL:
                raise SystemExit(f"kill_training.py: the run failed\n{done.stderr}")
            print(f"kill {number + 1}: {len(log_of(whole.parent / 'killed'))} epochs in the log")
        resume = (whole.parent / "killed/last.pt").exists()
        train.main(config, resume, not resume)
        assert_same_run(whole, whole.parent / "killed")
        os.chdir(ROOT)
    print("both runs are equal to the bit")


if __name__ == "__main__":
    main()
