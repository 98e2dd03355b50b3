"""What the page's tables show, as rows of text: the scores, the verdicts on them, what others reported, costs and runs.

    board = board_table(entries, base="llava-7b", comparison=found)
    board.columns, board.rows, board.against

Nothing here is escaped; the template does that.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from leaderboards.board.entry import BARE, COST_NOT_KNOWN, Entry, Key
from leaderboards.statistics.verdict import PairedTest
from leaderboards.views.asked_apart import asked_apart, protocols_of
from leaderboards.views.columns import (
    MUTE,
    PROTOCOL_DIFFERS,
    BoardComparison,
    Column,
    columns_of,
    corrected_in_words,
    outcome,
    remarks,
    seeds_in_words,
    several_versions,
)
from leaderboards.views.page_answers import Asked
from leaderboards.views.published import Reference, asked_otherwise, protocols_in_words
from leaderboards.views.svg_charts import best_first
from support.markdown import line, number, p_value, span


@dataclass(frozen=True, kw_only=True)
class PageColumn:
    """The scores by one metric, with the names that the page gives them."""

    key: Column
    entries: list[Entry]
    headline: bool
    shown: bool
    """False for one that is folded away until somebody asks: neither a headline metric nor worse for any model."""

    several_versions: bool
    """True if the page has columns of other versions of its task and metric."""

    name: str
    """In one line, without markup."""

    log: str
    """The name of its answers in the page's comparison of answers."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One score."""

    value: str
    interval: str
    corrected: str
    """By people's labels, in words; empty without."""
    rank: str
    notes: str
    order: float | None
    """What to sort by."""

    change: str
    """The difference to the base."""

    outcome: str | None
    """Of the verdict, in a word."""

    protocol_differs: bool

    asked: str
    """Whose wording its questions had, where those of its column were asked in several ways."""


class BoardRow(NamedTuple):
    """One model's scores, and what is known of it."""

    model: str
    cells: list[Cell | None]
    parameters: int | None
    size: str
    """The number of parameters in short; empty where it is not known."""
    scored: datetime
    """When its newest score was made."""


@dataclass(frozen=True, kw_only=True)
class VerdictRow:
    """One paired test against the base."""

    column: PageColumn
    model: str
    base: str
    other: str
    change: str
    p: str
    mde: str
    order: float
    images: int
    outcome: str
    seeds: str
    """What the seeds say by themselves, where it is on several."""

    @property
    def kind(self) -> str:
        """The outcome without the reason."""
        return self.outcome.partition(":")[0]


@dataclass(frozen=True, kw_only=True)
class BoardTable:
    """The leaderboard and the verdicts."""

    columns: list[PageColumn]
    rows: list[BoardRow]
    against: list[VerdictRow]
    sorted_by: int | None
    """Index of the column that the rows are sorted by, the best first."""

    protocol_differences: list[tuple[str, str, str]]
    """Model, metric, and how its questions were asked or rated differently from the base's."""

    protocols: list[tuple[str, str]]
    """Model, and whose wording its questions had; none where all were asked as they stand in the data."""


def board_table(entries: Sequence[Entry], base: str | None, comparison: BoardComparison) -> BoardTable:
    """The table of these scores, sorted by the first headline metric."""
    columns = _page_columns(entries, comparison)
    models = list(dict.fromkeys(entry.model for entry in entries))
    of_model = [{entry.model: entry for entry in column.entries} for column in columns]
    sorted_by = next((index for index, column in enumerate(columns) if column.headline), 0 if columns else None)
    if sorted_by is not None:
        sign = -1 if columns[sorted_by].key.higher_is_better else 1
        first = {model: entry.value for model, entry in of_model[sorted_by].items()}
        models.sort(key=lambda model: (first.get(model) is None, sign * (first.get(model) or 0.0)))
    apart, protocols = asked_apart(column.entries for column in columns), protocols_of(entries)
    by_key = {entry.key: (column, entry) for column in columns for entry in column.entries}
    return BoardTable(
        columns=columns,
        rows=[
            _board_row(
                [entry for entry in entries if entry.model == model],
                [_cell(found[model], comparison, apart) if model in found else None for found in of_model],
            )
            for model in models
        ],
        against=[_verdict_row(*by_key[key], verdict) for key, verdict in comparison.verdicts.items() if key[0] != base],
        sorted_by=sorted_by,
        protocol_differences=[
            (by_key[key][1].model, by_key[key][0].name, line("; ".join(words)))
            for key, words in comparison.protocol_differences.items()
        ],
        protocols=list(protocols.items()) if {*protocols.values()} - {BARE} else [],
    )


