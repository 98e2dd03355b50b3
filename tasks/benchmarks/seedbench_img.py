"""SEED-Bench, its questions about images: multiple choice over nine dimensions, read by the rule of LLaVA's script.

    parse("B")      # "B"
    parse("B.")     # None: only the bare letter is an answer

A record is {image, dimension, correct}. The paper itself ranks the options by likelihood; scores of that protocol are
not comparable.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from support.errors import AnswerFileError
from tasks.answer_files import Answered, OfficialAnswers, read_json, read_rows, reference, values
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


def official_answers(path: Path, references: Path | None) -> OfficialAnswers:
    """Answers {question_id, text} (LLaVA) or {question_id, prediction}, a line each; SEED-Bench.json in `references`.

    Questions about videos are left out; a question without an answer is wrong, as in LLaVA's script.
    """
    file = reference(references, "SEED-Bench.json", what="questions with their answers")
    whole = read_json(file)
    questions = whole.get("questions") if isinstance(whole, dict) else whole
    if not isinstance(questions, list):
        raise AnswerFileError(f"{file}: must hold a list of questions")
    given: dict[str, str] = {}
    for row in read_rows(path):
        (number,) = values(row, path, "question_id")
        text = row.get("text", row.get("prediction"))
        if not isinstance(text, str):
            raise AnswerFileError(f"{path}: the answer to question {number} is no text: {text!r}")
        given[str(number)] = text
    answered: list[Answered] = []
    fields = ("question_id", "data_type", "answer", "question_type_id", "data_id")
    for row in questions:
        number, kind, answer, type_id, image = values(row, file, *fields)
        if kind == "image":
            doc = {"image": str(image), "answer": answer, "question_type_id": type_id}
            answered.append(Answered(id=str(number), doc=doc, answer=given.get(str(number), "")))
    without = sum(sample.id not in given for sample in answered)
    warnings = [f"{without} questions have no answer and count as wrong"] if without else []
    return OfficialAnswers(answered=answered, warnings=warnings)
