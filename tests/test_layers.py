"""What the networks are made of: layers.py and extensions.py."""

import pytest
import torch
from test_model import CAUSAL, EACH, build, clips, inputs_of
from torch import nn

from extensions import joint_distances
from layers import POOLINGS, Dropout, LSTMEncoder, cumulative_pool
from skeletons.batch import BodyBatch, visible_first, visible_frames
from skeletons.layout import KINECT_V2

# The extensions.


def test_modalities():
    joints = torch.randn(1, 3, 5, 25)
    joints[:, :, 3] = 0  # a frame without the body
    features = build(modalities=("distance", "motion", "bone", "joint")).joint_features(joints)
    joint, motion, bone, distance = features.split([3, 3, 3, 25], 1)
    assert torch.equal(joint, joints)
    assert torch.equal(motion[:, :, 1:3], joints[:, :, 1:3] - joints[:, :, :2])
    assert not motion[:, :, [0, 3, 4]].any()
    for child, parent in KINECT_V2.bones:
        assert torch.equal(bone[..., child], joints[..., child] - joints[..., parent])
    assert not bone[..., KINECT_V2.root].any()
    expected = (joints[..., None] - joints[..., None, :]).square().sum(1).sqrt()  # (B, T, V, V)
    torch.testing.assert_close(distance.transpose(1, 2), expected, atol=1e-5, rtol=1e-5)
    only_bones = build(modalities=("bone",)).joint_features
    assert only_bones.output_size == 3 and torch.equal(only_bones(joints), bone)


def test_the_partner_is_the_other_body_where_both_are_visible():
    clip = torch.randn(1, 3, 5, 25, 2)
    clip[0, :, 3, :, 0], clip[0, :, 4, :, 1] = 0, 0
    joints = BodyBatch.from_dense(clip).with_partners()
    features = build(modalities=("partner", "joint")).joint_features(joints)
    for own, other in ((0, 1), (1, 0)):
        assert torch.equal(joints[own], torch.cat((clip[0, ..., own], clip[0, ..., other]), 2))
        joint, offset, distance = features[own].split([3, 3, 25])
        assert torch.equal(joint, clip[0, ..., own])
        expected = clip[0, :, :3, :, other] - clip[0, :, :3, :, own]
        assert torch.equal(offset[:, :3], expected)
        for i, j in ((0, 0), (3, 7)):  # j of the other body
            between = (clip[0, :, :3, j, other] - clip[0, :, :3, i, own]).norm(dim=0)
            torch.testing.assert_close(distance[j, :3, i], between)
        assert not offset[:, 3:].any() and not distance[:, 3:].any()


def test_frames_without_a_partner_do_not_count_in_input_norm():
    partner = build(modalities=("joint", "partner"), input_norm=True).joint_features.partner.train()
    joints, other = torch.randn(2, 4, 3, 20, 25)
    expected = partner(joints, other)
    torch.testing.assert_close(expected.mean((0, 2)), torch.zeros(28, 25), atol=1e-5, rtol=0)
    alone = torch.cat((other, torch.zeros_like(other)))  # four more bodies, without a partner
    found = partner(torch.cat((joints, joints + 9)), alone)
    torch.testing.assert_close(found[:4], expected)
    assert not found[4:].any()


def test_input_norm_normalises_each_feature_of_each_joint():
    joint_features = build(modalities=("joint", "bone"), input_norm=True).joint_features.train()
    joints = 5 + 3 * torch.randn(4, 3, 20, 25)
    features = joint_features(joints)
    mean, std = features.mean((0, 2)), features.std((0, 2), unbiased=False)  # (6, V)
    torch.testing.assert_close(mean, torch.zeros(6, 25), atol=1e-5, rtol=0)
    expected = torch.ones(6, 25)
    expected[3:, KINECT_V2.root] = 0  # the root has no bone
    torch.testing.assert_close(std, expected, atol=1e-4, rtol=0)


