import math
import tracemalloc

import krippendorff
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from leaderboards.statistics import agreement
from leaderboards.statistics.agreement import Agreement, agree

Gappy = list[float | None]

RATINGS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=2, max_size=40)
SYMMETRIC = ("exact", "within_one", "kappa", "weighted_kappa", "spearman", "alpha")


def values(found: Agreement, *names: str) -> list[float]:
    return [getattr(found, name).value for name in names]


def same(*expected: float) -> object:
    return pytest.approx(list(expected), nan_ok=True, abs=1e-12)


def library_alpha(raters: list[Gappy]) -> float:
    data = np.array([[math.nan if value is None else value for value in rater] for rater in raters])
    pairable = data[:, (~np.isnan(data)).sum(axis=0) > 1]
    if len(np.unique(pairable[~np.isnan(pairable)])) < 2:
        return math.nan  # the library wants two values at least
    return float(krippendorff.alpha(reliability_data=data, level_of_measurement="ordinal"))


@settings(deadline=None)
@given(RATINGS)
def test_the_measures_are_those_of_the_libraries(pairs: list[tuple[int, int]]) -> None:
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    found = agree(a, b, resamples=10)
    assert found.exact.value == pytest.approx(100 * np.mean([x == y for x, y in pairs]))
    assert found.bias.value == pytest.approx(np.mean(b) - np.mean(a))
    assert found.within_one.value == pytest.approx(100 * np.mean([abs(x - y) <= 1 for x, y in pairs]))
    assert found.alpha.value == pytest.approx(library_alpha([list(a), list(b)]), nan_ok=True)
    if len(set(a) | set(b)) > 1:
        for measure, weights in ((found.kappa, None), (found.weighted_kappa, "quadratic")):
            assert measure.value == pytest.approx(
                cohen_kappa_score(a, b, labels=list(range(7)), weights=weights), abs=1e-12
            )
    if len(set(a)) > 1 and len(set(b)) > 1:
        assert found.spearman.value == pytest.approx(stats.spearmanr(a, b).statistic)


def test_quadratic_weights_are_of_the_ratings_and_not_of_their_order() -> None:
    a, b = [0, 1, 2, 3, 6, 6, 2, 0], [0, 2, 2, 3, 5, 6, 1, 1]
    assert agree(a, b).weighted_kappa.value == pytest.approx(
        cohen_kappa_score(a, b, labels=list(range(7)), weights="quadratic")
    )


@settings(deadline=None)
@given(st.lists(st.lists(st.one_of(st.none(), st.integers(0, 5)), min_size=3, max_size=3), min_size=1, max_size=30))
def test_alpha_of_many_raters_with_gaps_is_the_library_s(items: list[Gappy]) -> None:
    raters = [list(rater) for rater in zip(*items, strict=True)]
    assume(any(sum(value is not None for value in item) > 1 for item in items))
    assert agreement.krippendorff_alpha(raters) == pytest.approx(library_alpha(raters), nan_ok=True)


@settings(deadline=None)
@given(RATINGS)
def test_who_is_first_matters_to_the_bias_alone(pairs: list[tuple[int, int]]) -> None:
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    there, back = agree(a, b, resamples=5), agree(b, a, resamples=5)
    assert values(there, *SYMMETRIC) == same(*values(back, *SYMMETRIC))
    assert there.bias.value == pytest.approx(-back.bias.value)


@settings(deadline=None)
@given(RATINGS, st.permutations(range(7)))
def test_names_and_sizes_of_ratings_matter_only_where_they_must(pairs: list[tuple[int, int]], names: list[int]) -> None:
    found = agree([x for x, _ in pairs], [y for _, y in pairs], resamples=5)
    renamed = agree([names[x] for x, _ in pairs], [names[y] for _, y in pairs], resamples=5)
    assert values(renamed, "exact", "kappa") == same(*values(found, "exact", "kappa"))
    stretched = agree([x**3 for x, _ in pairs], [y**3 for _, y in pairs], resamples=5)
    assert values(stretched, "kappa", "spearman", "alpha") == same(*values(found, "kappa", "spearman", "alpha"))
    moved = agree([1000 + x / 7 for x, _ in pairs], [1000 + y / 7 for _, y in pairs], resamples=5)
    assert moved.weighted_kappa.value == pytest.approx(found.weighted_kappa.value, nan_ok=True, abs=1e-6)


