import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from leaderboards.board.board import Board
from leaderboards.board.entry import Entry
from leaderboards.comparison.power import Power, of_boards, paired, single, supposed
from leaderboards.comparison.power_report import Plan, render, render_panel, to_json
from leaderboards.statistics.matches import Matched
from leaderboards.statistics.planned_test import Spread, smallest_difference
from leaderboards.statistics.significance import ALPHA
from leaderboards.statistics.verdict import verdicts
from support.errors import CompareError
from tasks.metric import mean_of

Records = list[dict[str, Any]]
Array = NDArray[np.float64]
Make = Callable[..., Any]

SCORE = mean_of("x")


def scores(values: Sequence[float] | Array, each: int = 1) -> Records:
    return [{"image": str(index), "x": float(value)} for index, value in enumerate(values) for _ in range(each)]


def rows_of(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in text.splitlines() if row.startswith("|")]


def draw(seed: int, shift: float = 0.0, noise: float = 1.0) -> list[float]:
    hard = np.random.default_rng(0).normal(50, 10, 100)
    return list(hard + shift + np.random.default_rng(seed).normal(0, noise, 100))


def power_of(
    error: float, images: int = 100, samples: int = 600, unit: str = "%", basis: str = "", **facts: Any
) -> Power:
    spread = Spread(answers=error**2 * images)
    return Power(spread=spread, images=images, samples=samples, unit=unit, basis=basis, **facts)


def test_what_a_run_sees_shrinks_with_the_root_of_its_images() -> None:
    power = power_of(2.0, images=10_000, samples=60_000)
    assert power.error == pytest.approx(2)
    assert power.detectable() == pytest.approx(2 * 2.802, rel=1e-3)  # 2.80 standard errors
    assert power.detectable(240_000) == power.detectable(images=40_000) == pytest.approx(2.802, rel=1e-3)
    assert power_of(2.0).detectable() > power.detectable()  # an error estimated from 100 images is less certain
    assert np.isinf(power.detectable(images=1))


def test_needed_images_are_the_fewest_that_show_a_difference() -> None:
    power = power_of(2.0)
    for difference, repeats, tests in ((5.0, 1, 1), (2.0, 1, 12), (40.0, 1, 1)):
        images = power.images_for(difference, repeats=repeats, tests=tests)
        assert power.detectable(images=images, tests=tests) <= difference
        assert images == 2 or power.detectable(images=images - 1, tests=tests) > difference
        assert power.samples_for(difference, tests=tests) == 6 * images


def test_a_panel_sees_less_by_holm_and_needs_more() -> None:
    power = power_of(2.0)
    seen = [power.detectable(tests=tests) for tests in (1, 2, 12)]
    assert seen == sorted(seen)
    assert seen[2] == pytest.approx(smallest_difference(power.spread, 100, level=ALPHA / 12))
    assert power.images_for(5, tests=12) > power.images_for(5)


@pytest.mark.parametrize(("difference", "unit"), ((101, "%"), (6.5, "0-6"), (1e-300, "%"), (1e-9, "points")))
def test_a_difference_that_none_can_have_or_see_is_refused_in_a_line(difference: float, unit: str) -> None:
    with pytest.raises(
        CompareError,
        match=rf"difference must be .*, but is|a difference of 1e-\d+ {unit} needs more than 1e\+12 images",
    ):
        power_of(2.0, unit=unit).samples_for(difference)


def test_a_run_too_small_for_any_difference_is_said_to_see_none() -> None:
    shown = render(power_of(25.0, images=10, samples=10, basis="answers"), Plan())
    assert rows_of(shown)[2] == ["1", "none"]
    assert float(rows_of(shown)[-1][0]) < 100
    assert "samples needed" not in render(power_of(90.0, images=10, samples=10, basis="answers"), Plan())


