"""The few distributions that intervals and tests need, without scipy: it is larger than the rest of a light install.

Every one follows from the incomplete beta function, by its continued fraction (DLMF 8.17.22). Held to scipy's values in
tests/leaderboards/test_distributions.py.
"""

import math
from collections.abc import Callable
from itertools import accumulate
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_TINY: Final = 1e-300  # in place of a zero denominator, as Lentz's method has it
_SAME: Final = 1e-16
_SMALL: Final = 1e-4
_MOST_TERMS: Final = 100_000
_MOST_STEPS: Final = 200


def incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b): the chance that a beta variable is at most x; a, b > 0."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # where the fraction converges slowly, its mirror image does not
        mirrored = math.exp(_log_beta_term(b, a, 1 - x)) / b * _continue_fraction(b, a, 1 - x)
        if mirrored < 1 - _SMALL:  # else the difference would have lost its digits
            return 1 - mirrored
    return math.exp(_log_beta_term(a, b, x)) / a * _continue_fraction(a, b, x)


def student_tail(value: float, freedom: float) -> float:
    """The chance that Student's t with `freedom` degrees of freedom is above a value of at least 0."""
    return incomplete_beta(freedom / 2, 0.5, freedom / (freedom + value * value)) / 2


def student_quantile(tail: float, freedom: float) -> float:
    """The value above which Student's t has the chance `tail`, at most a half."""
    low, high = 0.0, max(-NormalDist().inv_cdf(tail), 1.0)
    while student_tail(high, freedom) > tail:
        low, high = high, 2 * high
    # Of logarithms, which are nearly straight: the tail itself is all but 0 over most of the range.
    return find_root(lambda value: math.log(student_tail(value, freedom) / tail), low, high)


def student_below(values: Array, freedom: int) -> Array:
    """The chance that Student's t with a whole number of degrees of freedom is below each value (any shape)."""
    cosine, sine = freedom / (freedom + values**2), values / np.sqrt(freedom + values**2)
    odd = freedom % 2
    term = np.sqrt(cosine) if odd else np.ones_like(cosine)
    total = term if freedom > 1 else np.zeros_like(cosine)
    for number in range(1, (freedom - odd) // 2):
        term = term * cosine * (2 * number - 1 + odd) / (2 * number + odd)
        total = total + term
    if odd:
        return np.asarray(0.5 + (np.arctan(values / math.sqrt(freedom)) + sine * total) / math.pi)
    return np.asarray(0.5 + sine * total / 2)


def chi_square_quantile(below: float, freedom: int) -> float:
    """The value below which chi-square with an even number of degrees of freedom lies with the chance `below`."""

    def above(half: float) -> float:
        terms = accumulate(range(1, freedom // 2), lambda term, number: term * half / number, initial=1.0)
        return math.exp(-half) * sum(terms) - (1 - below)

    high = 1.0
    while above(high) > 0:
        high *= 2
    return 2 * find_root(above, 0.0, high)


def binomial_chance(right: float, wrong: float, chance: float) -> float:
    """The binomial chance of exactly `right` successes and `wrong` failures; neither need be whole."""
    if chance <= 0 or chance >= 1:
        return float((right if chance <= 0 else wrong) <= 0)
    log = math.lgamma(right + wrong + 1) - math.lgamma(right + 1) - math.lgamma(wrong + 1)
    return math.exp(log + right * math.log(chance) + wrong * math.log1p(-chance))


def find_root(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function is 0, at least 0 at `low` and at most 0 at `high`: by the Illinois method."""
    at_low, at_high = function(low), function(high)
    before, moved = math.inf, 0
    for _ in range(_MOST_STEPS):
        middle = (low * at_high - high * at_low) / (at_high - at_low) if at_high < at_low else low
        if not low < middle < high:
            middle = (low + high) / 2
        if abs(middle - before) <= _SAME * 8 * abs(middle):
            return middle
        value, before = function(middle), middle
        if value > 0:
            low, at_low, at_high = middle, value, at_high / 2 if moved == 1 else at_high
            moved = 1
        else:
            high, at_high, at_low = middle, value, at_low / 2 if moved == -1 else at_low
            moved = -1
    return before


def sign_test_p(gained: int, lost: int) -> float:
    """Two-sided p of the exact sign test: each change may as well have gone the other way."""
    changes, fewer = gained + lost, min(gained, lost)
    ways, as_few = 1, 1  # whole numbers: exact
    for number in range(fewer):
        ways = ways * (changes - number) // (number + 1)
        as_few += ways
    return min(1.0, 2 * as_few / (1 << changes))


def _log_beta_term(a: float, b: float, x: float) -> float:
    """log of x^a (1 - x)^b / B(a, b)."""
    return math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)


def _continue_fraction(a: float, b: float, x: float) -> float:
    """By Lentz's method, from the front."""
    above, below = 1.0, 1 / _keep_from_zero(1 - (a + b) * x / (a + 1))
    value = below
    for m in range(1, _MOST_TERMS):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            below = 1 / _keep_from_zero(1 + term * below)
            above = _keep_from_zero(1 + term / above)
            value *= below * above
        if abs(below * above - 1) <= _SAME:
            return value
    return value


def _keep_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
