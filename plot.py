"""All pictures and animations: data, training curves, tests, predictions.

    python plot.py curves checkpoints/a checkpoints/b        # accuracy and loss over the epochs
    python plot.py skeletons NTU-RGB-D/xview                 # stills of clips of several classes
    python plot.py early_recognition checkpoints/a/best_test.json ...   # accuracy by observation ratio
    python plot.py confusion checkpoints/a/fold*/last_predictions.csv   # confusion matrix of all folds

`--out picture.png` names the output. test.py draws the confusion matrix and the report of a test,
predict.py --animate the animation of a clip, --explain of both what a prediction rests on, and
docs/diagrams.py the diagrams of the pages.
"""

import argparse
import csv
import io
import json
import math
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import training.environment  # noqa: F401

import numpy as np
from numpy.typing import ArrayLike

from skeletons.layout import Layout
from skeletons.output import check_output, error_message, make_console_safe, write_partial

if TYPE_CHECKING:  # matplotlib takes seconds to import, so it is imported where a picture is drawn
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.figure import Figure

    from explain import Explanation

# The palette of Okabe and Ito, which colour-blind readers can distinguish.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
INK = "#333333"
BOXES: set[int] = set()  # characters that no font has, of which the user has been warned
OPENING_SECONDS = 2.0  # of an animation, with this text
OPENING = ("Left: the skeleton of a clip.\nRight: the network's answer after each frame,\n"
           "as probabilities of the classes;\norange is the most probable one.")  # fmt: skip
LAST_RESORT = "Last Resort High-Efficiency"  # matplotlib's font of boxes for characters that it lacks


def new_figure(texts: Iterable[str] = (), **options: object) -> "Figure":
    """A figure that needs no screen.

    texts  of the user that are drawn, as names of classes, in any script
    """
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    choose_fonts(texts)
    rcParams["text.parse_math"] = False  # a name with two $ is no formula
    return Figure(**{"layout": "constrained"} | options)


def save(figure: "Figure", path: str | Path) -> None:
    """Write a figure as a picture, whose suffix says the format; missing folders are made. An error
    leaves the file that was there before."""
    from matplotlib.text import Text

    path, content = Path(path), io.BytesIO()
    for text in figure.findobj(Text):
        if not text.get_text().isascii():
            text.set_text(drawable(text.get_text()))
    options = {"dpi": 150, "bbox_inches": "tight", "facecolor": "white"}
    suffix = path.suffix[1:].lower() or "png"
    if suffix not in figure.canvas.get_supported_filetypes():
        raise ValueError(f"{path}: pictures cannot be drawn as .{suffix}\ngive a name in .png or .pdf")
    figure.savefig(content, format=suffix, **options)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_partial(path, content.getvalue()).replace(path)


def drawable(text: str) -> str:
    """The text with escapes for what is not UTF-8 in the name of a file."""
    return text.encode("utf-8", "backslashreplace").decode()


def choose_fonts(texts: Iterable[str]) -> None:
    """Add installed fonts to matplotlib's, until all characters of the texts can be drawn. Warns of
    those that no font has."""
    from matplotlib import rcParams
    from matplotlib.font_manager import FontProperties, findfont, fontManager

    missing = {ord(char) for text in texts for char in text if char.isprintable()} - BOXES
    for family in rcParams["font.family"]:
        missing -= glyphs(findfont(FontProperties(family=[family])))
    files = {font.name: font.fname for font in fontManager.ttflist if font.name != LAST_RESORT}
    while missing:
        best = max(files, key=lambda family: len(missing & glyphs(files[family])))
        if not missing & glyphs(files[best]):
            BOXES.update(missing)
            warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from")  # matplotlib's, for each
            print(
                f"no installed font has the characters {''.join(map(chr, sorted(missing)))}: they are "
                "drawn as boxes\ninstall a font that has them, for example one of the Noto fonts",
                file=sys.stderr,
            )
            break
        rcParams["font.family"] = [*rcParams["font.family"], best]
        missing -= glyphs(files[best])


@cache
def font_file(characters: str) -> str:
    """The file of an installed font that has most of the characters."""
    from matplotlib import rcParams
    from matplotlib.font_manager import FontProperties, findfont

    choose_fonts([characters])
    files = [findfont(FontProperties(family=[family])) for family in rcParams["font.family"]]
    return max(files, key=lambda file: len(glyphs(file) & set(map(ord, characters))))


