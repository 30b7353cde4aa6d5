"""Record clips of one action with a camera, as poses that convert_data.py reads.

    python record.py --camera 0 --label wave --clips 10 --seconds 3 --subject Ann
    python record.py --camera 0 --label clap --clips 10 --seconds 3 --subject Ann
    python convert_data.py --data_path my-recordings

Before each clip there is a countdown. In the window, the space bar begins the clip anew and q quits.
Each clip is written when it is complete: a .npy file of poses and a line in clips.csv. No picture is
kept. The last quarter of the clips of a call are test clips, unless --split says otherwise. Clips of
further calls, of other labels or people, are added to those in the folder.
"""

import argparse
import csv
import io
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from camera import NEW_CLIP, QUIT, Screen, open_frames
from overlay import draw
from skeletons.custom import SEPARATORS, decode_text, find_file, read_layout
from skeletons.output import check_output, error_message, make_console_safe
from skeletons.pose_estimation import PoseEstimator, PoseOptions, open_estimator, with_poses
from skeletons.video_folder import default_splits, write_layout

COLUMNS = ("name", "label", "split", "subject")


class Recording:
    """A folder of recorded clips. Raises ValueError or OSError if clips cannot be added to it."""

    def __init__(self, folder: Path, label: str, subject: str, estimator: PoseEstimator) -> None:
        self.folder, self.label, self.subject = folder, label, subject
        self.table = find_file(folder, "clips.csv")
        check_output(self.table, "--out names another folder")
        layout = read_layout(folder)
        if layout and layout[0] != estimator.layout:
            raise ValueError(
                f"{folder} has clips of {layout[0].name}, this records {estimator.layout.name}\n"
                "give another --out"
            )
        self.columns, self.separator = self._read_header()
        write_layout(folder, estimator)

    def _read_header(self) -> tuple[list[str], str]:
        """The columns of the clips.csv, which is begun if there is none, and their separator."""
        if not self.table.is_file():
            self.table.write_text(",".join(COLUMNS) + "\n", encoding="utf-8-sig")
        header = decode_text(self.table, "utf-8-sig").partition("\n")[0].strip()
        separator = max(SEPARATORS, key=header.count)
        columns = [column.strip().lower() for column in header.split(separator)]
        missing = [column for column in COLUMNS[: 4 if self.subject else 3] if column not in columns]
        if missing:
            raise ValueError(f"{self.table} has no column {missing[0]}\n"
                             "add it, or give another --out")  # fmt: skip
        return columns, separator

    def save(self, scored: np.ndarray, split: str) -> str:
        """Add a clip, (T, M, V, C + 1) -> its name."""
        stem = re.sub(r"[^\w-]+", "-", self.label).strip("-") or "clip"
        number = 1
        while (self.folder / f"{stem}_{number:03d}.npy").exists():
            number += 1
        name = f"{stem}_{number:03d}"
        bodies = scored.swapaxes(0, 1)  # (M, T, V, C + 1), the order that is known without being named
        np.save(self.folder / f"{name}.npy", bodies if bodies[1:].any() else bodies[0])
        row = {"name": name, "label": self.label, "split": split, "subject": self.subject}
        text = io.StringIO(newline="")
        writer = csv.writer(text, delimiter=self.separator, lineterminator="\n")
        writer.writerow([row.get(column, "") for column in self.columns])
        with open(self.table, "r+b") as file:
            file.seek(-1, io.SEEK_END)
            last = file.read(1)
            file.write((b"" if last in b"\r\n" else b"\n") + text.getvalue().encode())
        return name


