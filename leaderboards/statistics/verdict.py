"""Paired verdicts: is one model better than another on the same questions, by the official metric itself?

    compare(base_records, other_records, accuracy, higher_is_better=True)
    # PairedTest(difference=2.1, low=0.4, high=3.9, p=0.015, mde=2.5, base=71.0, other=73.1, images=500, ...)

A record is what a task counted for one answer, and names its image. The interval (see `edge_intervals`) takes images
as drawn by chance; the p-value is of a permutation test that swaps the two models' answers image by image. Both use the
metric itself, on counts by image, so a ratio, an F1 or an acc+ is never treated as a mean of samples. They agree: the
interval of a difference leaves 0 out if and only if p, not adjusted for a panel, is at most 5%.

If a judge rated the answers, the variation of its ratings from answer to answer is already part of the spread over
images. What all ratings of one repeat share (another snapshot behind the judge's name, another day) is not:
`compare_repeats` takes the records of several repeats and adds the variance between them.

`verdicts({key: matched(base, other, higher_is_better=True), ...})` makes many tests on one draw, each with the same
numbers as alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from leaderboards.statistics.edge_intervals import (
    Ends,
    centred,
    difference_interval,
    influences,
    score_interval,
)
from leaderboards.statistics.guard_test import GuardTest, is_beyond
from leaderboards.statistics.matches import Matched, MatchedGuard
from leaderboards.statistics.mcnemar import mcnemar_p
from leaderboards.statistics.permutation import TIE, permutation_p
from leaderboards.statistics.resampling import (
    Array,
    Counted,
    CountsMetric,
    Record,
    Swaps,
    bootstrap,
    bootstrap_each,
    changes_by_swaps,
    common,
    percentiles,
    swapped,
    value_of,
)
from leaderboards.statistics.seed_groups import Seeds, seeds_test
from leaderboards.statistics.significance import ALPHA, DETECTED, holm, judge_spread
from support.errors import RecordsError

Outcome = Literal["better", "worse", "not separable", "not better"]
"""Not better: the metric is better, and one of its guards is worse."""

_NOTABLE = 1.02  # of a variance

_K = TypeVar("_K")


class Pair(NamedTuple):
    """Two models' records for one metric."""

    base: Sequence[Record]
    other: Sequence[Record]
    metric: CountsMetric
    higher_is_better: bool


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """`other` against `base` on one metric, over the images that both have records of."""

    difference: float | None
    """other - base, in the metric's unit; None if one of them has no score."""

    low: float | None
    """Lower end of the difference's 95% interval, never adjusted for a panel; None if there is none."""

    high: float | None
    """Upper end of the same interval; None if there is none."""

    p: float
    """Two-sided p-value of equal models; Holm-adjusted if the verdict is part of a panel.

    If at least 1% of the swaps reach the difference, p is the share that goes beyond it and half of those that equal
    it: the mid-p (Lancaster 1961). With ties counted whole, the test would give 2 to 4 false alarms in 100 where few
    images differ (docs/statistics.md). Counting can't go below 1 / (swaps + 1), with which a panel of some hundred
    metrics could find nothing, so beyond 1% the tail is extrapolated: a normal tail with the standard deviation of the
    swapped differences (or the bootstrap's standard error, if larger; a judge's few repeats add a Student's t), scaled
    to join the counted shares without a step. The tail of a sum of independent swaps is no heavier except for a factor,
    which the scaling settles. Student's t on the bootstrap's error would give p-values that are too small there, since
    that error leaves out the difference itself. p is never above the counted share, nor below 1 / 2^n where n images
    differ: the smallest value that all swaps could give.
    """

    mde: float | None = None
    """Minimum detectable effect at the 5% level with 80% power, for this metric alone, in the metric's unit.

    2.80 standard errors of the paired bootstrap; None if the answers show no spread.
    """

    mcnemar: float | None = None
    """McNemar's exact p if the metric is plain accuracy, else None; with one question an image `p` is its mid-p.

    Shown beside `p` since papers report it. It assumes that questions about one image are independent, so it is too
    small; `outcome` does not use it, and it is not adjusted for a panel.
    """

    base: float | None
    """Score of `base`; None if it has none."""

    other: float | None
    """Score of `other`; None if it has none."""

    images: int
    """Images compared."""

    left_out: int = 0
    """Images not compared: only one side has records of them, or one repeat of the judge left an answer unrated."""

    higher_is_better: bool

    guards: tuple[GuardTest, ...] = ()
    """What must not become worse while this metric improves; not adjusted for a panel."""

    seeds: Seeds | None = None
    """Of which trainings this is the mean, where it is of several; `p` and interval are those of `seeds_test`."""

    @property
    def fallen(self) -> list[GuardTest]:
        """The guards that are worse."""
        return [guard for guard in self.guards if guard.worse]

    @property
    def outcome(self) -> Outcome:
        """The verdict on `other` at the 5% level."""
        if self.difference is None or self.difference == 0 or self.p > ALPHA:
            return "not separable"
        if (self.difference > 0) != self.higher_is_better:
            return "worse"
        return "not better" if self.fallen else "better"

    @property
    def words(self) -> str:
        """The verdict as it is shown, with the reason where a guard is worse: "not better: coverage fell"."""
        outcome = self.outcome
        return f"{outcome}: {', '.join(guard.what for guard in self.fallen)}" if outcome == "not better" else outcome


