"""The layout of the repository: imports run one way, modules are importable alone and quickly."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = [*ROOT.glob("*.py"), *ROOT.glob("skeletons/*.py"), *ROOT.glob("training/*.py")]
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in FILES}
# From the lowest room to the highest. A module imports from its own room and from lower ones.
ROOMS = (
    lambda name: name.startswith("skeletons"),
    lambda name: name in ("layers", "extensions", "model"),
    lambda name: name == "feeder",
    lambda name: name.startswith("training"),
    lambda name: True,  # commands, pretrained.py and live.py
)
# TwoStreamRNN.from_pretrained: the one import upwards, when it is called.
UPWARD = ("model", "pretrained")


def room(name):
    return next(i for i, belongs in enumerate(ROOMS) if belongs(name))


def imported(path):
    """Modules of this repository that a file imports, anywhere in it, without UPWARD."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        else:
            continue
        yield from (name for name in names if name in MODULES and (path.stem, name) != UPWARD)


def test_imports_run_one_way():
    upward = [
        f"{name} imports {other}"
        for name, path in MODULES.items()
        for other in imported(path)
        if room(other) > room(name)
    ]
    assert not upward


def test_no_circular_imports():
    graph = {name: set(imported(path)) - {name} for name, path in MODULES.items()}
    while graph:
        leaves = {name for name, others in graph.items() if not others & set(graph)}
        assert leaves, f"among {sorted(graph)}"
        graph = {name: others for name, others in graph.items() if name not in leaves}


@pytest.mark.parametrize("name", ["train", "feeder", "live", "pretrained", "convert_data"])
def test_matplotlib_is_imported_where_a_picture_is_drawn(name):
    slow = {"matplotlib", "scipy.io", "onnx", "tyro"}
    code = f"import sys, {name}; assert not {slow} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
