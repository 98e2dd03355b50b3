"""Which program is behind an address, as far as it says so: what it takes of a request, its version, its dtype.

    facts = await ask_facts(connection, server, listed)      # ServerFacts(kind="vllm", version="0.32.0", dtype="")
    facts.program.fills                                      # {"top_p": 1.0, "top_k": -1, ...}

Servers of open weights take what a request leaves open from the checkpoint's generation_config.json, so each of their
settings of sampling is sent, with the value that does nothing where nothing was asked for.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from support.errors import one_line
from tasks.judges.addresses import Server
from tasks.judges.bodies import read_json
from tasks.judges.replies import clean

if TYPE_CHECKING:
    from openai import AsyncOpenAI

SERVED_BY: Final = "served by"
"""In provenance: the program that serves the model."""
VERSION: Final = "server version"
DTYPE: Final = "dtype"
"""In provenance: what the model computes in."""


NEUTRAL: Final = {
    **{"top_p": 1.0, "top_k": -1, "min_p": 0.0},
    **{"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0},
}
"""Settings of sampling beside the temperature, with the values that do nothing."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """What one server of open weights is told with every request, and where it tells of itself."""

    fills: Mapping[str, float] = field(default_factory=dict)
    """Settings of sampling that are always sent, with the value that does nothing where nothing is asked for."""
    names: Mapping[str, str] = field(default_factory=dict)
    """What it calls a setting, where that is another name."""
    adds_tokens: bool = False
    """Whether a request says if special tokens go before a rendered chat template."""
    paths: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By path, the field of its answer for each of our facts."""


_INFO: Final = {VERSION: "version", DTYPE: "dtype"}
PROGRAMS: Final = {
    "vllm": Program(
        fills={**NEUTRAL, "n": 1},
        adds_tokens=True,
        paths={"/version": {VERSION: "version"}, "/server_info": {DTYPE: "vllm_config"}},
    ),
    "sglang": Program(fills={**NEUTRAL, "n": 1}, paths={"/get_server_info": _INFO, "/server_info": _INFO}),
    "llama.cpp": Program(
        fills={**NEUTRAL, "top_k": 0},
        names={"repetition_penalty": "repeat_penalty"},
        paths={"/props": {VERSION: "build_info"}},
    ),
    "ollama": Program(
        fills={name: NEUTRAL[name] for name in ("top_p", "presence_penalty", "frequency_penalty")},
        paths={"/api/version": {VERSION: "version"}},
    ),
    "": Program(),
}
"""By name; "": it does not say which it is. What else they take is in `tasks.judges.capabilities`."""
_OWNERS: Final = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "llama.cpp", "llama.cpp": "llama.cpp"}
_OWNERS_OF_OLLAMA: Final = ("library", "ollama")
_PORT_OF_OLLAMA: Final = 11434
_IN_WORDS: Final = re.compile(r"\bdtype=(?:torch\.)?(\w+)")


@dataclass(frozen=True, kw_only=True)
class ServerFacts:
    """What a server says of itself."""

    kind: str = ""
    """The program, a key of `PROGRAMS`."""
    version: str = ""
    dtype: str = ""
    template: str | None = None
    """The chat template, where the model's files are on this machine."""
    switch: str | None = None
    """The argument of the chat template by which the model thinks or not; empty: none acts; None: it is not known."""
    lacks_first_token: bool = False
    """Whether the server must be told to begin prompts with the model's first token."""

    @property
    def program(self) -> Program:
        """What it is told with every request."""
        return PROGRAMS[self.kind]

    def facts(self) -> dict[str, str]:
        """For provenance, and for the identity of answers: what is known."""
        found = {VERSION: f"{self.kind} {self.version}" if self.version else "", DTYPE: self.dtype}
        return {name: value for name, value in found.items() if value}


async def ask_facts(
    connection: "AsyncOpenAI", server: Server, listed: Sequence[Mapping[str, Any]], served_by: str = ""
) -> ServerFacts:
    """What a server says of itself, whose list of models is `listed`; `served_by`: the program, where it was started
    by us."""
    kind = served_by if served_by in PROGRAMS and served_by else _find_kind(server, listed)
    told: dict[str, str] = {}
    for path, fields in PROGRAMS[kind].paths.items():
        if not set(fields) <= set(told):
            told |= _read_facts(await _get(connection, server, path), fields)
    if kind == "ollama" and VERSION not in told:  # anyone may own models of a library
        return ServerFacts()
    return ServerFacts(kind=kind, version=told.get(VERSION, ""), dtype=told.get(DTYPE, ""))


def _find_kind(server: Server, listed: Sequence[Mapping[str, Any]]) -> str:
    """The program behind an address, by whom it says that its models are owned by."""
    owners = {str(model.get("owned_by")).lower() for model in listed}
    known = {_OWNERS[owner] for owner in owners if owner in _OWNERS}
    if len(known) == 1 and owners <= _OWNERS.keys():
        return known.pop()
    return "ollama" if owners & set(_OWNERS_OF_OLLAMA) or urlsplit(server.url).port == _PORT_OF_OLLAMA else ""


async def _get(connection: "AsyncOpenAI", server: Server, path: str) -> Any:
    """What a server has at a path beside its /v1; None where that is nothing that can be read."""
    import httpx2
    import openai

    root = re.sub(r"/v1$", "", server.url)
    with suppress(openai.OpenAIError, httpx2.HTTPError, ValueError):
        answer = await connection.with_options(base_url=root).get(path, cast_to=httpx2.Response)
        return read_json(answer.content)


def _read_facts(said: Any, fields: Mapping[str, str]) -> dict[str, str]:
    """Our facts in an answer, by the fields that hold them; a dtype may stand within the text of a configuration."""
    found = {}
    for fact, name in fields.items():
        value = said.get(name) if isinstance(said, Mapping) else None
        if fact == DTYPE and isinstance(value, Mapping):
            value = value.get("dtype") or (value.get("model_config") or {}).get("dtype")
        if isinstance(value, str) and (text := one_line(clean(value))):
            if fact == DTYPE:
                inside = _IN_WORDS.search(text)
                text = inside[1] if inside else text.removeprefix("torch.") if text.count(" ") == 0 else ""
            found[fact] = text[:100]
    return {fact: text for fact, text in found.items() if text and text != "auto"}
