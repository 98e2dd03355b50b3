"""Ctrl-C and SIGTERM at any moment of a command's start: 130 and 143, no traceback; streams that end."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

MAIN = "import sys; sys.argv[0] = 'harness'; from harness.cli.main import main; main()"
SEND = """
import os, signal, sys, threading
signal.signal(signal.SIGINT, signal.default_int_handler)
class Sender:
    def find_spec(self, name, *_):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Sender())
"""
EVAL = ("eval", "--model", "scenes-base", "--tasks", "scenes_pope", "--limit", "2")
MOMENTS = (
    (("--help",), "harness.cli.application"),
    (("--help",), "typer"),
    (("--help",), "rich.console"),
    (("leaderboard", "--help"), "harness.cli.leaderboard"),
    (("leaderboard",), "leaderboards.board.board"),
    (EVAL, "harness.cli.evaluate"),
    (EVAL, "numpy"),
    (EVAL, "torch"),
    pytest.param(EVAL, "lm_eval", marks=pytest.mark.slow),
    (("train-then-eval", "scenes-demo", "--out", "run"), "torch"),
)
"""A command, and the module whose import a signal meets."""


def run(code: str, arguments: tuple[str, ...], folder: Path, **more: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=folder, text=True, capture_output=True, timeout=120, **more)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize(("sent", "codes"), ((signal.SIGINT, (130,)), (signal.SIGTERM, (143, -signal.SIGTERM))))
@pytest.mark.parametrize(("arguments", "module"), MOMENTS)
def test_a_signal_during_the_start_ends_it_without_a_traceback(
    arguments: tuple[str, ...], module: str, sent: signal.Signals, codes: tuple[int, ...], tmp_path: Path
) -> None:
    done = run(SEND.format(module=module, number=int(sent)) + MAIN, arguments, tmp_path)
    assert done.returncode in codes
    assert "Traceback" not in done.stderr
    assert "ignored" not in done.stderr


def test_an_error_that_an_interrupt_became_is_the_interrupt(tmp_path: Path) -> None:
    """numpy's import turns a KeyboardInterrupt into an ImportError of many lines."""
    become = """
import os, signal
from harness.cli import application, leaderboard
def stop(*_, **__):
    try:
        os.kill(os.getpid(), signal.SIGINT)
        while True: pass
    except BaseException:
        raise ImportError("numpy failed to\\nimport") from None
    finally:
        class Late:
            def __del__(self): raise ValueError("late")
        Late()
application.root_command = lambda: type("Root", (), {"main": staticmethod(stop)})
application.end_in_order()
"""
    done = run(become + MAIN, ("eval",), tmp_path)
    assert done.returncode == 130
    kept = "the answers and the judge's replies so far, and the scores of finished models"
    assert done.stderr == f"harness: stopped; kept: {kept}; go on with: harness eval\n"


def test_a_mistake_in_the_code_is_one_line_and_a_traceback_with_v(tmp_path: Path) -> None:
    become = """
from harness.cli import application
def fail():
    raise {error}
application.end_in_order = fail
"""
    for error, told in (("KeyError('a\\nb')", "KeyError: 'a\\nb'"), ("EOFError('Ran out')", "EOFError: Ran out")):
        done = run(become.format(error=error) + MAIN, ("models",), tmp_path)
        (line,) = done.stderr.split("\n")[-2:-1]
        assert done.returncode == 1
        assert line.startswith(f"harness: {told}: a mistake in harness, which -v shows the place of")
        assert "Traceback" not in done.stderr
        assert "in fail" in run(become.format(error=error) + MAIN, ("-v", "models"), tmp_path).stderr


def in_a_shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of bash, in which `h` is the command; the exit code is that of the first command of a pipe."""
    return subprocess.run(
        ["bash", "-c", f'h() {{ "{sys.executable}" -c "$MAIN" "$@"; }}; {line}'],
        cwd=folder,
        env=os.environ | {"MAIN": MAIN},
        text=True,
        capture_output=True,
        timeout=120,
    )


SHELL = {
    "a reader that ends": ("set -o pipefail; h models | true", 141, ""),
    "a reader of help that ends": ("set -o pipefail; h eval --help | true", 141, ""),
    "a full disk": ("h models >/dev/full", 1, "no space left"),
    "no stdout": ("h models >&-", 0, ""),
    "no stderr": ("h eval --limit x 2>&-", 2, ""),
    "a full stderr": ("h eval --limit x 2>/dev/full", 2, ""),
    "no streams": ("h models <&- >&- 2>&-", 0, ""),
    "signs that stdout lacks": ("PYTHONIOENCODING=ascii h eval --help >/dev/null", 0, ""),
    "a folder that is gone": ("mkdir a; cd a; rmdir ../a; h models", 2, "the current folder is not there any more"),
    "no home": ("env -u HOME bash -c 'true'; unset HOME; h models >/dev/null", 0, ""),
    "rank": ("RANK=abc h models", 2, "RANK='abc': is set by torchrun"),
    "columns": ("COLUMNS=abc h models >/dev/null", 0, ""),
    "columns below 0": ("COLUMNS=-5 h --help >/dev/null", 0, ""),
    "terminal": ("TERM=none-such h --help >/dev/null", 0, ""),
    "limit": ("HARNESS_LIMIT=1e400 h eval --model x", 2, "Invalid value for '--limit' (env var: 'HARNESS_LIMIT')"),
    "names that are no text": (r"h models $'\xff'", 2, "'\\udcff'"),
}


@pytest.mark.parametrize("kind", SHELL)
def test_streams_and_variables_of_any_kind_end_in_one_line(kind: str, tmp_path: Path) -> None:
    line, code, told = SHELL[kind]
    done = in_a_shell(line, tmp_path)
    assert done.returncode == code, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("harness: ")]) == bool(told)
