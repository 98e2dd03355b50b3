"""A call of what a stranger wrote, made in a child process whose time, memory and words have limits.

texts = call_bounded(lambda: [template.render(question)])      # RuntimeError says what it raised, or that it had no end
"""

import contextlib
import json
import os
import resource
import select
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn

from support.errors import one_line

SECONDS: Final = 10
ROOM: Final = 1 << 30
"""Bytes that the call may take beside those that are taken."""
LONGEST: Final = 4 << 20
"""Bytes of what it returns, as JSON."""
_BEYOND: Final = f"it took more than {SECONDS} s, {ROOM >> 30} GiB or {LONGEST >> 20} MiB of text"


def call_bounded(call: Callable[[], Any]) -> Any:
    """What `call` returns, as JSON values; RuntimeError, in one line, for what it raises and for a limit it reaches."""
    here, there = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads; the child uses none of theirs
        child = os.fork()
    if child == 0:
        os.close(here)
        _answer(call, there)
    os.close(there)
    try:
        said = _read(here, time.monotonic() + SECONDS)
    finally:
        os.close(here)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    found = json.loads(said) if said else {"error": _BEYOND}
    if "error" in found:
        raise RuntimeError(found["error"])
    return found["value"]


def _answer(call: Callable[[], Any], there: int) -> NoReturn:
    """In the child: write what the call returns or raises, and end without touching what the parent has open."""
    try:
        _set_limits()
        try:
            said = json.dumps({"value": call()})
        except MemoryError:
            said = ""
        except BaseException as error:  # it may raise anything
            said = json.dumps({"error": f"{type(error).__name__}: {one_line(error)}"})
        data = said.encode()
        while data and len(said) <= LONGEST:
            data = data[os.write(there, data) :]
    finally:
        os._exit(0)


def _set_limits() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):  # elsewhere than on Linux time alone is limited
        taken = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM, taken + ROOM))


def _read(here: int, deadline: float) -> bytes:
    """All that the child writes; nothing if it has not ended by then."""
    pieces: list[bytes] = []
    while (left := deadline - time.monotonic()) > 0 and select.select([here], [], [], left)[0]:
        if not (piece := os.read(here, 1 << 16)):
            return b"".join(pieces)
        pieces.append(piece)
    return b""
