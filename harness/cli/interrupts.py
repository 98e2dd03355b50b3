"""What Ctrl-C does to a command: nothing is begun yet, it ends at once; work is left in order; no traceback of either.

Libraries turn an interrupt into errors of their own (an ImportError, an error in a destructor or a thread): what is
raised after one was seen is taken for its consequence.
"""

import os
import signal

# Whatever is imported before `end_at_once` can be interrupted with a traceback.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

INTERRUPTED = 130


class _State:
    working = False
    """Whether a command has begun, which is left in order."""
    seen = False
    """Whether the user has interrupted."""


def end_at_once() -> None:
    """From here on Ctrl-C ends this process at once, with 130."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as under nohup, and in the background of a script
        signal.signal(signal.SIGINT, _interrupt)
    import sys
    import threading

    sys.unraisablehook = _unless_interrupted(sys.unraisablehook)
    threading.excepthook = _unless_interrupted(threading.excepthook)


def end_in_order() -> None:
    """From here on Ctrl-C raises KeyboardInterrupt, so that blocks are left in order."""
    _State.working = True


def is_interrupted() -> bool:
    """Whether the user has interrupted this process."""
    return _State.seen


def _interrupt(number: int, frame: "FrameType | None") -> None:
    _State.seen = True
    if not _State.working:
        os._exit(INTERRUPTED)
    raise KeyboardInterrupt


def _unless_interrupted(tell: "Callable[[Any], Any]") -> "Callable[[Any], None]":
    def hook(error: "Any") -> None:
        if not _State.seen:
            tell(error)

    return hook
