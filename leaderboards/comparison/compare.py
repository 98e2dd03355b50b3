"""What changed from one model to another, and what a leaderboard shows beside its scores.

    found = compare_runs(before, after, samples=(old.samples, new.samples), metrics=metric_of)
    print(to_markdown(found))

Verdicts (`matching`), whether format or ability was lost (`format_loss`), and which answers flipped (`flips`).
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from leaderboards.board.board import newest
from leaderboards.board.entry import Entry, Key
from leaderboards.board.sample import Sample, askings
from leaderboards.comparison.flips import Flip, Tally, examples_of, flips, tally, tally_table
from leaderboards.comparison.format_loss import Format, explain, format_of, format_table, formats_adjusted
from leaderboards.comparison.paired_logs import Loader, Logs, match_logs, protocol_differences, same_questions
from leaderboards.statistics.ranks import Rank, ranks_of
from leaderboards.statistics.resampling import Counted, CountsMetric, Record
from leaderboards.statistics.verdict import Matched, PairedTest, adjusted, verdicts
from leaderboards.views.markdown_report import MARKS, arrow, outcome
from support.errors import CompareError, did_you_mean
from support.markdown import MISSING, cell, line, number, p_value, span, table

Metrics = Callable[[str, str], CountsMetric | None]
"""Task and metric -> the metric; None where it is not known."""

_SIGNS: Final[dict[str, str]] = {"higher": "↑", "lower": "↓"} | dict(MARKS.items())

NO_SAMPLES: Final = "no samples of one side"


@dataclass(frozen=True, kw_only=True)
class Change:
    """One metric, before and after."""

    before: Entry
    after: Entry

    verdict: PairedTest | None
    """On the same questions; None = there is none, and `why` says why."""

    why: str

    otherwise: list[str]
    """What was not the same in asking and rating, in words: then the difference may be of the asking."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two models on the same questions."""

    before: str
    after: str

    changes: list[Change]
    """p-values are adjusted over the headline metrics, and over the others by themselves."""

    formats: list[Format]
    """Of each task whose answers are right or wrong; p-values adjusted over the three tests of all tasks, and over the
    rest."""

    flips: list[Flip]
    """By the headline metric of each task, in the order asked."""

    notes: list[str]
    """What could not be compared, and what was asked otherwise."""

    @property
    def tallies(self) -> list[Tally]:
        """Of each task, and of its categories where it has several."""
        return tally(self.flips)


@dataclass(frozen=True, kw_only=True)
class BoardComparison:
    """What a leaderboard shows beside its scores, by the key of the entry."""

    verdicts: dict[Key, PairedTest]
    """Against the base; p-values are adjusted over the headline metrics of all models, and over all others by
    themselves.

    So a score has one verdict, whether or not the other metrics are shown.
    """

    otherwise: dict[Key, list[str]]
    """What was not the same in asking the base, in words, where something was: then the difference may be of the
    asking."""

    ranks: dict[Key, Rank]

    notes: list[str]
    """Why some have no verdict or no rank, and what was asked otherwise."""


