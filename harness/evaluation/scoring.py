"""From documents and answers to ratings, records, metric values and intervals: the one path of `harness eval`,
`harness score`, judge repeats and re-judging.

    scored = score_answers(task, docs, answers, JudgeSession(judge=judge, label=task.name), repeats=3)
    scored.value("score"), scored.interval("score")
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from leaderboards.board.sample import JudgeRepeat
from leaderboards.statistics.verdict import interval, interval_repeats
from support.errors import NoJudgeError, RecordsError
from tasks.answer import FailedAnswer
from tasks.early_exit import next_token_record
from tasks.judges.openai import OpenAIJudge
from tasks.judges.protocol import Judge, JudgeSession
from tasks.metric import Metric, Record
from tasks.registry import NEXT_TOKEN, TaskSpec, registry

LENGTH = "answer_length"
"""The metric that an answer which was cut has no part in."""


@dataclass(frozen=True)
class SampleCounts:
    """What became of the samples of a task."""

    samples: int
    unscored: int
    """Answers without a rating, whether left out or, where the official rule says so, counted as 0."""
    failed: int
    """Answers that the model failed to give."""
    unparsed: int
    """Answers that no rule could read; scored by the official default."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What a task made of a set of answers."""

    task: TaskSpec
    rounds: Sequence[Sequence[JudgeRepeat]]
    """One a time that the judge was asked (one where nobody is asked): the records of each answer, in order."""
    failed: Sequence[bool]
    """Of each answer: whether the model failed to give it."""

    def records(self, metric: str) -> list[list[Record]]:
        """A metric's records in each round."""
        return [[one.records[metric] for one in repeat if metric in one.records] for repeat in self.rounds]

    def values(self, metric: str) -> list[float | None]:
        """A metric's value in each round; None where nothing could be scored."""
        return [value_of(registry().metric(self.task.name, metric), records) for records in self.records(metric)]

    def value(self, metric: str) -> float | None:
        """A metric's value: the mean over the rounds that gave one."""
        known = [value for value in self.values(metric) if value is not None]
        return sum(known) / len(known) if known else None

    def interval(self, metric: str) -> tuple[float, float] | tuple[None, None]:
        """The 95 % interval over all rounds; none where the rounds have no rated image in common."""
        every, computed = self.records(metric), registry().metric(self.task.name, metric)
        try:
            return interval_repeats(every, computed) if len(every) > 1 else interval(every[0], computed)
        except RecordsError:
            return None, None

    @property
    def counts(self) -> SampleCounts:
        """A sample is unscored if any round gave it no rating, or one that could not be read."""
        answered = [
            [one.records for one in sample]
            for sample, failed in zip(zip(*self.rounds, strict=True), self.failed, strict=True)
            if not failed
        ]
        return SampleCounts(
            samples=len(self.failed),
            unscored=sum(any(not found or _marked(found, "unrated") for found in sample) for sample in answered),
            failed=sum(self.failed),
            unparsed=sum(_marked(sample[0], "unparsed") for sample in answered),
        )


def _marked(records: Mapping[str, Record], mark: str) -> bool:
    return any(record.get(mark) for record in records.values())


def value_of(metric: Metric, records: Sequence[Record]) -> float | None:
    """A metric's value; None where there are no records, or it is not a number."""
    value = metric(records) if records else None
    return None if value is None or value != value else value


def values_as_text(values: Sequence[float | None]) -> str:
    """ "3.5, 3.6, none": a value for each round of the judge."""
    return ", ".join("none" if value is None else f"{value:.4f}".rstrip("0").rstrip(".") for value in values)


def session_of(judge: Judge | None, task: TaskSpec, official_prompts: bool = False) -> JudgeSession | None:
    """How a judge is asked about a task's answers; None without a judge."""
    if judge is None:
        return None
    return JudgeSession(judge=judge, label=task.name, official_prompts=official_prompts)


def times_asked(judge: Judge | None, repeats: int) -> int:
    """How often a judge is asked about each answer where `repeats` are wanted: once where it says the same each
    time."""
    return repeats if isinstance(judge, OpenAIJudge) else 1


def score_answers(
    task: TaskSpec,
    docs: Sequence[Mapping[str, Any]],
    answers: Sequence[Any],
    session: JudgeSession | None,
    repeats: int = 1,
) -> Scored:
    """Score answers to a task's documents.

    An answer is the model's words, a `FailedAnswer`, or of a judged task a `JudgeReply` that is there already. Words
    are rated by the session's judge; where there are words only, `repeats` times. NoJudgeError, JudgeError.
    """
    words_only = all(isinstance(answer, str) for answer in answers)
    repeats = times_asked(session.judge, repeats) if session is not None and task.judged and words_only else 1
    sessions = [session and replace(session, repeat=number) for number in range(repeats)]
    return Scored(
        task=task,
        rounds=[_rate(task, docs, answers, each) for each in sessions],
        failed=[isinstance(answer, FailedAnswer) for answer in answers],
    )


def _rate(
    task: TaskSpec, docs: Sequence[Mapping[str, Any]], answers: Sequence[Any], session: JudgeSession | None
) -> list[JudgeRepeat]:
    """The records of each answer, after one round of the judge where the task has one."""
    given = _judge(task, docs, answers, session) if task.judged else list(answers)
    process = registry().process_results(task.name)
    found = []
    for doc, answer, rated in zip(docs, answers, given, strict=True):
        records: dict[str, Any] = {}
        if not isinstance(answer, FailedAnswer):
            records = {name: record for name, record in process(doc, [rated]).items() if name in task.metrics}
        if getattr(answer, "cut", False):
            records.pop(LENGTH, None)
        found.append(
            JudgeRepeat(
                records=records | _next_token(task, doc, answer, records),
                reply=rated["text"] or None if isinstance(rated, Mapping) else None,
            )
        )
    return found


def _judge(
    task: TaskSpec, docs: Sequence[Mapping[str, Any]], answers: Sequence[Any], session: JudgeSession | None
) -> list[Any]:
    """The judge's replies, in place of answers that are words."""
    words = [index for index, answer in enumerate(answers) if isinstance(answer, str)]
    given = list(answers)
    if words:
        if session is None:
            raise NoJudgeError(f"{task.name}: {len(words)} answers are to be judged, and no judge is set")
        replies = registry().judge(task.name)([answers[at] for at in words], [docs[at] for at in words], session)
        for index, reply in zip(words, replies, strict=True):
            given[index] = reply
    return given


def _next_token(
    task: TaskSpec, doc: Mapping[str, Any], answer: Any, records: Mapping[str, Record]
) -> dict[str, dict[str, Any]]:
    """What the likelihoods of an answer's first token say, where the model told them."""
    choices, wanted = getattr(answer, "choices", {}), registry().next_token(task.name, doc)
    if not choices or wanted is None:
        return {}
    first: Mapping[str, Any] = next(iter(records.values()), {})
    grouped = {key: first[key] for key in ("image", "cluster") if key in first}
    return {NEXT_TOKEN: next_token_record(str(grouped.get("image", "")), choices, wanted[1]) | grouped}
