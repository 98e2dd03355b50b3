"""`harness score`: the official scores of answers made elsewhere.

    score(registry().task("mme"), Path("LaVIN")).metrics["perception"]      # 963.6114445778312

Answer files in the benchmark's own layout become documents and answers, which are scored as in `harness eval`. Sample
logs of this package (.parquet) hold records already.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from harness.evaluation.answers_by_id import read_answers
from harness.evaluation.guards import answer_in
from harness.evaluation.judge_cost import JudgePlan, plan
from harness.evaluation.make_judge import check_judge
from harness.evaluation.scoring import (
    Scored,
    drop_unscored,
    is_to_judge,
    score_answers,
    session_of,
    value_of,
    values_as_text,
)
from leaderboards.board.sample import JudgeRepeat, Sample, from_parquet
from leaderboards.statistics.verdict import interval
from support.errors import AnswerFileError
from tasks.answer import FailedAnswer
from tasks.answer_files import Answered, OfficialAnswers, find_part, join
from tasks.judges.parameters import not_settable
from tasks.judges.protocol import Judge
from tasks.judges.reasons import Reason
from tasks.judges.served_kind import asks_server
from tasks.registry import TaskSpec, registry


@dataclass(frozen=True, kw_only=True)
class Score:
    """The metrics of one set of answers to one task."""

    task: str
    version: str
    metrics: Mapping[str, float | None]
    """In the task's units; None if no answer counts for the metric."""
    intervals: Mapping[str, tuple[float, float] | None] = field(default_factory=dict)
    """Metric -> its 95 % interval over images; None where there is none."""
    samples: int
    unscored: int
    """Answers without a rating, whether left out or, where the official rule says so, counted as 0."""
    failed: int
    """Answers that the model failed to give."""
    unparsed: int
    """Answers that no rule could read; scored by the official default."""
    empty: int | None
    """Answers that say nothing, or nearly; None: the file has ratings alone, without the answers."""
    failures: str = ""
    """Why answers failed, stayed unscored or could not be read, with counts and one example each."""
    reasons: Sequence[Reason] = ()
    """The same, one by one."""
    partial: bool = False
    """Whether questions of the benchmark are missing that its script does not count as wrong."""
    warnings: Sequence[str] = field(default=())


@dataclass(frozen=True, kw_only=True)
class ScoredFiles:
    """The answers of one model to a task, scored."""

    paths: Sequence[Path]
    """The files or the folder they came in."""
    score: Score
    scored: Scored
    answered: Sequence[Answered] = ()
    """In the order of `scored`; none where they came in a sample log."""
    log: Sequence[Sample] = ()
    """The sample log that they came in."""
    judge: Judge | None = None
    """Who rated answers now; None: nobody did."""


def score(
    task: TaskSpec,
    path: Path,
    references: Path | None = None,
    *,
    judge: Judge | None = None,
    judge_repeats: int = 1,
    official_prompts: bool = False,
) -> Score:
    """The task's metrics on the answers in `path`, as `score_paths` has them."""
    asked: dict[str, Any] = {"judge": judge, "judge_repeats": judge_repeats, "official_prompts": official_prompts}
    return score_paths(task, [path], references, **asked).score


def results_in(task: TaskSpec, paths: Iterable[Path]) -> list[list[Path]]:
    """The files of each result: those to several parts of the benchmark (`answer_parts`) whose names are else the same
    are one. A path may be a pattern, such as answers/*.jsonl."""
    found: dict[tuple[Path, str], list[Path]] = {}
    for path in dict.fromkeys(each for given in paths for each in _expand(given)):
        found.setdefault((path.parent, _without_part(task, path, path.name)), []).append(path)
    return list(found.values())


def name_of(task: TaskSpec, paths: Sequence[Path]) -> str:
    """What a result is called, by its files: without the part of the benchmark."""
    first = paths[0]
    stem = first.name if first.is_dir() else first.stem.removesuffix(".samples")
    whole = _without_part(task, first, stem) if len(paths) > 1 else stem
    return whole.strip("_-. ") or first.parent.name or stem


