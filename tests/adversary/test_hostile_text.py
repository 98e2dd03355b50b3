"""A model, its server and its name give no orders: not to a terminal, not to a CI system, not to a spreadsheet."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import run

pytestmark = pytest.mark.usefixtures("no_keys")
NASTY = (
    "yes \x1b[31mred\x1b]0;pwn\x07\x9b2J \u202egnp\u2066.\u200b\n::error title=x::pwn\n  ::add-mask::yes\r::stop::\n"
    "##[group]x ##vso[x]"
)
FORBIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069]|^\\s*::|##\\w*\\[", re.MULTILINE
)


@pytest.fixture
def hostile(server: Any) -> str:
    """The address of a server whose model says and is called what it likes."""
    message = {"role": "assistant", "content": NASTY}
    reply = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "model": NASTY}
    server.answer = lambda body: (200, {"object": "chat.completion", "system_fingerprint": NASTY, **reply})
    return str(server.url)


def test_no_command_prints_an_order(
    hostile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("TQDM_DISABLE", "1")
    eval_ = ("eval", "--tasks", "scenes_pope", "--limit", "4", "--model-url", hostile, "--ledger", "l.sqlite")
    gate = ("check", "--baseline", "a/board", "--board", "b/board", "--partial", "--model", "openai:=b\x1b[31m")
    commands: list[tuple[str, ...]] = [
        (*eval_, "--model", "openai:::a\u202e", "--out", "a", "-v"),
        (*eval_, "--model", "openai:=b\x1b[31m", "--out", "b", "--json"),
        ("leaderboard", "a", "b", "--partial"),
        ("leaderboard", "a", "b", "--partial", "--format", "csv"),
        ("leaderboard", "a", "b", "--partial", "--json"),
        ("compare", "openai:::a\u202e", "openai:=b\x1b[31m", "--board", "a", "--board", "b", "--partial"),
        ("compare", "openai:::a\u202e", "openai:=b\x1b[31m", "--board", "a", "--board", "b", "--partial", "--json"),
        (*gate, "--baseline-model", "openai:::a\u202e", "--junit", "g.xml", "--comment", "g.md", "--json"),
        ("judge", "ledger", "--ledger", "l.sqlite"),
        ("eval", "--model", "openai:m", "--tasks", NASTY),
        ("leaderboard", f"::error::{NASTY}"),
        ("score", "scenes_pope", NASTY.replace("/", "")),
    ]
    texts = {}
    for words in commands:
        run(list(words))
        told = capfd.readouterr()
        ours = (
            [line for line in told.err.splitlines() if not line.startswith(("::error title=", "::notice title="))]
            if words[0] == "check"
            else [told.err]
        )
        assert not FORBIDDEN.search(told.out), words
        assert not FORBIDDEN.search("\n".join(ours)), words
        if "--json" in words and told.out:
            json.loads(told.out)
        texts[words] = told.out
    rows = list(csv.DictReader(io.StringIO(texts[commands[3]])))
    assert {row["model"] for row in rows} == {"openai:::a\\u202e", "openai:=b\\u001b[31m"}
    assert not FORBIDDEN.search((tmp_path / "g.md").read_text(encoding="utf-8").replace("\u200b", ""))
