from pathlib import Path

import pytest
import torch

import model as model_module
from layers import POOLINGS
from model import SPATIAL, TEMPORAL, Logits, TwoStreamRNN
from skeletons.layout import KINECT_V1, KINECT_V2, Layout

SMALL = {"units": 8, "part_units": 4, "spatial_window": 10, "dropout": 0.0}
GENERAL = {
    "inputs": ("position", "motion", "bone", "distance"), "input_norm": True, "embedding": 6,
    "view_units": 5, "residual": True, "spatial_stride": 5,
    "layers": 3, "window_layers": 1, "input_dropout": 0.1,
}  # fmt: skip
COMBINATIONS = [(t, s) for t in TEMPORAL for s in SPATIAL]
EACH = pytest.mark.parametrize("temporal, spatial", COMBINATIONS)
STAR = Layout("star", ("middle", "a", "b"), (-1, 0, 0), {"all": (0, 1), "rest": (2,)})


def build(temporal="hierarchical", spatial="traversal", layout=KINECT_V2, classes=7, **options):
    torch.manual_seed(0)
    return TwoStreamRNN(layout, classes, temporal, spatial, **SMALL | options).eval()


def clips(layout=KINECT_V2, frames=20, channels=3):
    """Four clips: one body, two bodies, nobody, only the second place taken."""
    data = torch.randn(4, channels, frames, len(layout.joints), 2, generator=torch.manual_seed(1))
    data[0, ..., 1] = 0
    data[2] = 0
    data[3, ..., 0] = 0
    return data


