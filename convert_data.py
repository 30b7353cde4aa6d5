"""Convert skeleton recordings, in any of these formats, to the arrays that `Feeder` reads.

    python convert_data.py --data_path nturgb+d_skeletons              # NTU RGB+D, the raw files
    python convert_data.py --data_path nturgbd_skeletons_s001_to_s017.zip        # or zipped
    python convert_data.py --dataset ntu120 --data_path *.zip          # NTU RGB+D 120
    python convert_data.py --data_path NTU60_CS.npz                    # of other projects: .npz, .pkl,
    python convert_data.py --data_path ntu60_3danno.pkl                # or a folder of padded arrays
    python convert_data.py --dataset nw-ucla --data_path all_sqe       # Northwestern-UCLA
    python convert_data.py --dataset utd-mhad --data_path Skeleton     # UTD-MHAD
    python convert_data.py --dataset sbu --data_path SBU-raw           # SBU Kinect Interaction
    python convert_data.py --data_path my-recordings                   # custom, with a clips.csv
    python convert_data.py --dataset nw-ucla --background              # with a class of pauses
    python convert_data.py --data_path my-videos                       # LABEL/NAME.mp4, or a clips.csv

Every clip is read once. Each benchmark of the data set becomes a subfolder of the output folder (xsub:
the subjects in the test are not those in training; xview: the camera is another one; xset: the setups
are others; fold1, fold2, ...: the clips of one fold are the test, for cross_validate.py). Its files
are described in docs/data.md; "val" is the official test split. skipped.csv lists the clips that could
not be read, dropped.csv the bodies that were dropped from a clip, and why.
An earlier conversion is replaced when the new one is complete.
"""

import argparse
import csv
import errno
import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from training.environment import usable_cpus

from tqdm import tqdm

from skeletons.background import BACKGROUND, with_background
from skeletons.clip import MAX_BODIES, DroppedTrack, InvalidClip
from skeletons.clip_stream import ClipStream, Failure
from skeletons.custom import decode_text
from skeletons.datasets import BODY_RULES, DATASETS, DEFAULT_DATASET, DatasetSpec
from skeletons.output import make_console_safe
from skeletons.pose_estimation import PoseOptions
from skeletons.readers import open_input
from skeletons.storage import SPLITS, TABLES, BenchmarkWriter, read_labels, split_files
from skeletons.version import git_commit

MISSING_LIST = Path(__file__).parent / "lists" / "ntu_missing.txt"
WARN_SKIPPED_ABOVE = 0.01  # a larger fraction of skipped clips is printed as a warning
PROVENANCE = (
    "dataset", "data_path", "ignored_sample_path", "bodies", "background", "padded", "strict"
)  # fmt: skip
COLUMNS = (("file", "where", "reason"), ("clip", *DroppedTrack._fields))  # of TABLES
REMEDY = "repair these, or download or save them again, and convert again; or leave them out"
DISK_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", None)}


