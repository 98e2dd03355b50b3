"""Scores by what kind of question was asked, of tasks that say so.

category_tables(entries, board.samples, metrics)        # one table for each headline metric
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final, NamedTuple

from leaderboards.board.entry import Entry
from leaderboards.statistics.resampling import Counted, CountsMetric, Record, value_of
from leaderboards.statistics.verdict import interval
from leaderboards.views.columns import Column, columns_of
from leaderboards.views.page_answers import Loader, category_of
from leaderboards.views.svg_charts import best_first
from support.markdown import number, span

MOST: Final = 40
"""Categories of a table; of more, it would be a list of questions."""


class CategoryCell(NamedTuple):
    """One model's score on the questions of one category."""

    value: str
    interval: str
    order: float
    images: int


@dataclass(frozen=True, kw_only=True)
class CategoryTable:
    """One metric by category."""

    column: Column
    categories: list[str]
    rows: list[tuple[str, list[CategoryCell | None]]]
    """Model, and a cell for each category; None where it has no score."""


def category_tables(
    entries: Sequence[Entry], samples: Loader, metrics: Callable[[str, str], CountsMetric | None]
) -> list[CategoryTable]:
    """The tables of those headline metrics whose questions are of several categories. One log is held at a time."""
    found: list[CategoryTable] = []
    wanted = {column: own for column, own in columns_of(entries).items() if any(entry.headline for entry in own)}
    by_entry: dict[tuple[str, Column], dict[str, CategoryCell]] = {}
    for run in dict.fromkeys(entry.run for own in wanted.values() for entry in own):
        try:
            log = samples(run)
        except (ValueError, OSError):  # the page's notes say what can't be read
            continue
        for column, own in wanted.items():
            metric = metrics(column.task, column.metric)
            if metric is not None and any(entry.run == run for entry in own):
                records = [sample.records.get(column.metric) for sample in log if sample.task == column.task]
                by_entry[run, column] = _cells([record for record in records if record], metric, column.unit)
    for column, own in wanted.items():
        names = sorted({name for entry in own for name in by_entry.get((entry.run, column), {})})
        rows = [(entry.model, by_entry.get((entry.run, column), {})) for entry in sorted(own, key=best_first)]
        if 1 < len(names) <= MOST:
            shown = [(model, [cells.get(name) for name in names]) for model, cells in rows if cells]
            found.append(CategoryTable(column=column, categories=names, rows=shown))
    return found


def _cells(records: Sequence[Record], metric: CountsMetric, unit: str) -> dict[str, CategoryCell]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        if name := category_of(record):
            groups.setdefault(name, []).append(record)
    cells = {}
    for name, own in groups.items():
        try:
            counted = Counted(own, metric)
            images = list(dict.fromkeys(counted.images))
            value = float(value_of(metric, counted.counts(images).sum(axis=0)))
            low, high = interval(own, metric)
        except (ValueError, LookupError):  # a metric that no single category has
            continue
        if isfinite(value):
            cells[name] = CategoryCell(number(value, unit), span(low, high, unit).strip(), value, len(images))
    return cells
