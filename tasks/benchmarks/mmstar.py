"""MMStar: multiple choice that needs the picture, over six abilities, read by the authors' rule.

    parse("B. a dog")               # "B"
    parse("The answer is B.")       # "B"
    parse("(b)")                    # "B"
    parse("Because it is red")      # "B": only the first letter is looked at
    parse("It is B")                # None

A record is {image, category, l2_category, correct}. An answer that begins otherwise is wrong.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tasks.answer_files import OfficialAnswers, describe_count
from tasks.metric import Metric, mean_of
from tasks.prediction_tables import answers_in_table

if TYPE_CHECKING:
    from datasets import Dataset

LETTERS: Final = "ABCD"
BEGINNINGS: Final = ("(", "option ", "the answer is ")
"""What may stand before the letter."""
CATEGORIES: Final = {
    "coarse perception": "coarse_perception",
    "fine-grained perception": "fine_grained_perception",
    "instance reasoning": "instance_reasoning",
    "logical reasoning": "logical_reasoning",
    "science & technology": "science_and_technology",
    "math": "math",
}
"""The data's name of an ability -> its metric."""
ROWS: Final = 1500


def parse(answer: str) -> str | None:
    """The letter an answer begins with, by itself or after one of `BEGINNINGS`, whatever comes behind it."""
    said = _normalize(answer)
    beginning = next((one for one in BEGINNINGS if said.startswith(one)), "")
    letter = said[len(beginning) : len(beginning) + 1].upper()
    return letter if letter and letter in LETTERS else None


def _normalize(answer: str) -> str:
    return answer.lower().strip().replace("\n", " ")


def decided(doc: Mapping[str, Any]) -> Callable[[str], bool]:
    """Once there is a letter, or a beginning after which none can come."""

    def is_decided(answer: str) -> bool:
        said = _normalize(answer)
        may_go_on = any(one.startswith(said) for one in BEGINNINGS)
        return parse(answer) is not None or not may_go_on

    return is_decided


def next_token(doc: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
    """The letters."""
    return tuple(LETTERS), str(doc["answer"])


def of_category(name: str) -> Metric:
    """% of the questions about one ability that are answered right."""
    return mean_of("correct", scale=100, among=lambda record: bool(record["category"] == name))


accuracy = mean_of("correct", scale=100)
"""% of all questions that are answered right ("final score")."""
coarse_perception, fine_grained_perception, instance_reasoning, logical_reasoning, science_and_technology, math = map(
    of_category, CATEGORIES
)
answer_length = mean_of("words")

METRICS: Final = ("accuracy", *CATEGORIES.values(), "answer_length")


def read_category(cell: Any, row: Mapping[str, Any]) -> str:
    """One of the six abilities; ValueError."""
    name = str(cell).strip().lower()
    if name not in CATEGORIES:
        raise ValueError(f"must be one of {', '.join(CATEGORIES)}")
    return name


def docs(dataset: "Dataset") -> "Dataset":
    """Rows with their index as the id."""
    return dataset.add_column("id", [str(number) for number in dataset["index"]])


def prompt(doc: Mapping[str, Any]) -> str:
    """The question, which has its options in it; where a table has these in columns alone, a line each."""
    question = str(doc["question"])
    options = [f"{letter}. {doc[letter]}" for letter in LETTERS if doc.get(letter)]
    return "<image>" + "\n".join([question, *([] if "options:" in question.lower() else options)])


def process_results(doc: Mapping[str, Any], results: list[str]) -> dict[str, dict[str, Any]]:
    """One record for every metric."""
    letter = parse(results[0])
    record: dict[str, Any] = {
        "image": doc["image"],
        "category": doc["category"],
        "l2_category": doc.get("l2_category", ""),
        "correct": letter == doc["answer"],
        "words": len(results[0].split()),
    }
    if letter is None:
        record["unparsed"] = True
    return dict.fromkeys(METRICS, record)


ROW: Final = {
    **{"index": "number", "answer": "one of A B C D", "l2_category": "text or nothing"},
    "category": "tasks.benchmarks.mmstar.read_category",
}
"""What a row of predictions holds."""


def official_answers(path: Path, references: Path | None) -> OfficialAnswers:
    """A table (tsv, csv, jsonl) with index, answer, category, l2_category and prediction."""
    found = answers_in_table(path, ROW, key="index")
    told = describe_count(len(found.answered), "answers", ROWS)
    return OfficialAnswers(
        answered=found.answered, warnings=[*found.warnings, *told], partial=len(found.answered) < ROWS
    )
