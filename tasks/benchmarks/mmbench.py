"""MMBench: multiple choice, asked once for every rotation of the options; right only if every rotation is.

    read_option("The answer is B.", {"A": "a cat", "B": "a dog"})       # "B"
    read_option("a dog", {"A": "a cat", "B": "a dog"})                  # "B"

A record is {image, group, original, correct}: `group` is the question (the row's index without its millions),
`original` its unrotated row.

The authors' scorer (VLMEvalKit) asks a judge about answers that its matcher can't read, and draws an option at random
where that fails. Here these answers are unparsed and wrong, as in its exact-matching mode.
"""

import logging
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from support.errors import AnswerFileError
from tasks.answer import FailedAnswer
from tasks.answer_files import Answered, OfficialAnswers, answer_in, check_any, keep_once, read_fields, read_rows
from tasks.metric import Metric, Record, mean_of

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)

ROTATION: Final = 1_000_000
"""What the index of a rotated row is larger by, once for each rotation."""

LETTERS: Final = "ABCDEFGH"
PUNCTUATION: Final = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
WORDS_FROM_END: Final = 4
"""How near to its end an answer must name its letter: an "A" before that may be an article."""
ANSWER_IS: Final = re.compile(r"(?:correct\s+)?answer\s+is\s+\**([ABCD])\**", re.IGNORECASE)
NO_REPLY: Final = "Failed to obtain answer via API"
REFUSALS: Final = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
REFUSED: Final = "Z"
METRICS: Final = ("accuracy", "vanilla_accuracy", "answer_length")


def read_option(answer: str, options: Mapping[str, str]) -> str | None:
    """The letter an answer chooses, by letter or else by an option's text; "Z" for a refusal; None: can't be read."""
    return _read_letter(answer, options) or _match_text(answer, options)


def _read_letter(answer: str, options: Mapping[str, str]) -> str | None:
    if NO_REPLY in answer:
        return None
    if any(refusal in answer for refusal in REFUSALS):
        return REFUSED
    words = answer.translate(PUNCTUATION).split()
    named = [letter for letter in options if letter in words]
    if len(named) == 1 and words.index(named[0]) >= len(words) - WORDS_FROM_END:
        return named[0]
    if not named and REFUSED in words:
        return REFUSED
    said = ANSWER_IS.search(answer)
    return said[1].upper() if said and said[1].upper() in options else None


def _match_text(answer: str, options: Mapping[str, str]) -> str | None:
    lowered = answer.lower()
    if len(lowered) > 2 * sum(len(text) for text in options.values()):
        return None
    named = [letter for letter, text in options.items() if text.lower() in lowered]
    return named[0] if len(named) == 1 else None


def _count_groups(records: Sequence[Record]) -> tuple[int, int]:
    groups: dict[int, list[bool]] = defaultdict(list)
    for record in records:
        groups[record["group"]].append(bool(record["correct"]))
    return sum(map(all, groups.values())), len(groups)


accuracy = Metric(counts=_count_groups, value=lambda sums: 100 * sums[..., 0] / sums[..., 1])
"""% of questions answered right in every rotation of the options (circular evaluation)."""

vanilla_accuracy = mean_of("correct", scale=100, among=lambda record: bool(record["original"]))
"""% of questions answered right as they stand, unrotated."""

answer_length = mean_of("words")


def _is_empty(cell: Any) -> bool:
    return cell is None or str(cell).strip() in ("", "nan")


def options_of(row: Mapping[str, Any]) -> dict[str, str]:
    """The options a row has: in tables those it lacks are empty, or the text "nan"."""
    found = {letter: row.get(letter) for letter in LETTERS}
    return {letter: str(text) for letter, text in found.items() if not _is_empty(text)}


