"""SQLite files of ours: told from other programs' by a mark in them, shared by processes, with errors of one line.

    LEDGER = Schema(what="a ledger", mark="VLML", tables={"calls": "key TEXT PRIMARY KEY, price REAL"})
    with Store(path, LEDGER) as store:
        store.run("INSERT INTO calls VALUES (?, ?)", key, price)    # on disk when it returns
        with store.writing(): ...                                   # one transaction, alone among all processes

A file that is not ours is left as it is, byte for byte. What a version adds (tables, columns) is added when a file of
before is opened; nothing is taken away.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from support.errors import StoreError, one_line
from support.full_disk import describe_full_disk

WAIT: Final = 60.0
"""Seconds to wait for another process's write."""
_MAGIC: Final = b"SQLite format 3\0"
_DAMAGED: Final = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_FORMAT")
_LOCKED: Final = ("SQLITE_BUSY", "SQLITE_LOCKED")
_NO_LOCKS: Final = ("SQLITE_IOERR_LOCK", "SQLITE_IOERR_SHM", "SQLITE_IOERR_RDLOCK", "SQLITE_PROTOCOL", "SQLITE_NOLFS")

Row = tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Schema:
    """What a kind of file holds."""

    what: str
    """The kind, with its article, for messages: "a ledger"."""
    mark: str
    """Four letters, SQLite's application_id of these files."""
    version: int = 1
    """Of the meaning of rows, SQLite's user_version. An added table or column needs no new one."""
    tables: Mapping[str, str]
    """Columns of each table, as CREATE TABLE has them."""
    later: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By table, columns that files of before lack, with their type and default."""
    before: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Tables, each with some of its columns, by which files of before the mark are known; none: there are none."""

    @property
    def number(self) -> int:
        """The mark as SQLite keeps it."""
        return int.from_bytes(self.mark.encode("ascii"), "big")