def compare(
    base: Sequence[Record],
    other: Sequence[Record],
    metric: CountsMetric,
    *,
    higher_is_better: bool,
    resamples: int = 10_000,
    seed: int = 0,
) -> PairedTest:
    """The verdict on `other`; RecordsError as of `common`.

    Only McNemar's test needs the records of an image in the same order on both sides.
    """
    one = matched(Counted(base, metric), Counted(other, metric), higher_is_better=higher_is_better)
    return verdicts({"": one}, resamples=resamples, seed=seed)[""]


def compare_repeats(
    base: Sequence[Sequence[Record]],
    other: Sequence[Sequence[Record]],
    metric: CountsMetric,
    *,
    higher_is_better: bool,
    resamples: int = 10_000,
    seed: int = 0,
) -> PairedTest:
    """The verdict if a judge was asked several times: each side has the records of every repeat; its score is the mean.

    Interval and p-value include the variance between repeated judge calls. It is estimated from both sides together,
    since they have the same judge, and enters as a Student's t, which is wide for two repeats a side and nearly normal
    for five. Sides may differ in their number of repeats; without repeats nothing is added. Images of which a repeat
    left an answer unrated are left out and counted; RecordsError if none remains.
    """
    sides = ([Counted(records, metric) for records in side] for side in (base, other))
    match = matched_repeats(*sides, higher_is_better=higher_is_better)
    return verdicts({"": match}, resamples=resamples, seed=seed)[""]


def matched(base: Counted, other: Counted, *, higher_is_better: bool) -> Matched:
    """Two models' counts of the images that both have records of; RecordsError as of `common`."""
    images = common([base, other])
    return replace(_match([base], [other], images, higher_is_better), mcnemar=mcnemar_p(base, other, images))


def matched_repeats(base: Sequence[Counted], other: Sequence[Counted], *, higher_is_better: bool) -> Matched:
    """Two models' counts of the images whose answers every repeat of the judge rated; RecordsError if there is none."""
    if not base or not other:
        raise RecordsError("each side needs the records of at least one judge call")
    return _match(base, other, _images_rated_in_all([*base, *other]), higher_is_better)


def verdicts(matches: Mapping[_K, Matched], *, resamples: int = 10_000, seed: int = 0) -> dict[_K, PairedTest]:
    """The verdict on each match, not adjusted; matches over the same images share one draw."""
    groups: dict[bytes, list[_K]] = {}
    for key, one in matches.items():
        if not one.seeds:
            groups.setdefault(one.parts.tobytes(), []).append(key)
    tests = {key: _test_seeds(one, resamples, seed) for key, one in matches.items() if one.seeds}
    for keys in groups.values():
        tests |= zip(keys, _test_on_one_draw([matches[key] for key in keys], resamples, seed), strict=True)
    return {
        key: replace(tests[key], guards=tuple(guard_test(guard, resamples, seed) for guard in one.guards))
        for key, one in matches.items()
    }


def guard_test(guard: MatchedGuard, resamples: int = 10_000, seed: int = 0) -> GuardTest:
    """The test of a guard; one that did not move beyond what is allowed is not tested."""
    one = guard.match
    facts = {"name": guard.name, "what": guard.what, "unit": guard.unit}
    if one is None:
        return GuardTest(**facts, base=None, other=None, allowed=guard.points, p=0.0)
    base, other = (_finite(_scores(one.metric, side).mean()) for side in (one.base, one.other))
    allowed = guard.points + guard.share * abs(base or 0.0)
    p = 1.0
    if base is not None and other is None:
        p = 0.0
    elif not (base is None or other is None) and is_beyond(base, other, allowed, higher_is_better=one.higher_is_better):
        p = verdicts({"": one}, resamples=resamples, seed=seed)[""].p / 2
    return GuardTest(**facts, base=base, other=other, allowed=allowed, p=p)


def _scores(metric: CountsMetric, side: Sequence[Array]) -> Array:
    """The score of each repeat."""
    return np.array([value_of(metric, counts.sum(axis=0)) for counts in side])


