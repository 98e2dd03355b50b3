"""Settings dataclasses as command-line options: each setting is declared once, as a field with a docstring under it.

    JUDGE = OptionGroup(JudgeOptions, panel="Judge", table="judge", prefix="judge")

    @with_settings(judge=JUDGE)
    def score_command(task: ..., *, judge: JudgeOptions) -> int: ...

The field `url` becomes `--judge-url` with the field's docstring as its help; HARNESS_JUDGE_URL in the environment and
`url = ...` under [judge] in a `--config` file set it too. The command line is stronger than the environment, that than
the file, that than the default.
"""

import dataclasses
import functools
import inspect
import os
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from support.errors import SettingError, did_you_mean
from support.parsing import parse_toml
from support.settings import Setting, settings_of

CONFIG_COMMANDS: Final = ("eval", "train-then-eval", "check")
"""The commands that read a `--config` file; a table of one of these names holds that command's own options."""

GROUP_TABLES: Final = ("judge", "engine", "data", "server")
"""The tables of settings that several commands share."""

TAKEN: Final = ("data",)
"""Options that no variable sets: HARNESS_DATA is the folder of all benchmarks' data."""

NOT_IN_FILES: Final = ("context", "as_json", "dry_run")
"""Parameters of commands that say what one call prints, not what is done."""

_COLLECTIONS: Final = {tuple, list, dict, Mapping, Sequence}


@dataclass(frozen=True, kw_only=True)
class OptionGroup:
    """A settings class whose fields are options."""

    kind: type[Any]
    panel: str = ""
    """The heading of these options in `--help`."""
    table: str = ""
    """The table of a `--config` file that holds them; empty: they stand beside the command's own options."""
    prefix: str = ""
    """What option names begin with."""
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Field -> name of its option (with underscores), where that is not PREFIX_FIELD."""
    earlier: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Option -> what it was called before: that name holds in files and in the environment, too."""
    make: Callable[[Mapping[str, Any]], Any] | None = None
    """From fields' values to the settings; None: the class."""
    types: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Field -> another type than the class's, for a value that the class checks with a better message."""
    forms: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Field -> form of one value of a repeatable option; all but paths may also be separated by commas."""
    helps: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Field -> another help text than its docstring."""
    whole: frozenset[str] = frozenset()
    """Fields of repeatable options whose values may hold spaces: a variable gives one of them."""
    environment: bool = True
    """Whether HARNESS_NAME in the environment sets the option, too."""
    without: frozenset[str] = frozenset()
    """Fields that this command has no option for; they keep their defaults."""
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Field -> another default than the class's."""

    def but(self, *without: str, **defaults: Any) -> "OptionGroup":
        """The group without some fields, or with other defaults."""
        return dataclasses.replace(self, without=self.without | {*without}, defaults={**self.defaults, **defaults})

    def options(self) -> Iterator[tuple[str, Setting]]:
        """Name of the parameter and the setting behind it."""
        own = inspect.get_annotations(self.kind)
        # Inherited settings come after the class's own.
        for setting in sorted(settings_of(self.kind), key=lambda setting: setting.name not in own):
            if setting.name not in self.without:
                default = self.defaults.get(setting.name, setting.default)
                kind, text = self.types.get(setting.name, setting.type), self.helps.get(setting.name, setting.help)
                yield self.name_of(setting.name), Setting(name=setting.name, type=kind, default=default, help=text)

    def name_of(self, field: str) -> str:
        """The name of a field's option, with underscores."""
        return self.names.get(field) or (f"{self.prefix}_{field}" if self.prefix else field)


def with_settings(*, config: str = "", **groups: OptionGroup) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Give a command the options of `groups`, and the settings made of them as arguments of these names.

    `config`: the command's name, if it takes `--config FILE`.
    """

    def decorate(function: Callable[..., int]) -> Callable[..., int]:
        signature = inspect.signature(function, eval_str=True)
        own = [parameter for name, parameter in signature.parameters.items() if name not in groups]
        added = [_parameter(name, setting, group) for group in groups.values() for name, setting in group.options()]
        if config:
            added.append(_config_parameter(config, own, groups))

        @functools.wraps(function)
        def command(**values: Any) -> int:
            values.pop("config_file", None)
            made = {argument: _make(group, values) for argument, group in groups.items()}
            return function(**values, **made)

        parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*own, *added)]
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {each.name: each.annotation for each in parameters}
        return command

    return decorate


def from_environment(context: typer.Context, name: str) -> bool:
    """True if the option's value is from an environment variable."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "ENVIRONMENT"


