"""Trainings that differ by their seed alone, as one: the mean score, its interval, and the test against a base.

    seeds_interval(metric, [counts, counts, counts], parts)     # counts [images, k] of each seed's model
    seeds_test(matched)                                         # of a `Matched` that says its sides are seeds

Two things were drawn by chance: the images, and the seeds. All seeds answer the same images, so the two are crossed.
The variance of the mean score has a part from images (each image's mean influence over the seeds) and one from seeds
(the variance of their scores, over their number). The second holds some of the first: what seeds and images do only
together, the answers that one seed has right by chance. Of that, (seeds - 1) / (seeds + 1) is taken off: taking off all
of it would leave three seeds with no variance too often (docs/statistics.md has the simulation). Each part reaches as
far as its own Student's t says, and the two reaches are added as squares (as by Cochran 1964): with three seeds that
happen to agree, a pooled number of degrees of freedom would take their variance for known.

A seed's score is the metric's own value on all its answers. The seeds of two sides are independent of each other.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from leaderboards.statistics.edge_intervals import (
    Ends,
    Spread,
    centred,
    difference_spread,
    influences,
    score_interval,
    student,
    unseen_error,
)
from leaderboards.statistics.resampling import Array, CountsMetric, value_of
from leaderboards.statistics.significance import DETECTED


class SeedError(NamedTuple):
    """What chance the seeds add to a mean score."""

    error: float
    """Standard error, in the metric's unit."""
    freedom: float
    """Seeds - 1."""


@dataclass(frozen=True, kw_only=True)
class Seeds:
    """How many trainings a verdict is on, and what each says by itself."""

    base: int
    """1: a single model."""
    other: int
    higher: int
    """Seeds of `other` whose score is above the base's."""
    lower: int
    better: int = 0
    """Seeds of `other` that are significantly better than the base, each by its own test, not adjusted."""
    worse: int = 0


@dataclass(frozen=True, kw_only=True)
class SeedsTest:
    """The mean of some seeds against a base, which is one model or seeds of its own."""

    difference: float | None
    low: float | None
    high: float | None
    p: float
    """Two-sided, of the same t as the interval: at most 5% if and only if the interval leaves 0 out."""
    mde: float | None
    base: float | None
    other: float | None
    higher: int
    """Seeds whose score is above the base's."""
    lower: int


def seed_error(metric: CountsMetric, seeds: Sequence[Array], parts: NDArray[np.int64]) -> SeedError | None:
    """What the seeds add to the variance of their mean score; None of one model, or where one has no score."""
    scores = scores_of(metric, seeds)
    if len(seeds) < 2 or not np.isfinite(scores).all():
        return None
    changes = np.stack([centred(influences(metric, own), parts) for own in seeds])
    together = float(changes.var(axis=0, ddof=1).sum())
    known = (len(seeds) - 1) / (len(seeds) + 1)
    own = max(float(scores.var(ddof=1)) - known * together, 0.0)
    return SeedError(math.sqrt(own / len(seeds)), len(seeds) - 1.0)


def seeds_interval(metric: CountsMetric, seeds: Sequence[Array], parts: NDArray[np.int64]) -> Ends:
    """The 95% interval of a mean score over seeds, each counts [images, k]; (None, None) for fewer than two images."""
    if len(parts) < 2:
        return None, None
    found = seed_error(metric, seeds, parts)
    if found is None:
        return score_interval(metric, seeds, parts)
    # As an error that is known, and so much larger: its own t, not one shared with the images' variance.
    return score_interval(
        metric, seeds, parts, judge=(found.error * student(found.freedom) / student(math.inf), math.inf)
    )


def seeds_test(
    metric: CountsMetric, base: Sequence[Array], other: Sequence[Array], parts: NDArray[np.int64]
) -> SeedsTest:
    """`other` against `base`, each the counts [images, k] of its seeds (one: a single model)."""
    before, after = (float(scores_of(metric, side).mean()) for side in (base, other))
    known = math.isfinite(before), math.isfinite(after)
    scores = scores_of(metric, other)
    untested = SeedsTest(
        difference=after - before if all(known) else None,
        low=None,
        high=None,
        p=1.0,
        mde=None,
        base=before if known[0] else None,
        other=after if known[1] else None,
        higher=int((scores > before).sum()),
        lower=int((scores < before).sum()),
    )
    if untested.difference is None or len(parts) < 2:
        return untested
    spread = _spread(metric, base, other, parts, untested.difference)
    low, high = spread.ends(untested.difference)
    error = math.hypot(spread.error, *(error for error, _ in spread.others))
    mde = DETECTED * error if error > 0 else None
    return replace(untested, low=low, high=high, p=spread.p_value(untested.difference), mde=mde)


def scores_of(metric: CountsMetric, seeds: Sequence[Array]) -> Array:
    """The score of each seed's model."""
    return np.array([float(value_of(metric, counts.sum(axis=0))) for counts in seeds])


def _spread(
    metric: CountsMetric, base: Sequence[Array], other: Sequence[Array], parts: NDArray[np.int64], difference: float
) -> Spread:
    """With the seeds' errors in it; flips that were not seen are those of single models, since of a mean all differ."""
    found = difference_spread(metric, base, other, parts, difference=difference)
    pairs = [(one, two) for one in base for two in other]
    unseen = np.mean([unseen_error(metric, one, two, found.images, found.width) for one, two in pairs])
    unseen *= math.sqrt((1 / len(base) + 1 / len(other)) / 2)
    errors = [one for side in (base, other) if (one := seed_error(metric, side, parts)) is not None]
    return found._replace(unseen=float(unseen), others=tuple((one.error, one.freedom) for one in errors))
