"""Tools for nested settings dataclasses (the settings are in train.py, model.py, extensions.py)."""

from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

Settings = TypeVar("Settings")


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
