"""95% intervals that hold near a metric's bounds, too: a score of 20 images that are all right is not [100, 100].

    low, high = score_interval(metric, [counts], parts)
    low, high = difference_interval(metric, [base], [other], parts, difference=2.1, p=0.015)

A resample holds only what was seen, so a bootstrap's interval is too narrow where few images differ from the others.
Here a score is taken as a share of its range. Each image's influence on it (the metric's derivative by the image's
weight) gives the variance, and the variance says how many independent right-or-wrong answers would vary as much: the
effective sample size (Kish 1965; Korn and Graubard 1998). A quarter of an image at each bound is added to it, for what
was not seen. The interval is the binomial one of that many answers, by nearly the mid-p (Lancaster 1961). Where the
effective sample size is itself uncertain, it is reduced as Student's t is wider than the normal (Satterthwaite). So 0
of n gives 3.3/n as the upper end.

The interval of a paired difference is a t interval whose variance has 1 to 2.5 flipped images more than were seen: no
flip among n images gives +-3.1/n of the range. It never contradicts the test: see `agree_with_test`.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Final, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from leaderboards.statistics.distributions import binomial_chance, find_root, incomplete_beta, student_quantile
from leaderboards.statistics.resampling import Array, CountsMetric, value_of
from leaderboards.statistics.significance import ALPHA

Ends = tuple[float, float] | tuple[None, None]

_Z: Final = NormalDist().inv_cdf(1 - ALPHA / 2)
_STEP: Final = 1e-3  # of an image's weight, and of a sum: small enough for a derivative, large enough for floats
_PSEUDO: Final = 0.25  # images at each bound
_OWN: Final = 0.7  # of the chance of exactly what was seen: 0.5 is the mid-p, with coverage down to 92%; 1 is exact
_SKEWED: Final = 1.5  # flipped images added to the variance of a difference beside one, where flips are rare
_LEAST: Final = 1.5  # degrees of freedom
_LEAST_P: Final = 1e-30
_NEAR: Final = 1e-3  # of the difference: how near to 0 the end of a significant one may come


@runtime_checkable
class Bounded(Protocol):
    """A metric that declares its bounds."""

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The least and the largest score; None: as far as counts tell."""


def score_interval(
    metric: CountsMetric,
    repeats: Sequence[Array],
    parts: NDArray[np.int64],
    *,
    judge: tuple[float, float] = (0.0, math.inf),
) -> Ends:
    """The interval of the mean score over `repeats`, each counts [images, k]; `parts` [images] are the strata.

    `judge`: the standard error by a judge's moods and its degrees of freedom. (None, None) where there is no score.
    """
    score = float(np.mean([value_of(metric, counts.sum(axis=0)) for counts in repeats]))
    if not math.isfinite(score):
        return None, None
    counts = np.asarray(np.mean(repeats, axis=0))
    slopes = _slopes(metric, counts)
    low, high = _range(metric, [counts], parts, slopes, score)
    images = _equal_images(counts, slopes)
    if not (width := high - low) > 0:
        return score, score  # it can't vary
    share = min(max((score - low) / width, 0.0), 1.0)
    changes = centred(mean_influences(metric, repeats), parts) / width
    answers = _effective_answers(
        share, changes, images, _unit(counts, slopes, images) / width, (judge[0] / width, judge[1])
    )
    least, most = _binomial_ends(share, answers)
    return low + width * least, low + width * most


def difference_interval(
    metric: CountsMetric,
    base: Sequence[Array],
    other: Sequence[Array],
    parts: NDArray[np.int64],
    *,
    difference: float,
    p: float | None,
    judge: tuple[float, float] = (0.0, math.inf),
) -> Ends:
    """The interval of a paired `difference`; each repeat is counts [images, k].

    Made to agree with the unadjusted `p` of its test; None: left as it is. `judge` as in `score_interval`.
    """
    spread = difference_spread(metric, base, other, parts, difference=difference, judge=judge)
    low, high = spread.ends(difference)
    return (low, high) if p is None else agree_with_test(low, high, difference, p)


