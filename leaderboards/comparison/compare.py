"""What changed from one model to another.

    found = compare_runs(before, after, samples=(old.samples, new.samples), metrics=metric_of)
    print(to_markdown(found))

Paired tests (`paired_logs`), whether format or ability was lost (`format_loss`), and which answers flipped (`flips`).
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from leaderboards.board.board import newest
from leaderboards.board.entry import SEEDS, Entry
from leaderboards.board.sample import Sample
from leaderboards.comparison.flips import Flip, Tally, examples_of, flips, tally, tally_table
from leaderboards.comparison.format_loss import Format, explain, format_of, format_table, formats_adjusted
from leaderboards.comparison.guards import Guard, Guards, unguarded
from leaderboards.comparison.human_labels import Labels, corrected_difference, describe_uncorrected
from leaderboards.comparison.paired_logs import Loader, Logs, Metrics, match_seeds, protocol_differences
from leaderboards.statistics.matches import Matched
from leaderboards.statistics.prediction_powered import Corrected
from leaderboards.statistics.resampling import Counted, CountsMetric
from leaderboards.statistics.significance import ALPHA, holm
from leaderboards.statistics.verdict import Outcome, PairedTest, adjusted, verdicts
from leaderboards.views import glossary
from leaderboards.views.columns import (
    PROTOCOL_DIFFERS,
    Column,
    corrected_in_words,
    mark,
    outcome,
    seeds_in_words,
)
from leaderboards.views.glossary import DIFFERENCE, MARKS, OF_PAIR, VISIBLE, in_json, p_of
from support.errors import CompareError, did_you_mean
from support.markdown import MISSING, cell, line, number, p_value, span, table
from support.tables import Block, Cell, Table, Tested
from support.tables import to_markdown as as_markdown

_SIGNS: Final = {"higher": "↑", "lower": "↓"}

NO_SAMPLES: Final = "no samples of one side"


@dataclass(frozen=True, kw_only=True)
class Change:
    """One metric, before and after."""

    before: Entry
    after: Entry

    verdict: PairedTest | None
    """On the same questions; None = there is none, and `why` says why."""

    why: str

    protocol_differences: list[str]
    """How the questions were asked or rated differently, in words. Then the difference may come from that."""

    corrected: Corrected | None = None
    """The difference, corrected by people's ratings for the judge's errors; p-values adjusted as verdicts' are."""

    @property
    def corrected_outcome(self) -> Outcome | None:
        """The verdict by the corrected difference alone, which no guard is asked about."""
        if self.corrected is None:
            return None
        if self.corrected.p > ALPHA:
            return "not separable"
        return "better" if (self.corrected.value > 0) == self.before.higher_is_better else "worse"


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
    """What could not be compared, and how protocols differ."""

    @property
    def tallies(self) -> list[Tally]:
        """Of each task, and of its categories where it has several."""
        return tally(self.flips)


def compare_runs(
    before: Sequence[Entry],
    after: Sequence[Entry],
    *,
    samples: tuple[Loader, Loader],
    metrics: Metrics,
    guards: Guards = unguarded,
    models: tuple[str, str] | None = None,
    only_headline: bool = False,
    resamples: int = 10_000,
) -> Comparison:
    """Compare a model of `after` with one of `before`, over all tasks both have, by the newest score of each metric.

    `models` names the two; without it, each side must hold one model. Metrics that only one side has, or in another
    version or by another judge, are named in the notes. CompareError for a model that is not there, or nothing in
    common.

    A metric is better only if none of its `guards` is worse. The answers of a row of several trainings are not
    shown.
    """
    names = models or (_only_model(before, "before"), _only_model(after, "after"))
    old, new = (_select_model(entries, name) for entries, name in zip((before, after), names, strict=True))
    sides = Logs(samples[0]), Logs(samples[1])
    pairs, notes = _pair_scores(old, new, only_headline)
    if not pairs:
        why = "; ".join(notes[:3]) + (f"; and {len(notes) - 3} more" if len(notes) > 3 else "")
        raise CompareError(f"{names[0]!r} and {names[1]!r} have no score in common: {why or 'there are none'}")
    changes = _test_pairs(pairs, sides, metrics, guards, resamples)
    notes += dict.fromkeys(
        f"{line(change.before.task)}: {text}" for change in changes for text in change.protocol_differences
    )
    single = [pair for pair in pairs if not any(SEEDS in entry.provenance for entry in pair)]
    logs = _read_both_logs(_select_headlines(single), sides, notes)
    formats = [found for entry, ours, theirs in logs if (found := format_of(entry, ours, theirs, resamples))]
    return Comparison(
        before=names[0],
        after=names[1],
        changes=changes,
        formats=formats_adjusted(formats),
        flips=[
            flip
            for entry, ours, theirs in logs
            for flip in flips(entry, ours, theirs, metrics(entry.task, entry.metric))
        ],
        notes=notes,
    )