def compare_runs(
    before: Sequence[Entry],
    after: Sequence[Entry],
    *,
    samples: tuple[Loader, Loader],
    metrics: Metrics,
    models: tuple[str, str] | None = None,
    only_headline: bool = False,
    resamples: int = 10_000,
) -> Comparison:
    """Hold a model of `after` against one of `before`, over all tasks both have; the newest score of each metric
    counts.

    `models` names the two; without it, each side must hold one model. Metrics that only one side has, or in another
    version or by another judge, are named in the notes. CompareError for a model that is not there, or nothing in
    common.
    """
    names = models or (_only_model(before, "before"), _only_model(after, "after"))
    old, new = (_of_model(entries, name) for entries, name in zip((before, after), names, strict=True))
    sides = Logs(samples[0]), Logs(samples[1])
    pairs, notes = _pairs(old, new, only_headline)
    if not pairs:
        why = "; ".join(notes[:3]) + (f"; and {len(notes) - 3} more" if len(notes) > 3 else "")
        raise CompareError(f"{names[0]!r} and {names[1]!r} have no score in common: {why or 'there are none'}")
    matches = [_matched(one, other, sides, metrics(one.task, one.metric)) for one, other in pairs]
    tested = verdicts(
        {index: match for index, match in enumerate(matches) if isinstance(match, Matched)}, resamples=resamples
    )
    changes = [
        Change(
            before=one,
            after=other,
            verdict=tested.get(index),
            why=match if isinstance(match, str) else "",
            otherwise=protocol_differences(one, other),
        )
        for index, ((one, other), match) in enumerate(zip(pairs, matches, strict=True))
    ]
    notes += dict.fromkeys(f"{line(change.before.task)}: {text}" for change in changes for text in change.otherwise)
    logs: list[tuple[Entry, dict[str, Sample], dict[str, Sample]]] = []
    for one, other in _headlines(pairs):
        try:
            ours, theirs = sides[0].of(one), sides[1].of(other)
        except (ValueError, OSError) as error:
            notes.append(f"{line(one.task)}: {line(str(error))}")
            continue
        if ours and theirs:
            logs.append((one, ours, theirs))
            if apart := len(ours.keys() ^ theirs.keys()):
                notes.append(
                    f"{line(one.task)}: {apart} questions are in one log only; compared are the {len(ours.keys() & theirs.keys())} others"
                )
    formats = [found for entry, ours, theirs in logs if (found := format_of(entry, ours, theirs, resamples))]
    return Comparison(
        before=names[0],
        after=names[1],
        changes=_in_families(changes),
        formats=formats_adjusted(formats),
        flips=[
            flip
            for entry, ours, theirs in logs
            for flip in flips(entry, ours, theirs, metrics(entry.task, entry.metric))
        ],
        notes=notes,
    )


def compare_board(
    entries: Sequence[Entry], *, samples: Loader, metrics: Metrics, base: str | None = None, only_headline: bool = True
) -> BoardComparison:
    """What a leaderboard of these scores shows beside them; CompareError for a base that is not among their models.

    A rank is over the images of which all models of its column have as many rated answers. A score without a log has
    neither.
    """
    if base is not None and base not in (models := _models(entries)):
        raise CompareError(f"base model {base!r} is not on the board{did_you_mean(base, models)}")
    logs = Logs(samples)
    columns: dict[tuple[object, ...], list[Entry]] = defaultdict(list)
    for entry in newest(entries):
        if entry.headline or not only_headline:
            columns[(*entry.key[1:], entry.unit, entry.higher_is_better)].append(entry)
    matches: dict[bool, dict[Key, Matched]] = {True: {}, False: {}}
    placed: dict[Key, Rank] = {}
    otherwise: dict[Key, list[str]] = {}
    notes: list[str] = []
    for column in columns.values():
        of_base = next((entry for entry in column if entry.model == base), None)
        if of_base is not None:
            otherwise |= {entry.key: found for entry in column if (found := protocol_differences(of_base, entry))}
        metric = metrics(column[0].task, column[0].metric)
        if metric is None:
            continue
        own, counted = _logs_of(column, logs, notes), _counted_once(metric)
        try:
            placed |= _ranks(own, column[0], counted)
        except ValueError as error:
            notes.append(f"no ranks of {line(column[0].task)} {line(column[0].metric)}: {line(str(error))}")
        for entry in column:
            if of_base is None or entry is of_base or not {of_base.key, entry.key} <= own.keys():
                continue
            before, after = own[of_base.key], own[entry.key]
            try:
                match = match_logs(before, after, entry.metric, counted, higher_is_better=entry.higher_is_better)
                matches[entry.headline][entry.key] = match
            except ValueError as error:
                notes.append(
                    f"no verdict on {line(entry.model)} by {line(entry.task)} {line(entry.metric)}: {line(str(error))}"
                )
    notes += [line(f"{model} {task}: {text}") for (model, task, *_), texts in otherwise.items() for text in texts]
    tested = verdicts(matches[True] | matches[False])
    families = [adjusted({key: tested[key] for key in family}) for family in matches.values()]
    return BoardComparison(
        verdicts=families[0] | families[1],
        otherwise=otherwise,
        ranks=placed,
        notes=list(dict.fromkeys(notes)),
    )