@pytest.mark.parametrize("difference", (0, -1, float("nan"), float("inf")))
def test_no_samples_show_a_difference_of_nothing(difference: float) -> None:
    with pytest.raises(CompareError, match="difference must be more than 0 and at most 100 %, but is"):
        power_of(2.0).samples_for(difference)


def test_no_run_has_less_than_one_sample() -> None:
    with pytest.raises(CompareError, match="samples must be at least 1, but is 0"):
        power_of(2.0).detectable(0)
    with pytest.raises(CompareError, match="at least 1, but is -3"):
        supposed(-3, unit="%")


def test_paired_answers_see_more_than_one_model_s_alone() -> None:
    base, other = scores(draw(1)), scores(draw(2))
    both, alone = paired([base], [other], SCORE, unit="%"), single([base], SCORE, unit="%")
    assert both.error == pytest.approx(np.sqrt(2 / 100), rel=0.2)
    assert alone.error == pytest.approx(np.sqrt(2 * (100 + 1) / 100), rel=0.2)
    assert "paired" in both.basis
    assert "supposed independent" in alone.basis


def test_more_questions_on_the_same_images_are_more_samples_and_no_more_images() -> None:
    power = paired([scores(draw(1), each=3)], [scores(draw(2), each=3)], SCORE, unit="%")
    assert (power.images, power.samples) == (100, 300)
    assert power.error == pytest.approx(paired([scores(draw(1))], [scores(draw(2))], SCORE, unit="%").error)


def test_answers_without_any_spread_say_nothing() -> None:
    with pytest.raises(CompareError, match="no spread between a and b: 100 images"):
        paired([scores(draw(1))], [scores(draw(1))], SCORE, unit="%", names=("a", "b"))
    with pytest.raises(CompareError, match="no spread in the answers of a"):
        single([scores([1.0] * 5)], SCORE, unit="%", name="a")
    with pytest.raises(CompareError, match="no spread"):
        single([scores([1.0])], SCORE, unit="%", name="a")
    with pytest.raises(CompareError, match=r"no spread in the answers of a \(0 images\)"):
        single([[]], SCORE, unit="%", name="a")


def test_without_answers_the_binomial_worst_case_is_supposed() -> None:
    assert supposed(1000, unit="%").error == pytest.approx(100 * np.sqrt(2 * 0.25 / 1000))
    assert supposed(1000, unit="%", accuracy=90).error == pytest.approx(100 * np.sqrt(2 * 0.09 / 1000))
    assert supposed(1000, unit="%", discordance=8).error == pytest.approx(100 * np.sqrt(0.08 / 1000))
    assert supposed(96, unit="0-6").error == pytest.approx(6 * np.sqrt(0.5 / 96))
    assert "differ on 50% of the questions, as independent ones that are 50% right do" in supposed(1000, unit="%").basis
    assert "differ on 8% of the questions, every" in supposed(1000, unit="%", discordance=8).basis
    assert supposed(1000, unit="%").basis.endswith("and the score to be the share of right answers")
    assert supposed(10, unit="1-10").basis.endswith("and every answer to be rated 1 or 10")


def test_nothing_is_supposed_that_cannot_be() -> None:
    with pytest.raises(CompareError, match=r"unit 'points' has no range to suppose \(known: %, 0-6, 1-10\)"):
        supposed(1000, unit="points")
    for accuracy in (0.0, 100.0, float("nan")):
        with pytest.raises(CompareError, match="accuracy must be between 0 and 100"):
            supposed(10, unit="%", accuracy=accuracy)
    for discordance in (0.0, 101.0):
        with pytest.raises(CompareError, match="discordance must be more than 0"):
            supposed(10, unit="%", discordance=discordance)


def test_a_supposed_difference_is_found_by_80_of_100_runs() -> None:
    from scipy.stats import binomtest

    rng, power, finds = np.random.default_rng(0), supposed(2000, unit="%", discordance=10), 0
    gain = power.detectable() / 100
    for _ in range(500):
        gained, lost, _ = rng.multinomial(2000, [0.05 + gain / 2, 0.05 - gain / 2, 0.9])
        finds += gained > lost and binomtest(int(gained), int(gained + lost)).pvalue <= 0.05
    assert 0.74 <= finds / 500 <= 0.85


