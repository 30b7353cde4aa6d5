"""Preprocess, and the bodies in memory that it reads and makes."""

import numpy as np
import pytest
import torch
from test_layout import HAND_DRAWN, OPENPOSE, rooted_at

from extensions import ExtensionConfig
from model import NetworkConfig, TwoStreamRNN
from skeletons.batch import BodyBatch, Tracks, mean_bone_length, visible_frames
from skeletons.layout import KINECT_V1, KINECT_V2, LAYOUTS, Layout
from skeletons.preprocess import REFERENCE_FRAMES, Preprocess, body_axes, bone_matrix, first_pose
from skeletons.transforms import rotation

RAW = {"origin_transfer": "camera", "normalization": False}
EVERY = pytest.mark.parametrize("layout", [*LAYOUTS.values(), HAND_DRAWN], ids=lambda x: x.name)


def made(clips, layout=KINECT_V2, seed=0, **options):
    """Clips, a list of (T, C, V, M), preprocessed -> BodyBatch."""
    preprocess = Preprocess(layout, clips[0].shape[1], **options)
    num_frame = torch.tensor([len(clip) for clip in clips])
    frames = torch.from_numpy(np.concatenate(clips))
    tracks = Tracks.from_frames(frames, num_frame, preprocess.bones)
    return preprocess(tracks, num_frame, torch.Generator().manual_seed(seed))


def bodies_of(clip, count, **options):
    """One body `count` times, each with other random numbers -> (count, C, T, V)."""
    return made([clip[..., :1]] * count, **options).joints


def linear_map(before, after):
    """The matrix that maps the joints of bodies (B, C, T, V) to others: (B, C, C), and what is left."""
    before, after = before.flatten(2).mT.double(), after.flatten(2).mT.double()
    matrix = torch.linalg.lstsq(before, after).solution
    return matrix.mT, (before @ matrix - after).abs().max()


# --- Augmentation: each option alone, what it changes and what stays ----------------------------------


def test_rotation_keeps_lengths_and_stays_within_its_angles(clips):
    plain = bodies_of(clips[0], 300, window_size=8, **RAW)
    for rotate in (0.3, (0.0, 0.3, 0.0), [0.3]):
        changed = bodies_of(clips[0], 300, window_size=8, rand_rotate=rotate, **RAW)
        matrix, rest = linear_map(plain, changed)
        assert rest < 1e-4
        torch.testing.assert_close(matrix @ matrix.mT, torch.eye(3).double().expand(300, 3, 3),
                                   atol=1e-4, rtol=0)  # fmt: skip
        x = torch.atan2(matrix[:, 2, 1], matrix[:, 2, 2])
        y = -torch.asin(matrix[:, 2, 0])
        z = torch.atan2(matrix[:, 1, 0], matrix[:, 0, 0])
        for angle, largest in zip((x, y, z), (0, 0.3, 0) if isinstance(rotate, tuple) else (0.3,) * 3,
                                  strict=True):  # fmt: skip
            assert 0.95 * largest - 1e-4 <= angle.abs().max() <= largest + 1e-4
            assert (angle.mean() / (largest or 1)).abs() < 0.15


def test_scaling_is_along_the_axes(clips):
    plain = bodies_of(clips[0], 300, window_size=8, **RAW)
    matrix, rest = linear_map(plain, bodies_of(clips[0], 300, window_size=8, rand_scale=0.2, **RAW))
    factors = matrix.diagonal(dim1=1, dim2=2)
    assert rest < 1e-4 and (matrix - torch.diag_embed(factors)).abs().max() < 1e-4
    assert 0.8 <= factors.min() + 1e-4 < 0.82 and 1.18 < factors.max() - 1e-4 <= 1.2
    assert factors.std(1).min() > 1e-4  # each axis has its own


def test_shear_keeps_the_diagonal(clips):
    plain = bodies_of(clips[0], 300, window_size=8, **RAW)
    matrix, rest = linear_map(plain, bodies_of(clips[0], 300, window_size=8, rand_shear=0.1, **RAW))
    amounts = matrix - torch.eye(3)
    assert rest < 1e-4 and amounts.diagonal(dim1=1, dim2=2).abs().max() < 1e-4
    assert 0.095 < amounts.abs().max() < 0.101