def test_frames_without_the_body_do_not_count_in_input_norm():
    """They change neither what the others become nor the running statistics."""
    joint_features = build(modalities=("joint",), input_norm=True).joint_features.train()
    joints = 5 + 3 * torch.randn(4, 3, 20, 25)
    expected = joint_features(joints)
    running = {name: values.clone() for name, values in joint_features.norm.named_buffers()}
    joint_features.norm.reset_running_stats()
    padded = nn.functional.pad(joints, (0, 0, 0, 9, 0, 0, 0, 2))  # two absent bodies, nine empty frames
    torch.testing.assert_close(joint_features(padded)[:4, :, :20], expected)
    for name, values in joint_features.norm.named_buffers():
        torch.testing.assert_close(values, running[name])
    reference = nn.BatchNorm1d(75).train()
    reference(joints.transpose(2, 3).flatten(1, 2))
    torch.testing.assert_close(joint_features.norm.running_var, reference.running_var)
    torch.testing.assert_close(joint_features.norm.running_mean, reference.running_mean)


@pytest.mark.parametrize("channels", [2, 3])
def test_view_adaptation_rotates_a_body_as_a_whole(channels):
    """At first hardly at all. It never changes a distance."""
    view_adaptation = build(view_adaptation=5, channels=channels).view_adaptation
    bodies = torch.randn(4, channels, 10, 25)
    torch.testing.assert_close(view_adaptation(bodies), bodies, atol=0.05, rtol=0)
    nn.init.normal_(view_adaptation.angles.weight)
    rotated = view_adaptation(bodies)
    assert (rotated - bodies).abs().amax((1, 2, 3)).min() > 0.1
    every = [joints.flatten(2)[:, :, None] for joints in (bodies, rotated)]  # all joints, all frames
    torch.testing.assert_close(*(joint_distances(joints, joints) for joints in every))
    pairs = torch.cat((bodies, bodies.flip(0)), 3)  # a partner is rotated as the body is
    torch.testing.assert_close(view_adaptation(pairs)[..., :25], rotated)
    before, after = (joint_distances(*x.split(25, 3)) for x in (pairs, view_adaptation(pairs)))
    torch.testing.assert_close(after, before)


def test_residual_layers_add_to_their_input():
    encoder = build(residual=True, num_layers=3).temporal.whole_body
    assert len(encoder.layers) == 2
    sequence = torch.randn(2, 5, encoder.input_proj.in_features)
    expected = encoder.input_proj(sequence)
    for lstm, norm in zip(encoder.layers, encoder.norms, strict=False):
        expected = expected + lstm(norm(expected))[0]
    torch.testing.assert_close(encoder.hidden_states(sequence), encoder.norms[-1](expected))


def test_dropout_is_of_what_a_residual_layer_adds():
    encoder = build(residual=True, num_layers=3, dropout=1.0).temporal.whole_body.train()
    sequence = torch.randn(2, 5, encoder.input_proj.in_features)
    expected = encoder.norms[-1](encoder.input_proj(sequence))
    assert torch.equal(encoder.hidden_states(sequence), expected)


def test_input_dropout_is_of_the_temporal_stream():
    model, data = build("stacked", input_dropout=1.0).train(), clips()
    inputs = [inputs_of(model.temporal.whole_body), inputs_of(model.spatial.rnn)]
    model(data)
    assert not inputs[0][0].any() and inputs[1][0].any()


# Causal reading.


@EACH
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize(
    "options", [{"window_layers": 1}, {"num_layers": 2, "spatial_stride": 12}, CAUSAL]
)
def test_a_causal_network_does_not_see_the_future(temporal, spatial, pooling, options):
    """In one piece, in pieces, and with another end: the features after a frame stay the same."""
    options = {"causal": True, "spatial_stride": 4, "pooling": pooling} | options
    model = build(temporal, spatial, **options)
    features = model.joint_features(torch.randn(2, 3, 26, 50))  # with partners
    changed = features.clone()
    changed[:, :, 17:] = torch.randn_like(changed[:, :, 17:])
    for stream in (model.temporal, model.spatial):
        whole, state = stream.step(features), {}
        pieces = [stream.step(piece, state) for piece in features.split([1, 2, 13, 10], 2)]
        torch.testing.assert_close(torch.cat(pieces, 1), whole)
        assert torch.equal(stream.step(changed)[:, :17], whole[:, :17])
        assert not torch.allclose(stream.step(changed)[:, 25], whole[:, 25])
        for t in (4, 25):  # the last frame changes the features if it ends a window
            torch.testing.assert_close(stream.step(features[:, :, : t + 1])[:, t], whole[:, t])