@pytest.fixture
def board(tmp_path: Path, make_entry: Make, make_sample: Make) -> Board:
    board = Board(tmp_path / "board")

    def add(run: str, values: Sequence[float] | None, day: int, **changes: Any) -> None:
        created = f"2026-01-{day:02}T12:00:00+00:00"
        facts = {"run": run, "model": run, "samples": 100, "created": created} | changes
        entry: Entry = make_entry(**facts)
        samples = [
            make_sample(run=run, task=entry.task, id=str(i), image=str(i), records={"CHAIR_s": record})
            for i, record in enumerate(scores(values or []))
        ]
        board.add([entry], samples)

    add("base", draw(1), 1)
    add("tuned", draw(2), 2)
    add("bare", None, 3)
    add("cut", draw(3)[:10], 4, limit=10, samples=10)
    add("old", draw(4), 1, version="0")
    return board


def test_the_two_models_scored_last_are_taken_where_none_is_named(board: Board) -> None:
    power = of_boards([board], "scenes_chair", "CHAIR_s", SCORE)
    assert power is not None
    assert power.basis == "tuned and base on the same 100 images, paired"
    assert power.unit == "%"


def test_named_models_are_taken_and_one_alone_is_taken_alone(board: Board) -> None:
    pair = of_boards([board], "scenes_chair", "CHAIR_s", SCORE, model="base", against="tuned")
    assert pair is not None
    assert pair.basis.startswith("base and tuned on")
    for names in ({"model": "base"}, {"against": "base"}):
        alone = of_boards([board], "scenes_chair", "CHAIR_s", SCORE, **names)
        assert alone is not None
        assert alone.basis.startswith("base alone")


def test_two_models_are_found_on_two_boards(board: Board, tmp_path: Path, make_entry: Any, make_sample: Any) -> None:
    entry = make_entry(run="other", model="other", samples=100)
    other = Board(tmp_path / "other")
    other.add(
        [entry],
        [
            make_sample(run="other", id=str(i), image=str(i), records={"CHAIR_s": r})
            for i, r in enumerate(scores(draw(7)))
        ],
    )
    power = of_boards([board, other], "scenes_chair", "CHAIR_s", SCORE, model="base", against="other")
    assert power is not None
    assert power.basis == "base and other on the same 100 images, paired"


def test_a_torn_log_is_named(board: Board) -> None:
    log = board.folder / "tuned.samples.parquet"
    log.write_bytes(log.read_bytes()[:100])
    with pytest.raises(CompareError, match=r"the samples of 'tuned' can't be read: .*tuned"):
        of_boards([board], "scenes_chair", "CHAIR_s", SCORE)


def test_a_task_nobody_was_scored_on_has_no_power_to_tell(board: Board) -> None:
    assert of_boards([board], "scenes_pope", "f1", SCORE) is None


@pytest.mark.parametrize(
    ("names", "message"),
    (
        (
            {"model": "tunde"},
            "no whole run of 'tunde' on scenes_chair CHAIR_s (did you mean 'tuned'?); known: bare, base, old, tuned",
        ),
        ({"model": "cut"}, "no whole run of 'cut'"),
        ({"model": "bare"}, "the run of 'bare' on scenes_chair kept no sample log"),
        ({"model": "base", "against": "bare"}, "the run of 'bare' on scenes_chair kept no sample log"),
        ({"model": "base", "against": "base"}, "'base' cannot be held against itself"),
        ({"model": "base", "against": "old"}, "'base' and 'old' were scored on different versions of scenes_chair"),
    ),
)
def test_a_named_model_that_cannot_be_taken_is_an_error(board: Board, names: dict[str, str], message: str) -> None:
    with pytest.raises(CompareError, match=re.escape(message)):
        of_boards([board], "scenes_chair", "CHAIR_s", SCORE, **names)


