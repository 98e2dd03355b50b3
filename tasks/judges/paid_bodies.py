"""What servers sent for calls that were paid for, as it came, until it is read.

    bodies.keep(Body(key=key, data=b'{"choices": ...', ...))    # before it is read
    bodies.find(key)                                            # what an earlier run could not read, or None
    bodies.drop(key)                                            # nobody paid for it, or it is asked again

`Ledger.put` drops the body of the reply that it keeps. What stays could not be read: the next run reads it again, and
does not pay for it again.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from support.secrets import redact_known
from support.sqlite import Store

MOST_BYTES: Final = 8 * 2**20
"""Of a body; of a longer one the beginning is kept, which tells what it was."""
TABLES: Final = {
    "unread": "key TEXT PRIMARY KEY, body BLOB NOT NULL, sent TEXT NOT NULL, batch INTEGER NOT NULL, "
    "latency REAL NOT NULL, attempts INTEGER NOT NULL, created TEXT NOT NULL, loss INTEGER, "
    "why TEXT NOT NULL DEFAULT ''",
}
LATER: Final = {"unread": {"why": "TEXT NOT NULL DEFAULT ''"}}


@dataclass(frozen=True, kw_only=True)
class Body:
    """One of them."""

    key: str
    """Of the question, as in `Call`."""
    data: bytes
    sent: Mapping[str, Any]
    """The request's settings, such as its limit of tokens."""
    batch: bool
    latency: float
    attempts: int
    created: str
    why: str = ""
    """Why nothing of it is kept; it was paid for all the same."""
    is_booked: bool = False
    """Whether what it cost is in the ledger."""


class PaidBodies:
    """See the module's docstring."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def keep(self, body: Body) -> None:
        """Keep a body in place of one of before, without secrets that a server repeats."""
        text = redact_known(body.data[:MOST_BYTES].decode(json.detect_encoding(body.data), "replace"))
        settings = {name: value for name, value in body.sent.items() if name not in ("model", "messages")}
        self.store.run(
            "INSERT OR REPLACE INTO unread (key, body, sent, batch, latency, attempts, created, why)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            *(body.key, text.encode("utf-8", "surrogatepass"), json.dumps(settings), int(body.batch)),
            *(body.latency, body.attempts, body.created, body.why),
        )

    def find(self, key: str) -> Body | None:
        """The body under this key, or None."""
        for data, sent, batch, *more, loss in self.store.run(
            "SELECT body, sent, batch, latency, attempts, created, why, loss FROM unread WHERE key = ?", key
        ):
            latency, attempts, created, why = more
            facts: dict[str, Any] = {"latency": latency, "attempts": attempts, "created": created, "why": why}
            return Body(
                key=key, data=data, sent=json.loads(sent), batch=bool(batch), is_booked=loss is not None, **facts
            )
        return None

    def drop(self, key: str) -> None:
        """Forget a body."""
        self.store.run("DELETE FROM unread WHERE key = ?", key)
