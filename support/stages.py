"""A bar for each stage of long work.

    with Stages():
        train_then_eval(...)    # library code logs lines and calls `support.progress.report`

On a terminal stages are bars with rate and time left, and a line that moves says what is being done; elsewhere a stage
is one line at its end, one of many bytes a line for each tenth, and after half a minute of silence a line says what is
being done. Where log lines below WARNING are hidden (-q, or another process than the first one), stages are
hidden too.
"""

import logging
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, ClassVar

from rich.console import Console, RenderableType
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
from rich.spinner import Spinner
from rich.text import Text

from support.console import HANDLER, SafeStream, with_codes, write_out
from support.errors import one_line
from support.progress import Doing, now_doing, show_on

MANY_BYTES = 100 << 20
"""A stage of so many bytes takes minutes: where there is no bar, it is told of on its way."""


QUIET = 30.0
"""Seconds without a line after which, where there is no bar, one tells what is being done."""
TICK = 1.0
"""Seconds after which a display that gave way is drawn again."""


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


class _Now:
    """One line: what is being done, and how long already."""

    def __init__(self, console: Console) -> None:
        self.spinner = Spinner("dots" if console.encoding.startswith("utf") else "line")

    def __rich__(self) -> Text:
        found = now_doing() or Doing("working")
        sign = self.spinner.render(time.monotonic())
        shown = Text.assemble(
            sign if isinstance(sign, Text) else "",
            " ",
            (_clock(found.seconds), "dim"),
            f" {write_out(one_line(found.what))}",
        )
        shown.no_wrap, shown.overflow = True, "ellipsis"
        return shown


class _Bars(Progress):
    """Bars, and below them what is being done."""

    is_over = False
    """Whether only the bars stay on the screen."""

    def __init__(self, *columns: ProgressColumn, console: Console, **more: Any) -> None:
        self.now = _Now(console)
        super().__init__(*columns, console=console, **more)

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bars, if there are any, and the line."""
        if self.tasks:
            yield self.make_tasks_table(self.tasks)
        if not self.is_over:
            yield self.now


def _clock(seconds: float) -> str:
    minutes, whole = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{whole:02}" if minutes >= 60 else f"{minutes}:{whole:02}"


class Stages:
    """Inside, `progress.report(stage, done, total)` shows a bar for each stage, `progress.doing` a line, and log lines
    appear above the bars. Within another one it has no display of its own: at its end the other one's bars are left on
    the screen, and begin anew."""

    _outer: ClassVar["Stages | None"] = None

    def __init__(self) -> None:
        self.console = Console(file=with_codes(sys.stderr))
        counts = (TextColumn("{task.description}", markup=False), BarColumn(), _Counts(), _Rate())
        columns = (*counts, TimeElapsedColumn(), TimeRemainingColumn())
        self.hidden = HANDLER.level > logging.INFO
        self.has_bars = self.console.is_terminal and not self.hidden
        # Not redirected: rich would obey the codes in what others print.
        self.progress = _Bars(
            *columns, console=self.console, disable=not self.has_bars, redirect_stdout=False, redirect_stderr=False
        )
        self.bars: dict[str, TaskID] = {}
        self.finished: dict[str, int] = {}
        self.latest = ""
        """How far the stage is that was last reported."""
        self.told_at = time.monotonic()
        self._shown = ExitStack()
        self._lock = threading.RLock()
        self._is_drawn = False
        self._over = threading.Event()
        self._is_inner = False

    def __enter__(self) -> "Stages":
        if Stages._outer is not None:
            self._is_inner = True
            return Stages._outer
        Stages._outer = self
        self._draw()
        self._shown.enter_context(show_on(self.report))
        HANDLER.print_above = self.tell
        if self.has_bars:
            SafeStream.give_way = self._give_way
        if not self.hidden:
            threading.Thread(target=self._tick, name="stages", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_inner:
            if Stages._outer is not None:
                Stages._outer.settle()
            return
        self._over.set()
        SafeStream.give_way = HANDLER.print_above = Stages._outer = None
        self._shown.close()
        self.settle()

    def settle(self) -> None:
        """Leave the bars on the screen as they are, and begin anew with the next one."""
        with self._lock:
            self._draw()
            self.progress.is_over = True
            self.progress.live.transient = not self.progress.tasks
            self.progress.stop()
            self.progress.is_over = self._is_drawn = False
            for task in self.bars.values():
                self.progress.remove_task(task)
            self.bars.clear()

    def report(self, stage: str, done: int, total: int, unit: str = "") -> None:
        """Show how far a stage is; without a terminal, a line at its end."""
        if self.hidden:
            return
        stage = write_out(one_line(stage))
        with self._lock:
            if stage not in self.bars:
                self.bars[stage] = self.progress.add_task(stage, total=total or None, unit=unit)
            self.progress.update(self.bars[stage], completed=done, total=total or None)
        if self.console.is_terminal:
            return
        self.latest = f"{stage}: {_of(done, total)}" if unit == "B" else f"{stage}: {done}/{total}"
        step = total // 10 if unit == "B" and total >= MANY_BYTES else total
        at = done // step * step if total > 0 and done < total else total
        if done >= at > 0 and self.finished.get(stage) != at:
            self.finished[stage] = at
            self.tell(self.latest)

    def tell(self, line: str) -> None:
        """Print one line above the bars."""
        self.told_at = time.monotonic()
        self.latest = ""
        self.console.print(write_out(line), markup=False, emoji=False, highlight=False, soft_wrap=True)

    def _draw(self) -> None:
        with self._lock:
            if self.has_bars and not self._is_drawn:
                self._is_drawn = True
                self.progress.live.transient = False
                self.progress.start()

    def _give_way(self, stream: SafeStream) -> None:
        """Others print: results stand below the bars; a line of another kind is followed by them."""
        with self._lock:
            self.told_at = time.monotonic()
            if not self._is_drawn:
                return
            if stream is sys.stdout:
                self.settle()
            else:
                self._is_drawn = False
                self.progress.live.transient = True
                self.progress.stop()

    def _tick(self) -> None:
        """Draw again what gave way; where nothing is drawn, tell of long silence."""
        while not self._over.wait(TICK):
            silent = time.monotonic() - self.told_at
            if self.has_bars:
                if silent >= TICK:
                    self._draw()
            elif silent >= QUIET:
                found = now_doing()
                words = f"{found.what}, {_clock(found.seconds)} so far" if found is not None else ""
                self.tell("; ".join(filter(None, (words, self.latest))) or "working")