def interval(records: Sequence[Record], metric: CountsMetric) -> Ends:
    """The 95% interval of one model's score; (None, None) for fewer than two images, or without a score."""
    return interval_repeats([records], metric) if records else (None, None)


def interval_repeats(repeats: Sequence[Sequence[Record]], metric: CountsMetric) -> Ends:
    """The 95% interval of the mean score over repeats of the judge, on the images that each rated; see
    `compare_repeats`."""
    counts, parts = _counts_of_repeats(repeats, metric)
    if len(parts) < 2:
        return None, None
    judge = _judge_error([_scores(metric, counts)])
    return score_interval(metric, counts, parts, judge=judge if judge[0] > 0 else (0.0, math.inf))


def drawn_interval(
    repeats: Sequence[Sequence[Record]], metric: CountsMetric, *, resamples: int = 10_000, seed: int = 0
) -> Ends:
    """The middle 95% of resampled scores, which boards of earlier versions keep as the interval."""
    counts, parts = _counts_of_repeats(repeats, metric)
    if len(parts) < 2:  # a single image, drawn again and again, shows no spread
        return None, None
    drawn = bootstrap(counts, parts, metric, resamples=resamples, seed=seed)
    return percentiles(drawn.mean(axis=1) + _judge_noise([_scores(metric, counts)], resamples, seed))


def _counts_of_repeats(
    repeats: Sequence[Sequence[Record]], metric: CountsMetric
) -> tuple[list[Array], NDArray[np.int64]]:
    """Each repeat's counts of the images that all rated, and these images' strata."""
    sides = [Counted(records, metric) for records in repeats]
    images = _images_rated_in_all(sides)
    return [side.counts(images) for side in sides], sides[0].strata(images)


def panel(pairs: Mapping[_K, Pair], *, resamples: int = 10_000, seed: int = 0) -> dict[_K, PairedTest]:
    """The verdicts on several metrics, with Holm-adjusted p-values."""
    matches = {
        name: matched(Counted(base, metric), Counted(other, metric), higher_is_better=higher_is_better)
        for name, (base, other, metric, higher_is_better) in pairs.items()
    }
    return adjusted(verdicts(matches, resamples=resamples, seed=seed))


def adjusted(verdicts: Mapping[_K, PairedTest]) -> dict[_K, PairedTest]:
    """The verdicts with Holm-adjusted p-values: the chance of even one false "better" or "worse" is below 5%."""
    p_values = holm([verdict.p for verdict in verdicts.values()])
    return {name: replace(verdict, p=p) for (name, verdict), p in zip(verdicts.items(), p_values, strict=True)}


def _match(base: Sequence[Counted], other: Sequence[Counted], images: Sequence[str], higher_is_better: bool) -> Matched:
    return Matched(
        base=[side.counts(images) for side in base],
        other=[side.counts(images) for side in other],
        metric=base[0].metric,
        higher_is_better=higher_is_better,
        parts=base[0].strata(images),
        left_out=len({image for side in (*base, *other) for image in side.tally}) - len(images),
    )


def _test_on_one_draw(matches: Sequence[Matched], resamples: int, seed: int) -> list[PairedTest]:
    """The tests of matches over the same images, all on one draw."""
    places: dict[tuple[int, bytes], int] = {}
    sides: list[tuple[CountsMetric, Array]] = []

    def place_of(metric: CountsMetric, counts: Array) -> int:
        place = places.setdefault((id(metric), counts.tobytes()), len(sides))  # a base is drawn once for all its tests
        if place == len(sides):
            sides.append((metric, counts))
        return place

    where = [[[place_of(one.metric, counts) for counts in side] for side in (one.base, one.other)] for one in matches]
    parts = matches[0].parts
    drawn = bootstrap_each(sides, parts, resamples=resamples, seed=seed) if len(parts) > 1 else None
    means = [(one.metric, _mean_counts(one.base), _mean_counts(one.other)) for one in matches]
    swaps = swapped(means, parts, resamples=resamples, seed=seed)
    return [
        _verdict(one, [None if drawn is None else drawn[:, side] for side in own], swaps, index, seed)
        for index, (one, own) in enumerate(zip(matches, where, strict=True))
    ]


def _test_seeds(one: Matched, resamples: int, seed: int) -> PairedTest:
    """The test of the mean over seeds, and of each seed by itself: what that says is counted."""
    found = seeds_test(one.metric, one.base, one.other, one.parts)
    each = [replace(one, other=[own], seeds=len(one.base) > 1, guards=()) for own in one.other]
    alone = verdicts(dict(enumerate(each)), resamples=resamples, seed=seed) if len(each) > 1 else {}
    outcomes = [test.outcome for test in alone.values()]
    told = Seeds(
        base=len(one.base),
        other=len(one.other),
        higher=found.higher,
        lower=found.lower,
        better=outcomes.count("better"),
        worse=outcomes.count("worse"),
    )
    return PairedTest(
        difference=found.difference,
        low=found.low,
        high=found.high,
        p=found.p,
        mde=found.mde,
        base=found.base,
        other=found.other,
        images=len(one.parts),
        left_out=one.left_out,
        higher_is_better=one.higher_is_better,
        seeds=told,
    )


