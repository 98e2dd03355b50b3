"""Does a model know less, or does it only say it in another form?

    found = format_of(entry, before, after)               # None where answers are not simply right or wrong
    found.reading                                         # "format loss"

A yes/no or multiple-choice score can fall because the model knows less, or because it no longer answers in the form the
benchmark reads. The likeliest next token among the possible answers needs no form. So both are scored on the same
questions, and where one falls and the other does not, it is tested whether they fell differently: "not significant"
beside "significant" is no difference yet.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from leaderboards.board.entry import Entry
from leaderboards.board.sample import Sample
from leaderboards.comparison.paired_logs import same_image
from leaderboards.statistics.matches import Matched
from leaderboards.statistics.resampling import Array, Counted, Record, image_of
from leaderboards.statistics.verdict import Outcome, PairedTest, adjusted, matched, verdicts
from leaderboards.views.columns import MARKS
from support.markdown import MISSING, cell, number, span, table

NEXT_TOKEN: Final = "next_token_accuracy"
"""The metric whose records say which possible answer was the likeliest next token."""

Reading = Literal[
    "format loss",
    "ability loss",
    "format and ability loss",
    "loss, undecided",
    "hidden loss",
    "ability gain",
    "format gain",
    "gain, undecided",
    "hidden gain",
    "no change",
    "not told",
]


_HIDDEN: Final[Mapping[Outcome, Reading]] = {
    "worse": "hidden loss",
    "better": "hidden gain",
    "not separable": "no change",
}


@dataclass(frozen=True, kw_only=True)
class Format:
    """A yes/no or multiple-choice task: what was said, and what the likeliest next token would have been. Everything in
    %."""

    task: str

    generation: PairedTest
    """Answers that are right, of the questions that have next tokens on both sides; of all, where none has."""

    next_token: PairedTest | None
    """Questions whose right answer was the likeliest next token; None = a side has none."""

    gap: PairedTest | None
    """Of the two before: generation - next token. Worse = answers fell by more than what was known."""

    unparsed: PairedTest
    """Answers that no rule could read."""

    yes_rate: PairedTest | None
    """Answers that say yes; None = it is no yes/no task. The direction means nothing."""

    true_yes: float | None
    """Questions whose true answer is yes; None = it is no yes/no task."""

    length: PairedTest | None
    """Words an answer, over the questions that neither side was stopped at; None = there are none. The direction means
    nothing."""

    stopped: int
    """Questions at which a side was stopped once its answer was decided, so that its length is not known."""

    questions: int

    @property
    def reading(self) -> Reading:
        """What the tests, taken together, say."""
        said = self.generation.outcome
        if self.next_token is None or self.gap is None:
            return "no change" if said == "not separable" else "not told"
        knew, gap = self.next_token.outcome, self.gap.outcome
        if said == "worse":
            if knew == "worse":
                return "format and ability loss" if gap == "worse" else "ability loss"
            return "format loss" if gap == "worse" else "loss, undecided"
        if said == "better":
            if knew == "better":
                return "ability gain"
            return "format gain" if gap == "better" else "gain, undecided"
        return _HIDDEN[knew]


def format_of(
    entry: Entry, before: Mapping[str, Sample], after: Mapping[str, Sample], resamples: int = 10_000
) -> Format | None:
    """The tests that tell format from ability, not yet adjusted; None where answers are not simply right or wrong."""
    pairs = [(old, after[name]) for name, old in before.items() if name in after and same_image(old, after[name])]
    closed = [pair for pair in pairs if all(isinstance(_record(sample, entry).get("correct"), bool) for sample in pair)]
    if not closed:
        return None

    def test(
        chosen: Sequence[tuple[Sample, Sample]], what: Callable[[Sample], float], *, higher_is_better: bool
    ) -> Matched:
        sides = [
            Counted([_record_of_value(sample, entry, what(sample)) for sample in side], _MEAN)
            for side in zip(*chosen, strict=True)
        ]
        return matched(sides[0], sides[1], higher_is_better=higher_is_better)

    def right(sample: Sample) -> float:
        return 100.0 * bool(_record(sample, entry)["correct"])

    def knew(sample: Sample) -> float:
        return 100.0 * bool(sample.records[NEXT_TOKEN]["correct"])

    told = [pair for pair in closed if all(NEXT_TOKEN in sample.records for sample in pair)]
    yes_no = [pair for pair in closed if str(_record(pair[0], entry).get("truth", "")).lower() in ("yes", "no")]
    complete = [pair for pair in closed if not any(sample.cut or sample.answer is None for sample in pair)]
    matches = {
        "generation": test(told or closed, right, higher_is_better=True),
        "unparsed": test(closed, lambda s: 100.0 * bool(_record(s, entry).get("unparsed")), higher_is_better=False),
    }
    if told:
        matches["next_token"] = test(told, knew, higher_is_better=True)
        matches["gap"] = test(told, lambda s: right(s) - knew(s), higher_is_better=True)
    if yes_no:
        matches["yes_rate"] = test(yes_no, lambda s: 100.0 * _says_yes(_record(s, entry)), higher_is_better=True)
    if complete:
        matches["length"] = test(complete, lambda s: len((s.answer or "").split()), higher_is_better=True)
    found = verdicts(matches, resamples=resamples)
    return Format(
        task=entry.task,
        generation=found["generation"],
        next_token=found.get("next_token"),
        gap=found.get("gap"),
        unparsed=found["unparsed"],
        yes_rate=found.get("yes_rate"),
        true_yes=100 * sum(str(_record(old, entry)["truth"]).lower() == "yes" for old, _ in yes_no) / len(yes_no)
        if yes_no
        else None,
        length=found.get("length"),
        stopped=sum(any(sample.cut for sample in pair) for pair in closed),
        questions=len(closed),
    )


def explain(found: Format) -> str:
    """The reading of one task, in a few sentences."""
    words = _READINGS[found.reading].format(
        said=_from_to(found.generation, "%"),
        knew=_from_to(found.next_token, "%") if found.next_token else "",
        gap=number(found.gap.difference, "%", signed=True) + span(found.gap.low, found.gap.high, "%")
        if found.gap
        else "",
    )
    more = []
    if found.unparsed.outcome != "not separable":
        more.append(f"{_from_to(found.unparsed, '%')}% of the answers cannot be read.")
    if found.yes_rate is not None and found.yes_rate.outcome != "not separable":
        more.append(f"{_from_to(found.yes_rate, '%')}% of the answers say yes; {number(found.true_yes, '%')}% should.")
    if found.length is not None and found.length.outcome != "not separable":
        more.append(f"Answers have {_from_to(found.length, 'words')} words{_describe_stopped(found)}.")
    return " ".join([f"{cell(found.task)}: {words}", *more])


def format_table(formats: Sequence[Format]) -> str:
    """One row a task."""
    rows = []
    for one in formats:
        yes = MISSING if one.yes_rate is None else f"{_from_to(one.yes_rate, '%')} {_direction(one.yes_rate)}".strip()
        yes += f" (true {number(one.true_yes, '%')})" if one.true_yes is not None else ""
        length = MISSING if one.length is None else f"{_from_to(one.length, 'words')} {_direction(one.length)}".strip()
        rows.append(
            [
                cell(one.task),
                _with_mark(one.generation),
                MISSING if one.next_token is None else _with_mark(one.next_token),
                _with_mark(one.unparsed),
                yes,
                length + _describe_stopped(one),
                one.reading,
            ]
        )
    return table(
        ["task", "right, as said %", "right, by next token %", "unparsed %", "yes %", "words", "reading"], rows
    )


_READINGS: Final[Mapping[Reading, str]] = {
    "format loss": (
        "**format loss**. {said}% of the answers are right. By the likeliest next token, which has fallen by less "
        "({knew}%), no loss can be told; the answers fell by more ({gap}). It is lost in how they are said, not in "
        "what is known."
    ),
    "ability loss": (
        "**ability loss**. {said}% of the answers are right, and the right one is the likeliest next token less often, "
        "too ({knew}%); that the two fell differently cannot be told ({gap})."
    ),
    "format and ability loss": (
        "**format and ability loss**. {said}% of the answers are right. The right one is the likeliest next token less "
        "often ({knew}%), and the answers fell by yet more ({gap})."
    ),
    "loss, undecided": (
        "**loss, undecided**. {said}% of the answers are right; by the likeliest next token {knew}%. Neither a loss "
        "there nor that the two fell differently ({gap}) can be told."
    ),
    "hidden loss": (
        "**hidden loss**. No change of the answers can be told ({said}% are right), but the right one is the likeliest "
        "next token less often ({knew}%)."
    ),
    "ability gain": (
        "**ability gain**. {said}% of the answers are right, and the right one is the likeliest next token more often, "
        "too ({knew}%)."
    ),
    "format gain": (
        "**format gain**. {said}% of the answers are right. By the likeliest next token no gain can be told ({knew}%); "
        "the answers rose by more ({gap}). What was known is said better."
    ),
    "gain, undecided": (
        "**gain, undecided**. {said}% of the answers are right; by the likeliest next token {knew}%. Neither a gain "
        "there nor that the two rose differently ({gap}) can be told."
    ),
    "hidden gain": (
        "**hidden gain**. No change of the answers can be told ({said}% are right), but the right one is the likeliest "
        "next token more often ({knew}%)."
    ),
    "no change": "no change can be told: {said}% of the answers are right.",
    "not told": (
        "{said}% of the answers are right. A side has no scores by next token, so format and ability cannot be told "
        "apart."
    ),
}


class _Mean:
    """The mean of `counted` over answers."""

    def by_image(self, records: Iterable[Record]) -> tuple[list[str], Array]:
        sums: dict[str, list[float]] = {}
        for record in records:
            own = sums.setdefault(image_of(record), [0.0, 0.0])
            own[0] += record["counted"]
            own[1] += 1
        return list(sums), np.array(list(sums.values()), dtype=np.float64)

    def value(self, sums: Array) -> Array:
        return np.asarray(sums[..., 0] / sums[..., 1])


_MEAN: Final = _Mean()


def _record(sample: Sample, entry: Entry) -> Record:
    return sample.records.get(entry.metric, {})


def _record_of_value(sample: Sample, entry: Entry, value: float) -> Record:
    """What `_MEAN` counts of an answer, drawn with the same images as the task's own metrics."""
    return {key: value for key, value in _record(sample, entry).items() if key in ("image", "cluster", "category")} | {
        "counted": value
    }


