"""Which of several processes this one is, and child processes that end with the block that started them.

    if is_main_process(): write(report)                          # under torchrun or accelerate launch
    with ended_by_sigterm(), ChildProcess(command, log=path) as server:
        server.wait_until(lambda: answers(url), seconds=1800)    # ServerError, with the last lines of its output

The only place of the project that reads RANK, WORLD_SIZE and LOCAL_RANK.
"""

import contextlib
import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Final, Self

from support.errors import FAILED, ClusterError, ServerError
from support.secrets import redact


def rank() -> int:
    """Which process this is; 0 is the first, and the only one outside of torchrun or accelerate launch."""
    return _read_number("RANK", 0)


def local_rank() -> int:
    """Which of this machine's processes this is."""
    return _read_number("LOCAL_RANK", 0)


def world_size() -> int:
    """How many processes work together."""
    return _read_number("WORLD_SIZE", 1)


def _read_number(name: str, default: int) -> int:
    """A number that a launcher has put into the environment; ClusterError."""
    given = os.environ.get(name, "")
    if not given:
        return default
    if not (given.isascii() and given.isdigit() and len(given) < 10 and int(given) >= (name == "WORLD_SIZE")):
        raise ClusterError(f"{name}={given!r}: is set by torchrun and its like to a whole number; unset it")
    return int(given)


def is_main_process() -> bool:
    """True for the process that writes files and talks to the user."""
    return rank() == 0


WORLD: Final = "HARNESS_WORLD"
"""The variable by which our own launch tells a process how many were asked for."""


def is_launched() -> bool:
    """True if torchrun, accelerate launch or our own launch has started this process."""
    return WORLD in os.environ or "WORLD_SIZE" in os.environ


def device_of(kind: str) -> str:
    """This process's device of a kind ("cuda", "cpu")."""
    return f"{kind}:{local_rank()}" if kind != "cpu" and world_size() > 1 else kind


@contextmanager
def as_single_process() -> Iterator[None]:
    """Inside, libraries see a process that is alone."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK")
    held = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(held)


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Inside, SIGTERM raises SystemExit(143), so that blocks are left in order. Only in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _raise_system_exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _raise_system_exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def end_with_parent(every: float = 0.5) -> None:
    """End this process at once when the one that started it is gone; looked for every so many seconds.

    torchrun starts processes in sessions of their own: if it is killed, they would go on training, beside those of the
    same command run again.
    """
    parent = os.getppid()

    def end_when_gone() -> None:
        while os.getppid() == parent:
            time.sleep(every)
        os._exit(FAILED)

    threading.Thread(target=end_when_gone, daemon=True, name="end with parent").start()


def is_alive(pid: int) -> bool:
    """True if this machine has a process of this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def free_port(host: str = "") -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as free:
        free.bind((host, 0))
        return int(free.getsockname()[1])


def last_lines(log: Path, count: int = 5) -> str:
    """The last lines of a log that are not empty, joined by " | "; empty where there are none."""
    lines = [line.strip() for line in end_of(log).splitlines() if line.strip()]
    return " | ".join(lines[-count:])


def end_of(log: Path, size: int = 20_000) -> str:
    """The last `size` bytes of a file as text; empty where there is no file."""
    if not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - size))
        return file.read().decode("utf-8", "replace")


