"""A stream of clips, whatever it is read from."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from skeletons.clip import MAX_BODIES, InvalidClip, checked
from skeletons.layout import Layout

MAX_CLIP_BYTES = 256 << 20  # as an array


@dataclass
class Failure:
    """A clip that could not be converted."""

    file: str
    where: str
    reason: str

    @classmethod
    def of(cls, file, error):
        """A fault from the exception that it raised."""
        if isinstance(error, InvalidClip):
            return cls(file, error.where, error.reason)
        if isinstance(error, OSError) and error.strerror:
            return cls(file, "", error.strerror)
        return cls(file, "", f"damaged: {type(error).__name__} {str(error)[:200]}")


@dataclass
class ClipStream:
    """What a conversion reads.

    benchmarks  their names; every clip says in which part of which it is
    channels    C of the clips
    total       clips and faults in the stream
    excluded    clips that the data set does without, not read
    padded      as in DatasetSpec
    out_folder  where the benchmarks go if nothing else is said
    folders     that are read, and must not be replaced by what is written
    """

    title: str
    layout: Layout
    classes: list
    benchmarks: list
    total: int
    items: Iterator
    channels: int = 3
    excluded: int = 0
    padded: int = 0
    out_folder: str = ""
    folders: tuple = ()

    @classmethod
    def of(cls, dataset, benchmarks, total, items, **others):
        """A source of clips of a published data set."""
        fields = {name: getattr(dataset, name) for name in ("title", "layout", "classes", "padded")}
        fields |= {"out_folder": dataset.out_folder, "benchmarks": list(benchmarks)}
        return cls(**fields | {"total": total, "items": items} | others)


# --- Data converted by other projects -----------------------------------------------------------------

SPLIT_NAMES = {"train": "train", "val": "val", "test": "val"}


def clean_clips(found, classes, frame_shape):
    """Clips as others prepared them -> a stream of Clip and Failure.

    found        (what to call it in an error, Clip without data, function that gives the data
                 (T, C, V, M) and may fill in the rest of the clip)
    frame_shape  (C, V)
    """
    for shown, clip, load in found:
        try:
            data = load()
            if data.ndim != 4:
                raise InvalidClip(f"an array of {data.ndim} dimensions")
            if data.shape[1:3] != frame_shape:
                text = "{1} joints with {0} coordinates each"
                there, expected = text.format(*data.shape[1:3]), text.format(*frame_shape)
                raise InvalidClip(f"{there}, where the data set has {expected}")
            if not 0 <= clip.label < len(classes):
                raise InvalidClip(f"its label is not one of 0-{len(classes) - 1}")
            if data.size * 4 > MAX_CLIP_BYTES:
                raise InvalidClip(f"larger than {MAX_CLIP_BYTES >> 20} MiB, which no clip is")
            clip.data = clean_clip(data)
        except Exception as error:
            yield Failure.of(shown, error)
        else:
            yield clip


def clean_clip(data):
    """(T, C, V, M) -> float32: the frames that hold somebody, the two bodies that move most."""
    data = checked(data).astype(np.float32)
    there = data.any((1, 2))  # (T, M)
    if not there.any():
        raise InvalidClip("no body in any frame")
    if data.shape[-1] > MAX_BODIES:
        movement = [data[there[:, m], ..., m].var(0).sum() if there[:, m].any() else -1.0
                    for m in range(data.shape[-1])]  # fmt: skip
        kept = np.argsort(movement)[: -MAX_BODIES - 1 : -1]
        data, there = data[..., kept], there[:, kept]
    absent = MAX_BODIES - data.shape[-1]
    return np.pad(data[there.any(1)], ((0, 0), (0, 0), (0, 0), (0, absent)))
