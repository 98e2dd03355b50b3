"""Intervals hold what they say near the ends of a scale, too, and never contradict the test."""

from typing import Any

import numpy as np
import pytest

from leaderboards.statistics.edge_intervals import agree_with_test
from leaderboards.statistics.resampling import CountsMetric
from leaderboards.statistics.significance import ALPHA
from leaderboards.statistics.verdict import compare, interval
from tasks.benchmarks import mme, yes_no
from tasks.metric import Metric, mean_of, ratio_of

RATE = mean_of("x", scale=100)


def answered(values: list[float]) -> list[dict[str, Any]]:
    return [{"image": str(index), "x": value} for index, value in enumerate(values)]


@pytest.mark.parametrize("images", (20, 200, 3000))
def test_none_of_n_gives_about_three_in_n(images: int) -> None:
    low, high = interval(answered([0.0] * images), RATE)
    assert low == 0
    assert high == pytest.approx(330 / images, rel=0.1)
    low, high = interval(answered([1.0] * images), RATE)
    assert low == pytest.approx(100 - 330 / images, abs=33 / images)
    assert high == 100


def test_the_middle_of_the_scale_has_the_textbook_interval() -> None:
    low, high = interval(answered([1.0, 0.0] * 500), RATE)
    assert low == pytest.approx(50 - 3.1, abs=0.1)
    assert high == pytest.approx(50 + 3.1, abs=0.1)


@pytest.mark.parametrize(
    ("metric", "row", "other"),
    (
        (yes_no.f1, (6, 6, 3, 3, 3), (6, 0, 0, 3, 3)),
        (yes_no.f1, (6, 3, 0, 0, 3), (6, 3, 0, 0, 3)),
        (mme.total(("one",)), (2, 2, 1, 1), (2, 0, 0, 1)),
        (ratio_of("a", "b", 100), (0, 5), (5, 5)),
        (Metric(counts=lambda records: (), value=lambda sums: 100 * (1 - sums[..., 0] / sums[..., 1])), (0, 5), (5, 5)),
        (mean_of("a"), (6, 1), (0, 1)),
    ),
)
def test_a_perfect_score_and_the_worst_have_an_interval_that_ends_there(
    metric: Metric, row: tuple[float, ...], other: tuple[float, ...]
) -> None:
    for own in (row, other):
        whole = Metric(counts=lambda records, own=own: own, value=metric.value)  # type: ignore[misc]
        records = answered([0.0] * 30)
        low, high = interval(records, whole)
        assert low is not None
        assert high is not None
        assert low < high
        assert whole(records) in (low, high)


def test_a_metric_that_cannot_vary_has_no_width() -> None:
    constant = Metric(counts=lambda records: (1.0,), value=lambda sums: 0 * sums[..., 0] + 7)
    assert interval(answered([1.0, 2.0, 3.0]), constant) == (7, 7)


def test_no_flip_of_200_images_is_not_no_difference_for_sure() -> None:
    records = answered([1.0] * 150 + [0.0] * 50)
    verdict = compare(records, records, RATE, higher_is_better=True)
    assert (verdict.difference, verdict.outcome) == (0, "not separable")
    assert verdict.low == pytest.approx(-1.55, abs=0.05)
    assert verdict.high == pytest.approx(1.55, abs=0.05)


F1 = Metric(
    counts=lambda rs: (
        sum(r["x"] * r["yes"] for r in rs),
        sum(r["x"] == r["yes"] for r in rs),
        sum(r["yes"] for r in rs),
    ),
    value=lambda sums: 200 * sums[..., 0] / (sums[..., 1] + sums[..., 2]),
)


@pytest.mark.parametrize("metric", (RATE, F1, mean_of("x"), ratio_of("x", "words", 100)))
def test_better_or_worse_if_and_only_if_the_interval_leaves_0_out(metric: CountsMetric) -> None:
    rng = np.random.default_rng(8)
    outcomes = set()
    for _ in range(150):
        images, rate = int(rng.integers(2, 60)), float(rng.choice([0.01, 0.2, 0.5, 0.9, 0.99]))
        gain, loss = rng.random(2) * rng.choice([0.05, 0.3, 0.9])
        base = (rng.random(images) < rate).astype(int)
        other = np.where(base, rng.random(images) >= loss, rng.random(images) < gain).astype(int)
        sides = [
            [{"image": str(i), "x": int(x), "yes": i % 2, "words": 1 + i % 3} for i, x in enumerate(side)]
            for side in (base, other)
        ]
        verdict = compare(sides[0], sides[1], metric, higher_is_better=True, resamples=500)
        if verdict.low is None or verdict.high is None or verdict.difference is None:
            continue
        outcomes.add(verdict.outcome)
        assert (verdict.outcome == "better") == (verdict.low > 0), verdict
        assert (verdict.outcome == "worse") == (verdict.high < 0), verdict
        assert verdict.low <= verdict.difference <= verdict.high, verdict
    assert outcomes == {"better", "worse", "not separable"}


@pytest.mark.parametrize("p", (1e-12, 0.01, ALPHA, 0.0500001, 0.3, 1.0))
@pytest.mark.parametrize(("low", "high"), ((-1.0, 3.0), (0.5, 1.5), (0.0, 2.0)))
def test_the_end_beside_0_goes_where_p_puts_it(low: float, high: float, p: float) -> None:
    near, far = agree_with_test(low, high, 1.0, p)
    assert (near > 0) == (p <= ALPHA)
    assert near < 1 < far == high
    assert agree_with_test(-high, -low, -1.0, p) == (-far, -near)


@pytest.mark.parametrize("images", (5, 40))
def test_swapping_the_two_models_mirrors_interval_and_p(images: int) -> None:
    rng = np.random.default_rng(images)
    truth = rng.choice(["yes", "no"], images * 3)
    base, other = (
        [
            {"image": str(index // 3), "truth": said, "predicted": said if right else "no", "correct": bool(right)}
            for index, (said, right) in enumerate(zip(truth, rng.random(len(truth)) < rate, strict=True))
        ]
        for rate in (0.6, 0.8)
    )
    one, back = (compare(*pair, yes_no.f1, higher_is_better=True) for pair in ((base, other), (other, base)))
    assert one.low is not None
    assert one.high is not None
    assert (back.low, back.high) == pytest.approx((-one.high, -one.low), rel=1e-9)
    assert back.p == one.p
