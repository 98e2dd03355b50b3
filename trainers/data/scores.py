"""Ratings and their means as exact numbers: integer points over a unit, so that equal means are equal."""

import math
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple


class Score(NamedTuple):
    """`points` / `unit`, in lowest terms: equal scores are equal tuples."""

    points: int | float
    """A float only where a rating is infinite."""
    unit: int

    @property
    def value(self) -> float:
        """The nearest float."""
        return self.points / self.unit

    def reaches(self, least: "Score") -> bool:
        """True if it is at least this, which is finite."""
        if isinstance(self.points, float):
            return self.points > 0
        return self.points * least.unit >= least.points * self.unit


def scale(score: Score, unit: int) -> int | float:
    """Points over another unit, a multiple of the score's own."""
    return score.points if isinstance(score.points, float) else score.points * (unit // score.unit)


def simplify(points: int, unit: int) -> Score:
    """The score in lowest terms."""
    common = math.gcd(points, unit)
    return Score(points // common, unit // common)


@lru_cache(maxsize=1 << 12)
def number(rating: str) -> float | None:
    """The rating as Python's float() reads it; None for what it refuses, and for "nan"."""
    try:
        value = float(rating)
    except ValueError:
        return None
    return None if math.isnan(value) else value


@lru_cache(maxsize=1 << 12)
def as_ratio(value: float) -> Score:
    """A number as it is written: 0.1 is 1 / 10, not the float nearest to it."""
    return Score(value, 1) if math.isinf(value) else Score(*Decimal(repr(float(value))).as_integer_ratio())


@lru_cache(maxsize=1 << 14)
def weighted_mean(
    ratings: tuple[tuple[str, str], ...], aspects: tuple[str, ...], weights: tuple[tuple[str, float], ...]
) -> Score | None:
    """The mean of (aspect, rating) over these aspects (none: all), with these weights (none: all the same); None where
    none counts, or one that counts is no number."""
    weight_of = dict(weights)
    terms: list[tuple[Score, Score]] = []
    for aspect, rating in ratings:
        weight = weight_of.get(aspect, 0.0) if weights else 1.0
        if not weight or (aspects and aspect not in aspects):
            continue
        value = number(rating)
        if value is None:
            return None
        terms.append((as_ratio(weight), as_ratio(value)))
    infinite = sum(value.points for _, value in terms if isinstance(value.points, float))
    if infinite:
        return None if math.isnan(infinite) else Score(infinite, 1)
    if not terms:
        return None
    unit = math.lcm(*(weight.unit * value.unit for weight, value in terms))
    total = sum(scale(Score(weight.points * value.points, weight.unit * value.unit), unit) for weight, value in terms)
    weight_sum = sum(scale(weight, unit) for weight, _ in terms)
    return simplify(int(total), int(weight_sum))


def mean_of(scores: Mapping[Score, int]) -> Score:
    """The mean of finite scores that are there so many times."""
    unit = math.lcm(*(score.unit for score in scores))
    points = sum(int(score.points) * (unit // score.unit) * count for score, count in scores.items())
    return simplify(points, unit * sum(scores.values()))
