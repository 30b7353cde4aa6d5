"""A training step on the device "meta", whose tensors have no values. Whatever would wait for a GPU, or
mix tensors of two devices, or use float64 (Apple's GPUs have none), raises here, without a GPU."""

from contextlib import nullcontext

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import train
from training import engine

TINY = {
    "hidden_size": 8, "part_hidden_size": 4, "window_size": 8, "spatial_window": 4, "spatial_stride": 2
}  # fmt: skip


class TwoDevices(TorchDispatchMode):
    """Raises on an operation on tensors of the host and of the device; counts copies to the device."""

    copies = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, torch.Tensor)]
        devices = {tensor.device.type for tensor in tensors}
        assert not any(x.is_meta and x.dtype == torch.float64 for x in tensors), function
        if len(devices) == 2:
            assert function.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_), function
            self.copies += 1
        return result


def make_step(config):
    """-> (feeder, training step), both on the device."""
    feeder, _ = train.open_data(config)
    model = train.TwoStreamRNN(feeder.layout, len(feeder.classes), config.network, config.extensions)
    step = engine.TrainingStep(
        model.to("meta").train(),
        torch.optim.AdamW(model.parameters()),
        "meta",
        label_smoothing=config.optimization.label_smoothing,
        max_grad_norm=config.optimization.max_grad_norm,
    )
    return feeder.to("meta"), step


@pytest.mark.parametrize("preset", train.PRESETS)
def test_a_training_step_neither_waits_nor_mixes_devices(data, preset, monkeypatch):
    monkeypatch.setattr(engine, "autocast", lambda *_: nullcontext())  # not there for this device
    config = train.make_config(preset, **TINY | {"data": str(data / "xview")})
    feeder, step = make_step(config)
    feeder.bodies(torch.arange(12))  # some tables are copied once
    with TwoDevices() as devices:
        bodies, label = feeder.bodies(torch.arange(12))
        loss, posterior = step(bodies.pad_bodies(8), label, 12)
    assert loss.is_meta and posterior.shape == (12, 3, len(feeder.classes))
    assert 0 < devices.copies <= 6  # what the host knows of the batch


def test_the_device_notices_both(data):
    config = train.make_config("demo", **TINY | {"data": str(data / "xview")})
    feeder, _ = make_step(config)
    (bodies, label), device = feeder.bodies(torch.arange(12)), TwoDevices()
    with pytest.raises((RuntimeError, NotImplementedError)), device:
        label.max().item()
    with pytest.raises((AssertionError, RuntimeError)), device:
        bodies.joints + torch.ones(3, 1, 1)