def test_transforms_of_2d_joints_stay_in_the_plane(clips):
    flat = clips[0][:, :2]
    plain = bodies_of(flat, 100, window_size=8, **RAW)
    changed = bodies_of(flat, 100, window_size=8, rand_rotate=0.4, **RAW)
    matrix, rest = linear_map(plain, changed)
    angle = torch.atan2(matrix[:, 1, 0], matrix[:, 0, 0])
    assert rest < 1e-4 and 0.35 < angle.abs().max() < 0.41
    torch.testing.assert_close(torch.linalg.det(matrix), torch.ones(100).double(), atol=1e-4, rtol=0)


def test_a_random_crop_is_a_part_of_the_clip():
    """Each frame of the clip holds its own number."""
    clip = np.arange(1, 101, dtype=np.float32)[:, None, None, None] * np.ones((1, 3, 25, 1), np.float32)
    numbers = bodies_of(clip, 500, window_size=11, p_interval=(0.5, 0.8), **RAW)[:, 0, :, 0] - 1
    assert numbers.min() >= 0 and numbers.max() <= 99
    steps = numbers.diff(dim=1)
    torch.testing.assert_close(steps, steps[:, :1].expand_as(steps), atol=1e-3, rtol=0)
    kept = (numbers[:, -1] - numbers[:, 0] + 1) / 100
    assert 0.5 - 1e-3 < kept.min() < 0.51 and 0.79 < kept.max() < 0.8 + 1e-3
    assert numbers[:, 0].min() < 1 and numbers[:, -1].max() > 98
    some = bodies_of(clip, 500, window_size=11, p_interval=(0.5, 0.8), rand_crop=0.3, **RAW)[:, 0, :, 0]
    kept = (some[:, -1] - some[:, 0] + 1) / 100
    whole = kept > 1 - 1e-3
    assert 0.63 < whole.float().mean() < 0.77 and 0.79 < kept[~whole].max() < 0.8 + 1e-3


def numbered(frames):
    """A clip (frames, 3, 25, 1), each frame of which holds its number from 1."""
    return np.arange(1, frames + 1, dtype=np.float32)[:, None, None, None] * np.ones((1, 3, 25, 1))


def window_of(frames, count=1, **options):
    """The numbers of the frames in windows of 20 frames of a clip -> (count, 20); 0: padding."""
    clip = numbered(frames).astype(np.float32)
    options = {"window_size": 20, "crop_resize": False, "front_padding": True} | options
    return bodies_of(clip, count, **options, **RAW)[:, 0, :, 0]


def test_front_padding_takes_the_first_frames_or_puts_zeros_before_them():
    assert window_of(50)[0].tolist() == list(range(1, 21))
    assert window_of(8)[0].tolist() == [0] * 12 + list(range(1, 9))
    assert window_of(20)[0].tolist() == list(range(1, 21))


def test_a_random_end_is_the_first_or_the_last_frames():
    starts = window_of(50, 400, rand_end=True)[:, 0].tolist()
    assert set(starts) == {1, 31} and 150 < starts.count(1) < 250
    assert window_of(8, 3, rand_end=True).unique(dim=0).tolist() == window_of(8).tolist()


def test_a_random_start_keeps_the_last_frames():
    windows = window_of(50, 400, rand_start=0.3, rand_prob=0.5)
    assert torch.equal(windows[:, 6:], window_of(50)[:, 6:].expand(400, 14))
    zeros = (windows == 0).sum(1)
    assert zeros.unique().tolist() == list(range(7)) and 0.5 < (zeros == 0).float().mean() < 0.65
    # Padding of a short clip goes first.
    assert torch.equal(window_of(8, 50, rand_start=0.5), window_of(8).expand(50, 20))


def test_evaluation_with_front_padding_keeps_the_window():
    options = {"window_size": 20, "crop_resize": False, "front_padding": True}
    random = {"rand_end": True, "rand_start": 0.3, "rand_prob": 0.5, "rand_uniform": True}
    preprocess = Preprocess(KINECT_V2, 3, **options, **random).eval()
    assert preprocess == Preprocess(KINECT_V2, 3, **options)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda x: x.name)
