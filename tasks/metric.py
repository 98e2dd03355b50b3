"""A score as a function of sums over images, so that value, interval and paired test are one computation.

    accuracy = mean_of("correct", scale=100)
    accuracy(records)          # what lm-eval calls as the task's aggregation

Resampling images then costs one matrix product: an image is counted once, and a resample is a weighted sum of counts.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Record = Mapping[str, Any]
"""What a task's `process_results` gives for one answer: JSON values, and `image`, the id of the image asked about.

Three more keys have a meaning everywhere: `cluster`, where what was drawn by chance is not the image but something that
holds several of them (a set of figures); `unparsed: true`, where no rule could read the answer and the benchmark's
default was counted; and `unrated: true`, where the judge's reply held no rating and the official rule counted it as
such. A metric that counts unrated records alone has no value.
"""

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A benchmark's score; callable on records, so that a YAML can name it as `aggregation`."""

    counts: Callable[[Sequence[Record]], Sequence[float]]
    """All records of ONE image (or `cluster`) -> additive counts, always the same number of them."""

    value: Callable[[Array], Array]
    """Sums of counts over images [..., k] -> score [...], in the metric's unit. Without any rounding: intervals and
    tests are taken of its slopes."""

    rounded: Callable[[Array], Array] | None = None
    """The same as the official script computes it, where that rounds on the way."""

    digits: int | None = None
    """Decimals the official script rounds its result to; intervals and tests are taken before that."""

    bounds: tuple[float, float] | None = None
    """The least and the largest score, for intervals; None: as far as the counts tell (a share is 0 to its scale)."""

    def __call__(self, records: Iterable[Record]) -> float:
        """The score of `records`; nan where the metric has no denominator."""
        with np.errstate(divide="ignore", invalid="ignore"):
            value = float((self.rounded or self.value)(self.by_image(records)[1].sum(axis=0)))
        return value if self.digits is None else round(value, self.digits)

    def by_image(self, records: Iterable[Record]) -> tuple[list[str], Array]:
        """Ids of images (or clusters) in order of first appearance, and their counts [images, k]."""
        groups: dict[str, list[Record]] = {}
        for record in records:
            groups.setdefault(str(record.get("cluster", record["image"])), []).append(record)
        return list(groups), np.array([list(self.counts(group)) for group in groups.values()], dtype=np.float64)


Number = str | Callable[[Record], float]
"""A number of each record: a field, or a function."""


def mean_of(
    number: Number,
    scale: float = 1.0,
    *,
    among: Callable[[Record], bool] | None = None,
    digits: int | None = None,
    bounds: tuple[float, float] | None = None,
) -> Metric:
    """The mean of a number of all records, or of those `among` is true of, times `scale` (100 for a rate in %)."""
    read, included = _reader(number), among or (lambda record: True)
    return Metric(
        counts=lambda records: (sum(read(r) for r in records if included(r)), sum(bool(included(r)) for r in records)),
        value=lambda sums: scale * sums[..., 0] / sums[..., 1],
        digits=digits,
        bounds=bounds,
    )


def ratio_of(numerator: Number, denominator: Number, scale: float = 1.0) -> Metric:
    """The sum of one number over the sum of another, times `scale`."""
    above, below = _reader(numerator), _reader(denominator)
    return Metric(
        counts=lambda records: (sum(map(above, records)), sum(map(below, records))),
        value=lambda sums: scale * sums[..., 0] / sums[..., 1],
    )


def _reader(number: Number) -> Callable[[Record], float]:
    return number if callable(number) else lambda record: float(record[number])
