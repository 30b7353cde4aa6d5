"""Tools for nested settings dataclasses (the settings are in train.py, model.py, extensions.py)."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from skeletons.options import check_flag, check_numbers, check_whole, require

Settings = TypeVar("Settings")

# The smallest value of each whole number.
WHOLE_NUMBERS = {
    "epochs": 1, "batch_size": 1, "hidden_size": 1, "part_hidden_size": 1, "num_layers": 1,
    "spatial_window": 1, "spatial_stride": 0, "window_layers": 0, "view_adaptation": 0,
    "warmup_epochs": 0, "num_workers": 0, "validation_camera": 0, "seed": 0,
    "split_seed": 0, "window_size": 0,
}  # fmt: skip
# What is true of each other number, and the same in words. (Feeder checks those of augmentation.)
SHARE = (lambda x: 0 <= x < 1, "a number from 0 to less than 1")
NOT_NEGATIVE = (lambda x: x >= 0, "a number from 0")
POSITIVE = (lambda x: x > 0, "a number above 0")
NUMBERS: dict[str, tuple[Callable[[float], bool], str]] = {
    "dropout": SHARE, "input_dropout": SHARE, "label_smoothing": SHARE, "validation_ratio": SHARE,
    "momentum": SHARE,
    "temporal_weight": (lambda x: 0 <= x <= 1, "a number from 0 to 1"),
    "learning_rate": POSITIVE, "gamma": POSITIVE,
    "weight_decay": NOT_NEGATIVE, "max_grad_norm": NOT_NEGATIVE,
}  # fmt: skip


def check_values(settings: Any) -> None:
    """ValueError for a value that is not allowed, whatever the other settings are."""
    values = flat(settings)
    for name, default in flat(type(settings)()).items():
        if isinstance(default, bool):
            check_flag(name, values[name])
        elif isinstance(default, str):
            require(isinstance(values[name], str), name, values[name], "text")
        elif isinstance(default, tuple):
            require(isinstance(values[name], tuple), name, values[name], "a tuple")
    for name, least in WHOLE_NUMBERS.items():
        check_whole(name, values[name], least)
    for name, (valid, allowed) in NUMBERS.items():
        check_numbers(name, values[name], (1,), valid, allowed)
    for epoch in values["milestones"]:
        check_whole("milestones", epoch, 1)


def flat(settings: Any) -> dict[str, Any]:
    """The fields of all groups, by name."""
    values = {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        values |= flat(value) if is_dataclass(value) else {field.name: value}
    return values


def with_fields(settings: Settings, **values: Any) -> Settings:
    """The same settings with other values of some fields, in whatever group they are.

    Raises ValueError for an unknown field.
    """
    known = flat(settings)
    if unknown := values.keys() - known.keys():
        raise ValueError(
            f"no such setting: {', '.join(sorted(unknown))}\nchoose from {', '.join(known)}"
        )
    return _replaced(settings, values)


def _replaced(settings: Any, values: dict[str, Any]) -> Any:
    changes = {name: values[name] for name in values if hasattr(settings, name)}
    for field in fields(settings):
        group = getattr(settings, field.name)
        if is_dataclass(group):
            changes[field.name] = _replaced(group, values)
    return replace(settings, **changes)


def from_nested(nested: dict[str, Any]) -> dict[str, Any]:
    """What `asdict` returned, or JSON of it -> fields by name; lists become tuples."""
    values = {}
    for name, value in nested.items():
        values |= from_nested(value) if isinstance(value, dict) else {name: value}
    return {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
