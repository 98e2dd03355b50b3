"""Whatever ends a run, its server, or the server's engine: no process and no shared memory is left."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.supervisor import descendants, shared_memory_of
from tests.slurm.cluster import is_running, soon
from tests.vllm.conftest import SET

pytestmark = pytest.mark.slow


class Run:
    """A `harness eval` that serves its model, once its server answers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        words = ("eval", "--model", "scenes-base", "--tasks", "scenes", "--serve", "vllm", *SET)
        words += ("--ledger", str(folder / "l.sqlite"), "--out", str(folder))
        program = "import sys; from harness.cli.main import main; main()"
        # Tests of pytest-xdist and the like ignore SIGINT, which children would inherit.
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        self.said: list[str] = []
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            if "answers after" in line:
                break
        assert self.process.poll() is None, self.said
        time.sleep(0.5)
        self.children = {pid: name_of(pid) for pid in descendants(self.process.pid)}
        self.shared = {path for pid in self.children for path in shared_memory_of(pid)}

    def find(self, what: str) -> int:
        """The one process of it with such a command line."""
        (found,) = (pid for pid, name in self.children.items() if re.search(what, name))
        return found

    def end(self) -> tuple[int, str]:
        """Exit code and what it has said, once it has ended."""
        assert self.process.stderr is not None
        said = "".join(self.said) + self.process.stderr.read()
        return self.process.wait(timeout=120), said

    def left(self) -> list[str]:
        """Its processes and shared memory that are still there."""
        alive = [f"{pid} {name}" for pid, name in self.children.items() if is_running(pid)]
        return alive + [path for path in self.shared if Path(path).exists()]


def name_of(pid: int) -> str:
    """A process's command line."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def harness(run: Run) -> int:
    return run.process.pid


def server(run: Run) -> int:
    return run.find(r"vllm serve")


def engine(run: Run) -> int:
    return run.find(r"VLLM::EngineCore")


@pytest.mark.parametrize(
    ("whom", "sent"),
    (
        (harness, signal.SIGTERM),
        (harness, signal.SIGINT),
        (harness, signal.SIGKILL),
        (server, signal.SIGTERM),
        (server, signal.SIGKILL),
        (engine, signal.SIGKILL),
    ),
    ids=("run TERM", "run INT", "run KILL", "server TERM", "server KILL", "engine KILL"),
)
def test_nothing_is_left(whom: Callable[[Run], int], sent: signal.Signals, tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert len(run.children) >= 4  # supervisor, server, engine, worker
    assert run.shared
    os.kill(whom(run), sent)
    code, said = run.end()
    if whom is harness:
        assert code == {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -9}[sent]
    else:
        assert code in (1, 4), said
    assert soon(lambda: not run.left(), 60), run.left()


def test_two_runs_at_once_do_not_meet(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    runs = []
    words = ("eval", "--model", "scenes-base", "--tasks", "scenes_pope", "--limit", "20", "--serve", "vllm", *SET)
    program = "from harness.cli.main import main; main()"
    for folder in folders:
        command = [sys.executable, "-c", program, *words, "--ledger", str(folder / "l.sqlite"), "--out", str(folder)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        runs.append(subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True))
    for process in runs:
        _, said = process.communicate(timeout=600)
        assert process.returncode == 0, said