class Store:
    """One file, for use by several threads. All that goes wrong with it is a StoreError that names it."""

    def __init__(self, path: Path, schema: Schema, *, when_written: bool = False) -> None:
        """Open a file, or make it with its folder; with `when_written` not before something is written."""
        self.path, self.schema = path, schema
        self.added: list[str] = []
        """Statements that made the file what it must be; none for one that was so already."""
        self._lock = threading.RLock()
        with self._telling():
            _check_place(path, schema)
            self._is_there = not when_written or path.exists()
            _check_foreign(path, schema)
            self._open()

    def _open(self) -> None:
        """Connect to the file, or before it is there to an empty one in memory."""
        if self._is_there:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        self._db = _connect(self.path) if self._is_there else _connect_to_nothing()
        try:
            if self._is_there:
                _write_ahead(self._db)
                self._db.execute("PRAGMA synchronous=NORMAL")
            self._file, self._process = _identify_file(self.path), os.getpid()
            self._claim()
        except BaseException:
            self._db.close()  # which takes back what was begun
            raise

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; nothing waits to be written."""
        with self._lock:
            self._db.close()

    def run(self, statement: str, *values: Any) -> list[Row]:
        """The rows of one statement, which is on disk when it returns. Text may hold half a surrogate pair."""
        with self._lock, self._telling():
            if not self._is_there and (self.path.exists() or not statement.startswith("SELECT")):
                self._db.close()
                self._is_there = True
                self._open()
            if os.getpid() != self._process:  # SQLite's connections don't outlive a fork
                raise OSError("a process that was forked uses its parent's; open it anew")
            if _identify_file(self.path) != self._file:  # what is written to a file without a name is lost
                raise OSError("it was removed or replaced while it was in use")
            return _execute(self._db, statement, values).fetchall()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A transaction, alone among all threads and processes; taken back if the block raises."""
        with self._lock:
            self.run("BEGIN IMMEDIATE")
            try:
                yield
                self.run("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite itself takes some back
                    self._db.execute("ROLLBACK")
                raise

    def _claim(self) -> None:
        """Make what the file lacks; StoreError for a file that is not ours, which stays as it is."""
        missing = _list_missing(self._db, self.path, self.schema)
        if not self._is_there:
            for statement in missing:
                self._db.execute(statement)
        if not self._is_there or not missing:
            return
        with self.writing():  # of two processes that begin, one makes it
            self.added = _list_missing(self._db, self.path, self.schema)
            for statement in self.added:
                self._db.execute(statement)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Inside, an error of SQLite or of the system is a StoreError."""
        try:
            yield
        except (sqlite3.Error, sqlite3.Warning, OSError, ValueError, OverflowError) as error:
            reason = tell(error, self.path)
            raise StoreError(f"{self.path}: can't be used as {self.schema.what}: {reason}") from None


def tell(error: Exception, path: Path) -> str:
    """What an error of SQLite or of the system about a file means, and the way out, in one line."""
    name = str(getattr(error, "sqlite_errorname", ""))
    words = one_line(error)
    if full := describe_full_disk(error, path):
        return full
    if name.startswith(_DAMAGED):
        return f"{words}; another file, or `harness store rescue {path} NEW` keeps what can be read of a damaged one"
    if name.startswith(_LOCKED):
        return f"{words}: held for {WAIT:g} s by {_name_holders(path)}; end it, and run the same command"
    if name.startswith(_NO_LOCKS):
        return f"{words}: its disk allows no locks, as many network disks; name a file on a local one"
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return f"{words}: file and folder must be yours to write; name another, or copy it to where you may write"
    if isinstance(error, UnicodeDecodeError):
        return f"a row is damaged: {words}"
    return words


def identify(path: Path, schemas: Sequence[Schema]) -> Schema:
    """Whose file it is, which is only read; StoreError for one that is none of theirs."""
    try:
        _check_place(path, schemas[0], writable=False)
        with closing(_connect_to_look(path)) as db:
            mark, version, tables = _read_identity(db)
            known = (schema for schema in schemas if _is_ours(db, schema, mark, version, tables))
            if found := next(known, None):
                return found
    except (sqlite3.Error, OSError, ValueError) as error:
        raise StoreError(f"{path}: can't be read: {tell(error, path)}") from None
    raise StoreError(f"{path}: is no store of this harness ({', '.join(schema.what for schema in schemas)})")


def find_damage(path: Path) -> list[str]:
    """What SQLite's own check finds, one line each; empty for a file that is whole."""
    try:
        with closing(_connect(path, "mode=ro")) as db:
            lines = [one_line(line) for (text,) in db.execute("PRAGMA integrity_check") for line in text.splitlines()]
            return [line for line in lines if line != "ok" and not line.startswith("***")]
    except (sqlite3.Error, UnicodeDecodeError) as error:
        return [one_line(error)]


def count_rows(path: Path, schema: Schema) -> dict[str, int]:
    """Rows of each table that the file has."""
    with closing(_connect(path, "mode=ro")) as db:
        there = _read_identity(db)[2]
        return {
            name: db.execute(f"SELECT COUNT(*) FROM {name}").fetchone()[0] for name in schema.tables if name in there
        }


def rescue(path: Path, new: Path, schema: Schema) -> dict[str, int]:
    """Copy all rows that can be read of a damaged file into a new one; how many of each table."""
    if os.path.lexists(new):
        raise StoreError(f"{new}: is there already; name a new file")
    kept: dict[str, int] = {}
    with closing(_connect(path, "mode=ro")) as db, Store(new, schema) as store:
        for table in schema.tables:
            columns = [str(row[1]) for row in _try_all(db, f"PRAGMA table_info({table})")]
            if not columns:
                continue
            names = ", ".join(columns)
            insert = f"INSERT OR IGNORE INTO {table} ({names}) VALUES ({', '.join('?' * len(columns))})"
            # A damaged page ends a scan: what lies behind it is read from the other end.
            for order in ("ASC", "DESC"):
                for row in _try_all(db, f"SELECT {names} FROM {table} NOT INDEXED ORDER BY rowid {order}"):
                    store.run(insert, *row)
            ((kept[table],),) = store.run(f"SELECT COUNT(*) FROM {table}")
    return kept


def _try_all(db: sqlite3.Connection, query: str) -> Iterator[Row]:
    """The rows of a query up to the first that can't be read."""
    with suppress(sqlite3.Error, UnicodeDecodeError):
        yield from db.execute(query)


def _check_place(path: Path, schema: Schema, *, writable: bool = True) -> None:
    """StoreError for what can't be a file of ours, whatever is in it."""
    if "\0" in str(path):  # which ends a name in SQLite
        raise ValueError("a name can't have a null byte")
    if not writable and not path.exists():
        raise StoreError(f"{path}: no such file")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise StoreError(f"{path}: can't be used as {schema.what}: its folder is a file")
    if path.is_dir():
        raise StoreError(f"{path}: can't be used as {schema.what}: is a folder; name a file in it")
    if path.exists() and not path.is_file():
        raise StoreError(f"{path}: can't be used as {schema.what}: is no regular file")
    if writable and not (os.access(above, os.W_OK | os.X_OK) and (not path.exists() or os.access(path, os.W_OK))):
        raise PermissionError("it or its folder can't be written; name another, or copy it to where you may write")


def _check_foreign(path: Path, schema: Schema) -> None:
    """StoreError for another program's file: seen without locks, since a connection that may write changes a file."""
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise ValueError("file is not a database; name another")
    with suppress(sqlite3.Error), closing(_connect_to_look(path)) as db:
        _list_missing(db, path, schema)


def _connect_to_look(path: Path) -> sqlite3.Connection:
    """A connection that leaves nothing beside the file; such a one does not see what its log (-wal) holds, so another
    one for a file whose tables are still in there."""
    db = _connect(path, "mode=ro&immutable=1")
    log = path.with_name(f"{path.name}-wal")
    if any(_read_identity(db)) or not (log.exists() and log.stat().st_size):
        return db
    db.close()
    return _connect(path, "mode=ro")


def _list_missing(db: sqlite3.Connection, path: Path, schema: Schema) -> list[str]:
    """The statements that make a file what it must be; StoreError for one that is not ours."""
    mark, version, tables = _read_identity(db)
    is_new = not (mark or version or tables)
    if mark == schema.number and version > schema.version:
        raise StoreError(
            f"{path}: its schema is {version}, this harness knows {schema.version}: move it away, or use its harness"
        )
    if not is_new and not _is_ours(db, schema, mark, version, tables):
        raise StoreError(f"{path}: is another program's file, not {schema.what}; name another")
    found = [f"CREATE TABLE {name} ({columns})" for name, columns in schema.tables.items() if name not in tables]
    for table in set(schema.later) & tables:
        there = _read_columns(db, table)
        added = {name: form for name, form in schema.later[table].items() if name not in there}
        found += [f"ALTER TABLE {table} ADD COLUMN {name} {form}" for name, form in added.items()]
    if (mark, version) != (schema.number, schema.version):
        found += [f"PRAGMA application_id = {schema.number}", f"PRAGMA user_version = {schema.version}"]
    return found


def _is_ours(db: sqlite3.Connection, schema: Schema, mark: int, version: int, tables: set[str]) -> bool:
    if mark == schema.number:
        return True
    known = bool(schema.before) and not (mark or version)
    return known and all(set(names) <= _read_columns(db, table) for table, names in schema.before.items())


def _identify_file(path: Path) -> tuple[int, int] | None:
    """Which file stands under this name; None: there is none."""
    with suppress(FileNotFoundError):
        found = path.stat()
        return found.st_dev, found.st_ino
    return None


def _read_identity(db: sqlite3.Connection) -> tuple[int, int, set[str]]:
    """A file's mark, its version and the names of its tables."""
    ((mark,),), ((version,),) = (
        db.execute("PRAGMA application_id").fetchall(),
        db.execute("PRAGMA user_version").fetchall(),
    )
    return mark, version, {str(name) for (name,) in db.execute("SELECT name FROM sqlite_master").fetchall()}


def _read_columns(db: sqlite3.Connection, table: str) -> set[str]:
    return {str(row[1]) for row in db.execute(f"PRAGMA table_info({table})").fetchall()}


def _connect(path: Path, how: str = "mode=rwc") -> sqlite3.Connection:
    """A connection in autocommit mode. By an absolute address: SQLite takes `:memory:` for no file at all."""
    address = f"{path.absolute().as_uri()}?{how}"
    db = sqlite3.connect(address, uri=True, timeout=WAIT, isolation_level=None, check_same_thread=False)
    db.text_factory = lambda data: data.decode("utf-8", "surrogatepass")
    return db


def _connect_to_nothing() -> sqlite3.Connection:
    """A connection to a database in memory, which stands for a file before it is there."""
    return sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)


