"""Variables that are set before torch is imported, the CPUs that a process may use, busy.py."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import busy
import pytest

from training import environment

ROOT = Path(__file__).parent.parent
SCRIPTS = [
    path.relative_to(ROOT).as_posix()
    for path in (*ROOT.glob("*.py"), *ROOT.glob("benchmarks/*.py"), *ROOT.glob("docs/*.py"))
    if "__main__" in path.read_text(encoding="utf-8")
]
WITHOUT_TORCH = {"synthesize.py", "benchmarks/convert.py", "benchmarks/kill.py"}
LIBRARY = ["live.py", "pretrained.py"]  # imported by the scripts of users

# Imports each file until it imports torch, and prints for each whether the variables are set then (or
# at the end of its imports), and whether it imports torch.
IMPORT = """
import importlib.abc, importlib.util, json, os, sys
from pathlib import Path

class TorchIsImported(BaseException):
    pass

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise TorchIsImported

root, found, path = Path(sys.argv[1]), {}, list(sys.path)
sys.meta_path.insert(0, Finder())
for name in sys.argv[2:]:
    for module in list(sys.modules.values()):
        if root in Path(getattr(module, "__file__", None) or "/").parents:
            if ".venv" not in module.__file__:
                del sys.modules[module.__name__]
    os.environ.pop("GOMP_SPINCOUNT", None)
    sys.path[:] = [str((root / name).parent), *path]
    spec = importlib.util.spec_from_file_location("script", root / name)
    try:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
        torch = False
    except TorchIsImported:
        torch = True
    found[name] = ["GOMP_SPINCOUNT" in os.environ, torch]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def at_import():
    """{file: (variables are set, torch is imported)}"""
    command = [sys.executable, "-c", IMPORT, str(ROOT), *SCRIPTS, *LIBRARY]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT.parent)
    assert not done.returncode, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", [*SCRIPTS, *LIBRARY])
def test_variables_are_set_before_torch_is_imported(name, at_import):
    is_set, has_torch = at_import[name]
    assert is_set or name in WITHOUT_TORCH, f"{name}: import training.environment before torch"
    assert not (has_torch and name in WITHOUT_TORCH)


def test_the_check_sees_torch(at_import):
    assert all(at_import[name][1] for name in ("train.py", "test.py", "benchmarks/speed.py"))


def test_variables_that_are_set_stay(monkeypatch):
    monkeypatch.setattr(environment, "usable_cpus", lambda: 2)
    monkeypatch.setattr(environment, "allowed_cpus", lambda: 4)
    variables = {}
    environment.set_variables(variables)
    assert variables == {
        "GOMP_SPINCOUNT": str(environment.SPIN_COUNT),
        "KMP_BLOCKTIME": str(environment.BLOCK_TIME),
        "OMP_NUM_THREADS": "2",
        "THP_MEM_ALLOC_ENABLE": "1",
    }
    own = dict.fromkeys(variables, "7")
    environment.set_variables(own)
    assert own == dict.fromkeys(variables, "7")
    policy = {"OMP_WAIT_POLICY": "passive"}
    environment.set_variables(policy)
    assert not {"GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & set(policy)


def test_torch_counts_the_threads_where_there_is_no_quota(monkeypatch):
    monkeypatch.setattr(environment, "cpu_quota", lambda: math.inf)
    variables = {}
    environment.set_variables(variables)
    assert "OMP_NUM_THREADS" not in variables


QUOTA, PERIOD = "cpu.cfs_quota_us", "cpu.cfs_period_us"
V1, V2 = "4:cpu,cpuacct:{}\n3:cpuset:/other\n0::/\n", "0::{}\n"


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        (V2.format("/"), {"cpu.max": "150000 100000\n"}, 1.5),
        (V2.format("/"), {"cpu.max": "max 100000\n"}, math.inf),
        # The limit of an outer group holds, too; in a container, the path may be that of the host.
        (V2.format("/a/b"), {"a/cpu.max": "200000 100000", "a/b/cpu.max": "400000 100000"}, 2),
        (V2.format("/docker/1"), {"cpu.max": "300000 100000"}, 3),
        (
            V1.format("/a"),
            {"cpu/a/cpu.cfs_quota_us": "50000", "cpu/a/cpu.cfs_period_us": "100000"},
            0.5,
        ),
        (
            V1.format("/"),
            {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
            math.inf,
        ),
        (V1.format("/"), {f"cpu/{QUOTA}": "1"}, math.inf),
        (V2.format("/"), {"cpu.max": "100000 0"}, math.inf),
        (V2.format("/"), {"cpu.max": "\0"}, math.inf),
        ("no groups", {"cpu.max": "100000 100000"}, math.inf),
        (None, {}, math.inf),
    ],
)
def test_quota_of_a_container(groups, files, quota, tmp_path):
    if groups is not None:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(groups)
    for name, content in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert environment.cpu_quota(tmp_path) == quota


