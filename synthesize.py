"""Make synthetic skeletons in the raw format of NTU RGB+D; the demo and the tests run on them.

    python synthesize.py --out demo/raw

A body is a Kinect v2 skeleton whose bones rotate about their joints. An action is a short list of
key poses. A subject has a body size, proportions, a tempo, an amplitude, a dominant hand and a
posture. Each take adds sway and timing. Three cameras 45 degrees apart record each take, each with its
own noise, lost frames, changed body IDs and spurious bodies. The actions have NTU's numbers and names,
but nothing here was measured: accuracy on this data says that the pipeline works, not how well it
works on people.

Axes as a Kinect's, in metres: x to the camera's left (its pictures are mirror images), y up, z away
from the camera. A body at rest faces the camera, so its left hand has the smaller x.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from skeletons.layout import KINECT_V2
from skeletons.output import error_message, make_console_safe, write_partial

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

# Bones that a pose rotates -> the joint at their end. "R" is the side of the dominant hand.
BONES = {
    "arm": "elbow", "forearm": "wrist", "hand": "hand",
    "thigh": "knee", "shin": "ankle", "spine": "spine shoulder", "head": "head",
}  # fmt: skip
CONTROLS = (*(f"{side} {bone}" for bone in ("arm", "forearm", "hand", "thigh", "shin")
              for side in "RL"), "spine", "head", "body", "move")  # fmt: skip
# Each control is three numbers: degrees forward (a raised arm, a lifted thigh), outward (to the bone's
# own side) and of rotation (inward). "body" rotates the whole body; "move" displaces it to the right,
# up and ahead, in metres.

Pose = dict[str, tuple[float, ...]]  # control -> its first numbers; what is missing is zero
Body = tuple[np.ndarray, np.ndarray]  # joints (T, V, 3), rotations of their bones (T, V, 3, 3)


def both(**bones: tuple[float, ...]) -> Pose:
    """The same pose on both sides."""
    return {f"{side} {bone}": angles for bone, angles in bones.items() for side in "RL"}


def right(**bones: tuple[float, ...]) -> Pose:
    """A pose of the dominant side."""
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


def stride(pose: Pose, ahead: float) -> Pose:
    return pose | {"move": (0, 0, ahead)}


def walk(start: float, end: float) -> tuple[Pose, ...]:
    """Four steps from `start` to `end`, metres ahead."""
    positions = np.linspace(start, end, 6)
    poses = (STAND, STRIDE_R, STRIDE_L, STRIDE_R, STRIDE_L, STAND)
    return tuple(stride(pose, ahead) for pose, ahead in zip(poses, positions, strict=True))


@dataclass(frozen=True)
class Action:
    """Key poses at about equal intervals; `cycle` is repeated between the first and the second.
    `partner` has the poses of a second person, who stands `distance` metres away, face to face."""

    poses: tuple[Pose, ...]
    cycle: tuple[Pose, ...] = ()
    seconds: float = 1.6
    partner: tuple[Pose, ...] = ()
    distance: float = 0.9


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
    59: Action(walk(0, 0.8), partner=walk(0, 0.8), distance=2.4),
    60: Action(walk(0, -0.8), partner=walk(0, -0.8), distance=0.8),
}  # fmt: skip


# --- Motion -----------------------------------------------------------------------------------------


def pose_vector(pose: Pose) -> np.ndarray:
    """A pose as an array (controls, 3)."""
    rows = [tuple(pose.get(control, ())) for control in CONTROLS]
    return np.array([row + (0,) * (3 - len(row)) for row in rows], float)


def smooth_noise(
    rng: np.random.Generator, frames: int, size: tuple[int, ...], period: int
) -> np.ndarray:
    """Slow random drift of unit size, (frames, *size), which changes direction about every `period`
    frames."""
    keys = rng.normal(size=(2 + frames // period, *size))
    return interpolate(keys, np.linspace(0, len(keys) - 1, frames))


def interpolate(keys: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Rows of `keys` at fractional positions; the speed is zero at every key."""
    lower = np.minimum(positions.astype(int), len(keys) - 2)
    ease = (1 - np.cos(np.pi * (positions - lower))) / 2
    return keys[lower] + ease.reshape(-1, *(1,) * (keys.ndim - 1)) * (keys[lower + 1] - keys[lower])


