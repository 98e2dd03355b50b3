"""Simulated benchmarks, also near the ends of their scales, for `test_coverage.py` and docs/statistics.csv."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from zlib import crc32

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from leaderboards.statistics.edge_intervals import Ends, difference_interval, score_interval
from leaderboards.statistics.resampling import Array, CountsMetric, value_of
from tasks.benchmarks import mme, yes_no
from tasks.metric import mean_of, ratio_of

RATES = (0.005, 0.02, 0.1, 0.5, 0.9, 0.98, 0.995)
IMAGES = (20, 40, 100, 400, 3000)
MANY = 3000  # images, of which only some rates are simulated
CATEGORIES = 10
MOOD = 0.15  # of a judge, in points: what all ratings of one of its repeats share

FLIPS: tuple[tuple[float, float, float], ...] = (  # rate of right answers, gain, loss
    *((0.5, 0.0, 0.0), (0.5, 0.01, 0.01), (0.5, 0.1, 0.05), (0.5, 0.3, 0.3), (0.9, 0.02, 0.005), (0.9, 0.5, 0.01)),
    *((0.98, 0.3, 0.005), (0.995, 0.5, 0.005), (0.05, 0.9, 0.1)),
)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One simulated benchmark."""

    kind: str
    images: int
    questions: int
    """About each image."""
    rho: float
    """Correlation of the answers about one image."""
    rate: float
    """Of right answers; the mean of ratings as a share of their scale."""
    gain: float | None = None
    """Of a second model: share of wrong answers made right; None: a score, no difference."""
    loss: float = 0.0
    """Share of right answers made wrong."""


def drawn(rng: Generator, rate: float, rho: float, shape: tuple[int, int]) -> Array:
    """1 and 0 [images, questions], beta-binomial within an image."""
    if rho == 0 or rate in (0, 1):
        return (rng.random(shape) < rate).astype(np.float64)
    chance = rng.beta(rate * (1 - rho) / rho, (1 - rate) * (1 - rho) / rho, shape[0])
    return (rng.random(shape) < chance[:, None]).astype(np.float64)


def rates(right: Array, rng: Generator) -> Array:
    return np.stack([right.sum(axis=1), np.full(len(right), float(right.shape[1]))], axis=1)


def yes_and_no(right: Array, rng: Generator) -> Array:
    """Counts of `yes_no`: every other question is answered by yes; of one question an image, at random."""
    images, questions = right.shape
    yes = (np.arange(questions) + rng.integers(0, 2, (images, 1))) % 2 == 0
    found, said = (right * yes).sum(axis=1), np.where(right, yes, ~yes).sum(axis=1)
    return np.stack([np.full(images, float(questions)), right.sum(axis=1), found, said, yes.sum(axis=1)], axis=1)


def pairs(right: Array, rng: Generator) -> Array:
    """MME's: two questions an image."""
    both = right[:, :2].sum(axis=1)
    return np.stack([np.full(len(right), 2.0), both, np.ones(len(right)), both == 2], axis=1)


def captions(right: Array, rng: Generator) -> Array:
    """Objects of a caption, of which some are hallucinated: of those that could be named, some are."""
    named = rng.random(right.shape) < 0.7
    return np.stack([(right * named).sum(axis=1), named.sum(axis=1)], axis=1)


def ratings(least: int, most: int) -> Callable[[Array, Generator], Array]:
    """Most answers get the highest or the lowest rating."""

    def counts(right: Array, rng: Generator) -> Array:
        share = rng.beta(0.3 + 5 * right, 5.3 - 5 * right)
        level = np.rint((most - least) * np.where(right > 0, share**0.2, share**5)) + least
        return np.stack([level.sum(axis=1), np.full(len(right), float(right.shape[1]))], axis=1)

    return counts


def pairs_by_category(right: Array, rng: Generator) -> Array:
    """MME's, of ten categories in turn."""
    own, rows = pairs(right, rng), np.arange(len(right))
    counts = np.zeros((len(right), CATEGORIES, own.shape[1]))
    counts[rows, rows % CATEGORIES] = own
    return counts.reshape(len(right), -1)


def groups(figures: int, *, of_figures: bool) -> Callable[[Array, Generator], Array]:
    """HallusionBench's, of a set of figures about which the same questions are asked: all right about a figure (fAcc),
    or a question right about all figures (qAcc)."""

    def counts(right: Array, rng: Generator) -> Array:
        found = right.reshape(len(right), figures, -1).all(axis=2 if of_figures else 1)
        return rates(np.asarray(found, dtype=np.float64), rng)

    return counts