def _board_row(own: Sequence[Entry], cells: list[Cell | None]) -> BoardRow:
    newest_first = sorted(own, key=lambda entry: entry.when, reverse=True)
    parameters = next(filter(None, (entry.parameters for entry in newest_first)), None)
    return BoardRow(own[0].model, cells, parameters, _in_short(parameters), newest_first[0].when)


def _in_short(count: int | None) -> str:
    """Such as 7.06B; three digits."""
    if count is None:
        return ""
    rounded = float(f"{count:.3g}")
    scale, letter = next(
        found for found in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"), (1, "")) if rounded >= found[0]
    )
    return f"{rounded / scale:.3g}{letter}"


def _page_columns(entries: Sequence[Entry], comparison: BoardComparison) -> list[PageColumn]:
    columns = columns_of(entries)
    versions = several_versions(columns)
    of_task: dict[str, set[str]] = {}
    for entry in entries:
        of_task.setdefault(entry.task, set()).add(entry.version)
    found = []
    for column, own in columns.items():
        version = f"version {column.version}" if column.metric_of_task in versions else ""
        judge = "" if column.judge is None else f"judged by {column.judge}"
        parts = (column.task, column.metric, f"({line(column.unit)})" if column.unit else "", version, judge)
        log = f"{column.task} (version {column.version})" if len(of_task[column.task]) > 1 else column.task
        headline = any(entry.headline for entry in own)
        verdicts = [comparison.verdicts[entry.key] for entry in own if entry.key in comparison.verdicts]
        worse = any(outcome(column.metric, verdict) == "worse" for verdict in verdicts)
        found.append(
            PageColumn(
                key=column,
                entries=own,
                headline=headline,
                shown=headline or worse,
                several_versions=column.metric_of_task in versions,
                name=line(" ".join(filter(None, parts))),
                log=line(log),
            )
        )
    return found


def _cell(entry: Entry, comparison: BoardComparison, apart: Mapping[Key, str]) -> Cell:
    verdict, corrected = comparison.verdicts.get(entry.key), comparison.corrected.get(entry.key)
    return Cell(
        value=number(entry.value, entry.unit),
        interval=span(entry.low, entry.high, entry.unit).strip(),
        corrected=corrected_in_words(corrected, entry.unit) if corrected else "",
        rank=str(comparison.rank(entry) or ""),
        notes=line(", ".join(_notes(entry, verdict))),
        order=entry.value,
        change=number(verdict.difference, entry.unit, signed=True) if verdict else "",
        outcome=outcome(entry.metric, verdict) if verdict else None,
        protocol_differs=entry.key in comparison.protocol_differences,
        asked=line(apart.get(entry.key, "")),
    )


def _notes(entry: Entry, verdict: PairedTest | None) -> list[str]:
    seeds = seeds_in_words(entry.metric, verdict) if verdict else ""
    return [*remarks(entry), *filter(None, (seeds, f"{MUTE} most answers are empty" if entry.mute else ""))]


def _verdict_row(column: PageColumn, entry: Entry, verdict: PairedTest) -> VerdictRow:
    unit = entry.unit
    return VerdictRow(
        column=column,
        model=entry.model,
        base=number(verdict.base, unit),
        other=number(verdict.other, unit),
        change=number(verdict.difference, unit, signed=True) + span(verdict.low, verdict.high, unit),
        p=p_value(verdict.p),
        mde=number(verdict.mde, unit),
        order=verdict.p,
        images=verdict.images,
        outcome=outcome(entry.metric, verdict),
        seeds=seeds_in_words(entry.metric, verdict),
    )


@dataclass(frozen=True, kw_only=True)
class ReportedTable:
    """What others said of metrics that are on the board."""

    columns: list[PageColumn]
    rows: list[tuple[str, list[tuple[str, float | None]], str, str]]
    """Model, a value a column as text and number, protocol ("" where it is not known), source."""

    notes: list[tuple[str, str]]
    """Source, and what it says of its scores."""


