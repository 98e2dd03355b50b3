"""Two models' counts of the same images by one metric, ready to be tested."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leaderboards.statistics.resampling import Array, CountsMetric


@dataclass(frozen=True, kw_only=True, eq=False)
class Matched:
    """Two models' counts of the same images by one metric, ready to be tested."""

    base: Sequence[Array]
    """Counts [images, k] of each repeat of the judge; one without a judge or repeats."""

    other: Sequence[Array]
    metric: CountsMetric
    higher_is_better: bool

    parts: NDArray[np.int64]
    """The stratum of each image [images]."""

    left_out: int = 0
    """Images that are not compared."""

    mcnemar: float | None = None

    guards: "tuple[MatchedGuard, ...]" = ()

    seeds: bool = False
    """Whether `base` and `other` are of trainings with different seeds (one: a single model), not repeats of a
    judge."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MatchedGuard:
    """Two models' counts of one guard."""

    name: str
    what: str
    """What is said of it if it is worse: "coverage fell"."""
    unit: str
    match: Matched | None
    """None: the other model has nothing that the guard could be computed from."""
    share: float = 0.0
    """How far it may move the wrong way, as a share of the base's value."""
    points: float = 0.0
    """The same, in its unit."""
