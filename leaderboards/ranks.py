"""Who stands where: for each model the ranks that its answers leave open.

    ranks({"a": records, "b": others, "c": more}, accuracy, higher_is_better=True)
    # {"a": Rank(low=1, high=2, ties=("b",)), "b": Rank(low=1, high=2, ties=("a",)), "c": Rank(low=3, high=3, ties=())}

Of each two models it is tested whether one is better, on the images all were asked about; Holm's method keeps the chance of even one false
order among all pairs below 5%. A model ranks behind as many as are significantly better, and before as many as are significantly worse.

Sixty models make 1,770 pairs, and the best p-value that 10,000 swaps can give, times 1,770, separates nobody. So the p-value is that of a
t-test on the standard error of the paired bootstrap, which has no such floor, but never below what swapping the images on which the two
models differ could give. Near the 5% level it can disagree with the permutation test of a verdict.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb, sqrt

import numpy as np

from leaderboards.resampling import Array, CountsMetric, Record, bootstrap, common, counts_of, strata, value_of
from leaderboards.verdict import ALPHA, holm

_TIE = 1e-9  # of a score: less is rounding


@dataclass(frozen=True, kw_only=True)
class Rank:
    """The places a model can have."""

    low: int
    """The best; 1 = nobody is significantly better."""

    high: int
    """The worst."""

    ties: tuple[str, ...]
    """Models from which this one cannot be told."""

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}–{self.high}"


def ranks(
    models: Mapping[str, Sequence[Record]], metric: CountsMetric, *, higher_is_better: bool, resamples: int = 2_000, seed: int = 0
) -> dict[str, Rank | None]:
    """The rank of each model, None where it has no score; RecordsError if no image is in all records, or one has more of one."""
    if not models:
        return {}
    images = common(list(models.values()))
    counts = {name: counts_of(records, images, metric) for name, records in models.items()}
    scores = {name: float(value_of(metric, found.sum(axis=0))) for name, found in counts.items()}
    ranked = [name for name in models if np.isfinite(scores[name])]
    pairs = list(combinations(ranked, 2))
    raw = _p_values({name: counts[name] for name in ranked}, scores, models[ranked[0]], images, metric, resamples, seed) if pairs else []
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
    records: Sequence[Record],
    images: Sequence[str],
    metric: CountsMetric,
    resamples: int,
    seed: int,
) -> list[float]:
    """Of each two models being the same, in the order of `combinations`."""
    names = list(counts)
    if len(images) < 2:
        return [1.0] * comb(len(names), 2)
    from scipy import stats  # inside: takes half a second

    parts = strata(records, images)
    drawn = bootstrap(list(counts.values()), parts, metric, resamples=resamples, seed=seed)
    drawn = drawn[np.isfinite(drawn).all(axis=1)]
    if len(drawn) < 2:
        return [1.0] * comb(len(names), 2)
    spread = np.atleast_2d(np.cov(drawn, rowvar=False))
    freedom = len(images) - len(np.unique(parts))
    found = []
    for (i, one), (j, two) in combinations(enumerate(names), 2):
        difference = abs(scores[one] - scores[two])
        apart = int((counts[one] != counts[two]).any(axis=1).sum())
        if difference <= _TIE * max(abs(scores[one]), abs(scores[two])):
            found.append(1.0)
            continue
        error = sqrt(max(0.0, spread[i, i] + spread[j, j] - 2 * spread[i, j]))
        by_spread = 2 * float(stats.t.sf(difference / error, freedom)) if error > 0 else 0.0
        found.append(max(by_spread, 2.0 ** (1 - apart)))
    return found