def test_part_centres_are_subtracted_in_each_frame(layout):
    clip = np.random.default_rng(0).normal(size=(9, 3, len(layout.joints), 1)).astype(np.float32)
    found = made([clip], layout, window_size=9, origin_transfer="part-centres", normalization=False)
    expected = clip.copy()
    for joints, centre in layout.part_centres:
        expected[:, :, joints] -= clip[:, :, centre].mean(2, keepdims=True)
    np.testing.assert_allclose(found.joints[0], expected[..., 0].swapaxes(0, 1), atol=1e-5)
    # In the plane, too, and wherever the body stands.
    flat = {"origin_transfer": "part-centres", "normalization": False, "window_size": 9}
    moved = made([clip[:, :2] + np.float32(7)], layout, **flat)
    torch.testing.assert_close(moved.joints, found.joints[:, :2], atol=1e-4, rtol=0)


def test_random_move_does_not_depend_on_the_unit_of_the_data(clips):
    """Metres or millimetres, the clip is the same after normalisation, in which it moves by one mean
    bone length at most; sizes change by 10 % and angles by 0.17 at most."""
    clip = clips[0]
    options = {"random_move": True, "window_size": 20, "origin_transfer": "camera"}
    metres = bodies_of(clip, 50, **options)
    torch.testing.assert_close(bodies_of(clip * 1000, 50, **options), metres, atol=1e-4, rtol=1e-4)
    plain = bodies_of(clip, 50, window_size=20, origin_transfer="camera")
    assert 0.1 < (metres - plain).abs().mean() < 1.5
    still = clip[:1].repeat(20, 0)
    moved = bodies_of(still, 200, **options)
    centred = moved - moved.mean(3, keepdim=True)
    sizes = centred.norm(dim=(1, 3))  # (B, T)
    one = bodies_of(still, 1, window_size=20, origin_transfer="camera")
    ratio = sizes / (one - one.mean(3, keepdim=True)).norm(dim=(1, 3))
    assert 0.9 - 1e-3 < ratio.min() < 0.92 and 1.08 < ratio.max() < 1.1 + 1e-3


def test_evaluation_draws_no_random_numbers(clips):
    options = {"rand_rotate": 0.3, "rand_scale": 0.1, "rand_shear": 0.1, "rand_flip": 0.5}
    options |= {
        "rand_swap_sides": 0.5,
        "rand_bone_scale": 0.2,
        "rand_noise": 0.2,
        "random_move": True,
        "p_interval": (0.5, 1),
    }
    preprocess = Preprocess(KINECT_V2, 3, window_size=20, **options)
    assert preprocess.eval() == Preprocess(KINECT_V2, 3, window_size=20)
    num_frame = torch.tensor([len(clip) for clip in clips])
    tracks = Tracks.from_frames(torch.from_numpy(np.concatenate(clips)), num_frame, preprocess.bones)
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    preprocess.eval()(tracks, num_frame, generator)
    assert torch.equal(generator.get_state(), before)
    preprocess(tracks, num_frame, generator)
    assert not torch.equal(generator.get_state(), before)


def test_options_make_an_equal_object():
    options = {
        "window_size": 20,
        "p_interval": [0.5, 1],
        "rand_rotate": (0.1, 0.2, 0.3),
        "rand_scale": 0.1,
    }
    preprocess = Preprocess(KINECT_V1, 3, origin_transfer=None, **options)
    again = Preprocess(KINECT_V1, 3, **preprocess.options())
    assert again == preprocess and again.origin_transfer == "camera" and again.p_interval == (0.5, 1.0)
    assert Preprocess(KINECT_V1, 3, **preprocess.eval(0.3).options()) == preprocess.eval(0.3)
    whole = Preprocess(KINECT_V1, 3, crop_resize=False, window_size=20, random_choose=True).eval()
    assert whole == Preprocess(KINECT_V1, 3, crop_resize=False, window_size=0)


