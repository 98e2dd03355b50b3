"""TextVQA, its validation questions: open questions about text in pictures, by VQA accuracy of ten people's answers.

    score("The Dakota.", ["dakota"] * 7 + ["clos culombu"] * 3)      # 1.0
    score("clos culombu", ["dakota"] * 7 + ["clos culombu"] * 3)     # 0.9

The rule is the one that TextVQA's results are made with (MMF's, in LLaVA's m4c_evaluator.py): all texts are normalised,
also where people agree, and "'s" is a word of its own. A record is {image, score}.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from support.errors import AnswerFileError
from tasks.answer_files import (
    ANSWER_FIELDS,
    Answered,
    OfficialAnswers,
    describe_count,
    describe_missing,
    describe_unknown,
    find_answers,
    keep_once,
    read_fields,
    read_json,
    read_rows,
    reference,
)
from tasks.benchmarks.rules import vqa_accuracy, vqa_normal_form
from tasks.columns import list_in
from tasks.metric import mean_of
from tasks.prediction_tables import answers_in_table

if TYPE_CHECKING:
    from datasets import Dataset

PEOPLE: Final = 10
METRICS: Final = ("accuracy", "answer_length")
ROWS: Final = 5000
OCR: Final = "Reference OCR token: "


def score(answer: str, truths: Sequence[str]) -> float:
    """From 0 to 1: the mean, over all but one of ten people, of min(1, those who say the same / 3)."""
    return vqa_accuracy(normal_form(answer), [normal_form(truth) for truth in truths])


def normal_form(text: str) -> str:
    """A text as the script compares it."""
    words = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return vqa_normal_form(words.replace("\n", " ").replace("\t", " ").strip())


accuracy = mean_of("score", scale=100)
"""VQA accuracy, the mean of all questions, in %."""
answer_length = mean_of("words")


def read_answers(cell: Any, row: Mapping[str, Any]) -> list[str]:
    """What ten people answered, of a list or its text; ValueError."""
    found = list_in(cell) if isinstance(cell, str) else cell
    if not isinstance(found, list | tuple) or len(found) != PEOPLE:
        raise ValueError(f"must be a list of {PEOPLE} people's answers")
    return ["" if one is None else str(one) for one in found]


def read_tokens(cell: Any, row: Mapping[str, Any]) -> str:
    """The words that an OCR system read, with commas between; "" where there are none."""
    found = list_in(cell) if isinstance(cell, str) else cell
    return ", ".join(map(str, found)) if isinstance(found, list | tuple) else ""


def docs(dataset: "Dataset") -> "Dataset":
    """Rows with their question's id, and what an OCR system read, where that is known."""
    if "ocr_tokens" not in dataset.column_names:
        dataset = dataset.add_column("ocr_tokens", [""] * len(dataset))
    return dataset.add_column("id", [str(number) for number in dataset["question_id"]])


def prompt(doc: Mapping[str, Any]) -> str:
    """The question."""
    return f"<image>{doc['question']}"


def target(doc: Mapping[str, Any]) -> str:
    """What most people answered."""
    answers: list[str] = doc["answers"]
    return max(answers, key=answers.count)


def process_results(doc: Mapping[str, Any], results: list[str]) -> dict[str, dict[str, Any]]:
    """One record for every metric."""
    record = {"image": doc["image"], "score": score(results[0], doc["answers"]), "words": len(results[0].split())}
    return dict.fromkeys(METRICS, record)


ANSWERS: Final = "tasks.benchmarks.textvqa.read_answers"


def official_answers(path: Path, references: Path | None) -> OfficialAnswers:
    """LLaVA's answer file {question_id, prompt, text}, whose ids are the pictures', with TextVQA_0.5.1_val.json in
    `references`; or a table with index, answer and prediction (VLMEvalKit).

    Questions without an answer are not counted.
    """
    if path.is_dir():
        raise AnswerFileError(f"{path}: must be a file of answers")
    rows = read_rows(path)
    if rows and "prediction" in rows[0] and "answer" in rows[0]:
        found = answers_in_table(path, {"index": "id", "answer": ANSWERS}, key="index")
        answered = [
            Answered(id=one.id, doc={**one.doc, "answers": one.doc["answer"]}, answer=one.answer)
            for one in found.answered
        ]
        warnings = list(found.warnings)
    else:
        answered, warnings = _read_llavas(path, references)
    told = describe_count(len(answered), "answers", ROWS)
    return OfficialAnswers(answered=answered, warnings=[*warnings, *told], partial=len(answered) < ROWS)


def _read_llavas(path: Path, references: Path | None) -> tuple[list[Answered], list[str]]:
    file = reference(references, "TextVQA_0.5.1_val.json", what="questions with their answers")
    whole = read_json(file)
    data = whole.get("data") if isinstance(whole, dict) else whole
    if not isinstance(data, list) or not all(isinstance(row, dict) for row in data):
        raise AnswerFileError(f"{file}: must hold a list of questions")
    asked = {
        _key(row["image_id"], row["question"]): row
        for row in read_fields(data, file, {"image_id": "id", "question": "text", "answers": ANSWERS})
    }
    rows = read_fields(read_rows(path), path, {"question_id": "id", "prompt": "text"})
    keys = [_key(row["question_id"], question_in(row["prompt"])) for row in rows]
    texts = [row["prompt"] for row in rows]
    answers = find_answers(rows, path, [name for name in ANSWER_FIELDS if name != "answer"], texts)
    kept, warnings = keep_once(keys, answers, path)
    warnings += describe_missing([answers[place] for place in kept])
    warnings += describe_unknown(keys, asked, path)
    answered: list[Answered] = []
    for place in kept:
        if (row := asked.get(keys[place])) is not None:
            doc = {"image": row["image_id"], "answers": row["answers"], "question": row["question"]}
            answered.append(Answered(id=keys[place], doc=doc, answer=answers[place]))
    return answered, warnings


def _key(image: str, question: str) -> str:
    return f"{image}/{question.lower()}"


def question_in(prompt: str) -> str:
    """The question in one of the prompts that LLaVA's script knows."""
    lines = prompt.split("\n")
    if prompt.startswith("OCR tokens: ") and " Short answer:" in prompt:
        return prompt.partition("Question: ")[2].partition(" Short answer:")[0]
    return lines[1] if prompt.startswith(OCR.strip()) and len(lines) > 1 else lines[0]
