"""Who asks what, among all processes and threads that share a ledger.

    token = claims.take(key)        # None: somebody else is asking
    claims.release(key, token)      # only who took it gives it back

A claim holds while its holder lives: a thread of the holder's renews it, whatever the calls wait for. It is void once
the holder is known to be gone (at once, where both run on one machine), or was not heard of for `VOID_AFTER` seconds:
it was killed on another machine, or suspended.
"""

import os
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Final

from support.errors import StoreError
from support.processes import is_alive
from support.sqlite import Store

BEAT: Final = 5.0
"""Seconds between two signs of life."""
VOID_AFTER: Final = 45.0
"""Seconds without one, after which all claims of a holder are void."""
FORGET_AFTER: Final = 24 * 3600.0
"""Seconds without one, after which a holder's row goes."""

TABLES: Final = {
    "holders": "holder TEXT PRIMARY KEY, place TEXT NOT NULL, pid INTEGER NOT NULL, started TEXT NOT NULL, "
    "beat REAL NOT NULL, expires REAL NOT NULL",
    "asking": "key TEXT PRIMARY KEY, holder TEXT NOT NULL, token TEXT NOT NULL",
}


class Claims:
    """See the module's docstring. Of one `Store`, and safe to use from several threads."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.holder = uuid.uuid4().hex
        self._place, self._started = _name_place(), _find_start(os.getpid())
        self._held: set[str] = set()
        self._lock = threading.Lock()
        self._beating = False
        self._beaten = float("-inf")
        """When this holder last showed that it lives."""
        self._ended = threading.Event()

    def take(self, key: str) -> str | None:
        """A new claim's token, or None where somebody alive has claimed the key."""
        if self.is_taken(key):  # without a lock of the file: processes ask this often while they wait
            return None
        token = uuid.uuid4().hex
        with self.store.writing():
            if self.is_taken(key):
                return None
            self.store.run("INSERT OR REPLACE INTO asking VALUES (?, ?, ?)", key, self.holder, token)
            self.show_life()
        with self._lock:
            self._held.add(token)
            if not self._beating:
                self._beating = True
                threading.Thread(target=self._beat, daemon=True, name="claims").start()
        return token

    def is_taken(self, key: str) -> bool:
        """Whether somebody alive has claimed the key."""
        held = self.store.run("SELECT holder FROM asking WHERE key = ?", key)
        return bool(held) and self.is_live(held[0][0])

    def holds(self, key: str, token: str) -> bool:
        """Whether a claim still is this holder's, which then shows that it lives: asked before each call, since nobody
        has heard of a process that was suspended."""
        if time.monotonic() - self._beaten < 2 * BEAT:
            return self._is_mine(key, token)
        with self.store.writing():
            mine = self._is_mine(key, token)
            self.show_life()
        return mine

    def _is_mine(self, key: str, token: str) -> bool:
        return bool(self.store.run("SELECT 1 FROM asking WHERE key = ? AND token = ?", key, token))

    def release(self, key: str, token: str) -> None:
        """Give up a claim; one that another process has taken over meanwhile stays."""
        with self._lock:
            self._held.discard(token)
        self.store.run("DELETE FROM asking WHERE key = ? AND token = ?", key, token)

    def is_live(self, holder: str) -> bool:
        """Whether a holder may still be at work."""
        found = self.store.run("SELECT place, pid, started, beat, expires FROM holders WHERE holder = ?", holder)
        if not found:
            return False
        if holder == self.holder:
            return True
        ((place, pid, started, beat, expires),) = found
        if place != self._place:
            return bool(expires > time.time())
        same = not started or started == _find_start(pid)  # else the number is another process's by now
        return is_alive(pid) and same and 0 <= time.monotonic() - beat < VOID_AFTER

    def show_life(self) -> None:
        """Keep that this holder lives now."""
        now, self._beaten = time.time(), time.monotonic()
        values = (self.holder, self._place, os.getpid(), self._started, self._beaten, now + VOID_AFTER)
        self.store.run("INSERT OR REPLACE INTO holders VALUES (?, ?, ?, ?, ?, ?)", *values)
        # Not by the clock where there is another way: one that jumps would void the claims of all.
        gone = "DELETE FROM holders WHERE CASE place WHEN ? THEN beat < ? ELSE expires < ? END"
        self.store.run(gone, self._place, self._beaten - FORGET_AFTER, now - FORGET_AFTER)

    def close(self) -> None:
        """Give up all claims, as far as the file can be written."""
        self._ended.set()
        with suppress(StoreError):
            self.store.run("DELETE FROM asking WHERE holder = ?", self.holder)

    def _beat(self) -> None:
        """Show life until no claim is held."""
        while not self._ended.wait(BEAT):
            with self._lock:
                if not self._held:
                    self._beating = False
                    return
            with suppress(StoreError):  # another process writes for long, or the disk is full: the next may succeed
                self.show_life()


def _name_place() -> str:
    """What is the same for two processes that see each other by number: the machine since it was started, and the name
    space of its processes, where there is such a thing."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return f"{uuid.getnode():x}"


def _find_start(pid: int) -> str:
    """When a process began, in its machine's own count; empty where that is not told."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[19]
    return ""
