"""From recorded bodies to what a network reads: window, normalisation, augmentation."""

import torch

BODY_PARTS = ("left arm", "right arm", "trunk", "left leg", "right leg")
REFERENCE_FRAMES = ("none", "first", "each", "start", "view")


def normalisation(bodies, seen, size, layout, bones, origin_transfer, normalization):
    """How clips are normalised: -> matrices (N, C, C), and the origin of each body, (B, C) or (B, C, T)
    where it moves.

    bodies  BodyBatch as recorded
    seen    (B, T): the body is in the frame
    size    (N,) mean length of the bones of each clip
    bones   what `bone_matrix` makes of the layout
    The last two are options of `Feeder`.
    """
    joints, root, channels = bodies.joints, layout.root, bodies.joints.shape[1]
    matrix = torch.eye(channels, device=joints.device).expand(size.shape[0], -1, -1)
    origin = joints.new_zeros(joints.shape[:2])
    pose = first_pose(bodies, seen)
    if origin_transfer == "each":
        origin = joints[..., root]
    elif origin_transfer == "first":
        body = bodies.scatter(seen).int().argmax(1)  # (N, T), of the first one there
        centres = bodies.scatter(joints[..., root])  # (N, M, C, T)
        centre = centres.gather(1, body[:, None, None].expand(-1, -1, channels, -1))[:, 0]
        origin = centre[bodies.clip]
    elif origin_transfer in ("start", "view"):
        origin = pose[bodies.clip, :, root]
        if origin_transfer == "view":
            matrix = body_axes(pose, layout)
    if normalization == "start":
        size = bone_length(pose, bones, root)
    if normalization:
        matrix = matrix / size[:, None, None]
    return matrix, origin


def first_pose(bodies, seen):
    """The body that is seen first in each clip, in its first frame, seen (B, T) -> (N, C, V)."""
    _, channels, _, joints = bodies.joints.shape  # (export.py needs gather: no indexing by two tensors)
    frame = seen.int().argmax(1)
    one = frame[:, None, None, None].expand(-1, channels, 1, joints)
    poses = bodies.scatter(bodies.joints.gather(2, one)[:, :, 0])  # (N, M, C, V)
    body = bodies.scatter((seen.shape[1] - frame) * seen.any(1)).argmax(1)
    one = body[:, None, None, None].expand(-1, 1, channels, joints)
    return poses.gather(1, one)[:, 0]


def bone_matrix(layout):
    """(V, V): joints (..., C, V) times this are the bones, from parent to joint (the root: from the
    origin)."""
    table = torch.eye(len(layout.joints))
    for joint, parent in layout.bones:
        table[parent, joint] = -1
    return table


def bone_length(pose, table, root):
    """Mean length of the bones (N,) in a pose (N, C, V); 1 where there is nobody."""
    lengths = (pose @ table).norm(dim=1)
    length = (lengths.sum(1) - lengths[:, root]) / (table.shape[0] - 1)
    return torch.where(length > 0, length, 1.0)


def body_axes(pose, layout):
    """Rotation (N, 3, 3) from the camera's axes to those of a body standing in `pose` (N, 3, V).

    y runs up the trunk; x is the direction from the left shoulder and hip to the right ones, made
    square to y; z completes a right-handed system, so a body facing a Kinect is not turned at all.
    The identity where a pose has no such directions (an absent body).
    """
    left_arm, right_arm, trunk, left_leg, right_leg = map(layout.tip_first, BODY_PARTS)

    def joint(index):
        return pose[:, :, index]

    right = joint(right_arm[-1]) + joint(right_leg[-1])
    across = right - joint(left_arm[-1]) - joint(left_leg[-1])
    y = torch.nn.functional.normalize(joint(trunk[0]) - joint(trunk[-1]))
    x = torch.nn.functional.normalize(across - (across * y).sum(1, keepdim=True) * y)
    axes = torch.stack((x, y, torch.linalg.cross(x, y)), 1)
    defined = (axes.norm(dim=2) > 0.5).all(1)[:, None, None]
    return torch.where(defined, axes, torch.eye(3, device=pose.device))
