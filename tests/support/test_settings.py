"""Settings declared as dataclasses: what is read from them, and values given as text or as TOML has them."""

from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from support.errors import SettingError
from support.settings import made, settings_of


@dataclass(frozen=True, kw_only=True)
class Base:
    """Settings that others inherit."""

    timeout: float = 120.0
    """Seconds to wait
    for one reply."""


@dataclass(frozen=True, kw_only=True)
class Example(Base):
    """One field of each kind."""

    name: str
    """Must be given."""
    count: int | None = None
    form: Literal["a", "b"] = "a"
    on: bool = False
    folder: Path = Path("runs")
    names: tuple[str, ...] = ()
    """Several."""
    paths: dict[str, str] = field(default_factory=dict)


class Model(BaseModel):
    """A pydantic model declares settings, too."""

    rule: str = "authors"
    """Which answer is chosen."""


def test_name_type_default_and_docstring_of_each_field_are_read() -> None:
    found = {setting.name: setting for setting in settings_of(Example)}
    assert [*found] == ["timeout", "name", "count", "form", "on", "folder", "names", "paths"]
    assert found["timeout"].help == "Seconds to wait for one reply."
    assert (found["timeout"].type, found["timeout"].default) == (float, 120.0)
    assert found["name"].default is MISSING
    assert (found["count"].help, found["paths"].default) == ("", {})
    assert [(setting.name, setting.help) for setting in settings_of(Model)] == [("rule", "Which answer is chosen.")]


@pytest.mark.parametrize(
    ("name", "given", "value"),
    (
        ("count", "3", 3),
        ("count", None, None),
        ("timeout", "0.5", 0.5),
        ("timeout", 2, 2.0),
        ("form", "b", "b"),
        ("on", "Yes", True),
        ("on", False, False),
        ("folder", "x/y", Path("x/y")),
        ("names", "a,b", ("a", "b")),
        ("names", ["a"], ("a",)),
        ("paths", {"mme": "x"}, {"mme": "x"}),
    ),
)
def test_values_become_the_type_of_their_field(name: str, given: Any, value: Any) -> None:
    found = made(Example, {"name": "n", name: given}, "--set")
    assert getattr(found, name) == value
    assert type(getattr(found, name)) is type(value)


@pytest.mark.parametrize(
    ("given", "said"),
    (
        ({"name": "n", "cuont": 1}, r"--set: unknown setting 'cuont' \(did you mean 'count'\?\); known: timeout, name"),
        ({}, "--set: name: must be given"),
        ({"name": "n", "count": "three"}, "--set: count = 'three': must be a whole number"),
        ({"name": "n", "count": True}, "--set: count = True: must be a whole number"),
        ({"name": "n", "form": "c"}, "--set: form = 'c': must be one of a, b"),
        ({"name": "n", "on": "perhaps"}, "--set: on = 'perhaps': must be true or false"),
    ),
)
def test_a_value_that_cannot_be_is_named_with_where_it_was_given(given: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        made(Example, given, "--set")