@cache
def glyphs(file: str) -> frozenset[int]:
    """The characters that matplotlib can draw with a font."""
    from matplotlib.font_manager import get_font

    try:
        font = get_font(file)
        font.set_size(9, 72)  # (fails for fonts of pictures, as for coloured emoji)
    except (RuntimeError, ValueError, OSError):
        return frozenset()
    return frozenset(font.get_charmap())


def open_axes(axis: "Axes") -> None:
    """The look of every line chart here: a light grid, no frame at the top and on the right."""
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)


def percent(ratios: Iterable[float]) -> list[float]:
    return [100 * ratio for ratio in ratios]


# --- Curves of a training run -----------------------------------------------------------------------


def read_log(run: str | Path) -> list[dict]:
    """The lines of checkpoints/<name>/log.jsonl, one dict per epoch."""
    path = Path(run) / "log.jsonl"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing\ngive the folder of a run of train.py")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if not lines:
        raise ValueError(f"{path} is empty\nno epoch of this run has finished yet")
    return lines


def curves(runs: Sequence[str | Path], path: str | Path) -> None:
    """Accuracy and loss over the epochs: each stream of one run, or the fusion of several runs.

    Solid lines: validation clips. Dashed lines: training clips, with dropout and augmentation.
    """
    names = [Path(run).name for run in runs]
    names = [
        name if names.count(name) == 1 else str(run) for name, run in zip(names, runs, strict=True)
    ]
    logs = [read_log(run) for run in runs]
    if len(logs) == 1:
        series = [(stream, logs[0], stream) for stream in logs[0][0]["train"]]
    else:
        series = [(name, log, "fused") for name, log in zip(names, logs, strict=True)]
    figure = new_figure(names, figsize=(10, 3.8))
    axes = figure.subplots(1, 2)
    draw_curves(axes[0], series, "accuracy", "accuracy, %", scale=100)
    draw_curves(axes[1], series, "loss", "cross entropy")
    axes[0].legend(frameon=False)
    title = names[0] if len(logs) == 1 else "two-stream fusion"
    validated = any("validation" in log[0] for log in logs)
    lines = "dashed training, solid validation" if validated else "training clips"
    figure.suptitle(f"{title}: {lines}", fontsize=11, color=INK)
    save(figure, path)


def draw_curves(
    axis: "Axes", series: list[tuple[str, list[dict], str]], metric: str, ylabel: str, scale: float = 1
) -> None:
    """One line for each split of each of the series, (label, lines of a log, stream)."""
    from matplotlib.ticker import MaxNLocator

    for color, (label, log, stream) in zip(COLORS * len(series), series, strict=False):
        epochs = [line["epoch"] for line in log]
        splits = [split for split in ("train", "validation") if split in log[0]]
        for split in splits:
            solid = split == "validation"
            axis.plot(
                epochs,
                [scale * line[split][stream][metric] for line in log],
                "-" if solid else "--",
                color=color,
                label=label if split == splits[-1] else None,
                marker="o" if len(epochs) == 1 else None,
                linewidth=1.6 if solid else 1.1,
            )
    axis.set_xlabel("epoch")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_ylabel(ylabel)
    open_axes(axis)


# --- Results of a test ------------------------------------------------------------------------------


def confusion(matrix: ArrayLike, names: Sequence[str], path: str | Path, title: str = "") -> None:
    """The confusion matrix in % of the true class.

    matrix  (classes, classes), counts of clips; rows are true classes, columns are predictions.
            Classes that have no clip and were never predicted are not drawn
    """
    from matplotlib.colors import PowerNorm

    matrix = np.asarray(matrix, float)
    drawn = np.flatnonzero(matrix.sum(0) + matrix.sum(1))
    matrix, names = matrix[np.ix_(drawn, drawn)], [names[i] for i in drawn]
    names = [name if len(name) <= 40 else f"{name[:39]}\u2026" for name in names]
    ratio = 100 * matrix / matrix.sum(1, keepdims=True).clip(min=1)
    cells, labels = 0.3 * max(len(names), 8), 0.085 * max(map(len, names))  # inches
    figure = new_figure([*names, title], figsize=(cells + labels + 1.5, cells + labels + 0.8))
    axis = figure.subplots()
    # The square root makes rare confusions visible.
    image = axis.imshow(ratio, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=100))
    axis.set_xticks(range(len(names)), names, rotation=90, fontsize=9)
    axis.set_yticks(range(len(names)), names, fontsize=9)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    least = 0.5 if len(names) <= 30 else 3
    for row, column in zip(*np.nonzero(ratio >= least), strict=True):
        color = "white" if ratio[row, column] > 40 else INK
        text = f"{ratio[row, column]:.0f}"
        axis.text(column, row, text, ha="center", va="center", fontsize=7, color=color)
    figure.colorbar(image, ax=axis, shrink=0.6, label="% of the true class")
    axis.set_title(title, fontsize=11, color=INK)
    save(figure, path)


