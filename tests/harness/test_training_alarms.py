"""What a training log, a board and the model itself tell about a checkpoint."""

import json
from pathlib import Path
from typing import Any

from harness.runs.training_alarms import LogLine, find_alarms, read_log, training_table


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


def test_a_sound_log_raises_no_alarm() -> None:
    assert names([line(step, chosen=step / 100, rejected=-step / 50) for step in range(5, 101, 5)]) == []


def test_a_chosen_answer_that_becomes_less_likely_while_the_margin_grows() -> None:
    falling = [line(step, chosen=-step / 50, rejected=-step / 10) for step in range(5, 101, 5)]
    assert names(falling) == ["chosen falls"]
    both_ways = [line(step, chosen=(-1) ** step * 0.2, rejected=-1.0) for step in range(1, 101)]
    assert names(both_ways) == []


def test_a_reference_that_moves_with_the_policy() -> None:
    assert names([line(step, chosen=0.0, rejected=0.0, accuracy=0.0) for step in (1, 5, 10)]) == [
        "reference moves along"
    ]
    assert names([line(1, chosen=0.0, rejected=0.0, accuracy=0.0)]) == []  # before the first step they are the same


def test_pairs_told_apart_from_the_start() -> None:
    assert names([line(5, accuracy=0.97), line(10)]) == ["too easy"]
    assert names([line(50, accuracy=0.97), line(60)]) == []


def test_a_loss_that_is_no_number_and_an_accuracy_that_held_out_pairs_lack() -> None:
    assert names([line(5), line(10, loss=float("nan"))]) == ["no number"]
    log = [line(step, accuracy=0.9) for step in range(20, 101, 5)]
    assert names(log, held_out=0.6) == ["overfit"]
    assert names(log, held_out=0.85) == []


def test_the_log_is_read_of_our_runs_and_of_a_trainers_last_checkpoint(tmp_path: Path) -> None:
    rows = [
        {"loss": 0.7, "rewards/margins": 0.1, "step": 5},
        {"eval_loss": 1.0, "step": 5},
        {"train_runtime": 1.0, "step": 10},
    ]
    for step, kept in ((5, rows[:1]), (10, rows)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": kept}))
    assert read_log(tmp_path) == [LogLine(step=5, loss=0.7, margin=0.1)]
    (tmp_path / "log.jsonl").write_text('{"loss": 0.5, "step": 1}\n')
    assert read_log(tmp_path) == [LogLine(step=1, loss=0.5)]
    assert read_log(tmp_path / "checkpoint-5") == []


def test_what_is_being_written_is_no_part_of_the_log_yet(tmp_path: Path) -> None:
    for step, text in (
        (5, json.dumps({"global_step": 5, "log_history": [{"step": 5, "loss": 0.7}, 3]})),
        (10, '{"global_st'),
        (15, "[]"),
    ):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(text)
    assert read_log(tmp_path) == [LogLine(step=5, loss=0.7)]
    (tmp_path / "log.jsonl").write_text(json.dumps({"step": 1, "loss": 0.5}) + '\n[1]\n{"step": 2, "lo')
    assert read_log(tmp_path) == [LogLine(step=1, loss=0.5)]


def test_the_table_joins_log_and_answers_by_step_and_hides_what_nobody_logged() -> None:
    text = training_table(
        [line(5), line(10), LogLine(step=15, loss=0.25)], beta=0.5, answers={12: {"scenes_mme": 3.25}}
    )
    head, _, *rows = text.splitlines()
    assert "log p" not in head
    assert "words scenes\\_mme" in head or "words scenes_mme" in head
    assert [row.split("|")[1].strip() for row in rows] == ["5", "10", "12 (checkpoint-12)", "15"]
    assert [figure for figure in map(str.strip, rows[2].split("|")[2:]) if figure] == [
        "3.2"
    ]  # step 10's figures are not its own
    assert "1.000" in rows[0]  # a reward of 0.5 at beta 0.5 is a nat
    assert training_table([], 0.1, {}) == ""


# Scores on a board


# The model itself