class Spread(NamedTuple):
    """How uncertain a paired difference is, in the metric's unit."""

    error: float
    """Standard error by what was seen."""
    freedom: float
    """Degrees of freedom of that error."""
    unseen: float
    """What flips that were not seen add to it, as a standard error."""
    images: float
    """How many images of equal weight count as much."""
    width: float
    """The largest difference there could be."""
    others: tuple[tuple[float, float], ...] = ()
    """Standard errors of other kinds, each with its degrees of freedom: of training seeds."""

    def reach(self, alpha: float = ALPHA) -> float:
        """How far the interval of level 1 - alpha reaches to each side."""
        kinds = (student(freedom, alpha) * error for error, freedom in ((self.error, self.freedom), *self.others))
        return math.hypot(*kinds, _normal(alpha) * self.unseen)

    def ends(self, difference: float) -> tuple[float, float]:
        """The 95% interval of a difference."""
        return max(difference - self.reach(), -self.width), min(difference + self.reach(), self.width)

    def p_value(self, difference: float) -> float:
        """The largest alpha whose interval leaves 0 out: at most 5% if and only if 0 is outside of `ends`."""
        if abs(difference) <= self.reach(1.0) or not abs(difference) > 0:
            return 1.0
        if abs(difference) >= self.reach(_LEAST_P):
            return _LEAST_P
        # Of logarithms: small ones matter, too.
        return math.exp(find_root(lambda log: self.reach(math.exp(log)) - abs(difference), math.log(_LEAST_P), 0.0))


def difference_spread(
    metric: CountsMetric,
    base: Sequence[Array],
    other: Sequence[Array],
    parts: NDArray[np.int64],
    *,
    difference: float,
    judge: tuple[float, float] = (0.0, math.inf),
) -> Spread:
    """The spread of a paired difference; arguments as of `difference_interval`."""
    first, second = (np.asarray(np.mean(side, axis=0)) for side in (base, other))
    scores = [float(value_of(metric, side.sum(axis=0))) for side in (first, second)]
    ranges = [
        _range(metric, [first, second], parts, _slopes(metric, side), score)
        for side, score in zip((first, second), scores, strict=True)
    ]
    width = max(max(high for _, high in ranges) - min(low for low, _ in ranges), abs(difference))
    images = min(_equal_images(side, _slopes(metric, side)) for side in (first, second))
    changes = [mean_influences(metric, side) for side in (base, other)]
    error = math.sqrt(float((centred(changes[1] - changes[0], parts) ** 2).sum()))
    spread = math.hypot(error, judge[0])
    mood = (judge[0] / spread) ** 2 if spread > 0 else 0.0
    freedom = 1 / ((1 - mood) ** 2 / max(images - len(np.unique(parts)), _LEAST) + mood**2 / judge[1])
    return Spread(spread, freedom, unseen_error(metric, first, second, images, width), images, width)


def agree_with_test(low: float, high: float, difference: float, p: float) -> tuple[float, float]:
    """The interval whose end on the side of 0 says what the test says: 0 is outside if and only if p is at most 5%.

    Where they contradict each other, that end is moved to where the test's own p puts it: a normal interval with the
    standard error that would give this p.
    """
    if difference == 0 or (p <= ALPHA) == (low > 0 or high < 0):
        return low, high
    deviations = NormalDist().inv_cdf(1 - p / 2) if p > 0 else math.inf
    near = 1 - _Z / deviations if deviations > _Z / 2 else -1.0
    near = difference * (max(near, _NEAR) if p <= ALPHA else min(near, 0.0))
    return (near, high) if difference > 0 else (low, near)


def mean_influences(metric: CountsMetric, repeats: Sequence[Array]) -> Array:
    """The mean over repeats of `influences` [images]."""
    return np.asarray(np.mean([influences(metric, own) for own in repeats], axis=0))


def influences(metric: CountsMetric, counts: Array) -> Array:
    """How the score changes with each image's weight [images]; an image without which there is no score: 0."""
    total = counts.sum(axis=0)
    changes = (value_of(metric, total) - value_of(metric, total - _STEP * counts)) / _STEP
    return np.where(np.isfinite(changes), changes, 0.0)


def centred(changes: Array, parts: NDArray[np.int64]) -> Array:
    """Minus the mean of their stratum, times sqrt(n / (n - 1)): the sum of squares is the variance."""
    sizes = np.bincount(parts)
    means = np.bincount(parts, weights=changes) / np.maximum(sizes, 1)
    return np.asarray((changes - means[parts]) * np.sqrt(sizes / np.maximum(sizes - 1, 1))[parts])


