"""MMMU, its validation questions: college subjects, options or open, one to seven pictures, read by the authors' rule.

    read_choice("The answer is (B).", {"A": "a dog", "B": "a cat"})      # "B"
    read_choice("I see a very nice dog, a cat, so a cat", ...)           # "B": the option that is named last
    read_choice("?", ...)                                                # None
    read_open("So the result is 3,000.50 dollars")                       # {"3,000.50 dollars", 3000.5, ...}

Where nothing can be read the authors draw an option by chance. So it is here, by the question's id: the same each time,
and counted as unparsed. A record is {image, subject, domain, correct}.
"""

import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from support.errors import AnswerFileError
from support.images import PromptImage, picture
from tasks.answer_files import (
    Answered,
    OfficialAnswers,
    answer_in,
    check_any,
    describe_count,
    describe_missing,
    keep_once,
    read_fields,
    read_rows,
)
from tasks.columns import LETTERS, is_nothing, list_in, read_texts
from tasks.metric import Metric, mean_of

if TYPE_CHECKING:
    from datasets import Dataset

ROWS: Final = 900
CHOICE: Final = "multiple-choice"
SUBJECTS: Final = {
    "art_and_design": "Art Art_Theory Design Music",
    "business": "Accounting Economics Finance Manage Marketing",
    "science": "Biology Chemistry Geography Math Physics",
    "health_and_medicine": "Basic_Medical_Science Clinical_Medicine Diagnostics_and_Laboratory_Medicine Pharmacy "
    "Public_Health",
    "humanities_and_social_science": "History Literature Sociology Psychology",
    "tech_and_engineering": "Agriculture Architecture_and_Engineering Computer_Science Electronics Energy_and_Power "
    "Materials Mechanical_Engineering",
}
DOMAINS: Final = {subject: domain for domain, subjects in SUBJECTS.items() for subject in subjects.split()}
"""Subject -> the domain that it is of."""
METRICS: Final = ("accuracy", *SUBJECTS, "answer_length")
SIGNS: Final = ",.!?;:'"
TRIVIAL: Final = (":", ",", ".", "!", "?", ";", "'")
INDICATORS: Final = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
NUMBERS: Final = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)
"""With commas, in powers of ten, and all others."""
SENTENCES: Final = re.compile(r"\.\s(?=[A-Z])|\n")
MARK: Final = re.compile(r"<image (\d)>")


def read_choice(answer: str, options: Mapping[str, str]) -> str | None:
    """The letter in brackets, else alone between spaces, else (in more than five words) the option whose text is there;
    of several the last. None where there is none."""
    for sign in SIGNS:
        answer = answer.strip(sign)
    said = f" {answer} "
    for form in ("({})", " {} "):
        if found := {letter: said.rfind(form.format(letter)) for letter in options if form.format(letter) in said}:
            return max(found, key=lambda letter: found[letter])
    if len(said.split()) <= 5:
        return None
    lowered = said.lower()
    named = {letter: lowered.rfind(text.lower()) for letter, text in options.items() if text.lower() in lowered}
    return max(named, key=lambda letter: named[letter]) if named else None


def draw_choice(options: Mapping[str, str], question: str) -> str:
    """An option drawn by chance, for a question of this id always the same."""
    return random.Random(f"mmmu {question}").choice(list(options))


def read_open(answer: str) -> set[str | float]:
    """All that an answer may mean: what stands behind the last words such as "is" in each sentence, and its numbers."""
    parts = _key_parts(answer)
    numbers = [number for part in parts for form in NUMBERS for number in form.findall(part)]
    return {meant for text in (*parts, *numbers) for meant in normal_forms(text)}


def _key_parts(answer: str) -> list[str]:
    said = answer.strip().strip(".").lower()
    sentences = SENTENCES.split(said)
    found = []
    for place, sentence in enumerate(sentences):
        last = place == len(sentences) - 1
        indicators = [one for one in (*INDICATORS, *(["="] if last else [])) if one in sentence]
        shortest = ""
        for one in indicators:
            tail = sentence.split(one)[-1].strip()
            shortest = tail if not shortest or len(tail) < len(shortest) else shortest
        if shortest and shortest not in TRIVIAL:
            found.append(shortest)
    return found or [said]


def normal_forms(text: str) -> list[str | float]:
    """A number to two places; a single character with a space before or behind it; other text in lower case."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        lowered = text.lower()
    return [f" {lowered}", f"{lowered} "] if len(lowered) == 1 else [lowered]


def is_right(meant: set[str | float], truths: list[str]) -> bool:
    """Whether a number is a true one, or a text has a true text in it."""
    true = [form for truth in truths for form in normal_forms(truth)]
    return any(
        any(isinstance(one, str) and one in said for one in true) if isinstance(said, str) else said in true
        for said in meant
    )


def of_domain(name: str) -> Metric:
    """% of the questions of one domain that are answered right."""
    return mean_of("correct", scale=100, among=lambda record: bool(record["domain"] == name))


accuracy = mean_of("correct", scale=100)
"""% of all questions that are answered right."""
art_and_design, business, science, health_and_medicine, humanities_and_social_science, tech_and_engineering = map(
    of_domain, SUBJECTS
)
answer_length = mean_of("words")


def read_id(cell: Any, row: Mapping[str, Any]) -> str:
    """An id such as validation_Art_Theory_7; ValueError."""
    if not isinstance(cell, str) or subject_of(cell) not in DOMAINS:
        raise ValueError("must be an id such as validation_Art_Theory_7")
    return cell


def subject_of(question: str) -> str:
    """The subject in an id."""
    return "_".join(question.split("_")[1:-1])


def read_truths(cell: Any, row: Mapping[str, Any]) -> list[str]:
    """The true answer, or all of them; ValueError."""
    found = list_in(cell) if isinstance(cell, str) else cell
    truths = [str(one) for one in found] if isinstance(found, list | tuple) else [str(cell)]
    if cell is None or not truths:
        raise ValueError("must be a letter, a text, or a list of texts")
    return truths


def read_options(cell: Any, row: Mapping[str, Any]) -> list[str]:
    """The options' texts, of a list or its text; none for an open question; ValueError."""
    return [] if is_nothing(cell) else read_texts(cell)