@EACH
@pytest.mark.parametrize("layout", [KINECT_V2, KINECT_V1, STAR], ids=lambda x: x.name)
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize(
    "options", [{"bidirectional": False}, {}, GENERAL], ids=["one way", "", "general"]
)
def test_every_combination_trains(temporal, spatial, layout, pooling, options):
    model = build(temporal, spatial, layout, pooling=pooling, **options)
    scores = model(clips(layout))
    assert scores.temporal.shape == scores.spatial.shape == (4, 7)
    (scores.temporal.square().sum() + scores.spatial.square().sum()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@EACH
@pytest.mark.parametrize(
    "options", [{}, {"body_fusion": "max"}, GENERAL], ids=["mean", "max", "general"]
)
def test_one_clip_equals_the_same_clip_in_a_batch(temporal, spatial, options):
    model, data = build(temporal, spatial, **options), clips()
    together = model(data)
    for i in range(len(data)):
        alone = model(data[i : i + 1])
        for one, all_of_them in zip(alone, together, strict=True):
            torch.testing.assert_close(one[0], all_of_them[i])


def test_only_bodies_that_are_present_are_run(monkeypatch):
    """The original ran the absent second person through both networks and averaged it in."""
    model, data = build(), clips()
    run = []
    monkeypatch.setattr(
        model.temporal, "forward", lambda x: run.append(len(x)) or x.new_ones(len(x), 16)
    )
    monkeypatch.setattr(
        model.spatial, "forward", lambda x: run.append(len(x)) or x.new_ones(len(x), 16)
    )
    model(data)
    assert run == [4, 4]  # bodies: 1 + 2 + 0 + 1


@pytest.mark.parametrize("fusion", ["mean", "max"])
def test_places_for_bodies_do_not_matter(fusion):
    model, data = build(body_fusion=fusion), clips()
    expected = model(data)
    three_places = torch.cat((data, torch.zeros_like(data[..., :1])), -1)
    for one, two in zip(model(three_places), expected, strict=True):
        torch.testing.assert_close(one, two)
    for one, two in zip(model(data.flip(-1)), expected, strict=True):
        torch.testing.assert_close(one, two)
    for one, two in zip(model(data[:1, ..., :1]), expected, strict=True):
        torch.testing.assert_close(one[0], two[0])


@pytest.mark.parametrize("fusion", ["mean", "max"])
def test_nobody_in_any_clip_is_a_defined_result(fusion):
    model = build(body_fusion=fusion)
    scores = model(torch.zeros(2, 3, 20, 25, 2))
    assert torch.equal(scores.temporal[0], model.temporal_classifier.bias)
    assert model.posterior(scores).isfinite().all()
    assert torch.equal(model(clips())[0][2], model.temporal_classifier.bias)
    sum(scores).sum().backward()  # processes that train together wait for each gradient
    assert all(weights.grad is not None for weights in model.parameters())


def test_a_spatial_step_is_a_joint_and_its_way_through_a_window():
    """In the original a step was a single coordinate of a single joint."""
    for spatial, order in (("chain", KINECT_V2.chain), ("traversal", KINECT_V2.traversal)):
        stream = build(spatial=spatial).spatial
        seen = []
        stream.reader.layers[0].register_forward_hook(
            lambda m, args, out, seen=seen: seen.append(args[0])
        )
        bodies = torch.randn(2, 3, 10, 25)
        stream(bodies)
        (steps,) = seen
        assert steps.shape == (2, len(order), 3 * 10)
        for step, joint in enumerate(order):
            assert torch.equal(steps[:, step], bodies[..., joint].flatten(1))


@pytest.mark.parametrize("frames, starts", [(10, [0]), (20, [0, 10]), (25, [0, 7, 15])])
def test_longer_clips_are_cut_into_windows_that_cover_them(frames, starts):
    stream, bodies = build().spatial, torch.randn(2, 3, frames, 25)
    windows = [stream(bodies[:, :, at : at + 10]) for at in starts]
    torch.testing.assert_close(stream(bodies), torch.stack(windows).mean(0))


def test_windows_overlap_and_are_read_in_order():
    stream, bodies = build(spatial_stride=4, window_layers=1).spatial, torch.randn(2, 3, 20, 25)
    seen = []
    stream.windows.register_forward_hook(lambda m, args, out: seen.append(args[0]))
    stream(bodies)
    assert seen[0].shape == (2, 4, 8)  # part_units in both directions
    for i, at in enumerate((0, 3, 6, 10)):  # 4 frames apart at most, the last one at the end
        steps = bodies[:, :, at : at + 10].permute(0, 3, 1, 2).flatten(2)[:, list(KINECT_V2.traversal)]
        torch.testing.assert_close(seen[0][:, i], stream.reader(steps))


def test_what_is_told_of_a_joint():
    joints = torch.randn(1, 3, 5, 25)
    joints[:, :, 3] = 0  # a frame without the body
    told = build(inputs=("position", "motion", "bone", "distance")).describe(joints)
    position, motion, bone, distance = told.split([3, 3, 3, 25], 1)
    assert torch.equal(position, joints)
    assert torch.equal(motion[:, :, 1:3], joints[:, :, 1:3] - joints[:, :, :2])
    assert not motion[:, :, [0, 3, 4]].any()
    for joint, parent in KINECT_V2.bones:
        assert torch.equal(bone[..., joint], joints[..., joint] - joints[..., parent])
    assert not bone[..., KINECT_V2.root].any()
    apart = (joints[..., None] - joints[..., None, :]).square().sum(1).sqrt()  # (B, T, V, V)
    torch.testing.assert_close(distance.transpose(1, 2), apart, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("channels", [2, 3])
def test_the_view_turns_a_body_as_a_whole(channels):
    """At first hardly at all; it changes no distance, whatever it learned."""
    view = build(view_units=5, channels=channels).view
    bodies = torch.randn(4, channels, 10, 25)
    torch.testing.assert_close(view(bodies), bodies, atol=0.05, rtol=0)
    torch.nn.init.normal_(view.angles.weight)
    turned = view(bodies)
    assert (turned - bodies).abs().amax((1, 2, 3)).min() > 0.1
    before, after = (body[:, :, :, :25].permute(0, 2, 3, 1) for body in (bodies, turned))
    torch.testing.assert_close(torch.cdist(after, after), torch.cdist(before, before))


def test_residual_layers_add_to_what_they_read():
    reader = build(residual=True, layers=3).temporal.body
    for lstm in reader.layers:
        for weights in lstm.parameters():
            torch.nn.init.zeros_(weights)  # says nothing
    sequence = torch.randn(2, 5, reader.enter.in_features)
    torch.testing.assert_close(reader.steps(sequence), reader.norms[-1](reader.enter(sequence)))


def test_a_temporal_part_reads_its_own_joints():
    stream = build().temporal
    body = torch.randn(1, 3, 20, 25)
    for part, joints in zip(stream.parts, KINECT_V2.parts.values(), strict=True):
        seen = []
        part.layers[0].register_forward_hook(lambda m, args, out, seen=seen: seen.append(args[0]))
        stream(body)
        assert torch.equal(seen[0].unflatten(2, (-1, 3)), body[..., list(joints)].permute(0, 2, 3, 1))


def test_last_pooling_is_where_each_direction_has_read_everything():
    reader = model_module.LSTMEncoder(3, 4, 1, True, pooling="last").eval()
    sequence = torch.randn(2, 9, 3)
    _, (state, _) = reader.layers[0](sequence)
    torch.testing.assert_close(reader(sequence), state.transpose(0, 1).flatten(1))


@pytest.mark.parametrize("temporal", TEMPORAL)
def test_dropout_stands_between_the_layers_of_both_streams(temporal):
    """With everything dropped between the layers, what the body does no longer reaches the end."""
    model, one, two = build(temporal, dropout=1.0), clips()[:1], clips()[1:2]
    bodies = [x[..., 0] for x in (one, two)]
    for stream in (model.temporal, model.spatial):
        assert not torch.allclose(*(stream.eval()(b) for b in bodies))
        torch.testing.assert_close(*(stream.train()(b) for b in bodies))


def test_fusion_is_the_weighted_mean_of_posteriors():
    model = build()
    scores = Logits(torch.randn(5, 7), torch.randn(5, 7))
    assert model.temporal_weight == 0.5
    model.temporal_weight = 0.9
    expected = 0.9 * scores.temporal.softmax(1) + 0.1 * scores.spatial.softmax(1)
    torch.testing.assert_close(model.posterior(scores), expected)
    torch.testing.assert_close(model.posterior(scores).sum(1), torch.ones(5))
    for weight, stream in ((1.0, scores.temporal), (0.0, scores.spatial)):
        model.temporal_weight = weight
        torch.testing.assert_close(model.posterior(scores), stream.softmax(1))


def test_streams_share_no_parameters():
    """Their losses add up, so training them together is training each alone (late fusion)."""
    model = build()
    model(clips()).temporal.sum().backward()
    assert all(p.grad is None for p in model.spatial.parameters())


def test_the_authors_and_the_paper_s_settings():
    authors = TwoStreamRNN(KINECT_V2, 60)
    (lstm,) = authors.temporal.body.layers
    assert (lstm.hidden_size, lstm.bidirectional, lstm.input_size) == (512, True, 5 * 2 * 256)
    paper = TwoStreamRNN(KINECT_V2, 60, "stacked", bidirectional=False, pooling="last", part_units=128)
    assert (len(paper.temporal.body.layers), paper.temporal.features) == (2, 512)


def test_the_model_does_not_choose_the_device():
    """The original moved tensors to "cuda" inside the model."""
    source = Path(model_module.__file__).read_text()
    assert ".cuda(" not in source and 'to("cuda' not in source


@pytest.mark.parametrize(
    "options, choices",
    [
        ({"temporal": "lstm"}, "stacked, hierarchical"),
        ({"spatial": "tree"}, "chain, traversal"),
        ({"pooling": "sum"}, "max, mean, last"),
        ({"inputs": ("speed",)}, "position, motion, bone"),
        ({"body_fusion": "sum"}, "mean, max"),
        ({"layers": 1}, "layers >= 2"),
        ({"window_layers": 2}, "fewer than layers=2"),
        ({"temporal_weight": 1.5}, "between 0 and 1"),
    ],
)
def test_unknown_options_list_the_choices(options, choices):
    with pytest.raises(ValueError, match=choices):
        build(**options)


def test_clips_of_another_layout_or_too_short():
    with pytest.raises(ValueError, match="another layout"):
        build()(clips(KINECT_V1))
    with pytest.raises(ValueError, match="4 frames are shorter than the spatial window of 10"):
        build()(clips(frames=4))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@EACH
def test_cpu_equals_gpu(temporal, spatial, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    model, data = build(temporal, spatial), clips()
    here = model(data)
    there = model.to("cuda")(data.to("cuda"))
    for one, two in zip(here, there, strict=True):
        torch.testing.assert_close(two.cpu(), one, atol=1e-4, rtol=1e-4)
