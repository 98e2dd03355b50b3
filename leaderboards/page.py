"""One HTML file that shows a board: no server, nothing fetched, nothing in it that was not escaped.

    html = page(board.standing(), title="VLFeedback", base="llava-7b", samples=board.samples, thumbnails=picture)
    write_page(Path("board.html"), html)

The numbers are in the page as tables and drawings, complete without a script. The answers are in it too, compressed, one block for each
task and run, which the browser opens when somebody looks at the flips of two models. Words of models, judges and data reach the page
through the template's escaping or as JSON that becomes text nodes; besides, the page's own policy lets the browser run one script and one
style, known by their digests, and load no image but those within the page.
"""

import base64
import difflib
import gzip
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from leaderboards.board import newest
from leaderboards.charts import bars, best_first, curve, profile
from leaderboards.entry import Entry, Key
from leaderboards.plot import Point
from leaderboards.ranks import Rank
from leaderboards.report import line, number, p_value, span
from leaderboards.sample import Sample
from leaderboards.verdict import Outcome, Verdict

ANSWERS = 300_000
"""How many answers a page holds at most: 60 runs of 5,000 make a page of some 15 MB."""

THUMBNAIL_BYTES = 64 * 1024

_FILES = Path(__file__).with_name("page")

_KINDS = ((b"\xff\xd8\xff", "jpeg"), (b"\x89PNG\r\n\x1a\n", "png"), (b"RIFF", "webp"))

_POLICY = (
    "default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{style}'; img-src data:; base-uri 'none'; form-action 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)

Loader = Callable[[str], Sequence[Sample]]
"""Run id -> its samples; none, or a FileNotFoundError, where the run has no log."""

Thumbnails = Callable[[str, str], bytes | None]
"""Task and image id -> a small JPEG, PNG or WebP (128 pixels a side are shown); None = there is none to show."""


class PageError(ValueError):
    """What was asked of the page does not fit the board."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """What an answer got."""

    label: str
    """As shown: "right", "rating 4", "2 hallucinated", ..."""

    score: float
    """More is better; two models' marks for one question are compared by it."""

    right: bool


Marker = Callable[[Sample, str], Mark | None]
"""A sample and its task's headline metric -> its mark; None = it has none."""


def mark(sample: Sample, metric: str) -> Mark | None:
    """By what the task counted: whether it is correct, a rating from 0 to 6, or how much was hallucinated."""
    record = sample.records.get(metric) or next(iter(sample.records.values()), None)
    if sample.answer is None or record is None:
        return None
    if isinstance(correct := record.get("correct"), bool | int):
        return Mark(label="right" if correct else "wrong", score=float(correct), right=bool(correct))
    if isinstance(rating := record.get("rating"), int | float):
        return Mark(label=f"rating {rating:g}", score=float(rating), right=rating >= 3)  # MMHal: below 3, something is hallucinated
    if isinstance(made_up := record.get("hallucinated"), bool | int):
        return Mark(label=f"{int(made_up)} hallucinated" if made_up else "none hallucinated", score=-float(made_up), right=not made_up)
    return None


def page(
    entries: Sequence[Entry],
    *,
    title: str,
    base: str | None = None,
    samples: Loader | None = None,
    thumbnails: Thumbnails | None = None,
    verdicts: Mapping[Key, Verdict] | None = None,
    ranks: Mapping[Key, Rank] | None = None,
    curves: Mapping[str, Mapping[str, Sequence[Point]]] | None = None,
    marks: Marker = mark,
    notes: Sequence[str] = (),
    answers: int = ANSWERS,
) -> str:
    """The page's text; the same for the same arguments.

    `base` is the model the others are held against, and `verdicts` say how, by the key of the other's entry; `ranks` go by it as well.
    `curves` map metric label -> arm -> scored checkpoints. `notes` are shown on top, such as files of the board that could not be read. Of
    more than `answers` answers, those questions are kept on which the models differ. PageError for a base, verdict or rank of which the
    board has no score, and for a thumbnail that is no small image.
    """
    import jinja2
    from markupsafe import Markup

    shown = newest(entries)
    models = list(dict.fromkeys(entry.model for entry in shown))
    if base is not None and base not in models:
        raise PageError(f"base model {base!r} is not on the board; {_known(base, models)}")
    verdicts, ranks = verdicts or {}, ranks or {}
    _check_keys([*verdicts, *ranks], shown)
    board = _board(shown, base, verdicts, ranks)
    archive = _archive(board.columns, samples, thumbnails, marks, answers)
    headlines = [column for column in board.columns if column.headline]
    script, style = (_file(f"page.{kind}") for kind in ("js", "css"))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FILES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
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
        bars=[(column, bars([_readable(entry) for entry in column.entries], base=base and line(base))) for column in headlines],
        profile=profile([[_readable(entry) for entry in column.entries] for column in headlines], [line(model) for model in models]),
        curves=[chart for label, arms in (curves or {}).items() if (chart := curve(line(label), _lines(arms)))],
        costs=_costs(shown),
        runs=_runs(shown),
        partial=any(entry.limit is not None for entry in shown),
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
    outcome: Outcome | None


@dataclass(frozen=True, kw_only=True)
class _Against:
    """One verdict, as a row."""

    column: _Column
    model: str
    base: str
    other: str
    change: str
    difference: float | None
    p: str
    mde: str
    order: float
    images: int
    outcome: Outcome


@dataclass(frozen=True, kw_only=True)
class _Board:
    columns: list[_Column]
    rows: list[tuple[str, list[_Cell | None]]]
    against: list[_Against]
    sorted_by: int | None
    """Which column the rows are in the order of, the best first."""


def _board(entries: Sequence[Entry], base: str | None, verdicts: Mapping[Key, Verdict], ranks: Mapping[Key, Rank]) -> _Board:
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
                _cell(found[model], verdicts.get(found[model].key), ranks.get(found[model].key)) if model in found else None
                for found in of_model
            ],
        )
        for model in models
    ]
    by_key = {entry.key: (column, entry) for column in columns for entry in column.entries}
    against = [_against(*by_key[key], verdict) for key, verdict in verdicts.items() if key[0] != base]
    return _Board(columns=columns, rows=rows, against=against, sorted_by=sorted_by)


