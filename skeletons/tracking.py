"""Bodies followed through a clip, spurious detections dropped."""

import numpy as np

from skeletons.clip import MAX_BODIES, InvalidClip

# --- Bodies -------------------------------------------------------------------------------------------

# A body that was lost and is found this near (metres) is the same one under a new ID: two people
# stand farther apart, measured at the base of the spine, and a body out of sight hardly walks away.
REJOIN_DISTANCE = 0.5
# The sensor takes furniture and reflections for bodies. Those last no longer than this (frames; a
# third of a second, shorter than any action), nor than half of the clip ...
GHOST_FRAMES = 10
# ... or are wider than this share of their height in most of their frames: a person with both arms
# stretched out is as wide as tall, but not for half of the clip.
GHOST_WIDTH = 0.8


def track_bodies(frame_of, body_ids, joints):
    """Sort the bodies of a clip into at most two tracks -> float32 (T, C, V, M).

    Bodies are followed by ID, so that their places in the sensor's list do not matter. A track that
    begins where an earlier one was lost continues it; ghosts are dropped unless nothing else is there;
    the two that move most (variance of the joints' places, over time) are kept, the most active first,
    each in one slot for the whole clip. Frames without any body are left out.
    """
    tracks = []
    for body_id in dict.fromkeys(body_ids.tolist()):
        rows = np.flatnonzero(body_ids == body_id)
        again = frame_of[rows[1:]] == frame_of[rows[:-1]]  # twice in a frame: two bodies
        if again.any():
            tracks.append(rows[1:][again])
            rows = np.delete(rows, 1 + np.flatnonzero(again))
        near = [
            (np.linalg.norm(joints[rows[0], 0] - joints[track[-1], 0]), i)
            for i, track in enumerate(tracks)
            if frame_of[track[-1]] < frame_of[rows[0]]
        ]
        distance, i = min(near, default=(np.inf, None))
        if distance < REJOIN_DISTANCE:
            tracks[i] = np.concatenate((tracks[i], rows))
        else:
            tracks.append(rows)

    if len(tracks) > 1:
        frames = 1 + np.count_nonzero(frame_of[1:] != frame_of[:-1])
        people = [rows for rows in tracks if not is_spurious(joints[rows], frames)]
        tracks = people or [max(tracks, key=len)]
        tracks.sort(key=lambda rows: joints[rows].var(axis=0).sum(), reverse=True)
    return tracks_to_array(frame_of, joints, tracks[:MAX_BODIES])


def is_spurious(body, frames):
    """Whether a track (T, V, 3) of a clip of so many frames is not a person's."""
    if len(body) <= min(GHOST_FRAMES, frames / 2):
        return True
    x_and_y = body[..., :2].transpose(2, 0, 1).copy()  # (numpy is fast along the last axis)
    width, height = np.ptp(x_and_y, axis=2)
    return np.count_nonzero(width > GHOST_WIDTH * height) > len(body) / 2


def sensor_order(frame_of, body_ids, joints):
    """The first two bodies of each frame in the sensor's own order -> float32 (T, C, V, M)."""
    place = np.arange(len(frame_of)) - np.searchsorted(frame_of, frame_of)
    slots = [np.flatnonzero(place == slot) for slot in range(MAX_BODIES)]
    return tracks_to_array(frame_of, joints, slots)


def tracks_to_array(frame_of, joints, slots):
    """Bodies (B, V, 3), their frames (B,), the rows of the bodies in each slot -> float32 (T, C, V, M),
    frames without a body left out."""
    row = np.append(0, np.cumsum(frame_of[1:] != frame_of[:-1]))  # only frames that list a body
    data = np.zeros((row[-1] + 1, 3, joints.shape[1], MAX_BODIES), np.float32)
    for slot, bodies in enumerate(slots):
        data[row[bodies], :, :, slot] = joints[bodies].swapaxes(1, 2)
    seen = data.any((1, 2, 3))
    if not seen.any():
        raise InvalidClip("all bodies are zero")
    return data if seen.all() else data[seen]
