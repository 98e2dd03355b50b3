"""Better, worse, or not separable: two models on the same questions, judged by the official metric itself.

    compare(base_records, other_records, accuracy, higher_is_better=True)
    # Verdict(difference=2.1, low=0.4, high=3.9, p=0.015, mde=2.5, base=71.0, other=73.1, images=500, outcome="better", ...)

A record is what a task counted for one answer, and names its image. The interval is a paired bootstrap over images (`resampling` says how
they are drawn), the p-value a permutation test which swaps the two models' answers image by image. Both compute the metric anew from the
drawn images' counts, so a ratio, an F1 or an acc+ is treated as what it is, never as a mean of samples.

Where a judge rated the answers, its moods from answer to answer are in the images' spread already. What all ratings of one asking share (a
changed snapshot behind the judge's name, another day) is not: `compare_repeats` takes the records of several askings and adds that.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Final, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from leaderboards.resampling import (
    Array,
    CountsMetric,
    Record,
    RecordsError,
    bootstrap,
    chunks,
    common,
    counts_of,
    image_of,
    percentiles,
    strata,
    tally,
    value_of,
)

__all__ = [
    "ALPHA",
    "DETECTED",
    "CountsMetric",
    "Outcome",
    "Pair",
    "Record",
    "RecordsError",
    "Verdict",
    "adjusted",
    "compare",
    "compare_repeats",
    "holm",
    "interval",
    "interval_repeats",
    "panel",
]

Outcome = Literal["better", "worse", "not separable"]

ALPHA: Final = 0.05
POWER: Final = 0.8

DETECTED: Final = NormalDist().inv_cdf(1 - ALPHA / 2) + NormalDist().inv_cdf(POWER)
"""A true difference of so many standard errors (2.80) is found at the 5% level, two-sided, by 80% of runs."""

_TIE = 1e-9  # of the score: two ways to sum the same counts differ by less, two different answers by more

_K = TypeVar("_K")


class Pair(NamedTuple):
    """Two models' records for one metric."""

    base: Sequence[Record]
    other: Sequence[Record]
    metric: CountsMetric
    higher_is_better: bool


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How `other` stands against `base` on one metric, over the images both were asked about."""

    difference: float | None
    """other - base, in the metric's unit; None = one of them has no score."""

    low: float | None
    """Lower end of the difference's 95% interval; None = there is none."""

    high: float | None
    """Upper end of the difference's 95% interval; None = there is none."""

    p: float
    """Of a difference at least as large if the models were the same; adjusted for the size of the panel, if in one."""

    mde: float | None = None
    """Minimum detectable effect: the true difference that 80% of such runs would find at the 5% level, this metric taken alone.

    2.80 standard errors of the paired bootstrap, in the metric's unit; None = the answers show no spread to tell from.
    """

    mcnemar: float | None = None
    """McNemar's exact p, where the metric is plain accuracy; None = it is not.

    Shown beside `p` since papers report it. It takes questions about one image for independent, which makes it too sure of itself, so
    `outcome` does not look at it; nor is it adjusted for a panel.
    """

    base: float | None
    other: float | None

    images: int
    """Images compared."""

    left_out: int = 0
    """Images not compared: only one side was asked about them, or an asking of the judge gave some of their answers no rating."""

    higher_is_better: bool

    @property
    def outcome(self) -> Outcome:
        """Of `other`, at the 5% level."""
        if self.difference is None or self.difference == 0 or self.p > ALPHA:
            return "not separable"
        return "better" if (self.difference > 0) == self.higher_is_better else "worse"


def compare(
    base: Sequence[Record],
    other: Sequence[Record],
    metric: CountsMetric,
    *,
    higher_is_better: bool,
    resamples: int = 10_000,
    seed: int = 0,
) -> Verdict:
    """The verdict on `other`; RecordsError if an image has more records on one side, or none is on both.

    Records of one image must come in the same order on both sides, for McNemar's test alone.
    """
    images = common([base, other])
    verdict = _compare([base], [other], images, metric, higher_is_better=higher_is_better, resamples=resamples, seed=seed)
    return replace(verdict, mcnemar=_mcnemar(base, other, images, metric))