def _slopes(metric: CountsMetric, counts: Array) -> Array:
    """The metric's derivative by each sum [k]; a little is added to all sums, since at 0 of n half of them vanish."""
    total = counts.sum(axis=0)
    total = total + 0.01 * np.abs(total).mean()
    steps = np.diag(_STEP * total)
    slopes = (value_of(metric, total + steps) - value_of(metric, total - steps)) / np.where(total, 2 * _STEP * total, 1)
    return np.where(np.isfinite(slopes), slopes, 0.0)


def _equal_images(counts: Array, slopes: Array) -> float:
    """How many images of equal weight count as much: images without what the metric counts are none (Kish)."""
    shares = counts * slopes
    numbers = [1.0]
    for side in (shares, -shares):  # numerators and denominators; the latter are more even, whichever sign they have
        own = np.maximum(side, 0.0).sum(axis=1)
        if own.any():
            numbers.append(float(own.sum() ** 2 / (own**2).sum()))
    return max(numbers)


def _unit(counts: Array, slopes: Array, images: float) -> float:
    """What one image at the other bound would change, times the number of images."""
    used = np.abs(slopes) > _STEP * np.abs(slopes).max()
    filled = np.count_nonzero(counts, axis=0)
    sizes = counts.sum(axis=0) / np.maximum(filled, 1)
    return float(np.abs(slopes[used]).max() * sizes[used].max() * images) if used.any() else 0.0


def _range(
    metric: CountsMetric, sides: Sequence[Array], parts: NDArray[np.int64], slopes: Array, score: float
) -> tuple[float, float]:
    """The least and the largest score there could be: as the metric declares, else as far as counts tell.

    All images of a stratum may be as its best (or worst) one was; and a count may be as large as the counts that it
    never exceeds, or as small as those that never exceed it (ratings of 1 to 5 are at least their number), else 0.
    """
    if isinstance(metric, Bounded) and metric.bounds and metric.bounds[0] <= score <= metric.bounds[1]:
        return metric.bounds
    counts = np.concatenate(sides)
    parts = np.tile(parts, len(sides))
    values = value_of(metric, counts)
    extremes = []
    for sign in (1, -1):
        ranked = np.where(np.isfinite(values), sign * values, -np.inf)
        total = np.zeros(counts.shape[1])
        for part in np.unique(parts):
            own = parts == part
            total += counts[own][int(np.argmax(ranked[own]))] * (own.sum() / len(sides))
        extremes.append(float(value_of(metric, total)))
    best, worst = (value if math.isfinite(value) else score for value in extremes)
    high = max(best, score, _raised(metric, counts, slopes, score))
    low = min(worst, score, _lowered(metric, counts, -slopes, score), _raised(metric, counts, -slopes, score))
    if high == low:
        high = max(high, _lowered(metric, counts, slopes, score))
    if high == low:  # counts don't tell: as far as one image more of the other kind goes, in all of them
        high += _unit(counts, slopes, _equal_images(counts, slopes)) / len(sides)
    return low, high


def _raised(metric: CountsMetric, counts: Array, slopes: Array, score: float) -> float:
    """The score if counts of positive slope were as large as those that they never exceed."""
    pushed = counts.copy()
    for column in np.argsort(-counts.sum(axis=0), kind="stable").tolist():
        above = _beyond(counts, slopes, column, 1)
        if slopes[column] > 0 and above:
            with_it = (counts == counts[:, column, None]).all(axis=0) & (slopes < 0)
            with_it[column] = True
            pushed[:, with_it] = pushed[:, above].min(axis=1)[:, None]
    value = float(value_of(metric, pushed.sum(axis=0)))
    return value if math.isfinite(value) else score


def _lowered(metric: CountsMetric, counts: Array, slopes: Array, score: float) -> float:
    """The score if counts of negative slope were as small as those that never exceed them, or 0."""
    pushed = counts.copy()
    for column in np.flatnonzero(slopes < 0).tolist():
        pushed[:, column] = counts[:, _beyond(counts, slopes, column, -1)].max(axis=1, initial=0.0)
    value = float(value_of(metric, pushed.sum(axis=0)))
    return value if math.isfinite(value) else score