def _columns(entries: Sequence[Entry]) -> list[_Column]:
    """As in the markdown: scores of different version or judge never share a column; those of one task stand together."""
    groups: dict[tuple[str, str, str, str | None, str, bool], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.task, entry.metric, entry.version, entry.judge, entry.unit, entry.higher_is_better), []).append(entry)
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
        for key, group in sorted(groups.items(), key=lambda item: (tasks.index(item[0][0]), metrics.index((item[0][0], item[0][1]))))
    ]


def _cell(entry: Entry, verdict: Verdict | None, rank: Rank | None) -> _Cell:
    notes = [f"{entry.scored}/{entry.samples}"] if entry.scored < entry.samples else []
    notes += [f"{entry.failed} failed"] if entry.failed else []
    notes += [f"{entry.unparsed} unparsed"] if entry.unparsed else []
    notes += [f"limit {entry.limit}"] if entry.limit is not None else []
    if (leaked := line(entry.provenance.get("leaks", "0"))) != "0":
        notes.append(f"{leaked} leaked")  # rows of its training data that show the task's pictures
    return _Cell(
        value=number(entry.value, entry.unit),
        interval=span(entry.low, entry.high, entry.unit).strip(),
        rank=str(rank) if rank else "",
        notes=", ".join(notes),
        order=entry.value,
        change=number(verdict.difference, entry.unit, signed=True) if verdict else "",
        outcome=verdict.outcome if verdict else None,
    )


