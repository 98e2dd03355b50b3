"""Whether a log says what its answers give: its records are computed anew, by the task's own code, and compared.

    check = LogCheck(rescore)
    check(old, new, logs_of_old, logs_of_new)     # CompareError names the first sample that differs
    check.notes                                   # what could not be computed anew, and why

This package knows no tasks, so whoever calls the gate hands over `rescore`. Both sides are computed from the same
documents: those of the baseline's log, and of the current one's where the baseline has none; where the task's code
makes its documents, `rescore` takes these. So an edited right answer is found, too.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from leaderboards.board.entry import Entry
from leaderboards.board.sample import Sample, repeats_of
from leaderboards.statistics.edge_intervals import Ends
from leaderboards.statistics.resampling import CountsMetric
from leaderboards.statistics.verdict import drawn_interval, interval_repeats
from support.errors import CompareError, RecordsError
from support.markdown import line, number

Records = Mapping[str, Mapping[str, Any]]
"""Metric -> record."""


@dataclass(frozen=True, kw_only=True)
class Recomputed:
    """What a log's answers and replies give today."""

    rounds: Sequence[Mapping[str, Records]]
    """For each time that the judge was asked (once without a judge): sample -> records."""

    replies: Sequence[Mapping[str, str | None]]
    """The same for the judge's replies."""

    counts: Mapping[str, int]
    """"unscored", "failed", "unparsed" -> how many samples are."""

    unknown: frozenset[str] = frozenset()
    """Fields of records that a log does not keep what they are computed from."""


Rescore = Callable[[Entry, Mapping[str, Sample]], Recomputed | str]
"""A run's entry and its samples with documents -> what they give; or in words, why that can't be computed."""

DRAW: Final = 0.1
"""How far the end of an interval may be from the one computed anew, in interval widths."""

SHOWN: Final = 80
"""Characters of a value that a message shows."""


class LogCheck:
    """Checks logs of two sides; each run's task once."""

    def __init__(self, rescore: Rescore | None) -> None:
        self._rescore = rescore
        self._problems: dict[tuple[str, str, str], str | None] = {}
        self.notes: list[str] = []

    def __call__(self, old: Entry, new: Entry, before: Mapping[str, Sample], after: Mapping[str, Sample]) -> None:
        """CompareError names the first sample of either log whose records are not what its answer gives."""
        if self._rescore is None:
            return
        documents = {
            sample.id: sample.document for log in (after, before) for sample in log.values() if sample.document
        }
        for side, entry, log in (("old", old, before), ("new", new, after)):
            key = side, entry.run, entry.task
            if key not in self._problems:
                with_documents = {name: replace(one, document=documents.get(name)) for name, one in log.items()}
                self._problems[key] = self._find_problem(entry, log, self._rescore(entry, with_documents))
            if problem := self._problems[key]:
                raise CompareError(f"run {entry.run}: {problem}")

    def _find_problem(self, entry: Entry, log: Mapping[str, Sample], found: Recomputed | str) -> str | None:
        if isinstance(found, str):
            self.notes.append(line(f"run {entry.run}: records of {entry.task} are taken from its log: {found}"))
            return None
        return next(_find_differences(log, found), None) or _find_other_count(entry, log, found)


def _find_differences(log: Mapping[str, Sample], found: Recomputed) -> Iterator[str]:
    """In words: each sample and its first field that differs."""
    logged = repeats_of(log)
    for name in log:
        for turn, kept in enumerate(logged):
            anew, reply = found.rounds[turn][name], found.replies[turn][name]
            what = _compare_records(kept[name].records, anew, found.unknown)
            if what is None and (reply or "").strip() != (kept[name].reply or "").strip():
                what = f"reply is {_show(kept[name].reply)} in its log, {_show(reply)} anew"
            if what is not None:
                repeat = f" (repeat {turn + 1})" if len(logged) > 1 else ""
                yield f"sample {name!r}{repeat}: {what}: it was edited, or other code read it: score it anew"


