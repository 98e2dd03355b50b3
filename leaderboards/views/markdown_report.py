"""Markdown for people, CSV and JSON for programs: the leaderboard, and what changed.

    print(leaderboard(board.current(), comparison=found, base="llava-7b"))
    print(differences({"scenes_chair CHAIR_s": verdict}, units={"scenes_chair CHAIR_s": "%"}))
    path.write_text(to_csv(board.current()))

Names and words that come from models, data or files pass through `cell` (in a table) or `line` (in plain text) before
they are printed.
"""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from leaderboards.board.board import newest
from leaderboards.board.entry import BARE, SEEDS, Entry, name_of_protocol
from leaderboards.board.entry import to_json as entry_to_json
from leaderboards.statistics.verdict import PairedTest
from leaderboards.views import glossary
from leaderboards.views.asked_apart import asked_apart, protocols_of
from leaderboards.views.average_rank import average_ranks, headlines_of, leading
from leaderboards.views.columns import (
    MUTE,
    NO_COMPARISON,
    PROTOCOL_DIFFERS,
    BoardComparison,
    Column,
    arrow,
    columns_of,
    corrected_in_words,
    mark,
    outcome,
    remarks,
    seeds_in_words,
    several_versions,
)
from leaderboards.views.glossary import INTERVAL, MARKS, OF_BOARD, RANK, in_json
from support.errors import BoardError, did_you_mean
from support.markdown import MISSING, cell, line, number, p_value, span, table
from support.tables import Block, Cell, Table, csv_cell, to_markdown

_WIDE: Final = 8
"""So many metrics, of about thirty characters each, can still be read side by side."""


def leaderboard(
    entries: Sequence[Entry],
    *,
    only_headline: bool = False,
    comparison: BoardComparison = NO_COMPARISON,
    base: str | None = None,
    ranked: bool = False,
) -> str:
    """`leaderboard_blocks` in markdown."""
    more: dict[str, Any] = {"comparison": comparison, "base": base, "ranked": ranked}
    return to_markdown(leaderboard_blocks(entries, only_headline=only_headline, **more))


def leaderboard_blocks(
    entries: Sequence[Entry],
    *,
    only_headline: bool = False,
    comparison: BoardComparison = NO_COMPARISON,
    base: str | None = None,
    ranked: bool = False,
) -> list[Block]:
    """One row a model, one column a metric, with what the comparison knows of each score.

    If that is wider than a screen, and there are fewer models than metrics: one row a metric, one column a model.
    `ranked`: the models by their average rank over the headline metrics, with a column of it; else as they come.
    BoardError for a base that has no row.
    """
    shown = _select(entries, only_headline)
    models = list(dict.fromkeys(entry.model for entry in shown))
    if base is not None and base not in models:
        raise BoardError(f"base model {base!r} is not on the board{did_you_mean(base, models)}")
    if not shown:
        return ["No results."]
    columns = columns_of(shown)
    places = average_ranks(columns, comparison) if ranked else {}
    models.sort(key=lambda model: places.get(model, math.inf))
    leads, apart = leading(columns, comparison), asked_apart(columns.values())
    scores = {
        (entry.model, column): _score(entry, comparison, best=entry.key in leads, asked=apart.get(entry.key, ""))
        for column, own in columns.items()
        for entry in own
    }
    versions = several_versions(columns)
    headers = [_header(column, with_version=column.metric_of_task in versions) for column in columns]
    labels = {model: line(model) + " (base)" * (model == base) for model in models}
    rows = [[scores.get((model, column), Cell(MISSING)) for model in models] for column in columns]
    if len(set(places.values())) > 1 and len(headlines_of(columns)) > 1:
        headers.insert(0, "average rank ↓")
        rows.insert(0, [Cell(f"{places[model]:.2f}" if model in places else MISSING) for model in models])
        legend = [f"Average rank: over {len(headlines_of(columns))} headline metrics; of models that have them all."]
    else:
        legend = []
    caption = _caption(shown, comparison, base)
    if len(columns) > _WIDE and len(models) < len(columns):
        found = [[Cell(name), *row] for name, row in zip(headers, rows, strict=True)]
        text = Table(["metric", *labels.values()], found, caption)
    else:
        by_model = zip(*rows, strict=True)
        found = [[Cell(labels[model]), *row] for model, row in zip(models, by_model, strict=True)]
        text = Table(["model", *headers], found, caption)
    words = " ".join(filter(None, (*legend, _legend(shown, comparison, base), _protocols(shown, bool(apart)))))
    return [text, *([words] if words else [])]


