"""How every view shows scores: in which column, which direction is better, and what stands beside a score.

Numbers of different task version, judge or unit never share a column.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from leaderboards.board.entry import EMPTY_ANSWERS, OTHER_DATA, SEEDS, Entry, Key, is_neutral
from leaderboards.statistics.prediction_powered import Corrected
from leaderboards.statistics.ranks import Rank
from leaderboards.statistics.verdict import Outcome, PairedTest
from leaderboards.views.glossary import Unit, unit_of
from support.markdown import cell, line, number, span

MARKS: Final[Mapping[Outcome, str]] = {"better": "▲", "worse": "▼", "not separable": "≈", "not better": "△"}
"""Shown behind a difference."""

MUTE: Final = "✗"
"""Shown behind a score most of whose answers are empty."""

PROTOCOL_DIFFERS: Final = "≠"
"""Shown behind a difference of two scores whose questions were not asked or rated in the same way."""


class Column(NamedTuple):
    """What all scores of one column have in common."""

    task: str
    metric: str
    version: str
    judge: str | None
    unit: str
    higher_is_better: bool

    @staticmethod
    def of(entry: Entry) -> "Column":
        """The column an entry belongs to."""
        return Column(entry.task, entry.metric, entry.version, entry.judge, entry.unit, entry.higher_is_better)

    @property
    def neutral(self) -> bool:
        """True if neither direction is better."""
        return is_neutral(self.metric)

    @property
    def arrow(self) -> str:
        """Which direction is better; empty if neither is."""
        return arrow(self.metric, self.higher_is_better)

    @property
    def metric_of_task(self) -> tuple[str, str]:
        """Task and metric, whatever the version and the judge."""
        return self.task, self.metric

    @property
    def words(self) -> str:
        """Task, metric, unit and direction, for a table's header; plain."""
        return " ".join(filter(None, (line(self.task), line(self.metric), line(self.unit), self.arrow)))

    @property
    def label(self) -> str:
        """The same in markdown."""
        return cell(self.words)


def columns_of(entries: Iterable[Entry]) -> dict[Column, list[Entry]]:
    """Entries by column, in order of appearance, but the columns of one task, and of one metric, stand together."""
    columns: dict[Column, list[Entry]] = {}
    for entry in entries:
        columns.setdefault(Column.of(entry), []).append(entry)
    tasks = list(dict.fromkeys(column.task for column in columns))
    metrics = list(dict.fromkeys(column.metric_of_task for column in columns))
    order = sorted(columns, key=lambda column: (tasks.index(column.task), metrics.index(column.metric_of_task)))
    return {column: columns[column] for column in order}


def several_versions(columns: Iterable[Column]) -> set[tuple[str, str]]:
    """Task and metric of those that have columns of more than one version."""
    versions: dict[tuple[str, str], set[str]] = {}
    for column in columns:
        versions.setdefault(column.metric_of_task, set()).add(column.version)
    return {name for name, found in versions.items() if len(found) > 1}


@dataclass(frozen=True, kw_only=True)
class BoardComparison:
    """What a leaderboard shows beside its scores, by the entry's key."""

    verdicts: Mapping[Key, PairedTest] = field(default_factory=dict)
    """Paired tests against the base. p-values are adjusted over the headline metrics of all models, and over all other
    metrics by themselves, so that a score has one verdict whether or not other metrics are shown."""

    protocol_differences: Mapping[Key, Sequence[str]] = field(default_factory=dict)
    """How the questions were asked or rated differently from the base's, in words. Then the difference may come from
    that, not from the models."""

    ranks: Mapping[Key, Rank] = field(default_factory=dict)

    corrected: Mapping[Key, Corrected] = field(default_factory=dict)
    """Scores corrected for the judge's errors by people's ratings."""

    notes: Sequence[str] = field(default=())
    """Why some scores have no verdict or no rank, and how protocols differ."""

    def unit_of_tests(self, entries: Iterable[Entry]) -> Unit:
        """What the tests of these entries are over."""
        tests = (self.verdicts.get(entry.key) for entry in entries)
        return unit_of(test.seeds is not None for test in tests if test is not None)

    def rank(self, entry: Entry) -> Rank | None:
        """The entry's rank; none by a metric of which neither direction is better, nor for a score that a guard of the
        verdict denies, or most of whose answers are empty."""
        tested = self.verdicts.get(entry.key)
        denied = tested is not None and tested.fallen
        return None if is_neutral(entry.metric) or denied or entry.mute else self.ranks.get(entry.key)


