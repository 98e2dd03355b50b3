"""Scores that papers report: shown beside measured ones, apart from them, each with its source.

    print(beside(board.current(), [*published(), *others]))
    print(to_csv(board.current(), published=rows(board.current(), [*published(), *others])))

`published.json` holds tables out of papers. A benchmark's own rows are in its task's YAML, and not repeated there:
whoever knows the tasks passes these as `Reference`s too. A reference is never an entry: nobody here can say what ran.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from leaderboards.board.entry import Entry, name_of_protocol
from leaderboards.views.columns import PROTOCOL_DIFFERS, Column
from support.errors import BoardError
from support.markdown import MISSING, cell, number, table
from support.parsing import parse_json

PUBLISHED: Final = Path(__file__).with_name("published.json")


@dataclass(frozen=True, kw_only=True)
class Reference:
    """One score as somebody else reported it."""

    model: str
    task: str
    metric: str

    value: float
    """In the unit of the task's metric."""

    source: str
    """The paper or page, and the table in it."""

    note: str = ""
    """What to know before holding one's own number against it."""

    protocol: str = ""
    """Whose wording its questions had; "" where that is not known."""


def published(path: Path = PUBLISHED) -> list[Reference]:
    """The scores in a file laid out as `schema/published.json` says, in its order; BoardError."""
    try:
        tables = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BoardError(f"{path}: {error}") from None
    if not isinstance(tables, list):
        raise BoardError(f"{path}: must be a list of tables, not {type(tables).__name__}")
    return [
        reference for place, found in enumerate(tables) for reference in _references(found, f"{path}: table {place}")
    ]


def beside(entries: Sequence[Entry], references: Iterable[Reference], *, only_headline: bool = False) -> str:
    """A section of markdown: what others reported of the metrics on the board; empty if that is nothing."""
    measured = _measured(entries, only_headline)
    shown = [reference for reference in references if (reference.task, reference.metric) in measured]
    if not shown:
        return ""
    columns = [
        column
        for column in reversed(measured)
        if any((reference.task, reference.metric) == column for reference in shown)
    ]
    by_source: dict[tuple[str, str], dict[tuple[str, str], float]] = {}
    for reference in shown:
        by_source.setdefault((reference.model, reference.source), {})[reference.task, reference.metric] = (
            reference.value
        )
    notes = dict.fromkeys(
        f"- {cell(reference.source)}: {cell(reference.note)}" for reference in shown if reference.note
    )
    otherwise = asked_otherwise(entries, shown)

    def value(model: str, source: str, column: tuple[str, str], found: float | None) -> str:
        differs = (model, source, *column) in otherwise
        return number(found, measured[column].unit) + (f" {PROTOCOL_DIFFERS}" if differs else "")

    cells = [
        [
            cell(model),
            *(value(model, source, column, found.get(column)) for column in columns),
            cell(protocols_in_words(one for one in shown if (one.model, one.source) == (model, source)) or MISSING),
            cell(source),
        ]
        for (model, source), found in by_source.items()
    ]
    legend = [f"- {PROTOCOL_DIFFERS}: {cell(words)}" for words in dict.fromkeys(otherwise.values())]
    parts = [
        "## Reported by others",
        "Not measured here: other prompts, other decoding, and where a judge rated, another judge.",
        table(["model", *(Column.of(measured[column]).label for column in columns), "protocol", "source"], cells),
        "\n".join([*legend, *notes]),
    ]
    return "\n\n".join(part for part in parts if part)


def asked_otherwise(entries: Sequence[Entry], references: Iterable[Reference]) -> dict[tuple[str, str, str, str], str]:
    """Of reported scores whose protocol is known, and not that of any score measured here: both, in words."""
    here: dict[str, set[str]] = {}
    for entry in entries:
        if entry.imported is None:
            here.setdefault(entry.task, set()).add(name_of_protocol(entry.provenance))
    found = {}
    for one in references:
        own = here.get(one.task, set())
        if one.protocol and not any(one.protocol in name.split("+") for name in own):
            words = f"{one.task} was asked by {one.protocol}, here by {', '.join(sorted(own))}"
            found[_key(one)] = words
    return found


