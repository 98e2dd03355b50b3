"""How published figures were asked: wordings of tasks by the authors of a model or of a benchmark, as data.

    found = asked_by("official", task, spec)        # "official", "bare", a name, a TOML file, or "system:TEXT"
    found.fact                                      # "llava-1.5 3f2a9c01": what an entry records
    put(loaded, found)                              # lm-eval's task asks so from here on

"official": as the model's authors asked where they say it of a task, else as the benchmark's do; else the task's own
text. The files are in `protocols/`; a user's own has the same keys. SettingError for one that can't be used.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from harness.models.chat_templates import own_template
from harness.models.spec import ModelSpec
from leaderboards.board.entry import BARE
from support.errors import HarnessError, SettingError, did_you_mean, one_line
from support.parsing import parse_json, parse_toml
from tasks.registry import TaskSpec, registry
from trainers.training import llava_15

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

OFFICIAL: Final = "official"
FOLDER: Final = Path(__file__).with_name("protocols")
BENCHMARK: Final = "benchmark"
"""The protocol of the benchmarks' authors."""
SYSTEM: Final = "system:"
"""Before a system message that is all that a protocol says; tasks keep their own wording."""
PLACE: Final = "<image>"
PICTURES: Final = ("pad", "own")
_KEYS: Final = ("source", "names", "model_types", "system", "picture", "tasks")
_KEYS_OF_TASK: Final = ("source", "text", "prefix", "suffix", "only", "max_new_tokens")


