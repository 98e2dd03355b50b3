"""Our distributions against scipy's."""

import numpy as np
import pytest
from scipy import integrate, special, stats

from leaderboards.statistics.distributions import (
    binomial_chance,
    chi_square_quantile,
    find_root,
    incomplete_beta,
    sign_test_p,
    student_below,
    student_quantile,
    student_tail,
)
from leaderboards.statistics.significance import sum_tail


@pytest.mark.parametrize("x", (0.0, 1e-9, 1e-3, 0.02, 0.3, 0.5, 0.77, 0.98, 0.9999, 1.0))
def test_the_incomplete_beta_function_is_scipys(x: float) -> None:
    sizes = (0.3, 0.5, 1.0, 2.5, 20.0, 399.5, 8_910.0, 60_000.0)
    for a in sizes:
        ours = [incomplete_beta(a, b, x) for b in sizes]
        np.testing.assert_allclose(ours, special.betainc(a, sizes, x), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("freedom", (1.0, 1.5, 2.0, 3.7, 29.0, 1_000.0, 250_000.0))
def test_students_t_is_scipys(freedom: float) -> None:
    for value in (0.0, 0.1, 1.0, 1.96, 4.0, 12.0, 60.0):
        assert student_tail(value, freedom) == pytest.approx(float(special.stdtr(freedom, -value)), rel=1e-9)
    for tail in (0.5, 0.4, 0.1, 0.025, 0.005, 1e-6):
        found = student_quantile(tail, freedom)
        assert found == pytest.approx(-float(special.stdtrit(freedom, tail)), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("gained", "lost"), ((0, 0), (0, 1), (5, 0), (3, 3), (12, 25), (1_000, 1_100), (0, 40)))
def test_the_sign_test_is_scipys(gained: int, lost: int) -> None:
    expected = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert sign_test_p(gained, lost) == pytest.approx(float(expected), rel=1e-9)


def test_the_binomial_is_scipys() -> None:
    for right, wrong in ((0, 0), (0, 7), (7, 0), (3, 9), (4_000, 4_900)):
        for chance in (0.0, 0.01, 0.45, 0.99, 1.0):
            expected = float(stats.binom.pmf(right, right + wrong, chance))
            assert binomial_chance(right, wrong, chance) == pytest.approx(expected, rel=1e-8, abs=1e-300)


@pytest.mark.parametrize("root", (1e-9, 0.001, 0.3, 0.999))
@pytest.mark.parametrize("power", (1, 3, 40))
def test_a_root_is_found_in_few_steps(root: float, power: int) -> None:
    calls: list[float] = []

    def function(value: float) -> float:
        calls.append(value)
        return root**power - value**power if power < 40 else root - value

    assert find_root(function, 0.0, 1.0) == pytest.approx(root, rel=1e-9, abs=1e-12)
    assert len(calls) < 120


@pytest.mark.parametrize("freedom", (1, 2, 3, 4, 7, 18))
def test_whole_degrees_of_freedom_are_scipys(freedom: int) -> None:
    values = np.array([[-60.0, -2.0, -1e-3], [0.0, 0.7, 12.0]])
    np.testing.assert_allclose(student_below(values, freedom), special.stdtr(freedom, values), rtol=1e-9, atol=1e-15)
    for below in () if freedom % 2 else (1e-4, 0.04, 0.5, 0.96):
        assert chi_square_quantile(below, freedom) == pytest.approx(float(stats.chi2.ppf(below, freedom)), rel=1e-9)


@pytest.mark.parametrize(("student", "freedom"), ((0.01, 2), (0.3, 2), (0.3, 4), (3.0, 8), (0.3, 3)))
def test_the_tail_of_a_normal_and_a_student_s_t_is_that_of_their_sum(student: float, freedom: int) -> None:
    def beyond(deviation: float) -> float:
        return float(stats.norm.pdf(deviation) * 2 * stats.t.sf((size - deviation) / student, freedom))

    for size in (0.5, 3.0, 6.0):
        exact = integrate.quad(beyond, -12, 12, points=(size,), limit=400)[0]
        assert sum_tail(size, 1.0, student, freedom) == pytest.approx(exact, rel=0.03)
    assert sum_tail(3.0, 1.0, 0.0, np.inf) == pytest.approx(2 * stats.norm.sf(3))
    assert sum_tail(3.0, 0.0, 1.0, freedom) == pytest.approx(2 * stats.t.sf(3, freedom))
    assert (
        0 < sum_tail(30.0, 1.0, 0.01, 12) < sum_tail(25.0, 1.0, 0.01, 12) < 1e-20
    )  # rounded to nothing: still a chance
