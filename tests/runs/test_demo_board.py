"""A finished run of `harness train-then-eval scenes-demo`, by an earlier version: today's code reads it, and gives the
same scores and differences to the last digit. Its p-values counted swaps that equal the difference whole, not half.

demo/ is that run's folder without weights and preference data, and with two of its four sample logs; outcome.json is
what `--json` printed.
"""

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.cli import main as cli
from harness.engine.stage_timer import StageTimer
from harness.runs.checkpoint_selection import Scores, headlines, panel_of, select_checkpoint, tasks_of
from harness.runs.image_use_checks import ImageUseChecks
from harness.runs.outcome import verdict_json
from harness.runs.run_folder import claim
from harness.runs.training_alarms import read_log
from leaderboards.board.board import Board
from leaderboards.board.entry import Entry
from leaderboards.statistics.significance import ALPHA
from leaderboards.statistics.verdict import drawn_interval, interval
from support.markdown import number, span
from tasks.registry import registry
from trainers.config.recipe import preference_recipe

DEMO = Path(__file__).with_name("demo")
OUTCOME: dict[str, Any] = json.loads((DEMO / "outcome.json").read_text())
BASE, LAST, CONTROL = "scenes-base", "runs/scenes-demo/checkpoint-47", "runs/scenes-demo/control/checkpoint-47"
LOGGED = (BASE, LAST)
ROOT = Path(__file__).parents[2]
README, SCENES = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/scenes.md"))
SHOWN = [("scenes_chair", name) for name in ("chair_s", "chair_i", "coverage", "planted")]
SHOWN += [("scenes_pope", "f1"), ("scenes_mme", "accuracy"), ("scenes_mmhal", "score")]
HARNESS = [sys.executable, "-c", "from harness.cli.main import main; main()"]


def numbers(entries: Iterable[Entry | Mapping[str, Any]]) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """What was measured, without when, how long, by which versions, and the intervals, which were others then."""
    key = ("model", "task", "version", "metric", "judge")
    value = ("value", "unit", "higher_is_better", "headline", "samples", "unscored", "failed", "limit")
    rows = [entry if isinstance(entry, Mapping) else vars(entry) for entry in entries]
    return {tuple(row[name] for name in key): tuple(row[name] for name in value) for row in rows}


