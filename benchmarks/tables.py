"""The tables of results in README.md, made from the records in results/.

    python benchmarks/tables.py                      # the records that are there
    python benchmarks/tables.py checkpoints/*/*_test.json    # these too, to look at

A record is what test.py writes. Runs that differ in nothing but their seed, commit and machine are a
row: mean and standard deviation of their accuracies, medians of what they cost. Rows are named by their
label in a study (studies.py), or by the setting of train.py that they differ from least, and by how. A
table stands in README.md or results/README.md between <!-- results: DATA --> and <!-- end -->, where
DATA is the folder of the benchmark: the settings of train.py, with and without 3D transforms; with
"DATA, all" every row. A benchmark without records is said to be not run. Accuracy against cost is drawn
as github/cost.png.
"""

import argparse
import json
import re
import statistics
import sys
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import plot  # noqa: E402
import train  # noqa: E402
from model import SPATIAL, TEMPORAL  # noqa: E402

COLUMNS = ("Setting", "Temporal + spatial", "Temporal stream", "Spatial stream", "Two-stream", "Runs",
           "Parameters", "Operations a clip", "Training", "Recognition")  # fmt: skip
COSTS = (("operations", "M", 1e6), ("training_seconds", "min", 60), ("clips_per_second", "clips/s", 1))
NOT_RUN = "Not run.\n"
WITHOUT = " without 3D transforms"
# What does not make another row.
ASIDE = {"data", "name", "seed", "device", "precision", "workers", "mmap", "held_out",
         "held_out_camera", "temporal", "spatial"}  # fmt: skip


def read_records(paths):
    """Records of test.py by data set -> {data: [record]}; other JSON files are passed over."""
    records = {}
    for path in sorted({Path(path).resolve() for path in paths}):
        record = json.loads(path.read_text(encoding="utf-8"))
        if {"results", "config", "data"} <= set(record):
            records.setdefault("/".join(Path(record["data"]).parts[-2:]), []).append(record)
    return records


def row_key(record):
    """The row that a run belongs to, and where it stands: (place of the nearest setting, label,
    differences from that setting, temporal, spatial)."""
    config, draws = record["config"], record.get("draws", 1)
    known = asdict(train.Config())
    config = known | {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
    best = None
    for place, (name, changes) in enumerate(train.PRESETS.items()):
        named = known | changes
        other = [
            f"{field} {' '.join(map(str, value)) if isinstance(value, tuple) else value}"
            for field, value in config.items()
            if field in named and field not in ASIDE and value != named[field]
        ]
        if best is None or len(other) < len(best[2]):
            best = (place, name, other)
    place, name, other = best
    label = record.get("label", name)
    if label in train.PRESETS:  # whatever it was called: settings may have changed since
        label = ", ".join((name, *other))
    for count, of in ((draws, "draws"), (record.get("networks", 1), "networks")):
        label += f", {count} {of}" if count > 1 else ""
    order = (TEMPORAL.index(config["temporal"]), SPATIAL.index(config["spatial"]))
    return place, label, tuple(other), *order


def run_key(record):
    """What counts once in a row: a seed at a commit."""
    return record["config"]["seed"], record.get("commit")


def table(records):
    """Records of one benchmark -> a table in Markdown, of the columns that something is known for."""
    rows = {}
    for record in records:
        rows.setdefault(row_key(record), {})[run_key(record)] = record
    lines = [COLUMNS]
    for (_, label, _, temporal, spatial), runs in sorted(rows.items()):
        runs = list(runs.values())
        cells = [label, f"{TEMPORAL[temporal]} + {SPATIAL[spatial]}"]
        for stream in ("temporal", "spatial", "fused"):
            values = [100 * run["results"][stream]["accuracy"] for run in runs]
            cell = f"{statistics.mean(values):.1f}"
            if len(values) > 1:
                cell += f" ± {statistics.stdev(values):.1f}"
            cells.append(f"**{cell}**" if stream == "fused" else cell)
        cells += [str(len(runs)), f"{runs[0]['parameters'] / 1e6:.2f} M"]
        for field, unit, size in COSTS:
            known = [run[field] for run in runs if run.get(field)]
            value = statistics.median(known) / size if known else 0
            text = f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
            cells.append(f"{text} {unit}" if known else "")
        lines.append(cells)
    told = [column for column in zip(*lines, strict=True) if any(column[1:])]
    lines = ["| " + " | ".join(cells) + " |\n" for cells in zip(*told, strict=True)]
    return lines[0] + f"|{' --- |' * len(told)}\n" + "".join(lines[1:])


def whole_setting(record):
    """Is it a run of a setting as it stands in train.py, or of that without 3D transforms?"""
    label = row_key(record)[1]
    return label.removesuffix(WITHOUT) in train.PRESETS


def cost_points(records):
    """What plot.cost draws: the rows of whole settings whose operations are known."""
    points = {}
    for data, found in records.items():
        rows = {}
        for record in filter(whole_setting, found):
            _, label, _, temporal, spatial = row_key(record)
            if record.get("operations"):
                kind = f"{TEMPORAL[temporal]} + {SPATIAL[spatial]}"
                row = rows.setdefault((label, kind, record["operations"]), {})
                row[run_key(record)] = 100 * record["results"]["fused"]["accuracy"]
        for (label, kind, operations), runs in sorted(rows.items()):
            values = list(runs.values())
            spread = statistics.stdev(values) if len(values) > 1 else 0
            points.setdefault(data, []).append(
                (label, kind, operations, statistics.mean(values), spread)
            )
    return points


def fill(text, records):
    """README with its tables made anew."""

    def replace(match):
        data = match[1].removesuffix(", all")
        found = records.get(data, [])
        found = found if data != match[1] else list(filter(whole_setting, found))
        return f"<!-- results: {match[1]} -->\n{table(found) if found else NOT_RUN}<!-- end -->"

    return re.sub(r"<!-- results: (.+?) -->\n.*?<!-- end -->", replace, text, flags=re.DOTALL)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("records", nargs="*", type=Path, help="to look at, beside those in results/")
    arguments = parser.parse_args()
    records = read_records([*(ROOT / "results").rglob("*.json"), *arguments.records])
    if arguments.records:
        print(*(f"{data}\n\n{table(found)}" for data, found in records.items()), sep="\n")
        return
    for page in (ROOT / "README.md", ROOT / "results" / "README.md"):
        page.write_text(fill(page.read_text(encoding="utf-8"), records), encoding="utf-8")
    if points := cost_points(records):
        plot.cost(points, ROOT / "github" / "cost.png")


if __name__ == "__main__":
    main()
