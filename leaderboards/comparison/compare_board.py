"""What a leaderboard shows beside its scores: tests against a base, ranks, and how protocols differ.

found = compare_board(board.current(), samples=board.samples, metrics=metric_of, base="llava-7b")
print(leaderboard(board.current(), comparison=found, base="llava-7b"))
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from leaderboards.board.board import newest
from leaderboards.board.entry import EMPTY_ANSWERS, Entry, Key
from leaderboards.board.sample import repeats_of
from leaderboards.comparison.guards import Guard, Guards, unguarded
from leaderboards.comparison.paired_logs import (
    Loader,
    Log,
    Logs,
    Metrics,
    match_guards,
    match_seeds,
    protocol_differences,
    same_questions,
)
from leaderboards.statistics.matches import Matched
from leaderboards.statistics.ranks import Rank, ranks_of, ranks_of_seeds
from leaderboards.statistics.resampling import Counted, CountsMetric, Record
from leaderboards.statistics.verdict import adjusted, guard_test, verdicts
from leaderboards.views.columns import BoardComparison, columns_of
from support.errors import CompareError, did_you_mean
from support.markdown import line

RESAMPLES: Final = 2_000
"""Swaps of a guard's test between two models of a column, of which there may be very many."""


def compare_board(
    entries: Sequence[Entry],
    *,
    samples: Loader,
    metrics: Metrics,
    guards: Guards = unguarded,
    base: str | None = None,
    only_headline: bool = True,
) -> BoardComparison:
    """Tests against `base` and ranks, column by column; CompareError for a base that has no score here.

    A rank is over the images of which all models of its column have the same number of rated answers. A score without
    a sample log has neither verdict nor rank, one most of whose answers are empty no rank. A metric is better only if
    none of its `guards` is worse.
    """
    shown = [entry for entry in newest(entries) if entry.headline or not only_headline]
    models = list(dict.fromkeys(entry.model for entry in entries))
    if base is not None and base not in models:
        raise CompareError(f"base model {base!r} is not on the board{did_you_mean(base, models)}")
    logs, notes = Logs(samples), list[str]()
    matches: dict[Key, Matched] = {}
    ranks: dict[Key, Rank] = {}
    differences: dict[Key, list[str]] = {}
    for column in columns_of(shown).values():
        of_base = next((entry for entry in column if entry.model == base), None)
        if of_base is not None:
            differences |= {entry.key: found for entry in column if (found := protocol_differences(of_base, entry))}
        metric = metrics(column[0].task, column[0].metric)
        if metric is None:
            continue
        own, count = _read_logs(column, logs, notes), _counter(metric)
        try:
            ranks |= _rank(own, column, count, guards(column[0].task, column[0].metric))
        except ValueError as error:
            notes.append(f"no ranks of {line(column[0].task)} {line(column[0].metric)}: {line(str(error))}")
        if of_base is not None:
            own_guards = guards(column[0].task, column[0].metric)
            matches |= _match_with_base(of_base, column, own, count, own_guards, notes)
    notes += [line(f"{model} {task}: {text}") for (model, task, *_), texts in differences.items() for text in texts]
    tested = verdicts(matches)
    headlines = {entry.key for entry in shown if entry.headline}
    of_headlines = adjusted({key: test for key, test in tested.items() if key in headlines})
    of_others = adjusted({key: test for key, test in tested.items() if key not in headlines})
    return BoardComparison(
        verdicts=of_headlines | of_others,
        protocol_differences=differences,
        ranks=ranks,
        notes=list(dict.fromkeys(notes)),
    )


Count = Callable[[Sequence[Record]], Counted]
"""Counts a model's records by one metric."""


def _match_with_base(
    base: Entry,
    column: Sequence[Entry],
    logs: Mapping[Key, Sequence[Log]],
    count: Count,
    guards: Sequence[Guard],
    notes: list[str],
) -> dict[Key, Matched]:
    """Each other model of a column with the base, if both have logs; what can't be matched is noted."""
    found: dict[Key, Matched] = {}
    for entry in column:
        if entry is base or not {base.key, entry.key} <= logs.keys():
            continue
        before, after = logs[base.key], logs[entry.key]
        try:
            found[entry.key] = match_seeds(
                before, after, entry.metric, count, higher_is_better=entry.higher_is_better, guards=guards
            )
        except ValueError as error:
            name = f"{line(entry.model)} by {line(entry.task)} {line(entry.metric)}"
            notes.append(f"no verdict on {name}: {line(str(error))}")
    return found


def _read_logs(column: Sequence[Entry], logs: Logs, notes: list[str]) -> dict[Key, Sequence[Log]]:
    """The logs that hold records of the column's metric, of a row of several trainings each one's; one that can't be
    read is noted."""
    found: dict[Key, Sequence[Log]] = {}
    for entry in column:
        try:
            own = logs.of_seeds(entry)
        except (ValueError, OSError) as error:
            notes.append(f"no rank and no verdict on {line(entry.model)} by {line(entry.task)}: {line(str(error))}")
            continue
        if all(any(entry.metric in sample.records for sample in log.values()) for log in own):
            found[entry.key] = own
    return found


def _counter(metric: CountsMetric) -> Count:
    """Counts the same records only once, in however many comparisons they are."""
    known_as: dict[tuple[int, ...], Counted] = {}

    def counted(records: Sequence[Record]) -> Counted:
        # Counted holds the records, so their ids stay theirs.
        return known_as.setdefault(tuple(map(id, records)), Counted(records, metric))

    return counted


def _rank(
    logs: Mapping[Key, Sequence[Log]], column: Sequence[Entry], count: Count, guards: Sequence[Guard]
) -> dict[Key, Rank]:
    """Ranks by a column's logs, of all that say something."""
    ranked = [entry for entry in column if entry.key in logs and not entry.mute]
    if len(ranked) < 2:
        return {}
    every = [[repeats_of(log) for log in logs[entry.key]] for entry in ranked]
    flat = [repeat for own in every for repeats in own for repeat in repeats]
    records = iter(same_questions(flat, column[0].metric))
    sides = {
        str(index): [[count(next(records)) for _ in repeats] for repeats in own] for index, own in enumerate(every)
    }
    if not sides["0"][0][0].records:
        raise CompareError("no image has as many rated answers of all models")

    def may_lead(first: str, second: str) -> bool:
        ahead, behind = (ranked[int(name)] for name in (first, second))
        suspects = [one for one in guards if one.may_be_worse(_values(behind), _values(ahead))]
        matched = match_guards(logs[behind.key], logs[ahead.key], suspects)
        return not any(guard_test(guard, RESAMPLES).worse for guard in matched)

    higher_is_better = column[0].higher_is_better
    if any(len(own) > 1 for own in sides.values()):
        found = ranks_of_seeds(sides, higher_is_better=higher_is_better, may_lead=may_lead)
    else:
        one_each = {name: own[0] for name, own in sides.items()}
        found = ranks_of(one_each, higher_is_better=higher_is_better, may_lead=may_lead)
    return {entry.key: rank for entry, rank in zip(ranked, found.values(), strict=True) if rank is not None}


def _values(entry: Entry) -> dict[str, float]:
    """The values of a score's guards, as far as its entry tells them."""
    share = entry.empty_share
    return {**entry.guards} if share is None else {EMPTY_ANSWERS: share, **entry.guards}