@dataclass
class Subject:
    """A person. All properties are drawn from the subject's number, so they are the same in every
    take."""

    number: int

    def __post_init__(self) -> None:
        rng = np.random.default_rng((self.number, 7))
        self.size = rng.uniform(0.85, 1.12)
        self.proportions = {name: rng.normal(1, 0.05) for name in REST}
        self.tempo = rng.uniform(0.75, 1.3)
        self.amplitude = rng.uniform(0.7, 1.15)
        self.left_handed = rng.random() < 0.25
        self.posture = rng.normal(0, 5, (len(CONTROLS), 3))
        self.posture[CONTROLS.index("body") :] = 0

    def offsets(self) -> np.ndarray:
        """Offsets (V, 3) of the joints from their parents, for this body at rest."""
        rows = []
        for joint in KINECT_V2.joints:
            side, _, name = joint.partition(" ")
            mirror = {"left": -1, "right": 1}.get(side)
            name = name if mirror else joint
            bone = np.array(REST.get(name, (0, 0, 0))) * self.proportions.get(name, 1)
            rows.append(bone * (mirror or 1, 1, 1) * self.size)
        return np.array(rows)

    def perform(
        self, poses: Sequence[Pose], cycle: Sequence[Pose], seconds: float, rng: np.random.Generator
    ) -> np.ndarray:
        """The controls (frames, controls, 3) over one take."""
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
        sway[:, CONTROLS.index("move")] *= 0.003
        motion = motion + sway
        motion[:, :-1] += self.posture[:-1]
        if self.left_handed:
            swap = [CONTROLS.index({"R": "L", "L": "R"}.get(c[0], c[0]) + c[1:]) for c in CONTROLS]
            motion = motion[:, swap]
        return motion


def forward_kinematics(
    offsets: np.ndarray, motion: np.ndarray, facing: float, position: np.ndarray
) -> Body:
    """Joints and bone rotations, in the axes of the room, from the controls.

    offsets   (V, 3) of the joints from their parents
    motion    (T, controls, 3)
    facing    degrees about y; 0: towards camera 1
    position  (3,) on the floor
    """
    from scipy.spatial.transform import Rotation

    frames = len(motion)
    control = {name: motion[:, i] for i, name in enumerate(CONTROLS)}
    local = {}  # joint -> rotation (T, 3, 3) of the bone that ends there, relative to its parent
    for side, sign, word in (("R ", 1, "right "), ("L ", -1, "left "), ("", 1, "")):
        for bone, joint in BONES.items():
            if side + bone in control:
                forward, outward, inward = (control[side + bone] * (1, sign, sign)).T
                forward = -forward if bone in ("spine", "head") else forward
                angles = np.stack((inward, forward, outward), 1)
                rotation = Rotation.from_euler("YXZ", angles, degrees=True)
                local[KINECT_V2.joint(word + joint)] = rotation.as_matrix()

    joints = np.zeros((frames, len(offsets), 3))
    rotations = np.zeros((frames, len(offsets), 3, 3))
    whole_body = Rotation.from_euler("y", facing + control["body"][:, 2:], degrees=True)
    rotations[:, KINECT_V2.root] = whole_body.as_matrix()
    for joint, _ in sorted(KINECT_V2.bones, key=lambda bone: KINECT_V2.depth(bone[0])):
        parent = KINECT_V2.parents[joint]
        rotation = rotations[:, parent]
        rotations[:, joint] = rotation @ local[joint] if joint in local else rotation
        joints[:, joint] = joints[:, parent] + rotations[:, joint] @ offsets[joint]
    # The lowest joint is on the floor, except in a leap.
    joints[..., 1] -= joints[..., 1].min(axis=1, keepdims=True)
    sideways, up, ahead = control["move"].T
    shift = np.stack((sideways, up.clip(0), -ahead), 1)
    shift = (Rotation.from_euler("y", facing, degrees=True).as_matrix() @ shift.T).T
    return joints + (shift + position)[:, None], rotations


def perform(
    action: Action, subjects: Sequence[Subject], replication: int, rng: np.random.Generator
) -> list[Body]:
    """The bodies of one take, in the axes of the room; of the two subjects only the first is used if
    the action needs no partner."""
    from scipy.spatial.transform import Rotation

    facing = (22.5 if replication % 2 else -22.5) + rng.normal(0, 8)
    centre = np.array((rng.normal(0, 0.15), 0, rng.normal(0, 0.15)))
    if not action.partner:
        motion = subjects[0].perform(action.poses, action.cycle, action.seconds, rng)
        return [forward_kinematics(subjects[0].offsets(), motion, facing, centre)]
    bodies = []
    state = rng.bit_generator.state
    for subject, poses, side in zip(subjects, (action.poses, action.partner), (1, -1), strict=True):
        rng.bit_generator.state = state  # the same timing for both
        motion = subject.perform(poses, action.cycle, action.seconds / subject.tempo, rng)
        turned = facing + 90 * side
        ahead = Rotation.from_euler("y", turned, degrees=True).apply((0, 0, -1))
        position = centre - ahead * action.distance / 2 * rng.uniform(0.9, 1.1)
        bodies.append(forward_kinematics(subject.offsets(), motion, turned, position))
    frames = min(len(joints) for joints, _ in bodies)
    return [(joints[:frames], rotations[:frames]) for joints, rotations in bodies]


