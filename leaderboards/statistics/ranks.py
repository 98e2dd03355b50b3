"""Who stands where: for each model the ranks that its answers leave open.

    ranks({"a": records, "b": others, "c": more}, accuracy, higher_is_better=True)
    # {"a": Rank(low=1, high=2, ties=("b",)), "b": Rank(low=1, high=2, ties=("a",)), "c": Rank(low=3, high=3, ties=())}

Of each two models it is tested whether one is better, on the images all were asked about; Holm's method keeps the
chance of even one false order among all pairs below 5%. A model ranks behind as many as are significantly better, and
before as many as are significantly worse.

Sixty models make 1,770 pairs, and the best p-value that 10,000 swaps can give, times 1,770, separates nobody. So the
p-value is the tail by which a verdict's own p is extrapolated (`PairedTest.p`), taken as a whole: normal, with the
spread that swaps would have, which is the standard error of the paired bootstrap and what the difference itself adds;
never below what swapping the images on which the two models differ could give. Near the 5% level it can disagree with
the permutation test of a verdict.

If a judge was asked several times, a model's score is the mean over its repeats. The variance between repeated judge
calls is estimated from the scores of all models together, since they have one judge, and adds to the spread, with
Student's tail.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb, hypot, sqrt

import numpy as np
from numpy.typing import NDArray

from leaderboards.statistics.resampling import Array, Counted, CountsMetric, Record, bootstrap, common, value_of
from leaderboards.statistics.significance import ALPHA, holm, judge_spread, least_p, tail

_TIE = 1e-9  # of a score: less is rounding


@dataclass(frozen=True, kw_only=True)
class Rank:
    """The places a model can have."""

    low: int
    """The best; 1 = nobody is significantly better."""

    high: int
    """The worst."""

    ties: tuple[str, ...]
    """Models that this one cannot be told apart from."""

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}–{self.high}"


def ranks(
    models: Mapping[str, Sequence[Record]],
    metric: CountsMetric,
    *,
    higher_is_better: bool,
    resamples: int = 2_000,
    seed: int = 0,
) -> dict[str, Rank | None]:
    """The rank of each model, None where it has no score; RecordsError if no image is in all records, or one has more
    of one."""
    sides = {name: [Counted(records, metric)] for name, records in models.items()}
    return ranks_of(sides, higher_is_better=higher_is_better, resamples=resamples, seed=seed)


def ranks_of(
    models: Mapping[str, Sequence[Counted]], *, higher_is_better: bool, resamples: int = 2_000, seed: int = 0
) -> dict[str, Rank | None]:
    """As `ranks`, of the records of each repeat of the judge (one if there is none), counted by one metric."""
    if not models:
        return {}
    images = common([repeat for side in models.values() for repeat in side])
    every = {name: [repeat.counts(images) for repeat in side] for name, side in models.items()}
    metric = next(iter(models.values()))[0].metric
    single = {name: np.array([value_of(metric, counts.sum(axis=0)) for counts in side]) for name, side in every.items()}
    scores = {name: float(found.mean()) for name, found in single.items()}
    counts = {name: side[0] if len(side) == 1 else np.asarray(np.mean(side, axis=0)) for name, side in every.items()}
    ranked = [name for name in models if np.isfinite(scores[name])]
    pairs = list(combinations(ranked, 2))
    parts = models[ranked[0]][0].strata(images) if ranked else np.zeros(0, dtype=np.int64)
    own = {name: single[name] for name in ranked}
    raw = (
        _p_values({name: counts[name] for name in ranked}, scores, own, parts, metric, resamples, seed) if pairs else []
    )
    better: dict[str, set[str]] = {name: set() for name in ranked}
    worse: dict[str, set[str]] = {name: set() for name in ranked}
    for (one, two), p in zip(pairs, holm(raw), strict=True):
        if p <= ALPHA:
            first, second = (one, two) if (scores[one] > scores[two]) == higher_is_better else (two, one)
            better[second].add(first)
            worse[first].add(second)
    found: dict[str, Rank | None] = dict.fromkeys(models)
    for name in ranked:
        ties = tuple(other for other in ranked if other != name and other not in better[name] | worse[name])
        found[name] = Rank(low=1 + len(better[name]), high=len(ranked) - len(worse[name]), ties=ties)
    return found


def _p_values(
    counts: Mapping[str, Array],
    scores: Mapping[str, float],
    repeats: Mapping[str, Array],
    parts: NDArray[np.int64],
    metric: CountsMetric,
    resamples: int,
    seed: int,
) -> list[float]:
    """p of each two models being the same, in the order of `combinations`."""
    names = list(counts)
    images = len(parts)
    if images < 2:
        return [1.0] * comb(len(names), 2)
    drawn = bootstrap(list(counts.values()), parts, metric, resamples=resamples, seed=seed)
    drawn = drawn[np.isfinite(drawn).all(axis=1)]
    if len(drawn) < 2:
        return [1.0] * comb(len(names), 2)
    spread = np.atleast_2d(np.cov(drawn, rowvar=False))
    deviation, freedom = judge_spread(list(repeats.values()))
    found = []
    for (i, one), (j, two) in combinations(enumerate(names), 2):
        difference = abs(scores[one] - scores[two])
        apart = int((counts[one] != counts[two]).any(axis=1).sum())
        if difference <= _TIE * max(abs(scores[one]), abs(scores[two])):
            found.append(1.0)
            continue
        error = sqrt(max(0.0, spread[i, i] + spread[j, j] - 2 * spread[i, j]))
        shared = deviation * sqrt(1 / len(repeats[one]) + 1 / len(repeats[two]))
        found.append(max(tail(difference / hypot(error, difference / sqrt(images), shared), freedom), least_p(apart)))
    return found