def _execute(db: sqlite3.Connection, statement: str, values: Sequence[Any]) -> sqlite3.Cursor:
    try:
        return db.execute(statement, values)
    except UnicodeEncodeError:  # a model may write half a surrogate pair, which strict UTF-8 has no bytes for
        parts = statement.split("?")
        for place, value in enumerate(values):
            parts[place] += "CAST(? AS TEXT)" if isinstance(value, str) else "?"
        given = [value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value for value in values]
        return db.execute("".join(parts), given)


def _write_ahead(db: sqlite3.Connection) -> None:
    """Switch to WAL mode. While another process switches, SQLite says "locked" at once, whatever the timeout."""
    until = time.monotonic() + WAIT
    while True:
        try:
            if db.execute("PRAGMA journal_mode=WAL").fetchone()[0] == "wal":
                return
        except sqlite3.OperationalError as error:
            if time.monotonic() > until or not getattr(error, "sqlite_errorname", "").startswith(_LOCKED):
                raise
        if time.monotonic() > until:
            raise OSError("its disk allows no write-ahead log, as many network disks; name a file on a local one")
        time.sleep(0.02)


def _name_holders(path: Path) -> str:
    """The other processes of this machine that hold a lock of the file, in words."""
    inodes = set()
    for file in (path, path.with_name(f"{path.name}-shm")):
        with suppress(OSError):
            inodes.add(str(file.stat().st_ino))
    try:
        locks = [line.split() for line in Path("/proc/locks").read_text(encoding="ascii").splitlines()]
    except OSError:
        locks = []
    held = {
        words[4] for words in locks if len(words) > 5 and words[5].rpartition(":")[2] in inodes and words[3] == "WRITE"
    }
    held -= {str(os.getpid())}
    return f"process {', '.join(sorted(held))}" if held else "another process"