# --- The sensor -------------------------------------------------------------------------------------

EXTREMITIES = [j for j, name in enumerate(KINECT_V2.joints)
               if name.split(" ", 1)[-1] in ("hand", "hand tip", "thumb", "foot", "ankle")]  # fmt: skip
LEAVES = [j for j in range(len(KINECT_V2.joints)) if j not in KINECT_V2.parents]

# What the sensor reports: per frame a list of (body ID, joints (V, 3), rotations (V, 3, 3), states).
Recording = list[list[tuple[int, np.ndarray, np.ndarray, np.ndarray]]]


def to_camera(body: Body, angle: float, height: float, distance: float) -> Body:
    """A body in the axes of a camera that stands `angle` degrees around the subjects, `height` metres
    above the floor and `distance` metres away, and points at a height of 1 m."""
    from scipy.spatial.transform import Rotation

    joints, rotations = body
    tilt = np.degrees(np.arctan2(height - 1.0, distance))
    camera = Rotation.from_euler("xy", (0, angle), degrees=True)
    camera = Rotation.from_euler("x", -tilt, degrees=True) * camera
    matrix = camera.as_matrix()
    centred = joints - (0, 1.0, 0)
    return centred @ matrix.T + (0, 0, np.hypot(distance, height - 1.0)), matrix @ rotations


