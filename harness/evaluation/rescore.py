"""Computes the records of a sample log anew: from its documents, answers and the judge's replies, by the task's code.

    rescore(entry, log)          # Recomputed, or in words why it can't be

Nobody is asked: of judged tasks the replies in the log are read again. (The judge of the embedded scenes is code,
and judges the answers themselves.) What a log can't show is an answer that was edited with the judge's reply left as it
was, and replies to the second question of a benchmark that asks two.
"""

import importlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from harness.evaluation.guards import answer_in
from harness.evaluation.scoring import LENGTH, Scored, drop_unscored, rate
from leaderboards.board.entry import Entry
from leaderboards.board.sample import JudgeRepeat, Sample, repeats_of
from leaderboards.gate.recomputed import Recomputed
from support.errors import CompareError, HarnessError
from support.extras import describe_missing
from tasks.answer import Answer, FailedAnswer
from tasks.judges.protocol import GREEDY, Doc, Judge, JudgeSession, Question, Sampling
from tasks.registry import NEXT_TOKEN, TaskSpec, registry
from tasks.scenes.judge import ScenesJudge
from tasks.score_digest import score_digest
from tasks.thoughts import answer_of

NOT_KEPT: Final = frozenset(("same",))
"""Fields of records that are read from a second reply about an answer (HallusionBench)."""
FROM_FILE: Final = "in the answers' file"
"""What stands for the judge of answers that were rated before."""
READER: Final = "nouns"
"""The field that says which program of this machine took part (Object HalBench)."""


def rescore(entry: Entry, log: Mapping[str, Sample]) -> Recomputed | str:
    """What the answers in a log give; in words why that can't be known. CompareError for documents that no answer can
    be scored by."""
    task = registry().tasks.get(entry.task)
    if task is None:
        return "the task is not known here"
    made_by, today = entry.provenance.get("task"), score_digest(task.path)
    if made_by != today:
        return f"they were made by other code of the task ({made_by or 'not known'}, here {today})"
    if entry.judge == FROM_FILE:
        return "its ratings came with its answers"
    docs = find_documents(task, entry, log)
    if docs is None:
        return "it keeps no documents (logs of earlier versions don't)"
    rounds = rate_again(task, entry, docs, log)
    if isinstance(rounds, str):
        return rounds
    if (other := _find_other_reader(log, rounds[0])) is not None:
        return other
    failed = [sample.answer is None for sample in log.values()]
    counts = vars(Scored(task=task, rounds=rounds, failed=failed, texts=list(map(answer_in, log.values()))).counts)
    counted = ("unscored", "failed", "unparsed", *(("empty",) if entry.empty is not None else ()))
    return Recomputed(
        rounds=[dict(zip(log, (one.records for one in own), strict=True)) for own in rounds],
        replies=[dict(zip(log, (one.reply for one in own), strict=True)) for own in rounds],
        counts={name: counts[name] for name in counted},
        unknown=NOT_KEPT if task.judged else frozenset(),
    )


def rate_again(
    task: TaskSpec, entry: Entry, docs: Sequence[Doc], log: Mapping[str, Sample]
) -> list[list[JudgeRepeat]] | str:
    """The records of a log's answers to these documents by the task's code of today, for each asking of the entry's
    judge; in words why they can't be had. CompareError for documents that no answer can be scored by."""
    try:
        rounds = [_rate_again(task, entry, docs, repeat) for repeat in repeats_of(log)]
    except HarnessError as error:
        return str(error)
    except ModuleNotFoundError as error:
        if (lacking := describe_missing(error)) is None:
            raise
        return lacking
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise CompareError(f"{task.name}: its documents can't be scored: {type(error).__name__}: {error}") from error
    return drop_unscored(task, rounds)


