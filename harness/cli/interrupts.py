"""What Ctrl-C does to a command: nothing is begun yet, it ends at once; work is left in order; no traceback of either.

Libraries turn an interrupt into errors of their own (an ImportError, an error in a destructor or a thread): what is
raised after one was seen is taken for its consequence. In a destructor, and while a process is forked, Python drops
what a signal's handler raises: the signal is sent again.
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

    sys.unraisablehook = _send_again(_unless_interrupted(sys.unraisablehook))
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


def _send_again(tell: "Callable[[Any], None]") -> "Callable[[Any], None]":
    def hook(error: "Any") -> None:
        import threading

        if error.exc_type is KeyboardInterrupt:
            number = signal.SIGINT
        elif error.exc_type is SystemExit and getattr(error.exc_value, "code", 0) == 128 + signal.SIGTERM:
            number = signal.SIGTERM
        else:
            return tell(error)
        # Later: what the handler raises here is dropped, too.
        timer = threading.Timer(0.05, signal.pthread_kill, (threading.main_thread().ident, number))
        timer.daemon = True
        timer.start()

    return hook


def _unless_interrupted(tell: "Callable[[Any], Any]") -> "Callable[[Any], None]":
    def hook(error: "Any") -> None:
        if not _State.seen:
            tell(error)

    return hook
