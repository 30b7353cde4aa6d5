"""Choose the validation clips among the training clips, by subject or by camera."""

from collections.abc import Sequence
from typing import Any

import torch


def validation_split(
    meta: dict[str, Any], ratio: float, camera: int = 0, seed: int = 0
) -> tuple[list[int], list[int]]:
    """Split the training clips of a meta.json -> (clips to train on, clips for validation), sorted.

    camera  0: split by subject; else the validation clips are those of this camera
    """
    if camera:
        return split_by_camera(meta.get("camera", {}).get("train", []), camera)
    return split_by_subject(meta["subject"]["train"], ratio, seed)


def split_by_subject(
    subjects: Sequence[int], ratio: float, seed: int = 0
) -> tuple[list[int], list[int]]:
    """Draw whole subjects for validation until they have at least `ratio` of the clips.

    subjects  (N,) subject of each clip; no subject is on both sides
    Raises ValueError if no clip is left to train on.
    """
    subject_of = torch.as_tensor(subjects)
    distinct = subject_of.unique()
    order = torch.randperm(len(distinct), generator=torch.Generator().manual_seed(seed))
    validation = torch.zeros(len(subject_of), dtype=torch.bool)
    for subject in distinct[order]:
        if validation.sum() >= ratio * len(validation):
            break
        validation |= subject_of == subject
    if validation.all():
        raise ValueError(
            f"validation_ratio={ratio} leaves nothing to train on: {len(distinct)} subject(s) in all\n"
            "with --validation_ratio 0 all clips are trained on, and best.pt is the last epoch"
        )
    return (~validation).nonzero()[:, 0].tolist(), validation.nonzero()[:, 0].tolist()


def split_by_camera(cameras: Sequence[int], camera: int) -> tuple[list[int], list[int]]:
    """The clips of all other cameras are trained on, those of `camera` are for validation.

    cameras  (N,) camera of each clip
    """
    if camera not in cameras or len(set(cameras)) < 2:
        known = ", ".join(map(str, sorted(set(cameras)))) or "unknown"
        raise ValueError(
            f"validation_camera={camera}: the training clips are of camera(s) {known}\n"
            "give one of at least two cameras"
        )
    clips = range(len(cameras))
    return [i for i in clips if cameras[i] != camera], [i for i in clips if cameras[i] == camera]
