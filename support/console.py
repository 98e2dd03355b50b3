"""What a command shows: log lines of the project's packages, and no text that could do more than be read.

    set_up_logging(verbosity=0)            # once, at the start of a process
    protect_streams()                      # what is printed from now on has no secrets and no control characters in it
    with Stages(): train_then_eval(...)    # from support.stages: bars for long work, log lines above them

Of several processes that work on one run, only the first one shows lines below WARNING. rich is not imported here, so
that commands without long work start fast.
"""

import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, ClassVar, Final, TextIO, cast

from support.processes import rank
from support.secrets import redact

PACKAGES: Final = ("support", "tasks", "leaderboards", "trainers", "harness")
"""The loggers whose lines users see."""
RUNNERS: Final = ("GITHUB_ACTIONS", "TF_BUILD", "TEAMCITY_VERSION")
"""Variables of CI systems that take orders from what a job prints."""

_UNSAFE: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u08e2\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    r"\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
"""Controls but newline and tab, formats (bidi overrides, zero widths, tags), halves of surrogate pairs."""
_ORDER: Final = re.compile(r"^(?P<space>[^\S\n]*):(?=:)|#(?=#\w*\[)", re.MULTILINE)
"""The sign that makes an order of a line, for GitHub, Azure and TeamCity."""


def write_out(text: str) -> str:
    """A text with what moves a cursor, is invisible or turns the direction of reading as \\u001b; JSON stays JSON."""
    return _UNSAFE.sub(lambda found: _escape(ord(found[0])), text)


def _escape(code: int) -> str:
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class SafeStream:
    """A stream for people and CI systems: secrets are taken out, unsafe characters are written out (JSON stays JSON),
    and no line is an order to a CI system. It says that it is no terminal, so that libraries print no colours.

    With `codes`, control characters pass: for a library that moves the cursor, and is given safe texts.
    """

    def __init__(self, raw: TextIO, *, codes: bool = False) -> None:
        self.raw, self._codes = raw, codes
        self._obeys = any(os.environ.get(name, "").lower() not in ("", "0", "false") for name in RUNNERS)
        self._line = ""
        """The first sign of the line that is being written; empty while it is blank."""

    give_way: ClassVar["Callable[[SafeStream], None] | None"] = None
    """Called before something is printed on a terminal, where bars are drawn; None: there are none."""

    def write(self, text: str) -> int:
        """Write a text; its length."""
        if not self._codes and SafeStream.give_way is not None and self.raw.isatty():
            SafeStream.give_way(self)
        safe = redact(text)
        if not self._codes:
            safe = write_out(safe)
        if self._obeys:
            safe = self._without_orders(safe)
        self.raw.write(safe)
        return len(text)

    def _without_orders(self, text: str) -> str:
        begin = "." if self._line else ""  # a sign that no order begins with
        safe = _ORDER.sub(lambda found: (found["space"] or "") + _escape(ord(found[0][-1])), begin + text)
        self._line = (self._line + text).rpartition("\n")[2].strip()[:1]
        return safe.removeprefix(begin)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each of some texts."""
        for line in lines:
            self.write(line)

    def isatty(self) -> bool:
        """Whether it is a terminal that takes control characters."""
        return self._codes and self.raw.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)


def protect_streams() -> None:
    """Make sys.stdout and sys.stderr safe streams, from now on."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, SafeStream):
            setattr(sys, name, cast(TextIO, SafeStream(stream)))


@contextmanager
def protected_streams() -> Iterator[None]:
    """Inside, sys.stdout and sys.stderr are safe streams."""
    before = sys.stdout, sys.stderr
    protect_streams()
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def with_codes(stream: TextIO) -> TextIO:
    """sys.stdout or sys.stderr for a library that moves the cursor, or colours; what is written there must have passed
    `write_out`."""
    raw = stream.raw if isinstance(stream, SafeStream) else stream
    return cast(TextIO, SafeStream(raw, codes=True))


def is_terminal(stream: TextIO) -> bool:
    """Whether what is printed there can be coloured, and the cursor moved."""
    return with_codes(stream).isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


class _StderrHandler(logging.Handler):
    """Prints a record's message; a warning or an error says so in front.

    One with `is_order` is meant for the CI system, and escaped by its rules already."""

    print_above: Callable[[str], None] | None = None
    """Prints a line above the bars that are on the screen; None: there are none."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        line = prefix + record.getMessage()
        if self.print_above is not None:
            self.print_above(line)
        elif getattr(record, "is_order", False) and isinstance(sys.stderr, SafeStream):
            print(redact(line), file=sys.stderr.raw, flush=True)
        else:
            with suppress(OSError):  # a stderr that is full or gone ends no run
                print(line, file=sys.stderr, flush=True)


HANDLER: Final = _StderrHandler()
"""The one handler that prints for users."""


def set_up_logging(verbosity: int = 0) -> None:
    """Show the project's log lines on stderr: from WARNING (-1), INFO (0) or DEBUG (1) on."""
    level = {-1: logging.WARNING, 0: logging.INFO}.get(verbosity, logging.DEBUG)
    HANDLER.setLevel(level if rank() == 0 else max(level, logging.WARNING))
    for name in PACKAGES:
        logger = logging.getLogger(name)
        logger.setLevel(level)
        if HANDLER not in logger.handlers:
            logger.addHandler(HANDLER)
