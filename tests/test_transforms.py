"""Transforms: rotation, scale, shear, camera drift, bones, sides, windows."""

import pytest
import torch

from skeletons import transforms


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def joints():
    """(4, 3, 10, 5): two bodies of clip 0, one of clip 1, one of clip 2."""
    return torch.randn(4, 3, 10, 5, generator=generator()) + 2


CLIP = torch.tensor([0, 0, 1, 2])
RANDOM = {
    "matrix": lambda joints, g: transforms.affine(
        joints, transforms.random_matrix(3, (0.5, 0.5, 0.5), 0.2, 0.2, g)[CLIP]
    ),
    "noise": lambda joints, g: transforms.tracking_noise(
        joints, torch.arange(5), torch.ones(4), 1.0, generator=g
    ),
    "move": lambda joints, g: transforms.random_move(joints, CLIP, torch.ones(3), generator=g),
}
EACH = pytest.mark.parametrize("transform", RANDOM.values(), ids=RANDOM.keys())


def test_a_rotation_is_orthogonal_and_keeps_lengths(joints):
    """The original multiplied rotation matrices element by element."""
    matrix = transforms.rotation(torch.randn(4, 3, generator=generator()))
    assert torch.allclose(matrix @ matrix.mT, torch.eye(3).expand(4, 3, 3), atol=1e-6)
    assert torch.allclose(torch.linalg.det(matrix), torch.ones(4), atol=1e-6)
    turned = transforms.affine(joints, matrix)
    assert torch.allclose(turned.norm(dim=1), joints.norm(dim=1), atol=1e-5)
    moved = transforms.affine(joints, matrix, torch.ones(4, 3))
    torch.testing.assert_close(moved, turned + 1)


def test_a_quarter_turn_about_each_axis():
    quarter = torch.pi / 2 * torch.eye(3)
    x, y, z = transforms.rotation(quarter).unbind()
    axes = torch.eye(3)
    assert torch.allclose(x @ axes[1], axes[2], atol=1e-6)
    assert torch.allclose(y @ axes[2], axes[0], atol=1e-6)
    assert torch.allclose(z @ axes[0], axes[1], atol=1e-6)


def test_scaling_and_shear():
    point = torch.tensor([1.0, 2.0, 3.0])
    assert torch.equal(transforms.scaling(torch.tensor([2.0, 3.0, 4.0])) @ point,
                       torch.tensor([2.0, 6.0, 12.0]))  # fmt: skip
    sheared = transforms.shear(torch.tensor([1.0, 0, 0, 10.0, 0, 0])) @ point
    assert torch.equal(sheared, torch.tensor([1.0 + 2, 2 + 30, 3]))
    assert torch.equal(transforms.shear(torch.zeros(6)), torch.eye(3))


