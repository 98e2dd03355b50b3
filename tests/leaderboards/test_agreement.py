import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from leaderboards import agreement
from leaderboards.agreement import agree

RATINGS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=2, max_size=40)


def nominal_free_alpha(a: list[int], b: list[int]) -> float:
    """Krippendorff's alpha for ordinal data, straight from its definition."""
    values = sorted(set(a) | set(b))
    met = {v: a.count(v) + b.count(v) for v in values}

    def distance(x: int, y: int) -> float:
        low, high = min(x, y), max(x, y)
        return (sum(met[v] for v in values if low <= v <= high) - (met[low] + met[high]) / 2) ** 2

    total = 2 * len(a)
    observed = sum(2 * distance(x, y) for x, y in zip(a, b, strict=True)) / total
    expected = sum(met[x] * met[y] * distance(x, y) for x in values for y in values) / (total * (total - 1))
    return 1 - observed / expected if expected else math.nan


@settings(deadline=None)
@given(RATINGS)
def test_the_measures_are_those_of_the_libraries_and_of_the_definition(pairs: list[tuple[int, int]]) -> None:
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    found = agree(a, b, resamples=10)
    assert found.exact.value == pytest.approx(100 * np.mean([x == y for x, y in pairs]))
    assert found.bias.value == pytest.approx(np.mean(b) - np.mean(a))
    assert found.alpha.value == pytest.approx(nominal_free_alpha(a, b), nan_ok=True)
    if len(set(a) | set(b)) > 1:
        labels = sorted(set(a) | set(b))
        with np.errstate(all="ignore"):
            assert found.kappa.value == pytest.approx(cohen_kappa_score(a, b, labels=labels), nan_ok=True)
    if len(set(a)) > 1 and len(set(b)) > 1:
        assert found.spearman.value == pytest.approx(stats.spearmanr(a, b).statistic)


def test_quadratic_weights_are_of_the_ratings_and_not_of_their_order() -> None:
    a, b = [0, 1, 2, 3, 6, 6, 2, 0], [0, 2, 2, 3, 5, 6, 1, 1]
    assert agree(a, b).weighted_kappa.value == pytest.approx(cohen_kappa_score(a, b, labels=list(range(7)), weights="quadratic"))


def test_perfect_agreement_is_one_and_ratings_all_alike_say_nothing() -> None:
    found = agree([1, 2, 3, 4], [1, 2, 3, 4])
    for measure in (found.kappa, found.weighted_kappa, found.spearman, found.alpha):
        assert measure.value == pytest.approx(1)
    assert (found.exact.value, found.bias.value) == (100, 0)
    assert math.isnan(agree([3, 3], [3, 3]).kappa.value)


def test_missing_ratings_are_left_out_and_counted() -> None:
    found = agree([1, None, 3, 4], [1, 2, None, 5])
    assert (found.items, found.left_out) == (2, 2)
    with pytest.raises(ValueError, match="no item is rated by both"):
        agree([None], [1])


def test_intervals_hold_the_value_and_narrow_with_more_items() -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 7, 2000)
    b = np.clip(a + rng.integers(-1, 2, 2000), 0, 6)
    few, many = agree(a[:50].tolist(), b[:50].tolist()), agree(a.tolist(), b.tolist())
    assert many.kappa.low < many.kappa.value < many.kappa.high
    assert many.kappa.high - many.kappa.low < (few.kappa.high - few.kappa.low) / 3


def test_a_judge_that_likes_the_first_text_is_found() -> None:
    rng = np.random.default_rng(1)
    items = [str(n) for n in range(200) for _ in range(4)]
    positions = [at for _ in range(200) for at in (1, 2, 3, 4)]
    fair = rng.integers(1, 6, 800).astype(float).tolist()
    biased = [rating + (1 if at == 1 else 0) for rating, at in zip(fair, positions, strict=True)]
    assert agreement.position_bias(items, positions, biased).p < 1e-4
    assert agreement.position_bias(items, positions, fair).p > 0.01
    assert agreement.position_bias(items, positions, biased).means[1] > 3.5
    assert math.isnan(agreement.position_bias(["a", "b"], [1, 2], [3.0, 3.0]).p)


def test_a_judge_that_likes_long_texts_is_found_within_items() -> None:
    items = ["a"] * 3 + ["b"] * 3
    found = agreement.verbosity_bias(items, [10, 20, 30, 110, 120, 130], [3, 4, 5, 1, 2, 3])
    assert found.within == pytest.approx(1)
    assert found.spearman < 0.5
    assert math.isnan(agreement.verbosity_bias(["a", "b"], [1, 1], [1, 2]).within)


def test_repeats_of_one_judge() -> None:
    found = agreement.self_consistency([[1, 2, None, 4], [1, 4, 3, 4]])
    assert found.same == pytest.approx(100 * 2 / 3)
    assert found.spread == pytest.approx(1 / 3)


def test_the_largest_disagreements_come_first() -> None:
    assert agreement.largest_disagreements(["a", "b", "c", "d"], [1, 5, 3, None], [1, 1, 4, 2], 5) == [("b", 5, 1), ("c", 3, 4)]
