import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leaderboards.board.board import Board
from leaderboards.board.entry import Entry
from leaderboards.comparison.power import Power, of_boards, paired, render, single, supposed
from leaderboards.statistics.significance import DETECTED
from support.errors import CompareError
from tasks.metric import mean_of

Records = list[dict[str, Any]]
Make = Callable[..., Any]

SCORE = mean_of("x")


def scores(values: Sequence[float], each: int = 1) -> Records:
    return [{"image": str(index), "x": float(value)} for index, value in enumerate(values) for _ in range(each)]


def draw(seed: int, shift: float = 0.0, noise: float = 1.0) -> list[float]:
    hard = np.random.default_rng(0).normal(50, 10, 100)
    return list(hard + shift + np.random.default_rng(seed).normal(0, noise, 100))


def test_what_a_run_sees_shrinks_with_the_root_of_its_samples() -> None:
    power = Power(error=2.0, images=100, samples=600, unit="%", basis="")
    assert power.detectable() == pytest.approx(2 * DETECTED)
    assert power.detectable(2400) == pytest.approx(DETECTED)
    assert power.detectable(150) == pytest.approx(4 * DETECTED)


def test_samples_are_counted_by_whole_images() -> None:
    power = Power(error=2.0, images=100, samples=600, unit="%", basis="")
    assert power.samples_for(2 * DETECTED) == 600
    assert power.samples_for(DETECTED) == 2400
    assert power.samples_for(2 * DETECTED * 0.999) == 606
    assert power.samples_for(99) == 6


@pytest.mark.parametrize(("difference", "unit"), ((101, "%"), (6.5, "0-6"), (1e-300, "%"), (1e-9, "points")))
def test_a_difference_that_none_can_have_or_see_is_refused_in_a_line(difference: float, unit: str) -> None:
    with pytest.raises(
        CompareError,
        match=rf"difference must be .*, but is|a difference of 1e-\d+ {unit} needs more than 1e\+12 images",
    ):
        Power(error=2.0, images=100, samples=600, unit=unit, basis="").samples_for(difference)


def test_a_run_too_small_for_any_difference_is_said_to_see_none() -> None:
    shown = render(Power(error=25.0, images=10, samples=10, unit="%", basis="answers"))
    assert "| 1         |                         none |" in shown
    assert "| 70.0           |" in shown
    assert "| 140" not in shown
    assert "samples needed" not in render(Power(error=90.0, images=10, samples=10, unit="%", basis="answers"))


@pytest.mark.parametrize("difference", (0, -1, float("nan"), float("inf")))
def test_no_samples_show_a_difference_of_nothing(difference: float) -> None:
    with pytest.raises(CompareError, match="difference must be more than 0 and at most 100 %, but is"):
        Power(error=2.0, images=100, samples=600, unit="%", basis="").samples_for(difference)


def test_no_run_has_less_than_one_sample() -> None:
    with pytest.raises(CompareError, match="samples must be at least 1, but is 0"):
        Power(error=2.0, images=100, samples=600, unit="%", basis="").detectable(0)
    with pytest.raises(CompareError, match="at least 1, but is -3"):
        supposed(-3, unit="%")


def test_paired_answers_see_more_than_one_model_s_alone() -> None:
    base, other = scores(draw(1)), scores(draw(2))
    both, alone = paired(base, other, SCORE, unit="%"), single(base, SCORE, unit="%")
    assert both.error == pytest.approx(np.sqrt(2 / 100), rel=0.2)
    assert alone.error == pytest.approx(np.sqrt(2 * (100 + 1) / 100), rel=0.2)
    assert "paired" in both.basis
    assert "supposed independent" in alone.basis


def test_more_questions_on_the_same_images_are_more_samples_and_no_more_images() -> None:
    power = paired(scores(draw(1), each=3), scores(draw(2), each=3), SCORE, unit="%")
    assert (power.images, power.samples) == (100, 300)
    assert power.error == pytest.approx(paired(scores(draw(1)), scores(draw(2)), SCORE, unit="%").error)


def test_answers_without_any_spread_say_nothing() -> None:
    with pytest.raises(CompareError, match="no spread between a and b: 100 images"):
        paired(scores(draw(1)), scores(draw(1)), SCORE, unit="%", names=("a", "b"))
    with pytest.raises(CompareError, match="no spread in the answers of a"):
        single(scores([1.0] * 5), SCORE, unit="%", name="a")
    with pytest.raises(CompareError, match="no spread"):
        single(scores([1.0]), SCORE, unit="%", name="a")
    with pytest.raises(CompareError, match=r"no spread in the answers of a \(0 images\)"):
        single([], SCORE, unit="%", name="a")


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
    power = Power(error=2.0, images=500, samples=3000, unit="%", basis="a|b")
    text = render(power, samples=1234, difference=0.5)
    assert "from a\\|b (3,000 samples, 500 images)" in text
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in text.splitlines() if row.startswith("|")]
    assert ["1,234", f"{power.detectable(1234):.3g}"] in rows
    assert ["3,000", "5.6"] in rows
    assert ["0.5", f"{power.samples_for(0.5):,}"] in rows
    assert ["300", "17.7"] in rows


def test_a_scale_is_no_number_behind_a_number_and_supposed_questions_have_no_images() -> None:
    text = render(supposed(96, unit="0-6"))
    assert "0.433 on the scale 0-6, from" in text
    assert "smallest difference seen (0-6)" in text
    assert "(96 samples)" in text
    assert "images" not in text