def convert(
    stream: ClipStream,
    out_folder: str | Path,
    padded: bool = False,
    strict: bool = False,
    arguments: dict[str, Any] | None = None,
) -> tuple[dict[str, dict[str, Any]], list[Failure]]:
    """Write the benchmarks of a stream of clips as subfolders of `out_folder`.

    padded     write classic padded arrays (N, C, T, V, M)
    strict     fail if a single clip cannot be read
    arguments  of the command, to be recorded in meta.json
    Returns (the contents of each benchmark's meta.json, the failures). Raises InvalidClip if a
    benchmark has no clips, or if `strict` and a clip fails. After an error `out_folder` is as before,
    unless the message says that a benchmark could not be replaced.
    """
    out_folder = Path(out_folder)
    check_names(stream, out_folder)
    frame_shape = (stream.channels, len(stream.layout.joints), MAX_BODIES)
    writers: dict[str, BenchmarkWriter] = {}
    metas, failures, dropped, excluded = {}, [], [], stream.excluded
    try:
        for benchmark in stream.benchmarks:
            writers[benchmark] = BenchmarkWriter(out_folder / benchmark, frame_shape)
        for clip in tqdm(stream.clips, stream.title, stream.total, unit=" clips", disable=None):
            if isinstance(clip, Failure):
                failures.append(clip)
                continue
            excluded += not clip.splits
            for benchmark, split in clip.splits.items():
                writers[benchmark].add(split, clip)
            dropped += ((clip.name, *track) for track in clip.dropped if clip.splits)
        check_clips(stream, writers, failures, excluded, strict)
        for benchmark, writer in writers.items():
            if len(set(writer.splits["train"].labels)) == 1:
                stream.notes.append(
                    f"WARNING: all training clips of {benchmark} have the same label: nothing to learn"
                )
        if failures or stream.official_counts:  # (else the author of the data left clips out)
            check_replaced(stream, writers)
        skipped = [(failure.file, failure.where, failure.reason) for failure in failures]
        background = stream.classes.index(BACKGROUND) if BACKGROUND in stream.classes else -1
        for benchmark, writer in writers.items():
            meta = {
                "dataset": stream.title,
                "benchmark": benchmark,
                "layout": stream.layout.to_dict(),
                "classes": stream.classes,
                "bodies": stream.bodies or None,
                "excluded": excluded,
                "ignored": len(stream.ignored),
                "skipped": len(failures),
                "background": {
                    split: part.labels.count(background) for split, part in writer.splits.items()
                },
                "arguments": arguments,
                "version": git_commit(),
            }
            metas[benchmark] = writer.finish(meta, stream.padded_frames if padded else None)
            for name, columns, rows in zip(TABLES, COLUMNS, (skipped, dropped), strict=True):
                write_table(writer.partial / name, columns, rows)
        for writer in writers.values():
            writer.commit()
    finally:
        for writer in writers.values():
            writer.rollback()
    return metas, failures


def check_names(stream: ClipStream, out_folder: Path) -> None:
    """Raise ValueError if a benchmark cannot be written because of its name or the input folders."""
    for benchmark in stream.benchmarks:
        if not re.fullmatch(r"\w[\w.+-]*", benchmark):
            raise ValueError(
                f"a benchmark called '{benchmark}' cannot be the name of a folder\n"
                "rename it in the input"
            )
        if (out_folder / benchmark).resolve() in stream.folders:
            raise ValueError(f"{out_folder / benchmark} is the input folder\ngive another --out_folder")


def check_clips(
    stream: ClipStream,
    writers: dict[str, BenchmarkWriter],
    failures: Sequence[Failure],
    excluded: int,
    strict: bool,
) -> None:
    """Raise InvalidClip if there are too few clips, RuntimeError if all failed unexpectedly."""
    if len(failures) == stream.total and failures and all(failure.traceback for failure in failures):
        raise RuntimeError(
            f"each of {len(failures)} clips failed with an unexpected error; "
            f"the first one, {failures[0].file}: {failures[0].reason}\n"
            "this is probably an error in the program: please report it with this message"
        ) from RuntimeError("\n" + failures[0].traceback)
    empty = [benchmark for benchmark, writer in writers.items() if not len(writer)]
    if empty or not writers or (strict and failures):
        remaining = f", none remains for {', '.join(empty)}" if empty else ""
        listing = f"{list_failures(failures, limit=20)}\n{REMEDY}" if failures else ""
        raise InvalidClip(
            f"nothing was written: {len(failures)} of {stream.total} clips cannot be read, {excluded} "
            f"are excluded{remaining}\n{listing}"
        )


def check_replaced(stream: ClipStream, writers: dict[str, BenchmarkWriter]) -> None:
    """Raise ValueError if a benchmark would be replaced by a part of itself: by fewer clips, most of
    which it has, although the user does not exclude the others."""
    for writer in writers.values():
        try:
            files = (split_files(writer.folder, split)[1] for split in SPLITS)
            earlier = {name for file in files for name in read_labels(file)[0]}
        except (OSError, ValueError):
            continue  # nothing complete is there
        names = set(writer.names)
        lost = earlier - names - stream.ignored
        if lost and len(names) < len(earlier) and 2 * len(names & earlier) > len(names):
            raise ValueError(
                f"{writer.folder} has {len(earlier)} clips, the new data only {len(names)}, without "
                f"{min(lost)}\n"
                "give all of the data, or another --dataset or --out_folder; or remove the folder first"
            )


