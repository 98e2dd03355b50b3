"""Runs a program, and ends it with all that it has started: once it ends, once SIGTERM asks for it, or once the process
that wanted it is gone, however that ended.

A script of its own, started as `python -I supervisor.py` by `support.processes.ChildProcess` in a session of its own;
it imports nothing of the project. The first line of its stdin is a JSON object: `command`, a list of words, and
`grace`, the seconds between SIGTERM and SIGKILL. stdin ends when the starting process is gone. It ends as the program
ended: by its exit code, or by its signal; 127 where the program can't be started.

Shared memory that the program's processes had and left behind (on Linux: what they map of /dev/shm) is removed once no
process has it.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

_LINUX: Final = sys.platform == "linux"
_SET_PDEATHSIG: Final = 1
_SET_CHILD_SUBREAPER: Final = 36
_LOOK: Final = 0.2
"""Seconds between two looks at the program and at who started this process."""
_NOTE: Final = 2.0
"""Seconds between two notes of the shared memory in use."""
_REST: Final = 5.0
"""Seconds that processes get which outlive their program, before SIGKILL."""
_SHARED: Final = "/dev/shm/"


class Supervisor:
    """One program and its processes."""

    def __init__(self, command: list[str], grace: float) -> None:
        self.grace, self.parent = grace, os.getppid()
        self.told = False
        """Whether SIGTERM has come."""
        self.status: int | None = None
        """How the program has ended, as waitpid tells it."""
        self.shared: dict[str, tuple[int, int]] = {}
        """Files of shared memory that its processes had -> device and inode."""
        signal.signal(signal.SIGTERM, self._note_sigterm)
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        prctl = _find_prctl()
        if prctl is not None:  # what outlives its own parent becomes this process's child
            prctl(_SET_CHILD_SUBREAPER, 1)
        before = partial(_become_program, prctl)
        self.child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=before)

    def run(self) -> int:
        """Until all is over; how the program has ended."""
        noted = 0.0
        while self.status is None and not self.told and not self._is_alone():
            if time.monotonic() - noted > _NOTE:
                self._note_shared_memory()
                noted = time.monotonic()
            self._reap()
        self._note_shared_memory()
        _signal_group(signal.SIGTERM)
        self._wait_for_all()
        while self._kill_all() or self.status is None:
            self._reap()
        self._remove_shared_memory()
        return self.status or 0

    def _note_sigterm(self, number: int, frame: object) -> None:
        self.told = True

    def _is_alone(self) -> bool:
        """Whether the process that wanted the program is gone; waits a moment if not."""
        if os.getppid() != self.parent:
            return True
        with contextlib.suppress(InterruptedError):
            readable, _, _ = select.select([0], [], [], _LOOK)
            return bool(readable) and not os.read(0, 1)
        return False

    def _wait_for_all(self) -> None:
        """Until no process is left; the program has `grace` seconds for its end, the others some more."""
        until = time.monotonic() + self.grace
        while self.status is None and time.monotonic() < until:
            self._reap()
            time.sleep(0.02)
        until = min(until, time.monotonic() + _REST)
        while self._reap() and time.monotonic() < until:
            self._note_shared_memory()
            time.sleep(0.05)

    def _reap(self) -> bool:
        """Note which processes have ended; True while some are left."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return True
                if pid == self.child.pid:
                    self.status = status
                    self.child.returncode = os.waitstatus_to_exitcode(status)
        return False

    def _kill_all(self) -> bool:
        """SIGKILL to every process that is left; False where there was none, or they can't be told one by one."""
        if not _LINUX:
            if self._reap():
                _signal_group(signal.SIGKILL)  # this process, too
            self.status = self.status or 0
            return False
        left = list(descendants(os.getpid()))
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
        return bool(left)

    def _note_shared_memory(self) -> None:
        if _LINUX:
            for pid in descendants(os.getpid()):
                for path in shared_memory_of(pid) - self.shared.keys():
                    with contextlib.suppress(OSError):
                        found = os.stat(path)
                        self.shared[path] = (found.st_dev, found.st_ino)

    def _remove_shared_memory(self) -> None:
        """Remove the noted files that are still the same, this user's, and no process's."""
        left = {}
        for path, same in self.shared.items():
            with contextlib.suppress(OSError):
                found = os.stat(path)
                if (found.st_dev, found.st_ino) == same and found.st_uid == os.getuid():
                    left[path] = same
        if not left:
            return
        used = {path for pid in _all_processes() for path in shared_memory_of(pid)}
        for path in left.keys() - used:
            with contextlib.suppress(OSError):
                os.unlink(path)


def _find_prctl() -> Callable[..., object] | None:
    """Linux's prctl; None elsewhere."""
    if not _LINUX:
        return None
    import ctypes  # before any fork: a child must not import

    found: Callable[..., object] = ctypes.CDLL(None).prctl
    return found


def _become_program(prctl: Callable[..., object] | None) -> None:
    """What the program's process does before it starts: it gets SIGTERM when the supervisor is gone."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    if prctl is not None:
        prctl(_SET_PDEATHSIG, int(signal.SIGTERM))


def _signal_group(number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(os.getpgrp(), number)


def _all_processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]


def descendants(root: int) -> Iterator[int]:
    """The processes that one has started, and theirs, as far as they have not ended."""
    children: dict[int, list[int]] = {}
    for pid in _all_processes():
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
            if fields[0] != "Z":
                children.setdefault(int(fields[1]), []).append(pid)
    waiting = list(children.get(root, ()))
    while waiting:
        pid = waiting.pop()
        yield pid
        waiting += children.get(pid, ())


def shared_memory_of(pid: int) -> set[str]:
    """The files of shared memory that a process has."""
    found = set()
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/maps").read_text(errors="surrogateescape").splitlines():
            path = line.partition("/")[2]
            if f"/{path}".startswith(_SHARED) and not path.endswith(" (deleted)"):
                found.add(f"/{path}")
    return found


def main() -> None:
    """Read what to run, run it, and end as it ended."""
    wanted = json.loads(sys.stdin.buffer.readline())
    try:
        status = Supervisor(wanted["command"], wanted["grace"]).run()
    except OSError as error:
        print(f"{wanted['command'][0]}: {error.strerror}", file=sys.stderr)
        sys.exit(127)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    main()