@settings(deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30))
def test_perfect_agreement_is_one_and_ratings_all_alike_say_nothing(a: list[int]) -> None:
    found = agree(a, a, resamples=20)
    chance = [1.0 if len(set(a)) > 1 else math.nan] * 4
    assert values(found, "kappa", "weighted_kappa", "spearman", "alpha") == same(*chance)
    assert values(found, "exact", "within_one", "bias") == same(100, 100, 0)


def test_resamples_without_a_measure_are_left_out_of_its_interval() -> None:
    found = agree([1.1, 1.1, 1.1, 2.7], [1.1, 1.1, 1.1, 2.7])  # a third of the resamples draws one value only
    assert (found.weighted_kappa.low, found.weighted_kappa.high) == (1, 1)
    assert (found.kappa.low, found.alpha.high) == (1, 1)


def test_one_item_shows_no_spread() -> None:
    found = agree([3], [4])
    assert values(found, "exact", "within_one", "bias") == [0, 100, 1]
    assert math.isnan(found.exact.low)
    assert math.isnan(agree([3, 4], [4, 4], groups=["a", "a"]).bias.high)


def test_one_apart_is_one_apart_in_floats_too() -> None:
    a = [n / 10 for n in range(100)]
    assert agree(a, [n / 10 for n in range(10, 110)], resamples=2).within_one.value == 100


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


def test_the_same_seed_gives_the_same_intervals() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.integers(1, 6, 50).tolist(), rng.integers(1, 6, 50).tolist()
    assert agree(a, b, seed=1) == agree(a, b, seed=1) != agree(a, b, seed=2)


