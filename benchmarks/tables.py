"""Fill in the tables of results in the pages (README.md, docs/, results/) from the records in results/,
and that of checkpoints/README.md from the records of the released networks.

    python benchmarks/tables.py
    python benchmarks/tables.py checkpoints/*/*_test.json    # print the tables, with these records too

A record is what test.py writes. Runs that differ only in seed, commit and machine form one row: mean
and standard deviation of their accuracies, medians of what they cost. A row is named by its label in a
study (studies.py), or else by the preset of train.py that it differs least from, and the difference.
Tables stand between <!-- results: DATA --> and <!-- end -->, where DATA is the folder of the benchmark.
Such a table has the unchanged presets of train.py; one with "DATA, all" has every row, "DATA, only
TEXT" those whose label contains the text, and "DATA, not TEXT" the others. A benchmark without records
is marked as not run. These tables are of another kind:

summary    one row per preset and published method, one column per benchmark
speed      of speed-cpu.json, made by benchmarks/speed.py
streaming  of streaming.json, made by benchmarks/streaming.py

github/cost.png shows accuracy against cost.
"""

import argparse
import json
import re
import statistics
import sys
from collections.abc import Iterable, Sequence
from functools import partial
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
# Benchmarks of the summary, and how a reader would call them.
BENCHMARKS = {
    "NW-UCLA/xview": "NW-UCLA, cross view",
    "UTD-MHAD/xsub": "UTD-MHAD, cross subject",
    "SBU": "SBU, five folds",
}
SUMMARY_ARCHITECTURE = ("stacked", "chain")  # of all its rows: nothing is chosen by test results
ZOO_COLUMNS = ("Name", "Data", "Preset", "Streams", "Seed", "Test accuracy", "Mean ± std of n runs",
               "Parameters", "File", "GFLOPs per clip", "Throughput")  # fmt: skip
ZOO_START, ZOO_END = "<!-- released -->\n", "<!-- end -->"
# Fields of the configuration that do not distinguish two rows.
IGNORED = {"data", "name", "seed", "device", "precision", "num_workers", "mmap", "tensorboard",
           "validation_ratio", "validation_camera", "split_seed", "temporal", "spatial"}  # fmt: skip

PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("results/*.md"))]
Records = dict[str, list[dict]]  # benchmark -> records of test.py


def flatten(config: dict) -> dict:
    """A nested configuration, as a record has it, as one dict: field -> value."""
    fields = {}
    for key, value in config.items():
        fields |= value if isinstance(value, dict) else {key: value}
    return {key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()}


def read_records(paths: Iterable[str | Path]) -> Records:
    """Records of test.py by benchmark, and of cross_validate.py by data set; other JSON files are
    skipped."""
    records: Records = {}
    for path in sorted({Path(path).resolve() for path in paths}):
        record = json.loads(path.read_text(encoding="utf-8"))
        if {"results", "config"} <= set(record):
            folds = "folds" in record
            data = Path(record["config"]["data"] if folds else record["data"])
            records.setdefault("/".join(data.parts[-1 if folds else -2 :]), []).append(record)
    return records


def accuracy(record: dict, stream: str) -> float:
    """In %; of a cross-validation, the mean over its folds."""
    if "folds" in record:
        return 100 * record["mean"][stream]
    return 100 * record["results"][stream]["accuracy"]


def mean_and_deviation(values: Sequence[float]) -> str:
    text = f"{statistics.mean(values):.1f}"
    return f"{text} ± {statistics.stdev(values):.1f}" if len(values) > 1 else text


def median_cost(runs: Iterable[dict], field: str, unit: str, size: float) -> str:
    """The median of one of COSTS, "" where no record has it."""
    known = [run[field] for run in runs if run.get(field)]
    value = statistics.median(known) / size if known else 0
    text = f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
    return f"{text}{unit}" if known else ""


def markdown(lines: Iterable[Sequence[str]]) -> str:
    """A table; columns with nothing below their head are left out."""
    columns = [column for column in zip(*lines, strict=True) if any(column[1:])]
    rows = ["| " + " | ".join(cells) + " |\n" for cells in zip(*columns, strict=True)]
    return rows[0] + f"|{' --- |' * len(columns)}\n" + "".join(rows[1:])


def without_partner(value: object) -> object:
    """A setting without the modality partner, which networks for data with one body lack anyway."""
    return tuple(each for each in value if each != "partner") if isinstance(value, tuple) else value


