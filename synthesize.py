"""Synthetic skeletons in the raw format of NTU RGB+D: what the demo and the tests run on.

    python synthesize.py --out demo/raw

A body is a Kinect v2 skeleton whose bones turn about their joints. An action is a short list of key
poses; a subject has a size, proportions, a tempo, an amplitude, a better hand and a posture; a take
adds sway and timing. Three cameras 45 degrees apart see each take, each with its own noise, lost
frames, changed body IDs and ghost bodies. The actions bear NTU's numbers and names, but nothing
here is a measurement: accuracy on this data says that the pipeline works, not how well it does on
people.

Axes as a Kinect's: x to the camera's left (its pictures are mirror images), y up, z away from the
camera, in metres. A body at rest faces the camera, so its left hand has the smaller x.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from skeletons.layout import KINECT_V2

SETUP = 2  # S002: no clip made here by default bears a name on NTU's list of missing skeletons
CAMERA_ANGLES = {1: 0.0, 2: 45.0, 3: -45.0}  # degrees around the subjects
FRAMES_PER_SECOND = 30

# Bones at rest, from parent to joint, in metres, for a person of average size.
REST = {
    "spine base": (0, -0.30, 0), "spine shoulder": (0, 0.23, 0),
    "neck": (0, 0.08, 0), "head": (0, 0.16, -0.02),
    "shoulder": (0.17, -0.03, 0), "elbow": (0, -0.27, 0), "wrist": (0, -0.24, 0),
    "hand": (0, -0.08, 0), "hand tip": (0, -0.08, 0), "thumb": (0, -0.06, -0.06),
    "hip": (0.08, -0.04, 0), "knee": (0, -0.40, 0), "ankle": (0, -0.39, 0),
    "foot": (0, -0.05, -0.13),
}  # fmt: skip

# What a pose may turn: the bone that ends at a joint. "R" is the better hand's side.
BONES = {
    "arm": "elbow", "forearm": "wrist", "hand": "hand",
    "thigh": "knee", "shin": "ankle", "spine": "spine shoulder", "head": "head",
}  # fmt: skip
CHANNELS = (*(f"{side} {bone}" for bone in ("arm", "forearm", "hand", "thigh", "shin")
              for side in "RL"), "spine", "head", "body", "move")  # fmt: skip
# Each channel is three numbers, degrees: forward (a raised arm, a lifted thigh), out (to the bone's
# own side), turn (inwards). "body" turns the whole body; "move" displaces it: right, up, ahead (m).


def both(**bones):
    """The same pose on both sides."""
    return {f"{side} {bone}": angles for bone, angles in bones.items() for side in "RL"}


def right(**bones):
    return {f"R {bone}": angles for bone, angles in bones.items()}


STAND = {}
SIT = both(thigh=(85,), shin=(-85,)) | {"spine": (8,)}
STOOP = both(thigh=(50, 5), shin=(-60,)) | {"spine": (50,), "L arm": (20,)}
DRINK = right(arm=(45, 10, 15), forearm=(125, 0, 20)) | {"head": (-8,)}
PHONE = right(arm=(40, 30), forearm=(140, 0, -10)) | {"head": (8,)}
SALUTE = right(arm=(55, 60), forearm=(130, 0, 10))
CROSS = both(arm=(65, 0, 25), forearm=(50, 0, 35))
APART, TOGETHER = both(arm=(45, 15), forearm=(70, 0, -5)), both(arm=(45, 0, 5), forearm=(70, 0, 35))
RUB_A = both(arm=(35,), forearm=(80, 0, 38)) | {"R forearm": (92, 0, 38)}
RUB_B = both(arm=(35,), forearm=(80, 0, 38)) | {"L forearm": (92, 0, 38)}
CHEER, CHEER_LOW = both(arm=(165, 15), forearm=(10,)), both(arm=(140, 30), forearm=(60,))
WAVE_OUT = right(arm=(60, 65), forearm=(110, 0, -45))
WAVE_IN = right(arm=(60, 65), forearm=(110, 0, 20))
THROW_BACK = right(arm=(-30, 70), forearm=(100,)) | {"spine": (-8,)}
THROW = right(arm=(100, 5), forearm=(10,)) | {"spine": (15,)}
KICK_BACK, KICK = right(thigh=(-25,), shin=(-60,)), right(thigh=(60,), shin=(-10,))
CROUCH = both(thigh=(55,), shin=(-75,), arm=(-25,)) | {"spine": (25,)}
LEAP = both(arm=(110,)) | {"move": (0, 0.25, 0)}
POINT = right(arm=(85, 5), forearm=(5,))
PUNCH_BACK, PUNCH = right(arm=(10, 20), forearm=(110,)), right(arm=(88, 0, 8), forearm=(5,))
RECOIL = {"spine": (-15,), "move": (0, 0, -0.15)}
SHAKE_LOW = right(arm=(40, 0, 8), forearm=(35,))
SHAKE_HIGH = right(arm=(45, 0, 8), forearm=(55,))
STRIDE_R = {"R thigh": (28,), "L thigh": (-22,), "L shin": (-25,), "L arm": (20,), "R arm": (-15,)}
STRIDE_L = {"L thigh": (28,), "R thigh": (-22,), "R shin": (-25,), "R arm": (20,), "L arm": (-15,)}


def stride(pose, ahead):
    return pose | {"move": (0, 0, ahead)}


def walk(start, end):
    """Four steps from `start` to `end`, metres ahead."""
    ways = np.linspace(start, end, 6)
    poses = (STAND, STRIDE_R, STRIDE_L, STRIDE_R, STRIDE_L, STAND)
    return [stride(pose, way) for pose, way in zip(poses, ways, strict=True)]


@dataclass(frozen=True)
class Action:
    """Key poses at even times; `cycle` is repeated between them. `partner`: the poses of a second
    person, who stands `apart` metres away, face to face."""

    poses: tuple
    cycle: tuple = ()
    seconds: float = 1.6
    partner: tuple = ()
    apart: float = 0.9


ACTIONS = {
    1: Action((STAND, DRINK, DRINK, DRINK, STAND)),
    6: Action((STAND, STOOP, STOOP, STAND)),
    7: Action((STAND, THROW_BACK, THROW, STAND), seconds=1.2),
    8: Action((STAND, STAND, SIT, SIT)),
    9: Action((SIT, SIT, STAND, STAND)),
    10: Action((STAND, STAND), (APART, TOGETHER)),
    22: Action((STAND, STAND), (CHEER, CHEER_LOW)),
    23: Action((STAND, STAND), (WAVE_OUT, WAVE_IN)),
    24: Action((STAND, KICK_BACK, KICK, STAND), seconds=1.2),
    27: Action((STAND, CROUCH, LEAP, CROUCH, STAND), seconds=1.2),
    28: Action((STAND, PHONE, PHONE, PHONE, STAND)),
    31: Action((STAND, POINT, POINT, STAND)),
    34: Action((STAND, STAND), (RUB_A, RUB_B)),
    38: Action((STAND, SALUTE, SALUTE, STAND)),
    40: Action((STAND, CROSS, CROSS, CROSS, STAND)),
    50: Action((STAND, PUNCH_BACK, PUNCH, STAND), seconds=1.2,
               partner=(STAND, STAND, RECOIL, STAND)),
    58: Action((STAND, STAND), (SHAKE_LOW, SHAKE_HIGH), partner=(STAND, STAND)),
    59: Action(tuple(walk(0, 0.8)), partner=tuple(walk(0, 0.8)), apart=2.4),
    60: Action(tuple(walk(0, -0.8)), partner=tuple(walk(0, -0.8)), apart=0.8),
}  # fmt: skip


# --- Motion -----------------------------------------------------------------------------------------


def pose_vector(pose):
    """A pose -> (channels, 3)."""
    rows = [tuple(pose.get(channel, ())) for channel in CHANNELS]
    return np.array([row + (0,) * (3 - len(row)) for row in rows], float)


def smooth_noise(rng, frames, size, period):
    """Slow random wandering of unit size: (frames, *size), a new direction about each `period`
    frames."""
    knots = rng.normal(size=(2 + frames // period, *size))
    return interpolate(knots, np.linspace(0, len(knots) - 1, frames))


def interpolate(keys, positions):
    """Read rows of `keys` at fractional positions, with speed zero at every key."""
    lower = np.minimum(positions.astype(int), len(keys) - 2)
    ease = (1 - np.cos(np.pi * (positions - lower))) / 2
    return keys[lower] + ease.reshape(-1, *(1,) * (keys.ndim - 1)) * (keys[lower + 1] - keys[lower])


@dataclass
class Subject:
    """A person: drawn from the subject's number alone, the same in every take."""

    number: int

    def __post_init__(self):
        rng = np.random.default_rng((self.number, 7))
        self.size = rng.uniform(0.85, 1.12)
        self.proportions = {name: rng.normal(1, 0.05) for name in REST}
        self.tempo = rng.uniform(0.75, 1.3)
        self.amplitude = rng.uniform(0.7, 1.15)
        self.left_handed = rng.random() < 0.25
        self.posture = rng.normal(0, 5, (len(CHANNELS), 3))
        self.posture[CHANNELS.index("body") :] = 0

    def offsets(self):
        """Bones (V, 3) of this body at rest, from each joint's parent."""
        rows = []
        for joint in KINECT_V2.joints:
            side, _, name = joint.partition(" ")
            mirror = {"left": -1, "right": 1}.get(side)
            name = name if mirror else joint
            bone = np.array(REST.get(name, (0, 0, 0))) * self.proportions.get(name, 1)
            rows.append(bone * (mirror or 1, 1, 1) * self.size)
        return np.array(rows)

    def perform(self, poses, cycle, seconds, rng):
        """Angles and displacements (frames, channels, 3) of one take."""
        keys = list(poses)
        if cycle:
            repeats = int(rng.integers(2, 5))
            keys[1:1] = [pose for _ in range(repeats) for pose in cycle]
        keys = np.array([pose_vector(pose) for pose in keys])
        keys[:, :-1] *= self.amplitude * rng.uniform(0.85, 1.15)
        frames = int(FRAMES_PER_SECOND * seconds * self.tempo * rng.uniform(0.85, 1.2))
        # Keys come early or late; the first one and the last one are held for a while.
        times = np.cumsum(rng.uniform(0.6, 1.4, len(keys) - 1))
        times = np.concatenate(([0], times)) / times[-1]
        hold_before, hold_after = rng.uniform(0, 0.25, 2)
        clock = np.linspace(-hold_before, 1 + hold_after, frames).clip(0, 1)
        motion = interpolate(keys, np.interp(clock, times, np.arange(len(keys))))
        sway = smooth_noise(rng, frames, motion.shape[1:], 12) * 4
        sway[:, CHANNELS.index("move")] *= 0.003
        motion = motion + sway
        motion[:, :-1] += self.posture[:-1]
        if self.left_handed:
            swap = [CHANNELS.index({"R": "L", "L": "R"}.get(c[0], c[0]) + c[1:]) for c in CHANNELS]
            motion = motion[:, swap]
        return motion