def compare_repeats(
    base: Sequence[Sequence[Record]],
    other: Sequence[Sequence[Record]],
    metric: CountsMetric,
    *,
    higher_is_better: bool,
    resamples: int = 10_000,
    seed: int = 0,
) -> Verdict:
    """The verdict where a judge was asked several times: each side has the records of every asking, and scores their mean.

    The interval has a second layer: each resample draws askings, too, for each side its own, one fewer than there are (so that their mean
    varies as that of independent ones does). The p-value has the same layer. Sides may differ in how often they were judged; with one
    asking the layer is empty. Images of which an asking left an answer unrated are left out, and counted; RecordsError if none remains.
    """
    if not base or not other:
        raise RecordsError("each side needs the records of at least one asking of the judge")
    return _compare(
        base, other, _rated_throughout([*base, *other]), metric, higher_is_better=higher_is_better, resamples=resamples, seed=seed
    )


def interval(
    records: Sequence[Record], metric: CountsMetric, *, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float] | tuple[None, None]:
    """The 95% interval of one model's score; (None, None) below two images, or if no resample has a score."""
    return interval_repeats([records], metric, resamples=resamples, seed=seed) if records else (None, None)


def interval_repeats(
    askings: Sequence[Sequence[Record]], metric: CountsMetric, *, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float] | tuple[None, None]:
    """The 95% interval of the mean over several askings of the judge, over the images that each rated; see `compare_repeats`."""
    images = _rated_throughout(askings)
    if len(images) < 2:  # one image drawn again and again shows no spread at all
        return None, None
    counts = [counts_of(records, images, metric) for records in askings]
    drawn = bootstrap(counts, strata(askings[0], images), metric, resamples=resamples, seed=seed)
    return percentiles(_over_askings(drawn, np.random.default_rng([seed, 1])))


def panel(pairs: Mapping[_K, Pair], *, resamples: int = 10_000, seed: int = 0) -> dict[_K, Verdict]:
    """The verdicts on several metrics, judged together."""
    return adjusted(
        {
            name: compare(base, other, metric, higher_is_better=higher_is_better, resamples=resamples, seed=seed)
            for name, (base, other, metric, higher_is_better) in pairs.items()
        }
    )


