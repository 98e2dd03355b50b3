"""RealWorldQA: questions about photographs, options of which a letter is asked for, else a word or a number.

    read("B. Right", "Where?\nA. Left\nB. Right")      # "b"
    read("Two.", "How many?")                          # "two"
    read("two", "How many?")                           # "2": a number's word that is all of an answer

Its authors have published no scorer: the rule is lmms-eval's (filter "flexible-extract", then equality). A record is
{image, correct, options}. An answer to a question with options is unparsed where it names none of them.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tasks.answer_files import Answered, OfficialAnswers, describe_count
from tasks.metric import mean_of
from tasks.prediction_tables import answers_in_table

if TYPE_CHECKING:
    from datasets import Dataset

OPTION: Final = re.compile(r"\b([A-Z])\.\s+([^\n]*)")
SIGN: Final = re.compile(r"[^\w\s]")
NUMBERS: Final = {
    word: str(number) for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
}
METRICS: Final = ("accuracy", "accuracy_options", "accuracy_open", "answer_length")
ROWS: Final = 765


def read(answer: str, question: str) -> str:
    """What is compared with the truth, in lower case: the letter of the option whose text comes first in an answer, or
    else the answer without its signs ("1.5" is "15")."""
    said = SIGN.sub("", NUMBERS.get(answer.lower(), answer)).strip()
    letters = {text: chr(ord("A") + place) for place, text in enumerate(options_of(question))}
    found = re.search("|".join(map(re.escape, letters)), said)
    return letters.get(found[0] if found else "", said).lower().strip()


def options_of(question: str) -> list[str]:
    """The texts of the options that stand in a question, one a line; lettered in their order."""
    return [text.strip() for _, text in OPTION.findall(question)]


accuracy = mean_of("correct", scale=100)
"""% of all questions that are answered right."""
accuracy_options = mean_of("correct", scale=100, among=lambda record: bool(record["options"]))
"""% of the questions with options."""
accuracy_open = mean_of("correct", scale=100, among=lambda record: not record["options"])
"""% of the questions that ask for a word or a number."""
answer_length = mean_of("words")


ASKS_LETTER: Final = "Please answer directly with only the letter of the correct option and nothing else."
ASKS_WORD: Final = "Please answer directly with a single word or number."


def docs(dataset: "Dataset") -> "Dataset":
    """Rows with whole questions, and an id: their number, since the data has none."""
    questions = whole_questions([dict(row) for row in dataset])
    dataset = dataset.remove_columns([name for name in ("question", *"ABCD") if name in dataset.column_names])
    return dataset.add_column("question", questions).add_column("id", [str(n) for n in range(len(dataset))])


def whole_questions(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The questions as their authors' table has them, also where options stand in columns of their own (VLMEvalKit)."""
    in_columns = any(row.get("A") for row in rows)
    return [_whole_question(row) if in_columns else str(row["question"]) for row in rows]


def _whole_question(row: Mapping[str, Any]) -> str:
    question = str(row["question"])
    if "please answer directly" in question.lower():
        return question
    options = [f"{letter}. {row[letter]}" for letter in "ABCD" if row.get(letter)]
    shown = [] if options_of(question) else options
    asks = ASKS_LETTER if options or options_of(question) else ASKS_WORD
    return "\n".join([question, *shown, asks])


def prompt(doc: Mapping[str, Any]) -> str:
    """The question, which has its options in it, and says how to answer."""
    return f"<image>{str(doc['question']).strip()}"


def process_results(doc: Mapping[str, Any], results: list[str]) -> dict[str, dict[str, Any]]:
    """One record for every metric."""
    said = read(results[0], doc["question"])
    options = options_of(doc["question"])
    record: dict[str, Any] = {
        "image": doc["image"],
        "options": len(options),
        "correct": said == str(doc["answer"]).lower().strip(),
        "words": len(results[0].split()),
    }
    if options and said not in {chr(ord("a") + place) for place in range(len(options))}:
        record["unparsed"] = True
    return dict.fromkeys(METRICS, record)


ROW: Final = {
    **{"index": "number", "question": "text", "answer": "text"},
    **dict.fromkeys("ABCD", "text or nothing"),
}
"""What a row of predictions holds."""


def official_answers(path: Path, references: Path | None) -> OfficialAnswers:
    """A table (tsv, csv, jsonl) with index, question, answer and prediction; options in the question or in A to D."""
    found = answers_in_table(path, ROW, key="index")
    questions = whole_questions([one.doc for one in found.answered])
    answered = [
        Answered(id=one.id, doc={**one.doc, "question": question}, answer=one.answer)
        for one, question in zip(found.answered, questions, strict=True)
    ]
    told = describe_count(len(answered), "answers", ROWS)
    return OfficialAnswers(answered=answered, warnings=[*found.warnings, *told], partial=len(answered) < ROWS)
