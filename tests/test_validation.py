"""Which training clips are set aside for validation."""

import pytest

from training.validation import split_by_camera, split_by_subject, validation_split


def test_whole_subjects():
    subjects = [1] * 10 + [2] * 10 + [3] * 10 + [4] * 70
    for seed in range(20):
        training, validation = split_by_subject(subjects, 0.05, seed)
        assert sorted(training + validation) == list(range(100))
        assert not {subjects[i] for i in training} & {subjects[i] for i in validation}
        assert len(validation) >= 5
    assert split_by_subject(subjects, 0, 0) == (list(range(100)), [])
    with pytest.raises(
        ValueError, match=r"leaves nothing to train on: 1 subject.*\nwith --validation_"
    ):
        split_by_subject([1, 1], 0.05, 0)


def test_a_camera():
    assert split_by_camera([1, 2, 2, 1], 2) == ([0, 3], [1, 2])
    for cameras, known in (([1, 2, 2, 1], "1, 2"), ([], "unknown"), ([3, 3], "3")):
        with pytest.raises(ValueError, match=rf"validation_camera=3: .* camera\(s\) {known}\n"):
            split_by_camera(cameras, 3)


def test_the_camera_comes_first():
    meta = {"subject": {"train": [1, 1, 2, 2]}, "camera": {"train": [1, 2, 1, 2]}}
    assert validation_split(meta, 0.5, camera=2) == ([0, 2], [1, 3])
    assert validation_split(meta, 0.5) in (([0, 1], [2, 3]), ([2, 3], [0, 1]))
    with pytest.raises(ValueError, match="unknown"):
        validation_split({"subject": meta["subject"]}, 0.5, camera=2)
