"""Every script as a command, on the CPU, from converted files to pictures."""

import csv
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

import matplotlib.image
import numpy as np
import PIL.Image
import pytest
import studies

import predict
import train
from model import SPATIAL, TEMPORAL
from skeletons import layout, readers
from training.checkpoint import load_checkpoint

ROOT = Path(__file__).parent.parent

TINY = [
    "--units=12", "--part_units=6", "--window=16", "--spatial_window=16", "--batch_size=8",
    "--epochs=2", "--milestones", "1", "--held_out=0.3",
]  # fmt: skip


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, raw):
    """A folder in which the commands run one after the other, with its converted data."""
    folder = tmp_path_factory.mktemp("workplace")
    done = run(folder, "convert_data.py", "--data_path", raw)
    assert "NTU-RGB-D/xsub: 24 training clips, 12 test clips" in done.stdout
    assert "NTU-RGB-D/xview: 24 training clips, 12 test clips" in done.stdout
    return folder


@pytest.fixture(scope="module")
def trained(workplace):
    done = run(workplace, "train.py", *TINY)
    assert "python test.py" in done.stdout
    return workplace / "checkpoints" / "NTU-RGB-D-xview-traversal-hierarchical"


def run(folder, script, *arguments, fails=False, stdin=""):
    # A GPU would make the numbers differ between machines; these tests are about the commands.
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, ROOT / script, *map(str, arguments)],
        cwd=folder, input=stdin, capture_output=True, text=True, env=environment, timeout=300,
    )  # fmt: skip
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


def picture(path):
    """Size in pixels (height, width) of a picture that shows something."""
    pixels = matplotlib.image.imread(path)[..., :3]
    assert pixels.std() > 0.02
    return pixels.shape[:2]


def test_synthesize(tmp_path):
    done = run(tmp_path, "synthesize.py", "--actions", 7, "--subjects", 1, "--replications", 1)
    assert "3 files in demo/raw" in done.stdout
    assert len(list((tmp_path / "demo/raw").glob("*.skeleton"))) == 3
    again = run(tmp_path, "synthesize.py", "--actions", 7, fails=True)
    assert "demo/raw holds .skeleton files" in again.stderr
    assert "no actions [99]" in run(tmp_path, "synthesize.py", "--actions", 99, fails=True).stderr


def test_convert_reports_what_it_skipped(raw, tmp_path):
    shutil.copytree(raw, tmp_path / "raw")
    (tmp_path / "raw" / "S001C001P001R001A001.skeleton").write_bytes(b"")
    (tmp_path / "ignored.txt").write_text("S002C001P001R001A001\nS002C002P001R001A001.skeleton\n")
    done = run(tmp_path, "convert_data.py", "--data_path", "raw", "--out_folder", "out",
               "--ignored_sample_path", "ignored.txt")  # fmt: skip
    assert "S001C001P001R001A001.skeleton: empty" in done.stdout
    assert "listed as missing: 2" in done.stdout
    assert json.loads((tmp_path / "out/xsub/meta.json").read_text())["clips"] == {
        "train": 22,
        "val": 12,
    }


def test_damaged_files_by_the_hundred(tmp_path):
    """benchmarks/fuzz.py does the same with 20,000."""
    done = run(tmp_path, "benchmarks/fuzz.py", "--files", 1000, "--seed", 1, "--out", "fuzz.json")
    record = json.loads((tmp_path / "fuzz.json").read_text())
    assert record["files"] == 1000 and record["largest_process_mib"] < 500, done.stdout


def test_convert_without_data(tmp_path):
    done = run(tmp_path, "convert_data.py", fails=True)
    assert "nturgb+d_skeletons does not exist" in done.stderr and "--data_path" in done.stderr
    done = run(tmp_path, "convert_data.py", "--ignored_sample_path", "gone.txt", fails=True)
    assert "gone.txt" in done.stderr


def test_train_writes_its_folder(trained):
    assert {p.name for p in trained.iterdir()} >= {"config.json", "log.jsonl", "last.pt", "best.pt"}
    picture(trained / "curves.png")
    assert len((trained / "log.jsonl").read_text().splitlines()) == 2


