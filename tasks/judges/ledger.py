"""The judge's ledger: every reply that was paid for, kept once, by what determines it.

    ledger = Ledger(Path("runs/ledger.sqlite"))
    ledger.reply(key)                       # the reply, or None
    ledger.put(Call(key=key, ...))          # on disk when it returns
    ledger.summary(by_served=True)          # calls, tokens and money by task, model and what has answered

One SQLite file in WAL mode, which several processes may share. A call is one row, committed by itself: a kill loses
only calls in flight. A key is claimed before it is asked (`claims`), so that two processes don't pay for it twice. What
came back is kept as it came before it is read (`paid_bodies`), and so is what was paid for and gave no usable reply (a
content filter, a cut reply), as a loss, so that the money adds up. Of a question without a reply the last reason is
kept.
"""

import hashlib
import json
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from support.errors import StoreError
from support.files import atomic_path
from support.parsing import parse_json
from support.sqlite import Schema, Store
from tasks.judges import budgets, claims, open_batches, paid_bodies
from tasks.judges.budgets import Budget
from tasks.judges.claims import Claims
from tasks.judges.open_batches import OpenBatches
from tasks.judges.paid_bodies import PaidBodies
from tasks.judges.replies import NOT_SAID

MOST: Final = 2**53
"""What no count, price or time of an export comes to."""
LEDGER: Final = Path("runs") / "ledger.sqlite"

