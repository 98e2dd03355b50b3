"""A run folder is held by one process, and by one recipe."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.runs.recipe_training import _record_data
from harness.runs.run_folder import claim, find_differences, hold_run_folder
from support.errors import InputError, RunError, UsageError
from support.files import atomic_write_text
from trainers.config.recipe import find_recipe
from trainers.training.checkpoints import NOTE
from trainers.training.left_out import read_left_out


def test_a_folder_that_is_held_is_not_given_to_another(tmp_path: Path) -> None:
    with (
        hold_run_folder(tmp_path / "run"),
        pytest.raises(RunError, match="another process is at work"),
        hold_run_folder(tmp_path / "run"),
    ):
        raise AssertionError
    with hold_run_folder(tmp_path / "run"):
        pass


def test_an_error_inside_is_not_taken_for_one_of_the_folder(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError), hold_run_folder(tmp_path):
        raise BlockingIOError


def test_a_refusal_names_what_differs(tmp_path: Path) -> None:
    recipe = find_recipe("silkie")
    claim(tmp_path, recipe)
    claim(tmp_path, recipe)
    with pytest.raises(
        InputError, match=r"'silkie' with other settings \(seed: 42 there, 5 asked, limit: none there, 9 asked\)"
    ):
        claim(tmp_path, find_recipe("silkie", seed=5), 9)
    with pytest.raises(InputError, match=r"name: .* and [0-9]+ more\)"):
        claim(tmp_path, find_recipe("povid-stage1"))


def test_settings_differ_by_their_place() -> None:
    held = {"training": {"beta": 0.1, "lora": None}, "tasks": ["scenes"]}
    asked = {"training": {"beta": 0.2, "lora": {"r": 4}}, "tasks": ["scenes"], "note": "x" * 99}
    assert find_differences(held, held) == []
    beta, lora, note = find_differences(held, asked)
    assert beta == "training.beta: 0.1 there, 0.2 asked"
    assert lora == 'training.lora: none there, {"r": 4} asked'
    assert len(note) < 70


@pytest.mark.parametrize("text", ("", "[]", json.dumps({"digest": "x"})))
def test_a_claim_that_can_not_be_read_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(InputError, match=r"run\.json: can't be read"):
        claim(tmp_path, find_recipe("silkie"))


TORN = ("", "{", "[]", "3", "null", '"x"', "{}", '{"ids": 3, "digest": "x"}', '{"ids": null, "pairs": 1}', "\udcff")


@pytest.mark.parametrize("text", TORN)
def test_what_a_run_began_with_is_not_guessed(text: str, tmp_path: Path) -> None:
    found: Any = SimpleNamespace(digest="x")
    for name in ("left_out.json", "data.json"):
        (tmp_path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=r"left_out\.json: can't be read, and the run needs its pairs"):
        read_left_out(tmp_path)
    with pytest.raises(UsageError, match=r"data\.json: can't be read, and says with which data"):
        _record_data(tmp_path, found)


@pytest.mark.parametrize(
    ("note", "free"),
    (
        ({"recipe": "another"}, False),
        ({"recipe": "another", "step": 1}, False),
        ({"recipe": None}, False),
        ({"recipe": find_recipe("silkie").digest}, True),
        ({"step": 1}, True),
        (None, True),
    ),
)
def test_checkpoints_of_another_recipe_are_not_claimed(note: dict[str, Any] | None, free: bool, tmp_path: Path) -> None:
    (tmp_path / "checkpoint-1").mkdir()
    if note is not None:
        (tmp_path / "checkpoint-1" / NOTE).write_text(json.dumps(note))
    if free:
        claim(tmp_path, find_recipe("silkie"))
        return
    with pytest.raises(InputError, match=r"checkpoints of a run with other settings, and its run\.json is gone"):
        claim(tmp_path, find_recipe("silkie"))


def start(folder: Path, writes: tuple[str, ...], error: BaseException) -> None:
    """A run that writes these files and ends by the error."""
    with hold_run_folder(folder):
        claim(folder, find_recipe("silkie"))
        for name in writes:
            atomic_write_text(folder / name, "{}")
        raise error


@pytest.mark.parametrize(
    "left", ((), ("data.json",), ("left_out.json", "data.json"), ("base/config.json", "board/base.json"))
)
@pytest.mark.parametrize("error", (InputError("x"), RunError("y"), KeyboardInterrupt(), ValueError("z")))
def test_a_failed_start_holds_no_folder(tmp_path: Path, left: tuple[str, ...], error: BaseException) -> None:
    folder = tmp_path / "run"
    with pytest.raises(type(error)):
        start(folder, left, error)
    assert {path.name for path in folder.iterdir()} <= {".run.lock", "board"}
    claim(folder, find_recipe("silkie", seed=5))  # what the error advised


@pytest.mark.parametrize(
    "made",
    (
        *("checkpoint-2/checkpoint.json", "control/checkpoint-1/x", "log.jsonl", "stopped.json", "report.md"),
        *("data/answers/llava.jsonl", "data/ratings.jsonl", "data/instructions.jsonl"),
    ),
)
def test_what_was_made_keeps_the_folder(tmp_path: Path, made: str) -> None:
    with pytest.raises(RunError):
        start(tmp_path, (made,), RunError("later"))
    with pytest.raises(InputError, match="other settings"):
        claim(tmp_path, find_recipe("silkie", seed=5))


def test_a_refused_start_leaves_the_other_runs_claim(tmp_path: Path) -> None:
    claim(tmp_path, find_recipe("silkie"))
    with pytest.raises(InputError, match="other settings"), hold_run_folder(tmp_path):
        claim(tmp_path, find_recipe("silkie", seed=5))
    claim(tmp_path, find_recipe("silkie"))
