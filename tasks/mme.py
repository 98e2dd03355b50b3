"""MME: two yes/no questions an image, scored by accuracy plus accuracy+ (both questions of an image right).

    perception(records)         # /2000: the sum over the ten perception categories of 100 * acc + 100 * acc+
    total(("OCR",))(records)    # one category, /200

A record is {image, category, correct}. Its `image` is the pair id: in the official script lines 2k and 2k + 1 of a category are a pair,
whatever the image names say, and who builds records gives both the same `image`. One picture may serve several categories; its pairs are
kept apart by category.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from tasks.metric import Array, Metric, Record
from tasks.yes_no import YesNoOther

PERCEPTION: Final = ("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR")
COGNITION: Final = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")

READ_CHARACTERS: Final = 4
"""Where an answer is more than the bare word, only this much of its beginning is read."""


def parse(answer: str) -> YesNoOther:
    """The official reading: the first four characters, lower-cased and NOT stripped, yes before no.

    So "  Yes" is other and "Know" is no. The official script reads lines of a file and keeps the line break at their end. That changes
    no reading, so answers may come here with or without it.
    """
    beginning = answer.lower()[:READ_CHARACTERS]
    if "yes" in beginning:
        return "yes"
    if "no" in beginning:
        return "no"
    return "other"


def total(categories: Sequence[str]) -> Metric:
    """The sum over `categories` of 100 * acc + 100 * acc+, in points (200 a category).

    A category without a question adds nothing; where no category has any, there is no score (nan).
    """
    names = tuple(categories)

    def counts(records: Sequence[Record]) -> list[int]:
        return [count for name in names for count in _pair_counts([r for r in records if r["category"] == name])]

    def value(sums: Array) -> Array:
        questions, right, pairs, both = np.moveaxis(sums.reshape(*sums.shape[:-1], len(names), 4), -1, 0)
        asked = questions > 0
        points = 100 * _ratio(right, questions) + 100 * _ratio(both, pairs)
        return np.where(asked.any(axis=-1), points.sum(axis=-1), np.nan)

    return Metric(counts=counts, value=value)


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
