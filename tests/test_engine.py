"""One epoch, one evaluation, metrics, FLOPs."""

import json
import math

import pytest
import torch
from train_helpers import changed, log_of, tiny_config

import train
from feeder import Feeder
from model import Logits, NetworkConfig, TwoStreamRNN
from skeletons.layout import LAYOUTS
from skeletons.storage import split_files
from training import engine
from training.loader import make_loader


@pytest.fixture
def config(data, tmp_path, monkeypatch):
    return tiny_config(data, tmp_path, monkeypatch)


@pytest.fixture
def tiny(data):
    """The training clips, and a tiny network for them."""
    feeder = Feeder(*split_files(data / "xview", "train"), window_size=8)
    torch.manual_seed(0)
    network = NetworkConfig(hidden_size=5, part_hidden_size=4, spatial_window=8, dropout=0.0)
    return feeder, TwoStreamRNN(feeder.layout, len(feeder.classes), network)


def test_metrics_by_hand(tiny):
    network = tiny[1]  # of equal fusion weights
    metrics = engine.Metrics()
    sure, even = torch.tensor([[50.0, 0, 0]]), torch.zeros(1, 3)
    metrics.add(engine.posteriors(network, Logits(sure, even)), torch.tensor([0]))
    metrics.add(engine.posteriors(network, Logits(sure, sure)), torch.tensor([2]))
    results = metrics.results()
    assert results["temporal"]["accuracy"] == 0.5
    assert results["spatial"]["loss"] == pytest.approx((math.log(3) - math.log(1e-12)) / 2, rel=1e-4)
    assert results["fused"]["top5"] == 1


def test_top5_of_seven_classes():
    posterior = torch.linspace(1, 0.4, 7).expand(1, 3, 7) / 4.9
    metrics = engine.Metrics()
    for label in range(7):
        metrics.add(posterior, torch.tensor([label]))
    for values in metrics.results().values():
        assert (values["accuracy"], values["top5"]) == (pytest.approx(1 / 7), pytest.approx(5 / 7))


def test_evaluation_counts_every_clip_once(tiny):
    """The same whatever the batches: no last batch is dropped. Metrics are those of the posteriors."""
    feeder, model = tiny
    results = []
    for size in (5, 7, 100):
        batches = make_loader(feeder, range(len(feeder)), size)
        result, posterior, label = engine.evaluate(model, batches, "cpu")
        assert posterior.shape == (len(feeder), 3, 60) and label.tolist() == feeder.label.tolist()
        results.append(result)
    for other in results[1:]:
        for stream in engine.STREAMS:
            assert results[0][stream] == pytest.approx(other[stream], abs=1e-5)
    accuracy = (posterior[:, 2].argmax(1) == label).double().mean().item()
    loss = -posterior[torch.arange(len(label)), 2, label].log().mean().item()
    assert results[0]["fused"]["accuracy"] == pytest.approx(accuracy)
    assert results[0]["fused"]["loss"] == pytest.approx(loss, abs=1e-5)


class Recorder(torch.optim.SGD):
    """Keeps the gradients of each step and changes nothing."""

    def __init__(self, model):
        super().__init__(model.parameters(), lr=1.0)
        self.weights, self.gradients = list(model.parameters()), []

    def step(self):
        self.gradients.append([weights.grad.clone() for weights in self.weights])


def one_epoch(tiny, batch_size, **options):
    """-> metrics, gradients of each step."""
    feeder, model = tiny
    optimizer = Recorder(model)
    batches = make_loader(feeder, range(len(feeder)), batch_size)
    title = options.pop("title", "")
    step = engine.TrainingStep(model, optimizer, "cpu", **options)
    return engine.train_epoch(step, batches, title=title), optimizer.gradients


