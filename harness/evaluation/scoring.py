"""From answers to ratings, records and metric values."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leaderboards.board.sample import Asking, Sample
from support.errors import AnswerFileError, NoJudgeError
from tasks.answer import FailedAnswer
from tasks.answer_files import Answered
from tasks.judges.openai import OpenAIJudge
from tasks.judges.protocol import Judge, current_judge, judging, use_judge
from tasks.metric import Record
from tasks.registry import TaskSpec, registry

LENGTH = "answer_length"
"""The metric that an answer which was cut has no part in."""


def unless_failed(process: Callable[..., Any]) -> Callable[..., Any]:
    """A task's `process_results` that leaves a failed generation out of every mean, and a cut answer out of that of
    lengths."""

    def process_results(doc: dict[str, Any], results: list[Any]) -> Any:
        if isinstance(results[0], FailedAnswer):
            return {}
        records = process(doc, results)
        return (
            {name: record for name, record in records.items() if name != LENGTH}
            if getattr(results[0], "cut", False)
            else records
        )

    return process_results


def rated(asking: Sequence[Asking], metric: str) -> list[Mapping[str, Any]]:
    """A metric's records in one asking of the judge."""
    return [one.records[metric] for one in asking if metric in one.records]


def lacks_a_rating(sample: Sample) -> bool:
    """Whether an asking gave it none, or one that could not be read."""
    every = (sample.records, *(asking.records for asking in sample.repeats))
    return any(not records or any(record.get("unrated") for record in records.values()) for records in every)


def asked_again(
    judge: Judge, task: TaskSpec, docs: Sequence[Mapping[str, Any]], answers: Sequence[Any], count: int
) -> list[list[Asking]]:
    """What each further asking of the judge makes of the answers, `count` askings in all with the one that was made
    already.

    None of a judge that says the same whenever it is asked; nothing is rated of an answer that the model failed to
    give.
    """
    if not isinstance(judge, OpenAIJudge) or count < 2:
        return []
    known, process = registry(), registry().process_results(task.name)
    found = []
    for repeat in range(1, count):
        with use_judge(judge), judging(task.name, repeat):
            verdicts = known.judge_answers(task.name)(list(answers), list(docs))
        found.append(
            [
                Asking(records={}, reply=None)
                if isinstance(answer, FailedAnswer)
                else Asking(records=process(doc, [verdict]), reply=verdict["text"] or None)
                for doc, answer, verdict in zip(docs, answers, verdicts, strict=True)
            ]
        )
    return found


def repeats(
    judge: Judge, task: TaskSpec, docs: Sequence[Mapping[str, Any]], answers: Sequence[Any], count: int
) -> list[dict[str, list[Mapping[str, Any]]]]:
    """Metric -> records by each further asking of the judge, as `asked_again` has them."""
    return [
        {name: [asking.records[name] for asking in found if name in asking.records] for name in task.metrics}
        for found in asked_again(judge, task, docs, answers, count)
    ]


def value_of(task: str, metric: str, records: Sequence[Mapping[str, Any]]) -> float | None:
    """A metric's value; None where nothing could be scored."""
    value = registry().metric(task, metric)(records) if records else None
    return None if value is None or value != value else value


def over_repeats(first: float | None, others: Sequence[float | None]) -> tuple[float | None, str]:
    """The mean over all askings, and the single values as text."""
    every = [first, *others]
    known = [value for value in every if value is not None]
    mean = sum(known) / len(known) if known else None
    return mean, ", ".join("none" if value is None else f"{value:.4f}".rstrip("0").rstrip(".") for value in every)


@dataclass(frozen=True)
class SampleCounts:
    """What became of the samples of a task: see `Score`."""

    samples: int
    unscored: int
    failed: int
    unparsed: int


def count(records: Sequence[Mapping[str, Record]], failed: Sequence[bool]) -> SampleCounts:
    """The counts of samples with these records by metric; `failed` says which were never answered."""
    answered = [sample for sample, lost in zip(records, failed, strict=True) if not lost]
    return SampleCounts(
        samples=len(records),
        unscored=sum(not sample or any(record.get("unrated") for record in sample.values()) for sample in answered),
        failed=sum(failed),
        unparsed=sum(any(record.get("unparsed") for record in sample.values()) for sample in answered),
    )


def judged(task: TaskSpec, path: Path, answered: Sequence[Answered]) -> list[Any]:
    """Verdicts: those of the file, and the current judge's on answers that come as bare text."""
    answers = [sample.answer for sample in answered]
    bare = [index for index, answer in enumerate(answers) if isinstance(answer, str)]
    if bare:
        try:
            current_judge()
        except NoJudgeError:
            raise AnswerFileError(f"{path}: {len(bare)} answers to {task.name} are not judged") from None
        with judging(task.name):
            verdicts = registry().judge_answers(task.name)(
                [answers[index] for index in bare], [answered[index].doc for index in bare]
            )
        for index, verdict in zip(bare, verdicts, strict=True):
            answers[index] = verdict
    return answers


def records_by_metric(records: Sequence[Mapping[str, Record]]) -> dict[str, list[Record]]:
    """All samples' records, sorted by metric."""
    by_metric: dict[str, list[Record]] = defaultdict(list)
    for sample in records:
        for metric, record in sample.items():
            by_metric[metric].append(record)
    return by_metric


def metric_values(task: TaskSpec, by_metric: Mapping[str, Sequence[Record]]) -> dict[str, float | None]:
    """Each metric's value; None where nothing could be scored."""
    return {name: value_or_none(registry().metric(task.name, name), by_metric.get(name, [])) for name in task.metrics}


def value_or_none(metric: Any, records: Sequence[Record]) -> float | None:
    """A metric's value; None where there are no records, or it is not a number."""
    value = metric(records) if records else None
    return None if value is None or value != value else value
