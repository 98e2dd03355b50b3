"""How far long work is: reported by whoever works, shown by whoever runs it.

    report("score silkie", 412, 1600)
    report("download val2014.zip", 1048576, 6645013297, "B")     # in bytes
    with doing("loading the weights of llava-7b"): ...           # of which no amount is known

Without a display, as in a library call, reports go nowhere. The command line installs one with `show_on`.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

Display = Callable[..., None]
"""Told of (stage, units done, units in all), and of the unit where it has one: "B" for bytes."""

_displays: list[Display] = []


def report(stage: str, done: int, total: int, unit: str = "") -> None:
    """Tell the display how far a stage is."""
    if _displays:
        _displays[-1](stage, done, total, *([unit] if unit else []))


class Stage:
    """Counts what is done of one stage, and reports it."""

    def __init__(self, name: str, total: int) -> None:
        """`total` units in all; 0: not known."""
        self.name, self.total, self.done = name, total, 0

    def add(self, count: int = 1) -> None:
        """So many more units are done."""
        self.done += count
        report(self.name, self.done, self.total)


@dataclass(eq=False)
class Doing:
    """What is being done, since when."""

    what: str
    since: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """How long already."""
        return time.monotonic() - self.since


_doing: list[Doing] = []


@contextmanager
def doing(what: str) -> Iterator[Doing]:
    """Inside, this is what a display says that the program does; `what` may be changed."""
    _doing.append(one := Doing(what))
    try:
        yield one
    finally:
        _doing.remove(one)


def now_doing() -> Doing | None:
    """What is being done now, the innermost."""
    return _doing[-1] if _doing else None


@contextmanager
def show_on(display: Display) -> Iterator[None]:
    """Inside, reports go to this display."""
    _displays.append(display)
    try:
        yield
    finally:
        _displays.remove(display)
