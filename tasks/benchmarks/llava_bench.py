"""LLaVA-Bench, in the wild and on COCO: a judge scores a model's answer beside that of GPT-4, which saw a description
of the image.

    parse_scores("8 10\nBecause ...")       # (8.0, 10.0)
    relative(records)                       # 100 * the model's mean over the reference's

A record is {image, category, reference, model}. Where the first line of a reply can't be read, both scores are -1 and
are averaged, as in the authors' script; the record says that it is `unrated`.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from support.errors import AnswerFileError
from tasks.answer_files import (
    Answered,
    OfficialAnswers,
    describe_count,
    describe_unread,
    keep_once,
    read_fields,
    read_rows,
)
from tasks.judges.protocol import JudgeReply, JudgeSession, Sampling, as_data, fill, scores_replies, template
from tasks.metric import Array, Metric

if TYPE_CHECKING:
    from datasets import Dataset

SYSTEM: Final = "You are a helpful and precise assistant for checking the quality of the answer."
SAMPLING: Final = Sampling(temperature=0.2, max_tokens=1024, system=SYSTEM)
UNREAD: Final = (-1.0, -1.0)
CATEGORIES: Final = ("conv", "detail", "complex")


class Scores(JudgeReply):
    """What the judge gave: `rating` is the model's score."""

    reference: float | None
    """GPT-4's score."""


def parse_scores(review: str) -> tuple[float, float] | None:
    """The official reading: the first line, commas as spaces, cut at single spaces, must be exactly two numbers."""
    parts = review.split("\n")[0].replace(",", " ").split(" ")
    try:
        first, second = (float(part) for part in parts)
    except ValueError:
        return None
    return (first, second) if _are_numbers(first, second) else None


def judge(answers: Sequence[str], docs: Sequence[Mapping[str, Any]], session: JudgeSession) -> list[Scores]:
    """The judge's two scores for each answer."""
    theirs = session.official_prompt("llava_bench")
    replies = session.ask_about(answers, docs, lambda doc, answer: (prompt_for(doc, answer, theirs), None), SAMPLING)
    return list(map(_read_scores, replies))


def _read_scores(reply: str | None) -> Scores:
    if reply is None:
        return Scores(rating=None, text="", reference=None)
    reference, model = parse_scores(reply) or (None, None)
    return Scores(rating=model, text=reply or " ", reference=reference)


def prompt_for(doc: Mapping[str, Any], answer: str, theirs: str | None = None) -> str:
    """What the judge is asked about an answer; in the authors' words where their rules are given."""
    context = doc["caption"] if isinstance(doc["caption"], str) else "\n".join(doc["caption"])
    if theirs is not None:
        table = json.loads(theirs)
        rule = table.get(f"llava_bench_{doc['category']}") or table[doc["category"]]
        role, system = rule["role"], rule["prompt"]
        return (
            f"[Context]\n{context}\n\n[Question]\n{doc['question']}\n\n"
            f"[{role} 1]\n{doc['gpt_answer']}\n\n[End of {role} 1]\n\n"
            f"[{role} 2]\n{answer}\n\n[End of {role} 2]\n\n[System]\n{system}\n\n"
        )
    both = {"answer_of_assistant_1": doc["gpt_answer"], "answer_of_assistant_2": answer}
    return fill(template("llava_bench"), data=as_data({"context": context, "question": doc["question"], **both}))


_three_digits = np.vectorize(lambda value: round(float(value), 3), otypes=[np.float64])


def _means(sums: Array) -> tuple[Array, Array]:
    """The reference's and the model's mean, as the script rounds them before it divides."""
    return _three_digits(sums[..., 0] / sums[..., 2]), _three_digits(sums[..., 1] / sums[..., 2])


def _compute_relative(sums: Array) -> Array:
    reference, model = _means(sums)
    return np.asarray(model / reference * 100)


def of_category(category: str | None) -> Metric:
    """The model's mean score in % of the reference's, over one category (None: all)."""
    return Metric(
        counts=lambda records: (
            sum(r["reference"] for r in records if category in (None, r["category"])),
            sum(r["model"] for r in records if category in (None, r["category"])),
            sum(category in (None, r["category"]) for r in records),
        ),
        value=lambda sums: np.asarray(100 * sums[..., 1] / sums[..., 0]),
        rounded=_compute_relative,
        digits=1,
    )


