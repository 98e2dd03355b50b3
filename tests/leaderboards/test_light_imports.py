import subprocess
import sys

import pytest

HEAVY = {"torch", "transformers", "lm_eval", "datasets", "tasks", "trainers", "harness"}


def loaded_by(module: str) -> set[str]:
    """Top-level packages in a fresh interpreter after importing `module`."""
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


def test_no_module_loads_the_rest_of_the_house_or_a_model_library() -> None:
    names = ("board.entry", "board.sample", "board.board", "statistics.verdict", "views.markdown_report", "gate.gate")
    assert not loaded_by(", ".join(f"leaderboards.{name}" for name in names)) & HEAVY


@pytest.mark.parametrize("module", ("leaderboards.board.entry", "leaderboards.board.board"))
def test_the_board_loads_nothing_but_the_standard_library(module: str) -> None:
    assert not loaded_by(module) & (HEAVY | {"numpy", "scipy", "pandas", "pyarrow", "tabulate"})
