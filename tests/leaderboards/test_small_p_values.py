"""What p is beyond what swaps can count."""

import numpy as np
import pytest
from scipy import stats

from leaderboards.statistics import resampling
from leaderboards.statistics.resampling import Counted, bootstrap, swapped
from leaderboards.statistics.significance import least_p
from leaderboards.statistics.verdict import compare, matched, verdicts
from tasks.metric import mean_of, ratio_of
from tests.leaderboards.records import answers


@pytest.mark.parametrize(("images", "apart"), ((20, 20), (60, 30), (60, 60), (300, 40)))
def test_a_p_too_small_to_be_counted_follows_the_exact_one_without_a_step_and_is_never_much_below_it(
    images: int, apart: int
) -> None:
    """Where `apart` answers differ, all by as much, the test by swaps is the sign test, whose mid-p is known."""
    base = answers("x", [0.0] * images)
    found = {}
    for against in range(apart // 2):
        exact = float(2 * stats.binom.cdf(against, apart, 0.5) - stats.binom.pmf(against, apart, 0.5))
        if exact < 0.02:
            base = answers("x", [0.0] * (apart - against) + [1.0] * against + [0.0] * (images - apart))
            other = answers("x", [1.0] * (apart - against) + [0.0] * (images - apart + against))
            found[exact] = compare(base, other, mean_of("x"), higher_is_better=True).p
    assert min(found) < 1e-5
    assert list(found.values()) == sorted(found.values())  # the fewer are against it
    for exact, p in found.items():
        assert p >= exact * (0.5 if exact > 1e-4 else 1)  # above, it is counted, by chance
        assert p <= exact * 50 or exact < 1e-8


def test_a_strong_difference_survives_a_panel_of_hundreds_and_one_on_few_images_does_not() -> None:
    rng = np.random.default_rng(20)
    hard = rng.normal(50, 20, 300)
    base = answers("x", hard.tolist())
    strong, few = (hard + rng.normal(2, 5, 300)).tolist(), [*(hard[:12] + 1), *hard[12:]]
    other = {
        name: compare(base, answers("x", values), mean_of("x"), higher_is_better=True)
        for name, values in (("a", strong), ("b", few))
    }
    assert (other["a"].outcome, other["b"].outcome) == ("better", "better")
    assert other["b"].p >= least_p(12) == 1 / 2**12
    assert [560 * verdict.p < 0.05 for verdict in other.values()] == [True, False]


def test_what_swaps_can_count_is_counted() -> None:
    rng, outcomes = np.random.default_rng(21), []
    for seed in range(100):
        hard = rng.normal(0, 1, 40)
        sides = [
            Counted(answers("x", (hard + shift + rng.normal(0, 1, 40)).tolist()), mean_of("x")) for shift in (0, 0.6)
        ]
        match = matched(*sides, higher_is_better=True)
        swaps = swapped(
            [(match.metric, match.base[0], match.other[0])], match.parts, resamples=500, seed=seed
        ).differences
        verdict = verdicts({0: match}, resamples=500, seed=seed)[0]
        assert verdict.difference is not None
        by_swaps = (1 + int(np.count_nonzero(abs(swaps) > abs(verdict.difference)))) / 501  # there are no ties
        assert verdict.p <= by_swaps
        assert verdict.p == by_swaps or by_swaps <= 5 / 501
        outcomes.append(verdict.p == by_swaps)
    assert 10 < sum(outcomes) < 90


@pytest.mark.parametrize("rate", (0.05, 0.3))
def test_small_p_values_are_as_rare_as_they_say_however_rare_and_skewed_the_events(rate: float) -> None:
    """Few images, some with many hallucinations at once: of 3,000 comparisons of equal models, 150 may be below 5%, and
    3 below 0.1%."""
    rng, images, metric = np.random.default_rng(22), 40, ratio_of("hallucinated", "mentions", scale=100)
    found: list[float] = []
    for seed in range(5):
        matches = {}
        for pair in range(600):
            risk = rng.beta(rate, 1, images)
            sides = []
            for _ in range(2):
                mentions = rng.integers(1, 8, images)
                wrong = np.where(rng.random(images) < risk, rng.binomial(mentions, 0.8), 0)
                records = [
                    {"image": str(i), "hallucinated": int(w), "mentions": int(m)}
                    for i, (w, m) in enumerate(zip(wrong, mentions, strict=True))
                ]
                sides.append(Counted(records, metric))
            matches[pair] = matched(*sides, higher_is_better=False)
        found += [verdict.p for verdict in verdicts(matches, resamples=1000, seed=seed).values()]
    assert sum(p <= 0.05 for p in found) <= 175
    assert sum(p <= 0.001 for p in found) <= 8
    assert sum(p <= 0.0001 for p in found) <= 1


def test_no_p_is_0_however_many_images_differ() -> None:
    assert 0 < least_p(5000) < 1e-300


def test_how_many_resamples_are_counted_at_once_changes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = np.random.default_rng(1).integers(0, 5, (900, 2)).astype(float)
    parts, metric = np.repeat([0, 1], 450), mean_of("x")
    scores = [bootstrap([counts], parts, metric, resamples=300, seed=0)]
    monkeypatch.setattr(resampling, "_FEW", 50)
    scores.append(bootstrap([counts], parts, metric, resamples=300, seed=0))
    assert scores[0].tolist() == scores[1].tolist()