NO_COMPARISON: Final = BoardComparison()


def arrow(metric: str, higher_is_better: bool) -> str:
    """Which direction is better; empty if neither is."""
    return "" if is_neutral(metric) else "↑" if higher_is_better else "↓"


def corrected_in_words(found: Corrected, unit: str, *, signed: bool = False) -> str:
    """Such as "corrected 2.95 [2.80, 3.10] (200 labels on 96 images, lambda 0.80)"."""
    value = number(found.value, unit, signed=signed) + span(found.low, found.high, unit)
    used = f"lambda {found.weight:.2f}" if found.weight else "labels alone"
    return f"corrected {value} ({found.labels} labels on {found.images} images, {used})"


_GUARD_UNITS: Final = {"answer_words": "words"}


def outcome(metric: str, verdict: PairedTest) -> str:
    """A verdict in words: better, worse, not separable, or why it is not better; higher or lower if neither direction
    is better."""
    if verdict.outcome == "not separable" or not is_neutral(metric):
        return verdict.words
    return "higher" if (verdict.difference or 0.0) > 0 else "lower"


def seeds_in_words(metric: str, verdict: PairedTest) -> str:
    """Such as "of 5 seeds 4 better, 1 not separable, 5 higher"; empty where a verdict is on one training."""
    found = verdict.seeds
    if found is None or found.other < 2:
        return "" if found is None else f"the base is {found.base} seeds"
    alone = {"better": found.better, "worse": found.worse, "not separable": found.other - found.better - found.worse}
    said = [] if is_neutral(metric) else [f"{count} {word}" for word, count in alone.items() if count]
    ahead = f"{found.higher} higher" if verdict.higher_is_better else f"{found.lower} lower"
    return f"of {found.other} seeds {', '.join([*said, ahead])}"


def mark(metric: str, verdict: PairedTest) -> str:
    """The sign of a verdict; none if neither direction is better."""
    return "" if outcome(metric, verdict) in ("higher", "lower") else MARKS[verdict.outcome]


def guard_values(entry: Entry) -> list[str]:
    """The values of a score's guards, a few words each: "recall 61.0", "34.1 words"; empty answers are among the
    remarks of every score."""
    named = ((name, number(value, _GUARD_UNITS.get(name, "%"))) for name, value in entry.guards.items())
    return [
        f"{value} words" if name == "answer_words" else f"{name} {value}"
        for name, value in named
        if name != EMPTY_ANSWERS
    ]


def remarks(entry: Entry) -> list[str]:
    """What to know before believing the number, a few words each; not escaped."""
    leaked = entry.provenance.get("leaks", "0")  # rows of its training data that show the task's pictures
    found = [
        (SEEDS in entry.provenance, f"seeds {entry.provenance.get(SEEDS)}"),
        (entry.scored < entry.samples, f"{entry.scored}/{entry.samples}"),
        (entry.failed > 0, f"{entry.failed} failed"),
        (entry.unparsed > 0, f"{entry.unparsed} unparsed"),
        (bool(entry.empty or entry.guards), f"{entry.empty} empty"),
        (entry.limit is not None, f"limit {entry.limit}"),
        (entry.limit is None and entry.partial, "partial data"),
        (OTHER_DATA in entry.provenance, f"{OTHER_DATA}: {entry.provenance.get(OTHER_DATA)}"),
        (entry.imported is not None, f"by {entry.imported}"),
        (entry.given is not None, "answers from a file"),
        (leaked != "0", f"{leaked} leaked"),
    ]
    return [*guard_values(entry), *(text for applies, text in found if applies)]