def list_failures(failures: Sequence[Failure], limit: int = 5) -> str:
    """The first failures as text, one per line."""
    lines = [": ".join(filter(None, (f"  {failure.file}", failure.where, failure.reason)))
             for failure in failures[:limit]]  # fmt: skip
    return "\n".join(lines + [f"  and {len(failures) - limit} more"] * (len(failures) > limit))


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file in UTF-8, with bytes of a file name that are not UTF-8 as \\udcff."""
    with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        table = csv.writer(file)
        table.writerow(columns)
        table.writerows(rows)


def compare_with_official(stream: ClipStream, metas: dict[str, dict[str, Any]]) -> list[str]:
    """One sentence for each benchmark whose numbers of clips are not the official ones."""
    sentences = []
    for benchmark, official in stream.official_counts.items():
        if benchmark in metas:
            clips, background = metas[benchmark]["clips"], metas[benchmark]["background"]
            counts = tuple(clips[split] - background[split] for split in SPLITS)
            if counts != tuple(official):
                sentences.append(
                    f"{benchmark}: {counts[0]:,} of {official[0]:,} training clips and "
                    f"{counts[1]:,} of {official[1]:,} test clips of the official split"
                )
    return sentences


def read_names(path: str | Path, dataset: DatasetSpec) -> tuple[frozenset[str], list[str]]:
    """The names of clips in a text file, in whatever form -> (names, lines that contain none).

    Quotes, commas, paths, suffixes, capitals and several names in a line make no difference. Lines that
    are empty, and what follows a #, are comments.
    """
    if not os.path.exists(path) or Path(path).is_dir():  # noqa: PTH110 (or a device)
        fault = "is a folder" if Path(path).is_dir() else "does not exist"
        raise ValueError(f"--ignored_sample_path {path} {fault}\ngive a text file of names")
    try:
        text = decode_text(Path(path))
    except ValueError:
        text = Path(path).read_text(encoding="latin-1")  # names are ASCII in any encoding
    names, others = set(), []
    for line in text.replace("\0", "").splitlines():  # (UTF-16 and UTF-32 without a mark)
        content = line.partition("#")[0].strip()
        names.update(found := dataset.find_names(content))
        if content and not found:
            others.append(content)
    return frozenset(names), others


def positive(text: str) -> int:
    """A number from 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1")
    return int(text)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", choices=DATASETS,
                        help="published data set of the files; ignored for a folder with clips.csv "
                             "(default: ntu; formats of other projects: by their names)")  # fmt: skip
    parser.add_argument("--data_path", nargs="+", metavar="PATH",
                        help="recordings in one of the formats above; several raw or .zip files can be "
                             "given (default: nturgb+d_skeletons, ...)")  # fmt: skip
    parser.add_argument("--ignored_sample_path", default=MISSING_LIST, metavar="FILE",
                        help="text file with the names of raw files to exclude (default: the official "
                             "list of missing skeletons)")  # fmt: skip
    parser.add_argument("--out_folder", metavar="FOLDER",
                        help="output folder (default: NTU-RGB-D, NW-UCLA, ...; with --background: "
                             "NW-UCLA-background, ...)")  # fmt: skip
    parser.add_argument("--bodies", choices=BODY_RULES, default="track",
                        help="rule for the bodies of a raw NTU file. track: track each body through "
                             "the clip, drop spurious detections, keep the two that move most, always "
                             "including the longest track (default); sensor-order: keep the first two "
                             "of each frame")  # fmt: skip
    parser.add_argument("--background", action="store_true",
                        help=f"add a class {BACKGROUND}: synthetic pauses, each from the end of a clip "
                             "to the beginning of another one of the same subject, camera and split; "
                             "for live recognition")  # fmt: skip
    parser.add_argument("--encoding", default="", metavar="NAME",
                        help="encoding of clips.csv, such as cp1252 or gbk (default: UTF-8, or UTF-16 "
                             "where the file shows it)")  # fmt: skip
    parser.add_argument("--padded", action="store_true",
                        help="write arrays (N, C, T, V, M) padded with zeros, for code of other "
                             "projects: 300 frames for NTU, else the longest clip")  # fmt: skip
    parser.add_argument("--strict", action="store_true", help="fail if any clip cannot be read")
    parser.add_argument("--jobs", type=positive, default=usable_cpus(), metavar="N",
                        help="processes that read raw files (default: one per usable CPU)")  # fmt: skip
    PoseOptions.add_to(parser)
    return parser.parse_args(argv)


