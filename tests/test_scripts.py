"""train.py, test.py and predict.py: once each as a command, their options and errors in this process.

The other scripts have their tests in test_convert.py, test_synthesize.py, test_export.py and
test_benchmarks.py (plot.py).
"""

import csv
import errno
import io
import json
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
from helpers import contents

import export
import plot
import predict
import test as test_script
import train
from pretrained import ActionRecognizer
from skeletons import readers
from training.checkpoint import load_checkpoint, save_checkpoint
from training.run import TEST_OUTPUTS

ROOT = Path(train.__file__).parent
TINY = [
    "--hidden_size=12", "--part_hidden_size=6", "--window_size=16", "--spatial_window=16",
    "--batch_size=8", "--epochs=2", "--milestones", "1", "--validation_ratio=0.3", "--device=cpu",
]  # fmt: skip
NAME = "S002C002P001R001A010"  # a test clip of one body


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, data):
    """A folder with converted data, in which the tests of this file run."""
    folder = tmp_path_factory.mktemp("workplace")
    shutil.copytree(data, folder / "NTU-RGB-D")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CUDA_VISIBLE_DEVICES", "")  # numbers would differ between machines
        patch.setattr(plot, "curves", lambda *_: None)
        patch.setattr(plot, "confusion", lambda *_: None)
        patch.setattr(plot, "report", lambda *_: None)
        yield folder


@pytest.fixture(scope="module")
def trained(workplace):
    train.run_command(TINY)
    return workplace / "checkpoints" / "NTU-RGB-D-xview-traversal-hierarchical"


@pytest.fixture(scope="module")
def second(workplace):
    """Another network, with other validation clips."""
    train.run_command(
        [*TINY, "--name", "second", "--seed", "1", "--split_seed", "1", "--spatial", "chain"]
    )
    return workplace / "checkpoints" / "second"


def run_test(*arguments):
    """Run test.py -> its record."""
    test_script.main([*map(str, arguments), "--device", "cpu"])
    stem = str(arguments[0].with_suffix(""))
    return json.loads(Path(f"{stem}_test.json").read_text(encoding="utf-8"))


def scores(checkpoint):
    with np.load(f"{checkpoint.with_suffix('')}_scores.npz") as file:
        return dict(file)


def failure(main, *arguments):
    """What a command prints when it ends with an error."""
    with pytest.raises(SystemExit) as done:
        main(list(map(str, arguments)))
    assert done.value.code not in (None, 0)
    return str(done.value.code)


# --- Commands -----------------------------------------------------------------------------------------


