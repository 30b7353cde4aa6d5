"""Detect the input format; read the raw files of published data sets, and .zip files of them.

    a folder of raw files           or .zip files of them, read without unpacking, by several processes
    arrays                          {train,val}_data.npy, padded (ST-GCN, 2s-AGCN) or packed (our own)
    .npz                            x_train, y_train, x_test, y_test (CTR-GCN and related projects)
    .pkl                            split and annotations (PYSKL, MMAction2)
    a folder with clips.csv         custom recordings; see docs/data.md
    a folder of videos              poses are estimated in them, see video_folder.py

`open_input` finds out which it is and returns a `ClipStream`. A corrupt file is a Failure in it. The
formats of other projects are read in other_projects.py, custom recordings in custom.py.
"""

import os
import stat
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path

from skeletons.annotations import read_annotations
from skeletons.clip import Clip, InvalidClip
from skeletons.clip_stream import ClipStream, Failure, clean_clips, drop_duplicates, find_repeated
from skeletons.custom import find_file, read_custom
from skeletons.custom_arrays import ArrayFormat, find_format, load_clip
from skeletons.datasets import DATASETS, DEFAULT_DATASET, DatasetSpec
from skeletons.other_projects import open_member, read_arrays, read_npz
from skeletons.parallel import in_parallel
from skeletons.pose_estimation import PoseOptions, open_estimator
from skeletons.safe_pickle import other_kind
from skeletons.storage import read_array
from skeletons.video import VIDEO_SUFFIXES, read_video_clip
from skeletons.video_folder import find_videos, lists_videos, read_videos

# Bytes. The longest NTU clip has 2 MB, with 4 bodies; a larger file would only fill the memory.
MAX_FILE_BYTES = 16 << 20
ARRAY_NAMES = ("_data.npy", "_data_joint.npy")
# Of files that may contain recordings and are not read when they are next to raw files.
NOT_READ = (".7z", ".gz", ".npy", ".npz", ".part", ".pickle", ".pkl", ".rar", ".tar", ".tgz")
PICTURES = (*VIDEO_SUFFIXES, ".jpg", ".png")  # next to raw files, and called as they are
SINGLE_FILES = {".npz": read_npz, ".pkl": read_annotations, ".pickle": read_annotations}


def open_input(
    paths: Sequence[str | Path],
    dataset_name: str | None = None,
    ignored: AbstractSet[str] = frozenset(),
    bodies: str = "track",
    jobs: int = 1,
    encoding: str = "",
    poses: PoseOptions | None = None,
) -> ClipStream:
    """The recordings in `paths`, in whatever format -> ClipStream.

    dataset_name  one of DATASETS. Without it, raw files are those of NTU RGB+D, and data of other
             projects is if the names of its clips say so
    ignored  names of clips to exclude, of raw files
    bodies   one of BODY_RULES, for raw NTU files
    jobs     processes that read raw files
    encoding of a clips.csv ("": UTF-8, or UTF-16)
    poses    how poses in videos are estimated
    Raises FileNotFoundError or ValueError, which say what was expected.
    """
    named = DATASETS[dataset_name] if dataset_name else None
    dataset = named or DATASETS[DEFAULT_DATASET]
    paths = [Path(path) for path in paths]
    paths = [path.parent if path.name.lower() == "clips.csv" else path for path in paths]
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist\n{usage_hint(dataset)}")
        is_custom = find_file(path, "clips.csv").is_file()
        suffix = path.suffix.lower()
        if is_custom or suffix in SINGLE_FILES:
            if len(paths) > 1:
                raise ValueError(f"{path} cannot be converted together with other data\n"
                                 "give one --data_path, then the other")  # fmt: skip
            if is_custom and lists_videos(path, encoding):
                return read_videos(path, encoding, poses)
            return read_custom(path, encoding) if is_custom else SINGLE_FILES[suffix](path, named)
    files, raw, zips, arrays = find_recordings(paths, dataset)
    if raw or zips:
        stream = read_raw(raw, zips, dataset_name or DEFAULT_DATASET, ignored, bodies, jobs)
        used = {*raw, *zips}
        unused = [path for path in paths if not any(file.startswith(str(path)) for file in used)]
        stream.notes += [f"WARNING: no {dataset.suffix} files in {path}" for path in unused]
        stream.notes += _not_read([file for file in files if file not in used], dataset)
        return stream
    if arrays:
        return read_arrays(arrays, named)
    if videos := [file for file in files if file.lower().endswith(VIDEO_SUFFIXES)]:
        if len(paths) > 1 or not paths[0].is_dir():
            raise ValueError(f"{videos[0]} is a video\ngive one folder of videos, LABEL/NAME.mp4")
        return read_videos(paths[0], encoding, poses)
    tables = [Path(file) for file in files if Path(file).name.lower() == "clips.csv"]
    hint = f"give {tables[0].parent}, which has a clips.csv" if tables else usage_hint(dataset)
    raise FileNotFoundError(
        "\n".join([f"no {dataset.suffix} files in {paths[0]}", *_not_read(files, dataset), hint])
    )


