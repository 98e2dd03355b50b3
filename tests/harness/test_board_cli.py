"""What boards say, on the command line: two small models scored for real, then ranked, compared, gated, shown and exported."""

import json
import re
from pathlib import Path

import pytest

from harness import cli


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "small"
    answers = str(out.parent / "answers.sqlite")
    for model in ("scenes-base", "scenes-careful"):
        command = [
            "eval",
            "--model",
            model,
            "--tasks",
            "scenes_mme,scenes_chair",
            "--limit",
            "24",
            "--out",
            str(out),
            "--answers",
            answers,
        ]
        assert cli.run(command) == 0
    return out.parent


def said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert cli.run(arguments) == 0
    return capsys.readouterr().out


def test_the_board_shows_ranks_and_differences_in_every_form(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["leaderboard", str(runs), "--partial", "--headline", "--base", "scenes-base", "--ranks"]
    text = said(asked, capsys)
    assert "scenes-base (base)" in text
    assert re.search(r"#1", text)
    assert len(said([*asked, "--format", "csv"], capsys).splitlines()) >= 3
    assert json.loads(said([*asked, "--json"], capsys))
    assert said(["leaderboard", str(runs)], capsys).strip() == "No results."  # runs with a limit stand on no board


def test_the_page_holds_pictures_and_needs_nothing_else(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(["leaderboard", str(runs), "--partial", "--base", "scenes-base", "--html", str(tmp_path / "board.html")], capsys)
    text = (tmp_path / "board.html").read_text(encoding="utf-8")
    assert "Content-Security-Policy" in text
    assert "scenes-careful" in text
    assert not re.search(r"(?:src|href)=[\"']https?:", text)
    said(["leaderboard", str(runs), "--partial", "--no-pictures", "--html", str(tmp_path / "plain.html")], capsys)
    assert len((tmp_path / "plain.html").read_text(encoding="utf-8")) < len(text)


def test_two_models_are_compared_answer_by_answer(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(["compare", "scenes-base", "scenes-careful", "--board", str(runs), "--partial"], capsys)
    assert "## Flips" in text
    assert "## Format or ability?" in text
    assert cli.run(["compare", "scenes-base", "scenes-carefull", "--board", str(runs), "--partial"]) == 2
    assert "did you mean 'scenes-careful'?" in capsys.readouterr().err


def test_a_model_is_no_worse_than_itself_and_no_better(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    board = str(runs / "small" / "board")
    assert cli.run(["check", "--baseline", board, "--partial"]) == 2  # held against itself, it would always pass
    assert "against itself" in capsys.readouterr().err
    assert cli.run(["check", "--baseline", board, "--board", board, "--partial", "--junit", str(tmp_path / "gate.xml")]) == 0
    assert (tmp_path / "gate.xml").read_text().startswith("<?xml")
    assert cli.run(["check", "--baseline", board, "--board", board, "--partial", "--require-better", "scenes_mme"]) == 3
    assert cli.run(["check", "--baseline", board, "--board", board]) == 1  # nothing without a limit to compare: an error, never a pass


def test_power_is_told_from_answers_or_supposed(runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)
    assert "400" in said(["power", "scenes_mme", "--board", str(runs), "--samples", "400", "--difference", "2"], capsys)
    assert cli.run(["power", "scenes_mme", "--model", "nobody", "--board", str(runs)]) == 2


def test_results_go_out_as_lm_evals_and_come_back_marked(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = said(["leaderboard", str(runs), "--partial", "--output", "lm-eval", "--out", str(tmp_path / "out")], capsys).split()
    assert len(files) == 2
    said(["import", *files, "--out", str(tmp_path / "in")], capsys)
    assert "scenes-careful" in said(["leaderboard", str(tmp_path / "in"), "--partial"], capsys)
    assert cli.run(["leaderboard", str(runs), "--partial", "--output", "hub", "--out", str(tmp_path / "hub")]) == 2
    assert "no whole score" in capsys.readouterr().err  # a run with a limit goes into no model card


def test_a_file_that_is_no_result_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.json").write_text("[]")
    assert cli.run(["import", str(tmp_path / "x.json")]) == 2
    assert "x.json" in capsys.readouterr().err
