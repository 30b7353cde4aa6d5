"""Pictures, all drawn from saved files or from the code itself.

    python plot.py curves checkpoints/a checkpoints/b    # accuracy and loss over the epochs
    python plot.py skeletons NTU-RGB-D/xview             # stills of clips of several classes
    python plot.py fractions checkpoints/a/last_test.json ...   # accuracy over how much was seen
    python plot.py orders                                # chain and traversal on the body
    python plot.py architecture                          # the network as a diagram
    python plot.py bodies                                # what convert_data.py does with the bodies

`--out picture.png` says where to; the confusion matrix is drawn by test.py.
"""

import argparse
import json
from itertools import pairwise
from pathlib import Path

import matplotlib
import matplotlib.animation
import matplotlib.colors
import matplotlib.ticker
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

from skeletons.layout import KINECT_V2

# Okabe and Ito's colours, which colour-blind people can tell apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
INK = "#333333"


def save(figure, path):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, bbox_inches="tight", facecolor="white")
    plt.close(figure)


# --- Curves -----------------------------------------------------------------------------------------


def read_log(run):
    """The lines of checkpoints/<name>/log.jsonl, one dict an epoch."""
    path = Path(run) / "log.jsonl"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: give the folder of a run of train.py")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if not lines:
        raise ValueError(f"{path} is empty: the run has not finished an epoch")
    return lines


def curves(runs, path):
    """Accuracy and loss over the epochs: one run stream by stream, or the fusion of several.

    Solid: clips held out from training; dashed: training clips (with dropout and augmentation).
    """
    names = [Path(run).name for run in runs]
    names = [
        name if names.count(name) == 1 else str(run) for name, run in zip(names, runs, strict=True)
    ]
    logs = [(name, read_log(run)) for name, run in zip(names, runs, strict=True)]
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    if len(logs) == 1:
        log = logs[0][1]
        series = [(stream, log, stream) for stream in log[0]["train"]]
    else:
        series = [(name, log, "fused") for name, log in logs]
    for axis, metric, scale in ((axes[0], "accuracy", 100), (axes[1], "loss", 1)):
        for color, (label, log, stream) in zip(COLORS * len(series), series, strict=False):
            epochs = [line["epoch"] for line in log]
            held_out = "held_out" in log[0]
            for part, style in (("train", "--"), ("held_out", "-")):
                if part in log[0]:
                    values = [scale * line[part][stream][metric] for line in log]
                    named = label if part == "held_out" or not held_out else None
                    marker = "o" if len(epochs) == 1 else None
                    axis.plot(epochs, values, style, color=color, label=named, marker=marker,
                              linewidth=1.6 if style == "-" else 1.1)  # fmt: skip
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
        axis.set_ylabel("accuracy, %" if metric == "accuracy" else "cross entropy")
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    title = names[0] if len(logs) == 1 else "two-stream fusion"
    held_out = any("held_out" in log[0] for _, log in logs)
    lines = "dashed training, solid held-out clips" if held_out else "training clips"
    figure.suptitle(f"{title}: {lines}", fontsize=11, color=INK)
    save(figure, path)


# --- Confusion matrix -------------------------------------------------------------------------------


def confusion(matrix, names, path, title=""):
    """matrix (classes, classes): clips of the row's class taken for the column's. Classes without
    any clip and never named are left out."""
    matrix = np.asarray(matrix, float)
    shown = np.flatnonzero(matrix.sum(0) + matrix.sum(1))
    matrix, names = matrix[np.ix_(shown, shown)], [names[i] for i in shown]
    names = [name if len(name) <= 40 else f"{name[:39]}\u2026" for name in names]
    share = 100 * matrix / matrix.sum(1, keepdims=True).clip(min=1)
    cells, labels = 0.3 * max(len(names), 8), 0.085 * max(map(len, names))  # inches
    figure, axis = plt.subplots(
        figsize=(cells + labels + 1.5, cells + labels + 0.8), layout="constrained"
    )
    # Rare confusions are told from none by their colour.
    norm = matplotlib.colors.PowerNorm(0.5, vmin=0, vmax=100)
    image = axis.imshow(share, cmap="Blues", norm=norm)
    axis.set_xticks(range(len(names)), names, rotation=90, fontsize=9)
    axis.set_yticks(range(len(names)), names, fontsize=9)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    least = 0.5 if len(names) <= 30 else 3
    for row, column in zip(*np.nonzero(share >= least), strict=True):
        color = "white" if share[row, column] > 40 else INK
        axis.text(column, row, f"{share[row, column]:.0f}", ha="center", va="center",
                  fontsize=7, color=color)  # fmt: skip
    figure.colorbar(image, ax=axis, shrink=0.6, label="% of the true class")
    axis.set_title(title, fontsize=11, color=INK)
    save(figure, path)


