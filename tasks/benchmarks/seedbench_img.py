"""SEED-Bench, its questions about images: multiple choice over nine dimensions, read by the rule of LLaVA's script.

    parse("B")      # "B"
    parse("B.")     # None: only the bare letter is an answer

A record is {image, dimension, correct}. The paper itself ranks the options by likelihood; scores of that protocol are
not comparable.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from support.errors import AnswerFileError, BenchmarkDataError
from tasks.answer import FailedAnswer
from tasks.answer_files import (
    ANSWER_FIELDS,
    Answered,
    OfficialAnswers,
    describe_unknown,
    find_answers,
    keep_once,
    read_fields,
    read_json,
    read_rows,
    reference,
)
from tasks.metric import Metric, mean_of

if TYPE_CHECKING:
    from datasets import Dataset

LETTERS: Final = "ABCD"
SUFFIX: Final = "Answer with the option's letter from the given choices directly."
DIMENSIONS: Final = {
    1: "scene_understanding",
    2: "instance_identity",
    3: "instance_attribute",
    4: "instance_location",
    5: "instance_counting",
    6: "spatial_relation",
    7: "instance_interaction",
    8: "visual_reasoning",
    9: "text_recognition",
}
"""question_type_id -> name, of the dimensions that are asked about images."""


def parse(answer: str) -> str | None:
    """The answer, if it is nothing but a letter."""
    return answer if answer in tuple(LETTERS) else None


def decided(doc: Mapping[str, Any]) -> Callable[[str], bool]:
    """Once the answer is more than a letter, or none."""
    return lambda answer: len(answer) > 1 or (answer != "" and answer not in tuple(LETTERS))


def next_token(doc: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
    """The letters."""
    return tuple(LETTERS), str(doc["answer"])


def of_dimension(name: str) -> Metric:
    """% of the questions of one dimension that are answered right."""
    return mean_of("correct", scale=100, among=lambda record: bool(record["dimension"] == name))


accuracy = mean_of("correct", scale=100)
"""% of all questions about images that are answered right."""
scene_understanding, instance_identity, instance_attribute = (of_dimension(DIMENSIONS[n]) for n in (1, 2, 3))
instance_location, instance_counting, spatial_relation = (of_dimension(DIMENSIONS[n]) for n in (4, 5, 6))
instance_interaction, visual_reasoning, text_recognition = (of_dimension(DIMENSIONS[n]) for n in (7, 8, 9))
answer_length = mean_of("words")

METRICS: Final = ("accuracy", *DIMENSIONS.values(), "answer_length")


def docs(dataset: "Dataset") -> "Dataset":
    """The rows about images, with their question's id."""
    kept = dataset.filter(lambda kind: kind == "image", input_columns="data_type")
    if not len(kept):
        raise BenchmarkDataError(f"seedbench_img: none of {len(dataset)} rows is about an image (data_type)")
    return kept.add_column("id", [str(number) for number in kept["question_id"]])


def prompt(doc: Mapping[str, Any]) -> str:
    """Question and lettered choices as LLaVA's script puts them."""
    choices = [f"{letter}. {doc[f'choice_{letter.lower()}']}" for letter in LETTERS]
    return "\n".join(["<image>" + doc["question"], *choices, SUFFIX])


def process_results(doc: Mapping[str, Any], results: list[str]) -> dict[str, dict[str, Any]]:
    """One record for every metric."""
    letter = parse(results[0])
    record: dict[str, Any] = {
        "image": doc["image"],
        "dimension": DIMENSIONS.get(int(doc["question_type_id"]), "other"),
        "correct": letter == doc["answer"],
        "words": len(results[0].split()),
    }
    if letter is None:
        record["unparsed"] = True
    return dict.fromkeys(METRICS, record)


QUESTION: Final = {
    **{"question_id": "id", "data_type": "one of image video", "answer": "one of A B C D"},
    **{"question_type_id": "number", "data_id": "any"},
}
"""What a question of SEED-Bench.json holds."""


def official_answers(path: Path, references: Path | None) -> OfficialAnswers:
    """Answers {question_id, text} (LLaVA) or {question_id, prediction}, a line each; SEED-Bench.json in `references`.

    Questions about videos are left out; a question without an answer is wrong, as in LLaVA's script.
    """
    file = reference(references, "SEED-Bench.json", what="questions with their answers")
    whole = read_json(file)
    questions = whole.get("questions") if isinstance(whole, dict) else whole
    if not isinstance(questions, list):
        raise AnswerFileError(f"{file}: must hold a list of questions")
    if not all(isinstance(row, dict) for row in questions):
        raise AnswerFileError(f"{file}: must hold a list of objects")
    questions = read_fields(questions, file, QUESTION)
    asked = {row["question_id"]: row for row in questions}
    rows = read_fields(read_rows(path), path, {"question_id": "id"})
    texts = [asked.get(row["question_id"], {}).get("question") for row in rows]
    answers = find_answers(rows, path, [name for name in ANSWER_FIELDS if name != "answer"], texts)
    kept, warnings = keep_once([row["question_id"] for row in rows], answers, path)
    warnings += describe_unknown((row["question_id"] for row in rows), asked, path)
    given = {rows[place]["question_id"]: answers[place] for place in kept}
    given = {number: answer for number, answer in given.items() if not isinstance(answer, FailedAnswer)}
    answered: list[Answered] = []
    for row in questions:
        if row["data_type"] == "image":
            doc = {"image": str(row["data_id"]), "answer": row["answer"], "question_type_id": row["question_type_id"]}
            number = row["question_id"]
            answered.append(Answered(id=number, doc=doc, answer=given.get(number, "")))
    without = sum(sample.id not in given for sample in answered)
    warnings += [f"{without} questions have no answer and count as wrong"] if without else []
    return OfficialAnswers(answered=answered, warnings=warnings)