def _against(column: _Column, entry: Entry, verdict: Verdict) -> _Against:
    unit = entry.unit
    return _Against(
        column=column,
        model=entry.model,
        base=number(verdict.base, unit),
        other=number(verdict.other, unit),
        change=number(verdict.difference, unit, signed=True) + span(verdict.low, verdict.high, unit),
        difference=verdict.difference,
        p=p_value(verdict.p),
        mde=number(verdict.mde, unit),
        order=verdict.p,
        images=verdict.images,
        outcome=verdict.outcome,
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


class _Run(NamedTuple):
    run: str
    model: str
    created: str
    tasks: list[str]
    provenance: list[tuple[str, str]]


def _runs(entries: Sequence[Entry]) -> list[_Run]:
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
        runs.append(_Run(run, group[0].model, group[0].when.strftime("%Y-%m-%d %H:%M UTC"), tasks, facts))
    return sorted(runs, key=lambda found: (found.created, found.run), reverse=True)


class _Block(NamedTuple):
    id: str
    text: str


@dataclass(frozen=True, kw_only=True)
class _Archive:
    """The answers, as blocks of base64 that a browser opens one by one."""

    index: list[dict[str, Any]]
    logged: set[tuple[str, str]]
    """Log and model of which there are answers."""

    blocks: list[_Block]
    pictures: list[_Block]
    notes: list[str]


class _Log(NamedTuple):
    label: str
    samples: list[Sample]


class _Question(NamedTuple):
    id: str
    image: str


def _archive(columns: Sequence[_Column], samples: Loader | None, thumbnails: Thumbnails | None, marks: Marker, answers: int) -> _Archive:
    index: list[dict[str, Any]] = []
    blocks: list[_Block] = []
    notes: list[str] = []
    album = _Album(thumbnails)
    groups = _logs(columns, samples, notes) if samples else {}
    total = sum(len(log.samples) for _, logs in groups.values() for log in logs)
    for (task, version), (metric, logs) in groups.items():
        size = sum(len(log.samples) for log in logs)
        kept, asked = _kept(logs, answers * size // max(total, 1) if total > answers else size)
        places = {question: place for place, question in enumerate(kept)}
        prompts: dict[_Question, str] = {}
        categories: dict[_Question, str] = {}
        found = []
        for log in logs:
            rows = []
            for sample in log.samples:
                question = _Question(sample.id, sample.image)
                if question not in places:
                    continue
                prompt = prompts.setdefault(question, sample.prompt)
                categories[question] = categories.get(question) or _category(sample)  # a failed answer says none
                got = marks(sample, metric)
                own = sample.prompt if sample.prompt != prompt else None
                given = [got.label, got.score, int(got.right)] if got else None
                rows.append([places[question], sample.answer, given, sample.reply, own])
            found.append({"name": log.label, "block": _block(blocks, rows)})
        asked_rows = [[q.id, prompts[q], album.picture(task, q.image), q.image, categories[q]] for q in kept]
        label = next(column.log for column in columns if (column.task, column.version) == (task, version))
        index.append(
            {
                "label": label,
                "asked": asked,
                "kept": len(kept),
                "block": _block(blocks, asked_rows),
                "logs": found,
            }
        )
    logged = {(group["label"], log["name"]) for group in index for log in group["logs"]}
    return _Archive(index=index, logged=logged, blocks=blocks, pictures=album.blocks, notes=notes)


def _logs(columns: Sequence[_Column], samples: Loader, notes: list[str]) -> dict[tuple[str, str], tuple[str, list[_Log]]]:
    """Task and version -> its headline metric, and the logs of its newest runs; a log that cannot be read is named in `notes`."""

    @cache
    def load(run: str) -> dict[str, list[Sample]]:
        by_task: dict[str, list[Sample]] = {}
        try:
            for sample in samples(run):
                by_task.setdefault(sample.task, []).append(sample)
        except FileNotFoundError:
            return {}
        except (ValueError, OSError) as error:
            notes.append(f"Answers of run {run} are left out: {error}")
        return by_task

    found: dict[tuple[str, str], tuple[str, list[_Log]]] = {}
    for task, version in dict.fromkeys((column.task, column.version) for column in columns):
        own = [column for column in columns if (column.task, column.version) == (task, version)]
        headline = next((column for column in own if column.headline), own[0])
        runs = {entry.run: entry for column in own for entry in column.entries if column.metric == headline.metric}
        names = [entry.model for entry in runs.values()]
        logs = []
        for run, entry in sorted(runs.items(), key=lambda item: best_first(item[1])):
            label = entry.model if names.count(entry.model) == 1 else f"{entry.model} (judged by {entry.judge})"
            if logged := load(run).get(task):
                logs.append(_Log(line(label), logged))
        if logs:
            found[task, version] = headline.metric, logs
    return found


def _kept(logs: Sequence[_Log], answers: int) -> tuple[list[_Question], int]:
    """As many questions as make `answers` answers, in the order asked, those with more different answers first; and how many there are."""
    given: dict[_Question, set[str | None]] = {}
    counts: dict[_Question, int] = {}
    for log in logs:
        for sample in log.samples:
            question = _Question(sample.id, sample.image)
            given.setdefault(question, set()).add(sample.answer)
            counts[question] = counts.get(question, 0) + 1
    if sum(counts.values()) <= answers:
        return list(given), len(given)
    chosen: set[_Question] = set()
    for question in sorted(given, key=lambda question: -len(given[question])):
        if counts[question] > answers:
            break
        answers -= counts[question]
        chosen.add(question)
    return [question for question in given if question in chosen], len(given)


def _category(sample: Sample) -> str:
    """What kind of question it is, if the task says so."""
    for record in sample.records.values():
        for key in ("category", "type", "kind"):
            if isinstance(name := record.get(key), str):
                return name
    return ""


class _Album:
    """Thumbnails as base64, each once, however often it is shown."""

    def __init__(self, thumbnails: Thumbnails | None) -> None:
        self.thumbnails = thumbnails
        self.blocks: list[_Block] = []
        self._by_image: dict[tuple[str, str], str | None] = {}
        self._by_digest: dict[str, str] = {}

    def picture(self, task: str, image: str) -> str | None:
        """The id of the image's block; None if it has none."""
        if self.thumbnails is None:
            return None
        if (task, image) not in self._by_image:
            data = self.thumbnails(task, image)
            self._by_image[task, image] = None if data is None else self._stored(task, image, data)
        return self._by_image[task, image]

    def _stored(self, task: str, image: str, data: bytes) -> str:
        kind = next((kind for head, kind in _KINDS if data.startswith(head)), None)
        if kind is None or (kind == "webp" and data[8:12] != b"WEBP"):
            raise PageError(f"thumbnail of image {image!r} of {task} is no JPEG, PNG or WebP: it begins with {data[:8]!r}")
        if len(data) > THUMBNAIL_BYTES:
            raise PageError(f"thumbnail of image {image!r} of {task} has {len(data)} bytes, more than {THUMBNAIL_BYTES}")
        digest = hashlib.sha256(data).hexdigest()
        if digest not in self._by_digest:
            self._by_digest[digest] = f"p{len(self.blocks)}"
            self.blocks.append(_Block(self._by_digest[digest], f"data:image/{kind};base64,{_base64(data)}"))
        return self._by_digest[digest]


def _block(blocks: list[_Block], value: object) -> str:
    """Keep a JSON value, compressed; its id."""
    data = gzip.compress(json.dumps(value, separators=(",", ":")).encode(), compresslevel=6, mtime=0)
    blocks.append(_Block(f"b{len(blocks)}", _base64(data)))
    return blocks[-1].id


def _readable(entry: Entry) -> Entry:
    return replace(entry, model=line(entry.model) or "?", task=line(entry.task) or "?", metric=line(entry.metric) or "?")


def _lines(arms: Mapping[str, Sequence[Point]]) -> dict[str, Sequence[Point]]:
    return {line(arm): points for arm, points in arms.items()}


def _check_keys(keys: Iterable[Key], entries: Iterable[Entry]) -> None:
    known = {entry.key for entry in entries}
    for key in keys:
        if key not in known:
            model, task, metric, version, judge = key
            raise PageError(f"verdict or rank of {model!r} on {task} {metric} (version {version}, judge {judge}): no such score is shown")


def _known(name: str, names: Collection[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(map(repr, names)) or 'none'}"


def _file(name: str) -> str:
    return (_FILES / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return _base64(hashlib.sha256(text.encode()).digest())


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
