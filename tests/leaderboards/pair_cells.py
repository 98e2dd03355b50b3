"""Simulated pairs of models: how often a verdict alarms without reason, and how often it finds a difference.

Beside the verdict stand published tests on the same draws: McNemar's mid-p where there is one question an image, a
cluster-robust t and the BCa bootstrap.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from zlib import crc32

import numpy as np
from numpy.random import Generator
from scipy import stats

from leaderboards.statistics.edge_intervals import centred, influences
from leaderboards.statistics.matches import Matched
from leaderboards.statistics.resampling import Array, CountsMetric, bootstrap, swapped, value_of
from leaderboards.statistics.significance import ALPHA
from leaderboards.statistics.verdict import PairedTest, verdicts
from tests.leaderboards.edge_cells import METRICS, parts_of

RESAMPLES = 999
LARGE = 20_000  # images that tell a truth, or 50 times those of a cell: its error is a seventh of the cell's then
TESTS = ("McNemar mid-p", "cluster-robust t", "BCa")

Draws = Sequence[tuple[Array, Array]]
"""Both models' counts [images, k] of each run."""


@dataclass(frozen=True, kw_only=True)
class PairCell:
    """Two models on one simulated benchmark."""

    kind: str
    images: int
    questions: int
    """About each image."""
    rho: float
    """Correlation of the answers about one image."""
    rate: float
    """Of right answers; the mean of ratings as a share of their scale."""
    anew: float
    """Share of the answers that the second model gives independently of the first; the others are the same."""


def drawn_pairs(rng: Generator, cell: PairCell, spoiled: float, runs: int, images: int) -> Draws:
    """`spoiled`: share of the second model's more frequent answers that are turned into the other one."""
    make, _ = METRICS[cell.kind]
    shape, chance = (runs * images, cell.questions), np.full((runs * images, 1), cell.rate)
    if cell.rho > 0:
        right, wrong = (side * (1 - cell.rho) / cell.rho for side in (cell.rate, 1 - cell.rate))
        chance = rng.beta(right, wrong, chance.shape)
    base = (rng.random(shape) < chance).astype(np.float64)
    other = np.where(rng.random(shape) < cell.anew, rng.random(shape) < chance, base)
    other = np.where((rng.random(shape) < spoiled) & (other == (cell.rate >= 0.5)), 1 - other, other)
    same = int(rng.integers(2**31))  # which question is which, and what is named, is the same for both models
    sides = [make(side, np.random.default_rng(same)).reshape(runs, images, -1) for side in (base, other)]
    return list(zip(*sides, strict=True))


@cache
def large_difference(cell: PairCell, spoiled: float) -> tuple[float, float]:
    """The true difference, and the standard error of one of `cell.images` images."""
    large = max(LARGE, 50 * cell.images)
    ((base, other),) = drawn_pairs(np.random.default_rng(7), cell, spoiled, 1, large)
    metric = METRICS[cell.kind][1]
    changes = influences(metric, other) - influences(metric, base)
    error = float(np.sqrt((centred(changes, parts_of(cell.kind, large)) ** 2).sum() * large / cell.images))
    return difference_of(metric, base, other), error


def difference_of(metric: CountsMetric, base: Array, other: Array) -> float:
    return float(value_of(metric, other.sum(axis=0)) - value_of(metric, base.sum(axis=0)))


@cache
def findable(cell: PairCell) -> float:
    """The share to spoil for a difference of 2.5 standard errors, or as much as there can be."""
    low, high = 0.0, 1.0
    for _ in range(10):
        middle = (low + high) / 2
        truth, error = large_difference(cell, middle)
        low, high = (low, middle) if abs(truth) > 2.5 * error else (middle, high)
    return high


def verdicts_of(draws: Draws, kind: str) -> list[PairedTest]:
    metric, parts = METRICS[kind][1], parts_of(kind, len(draws[0][0]))
    matches = {
        run: Matched(base=[base], other=[other], metric=metric, higher_is_better=True, parts=parts)
        for run, (base, other) in enumerate(draws)
    }
    return list(verdicts(matches, resamples=RESAMPLES, seed=1).values())


def told_apart(test: PairedTest) -> bool:
    return test.outcome != "not separable"