METRICS: dict[str, tuple[Callable[[Array, Generator], Array], CountsMetric]] = {
    "rate": (rates, mean_of("x", scale=100)),
    "f1": (yes_and_no, yes_no.f1),
    "precision": (yes_and_no, yes_no.precision),
    "recall": (yes_and_no, yes_no.recall),
    "mme": (pairs, mme.total(("one",))),
    "mme, 10 categories": (pairs_by_category, mme.total(tuple(map(str, range(CATEGORIES))))),
    "fAcc": (groups(3, of_figures=True), mean_of("x", scale=100)),
    "qAcc": (groups(3, of_figures=False), mean_of("x", scale=100)),
    "chair": (captions, ratio_of("x", "y", scale=100)),
    "all right": (lambda right, rng: rates(right.all(axis=1, keepdims=True).astype(float), rng), mean_of("x", 100)),
    "ratings 0-6": (ratings(0, 6), mean_of("x", bounds=(0, 6))),
    "ratings 1-5": (ratings(1, 5), mean_of("x", bounds=(1, 5))),
    "ratings 0-6, 3 repeats": (ratings(0, 6), mean_of("x", bounds=(0, 6))),
}


def parts_of(kind: str, images: int) -> NDArray[np.int64]:
    """The category of each image."""
    return np.arange(images) % CATEGORIES if kind == "mme, 10 categories" else np.zeros(images, dtype=np.int64)


def interval_of(kind: str, counts: Array, rng: Generator) -> Ends:
    """The interval of a score; of repeats, each with a mood of the judge."""
    metric, parts = METRICS[kind][1], parts_of(kind, len(counts))
    if "repeats" not in kind:
        return score_interval(metric, [counts], parts)
    repeats = [np.add(counts, [MOOD * mood, 0.0]) for mood in rng.normal(size=3)]
    error = float(np.std([value_of(metric, own.sum(axis=0)) for own in repeats], ddof=1)) / 3**0.5
    return score_interval(metric, repeats, parts, judge=(error, 2.0))


@cache
def truth(kind: str, questions: int, rho: float, rate: float) -> float:
    """From 400,000 images."""
    counts, metric = METRICS[kind]
    rng = np.random.default_rng(99)
    own = sum(counts(drawn(rng, rate, rho, (40_000, questions)), rng).sum(axis=0) for _ in range(10))
    return float(value_of(metric, np.asarray(own)))


def covered(cell: Cell, runs: int) -> tuple[float, float]:
    """The share of intervals that hold the truth, and their mean width in the metric's unit; each cell has its seed."""
    rng, widths, hits = np.random.default_rng(crc32(repr(cell).encode())), [], 0
    make, metric = METRICS[cell.kind]
    parts, shape = parts_of(cell.kind, cell.images), (cell.images, cell.questions)
    for _ in range(runs):
        right = drawn(rng, cell.rate, cell.rho, shape)
        counts = make(right, rng)
        if cell.gain is None:
            low, high = interval_of(cell.kind, counts, rng)
            known = truth(cell.kind, cell.questions, cell.rho, cell.rate)
        else:
            up, down = (drawn(rng, share, cell.rho, shape) for share in (cell.gain, cell.loss))
            other = make(np.where(right > 0, 1 - down, up), rng)
            known = 100 * ((1 - cell.rate) * cell.gain - cell.rate * cell.loss)
            apart = float(value_of(metric, other.sum(axis=0)) - value_of(metric, counts.sum(axis=0)))
            low, high = difference_interval(metric, [counts], [other], parts, difference=apart, p=None)
        if low is None or high is None:
            continue
        widths.append(high - low)
        hits += low - 1e-9 <= known <= high + 1e-9
    return hits / len(widths), float(np.mean(widths))


ONCE = ("rate", "ratings 0-6", "ratings 1-5", "ratings 0-6, 3 repeats")  # kinds with one question an image
SLOW = ("mme, 10 categories",)
QUESTIONS = {"f1": (1, 6), "mme": (2,), "mme, 10 categories": (2,), "all right": (4,)} | dict.fromkeys(ONCE, (1,))
QUESTIONS["rate"] = (1, 6)


def grid() -> Iterator[Cell]:
    """All cells of scores, and of differences of rates by how many answers flip."""
    for kind in METRICS:
        for questions in QUESTIONS.get(kind, (6,)):
            for rho, rate, images in product((0.0, 0.8) if questions > 1 else (0.0,), RATES, IMAGES):
                if "repeats" in kind and rate not in (0.1, 0.5, 0.9):
                    continue  # a mood would lead beyond the scale
                many = images == MANY and (rate not in (0.005, 0.5, 0.98) or kind in SLOW)
                if not many and (kind not in SLOW or images in (100, 400)):
                    yield Cell(kind=kind, images=images, questions=questions, rho=rho, rate=rate)
    for questions, (rate, gain, loss) in product((1, 6), FLIPS):
        for rho, images in product((0.0, 0.8) if questions > 1 else (0.0,), IMAGES[:-1]):
            yield Cell(kind="rate", images=images, questions=questions, rho=rho, rate=rate, gain=gain, loss=loss)