def test_resume(trained, workplace):
    """--resume on the command line equals the uninterrupted run, with nothing else repeated."""
    run(workplace, "train.py", *TINY, "--name", "broken", "--epochs", 1)
    run(workplace, "train.py", "--name", "broken", "--resume", "--epochs", 2)

    def losses(folder):
        lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
        return [(line["train"], line["held_out"]) for line in lines]

    assert losses(workplace / "checkpoints/broken") == losses(trained)
    done = run(workplace, "train.py", "--name", "broken", "--resume", "--setting", "small")
    assert losses(workplace / "checkpoints/broken") == losses(trained)  # finished, and not changed
    done = run(workplace, "train.py", "--name", "broken", "--resume", "--units", 13, fails=True)
    assert "a resumed run keeps its settings; differing here: units" in done.stderr
    done = run(workplace, "train.py", "--name", "gone", "--resume", fails=True)
    assert "last.pt is missing, so no epoch was finished" in done.stderr


def test_train_errors(trained, workplace, tmp_path):
    done = run(tmp_path, "train.py", fails=True)
    assert "NTU-RGB-D/xview/train_data.npy is missing" in done.stderr
    assert "python convert_data.py" in done.stderr
    assert "--overwrite" in run(workplace, "train.py", *TINY, fails=True).stderr
    done = run(workplace, "train.py", *TINY, "--name", "x", "--spatial", "tree", fails=True)
    assert "choose from chain, traversal" in done.stderr
    done = run(workplace, "train.py", *TINY, "--name", "x", "--window", 8, fails=True)
    assert "8 frames are shorter than the spatial window of 16" in done.stderr
    for wrong, message in (
        (("--epochs", 0), "epochs=0: must be at least 1"), (("--batch_size", 0), "batch_size=0"),
        (("--crop", 0.5, 0.9, 1), "p_interval"), (("--rotate", 0.1, 0.2), "one angle or three"),
        (("--workers", -1), "workers"), (("--device", "gpu"), "device 'gpu' cannot be used"),
        (("--temporal_weight", 3), "between 0 and 1"),
    ):  # fmt: skip
        assert message in run(workplace, "train.py", *TINY, "--name", "x", *wrong, fails=True).stderr
    assert not (workplace / "checkpoints" / "x").exists()


def test_test(trained, workplace):
    done = run(workplace, "test.py", trained / "best.pt")
    record = json.loads((trained / "best_test.json").read_text(encoding="utf-8"))
    assert record["clips"] == 12 and record["data"] == "NTU-RGB-D/xview"
    for stream in ("temporal", "spatial", "fused"):
        values = record["results"][stream]
        assert 0 <= values["accuracy"] <= values["top5"] <= 1
        assert f"{stream:9s} {100 * values['accuracy']:6.2f} %" in done.stdout
    assert {name: entry["clips"] for name, entry in record["per_class"].items()} == {
        "drink water": 3, "clapping": 3, "kicking something": 3, "handshaking": 3}  # fmt: skip
    weighted = sum(e["clips"] * e["accuracy"] for e in record["per_class"].values()) / 12
    assert weighted == pytest.approx(record["results"]["fused"]["accuracy"])
    picture(trained / "best_confusion.png")

    run(workplace, "test.py", trained / "best.pt", "--batch_size", 5, "--mmap", "--workers", 1)
    again = json.loads((trained / "best_test.json").read_text(encoding="utf-8"))["results"]
    for stream, values in record["results"].items():
        assert again[stream] == pytest.approx(values, abs=1e-5)
    run(workplace, "test.py", trained / "best.pt", "--temporal_weight", 1)
    again = json.loads((trained / "best_test.json").read_text(encoding="utf-8"))["results"]
    assert again["fused"] == pytest.approx(again["temporal"], abs=1e-6)


def test_the_mean_over_draws(trained, workplace):
    """test.py --draws: the same numbers each time, and not those of the whole clips alone."""

    def test(*options):
        run(workplace, "test.py", trained / "best.pt", *options)
        record = json.loads((trained / "best_test.json").read_text(encoding="utf-8"))
        return record["draws"], record["results"]

    whole, drawn, again = test(), test("--draws", 3), test("--draws", 3, "--workers", 1)
    assert (whole[0], drawn[0]) == (1, 3) and whole[1] == test("--draws", 1)[1]
    for stream, values in drawn[1].items():
        assert values["loss"] != whole[1][stream]["loss"]
        assert again[1][stream] == pytest.approx(values, abs=1e-5)
    fails = run(workplace, "test.py", trained / "best.pt", "--draws", 0, fails=True)
    assert "draws=0: must be at least 1" in fails.stderr


