"""Pictures, studies, tables and the records that they are made from."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from dataclasses import asdict
from itertools import product
from pathlib import Path

import gpu
import matplotlib.image
import numpy as np
import PIL.Image
import pytest
import studies
import tables
import torch
from test_sbu import write_sbu

import cross_validate
import plot
import test as test_command
import train
from convert_data import convert
from model import SPATIAL, TEMPORAL, TwoStreamRNN
from skeletons.layout import KINECT_V2
from skeletons.readers import open_input
from skeletons.storage import read_split, split_files
from training import engine

ROOT = Path(__file__).parent.parent

STREAMS = ("temporal", "spatial", "fused")
REMOVED = ("embedding_size",)  # settings that older records have


def assert_picture(path, height=200, width=300):
    """A picture of at least this size that is not empty."""
    pixels = matplotlib.image.imread(path)[..., :3]
    assert pixels.std() > 0.02
    assert pixels.shape[0] > height and pixels.shape[1] > width


# --- Pictures ---------------------------------------------------------------------------------------


def write_log(folder, splits=("train", "validation"), epochs=3):
    folder.mkdir(parents=True)
    lines = []
    for epoch in range(1, epochs + 1):
        metrics = {stream: {"accuracy": epoch / 4, "loss": 1 / epoch} for stream in STREAMS}
        lines.append(json.dumps({"epoch": epoch, **dict.fromkeys(splits, metrics)}))
    (folder / "log.jsonl").write_text("\n".join(lines))
    return folder


def test_curves(tmp_path):
    runs = write_log(tmp_path / "a"), write_log(tmp_path / "b" / "a", ["train"], epochs=1)
    for number, given in enumerate((runs[:1], runs[1:], runs)):
        path = tmp_path / f"pictures/{number}.png"
        plot.main(["curves", *map(str, given), "--out", str(path)])
        assert_picture(path)
    with pytest.raises(SystemExit, match=r"log\.jsonl is missing\ngive the folder"):
        plot.main(["curves", str(tmp_path)])
    (tmp_path / "log.jsonl").touch()
    with pytest.raises(SystemExit, match=r"log\.jsonl is empty"):
        plot.main(["curves", str(tmp_path)])


def test_pictures_of_a_test(tmp_path, monkeypatch):
    values = [0.2, 0.5, 1.0]
    sweep = {"temporal_weights": values, "test": values}
    early = {"observation_ratios": values, **dict.fromkeys(STREAMS, values)}
    record = {"checkpoint": "checkpoints/a/best.pt", "data": "NW-UCLA/xview", "temporal_weight": 0.5}
    record |= {"results": dict.fromkeys(STREAMS), "fusion_weight_sweep": sweep}
    plot.report(record, tmp_path / "report.png", "title")
    narrow = matplotlib.image.imread(tmp_path / "report.png").shape[1]
    sweep |= {"validation": values, "best_on_validation": 0.5}
    record["early_recognition"] = early
    plot.report(record, tmp_path / "report.png", "title")
    assert_picture(tmp_path / "report.png", width=narrow)
    (tmp_path / "a.json").write_text(json.dumps(record))
    out = ["--out", str(tmp_path / "early.png")]
    plot.main(["early_recognition", str(tmp_path / "a.json"), str(tmp_path / "a.json"), *out])
    assert_picture(tmp_path / "early.png")
    labels = []
    draw = plot.draw_early_recognition
    monkeypatch.setattr(plot, "draw_early_recognition", lambda *a: (labels.append(a[-1]), draw(*a)))
    (tmp_path / "c.json").write_text(json.dumps(record | {"label": "full"}))
    monkeypatch.setattr(plot, "save", lambda *_: None)
    plot.early_recognition([tmp_path / "a.json", tmp_path / "c.json"], "")
    assert labels == ["a", "full"]  # the folder of the run, if there is no label
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(SystemExit, match=r"b\.json has no early recognition results\ngive"):
        plot.main(["early_recognition", str(tmp_path / "b.json"), *out])


def test_confusion_matrix(tmp_path):
    """Classes without clips and predictions are not drawn, so the picture becomes smaller."""
    matrix = np.zeros((40, 40))
    matrix[:20, :20] = np.eye(20)
    names = [f"class {i}" for i in range(40)]
    plot.confusion(matrix, names, tmp_path / "some.png")
    plot.confusion(matrix + np.eye(40), names, tmp_path / "all.png", "title")
    names[0] = "lift $\\frac$ of it"  # no formula
    plot.confusion(matrix + np.eye(40), names, tmp_path / "all.png")
    some, all_classes = (matplotlib.image.imread(tmp_path / n).shape for n in ("some.png", "all.png"))
    assert some[0] < all_classes[0]
    assert_picture(tmp_path / "some.png")


def test_confusion_matrix_of_several_files(tmp_path, monkeypatch):
    """As of the folds of a cross-validation; a class that was only predicted counts, too."""
    head, drawn = "clip,class,predicted\n", []
    (tmp_path / "1.csv").write_text(head + "a,sit,sit\nb,stand,sit\n")
    (tmp_path / "2.csv").write_text(head + 'c,"stand, up",walk\nd,sit,sit\n')
    files = [str(tmp_path / name) for name in ("1.csv", "2.csv")]
    out = ["--out", str(tmp_path / "all.png")]
    plot.main(["confusion", *files, *out])
    assert_picture(tmp_path / "all.png")
    monkeypatch.setattr(plot, "confusion", lambda *args: drawn.append(args))
    plot.main(["confusion", *files, "--title", "SBU", *out])
    ((matrix, names, _, title),) = drawn
    assert names == ["sit", "stand", "stand, up", "walk"] and title == "SBU: 50.0 % of 4 clips"
    assert matrix.tolist() == [[2, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    for content in ("", head, "clip,label\na,b\n"):
        (tmp_path / "1.csv").write_text(content)
        with pytest.raises(SystemExit, match=r"1\.csv has no predictions\ngive a"):
            plot.main(["confusion", *files, *out])


def test_names_in_other_scripts(tmp_path, monkeypatch, capsys):
    """Are drawn in a font that has them; characters that no font has are named once."""
    with matplotlib.rc_context({"font.family": ["cmr10"]}):
        plot.choose_fonts(["\u05d0", "a"])
        assert len(matplotlib.rcParams["font.family"]) == 2
        figure = plot.new_figure()
        figure.text(0.5, 0.5, "\u05d0")
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # matplotlib warns of characters that a font lacks
            plot.save(figure, tmp_path / "text.png")
        monkeypatch.setattr(plot, "glyphs", lambda file: frozenset(map(ord, "ab")))
        matplotlib.rcParams["axes.formatter.use_mathtext"] = True  # (as this font wants it)
        for _ in range(2):
            plot.confusion(np.eye(2), ["\u8d70a", "b"], tmp_path / "all.png")
        error = capsys.readouterr().err
        assert re.fullmatch("no .*the characters \u8d70: .*boxes\ninstall .*\n", error)


def test_a_format_that_pictures_do_not_have(tmp_path):
    for name in ("out.PNG", "out"):
        plot.save(plot.new_figure(), tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"out\.xyz: .* drawn as \.xyz\ngive a name in \.png"):
        plot.save(plot.new_figure(), tmp_path / "out.xyz")
    assert not (tmp_path / "out.xyz").exists()


def test_names_that_are_not_utf8(tmp_path):
    """As those of runs and clips can be on Linux: drawn with escapes."""
    figure = plot.new_figure()
    text = figure.text(0.5, 0.5, "run\udcff")
    plot.save(figure, tmp_path / "picture")
    assert text.get_text() == r"run\udcff"
    assert_picture(tmp_path / "picture", 20, 20)  # a .png under the name that was given


def test_a_picture_that_cannot_be_written(tmp_path, monkeypatch):
    """Leaves the earlier one."""
    out = tmp_path / "curves.png"
    out.write_text("earlier")

    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(plot, "write_partial", full)
    with pytest.raises(SystemExit, match=r"curves\.png: No space left on device\nmake room"):
        plot.main(["curves", str(write_log(tmp_path / "a")), "--out", str(out)])
    clip = np.ones((2, 3, 25, 1), np.float32) * np.arange(25)[:, None]
    animated = [("clip\udcff", clip, (1, 2), np.ones((2, 3)))]
    with pytest.raises(OSError, match="No space left"):
        plot.animate(animated, KINECT_V2, ("a", "b", "c"), out)
    assert out.read_text() == "earlier"


def test_skeletons(data, tmp_path):
    plot.main(["skeletons", str(data / "xview"), "--out", str(tmp_path / "stills.png")])
    assert_picture(tmp_path / "stills.png")


@pytest.mark.parametrize("channels", [2, 3])
def test_animation(channels, data, tmp_path):
    stored, counts, *_ = read_split(*split_files(data / "xview", "val"))
    clip = np.array(stored[: counts[0], :channels])
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7]])
    clips = [("clip", clip, (1, len(clip)), probabilities)]
    plot.animate(clips, KINECT_V2, ("a", "b", "c"), tmp_path / "new/clip.gif")
    with PIL.Image.open(tmp_path / "new/clip.gif") as animation:
        assert animation.n_frames == 3  # the opening and two
        assert animation.info["duration"] == 1000 * plot.OPENING_SECONDS  # (GIFs merge equal pictures)


def test_diagrams(tmp_path):
    """docs/diagrams.py, as a command."""
    command = [sys.executable, ROOT / "docs/diagrams.py", "--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    files = done.stdout.split()
    assert len(files) == 3
    for file in files:
        assert_picture(file, 500, 1000)


# --- Tables -----------------------------------------------------------------------------------------


def test_tables_are_made_from_records(tmp_path, capsys):
    """Seeds form one row, with mean and standard deviation, also at several commits; another setting
    forms another row."""
    runs = [(0, 0.8, {}), (1, 0.9, {}), (0, 0.5, {"scale": 0.3}), (0, 0.6, {"spatial": "chain"})]
    runs += [runs[1], (1, 0.7, {})]  # a second record of the same run; the same at another commit
    paths = []
    for seed, accuracy, other in runs:
        config = asdict(train.make_config("small", seed=seed, name="x", data="A/xview", **other))
        results = {stream: {"accuracy": accuracy} for stream in STREAMS}
        record = {"data": "A/xview", "config": config, "results": results, "parameters": 1_500_000}
        record |= {"training_seconds": 60 * (seed + 1), "tta": 1, "commit": str(accuracy == 0.7)}
        record |= {"label": "small with more", "tta": 10} if "scale" in other else {}
        paths.append(tmp_path / f"{len(paths)}.json")
        paths[-1].write_text(json.dumps(record))
    tables.main(list(map(str, paths)))
    lines = capsys.readouterr().out.splitlines()
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines if "1.50 M" in line]
    both = "hierarchical + traversal"
    assert cells == [
        ["small", "hierarchical + chain", "60.0", "60.0", "**60.0**", "1", "1.50 M", "1 min"],
        ["small", both, "80.0 ± 10.0", "80.0 ± 10.0", "**80.0 ± 10.0**", "3", "1.50 M", "2 min"],
        ["small with more, TTA 10", both, "50.0", "50.0", "**50.0**", "1", "1.50 M", "1 min"],
    ]


def test_a_row_is_named_by_its_preset_and_what_differs():
    """The preset is the one of the label, however much it has changed since; else the most similar one
    that is causal if the run is."""
    changes = {"reference_frame": "body", "crop_prob": 1.0, "time_warp": 0.0, "tracking_noise": 0.0}
    earlier = asdict(train.make_config("full", **changes))
    named = "full, reference_frame body, crop_prob 1.0, time_warp 0.0, tracking_noise 0.0"
    full = list(train.PRESETS).index("full")
    for label, expected in ((None, named), ("full", named), ("full, joint", "full, joint"),
                            ("other", "other")):  # fmt: skip
        rank, found, differences, *_ = tables.row_key(
            {"config": earlier} | ({"label": label} if label else {})
        )
        assert (rank, found, len(differences)) == (full, expected, 4)
    live = {"config": asdict(train.make_config("live", epochs=60))}
    assert tables.row_key(live)[1] == "live, epochs 60"
    assert tables.row_key(live | {"label": "small"})[0] == list(train.PRESETS).index("small")


def test_the_summary_has_presets_and_published_figures():
    """Seeds form one cell, a cross-validation counts with the mean over its folds; other architectures
    and changed presets are left out."""

    def record(accuracy, preset="small", seed=0, data="NW-UCLA/xview", **changes):
        changes = {"temporal": "stacked", "spatial": "chain"} | changes
        config = asdict(train.make_config(preset, seed=seed, data=data, **changes))
        made = {"config": config, "results": {"fused": {"accuracy": accuracy}}, "parameters": 1_500_000}
        return made | {"training_seconds": 120} if "xview" in data else made

    runs = [record(0.8), record(0.9, seed=1), record(0.5, scale=0.3), record(0.6, spatial="traversal")]
    folds = record(0.1, "full", data="SBU") | {"folds": {}, "mean": {"fused": 0.7}}
    published = {"LSTM": {"SBU": 71.0}, "Elsewhere": {"NTU": 99.0}}
    lines = tables.summary({"NW-UCLA/xview": runs, "SBU": [folds]}, published).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0][1:3] == ["NW-UCLA, cross view", "SBU, five folds"]
    assert cells[2:] == [
        ["`small`", "**85.0 ± 7.1** (2)", "", "1.50 M", "2 min"],
        ["`full`", "", "**70.0** (1)", "1.50 M", ""],
        ["LSTM", "", "71.0", "", ""],
    ]


def test_tables_of_some_rows():
    """DATA has the unchanged presets; all, only and not select by label."""

    def record(label, **changes):
        config = asdict(train.make_config("small", data="A/b", **changes))
        results = {stream: {"accuracy": 0.5} for stream in STREAMS}
        return {"config": config, "results": results, "parameters": 1, "label": label}

    records = {"A/b": [record("small"), record("small with more", scale=0.3)]}
    for name, shown in (
        ("A/b", ["small"]),
        ("A/b, all", ["small", "small with more"]),
        ("A/b, only more", ["small with more"]),
        ("A/b, not more", ["small"]),
        ("A/b, camera 2, all", []),
    ):
        page = tables.fill(f"x\n<!-- results: {name} -->\nold\n<!-- end -->\ny", records)
        assert page.startswith(f"x\n<!-- results: {name} -->\n") and page.endswith("<!-- end -->\ny")
        rows = [line.split(" | ")[0][2:] for line in page.splitlines() if line.startswith("| small")]
        assert rows == shown and ("Not run." in page) == (not shown)


def test_a_cross_validation_is_a_record(tmp_path):
    """cross_validation.json, whose data is the folder of the folds."""
    made = {"config": {"data": "data/SBU"}, "results": {}, "folds": {}}
    (tmp_path / "a.json").write_text(json.dumps(made))
    assert tables.read_records([tmp_path / "a.json"]) == {"SBU": [made]}


def test_the_pages_show_the_records():
    """No figure of a table is typed by hand, and every record has the fields of today's Config."""
    records = tables.read_records((ROOT / "results").rglob("*.json"))
    fields = {*train.flat(train.make_config()), *REMOVED}
    for record in (one for of_data in records.values() for one in of_data):
        assert tables.flatten(record["config"]).keys() <= fields
    for page in tables.PAGES:
        text = page.read_text(encoding="utf-8")
        assert tables.fill(text, records) == text, f"run benchmarks/tables.py: {page} is not up to date"


