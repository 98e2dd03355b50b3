"""Answers that a board has, scored again: by a task's rule of today, or by a task that has other labels for them.

    for one in find_rescorings(board, registry().task("repope")):
        prepared = prepare(board, one, None)    # or in words why it can't be scored
        entries = keep(board, prepared, None)

Nobody is asked: of judged tasks the replies in the log are read again. A rescored run stands on the same board under
the same model, with a log of its own, and says from which run it is. The run's id is a digest of what it is made of,
so that the same again changes nothing.
"""

import hashlib
import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from harness.evaluation.entries import Run, entries_of
from harness.evaluation.eval_settings import REPEAT_VALUES, TIMES_ASKED
from harness.evaluation.guards import answer_in, with_counts
from harness.evaluation.rescore import (
    FROM_FILE,
    NOT_KEPT,
    document_of,
    find_documents,
    rate_again,
    read_answer,
    read_document,
)
from harness.evaluation.scoring import UNREAD, Scored, find_reasons
from leaderboards.board.board import Board
from leaderboards.board.earlier_digests import SCHEME, SCHEME_FACT
from leaderboards.board.entry import FAILURES, OTHER_DATA, RESCORED, Entry
from leaderboards.board.sample import Sample
from support.errors import CompareError
from tasks.answer import FailedAnswer
from tasks.data_folder import VARIABLE
from tasks.judges.protocol import Doc
from tasks.registry import TaskSpec
from tasks.score_digest import score_digest
from tasks.task_yaml import load_yaml

_OF_SCORES: Final = frozenset((FAILURES, REPEAT_VALUES, TIMES_ASKED))
"""Facts that scoring gives anew."""
_OF_DATA: Final = frozenset(("data", "data from", "revision", "rows", OTHER_DATA))
"""Facts about the data of the task that was asked."""

_Key = tuple[str, str | None]
"""Model and judge."""
DocumentsOf = Callable[[str, Mapping[str, Doc], Path | None], tuple[Mapping[str, Doc], bool]]


@dataclass(frozen=True, kw_only=True)
class Rescoring:
    """Answers of one run that a task can score."""

    task: TaskSpec
    """Which scores them."""
    source: Entry
    """Any entry of the run, of the task that was asked."""

    @property
    def relabelled(self) -> bool:
        """Whether the answers are to another task."""
        return self.source.task != self.task.name


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A rescoring with all that it is made of."""

    rescoring: Rescoring
    run: str
    """The id of the run that it becomes."""
    log: Mapping[str, Sample]
    """The answers that the task scores."""
    docs: Sequence[Doc]
    """Their documents."""
    whole: bool
    """Whether these are all of the benchmark's, as far as the run was of all of it."""

    @property
    def task(self) -> TaskSpec:
        """Which scores the answers."""
        return self.rescoring.task


def tasks_rescored_by(task: TaskSpec) -> tuple[str, ...]:
    """The tasks whose answers a task has labels for, the preferred one first."""
    return tuple(_read_rule(task).get("tasks", ()))


def find_rescorings(board: Board, task: TaskSpec) -> list[Rescoring]:
    """What of a board a task can score again: of each model its own answers where other code scored them; where it has
    none (or a part, and of the other all), those to the first task that it has labels for. Runs of a model that its
    name no longer stands for are left out."""
    current = board.current(partial=True)
    own = _find_latest(entry for entry in current if entry.task == task.name and not _is_relabelled(entry))
    others: dict[_Key, Entry] = {}
    for name in tasks_rescored_by(task):
        others = _find_latest(entry for entry in current if entry.task == name) | others
    needed = {key: one for key, one in others.items() if key not in own or (own[key].partial and not one.partial)}
    chosen = [one for one in (own | needed).values() if one.task != task.name or not _is_todays(one, task)]
    return [Rescoring(task=task, source=entry) for entry in chosen]


def _find_latest(entries: Iterable[Entry]) -> dict[_Key, Entry]:
    """The newest entry of each model and judge, of a part only where there is no whole one."""
    found: dict[_Key, Entry] = {}
    for entry in sorted(entries, key=lambda entry: (not entry.partial, *entry.by_sequence)):
        found[entry.model, entry.judge] = entry
    return found


def _is_relabelled(entry: Entry) -> bool:
    return RESCORED in entry.provenance and not entry.provenance[RESCORED].endswith(f" ({entry.task})")


def _is_todays(entry: Entry, task: TaskSpec) -> bool:
    return (entry.provenance.get("task"), entry.version) == (score_digest(task.path), task.version)


