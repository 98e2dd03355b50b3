"""Published intervals on the same simulated benchmarks as ours, for the table in docs/statistics.md.

PYTHONPATH=. python -m tests.leaderboards.other_intervals [RUNS]      # a quarter of an hour on one core
"""

import sys
from collections.abc import Callable
from typing import Any
from zlib import crc32

import numpy as np
from scipy import stats

from leaderboards.statistics.edge_intervals import centred, influences
from leaderboards.statistics.resampling import Array, CountsMetric, bootstrap, value_of
from tests.leaderboards.edge_cells import METRICS, Cell, drawn, interval_of, truth

RESAMPLES = 400
Z = stats.norm.ppf(0.975)

CELLS = (
    Cell(kind="rate", images=20, questions=1, rho=0, rate=0.98),
    Cell(kind="rate", images=20, questions=1, rho=0, rate=0.9),
    Cell(kind="rate", images=100, questions=1, rho=0, rate=0.98),
    Cell(kind="rate", images=400, questions=1, rho=0, rate=0.995),
    Cell(kind="rate", images=100, questions=1, rho=0, rate=0.5),
    Cell(kind="rate", images=40, questions=6, rho=0.8, rate=0.9),
    Cell(kind="f1", images=100, questions=6, rho=0.8, rate=0.98),
    Cell(kind="chair", images=100, questions=6, rho=0.3, rate=0.02),
    Cell(kind="mme", images=20, questions=2, rho=0.3, rate=0.9),
    Cell(kind="ratings 0-6", images=40, questions=1, rho=0, rate=0.9),
)


def percentile(metric: CountsMetric, counts: Array, score: float) -> Array:
    return np.asarray(np.quantile(_drawn(metric, counts), [0.025, 0.975]))


def bca(metric: CountsMetric, counts: Array, score: float) -> Array:
    """Efron (1987)."""
    scores, changes = _drawn(metric, counts), influences(metric, counts)
    below = (np.mean(scores < score - 1e-9) + np.mean(scores <= score + 1e-9)) / 2
    if not 0 < below < 1 or not (changes**2).sum() > 0:
        return np.array([score, score])
    bias, bent = stats.norm.ppf(below), (changes**3).sum() / (6 * (changes**2).sum() ** 1.5)
    shares = [stats.norm.cdf(bias + (bias + z) / (1 - bent * (bias + z))) for z in (-Z, Z)]
    return np.asarray(np.quantile(scores, shares))


def studentised(metric: CountsMetric, counts: Array, score: float) -> Array:
    """The bootstrap-t; a resample without any spread counts as no deviation."""
    rng, images = np.random.default_rng(0), len(counts)
    times = rng.multinomial(images, np.full(images, 1 / images), size=RESAMPLES).astype(np.float64)
    sums = times @ counts
    scores = value_of(metric, sums)
    changes = (scores[:, None] - value_of(metric, sums[:, None] - 1e-3 * counts)) / 1e-3
    errors = np.sqrt((times * changes**2).sum(axis=1))
    own = float(np.sqrt((centred(influences(metric, counts), np.zeros(images, dtype=np.int64)) ** 2).sum()))
    far = np.where(errors > 1e-12, (scores - score) / np.maximum(errors, 1e-12), 0.0)
    low, high = np.quantile(far[np.isfinite(far)], [0.025, 0.975])
    return np.array([score - high * own, score - low * own])


def student(metric: CountsMetric, counts: Array, score: float) -> Array:
    """Student's t with the jackknife's error."""
    error = float(np.sqrt((centred(influences(metric, counts), np.zeros(len(counts), dtype=np.int64)) ** 2).sum()))
    return np.asarray(score + stats.t.ppf(0.975, len(counts) - 1) * error * np.array([-1, 1]))


def score_test(metric: CountsMetric, counts: Array, score: float) -> Array:
    """Wilson's inversion of the score test, of an effective sample size; of all images where nothing varies."""
    top = {id(METRICS["ratings 0-6"][1]): 6.0, id(METRICS["mme"][1]): 200.0}.get(id(metric), 100.0)
    share = score / top
    error = (
        float(np.sqrt((centred(influences(metric, counts), np.zeros(len(counts), dtype=np.int64)) ** 2).sum())) / top
    )
    answers = share * (1 - share) / error**2 if error > 1e-12 else float(len(counts))
    middle, weight = (share + Z**2 / (2 * answers)) / (1 + Z**2 / answers), 1 + Z**2 / answers
    reach = Z * np.sqrt(share * (1 - share) / answers + Z**2 / (4 * answers**2)) / weight
    return top * np.array([middle - reach, middle + reach])


METHODS: dict[str, Callable[[CountsMetric, Array, float], Array]] = {
    "percentile bootstrap": percentile,
    "BCa bootstrap": bca,
    "studentised bootstrap": studentised,
    "Student's t": student,
    "inverted score test (Wilson), effective sample size": score_test,
}


def _drawn(metric: CountsMetric, counts: Array) -> Array:
    parts = np.zeros(len(counts), dtype=np.int64)
    scores = bootstrap([counts], parts, metric, resamples=RESAMPLES, seed=0)[:, 0]
    return scores[np.isfinite(scores)]


def coverages(cell: Cell, runs: int) -> dict[str, tuple[float, float]]:
    """Coverage and mean width of each method and of ours; a run without a score is left out."""
    rng, (make, metric) = np.random.default_rng(crc32(repr(cell).encode())), METRICS[cell.kind]
    known = truth(cell.kind, cell.questions, cell.rho, cell.rate)
    found: dict[str, list[Any]] = {name: [] for name in ("ours", *METHODS)}
    for _ in range(runs):
        counts = make(drawn(rng, cell.rate, cell.rho, (cell.images, cell.questions)), rng)
        score = float(value_of(metric, counts.sum(axis=0)))
        if not np.isfinite(score):
            continue
        found["ours"].append(interval_of(cell.kind, counts, rng))
        for name, method in METHODS.items():
            found[name].append(method(metric, counts, score))
    ends = {name: np.array(own, dtype=np.float64) for name, own in found.items()}
    return {
        name: (
            float(((own[:, 0] <= known + 1e-9) & (own[:, 1] >= known - 1e-9)).mean()),
            float((own[:, 1] - own[:, 0]).mean()),
        )
        for name, own in ends.items()
    }


def main(runs: int) -> None:
    print("| cell |", *(f"{name} |" for name in ("ours", *METHODS)))
    print("|---|" + "--:|" * (1 + len(METHODS)))
    for cell in CELLS:
        found = coverages(cell, runs)
        print(
            f"| {cell.kind}, {100 * cell.rate:g}%, {cell.images} images x {cell.questions}, rho {cell.rho:g} |",
            *(f"{100 * share:.1f} ({width:.3g}) |" for share, width in found.values()),
            flush=True,
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
