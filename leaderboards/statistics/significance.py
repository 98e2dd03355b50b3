"""What all tests share: the level, Holm's adjustment, tails, and how much a judge's repeated calls vary."""

import math
import sys
from collections.abc import Sequence
from statistics import NormalDist
from typing import Final

import numpy as np

from leaderboards.statistics.distributions import student_below, student_tail
from leaderboards.statistics.resampling import Array

ALPHA: Final = 0.05
POWER: Final = 0.8

DETECTED: Final = NormalDist().inv_cdf(1 - ALPHA / 2) + NormalDist().inv_cdf(POWER)
"""A true difference of so many standard errors (2.80) is found at the 5% level, two-sided, by 80% of runs."""


_ROUNDED: Final = 1e-13
_NODES: Final = np.linspace(-10, 10, 4001)
_WEIGHTS: Final = np.exp(-(_NODES**2) / 2) / np.exp(-(_NODES**2) / 2).sum()


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given."""
    result = [0.0] * len(p_values)
    floor = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[index]))
        result[index] = floor
    return result


def tail(deviation: float, freedom: float = math.inf) -> float:
    """Two-sided chance of so many standard deviations: normal, or Student's if the spread is estimated with `freedom`
    degrees of freedom."""
    if math.isinf(freedom):
        return math.erfc(deviation / math.sqrt(2))
    return 2 * student_tail(deviation, freedom)


def sum_tail(size: float, normal: float, student: float, freedom: float) -> float:
    """Two-sided chance that a normal and a Student's t deviation sum to more than `size`, by their standard errors (not
    both 0); the t has a whole number of degrees of freedom."""
    alone = max(tail(size / normal) if normal > 0 else 0.0, tail(size / student, freedom) if student > 0 else 0.0)
    if not (normal > 0 and student > 0):
        return alone
    summed = float(2 * student_below((normal * _NODES - size) / student, int(freedom)) @ _WEIGHTS)
    return max(summed, alone) if summed > _ROUNDED else alone  # either part alone reaches it less often


def least_p(apart: int) -> float:
    """The smallest mid-p of a two-sided test by swaps if two models differ on `apart` images: two swaps of 2^apart."""
    return max(2.0**-apart, sys.float_info.min)


def judge_spread(scores: Sequence[Array]) -> tuple[float, float]:
    """Standard deviation of a score between repeated judge calls, and its degrees of freedom.

    `scores`: of each model, its score in each repeat. (0, infinity) if no model has two repeats: then it is unknown.
    """
    freedom = sum(len(side) - 1 for side in scores)
    if not freedom:
        return 0.0, math.inf
    return math.sqrt(sum(float(((side - side.mean()) ** 2).sum()) for side in scores) / freedom), float(freedom)