def test_accuracy_against_cost(tmp_path):
    points = tables.cost_points(tables.read_records((ROOT / "results").rglob("*.json")))
    assert {"NW-UCLA, cross view", "UTD-MHAD, cross subject"} <= set(points)
    # The accuracies are those of the table (a run without FLOPs counts, too).
    page = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    table = page.split("## SBU")[1].split("## ")[0].splitlines()
    for preset, structure, _, mean, deviation in points["SBU, five folds"]:
        (row,) = (line for line in table if line.startswith(f"| {preset} | {structure} |"))
        assert f"**{mean:.1f} ± {deviation:.1f}**" in row
    plot.cost(points, tmp_path / "cost.png")
    assert_picture(tmp_path / "cost.png")


# --- Studies ----------------------------------------------------------------------------------------


def test_the_ablation_is_complete():
    """The components are all that makes `full` of `baseline`."""
    baseline, small, full = (
        train.flat(train.make_config(name, temporal="stacked", spatial="chain"))
        for name in studies.ABLATED
    )
    fields = [field for component in studies.COMPONENTS.values() for field in component]
    differing = {field for field in full if (baseline[field], small[field]) != (full[field],) * 2}
    # (The ablation is of bodies that are alone, which have the same reference frame.)
    assert sorted(fields) == sorted(differing - {"epochs", "precision", "reference_frame"})
    ablation = dict(studies.ablation(studies.ABLATED, {"batch_size": 16}))
    for preset, rows in (("baseline", 1), ("small", 0), ("full", 1)):
        rows += len(studies.COMPONENTS)
        assert [label.split()[0] for label in ablation].count(preset) == rows
    assert dict(studies.ablation(["full"])).items() <= ablation.items()
    assert ablation["small with dropout"]["input_dropout"] == full["input_dropout"] != 0
    assert ablation["full without dropout"]["input_dropout"] == 0
    assert ablation["baseline"] == baseline | {"batch_size": 16}
    for fields in ablation.values():  # they fit together
        config = train.make_config(**fields)
        tiny = train.with_fields(config, hidden_size=4, part_hidden_size=4)
        TwoStreamRNN(KINECT_V2, 10, tiny.network, tiny.extensions)
        assert fields["spatial_window"] <= fields["window_size"]