def run(folder, script, *arguments):
    command = [sys.executable, ROOT / script, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stdout + done.stderr
    return done.stdout


def picture_size(path):
    """Width and height of a picture that is not empty."""
    with PIL.Image.open(path) as picture:
        assert np.asarray(picture.convert("L")).std() > 5
        return picture.size


def test_the_commands(data, raw, tmp_path):
    """From converted data to predictions."""
    (tmp_path / "NTU-RGB-D").symlink_to(data)
    folder = tmp_path / "checkpoints/small"
    printed = run(tmp_path, "train.py", "--preset", "small", *TINY, "--name", "small")
    assert "now: python test.py checkpoints/small/best.pt" in printed
    assert {"config.json", "log.jsonl", "last.pt", "best.pt"} < {p.name for p in folder.iterdir()}
    printed = run(tmp_path, "test.py", "checkpoints/small/best.pt", "--early_recognition")
    assert "on NTU-RGB-D/xview: 12 clips" in printed and "best_report.png" in printed
    for name in ("curves.png", "best_confusion.png", "best_report.png"):
        assert min(picture_size(folder / name)) > 300
    file = raw / f"{NAME}.skeleton"
    printed = run(tmp_path, "predict.py", file, "--checkpoint", "checkpoints/small/best.pt")
    assert printed.startswith(f"{NAME} (") and printed.count("%") == 5


def test_importing_does_nothing(tmp_path):
    names = [path.stem for path in ROOT.glob("*.py") if path.stem != "test"]  # test: of the library
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {', '.join(names)}"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stdout and not list(tmp_path.iterdir()), done.stderr


@pytest.mark.parametrize("main", [train.run_command, test_script.main, predict.main])
def test_help(main, capsys):
    with pytest.raises(SystemExit) as done:
        main(["--help"])
    assert done.value.code == 0 and "usage:" in capsys.readouterr().out


# --- test.py ------------------------------------------------------------------------------------------


def test_the_precisions_of_training(trained, capsys):
    """Of all networks of an ensemble, and of a run that was resumed on another device."""
    contents = load_checkpoint(trained / "best.pt")
    for name, precision in (("mixed", "mixed"), ("both", "float32, mixed"), ("earlier", None)):
        save_checkpoint(trained / f"{name}.pt", contents | {"precision": precision})
    assert run_test(trained / "mixed.pt")["training_precision"] == "mixed"
    for names, expected in ((("both",), "float32, mixed"), (("best", "mixed"), "float32, mixed"),
                            (("best", "earlier"), None)):  # fmt: skip
        evaluations = [SimpleNamespace(checkpoint=load_checkpoint(trained / f"{n}.pt")) for n in names]
        assert test_script.training_precision(evaluations) == expected


def test_the_record_of_a_test(trained, capsys):
    record = run_test(trained / "best.pt")
    printed = capsys.readouterr().out
    assert record["clips"] == 12 and record["data"] == "NTU-RGB-D/xview"
    assert record["ensemble_size"] == record["tta"] == 1
    about = json.loads((trained / "config.json").read_text())
    for key in ("config", "commit", "parameters", "flops"):
        assert record[key] == about[key], key
    seconds = [json.loads(line)["seconds"] for line in (trained / "log.jsonl").read_text().splitlines()]
    assert record["training_precision"] == about["precision"] == "float32"
    assert record["training_seconds"] == pytest.approx(sum(seconds[: record["epoch"]]), abs=0.1)
    for stream in ("temporal", "spatial", "fused"):
        values = record["results"][stream]
        assert 0 <= values["accuracy"] <= values["top5"] <= 1
        assert f"{stream:9s} {100 * values['accuracy']:6.2f} %" in printed
    assert {name: entry["clips"] for name, entry in record["per_class"].items()} == {
        "drink water": 3, "clapping": 3, "kicking something": 3, "handshaking": 3,
    }  # fmt: skip
    weighted = sum(e["clips"] * e["accuracy"] for e in record["per_class"].values()) / 12
    assert weighted == pytest.approx(record["results"]["fused"]["accuracy"])
    assert "early_recognition" not in record


def test_outputs_agree_with_each_other(trained):
    record = run_test(trained / "best.pt", "--early_recognition")
    saved = scores(trained / "best.pt")
    predicted, label = saved["posterior"].argmax(2), saved["label"]
    assert saved["posterior"].shape == (12, 3, 60)
    for stream, column in zip(("temporal", "spatial", "fused"), predicted.T, strict=True):
        assert (column == label).mean() == pytest.approx(record["results"][stream]["accuracy"])
    with open(trained / "best_predictions.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    classes = load_checkpoint(trained / "best.pt")["classes"]
    assert [row["clip"] for row in rows] == saved["name"].tolist()
    for name, column in zip(("temporal", "spatial", "predicted"), predicted.T, strict=True):
        assert [row[name] for row in rows] == [classes[i] for i in column]
    assert [row["class"] for row in rows] == [classes[i] for i in label]
    highest = saved["posterior"][:, 2].max(1)
    assert [float(row["probability"]) for row in rows] == pytest.approx(highest.tolist(), abs=1e-4)
    wrong = [(classes[a], classes[b]) for a, b in zip(label, predicted[:, 2], strict=True) if a != b]
    assert sum(clips for *_, clips, _ in record["most_confused"]) == len(wrong)
    for true, as_class, clips, of in record["most_confused"]:
        assert wrong.count((true, as_class)) == clips and of == 3
    assert record["per_camera"] == {"1": {"clips": 12, "accuracy": np.mean(predicted[:, 2] == label)}}
    assert [entry["clips"] for entry in record["per_subject"].values()] == [4, 4, 4]

    sweep, results = record["fusion_weight_sweep"], record["results"]
    assert sweep["test"][0] == pytest.approx(results["spatial"]["accuracy"])
    assert sweep["test"][-1] == pytest.approx(results["temporal"]["accuracy"])
    assert sweep["test"][10] == pytest.approx(results["fused"]["accuracy"])
    validation = sweep["validation"]
    index = sweep["temporal_weights"].index(sweep["best_on_validation"])
    assert validation[index] == max(validation) and len(validation) == 21
    assert sweep["test_at_best"] == sweep["test"][index]
    early = record["early_recognition"]
    assert early["observation_ratios"] == [i / 10 for i in range(1, 11)]
    for stream in ("temporal", "spatial", "fused"):
        assert len(early[stream]) == 10
        assert early[stream][-1] == pytest.approx(results[stream]["accuracy"])


def test_options_of_test_that_change_nothing_or_the_fusion_alone(trained):
    results = run_test(trained / "best.pt")["results"]
    again = run_test(trained / "best.pt", "--batch_size", 5, "--mmap", "--num_workers", 1)["results"]
    for stream, values in results.items():
        assert again[stream] == pytest.approx(values, abs=1e-5)
    record = run_test(trained / "best.pt", "--temporal_weight", 1)
    assert record["temporal_weight"] == 1
    assert record["results"]["fused"] == pytest.approx(record["results"]["temporal"], abs=1e-6)


def test_test_time_augmentation(trained):
    """The mean of the whole clips and of random draws; the same draws each time."""
    whole = run_test(trained / "best.pt")["results"]
    alone = scores(trained / "best.pt")["posterior"]
    two = run_test(trained / "best.pt", "--tta", 2)
    draw = 2 * scores(trained / "best.pt")["posterior"] - alone
    assert two["tta"] == 2 and np.abs(draw - alone).max() > 1e-4
    np.testing.assert_allclose(draw.sum(2), 1, atol=1e-4)  # posteriors, too
    again = run_test(trained / "best.pt", "--tta", 2, "--num_workers", 1)["results"]
    for stream, values in two["results"].items():
        assert again[stream] == pytest.approx(values, abs=1e-5)
    assert run_test(trained / "best.pt", "--tta", 1)["results"] == whole
    message = failure(test_script.main, trained / "best.pt", "--tta", 0)
    assert "tta=0 is not allowed\ntta must be a whole number from 1" in message


def test_the_mean_of_two_networks(trained, second):
    tests = [run_test(checkpoint) for checkpoint in (trained / "last.pt", second / "last.pt")]
    run_test(trained / "last.pt", second / "last.pt")
    paths = (trained / "last.pt", second / "last.pt", trained / "last+second-last.pt")
    one, two, both = map(scores, paths)
    mean = (one["posterior"] + two["posterior"]) / 2
    np.testing.assert_allclose(both["posterior"], mean, atol=1e-6)
    assert not np.allclose(one["posterior"], two["posterior"], atol=1e-3)
    record = json.loads((trained / "last+second-last_test.json").read_text(encoding="utf-8"))
    assert record["ensemble_size"] == 2
    accuracy = (mean[:, 2].argmax(1) == one["label"]).mean()
    assert record["results"]["fused"]["accuracy"] == pytest.approx(accuracy)
    for key in ("flops", "parameters"):
        assert record[key] == sum(test[key] for test in tests)
    # No clip was for validation in both.
    assert record["fusion_weight_sweep"].keys() == {"temporal_weights", "test"}
    run_test(trained / "last.pt", trained / "best.pt")
    path = trained / f"last+{trained.name}-best_test.json"
    sweep = json.loads(path.read_text(encoding="utf-8"))["fusion_weight_sweep"]
    assert len(sweep["validation"]) == 21


def test_the_most_confused_clips_are_explained(trained, second, monkeypatch, capsys):
    """One clip for each of the most confused pairs, that with the most probable wrong prediction."""
    drawn = []

    def draw(explained, layout, path):
        drawn.extend(explained)
        path.write_bytes(b"picture")

    monkeypatch.setattr(plot, "explanations", draw)
    record = run_test(trained / "best.pt", "--explain")
    assert (trained / "best_explained.png").read_bytes() == b"picture"
    assert "best_explained.png" in capsys.readouterr().out
    saved, classes = scores(trained / "best.pt"), load_checkpoint(trained / "best.pt")["classes"]
    assert len(drawn) == min(3, len(record["most_confused"])) > 0
    for (title, explanation), (true, wrong, *_) in zip(drawn, record["most_confused"], strict=False):
        name, text = title.split(": ")
        number = saved["name"].tolist().index(name)
        assert text.startswith(f"{true} predicted as {wrong}, ")
        posterior = saved["posterior"][:, 2]
        assert classes[saved["label"][number]] == true
        assert classes[posterior[number].argmax()] == wrong == classes[explanation.label]
        assert explanation.probability == pytest.approx(posterior[number].max(), abs=1e-5)
        alike = (saved["label"] == saved["label"][number]) & (posterior.argmax(1) == explanation.label)
        assert posterior[alike].max() == posterior[number].max()
    (trained / "best_explained.png").unlink()
    message = failure(test_script.main, trained / "best.pt", second / "best.pt", "--explain")
    assert message == "test.py: --explain explains one network\ngive one checkpoint"
    monkeypatch.setattr(test_script, "most_confused", lambda *_: [])
    run_test(trained / "best.pt", "--explain")
    assert not (trained / "best_explained.png").exists()
    assert "every clip is classified correctly: no best_explained.png" in capsys.readouterr().out


def test_test_clips_alone(trained, workplace):
    """Sent elsewhere: no weight can be chosen, the rest is the same."""
    record = run_test(trained / "best.pt")
    shutil.copytree(workplace / "NTU-RGB-D/xview", workplace / "sent",
                    ignore=shutil.ignore_patterns("train_*"))  # fmt: skip
    alone = run_test(trained / "best.pt", "--data", "sent")
    assert alone["results"] == record["results"]
    assert alone["fusion_weight_sweep"].keys() == {"temporal_weights", "test"}
    path = workplace / "sent/meta.json"
    meta = json.loads(path.read_text(encoding="utf-8"))
    meta["clips"]["val"] -= 1
    for group in ("camera", "subject"):
        meta[group]["val"].pop()
    path.write_text(json.dumps(meta))
    message = failure(test_script.main, trained / "best.pt", "--data", "sent")
    assert "meta.json does not belong to the arrays next to it\nconvert the data again" in message


def test_outputs_elsewhere(trained, workplace, monkeypatch, capsys):
    """Next to a checkpoint that may only be read, nothing is computed before --out is asked for."""
    before = contents(trained)
    test_script.main([str(trained / "best.pt"), "--device", "cpu", "--out", "new/out"])
    names = {path.name for path in Path("new/out").iterdir()}
    endings = [TEST_OUTPUTS[content] for content in ("record", "predictions", "scores")]
    assert names == {f"{trained.name}-best{ending}" for ending in endings}
    assert contents(trained) == before
    (workplace / "file").touch()
    with monkeypatch.context() as patch:
        patch.setattr(test_script, "run_tests", None)  # is not called
        message = failure(test_script.main, trained / "best.pt", "--out", "file")
        assert re.match(r"test\.py: file.*_test\.json cannot be written: .+\n--out names", message)

    # A disk that is full when the last file is written: the earlier files stay.
    run_test(trained / "best.pt")
    before = contents(trained)
    capsys.readouterr()

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    message = failure(test_script.main, trained / "best.pt", "--tta", "2", "--device", "cpu")
    assert "results, printed above, cannot be written: No space left on device\nmake room" in message
    assert "fused " in capsys.readouterr().out and contents(trained) == before


@pytest.mark.skipif(sys.platform != "linux", reason="needs names of files that are not UTF-8")
def test_a_run_whose_name_is_not_utf8(trained):
    folder = shutil.copytree(trained, trained.parent / "run\udcff")
    record = run_test(folder / "best.pt")
    assert record["checkpoint"] == str(folder / "best.pt")
    shutil.rmtree(folder)


def test_it_is_one_process(trained, monkeypatch):
    environment = {"LOCAL_RANK": "1", "RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "x"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    run_test(trained / "best.pt")  # left over in the environment
    monkeypatch.setenv("MASTER_PORT", "1")
    for script in (test_script, predict, export):
        message = failure(script.main, trained / "best.pt", "--local-rank=1")
        assert re.search(r"not under torchrun\nuse: python (test|predict|export)\.py$", message)


def test_a_checkpoint_and_data_that_do_not_fit(trained, second, workplace, tmp_path):
    def fails(*arguments):
        return failure(test_script.main, *arguments)

    assert re.match(r"test\.py: gone\.pt is missing\n", fails("gone.pt"))
    (tmp_path / "bad.pt").write_bytes(b"bad")
    assert "not a checkpoint" in fails(tmp_path / "bad.pt")
    message = fails(trained / "best.pt", "--data", tmp_path)
    assert "val_data.npy is missing" in message and "say with --data" in message
    assert "--data" not in fails("gone.pt")
    assert "between 0 and 1" in fails(trained / "best.pt", "--temporal_weight", 5)
    assert "device 'gpu' cannot be used here" in fails(trained / "best.pt", "--device", "gpu")
    assert "batch_size=0" in fails(trained / "best.pt", "--batch_size", 0)

    other = tmp_path / "classes"
    shutil.copytree(workplace / "NTU-RGB-D/xview", other)
    meta = json.loads((other / "meta.json").read_text(encoding="utf-8"))
    (other / "meta.json").write_text(json.dumps(meta | {"classes": ["jump", "run"]}), encoding="utf-8")
    message = fails(trained / "best.pt", "--data", other)
    assert re.search(r"distinguishes 60 classes .*classes has others\n.*--data", message)

    other = tmp_path / "layout"
    other.mkdir()
    np.save(other / "val_data.npy", np.ones((6, 3, 20, 2), np.float32))
    np.save(other / "val_num_frame.npy", np.array([4, 2]))
    (other / "val_label.pkl").write_bytes(pickle.dumps((["a", "b"], [0, 1])))
    message = fails(trained / "best.pt", "--data", other)
    assert re.search(r"kinect-v2 \(25 joints\).*kinect-v1 \(20 joints\)\n.*--data", message)

    # Two networks of other test clips: those of the other benchmark.
    train.run_command([*TINY, "--name", "xsub", "--data", "NTU-RGB-D/xsub", "--epochs", "1"])
    message = fails(trained / "best.pt", "checkpoints/xsub/best.pt")
    assert "best.pt have other classes or test clips\nonly posteriors of the same" in message


# --- predict.py ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recognizer(trained):
    return ActionRecognizer(trained / "best.pt", "cpu")


def test_predict_agrees_with_the_test(trained, recognizer, workplace, raw):
    """To 1e-6, for a raw file of any name and for converted clips."""
    run_test(trained / "best.pt")
    saved = scores(trained / "best.pt")
    for i, name in enumerate(saved["name"]):
        shutil.copy(raw / f"{name}.skeleton", workplace / "mine.skeleton")
        (clip,) = readers.read_clips(workplace / "mine.skeleton")
        (alone,) = recognizer.classify([clip.data])
        np.testing.assert_allclose(alone, saved["posterior"][i, 2], atol=1e-6)
    clips = list(readers.read_clips(workplace / "NTU-RGB-D/xview"))
    predicted = recognizer.classify([clip.data for clip in clips])
    predicted = dict(zip([clip.name for clip in clips], predicted, strict=True))
    assert len(predicted) == 36
    for name, posterior in zip(saved["name"], saved["posterior"], strict=True):
        np.testing.assert_allclose(predicted[name], posterior[2], atol=1e-6)
    assert recognizer.classify([]).shape == (0, 60)


def test_predict(trained, workplace, raw, capsys, monkeypatch):
    animated = []
    monkeypatch.setattr(plot, "animate", lambda *given: animated.append(given))

    def lines(*arguments):
        predict.main([*map(str, arguments), "--checkpoint", str(trained / "best.pt")])
        return capsys.readouterr().out.splitlines()

    one = lines(raw / f"{NAME}.skeleton", "--animate", "a/b.gif")
    assert re.fullmatch(rf"{NAME} \(\d+ frames, 1 body\)", one[0]) and one[6:] == ["a/b.gif"]
    percents = [float(line.split()[0]) for line in one[1:6]]
    assert percents == sorted(percents, reverse=True) and sum(percents) <= 100.3
    ((((name, data, shown, probabilities),), *others),) = animated
    assert name == NAME and shown[-1] == len(data) and 20 <= len(shown) == len(probabilities) <= 40
    assert others[2:] == ["a/b.gif", 30.0] and others[1][9] == "clapping"
    assert lines("NTU-RGB-D/xview", "--clip", NAME) == one[:6]
    assert lines("NTU-RGB-D/xview", "--clip", "0")[0].split()[0] == scores_name(workplace)
    two = lines(raw, "--clip", NAME, NAME[:-2] + "58")
    assert two[:6] == one[:6] and "2 bodies" in two[6]


def test_predict_explains(trained, raw, recognizer, capsys, monkeypatch):
    """The class that is printed first, of at most three clips."""
    drawn = []
    monkeypatch.setattr(plot, "explanations", lambda *given: drawn.append(given))
    arguments = [str(raw), "--checkpoint", str(trained / "best.pt"), "--explain", "a/why.png"]
    predict.main(arguments)
    lines = capsys.readouterr().out.splitlines()
    ((explained, layout, path),) = drawn
    assert lines[-1] == path == "a/why.png" and layout == recognizer.layout and len(explained) == 3
    for (title, explanation), heading, first in zip(explained, lines[::6], lines[1::6], strict=False):
        percent, name = first.split(" %  ")
        assert title == f"{heading.split()[0]}: {name}, {percent.strip()} %"
        assert explanation.joints.shape[1] == 25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--explain", "why.png", "--live"), "leave out --explain or --live"),
     (("--explain", "why.gif"), "--explain draws no why.gif: give a name that ends in .png")],
)  # fmt: skip
def test_explain_options_that_do_not_fit(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        predict.main(["clip.npy", "--checkpoint", "no.pt", *arguments])
    assert message in capsys.readouterr().err


def scores_name(workplace):
    """The name of the first training clip."""
    with open(workplace / "NTU-RGB-D/xview/train_label.pkl", "rb") as file:
        return pickle.load(file)[0][0]


def test_the_beginnings_of_a_clip(recognizer, raw):
    """The prediction after so many frames is that of a clip which ends there."""
    (clip,) = readers.read_clips(raw / f"{NAME}.skeleton")
    lengths, probabilities = recognizer.classify_prefixes(clip.data, limit=5)
    assert len(lengths) == 5 and lengths[0] == 1 and lengths[-1] == len(clip.data)
    for length, row in zip(lengths, probabilities, strict=True):
        alone = recognizer.classify([clip.data[:length]])[0]
        np.testing.assert_allclose(row, alone, atol=1e-6)


def test_predict_from_arrays(recognizer, workplace, raw):
    (clip,) = readers.read_clips(raw / "S002C002P001R001A058.skeleton")
    expected = recognizer.classify([clip.data])
    padded = np.zeros((2, *clip.data.swapaxes(0, 1).shape), np.float32)
    padded[1] = clip.data.swapaxes(0, 1)
    padded = np.pad(padded, ((0, 0), (0, 0), (0, 9), (0, 0), (0, 0)))
    arrays = {"bodies": clip.data.transpose(3, 0, 2, 1), "padded": padded}
    for name, array in arrays.items():
        np.save(workplace / f"{name}.npy", array)
        *failures, found = readers.read_clips(workplace / f"{name}.npy")
        np.testing.assert_allclose(recognizer.classify([found.data]), expected, atol=1e-6)
    assert found.name == "padded 1" and "no body in any frame" in failures[0].reason
    # Frames without a body do not count, in a file or not.
    gap = np.insert(clip.data, [0, 0, 5, 5, 5], 0, axis=0)
    np.testing.assert_allclose(recognizer.classify([gap]), expected, atol=1e-6)
    # Next to a clip of one body, and of one body slot.
    alone = clip.data[..., :1]
    together, single = recognizer.classify([alone, clip.data]), recognizer.classify([alone])
    np.testing.assert_allclose(together, np.concatenate([single, expected]), atol=1e-6)


@pytest.mark.parametrize("separator", [" ", ",", ", ", ";", "\t"])
def test_a_line_of_numbers(separator):
    numbers = np.arange(150).reshape(2, 25, 3) - 60.5
    line = separator.join(map(str, numbers.flatten()))
    np.testing.assert_array_equal(predict.parse_frame(line + "\r\n", 25, 3), numbers)


def test_commas_that_may_be_decimal():
    """Read where only one reading gives a frame."""
    pairs = " ".join(f"{x},{-x}" for x in range(25))
    assert predict.parse_frame(pairs, 25, 2)[0, 7].tolist() == [7, -7]
    assert predict.parse_frame(",".join(["5"] * 75), 25, 3).shape == (1, 25, 3)
    for ambiguous in (",".join(["5"] * 150), " ".join(["-0,5"] * 75), " ".join(["0"] + ["0,5"] * 74)):
        with pytest.raises(ValueError, match="decimal commas"):
            predict.parse_frame(ambiguous, 25, 3)
    with pytest.raises(ValueError, match="decimal commas"):  # or two bodies
        predict.parse_frame(" ".join(["1,234.5"] * 75), 25, 3)


@pytest.mark.parametrize(
    "line", ["," * 75 + ",".join("1" * 75), " ".join([",5"] * 75), "\t" * 75 + "1"]
)
def test_an_empty_value_is_not_passed_over(line):
    """Else the second body would be taken for the first one, and ,5 for 5."""
    with pytest.raises(ValueError, match=r"value 1 is '', not a number; needs 25 x 3 numbers"):
        predict.parse_frame(line, 25, 3)


def test_predict_names_what_it_cannot_read(trained, workplace, raw, capsys):
    def fails(*arguments, checkpoint=trained / "best.pt"):
        with pytest.raises(SystemExit) as done:
            predict.main([*map(str, arguments), "--checkpoint", str(checkpoint)])
        printed = capsys.readouterr()
        code = done.value.code
        return printed.out, printed.err + (code if isinstance(code, str) else "")

    good = raw / f"{NAME}.skeleton"
    lines = good.read_text().splitlines()
    (workplace / "cut.skeleton").write_text("\n".join(lines[:40]))
    np.save(workplace / "kinect1.npy", np.ones((5, 20, 3)))
    out, error = fails("cut.skeleton", "gone.skeleton", "kinect1.npy", good)
    assert out.startswith(f"{NAME} (")  # the others are predicted
    assert re.search(r"cut\.skeleton: line 40: .+", error)
    assert "gone.skeleton: there is no such file" in error
    assert re.search(r"kinect1\.npy: .*20 joints with 3 coordinates each; .*25 with 3 .*--check", error)
    assert "gone.pt is missing" in fails(good, checkpoint="gone.pt")[1]
    assert "no clip called no" in fails(good, "--clip", "no")[1]
    assert "give a FILE" in fails()[1]
    assert "draws no a.png: give a name that ends in .gif" in fails(good, "--animate", "a.png")[1]
    assert "--animate draws whole clips" in fails(good, "--live", "--animate", "a.gif")[1]


def test_predict_a_stream(trained, workplace, raw, capsys, monkeypatch):
    train.run_command(["--preset", "live", *TINY, "--num_layers", "2", "--window_layers", "1",
                       "--name", "live"])  # fmt: skip
    capsys.readouterr()

    def lines(*arguments, stdin=""):
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        predict.main([*map(str, arguments), "--checkpoint", "checkpoints/live/best.pt"])
        return capsys.readouterr().out.splitlines()

    file = raw / "S002C002P001R001A058.skeleton"
    replayed = lines(file, "--live", "--fps", 0)
    (clip,) = readers.read_clips(file)
    text = [" ".join(map(str, frame.transpose(2, 1, 0).flatten())) for frame in clip.data]
    piped = lines("--live", stdin="\n".join(text))
    assert replayed[1:] == piped and len(piped) == len(text) > 20
    assert lines(file)[1].split() == piped[-1].split()[1:]  # as for the whole clip
    assert lines("--live", stdin="\n\n") == ["     1  no body so far", "     2  no body so far"]
    # A line that is not a frame is named and left out; the others are read as without it.
    row = text[10].split()
    invalid = {
        "needs 25 x 3 numbers for each body": ("1 2 3", "x y z", " ".join(row[:-1]), ",,", "None"),
        "invalid coordinate": (" ".join(["1e30", *row[1:]]), " ".join(["inf", *row[1:]])),
        "decimal commas": (text[10].replace(".", ","), ";".join(row).replace(".", ",")),
    }
    for reason, wrong in invalid.items():
        with pytest.raises(SystemExit):
            lines("--live", stdin="\n".join([text[0], *wrong, *text[1:]]))
        printed = capsys.readouterr()
        found = [line.split()[1:] for line in printed.out.splitlines()]
        assert found == [line.split()[1:] for line in piped]
        for number, line in enumerate(wrong, 2):
            assert re.search(rf"line {number}: .*{reason}.*; left out", printed.err), line
        assert f"standard input: lines left out: {len(wrong)}" in printed.err
    message = failure(predict.main, "--live", "--checkpoint", trained / "best.pt")
    assert "causal" in message
    # With a class background: where actions begin and end.
    contents = load_checkpoint("checkpoints/live/best.pt")
    contents["classes"][0] = "background"
    save_checkpoint(Path("checkpoints/live/best.pt"), contents)
    _, begin, end = lines(file, "--live", "--fps", 1000)
    assert re.fullmatch(r" +\d+ +0\.\d\d s  begin +\d+\.\d %  .+", begin)
    assert re.fullmatch(rf" +{len(text)} +0\.\d\d s  end  +\d+\.\d %  .+", end)
    piped = lines("--live", stdin="\n".join([*text, *[""] * 20]))
    assert [line.split()[0] for line in piped] == [line.split()[0] for line in (begin, end)]
    assert lines("--live", stdin="\n\n") == []
