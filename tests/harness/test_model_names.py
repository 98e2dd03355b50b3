"""What a model's row is called: once however its folder is spelled, by --name, and never by another model's name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from harness.cli.main import run
from harness.models.spec import WEIGHTS
from leaderboards.board.board import Board

FEW = ("--tasks", "scenes_pope", "--limit", "2", "--device", "cpu")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint in the working directory."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(WEIGHTS / "scenes-base", tmp_path / "runs" / "mine" / "checkpoint-3"))


@pytest.fixture
def evaluated(folder: Path) -> Callable[..., list[str]]:
    """`harness eval`, and the names that the board has then."""

    def evaluated(*given: str) -> list[str]:
        assert run(["eval", *given, *FEW, "--out", "out"]) == 0
        return sorted({entry.model for entry in Board(Path("out/board")).current(partial=True)})

    return evaluated


def test_a_folder_is_one_model_however_it_is_spelled(
    folder: Path,
    evaluated: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("link").symlink_to(folder)
    monkeypatch.setenv("HOME", str(folder.parents[1]))
    assert evaluated("--model", "./runs/mine/checkpoint-3/") == ["runs/mine/checkpoint-3"]
    for spelled in (str(folder), "link", "runs/mine/../mine/checkpoint-3", "~/mine/checkpoint-3"):
        capsys.readouterr()
        assert evaluated("--model", spelled) == ["runs/mine/checkpoint-3"]
        assert "already on the board" in capsys.readouterr().err, spelled


def test_a_board_that_knows_a_folder_by_another_spelling_keeps_it(
    folder: Path, evaluated: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated("--model", "runs/mine/checkpoint-3", "--name", str(folder))
    assert evaluated("--model", "runs/mine/checkpoint-3") == [str(folder)]
    assert "already on the board" in capsys.readouterr().err


def test_a_name_is_the_rows_on_boards_in_comparisons_and_in_the_gate(
    evaluated: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--model", "scenes-early", "--model", "scenes-careful", "--name", "before", "--name", "after, tuned")
    assert evaluated(*given) == ["after, tuned", "before"]
    capsys.readouterr()
    assert run(["compare", "before", "after, tuned", "--board", "out", "--partial"]) == 0
    assert "before → after, tuned" in capsys.readouterr().out
    gate = ["check", "--baseline", "out/board", "--board", "out/board", "--partial"]
    for more, others in ((("--name", "before"), False), ((), True)):
        run([*gate, *more])
        said = capsys.readouterr().out
        assert "before scenes_pope" in said
        assert ("after, tuned scenes_pope" in said) == others
    assert run([*gate, "--name", "befor"]) == 2
    assert "--name 'befor': no such model (did you mean 'before'?)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    (
        (("--name", "a", "--name", "b"), "--name is given 2 times for 1 models"),
        (("--name", " "), "--name ' ': must be one line"),
        (("--name", "a\nb"), "must be one line of text"),
        (("--model", "scenes-base"), "'scenes-base' is the name of several of these models; give each"),
        (("--model", "scenes-early", "--name", "a", "--name", "a"), "'a' is the name of several"),
    ),
)
def test_names_that_are_none_are_refused(
    given: tuple[str, ...], said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["eval", "--model", "scenes-base", *given, *FEW]) == 2
    assert said in capsys.readouterr().err


def test_a_base_is_not_scored_under_an_adapters_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = folder.parent / "lora"
    adapter.mkdir()
    config = {"peft_type": "LORA", "base_model_name_or_path": "llava-hf/llava-1.5-7b-hf"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    save_file({"x.lora_A.weight": np.zeros((1, 1), np.float32)}, adapter / "adapter_model.safetensors")
    assert run(["eval", "--model", str(adapter), "--model-path", str(folder), *FEW]) == 2
    assert f"would score its base without it; name the base by --model-base {folder}" in capsys.readouterr().err
    assert run(["eval", "--model", "someone/lora", "--model-path", str(folder), *FEW]) == 2
    assert f"--model {folder} --name someone/lora" in capsys.readouterr().err
    assert run(["eval", "--model", str(adapter), "--base", str(folder), *FEW, "--dry-run"]) == 0
    assert f"score runs/mine/lora ({folder})" in capsys.readouterr().out


def test_a_key_is_named_for_one_server(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("MY_KEY", "GEMINI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, f"sk-of-{name.lower()}")
    command = ["eval", "--model", "gemini:gemini-3.5-flash", "--model", "anthropic:claude-opus-4.8", *FEW, "--dry-run"]
    assert run([*command, "--model-key-env", "MY_KEY"]) == 2
    assert "--model-key-env is for one server" in capsys.readouterr().err
    assert run(command) == 0
