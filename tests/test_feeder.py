"""`Feeder`: files, items and batches, options, memory-mapped data."""

import json
import multiprocessing
import pickle

import numpy as np
import pytest
import torch
from helpers import Malicious
from torch.utils.data import DataLoader

from feeder import Feeder
from model import NetworkConfig, TwoStreamRNN
from skeletons.layout import KINECT_V1, KINECT_V2, Layout
from skeletons.preprocess import REFERENCE_FRAMES
from skeletons.transforms import affine, rotation

RAW = {"origin_transfer": "camera", "normalization": False}
AUGMENTED = {
    "p_interval": (0.5, 1.0),
    "rand_crop": 0.5,
    "rand_time_warp": 0.3,
    "rand_rotate": 0.3,
    "rand_scale": 0.1,
    "rand_shear": 0.1,
    "random_move": True,
}


def present(data):
    """Which bodies are in which frames: (N, C, T, V, M) -> bool (N, T, M)."""
    return (data != 0).any(dim=3).any(dim=1)


def bones(data):
    """Mean length of all bones: (C, T, V, M) of one body."""
    joint, parent = map(list, zip(*KINECT_V2.bones, strict=True))
    return (data[:, :, joint, 0] - data[:, :, parent, 0]).norm(dim=0).mean().item()


@pytest.fixture
def paths(write_split, clips):
    return write_split(clips)


def test_an_item(paths):
    feeder = Feeder(*paths, window_size=64)
    data, label = feeder[3]
    assert data.shape == (3, 64, 25, 2) and data.dtype == torch.float32
    assert label == 3 and label.dtype == torch.int64
    assert len(feeder) == 5 and feeder.name[3] == "clip3"


@pytest.mark.parametrize("origin", REFERENCE_FRAMES)
def test_one_clip_equals_the_same_clip_in_a_batch(paths, origin):
    feeder = Feeder(*paths, window_size=64, origin_transfer=origin)
    data, labels = feeder[range(5)]
    for i in range(5):
        torch.testing.assert_close(feeder[i][0], data[i])
        assert feeder[i][1] == labels[i]


def test_dataloader_makes_the_same_batches(paths):
    feeder = Feeder(*paths, window_size=64)
    data, labels = feeder[range(5)]
    batches = list(DataLoader(feeder, batch_size=2))
    torch.testing.assert_close(torch.cat([batch for batch, _ in batches]), data)
    assert torch.cat([batch for _, batch in batches]).tolist() == labels.tolist()


def test_dataloader_asks_for_whole_batches(paths, monkeypatch):
    sizes = []
    batch = Feeder.batch
    monkeypatch.setattr(
        Feeder, "batch", lambda self, index: sizes.append(len(index)) or batch(self, index)
    )
    list(DataLoader(Feeder(*paths), batch_size=4))
    assert sizes == [4, 1]


@pytest.mark.parametrize("mmap", [False, True])
def test_worker_processes_started_by_spawn(paths, mmap):
    """As on Windows: the Feeder is pickled, and a memory map is opened again."""
    feeder = Feeder(*paths, window_size=64, mmap=mmap)
    spawn = multiprocessing.get_context("spawn")
    loader = DataLoader(feeder, batch_size=3, num_workers=1, multiprocessing_context=spawn)
    data = torch.cat([batch for batch, _ in loader])
    torch.testing.assert_close(data, feeder[range(5)][0])
    if mmap:
        assert len(pickle.dumps(feeder)) < 20_000


@pytest.mark.parametrize("options", [{}, {"crop_resize": False}])
def test_evaluation_is_the_same_every_time(paths, options):
    """The original cropped longer clips at random in the test too."""
    feeder = Feeder(*paths, window_size=50, **options)
    first = feeder[range(5)][0]
    torch.manual_seed(1)
    assert torch.equal(feeder[range(5)][0], first)
    assert torch.equal(Feeder(*paths, window_size=50, **options)[range(5)][0], first)


