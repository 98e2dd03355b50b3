"""Several runs of one model with the same weights and settings: the first counts, so that nobody picks a lucky one.

    chosen, told = first_runs(board.current(), board.entries())
    told[chosen[0].key]         # [first, second, ...]: more than one run of these weights; only such keys are in it

Runs are the same if model (`entry.is_same_model`), task, metric, version, judge, limit and protocol are. A run with
more failed or unscored samples than another one does not count as the first.
"""

from collections.abc import Iterable, Sequence

from leaderboards.board.entry import Entry, Key, is_same_model
from leaderboards.comparison.paired_logs import SETUP, setup_value
from support.markdown import line, number


def first_runs(current: Sequence[Entry], every: Iterable[Entry]) -> tuple[list[Entry], dict[Key, list[Entry]]]:
    """For each entry the first of its runs; and the runs of each key that has several, in the order they were added."""
    runs: dict[tuple[object, ...], list[Entry]] = {}
    for entry in sorted(every, key=lambda entry: entry.by_sequence):
        if entry.weights is not None:
            runs.setdefault(_identify(entry), []).append(entry)
    chosen, told = [], {}
    for entry in current:
        own = [run for run in runs.get(_identify(entry), []) if is_same_model(run, entry)] or [entry]
        chosen.append(min(own, key=lambda one: one.failed + one.unscored))
        if len(own) > 1:
            told[entry.key] = own
    return chosen, told


def describe_reruns(runs: Sequence[Entry]) -> str:
    """One line: how many runs, and their values."""
    first = runs[0]
    values = ", ".join(number(entry.value, first.unit) for entry in runs)
    return line(f"{first.model} {first.task} {first.metric}: {len(runs)} runs of these weights: {values}")


def _identify(entry: Entry) -> tuple[object, ...]:
    return entry.key, entry.limit, *(setup_value(entry, fact) for fact in SETUP)
