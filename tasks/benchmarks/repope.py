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

from support.errors import AnswerFileError
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


@dataclass(frozen=True)
class Labels:
    """RePOPE's rows."""

    by_split: Mapping[str, Sequence[Mapping[str, Any]]]

    @cached_property
    def _by_question(self) -> Mapping[tuple[str, str, str], Mapping[str, Any]]:
        return {
            (split, without_ending(row["image"]), find_object(row["text"])): row
            for split, rows in self.by_split.items()
            for row in rows
        }

    def find(self, split: str, image: str, question: str) -> Mapping[str, Any] | None:
        """The row of a question of POPE, by its picture's file name; None where RePOPE leaves it out."""
        return self._by_question.get((split, without_ending(image), find_object(question)))


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
