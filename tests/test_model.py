"""The networks of model.py, with and without the components of extensions.py."""

import json
from dataclasses import FrozenInstanceError, asdict, fields

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from extensions import ExtensionConfig
from layers import PERSON_POOLINGS, POOLINGS, Dropout
from model import SPATIAL, TEMPORAL, Logits, NetworkConfig, TwoStreamRNN
from skeletons.batch import BodyBatch
from skeletons.layout import KINECT_V1, KINECT_V2, Layout

SMALL = {"hidden_size": 6, "part_hidden_size": 3, "spatial_window": 10, "dropout": 0.0}
GENERAL = {
    "modalities": ("joint", "motion", "bone", "distance", "partner"), "input_norm": True,
    "view_adaptation": 5, "residual": True, "spatial_stride": 5,
    "num_layers": 3, "window_layers": 1, "input_dropout": 0.1,
}  # fmt: skip
CAUSAL = GENERAL | {"view_adaptation": 0, "causal": True, "spatial_stride": 4}
COMBINATIONS = [(t, s) for t in TEMPORAL for s in SPATIAL]
EACH = pytest.mark.parametrize("temporal, spatial", COMBINATIONS)
STAR = Layout("star", ("middle", "a", "b"), (-1, 0, 0), {"all": (0, 1), "rest": (2,)})


def configs(**options):
    """Options by name -> NetworkConfig and ExtensionConfig."""
    of_network = {field.name for field in fields(NetworkConfig)}
    network = {name: value for name, value in options.items() if name in of_network}
    extensions = {name: value for name, value in options.items() if name not in of_network}
    return NetworkConfig(**network), ExtensionConfig(**extensions)


def build(temporal="hierarchical", spatial="traversal", layout=KINECT_V2, channels=3, **options):
    torch.manual_seed(0)
    options = SMALL | {"temporal": temporal, "spatial": spatial} | options
    return TwoStreamRNN(layout, 7, *configs(**options), channels).eval()


def clips(layout=KINECT_V2, frames=20, channels=3):
    """Four clips: one body, two bodies, no body, a body in the second slot only."""
    data = torch.randn(4, channels, frames, len(layout.joints), 2, generator=torch.manual_seed(1))
    data[0, ..., 1] = 0
    data[2] = 0
    data[3, ..., 0] = 0
    return data


def inputs_of(module):
    """The list of the first inputs that a module will get."""
    inputs = []
    module.register_forward_hook(lambda module, args, output: inputs.append(args[0]))
    return inputs


# The paper's networks.


def encode(encoder, sequence, pooling):
    """The paper's RNN over one sequence (S, inputs) -> (F,)."""
    for lstm in encoder.layers:
        sequence, (state, _) = lstm(sequence)
    return {"max": sequence.amax(0), "mean": sequence.mean(0), "last": state.flatten()}[pooling]


def paper_features(model, layout, body, pooling):
    """Both streams as the paper tells them, for one body (C, T, V) as long as a window -> two (F,)."""
    frames = body.permute(1, 2, 0)  # (T, V, C)
    if model.temporal.parts:
        joints = [frames[:, list(part)].flatten(1) for part in layout.parts.values()]
        per_part = zip(model.temporal.parts, joints, strict=True)
        frames = torch.cat([part.layers[0](sequence)[0] for part, sequence in per_part], 1)
    order = {len(layout.chain): layout.chain, len(layout.traversal): layout.traversal}
    order = order[len(model.spatial.order)]
    steps = torch.stack([body[:, :, joint].flatten() for joint in order])  # (S, C T)
    temporal = encode(model.temporal.whole_body, frames.flatten(1), pooling)
    return temporal, encode(model.spatial.rnn, steps, pooling)


@EACH
@pytest.mark.parametrize("pooling, bidirectional", [("max", True), ("last", False), ("mean", True)])
def test_without_extensions_the_networks_are_the_paper_s(temporal, spatial, pooling, bidirectional):
    model = build(temporal, spatial, pooling=pooling, bidirectional=bidirectional)
    data = clips(frames=10)
    logits = model(data)
    for i, bodies in enumerate(([0], [0, 1], [], [1])):
        of_bodies = [paper_features(model, KINECT_V2, data[i, ..., m], pooling) for m in bodies]
        for stream, classifier in enumerate((model.temporal_classifier, model.spatial_classifier)):
            features = torch.zeros(classifier.in_features)
            if bodies:
                features = torch.stack([body[stream] for body in of_bodies]).mean(0)
            torch.testing.assert_close(logits[stream][i], classifier(features))


