"""Serves a model during a run with vLLM, SGLang or another command, and reaches it over HTTP.

    with served(fetch(find("qwen2.5-vl-7b"))) as spec:      # spec.backend == "openai"
        evaluate(spec, ...)

vLLM needs other versions of libraries than this package, so it is never imported: the command is `vllm` on the PATH,
or the one in VLLM_BIN.
"""

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from harness.models.configuration import identity_behind_server
from harness.models.spec import ModelSpec
from harness.serving.settings import ServerSettings, fill_places
from support.errors import ServerError
from support.processes import ChildProcess, ended_by_sigterm, free_port
from tasks.judges.chat_client import run_in_thread

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
