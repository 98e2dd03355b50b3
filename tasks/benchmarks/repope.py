"""RePOPE: POPE's questions with corrected labels, without those that people could not agree on (arXiv 2504.15707).

    official_answers(Path("llava-v1.5-13b.jsonl"), None)    # answers to POPE, scored by RePOPE's labels

Its authors ask POPE's questions and score the answers twice: nobody is asked again where POPE's answers are there. An
answer belongs to the label with its split, image and object: POPE's versions number their random questions
differently, and write "a" or "an" differently. Answers to questions that RePOPE leaves out are not counted. What is
read from an answer, the records and the metrics are POPE's.

The labels have no stated licence and are not in this package; `harness data get repope` brings them, with the two
versions of POPE's questions, by which files of answers name theirs.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from support.errors import AnswerFileError, CompareError
from support.image_names import without_ending
from tasks.answer_files import Answered, OfficialAnswers, read_fields, read_rows, reference
from tasks.benchmarks import pope
from tasks.benchmarks.pope import SPLITS
from tasks.data_folder import stored

NAME: Final = "repope"
FILES: Final = {split: f"coco_repope_{split}.json" for split in SPLITS}

_ASKED: Final = re.compile(r"is there (?:an? )?(.+?) in the iman?ge", re.IGNORECASE)
"""POPE's questions, with their misspelling."""


def find_object(question: str) -> str:
    """What a question asks for, in lower case; of any other text the text."""
    found = _ASKED.search(question)
    return " ".join((found[1] if found else question).casefold().split())


def _key_of(split: str, row: Mapping[str, Any]) -> tuple[str, str, str]:
    """What tells a question apart in every version: its split, picture and object."""
    return split, without_ending(row["image"]), find_object(row["text"])


@dataclass(frozen=True)
class Labels:
    """RePOPE's rows."""

    by_split: Mapping[str, Sequence[Mapping[str, Any]]]

    @cached_property
    def _by_question(self) -> Mapping[tuple[str, str, str], Mapping[str, Any]]:
        return {_key_of(split, row): row for split, rows in self.by_split.items() for row in rows}

    def find(self, split: str, image: str, question: str) -> Mapping[str, Any] | None:
        """The row of a question of POPE, by its picture's file name; None where RePOPE leaves it out."""
        return self._by_question.get(_key_of(split, {"image": image, "text": question}))


def read_labels(folder: Path) -> Labels:
    """RePOPE's rows from a folder, somewhere in it; AnswerFileError."""
    found = {}
    for split, name in FILES.items():
        file = reference(folder, name, what="labels of RePOPE")
        found[split] = read_fields(read_rows(file), file, pope.QUESTION)
    return Labels(found)


def rows(folder: Path) -> list[dict[str, Any]]:
    """The questions that RePOPE keeps, with its labels: its three files and, somewhere in the folder, COCO's val2014
    pictures."""
    if folder.is_file():
        raise AnswerFileError(f"{folder}: name the folder with {', '.join(FILES.values())} and pictures")
    return [pope.row_of(row, split) for split, own in read_labels(folder).by_split.items() for row in own]


def official_answers(path: Path, references: Path | None) -> OfficialAnswers:
    """Answers to POPE, or to RePOPE alone, in every layout of `pope`, each with RePOPE's label.

    `references` holds `coco_repope_SPLIT.json`, and `coco_pope_SPLIT.json` of one version of POPE or of both; what it
    lacks, and all without it, comes from HARNESS_DATA/repope.
    """
    labels, questions = read_references(references)
    given = pope.read_answers(path, {**questions, NAME: labels.by_split}, pope.TODAY)
    found: dict[str, Answered] = {}
    for one in given.answered:
        doc = one.doc
        if (row := labels.find(doc["category"], doc["image"], doc["question"])) is not None:
            name = f"{doc['category']}/{row['question_id']}"
            found[name] = replace(one, id=name, doc={**doc, "answer": row["label"]})
    told = [f"{path.name}: {line}" for line in describe_lack(labels, found, len(given.answered))]
    return replace(
        given,
        answered=list(found.values()),
        warnings=[*given.warnings, *told],
        partial=is_partial(labels, found),
    )