def with_corrections(
    found: Comparison, labels: Labels, *, samples: tuple[Loader, Loader], metrics: Metrics
) -> Comparison:
    """The comparison with differences corrected by people's `labels`; notes say why some are not."""
    sides = Logs(samples[0]), Logs(samples[1])
    corrected: dict[int, Corrected] = {}
    reasons: dict[tuple[str, str], list[str]] = {}
    for index, change in enumerate(found.changes):
        metric = metrics(change.before.task, change.before.metric)
        if metric is None:
            continue
        one = corrected_difference((change.before, change.after), sides, labels, metric)
        if isinstance(one, Corrected):
            corrected[index] = one
        elif one is not None:
            reasons.setdefault((change.before.task, one), []).append(change.before.metric)
    for family in (True, False):
        own = [index for index in corrected if found.changes[index].before.headline == family]
        p_values = holm([corrected[index].p for index in own])
        corrected |= {index: replace(corrected[index], p=p) for index, p in zip(own, p_values, strict=True)}
    return replace(
        found,
        changes=[replace(change, corrected=corrected.get(index)) for index, change in enumerate(found.changes)],
        notes=[*found.notes, *describe_uncorrected(reasons)],
    )


def _test_pairs(
    pairs: Sequence[tuple[Entry, Entry]],
    sides: tuple[Logs, Logs],
    metrics: Metrics,
    guards: Guards,
    resamples: int,
) -> list[Change]:
    """With p-values adjusted over the headline metrics, and over the others by themselves."""
    matches = [
        _match((one, other), sides, metrics(one.task, one.metric), guards(one.task, one.metric)) for one, other in pairs
    ]
    found = {index: match for index, match in enumerate(matches) if isinstance(match, Matched)}
    tested = verdicts(found, resamples=resamples)
    for family in (True, False):
        tested |= adjusted({index: test for index, test in tested.items() if pairs[index][0].headline == family})
    return [
        Change(
            before=one,
            after=other,
            verdict=tested.get(index),
            why=match if isinstance(match, str) else "",
            protocol_differences=protocol_differences(one, other),
        )
        for index, ((one, other), match) in enumerate(zip(pairs, matches, strict=True))
    ]


def _read_both_logs(
    pairs: Sequence[tuple[Entry, Entry]], sides: tuple[Logs, Logs], notes: list[str]
) -> list[tuple[Entry, dict[str, Sample], dict[str, Sample]]]:
    """Both logs of each pair that has them; what can't be read, and questions of one log only, are noted."""
    logs = []
    for one, other in pairs:
        try:
            ours, theirs = sides[0].of(one), sides[1].of(other)
        except (ValueError, OSError) as error:
            notes.append(f"{line(one.task)}: {line(str(error))}")
            continue
        if ours and theirs:
            logs.append((one, ours, theirs))
            both = len(ours.keys() & theirs.keys())
            if apart := len(ours.keys() ^ theirs.keys()):
                text = f"{apart} questions are in one log only; compared are the {both} others"
                notes.append(f"{line(one.task)}: {text}")
    return logs


