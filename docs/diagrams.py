"""Draw the diagrams of the pages, from the code itself.

    python docs/diagrams.py                     # all of them, into github/
    python docs/diagrams.py tracking --out /tmp

joint_orders   chain and traversal of the spatial RNN as numbered walks over the body
tracking       what convert_data.py does with the bodies that a sensor reports
architecture   the two-stream network
"""

import argparse
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from plot import COLORS, INK, draw_body, new_figure, save  # noqa: E402
from skeletons.layout import KINECT_V2, Layout  # noqa: E402

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def standing_body(layout: Layout) -> np.ndarray:
    """Front view (V, 2) of a person of average size whose arms are a little away from the body."""
    from synthesize import REST, Subject, both, forward_kinematics, pose_vector

    person = Subject(0)
    person.size, person.proportions = 1.0, dict.fromkeys(REST, 1.0)
    pose = both(arm=(0, 35), forearm=(0, 8), thigh=(0, 10))
    motion = pose_vector(pose)[None]
    joints = forward_kinematics(person.offsets(), motion, 0, np.zeros(3))[0][0, :, :2]
    thumbs = [j for j, name in enumerate(KINECT_V2.joints) if "thumb" in name]
    joints[thumbs, 0] *= 0.84  # thumbs point at the viewer; drawn next to the hand
    return joints[[KINECT_V2.joint(name) for name in layout.joints]]


# --- Joint orders -----------------------------------------------------------------------------------


def joint_orders(path: str | Path, layout: Layout = KINECT_V2) -> None:
    """The chain and the traversal of a Kinect's layout as numbered walks over the body."""
    joints = standing_body(layout)
    figure = new_figure(figsize=(10, 6.4))
    axes = figure.subplots(1, 2)
    titles = (f"chain: {len(layout.chain)} steps, the parts one after the other",
              f"traversal: {len(layout.traversal)} steps, every bone there and back")  # fmt: skip
    for axis, order, title in zip(axes, (layout.chain, layout.traversal), titles, strict=True):
        draw_body(axis, joints, layout, linewidth=9, alpha=0.22)
        draw_walk(axis, joints, order)
        number_joints(axis, joints, order, layout)
        axis.set_title(title, fontsize=11, color=INK)
        axis.set_aspect("equal")
        axis.axis("off")
        axis.margins(0.12, 0.03)
    save(figure, path)


def draw_walk(axis: "Axes", joints: np.ndarray, order: Sequence[int]) -> None:
    """Arrows from joint to joint; the two directions of a bone are drawn next to each other."""
    from matplotlib import colormaps

    colors = colormaps["viridis"](np.linspace(0, 0.92, len(order)))
    for color, (start, end) in zip(colors, pairwise(order), strict=False):
        a, b = joints[start], joints[end]
        direction = (b - a) / max(np.linalg.norm(b - a), 1e-6)
        aside = 0.016 * np.array((direction[1], -direction[0]))
        arrow = {"arrowstyle": "-|>", "color": color, "linewidth": 1.5, "shrinkA": 0, "shrinkB": 0,
                 "mutation_scale": 9}  # fmt: skip
        ends = b + aside - 0.012 * direction, a + aside + 0.012 * direction
        axis.annotate("", *ends, arrowprops=arrow)


def number_joints(axis: "Axes", joints: np.ndarray, order: Sequence[int], layout: Layout) -> None:
    """The joints as dots, and the steps of the walk that are at each."""
    for joint, position in enumerate(joints):
        steps = ", ".join(str(step + 1) for step, j in enumerate(order) if j == joint)
        side = 1 if position[0] >= 0 else -1
        if "thumb" in layout.joints[joint]:
            side = -side  # the number of the hand is on the outer side
        axis.plot(*position, "o", color=INK, markersize=4)
        axis.annotate(steps, position, (8 * side, 3), textcoords="offset points", fontsize=7.5,
                      color=INK, ha="left" if side > 0 else "right")  # fmt: skip


