"""MME: two yes/no questions an image, scored by accuracy plus accuracy+ (both questions of an image right).

    perception(records)         # /2000: the sum over the ten perception categories of 100 * acc + 100 * acc+
    total(("OCR",))(records)    # one category, /200

A record is {image, cluster, category, correct}. Its `cluster` is the pair: two questions of a category about one image.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from support.errors import AnswerFileError
from tasks.answer_files import Answered, OfficialAnswers, check_any, covering, keep_once, read_text
from tasks.benchmarks import yes_no
from tasks.benchmarks.yes_no import YesNoOther
from tasks.columns import read_yes_no
from tasks.metric import Array, Metric, Record, mean_of

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)

PERCEPTION: Final = tuple("existence count position color posters celebrity scene landmark artwork OCR".split())
COGNITION: Final = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")

SIZES: Final = dict(
    zip((*PERCEPTION, *COGNITION), (60, 60, 60, 60, 294, 340, 400, 400, 400, 40, 140, 40, 40, 40), strict=True)
)
"""How many questions a category has."""

READ_CHARACTERS: Final = 4
"""Where an answer is more than the bare word, only this much of its beginning is read."""


def parse(answer: str) -> YesNoOther:
    """The official reading: the first four characters, lower-cased and NOT stripped, yes before no.

    So "  Yes" is other and "Know" is no. The official script reads lines of a file and keeps the line break at their
    end. That changes no reading, so answers may come here with or without it.
    """
    beginning = answer.lower()[:READ_CHARACTERS]
    if "yes" in beginning:
        return "yes"
    if "no" in beginning:
        return "no"
    return "other"


def decided(doc: Mapping[str, Any]) -> Callable[[str], bool]:
    """After as many characters as are read."""
    return lambda answer: len(answer) >= READ_CHARACTERS


def total(categories: Sequence[str]) -> Metric:
    """The sum over `categories` of 100 * acc + 100 * acc+, in points (200 a category).

    A category without a question adds nothing; where no category has any, there is no score (nan).
    """
    names = tuple(categories)

    def counts(records: Sequence[Record]) -> list[int]:
        groups: dict[str, list[Record]] = {}
        for record in records:
            groups.setdefault(record["category"], []).append(record)
        return [count for name in names for count in _pair_counts(groups.get(name, ()))]

    def value(sums: Array) -> Array:
        questions, right, pairs, both = np.moveaxis(sums.reshape(*sums.shape[:-1], len(names), 4), -1, 0)
        asked = questions > 0
        points = 100 * _ratio(right, questions) + 100 * _ratio(both, pairs)
        return np.where(asked.any(axis=-1), points.sum(axis=-1), np.nan)

    return Metric(counts=counts, value=value, bounds=(0, 200 * len(names)))


def accuracy_plus(categories: Sequence[str] | None = None) -> Metric:
    """% of images both of whose questions are right, over `categories` pooled (None: all there are)."""
    wanted = None if categories is None else frozenset(categories)

    def counts(records: Sequence[Record]) -> tuple[int, int]:
        groups: dict[str, list[Record]] = {}
        for record in records:
            if wanted is None or record["category"] in wanted:
                groups.setdefault(str(record["category"]), []).append(record)
        return len(groups), sum(all(bool(r["correct"]) for r in group) for group in groups.values())

    return Metric(counts=counts, value=lambda sums: 100 * sums[..., 1] / sums[..., 0])


def _pair_counts(records: Sequence[Record]) -> tuple[int, int, int, int]:
    """Questions, right ones, pairs (0 or 1), pairs all right; of one image in one category."""
    correct = [bool(r["correct"]) for r in records]
    return len(correct), sum(correct), int(bool(correct)), int(bool(correct) and all(correct))


def _ratio(part: Array, whole: Array) -> Array:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


perception = total(PERCEPTION)
cognition = total(COGNITION)

existence, count, position, color, posters = (total((name,)) for name in PERCEPTION[:5])
celebrity, scene, landmark, artwork, OCR = (total((name,)) for name in PERCEPTION[5:])
commonsense_reasoning, numerical_calculation, text_translation, code_reasoning = (total((name,)) for name in COGNITION)
accuracy = yes_no.accuracy
yes_rate = yes_no.yes_rate
answer_length = mean_of("words")

METRICS: Final = ("perception", "cognition", *PERCEPTION, *COGNITION, "accuracy", "yes_rate", "answer_length")


def docs(dataset: "Dataset") -> "Dataset":
    """Rows with an id, and with the number of their pair in their category."""
    places: dict[str, list[int]] = {}
    for place, category in enumerate(dataset["category"]):
        places.setdefault(category, []).append(place)
    pairs, ids = [0] * len(dataset), [""] * len(dataset)
    for category, own in places.items():
        found = number_pairs(dataset.select_columns("question_id")[own]["question_id"])
        for number, (place, pair) in enumerate(zip(own, found, strict=True)):
            pairs[place], ids[place] = pair, f"{category}/{number}"
        for told in describe_pairs(found):
            log.warning("mme: %s: %s", category, told)
    return dataset.add_column("pair", pairs).add_column("id", ids)


def number_pairs(images: Sequence[str]) -> list[int]:
    """The number of the pair that each question of a category is in: two about one image, in any order; two that
    follow one another where no image comes twice, since tables may number their rows instead."""
    if len(set(images)) == len(images):
        return [place // 2 for place in range(len(images))]
    asked: Counter[str] = Counter()
    numbers: dict[tuple[str, int], int] = {}
    found = []
    for image in images:
        found.append(numbers.setdefault((image, asked[image] // 2), len(numbers)))
        asked[image] += 1
    return found


def describe_pairs(pairs: Sequence[int]) -> list[str]:
    """What to say of pairs that lack a question: a line, or nothing."""
    alone = sum(count == 1 for count in Counter(pairs).values())
    return [f"{alone} of {len(pairs)} questions have no second one about their image"] if alone else []


def process_results(doc: Mapping[str, Any], results: list[str]) -> dict[str, dict[str, Any]]:
    """One record for every metric."""
    predicted = parse(results[0])
    record = yes_no.record(doc["image"], doc["category"], predicted, doc["answer"].lower())
    record |= {"cluster": f"{doc['category']}/{doc['pair']}", "words": len(results[0].split())}
    if predicted == "other":
        record["unparsed"] = True
    return dict.fromkeys(METRICS, record)


def official_answers(path: Path, references: Path | None) -> OfficialAnswers:
    """A file NAME.txt of a category, or a folder with those of several: lines of image, question, truth and response,
    separated by tabs."""
    files = [path] if path.is_file() else [path / f"{name}.txt" for name in SIZES]
    found = {name: file for file in files for name in SIZES if file.name == f"{name}.txt" and file.is_file()}
    if not found:
        names = ", ".join(f"{name}.txt" for name in SIZES)
        raise AnswerFileError(f"{path}: {'has' if path.is_dir() else 'is'} none of {names}")
    warnings: list[str] = []
    answered: list[Answered] = []
    for name, file in found.items():
        read = [_read_answer(file, name, number, line) for number, line in enumerate(_read_lines(file))]
        kept, told = keep_once(
            [(one.doc["image"], one.doc["question"]) for one in read], [o.answer for o in read], file
        )
        pairs = number_pairs([read[at].doc["image"] for at in kept])
        own = [replace(read[at], doc={**read[at].doc, "pair": pair}) for at, pair in zip(kept, pairs, strict=True)]
        answered += own
        warnings += [f"{file.name}: {line}" for line in (*told, *describe_pairs(pairs))]
        if len(own) != SIZES[name]:
            warnings.append(f"{file.name}: {len(own)} lines, the benchmark has {SIZES[name]}")
    check_any([one.answer for one in answered], path)
    return covering(answered, warnings, _describe_coverage)


def _describe_coverage(answered: Sequence[Answered]) -> tuple[list[str], bool]:
    """What to say of categories without an answer, and whether any question has none."""
    there = {one.doc["category"] for one in answered}
    missing = [name for name in SIZES if name not in there]
    told = [f"no file for {', '.join(missing)}: the totals lack them"] if missing else []
    return told, len(answered) < sum(SIZES.values())


def _read_lines(file: Path) -> list[str]:
    """As Python's file iteration splits them: at line ends of any system, and nowhere else."""
    lines = read_text(file).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]


def _read_answer(file: Path, category: str, number: int, line: str) -> Answered:
    parts = line.split("\t")
    if len(parts) != 4:
        must_be = "must be 4: image, question, truth, response (tabs between)"
        raise AnswerFileError(f"{file}: line {number + 1}: {len(parts)} fields, {must_be}")
    image, question, truth, response = parts
    try:
        truth = read_yes_no(truth).capitalize()
    except ValueError:
        raise AnswerFileError(f"{file}: line {number + 1}: truth {truth!r} is neither Yes nor No") from None
    doc = {"image": image, "question": question, "answer": truth, "category": category}
    return Answered(id=f"{category}/{number}", doc=doc, answer=response)
