"""What only a GPU can show. `make gpu` runs these tests and benchmarks/gpu.py. What compares a GPU with
a CPU is run on a CPU, too, so that the tests themselves are tested."""

from itertools import product

import numpy as np
import pytest
import torch
from train_helpers import STILL, StopAt, assert_same_run, changed, equal, load, log_of, tiny_config

import train
from explain import explain_clip
from extensions import ExtensionConfig
from feeder import Feeder
from model import SPATIAL, TEMPORAL, NetworkConfig, TwoStreamRNN
from skeletons.preprocess import REFERENCE_FRAMES
from skeletons.storage import split_files
from training import engine
from training.checkpoint import build_model
from training.loader import make_loader

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_GPU)])

GENERAL = {  # of ExtensionConfig
    "modalities": ("joint", "motion", "bone", "distance", "partner"), "view_adaptation": 4,
    "input_norm": True, "residual": True, "window_layers": 1, "input_dropout": 0.1,
}  # fmt: skip
CAUSAL = GENERAL | {"view_adaptation": 0, "causal": True}
EXTENSIONS = pytest.mark.parametrize(
    "extensions", [{}, GENERAL, CAUSAL], ids=["paper", "general", "causal"]
)
PRECISIONS = pytest.mark.parametrize("precision", engine.PRECISIONS)


@pytest.fixture
def config(data, tmp_path, monkeypatch):
    yield changed(tiny_config(data, tmp_path, monkeypatch), device="cuda")
    torch.use_deterministic_algorithms(False)


def build(data, extensions, device="cuda", temporal="hierarchical", spatial="traversal", dropout=0.5):
    """The training clips and a tiny network, both on the device."""
    causal = extensions.get("causal", False)
    options = {"origin_transfer": "pair"}
    if causal:
        options = {"crop_resize": False, "normalization": "first-frame"}
    feeder = Feeder(*split_files(data / "xview", "train"), window_size=16, **options).to(device)
    network = NetworkConfig(
        temporal, spatial, hidden_size=16, part_hidden_size=8, spatial_window=8, dropout=dropout
    )
    return feeder, TwoStreamRNN(
        feeder.layout, len(feeder.classes), network, ExtensionConfig(**extensions)
    ).to(device)


@DEVICES
def test_a_gpu_makes_the_same_batches(data, device):
    paths = split_files(data / "xview", "train")
    for frame, ratio in product(REFERENCE_FRAMES, (1.0, 0.4)):
        cpu = Feeder(*paths, window_size=64, origin_transfer=frame)
        expected = cpu.eval(ratio)[range(5)][0]
        made = cpu.to(device).eval(ratio)[range(5)][0]
        torch.testing.assert_close(made.cpu(), expected, atol=1e-5, rtol=1e-5)
        assert made.device.type == device


