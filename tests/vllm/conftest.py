"""A real vLLM: the one in VLLM_BIN, on the PATH, or what `make vllm` has installed; without one the tests are
skipped."""

import os
from pathlib import Path

import pytest

from harness.cli import main as cli
from harness.serving.settings import ServerSettings
from leaderboards.board.board import Board
from support.errors import ServerError

CPU = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}
FLAGS = {"enforce-eager": "true", "block-size": "32"}
"""Without compiled kernels a server starts in half a minute; a head of the embedded models is too small for others."""
SET = tuple(word for name, value in FLAGS.items() for word in ("--serve-set", f"{name}={value}"))


@pytest.fixture(scope="session")
def vllm() -> str:
    """Its path."""
    try:
        return ServerSettings().find_program()
    except ServerError as error:
        pytest.skip(f"no vLLM here: make vllm installs one ({error})")


@pytest.fixture(autouse=True)
def on_cpu(vllm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers run on CPUs; nothing is taken from an earlier run."""
    monkeypatch.chdir(tmp_path)
    for name, value in CPU.items():
        monkeypatch.setenv(name, os.environ.get(name, value))
    monkeypatch.setenv("VLLM_BIN", vllm)


def run(*words: object) -> int:
    """A command's exit code."""
    return cli.run([str(word) for word in words])


def answers(board: Path, model: str) -> dict[tuple[str, str], str | None]:
    """(task, question) -> answer of a model's newest run."""
    found = Board(board)
    runs = {entry.run for entry in found.current(partial=True) if entry.model == model}
    return {(each.task, each.id): each.answer for run in runs for each in found.samples(run)}
