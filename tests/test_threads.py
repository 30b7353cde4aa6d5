"""The streams in threads of their own: the same numbers, whatever the number of threads."""

import threading
from contextlib import contextmanager

import pytest
import torch

import layers
from extensions import ExtensionConfig
from model import NetworkConfig, TwoStreamRNN
from skeletons.batch import BodyBatch
from skeletons.layout import KINECT_V2
from training import engine


@contextmanager
def threads(count):
    """Torch with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def build(dropout=0.5, **extensions):
    torch.manual_seed(0)
    network = NetworkConfig("stacked", "chain", hidden_size=8, part_hidden_size=4, spatial_window=5,
                            dropout=dropout)  # fmt: skip
    return TwoStreamRNN(KINECT_V2, 7, network, ExtensionConfig(**extensions)).train()


EXTENSIONS = pytest.mark.parametrize(
    "extensions", [{}, {"view_adaptation": 4, "residual": True}, {"causal": True}]
)
CLIPS = BodyBatch.from_dense(torch.randn(3, 3, 11, 25, 2, generator=torch.Generator().manual_seed(1)))


def step(model, precision="float32"):
    """Logits and gradients of a batch."""
    torch.manual_seed(2)
    model.zero_grad()
    with engine.autocast(precision, torch.device("cpu")):
        logits = model(CLIPS)
    engine.training_loss(logits, torch.tensor([0, 3, 6]), 0.0).backward()
    return [*logits, *(weights.grad for weights in model.parameters())]


def assert_same(found, expected, **tolerance):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **tolerance)


@EXTENSIONS
@pytest.mark.parametrize("precision", ["float32", "mixed"])
def test_threads_compute_what_one_after_the_other_does(extensions, precision, monkeypatch):
    model = build(dropout=0.0, **extensions)
    with threads(2):
        found = step(model, precision)
    monkeypatch.setattr(layers, "FEW_UNITS", 0)
    assert_same(found, step(model, precision), rtol=1e-4, atol=1e-5)


@EXTENSIONS
def test_dropout_does_not_depend_on_the_number_of_threads(extensions):
    model = build(**extensions)
    expected = step(model)
    for _ in range(3):
        with threads(2):
            assert_same(step(model), expected, rtol=0, atol=0)
    torch.manual_seed(3)
    assert not torch.equal(model(CLIPS).temporal, expected[0])


def test_each_stream_of_a_small_network_has_a_thread_with_its_share_in_training(monkeypatch):
    seen = {}

    def note(module, *_):
        seen[type(module).__name__] = threading.current_thread(), torch.get_num_threads()

    model = build()
    for stream in (model.temporal, model.spatial):
        stream.register_forward_hook(note)
    with threads(4):
        step(model)
        assert torch.get_num_threads() == 4
    (one, share), (other, other_share) = seen.values()
    assert one != other and (share, other_share) == (2, 2)
    for units, training in ((layers.FEW_UNITS, False), (4, True)):
        monkeypatch.setattr(layers, "FEW_UNITS", units)
        model.train(training)(CLIPS)
        assert {thread for thread, _ in seen.values()} == {threading.main_thread()}


def test_an_error_of_a_stream_is_raised_and_leaves_nothing_changed():
    model = build()
    for stream in (model.temporal, model.spatial):
        expected = step(model)
        broken = stream.register_forward_pre_hook(lambda *_: 1 / 0)
        with threads(2):
            with pytest.raises(ZeroDivisionError):
                step(model)
            assert torch.get_num_threads() == 2
        broken.remove()
        assert layers.dropout_generator.current is None
        assert_same(step(model), expected, rtol=0, atol=0)


@pytest.mark.parametrize("stream", ["temporal", "spatial"])
def test_a_frozen_stream_has_no_gradients(stream):
    model = build(view_adaptation=4)
    expected = dict(zip(["", " ", *dict(model.named_parameters())], step(model), strict=True))
    getattr(model, stream).requires_grad_(False)
    step(model)
    for name, weights in model.named_parameters():
        if name.startswith(f"{stream}."):
            assert weights.grad is None
        elif not name.startswith("view_adaptation"):
            assert torch.equal(weights.grad, expected[name])


def test_the_gradients_of_a_batch_are_computed_once():
    loss = sum(logits.sum() for logits in build()(CLIPS))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match=r"once per forward pass\nadd the losses"):
        loss.backward()