def move_body(offsets, motion, facing, place):
    """Forward kinematics.

    offsets (V, 3), motion (T, channels, 3), facing: degrees about y (0: towards camera 1), place (3,)
    on the floor -> joints (T, V, 3), rotations (T, V, 3, 3) of the bones, in the room.
    """
    frames = len(motion)
    channel = {name: motion[:, i] for i, name in enumerate(CHANNELS)}
    turns = {}  # joint -> local rotation (T, 3, 3) of the bone that ends there
    for side, sign, word in (("R ", 1, "right "), ("L ", -1, "left "), ("", 1, "")):
        for bone, joint in BONES.items():
            if side + bone in channel:
                forward, out, turn = (channel[side + bone] * (1, sign, sign)).T
                forward = -forward if bone in ("spine", "head") else forward
                angles = np.stack((turn, forward, out), 1)
                turns[KINECT_V2.joint(word + joint)] = Rotation.from_euler(
                    "YXZ", angles, degrees=True
                ).as_matrix()

    whole = Rotation.from_euler("y", facing + channel["body"][:, 2:], degrees=True).as_matrix()
    joints = np.zeros((frames, len(offsets), 3))
    rotations = np.zeros((frames, len(offsets), 3, 3))
    rotations[:, KINECT_V2.root] = whole
    for joint, _ in sorted(KINECT_V2.bones, key=lambda bone: KINECT_V2.depth(bone[0])):
        parent = KINECT_V2.parents[joint]
        turn = rotations[:, parent]
        rotations[:, joint] = turn @ turns[joint] if joint in turns else turn
        joints[:, joint] = joints[:, parent] + rotations[:, joint] @ offsets[joint]
    # The lowest joint stands on the floor, unless the body has leapt.
    joints[..., 1] -= joints[..., 1].min(axis=1, keepdims=True)
    sideways, up, ahead = channel["move"].T
    shift = np.stack((sideways, up.clip(0), -ahead), 1)
    shift = (Rotation.from_euler("y", facing, degrees=True).as_matrix() @ shift.T).T
    return joints + (shift + place)[:, None], rotations