def test_random_matrices_stay_within_their_bounds():
    def draw(**kwargs):
        return transforms.random_matrix(2000, generator=generator(), **kwargs)

    angle = torch.arccos(
        ((draw(rotate=(0, 0.3, 0)).diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1)
    )
    assert 0.28 < angle.max() <= 0.3 + 1e-3
    stretch = draw(scale=0.2).diagonal(dim1=1, dim2=2)
    assert 0.8 <= stretch.min() < 0.81 and 1.19 < stretch.max() <= 1.2
    amounts = draw(max_shear=0.1) - torch.eye(3)
    assert 0.099 < amounts.abs().max() <= 0.1
    assert torch.equal(draw(), torch.eye(3).expand(2000, 3, 3))


@EACH
def test_the_generator_alone_decides(transform, joints):
    before = joints.clone()
    first, again = transform(joints, generator(1)), transform(joints, generator(1))
    assert torch.equal(first, again)
    assert not torch.equal(first, transform(joints, generator(2)))
    assert torch.equal(joints, before)  # the input is not changed


@pytest.mark.parametrize("transform", [RANDOM["matrix"], RANDOM["move"]])
def test_each_clip_draws_its_own_numbers_and_its_bodies_move_together(transform):
    one, two, three, four = transform(torch.ones(4, 3, 10, 5), generator())
    assert torch.equal(one, two)
    assert not torch.allclose(one, three) and not torch.allclose(three, four)


def test_one_factor_for_all_axes():
    matrices = transforms.random_matrix(500, scale=0.2, generator=generator(), uniform_scale=True)
    factors = matrices[:, 0, 0]
    torch.testing.assert_close(matrices, factors[:, None, None] * torch.eye(3))
    assert 0.8 <= factors.min() < 0.82 and 1.18 < factors.max() <= 1.2


def test_a_share_of_the_clips_is_transformed():
    amounts = {"rotate": (0.3, 0.3, 0.3), "scale": 0.1, "max_shear": 0.1}
    matrices = transforms.random_matrix(1000, **amounts, generator=generator(), probability=0.3)
    unchanged = (matrices == torch.eye(3)).all(2).all(1)
    assert 0.65 < unchanged.float().mean() < 0.75
    # The others are the same transforms as without a probability.
    every = transforms.random_matrix(1000, **amounts, generator=generator())
    assert torch.equal(matrices[~unchanged], every[~unchanged])


def test_a_random_start_turns_the_first_frames_into_padding():
    positions = torch.arange(100).expand(4000, 100)
    changed = transforms.drop_start(positions, 0.3, 0.5, generator())
    dropped = (changed == -1).sum(1)
    assert torch.equal(changed, torch.where(positions < dropped[:, None], -1, positions))
    assert dropped.unique().tolist() == list(range(31))
    assert 0.46 < (dropped > 0).float().mean() < 0.51  # half of them, of which one in 31 drops none
    assert abs(dropped[dropped > 0].float().mean() - 15.5) < 0.6


def test_crop_takes_consecutive_frames_inside_the_clip():
    frames = torch.tensor([100, 100, 100, 40, 40, 60])
    crop_position = torch.tensor([0.0, 0.999999, 1.0, 0.3, 0.3, 1.0])
    pad_position = torch.tensor([0.3, 0.3, 0.3, 0.0, 1.0, 1.0])
    window = transforms.crop(frames, 60, crop_position=crop_position, pad_position=pad_position)
    assert window[:, 0].tolist() == [0, 40, 40, 0, -20, 0]
    assert (window.diff(dim=1) == 1).all()


def test_the_default_crop_is_the_middle():
    assert transforms.crop(torch.tensor([101]), 1)[0, 0] == 50


def test_random_starts_and_shifts_reach_every_position():
    def starts(frames, **options):
        window = transforms.crop(torch.full((2000,), frames), 8, generator=generator(), **options)
        return window[:, 0].unique().tolist()

    assert starts(12, crop_position=(0, 1)) == [0, 1, 2, 3, 4]
    assert starts(6, pad_position=(0, 1)) == [-2, -1, 0]
    assert starts(12, pad_position=(0, 1)) == [2] and starts(6, crop_position=(0, 1)) == [0]


def test_crop_resize_spans_the_ratio():
    frames = torch.tensor([101, 101, 1])
    whole = transforms.crop_resize(frames, 11)
    assert torch.allclose(whole[0], torch.arange(0, 101, 10.0))
    assert not whole[2].any()
    half = transforms.crop_resize(frames, 11, 0.5, torch.tensor([0.0, 1.0, 1.0]))
    assert torch.allclose(half[0, [0, -1]], torch.tensor([0.0, 49.5]))
    assert torch.allclose(half[1, [0, -1]], torch.tensor([50.5, 100.0]))


def test_random_crop_resize_draws_ratio_and_position():
    frames = torch.full((2000,), 101)
    window = transforms.crop_resize(frames, 11, (0.5, 1.0), (0, 1), generator())
    kept = (window[:, -1] - window[:, 0] + 1) / 101
    assert 0.5 <= kept.min() < 0.51 and 0.99 < kept.max() <= 1
    assert window.min() >= 0 and window.max() <= 100
    position = window[:, 0] / (101 - 101 * kept).clamp(min=1e-3)
    # Drawn independently.
    assert abs(torch.corrcoef(torch.stack((kept, position)))[0, 1]) < 0.1


STILL = {"rotate": 0, "scale": 0, "distance": 0}


@pytest.mark.parametrize(
    "options, changed",
    [({"rotate": 0.5}, "angle"), ({"scale": 0.3}, "size"), ({"distance": 0.5}, "position")],
)
def test_each_drift_alone(options, changed):
    body = torch.randn(1, 3, 1, 6, generator=generator()).expand(1, 3, 10, 6)
    clip, scale = torch.zeros(1).long(), torch.ones(1)

    def move(**amounts):
        return transforms.random_move(body, clip, scale, **amounts, generator=generator())[0]

    assert torch.allclose(move(**STILL), body[0])
    moved = move(**STILL | options)
    before = body[0]
    size = (moved - moved.mean(2, True)).norm(dim=(0, 2))
    size = size / (before - before.mean(2, True)).norm(dim=(0, 2))
    drifts = {
        "size": size.std() > 1e-3,
        "position": (moved.mean(2) - before.mean(2)).norm(dim=0).std() > 1e-3,
        "angle": bool((size - 1).abs().max() < 1e-4 and (moved[0] - before[0]).std() > 1e-2),
    }
    assert drifts[changed]
    # Evenly: each frame is half-way between the one before and the one after.
    assert (moved[:, 5] - moved[:, 4] - (moved[:, 6] - moved[:, 5])).norm() < 0.05


def test_the_largest_drift_is_one_bone_length_in_any_unit():
    """Metres, millimetres, pixels: each clip moves by its own mean bone length at most."""
    count = 500
    body = torch.zeros(count, 3, 2, 1)
    scale = torch.where(torch.arange(count) % 2 == 0, 0.2, 200.0)
    options = STILL | {"distance": 1.0}
    moved = transforms.random_move(body, torch.arange(count), scale, **options, generator=generator())
    largest = moved.abs().amax((1, 2, 3))
    for unit in (0.2, 200.0):
        assert 0.98 * unit < largest[scale == unit].max() <= unit
        assert moved[scale == unit].mean().abs() < 0.1 * unit
    default = transforms.random_move(body, torch.arange(count), scale, 0, 0, generator=generator())
    assert torch.equal(default, moved)


def test_errors_of_tracking_are_of_some_parts_for_a_while():
    """In any unit; the other parts, and the other frames, stay as they are."""
    count, frames, size = 2000, 41, 0.5
    unit = torch.where(torch.arange(count) % 2 == 0, 0.2, 200.0)
    joints, part = torch.ones(count, 3, frames, 5), torch.tensor([0, 1, 1, 2, 0])
    found = transforms.tracking_noise(joints, part, unit, size, generator=generator())
    errors = (found - joints) / unit[:, None, None, None]
    disturbed = errors.any(1)  # (B, T, V)
    joints_of_each = disturbed.any(1)
    assert torch.equal(joints_of_each[:, [0, 1]], joints_of_each[:, [4, 2]])
    assert joints_of_each[:, [0, 1, 3]].float().mean(0).tolist() == pytest.approx([0.3] * 3, abs=0.04)
    # All joints of a body that have errors have them in the same frames, which follow each other.
    in_frames = disturbed.any(2)
    together = in_frames[..., None] == disturbed
    assert together.transpose(1, 2)[joints_of_each].all()
    assert (in_frames.int().diff(dim=1).abs().sum(1) <= 2).all()
    shares = in_frames[in_frames.any(1)].float().mean(1)
    assert 0.05 <= shares.min() < 0.15 and shares.max() > 0.95 and 0.4 < shares.mean() < 0.6
    # Of bodies of the same unit, errors have the same distribution: of a normal one with a standard
    # deviation between 0 and 0.5, where they are drawn, and smaller between these 6 times.
    for each in (0, 1):
        drawn = errors[each::2, :, ::8].transpose(1, 3)[disturbed[each::2, ::8].transpose(1, 2)]
        assert drawn.std() == pytest.approx(size / 3**0.5, rel=0.1) and drawn.mean().abs() < 0.02
    steps = errors[in_frames[:, :9].all(1)].diff(dim=2)[:, :, :8]  # between the first two times
    torch.testing.assert_close(steps, steps[:, :, :1].expand_as(steps), atol=1e-5, rtol=0)


def sample(values, positions):
    """A body of one coordinate, zero where it is absent, at some positions -> (values, visible)."""
    values = torch.tensor(values)[:, None]
    tracks = (
        torch.cat((torch.full((3, 1), 9.0), values)),
        torch.cat((torch.ones(3), values[:, 0])) > 0,
    )
    offset, count = torch.tensor([3]), torch.tensor([len(values)])
    joints, visible = transforms.sample(tracks, offset, count, torch.tensor([positions]))
    return joints[0, :, 0].tolist(), visible[0].tolist()


def test_sample_interpolates_and_no_body_is_visible_outside_of_the_clip():
    values, visible = sample([1.0, 2, 3, 4], [-1, 0, 0.5, 2.25, 3, 4])
    assert values[1:-1] == [1, 1.5, 3.25, 4] and visible == [False, True, True, True, True, False]
    values, visible = sample([1.0, 2, 3, 4], [-1, 0, 1, 2, 3, 4])  # whole numbers
    assert values[1:-1] == [1, 2, 3, 4] and visible == [False, True, True, True, True, False]


def test_sample_does_not_move_a_lost_body_towards_the_origin():
    values, visible = sample([1.0, 0, 1, 1], [0, 0.25, 0.75, 1, 1.25, 1.75, 2])
    assert values == [1, 1, 1, 0, 1, 1, 1] and visible == [value == 1 for value in values]


def test_time_warping_changes_the_speed_and_neither_order_nor_ends(monkeypatch):
    """The logarithm of the speed has the standard deviation that was asked for. With deterministic
    algorithms it is the same, without Tensor.cumsum, which raises an error there on a GPU."""
    even = transforms.crop_resize(torch.full((4000,), 81), 41)
    warped = transforms.time_warp(even, 0.3, generator=generator())
    assert torch.equal(warped[:, 0], even[:, 0])
    torch.testing.assert_close(warped[:, -1], even[:, -1])
    speed = warped.diff(dim=1)
    assert (speed > 0).all()
    # At the ends the speed is drawn, elsewhere interpolated, and all of it is divided by its mean.
    ratio = (speed[:, 0] / speed[:, -1]).log()
    assert 0.9 < ratio.std() / (0.3 * 2**0.5) < 1.1 and ratio.mean().abs() < 0.03
    assert len({round(float(one), 4) for one in speed[:, 0]}) > 1000  # each clip draws its own
    assert transforms.time_warp(even, 1000.0, generator=generator()).isfinite().all()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
        patch.setattr(torch.Tensor, "cumsum", None)
        torch.testing.assert_close(transforms.time_warp(even, 0.3, generator=generator()), warped)
    for frames in (1, 2):
        short = transforms.crop_resize(torch.tensor([7, 9]), frames)
        assert torch.equal(transforms.time_warp(short, 0.3), short)


def test_crop_keeps_a_ratio_of_the_clip():
    frames = torch.tensor([100, 100, 10, 1])
    window = transforms.crop(frames, 60, ratio=0.3, crop_position=torch.tensor([0.0, 1.0, 0.5, 0.5]))
    inside = [
        row[(row >= 0) & (row < count)].tolist() for row, count in zip(window, frames, strict=True)
    ]
    assert inside == [list(range(30)), list(range(70, 100)), [4, 5, 6], [0]]
    window = transforms.crop(frames, 20, ratio=(0.3, 0.9), crop_position=(0.0, 1.0))
    for row, count in zip(window, frames, strict=True):
        inside = row[(row >= 0) & (row < count)]
        assert len(inside) and (inside.diff() == 1).all()
