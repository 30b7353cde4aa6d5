"""Turn skeleton recordings, in any form people hold them, into the arrays that `Feeder` reads. Once.

    python convert_data.py --data_path nturgb+d_skeletons              # NTU RGB+D, the raw files
    python convert_data.py --data_path nturgbd_skeletons_s001_to_s017.zip        # or zipped
    python convert_data.py --dataset ntu120 --data_path *.zip          # NTU RGB+D 120
    python convert_data.py --data_path NTU60_CS.npz                    # of other projects: .npz, .pkl,
    python convert_data.py --data_path ntu60_3danno.pkl                # or a folder of padded arrays
    python convert_data.py --dataset nw-ucla --data_path all_sqe       # Northwestern-UCLA
    python convert_data.py --dataset utd-mhad --data_path Skeleton     # UTD-MHAD
    python convert_data.py --data_path my-recordings                   # own ones, with a clips.csv

Every clip is read once. For each benchmark of the data set (xsub: unseen subjects in the test, xview:
an unseen camera, xset: unseen set-ups) the output folder gets a folder with the files that storage.py
describes; "val" is the official test part. A damaged clip is skipped and listed in skipped.csv, the
rest converts. An earlier conversion is replaced when the new one is complete, not before.
"""

import argparse
import csv
import errno
import os
import re
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from tqdm import tqdm

from skeletons.clip import MAX_BODIES, InvalidClip
from skeletons.clip_stream import Failure
from skeletons.datasets import BODY_RULES, DATASETS
from skeletons.readers import open_input
from skeletons.storage import BenchmarkWriter

MISSING_LIST = Path(__file__).parent / "lists" / "ntu_missing.txt"
WARN_SKIPPED_ABOVE = 0.01  # a larger share of skipped clips is a reason to look


def convert(source, out_folder, padded=False, strict=False):
    """Write the benchmarks of a `sources.ClipStream` below `out_folder`.

    padded  write classic padded arrays (N, C, T, V, M)
    strict  a single damaged clip is an error
    Returns (meta.json's contents of each benchmark, list of Failure). Raises InvalidClip when a
    benchmark gets no clip, or a clip is damaged and `strict`. After an error `out_folder` is as before,
    unless the error says that a benchmark could not be put in its place.
    """
    out_folder = Path(out_folder)
    for benchmark in source.benchmarks:
        if not re.fullmatch(r"\w[\w.+-]*", benchmark):
            raise ValueError(f"a benchmark called '{benchmark}' cannot be the name of a folder")
        if (out_folder / benchmark).resolve() in source.folders:
            raise ValueError(f"{out_folder / benchmark} is what is read: give another --out_folder")
    frame_shape = (source.channels, len(source.layout.joints), MAX_BODIES)
    writers, metas, faults, excluded = {}, {}, [], source.excluded
    try:
        for benchmark in source.benchmarks:
            writers[benchmark] = BenchmarkWriter(out_folder / benchmark, frame_shape)
        for item in tqdm(source.items, source.title, source.total, unit=" clips", disable=None):
            if isinstance(item, Failure):
                faults.append(item)
                continue
            excluded += not item.parts
            for benchmark, part in item.parts.items():
                writers[benchmark].add(part, item)
        for benchmark, writer in writers.items():
            meta = {
                "dataset": source.title,
                "benchmark": benchmark,
                "layout": source.layout.to_dict(),
                "classes": source.classes,
                "excluded": excluded,
                "skipped": len(faults),
            }
            metas[benchmark] = writer.finish(meta, source.padded if padded else None)
        empty = [benchmark for benchmark, meta in metas.items() if not any(meta["clips"].values())]
        if empty or not metas or (strict and faults):
            remains = f", none remains for {', '.join(empty)}" if empty else ""
            raise InvalidClip(
                f"nothing was written: {len(faults)} of {source.total} clips are damaged, {excluded} "
                f"left out{remains}\n{listing(faults, most=20)}"
            )
        written = write_faults(out_folder, faults)
        for writer in writers.values():
            writer.publish()
        os.replace(written, out_folder / "skipped.csv")
    finally:
        for writer in writers.values():
            writer.discard()
    return metas, faults


