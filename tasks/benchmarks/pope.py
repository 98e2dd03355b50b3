"""POPE: is there an OBJECT in the image? Absent objects are drawn at random, by popularity and by co-occurrence.

    parse("No, there is no dog.")       # "no"
    f1(records)                         # of one split; mean_f1 is the mean of the three

A record is {image, correct, predicted, truth} as in `tasks.benchmarks.yes_no`, and `category` (the split) for the
metrics of a split.

The authors' repository has two versions of the questions that people report on: that of today (3 x 3000), and that of
commit e3e3926 (2910 random questions, other articles), which LLaVA's scripts use. They are two tasks here, `pope` and
`pope_llava`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from support.errors import AnswerFileError
from tasks.answer_files import (
    ANSWER_FIELDS,
    Answered,
    OfficialAnswers,
    describe_missing,
    find_answers,
    keep_once,
    read_fields,
    read_rows,
)
from tasks.benchmarks import yes_no
from tasks.benchmarks.yes_no import COUNTS, YesNo, accuracy, f1, f1_of, precision, recall, yes_rate
from tasks.benchmarks.yes_no import counts as yes_no_counts
from tasks.metric import Array, Metric, Record, mean_of

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["SPLITS", "accuracy", "f1", "mean_f1", "parse", "precision", "recall", "yes_rate"]

SPLITS: Final = ("random", "popular", "adversarial")
_FILES: Final = ", ".join(f"coco_pope_{split}.json" for split in SPLITS)

NO_WORDS: Final = frozenset({"No", "not", "no"})
"""Case counts: "NO" and "Not" are no negation to the official script."""


def parse(answer: str) -> YesNo:
    """The official reading: no where the text before the first full stop has a negation as a whole word, else yes.

    Words are what stands between single spaces once commas are gone, so "no!", '"No"' and "No" followed by a line break
    read as yes.
    """
    return "yes" if NO_WORDS.isdisjoint(_part_read(answer).split(" ")) else "no"


def _part_read(answer: str) -> str:
    return answer.partition(".")[0].replace(",", "")


def is_answer(answer: str) -> bool:
    """Whether the part that is read says yes or no at all; where it doesn't, the official yes is a default."""
    return parse(answer) == "no" or re.search(r"\byes\b", _part_read(answer), re.IGNORECASE) is not None


def decided(doc: Mapping[str, Any]) -> Callable[[str], bool]:
    """After the first full stop, or once a negation stands there as a whole word."""
    # The last word may go on ("no", "nothing") until a space follows; a comma doesn't end it, since it is taken out.
    return lambda answer: "." in answer or not NO_WORDS.isdisjoint(_part_read(answer).split(" ")[:-1])


def _count_by_split(records: Sequence[Record]) -> list[int]:
    return [count for split in SPLITS for count in yes_no_counts([r for r in records if r["category"] == split])]


def _average_f1(sums: Array) -> Array:
    by_split = sums.reshape(*sums.shape[:-1], len(SPLITS), COUNTS)
    return np.asarray(f1_of(by_split).mean(axis=-1))


mean_f1 = Metric(counts=_count_by_split, value=_average_f1)
"""Mean of the three splits' F1, in %; nan where one is missing."""


def of_split(split: str, metric: Metric) -> Metric:
    """A metric of `tasks.benchmarks.yes_no` on the answers of one split."""

    def counts(records: Sequence[Record]) -> tuple[int, ...]:
        return yes_no_counts([r for r in records if r["category"] == split])

    return Metric(counts=counts, value=metric.value)


random_accuracy, popular_accuracy, adversarial_accuracy = (of_split(split, accuracy) for split in SPLITS)
random_precision, popular_precision, adversarial_precision = (of_split(split, precision) for split in SPLITS)
random_recall, popular_recall, adversarial_recall = (of_split(split, recall) for split in SPLITS)
random_f1, popular_f1, adversarial_f1 = (of_split(split, f1) for split in SPLITS)
random_yes_rate, popular_yes_rate, adversarial_yes_rate = (of_split(split, yes_rate) for split in SPLITS)
answer_length = mean_of("words")

