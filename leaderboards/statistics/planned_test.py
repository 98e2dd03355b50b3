"""Which difference a planned comparison finds in 80% of runs, by the test of `verdict`.

    spread = Spread(answers=4 * 500, ratings=300.0, moods=0.04)                 # of one image, squared units
    smallest_difference(spread, images=500, repeats=3, level=0.05 / 12)         # a panel of 12 tests

A run finds a difference if it is beyond what equal models reach at `level`. That limit is made of what the test knows:
the spread over images (Student's t: it is estimated from as many images), and, where a judge was asked several times,
the variance between its repeats (Student's t again, with few degrees of freedom, whose limit itself varies from run to
run). The difference that is found varies by all there is: with one repeat also by what all ratings of a repeat share,
which the test cannot see then, so that its false alarms are more than 5%.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np

from leaderboards.statistics.distributions import chi_square_quantile, student_below, student_quantile
from leaderboards.statistics.resampling import Array
from leaderboards.statistics.significance import ALPHA, POWER

_NORMAL: Final = NormalDist()
_FOUND: Final = _NORMAL.inv_cdf(POWER)
_HALVINGS: Final = 40
_REPEAT_NODES: Final = 12  # of the variance between repeats that a run happens to see
_IMAGE_NODES: Final = np.linspace(-7, 7, 281)
_IMAGE_WEIGHTS: Final = np.exp(-(_IMAGE_NODES**2) / 2) / np.exp(-(_IMAGE_NODES**2) / 2).sum()


@dataclass(frozen=True, kw_only=True)
class Spread:
    """What makes the difference of two models' scores vary."""

    answers: float
    """Variance of the difference over images, if ratings had no noise, times images."""

    ratings: float = 0.0
    """What one repeat of the judge adds to that: its noise from answer to answer."""

    moods: float = 0.0
    """Variance of one model's score between repeats that all answers share, which no number of images makes smaller."""

    def variance(self, images: float, repeats: int = 1) -> float:
        """Of the difference."""
        return (self.answers + self.ratings / repeats) / images + 2 * self.moods / repeats

    def judge_share(self, images: float, repeats: int = 1) -> float:
        """Of that variance, the part that comes from the judge, 0 to 1."""
        whole = self.variance(images, repeats)
        return 1 - self.answers / images / whole if whole > 0 else 0.0


def smallest_difference(spread: Spread, images: float, *, repeats: int = 1, level: float = ALPHA) -> float:
    """The true difference that 80% of runs find at the two-sided `level`; infinite for less than two images."""
    if images < 2:
        return math.inf
    true = math.sqrt(spread.variance(images, repeats))
    seen = math.sqrt((spread.answers + spread.ratings / repeats) / images)
    reach = student_quantile(level / 2, images - 1)
    judge = 2 / repeats * (spread.moods + spread.ratings / 2 / images)
    if repeats == 1 or not judge > 0:
        return reach * seen + _FOUND * true
    limits = _limits(seen * reach / _NORMAL.inv_cdf(1 - level / 2), judge, 2 * (repeats - 1), level)
    low, high = 0.0, float(limits.max()) + 10 * true
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        found = float(np.mean([_NORMAL.cdf(one) for one in (middle - limits) / true]))
        low, high = (middle, high) if found < POWER else (low, middle)
    return high


def _limits(seen: float, judge: float, freedom: int, level: float) -> Array:
    """What a difference must exceed, for each variance between repeats that a run may see: equally likely ones.

    `seen` is the standard error over images, `judge` the variance that repeats add, estimated with `freedom`.
    """
    shares = (np.arange(_REPEAT_NODES) + 0.5) / _REPEAT_NODES
    moods = np.sqrt(judge * np.array([chi_square_quantile(share, freedom) for share in shares]) / freedom)
    low, high = np.zeros(_REPEAT_NODES), np.full(_REPEAT_NODES, 10 * seen + 1e4 * float(moods.max()))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        beyond = (seen * _IMAGE_NODES - middle[:, None]) / moods[:, None]
        missed = 2 * (student_below(beyond, freedom) @ _IMAGE_WEIGHTS) > level
        low, high = np.where(missed, middle, low), np.where(missed, high, middle)
    return np.asarray(high)