def reported_table(references: Iterable[Reference], columns: Sequence[PageColumn]) -> ReportedTable:
    """Rows of what others reported of these columns."""
    measured: dict[tuple[str, str], PageColumn] = {}
    for column in columns:
        if any(entry.imported is None for entry in column.entries):
            measured.setdefault(column.key.metric_of_task, column)
    shown = [reference for reference in references if (reference.task, reference.metric) in measured]
    wanted = {(reference.task, reference.metric) for reference in shown}
    kept = {name: column for name, column in measured.items() if name in wanted}
    rows: dict[tuple[str, str], dict[tuple[str, str], float]] = {}
    for reference in shown:
        rows.setdefault((reference.model, reference.source), {})[reference.task, reference.metric] = reference.value
    otherwise = asked_otherwise([entry for column in columns for entry in column.entries], shown)

    def text(model: str, source: str, name: tuple[str, str], value: float | None) -> str:
        differs = (model, source, *name) in otherwise
        return number(value, kept[name].key.unit) + (f" {PROTOCOL_DIFFERS}" if differs else "")

    return ReportedTable(
        columns=list(kept.values()),
        rows=[
            (
                model,
                [(text(model, source, name, values.get(name)), values.get(name)) for name in kept],
                line(protocols_in_words(one for one in shown if (one.model, one.source) == (model, source))),
                source,
            )
            for (model, source), values in rows.items()
        ],
        notes=[
            *dict.fromkeys((PROTOCOL_DIFFERS, words) for words in otherwise.values()),
            *dict.fromkeys((reference.source, reference.note) for reference in shown if reference.note),
        ],
    )


class CostRow(NamedTuple):
    """What one model's scores took."""

    model: str
    judges: str
    tasks: int
    samples: int
    judged: int
    seconds: float
    usd: float
    share: float
    """Of the most expensive model's cost, in %."""
    unknown: bool
    """Whether there were calls whose price is not known; they are in no sum."""


def cost_table(entries: Sequence[Entry]) -> list[CostRow]:
    """What each model's current scores took; a task's entries of one run share its seconds and its cost."""
    once = {(entry.model, entry.run, entry.task): entry for entry in entries}
    # Of a task's metrics, one may not be judged (the length of the answer), which must not hide that the others are.
    judges = {(e.model, e.run, e.task): e.judge for e in entries if e.judge is not None}
    models = list(dict.fromkeys(entry.model for entry in entries))
    usd = {model: sum(entry.cost for (name, _, _), entry in once.items() if name == model) for model in models}
    highest = max(usd.values(), default=0.0)
    rows = []
    for model in models:
        own = {key: entry for key, entry in once.items() if key[0] == model}
        rows.append(
            CostRow(
                model=model,
                judges=", ".join(dict.fromkeys(line(judges[key]) for key in own if key in judges)),
                tasks=len({task for _, _, task in own}),
                samples=sum(entry.samples for entry in own.values()),
                judged=sum(entry.samples - entry.failed for key, entry in own.items() if key in judges),
                seconds=sum(entry.seconds for entry in own.values()),
                usd=usd[model],
                share=round(100 * usd[model] / highest, 2) if highest else 0.0,
                unknown=any(COST_NOT_KNOWN in entry.provenance for entry in own.values()),
            )
        )
    return rows


class RunRow(NamedTuple):
    """One run and what ran."""

    run: str
    model: str
    created: str
    tasks: list[str]
    provenance: list[tuple[str, str]]


def run_table(entries: Sequence[Entry]) -> list[RunRow]:
    """What ran, newest first; what differs from task to task of a run is named with the task."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.run, []).append(entry)
    runs = []
    for run, group in groups.items():
        values: dict[str, dict[str, list[str]]] = {}
        for entry in group:
            for key, value in entry.provenance.items():
                tasks = values.setdefault(key, {}).setdefault(value, [])
                if entry.task not in tasks:
                    tasks.append(entry.task)
        facts = [
            (line(key), line(value if len(found) == 1 else f"{value} ({', '.join(tasks)})"))
            for key, found in values.items()
            for value, tasks in found.items()
        ]
        tasks = list(dict.fromkeys(line(entry.task) for entry in group))
        runs.append(RunRow(run, group[0].model, group[0].when.strftime("%Y-%m-%d %H:%M UTC"), tasks, facts))
    return sorted(runs, key=lambda found: (found.created, found.run), reverse=True)


def answers_of(columns: Sequence[PageColumn]) -> list[Asked]:
    """Of each task and version, the newest runs by its headline metric, the best first."""
    found = []
    for task, version in dict.fromkeys((column.key.task, column.key.version) for column in columns):
        own = [column for column in columns if (column.key.task, column.key.version) == (task, version)]
        headline = next((column for column in own if column.headline), own[0])
        runs = {
            entry.run: entry for column in own for entry in column.entries if column.key.metric == headline.key.metric
        }
        names = [entry.model for entry in runs.values()]
        labels = {
            run: line(entry.model if names.count(entry.model) == 1 else f"{entry.model} (judged by {entry.judge})")
            for run, entry in sorted(runs.items(), key=lambda item: best_first(item[1]))
        }
        found.append(Asked(label=headline.log, task=task, metric=headline.key.metric, runs=labels))
    return found
