"""SQLite files that several processes and threads share: claimed by a mark, with errors of one line."""

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

from support import full_disk, sqlite
from support.errors import StoreError
from support.sqlite import Schema, Store, count_rows, find_damage, identify, rescue

ROWS = Schema(
    what="a test",
    mark="TEST",
    tables={"rows": "name TEXT, number INTEGER NOT NULL DEFAULT 7", "others": "name TEXT"},
    later={"rows": {"number": "INTEGER NOT NULL DEFAULT 7"}},
    before={"rows": ("name",)},
)
OTHER = Schema(what="another test", mark="OTHR", tables={"things": "name TEXT"})

WRITER = """
import sys
from pathlib import Path
from support.sqlite import Schema, Store
with Store(Path(sys.argv[1]), Schema(what="a test", mark="TEST", tables={"rows": "name TEXT"})) as store:
    for number in range(50):
        store.run("INSERT INTO rows VALUES (?)", f"{sys.argv[2]}-{number}")
"""
IN_A_TRANSACTION = """
import os, signal, sys
from pathlib import Path
from support.sqlite import Schema, Store
store = Store(Path(sys.argv[1]), Schema(what="a test", mark="TEST", tables={"rows": "name TEXT"}))
with store.writing():
    store.run("INSERT INTO rows (name) VALUES ('lost')")
    print("in", flush=True)
    sys.stdin.readline()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(path: Path) -> list[str]:
    with Store(path, ROWS) as store:
        return [name for (name,) in store.run("SELECT name FROM rows ORDER BY name")]


def test_processes_that_open_and_write_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "rows.sqlite"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(number)]) for number in range(4)]
    assert [writer.wait(timeout=60) for writer in writers] == [0] * 4
    assert len(set(names(path))) == 200


def test_a_statement_is_seen_by_others_once_it_returns(tmp_path: Path) -> None:
    one, other = (Store(tmp_path / "rows.sqlite", ROWS) for _ in range(2))
    thread = threading.Thread(target=one.run, args=("INSERT INTO rows VALUES ('a', 1)",))
    thread.start()
    thread.join()
    assert other.run("SELECT name FROM rows") == [("a",)]
    assert one.run("PRAGMA journal_mode") == [("wal",)]


def test_text_may_hold_half_a_surrogate_pair(tmp_path: Path) -> None:
    with Store(tmp_path / "rows.sqlite", ROWS) as store:
        store.run("INSERT INTO rows VALUES (?, ?)", "a\ud83d", 3)
        assert store.run("SELECT * FROM rows WHERE name = ? AND number = ?", "a\ud83d", 3) == [("a\ud83d", 3)]


def test_a_transaction_is_taken_back_if_its_block_raises(tmp_path: Path) -> None:
    with Store(tmp_path / "rows.sqlite", ROWS) as store:
        with suppress(KeyboardInterrupt), store.writing():
            store.run("INSERT INTO rows (name) VALUES ('a')")
            raise KeyboardInterrupt
        with store.writing():
            store.run("INSERT INTO rows (name) VALUES ('b')")
    assert names(tmp_path / "rows.sqlite") == ["b"]


def test_a_process_killed_within_a_transaction_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.sqlite"
    command = [sys.executable, "-c", IN_A_TRANSACTION, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "in\n"
        monkeypatch.setattr(sqlite, "WAIT", 0.1)
        waits = Store(path, Schema(what="a test", mark="TEST", tables={"rows": "name TEXT"}))
        with waits, pytest.raises(StoreError, match=rf"locked: held for 0\.1 s by process {holder.pid}; end it"):
            waits.run("INSERT INTO rows VALUES ('waits')")
        holder.stdin.write("\n")
        holder.stdin.flush()
    assert names(path) == []


def test_what_a_version_adds_is_added_to_files_of_before(tmp_path: Path) -> None:
    path = tmp_path / "rows.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.executescript("CREATE TABLE rows (name TEXT); INSERT INTO rows VALUES ('kept'); CREATE TABLE mine (a)")
    for _ in range(2):
        with Store(path, ROWS) as store:
            assert store.run("SELECT * FROM rows") == [("kept", 7)]
            assert store.run("SELECT * FROM others") == []
            assert store.run("PRAGMA application_id") == [(int.from_bytes(b"TEST", "big"),)]
    assert identify(path, [OTHER, ROWS]) is ROWS


def other_program(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript("PRAGMA journal_mode=WAL; CREATE TABLE people (name TEXT); INSERT INTO people VALUES ('a')")


def other_in_its_log(path: Path) -> None:
    """A copy of a file whose tables are in its log only."""
    with closing(sqlite3.connect(path.with_name("first"))) as db:
        db.executescript("PRAGMA journal_mode=WAL; CREATE TABLE people (name TEXT)")
        shutil.copy(path.with_name("first"), path)
        shutil.copy(path.with_name("first-wal"), path.with_name(path.name + "-wal"))


def other_mark(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript("PRAGMA application_id = 77; VACUUM")


def other_version(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript("PRAGMA user_version = 3; VACUUM")


def like_ours(path: Path) -> None:
    """The name of our table, not its columns."""
    with closing(sqlite3.connect(path)) as db:
        db.executescript("CREATE TABLE rows (number INTEGER)")


def later_version(path: Path) -> None:
    Store(path, ROWS).close()
    with closing(sqlite3.connect(path)) as db:
        db.executescript("PRAGMA user_version = 99")


FOREIGN: dict[str, tuple[Callable[[Path], object], str]] = {
    "another program's": (other_program, "is another program's file, not a test; name another"),
    "another program's, in its log": (other_in_its_log, "is another program's file"),
    "another program's, empty": (other_mark, "is another program's file"),
    "another program's, empty, of a version": (other_version, "is another program's file"),
    "another program's of like names": (like_ours, "is another program's file"),
    "another of our stores": (lambda path: Store(path, OTHER).close(), "is another program's file, not a test"),
    "of a later version": (later_version, "its schema is 99, this harness knows 1: move it away, or use its harness"),
    "a text": (lambda path: path.write_text("notes"), "can't be used as a test: file is not a database; name another"),
    "a long text": (lambda path: path.write_text("notes " * 999), "file is not a database"),
    "a folder": (lambda path: path.mkdir(), "can't be used as a test: is a folder; name a file in it"),
    "a FIFO": (lambda path: os.mkfifo(path), "can't be used as a test: is no regular file"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "can't be used as a test: is no regular file"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_not_ours_is_named_and_left_as_it_is(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.sqlite"
    make, complaint = FOREIGN[kind]
    make(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(StoreError) as error:
        Store(path, ROWS)
    assert str(error.value).startswith(f"{path}: ")
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)
    assert (path.read_bytes() if path.is_file() else b"") == before
    with pytest.raises(StoreError):
        identify(path, [ROWS] if kind != "of a later version" else [OTHER])


@pytest.mark.parametrize("place", (":memory:", "file:x?mode=memory", "a?b#c%20.sqlite", "\udcff.sqlite"))
def test_any_name_is_a_files_name(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Store(Path(place), ROWS) as store:
        store.run("INSERT INTO rows (name) VALUES ('a')")
    assert (tmp_path / place).is_file()
    assert names(tmp_path / place) == ["a"]


@pytest.mark.parametrize("place", ("file/x", "file/x/y", "a\0b", "n" * 300))
def test_a_place_that_can_have_no_file_is_named(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="can't be used as a test: ") as error:
        Store(tmp_path / place, ROWS)
    assert "\n" not in str(error.value)


def test_an_empty_file_is_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "rows.sqlite").touch()
    assert names(tmp_path / "rows.sqlite") == []


def as_somebody(action: Callable[[], object]) -> str:
    """What a process without root's rights is told."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        if os.getuid() == 0:
            os.setuid(65534)
        try:
            action()
        except BaseException as error:
            os.write(writing, f"{type(error).__name__}: {error}".encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as told:
        return told.read()


@pytest.mark.parametrize(("file_mode", "folder_mode"), ((0o444, 0o777), (0o666, 0o555), (0o000, 0o777)))
def test_what_cannot_be_written_is_told_when_it_is_opened(file_mode: int, folder_mode: int) -> None:
    folder = Path(os.path.realpath("/tmp")) / f"store-{os.getpid()}"
    folder.mkdir()
    try:
        path = folder / "rows.sqlite"
        Store(path, ROWS).close()
        path.chmod(file_mode)
        folder.chmod(folder_mode)
        told = as_somebody(lambda: Store(path, ROWS))
    finally:
        shutil.rmtree(folder)
    assert told.startswith(
        f"StoreError: {path}: can't be used as a test: it or its folder can't be written; name another"
    )


def failing(name: str, words: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(words)
    error.sqlite_errorname = name
    return error


TOLD = {
    "database or disk is full": (failing("SQLITE_FULL", "database or disk is full"), "no space left on its disk"),
    "disk I/O error": (failing("SQLITE_IOERR_WRITE", "disk I/O error"), "no space left on its disk"),
    "no locks": (failing("SQLITE_IOERR_LOCK", "disk I/O error"), "no space left on its disk"),
    "read-only": (failing("SQLITE_READONLY", "attempt to write a readonly database"), "must be yours to write"),
    "protocol": (failing("SQLITE_PROTOCOL", "locking protocol"), "allows no locks, as many network disks; name a file"),
    "malformed": (failing("SQLITE_CORRUPT", "database disk image is malformed"), "store rescue"),
    "gone": (OSError(errno.EIO, "Input/output error"), "Input/output error"),
}


@pytest.mark.parametrize("kind", TOLD)
def test_an_error_says_the_way_out(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(sqlite3.Connection):
        def execute(self, *_: object) -> sqlite3.Cursor:
            raise TOLD[kind][0]

    with Store(tmp_path / "rows.sqlite", ROWS) as store:
        monkeypatch.setattr(store, "_db", sqlite3.connect(":memory:", factory=Failing))
        monkeypatch.setattr(full_disk, "_measure_free", lambda place: 0.0)
        with pytest.raises(StoreError, match=TOLD[kind][1]) as error:
            store.run("SELECT 1")
        assert str(error.value).startswith(f"{tmp_path / 'rows.sqlite'}: can't be used as a test: ")


def test_disk_errors_of_a_disk_that_has_room_are_not_called_full(tmp_path: Path) -> None:
    assert "allows no locks" in sqlite.tell(failing("SQLITE_IOERR_LOCK", "disk I/O error"), tmp_path)


def test_values_that_sqlite_has_no_room_for_are_an_error_of_one_line(tmp_path: Path) -> None:
    with Store(tmp_path / "rows.sqlite", ROWS) as store:
        with pytest.raises(StoreError, match="too large"):
            store.run("INSERT INTO rows VALUES ('a', ?)", 10**30)
        store.run("INSERT INTO rows (name) VALUES (CAST(x'ff' AS TEXT))")
        with pytest.raises(StoreError, match="a row is damaged"):
            store.run("SELECT name FROM rows")
    with pytest.raises(StoreError, match="closed"):
        store.run("SELECT 1")


def damaged(path: Path) -> None:
    """800 rows over many pages, of which some in the middle are overwritten."""
    with Store(path, ROWS) as store, store.writing():
        for number in range(800):
            store.run("INSERT INTO rows VALUES (?, ?)", f"{number:03} " + "x" * 100, number)
    data = bytearray(path.read_bytes())
    data[10 * 4096 : 12 * 4096] = b"\xff" * 2 * 4096
    path.write_bytes(data)


def test_what_can_be_read_of_a_damaged_file_is_kept(tmp_path: Path) -> None:
    path, new = tmp_path / "rows.sqlite", tmp_path / "new.sqlite"
    damaged(path)
    with Store(path, ROWS) as store, pytest.raises(StoreError, match="malformed; another file, or `harness store resc"):
        store.run("SELECT * FROM rows")
    assert find_damage(path)
    assert all("\n" not in line for line in find_damage(path))
    kept = rescue(path, new, ROWS)
    assert 700 < kept["rows"] < 800
    assert find_damage(new) == []
    assert count_rows(new, ROWS) == kept
    assert {name[:3] for name in names(new)} >= {"000", "799"}
    with pytest.raises(StoreError, match="is there already"):
        rescue(path, new, ROWS)


@pytest.mark.parametrize("shm", (True, False))
@pytest.mark.parametrize("log", ("cut", "garbage", "gone"))
def test_logs_that_are_not_whole_lose_no_more_than_they_held(shm: bool, log: str, tmp_path: Path) -> None:
    path, copy = tmp_path / "rows.sqlite", tmp_path / "copy.sqlite"
    with Store(path, ROWS) as store:
        for number in range(20):
            store.run("INSERT INTO rows VALUES (?, 1)", f"{number:02}")
        store.run("PRAGMA wal_checkpoint(TRUNCATE)")
        store.run("INSERT INTO rows VALUES ('20', 1)")
        shutil.copy(path, copy)
        if shm:
            shutil.copy(f"{path}-shm", f"{copy}-shm")
        data = Path(f"{path}-wal").read_bytes()
    if log != "gone":
        Path(f"{copy}-wal").write_bytes(data[: len(data) // 2] if log == "cut" else os.urandom(5000))
    assert names(copy)[:20] == [f"{number:02}" for number in range(20)]