def scores(checkpoint):
    with np.load(f"{checkpoint.with_suffix('')}_scores.npz") as file:
        return dict(file)


def test_the_report_of_a_test(trained, workplace):
    run(workplace, "test.py", trained / "best.pt", "--fractions")
    record = json.loads((trained / "best_test.json").read_text(encoding="utf-8"))
    saved = scores(trained / "best.pt")
    predicted, label = saved["posterior"].argmax(2), saved["label"]
    assert saved["posterior"].shape == (12, 3, 60)
    for stream, column in zip(("temporal", "spatial", "fused"), predicted.T, strict=True):
        assert (column == label).mean() == pytest.approx(record["results"][stream]["accuracy"])
    with open(trained / "best_predictions.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    classes = load_checkpoint(trained / "best.pt")["classes"]
    assert [row["clip"] for row in rows] == saved["name"].tolist()
    assert [row["predicted"] for row in rows] == [classes[i] for i in predicted[:, 2]]
    wrong = [(classes[a], classes[b]) for a, b in zip(label, predicted[:, 2], strict=True) if a != b]
    assert sum(clips for *_, clips, _ in record["confused"]) == len(wrong)
    for true, taken_for, clips, of in record["confused"]:
        assert wrong.count((true, taken_for)) == clips and of == 3
    assert record["per_camera"] == {"1": {"clips": 12, "accuracy": np.mean(predicted[:, 2] == label)}}
    assert [entry["clips"] for entry in record["per_performer"].values()] == [4, 4, 4]

    weights, fused = record["over_weight"], record["results"]["fused"]["accuracy"]
    assert weights["test"][0] == pytest.approx(record["results"]["spatial"]["accuracy"])
    assert weights["test"][-1] == pytest.approx(record["results"]["temporal"]["accuracy"])
    assert weights["test"][10] == pytest.approx(fused)
    best = [w for w, a in zip(weights["weights"], weights["held_out"], strict=True)
            if a == max(weights["held_out"])]  # fmt: skip
    assert weights["chosen"] in best and len(weights["held_out"]) == 21
    seen = record["over_fraction"]
    assert seen["fractions"][-1] == 1 and seen["fused"][-1] == pytest.approx(fused)
    picture(trained / "best_report.png")

    # The test clips alone, elsewhere: no weight can be chosen, the rest is the same.
    (workplace / "sent").mkdir()
    for file in ("meta.json", "val_data.npy", "val_label.pkl", "val_num_frame.npy"):
        shutil.copy(workplace / "NTU-RGB-D/xview" / file, workplace / "sent")
    run(workplace, "test.py", trained / "best.pt", "--data", "sent")
    alone = json.loads((trained / "best_test.json").read_text(encoding="utf-8"))
    assert alone["results"] == record["results"]
    assert alone["over_weight"].keys() == {"weights", "test"}
    meta = json.loads((workplace / "sent/meta.json").read_text(encoding="utf-8"))
    meta["clips"]["val"] -= 1
    for field in ("camera", "subject"):
        meta[field]["val"].pop()
    (workplace / "sent/meta.json").write_text(json.dumps(meta))
    done = run(workplace, "test.py", trained / "best.pt", "--data", "sent", fails=True)
    assert "meta.json does not belong" in done.stderr


def test_the_mean_of_two_networks(trained, workplace):
    run(workplace, "train.py", *TINY, "--name", "second", "--seed", 1, "--spatial", "chain")
    second = workplace / "checkpoints/second"
    for checkpoint in (trained / "last.pt", second / "last.pt"):
        run(workplace, "test.py", checkpoint)
    run(workplace, "test.py", trained / "last.pt", second / "last.pt")
    one, two, both = map(
        scores, (trained / "last.pt", second / "last.pt", trained / "last+second-last.pt")
    )
    mean = (one["posterior"] + two["posterior"]) / 2
    np.testing.assert_allclose(both["posterior"], mean, atol=1e-6)
    assert not np.allclose(one["posterior"], two["posterior"], atol=1e-3)
    record = json.loads((trained / "last+second-last_test.json").read_text(encoding="utf-8"))
    assert record["networks"] == 2
    accuracy = (mean[:, 2].argmax(1) == one["label"]).mean()
    assert record["results"]["fused"]["accuracy"] == pytest.approx(accuracy)


def test_predict_says_of_a_raw_file_what_the_test_says(trained, workplace, raw):
    """To 1e-6, whatever the file is called."""
    run(workplace, "test.py", trained / "best.pt")
    saved = scores(trained / "best.pt")
    predictor = predict.Predictor(trained / "best.pt", "cpu")
    for i, name in enumerate(saved["name"]):
        shutil.copy(raw / f"{name}.skeleton", workplace / "mine.skeleton")
        (clip,) = readers.read_clips(workplace / "mine.skeleton")
        np.testing.assert_allclose(predictor([clip])[0], saved["posterior"][i, 2], atol=1e-6)
    clips = list(readers.read_clips(workplace / "NTU-RGB-D/xview"))
    said = dict(zip([clip.name for clip in clips], predictor(clips), strict=True))
    assert len(said) == 36
    for name, posterior in zip(saved["name"], saved["posterior"], strict=True):
        np.testing.assert_allclose(said[name], posterior[2], atol=1e-6)


def test_predict(trained, workplace, raw):
    checkpoint = ("--checkpoint", trained / "best.pt")
    name = "S002C002P001R001A010"
    done = run(workplace, "predict.py", raw / f"{name}.skeleton", *checkpoint, "--animate", "a/b.gif")
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{name} (") and lines[0].endswith(" frames, 1 body)")
    shares = [float(line.split()[0]) for line in lines[1:6]]
    assert len(lines) == 7 and shares == sorted(shares, reverse=True) and sum(shares) <= 100.3
    with PIL.Image.open(workplace / "a/b.gif") as animation:
        assert 20 <= animation.n_frames <= 40
    inside = run(workplace, "predict.py", "NTU-RGB-D/xview", "--clip", name, *checkpoint)
    assert inside.stdout.splitlines() == lines[:6]
    two = run(workplace, "predict.py", raw, "--clip", name, name[:-2] + "58", *checkpoint).stdout
    assert two.splitlines()[:6] == lines[:6] and "2 bodies" in two.splitlines()[6]


def test_predict_from_arrays(trained, workplace, raw):
    predictor = predict.Predictor(trained / "best.pt", "cpu")
    (clip,) = readers.read_clips(raw / "S002C002P001R001A058.skeleton")
    expected = predictor([clip])
    padded = np.zeros((2, *clip.data.swapaxes(0, 1).shape), np.float32)
    padded[1] = clip.data.swapaxes(0, 1)
    padded = np.pad(padded, ((0, 0), (0, 0), (0, 9), (0, 0), (0, 0)))
    forms = {"people": clip.data.transpose(3, 0, 2, 1), "padded": padded}
    for name, array in forms.items():
        np.save(workplace / f"{name}.npy", array)
        *faults, found = readers.read_clips(workplace / f"{name}.npy")
        np.testing.assert_allclose(predictor([found]), expected, atol=1e-6)
    assert found.name == "padded 1" and faults[0].reason == "no body in any frame"
    one = clip.data[..., :1]
    np.save(workplace / "one.npy", one[..., 0].swapaxes(1, 2))
    (found,) = readers.read_clips(workplace / "one.npy")
    np.testing.assert_array_equal(found.data[..., :1], one)
    other = replace(clip, label=99)  # of a data set with more classes
    np.testing.assert_allclose(predictor([other]), expected, atol=1e-6)
    np.save(workplace / "none.npy", padded[:0])
    (fault,) = readers.read_clips(workplace / "none.npy")
    assert "no clip in it" in fault.reason


def test_predict_names_what_is_damaged(trained, workplace, raw):
    good = raw / "S002C002P001R001A010.skeleton"
    lines = good.read_text().splitlines()
    (workplace / "cut.skeleton").write_text("\n".join(lines[:40]))
    np.save(workplace / "kinect1.npy", np.ones((5, 20, 3)))
    done = run(workplace, "predict.py", "cut.skeleton", "gone.skeleton", "kinect1.npy", good,
               "--checkpoint", trained / "best.pt", fails=True)  # fmt: skip
    assert done.stdout.startswith("S002C002P001R001A010 (")
    assert re.search(r"cut\.skeleton: line 40: .+", done.stderr)
    assert "gone.skeleton: there is no such file" in done.stderr
    assert "kinect1.npy: kinect1: 20 joints with 3 coordinates each; the network" in done.stderr
    done = run(workplace, "predict.py", good, "--checkpoint", "gone.pt", fails=True)
    assert "gone.pt is missing" in done.stderr
    done = run(workplace, "predict.py", good, "--clip", "no", "--checkpoint", trained / "best.pt",
               fails=True)  # fmt: skip
    assert "no clip called no" in done.stderr


def test_predict_a_stream(trained, workplace, raw):
    run(workplace, "train.py", "--setting", "live", *TINY, "--layers", 2, "--window_layers", 1,
        "--name", "live", "--embedding", 4)  # fmt: skip
    checkpoint = ("--checkpoint", "checkpoints/live/best.pt")
    file = raw / "S002C002P001R001A058.skeleton"
    replayed = run(workplace, "predict.py", file, "--stream", "--fps", 0, *checkpoint).stdout
    (clip,) = readers.read_clips(file)
    lines = [" ".join(map(str, frame.transpose(2, 1, 0).flatten())) for frame in clip.data]
    piped = run(workplace, "predict.py", "--stream", *checkpoint, stdin="\n".join(lines))
    assert replayed.splitlines()[1:] == piped.stdout.splitlines() and len(lines) > 20
    assert piped.stdout.count("\n") == len(lines)
    (share,) = run(workplace, "predict.py", file, *checkpoint).stdout.splitlines()[1:2]
    assert share.split() == piped.stdout.splitlines()[-1].split()[1:]  # as for the whole clip
    done = run(workplace, "predict.py", "--stream", *checkpoint, stdin="\n1 2 3\n", fails=True)
    assert "line 2: needs 25 x 3 numbers for each body" in done.stderr
    done = run(workplace, "predict.py", "--stream", "--checkpoint", trained / "best.pt", fails=True)
    assert "only a causal network" in done.stderr


@pytest.mark.parametrize("temporal", TEMPORAL)
@pytest.mark.parametrize("spatial", SPATIAL)
def test_export(temporal, spatial, workplace, tmp_path):
    """ONNX equals PyTorch to 1e-4 for one and two bodies: export.py compares, and fails if not."""
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    full = ["--setting", "full", *TINY, "--embedding", 4, "--view_units", 3, "--window_layers", 1]
    options = full if temporal == "stacked" else TINY
    run(workplace, "train.py", *options, "--epochs", 1, "--temporal", temporal, "--spatial", spatial,
        "--name", f"export-{temporal}-{spatial}")  # fmt: skip
    checkpoint = workplace / "checkpoints" / f"export-{temporal}-{spatial}" / "best.pt"
    done = run(workplace, "export.py", checkpoint, "--out", tmp_path / "net.onnx").stdout
    differences = [float(d) for d in re.findall(r"differs from PyTorch by at most (\S+)", done)]
    assert len(differences) == 2 and max(differences) < 1e-5
    assert "4 random clips" in done and "12 test clips, fed by Feeder" in done
    properties = {p.key: json.loads(p.value) for p in onnx.load(tmp_path / "net.onnx").metadata_props}
    assert properties["classes"] == load_checkpoint(checkpoint)["classes"]


def test_export_writes_nothing_that_was_not_compared(trained, workplace):
    pytest.importorskip("onnxruntime")
    done = run(workplace, "export.py", trained / "best.pt", "--data", "nothing", fails=True)
    assert "val_data.npy is missing" in done.stderr and not (trained / "best.onnx").exists()


def test_a_checkpoint_and_data_that_do_not_fit(trained, workplace, tmp_path):
    def fails(*arguments):
        return run(workplace, "test.py", *arguments, fails=True).stderr

    assert "gone.pt is missing" in fails("gone.pt")
    (tmp_path / "bad.pt").write_bytes(b"bad")
    assert "not a checkpoint" in fails(tmp_path / "bad.pt")
    message = fails(trained / "best.pt", "--data", tmp_path)
    assert "val_data.npy is missing" in message and "say with --data" in message
    assert "--data" not in fails("gone.pt")
    assert "between 0 and 1" in fails(trained / "best.pt", "--temporal_weight", 5)
    assert "device 'gpu' cannot be used here" in fails(trained / "best.pt", "--device", "gpu")
    assert "batch_size" in fails(trained / "best.pt", "--batch_size", 0)

    other = tmp_path / "classes"
    shutil.copytree(workplace / "NTU-RGB-D/xview", other)
    meta = json.loads((other / "meta.json").read_text(encoding="utf-8"))
    (other / "meta.json").write_text(json.dumps(meta | {"classes": ["jump", "run"]}), encoding="utf-8")
    message = fails(trained / "best.pt", "--data", other)
    assert "tells 60 classes apart" in message and "--data" in message

    other = tmp_path / "layout"
    other.mkdir()
    np.save(other / "val_data.npy", np.ones((6, 3, 20, 2), np.float32))
    np.save(other / "val_num_frame.npy", np.array([4, 2]))
    (other / "val_label.pkl").write_bytes(pickle.dumps((["a", "b"], [0, 1])))
    message = fails(trained / "best.pt", "--data", other)
    assert "kinect-v2 (25 joints)" in message and "kinect-v1 (20 joints)" in message


def test_plot(trained, workplace):
    out = workplace / "pictures"
    height, width = {}, {}
    other = workplace / "other" / trained.name  # another run of the same name
    shutil.copytree(trained, other, dirs_exist_ok=True)
    for name, *given in (
        ("curves", trained), ("curves", trained, other),
        ("skeletons", "NTU-RGB-D/xview"), ("orders",), ("architecture",), ("bodies",),
    ):  # fmt: skip
        path = out / f"{name}{len(given)}.png"
        run(workplace, "plot.py", name, *given, "--out", path)
        height[path.stem], width[path.stem] = picture(path)
    assert min(width.values()) > 700 and min(height.values()) > 300
    assert "needs a folder or files" in run(workplace, "plot.py", "curves", fails=True).stderr
    assert "log.jsonl is missing" in run(workplace, "plot.py", "curves", out, fails=True).stderr


def test_every_script_explains_itself(tmp_path):
    scripts = ("convert_data", "train", "test", "predict", "export", "plot", "synthesize")
    for script in (f"{name}.py" for name in scripts):
        assert "usage:" in run(tmp_path, script, "--help").stdout


def test_importing_does_nothing(tmp_path):
    names = [path.stem for path in ROOT.glob("*.py") if path.stem != "test"]
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {', '.join(names)}"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stdout and not list(tmp_path.iterdir()), done.stderr


def test_tables_are_made_from_records(tmp_path):
    """benchmarks/tables.py: seeds are a row, with mean and spread, also at several commits; another
    setting is another row."""
    small = train.PRESETS["small"] | {"name": "x", "data": "A/xview"}
    runs = [(0, 0.8, {}), (1, 0.9, {}), (0, 0.5, {"scale": 0.3}), (0, 0.6, {"spatial": "chain"})]
    runs += [runs[1], (1, 0.7, {})]  # a second record of the same run; the same of another commit
    paths = []
    for seed, accuracy, other in runs:
        config = asdict(replace(train.Config(), seed=seed, **small | other))
        results = {stream: {"accuracy": accuracy} for stream in ("temporal", "spatial", "fused")}
        record = {"data": "A/xview", "config": config, "results": results, "parameters": 1_500_000}
        record |= {"training_seconds": 60 * (seed + 1), "draws": 1, "commit": str(accuracy == 0.7)}
        record |= {"label": "small with more", "draws": 10} if "scale" in other else {}
        paths.append(tmp_path / f"{len(paths)}.json")
        paths[-1].write_text(json.dumps(record))
    lines = run(tmp_path, "benchmarks/tables.py", *paths).stdout.splitlines()
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines if "1.50 M" in line]
    both = "hierarchical + traversal"
    assert cells == [
        ["small", "hierarchical + chain", "60.0", "60.0", "**60.0**", "1", "1.50 M", "1 min"],
        ["small", both, "80.0 ± 10.0", "80.0 ± 10.0", "**80.0 ± 10.0**", "3", "1.50 M", "2 min"],
        ["small with more, 10 draws", both, "50.0", "50.0", "**50.0**", "1", "1.50 M", "1 min"],
    ]


