"""That a program works, and on what, is always on the screen; in a pipe, after a while of silence, in a line."""

import io
import logging
import os
import pty
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from support import stages
from support.console import protected_streams, set_up_logging
from support.progress import doing, now_doing, report
from support.stages import Stages

CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Screen:
    """What a terminal got so far."""

    def __init__(self) -> None:
        self.read = b""
        self.ours, self.theirs = pty.openpty()
        self.thread = threading.Thread(target=self._copy, daemon=True)
        self.thread.start()

    def _copy(self) -> None:
        with suppress(OSError):  # it is closed
            while part := os.read(self.ours, 65536):
                self.read += part

    @property
    def text(self) -> str:
        return CODES.sub("", self.read.decode("utf-8", "replace"))

    def wait_for(self, words: str, after: int = 0) -> int:
        """The place where `words` begin; fails if they don't come."""
        for _ in range(600):
            if (place := self.text.find(words, after)) >= 0:
                return place
            time.sleep(0.05)
        raise AssertionError(f"{words!r} did not come; there is {self.text!r}")


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Screen]:
    """stdout and stderr are one terminal of 80 columns."""
    screen = Screen()
    with os.fdopen(screen.theirs, "w", encoding="utf-8", buffering=1) as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", stream)
        patch.setenv("TERM", "xterm")
        patch.setenv("COLUMNS", "80")
        patch.setattr(stages, "TICK", 0.05)
        set_up_logging()
        with protected_streams():
            yield screen
    screen.thread.join(20)


def test_what_is_done_is_on_the_screen_and_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as screen, Stages():
        with doing("loading the weights of a-model"):
            first = screen.wait_for("loading the weights of a-model")
            screen.wait_for("0:01 loading the weights", first)
            with doing("[red]connecting\x1b[8m\nto a server " + "far away " * 20):
                screen.wait_for(r"[red]connecting\u001b[8m to a server")
        report("answers", 1, 3)
        screen.wait_for("answers ")
        screen.wait_for("1/3")
    assert now_doing() is None


def test_what_is_printed_is_whole_and_the_display_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as screen, doing("outer work"), Stages() as outer:
        with Stages() as inner:
            assert inner is outer
            report("first stage", 2, 2)
            screen.wait_for("first stage")
            print("a warning of a library", file=sys.stderr)
            place = screen.wait_for("a warning of a library")
            screen.wait_for("first stage", place)
        logging.getLogger("support.test").info("a line")
        screen.wait_for("a line")
        assert not outer.progress.tasks
        print("the | result |")
        place = screen.wait_for("the | result |")
        screen.wait_for("outer work", place)
        print("the | second |")
        screen.wait_for("the | second |")
    last = screen.read.decode().rpartition("the | second |")[2]
    assert "outer work" not in CODES.sub("", last.rpartition("\x1b[2K")[2])
    assert last.rfind("\x1b[?25h") > last.rfind("\x1b[?25l")  # the cursor is there again


def test_in_a_pipe_long_silence_is_broken_by_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", pipe := io.StringIO())
    monkeypatch.setattr(stages, "TICK", 0.02)
    monkeypatch.setattr(stages, "QUIET", 0.1)
    set_up_logging()

    def wait_for(words: str) -> None:
        for _ in range(600):
            if words in pipe.getvalue():
                return
            time.sleep(0.05)
        raise AssertionError(f"{words!r} did not come; there is {pipe.getvalue()!r}")

    with Stages(), doing("waiting for a server"):
        report("answers", 1, 3)
        wait_for("waiting for a server, 0:00 so far; answers: 1/3\n")
    assert "\x1b" not in pipe.getvalue()


def test_nothing_is_told_where_it_is_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", pipe := io.StringIO())
    monkeypatch.setattr(stages, "TICK", 0.01)
    monkeypatch.setattr(stages, "QUIET", 0.01)
    set_up_logging(-1)
    before = threading.active_count()
    with Stages(), doing("waiting"):
        assert threading.active_count() == before
        report("answers", 3, 3)
    set_up_logging()
    assert pipe.getvalue() == ""