def lstm_parameters(inputs, hidden, directions=2):
    return directions * 4 * hidden * (inputs + hidden + 2)


def test_the_default_sizes_are_the_authors():
    assert (NetworkConfig().temporal, NetworkConfig().spatial) == ("hierarchical", "traversal")
    model = TwoStreamRNN(KINECT_V2, 60)
    parts = sum(lstm_parameters(3 * len(part), 256) for part in KINECT_V2.parts.values())
    temporal = parts + lstm_parameters(5 * 2 * 256, 512)
    spatial = lstm_parameters(3 * 100, 512) + lstm_parameters(2 * 512, 512)
    classifiers = 2 * (2 * 512 + 1) * 60
    assert sum(p.numel() for p in model.parameters()) == temporal + spatial + classifiers
    dropouts = {layer.p for layer in model.modules() if isinstance(layer, Dropout) if layer.p}
    assert dropouts == {0.5} and model.temporal.whole_body.pooling == model.spatial.rnn.pooling == "max"
    text = NetworkConfig("stacked", "chain", bidirectional=False, pooling="last")
    model = TwoStreamRNN(KINECT_V2, 60, text)
    stacked = lstm_parameters(75, 512, 1) + lstm_parameters(512, 512, 1)
    chain = lstm_parameters(300, 512, 1) + lstm_parameters(512, 512, 1)
    assert sum(p.numel() for p in model.parameters()) == stacked + chain + 2 * (512 + 1) * 60


@pytest.mark.parametrize("temporal", TEMPORAL)
def test_dropout_before_the_classifiers_only(temporal):
    """Features do not vary in training, class scores do."""
    model = build(temporal, dropout=0.5, dropout_between_layers=False).train()
    joints = clips(frames=10)[[0], ..., 0]
    one, two = model.encode(joints), model.encode(joints)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    data = clips(frames=10)
    assert not any(torch.equal(a, b) for a, b in zip(model(data), model(data), strict=True))
    between = build(temporal, dropout=0.5).train()
    assert not any(map(torch.equal, between.encode(joints), between.encode(joints)))


def test_averaging_the_features_of_windows_averages_their_class_scores():
    """So the port's mean over the scores of four windows needs no option."""
    model, data = build(spatial_window=25), clips(frames=100)
    windows = [build(spatial_window=25)(data[:, :, at : at + 25]).spatial for at in range(0, 100, 25)]
    torch.testing.assert_close(model(data).spatial, torch.stack(windows).mean(0))


def test_initial_weights_of_the_authors_code():
    model = build(hidden_size=40, part_hidden_size=40, weight_init="normal", **GENERAL)
    for part in (model.temporal, model.spatial, model.temporal_classifier, model.spatial_classifier):
        for module in part.modules():
            if isinstance(module, nn.LSTM):
                assert abs(module.weight_hh_l0.std() - 0.1) < 0.005 and not module.bias_hh_l0.any()
            elif isinstance(module, nn.Linear):
                inputs, outputs = module.in_features, module.out_features
                bound = (6 / (inputs + outputs)) ** 0.5
                assert 0.97 * bound < module.weight.abs().max() <= bound and not module.bias.any()
    # Angles of a learned view are close to zero at first, whatever the streams begin with.
    assert model.view_adaptation.angles.weight.abs().max() < 0.01
    with pytest.raises(ValueError, match="weight_init='zero' is unknown\nchoose from default, normal"):
        build(weight_init="zero")


def test_where_the_chain_joins_the_legs():
    for legs, order in (("feet", KINECT_V2.chain), ("hips", KINECT_V2.chain_at_hips)):
        assert tuple(build(spatial="chain", chain_legs=legs).spatial.order.tolist()) == order
        assert tuple(build(chain_legs=legs).spatial.order.tolist()) == KINECT_V2.traversal
    with pytest.raises(ValueError, match="chain_legs='hands' is unknown\nchoose from feet, hips"):
        build(chain_legs="hands")


@pytest.mark.parametrize("layout", [KINECT_V2, KINECT_V1, STAR], ids=lambda x: x.name)
@pytest.mark.parametrize(
    "options", [{"bidirectional": False}, {}, GENERAL], ids=["one way", "", "general"]
)
@pytest.mark.parametrize("pooling", POOLINGS)
@EACH
def test_every_combination_trains(temporal, spatial, layout, pooling, options):
    model = build(temporal, spatial, layout, pooling=pooling, **options).train()
    logits = model(clips(layout, frames=12))
    assert logits.temporal.shape == logits.spatial.shape == (4, 7)
    sum(stream.square().sum() for stream in logits).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


