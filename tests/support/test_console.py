"""What is printed can be read, and does nothing else: on a terminal, in a log, in a CI job."""

import io
import json
import logging
import os
import pty
import sys
import threading
from typing import Any

import pytest

from support.console import SafeStream, protected_streams, set_up_logging, write_out
from support.progress import report
from support.secrets import remember
from support.stages import Stages

NASTY = {
    "colour": "\x1b[31m",
    "title": "\x1b]0;pwn\x07",
    "cursor": "\x1b[2K\x1b[1A",
    "C1": "\x9b31m",
    "carriage return": "\r",
    "backspace": "\x08",
    "delete": "\x7f",
    "NUL": "\x00",
    "override": "\u202e",
    "isolate": "\u2066",
    "mark": "\u200f",
    "Arabic mark": "\u061c",
    "zero width": "\u200b",
    "byte order": "\ufeff",
    "line separator": "\u2028",
    "tag": "\U000e0041",
    "half a pair": "\ud83d",
}


def printed(*texts: str) -> str:
    """What comes out of a safe stream, of texts written one after the other."""
    raw = io.StringIO()
    SafeStream(raw).writelines(texts)
    return raw.getvalue()


@pytest.mark.parametrize("sign", NASTY.values(), ids=NASTY)
def test_what_is_no_text_is_written_out(sign: str) -> None:
    shown = printed(f"a{sign}b\n\tc")
    assert shown == write_out(f"a{sign}b") + "\n\tc"
    assert shown.startswith("a\\")
    assert "\\u" in shown or "\\U" in shown
    assert not set(shown) & set("\x1b\x07\x9b\r\x08\x7f\x00\u202e\u2066\u200f\u061c\u200b\ufeff\u2028\U000e0041\ud83d")


def test_texts_of_all_languages_stay() -> None:
    text = "naïve 图 é العربية हिन्दी 🐈 — ▲ │ ═\n\t[red] [link=x]\n"
    assert printed(text) == text


@pytest.mark.parametrize("sign", NASTY.values(), ids=NASTY)
def test_json_stays_json(sign: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    data = {"answer": f"{sign}\n::error::x ##[group]y ##vso[task.x]"}
    for shown in (printed(json.dumps(data)), printed(json.dumps(data, indent=1))):
        assert json.loads(shown) == data
        assert "##" not in shown


@pytest.mark.parametrize(
    ("texts", "shown"),
    (
        (["::error::x\n"], "\\u003a:error::x\n"),
        (["a\n  ::add-mask::x\nb::c"], "a\n  \\u003a:add-mask::x\nb::c"),
        (["a", "::b\n", "::c"], "a::b\n\\u003a:c"),
        (["  ", "\t", "::x"], "  \t\\u003a:x"),
        (["\n\n::x"], "\n\n\\u003a:x"),
        (["a ##[group]b"], "a \\u0023#[group]b"),
        (["a ###[group]b"], "a #\\u0023#[group]b"),
        (["##vso[task.x]b"], "\\u0023#vso[task.x]b"),
        (["## [a](b) a:b :: c"], "## [a](b) a:b :: c"),
    ),
)
def test_no_text_gives_an_order_to_a_ci_system(texts: list[str], shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert printed(*texts) == shown
    monkeypatch.setenv("GITHUB_ACTIONS", "false")
    assert printed(*texts) == "".join(texts)


def test_log_lines_prints_and_orders(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    remember("PLANTED-1")
    log = logging.getLogger("support.test")
    with protected_streams():
        set_up_logging()
        print("\x1b[31m PLANTED-1")
        log.warning("PLANTED-1\n::error::x")
        log.info("::error title=ours::PLANTED-1", extra={"is_order": True})
    print("\x1b PLANTED-1")
    found = capsys.readouterr()
    assert found.out == "\\u001b[31m [secret]\n\x1b PLANTED-1\n"
    assert found.err == "warning: [secret]\n\\u003a:error::x\n::error title=ours::[secret]\n"


def test_bars_on_a_terminal_obey_nobody_but_us(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real terminal: the bars move the cursor there; names and lines, which come from elsewhere, do not."""
    remember("PLANTED-1")
    ours, theirs = pty.openpty()
    read: list[bytes] = []

    def copy() -> None:
        while b"END" not in b"".join(read):
            read.append(os.read(ours, 65536))

    reader = threading.Thread(target=copy)
    reader.start()
    with os.fdopen(theirs, "w", encoding="utf-8") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        set_up_logging()
        with protected_streams():
            print("told\x1b[8m", file=sys.stderr)
            with Stages() as stages:
                assert stages.console.is_terminal
                report("[red]task[/red]\x1b]0;pwn\x07 PLANTED-1\nnext", 1, 2)
                logging.getLogger("support.test").info("a [link=x]line\x1b[31m\u202e PLANTED-1")
                report("[red]task[/red]\x1b]0;pwn\x07 PLANTED-1\nnext", 2, 2)
            print("END", file=sys.stderr, flush=True)
        reader.join(20)
    shown: Any = b"".join(read).decode()
    assert "[red]task[/red]\\u001b]0;pwn\\u0007 [secret] next" in shown
    assert "a [link=x]line\\u001b[31m\\u202e [secret]" in shown
    assert "told\\u001b[8m" in shown
    assert "\x1b[2K" in shown
    assert not any(sign in shown for sign in ("\x1b]0", "\x07", "\u202e", "PLANTED"))
