"""Ranks: for each model the range of places that its answers allow.

    ranks({"a": records, "b": others, "c": more}, accuracy, higher_is_better=True)
    # {"a": Rank(low=1, high=2, ties=("b",)), "b": Rank(low=1, high=2, ties=("a",)), "c": Rank(low=3, high=3, ties=())}

Each two models are tested against each other, on the images that all have records of. Holm's method keeps the chance of
even one false order among all pairs below 5%. A model's best rank is 1 + the number of models significantly better; its
worst is the number of models minus those significantly worse. Where a metric has guards, a model is better only if none
of them is worse (`MayLead`).

Sixty models make 1,770 pairs: the smallest p-value that 10,000 swaps can give, times 1,770, separates no pair. So p is
computed from the normal tail that extrapolates a verdict's p (`PairedTest.p`): its standard deviation combines the
standard error of the paired bootstrap and the difference itself; p is never below the smallest one that swapping the
differing images can give. Near the 5% level it can disagree with a verdict's permutation test.

If a judge was asked several times, a model's score is the mean over the repeats. The variance between repeated judge
calls is estimated from all models together, since they have the same judge, and adds to the spread, with Student's
tail.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb, hypot, sqrt

import numpy as np

from leaderboards.statistics.resampling import Array, Counted, CountsMetric, Record, bootstrap, common, value_of
from leaderboards.statistics.seed_groups import scores_of, seeds_test
from leaderboards.statistics.significance import ALPHA, holm, judge_spread, least_p, tail

_TIE = 1e-9  # relative difference of two scores below which they are equal but for rounding


MayLead = Callable[[str, str], bool]
"""Of two models the one with the significantly better score, and the other -> whether it counts as better."""


@dataclass(frozen=True, kw_only=True)
class Rank:
    """The places a model can have."""

    low: int
    """The best rank; 1 = no model is significantly better."""

    high: int
    """The worst rank."""

    ties: tuple[str, ...]
    """Models that are neither significantly better nor worse."""

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
    """The rank of each model, None where it has no score; RecordsError as of `common`."""
    sides = {name: [Counted(records, metric)] for name, records in models.items()}
    return ranks_of(sides, higher_is_better=higher_is_better, resamples=resamples, seed=seed)


def ranks_of(
    models: Mapping[str, Sequence[Counted]],
    *,
    higher_is_better: bool,
    may_lead: MayLead = lambda first, second: True,
    resamples: int = 2_000,
    seed: int = 0,
) -> dict[str, Rank | None]:
    """As `ranks`, where each model has the records of each repeat of the judge (one without a judge), all for one
    metric."""
    if not models:
        return {}
    images = common([repeat for side in models.values() for repeat in side])
    by_repeat = {name: [repeat.counts(images) for repeat in side] for name, side in models.items()}
    metric = next(iter(models.values()))[0].metric
    single = {name: np.array([value_of(metric, own.sum(axis=0)) for own in side]) for name, side in by_repeat.items()}
    scores = {name: float(values.mean()) for name, values in single.items()}
    ranked = [name for name in models if np.isfinite(scores[name])]
    pairs = list(combinations(ranked, 2))
    raw: list[float] = []
    if pairs:
        counts = {name: np.asarray(np.mean(by_repeat[name], axis=0)) for name in ranked}
        drawn = (
            bootstrap(
                list(counts.values()), models[ranked[0]][0].strata(images), metric, resamples=resamples, seed=seed
            )
            if len(images) > 1
            else np.zeros((0, len(ranked)))
        )
        raw = _p_values(counts, {name: single[name] for name in ranked}, drawn)
    return _places(models, {name: scores[name] for name in ranked}, raw, higher_is_better, may_lead)


def ranks_of_seeds(
    models: Mapping[str, Sequence[Sequence[Counted]]],
    *,
    higher_is_better: bool,
    may_lead: MayLead = lambda first, second: True,
) -> dict[str, Rank | None]:
    """As `ranks_of`, where some models are several trainings: each has the records of each seed and repeat of the
    judge. Each two are tested by `seeds_test`, over seeds and images."""
    images = common([repeat for side in models.values() for repeats in side for repeat in repeats])
    first = next(iter(models.values()))[0][0]
    metric, parts = first.metric, first.strata(images)
    counts = {
        name: [np.asarray(np.mean([repeat.counts(images) for repeat in repeats], axis=0)) for repeats in side]
        for name, side in models.items()
    }
    scores = {name: float(scores_of(metric, own).mean()) for name, own in counts.items()}
    known = {name: score for name, score in scores.items() if np.isfinite(score)}
    raw = [seeds_test(metric, counts[one], counts[two], parts).p for one, two in combinations(known, 2)]
    return _places(models, known, raw, higher_is_better, may_lead)


def _places(
    models: Iterable[str], scores: Mapping[str, float], raw: Sequence[float], higher_is_better: bool, may_lead: MayLead
) -> dict[str, Rank | None]:
    """The rank of each model, of those with a score by the p-values of each two of them."""
    ranked = list(scores)
    better: dict[str, set[str]] = {name: set() for name in ranked}
    worse: dict[str, set[str]] = {name: set() for name in ranked}
    for (one, two), p in zip(combinations(ranked, 2), holm(raw), strict=True):
        if p <= ALPHA:
            first, second = (one, two) if (scores[one] > scores[two]) == higher_is_better else (two, one)
            if may_lead(first, second):
                better[second].add(first)
                worse[first].add(second)
    result: dict[str, Rank | None] = dict.fromkeys(models)
    for name in ranked:
        ties = tuple(other for other in ranked if other != name and other not in better[name] | worse[name])
        result[name] = Rank(low=1 + len(better[name]), high=len(ranked) - len(worse[name]), ties=ties)
    return result


def _p_values(counts: Mapping[str, Array], repeats: Mapping[str, Array], drawn: Array) -> list[float]:
    """p of equal models for each two, in the order of `combinations`.

    `counts` has each model's [images, k], `repeats` its score in each repeat of the judge, `drawn` the resampled scores
    [resamples, models].
    """
    drawn = drawn[np.isfinite(drawn).all(axis=1)]
    if len(drawn) < 2:
        return [1.0] * comb(len(counts), 2)
    spread = np.atleast_2d(np.cov(drawn, rowvar=False))
    deviation, freedom = judge_spread(list(repeats.values()))
    p_values = []
    for (i, one), (j, two) in combinations(enumerate(counts), 2):
        first, second = float(repeats[one].mean()), float(repeats[two].mean())
        difference = abs(first - second)
        differing = (counts[one] != counts[two]).any(axis=1)
        if difference <= _TIE * max(abs(first), abs(second)):
            p_values.append(1.0)
            continue
        error = sqrt(max(0.0, spread[i, i] + spread[j, j] - 2 * spread[i, j]))
        shared = deviation * sqrt(1 / len(repeats[one]) + 1 / len(repeats[two]))
        own = difference / sqrt(len(differing))
        p_values.append(max(tail(difference / hypot(error, own, shared), freedom), least_p(int(differing.sum()))))
    return p_values