def test_the_ablation_is_complete():
    """benchmarks/studies.py: the ingredients are all that makes `paper` into `full`."""
    known = asdict(train.Config()) | {"temporal": "stacked", "spatial": "chain"}
    paper, small, full = (known | train.PRESETS[name] for name in studies.ABLATED)
    fields = [field for some in studies.COMPONENTS.values() for field in some]
    differing = {field for field in full if (paper[field], small[field]) != (full[field],) * 2}
    assert sorted(fields) == sorted(differing - {"epochs"})
    made = dict(studies.ablation(studies.ABLATED, {"batch_size": 16}))
    for setting, rows in (("paper", 1), ("small", 0), ("full", 1)):
        rows += len(studies.COMPONENTS)
        assert [label.split()[0] for label in made].count(setting) == rows
    assert dict(studies.ablation(["full"])).items() <= made.items()
    assert made["small with dropout"]["input_dropout"] == full["input_dropout"] != 0
    assert made["full without dropout"]["input_dropout"] == 0
    assert made["paper"] == paper | {"batch_size": 16}
    for config in made.values():  # they fit together
        train.TwoStreamRNN(layout.KINECT_V2, 10, **train.network(train.Config(**config)))
        assert config["spatial_window"] <= config["window"]


def test_an_ablation_keeps_to_one_batch_size(tmp_path):
    """A record that was made with another one is not taken for this one's."""
    record = tmp_path / "results/ablation/demo-xview-camera-2-paper-stacked-chain-0.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"config": {"epochs": 300, "batch_size": 32}}))
    study = ["ablation", "--settings", "paper", "--held_out_camera", "2"]
    for other in ([], ["--batch_size", "16"]):
        refused = run(tmp_path, "benchmarks/studies.py", *study, *other, fails=True)
        assert f"{record.relative_to(tmp_path)} has batch_size=32" in refused.stderr