def to_markdown(found: Comparison, *, shown: int = 3) -> str:
    """`to_blocks` in markdown."""
    return as_markdown(to_blocks(found, shown=shown)) + "\n"


def to_blocks(found: Comparison, *, shown: int = 3) -> list[Block]:
    """All of it as text: scores, format or ability, flips, and up to `shown` examples of each kind and task."""
    parts: list[Block] = [f"# {cell(found.before)} → {cell(found.after)}"]
    parts += _list_notes(found)
    parts += ["## Scores", *_scores_and_tests(found)]
    if found.formats:
        parts += ["## Format or ability?", format_table(found.formats)]
        parts.append(
            f"{MARKS} ↑ significantly more, ↓ significantly less. Next token: the likeliest of the possible answers."
        )
        parts.append("\n".join(f"- {explain(one)}" for one in found.formats))
    if found.flips:
        parts += ["## Flips", tally_table(found.tallies)]
        if text := examples_of(found.flips, shown):
            parts += ["## Examples", text]
    return parts


def scores_blocks(found: Comparison) -> list[Block]:
    """Its notes, its scores, and how they were tested."""
    return [*_list_notes(found), *_scores_and_tests(found)]


def _list_notes(found: Comparison) -> list[Block]:
    return ["\n".join(f"- {cell(note)}" for note in found.notes)] if found.notes else []


def _scores_and_tests(found: Comparison) -> list[Block]:
    differs = f" {PROTOCOL_DIFFERS}: asked or rated differently, as said above, so the difference may come from that."
    asked = any(change.protocol_differences for change in found.changes)
    return [*scores_table(found.changes), _how_tested(found.changes) + (differs if asked else "")]


