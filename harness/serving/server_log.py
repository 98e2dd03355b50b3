"""What the log of a model server tells: how far its start is, why it ended, what it left out."""

import re
from pathlib import Path
from typing import Final

from support.errors import one_line
from support.processes import end_of, last_lines

_LARGEST: Final = 4 << 20
"""Bytes of a log that are looked at."""
_WHO: Final = re.compile(r"^(\([\w-]+(?: pid=\d+)?\) )?(?:\[?\d{4}-\d\d-\d\d [\d:.,]+[^\]]*\]? )?")
_LEVEL: Final = re.compile(r"(DEBUG|INFO|WARNING|ERROR|CRITICAL)[ :]+(?:\d\d-\d\d [\d:.]+ )?(?:\[[\w./]+:\d+\] ?)?")
_CAUSE: Final = re.compile(r"(?:[\w.]*(?:Error|Exception|Interrupt)\b:|.{0,60}?\b[Ee]rror: )\s*\S")
_USELESS: Final = re.compile(r"see (the )?(root cause|stack trace)", re.IGNORECASE)
_BUSY_PORT: Final = re.compile(r"address already in use|Errno 98\b|Errno 48\b", re.IGNORECASE)
_LEFT_OUT: Final = re.compile(r"(?=.*(tower|connector))(?=.*(will be ignored|disabl(ed|ing)))", re.IGNORECASE)
_ASKED: Final = re.compile(r'"(GET|POST) /')
"""Lines about requests."""


def find_cause(log: Path) -> str:
    """Why a server ended: the first line that names an error, else its last lines; empty where it printed nothing."""
    for level, text in _read_lines(log):
        if level not in ("DEBUG", "INFO", "WARNING") and _CAUSE.match(text) and not _USELESS.search(text):
            return one_line(text)[:500]
    return last_lines(log)


def is_port_taken(log: Path) -> bool:
    """Whether a server ended since another process listens on its port."""
    return _BUSY_PORT.search(end_of(log, _LARGEST)) is not None


def find_left_out(log: Path) -> str:
    """The line that says that adapters of the vision encoder are not applied; empty where there is none."""
    return next((one_line(text)[:300] for _, text in _read_lines(log) if _LEFT_OUT.search(text)), "")


def newest_line(log: Path) -> str:
    """What a server does at present, in its words."""
    lines = [text for _, text in _read_lines(log, 8192) if re.search(r"[A-Za-z]{3}", text) and not _ASKED.search(text)]
    return one_line(lines[-1])[:100] if lines else ""


def _read_lines(log: Path, size: int = _LARGEST) -> list[tuple[str, str]]:
    """The level of each line, where it has one, and its text."""
    found = []
    for line in re.split(r"[\r\n]+", end_of(log, size)):
        text = _WHO.sub("", line, count=1)
        level = _LEVEL.match(text)
        found.append((level[1] if level else "", text[level.end() :].rstrip() if level else text.rstrip()))
    return found