@pytest.mark.parametrize("frame", REFERENCE_FRAMES)
@pytest.mark.parametrize("normalization", [False, True, "first-frame"])
def test_dense_clips_give_the_same_bodies(clips, frame, normalization):
    """The form for export.py, which has absent bodies in the batch, too. Frames that show no body do
    not count, as in converted clips."""
    clip = clips[3].copy()
    clip[:9, ..., 0], clip[30:40, ..., 1] = 0, 0
    absent = clip.copy()
    absent[..., 0] = 0
    options = {"window_size": 25, "origin_transfer": frame, "normalization": normalization}
    expected = made([clip, absent[absent.any((1, 2, 3))]], **options)
    dense = torch.from_numpy(np.stack([clip, absent])).transpose(1, 2)  # (N, C, T, V, M)
    bodies = Preprocess(KINECT_V2, 3, **options).dense(dense)
    assert bodies.visible.tolist() == expected.visible.tolist() == [[True, True], [False, True]]
    torch.testing.assert_close(bodies.to_dense(), expected.to_dense(), atol=1e-5, rtol=1e-5)


# --- Normalisation ------------------------------------------------------------------------------------


@EVERY
def test_mean_bone_length(layout):
    pose = torch.randn(7, 3, len(layout.joints), generator=torch.Generator().manual_seed(0))
    expected = torch.stack([(pose[..., j] - pose[..., p]).norm(dim=1) for j, p in layout.bones]).mean(0)
    bones = Preprocess(layout, 3, **RAW).bones
    torch.testing.assert_close(mean_bone_length(pose, bones), expected)
    vectors = pose @ bone_matrix(layout)
    torch.testing.assert_close(vectors[..., layout.root], pose[..., layout.root])


def test_the_bone_scale_of_a_clip_is_over_its_bodies_in_their_frames(clips):
    """A body of length 1 in 30 frames and one of length 2 in 10: (30 * 1 + 10 * 2) / 40."""
    bones = Preprocess(KINECT_V2, 3).bones
    clip = clips[0][:, :, :, [0, 0]]
    lengths = mean_bone_length(torch.from_numpy(clip).permute(0, 3, 1, 2), bones)[:, :, None, None]
    clip = clip / lengths.permute(0, 2, 3, 1).numpy() * np.array([1, 2], np.float32)
    clip[10:, ..., 1] = 0
    clip[5:9] = 0
    empty = np.zeros_like(clip)
    frames, count = torch.from_numpy(np.concatenate([clip, empty])), torch.tensor([30, 30])
    tracks = Tracks.from_frames(frames, count, bones)
    expected = torch.tensor([(26 + 6 * 2) / 32, 1])
    torch.testing.assert_close(tracks.bone_scale, expected)
    assert tracks.offsets.tolist() == [[0, 30], [-1, -1]]
    early = tracks.truncate(torch.tensor([2, 30]), bones)
    torch.testing.assert_close(early.bone_scale, torch.tensor([1.5, 1]))


HEIGHTS = {
    "foot": 0.0, "ankle": 0.1, "knee": 0.5, "hip": 0.9, "base": 0.9, "mid": 1.15, "wrist": 0.9,
    "hand": 0.8, "tip": 0.7, "thumb": 0.8, "elbow": 1.1, "shoulder": 1.4, "neck": 1.45, "nose": 1.6,
    "ear": 1.6, "head": 1.65, "eye": 1.65,
}  # fmt: skip


def standing(layout):
    """A standing body that faces the camera (1, 3, V), metres."""
    pose = torch.full((1, 3, len(layout.joints)), 3.0)
    for j, name in enumerate(layout.joints):
        pose[0, 0, j] = {"left": -0.15, "right": 0.15}.get(name.split()[0], 0.0)
        pose[0, 1, j] = HEIGHTS[name.split()[-1]]
    return pose


@pytest.mark.parametrize("layout", [KINECT_V1, KINECT_V2], ids=lambda x: x.name)
def test_body_axes_of_a_body_facing_the_camera_are_the_camera_s(layout):
    pose = torch.cat((standing(layout), torch.zeros(1, 3, len(layout.joints))))  # the second is absent
    axes = body_axes(pose, layout)
    torch.testing.assert_close(axes, torch.eye(3).expand(2, 3, 3), atol=1e-6, rtol=0)


@pytest.mark.parametrize("layout", [KINECT_V1, KINECT_V2], ids=lambda x: x.name)
def test_up_is_from_the_hips_to_the_head_whatever_the_root(layout):
    """A layout that is rooted at the neck was turned upside down."""
    pose = standing(layout)
    for joint in range(len(layout.joints)):
        assert torch.equal(body_axes(pose, rooted_at(layout, joint)), body_axes(pose, layout))
    clip = pose[:, :, :, None].repeat(8, 1, 1, 1).numpy()  # (T, C, V, M)
    for root in ("spine base", "spine shoulder", "head", "left hand"):
        other = rooted_at(layout, layout.joint(root))
        joints = made([clip], other, window_size=8).joints[0, :, 0]
        assert not joints[:, other.root].any()
        y = joints[1]
        assert y[layout.joint("head")] > y[layout.joint("spine base")] > y[layout.joint("left foot")]