# Bodies and clips.


@EACH
@pytest.mark.parametrize(
    "options",
    [{}, {"person_pooling": "max"}, GENERAL, CAUSAL],
    ids=["mean", "max", "general", "causal"],
)
def test_one_clip_equals_the_same_clip_in_a_batch(temporal, spatial, options):
    model, data = build(temporal, spatial, **options), clips()
    batch = model(data)
    for i in range(len(data)):
        for alone, in_batch in zip(model(data[i : i + 1]), batch, strict=True):
            torch.testing.assert_close(alone[0], in_batch[i])


def test_only_bodies_that_are_present_are_run():
    """The original ran the absent second person through both networks and averaged it in."""
    model = build()
    inputs = [inputs_of(model.temporal), inputs_of(model.spatial)]
    model(clips())
    assert [[len(bodies) for bodies in stream] for stream in inputs] == [[4], [4]]  # 1 + 2 + 0 + 1


@pytest.mark.parametrize("pooling", PERSON_POOLINGS)
def test_the_slots_of_bodies_do_not_matter(pooling):
    model, data = build(person_pooling=pooling), clips()
    expected = model(data)
    three_slots = torch.cat((data, torch.zeros_like(data[..., :1])), -1)
    for same in (three_slots, data.flip(-1), BodyBatch.from_dense(data)):
        for logits, stream in zip(model(same), expected, strict=True):
            torch.testing.assert_close(logits, stream)
    for logits, stream in zip(model(data[:1, ..., :1]), expected, strict=True):
        torch.testing.assert_close(logits[0], stream[0])


@pytest.mark.parametrize("options", [GENERAL, CAUSAL], ids=["general", "causal"])
def test_a_body_is_read_with_its_partner(options):
    """Whichever slots they are in, and where one comes later. Alone, as if without this modality."""
    model, data = build(**options), clips()
    data[1, :, :9, :, 1] = 0
    logits, swapped = model(data), model(data.flip(-1))
    for found, expected in zip(swapped, logits, strict=True):
        torch.testing.assert_close(found, expected)
    moved = data.clone()
    moved[1, ..., 0] += data[1, ..., 0].any(0, keepdim=True)  # one of the bodies, away from the other
    features = [model.encode(model.select_joints(BodyBatch.from_dense(x)))[0][2] for x in (data, moved)]
    assert not torch.allclose(*features)  # of the other one
    for parameter in model.joint_features.partner.parameters():
        nn.init.normal_(parameter, std=9)
    for found, expected in zip(model(data), logits, strict=True):
        torch.testing.assert_close(found[[0, 2, 3]], expected[[0, 2, 3]])
        assert not torch.allclose(found[1], expected[1])


def test_a_partner_is_one_body():
    data = clips()
    with pytest.raises(ValueError, match=r"3 bodies, .* partner can read two\nleave the other"):
        build(**GENERAL)(torch.cat((data, data[..., :1]), -1))


@pytest.mark.parametrize("pooling", PERSON_POOLINGS)
def test_features_of_several_persons_are_pooled(pooling):
    model, data = build(person_pooling=pooling), clips()[1:2]
    streams = model.encode(BodyBatch.from_dense(data).joints)  # of two bodies
    pooled = [features.mean(0) if pooling == "mean" else features.amax(0) for features in streams]
    assert (pooled[0] < 0).any()  # which the zeros of an absent body would exceed
    for slots in (data, torch.cat((data, torch.zeros_like(data)), -1)):
        logits = model(slots)
        torch.testing.assert_close(logits.temporal[0], model.temporal_classifier(pooled[0]))
        torch.testing.assert_close(logits.spatial[0], model.spatial_classifier(pooled[1]))


@pytest.mark.parametrize(
    "options", [{"person_pooling": "mean"}, {"person_pooling": "max"}, GENERAL, CAUSAL]
)
def test_a_batch_without_any_body_is_a_defined_result(options):
    model = build(**options).train()
    bodies = [inputs_of(lstm) for lstm in model.modules() if isinstance(lstm, nn.LSTM)]
    logits = model(torch.zeros(2, 3, 20, 25, 2))
    assert all(len(inputs[0]) for inputs in bodies)  # cuDNN reads no empty batch
    assert torch.equal(logits.temporal[0], model.temporal_classifier.bias)
    assert torch.equal(logits.spatial[1], model.spatial_classifier.bias)
    assert torch.equal(model(clips()).temporal[2], model.temporal_classifier.bias)
    sum(logits).sum().backward()  # processes that train together wait for each gradient
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert all(buffer.isfinite().all() for buffer in model.buffers())


