"""Which checkpoints a run scores, and what that takes, told before it starts."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main as cli
from harness.evaluation.eval_settings import EvalSettings
from harness.evaluation.make_judge import make_judge
from harness.runs.run_folder import claim, keep_own_scoring
from harness.runs.scoring_cost import (
    Planned,
    Rate,
    ScoringCost,
    TaskCost,
    cost_of_scoring,
    planned_scoring,
    rate_of,
)
from harness.runs.training_worker import _goes_on
from leaderboards.board.board import Board
from support.errors import InputError
from tasks.registry import registry
from trainers.config.recipe import PreferenceRecipe, parse_recipe, preference_recipe
from trainers.config.training import Training
from trainers.training.checkpoints import Checkpoint, saved_at, scored_at


def training(**given: Any) -> Training:
    return Training(**{"learning_rate": 1e-3, "batch_size": 4, **given})


@pytest.mark.parametrize(
    ("given", "steps", "scored"),
    (
        ({"save_steps": 200}, 1000, [200, 400, 600, 800, 1000]),
        ({"save_steps": 200, "score_checkpoints": 5}, 51_500, [10_400, 20_600, 31_000, 41_200, 51_500]),
        ({"save_steps": 200, "score_checkpoints": 1}, 1000, [1000]),
        ({"save_steps": 200, "score_checkpoints": 9}, 1000, [200, 400, 600, 800, 1000]),
        ({"checkpoints": 6, "score_checkpoints": 3}, 60, [20, 40, 60]),
        ({"save_steps": 200, "score_checkpoints": 5}, 3, [3]),
    ),
)
def test_scored_checkpoints_are_evenly_spaced_and_the_last_is_among_them(
    given: dict[str, int], steps: int, scored: list[int]
) -> None:
    assert scored_at(steps, training(**given)) == scored


def test_any_number_of_checkpoints_is_scored_once_each() -> None:
    for saved in range(1, 40):
        for count in range(1, 45):
            found = scored_at(saved * 10, training(save_steps=10, score_checkpoints=count))
            assert len(set(found)) == len(found) == min(saved, count)
            assert set(found) <= set(saved_at(saved * 10, training(save_steps=10)))
            assert found[-1] == saved * 10


def test_povid_scores_five_checkpoints_and_saves_as_its_authors() -> None:
    recipe = preference_recipe("povid-stage1")
    assert len(saved_at(51_500, recipe.training)) == 258
    told = planned_scoring(recipe.training, 51_500)
    assert told == Planned(count=5, how="5 checkpoints of 258 that are saved (score_checkpoints = 5) are scored")
    assert planned_scoring(recipe.training, None).how == "at most 5 checkpoints are scored"
    every = recipe.training.model_copy(update={"score_checkpoints": None})
    assert planned_scoring(every, None).count is None
    assert planned_scoring(every, 51_500, control=True).count == 259


COST = ScoringCost(
    tasks={
        "mmhal": TaskCost(questions=96, seconds=960.0, calls=96, dollars=1.5),
        "mme": TaskCost(questions=2374, seconds=900.0),
    },
    measured="the base",
)


def test_questions_calls_hours_and_dollars_are_told() -> None:
    assert COST.words(Planned(count=4, how="4 checkpoints are scored")) == (
        "4 checkpoints are scored; each takes 2,470 questions, 96 judge calls; "
        "in all: 2.1 hours (measured on the base), $6.00 for the judge, at list prices"
    )
    assert "31.0 minutes for each (measured on the base), $1.50 for each" in COST.words(Planned(count=None, how="all"))


@pytest.mark.parametrize(
    ("change", "words"),
    (
        ({"seconds": None}, "in all: hours not measured yet, $6.00"),
        ({"dollars": None}, "dollars not known (--judge-price IN,OUT tells them)"),
        ({"dollars": None, "counted": False}, "at least 96 judge calls"),
        ({"calls": None, "dollars": None, "counted": False}, "dollars not known (its data are not read yet)"),
        ({"counted": False}, "$6.00 for the judge, at list prices (its data are not here yet: 800 tokens a question"),
        (
            {"calls": 0, "dollars": 0.0},
            "no judge calls; in all: 2.1 hours (measured on the base), no money",
        ),
        ({"questions": None, "seconds": None}, "questions not counted yet"),
    ),
)
def test_what_is_not_known_is_said(change: dict[str, Any], words: str) -> None:
    cost = replace(COST, tasks={**COST.tasks, "mmhal": replace(COST.tasks["mmhal"], **change)})
    assert words in cost.words(Planned(count=4, how="4"))


def test_a_judge_behind_a_server_is_counted_and_priced_without_being_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    judge = make_judge("gpt-4o-2024-11-20", url="http://127.0.0.1:9/v1", ledger=tmp_path / "l.sqlite")
    tasks, rate = (
        registry().expand(["scenes_mmhal", "mmhal"]),
        Rate(seconds={"scenes_mmhal": 2.0, "mmhal": 1.0}, of="x"),
    )
    found = cost_of_scoring(tasks, judge, EvalSettings(limit=10), rate)
    own, far = found.tasks["scenes_mmhal"], found.tasks["mmhal"]
    assert (own.questions, own.seconds, own.calls, own.counted) == (10, 20.0, 10, True)
    assert (far.questions, far.seconds, far.calls, far.counted) == (10, 10.0, 10, False)
    assert far.dollars == pytest.approx((10 * 800 * 2.5 + 10 * 150 * 10) / 1e6)  # 800 tokens and 150 of a reply


def recipe_of(**given: Any) -> PreferenceRecipe:
    values = preference_recipe("scenes-demo").model_dump(exclude_unset=True)
    found = parse_recipe(values | {"training": {**values["training"], "checkpoints": 1, "save_steps": 2, **given}})
    assert isinstance(found, PreferenceRecipe)
    return found


def test_a_run_of_before_goes_on_as_it_began(tmp_path: Path) -> None:
    before, now = recipe_of(), recipe_of(score_checkpoints=5)
    claim(tmp_path, before)
    held = json.loads((tmp_path / "run.json").read_text())
    del held["recipe"]["training"]["score_checkpoints"]  # which earlier versions didn't have
    (tmp_path / "run.json").write_text(json.dumps(held))
    with pytest.raises(InputError, match="score_checkpoints: none there, 5 asked"):
        claim(tmp_path, now)
    settled = keep_own_scoring(tmp_path, now)
    assert settled.digest == before.digest
    claim(tmp_path, settled)
    other = recipe_of(score_checkpoints=5, beta=0.3)
    assert keep_own_scoring(tmp_path, other) is other
    assert keep_own_scoring(tmp_path / "new", now) is now


def test_processes_pause_at_what_is_scored_alone(tmp_path: Path) -> None:
    paused = []
    for step in range(2, 21, 2):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "checkpoint.json").write_text(json.dumps({"step": step, "steps": 20}))
        if not _goes_on(Checkpoint(path=folder, step=step, arm="dpo"), recipe_of(score_checkpoints=2)):
            paused.append(step)
    assert paused == [10]


def test_a_run_scores_its_share_and_says_before_what_it_takes(
    tiny_recipe: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, "harness")
    own, out = tmp_path / "own.toml", tmp_path / "run"
    text = tiny_recipe.read_text().replace("control = true", "control = false")
    text = text.replace("batch_size = 8", "batch_size = 1")
    own.write_text(text.replace("[training]\n", "[training]\nsave_steps = 1\nscore_checkpoints = 2\nkeep = 1\n"))
    command = ["train-then-eval", str(own), "--out", str(out), "--limit", "6", "--tasks", "scenes_pope"]
    assert cli.run(command) == 0
    board = Board(out / "board")
    scored = {Path(entry.model).name for entry in board.entries()} - {"scenes-base"}
    steps = max(int(name.removeprefix("checkpoint-")) for name in scored)
    assert steps > 2
    assert scored == {f"checkpoint-{step}" for step in scored_at(steps, training(save_steps=1, score_checkpoints=2))}
    (told,) = [text for text in caplog.messages if "score_checkpoints = 2" in text]
    assert told.startswith(f"2 checkpoints of {steps} that are saved")
    assert "measured on scenes-base" in told
    assert caplog.messages.index(told) < min(
        place for place, text in enumerate(caplog.messages) if "checkpoint-" in text and "scoring on" in text
    )
    caplog.clear()
    assert cli.run(command) == 0
    assert not [text for text in caplog.messages if "are scored" in text]
    tasks = [registry().task(entry.task) for entry in board.entries() if entry.headline]
    measured = rate_of("scenes-base", tasks, [board])
    assert measured is not None
    assert all(seconds > 0 for seconds in measured.seconds.values())
    assert rate_of("scenes-base", tasks, [board], device="another") is None
    capsys.readouterr()
    assert cli.run([*command, "--dry-run"]) == 0
    assert "at most 2 checkpoints are scored" in (shown := capsys.readouterr().out)
    assert f"measured on scenes-base, {out / 'board'}" in shown
    assert cli.run(["watch", str(out), "--tasks", "scenes_pope", "--once", "--limit", "6"]) == 0
    assert any("there to be scored, " in text and "of 2 in all" in text for text in caplog.messages)
