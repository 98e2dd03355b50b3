"""Prediction-powered inference: a judge's score, or the difference of two, corrected by people's labels.

    correct([Side(judged=..., judged_labelled=..., human=...)], labelled, metric)
    # Corrected(value=2.95, low=2.80, high=3.10, raw=3.21, weight=0.8, images=96, ...)

With f the metric of summed counts, H the people's counts and J the judge's:

    corrected = f(H, labelled) + weight * (f(J, all) - f(J, labelled))

For a mean this is PPI++ (Angelopoulos, Duchi and Zrnic 2023, arXiv 2311.01453), with `weight` its power-tuned lambda: 0
is the labels alone, 1 shifts the judge's score by its mean error on the labelled answers. Any other smooth function of
summed counts is corrected in the same way, to first order.

The images with labels must be a random part of all images. The variance is a jackknife that leaves out one image at a
time, on both sides of the formula (Rao and Sitter 1995), and chooses the weight anew without it: answers about one
image may depend on each other, labelled images are among all images, and a weight that fits its own labels by chance
gains nothing. Where the interval is not narrower than that of the labels alone, the labels alone are given.

Two cases need more than a variance. Ratings of which nearly all are equal have no interval (`LEAST_VARIED`). And a
judge who was wrong about few or no labelled images may be wrong about some of the others: the variance is then as if
one more image had been judged wrongly, by as much as two unrelated ratings differ; the less so the more were seen.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from leaderboards.statistics.distributions import student_quantile
from leaderboards.statistics.resampling import Array, CountsMetric, value_of
from leaderboards.statistics.significance import ALPHA, tail
from support.errors import RecordsError

LEAST_IMAGES: Final = 20
"""With fewer labelled images, intervals of skewed ratings hold the truth less often than they say."""

LEAST_VARIED: Final = 10
"""Labelled images with another rating than the commonest, and those where judge and people are not as far apart as they
mostly are, from which on a variance tells the spread."""

_UNSEEN: Final = 2.0  # variance of the difference of two unrelated ratings, in that of one


@dataclass(frozen=True, kw_only=True, eq=False)
class Side:
    """One model's counts, each [images, k]."""

    judged: Array
    """By the judge, of all answers."""

    judged_labelled: Array
    """By the judge, of those answers that people rated; 0 for the other images."""

    human: Array
    """By people, of the same answers."""


@dataclass(frozen=True, kw_only=True)
class Corrected:
    """A score, or the difference of two scores, corrected for the judge's errors; all in the metric's unit."""

    value: float

    low: float
    """Lower end of the 95% interval."""

    high: float
    """Upper end of the 95% interval."""

    p: float
    """Two-sided p-value of the value being 0; of use for differences."""

    raw: float
    """By the judge alone, of the same answers."""

    alone: float
    """By the labels alone."""

    alone_low: float
    """Lower end of its 95% interval."""

    alone_high: float
    """Upper end of its 95% interval."""

    weight: float
    """Lambda: how much the judge's ratings count; 0 = not at all."""

    images: int
    """Images with labels."""

    labels: int = 0
    """Answers with labels; of a difference, pairs of answers."""


