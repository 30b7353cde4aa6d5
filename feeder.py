"""`Feeder`: a Dataset of skeleton clips, cut to windows, normalised and augmented.

The arrays on disk are made by convert_data.py and described in the README. Everything is done for a
whole batch at once, by torch, where the data lies (CPU or GPU); one clip is a batch of one.
"""

import copy
from pathlib import Path

import numpy as np
import torch

from skeletons import transforms
from skeletons.batch import BodyBatch, Tracks
from skeletons.preprocess import BODY_PARTS, REFERENCE_FRAMES, bone_matrix, normalisation
from skeletons.storage import find_layout, read_array, read_split


class Feeder(torch.utils.data.Dataset):
    """Skeleton clips and their labels.

    `feeder[i]` is one clip, `feeder[[i, j, ...]]` a batch made in one go:
        data   float32 (C, window, V, M) or (N, C, window, V, M); an absent body is exactly zero
        label  int64 () or (N,)
    With a DataLoader: `DataLoader(feeder, batch_size=256, shuffle=True, num_workers=4)`, as usual;
    the workers make whole batches. Without random options the items are the same every time.

    Files
        data_path       .npy: (frames, C, V, M), the frames of all clips end to end (convert_data.py),
                        or (N, C, T, V, M), padded with zeros (ST-GCN and relatives); metres
        label_path      .pkl: (names, labels), labels counted from 0
        num_frame_path  .npy: (N,) frames in each clip
    Window, in time
        window_size         frames in an item; 0 or less: as many as the longest clip has
        crop_resize         cut out a part of the clip and stretch or shrink it to the window
                            (the default); otherwise `window_size` consecutive frames are taken,
                            those in the middle of a longer clip, a shorter one followed by zeros
        p_interval          the share of the clip that is kept, in (0, 1]. A number: the middle of the
                            clip. A pair: drawn between the two, cut anywhere
        random_choose       a longer clip: take the consecutive frames anywhere
        random_shift        a shorter clip: put it anywhere in the window, zeros before and after
        random_valid_choose both of these
    Normalisation, the same in training and test
        origin_transfer  where the origin goes. "none" (or False): the camera. "each": every body's
                         own centre, every frame. "first": the first present body's centre, every
                         frame. "start": that body's centre in the first frame, so that its way
                         through the room stays. "view" (the default): as "start", and the axes
                         are turned to the body: x from its left to its right, y up its spine
        normalization    divide by the mean bone length of the clip, so that tall and short people,
                         and layouts, have one scale; "start": by that of the first body in the
                         first frame, which is known as soon as it is seen
    Camera, for training
        random_move  a slow random drift of the camera during the clip, before normalisation (which
                     undoes those parts of it that move the origin)
    3D transforms of the paper, for training (2D data: in the plane)
        rand_rotate  largest angle in radians about each axis, or one for each (x, y, z)
        rand_scale   sizes along the axes are drawn from 1 +- this
        rand_shear   shear amounts are drawn from +- this
        rand_bones   lengths of the bones are drawn from 1 +- this, the same on both sides
    Left and right, for training: how often (0 to 1) a clip is
        rand_mirror    seen in a mirror, the left joints being the right ones
        rand_exchange  fed with left and right joints exchanged, as by a sensor that takes a back for a
                       front; with the origin "view" the body is turned round by that
    debug   only the first 100 clips
    mmap    leave the data on disk and read each batch from there
    layout  the body; default: the one in meta.json beside the data, else a Kinect's by V

    Raises FileNotFoundError for a missing file, ValueError for files that do not belong together
    and for options that do not exist or exclude each other; both say what to do.
    """

    def __init__(
        self,
        data_path,
        label_path,
        num_frame_path,
        random_valid_choose=False,
        random_choose=False,
        random_shift=False,
        random_move=False,
        window_size=100,
        normalization=True,
        debug=False,
        origin_transfer="view",
        crop_resize=True,
        p_interval=1.0,
        rand_rotate=0.0,
        mmap=False,
        rand_scale=0.0,
        rand_shear=0.0,
        layout=None,
        rand_mirror=0.0,
        rand_exchange=0.0,
        rand_bones=0.0,
    ):
        if origin_transfer is False or origin_transfer is None:
            origin_transfer = "none"
        if origin_transfer not in REFERENCE_FRAMES:
            raise ValueError(
                f"origin_transfer={origin_transfer!r} is unknown: choose from "
                f"{', '.join(REFERENCE_FRAMES)}"
            )
        if crop_resize and (random_choose or random_shift or random_valid_choose):
            raise ValueError(
                "crop_resize fills the window with the clip, which leaves nothing to random_choose, "
                "random_shift and random_valid_choose: set crop_resize=False or leave these out"
            )
        shares = p_interval if isinstance(p_interval, (tuple, list)) else (p_interval,)
        if len(shares) not in (1, 2) or not 0 < shares[0] <= shares[-1] <= 1:
            raise ValueError(
                f"p_interval={p_interval}: a share of the clip in (0, 1], or two, the smaller first"
            )
        angles = rand_rotate if isinstance(rand_rotate, (tuple, list)) else (rand_rotate,)
        angles = tuple(angles) * 3 if len(angles) == 1 else tuple(angles)
        if len(angles) != 3 or max(angles) > np.pi or not 0 <= max(rand_scale, rand_bones) < 1:
            raise ValueError(
                f"rand_rotate={rand_rotate}, rand_scale={rand_scale}, rand_bones={rand_bones}: one "
                "angle or three (x, y, z), in radians, at most pi; sizes from 0 to less than 1"
            )

        if not (0 <= rand_mirror <= 1 and 0 <= rand_exchange <= 1):
            raise ValueError(
                f"rand_mirror={rand_mirror}, rand_exchange={rand_exchange}: shares of the clips, 0 to 1"
            )

        self.data_path, self.mmap = Path(data_path), mmap
        part = read_split(data_path, label_path, num_frame_path, mmap=True)
        self.stored, num_frame, self.name, label = part
        self.channels, self.places = self.stored.shape[1], self.stored.shape[-1]
        if not len(num_frame) or not num_frame.max():
            raise ValueError(
                f"{data_path} holds no clips: the conversion put none into this part, or skipped them "
                "(skipped.csv)"
            )
        self.layout = layout or find_layout(self.data_path, self.stored.shape[-2])
        if len(self.layout.joints) != self.stored.shape[-2]:
            raise ValueError(
                f"{data_path} has {self.stored.shape[-2]} joints, layout {self.layout.name} has "
                f"{len(self.layout.joints)}"
            )
        if origin_transfer == "view" and not (
            set(BODY_PARTS) <= set(self.layout.parts) and self.channels == 3
        ):
            others = ", ".join(origin for origin in REFERENCE_FRAMES if origin != "view")
            needs = f"parts called {', '.join(BODY_PARTS)}; {self.layout.name} has "
            needs += ", ".join(self.layout.parts)
            if self.channels != 3:
                needs = f"3D joints; {data_path} has {self.channels} coordinates"
            raise ValueError(
                f"the origin 'view' needs {needs}: choose another ({others}), for train.py with "
                "--origin, for Feeder with origin_transfer"
            )
        count = min(len(label), 100) if debug else len(label)
        self.name, self.label = self.name[:count], torch.tensor(label[:count])
        self.num_frame = torch.from_numpy(num_frame[:count].astype(np.int64))
        self.begin = self.num_frame.cumsum(0) - self.num_frame  # of each clip, in packed data
        if not mmap:
            some = map(self._read, torch.arange(count).split(256))
            self.tracks = Tracks.join(some, int(self.num_frame.sum()) * self.places)
            self.stored = None

        self.window_size = window_size if window_size > 0 else int(self.num_frame.max())
        self.normalization, self.origin_transfer = normalization, origin_transfer
        self.crop_resize = crop_resize
        anywhere, drawn = (0.0, 1.0), len(shares) == 2
        self.window = {"share": tuple(shares) if drawn else float(shares[0])}
        self.window["cut"] = anywhere if drawn or random_choose or random_valid_choose else 0.5
        if not crop_resize:
            self.window["place"] = anywhere if random_shift or random_valid_choose else 0.0
        self.random_move = random_move
        self.sides = (rand_mirror, rand_exchange)
        self.mirror_index = torch.tensor(self.layout.mirror_index)
        if any(self.sides) and torch.equal(self.mirror_index, torch.arange(len(self.mirror_index))):
            raise ValueError(
                f"rand_mirror and rand_exchange need joints called left ... and right ...; layout "
                f"{self.layout.name} has {', '.join(self.layout.joints)}"
            )
        self.bones = rand_bones
        self.proportions = self._proportions()
        if self.channels == 2:
            angles = (0.0, 0.0, angles[2])
        self.transform = {"rotate": angles, "scale": rand_scale, "sheared": rand_shear}

    def __len__(self):
        return len(self.label)

    def __getitem__(self, index):
        if np.ndim(index) == 0 and not isinstance(index, slice):
            data, label = self.batch([index])
            return data[0], label[0]
        return self.batch(index)

    def __getitems__(self, indices):
        """What a DataLoader's default collation asks for: a list of clips, made as one batch."""
        return list(zip(*self.batch(indices), strict=True))

    def __getstate__(self):
        # A pickled memory map would carry the whole file to a spawned worker.
        return self.__dict__ | {"stored": None}

    def __setstate__(self, state):
        self.__dict__.update(state)
        if self.mmap:
            self.stored = read_array(self.data_path, mmap=True)

    def eval(self, share=1.0):
        """The same clips, not copied, as they are fed in a test: whole, or the first `share` of them,
        and without transforms."""
        still = copy.copy(self)
        if not self.crop_resize:
            still.window_size = int(self.num_frame.max())
        still.window = {} if share == 1 else {"share": share, "cut": 0.0}
        still.transform, still.random_move, still.sides, still.bones = {}, False, (0.0, 0.0), 0.0
        return still

    def to(self, device):
        """Move the data, so that batches are made on `device`; not for memory-mapped data."""
        if self.mmap:
            raise ValueError("memory-mapped data stays on disk: use mmap=False to move it")
        self.tracks, self.label = self.tracks.to(device), self.label.to(device)
        self.mirror_index = self.mirror_index.to(device)
        self.proportions = [table.to(device) for table in self.proportions]
        return self

    def batch(self, index, generator=None):
        """Make a batch: clip numbers (N,) -> data (N, C, window, V, M), labels (N,).

        generator  source of the random numbers, on the data's device (None: torch's global one)
        """
        bodies, label = self.bodies(index, generator)
        return bodies.dense(), label

    def bodies(self, index, generator=None):
        """The same batch as the networks read it: -> BodyBatch, labels (N,).

        What is known on the host, above all how many bodies there are, is found out there, so that a
        GPU is never waited for.
        """
        if isinstance(index, slice):
            index = range(len(self))[index]
        index = torch.as_tensor(index).flatten()
        if index.dtype == torch.bool:
            index = index.nonzero()[:, 0]
        elif index.is_floating_point() and len(index):
            raise TypeError(f"clip numbers must be whole numbers, not {index.dtype}")
        index = index.long()
        if self.mmap:
            tracks, rows = self._read(index), torch.arange(len(index))
        else:
            tracks, rows = self.tracks, index
        device = tracks.joints.device
        start = tracks.start[rows].flatten()
        there = start >= 0
        place = there.nonzero()[:, 0]

        def send(tensor):
            return tensor.to(device, non_blocking=True)

        num_frame, start, index, rows = map(send, (self.num_frame[index], start[place], index, rows))
        place, there = send(place), send(there.view(-1, self.places))
        clip = place // self.places

        window = transforms.crop_resize if self.crop_resize else transforms.crop
        positions = window(num_frame, self.window_size, generator=generator, **self.window)
        frames = (tracks.joints, tracks.seen)
        joints, seen = transforms.sample(frames, start, num_frame[clip], positions[clip])
        joints = joints.unflatten(2, (self.channels, -1)).transpose(1, 2).contiguous()  # (B, C, T, V)
        if self.random_move:  # in metres, before anything is normalised
            joints = transforms.random_move(joints, clip, len(index), generator=generator)
        if any(self.sides):
            draw = {"generator": generator, "device": device}
            mirrored, exchanged = (
                (transforms.uniform(0, 1, len(index), **draw) < share)[clip] for share in self.sides
            )
            joints = transforms.swap_left_right(joints, self.mirror_index, mirrored, exchanged)
        if self.bones:
            one_side, *tables = self.proportions
            shape = (len(joints), joints.shape[3])
            factors = transforms.uniform(1 - self.bones, 1 + self.bones, shape, generator, device)
            factors[:, self.layout.root] = 1  # where the body is
            joints = transforms.scale_bones(joints, factors.index_select(1, one_side), *tables)
        bodies = BodyBatch(joints, place, there)
        how = (self.layout, self.proportions[1], self.origin_transfer, self.normalization)
        matrix, origin = normalisation(bodies, seen, tracks.size[rows], *how)
        if origin.dim() > 2:  # a way through the room (B, C, T)
            joints, origin = joints - origin[..., None], torch.zeros_like(origin[..., 0])
        if any(np.any(size) for size in self.transform.values()):
            draw = {"generator": generator, "device": device}
            random = transforms.random_matrix(len(index), **self.transform, **draw)
            matrix = random[:, : self.channels, : self.channels] @ matrix
        matrix = matrix[clip]
        joints = transforms.apply(joints, matrix, -(matrix @ origin[..., None])[..., 0])
        joints.mul_(seen[:, None, :, None])
        there = bodies.scatter(seen.any(1))  # (in the clip, but not in this window of it)
        return bodies._replace(joints=joints, there=there), self.label[index]

    def _proportions(self):
        """The joint that stands for both sides (V,), and the tables of `transforms.scale_bones`."""
        one_side = self.mirror_index.minimum(torch.arange(len(self.layout.joints)))
        bones = bone_matrix(self.layout)
        return [one_side, bones, bones.inverse().round()]

    def _read(self, index):
        """Clip numbers (N,) -> their Tracks, from the disk."""
        count, begin = self.num_frame[index], self.begin[index]
        pairs = list(zip(index.tolist(), begin.tolist(), count.tolist(), strict=True))
        if self.stored.ndim == 5:  # padded
            frames = [self.stored[i, :, :n].swapaxes(0, 1) for i, _, n in pairs or [(0, 0, 0)]]
        elif torch.equal(begin[1:], begin[:-1] + count[:-1]):  # in one piece
            frames = [self.stored[b : b + n] for b, n in ((begin[:1].sum(), count.sum()),)]
        else:
            frames = [self.stored[b : b + n] for _, b, n in pairs]
        frames = torch.from_numpy(np.concatenate(frames, dtype=np.float32, casting="same_kind"))
        return Tracks.of(frames, count, self.layout.bones)
