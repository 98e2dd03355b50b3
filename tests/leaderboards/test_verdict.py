import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.evaluation.score_files import score
from leaderboards.statistics.resampling import Counted
from leaderboards.statistics.significance import DETECTED, holm
from leaderboards.statistics.verdict import (
    Pair,
    PairedTest,
    compare,
    compare_repeats,
    interval,
    matched,
    matched_repeats,
    panel,
    verdicts,
)
from support.errors import RecordsError
from tasks.benchmarks import mme
from tasks.metric import Metric, mean_of, ratio_of
from tasks.registry import registry
from tests.leaderboards.records import ACCURACY, CHAIR_I, MME, Records, answers, mme_answers

GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "mme"


def test_values_and_difference_are_the_metric_s_own() -> None:
    base = [
        {"image": "a", "correct": 1},
        {"image": "a", "correct": 0},
        {"image": "b", "correct": 1},
        {"image": "b", "correct": 1},
    ]
    other = [
        {"image": "b", "correct": 0},
        {"image": "b", "correct": 0},
        {"image": "a", "correct": 1},
        {"image": "a", "correct": 1},
    ]
    verdict = compare(base, other, MME, higher_is_better=True)
    assert (verdict.base, verdict.other, verdict.difference, verdict.images) == (75 + 50, 50 + 50, -25, 2)
    assert (verdict.low, verdict.high) == (-200, 200)  # two images tell nothing


def test_identical_answers_cannot_be_separated() -> None:
    records = answers("correct", [1, 0, 1, 1, 0])
    verdict = compare(records, list(reversed(records)), ACCURACY, higher_is_better=True)
    assert (verdict.difference, verdict.p, verdict.outcome) == (0, 1, "not separable")
    assert verdict.low == pytest.approx(-62, abs=1)  # 3.1 of 5 images
    assert verdict.high == pytest.approx(62, abs=1)


def test_a_tie_of_floats_is_a_tie() -> None:
    base, other = answers("x", [0.1, 0.2, 0.3, 0.6]), answers("x", [0.3, 0.6, 0.2, 0.1])
    assert compare(base, other, mean_of("x"), higher_is_better=True).p == 1
    for value in (
        0.7,
        1.1,
        2.3,
        3.7,
    ):  # one answer differs: to swap it turns the difference round, and makes it no smaller; half of the ties count
        one = compare(base, [*base[:-1], {"image": "image-3", "x": value}], mean_of("x"), higher_is_better=True)
        assert one.p == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize(
    ("metric", "more"),
    (
        (mean_of("x"), 0),
        (ratio_of("x", "y"), 0),
        # of a square, swaps halfway between the models vary less than they do
        (Metric(counts=lambda r: (r[0]["x"], 1), value=lambda s: s[..., 0] ** 2), 0.016),
    ),
)
def test_p_agrees_with_swapping_in_every_way(metric: Metric, more: float) -> None:
    rng = np.random.default_rng(5)
    base = [
        {"image": str(i), "x": float(x), "y": float(y)}
        for i, (x, y) in enumerate(zip(rng.random(6), 1 + rng.random(6), strict=True))
    ]
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
    ties = float(np.mean(abs(np.array(swapped) - observed) < observed * 1e-9))
    exact = float(np.mean(np.array(swapped) > observed * (1 + 1e-9))) + ties / 2
    assert ties >= 2 / 64
    assert 0.02 < exact < 0.6
    p = compare(base, other, metric, higher_is_better=True, resamples=40_000).p
    assert p == pytest.approx(exact + more, abs=0.01)


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
        answers("x", base.tolist()),
        answers("x", (base + rng.normal(1, 1, size=100)).tolist()),
        mean_of("x"),
        higher_is_better=True,
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
    assert rise.low == pytest.approx(60 - 23.5, abs=3)  # 2.09 standard errors, and a little for what was not seen
    assert rise.high == pytest.approx(60 + 23.5, abs=3)
    assert rise.p == fall.p < 0.01


def test_only_images_of_both_are_compared() -> None:
    base = [*answers("correct", [1, 0, 1]), {"image": "only here", "correct": 1}]
    other = [{"image": "only there", "correct": 0}, *answers("correct", [1, 1, 1])]
    verdict = compare(base, other, ACCURACY, higher_is_better=True)
    assert (verdict.images, verdict.left_out, verdict.other) == (3, 2, 100)
    assert verdict.base == pytest.approx(200 / 3)


def test_an_image_with_more_answers_on_one_side_is_named() -> None:
    base = answers("correct", [1, 0, 1])
    with pytest.raises(RecordsError, match="'image-1' has 1 records in one and 2 in the other"):
        compare(base, [*base, base[1], base[2]], ACCURACY, higher_is_better=True)
    with pytest.raises(RecordsError, match="no image"):
        compare(base, [{"image": "x", "correct": 1}], ACCURACY, higher_is_better=True)


