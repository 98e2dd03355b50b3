"""Jobs in tests: processes here, or a real Slurm of one node (`one_node.sh`); waiting for what happens elsewhere."""

import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

CLUSTERS = (pytest.param("local"), pytest.param("slurm", marks=pytest.mark.slow))
"""For `parametrize("cluster", CLUSTERS, indirect=True)`."""


def slurm_missing() -> str | None:
    """Why jobs can't be submitted here; None where they can."""
    if shutil.which("sbatch") is None:
        return "no sbatch on the PATH"
    command = ["sinfo", "--noheader", "--format", "%a"]
    asked = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return None if asked.returncode == 0 and "up" in asked.stdout else "no Slurm controller answers"


def soon(happened: Callable[[], object], within: float = 60) -> bool:
    """True once it has happened; False after so many seconds."""
    until = time.monotonic() + within
    while not happened():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def is_running(pid: int) -> bool:
    """True for a process that has not ended, waited for or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
