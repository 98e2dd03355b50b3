"""A server of open weights on loopback: what it says of itself, and what it was asked.

server = OpenServer("vllm", {"/version": {"version": "0.32.0"}})
server.url, server.asked[0]["top_k"]
"""

import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class OpenServer:
    """Lists one model `m`, owned by `owner`; `paths` are what it has beside /v1; `refuses` a parameter by name."""

    def __init__(self, owner: str, paths: Mapping[str, Any] | None = None, **listed: Any) -> None:
        self.models = [{"id": "m", "object": "model", "owned_by": owner, "root": "org/m"} | listed]
        self.paths = dict(paths or {})
        self.says: Callable[[Mapping[str, Any]], str] = lambda body: " no"
        self.refuses = ""
        self.asked: list[dict[str, Any]] = []
        own = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                known = {"/v1/models": {"object": "list", "data": own.models}, **own.paths}
                self.send(200 if self.path in known else 404, known.get(self.path, {"detail": "Not Found"}))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if not self.path.endswith("/chat/completions"):
                    return self.send(404, {"detail": "Not Found"})
                if own.refuses in body:
                    words = f"{own.refuses}: Extra inputs are not permitted"
                    return self.send(400, {"error": {"message": words, "type": "x", "param": own.refuses, "code": 400}})
                own.asked.append(body)
                choice = {"index": 0, "message": {"role": "assistant", "content": own.says(body)}}
                done = {"id": "x", "object": "chat.completion", "created": 1, "model": "m"}
                usage = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
                self.send(200, done | {"choices": [choice | {"finish_reason": "stop"}], "usage": usage})

            def send(self, status: int, body: Any) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()
