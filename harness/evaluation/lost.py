"""Samples that have no score of their own: how many of a task, and why.

A sample is lost if the model gave no answer (failed), the judge no rating (unscored), or if no rule could read the
answer (unparsed). Official rules score unparsed answers, as wrong mostly; such a score is of the format, not of the
model, so that `--max-failed` counts them too.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Protocol

from leaderboards.board.board import Board
from leaderboards.board.entry import Entry
from tasks.judges.reasons import list_reasons


class Counted(Protocol):
    """An entry, or the scores of a file of answers."""

    @property
    def samples(self) -> int:
        """Documents asked."""

    @property
    def failed(self) -> int:
        """Without an answer."""

    @property
    def unscored(self) -> int:
        """Without a rating."""

    @property
    def unparsed(self) -> int:
        """With an answer that no rule could read."""

    @property
    def failures(self) -> str:
        """Why, with counts."""


def share_lost(result: Counted) -> float:
    """Share of samples that failed, stayed unscored or could not be read."""
    return min(1.0, (result.failed + result.unscored + result.unparsed) / max(1, result.samples))


def lost_in_words(result: Counted) -> str:
    """Such as "3 of 16 failed, 1 unscored: status 500: overloaded (3), content filter (1)"; empty if none is lost."""
    counts = {"failed": result.failed, "unscored": result.unscored, "unparsed": result.unparsed}
    found = [(count, name) for name, count in counts.items() if count]
    parts = [f"{count}{'' if place else f' of {result.samples}'} {name}" for place, (count, name) in enumerate(found)]
    return ", ".join(parts) + (f": {result.failures}" if parts and result.failures else "")


def list_lost(board: Board, entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Why samples of these entries failed, stayed unscored or could not be read: by model, task and reason, with their
    count and the id of one of them."""
    found = []
    for (run, task), model in {(entry.run, entry.task): entry.model for entry in entries if entry.failures}.items():
        lost = [(one.id, one.reason) for one in board.samples(run) if one.task == task and one.reason is not None]
        found += [{"model": model, "task": task, **asdict(reason)} for reason in list_reasons(lost)]
    return found
