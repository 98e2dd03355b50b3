"""A user at a terminal: commands as they are typed, what they print, and a kill -9 in the middle."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from harness.cli import main as cli

ROOT: Final = Path(__file__).parents[2]
COMMAND: Final = "import sys; from harness.cli.main import main; sys.argv[0] = 'harness'; main()"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class User:
    """Types commands in one folder; `names` stand in them as {name}."""

    folder: Path
    capsys: pytest.CaptureFixture[str]
    names: dict[str, object]

    def words(self, line: str) -> list[str]:
        """The words behind `harness`."""
        return shlex.split(line.format(**self.names))

    def types(self, line: str, code: int = 0) -> Seen:
        """Run a command, which ends with this exit code, and with no traceback."""
        self.capsys.readouterr()
        got = cli.run(self.words(line))
        out, err = self.capsys.readouterr()
        assert got == code, f"harness {line}\n{out}\n{err}"
        assert "Traceback" not in err
        return Seen(code=got, out=out, err=err)

    def kills(self, line: str, reached: Callable[[], bool]) -> None:
        """Start a command in a process of its own, and kill it as soon as `reached`."""
        with subprocess.Popen(
            [sys.executable, "-c", COMMAND, *self.words(line)],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as running:
            while not reached() and running.poll() is None:
                time.sleep(0.01)
            assert running.poll() is None, f"it was over ({running.returncode}) before it could be killed"
            os.killpg(running.pid, signal.SIGKILL)
        assert running.returncode == -signal.SIGKILL