def adjusted(verdicts: Mapping[_K, Verdict]) -> dict[_K, Verdict]:
    """The same verdicts, with p-values by Holm's method: the chance of even one false "better" or "worse" among them stays below 5%."""
    p_values = holm([verdict.p for verdict in verdicts.values()])
    return {name: replace(verdict, p=p) for (name, verdict), p in zip(verdicts.items(), p_values, strict=True)}


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given."""
    result = [0.0] * len(p_values)
    floor = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[index]))
        result[index] = floor
    return result


def _compare(
    base: Sequence[Sequence[Record]],
    other: Sequence[Sequence[Record]],
    images: Sequence[str],
    metric: CountsMetric,
    *,
    higher_is_better: bool,
    resamples: int,
    seed: int,
) -> Verdict:
    ours, theirs = ([counts_of(records, images, metric) for records in side] for side in (base, other))
    scores = [np.array([value_of(metric, counts.sum(axis=0)) for counts in side]) for side in (ours, theirs)]
    before, after = (_finite(side.mean()) for side in scores)
    low, high, mde, p = None, None, None, 1.0
    if before is not None and after is not None:
        judge = np.random.default_rng([seed, 1])  # another stream than that of the images
        if len(images) > 1:
            drawn = bootstrap([*ours, *theirs], strata(base[0], images), metric, resamples=resamples, seed=seed)
            differences = _over_askings(drawn[:, len(ours) :], judge) - _over_askings(drawn[:, : len(ours)], judge)
            low, high = percentiles(differences)
            mde = _detectable(differences, max(abs(before), abs(after)))
        moods = [_over_askings(np.tile(side - side.mean(), (resamples, 1)), judge) for side in scores]
        means = [np.mean(side, axis=0) for side in (ours, theirs)]
        p = _permutation_p(means[0], means[1], metric, moods[1] - moods[0], seed)
    return Verdict(
        difference=None if before is None or after is None else after - before,
        low=low,
        high=high,
        p=p,
        mde=mde,
        base=before,
        other=after,
        images=len(images),
        left_out=len({image_of(record) for side in (base, other) for records in side for record in records}) - len(images),
        higher_is_better=higher_is_better,
    )


def _rated_throughout(askings: Sequence[Sequence[Record]]) -> list[str]:
    """The images with as many records in each asking."""
    first, *others = [tally(records) for records in askings]
    images = [image for image, records in first.items() if all(found[image] == records for found in others)]
    if not images:
        raise RecordsError("no image has all its answers rated in every asking of the judge")
    return images


def _over_askings(scores: Array, rng: np.random.Generator) -> Array:
    """The mean [resamples] over askings drawn from `scores` [resamples, askings]."""
    resamples, askings = scores.shape
    if askings == 1:
        return scores[:, 0]
    drawn = rng.integers(0, askings, size=(resamples, askings - 1))
    return np.asarray(np.take_along_axis(scores, drawn, axis=1).mean(axis=1))


def _finite(score: float) -> float | None:
    return float(score) if np.isfinite(score) else None


def _detectable(differences: Array, score: float) -> float | None:
    differences = differences[np.isfinite(differences)]
    error = float(differences.std()) if differences.size else 0.0
    return DETECTED * error if error > _TIE * score else None


def _permutation_p(base: Array, other: Array, metric: CountsMetric, moods: Array, seed: int) -> float:
    """Two-sided; `moods` [resamples] moves the difference beside the swaps. A swap that leaves no score counts against a difference."""
    base_sum, other_sum = base.sum(axis=0), other.sum(axis=0)
    scores = value_of(metric, base_sum), value_of(metric, other_sum)
    threshold = abs(scores[1] - scores[0]) - _TIE * max(abs(scores[0]), abs(scores[1]))
    shifts = (other - base)[(other != base).any(axis=1)]  # to swap equal counts changes nothing
    if not len(shifts):
        return 1.0
    rng = np.random.default_rng(seed)
    extreme = 0
    for chunk in chunks(len(moods), len(shifts)):
        octets = rng.integers(0, 256, size=(chunk.stop - chunk.start, -(-len(shifts) // 8)), dtype=np.uint8)
        moved = np.unpackbits(octets, axis=1, count=len(shifts)).astype(np.float64) @ shifts
        differences = value_of(metric, other_sum - moved) - value_of(metric, base_sum + moved) + moods[chunk]
        extreme += int(np.count_nonzero(~(abs(differences) < threshold)))
    return (1 + extreme) / (1 + len(moods))


def _mcnemar(base: Sequence[Record], other: Sequence[Record], images: Sequence[str], metric: CountsMetric) -> float | None:
    """Exact p of the questions on which just one is right; None where the metric is not the share of correct answers."""
    ours, theirs = _right(base, images, metric), _right(other, images, metric)
    if ours is None or theirs is None:
        return None
    from scipy.stats import binomtest  # inside: takes half a second

    gained, lost = int((theirs & ~ours).sum()), int((ours & ~theirs).sum())
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def _right(records: Sequence[Record], images: Sequence[str], metric: CountsMetric) -> NDArray[np.bool_] | None:
    """Which answers are correct, image by image, if the score of each image and of all of them is the share of these in %."""
    answers: dict[str, list[bool]] = defaultdict(list)
    for record in records:
        if "correct" not in record:
            return None
        answers[image_of(record)].append(bool(record["correct"]))
    counts = counts_of(records, images, metric)
    found = np.array([right for image in images for right in answers[image]])
    shares = [float(np.mean(answers[image])) for image in images]
    scores = np.append(value_of(metric, counts), value_of(metric, counts.sum(axis=0)))
    return found if np.allclose(scores, 100 * np.append(shares, found.mean()), rtol=_TIE) else None
