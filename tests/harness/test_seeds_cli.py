"""Trainings with several seeds on the command line: `compare --runs` and `leaderboard --group-seeds`."""

import html
import json
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main as cli
from leaderboards.board.board import Board
from leaderboards.board.entry import RECIPE, TRAINING_SAVE, TRAINING_SEED
from leaderboards.views import glossary
from tests.harness.scored_runs import put, right

RIGHT = {0: 62, 1: 70, 2: 66}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and three seeds with a board each."""
    folder = tmp_path_factory.mktemp("runs")
    put(Board(folder / "base" / "board"), "base", "scenes_mme", right(40, of=80), unit="%")
    for seed, count in RIGHT.items():
        name = (folder / f"x-seed{seed}" / "checkpoint-4").as_posix()
        facts = {RECIPE: "x 12ab dpo", TRAINING_SEED: str(seed), TRAINING_SAVE: "last"}
        board, own = Board(folder / f"x-seed{seed}" / "board"), right(count, of=80)
        put(board, name, "scenes_mme", own, run=f"run-{seed}", unit="%", provenance=facts)
    return folder


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> tuple[str, str]:
    capsys.readouterr()
    assert cli.run(list(words)) == code
    out, err = capsys.readouterr()
    return out, err


def test_compare_tells_the_mean_of_the_seeds_against_the_base(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", "--runs", f"{runs}/x-seed*", "--base", "base", "--board", str(runs)]
    text, _ = said(capsys, *words)
    assert "3 seeds: " in text
    assert "▲ better, of 3 seeds 3 better, 3 higher" in text
    assert glossary.SEEDS in text
    assert "permutation" not in text
    [change] = json.loads(said(capsys, *words, "--json")[0])["changes"]
    mean = 100 * sum(RIGHT.values()) / 240
    assert change["after"] == pytest.approx(mean)
    verdict: dict[str, Any] = change["verdict"]
    assert verdict["seeds"] == {"base": 1, "other": 3, "higher": 3, "lower": 0, "better": 3, "worse": 0}
    assert 0 < verdict["low"] < mean - 50 < verdict["high"]
    assert verdict["p"] < 0.05
    named = [word for seed in RIGHT for word in ("--runs", f"{runs}/x-seed{seed}")]
    assert said(capsys, "compare", *named, *words[3:])[0] == text


@pytest.mark.parametrize(
    ("words", "why"),
    (
        (("--runs", "x-seed*"), "--runs needs --base"),
        (("--base", "base"), "--base is for --runs"),
        (("base", "--runs", "x", "--base", "base"), "--runs stands in place of 'base'"),
        (("--runs", "{runs}/y-seed*", "--base", "base"), "no model and no run folder"),
        (("--runs", "{runs}/x-seed1", "--base", "base"), "alone; give two seeds or more"),
        (("--runs", "{runs}/x-seed*", "--base", "{runs}/x-seed0"), "is named by --runs and by --base"),
    ),
)
def test_what_is_no_set_of_seeds_is_refused(
    words: tuple[str, ...], why: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [word.format(runs=runs) for word in words]
    out, err = said(capsys, "compare", *given, "--board", str(runs), code=2)
    assert out == ""
    assert why in err
    assert err.count("\n") == 1


def test_the_page_and_the_table_have_one_row_for_all_seeds(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["leaderboard", str(runs), "--base", "base", "--group-seeds"]
    table, _ = said(capsys, *words)
    assert table.count("checkpoint-4") == 1
    assert "of 3 seeds 3 better, 3 higher (seeds 0, 1, 2)" in table
    page = tmp_path / "board.html"
    said(capsys, *words, "--html", str(page))
    text = page.read_text()
    name = html.escape(f"{runs}/x-seed*/checkpoint-4")
    assert name in text
    assert f"{runs}/x-seed1/checkpoint-4" not in text
    assert "of 3 seeds 3 better, 3 higher" in text
    assert html.escape(glossary.SEEDS) in text
    assert "permutation" not in text
    entries = json.loads(said(capsys, *words, "--json")[0])["entries"]
    assert [entry["seeds"] for entry in entries] == [None, "0, 1, 2"]
