"""A bar for each stage of long work.

    with Stages():
        train_then_eval(...)    # library code logs lines and calls `support.progress.report`

On a terminal stages are bars with rate and time left; elsewhere a stage is one line at its end, and one of many bytes a
line for each tenth. Where log lines below WARNING are hidden (-q, or another process than the first one), stages are
hidden too.
"""

import logging
import sys
from contextlib import ExitStack
from types import TracebackType

from rich.console import Console
from rich.filesize import decimal
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

from support.console import HANDLER, with_codes, write_out
from support.errors import one_line
from support.progress import show_on

MANY_BYTES = 100 << 20
"""A stage of so many bytes takes minutes: where there is no bar, it is told of on its way."""


class _Rate(ProgressColumn):
    """How many a second."""

    def render(self, task: Task) -> Text:
        """Empty until something was done."""
        speed = task.finished_speed or task.speed
        if speed is None:
            return Text("")
        return Text(f"{decimal(int(speed))}/s" if task.fields.get("unit") == "B" else f"{speed:.1f}/s")


class _Counts(MofNCompleteColumn):
    """How many of how many; of bytes, in a unit that fits."""

    def render(self, task: Task) -> Text:
        """Without the second number where it is not known."""
        if task.fields.get("unit") != "B":
            return super().render(task)
        return Text(_of(int(task.completed), int(task.total or 0)))


def _of(done: int, total: int) -> str:
    return f"{decimal(done)} of {decimal(total)}" if total else decimal(done)


class Stages:
    """Inside, `progress.report(stage, done, total)` shows a bar for each stage, and log lines appear above the bars."""

    def __init__(self) -> None:
        self.console = Console(file=with_codes(sys.stderr))
        counts = (TextColumn("{task.description}", markup=False), BarColumn(), _Counts(), _Rate())
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

    def report(self, stage: str, done: int, total: int, unit: str = "") -> None:
        """Show how far a stage is; without a terminal, a line at its end."""
        if self.hidden:
            return
        stage = write_out(one_line(stage))
        if stage not in self.bars:
            self.bars[stage] = self.progress.add_task(stage, total=total or None, unit=unit)
        self.progress.update(self.bars[stage], completed=done, total=total or None)
        if self.console.is_terminal:
            return
        step = total // 10 if unit == "B" and total >= MANY_BYTES else total
        at = done // step * step if total > 0 and done < total else total
        if done >= at > 0 and self.finished.get(stage) != at:
            self.finished[stage] = at
            self.tell(f"{stage}: {_of(done, total)}" if unit == "B" else f"{stage}: {done}/{total}")

    def tell(self, line: str) -> None:
        """Print one line above the bars."""
        self.console.print(write_out(line), markup=False, emoji=False, highlight=False, soft_wrap=True)