def report(record, path, title=""):
    """From a record of test.py: accuracy over the weight of the temporal stream in the fusion and, if
    it was looked at, over the fraction of the clips that was seen."""
    weights, seen = record["over_weight"], record.get("over_fraction")
    figure, axes = plt.subplots(
        1, 2 if seen else 1, figsize=(9 if seen else 5, 3.6), layout="constrained", squeeze=False
    )
    axis = axes[0, 0]
    axis.plot(weights["weights"], percent(weights["test"]), color=COLORS[0], label="test")
    if "chosen" in weights:
        axis.plot(weights["weights"], percent(weights["held_out"]), "--", color=COLORS[1],
                  label="held out from training")  # fmt: skip
        axis.axvline(weights["chosen"], color=COLORS[1], linewidth=0.8, label="weight it would choose")
    axis.axvline(record["temporal_weight"], color=COLORS[0], linewidth=0.8, label="weight used")
    axis.set(xlabel="weight of the temporal stream (0: spatial alone)", ylabel="accuracy, %")
    axis.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1.17), ncols=2)
    if seen:
        for color, stream in zip(COLORS, record["results"], strict=False):
            axes[0, 1].plot(percent(seen["fractions"]), percent(seen[stream]), "o-", color=color,
                            markersize=3, label=stream)  # fmt: skip
        axes[0, 1].set(xlabel="seen of the clip, %", ylabel="accuracy, %")
        axes[0, 1].legend(frameon=False)
    for axis in axes[0]:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11, color=INK)
    save(figure, path)


def percent(shares):
    return [100 * share for share in shares]


