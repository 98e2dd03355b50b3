"""The judge's ledger: every reply that was paid for, kept once, by what determines it.

    ledger = Ledger(Path("runs/ledger.sqlite"))
    ledger.reply(key)                       # the reply, or None
    ledger.put(Call(key=key, ...))          # on disk when it returns
    ledger.summary()                        # calls, tokens and money by task and model

One SQLite file in WAL mode, which several processes may share. A call is one row, committed by itself: a kill loses
only calls in flight. A key is claimed before it is asked, so that two processes don't pay for it twice; a claim of a
process that is gone is void. What was paid for and gave no usable reply (a content filter, a cut reply) is in the
ledger too, as a loss, so that the money adds up. Of a question without a reply the last reason is kept.
"""

import hashlib
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from support.errors import StoreError
from support.files import atomic_path
from support.processes import is_alive
from support.sqlite import Schema, Store

LEDGER: Final = Path("runs") / "ledger.sqlite"

SCHEMA: Final = Schema(
    what="a ledger",
    mark="VLML",
    tables={
        "calls": "key TEXT PRIMARY KEY, task TEXT NOT NULL, model TEXT NOT NULL, served TEXT NOT NULL, "
        "reply TEXT NOT NULL, prompt_tokens INTEGER, completion_tokens INTEGER, price REAL, latency REAL NOT NULL, "
        "attempts INTEGER NOT NULL, batch INTEGER NOT NULL, created TEXT NOT NULL, "
        "finish TEXT NOT NULL DEFAULT 'stop', asked TEXT NOT NULL DEFAULT ''",
        "losses": "id INTEGER PRIMARY KEY, key TEXT NOT NULL, task TEXT NOT NULL, model TEXT NOT NULL, "
        "reason TEXT NOT NULL, prompt_tokens INTEGER, completion_tokens INTEGER, price REAL, created TEXT NOT NULL",
        "failures": "key TEXT PRIMARY KEY, task TEXT NOT NULL, model TEXT NOT NULL, reason TEXT NOT NULL, "
        "created TEXT NOT NULL",
        "batches": "id TEXT PRIMARY KEY, model TEXT NOT NULL, task TEXT NOT NULL, keys TEXT NOT NULL, "
        "created TEXT NOT NULL",
        "claims": "key TEXT PRIMARY KEY, host TEXT NOT NULL, pid INTEGER NOT NULL, expires REAL NOT NULL",
        "runs": "scope TEXT PRIMARY KEY, run TEXT NOT NULL",
        "fingerprints": "model TEXT NOT NULL, fingerprint TEXT NOT NULL, mark TEXT NOT NULL, "
        "PRIMARY KEY (model, fingerprint)",
    },
    later={"calls": {"finish": "TEXT NOT NULL DEFAULT 'stop'", "asked": "TEXT NOT NULL DEFAULT ''"}},
    before={"calls": ("key", "task", "model", "served", "reply", "price")},
)


@dataclass(frozen=True)
class Call:
    """One reply that was paid for; fields in the order of the table's columns."""

    key: str
    """sha256 of all that determines the reply."""
    task: str
    """What it was asked for; may be empty."""
    model: str
    """The judge asked for."""
    served: str
    """The model the server says has answered."""
    reply: str
    prompt_tokens: int | None
    completion_tokens: int | None
    """None: the server did not say."""
    price: float | None
    """In US dollars; None: not known, never 0."""
    latency: float
    """Seconds from the first attempt to the reply."""
    attempts: int
    batch: bool
    created: str
    """ISO 8601, UTC."""
    finish: str = "stop"
    """"length" where the limit of tokens ended the reply."""
    asked: str = ""
    """How the call differed from what the protocol asks for, in words."""


@dataclass(frozen=True)
class Total:
    """What one model cost for one task."""

    task: str
    model: str
    calls: int
    losses: int
    """Paid calls without a usable reply."""
    prompt_tokens: int
    completion_tokens: int
    price: float | None
    """In US dollars; None where any call's price is not known."""


