"""Answers made elsewhere, in the files the benchmarks' own scripts read.

    answers = tasks.benchmarks.mme.official_answers(Path("LaVIN"), None)
    [process_results(a.doc, [a.answer]) for a in answers.answered]  # from there on as if the model had just answered

Every task module with such a layout has this function. What they share is one rule each: what a field may hold
(`read_fields`, by the kinds of `tasks.columns`), which field is the answer and what is none (`find_answers`,
`answer_in`), and what becomes of a question that is answered twice (`keep_once`).

Errors: `AnswerFileError`, one line that names the file and what it lacks.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from support import records
from support.errors import AnswerFileError, DataError, first_few
from support.files import read_regular
from support.image_marks import take_mark
from support.parsing import parse_json
from support.records import Record
from tasks.answer import FailedAnswer
from tasks.columns import needed_columns, read_columns
from tasks.metric import Metric

QUESTION_FIELDS: Final = ("question", "prompt", "query", "instruction")
"""Fields in which answers repeat their question."""
ANSWER_FIELDS: Final = (
    *(
        "answer",
        "text",
        "caption",
        "response",
        "prediction",
        "output",
        "model_answer",
        "model_response",
        "model_output",
    ),
    *(
        "model_prediction",
        "pred",
        "predict",
        "predicted",
        "predicted_answer",
        "outputs",
        "generated_text",
        "completion",
    ),
)
"""Fields that may hold the answer, where a benchmark's own script does not name one."""


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

    partial: bool = False
    """Whether questions of the benchmark are missing that its script does not count as wrong."""

    more: Mapping[str, Metric] = field(default_factory=dict)
    """Metrics beside the task's own that only these files allow (a published subset)."""

    coverage: Callable[[Sequence[Answered]], tuple[Sequence[str], bool]] | None = None
    """From answers to what `warnings` say of the questions that have none, and `partial`: asked again of all parts."""


def covering(
    answered: Sequence[Answered], told: Sequence[str], coverage: Callable[[Sequence[Answered]], tuple[list[str], bool]]
) -> OfficialAnswers:
    """Answers with what is `told` of them, after what `coverage` says of them."""
    lacking, partial = coverage(answered)
    return OfficialAnswers(answered=answered, warnings=[*lacking, *told], partial=partial, coverage=coverage)


def find_part(file: Path, parts: Iterable[str]) -> re.Match[str] | None:
    """Where a file's name says to which of these parts of a benchmark it has answers: the longest, in letters of any
    size, "_" for "-" too, with no letter or digit beside it."""
    longest = [re.escape(part).replace(r"\-", "[-_]") for part in sorted(parts, key=len, reverse=True)]
    found = (re.search(rf"(?<![^\W_]){part}(?![^\W_])", file.name, re.IGNORECASE) for part in longest)
    return next(filter(None, found), None)


def join(parts: Sequence[OfficialAnswers], paths: Sequence[Path]) -> OfficialAnswers:
    """Answers to several parts of a benchmark, each from one of `paths`, as those to all of them; AnswerFileError where
    two answer a question differently."""
    if len(parts) == 1:
        return parts[0]
    answered, twice = _keep_first(parts, paths)
    coverage = parts[0].coverage
    lacking, partial = coverage(answered) if coverage is not None else ([], any(part.partial for part in parts))
    usual = [line for part in parts for line in _own_lines(part, part.warnings)]
    judged = [line for part in parts for line in _own_lines(part, part.warnings_when_judged or part.warnings)]
    return OfficialAnswers(
        answered=answered,
        warnings=[*lacking, *usual, *twice],
        warnings_when_judged=[*lacking, *judged, *twice],
        partial=partial,
        coverage=coverage,
    )


def _own_lines(part: OfficialAnswers, lines: Sequence[str]) -> list[str]:
    """The lines about a part that are true of it as of the whole."""
    lacking = part.coverage(part.answered)[0] if part.coverage is not None else ()
    return [line for line in lines if line not in lacking]


def _keep_first(parts: Sequence[OfficialAnswers], paths: Sequence[Path]) -> tuple[list[Answered], list[str]]:
    """The answers of all parts, each question once, and what to say of those that are there again."""
    known: dict[str, tuple[Answered, Path]] = {}
    again: list[str] = []
    for part, path in zip(parts, paths, strict=True):
        for one in part.answered:
            first, where = known.setdefault(one.id, (one, path))
            if where != path and first.answer != one.answer:
                raise AnswerFileError(f"{where} and {path} answer question {one.id} differently: leave one")
            again += [one.id] if where != path else []
    told = [f"{len(again)} questions are answered in two files and count once: {first_few(again)}"] if again else []
    return [one for one, _ in known.values()], told


