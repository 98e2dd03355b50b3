"""A score as a function of sums over images, so that value, interval and paired test are one computation.

    accuracy = Metric(counts=lambda rs: (sum(r["correct"] for r in rs), len(rs)), value=lambda s: 100 * s[..., 0] /
    s[..., 1])
    accuracy(records)          # what lm-eval calls as the task's aggregation

Resampling images then costs one matrix product: the counts of each image are taken once, a resample is a weighted sum
of them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Record = Mapping[str, Any]
"""What a task's `process_results` gives for one answer: JSON values, and `image`, the id of the image asked about.

Two more keys have a meaning everywhere: `cluster`, where what was drawn by chance is not the image but something that
holds several of them (a set of figures), and `unparsed: true`, where no rule could read the answer and the benchmark's
default was counted.
"""

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A benchmark's score; callable on records, so that a YAML can name it as `aggregation`."""

    counts: Callable[[Sequence[Record]], Sequence[float]]
    """All records of ONE image (or `cluster`) -> additive counts, always the same number of them."""

    value: Callable[[Array], Array]
    """Sums of counts over images [..., k] -> score [...], in the metric's unit."""

    digits: int | None = None
    """Decimals the official script rounds its result to; intervals and tests are taken before that."""

    def __call__(self, records: Iterable[Record]) -> float:
        """The score of `records`; nan where the metric has no denominator."""
        with np.errstate(divide="ignore", invalid="ignore"):
            value = float(self.value(self.by_image(records)[1].sum(axis=0)))
        return value if self.digits is None else round(value, self.digits)

    def by_image(self, records: Iterable[Record]) -> tuple[list[str], Array]:
        """Ids of images (or clusters) in order of first appearance, and their counts [images, k]."""
        groups: dict[str, list[Record]] = {}
        for record in records:
            groups.setdefault(str(record.get("cluster", record["image"])), []).append(record)
        return list(groups), np.array([list(self.counts(group)) for group in groups.values()], dtype=np.float64)


def mean_of(field: str, scale: float = 1.0) -> Metric:
    """The mean of one number of each record, times `scale` (100 for a rate in %)."""
    return Metric(
        counts=lambda records: (sum(float(r[field]) for r in records), len(records)),
        value=lambda sums: scale * sums[..., 0] / sums[..., 1],
    )


def ratio_of(numerator: str, denominator: str, scale: float = 1.0) -> Metric:
    """The sum of one field over the sum of another, times `scale`."""
    return Metric(
        counts=lambda records: (sum(float(r[numerator]) for r in records), sum(float(r[denominator]) for r in records)),
        value=lambda sums: scale * sums[..., 0] / sums[..., 1],
    )