def confusion_of_files(files: Sequence[str | Path], path: str | Path, title: str = "") -> None:
    """The confusion matrix of the clips in one or several ..._predictions.csv of test.py, such as those
    of the folds of a cross-validation. Classes are in the order in which clips of them come up."""
    pairs = [pair for file in files for pair in read_predictions(file)]
    columns = zip(*pairs, strict=True)
    names = list(dict.fromkeys(name for column in columns for name in column))
    matrix = np.zeros((len(names), len(names)), int)
    for true, predicted in pairs:
        matrix[names.index(true), names.index(predicted)] += 1
    correct = f"{100 * matrix.trace() / len(pairs):.1f} % of {len(pairs)} clips"
    confusion(matrix, names, path, f"{title}: {correct}" if title else correct)


def read_predictions(file: str | Path) -> list[tuple[str, str]]:
    """The (class, predicted class) of each clip in a ..._predictions.csv of test.py."""
    try:
        with open(file, encoding="utf-8-sig", newline="") as lines:
            pairs = [(row["class"], row["predicted"]) for row in csv.DictReader(lines)]
    except (KeyError, UnicodeDecodeError, csv.Error):
        pairs = []
    if not pairs:
        raise ValueError(f"{file} has no predictions\ngive a ..._predictions.csv of test.py")
    return pairs


def report(record: dict, path: str | Path, title: str = "") -> None:
    """From a record of test.py: accuracy over the fusion weight, and over the observation ratio if the
    record has it (`test.py --early_recognition`)."""
    early = record.get("early_recognition")
    figure = new_figure([title], figsize=(9 if early else 5, 3.6))
    axes = figure.subplots(1, 2 if early else 1, squeeze=False)[0]
    draw_fusion_weight_sweep(axes[0], record)
    if early:
        for color, stream in zip(COLORS, record["results"], strict=False):
            draw_early_recognition(axes[1], early, stream, color, stream)
        axes[1].legend(frameon=False)
    for axis in axes:
        axis.set_ylabel("accuracy, %")
        open_axes(axis)
    figure.suptitle(title, fontsize=11, color=INK)
    save(figure, path)


def draw_fusion_weight_sweep(axis: "Axes", record: dict) -> None:
    sweep = record["fusion_weight_sweep"]
    weights = sweep["temporal_weights"]
    axis.plot(weights, percent(sweep["test"]), color=COLORS[0], label="test")
    if "validation" in sweep:
        axis.plot(weights, percent(sweep["validation"]), "--", color=COLORS[1], label="validation")
        axis.axvline(
            sweep["best_on_validation"], color=COLORS[1], linewidth=0.8, label="best on validation"
        )
    axis.axvline(record["temporal_weight"], color=COLORS[0], linewidth=0.8, label="weight used")
    axis.set_xlabel("weight of the temporal stream (0: spatial only)")
    axis.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1.17), ncols=2)


def draw_early_recognition(axis: "Axes", early: dict, stream: str, color: str, label: str) -> None:
    ratios = percent(early["observation_ratios"])
    axis.plot(ratios, percent(early[stream]), "o-", color=color, markersize=3, label=label)
    axis.set_xlabel("observation ratio, % of the clip")


def early_recognition(files: Sequence[str | Path], path: str | Path) -> None:
    """Accuracy over the observation ratio, from records of `test.py --early_recognition`. A line is
    called as the record's label, if it has one, or as the folder of the run."""
    records = []
    for file in files:
        try:
            record = json.loads(Path(file).read_text(encoding="utf-8"))
            early = record["early_recognition"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"{file} has no early recognition results\n"
                "give a ..._test.json of test.py --early_recognition"
            ) from None
        runs = " + ".join(Path(name).parent.name or name for name in record["checkpoint"].split())
        records.append((early, record.get("label", runs)))
    figure = new_figure([record["data"], *(label for _, label in records)], figsize=(6, 3.8))
    axis = figure.subplots()
    for (early, label), color in zip(records, COLORS * len(files), strict=False):
        draw_early_recognition(axis, early, "fused", color, label)
    axis.set(ylabel="accuracy, %", title=record["data"])
    axis.legend(frameon=False, fontsize="small", loc="lower right")
    open_axes(axis)
    save(figure, path)


