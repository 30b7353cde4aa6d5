"""Fill in the result tables of README.md and results/README.md from the records in results/, and that
of checkpoints/README.md from the records of the released networks.

    python benchmarks/tables.py
    python benchmarks/tables.py checkpoints/*/*_test.json    # print the tables, with these records too

A record is what test.py writes. Runs that differ only in seed, commit and machine form one row: mean
and standard deviation of their accuracies, medians of what they cost. A row is named by its label in a
study (studies.py), or else by the preset of train.py that it differs least from, and the difference.
Tables stand between <!-- results: DATA --> and <!-- end -->, where DATA is the folder of the benchmark.
Such a table has the unchanged presets of train.py; one with "DATA, all" has every row. A benchmark
without records is marked as not run. github/cost.png shows accuracy against cost.
"""

import argparse
import json
import re
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import plot  # noqa: E402
import train  # noqa: E402
from model import SPATIAL, TEMPORAL  # noqa: E402
from training import released  # noqa: E402

COLUMNS = ("Preset", "Architecture", "Temporal stream", "Spatial stream", "Two-stream", "n runs",
           "Parameters", "GFLOPs per clip", "CPU training time", "Throughput")  # fmt: skip
COSTS = (("flops", "", 1e9), ("training_seconds", " min", 60), ("clips_per_second", " clips/s", 1))
NOT_RUN = "Not run.\n"
ZOO_COLUMNS = ("Name", "Data", "Preset", "Streams", "Seed", "Test accuracy", "Mean ± std of n runs",
               "Parameters", "File", "GFLOPs per clip", "Throughput")  # fmt: skip
ZOO_START, ZOO_END = "<!-- released -->\n", "<!-- end -->"
# Fields of the configuration that do not distinguish two rows.
IGNORED = {"data", "name", "seed", "device", "precision", "num_workers", "mmap", "tensorboard",
           "validation_ratio", "validation_camera", "temporal", "spatial"}  # fmt: skip

Records = dict[str, list[dict]]  # benchmark -> records of test.py


def flatten(config: dict) -> dict:
    """A nested configuration, as a record has it, as one dict: field -> value."""
    fields = {}
    for key, value in config.items():
        fields |= value if isinstance(value, dict) else {key: value}
    return {key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()}


def read_records(paths: Iterable[str | Path]) -> Records:
    """Records of test.py by benchmark; other JSON files are skipped."""
    records: Records = {}
    for path in sorted({Path(path).resolve() for path in paths}):
        record = json.loads(path.read_text(encoding="utf-8"))
        if {"results", "config", "data"} <= set(record):
            records.setdefault("/".join(Path(record["data"]).parts[-2:]), []).append(record)
    return records


def row_key(record: dict) -> tuple:
    """What identifies the row of a run, and its position in the table: (rank of the most similar
    preset, label, differences from that preset, rank of the temporal and of the spatial RNN)."""
    defaults = train.flat(train.make_config())
    config = defaults | flatten(record["config"])
    best = None
    for rank, (name, fields) in enumerate(train.PRESETS.items()):
        preset = defaults | fields
        differences = [
            f"{field} {' '.join(map(str, value)) if isinstance(value, tuple) else value}"
            for field, value in config.items()
            if field not in IGNORED and value != preset.get(field, 0)  # (0: a setting that was removed)
        ]
        if best is None or len(differences) < len(best[2]):
            best = (rank, name, differences)
    rank, name, differences = best
    label = record.get("label", name)
    if label in train.PRESETS:  # presets may have changed since the run was labelled
        label = ", ".join((name, *differences))
    label += f", TTA {record['tta']}" if record.get("tta", 1) > 1 else ""
    label += f", ensemble of {n}" if (n := record.get("ensemble_size", 1)) > 1 else ""
    order = (TEMPORAL.index(config["temporal"]), SPATIAL.index(config["spatial"]))
    return rank, label, tuple(differences), *order


def run_key(record: dict) -> tuple:
    """What counts once in a row: a seed at a commit."""
    return record["config"]["seed"], record.get("commit")


def architecture(temporal: int, spatial: int) -> str:
    return f"{TEMPORAL[temporal]} + {SPATIAL[spatial]}"


