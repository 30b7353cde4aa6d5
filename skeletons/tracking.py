"""Track bodies through a clip of NTU RGB+D and drop spurious detections.

A spurious detection, often called a ghost, is a body that the sensor reports where no person is:
furniture, a reflection, a shadow. Bystanders who are visible only briefly are dropped with them.
"""

from typing import NamedTuple

import numpy as np

from skeletons.clip import MAX_BODIES, DroppedTrack, InvalidClip

# How the bodies of a raw NTU file become at most two: track_bodies or sensor_order.
BODY_RULES = ("track", "sensor-order")
# A body that was lost and is found within this distance (metres, at the base of the spine) is the same
# one under a new ID. Two people stand farther apart, and a body out of sight hardly walks away.
REJOIN_DISTANCE = 0.5

# When a track is spurious. The spread rule and the 11 frames are those of CTR-GCN's preprocessing
# (data/ntu/get_raw_denoised_data.py), which PYSKL uses as well.
SPREAD_RATIO = 0.8
SPREAD_FRACTION = 0.69754
BRIEF_FRAMES = 11  # about a third of a second, shorter than any action ...
BRIEF_FRACTION_OF_SHORT = 0.5  # ... but not more than this fraction of the longest track
BRIEF_FRACTION = 0.25  # of the longest track, however long the clip is

# Reasons of a DroppedTrack
BRIEF, SPREAD, THIRD_BODY = "brief", "spread", "third body"


class Tracked(NamedTuple):
    """data float32 (T, C, V, M), and the bodies that are not in it."""

    data: np.ndarray
    dropped: list[DroppedTrack]


def track_bodies(frame_index: np.ndarray, body_ids: np.ndarray, joints: np.ndarray) -> Tracked:
    """Sort the bodies of a clip into at most two tracks, each in one slot for the whole clip.

    frame_index (B,), body_ids (B,), joints (B, V, 3) of all B bodies in all frames, in the file's order

    Spurious tracks are dropped. Of the others, the two that move most (variance of the joint positions
    over time) are kept, the most active first; the longest is kept even if it moves less, in the last
    slot. Frames without any body are left out.
    """
    if not joints[:, 0, 0].all():  # a body of zeros is absent, but few have this coordinate zero
        visible = joints.any((1, 2))
        frame_index, body_ids, joints = frame_index[visible], body_ids[visible], joints[visible]
        if not len(joints):
            raise InvalidClip("all bodies are zero")
    tracks = find_tracks(frame_index, body_ids, joints)
    dropped = []
    if len(tracks) > 1:
        reasons = spurious_reasons(tracks, frame_index, joints)
        dropped = [track for track in zip(tracks, reasons, strict=True) if track[1]]
        tracks = [rows for rows, reason in zip(tracks, reasons, strict=True) if not reason]
        tracks.sort(key=lambda rows: joints[rows].var(axis=0).sum(), reverse=True)
    if len(tracks) > MAX_BODIES:
        longest = max(range(len(tracks)), key=lambda i: len(tracks[i]))  # the most active of those
        if longest >= MAX_BODIES:
            tracks.insert(MAX_BODIES - 1, tracks.pop(longest))
        dropped += [(rows, THIRD_BODY) for rows in tracks[MAX_BODIES:]]
    return Tracked(
        tracks_to_array(frame_index, joints, tracks[:MAX_BODIES]),
        [dropped_track(rows, frame_index, body_ids, reason) for rows, reason in dropped],
    )


def find_tracks(frame_index: np.ndarray, body_ids: np.ndarray, joints: np.ndarray) -> list[np.ndarray]:
    """The rows (in B) of each body. Bodies are tracked by their ID, not by their position in the
    sensor's list; a body that appears where another was lost continues that one's track."""
    tracks = []
    for body_id in dict.fromkeys(body_ids.tolist()):
        rows = np.flatnonzero(body_ids == body_id)
        repeated = frame_index[rows[1:]] == frame_index[rows[:-1]]  # an ID twice in a frame: two bodies
        if repeated.any():
            tracks.append(rows[1:][repeated])
            rows = np.delete(rows, 1 + np.flatnonzero(repeated))
        lost = [
            (np.linalg.norm(joints[rows[0], 0] - joints[track[-1], 0]), i)
            for i, track in enumerate(tracks)
            if frame_index[track[-1]] < frame_index[rows[0]]
        ]
        distance, i = min(lost, default=(np.inf, None))
        if distance < REJOIN_DISTANCE:
            tracks[i] = np.concatenate((tracks[i], rows))
        else:
            tracks.append(rows)
    return tracks


