"""Simulated trainings with several seeds, for `test_seed_groups.py` and docs/statistics-seeds.csv.

PYTHONPATH=. python -m tests.leaderboards.seed_cells [RUNS] > cells.csv      # some minutes on one core
"""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from statistics import NormalDist
from zlib import crc32

import numpy as np
from numpy.random import Generator

from leaderboards.statistics.resampling import Array, value_of
from leaderboards.statistics.seed_groups import seeds_interval, seeds_test
from tests.leaderboards.edge_cells import METRICS

SEEDS, IMAGES, RATES, SPREADS, SHARED = (3, 5, 10), (100, 400), (0.5, 0.8, 0.95), (0.0, 0.1, 0.3), (0.3, 2.0)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One simulated recipe, trained with some seeds, and its base."""

    kind: str
    seeds: int
    base: int
    """Seeds of the base; 1: one model, of which nothing is drawn by chance."""
    images: int
    rate: float
    """Of right answers, over all seeds and images; the base has the same."""
    spread: float
    """Standard deviation of the seeds' ability, in probits: 0.3 is 9 points at a rate of 80%."""
    shared: float
    """Standard deviation of the images' easiness, which all models share; what one answer has alone has 1."""

    @property
    def questions(self) -> int:
        """About each image."""
        return 1 if self.kind == "rate" else 6


def answers(rng: Generator, cell: Cell, easy: Array, seeds: int, spread: float) -> Array:
    """1 and 0 [seeds, images, questions]."""
    level = NormalDist().inv_cdf(cell.rate) * math.sqrt(1 + cell.shared**2 + spread**2)
    own = rng.normal(0, spread, seeds)[:, None, None] if spread else 0.0
    noise = rng.normal(0, 1, (seeds, len(easy), cell.questions))
    return (level + own + easy[:, None] + noise > 0).astype(np.float64)


def counted(rng: Generator, cell: Cell, right: Array) -> list[Array]:
    """Each seed's counts [images, k], of the same questions."""
    state = int(rng.integers(1 << 32))
    return [METRICS[cell.kind][0](own, np.random.default_rng(state)) for own in right]


@cache
def truth(cell: Cell, spread: float) -> float:
    """The mean score of a seed, from 300 of them on 4,000 images."""
    rng, metric, scores = np.random.default_rng(99), METRICS[cell.kind][1], []
    for _ in range(300):
        easy = rng.normal(0, cell.shared, 4000)
        counts = counted(rng, cell, answers(rng, cell, easy, 1, spread))[0]
        scores.append(float(value_of(metric, counts.sum(axis=0))))
    return float(np.mean(scores))


def covered(cell: Cell, runs: int) -> tuple[float, float, float]:
    """The share of intervals of the mean that hold the truth; the same of the difference to the base; and how often the
    better of the two is told though it is none (or none is, where the truth is a difference)."""
    rng, metric = np.random.default_rng(crc32(repr(cell).encode())), METRICS[cell.kind][1]
    parts, of_base = np.zeros(cell.images, dtype=np.int64), cell.spread if cell.base > 1 else 0.0
    known, before = (
        (100 * cell.rate, 100 * cell.rate) if cell.kind == "rate" else (truth(cell, cell.spread), truth(cell, of_base))
    )
    hits = np.zeros(3)
    for _ in range(runs):
        easy = rng.normal(0, cell.shared, cell.images)
        other = counted(rng, cell, answers(rng, cell, easy, cell.seeds, cell.spread))
        base = counted(rng, cell, answers(rng, cell, easy, cell.base, of_base))
        low, high = seeds_interval(metric, other, parts)
        test = seeds_test(metric, base, other, parts)
        if low is None or high is None or test.low is None or test.high is None:
            raise AssertionError(cell)
        hits += low <= known <= high, test.low <= known - before <= test.high, test.p <= 0.05
    mean, difference, told = hits / runs
    return float(mean), float(difference), float(told)


def grid() -> Iterator[Cell]:
    """All cells of docs/statistics-seeds.csv."""
    for kind, (seeds, base), images in product(("rate", "f1", "chair"), [(3, 1), (5, 1), (10, 1), (5, 5)], IMAGES):
        for rate, spread, shared in product(RATES, SPREADS, SHARED):
            yield Cell(kind=kind, seeds=seeds, base=base, images=images, rate=rate, spread=spread, shared=shared)


def line(cell: Cell, runs: int) -> str:
    """The cell's line of docs/statistics-seeds.csv."""
    shares = (f"{share:.4f}" for share in covered(cell, runs))
    row = (cell.kind, cell.seeds, cell.base, cell.images, cell.rate, cell.spread, cell.shared, runs, *shares)
    return ",".join(map(str, row))


def main(runs: int) -> None:
    print("kind,seeds,base seeds,images,rate,spread,shared,runs,mean,difference,told apart")
    for cell in grid():
        print(line(cell, runs), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
