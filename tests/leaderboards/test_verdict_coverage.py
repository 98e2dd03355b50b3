"""Intervals cover the truth as often as they say, and false alarms are as rare."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.random import Generator

from leaderboards.statistics.matches import Matched
from leaderboards.statistics.resampling import Array, CountsMetric
from leaderboards.statistics.verdict import compare, interval, verdicts
from tasks.benchmarks import yes_no
from tasks.metric import Metric
from tests.leaderboards.records import CHAIR_I, MME, Records, captions, mme_answers


def coverage(simulate: Callable[[Generator], Records], metric: CountsMetric, truth: float) -> float:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        low, high = interval(simulate(rng), metric)
        assert low is not None
        assert high is not None
        hits += low <= truth <= high
    return hits / 200


def test_intervals_cover_the_truth_of_a_ratio_of_clustered_captions() -> None:
    # An image is either harmless or dangerous, so its captions fail together: counted one by one they would seem three
    # times as many.
    assert 0.9 <= coverage(lambda rng: captions(rng, rng.choice([0.0, 0.9], size=60)), CHAIR_I, truth=45) <= 0.99


def test_intervals_cover_the_truth_of_acc_and_acc_plus() -> None:
    truth = 100 * (0.95 + 0.3) / 2 + 100 * (0.95**2 + 0.3**2) / 2
    assert 0.9 <= coverage(lambda rng: mme_answers(rng, rng.choice([0.3, 0.95], size=60)), MME, truth) <= 0.99


@pytest.mark.parametrize(("answer", "metric"), ((captions, CHAIR_I), (mme_answers, MME)))
def test_false_alarms_are_rare_and_real_differences_found(answer: Callable[..., Records], metric: CountsMetric) -> None:
    rng = np.random.default_rng(0)

    def outcome(base: Records, other: Records, seed: int) -> str:
        return compare(base, other, metric, higher_is_better=True, resamples=200, seed=seed).outcome

    alarms, finds = 0, 0
    for simulation in range(200):
        difficulty = rng.choice([0.2, 0.8], size=60)
        base = answer(rng, difficulty)
        alarms += outcome(base, answer(rng, difficulty), simulation) != "not separable"
        if simulation < 50:
            finds += outcome(base, answer(rng, difficulty + 0.15), simulation) == "better"
    assert 2 <= alarms <= 14  # of 200, at the 5% level
    assert finds >= 25


@pytest.mark.parametrize("apart", (0.0, 0.6))
def test_models_that_are_better_in_different_categories_are_told_apart_as_seldom_and_found_as_often(
    apart: float,
) -> None:
    """4 categories of 40 images, summed: one model is better in two of them, the other in two, by as much."""
    rng, parts = np.random.default_rng(6), np.repeat(np.arange(4), 40)
    metric = Metric(counts=lambda records: (), value=lambda sums: sums[..., 0] / 160)
    opposite = np.array([apart, -apart, apart, -apart])[parts]
    alarms = []
    for truth in (0.0, 0.2):
        matches = {
            run: Matched(
                base=[np.zeros((160, 1))],
                other=[(opposite + truth + rng.normal(0, 1, 160))[:, None]],
                metric=metric,
                higher_is_better=True,
                parts=parts,
            )
            for run in range(1000)
        }
        found = verdicts(matches, resamples=399, seed=1)
        alarms.append(sum(test.outcome != "not separable" for test in found.values()))
    assert 30 <= alarms[0] <= 70  # of 1,000, at the 5% level: three standard deviations
    assert alarms[1] >= 650  # Student's t within categories finds 71%


def test_models_of_the_same_f1_that_err_in_opposite_ways_are_told_apart_in_5_of_100_runs() -> None:
    """One says yes too often, the other too seldom; swaps are halfway between them, where F1 has other slopes."""
    rng, images = np.random.default_rng(7), 100

    def side(recall: float, wrong: float) -> Array:
        found, more = (rng.binomial(3, share, images) for share in (recall, wrong))
        whole = np.full(images, 3.0)
        return np.stack([2 * whole, found + whole - more, found, found + more, whole], axis=1)

    matches = {
        run: Matched(
            base=[side(1.0, 0.6)],
            other=[side(0.65, 0.04)],
            metric=yes_no.f1,
            higher_is_better=True,
            parts=np.zeros(images, dtype=np.int64),
        )
        for run in range(1000)
    }
    found = verdicts(matches, resamples=399, seed=1)
    assert 30 <= sum(test.outcome != "not separable" for test in found.values()) <= 70
