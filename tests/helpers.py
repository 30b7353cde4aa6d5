"""Raw files made for the tests, the same data in other formats, a plain parser, a hostile pickle."""

import os
import pickle
import zipfile

import numpy as np

from convert_data import convert
from skeletons.readers import open_input
from skeletons.storage import read_labels

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
    for frame in bodies:
        lines.append(str(len(frame)))
        for body_id, positions in frame:
            lines += [f"{body_id} 0 1 1 1 1 0 0.02 0.05 2", str(joints)]
            lines += [
                " ".join(map(str, xyz)) + " 277.4 191.8 1036.2 519.1 0 0 0 0 2" for xyz in positions
            ]
    return (newline.join(lines) + newline).encode()


def standing(x=0.0, seed=0):
    """An upright body (25, 3) at x metres."""
    rng = np.random.default_rng(seed)
    return rng.uniform((x - 0.2, -0.9, 2.9), (x + 0.2, 0.9, 3.1), (25, 3))


def recording(layout, frames=40, channels=3, bodies=2, seed=0):
    """A clip (T, C, V, M): bodies with bones of about 0.3, at about x = 1, 3, ...; they move little."""
    rng = np.random.default_rng(seed)
    joints = np.zeros((channels, len(layout.joints)))
    for joint in layout.traversal[1:]:
        if not joints[:, joint].any():
            joints[:, joint] = joints[:, layout.parents[joint]] + rng.normal(0, 0.17, channels)
    position = np.arange(1, 2 * bodies, 2) + rng.normal(0, 0.1, (channels, 1, bodies))
    steps = rng.normal(0, 0.01, (frames, channels, len(layout.joints), bodies))
    return joints[..., None] + position + steps.cumsum(0)


class Malicious:
    """Unpickled without care, it makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return (os.mkdir, (str(self.folder),))


# --- Conversions --------------------------------------------------------------------------------------


def convert_to(out, *paths, dataset="ntu", padded=False, strict=False, **options):
    """Convert `paths` -> (out, meta.json's contents, failures)."""
    metas, failures = convert(open_input(paths, dataset, **options), out, padded, strict)
    return out, metas, failures


def load(folder, split):
    """(data, names, labels, counts) of one split."""
    names, labels = read_labels(folder / f"{split}_label.pkl")
    return (np.load(folder / f"{split}_data.npy"), names, labels,
            np.load(folder / f"{split}_num_frame.npy"))  # fmt: skip


def clips_of(folder, split):
    """A list of (name, label, (T, C, V, M)) of packed or padded data."""
    data, names, labels, counts = load(folder, split)
    if data.ndim == 5:
        frames = [row[:, :count].swapaxes(0, 1) for row, count in zip(data, counts, strict=True)]
        assert not any(row[:, count:].any() for row, count in zip(data, counts, strict=True))
    else:
        frames = np.split(data, np.cumsum(counts)[:-1])
    return list(zip(names, labels, frames, strict=True))


def contents(folder):
    """Path below the folder -> bytes of each file."""
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- The converted clips of a folder in other formats -------------------------------------------------


def write_zip(out, raw):
    """Two .zip files of raw files, with what macOS adds."""
    out.mkdir()
    files = sorted(raw.iterdir())
    for i, half in enumerate((files[::2], files[1::2])):
        with zipfile.ZipFile(out / f"{i}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path in half:
                archive.write(path, f"nturgb+d_skeletons/{path.name}")
            archive.writestr("__MACOSX/nturgb+d_skeletons/._S001C001P001R001A001.skeleton", b"\0")


def write_padded(out, data, num_frame=True):
    """{train,val}_data.npy padded to 300 frames; without num_frame.npy as 2s-AGCN calls them."""
    (out / "xsub").mkdir(parents=True)
    for split in ("train", "val"):
        clips = clips_of(data / "xsub", split)
        array = np.zeros((len(clips), 3, 300, 25, 2), np.float32)
        for row, (_, _, frames) in zip(array, clips, strict=True):
            row[:, : len(frames)] = frames.swapaxes(0, 1)
        np.save(out / "xsub" / f"{split}_{'data.npy' if num_frame else 'data_joint.npy'}", array)
        if num_frame:
            np.save(out / "xsub" / f"{split}_num_frame.npy", [len(frames) for *_, frames in clips])
        labels = ([f"{name}.skeleton" for name, *_ in clips], [label for _, label, _ in clips])
        (out / "xsub" / f"{split}_label.pkl").write_bytes(pickle.dumps(labels))


def write_npz(out, data, compressed=False, one_hot=True):
    """NTU60_CS.npz of CTR-GCN."""
    out.mkdir()
    arrays = {}
    for split, suffix in (("train", "train"), ("val", "test")):
        clips = clips_of(data / "xsub", split)
        x = np.zeros((len(clips), 300, 150), np.float32)
        for row, (_, _, frames) in zip(x, clips, strict=True):
            row[: len(frames)] = frames.transpose(0, 3, 2, 1).reshape(len(frames), -1)
        y = np.array([label for _, label, _ in clips])
        arrays |= {f"x_{suffix}": x, f"y_{suffix}": np.eye(60)[y] if one_hot else y}
    (np.savez_compressed if compressed else np.savez)(out / "NTU60_CS.npz", **arrays)


def write_annotations(out, data, protocol, key="frame_dir"):
    """ntu60_3danno.pkl of PYSKL."""
    out.mkdir()
    split = {"xsub_train": [], "xsub_val": []}
    annotations = []
    for part in ("train", "val"):
        for name, label, frames in clips_of(data / "xsub", part):
            split[f"xsub_{part}"].append(name)
            keypoint = frames.transpose(3, 0, 2, 1)  # (M, T, V, C)
            padding = np.zeros((len(keypoint), 5, 25, 3), np.float32)
            annotations.append({
                key: name, "label": label, "total_frames": len(frames),
                "keypoint": np.concatenate((keypoint, padding), 1),
            })  # fmt: skip
    content = {"split": split, "annotations": annotations}
    (out / "ntu60_3danno.pkl").write_bytes(pickle.dumps(content, protocol))


def write_custom(out, data, separator=",", columns=("name", "label", "split", "subject")):
    """Custom recordings."""
    out.mkdir()
    lines = [separator.join(columns)]
    for split in ("train", "val"):
        for name, label, frames in clips_of(data / "xsub", split):
            lines.append(separator.join((name, str(label), split, name[8:12])))
            bodies = frames.transpose(3, 0, 2, 1)
            np.save(out / f"{name}.npy", bodies if bodies[1:].any() else bodies[0])
    (out / "clips.csv").write_text("\r\n".join(lines), encoding="utf-8-sig")