def docs(dataset: "Dataset") -> "Dataset":
    """Rows with their subject; open questions without options, whatever the table has there."""
    choices = zip(dataset["options"], dataset["question_type"], strict=True)
    options = [list(texts) if kind == CHOICE else [] for texts, kind in choices]
    dataset = dataset.remove_columns("options").add_column("options", options)
    return dataset.add_column("subject", [subject_of(number) for number in dataset["id"]])


def options_of(doc: Mapping[str, Any]) -> dict[str, str]:
    """Letter -> option; none for an open question."""
    return dict(zip(LETTERS, doc["options"], strict=False))


def _asked(doc: Mapping[str, Any]) -> str:
    options = "".join(f"({letter}) {text}\n" for letter, text in options_of(doc).items())
    if options:
        return f"{doc['question']}\n\n{options}\n\nAnswer with the option's letter from the given choices directly."
    return f"{doc['question']}\n\nAnswer the question using a single word or phrase."


def _shown(doc: Mapping[str, Any]) -> list[str]:
    """The keys of the pictures that the text names, in its order; the first where it names none."""
    named = [_key(doc, number) for number in MARK.findall(_asked(doc))]
    return [key for key in named if key] or [key for key in [_key(doc, "1")] if key]


def _key(doc: Mapping[str, Any], number: str) -> str:
    return str(doc.get("image" if number == "1" else f"image_{number}") or "")


def images(doc: Mapping[str, Any]) -> list[PromptImage]:
    """The pictures, in the order of their places in the text."""
    return [picture(key) for key in _shown(doc)]


def prompt(doc: Mapping[str, Any]) -> str:
    """Question and options as the authors put them to LLaVA-1.5, each picture where it is named."""
    text = _asked(doc)
    named = any(_key(doc, number) for number in MARK.findall(text))
    placed = MARK.sub(lambda mark: "<image>" if _key(doc, mark[1]) else "", text)
    return placed if named or not _shown(doc) else f"<image>{placed}"


def target(doc: Mapping[str, Any]) -> str:
    """The first true answer."""
    return str(doc["answer"][0])


def process_results(doc: Mapping[str, Any], results: list[str]) -> dict[str, dict[str, Any]]:
    """One record for every metric."""
    options = options_of(doc)
    read = read_choice(results[0], options) if options else None
    if options:
        correct = (read or draw_choice(options, doc["id"])) in doc["answer"]
    else:
        correct = is_right(read_open(results[0]), list(doc["answer"]))
    subject = subject_of(doc["id"])
    record: dict[str, Any] = {"image": doc["image"], "subject": subject, "domain": DOMAINS[subject], "correct": correct}
    record["words"] = len(results[0].split())
    if options and read is None:
        record["unparsed"] = True
    return dict.fromkeys(METRICS, record)


ROW: Final = {
    **{"id": "tasks.benchmarks.mmmu.read_id", "question_type": "text", "response": "any"},
    "answer": "tasks.benchmarks.mmmu.read_truths",
}
"""What a row of an output.json holds."""


def official_answers(path: Path, references: Path | None) -> OfficialAnswers:
    """The authors' output.json, or a folder with one for each subject (SUBJECT/output.json)."""
    files = sorted(path.rglob("output.json")) if path.is_dir() else [path]
    if not files:
        raise AnswerFileError(f"{path}: has no output.json")
    rows = [row for file in files for row in read_fields(read_rows(file), file, ROW)]
    given = [answer_in(row["response"]) for row in rows]
    check_any(given, path)
    kept, warnings = keep_once([row["id"] for row in rows], given, path)
    warnings += describe_missing([given[place] for place in kept])
    answered = []
    for place in kept:
        row = rows[place]
        options = row.get("index2ans") if row["question_type"] == CHOICE else {}
        if not isinstance(options, dict):
            raise AnswerFileError(f"{path}: row {place + 1}: index2ans must be an object of letters and options")
        doc = {**row, "options": [str(text) for text in options.values()], "image": row["id"]}
        answered.append(Answered(id=row["id"], doc=doc, answer=given[place]))
    told = describe_count(len(answered), "answers", ROWS)
    return OfficialAnswers(answered=answered, warnings=[*warnings, *told], partial=len(answered) < ROWS)