def run(options: argparse.Namespace) -> None:
    """Convert as the options say, and print a summary."""
    dataset = DATASETS[options.dataset or DEFAULT_DATASET]
    paths = options.data_path or [dataset.data_path]
    ignored, other_lines = read_names(options.ignored_sample_path, dataset)
    own_list = Path(options.ignored_sample_path) != MISSING_LIST
    if own_list and other_lines and not ignored:
        raise ValueError(
            f"{options.ignored_sample_path} contains no name of a clip of {dataset.title}, but "
            f"'{other_lines[0][:40]}'\ngive names like {dataset.name_form[1]}, or an empty file"
        )
    poses = PoseOptions.from_arguments(options)
    stream = open_input(
        paths, options.dataset, ignored, options.bodies, options.jobs, options.encoding, poses
    )
    stream = with_background(stream) if options.background else stream
    out_folder = Path(options.out_folder or stream.out_folder)
    arguments = {name: getattr(options, name) for name in PROVENANCE}
    known = (name for name, spec in DATASETS.items() if spec.title == stream.title)
    arguments |= {"dataset": next(known, None), "data_path": [str(path) for path in paths]}
    arguments |= {"ignored_sample_path": str(options.ignored_sample_path)}
    try:
        metas, failures = convert(stream, out_folder, options.padded, options.strict, arguments)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise OSError(
                f"no space left for {out_folder} ({error.strerror})\n"
                "free some, or give another --out_folder; earlier data is unchanged"
            ) from None
        raise
    for benchmark, meta in metas.items():
        clips = meta["clips"]
        warning = "" if all(clips.values()) else " (WARNING: a split is empty)"
        print(f"{out_folder / benchmark}: {clips['train']} training clips, {clips['val']} test clips, "
              f"{len(meta['classes'])} classes{warning}")  # fmt: skip
    for sentence in compare_with_official(stream, metas):
        print(sentence)
    if own_list and other_lines:
        print(f"WARNING: lines of {options.ignored_sample_path} that contain no name of a clip exclude "
              f"nothing: {len(other_lines)}, such as '{other_lines[0][:40]}'")  # fmt: skip
    if own_list and ignored and not stream.ignored:
        print(f"WARNING: no clip is excluded: none of the {len(ignored)} that are listed in "
              f"{options.ignored_sample_path} is among the raw files")  # fmt: skip
    for note in stream.notes:
        print(note)
    if meta["excluded"]:
        print(f"excluded, as not part of the data set or listed as missing: {meta['excluded']} clips")
    if failures:
        fraction = len(failures) / stream.total
        warning = "WARNING, the data may be incomplete: " if fraction > WARN_SKIPPED_ABOVE else ""
        table = out_folder / next(iter(metas)) / "skipped.csv"
        print(f"{warning}{len(failures)} of {stream.total} clips ({fraction:.2%}) skipped, listed in "
              f"{table}\n{list_failures(failures)}\n{REMEDY}")  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """The command. Expected errors end it with a message."""
    make_console_safe()
    options = parse_arguments(argv)
    try:
        run(options)
    except KeyboardInterrupt:
        raise SystemExit("\nconvert_data.py: stopped; earlier data is unchanged") from None
    except BrokenProcessPool as error:
        raise SystemExit(
            "convert_data.py: a process was killed, perhaps because the memory was full\ntry --jobs 1"
        ) from error
    except MemoryError:
        raise SystemExit(
            "convert_data.py: the memory is full; earlier data is unchanged\ntry --jobs 1"
        ) from None
    except (ValueError, OSError) as error:
        raise SystemExit(f"convert_data.py: {error}") from None


if __name__ == "__main__":
    main()