def test_causal_windows_end_at_every_stride():
    stream = build(causal=True, spatial_stride=4).spatial  # windows of 10 frames
    features = torch.randn(1, 3, 13, 25)
    padded = torch.cat((torch.zeros(1, 3, 6, 25), features), 2)
    windows = [stream.stream(padded[:, :, end - 4 : end + 6]) for end in (4, 8, 12)]
    outputs = stream.step(features)[0]
    assert not outputs[:3].any()
    for t in range(3, 13):
        expected = torch.cat(windows[: (t + 1) // 4]).mean(0)  # the mean over the windows so far
        torch.testing.assert_close(outputs[t], expected)


def test_a_causal_network_skips_frames_without_the_body():
    model, data = build(**CAUSAL), clips()[:1]
    expected = model(data)
    with_gaps = torch.zeros(1, 3, 26, 25, 2)
    with_gaps[:, :, [*range(2, 9), *range(12, 25)]] = data
    for logits, stream in zip(model(with_gaps), expected, strict=True):
        torch.testing.assert_close(logits, stream)
    joints = visible_first(with_gaps[..., 0], visible_frames(with_gaps[..., 0]))
    assert torch.equal(joints[:, :, :20], data[..., 0]) and not joints[:, :, 20:].any()


# The layers.


def test_last_pooling_is_the_final_state_of_each_direction():
    encoder = LSTMEncoder(3, 4, pooling="last")
    sequence = torch.randn(2, 9, 3)
    _, (state, _) = encoder.layers[0](sequence)
    torch.testing.assert_close(encoder(sequence), state.transpose(0, 1).flatten(1))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_cumulative_pooling_is_the_pooling_of_each_prefix(pooling):
    outputs, state = torch.randn(2, 9, 4), {}
    pieces = [cumulative_pool(piece, pooling, state) for piece in outputs.split([1, 3, 5], 1)]
    pool = {"max": lambda x: x.amax(1), "mean": lambda x: x.mean(1), "last": lambda x: x[:, -1]}
    expected = [pool[pooling](outputs[:, : i + 1]) for i in range(9)]
    torch.testing.assert_close(torch.cat(pieces, 1), torch.stack(expected, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_deterministic_algorithms_need_no_cumsum_and_lose_no_precision(dtype, monkeypatch):
    """Tensor.cumsum raises an error on a GPU with deterministic algorithms."""
    outputs = torch.rand(2, 600, 4).to(dtype)
    expected = cumulative_pool(outputs, "mean", {})
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    monkeypatch.setattr(torch.Tensor, "cumsum", None)
    torch.testing.assert_close(cumulative_pool(outputs, "mean", {}), expected)


@pytest.mark.parametrize("p", [0.0, 0.001, 0.3, 0.5, 1.0])
def test_dropout_keeps_the_mean(p):
    torch.manual_seed(0)
    dropout, x = Dropout(p), torch.ones(300, 301)
    assert torch.equal(dropout.eval()(x), x)
    y = dropout.train()(x)
    dropped = (y == 0).float().mean().item()
    assert dropped == pytest.approx(p, abs=0.01) and (dropped > 0) == (p > 0)
    if p < 1:
        assert y.max().item() == pytest.approx(1 / (1 - dropped), rel=0.01)
        assert y.unique().numel() == (2 if p else 1)
        assert not p or not torch.equal(dropout(x), y)
