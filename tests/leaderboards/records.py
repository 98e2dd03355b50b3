"""Records of right answers, captions and MME's pairs of questions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from leaderboards.statistics.resampling import CountsMetric
from tasks.metric import Metric, mean_of, ratio_of

Records = list[dict[str, Any]]


ACCURACY = mean_of("correct", scale=100)


CHAIR_I = ratio_of("hallucinated", "mentions", scale=100)


MME: CountsMetric = Metric(  # acc + acc+ of two questions an image
    counts=lambda records: (sum(r["correct"] for r in records), len(records), all(r["correct"] for r in records), 1),
    value=lambda sums: 100 * sums[..., 0] / sums[..., 1] + 100 * sums[..., 2] / sums[..., 3],
)


def answers(field: str, values: Sequence[float]) -> Records:
    """One record an image."""
    return [{"image": f"image-{index}", field: value} for index, value in enumerate(values)]


def mme_answers(rng: Generator, ability: NDArray[np.float64]) -> Records:
    """Two answers an image, both right with the chance the image gives."""
    return [{"image": str(i), "correct": int(rng.random() < p)} for i, p in enumerate(ability) for _ in range(2)]


def captions(rng: Generator, risk: NDArray[np.float64]) -> Records:
    """Three captions an image, whose mentions are hallucinated with the chance the image gives."""
    return [
        {"image": str(i), "mentions": m, "hallucinated": int(rng.binomial(m, p))}
        for i, p in enumerate(risk)
        for m in rng.integers(1, 5, size=3).tolist()
    ]
