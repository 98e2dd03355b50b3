"""A small server that speaks vLLM's chat completions with token ids, and answers by a real model."""

import base64
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from PIL import Image


class TokenServer(ThreadingHTTPServer):
    """`lm` is a SharedImageLM that answers; `asked` gets what came, in order."""

    daemon_threads = True

    def __init__(self, lm: Any) -> None:
        super().__init__(("127.0.0.1", 0), _Calls)
        self.lm, self.lock = lm, threading.Lock()
        self.asked: list[dict[str, Any]] = []
        self.pictures: dict[str, Image.Image] = {}
        self.refuses = ""
        """A part of prompts that are refused."""
        self.model = "scenes-base"
        self.prefix: list[int] = []
        """Tokens that it reads before each prompt."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        text, *parts = asked["messages"][0]["content"]
        if self.refuses and self.refuses in text["text"]:
            return 400, {"error": {"message": "This model's maximum context length is 8 tokens"}}
        for number, part in enumerate(parts):
            if part["image_url"] is not None:
                data = base64.b64decode(part["image_url"]["url"].partition(",")[2])
                self.pictures[part["uuid"]] = Image.open(io.BytesIO(data))
            if part["uuid"] not in self.pictures:
                return 400, {"error": {"message": f"Cache miss for image at index {number} but data is not provided."}}
        inputs = self.lm.layout.processor_inputs(
            text["text"], [self.pictures[part["uuid"]] for part in parts], templated=not asked["add_special_tokens"]
        )
        tokens, first = self._generate(inputs, asked)
        listed = [
            {"token": f"token_id:{token}", "logprob": float(first[token])}
            for token in asked.get("logprob_token_ids", ())
        ]
        ended = tokens[-1] in asked["stop_token_ids"] or self._stops(tokens, asked)
        return 200, {
            "prompt_token_ids": [*self.prefix, *inputs["input_ids"][0].tolist()],
            "choices": [
                {
                    "token_ids": tokens,
                    "finish_reason": "stop" if ended else "length",
                    "logprobs": {"content": [{"top_logprobs": listed}]} if listed else None,
                }
            ],
        }

    @torch.inference_mode()
    def _generate(self, inputs: dict[str, Any], asked: dict[str, Any]) -> tuple[list[int], Any]:
        model, tokens, first, cache = self.lm.hf, [], None, None
        while True:
            out = model(**inputs, past_key_values=cache, use_cache=True)
            likely, cache = out.logits[0, -1].log_softmax(-1), out.past_key_values
            first = likely if first is None else first
            tokens.append(int(likely.argmax()))
            ends = tokens[-1] in asked["stop_token_ids"] or self._stops(tokens, asked)
            if ends or len(tokens) >= asked["max_tokens"]:
                return tokens, first
            inputs = {"input_ids": torch.tensor([[tokens[-1]]])}

    def _stops(self, tokens: list[int], asked: dict[str, Any]) -> bool:
        text = self.lm.tokenizer.decode(tokens, skip_special_tokens=True)
        return any(stop in text for stop in asked["stop"])


class _Calls(BaseHTTPRequestHandler):
    server: TokenServer

    def do_GET(self) -> None:
        models = {"data": [{"id": self.server.model, "root": f"/far/{self.server.model}", "parent": None}]}
        self._send(200, {"version": "9.9"} if self.path == "/version" else models)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked.append(asked)
            status, body = self.server.answer(asked)
        self._send(status, body)

    def _send(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def serving(lm: Any) -> Iterator[TokenServer]:
    """The server, while the block runs."""
    server = TokenServer(lm)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
