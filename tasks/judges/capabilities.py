"""What a model behind a server of chat completions takes of a request, by its family.

    takes = capabilities_of("openai/gpt-5-mini")            # also by the server: host="api.anthropic.com", kind="vllm"
    takes.family, takes.limit                               # "openai-reasoning", "max_completion_tokens"
    takes.setting("temperature", 0.0)                       # False: refused, or silently ignored
    capabilities_of("my-judge").setting("detail", "low")    # None: not known, the server decides

The table is `model_families.toml`, which says what its fields mean; families of the file named by
HARNESS_MODEL_FAMILIES go before it.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from support.errors import SettingError, did_you_mean
from support.parsing import parse_toml

TABLE: Final = Path(__file__).with_name("model_families.toml")
OVERRIDE: Final = "HARNESS_MODEL_FAMILIES"
UNKNOWN: Final = "unknown"
"""The family of every model that is in no other, and in tables: not known."""
ANY: Final = (float("-inf"), float("inf"))
"""A temperature of any value."""
LIMITS: Final = ("max_tokens", "max_completion_tokens")
"""The two names of the limit of a reply."""


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What the models of a family take; None: not known, the server decides."""

    family: str
    temperature: tuple[float, float] | None
    """Least and most; None: the server's own alone, and none is sent."""
    top_p: bool | None
    stop: bool | None
    seed: bool | None
    detail: bool | None
    """How closely an image is looked at."""
    logprobs: bool | None
    batch: bool | None
    """OpenAI's Batch API."""
    reasoning_effort: bool | tuple[str, ...] | None
    """True: any value."""
    more: bool | tuple[str, ...] | None
    """Names of other parameters; True: any."""
    limit: str
    """The name of the limit of a reply."""
    needs_limit: bool
    """Whether a request without one is refused."""
    system: str
    """The role of a system message; "none": it is put before the question."""
    structured: str | None
    """"json_schema", "json_object" or "none"."""
    thinks: bool
    """Whether thoughts count as tokens of a reply."""
    efforts: tuple[tuple[str, "Capabilities"], ...] = ()
    """What holds instead with a `reasoning_effort`."""

    def at(self, effort: str | None) -> "Capabilities":
        """What holds with this `reasoning_effort`."""
        return dict(self.efforts).get(effort or "", self)

    def setting(self, name: str, value: Any = None) -> bool | None:
        """Whether a parameter of a request acts with this value, by its name in the request (`detail`: of an image);
        None where only the server knows."""
        if name == "temperature":
            return self.temperature is not None and self.temperature[0] <= value <= self.temperature[1]
        if name in LIMITS or name in _ALWAYS:
            return True
        if name == "response_format":
            return None if self.structured is None else self.structured != "none"
        if name == "top_logprobs":
            return self.logprobs
        if name in _YES_OR_NO:
            taken: bool | None = getattr(self, name)
            return taken
        known, asked = (self.reasoning_effort, value) if name == "reasoning_effort" else (self.more, name)
        return asked in known if isinstance(known, tuple) else known


_ALWAYS: Final = ("model", "messages", "stream")
_YES_OR_NO: Final = ("top_p", "stop", "seed", "detail", "logprobs", "batch")


def capabilities_of(model: str, host: str = "", kind: str = "") -> Capabilities:
    """What a model takes, by its name, its server's HOST or HOST:PORT, and what the server calls itself."""
    families = _families()
    name = model.lower().rpartition("/")[2]
    found = next((each for each in families.values() if each.fits(name, host.lower(), kind.lower())), None)
    return (found or families[UNKNOWN]).of_model(name, families)


def check_taken(model: str, takes: Capabilities, asked: Mapping[str, tuple[str, Any]]) -> None:
    """SettingError for what was asked for (how: parameter, value) and is known not to act."""
    for how, (name, value) in asked.items():
        if takes.setting(name, value) is False:
            known = takes.reasoning_effort if name == "reasoning_effort" else None
            only = f"takes {', '.join(known)} alone" if isinstance(known, tuple) else "refuses or ignores it"
            raise SettingError(f"{how}: would not act: {model} ({takes.family}) {only}; see harness judge families")