def _beyond(counts: Array, slopes: Array, column: int, sign: int) -> list[int]:
    """The columns never below this one (`sign` 1) or never above it (-1), which are not equal to it."""
    apart = sign * (counts - counts[:, column, None])
    return np.flatnonzero((slopes != 0) & (apart >= 0).all(axis=0) & (apart > 0).any(axis=0)).tolist()


def _effective_answers(share: float, changes: Array, images: float, unit: float, judge: tuple[float, float]) -> float:
    """How many independent right-or-wrong answers vary as much as the share does.

    `changes` [images] are centred influences, `judge` a standard error and its degrees of freedom.
    """
    mood, freedom = judge
    weight = images + 2 * _PSEUDO
    middle = (images * share + _PSEUDO) / weight
    chance = middle * (1 - middle)
    square = float((changes**2).sum())
    seen = images * (images * square + (share - middle) ** 2)
    unseen = _PSEUDO * (middle**2 + (1 - middle) ** 2) * min(max(unit, 1.0), 2.0)
    own = (seen + unseen) / weight
    every = own + images * mood**2
    deviations = images * changes
    turns = (1 - 2 * middle) / chance * deviations / images
    turns -= (deviations**2 - images**2 * square / len(changes)) / (every * weight)
    uncertain = float((turns**2).sum()) + 2 / freedom * (images * mood**2 / every) ** 2
    return images * chance / every * (_Z / student(max(2 / uncertain, _LEAST) if uncertain > 0 else math.inf)) ** 2


def student(freedom: float, alpha: float = ALPHA) -> float:
    """The quantile of Student's t within which all but `alpha` lie."""
    if freedom > 1e6:
        return _normal(alpha)
    return student_quantile(alpha / 2, freedom)


def _normal(alpha: float) -> float:
    """The quantile of the normal within which all but `alpha` lie."""
    return -NormalDist().inv_cdf(alpha / 2)


def _binomial_ends(share: float, answers: float) -> tuple[float, float]:
    """The binomial interval of a share of so many answers; neither need be whole.

    Of a truth so near a bound that even a share of exactly that bound has it in its interval, the interval can fail
    on one side only: this side may then fail in all 5% (as in Blyth and Still 1983), which shortens the nearer end.
    """
    low, high = 1 - _upper(1 - share, answers), _upper(share, answers)
    near = _upper(0.0, answers)  # the upper end at a share of 0
    return (
        max(low, min(1 - _upper(1 - share, answers, ALPHA), near)),
        min(high, max(_upper(share, answers, ALPHA), 1 - near)),
    )


def _upper(share: float, answers: float, allowed: float = ALPHA / 2) -> float:
    """Upper end of the binomial interval, which a truth beyond it has with the chance `allowed` at most."""
    right, wrong = share * answers, (1 - share) * answers
    if wrong <= 1e-9:
        return 1.0

    def tail_beyond(chance: float) -> float:
        """How much likelier than it may be is as little as was seen: 0 at the interval's end."""
        exactly = binomial_chance(right, wrong, chance)
        return 1 - incomplete_beta(right + 1, wrong, chance) - (1 - _OWN) * exactly - allowed

    return find_root(tail_beyond, share, 1.0)


def unseen_error(metric: CountsMetric, base: Array, other: Array, images: float, width: float) -> float:
    """What flips that were not seen add to the standard error of a difference: one flip of the size of those seen (and
    of a whole image, as a half of one), and 1.5 more as far as flips are rare and go one way, which makes them
    skewed."""
    flips, whole = _flips(metric, base, other), width / images
    if not whole > 0:
        return 0.0
    square = float((flips**2).sum())
    size = (square + whole**2 / 2) / (len(flips) + 0.5)
    one_way = (float(flips.sum()) ** 2 + whole**2) / ((len(flips) + 1) * (square + whole**2))
    rare = (1 - 2 * min(len(flips) / images, 1.0)) ** 2
    return math.sqrt((1 + _SKEWED * one_way * rare) * min(size, whole**2))


def _flips(metric: CountsMetric, base: Array, other: Array) -> Array:
    """What each image that differs changes [differing images], between both models: the same for either order."""
    moved = (other - base)[(other != base).any(axis=1)]
    middle = (base.sum(axis=0) + other.sum(axis=0)) / 2
    changes = value_of(metric, middle + moved / 2) - value_of(metric, middle - moved / 2)
    return np.where(np.isfinite(changes), changes, 0.0)
