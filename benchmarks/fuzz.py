"""Corrupt raw files by the thousand: each must be converted to finite values, or be reported.

    python benchmarks/fuzz.py --files 20000        # about a minute; writes results/fuzz.json

Synthetic clips are corrupted: truncated at any byte, bits flipped, numbers and counts replaced, other
encodings and line ends, bytes deleted, repeated or inserted, a folder in place of a file, a file
without read permission. Batches of them are converted as by convert_data.py, with limited memory.
Checked for every file: it is in the output, finite, or in the list of failures, and not in both; where
the fast parser accepts it, the strict parser gives exactly the same. Checked for all: no exception, no
batch that hangs, peak memory.
"""

import argparse
import collections
import json
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import synthesize  # noqa: E402
from convert_data import convert  # noqa: E402
from skeletons import ntu  # noqa: E402
from skeletons.parallel import in_parallel  # noqa: E402
from skeletons.readers import open_input  # noqa: E402
from skeletons.storage import read_split, split_files  # noqa: E402

BATCH = 500
MEMORY = 1500 << 20  # bytes of address space, above what the process has at its start
SECONDS = 120  # limit for a batch
VALUES = (b"1e308", b"-1e308", b"1e39", b"99999999999999999999", b"-5", b"NaN", b"-inf", b"Infinity",
          b"1e", b"0x1F", b"1_0", b"", b"--1", b"1.2.3", b"\xc3\xa9", b"1,5", b"0", b"-0", b"1e-400",
          b"25", b"24", b"26", b"0.0000000001", b"12345.678")  # fmt: skip
ENCODINGS = ("utf-16", "utf-8-sig", "utf-32", "cp037")


def corrupt(content: bytes, rng: np.random.Generator) -> tuple[str, bytes | None]:
    """A kind of corruption and its result; None: make a folder, or a file without read permission."""
    kind = KINDS[rng.integers(len(KINDS))]
    data = bytearray(content)
    fields = [m.span() for m in re.finditer(rb"\S+", content)]
    counts = [m.span(1) for m in re.finditer(rb"\n(\d+)\r", content)]
    at = int(rng.integers(len(data)))
    span = slice(at, at + int(rng.integers(1, 200)))
    if kind == "truncated":
        data = data[:at]
    elif kind == "bit flips":
        for _ in range(int(rng.integers(1, 9))):
            data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    elif kind in ("number replaced", "count replaced"):
        chosen = counts if kind == "count replaced" else fields
        start, end = chosen[rng.integers(len(chosen))]
        data[start:end] = VALUES[rng.integers(len(VALUES))]
    elif kind == "frame count replaced":
        data[: fields[0][1]] = VALUES[rng.integers(len(VALUES))]
    elif kind == "encoding":
        data = content.decode().encode(ENCODINGS[rng.integers(len(ENCODINGS))])
    elif kind == "line ends":
        data = content.replace(b"\r\n", (b"\n", b"\r", b"\n\r", b"\r\r\n", b" \r\n")[rng.integers(5)])
    elif kind == "separators":
        data = content.replace(b" ", (b"\t", b"  ", b"\0", b"\x0b", b"")[rng.integers(5)])
    elif kind == "bytes deleted":
        del data[span]
    elif kind == "bytes repeated":
        data[at:at] = data[span]
    elif kind == "bytes inserted":
        data[at:at] = rng.integers(0, 256, int(rng.integers(1, 50)), dtype=np.uint8).tobytes()
    elif kind == "fields swapped":
        a, b = sorted(rng.integers(len(fields), size=2))
        (a, b), (c, d) = fields[a], fields[b]
        data = content[:a] + content[c:d] + content[b:c] + content[a:b] + content[d:]
    else:  # "folder", "unreadable"
        return kind, None
    return kind, bytes(data)


KINDS = ("truncated", "bit flips", "number replaced", "count replaced", "frame count replaced",
         "encoding", "line ends", "separators", "bytes deleted", "bytes repeated", "bytes inserted",
         "fields swapped", "folder", "unreadable")  # fmt: skip


