"""A dataset's card, and its upload to the hub."""

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.errors import RunError
from trainers.data.dataset_card import dataset_card, push


def test_the_card_is_read_by_the_hub_and_cells_cannot_break_it() -> None:
    from huggingface_hub import DatasetCard

    text = dataset_card(
        "| a |\n|---|\n| 1 |",
        name="Ours: a\ntest",
        rows=82_400,
        pairs=399_400,
        files={"rows": "rows.parquet", "pairs": "pairs-*.parquet"},
        judge="gpt-4o",
        sources={"SVIT | x\n# y": "CC BY 4.0"},
    )
    card = DatasetCard(text)
    assert card.data.to_dict()["license"] == "cc-by-nc-4.0"
    assert card.data.to_dict()["size_categories"] == ["100K<n<1M"]
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["configs"][1] == {"config_name": "pairs", "data_files": "pairs-*.parquet"}
    assert head["pretty_name"] == "Ours: a test"
    assert "| SVIT \\| x # y | CC BY 4.0 |" in text
    assert "399,400 preference pairs" in text
    assert text.rstrip().endswith("| 1 |")


@pytest.mark.parametrize(
    ("rows", "size"), ((0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (80_258, "10K<n<100K"), (10**8, "10M<n<100M"))
)
def test_the_size_is_one_the_hub_knows(rows: int, size: str) -> None:
    assert f"- {size}\n" in dataset_card("", name="n", rows=rows, files={"rows": "r"})


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as an upload of small files needs."""

    private = True
    seen: list[tuple[str, str, str]]

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, body: Any, status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def record(self) -> str:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        self.seen.append((f"{self.command} {self.path}", self.headers.get("Authorization") or "", body))
        return body

    def do_GET(self) -> None:
        self.record()
        self.answer({"id": "me/set", "private": self.private, "sha": "0" * 40, "siblings": []})

    def do_POST(self) -> None:
        body = self.record()
        if self.path == "/api/repos/create":
            self.answer({"url": f"{os.environ['HF_ENDPOINT']}/datasets/me/set", "name": "me/set"})
        elif "/preupload/" in self.path:
            how = {"uploadMode": "regular", "shouldIgnore": False}
            self.answer({"files": [{"path": one["path"], **how} for one in json.loads(body)["files"]]})
        elif "/commit/" in self.path:
            address = f"{os.environ['HF_ENDPOINT']}/datasets/me/set/commit/{'1' * 40}"
            self.answer({"commitOid": "1" * 40, "commitUrl": address, "success": True})
        else:
            self.answer({})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    class Fresh(Hub):
        seen: list[tuple[str, str, str]] = []  # noqa: RUF012

    server = HTTPServer(("127.0.0.1", 0), Fresh)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_fromenvironment")
    yield Fresh
    server.shutdown()
    server.server_close()


@pytest.fixture
def ready(tmp_path: Path) -> Path:
    folder = tmp_path / "ready"
    folder.mkdir()
    (folder / "README.md").write_text(dataset_card("", name="n", rows=1, files={"rows": "rows.jsonl"}))
    (folder / "rows.jsonl").write_text("{}\n")
    (folder / ".rows.jsonl.5.tmp").write_text("half")
    return folder


def test_a_folder_is_pushed_with_its_card_and_without_what_is_unfinished(hub: type[Hub], ready: Path) -> None:
    assert push(ready, "me/set", private=True).endswith("/datasets/me/set")
    created = next(body for call, _, body in hub.seen if call == "POST /api/repos/create")
    assert json.loads(created)["visibility"] == "private"
    commit = next(body for call, _, body in hub.seen if "/commit/" in call)
    files = [json.loads(line)["value"]["path"] for line in commit.splitlines() if json.loads(line)["key"] == "file"]
    assert sorted(files) == ["README.md", "rows.jsonl"]
    assert {token for _, token, _ in hub.seen} == {"Bearer hf_fromenvironment"}


def test_what_is_private_does_not_go_into_a_public_repository(hub: type[Hub], ready: Path) -> None:
    hub.private = False
    with pytest.raises(RunError, match="me/set is public"):
        push(ready, "me/set", private=True)
    assert not any("/commit/" in call for call, _, _ in hub.seen)


def test_a_push_that_fails_is_one_line_without_the_token(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RunError, match=r"^me/set: not pushed to http://127\.0\.0\.1:9: ") as caught:
        push(ready, "me/set", private=True, token="hf_secret")
    assert "\n" not in str(caught.value)
    assert "hf_secret" not in str(caught.value)
    with pytest.raises(RunError, match="a//b"):
        push(ready, "a//b", private=True)
    os.remove(ready / "README.md")
    with pytest.raises(RunError, match="without its card"):
        push(ready, "me/set", private=True)
