"""`ClipStream`, which every reader returns, and the clean-up of clips from other projects."""

import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from skeletons.clip import MAX_BODIES, MAX_CLIP_BYTES, Clip, InvalidClip, validate_coordinates
from skeletons.datasets import DatasetSpec
from skeletons.layout import Layout

SPLIT_NAMES = {"train": "train", "val": "val", "test": "val"}


@dataclass
class Failure:
    """A clip that could not be converted.

    file       the file, or which part of it
    where      in the file ("line 12"), if known
    traceback  of an error that no format expects, which may be an error of this program; else ""
    """

    file: str
    where: str
    reason: str
    traceback: str = ""

    @classmethod
    def from_error(cls, file: str, error: Exception) -> "Failure":
        """The failure that an exception stands for. MemoryError is raised again: it says nothing about
        the file."""
        if isinstance(error, MemoryError):
            raise error
        if isinstance(error, InvalidClip):
            return cls(file, error.where, error.reason)
        if isinstance(error, OSError) and error.strerror:
            return cls(file, "", error.strerror)
        text = "".join(traceback.format_exception(error))
        return cls(file, "", f"unexpected {type(error).__name__}: {str(error)[:200]}", text)


@dataclass
class ClipStream:
    """The input of a conversion.

    benchmarks     their names; every clip says to which split of which benchmark it belongs
    total          clips and failures in the stream
    clips          of which each can be kept: its data is never overwritten
    channels       C of the clips
    excluded       clips that are not read: not part of the data set, or listed by the user
    ignored        names of those of them that the user listed
    notes          sentences for the summary; complete when all clips are read
    bodies         the rule by which the bodies were chosen, one of BODY_RULES, or "" if unknown
    padded_frames, official_counts   as in DatasetSpec
    out_folder     where the benchmarks go if the user does not say
    folders        that are read, and so must not be replaced by the output
    """

    title: str
    layout: Layout
    classes: list[str]
    benchmarks: list[str]
    total: int
    clips: Iterator[Clip | Failure]
    channels: int = 3
    excluded: int = 0
    ignored: AbstractSet[str] = frozenset()
    notes: list[str] = field(default_factory=list)
    bodies: str = ""
    padded_frames: int = 0
    official_counts: dict[str, tuple[int, int]] = field(default_factory=dict)
    out_folder: str = ""
    folders: Sequence[Path] = ()

    @classmethod
    def from_dataset(
        cls,
        dataset: DatasetSpec,
        benchmarks: Iterable[str],
        total: int,
        clips: Iterator[Clip | Failure],
        **others: object,
    ) -> "ClipStream":
        """A stream of clips of a published data set; `others` override its fields."""
        names = ("title", "layout", "classes", "padded_frames", "official_counts", "out_folder")
        fields = {name: getattr(dataset, name) for name in names}
        fields |= {"benchmarks": list(benchmarks), "total": total, "clips": clips}
        return cls(**fields | others)


def find_repeated(names: Iterable[str]) -> set[str]:
    """The names that are there more than once."""
    return {name for name, count in Counter(names).items() if count > 1}


def fingerprint(data: np.ndarray) -> tuple[tuple[int, ...], int]:
    """Of equal arrays the same, of others almost certainly another one."""
    return data.shape, zlib.crc32(np.ascontiguousarray(data))