def is_given(context: typer.Context, name: str) -> bool:
    """True if the option was given on the command line or in a `--config` file, and not by environment or default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name in ("COMMANDLINE", "DEFAULT_MAP")


def refuse_given(context: typer.Context, names: Iterable[str], why: str) -> None:
    """SettingError for the first of these options that was given: it would have no effect."""
    for name in names:
        if is_given(context, name):
            raise SettingError(f"--{name.replace('_', '-')} has no effect: {why}")


def check_at_least(option: str, value: float | None, least: int) -> None:
    """SettingError if the option was given a value below `least`."""
    if value is not None and not value >= least:
        raise SettingError(f"{option} {value}: must be at least {least}")


def _parameter(name: str, setting: Setting, group: OptionGroup) -> inspect.Parameter:
    """The option of one setting, as typer declares it."""
    kind, default = _as_option_type(setting.type), setting.default
    if kind == list[str] | None:
        default = None if not default else _as_items(default)
    flag = f"--{name.replace('_', '-')}"
    if kind is bool and default:
        flag += f"/--no-{name.replace('_', '-')}"
    whole = setting.name in group.whole  # typer would divide a variable's text at its spaces
    names = [name, group.earlier[name]] if name in group.earlier else [name]
    is_set = group.environment and name not in TAKEN and not whole
    variables: Any = [f"HARNESS_{each.upper()}" for each in names] if is_set else None
    if variables and len(variables) == 1:  # typer's messages quote a list as it is
        (variables,) = variables
    option = typer.Option(flag, help=setting.help, rich_help_panel=group.panel or None, envvar=variables)
    if default is dataclasses.MISSING:
        default = inspect.Parameter.empty
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[kind, option], default=default)


def _as_option_type(kind: Any) -> Any:
    """A field's type as typer takes it: a repeatable option for collections, text for a union of types."""
    inner = [each for each in typing.get_args(kind) if each is not type(None)]
    is_union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    if _COLLECTIONS & {typing.get_origin(each) for each in (kind, *(inner if is_union else ()))}:
        return list[str] | None
    if is_union and len(inner) > 1:
        return str | None if len(inner) < len(typing.get_args(kind)) else str
    return kind


def _as_items(value: Any) -> list[str]:
    return [f"{key}={item}" for key, item in value.items()] if isinstance(value, Mapping) else list(map(str, value))


def _make(group: OptionGroup, values: dict[str, Any]) -> Any:
    """The settings object of a group; takes its options out of `values`."""
    found = dict(group.defaults)
    for name, setting in group.options():
        value = values.pop(name)
        if value is None and setting.name in group.whole and (text := os.environ.get(f"HARNESS_{name.upper()}")):
            value = [text]
        if value is None and setting.default is not None:
            continue  # a repeatable option that was not given
        found[setting.name] = _as_field(value, setting, name, group.forms.get(setting.name, ""))
    return group.kind(**found) if group.make is None else group.make(found)


def _as_field(value: Any, setting: Setting, name: str, form: str) -> Any:
    """The value of an option as the field has it."""
    if not isinstance(value, list):
        return value
    if form and not form.endswith("PATH"):
        value = [part.strip() for text in value for part in text.split(",") if part.strip()]
    kinds = {typing.get_origin(each) for each in (setting.type, *typing.get_args(setting.type))}
    if not kinds & {dict, Mapping}:
        return tuple(value)
    return parse_pairs(value, f"--{name.replace('_', '-')}", form or "NAME=VALUE")