def cost(points: dict[str, list[tuple]], path: str | Path) -> None:
    """Accuracy against cost, one panel per data set.

    points  {data: [(preset, architecture, FLOPs per clip, accuracy in %, its standard deviation or 0)]}
    """
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    figure = new_figure(figsize=(5 * len(points), 4))
    axes = figure.subplots(1, len(points), squeeze=False)[0]
    presets = list(dict.fromkeys(entry[0] for entries in points.values() for entry in entries))
    architectures = list(dict.fromkeys(entry[1] for entries in points.values() for entry in entries))
    colors = dict(zip(presets, COLORS * len(presets), strict=False))
    markers = dict(zip(architectures, "os^D", strict=False))
    for axis, (data, entries) in zip(axes, points.items(), strict=True):
        for preset, architecture, flops, accuracy, deviation in entries:
            axis.errorbar(
                flops / 1e9, accuracy, deviation, color=colors[preset], marker=markers[architecture],
                markersize=6, linestyle="", capsize=2,
            )  # fmt: skip
        axis.set(xscale="log", title=data, xlabel="GFLOPs per clip")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.tick_params(which="both", length=3, pad=3)
        open_axes(axis)
        axis.grid(alpha=0.3, which="both")
    axes[0].set_ylabel("accuracy, %")
    style = {"linestyle": ""}
    handles = [Line2D([], [], color=c, marker="o", label=name, **style) for name, c in colors.items()]
    handles += [Line2D([], [], color=INK, marker=m, label=name, **style) for name, m in markers.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    save(figure, path)


# --- Skeletons --------------------------------------------------------------------------------------


def bone_colors(layout: Layout) -> list[str]:
    """The colour of each bone: that of the body part at its end."""
    part_of = {joint: part for part, joints in layout.parts.items() for joint in joints}
    colors = dict(zip(layout.parts, COLORS * len(layout.parts), strict=False))
    return [colors[part_of[joint]] for joint, _ in layout.bones]


def draw_body(axis: "Axes", joints: np.ndarray, layout: Layout, **style: object) -> None:
    """The bones of one body, joints (V, 2) or (V, 3): the front view, or all three axes of a 3D plot.

    matplotlib's z axis is up, as the y axis of a sensor is; a sensor's z axis points away from it.
    """
    columns = [0, 2, 1] if axis.name == "3d" else [0, 1]
    style = {"linewidth": 1.6, "solid_capstyle": "round"} | style
    for bone, color in zip(layout.bones, bone_colors(layout), strict=True):
        axis.plot(*joints[list(bone)].T[columns], color=color, **style)


def skeletons(folder: str | Path, path: str | Path, classes: int = 6, stills: int = 8) -> None:
    """Stills of one test clip of each of several classes; time runs to the right."""
    from feeder import Feeder
    from skeletons.storage import split_files

    feeder = Feeder(
        *split_files(folder, "val"),
        window_size=stills,
        origin_transfer="first-frame",
        normalization=False,
    )
    labels = feeder.label.unique()
    labels = labels[np.linspace(0, len(labels) - 1, min(classes, len(labels))).astype(int)]
    titles = [feeder.classes[int(label)] for label in labels]
    figure = new_figure(titles, figsize=(9, 1.35 * len(labels)))
    axes = figure.subplots(len(labels), 1, squeeze=False)[:, 0]
    for axis, label, title in zip(axes, labels, titles, strict=True):
        clip = int((feeder.label == label).nonzero()[0, 0])
        data = feeder[clip][0].permute(1, 3, 2, 0).numpy()  # (T, M, V, C)
        step = max(1.3, 1.7 * (data[..., 0].max() - data[..., 0].min()))
        for time, bodies in enumerate(data):
            for body in bodies:
                if body.any():
                    draw_body(axis, body + step * time * np.eye(1, body.shape[1]), feeder.layout)
        axis.set_aspect("equal", anchor="W")
        axis.axis("off")
        axis.set_title(title, fontsize=9, loc="left", color=INK, pad=2)
    save(figure, path)


def animate(
    clips: Sequence[tuple[str, np.ndarray, Sequence[int], np.ndarray]],
    layout: Layout,
    classes: Sequence[str],
    path: str | Path,
    fps: float = 30.0,
) -> None:
    """Clips moving in 3D (or 2D), one after the other, next to the prediction so far, as a GIF. It
    begins with the first clip standing still next to a text that says what is shown.

    clips  [(name, data (T, C, V, M), frames (K,), probabilities (K, classes))]: after so many frames
           of the clip the network gave these probabilities; one picture each
    fps    frames of the clips per second
    """
    from matplotlib.animation import FuncAnimation, PillowWriter

    flat = clips[0][1].shape[1] == 2
    figure = new_figure([*classes, *(name for name, *_ in clips)], figsize=(7.2, 3.4))
    grid = figure.add_gridspec(1, 2, width_ratios=(1, 1.15))
    scene = figure.add_subplot(grid[0], projection=None if flat else "3d")
    bars = figure.add_subplot(grid[1])
    pictures = [(clip, step) for clip in clips for step in range(len(clip[2]))]
    rate = max(1, round((fps or 30) * len(pictures) / sum(len(data) for _, data, *_ in clips)))
    opening = round(OPENING_SECONDS * rate)  # pictures

    def draw(number: int) -> None:
        (name, data, frames, probabilities), step = pictures[max(0, number - opening)]
        scene.clear()
        draw_scene(scene, data, frames[step], step / len(frames), layout)
        title = f"{drawable(name)}, frame {frames[step]} of {len(data)}"
        scene.set_title(title, fontsize=9, color=INK)
        bars.clear()
        bars.spines["bottom"].set_visible(number >= opening)
        if number < opening:
            bars.text(0, 0.5, OPENING, va="center", fontsize=10, color=INK, linespacing=1.7)
            bars.set(xticks=[], yticks=[])
        else:
            draw_bars(bars, probabilities, step, classes)

    draw(opening)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the same layout in all pictures
    animation = FuncAnimation(figure, draw, opening + len(pictures))
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder, "animation.gif")
        animation.save(whole, writer=PillowWriter(fps=rate), dpi=80)
        content = whole.read_bytes()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_partial(path, content).replace(path)


