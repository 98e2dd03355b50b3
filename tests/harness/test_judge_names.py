"""The scenes judge under its earlier name: commands, recipes and files that have it go on as if it had the new one."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import run
from harness.judge_bench.results import Result
from leaderboards.board.board import Board
from trainers.config.recipe import parse_recipe
from trainers.vlfeedback.annotation import ratings_file

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    words = ["eval", "--model", "scenes-base", "--tasks", "scenes_mmhal", "--limit", "2", "--out", str(folder), "-q"]
    assert run([*words, "--judge", "exact"]) == 0
    return folder / "board"


def test_the_option_takes_the_earlier_name(board: Path) -> None:
    assert {entry.judge for entry in Board(board).entries()} == {"scenes"}


def test_a_board_with_the_earlier_name_counts_as_rated_by_this_judge(
    board: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted(board.glob("*.json"))
    for file in files:
        file.write_text(file.read_text().replace('"judge": "scenes"', '"judge": "exact"'))
    assert {entry.judge for entry in Board(board).entries()} == {"scenes"}
    before = [file.read_bytes() for file in files]
    words = ["eval", "--model", "scenes-base", "--tasks", "scenes_mmhal", "--limit", "2", "--judge", "scenes"]
    assert run([*words, "--out", str(board.parent)]) == 0
    assert "already" in capsys.readouterr().err
    assert [file.read_bytes() for file in sorted(board.glob("*.json"))] == before


def test_a_recipe_with_the_earlier_name_is_the_same_recipe() -> None:
    values = tomllib.loads((ROOT / "trainers" / "recipes" / "scenes-demo.toml").read_text())
    before = parse_recipe({**values, "data": {**values["data"], "judge": "exact"}})
    now = parse_recipe(values)
    assert (now.digest, now.data) == (before.digest, before.data)


def test_ratings_under_the_earlier_name_are_gone_on_with(tmp_path: Path) -> None:
    assert ratings_file(tmp_path, "scenes").name == "ratings-scenes.jsonl"
    (tmp_path / "ratings-exact.jsonl").touch()
    assert ratings_file(tmp_path, "scenes").name == "ratings-exact.jsonl"
    assert ratings_file(tmp_path, "gpt").name == "ratings-gpt.jsonl"
    (tmp_path / "ratings-scenes.jsonl").touch()
    assert ratings_file(tmp_path, "scenes").name == "ratings-scenes.jsonl"


def test_a_dataset_begun_under_the_earlier_name_is_gone_on_with(tmp_path: Path) -> None:
    words = ["vlfeedback", "build", "--source", "scenes", "--pool", "scenes", "--rows", "2", "--out", str(tmp_path)]
    assert run([*words, "--judge", "scenes"]) == 0
    claim = next(tmp_path.rglob("build.json"))
    held: dict[str, Any] = json.loads(claim.read_text())
    claim.write_text(json.dumps(held | {"judge": "exact"}))
    assert run([*words, "--judge", "exact"]) == 0


def test_a_kept_result_of_the_earlier_name_is_this_judges(tmp_path: Path) -> None:
    assert run(["judge", "bench", "exact", "--limit", "2", "--out", str(tmp_path)]) == 0
    (file,) = tmp_path.glob("scenes-scenes-*.json")
    file.write_text(file.read_text().replace('"judge": "scenes"', '"judge": "exact"'))
    assert Result.read(file).judge == "scenes"