def test_up_is_from_the_hips_to_the_ears_where_the_neck_carries_all():
    """OpenPose's layout: shoulders and hips are both attached to the neck. A face in front of the ears
    does not tilt the body."""
    pose = standing(OPENPOSE)
    pose[0, 2, [0, 14, 15]] = 2.9  # nose and eyes
    torch.testing.assert_close(body_axes(pose, OPENPOSE), torch.eye(3)[None], atol=1e-6, rtol=0)


def pairs(*clips, **options):
    """Clips (T, C, V, M) in the reference frame "pair", in the unit of the data -> BodyBatch."""
    options = {"window_size": 4, "origin_transfer": "pair", "normalization": False} | options
    return made([np.asarray(clip, np.float32) for clip in clips], KINECT_V2, **options)


def two_people(distance=2.0):
    """Two people who face the camera, the second `distance` metres to the right (4, 3, V, 2)."""
    one = standing(KINECT_V2)[0]
    clip = torch.stack((one, one + torch.tensor([distance, 0, 0])[:, None]), 2)
    return clip.repeat(4, 1, 1, 1).numpy()


def test_each_of_a_pair_sees_the_other_in_the_same_direction():
    """Whichever is the first: the origin is midway, x the direction to the other one."""
    clip = two_people()
    bodies = pairs(clip, clip[..., ::-1])
    roots = bodies.joints[..., KINECT_V2.root]  # (B, C, T)
    torch.testing.assert_close(roots[:, 0], torch.full((4, 4), -1.0))
    torch.testing.assert_close(roots[:, 1:], torch.zeros(4, 2, 4), atol=1e-6, rtol=0)
    first, second, second_again, first_again = bodies.joints
    torch.testing.assert_close(first, first_again)
    torch.testing.assert_close(second, second_again)
    # Turned about y, not mirrored.
    hand = first[:, 0, KINECT_V2.joint("right hand")] - roots[0, :, 0]
    turned = second[:, 0, KINECT_V2.joint("right hand")] - roots[1, :, 0]
    torch.testing.assert_close(turned, hand * torch.tensor([-1, 1, -1]), atol=1e-5, rtol=0)


def test_a_pair_does_not_depend_on_the_position_of_the_camera():
    clip = torch.from_numpy(two_people()) + 0.1 * torch.rand(4, 3, 25, 2)
    moved = torch.einsum("dc,tcvm->tdvm", rotation(torch.tensor([[0.2, 1.1, -0.1]]))[0], clip) + 0.4
    expected, found = pairs(clip).joints, pairs(moved).joints
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_frame_of_a_pair_is_that_of_the_first_frame_with_both():
    clip = two_people()
    clip[2:, 0, :, 1] += 1.0
    clip[:2, :, :, 1] = 0  # the second is absent, and then at a distance of 3 m
    roots = pairs(clip).joints[..., KINECT_V2.root]
    torch.testing.assert_close(roots[0, 0], torch.full((4,), -1.5))
    assert not roots[1, :, :2].any()  # absent bodies stay zero
    torch.testing.assert_close(roots[1, 0, 2:], torch.full((2,), -1.5))


def test_a_body_without_partner_has_its_own_frame():
    """One body, or two that are never visible together: as "body"."""
    alone, apart = two_people(), two_people()
    alone[..., 1] = 0
    apart[:3, ..., 1] = 0
    apart[1:, ..., 0] = 0
    for clips in ([alone], [alone[..., :1]], [apart]):
        expected = pairs(*clips, origin_transfer="body")
        found = pairs(*clips)
        torch.testing.assert_close(found.joints, expected.joints, atol=1e-6, rtol=0)