def _without_part(task: TaskSpec, file: Path, name: str) -> str:
    """A file's name, or its beginning, without the part of the benchmark that it has answers to."""
    part = find_part(file, task.answer_parts) if file.is_file() else None
    return name if part is None else name[: part.start()] + name[part.end() :]


def _expand(path: Path) -> list[Path]:
    if path.exists() or not has_magic(str(path)):
        return [path]
    if not (found := sorted(map(Path, glob(str(path))))):
        raise AnswerFileError(f"{path}: no file is named so")
    return found


def score_paths(
    task: TaskSpec,
    paths: Sequence[Path],
    references: Path | None = None,
    *,
    judge: Judge | None = None,
    judge_repeats: int = 1,
    official_prompts: bool = False,
) -> ScoredFiles:
    """The task's metrics on the answers in some files, which are one result; AnswerFileError where they can't be read.

    Answers without a rating are rated by `judge`, `judge_repeats` times; metrics are then means, and warnings list the
    values.
    """
    path = paths[0]
    if path.suffix == ".parquet":
        log = _read_log(task, path)
        scored = _scored_of_log(task, log)
        return ScoredFiles(paths=paths, score=_make_score(scored), scored=scored, log=log)
    given = _read_all(task, paths, references, judge)
    answers = [sample.answer for sample in given.answered]
    unjudged = sum(map(is_to_judge, answers)) if task.judged else 0
    if unjudged and judge is None:
        raise AnswerFileError(f"{path}: {unjudged} answers to {task.name} are not judged")
    if unjudged:
        check_judge(judge, [task], official_prompts=official_prompts)
    session = session_of(judge, task, official_prompts)
    scored = score_answers(task, [sample.doc for sample in given.answered], answers, session, judge_repeats)
    found = _make_score(scored, (*given.warnings, *_tell_missing(judge, task)))
    every = next((records[0] for name in task.metrics if (records := scored.records(name))[0]), [])
    more = {name: value_of(metric, every) for name, metric in given.more.items()}
    spans: dict[str, tuple[float, float] | None] = {}
    for name, metric in given.more.items():
        low, high = interval(every, metric) if more[name] is not None else (None, None)
        spans[name] = None if low is None or high is None else (low, high)
    whole = replace(
        found,
        metrics={**found.metrics, **more},
        intervals={**found.intervals, **spans},
        partial=given.partial,
    )
    asked = judge if unjudged else None
    return ScoredFiles(paths=paths, score=whole, scored=scored, answered=given.answered, judge=asked)


def _tell_missing(judge: Judge | None, task: TaskSpec) -> list[str]:
    """A line where the judge could not be asked as its official protocol says."""
    words = judge.client.asked_by_task.get(task.name, ()) if asks_server(judge) else ()
    missing = " and ".join(not_settable(words))
    return [f"{missing} of the official protocol can't be had of {judge.model}"] if judge and missing else []


def plan_of(
    task: TaskSpec, paths: Sequence[Path], references: Path | None, judge: Judge, judge_repeats: int = 1
) -> JudgePlan | None:
    """The cost of judging the answers of one result; None if the judge costs nothing. SettingError."""
    check_judge(judge, [task])
    if not asks_server(judge):
        return None
    given = _read_all(task, paths, references, judge)
    texts = [(one.doc, one.answer) for one in given.answered if is_to_judge(one.answer)]
    return plan(judge, task, [doc for doc, _ in texts], [text for _, text in texts], judge_repeats)


def _read_all(task: TaskSpec, paths: Sequence[Path], references: Path | None, judge: Judge | None) -> OfficialAnswers:
    """The answers in the files of one result."""
    given = join([_read_answers(task, path, references, judge) for path in paths], paths)
    _check_size(task, paths[0], given)
    return given


