"""Damaged raw files by the thousand: each must be converted with finite values or be reported.

    python benchmarks/fuzz.py --files 20000        # about a minute; writes results/fuzz.json

Synthetic clips are mutated: cut at any byte, bits flipped, numbers replaced, counts changed, other
encodings and line ends, bytes deleted, repeated or inserted, a folder under a file's name, a file that
may not be read. Batches of them are converted as convert_data.py does it, in a process whose memory is
limited. Checked of every file: it is in the output, finite, or in the list of faults, and not in both;
where the fast parser takes it, the careful one reads exactly the same. Checked of all: no exception, no
batch that hangs, the peak of memory.
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
SECONDS = 120  # for a batch
VALUES = (b"1e308", b"-1e308", b"1e39", b"99999999999999999999", b"-5", b"NaN", b"-inf", b"Infinity",
          b"1e", b"0x1F", b"1_0", b"", b"--1", b"1.2.3", b"\xc3\xa9", b"1,5", b"0", b"-0", b"1e-400",
          b"25", b"24", b"26", b"0.0000000001", b"12345.678")  # fmt: skip
ENCODINGS = ("utf-16", "utf-8-sig", "utf-32", "cp037")


def damage(content, rng):
    """One mutation, by name, and its result; None for a folder or a file that may not be read."""
    kind = KINDS[rng.integers(len(KINDS))]
    data = bytearray(content)
    fields = [m.span() for m in re.finditer(rb"\S+", content)]
    lone = [m.span(1) for m in re.finditer(rb"\n(\d+)\r", content)]
    at = int(rng.integers(len(data)))
    span = slice(at, at + int(rng.integers(1, 200)))
    if kind == "cut":
        data = data[:at]
    elif kind == "bits":
        for _ in range(int(rng.integers(1, 9))):
            data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    elif kind in ("number", "count"):
        chosen = lone if kind == "count" else fields
        start, end = chosen[rng.integers(len(chosen))]
        data[start:end] = VALUES[rng.integers(len(VALUES))]
    elif kind == "frames":
        data[: fields[0][1]] = VALUES[rng.integers(len(VALUES))]
    elif kind == "encoding":
        data = content.decode().encode(ENCODINGS[rng.integers(len(ENCODINGS))])
    elif kind == "line ends":
        data = content.replace(b"\r\n", (b"\n", b"\r", b"\n\r", b"\r\r\n", b" \r\n")[rng.integers(5)])
    elif kind == "blanks":
        data = content.replace(b" ", (b"\t", b"  ", b"\0", b"\x0b", b"")[rng.integers(5)])
    elif kind == "deleted":
        del data[span]
    elif kind == "repeated":
        data[at:at] = data[span]
    elif kind == "inserted":
        data[at:at] = rng.integers(0, 256, int(rng.integers(1, 50)), dtype=np.uint8).tobytes()
    elif kind == "swapped":
        a, b = sorted(rng.integers(len(fields), size=2))
        (a, b), (c, d) = fields[a], fields[b]
        data = content[:a] + content[c:d] + content[b:c] + content[a:b] + content[d:]
    else:  # "folder", "forbidden"
        return kind, None
    return kind, bytes(data)


KINDS = ("cut", "bits", "number", "count", "frames", "encoding", "line ends", "blanks", "deleted",
         "repeated", "inserted", "swapped", "folder", "forbidden")  # fmt: skip


def originals(folder):
    """Contents of small synthetic clips: one and two people, ghosts, lost frames."""
    synthesize.synthesize(folder, actions=(10, 58), subjects=2, replications=1)
    contents = []
    for path in sorted(folder.iterdir()):
        lines = path.read_bytes().split(b"\r\n")
        at, frames = 1, int(rng_frames(path.name))
        for _ in range(frames):
            at += 1 + 27 * int(lines[at])
        contents.append(b"\r\n".join([b"%d" % frames, *lines[1:at], b""]))
    return contents


def rng_frames(name):
    """1 to 24 frames, by name."""
    return np.random.default_rng(list(name.encode())).integers(1, 25)


def same_twice(content):
    """Whether the fast parser, if it takes the file, reads what the careful one reads."""
    fast = None if b"_" in content or not content else ntu._parse_regular(content)
    if fast is None:
        return True
    careful = ntu._parse_lines(content)
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(fast, careful, strict=True))


def check_batch(folder, kinds, jobs):
    """Convert a folder of damaged files; returns counts of (kind, what became of it)."""
    _, faults = convert(open_input([folder], jobs=jobs), folder.parent / "out")
    reported = {Path(fault.file).stem: fault.reason for fault in faults}
    converted = set()
    for part in ("train", "val"):
        data, _, names, _ = read_split(*split_files(folder.parent / "out" / "xsub", part))
        assert np.isfinite(data).all(), "a value that is not finite"
        converted.update(names)
    assert not converted & set(reported), "both converted and reported"
    assert converted | set(reported) == set(kinds), "neither converted nor reported"
    assert all(reported.values()), "no reason"
    return collections.Counter(
        (kind, "converted" if name in converted else "reported") for name, kind in kinds.items()
    )


def fuzz(files, seed, jobs, work):
    rng = np.random.default_rng(seed)
    contents = originals(work / "originals")
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
            kinds[name], content = damage(content, rng)
            path = raw / f"{name}.skeleton"
            if kinds[name] == "folder":
                path.mkdir()
                continue
            path.write_bytes(b"" if content is None else content)
            if content is None:
                path.chmod(0)
            else:
                assert same_twice(content), f"read differently: {content!r}"
        outcomes += check_batch(raw, kinds, jobs)
        shutil.rmtree(raw)
    signal.alarm(0)
    return outcomes


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "fuzz.json")
    arguments = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="fuzz-"))
    work.chmod(0o777)
    user = os.geteuid()
    if user == 0:  # who may read everything
        [*map("".encode, ENCODINGS), *in_parallel(abs, range(1000), 2)]  # load what is loaded late
        os.seteuid(65534)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    began = time.perf_counter()
    try:
        outcomes = fuzz(arguments.files, arguments.seed, arguments.jobs, work)
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
        "seconds": round(time.perf_counter() - began, 1),
        "largest_process_mib": round(peak / 1024),
        "outcomes": table,
    }
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