@pytest.fixture
def workplace(tmp_path, data, monkeypatch):
    """A folder with data, in which studies train tiny networks in this process."""
    shutil.copytree(data / "xview", tmp_path / "demo" / "xview")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name, fields in train.PRESETS.items():
        tiny = {"hidden_size": 6, "part_hidden_size": 4, "window_size": 12, "spatial_window": 8}
        tiny |= {"view_adaptation": 4} if name == "full" else {}
        monkeypatch.setitem(train.PRESETS, name, fields | tiny | {"spatial_stride": 4})

    def run_script(script, arguments, folder):
        arguments = list(map(str, arguments))
        if script == "test.py":
            test_command.main(arguments)
        elif script == "cross_validate.py":
            cross_validate.main(arguments)
        else:
            config, resume, overwrite = train.parse_command_line(arguments)
            train.main(config, resume, overwrite)
            started.append((folder.name, resume))
        return True

    started = []
    monkeypatch.setattr(studies, "run_script", run_script)
    monkeypatch.setattr(train, "train_or_exit", train.main)  # signals need the main thread
    for picture in ("curves", "confusion", "report"):
        monkeypatch.setattr(plot, picture, lambda *_: None)
    monkeypatch.setattr(engine, "count_flops", lambda *_: 123_456)  # takes seconds
    return started