def originals(folder: Path) -> list[bytes]:
    """Contents of small synthetic clips: one and two people, spurious bodies, lost frames."""
    synthesize.synthesize(folder, actions=(10, 58), subjects=2, replications=1)
    contents = []
    for path in sorted(folder.iterdir()):
        lines = path.read_bytes().split(b"\r\n")
        at, frames = 1, random_frames(path.name)
        for _ in range(frames):
            at += 1 + 27 * int(lines[at])
        contents.append(b"\r\n".join([b"%d" % frames, *lines[1:at], b""]))
    return contents


def load_modules(work: Path) -> None:
    """Start worker processes and convert files that are not corrupt: that loads all modules, while this
    user may still read them."""
    list(in_parallel(abs, range(1000), 2))
    convert(open_input([work / "originals"], jobs=2), work / "loaded")
    read_split(*split_files(work / "loaded" / "xsub", "train"))
    for encoding in ENCODINGS:
        "".encode(encoding)


def random_frames(name: str) -> int:
    """1 to 24, determined by the name."""
    return int(np.random.default_rng(list(name.encode())).integers(1, 25))


def parsers_agree(content: bytes) -> bool:
    """Whether the fast parser, if it accepts the file, gives what the strict one gives."""
    fast = ntu.parse_fast(content)
    if fast is None:
        return True
    strict = ntu.parse_strict(content)
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(fast, strict, strict=True))


def check_batch(folder: Path, kinds: dict[str, str], jobs: int) -> collections.Counter:
    """Convert a folder of corrupt files -> counts of (kind, "converted" or "reported")."""
    _, failures = convert(open_input([folder], jobs=jobs), folder.parent / "out")
    reported = {Path(failure.file).stem: failure.reason for failure in failures}
    converted = set()
    for split in ("train", "val"):
        data, _, names, _ = read_split(*split_files(folder.parent / "out" / "xsub", split))
        assert np.isfinite(data).all(), "a value that is not finite"
        converted.update(names)
    assert not converted & set(reported), "both converted and reported"
    assert converted | set(reported) == set(kinds), "neither converted nor reported"
    assert all(reported.values()), "no reason"
    return collections.Counter(
        (kind, "converted" if name in converted else "reported") for name, kind in kinds.items()
    )


def fuzz(contents: list[bytes], files: int, seed: int, jobs: int, work: Path) -> collections.Counter:
    """Corrupt copies of `contents` and convert them -> counts of (kind, "converted" or "reported")."""
    rng = np.random.default_rng(seed)
    names = [f"S{s:03}C{c:03}P{p:03}R001A{a:03}" for s in range(1, 18) for c in (1, 2, 3)
             for p in range(1, 11) for a in range(1, 61)][:BATCH]  # fmt: skip
    outcomes = collections.Counter()
    for done in range(0, files, BATCH):
        signal.alarm(SECONDS)
        raw = work / "raw"
        raw.mkdir()
        kinds = {}
        for name in names[: files - done]:
            content = contents[rng.integers(len(contents))]
            kinds[name], content = corrupt(content, rng)
            path = raw / f"{name}.skeleton"
            if kinds[name] == "folder":
                path.mkdir()
                continue
            path.write_bytes(b"" if content is None else content)
            if content is None:
                path.chmod(0)
            else:
                assert parsers_agree(content), f"the parsers differ: {content!r}"
        outcomes += check_batch(raw, kinds, jobs)
        shutil.rmtree(raw)
    signal.alarm(0)
    return outcomes


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "fuzz.json")
    arguments = parser.parse_args(argv)
    work = Path(tempfile.mkdtemp(prefix="fuzz-"))
    work.chmod(0o777)
    contents = originals(work / "originals")
    user = os.geteuid()
    if user == 0:  # who may read everything
        load_modules(work)
        os.seteuid(65534)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    started = time.perf_counter()
    try:
        outcomes = fuzz(contents, arguments.files, arguments.seed, arguments.jobs, work)
    finally:
        os.seteuid(user)
        shutil.rmtree(work, ignore_errors=True)
    # (getrusage of this process would count the one that started it.)
    own = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
    peak = max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    table = {kind: {what: outcomes[kind, what] for what in ("converted", "reported")} for kind in KINDS}
    record = {
        "date": date.today().isoformat(),
        "files": sum(outcomes.values()),
        "seed": arguments.seed,
        "seconds": round(time.perf_counter() - started, 1),
        "largest_process_mib": round(peak / 1024),
        "outcomes": table,
    }
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