def to_csv(
    entries: Sequence[Entry],
    *,
    only_headline: bool = False,
    comparison: BoardComparison = NO_COMPARISON,
    published: Iterable[Mapping[str, Any]] = (),
) -> str:
    """The same numbers, all digits, one row an entry; no text in it is taken for a formula by a spreadsheet.

    Rows that others `published` follow, each with its `source`, which is empty for what was measured here.
    """
    sink = io.StringIO()
    rows = [*(_row(entry, comparison) for entry in _select(entries, only_headline)), *published]
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows([csv_cell(row.get(name)) for name in _COLUMNS] for row in rows)
    return sink.getvalue()


def to_json(
    entries: Sequence[Entry],
    *,
    only_headline: bool = False,
    comparison: BoardComparison = NO_COMPARISON,
    published: Iterable[Mapping[str, Any]] | None = None,
) -> str:
    """{"entries": [...], "glossary": {...}}: whole entries, with their provenance, rank and difference to the base if
    these are known, and what their fields are.

    What others `published` is separate: "published": [...].
    """
    rows = [_row(entry, comparison) | entry_to_json(entry) for entry in _select(entries, only_headline)]
    found: dict[str, Any] = {"entries": rows, "glossary": in_json(OF_BOARD, comparison.unit_of_tests(entries))}
    if published is not None:
        found["published"] = list(published)
    return json.dumps(found, allow_nan=False)


def differences(verdicts: Mapping[str, PairedTest], units: Mapping[str, str] | None = None) -> str:
    """One row a verdict; `units` gives the unit of each name."""
    rows = []
    for name, verdict in verdicts.items():
        unit = (units or {}).get(name, "")
        difference = number(verdict.difference, unit, signed=True) + span(verdict.low, verdict.high, unit)
        label = f"{cell(name)} {cell(unit)} {arrow(name, verdict.higher_is_better)}"
        base, other = number(verdict.base, unit), number(verdict.other, unit)
        rows.append(
            [" ".join(label.split()), base, other, difference, p_value(verdict.p), cell(outcome(name, verdict))]
        )
    return table(["metric", "base", "other", "difference", "p", "other is"], rows)


def _select(entries: Iterable[Entry], only_headline: bool) -> list[Entry]:
    return newest(entry for entry in entries if entry.headline or not only_headline)


def _header(column: Column, *, with_version: bool) -> str:
    version = f"(version {line(column.version)})" if with_version else ""
    judge = "" if column.judge is None else f"(judge {line(column.judge)})"
    return " ".join(filter(None, (column.words, version, judge)))


def _score(entry: Entry, comparison: BoardComparison, *, best: bool, asked: str = "") -> Cell:
    """Value, interval, rank, difference to the base and remarks."""
    found = {"text": number(entry.value, entry.unit)}
    if entry.low is not None and entry.high is not None:
        found |= {"low": number(entry.low, entry.unit), "high": number(entry.high, entry.unit)}
    parts = []
    if (corrected := comparison.corrected.get(entry.key)) is not None:
        raw = found["text"] + span(entry.low, entry.high, entry.unit)
        found = {"text": f"raw {raw}, {corrected_in_words(corrected, entry.unit)}"}
    if entry.mute and entry.value is not None:
        parts.append(MUTE)
    if (rank := comparison.rank(entry)) is not None:
        parts.append(f"#{rank}")
    verdict = comparison.verdicts.get(entry.key)
    word = ""
    if verdict is not None and verdict.difference is not None:
        word, sign = outcome(entry.metric, verdict), mark(entry.metric, verdict)
        said = sign if word == verdict.outcome else f"{sign} {word}".strip()
        parts.append(f"{number(verdict.difference, entry.unit, signed=True)} {said}")
        parts += [words] if (words := seeds_in_words(entry.metric, verdict)) else []
    if comparison.protocol_differences.get(entry.key):
        parts.append(PROTOCOL_DIFFERS)
    known = [*remarks(entry), *([f"asked by {line(asked)}"] if asked else [])]
    return Cell(
        **found,
        more=" ".join(parts),
        remarks=f"({', '.join(known)})" if known else "",
        best=best,
        tested="better" if word == "better" else "worse" if word == "worse" else "",
    )


def _protocols(shown: Sequence[Entry], apart: bool) -> str:
    """Whose wording the questions had, by model; empty where all were asked as they stand in the data."""
    found = protocols_of(shown)
    if set(found.values()) <= {BARE}:
        return ""
    differ = " (asked by ...): scores of one column were asked in several ways, so a difference may come from that."
    if not apart and len(found) > 1 and len(set(found.values())) == 1:
        found = {"every model": next(iter(found.values()))}
    named = "; ".join(f"{cell(model)}: {cell(asked)}" for model, asked in found.items())
    return f"Protocols: {named}.{differ if apart else ''}"


