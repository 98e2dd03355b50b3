"""One HTML file that shows a board: no server, nothing fetched, nothing in it that was not escaped.

    html = page(board.current(), title="VLFeedback", base="llava-7b", samples=board.samples, thumbnails=picture)
    write_page(Path("board.html"), html)

The numbers are in the page as tables and drawings, complete without a script. The answers are in it too
(`leaderboards.views.page_answers`), compressed, one block for each task and run, which the browser opens when somebody
looks at the flips of two models. Words of models, judges
and data reach the page through the template's escaping or as JSON that becomes text nodes; besides, the page's own
policy lets the browser run one script and one style, known by their digests, and load no image but those within the
page.
"""

import base64
import hashlib
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from leaderboards.board.board import newest
from leaderboards.board.entry import Entry, Key, is_neutral
from leaderboards.statistics.ranks import Rank
from leaderboards.statistics.verdict import PairedTest
from leaderboards.views.learning_curves import Point
from leaderboards.views.markdown_report import arrow, outcome, remarks
from leaderboards.views.page_answers import ANSWERS, Asked, Loader, Marker, Thumbnails, mark, pack
from leaderboards.views.published import Reference
from leaderboards.views.svg_charts import bars, best_first, curve, profile
from support.errors import BoardError, did_you_mean
from support.markdown import line, number, p_value, span

__all__ = ["BoardError", "mark", "page", "write_page"]

_FILES = Path(__file__).with_name("page")