def draw_scene(axis: "Axes", data: np.ndarray, frame: int, progress: float, layout: Layout) -> None:
    """The bodies of one frame (counted from 1) of a clip (T, C, V, M). In 3D the camera moves around
    them while `progress` goes from 0 to 1, which shows depth."""
    for body in data[frame - 1].transpose(2, 1, 0):  # (V, C)
        if body.any():
            draw_body(axis, body, layout, linewidth=2.2)
    joints = data.transpose(0, 3, 2, 1)  # (T, M, V, C)
    joints = joints[joints.any((2, 3))].reshape(-1, data.shape[1])
    low, high = joints.min(0), joints.max(0)
    if axis.name == "3d":
        axis.set(xlim=(low[0], high[0]), ylim=(low[2], high[2]), zlim=(low[1], high[1]))
        axis.set_box_aspect((high - low)[[0, 2, 1]].clip(min=0.3))
        axis.view_init(elev=12, azim=-120 + 60 * progress)
        x, z = np.meshgrid((low[0], high[0]), (low[2], high[2]))
        axis.plot_surface(x, z, np.full_like(x, low[1]), color=INK, alpha=0.08)  # the floor
    else:
        axis.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
    axis.axis("off")


def draw_bars(
    axis: "Axes", probabilities: np.ndarray, step: int, classes: Sequence[str], limit: int = 5
) -> None:
    """Probabilities of the classes that are the most probable at some time of the clip."""
    drawn = np.argsort(-probabilities.max(0), kind="stable")[:limit][::-1]
    predicted = probabilities[step].argmax()
    colors = [COLORS[4] if label == predicted else COLORS[5] for label in drawn]
    axis.barh(range(len(drawn)), 100 * probabilities[step][drawn], color=colors)
    for row, label in enumerate(drawn):
        axis.text(1.5, row, classes[label], va="center", fontsize=9, color="black")
    axis.set(xlim=(0, 100), yticks=[])
    axis.set_xlabel("probability, %", fontsize=9)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right", "left"]].set_visible(False)