def test_flipped_bodies_and_swapped_sides(paths):
    """Swapped sides turn a body round in the reference frame that is found by them."""
    other = [KINECT_V2.joints.index(name) for name in map(opposite, KINECT_V2.joints)]
    for options, signs in (
        ({"rand_flip": 1.0}, (-1, 1, 1)),
        ({"rand_swap_sides": 1.0}, (-1, 1, -1)),
        ({"rand_flip": 1.0, "rand_swap_sides": 1.0}, (1, 1, -1)),
    ):
        plain, changed = Feeder(*paths)[0][0], Feeder(*paths, **options)[0][0]
        if len(options) == 1:
            plain = plain[:, :, other]
        expected = plain * torch.tensor(signs)[:, None, None, None]
        torch.testing.assert_close(changed, expected, atol=1e-4, rtol=1e-4)
    half, _ = Feeder(*paths, rand_flip=0.5, origin_transfer="camera")[[0] * 100]
    mirrored = (half[:, 0, 0, 0, 0] * half[0, 0, 0, 0, 0] < 0).sum()
    assert min(mirrored, 100 - mirrored) > 25


def test_errors_of_tracking(paths, write_split, clips):
    """Of whole body parts, as large as bones, the same for the same seed; absent bodies stay zero, and
    tests are not touched."""
    options = {"origin_transfer": "camera", "normalization": False, "window_size": 20}
    noisy = options | {"rand_noise": 0.5}

    def errors(paths, seed):
        feeder, plain = Feeder(*paths, **noisy), Feeder(*paths, **options)
        generator = torch.Generator().manual_seed(seed)
        indices = list(range(len(feeder))) * 20
        found = feeder.bodies(indices, generator)[0].to_dense()
        before = plain.bodies(indices)[0].to_dense()
        assert not found[before == 0].any()
        assert torch.equal(feeder.eval()[indices][0], plain.eval()[indices][0])
        return (found - before).permute(0, 4, 1, 2, 3).flatten(0, 1)  # (bodies, C, T, V)

    found = errors(paths, 0)
    assert torch.equal(found, errors(paths, 0)) and not torch.equal(found, errors(paths, 1))
    disturbed = found.flatten(1, 2).any(1)  # (bodies, V)
    for joints in KINECT_V2.parts.values():
        part = disturbed[:, list(joints)]
        assert torch.equal(part.any(1), part.all(1))
        assert 0.1 < part[disturbed.any(1)].float().mean() < 0.9
    in_millimetres = write_split([1000 * clip for clip in clips])
    torch.testing.assert_close(errors(in_millimetres, 0), 1000 * found, atol=0.1, rtol=1e-3)


def test_bone_lengths_vary(paths):
    """Each bone keeps its direction, its length is another, the same on both sides and in all frames;
    the root stays where it was, and tests are not touched."""
    options = {"origin_transfer": "camera", "normalization": False, "rand_bone_scale": 0.2}
    feeder = Feeder(*paths, **options)
    plain = feeder.eval()[0][0][..., 0]  # (C, T, V)
    changed = feeder[0][0][..., 0]
    assert torch.equal(plain, Feeder(*paths, **options | {"rand_bone_scale": 0.0})[0][0][..., 0])
    root = KINECT_V2.root
    torch.testing.assert_close(changed[..., root], plain[..., root])
    factors = {}
    for joint, parent in KINECT_V2.bones:
        before, after = (body[..., joint] - body[..., parent] for body in (plain, changed))
        ratio = after.norm(dim=0) / before.norm(dim=0)
        assert ratio.max() - ratio.min() < 1e-3 and ratio[0] + 1e-3 >= 0.8 and ratio[0] <= 1.2 + 1e-3
        torch.testing.assert_close(after, before * ratio, atol=1e-4, rtol=0)
        factors[KINECT_V2.joints[joint]] = ratio[0].item()
    for name, factor in factors.items():
        assert factor == pytest.approx(factors[opposite(name)], abs=1e-3)
    assert len({round(factor, 2) for factor in factors.values()}) > 8


