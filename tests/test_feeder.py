import multiprocessing
import pickle

import numpy as np
import pytest
import torch
from helpers import Malicious
from torch.utils.data import DataLoader

from feeder import REFERENCE_FRAMES, Feeder
from model import TwoStreamRNN
from skeletons.batch import BodyBatch
from skeletons.layout import KINECT_V1, KINECT_V2, Layout
from skeletons.preprocess import body_axes, first_pose
from skeletons.transforms import apply, rotation

RAW = {"origin_transfer": "none", "normalization": False}
AUGMENTED = {
    "p_interval": (0.5, 1.0),
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
def paths(write_part, clips):
    return write_part(clips)


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
        assert len(pickle.dumps(feeder)) < 10_000


@pytest.mark.parametrize("options", [{}, {"crop_resize": False}])
def test_evaluation_is_the_same_every_time(paths, options):
    """The original cropped longer clips at random in the test too."""
    feeder = Feeder(*paths, window_size=50, **options)
    first = feeder[range(5)][0]
    torch.manual_seed(1)
    assert torch.equal(feeder[range(5)][0], first)
    assert torch.equal(Feeder(*paths, window_size=50, **options)[range(5)][0], first)


@pytest.mark.parametrize("option", [{k: v} for k, v in AUGMENTED.items()], ids=lambda o: next(iter(o)))
def test_each_random_option_alone_changes_the_items(paths, option):
    feeder = Feeder(*paths, window_size=50, **option)
    plain = Feeder(*paths, window_size=50)
    one, two = feeder[3][0], feeder[3][0]
    assert not torch.allclose(one, two, atol=1e-3)
    assert not torch.allclose(one, plain[3][0], atol=1e-3)


def test_left_and_right_in_a_mirror_and_exchanged(paths):
    """Exchanged sides turn a body round where its axes are found by them."""
    other = [KINECT_V2.joints.index(name) for name in map(opposite, KINECT_V2.joints)]
    for options, signs in (
        ({"rand_mirror": 1.0}, (-1, 1, 1)),
        ({"rand_exchange": 1.0}, (-1, 1, -1)),
        ({"rand_mirror": 1.0, "rand_exchange": 1.0}, (1, 1, -1)),
    ):
        plain, changed = Feeder(*paths)[0][0], Feeder(*paths, **options)[0][0]
        if len(options) == 1:
            plain = plain[:, :, other]
        expected = plain * torch.tensor(signs)[:, None, None, None]
        torch.testing.assert_close(changed, expected, atol=1e-4, rtol=1e-4)
    half, _ = Feeder(*paths, rand_mirror=0.5, origin_transfer="none")[[0] * 100]
    mirrored = (half[:, 0, 0, 0, 0] * half[0, 0, 0, 0, 0] < 0).sum()
    assert min(mirrored, 100 - mirrored) > 25
    with pytest.raises(ValueError, match="0 to 1"):
        Feeder(*paths, rand_mirror=2)


def test_other_proportions(paths):
    """Each bone keeps its direction, its length is another, the same on both sides and in all frames;
    the root stays where it was, and tests are not touched."""
    options = {"origin_transfer": "none", "normalization": False, "rand_bones": 0.2}
    feeder = Feeder(*paths, **options)
    plain = feeder.eval()[0][0][..., 0]  # (C, T, V)
    changed = feeder[0][0][..., 0]
    assert torch.equal(plain, Feeder(*paths, **options | {"rand_bones": 0.0})[0][0][..., 0])
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
    with pytest.raises(ValueError, match="less than 1"):
        Feeder(*paths, rand_bones=1.0)


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
def test_without_randomness_is_how_a_test_is_fed(paths, options):
    feeder = Feeder(*paths, window_size=50, **options)
    still = feeder.eval()
    resized = options.get("crop_resize", True)
    plain = Feeder(*paths, window_size=50 if resized else 0, crop_resize=resized)
    assert torch.equal(still[range(5)][0], plain[range(5)][0])
    assert still.tracks is feeder.tracks
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


def test_a_single_share_is_the_middle_of_the_clip(paths, clips):
    for share in (0.5, [0.5]):
        data = Feeder(*paths, window_size=30, p_interval=share, **RAW)[3][0]
        np.testing.assert_allclose(data[:, 0], clips[3][15], atol=1e-6)
        np.testing.assert_allclose(data[:, -1], clips[3][44], atol=1e-5)


def test_one_angle_is_for_all_axes(paths):
    for angle in (0.3, [0.3], (0.3, 0.3, 0.3)):
        assert Feeder(*paths, rand_rotate=angle).transform["rotate"] == (0.3, 0.3, 0.3)


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_an_empty_batch(write_part, clips, padded, mmap):
    feeder = Feeder(*write_part(clips, padded=padded), window_size=30, mmap=mmap)
    assert feeder[[]][0].shape == (0, 3, 30, 25, 2)


def test_clips_by_slice_and_by_mask(paths):
    feeder = Feeder(*paths, window_size=8)
    data, _ = feeder[range(5)]
    assert torch.equal(feeder[1:4][0], data[1:4])
    assert torch.equal(feeder[np.array([False, True, True, False, False])][0], data[1:3])
    assert torch.equal(feeder[-1][0], data[4])
    with pytest.raises(TypeError, match="whole numbers"):
        feeder[[1.7]]
    with pytest.raises(IndexError):
        feeder[5]


def test_a_body_outside_of_the_window_does_not_count(write_part, clips):
    """The second body leaves before the middle of the clip, which is all that is fed."""
    clip = clips[3].copy()
    clip[3:, ..., 1] = 0
    feeder = Feeder(*write_part([clip]), window_size=16, crop_resize=False)
    bodies, _ = feeder.bodies([0])
    assert bodies.there.tolist() == [[True, False]]
    model = TwoStreamRNN(KINECT_V2, 3, units=4, part_units=2, spatial_window=8).eval()
    for one, two in zip(model(bodies), model(feeder[[0]][0]), strict=True):
        torch.testing.assert_close(one, two)


def test_a_layout_may_be_given(paths):
    names = tuple(f"joint {i}" for i in range(25))
    layout = Layout("other", names, (-1, *range(24)), {"all": tuple(range(25))})
    feeder = Feeder(*paths, window_size=30, layout=layout, origin_transfer="each")
    assert not feeder[3][0][:, :, 0].any()
    with pytest.raises(ValueError, match="needs parts called left arm"):
        Feeder(*paths, layout=layout)[0]


def test_window_zero_is_the_longest_clip(paths):
    assert Feeder(*paths, window_size=0)[0][0].shape == (3, 150, 25, 2)


def test_origins(paths):
    root = KINECT_V2.root
    data = {
        o: Feeder(*paths, window_size=60, origin_transfer=o, normalization=False)[3][0]
        for o in REFERENCE_FRAMES
    }
    raw = data["none"]
    assert torch.equal(
        Feeder(*paths, window_size=60, origin_transfer=False, normalization=False)[3][0], raw
    )
    assert not data["each"][:, :, root].any()
    centre = raw[:, :, root, 0]
    torch.testing.assert_close(data["first"], raw - centre[:, :, None, None])
    torch.testing.assert_close(data["start"], raw - centre[:, :1, None, None])
    # Turned, not bent: distances are those of the room.
    torch.testing.assert_close(data["view"].norm(dim=0), data["start"].norm(dim=0))


@pytest.mark.parametrize("zero", [0, 2, True, "hips"])
def test_an_unknown_origin_lists_the_choices(paths, zero):
    with pytest.raises(ValueError, match="none, first, each, start, view"):
        Feeder(*paths, origin_transfer=zero)


def test_view_does_not_depend_on_where_the_camera_stands(write_part, clips):
    clip = torch.from_numpy(clips[3]).permute(1, 0, 2, 3)[None]
    turn = rotation(torch.tensor([[0.2, 1.1, -0.1]]))
    moved = apply(clip.flatten(3), turn).view(clip.shape)
    moved = moved + torch.tensor([0.5, -0.3, 2.0]).view(1, 3, 1, 1, 1)
    seen = [Feeder(*write_part([c[0].transpose(0, 1).numpy()], name=str(i)), window_size=60)[0][0]
            for i, c in enumerate((clip, moved))]  # fmt: skip
    torch.testing.assert_close(seen[0], seen[1], atol=1e-4, rtol=1e-4)


def test_body_axes_of_a_body_facing_the_camera_are_the_camera_s():
    from plot import standing_body

    for layout in (KINECT_V1, KINECT_V2):
        pose = torch.zeros(2, 3, len(layout.joints))
        pose[0, :2] = torch.from_numpy(standing_body(layout).T)
        axes = body_axes(pose, layout)
        torch.testing.assert_close(axes, torch.eye(3).expand(2, 3, 3), atol=1e-6, rtol=0)


def test_first_pose_is_of_the_body_that_is_seen_first(clips):
    clip = torch.from_numpy(clips[3]).permute(1, 0, 2, 3)[None].clone()

    def pose():
        bodies = BodyBatch.of(clip)
        return first_pose(bodies, (bodies.joints != 0).any(3).any(1))[0]

    assert torch.equal(pose(), clip[0, :, 0, :, 0])
    clip[:, :, :7, :, 0] = 0
    assert torch.equal(pose(), clip[0, :, 0, :, 1])
    clip[:, :, :9, :, 1] = 0
    assert torch.equal(pose(), clip[0, :, 7, :, 0])


def test_normalization_gives_tall_and_short_people_one_scale(write_part, clips):
    small = Feeder(*write_part([clips[0]], name="a"), window_size=30)[0][0]
    tall = Feeder(*write_part([clips[0] * 1.3], name="b"), window_size=30)[0][0]
    torch.testing.assert_close(small, tall)
    whole = Feeder(*write_part([clips[0]], name="c"), window_size=30)[0][0]
    assert bones(whole) == pytest.approx(1, abs=1e-5)


def test_a_clip_of_nobody_is_all_zeros(write_part, clips):
    nobody = np.zeros((5, 3, 25, 2), np.float32)
    for options in ({}, AUGMENTED, {"crop_resize": False}):
        feeder = Feeder(*write_part([clips[0], nobody]), window_size=20, **options)
        assert not feeder[1][0].any()


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_clip_without_frames_is_all_zeros(write_part, clips, position):
    three = [clips[0], clips[3], clips[4]]
    three[position] = clips[0][:0]
    for options in ({}, AUGMENTED, {"crop_resize": False}):
        data = Feeder(*write_part(three), window_size=20, **options)[range(3)][0]
        assert data.flatten(1).any(1).tolist() == [i != position for i in range(3)]


def test_a_clip_of_one_frame_stands_still(paths):
    data = Feeder(*paths, window_size=20)[1][0]
    assert present(data[None])[0, :, 0].all()
    torch.testing.assert_close(data, data[:, :1].expand_as(data))


@pytest.mark.parametrize("options", [{}, {"crop_resize": False}, {"mmap": True}])
def test_padded_arrays_give_the_same_items(write_part, clips, options):
    packed = Feeder(*write_part(clips, name="packed"), window_size=80, **options)
    padded = Feeder(*write_part(clips, name="padded", padded=True), window_size=80, **options)
    torch.testing.assert_close(padded[range(5)][0], packed[range(5)][0])


def test_mmap_gives_the_same_items(paths):
    options = {"window_size": 80}
    assert torch.equal(
        Feeder(*paths, mmap=True, **options)[[3, 0]][0], Feeder(*paths, **options)[[3, 0]][0]
    )


def test_debug_takes_a_hundred_clips(write_part):
    feeder = Feeder(*write_part([np.ones((2, 3, 25, 2), np.float32)] * 120), debug=True)
    assert len(feeder) == 100 and feeder[range(100)][0].shape[0] == 100


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_makes_the_same_batches(paths):
    here, there = Feeder(*paths, window_size=64), Feeder(*paths, window_size=64).to("cuda")
    torch.testing.assert_close(there[range(5)][0].cpu(), here[range(5)][0], atol=1e-5, rtol=1e-5)
    assert there[range(5)][0].device.type == "cuda"


# --- Bad input --------------------------------------------------------------------------------------


def test_missing_data_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train_data.npy is missing.*python convert_data.py"):
        Feeder(*(tmp_path / f"train_{e}" for e in ("data.npy", "label.pkl", "num_frame.npy")))


def test_labels_of_other_data(paths, write_part, clips):
    other = write_part(clips[:3], name="other")
    with pytest.raises(ValueError, match=r"different numbers of clips: .*other_label.pkl 3.* 5"):
        Feeder(paths[0], other[1], paths[2])
    with pytest.raises(ValueError, match=r"convert_data\.py"):
        Feeder(other[0], *paths[1:])


def test_labels_that_are_not_labels(write_part, clips):
    paths = write_part(clips[:2], labels=[0, -1])
    with pytest.raises(ValueError, match=r"label\.pkl"):
        Feeder(*paths)
    paths[1].write_bytes(b"garbage")
    with pytest.raises(ValueError, match=r"label.pkl is no pickle"):
        Feeder(*paths)


def test_a_malicious_pickle_is_not_run(paths, tmp_path):
    attack = pickle.dumps((["a"], [Malicious(tmp_path / "attacked")]))
    paths[1].write_bytes(attack)
    with pytest.raises(ValueError, match=r"label\.pkl"):
        Feeder(*paths)
    assert not (tmp_path / "attacked").exists()
    pickle.loads(attack)
    assert (tmp_path / "attacked").exists()


def test_damaged_arrays(paths):
    paths[0].write_bytes(paths[0].read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"data\.npy is damaged"):
        Feeder(*paths)


def test_a_damaged_meta_json_is_named(paths):
    for content in ("{", '{"layout": {"name": "x"}}', '{"layout": 3}'):
        (paths[0].parent / "meta.json").write_text(content)
        with pytest.raises(ValueError, match=r"meta\.json is damaged"):
            Feeder(*paths)


def test_another_byte_order_is_named(paths):
    np.save(paths[0], np.load(paths[0]).astype(">f4"))
    with pytest.raises(ValueError, match=r"data\.npy holds >f4"):
        Feeder(*paths)


def test_no_frames_at_all(write_part):
    with pytest.raises(ValueError, match="holds no clips"):
        Feeder(*write_part([np.zeros((0, 3, 25, 2), np.float32)] * 2))


def test_arrays_of_other_shapes(paths):
    np.save(paths[0], np.zeros((10, 75)))
    with pytest.raises(ValueError, match=r"neither \(frames, C, V, M\)"):
        Feeder(*paths)


def test_an_unknown_layout_is_named(write_part):
    clip = np.ones((4, 3, 18, 2), np.float32)
    with pytest.raises(ValueError, match=r"18 joints.*25 \(kinect-v2\), 20 \(kinect-v1\)"):
        Feeder(*write_part([clip]))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"random_choose": True}, "crop_resize=False"),
        ({"p_interval": (0.9, 0.5)}, "p_interval"),
        ({"p_interval": 0}, "p_interval"),
        ({"p_interval": (0.2, 0.5, 1)}, "p_interval"),
        ({"rand_rotate": (0.1, 0.2)}, "one angle or three"),
        ({"rand_scale": 2}, "less than 1"),
        ({"rand_rotate": 17}, "in radians"),
        ({"layout": KINECT_V1}, "25 joints, layout kinect-v1 has 20"),
    ],
)
def test_options_that_exclude_each_other(paths, options, message):
    with pytest.raises(ValueError, match=message):
        Feeder(*paths, **options)
