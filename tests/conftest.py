"""A real OpenAI-compatible server on loopback. The official client talks to it; nothing is patched."""

import asyncio
import base64
import binascii
import io
import json
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aiohttp import web
from PIL import Image

from support import secrets
from support.console import PACKAGES
from tasks import outside
from tasks.judges.providers import PROVIDERS
from tests.profiles.server import ProfileServer
from tests.slurm.cluster import slurm_missing

Reply = Callable[[str], str]


def rating(prompt: str) -> str:
    """What the server's judge says: a function of the prompt alone."""
    return f"Reasons.\nRating: {sum(map(ord, prompt)) % 7}"


class Server:
    """Chat completions with usage, images that must decode, and faults that can be switched on."""

    def __init__(self, reply: Reply = rating) -> None:
        self.reply = reply
        self.log: list[dict[str, Any]] = []
        """Every request body that came, with `fault`, the fault it met."""
        self.faults: list[str | None] = []
        """Taken one by one, by requests in the order they come; then there are none."""
        self.always: str | None = None
        self.answer: Callable[[dict[str, Any]], tuple[int, Any]] | None = None
        """Gives status and body (JSON, or bytes as they are) for a request's body."""
        self.prompt_tokens: Callable[[dict[str, Any]], list[str]] | None = None
        """Gives what a chat's prompt is made of, as vLLM tells it; None: it is not told."""
        self.delay = 0.0
        self.allowed: float | None = None
        """Requests a second; more get a 429."""
        self._bucket, self._filled = 0.0, time.monotonic()
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.polls = 1
        """How often a batch is asked for before it is over."""
        self.batch_ends = "completed"
        self.done_of_ended: int | None = None
        """Lines that a batch does which does not complete; not given: half of them."""
        self.spoil: Callable[[int, dict[str, Any]], Any] | None = None
        """Gives, for a line of a batch's output and its place, what is written instead: a row, text or bytes."""
        self.owner: str | None = None
        """Of the models that it lists; without one, it has no list."""
        self.lists_batches = True
        self.has_more = False
        """Whether the list of batches never ends."""
        self.upload_delay = self.create_delay = 0.0
        """Seconds before these are answered, once they are done."""
        self.loop = asyncio.new_event_loop()
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()
        assert self.ready.wait(20)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def answered(self) -> list[dict[str, Any]]:
        return [entry for entry in self.log if entry["fault"] is None]

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        app = web.Application(client_max_size=64 * 1024**2)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/tokenize", self._tokenize)
        app.router.add_post("/v1/files", self._upload)
        app.router.add_get("/v1/files/{id}/content", self._content)
        app.router.add_post("/v1/batches", self._batch)
        app.router.add_get("/v1/batches", self._list)
        app.router.add_get("/v1/batches/{id}", self._state)
        self.runner = web.AppRunner(app)
        self.loop.run_until_complete(self.runner.setup())
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        self.loop.run_until_complete(site.start())
        assert site._server is not None
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        self.ready.set()
        self.loop.run_forever()
        self.loop.run_until_complete(self.runner.cleanup())

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)

    def _limited(self) -> float | None:
        """Seconds to wait, if the server is asked more than it allows."""
        if self.allowed is None:
            return None
        moment = time.monotonic()
        self._bucket = min(max(1.0, self.allowed / 10), self._bucket + (moment - self._filled) * self.allowed)
        self._filled = moment
        if self._bucket >= 1:
            self._bucket -= 1
            return None
        return (1 - self._bucket) / self.allowed

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        fault = self.faults.pop(0) if self.faults else self.always
        wait = self._limited()
        met = fault or ("limit" if wait is not None else None)
        self.log.append({**body, "fault": met, "authorization": request.headers.get("authorization")})
        if wait is not None:
            after = {"retry-after-ms": str(int(wait * 1000) + 1)}
            return error(429, "Rate limit reached", "rate_limit_exceeded", after)
        if self.delay:
            await asyncio.sleep(self.delay)
        if self.answer is not None:
            status, given = self.answer(body)
            raw = given if isinstance(given, bytes) else json.dumps(given).encode()
            return web.Response(status=status, body=raw, content_type="application/json")
        if fault is not None and (response := await self._fault(fault, request)) is not None:
            return response
        try:
            prompt, tokens = read(body["messages"])
        except (OSError, ValueError, binascii.Error) as problem:
            return error(400, f"Invalid image: {problem}", "invalid_image")
        reply = self.reply(prompt)
        if body.get("response_format", {}).get("type") == "json_schema" and fault != "no schema":
            reply = json.dumps({"explanation": "It says Rating: 1 somewhere.", "verdict": reply})
        return web.json_response(completion(body["model"], reply, tokens, fault))

    async def _models(self, request: web.Request) -> web.Response:
        if self.owner is None:
            return error(404, "Not found", None)
        return web.json_response({"object": "list", "data": [{"id": "m", "owned_by": self.owner}]})

    async def _tokenize(self, request: web.Request) -> web.Response:
        if self.prompt_tokens is None:
            return error(404, "Not found", None)
        return web.json_response({"token_strs": self.prompt_tokens(await request.json())})

    async def _upload(self, request: web.Request) -> web.Response:
        data = (await request.post())["file"]
        assert isinstance(data, web.FileField)
        name = f"file-{len(self.files)}"
        self.files[name] = data.file.read()
        await asyncio.sleep(self.upload_delay)
        facts = {"id": name, "object": "file", "bytes": len(self.files[name]), "created_at": 0}
        return web.json_response(facts | {"filename": "q.jsonl", "purpose": "batch", "status": "processed"})

    async def _content(self, request: web.Request) -> web.Response:
        data = self.files.get(request.match_info["id"])
        return error(404, "No such file", None) if data is None else web.Response(body=data)

    async def _batch(self, request: web.Request) -> web.Response:
        body = await request.json()
        name = f"batch-{len(self.batches)}"
        files = {"input": body["input_file_id"], "output": None, "errors": None}
        self.batches[name] = {"polls": 0, "status": "in_progress", "metadata": body.get("metadata"), **files}
        await asyncio.sleep(self.create_delay)
        return web.json_response(self._shown(name))

    async def _list(self, request: web.Request) -> web.Response:
        """Two a page, the newest first."""
        if not self.lists_batches:
            return error(404, "Not found", None)
        names = list(reversed(self.batches))
        after = request.query.get("after")
        names = names[names.index(after) + 1 :] if after and not self.has_more else names
        page = [self._shown(name) for name in names[:2]]
        return web.json_response({"object": "list", "data": page, "has_more": self.has_more or len(names) > 2})

    async def _state(self, request: web.Request) -> web.Response:
        name = request.match_info["id"]
        if name not in self.batches:
            return error(404, f"No batch found with id {name}", None)
        batch = self.batches[name]
        batch["polls"] += 1
        if batch["polls"] >= self.polls and batch["status"] == "in_progress":
            self._work(batch)
        return web.json_response(self._shown(name))

    def _work(self, batch: dict[str, Any]) -> None:
        """Answers in reverse, faults as lines of the error file; one that does not complete has done a part."""
        lines = [json.loads(line) for line in self.files[batch["input"]].split(b"\n") if line]
        part = len(lines) // 2 if self.done_of_ended is None else self.done_of_ended
        done = lines if self.batch_ends == "completed" else lines[:part]
        out, errors = [], []
        for line in reversed(done):
            fault = self.faults.pop(0) if self.faults else None
            self.log.append({**line["body"], "fault": fault, "authorization": None})
            if fault is not None and fault.startswith("status"):
                errors.append(result(line, int(fault[7:]), {}))
                continue
            prompt, tokens = read(line["body"]["messages"])
            out.append(result(line, 200, completion(line["body"]["model"], self.reply(prompt), tokens, fault)))
        for kind, rows in (("output", out), ("errors", errors)):
            if rows:
                batch[kind] = f"file-{len(self.files)}"
                spoiled = [row if self.spoil is None else self.spoil(place, row) for place, row in enumerate(rows)]
                texts = [json.dumps(row) if isinstance(row, dict) else row for row in spoiled]
                self.files[batch[kind]] = b"\n".join(
                    text if isinstance(text, bytes) else text.encode() for text in texts
                )
        batch["status"], self.batch_ends = self.batch_ends, "completed"

    def _shown(self, name: str) -> dict[str, Any]:
        batch = self.batches[name]
        facts = {"id": name, "object": "batch", "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        files = {"input_file_id": batch["input"], "output_file_id": batch["output"], "error_file_id": batch["errors"]}
        return (
            facts
            | files
            | {"metadata": batch["metadata"]}
            | {"created_at": 0, "status": batch["status"], "request_counts": {"total": 1, "completed": 0, "failed": 0}}
        )

    async def _fault(self, fault: str, request: web.Request) -> web.StreamResponse | None:
        match fault.partition(":"):
            case "429", _, after:
                return error(429, "Slow down", "rate_limit_exceeded", {"retry-after-ms": after} if after else {})
            case "quota", _, _:
                return error(429, "You exceeded your current quota", "insufficient_quota")
            case "status", _, number:
                return error(int(number), "Something is wrong", "content_filter" if number == "400" else None)
            case "hang", _, seconds:
                await asyncio.sleep(float(seconds))
            case "cut", _, _:
                assert request.transport is not None
                request.transport.close()
                return web.Response()
            case "truncated", _, _:
                return web.Response(body=b'{"id": "x", "choi', content_type="application/json")
            case "html", _, _:
                return web.Response(text="<html>busy</html>", content_type="text/html")
        return None


def error(status: int, message: str, code: str | None, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response(
        {"error": {"message": message, "type": "error", "param": None, "code": code}}, status=status, headers=headers
    )


def result(line: dict[str, Any], status: int, body: dict[str, Any]) -> dict[str, Any]:
    """A line of a batch's output file."""
    return {"custom_id": line["custom_id"], "response": {"status_code": status, "body": body}, "error": None}


def read(messages: list[dict[str, Any]]) -> tuple[str, int]:
    """All text of the messages, and their tokens: four characters each, and GPT-4o's rule for images."""
    texts, tokens = [], 0
    for message in messages:
        content = message["content"]
        parts: list[dict[str, Any]] = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for part in parts:
            if part["type"] == "text":
                texts.append(part["text"])
                tokens += -(-len(part["text"]) // 4)
                continue
            head, _, data = part["image_url"]["url"].partition(";base64,")
            if not head.startswith("data:image/"):
                raise ValueError("no data URL")
            picture = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
            picture.load()
            tokens += 85 + 170 * -(-picture.width // 512) * -(-picture.height // 512)  # small pictures only
    return "\n".join(texts), tokens


def completion(model: str, reply: str, tokens: int, fault: str | None) -> dict[str, Any]:
    content = {"null": None, "empty": "", "refusal": None}.get(fault or "", reply)
    message = {"role": "assistant", "content": content, "refusal": "I can't." if fault == "refusal" else None}
    choice: dict[str, Any] = {
        "index": 0,
        "message": message,
        "finish_reason": "content_filter" if fault == "filter" else "stop",
        "logprobs": None,
    }
    length = -(-len(reply) // 4)
    usage = {"prompt_tokens": tokens, "completion_tokens": length, "total_tokens": tokens + length}
    return {
        "id": f"chatcmpl-{random.randrange(10**9)}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": "another-model" if fault == "wrong model" else model,
        "choices": [] if fault == "no choices" else [choice],
        "usage": None if fault == "no usage" else usage,
    }


@pytest.fixture(autouse=True)
def _no_secrets() -> Iterator[None]:
    """What one test sends as a key is an ordinary text in the next."""
    yield
    secrets.forget()


@pytest.fixture(autouse=True)
def _levels_of_loggers() -> None:
    """What a -q or -v of another test, or of a fixture that outlives it, set is forgotten: `caplog.set_level` holds."""
    for name in PACKAGES:
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture(autouse=True)
def _no_tasks_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test includes is not there for the next one."""
    monkeypatch.setattr(outside, "_INCLUDED", {})
    monkeypatch.setenv(outside.VARIABLE, "")


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.stop()


@pytest.fixture
def profiles() -> Iterator[ProfileServer]:
    """A server that behaves as one of many APIs and servers, whichever its address names."""
    running = ProfileServer()
    yield running
    running.stop()


@pytest.fixture
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    of_providers = (name for each in PROVIDERS.values() for name in (*each.keys, each.address))
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_VERSION", *of_providers):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> str:
    """Of `tests.slurm.cluster.CLUSTERS`: "local", or "slurm" where there is one."""
    if request.param == "slurm" and (reason := slurm_missing()):
        pytest.skip(reason)
    return str(request.param)