def _says_yes(record: Record) -> bool:
    return str(record.get("predicted", record.get("answer", ""))).lower() == "yes"


def formats_adjusted(formats: Sequence[Format]) -> list[Format]:
    """With p-values by Holm's method: over the three tests of all tasks, and over the rest."""
    found = list(formats)
    for family in (("generation", "next_token", "gap"), ("unparsed", "yes_rate", "length")):
        own = {(index, name): getattr(one, name) for index, one in enumerate(formats) for name in family}
        for (index, name), verdict in adjusted(
            {place: verdict for place, verdict in own.items() if verdict is not None}
        ).items():
            found[index] = replace(found[index], **{name: verdict})  # type: ignore[arg-type]
    return found


def _direction(verdict: PairedTest) -> str:
    if verdict.outcome == "not separable" or verdict.difference is None:
        return ""
    return "↑" if verdict.difference > 0 else "↓"


def _from_to(verdict: PairedTest, unit: str) -> str:
    return f"{number(verdict.base, unit)} → {number(verdict.other, unit)}"


def _with_mark(verdict: PairedTest) -> str:
    return _from_to(verdict, "%") + ("" if verdict.outcome == "not separable" else f" {MARKS[verdict.outcome]}")


def _describe_stopped(found: Format) -> str:
    return (
        f" (of {found.questions - found.stopped}; {found.stopped} were stopped once decided)" if found.stopped else ""
    )
