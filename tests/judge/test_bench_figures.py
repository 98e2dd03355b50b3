"""Accuracies of judges from what they chose: official majorities, means, groups, and intervals over images."""

import random
from collections.abc import Sequence

import pytest

from harness.judge_bench.ask import Call, Compared, planned_calls
from harness.judge_bench.benches import BENCHES
from harness.judge_bench.figures import Figures, figures_of
from support.errors import DataError
from tasks.judges.reasons import Reason
from tasks.pairs.protocol import Pair

VL, MM = BENCHES["vl_rewardbench"], BENCHES["multimodal_rewardbench"]


def compared(
    number: int, verdicts: Sequence[bool | None], category: str = "general", *, image: str = "", lost: str = ""
) -> Compared:
    """A pair that the official calls were right about, wrong, or said nothing of; the chosen answer is the first."""
    places = [None if right is None else 1 - right for right in verdicts]
    calls = [
        Call(repeat=repeat, chosen_at=0, official=True, picked=place, concluded=place, lost=lost)
        for repeat, place in enumerate(places)
    ]
    return Compared(id=str(number), category=category, image=image or str(number), calls=tuple(calls))


def values(found: Figures) -> dict[str, float | None]:
    return {figure.name: figure.value for figure in found.accuracy}


@pytest.mark.parametrize(
    ("verdicts", "overall", "unread"),
    (
        ([[True]], 100.0, 0),
        ([[True], [False]], 50.0, 0),
        ([[True], [None]], 100.0, 1),
        ([[True, True, False], [False, False, True]], 50.0, 0),
        ([[True, False], [True, True]], 100.0, 1),  # no majority of two
        ([[True, None, None], [True, True, None]], 100.0, 1),
        ([[None]], None, 1),
    ),
)
def test_the_majority_decides_and_a_pair_without_one_is_left_out(
    verdicts: list[list[bool | None]], overall: float | None, unread: int
) -> None:
    found = figures_of(VL, [compared(number, own) for number, own in enumerate(verdicts)])
    assert (values(found)["overall"], found.unread) == (overall, unread)
    assert found.accuracy[0].pairs == len(verdicts) - unread


def test_the_mean_over_categories_weighs_each_alike() -> None:
    pairs = [compared(number, [True], "general") for number in range(3)]
    pairs += [
        compared(3, [False], "reasoning"),
        compared(4, [True], "hallucination"),
        compared(5, [False], "reasoning"),
    ]
    found = values(figures_of(VL, pairs))
    assert found == {
        "overall": pytest.approx(100 * 4 / 6),
        "macro": pytest.approx(100 * 2 / 3),
        "general": 100.0,
        "hallucination": 100.0,
        "reasoning": 0.0,
    }


def test_parts_of_a_category_are_shown_together_as_others_report_them() -> None:
    parts = [("reasoning/math", True), ("reasoning/coding", False), ("reasoning/coding", False), ("safety/bias", True)]
    found = values(figures_of(MM, [compared(number, [right], part) for number, (part, right) in enumerate(parts)]))
    assert found["reasoning"] == pytest.approx(100 / 3)
    assert (found["reasoning/math"], found["safety"], found["safety/bias"]) == (100.0, 100.0, 100.0)
    assert "macro" not in found


def test_a_pair_with_a_lost_call_has_no_score() -> None:
    found = figures_of(VL, [compared(0, [True]), compared(1, [None], lost="status 500")])
    assert found.reasons == (Reason(reason="status 500", count=1, example="1"),)
    assert (found.lost, found.share_lost, values(found)["overall"]) == (1, 0.5, 100.0)
    with pytest.raises(DataError, match="there are no pairs"):
        figures_of(VL, [])


def test_pairs_about_one_picture_are_drawn_together() -> None:
    rng = random.Random(0)
    right = [rng.random() < 0.6 for _ in range(40)]
    alone = [compared(number, [right[number // 10]]) for number in range(400)]
    together = [compared(number, [right[number // 10]], image=f"picture {number // 10}") for number in range(400)]
    one, many = (figures_of(VL, pairs).accuracy[0] for pairs in (alone, together))
    assert one.value == many.value
    assert one.low is not None and one.high is not None and many.low is not None and many.high is not None  # noqa: PT018
    assert (many.high - many.low) / (one.high - one.low) == pytest.approx(10**0.5, rel=0.15)


def test_intervals_hold_the_true_accuracy_of_a_judge() -> None:
    rng, held = random.Random(1), 0
    for _ in range(30):
        pairs = [compared(number, [rng.random() < 0.65]) for number in range(150)]
        figure = figures_of(VL, pairs).accuracy[0]
        assert figure.low is not None
        assert figure.high is not None
        held += figure.low <= 65 <= figure.high
    assert 25 <= held <= 30


def test_orders_are_drawn_once_and_the_first_asking_has_both() -> None:
    facts = {"category": "general", "question": "What?", "chosen": "a", "rejected": "b", "image": ""}
    pairs = [Pair(id=str(number), chosen_first=number % 2 == 0, **facts) for number in range(200)]
    plans = [planned_calls(VL, pair, 3, seed=0) for pair in pairs]
    assert plans == [planned_calls(VL, pair, 3, seed=0) for pair in pairs]
    assert plans != [planned_calls(VL, pair, 3, seed=1) for pair in pairs]
    assert all({call.chosen_at for call in plan if call.repeat == 0} == {0, 1} for plan in plans)
    places = [call.chosen_at for plan in plans for call in plan if call.official]
    assert len(places) == 600
    assert 250 < sum(places) < 350
    for pair in pairs:
        official, other = planned_calls(MM, pair, 1, seed=0)
        assert (official.chosen_at == 0, official.official, other.official) == (pair.chosen_first, True, False)