@dataclass(frozen=True, kw_only=True)
class Wording:
    """How a task's question is put, or that of some of its documents."""

    source: str = ""
    """Where its authors say so."""
    text: str = ""
    """Jinja over the document's columns, in place of the task's own text; `asked` is that text."""
    prefix: str = ""
    suffix: str = ""
    only: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Column -> what it must hold, with * and ?: other documents are asked by the next wording, or as they are."""
    max_new_tokens: int | None = None
    """Longest answer in tokens, in place of the task's."""

    def holds_for(self, doc: Mapping[str, Any]) -> bool:
        """Whether a document is asked so."""
        return all(any(fnmatchcase(str(doc.get(name)), one) for one in known) for name, known in self.only.items())

    @property
    def content(self) -> dict[str, Any]:
        """What of it changes a question; empty if nothing does."""
        found = {"text": self.text, "prefix": self.prefix, "suffix": self.suffix}
        found = {name: value for name, value in found.items() if value}
        only = {"only": {name: list(known) for name, known in self.only.items()}} if found and self.only else {}
        return found | only | ({"max_new_tokens": self.max_new_tokens} if self.max_new_tokens else {})


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One file: how some models are asked, and how each task is put to them."""

    name: str
    source: str = ""
    names: tuple[str, ...] = ()
    """What models are called that are asked so: lower case, with * and ?."""
    model_types: tuple[str, ...] = ()
    """The same by what their config.json says."""
    system: str = ""
    """A system message before every question."""
    picture: str | None = None
    """"pad": to a square with the mean colour; "own": as the checkpoint's files say; None: as usual for the model."""
    tasks: Mapping[str, tuple[Wording, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How one task is asked of one model."""

    protocol: str
    """The names of the protocols that say so."""
    wordings: tuple[Wording, ...] = ()
    system: str = ""
    picture: str | None = None
    suffix: str = ""
    """The user's own, behind the task's text."""

    @property
    def fact(self) -> str:
        """What an entry records: the names, and a digest of the content where that changes anything."""
        content: dict[str, Any] = {"wordings": [each.content for each in self.wordings if each.content]}
        content |= {"system": self.system, "picture": "pad" if self.picture == "pad" else ""}
        content = {name: value for name, value in content.items() if value}
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
        return f"{self.protocol} {digest}" if content else self.protocol

    def put(self, doc: Mapping[str, Any], asked: str) -> str:
        """The question in these words; `asked` is the task's own text, pictures' places at its beginning."""
        wording = next((each for each in self.wordings if each.holds_for(doc)), None)
        if wording is None:
            return asked + self.suffix
        places = re.match(f"(?:{PLACE})*", asked)
        head = places[0] if places is not None else ""
        text = asked.removeprefix(head)
        if wording.text:
            text = _render(wording.text, doc, text, self.protocol)
        return f"{head}{wording.prefix}{text}{wording.suffix}"

    @property
    def max_new_tokens(self) -> int | None:
        """Longest answer in tokens, in place of the task's."""
        return next((each.max_new_tokens for each in self.wordings if each.max_new_tokens), None)


def asked_by(choice: str, task: TaskSpec, spec: ModelSpec, suffix: str | None = None) -> Asking:
    """How a task is asked of a model; `suffix` is put behind the task's own text, in place of a protocol's wording."""
    manner, own_words = conversation_of(choice, spec), suffix is not None or choice == BARE or task.data == "embedded"
    wordings, by = ((), "") if own_words else _wordings_of(choice, task.name, spec)
    names = [manner.protocol] if manner.system or manner.picture == "pad" else []
    names = list(dict.fromkeys([*names, *([by] if by else [])]))
    return replace(manner, protocol="+".join(names) or BARE, wordings=wordings, suffix=suffix or "")


def conversation_of(choice: str, spec: ModelSpec) -> Asking:
    """What is the same for all tasks: a system message, and how pictures are prepared."""
    if choice == BARE:
        return Asking(protocol=BARE, picture="own")
    protocol = family_of(spec) if choice == OFFICIAL else find_protocol(choice)
    if protocol is None:
        return Asking(protocol=BARE)
    return Asking(protocol=protocol.name, system=protocol.system, picture=protocol.picture)


def _wordings_of(choice: str, task: str, spec: ModelSpec) -> tuple[tuple[Wording, ...], str]:
    """The wordings of a task, and the name of the protocol that has them; none where nobody says anything."""
    asked = [family_of(spec), known()[BENCHMARK]] if choice == OFFICIAL else [find_protocol(choice)]
    for protocol in asked:
        if protocol is not None and task in protocol.tasks:
            return protocol.tasks[task], protocol.name
    return (), ""


def as_asked(spec: ModelSpec, choice: str) -> ModelSpec:
    """The model with what a protocol says of its chat template and its pictures."""
    picture = conversation_of(choice, spec).picture
    return replace(spec, as_authors=picture != "own", pad_pictures=picture == "pad")


def put(loaded: Any, asking: Asking) -> None:
    """Have lm-eval's task ask so from here on."""
    own = loaded.doc_to_text
    if asking.wordings or asking.suffix:
        loaded.doc_to_text = lambda doc, *more, **named: asking.put(doc, str(own(doc, *more, **named)))
    if asking.max_new_tokens is not None:
        loaded.set_config(key="generation_kwargs", value={"max_gen_toks": asking.max_new_tokens}, update=True)


def family_of(spec: ModelSpec) -> Protocol | None:
    """The protocol of a model's authors: by its files where they are here, else by its name."""
    folder = spec.folder or Path(spec.pretrained)
    if (folder / "config.json").is_file():
        return _family_of_folder(folder)
    name = spec.pretrained.lower()
    return next((each for each in known().values() if any(fnmatchcase(name, one) for one in each.names)), None)


def _family_of_folder(folder: Path) -> Protocol | None:
    try:
        config = parse_json((folder / "config.json").read_text(encoding="utf-8"))
        kind = config.get("model_type") if isinstance(config, dict) else None
        template = own_template(folder)
    except (OSError, ValueError, HarnessError):  # it is refused when it is loaded
        return None
    if kind == "llava":
        text = None if template is None else template.text
        converted = llava_15.is_family(folder) and llava_15.pads(folder) and text == llava_15.CHAT_TEMPLATE
        return known()["llava-1.5"] if converted or llava_15.is_hub_copy(folder, text) else None
    return next((each for each in known().values() if kind in each.model_types), None)


def find_protocol(choice: str) -> Protocol:
    """The protocol of a name, or in a user's TOML file; SettingError."""
    if choice in known():
        return known()[choice]
    if choice.startswith(SYSTEM) and choice != SYSTEM:
        return Protocol(name="system", system=choice.removeprefix(SYSTEM))
    path = Path(choice)
    if path.suffix == ".toml":
        return _read(path)
    names = [OFFICIAL, BARE, *known()]
    raise SettingError(f"--protocol {choice!r}: unknown{did_you_mean(choice, names)}, a TOML file, or {SYSTEM}TEXT")


@cache
def known() -> Mapping[str, Protocol]:
    """The protocols that come with the package, by name."""
    return {path.stem: _read(path) for path in sorted(FOLDER.glob("*.toml"))}


@cache
def _read(path: Path) -> Protocol:
    where = f"--protocol {path}"
    try:
        found = parse_toml(path.read_bytes())
    except (OSError, ValueError) as error:
        raise SettingError(f"{where}: {getattr(error, 'strerror', None) or one_line(error)}") from None
    _check_keys(found, _KEYS, where)
    if (picture := found.get("picture")) not in (None, *PICTURES):
        raise SettingError(f"{where}: picture = {picture!r}: must be one of {', '.join(PICTURES)}")
    source, system = (_text(found, name, where) for name in ("source", "system"))
    names, kinds = (tuple(_texts(found.get(name, []), f"{where}: {name}")) for name in ("names", "model_types"))
    tasks: dict[str, tuple[Wording, ...]] = {}
    given = found.get("tasks", {})
    if not isinstance(given, dict):
        raise SettingError(f"{where}: tasks: must be tables [tasks.NAME]")
    for task, tables in given.items():
        if task not in registry().tasks:
            raise SettingError(f"{where}: tasks: {task!r} is no task{did_you_mean(task, registry().tasks)}")
        each = tables if isinstance(tables, list) else [tables]
        tasks[task] = tuple(_read_wording(one, f"{where}: tasks.{task}") for one in each)
    return Protocol(
        name=path.stem, source=source, names=names, model_types=kinds, system=system, picture=picture, tasks=tasks
    )


def _read_wording(table: Any, where: str) -> Wording:
    if not isinstance(table, dict):
        raise SettingError(f"{where}: must be a table, is {table!r}")
    _check_keys(table, _KEYS_OF_TASK, where)
    only, limit = table.get("only", {}), table.get("max_new_tokens")
    if not isinstance(only, dict):
        raise SettingError(f"{where}: only: must map columns to what they hold, is {only!r}")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise SettingError(f"{where}: max_new_tokens = {limit!r}: must be a number of tokens")
    texts = {name: _text(table, name, where) for name in ("source", "text", "prefix", "suffix")}
    columns = {name: tuple(_texts(value, f"{where}: only.{name}")) for name, value in only.items()}
    from jinja2 import TemplateError

    try:
        _environment().parse(texts["text"])
    except TemplateError as error:
        raise SettingError(f"{where}: text: {one_line(error)}") from None
    return Wording(**texts, only=columns, max_new_tokens=limit)


def _check_keys(found: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    for name in found:
        if name not in keys:
            raise SettingError(f"{where}: unknown key {name!r}{did_you_mean(name, keys)}")


def _text(found: Mapping[str, Any], name: str, where: str) -> str:
    if not isinstance(value := found.get(name, ""), str):
        raise SettingError(f"{where}: {name} = {value!r}: must be text")
    return value


def _texts(value: Any, where: str) -> list[str]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
        raise SettingError(f"{where} = {value!r}: must be a list of texts")
    return values


@cache
def _environment() -> "ImmutableSandboxedEnvironment":
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)


def _render(text: str, doc: Mapping[str, Any], asked: str, protocol: str) -> str:
    """A wording filled with a document's columns; empty cells are empty texts."""
    from jinja2 import TemplateError

    cells = {name: "" if _is_empty(value) else value for name, value in doc.items()}
    try:
        return _environment().from_string(text).render(**cells, asked=asked)
    except (TemplateError, TypeError, ValueError) as error:
        raise SettingError(f"protocol {protocol}: text {text[:60]!r}: {one_line(error)}") from None


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value)) or value == "nan"
