"""Which file a network's name means: a path, a released network, or an address in the internet.

The released networks are checkpoints/released/NAME.pt, tracked by git, in the format of checkpoint.py
without the state of the optimizer; benchmarks/release.py makes them. NAME.json next to such a file has
its SHA-256, its test record and its training log.
"""

import hashlib
import json
import re
from http.client import HTTPException
from pathlib import Path
from urllib.parse import unquote, urlsplit

import torch

RELEASED = Path(__file__).resolve().parent.parent / "checkpoints" / "released"
CHECKSUM = "sha256"  # key of the record
# As in resnet18-f37072fd.pth; a date has no letters.
HASH_IN_NAME = re.compile(r"-(?=\d*[a-f])([0-9a-f]{8,64})\.[^.]+$")


def released_names() -> list[str]:
    """The names of the released networks."""
    return sorted(path.stem for path in RELEASED.glob("*.pt") if path.with_suffix(".json").is_file())


def find_checkpoint(source: str | Path) -> Path:
    """The file of a network.

    source  the name of a released network, an http(s) address, or a path, which is returned as it is
    A file from the internet is kept in the cache of torch.hub, and downloaded once. Raises OSError or
    ValueError for an address, and ValueError for a file that has the name of a released network.
    """
    name = str(source)
    if re.match(r"https?://", name):
        return _download(name)
    if name not in released_names():
        return Path(source)
    if Path(source).is_file():
        raise ValueError(
            f"{name} is a released network, and a file in this folder\n"
            f"rename the file, or give its full path: {Path(source).resolve()}"
        )
    return RELEASED / f"{name}.pt"


def _cache() -> Path:
    return Path(torch.hub.get_dir()).resolve() / "checkpoints" / "two-stream-rnn"


def _download(url: str) -> Path:
    """The file at an address, from the cache if it is there. Files of the same name from different
    addresses are kept apart. A hash in the file's name is compared with that of its content."""
    name = Path(unquote(urlsplit(url).path)).name
    if not name:
        raise ValueError(f"{url} does not name a file\ngive the address of a checkpoint of train.py")
    path = _cache() / sha256(url.encode())[:12] / name
    if not path.is_file():
        expected = HASH_IN_NAME.search(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), expected and expected[1])
        except RuntimeError as error:  # another hash
            raise ValueError(f"{url} is not the file that its name says: {error}\ntry again") from error
        except (OSError, ValueError, HTTPException) as error:
            reason = getattr(error, "reason", error)  # (of an URLError, without its frame)
            raise OSError(
                f"{url} cannot be downloaded: {reason}\ncheck the address and the connection"
            ) from error
    return path


def verify(path: Path) -> None:
    """ValueError if a file is not the one whose SHA-256 the record next to it has. Without such a
    record, as in the folder of a run, nothing is compared."""
    record = path.with_suffix(".json")
    if not record.is_file():
        return
    try:
        expected = json.loads(record.read_text(encoding="utf-8")).get(CHECKSUM)
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{record} is corrupt\n{usage_hint(path)}") from error
    if expected is None and is_run(path):
        return
    if sha256(path.read_bytes()) != expected:
        raise ValueError(
            f"{path} is corrupt or was changed: its SHA-256 is not that in {record.name}\n"
            f"{usage_hint(path)}"
        )


def sha256(content: bytes) -> str:
    """The SHA-256 of the content of a file, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def usage_hint(path: Path) -> str:
    """What to do about a file that cannot be used."""
    if is_run(path):
        return "train again"
    if RELEASED in path.resolve().parents:
        return "restore it: git checkout -- checkpoints/released"
    return "delete this file, so that it is downloaded again"


# --- Names for titles and outputs ---------------------------------------------------------------------


def is_run(path: Path) -> bool:
    """Whether a checkpoint is in the folder of a run, not among the released or downloaded networks."""
    return not {RELEASED, _cache()} & set(path.resolve().parents)


def run_name(path: Path) -> str:
    """What to call the network of a checkpoint: its run, or its released name."""
    return path.resolve().parent.name if is_run(path) else path.stem


def output_folder(path: Path) -> Path:
    """Where to write what is made of a checkpoint: the folder of its run; that of a released network is
    like a run of its name in the current folder."""
    return path.parent if is_run(path) else Path("checkpoints", path.stem)