def to_markdown(found: Comparison, *, shown: int = 3) -> str:
    """All of it as text: scores, format or ability, flips, and up to `shown` examples of each kind and task."""
    parts = [f"# {cell(found.before)} → {cell(found.after)}"]
    parts += ["\n".join(f"- {cell(note)}" for note in found.notes)] if found.notes else []
    parts += ["## Scores", scores_table(found.changes)]
    parts.append(
        "On the same questions, resampled by image; p from a permutation test, Holm-adjusted over the headline metrics, and over the "
        "others by themselves. Visible: the true difference that 80% of such comparisons would find."
        + (
            " ≠: asked or rated otherwise, as said above, so the difference may be of the asking."
            if _any_otherwise(found)
            else ""
        )
    )
    if found.formats:
        parts += ["## Format or ability?", format_table(found.formats)]
        parts.append(
            "▲ better, ▼ worse, ↑ significantly more, ↓ significantly less. Next token: the likeliest of the possible answers."
        )
        parts.append("\n".join(f"- {explain(one)}" for one in found.formats))
    if found.flips:
        parts += ["## Flips", tally_table(found.tallies)]
        if text := examples_of(found.flips, shown):
            parts += ["## Examples", text]
    return "\n\n".join(parts) + "\n"


def to_json(found: Comparison) -> dict[str, Any]:
    """All of it as JSON values, every flip with it."""
    return {
        "before": found.before,
        "after": found.after,
        "notes": found.notes,
        "changes": [
            {
                **{
                    name: getattr(change.before, name)
                    for name in ("task", "metric", "version", "judge", "unit", "headline")
                },
                "before": change.before.value,
                "after": change.after.value,
                "runs": [change.before.run, change.after.run],
                "verdict": verdict_to_json(change.verdict, change.before.metric),
                "why": change.why,
                "asked_otherwise": change.otherwise,
            }
            for change in found.changes
        ],
        "formats": [
            {
                name: verdict_to_json(value, name) if isinstance(value, PairedTest) else value
                for name, value in vars(one).items()
            }
            | {"reading": one.reading, "words": explain(one)}
            for one in found.formats
        ],
        "tallies": [{"task": one.task, "category": one.category, **one.counts} for one in found.tallies],
        "flips": [asdict(flip) for flip in found.flips if flip.kind in ("fixed", "broken")],
    }


def verdict_to_json(verdict: PairedTest | None, metric: str) -> dict[str, Any] | None:
    """Its fields and its outcome on the metric of this name."""
    return None if verdict is None else asdict(verdict) | {"outcome": outcome(metric, verdict)}


def scores_table(changes: Sequence[Change]) -> str:
    """One row a metric."""
    rows = []
    for change in changes:
        entry, verdict, unit = change.before, change.verdict, change.before.unit
        parts = (cell(entry.task), cell(entry.metric), cell(unit), arrow(entry.metric, entry.higher_is_better))
        label = " ".join(part for part in parts if part)
        label += f" (judge {cell(entry.judge)})" if entry.judge is not None else ""
        other = " ≠" if change.otherwise else ""
        if verdict is None:
            seen = [number(entry.value, unit), number(change.after.value, unit), MISSING, MISSING, MISSING]
            rows.append([label, *seen, cell(change.why) + other])
            continue
        difference = number(verdict.difference, unit, signed=True) + span(verdict.low, verdict.high, unit)
        word = outcome(entry.metric, verdict)
        seen = [
            number(verdict.base, unit),
            number(verdict.other, unit),
            difference,
            number(verdict.mde, unit),
            p_value(verdict.p),
        ]
        rows.append([label, *seen, f"{_SIGNS[word]} {word}{other}"])
    return table(["metric", "before", "after", "difference", "visible", "p", "after is"], rows)


def _models(entries: Iterable[Entry]) -> list[str]:
    return list(dict.fromkeys(entry.model for entry in entries))


def _only_model(entries: Sequence[Entry], side: str) -> str:
    models = _models(entries)
    if len(models) != 1:
        raise CompareError(f"{side}: name the model to compare; there are {', '.join(map(repr, models)) or 'none'}")
    return models[0]


def _of_model(entries: Sequence[Entry], name: str) -> list[Entry]:
    found = [entry for entry in newest(entries) if entry.model == name]
    if not found:
        raise CompareError(f"no scores of model {name!r}{did_you_mean(name, _models(entries))}")
    return found


