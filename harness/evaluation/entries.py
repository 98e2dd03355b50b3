"""From scored answers to entries and sample logs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from harness.evaluation.eval_settings import REPEAT_VALUES, TIMES_ASKED
from harness.evaluation.generate import Generated
from harness.evaluation.rescore import document_of
from harness.evaluation.scoring import Scored, values_as_text
from leaderboards.board.entry import FAILURES, Entry
from leaderboards.board.sample import JudgeRepeat, Sample
from tasks.answer import FailedAnswer
from tasks.registry import NEXT_TOKEN


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One model's scores, and the samples they were computed from."""

    entries: list[Entry]
    samples: list[Sample]
    shared: str = ""
    """What questions about one image shared, in words."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Where time went: images, vision, prefill, decode, judge, other."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Number of questions: asked, answered by the model, from the response cache, stopped early, ..."""
    may_pass: bool = False
    """Whether asking again what was lost can help."""

    @property
    def lost(self) -> float:
        """Share of samples that failed or stayed unscored."""
        counted = {entry.task: entry for entry in self.entries}.values()
        total = sum(entry.samples for entry in counted)
        return sum(entry.failed + entry.unscored for entry in counted) / total if total else 0.0


@dataclass(frozen=True, kw_only=True)
class Run:
    """What all entries of one run have in common."""

    run: str
    model: str
    limit: int | None
    created: str
    provenance: Mapping[str, str]


def entries_of(
    scored: Scored, run: Run, *, judge: str | None, seconds: float, cost: float, facts: Mapping[str, str]
) -> Iterator[Entry]:
    """An entry for each metric of a task; `cost` is the judge's in US dollars, `facts` is the task's provenance."""
    task, times = scored.task, len(scored.rounds)
    for metric, spec in task.all_metrics.items():
        if metric == NEXT_TOKEN and not any(scored.records(metric)):
            continue  # the server gives no likelihoods
        repeats = {TIMES_ASKED: str(times), REPEAT_VALUES: values_as_text(scored.values(metric))} if times > 1 else {}
        failures = {FAILURES: scored.failures} if scored.failures else {}
        low, high = scored.interval(metric)
        yield Entry(
            run=run.run,
            model=run.model,
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
            limit=run.limit,
            judge=judge,
            seconds=seconds,
            cost=cost,
            created=run.created,
            provenance={**run.provenance, **facts, **repeats, **failures},
        )


def samples_of(scored: Scored, given: Sequence[Generated], run: str) -> list[Sample]:
    """The sample log of one task."""
    return [
        Sample(
            run=run,
            task=scored.task.name,
            id=str(one.doc.get("id", index)),
            image=_find_image_id(one, first),
            prompt=one.prompt,
            answer=None if isinstance(one.answer, FailedAnswer) else str(one.answer),
            records=first.records,
            reply=first.reply,
            cut=any(getattr(one.answer, mark, False) for mark in ("cut", "limited")),
            image_digest=one.image_digest,
            repeats=tuple(repeats),
            reason=None if why is None else why.error,
            document=document_of(one.doc),
            raw=getattr(one.answer, "raw", None),
            reasoning=getattr(one.answer, "reasoning", None),
        )
        for index, (one, why, first, *repeats) in enumerate(zip(given, scored.lost, *scored.rounds, strict=True))
    ]


def _find_image_id(one: Generated, rated: JudgeRepeat) -> str:
    named = (record["image"] for record in rated.records.values())
    return str(next(named, one.doc.get("image", one.doc.get("scene", ""))))
