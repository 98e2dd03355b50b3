"""A command, killed at random points and given again until it ends: what it ends with, what was paid, what it leaves.

campaign = Campaign(tmp_path, server, words, state)
campaign.run()                      # 20 kills; each round ends with the state of a run that nobody disturbed
campaign.rounds                     # of each round: kills, calls that were paid for, calls that were needed
"""

import fcntl
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq

from harness.cli.main import run
from tests.harness.scored_runs import HARNESS
from trainers.config.data import ASPECTS

JUDGE: Final = "gpt-4o-2024-11-20"
KILLS: Final = 20
SEED: Final = 17
AT_ONCE: Final = 4
"""Calls on their way at once, which a kill may lose."""
MOST_STARTS: Final = 80


def reply_to(prompt: str) -> str:
    """What the server says, by the prompt alone: ratings of VLFeedback where these are asked for, else one."""
    try:
        texts = json.loads(prompt.rsplit("\n", 1)[1])["texts"]
    except (ValueError, LookupError, TypeError):
        return f"Reasons.\nRating: {sum(map(ord, prompt)) % 7}"
    lines = []
    for aspect in ASPECTS:
        lines.append(f"#### {aspect} Assessment")
        for number, text in enumerate(texts, start=1):
            rating = 1 + sum(map(ord, text + aspect)) % 5
            lines.append(f"##### Output for Text {number}\nRating: {rating}\nRationale: so.")
    return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Round:
    """A run from its start to its end, over kills."""

    kills: int
    paid: int
    needed: int


@dataclass(kw_only=True)
class Campaign:
    """See the module's docstring."""

    folder: Path
    server: Any
    words: Callable[[Path], Sequence[str]]
    """The command of a round, given its folder."""
    state: Callable[[Path], Any]
    """What a round ends with."""
    rounds: list[Round] = field(default_factory=list)
    processes: list[int] = field(default_factory=list)
    """Numbers of all that were started."""
    rng: random.Random = field(default_factory=lambda: random.Random(SEED))

    def run(self) -> None:
        """Kill at `KILLS` points, and hold each round against the undisturbed run."""
        whole = self.folder / "whole"
        whole.mkdir()
        started = time.monotonic()
        self.finish(whole)
        seconds, wanted, needed = time.monotonic() - started, self.state(whole), self.paid_since(0)
        killed = starts = 0
        while killed < KILLS:
            folder, begun, kills, ended = self.folder / f"round-{len(self.rounds)}", len(self.server.log), 0, False
            folder.mkdir()
            with Reader(folder):
                while killed + kills < KILLS and not ended:
                    assert (starts := starts + 1) < MOST_STARTS, "it ends before it is killed"
                    ended = not self.kill(folder, seconds, killed + kills)
                    kills += not ended
                    check_readable(folder)
                if not ended:
                    self.finish(folder)
            killed += kills
            assert (found := self.state(folder)) == wanted, (found, wanted)
            self.check_payments(begun, needed, kills)
            check_leftovers(folder, self.processes)

    def start(self, folder: Path) -> "subprocess.Popen[bytes]":
        """The command in a session of its own, with its streams in a file."""
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        with (folder / "said.txt").open("ab") as said:
            streams: dict[str, Any] = {"stdout": said, "stderr": said, "start_new_session": True}
            process = subprocess.Popen([*HARNESS, *self.words(folder)], cwd=folder, env=environment, **streams)
        self.processes.append(process.pid)
        return process

    def finish(self, folder: Path) -> None:
        """The same command to its end."""
        assert self.start(folder).wait(timeout=900) == 0, (folder / "said.txt").read_text(errors="replace")[-3000:]

    def kill(self, folder: Path, seconds: float, number: int) -> bool:
        """Kill the command at a random moment, every fourth time by SIGTERM; False where it had ended before."""
        process = self.start(folder)
        try:
            code = process.wait(timeout=self.rng.random() * seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM if number % 4 == 3 else signal.SIGKILL)
            code = process.wait(timeout=300)
            return code != 0
        assert code == 0, (folder / "said.txt").read_text(errors="replace")[-3000:]
        return False

    def paid_since(self, begun: int) -> Counter[str]:
        """What the server answered since then, by what was asked."""
        log = [entry for entry in self.server.log[begun:] if entry["fault"] is None]
        return Counter(json.dumps([entry["model"], entry["messages"]]) for entry in log)

    def check_payments(self, begun: int, needed: Counter[str], kills: int) -> None:
        """Each call that was needed was paid for once, but for those on their way at a kill."""
        paid = self.paid_since(begun)
        self.rounds.append(Round(kills=kills, paid=paid.total(), needed=needed.total()))
        more = paid - needed
        assert paid.keys() == needed.keys()
        assert not needed - paid, needed - paid
        assert more.total() <= AT_ONCE * kills, (kills, paid.total(), needed.total(), more)


class Reader:
    """Reads a folder's files all the time; none may ever be seen in part."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ended = folder, threading.Event()
        self.torn: list[str] = []
        self.seen: dict[Path, int] = {}
        self.thread = threading.Thread(target=self._read_all, daemon=True)

    def __enter__(self) -> "Reader":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join(60)
        assert not self.torn, self.torn

    def _read_all(self) -> None:
        while not self.ended.wait(0.1):
            for path in sorted(self.folder.rglob("*")):
                try:
                    when = path.stat().st_mtime_ns
                    if path.name.startswith(".") or path.is_dir() or self.seen.get(path) == when:
                        continue
                    if path.parent.name.startswith("checkpoint-") and not (path.parent / "checkpoint.json").exists():
                        continue  # it counts once that is in it
                    self.seen[path] = when
                    read_whole(path)
                except FileNotFoundError:
                    continue
                except Exception as error:
                    self.torn.append(f"{path}: {error}")


def read_whole(path: Path) -> None:
    """Raises for a file of which a part is missing; of lines that are added to, the last may be on its way."""
    if path.suffix == ".json":
        json.loads(path.read_bytes())
    elif path.suffix == ".jsonl":
        for line in path.read_bytes().split(b"\n")[:-1]:
            json.loads(line)
    elif path.suffix == ".parquet":
        pq.read_table(path)
    elif path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, "pt") as tensors:
            list(tensors.keys())


def check_readable(folder: Path) -> None:
    """What the board shows between two kills is shown as usual, or told in a line."""
    for board in folder.rglob("board"):
        assert run(["leaderboard", str(board.parent), "--partial"]) in (0, 2)


def check_leftovers(folder: Path, processes: Sequence[int]) -> None:
    """No process, no lock that is held and no shared memory is left by a command that ended."""
    until = time.monotonic() + 30
    while (left := find_processes(folder)) and time.monotonic() < until:
        time.sleep(0.2)
    assert not left, left
    for path in folder.rglob(".*lock"):
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    mine = re.compile(rf"(?<!\d)({'|'.join(map(str, processes))})(?!\d)")  # torch names it by its process
    assert not (kept := [name for name in os.listdir("/dev/shm") if mine.search(name)]), kept
    assert not (left := [str(path) for path in folder.rglob("*") if ".tmp" in path.name]), left


def find_processes(folder: Path) -> list[str]:
    """Command lines of processes at work in a folder."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdecimal() and (process / "cwd").readlink() == folder:
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200])
        except OSError:
            continue
    return found
