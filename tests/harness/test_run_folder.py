"""A run folder is held by one process, and by one recipe."""

import json
from pathlib import Path

import pytest

from harness.runs.run_folder import claim, find_differences, hold_run_folder
from support.errors import InputError, RunError
from support.files import atomic_write_text
from trainers.config.recipe import find_recipe


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