MAX_TEXT: Final = 1 << 30
"""Bytes of a file that is read in one piece; COCO's annotations have a third of it."""


def read_json(path: Path) -> Any:
    """The value in a JSON file."""

    def read_object(members: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in members:
            if found.setdefault(name, value) != value:
                raise AnswerFileError(f"{path}: {name!r} is there twice, with different values")
        return found

    try:
        return parse_json(read_text(path), object_pairs_hook=read_object)
    except AnswerFileError:
        raise
    except ValueError as error:
        raise AnswerFileError(f"{path}: not JSON: {error}") from None


def read_rows(path: Path) -> list[Record]:
    """The rows of a table or of tables in a zip, told by its ending; of any other file, the objects of a JSON array or
    one JSON object a line."""
    if path.suffix.lower() in (".xlsx", ".xls"):
        raise AnswerFileError(f"{path}: save the spreadsheet as .tsv or .jsonl first")
    try:
        return list(records.read(path, strict=True))
    except DataError as error:
        raise AnswerFileError(str(error)) from None


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, line ends as they are."""
    try:
        return read_regular(path, MAX_TEXT).decode("utf-8-sig")
    except OSError as error:
        raise AnswerFileError(f"{path}: {error.strerror or 'not a file'}") from None
    except OverflowError as error:
        raise AnswerFileError(f"{path}: {error}") from None
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


def read_fields(rows: Sequence[Mapping[str, Any]], path: Path, kinds: Mapping[str, str]) -> list[Record]:
    """The rows, the fields of `kinds` (see `tasks.columns`) as what they mean; says which row lacks one or has another
    value."""
    for row in rows:
        values(row, path, *needed_columns(kinds))
    there = [name for name in kinds if any(name in row for row in rows)]
    try:
        found = read_columns({name: [row.get(name) for row in rows] for name in there}, kinds)
    except ValueError as error:
        raise AnswerFileError(f"{path}: {error}") from None
    return [{**row, **{name: cells[place] for name, cells in found.items()}} for place, row in enumerate(rows)]


_JSON_TYPES: Final = {type(None): "null", bool: "true or false", list: "a list", dict: "an object", float: "no number"}


def answer_in(value: Any) -> str:
    """A value as an answer: text, or a number's digits; anything else is a `FailedAnswer`, never its Python text."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    return FailedAnswer(f"the file has no answer: {_JSON_TYPES.get(type(value), type(value).__name__)}")


def describe_count(count: int, what: str, benchmark: int, more: str = "") -> list[str]:
    """What to say of a file that holds another number of answers than the benchmark has questions."""
    return [] if count == benchmark else [f"{count} {what}, the benchmark has {benchmark}{more}"]


def describe_missing(answers: Iterable[Any]) -> list[str]:
    """What to say of answers that are none, and of those that say nothing: a line each."""
    every = list(answers)
    empty = sum(not isinstance(answer, FailedAnswer) and not str(answer).strip() for answer in every)
    missing = Counter(answer.error.rpartition(": ")[2] for answer in every if isinstance(answer, FailedAnswer))
    kinds = ", ".join(missing)
    told = [f"{missing.total()} of {len(every)} rows have no answer ({kinds}) and count as failed"] if missing else []
    return [*told, f"{empty} of {len(every)} answers are empty, and count as they are"] if empty else told


def find_answers(
    rows: Sequence[Mapping[str, Any]],
    path: Path,
    fields: Sequence[str],
    questions: Sequence[str | None] = (),
    truths: Sequence[str] = (),
) -> list[str]:
    """The answer of each row, a `FailedAnswer` where it has none.

    Where several of `fields` hold text, the one that is the question (of `questions`, or in the row), or the same in
    all rows, is not the answer. AnswerFileError where two are left in one row, or none; or where the one that is left
    holds the true answers (`truths`).
    """
    lacking = next((row for row in rows if not any(name in row for name in fields)), None)
    if lacking is not None:
        known = f"{', '.join(fields[:-1])} nor {fields[-1]}"
        raise AnswerFileError(f"{path}: a row has neither {known}; it has {', '.join(lacking)}")
    asked = [
        {_squeeze(text) for text in (given, *(row.get(name) for name in QUESTION_FIELDS)) if isinstance(text, str)}
        for row, given in zip(rows, questions or [None] * len(rows), strict=True)
    ]
    texts = {name: [row.get(name) for row in rows] for name in fields}
    texts = {name: cells for name, cells in texts.items() if any(_is_text(cell) for cell in cells)}
    left = [name for name, cells in texts.items() if not _repeats_question(cells, asked)]
    if texts and not left:
        raise AnswerFileError(f"{path}: {' and '.join(texts)} repeat the question, and no other field is an answer")
    if len(left) > 1 and len(rows) > 1:
        varied = [name for name in left if len({str(cell) for cell in texts[name]}) > 1]
        if len(varied) == 1 and [_squeeze(str(cell)) for cell in texts[varied[0]]] == list(map(_squeeze, truths)):
            others = ", ".join(name for name in left if name not in varied)
            both = f"{varied[0]} is the true answer in every row, and {others} the same in all"
            raise AnswerFileError(f"{path}: {both}: which is the answer? Leave one")
        left = varied or left
    for place in range(len(rows)):
        here = [name for name in left if _is_text(texts[name][place])]
        if len({str(texts[name][place]) for name in here}) > 1:
            which = f"row {place + 1} has {' and '.join(here)}: which is the answer? Leave one"
            raise AnswerFileError(f"{path}: {which}")
    found = [
        answer_in(
            next((row[name] for name in left if _is_text(row.get(name))), next(row[n] for n in fields if n in row))
        )
        for row in rows
    ]
    check_any(found, path)
    return found


def check_any(answers: Sequence[Any], path: Path) -> None:
    """AnswerFileError where no row of a file has an answer that says anything."""
    if answers and all(isinstance(answer, FailedAnswer) for answer in answers):
        raise AnswerFileError(f"{path}: {'; '.join(describe_missing(answers))}")
    if answers and all(isinstance(answer, str) and not answer.strip() for answer in answers):
        raise AnswerFileError(f"{path}: all {len(answers)} answers are empty")


def _is_text(cell: Any) -> bool:
    return not isinstance(answer_in(cell), FailedAnswer)


def _squeeze(text: str) -> str:
    """A text for comparison: without the mark of a picture, in lower case, words with single spaces between."""
    with suppress(ValueError):
        text = take_mark(text)
    return " ".join(text.casefold().split())


def _repeats_question(cells: Sequence[Any], asked: Sequence[set[str]]) -> bool:
    """Whether every text of a field is the question of its row, or has the same words behind it in all rows."""
    rests: set[str | None] = set()
    for cell, questions in zip(cells, asked, strict=True):
        if isinstance(cell, str):
            text = _squeeze(cell)
            repeated = max((each for each in questions if each and text.startswith(each)), key=len, default=None)
            rests.add(None if repeated is None else text.removeprefix(repeated))
    return len(rests) == 1 and (rests == {""} or (rests != {None} and len(cells) > 1))


def describe_unknown(given: Iterable[str], known: Collection[str], path: Path) -> list[str]:
    """What to say of answers to questions that the references lack; AnswerFileError where they lack all of them."""
    every = set(given)
    unknown = [number for number in every if number not in known]
    if len(unknown) == len(every):
        raise AnswerFileError(f"{path}: none of its question ids is among the questions of the references")
    return [f"{len(unknown)} answers are to no question of the references and are left out"] if unknown else []


def keep_once(keys: Sequence[Any], answers: Sequence[Any], path: Path) -> tuple[list[int], list[str]]:
    """The places that count, each key once, and what to say of the others; AnswerFileError where the answers to one
    key differ. A missing answer gives way to one that is there."""
    places: dict[Any, int] = {}
    for place, key in enumerate(keys):
        before = places.setdefault(key, place)
        if isinstance(answers[before], FailedAnswer):
            places[key] = place
        elif not isinstance(answers[place], FailedAnswer) and answers[before] != answers[place]:
            both = f"rows {before + 1} and {place + 1} answer it differently"
            raise AnswerFileError(f"{path}: question {_name_key(key)} is there twice: {both}")
    again = len(keys) - len(places)
    twice = [_name_key(key) for key, times in Counter(keys).items() if times > 1]
    told = [f"{again} rows answer a question again and count once: {first_few(twice)}"] if again else []
    return sorted(places.values()), told


def _name_key(key: Any) -> str:
    return "/".join(map(str, key)) if isinstance(key, tuple) else str(key)


def describe_unread(ids: Sequence[str], count: int, what: str, counted: str) -> list[str]:
    """What to say of the replies to questions `ids`, of so many, that hold no rating: a line, or nothing."""
    if not ids:
        return []
    how = f": {counted}" if len(ids) < count else ", so that nothing is scored"
    return [f"{what} to {len(ids)} of {count} questions ({first_few(ids)}){how}"]