def _verdict(one: Matched, drawn: Sequence[Array | None], swaps: Swaps, pair: int, seed: int) -> PairedTest:
    """The test from both sides' bootstrap scores [resamples, repeats] (None for a single image) and the `pair` of all
    that were swapped."""
    scores = [_scores(one.metric, side) for side in (one.base, one.other)]
    before, after = (_finite(side.mean()) for side in scores)
    low, high, error, p = None, None, 0.0, 1.0
    if before is not None and after is not None:
        noise = _judge_noise(scores, len(swaps.differences), seed)
        if drawn[0] is not None and drawn[1] is not None:
            differences = drawn[1].mean(axis=1) - drawn[0].mean(axis=1)
            differences = differences[np.isfinite(differences)]
            error = math.hypot(float(differences.std()), _judge_error(scores)[0]) if differences.size else 0.0
        p = _p_value(one, swaps, pair, noise, scores, error)
        if len(one.parts) > 1:
            low, high = difference_interval(
                one.metric, one.base, one.other, one.parts, difference=after - before, p=p, judge=_judge_error(scores)
            )
    return PairedTest(
        difference=None if before is None or after is None else after - before,
        low=low,
        high=high,
        p=p,
        mde=DETECTED * error if error > TIE * max(abs(before or 0.0), abs(after or 0.0)) else None,
        mcnemar=one.mcnemar,
        base=before,
        other=after,
        images=len(one.parts),
        left_out=one.left_out,
        higher_is_better=one.higher_is_better,
    )


def _p_value(one: Matched, swaps: Swaps, pair: int, noise: Array, scores: Sequence[Array], error: float) -> float:
    """Two-sided; see `PairedTest.p`."""
    base, other = _mean_counts(one.base), _mean_counts(one.other)
    first, second = (float(value_of(one.metric, side.sum(axis=0))) for side in (base, other))
    judge = _judge_error(scores)
    scales, own = swaps.scale(pair, judge[0])
    return permutation_p(
        second - first,
        swaps.differences[:, pair],
        scale=(scales, own / _stretch(one.metric, base, other, one.parts)),
        noise=noise,
        judge=judge,
        error=error,
        apart=int((base != other).any(axis=1).sum()),
        tie=TIE * max(abs(first), abs(second)),
    )


def _stretch(metric: CountsMetric, base: Array, other: Array, parts: NDArray[np.int64]) -> float:
    """How many times as much a difference varies as after swaps, which give both models the same slopes of the metric;
    at least 1, and 1 for less than a hundredth: swaps that equal the difference then still do."""
    seen, after = (
        float((centred(changes, parts) ** 2).sum())
        for changes in (influences(metric, other) - influences(metric, base), changes_by_swaps(metric, base, other))
    )
    return math.sqrt(seen / after) if seen > _NOTABLE * after > 0 else 1.0


def _judge_error(scores: Sequence[Array]) -> tuple[float, float]:
    """Standard error from the judge's variance between repeats, of a difference of two means (or of one mean), and its
    degrees of freedom; see `judge_spread`."""
    deviation, freedom = judge_spread(scores)
    return deviation * math.sqrt(sum(1 / len(side) for side in scores)), freedom


def _judge_noise(scores: Sequence[Array], resamples: int, seed: int) -> Array:
    """Random deviations that the variance between judge calls adds to each resample [resamples]."""
    error, freedom = _judge_error(scores)
    if not error > 0:  # nan if a repeat has no score
        return np.zeros(resamples)
    rng = np.random.default_rng([seed, 1])  # another stream than that of the images
    return error * rng.standard_t(freedom, size=resamples)


def _mean_counts(repeats: Sequence[Array]) -> Array:
    return repeats[0] if len(repeats) == 1 else np.asarray(np.mean(repeats, axis=0))


def _images_rated_in_all(repeats: Sequence[Counted]) -> list[str]:
    """The images with the same number of records in each repeat."""
    first, *others = [one.tally for one in repeats]
    images = [image for image, records in first.items() if all(other[image] == records for other in others)]
    if not images:
        raise RecordsError("no image has all its answers rated in every judge call")
    return images


def _finite(score: float) -> float | None:
    return float(score) if np.isfinite(score) else None