@DEVICES
@EXTENSIONS
@pytest.mark.parametrize("temporal", TEMPORAL)
@pytest.mark.parametrize("spatial", SPATIAL)
def test_a_gpu_computes_the_same(data, device, temporal, spatial, extensions, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    feeder, model = build(data, extensions, device, temporal, spatial)
    bodies, _ = feeder.eval().bodies(range(9))
    on_gpu = model.eval()(bodies)
    on_cpu = model.cpu()(bodies.to("cpu"))
    for logits, expected in zip(on_gpu, on_cpu, strict=True):
        torch.testing.assert_close(logits.cpu(), expected, atol=1e-4, rtol=1e-4)


@DEVICES
@EXTENSIONS
def test_a_gpu_explains_the_same(data, device, extensions, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    feeder, model = build(data, extensions, device)
    bodies, _ = feeder.eval().bodies([0])
    on_gpu = explain_clip(model.eval(), bodies, label=0)
    on_cpu = explain_clip(model.cpu(), bodies.to("cpu"), label=0)
    for values, expected in zip(on_gpu[2:4], on_cpu[2:4], strict=True):
        np.testing.assert_allclose(values, expected, atol=1e-4)


@NEEDS_GPU
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@EXTENSIONS
@PRECISIONS
@pytest.mark.parametrize("cuda_graphs", [False, True], ids=["eager", "graphs"])
def test_nothing_in_an_epoch_waits_for_the_gpu(data, extensions, precision, cuda_graphs):
    feeder, model = build(data, extensions)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    batches = make_loader(feeder, range(24), 4, torch.Generator().manual_seed(0))
    step = engine.TrainingStep(
        model, optimizer, "cuda", precision=precision, max_grad_norm=1.0, cuda_graphs=cuda_graphs
    )

    def run():
        steps = iter(range(10))

        def stop():
            if next(steps) == 4:
                torch.cuda.set_sync_debug_mode(0)
                return True
            return False

        with pytest.raises(engine.Interrupted):
            engine.train_epoch(step, batches, stop=stop)

    run()  # what is done once may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode(0)


@NEEDS_GPU
@PRECISIONS
def test_a_gpu_learns_the_same(config, precision):
    """Without anything random, the losses agree with the CPU's."""
    config = changed(config, **STILL)
    on_cpu = log_of(train.main(changed(config, name="cpu", device="cpu")))
    on_gpu = log_of(train.main(changed(config, precision=precision)))
    for one, two in zip(on_cpu, on_gpu, strict=True):
        for stream in engine.STREAMS:
            assert two["train"][stream]["loss"] == pytest.approx(one["train"][stream]["loss"], rel=0.02)


@DEVICES
@EXTENSIONS
@PRECISIONS
def test_recorded_steps_train_as_others_do(data, device, extensions, precision):
    """Without dropout, whose random numbers depend on how many absent bodies were added."""
    trained, extensions = [], extensions | {"input_dropout": 0.0}
    for cuda_graphs in (False, True):
        torch.manual_seed(0)
        feeder, model = build(data, extensions, device, dropout=0.0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.003, fused=True)
        batches = make_loader(feeder, range(23), 4, torch.Generator().manual_seed(0))
        step = engine.TrainingStep(
            model, optimizer, device, precision=precision, max_grad_norm=1.0, cuda_graphs=cuda_graphs
        )
        losses = [engine.train_epoch(step, batches)["fused"]["loss"] for _ in range(3)]
        trained.append((losses, torch.cat([w.detach().flatten() for w in model.parameters()])))
        if cuda_graphs and device == "cuda":  # whole batches, and the last one from its second time on
            assert len(step.graphs.recorded) == 2 and all(step.graphs.recorded.values())
    (losses, weights), (recorded_losses, recorded_weights) = trained
    assert recorded_losses == pytest.approx(losses, rel=1e-3)
    torch.testing.assert_close(recorded_weights, weights, atol=0.002, rtol=0.01)


@DEVICES
def test_recorded_steps_draw_new_random_numbers(data, device):
    feeder, model = build(data, {}, device)
    step = engine.TrainingStep(model, torch.optim.SGD(model.parameters(), lr=0.0), device)
    model.train()
    losses = [step(*feeder.bodies(range(8)), 8)[0].item() for _ in range(5)]
    assert len(set(losses)) == 5
    assert device == "cpu" or len(step.graphs.recorded) == 1


@NEEDS_GPU
@PRECISIONS
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(config, precision):
    config = changed(config, precision=precision, deterministic=True)
    whole = train.main(config)
    config = changed(config, name="stopped")
    with pytest.raises(engine.Interrupted):
        train.main(config, stop=StopAt(8))  # after two epochs of four steps
    assert_same_run(whole, train.main(config, resume=True))


@NEEDS_GPU
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"crop_prob": 0.5, "time_warp": 0.3, "tracking_noise": 1.0, "bone_length_jitter": 0.2},
        {"causal": True, "pooling": "mean"},
    ],
    ids=["plain", "augmented", "causal"],
)
def test_deterministic_runs_are_equal_to_the_bit(config, changes):
    config = changed(config, deterministic=True, **changes)
    assert_same_run(train.main(config), train.main(changed(config, name="again")))


@NEEDS_GPU
def test_a_step_that_overflows_in_float16_changes_no_weight(data):
    feeder, model = build(data, {})
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    step = engine.TrainingStep(model, optimizer, "cuda", precision="mixed")
    step.scaler = torch.amp.GradScaler("cuda", init_scale=2.0**100)
    before = {name: weights.clone() for name, weights in model.state_dict().items()}
    batches = make_loader(feeder, range(8), 8)
    engine.train_epoch(step, batches)
    assert equal(model.state_dict(), before)
    assert step.scaler.get_scale() == 2.0**99


@NEEDS_GPU
def test_a_checkpoint_of_a_gpu_is_read_on_a_cpu(config):
    checkpoint = load(train.main(changed(config, epochs=1)))
    assert {weights.device.type for weights in checkpoint["model"].values()} == {"cpu"}
    assert not any(parameter.is_cuda for parameter in build_model(checkpoint).parameters())
