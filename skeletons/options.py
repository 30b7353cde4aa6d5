"""Helpers that check the values of options.

Each raises a ValueError that names the option, its value and what is allowed.
"""

import math
from collections.abc import Callable, Sequence
from numbers import Integral, Real

import numpy as np


def require(valid: bool, name: str, value: object, allowed: str) -> None:
    """ValueError unless an option is valid."""
    if not valid:
        raise ValueError(f"{name}={value!r} is not allowed\n{name} must be {allowed}")


def check_flag(name: str, value: object) -> bool:
    """The value of an option that is True or False."""
    require(isinstance(value, (bool, np.bool_)), name, value, "True or False")
    return bool(value)


def check_whole(name: str, value: object, least: float = -math.inf) -> int:
    """The value of an option that is a whole number, at least `least`."""
    valid = isinstance(value, Integral) and not isinstance(value, bool) and value >= least
    require(valid, name, value, "a whole number" if least < 0 else f"a whole number from {least}")
    return int(value)


def check_numbers(
    name: str, value: object, sizes: Sequence[int], valid: Callable[..., bool], allowed: str
) -> float | tuple[float, ...]:
    """The value of an option that is one finite number (a float), or several (a tuple of floats).

    sizes    how many numbers it may have
    valid    function of the numbers: whether they are allowed
    allowed  the same in words
    """
    values = value if isinstance(value, (tuple, list)) else (value,)
    real = all(isinstance(v, Real) and not isinstance(v, bool) and math.isfinite(v) for v in values)
    values = tuple(map(float, values)) if real else ()
    require(len(values) in sizes and valid(*values), name, value, allowed)
    return values if len(values) > 1 else values[0]