def _caption(shown: Sequence[Entry], comparison: BoardComparison, base: str | None) -> str:
    """How the scores were made and tested, for a table that stands alone."""
    tested = any(entry.key in comparison.verdicts for entry in shown)
    parts = (
        (any(entry.low is not None for entry in shown), INTERVAL),
        (any(SEEDS in entry.provenance for entry in shown), glossary.SEEDS),
        (True, "Bold: the best of a metric."),
        (
            tested,
            f"†: significantly better, ‡: significantly worse than {base or 'the base'} on the same questions (p at "
            f"most 5%). {_p_of(shown, comparison)}",
        ),
    )
    return " ".join(text for applies, text in parts if applies)


def _p_of(shown: Sequence[Entry], comparison: BoardComparison) -> str:
    return glossary.p_of(OF_BOARD, comparison.unit_of_tests(shown))


def _legend(shown: Sequence[Entry], comparison: BoardComparison, base: str | None) -> str:
    """What the signs in the cells mean, of those that are there."""
    name = cell(base) if base is not None else "the base"
    tested = [entry for entry in shown if entry.key in comparison.verdicts]
    words = {outcome(entry.metric, comparison.verdicts[entry.key]) for entry in tested}
    differs = any(comparison.protocol_differences.get(entry.key) for entry in shown)
    parts = (
        (any(entry.low is not None for entry in shown), INTERVAL),
        (
            any(entry.key in comparison.corrected for entry in shown),
            "Raw: by the judge. Corrected for its errors by people's labels; lambda: how much the judge still counts.",
        ),
        (any(comparison.rank(entry) for entry in shown), RANK),
        (bool(tested), f"Difference to {name} on the same questions: {MARKS} {_p_of(shown, comparison)}"),
        (any(SEEDS in entry.provenance for entry in shown), glossary.SEEDS),
        (any(word.startswith("not better") for word in words), "△: better only by saying less, which is named."),
        (bool(words & {"higher", "lower"}), "Higher, lower: of how a model answers, where neither is better."),
        (
            any(entry.guards for entry in shown),
            "Beside a score that improves when less is said: what it is held against, and how many answers are empty.",
        ),
        (
            any(entry.mute and entry.value is not None for entry in shown),
            f"{MUTE}: most of the answers are empty, so this is no score of the model, and has no rank.",
        ),
        (
            any(entry.empty is None and entry.imported is None for entry in shown),
            "Empty answers are not counted where a run kept none of its answers.",
        ),
        (
            differs,
            f"{PROTOCOL_DIFFERS}: {name} was asked or rated differently, so the difference is not of the models alone.",
        ),
    )
    return " ".join(text for applies, text in parts if applies)


_COLUMNS = (
    *("model", "task", "version", "metric", "unit", "higher_is_better", "headline", "judge"),
    *("value", "low", "high", "samples", "scored", "unscored", "failed", "unparsed", "empty", "guards", "limit"),
    *("rank_low", "rank_high", "difference", "difference_low", "difference_high", "p", "outcome", "mde", "images"),
    *("corrected", "corrected_low", "corrected_high", "labels", "labelled_images", "lambda"),
    *("seeds", "seeds_higher", "seeds_lower", "seeds_better", "seeds_worse"),
    *("protocol", "asked_otherwise", "seconds", "cost", "created", "run", "source"),
)
"""Names that programs read: they stay."""


def _row(entry: Entry, comparison: BoardComparison) -> dict[str, Any]:
    """An entry as a row of CSV or JSON."""
    verdict, rank = comparison.verdicts.get(entry.key), comparison.rank(entry)
    row: dict[str, Any] = {name: getattr(entry, name, None) for name in _COLUMNS}
    row["guards"] = [f"{name} {value:g}" for name, value in entry.guards.items()]
    row["seeds"] = entry.provenance.get(SEEDS)
    row["protocol"] = None if entry.imported is not None else name_of_protocol(entry.provenance)
    row["asked_otherwise"] = list(comparison.protocol_differences.get(entry.key, ()))
    if rank is not None:
        row |= {"rank_low": rank.low, "rank_high": rank.high}
    if (corrected := comparison.corrected.get(entry.key)) is not None:
        row |= {"corrected": corrected.value, "corrected_low": corrected.low, "corrected_high": corrected.high}
        row |= {"labels": corrected.labels, "labelled_images": corrected.images, "lambda": corrected.weight}
    if verdict is not None:
        row |= {name: getattr(verdict, name) for name in ("difference", "p", "mde", "images")}
        row |= {"difference_low": verdict.low, "difference_high": verdict.high}
        row["outcome"] = outcome(entry.metric, verdict)
        if (seeds := verdict.seeds) is not None and seeds.other > 1:
            row |= {f"seeds_{name}": getattr(seeds, name) for name in ("higher", "lower", "better", "worse")}
    return row