METRICS: Final = (
    "f1",
    *(f"{split}_{name}" for split in SPLITS for name in ("accuracy", "precision", "recall", "f1", "yes_rate")),
    "yes_rate",
    "answer_length",
)


def docs(dataset: "Dataset") -> "Dataset":
    """Rows with an id that is unique over the splits, whose own question ids are not."""
    ids = [f"{category}/{number}" for category, number in zip(dataset["category"], dataset["question_id"], strict=True)]
    return dataset.remove_columns([name for name in ("id",) if name in dataset.column_names]).add_column("id", ids)


def process_results(doc: Mapping[str, Any], results: list[str]) -> dict[str, dict[str, Any]]:
    """One record for every metric."""
    record = yes_no.record(doc["image"], doc["category"], parse(results[0]), doc["answer"])
    record["words"] = len(results[0].split())
    if not is_answer(results[0]):
        record["unparsed"] = True
    return dict.fromkeys(METRICS, record)


def rows(folder: Path) -> list[dict[str, Any]]:
    """Today's questions in a folder with the authors' three files and, somewhere in it, COCO's val2014 pictures."""
    return _read_rows(folder, TODAY)


def rows_llava(folder: Path) -> list[dict[str, Any]]:
    """The same, of the questions of commit e3e3926."""
    return _read_rows(folder, LLAVA)


def _read_rows(folder: Path, task: str) -> list[dict[str, Any]]:
    if folder.is_file():
        raise AnswerFileError(f"{folder}: has the questions of one sample; name the folder with {_FILES} and pictures")
    found = []
    for split in SPLITS:
        name = f"coco_pope_{split}.json"
        files = sorted(folder.rglob(name))
        if len(files) != 1:
            raise AnswerFileError(f"{folder}: has {len(files)} files {name}, must be one")
        asked = read_fields(read_rows(files[0]), files[0], QUESTION)
        other = {count: version for version, count in VERSIONS.items() if version != task}.get(len(asked))
        if split == "random" and other is not None:
            raise AnswerFileError(f"{files[0]}: its {len(asked)} questions are those of task {other}, not of {task}")
        found += [row_of(row, split) for row in asked]
    return found


def row_of(row: Mapping[str, Any], split: str) -> dict[str, Any]:
    """A row of the task's table, from one of the authors' file of a split."""
    question = {"question": row["text"], "answer": row["label"], "category": split}
    return {"question_id": row["question_id"], "image": row["image"], **question}


TODAY: Final = "pope"
LLAVA: Final = "pope_llava"
VERSIONS: Final[Mapping[str, int]] = {TODAY: 3000, LLAVA: 2910}
"""Task -> how many random questions its version has."""
SOURCES: Final = {
    TODAY: "in output/coco of AoiDragon/POPE",
    LLAVA: "in output/coco of AoiDragon/POPE at commit e3e39262c85a6a83f26cf5094022a782cb0df58d",
}
"""Task -> where its questions are."""

QUESTION: Final = {"question_id": "id", "image": "text", "text": "question", "label": "yes_no"}
"""What a row of the authors' files holds."""

Questions = Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]
"""Version -> split -> rows of the authors' files."""

LLAVA_IDS: Final = {"adversarial": 0, "random": 1, "popular": 2}
"""LLaVA numbers the questions of the three splits from 1, 10000001 and 20000001."""


@dataclass(frozen=True)
class _File:
    """The answers of one split."""

    path: Path
    split: str
    rows: Sequence[Mapping[str, Any]]


def official_answers(path: Path, references: Path | None) -> OfficialAnswers:
    """Answers in the order of the authors' questions: a file a split, their folder or common prefix, or LLaVA's file.

    `references` holds `coco_pope_SPLIT.json`, of one version or of both.
    """
    return read_answers(path, read_questions(references), TODAY)


def official_answers_llava(path: Path, references: Path | None) -> OfficialAnswers:
    """The same, taken for answers to the questions of commit e3e3926 where nothing says otherwise."""
    return read_answers(path, read_questions(references), LLAVA)