def read_references(references: Path | None) -> tuple[Labels, pope.Questions]:
    """RePOPE's labels and POPE's questions, from `references`, else from HARNESS_DATA/repope; AnswerFileError."""
    folders = [folder for folder in (references, stored(NAME)) if folder is not None]
    if references is not None and not references.is_dir():
        raise AnswerFileError(f"{references}: no such folder of references")

    def choose(name: str, what: str) -> Path:
        there = next((folder for folder in folders if any(folder.rglob(name))), None)
        if there is None:
            raise AnswerFileError(
                f"needs {what} ({name}, ...): run `harness data get {NAME}`, or give the folder with --references"
            )
        return there

    labels = read_labels(choose(FILES[SPLITS[0]], "the labels of RePOPE"))
    return labels, pope.read_questions(choose(f"coco_pope_{SPLITS[0]}.json", "the questions of POPE"))


def documents_of(
    task: str, asked: Mapping[str, Mapping[str, Any]], references: Path | None
) -> tuple[dict[str, dict[str, Any]], bool]:
    """For the questions of a log of POPE (id -> what is known of it), those that RePOPE keeps with its labels, by the
    same ids; and whether these are all of RePOPE's. CompareError where they are not the questions of `task`;
    AnswerFileError where labels or questions are not here."""
    labels, questions = read_references(references)
    named = {
        _key_of(split, row): row for version in questions.values() for split, own in version.items() for row in own
    }
    numbered = {f"{split}/{row['question_id']}": row for split, own in questions.get(task, {}).items() for row in own}
    found = {}
    for name, doc in asked.items():
        split = name.partition("/")[0]
        # Answers from files name their picture, and may be to either version; other logs have the task's own numbers.
        given = {"image": "", "text": "", **numbered.get(name, {}), **_as_row(doc)}
        row = named.get(_key_of(split, given)) or numbered.get(name)
        if row is None or find_object(given["text"]) != find_object(row["text"]):
            raise CompareError(f"its question {name!r} is none of {task}'s")
        if (label := labels.find(split, row["image"], row["text"])) is not None:
            own_doc = {"question": row["text"], "image": row["image"], "category": split, **doc}
            found[name] = {**own_doc, "id": f"{split}/{label['question_id']}", "answer": label["label"]}
    return found, len(found) == sum(map(len, labels.by_split.values()))


def _as_row(doc: Mapping[str, Any]) -> dict[str, str]:
    """What a document says of a row of the authors' files."""
    names = {"image": "image", "question": "text"}
    return {names[name]: str(doc[name]) for name in names if name in doc}


def is_partial(labels: Labels, found: Mapping[str, Answered]) -> bool:
    """Whether questions of RePOPE are not answered, of a split that is answered at all."""
    return any(lacking for _, lacking, _ in _count(labels, found))


def describe_lack(labels: Labels, found: Mapping[str, Answered], given: int) -> list[str]:
    """What to say of `given` answers to POPE, of which those in `found` are to RePOPE's questions: a line each."""
    out = given - len(found)
    told = [f"{out} of {given} answers are to questions that RePOPE leaves out, and are not counted"] if out else []
    return told + [
        f"{total - lacking} of RePOPE's {total} {split} questions are answered; the others are not counted"
        for split, lacking, total in _count(labels, found)
        if lacking
    ]


def _count(labels: Labels, found: Mapping[str, Answered]) -> list[tuple[str, int, int]]:
    """Of each split that is answered: how many of RePOPE's questions are not, and how many there are."""
    answered = [str(one.doc["category"]) for one in found.values()]
    totals = {split: len(own) for split, own in labels.by_split.items() if split in answered}
    return [(split, total - answered.count(split), total) for split, total in totals.items()]
