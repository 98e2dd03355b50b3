"""What `harness view` shows is what `harness leaderboard --html` writes, with the same options."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.cli import main as cli
from harness.evaluation.live_page import LivePage
from leaderboards.board.board import Board
from tests.harness.test_human_labels import board, filled, put

__all__ = ["board", "filled"]


@pytest.fixture
def viewed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The first page of `harness view` with these options."""
    shown: list[str] = []
    monkeypatch.setattr(LivePage, "serve", lambda self: shown.append(self.current().body.decode()))

    def view(*options: str) -> str:
        assert cli.run(["view", *options]) == 0
        return shown[-1]

    return view


def without_server(page: str) -> str:
    return re.sub(r' data-live="\w+"', "", page).replace("connect-src &#39;self&#39;", "connect-src &#39;none&#39;")


def test_the_page_has_what_others_reported_and_scores_that_people_correct(
    board: Path,
    filled: Path,
    viewed: Callable[..., str],
    tmp_path: Path,
) -> None:
    asked = [str(board), "--headline", "--base", "kind", "--published", "--human-labels", str(filled), "--no-pictures"]
    page = without_server(viewed(*asked))
    assert "corrected" in page
    assert "Reported by others" in page
    assert cli.run(["leaderboard", *asked, "--html", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page
    assert "Reported by others" not in viewed(str(board), "--headline", "--no-pictures")


def test_trainings_are_one_row_once_there_are_two_seeds(
    viewed: Callable[..., str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "runs" / "board"
    for seed in ("1", "2"):
        facts = {"recipe": "x 12ab dpo", "training seed": seed, "training save": "last"}
        put(Board(folder), f"seed-{seed}", facts=facts)
        page = viewed(str(folder), "--no-pictures", "--group-seeds")
        assert ("no two checkpoints on the boards differ by their seed alone yet" in caplog.text) == (seed == "1")
        caplog.clear()
    assert 'data-model="seed-*"' in page
    assert 'data-model="seed-1"' not in page


def test_labels_that_are_wrong_are_told_before_there_is_a_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = tmp_path / "labels.csv"
    assert cli.run(["view", str(tmp_path), "--human-labels", str(labels)]) == 2
    assert "No such file" in capsys.readouterr().err
    labels.write_text("id,rating\n1,much\n")
    assert cli.run(["view", str(tmp_path), "--human-labels", str(labels)]) == 2
    assert "is no number" in capsys.readouterr().err
    assert cli.run(["view", str(tmp_path), "--human-labels", str(labels), "--group-seeds"]) == 2
    assert "--human-labels is not for --group-seeds" in capsys.readouterr().err


def test_labels_are_watched_as_the_board_is(tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("id,rating\n1,2\n")
    with LivePage(lambda state: state, places=[tmp_path / "runs", labels]) as live:
        before = live.current().state
        labels.write_text("id,rating\n1,2\n2,3\n")
        assert live.current().state != before
