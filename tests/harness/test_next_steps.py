"""What a command says at its end can be typed as it stands."""

import logging
import shlex
from pathlib import Path

import pytest

from harness.cli import main as cli
from harness.cli.next_steps import (
    after_attention,
    after_bench,
    after_build,
    after_eval,
    after_injecting,
    after_run,
    after_training,
)
from leaderboards.board.board import Board
from tests.leaderboards.conftest import make_entry  # noqa: F401
from tests.leaderboards.makers import MakeEntry


def commands(caplog: pytest.LogCaptureFixture) -> list[list[str]]:
    """The commands that were told, as words."""
    told = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return [shlex.split(line.removeprefix("next: harness ")) for line in told if line.startswith("next: ")]


def test_after_one_model_another_is_scored_in_the_same_way(
    tmp_path: Path,
    make_entry: MakeEntry,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    board = Board(tmp_path / "a run" / "board")
    entry = make_entry(model="one", run="r1", limit=8)
    board.add([entry], [])
    given = ["eval", "--model=one", "--model_path", "x y", "--tasks", "mme", "--data", "mme=a b.tsv", "--limit", "8"]
    after_eval(board, [entry], [*given, "--out", str(tmp_path / "a run")])
    another, page = commands(caplog)
    same = ["eval", "--tasks", "mme", "--data", "mme=a b.tsv", "--limit", "8", "--out", str(tmp_path / "a run")]
    assert another == [*same, "--model", "MODEL"]
    assert page == ["leaderboard", str(tmp_path / "a run"), "--partial", "--html", f"{tmp_path}/a run/board.html"]
    other = make_entry(model="two", run="r2", limit=8)
    board.add([other], [])
    after_eval(board, [other], given)
    compared, _ = commands(caplog)
    assert compared == ["compare", "one", "two", "--board", str(tmp_path / "a run"), "--partial"]


def test_after_measurements_of_judges_and_of_attention(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    after_bench("gpt-4o", ["scenes", "vl_rewardbench"], [tmp_path / "a.json"])
    assert commands(caplog) == [
        ["judge", "bench", "JUDGE", "--bench", "scenes,vl_rewardbench", "--out", str(tmp_path)],
        ["eval", "--model", "MODEL", "--tasks", "hallucination", "--judge", "gpt-4o"],
    ]
    after_bench(None, ["scenes"], [])
    assert commands(caplog) == []
    after_attention(tmp_path, ["a", "b"], "chair")
    assert commands(caplog) == [["eval", "--model", "a", "--model", "b", "--tasks", "chair"]]
    after_injecting(tmp_path, 3)
    assert [words[:2] for words in commands(caplog)] == [["vlfeedback", "check"], ["train", "RECIPE"]]
    after_injecting(tmp_path, 0)
    assert commands(caplog) == []


def test_after_runs_trainings_and_builds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    after_run(tmp_path, "base", "x/checkpoint-4", tmp_path / "report.md")
    assert f"results: {tmp_path / 'report.md'}" in caplog.text
    assert commands(caplog) == [
        ["compare", "base", "x/checkpoint-4", "--board", str(tmp_path)],
        ["leaderboard", str(tmp_path), "--base", "base", "--html", f"{tmp_path}/board.html"],
        ["view", str(tmp_path), "--base", "base"],
    ]
    after_run(tmp_path, "base", None, tmp_path, partial=True)
    assert [words[0] for words in commands(caplog)] == ["leaderboard", "leaderboard", "view"]
    after_training(tmp_path, "base", [tmp_path / "checkpoint-4"], ["mme", "pope"])
    last = str(tmp_path / "checkpoint-4")
    assert commands(caplog) == [
        ["eval", "--model", "base", "--model", last, "--tasks", "mme,pope", "--out", str(tmp_path)],
        ["compare", "base", last, "--board", str(tmp_path)],
    ]
    after_training(tmp_path, "base", [], ["mme"])
    assert not commands(caplog)
    after_build(tmp_path, pairs=4)
    assert [words[:2] for words in commands(caplog)] == [["vlfeedback", "check"], ["train", "RECIPE"]]


def test_what_eval_says_comes_next_works(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    out = tmp_path / "run"
    asked = f"eval --model scenes-base --tasks scenes_pope --limit 8 --out {out} --answers {tmp_path}/a.sqlite"
    assert cli.run(asked.split()) == 0
    another, page = commands(caplog)
    assert cli.run(["scenes-careful" if word == "MODEL" else word for word in another]) == 0
    compared, _ = commands(caplog)
    capsys.readouterr()
    assert cli.run(compared) == 0
    assert "scenes-base → scenes-careful" in capsys.readouterr().out
    assert cli.run(page) == 0
    assert (out / "board.html").exists()
    assert cli.run([*asked.split(), "-q"]) == 0
    assert "next:" not in capsys.readouterr().err