def docs(dataset: "Dataset") -> "Dataset":
    """Rows with an id; where the data has no rotated rows, these are made: the evaluation is always circular."""
    from datasets import Dataset

    rows = [dict(row) for row in dataset]
    if all(int(row["index"]) < ROTATION for row in rows):
        rows = [rotated for row in rows for rotated in rotations(row)]
    elif told := describe_rotations(rows):
        log.warning("mmbench: %s", told)
    return Dataset.from_list(
        [{**row, "id": str(row["index"]), "question_number": int(row["index"]) % ROTATION} for row in rows]
    )


def rotations(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A question once for each of its options, these moved on by one letter each time."""
    options = options_of(row)
    letters = list(options)
    found = []
    for shift in range(len(letters)):
        moved = {letter: options[letters[(position - shift) % len(letters)]] for position, letter in enumerate(letters)}
        answer = letters[(letters.index(row["answer"]) + shift) % len(letters)]
        found.append({**row, **moved, "index": int(row["index"]) + shift * ROTATION, "answer": answer})
    return found


def describe_rotations(rows: Sequence[Mapping[str, Any]]) -> str:
    """Which questions lack rotations, in words; "" if none does."""
    shifts: dict[int, set[int]] = defaultdict(set)
    for row in rows:
        shifts[row["index"] % ROTATION].add(row["index"] // ROTATION)
    counts = {row["index"] % ROTATION: len(options_of(row)) for row in rows}
    torn = [number for number, found in shifts.items() if found != set(range(counts[number]))]
    few = ", ".join(map(str, torn[:5])) + " ..." * (len(torn) > 5)
    lack = f"{len(torn)} of {len(counts)} questions lack rotations of their options ({few}): "
    return lack + "they are right if those that are there are" if torn else ""


def prompt(doc: Mapping[str, Any]) -> str:
    """Hint, question and lettered options."""
    lines = [] if _is_empty(doc.get("hint")) else [str(doc["hint"])]
    options = (f"{letter}. {text}" for letter, text in options_of(doc).items())
    return "<image>" + "\n".join([*lines, doc["question"], *options])


def next_token(doc: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
    """The letters of the options there are."""
    return tuple(options_of(doc)), str(doc["answer"])


def process_results(doc: Mapping[str, Any], results: list[str]) -> dict[str, dict[str, Any]]:
    """One record for every metric."""
    index = int(doc["index"])
    chosen = read_option(results[0], options_of(doc))
    record: dict[str, Any] = {
        "image": doc["image"],
        "group": index % ROTATION,
        "original": index < ROTATION,
        "correct": chosen == doc["answer"],
        "words": len(results[0].split()),
    }
    if chosen is None:
        record["unparsed"] = True
    return dict.fromkeys(METRICS, record)


ROW: Final = {
    **{"index": "number", "A": "text", **dict.fromkeys("BCDEFGH", "text or nothing")},
    **{"answer": "option of A B C D E F G H", "prediction": "any"},
}
"""What a row of predictions holds."""


def official_answers(path: Path, references: Path | None) -> OfficialAnswers:
    """A table (jsonl, tsv, csv) with index, question, options, answer and prediction."""
    if path.is_dir():
        raise AnswerFileError(f"{path}: must be a file of answers")
    rows = read_fields(read_rows(path), path, ROW)
    given = [answer_in(row["prediction"]) for row in rows]
    check_any(given, path)
    kept, warnings = keep_once([row["index"] for row in rows], given, path)
    rows, given = [rows[place] for place in kept], [given[place] for place in kept]
    answered: list[Answered] = []
    for row, answer in zip(rows, given, strict=True):
        doc = {**row, "image": str(row["index"] % ROTATION)}
        answered.append(Answered(id=str(row["index"]), doc=doc, answer=str(answer)))
    if without := sum(isinstance(answer, FailedAnswer) for answer in given):
        warnings.append(f"{without} of {len(rows)} rows have no prediction and count as wrong")
    if answered and all(int(sample.id) < ROTATION for sample in answered):
        warnings.append("no rotated rows: accuracy is that of the questions as they stand, not circular")
    elif told := describe_rotations(rows):
        warnings.append(told)
    return OfficialAnswers(answered=answered, warnings=warnings, partial=bool(describe_rotations(rows)))