def published(draws: Draws, kind: str, questions: int) -> dict[str, float]:
    """How often each of `TESTS` tells the models apart; nan where it is not made for them."""
    metric, parts = METRICS[kind][1], parts_of(kind, len(draws[0][0]))
    drawn = bootstrap([side for pair in draws for side in pair], parts, metric, resamples=RESAMPLES, seed=2)
    found = {name: np.zeros(len(draws), dtype=bool) for name in TESTS}
    for run, (base, other) in enumerate(draws):
        apart = difference_of(metric, base, other)
        changes = centred(influences(metric, other) - influences(metric, base), parts)
        error = float(np.sqrt((changes**2).sum()))
        if not (np.isfinite(apart) and error > 0):
            continue
        freedom = len(base) - len(np.unique(parts))
        found["cluster-robust t"][run] = 2 * stats.t.sf(abs(apart) / error, freedom) <= ALPHA
        found["BCa"][run] = _is_beyond_bca(drawn[:, 2 * run + 1] - drawn[:, 2 * run], apart, changes)
        flips = other[:, 0] - base[:, 0]
        gained, lost = int((flips > 0).sum()), int((flips < 0).sum())
        low = stats.binom.cdf(min(gained, lost), gained + lost, 0.5)
        own = stats.binom.pmf(min(gained, lost), gained + lost, 0.5)
        found["McNemar mid-p"][run] = gained != lost and 2 * low - own <= ALPHA
    shares = {name: float(alarms.mean()) for name, alarms in found.items()}
    return shares if (kind, questions) == ("rate", 1) else shares | {"McNemar mid-p": float("nan")}


def _is_beyond_bca(drawn: Array, apart: float, changes: Array) -> bool:
    """Whether 0 is outside of Efron's bias-corrected and accelerated interval (1987)."""
    drawn = drawn[np.isfinite(drawn)]
    below = (np.count_nonzero(drawn < apart - 1e-9) + np.count_nonzero(abs(drawn - apart) <= 1e-9) / 2) / len(drawn)
    if not 0 < below < 1:
        return False
    bias, bent = stats.norm.ppf(below), (changes**3).sum() / (6 * (changes**2).sum() ** 1.5)
    shares = [stats.norm.cdf(bias + (bias + z) / (1 - bent * (bias + z))) for z in stats.norm.ppf([0.025, 0.975])]
    low, high = np.quantile(drawn, shares)
    return bool(low > 0 or high < 0)


def attainable(draws: Draws, kind: str, most: float = 0.1) -> float:
    """The false alarms of the boldest test by swaps that has, given any run's flips, at most so many."""
    metric, parts = METRICS[kind][1], parts_of(kind, len(draws[0][0]))
    swaps = swapped([(metric, *pair) for pair in draws], parts, resamples=RESAMPLES, seed=3).differences
    shares = []
    for sizes in np.where(np.isfinite(swaps), abs(swaps), np.inf).T:
        _, counts = np.unique(np.round(sizes, 7), return_counts=True)
        above = np.cumsum(counts[::-1]) / len(sizes)  # of the largest size, of the two largest, ...
        shares.append(float(above[above <= most].max(initial=0.0)))
    return float(np.mean(shares))


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was found of one cell, as shares of the runs."""

    coverage: float
    """Of the truth by intervals of a difference that is there."""
    width: float
    false_alarms: float
    power: float
    attainable: float
    published: dict[str, tuple[float, float]]
    """False alarms and power of each of `TESTS`."""


def simulate(cell: PairCell, runs: int) -> Found:
    """Each cell has its seed."""
    rng, spoiled = np.random.default_rng(crc32(repr(cell).encode())), findable(cell)
    equal, unequal = (drawn_pairs(rng, cell, share, runs, cell.images) for share in (0.0, spoiled))
    truth, _ = large_difference(cell, spoiled)
    tests = verdicts_of(unequal, cell.kind)
    ends = [(test.low, test.high) for test in tests if test.low is not None and test.high is not None]
    others = [published(draws, cell.kind, cell.questions) for draws in (equal, unequal)]
    return Found(
        coverage=float(np.mean([low <= truth <= high for low, high in ends])),
        width=float(np.mean([high - low for low, high in ends])),
        false_alarms=float(np.mean(list(map(told_apart, verdicts_of(equal, cell.kind))))),
        power=float(np.mean(list(map(told_apart, tests)))),
        attainable=attainable(equal, cell.kind),
        published={name: (others[0][name], others[1][name]) for name in TESTS},
    )


def pair_grid() -> Iterator[PairCell]:
    """All cells of two models."""
    kinds = [("rate", 1, 0.0), ("rate", 6, 0.0), ("rate", 6, 0.8), ("f1", 6, 0.3), ("mme", 2, 0.3), ("chair", 6, 0.3)]
    kinds += [("chair", 6, 0.8), ("fAcc", 6, 0.3), ("qAcc", 6, 0.3), ("ratings 0-6", 1, 0.0), ("ratings 1-5", 1, 0.0)]
    for (kind, questions, rho), rate, images in product(kinds, (0.1, 0.5, 0.98), (20, 100, 400)):
        if images == {0.1: 100, 0.5: 20, 0.98: 400}[rate] or images == 100:
            yield PairCell(kind=kind, images=images, questions=questions, rho=rho, rate=rate, anew=0.5)
    yield PairCell(kind="mme, 10 categories", images=400, questions=2, rho=0.3, rate=0.9, anew=0.5)
    yield PairCell(kind="rate", images=3000, questions=1, rho=0.0, rate=0.9, anew=0.5)
