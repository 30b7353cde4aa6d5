"""Networks by name, path and address; raw clips in, class names out; torch.hub."""

import hashlib
import http.server
import json
import shutil
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import clips_of

import export
import plot
import predict
import test as test_script
import train
from live import Recognizer
from model import TwoStreamRNN
from pretrained import ActionRecognizer
from training import released
from training.checkpoint import load_checkpoint, save_checkpoint

ROOT = Path(train.__file__).parent
SMALL = {
    "hidden_size": 8, "part_hidden_size": 4, "num_layers": 2, "window_layers": 1, "window_size": 16,
    "spatial_window": 8, "spatial_stride": 4, "epochs": 1, "validation_ratio": 0.3, "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, data):
    """A folder in which a causal network was trained and tested."""
    folder = tmp_path_factory.mktemp("workplace")
    shutil.copytree(data, folder / "demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("TORCH_HOME", str(folder / "cache"))
        patch.setenv("no_proxy", "*")
        for picture in ("curves", "confusion", "report"):
            patch.setattr(plot, picture, lambda *_: None)
        train.main(train.make_config("live", data="demo/xview", name="run", **SMALL))
        test_script.main(["checkpoints/run/best.pt", "--device", "cpu"])
        yield folder


@pytest.fixture
def best(workplace):
    return workplace / "checkpoints/run/best.pt"


def make_release(folder, best, name="tiny-net"):
    """The network as a released one, in half precision."""
    contents = load_checkpoint(best)
    weights = {k: w.half() if w.is_floating_point() else w for k, w in contents["model"].items()}
    folder.mkdir(parents=True)
    save_checkpoint(folder / f"{name}.pt", contents | {"model": weights})
    record = {"sha256": hashlib.sha256((folder / f"{name}.pt").read_bytes()).hexdigest()}
    (folder / f"{name}.json").write_text(json.dumps(record))


@pytest.fixture
def tiny(tmp_path, best, monkeypatch):
    """The folder of the only released network, tiny-net."""
    monkeypatch.setattr(released, "RELEASED", tmp_path / "checkpoints/released")
    make_release(released.RELEASED, best)
    return released.RELEASED


@pytest.fixture(scope="module")
def recognizer(workplace):
    return TwoStreamRNN.from_pretrained(workplace / "checkpoints/run/best.pt", "cpu")


def raw_clips(data):
    """{name: raw clip (M, T, V, C) without slots that are never used} of the test clips."""
    return {
        name: frames[..., frames.any((0, 1, 2))].transpose(3, 0, 2, 1)
        for name, _, frames in clips_of(data / "xview", "val")
    }


# --- Raw clips ----------------------------------------------------------------------------------------


def test_raw_clips_are_answered_as_in_the_test(recognizer, best, data):
    clips = raw_clips(data)
    with np.load(best.with_name("best_scores.npz")) as saved:
        expected = dict(zip(saved["name"].tolist(), saved["posterior"][:, 2], strict=True))
    assert sorted(len(clip) for clip in clips.values())[-1] == 2  # bodies
    found = recognizer.probabilities(list(clips.values()))
    assert found.shape == (12, 60) and found.dtype == np.float32
    for name, row in zip(clips, found, strict=True):
        np.testing.assert_allclose(row, expected[name], atol=1e-6)


def test_predict_prints_the_same_answer(recognizer, workplace, best, data, capsys):
    clip = next(iter(raw_clips(data).values()))
    np.save(workplace / "clip.npy", clip[0])
    predict.main(["clip.npy", "--checkpoint", str(best), "--device", "cpu"])
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == f"clip ({clip.shape[1]} frames, 1 body)"
    assert lines == [f"  {100 * p:5.1f} %  {name}" for name, p in recognizer(clip[0])[:5]]


def test_the_classes_are_ranked(recognizer, data):
    clip = next(iter(raw_clips(data).values()))
    predictions = recognizer(clip)
    probabilities = [prediction.probability for prediction in predictions]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1, abs=1e-5)
    assert sorted(prediction.name for prediction in predictions) == sorted(recognizer.classes)
    (row,) = recognizer.probabilities(clip)
    assert predictions[0] == (recognizer.classes[row.argmax()], row.max())


def test_the_forms_of_a_clip(recognizer, data):
    clip = next(clip for clip in raw_clips(data).values() if len(clip) == 1)
    expected = recognizer.probabilities(clip)
    absent, scores = np.full_like(clip, np.nan), np.full((*clip.shape[:3], 1), 0.9)
    for same in (
        clip[0],
        torch.from_numpy(clip[0]).requires_grad_(),
        clip.astype(np.float64),
        np.concatenate([absent, clip]),
        np.concatenate([clip, np.zeros_like(clip)]),
        np.concatenate([clip[0], scores[0]], -1),
        np.pad(clip, ((0, 0), (3, 4), (0, 0), (0, 0))),
    ):
        np.testing.assert_allclose(recognizer.probabilities(same), expected, atol=1e-5)
    missing = clip[0].copy()
    missing[5:9, 20] = np.nan  # a hand that was not detected: interpolated
    np.testing.assert_allclose(recognizer.probabilities(missing), expected, atol=0.02)


def test_a_list_of_clips(recognizer, data):
    clips = list(raw_clips(data).values())[:3]
    together = recognizer(clips)
    assert [len(each) for each in together] == [60, 60, 60]
    for clip, predictions in zip(clips, together, strict=True):
        alone = recognizer(clip)
        assert alone[0].name == predictions[0].name
        assert alone[0].probability == pytest.approx(predictions[0].probability, abs=1e-6)
    assert len(recognizer(clips[:1])) == 1 and recognizer([]) == []


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (np.ones((40, 20, 3)), "25 with 3 or 4"),
        (np.ones((25, 3)), r"reshape it to \(T, V, C\)"),
        (np.ones((2, 3, 40, 25, 1)), r"reshape it to \(T, V, C\)"),
        (np.ones((25, 3, 25, 25)), "can be|not of one clip"),
        (np.zeros((40, 25, 3)), "no body in any frame"),
        (np.full((40, 25, 3), 1e7), "invalid coordinate 1e"),
        (np.zeros((0, 25, 3)), "give numbers"),
        (np.array([["a"]]), "give numbers"),
    ],
)
def test_what_is_no_clip(recognizer, data, clip, message):
    with pytest.raises(ValueError, match=message):
        recognizer(clip)
    good = next(iter(raw_clips(data).values()))
    with pytest.raises(ValueError, match=r"^clip 1 of the list: "):
        recognizer([good, clip])


