"""Calls in a child process: what they return, raise, and take too much of."""

import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from support import bounded
from support.bounded import call_bounded


def test_what_a_call_returns_comes_back() -> None:
    assert call_bounded(lambda: ["é\ud800", {"a": None}]) == ["é\ud800", {"a": None}]
    assert call_bounded(os.getpid) != os.getpid()


def stop() -> None:
    raise KeyboardInterrupt("a\nb")


@pytest.mark.parametrize(
    ("call", "said"),
    (
        (lambda: 1 / 0, "ZeroDivisionError: division by zero"),
        (stop, "KeyboardInterrupt: a"),
        (lambda: os._exit(3), "it took more than"),
        (lambda: "x" * (bounded.LONGEST + 1), "it took more than"),
        (lambda: len("x" * (8 << 30)), "it took more than"),
        (object, "TypeError: Object of type object is not JSON serializable"),
    ),
)
def test_what_it_raises_and_a_limit_are_one_line(call: Callable[[], Any], said: str) -> None:
    with pytest.raises(RuntimeError, match=said) as told:
        call_bounded(call)
    assert "\n" not in str(told.value)


def test_a_call_without_an_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "SECONDS", 1)
    began = time.monotonic()
    for call in (lambda: time.sleep(60), lambda: sum(iter(int, 1))):
        with pytest.raises(RuntimeError, match="it took more than"):
            call_bounded(call)
    assert time.monotonic() - began < 20
