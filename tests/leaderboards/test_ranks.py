from typing import Any

import numpy as np
import pytest

from leaderboards.statistics.ranks import Rank, ranks, ranks_of
from leaderboards.statistics.resampling import Counted
from leaderboards.statistics.verdict import compare
from support.errors import RecordsError
from tasks.metric import mean_of, ratio_of

Records = list[dict[str, Any]]

SCORE = mean_of("x")


def scores(values: "np.typing.ArrayLike") -> Records:
    return [{"image": str(index), "x": float(value)} for index, value in enumerate(np.asarray(values))]


def test_a_clear_order_gives_single_ranks_and_close_models_share_theirs() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(50, 20, 300)
    found = ranks(
        {
            "good": scores(hard + 10 + rng.normal(0, 3, 300)),
            "bad": scores(hard - 10 + rng.normal(0, 3, 300)),
            "so": scores(hard + rng.normal(0, 3, 300)),
            "so too": scores(hard + rng.normal(0, 3, 300)),
        },
        SCORE,
        higher_is_better=True,
    )
    assert found == {
        "good": Rank(low=1, high=1, ties=()),
        "bad": Rank(low=4, high=4, ties=()),
        "so": Rank(low=2, high=3, ties=("so too",)),
        "so too": Rank(low=2, high=3, ties=("so",)),
    }
    assert [str(rank) for rank in found.values()] == ["1", "4", "2–3", "2–3"]


def test_where_low_is_good_the_lowest_is_first() -> None:
    rng = np.random.default_rng(1)
    low, high = scores(rng.normal(10, 1, 50)), scores(rng.normal(20, 1, 50))
    found = ranks({"high": high, "low": low}, SCORE, higher_is_better=False)
    assert found == {"high": Rank(low=2, high=2, ties=()), "low": Rank(low=1, high=1, ties=())}


def test_a_model_between_two_that_differ_ties_with_both() -> None:
    rng = np.random.default_rng(2)
    noise = [rng.normal(0, 1, 100) for _ in range(3)]
    found = ranks(
        {name: scores(noise[i] - noise[i].mean() + 0.25 * i) for i, name in enumerate("abc")},
        SCORE,
        higher_is_better=True,
    )
    assert found["c"] == Rank(low=1, high=2, ties=("b",))
    assert found["b"] == Rank(low=1, high=3, ties=("a", "c"))
    assert found["a"] == Rank(low=2, high=3, ties=("b",))


def test_the_same_answers_tie() -> None:
    same = scores([1, 2, 3, 4, 5])
    assert ranks({"a": same, "b": same}, SCORE, higher_is_better=True) == {
        "a": Rank(low=1, high=2, ties=("b",)),
        "b": Rank(low=1, high=2, ties=("a",)),
    }


def test_a_constant_difference_on_few_images_proves_no_more_than_their_swaps_can() -> None:
    low, high = scores([0] * 4), scores([1] * 4)
    assert ranks({"a": low, "b": high}, SCORE, higher_is_better=True)["b"] == Rank(low=1, high=2, ties=("a",))
    assert compare(low, high, SCORE, higher_is_better=True).outcome == "not separable"  # half of 2 in 16 swaps
    low, high = scores([0] * 8), scores([1] * 8)
    assert ranks({"a": low, "b": high}, SCORE, higher_is_better=True)["b"] == Rank(low=1, high=1, ties=())


def test_sixty_models_can_be_told_apart() -> None:
    rng = np.random.default_rng(3)
    hard = rng.normal(0, 5, 200)
    found = ranks({f"m{i}": scores(hard + i + rng.normal(0, 1, 200)) for i in range(60)}, SCORE, higher_is_better=True)
    assert all(rank is not None and rank.low == rank.high for rank in found.values())
    assert str(found["m59"]) == "1"


def test_equal_models_are_put_in_a_false_order_in_at_most_5_of_100_boards() -> None:
    rng, wrong = np.random.default_rng(4), 0
    for board in range(400):
        hard = rng.normal(0, 1, 60)
        found = ranks(
            {name: scores(hard + rng.normal(0, 1, 60)) for name in "abcde"},
            SCORE,
            higher_is_better=True,
            resamples=300,
            seed=board,
        )
        wrong += any(rank is not None and len(rank.ties) < 4 for rank in found.values())
    assert 3 <= wrong <= 32  # 20 are allowed, and by chance half as many more


