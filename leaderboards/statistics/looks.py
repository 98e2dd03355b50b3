"""Many looks at one training, and the best of them: what each look may claim, and what the best score is worth.

    adjusted_for_look(0.004, look=3)                      # 0.048: of looks without a plan, the third
    adjusted_for_look(0.004, look=3, planned=4)           # 0.016: of four that were planned
    best_of(metric, [counts, counts], parts, higher_is_better=True)     # Best(index=1, raw=71.2, value=70.1, ...)

*Alpha spending*: each look may use a share of the 5%, and the shares of all looks add up to 100%, so the chance that
any look says "better" or "worse" of a training that changed nothing stays below 5%, whatever the looks have in common.
The shares are equal where the number of looks was planned (Bonferroni), and 1 / (k (k + 1)) for the kth where it was
not.

*Held-out images*: the highest of several scores is high partly by luck. The best checkpoint is therefore chosen anew on
nine tenths of the images, and scored on the tenth that did not choose it, for every tenth: what these scores add up to
has no luck of the choice in it. Repeated with other tenths, and averaged.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from leaderboards.statistics.resampling import Array, CountsMetric, value_of

FOLDS: Final = 10
REPEATS: Final = 10


def share_of_look(look: int, planned: int | None = None) -> float:
    """Which share of the 5% the `look`th look has, counted from 1; none, of looks beyond those `planned`."""
    if planned is None:
        return 1 / (look * (look + 1))
    return 1 / planned if look <= planned else 0.0


def adjusted_for_look(p: float, look: int, planned: int | None = None) -> float:
    """The p-value that may be held against 5% at this look."""
    share = share_of_look(look, planned)
    return min(1.0, p / share) if share else 1.0


def describe_looks(planned: int | None = None) -> str:
    """Which method it is, in a sentence."""
    if planned is None:
        return "Alpha spending without a plan: look k has 5% / (k (k + 1)), so that all looks together have 5%."
    return f"Alpha spending over {planned} planned looks: each has 5% / {planned} (Bonferroni)."


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best of several checkpoints by one metric."""

    index: int
    """Which it is; of equal ones the first."""
    raw: float
    """Its score, on the images that chose it."""
    value: float
    """Its score on images that did not choose. It has no interval: that of a checkpoint that nobody chose is narrower
    than the choice leaves it."""

    @property
    def luck(self) -> float:
        """How much of the score is luck of the choice."""
        return self.raw - self.value


def best_of(
    metric: CountsMetric, models: Sequence[Array], parts: NDArray[np.int64], *, higher_is_better: bool, seed: int = 0
) -> Best | None:
    """The best of some models, each counts [images, k] of the same images; None where one has no score, or for fewer
    than two images."""
    sign = 1.0 if higher_is_better else -1.0
    table = np.stack(models)
    total = table.sum(axis=1)
    scores = value_of(metric, total)
    if len(parts) < 2 or not np.isfinite(scores).all():
        return None
    index = int(np.argmax(sign * scores))
    rng, held_out = np.random.default_rng(seed), []
    for _ in range(REPEATS):
        folds = _draw_folds(rng, parts)
        own = np.empty_like(table[0])
        for fold in range(int(folds.max()) + 1):
            out = folds == fold
            others = value_of(metric, total - table[:, out].sum(axis=1))
            ranked = np.where(np.isfinite(others), sign * others, -np.inf)
            chosen = index if not np.isfinite(ranked).any() else int(np.argmax(ranked))
            own[out] = table[chosen, out]
        held_out.append(own)
    values = value_of(metric, np.stack([own.sum(axis=0) for own in held_out]))
    if not np.isfinite(values).all():
        return None
    return Best(index=index, raw=float(scores[index]), value=float(values.mean()))


def _draw_folds(rng: np.random.Generator, parts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The fold of each image, at random, as even as can be within each stratum."""
    folds = np.empty(len(parts), dtype=np.int64)
    start = 0
    for part in np.unique(parts):
        own = np.flatnonzero(parts == part)
        folds[rng.permutation(own)] = (start + np.arange(len(own))) % min(FOLDS, len(parts))
        start += len(own)
    return folds
