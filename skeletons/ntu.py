"""The raw format of NTU RGB+D: .skeleton files, Kinect v2, 25 joints.

A file is text:

    number of frames
    for each frame:   number of bodies
      for each body:  body ID and 9 other fields (clipped edges, states of the hands, ...)
                      number of joints, always 25
                      25 lines of 12 fields: x y z, 2 pixel positions, orientation, tracking state

x, y and z are metres in the camera's axes. A body keeps its ID as long as the sensor tracks it.
"""

from collections.abc import Callable

import numpy as np

from skeletons.clip import InvalidClip, ParsedFile, match_name, validate_coordinates
from skeletons.layout import KINECT_V2
from skeletons.ntu_fast import parse_regular
from skeletons.tracking import sensor_order, track_bodies

JOINTS = len(KINECT_V2.joints)
INFO_FIELDS, JOINT_FIELDS = 10, 12
# Lines end at a line feed. Every other byte up to the space separates fields.
SEPARATORS = bytes.maketrans(bytes(range(10)) + bytes(range(11, 32)), b" " * 31)
# Setup, camera, subject, repetition, action: a regular expression, and an example.
NTU_NAME = (r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})", "S001C001P001R001A001")


def parse_ntu_name(name: str) -> tuple[int, int, int]:
    """Name of a clip -> (label, subject, camera)."""
    _, camera, subject, _, action = match_name(*NTU_NAME, name)
    return action - 1, subject, camera


def parse_ntu(content: bytes, bodies: str) -> ParsedFile:
    """The bytes of a .skeleton file -> ParsedFile without label. `bodies` is one of BODY_RULES."""
    frame_index, body_ids, joints = parse_skeleton(content)
    validate_coordinates(joints, frame_index)
    arrange = track_bodies if bodies == "track" else sensor_order
    data, dropped = arrange(frame_index, body_ids, joints)
    return ParsedFile(None, data, dropped)


def parse_skeleton(content: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The bytes of a .skeleton file -> (frame_index (B,), body_ids (B,), joints (B, 25, 3) in float64)
    of all B bodies in all frames.

    Raises InvalidClip with the number of the line that is wrong.
    """
    frame_index, body_ids, joints = parse_fast(content) or parse_strict(content)
    if not len(frame_index):
        raise InvalidClip("no body in any frame")
    return frame_index, body_ids, joints


def parse_fast(content: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """As parse_strict, but None for a file that is not exactly as the sensor's software writes it."""
    if b"_" in content:  # int() and float() accept 1_000, which is not a number in this format
        return None
    return parse_regular(content, JOINTS, INFO_FIELDS, JOINT_FIELDS)


class LineReader:
    """Reads the fields of one line after the other and raises InvalidClip with the line's number."""

    def __init__(self, content: bytes) -> None:
        self.lines = content.translate(SEPARATORS).rstrip().split(b"\n") if content.strip() else []
        self.line_number = 0

    def error(self, reason: str) -> InvalidClip:
        return InvalidClip(reason, f"line {self.line_number}" if self.lines else "")

    def fields(self, expected: int) -> list[bytes]:
        """The fields of the next line, which has so many."""
        if self.line_number == len(self.lines):
            raise self.error("truncated" if self.lines else "empty")
        self.line_number += 1
        fields = self.lines[self.line_number - 1].split()
        if len(fields) != expected:
            raise self.error(f"{len(fields)} fields where {expected} belong")
        return fields

    def number(self, kind: Callable[[bytes], float], field: bytes) -> float:
        """A field as int or float."""
        try:
            if b"_" in field:
                raise ValueError
            return kind(field)
        except ValueError:
            text = field[:20].decode("ascii", "backslashreplace")
            raise self.error(f"'{text}' is not a number") from None

    def count(self) -> int:
        """The next line, which is a number of frames, bodies or joints."""
        count = self.number(int, self.fields(1)[0])
        if count < 0:
            raise self.error(f"'{count}' is not a count")
        return count


def parse_strict(content: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Parse a file line by line. Arguments, result and errors as for parse_skeleton."""
    reader = LineReader(content)
    frame_index, body_ids, joints = [], [], []
    for frame in range(reader.count()):
        for _ in range(reader.count()):
            body_id = reader.number(int, reader.fields(INFO_FIELDS)[0])
            if reader.count() != JOINTS:
                raise reader.error(f"not a body of {JOINTS} joints")
            for _ in range(JOINTS):
                joints.append([reader.number(float, x) for x in reader.fields(JOINT_FIELDS)[:3]])
            frame_index.append(frame)
            body_ids.append(body_id)
    if b"".join(reader.lines[reader.line_number :]).strip():
        reader.line_number += 1
        raise reader.error("more lines than the number of frames says")
    try:
        body_ids = np.array(body_ids, np.int64)
    except OverflowError:
        raise InvalidClip("a body ID of more than 18 digits") from None
    return np.array(frame_index, int), body_ids, np.array(joints).reshape(-1, JOINTS, 3)