def records():
    return {path: json.loads(path.read_text()) for path in Path("results").rglob("*.json")}


def test_studies_write_records(workplace, capsys):
    """Of the test clips, or of a validation camera or validation subjects. A run that has a record is
    skipped."""
    one = ["combinations", "--presets", "small", "--temporal", "stacked", "--spatial", "chain"]
    one += ["--epochs", "1", "--jobs", "1"]
    studies.main([*one, "--seeds", "0", "1"])
    assert len(records()) == len(workplace) == 2
    studies.main(one)
    assert len(workplace) == 2
    subjects = ("--validation_ratio", "0.05")
    for validation in (("--validation_camera", "2"), subjects, (*subjects, "--split_seed", "3")):
        studies.main([*one, *validation])
    for record in records().values():
        assert record["label"] == "small" and record["flops"] == 123_456 and record["epoch"] == 1
        assert record["config"]["network"]["num_layers"] == 2
        assert set(record["results"]) == set(STREAMS)
    assert sorted(record["data"] for record in records().values()) == [
        "demo/xview",
        "demo/xview",
        "demo/xview, validation camera 2",
        "demo/xview, validation subjects",
        "demo/xview, validation subjects, split 3",
    ]
    for wrong, message in (
        ([*one, "--epochs", "2"], "has epochs 1\nmove it away"),
        ([*one, "--batch_size", "16"], "--batch_size is an option of the ablation"),
        ([*one, "--jobs", "0"], "0 is not a whole number from 1"),
        (["ablation"], "needs --validation_camera or --validation_ratio"),
        (
            ["ablation", "--validation_camera", "2", "--presets", "demo"],
            "of the presets baseline, small",
        ),
    ):
        with pytest.raises(SystemExit):
            studies.main(wrong)
        assert message in capsys.readouterr().err


