"""What installed packages add by entry points: found by name, and imported when it is used.

installed("harness.judges")                # {"mine": EntryPoint}; nothing is imported
load(point, "a Judge")                     # the object, or an InputError that names the entry point
"""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from support.errors import InputError, first_line


@cache
def installed(group: str) -> Mapping[str, EntryPoint]:
    """Name -> entry point of a group; InputError for a name that two packages give."""
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        if found.setdefault(point.name, point).value != point.value:
            values = f"{found[point.name].value} and {point.value}"
            raise InputError(f"entry point {point.name} of {group}: is there twice: {values}")
    return found


def load(point: EntryPoint) -> Any:
    """What an entry point names, imported; InputError."""
    try:
        return point.load()
    except Exception as error:
        raise InputError(f"{describe(point)}: {type(error).__name__}: {first_line(error)}") from error


def describe(point: EntryPoint) -> str:
    """An entry point in errors."""
    return f"entry point {point.name} of {point.group}: {point.value}"
