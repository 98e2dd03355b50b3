"""Which run counts is told by the order in which runs were added, whatever clocks say and however boards came about."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import run
from leaderboards.board.board import Board
from leaderboards.board.entry import Entry, to_json

NOW, PAST, AHEAD = (f"{year}-01-31T12:00:00+00:00" for year in (2026, 2019, 2999))


def entry(name: str, value: float, created: str = NOW, weights: str = "w") -> Entry:
    facts: dict[str, Any] = {"unit": "%", "higher_is_better": False, "headline": True, "samples": 40, "limit": None}
    facts |= {"low": None, "high": None, "judge": None, "seconds": 1.0, "cost": 0.0}
    facts |= {"created": created, "provenance": {"weights": weights}}
    return Entry(run=name, model="m", task="scenes_chair", version="1.0", metric="chair_s", value=value, **facts)


def shown(capsys: pytest.CaptureFixture[str], *boards: Path) -> tuple[list[float], str]:
    """The values that a leaderboard shows, and what it says beside them."""
    capsys.readouterr()
    assert run(["leaderboard", *map(str, boards), "--json"]) == 0
    out, err = capsys.readouterr()
    rows = json.loads(out)
    return [row["value"] for row in rows["entries"]], err


CLOCKS = {
    "set back": (NOW, PAST),
    "ahead at first": (AHEAD, NOW),
    "the same second": (NOW, NOW),
    "ahead, then set back": (AHEAD, PAST),
    "ahead twice": (AHEAD, AHEAD),
}


@pytest.mark.parametrize("same_model", (True, False))
@pytest.mark.parametrize("clock", CLOCKS)
def test_the_run_that_was_added_last_is_shown(
    clock: str, same_model: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = CLOCKS[clock]
    for name, value, created, weights in (("z", 12.5, first, "w1"), ("a", 10.1, second, "w1" if same_model else "w2")):
        Board(tmp_path / "board").add([entry(name, value, created, weights)], [])
    values, said = shown(capsys, tmp_path)
    assert values == [10.1]
    assert ("2 runs of these weights: 12.5, 10.1" in said) == same_model
    assert said.count("in the future") == CLOCKS[clock].count(AHEAD)


def test_a_board_without_numbers_is_ordered_by_date_and_new_runs_come_after(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board = Board(tmp_path / "board")
    for name, value, created in (("b", 2.0, NOW), ("a", 1.0, PAST), ("c", 3.0, AHEAD)):
        board.add([entry(name, value, created)], [])
        path = board.folder / f"{name}.json"
        data = json.loads(path.read_text())
        del data["entries"][0]["sequence"]
        path.write_text(json.dumps(data))
    assert shown(capsys, tmp_path)[0] == [2.0]
    board.add([entry("d", 4.0, PAST)], [])
    assert shown(capsys, tmp_path)[0] == [4.0]


@pytest.mark.parametrize(("weights", "told"), (("w", False), ("other", True)))
def test_boards_of_two_machines_are_merged_by_date_and_other_models_of_a_name_are_told(
    weights: str, told: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each board numbers its own runs, so numbers of two boards say nothing."""
    here, there = tmp_path / "here" / "board", tmp_path / "there" / "board"
    for number in range(3):
        Board(here).add([entry(f"h{number}", 5.0 + number, PAST)], [])
    Board(there).add([entry("t", 1.0, NOW, weights)], [])
    for boards in ((here, there), (there, here)):
        values, said = shown(capsys, *boards)
        assert values == [1.0]
        assert (f"of weights w is left out: on another board {NOW} is the date of run t" in said) == told
    Board(here).add([entry("ahead", 9.0, AHEAD)], [])
    assert shown(capsys, here, there)[0] == [1.0]


def test_a_run_that_is_copied_to_another_board_is_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here, there = Board(tmp_path / "here" / "board"), Board(tmp_path / "there" / "board")
    here.add([entry("run", 1.0)], [])
    there.add([entry("other", 2.0)], [])
    shutil.copy(here.folder / "run.json", there.folder)
    assert len(shown(capsys, here.folder, there.folder)[0]) == 1
    there.add([entry("last", 3.0, PAST)], [])  # comes after both
    assert shown(capsys, there.folder)[0] == [3.0]


def test_runs_of_processes_at_once_have_numbers_of_their_own(tmp_path: Path) -> None:
    data = [[to_json(entry(f"p{process}-{turn}", 1.0)) for turn in range(5)] for process in range(4)]
    code = (
        "import json, sys; from pathlib import Path; from leaderboards.board.board import Board;"
        "from leaderboards.board.entry import from_json;"
        "[Board(Path(sys.argv[1])).add([from_json(each, 'x')], []) for each in json.loads(sys.argv[2])]"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "b"), json.dumps(own)]) for own in data]
    assert [process.wait() for process in processes] == [0] * 4
    assert sorted(each.sequence for each in Board(tmp_path / "b").entries()) == list(range(1, 21))
    assert sorted(path.suffix for path in (tmp_path / "b").iterdir()) == [".json"] * 20