def fractions(files, path):
    """Accuracy over the fraction of the clips that was seen, from records of `test.py --fractions`."""
    figure, axis = plt.subplots(figsize=(6, 3.8), layout="constrained")
    for file, color in zip(files, COLORS * len(files), strict=False):
        try:
            record = json.loads(Path(file).read_text(encoding="utf-8"))
            seen = record["over_fraction"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"{file} tells nothing of fractions: give a ..._test.json of test.py --fractions"
            ) from None
        label = " + ".join(Path(name).parent.name for name in record["checkpoint"].split())
        axis.plot(percent(seen["fractions"]), percent(seen["fused"]), "o-", color=color, markersize=3,
                  label=label)  # fmt: skip
    axis.set(xlabel="seen of the clip, %", ylabel="accuracy, %", title=record["data"])
    axis.legend(frameon=False)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def cost(points, path):
    """Accuracy against operations: {data: [(setting, combination, operations of a clip, accuracy in %,
    its standard deviation or 0)]}."""
    figure, axes = plt.subplots(
        1, len(points), figsize=(5 * len(points), 4), layout="constrained", squeeze=False
    )
    settings = list(dict.fromkeys(entry[0] for entries in points.values() for entry in entries))
    kinds = list(dict.fromkeys(entry[1] for entries in points.values() for entry in entries))
    markers = dict(zip(kinds, "os^D", strict=False))
    for axis, (data, entries) in zip(axes[0], points.items(), strict=True):
        for setting, kind, operations, accuracy, spread in entries:
            color = COLORS[settings.index(setting) % len(COLORS)]
            axis.errorbar(operations / 1e6, accuracy, spread, color=color, marker=markers[kind],
                          markersize=6, linestyle="", capsize=2)  # fmt: skip
        axis.set(xscale="log", title=data, xlabel="operations a clip, millions")
        axis.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(matplotlib.ticker.ScalarFormatter())
        axis.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
        axis.tick_params(which="both", length=3, pad=3)
        axis.grid(alpha=0.3, which="both")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("accuracy, %")
    shown = [plt.Line2D([], [], color=COLORS[i % len(COLORS)], marker="o", linestyle="", label=name)
             for i, name in enumerate(settings)]  # fmt: skip
    shown += [plt.Line2D([], [], color=INK, marker=marker, linestyle="", label=kind)
              for kind, marker in markers.items()]  # fmt: skip
    figure.legend(handles=shown, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    save(figure, path)


# --- Skeletons --------------------------------------------------------------------------------------


def draw_body(axis, joints, layout, **style):
    """Bones of one body, joints (V, 2 or 3) seen from the front, coloured by part."""
    part_of = {j: part for part, members in layout.parts.items() for j in members}
    colors = dict(zip(layout.parts, COLORS * len(layout.parts), strict=False))
    for joint, parent in layout.bones:
        line = joints[[joint, parent]]
        axis.plot(line[:, 0], line[:, 1], color=colors[part_of[joint]], solid_capstyle="round",
                  **{"linewidth": 1.6} | style)  # fmt: skip


def skeletons(folder, path, classes=6, stills=8):
    """Stills of one test clip of each of several classes, time running to the right."""
    from feeder import Feeder
    from skeletons.storage import read_meta, split_files

    feeder = Feeder(
        *split_files(folder, "val"), window_size=stills, origin_transfer="start", normalization=False
    )
    labels = feeder.label.unique()
    labels = labels[np.linspace(0, len(labels) - 1, min(classes, len(labels))).astype(int)]
    title = read_meta(folder).get("classes", {})
    figure, axes = plt.subplots(
        len(labels), 1, figsize=(9, 1.35 * len(labels)), layout="constrained", squeeze=False
    )
    for axis, label in zip(axes[:, 0], labels, strict=True):
        clip = int((feeder.label == label).nonzero()[0, 0])
        data = feeder[clip][0].permute(1, 3, 2, 0).numpy()  # (T, M, V, C)
        step = max(1.3, 1.7 * (data[..., 0].max() - data[..., 0].min()))
        for time, bodies in enumerate(data):
            for body in bodies:
                if body.any():
                    draw_body(axis, body + step * time * np.eye(1, body.shape[1]), feeder.layout)
        axis.set_aspect("equal", anchor="W")
        axis.axis("off")
        axis.set_title(title[int(label)] if title else f"class {label}", fontsize=9, loc="left",
                       color=INK, pad=2)  # fmt: skip
    save(figure, path)


def animate(clips, layout, classes, path, fps=30.0, most=5):
    """Clips moving in 3D, one after the other, as a GIF, beside the running prediction.

    clips  [(name, data (T, C, V, M), seen (K,), probabilities (K, classes) after so many frames)]
    most   classes shown: those that reach the highest probabilities during the clip
    """
    flat = clips[0][1].shape[1] == 2
    figure = plt.figure(figsize=(7.2, 3.4), layout="constrained")
    grid = figure.add_gridspec(1, 2, width_ratios=(1, 1.15))
    scene = figure.add_subplot(grid[0], projection=None if flat else "3d")
    bars = figure.add_subplot(grid[1])
    part_of = {j: part for part, members in layout.parts.items() for j in members}
    colors = dict(zip(layout.parts, COLORS * len(layout.parts), strict=False))
    shown = [(clip, step) for clip in clips for step in range(len(clip[2]))]

    def draw(number):
        (name, data, seen, running), step = shown[number]
        scene.clear()
        for body in data[seen[step] - 1].transpose(2, 1, 0):  # (V, C)
            for joint, parent in layout.bones if body.any() else ():
                line = body[[joint, parent]].T
                # (matplotlib's z is up, as a sensor's y; a sensor's z runs away from it)
                scene.plot(*(line if flat else line[[0, 2, 1]]), color=colors[part_of[joint]],
                           linewidth=2.2, solid_capstyle="round")  # fmt: skip
        points = data.transpose(0, 3, 2, 1)  # (T, M, V, C)
        points = points[points.any((2, 3))].reshape(-1, data.shape[1])
        low, high = points.min(0), points.max(0)
        if flat:
            scene.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
        else:
            scene.set(xlim=(low[0], high[0]), ylim=(low[2], high[2]), zlim=(low[1], high[1]))
            scene.set_box_aspect((high - low)[[0, 2, 1]].clip(min=0.3))
            scene.view_init(elev=12, azim=-120 + 60 * step / len(seen))  # going around shows depth
            x, z = np.meshgrid((low[0], high[0]), (low[2], high[2]))
            scene.plot_surface(x, z, np.full_like(x, low[1]), color=INK, alpha=0.08)  # the floor
        scene.axis("off")
        scene.set_title(f"{name}, frame {seen[step]} of {len(data)}", fontsize=9, color=INK)
        top = np.argsort(-running.max(0), kind="stable")[:most][::-1]
        bars.clear()
        likely = running[step].argmax()
        colors_of = [COLORS[4] if c == likely else COLORS[5] for c in top]
        bars.barh(range(len(top)), 100 * running[step][top], color=colors_of)
        for row, c in enumerate(top):
            bars.text(1.5, row, classes[c], va="center", fontsize=9, color="black")
        bars.set(xlim=(0, 100), yticks=[])
        bars.set_xlabel("probability, %", fontsize=9)
        bars.tick_params(labelsize=8)
        bars.spines[["top", "right", "left"]].set_visible(False)

    moving = matplotlib.animation.FuncAnimation(figure, draw, len(shown))
    rate = (fps or 30) * len(shown) / sum(len(clip[1]) for clip in clips)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    moving.save(path, writer=matplotlib.animation.PillowWriter(fps=max(1, round(rate))), dpi=80)
    plt.close(figure)


def standing_body(layout):
    """Front view (V, 2) of a body at rest with the arms a little away, for the diagrams."""
    from synthesize import REST, Subject, both, move_body, pose_vector

    person = Subject(0)
    person.size, person.proportions = 1.0, dict.fromkeys(REST, 1.0)
    pose = both(arm=(0, 35), forearm=(0, 8), thigh=(0, 10))
    joints = move_body(person.offsets(), pose_vector(pose)[None], 0, (0, 0, 0))[0][0, :, :2]
    thumbs = [j for j, name in enumerate(KINECT_V2.joints) if "thumb" in name]
    joints[thumbs, 0] *= 0.84  # thumbs point at the viewer; shown beside the hand
    return joints[[KINECT_V2.joint(name) for name in layout.joints]]


def orders(path, layout=KINECT_V2):
    """The chain and the traversal of a Kinect's layout as numbered walks over the body."""
    joints = standing_body(layout)
    thumbs = [j for j, name in enumerate(layout.joints) if "thumb" in name]
    figure, axes = plt.subplots(1, 2, figsize=(10, 6.4), layout="constrained")
    titles = (f"chain: {len(layout.chain)} steps, the parts end to end",
              f"traversal: {len(layout.traversal)} steps, every bone forward and back")  # fmt: skip
    for axis, order, title in zip(axes, (layout.chain, layout.traversal), titles, strict=True):
        draw_body(axis, joints, layout, linewidth=9, alpha=0.22)
        hue = plt.get_cmap("viridis")(np.linspace(0, 0.92, len(order)))
        for step, (start, end) in enumerate(pairwise(order)):
            a, b = joints[start], joints[end]
            way = (b - a) / max(np.linalg.norm(b - a), 1e-6)
            # Forward and back keep to their own side of the bone.
            aside = 0.016 * np.array((way[1], -way[0]))
            axis.annotate("", b + aside - 0.012 * way, a + aside + 0.012 * way,
                          arrowprops={"arrowstyle": "-|>", "color": hue[step], "linewidth": 1.5,
                                      "shrinkA": 0, "shrinkB": 0, "mutation_scale": 9})  # fmt: skip
        for joint, place in enumerate(joints):
            steps = [str(step + 1) for step, j in enumerate(order) if j == joint]
            side = 1 if place[0] >= 0 else -1
            side = -side if joint in thumbs else side  # the outer side belongs to the hand
            axis.plot(*place, "o", color=INK, markersize=4)
            axis.annotate(", ".join(steps), place, (8 * side, 3), textcoords="offset points",
                          fontsize=7.5, color=INK, ha="left" if side > 0 else "right")  # fmt: skip
        axis.set_title(title, fontsize=11, color=INK)
        axis.set_aspect("equal")
        axis.axis("off")
        axis.margins(0.12, 0.03)
    save(figure, path)


# --- Bodies -----------------------------------------------------------------------------------------


def made_up_recordings():
    """What a sensor may report -> title: list over 60 frames of lists of (body ID, joints (V, 3))."""
    upright = np.pad(standing_body(KINECT_V2), ((0, 0), (0, 1)), constant_values=3.0)
    sofa = upright * (2, 0.3, 1)
    frames = range(60)

    def at(x, body=upright, sway=0.06):
        return [body + (x + sway * np.sin(t / 6 + x), 0, 0) for t in frames]

    left, right, far, still = at(-0.6), at(0.6), at(1.6, sway=0.15), at(1.2, sofa, 0.005)
    return {
        "places swapped": [[(1, a), (2, b)] if t < 30 else [(2, b), (1, a)]
                           for t, a, b in zip(frames, left, right, strict=True)],
        "lost, back under a new ID": [[(2, b)] if 20 <= t < 26 else [(1 if t < 20 else 3, a), (2, b)]
                                      for t, a, b in zip(frames, left, right, strict=True)],
        "ghosts: a sofa, a reflection": [[(1, a), (2, b)] + [(3, c)] * (40 <= t < 48)
                                         for t, a, b, c in zip(frames, still, left, far, strict=True)],
        "three people": [[(1, a), (2, b), (3, c)]
                         for a, b, c in zip(left, right, far, strict=True)],
    }  # fmt: skip


def bodies(path):
    """Where the two bodies of a clip are, over time: in the sensor's order, and followed."""
    from skeletons.clip import MAX_BODIES
    from skeletons.tracking import sensor_order, track_bodies

    recordings = made_up_recordings()
    figure, axes = plt.subplots(2, len(recordings), figsize=(11, 4), layout="constrained",
                                sharex=True, sharey=True)  # fmt: skip
    for column, (title, listing) in zip(axes.T, recordings.items(), strict=True):
        seen = [(t, body_id, joints) for t, shown in enumerate(listing) for body_id, joints in shown]
        frame_of, ids, joints = map(np.array, zip(*seen, strict=True))
        column[0].set_title(title, fontsize=10, color=INK)
        for axis, rule in zip(column, (sensor_order, track_bodies), strict=True):
            axis.plot(frame_of, joints[:, KINECT_V2.root, 0], ".", color="#CCCCCC", markersize=5)
            data = rule(frame_of, ids, joints)[:, 0, KINECT_V2.root]
            for slot, x in enumerate(data.T):
                axis.plot(np.where(x == 0, np.nan, x), color=COLORS[slot], linewidth=2)
            axis.spines[["top", "right"]].set_visible(False)
        column[1].set_xlabel("frame", fontsize=9, color=INK)
    for axis, name in zip(axes[:, 0], ("--bodies raw", "--bodies follow"), strict=True):
        axis.set_ylabel(f"{name}\nx of the body (m)", fontsize=9, color=INK)
    handles = [plt.Line2D([], [], color=COLORS[slot], linewidth=2) for slot in range(MAX_BODIES)]
    handles.append(plt.Line2D([], [], color="#CCCCCC", linestyle="", marker="."))
    figure.legend(handles, ["first body", "second body", "seen, not kept"], loc="outside lower center",
                  ncols=3, frameon=False, fontsize=9)  # fmt: skip
    save(figure, path)


# --- Architecture -----------------------------------------------------------------------------------


def architecture(path):
    """The two-stream network as a diagram."""
    figure, axis = plt.subplots(figsize=(11, 4.2), layout="constrained")
    axis.set(xlim=(0, 110), ylim=(5, 46))
    axis.axis("off")

    def box(x, y, width, height, text, color, size=9):
        shape = FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0.2,rounding_size=1",
                               facecolor=color + "22", edgecolor=color, linewidth=1.4)  # fmt: skip
        axis.add_patch(shape)
        axis.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=size,
                  color=INK, linespacing=1.35)  # fmt: skip

    def arrow(*points):
        for start, end in pairwise(points):
            last = end == points[-1]
            axis.annotate("", end, start, arrowprops={"arrowstyle": "-|>" if last else "-",
                          "color": INK, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0})  # fmt: skip

    blue, orange, green, grey = COLORS[0], COLORS[1], COLORS[2], "#777777"
    box(1, 17, 16, 12, "clip\n(C, T, V, M)\nbodies present only", grey)
    temporal = "temporal RNN: a step is a frame (T steps)"
    spatial = "spatial RNN: a step is a joint's way in time"
    axis.text(25, 44.2, temporal, fontsize=10.5, color=blue, weight="bold")
    axis.text(25, 7.2, spatial, fontsize=10.5, color=orange, weight="bold")
    for i, part in enumerate(KINECT_V2.parts):
        box(25, 39.4 - 3.7 * i, 17, 2.6, f"{part} LSTM", blue, 8)
        arrow((42.2, 40.7 - 3.7 * i), (46, 40.7 - 3.7 * i), (46, 33.3))
    arrow((46, 33.3), (49.5, 33.3))
    box(50, 29.5, 15, 7.6, "whole-body LSTM", blue)
    box(25, 11.5, 17, 7.6, "joints in order\nchain (V) or\ntraversal (2V - 1)", orange, 8)
    arrow((42.4, 15.3), (49.5, 15.3))
    box(50, 11.5, 15, 7.6, "LSTM layers", orange)
    axis.text(69, 44.6, "hierarchical (drawn), or stacked: LSTM layers over all joints",
              fontsize=7.8, color=blue, ha="left", va="baseline", style="italic")  # fmt: skip
    for y, color in ((29.5, blue), (11.5, orange)):
        arrow((65.4, y + 3.8), (68.5, y + 3.8))
        box(69, y, 14, 7.6, "max over steps,\nmean over bodies", color, 8)
        arrow((83.4, y + 3.8), (86, y + 3.8))
        box(86.5, y, 8, 7.6, "softmax", color, 8)
    for i in range(5):
        arrow((17.4, 25), (21, 25), (21, 40.7 - 3.7 * i), (24.6, 40.7 - 3.7 * i))
    arrow((17.4, 21), (21, 21), (21, 15.3), (24.6, 15.3))
    box(99, 18.5, 10, 9, "weighted\nmean of\nposteriors", green)
    arrow((94.9, 33.3), (104, 33.3), (104, 28))
    arrow((94.9, 15.3), (104, 15.3), (104, 18))
    save(figure, path)


FROM_FILES = {
    "curves": curves,
    "skeletons": lambda sources, out: skeletons(sources[0], out),
    "fractions": fractions,
}
DIAGRAMS = {"orders": orders, "architecture": architecture, "bodies": bodies}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("picture", choices=(*FROM_FILES, *DIAGRAMS))
    files = "run folders (curves), a data folder (skeletons), best_test.json of test.py (fractions)"
    parser.add_argument("sources", nargs="*", default=[], help=files)
    parser.add_argument("--out", help="the picture's file (default: <picture>.png)")
    arguments = parser.parse_args()
    out, sources = arguments.out or f"{arguments.picture}.png", arguments.sources
    if arguments.picture in FROM_FILES and not sources:
        parser.error(f"{arguments.picture} needs a folder or files; see --help")
    try:
        if arguments.picture in FROM_FILES:
            FROM_FILES[arguments.picture](sources, out)
        else:
            DIAGRAMS[arguments.picture](out)
    except (ValueError, OSError) as error:
        raise SystemExit(f"plot.py: {error}") from error
    print(out)


if __name__ == "__main__":
    main()
