"""Batches of questions from before they are made until somebody has collected them.

    batch, free = batches.open(model, task, keys, ...)      # on disk before anything is sent
    batches.name(batch, "batch_abc")                        # what the server calls it
    batches.find(model, server)                             # those on their way, the oldest first
    batches.close(batch)

A question is in one open batch at most, and in none while somebody asks it by itself: both are decided in one
transaction.
"""

import json
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from support.sqlite import Store
from tasks.judges.claims import Claims

TABLES: Final = {
    "batches": "id TEXT PRIMARY KEY, model TEXT NOT NULL, task TEXT NOT NULL, keys TEXT NOT NULL, "
    "created TEXT NOT NULL, server TEXT NOT NULL DEFAULT '', name TEXT, "
    "estimate REAL NOT NULL DEFAULT 0, run TEXT NOT NULL DEFAULT ''",
    "batched": "key TEXT PRIMARY KEY, batch TEXT NOT NULL",
}
LATER: Final = {
    "batches": {
        "server": "TEXT NOT NULL DEFAULT ''",
        "name": "TEXT",
        "estimate": "REAL NOT NULL DEFAULT 0",
        "run": "TEXT NOT NULL DEFAULT ''",
    },
}


@dataclass(frozen=True, kw_only=True)
class OpenBatch:
    """One of them."""

    id: str
    """Our own name for it, which is in its metadata; of batches of earlier versions the server's."""
    name: str
    """What the server calls it; empty while that is not known: it was about to be made when its process ended."""
    keys: Sequence[str]
    created: str

    @staticmethod
    def claim_of(batch: str) -> str:
        """What is claimed by who makes or collects it."""
        return f"batch {batch}"

    @property
    def claim(self) -> str:
        """The same for this one."""
        return self.claim_of(self.id)

    @property
    def age(self) -> float:
        """Seconds since it was about to be made."""
        return time.time() - datetime.fromisoformat(self.created).timestamp()


class OpenBatches:
    """See the module's docstring."""

    def __init__(self, store: Store, claims: Claims) -> None:
        self.store, self.claims = store, claims
        if store.run("SELECT 1 FROM batches WHERE name IS NULL LIMIT 1"):  # of versions that knew no table `batched`
            store.run(
                "INSERT OR IGNORE INTO batched SELECT value, batches.id FROM batches, json_each(keys)"
                " WHERE name IS NULL AND json_valid(keys)"
            )

    def open(
        self,
        model: str,
        task: str,
        keys: Iterable[str],
        *,
        server: str = "",
        estimate: float = 0.0,
        run: str = "",
        claims: dict[str, str] | None = None,
    ) -> tuple[str, list[str]]:
        """Keep that a batch is about to be made with those questions that nobody asks; its name, and them. None of
        them: nothing is kept. `claims` gets the token by which this process makes it."""
        intent = uuid.uuid4().hex
        token = self.claims.take(OpenBatch.claim_of(intent))
        if claims is not None and token is not None:
            claims[intent] = token
        created = datetime.now(UTC).isoformat(timespec="seconds")
        wanted = list(keys)
        with self.store.writing():
            free = [key for key in wanted if self._is_free(key)]
            if free:
                share = estimate * len(free) / len(wanted)
                self.store.run(
                    "INSERT INTO batches (id, model, task, keys, created, server, name, estimate, run)"
                    " VALUES (?, ?, ?, ?, ?, ?, '', ?, ?)",
                    *(intent, model, task, json.dumps(free), created, server, share, run),
                )
                for key in free:
                    self.store.run("INSERT INTO batched VALUES (?, ?)", key, intent)
        return intent, free

    def name(self, batch: str, name: str) -> None:
        """Keep what the server calls it."""
        self.store.run("UPDATE batches SET name = ? WHERE id = ?", name, batch)

    def find(self, model: str, server: str = "") -> list[OpenBatch]:
        """A model's batches that nobody has collected, the oldest first; of earlier versions, whatever their server."""
        rows = self.store.run(
            "SELECT id, IFNULL(name, id), keys, created FROM batches WHERE model = ? AND server IN (?, '')"
            " ORDER BY rowid",
            *(model, server),
        )
        return [
            OpenBatch(id=batch, name=name, keys=json.loads(keys), created=created)
            for batch, name, keys, created in rows
        ]

    def is_open(self, batch: str) -> bool:
        """Whether nobody has collected it yet."""
        return bool(self.store.run("SELECT 1 FROM batches WHERE id = ?", batch))

    def of(self, key: str, before: str) -> str | None:
        """The open batch that a question is in, or None; `before`: its key in versions before."""
        found = self.store.run("SELECT batch FROM batched WHERE key IN (?, ?)", key, before)
        return next((str(batch) for (batch,) in found), None)

    def close(self, batch: str) -> None:
        """Keep that a batch was collected, or never came to be."""
        with self.store.writing():
            self.store.run("DELETE FROM batches WHERE id = ?", batch)
            self.store.run("DELETE FROM batched WHERE batch = ?", batch)

    def close_done(self) -> None:
        """Close batches of which everything is in the ledger: their process ended just before it did so."""
        done = self.store.run(
            "SELECT id FROM batches WHERE name <> '' AND NOT EXISTS (SELECT 1 FROM batched WHERE batch = id"
            " AND key NOT IN (SELECT key FROM calls) AND key NOT IN (SELECT key FROM unread))"
        )
        for (batch,) in done:
            self.close(batch)

    def _is_free(self, key: str) -> bool:
        """Whether a question has no reply, and nobody asks it."""
        there = self.store.run(
            "SELECT 1 FROM calls WHERE key = ?1 UNION ALL SELECT 1 FROM batched WHERE key = ?1 LIMIT 1", key
        )
        return not there and not self.claims.is_taken(key)
