"""Answers made elsewhere onto a board: their scores as entries, and the answers as a sample log.

    put_on_board(Board(Path("runs/files/board")), "llava-v1.5-13b", task, score_paths(task, files, references))

No model was asked, so an entry says which files the answers are from, and that their prompts are not known; it has no
weights. It never stands under the name of a model that was run here.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from harness.evaluation.entries import Run, entries_of, samples_of
from harness.evaluation.eval_settings import judge_facts, judge_name
from harness.evaluation.generate import Generated
from harness.evaluation.guards import with_counts
from harness.evaluation.rescore import FROM_FILE
from harness.evaluation.score_files import ScoredFiles
from leaderboards.board.board import Board
from leaderboards.board.earlier_digests import SCHEME, SCHEME_FACT
from leaderboards.board.entry import GIVEN, NOT_KNOWN, PROTOCOL, Entry
from leaderboards.board.sample import Sample
from support.errors import UsageError
from tasks.answer import FailedAnswer
from tasks.answer_files import Answered
from tasks.registry import TaskSpec
from tasks.score_digest import score_digest

log = logging.getLogger(__name__)


def check_names(board: Board, names: Sequence[str]) -> None:
    """UsageError for the name of a model that was run, or imported, onto this board."""
    taken = {entry.model for entry in board.entries() if entry.given is None}
    for name in names:
        if name in taken:
            raise UsageError(f"{name!r} is a model that was scored on this board; give the answers another --name")


def put_on_board(board: Board, name: str, task: TaskSpec, found: ScoredFiles) -> list[Entry]:
    """The entries of one result, which the board gets unless it has them; the same files a second time change
    nothing."""
    judge = _find_judge(task, found)
    digest = _digest_files(found.paths)
    facts = {
        GIVEN: ", ".join(path.name for path in found.paths),
        "source digest": digest,
        "vlm-harness": version("vlm-harness"),
        PROTOCOL: NOT_KNOWN,
        "task": score_digest(task.path),
        SCHEME_FACT: SCHEME,
    }
    facts |= {"rows": "partial"} if found.score.partial else {}
    facts |= judge_facts(task, found.judge)
    what = (name, task.name, task.version, facts["task"], digest, judge, len(found.scored.rounds))
    run = f"answers-{hashlib.sha256(repr(what).encode()).hexdigest()[:16]}"
    known = [entry for entry in board.entries() if entry.run == run]
    if known and not any(entry.failed + entry.unscored for entry in known):
        log.info(f"{name}: already on the board in {board.folder}")
        return known
    created = datetime.now(UTC)
    run = f"{run}-{created:%Y%m%dT%H%M%S%f}" if known else run  # what the judge lost was asked again
    of_run = Run(run=run, model=name, limit=None, created=created.isoformat(timespec="microseconds"), provenance=facts)
    samples = list(_make_log(found, run))
    entries = list(entries_of(found.scored, of_run, judge=judge, seconds=0.0, cost=0.0, facts={}))
    if samples:
        entries = with_counts(entries, samples)
    else:
        log.info(f"{name}: its files lack the words of answers, so no sample log is kept: nothing to compare by")
    board.add(entries, samples)
    return entries


def _find_judge(task: TaskSpec, found: ScoredFiles) -> str | None:
    if not task.judged:
        return None
    return judge_name(task, found.judge, False) or FROM_FILE


def _make_log(found: ScoredFiles, run: str) -> Iterator[Sample]:
    """The answers as a sample log of this run; nothing where the words of one are not known."""
    if found.log:
        yield from (replace(sample, run=run) for sample in found.log)
        return
    texts = [_text_of(one) for one in found.answered]
    if any(text is None for text in texts):
        return
    given = [
        Generated(doc={**one.doc, "id": one.id}, prompt="", answer=text, image_digest=None)
        for one, text in zip(found.answered, texts, strict=True)
        if text is not None
    ]
    yield from samples_of(found.scored, given, run)


def _text_of(one: Answered) -> str | None:
    """What was answered, a `FailedAnswer` where nothing was; None where the file has a verdict alone."""
    if isinstance(one.answer, str | FailedAnswer):
        return one.answer
    words = one.text if one.text is not None else one.answer.get("answer")
    return words if isinstance(words, str) else None


def _digest_files(paths: Sequence[Path]) -> str:
    """sha256 of the files, or of those in the folders, with their names."""
    found = hashlib.sha256()
    for path in paths:
        inside = path if path.is_dir() else path.parent
        files = sorted(path.rglob("*")) if path.is_dir() else [path] if path.is_file() else inside.glob(f"{path.name}*")
        for file in sorted(file for file in files if file.is_file()):
            found.update(f"{file.relative_to(inside).as_posix()}\0".encode())
            with file.open("rb") as opened:
                found.update(hashlib.file_digest(opened, "sha256").digest())
    return found.hexdigest()