def spurious_reasons(
    tracks: list[np.ndarray], frame_index: np.ndarray, joints: np.ndarray
) -> list[str]:
    """Why each track is spurious; "" if it is not.

    The main track never is. It is the longest one; of tracks of equal length, the one that is spread in
    the fewest frames.

    A track is brief if it has at most 11 frames, and at most half as many as the longest track, so that
    short clips keep their second person. It is also brief if it has less than a quarter as many frames
    as the longest track and is mostly visible at the same time as the main track, as a bystander is.

    A track is spread if it is wider than 0.8 of its height in at least 69.754 % of its frames, and is
    mostly visible at the same time as the main track. A body that is visible only while the main track
    is lost is more likely the same person under a new ID: the sensor often loses people who fall, and
    finds them again where they lie.
    """
    most_frames = max(map(len, tracks))
    max_brief = min(BRIEF_FRAMES, BRIEF_FRACTION_OF_SHORT * most_frames)
    spread = [spread_fraction(joints[rows]) if len(rows) > max_brief else 0.0 for rows in tracks]
    main = max(range(len(tracks)), key=lambda i: (len(tracks[i]), -spread[i]))
    main_visible = np.zeros(frame_index[-1] + 1, bool)
    main_visible[frame_index[tracks[main]]] = True

    def reason(rows: np.ndarray, spread: float) -> str:
        if len(rows) <= max_brief:
            return BRIEF
        brief = len(rows) < BRIEF_FRACTION * most_frames
        if not brief and spread < SPREAD_FRACTION:
            return ""
        if np.count_nonzero(main_visible[frame_index[rows]]) <= len(rows) / 2:
            return ""
        return BRIEF if brief else SPREAD

    reasons = [reason(*track) for track in zip(tracks, spread, strict=True)]
    reasons[main] = ""
    return reasons


def spread_fraction(body: np.ndarray) -> float:
    """The fraction of a track's frames (T, V, 3) in which it is wider than 0.8 of its height."""
    x_and_y = body.T[:2].copy()  # (2, V, T); numpy is fast along contiguous frames
    width, height = x_and_y.max(axis=1) - x_and_y.min(axis=1)
    return np.count_nonzero(width > SPREAD_RATIO * height) / len(body)


def dropped_track(
    rows: np.ndarray, frame_index: np.ndarray, body_ids: np.ndarray, reason: str
) -> DroppedTrack:
    first, last = (int(frame_index[row]) + 1 for row in (rows[0], rows[-1]))
    return DroppedTrack(int(body_ids[rows[0]]), first, last, len(rows), reason)


def sensor_order(frame_index: np.ndarray, body_ids: np.ndarray, joints: np.ndarray) -> Tracked:
    """The first two bodies of each frame in the sensor's own order. Arguments as for track_bodies."""
    position = np.arange(len(frame_index)) - np.searchsorted(frame_index, frame_index)
    slots = [np.flatnonzero(position == slot) for slot in range(MAX_BODIES)]
    others = np.flatnonzero(position >= MAX_BODIES)
    dropped = [
        dropped_track(others[body_ids[others] == body_id], frame_index, body_ids, THIRD_BODY)
        for body_id in dict.fromkeys(body_ids[others].tolist())
    ]
    return Tracked(tracks_to_array(frame_index, joints, slots), dropped)


def tracks_to_array(
    frame_index: np.ndarray, joints: np.ndarray, tracks: list[np.ndarray]
) -> np.ndarray:
    """The rows (in B) of the body in each slot -> float32 (T, C, V, M), without the empty frames."""
    # Position of each row's frame among the frames that list a body.
    position = np.append(0, np.cumsum(frame_index[1:] != frame_index[:-1]))
    data = np.zeros((position[-1] + 1, 3, joints.shape[1], MAX_BODIES), np.float32)
    for slot, rows in enumerate(tracks):
        data[position[rows], :, :, slot] = joints[rows].swapaxes(1, 2)
    visible = data.any((1, 2, 3))
    if not visible.any():
        raise InvalidClip("all bodies are zero")
    return data if visible.all() else data[visible]