# --- Names, paths, addresses --------------------------------------------------------------------------


def test_a_released_name(tiny, recognizer, data):
    """Half precision on disk, float32 in memory, nearly the same answers."""
    assert released.released_names() == ["tiny-net"]
    half = TwoStreamRNN.from_pretrained("tiny-net", "cpu")
    stored = torch.load(tiny / "tiny-net.pt", weights_only=True)["model"]
    for name, weights in half.model.state_dict().items():
        if weights.is_floating_point():
            assert stored[name].dtype == torch.float16 and weights.dtype == torch.float32
            assert torch.equal(weights, stored[name].float())
    clips = list(raw_clips(data).values())
    expected = recognizer.probabilities(clips)
    np.testing.assert_allclose(half.probabilities(clips), expected, atol=2e-3)
    assert Recognizer.load("tiny-net").classes == half.classes


def test_the_commands_take_released_names(tiny, workplace, data, capsys):
    """Their outputs are in the folder of a run of that name, not among the released files."""
    np.save(workplace / "clip.npy", next(iter(raw_clips(data).values())))
    predict.main(["clip.npy", "--checkpoint", "tiny-net", "--device", "cpu"])
    predict.main(["clip.npy", "--checkpoint", "tiny-net", "--live", "--fps", "0"])
    test_script.main(["tiny-net", "--device", "cpu"])
    test_script.main(["checkpoints/run/last.pt", "tiny-net", "--device", "cpu", "--out", "both"])
    export.main(["tiny-net"])
    made = workplace / "checkpoints/tiny-net"
    names = {f"tiny-net{end}" for end in ("_test.json", "_predictions.csv", "_scores.npz", ".onnx")}
    assert {path.name for path in made.iterdir()} == names
    assert (workplace / "both/run-last+tiny-net_test.json").is_file()
    assert json.loads((made / "tiny-net_test.json").read_text())["checkpoint"] == "tiny-net"
    assert len(list(tiny.iterdir())) == 2


def test_an_unknown_name(tiny):
    message = r"nw-ucla is missing\ntrain.py writes checkpoints; released networks: tiny-net"
    with pytest.raises(FileNotFoundError, match=message):
        ActionRecognizer("nw-ucla", "cpu")