def differences(record: dict, preset: dict) -> list[str]:
    """The settings of a record that differ from those of a preset, a flat dict of all fields: "field
    value"."""
    config = train.flat(train.make_config()) | flatten(record["config"])
    return [
        f"{field} {' '.join(map(str, value)) if isinstance(value, tuple) else value}"
        for field, value in config.items()
        if field not in IGNORED
        and without_partner(value) != without_partner(preset.get(field, 0))  # (0: was removed)
    ]


def row_key(record: dict) -> tuple:
    """What identifies the row of a run, and its position in the table: (rank of its preset, label,
    differences from that preset, rank of the temporal and of the spatial RNN). Its preset is the one
    that the label begins with, or else the most similar one that is causal, too, or is not, too."""
    presets = {name: train.flat(train.make_config(name)) for name in train.PRESETS}
    config, label = presets["baseline"] | flatten(record["config"]), record.get("label")
    candidates = [name for name in presets if presets[name]["causal"] == config["causal"]]
    if (named := re.split(r"\W", label or "")[0]) in presets:
        candidates = [named]
    found = {name: differences(record, presets[name]) for name in candidates}
    name = min(found, key=lambda name: len(found[name]))
    if label is None or label == name:
        label = ", ".join((name, *found[name]))
    label += f", TTA {record['tta']}" if record.get("tta", 1) > 1 else ""
    if (networks := record.get("ensemble_size", 1)) > 1 and "label" not in record:
        label += f", ensemble of {networks}"
    order = (TEMPORAL.index(config["temporal"]), SPATIAL.index(config["spatial"]))
    return list(presets).index(name), label, tuple(found[name]), *order


def run_key(record: dict) -> tuple:
    """What counts once in a row: a seed at a commit."""
    return record["config"]["seed"], record["config"].get("split_seed"), record.get("commit")


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
            cell = mean_and_deviation([accuracy(run, stream) for run in runs])
            cells.append(f"**{cell}**" if stream == "fused" else cell)
        cells += [str(len(runs)), parameters(runs)]
        lines.append(cells + [median_cost(runs, *cost) for cost in COSTS])
    return markdown(lines)


def parameters(runs: Iterable[dict]) -> str:
    known = [run["parameters"] for run in runs if "parameters" in run]
    return f"{known[0] / 1e6:.2f} M" if known else ""


def summary(records: Records, published: dict[str, dict[str, float]]) -> str:
    """A Markdown table of the unchanged presets, all of one architecture, and of ensembles: mean ±
    standard deviation of the fusion (number of runs), beside published figures {method: {benchmark:
    accuracy in %}}."""
    order = TEMPORAL.index(SUMMARY_ARCHITECTURE[0]), SPATIAL.index(SUMMARY_ARCHITECTURE[1])
    runs: dict[str, dict[str, dict]] = {preset: {} for preset in train.PRESETS}
    for data in BENCHMARKS:
        for record in records.get(data, []):
            _, label, _, *streams = row_key(record)
            if tuple(streams) == order and (label in runs or record.get("ensemble_size", 1) > 1):
                runs.setdefault(label, {}).setdefault(data, {})[run_key(record)] = record
    lines = [("Setting", *BENCHMARKS.values(), "Parameters", "Training, one CPU thread")]
    for preset, by_data in runs.items():
        if not by_data:
            continue
        cells = []
        for data in BENCHMARKS:
            values = [accuracy(run, "fused") for run in by_data.get(data, {}).values()]
            cells.append(f"**{mean_and_deviation(values)}** ({len(values)})" if values else "")
        first = list(next(iter(by_data.values())).values())
        name = re.sub(r"^\w+", r"`\g<0>`", preset)
        lines.append((name, *cells, parameters(first), median_cost(first, *COSTS[1])))
    for method, figures in published.items():
        cells = [f"{figures[data]:.1f}" if data in figures else "" for data in BENCHMARKS]
        if any(cells):
            lines.append((method, *cells, "", ""))
    return markdown(lines)


# --- Speed --------------------------------------------------------------------------------------------


def with_range(measured: dict) -> str:
    """Median (range)."""
    return f"{measured['median']:.3g} ({measured['from']:.3g}-{measured['to']:.3g})"


def speed(record: dict) -> str:
    """A Markdown table of a record of benchmarks/speed.py."""
    lines = [("", "Training, baseline", "Training, float32", "Ratio", "Roofline", "Inference, baseline",
              "Inference, float32", "bfloat16", "One clip: median, 99th percentile")]  # fmt: skip
    for name, training in record["training"].items():
        inference = record["inference"][name]
        one = inference["one_clip_ms"]
        lines.append((
            name, with_range(training["baseline"]), with_range(training["float32"]),
            f"**{with_range(training['ratio'])}**", f"{training['roofline']['float32']:.3g}",
            *(with_range(inference[kind]) for kind in ("baseline", "float32", "bfloat16")),
            f"{one['median']:.0f} ms, {one['p99']:.0f} ms",
        ))  # fmt: skip
    return markdown(lines)


