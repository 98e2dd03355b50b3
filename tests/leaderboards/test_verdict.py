import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator
from numpy.typing import NDArray

from leaderboards.verdict import CountsMetric, Pair, compare, holm, interval, panel
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


def test_values_and_difference_are_the_metric_s_own() -> None:
    base = [{"image": "a", "correct": 1}, {"image": "a", "correct": 0}, {"image": "b", "correct": 1}, {"image": "b", "correct": 1}]
    other = [{"image": "b", "correct": 0}, {"image": "b", "correct": 0}, {"image": "a", "correct": 1}, {"image": "a", "correct": 1}]
    verdict = compare(base, other, MME, higher_is_better=True)
    assert (verdict.base, verdict.other, verdict.difference, verdict.images) == (75 + 50, 50 + 50, -25, 2)
    assert (verdict.low, verdict.high) == (-200, 150)  # both images drawn as b, or as a


def test_identical_answers_cannot_be_separated() -> None:
    records = answers("correct", [1, 0, 1, 1, 0])
    verdict = compare(records, list(reversed(records)), ACCURACY, higher_is_better=True)
    assert (verdict.difference, verdict.low, verdict.high, verdict.p, verdict.outcome) == (0, 0, 0, 1, "not separable")


def test_a_tie_of_floats_is_a_tie() -> None:
    base, other = answers("x", [0.1, 0.2, 0.3, 0.6]), answers("x", [0.3, 0.6, 0.2, 0.1])
    assert compare(base, other, mean_of("x"), higher_is_better=True).p == 1
    for value in (0.7, 1.1, 2.3, 3.7):  # one answer differs: to swap it turns the difference round, and makes it no smaller
        assert compare(base, [*base[:-1], {"image": "image-3", "x": value}], mean_of("x"), higher_is_better=True).p == 1


@pytest.mark.parametrize(
    "metric", (mean_of("x"), ratio_of("x", "y"), Metric(counts=lambda r: (r[0]["x"], 1), value=lambda s: s[..., 0] ** 2))
)
def test_p_agrees_with_swapping_in_every_way(metric: Metric) -> None:
    rng = np.random.default_rng(5)
    base = [{"image": str(i), "x": float(x), "y": float(y)} for i, (x, y) in enumerate(zip(rng.random(6), 1 + rng.random(6), strict=True))]
    other = [
        {"image": str(i), "x": float(x), "y": float(y)}
        for i, (x, y) in enumerate(zip(0.35 + rng.random(6), 1 + rng.random(6), strict=True))
    ]
    observed = abs(metric(other) - metric(base))
    swapped = [
        abs(metric([b if s else a for a, b, s in rows]) - metric([a if s else b for a, b, s in rows]))
        for swaps in itertools.product((False, True), repeat=6)
        for rows in [list(zip(base, other, swaps, strict=True))]
    ]
    exact = float(np.mean(np.array(swapped) >= observed * (1 - 1e-9)))
    assert 0.02 < exact < 0.6
    assert compare(base, other, metric, higher_is_better=True, resamples=40_000).p == pytest.approx(exact, abs=0.01)


def test_the_interval_is_that_of_the_mean_where_theory_knows_it() -> None:
    values = np.random.default_rng(1).normal(50, 10, size=400)
    low, high = interval(answers("x", values.tolist()), mean_of("x"))
    error = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - error, abs=0.1)
    assert high == pytest.approx(values.mean() + error, abs=0.1)


def test_pairing_takes_the_images_difficulty_out() -> None:
    rng = np.random.default_rng(2)
    base = rng.normal(50, 30, size=100)
    verdict = compare(
        answers("x", base.tolist()), answers("x", (base + rng.normal(1, 1, size=100)).tolist()), mean_of("x"), higher_is_better=True
    )
    assert verdict.outcome == "better"
    assert verdict.low is not None
    assert 0.5 < verdict.low < 1


