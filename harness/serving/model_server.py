"""Serves a model during a run with vLLM, SGLang or another command, and reaches it over HTTP.

    with served(fetch(find("qwen2.5-vl-7b"))) as spec:      # spec.backend == "openai"
        evaluate(spec, ...)

vLLM needs other versions of libraries than this package, so it is never imported: the command is `vllm` on the PATH,
or the one in VLLM_BIN.
"""

import logging
import shutil
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from harness.models.configuration import identity_behind_server
from harness.models.spec import ModelSpec
from harness.serving.settings import ServerSettings, fill_places
from support.errors import ServerError
from support.processes import ChildProcess, ended_by_sigterm, free_port

log = logging.getLogger(__name__)


@contextmanager
def served(spec: ModelSpec, settings: ServerSettings | None = None) -> Iterator[ModelSpec]:
    """`spec` behind a server, which is stopped at the end. ServerError if it does not answer."""
    settings = settings or ServerSettings()
    adapter = f"{spec.name}-adapter"
    words = settings.command_of(spec, name=spec.name, adapter=adapter)
    if shutil.which(words[0]) is None:
        hint = " and name its command by VLLM_BIN" if settings.command == "vllm" else ""
        missing = f"no `{words[0]}` on the PATH; install it in an environment of its own{hint}"
        raise ServerError(f"--serve {settings.command}: {missing}")
    port = free_port("127.0.0.1")
    words = fill_places(words, {"{host}": "127.0.0.1", "{port}": str(port)})
    output = Path(tempfile.mkdtemp(prefix="harness-server-")) / f"{Path(words[0]).name}.log"
    log.info("starting %s (log: %s)", " ".join(words), output)
    url = f"http://127.0.0.1:{port}"
    with ended_by_sigterm(), ChildProcess(words, output) as server:
        server.wait_until(lambda: is_up(url), settings.patience)
        by = "vllm" if settings.command == "vllm" else Path(words[0]).name
        known = identity_behind_server(spec) | {"served by": by}
        asked = spec.name if spec.adapter is None else adapter
        yield replace(spec, backend="openai", pretrained=asked, url=f"{url}/v1", digests=known)


_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Without a proxy: web proxies of clusters do not reach compute nodes."""


def is_up(url: str) -> bool:
    """True if a server answers there."""
    for path in ("/health", "/v1/models"):
        try:
            with _DIRECT.open(url + path, timeout=5) as answer:
                if answer.status == 200:
                    return True
        except OSError:
            continue
    return False
