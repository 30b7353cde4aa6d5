"""Several processes that train together (torchrun, over gloo)."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from test_threads import threads as torch_threads
from train_helpers import STILL, assert_same_run, changed, load, log_of, tiny_config

import train
from training import engine
from training.distributed import is_launched

ROOT = Path(train.__file__).parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
# Of each process: each stream has a thread, as where nothing is set (tests/conftest.py sets one).
TWO_THREADS = os.environ | {"OMP_NUM_THREADS": "2"}


@pytest.fixture
def config(data, tmp_path, monkeypatch):
    return tiny_config(data, tmp_path, monkeypatch)


def test_variables_that_are_left_over_in_the_environment(config, monkeypatch, capsys):
    values = {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "", "MASTER_ADDR": "localhost"}
    for name, value in (values | {"MASTER_PORT": "29500"}).items():
        monkeypatch.setenv(name, value)
    assert not is_launched()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "none")
    message = r"cannot connect \(RANK=none, WORLD_SIZE=2, .*\): .*\nstart them with torchrun; .* unset"
    with pytest.raises(OSError, match=message):
        train.main(config)
    assert "waiting for the other processes (RANK=none, WORLD_SIZE=2" in capsys.readouterr().err


# Trains with each of several configurations. The last run is stopped when the second process asks for
# it. Prints how many networks there are when the process group ends, and which of its threads are left.
SCRIPT = """
import gc, json, os, sys, time
from contextlib import suppress
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
from torch import distributed, nn
import plot, train
from training import engine
from training.distributed import destroy_distributed, get_rank

plot.curves = lambda runs, path: None

def threads():
    for path in Path("/proc/self/task").glob("*/comm"):
        with suppress(OSError):  # it ends just now
            yield path.read_text()

def leave(destroy=distributed.destroy_process_group):
    kinds = [type(thing) for thing in gc.get_objects()]
    destroy()
    for _ in range(50):  # a thread that has ended may be listed for a moment
        left = [name for name in threads() if "gloo" in name]
        if not left:
            break
        time.sleep(0.1)
    print(f"left over: {kinds.count(nn.parallel.DistributedDataParallel)} networks, {left}")

distributed.destroy_process_group = leave
asked = 0

def stop():
    global asked
    asked += 1
    return get_rank() == 1 and asked > 2

for values in map(json.loads, sys.argv[2:]):
    config = train.config_from_dict(values)
    interrupted = False
    try:
        train.main(config, stop=stop if config.name == "stopped" else None)
    except engine.Interrupted:
        interrupted = True
    if interrupted:
        print("interrupted")
