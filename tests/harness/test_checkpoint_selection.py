"""Which checkpoint is taken, and what a board tells of the others."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.runs.checkpoint_selection import Scores, Selection, select_checkpoint
from harness.runs.report import describe_selection
from harness.runs.training_alarms import LogLine, find_alarms, lengths_of
from leaderboards.board.board import Board
from tasks.registry import registry
from tests.harness.scored_runs import put, right


def line(step: int, chosen: float = 0.5, rejected: float = -0.5, accuracy: float = 0.7, loss: float = 0.6) -> LogLine:
    return LogLine(
        step=step,
        loss=loss,
        margin=chosen - rejected,
        accuracy=accuracy,
        chosen_reward=chosen,
        rejected_reward=rejected,
    )


def names(log: list[LogLine], **given: Any) -> list[str]:
    return [alarm.name for alarm in find_alarms(log, total=100, **given)]


MME = [("scenes_mme", "accuracy")]


def test_the_best_is_the_earliest_that_is_not_worse_than_the_highest(tmp_path: Path) -> None:
    board = Board(tmp_path)
    for model, count in (("at-1", 50), ("at-2", 80), ("at-3", 82), ("at-4", 81)):
        put(board, model, "scenes_mme", right(count))
    found = select_checkpoint(Scores(board), ["at-1", "at-2", "at-3", "at-4"], MME)
    assert found.highest == {"scenes_mme.accuracy": "at-3"}
    assert found.model == "at-2"
    assert found.worse["at-1"] == ("scenes_mme.accuracy",)
    assert found.comparisons == 3


def test_a_checkpoint_without_a_score_is_never_the_best(tmp_path: Path) -> None:
    put(Board(tmp_path), "at-2", "scenes_mme", right(50))
    found = select_checkpoint(Scores(Board(tmp_path)), ["at-1", "at-2"], MME)
    assert (found.model, "at-1" in found.worse) == ("at-2", False)
    assert select_checkpoint(Scores(Board(tmp_path)), ["at-1"], MME).model is None


def test_no_checkpoint_is_best_where_each_is_worse_somewhere(tmp_path: Path) -> None:
    board = Board(tmp_path)
    for model, mme, f1 in (("at-1", 90, 40), ("at-2", 40, 90)):
        put(board, model, "scenes_mme", right(mme))
        put(board, model, "scenes_pope", right(f1, last=True))
    assert select_checkpoint(Scores(board), ["at-1", "at-2"], [*MME, ("scenes_pope", "accuracy")]).model is None


def test_a_metric_without_a_value_is_named_and_its_checkpoint_not_ranked(tmp_path: Path) -> None:
    board = Board(tmp_path)
    put(board, "at-1", "scenes_mme", right(50))
    (known,) = board.entries()
    board.add([replace(known, run="blank", task="scenes_pope", metric="f1", value=None)], [])
    found = select_checkpoint(Scores(board), ["at-1", "at-2"], [*MME, ("scenes_pope", "f1")])
    assert (found.model, found.highest) == (None, {})
    assert found.lacking == {"at-1": ("scenes_pope.f1",), "at-2": ("scenes_mme.accuracy", "scenes_pope.f1")}
    shown = describe_selection(found, ["at-1", "at-2"])
    assert "none has a value of every headline metric" in shown
    assert "significantly worse than another" not in shown
    assert "no value of scenes" in shown


def test_a_checkpoint_alone_is_not_called_the_best_without_a_value() -> None:
    found = Selection(model=None, highest={}, worse={}, comparisons=0, lacking={"at-1": ("scenes_pope.f1",)})
    shown = describe_selection(found, ["at-1"])
    assert "**No checkpoint is ranked**" in shown
    assert "no value of scenes" in next(row for row in shown.splitlines() if row.startswith("| at-1"))
    assert "one alone" in describe_selection(Selection(model="at-1", highest={}, worse={}, comparisons=0), ["at-1"])


def test_of_checkpoints_that_are_gone_none_is_ranked_and_one_is_told() -> None:
    found = Selection(model="at-2", highest={}, worse={}, comparisons=0)
    shown = describe_selection(found, ["at-1", "at-2"], removed=["at-1"])
    assert "that the trainer has removed are not ranked" in shown
    assert "removed, not ranked" in next(row for row in shown.splitlines() if row.startswith("| at-1"))
    assert "removed" not in describe_selection(found, ["at-1", "at-2"])


def test_answers_that_grow_long_raise_an_alarm(tmp_path: Path) -> None:
    board = Board(tmp_path)
    for model, more in (("base", 0), ("same", 1), ("long", 20)):
        records = [{"image": str(index), "words": 30 + index % 7 + more} for index in range(60)]
        put(board, model, "scenes_chair", {"length": records})
    tasks = registry().expand(["scenes_chair"])
    assert names([], lengths=lengths_of(Scores(board), "base", "long", tasks)) == ["length drift"]
    assert names([], lengths=lengths_of(Scores(board), "base", "same", tasks)) == []  # a word of 33 is no drift