def _read_answers(task: TaskSpec, path: Path, references: Path | None, judge: Judge | None) -> OfficialAnswers:
    """The answers in a file or folder; with a judge, their texts where it may rate them."""
    if not path.exists() and not list(path.parent.glob(path.name + "*")):  # some layouts are several files
        raise AnswerFileError(f"{path}: no such file or folder")
    if task.answers is None and task.table is not None:
        given = read_answers(task, path, references)
    else:
        given = registry().official_answers(task.name)(path, references)
    if not given.answered:
        raise AnswerFileError(f"{path}: holds no answers to {task.name}")
    if judge is None or not any(sample.judge_instead for sample in given.answered):
        return given
    answered = [replace(sample, answer=sample.text) if sample.judge_instead else sample for sample in given.answered]
    return replace(given, answered=answered, warnings=given.warnings_when_judged or given.warnings)


def _check_size(task: TaskSpec, path: Path, given: OfficialAnswers) -> None:
    """AnswerFileError where a file has as many answers as another version of the benchmark has questions, and not as
    many as this one."""
    count = len(given.answered)
    for other in registry().tasks.values() if task.answers is not None else ():
        is_version = other.answers == task.answers or (given.partial and _module_of(other) == _module_of(task))
        if other.name != task.name and is_version and other.rows == count != task.rows:
            sizes = f"{count} answers, as many as {other.name} has questions ({task.name} has {task.rows})"
            raise AnswerFileError(f"{path}: {sizes}: score it as {other.name}")


def _module_of(task: TaskSpec) -> str:
    return (task.answers or "").rpartition(".")[0]


def _read_log(task: TaskSpec, path: Path) -> list[Sample]:
    """The samples of the task in a sample log, each once."""
    if not path.exists():
        raise AnswerFileError(f"{path}: no such file or folder")
    try:
        samples = [sample for sample in from_parquet(path.read_bytes()) if sample.task == task.name]
    except ValueError as error:  # pyarrow's are, too
        raise AnswerFileError(f"{path}: no sample log: {error}") from None
    if not samples:
        raise AnswerFileError(f"{path}: holds no samples of {task.name}")
    runs = sorted({sample.run for sample in samples})
    if len(runs) > 1:
        raise AnswerFileError(f"{path}: holds samples of several runs ({', '.join(runs)})")
    by_id = {sample.id: sample for sample in samples}
    if any(by_id[sample.id] != sample for sample in samples):
        raise AnswerFileError(f"{path}: holds two samples of {task.name} of one id that differ")
    return list(by_id.values())


def _scored_of_log(task: TaskSpec, samples: Sequence[Sample]) -> Scored:
    first = [JudgeRepeat(records=sample.records, reply=sample.reply) for sample in samples]
    repeats = min(len(sample.repeats) for sample in samples)
    return Scored(
        task=task,
        rounds=drop_unscored(
            task, [first, *([sample.repeats[place] for sample in samples] for place in range(repeats))]
        ),
        failed=[sample.answer is None for sample in samples],
        texts=list(map(answer_in, samples)),
        lost=[None if sample.reason is None else FailedAnswer(sample.reason) for sample in samples],
        ids=[sample.id for sample in samples],
    )


def low_high(scored: Scored, metric: str) -> tuple[float, float] | None:
    """The 95 % interval of a metric; None where there is none."""
    low, high = scored.interval(metric)
    return None if low is None or high is None else (low, high)


def _make_score(scored: Scored, warnings: Sequence[str] = ()) -> Score:
    task, times = scored.task, len(scored.rounds)
    values = {name: scored.values(name) for name in task.metrics}
    every = [f"{name} over {times} repeats of the judge: {values_as_text(values[name])}" for name in values]
    return Score(
        task=task.name,
        version=task.version,
        metrics={name: scored.value(name) for name in task.metrics},
        intervals={name: low_high(scored, name) for name in task.metrics},
        warnings=(*warnings, *(every if times > 1 else ())),
        **vars(scored.counts),
        failures=scored.failures,
        reasons=scored.reasons,
    )