@pytest.mark.parametrize("label_smoothing", [0.0, 0.4])
def test_the_loss_is_the_mean_cross_entropy_of_both_streams(tiny, label_smoothing):
    feeder, model = tiny
    metrics, gradients = one_epoch(tiny, 10, label_smoothing=label_smoothing)
    assert len(gradients) == 3  # of 10, 10 and 4 clips
    data, label = feeder.bodies(range(20, 24))
    model.zero_grad()
    target = torch.full((4, 60), label_smoothing / 60)
    target[range(4), label] += 1 - label_smoothing
    sum(-(target * x.log_softmax(1)).sum(1).mean() for x in model(data)).backward()
    for weights, gradient in zip(model.parameters(), gradients[-1], strict=True):
        torch.testing.assert_close(gradient, weights.grad, atol=1e-7, rtol=1e-4)
    # The metrics are those of the labels, whatever the smoothing.
    batches = make_loader(feeder, range(24), 24)
    expected = engine.evaluate(model, batches, "cpu")[0]
    for stream in engine.STREAMS:
        assert metrics[stream] == pytest.approx(expected[stream], abs=1e-5)


def test_gradients_are_scaled_down_to_the_largest_norm(tiny):
    _, free = one_epoch(tiny, 8)
    norms = [torch.stack([g.norm() for g in gradients]).norm() for gradients in free]
    limit = sorted(norms)[1].item()  # one of three is longer
    _, clipped = one_epoch(tiny, 8, max_grad_norm=limit)
    for norm, before, after in zip(norms, free, clipped, strict=True):
        factor = min(1, limit / norm)
        for one, two in zip(before, after, strict=True):
            torch.testing.assert_close(factor * one, two, atol=1e-7, rtol=1e-4)


def test_an_epoch_stops_after_the_step_in_progress(tiny):
    feeder, model = tiny
    for asked in (1, 3):
        optimizer, answers = Recorder(model), [False] * (asked - 1) + [True]
        with pytest.raises(engine.Interrupted):
            batches = make_loader(feeder, range(24), 5)
            step = engine.TrainingStep(model, optimizer, "cpu")
            engine.train_epoch(step, batches, stop=lambda a=answers: a.pop(0))
        assert len(optimizer.gradients) == asked
    # After the last step there is nothing to stop.
    optimizer, answers = Recorder(model), [False] * 4
    batches = make_loader(feeder, range(24), 5)
    engine.train_epoch(
        engine.TrainingStep(model, optimizer, "cpu"), batches, stop=lambda: answers.pop(0)
    )
    assert not answers and len(optimizer.gradients) == 5


def test_a_loss_that_is_not_finite_names_its_step(tiny):
    feeder = tiny[0]
    feeder._tracks.joints[feeder._tracks.offsets[12].max()] = math.inf  # in the third batch of 5
    message = "epoch 9: loss or weights are not finite in step 3 of 5"
    with pytest.raises(FloatingPointError, match=message):
        one_epoch(tiny, 5, title="epoch 9")


def test_weights_that_the_last_step_makes_infinite_are_noticed(tiny):
    feeder, model = tiny
    batches = make_loader(feeder, range(len(feeder)), 100)
    optimizer = torch.optim.SGD(model.parameters(), lr=math.inf)
    with pytest.raises(FloatingPointError, match="weights are not finite in step 1 of 1"):
        engine.train_epoch(engine.TrainingStep(model, optimizer, "cpu"), batches)


# --- Precisions and devices ---------------------------------------------------------------------------


def test_precision_that_suits_the_device(config, monkeypatch):
    """auto: mixed on a CPU with instructions for bfloat16."""
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    for has_avx, has_amx, expected in (
        (False, False, "float32"), (True, False, "mixed"), (False, True, "mixed")
    ):  # fmt: skip
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has=has_avx: has, False)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda has=has_amx: has, False)
        monkeypatch.setattr(engine, "precisions", lambda _: engine.PRECISIONS)
        assert engine.resolve_precision("auto", cpu) == expected
        assert engine.resolve_precision("auto", gpu) == "float32"
        assert engine.resolve_precision("float32", cpu) == "float32"
    path = train.main(changed(config, precision="auto"))
    assert json.loads((path / "config.json").read_text())["precision"] == "mixed"
    monkeypatch.setattr(engine, "precisions", lambda _: ("float32",))
    assert engine.resolve_precision("auto", cpu) == "float32"
    # A version of torch without these functions.
    for name in engine.BFLOAT16_CPUS:
        monkeypatch.delattr(torch.cpu, f"_is_{name}_supported")
    assert engine.resolve_precision("auto", cpu) == "float32"


