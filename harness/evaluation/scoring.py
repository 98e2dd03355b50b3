"""From documents and answers to ratings, records, metric values and intervals, for `harness eval` and `score`.

scored = score_answers(task, docs, answers, JudgeSession(judge=judge, label=task.name), repeats=3)
scored.value("score"), scored.interval("score")
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any, Final

from leaderboards.board.sample import JudgeRepeat
from leaderboards.statistics.verdict import interval, interval_repeats
from support.errors import NoJudgeError, RecordsError
from tasks.answer import FailedAnswer
from tasks.early_exit import next_token_record
from tasks.empty_answers import is_empty, least_words
from tasks.judges.protocol import Judge, JudgeSession
from tasks.judges.reasons import Reason, list_reasons, quote_reply, reasons_in_words
from tasks.judges.served_kind import asks_server
from tasks.metric import Metric, Record
from tasks.registry import NEXT_TOKEN, TaskSpec, registry
from tasks.thoughts import answer_of

log = logging.getLogger(__name__)

LENGTH = "answer_length"
"""The metric that leaves out answers which were stopped early."""
UNREAD: Final = FailedAnswer("no rating could be read")
UNPARSED: Final = FailedAnswer("no rule could read the answer")


@dataclass(frozen=True)
class SampleCounts:
    """The number of samples of a task, and of those that are not fully scored."""

    samples: int
    unscored: int
    """Answers without a rating, whether left out or, where the official rule says so, counted as 0."""
    failed: int
    """Answers that the model failed to give."""
    unparsed: int
    """Answers that no rule could read; scored by the official default."""
    empty: int | None
    """Answers that say nothing, or nearly; None: there are ratings alone, without the answers."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The records of a set of answers to one task."""

    task: TaskSpec
    rounds: Sequence[Sequence[JudgeRepeat]]
    """The records of each answer, in order, for each time that the judge was asked; one round without a judge."""
    failed: Sequence[bool]
    """True for each answer that the model failed to give."""
    texts: Sequence[str | None]
    """What was answered, without thoughts; None: nothing, or it is not known."""
    lost: Sequence[FailedAnswer | None] = ()
    """For each answer why it failed, has no score or could not be read; None: it was scored."""

    ids: Sequence[str] = ()
    """What names each answer."""

    _values: dict[str, list[float | None]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def reasons(self) -> list[Reason]:
        """Why answers failed, have no score or could not be read; the example is an answer's id."""
        ids = self.ids or [""] * len(self.lost)
        return list_reasons((name, why.error) for name, why in zip(ids, self.lost, strict=True) if why is not None)

    @property
    def failures(self) -> str:
        """The reasons in words, with counts and one example each."""
        return reasons_in_words(self.reasons)

    def records(self, metric: str) -> list[list[Record]]:
        """A metric's records in each round."""
        return [[one.records[metric] for one in repeat if metric in one.records] for repeat in self.rounds]

    def values(self, metric: str) -> list[float | None]:
        """A metric's value in each round; None where nothing could be scored."""
        if metric not in self._values:
            computed = registry().metric(self.task.name, metric)
            self._values[metric] = [value_of(computed, records) for records in self.records(metric)]
        return self._values[metric]

    def value(self, metric: str) -> float | None:
        """A metric's value, mean over the rounds that have one."""
        known = [value for value in self.values(metric) if value is not None]
        return sum(known) / len(known) if known else None

    def interval(self, metric: str) -> tuple[float, float] | tuple[None, None]:
        """The 95 % interval over all rounds; none if there is no value, or the rounds have no rated image in common."""
        every, computed = self.records(metric), registry().metric(self.task.name, metric)
        if self.value(metric) is None:
            return None, None
        try:
            return interval_repeats(every, computed) if len(every) > 1 else interval(every[0], computed)
        except RecordsError:
            return None, None

    @property
    def counts(self) -> SampleCounts:
        """Counts; a sample is unscored if any round gave no rating that could be read."""
        answered = [
            [one.records for one in sample]
            for sample, failed in zip(zip(*self.rounds, strict=True), self.failed, strict=True)
            if not failed
        ]
        return SampleCounts(
            samples=len(self.failed),
            unscored=sum(any(map(is_unscored, sample)) for sample in answered),
            failed=sum(self.failed),
            unparsed=sum(_has_mark(sample[0], "unparsed") for sample in answered),
            empty=self._count_empty(),
        )

    def _count_empty(self) -> int | None:
        shortest, count = self.task.shortest, 0
        for text, failed, one in zip(self.texts, self.failed, self.rounds[0], strict=True):
            if text is None and not failed:
                return None
            count += text is not None and is_empty(text, least_words(shortest, one.records))
        return count


def is_unscored(records: Mapping[str, Record]) -> bool:
    """Whether an answer with these records got no rating that could be read."""
    return not records or _has_mark(records, "unrated")


def _has_mark(records: Mapping[str, Record], mark: str) -> bool:
    return any(record.get(mark) for record in records.values())


def value_of(metric: Metric, records: Sequence[Record]) -> float | None:
    """A metric's value; None without records, or if it is no finite number."""
    value = metric(records) if records else None
    return value if value is not None and isfinite(value) else None


def drop_unscored(task: TaskSpec, rounds: Sequence[Sequence[JudgeRepeat]]) -> list[list[JudgeRepeat]]:
    """The rounds, without the records that alone would make a metric's value of replies that hold no rating.

    The official rules count a reply without a rating as 0 beside others; where no reply that a metric counts could be
    read, there is no value.
    """
    return [_drop_unscored(task, repeat) for repeat in rounds]


def _drop_unscored(task: TaskSpec, repeat: Sequence[JudgeRepeat]) -> list[JudgeRepeat]:
    if not any(_has_mark(one.records, "unrated") for one in repeat):
        return list(repeat)
    known = registry()

    def has_no_value(name: str) -> bool:
        records = [one.records[name] for one in repeat if name in one.records]
        return value_of(known.metric(task.name, name), [r for r in records if not r.get("unrated")]) is None

    empty = {name for name in {name for one in repeat for name in one.records} if has_no_value(name)}
    return [
        replace(one, records={name: r for name, r in one.records.items() if not (name in empty and r.get("unrated"))})
        for one in repeat
    ]


def values_as_text(values: Sequence[float | None]) -> str:
    """Such as "3.5, 3.6, none"."""
    return ", ".join("none" if value is None else f"{value:.4f}".rstrip("0").rstrip(".") for value in values)


def session_of(judge: Judge | None, task: TaskSpec, official_prompts: bool = False) -> JudgeSession | None:
    """How a judge is asked about a task's answers; None without a judge."""
    if judge is None:
        return None
    return JudgeSession(judge=judge, label=task.name, official_prompts=official_prompts)


def times_asked(judge: Judge | None, repeats: int) -> int:
    """How often a judge is asked about each answer: once if its replies never vary, else `repeats` times."""
    return repeats if asks_server(judge) else 1


def score_answers(
    task: TaskSpec,
    docs: Sequence[Mapping[str, Any]],
    answers: Sequence[Any],
    session: JudgeSession | None,
    repeats: int = 1,
) -> Scored:
    """Score answers to a task's documents.

    An answer is a text, a `FailedAnswer`, or for a judged task a `JudgeReply`. Texts are rated by the session's judge,
    `repeats` times if all answers are texts. NoJudgeError, JudgeError.
    """
    # Answers of models are read already, those of files are not.
    answers = [answer_of(answer) if isinstance(answer, str) else answer for answer in answers]
    if limited := sum(getattr(answer, "limited", False) for answer in answers):
        log.info("%s: %d of %d answers were cut at the limit of tokens", task.name, limited, len(answers))
    only_texts = all(isinstance(answer, str) for answer in answers)
    repeats = times_asked(session.judge, repeats) if session is not None and task.judged and only_texts else 1
    sessions = [session and replace(session, repeat=number) for number in range(repeats)]
    rounds = drop_unscored(task, [rate(task, docs, answers, each) for each in sessions])
    if session is not None:
        _tell_unread(task, rounds)
        if asks_server(session.judge):
            session.judge.tell_reuse(task.name)
    failed = [isinstance(answer, FailedAnswer) for answer in answers]
    texts = list(map(_find_text, answers))
    lost = find_reasons(docs, answers, rounds, session)
    ids = [str(doc.get("id", place)) for place, doc in enumerate(docs)]
    return Scored(task=task, rounds=rounds, failed=failed, texts=texts, lost=lost, ids=ids)


def _find_text(answer: Any) -> str | None:
    """The words of an answer; a reply of a judge may hold them, too."""
    text = answer.get("answer") if isinstance(answer, Mapping) else answer
    return text if isinstance(text, str) and not isinstance(text, FailedAnswer) else None


def find_reasons(
    docs: Sequence[Mapping[str, Any]],
    answers: Sequence[Any],
    rounds: Sequence[Sequence[JudgeRepeat]],
    session: JudgeSession | None = None,
) -> list[FailedAnswer | None]:
    """Why each answer that counts as failed, unscored or unparsed does; None for the others."""
    no_reply = session.lost if session is not None else {}

    def reason(doc: Mapping[str, Any], answer: Any, rated: Sequence[JudgeRepeat]) -> FailedAnswer | None:
        if isinstance(answer, FailedAnswer):
            return answer
        if any(is_unscored(one.records) for one in rated):
            return no_reply.get(id(doc), UNREAD)
        return UNPARSED if _has_mark(rated[0].records, "unparsed") else None

    return [
        reason(doc, answer, rated) for doc, answer, rated in zip(docs, answers, zip(*rounds, strict=True), strict=True)
    ]


def _tell_unread(task: TaskSpec, rounds: Sequence[Sequence[JudgeRepeat]]) -> None:
    """Says how many replies of the judge hold no rating, and what becomes of them."""
    replies = [one for repeat in rounds for one in repeat if one.reply is not None]
    counted = [one for one in replies if _has_mark(one.records, "unrated")]
    left_out = [one for one in replies if not one.records]
    for unread, what in (
        (counted, "counted as the official rule says"),
        (left_out, "not scored"),
    ):
        if unread:
            text = "%s: %d of %d replies of the judge hold no rating: %s; the first: %s"
            log.warning(text, task.name, len(unread), len(replies), what, quote_reply(unread[0].reply or ""))


def rate(
    task: TaskSpec, docs: Sequence[Mapping[str, Any]], answers: Sequence[Any], session: JudgeSession | None
) -> list[JudgeRepeat]:
    """The records of each answer; a judged task's answers are first rated once."""
    given = _judge_texts(task, docs, answers, session) if task.judged else list(answers)
    process = registry().process_results(task.name)
    found = []
    for doc, answer, rated in zip(docs, answers, given, strict=True):
        records: dict[str, Any] = {}
        if not isinstance(answer, FailedAnswer):
            records = {name: record for name, record in process(doc, [rated]).items() if name in task.metrics}
        if getattr(answer, "cut", False):
            records.pop(LENGTH, None)
        records |= _next_token_records(task, doc, answer, records)
        found.append(JudgeRepeat(records=records, reply=rated["text"] or None if isinstance(rated, Mapping) else None))
    return found


def is_to_judge(answer: Any) -> bool:
    """Whether an answer to a judged task is text that has no rating yet."""
    return isinstance(answer, str) and not isinstance(answer, FailedAnswer)


def _judge_texts(
    task: TaskSpec, docs: Sequence[Mapping[str, Any]], answers: Sequence[Any], session: JudgeSession | None
) -> list[Any]:
    """The answers, with the judge's reply in place of each text."""
    texts = [index for index, answer in enumerate(answers) if is_to_judge(answer)]
    given = list(answers)
    if texts:
        if session is None:
            raise NoJudgeError(f"{task.name}: {len(texts)} answers are to be judged, and no judge is set")
        replies = registry().judge(task.name)([answers[at] for at in texts], [docs[at] for at in texts], session)
        for index, reply in zip(texts, replies, strict=True):
            given[index] = reply
    return given


def _next_token_records(
    task: TaskSpec, doc: Mapping[str, Any], answer: Any, records: Mapping[str, Record]
) -> dict[str, dict[str, Any]]:
    """The record of the first token's likelihoods, if the model gave them."""
    choices = getattr(answer, "choices", {})
    wanted = registry().next_token(task.name, doc) if choices else None
    if wanted is None:
        return {}
    first: Mapping[str, Any] = next(iter(records.values()), {})
    grouped = {key: first[key] for key in ("image", "cluster") if key in first}
    return {NEXT_TOKEN: next_token_record(str(grouped.get("image", "")), choices, wanted[1]) | grouped}