def add_noise(joints: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Noisy joints (T, V, 3) and their tracking states (T, V): 2 tracked, 1 hidden by the body. The
    sensor guesses hidden joints, so they drift."""
    frames, count, _ = joints.shape
    sigma = np.full(count, 0.008)
    sigma[EXTREMITIES] = 0.02
    depth = joints[..., 2] - joints[:, :1, 2]
    hidden = smooth_noise(rng, frames, (count,), 10) + 8 * depth > 2.2
    drift = smooth_noise(rng, frames, (count, 3), 5) * 0.09
    noise = rng.normal(size=joints.shape) * sigma[:, None]
    return joints + noise + drift * hidden[..., None], np.where(hidden, 1, 2)


def simulate_sensor(bodies: Sequence[Body], rng: np.random.Generator) -> Recording:
    """What a Kinect reports of these bodies, with its faults: frames are lost, a body vanishes and
    comes back under another ID, the order of the bodies changes, and spurious bodies appear."""
    frames = len(bodies[0][0])
    next_id = 72057594037930000 + int(rng.integers(0, 9000))
    recording: Recording = [[] for _ in range(frames)]
    for joints, rotations in bodies:
        noisy, states = add_noise(joints, rng)
        next_id += int(rng.integers(1, 9))
        lost = range(0)
        if rng.random() < 0.2 and frames > 24:
            start = int(rng.integers(8, frames - 12))
            lost = range(start, start + int(rng.integers(2, 8)))
        for t in range(frames):
            if t in lost:
                next_id += t == lost[0]  # the ID of the body when it comes back
                continue
            recording[t].append((next_id, noisy[t], rotations[t], states[t]))
    if len(bodies) > 1 and rng.random() < 0.3:
        for reported in recording[int(rng.integers(0, frames)) :]:
            reported.reverse()
    if rng.random() < 0.15:
        add_spurious_body(recording, bodies[0], next_id + 10, rng)
    for t in np.flatnonzero(rng.random(frames) < 0.02):
        recording[t] = []
    return recording if any(recording) else simulate_sensor(bodies, rng)


def add_spurious_body(recording: Recording, body: Body, body_id: int, rng: np.random.Generator) -> None:
    """Add a reflection (a body for a moment) or a piece of furniture (wide and still)."""
    joints, rotations = body
    brief = rng.random() < 0.5
    start = int(rng.integers(0, len(recording)))
    shape = joints[start] if brief else joints[start] * (2.5, 0.4, 1)
    shape = shape + (rng.choice((-1.2, 1.2)), 0, 0.6)
    for reported in recording[start : start + 8] if brief else recording:
        noisy = shape + rng.normal(0, 0.02, shape.shape)
        reported.append((body_id, noisy, rotations[start], np.ones(len(shape))))


# --- The file ---------------------------------------------------------------------------------------

JOINT_LINE = " ".join(["%.7G"] * 11) + " %d\r\n"
BODY_BLOCK = "25\r\n" + JOINT_LINE * 25


def write_skeleton(path: str | Path, recording: Recording) -> None:
    """Write what a sensor reported as a raw NTU file (skeletons/ntu.py explains the format)."""
    lines = [f"{len(recording)}\r\n"]
    bodies = [body for reported in recording for body in reported]
    if bodies:
        table = joint_table(*(np.array(column) for column in list(zip(*bodies, strict=True))[1:]))
    row = 0
    for reported in recording:
        lines.append(f"{len(reported)}\r\n")
        for body_id, joints, _, _ in reported:
            lean = joints[20] - joints[0]
            lines.append(f"{body_id} 0 1 1 1 1 0 {lean[0]:.7G} {lean[2]:.7G} 2\r\n")
            lines.append(BODY_BLOCK % tuple(table[row]))
            row += 1
    write_partial(path, "".join(lines).encode("ascii")).replace(path)


def joint_table(joints: np.ndarray, rotations: np.ndarray, states: np.ndarray) -> np.ndarray:
    """The 12 fields of each joint, (B, V * 12): x y z, its pixel in the depth and the colour picture,
    orientation w x y z (zero for joints without a child, as the sensor gives it), tracking state.

    joints (B, V, 3), rotations (B, V, 3, 3), states (B, V) of B bodies.
    """
    from scipy.spatial.transform import Rotation

    x, y, z = np.moveaxis(joints, -1, 0)
    z = z.clip(0.3)
    depth = 366 * x / z + 256, 212 - 366 * y / z
    colour = 1064 * (x + 0.052) / z + 960, 540 - 1064 * y / z
    quaternion = Rotation.from_matrix(rotations.reshape(-1, 3, 3)).as_quat().reshape(*x.shape, 4)
    quaternion[:, LEAVES] = 0
    pixels = np.stack((*depth, *colour), -1)
    fields = (joints, pixels, quaternion[..., 3:], quaternion[..., :3], states[..., None])
    return np.concatenate(fields, -1).reshape(len(joints), -1)


def synthesize(
    out: str | Path,
    actions: Sequence[int] = tuple(ACTIONS),
    subjects: int = 8,
    replications: int = 2,
    seed: int = 0,
) -> int:
    """Write actions x subjects x replications x 3 cameras files into the folder `out` -> their number.

    Subjects are numbered from 1, so both splits of NTU's cross-subject benchmark occur. The same
    arguments give the same bytes. Raises FileExistsError when the folder already holds .skeleton files,
    which would be mixed with the new ones.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    if any(out.glob("*.skeleton")):
        raise FileExistsError(
            f"{out} already holds .skeleton files\nremove them or choose another --out"
        )
    people = {number: Subject(number) for number in range(1, subjects + 1)}
    takes = [(a, p, r) for a in actions for p in people for r in range(1, replications + 1)]
    for action, number, replication in tqdm(takes, "synthesize", unit=" takes", disable=None):
        rng = np.random.default_rng((seed, action, number, replication))
        pair = [people[number], people[number % subjects + 1]]
        bodies = perform(ACTIONS[action], pair, replication, rng)
        for camera, angle in CAMERA_ANGLES.items():
            height, distance = rng.uniform(0.9, 1.6), rng.uniform(2.6, 3.6)
            visible = [to_camera(body, angle, height, distance) for body in bodies]
            name = f"S{SETUP:03}C{camera:03}P{number:03}R{replication:03}A{action:03}.skeleton"
            write_skeleton(out / name, simulate_sensor(visible, rng))
    return 3 * len(takes)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="demo/raw", help="output folder (default: %(default)s)")
    parser.add_argument("--actions", type=int, nargs="+", default=list(ACTIONS), metavar="NUMBER",
                        help="NTU numbers of the actions (default: "
                             f"{' '.join(map(str, ACTIONS))})")  # fmt: skip
    parser.add_argument(
        "--subjects", type=int, default=8, help="number of subjects (default: %(default)s)"
    )
    parser.add_argument("--replications", type=int, default=2,
                        help="number of takes of each action by each subject "
                             "(default: %(default)s)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    make_console_safe()
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.actions) - set(ACTIONS):
        parser.error(f"no action {', '.join(map(str, sorted(unknown)))}: choose from {list(ACTIONS)}")
    for option in ("subjects", "replications"):
        if getattr(arguments, option) < 1:
            parser.error(f"--{option} must be at least 1")
    try:
        count = synthesize(**vars(arguments))
    except OSError as error:
        raise SystemExit(f"synthesize.py: {error_message(error)}") from error
    print(f"{count} files in {arguments.out}")


if __name__ == "__main__":
    main()
