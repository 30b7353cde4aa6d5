"""Detect the input format; read the raw files of published data sets, and .zip files of them.

    a folder of raw files           or .zip files of them, read without unpacking, by several processes
    arrays                          {train,val}_data.npy, padded (ST-GCN, 2s-AGCN) or packed (our own)
    .npz                            x_train, y_train, x_test, y_test (CTR-GCN and related projects)
    .pkl                            split and annotations (PYSKL, MMAction2)
    a folder with clips.csv         custom recordings; see docs/data.md

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
from pathlib import Path

from skeletons.clip import Clip, InvalidClip
from skeletons.clip_stream import ClipStream, Failure, clean_clips, refuse_duplicates
from skeletons.custom import load_custom_clip, read_custom
from skeletons.datasets import DATASETS, DatasetSpec
from skeletons.other_projects import open_member, read_annotations, read_arrays, read_npz
from skeletons.parallel import in_parallel
from skeletons.storage import read_array

# Bytes. The longest NTU clip has 2 MB, with 4 bodies; a larger file would only fill the memory.
MAX_FILE_BYTES = 16 << 20
ARRAY_NAMES = ("_data.npy", "_data_joint.npy")
SINGLE_FILES = {".npz": read_npz, ".pkl": read_annotations, ".pickle": read_annotations}


def open_input(
    paths: Sequence[str | Path],
    dataset_name: str = "ntu",
    ignored: AbstractSet[str] = frozenset(),
    bodies: str = "track",
    jobs: int = 1,
) -> ClipStream:
    """The recordings in `paths`, in whatever format -> ClipStream.

    ignored  names of clips to exclude, of raw files
    bodies   one of BODY_RULES, for raw NTU files
    jobs     processes that read raw files
    Raises FileNotFoundError or ValueError, which say what was expected.
    """
    dataset = DATASETS[dataset_name]
    paths = [Path(path) for path in paths]
    paths = [path.parent if path.name == "clips.csv" else path for path in paths]
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist\n{usage_hint(dataset)}")
        is_custom = (path / "clips.csv").is_file()
        if is_custom or path.suffix in SINGLE_FILES:
            if len(paths) > 1:
                raise ValueError(f"{path} cannot be converted together with other data\n"
                                 "give one --data_path, then the other")  # fmt: skip
            return read_custom(path) if is_custom else SINGLE_FILES[path.suffix](path, dataset)
    files = list_files(paths, dataset.suffix)
    arrays = [Path(file) for file in files if file.endswith(ARRAY_NAMES)]
    converted = {path.parent for path in arrays}  # (a meta.json there is not a recording)
    raw = [f for f in files if f.endswith(dataset.suffix) and Path(f).parent not in converted]
    zips = [file for file in files if file.endswith(".zip") and Path(file).is_file()]
    if raw or zips:
        return read_raw(raw, zips, dataset_name, ignored, bodies, jobs)
    if arrays:
        return read_arrays(arrays, dataset)
    raise FileNotFoundError(f"no {dataset.suffix} files in {paths[0]}\n{usage_hint(dataset)}")


def read_clips(
    path: str | Path, dataset_name: str = "ntu", bodies: str = "track"
) -> Iterator[Clip | Failure]:
    """The clips in a file or folder of any format, for recognition.

    Also reads a raw file of any data set under any name, and a .npy file of one clip, (T, V, C) or
    (M, T, V, C), or of several, (N, C, T, V, M); the labels of these are 0.
    """
    path = Path(path)
    raw = {dataset.suffix: dataset for dataset in DATASETS.values()}
    if path.suffix in raw and path.exists():
        try:
            parsed = raw[path.suffix].parse(read_content("", str(path)), bodies)
            yield Clip(path.stem, 0, parsed.data, dropped=parsed.dropped)
        except Exception as error:
            yield Failure.from_error(str(path), error)
    elif path.suffix == ".npy" and path.exists() and not path.name.endswith(ARRAY_NAMES):
        yield from _read_npy(path)
    else:
        try:
            clips = open_input([path], dataset_name, bodies=bodies).clips
        except FileNotFoundError:
            reason = "no clips in it in a format that convert_data.py reads"
            yield Failure(str(path), "", reason if path.exists() else "there is no such file")
        except (OSError, ValueError) as error:
            yield Failure(str(path), "", str(error))
        else:
            yield from clips


def _read_npy(path: Path) -> Iterator[Clip | Failure]:
    """A .npy file of one clip or of several."""
    try:
        array = read_array(path, mmap=True)
        many = array.ndim == 5
        clips = array.swapaxes(1, 2) if many else [load_custom_clip(path)]  # (T, C, V, M) each
        if not len(clips):
            raise InvalidClip("an array of no clips")
    except (OSError, ValueError) as error:
        yield Failure(str(path), "", str(error))
        return
    names = [f"{path.stem} {i}" for i in range(len(clips))] if len(clips) > 1 else [path.stem]
    found = (
        (f"{path.parent / name}", Clip(name, 0, None), lambda clip=clip: clip)
        for name, clip in zip(names, clips, strict=True)
    )
    yield from clean_clips(found, [""], clips[0].shape[1:3])


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
            files += (name for name in folders if name.endswith(suffix))
            files = [name for name in files if not name.startswith(".")]
            for name in files:
                if not name.endswith(suffix) and not os.path.exists(f"{folder}/{name}"):  # noqa: PTH110
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
    found = [("", file) for file in files]
    for path in zips:
        found += ((path, name) for name in _list_zip(path) if name.endswith(dataset.suffix))
    entries = sorted((_stem(file), archive, file) for archive, file in found)
    if not entries:
        raise FileNotFoundError(
            f"no {dataset.suffix} files in {', '.join(zips)}\n{usage_hint(dataset)}"
        )
    wanted = [entry for entry in entries if entry[0] not in ignored]
    included = [entry for entry in wanted if dataset.contains(entry[0])]
    if not included:
        raise ValueError(
            f"all {len(entries)} {dataset.suffix} files are excluded: listed as missing, or not part "
            f"of {dataset.title}\nchoose another --dataset ({', '.join(DATASETS)})"
        )
    read = partial(_read_file, dataset_name, bodies)
    places = (display_path(archive, file) for _, archive, file in included)

    def clips() -> Iterator[Clip | Failure]:
        read_in_order = in_parallel(read, included, jobs)
        for clip in refuse_duplicates(zip(places, read_in_order, strict=True)):
            if isinstance(clip, Clip):
                clip.splits = dataset.splits(clip)
            yield clip

    return ClipStream.from_dataset(
        dataset,
        dataset.benchmarks,
        len(included),
        clips(),
        excluded=len(entries) - len(included),
        ignored=len(entries) - len(wanted),
        bodies=bodies,
    )


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
            return opened.read()
    try:
        with open_member(_open_zip(archive), file) as member:
            content = member.read(MAX_FILE_BYTES + 1)  # whatever size it declares
    except KeyError:
        raise InvalidClip("no longer in the .zip file") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise InvalidClip(f"corrupt in the .zip file: {error}") from None
    _check_size(len(content))
    return content


def _check_size(size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise InvalidClip(f"larger than {MAX_FILE_BYTES >> 20} MiB, which no clip is")


def _list_zip(path: str) -> list[str]:
    """The files in a .zip file but hidden ones, as macOS adds them."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except MemoryError:
        raise
    except Exception as error:  # a corrupt directory raises nearly anything
        raise ValueError(f"{path} is not a complete .zip file: {error}\ndownload it again") from error
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
