"""A folder of videos, as its clips.csv or LABEL/NAME.mp4 say, to poses, which are custom recordings."""

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from skeletons.clip import InvalidClip
from skeletons.clip_stream import ClipStream, Failure
from skeletons.custom import find_file, open_recordings, read_table
from skeletons.output import write_partial
from skeletons.pose_estimation import PoseEstimator, PoseOptions, open_estimator
from skeletons.video import POSE_AXES, VIDEO_SUFFIXES, cached_poses, import_av

TEST_FRACTION = 4  # one clip of so many is a test clip, where the user says nothing
WARN_FOUND_BELOW = 0.5  # a smaller fraction of frames with a body is printed as a warning


def find_videos(folder: Path) -> dict[str, Path]:
    """Name (its path from the folder, with /) -> path of each video in and below a folder, in the order
    of their names. Hidden files and folders are left out."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in files
                  if name.lower().endswith(VIDEO_SUFFIXES) and not name.startswith(".")]  # fmt: skip
    return dict(sorted((path.relative_to(folder).as_posix(), path) for path in found))


def lists_videos(folder: Path, encoding: str = "") -> bool:
    """Whether the clips.csv of a folder names videos, not arrays. ValueError if it names both."""
    videos = find_videos(folder)
    if not videos:
        return False
    path = find_file(folder, "clips.csv")
    kinds: dict[bool, str] = {}
    for line, row in read_table(path, encoding)[0]:
        is_array = (folder / f"{row['name']}.npy").is_file() or (folder / row["name"]).suffix == ".npy"
        if is_array or match_video(row["name"], videos):
            kinds.setdefault(is_array, f"line {line}: {row['name']}")
    if len(kinds) == 2:
        raise ValueError(f"{path} lists videos ({kinds[False]}) and arrays ({kinds[True]})\n"
                         "put these in two folders, and convert each")  # fmt: skip
    return False in kinds


def match_video(name: str, videos: Mapping[str, Path]) -> list[str]:
    """The names of the videos that a row of clips.csv can mean, by its name with or without suffix."""
    name = name.replace("\\", "/").removeprefix("./")
    stems = [video for video in videos if video.rpartition(".")[0] == name]
    return [name] if name in videos else stems


def read_videos(folder: Path, encoding: str = "", options: PoseOptions | None = None) -> ClipStream:
    """A folder of videos, whose poses are estimated and kept in the folder NAME-poses of the current
    folder. Where there is no clips.csv, one is written: the labels are the names of the subfolders.

    Raises ValueError, OSError for all that concerns more than one video.
    """
    options = options or PoseOptions()
    import_av()
    estimator = open_estimator(options)
    path, videos, notes = find_file(folder, "clips.csv"), find_videos(folder), []
    if not path.is_file():
        notes.append(write_clips_table(path, list(videos)))
    rows, table_notes = read_table(path, encoding)
    rows = [(line, row | {"name": choose_video(path, line, row["name"], videos), "axes": POSE_AXES})
            for line, row in rows]  # fmt: skip
    if unlisted := set(videos).difference(row["name"] for _, row in rows):
        notes.append(f"WARNING: {len(unlisted)} videos are not in {path}, such as {min(unlisted)}")
    poses = Path(f"{folder.absolute().name}-poses")
    failures = estimate_all(rows, videos, poses, estimator, options.max_fps, notes)
    if len(failures) == len(rows):
        failure = next(iter(failures.values()))
        raise ValueError(f"{folder}: none of the {len(rows)} videos can be used\n"
                         f"for example {failure.file}: {failure.reason}")  # fmt: skip
    stream = open_recordings(path, rows, table_notes + notes, poses, failures)
    return replace(stream, folders=[folder.resolve(), poses.resolve()])


def choose_video(path: Path, line: int, name: str, videos: Mapping[str, Path]) -> str:
    """The video that a row of the clips.csv `path` names; the name itself, with /, if there is no such
    video."""
    matches = match_video(name, videos)
    if len(matches) > 1:
        raise ValueError(f"{path}, line {line}: {name} can be {' or '.join(matches)}\n"
                         "write the name with its suffix")  # fmt: skip
    return matches[0] if matches else name.replace("\\", "/")  # as `open_recordings` names it


# --- clips.csv ----------------------------------------------------------------------------------------


def default_splits(count: int) -> list[str]:
    """The splits of the clips of one label, in order: the last quarter, at least one, are test clips.
    (The last ones: neighbours are recorded under the same conditions. A single clip is training.)"""
    tested = max(1, round(count / TEST_FRACTION)) if count > 1 else 0
    return ["train"] * (count - tested) + ["val"] * tested


def write_clips_table(path: Path, names: Sequence[str]) -> str:
    """Write a clips.csv for videos LABEL/NAME -> a sentence for the summary. ValueError for other
    names, OSError if it cannot be written."""
    hint = f"put each video into a folder named by its label, or write {path}: name,label,split"
    labels: dict[str, list[str]] = {}
    for name in names:
        parts = name.split("/")
        if len(parts) != 2:
            fault = (
                "is in no folder that names its label" if len(parts) < 2 else "is in several folders"
            )
            raise ValueError(f"{path.parent / name} {fault}\n{hint}")
        labels.setdefault(parts[0], []).append(name)
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(("name", "label", "split", "subject"))
    for label, clips in labels.items():
        for name, split in zip(clips, default_splits(len(clips)), strict=True):
            writer.writerow((name, label, split, ""))
    try:
        write_partial(path, table.getvalue().encode("utf-8-sig")).replace(path)
    except UnicodeEncodeError as error:
        name = error.object[max(0, error.start - 40) : error.end + 40]
        raise ValueError(f"{path.parent}: {name!r} is a name that is not UTF-8\nrename it") from None
    except OSError as error:
        raise OSError(
            f"{path} cannot be written: {error.strerror}\n"
            "copy the videos to a folder in which files can be written"
        ) from error
    return (
        f"WARNING: the videos had no clips.csv; {path} is written: the label is the folder, and the "
        "last quarter of each label is the test. The same person can be in training and test: fill in "
        "the columns split and subject, and convert again"
    )


# --- Poses --------------------------------------------------------------------------------------------


def estimate_all(
    rows: Sequence[tuple[int, dict[str, str]]],
    videos: Mapping[str, Path],
    poses: Path,
    estimator: PoseEstimator,
    max_fps: float,
    notes: list[str],
) -> dict[str, Failure]:
    """Make sure that the folder `poses` has those of all rows -> name -> failure of those that cannot
    be read. Adds to the notes what was done."""
    write_layout(poses, estimator)
    failures: dict[str, Failure] = {}
    frames = found = new = 0
    rarely = []
    for _, row in tqdm(rows, "poses", unit=" videos", disable=None):
        name = row["name"]
        try:
            if name not in videos:
                raise InvalidClip("there is no such video")
            info, estimated = cached_poses(videos[name], poses / f"{name}.npy", estimator, max_fps)
            if not info["frames_with_body"]:
                raise InvalidClip(f"nobody is found in any of its {info['frames']} frames")
        except Exception as error:
            failures[name] = video_failure(videos.get(name, Path(name)), error, poses)
            continue
        new += estimated
        frames, found = frames + info["frames"], found + info["frames_with_body"]
        if info["frames_with_body"] < WARN_FOUND_BELOW * info["frames"]:
            rarely.append(name)
    if frames:
        notes.append(f"poses are in {poses}: {len(rows) - len(failures)} videos ({new} estimated now), "
                     f"{frames:,} frames, a body in {found / frames:.1%} of them")  # fmt: skip
    if rarely:
        notes.append(f"WARNING: {len(rarely)} videos show a body in less than half of their frames, "
                     f"such as {rarely[0]}")  # fmt: skip
    return failures


def video_failure(video: Path, error: Exception, poses: Path) -> Failure:
    """The failure of one video. An error that concerns all of them is raised again: of the estimator,
    or of the folder `poses`."""
    if isinstance(error, OSError) and error.filename != str(video):
        raise OSError(
            f"{poses} cannot be written: {error.strerror}\n"
            "make room, or run this in another folder; the poses so far are kept"
        ) from error
    if isinstance(error, ValueError) and not isinstance(error, InvalidClip):
        raise error
    return Failure.from_error(str(video), error)


def write_layout(folder: Path, estimator: PoseEstimator) -> None:
    """The layout.json of a folder of poses. Raises OSError if it cannot be written."""
    channels = ["x", "y", "z"][: estimator.channels] + ["score"]
    content = json.dumps({"name": estimator.layout.name, "channels": channels}) + "\n"
    path = folder / "layout.json"
    with suppress(OSError):
        if path.read_text(encoding="utf-8") == content:
            return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_partial(path, content.encode()).replace(path)
    except OSError as error:
        raise OSError(
            f"{path} cannot be written: {error.strerror}\nrun this in another folder"
        ) from error
