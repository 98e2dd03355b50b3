"""Where a judge was asked several times, the variance between its calls is part of every test."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from leaderboards.statistics.verdict import compare, compare_repeats, interval, interval_repeats
from support.errors import RecordsError
from tasks.metric import mean_of

Records = list[dict[str, Any]]


def ratings(values: Sequence[float], category: str = "") -> Records:
    return [{"image": str(i), "category": category, "rating": value} for i, value in enumerate(values)]


RATING = mean_of("rating")


def test_a_score_of_several_repeats_is_their_mean() -> None:
    base, other = [ratings([1, 2, 3]), ratings([2, 3, 4])], [ratings([5, 5, 5]), ratings([6, 6, 6]), ratings([4, 4, 4])]
    verdict = compare_repeats(base, other, RATING, higher_is_better=True)
    assert (verdict.base, verdict.other, verdict.difference) == (2.5, 5, 2.5)


def test_one_repeat_is_a_plain_comparison() -> None:
    rng = np.random.default_rng(13)
    base, other = ratings(rng.normal(3, 1, 40).tolist()), ratings(rng.normal(3.3, 1, 40).tolist())
    assert compare_repeats([base], [other], RATING, higher_is_better=True) == compare(
        base, other, RATING, higher_is_better=True
    )
    assert interval_repeats([base], RATING) == interval(base, RATING)


def test_a_judge_that_changes_its_mind_widens_the_interval_and_one_that_repeats_itself_does_not() -> None:
    rng = np.random.default_rng(14)
    values = rng.normal(3, 1, 200)

    def width(repeats: list[Records]) -> float:
        low, high = interval_repeats(repeats, RATING)
        assert low is not None
        assert high is not None
        return high - low

    steady, moody = [ratings(values.tolist())] * 3, [ratings((values + mood).tolist()) for mood in (-0.5, 0.0, 0.5)]
    assert width(steady) == pytest.approx(width(steady[:1]), rel=0.05)
    least = 3.92 * np.hypot(values.std(ddof=1) / np.sqrt(200), 0.5 / np.sqrt(3))
    most = 2 * np.hypot(
        1.96 * values.std(ddof=1) / np.sqrt(200), 4.303 * 0.5 / np.sqrt(3)
    )  # Student's t of two degrees of freedom
    assert least < width(moody) < 1.1 * most


def test_what_only_the_judge_s_mood_makes_is_not_separable() -> None:
    rng = np.random.default_rng(15)
    values, noise = rng.normal(3, 1, 200), rng.normal(0, 0.1, 200)
    base = [ratings((values + mood).tolist()) for mood in (-0.6, 0.5, 0.1)]
    other = [ratings((values + noise + mood).tolist()) for mood in (0.7, -0.3, 0.2)]
    alone = compare(base[0], other[0], RATING, higher_is_better=True)
    together = compare_repeats(base, other, RATING, higher_is_better=True)
    assert alone.outcome == "better"
    assert together.outcome == "not separable"
    assert together.p > 0.2


def test_an_answer_that_one_repeat_left_unrated_is_left_out_and_counted() -> None:
    full, incomplete = ratings([1, 2, 3, 4]), ratings([1, 2, 3, 4])[:-1]
    verdict = compare_repeats([full, incomplete], [full, full], RATING, higher_is_better=True)
    assert (verdict.images, verdict.left_out, verdict.base) == (3, 1, 2)
    with pytest.raises(RecordsError, match="every judge call"):
        compare_repeats([full[:1], full[1:]], [full], RATING, higher_is_better=True)
    with pytest.raises(RecordsError, match="at least one judge call"):
        compare_repeats([], [full], RATING, higher_is_better=True)


def test_a_judge_asked_twice_makes_no_p_of_one_in_a_million() -> None:
    values = np.random.default_rng(23).normal(3, 1, 300)
    base, other = ([ratings((values + mood).tolist()) for mood in moods] for moods in ((-0.1, 0.1), (0.7, 0.9)))
    verdict = compare_repeats(base, other, RATING, higher_is_better=True)
    alone = compare(base[1], other[0], RATING, higher_is_better=True)
    assert (verdict.outcome, alone.outcome) == ("better", "better")
    assert alone.p < 1e-9
    assert verdict.p > 1e-6