# --- Tracking ---------------------------------------------------------------------------------------

Frames = list[list[tuple[int, np.ndarray]]]  # per frame the bodies seen: (ID, joints (V, 3))


def example_recordings() -> dict[str, Frames]:
    """What a sensor may report in 60 frames, by title."""
    upright = np.pad(standing_body(KINECT_V2), ((0, 0), (0, 1)), constant_values=3.0)
    sofa = upright * (2, 0.3, 1)

    def at(x: float, body: np.ndarray = upright, sway: float = 0.06) -> list[np.ndarray]:
        return [body + (x + sway * np.sin(t / 6 + x), 0, 0) for t in range(60)]

    left, right, far, still = at(-0.6), at(0.6), at(1.6, sway=0.15), at(1.2, sofa, 0.005)
    swapped, lost, spurious, three = [], [], [], []
    for t, (a, b, c, s) in enumerate(zip(left, right, far, still, strict=True)):
        swapped.append([(1, a), (2, b)] if t < 30 else [(2, b), (1, a)])
        lost.append([(2, b)] if 20 <= t < 26 else [(1 if t < 20 else 3, a), (2, b)])
        spurious.append([(1, s), (2, a)] + [(3, b)] * (40 <= t < 48))
        three.append([(1, a), (2, b), (3, c)])
    return {
        "order changes": swapped,
        "lost, back under a new ID": lost,
        "spurious: a sofa, a reflection": spurious,
        "three people": three,
    }


def tracking(path: str | Path) -> None:
    """Where the two bodies of a clip are over time: in the sensor's order, and tracked."""
    from matplotlib.lines import Line2D

    from skeletons.clip import MAX_BODIES

    recordings = example_recordings()
    figure = new_figure(figsize=(11, 4))
    axes = figure.subplots(2, len(recordings), sharex=True, sharey=True)
    for column, (title, frames) in zip(axes.T, recordings.items(), strict=True):
        column[0].set_title(title, fontsize=10, color=INK)
        for axis, rule in zip(column, ("sensor-order", "track"), strict=True):
            draw_positions(axis, frames, rule)
        column[1].set_xlabel("frame", fontsize=9, color=INK)
    for axis, rule in zip(axes[:, 0], ("sensor-order", "track"), strict=True):
        axis.set_ylabel(f"--bodies {rule}\nx of the body (m)", fontsize=9, color=INK)
    handles = [Line2D([], [], color=COLORS[slot], linewidth=2) for slot in range(MAX_BODIES)]
    handles.append(Line2D([], [], color="#CCCCCC", linestyle="", marker="."))
    labels = ["first body", "second body", "seen, not kept"]
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    save(figure, path)


def draw_positions(axis: "Axes", frames: Frames, rule: str) -> None:
    """Every body that was seen as a grey dot, the bodies that are kept as lines."""
    from skeletons.tracking import sensor_order, track_bodies

    seen = [(t, body_id, joints) for t, bodies in enumerate(frames) for body_id, joints in bodies]
    frame_index, ids, joints = map(np.array, zip(*seen, strict=True))
    axis.plot(frame_index, joints[:, KINECT_V2.root, 0], ".", color="#CCCCCC", markersize=5)
    keep = track_bodies if rule == "track" else sensor_order
    data = keep(frame_index, ids, joints).data  # (T, C, V, M)
    for slot, x in enumerate(data[:, 0, KINECT_V2.root].T):
        axis.plot(np.where(x == 0, np.nan, x), color=COLORS[slot], linewidth=2)
    axis.spines[["top", "right"]].set_visible(False)


# --- Architecture -----------------------------------------------------------------------------------


def draw_box(axis: "Axes", box: Sequence[float], text: str, color: str, size: float = 9) -> None:
    """A box (x, y, width, height) with a text in it."""
    from matplotlib.patches import FancyBboxPatch

    x, y, width, height = box
    shape = FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0.2,rounding_size=1",
                           facecolor=color + "22", edgecolor=color, linewidth=1.4)  # fmt: skip
    axis.add_patch(shape)
    axis.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=size, color=INK,
              linespacing=1.35)  # fmt: skip