@pytest.mark.parametrize(("allowed", "quota", "usable"), [(8, math.inf, 8), (8, 2.9, 2), (1, 0.5, 1)])
def test_usable_cpus(allowed, quota, usable, monkeypatch):
    monkeypatch.setattr(environment, "allowed_cpus", lambda: allowed)
    monkeypatch.setattr(environment, "cpu_quota", lambda: quota)
    assert environment.usable_cpus() == usable


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only")
def test_cpus_that_a_process_may_run_on():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert environment.usable_cpus() == 1
    finally:
        os.sched_setaffinity(0, before)


# --- benchmarks/busy.py -----------------------------------------------------------------------------

TINY = ["--tiny", "--presets", "small", "--clips", "8", "--rounds", "1", "--seconds", "0"]


@pytest.fixture
def children(monkeypatch):
    """The processes that the benchmark starts."""
    found, popen = [], subprocess.Popen

    def start(*arguments, **options):
        found.append(popen(*arguments, **options))
        return found[-1]

    monkeypatch.setattr(busy.subprocess, "Popen", start)
    return found


def test_training_beside_busy_processes(children, tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(busy.GIVEN, "OMP_DISPLAY_ENV", "verbose")  # libgomp shows what it has read
    for name in ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY"):  # of pytest-xdist's processes
        monkeypatch.delitem(busy.GIVEN, name, raising=False)
    busy.main([*TINY, "--out", str(tmp_path / "busy.json")])
    record = json.loads((tmp_path / "busy.json").read_text())
    found = record["presets"]["small"]
    assert list(found) == ["default", "repository"]
    for values in found.values():
        alone, beside = values["alone_ms"]["median"], values["busy_ms"]["median"]
        assert alone > 0 and values["busy_to_alone"]["median"] == pytest.approx(
            beside / alone, rel=0.01
        )
    ratio = found["default"]["alone_ms"]["median"] / found["repository"]["alone_ms"]["median"]
    assert found["repository"]["speed_alone_to_default"]["median"] == pytest.approx(ratio, rel=0.01)
    assert not record["environments"]["default"]
    spins = str(environment.SPIN_COUNT)
    assert record["environments"]["repository"]["GOMP_SPINCOUNT"] == spins
    assert len(children) == 2 + record["busy_processes"]
    assert all(child.poll() is not None for child in children)
    read = [line for line in capfd.readouterr().err.splitlines() if "GOMP_SPINCOUNT" in line]
    if read:  # torch has libgomp
        assert [f"'{spins}'" in line for line in read] == [False, True]


def test_busy_processes_end_after_an_error(children, tmp_path, monkeypatch):
    monkeypatch.setattr(busy, "train_for", lambda *_: 1.0)
    monkeypatch.setattr(busy.time, "sleep", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        busy.main([*TINY, "--out", str(tmp_path / "busy.json")])
    assert len(children) > 2 and all(child.poll() is not None for child in children)


def test_busy_processes_end_with_the_benchmark():
    with subprocess.Popen([sys.executable, "-c", busy.BUSY], stdin=subprocess.PIPE) as child:
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.3)
        child.stdin.close()
        assert child.wait(20) == 0


@pytest.mark.parametrize("given", ["GOMP_SPINCOUNT", "=1"])
def test_a_variable_without_a_value(given, capsys):
    with pytest.raises(SystemExit):
        busy.main(["--environment", given])
    assert "NAME=VALUE" in capsys.readouterr().err