def to_json(found: Comparison) -> dict[str, Any]:
    """All of it as JSON values, every flip with it."""
    return {
        "before": found.before,
        "after": found.after,
        "notes": found.notes,
        "glossary": in_json(OF_PAIR, _unit_of_tests(found.changes)),
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
                "asked_otherwise": change.protocol_differences,
                **_corrected_to_json(change),
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


def _corrected_to_json(change: Change) -> dict[str, Any]:
    """Nothing where nothing was corrected."""
    if change.corrected is None:
        return {}
    return {"corrected": asdict(change.corrected) | {"outcome": change.corrected_outcome}}


def verdict_to_json(verdict: PairedTest | None, metric: str) -> dict[str, Any] | None:
    """Its fields and its outcome on the metric of this name."""
    if verdict is None:
        return None
    guards = [asdict(guard) | {"worse": guard.worse} for guard in verdict.guards]
    return asdict(verdict) | {"guards": guards, "outcome": outcome(metric, verdict)}


def _how_tested(changes: Sequence[Change]) -> str:
    unit = _unit_of_tests(changes)
    seeds = [] if unit == "image" else [glossary.SEEDS]
    return " ".join(("On the same questions.", DIFFERENCE, p_of(OF_PAIR, unit), *seeds, MARKS, VISIBLE))


def _unit_of_tests(changes: Sequence[Change]) -> glossary.Unit:
    return glossary.unit_of(change.verdict.seeds is not None for change in changes if change.verdict is not None)


def scores_table(changes: Sequence[Change]) -> list[Block]:
    """One row a metric."""
    rows: list[list[Cell | str]] = []
    for change in changes:
        entry, verdict, unit = change.before, change.verdict, change.before.unit
        label = Column.of(entry).words
        label += f" (judge {line(entry.judge)})" if entry.judge is not None else ""
        other = f" {PROTOCOL_DIFFERS}" if change.protocol_differences else ""
        if verdict is None:
            seen = [number(entry.value, unit), number(change.after.value, unit), MISSING, MISSING, MISSING]
            rows.append([label, *seen, line(change.why) + other])
            continue
        word = outcome(entry.metric, verdict)
        tested: Tested = "better" if word == "better" else "worse" if word == "worse" else ""
        sides = [
            Cell(number(verdict.base, unit), best=word == "worse"),
            Cell(number(verdict.other, unit), best=word == "better", tested=tested),
        ]
        difference = number(verdict.difference, unit, signed=True) + span(verdict.low, verdict.high, unit)
        seen = [difference, number(verdict.mde, unit), p_value(verdict.p)]
        said = f"{_SIGNS.get(word) or mark(entry.metric, verdict)} {line(word)}{other}"
        rows.append([label, *sides, *seen, ", ".join(filter(None, (said, seeds_in_words(entry.metric, verdict))))])
    found = Table(["metric", "before", "after", "difference", "visible", "p", "after is"], rows, _how_tested(changes))
    return [found, *filter(None, [_corrected_table(changes)])]


def _corrected_table(changes: Sequence[Change]) -> str:
    """The differences by the judge and corrected, side by side; empty where nothing was corrected."""
    rows = []
    for change in changes:
        if (found := change.corrected) is None:
            continue
        entry, verdict, unit = change.before, change.verdict, change.before.unit
        raw = number(found.raw, unit, signed=True) + (span(verdict.low, verdict.high, unit) if verdict else "")
        words = corrected_in_words(found, unit, signed=True)
        said = outcome(entry.metric, verdict) if verdict else MISSING
        rows.append([Column.of(entry).label, raw, said, words, p_value(found.p), str(change.corrected_outcome)])
    if not rows:
        return ""
    headers = ["metric", "difference by the judge", "after is", "by people's labels", "p", "after is, corrected"]
    return "Corrected for the judge's errors by people's labels of both models' answers:\n\n" + table(headers, rows)


def _models(entries: Iterable[Entry]) -> list[str]:
    return list(dict.fromkeys(entry.model for entry in entries))


def _only_model(entries: Sequence[Entry], side: str) -> str:
    models = _models(entries)
    if len(models) != 1:
        raise CompareError(f"{side}: name the model to compare; there are {', '.join(map(repr, models)) or 'none'}")
    return models[0]


def _select_model(entries: Sequence[Entry], name: str) -> list[Entry]:
    found = [entry for entry in newest(entries) if entry.model == name]
    if not found:
        raise CompareError(f"no scores of model {name!r}{did_you_mean(name, _models(entries))}")
    return found


def _pair_scores(
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
            notes.append(_describe_unpaired(entry, new, "before"))
    own = {entry.key[1:] for entry in old}
    notes += [_describe_unpaired(entry, old, "after") for entry in new if entry.headline and entry.key[1:] not in own]
    return pairs, list(dict.fromkeys(notes))


def _describe_unpaired(entry: Entry, others: Collection[Entry], side: str) -> str:
    like = [other for other in others if (other.task, other.metric) == (entry.task, entry.metric)]
    name = line(f"{entry.task} {entry.metric}")
    if not like:
        return f"{name}: only {side}"
    facts = "; ".join(f"version {e.version}, judge {e.judge}, unit {e.unit or 'none'}" for e in (entry, *like))
    return line(f"{name}: not of one kind: {facts}")


def _select_headlines(pairs: Sequence[tuple[Entry, Entry]]) -> list[tuple[Entry, Entry]]:
    """One pair a task: its headline, or else its first; of several versions or judges, the first."""
    found: dict[str, tuple[Entry, Entry]] = {}
    for pair in pairs:
        task = pair[0].task
        if task not in found or (pair[0].headline and not found[task][0].headline):
            found[task] = pair
    return list(found.values())


def _match(
    pair: tuple[Entry, Entry],
    logs: tuple[Logs, Logs],
    metric: CountsMetric | None,
    guards: Sequence[Guard],
) -> Matched | str:
    """Or why there is nothing to test."""
    if metric is None:
        return "the metric is not known here"
    try:
        before, after = (own.of_seeds(entry) for own, entry in zip(logs, pair, strict=True))
        if not all([*before, *after]):
            return NO_SAMPLES
        return match_seeds(
            before,
            after,
            pair[0].metric,
            lambda records: Counted(records, metric),
            higher_is_better=pair[0].higher_is_better,
            guards=guards,
        )
    except (ValueError, OSError) as error:
        return line(str(error))