def streaming(record: dict) -> str:
    """A Markdown table of a record of benchmarks/streaming.py."""
    lines = [("", "One body, frames/s", "Median, 99th percentile", "Two bodies, frames/s")]
    networks = record["networks"]
    for name in (name.removesuffix(", 1 body") for name in networks if name.endswith(", 1 body")):
        one, two = networks[f"{name}, 1 body"], networks[f"{name}, 2 bodies"]
        times = f"{one['median_ms']:.2g} ms, {one['p99_ms']:.2g} ms"
        rates = (f"{measured['frames_per_second']:,}" for measured in (one, two))
        lines.append((name, next(rates), times, next(rates)))
    return markdown(lines)


# --- Pages --------------------------------------------------------------------------------------------


def is_preset(record: dict) -> bool:
    """Whether this is a run of an unchanged preset of train.py."""
    return row_key(record)[1] in train.PRESETS


def is_chosen(record: dict, choice: str | None, text: str | None) -> bool:
    """Whether a table has the row of this record; `choice` is all, only, not or None."""
    if choice in ("only", "not"):
        return (text in row_key(record)[1]) == (choice == "only")
    return choice == "all" or is_preset(record)


def cost_points(records: Records) -> dict[str, list[tuple]]:
    """What plot.cost draws: the rows of unchanged presets whose FLOPs are known."""
    points: dict[str, list[tuple]] = {}
    for data, found in records.items():
        rows: dict[tuple, dict] = {}
        for record in filter(is_preset, found):
            _, label, _, temporal, spatial = row_key(record)
            row = rows.setdefault((label, architecture(temporal, spatial)), {})
            row[run_key(record)] = record
        for key, runs in sorted(rows.items()):
            known = [run["flops"] for run in runs.values() if run.get("flops")]
            if not known:
                continue
            values, flops = [accuracy(run, "fused") for run in runs.values()], statistics.median(known)
            deviation = statistics.stdev(values) if len(values) > 1 else 0
            title = BENCHMARKS.get(data, data)
            points.setdefault(title, []).append((*key, flops, statistics.mean(values), deviation))
    return points


def fill(text: str, records: Records) -> str:
    """A page with its tables made again."""
    others = {"summary": lambda: summary(records, read_json("published.json")),
              "speed": lambda: speed(read_json("speed-cpu.json")),
              "streaming": lambda: streaming(read_json("streaming.json"))}  # fmt: skip

    def replace(match: re.Match) -> str:
        if match[1] in others:
            made = others[match[1]]()
        else:
            data, choice, label = re.fullmatch(
                r"(.+?)(?:, (all|only|not)(?: (.+))?)?", match[1]
            ).groups()
            rows = list(filter(partial(is_chosen, choice=choice, text=label), records.get(data, [])))
            made = table(rows) if rows else NOT_RUN
        return f"<!-- results: {match[1]} -->\n{made}<!-- end -->"

    return re.sub(r"<!-- results: (.+?) -->\n.*?<!-- end -->", replace, text, flags=re.DOTALL)


def read_json(name: str) -> dict:
    return json.loads((ROOT / "results" / name).read_text(encoding="utf-8"))


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
        runs, rate = record["runs"], record.get("clips_per_second")
        accuracy = record["results"]["fused"]["accuracy"]
        many = f"{100 * runs['mean']:.1f} ± {100 * runs['std']:.1f} ({runs['n']})" if runs else ""
        lines.append([
            f"`{record['name']}`", record["data"], label, architecture(temporal, spatial),
            str(record["config"]["seed"]), f"{100 * accuracy:.1f} %", many,
            f"{record['parameters'] / 1e6:.2f} M", f"{record['bytes'] / 1e6:.1f} MB",
            f"{record['flops'] / 1e9:.2g}", f"{rate:,.0f} clips/s ({record['device']})" if rate else "",
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
    for page in PAGES:
        page.write_text(fill(page.read_text(encoding="utf-8"), records), encoding="utf-8")
    write_zoo()
    if points := cost_points(records):
        plot.cost(points, ROOT / "github" / "cost.png")


if __name__ == "__main__":
    main()
