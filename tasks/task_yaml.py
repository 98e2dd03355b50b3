"""The YAML of a task, read with errors that name file and field.

fields = Fields(path=path, where="", values=load_yaml(path))
fields.text("task")
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import yaml

from support.errors import TaskError
from support.parsing import parse_yaml
from tasks.columns import check_kind, needed_columns
from tasks.early_exit import Reads

if TYPE_CHECKING:
    _InC = yaml.SafeLoader
else:
    _InC = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # where PyYAML has it: six times as fast

_MOST_IN_C: Final = 16 << 10
"""Bytes of a file that is read in C, where deep nesting would end the process: so few can't nest so deep."""


class _Loader(yaml.SafeLoader):
    """Safe YAML, with lm-eval's `!function a.b` read as the text "a.b"."""


class _LoaderInC(_InC):
    """The same."""


def _construct_dotted_name(loader: yaml.SafeLoader, node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise yaml.constructor.ConstructorError(None, None, "!function needs a dotted name", node.start_mark)
    return str(loader.construct_scalar(node))


_Loader.add_constructor("!function", _construct_dotted_name)
_LoaderInC.add_constructor("!function", _construct_dotted_name)


def load_yaml(path: Path, including: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The mapping in `path`, includes resolved as by lm-eval: later ones win over earlier ones, own keys over all."""
    if path in including:
        raise TaskError(f"{path}: include: includes itself")
    try:
        data = path.read_bytes()
        config = parse_yaml(data, _LoaderInC if len(data) <= _MOST_IN_C else _Loader)
    except OSError as error:
        raise TaskError(f"{including[-1] if including else path}: can't read {path}: {error.strerror}") from None
    except ValueError as error:
        raise TaskError(f"{path}: not YAML: {error}") from None
    if not isinstance(config, dict):
        raise TaskError(f"{path}: must be a mapping, is {type(config).__name__}")
    included = config.pop("include", [])
    merged: dict[str, Any] = {}
    for name in included if isinstance(included, list) else [included]:
        if not isinstance(name, str):
            raise TaskError(f"{path}: include: must be a file name, is {name!r}")
        merged |= load_yaml((path.parent / name).resolve(), (*including, path))
    return merged | config


@dataclass(frozen=True, kw_only=True)
class Fields:
    """A mapping in a YAML, read with the errors that name where."""

    path: Path
    where: str
    """What its fields are called in errors, up to the field's own name."""
    values: Mapping[str, Any]

    @classmethod
    def of(cls, path: Path, name: str, value: object) -> "Fields":
        """The mapping of this name; TaskError where the value is none."""
        if not isinstance(value, dict):
            raise TaskError(f"{path}: {name}: must be a mapping, is {value!r}")
        return cls(path=path, where=f"{name}.", values=value)

    def error(self, name: str, what: str) -> TaskError:
        """An error that names file and field."""
        return TaskError(f"{self.path}: {self.where}{name}: {what}")

    def get(self, name: str) -> Any:
        """The value of a field that must be there."""
        if name not in self.values:
            raise self.error(name, "missing")
        return self.values[name]

    def text(self, name: str) -> str:
        """Text that is not empty."""
        value = self.get(name)
        if not isinstance(value, str) or not value.strip():
            raise self.error(name, f"must be text (in quotes, if it looks like a number), is {value!r}")
        return value.strip()

    def text_or_null(self, name: str) -> str | None:
        """Text, or None for null."""
        return None if self.get(name) is None else self.text(name)

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of names."""
        value = self.get(name)
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise self.error(name, f"must be a list of names, is {value!r}")
        return tuple(value)

    def count_or_null(self, name: str) -> int | None:
        """A number of rows, or None for null."""
        value = self.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise self.error(name, f"must be a number of rows or null, is {value!r}")
        return value

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self.get(name)
        if not isinstance(value, bool):
            raise self.error(name, f"must be true or false, is {value!r}")
        return value


_V = TypeVar("_V")


def read_part(metadata: Fields) -> Reads:
    """What of an answer decides: `{characters: 4}` or `{before: "."}`."""
    given = Fields.of(metadata.path, "metadata.reads", metadata.get("reads"))
    if set(given.values) == {"characters"}:
        return Reads(characters=given.count_or_null("characters"))
    if set(given.values) == {"before"}:
        return Reads(before=given.text("before"))
    raise metadata.error("reads", "must be {characters: N} or {before: TEXT}")


def read_columns_field(metadata: Fields) -> tuple[str, ...]:
    """The columns that a table must have, from a list of names or from names with what they hold."""
    columns = metadata.get("columns")
    if not isinstance(columns, dict):
        return metadata.texts("columns")
    for name, kind in columns.items():
        try:
            check_kind(kind)
        except (LookupError, AttributeError, TypeError) as error:
            raise metadata.error("columns", f"{name}: {error}") from None
    return needed_columns(columns)


def read_checked(
    read: Callable[[Mapping[str, Any], Collection[str]], dict[str, _V]], metadata: Fields, metrics: Collection[str]
) -> dict[str, _V]:
    """What a reader makes of the metadata; its ValueError, which begins with the key, as a TaskError."""
    try:
        return read(metadata.values, metrics)
    except ValueError as error:
        raise TaskError(f"{metadata.path}: {metadata.where}{error}") from None