def find_recordings(
    paths: Sequence[Path], dataset: DatasetSpec
) -> tuple[list[str], list[str], list[str], list[Path]]:
    """All files in and below `paths`, and those of them that are raw files, .zip files, arrays."""
    files = list_files(paths, dataset.suffix)
    arrays = [Path(file) for file in files if file.endswith(ARRAY_NAMES)]
    converted = {path.parent for path in arrays}  # (a meta.json there is not a recording)
    raw = [f for f in files if dataset.is_raw(f)
           and (Path(f).parent not in converted or dataset.find_name(f))]  # fmt: skip
    zips = [file for file in files if file.lower().endswith(".zip") and Path(file).is_file()]
    return files, raw, zips, arrays


def find_unlisted_videos(path: Path, dataset: DatasetSpec) -> list[Path]:
    """The videos in and below a folder that has neither a clips.csv nor other recordings."""
    if not path.is_dir() or find_file(path, "clips.csv").is_file():
        return []
    videos = list(find_videos(path).values())
    return [] if videos and any(find_recordings([path], dataset)[1:]) else videos


def read_clips(
    path: str | Path,
    dataset_name: str | None = None,
    bodies: str = "track",
    form: ArrayFormat | None = None,
    poses: PoseOptions | None = None,
) -> Iterator[Clip | Failure]:
    """The clips in a file or folder of any format, for recognition.

    Also reads a raw file of any data set under any name, and a .npy file of one clip, (T, V, C) or
    (M, T, V, C), or of several, (N, C, T, V, M), or in another order of these axes, and a folder of
    videos without a clips.csv; the labels of these are 0.

    form   of a .npy file, which may have scores, too, and of the bodies in a video (None: that of the
           data set)
    poses  how those in videos are estimated; a video is a VideoClip
    """
    path = Path(path)
    raw = {dataset.suffix: dataset for dataset in DATASETS.values()}
    raw[".txt"] = DATASETS[dataset_name or DEFAULT_DATASET]
    name = path.name.lower()
    suffix = next(filter(name.endswith, raw), path.suffix.lower())
    if suffix in raw and path.exists():
        try:
            parsed = raw[suffix].parse(read_content("", str(path)), bodies)
            yield Clip(path.stem, 0, parsed.data, dropped=parsed.dropped)
        except Exception as error:
            yield Failure.from_error(str(path), error)
    elif suffix in VIDEO_SUFFIXES and path.exists():
        poses = poses or PoseOptions()
        try:
            layout = form.layout if form else None
            yield read_video_clip(path, open_estimator(poses), poses.max_fps, layout)
        except Exception as error:
            is_whole = isinstance(error, ValueError) and not isinstance(error, InvalidClip)
            yield _failure(path, error) if is_whole else Failure.from_error(str(path), error)
    elif suffix == ".npy" and path.exists() and not path.name.endswith(ARRAY_NAMES):
        dataset = DATASETS[dataset_name or DEFAULT_DATASET]
        yield from _read_npy(path, form or ArrayFormat(dataset.layout, 3))
    else:
        try:
            if SINGLE_FILES.get(suffix) is read_annotations and path.exists():
                named = DATASETS[dataset_name] if dataset_name else None
                clips = read_annotations(path, named, need_split=False).clips
            elif videos := find_unlisted_videos(path, DATASETS[dataset_name or DEFAULT_DATASET]):
                read = (read_clips(video, dataset_name, bodies, form, poses) for video in videos)
                clips = chain.from_iterable(read)
            else:
                clips = open_input([path], dataset_name, bodies=bodies, poses=poses).clips
        except FileNotFoundError:
            reason = "no clips in it in a format that convert_data.py reads"
            yield Failure(str(path), "", reason if path.exists() else "there is no such file")
        except (OSError, ValueError) as error:
            yield _failure(path, error)
        else:
            yield from clips


def _failure(path: Path, error: Exception) -> Failure:
    """The failure of a whole file, which its message may already name."""
    return Failure("" if str(path) in str(error).partition("\n")[0] else str(path), "", str(error))