def perform(action, subjects, replication, rng):
    """One take -> a list of bodies, each (joints (T, V, 3), rotations (T, V, 3, 3)), in the room."""
    facing = (22.5 if replication % 2 else -22.5) + rng.normal(0, 8)
    place = np.array((rng.normal(0, 0.15), 0, rng.normal(0, 0.15)))
    if not action.partner:
        motion = subjects[0].perform(action.poses, action.cycle, action.seconds, rng)
        return [move_body(subjects[0].offsets(), motion, facing, place)]
    bodies = []
    state = rng.bit_generator.state
    for subject, poses, side in zip(subjects, (action.poses, action.partner), (1, -1), strict=True):
        rng.bit_generator.state = state  # both keep the same time
        cycle = action.cycle
        motion = subject.perform(poses, cycle, action.seconds / subject.tempo, rng)
        turn = facing + 90 * side
        ahead = Rotation.from_euler("y", turn, degrees=True).apply((0, 0, -1))
        at = place - ahead * action.apart / 2 * rng.uniform(0.9, 1.1)
        bodies.append(move_body(subject.offsets(), motion, turn, at))
    frames = min(len(joints) for joints, _ in bodies)
    return [(joints[:frames], rotations[:frames]) for joints, rotations in bodies]


# --- The sensor -------------------------------------------------------------------------------------