class ChildProcess:
    """A program that runs until it ends or the block is left. OSError if it can't be started.

    Output is appended to `log`, without secrets. `printed`: it is shown on this process's stdout and stderr too, until
    the user ends this process. On leaving the block the child gets SIGTERM, and after `grace` seconds SIGKILL.

    `own_group`: it has a process group of its own, which keys of the terminal (Ctrl-C) don't reach, and a supervisor
    (`support/supervisor.py`): with the child ends all that it has started, and all of it ends when this process does,
    however that was, so that no server outlives its user.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        printed: bool = False,
        own_group: bool = True,
        grace: float = 30.0,
        keep_open: Sequence[int] = (),
    ) -> None:
        self.command, self.log, self.grace, self.own_group = list(command), log, grace, own_group
        log.parent.mkdir(parents=True, exist_ok=True)
        if own_group and shutil.which(self.command[0]) is None:  # the supervisor would find out too late
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.command[0])
        self._file = log.open("ab")
        self._is_hidden = False
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-I", "-S", str(SUPERVISOR)] if own_group else self.command,
                env=None if environment is None else dict(environment),
                stdin=subprocess.PIPE if own_group else None,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE if printed else subprocess.STDOUT,
                start_new_session=own_group,
                pass_fds=tuple(keep_open),
                preexec_fn=None if own_group else _ignore_usr2,
            )
        except OSError:
            self._file.close()
            raise
        if self._child.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it has ended, which is found soon
                self._child.stdin.write(json.dumps({"command": self.command, "grace": grace}).encode() + b"\n")
                self._child.stdin.flush()
        self._copiers: list[threading.Thread] = []
        lock = threading.Lock()
        for source, shown in ((self._child.stdout, sys.stdout), (self._child.stderr, sys.stderr)):
            if source is not None:
                arguments = (source, shown if printed else None, lock)
                self._copiers.append(threading.Thread(target=self._copy, args=arguments, daemon=True))
                self._copiers[-1].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        # Launchers print a traceback of the signal that the user ends all with.
        self._is_hidden = kind is not None and not issubclass(kind, Exception)
        self.stop()

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative if a signal ended it."""
        return self._child.poll()

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        while self._child.poll() is None:
            time.sleep(0.05)  # Popen's own wait holds a KeyboardInterrupt back, while the child prints
        return self._child.returncode

    def wait_until(
        self,
        ready: Callable[[], bool],
        seconds: float,
        every: float = 0.2,
        *,
        shown: Callable[[float], object] = lambda waited: None,
        ended: "Callable[[ChildProcess], str] | None" = None,
    ) -> None:
        """Return once `ready()`; ServerError if the child ends first, or after so many seconds.

        `shown` is told how many seconds that takes; `ended` says in one line how the child has ended.
        """
        name, begun = Path(self.command[0]).name, time.monotonic()
        while not ready():
            if self.exit_code is not None:
                self._wait_for_output()
                said = f"{last_lines(self.log) or 'it printed nothing'} (log: {self.log})"
                raise ServerError(ended(self) if ended else f"{name} ended with code {self.exit_code}: {said}")
            waited = time.monotonic() - begun
            if waited > seconds:
                raise ServerError(f"{name} didn't answer within {seconds:g} s (log: {self.log})")
            shown(waited)
            time.sleep(every)

    def stop(self) -> None:
        """End it, and with `own_group` what it has started and left behind."""
        if self._child.poll() is None:
            self._child.terminate()
            try:
                self._child.wait(timeout=self.grace + (_SUPERVISED if self.own_group else 0))
            except subprocess.TimeoutExpired:
                self._kill()
                self._child.wait()
        if self.own_group:
            self._end_group()
        if self._child.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._child.stdin.close()
        self._wait_for_output()
        self._file.close()

    def _end_group(self) -> None:
        """End what is left of its group where the supervisor itself was killed."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, signal.SIGTERM)
            until = time.monotonic() + self.grace
            while time.monotonic() < until:
                os.killpg(self._child.pid, 0)
                time.sleep(0.05)
            os.killpg(self._child.pid, signal.SIGKILL)

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self.own_group:
                os.killpg(self._child.pid, signal.SIGKILL)
            else:
                self._child.kill()

    def _wait_for_output(self) -> None:
        for copier in self._copiers:
            copier.join(timeout=5)

    def _copy(self, source: IO[bytes], shown: IO[str] | None, lock: threading.Lock) -> None:
        """Copy output to the log and to the screen, as its lines come."""
        for line in _read_lines(source.fileno()):
            text = redact(line.decode("utf-8", "surrogateescape"))
            with lock, contextlib.suppress(OSError, ValueError):  # a full disk; closed: a process left behind prints
                self._file.write(text.encode("utf-8", "surrogateescape"))
                self._file.flush()
            with contextlib.suppress(OSError, ValueError):  # a terminal that is gone ends no training
                if shown is not None and not self._is_hidden:
                    shown.write(text.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
                    shown.flush()


def _read_lines(source: int) -> Iterator[bytes]:
    """What comes from a file descriptor, up to the last end of a line so far: in one piece a secret can be found."""
    rest = b""
    for piece in iter(lambda: os.read(source, 65536), b""):
        rest += piece
        end = max(rest.rfind(b"\n"), rest.rfind(b"\r")) + 1
        if not end and len(rest) > LONGEST_LINE:
            end = len(rest)
        if end:
            yield rest[:end]
            rest = rest[end:]
    if rest:
        yield rest


LONGEST_LINE: Final = 1 << 20
"""Bytes; more are no line."""


SUPERVISOR: Final = Path(__file__).with_name("supervisor.py")
_SUPERVISED: Final = 15.0
"""Seconds beyond `grace` that a supervisor has to end its processes."""


def _ignore_usr2() -> None:
    """Slurm sends SIGUSR2 to all processes of a job; it is for the launcher, which queues the job again."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
