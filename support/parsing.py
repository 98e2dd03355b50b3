"""JSON, TOML and YAML that anyone may have written: whatever is wrong with a text is a ValueError of one line.

The libraries raise a RecursionError at nesting, and errors of several lines.
"""

import json
import tomllib
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from support.errors import one_line

MAX_YAML: Final = 1_000_000
"""Values in one YAML file."""


def parse_json(text: str | bytes, **hooks: Any) -> Any:
    """What a JSON text holds, read with json's hooks; ValueError."""
    return _parse(partial(json.loads, **hooks), text)


def parse_object(text: str | bytes) -> dict[str, Any]:
    """The object that a JSON text holds; ValueError."""
    found = parse_json(text)
    if not isinstance(found, dict):
        raise ValueError(f"holds no JSON object, but a {type(found).__name__}")
    return found


def parse_toml(data: bytes) -> dict[str, Any]:
    """The tables of a TOML file in UTF-8, with a byte order mark or not; ValueError, also for more than 64 bits."""
    found = dict(_parse(lambda text: tomllib.loads(text.decode("utf-8-sig")), data))
    _parse(_check_integers, found)
    return found


def _check_integers(value: Any) -> None:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            _check_integers(one)
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("an integer has more than 64 bits")


def parse_yaml(data: bytes, loader: Any) -> Any:
    """What a YAML file in UTF-8 holds, read by a loader of PyYAML; ValueError. Aliases may not make much of little."""
    import yaml

    found = _parse(lambda text: yaml.load(text.decode("utf-8-sig"), loader), data)
    if _parse(lambda values: _measure(values, {}), found) > MAX_YAML:
        raise ValueError(f"its aliases stand for more than {MAX_YAML:,} values")
    _parse(_check_integers, found)
    return found


def _measure(value: Any, known: dict[int, int]) -> int:
    """How many values there are, each counted as often as it stands in another."""
    if not isinstance(value, (dict, list)):
        return 1
    if (count := known.get(id(value))) == 0:
        raise ValueError("an alias stands for what it is in")
    if count is None:
        known[id(value)] = 0
        inner = value.values() if isinstance(value, dict) else value
        count = known[id(value)] = 1 + sum(_measure(one, known) for one in inner)
    return count


def _parse(parser: Callable[[Any], Any], text: Any) -> Any:
    try:
        return parser(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
    except Exception as error:  # yaml's derive from Exception, and its constructors raise what they come upon
        raise ValueError(one_line(error)) from None
