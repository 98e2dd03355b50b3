"""Answers to a task from a table, in a file with a row for each question: its id, and the answer.

    read_answers(registry().task("parts"), Path("answers.jsonl"), None).answered

The questions are those of the task's own table, or of the file or folder that is given as references.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from support.errors import AnswerFileError
from tasks.answer_files import (
    ANSWER_FIELDS,
    Answered,
    OfficialAnswers,
    describe_missing,
    describe_unknown,
    find_answers,
    keep_once,
    read_rows,
)
from tasks.registry import TaskSpec

ID_FIELDS: Final = ("id", "index", "question_id", "qid")
PREDICTION: Final = "prediction"
"""The answer in tables that have what is true as `answer`, such as VLMEvalKit's."""


def read_answers(task: TaskSpec, path: Path, references: Path | None) -> OfficialAnswers:
    """The answers in a file, each with its question; AnswerFileError, BenchmarkDataError."""
    from harness.evaluation.generate import documents_drawn, load_tasks

    if path.is_dir():
        raise AnswerFileError(f"{path}: must be a file with a row for each question")
    rows = read_rows(path)
    if not rows:
        raise AnswerFileError(f"{path}: holds no answers to {task.name}")
    data = None if references is None else {task.name: str(references)}
    loaded = load_tasks([task], data=data)[task.name]
    docs = {str(doc["id"]): doc for doc in documents_drawn(loaded, None, 0)}
    ids = _ids_in(rows, path)
    warnings = describe_unknown(ids, docs.keys(), path)
    known = [place for place, name in enumerate(ids) if name in docs]
    rows, ids = [rows[place] for place in known], [ids[place] for place in known]
    fields = (PREDICTION,) if all(PREDICTION in row for row in rows) else ANSWER_FIELDS
    answers = find_answers(rows, path, fields, [str(docs[name].get("question") or "") for name in ids])
    kept, told = keep_once(ids, answers, path)
    answered = [Answered(id=ids[place], doc=docs[ids[place]], answer=answers[place]) for place in kept]
    missing = len(docs) - len(answered)
    lacking = [f"{missing} of {len(docs)} questions are not in the file"] if missing else []
    every = [one.answer for one in answered]
    return OfficialAnswers(
        answered=answered, warnings=[*warnings, *told, *lacking, *describe_missing(every)], partial=missing > 0
    )


def _ids_in(rows: Sequence[Mapping[str, Any]], path: Path) -> list[str]:
    """The id of each row's question."""
    name = next((name for name in ID_FIELDS if all(row.get(name) is not None for row in rows)), None)
    if name is None:
        known = f"{', '.join(ID_FIELDS[:-1])} nor {ID_FIELDS[-1]}"
        raise AnswerFileError(f"{path}: not every row has the id of its question, as neither {known}")
    return [str(row[name]).removesuffix(".0") for row in rows]