def opposite(name):
    return name.replace("left", "#").replace("right", "left").replace("#", "right")


def test_random_options_vary_and_a_generator_repeats_them(paths):
    feeder = Feeder(*paths, window_size=50, **AUGMENTED)
    one, two = feeder[range(5)][0], feeder[range(5)][0]
    assert not torch.equal(one, two)
    drawn = [feeder.batch(range(5), torch.Generator().manual_seed(7))[0] for _ in range(2)]
    assert torch.equal(*drawn)


@pytest.mark.parametrize("origin", REFERENCE_FRAMES)
@pytest.mark.parametrize("normalization", [False, True])
def test_absent_bodies_stay_exactly_zero(paths, origin, normalization):
    """In the original they were moved to minus the first body's centre."""
    feeder = Feeder(
        *paths, window_size=64, origin_transfer=origin, normalization=normalization, **AUGMENTED
    )
    data = feeder[range(5)][0]
    assert not data[[0, 1, 2, 4], ..., 1].any()
    assert present(data)[3].all() and data.isfinite().all()


@pytest.mark.parametrize("options", [AUGMENTED, {"crop_resize": False, "random_valid_choose": True}])
def test_the_evaluation_form_is_that_of_a_feeder_without_augmentation(paths, options):
    feeder = Feeder(*paths, window_size=50, **options)
    still = feeder.eval()
    resized = options.get("crop_resize", True)
    plain = Feeder(*paths, window_size=50 if resized else 0, crop_resize=resized)
    assert torch.equal(still[range(5)][0], plain[range(5)][0])
    assert still._tracks is feeder._tracks
    assert not torch.equal(feeder[range(5)][0], still[range(5)][0])


def test_a_whole_clip_is_resized(paths, clips):
    data = Feeder(*paths, window_size=50, **RAW)[4][0]
    np.testing.assert_allclose(data[:, 0], clips[4][0], atol=1e-6)
    np.testing.assert_allclose(data[:, -1], clips[4][-1], atol=1e-5)
    at = 99 * 10 / 49  # position of frame 10 of the window
    expected = clips[4][20] * (21 - at) + clips[4][21] * (at - 20)
    np.testing.assert_allclose(data[:, 10], expected, atol=1e-5)


def test_a_crop_takes_the_middle_and_fills_up_with_zeros(paths, clips):
    feeder = Feeder(*paths, window_size=100, crop_resize=False, **RAW)
    np.testing.assert_array_equal(feeder[2][0].transpose(0, 1), clips[2][25:125])
    np.testing.assert_array_equal(feeder[0][0][:, :30].transpose(0, 1), clips[0])
    assert not feeder[0][0][:, 30:].any()


@pytest.mark.parametrize(
    "option, long_varies, short_varies",
    [
        ("random_choose", True, False),
        ("random_shift", False, True),
        ("random_valid_choose", True, True),
    ],
)
def test_random_windows(paths, clips, option, long_varies, short_varies):
    feeder = Feeder(*paths, window_size=100, crop_resize=False, **{option: True}, **RAW)
    long, short = (torch.stack([feeder[i][0] for _ in range(20)]) for i in (2, 0))
    assert (long != long[0]).any() == long_varies
    assert (short != short[0]).any() == short_varies
    assert (present(short).sum((1, 2)) == 30).all()  # wherever it lies, it is whole
    for one in long:  # consecutive frames of the clip
        start = int(np.abs(clips[2] - one[:, 0].numpy()).sum((1, 2, 3)).argmin())
        np.testing.assert_array_equal(one.transpose(0, 1), clips[2][start : start + 100])