def _read_npy(path: Path, form: ArrayFormat) -> Iterator[Clip | Failure]:
    """A .npy file of one clip or of several."""
    try:
        array = read_array(path, mmap=True)
        if not array.size:
            raise InvalidClip("an array of no clips" if array.ndim == 5 else "no body in any frame")
        axes, form = find_format(array, form)
        clips = array if array.ndim == 5 else [array]
    except (OSError, ValueError) as error:
        yield _failure(path, error)
        return
    numbers = [f" {i}" for i in range(len(clips))] if len(clips) > 1 else [""]
    found = (
        (
            f"{path}{number}",
            Clip(path.stem + number, 0, None),
            partial(load_clip, clip, form, axes.strip("N")),
        )
        for number, clip in zip(numbers, clips, strict=True)
    )
    yield from clean_clips(found, [""], (form.channels, len(form.layout.joints)))


def usage_hint(dataset: DatasetSpec) -> str:
    """What can be given as --data_path."""
    return (
        f"give as --data_path a folder of raw {dataset.suffix} files of {dataset.title}, .zip files of "
        "them, data of another project (a folder of *_data.npy, a .npz, a .pkl), or a folder of custom "
        f"recordings with a clips.csv; or choose another --dataset ({', '.join(DATASETS)})"
    )


def list_files(paths: Sequence[Path], suffix: str) -> list[str]:
    """All files in and below `paths`, and folders with the suffix of raw files in their names.

    Links to folders are followed, each folder is read once, hidden files and folders are skipped. A
    broken link may stand for many files, so it raises FileNotFoundError. (A raw file that is a broken
    link is a failure when it is read.)
    """

    def stop(error: OSError) -> None:
        raise error

    found, visited = [], set()
    for path in paths:
        if not path.is_dir():
            found.append(str(path))
            continue
        for folder, folders, files in os.walk(path, onerror=stop, followlinks=True):
            real = os.path.realpath(folder)
            if real in visited:  # by another link, perhaps in a loop
                folders.clear()
                continue
            visited.add(real)
            folders[:] = [name for name in folders if not name.startswith(".")]
            files += (name for name in folders if name.lower().endswith(suffix))
            files = [name for name in files if not name.startswith(".")]
            for name in files:
                if not name.lower().endswith(suffix) and not os.path.exists(f"{folder}/{name}"):  # noqa: PTH110
                    raise FileNotFoundError(
                        f"{folder}/{name} is a broken link, or not accessible\nrepair or remove it"
                    )
            found += (f"{folder}/{name}" for name in files)
    return list(dict.fromkeys(found))


# --- Raw files ----------------------------------------------------------------------------------------


def read_raw(
    files: Sequence[str],
    zips: Sequence[str],
    dataset_name: str,
    ignored: AbstractSet[str],
    bodies: str,
    jobs: int,
) -> ClipStream:
    """Raw files of a data set, one clip each, in folders and in .zip files."""
    dataset = DATASETS[dataset_name]
    found, notes = [("", file) for file in files], []
    for path in zips:
        names = _list_zip(path)
        found += ((path, name) for name in names if dataset.is_raw(name))
        others = [display_path(path, name) for name in names if not dataset.is_raw(name)]
        notes += _not_read(others, dataset, (".zip", "clips.csv", *NOT_READ))
    # (Of files with the same name, a copy "S... (1).skeleton" comes after the original.)
    entries = sorted(
        ((dataset.find_name(file) or _stem(file), archive, file) for archive, file in found),
        key=lambda entry: (*entry[:2], _stem(entry[2]) != entry[0], entry[2]),
    )
    if not entries:
        raise FileNotFoundError(
            "\n".join([f"no {dataset.suffix} files in {', '.join(zips)}", *notes, usage_hint(dataset)])
        )
    unused = set(zips).difference(archive for _, archive, _ in entries)
    notes += [f"WARNING: no {dataset.suffix} files in {path}" for path in sorted(unused)]
    wanted = [entry for entry in entries if entry[0] not in ignored]
    included = [entry for entry in wanted if dataset.contains(entry[0])]
    if not included:
        raise ValueError(
            f"all {len(entries)} {dataset.suffix} files are excluded: listed as missing, or not part "
            f"of {dataset.title}\nchoose another --dataset ({', '.join(DATASETS)})"
        )
    if foreign := len(wanted) - len(included):
        notes.append(f"{foreign} files are not clips of {dataset.title}: if they should be converted, "
                     "give another --dataset")  # fmt: skip
    read = partial(_read_file, dataset_name, bodies)
    places = (display_path(archive, file) for _, archive, file in included)
    repeated = find_repeated(name for name, *_ in included)

    def clips() -> Iterator[Clip | Failure]:
        read_in_order = zip(places, in_parallel(read, included, jobs), strict=True)
        for clip in drop_duplicates(read_in_order, repeated, notes):
            if isinstance(clip, Clip):
                clip.splits = dataset.splits(clip)
            yield clip

    return ClipStream.from_dataset(
        dataset,
        dataset.benchmarks,
        len(included),
        clips(),
        excluded=len(entries) - len(included),
        ignored=frozenset(entry[0] for entry in entries) & ignored,
        bodies=bodies,
        notes=notes,
    )


