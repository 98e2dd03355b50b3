"""Serves a model during a run with vLLM, SGLang or another command, and reaches it over HTTP.

    with served(fetch(find("qwen2.5-vl-7b")), folder=run / "servers") as spec:      # spec.backend == "openai"
        evaluate(spec, ...)

vLLM needs other versions of libraries than this package, so it is never imported: the command is the one in VLLM_BIN,
`vllm` on the PATH, or what `make vllm` has installed.
"""

import logging
import os
import re
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from harness.engine.chat_template import FACT
from harness.models.chat_templates import chat_template_of, read_template_file
from harness.models.configuration import identity_behind_server
from harness.models.spec import ModelSpec
from harness.models.vision_names import with_full_names
from harness.serving.adapters import INSTEAD, Adapters, needs_of
from harness.serving.engine_requests import RENDERED
from harness.serving.server_log import find_cause, find_left_out, is_port_taken, newest_line
from harness.serving.settings import COMMANDS, ServerSettings, fill_places
from support.errors import ModelError, ServerError, one_line
from support.files import atomic_write_text, short_name
from support.processes import ChildProcess, ended_by_sigterm, free_port
from support.progress import doing
from support.secrets import redact
from tasks.judges.chat_client import run_in_thread

log = logging.getLogger(__name__)

TEMPLATE_FLAG: Final = "chat-template"
ATTEMPTS: Final = 3
"""How often a server is started anew on another port, where one was taken meanwhile."""
_ENDING: Final = 20.0
"""Seconds in which a server that answers no more has ended."""
LOADING: Final = 600.0
"""Seconds for an adapter to be loaded."""
_RUNTIME: Final = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
"""Lets vLLM load adapters while it runs."""
_TERMINAL_EVERY, _PLAIN_EVERY = 2.0, 30.0
"""Seconds between two lines on how far a start is."""