def test_a_single_ratio_is_the_middle_of_the_clip(paths, clips):
    for ratio in (0.5, [0.5]):
        data = Feeder(*paths, window_size=30, p_interval=ratio, **RAW)[3][0]
        np.testing.assert_allclose(data[:, 0], clips[3][15], atol=1e-6)
        np.testing.assert_allclose(data[:, -1], clips[3][44], atol=1e-5)


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_an_empty_batch(write_split, clips, padded, mmap):
    feeder = Feeder(*write_split(clips, padded=padded), window_size=30, mmap=mmap)
    assert feeder[[]][0].shape == (0, 3, 30, 25, 2)


ACCESS = pytest.mark.parametrize(
    "options",
    [{"mmap": mmap, "debug": debug} for mmap in (False, True) for debug in (False, True)],
    ids=str,
)


@ACCESS
@pytest.mark.parametrize("padded", [False, True])
def test_negative_indices_count_from_the_end(write_split, padded, options):
    """Of the clips of the Feeder: with debug=True, those are the first 100 of the file. Each clip holds
    its own number, so that the data of one clip and the label of another are found out."""
    clips = [np.full((2 + i % 3, 3, 25, 2), i + 1, np.float32) for i in range(120)]
    feeder = Feeder(*write_split(clips, padded=padded), window_size=4, **RAW, **options)
    count = len(feeder)
    assert count == (100 if options["debug"] else 120)
    indices = ([-1, 0, -count, 7, -5], [count - 1, 0, 0, 7, count - 5])
    for index in (indices[0], torch.tensor(indices[0]), np.array(indices[0])):
        data, label = feeder[index]
        assert label.tolist() == indices[1]
        assert (data[:, 0, 0, 0, 0] - 1).tolist() == indices[1]
    for index, clip in zip(*indices, strict=True):
        data, label = feeder[index]
        assert label == clip and (data == clip + 1).all()
    data, label = feeder[-3:]
    assert label.tolist() == [count - 3, count - 2, count - 1] and data[2, 0, 0, 0, 0] == count


@ACCESS
@pytest.mark.parametrize("padded", [False, True])
def test_clips_that_do_not_exist(write_split, clips, padded, options):
    feeder = Feeder(*write_split(clips, padded=padded), window_size=4, **options)
    for index in (5, -6, [0, 5], [-6], torch.tensor([1, 99]), np.array([-99])):
        with pytest.raises(IndexError, match="does not exist: there are 5 clips"):
            feeder[index]
    with pytest.raises(IndexError, match="a mask of 4 entries for 5 clips"):
        feeder[[True, False, True, True]]
    for index in (1.0, [1.7], torch.tensor([1.0])):
        with pytest.raises(TypeError, match="whole numbers"):
            feeder[index]


def test_clips_by_slice_and_by_mask(paths):
    feeder = Feeder(*paths, window_size=8)
    data, _ = feeder[range(5)]
    assert torch.equal(feeder[1:4][0], data[1:4]) and torch.equal(feeder[::-2][0], data[[4, 2, 0]])
    mask = [False, True, True, False, False]
    for index in (mask, np.array(mask), torch.tensor(mask)):
        assert torch.equal(feeder[index][0], data[1:3])


def test_options_are_given_by_name(paths):
    with pytest.raises(TypeError, match="positional"):
        Feeder(*paths, True)
    with pytest.raises(ValueError, match="no option rand_mirror\nchoose from window_size, "):
        Feeder(*paths, rand_mirror=0.5)


def test_names_of_the_classes(paths):
    assert Feeder(*paths).classes == ["0", "1", "2", "3", "4"]
    names = ["wave", "sit", "stand", "fall", "throw", "read"]
    (paths[0].parent / "meta.json").write_text(json.dumps({"classes": names, "clips": {}}))
    assert Feeder(*paths).classes == names


