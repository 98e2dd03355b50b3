"""Several runs of the same weights: the first counts in the gate, and all are told."""

from pathlib import Path

import pytest

from leaderboards.board.board import Board
from leaderboards.comparison.reruns import describe_reruns, first_runs
from leaderboards.gate.gate import GateSettings, check
from leaderboards.gate.source import source
from tests.leaderboards.makers import MakeEntry

WEIGHTS = {"weights": "w1", "task": "t1"}


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path / "board")


@pytest.mark.parametrize(
    ("second", "told"),
    (
        ({}, True),
        ({"created": "2020-01-01T00:00:00Z"}, True),
        ({"provenance": {**WEIGHTS, "commit": "another"}}, True),
        ({"provenance": {**WEIGHTS, "device": "cuda"}}, True),
        ({"provenance": {"weights": "w2", "task": "t1"}}, False),
        ({"provenance": {"weights": "w1", "adapter": "a", "task": "t1"}}, False),
        ({"provenance": {"weights": "w1", "task": "t2"}}, False),
        ({"provenance": {**WEIGHTS, "prompt suffix": " Answer."}}, False),
        ({"provenance": {**WEIGHTS, "judge served": "gpt-x"}}, False),
        ({"provenance": {**WEIGHTS, "split": "tune"}}, False),
        ({"judge": "gpt"}, False),
        ({"version": "2"}, False),
        ({"limit": 10}, False),
        ({"model": "other"}, False),
        ({"metric": "CHAIR_i"}, False),
    ),
)
def test_runs_are_the_same_if_nothing_that_decides_the_score_differs(
    board: Board, make_entry: MakeEntry, second: dict[str, object], told: bool
) -> None:
    board.add([make_entry(run="first", value=12.5, provenance=WEIGHTS)], [])
    board.add([make_entry(**{"run": "second", "value": 10.1, "provenance": WEIGHTS, **second})], [])
    current = board.current(partial=True)
    chosen, runs = first_runs(current, board.entries())
    assert bool(runs) == told
    if not told:
        assert chosen == current
    else:
        assert [entry.run for entry in current] == ["second"]
        assert [entry.run for entry in chosen] == ["first"]
        assert describe_reruns(*runs.values()).endswith("2 runs of these weights: 12.5, 10.1")


def test_a_run_with_failed_samples_is_not_the_first(board: Board, make_entry: MakeEntry) -> None:
    for run, failed in (("bad", 3), ("good", 0), ("again", 0)):
        board.add([make_entry(run=run, failed=failed, provenance=WEIGHTS)], [])
    assert [entry.run for entry in first_runs(board.current(), board.entries())[0]] == ["good"]


def test_entries_that_do_not_know_their_weights_have_no_reruns(board: Board, make_entry: MakeEntry) -> None:
    for run in ("one", "two"):
        board.add([make_entry(run=run, provenance={})], [])
    chosen, runs = first_runs(board.current(), board.entries())
    assert ([entry.run for entry in chosen], runs) == (["two"], {})


@pytest.mark.parametrize("values", ((20.0, 5.0), (5.0, 20.0)))
def test_the_gate_compares_the_first_run_and_says_so(
    board: Board, make_entry: MakeEntry, values: tuple[float, float]
) -> None:
    board.add([make_entry(run="base", model="base", value=10.0, provenance={**WEIGHTS, "weights": "w0"})], [])
    for run, value in zip(("first", "lucky"), values, strict=True):
        board.add([make_entry(run=run, model="tuned", value=value, low=None, high=None, provenance=WEIGHTS)], [])
    settings = GateSettings(models=("base", "tuned"), tolerances={"scenes_chair.CHAIR_s": 1.0})
    side = source(board.folder)
    result = check(side, side, metrics=lambda task, metric: None, settings=settings)
    assert [one.current.run for one in result.checked] == ["first"]
    shown = ", ".join(f"{value:.1f}" for value in values)
    assert result.notes == [f"tuned scenes_chair CHAIR_s: 2 runs of these weights: {shown}; the first counts"]
    assert bool(result.regressions) == (values[0] > 10)
