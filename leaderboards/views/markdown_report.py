"""Markdown for people, CSV and JSON for programs: the leaderboard, and what changed.

    print(leaderboard(board.current(), verdicts=found.verdicts, ranks=found.ranks, otherwise=found.otherwise,
    base="llava-7b")) print(differences({"scenes_chair CHAIR_s": verdict}, units={"scenes_chair CHAIR_s": "%"}))
    path.write_text(to_csv(board.current()))

Names and words that come from models, data or files pass through `cell` (in a table) or `line` (in plain text) before
they are printed.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from leaderboards.board.board import newest
from leaderboards.board.entry import Entry, Key, is_neutral
from leaderboards.board.entry import to_json as entry_to_json
from leaderboards.statistics.ranks import Rank
from leaderboards.statistics.verdict import Outcome, PairedTest
from support.errors import BoardError, did_you_mean
from support.markdown import MISSING, cell, line, number, p_value, span, table

MARKS: Final[Mapping[Outcome, str]] = {"better": "▲", "worse": "▼", "not separable": "≈"}
"""What stands behind a difference."""

OTHERWISE: Final = "≠"
"""What stands behind a difference of two models that were not asked alike."""

_FORMULA = "=+-@＝＋－＠"  # a spreadsheet runs a cell that begins so; it takes the full-width ones for the same

_WIDE: Final = 8
"""So many metrics, of about thirty characters each, are still read side by side."""


class _Column(NamedTuple):
    task: str
    metric: str
    version: str
    judge: str | None
    unit: str
    higher_is_better: bool


def leaderboard(
    entries: Sequence[Entry],
    *,
    only_headline: bool = False,
    verdicts: Mapping[Key, PairedTest] | None = None,
    ranks: Mapping[Key, Rank] | None = None,
    otherwise: Mapping[Key, Sequence[str]] | None = None,
    base: str | None = None,
) -> str:
    """One row a model, one column a metric; entries of different version or judge never share a column.

    Where that is wider than a screen, and there are fewer models than metrics, it is one row a metric and one column a
    model.

    `verdicts` on the difference to `base`, `ranks`, and how the base was asked `otherwise`, go by the entry's key.
    BoardError for a base that has no row.
    """
    shown = newest(entry for entry in entries if entry.headline or not only_headline)
    if base is not None:
        _check_base(base, shown)
    if not shown:
        return "No results."
    verdicts, ranks, otherwise = verdicts or {}, _placed(shown, ranks), otherwise or {}
    cells = {
        (entry.model, _column(entry)): _score(
            entry, verdicts.get(entry.key), ranks.get(entry.key), bool(otherwise.get(entry.key))
        )
        for entry in shown
    }
    columns = _in_groups(_column(entry) for entry in shown)
    versions = {
        (c.task, c.metric): {d.version for d in columns if (d.task, d.metric) == (c.task, c.metric)} for c in columns
    }
    headers = [_header(column, several_versions=len(versions[column.task, column.metric]) > 1) for column in columns]
    models = dict.fromkeys(entry.model for entry in shown)
    labels = {model: cell(model) + " (base)" * (model == base) for model in models}
    if len(columns) > _WIDE and len(models) < len(columns):
        head = ["metric", *labels.values()]
        rows = [
            [name, *(cells.get((model, column), MISSING) for model in models)]
            for name, column in zip(headers, columns, strict=True)
        ]
    else:
        head = ["model", *headers]
        rows = [[labels[model], *(cells.get((model, column), MISSING) for column in columns)] for model in models]
    parts = [table(head, rows), _legend(shown, verdicts, ranks, otherwise, base)]
    return "\n\n".join(part for part in parts if part)


def to_csv(
    entries: Sequence[Entry],
    *,
    only_headline: bool = False,
    verdicts: Mapping[Key, PairedTest] | None = None,
    ranks: Mapping[Key, Rank] | None = None,
    otherwise: Mapping[Key, Sequence[str]] | None = None,
    published: Iterable[Mapping[str, Any]] = (),
) -> str:
    """The same numbers, all digits, one row an entry; no text in it is taken for a formula by a spreadsheet.

    Rows that others `published` follow, each with its `source`, which is empty for what was measured.
    """
    sink = io.StringIO()
    rows = [*_rows(entries, only_headline, verdicts or {}, ranks or {}, otherwise or {}), *published]
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows([_csv_cell(row.get(name)) for name in _COLUMNS] for row in rows)
    return sink.getvalue()


def to_json(
    entries: Sequence[Entry],
    *,
    only_headline: bool = False,
    verdicts: Mapping[Key, PairedTest] | None = None,
    ranks: Mapping[Key, Rank] | None = None,
    otherwise: Mapping[Key, Sequence[str]] | None = None,
    published: Iterable[Mapping[str, Any]] | None = None,
) -> str:
    """{"entries": [...]}: entries whole, with their provenance, and what is known of their rank and of the difference
    to the base.

    What others `published` is apart from these: {"entries": [...], "published": [...]}.
    """
    shown = newest(entry for entry in entries if entry.headline or not only_headline)
    rows = _rows(shown, False, verdicts or {}, ranks or {}, otherwise or {})
    found: dict[str, Any] = {"entries": [row | entry_to_json(entry) for entry, row in zip(shown, rows, strict=True)]}
    return json.dumps(found if published is None else found | {"published": list(published)}, allow_nan=False)


def differences(verdicts: Mapping[str, PairedTest], units: Mapping[str, str] | None = None) -> str:
    """One row a verdict; `units` gives the unit of each name."""
    rows = []
    for name, verdict in verdicts.items():
        unit = (units or {}).get(name, "")
        difference = number(verdict.difference, unit, signed=True) + span(verdict.low, verdict.high, unit)
        label = f"{cell(name)} {cell(unit)} {arrow(name, verdict.higher_is_better)}"
        base, other = number(verdict.base, unit), number(verdict.other, unit)
        rows.append([" ".join(label.split()), base, other, difference, p_value(verdict.p), outcome(name, verdict)])
    return table(["metric", "base", "other", "difference", "p", "other is"], rows)


def arrow(metric: str, higher_is_better: bool) -> str:
    """Which direction is better; empty where neither is."""
    return "" if is_neutral(metric) else "↑" if higher_is_better else "↓"


def outcome(metric: str, verdict: PairedTest) -> str:
    """A verdict in words: better, worse, not separable; higher or lower where neither is better."""
    if verdict.outcome == "not separable" or not is_neutral(metric):
        return verdict.outcome
    return "higher" if (verdict.difference or 0.0) > 0 else "lower"


def remarks(entry: Entry) -> list[str]:
    """What to know before believing the number, a few words each; not escaped."""
    found = []
    if entry.scored < entry.samples:
        found.append(f"{entry.scored}/{entry.samples}")
    if entry.failed:
        found.append(f"{entry.failed} failed")
    if entry.unparsed:
        found.append(f"{entry.unparsed} unparsed")
    if entry.limit is not None:
        found.append(f"limit {entry.limit}")
    elif entry.partial:
        found.append("partial data")
    if entry.imported is not None:
        found.append(f"by {entry.imported}")
    if (leaked := entry.provenance.get("leaks", "0")) != "0":
        found.append(f"{leaked} leaked")  # rows of its training data that show the task's pictures
    return found


def _column(entry: Entry) -> _Column:
    return _Column(entry.task, entry.metric, entry.version, entry.judge, entry.unit, entry.higher_is_better)


def _in_groups(columns: Iterable[_Column]) -> list[_Column]:
    """In order of appearance, but those of one task together, and of one metric."""
    unique = list(dict.fromkeys(columns))
    tasks = list(dict.fromkeys(column.task for column in unique))
    metrics = list(dict.fromkeys((column.task, column.metric) for column in unique))
    return sorted(unique, key=lambda column: (tasks.index(column.task), metrics.index((column.task, column.metric))))


def _header(column: _Column, *, several_versions: bool) -> str:
    parts = [cell(column.task), cell(column.metric), cell(column.unit), arrow(column.metric, column.higher_is_better)]
    if several_versions:
        parts.append(f"(version {cell(column.version)})")
    if column.judge is not None:
        parts.append(f"(judge {cell(column.judge)})")
    return " ".join(part for part in parts if part)


def _score(entry: Entry, verdict: PairedTest | None, rank: Rank | None, otherwise: bool) -> str:
    score = number(entry.value, entry.unit) + span(entry.low, entry.high, entry.unit)
    if rank is not None:
        score += f" #{rank}"
    if verdict is not None and verdict.difference is not None:
        word = outcome(entry.metric, verdict)
        score += f" {number(verdict.difference, entry.unit, signed=True)} {MARKS[verdict.outcome] if word == verdict.outcome else word}"
    score += f" {OTHERWISE}" * otherwise
    return f"{score} ({', '.join(map(cell, found))})" if (found := remarks(entry)) else score


def _placed(shown: Iterable[Entry], ranks: Mapping[Key, Rank] | None) -> dict[Key, Rank]:
    """The ranks of what is shown; nobody is first in how often it says yes."""
    return {
        entry.key: ranks[entry.key] for entry in shown if ranks and entry.key in ranks and not is_neutral(entry.metric)
    }


def _legend(
    shown: Iterable[Entry],
    verdicts: Mapping[Key, PairedTest],
    ranks: Mapping[Key, Rank],
    otherwise: Mapping[Key, Sequence[str]],
    base: str | None,
) -> str:
    shown = list(shown)
    keys = {entry.key for entry in shown}
    name = cell(base) if base is not None else "the base"
    words = {outcome(entry.metric, verdicts[entry.key]) for entry in shown if entry.key in verdicts}
    parts = []
    if not ranks.keys().isdisjoint(keys):
        parts.append("#: the ranks a model can have, since what cannot be told apart is tied.")
    if not verdicts.keys().isdisjoint(keys):
        parts.append(f"Difference to {name} on the same questions: ▲ better, ▼ worse, ≈ not separable.")
    if words & {"higher", "lower"}:
        parts.append("Higher, lower: of how a model answers, where neither is better.")
    if any(otherwise.get(key) for key in keys):
        parts.append(f"{OTHERWISE}: {name} was asked otherwise, so that the difference is not of the models alone.")
    return " ".join(parts)


def _check_base(base: str, shown: Iterable[Entry]) -> None:
    models = list(dict.fromkeys(entry.model for entry in shown))
    if base not in models:
        raise BoardError(f"base model {base!r} is not on the board{did_you_mean(base, models)}")


_COLUMNS = (
    *("model", "task", "version", "metric", "unit", "higher_is_better", "headline", "judge"),
    *("value", "low", "high", "samples", "scored", "unscored", "failed", "unparsed", "limit"),
    *("rank_low", "rank_high", "difference", "difference_low", "difference_high", "p", "outcome", "mde", "images"),
    *("asked_otherwise", "seconds", "cost", "created", "run", "source"),
)


def _rows(
    entries: Sequence[Entry],
    only_headline: bool,
    verdicts: Mapping[Key, PairedTest],
    ranks: Mapping[Key, Rank],
    otherwise: Mapping[Key, Sequence[str]],
) -> list[dict[str, Any]]:
    rows = []
    shown = newest(entry for entry in entries if entry.headline or not only_headline)
    ranks = _placed(shown, ranks)
    for entry in shown:
        verdict, rank = verdicts.get(entry.key), ranks.get(entry.key)
        more: dict[str, Any] = {"rank_low": rank and rank.low, "rank_high": rank and rank.high}
        more |= {"difference": verdict and verdict.difference, "difference_low": verdict and verdict.low}
        more |= {"difference_high": verdict and verdict.high, "p": verdict and verdict.p}
        more |= {
            "outcome": verdict and outcome(entry.metric, verdict),
            "mde": verdict and verdict.mde,
            "images": verdict and verdict.images,
        }
        more |= {"asked_otherwise": list(otherwise.get(entry.key, ())), "source": None}
        rows.append({name: more[name] if name in more else getattr(entry, name) for name in _COLUMNS})
    return rows


def _csv_cell(value: object) -> object:
    """A number as it is; text on one line, quoted with an apostrophe where a spreadsheet would compute it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        value = "; ".join(value)
    if not isinstance(value, str):
        return value
    text = line(value).strip()  # what is invisible may have stood before a space
    return f"'{text}" if text.startswith(tuple(_FORMULA)) else text