def test_repr_says_what_it_feeds(paths):
    text = repr(Feeder(*paths, window_size=48, rand_flip=0.5))
    assert str(paths[0]) in text and "5 clips of 5 classes" in text
    assert "2 bodies of 25 joints (kinect-v2), 3 coordinates" in text
    assert "Preprocess(kinect-v2, 3, window_size=48, rand_flip=0.5)" in text
    assert "on disk" in repr(Feeder(*paths, mmap=True))


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("ratio", [0.01, 0.25, 0.5, 0.77])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"normalization": "first-frame"},
        {"origin_transfer": "first-body"},
        {"origin_transfer": "per-frame", "normalization": False},
        {"crop_resize": False},
    ],
    ids=str,
)
def test_early_recognition_equals_clips_that_end_early(write_split, clips, mmap, ratio, options):
    """Nothing of the frames that are not observed counts: neither for the bone length that a clip is
    divided by, nor for the bodies that exist, nor in the interpolation between frames."""
    clips[0][20:] *= 3  # grows
    clips[3][:, ..., 1] *= 1.7  # another size, and visible late
    clips[3][:31, ..., 1] = 0
    clips[4][:40] = 0  # no body at first
    shown = [clip[: max(round(len(clip) * ratio), 1)] for clip in clips]
    options = {"window_size": 150 if "crop_resize" in options else 40, "mmap": mmap} | options
    early = Feeder(*write_split(clips, name="whole"), p_interval=(0.5, 1.0), **options).eval(ratio)
    short = Feeder(*write_split(shown, name="short"), **options)
    bodies, label = early.bodies(range(5))
    expected, _ = short.bodies(range(5))
    assert label.tolist() == [0, 1, 2, 3, 4]
    for values, right in zip(bodies, expected, strict=True):
        torch.testing.assert_close(values, right, atol=1e-6, rtol=1e-6)
    assert bodies.visible[3].tolist() == [True, ratio > 0.52]
    assert torch.equal(bodies.to_dense(), early[range(5)][0])
    torch.testing.assert_close(early[3][0], bodies.to_dense()[3])


def test_early_recognition_of_a_whole_clip_is_evaluation(paths):
    feeder = Feeder(*paths, window_size=50)
    assert torch.equal(feeder.eval(1.0)[range(5)][0], feeder.eval()[range(5)][0])
    with pytest.raises(ValueError, match=r"observation_ratio=1.5 is not allowed"):
        feeder.eval(1.5)


@pytest.mark.parametrize("name", ["debug", "mmap"])
@pytest.mark.parametrize("value", [1, 0.0, "yes", None])
def test_flags_are_true_or_false(paths, name, value):
    with pytest.raises(ValueError, match=rf"{name}={value!r} is not allowed\n{name} must be True or"):
        Feeder(*paths, **{name: value})


def test_a_body_outside_of_the_window_does_not_count(write_split, clips):
    """The second body leaves before the middle of the clip, which is the window."""
    clip = clips[3].copy()
    clip[3:, ..., 1] = 0
    feeder = Feeder(*write_split([clip]), window_size=16, crop_resize=False)
    bodies, _ = feeder.bodies([0])
    assert bodies.visible.tolist() == [[True, False]]
    network = NetworkConfig(hidden_size=4, part_hidden_size=2, spatial_window=8)
    model = TwoStreamRNN(KINECT_V2, 3, network).eval()
    for one, two in zip(model(bodies), model(feeder[[0]][0]), strict=True):
        torch.testing.assert_close(one, two)


def test_a_layout_may_be_given(paths):
    names = tuple(f"joint {i}" for i in range(25))
    layout = Layout("other", names, (-1, *range(24)), {"all": tuple(range(25))})
    feeder = Feeder(*paths, window_size=30, layout=layout, origin_transfer="per-frame")
    assert not feeder[3][0][:, :, 0].any()
    with pytest.raises(ValueError, match="needs parts called left arm"):
        Feeder(*paths, layout=layout)[0]


def test_window_zero_is_the_longest_clip(paths):
    assert Feeder(*paths, window_size=0)[0][0].shape == (3, 150, 25, 2)


