"""What a watched folder has to show, for people and for machines."""

from pathlib import Path

from harness.runs.watch import Watched
from harness.runs.watch_report import write_watch_report
from leaderboards.board.board import Board
from tasks.registry import registry
from tests.harness.scored_runs import put, right
from trainers.training.checkpoints import FoundCheckpoint


def watched(folder: Path, steps: dict[int, int]) -> Watched:
    """A folder whose checkpoints of these steps answered so many of 80 questions right."""
    board = Board(folder / "board")
    found = [FoundCheckpoint(path=folder / f"checkpoint-{step}", step=step, of=max(steps)) for step in steps]
    for one in found:
        put(board, str(one.path), "scenes_mme", right(steps[one.step], of=80), run=f"run-{one.step}", unit="%")
    names = {one.path: str(one.path) for one in found}
    return Watched(found=found, names=names, scored=list(names), failed={}, incomplete={}, done=True)


def test_machines_are_told_what_the_best_score_is_worth_on_images_that_did_not_choose_it(tmp_path: Path) -> None:
    tasks = [registry().task("scenes_mme")]
    report = write_watch_report(tmp_path, tmp_path, watched(tmp_path, {10: 60, 20: 61, 30: 30}), None, tasks)
    told = report.to_json()
    assert told["best"] == str(tmp_path / "checkpoint-10")  # the earliest that is as good as the best
    best = told["best scores"]["scenes_mme.accuracy"]
    assert (best["model"], best["value"]) == (str(tmp_path / "checkpoint-20"), 76.25)
    assert 70 < best["held out"] < best["value"]
    assert told["not ranked"] == {}
    assert f"{best['held out']:.1f}" in report.text


def test_of_a_single_checkpoint_nothing_was_chosen(tmp_path: Path) -> None:
    report = write_watch_report(tmp_path, tmp_path, watched(tmp_path, {10: 60}), None, [registry().task("scenes_mme")])
    assert report.to_json() == {}
