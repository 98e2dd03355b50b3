"""Where a command would write is looked at before it does anything: one line, exit code 2, and nothing was made."""

import os
import shutil
from pathlib import Path

import pytest

from harness.cli.lazy import COMMANDS, load_command
from harness.cli.main import run
from support import full_disk

EVAL = ("eval", "--model", "scenes-base", "--tasks", "scenes_pope")
DATA = ("vlfeedback", "pairs", "data.jsonl")
FOLDERS: dict[str, tuple[str, ...]] = {
    "eval": (*EVAL, "--out"),
    "train-then-eval": ("train-then-eval", "scenes-demo", "--out"),
    "train": ("train", "silkie", "--out"),
    "attention": ("attention", "scenes-base", "--out"),
    "vlfeedback build": ("vlfeedback", "build", "--source", "scenes", "--pool", "scenes", "--out"),
    "vlfeedback annotate": ("vlfeedback", "annotate", "data.jsonl", "--out"),
    "models convert-llava": ("models", "convert-llava", "source", "--vision", "v"),
    "judge bench": ("judge", "bench", "scenes", "--out"),
    "leaderboard": ("leaderboard", "--output", "lm-eval", "--out"),
}
FILES: dict[str, tuple[str, ...]] = {
    "eval, answers": (*EVAL, "--answers"),
    "eval, ledger": (*EVAL, "--ledger"),
    "score, ledger": ("score", "mmhal", "data.jsonl", "--ledger"),
    "train-then-eval, ledger": ("train-then-eval", "scenes-demo", "--ledger"),
    "vlfeedback build, ledger": ("vlfeedback", "build", "--ledger"),
    "judge export": ("judge", "export"),
    "store rescue": ("store", "rescue", "data.jsonl"),
    "vlfeedback pairs": (*DATA, "--out"),
    "vlfeedback convert": ("vlfeedback", "convert", "data.jsonl"),
    "vlfeedback stats": ("vlfeedback", "stats", "data.jsonl", "--out"),
    "vlfeedback leaks": ("vlfeedback", "leaks", "data.jsonl", "--tasks", "scenes_pope", "--out"),
    "vlfeedback leaks, drop": ("vlfeedback", "leaks", "data.jsonl", "--tasks", "scenes_pope", "--drop"),
    "povid noise": ("povid", "noise", "a.png"),
    "check, junit": ("check", "--baseline", "b", "--junit"),
    "check, comment": ("check", "--baseline", "b", "--comment"),
    "leaderboard, html": ("leaderboard", "--html"),
}


def told(arguments: tuple[str, ...], path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    before = sorted(Path.cwd().rglob("*"))
    code = run([*arguments, str(path)])
    lines = capsys.readouterr().err.splitlines()
    assert code == 2, lines
    assert sorted(Path.cwd().rglob("*")) == before
    assert any(line.startswith("harness: ") for line in lines)
    return "\n".join(lines)


@pytest.mark.parametrize("command", (*FOLDERS, *FILES))
def test_an_output_below_a_file_is_refused_before_any_work(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    arguments = (FOLDERS | FILES)[command]
    assert "is a file, not a folder" in told(arguments, tmp_path / "file" / "out.json", capsys)
    if command in FOLDERS:
        assert "is a file" in told(arguments, tmp_path / "file", capsys)
    elif any(word in command for word in ("ledger", "answers", "check", "html")):
        (tmp_path / "folder").mkdir()
        assert "is a folder; give a file" in told(arguments, tmp_path / "folder", capsys)


@pytest.mark.parametrize("command", (*FOLDERS, *FILES))
def test_an_output_on_a_full_disk_is_refused_before_any_work(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(full_disk, "_measure_free", lambda place: 0.0)
    assert "no space is left on its disk" in told((FOLDERS | FILES)[command], tmp_path / "new" / "out.json", capsys)


@pytest.mark.parametrize("command", (*FOLDERS, *FILES))
def test_an_output_in_a_folder_of_others_is_refused_before_any_work(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    may = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path and may(path, mode))
    assert "nothing can be written in" in told((FOLDERS | FILES)[command], tmp_path / "new" / "out.json", capsys)


def test_a_process_substitution_is_a_place_to_write() -> None:
    assert not full_disk.is_full(Path("/proc/self/fd/1"))
    assert shutil.disk_usage("/proc").total == 0


def test_each_output_of_a_command_is_looked_at() -> None:
    """A command with an `out` is in the tables of `harness.cli.outputs`, or checks itself."""
    from harness.cli.outputs import FOLDERS as folders
    from harness.cli.outputs import PLACES as places

    known = {*folders, *places, "leaderboard", "import"}

    def find(command: object, words: str) -> list[str]:
        inner = getattr(command, "commands", {})
        own = [words] if any(param.name == "out" for param in command.params) and not inner else []  # type: ignore[attr-defined]
        return own + [one for name, sub in inner.items() for one in find(sub, f"{words} {name}")]

    assert not {words for name in COMMANDS for words in find(load_command(name), name)} - known