def test_the_page_has_the_sizes_and_claims_asked_for() -> None:
    power = power_of(2.0, images=500, samples=3000, basis="a|b")
    text = render(power, Plan(samples=1234, difference=0.5))
    assert "from a\\|b (3,000 samples, 500 images)" in text
    rows = rows_of(text)
    assert ["206", "1,234", f"{power.detectable(1234):.3g}"] in rows
    assert ["500", "3,000", "5.61"] in rows
    assert ["0.5", f"{power.images_for(0.5):,}", f"{power.samples_for(0.5):,}"] in rows
    assert "(this metric alone)" in text
    assert "one of 12 tests" in render(power, Plan(tests=12))


def test_a_scale_is_no_number_behind_a_number_and_supposed_questions_have_no_images() -> None:
    text = render(supposed(96, unit="0-6"), Plan())
    assert "0.433 on the scale 0-6, from" in text
    assert "smallest difference seen (0-6)" in text
    assert "(96 samples)" in text
    assert "images" not in text


def flips(seed: int, images: int = 400, each: int = 4) -> tuple[Records, Records]:
    """Two models whose answers differ on a tenth of the questions, images as a whole."""
    rng = np.random.default_rng(seed)
    right = rng.random((images, each)) < 0.7
    other = right ^ (rng.random((images, 1)) < 0.1)
    sides = [[{"image": str(i), "x": 100.0 * x} for i, row in enumerate(side) for x in row] for side in (right, other)]
    return sides[0], sides[1]


def test_questions_that_flip_together_are_told_as_a_cluster() -> None:
    base, other = flips(0)
    power = paired([base], [other], SCORE, unit="%")
    assert power.cluster is not None
    assert power.correlation is not None
    assert 1.2 < power.cluster < 2.2  # of both directions within an image; 4 if all went one way
    assert power.correlation == pytest.approx((power.cluster - 1) / 3)
    assert "Questions about one image count together" in render(power, Plan())
    alone = [[{**record, "image": str(at)} for at, record in enumerate(side)] for side in (base, other)]
    assert paired(alone[:1], alone[1:], SCORE, unit="%").cluster == 1
    assumed = supposed(1600, unit="%", discordance=10, per_image=4, correlation=power.correlation)
    assert assumed.error == pytest.approx(power.error, rel=0.15)
    assert assumed.images == 400
    assert assumed.cluster == pytest.approx(power.cluster)


def rated(rng: np.random.Generator, shift: float, repeats: int, images: int = 100) -> list[Array]:
    """Counts of two models' ratings: of each repeat its ratings, which share a deviation."""
    hard = rng.normal(3, 1, (images, 1))
    sides = []
    for gain in (0.0, shift):
        own = hard + gain + rng.normal(0, 1, (images, 1))
        sides.append(own + rng.normal(0, 0.8, (images, repeats)) + rng.normal(0, 0.1, repeats))
    return sides


TRUE = Spread(answers=2.0, ratings=2 * 0.8**2, moods=0.1**2)


