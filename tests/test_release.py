"""benchmarks/release.py: a released file has the accuracies of its run, its record and its row."""

import json
import shutil
import statistics

import pytest
import release
import tables
import torch

import plot
import test as test_script
import train
from training import released
from training.checkpoint import load_checkpoint, save_checkpoint

SMALL = {
    "hidden_size": 16, "part_hidden_size": 8, "window_size": 16, "spatial_window": 16, "epochs": 15,
    "learning_rate": 0.01, "batch_size": 8, "validation_ratio": 0.3, "device": "cpu",
}  # fmt: skip
STREAMS = ("temporal", "spatial", "fused")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data):
    """A folder with data, and with a run that was tested."""
    folder = tmp_path_factory.mktemp("workplace")
    shutil.copytree(data, folder / "demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for picture in ("curves", "confusion", "report"):
            patch.setattr(plot, picture, lambda *_: None)
        train.main(train.make_config("small", data=str(folder / "demo/xview"), name="run", **SMALL))
        test_script.main(["checkpoints/run/last.pt", "--device", "cpu"])
    return folder


@pytest.fixture
def workplace(trained, tmp_path, monkeypatch):
    """A copy of it, and nothing released."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True, symlinks=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(released, "RELEASED", tmp_path / "zoo/released")
    (tmp_path / "zoo").mkdir()
    page = f"# Model zoo\n\n{tables.ZOO_START}{tables.ZOO_END}\nMore.\n"
    (tmp_path / "zoo/README.md").write_text(page)
    return tmp_path


def run(*arguments):
    release.main(list(map(str, arguments)))


def fails(*arguments):
    with pytest.raises(SystemExit) as done:
        run(*arguments)
    return str(done.value.code)


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def make_records(folder, seeds=(0, 1, 2), **changes):
    """Records of runs of the same setting with other seeds and accuracies."""
    record = read(folder / "checkpoints/run/last_test.json")
    paths = []
    for seed in seeds:
        one = json.loads(json.dumps(record))
        one["config"] |= {"seed": seed, "data": "elsewhere/demo/xview", "name": f"run-{seed}"}
        one |= {"data": "elsewhere/demo/xview", "label": "small"} | changes
        one["results"]["fused"]["accuracy"] = 0.8 + 0.1 * seed
        paths.append(folder / f"{seed}.json")
        paths[-1].write_text(json.dumps(one))
    return paths


def test_a_released_network(workplace, capsys):
    records = make_records(workplace)
    run("checkpoints/run/last.pt", "--name", "tiny-net", "--records", *records)
    contents, record = load_checkpoint("tiny-net"), read(released.RELEASED / "tiny-net.json")
    last = load_checkpoint("checkpoints/run/last.pt")
    assert contents.keys() == last.keys() - release.TRAINING_ONLY and "best" in contents
    for key in contents.keys() - {"model", "config"}:
        assert contents[key] == last[key], key
    machine = last["config"]["machine"] | {"device": ""}
    assert contents["config"] == last["config"] | {"data": "demo/xview", "machine": machine}
    floats = [w.dtype for w in contents["model"].values() if w.is_floating_point()]
    assert floats and set(floats) == {torch.float16} and record["weights"] == "float16"

    tested = read(workplace / "checkpoints/run/last_test.json")
    for stream in STREAMS:
        assert record["results"][stream]["accuracy"] == tested["results"][stream]["accuracy"]
    assert tested.keys() < record.keys() and record["training_seconds"] == tested["training_seconds"]
    assert record["checkpoint"] == "tiny-net" and record["data"] == "demo/xview"
    assert str(workplace) not in json.dumps(record)
    path = released.RELEASED / "tiny-net.pt"
    assert record["bytes"] == path.stat().st_size
    assert record["sha256"] == released.sha256(path.read_bytes())
    log = (workplace / "checkpoints/run/log.jsonl").read_text().splitlines()
    assert record["log"] == list(map(json.loads, log))
    # Its settings can be trained again from the record.
    assert train.read_config(str(path.with_suffix(".json"))).optimization.epochs == 15

    runs = record["runs"]
    assert runs["n"] == 3 and runs["seeds"] == [0, 1, 2]
    assert runs["mean"] == pytest.approx(0.9) and runs["std"] == pytest.approx(0.1)
    page = (workplace / "zoo/README.md").read_text(encoding="utf-8")
    row = page.splitlines()[5]
    fused = f"{100 * tested['results']['fused']['accuracy']:.1f} %"
    assert row.startswith("| `tiny-net` | demo/xview | small, ") and fused in row
    assert "90.0 ± 10.0 (3)" in row and page.endswith(f"{tables.ZOO_END}\nMore.\n")
    assert "float16" in capsys.readouterr().out
    assert tables.fill_zoo(page) == page


def test_weights_that_half_precision_would_change(workplace):
    """Above the largest float16: the file keeps float32."""
    last = workplace / "checkpoints/run/last.pt"
    contents = load_checkpoint(last)
    for name, weights in contents["model"].items():
        if "classifier" in name:
            weights *= 1e7
    save_checkpoint(last, contents)
    test_script.main([str(last), "--device", "cpu"])
    run(last, "--name", "large")
    record = read(released.RELEASED / "large.json")
    assert record["weights"] == "float32" and record["runs"] is None
    loaded = load_checkpoint("large")["model"]
    assert all(torch.equal(weights, loaded[name]) for name, weights in contents["model"].items())


def test_what_is_not_released(workplace):
    last = workplace / "checkpoints/run/last.pt"
    assert "choose lower-case letters" in fails(last, "--name", "My net")
    best = last.with_name("best.pt")
    assert f"best_test.json is missing\nfirst run: python test.py {best}" in fails(best, "--name", "x")
    other = make_records(workplace, (0,), temporal_weight=0.9, tta=3)
    assert "differs from this one only in seed\nleave it out" in fails(
        last, "--name", "x", "--records", *other
    )
    path = workplace / "checkpoints/run/last_test.json"
    record = read(path)
    path.write_text(json.dumps(record | {"tta": 5}))
    assert "made with other options of test.py\nrun again" in fails(last, "--name", "x")
    record["results"]["spatial"]["accuracy"] += 0.01
    path.write_text(json.dumps(record))
    assert "accuracies are not those of the run's record" in fails(last, "--name", "x")
    assert not released.RELEASED.exists() and "tiny" not in (workplace / "zoo/README.md").read_text()
    with pytest.raises(SystemExit):
        run("--name", "x")


def test_records_of_cross_validation(workplace):
    """Of each record, the accuracy on the fold that the network was tested on."""
    record = read(workplace / "checkpoints/run/last_test.json")
    values = {0: 0.7, 1: 0.9}
    for seed, value in values.items():
        fold = {"clips": 12, "results": {stream: {"accuracy": value} for stream in STREAMS}}
        contents = {"clips": 60, "results": {}, "folds": {"xview": fold}}
        contents["config"] = record["config"] | {"data": "elsewhere/demo", "seed": seed}
        (workplace / f"{seed}.json").write_text(json.dumps(contents))
    runs = release.spread(record | {"data": "demo/xview"}, [workplace / f"{s}.json" for s in values])
    assert runs["mean"] == pytest.approx(0.8) and runs["n"] == 2
    assert runs["std"] == pytest.approx(statistics.stdev(values.values()))


def test_the_released_networks_are_tested_again(workplace, capsys):
    run("checkpoints/run/last.pt", "--name", "tiny-net")
    capsys.readouterr()
    run("--check")
    assert capsys.readouterr().out.rstrip().endswith("%: equal")
    run("--check", "--data_root", "nowhere")
    assert "tiny-net             not tested: nowhere/demo/xview is missing" in capsys.readouterr().out
    path = released.RELEASED / "tiny-net.json"
    record = read(path)
    record["results"]["temporal"]["accuracy"] += 0.01
    path.write_text(json.dumps(record))
    assert "not all accuracies are those" in fails("--check")
    assert "NOT EQUAL" in capsys.readouterr().out
    path.with_suffix(".pt").write_bytes(b"changed")
    assert "SHA-256" in fails("--check", "--data_root", "nowhere")


def test_the_page_shows_what_is_released():
    page = (released.RELEASED.parent / "README.md").read_text(encoding="utf-8")
    assert tables.fill_zoo(page) == page
