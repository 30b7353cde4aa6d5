"""Synthetic pauses: from which clips they are made, that they are continuous and slow."""

import zlib

import numpy as np
import pytest
from helpers import clips_of, recording

from convert_data import convert
from skeletons import background
from skeletons.background import BACKGROUND, PAUSE_FRAMES, make_pause, with_background
from skeletons.clip import Clip
from skeletons.clip_stream import ClipStream, Failure
from skeletons.layout import KINECT_V2
from skeletons.readers import open_input
from skeletons.storage import read_meta


def moving(frames=30, seed=0, noise=0.0):
    """A body (T, C, V, 1) that walks along x by 0.02 per frame."""
    clip = np.repeat(recording(KINECT_V2, 1, bodies=1, seed=seed), frames, 0)
    clip[:, 0] += 0.02 * np.arange(frames)[:, None, None]
    return clip + np.random.default_rng(seed).normal(0, noise, clip.shape)


def stream_of(clips, classes=("a", "b")):
    return ClipStream("test", KINECT_V2, list(classes), ["xsub"], len(clips), iter(clips))


def clip(name, label=0, subject=1, camera=1, split="train", bodies=1, frames=20, **splits):
    data = recording(KINECT_V2, frames, bodies=bodies, seed=zlib.crc32(name.encode()))
    data = np.pad(data, ((0, 0),) * 3 + ((0, 2 - bodies),)).astype(np.float32)
    return Clip(name, label, data, subject, camera, splits or {"xsub": split})


def pauses_of(clips, **options):
    made = list(with_background(stream_of(clips), **options).clips)
    assert made[: len(clips)] == clips  # the others, unchanged
    return made[len(clips) :]


def test_a_pause_leads_from_one_clip_to_the_next_without_a_jump():
    before, after = moving(seed=1), moving(seed=2)
    for length in (10, 40, 120):
        pause = make_pause(before[-5:], after[:5], length, np.random.default_rng(length))
        assert pause.dtype == np.float32 and pause.shape[1:] == before.shape[1:]
        assert len(pause) >= length
        whole = np.concatenate((before[-5:], pause, after[:5]))
        steps = np.sqrt((np.diff(whole, axis=0) ** 2).sum(1)).mean((1, 2))  # mean over the joints
        size = np.sqrt(((before[-1] - before[-1].mean(1, keepdims=True)) ** 2).sum(0).mean())
        assert steps.max() < 0.15 * size  # (the walk has 0.02 per frame, and a pause some sway)


def test_a_longer_way_takes_longer():
    pose = moving()[-5:]
    far = make_pause(pose, pose + 3, 10, np.random.default_rng(0))
    assert len(far) > 100
    assert len(make_pause(pose, pose, 10, np.random.default_rng(0))) == 10


def test_a_pause_has_the_noise_of_the_sensor():
    levels = []
    for noise in (0.002, 0.02):
        still = recording(KINECT_V2, 1, bodies=1) + np.random.default_rng(0).normal(
            0, noise, (5, 3, 25, 1)
        )
        pause = make_pause(still, still, 100, np.random.default_rng(1))
        levels.append(np.diff(pause, 2, axis=0).std() / np.sqrt(6))
    np.testing.assert_allclose(levels, (0.002, 0.02), rtol=0.4)


def test_a_clip_of_one_frame_and_a_body_of_one_point():
    pose = moving(1)
    assert np.isfinite(make_pause(pose, pose, 10, np.random.default_rng(0))).all()
    point = np.ones_like(pose)
    assert np.isfinite(make_pause(point, point, 10, np.random.default_rng(0))).all()


