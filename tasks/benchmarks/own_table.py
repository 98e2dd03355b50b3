"""Tasks of a table of pictures, questions and answers, whose YAML `harness tasks new` writes: no code of their own.

    read_letter("a dog", {"A": "a cat", "B": "a dog"})      # "B", a cell of the column `answer`
    mean_of_category("colour")                              # which `category_colour` names

A record is {image, category, score, words}: `score` is from 0 to 1, by a rule of `rules`, or a judge's grade / 10. A
reply in which no grade can be read leaves its answer unscored.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from tasks.benchmarks import rules, yes_no
from tasks.benchmarks.mmbench import read_option
from tasks.columns import LETTERS, is_nothing, read_texts
from tasks.judges.protocol import JudgeReply, JudgeSession, Question, Sampling, as_data, fill, scores_replies, template
from tasks.metric import Metric, mean_of

if TYPE_CHECKING:
    from datasets import Dataset

Doc = Mapping[str, Any]
Records = dict[str, dict[str, Any]]

FEWEST_PEOPLE: Final = 4
"""Answers that VQA accuracy needs for one question: with fewer, no answer reaches 100 %."""
BEST_GRADE: Final = 10
OPTIONS: Final = LETTERS[:8]
"""Columns that may hold an option each."""

# Metrics.

score = mean_of("score", scale=100)
grade = mean_of("score", scale=BEST_GRADE)
answer_length = mean_of("words")
accuracy, precision, recall, f1, yes_rate = (
    *(yes_no.accuracy, yes_no.precision, yes_no.recall),
    *(yes_no.f1, yes_no.yes_rate),
)
_CATEGORY: Final = "category_"


def __getattr__(name: str) -> Metric:
    """The metric of one category, by its name in `name_category`."""
    if name.startswith(_CATEGORY):
        return mean_of_category(name.removeprefix(_CATEGORY))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def mean_of_category(name: str) -> Metric:
    """The mean score, in %, of the answers of a category."""
    return mean_of("score", scale=100, among=lambda record: name_category(record["category"]) == name)


def name_category(text: str) -> str:
    """What a category is called in names of metrics."""
    return re.sub(r"\W+", "_", text.strip().lower()).strip("_") or "none"


# What cells hold.


def options_of(row: Doc) -> dict[str, str]:
    """Letter -> text of the options of a row: a list, or a column each; ValueError where a letter is left out."""
    if not is_nothing(row.get("choices")):
        texts = read_texts(row["choices"])
    else:
        there = [letter for letter in OPTIONS if not is_nothing(row.get(letter))]
        if there != list(OPTIONS[: len(there)]):
            raise ValueError(f"has option {there[-1]} and none before it")
        texts = [str(row[letter]) for letter in there]
    if not 2 <= len(texts) <= len(LETTERS):
        raise ValueError(f"must be one of 2 to {len(LETTERS)} options; the row has {len(texts)}")
    return dict(zip(LETTERS, texts, strict=False))


def read_letter(cell: Any, row: Doc) -> str:
    """The letter of the right option, from its letter, its text, or its place from 0 in a list; ValueError."""
    options, text = options_of(row), "" if cell is None else str(cell).strip()
    if (letter := text.strip("().").upper()) in options:
        return letter
    named = [letter for letter, option in options.items() if rules.exact(option, text)]
    if len(named) == 1:
        return named[0]
    if not is_nothing(row.get("choices")) and text.isdecimal() and int(text) < len(options):
        return LETTERS[int(text)]
    raise ValueError(f"must be the letter or the text of one option: {', '.join(options)}")


def read_pattern(cell: Any, row: Doc) -> str:
    """A regular expression; ValueError."""
    if not isinstance(cell, str) or not cell:
        raise ValueError("must be a regular expression")
    try:
        re.compile(cell)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"must be a regular expression: {error}") from None
    return cell


def read_people(cell: Any, row: Doc) -> list[str]:
    """What people answered, one text each; ValueError."""
    found = read_texts(cell)
    if len(found) < FEWEST_PEOPLE:
        raise ValueError(f"must be a list of at least {FEWEST_PEOPLE} people's answers, as VQA accuracy compares them")
    return found


def docs(dataset: "Dataset") -> "Dataset":
    """Rows with an id: their own, else their number."""
    if "id" in dataset.column_names:
        return dataset
    return dataset.add_column("id", [str(number) for number in range(1, len(dataset) + 1)])


def docs_with_options(dataset: "Dataset") -> "Dataset":
    """The same, with the texts of a row's options as the list `choices`."""
    texts = [list(options_of(row).values()) for row in dataset.select_columns(_option_columns(dataset))]
    kept = dataset.remove_columns(["choices"]) if "choices" in dataset.column_names else dataset
    return docs(kept.add_column("choices", texts))


