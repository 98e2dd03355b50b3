"""The p-value of a paired difference, of swaps of two models' answers image by image; see `verdict.PairedTest.p`.

Two equal models may swap their answers about any image, so a difference is compared with those after 10,000 such swaps
(`resampling.swapped`). Three things make the test neither too careful nor too bold:

- Swaps that equal the difference count half: the mid-p (Lancaster 1961; Fagerland, Lydersen and Laake 2013).
- Each difference is taken relative to its standard error within categories: a studentised permutation test (Janssen
  1997; Chung and Romano 2013). Else two models of which one is better in some categories and the other in the rest
  would be compared with swaps that vary more than they do.
- After swaps both models are halfway between the two. A metric that has other slopes there lets a difference vary more
  than swaps do; it counts as smaller by as much (`verdict`).
"""

import math
from typing import Final

import numpy as np

from leaderboards.statistics.resampling import Array
from leaderboards.statistics.significance import least_p, sum_tail

TIE: Final = 1e-9
"""Relative: rounding of a sum stays below it, two different answers are above it."""

_COUNTED: Final = 100
"""If at least one of 100 swaps reaches the difference, p is the counted share; beyond that it is extrapolated."""


def permutation_p(
    difference: float,
    swaps: Array,
    *,
    scale: tuple[Array, float],
    noise: Array,
    judge: tuple[float, float],
    error: float,
    apart: int,
    tie: float,
) -> float:
    """Two-sided p of `difference` among the differences after `swaps` [resamples]; one without a score counts against.

    `scale`: what each swap and the difference are multiplied by, as they vary more or less than others. `noise` by the
    judge [resamples], of standard error and degrees of freedom `judge`. `error`: the bootstrap's standard error.
    `apart` images differ; differences of less than `tie` are the same.
    """
    if abs(difference) <= tie:
        return 1.0
    scales, own = scale
    reached = abs(difference) * own
    sizes = np.where(np.isfinite(swaps), abs(swaps + noise) * scales, np.inf)

    def counted(size: float) -> float:
        beyond, ties = np.count_nonzero(sizes > size + tie), np.count_nonzero(abs(sizes - size) <= tie)
        return float(1 + beyond + ties / 2) / (1 + len(sizes))  # 1: what was seen itself, so that none is 0

    rare = len(sizes) // _COUNTED
    edge = float(np.partition(sizes, -rare)[-rare]) if rare else math.inf
    if not edge < reached - tie:
        return max(counted(reached), least_p(apart))  # below that, it would be by the chance of the draw
    known = (swaps * scales)[np.isfinite(swaps)]
    images = math.sqrt(max(float(np.mean(known**2)), (error * own) ** 2 - judge[0] ** 2))
    spread = (images, *judge)  # the judge's few repeats make its part of the tail heavier, not that of the images
    within = sum_tail(edge, *spread) if images > 0 or judge[0] > 0 else 0.0
    beyond = counted(edge) * sum_tail(reached, *spread) / within if within > 0 else 0.0
    without = float(np.mean(np.isinf(sizes)))
    return max(min(counted(reached), max(beyond, without)), least_p(apart))
