"""Many looks at a training claim no more than one, and the best checkpoint's score has no luck of the choice in it."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from leaderboards.statistics.edge_intervals import difference_spread
from leaderboards.statistics.looks import adjusted_for_look, best_of, describe_looks, share_of_look
from leaderboards.statistics.resampling import Array
from leaderboards.statistics.significance import ALPHA
from tasks.metric import mean_of
from tests.leaderboards.seed_cells import Cell, answers

RATE = mean_of("x", scale=100)


def looked_at(rng: np.random.Generator, looks: int, images: int) -> tuple[list[Array], list[Array]]:
    """Counts of a base and of checkpoints that are no better and no worse: the same images, other luck."""
    cell = Cell(kind="rate", seeds=looks, base=1, images=images, rate=0.8, spread=0.0, shared=1.0)
    right = answers(rng, cell, rng.normal(0, 1, images), looks + 1, 0.0)[:, :, 0]
    every = [np.stack([own, np.ones(images)], axis=1) for own in right]
    return every[:1], every[1:]


def test_looks_at_a_training_that_changes_nothing_rarely_say_that_it_did() -> None:
    rng, runs, parts, alone = np.random.default_rng(0), 200, np.zeros(150, dtype=np.int64), 0
    said = {None: 0, 8: 0}
    for _ in range(runs):
        base, checkpoints = looked_at(rng, 8, 150)
        p_values = []
        for one in checkpoints:
            change = 100 * float(one[:, 0].mean() - base[0][:, 0].mean())
            spread = difference_spread(RATE, base, [one], parts, difference=change)
            p_values.append(spread._replace(freedom=math.inf).p_value(change))
        alone += min(p_values) <= ALPHA
        for planned in said:
            said[planned] += any(adjusted_for_look(p, look, planned) <= ALPHA for look, p in enumerate(p_values, 1))
    most = ALPHA + 3.1 * math.sqrt(ALPHA * (1 - ALPHA) / runs)
    assert max(said.values()) / runs <= most
    assert alone / runs > 2 * most  # what would be said without


@pytest.mark.parametrize("planned", (None, 5))
def test_all_looks_together_have_no_more_than_the_5_percent(planned: int | None) -> None:
    assert sum(share_of_look(look, planned) for look in range(1, 2000)) <= 1 + 1e-9
    assert describe_looks(planned).startswith("Alpha spending")
    assert adjusted_for_look(0.004, 3) == pytest.approx(0.048)
    assert adjusted_for_look(0.004, 3, 4) == pytest.approx(0.016)
    assert adjusted_for_look(0.0, 5, 4) == 1.0  # beyond the plan


@pytest.mark.parametrize("higher_is_better", (True, False))
def test_the_best_score_on_held_out_images_has_no_bias(higher_is_better: bool) -> None:
    rng, raw, held_out, parts = np.random.default_rng(1), [], [], np.zeros(150, dtype=np.int64)
    for _ in range(200):
        found = best_of(RATE, looked_at(rng, 8, 150)[1], parts, higher_is_better=higher_is_better)
        assert found is not None
        raw.append(found.raw - 80)
        held_out.append(found.value - 80)
    error = float(np.std(held_out)) / math.sqrt(len(held_out))
    assert abs(float(np.mean(held_out))) < 3.1 * error
    assert (float(np.mean(raw)) if higher_is_better else -float(np.mean(raw))) > 2.5  # what the highest score promises


def test_a_checkpoint_that_is_far_better_keeps_its_score() -> None:
    rows: list[Sequence[float]] = [[1.0] * 40 + [0.0] * 60, [1.0] * 90 + [0.0] * 10, [1.0] * 50 + [0.0] * 50]
    counts = [np.stack([np.array(own), np.ones(100)], axis=1) for own in rows]
    found = best_of(RATE, counts, np.zeros(100, dtype=np.int64), higher_is_better=True)
    assert found is not None
    assert (found.index, found.raw, found.value, found.luck) == (1, 90.0, 90.0, 0.0)


def test_nothing_is_told_of_one_image_or_without_a_score() -> None:
    one = np.array([[1.0, 1.0]])
    assert best_of(RATE, [one, one], np.zeros(1, dtype=np.int64), higher_is_better=True) is None
    none = np.zeros((5, 2))
    assert best_of(RATE, [none, none], np.zeros(5, dtype=np.int64), higher_is_better=True) is None