def _not_read(
    files: Sequence[str], dataset: DatasetSpec, suffixes: tuple[str, ...] = NOT_READ
) -> list[str]:
    """Notes on the files that may contain recordings and are not read, if there are any."""
    unread = {
        "unpack archives, and convert other data alone": [
            file for file in files if file.lower().endswith(suffixes)
        ],
        f"they are called as clips are; rename them to *{dataset.suffix} if they are raw files": [
            file for file in files
            if dataset.find_name(file) and not file.lower().endswith((*suffixes, *PICTURES))
        ],
    }  # fmt: skip
    more = {
        remedy: f" and {len(others) - 1} more" * (len(others) > 1) for remedy, others in unread.items()
    }
    return [f"WARNING: not read: {min(others)}{more[remedy]}; {remedy}"
            for remedy, others in unread.items() if others]  # fmt: skip


def _stem(file: str) -> str:
    """A clip's name. (pathlib would take seconds for all files of NTU.)"""
    return file.replace("\\", "/").rpartition("/")[2].rpartition(".")[0]


def display_path(archive: str, file: str) -> str:
    """How messages name a file, or a member of an archive."""
    return f"{archive}/{file}" if archive else file


def _read_file(dataset_name: str, bodies: str, entry: tuple[str, str, str]) -> Clip | Failure:
    """One raw file; runs in the worker processes."""
    name, archive, file = entry
    try:
        return DATASETS[dataset_name].read(name, read_content(archive, file), bodies)
    except Exception as error:
        return Failure.from_error(display_path(archive, file), error)


def read_content(archive: str, file: str) -> bytes:
    """The bytes of a file (archive "") or of a member of a .zip file. Raises InvalidClip, OSError."""
    if not archive:
        status = os.stat(file)  # noqa: PTH116 (this is faster than pathlib, and called often)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidClip("not a file, but a folder or a device")
        _check_size(status.st_size)
        with open(file, "rb", buffering=0) as opened:
            return _decode(opened.read())
    try:
        with open_member(_open_zip(archive), file) as member:
            content = member.read(MAX_FILE_BYTES + 1)  # whatever size it declares
    except KeyError:
        raise InvalidClip("no longer in the .zip file") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise InvalidClip(f"corrupt in the .zip file: {error}") from None
    _check_size(len(content))
    return _decode(content)


def _decode(content: bytes) -> bytes:
    """A raw file without the byte order mark of an editor, and in ASCII if it is UTF-16. Raises
    InvalidClip if it is not a recording at all."""
    start = content.lstrip()[:32]
    if kind := other_kind(start):
        raise InvalidClip("; ".join(kind) if start else "empty")
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        content = content.decode("utf-16", "replace").encode()
    return content.removeprefix(b"\xef\xbb\xbf")


def _check_size(size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise InvalidClip(f"larger than {MAX_FILE_BYTES >> 20} MiB, which no clip is")


def _list_zip(path: str) -> list[str]:
    """The files in a .zip file but hidden ones, as macOS adds them."""
    try:
        with zipfile.ZipFile(path) as archive:
            names, encrypted = archive.namelist(), [x for x in archive.infolist() if x.flag_bits & 1]
    except MemoryError:
        raise
    except Exception as error:  # a corrupt directory raises nearly anything
        with open(path, "rb") as file:
            fault, remedy = other_kind(file.read(32)) or (str(error), "download it again")
        raise ValueError(f"{path} is not a complete .zip file: {fault}\n{remedy}") from error
    if encrypted:
        raise ValueError(f"{path} is encrypted\nunpack it with its password, and give the folder")
    parts = ((name, name.replace("\\", "/").split("/")) for name in names)
    return [name for name, parts in parts
            if not any(part.startswith(".") and part not in (".", "..") for part in parts)]  # fmt: skip


def _open_zip(path: str) -> zipfile.ZipFile:
    """An open .zip file, used again while it is the same file and the same process. (A forked process
    must not share its parent's position in the file.)"""
    status = os.stat(path)  # noqa: PTH116
    return _cached_zip(path, os.getpid(), status.st_ino, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=8)
def _cached_zip(path: str, *identity: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)