def test_reference_frames(paths):
    root = KINECT_V2.root
    data = {
        o: Feeder(*paths, window_size=60, origin_transfer=o, normalization=False)[3][0]
        for o in REFERENCE_FRAMES
    }
    raw = data["camera"]
    assert torch.equal(
        Feeder(*paths, window_size=60, origin_transfer=False, normalization=False)[3][0], raw
    )
    assert not data["per-frame"][:, :, root].any()
    centre = raw[:, :, root, 0]
    torch.testing.assert_close(data["first-body"], raw - centre[:, :, None, None])
    torch.testing.assert_close(data["first-frame"], raw - centre[:, :1, None, None])
    # Turned, not bent: distances are those of the room.
    torch.testing.assert_close(data["body"].norm(dim=0), data["first-frame"].norm(dim=0))


@pytest.mark.parametrize("zero", [0, 2, True, "hips"])
def test_an_unknown_reference_frame_lists_the_choices(paths, zero):
    with pytest.raises(
        ValueError, match="camera, first-body, per-frame, part-centres, first-frame, body, pair"
    ):
        Feeder(*paths, origin_transfer=zero)


def test_the_body_frame_does_not_depend_on_the_position_of_the_camera(write_split, clips):
    clip = torch.from_numpy(clips[3]).permute(1, 0, 2, 3)[None]
    turn = rotation(torch.tensor([[0.2, 1.1, -0.1]]))
    moved = affine(clip.flatten(3), turn).view(clip.shape)
    moved = moved + torch.tensor([0.5, -0.3, 2.0]).view(1, 3, 1, 1, 1)
    seen = [Feeder(*write_split([c[0].transpose(0, 1).numpy()], name=str(i)), window_size=60)[0][0]
            for i, c in enumerate((clip, moved))]  # fmt: skip
    torch.testing.assert_close(seen[0], seen[1], atol=1e-4, rtol=1e-4)


def test_normalization_gives_tall_and_short_people_one_scale(write_split, clips):
    small = Feeder(*write_split([clips[0]], name="a"), window_size=30)[0][0]
    tall = Feeder(*write_split([clips[0] * 1.3], name="b"), window_size=30)[0][0]
    torch.testing.assert_close(small, tall)
    clip = Feeder(*write_split([clips[0]], name="c"), window_size=30)[0][0]
    assert bones(clip) == pytest.approx(1, abs=1e-5)


def test_a_clip_without_bodies_is_all_zeros(write_split, clips):
    empty = np.zeros((5, 3, 25, 2), np.float32)
    for options in ({}, AUGMENTED, {"crop_resize": False}):
        feeder = Feeder(*write_split([clips[0], empty]), window_size=20, **options)
        assert not feeder[1][0].any()


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_clip_without_frames_is_all_zeros(write_split, clips, position):
    three = [clips[0], clips[3], clips[4]]
    three[position] = clips[0][:0]
    for options in ({}, AUGMENTED, {"crop_resize": False}):
        data = Feeder(*write_split(three), window_size=20, **options)[range(3)][0]
        assert data.flatten(1).any(1).tolist() == [i != position for i in range(3)]


def test_a_clip_of_one_frame_stands_still(paths):
    data = Feeder(*paths, window_size=20)[1][0]
    assert present(data[None])[0, :, 0].all()
    torch.testing.assert_close(data, data[:, :1].expand_as(data))


@pytest.mark.parametrize("options", [{}, {"crop_resize": False}, {"mmap": True}])
def test_padded_arrays_give_the_same_items(write_split, clips, options):
    packed = Feeder(*write_split(clips, name="packed"), window_size=80, **options)
    padded = Feeder(*write_split(clips, name="padded", padded=True), window_size=80, **options)
    torch.testing.assert_close(padded[range(5)][0], packed[range(5)][0])


def test_mmap_gives_the_same_items(paths):
    options = {"window_size": 80}
    assert torch.equal(
        Feeder(*paths, mmap=True, **options)[[3, 0]][0], Feeder(*paths, **options)[[3, 0]][0]
    )


