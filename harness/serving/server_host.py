"""One server at a time, kept over the models that it can serve: a base, and its adapters one after the other.

    with ServerHost(settings, run / "servers") as host:
        for checkpoint in checkpoints:              # one start: adapters are loaded and unloaded by the server
            evaluate(host.reach(fetch(find(checkpoint)), Adapters(rank=64)), ...)

All hosts of a process share the machine: where one starts a server, another's is ended, so that a judge's and a
candidate's never need the memory at the same time.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from harness.models.chat_templates import chat_template_of
from harness.models.file_digests import digest_of_folder
from harness.models.spec import ModelSpec
from harness.serving.adapters import Adapters, needs_of
from harness.serving.model_server import ModelServer, started
from harness.serving.settings import ServerSettings
from support.errors import HarnessError, ModelError
from support.processes import ended_by_sigterm


@dataclass(kw_only=True)
class ServerHost:
    """See the module's docstring."""

    settings: ServerSettings
    folder: Path
    """Of logs."""
    ledger: Path | None = None
    """File that keeps the answers of what is served; None: the default file."""
    seconds: float = 0.0
    """That the starts of servers and the loading of adapters took, since this was last set to 0."""
    starts: int = 0
    """How many servers were started."""
    _server: ModelServer | None = field(default=None, init=False)
    _base: Any = field(default=None, init=False)
    """What its base was loaded from."""
    _stack: ExitStack = field(default_factory=ExitStack, init=False)
    _holder: ClassVar["ServerHost | None"] = None
    """The host whose server runs."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def reach(self, spec: ModelSpec, adapters: Adapters | None = None) -> ModelSpec:
        """`spec` behind a server, the one that runs if it has the base and is ready for the adapter; a new one is ready
        for `adapters`, too. ClusterError, ServerError."""
        begun = time.monotonic()
        try:
            return self._server_of(spec, adapters or Adapters()).reach(spec)
        except BaseException:
            self.end()
            raise
        finally:
            self.seconds += time.monotonic() - begun

    @property
    def is_running(self) -> bool:
        """Whether its server runs."""
        return self._server is not None and self._server.is_running

    @contextmanager
    def asked(self) -> Iterator[None]:
        """Inside, the server is asked: an error then, of a server that has ended, says why it has. ServerError."""
        try:
            yield
        except HarnessError:
            if self._server is not None:
                self._server.check()
            raise

    def end(self) -> None:
        """End the server, if one runs, and wait until it has ended."""
        self._server = self._base = None
        if ServerHost._holder is self:
            ServerHost._holder = None
        self._stack.close()

    def _server_of(self, spec: ModelSpec, adapters: Adapters) -> ModelServer:
        base, own = _base_of(spec), needs_of([spec.adapter] if spec.adapter is not None else [])
        server = self._server
        if server is not None and server.is_running and base == self._base and server.adapters.cover(own):
            return server
        if ServerHost._holder is not None:
            ServerHost._holder.end()
        needs = own | (adapters if self.settings.command == "vllm" else Adapters())
        ServerHost._holder = self
        self._stack.enter_context(ended_by_sigterm())
        self._server = self._stack.enter_context(started(spec, self.settings, folder=self.folder, adapters=needs))
        self._base, self.starts = base, self.starts + 1
        return self._server


def end_servers() -> None:
    """End the server that runs for this process, if there is one."""
    if ServerHost._holder is not None:
        ServerHost._holder.end()


def _base_of(spec: ModelSpec) -> Any:
    """What must be the same for a server to be used again: its base's files, and its chat template."""
    template = ""
    with suppress(ModelError):
        template = chat_template_of(spec).digest
    return spec.local_folder.resolve(), digest_of_folder(spec.local_folder), spec.dtype, spec.remote_code, template
