"""POPE: is there an OBJECT in the image? Yes/no probes with absent objects drawn at random, by popularity and by co-occurrence.

    parse("No, there is no dog.")       # "no"
    f1(records)                         # from tasks.yes_no, one split at a time; mean_f1 is the mean of the three

A record is {image, correct, predicted, truth} as in `tasks.yes_no`, and `category` (the split) for `mean_f1`.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from tasks.metric import Array, Metric, Record
from tasks.yes_no import COUNTS, YesNo, accuracy, f1, f1_of, precision, recall, yes_rate
from tasks.yes_no import counts as yes_no_counts

__all__ = ["SPLITS", "accuracy", "f1", "mean_f1", "parse", "precision", "recall", "yes_rate"]

SPLITS: Final = ("random", "popular", "adversarial")

NO_WORDS: Final = frozenset({"No", "not", "no"})
"""Case counts: "NO" and "Not" are no negation to the official script."""


def parse(answer: str) -> YesNo:
    """The official reading: no where the text before the first full stop holds a negation as a whole word, else yes, whatever else it says.

    Words are what stands between single spaces once commas are gone, so "no!", '"No"' and "No" followed by a line break read as yes.
    """
    words = answer.partition(".")[0].replace(",", "").split(" ")
    return "yes" if NO_WORDS.isdisjoint(words) else "no"


def _split_counts(records: Sequence[Record]) -> list[int]:
    return [count for split in SPLITS for count in yes_no_counts([r for r in records if r["category"] == split])]


def _mean_f1(sums: Array) -> Array:
    by_split = sums.reshape(*sums.shape[:-1], len(SPLITS), COUNTS)
    return np.asarray(f1_of(by_split).mean(axis=-1))


mean_f1 = Metric(counts=_split_counts, value=_mean_f1)
"""Mean of the three splits' F1, in %; nan where one is missing."""
