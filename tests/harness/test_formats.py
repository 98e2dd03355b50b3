"""Every command that prints tables prints them in every form: drawn on a terminal, markdown elsewhere, or as asked."""

import csv
import io
import json
import os
import pty
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from harness.cli import main as cli
from harness.cli.lazy import load_command
from harness.cli.shown import TABLES, WITHOUT_JSON


def leaves(command: Any, words: str) -> Iterator[tuple[str, Any]]:
    yield words, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from leaves(inner, f"{words} {name}")


def test_every_command_of_tables_takes_a_format_and_prints_json() -> None:
    groups = {words.split()[0] for words in TABLES}
    found = {words: each for name in groups for words, each in leaves(load_command(name), name)}
    assert not set(TABLES) - set(found)
    for words in TABLES:
        names = {opt for param in found[words].params for opt in param.opts}
        assert "--format" in names, words
        assert "--json" in names or words in WITHOUT_JSON, words


def printed(arguments: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> str:
    capsys.readouterr()
    assert cli.run(arguments) == code
    return capsys.readouterr().out


def test_each_form_of_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    plain = printed(["tasks"], capsys)
    assert plain == printed(["tasks", "--format", "markdown"], capsys)
    assert re.match(r"\| task +\| +version \|", plain)
    rows = list(csv.DictReader(io.StringIO(printed(["tasks", "--format", "csv"], capsys))))
    assert {"task": "scenes_chair", "version": "1.0"}.items() <= next(
        {key: row[key] for key in ("task", "version")} for row in rows if row["task"] == "scenes_chair"
    ).items()
    latex = printed(["tasks", "--format", "latex"], capsys)
    assert r"\toprule" in latex
    assert r"scenes\_chair" in latex
    as_json = printed(["tasks", "--json"], capsys)
    assert as_json == printed(["tasks", "--format", "json"], capsys)
    assert json.loads(as_json)["tasks"]
    assert plain == printed(["tasks"], capsys)  # no form is kept for the next command


def test_two_forms_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["models", "--json", "--format", "latex"]) == 2
    assert "--json and --format latex are forms of one output" in capsys.readouterr().err
    assert cli.run(["attention", "scenes-base", "--format", "json"]) == 2
    assert "harness attention prints no JSON" in capsys.readouterr().err
    assert cli.run(["attention", "scenes-base", "--json"]) == 2
    assert "--json is for --dry-run" in capsys.readouterr().err
    assert cli.run(["models", "--format", "html"]) == 2


def on_terminal(arguments: list[str], monkeypatch: pytest.MonkeyPatch, term: str = "xterm") -> str:
    """What a command prints on a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w", encoding="utf-8") as stream, monkeypatch.context() as patch:
        patch.setattr("sys.stdout", stream)
        patch.setenv("COLUMNS", "80")
        patch.setenv("TERM", term)
        assert cli.run(arguments) == 0
    found = b""
    with suppress(OSError):  # there is no more
        while part := os.read(ours, 65536):
            found += part
    os.close(ours)
    return found.decode()


SHORT = ["judge", "families", "gpt-4-0613"]


def test_a_terminal_is_drawn_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    text = on_terminal(SHORT, monkeypatch)
    assert "\x1b[1m" in text
    assert "───" in text
    assert "|:--" not in text
    assert max(map(len, re.sub(r"\x1b\[[\d;]*m", "", text).splitlines())) <= 80


def test_a_form_that_is_asked_for_is_printed_on_a_terminal_too(monkeypatch: pytest.MonkeyPatch) -> None:
    text = on_terminal([*SHORT, "--format", "markdown"], monkeypatch)
    assert "|:--" in text
    assert "\x1b" not in text


def test_a_dumb_terminal_gets_markdown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "|:--" in on_terminal(SHORT, monkeypatch, term="dumb")
