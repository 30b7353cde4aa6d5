"""`Feeder`: a Dataset of skeleton clips, which opens files, selects clips and calls `Preprocess`.

The files are made by convert_data.py and described in docs/data.md. Whole batches are made at once, by
torch, on the device of the data (CPU or GPU); one clip is a batch of one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from skeletons.batch import BodyBatch, Tracks
from skeletons.layout import Layout
from skeletons.options import check_flag
from skeletons.preprocess import OPTIONS, Preprocess
from skeletons.storage import find_layout, read_array, read_meta, read_split

Index = int | slice | Sequence[int] | Sequence[bool] | np.ndarray | Tensor

DEBUG_CLIPS = 100
READ_CLIPS = 256  # read at a time, when the data is loaded into memory


class Feeder(torch.utils.data.Dataset):
    """Skeleton clips and their labels.

    `feeder[i]` is one clip, `feeder[[i, j, ...]]` (also a slice or a mask) is a batch:
        data   float32 (C, window, V, M) or (N, C, window, V, M); an absent body is exactly zero
        label  int64 () or (N,)
    `DataLoader(feeder, batch_size=256, shuffle=True, num_workers=4)` works as usual; its workers make
    whole batches. Without random options, the items are the same every time.

    data_path       .npy: (frames, C, V, M), the frames of all clips one after the other
                    (convert_data.py), or (N, C, T, V, M), padded with zeros (ST-GCN and related
                    projects)
    label_path      .pkl: (names, labels), labels count from 0
    num_frame_path  .npy: (N,) number of frames of each clip; None: padded data, zeros at the end of a
                    clip are padding
    layout          of the bodies; default: the one in meta.json next to the data, or else the Kinect
                    with this number of joints
    debug           only the first 100 clips
    mmap            leave the data on disk and read each batch from there
    options         of the window, of normalisation and of augmentation, as in `Preprocess`

    Attributes: name (list of N), label and num_frame (N,), classes (list of names), layout, channels
    (C), max_bodies (M), preprocess (a `Preprocess`).

    Raises FileNotFoundError for a missing file, ValueError for files that do not belong together and
    for options that are not allowed. The first line of the message is the fault, the second the remedy.
    """

    def __init__(
        self,
        data_path: str | Path,
        label_path: str | Path,
        num_frame_path: str | Path | None,
        *,
        layout: Layout | None = None,
        debug: bool = False,
        mmap: bool = False,
        **options: object,
    ) -> None:
        check_flag("debug", debug)
        check_flag("mmap", mmap)
        self.data_path, self.mmap = Path(data_path), mmap
        split = read_split(data_path, label_path, num_frame_path, mmap=True)
        self._stored, num_frame, self.name, label = split
        self.channels, joints, self.max_bodies = (self._stored.shape[i] for i in (1, -2, -1))
        if not len(num_frame) or not num_frame.max():
            raise ValueError(
                f"{data_path} contains no clips\n"
                "put some into this split (in a clips.csv: the column split) and convert the data "
                "again; skipped.csv next to it lists the clips that could not be read"
            )
        self.layout = find_layout(self.data_path, joints, self.channels) if layout is None else layout
        if unknown := options.keys() - set(OPTIONS):
            raise ValueError(
                f"Feeder has no option {', '.join(sorted(unknown))}\nchoose from {', '.join(OPTIONS)}"
            )
        self.preprocess = Preprocess(self.layout, self.channels, **options)
        if len(self.layout.joints) != joints:
            raise ValueError(
                f"{data_path} has {joints} joints, layout {self.layout.name} has "
                f"{len(self.layout.joints)}\ngive Feeder the layout of the data"
            )
        count = min(len(label), DEBUG_CLIPS) if debug else len(label)
        self.name, self.label = self.name[:count], torch.tensor(label[:count])
        self.num_frame = torch.from_numpy(num_frame[:count].astype(np.int64))
        self.classes = read_meta(self.data_path.parent).get("classes")
        if self.classes is None:
            self.classes = [str(i) for i in range(max(label) + 1)]
        self._begin = (
            self.num_frame.cumsum(0) - self.num_frame
        )  # of each clip, in data that is not padded
        if not mmap:
            chunks = map(self._read, torch.arange(count).split(READ_CLIPS))
            self._tracks = Tracks.concat(chunks, int(self.num_frame.sum()) * self.max_bodies)
            self._stored = None

    def __repr__(self) -> str:
        where = "on disk" if self.mmap else f"on {self._tracks.joints.device}"
        return (
            f"Feeder({self.data_path}, {where}: {len(self)} clips of {len(self.classes)} classes, "
            f"up to {self.max_bodies} bodies of {len(self.layout.joints)} joints ({self.layout.name}), "
            f"{self.channels} coordinates; {self.preprocess})"
        )

    def __len__(self) -> int:
        """The number of clips."""
        return len(self.label)

    def __getitem__(self, index: Index) -> tuple[Tensor, Tensor]:
        """One clip for a number, otherwise a batch: (data, label), as above."""
        if not isinstance(index, slice) and np.ndim(index) == 0:
            data, label = self.batch([index])
            return data[0], label[0]
        return self.batch(index)

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """What the default collation of a DataLoader asks for: a list of clips, made as one batch."""
        return list(zip(*self.batch(indices), strict=True))

    def __getstate__(self) -> dict[str, Any]:
        # A pickled memory map would carry the whole file to a spawned worker.
        return self.__dict__ | {"_stored": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.mmap:
            self._stored = read_array(self.data_path, mmap=True)

    @property
    def window_size(self) -> int:
        """Frames of an item."""
        size = self.preprocess.window_size
        return size if size > 0 else int(self.num_frame.max())

    def has_pairs(self) -> bool:
        """Whether any clip has two bodies. Memory-mapped data is read up to the first such clip."""
        return self.max_bodies > 1 and self._any_clip(lambda present: present.sum(1) > 1)

    def has_third_slot(self) -> bool:
        """Whether any clip has a body in a slot after the second, as `has_pairs`."""
        return self.max_bodies > 2 and self._any_clip(lambda present: present[:, 2:].any(1))

    def _any_clip(self, condition: Callable[[Tensor], Tensor]) -> bool:
        """Whether bool (N, M), which slots hold a body, fulfils a condition (N,) for any clip."""
        chunks = torch.arange(len(self)).split(READ_CLIPS)
        tracks = map(self._read, chunks) if self.mmap else (self._tracks,)
        return any(bool(condition(chunk.offsets >= 0).any()) for chunk in tracks)

    def eval(self, observation_ratio: float = 1.0) -> Feeder:
        """The same clips (not copied) in the evaluation form: whole, without augmentation.

        observation_ratio  early recognition: only so many of the first frames of each clip, as in
                           `Preprocess`. The items are those of a Feeder of clips that end there
        """
        evaluation = copy.copy(self)
        evaluation.preprocess = self.preprocess.eval(observation_ratio)
        return evaluation

    def to(self, device: torch.device | str) -> Feeder:
        """Move the data, so that batches are made on `device`; not for memory-mapped data."""
        if self.mmap:
            raise ValueError("memory-mapped data stays on disk\nuse mmap=False to move it")
        self._tracks, self.label = self._tracks.to(device), self.label.to(device)
        return self

    def batch(self, index: Index, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        """Make a batch of N clips: -> data (N, C, window, V, M), labels (N,).

        index      clip numbers, a slice or a mask
        generator  source of random numbers, on the device of the data (None: torch's global one)
        Raises IndexError for clips that do not exist, TypeError for numbers that are not whole.
        """
        bodies, label = self.bodies(index, generator)
        return bodies.to_dense(), label

    def bodies(self, index: Index, generator: Generator | None = None) -> tuple[BodyBatch, Tensor]:
        """The same batch as the networks read it: -> BodyBatch, labels (N,)."""
        clips = self._clip_numbers(index)
        tracks = self._read(clips) if self.mmap else self._tracks.select(clips)
        num_frame, label = self.num_frame[clips], self.label
        bodies = self.preprocess(tracks, num_frame, generator, self.window_size)
        return bodies, label[clips.to(label.device, non_blocking=True)]

    def _clip_numbers(self, index: Index) -> Tensor:
        """An index -> clip numbers (N,) from 0 to len(self) - 1, on the host."""
        count = len(self)
        if isinstance(index, slice):
            index = range(count)[index]
        clips = torch.as_tensor(index).flatten()
        if clips.dtype == torch.bool:
            if len(clips) != count:
                raise IndexError(f"a mask of {len(clips)} entries for {count} clips")
            return clips.nonzero()[:, 0]
        if (clips.is_floating_point() or clips.is_complex()) and len(clips):
            raise TypeError(f"clip numbers must be whole numbers, not {clips.dtype}")
        clips = clips.long()
        outside = (clips < -count) | (clips >= count)
        if outside.any():
            raise IndexError(f"clip {int(clips[outside][0])} does not exist: there are {count} clips")
        return torch.where(clips < 0, clips + count, clips)

    def _read(self, clips: Tensor) -> Tracks:
        """Clip numbers (N,) -> their tracks, from the disk."""
        count, begin = self.num_frame[clips], self._begin[clips]
        pieces = list(zip(clips.tolist(), begin.tolist(), count.tolist(), strict=True))
        if self._stored.ndim == 5:  # padded
            frames = [self._stored[i, :, :n].swapaxes(0, 1) for i, _, n in pieces or [(0, 0, 0)]]
        elif torch.equal(begin[1:], begin[:-1] + count[:-1]):  # in one piece
            frames = [self._stored[b : b + n] for b, n in ((begin[:1].sum(), count.sum()),)]
        else:
            frames = [self._stored[b : b + n] for _, b, n in pieces]
        frames = torch.from_numpy(np.concatenate(frames, dtype=np.float32, casting="same_kind"))
        return Tracks.from_frames(frames, count, self.preprocess.bones)