def document_of(doc: Mapping[str, Any]) -> str | None:
    """A document as a log keeps it; None for one that holds more than JSON does."""
    try:
        return json.dumps(dict(doc), ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return None


def find_documents(task: TaskSpec, entry: Entry, log: Mapping[str, Sample]) -> list[Doc] | None:
    """The document of each sample: as the task's code makes it, else as the log has it; None where one is missing."""
    made = make_documents(task.name, entry.provenance.get("split"))
    kept = [made.get(name) or read_document(sample) for name, sample in log.items()]
    return None if any(doc is None for doc in kept) else [doc for doc in kept if doc is not None]


@cache
def make_documents(task: str, split: str | None) -> Mapping[str, Doc]:
    """All documents of a task whose data are made by its code, by id; none of any other."""
    spec = registry().task(task)
    if spec.data != "embedded" or spec.dataset is None:
        return {}
    module, _, name = spec.dataset.rpartition(".")
    load = getattr(importlib.import_module(module), name)
    (docs,) = load(**({"split": split} if split else {})).values()
    return {str(doc.get("id", index)): doc for index, doc in enumerate(docs)}


def read_document(sample: Sample) -> Doc | None:
    """The document that a log keeps with an answer; None where it keeps none."""
    try:
        found = json.loads(sample.document or "null")
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _rate_again(task: TaskSpec, entry: Entry, docs: Sequence[Doc], log: Mapping[str, Sample]) -> list[JudgeRepeat]:
    """The records of one asking of the judge."""
    samples = list(log.values())
    session = None
    if task.judged:
        exact = ScenesJudge()
        if entry.judge == exact.model:
            session = JudgeSession(judge=exact, label=task.name)
        else:
            replies = {_name(doc): sample.reply for doc, sample in zip(docs, samples, strict=True)}
            session = ReplaySession(judge=_Nobody(), label=task.name, replies=replies)
    return rate(task, docs, list(map(read_answer, samples)), session)


def read_answer(sample: Sample) -> str:
    """The answer as it was scored."""
    read = answer_in(sample)
    if read is None:
        return answer_of(sample.answer) if sample.answer is not None else FailedAnswer(sample.reason or "")
    choices = sample.records.get(NEXT_TOKEN, {}).get("logprobs", {})
    # A log tells answers that were stopped early from those at the limit of tokens by the length alone.
    cut = sample.cut and LENGTH not in sample.records
    return Answer(read, cut=cut, choices=choices if isinstance(choices, dict) else {})


def _find_other_reader(log: Mapping[str, Sample], anew: Sequence[JudgeRepeat]) -> str | None:
    """In words, that nouns were read by another program than this machine has."""
    for sample, own in zip(log.values(), anew, strict=True):
        for metric, record in own.records.items():
            kept = sample.records.get(metric, {}).get(READER, record.get(READER))
            if kept != record.get(READER):
                return f"its nouns were read by {kept}, here they are by {record.get(READER)}"
    return None


class _Nobody:
    """Stands where a judge would be asked."""

    model = "nobody"

    def ask_many(
        self, questions: Iterable[Question], sampling: Sampling = GREEDY, *, label: str = "", repeat: int = 0
    ) -> list[str | None]:
        """No replies."""
        return [None for _ in questions]


@dataclass(frozen=True, kw_only=True)
class ReplaySession(JudgeSession):
    """Gives the replies of a log again, in place of a judge; to a second question about an answer the same."""

    judge: Judge
    replies: Mapping[str, str | None] = field(default_factory=dict)
    """By the document's id."""

    def ask_about(
        self, answers: Iterable[str], docs: Iterable[Doc], question: Any, sampling: Sampling = GREEDY
    ) -> list[str | None]:
        """The kept replies."""
        return [
            None if isinstance(answer, FailedAnswer) else self.replies.get(_name(doc))
            for answer, doc in zip(answers, docs, strict=True)
        ]


def _name(doc: Doc) -> str:
    return str(doc["id"]) if "id" in doc else f"@{id(doc)}"
