"""A server that repeats the secrets it was sent, wherever a server can put a text."""

import base64
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit


class Echo(BaseHTTPRequestHandler):
    """Serves /MODE/v1/...: "ok" answers, "slow" too; "list" tells models apart by what it was sent; a number refuses
    with this status; "redirect", "page" and "cut" are no replies."""

    files: dict[str, bytes]
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve({})

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["content-length"]))
        self._serve(json.loads(data) if data[:1] == b"{" else {}, data)

    def _serve(self, body: dict[str, Any], data: bytes = b"") -> None:
        mode, _, path = urlsplit(self.path).path.strip("/").partition("/")
        said = repeated(self.headers, self.path)
        match path.removeprefix("v1/").split("/"):
            case ["models"]:
                model = {"id": "cand", "root": said, "created": 1700000000, "digest": said, "version": said}
                self._send(200, {"data": [model] if mode == "list" else [{"id": said}]}, said)
            case ["files"]:
                self.files["in"] = data[data.index(b'{"custom_id') :].rpartition(b"\r\n--")[0]
                facts = {"id": "in", "object": "file", "bytes": 1, "created_at": 0, "filename": "q", "purpose": "batch"}
                self._send(200, facts, said)
            case ["batches", *_]:
                state = {"status": "completed", "input_file_id": "in", "output_file_id": "out"}
                facts = {"id": "b", "object": "batch", "endpoint": "/v1/chat/completions", "created_at": 0}
                self._send(200, facts | state | {"completion_window": "24h", "metadata": {"x": said}}, said)
            case ["files", "out", "content"]:
                rows = [json.loads(line) for line in self.files["in"].split(b"\n") if line.strip()]
                replies = [
                    {"custom_id": row["custom_id"], "response": {"status_code": 200, "body": completion(row, said)}}
                    for row in rows
                ]
                self._send(200, "\n".join(map(json.dumps, replies)), said)
            case _:
                self._answer(mode, body, said)

    def _answer(self, mode: str, body: dict[str, Any], said: str) -> None:
        if mode.isdecimal():
            self._send(int(mode), {"error": {"message": f"Incorrect API key provided: {said}", "code": said}}, said)
        elif mode == "redirect":
            self._send(307, {}, said, ("location", f"http://{quote(said[:300])}@127.0.0.1:1/?api-key={quote(said)}"))
        elif mode == "page":
            self._send(200, f"<html><h1>{said}</h1>", said)
        elif mode == "cut":
            self._send(200, json.dumps(completion(body, said))[: 200 + len(said)], said)
        else:
            time.sleep(0.3 * (mode == "slow"))
            self._send(200, completion(body, said), said)

    def _send(self, status: int, body: Any, said: str, *headers: tuple[str, str]) -> None:
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status, said[:200])
        for name, value in (("content-type", "application/json"), ("x-request-id", said[:2000]), *headers):
            self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def completion(body: dict[str, Any], said: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": f"{answer_to(json.dumps(body))}\n{said}"}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
    more = {"id": said, "model": f"cand {said}", "system_fingerprint": said}
    return {"object": "chat.completion", "created": 1, "choices": [choice], "usage": usage, **more}


def answer_to(prompt: str) -> str:
    """Ratings of what is to be compared; else an answer and a rating in one."""
    numbers = {"two": 2, "three": 3, "four": 4}
    if (found := re.search(r"You compare (\w+) texts", prompt)) is None:
        return "Yes, a red box. Rating: 3"
    lines = []
    for aspect in ("Helpfulness", "Ethical Considerations", "Visual Faithfulness"):
        lines.append(f"#### {aspect} Assessment")
        for number in range(1, numbers[found[1]] + 1):
            lines += [f"##### Output for Text {number}", f"Rating: {(5, 1, 4, 2)[number - 1]}", "Rationale: so."]
    return "\n".join(lines)


def repeated(headers: Message, path: str) -> str:
    """All that a request holds of secrets, in the forms in which servers repeat such."""
    authorization = headers["authorization"] or ""
    sent = [authorization, headers["api-key"] or ""]
    sent += [value for values in parse_qs(urlsplit(path).query).values() for value in values]
    scheme, _, token = authorization.partition(" ")
    if scheme == "Basic":
        sent += base64.b64decode(token).decode().split(":", 1)
    texts = []
    for text in filter(None, dict.fromkeys([*sent, token])):
        forms = (quote(text, safe=""), base64.b64encode(f"a{text}".encode()).decode(), text.encode().hex())
        texts += [
            text,
            *forms,
            f"{text[:12]}...",
            f'key="{text}"',
            f"http://{quote(text)}@host/?key={quote(text)}",
            quote(quote(text)),
        ]
    return " ".join([*texts, unquote(urlsplit(path).query)])


@contextmanager
def echo_server() -> Iterator[str]:
    """HOST:PORT of a server that runs inside."""
    handler = type("EchoOfOne", (Echo,), {"files": {}})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{http.server_port}"
    finally:
        http.shutdown()
        http.server_close()
