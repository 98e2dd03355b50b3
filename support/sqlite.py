"""SQLite files that several processes share: opened in one way, with errors that name the file."""

import sqlite3
import time
from pathlib import Path
from typing import Final

from support.errors import StoreError

WAIT: Final = 60.0
"""Seconds to wait for another process's write."""


def open_shared(path: Path, what: str) -> sqlite3.Connection:
    """A connection for use by several threads, in autocommit mode with a write-ahead log; StoreError.

    `what` the file is stands in the error. Each statement is durable once it returns, and text may hold half a
    surrogate pair, which models do write.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=WAIT, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"{path}: can't be opened as {what}: {error}") from None
    connection.text_factory = lambda data: data.decode("utf-8", "surrogatepass")
    try:
        _write_ahead(connection)
        connection.execute("PRAGMA synchronous=NORMAL")
    except sqlite3.Error as error:
        connection.close()
        raise StoreError(f"{path}: can't be used as {what}: {error}") from None
    return connection


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Switch to WAL mode. While another process switches, SQLite says "locked" at once, whatever the timeout."""
    until = time.monotonic() + WAIT
    while True:
        try:
            if connection.execute("PRAGMA journal_mode=WAL").fetchone()[0] == "wal":
                return
        except sqlite3.OperationalError:
            if time.monotonic() > until:
                raise
        time.sleep(0.02)
