"""Answers made elsewhere, in the files the benchmarks' own scripts read.

    answers = tasks.benchmarks.mme.official_answers(Path("LaVIN"), None)
    [process_results(a.doc, [a.answer]) for a in answers.answered]  # from there on as if the model had just answered

Every task module with such a layout has this function.
Errors: `AnswerFileError`, one line that names the file and what it lacks.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support import records
from support.errors import AnswerFileError, DataError
from support.records import Record
from tasks.metric import Metric


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One question with its answer."""

    id: str
    """Unique within the file."""

    doc: Mapping[str, Any]
    """The question as the task's `process_results` takes it."""

    answer: Any
    """What `process_results` takes: text, a `JudgeReply`, or a `FailedAnswer` where there is none."""

    text: str | None = None
    """The model's words, where `answer` is a verdict and the file has them."""

    judge_instead: bool = False
    """Where a judge is at hand, it rates `text` in place of `answer`."""


@dataclass(frozen=True, kw_only=True)
class OfficialAnswers:
    """All that a file or folder of answers holds."""

    answered: Sequence[Answered]
    warnings: Sequence[str] = ()
    """What the reader should know: rows without a question, a version recognised."""

    warnings_when_judged: Sequence[str] | None = None
    """The same where a judge rates what it may; None: as `warnings`."""

    more: Mapping[str, Metric] = field(default_factory=dict)
    """Metrics beside the task's own that only these files allow (a published subset)."""


def read_json(path: Path) -> Any:
    """The value in a JSON file."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise AnswerFileError(f"{path}: not JSON: {error}") from None


def read_rows(path: Path) -> list[Record]:
    """The objects of a JSON array, or of a file with one JSON object a line, whatever the file's ending."""
    return _collect(records.read_json(path))


def read_table(path: Path) -> list[Record]:
    """The rows of a file of any kind, told by its ending."""
    return _collect(records.read(path, strict=True))


def _collect(rows: Iterable[Record]) -> list[Record]:
    try:
        return list(rows)
    except DataError as error:
        raise AnswerFileError(str(error)) from None


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, line ends as they are."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise AnswerFileError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise AnswerFileError(f"{path}: not UTF-8 text: {error}") from None


def reference(folder: Path | None, *names: str, what: str) -> Path:
    """The file under `folder` that has the first of `names` there is; `what` says in errors what it is for."""
    if folder is None:
        raise AnswerFileError(f"needs {what} ({' or '.join(names)}): give the folder with --references")
    if not folder.is_dir():
        raise AnswerFileError(f"{folder}: no such folder of references")
    for name in names:
        found = sorted(folder.rglob(name), key=lambda path: (len(path.parts), path))
        if found:
            return found[0]
    raise AnswerFileError(f"{folder}: has no {' or '.join(names)}, the {what}")


def values(row: Mapping[str, Any], path: Path, *names: str) -> list[Any]:
    """The fields `names` of a row; says which is missing."""
    missing = [name for name in names if name not in row]
    if missing:
        raise AnswerFileError(f"{path}: a row lacks {', '.join(missing)}; it has {', '.join(row)}")
    return [row[name] for name in names]