def test_two_people_above_each_other_have_the_axes_of_the_first():
    """Or at the same place, or upside down to each other; the second after half a turn."""
    above, same, upside_down = (two_people() for _ in range(3))
    above[..., 1] = above[..., 0] + np.float32([0, 1, 0])[:, None]
    same[..., 1] = same[..., 0] + 1e-3 * np.float32([0, 1, 0])[:, None]
    upside_down[:, 1, :, 1] *= -1
    for clip in (above, same, upside_down):
        expected = pairs(clip, origin_transfer="body").joints
        expected[1] *= torch.tensor([-1, 1, -1])[:, None, None]
        torch.testing.assert_close(pairs(clip).joints, expected, atol=1e-6, rtol=0)


def test_random_transforms_of_two_who_are_never_together_are_the_same():
    """Each pose is as it would be if the other slot held it."""
    clip = two_people()
    clip[..., 1] = clip[..., 0]
    clip[1:, ..., 0], clip[:3, ..., 1] = 0, 0
    first, second = pairs(clip, rand_rotate=1.0).joints
    torch.testing.assert_close(first[:, 0], second[:, 3], atol=1e-6, rtol=0)


@pytest.mark.parametrize("options", [{}, {"rand_rotate": 1.0, "window_size": 3}])
@pytest.mark.parametrize("distance", [2.0, 0.0])
def test_a_partner_is_where_the_other_body_is(options, distance):
    """In the reference frame "pair", vectors between two people are as long as they were recorded."""
    clip = torch.from_numpy(two_people(distance)) + 0.1 * torch.rand(1, 3, 25, 2)
    bodies = pairs(clip, **options)
    joints, partner = bodies.with_partners(opposite_axes=True).split(25, 3)
    lengths = torch.cdist(joints.permute(0, 2, 3, 1), partner.permute(0, 2, 3, 1))
    expected = torch.cdist(clip[0, ..., 0].T, clip[0, ..., 1].T)
    torch.testing.assert_close(lengths[0], expected.expand(lengths.shape[1:]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(lengths[1], lengths[0].mT, atol=1e-4, rtol=1e-4)


def test_exchanging_two_people_exchanges_what_is_read():
    clip = torch.from_numpy(two_people()) + 0.1 * torch.rand(4, 3, 25, 2)
    one, two = pairs(clip), pairs(clip.flip(3))
    found = two.with_partners(opposite_axes=True).flip(0)
    torch.testing.assert_close(found, one.with_partners(opposite_axes=True), atol=1e-6, rtol=1e-5)


def test_a_network_reads_a_partner_where_it_is():
    """Vectors between two people are as long as they were recorded."""
    extensions = ExtensionConfig(modalities=("joint", "partner"))
    network = NetworkConfig(hidden_size=4, part_hidden_size=4, spatial_window=4)
    clip = torch.from_numpy(two_people()) + 0.1 * torch.rand(4, 3, 25, 2)
    found = {}
    for opposite in (True, False):
        model = TwoStreamRNN(KINECT_V2, 5, network, extensions, opposite_axes=opposite).eval()
        joints = model.select_joints(pairs(clip))
        features = model.joint_features(joints)
        found[opposite] = features[:, 3:6].norm(dim=1)  # of vectors to the same joint of the other
    expected = (clip[..., 1] - clip[..., 0]).norm(dim=1)  # (T, V)
    torch.testing.assert_close(found[True][0], expected, atol=1e-4, rtol=1e-4)
    assert (found[False][0] - expected).abs().max() > 0.1


def test_a_pair_is_of_two_bodies():
    """An empty third slot changes nothing; a third body is refused."""
    clip = two_people()
    three = np.concatenate((clip, np.zeros_like(clip[..., :1])), 3)
    torch.testing.assert_close(pairs(three).joints, pairs(clip).joints)
    three[..., 2] = clip[..., 0] + 1
    with pytest.raises(ValueError, match=r"of 3 bodies, .*'pair' knows two\nchoose body"):
        pairs(three)


def test_first_pose_is_of_the_body_that_is_visible_first(clips):
    clip = torch.from_numpy(clips[3]).permute(1, 0, 2, 3)[None].clone()

    def pose():
        bodies = BodyBatch.from_dense(clip)
        return first_pose(bodies, visible_frames(bodies.joints))[0]

    assert torch.equal(pose(), clip[0, :, 0, :, 0])
    clip[:, :, :7, :, 0] = 0
    assert torch.equal(pose(), clip[0, :, 0, :, 1])
    clip[:, :, :9, :, 1] = 0
    assert torch.equal(pose(), clip[0, :, 7, :, 0])


# --- Bodies in memory ---------------------------------------------------------------------------------


def test_a_batch_survives_the_way_to_dense_and_back(clips):
    dense = torch.from_numpy(clips[3]).permute(1, 0, 2, 3)[None].repeat(3, 1, 1, 1, 1)
    dense[0, ..., 1], dense[1], dense[2, ..., 0] = 0, 0, 0
    bodies = BodyBatch.from_dense(dense)
    assert bodies.visible.tolist() == [[True, False], [False, False], [False, True]]
    assert bodies.slot.tolist() == [0, 5] and bodies.clip.tolist() == [0, 2]
    assert torch.equal(bodies.to_dense(), dense)


def test_a_body_is_absent_where_all_its_coordinates_are_zero():
    joints = torch.zeros(1, 3, 4, 5)
    joints[0, 2, 1, 4], joints[0, 0, 3, 0] = -1e-30, 1
    assert visible_frames(joints).tolist() == [[False, True, False, True]]


def test_truncated_tracks_are_those_of_clips_that_end_early(clips):
    """Bodies that come later are dropped; the others keep their rows, up to the end."""
    clips[3][:20, ..., 1] = 0
    clips[4][:50] = 0
    bones, count = Preprocess(KINECT_V2, 3).bones, torch.tensor([len(clip) for clip in clips])
    tracks = Tracks.from_frames(torch.from_numpy(np.concatenate(clips)), count, bones)
    for frames in ([15, 1, 70, 20, 50], [15, 1, 70, 21, 51], [0, 0, 0, 0, 0], count.tolist()):
        shown = torch.tensor(frames)
        short = np.concatenate([clip[:n] for clip, n in zip(clips, frames, strict=True)])
        expected = Tracks.from_frames(torch.from_numpy(short), shown, bones)
        early = tracks.truncate(shown, bones)
        assert torch.equal(early.bone_scale, expected.bone_scale)
        assert torch.equal(early.offsets >= 0, expected.offsets >= 0)
        for clip, slot in (expected.offsets >= 0).nonzero().tolist():
            one, other = early.offsets[clip, slot], expected.offsets[clip, slot]
            rows = torch.arange(frames[clip])
            assert torch.equal(early.joints[one + rows], expected.joints[other + rows])


# --- Options that are not allowed ---------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")
FLAGS = (
    "crop_resize", "front_padding", "random_choose", "random_shift", "random_valid_choose", "rand_end",
    "random_move", "rand_uniform",
)  # fmt: skip
NUMBERS = {
    "window_size": [2.5, 50.0, NAN, [50]],
    "p_interval": [0, -0.5, 1.5, NAN, (0.9, 0.5), (0.2, 0.5, 1), (0.5, NAN), (0, 1), (0.5, True), ()],
    "observation_ratio": [0, -0.5, 1.5, NAN, (0.5, 1.0)],
    "rand_rotate": [NAN, -0.3, 17, INF, (0.1, 0.2), (0.1, 0.2, NAN), (0.1, 0.2, "x"), (0.1, 0.2, -1)],
    "rand_scale": [NAN, -0.5, 1, 2, INF, (0.1, 0.2)],
    "rand_bone_scale": [NAN, -0.5, 1, 2, INF, (0.1, 0.2)],
    "rand_noise": [NAN, -0.5, INF, (0.1, 0.2)],
    "rand_crop": [NAN, -0.5, 1.5, (0.1, 0.2)],
    "rand_time_warp": [NAN, -0.5, INF, (0.1, 0.2)],
    "rand_shear": [NAN, -0.5, INF, (0.1, 0.2)],
    "rand_start": [NAN, -0.5, 1, (0.1, 0.2)],
    "rand_prob": [NAN, -0.5, 1.5, (0.1, 0.2)],
    "rand_flip": [NAN, -0.5, 1.5, (0.1, 0.2)],
    "rand_swap_sides": [NAN, -0.5, 1.5, (0.1, 0.2)],
}
ALLOWED = {
    "window_size": "whole number",
    "p_interval": "share of the clip",
    "observation_ratio": "share of the clip",
    "rand_rotate": "one angle or three",
    "rand_scale": "from 0 to less than 1",
    "rand_bone_scale": "from 0 to less than 1",
    "rand_noise": "0 or more",
    "rand_crop": "from 0 to 1",
    "rand_time_warp": "0 or more",
    "rand_shear": "0 or more",
    "rand_start": "from 0 to less than 1",
    "rand_prob": "from 0 to 1",
    "rand_flip": "from 0 to 1",
    "rand_swap_sides": "from 0 to 1",
}
WRONG = [(name, value) for name in FLAGS for value in (1, 0.0, "x", None, [True])]
WRONG += [
    (name, v) for name, values in NUMBERS.items() for v in (*values, "x", True, None, {}, np.ones(2))
]
WRONG += [("normalization", value) for value in (1, 0, None, "end", NAN, [True])]
WRONG += [("origin_transfer", value) for value in (0, 2, True, "hips", "view", ["body"], NAN)]


def test_an_option_that_is_not_allowed_is_named_with_its_value_and_what_is_allowed():
    """Wrong types, not a number, out of range, a bool in place of a number and the other way round."""
    for name, value in WRONG:
        with pytest.raises(ValueError) as caught:
            Preprocess(KINECT_V2, 3, **{name: value})
        fault, remedy = str(caught.value).split("\n", 1)
        assert fault == f"{name}={value!r}".split("\n")[0] + " is not allowed"
        assert remedy.startswith(f"{name} must be ") and ALLOWED.get(name, "") in remedy


@pytest.mark.parametrize(
    "options",
    [
        {"window_size": np.int64(7), "p_interval": np.float32(0.5)},
        {"window_size": 0, "rand_rotate": 0, "rand_scale": 0},
        {"window_size": -1, "rand_rotate": [0.1, 0, np.pi], "rand_flip": 1},
        {"p_interval": [1, 1], "crop_resize": np.bool_(True)},
    ],
)
def test_numbers_of_numpy_and_whole_numbers_are_numbers(options):
    assert Preprocess(KINECT_V2, 3, **options)


NAMELESS = Layout("other", ("a", "b"), (-1, 0), {"all": (0, 1)})


@pytest.mark.parametrize(
    "layout, channels, options, message",
    [
        (KINECT_V2, 3, {"random_choose": True}, "set crop_resize=False"),
        (KINECT_V2, 3, {"random_shift": True}, "set crop_resize=False"),
        (KINECT_V2, 3, {"random_valid_choose": True}, "set crop_resize=False"),
        (KINECT_V2, 3, {"front_padding": True}, "set crop_resize=False"),
        (KINECT_V2, 3, {"rand_end": True}, "rand_end and rand_start need front_padding"),
        (KINECT_V2, 3, {"rand_start": 0.1, "crop_resize": False}, "need front_padding.*\nset it"),
        (
            KINECT_V2, 3, {"front_padding": True, "crop_resize": False, "random_choose": True},
            "exclude front_padding\nuse rand_end",
        ),
        (NAMELESS, 3, {"origin_transfer": "part-centres"}, "'part-centres' needs parts called"),
        (NAMELESS, 3, {"origin_transfer": "pair"}, "'pair' needs parts called"),
        (KINECT_V2, 2, {"origin_transfer": "pair"}, "'pair' needs 3D joints"),
        (KINECT_V2, 2, {}, "'body' needs 3D joints; these have 2 coordinates\nchoose another one"),
        (NAMELESS, 3, {}, "'body' needs parts called left arm, .*; other has all\nchoose another one"),
        (NAMELESS, 3, RAW | {"rand_flip": 0.5}, "joints called 'left ...'"),
        (NAMELESS, 3, RAW | {"rand_swap_sides": 0.5}, "joints called 'left ...'"),
        (NAMELESS, 4, RAW | {"rand_scale": 0.5}, "need 2 or 3 coordinates"),
        (NAMELESS, 4, RAW | {"random_move": True}, "need 2 or 3 coordinates"),
        ("kinect-v2", 3, {}, "layout='kinect-v2' is not allowed\nlayout must be a Layout"),
        (KINECT_V2, 0, {}, "channels=0 is not allowed"),
    ],
)  # fmt: skip
def test_options_that_do_not_go_together(layout, channels, options, message):
    with pytest.raises(ValueError, match=message):
        Preprocess(layout, channels, **options)
