"""What a command shows on stderr: log lines of the project's packages.

    set_up_logging(verbosity=0)            # once, at the start of a process
    with Stages(): train_then_eval(...)    # from support.stages: bars for long work, log lines above them

Of several processes that work on one run, only the first one shows lines below WARNING. rich is not imported here, so
that commands without long work start fast.
"""

import logging
import sys
from collections.abc import Callable
from typing import Final

from support.processes import rank

PACKAGES: Final = ("support", "tasks", "leaderboards", "trainers", "harness")
"""The loggers whose lines users see."""


class _StderrHandler(logging.Handler):
    """Prints a record's message as it is; a warning or an error says so in front."""

    print_above: Callable[[str], None] | None = None
    """Prints a line above the bars that are on the screen; None: there are none."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        line = prefix + record.getMessage()
        if self.print_above is not None:
            self.print_above(line)
        else:
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
