"""`harness score`: the official scores of answers made elsewhere.

    score(registry().task("mme"), Path("LaVIN"), None).metrics["perception"]      # 963.6114445778312

An answer file in the benchmark's own layout becomes documents and answers, and from there on everything is as if a model had just given
them: the task's `process_results`, the task's metrics. Our own sample logs (.parquet) hold records already.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.judging import Plan, over_repeats, plan, repeats, value_of
from tasks.answer import FailedAnswer
from tasks.judge import Judge, NoJudgeError, current_judge, judging
from tasks.metric import Record
from tasks.official import Answered, LayoutError
from tasks.openai_judge import OpenAIJudge
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


@dataclass(frozen=True)
class Counts:
    """What became of the samples of a task: see `Score`."""

    samples: int
    unscored: int
    failed: int
    unparsed: int


def count(records: Sequence[Mapping[str, Record]], failed: Sequence[bool]) -> Counts:
    """The counts of samples with these records by metric; `failed` says which were never answered."""
    answered = [sample for sample, lost in zip(records, failed, strict=True) if not lost]
    return Counts(
        samples=len(records),
        unscored=sum(not sample or any(record.get("unrated") for record in sample.values()) for sample in answered),
        failed=sum(failed),
        unparsed=sum(any(record.get("unparsed") for record in sample.values()) for sample in answered),
    )


def score(task: TaskSpec, path: Path, references: Path | None, judge_repeats: int = 1) -> Score:
    """The task's metrics on the answers in `path`; LayoutError where they can't be read.

    Answers that nobody judged are rated by the current judge, `judge_repeats` times; a metric then is the mean, a warning has the values.
    """
    if not path.exists() and not list(path.parent.glob(path.name + "*")):  # some layouts are several files of one beginning
        raise LayoutError(f"{path}: no such file or folder")
    if path.suffix == ".parquet":
        return _of_sample_log(task, path)
    given = registry().official_answers(task.name)(path, references)
    if not given.answered:
        raise LayoutError(f"{path}: holds no answers to {task.name}")
    process = registry().process_results(task.name)
    answers = _judged(task, path, given.answered) if task.judged else [sample.answer for sample in given.answered]
    failed = [isinstance(sample.answer, FailedAnswer) for sample in given.answered]
    records = [{} if lost else process(sample.doc, [answer]) for sample, answer, lost in zip(given.answered, answers, failed, strict=True)]
    by_metric = _by_metric(records)
    more = {name: _value(metric, next(iter(by_metric.values()), [])) for name, metric in given.more.items()}
    metrics, warnings = _metrics(task, by_metric) | more, list(given.warnings)
    if judge_repeats > 1 and task.judged and all(isinstance(sample.answer, str) for sample in given.answered):
        docs, texts = [sample.doc for sample in given.answered], [sample.answer for sample in given.answered]
        again = repeats(current_judge(), task, docs, texts, judge_repeats)
        for name in task.metrics:
            metrics[name], every = over_repeats(metrics[name], [value_of(task.name, name, found[name]) for found in again])
            warnings.append(f"{name} over {judge_repeats} askings of the judge: {every}")
    return Score(
        task=task.name,
        version=task.version,
        metrics=metrics,
        warnings=tuple(warnings),
        **vars(count(records, failed)),
    )


def plan_of(task: TaskSpec, path: Path, references: Path | None, judge: Judge, judge_repeats: int = 1) -> Plan | None:
    """What judging the answers in `path` so often will take; None where the judge costs nothing."""
    if not isinstance(judge, OpenAIJudge):
        return None
    answered = [sample for sample in registry().official_answers(task.name)(path, references).answered if isinstance(sample.answer, str)]
    return plan(judge, task, [sample.doc for sample in answered], [sample.answer for sample in answered], judge_repeats)


def _judged(task: TaskSpec, path: Path, answered: Sequence[Answered]) -> list[Any]:
    """Verdicts: those of the file, and the current judge's on answers that come as bare text."""
    answers = [sample.answer for sample in answered]
    bare = [index for index, answer in enumerate(answers) if isinstance(answer, str)]
    if bare:
        try:
            current_judge()
        except NoJudgeError:
            raise LayoutError(f"{path}: {len(bare)} answers to {task.name} are not judged") from None
        with judging(task.name):
            verdicts = registry().judge_answers(task.name)([answers[index] for index in bare], [answered[index].doc for index in bare])
        for index, verdict in zip(bare, verdicts, strict=True):
            answers[index] = verdict
    return answers


def _of_sample_log(task: TaskSpec, path: Path) -> Score:
    from leaderboards.sample import from_parquet

    try:
        samples = [sample for sample in from_parquet(path.read_bytes()) if sample.task == task.name]
    except ValueError as error:  # pyarrow's are, too
        raise LayoutError(f"{path}: no sample log: {error}") from None
    if not samples:
        raise LayoutError(f"{path}: holds no samples of {task.name}")
    runs = sorted({sample.run for sample in samples})
    if len(runs) > 1:
        raise LayoutError(f"{path}: holds samples of several runs ({', '.join(runs)})")
    records = [sample.records for sample in samples]
    metrics, warnings = _metrics(task, _by_metric(records)), []
    further = [[sample.repeats[place].records for sample in samples] for place in range(min(len(sample.repeats) for sample in samples))]
    again = [_by_metric(asking) for asking in further]
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


def _by_metric(records: Sequence[Mapping[str, Record]]) -> dict[str, list[Record]]:
    by_metric: dict[str, list[Record]] = defaultdict(list)
    for sample in records:
        for metric, record in sample.items():
            by_metric[metric].append(record)
    return by_metric


def _metrics(task: TaskSpec, by_metric: Mapping[str, Sequence[Record]]) -> dict[str, float | None]:
    return {name: _value(registry().metric(task.name, name), by_metric.get(name, [])) for name in task.metrics}


def _value(metric: Any, records: Sequence[Record]) -> float | None:
    value = metric(records) if records else None
    return None if value is None or value != value else value