def test_studies_leave_records(workplace):
    """Of the test part, or of a held-out camera or subject; a run that has its record is not made
    again."""
    short = ["--data", "NTU-RGB-D/xview", "--epochs", "1", "--jobs", "2"]
    one = ["combinations", "--settings", "small", "--temporal", "stacked", "--spatial", "chain"]
    done = run(workplace, "benchmarks/studies.py", *one, *short, "--seeds", "0", "1")
    assert len(done.stdout.splitlines()) == 2
    assert not run(workplace, "benchmarks/studies.py", *one, *short).stdout
    other = run(workplace, "benchmarks/studies.py", *one, *short, "--epochs", "2", fails=True)
    assert "has epochs=1" in other.stderr
    other = run(workplace, "benchmarks/studies.py", *one, "--batch_size", "16", fails=True)
    assert "--batch_size: for an ablation" in other.stderr
    for held_out in (("--held_out_camera", "2"), ("--held_out", "0.05")):
        done = run(workplace, "benchmarks/studies.py", *one, *short, *held_out)
        assert len(done.stdout.splitlines()) == 1
    records = [json.loads(path.read_text()) for path in (workplace / "results").rglob("*.json")]
    for record in records:
        assert record["label"] == "small" and record["operations"] > 1e6
        assert record["config"]["layers"] == 2 and record["epoch"] == 1
    assert sorted(record["data"] for record in records) == [
        "NTU-RGB-D/xview",
        "NTU-RGB-D/xview",
        "NTU-RGB-D/xview, camera 2 held out",
        "NTU-RGB-D/xview, subjects held out",
    ]