relative = of_category(None)
relative_conv, relative_detail, relative_complex = (of_category(category) for category in CATEGORIES)


def _mean_of(side: int) -> Metric:
    """One side's mean score, 1 to 10, times ten."""
    return Metric(
        counts=relative.counts,
        value=lambda sums: np.asarray(10 * sums[..., side] / sums[..., 2]),
        rounded=lambda sums: 10 * _means(sums)[side],
        digits=1,
        bounds=(10, 100),
    )


reference, model = _mean_of(0), _mean_of(1)
"""GPT-4's and the model's."""

METRICS: Final = ("relative", "relative_conv", "relative_detail", "relative_complex", "reference", "model")


def docs(dataset: "Dataset") -> "Dataset":
    """Rows with an id."""
    kept = dataset.remove_columns([name for name in ("id",) if name in dataset.column_names])
    return kept.add_column("id", [str(number) for number in dataset["question_id"]])


@scores_replies
def process_results(doc: Mapping[str, Any], results: list[Scores]) -> dict[str, dict[str, Any]]:
    """One record for every metric; nothing where the judge could not be asked."""
    scores = results[0]
    if scores["rating"] is None and not scores["text"]:
        return {}
    category = str(doc.get("category") or "").removeprefix("llava_bench_")
    record: dict[str, Any] = {"image": doc["image"], "category": category}
    if scores["rating"] is None:
        record |= {"reference": UNREAD[0], "model": UNREAD[1], "unrated": True}
    else:
        record |= {"reference": scores["reference"], "model": scores["rating"]}
    return dict.fromkeys(METRICS, record)


def official_answers(path: Path, references: Path | None) -> OfficialAnswers:
    """A file of reviews, a line each, as the authors' script writes them: tuple (or score), category, content."""
    if path.is_dir():
        raise AnswerFileError(f"{path}: must be one file of reviews")
    rows = read_fields(read_rows(path), path, {"question_id": "id if there"})
    scores = [_read_review(row, f"{path}: row {place}") for place, row in enumerate(rows, start=1)]
    numbers = [row.get("question_id", str(place)) for place, row in enumerate(rows)]
    kept, warnings = keep_once(numbers, scores, path)
    if len(kept) != 90:
        warnings += describe_count(len(kept), "reviews", 60, " (90 on COCO)")
    answered = [
        Answered(
            id=f"{numbers[place]}/{place}",
            doc={"image": numbers[place], "category": rows[place].get("category")},
            answer=scores[place],
        )
        for place in kept
    ]
    unread_ids = [sample.doc["image"] for sample in answered if sample.answer["rating"] is None]
    warnings += describe_unread(unread_ids, len(answered), "no two scores in the reviews", "both count as -1")
    return OfficialAnswers(answered=answered, warnings=warnings, partial=len(answered) not in (60, 90))


def _read_review(row: Mapping[str, Any], where: str) -> Scores:
    """The two scores of a row; they must be the same where it has them twice."""
    text = next((row[name] for name in ("content", "text") if isinstance(row.get(name), str)), "")
    given = [row[name] for name in ("tuple", "score") if row.get(name) is not None]
    if len(given) == 2 and given[0] != given[1]:
        raise AnswerFileError(f"{where} has tuple and score, and they differ: leave one")
    pair = given[0] if given else parse_scores(text) or UNREAD if "content" in row else None
    match pair:
        case [int() | float() as first, int() | float() as second] if _are_numbers(first, second):
            unread = (float(first), float(second)) == UNREAD and parse_scores(text) is None
            if given and (read := parse_scores(text)) not in (None, (float(first), float(second))):
                says = f"its review says {read[0]:g} {read[1]:g}, its scores are {first:g} {second:g}"
                raise AnswerFileError(f"{where}: {says}: leave one")
        case _:
            raise AnswerFileError(f"{where}: no two scores (tuple or score); it has {', '.join(row)}")
    reference, model = (None, None) if unread else (float(first), float(second))
    return Scores(rating=model, text=text or " ", reference=reference)


def _are_numbers(*values: float) -> bool:
    return all(math.isfinite(value) and not isinstance(value, bool) for value in values)
