"""SQLite files that several processes and threads share."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from support.errors import StoreError
from support.sqlite import open_shared

WRITER = """
import sys
from pathlib import Path
from support.sqlite import open_shared
connection = open_shared(Path(sys.argv[1]), "a test")
connection.execute("CREATE TABLE IF NOT EXISTS rows (name TEXT)")
for number in range(50):
    connection.execute("INSERT INTO rows VALUES (?)", (f"{sys.argv[2]}-{number}",))
"""


def test_processes_that_open_and_write_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "rows.sqlite"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(number)]) for number in range(4)]
    assert [writer.wait(timeout=60) for writer in writers] == [0] * 4
    ((count,),) = open_shared(path, "a test").execute("SELECT COUNT(DISTINCT name) FROM rows").fetchall()
    assert count == 200


def test_a_statement_is_seen_by_others_once_it_returns(tmp_path: Path) -> None:
    one, other = (open_shared(tmp_path / "rows.sqlite", "a test") for _ in range(2))
    one.execute("CREATE TABLE rows (name TEXT)")
    thread = threading.Thread(target=one.execute, args=("INSERT INTO rows VALUES ('a')",))
    thread.start()
    thread.join()
    assert other.execute("SELECT name FROM rows").fetchall() == [("a",)]
    assert one.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_text_may_hold_half_a_surrogate_pair(tmp_path: Path) -> None:
    connection = open_shared(tmp_path / "rows.sqlite", "a test")
    connection.execute("CREATE TABLE rows (name TEXT)")
    half = "a\ud83d"
    connection.execute("INSERT INTO rows VALUES (CAST(? AS TEXT))", (half.encode("utf-8", "surrogatepass"),))
    assert connection.execute("SELECT name FROM rows").fetchone() == (half,)


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.sqlite"
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreError, match=r"rows\.sqlite: can't be used as a test: file is not a database"):
        open_shared(path, "a test")
    with pytest.raises(StoreError, match=r"rows\.sqlite/x: can't be opened as a test"):
        open_shared(path / "x", "a test")