def test_what_a_judge_adds_is_told_apart_and_what_repeats_buy() -> None:
    rng, found = np.random.default_rng(0), []
    for _ in range(20):
        sides = [[scores(side[:, turn]) for turn in range(3)] for side in rated(rng, 0, 3)]
        found.append(paired(sides[0], sides[1], SCORE, unit="0-6", judge="j").spread)
    assert np.mean([one.answers for one in found]) == pytest.approx(TRUE.answers, rel=0.15)
    assert np.mean([one.ratings for one in found]) == pytest.approx(TRUE.ratings, rel=0.15)
    assert np.mean([one.moods for one in found]) == pytest.approx(TRUE.moods, rel=0.5)
    power = Power(spread=TRUE, images=100, samples=100, unit="0-6", basis="b", judge="j", judged=3)
    shares = [TRUE.judge_share(100, repeats) for repeats in (1, 3, 10)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == pytest.approx((1.28 / 100 + 0.02) / (3.28 / 100 + 0.02))
    assert power.detectable(repeats=10) < power.detectable(repeats=3) < power.detectable(repeats=2)
    assert [row[0] for row in rows_of(render(power, Plan()))][-5:] == ["1", "2", "3", "5", "10"]
    with pytest.raises(CompareError, match="found by no number of images: the judge's moods alone hide up to"):
        power.images_for(0.1, repeats=3)


def test_a_judge_asked_once_is_said_to_be_unknown() -> None:
    power = power_of(0.1, unit="0-6", judge="gpt")
    assert "asked once, so what its repeats would differ by is not known" in render(power, Plan())
    assert to_json(power, Plan())["judge_share"] is None


def found_by_the_test(sides: Sequence[Sequence[Array]], level: float, seed: int) -> bool:
    """Whether the product's own test finds the second model better at this level."""
    counts = [[np.stack([own, np.ones(len(own))], axis=1) for own in side] for side in sides]
    match = Matched(
        base=counts[0],
        other=counts[1],
        metric=SCORE,
        higher_is_better=True,
        parts=np.zeros(len(counts[0][0]), dtype=np.int64),
    )
    test = verdicts({"": match}, resamples=1000, seed=seed)[""]
    return (test.difference or 0) > 0 and test.p <= level


@pytest.mark.parametrize(("repeats", "tests"), ((1, 1), (3, 1), (5, 8)))
def test_a_promised_difference_is_found_by_80_of_100_judged_runs(repeats: int, tests: int) -> None:
    rng, level = np.random.default_rng(1), ALPHA / tests
    gain = smallest_difference(TRUE, 100, repeats=repeats, level=level)
    runs = [[list(side.T) for side in rated(rng, gain, repeats)] for _ in range(200)]
    found = np.mean([found_by_the_test(sides, level, seed) for seed, sides in enumerate(runs)])
    assert 0.73 <= found <= 0.87  # 200 runs: +-5.5%


def test_a_promised_difference_is_found_by_80_of_100_runs_of_clustered_questions() -> None:
    rng, images = np.random.default_rng(2), 150

    def drawn(size: int, gain: float) -> list[Array]:
        """Share of four questions that are right; where the models differ, they differ on all four."""
        right = rng.random((size, 4)) < 0.7
        turned = rng.random((size, 1)) < 0.3
        better = rng.random((size, 4)) < 0.7 + gain / 0.3
        return [100 * side.mean(axis=1) for side in (right, np.where(turned, better, right))]

    base, other = drawn(100_000, 0.04)
    true = Spread(answers=float((other - base).var()))
    pilot = [scores(side) for side in drawn(2_000, 0.04)]
    told = paired(pilot[:1], pilot[1:], SCORE, unit="%").spread
    assert told.answers == pytest.approx(true.answers, rel=0.1)
    seen = smallest_difference(true, images)
    assert seen == pytest.approx(4, rel=0.1)
    runs = [drawn(images, seen / 100) for _ in range(200)]
    found = np.mean([found_by_the_test([[base], [other]], ALPHA, seed) for seed, (base, other) in enumerate(runs)])
    assert 0.73 <= found <= 0.87  # 200 runs: +-5.5%


def test_a_panel_names_each_task_alone_and_under_holm() -> None:
    panel = {"pope f1 %": power_of(1.0, basis="a and b"), "mmhal | 0-6": power_of(0.1, unit="0-6", basis="c")}
    text = render_panel(panel, Plan(tests=6, difference=0.5))
    one = panel["pope f1 %"]
    rows = rows_of(text)
    assert ["pope f1 %", "100", f"{one.detectable():.3g}", f"{one.detectable(tests=6):.3g}"] == rows[2][:4]
    assert rows[2][4] == f"{one.images_for(0.5, tests=6):,}"
    assert "as one of 6" in text
    assert "p of at most 0.0083" in text