def record(
    recording: Recording,
    source: str,
    splits: Sequence[str],
    seconds: float,
    countdown: float,
    screen: Screen,
    estimator: PoseEstimator,
    max_fps: float = 0.0,
    report: Callable[[str], None] = print,
) -> int:
    """Record one clip for each of `splits`, with a countdown before each -> how many were recorded.
    They are fewer if the video ends before, or if the user quits."""
    count, begin, taken = 0, None, []
    for frame, poses in with_poses(open_frames(source, max_fps), estimator):
        begin = frame.time if begin is None else begin
        left = round(begin + countdown - frame.time, 3)  # (as exact as times in files)
        which = f"{recording.label}, clip {count + 1} of {len(splits)}"
        complete = left <= -seconds
        if left > 0:
            title = f"{which}: in {math.ceil(left)}"
        else:
            taken += [] if complete else [poses.scored]
            title = f"{which}: recording, {max(0.0, seconds + left):.1f} s"
        title += "" if poses.confidences.any() else "\nnobody is found"
        key = screen.show(draw(frame.image, poses, estimator.layout, title), frame.time)
        if key == QUIT:
            break
        if complete and any(pose[..., -1].any() for pose in taken):
            scored = np.stack(taken)
            name = recording.save(scored, splits[count])
            count += 1
            share = scored[..., -1].any((1, 2)).mean()
            report(f"{name}: {len(scored)} frames, {len(scored) / seconds:.0f} per second, a body in "
                   f"{share:.0%} of them")  # fmt: skip
        elif complete:
            report(f"{which}: nobody was found; once more")
        if complete or key == NEW_CLIP:
            begin, taken = None, []
        if count == len(splits):
            break
    return count


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        prog="record.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--camera", default="0", metavar="NUMBER",
                        help="number of the camera (default: 0), or a video file")  # fmt: skip
    parser.add_argument("--label", required=True, help="name of the action")
    parser.add_argument("--clips", type=int, default=10, help="how many (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0,
                        help="of each clip (default: %(default)s)")  # fmt: skip
    parser.add_argument("--countdown", type=float, default=3.0, metavar="SECONDS",
                        help="before each clip (default: %(default)s)")  # fmt: skip
    parser.add_argument("--subject", default="", help="name or number of the person")
    parser.add_argument("--split", choices=("train", "val"),
                        help="of all clips; val: the test (default: the last quarter)")  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("my-recordings"), metavar="FOLDER",
                        help="folder that clips are added to (default: %(default)s)")  # fmt: skip
    parser.add_argument("--frames_out", default="", metavar="OUT.mp4",
                        help="write what the window would show; no window is opened")  # fmt: skip
    PoseOptions.add_to(parser)
    arguments = parser.parse_args(argv)
    if arguments.clips < 1 or not arguments.seconds > 0 or not arguments.countdown >= 0:
        parser.error("--clips must be from 1, --seconds more than 0, --countdown from 0")
    if not arguments.label.strip():
        parser.error("--label is empty")
    return arguments


def run(arguments: argparse.Namespace) -> None:
    """Record as the options say, and print a summary."""
    options = PoseOptions.from_arguments(arguments)
    estimator = open_estimator(options)
    if arguments.frames_out:
        check_output(arguments.frames_out, "--frames_out names another file")
    recording = Recording(arguments.out, arguments.label.strip(), arguments.subject.strip(), estimator)
    splits = default_splits(arguments.clips)
    if arguments.split:
        splits = [arguments.split] * arguments.clips
    with Screen("record.py", arguments.frames_out) as screen:
        count = record(recording, arguments.camera, splits, arguments.seconds, arguments.countdown,
                       screen, estimator, options.max_fps)  # fmt: skip
    print(f"{recording.table}: {count} clips added")
    if count < arguments.clips:
        raise ValueError(f"{arguments.clips - count} clips were not recorded\n"
                         "record them later: clips are added to the folder")  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    make_console_safe()
    arguments = parse_arguments(argv)
    try:
        run(arguments)
    except KeyboardInterrupt:
        raise SystemExit("\nrecord.py: stopped; complete clips are kept") from None
    except (ValueError, OSError) as error:
        raise SystemExit(f"record.py: {error_message(error)}") from None


if __name__ == "__main__":
    main()
