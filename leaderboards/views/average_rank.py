"""Which models lead a board: the average rank over its headline metrics, and the best score of each metric.

    average_ranks(columns_of(entries), comparison)      # {"a": 1.5, "b": 1.5, "c": 3.0}

A rank here is the place by the score alone, equal scores at their mean place; which differences are more than chance
the ranks of `BoardComparison` say. A score that says nothing of the model (most answers are empty, or a guard of its
verdict denies it) has no place, and its model no average.
"""

from collections.abc import Mapping, Sequence

from leaderboards.board.entry import Entry, Key
from leaderboards.views.columns import BoardComparison, Column


def headlines_of(columns: Mapping[Column, Sequence[Entry]]) -> list[Column]:
    """The metrics that tasks rank by."""
    return [column for column, own in columns.items() if not column.neutral and any(entry.headline for entry in own)]


def average_ranks(columns: Mapping[Column, Sequence[Entry]], comparison: BoardComparison) -> dict[str, float]:
    """The mean place of each model that has a score in every headline metric."""
    places: dict[str, list[float]] = {}
    asked = headlines_of(columns)
    for column in asked:
        values = _values(column, columns[column], comparison)
        for model, value in values.items():
            before = sum(other > value for other in values.values())
            equal = sum(other == value for other in values.values())
            places.setdefault(model, []).append(1 + before + (equal - 1) / 2)
    return {model: sum(own) / len(own) for model, own in places.items() if len(own) == len(asked)}


def leading(columns: Mapping[Column, Sequence[Entry]], comparison: BoardComparison) -> set[Key]:
    """The best scores of each metric that several models have."""
    found: set[Key] = set()
    for column, own in columns.items():
        values = {} if column.neutral else _values(column, own, comparison)
        if len(values) > 1:
            found |= {entry.key for entry in own if values.get(entry.model) == max(values.values())}
    return found


def _values(column: Column, own: Sequence[Entry], comparison: BoardComparison) -> dict[str, float]:
    """The scores of one metric that say something of their models, higher better."""
    found = {}
    for entry in own:
        corrected, tested = comparison.corrected.get(entry.key), comparison.verdicts.get(entry.key)
        value = entry.value if corrected is None else corrected.value
        if value is not None and not entry.mute and not (tested is not None and tested.fallen):
            found[entry.model] = value if column.higher_is_better else -value
    return found
