"""`harness score`: the official scores of answers made elsewhere.

    score(registry().task("mme"), Path("LaVIN"), None).metrics["perception"]      # 963.6114445778312

An answer file in the benchmark's own layout becomes documents and answers, and from there on everything is as if a
model had just given
them: the task's `process_results`, the task's metrics. Our own sample logs (.parquet) hold records already.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.evaluation.judge_cost import JudgePlan, plan
from harness.evaluation.scoring import (
    count,
    judged,
    metric_values,
    over_repeats,
    records_by_metric,
    repeats,
    value_of,
    value_or_none,
)
from support.errors import AnswerFileError
from tasks.answer import FailedAnswer
from tasks.judges.openai import OpenAIJudge
from tasks.judges.protocol import Judge, current_judge
from tasks.registry import TaskSpec, registry


@dataclass(frozen=True, kw_only=True)
class Score:
    """All numbers of one set of answers to one task."""

    task: str
    version: str
    metrics: Mapping[str, float | None]
    """In the units of the task; None where the answers hold nothing a metric counts."""
    samples: int
    unscored: int
    """Answers without a rating, whether left out or, where the official rule says so, counted as 0."""
    failed: int
    """Answers that the model failed to give."""
    unparsed: int
    """Answers that no rule could read; scored by the official default."""
    warnings: Sequence[str] = field(default=())


def score(task: TaskSpec, path: Path, references: Path | None, judge_repeats: int = 1) -> Score:
    """The task's metrics on the answers in `path`; AnswerFileError where they can't be read.

    Answers that nobody judged are rated by the current judge, `judge_repeats` times; a metric then is the mean, a
    warning has the values.
    """
    if not path.exists() and not list(
        path.parent.glob(path.name + "*")
    ):  # some layouts are several files of one beginning
        raise AnswerFileError(f"{path}: no such file or folder")
    if path.suffix == ".parquet":
        return _of_sample_log(task, path)
    given = registry().official_answers(task.name)(path, references)
    if not given.answered:
        raise AnswerFileError(f"{path}: holds no answers to {task.name}")
    process = registry().process_results(task.name)
    answers = judged(task, path, given.answered) if task.judged else [sample.answer for sample in given.answered]
    failed = [isinstance(sample.answer, FailedAnswer) for sample in given.answered]
    records = [
        {} if lost else process(sample.doc, [answer])
        for sample, answer, lost in zip(given.answered, answers, failed, strict=True)
    ]
    by_metric = records_by_metric(records)
    more = {name: value_or_none(metric, next(iter(by_metric.values()), [])) for name, metric in given.more.items()}
    metrics, warnings = metric_values(task, by_metric) | more, list(given.warnings)
    if judge_repeats > 1 and task.judged and all(isinstance(sample.answer, str) for sample in given.answered):
        docs, texts = [sample.doc for sample in given.answered], [sample.answer for sample in given.answered]
        again = repeats(current_judge(), task, docs, texts, judge_repeats)
        for name in task.metrics:
            metrics[name], every = over_repeats(
                metrics[name], [value_of(task.name, name, found[name]) for found in again]
            )
            warnings.append(f"{name} over {judge_repeats} askings of the judge: {every}")
    return Score(
        task=task.name,
        version=task.version,
        metrics=metrics,
        warnings=tuple(warnings),
        **vars(count(records, failed)),
    )


def plan_of(
    task: TaskSpec, path: Path, references: Path | None, judge: Judge, judge_repeats: int = 1
) -> JudgePlan | None:
    """What judging the answers in `path` so often will take; None where the judge costs nothing."""
    if not isinstance(judge, OpenAIJudge):
        return None
    answered = [
        sample
        for sample in registry().official_answers(task.name)(path, references).answered
        if isinstance(sample.answer, str)
    ]
    return plan(judge, task, [sample.doc for sample in answered], [sample.answer for sample in answered], judge_repeats)


def _of_sample_log(task: TaskSpec, path: Path) -> Score:
    from leaderboards.board.sample import from_parquet

    try:
        samples = [sample for sample in from_parquet(path.read_bytes()) if sample.task == task.name]
    except ValueError as error:  # pyarrow's are, too
        raise AnswerFileError(f"{path}: no sample log: {error}") from None
    if not samples:
        raise AnswerFileError(f"{path}: holds no samples of {task.name}")
    runs = sorted({sample.run for sample in samples})
    if len(runs) > 1:
        raise AnswerFileError(f"{path}: holds samples of several runs ({', '.join(runs)})")
    records = [sample.records for sample in samples]
    metrics, warnings = metric_values(task, records_by_metric(records)), []
    further = [
        [sample.repeats[place].records for sample in samples]
        for place in range(min(len(sample.repeats) for sample in samples))
    ]
    again = [records_by_metric(asking) for asking in further]
    for name in task.metrics if again else ():
        metrics[name], every = over_repeats(metrics[name], [value_of(task.name, name, found[name]) for found in again])
        warnings.append(f"{name} over {1 + len(again)} askings of the judge: {every}")
    return Score(
        task=task.name,
        version=task.version,
        metrics=metrics,
        warnings=tuple(warnings),
        **vars(count(records, [sample.answer is None for sample in samples])),
    )
