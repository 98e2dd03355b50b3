"""The few distributions that intervals and tests need, without scipy: it is larger than the rest of a light install.

Every one follows from the incomplete beta function, by its continued fraction (DLMF 8.17.22). Held to scipy's values in
tests/leaderboards/test_distributions.py.
"""

import math
from statistics import NormalDist
from typing import Final

_TINY: Final = 1e-300  # in place of a zero denominator, as Lentz's method has it
_SAME: Final = 1e-16
_MOST_TERMS: Final = 100_000
_NEWTON_STEPS: Final = 100


def incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b): the chance that a beta variable is at most x; a, b > 0."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # where the fraction converges slowly, its mirror image does not
        return 1 - incomplete_beta(b, a, 1 - x)
    return math.exp(_log_beta_term(a, b, x)) / a * _continue_fraction(a, b, x)


def student_tail(value: float, freedom: float) -> float:
    """The chance that Student's t with `freedom` degrees of freedom is above a value of at least 0."""
    square = value * value
    if square > freedom:
        return incomplete_beta(freedom / 2, 0.5, freedom / (freedom + square)) / 2
    return 0.5 - incomplete_beta(0.5, freedom / 2, square / (freedom + square)) / 2


def student_quantile(tail: float, freedom: float) -> float:
    """The value above which Student's t has the chance `tail`, at most a half."""
    low, high = 0.0, max(-NormalDist().inv_cdf(tail), 1.0)
    while student_tail(high, freedom) > tail:
        low, high = high, 2 * high
    value = high
    for _ in range(_NEWTON_STEPS):
        over = student_tail(value, freedom) - tail
        low, high = (value, high) if over > 0 else (low, value)
        following = value + over / _student_density(value, freedom)
        if not low < following < high:
            following = (low + high) / 2
        if abs(following - value) <= 4e-16 * value:
            return following
        value = following
    return value


def sign_test_p(gained: int, lost: int) -> float:
    """Two-sided p of the exact sign test: as many gains or more one-sided, if each change may as well be the other."""
    changes = gained + lost
    if gained == lost:
        return 1.0
    return min(1.0, 2 * incomplete_beta(max(gained, lost), min(gained, lost) + 1, 0.5)) if changes else 1.0


def _student_density(value: float, freedom: float) -> float:
    log = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - math.log(freedom * math.pi) / 2
    return math.exp(log - (freedom + 1) / 2 * math.log1p(value * value / freedom))


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