def test_an_ablation_has_one_batch_size(tmp_path, monkeypatch, capsys):
    """A record that was made with another one is not taken for this one's."""
    monkeypatch.chdir(tmp_path)
    name = "demo-xview-validation-camera-2-baseline-stacked-chain-0.json"
    record = tmp_path / "results/ablation" / name
    record.parent.mkdir(parents=True)
    made = {"temporal": "stacked", "spatial": "chain", "batch_size": 32}
    record.write_text(json.dumps({"config": asdict(train.make_config("baseline", **made))}))
    study = ["ablation", "--presets", "baseline", "--validation_camera", "2"]
    for other in ([], ["--batch_size", "16"]):
        with pytest.raises(SystemExit):
            studies.main([*study, *other])
        assert f"{record.relative_to(tmp_path)} has batch_size 32\n" in capsys.readouterr().err


def test_two_runs_give_four_combinations(workplace, capsys):
    """--swap_streams: each stream is one that was trained, and tests as it did in its own run."""
    study = ["combinations", "--jobs", "1", "--swap_streams", "--presets"]
    studies.main([*study, "small", "--epochs", "1"])
    assert len(workplace) == 2
    results = {}
    for record in records().values():
        network = record["config"]["network"]
        results[network["temporal"], network["spatial"]] = record["results"]
        architecture = network["temporal"], network["spatial"]
        assert ("streams" in record) == (architecture not in studies.TRAINED)
    assert set(results) == set(product(TEMPORAL, SPATIAL))
    for (temporal, spatial), own in results.items():
        for pair in studies.TRAINED:
            for stream, same in (("temporal", pair[0] == temporal), ("spatial", pair[1] == spatial)):
                theirs = results[pair][stream]["loss"]
                assert (own[stream]["loss"] == pytest.approx(theirs, abs=1e-6)) == same
    for path in records():
        path.unlink()
    studies.main([*study, "small", "--epochs", "2", "--resume"])
    assert all(resume for _, resume in workplace[2:]) and len(workplace) == 4
    with pytest.raises(SystemExit):
        studies.main([*study, "full"])
    assert "share no weights" in capsys.readouterr().err


