"""Where time goes: seconds by stage, for the line at the end of a run."""

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.files import atomic_write_text


class StageTimer:
    """Seconds by stage; a stage inside another is taken off the outer one."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._inner = [0.0]

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count what happens inside for `stage`."""
        started = time.monotonic()
        self._inner.append(0.0)
        try:
            yield
        finally:
            spent = time.monotonic() - started
            self.seconds[stage] += spent - self._inner.pop()
            self._inner[-1] += spent


class StageSeconds:
    """Seconds a stage took, without those of stages within it, kept on disk so that a run finished in two calls knows
    both."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        self._within = [0.0]

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what happens inside for stage `name`."""
        started = time.monotonic()
        self._within.append(0.0)
        try:
            yield
        finally:
            whole = time.monotonic() - started
            spent = whole - self._within.pop()
            self._within[-1] += whole
            if name not in self.seconds or spent > 1:  # looking at a stage that is done already is no work
                self.seconds[name] = round(self.seconds.get(name, 0.0) + spent, 2)
                atomic_write_text(self.path, json.dumps(self.seconds))