def now() -> str:
    """The time, as the ledger writes it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


_COLUMNS: Final = tuple(field.name for field in fields(Call))
_LATER: Final = tuple(SCHEMA.later["calls"])
"""Columns that ledgers and exports of earlier versions lack."""
_DEFAULTS: Final = {field.name: field.default for field in fields(Call)}
_SELECT: Final = f"SELECT {', '.join(_COLUMNS)} FROM calls"


class Ledger:
    """See the module's docstring. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._store = Store(path, SCHEMA)
        self._run = self._store.run
        self._host = socket.gethostname()

    def close(self) -> None:
        """Close the file."""
        self._store.close()

    def reply(self, key: str) -> str | None:
        """The reply under this key, or None."""
        found = self.call(key)
        return None if found is None else found.reply

    def call(self, key: str) -> Call | None:
        """The call under this key, or None."""
        return next((_call_of(row) for row in self._run(f"{_SELECT} WHERE key = ?", key)), None)

    def put(self, call: Call, *, instead: bool = False) -> None:
        """Keep a call. The first reply under a key stays; `instead`: this one takes its place, and that one stays under
        a key which nothing asks for, so that the money adds up."""
        if instead:
            self._run("UPDATE calls SET key = ? WHERE key = ?", _key_of_replaced(call), call.key)
        values = (asdict(call) | {"batch": int(call.batch)}).values()
        places = ", ".join("?" * len(_COLUMNS))
        self._run(f"INSERT OR IGNORE INTO calls ({', '.join(_COLUMNS)}) VALUES ({places})", *values)
        self._run("DELETE FROM failures WHERE key = ?", call.key)
        self.release(call.key)

    def lose(
        self,
        key: str,
        task: str,
        model: str,
        reason: str,
        prompt_tokens: int,
        completion_tokens: int,
        price: float | None,
    ) -> None:
        """Keep that a call was paid for and gave no usable reply."""
        columns = "key, task, model, reason, prompt_tokens, completion_tokens, price, created"
        values = (key, task, model, reason, prompt_tokens, completion_tokens, price, now())
        self._run(f"INSERT INTO losses ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", *values)

    def fail(self, key: str, task: str, model: str, reason: str) -> None:
        """Keep why a question has no reply, until it has one."""
        columns = "key, task, model, reason, created"
        values = (key, task, model, reason, now())
        self._run(f"INSERT OR REPLACE INTO failures ({columns}) VALUES (?, ?, ?, ?, ?)", *values)

    def failures(self) -> dict[tuple[str, str], list[str]]:
        """Why questions have no reply, by task and model."""
        found: dict[tuple[str, str], list[str]] = {}
        for task, model, reason in self._run("SELECT task, model, reason FROM failures ORDER BY rowid"):
            found.setdefault((task, model), []).append(reason)
        return found

    def claim(self, key: str, seconds: float) -> bool:
        """Whether this process may now ask for `key`; the claim holds until `release`, or so many seconds."""
        with self._store.writing():
            held = self._run("SELECT host, pid, expires FROM claims WHERE key = ?", key)
            if held and not self._is_void(*held[0]):
                return False
            values = (key, self._host, os.getpid(), time.time() + seconds)
            self._run("INSERT OR REPLACE INTO claims (key, host, pid, expires) VALUES (?, ?, ?, ?)", *values)
            return True

    def release(self, key: str) -> None:
        """Give up a claim of this process."""
        self._run("DELETE FROM claims WHERE key = ? AND host = ? AND pid = ?", key, self._host, os.getpid())

    def open_run(self, scope: str, *, anew: bool = False) -> str:
        """The name of the run of this scope that was begun and has not ended; `anew`, or where there is none: of a new
        one."""
        if anew:
            self._run("DELETE FROM runs WHERE scope = ?", scope)
        self._run("INSERT OR IGNORE INTO runs (scope, run) VALUES (?, ?)", scope, f"{now()} {uuid.uuid4().hex[:8]}")
        ((run,),) = self._run("SELECT run FROM runs WHERE scope = ?", scope)
        return str(run)

    def close_runs(self, begin: str) -> None:
        """The runs whose scopes begin so have ended."""
        self._run("DELETE FROM runs WHERE substr(scope, 1, length(?)) = ?", begin, begin)

    def fingerprints(self, model: str) -> dict[str, str]:
        """The `system_fingerprint`s of a model's replies, and the mark that its answers were kept under then."""
        return dict(self._run("SELECT fingerprint, mark FROM fingerprints WHERE model = ?", model))

    def note_fingerprint(self, model: str, fingerprint: str, mark: str) -> None:
        """Keep that a reply of the model had this fingerprint; the first mark stays."""
        self._run("INSERT OR IGNORE INTO fingerprints VALUES (?, ?, ?)", model, fingerprint, mark)

    def open_batch(self, batch: str, model: str, task: str, keys: list[str]) -> None:
        """Keep that a batch with these questions is on its way."""
        values = (batch, model, task, json.dumps(keys), now())
        self._run("INSERT INTO batches (id, model, task, keys, created) VALUES (?, ?, ?, ?, ?)", *values)

    def open_batches(self, model: str) -> list[tuple[str, list[str]]]:
        """Ids of a model's batches that nobody has collected, and the keys in them, the oldest first."""
        rows = self._run("SELECT id, keys FROM batches WHERE model = ? ORDER BY rowid", model)
        return [(str(batch), [str(key) for key in json.loads(keys)]) for batch, keys in rows]

    def close_batch(self, batch: str) -> None:
        """Keep that a batch was collected."""
        self._run("DELETE FROM batches WHERE id = ?", batch)

    def _is_void(self, host: str, pid: int, expires: float) -> bool:
        """True for a claim that is over: it has expired, is this process's own, or of a process that is gone."""
        if expires < time.time() or (host == self._host and pid == os.getpid()):
            return True
        return host == self._host and not is_alive(pid)

    def calls(self) -> Iterator[Call]:
        """All calls, in the order they were made."""
        yield from map(_call_of, self._run(f"{_SELECT} ORDER BY rowid"))

    def spent(self) -> float:
        """All money whose amount is known, in US dollars."""
        (row,) = self._run("SELECT (SELECT TOTAL(price) FROM calls) + (SELECT TOTAL(price) FROM losses)")
        return float(row[0])

    def completion_tokens(self, task: str, model: str) -> float | None:
        """Mean length of the replies so far, in tokens; None where there are none."""
        ((mean,),) = self._run("SELECT AVG(completion_tokens) FROM calls WHERE task = ? AND model = ?", task, model)
        return None if mean is None else float(mean)

    def summary(self) -> list[Total]:
        """What was paid, by task and model."""
        rows = self._run("""
            SELECT task, model, SUM(call), SUM(loss), CAST(TOTAL(prompt_tokens) AS INTEGER),
                CAST(TOTAL(completion_tokens) AS INTEGER), CASE COUNT(price) WHEN COUNT(*) THEN TOTAL(price) END
            FROM (
                SELECT task, model, 1 AS call, 0 AS loss, prompt_tokens, completion_tokens, price FROM calls UNION ALL
                SELECT task, model, 0 AS call, 1 AS loss, prompt_tokens, completion_tokens, price FROM losses
            )
            GROUP BY task, model ORDER BY task, model
        """)
        return [Total(*row) for row in rows]

    def export(self, path: Path) -> int:
        """Write all calls as JSON lines, one each; how many. The file is there in full or not at all."""
        count = 0
        with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as out:
            for call in self.calls():
                out.write(json.dumps(asdict(call)) + "\n")
                count += 1
        return count

    def import_from(self, path: Path) -> tuple[int, int, int]:
        """Add exported calls; how many are new, already known, and different (the first reply stays)."""
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise StoreError(f"{path}: can't be read: {error}") from None
        calls = [_read_call(line, f"{path}: line {number}") for number, line in enumerate(lines, 1) if line.strip()]
        new = same = differ = 0
        for call in calls:
            kept = self.reply(call.key)
            if kept is None:
                self.put(call)
                new += 1
            elif kept == call.reply:
                same += 1
            else:
                differ += 1
        return new, same, differ


def _call_of(row: tuple[Any, ...]) -> Call:
    values = dict(zip(_COLUMNS, row, strict=True))
    return Call(**values | {"batch": bool(values["batch"])})


def _key_of_replaced(call: Call) -> str:
    return hashlib.sha256(f"{call.key} before {call.created} {uuid.uuid4()}".encode()).hexdigest()


def _read_call(line: str, where: str) -> Call:
    """A call from a line of an export; StoreError."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise StoreError(f"{where}: not JSON: {error}") from None
    if not isinstance(row, dict) or set(row) | set(_LATER) != set(_COLUMNS):
        raise StoreError(f"{where}: must have exactly {', '.join(_COLUMNS)}")
    row = {name: row.get(name, _DEFAULTS[name]) for name in _COLUMNS}
    texts = all(isinstance(row[name], str) for name in ("key", "task", "model", "served", "reply", "created", *_LATER))
    may_be_unknown = ("prompt_tokens", "completion_tokens", "price")
    numbers = all(row[name] is None or isinstance(row[name], (int, float)) for name in may_be_unknown)
    if not (texts and numbers and len(row["key"]) == 64):
        raise StoreError(f"{where}: a field has the wrong type")
    return Call(**row)
