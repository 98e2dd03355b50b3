"""Trainings with several seeds count as one: the mean, over seeds and images."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from leaderboards.board.entry import RECIPE, SEEDS, TRAINING_SAVE, TRAINING_SEED, Entry
from leaderboards.board.sample import Sample
from leaderboards.comparison.compare import compare_runs, to_json, to_markdown
from leaderboards.comparison.compare_board import compare_board
from leaderboards.comparison.seed_rows import group_of, groups_by_recipe, with_groups
from leaderboards.statistics.edge_intervals import score_interval
from leaderboards.statistics.resampling import Array
from leaderboards.statistics.seed_groups import seeds_interval, seeds_test
from leaderboards.statistics.significance import ALPHA
from leaderboards.views.markdown_report import leaderboard, to_csv
from tasks.metric import mean_of
from tests.leaderboards.answered import TASK, closed, loader, metric, share
from tests.leaderboards.makers import MakeEntry, logs
from tests.leaderboards.seed_cells import Cell, covered, grid

RATE = mean_of("x", scale=100)
RUNS = 250
FAST = (
    Cell(kind="rate", seeds=3, base=1, images=100, rate=0.8, spread=0.3, shared=0.3),
    Cell(kind="rate", seeds=5, base=1, images=100, rate=0.5, spread=0.1, shared=2.0),
    Cell(kind="rate", seeds=10, base=1, images=100, rate=0.8, spread=0.1, shared=0.3),
    Cell(kind="f1", seeds=5, base=5, images=100, rate=0.8, spread=0.3, shared=0.3),
)


def beside(low: float, high: float, covered: float, runs: int) -> bool:
    """Below `low` or above `high` by more than chance has once in a thousand times."""
    return covered < low - 3.1 * math.sqrt(low * (1 - low) / runs) or covered > high + 3.1 * math.sqrt(
        high * (1 - high) / runs
    )


def counts(right: Sequence[float] | NDArray[np.bool_]) -> Array:
    return np.stack([np.asarray(right, dtype=np.float64), np.ones(len(right))], axis=1)


@pytest.mark.parametrize("cell", FAST, ids=str)
def test_the_truth_is_in_the_interval_as_often_as_it_says(cell: Cell) -> None:
    mean, difference, told = covered(cell, RUNS)
    assert not beside(0.93, 0.98, mean, RUNS)
    assert not beside(0.93, 0.98, difference, RUNS)
    assert told <= ALPHA + 3.1 * math.sqrt(ALPHA * (1 - ALPHA) / RUNS)


@pytest.mark.slow
def test_no_cell_of_the_whole_grid_covers_too_little() -> None:
    found = {cell: covered(cell, 200) for cell in grid()}
    assert [cell for cell, shares in found.items() if beside(0.93, 1.0, min(shares[:2]), 200)] == []


def test_seeds_that_differ_much_make_the_interval_wider_than_images_alone() -> None:
    rng = np.random.default_rng(0)
    sides = [counts(rng.random(400) < rate) for rate in (0.6, 0.75, 0.9)]
    parts = np.zeros(400, dtype=np.int64)
    low, high = seeds_interval(RATE, sides, parts)
    only_images = score_interval(RATE, sides, parts)
    assert low is not None
    assert high is not None
    assert only_images[0] is not None
    assert high - low > 5 * (only_images[1] - only_images[0])
    # Three scores alone, by Student's t with 2 degrees of freedom: 4.3 standard errors.
    scores = np.array([100 * side[:, 0].mean() for side in sides])
    assert high - low == pytest.approx(2 * 4.3 * scores.std(ddof=1) / math.sqrt(3), rel=0.25)


def test_p_is_at_most_5_percent_if_and_only_if_the_interval_leaves_0_out() -> None:
    rng, parts, seen = np.random.default_rng(1), np.zeros(60, dtype=np.int64), set()
    for _ in range(120):
        base = [counts(rng.random(60) < 0.6) for _ in range(int(rng.integers(1, 3)))]
        other = [counts(rng.random(60) < rng.uniform(0.6, 0.9)) for _ in range(3)]
        test = seeds_test(RATE, base, other, parts)
        assert test.low is not None
        assert test.high is not None
        assert test.difference is not None
        seen.add(test.p <= ALPHA)
        assert (test.p <= ALPHA) == (test.low > 0 or test.high < 0)
        assert test.low <= test.difference <= test.high
    assert seen == {True, False}


def test_one_seed_against_one_model_has_no_part_from_seeds_and_two_that_agree_still_have_an_interval() -> None:
    right = counts([1.0] * 50 + [0.0] * 50)
    parts = np.zeros(100, dtype=np.int64)
    assert seeds_interval(RATE, [right], parts) == score_interval(RATE, [right], parts)
    test = seeds_test(RATE, [right], [right, right], parts)
    assert (test.difference, test.p, test.higher, test.lower) == (0.0, 1.0, 0, 0)
    assert test.low is not None
    assert test.low < 0


@pytest.fixture
def base(make_entry: MakeEntry) -> Entry:
    return make_entry(run="base", model="base", task=TASK, metric="accuracy", higher_is_better=True, value=60.0)


def trained(base: Entry, seeds: Sequence[int], *, step: int = 40, recipe: str = "x 12ab dpo") -> list[Entry]:
    return [
        replace(
            base,
            run=f"run{seed}-{step}",
            model=f"runs/x-seed{seed}/checkpoint-{step}",
            value=80.0 + seed,
            provenance={
                **base.provenance,
                RECIPE: recipe,
                TRAINING_SEED: str(seed),
                TRAINING_SAVE: str(step),
            },
        )
        for seed in seeds
    ]


def answered(seeds: Sequence[int], step: int = 40) -> dict[str, list[Sample]]:
    return {f"run{seed}-{step}": closed(share(80 + seed)) for seed in seeds}


def test_a_group_is_compared_with_its_base_as_one(base: Entry) -> None:
    entries = [base, *trained(base, (0, 1, 2))]
    load = loader(base=closed(share(60)), **answered((0, 1, 2)))
    notes: list[str] = []
    shown = with_groups(entries, groups_by_recipe(entries), samples=load, metrics=metric, notes=notes)
    group = shown[1]
    assert (group.model, group.value, group.provenance[SEEDS]) == ("runs/x-seed*/checkpoint-40", 81.0, "0, 1, 2")
    assert group.low is not None
    assert group.high is not None
    assert group.low < 81 < group.high
    assert notes == []
    found = compare_runs([base], [group], samples=(load, load), metrics=metric, resamples=500)
    verdict = found.changes[0].verdict
    assert verdict is not None
    assert verdict.seeds is not None
    assert (verdict.outcome, verdict.seeds.better) == ("better", 3)
    assert verdict.difference == pytest.approx(21.0)
    assert "of 3 seeds 3 better, 3 higher" in to_markdown(found)
    assert to_json(found)["changes"][0]["verdict"]["seeds"]["other"] == 3


def test_a_board_shows_the_group_as_one_row_with_verdict_and_rank(base: Entry) -> None:
    entries = [base, *trained(base, (0, 1, 2))]
    load = loader(base=closed(share(60)), **answered((0, 1, 2)))
    shown = with_groups(entries, groups_by_recipe(entries), samples=load, metrics=metric, notes=[])
    found = compare_board(shown, samples=load, metrics=metric, base="base")
    assert [str(rank) for rank in found.ranks.values()] == ["2", "1"]
    text = leaderboard(shown, comparison=found, base="base")
    assert "runs/x-seed\\*/checkpoint-40" in text
    assert "+21.0 ▲ of 3 seeds 3 better, 3 higher (seeds 0, 1, 2)" in text
    row = to_csv(shown, comparison=found).splitlines()[-1]
    assert ',"0, 1, 2",3,0,3,0,' in row


def test_seeds_of_other_recipes_steps_or_the_same_seed_twice_are_no_group(base: Entry) -> None:
    two = trained(base, (0, 1))
    assert [group.models for group in groups_by_recipe(two)] == [tuple(entry.model for entry in two)]
    assert groups_by_recipe([two[0], *trained(base, (1,), recipe="x 99ff dpo")]) == []
    assert groups_by_recipe([two[0], *trained(base, (1,), step=80)]) == []
    again = replace(two[0], model="runs/again/checkpoint-40", run="again")
    assert groups_by_recipe([two[0], again]) == []
    assert groups_by_recipe([*two, again])[0].models == tuple(entry.model for entry in two)


def test_a_group_whose_seed_lacks_a_score_or_a_log_says_so(base: Entry) -> None:
    entries = [base, *trained(base, (0, 1, 2))]
    notes: list[str] = []
    group = [group_of([entry.model for entry in entries[1:]])]
    shown = with_groups(entries[:-1], group, samples=logs(), metrics=metric, notes=notes)
    assert [entry.model for entry in shown] == ["base"]
    assert notes == ["no row of runs/x-seed*/checkpoint-40 by pope accuracy: 2 of 3 seeds have a score"]
    notes.clear()
    shown = with_groups(entries, group, samples=logs(), metrics=metric, notes=notes)
    assert (shown[1].value, shown[1].low, shown[1].high) == (81.0, None, None)
    assert notes == ["no interval over seeds of pope accuracy: a seed has no sample log"]
