"""What became of each answer from one model to another: fixed, broken, still wrong or still right.

found = flips(entry, before, after, metric)           # two logs, by sample id
print(tally_table(tally(found)), examples_of(found, 3))
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Final, Literal

from leaderboards.board.entry import Entry
from leaderboards.board.sample import Sample
from leaderboards.comparison.paired_logs import same_image
from leaderboards.statistics.resampling import CountsMetric, Record, value_of
from leaderboards.views.page_answers import category_of, mark
from support.markdown import cell, line, number, table

EXAMPLE_CHARACTERS: Final = 600
"""Of a prompt, an answer or a judge's reply, as shown in an example."""

Kind = Literal["fixed", "broken", "still wrong", "still right", "unscored"]

_KINDS: Final[tuple[Kind, ...]] = ("fixed", "broken", "still wrong", "still right", "unscored")

_GOOD = {
    "%": 100.0,
    "0-6": 3.0,
    "1-10": 10.0,
}  # from where on an answer is right; MMHal: below 3, something is hallucinated


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One side of a flip."""

    text: str | None
    """The model's words; None = generation failed."""

    mark: str
    """What it got, in words; "not scored" where it got nothing."""

    reply: str | None
    """The judge's words; None = not judged."""


@dataclass(frozen=True, kw_only=True)
class Flip:
    """One question that both were asked, and what became of it."""

    task: str
    id: str
    image: str

    category: str
    """The kind of question; "" where the task has none."""

    kind: Kind
    """Where an answer gets a grade: fixed = a better one than before, broken = a worse one."""

    prompt: str
    before: Answered
    after: Answered


@dataclass(frozen=True, kw_only=True)
class Tally:
    """How many questions of a category went which way."""

    task: str

    category: str
    """"" = the whole task."""

    counts: Mapping[Kind, int]

    @property
    def questions(self) -> int:
        """All that both were asked."""
        return sum(self.counts.values())


def flips(
    entry: Entry, before: Mapping[str, Sample], after: Mapping[str, Sample], metric: CountsMetric | None
) -> list[Flip]:
    """What became of each question that is in both logs, by the metric of `entry`.

    Right and wrong answers flip; others are compared by what the metric gives them alone, more or less of it as the
    metric counts.
    """
    found = []
    for name, old in before.items():
        new = after.get(name)
        if new is None or not same_image(old, new):
            continue
        grades = _grades(old, new, entry, metric)
        if grades is None:
            kind: Kind = "unscored"
        elif grades[0].score != grades[1].score:
            kind = "fixed" if grades[1].score > grades[0].score else "broken"
        else:
            kind = "still right" if grades[1].right else "still wrong"
        labels = [grade.label for grade in grades] if grades else ["not scored", "not scored"]
        found.append(
            Flip(
                task=entry.task,
                id=name,
                image=old.image,
                category=_category(old, entry.metric) or _category(new, entry.metric),
                kind=kind,
                prompt=old.prompt,
                before=Answered(text=old.answer, mark=labels[0], reply=old.reply),
                after=Answered(text=new.answer, mark=labels[1], reply=new.reply),
            )
        )
    return found


def tally(found: Iterable[Flip]) -> list[Tally]:
    """Counts of each task, and of its categories where it has several, in the order of appearance."""
    by_task: dict[str, dict[str, Counter[Kind]]] = {}
    for flip in found:
        by_task.setdefault(flip.task, {}).setdefault(flip.category, Counter())[flip.kind] += 1
    tallies = []
    for task, by_category in by_task.items():
        tallies.append(_tally(task, "", sum(by_category.values(), Counter())))
        if len(by_category) > 1:
            tallies += [_tally(task, category or "(none)", counts) for category, counts in by_category.items()]
    return tallies


def examples(found: Sequence[Flip], kind: Kind, count: int) -> list[Flip]:
    """Up to `count` of a task's flips of one kind: one of each category, then a second of each, and so on."""
    by_category: dict[str, list[Flip]] = {}
    for flip in found:
        if flip.kind == kind:
            by_category.setdefault(flip.category, []).append(flip)
    in_turn = sorted(
        (turn, place, flip.id) for place, own in enumerate(by_category.values()) for turn, flip in enumerate(own)
    )
    lists = list(by_category.values())
    return [lists[place][turn] for turn, place, _ in in_turn[:count]]


