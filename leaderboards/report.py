"""Markdown for people: the leaderboard, and what changed.

    print(leaderboard(board.standing()))
    print(differences({"scenes_chair CHAIR_s": verdict}, units={"scenes_chair CHAIR_s": "%"}))

Names and words that come from models, data or files pass through `cell` (in a table) or `line` (in plain text) before they are printed.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from tabulate import tabulate

from leaderboards.board import newest
from leaderboards.entry import Entry
from leaderboards.verdict import Verdict

MISSING = "—"

_DECIMALS = {"%": 1, "points": 1, "words": 1, "0-6": 2}
_OTHER_DECIMALS = 3

_INVISIBLE = {"Cc", "Cf", "Cs"}  # controls, formats (bidi overrides, zero widths, tags), halves of surrogate pairs
_MARKUP = re.compile(r"([\\`|<>\[\]*~&]|(?<![^\W_])_|_(?![^\W_]))")  # an underscore within a word is none


class _Column(NamedTuple):
    task: str
    metric: str
    version: str
    judge: str | None
    unit: str
    higher_is_better: bool


def leaderboard(entries: Sequence[Entry], *, only_headline: bool = False) -> str:
    """One row a model, one column a metric; entries of different version or judge never share a column."""
    shown = newest(entry for entry in entries if entry.headline or not only_headline)
    if not shown:
        return "No results."
    cells = {(entry.model, _column(entry)): _score(entry) for entry in shown}
    columns = _in_groups(_column(entry) for entry in shown)
    versions = {(c.task, c.metric): {d.version for d in columns if (d.task, d.metric) == (c.task, c.metric)} for c in columns}
    headers = [_header(column, several_versions=len(versions[column.task, column.metric]) > 1) for column in columns]
    models = dict.fromkeys(entry.model for entry in shown)
    rows = [[cell(model), *(cells.get((model, column), MISSING) for column in columns)] for model in models]
    return table(["model", *headers], rows)


def differences(verdicts: Mapping[str, Verdict], units: Mapping[str, str] | None = None) -> str:
    """One row a verdict; `units` gives the unit of each name."""
    rows = []
    for name, verdict in verdicts.items():
        unit = (units or {}).get(name, "")
        difference = number(verdict.difference, unit, signed=True) + span(verdict.low, verdict.high, unit)
        label = f"{cell(name)} {cell(unit)} {_arrow(verdict.higher_is_better)}"
        base, other = number(verdict.base, unit), number(verdict.other, unit)
        rows.append([" ".join(label.split()), base, other, difference, p_value(verdict.p), verdict.outcome])
    return table(["metric", "base", "other", "difference", "p", "other is"], rows)


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table of cells that are escaped already; the first column is left-aligned."""
    align = ["left", *["right"] * (len(headers) - 1)]
    return tabulate([headers, *rows], headers="firstrow", tablefmt="pipe", disable_numparse=True, colalign=align)


def line(text: str) -> str:
    """`text` on one line, without what is invisible or changes the direction of reading."""
    return "".join(c for c in " ".join(text.split()) if unicodedata.category(c) not in _INVISIBLE)


def cell(text: str) -> str:
    """`line(text)` for markdown: shown as it is, in a table too, never as markup."""
    return _MARKUP.sub(r"\\\1", line(text))


def number(value: float | None, unit: str, *, signed: bool = False) -> str:
    """With as many decimals as its unit is worth."""
    if value is None:
        return MISSING
    decimals = _DECIMALS.get(unit, _OTHER_DECIMALS)
    rounded = round(value, decimals) + 0.0  # no -0.0
    return f"{rounded:{'+' if signed and rounded else ''}.{decimals}f}"


def span(low: float | None, high: float | None, unit: str) -> str:
    """An interval, as it follows its number; empty if there is none."""
    return "" if low is None or high is None else f" [{number(low, unit)}, {number(high, unit)}]"


def p_value(p: float) -> str:
    """Down to what ten thousand resamples can tell."""
    return f"{p:.4f}" if p >= 0.0001 else "<0.0001"


def _column(entry: Entry) -> _Column:
    return _Column(entry.task, entry.metric, entry.version, entry.judge, entry.unit, entry.higher_is_better)


def _in_groups(columns: Iterable[_Column]) -> list[_Column]:
    """In order of appearance, but those of one task together, and of one metric."""
    unique = list(dict.fromkeys(columns))
    tasks = list(dict.fromkeys(column.task for column in unique))
    metrics = list(dict.fromkeys((column.task, column.metric) for column in unique))
    return sorted(unique, key=lambda column: (tasks.index(column.task), metrics.index((column.task, column.metric))))


def _header(column: _Column, *, several_versions: bool) -> str:
    parts = [cell(column.task), cell(column.metric), cell(column.unit), _arrow(column.higher_is_better)]
    if several_versions:
        parts.append(f"(version {cell(column.version)})")
    if column.judge is not None:
        parts.append(f"(judge {cell(column.judge)})")
    return " ".join(part for part in parts if part)


def _arrow(higher_is_better: bool) -> str:
    return "↑" if higher_is_better else "↓"


def _score(entry: Entry) -> str:
    notes = []
    if entry.scored < entry.samples:
        notes.append(f"{entry.scored}/{entry.samples}")
    if entry.failed:
        notes.append(f"{entry.failed} failed")
    if entry.unparsed:
        notes.append(f"{entry.unparsed} unparsed")
    if entry.limit is not None:
        notes.append(f"limit {entry.limit}")
    if (leaked := entry.provenance.get("leaks", "0")) != "0":
        notes.append(f"{cell(leaked)} leaked")  # rows of its training data that show the task's pictures
    score = number(entry.value, entry.unit) + span(entry.low, entry.high, entry.unit)
    return f"{score} ({', '.join(notes)})" if notes else score