def test_pauses_are_between_clips_of_one_subject_camera_and_split(monkeypatch):
    clips = [
        clip(f"{subject}{camera}{split}{i}", i % 2, subject, camera, split)
        for subject in (1, 2) for camera in (1, 2) for split in ("train", "val") for i in range(4)
    ]  # fmt: skip
    frames = {one.data[-1].tobytes(): one for one in clips}
    pairs = []
    real = background.make_pause
    firsts = {one.data[0, ..., :1].tobytes(): one for one in clips}

    def spy(before, after, *rest):
        pairs.append((before, firsts[after[0].tobytes()]))
        return real(before, after, *rest)

    monkeypatch.setattr(background, "make_pause", spy)
    pauses = pauses_of(clips)
    assert len(pauses) == 32  # twice as many as a class has
    for pause, (before, after) in zip(pauses, pairs, strict=True):
        assert pause.label == 2 and pause.name.startswith(BACKGROUND)
        origin = frames[pause.data[len(before) - 1].tobytes()]  # it begins with the end of a clip
        assert origin is not after
        for one in (origin, after):
            assert (one.subject, one.camera, one.splits) == (pause.subject, pause.camera, pause.splits)
        assert PAUSE_FRAMES[0] <= len(pause.data) - len(before)
    assert len({pause.name for pause in pauses}) == len(pauses)


def test_pauses_of_a_fold_are_made_of_its_clips():
    """Of a clip that is tested in one fold and trained on in the other."""
    folds = {"fold1": "train", "fold2": "val"}, {"fold1": "val", "fold2": "train"}
    pauses = pauses_of([clip(f"c{i}", **folds[i % 2]) for i in range(8)])
    assert [pause.splits for pause in pauses] == [folds[i // 4] for i in range(8)]


def test_bodies_keep_their_slots():
    clips = [clip(f"c{i}", bodies=1 + i % 2) for i in range(6)]
    clips[4].data = clips[4].data[..., ::-1].copy()  # one body, in the second slot
    bodies = {tuple(pause.data.any((1, 2)).all(0)) for pause in pauses_of(clips)}
    assert bodies == {(True, False), (False, True), (True, True)}
    clips[0].data[-3:] = 0  # frames without the body do not count
    assert all(pause.data.any((1, 2)).any(1).all() for pause in pauses_of(clips))


def test_the_same_seed_gives_the_same_pauses():
    clips = [clip(f"c{i}") for i in range(6)]
    one, same, other = (pauses_of(clips, seed=seed) for seed in (0, 0, 1))
    assert all((a.data == b.data).all() for a, b in zip(one, same, strict=True))
    assert any(a.data.shape != b.data.shape for a, b in zip(one, other, strict=True))


def test_failures_and_excluded_clips_are_passed_on():
    clips = [clip("a"), Failure("b", "", "broken"), clip("c"), clip("d")]
    clips[3].splits = {}
    made = list(with_background(stream_of(clips)).clips)
    assert made[:4] == clips and {one.subject for one in made[4:]} == {1}


def test_a_class_of_this_name_is_enough():
    with pytest.raises(ValueError, match="has clips with the label background\nleave --background out"):
        with_background(stream_of([clip("a")], ["background", "wave"]))


def test_a_conversion_with_pauses(raw, data, tmp_path):
    """The other clips stay as they are; meta.json has the class, and how many pauses there are."""
    stream = with_background(open_input([raw]))
    assert stream.out_folder == "NTU-RGB-D-background"  # not that of the data without pauses
    metas, _ = convert(stream, tmp_path)
    for benchmark in ("xsub", "xview"):
        meta, plain = read_meta(tmp_path / benchmark), read_meta(data / benchmark)
        assert meta["classes"] == [*plain["classes"], BACKGROUND]
        for split in ("train", "val"):
            clips, others = (clips_of(folder / benchmark, split) for folder in (tmp_path, data))
            for (name, label, frames), (other, *rest) in zip(clips, others, strict=False):
                assert name == other and label == rest[0] and (frames == rest[1]).all()
            pauses = clips[len(others) :]
            assert pauses and all(label == 60 for _, label, _ in pauses)
            assert metas[benchmark]["background"][split] == len(pauses)
            assert len(meta["subject"][split]) == len(clips)