@pytest.mark.parametrize("mmap", [False, True])
def test_pairs_are_clips_of_two_bodies(write_split, clips, mmap):
    """Not clips of one body that is in the second slot."""
    assert Feeder(*write_split(clips), mmap=mmap).has_pairs()
    clips[3] = clips[0][..., ::-1]
    assert not Feeder(*write_split(clips, name="alone"), mmap=mmap).has_pairs()


def test_debug_takes_a_hundred_clips(write_split):
    feeder = Feeder(*write_split([np.ones((2, 3, 25, 2), np.float32)] * 120), debug=True)
    assert len(feeder) == 100 and feeder[range(100)][0].shape[0] == 100


# --- Bad input --------------------------------------------------------------------------------------


def test_missing_data_names_the_command(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"(?s)train_data.npy is missing\n.*python convert_data.py"
    ):
        Feeder(*(tmp_path / f"train_{e}" for e in ("data.npy", "label.pkl", "num_frame.npy")))


def test_labels_of_other_data(paths, write_split, clips):
    other = write_split(clips[:3], name="other")
    with pytest.raises(ValueError, match=r"different numbers of clips: .*other_label.pkl 3.* 5"):
        Feeder(paths[0], other[1], paths[2])
    with pytest.raises(ValueError, match=r"convert_data\.py"):
        Feeder(other[0], *paths[1:])


def test_labels_that_are_not_labels(write_split, clips):
    paths = write_split(clips[:2], labels=[0, -1])
    with pytest.raises(ValueError, match=r"label\.pkl"):
        Feeder(*paths)
    paths[1].write_bytes(b"garbage")
    with pytest.raises(ValueError, match=r"label.pkl is not a pickle"):
        Feeder(*paths)


def test_a_malicious_pickle_is_not_run(paths, tmp_path):
    attack = pickle.dumps((["a"], [Malicious(tmp_path / "attacked")]))
    paths[1].write_bytes(attack)
    with pytest.raises(ValueError, match=r"label\.pkl"):
        Feeder(*paths)
    assert not (tmp_path / "attacked").exists()
    pickle.loads(attack)
    assert (tmp_path / "attacked").exists()


def test_corrupt_arrays(paths):
    paths[0].write_bytes(paths[0].read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"data\.npy is corrupt"):
        Feeder(*paths)


def test_a_corrupt_meta_json_is_named(paths):
    for content in ("{", '{"layout": {"name": "x"}}', '{"layout": 3}'):
        (paths[0].parent / "meta.json").write_text(content)
        with pytest.raises(ValueError, match=r"meta\.json is corrupt"):
            Feeder(*paths)


@pytest.mark.parametrize("mmap", [False, True])
def test_another_byte_order_gives_the_same_items(paths, mmap):
    expected = Feeder(*paths)[range(5)][0]
    np.save(paths[0], np.load(paths[0]).astype(">f4"))
    assert torch.equal(Feeder(*paths, mmap=mmap)[range(5)][0], expected)


def test_no_frames_at_all(write_split):
    with pytest.raises(ValueError, match="contains no clips"):
        Feeder(*write_split([np.zeros((0, 3, 25, 2), np.float32)] * 2))


def test_arrays_of_other_shapes(paths):
    np.save(paths[0], np.zeros((10, 75)))
    with pytest.raises(ValueError, match=r"neither \(frames, C, V, M\)"):
        Feeder(*paths)


def test_an_unknown_layout_is_named(write_split):
    clip = np.ones((4, 3, 18, 2), np.float32)
    with pytest.raises(ValueError, match=r"18 joints.*25 \(kinect-v2\), 20 \(kinect-v1\)"):
        Feeder(*write_split([clip]))


def test_a_layout_of_other_joints(paths):
    with pytest.raises(ValueError, match="25 joints, layout kinect-v1 has 20"):
        Feeder(*paths, layout=KINECT_V1)
