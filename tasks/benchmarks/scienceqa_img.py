"""ScienceQA, questions with an image: multiple choice, read by the rule of LLaVA's script.

    parse("A")                      # "A"
    parse("The answer is B.")       # "B"
    parse("B.")                     # None: the script reads that as failed

A record is {image, correct, has_image}. A letter beyond the choices is wrong, as is an answer that can't be read.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from support.errors import AnswerFileError
from tasks.answer import FailedAnswer
from tasks.answer_files import (
    ANSWER_FIELDS,
    Answered,
    OfficialAnswers,
    answer_in,
    describe_unknown,
    find_answers,
    keep_once,
    read_fields,
    read_json,
    read_rows,
    reference,
)
from tasks.columns import LETTERS as ALL_LETTERS
from tasks.metric import mean_of

if TYPE_CHECKING:
    from datasets import Dataset

LETTERS: Final = "ABCDE"
"""Those that the script reads."""
THE_ANSWER_IS: Final = re.compile(r"The answer is ([A-Z]).")
SUFFIX: Final = "Answer with the option's letter from the given choices directly."
METRICS: Final = ("accuracy", "answer_length")


def parse(answer: str) -> str | None:
    """The letter of an answer: all of it, its beginning before ". ", or after the only "The answer is"; else None."""
    if answer in tuple(LETTERS):
        return answer
    if _begins_with_letter(answer):
        return answer[0]
    found = THE_ANSWER_IS.findall(answer)
    return found[0] if len(found) == 1 else None


def decided(doc: Mapping[str, Any]) -> Callable[[str], bool]:
    """Once the answer begins with a letter and ". "."""
    return _begins_with_letter


def _begins_with_letter(answer: str) -> bool:
    return answer[:1] in tuple(LETTERS) and answer[1:3] == ". "


def next_token(doc: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
    """The letters of the choices there are."""
    return tuple(ALL_LETTERS[: len(doc["choices"])]), ALL_LETTERS[int(doc["answer"])]


def is_correct(letter: str | None, truth: int, choices: int) -> bool:
    """Whether `letter` names the choice number `truth` of so many."""
    return letter is not None and letter in LETTERS[:choices] and LETTERS.index(letter) == truth


accuracy = mean_of("correct", scale=100, among=lambda record: bool(record["has_image"]))
"""% of the questions with an image that are answered right."""

accuracy_all = mean_of("correct", scale=100)
"""% of all questions that are answered right, in files that hold those without an image, too."""

answer_length = mean_of("words")


def docs(dataset: "Dataset") -> "Dataset":
    """Rows with an id: their number, since the data has none."""
    return dataset.add_column("id", [str(number) for number in range(len(dataset))])


def prompt(doc: Mapping[str, Any]) -> str:
    """Context, question and lettered choices as LLaVA's script puts them."""
    context = [f"Context: {doc['hint']}"] if doc.get("hint") else []
    choices = [f"{letter}. {choice}" for letter, choice in zip(ALL_LETTERS, doc["choices"], strict=False)]
    return "\n".join(["<image>" + "\n".join([*context, doc["question"]]), *choices, SUFFIX])


def target(doc: Mapping[str, Any]) -> str:
    """The letter of the right choice."""
    return ALL_LETTERS[doc["answer"]]


def process_results(doc: Mapping[str, Any], results: list[str]) -> dict[str, dict[str, Any]]:
    """One record for every metric."""
    letter = parse(results[0])
    record = {
        "image": doc["image"],
        "correct": is_correct(letter, doc["answer"], len(doc["choices"])),
        "has_image": doc.get("has_image", True),
        "words": len(results[0].split()),
    }
    if letter is None:
        record["unparsed"] = True
    return dict.fromkeys(METRICS, record)


def official_answers(path: Path, references: Path | None) -> OfficialAnswers:
    """LLaVA's answer file, a line {question_id, text} a question; `test_questions.jsonl` is in `references`.

    A question without an answer is wrong, as in LLaVA's script.
    """
    file = reference(references, "test_questions.jsonl", what="questions with their choices and answers")
    kinds = {"question_id": "id", "choices": "texts", "answer": "place in choices", "has_image": "any"}
    questions = read_fields(read_rows(file), file, kinds)
    given, warnings = _read_answers(path)
    answered: list[Answered] = []
    for row in questions:
        doc = {"image": row["question_id"], **{name: row[name] for name in ("choices", "answer", "has_image")}}
        answered.append(Answered(id=row["question_id"], doc=doc, answer=given.get(row["question_id"], "")))
    unknown = describe_unknown(given, {row["question_id"] for row in questions}, path)
    without = sum(sample.id not in given for sample in answered)
    warnings += [f"{without} questions have no answer and count as wrong"] if without else []
    warnings += unknown
    return OfficialAnswers(answered=answered, warnings=warnings, more={"accuracy_all": accuracy_all})


def _read_answers(path: Path) -> tuple[dict[str, str], list[str]]:
    """Question id -> answer, of LLaVA's answer lines or of what its scoring script writes; and what to say."""
    if path.is_dir():
        raise AnswerFileError(f"{path}: must be a file of answers")
    if path.suffix == ".json" and isinstance(whole := read_json(path), dict) and isinstance(whole.get("outputs"), dict):
        numbers, answers = list(whole["outputs"]), [answer_in(text) for text in whole["outputs"].values()]
    else:
        rows = read_fields(read_rows(path), path, {"question_id": "id"})
        numbers = [row["question_id"] for row in rows]
        answers = find_answers(rows, path, [name for name in ANSWER_FIELDS if name != "answer"])
    kept, told = keep_once(numbers, answers, path)
    there = {numbers[place]: answers[place] for place in kept if not isinstance(answers[place], FailedAnswer)}
    return there, told
