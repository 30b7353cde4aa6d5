"""Raw files made for the tests, a plain parser to compare with, and a pickle that attacks."""

import os

import numpy as np

NAME = "S001C002P001R001A010.skeleton"


def plain_parse(path):
    """The file format read line by line with float(): a list over frames of lists of (ID, (25, 3))."""
    lines = iter(path.read_text().splitlines())
    frames = []
    for _ in range(int(next(lines))):
        bodies = []
        for _ in range(int(next(lines))):
            body_id = int(next(lines).split()[0])
            rows = [next(lines).split()[:3] for _ in range(int(next(lines)))]
            bodies.append((body_id, [[float(v) for v in row] for row in rows]))
        frames.append(bodies)
    return frames


def skeleton_text(bodies, joints=25, newline="\r\n"):
    """A raw file; bodies: list over frames of lists of (ID, (25, 3))."""
    lines = [str(len(bodies))]
    for shown in bodies:
        lines.append(str(len(shown)))
        for body_id, places in shown:
            lines += [f"{body_id} 0 1 1 1 1 0 0.02 0.05 2", str(joints)]
            lines += [" ".join(map(str, row)) + " 277.4 191.8 1036.2 519.1 0 0 0 0 2" for row in places]
    return (newline.join(lines) + newline).encode()


def standing(x=0.0, seed=0):
    """An upright body (25, 3) at x metres."""
    rng = np.random.default_rng(seed)
    return rng.uniform((x - 0.2, -0.9, 2.9), (x + 0.2, 0.9, 3.1), (25, 3))


class Malicious:
    """Unpickled without care, it makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return (os.mkdir, (str(self.folder),))