def _pairs(
    old: Sequence[Entry], new: Sequence[Entry], only_headline: bool
) -> tuple[list[tuple[Entry, Entry]], list[str]]:
    """Scores of one column, the old side's order; and what has no partner."""
    pairs, notes = [], []
    partners = {entry.key[1:]: entry for entry in new}
    for entry in old:
        other = partners.get(entry.key[1:])
        if other is not None and (entry.unit, entry.higher_is_better) == (other.unit, other.higher_is_better):
            if entry.headline or not only_headline:
                pairs.append((entry, other))
        elif entry.headline:
            notes.append(_lonely(entry, new, "before"))
    own = {entry.key[1:] for entry in old}
    notes += [_lonely(entry, old, "after") for entry in new if entry.headline and entry.key[1:] not in own]
    return pairs, list(dict.fromkeys(notes))


def _lonely(entry: Entry, others: Collection[Entry], side: str) -> str:
    like = [other for other in others if (other.task, other.metric) == (entry.task, entry.metric)]
    name = line(f"{entry.task} {entry.metric}")
    if not like:
        return f"{name}: only {side}"
    facts = "; ".join(f"version {e.version}, judge {e.judge}, unit {e.unit or 'none'}" for e in (entry, *like))
    return line(f"{name}: not of one kind: {facts}")


def _headlines(pairs: Sequence[tuple[Entry, Entry]]) -> list[tuple[Entry, Entry]]:
    """One pair a task: its headline, or else its first; of several versions or judges, the first."""
    found: dict[str, tuple[Entry, Entry]] = {}
    for pair in pairs:
        task = pair[0].task
        if task not in found or (pair[0].headline and not found[task][0].headline):
            found[task] = pair
    return list(found.values())


def _matched(old: Entry, new: Entry, logs: tuple[Logs, Logs], metric: CountsMetric | None) -> Matched | str:
    """Or why there is nothing to test."""
    if metric is None:
        return "the metric is not known here"
    try:
        before, after = logs[0].of(old), logs[1].of(new)
        if not (before and after):
            return NO_SAMPLES
        return match_logs(
            before, after, old.metric, lambda records: Counted(records, metric), higher_is_better=old.higher_is_better
        )
    except (ValueError, OSError) as error:
        return line(str(error))


def _logs_of(column: Sequence[Entry], logs: Logs, notes: list[str]) -> dict[Key, dict[str, Sample]]:
    """Of those that have one with records of their metric; which can't be read is noted."""
    found = {}
    for entry in column:
        try:
            log = logs.of(entry)
        except (ValueError, OSError) as error:
            notes.append(f"no rank and no verdict on {line(entry.model)} by {line(entry.task)}: {line(str(error))}")
            continue
        if any(entry.metric in sample.records for sample in log.values()):
            found[entry.key] = log
    return found


def _counted_once(metric: CountsMetric) -> Callable[[Sequence[Record]], Counted]:
    """Counts the same records but once, in whichever comparisons they are."""
    known_as: dict[tuple[int, ...], Counted] = {}

    def counted(records: Sequence[Record]) -> Counted:
        return known_as.setdefault(
            tuple(map(id, records)), Counted(records, metric)
        )  # which holds them, so that ids stay theirs

    return counted


def _ranks(
    logs: Mapping[Key, Mapping[str, Sample]], like: Entry, counted: Callable[[Sequence[Record]], Counted]
) -> dict[Key, Rank]:
    """Of a column's logs, whose entries are by the same metric as `like`."""
    if len(logs) < 2:
        return {}
    every = [askings(log) for log in logs.values()]
    records = iter(same_questions([asking for own in every for asking in own], like.metric))
    sides = {str(index): [counted(next(records)) for _ in own] for index, own in enumerate(every)}
    if not sides["0"][0].records:
        raise CompareError("no image has as many rated answers of all models")
    found = ranks_of(sides, higher_is_better=like.higher_is_better)
    return {key: rank for key, rank in zip(logs, found.values(), strict=True) if rank is not None}


def _in_families(changes: Sequence[Change]) -> list[Change]:
    """With p-values adjusted over the headline metrics, and over the others."""
    found = list(changes)
    for family in (True, False):
        own = {index: change.verdict for index, change in enumerate(changes) if change.before.headline == family}
        for index, verdict in adjusted(
            {index: verdict for index, verdict in own.items() if verdict is not None}
        ).items():
            found[index] = replace(changes[index], verdict=verdict)
    return found


def _any_otherwise(found: Comparison) -> bool:
    return any(change.otherwise for change in found.changes)