def tally_table(tallies: Sequence[Tally]) -> str:
    """One row a task, and below it one a category."""
    rows = [
        [
            cell(one.task) if not one.category else f"– {cell(one.category)}",
            str(one.questions),
            *(str(one.counts[kind]) for kind in _KINDS),
        ]
        for one in tallies
    ]
    return table(["task", "questions", *_KINDS], rows)


@dataclass(frozen=True, kw_only=True)
class _Grade:
    label: str
    score: float
    right: bool


def _grades(old: Sample, new: Sample, entry: Entry, metric: CountsMetric | None) -> tuple[_Grade, _Grade] | None:
    """Of both answers, on one scale; None where one has none."""
    if any(sample.answer is None or entry.metric not in sample.records for sample in (old, new)):
        return None
    sides = [sample.records[entry.metric] for sample in (old, new)]
    if metric is not None and not any("correct" in record for record in sides):
        alone = [_alone(record, metric) for record in sides]
        if all(isfinite(value) for value in alone):
            one, other = (_graded(value, sample, entry) for value, sample in zip(alone, (old, new), strict=True))
            return one, other
    marks = [mark(sample, entry.metric) for sample in (old, new)]
    if marks[0] is None or marks[1] is None:
        return None
    first, second = (_Grade(label=one.label, score=one.score, right=one.right) for one in marks if one is not None)
    return first, second


def _alone(record: Record, metric: CountsMetric) -> float:
    """What the metric gives one answer; nan where it says nothing of one."""
    return float(value_of(metric, metric.by_image([record])[1].sum(axis=0)))


def _graded(value: float, sample: Sample, entry: Entry) -> _Grade:
    known_as = mark(sample, entry.metric) if entry.headline else None  # it reads the record, whichever metric it is of
    return _Grade(
        label=known_as.label if known_as else f"{entry.metric} {number(value, entry.unit)}",
        score=value if entry.higher_is_better else -value,
        right=value >= _GOOD.get(entry.unit, float("inf")) if entry.higher_is_better else value <= 0,
    )


def _tally(task: str, category: str, counts: Mapping[Kind, int]) -> Tally:
    return Tally(task=task, category=category, counts={kind: counts.get(kind, 0) for kind in _KINDS})


def _category(sample: Sample, metric: str) -> str:
    return category_of(sample.records.get(metric, {}))


def examples_of(found: Sequence[Flip], shown: int) -> str:
    """Up to `shown` of each task's broken, fixed and still wrong answers, as markdown."""
    by_task: dict[str, list[Flip]] = {}
    for flip in found:
        by_task.setdefault(flip.task, []).append(flip)
    parts = []
    for task, own in by_task.items():
        for kind in ("broken", "fixed", "still wrong"):
            chosen = examples(own, kind, shown)
            if chosen:
                total = sum(flip.kind == kind for flip in own)
                parts.append(f"### {cell(task)}: {kind} ({len(chosen)} of {total})")
                parts += [example(flip) for flip in chosen]
    return "\n\n".join(parts)


def example(flip: Flip) -> str:
    """One question with both answers and what the judge said, as a list; long texts are shortened."""
    about = f" ({cell(flip.category)})" if flip.category else ""
    lines = [f"- **{cell(flip.id)}**{about}, image {cell(flip.image)}: {cell(_short(flip.prompt))}"]
    for name, side in (("before", flip.before), ("after", flip.after)):
        text = "(generation failed)" if side.text is None else cell(_short(side.text)) or "(empty)"
        lines.append(f"  - {name}, {cell(side.mark)}: {text}")
        if side.reply:
            lines.append(f"    - judge: {cell(_short(side.reply))}")
    return "\n".join(lines)


def _short(text: str) -> str:
    text = line(text)
    return text if len(text) <= EXAMPLE_CHARACTERS else f"{text[:EXAMPLE_CHARACTERS]}…"