def table(records: list[dict]) -> str:
    """A Markdown table of the records of one benchmark; columns without any value are left out."""
    rows: dict[tuple, dict] = {}
    for record in records:
        rows.setdefault(row_key(record), {})[run_key(record)] = record
    lines = [COLUMNS]
    for (_, label, _, temporal, spatial), row in sorted(rows.items()):
        runs = list(row.values())
        cells = [label, architecture(temporal, spatial)]
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
            cells.append(f"{text}{unit}" if known else "")
        lines.append(cells)
    columns = [column for column in zip(*lines, strict=True) if any(column[1:])]
    lines = ["| " + " | ".join(cells) + " |\n" for cells in zip(*columns, strict=True)]
    return lines[0] + f"|{' --- |' * len(columns)}\n" + "".join(lines[1:])


def is_preset(record: dict) -> bool:
    """Whether this is a run of an unchanged preset of train.py."""
    return row_key(record)[1] in train.PRESETS


def cost_points(records: Records) -> dict[str, list[tuple]]:
    """What plot.cost draws: the rows of unchanged presets whose FLOPs are known."""
    points: dict[str, list[tuple]] = {}
    for data, found in records.items():
        rows: dict[tuple, dict] = {}
        for record in filter(is_preset, found):
            _, label, _, temporal, spatial = row_key(record)
            if record.get("flops"):
                row = rows.setdefault((label, architecture(temporal, spatial)), {})
                row[run_key(record)] = record
        for key, runs in sorted(rows.items()):
            values = [100 * run["results"]["fused"]["accuracy"] for run in runs.values()]
            flops = statistics.median(run["flops"] for run in runs.values())
            deviation = statistics.stdev(values) if len(values) > 1 else 0
            points.setdefault(data, []).append((*key, flops, statistics.mean(values), deviation))
    return points


def fill(text: str, records: Records) -> str:
    """A page with its tables made again."""

    def replace(match: re.Match) -> str:
        data = match[1].removesuffix(", all")
        rows = records.get(data, [])
        rows = rows if data != match[1] else list(filter(is_preset, rows))
        return f"<!-- results: {match[1]} -->\n{table(rows) if rows else NOT_RUN}<!-- end -->"

    return re.sub(r"<!-- results: (.+?) -->\n.*?<!-- end -->", replace, text, flags=re.DOTALL)


# --- The released networks ----------------------------------------------------------------------------


def read_released() -> list[dict]:
    """The records of the released networks, which release.py writes."""
    paths = (released.RELEASED / f"{name}.json" for name in released.released_names())
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def zoo_table(records: list[dict]) -> str:
    """A Markdown table of released networks."""
    lines = [ZOO_COLUMNS, ["---"] * len(ZOO_COLUMNS)]
    for record in records:
        _, label, _, temporal, spatial = row_key(record)
        runs, rate = record["runs"], record["clips_per_second"]
        accuracy = record["results"]["fused"]["accuracy"]
        many = f"{100 * runs['mean']:.1f} ± {100 * runs['std']:.1f} ({runs['n']})" if runs else ""
        lines.append([
            f"`{record['name']}`", record["data"], label, architecture(temporal, spatial),
            str(record["config"]["seed"]), f"{100 * accuracy:.1f} %", many,
            f"{record['parameters'] / 1e6:.2f} M", f"{record['bytes'] / 1e6:.1f} MB",
            f"{record['flops'] / 1e9:.2g}", f"{rate:,.0f} clips/s ({record['device']})",
        ])  # fmt: skip
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def fill_zoo(page: str) -> str:
    """checkpoints/README.md with its table made again."""
    before, _, rest = page.partition(ZOO_START)
    _, end, after = rest.partition(ZOO_END)
    return before + ZOO_START + zoo_table(read_released()) + end + after


def write_zoo() -> None:
    """Make the table of checkpoints/README.md again."""
    page = released.RELEASED.parent / "README.md"
    page.write_text(fill_zoo(page.read_text(encoding="utf-8")), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("records", nargs="*", type=Path, help="more records: print the tables")
    arguments = parser.parse_args(argv)
    records = read_records([*(ROOT / "results").rglob("*.json"), *arguments.records])
    if arguments.records:
        print(*(f"{data}\n\n{table(found)}" for data, found in records.items()), sep="\n")
        return
    for page in (ROOT / "README.md", ROOT / "results" / "README.md"):
        page.write_text(fill(page.read_text(encoding="utf-8"), records), encoding="utf-8")
    write_zoo()
    if points := cost_points(records):
        plot.cost(points, ROOT / "github" / "cost.png")


if __name__ == "__main__":
    main()