def test_mixed_precision_where_there_is_no_bfloat16(config, monkeypatch):
    forward = torch.nn.LSTM.forward

    def without_bfloat16(*inputs):
        if torch.is_autocast_enabled("cpu"):
            raise RuntimeError("could not create a primitive descriptor")
        return forward(*inputs)

    monkeypatch.setattr(torch.nn.LSTM, "forward", without_bfloat16)
    with pytest.raises(ValueError, match="cannot compute in mixed\nuse --precision float32"):
        train.main(changed(config, precision="mixed"))


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() == "AVX2", reason="no LSTM in bfloat16")
def test_mixed_precision_gives_nearly_the_same_loss(config):
    config = changed(config, epochs=1, hidden_size=32, dropout=0.0)
    whole = log_of(train.main(config))[0]
    half = log_of(train.main(changed(config, name="half", precision="mixed")))[0]
    for clips in ("train", "validation"):
        for stream in engine.STREAMS:
            assert half[clips][stream]["loss"] == pytest.approx(whole[clips][stream]["loss"], rel=0.01)
    assert half != whole  # it was used at all


def test_devices():
    assert engine.resolve_device("cpu") == torch.device("cpu")
    assert engine.device_name("cpu").endswith("CPU, 1 thread")
    with pytest.raises(ValueError, match=r"device 'gpu' cannot be used here: .*\ntry --device cpu"):
        engine.resolve_device("gpu")


def test_the_reason_that_torch_gives_is_short(monkeypatch):
    def zeros(*_, **__):
        raise NotImplementedError("No torch.mps here. " + "'aten::zeros' has [CPU, CUDA]. " * 40)

    monkeypatch.setattr(torch, "zeros", zeros)
    with pytest.raises(ValueError, match=r"here: No torch\.mps here\ntry --device cpu$"):
        engine.resolve_device("mps")


# --- FLOPs --------------------------------------------------------------------------------------------


def lstm_flops(steps, inputs, units):
    """Of one layer in two directions: addition and multiplication for each weight of four gates."""
    return steps * 2 * 2 * 4 * units * (inputs + units)


def test_flops_of_a_network():
    """Of a clip of 8 frames: the temporal RNN reads 8 steps, the spatial one the joints, twice."""
    layout = LAYOUTS["kinect-v2"]
    network = NetworkConfig(
        "stacked", "chain", hidden_size=5, num_layers=1, spatial_window=4, spatial_stride=4
    )
    model = TwoStreamRNN(layout, 7, network).train()
    weights = [parameter.clone() for parameter in model.parameters()]
    temporal = lstm_flops(8, 25 * 3, 5)
    spatial = 2 * lstm_flops(25, 4 * 3, 5)  # two windows
    classifiers = 2 * 2 * 10 * 7
    assert engine.count_flops(model, 8) == temporal + spatial + classifiers
    assert model.training and torch.backends.mkldnn.enabled
    assert all(map(torch.equal, weights, model.parameters()))


def test_flops_of_the_default_network():
    """The figure of the README, 4.01 GFLOPs."""
    model = TwoStreamRNN(LAYOUTS["kinect-v2"], 60)
    assert engine.count_flops(model, 100) == 4_014_342_144


def test_flops_need_clips_that_the_network_can_read():
    model = TwoStreamRNN(LAYOUTS["kinect-v2"], 5, NetworkConfig(hidden_size=2, part_hidden_size=2))
    with pytest.raises(ValueError, match="shorter than the spatial window"):
        engine.count_flops(model, 99)
    assert torch.backends.mkldnn.enabled
