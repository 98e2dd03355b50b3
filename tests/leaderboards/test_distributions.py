"""Our distributions against scipy's."""

import numpy as np
import pytest
from scipy import special, stats

from leaderboards.statistics.distributions import incomplete_beta, sign_test_p, student_quantile, student_tail


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
