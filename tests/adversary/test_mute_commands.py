"""Mute and broken models through the commands: what `harness eval` prints of them, and the gate."""

import json
import shutil
from pathlib import Path

import pytest

import harness
from harness.cli import main as cli
from leaderboards.board.board import Board
from tests.conftest import Server

BASE = Path(harness.__file__).parent / "models" / "weights" / "scenes-base"
EVAL = ("--tasks", "scenes_chair", "--limit", "40")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the base's scores."""
    folder = tmp_path_factory.mktemp("mute")
    assert (
        cli.run(
            ["eval", "--model", "scenes-base", *EVAL, "--out", str(folder), "--answers", str(folder / "answers.sqlite")]
        )
        == 0
    )
    return folder


@pytest.mark.slow
def test_weights_that_are_no_numbers_fail_and_never_pass_the_gate(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(BASE, broken)
    weights = broken / "model.safetensors"
    save_file({k: v * float("nan") for k, v in load_file(weights).items()}, weights, metadata={"format": "pt"})
    assert (
        cli.run(
            ["eval", "--model", str(broken), *EVAL, "--out", str(out), "--answers", str(tmp_path / "answers.sqlite")]
        )
        == 4
    )
    entries = [entry for entry in Board(out / "board").current(partial=True) if entry.model == str(broken)]
    assert {(entry.value, entry.failed, entry.empty) for entry in entries} == {(None, 40, 0)}
    gate = ["check", "--baseline", str(out), "--baseline-model", "scenes-base", "--model", str(broken), "--partial"]
    assert cli.run([*gate, "--require-better", "scenes_chair"]) != 0
    assert "better" not in capsys.readouterr().out.split("Gate failed")[0]


@pytest.mark.slow
@pytest.mark.parametrize("text", ("", ".", "I can't tell.", "image", "There is a red circle and a blue square."))
def test_a_served_model_that_says_the_same_of_every_picture_is_not_better(
    out: Path, text: str, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.reply = lambda prompt: text
    reached = ("--model-url", server.url, "--ledger", str(tmp_path / "ledger.sqlite"))
    board = tmp_path / "board"
    shutil.copytree(out / "board", board)
    assert cli.run(["eval", "--model", "openai:mute", *reached, *EVAL, "--out", str(tmp_path)]) in (0, 4)
    printed = capsys.readouterr().out
    if len(text.split()) < 4:
        assert "40 empty" in printed
    gate = ["check", "--baseline", str(board), "--baseline-model", "scenes-base", "--model", "openai:mute", "--partial"]
    assert cli.run([*gate, "--require-better", "scenes_chair", "--json"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert any("coverage fell" in one["why"] for one in found["regressions"])
    assert [claim["met"] for claim in found["claims"]] == [False]
