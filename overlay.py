"""Bodies and predictions drawn over the pictures of a video, and written as .mp4 or .gif."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from plot import COLORS, INK, bone_colors, drawable, font_file
from skeletons.layout import Layout
from skeletons.output import write_partial
from skeletons.pose_estimation import FramePoses
from skeletons.video import VideoClip, file_address, import_av, read_video

HEIGHT = 480  # pixels of a drawn picture
PANEL = 280  # pixels, the width of the predictions beside it
BAR, GAP = 26, 8  # pixels, the height of a bar and the space below it
SUFFIXES = (".mp4", ".gif")
TOP = 5  # classes that are drawn
MAX_GIF = 200  # pictures of a .gif, which is large and held in memory


def draw(
    image: np.ndarray,
    poses: FramePoses,
    layout: Layout,
    title: str = "",
    bars: Sequence[tuple[str, float]] | None = None,
) -> np.ndarray:
    """A picture with the bodies in it -> uint8 (HEIGHT, W, 3).

    image  uint8 (H, W, 3)
    title  lines of text above the bars, or in the picture if there are none
    bars   [(name, probability)], drawn beside the picture; None: no space for them
    """
    scale = HEIGHT / len(image)
    size = (max(2, round(image.shape[1] * scale / 2) * 2), HEIGHT)  # (even, which .mp4 needs)
    picture = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)
    draw_bodies(ImageDraw.Draw(picture), poses, layout, size)
    panel = 0 if bars is None else PANEL
    whole = Image.new("RGB", (size[0] + panel, HEIGHT), "white")
    whole.paste(picture)
    canvas = ImageDraw.Draw(whole)
    if bars is None:
        if title:
            box = canvas.multiline_textbbox((14, 12), title, font_of(title, 24))
            canvas.rectangle((6, 6, box[2] + 8, box[3] + 8), "white")
        canvas.multiline_text((14, 12), title, INK, font_of(title, 24))
    else:
        canvas.multiline_text((size[0] + 10, 10), title, INK, font_of(title, 15))
        draw_bars(canvas, bars, (size[0] + 10, 70))
    return np.asarray(whole)


def draw_bodies(
    canvas: ImageDraw.ImageDraw, poses: FramePoses, layout: Layout, size: tuple[int, int]
) -> None:
    """The bones between joints that were found, in the colours of the body's parts."""
    for positions, confidences in zip(poses.positions * size, poses.confidences, strict=True):
        for bone, color in zip(layout.bones, bone_colors(layout), strict=True):
            if confidences[list(bone)].all():
                canvas.line([tuple(positions[joint]) for joint in bone], color, 3)
        for x, y in positions[confidences > 0]:
            canvas.ellipse((x - 2.5, y - 2.5, x + 2.5, y + 2.5), "white", INK)


def draw_bars(
    canvas: ImageDraw.ImageDraw, bars: Sequence[tuple[str, float]], corner: tuple[int, int]
) -> None:
    """A bar for each class, the most probable one in another colour, from the upper left `corner`."""
    x, y = corner
    width = PANEL - 20
    best = int(np.argmax([probability for _, probability in bars])) if bars else 0
    for number, (name, probability) in enumerate(bars):
        color = COLORS[4] if number == best else COLORS[5]
        canvas.rectangle((x, y, x + width, y + BAR), "#EEEEEE")
        canvas.rectangle((x, y, x + width * probability, y + BAR), color)
        text = f"{100 * probability:3.0f} %  {drawable(name)}"
        canvas.text((x + 6, y + 4), text, "black", font_of(text, 15))
        y += BAR + GAP


def font_of(text: str, size: int) -> ImageFont.FreeTypeFont:
    """An installed font with the characters of a text."""
    return _open_font(font_file("".join(sorted(set(text)))), size)


@lru_cache
def _open_font(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size)


def animate_video(
    clip: VideoClip,
    lengths: np.ndarray,
    probabilities: np.ndarray,
    layout: Layout,
    classes: Sequence[str],
    path: str | Path,
    max_fps: float = 0.0,
) -> None:
    """Draw the bodies over the pictures of a video, beside the prediction so far.

    lengths        (K,) after so many frames with a body ...
    probabilities  (K, classes) ... the network gave these
    path           of a .mp4 or .gif
    max_fps        with which the poses were estimated
    """
    drawn = np.argsort(-probabilities.max(0), kind="stable")[:TOP]  # at any time
    stride = max(1, math.ceil(len(clip.poses) / MAX_GIF)) if is_gif(path) else 1
    shown = 0
    with AnimationWriter(path) as writer:
        frames = read_video(clip.path, max_fps)
        for number, (frame, poses) in enumerate(zip(frames, clip.poses, strict=True)):
            shown += bool(poses.confidences.any())
            if number % stride:
                continue
            latest = int(np.searchsorted(lengths, shown, "right")) - 1
            bars = [(classes[i], probabilities[latest][i] if latest >= 0 else 0.0) for i in drawn]
            title = f"{drawable(clip.name)}\nframe {number + 1} of {len(clip.poses)}"
            writer.add(draw(frame.image, poses, layout, title, bars), frame.time)


def is_gif(path: str | Path) -> bool:
    """Whether a file's name says that it is a .gif, not a .mp4. ValueError if it says neither."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path} cannot be drawn\ngive a name that ends in {' or '.join(SUFFIXES)}")
    return suffix == ".gif"


class AnimationWriter:
    """Writes pictures of one size as .mp4 or .gif, as its name says. As a context, it completes the
    file, also after an error: what was drawn is kept.

    Raises ValueError for another suffix.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.is_gif = is_gif(path)
        self.pictures: list[Image.Image] = []  # of a .gif
        self.times: list[float] = []
        self.container: Any = None  # of a .mp4

    def __enter__(self) -> AnimationWriter:
        return self

    def add(self, picture: np.ndarray, time: float) -> None:
        """Append a picture, uint8 (H, W, 3), to be shown from `time` on, in seconds."""
        self.times.append(time)
        if self.is_gif:
            small = Image.fromarray(picture).reduce(2)
            self.pictures.append(small.quantize(128, Image.Quantize.FASTOCTREE))
            return
        av = import_av()
        if self.container is None:
            self.partial = self.path.with_name(f"{self.path.name}.partial")
            self.container = av.open(file_address(self.partial), "w", format="mp4")
            codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
            self.stream = self.container.add_stream(codec, rate=30, pix_fmt="yuv420p")
            self.stream.height, self.stream.width = picture.shape[:2]
            self.stream.codec_context.time_base = Fraction(1, 1000)
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.time_base = Fraction(1, 1000)
        frame.pts = round(1000 * (time - self.times[0]))
        self.container.mux(self.stream.encode(frame))

    def __exit__(self, *error: object) -> None:
        if self.pictures:
            steps = np.diff(self.times, append=2 * self.times[-1] - self.times[-2:][0])
            content = io.BytesIO()
            durations = [max(20, round(1000 * step)) for step in steps]
            self.pictures[0].save(content, "GIF", save_all=True, append_images=self.pictures[1:],
                                  duration=durations, loop=0)  # fmt: skip
            write_partial(self.path, content.getvalue()).replace(self.path)
        if self.container is not None:
            self.container.mux(self.stream.encode())
            self.container.close()
            self.partial.replace(self.path)