def host_of(url: str) -> str:
    """HOST:PORT of an address, HOST where it has the usual port."""
    parts = urlsplit(url)
    return f"{parts.hostname or ''}:{parts.port}" if parts.port else parts.hostname or ""


@dataclass(frozen=True, kw_only=True)
class _Family:
    """One of a table: which models are in it, and what it says of them."""

    name: str
    names: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()
    like: str = UNKNOWN
    values: Mapping[str, Any]
    models: Mapping[str, Mapping[str, Any]]
    at_effort: Mapping[str, Mapping[str, Any]]

    def fits(self, name: str, host: str, kind: str) -> bool:
        """Whether a model is in it: by its name, where it has names, and by its server, where it has any."""
        hosts = (host, host.partition(":")[0])
        at_server = kind in self.servers or any(fnmatchcase(one, each) for each in self.hosts for one in hosts)
        of_name = any(fnmatchcase(name, each) for each in self.names)
        named, placed = bool(self.names), bool(self.hosts or self.servers)
        return (named or placed) and (of_name or not named) and (at_server or not placed)

    def of_model(self, name: str, families: Mapping[str, "_Family"]) -> Capabilities:
        """What holds for a model of this name."""
        values, efforts = self._values(name, families)
        plain = Capabilities(family=self.name, **values)
        at = tuple((effort, replace(plain, **more)) for effort, more in efforts.items())
        return replace(plain, efforts=at)

    def _values(self, name: str, families: Mapping[str, "_Family"]) -> tuple[dict[str, Any], dict[str, Any]]:
        other = {} if self.name == UNKNOWN else families[self.like]._values(name, families)
        values, efforts = other if isinstance(other, tuple) else ({}, {})
        of_model = next((own for pattern, own in self.models.items() if fnmatchcase(name, pattern)), {})
        return {**values, **self.values, **of_model}, {**efforts, **self.at_effort}


def _families() -> Mapping[str, _Family]:
    own = os.environ.get(OVERRIDE)
    return _merge(TABLE, Path(own) if own else None)


@cache
def _merge(path: Path, first: Path | None) -> Mapping[str, _Family]:
    shipped = {family.name: family for family in _read(path, ())}
    own = {family.name: family for family in _read(first, tuple(shipped))} if first is not None else {}
    families = own | {name: family for name, family in shipped.items() if name not in own}
    for family in own.values():
        _check_like(family, families, f"{first}: families.{family.name}")
    return families


def _check_like(family: _Family, families: Mapping[str, _Family], where: str) -> None:
    seen = [family.name]
    while seen[-1] != UNKNOWN:
        like = families[seen[-1]].like
        if like not in families:
            raise SettingError(f"{where}: like = {like!r}: no such family{did_you_mean(like, families)}")
        if like in seen:
            raise SettingError(f"{where}: like = {family.like!r}: leads back to {family.name!r}")
        seen.append(like)


def _read(path: Path, shipped: tuple[str, ...]) -> Iterator[_Family]:
    try:
        table = parse_toml(path.read_bytes())
    except (OSError, ValueError) as error:
        raise SettingError(f"{path}: no table of model families: {error}") from None
    families = table.get("families")
    if not isinstance(families, dict) or set(table) != {"families"}:
        raise SettingError(f'{path}: no table of model families: must have entries [families."NAME"] and nothing else')
    for name, entry in families.items():
        where = f"{path}: families.{name}"
        entry = dict(_check_table(entry, where))
        matched = {field: _check_names(entry.pop(field, []), f"{where}.{field}") for field in _MATCHED}
        if not any(matched.values()) and name != UNKNOWN:
            raise SettingError(f"{where}: must say by names, hosts or servers which models are in it")
        like = entry.pop("like", UNKNOWN)
        if not isinstance(like, str):
            raise SettingError(f"{where}.like: must be a family's name, is {like!r}")
        models = _check_table(entry.pop("models", {}), f"{where}.models")
        efforts = _check_table(entry.pop("at_effort", {}), f"{where}.at_effort")
        values = _read_values(entry, where)
        if name == UNKNOWN and (missing := [each for each in _READERS if each not in values]):
            raise SettingError(f"{where}: must have {', '.join(missing)}")
        yield _Family(
            name=name,
            like=like,
            values=values,
            models={each: _read_values(own, f"{where}.models.{each}") for each, own in models.items()},
            at_effort={each: _read_values(own, f"{where}.at_effort.{each}") for each, own in efforts.items()},
            **matched,
        )


