"""A server started for a run. The server is a small script that speaks the protocol; vLLM itself can't be had here."""

import json
import os
import stat
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main as cli
from harness.models.spec import ModelSpec, find
from harness.serving.model_server import served
from support.errors import ServerError

SERVER = """#!{python}
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

words = sys.argv[1:]
open({record!r}, "a").write(json.dumps(words) + "\\n")
value = lambda name: words[words.index(name) + 1]


class Calls(BaseHTTPRequestHandler):
    def answer(self, body):
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.answer({{}})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        open({record!r}, "a").write(json.dumps("asked") + "\\n")
        self.answer({{"id": "1", "object": "chat.completion", "created": 1, "model": asked["model"],
                     "choices": [{{"index": 0, "finish_reason": "stop",
                                  "message": {{"role": "assistant", "content": "yes"}}}}],
                     "usage": {{"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}}}})

    def log_message(self, *args):
        pass


ThreadingHTTPServer((value("--host"), int(value("--port"))), Calls).serve_forever()
"""


@pytest.fixture
def vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `vllm` of its own; what it was called with and asked is written to the file."""
    record, command = tmp_path / "record.jsonl", tmp_path / "vllm"
    command.write_text(SERVER.format(python=sys.executable, record=str(record)))
    command.chmod(command.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("VLLM_BIN", str(command))
    return record


def lines(record: Path) -> list[Any]:
    return [json.loads(line) for line in record.read_text().splitlines()]


def test_a_model_is_scored_through_its_server_which_is_stopped(
    vllm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["eval", "--model", "scenes-base", "--serve", "vllm", "--tasks", "scenes_pope", "--limit", "6", "--json"]
    assert cli.run([*command, "--out", str(tmp_path / "run")]) == 0
    entry = json.loads(capsys.readouterr().out)["entries"][0]
    assert (entry["model"], entry["samples"], entry["failed"]) == ("scenes-base", 6, 0)
    assert entry["provenance"]["served by"] == "vllm"
    assert len(entry["provenance"]["weights"]) == 16
    first, *asked = lines(vllm)
    assert first[0] == "serve"
    assert Path(first[1]).name == "scenes-base"
    assert len(asked) == 6
    with pytest.raises(OSError, match=r"refused|reset"):
        urllib.request.urlopen(f"http://127.0.0.1:{first[first.index('--port') + 1]}/health", timeout=2)
    # Another run, another port: the answers are there already.
    assert cli.run([*command, "--out", str(tmp_path / "again")]) == 0
    assert lines(vllm).count("asked") == 6


def test_an_adapter_is_served_by_its_own_name(vllm: Path, tmp_path: Path) -> None:
    base = find("scenes-base")
    spec = ModelSpec(name="tuned", pretrained=base.pretrained, adapter=tmp_path)
    with served(spec) as asked:
        assert (asked.backend, asked.pretrained) == ("openai", "tuned-adapter")
        assert asked.digests["served by"] == "vllm"
    assert f"tuned-adapter={tmp_path}" in lines(vllm)[0]


def test_a_server_that_dies_is_said_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / "vllm"
    command.write_text("#!/bin/sh\necho no GPU >&2\nexit 3\n")
    command.chmod(0o755)
    monkeypatch.setenv("VLLM_BIN", str(command))
    with pytest.raises(ServerError, match="vllm ended with code 3: no GPU"), served(find("scenes-base")):
        pass


def test_without_vllm_it_is_said_how_to_have_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("VLLM_BIN", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerError, match="VLLM_BIN"), served(find("scenes-base")):
        pass
    assert os.environ["PATH"] == str(tmp_path)