# The streams.


@pytest.mark.parametrize("spatial", SPATIAL)
def test_a_spatial_step_is_a_joint_in_a_window(spatial):
    """In the original a step was a single coordinate of a single joint."""
    order = getattr(KINECT_V2, spatial)
    stream = build(spatial=spatial).spatial
    inputs = inputs_of(stream.rnn.layers[0])
    bodies = torch.randn(2, 3, 10, 25)
    stream(bodies)
    (steps,) = inputs
    assert steps.shape == (2, len(order), 3 * 10)
    for step, joint in enumerate(order):
        assert torch.equal(steps[:, step], bodies[..., joint].flatten(1))


@pytest.mark.parametrize("frames, starts", [(10, [0]), (20, [0, 10]), (25, [0, 7, 15])])
def test_longer_clips_are_cut_into_windows_that_cover_them(frames, starts):
    stream, bodies = build().spatial, torch.randn(2, 3, frames, 25)
    windows = [stream(bodies[:, :, start : start + 10]) for start in starts]
    torch.testing.assert_close(stream(bodies), torch.stack(windows).mean(0))


def test_windows_overlap_and_are_read_in_order():
    stream, bodies = build(spatial_stride=4, window_layers=1).spatial, torch.randn(2, 3, 20, 25)
    inputs = inputs_of(stream.across_windows)
    output = stream(bodies)
    assert inputs[0].shape == (2, 4, 6)  # part_hidden_size in both directions
    for i, start in enumerate((0, 3, 6, 10)):  # 4 frames apart at most, the last one at the end
        window = bodies[:, :, start : start + 10]
        steps = window.permute(0, 3, 1, 2).flatten(2)[:, list(KINECT_V2.traversal)]
        torch.testing.assert_close(inputs[0][:, i], stream.rnn(steps))
    reversed_windows = stream.across_windows(inputs[0].flip(1))
    assert not torch.allclose(output, reversed_windows)


def test_a_temporal_part_reads_its_own_joints():
    stream = build().temporal
    inputs = [inputs_of(part.layers[0]) for part in stream.parts]
    body = torch.randn(1, 3, 20, 25)
    stream(body)
    for (sequence,), joints in zip(inputs, KINECT_V2.parts.values(), strict=True):
        expected = body[..., list(joints)].permute(0, 2, 3, 1)
        assert torch.equal(sequence.unflatten(2, (-1, 3)), expected)


@pytest.mark.parametrize("temporal", TEMPORAL)
def test_dropout_is_between_the_layers_of_both_streams(temporal):
    """With everything dropped between the layers, the input does not reach the output."""
    model, data = build(temporal, dropout=1.0), clips()
    for stream in (model.temporal, model.spatial):
        assert not torch.allclose(stream.eval()(data[:1, ..., 0]), stream(data[1:2, ..., 0]))
        torch.testing.assert_close(stream.train()(data[:1, ..., 0]), stream(data[1:2, ..., 0]))


def test_dropout_is_before_the_classifiers():
    model = build(dropout=1.0).train()
    for logits, classifier in zip(
        model(clips()), (model.temporal_classifier, model.spatial_classifier), strict=True
    ):
        assert torch.equal(logits, classifier.bias.expand(4, 7))


def test_fusion_is_the_weighted_mean_of_posteriors():
    model = build()
    logits = Logits(torch.randn(5, 7), torch.randn(5, 7))
    assert model.temporal_weight == 0.5
    model.temporal_weight = 0.9
    expected = 0.9 * logits.temporal.softmax(1) + 0.1 * logits.spatial.softmax(1)
    torch.testing.assert_close(model.posterior(logits), expected)
    torch.testing.assert_close(model.posterior(logits).sum(1), torch.ones(5))
    for weight, stream in ((1.0, logits.temporal), (0.0, logits.spatial)):
        model.temporal_weight = weight
        torch.testing.assert_close(model.posterior(logits), stream.softmax(1))


@pytest.mark.parametrize("stream, other", [("temporal", "spatial"), ("spatial", "temporal")])
def test_streams_share_no_parameters(stream, other):
    """Their losses add up, so training them together is training each alone (late fusion)."""
    model = build()
    getattr(model(clips()), stream).sum().backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, _ in model.named_parameters() if name.startswith(stream)}
    assert not any(name.startswith(other) for name in trained)