def test_two_runs_make_four_combinations(workplace, tmp_path):
    """--exchange: each stream is the one that was trained, and tests as it did in its own run; with
    --resume a run that was stopped goes on."""
    (tmp_path / "NTU-RGB-D").symlink_to(workplace / "NTU-RGB-D")
    few = ["combinations", "--data", "NTU-RGB-D/xview", "--jobs", "1", "--exchange", "--settings"]
    done = run(tmp_path, "benchmarks/studies.py", *few, "small", "--epochs", "1")
    assert len(done.stdout.splitlines()) == 4
    found = list((tmp_path / "results").rglob("*.json"))
    results = {}
    for record in map(json.loads, map(Path.read_text, found)):
        results[record["config"]["temporal"], record["config"]["spatial"]] = record["results"]
        assert len(record.get("streams", "")) == (0 if record["training_seconds"] else 2)
    assert set(results) == set(product(TEMPORAL, SPATIAL))
    for (temporal, spatial), own in results.items():
        for pair in studies.TRAINED:
            for stream, same in (("temporal", pair[0] == temporal), ("spatial", pair[1] == spatial)):
                theirs = results[pair][stream]["loss"]
                assert (own[stream]["loss"] == pytest.approx(theirs, abs=1e-6)) == same
    for record in found:
        record.unlink()
    run(tmp_path, "benchmarks/studies.py", *few, "small", "--epochs", "2", "--resume")
    log = tmp_path / "checkpoints/combinations-NTU-RGB-D-xview-small-stacked-chain-0.out"
    assert "resuming after epoch 1" in log.read_text()
    refused = run(tmp_path, "benchmarks/studies.py", *few, "full", fails=True)
    assert "share no weights" in refused.stderr