def test_a_score_without_denominator_is_no_score() -> None:
    silent = [{"image": str(i), "mentions": 0, "hallucinated": 0} for i in range(4)]
    talking = [{"image": str(i), "mentions": 2, "hallucinated": 1} for i in range(4)]
    assert interval(silent, CHAIR_I) == (None, None)
    verdict = compare(silent, talking, CHAIR_I, higher_is_better=False)
    assert (verdict.base, verdict.other, verdict.difference, verdict.low, verdict.high) == (None, 50, None, None, None)
    assert (verdict.p, verdict.outcome) == (1, "not separable")


def test_images_without_denominator_tell_nothing() -> None:
    records = [{"image": str(i), "mentions": int(i == 0), "hallucinated": int(i == 0)} for i in range(3)]
    low, high = interval(records, CHAIR_I)
    assert low == pytest.approx(7.1, abs=0.1)  # of one image
    assert high == 100


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


# -- many at once


def test_a_verdict_is_the_same_whatever_else_is_judged_with_it() -> None:
    rng = np.random.default_rng(24)
    ability = rng.random(120)
    models = [mme_answers(rng, np.clip(ability + shift, 0, 1)) for shift in (0, 0.02, 0.05, 0.3)]
    base, *others = (Counted(records, MME) for records in models)
    plain = [Counted(records, ACCURACY) for records in models]
    fewer = [Counted(records[:-20], MME) for records in models[:2]]
    matches: dict[str, Any] = {
        str(index): matched(base, other, higher_is_better=True) for index, other in enumerate(others)
    }
    matches |= {
        "accuracy": matched(plain[0], plain[1], higher_is_better=True),
        "fewer": matched(*fewer, higher_is_better=True),
    }
    matches["judged"] = matched_repeats([base, others[0]], [others[1], others[2]], higher_is_better=True)
    together = verdicts(matches)
    assert together == {key: verdicts({key: match})[key] for key, match in matches.items()}
    assert together["0"] == compare(models[0], models[1], MME, higher_is_better=True)
    assert together["fewer"].images == 110


def test_the_same_seed_gives_the_same_verdict() -> None:
    rng = np.random.default_rng(3)
    base, other = mme_answers(rng, rng.random(30)), mme_answers(rng, rng.random(30))
    first, again, different = (compare(base, other, MME, higher_is_better=True, seed=seed) for seed in (1, 1, 2))
    assert first == again != different
    judged = [compare_repeats([base, other], [other, base], MME, higher_is_better=True, seed=seed) for seed in (1, 1)]
    assert judged[0] == judged[1]


def test_a_bootstrap_of_one_category_after_the_other_has_the_spread_that_theory_knows() -> None:
    # A sum of two means, of 10 and of 300 images: their variances add up, each with n - 1 below it.
    rng = np.random.default_rng(8)
    sizes, parts = {"small": 10, "large": 300}, {"small": rng.normal(0, 5, 10), "large": rng.normal(90, 20, 300)}
    base = [{"image": f"{name}-{i}", "category": name, "x": 0.0} for name, size in sizes.items() for i in range(size)]
    other = [
        {"image": f"{name}-{i}", "category": name, "x": float(x)}
        for name, found in parts.items()
        for i, x in enumerate(found)
    ]
    both = Metric(
        counts=lambda rs: [
            f for name in sizes for f in (sum(r["x"] for r in rs if r["category"] == name), rs[0]["category"] == name)
        ],
        value=lambda sums: sums[..., 0] / sums[..., 1] + sums[..., 2] / sums[..., 3],
    )
    verdict = compare(base, other, both, higher_is_better=True)
    error = np.sqrt(sum(found.var(ddof=1) / len(found) for found in parts.values()))
    assert verdict.mde == pytest.approx(DETECTED * error, rel=0.03)
    # Drawn from all images at once, what lies between the categories would come into it where a metric pools them.
    pooled = compare(base, other, mean_of("x"), higher_is_better=True)
    within = np.sqrt(sum(found.var(ddof=1) * len(found) for found in parts.values())) / 310
    assert pooled.mde == pytest.approx(DETECTED * within, rel=0.03)


def test_a_category_of_one_image_does_not_pass_for_one_without_chance() -> None:
    values = np.random.default_rng(9).normal(0, 1, 12).tolist()
    alone = [{"image": str(i), "category": str(i), "x": x} for i, x in enumerate(values)]
    assert interval(alone, mean_of("x")) == interval([r | {"category": ""} for r in alone], mean_of("x"))
    odd = [r | {"category": "usual" if i else "odd"} for i, r in enumerate(alone)]
    low, high = interval(odd, mean_of("x"))
    assert low is not None
    assert high is not None
    assert high - low > 0.5


def test_images_that_are_in_several_categories_are_drawn_from_all() -> None:
    rng = np.random.default_rng(10)
    records = [
        {"image": str(i), "category": split, "x": float(rng.random())}
        for i in range(30)
        for split in ("random", "popular")
    ]
    assert interval(records, mean_of("x")) == interval([r | {"category": ""} for r in records], mean_of("x"))