# Settings.


@pytest.mark.parametrize("options", [{}, GENERAL, CAUSAL], ids=["default", "general", "causal"])
def test_a_configuration_and_weights_make_the_same_network(options):
    """Through JSON, as in config.json, and from the dict of a checkpoint."""
    model, configurations = build(**options), configs(**SMALL | options)
    for configuration in configurations:
        assert type(configuration)(**asdict(configuration)) == configuration
        with pytest.raises(FrozenInstanceError):
            configuration.temporal = "stacked"
    torch.manual_seed(9)
    read = [json.loads(json.dumps(asdict(configuration))) for configuration in configurations]
    other = TwoStreamRNN(KINECT_V2, 7, NetworkConfig(**read[0]), ExtensionConfig(**read[1])).eval()
    assert not torch.allclose(other(clips()).temporal, model(clips()).temporal)
    other.load_state_dict(model.state_dict())
    for logits, expected in zip(other(clips()), model(clips()), strict=True):
        assert torch.equal(logits, expected)


@pytest.mark.parametrize(
    "options, choices",
    [
        ({"temporal": "lstm"}, "temporal='lstm' is unknown\nchoose from stacked, hierarchical"),
        ({"spatial": "tree"}, "chain, traversal"),
        ({"pooling": "sum"}, "max, mean, last"),
        ({"person_pooling": "sum"}, "mean, max"),
        ({"modalities": ("joint", "speed")}, "modalities='speed' .*\n.* joint, motion, bone, distance"),
        ({"modalities": ()}, "joint, motion, bone, distance"),
        ({"modalities": ("partner",)}, "a body that is alone\nadd joint"),
        ({"num_layers": 1}, "num_layers >= 2"),
        ({"window_layers": 2}, "window_layers=2 .*\n.*fewer than num_layers=2"),
        ({"temporal_weight": 1.5}, "temporal_weight=1.5\n.* between 0 and 1"),
        ({"temporal_weight": float("nan")}, "between 0 and 1"),
        ({"causal": True, "view_adaptation": 4}, "needs whole clips"),
    ],
)
def test_unknown_options_list_the_choices(options, choices):
    with pytest.raises(ValueError, match=choices):
        build(**options)


def test_clips_of_another_layout_or_too_short():
    with pytest.raises(ValueError, match=r"another layout: 20 joints with 3 .*\n.*25 joints with 3"):
        build()(clips(KINECT_V1))
    with pytest.raises(ValueError, match=r"another layout: 25 joints with 2 .*\n.*25 joints with 3"):
        build()(clips(channels=2))
    with pytest.raises(
        ValueError, match=r"4 frames \(window_size\) are shorter than the spatial window of 10"
    ):
        build()(clips(frames=4))


# Devices.


class OnlyMeta(TorchDispatchMode):
    """Every operation is on tensors of the device "meta"."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        for tensor in tree_leaves((args, kwargs)):
            assert not isinstance(tensor, torch.Tensor) or tensor.device.type == "meta", function
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("options", [{}, GENERAL, CAUSAL], ids=["default", "general", "causal"])
def test_all_tensors_are_made_on_the_device_of_the_data(options):
    """The original moved tensors to "cuda" in the model."""
    model = build(spatial="chain", **options).to("meta").train()
    bodies = BodyBatch(*(tensor.to("meta") for tensor in BodyBatch.from_dense(clips(frames=10))))
    with OnlyMeta():
        logits = model(bodies)
    assert all(stream.shape == (4, 7) for stream in logits)


@pytest.mark.parametrize("options", [{}, GENERAL, CAUSAL], ids=["default", "general", "causal"])
def test_added_absent_bodies_change_nothing(options):
    """CUDA graphs need few numbers of bodies in a batch (training/engine.py)."""
    model, bodies = build(**options).train(), BodyBatch.from_dense(clips(frames=10))
    gradients = []
    for batch in (bodies, bodies.pad_bodies(6)):
        torch.manual_seed(0)
        model.zero_grad()
        logits = model(batch)
        sum(stream.square().sum() for stream in logits).backward()
        gradients.append([*logits, *(weights.grad.clone() for weights in model.parameters())])
    assert len(bodies.joints) == 4 and len(batch.joints) == 6
    assert len(bodies.pad_bodies(32).joints) == 8  # no more than there are slots
    for padded, expected in zip(*gradients[::-1], strict=True):
        torch.testing.assert_close(padded, expected, atol=1e-5, rtol=1e-4)
