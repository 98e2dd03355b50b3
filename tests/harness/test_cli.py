"""Commands: what they print, and the exit code a mistake gets."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from harness.cli import main as cli

HARNESS = [sys.executable, "-c", "from harness.cli.main import main; main()"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    (
        (["evall"], "No such command 'evall'. Did you mean"),
        (["eval", "--modl", "x"], "--modl"),
        (["eval"], "Missing option '--model'"),
        (["eval", "--model", "scenes-bas", "--tasks", "scenes"], "did you mean 'scenes-base'?"),
        (["eval", "--model", "scenes-base", "--tasks", "scene"], "did you mean 'scenes'?"),
        (
            ["eval", "--model", "scenes-base", "--tasks", "scenes", "--judge", "gpt"],
            "key of judge 'gpt': it is not set; set OPENAI_API_KEY, or name its server",
        ),
        (["eval", "--model", "scenes-base"], "--tasks is not given: name suites (hallucination, scenes,"),
        (["watch", "."], "--tasks is not given"),
        (["eval", "--model", "scenes-base", "--limit", "0"], "--limit 0: must be at least 1"),
        (["train-then-eval", "scenes-dmo"], "did you mean 'scenes-demo'?"),
        (["train", "scenes-demo"], "train-then-eval scenes-demo"),
        (["tasks", "show", "scenes_char"], "did you mean 'scenes_chair'?"),
        (["leaderboard", "no/such/folder"], "no folder 'no/such/folder'"),
        (["check", "--baseline", "nowhere"], "nowhere: no such file or folder"),
        (["check", "--baseline", ".", "--tolerance", "x"], "TASK.METRIC=NUMBER"),
    ),
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert cli.run(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert "\n" not in error


def test_a_recipe_that_pretrains_cannot_be_evaluated_against_a_base(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["train-then-eval", "scenes-base", "--out", str(tmp_path / "run")]) == 2
    assert "harness train scenes-base" in capsys.readouterr().err


def test_a_model_that_cannot_be_loaded_is_one_line_and_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_text("{}")
    command = ["eval", "--model", str(tmp_path), "--tasks", "scenes", "--limit", "2", "--out", str(tmp_path / "run")]
    assert cli.run(command) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"harness: weights of {tmp_path.as_posix()}: no weights; looked for model.safetensors")


def test_tasks_and_models_are_listed_for_people_and_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["tasks"]) == 0
    assert "suite scenes: scenes_chair, scenes_pope, scenes_mme, scenes_mmhal" in capsys.readouterr().out
    assert cli.run(["tasks", "--json"]) == 0
    assert {task["name"] for task in json.loads(capsys.readouterr().out)["tasks"]} >= {"scenes_chair", "scenes_mmhal"}
    assert cli.run(["tasks", "show", "scenes_chair", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["headline"] == "chair_s"
    assert cli.run(["models", "--json"]) == 0
    models = {model["name"] for model in json.loads(capsys.readouterr().out)["models"]}
    assert models >= {"scenes-base", "silkie", "gpt-4v"}
    assert cli.run(["models"]) == 0
    assert "MMInstruction/Silkie" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    (
        ["train-then-eval", "scenes-demo"],
        ["train", "scenes-base"],
        ["eval", "--model", "scenes-base", "--tasks", "scenes"],
    ),
    ids=str,
)
def test_a_dry_run_touches_nothing(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert cli.run([*arguments, "--dry-run", "--out", str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    assert not out.exists()


def test_the_plan_of_the_demo_says_what_is_scored(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["train-then-eval", "scenes-demo", "--limit", "20", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "20 instructions from scenes" in said
    assert "2 checkpoints are scored and the control's last one" in said


def test_light_commands_load_no_heavy_library(tmp_path: Path) -> None:
    (tmp_path / "board").mkdir()
    heavy = {"torch", "lm_eval", "transformers", "trl", "datasets"}
    commands = ("--help", f"leaderboard {tmp_path}", "tasks", "models")
    for arguments in map(str.split, commands):
        code = (
            f"import sys; from harness.cli.main import run; run({arguments!r}); "
            f"print(sorted(set(sys.modules) & {heavy!r}), file=sys.stderr)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
        assert done.stderr.strip().splitlines()[-1] == "[]", arguments


def test_help_names_every_command() -> None:
    done = subprocess.run(
        [*HARNESS, "--help"], capture_output=True, text=True, check=True, env={"COLUMNS": "120", "NO_COLOR": "1"}
    )
    for command in ("eval", "train-then-eval", "train", "leaderboard", "check", "models", "tasks"):
        assert f" {command} " in done.stdout
    assert "\x1b[" not in done.stdout


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"harness {version('vlm-harness')}\n"


def test_a_user_without_a_home_is_told_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def find_nobody(user: int) -> None:
        raise KeyError(user)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", find_nobody)
    assert cli.run(["models"]) == 2
    assert "HOME is not set, and the system knows no home of user" in capsys.readouterr().err
