"""From lm-eval's results to entries and sample logs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from harness.evaluation.eval_settings import REPEATS, judge_name
from harness.evaluation.scoring import count, lacks_a_rating, over_repeats, rated, value_of
from leaderboards.board.entry import Entry
from leaderboards.board.sample import Asking, Sample
from leaderboards.statistics.resampling import CountsMetric
from leaderboards.statistics.verdict import interval, interval_repeats
from support.errors import RecordsError
from tasks.answer import FailedAnswer
from tasks.early_exit import next_token_record
from tasks.judges.protocol import Judge
from tasks.registry import NEXT_TOKEN, TaskSpec, registry


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


def read(
    logged: Mapping[str, Sequence[Mapping[str, Any]]],
    tasks: Sequence[TaskSpec],
    *,
    run: str,
    model: str,
    judge: Judge | None,
    official_prompts: bool,
    limit: int | None,
    seconds: float,
    provenance: Mapping[str, str],
    of_task: Callable[[TaskSpec], Mapping[str, str]],
    again: Mapping[str, Sequence[Sequence[Asking]]],
    paid: Mapping[str, float],
    digests: Mapping[str, Sequence[str | None]],
) -> Evaluation:
    """lm-eval's sample log as entries and samples."""
    entries: list[Entry] = []
    samples: list[Sample] = []
    created = datetime.now(UTC).isoformat(timespec="microseconds")  # the newest run of a name is the one that stands
    total = sum(len(logged[task.name]) for task in tasks)
    for task in tasks:
        further = again.get(task.name, ())
        own = [
            replace(_sample(line, task, run, digest), repeats=tuple(asking[place] for asking in further))
            for place, (line, digest) in enumerate(zip(logged[task.name], digests[task.name], strict=True))
        ]
        samples += own
        counts = count([sample.records for sample in own], [sample.answer is None for sample in own])
        counts = replace(counts, unscored=sum(sample.answer is not None and lacks_a_rating(sample) for sample in own))
        for metric, facts in task.all_metrics.items():
            records = [sample.records[metric] for sample in own if metric in sample.records]
            if metric == NEXT_TOKEN and not records:
                continue  # a server that tells no likelihoods
            computed = registry().metric(task.name, metric)
            value = value_of(task.name, metric, records)
            facts_of_repeats = {}
            others = [rated(asking, metric) for asking in further] if metric in task.metrics else []
            if others:
                value, every = over_repeats(value, [value_of(task.name, metric, found) for found in others])
                facts_of_repeats = {REPEATS: every}
            low, high = _interval([records, *others], computed)
            entries.append(
                Entry(
                    run=run,
                    model=model,
                    task=task.name,
                    version=task.version,
                    metric=metric,
                    value=value,
                    unit=facts.unit,
                    higher_is_better=facts.higher_is_better,
                    headline=metric == task.headline,
                    **vars(counts),
                    low=low,
                    high=high,
                    limit=limit,
                    judge=judge_name(task, judge, official_prompts),
                    seconds=round(seconds * len(own) / total, 2),
                    cost=round(paid.get(task.name, 0.0), 6),
                    created=created,
                    provenance={**provenance, **of_task(task), **facts_of_repeats},
                )
            )
    return Evaluation(entries=entries, samples=samples)


def _interval(
    every: Sequence[Sequence[Mapping[str, Any]]], computed: CountsMetric
) -> tuple[float, float] | tuple[None, None]:
    """Over all askings of the judge; there is none where they have no rated image in common."""
    try:
        return interval_repeats(every, computed) if len(every) > 1 else interval(every[0], computed)
    except RecordsError:
        return None, None


def _sample(line: Mapping[str, Any], task: TaskSpec, run: str, digest: str | None) -> Sample:
    answer, filtered = line["resps"][0][0], line["filtered_resps"][0]
    records = {metric: line[metric] for metric in task.metrics if metric in line}
    choices, wanted = getattr(answer, "choices", {}), registry().next_token(task.name, line["doc"])
    if choices and wanted is not None:
        first: Mapping[str, Any] = next(iter(records.values()), {})
        grouped = {key: first[key] for key in ("image", "cluster") if key in first}
        records[NEXT_TOKEN] = next_token_record(str(grouped.get("image", "")), choices, wanted[1]) | grouped
    image = next(
        (str(record["image"]) for record in records.values()),
        str(line["doc"].get("image", line["doc"].get("scene", ""))),
    )
    return Sample(
        run=run,
        task=task.name,
        id=str(line["doc"].get("id", line["doc_id"])),
        image=image,
        prompt=str(line["arguments"][0][0]),
        answer=None if isinstance(answer, FailedAnswer) else str(answer),
        records=records,
        reply=filtered["text"] if task.judged and isinstance(filtered, dict) else None,
        cut=bool(getattr(answer, "cut", False)),
        image_digest=digest,
    )