def draw_arrow(axis: "Axes", *points: tuple[float, float]) -> None:
    """A line through the points that ends as an arrow."""
    for start, end in pairwise(points):
        style = {"arrowstyle": "-|>" if end == points[-1] else "-", "color": INK, "linewidth": 1.2,
                 "shrinkA": 0, "shrinkB": 0}  # fmt: skip
        axis.annotate("", end, start, arrowprops=style)


def architecture(path: str | Path) -> None:
    """The two-stream network as a diagram."""
    figure = new_figure(figsize=(11, 4.2))
    axis = figure.subplots()
    axis.set(xlim=(0, 110), ylim=(5, 46))
    axis.axis("off")
    blue, orange, green, grey = COLORS[0], COLORS[1], COLORS[2], "#777777"
    draw_box(axis, (1, 17, 16, 12), "clip\n(C, T, V, M)\npresent bodies only", grey)
    temporal = "temporal RNN: a step is a frame (T steps)"
    spatial = "spatial RNN: a step is the trajectory of a joint"
    axis.text(25, 44.2, temporal, fontsize=10.5, color=blue, weight="bold")
    axis.text(25, 7.2, spatial, fontsize=10.5, color=orange, weight="bold")
    axis.text(69, 44.6, "hierarchical (drawn), or stacked: LSTM layers over all joints",
              fontsize=7.8, color=blue, ha="left", va="baseline", style="italic")  # fmt: skip
    for i, part in enumerate(KINECT_V2.parts):
        y = 40.7 - 3.7 * i
        draw_box(axis, (25, y - 1.3, 17, 2.6), f"{part} LSTM", blue, 8)
        draw_arrow(axis, (17.4, 25), (21, 25), (21, y), (24.6, y))
        draw_arrow(axis, (42.2, y), (46, y), (46, 33.3))
    draw_arrow(axis, (46, 33.3), (49.5, 33.3))
    draw_box(axis, (50, 29.5, 15, 7.6), "whole-body LSTM", blue)
    draw_arrow(axis, (17.4, 21), (21, 21), (21, 15.3), (24.6, 15.3))
    draw_box(axis, (25, 11.5, 17, 7.6), "joints in order:\nchain (V) or\ntraversal (2V - 1)", orange, 8)
    draw_arrow(axis, (42.4, 15.3), (49.5, 15.3))
    draw_box(axis, (50, 11.5, 15, 7.6), "LSTM layers", orange)
    for y, color in ((29.5, blue), (11.5, orange)):
        draw_arrow(axis, (65.4, y + 3.8), (68.5, y + 3.8))
        draw_box(axis, (69, y, 14, 7.6), "max over steps,\nmean over bodies", color, 8)
        draw_arrow(axis, (83.4, y + 3.8), (86, y + 3.8))
        draw_box(axis, (86.5, y, 8, 7.6), "softmax", color, 8)
    draw_box(axis, (99, 18.5, 10, 9), "weighted\nmean of\nposteriors", green)
    draw_arrow(axis, (94.9, 33.3), (104, 33.3), (104, 28))
    draw_arrow(axis, (94.9, 15.3), (104, 15.3), (104, 18))
    save(figure, path)


DIAGRAMS = {"joint_orders": joint_orders, "tracking": tracking, "architecture": architecture}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("diagrams", nargs="*", metavar="DIAGRAM", help=", ".join(DIAGRAMS))
    parser.add_argument("--out", type=Path, default=ROOT / "github", help="output folder")
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.diagrams) - set(DIAGRAMS):
        parser.error(f"no diagram {', '.join(sorted(unknown))}: choose from {', '.join(DIAGRAMS)}")
    for name in arguments.diagrams or DIAGRAMS:
        path = arguments.out / f"{name}.png"
        DIAGRAMS[name](path)
        print(path)


if __name__ == "__main__":
    main()
