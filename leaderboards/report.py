"""Markdown for people, CSV and JSON for programs: the leaderboard, and what changed.

    print(leaderboard(board.standing(), verdicts=verdicts, ranks=ranks, base="llava-7b"))
    print(differences({"scenes_chair CHAIR_s": verdict}, units={"scenes_chair CHAIR_s": "%"}))
    path.write_text(to_csv(board.standing()))

Names and words that come from models, data or files pass through `cell` (in a table) or `line` (in plain text) before they are printed.
"""

import csv
import difflib
import io
import json
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from tabulate import tabulate

from leaderboards.board import newest
from leaderboards.entry import Entry, Key
from leaderboards.entry import to_json as entry_to_json
from leaderboards.ranks import Rank
from leaderboards.verdict import Outcome, Verdict

MISSING = "—"

MARKS: Final[Mapping[Outcome, str]] = {"better": "▲", "worse": "▼", "not separable": "≈"}
"""What stands behind a difference."""

_FORMULA = "=+-@＝＋－＠"  # a spreadsheet runs a cell that begins so; it takes the full-width ones for the same

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


class ReportError(ValueError):
    """What was asked of the table does not fit the entries."""


def leaderboard(
    entries: Sequence[Entry],
    *,
    only_headline: bool = False,
    verdicts: Mapping[Key, Verdict] | None = None,
    ranks: Mapping[Key, Rank] | None = None,
    base: str | None = None,
) -> str:
    """One row a model, one column a metric; entries of different version or judge never share a column.

    `verdicts` on the difference to `base`, and `ranks`, go by the entry's key. ReportError for a base that has no row.
    """
    shown = newest(entry for entry in entries if entry.headline or not only_headline)
    if base is not None:
        _check_base(base, shown)
    if not shown:
        return "No results."
    verdicts, ranks = verdicts or {}, ranks or {}
    cells = {(entry.model, _column(entry)): _score(entry, verdicts.get(entry.key), ranks.get(entry.key)) for entry in shown}
    columns = _in_groups(_column(entry) for entry in shown)
    versions = {(c.task, c.metric): {d.version for d in columns if (d.task, d.metric) == (c.task, c.metric)} for c in columns}
    headers = [_header(column, several_versions=len(versions[column.task, column.metric]) > 1) for column in columns]
    models = dict.fromkeys(entry.model for entry in shown)
    labels = {model: cell(model) + " (base)" * (model == base) for model in models}
    rows = [[labels[model], *(cells.get((model, column), MISSING) for column in columns)] for model in models]
    parts = [table(["model", *headers], rows), _legend(shown, verdicts, ranks, base)]
    return "\n\n".join(part for part in parts if part)


def to_csv(
    entries: Sequence[Entry],
    *,
    only_headline: bool = False,
    verdicts: Mapping[Key, Verdict] | None = None,
    ranks: Mapping[Key, Rank] | None = None,
) -> str:
    """The same numbers, all digits, one row an entry; no text in it is taken for a formula by a spreadsheet."""
    sink = io.StringIO()
    rows = _rows(entries, only_headline, verdicts or {}, ranks or {})
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows([_csv_cell(row[name]) for name in _COLUMNS] for row in rows)
    return sink.getvalue()


def to_json(
    entries: Sequence[Entry],
    *,
    only_headline: bool = False,
    verdicts: Mapping[Key, Verdict] | None = None,
    ranks: Mapping[Key, Rank] | None = None,
) -> str:
    """{"entries": [...]}: entries whole, with their provenance, and what is known of their rank and of the difference to the base."""
    shown = newest(entry for entry in entries if entry.headline or not only_headline)
    rows = _rows(shown, False, verdicts or {}, ranks or {})
    return json.dumps({"entries": [row | entry_to_json(entry) for entry, row in zip(shown, rows, strict=True)]}, allow_nan=False)


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


def _score(entry: Entry, verdict: Verdict | None, rank: Rank | None) -> str:
    notes = []
    if entry.scored < entry.samples:
        notes.append(f"{entry.scored}/{entry.samples}")
    if entry.failed:
        notes.append(f"{entry.failed} failed")
    if entry.unparsed:
        notes.append(f"{entry.unparsed} unparsed")
    if entry.limit is not None:
        notes.append(f"limit {entry.limit}")
    elif entry.partial:
        notes.append("partial data")
    if entry.imported is not None:
        notes.append(f"by {cell(entry.imported)}")
    if (leaked := entry.provenance.get("leaks", "0")) != "0":
        notes.append(f"{cell(leaked)} leaked")  # rows of its training data that show the task's pictures
    score = number(entry.value, entry.unit) + span(entry.low, entry.high, entry.unit)
    if rank is not None:
        score += f" #{rank}"
    if verdict is not None and verdict.difference is not None:
        score += f" {number(verdict.difference, entry.unit, signed=True)} {MARKS[verdict.outcome]}"
    return f"{score} ({', '.join(notes)})" if notes else score


def _legend(shown: Iterable[Entry], verdicts: Mapping[Key, Verdict], ranks: Mapping[Key, Rank], base: str | None) -> str:
    keys = {entry.key for entry in shown}
    parts = []
    if not ranks.keys().isdisjoint(keys):
        parts.append("#: the ranks a model can have, since what cannot be told apart is tied.")
    if not verdicts.keys().isdisjoint(keys):
        against = f"to {cell(base)}" if base is not None else "to the base"
        parts.append(f"Difference {against} on the same questions: ▲ better, ▼ worse, ≈ not separable.")
    return " ".join(parts)


def _check_base(base: str, shown: Iterable[Entry]) -> None:
    models = list(dict.fromkeys(entry.model for entry in shown))
    if base not in models:
        raise ReportError(f"base model {base!r} is not on the board; {known(base, models)}")


def known(name: str, names: Collection[str]) -> str:
    """Which names there are, and which of them was meant by `name`."""
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}known: {', '.join(map(repr, names)) or 'none'}"


_COLUMNS = (
    *("model", "task", "version", "metric", "unit", "higher_is_better", "headline", "judge"),
    *("value", "low", "high", "samples", "scored", "unscored", "failed", "unparsed", "limit"),
    *("rank_low", "rank_high", "difference", "difference_low", "difference_high", "p", "outcome", "mde", "images"),
    *("seconds", "cost", "created", "run"),
)


def _rows(
    entries: Sequence[Entry], only_headline: bool, verdicts: Mapping[Key, Verdict], ranks: Mapping[Key, Rank]
) -> list[dict[str, Any]]:
    rows = []
    for entry in newest(entry for entry in entries if entry.headline or not only_headline):
        verdict, rank = verdicts.get(entry.key), ranks.get(entry.key)
        more: dict[str, Any] = {"rank_low": rank and rank.low, "rank_high": rank and rank.high}
        more |= {"difference": verdict and verdict.difference, "difference_low": verdict and verdict.low}
        more |= {"difference_high": verdict and verdict.high, "p": verdict and verdict.p, "outcome": verdict and verdict.outcome}
        more |= {"mde": verdict and verdict.mde, "images": verdict and verdict.images}
        rows.append({name: more[name] if name in more else getattr(entry, name) for name in _COLUMNS})
    return rows


def _csv_cell(value: object) -> object:
    """A number as it is; text on one line, quoted with an apostrophe where a spreadsheet would compute it."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return value
    text = line(value).strip()  # what is invisible may have stood before a space
    return f"'{text}" if text.startswith(tuple(_FORMULA)) else text
