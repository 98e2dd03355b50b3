"""From scored answers to entries and sample logs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from harness.evaluation.eval_settings import REPEAT_VALUES, TIMES_ASKED
from harness.evaluation.generate import Answers
from harness.evaluation.scoring import Scored, values_as_text
from leaderboards.board.entry import Entry
from leaderboards.board.sample import Sample
from tasks.answer import FailedAnswer
from tasks.registry import NEXT_TOKEN


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One model's numbers and what they were computed from."""

    entries: list[Entry]
    samples: list[Sample]
    shared: str = ""
    """What questions shared, in words."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Where time went: images, vision, prefill, decode, judge, other."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Of questions: asked, answered by the model, from the store, cut, ..."""

    @property
    def lost(self) -> float:
        """Share of samples that failed or stayed unscored."""
        counted = {entry.task: entry for entry in self.entries}.values()
        total = sum(entry.samples for entry in counted)
        return sum(entry.failed + entry.unscored for entry in counted) / total if total else 0.0


@dataclass(frozen=True, kw_only=True)
class Run:
    """What all entries of one task in one run have in common."""

    run: str
    model: str
    judge: str | None
    limit: int | None
    seconds: float
    cost: float
    """US dollars paid to the judge."""
    created: str
    provenance: Mapping[str, str]


def entries_of(scored: Scored, run: Run) -> Iterator[Entry]:
    """An entry for each metric of a task."""
    task = scored.task
    for metric, spec in task.all_metrics.items():
        if metric == NEXT_TOKEN and not any(scored.records(metric)):
            continue  # a server that tells no likelihoods
        facts = dict(run.provenance)
        if len(scored.rounds) > 1:
            facts[TIMES_ASKED] = str(len(scored.rounds))
            facts[REPEAT_VALUES] = values_as_text(scored.values(metric))
        low, high = scored.interval(metric)
        yield Entry(
            **{name: value for name, value in vars(run).items() if name != "provenance"},
            provenance=facts,
            task=task.name,
            version=task.version,
            metric=metric,
            value=scored.value(metric),
            unit=spec.unit,
            higher_is_better=spec.higher_is_better,
            headline=metric == task.headline,
            **vars(scored.counts),
            low=low,
            high=high,
        )


def samples_of(scored: Scored, given: Answers, run: str) -> list[Sample]:
    """The sample log of one task."""
    asked: Sequence[tuple[str, str, str | None]] = list(
        zip(given.prompts, given.answers, given.image_digests, strict=True)
    )
    found = []
    for index, (doc, (prompt, answer, digest), (first, *repeats)) in enumerate(
        zip(given.docs, asked, zip(*scored.rounds, strict=True), strict=True)
    ):
        image = next((record["image"] for record in first.records.values()), doc.get("image", doc.get("scene", "")))
        found.append(
            Sample(
                run=run,
                task=scored.task.name,
                id=str(doc.get("id", index)),
                image=str(image),
                prompt=prompt,
                answer=None if isinstance(answer, FailedAnswer) else str(answer),
                records=first.records,
                reply=first.reply,
                cut=bool(getattr(answer, "cut", False)),
                image_digest=digest,
                repeats=tuple(repeats),
            )
        )
    return found