def test_equal_models_with_few_rare_events_are_hardly_ever_put_in_an_order() -> None:
    rng, wrong = np.random.default_rng(6), 0
    for board in range(300):
        risk = rng.beta(0.1, 1, 40)
        found = ranks(
            {name: scores((rng.random(40) < risk) * rng.integers(1, 9, 40)) for name in "abcde"},
            SCORE,
            higher_is_better=False,
            resamples=300,
            seed=board,
        )
        wrong += any(rank is not None and len(rank.ties) < 4 for rank in found.values())
    assert wrong <= 15


def test_a_rank_is_no_surer_than_swaps_where_nearly_all_images_speak_for_one() -> None:
    """19 of 20: by swaps p = 1 / 25,000, where Student's t on the bootstrap's error would say less than 1 / 500,000."""
    base, other = scores([0] * 19 + [1]), scores([1] * 19 + [0])
    assert compare(base, other, SCORE, higher_is_better=True).p > 3e-5
    models = {f"{name}{index}": records for index in range(35) for name, records in (("base", base), ("other", other))}
    found = ranks(models, SCORE, higher_is_better=True, resamples=300)["other0"]
    assert found == Rank(
        low=1, high=70, ties=tuple(name for name in models if name != "other0")
    )  # 2,415 pairs to adjust for
    few = {name: records for name, records in models.items() if name in ("base0", "base1", "other0", "other1")}
    assert ranks(few, SCORE, higher_is_better=True, resamples=300)["other0"] == Rank(low=1, high=2, ties=("other1",))


def test_a_model_without_a_score_has_no_rank_and_takes_none_away() -> None:
    rng = np.random.default_rng(5)
    rate = ratio_of("hits", "said")

    def captions(hits: float, said: int) -> Records:
        return [{"image": str(i), "hits": float(rng.random() < hits) * said, "said": said} for i in range(50)]

    found = ranks(
        {"silent": captions(0, 0), "good": captions(0.05, 1), "bad": captions(0.9, 1)}, rate, higher_is_better=False
    )
    assert found == {"silent": None, "good": Rank(low=1, high=1, ties=()), "bad": Rank(low=2, high=2, ties=())}
    assert ranks({"silent": captions(0, 0)}, rate, higher_is_better=False) == {"silent": None}


def test_one_model_none_and_one_image() -> None:
    assert ranks({}, SCORE, higher_is_better=True) == {}
    assert ranks({"a": scores([1, 2])}, SCORE, higher_is_better=True) == {"a": Rank(low=1, high=1, ties=())}
    assert ranks({"a": scores([1]), "b": scores([2])}, SCORE, higher_is_better=True)["a"] == Rank(
        low=1, high=2, ties=("b",)
    )


def test_models_without_a_common_image_are_an_error() -> None:
    with pytest.raises(RecordsError, match="no image is in all sets of records"):
        ranks({"a": scores([1]), "b": scores([1]), "c": [{"image": "other", "x": 1.0}]}, SCORE, higher_is_better=True)


# -- a judge that was asked several times


def asked(*sides: list[Records]) -> dict[str, Rank | None]:
    models = {f"m{place}": [Counted(records, SCORE) for records in side] for place, side in enumerate(sides)}
    return ranks_of(models, higher_is_better=True, resamples=400)


def test_a_rank_is_by_the_mean_over_repeats_and_not_by_the_first() -> None:
    hard = np.random.default_rng(1).normal(50, 20, 100)
    steady = [scores(hard + shift) for shift in (3.0, 3.1, 2.9, 3.0)]
    falling = [scores(hard + shift) for shift in (3.5, 0.0, -0.1, 0.1)]
    level = [scores(hard), scores(hard)]
    assert asked([steady[0]], [falling[0]])["m1"] == Rank(low=1, high=1, ties=())
    assert asked(steady, falling, level)["m1"] == Rank(low=1, high=3, ties=("m0", "m2"))


def test_what_only_the_judge_s_mood_makes_is_no_order() -> None:
    rng = np.random.default_rng(9)
    ordered = {"one repeat": 0, "all": 0}
    for _ in range(60):
        hard = rng.normal(3, 1, 60)
        sides = [[scores(hard + rng.normal(0, 0.2, 60) + rng.normal(0, 0.4)) for _ in range(4)] for _ in range(2)]
        ordered["all"] += asked(*sides)["m0"] != Rank(low=1, high=2, ties=("m1",))
        ordered["one repeat"] += asked(*[side[:1] for side in sides])["m0"] != Rank(low=1, high=2, ties=("m1",))
    assert ordered["one repeat"] > 30
    assert ordered["all"] <= 6