def _key(one: Reference) -> tuple[str, str, str, str]:
    return one.model, one.source, one.task, one.metric


def protocols_in_words(references: Iterable[Reference]) -> str:
    """Whose wording the questions of these scores had: a name, or several with their tasks; "" where none is known."""
    tasks: dict[str, list[str]] = {}
    every = list(references)
    for one in every:
        if one.protocol:
            tasks.setdefault(one.protocol, []).append(one.task)
    if len(tasks) == 1 and all(one.protocol for one in every):
        return next(iter(tasks))
    return "; ".join(f"{name} ({', '.join(dict.fromkeys(own))})" for name, own in tasks.items())


def rows(
    entries: Sequence[Entry], references: Iterable[Reference], *, only_headline: bool = False
) -> list[dict[str, Any]]:
    """The same scores for programs, one a reference: with the unit of the metric on the board, the protocol where it is
    known, how that differs from those of the scores on the board, the source, and the note on it."""
    references, measured = list(references), _measured(entries, only_headline)
    otherwise = asked_otherwise(entries, references)
    return [
        {name: getattr(reference, name) for name in ("model", "task", "metric")}
        | {name: getattr(entry, name) for name in ("unit", "higher_is_better", "headline")}
        | {name: getattr(reference, name) for name in ("value", "protocol", "source", "note")}
        | {"asked_otherwise": [otherwise[key]] if (key := _key(reference)) in otherwise else []}
        for reference in references
        if (entry := measured.get((reference.task, reference.metric))) is not None
    ]


def _measured(entries: Sequence[Entry], only_headline: bool) -> dict[tuple[str, str], Entry]:
    """An entry of each metric that was measured here, the first metric last."""
    return {
        (entry.task, entry.metric): entry
        for entry in reversed(entries)
        if entry.imported is None and (entry.headline or not only_headline)
    }


def _references(data: Any, where: str) -> list[Reference]:
    if not isinstance(data, dict):
        raise BoardError(f"{where}: must be a JSON object, not {type(data).__name__}")
    if unknown := sorted(data.keys() - {"source", "note", "protocols", "rows"}):
        raise BoardError(f"{where}: unknown key {unknown[0]!r}; known: source, note, protocols, rows")
    source, note, rows = data.get("source"), data.get("note", ""), data.get("rows")
    if not (isinstance(source, str) and source):
        raise BoardError(f"{where}: source must be text, not {source!r}")
    if not isinstance(note, str):
        raise BoardError(f"{where}: note must be text, not {note!r}")
    if not (isinstance(rows, dict) and rows and all(isinstance(scores, dict) for scores in rows.values())):
        raise BoardError(f"{where} ({source}): rows must map models to their scores")
    protocols = _protocols(data.get("protocols", {}), rows, f"{where} ({source})")
    return [
        replace(reference, protocol=protocols.get(model, {}).get(reference.task, ""))
        for model, scores in rows.items()
        for name, value in scores.items()
        if (reference := _reference(model, name, value, source, note, where))
    ]


def _protocols(data: Any, rows: Mapping[str, Mapping[str, Any]], where: str) -> dict[str, dict[str, str]]:
    """Model -> task -> protocol; BoardError for those of a model or a task that the table has no score of."""
    if not isinstance(data, dict) or not all(isinstance(named, dict) for named in data.values()):
        raise BoardError(f"{where}: protocols must map models to tasks and their protocols")
    for model, named in data.items():
        tasks = {name.partition(".")[0] for name in rows.get(model, ())}
        for task, name in named.items():
            if task not in tasks:
                raise BoardError(f"{where}: protocols: {model}: no score of {task!r} is in rows")
            if not (isinstance(name, str) and name):
                raise BoardError(f"{where}: protocols: {model}: {task} must be a name, not {name!r}")
    return data


def _reference(model: str, name: str, value: object, source: str, note: str, where: str) -> Reference:
    task, _, metric = name.partition(".")
    if not (task and metric):
        raise BoardError(f"{where} ({source}): {model}: {name!r} must be TASK.METRIC")
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < float("inf"):
        raise BoardError(f"{where} ({source}): {model}: {name} must be a number, not {value!r}")
    return Reference(model=model, task=task, metric=metric, value=float(value), source=source, note=note)