@pytest.fixture
def folds(workplace, tmp_path):
    """SBU/fold1, ... of 10 clips."""
    convert(open_input([write_sbu(tmp_path / "raw")], "sbu"), "SBU")


@pytest.mark.parametrize("benchmark", ["demo/xview", "SBU"])
def test_networks_form_ensembles(workplace, folds, benchmark):
    """Four networks of other inputs, the first two together and all four; none is trained twice."""
    study = ["ensembles", "--jobs", "1", "--epochs", "1", "--data", benchmark]
    studies.main(study)
    found = {record["label"]: record for record in records().values()}
    members = list(studies.ENSEMBLE)
    assert set(found) == {*members, "full, 2 networks", "full, 4 networks"}
    for count in (2, 4):
        record = found[f"full, {count} networks"]
        assert record["ensemble_size"] == count and record["flops"] == count * 123_456
        assert record["parameters"] == sum(found[name]["parameters"] for name in members[:count])
        assert len(record["checkpoint"].split()) == count
    before = records()
    studies.main(study)
    assert records() == before


def test_two_cross_validations_give_four_combinations(workplace, folds):
    study = ["combinations", "--jobs", "1", "--swap_streams", "--presets", "small", "--epochs", "1"]
    studies.main([*study, "--data", "SBU"])
    results = {}
    for record in records().values():
        network = record["config"]["network"]
        results[network["temporal"], network["spatial"]] = record
        assert record["clips"] == 10 and len(record["folds"]) == 5
    assert set(results) == set(product(TEMPORAL, SPATIAL))
    swapped = results[studies.TRAINED[0][0], studies.TRAINED[1][1]]
    for stream, own in (("temporal", studies.TRAINED[0]), ("spatial", studies.TRAINED[1])):
        assert swapped["mean"][stream] == pytest.approx(results[own]["mean"][stream])