def _check_table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise SettingError(f"{where}: must be a table, is {value!r}")
    return value


def _check_names(value: Any, where: str) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(each, str) and each for each in values):
        raise SettingError(f"{where}: must be a list of texts, is {value!r}")
    return tuple(each.lower() for each in values)


def _read_values(entry: Any, where: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field, value in _check_table(entry, where).items():
        if field not in _READERS:
            raise SettingError(f"{where}: unknown field {field!r}{did_you_mean(field, [*_READERS, *_TABLES])}")
        found[field] = _READERS[field](value, f"{where}.{field}")
    return found


def _read_temperature(value: Any, where: str) -> tuple[float, float] | None:
    if value in ("default", "none"):
        return None
    if value == "any":
        return ANY
    ends = value if isinstance(value, list) else []
    if len(ends) != 2 or any(isinstance(end, bool) or not isinstance(end, int | float) for end in ends):
        raise SettingError(f'{where}: must be "any", "default", "none" or [least, most], is {value!r}')
    if not ends[0] <= ends[1]:
        raise SettingError(f"{where}: the least must not be above the most, is {value!r}")
    return float(ends[0]), float(ends[1])


def _read_flag(value: Any, where: str) -> bool | None:
    if value == UNKNOWN or isinstance(value, bool):
        return None if value == UNKNOWN else bool(value)
    raise SettingError(f'{where}: must be true, false or "unknown", is {value!r}')


def _read_yes_or_no(value: Any, where: str) -> bool:
    if isinstance(value, bool):
        return value
    raise SettingError(f"{where}: must be true or false, is {value!r}")


def _read_choices(value: Any, where: str) -> bool | tuple[str, ...] | None:
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return tuple(value)
    if value == UNKNOWN or isinstance(value, bool):
        return _read_flag(value, where)
    raise SettingError(f'{where}: must be true, false, "unknown" or a list of texts, is {value!r}')


def _read_limit(value: Any, where: str) -> str:
    return _read_one_of(value, LIMITS, where)


def _read_system(value: Any, where: str) -> str:
    return _read_one_of(value, ("system", "developer", "none"), where)


def _read_structured(value: Any, where: str) -> str | None:
    found = _read_one_of(value, ("json_schema", "json_object", "none", UNKNOWN), where)
    return None if found == UNKNOWN else found


def _read_one_of(value: Any, known: tuple[str, ...], where: str) -> str:
    if not isinstance(value, str) or value not in known:
        raise SettingError(f"{where}: must be one of {', '.join(known)}, is {value!r}")
    return value


_MATCHED: Final = ("names", "hosts", "servers")
_TABLES: Final = (*_MATCHED, "like", "models", "at_effort")
_READERS: Final[Mapping[str, Any]] = {
    "temperature": _read_temperature,
    **dict.fromkeys(_YES_OR_NO, _read_flag),
    "reasoning_effort": _read_choices,
    "more": _read_choices,
    "limit": _read_limit,
    "needs_limit": _read_yes_or_no,
    "system": _read_system,
    "structured": _read_structured,
    "thinks": _read_yes_or_no,
}
assert {field.name for field in fields(Capabilities)} == {*_READERS, "family", "efforts"}