def comparable(verdicts: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The verdicts with what the earlier version had of them and found by today's rules."""
    left_out = ("guards", "seeds", "low", "high", "p", "outcome")
    return {name: {key: verdict[key] for key in verdict if key not in left_out} for name, verdict in verdicts.items()}


def check_p(earlier: Mapping[str, Mapping[str, Any]], found: Mapping[str, Mapping[str, Any]]) -> None:
    """Ties count half now, so each p lies between half the earlier one and that one; `found` says what follows."""
    for name, verdict in found.items():
        then = earlier[name]
        assert 0.499 * then["p"] < verdict["p"] <= then["p"], name
        assert verdict["outcome"] == then["outcome"] or verdict["p"] <= ALPHA < then["p"], name


@pytest.fixture(scope="module")
def board() -> Board:
    return Board(DEMO / "board")


def test_every_file_of_an_earlier_board_is_read(board: Board) -> None:
    entries = board.entries()
    assert board.skipped == []
    assert len(entries) == 4 * 19
    assert {entry.model for entry in entries} == {BASE, "runs/scenes-demo/checkpoint-24", LAST, CONTROL}
    assert board.current() == board.current(partial=True, replaced=True)


@pytest.mark.parametrize("model", LOGGED)
def test_an_earlier_log_gives_its_scores_and_the_scenes_page_s_intervals(board: Board, model: str) -> None:
    own = [entry for entry in board.entries() if entry.model == model]
    records = defaultdict(list)
    for sample in board.samples(own[0].run):
        for name, record in sample.records.items():
            records[sample.task, name].append(record)
    for entry in own:
        metric, counted = registry().metric(entry.task, entry.metric), records[entry.task, entry.metric]
        assert float(metric(counted)) == entry.value, entry.key
        assert drawn_interval([counted], metric) == (entry.low, entry.high), entry.key
        if (entry.task, entry.metric) in SHOWN:
            low, high = interval(counted, metric)
            assert number(entry.value, entry.unit) + span(low, high, entry.unit) in SCENES, entry.key


def test_earlier_logs_give_the_earlier_verdicts(board: Board) -> None:
    recipe = preference_recipe("scenes-demo")
    found = Scores(board).panel(BASE, LAST, panel_of(recipe, tasks_of(recipe)))
    earlier, today = OUTCOME["verdicts"]["dpo against base"], {name: verdict_json(one) for name, one in found.items()}
    assert comparable(today) == comparable(earlier)
    check_p(earlier, today)
    assert {name for name, one in today.items() if one["outcome"] != earlier[name]["outcome"]} == {"scenes_mmhal.score"}
    units = {
        f"{task}.{metric}": spec.unit for task, own in registry().tasks.items() for metric, spec in own.metrics.items()
    }
    for name, verdict in found.items():
        p = "<0.0001" if verdict.p < 1e-4 else f"{verdict.p:.4f}"
        shown = number(verdict.difference, units[name]) + span(verdict.low, verdict.high, units[name])
        assert f"{shown} | {p} | {verdict.words} |" in README, name
    assert not any(verdict.fallen for verdict in found.values())  # 2% less coverage is within what is allowed


def test_the_rest_of_an_earlier_run_folder_is_read() -> None:
    claim(DEMO, preference_recipe("scenes-demo"))  # a recipe with another digest, or other settings, is refused
    assert sum(StageTimer(DEMO / "seconds.json").seconds.values()) == pytest.approx(121.42)
    log = read_log(DEMO)
    assert [line.step for line in log] == [1, *range(5, 50, 5)]
    assert None not in (log[-1].loss, log[-1].margin, log[-1].chosen_logp)
    checks = ImageUseChecks.from_json(json.loads((DEMO / "checks.json").read_text())["found"])
    assert checks.use.pairs == 48
    assert checks.use.accuracy["image"][0] == pytest.approx(85.4, abs=0.1)
    leaks = json.loads((DEMO / "leaks.json").read_text())
    assert leaks["rows_with_image"] == OUTCOME["leaks"]


def test_a_checkpoint_is_chosen_as_earlier(board: Board) -> None:
    taken = select_checkpoint(Scores(board), [LAST], headlines(tasks_of(preference_recipe("scenes-demo"))))
    assert (taken.model, taken.worse) == (LAST, {LAST: ()})


def test_the_base_gives_the_same_answers_to_the_same_questions(board: Board, tmp_path: Path) -> None:
    command = ["eval", "--model", BASE, "--tasks", "scenes", "--limit", "60", "--out", str(tmp_path)]
    assert cli.run(command) == 0
    now = Board(tmp_path / "board")
    old = next(entry.run for entry in board.entries() if entry.model == BASE)
    earlier = {(sample.task, sample.id): sample for sample in board.samples(old)}
    asked = now.samples(now.entries()[0].run)
    assert len(asked) == 4 * 60
    for sample in asked:
        before = earlier[sample.task, sample.id]
        assert (sample.prompt, sample.answer, sample.image) == (before.prompt, before.answer, before.image)


@pytest.mark.slow
def test_the_demo_gives_the_same_entries_and_verdicts(tmp_path: Path, board: Board) -> None:
    made_by = board.entries()[0].provenance
    if torch.__version__ != made_by["torch"]:
        pytest.skip(f"trained weights are those of torch {made_by['torch']}")
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2]), "OMP_NUM_THREADS": "2"}
    command = [*HARNESS, "train-then-eval", "scenes-demo", "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert numbers(found["entries"]) == numbers(board.entries())
    both = [
        own | {"verdicts": {label: comparable(verdicts) for label, verdicts in own["verdicts"].items()}}
        for own in (found, OUTCOME)
    ]
    assert {name: both[0][name] for name in OUTCOME} == both[1]
    for label, earlier in OUTCOME["verdicts"].items():
        check_p(earlier, found["verdicts"][label])


def test_a_gate_computes_an_earlier_board_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    board = str(DEMO / "board")
    command = ["check", "--baseline", board, "--baseline-model", BASE, "--model", LAST]
    assert cli.run([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert not found["errors"]
    assert not any("taken from its log" in note for note in found["notes"]), found["notes"]