_POLICY = (
    "default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{style}'; img-src data:; base-uri 'none'; form-action 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)


def page(
    entries: Sequence[Entry],
    *,
    title: str,
    base: str | None = None,
    samples: Loader | None = None,
    thumbnails: Thumbnails | None = None,
    verdicts: Mapping[Key, PairedTest] | None = None,
    ranks: Mapping[Key, Rank] | None = None,
    otherwise: Mapping[Key, Sequence[str]] | None = None,
    curves: Mapping[str, Mapping[str, Sequence[Point]]] | None = None,
    references: Sequence[Reference] = (),
    marks: Marker = mark,
    notes: Sequence[str] = (),
    answers: int = ANSWERS,
) -> str:
    """The page's text; the same for the same arguments.

    `base` is the model the others are held against, and `verdicts` say how, by the key of the other's entry; `ranks` go
    by it as well, and so does `otherwise`: in which words the base's score was asked otherwise. `curves` map metric
    label -> arm -> scored checkpoints. `references` are what others reported, of which the metrics on this board are
    shown, apart. `notes` are shown on top, such as files of the board that could not be read. Of more than `answers`
    answers, those questions are kept on which most models differ. BoardError for a base, verdict, rank or other words of
    which the board has no score, and for a thumbnail that is no small image.
    """
    import jinja2
    from markupsafe import Markup

    shown = newest(entries)
    models = list(dict.fromkeys(entry.model for entry in shown))
    if base is not None and base not in models:
        raise BoardError(f"base model {base!r} is not on the board{did_you_mean(base, models)}")
    verdicts, ranks, otherwise = verdicts or {}, ranks or {}, otherwise or {}
    _check_keys([*verdicts, *ranks, *otherwise], shown)
    board = _board(shown, base, verdicts, ranks, otherwise)
    archive = pack(_asked(board.columns), samples, thumbnails=thumbnails, marks=marks, answers=answers)
    headlines = [column for column in board.columns if column.headline]
    script, style = (_file(f"page.{kind}") for kind in ("js", "css"))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FILES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("page.html.jinja").render(
        title=line(title),
        policy=_POLICY.format(script=_digest(script), style=_digest(style)),
        # Both are files of ours, which hold no name and no answer.
        script=Markup(script),
        style=Markup(style),
        base=base,
        models=models,
        tasks=list(dict.fromkeys(column.task for column in board.columns)),
        board=board,
        bars=[
            (column, bars([_readable(entry) for entry in column.entries], base=base and line(base)))
            for column in headlines
        ],
        profile=profile(
            [list(map(_readable, c.entries)) for c in headlines if not c.neutral], [line(model) for model in models]
        ),
        curves=[chart for label, arms in (curves or {}).items() if (chart := curve(line(label), _lines(arms)))],
        costs=_costs(shown),
        runs=_runs(shown),
        partial=any(entry.partial for entry in shown),
        reported=_reported(references, board.columns),
        notes=[line(note) for note in [*notes, *archive.notes]],
        archive=archive,
        number=number,
        line=line,
    )
    return text.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair must not cost the page


def write_page(path: Path, html: str) -> None:
    """Write the page, as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(html.encode())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class _Column:
    task: str
    metric: str
    unit: str
    version: str
    judge: str | None
    higher_is_better: bool
    headline: bool
    several_versions: bool

    log: str
    """The name its answers go by in the flip browser."""

    entries: list[Entry]

    @property
    def neutral(self) -> bool:
        """Whether neither direction is better."""
        return is_neutral(self.metric)

    @property
    def arrow(self) -> str:
        """Which direction is better."""
        return arrow(self.metric, self.higher_is_better)

    @property
    def name(self) -> str:
        """In one line, without markup."""
        parts = [self.task, self.metric, f"({line(self.unit)})" if self.unit else ""]
        parts += [f"version {self.version}"] if self.several_versions else []
        parts += [f"judged by {self.judge}"] if self.judge is not None else []
        return line(" ".join(part for part in parts if part))


@dataclass(frozen=True, kw_only=True)
class _Cell:
    value: str
    interval: str
    rank: str
    notes: str
    order: float | None
    change: str
    outcome: str | None
    """Of the verdict, in a word."""

    otherwise: bool


@dataclass(frozen=True, kw_only=True)
class _Against:
    """One verdict, as a row."""

    column: _Column
    model: str
    base: str
    other: str
    change: str
    p: str
    mde: str
    order: float
    images: int
    outcome: str


@dataclass(frozen=True, kw_only=True)
class _Board:
    columns: list[_Column]
    rows: list[tuple[str, list[_Cell | None]]]
    against: list[_Against]
    sorted_by: int | None
    """Which column the rows are in the order of, the best first."""

    otherwise: list[tuple[str, str, str]]
    """Model, metric, and in which words it was asked otherwise than the base."""


def _board(
    entries: Sequence[Entry],
    base: str | None,
    verdicts: Mapping[Key, PairedTest],
    ranks: Mapping[Key, Rank],
    otherwise: Mapping[Key, Sequence[str]],
) -> _Board:
    columns = _columns(entries)
    models = list(dict.fromkeys(entry.model for entry in entries))
    of_model = [{entry.model: entry for entry in column.entries} for column in columns]
    sorted_by = next((index for index, column in enumerate(columns) if column.headline), 0 if columns else None)
    if sorted_by is not None:
        sign = -1 if columns[sorted_by].higher_is_better else 1
        first = {model: entry.value for model, entry in of_model[sorted_by].items()}
        models.sort(key=lambda model: (first.get(model) is None, sign * (first.get(model) or 0.0)))
    rows: list[tuple[str, list[_Cell | None]]] = [
        (
            model,
            [
                _cell(entry, verdicts.get(entry.key), ranks.get(entry.key), entry.key in otherwise)
                if (entry := found.get(model))
                else None
                for found in of_model
            ],
        )
        for model in models
    ]
    by_key = {entry.key: (column, entry) for column in columns for entry in column.entries}
    against = [_against(*by_key[key], verdict) for key, verdict in verdicts.items() if key[0] != base]
    differing = [
        (by_key[key][1].model, by_key[key][0].name, line("; ".join(words))) for key, words in otherwise.items()
    ]
    return _Board(columns=columns, rows=rows, against=against, sorted_by=sorted_by, otherwise=differing)


def _columns(entries: Sequence[Entry]) -> list[_Column]:
    """As in the markdown: scores of different version or judge never share a column; those of one task stand
    together."""
    groups: dict[tuple[str, str, str, str | None, str, bool], list[Entry]] = {}
    for entry in entries:
        groups.setdefault(
            (entry.task, entry.metric, entry.version, entry.judge, entry.unit, entry.higher_is_better), []
        ).append(entry)
    tasks = list(dict.fromkeys(entry.task for entry in entries))
    metrics = list(dict.fromkeys((entry.task, entry.metric) for entry in entries))
    versions: dict[tuple[str, str], set[str]] = {}
    of_task: dict[str, set[str]] = {}
    for entry in entries:
        versions.setdefault((entry.task, entry.metric), set()).add(entry.version)
        of_task.setdefault(entry.task, set()).add(entry.version)
    return [
        _Column(
            task=key[0],
            metric=key[1],
            version=key[2],
            judge=key[3],
            unit=key[4],
            higher_is_better=key[5],
            headline=any(entry.headline for entry in group),
            several_versions=len(versions[key[0], key[1]]) > 1,
            log=line(f"{key[0]} (version {key[2]})" if len(of_task[key[0]]) > 1 else key[0]),
            entries=group,
        )
        for key, group in sorted(
            groups.items(), key=lambda item: (tasks.index(item[0][0]), metrics.index((item[0][0], item[0][1])))
        )
    ]


def _cell(entry: Entry, verdict: PairedTest | None, rank: Rank | None, otherwise: bool) -> _Cell:
    return _Cell(
        value=number(entry.value, entry.unit),
        interval=span(entry.low, entry.high, entry.unit).strip(),
        rank=str(rank) if rank and not is_neutral(entry.metric) else "",
        notes=line(", ".join(remarks(entry))),
        order=entry.value,
        change=number(verdict.difference, entry.unit, signed=True) if verdict else "",
        outcome=outcome(entry.metric, verdict) if verdict else None,
        otherwise=otherwise,
    )


def _against(column: _Column, entry: Entry, verdict: PairedTest) -> _Against:
    unit = entry.unit
    return _Against(
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
    )


@dataclass(frozen=True, kw_only=True)
class _Reported:
    """What others said of metrics that are on the board."""

    columns: list[_Column]
    rows: list[tuple[str, list[tuple[str, float | None]], str]]
    """Model, a value a column as text and number, source."""

    notes: list[tuple[str, str]]
    """Source, and what it says of its scores."""


def _reported(references: Iterable[Reference], columns: Sequence[_Column]) -> _Reported:
    measured: dict[tuple[str, str], _Column] = {}
    for column in columns:
        if any(entry.imported is None for entry in column.entries):
            measured.setdefault((column.task, column.metric), column)
    shown = [reference for reference in references if (reference.task, reference.metric) in measured]
    wanted = {(reference.task, reference.metric) for reference in shown}
    kept = {name: column for name, column in measured.items() if name in wanted}
    rows: dict[tuple[str, str], dict[tuple[str, str], float]] = {}
    for reference in shown:
        rows.setdefault((reference.model, reference.source), {})[reference.task, reference.metric] = reference.value
    return _Reported(
        columns=list(kept.values()),
        rows=[
            (
                model,
                [(number(values.get(name), column.unit), values.get(name)) for name, column in kept.items()],
                source,
            )
            for (model, source), values in rows.items()
        ],
        notes=list(dict.fromkeys((reference.source, reference.note) for reference in shown if reference.note)),
    )


class _Cost(NamedTuple):
    model: str
    judges: str
    tasks: int
    samples: int
    judged: int
    seconds: float
    usd: float
    share: float
    """Of the dearest model's, in %."""


def _costs(entries: Sequence[Entry]) -> list[_Cost]:
    """What each model's standing scores took; a task's entries of one run share its seconds and its cost."""
    once = {(entry.model, entry.run, entry.task): entry for entry in entries}
    # Of a task's metrics, one may not be judged (the length of the answer), which must not hide that the others are.
    judges = {(e.model, e.run, e.task): e.judge for e in entries if e.judge is not None}
    models = list(dict.fromkeys(entry.model for entry in entries))
    usd = {model: sum(entry.cost for (name, _, _), entry in once.items() if name == model) for model in models}
    dearest = max(usd.values(), default=0.0)
    rows = []
    for model in models:
        own = {key: entry for key, entry in once.items() if key[0] == model}
        rows.append(
            _Cost(
                model=model,
                judges=", ".join(dict.fromkeys(line(judges[key]) for key in own if key in judges)),
                tasks=len({task for _, _, task in own}),
                samples=sum(entry.samples for entry in own.values()),
                judged=sum(entry.samples - entry.failed for key, entry in own.items() if key in judges),
                seconds=sum(entry.seconds for entry in own.values()),
                usd=usd[model],
                share=round(100 * usd[model] / dearest, 2) if dearest else 0.0,
            )
        )
    return rows


class _RunRow(NamedTuple):
    run: str
    model: str
    created: str
    tasks: list[str]
    provenance: list[tuple[str, str]]


def _runs(entries: Sequence[Entry]) -> list[_RunRow]:
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
        runs.append(_RunRow(run, group[0].model, group[0].when.strftime("%Y-%m-%d %H:%M UTC"), tasks, facts))
    return sorted(runs, key=lambda found: (found.created, found.run), reverse=True)


def _asked(columns: Sequence[_Column]) -> list[Asked]:
    """Of each task and version, the newest runs by its headline metric, the best first."""
    found = []
    for task, version in dict.fromkeys((column.task, column.version) for column in columns):
        own = [column for column in columns if (column.task, column.version) == (task, version)]
        headline = next((column for column in own if column.headline), own[0])
        runs = {entry.run: entry for column in own for entry in column.entries if column.metric == headline.metric}
        names = [entry.model for entry in runs.values()]
        labels = {
            run: line(entry.model if names.count(entry.model) == 1 else f"{entry.model} (judged by {entry.judge})")
            for run, entry in sorted(runs.items(), key=lambda item: best_first(item[1]))
        }
        found.append(Asked(label=headline.log, task=task, metric=headline.metric, runs=labels))
    return found


def _readable(entry: Entry) -> Entry:
    return replace(
        entry, model=line(entry.model) or "?", task=line(entry.task) or "?", metric=line(entry.metric) or "?"
    )


def _lines(arms: Mapping[str, Sequence[Point]]) -> dict[str, Sequence[Point]]:
    return {line(arm): points for arm, points in arms.items()}


def _check_keys(keys: Iterable[Key], entries: Iterable[Entry]) -> None:
    known = {entry.key for entry in entries}
    for key in keys:
        if key not in known:
            model, task, metric, version, judge = key
            raise BoardError(
                f"verdict or rank of {model!r} on {task} {metric} (version {version}, judge {judge}): no such score is shown"
            )


def _file(name: str) -> str:
    return (_FILES / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
