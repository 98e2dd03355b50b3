"""McNemar's exact test of two models' plain accuracy, shown beside a verdict since papers report it."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from leaderboards.statistics.distributions import sign_test_p
from leaderboards.statistics.resampling import Counted, value_of

_SAME: Final = 1e-9  # relative: rounding of a share stays below it


def mcnemar_p(base: Counted, other: Counted, images: Sequence[str]) -> float | None:
    """McNemar's exact p, of the questions that one side alone answers correctly; None if the metric is not accuracy."""
    ours, theirs = _correct_answers(base, images), _correct_answers(other, images)
    if ours is None or theirs is None:
        return None
    gained, lost = int((theirs & ~ours).sum()), int((ours & ~theirs).sum())
    return sign_test_p(gained, lost)


def _correct_answers(side: Counted, images: Sequence[str]) -> NDArray[np.bool_] | None:
    """Which answers are correct, image by image; None if the metric is not the share of correct answers in %."""
    if side.right is None:
        return None
    row = {image: index for index, image in enumerate(images)}
    rows = np.array([row.get(image, -1) for image in side.images])
    right, rows = side.right[rows >= 0], rows[rows >= 0]
    shares = np.append(np.bincount(rows, weights=right) / np.bincount(rows), right.mean())
    counts = side.counts(images)
    scores = np.append(value_of(side.metric, counts), value_of(side.metric, counts.sum(axis=0)))
    return right[np.argsort(rows, kind="stable")] if np.allclose(scores, 100 * shares, rtol=_SAME) else None