def drop_duplicates(
    clips: Iterable[tuple[str, Clip | Failure]],
    repeated: AbstractSet[str],
    notes: list[str],
    unnamed: AbstractSet[str] = frozenset(),
) -> Iterator[Clip | Failure]:
    """Pairs (where it is from, clip or failure) -> clips and failures. Of clips with the same name, in
    the same benchmarks, equal ones are counted once, as a note says; others are failures.

    repeated  the names that several clips have
    notes     a list for the summary
    unnamed   those of them that do not identify a clip: other data is another clip
    """
    known: dict[tuple[str, ...], dict[object, tuple[str, int]]] = {}
    copies, alike = 0, []
    for file, clip in clips:
        if isinstance(clip, Clip) and clip.name in repeated:
            same_name = known.setdefault((clip.name, *clip.splits), {})
            content = fingerprint(clip.data)
            other, label = same_name.get(content) or next(iter(same_name.values()), ("", -1))
            if content in same_name and label == clip.label:
                copies += 1
                continue
            if content in same_name:
                yield Failure(file, "", f"another label than the same clip, {other}")
                continue
            if same_name and clip.name not in unnamed:
                yield Failure(file, "", f"other data than the clip of the same name, {other}")
                continue
            if same_name:
                alike.append(clip.name)
            same_name[content] = (file, clip.label)
        yield clip
    if copies:
        notes.append(f"{copies} clips are in the input twice, with the same data: counted once")
    if alike:
        notes.append(
            f"WARNING: {len(alike)} clips have the name of an earlier one, such as '{alike[0]}', and "
            "other data; they are kept, but give each clip its own name"
        )


# --- Clips that others have preprocessed --------------------------------------------------------------


def clean_clips(
    found: Iterable[tuple[str, Clip, Callable[[], np.ndarray]]],
    classes: Sequence[str],
    frame_shape: tuple[int, int],
    repeated: AbstractSet[str] = frozenset(),
    notes: list[str] | None = None,
    unnamed: AbstractSet[str] = frozenset(),
) -> Iterator[Clip | Failure]:
    """Preprocessed clips -> a stream of Clip and Failure, without duplicates.

    found        (where it is from, Clip without data, function that returns the data (T, C, V, M) and
                 may complete the clip)
    frame_shape  (C, V)
    repeated, notes, unnamed   as for `drop_duplicates`
    """
    clips = _clean_each(found, classes, frame_shape)
    return drop_duplicates(clips, repeated, [] if notes is None else notes, unnamed)


def _clean_each(
    found: Iterable[tuple[str, Clip, Callable[[], np.ndarray]]],
    classes: Sequence[str],
    frame_shape: tuple[int, int],
) -> Iterator[tuple[str, Clip | Failure]]:
    """As `clean_clips`, with duplicates; pairs (where it is from, clip or failure)."""
    for file, clip, load in found:
        try:
            data = load()
            if data.ndim != 4:
                raise InvalidClip(f"an array of {data.ndim} dimensions")
            if data.shape[1:3] != frame_shape:
                text = "{1} joints with {0} coordinates each"
                actual, expected = text.format(*data.shape[1:3]), text.format(*frame_shape)
                raise InvalidClip(f"{actual}; the data set has {expected}")
            if not 0 <= clip.label < len(classes):
                raise InvalidClip(f"its label is not one of 0-{len(classes) - 1}")
            if data.size * 4 > MAX_CLIP_BYTES:
                raise InvalidClip(f"larger than {MAX_CLIP_BYTES >> 20} MiB, which no clip is")
            clip.data = clean_clip(data)
        except Exception as error:
            yield file, Failure.from_error(file, error)
        else:
            yield file, clip


def clean_clip(data: np.ndarray) -> np.ndarray:
    """(T, C, V, M) -> float32 (T', C, V, 2): the frames that show a body, the two most active bodies.

    Raises InvalidClip if there is none, or for invalid coordinates.
    """
    if not len(data):
        raise InvalidClip("no frames")
    data = validate_coordinates(data).astype(np.float32)
    visible = data.any((1, 2))  # (T, M)
    if not visible.any():
        raise InvalidClip("no body in any frame")
    if data.shape[-1] > MAX_BODIES:
        movement = [data[visible[:, m], ..., m].var(0).sum() if visible[:, m].any() else -1.0
                    for m in range(data.shape[-1])]  # fmt: skip
        most_active = np.argsort(movement)[: -MAX_BODIES - 1 : -1]
        data, visible = data[..., most_active], visible[:, most_active]
    absent = MAX_BODIES - data.shape[-1]
    return np.pad(data[visible.any(1)], ((0, 0), (0, 0), (0, 0), (0, absent)))