EXTREMITIES = [j for j, name in enumerate(KINECT_V2.joints)
               if name.split(" ", 1)[-1] in ("hand", "hand tip", "thumb", "foot", "ankle")]  # fmt: skip
LEAVES = [j for j in range(len(KINECT_V2.joints)) if j not in KINECT_V2.parents]


def see(body, angle, height, distance):
    """A body in the room -> the same in the axes of a camera `angle` degrees round the subjects,
    `height` metres above the floor, `distance` metres away, looking at breast height."""
    joints, rotations = body
    tilt = np.degrees(np.arctan2(height - 1.0, distance))
    camera = Rotation.from_euler("xy", (0, angle), degrees=True)
    camera = Rotation.from_euler("x", -tilt, degrees=True) * camera
    matrix = camera.as_matrix()
    centred = joints - (0, 1.0, 0)
    return centred @ matrix.T + (0, 0, np.hypot(distance, height - 1.0)), matrix @ rotations


def add_noise(joints, rng):
    """Sensor noise; joints hidden by the body are guessed -> joints (T, V, 3), states (T, V)."""
    frames, count, _ = joints.shape
    sigma = np.full(count, 0.008)
    sigma[EXTREMITIES] = 0.02
    depth = joints[..., 2] - joints[:, :1, 2]
    hidden = smooth_noise(rng, frames, (count,), 10) + 8 * depth > 2.2
    wander = smooth_noise(rng, frames, (count, 3), 5) * 0.09
    noise = rng.normal(size=joints.shape) * sigma[:, None]
    return joints + noise + wander * hidden[..., None], np.where(hidden, 1, 2)


def record(bodies, rng):
    """What the sensor reports: a list over frames of lists of (body ID, joints, rotations, states).

    Frames are lost; a body vanishes and returns under another ID; bodies swap places in the list;
    furniture shows up as a ghost.
    """
    frames = len(bodies[0][0])
    next_id = 72057594037930000 + int(rng.integers(0, 9000))
    listing = [[] for _ in range(frames)]
    for joints, rotations in bodies:
        noisy, states = add_noise(joints, rng)
        next_id += int(rng.integers(1, 9))
        gone = range(0)
        if rng.random() < 0.2 and frames > 24:
            start = int(rng.integers(8, frames - 12))
            gone = range(start, start + int(rng.integers(2, 8)))
        for t in range(frames):
            if t in gone:
                next_id += t == gone[0]  # the number it will return under
                continue
            listing[t].append((next_id, noisy[t], rotations[t], states[t]))
    if len(bodies) > 1 and rng.random() < 0.3:
        for shown in listing[int(rng.integers(0, frames)) :]:
            shown.reverse()
    if rng.random() < 0.15:  # a ghost: short, or wide and still
        joints, rotations = bodies[0]
        brief = rng.random() < 0.5
        start = int(rng.integers(0, frames))
        shape = joints[start] if brief else joints[start] * (2.5, 0.4, 1)
        shape = shape + (rng.choice((-1.2, 1.2)), 0, 0.6)
        for shown in listing[start : start + 8] if brief else listing:
            ghost = shape + rng.normal(0, 0.02, shape.shape)
            shown.append((next_id + 10, ghost, rotations[start], np.ones(len(shape))))
    for t in np.flatnonzero(rng.random(frames) < 0.02):
        listing[t] = []
    return listing if any(listing) else record(bodies, rng)