@dataclass(kw_only=True)
class ModelServer:
    """A server that answers."""

    process: ChildProcess
    url: str
    settings: ServerSettings
    adapters: Adapters
    """What it is ready for."""
    folder: Path
    """Of its log."""
    loaded: str | None = None
    """The adapter that it has at present."""

    def reach(self, spec: ModelSpec) -> ModelSpec:
        """`spec` behind this server, which has its base; its adapter is loaded, in place of another. ServerError."""
        asked = name_behind_server(spec)
        if spec.adapter is not None:
            self._load(spec, spec.adapter, asked)
        known = known_of(spec, self.settings)
        return replace(spec, backend="openai", pretrained=asked, url=f"{self.url}/v1", digests=known)

    @property
    def is_running(self) -> bool:
        """False once it has ended."""
        return self.process.exit_code is None

    def check(self) -> None:
        """ServerError if it has ended, or is about to."""
        until = time.monotonic() + _ENDING
        while self.is_running and not is_up(self.url) and time.monotonic() < until:
            time.sleep(0.2)
        if not self.is_running:
            hint = f"; its adapter changes the vision encoder: {INSTEAD}" if self.adapters.vision else ""
            raise ServerError(_describe_end(self.process) + hint)

    def _load(self, spec: ModelSpec, adapter: Path, name: str) -> None:
        if self.loaded is not None:
            post(f"{self.url}/v1/unload_lora_adapter", {"lora_name": self.loaded})
            self.loaded = None
        readable = with_full_names(adapter, self.folder / "weights", base=spec.folder).resolve()
        why = post(f"{self.url}/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(readable)})
        if why:
            self.check()
            raise ServerError(f"{spec.name}: its server did not load the adapter: {why} (log: {self.process.log})")
        self.loaded = name
        if needs_of([adapter]).vision and (line := find_left_out(self.process.log)):
            raise ServerError(
                f"{spec.name}: its server does not apply the adapter's part of the vision encoder ({line});"
                f" {INSTEAD} (log: {self.process.log})"
            )


@contextmanager
def served(
    spec: ModelSpec, settings: ServerSettings | None = None, *, folder: Path = Path("runs") / "servers"
) -> Iterator[ModelSpec]:
    """`spec` behind a server, which ends with the block; its log is in `folder`. ServerError if it doesn't answer."""
    with ended_by_sigterm(), started(spec, settings or ServerSettings(), folder=folder) as server:
        yield server.reach(spec)


@contextmanager
def started(
    spec: ModelSpec, settings: ServerSettings, *, folder: Path, adapters: Adapters | None = None
) -> Iterator[ModelServer]:
    """A server of the base of `spec`, ready for its adapter and for `adapters`. ClusterError, ServerError."""
    adapters = (adapters or Adapters()) | needs_of([spec.adapter] if spec.adapter is not None else [])
    program, base = settings.find_program(), _name_base(spec)
    shown, template = spec, []
    if settings.command in COMMANDS and spec.folder is not None:
        shown = replace(spec, folder=with_full_names(spec.folder, folder / "weights").resolve())
        template = _rendered_words(settings, folder) if settings.rendered else _template_words(spec, settings, folder)
    words = [program, *settings.command_of(shown, name=base, adapters=adapters)[1:], *template]
    environment = os.environ | _RUNTIME if adapters.rank else None
    process, url = _start(words, settings, folder, spec.name, environment)
    with process:
        yield ModelServer(process=process, url=url, settings=settings, adapters=adapters, folder=folder)


def known_of(spec: ModelSpec, settings: ServerSettings) -> dict[str, str]:
    """What tells a model that is served so from others, as entries record it and the ledger knows it."""
    template = settings.flag(TEMPLATE_FLAG)
    asked = {} if template is None else {FACT: read_template_file(Path(template)).digest}
    return identity_behind_server(spec) | asked | settings.facts_of(spec)


def _template_words(spec: ModelSpec, settings: ServerSettings, folder: Path) -> list[str]:
    """The flag for the chat template that the model was trained with, where it is not in the folder of its weights."""
    with suppress(ModelError):  # of a server that has a template of its own
        template = chat_template_of(spec)
        if not template.own and template.whole is not None and settings.flag(TEMPLATE_FLAG) is None:
            path = folder / f"chat-template-{template.digest}.jinja"
            atomic_write_text(path, template.whole)
            return [f"--{TEMPLATE_FLAG}", str(path.resolve())]
    return []


def _rendered_words(settings: ServerSettings, folder: Path) -> list[str]:
    """Flags with which vLLM takes a prompt as it is, and logs no call; SGLang has a way of its own for that."""
    if settings.command != "vllm":
        return []
    path = folder / "whole-prompts.jinja"
    atomic_write_text(path, RENDERED)
    template = [f"--{TEMPLATE_FLAG}", str(path.resolve()), f"--{TEMPLATE_FLAG}-content-format", "string"]
    return [*template, *["--disable-uvicorn-access-log"] * (settings.flag("disable-uvicorn-access-log") is None)]


def name_behind_server(spec: ModelSpec) -> str:
    """What its server calls a model."""
    return f"{spec.name}-adapter" if spec.adapter is not None else _name_base(spec)


def _name_base(spec: ModelSpec) -> str:
    """What a server calls the base of a spec: the same whichever of its adapters is asked first."""
    path = Path(spec.pretrained)
    return path.resolve().name if path.is_dir() else spec.pretrained


def _start(
    words: list[str], settings: ServerSettings, folder: Path, name: str, environment: Mapping[str, str] | None
) -> tuple[ChildProcess, str]:
    """The running server and its address, once it answers."""
    for attempt in range(1, ATTEMPTS + 1):
        port = free_port("127.0.0.1")
        command = fill_places(words, {"{host}": "127.0.0.1", "{port}": str(port)})
        output, url = _name_log(folder, settings.engine, name), f"http://127.0.0.1:{port}"
        log.info("starting %s (log: %s)", redact(shlex.join(command)), output)
        process = ChildProcess(command, output, environment=environment)
        begun = time.monotonic()
        try:
            with doing(f"waiting until the server of {name} answers at {url} (log: {output})"):
                process.wait_until(
                    lambda process=process, url=url: process.exit_code is None and is_up(url),  # type: ignore[misc]
                    settings.patience,
                    shown=_Progress(name, output),
                    ended=_describe_end,
                )
        except BaseException as error:
            process.stop()
            if isinstance(error, ServerError) and attempt < ATTEMPTS and is_port_taken(output):
                log.info("%s: another process has taken port %d; trying another one", name, port)
                continue
            raise
        log.info("%s: its server answers after %.0f s", name, time.monotonic() - begun)
        return process, url
    raise AssertionError("the last attempt returns or raises")


def _name_log(folder: Path, engine: str, name: str) -> Path:
    """A new file for a server's output."""
    model = short_name(re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-.") or "model", 60)
    return folder / f"{engine}-{model}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid4().hex[:6]}.log"


def _describe_end(process: ChildProcess) -> str:
    """In one line: that a server ended, and why."""
    said = find_cause(process.log) or "it printed nothing"
    return f"{Path(process.command[0]).name} ended with code {process.exit_code}: {said} (log: {process.log})"


class _Progress:
    """Says how far a server's start is: often on a terminal, else now and then."""

    def __init__(self, name: str, output: Path) -> None:
        self.name, self.output = name, output
        self.every = _TERMINAL_EVERY if sys.stderr.isatty() else _PLAIN_EVERY
        self.next, self.said = self.every, ""

    def __call__(self, seconds: float) -> None:
        if seconds < self.next:
            return
        self.next = seconds + self.every
        line = newest_line(self.output)
        if line != self.said or self.every == _PLAIN_EVERY:
            log.info("%s: its server is starting, %.0f s: %s", self.name, seconds, line or "nothing printed yet")
        self.said = line


PATHS: Final = ("/health", "/v1/models")
PROBE: Final = 5.0
"""Seconds for the answer whether a server is there."""


def is_up(url: str) -> bool:
    """True if a server answers there. Without a proxy: web proxies of clusters do not reach compute nodes."""
    return run_in_thread(_answers(url))


async def _answers(url: str) -> bool:
    import httpx2

    from tasks.judges.http_client import LARGEST_REPLY, LimitedClient

    async with LimitedClient(timeout=PROBE, largest=LARGEST_REPLY, trust_env=False, verify=False) as client:
        for path in PATHS:
            with suppress(httpx2.HTTPError, httpx2.InvalidURL):
                if (await client.get(url + path)).status_code == 200:
                    return True
    return False


def post(url: str, body: Mapping[str, Any]) -> str:
    """Ask for something by JSON; empty where it is done, else why not, in the server's words."""
    return run_in_thread(_send(url, body))


async def _send(url: str, body: Mapping[str, Any]) -> str:
    import httpx2

    from tasks.judges.http_client import LARGEST_REPLY, LimitedClient

    async with LimitedClient(timeout=LOADING, largest=LARGEST_REPLY, trust_env=False, verify=False) as client:
        try:
            answer = await client.post(url, json=dict(body))
        except httpx2.HTTPError as error:
            return redact(one_line(error) or type(error).__name__)
    return "" if answer.status_code == 200 else redact(f"{answer.status_code}: {one_line(answer.text)[:500]}")