def _option_columns(dataset: "Dataset") -> list[str]:
    return [name for name in ("choices", *OPTIONS) if name in dataset.column_names]


# From an answer to a record, for every metric.


def _records_of(doc: Doc, answer: str, points: float, metrics: Sequence[str], **more: Any) -> Records:
    """The record for each of some metrics, and for that of its category."""
    category = str(doc.get("category") or "")
    words = len(answer.split())
    record = {"image": doc["image"], "category": category, "score": float(points), "words": words, **more}
    of_category = [_CATEGORY + name_category(category)] if category else []
    return dict.fromkeys([*metrics, "answer_length", *of_category], record)


def process_yes_no(doc: Doc, results: list[str]) -> Records:
    """Yes or no, by the answer's first word, or the only one of the two in it."""
    predicted, truth = rules.read_yes_no(results[0]), str(doc["answer"])
    more: dict[str, Any] = {"predicted": predicted, "truth": truth, "correct": predicted == truth}
    more |= {"unparsed": True} if predicted == "other" else {}
    metrics = ("accuracy", "f1", "precision", "recall", "yes_rate")
    return _records_of(doc, results[0], predicted == truth, metrics, **more)


def process_letter(doc: Doc, results: list[str]) -> Records:
    """The option that an answer names by its letter, or else by its text."""
    options = dict(zip(LETTERS, doc["choices"], strict=False))
    chosen = read_option(results[0], options)
    more = {"unparsed": True} if chosen is None else {}
    return _records_of(doc, results[0], chosen == doc["answer"], ("accuracy",), **more)


def _process_any(rule: Callable[[str, str], bool], doc: Doc, answer: str) -> Records:
    return _records_of(doc, answer, any(rule(answer, truth) for truth in doc["answer"]), ("accuracy",))


def process_exact(doc: Doc, results: list[str]) -> Records:
    """One of the true answers, and nothing else."""
    return _process_any(rules.exact, doc, results[0])


def process_contains(doc: Doc, results: list[str]) -> Records:
    """One of the true answers, among other words."""
    return _process_any(rules.contains, doc, results[0])


def process_regex(doc: Doc, results: list[str]) -> Records:
    """A fit of the regular expression in the column `answer`."""
    return _records_of(doc, results[0], rules.matches(results[0], str(doc["answer"])), ("accuracy",))


def process_vqa(doc: Doc, results: list[str]) -> Records:
    """VQA accuracy against people's answers."""
    return _records_of(doc, results[0], rules.vqa_accuracy(results[0], doc["answer"]), ("accuracy",))


def process_mentions(doc: Doc, results: list[str]) -> Records:
    """The share of the texts in the column `answer` that a caption has."""
    wanted = doc["answer"]
    points = sum(rules.contains(results[0], text) for text in wanted) / len(wanted)
    return _records_of(doc, results[0], points, ("mentioned",))


@scores_replies
def process_grade(doc: Doc, results: list[JudgeReply]) -> Records:
    """The judge's grade; nothing where there is none."""
    reply = results[0]
    if reply["rating"] is None:
        return {}
    found = _records_of(doc, "", reply["rating"] / BEST_GRADE, ("grade",))
    return {name: record for name, record in found.items() if name != "answer_length"}


# The judge.

PROMPT: Final = "own_table"
MAX_TOKENS: Final = 512
_GRADE: Final = re.compile(r"grade\W*(\d+)(?!\d|\.\d)", re.IGNORECASE)


def judge(answers: Sequence[str], docs: Sequence[Doc], session: JudgeSession) -> list[JudgeReply]:
    """The judge's grade of each answer, by the rubric of the task."""
    replies = session.ask_about(answers, docs, _ask, Sampling(max_tokens=MAX_TOKENS))
    return [JudgeReply(rating=read_grade(reply or ""), text="" if reply is None else reply or " ") for reply in replies]


def _ask(doc: Doc, answer: str) -> Question:
    known = {"question": doc["question"], "reference": doc["answer"], "answer": answer}
    shown = {name: text for name, text in known.items() if text or name == "answer"}
    return fill(template(PROMPT), rubric=str(doc["rubric"]), data=as_data(shown)), None


def read_grade(reply: str) -> float | None:
    """The last grade from 0 to 10 in a reply; None without one."""
    found = [int(number) for number in _GRADE.findall(reply)]
    return float(found[-1]) if found and found[-1] <= BEST_GRADE else None