def test_a_run_that_fails(tmp_path, monkeypatch, capsys):
    """A real start of a script: the output is in the log, and there is no record."""
    monkeypatch.chdir(tmp_path)
    record = Path("results/combinations/a.json")
    assert not studies.run("label", {"data": "gone"}, record)
    log = Path("checkpoints/combinations-a.out")
    assert "gone" in log.read_text() and str(log) in capsys.readouterr().out
    assert not record.exists()


# --- Other benchmarks -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "busy",
        "convert",
        "faithfulness",
        "fuzz",
        "gpu",
        "ntu",
        "speed",
        "streaming",
        "studies",
        "tables",
    ],
)
def test_help(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        __import__(name).main(["--help"])
    assert "usage:" in capsys.readouterr().out


def test_hundreds_of_corrupt_files(tmp_path):
    """benchmarks/fuzz.py does the same with 20,000. It limits the memory of its process."""
    command = [sys.executable, ROOT / "benchmarks/fuzz.py", "--files", "400", "--seed", "1"]
    command += ["--out", tmp_path / "fuzz.json"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert not done.returncode, done.stderr
    record = json.loads((tmp_path / "fuzz.json").read_text())
    assert record["files"] == 400 and record["largest_process_mib"] < 500


def test_gpu_on_a_cpu(tmp_path, monkeypatch):
    """All parts but the tests; after one that fails, the others follow."""

    def broken(_):
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(gpu.Measurements, "agreement", broken)
    arguments = ["--device", "cpu", "--tiny", "--clips", "10", "--skip", "tests", "--out"]
    with pytest.raises(SystemExit, match="these parts failed: agreement"):
        gpu.main([*arguments, str(tmp_path / "gpu.json")])
    record = json.loads((tmp_path / "gpu.json").read_text())
    assert "no kernel image" in record["agreement"]["error"]
    combinations = [f"{p} {t} {s}" for p in ("full", "baseline") for t in TEMPORAL for s in SPATIAL]
    assert all(record["epochs"][name]["steps"] == 2 for name in combinations)
    assert record["inference"]["full"]["clips_per_second"] > 0
    assert record["profile"]["baseline, CUDA graphs"]["kernels"] == 0  # none on a CPU
    monkeypatch.undo()
    measurements = gpu.Measurements(torch.device("cpu"), 16, gpu.TINY, 1)
    assert max(measurements.agreement()["live"].values()) < 0.05


def test_gpu_reports_failing_tests(monkeypatch):
    monkeypatch.setattr(gpu, "TESTS", "tests/no_such_file.py")
    with pytest.raises(AssertionError, match="no_such_file"):
        gpu.run_tests()
