"""Walk 2 end to end on a recipe of seconds; killed at each stage, it ends on the same board."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from harness import cli
from leaderboards.board import Board

LIMIT = 6
HARNESS = [sys.executable, "-c", "from harness.cli import main; main()"]


def scores(out: Path) -> dict[tuple[str, str, str], tuple[Any, ...]]:
    """What a board says, without when and how long; checkpoints by their place in the run folder."""
    return {
        (e.model.replace(out.as_posix(), "RUN"), e.task, e.metric): (
            e.value,
            e.low,
            e.high,
            e.samples,
            e.limit,
            e.provenance.get("adapter"),
        )
        for e in Board(out / "board").standing(partial=True)
    }


@pytest.fixture(scope="module")
def finished(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tiny"
    assert cli.run(["train-then-eval", str(tiny_recipe), "--out", str(out), "--limit", str(LIMIT)]) == 0
    return out


def test_base_control_and_every_checkpoint_are_on_the_board(finished: Path) -> None:
    models = {model for model, *_ in scores(finished)}
    checkpoints = {path.name for path in finished.glob("checkpoint-*")}
    assert len(checkpoints) >= 1
    assert models == {"scenes-base"} | {f"RUN/{name}" for name in checkpoints} | {f"RUN/control/{name}" for name in checkpoints}


def test_the_run_folder_holds_everything(finished: Path) -> None:
    for name in ("run.json", "report.md", "hallucination.png", "seconds.json", "log.jsonl", "control/log.jsonl"):
        assert (finished / name).stat().st_size > 0, name
    for name in ("instructions", "ratings", "pairs", "vlfeedback"):
        lines = (finished / "data" / f"{name}.jsonl").read_text().splitlines()
        assert lines, name
        assert all(json.loads(line) for line in lines)
    entry = Board(finished / "board").entries()[0]
    assert Board(finished / "board").samples(entry.run)


def test_the_report_says_what_matters(finished: Path) -> None:
    report = (finished / "report.md").read_text()
    for part in ("## Leaderboard", "## dpo against base", "## dpo against sft", "Partial", "harness check", "hallucination.png", "## Time"):
        assert part in report
    assert "scenes-base" in report


def test_the_same_command_does_nothing_when_all_is_done(finished: Path, tiny_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in [*finished.glob("board/*"), *finished.glob("**/adapter_model.safetensors")]}
    assert cli.run(["train-then-eval", str(tiny_recipe), "--out", str(finished), "--limit", str(LIMIT), "--json"]) == 0
    said = capsys.readouterr()
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert said.err.count("already on the board, skipped") == len({model for model, *_ in scores(finished)})
    printed = json.loads(said.out)
    assert {verdict["outcome"] for verdict in printed["verdicts"]["dpo against base"].values()} <= {"better", "worse", "not separable"}
    assert len(printed["entries"]) == len(scores(finished))


def test_a_checkpoint_scored_by_itself_gives_what_the_board_has(finished: Path, tmp_path: Path) -> None:
    last = sorted(finished.glob("checkpoint-*"), key=lambda path: int(path.name.removeprefix("checkpoint-")))[-1]
    assert cli.run(["eval", "--model", str(last), "--tasks", "scenes", "--limit", str(LIMIT), "--out", str(tmp_path)]) == 0
    alone = {key[1:]: value for key, value in scores(tmp_path).items()}
    assert alone == {key[1:]: value for key, value in scores(finished).items() if key[0] == f"RUN/{last.name}"}


def test_another_recipe_may_not_use_the_folder(finished: Path, tiny_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["train-then-eval", str(tiny_recipe), "--out", str(finished), "--limit", str(LIMIT), "--seed", "7"]) == 1
    assert "with other settings" in capsys.readouterr().err


def test_a_second_process_is_told_that_the_folder_is_taken(finished: Path, tiny_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import fcntl

    with (finished / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert cli.run(["train-then-eval", str(tiny_recipe), "--out", str(finished), "--limit", str(LIMIT)]) == 1
    assert "another process is at work" in capsys.readouterr().err


def test_the_gate_reads_the_runs_board(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["check", "--baseline", str(finished / "board")]) == 1
    assert "nothing was compared" in capsys.readouterr().out  # limited runs are no baseline
    assert cli.run(["leaderboard", str(finished), "--partial"]) == 0
    assert "limit 6" in capsys.readouterr().out


def stages(out: Path) -> list[tuple[str, Any]]:
    """Where the run is killed: as soon as each of these is there."""
    return [
        ("while the base is scored", lambda: (out / "run.json").exists()),
        ("while answers are given", lambda: any((out / "data" / "answers").glob("*.jsonl"))),
        ("after the pairs", lambda: (out / "data" / "pairs.jsonl").exists()),
        ("amid training", lambda: any(out.glob("checkpoint-*"))),
        ("while checkpoints are scored", lambda: len(list(out.glob("board/*.json"))) >= 2),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("stage", range(5))
def test_killed_at_any_stage_the_same_command_ends_on_the_same_board(stage: int, finished: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiny"
    command = [*HARNESS, "train-then-eval", str(tiny_recipe), "--out", str(out), "--limit", str(LIMIT)]
    name, reached = stages(out)[stage]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        while not reached():
            assert process.poll() is None, f"ended before it could be killed {name}"
            time.sleep(0.005)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    subprocess.run(command, check=True, capture_output=True)
    assert scores(out) == scores(finished)
    ours, theirs = ((folder / "data" / "pairs.jsonl").read_text().replace(str(folder.resolve()), "") for folder in (out, finished))
    assert ours == theirs