# --- The file ---------------------------------------------------------------------------------------

JOINT_LINE = " ".join(["%.7G"] * 11) + " %d\r\n"
BODY_BLOCK = "25\r\n" + JOINT_LINE * 25


def write_skeleton(path, listing):
    """Write what a sensor reported as a raw NTU file (the format: convert_data.parse_skeleton)."""
    lines = [f"{len(listing)}\r\n"]
    flat = [body for shown in listing for body in shown]
    if flat:
        table = joint_table(*(np.array(column) for column in list(zip(*flat, strict=True))[1:]))
    row = 0
    for shown in listing:
        lines.append(f"{len(shown)}\r\n")
        for body_id, joints, _, _ in shown:
            lean = joints[20] - joints[0]
            lines.append(f"{body_id} 0 1 1 1 1 0 {lean[0]:.7G} {lean[2]:.7G} 2\r\n")
            lines.append(BODY_BLOCK % tuple(table[row]))
            row += 1
    Path(path).write_bytes("".join(lines).encode("ascii"))


def joint_table(joints, rotations, states):
    """(B, V, 3), (B, V, 3, 3), (B, V) -> (B, V * 12): x y z, depth and colour pixel, orientation
    w x y z (zero at the leaves, as the sensor gives it), state."""
    x, y, z = np.moveaxis(joints, -1, 0)
    z = z.clip(0.3)
    depth = 366 * x / z + 256, 212 - 366 * y / z
    colour = 1064 * (x + 0.052) / z + 960, 540 - 1064 * y / z
    turn = Rotation.from_matrix(rotations.reshape(-1, 3, 3)).as_quat().reshape(*x.shape, 4)
    turn[:, LEAVES] = 0
    w = turn[..., 3:]
    pixels = np.stack((*depth, *colour), -1)
    table = np.concatenate((joints, pixels, w, turn[..., :3], states[..., None]), -1)
    return table.reshape(len(joints), -1)


def synthesize(out, actions=tuple(ACTIONS), subjects=8, replications=2, seed=0):
    """Write actions x subjects x replications x 3 cameras files into the folder `out`.

    Performers are numbered from 1, so both parts of NTU's cross-subject split occur. The same
    arguments give the same bytes. Returns the number of files. Raises FileExistsError when the
    folder holds .skeleton files already, which would be mixed with the new ones.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    if any(out.glob("*.skeleton")):
        raise FileExistsError(f"{out} holds .skeleton files: remove them or choose another --out")
    people = {number: Subject(number) for number in range(1, subjects + 1)}
    takes = [(a, p, r) for a in actions for p in people for r in range(1, replications + 1)]
    for action, number, replication in tqdm(takes, "synthesize", unit=" takes", disable=None):
        rng = np.random.default_rng((seed, action, number, replication))
        pair = [people[number], people[number % subjects + 1]]
        bodies = perform(ACTIONS[action], pair, replication, rng)
        for camera, angle in CAMERA_ANGLES.items():
            height, distance = rng.uniform(0.9, 1.6), rng.uniform(2.6, 3.6)
            seen = [see(body, angle, height, distance) for body in bodies]
            name = f"S{SETUP:03}C{camera:03}P{number:03}R{replication:03}A{action:03}.skeleton"
            write_skeleton(out / name, record(seen, rng))
    return 3 * len(takes)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="demo/raw", help="folder for the .skeleton files")
    parser.add_argument("--actions", type=int, nargs="+", default=list(ACTIONS), help="NTU numbers")
    parser.add_argument("--subjects", type=int, default=8)
    parser.add_argument("--replications", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    unknown = set(arguments.actions) - set(ACTIONS)
    if unknown:
        raise SystemExit(f"synthesize.py: no actions {sorted(unknown)}: there are {list(ACTIONS)}")
    try:
        count = synthesize(**vars(arguments))
    except OSError as error:
        raise SystemExit(f"synthesize.py: {error}") from error
    print(f"{count} files in {arguments.out}")


if __name__ == "__main__":
    main()
