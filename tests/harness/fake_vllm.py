"""A small script that speaks vLLM's protocol, and adapters that it loads; tests/vllm has the real one."""

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

SERVER = """#!{python}
import json, os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

words = sys.argv[1:]
note = lambda what: open({record!r}, "a").write(json.dumps(what) + "\\n")
value = lambda name: words[words.index(name) + 1]
note(words)


class Calls(BaseHTTPRequestHandler):
    def answer(self, body, status=200):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        if self.path == "/version" and "FAKE_VLLM" in os.environ:
            return self.answer({{"version": os.environ["FAKE_VLLM"]}})
        self.answer({{"object": "list", "data": []}})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("lora_adapter"):
            note([self.path, asked])
            bad = "refused" in str(asked.get("lora_path"))
            return self.answer({{"error": {{"message": "rank is too large"}}}} if bad else {{}}, 400 if bad else 200)
        if self.path.endswith("/chat/completions"):
            note(f"asked {{asked['model']}}")
        self.answer({{"id": "1", "object": "chat.completion", "created": 1, "model": asked["model"],
                     "choices": [{{"index": 0, "finish_reason": "stop",
                                  "message": {{"role": "assistant", "content": "yes\\nRating: 4"}}}}],
                     "usage": {{"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}}}})

    def log_message(self, *args):
        pass


ThreadingHTTPServer((value("--host"), int(value("--port"))), Calls).serve_forever()
"""


def program(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return path


def write_vllm(path: Path, record: Path) -> Path:
    """The program; what it is called with and asked is written to the record."""
    return program(path, SERVER.format(python=sys.executable, record=str(record)))


def answering_no(folder: Path) -> None:
    """VLLM_BIN becomes one that sends tokens, too: "no" to all."""
    text = Path(os.environ["VLLM_BIN"]).read_text()
    tokens = text.replace('"finish_reason": "stop",', '"finish_reason": "stop", "token_ids": [45, 2],')
    os.environ["VLLM_BIN"] = str(program(folder / "tokens", tokens))


def adapter(
    folder: Path, rank: int = 8, modules: tuple[str, ...] = ("language_model.layers.0.mlp.up_proj",), **more: Any
) -> Path:
    """An adapter on scenes-base."""
    folder.mkdir(parents=True)
    config = {"base_model_name_or_path": "scenes-base", "peft_type": "LORA", "r": rank, "lora_alpha": rank} | more
    (folder / "adapter_config.json").write_text(json.dumps(config))
    weights = {
        f"base_model.model.model.{module}.lora_{part}.weight": torch.ones(2, 2) for module in modules for part in "AB"
    }
    save_file(weights, folder / "adapter_model.safetensors")
    return folder


def lines(record: Path) -> list[Any]:
    return [json.loads(line) for line in record.read_text().splitlines()]


def starts(record: Path) -> list[list[str]]:
    return [line for line in lines(record) if isinstance(line, list) and line[0] == "serve"]