def read_answers(path: Path, questions: Questions, task: str) -> OfficialAnswers:
    """Answers to one of several versions of the questions: `task`, where nothing in the files says otherwise."""
    answered: list[Answered] = []
    warnings: list[str] = []
    partial = False
    for file in _find_files(path, questions):
        known = {version: by_split[file.split] for version, by_split in questions.items()}
        version = _tell_version(file, known, task)
        asked = known[version]
        _check_version(file, asked, version)
        if version != task:
            which = f"taken as answers to the {len(asked)} {file.split} questions of {version}, not of {task}"
            warnings.append(f"{file.path.name}: {which}")
        found, told = _pair(file, asked)
        warnings += [f"{file.path.name}: {line}" for line in told]
        partial |= len(found) < len(asked)
        for question, answer in found:
            texts = {"question": question["text"], "answer": question["label"]}
            doc = {"image": question["image"], "category": file.split, **texts}
            answered.append(Answered(id=f"{file.split}/{question['question_id']}", doc=doc, answer=answer))
    splits = {sample.doc["category"] for sample in answered}
    # Of one split alone there is no mean: its own figures are what people look for.
    more = {"accuracy": accuracy, "precision": precision, "recall": recall, "f1": f1} if len(splits) == 1 else {}
    return OfficialAnswers(answered=answered, warnings=warnings, partial=partial, more=more)


def _pair(file: _File, asked: Sequence[Mapping[str, Any]]) -> tuple[list[tuple[Mapping[str, Any], str]], list[str]]:
    """Questions with their answers, and what to say: by the numbers in the file where all are known, else by line."""
    numbers = [_read_number(row) for row in file.rows]
    known = {int(question["question_id"]): question for question in asked if question["question_id"].isdecimal()}
    questions = [known[number] for number in numbers if number in known]
    if len(questions) < len(numbers):
        questions = list(asked[: len(numbers)])
        there = [number for number in numbers if number is not None]
        if len(there) == len(numbers) and there != sorted(set(there)) and not any(map(_asked, file.rows)):
            told_apart = "come twice or in another order, so that nothing tells which question they answer"
            raise AnswerFileError(f"{file.path}: its question_id are not the benchmark's, and {told_apart}")
    rows = file.rows[: len(questions)]
    truths = [question["label"] for question in questions]
    answers = find_answers(rows, file.path, ANSWER_FIELDS, [question["text"] for question in questions], truths)
    kept, told = keep_once([question["question_id"] for question in questions], answers, file.path)
    told += describe_missing(answers[place] for place in kept)
    if len(kept) > 1 and answers == truths:
        told.append("every answer is the true one to the letter: are they the model's?")
    if len(kept) < len(asked):
        told.append(f"answers {len(kept)} of {len(asked)} {file.split} questions; the others are not counted")
    if len(rows) < len(file.rows):
        left_out = f"{len(file.rows) - len(rows)} answers after the last of {len(asked)} questions are left out"
        told.append(left_out)
    others = sum(_asked(rows[at]) is not None and not _repeats(rows[at], questions[at]) for at in kept)
    if 2 * others > len(kept):
        raise AnswerFileError(
            f"{file.path}: {others} of {len(kept)} answers are to another question than that of their line: "
            "another split, version or order"
        )
    if others:
        told.append(f"{others} answers are to another question than that of their line")
    return [(questions[place], answers[place]) for place in kept], told


def _read_number(row: Mapping[str, Any]) -> int | None:
    """A question's number in the authors' files, from theirs or LLaVA's."""
    number = str(row.get("question_id"))
    return int(number) % 10_000_000 if number.isdecimal() else None


