"""A fast parser of .skeleton files, with the same numbers as ntu.parse_strict; nobody has to read it.

What it gains is measured by benchmarks/convert.py, and tests/test_ntu.py compares the two.

A clip of 90 frames with one body holds 27,000 numbers, of which 6,750 are coordinates. Splitting such a
file into fields and calling float() takes most of the time of a conversion. So the ends of all fields
are found in one pass over the bytes, and the coordinates are converted by 64-bit integer arithmetic.
"""

import numpy as np

WORD = np.uint64
POWERS_OF_TEN = 10.0 ** np.arange(10)


def parse_regular(
    content: bytes, num_joints: int, info_fields: int, joint_fields: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Parse a file written exactly as the sensor's software writes it: one separator between fields,
    CRLF or LF between lines. Returns what ntu.parse_strict returns, or None for any other file.

    Which field ends belong to which fields follows from the numbers of bodies alone. It is assumed
    first and checked afterwards, for all lines at once.
    """
    text = np.frombuffer(content, np.uint8)
    ends = np.flatnonzero(text <= ord(" "))  # index of the byte after each field
    newline = 2 if b"\r\n" in content[:16] else 1  # entries of `ends` at the end of a line
    # Steps along `ends`, from the end of a body's first field to ...
    to_count = info_fields - 1 + newline  # ... its number of joints,
    to_joint = to_count + newline + (joint_fields - 1 + newline) * np.arange(num_joints + 1)  # ... each
    to_line_end = np.append(to_count, to_joint) - 1  # joint's x and the first field after the body
    per_body = int(to_joint[-1])

    end, after = ends.item, newline
    starts, counts = [], []  # of each frame: index of its number of bodies in `ends`, and that number
    try:
        for _ in range(int(content[: end(0)])):
            count = content[end(after) - 1] - ord("0")  # that it has one digit is checked below
            starts.append(after)
            counts.append(count)
            after += newline + count * per_body
            if not 0 <= count <= 9:
                return None
        if after != len(ends) or end(-1) != len(text) - 1:
            return None
        starts, frame_index = np.array(starts), np.repeat(np.arange(len(counts)), counts)
        position = np.arange(len(frame_index)) - np.repeat(np.cumsum(counts) - counts, counts)
        bodies = starts[frame_index] + newline + position * per_body  # index in `ends` of the body ID
        id_fields = zip((ends[bodies - 1] + 1).tolist(), ends[bodies].tolist(), strict=True)
        id_texts = [content[start:stop] for start, stop in id_fields]
        numbers = {id_text: int(id_text) for id_text in set(id_texts)}
        body_ids = np.array([numbers[id_text] for id_text in id_texts], np.int64)
    except (IndexError, ValueError, OverflowError):
        return None

    line_ends = (bodies[:, None] + to_line_end).ravel()
    line_ends = np.concatenate(([newline - 1], starts + newline - 1, line_ends))
    adjacent = np.diff(ends) == 1
    joint_counts = ends[bodies + to_count]
    regular = (
        # The numbers of bodies have one digit.
        (ends[starts] - ends[starts - 1] == 2).all()
        # Lines end where they should and nowhere else, and no other field is empty.
        and (text[ends[line_ends]] == ord("\n")).all()
        and np.count_nonzero(text.take(ends) == ord("\n")) == len(line_ends)
        and (newline == 1 or adjacent[line_ends - 1].all())
        and np.count_nonzero(adjacent) == len(line_ends) * (newline - 1)
        # The numbers of joints are right (two digits, "25").
        and (joint_counts - ends[bodies + to_count - 1] == 3).all()
        and (text[joint_counts - 2] == ord("0") + num_joints // 10).all()
        and (text[joint_counts - 1] == ord("0") + num_joints % 10).all()
    )
    if not regular:
        return None
    xyz = bodies[:, None] + (to_joint[:-1, None] + np.arange(3)).ravel()
    try:
        joints = parse_decimals(content, text, (ends[xyz - 1] + 1).ravel(), ends[xyz].ravel())
    except ValueError:
        return None
    return frame_index, body_ids, joints.reshape(-1, num_joints, 3)


def parse_decimals(
    content: bytes, text: np.ndarray, starts: np.ndarray, ends: np.ndarray
) -> np.ndarray:
    """The decimal numbers content[starts:ends] -> float64. `text` is `content` as an array.

    A coordinate is a digit, a point and 1 to 9 decimals, with or without a minus sign. The last 8 bytes
    of each number are read as one 64-bit word. Its digits are combined in three steps, for all numbers
    at once: pairs of digits to 0-99, pairs of those to 0-9999, and those to the whole. Then
    (digit * 10^n + decimals) / 10^n has exact operands and is rounded once, as float() does. Numbers in
    any other form are given to float(), which raises ValueError if they are not numbers.
    """
    negative = text[starts] == ord("-")
    digit = starts + negative
    decimals = ends - digit - 2
    whole = text[digit] - np.uint8(ord("0"))
    other = (text[digit + 1] != ord(".")) | (whole > 9) | (decimals < 1) | (decimals > 9)
    # Of 9 decimals the word holds 8, so the first must be a zero: 0.012345678.
    nine = np.flatnonzero(decimals == 9)
    other[nine] |= text[ends[nine] - 9] != ord("0")
    shift = (8 * np.maximum(8 - decimals, 0)).astype(WORD)
    words = np.ndarray(len(content) - 7, "V8", content, strides=(1,))  # one word from every byte on
    words = words[ends - 8].view("<u8") ^ WORD(0x3030303030303030)  # characters to digits
    words = words >> shift << shift  # only the decimals
    # Any byte above 9 sets its highest bit.
    other |= ((words + WORD(0x7676767676767676) | words) & WORD(0x8080808080808080)) != 0
    words = words * WORD(1 + (10 << 8)) >> WORD(8) & WORD(0x00FF00FF00FF00FF)
    words = words * WORD(1 + (100 << 16)) >> WORD(16) & WORD(0x0000FFFF0000FFFF)
    words = words * WORD(1 + (10000 << 32)) >> WORD(32)
    power = POWERS_OF_TEN.take(decimals, mode="clip")
    numbers = (whole * power + words) / power
    numbers = np.where(negative, -numbers, numbers)
    other = np.flatnonzero(other)
    fields = zip(starts[other].tolist(), ends[other].tolist(), strict=True)
    numbers[other] = [float(content[start:end]) for start, end in fields]
    return numbers
