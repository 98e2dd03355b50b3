"""Where time goes: seconds by stage, for the line at the end of a run."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
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