def correct(sides: Sequence[Side], labelled: NDArray[np.bool_], metric: CountsMetric) -> Corrected:
    """The corrected score of one side, or the corrected difference of two, second - first; `labelled` [images].

    RecordsError where there are fewer than `LEAST_IMAGES` labelled images, where the metric has no value or depends on
    the number of images, or where nearly all of people's ratings are equal.
    """
    count = int(labelled.sum())
    wrong = _count_errors(sides, labelled, metric)
    people = _LeftOut(metric, [side.human for side in sides])
    judge = _LeftOut(metric, [side.judged_labelled for side in sides])
    everything = _LeftOut(metric, [side.judged for side in sides])
    gap = everything.value - judge.value
    gaps = everything.without - np.where(labelled, judge.without, judge.value)
    scores = np.where(labelled, people.without, people.value)
    if not np.isfinite([people.value, gap, *scores, *gaps]).all():
        raise RecordsError("the metric has no value for the labelled answers, or by one image alone")
    factor = np.sqrt(1 - 1 / np.where(labelled, count, len(labelled)))
    weight, weights = _choose_weights(factor * (scores - people.value), factor * (gaps - gap))
    error = math.hypot(*(factor * (scores + weights * gaps - people.value - weight * gap)))
    error *= math.sqrt((count - 1) / (count - 2))  # the weight takes one more degree of freedom
    error_alone = math.hypot(*(factor * (scores - people.value)))
    unseen = max(0, LEAST_VARIED - wrong) / LEAST_VARIED * _UNSEEN / count
    error = math.hypot(error, math.sqrt(unseen) * error_alone)
    if not error < error_alone:
        weight, error = 0.0, error_alone
    value, reach = people.value + weight * gap, _find_quantile(count - 1)
    return Corrected(
        value=value,
        low=value - reach * error,
        high=value + reach * error,
        p=tail(abs(value) / error, count - 1) if error > 0 else float(value == 0),
        raw=everything.value,
        alone=people.value,
        alone_low=people.value - reach * error_alone,
        alone_high=people.value + reach * error_alone,
        weight=weight,
        images=count,
    )


def _count_errors(sides: Sequence[Side], labelled: NDArray[np.bool_], metric: CountsMetric) -> int:
    """On how many labelled images the judge is not as far from people as mostly; RecordsError where there are too few
    labels for an interval."""
    if (count := int(labelled.sum())) < LEAST_IMAGES:
        raise RecordsError(f"people rated answers about {count} images; an interval needs {LEAST_IMAGES}")
    ratings = _subtract([value_of(metric, side.human[labelled]) for side in sides])
    judged = _subtract([value_of(metric, side.judged_labelled[labelled]) for side in sides])
    if (varied := _count_varied(ratings)) < LEAST_VARIED:
        raise RecordsError(
            f"people's ratings are other than the commonest on {varied} images only; an interval needs {LEAST_VARIED}"
        )
    return _count_varied(judged - ratings)


def _choose_weights(scores: Array, gaps: Array) -> tuple[float, Array]:
    """The weight with the least variance, and that without each image [images]; from the changes by each image.

    Never below 0: a judge who seems to rate against people is not used.
    """
    together, square = scores * gaps, gaps * gaps
    left = square.sum() - square
    usable = left > 0
    without = -(together.sum() - together) / np.where(usable, left, 1.0) * usable
    weight = -together.sum() / square.sum() if square.sum() > 0 else 0.0
    return max(0.0, float(weight)), np.maximum(0.0, without)


class _LeftOut:
    """A score, or the difference of two, and the same without each image."""

    def __init__(self, metric: CountsMetric, counts: Sequence[Array]) -> None:
        sums = [own.sum(axis=0) for own in counts]
        for own in sums:
            one, two = value_of(metric, own), value_of(metric, 2 * own)
            if not np.allclose(one, two, equal_nan=True):
                raise RecordsError("the metric depends on how many images there are, so it can't be corrected")
        self.value = float(_subtract([value_of(metric, own) for own in sums]))
        self.without = _subtract([value_of(metric, total - own) for total, own in zip(sums, counts, strict=True)])


def _subtract(values: Sequence[Array]) -> Array:
    return values[0] if len(values) == 1 else np.asarray(values[1] - values[0])


def _count_varied(values: Array) -> int:
    """How many values are not the commonest one."""
    _, counts = np.unique(np.round(values, 9), return_counts=True)
    return int(len(values) - counts.max())


def _find_quantile(freedom: int) -> float:
    """Of Student's t: 95% lie within it on both sides of 0."""
    return student_quantile(ALPHA / 2, freedom)
