"""Entry points for torch.hub.

    recognizer = torch.hub.load(REPOSITORY, "two_stream_rnn", "demo-small", source="local")

REPOSITORY is the folder of this file.
torch.hub puts this folder on the import path while it loads. The modules of this repository have names
such as `model` and `test`, which modules of the caller may have, too. So they are imported apart: after
loading, these names mean what they meant before. The recognizer works as usual, with one limit: Python
cannot find its classes by their names, so it cannot be pickled, sent to another process, or compiled
with torch.compile. For these, put this folder on the import path (sys.path) and use
TwoStreamRNN.from_pretrained.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent
NAMES = {path.stem for path in ROOT.glob("*.py")} | {
    path.parent.name for path in ROOT.glob("*/__init__.py")
}

dependencies = ["torch", "numpy", "tqdm"]


@contextmanager
def own_modules() -> Iterator[None]:
    """In it, the names of this repository's modules mean these; after it, what they meant before."""

    def is_own(module: ModuleType) -> bool:
        file = getattr(module, "__file__", None)  # (a folder without __init__.py has none)
        return bool(file) and ROOT in Path(file).resolve().parents

    def named_alike() -> dict[str, ModuleType]:
        return {k: module for k, module in sys.modules.items() if k.partition(".")[0] in NAMES}

    before = named_alike()
    for name, module in before.items():
        if not is_own(module):
            del sys.modules[name]
    try:
        yield
    finally:
        for name in named_alike():
            del sys.modules[name]
        sys.modules.update(before)


def two_stream_rnn(name: str, device: str = "") -> Any:
    """A trained network that takes raw clips: the ActionRecognizer of pretrained.py.

    name    of a released network (checkpoints/README.md), path of a checkpoint, or an http(s) address
    device  "cuda" or "cpu"; "": the GPU if there is one

    recognizer(clip), for a clip (T, V, C) or (M, T, V, C) in the coordinates of the sensor, is a list
    of (class name, probability), the most probable first.
    """
    with own_modules():
        from pretrained import ActionRecognizer

        return ActionRecognizer(name, device)