def test_the_minimum_detectable_effect_is_that_of_theory_and_none_without_spread() -> None:
    rng = np.random.default_rng(11)
    gain = rng.normal(0, 3, 200)
    base, other = answers("x", [0.0] * 200), answers("x", gain.tolist())
    verdict = compare(base, other, mean_of("x"), higher_is_better=True)
    assert pytest.approx(2.8016, abs=1e-4) == DETECTED
    assert verdict.mde == pytest.approx(2.8016 * gain.std(ddof=1) / np.sqrt(200), rel=0.03)
    assert compare(base, base, mean_of("x"), higher_is_better=True).mde is None
    assert compare(base[:1], other[:1], mean_of("x"), higher_is_better=True).mde is None
    same_gain = answers("x", [0.3] * 200)
    assert compare(base, same_gain, mean_of("x"), higher_is_better=True).mde is None


def test_mcnemar_counts_questions_on_which_one_is_right() -> None:
    base, other = answers("correct", [1] * 10 + [0] * 10), answers("correct", [1] * 9 + [0] + [1] * 8 + [0] * 2)
    verdict = compare(base, other, ACCURACY, higher_is_better=True)
    assert verdict.mcnemar == pytest.approx(
        2 * (1 + 9) / 2**9
    )  # 8 gained, 1 lost: of 9 throws of a coin, at most 1 of a side
    assert compare(base, base, ACCURACY, higher_is_better=True).mcnemar == 1


def test_mcnemar_is_for_plain_accuracy_alone() -> None:
    rng = np.random.default_rng(12)
    base, other = mme_answers(rng, rng.random(30)), mme_answers(rng, rng.random(30))
    assert compare(base, other, MME, higher_is_better=True).mcnemar is None
    assert compare(base, other, ACCURACY, higher_is_better=True).mcnemar is not None
    assert compare(answers("x", [1, 0]), answers("x", [0, 0]), mean_of("x"), higher_is_better=True).mcnemar is None
    said = [[{**record, "correct": ("false", "true")[record["correct"]]} for record in side] for side in (base, other)]
    worded = Metric(
        counts=lambda rs: (sum(r["correct"] == "true" for r in rs), len(rs)),
        value=lambda s: 100 * s[..., 0] / s[..., 1],
    )
    assert compare(said[0], said[1], worded, higher_is_better=True).mcnemar is None


@pytest.mark.parametrize(
    ("record", "words"),
    (
        ({"image": "b", "x": "many"}, "can't count these records: ValueError"),
        ({"image": "b", "x": None}, "can't count these records: TypeError"),
        ({"image": "b"}, "can't count these records: KeyError"),
        ({"x": 1}, "a record names no image"),
        ({"image": "b", "x": float("nan")}, "image 'b': what the metric counts is no finite number"),
    ),
)
def test_records_that_are_no_counts_are_named(record: dict[str, Any], words: str) -> None:
    base = [{"image": "a", "x": 1}, {"image": "b", "x": 0}]
    with pytest.raises(RecordsError, match=words):
        compare(base, [base[0], record], mean_of("x"), higher_is_better=True)


def test_questions_that_hang_together_make_mcnemar_too_sure_and_leave_the_outcome_alone() -> None:
    base = [{"image": str(i), "correct": 0} for i in range(6) for _ in range(10)]
    other = [{"image": str(i), "correct": int(i < 4)} for i in range(6) for _ in range(10)]
    verdict = compare(base, other, ACCURACY, higher_is_better=True)
    assert verdict.mcnemar is not None
    assert verdict.mcnemar < 1e-9
    assert verdict.p > 0.05
    assert verdict.outcome == "not separable"


@pytest.mark.skipif(not GOLDEN.exists(), reason="the golden MME answers are not beside the repository")
@pytest.mark.parametrize("metric", ("perception", "cognition", "accuracy"))
def test_the_published_answers_of_llava_are_better_than_those_of_lavin(metric: str) -> None:
    task = registry().task("mme")

    def records(folder: str) -> Records:
        process = registry().process_results("mme")
        return [
            process(s.doc, [s.answer])[metric]
            for s in registry().official_answers("mme")(GOLDEN / folder, None).answered
        ]

    lavin, llava = records("LaVIN"), records("llava-v1.5-13b")
    verdict: PairedTest = compare(
        lavin, llava, registry().metric("mme", metric), higher_is_better=task.metrics[metric].higher_is_better
    )
    assert verdict.base == pytest.approx(score(task, GOLDEN / "LaVIN", None).metrics[metric])
    assert verdict.other == pytest.approx(score(task, GOLDEN / "llava-v1.5-13b", None).metrics[metric])
    assert verdict.images == 1187
    if metric == "cognition":  # 130 images: 45.7 points are less than the chance in them
        assert verdict.outcome == "not separable"
        assert verdict.difference == pytest.approx(295.3571 - 249.6429, abs=1e-3)
    else:
        assert verdict.outcome == "better"
        assert (verdict.mcnemar is not None) == (metric == "accuracy")
    back = compare(llava, lavin, registry().metric("mme", metric), higher_is_better=True)
    assert back.outcome == {"better": "worse"}.get(verdict.outcome, "not separable")
    if metric == "perception":
        assert mme.perception(llava) == pytest.approx(1531.3187, abs=1e-3)