def parse_pairs(given: Iterable[str], option: str, form: str = "NAME=VALUE") -> dict[str, str]:
    """NAME=VALUE texts as a dict; SettingError for one that is not of this form."""
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            of_path = form.endswith("=PATH") and not equals and os.path.exists(text)
            example = f", such as {form.removesuffix('PATH')}{text}, for each of them" if of_path else ""
            raise SettingError(f"{option} {text!r}: must be {form}{example}")
        found[name] = value
    return found


def _config_parameter(
    command: str, own: list[inspect.Parameter], groups: Mapping[str, OptionGroup]
) -> inspect.Parameter:
    """`--config FILE`: what the file says is the default of the options that are not given otherwise."""
    known: dict[str, str] = {each.name: command for each in own if each.name not in NOT_IN_FILES}
    whole = {group.name_of(name) for group in groups.values() for name in group.whole}
    for group in groups.values():
        known |= {name: group.table or command for name, _ in group.options()}
    prefixes = {group.table: group.prefix for group in groups.values() if group.table}
    earlier = {before: name for group in groups.values() for name, before in group.earlier.items() if name in known}

    def read(context: typer.Context, path: Path | None) -> None:
        if path is not None:
            found = read_config(path, command, known, prefixes, earlier)
            for name in whole & found.keys():
                if os.environ.get(f"HARNESS_{name.upper()}"):
                    del found[name]
                elif isinstance(found[name], str):
                    found[name] = [found[name]]
            context.default_map = found

    text = "A TOML file with values of options; see docs/python.md."
    option = typer.Option("--config", help=text, callback=read, is_eager=True, expose_value=False)
    return inspect.Parameter(
        "config_file", inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[Path | None, option], default=None
    )


def read_config(
    path: Path, command: str, known: Mapping[str, str], prefixes: Mapping[str, str], earlier: Mapping[str, str]
) -> dict[str, Any]:
    """Option name -> value, of a TOML file; SettingError names the file and the key that can't be used.

    `known` is option name -> table; `prefixes` is table -> what its option names begin with, so that `url` under
    [judge] is `judge_url`; `earlier` is what options were called before -> their names. Tables of other commands are
    left aside.
    """
    try:
        content = parse_toml(path.read_bytes())
    except (OSError, ValueError) as error:
        raise SettingError(f"--config {path}: {error}") from None
    found: dict[str, Any] = {}
    by_name = {**known, **{before: known[name] for before, name in earlier.items()}}

    def put(name: str, value: Any, written: str) -> None:
        if (now := earlier.get(name, name)) in found:
            raise SettingError(f"{path}: {written}: {now.replace('_', '-')} is given twice")
        found[now] = _as_default(value)

    for key, value in content.items():
        if isinstance(value, dict) and key in {command, *prefixes}:
            for inner, setting in value.items():
                name = _name_in_table(inner, key, by_name, prefixes)
                if name is None:
                    keys = [_key_in_table(each, prefixes.get(key, "")) for each, table in known.items() if table == key]
                    raise SettingError(f"{path}: [{key}] {inner}: unknown key{did_you_mean(inner, keys)}")
                put(name, setting, f"[{key}] {inner}")
        elif isinstance(value, dict) and key in (*CONFIG_COMMANDS, *GROUP_TABLES):
            continue  # for other commands
        elif (name := key.replace("-", "_")) in by_name:
            put(name, value, key)
        else:
            names = [*prefixes, command, *(each.replace("_", "-") for each in known)]
            raise SettingError(f"{path}: {key}: unknown key{did_you_mean(key, names)}")
    return found


def _name_in_table(key: str, table: str, known: Mapping[str, str], prefixes: Mapping[str, str]) -> str | None:
    name, prefix = key.replace("-", "_"), prefixes.get(table, "")
    if prefix and f"{prefix}_{name}" in known:
        return f"{prefix}_{name}"
    return next((each for each in (name, prefix if name == "name" else "") if known.get(each) == table), None)


def _key_in_table(name: str, prefix: str) -> str:
    key = "name" if name == prefix else name.removeprefix(f"{prefix}_") if prefix else name
    return key.replace("_", "-")


def _as_default(value: Any) -> Any:
    """A TOML value as an option takes it: a table becomes NAME=VALUE texts."""
    return _as_items(value) if isinstance(value, dict) else value