def listing(faults, most=5):
    lines = [": ".join(filter(None, (f"  {f.file}", f.where, f.reason))) for f in faults[:most]]
    return "\n".join(lines + [f"  and {len(faults) - most} more"] * (len(faults) > most))


def write_faults(folder, faults):
    """Write the list of faults under a name for the meantime; returns it."""
    path = folder / ".skipped.csv.partial"
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("file", "where", "reason"))
        table.writerows((fault.file, fault.where, fault.reason) for fault in faults)
    return path


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", choices=DATASETS, default="ntu")
    parser.add_argument("--data_path", nargs="+", metavar="PATH",
                        help="what to convert: one of the forms above, raw files and .zip also several "
                             "(default: nturgb+d_skeletons, ...)")  # fmt: skip
    parser.add_argument("--ignored_sample_path", default=MISSING_LIST,
                        help="text file of names of raw files to leave out (default: the official list "
                             "of missing skeletons)")  # fmt: skip
    parser.add_argument("--out_folder", help="where the arrays go (default: NTU-RGB-D, NW-UCLA, ...)")
    parser.add_argument("--bodies", choices=BODY_RULES, default="follow",
                        help="follow: track bodies, drop ghosts, keep the two that move most (default);"
                             " raw: the first two of each frame in the sensor's order")  # fmt: skip
    parser.add_argument("--padded", action="store_true",
                        help="write arrays (N, C, T, V, M) padded with zeros, for other people's code: "
                             "300 frames for NTU, else as many as the longest clip")  # fmt: skip
    parser.add_argument("--strict", action="store_true", help="fail if any clip is damaged")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(),
                        help="processes that read raw files (default: one a core)")  # fmt: skip
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    paths = arguments.data_path or [DATASETS[arguments.dataset].data_path]
    try:
        if not os.path.exists(arguments.ignored_sample_path):  # noqa: PTH110 (or a device)
            raise ValueError(f"--ignored_sample_path {arguments.ignored_sample_path} does not exist")
        names = Path(arguments.ignored_sample_path).read_text(encoding="utf-8").split()
        ignored = frozenset(name.removesuffix(".skeleton") for name in names)
        source = open_input(paths, arguments.dataset, ignored, arguments.bodies, arguments.jobs)
        out_folder = Path(arguments.out_folder or source.out_folder)
        metas, faults = convert(source, out_folder, arguments.padded, arguments.strict)
    except KeyboardInterrupt:
        raise SystemExit("\nconvert_data.py: stopped; earlier data is as it was") from None
    except BrokenProcessPool as error:
        raise SystemExit(
            "convert_data.py: a process was killed, perhaps for memory: try --jobs 1"
        ) from error
    except (ValueError, OSError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", None)):
            error = f"no room for {out_folder} ({error.strerror}); earlier data is as it was"
        raise SystemExit(f"convert_data.py: {error}") from None
    for benchmark, meta in metas.items():
        clips = meta["clips"]
        none = "" if all(clips.values()) else " (WARNING: a part is empty)"
        print(f"{out_folder / benchmark}: {clips['train']} training clips, {clips['val']} test clips, "
              f"{len(meta['classes'])} classes{none}")  # fmt: skip
    if meta["excluded"]:
        print(f"left out, as not in the data set or listed as missing: {meta['excluded']}")
    if faults:
        share = len(faults) / source.total
        loud = "WARNING, the data may be incomplete: " if share > WARN_SKIPPED_ABOVE else ""
        print(f"{loud}{len(faults)} of {source.total} clips ({share:.2%}) skipped, listed in "
              f"{out_folder / 'skipped.csv'}\n{listing(faults)}")  # fmt: skip


if __name__ == "__main__":
    main()
