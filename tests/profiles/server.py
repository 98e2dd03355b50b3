"""A server on loopback that behaves as one of the APIs and servers that people use, whichever its address names.

    server = ProfileServer()
    server.url("azure")                     # the address, as users have it; KEY is the key
    server.model("azure")                   # what users name as the model
    server.befall["Is it red?"] = "filter"  # what befalls questions with these words
    server.calls("azure")                   # what came: path, headers, body, status and body of the answer

What each does stands in `apis.py` and `local_servers.py`, what the model behind says in `model.py`.
"""

import asyncio
import base64
import io
import json
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web
from PIL import Image

from tests.profiles import apis, local_servers
from tests.profiles.apis import KEY, Profile, Refusal
from tests.profiles.model import tokens_of

PROFILES: Final[Mapping[str, type[Profile]]] = {
    "openai-reasoning": apis.OpenAIReasoning,
    "openai-chat": Profile,
    "azure": apis.Azure,
    "azure-chat": apis.AzureChat,
    "gemini": apis.Gemini,
    "anthropic": apis.Anthropic,
    "vllm": local_servers.Vllm,
    "vllm-thinking": local_servers.VllmThinking,
    "vllm-in-tags": local_servers.VllmInTags,
    "sglang": local_servers.Sglang,
    "ollama": local_servers.Ollama,
    "llama.cpp": local_servers.LlamaCpp,
}


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request for a completion, and what came of it."""

    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Mapping[str, Any]
    status: int
    answer: Any

    @property
    def asked(self) -> Mapping[str, Any]:
        """The parameters beside model and messages."""
        return {name: value for name, value in self.body.items() if name not in ("model", "messages")}


class ProfileServer:
    """See the module's docstring."""

    def __init__(self) -> None:
        self.profiles = {name: kind() for name, kind in PROFILES.items()}
        self.befall: dict[str, str] = {}
        """What befalls questions that have these words: one of `EVENTS`."""
        self.log: list[tuple[str, Call]] = []
        self.loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()
        assert self._ready.wait(20)

    def url(self, name: str, path: int = 0) -> str:
        """The address of a profile, by the first of its paths or another one."""
        profile = self.profiles[name]
        query = profile.query if "/v1" not in profile.paths[path] else ""
        return f"http://127.0.0.1:{self.port}/{name}{profile.paths[path]}{query}"

    def model(self, name: str) -> str:
        return self.profiles[name].model

    def calls(self, name: str) -> list[Call]:
        """The questions that came to a profile, refused ones included."""
        return [call for profile, call in self.log if profile == name]

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        app = web.Application(client_max_size=64 * 1024**2)
        app.router.add_post("/{profile}/{path:.*}/chat/completions", self._chat)
        app.router.add_get("/{profile}/{path:.*}/models", self._models)
        runner = web.AppRunner(app)
        self.loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", 0)
        self.loop.run_until_complete(site.start())
        assert site._server is not None
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        self._ready.set()
        self.loop.run_forever()
        self.loop.run_until_complete(runner.cleanup())

    def _find(self, request: web.Request) -> Profile | None:
        profile = self.profiles.get(request.match_info["profile"])
        there = profile is not None and "/" + request.match_info["path"] in profile.paths
        return profile if there else None

    async def _models(self, request: web.Request) -> web.Response:
        profile = self._find(request)
        if profile is None or "deployments" in request.path:
            return web.json_response({"error": {"code": "404", "message": "Resource not found"}}, status=404)
        listed = {"id": profile.model, "object": "model", "created": 1_790_000_000, "owned_by": "x"}
        return web.json_response({"object": "list", "data": [listed]})

    async def _chat(self, request: web.Request) -> web.Response:
        body = await request.json()
        profile = self._find(request)
        if profile is None:
            status, answer = 404, {"error": {"code": "404", "message": "Resource not found"}}
        else:
            status, answer = self._answer(profile, request, body)
        kept: dict[str, Any] = {"path": request.path, "query": dict(request.query), "headers": dict(request.headers)}
        call = Call(**kept, body=body, status=status, answer=answer)
        self.log.append((request.match_info["profile"], call))
        return web.Response(status=status, body=json.dumps(answer).encode(), content_type="application/json")

    def _answer(self, profile: Profile, request: web.Request, body: Mapping[str, Any]) -> Refusal:
        if profile.query and "/v1" not in request.path and "api-version" not in request.query:
            return 404, {"error": {"code": "404", "message": "Resource not found"}}
        sent = request.headers.get(profile.key_header, "") if profile.key_header else KEY
        if sent.removeprefix("Bearer ") != KEY:
            return profile.no_key()
        if (refusal := profile.refusal(body)) is not None:
            return refusal
        try:
            prompt, tokens = read_messages(body["messages"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            return profile.error(f"The messages can't be read: {error}", param="messages")
        limit = profile.limit_of(body) or 0
        if isinstance(profile, local_servers.Vllm) and tokens + limit > profile.context:
            return profile.too_long(tokens, limit)
        if isinstance(profile, local_servers.LlamaCpp) and tokens > profile.context:
            return profile.too_long(tokens, limit)
        event = next((event for words, event in self.befall.items() if words in prompt), "")
        answer = profile.completion(prompt, tokens, body, event)
        return profile.filtered(answer, event) if event.startswith("filter") else (200, answer)


def read_messages(messages: Any) -> tuple[str, int]:
    """The text of all turns, and the tokens of text and pictures; ValueError or OSError for what is no picture."""
    texts: list[str] = []
    tokens = 0
    for message in messages:
        if message["role"] not in ("system", "developer", "user", "assistant"):
            raise ValueError(f"unknown role {message['role']!r}")
        content = message["content"]
        parts: Any = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for part in parts:
            if part["type"] == "text":
                texts.append(part["text"])
                continue
            head, _, data = part["image_url"]["url"].partition(";base64,")
            if part["type"] != "image_url" or not head.startswith("data:image/"):
                raise ValueError("a picture in base64 is wanted")
            picture = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
            picture.load()
            tokens += 85 + 170 * math.ceil(picture.width / 512) * math.ceil(picture.height / 512)
    prompt = "\n".join(texts)
    return prompt, tokens + len(tokens_of(prompt))
