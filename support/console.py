"""What a command shows on stderr: log lines of the project's packages, and a bar for each stage of long work.

    set_up_logging(verbose=0)              # once, at the start of a process
    with Stages(): train_then_eval(...)    # library code logs lines and calls `progress.report`

On a terminal stages are bars with rate and time left; elsewhere a stage is one line at its end. Of several processes
that work on one run, only the first one shows lines below WARNING.
"""

import logging
import sys
from contextlib import ExitStack
from types import TracebackType
from typing import Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from support.processes import rank
from support.progress import show_on

PACKAGES: Final = ("support", "tasks", "leaderboards", "trainers", "harness")
"""The loggers whose lines users see."""


class _StderrHandler(logging.Handler):
    """Prints a record's message as it is; a warning or an error says so in front."""

    stages: "Stages | None" = None
    """Bars that are on the screen: lines are printed above them."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        line = prefix + record.getMessage()
        if self.stages is not None:
            self.stages.tell(line)
        else:
            print(line, file=sys.stderr, flush=True)


_HANDLER: Final = _StderrHandler()


def set_up_logging(verbosity: int = 0) -> None:
    """Show the project's log lines on stderr: from WARNING (-1), INFO (0) or DEBUG (1) on."""
    level = {-1: logging.WARNING, 0: logging.INFO}.get(verbosity, logging.DEBUG)
    _HANDLER.setLevel(level if rank() == 0 else max(level, logging.WARNING))
    for name in PACKAGES:
        logger = logging.getLogger(name)
        logger.setLevel(level)
        if _HANDLER not in logger.handlers:
            logger.addHandler(_HANDLER)


class _Rate(ProgressColumn):
    """How many a second."""

    def render(self, task: Task) -> Text:
        """Empty until something was done."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s")


class Stages:
    """Inside, `progress.report(stage, done, total)` shows a bar for each stage, and log lines appear above the bars."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        self.bars: dict[str, TaskID] = {}
        self.told: dict[str, int] = {}
        self._shown = ExitStack()

    def __enter__(self) -> "Stages":
        self.progress.start()
        self._shown.enter_context(show_on(self.report))
        _HANDLER.stages = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _HANDLER.stages = None
        self._shown.close()
        self.progress.stop()

    def tell(self, line: str) -> None:
        """Print one line."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def report(self, stage: str, done: int, total: int) -> None:
        """Show how far a stage is, in the first process; without a terminal, a line at its end."""
        if rank() != 0:
            return
        if stage not in self.bars:
            self.bars[stage] = self.progress.add_task(stage, total=total or None)
        self.progress.update(self.bars[stage], completed=done, total=total or None)
        if not self.console.is_terminal and done >= total > 0 and self.told.get(stage) != total:
            self.told[stage] = total
            self.tell(f"{stage}: {done}/{total}")