def explanations(
    explained: Sequence[tuple[str, "Explanation"]], layout: Layout, path: str | Path
) -> None:
    """For each clip: its bodies at the most important frames, joints coloured by importance, and the
    importance of all frames.

    explained  titles and explanations (explain.py)
    """
    height = 3.4 * len(explained)
    figure = new_figure([title for title, _ in explained], figsize=(9, height))
    for part, (title, explanation) in zip(
        np.atleast_1d(figure.subfigures(len(explained))), explained, strict=True
    ):
        scene, curve = part.subplots(2, height_ratios=(1.9, 1))
        frames = key_frames(explanation.frames, explanation.poses.any((0, 1, 3)))
        joints = draw_key_frames(scene, explanation, frames, layout)
        part.colorbar(
            joints, ax=scene, shrink=0.9, pad=0.01, panchor=False, label="importance of joints"
        )
        time = np.linspace(0, 100, len(explanation.frames))
        curve.axhline(0, color=INK, linewidth=0.8)
        curve.plot(time, explanation.frames, color=COLORS[0], linewidth=1.6)
        curve.plot(time[frames], explanation.frames[frames], "o", color=COLORS[1], markersize=5)
        curve.set(xlim=(-1, 101), xlabel="time, % of the clip", ylabel="importance\nof frames")
        open_axes(curve)
        part.suptitle(title, fontsize=11, color=INK)
    save(figure, path)


def key_frames(importance: np.ndarray, visible: np.ndarray, count: int = 6) -> list[int]:
    """The most important frame of each of `count` sections of the frames (T,) that show a body."""
    sections = np.array_split(np.flatnonzero(visible), count)
    return [int(s[importance[s].argmax()]) for s in sections if len(s)]


def draw_key_frames(
    axis: "Axes", explanation: "Explanation", frames: Sequence[int], layout: Layout
) -> "PathCollection":
    """The bodies at some frames, time to the right -> the coloured joints."""
    # (frames, B, V, C); 3D bodies are turned by 30 degrees, so that arms in front of them are seen.
    poses = explanation.poses[:, :, frames].transpose(2, 0, 3, 1)
    turned = poses[..., :2].copy()
    if poses.shape[3] == 3:
        turned[..., 0] = poses[..., 0] * math.cos(math.pi / 6) + poses[..., 2] * math.sin(math.pi / 6)
    shown = poses.any((2, 3))  # (frames, B)
    low, high = np.array([
        (bodies[some].min((0, 1)), bodies[some].max((0, 1)))
        for bodies, some in zip(turned, shown, strict=True)
    ]).swapaxes(0, 1)  # (frames, 2)  # fmt: skip
    width, height = (high - low).max(0)
    step = max(1.15 * width, 5.8 * height / len(frames))  # the row fills the figure
    turned[..., 0] += (step * np.arange(len(frames)) - (low + high)[:, 0] / 2)[:, None, None]
    for body in turned[shown]:
        for bone in layout.bones:
            axis.plot(*body[list(bone)].T, color="#bbbbbb", linewidth=1.6)
    percents = 100 * np.array(frames) / max(explanation.poses.shape[2] - 1, 1)
    style = {"ha": "center", "va": "top", "fontsize": 8, "color": INK}
    for number, percent in enumerate(percents):
        axis.text(step * number, low[:, 1].min() - 0.08 * height, f"{percent:.0f} %", **style)
    importance = np.maximum(explanation.joints, 0)
    highest = max(importance.max(), 1e-6)
    colors = np.broadcast_to(importance, (len(frames), *importance.shape))[shown].ravel()
    axis.set_aspect("equal")
    axis.axis("off")
    return axis.scatter(
        *turned[shown].reshape(-1, 2).T, c=colors, s=8 + 50 * colors / highest, cmap="magma_r", vmin=0,
        vmax=highest, edgecolors="#999999", linewidths=0.4, zorder=3,
    )  # fmt: skip


# Of inputs, output and title.
PICTURES: dict[str, Callable[[list[str], str, str], None]] = {
    "curves": lambda inputs, out, _: curves(inputs, out),
    "skeletons": lambda inputs, out, _: skeletons(inputs[0], out),
    "early_recognition": lambda inputs, out, _: early_recognition(inputs, out),
    "confusion": confusion_of_files,
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("picture", choices=PICTURES, help="kind of picture")
    inputs = ("folders of runs (curves), a data folder (skeletons), ..._test.json (early_recognition), "
              "..._predictions.csv (confusion)")  # fmt: skip
    parser.add_argument("inputs", nargs="+", help=inputs)
    parser.add_argument("--out", help="output file (default: <picture>.png)")
    parser.add_argument("--title", default="", help="confusion: what is shown")
    make_console_safe()
    arguments = parser.parse_args(argv)
    out = arguments.out or f"{arguments.picture}.png"
    try:
        check_output(out, "--out names another file")
        PICTURES[arguments.picture](arguments.inputs, out, arguments.title)
    except (ValueError, OSError) as error:
        raise SystemExit(f"plot.py: {error_message(error)}") from error
    print(out)


if __name__ == "__main__":
    main()
