"""Where time goes: seconds by stage, without those of stages inside it."""

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from support.files import atomic_write_text
from support.parsing import parse_object
from support.progress import doing


def _read_seconds(path: Path | None) -> dict[str, float]:
    """Seconds by stage of a file; none where there is no such file, or one that is torn."""
    if path is None or not path.exists():
        return {}
    try:
        return {name: float(seconds) for name, seconds in parse_object(path.read_bytes()).items()}
    except (OSError, ValueError, TypeError):
        return {}


class StageTimer:
    """Seconds by stage. With a path they are kept on disk, so that a run finished in two calls knows both.

    with timer("decode"): ...
    timer.seconds["decode"]
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.seconds: defaultdict[str, float] = defaultdict(float, _read_seconds(path))
        self._inner = [0.0]
        """Seconds of finished stages, by the stage they were inside of."""

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count what happens inside for `stage`."""
        started = time.monotonic()
        self._inner.append(0.0)
        try:
            with nullcontext() if self.path is None else doing(stage):  # without a path, it is one of many short ones
                yield
        finally:
            all_of_it = time.monotonic() - started
            self._add(stage, all_of_it - self._inner.pop())
            self._inner[-1] += all_of_it

    def _add(self, stage: str, seconds: float) -> None:
        if self.path is None:
            self.seconds[stage] += seconds
        elif stage not in self.seconds or seconds > 1:  # to find that a stage is done already is no work
            self.seconds[stage] = round(self.seconds[stage] + seconds, 2)
            atomic_write_text(self.path, json.dumps(self.seconds))