def coverage(group_size: int, grouped: bool) -> float:
    """How often the interval of the bias holds the truth, if the ratings of one group err together."""
    rng, hits = np.random.default_rng(0), 0
    for _ in range(200):
        error = np.repeat(rng.choice([0, 1], 40), group_size)
        a = rng.integers(1, 5, len(error))
        groups = [str(n // group_size) for n in range(len(error))] if grouped else None
        found = agree(a.tolist(), (a + error).tolist(), groups=groups, resamples=300)
        hits += found.bias.low <= 0.5 <= found.bias.high
    return hits / 200


def test_intervals_cover_the_truth_only_if_what_hangs_together_is_drawn_together() -> None:
    assert 0.9 <= coverage(1, grouped=False) <= 0.99
    assert 0.9 <= coverage(4, grouped=True) <= 0.99
    assert coverage(4, grouped=False) < 0.8


def test_groups_of_one_are_items() -> None:
    a, b = [1, 2, 3, 4, 5, None], [2, 2, 3, 5, 5, 1]
    assert agree(a, b, groups=list("abcdef")) == agree(a, b)
    assert (agree(a, b).groups, agree(a, b, groups=list("aabbcc")).groups) == (5, 3)


def test_a_scale_of_thousands_of_values_fits_in_memory() -> None:
    rng = np.random.default_rng(5)
    a = rng.normal(size=3000)
    b = a + rng.normal(size=3000)
    tracemalloc.start()
    try:
        found = agree(a.tolist(), b.tolist(), resamples=300)
        assert tracemalloc.get_traced_memory()[1] < 200e6
    finally:
        tracemalloc.stop()
    assert found.spearman.value == pytest.approx(stats.spearmanr(a, b).statistic)
    assert found.spearman.low < found.spearman.value < found.spearman.high


def blocks(
    rng: np.random.Generator, items: int, places: int, favour: float
) -> tuple[list[str], list[int], list[float]]:
    """Items as unlike as can be, whose texts differ by chance, and by what the judge favours in the first."""
    quality = rng.normal(0, 10, items)[:, None] + rng.normal(0, 1, (items, places))
    quality[:, 0] += favour
    return (
        [str(n) for n in range(items) for _ in range(places)],
        list(range(1, places + 1)) * items,
        quality.ravel().tolist(),
    )


@pytest.mark.parametrize(("places", "test"), ((4, "Friedman"), (2, "sign test")))
def test_texts_of_one_item_are_compared_with_each_other(places: int, test: str) -> None:
    rng = np.random.default_rng(6)
    found = agreement.position_bias(*blocks(rng, 200, places, favour=1))
    assert (found.test, found.items, found.left_out) == (test, 200, 0)
    assert found.p < 1e-4
    assert 0.03 < found.effect < 0.5
    assert agreement.position_bias(*blocks(rng, 200, places, favour=50)).effect > 0.5
    alarms = [agreement.position_bias(*blocks(rng, 40, places, favour=0)).p < 0.05 for _ in range(200)]
    assert sum(alarms) / 200 < 0.09


def test_the_tests_are_scipy_s() -> None:
    items, positions, ratings = blocks(np.random.default_rng(7), 30, 3, favour=0.5)
    table = np.array(ratings).reshape(30, 3)
    expected = stats.friedmanchisquare(*table.T)
    found = agreement.position_bias(items, positions, ratings)
    assert (found.p, found.effect) == (expected.pvalue, expected.statistic / 60)
    alone = agreement.position_bias(
        [str(n) for n in range(90)], positions, ratings
    )  # one text an item: nothing to compare within
    assert (alone.test, alone.p, alone.items) == ("Kruskal-Wallis", stats.kruskal(*table.T).pvalue, 90)
    assert alone.effect == stats.kruskal(*table.T).statistic / 89


def test_an_item_without_all_ratings_costs_no_more_than_itself() -> None:
    items, positions, ratings = blocks(np.random.default_rng(8), 50, 4, favour=1)
    gappy: Gappy = [*ratings]
    gappy[5] = None
    found, without = (
        agreement.position_bias(items, positions, gappy),
        agreement.position_bias(items[8:], positions[8:], ratings[8:]),
    )
    assert (found.test, found.items, found.left_out) == ("Friedman", 49, 1)
    assert without.items == 48
    assert found.p < 1e-3


def test_where_position_cannot_matter_nothing_is_tested() -> None:
    for found in (
        agreement.position_bias([], [], []),
        agreement.position_bias(["a", "b"], [1, 1], [1, 5]),
        agreement.position_bias(["a", "a", "b", "b"], [1, 2, 1, 2], [4, 4, 2, 2]),
    ):
        assert (found.test, found.items) == ("none", 0)
        assert math.isnan(found.p)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 4), st.one_of(st.none(), st.integers(1, 3))), max_size=20)
)
def test_no_arrangement_of_texts_is_too_odd(rows: list[tuple[str, int, int | None]]) -> None:
    items, positions, ratings = [r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows]
    found = agreement.position_bias(items, positions, ratings)
    assert math.isnan(found.p) == (found.test == "none")
    assert math.isnan(found.p) or 0 <= found.p <= 1
    assert math.isnan(found.effect) or -1e-9 <= found.effect <= 1 + 1e-9
    habit = agreement.verbosity_bias(items, positions, ratings)
    assert all(math.isnan(value) or -1 - 1e-9 <= value <= 1 + 1e-9 for value in (habit.spearman, habit.within))


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
    lengths, ratings = [3, 9, 4, 4, 8, 1], [1, 5, 2, 3, 3, 3]
    expected = stats.spearmanr(lengths, ratings).statistic
    assert agreement.verbosity_bias(items, lengths, ratings).spearman == pytest.approx(expected)


def test_repeats_of_one_judge() -> None:
    found = agreement.self_consistency([[1, 2, None, 4], [1, 4, 3, 4]])
    assert found.same == pytest.approx(100 * 2 / 3)
    assert found.spread == pytest.approx(1 / 3)
    assert (found.items, found.left_out) == (3, 1)
    assert found.alpha == pytest.approx(library_alpha([[1, 2, None, 4], [1, 4, 3, 4]]))
    nothing = agreement.self_consistency([[None, 1], [1, None]])
    assert (nothing.items, nothing.left_out) == (0, 2)
    assert all(math.isnan(value) for value in (nothing.same, nothing.alpha, nothing.spread))
    assert agreement.self_consistency([]).items == 0


def test_the_largest_disagreements_come_first() -> None:
    assert agreement.largest_disagreements(["a", "b", "c", "d"], [1, 5, 3, None], [1, 1, 4, 2], 5) == [
        ("b", 5, 1),
        ("c", 3, 4),
    ]