_SHOWN_ONLY: Final = frozenset(("made_up",))
"""Fields that views show and no score counts; logs of earlier versions lack them."""


def _compare_records(kept: Records, anew: Records, unknown: frozenset[str]) -> str | None:
    for metric in [*kept, *anew]:
        if metric not in anew:
            return f"{metric} has a record in its log, none by its answer"
        if metric not in kept:
            return f"{metric} has no record in its log, one by its answer"
        if kept[metric] is anew[metric] or kept[metric] == anew[metric]:
            continue
        own, other = kept[metric], json.loads(json.dumps(dict(anew[metric])))
        for field in [*own, *other]:
            if field in _SHOWN_ONLY and field not in own:
                continue
            if field not in unknown and not _same(own.get(field), other.get(field)):
                return (
                    f"{metric}.{field} is {_show(own.get(field))} in its log, {_show(other.get(field))} by its answer"
                )
    return None


def _same(one: object, other: object) -> bool:
    """Equal; a number but for the last digits that another machine may round otherwise."""
    if isinstance(one, float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
    return type(one) is type(other) and one == other


def _find_other_count(entry: Entry, log: Mapping[str, Sample], found: Recomputed) -> str | None:
    """In words: a count of the entry that its log does not give.

    Entries of earlier versions, whose logs keep no documents, may lack the number of unparsed answers.
    """
    keeps_documents = any(sample.document for sample in log.values())
    for name, count in found.counts.items():
        if getattr(entry, name) != count and (keeps_documents or name != "unparsed"):
            return f"{entry.task}: {name} is {getattr(entry, name)}, its log gives {count}: score it anew"
    return None


def check_interval(entry: Entry, log: Mapping[str, Sample], metric: CountsMetric) -> None:
    """CompareError where the entry's interval is not that of its log.

    Entries of earlier versions keep a bootstrap's interval, which another draw would move a little. Logs without
    documents are of still earlier ones, whose intervals may have been drawn in other ways.
    """
    if not any(sample.document for sample in log.values()):
        return
    repeats = [[s.records[entry.metric] for s in own.values() if entry.metric in s.records] for own in repeats_of(log)]
    kept: Ends = (entry.low, entry.high) if entry.low is not None and entry.high is not None else (None, None)
    found = _ends(interval_repeats, repeats, metric)
    if _are_ends(kept, found) or _are_ends(kept, _ends(drawn_interval, repeats, metric), DRAW):
        return
    name, own, anew = next(
        (name, own, anew)
        for name, own, anew in zip(("low", "high"), (entry.low, entry.high), found, strict=True)
        if own is None or anew is None or not math.isclose(own, anew, rel_tol=1e-6, abs_tol=1e-6)
    )
    shown = [number(value, entry.unit) for value in (own, anew)]
    raise CompareError(
        f"run {entry.run}: {name} of its interval is {shown[0]}, its log gives {shown[1]}: score it anew"
    )


def _ends(
    interval: Callable[[Sequence[Sequence[Mapping[str, Any]]], CountsMetric], Ends],
    repeats: Sequence[Sequence[Mapping[str, Any]]],
    metric: CountsMetric,
) -> Ends:
    try:
        return interval(repeats, metric) if all(repeats) else (None, None)
    except RecordsError:  # no image that every repeat rated
        return None, None


def _are_ends(kept: Ends, found: Ends, drawn: float = 0.0) -> bool:
    """Equal, but for rounding and for `drawn` widths of the interval."""
    if kept[0] is None or found[0] is None:
        return kept == found
    near = 1e-6 + drawn * (found[1] - found[0])
    return all(math.isclose(*pair, rel_tol=1e-6, abs_tol=near) for pair in zip(kept, found, strict=True))


def _show(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return line(text if len(text) <= SHOWN else f"{text[:SHOWN]} …")