SCHEMA: Final = Schema(
    what="a ledger",
    mark="VLML",
    tables={
        "calls": "key TEXT PRIMARY KEY, task TEXT NOT NULL, model TEXT NOT NULL, served TEXT NOT NULL, "
        "reply TEXT NOT NULL, prompt_tokens INTEGER, completion_tokens INTEGER, price REAL, latency REAL NOT NULL, "
        "attempts INTEGER NOT NULL, batch INTEGER NOT NULL, created TEXT NOT NULL, "
        "finish TEXT NOT NULL DEFAULT 'stop', asked TEXT NOT NULL DEFAULT '', server TEXT NOT NULL DEFAULT '', "
        "fingerprint TEXT NOT NULL DEFAULT '', estimated INTEGER NOT NULL DEFAULT 0, "
        "cached_tokens INTEGER NOT NULL DEFAULT 0, told TEXT NOT NULL DEFAULT ''",
        "losses": "id INTEGER PRIMARY KEY, key TEXT NOT NULL, task TEXT NOT NULL, model TEXT NOT NULL, "
        "reason TEXT NOT NULL, prompt_tokens INTEGER, completion_tokens INTEGER, price REAL, created TEXT NOT NULL, "
        "estimated INTEGER NOT NULL DEFAULT 0, served TEXT NOT NULL DEFAULT ''",
        "failures": "key TEXT PRIMARY KEY, task TEXT NOT NULL, model TEXT NOT NULL, reason TEXT NOT NULL, "
        "created TEXT NOT NULL",
        "runs": "scope TEXT PRIMARY KEY, run TEXT NOT NULL",
        "fingerprints": "model TEXT NOT NULL, fingerprint TEXT NOT NULL, mark TEXT NOT NULL, "
        "PRIMARY KEY (model, fingerprint)",
        **paid_bodies.TABLES,
        **budgets.TABLES,
        **claims.TABLES,
        **open_batches.TABLES,
    },
    later={
        "calls": {
            "finish": "TEXT NOT NULL DEFAULT 'stop'",
            "asked": "TEXT NOT NULL DEFAULT ''",
            "server": "TEXT NOT NULL DEFAULT ''",
            "fingerprint": "TEXT NOT NULL DEFAULT ''",
            "estimated": "INTEGER NOT NULL DEFAULT 0",
            "cached_tokens": "INTEGER NOT NULL DEFAULT 0",
            "told": "TEXT NOT NULL DEFAULT ''",
        },
        "losses": {"estimated": "INTEGER NOT NULL DEFAULT 0", "served": "TEXT NOT NULL DEFAULT ''"},
        **open_batches.LATER,
        **paid_bodies.LATER,
    },
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
    server: str = ""
    """The address that answered, without secrets; empty in rows of before it was kept."""
    fingerprint: str = ""
    """What the server called the version of itself that answered."""
    estimated: bool = False
    """Whether tokens and price are estimates: the server gave no count."""
    cached_tokens: int = 0
    """Of the prompt's, those that the server had read before."""
    told: str = ""
    """What was asked about the reply beside its words, and what the server said to that, as JSON."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A call that was paid for and gave no usable reply; fields as those of `Call`."""

    key: str
    task: str
    model: str
    reason: str
    prompt_tokens: int | None
    completion_tokens: int | None
    price: float | None
    estimated: bool = False
    served: str = ""

    @classmethod
    def of(cls, call: Call, reason: str) -> "Loss":
        """What a call cost whose reply nothing will use."""
        kept = {field.name: getattr(call, field.name) for field in fields(cls) if field.name != "reason"}
        return cls(reason=reason, **kept)


@dataclass(frozen=True)
class Failed:
    """A question that has no reply."""

    key: str
    task: str
    model: str
    reason: str
    created: str
    body: bytes | None
    """What came for it, where that was paid for and can't be read."""


@dataclass(frozen=True)
class Total:
    """What one model cost for one task."""

    task: str
    model: str
    """The one asked for."""
    served: str
    """What has answered, as the server says."""
    calls: int
    losses: int
    """Paid calls without a usable reply."""
    prompt_tokens: int
    completion_tokens: int
    price: float | None
    """In US dollars; None where any call's price is not known."""
    estimated: int
    """Calls whose tokens and price are estimates, since the server gave no count."""
    uncounted: int
    """Calls of earlier versions whose tokens nobody counted or estimated; they are in no sum."""
    cached_tokens: int
    """Of the prompts', those that the server had read before."""


def now() -> str:
    """The time, as the ledger writes it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


_COLUMNS: Final = tuple(field.name for field in fields(Call))
_LATER: Final = tuple(SCHEMA.later["calls"])
"""Columns that ledgers and exports of earlier versions lack."""
_REPLACED: Final = "0" * 16
"""What keys begin with that nothing asks for: no digest does."""
_DEFAULTS: Final = {field.name: field.default for field in fields(Call)}
_SELECT: Final = f"SELECT {', '.join(_COLUMNS)} FROM calls"


class Ledger:
    """See the module's docstring. Safe to use from several threads."""

    def __init__(self, path: Path, *, when_written: bool = False) -> None:
        """Open a ledger, or make it; with `when_written` not before something is written."""
        self.path = path
        self._store = Store(path, SCHEMA, when_written=when_written)
        self._run = self._store.run
        self.claims, self.bodies = Claims(self._store), PaidBodies(self._store)
        self.batches = OpenBatches(self._store, self.claims)

    def close(self) -> None:
        """Close the file."""
        self.claims.close()
        self._store.close()

    def budget(self, model: str, scope: str, limit: float) -> Budget:
        """A limit of US dollars for what `scope` names."""
        return Budget(self._store, self.claims, model, scope, limit)

    def reply(self, key: str) -> str | None:
        """The reply under this key, or None."""
        found = self.call(key)
        return None if found is None else found.reply

    def call(self, key: str) -> Call | None:
        """The call under this key, or None."""
        return next((_call_of(row) for row in self._run(f"{_SELECT} WHERE key = ?", key)), None)

    def put(self, call: Call, *, instead: bool = False, run: str = "") -> bool:
        """Keep a call, and charge it to the budget of this run; whether it is the reply under its key now. The first
        stays, of another that was paid for the money is kept; `instead`: this one takes the first one's place, which
        stays under a key that nothing asks for."""
        with self._store.writing():
            if instead:
                self._run("UPDATE calls SET key = ? WHERE key = ?", _key_of_replaced(call.key), call.key)
            is_new = not self._run("SELECT 1 FROM calls WHERE key = ?", call.key)
            body = self._run("SELECT loss FROM unread WHERE key = ?", call.key)
            if is_new:
                values = (asdict(call) | {"batch": int(call.batch), "estimated": int(call.estimated)}).values()
                places = ", ".join("?" * len(_COLUMNS))
                self._run(f"INSERT INTO calls ({', '.join(_COLUMNS)}) VALUES ({places})", *values)
            else:
                self._insert_loss(Loss.of(call, "another reply came first"))
            self._run("DELETE FROM failures WHERE key = ?", call.key)
            self._run("DELETE FROM unread WHERE key = ?", call.key)
            if body and body[0][0] is not None:  # read at last: what it cost was booked as a loss
                self._run("DELETE FROM losses WHERE id = ?", body[0][0])
            else:
                self._charge(run, call.price)
        return is_new

    def forget(self, key: str) -> bool:
        """Have the reply under a key asked for again, and what can't be read of it; whether there was one. The paid
        call stays, under a key that nothing asks for."""
        with self._store.writing():
            found = self._run("UPDATE calls SET key = ? WHERE key = ? RETURNING 1", _key_of_replaced(key), key)
            unread = self._run("DELETE FROM unread WHERE key = ? AND loss IS NOT NULL RETURNING 1", key)
        return bool(found or unread)

    def lose(self, loss: "Loss", *, run: str = "", body: bool = False) -> None:
        """Keep that a call was paid for and gave no usable reply; `body`: what it brought stays, to be read again."""
        with self._store.writing():
            number = self._insert_loss(loss)
            self._charge(run, loss.price)
            if body:
                self._run("UPDATE unread SET loss = ? WHERE key = ?", number, loss.key)

    def _insert_loss(self, loss: "Loss") -> int:
        values = (asdict(loss) | {"estimated": int(loss.estimated), "created": now()}).items()
        names, places = ", ".join(name for name, _ in values), ", ".join("?" * len(values))
        ((number,),) = self._run(
            f"INSERT INTO losses ({names}) VALUES ({places}) RETURNING id", *(value for _, value in values)
        )
        return int(number)

    def _charge(self, run: str, price: float | None) -> None:
        self._run("UPDATE budgets SET spent = spent + ? WHERE run = ?", price or 0.0, run)

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

    def failed(self) -> Iterator["Failed"]:
        """Questions that have no reply, in the order in which they failed."""
        for row in self._run(
            "SELECT failures.key, failures.task, failures.model, failures.reason, failures.created, unread.body"
            " FROM failures LEFT JOIN unread ON unread.key = failures.key ORDER BY failures.rowid"
        ):
            yield Failed(*row)

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

    def last_served(self, model: str, server: str) -> str:
        """What has answered last at a server that was asked for a model; empty where that is not known."""
        rows = self._run(
            "SELECT served FROM calls WHERE model = ? AND server = ? ORDER BY rowid DESC LIMIT 1", model, server
        )
        return next((str(served) for (served,) in rows if served != NOT_SAID), "")

    def summary(self, *, by_served: bool = False) -> list[Total]:
        """What was paid, by task and model, and if so by the model that has answered."""
        groups = "task, model, served" if by_served else "task, model"
        rows = self._run(f"""
            SELECT task, model, GROUP_CONCAT(DISTINCT served), SUM(call), SUM(loss),
                CAST(TOTAL(prompt_tokens) AS INTEGER), CAST(TOTAL(completion_tokens) AS INTEGER),
                CASE COUNT(price) WHEN COUNT(*) THEN TOTAL(price) END,
                SUM(estimated), SUM(prompt_tokens IS NULL), SUM(cached)
            FROM (
                SELECT task, model, served, 1 AS call, 0 AS loss, prompt_tokens, completion_tokens, price, estimated,
                    cached_tokens AS cached
                FROM calls UNION ALL
                SELECT task, model, IIF(served = '', '{NOT_SAID}', served), 0 AS call, 1 AS loss, prompt_tokens,
                    completion_tokens, price, estimated, 0 AS cached
                FROM losses
            )
            GROUP BY {groups} ORDER BY {groups}
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
    return Call(**values | {"batch": bool(values["batch"]), "estimated": bool(values["estimated"])})


def _key_of_replaced(key: str) -> str:
    return _REPLACED + hashlib.sha256(f"{key} before {now()} {uuid.uuid4()}".encode()).hexdigest()[len(_REPLACED) :]


def is_replaced(key: str) -> bool:
    """Whether nothing asks for a key any more: its reply was replaced or forgotten, and stays for the money."""
    return key.startswith(_REPLACED)


def _is_amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < MOST


def _read_call(line: str, where: str) -> Call:
    """A call from a line of an export; StoreError."""
    try:
        row = parse_json(line)
    except ValueError as error:
        raise StoreError(f"{where}: not JSON: {error}") from None
    if not isinstance(row, dict) or set(row) | set(_LATER) != set(_COLUMNS):
        raise StoreError(f"{where}: must have exactly {', '.join(_COLUMNS)}")
    row = {name: row.get(name, _DEFAULTS[name]) for name in _COLUMNS}
    texts = all(isinstance(row[field.name], str) for field in fields(Call) if field.type is str)
    may_be_unknown = ("prompt_tokens", "completion_tokens", "price")
    numbers = all(row[name] is None or _is_amount(row[name]) for name in may_be_unknown)
    counts = [row[name] for name in ("attempts", "cached_tokens")]
    numbers = numbers and _is_amount(row["latency"]) and all(_is_amount(each) and each % 1 == 0 for each in counts)
    numbers = numbers and all(row[name] in (0, 1) for name in ("batch", "estimated"))
    if not (texts and numbers and len(row["key"]) == 64):
        raise StoreError(f"{where}: a field has the wrong type")
    return Call(**row)