def test_a_file_with_the_name_of_a_released_network(tiny, best, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(best, "tiny-net")
    with pytest.raises(ValueError, match=r"released network, and a file in this folder\nrename"):
        ActionRecognizer("tiny-net", "cpu")
    ActionRecognizer(tmp_path / "tiny-net", "cpu")


def test_a_changed_file_is_refused(tiny):
    path = tiny / "tiny-net.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    message = r"SHA-256 is not that in tiny-net.json\n.*git checkout -- checkpoints/released"
    for source in ("tiny-net", path):
        with pytest.raises(ValueError, match=message):
            ActionRecognizer(source, "cpu")
    path.with_suffix(".json").write_text("{}")
    with pytest.raises(ValueError, match=r"SHA-256 is not that"):
        ActionRecognizer("tiny-net", "cpu")
    path.with_suffix(".json").write_text("{")
    with pytest.raises(ValueError, match=r"tiny-net.json is corrupt\nrestore it"):
        ActionRecognizer("tiny-net", "cpu")


@pytest.fixture
def served(tmp_path):
    """A folder, and the address of a server of its files."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            """Print nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_address(served, best, workplace, data, recognizer):
    folder, url = served
    digest = hashlib.sha256(best.read_bytes()).hexdigest()[:8]
    clip = next(iter(raw_clips(data).values()))
    for name in ("best.pt", f"my%20net-{digest}.pt"):
        shutil.copy(best, folder / name.replace("%20", " "))
        assert ActionRecognizer(f"{url}/{name}", "cpu")(clip) == recognizer(clip)
        (folder / name.replace("%20", " ")).unlink()
        assert ActionRecognizer(f"{url}/{name}", "cpu")(clip) == recognizer(clip)  # from the cache
    test_script.main([f"{url}/best.pt", "--device", "cpu"])
    assert (workplace / "checkpoints/best/best_test.json").is_file()
    # A file of the same name elsewhere is another one.
    (folder / "other").mkdir()
    (folder / "other" / "best.pt").write_text("<html>")
    with pytest.raises(ValueError, match=r"not a checkpoint of train.py.*\ndelete this file, so that"):
        ActionRecognizer(f"{url}/other/best.pt", "cpu")


def test_addresses_that_give_no_file(served, best, workplace):
    folder, url = served
    shutil.copy(best, folder / "net-0000000a.pt")
    with pytest.raises(ValueError, match=r"net-0000000a.pt is not the file that its name says"):
        ActionRecognizer(f"{url}/net-0000000a.pt", "cpu")
    assert not list((workplace / "cache").rglob("net-0000000a*"))
    with pytest.raises(OSError, match=r"missing.pt cannot be downloaded: .*\ncheck the address"):
        ActionRecognizer(f"{url}/missing.pt", "cpu")
    with pytest.raises(ValueError, match=r"does not name a file\ngive"):
        ActionRecognizer(f"{url}/", "cpu")
    with pytest.raises(SystemExit, match=r"^predict.py: http://.* cannot be downloaded"):
        predict.main(["clip.npy", "--checkpoint", f"{url}/missing.pt"])


# --- torch.hub ----------------------------------------------------------------------------------------

OWN = """
import sys
import numpy, torch
{before}
names = set(sys.modules)
recognizer = torch.hub.load({root!r}, "two_stream_rnn", {checkpoint!r}, source="local", device="cpu")
assert not {{"pretrained", "layers", "training"}} & (set(sys.modules) - names)
import model, test, layers, skeletons.batch
assert model.OWN and test.OWN and layers.OWN and skeletons.batch.OWN
again = torch.hub.load({root!r}, "two_stream_rnn", {checkpoint!r}, source="local", device="cpu")
assert sys.modules["model"] is model and sys.modules["skeletons"].OWN
clip = numpy.load("clip.npy")
assert recognizer(clip) == again(clip)
print(recognizer(clip)[0].name)
"""


@pytest.mark.parametrize("before", ["", "import model, test, train, skeletons, skeletons.batch"])
def test_hub_next_to_modules_of_the_same_names(before, recognizer, best, data, tmp_path):
    for name in ("model.py", "test.py", "train.py", "layers.py", "pretrained.py"):
        (tmp_path / name).write_text("OWN = True\n")
    (tmp_path / "skeletons").mkdir()
    for name in ("__init__.py", "batch.py"):
        (tmp_path / "skeletons" / name).write_text("OWN = True\n")
    clip = next(iter(raw_clips(data).values()))
    np.save(tmp_path / "clip.npy", clip)
    code = OWN.format(before=before, root=str(ROOT), checkpoint=str(best))
    (tmp_path / "program.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == recognizer(clip)[0].name


# --- What the repository ships ------------------------------------------------------------------------


def test_the_example(tmp_path):
    """The first command of the README, from another folder."""
    (clip,) = (ROOT / "examples").glob("*.npy")
    command = [sys.executable, ROOT / "predict.py", clip, "--checkpoint", "demo-small"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].split("%  ")[1] == clip.stem.replace("-", " ")


@pytest.mark.parametrize("name", released.released_names())
def test_released_networks_can_be_loaded(name):
    recognizer = ActionRecognizer(name, "cpu")
    record = json.loads((released.RELEASED / f"{name}.json").read_text(encoding="utf-8"))
    assert sum(weights.numel() for weights in recognizer.model.parameters()) == record["parameters"]
    assert len(record["log"]) == record["epoch"] and record["name"] == name