def prepare(board: Board, one: Rescoring, references: Path | None) -> Prepared | str:
    """A rescoring with its documents; in words why there are none. AnswerFileError where the task's labels are not
    here."""
    source = one.source
    try:
        log = {sample.id: sample for sample in board.samples(source.run) if sample.task == source.task}
    except (ValueError, OSError) as error:
        return f"its log can't be read: {error}"
    if not any(sample.answer is not None for sample in log.values()):
        return "its run kept no answers"
    if one.relabelled:
        asked = {name: read_document(sample) or {} for name, sample in log.items()}
        try:
            found, whole = _documents_of(one.task)(source.task, asked, references)
        except CompareError as error:
            return str(error)
        log = {name: sample for name, sample in log.items() if name in found}
        if not log:
            return f"none of its questions are among those of {one.task.name}"
        docs = [found[name] for name in log]
    else:
        own = find_documents(one.task, source, log)
        if own is None:
            return "its log keeps no documents (logs of earlier versions don't)"
        if source.judge == FROM_FILE:
            return "its ratings came with its answers"
        docs, whole = own, True
    names = (source.run, source.task, one.task.name, one.task.version, score_digest(one.task.path))
    made_of = [*names, *map(document_of, docs)]
    run = f"rescored-{hashlib.sha256(repr(made_of).encode()).hexdigest()[:16]}"
    return Prepared(rescoring=one, run=run, log=log, docs=docs, whole=whole)


def keep(board: Board, prepared: Prepared, references: Path | None) -> list[Entry] | str:
    """Score the answers, and put them on the board; in words why they can't be scored."""
    task, source, docs, log = prepared.task, prepared.rescoring.source, prepared.docs, prepared.log
    rounds = rate_again(task, source, docs, log)
    if isinstance(rounds, str):
        return rounds
    if task.judged and any(NOT_KEPT & record.keys() for one in rounds[0] for record in one.records.values()):
        return "its judge was asked a second question about answers, and logs keep the reply to one"
    samples = list(log.values())
    lost = find_reasons(docs, list(map(read_answer, samples)), rounds)
    lost = [
        FailedAnswer(sample.reason) if why is UNREAD and sample.reason is not None else why
        for sample, why in zip(samples, lost, strict=True)
    ]
    scored = Scored(
        task=task,
        rounds=rounds,
        failed=[sample.answer is None for sample in samples],
        texts=list(map(answer_in, samples)),
        lost=lost,
        ids=[str(doc.get("id", name)) for doc, name in zip(docs, log, strict=True)],
    )
    of_run = Run(
        run=prepared.run,
        model=source.model,
        limit=source.limit,
        created=datetime.now(UTC).isoformat(timespec="microseconds"),
        provenance=_make_facts(prepared, references),
    )
    logged = _make_log(prepared, scored)
    entries = list(entries_of(scored, of_run, judge=source.judge, seconds=0.0, cost=0.0, facts={}))
    entries = with_counts(entries, logged)
    board.add(entries, logged)
    return entries


def _make_facts(prepared: Prepared, references: Path | None) -> dict[str, str]:
    """Provenance: that of the run that was asked, but for what scoring and other data change."""
    source, task, relabelled = prepared.rescoring.source, prepared.task, prepared.rescoring.relabelled
    dropped = _OF_SCORES | (_OF_DATA if relabelled else frozenset())
    facts = {name: text for name, text in source.provenance.items() if name not in dropped}
    if relabelled:
        facts["data"] = str(references) if references is not None else f"{VARIABLE}/{task.name}"
    if not prepared.whole and source.limit is None:
        facts["rows"] = "partial"
    return facts | {
        "task": score_digest(task.path),
        SCHEME_FACT: SCHEME,
        RESCORED: f"{source.run} ({source.task})",
        "vlm-harness": version("vlm-harness"),
    }


def _make_log(prepared: Prepared, scored: Scored) -> list[Sample]:
    """The answers as they are in the log, with the records of today."""
    return [
        replace(
            sample,
            run=prepared.run,
            task=prepared.task.name,
            id=name,
            records=first.records,
            reply=first.reply,
            repeats=tuple(repeats),
            reason=None if why is None else why.error,
            document=document_of(doc),
        )
        for sample, doc, name, why, first, *repeats in zip(
            prepared.log.values(), prepared.docs, scored.ids, scored.lost, *scored.rounds, strict=True
        )
    ]


def _read_rule(task: TaskSpec) -> Mapping[str, Any]:
    """`rescores` of the task's YAML: the tasks whose answers it scores, and the function that finds their documents."""
    found = load_yaml(task.path)["metadata"].get("rescores", {})
    return found if isinstance(found, dict) else {}


def _documents_of(task: TaskSpec) -> DocumentsOf:
    module, _, name = str(_read_rule(task)["documents"]).rpartition(".")
    found: DocumentsOf = getattr(importlib.import_module(module), name)
    return found
