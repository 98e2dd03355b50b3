"""A bar for each stage of long work.

    with Stages():
        train_then_eval(...)    # library code logs lines and calls `support.progress.report`

On a terminal stages are bars with rate and time left; elsewhere a stage is one line at its end. Where log lines below
WARNING are hidden (-q, or another process than the first one), stages are hidden too.
"""

import logging
from contextlib import ExitStack
from types import TracebackType

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

from support.console import HANDLER, stderr_for_bars, write_out
from support.errors import one_line
from support.progress import show_on


class _Rate(ProgressColumn):
    """How many a second."""

    def render(self, task: Task) -> Text:
        """Empty until something was done."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s")


class Stages:
    """Inside, `progress.report(stage, done, total)` shows a bar for each stage, and log lines appear above the bars."""

    def __init__(self) -> None:
        self.console = Console(file=stderr_for_bars())
        counts = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), _Rate())
        columns = (*counts, TimeElapsedColumn(), TimeRemainingColumn())
        self.hidden = HANDLER.level > logging.INFO
        bars = self.console.is_terminal and not self.hidden
        # Not redirected: rich would obey the codes in what others print.
        self.progress = Progress(
            *columns, console=self.console, disable=not bars, redirect_stdout=False, redirect_stderr=False
        )
        self.bars: dict[str, TaskID] = {}
        self.finished: dict[str, int] = {}
        self._shown = ExitStack()

    def __enter__(self) -> "Stages":
        self.progress.start()
        self._shown.enter_context(show_on(self.report))
        HANDLER.print_above = self.tell
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        HANDLER.print_above = None
        self._shown.close()
        self.progress.stop()

    def report(self, stage: str, done: int, total: int) -> None:
        """Show how far a stage is; without a terminal, a line at its end."""
        if self.hidden:
            return
        stage = write_out(one_line(stage))
        if stage not in self.bars:
            self.bars[stage] = self.progress.add_task(stage, total=total or None)
        self.progress.update(self.bars[stage], completed=done, total=total or None)
        if not self.console.is_terminal and done >= total > 0 and self.finished.get(stage) != total:
            self.finished[stage] = total
            self.tell(f"{stage}: {done}/{total}")

    def tell(self, line: str) -> None:
        """Print one line above the bars."""
        self.console.print(write_out(line), markup=False, emoji=False, highlight=False, soft_wrap=True)
