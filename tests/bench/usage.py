"""What a command takes: wall seconds, CPU seconds, and its peak memory, each child's own.

Linux counts the memory of the process that starts a program into the program's `ru_maxrss`: a child of pytest that
holds 4 GB has a "peak" of 4 GB. So a small process starts the command (about 10 MB, the least that can be measured)
and asks what the command has taken.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_START = """
import json, os, sys, time
began = time.perf_counter()
pid = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(pid, 0)
found = {
    "status": os.waitstatus_to_exitcode(status),
    "seconds": time.perf_counter() - began,
    "cpu_seconds": usage.ru_utime + usage.ru_stime,
    "peak_mb": usage.ru_maxrss / 1024,
}
with open(sys.argv[1], "w") as file:
    json.dump(found, file)
"""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What one command took."""

    seconds: float
    """Wall-clock."""

    cpu_seconds: float
    """Of its process and of all that this has started and waited for."""

    peak_mb: float
    """The most resident memory of the largest of these processes, in MiB."""


def usage_of(command: Sequence[str | Path]) -> Usage:
    """Runs it, an absolute path and its arguments, without its output; AssertionError unless it ends with 0."""
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "usage.json"
        subprocess.run(
            [sys.executable, "-I", "-S", "-c", _START, told, *command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        found = json.loads(told.read_text(encoding="utf-8"))
    status = found.pop("status")
    assert status == 0, f"{command[0]} ended with {status}"
    return Usage(**found)