def read_questions(references: Path | None) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Version -> split -> questions, of the versions that are there with all their splits."""
    if references is None:
        raise AnswerFileError(f"needs the questions ({_FILES}): give the folder with --references")
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for file in sorted(references.rglob("coco_pope_random.json")):
        by_split = {}
        for split in SPLITS:
            other = file.with_name(f"coco_pope_{split}.json")
            by_split[split] = read_fields(read_rows(other), other, QUESTION)
        found[LLAVA if len(by_split["random"]) == VERSIONS[LLAVA] else TODAY] = by_split
    if not found:
        raise AnswerFileError(f"{references}: has no questions ({_FILES})")
    return found


def _find_files(path: Path, questions: Questions) -> list[_File]:
    if path.is_file():
        return _read_splits(path, questions)
    inside = path.is_dir()
    files = sorted(path.iterdir()) if inside else sorted(path.parent.glob(f"{path.name}*"))
    sets: dict[str, list[Path]] = {}
    for file in files:
        if file.is_file() and (split := _split_in_name(file)):
            sets.setdefault(file.name.replace(split, "*"), []).append(file)
    if not sets:
        raise AnswerFileError(f"{path}: has no file of answers with {', '.join(SPLITS)} in its name")
    if len(sets) > 1:
        several = f"has the answers of several models ({', '.join(sets)})"
        raise AnswerFileError(f"{path}: {several}: give the beginning of one's file names")
    return [part for file in next(iter(sets.values())) for part in _read_splits(file, questions)]


def _split_in_name(file: Path) -> str | None:
    return next((split for split in SPLITS if split in file.name), None)


def _read_splits(file: Path, questions: Questions) -> list[_File]:
    rows = read_rows(file)
    if (split := _split_in_name(file)) is not None:
        return [_File(file, split, rows)]
    groups = {split: [row for row in rows if _read_llava_group(row) == group] for split, group in LLAVA_IDS.items()}
    if groups["random"] and groups["popular"]:
        return [_File(file, split, groups[split]) for split in SPLITS if groups[split]]
    fitting = {
        split: max(sum(map(_repeats, rows, by_split[split])) for by_split in questions.values()) for split in SPLITS
    }
    best = max(fitting, key=lambda split: fitting[split])
    if sum(count == fitting[best] for count in fitting.values()) == 1:
        return [_File(file, best, rows)]
    names = f"{', '.join(SPLITS[:-1])} or {SPLITS[-1]}"
    raise AnswerFileError(f"{file}: can't tell which split it answers: put {names} into its name")


def _read_llava_group(row: Mapping[str, Any]) -> int | None:
    number = str(row.get("question_id"))
    return int(number) // 10_000_000 if number.isdecimal() else None


def _asked(row: Mapping[str, Any]) -> str | None:
    """The question an answer says it is to."""
    asked = row.get("question") or row.get("prompt")
    return asked if isinstance(asked, str) else None


def _repeats(row: Mapping[str, Any], question: Mapping[str, Any]) -> bool:
    """Whether an answer's row says that it is to this question."""
    return (asked := _asked(row)) is not None and question["text"] in asked


def _tell_version(file: _File, known: Mapping[str, Sequence[Mapping[str, Any]]], task: str) -> str:
    """Whose questions a file answers: by those it repeats, by how many there are, else the task's own version."""
    in_order = sorted(known, key=lambda version: version != task)
    rules: list[Callable[[str], int]] = [
        lambda version: sum(map(_repeats, file.rows, known[version])),
        lambda version: len(known[version]) == len(file.rows),
    ]
    for rule in rules:
        fit = {version: rule(version) for version in in_order}
        if len(set(fit.values())) > 1:
            return max(in_order, key=lambda version: fit[version])
    return in_order[0]


def _check_version(file: _File, asked: Sequence[Mapping[str, Any]], version: str) -> None:
    """AnswerFileError for as many random answers as a version has questions that is not in the references, where the
    answers don't say that they are to those that are."""
    count = len(file.rows)
    other = next((name for name, size in VERSIONS.items() if size == count != len(asked)), None)
    if file.split != "random" or other is None or 2 * sum(map(_repeats, file.rows, asked)) > count:
        return
    raise AnswerFileError(
        f"{file.path}: {count} answers, as many as {other} has random questions; the references have the {len(asked)} "
        f"of {version}: give the three files {SOURCES[other]} by --references, and score it as {other}"
    )
