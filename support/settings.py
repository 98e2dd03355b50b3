"""Settings as dataclasses: one declaration gives command-line options, configuration files, environment variables,
the arguments of the Python functions and what an entry records.

    @dataclass(frozen=True, kw_only=True)
    class JudgeSettings:
        '''How the judge is asked.'''

        timeout: float = 120.0
        '''Seconds to wait for one reply.'''

    for setting in settings_of(JudgeSettings): setting.name, setting.type, setting.default, setting.help
    made(JudgeSettings, {"timeout": "30"}, "--judge-set")      # values as text or as TOML gives them

The docstring under a field is its help text, on the command line and in the documentation.
"""

import ast
import dataclasses
import functools
import inspect
import textwrap
import types
import typing
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from support.errors import SettingError, did_you_mean

T = TypeVar("T")

LARGEST: Final = 2**63 - 1
"""Of integers in TOML, and of those that other libraries take."""
LARGEST_SEED: Final = 2**32 - 1
"""Of numpy's generators."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One field of a settings class."""

    name: str
    type: Any
    default: Any
    """`dataclasses.MISSING` if it has to be given."""
    help: str


def settings_of(kind: type[Any]) -> tuple[Setting, ...]:
    """The settings that a dataclass or a pydantic model declares, in order."""
    texts = _docstrings_of_fields(typing.cast(Hashable, kind))  # mypy takes no type[Any] for hashable
    types_ = typing.get_type_hints(kind)
    if dataclasses.is_dataclass(kind):
        defaults = {field.name: _default_of(field) for field in dataclasses.fields(kind)}
    else:
        defaults = {
            name: dataclasses.MISSING if field.is_required() else field.get_default(call_default_factory=True)
            for name, field in kind.model_fields.items()
        }
    return tuple(
        Setting(name=name, type=types_[name], default=default, help=texts.get(name, ""))
        for name, default in defaults.items()
    )


def made(kind: type[T], given: Mapping[str, Any], where: str) -> T:
    """The settings with these values; `where` they were given stands in the SettingError for what can't be."""
    known = {setting.name: setting for setting in settings_of(kind)}
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            raise SettingError(f"{where}: unknown setting {name!r}{did_you_mean(name, known)}")
        values[name] = converted(value, known[name].type, f"{where}: {name}")
    missing = [name for name, setting in known.items() if setting.default is dataclasses.MISSING and name not in values]
    if missing:
        raise SettingError(f"{where}: {', '.join(missing)}: must be given")
    return kind(**values)


def converted(value: Any, kind: Any, what: str) -> Any:
    """`value`, a text or a TOML value, as a field's type; SettingError."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        try:
            return _converted_to_first(value, [each for each in arguments if each is not type(None)], what)
        except SettingError:
            if type(None) in arguments and isinstance(value, str) and value.lower() == "none":
                return None
            raise
    if origin is Literal:
        if value not in arguments:
            raise SettingError(f"{what} = {value!r}: must be one of {', '.join(map(str, arguments))}")
        return value
    if origin in (tuple, list):
        parts = value.split(",") if isinstance(value, str) else list(value)
        return origin(converted(part, arguments[0], what) for part in parts)
    if origin in (dict, Mapping) or kind is Any:
        return value
    if kind is bool:
        known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if isinstance(value, str) and value.lower() in known:
            return known[value.lower()]
        if isinstance(value, bool):
            return value
        raise SettingError(f"{what} = {value!r}: must be true or false")
    if kind is Path:
        return Path(value)
    try:
        if isinstance(value, bool):
            raise ValueError
        made = kind(value)
    except (TypeError, ValueError, OverflowError):
        raise SettingError(f"{what} = {value!r}: must be {_NAMES.get(kind, kind.__name__)}") from None
    check_integer(what, made)
    return made


def check_integer(what: str, value: object, least: int = -LARGEST, most: int = LARGEST) -> None:
    """SettingError for an integer out of this range; by default, for one that no machine counts to."""
    if isinstance(value, int) and not least <= value <= most:
        if value < least:
            raise SettingError(f"{what}: must be at least {least}")
        raise SettingError(f"{what}: must be at most {most}")


def _converted_to_first(value: Any, kinds: list[Any], what: str) -> Any:
    """`value` as the first of these types that can hold it."""
    for kind in kinds[:-1]:
        try:
            return converted(value, kind, what)
        except SettingError:
            pass
    return converted(value, kinds[-1], what)


_NAMES = {int: "a whole number", float: "a number", str: "a text"}


def _default_of(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


@functools.cache
def _docstrings_of_fields(kind: type) -> Mapping[str, str]:
    """The string under each field, read from the source of the class and of those it inherits from."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        if not (dataclasses.is_dataclass(each) or hasattr(each, "model_fields")) or each.__name__ == "BaseModel":
            continue
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        assert isinstance(node, ast.ClassDef)
        for field, text in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
            ):
                found[field.target.id] = inspect.cleandoc(str(text.value.value)).replace("\n", " ")
    return found
