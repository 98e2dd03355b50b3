"""Servers of vLLM that run elsewhere, which compute answers together: each is asked which model it has, and is given
the adapter.

    client = reach_elsewhere(spec, EngineConfig(engine="vllm", engine_url=("http://a:8000", "http://b:8000"), ...))
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from harness.engine.config import EngineConfig
from harness.models.file_digests import digest_of_folder
from harness.models.spec import ModelSpec
from harness.serving.adapters import needs_of
from harness.serving.engine_client import EngineClient, at_once_of
from harness.serving.model_server import LOADING, post
from support.errors import ModelError, ServerError, one_line
from support.secrets import redact
from tasks.judges.bodies import read_json
from tasks.judges.chat_client import run_in_thread

START: Final = "--trust-request-chat-template"
"""Without this flag vLLM takes no prompt as it is from a request."""


def reach_elsewhere(spec: ModelSpec, engine: EngineConfig) -> EngineClient:
    """The client of all servers that are named. ModelError for one that has another model, ServerError."""
    servers = [root_of(url) for url in engine.engine_url]
    names = {server: _check_model(server, spec) for server in servers}
    if len(set(names.values())) > 1:
        told = ", ".join(f"{server}: {name}" for server, name in names.items())
        raise ModelError(f"{spec.name}: its servers call it by several names ({told}): give them one")
    name, adapted = names[servers[0]], ""
    if spec.adapter is not None:
        digest = digest_of_folder(spec.adapter)
        adapted = f"-{digest}" if needs_of([spec.adapter]).vision else ""
        name = f"{name}-{digest}"
        for server in servers:
            _load_adapter(server, name, spec)
    return EngineClient("vllm", servers, name, at_once=at_once_of(engine), adapted=adapted, sends_template=True)


def root_of(url: str) -> str:
    """A server's address without /v1."""
    return url.rstrip("/").removesuffix("/v1")


def version_of(engine: EngineConfig) -> str:
    """What its servers say of their version; ServerError."""
    told = {str(_get(root_of(url), "/version").get("version", "")) for url in engine.engine_url}
    return f"vllm {', '.join(sorted(told))}"


def _check_model(server: str, spec: ModelSpec) -> str:
    """What a server calls the base of a model."""
    listed = _get(server, "/v1/models").get("data")
    found = [one for one in listed if isinstance(one, Mapping)] if isinstance(listed, list) else []
    bases = {str(one.get("id")): str(one.get("root") or one.get("id")) for one in found if not one.get("parent")}
    ours = {spec.pretrained, spec.name, Path(spec.pretrained).resolve().name}
    for name, root in bases.items():
        if {name, root, Path(root).name} & ours:
            return name
    shown = ", ".join(bases.values()) or "none"
    raise ModelError(f"{spec.name}: the server at {redact(server)} has another model: {redact(one_line(shown))[:200]}")


def _load_adapter(server: str, name: str, spec: ModelSpec) -> None:
    assert spec.adapter is not None
    why = post(f"{server}/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(spec.adapter.resolve())})
    if why and "already" not in why:
        raise ServerError(f"{spec.name}: the server at {redact(server)} did not load the adapter: {why}")


def _get(server: str, path: str) -> Mapping[str, Any]:
    return run_in_thread(_ask(server, path))


async def _ask(server: str, path: str) -> Mapping[str, Any]:
    import httpx2

    from tasks.judges.http_client import LARGEST_REPLY, LimitedClient

    async with LimitedClient(timeout=LOADING, largest=LARGEST_REPLY, trust_env=False) as client:
        try:
            answer = await client.get(f"{server}{path}")
            found = read_json(answer.content)
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
            why = one_line(error) or type(error).__name__
            raise ServerError(f"the server of vllm at {redact(server)} does not answer: {redact(why)}") from None
    if answer.status_code != 200 or not isinstance(found, Mapping):
        raise ServerError(f"the server at {redact(server)} does not answer as vLLM does at {path}")
    return found