@pytest.mark.parametrize(("higher_is_better", "up", "down"), ((True, "better", "worse"), (False, "worse", "better")))
def test_better_is_the_way_the_metric_points(higher_is_better: bool, up: str, down: str) -> None:
    few, many = answers("correct", [0] * 20), answers("correct", [1] * 12 + [0] * 8)
    rise = compare(few, many, ACCURACY, higher_is_better=higher_is_better)
    fall = compare(many, few, ACCURACY, higher_is_better=higher_is_better)
    assert (rise.outcome, fall.outcome) == (up, down)
    assert rise.difference == pytest.approx(60)
    assert rise.low == pytest.approx(40)
    assert rise.high == pytest.approx(80)
    assert rise.p == fall.p < 0.01


def test_only_images_of_both_are_compared() -> None:
    base = [*answers("correct", [1, 0, 1]), {"image": "only here", "correct": 1}]
    other = [{"image": "only there", "correct": 0}, *answers("correct", [1, 1, 1])]
    verdict = compare(base, other, ACCURACY, higher_is_better=True)
    assert (verdict.images, verdict.other) == (3, 100)
    assert verdict.base == pytest.approx(200 / 3)


def test_an_image_with_more_answers_on_one_side_is_named() -> None:
    base = answers("correct", [1, 0, 1])
    with pytest.raises(ValueError, match="'image-1' has 1 records in one and 2 in the other"):
        compare(base, [*base, base[1], base[2]], ACCURACY, higher_is_better=True)
    with pytest.raises(ValueError, match="no image"):
        compare(base, [{"image": "x", "correct": 1}], ACCURACY, higher_is_better=True)


def test_a_score_without_denominator_is_no_score() -> None:
    silent = [{"image": str(i), "mentions": 0, "hallucinated": 0} for i in range(4)]
    talking = [{"image": str(i), "mentions": 2, "hallucinated": 1} for i in range(4)]
    assert interval(silent, CHAIR_I) == (None, None)
    verdict = compare(silent, talking, CHAIR_I, higher_is_better=False)
    assert (verdict.base, verdict.other, verdict.difference, verdict.low, verdict.high) == (None, 50, None, None, None)
    assert (verdict.p, verdict.outcome) == (1, "not separable")


def test_resamples_without_denominator_are_left_out() -> None:
    records = [{"image": str(i), "mentions": int(i == 0), "hallucinated": int(i == 0)} for i in range(3)]
    assert interval(records, CHAIR_I) == (100, 100)


def test_one_image_or_none_has_no_interval() -> None:
    assert interval([], ACCURACY) == (None, None)
    assert interval(answers("correct", [1]), ACCURACY) == (None, None)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([]) == []


def test_a_panel_asks_more_of_each_metric() -> None:
    few, many = answers("correct", [0] * 20), answers("correct", [1] * 6 + [0] * 14)
    alone = compare(few, many, ACCURACY, higher_is_better=True)
    pair, same = Pair(few, many, ACCURACY, True), Pair(few, few, ACCURACY, True)
    verdicts = panel({"a": pair, "b": same, "c": same})
    assert alone.outcome == "better"
    assert verdicts["a"].p == pytest.approx(3 * alone.p)
    assert verdicts["a"].outcome == "not separable"
    assert panel({"a": pair})["a"] == alone


def test_the_same_seed_gives_the_same_verdict() -> None:
    rng = np.random.default_rng(3)
    base, other = mme_answers(rng, rng.random(30)), mme_answers(rng, rng.random(30))
    first, again, different = (compare(base, other, MME, higher_is_better=True, seed=seed) for seed in (1, 1, 2))
    assert first == again != different


def coverage(simulate: Callable[[Generator], Records], metric: CountsMetric, truth: float) -> float:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        low, high = interval(simulate(rng), metric, resamples=400)
        assert low is not None
        assert high is not None
        hits += low <= truth <= high
    return hits / 200


def test_intervals_cover_the_truth_of_a_ratio_of_clustered_captions() -> None:
    # An image is either harmless or dangerous, so its captions fail together: counted one by one they would seem three times as many.
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