destroy_distributed()
"""


def test_two_processes_train_as_one(config):
    """The same weights, each clip seen once per epoch, metrics over both; all in one start of torchrun.

    Batches of 16 clips. 8: equal shares; 5: shares of 3 and 2, and the last batch is one clip, none for
    the second process; 1: never one for the second process.
    """
    config = changed(config, **STILL, epochs=2)
    changes = [{"batch_size": 1}, {"batch_size": 5}, {"batch_size": 8}]
    changes.append({"batch_size": 8, "input_norm": True})
    changes.append(changes[-1] | {"init": "checkpoints/one-3/last.pt", "freeze": "temporal"})
    ones = [train.main(changed(config, name=f"one-{i}", **c)) for i, c in enumerate(changes)]
    runs = [changed(config, name=f"two-{i}", **c) for i, c in enumerate(changes)]
    stopped = changed(config, name="stopped", batch_size=1, validation_ratio=0.0)
    given = [json.dumps(asdict(run)) for run in (*runs, stopped)]
    command = [*TORCHRUN, "--no-python", sys.executable, "-c", SCRIPT, str(ROOT), *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=TWO_THREADS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("epoch   2") == 5 and done.stdout.count("2 x") == 6
    # A network that outlives the group waits for ever for a thread of the group that frees a tensor;
    # such a thread that does so while Python shuts down aborts the process.
    assert done.stdout.count("left over: 0 networks, []") == 2, done.stdout
    assert "FutureWarning" not in done.stderr
    for one, run in zip(ones, runs, strict=True):
        two = Path("checkpoints", run.name)
        a, b = load(one), load(two)
        assert len(b["rng_states"]) == 2
        for name, value in a["model"].items():
            # Adam divides a gradient by its own size, so a single weight of a tensor whose gradients
            # are nothing but rounding may go another way.
            difference = (b["model"][name] - value).abs().double()
            assert (difference > 1e-5).sum() <= 1 and difference.mean() < 1e-6, (run.name, name)
        for x, y in zip(log_of(one), log_of(two), strict=True):
            for clips in ("train", "validation"):
                for stream in engine.STREAMS:
                    # (An accuracy may differ by a clip whose best classes are equal but for rounding.)
                    loss = y[clips][stream]["loss"]
                    assert loss == pytest.approx(x[clips][stream]["loss"], abs=1e-5)

    # Both stop when one of them is asked to: they agree every 16 steps, and at the end of an epoch. One
    # process goes on with the run.
    assert done.stdout.count("interrupted") == 2
    folder = Path("checkpoints/stopped")
    assert load(folder)["epoch"] == len(log_of(folder)) == 1
    train.main(stopped, resume=True)
    line = log_of(folder)[-1]["train"]["fused"]
    assert line["accuracy"] * 24 == pytest.approx(round(line["accuracy"] * 24))


def options(config):
    """The command line of train.py that gives this configuration."""
    given = []
    for name, value in train.flat(config).items():
        if isinstance(value, bool):
            given.append(f"--{name}" if value else f"--no_{name}")
        else:
            given += [f"--{name}", *map(str, value if isinstance(value, tuple) else [value])]
    return given


def start_and_stop(command, number, everyone):
    """Start a long run and send it a signal in its third epoch -> (exit status, stderr)."""
    process = subprocess.Popen(
        [*command, "--name=stopped", "--epochs=10000"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        env=TWO_THREADS,
        # A background job ignores Ctrl-C, and what it starts does, too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    log = Path("checkpoints/stopped/log.jsonl")
    while not log.exists() or len(log.read_text().splitlines()) < 2:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    (os.killpg if everyone else os.kill)(process.pid, number)
    _, error = process.communicate(timeout=60)
    return process.returncode, error


SIGNALS = pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs signals to process groups")


@SIGNALS
@pytest.mark.parametrize("number, num_workers", [(signal.SIGINT, 2), (signal.SIGTERM, 0)])
def test_a_signal_to_all_processes_of_a_run(config, number, num_workers):
    """Ctrl-C, and a batch system's SIGTERM, reach the workers, too. Resumed, the run is as if
    uninterrupted."""
    config = changed(config, num_workers=num_workers)
    command = [sys.executable, ROOT / "train.py", *options(config)]
    code, error = start_and_stop(command, number, everyone=True)
    epoch = load(Path("checkpoints/stopped"))["epoch"]
    assert code == 128 + number and "Traceback" not in error, error
    assert error.endswith(
        f"stopped; checkpoints/stopped/last.pt holds epoch {epoch}\n"
        "go on with: python train.py --name stopped --resume\n"
    )
    with torch_threads(2):
        whole = train.main(changed(config, name="whole", num_workers=0, epochs=epoch + 1))
        train.main(changed(config, name="stopped", epochs=epoch + 1), resume=True)
    assert_same_run(whole, Path("checkpoints/stopped"))


@SIGNALS
def test_a_signal_to_torchrun(config):
    """Both processes end without an abort, after the same step."""
    config = changed(config, validation_ratio=0.0, batch_size=1)
    command = [*TORCHRUN, ROOT / "train.py", *options(config)]
    code, error = start_and_stop(command, signal.SIGTERM, everyone=False)
    epoch = load(Path("checkpoints/stopped"))["epoch"]
    assert code != 0 and "terminate called" not in error, error
    assert error.count(f"stopped; checkpoints/stopped/last.pt holds epoch {epoch}\n") == 2, error


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits on the size of files")
def test_a_full_disk_of_the_first_process(config):
    """Its reason is in the first and in the last lines; the other process does not wait for it."""
    limit = 'ulimit -f 20; exec "$@"'  # blocks of 512 or 1024 bytes
    command = ["sh", "-c", limit, "sh", *TORCHRUN, ROOT / "train.py", *options(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert done.stderr.count("train.py: epoch 1 cannot be saved: [Errno 27] File too large") == 2
    assert "File too large" in done.stderr[done.stderr.index("Root Cause") :]
    assert not list(Path("checkpoints/run").glob("*.pt*"))
