"""That a command works is on the screen from its first moment on, before what it needs is imported."""

import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Final

from support.console import is_terminal

WORKING: Final = (
    *(
        "eval",
        "score",
        "rescore",
        "parity",
        "train-then-eval",
        "train",
        "watch",
        "attention",
        "judge",
        "vlfeedback",
        "povid",
    ),
    *("data", "models", "import", "leaderboard", "compare", "check", "power"),
)
"""Commands that can take longer than a moment, by their first word."""
NOT_SHOWN: Final = ("-q", "--quiet", "--help", "-h")


@contextmanager
def shown_at_work(command: str, words: Collection[str]) -> Iterator[None]:
    """Inside, a terminal shows that the command works, and on what; anything else gets what the command tells."""
    if command not in WORKING or any(word in NOT_SHOWN for word in words) or not is_terminal(sys.stderr):
        yield
        return
    from support.progress import doing
    from support.stages import Stages

    with doing(f"harness {command}"), Stages():
        yield
