"""Answers of local models, kept over runs by all that determines them.

    store = ResponseCache(Path("runs/answers.sqlite"))
    cache = store.of({"weights": "59fa4fe91c5d7b9e", "dtype": "float16", ...})   # what can change an answer
    cache.get({"prompt": "...", "images": [...], "settings": {...}})            # an Answer, or None
    cache.put(key, answer, task="mme")                                          # written when it returns

One SQLite file, which several processes may share. An answer is one row, committed by itself, so a kill loses only what
was in flight. (A power cut may take the last seconds, but never damages the file.) Values are JSON.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeAlias

from support.errors import StoreError
from support.reuse import Reuse
from support.sqlite import Schema, Store
from tasks.answer import Answer, FailedAnswer

Json: TypeAlias = "Mapping[str, Json] | Sequence[Json] | str | float | None"  # float has int and bool in it

SCHEMA: Final = Schema(
    what="a store of answers",
    mark="VLMA",
    tables={
        "models": "id TEXT PRIMARY KEY, facts TEXT NOT NULL",
        "answers": "digest TEXT PRIMARY KEY, model TEXT NOT NULL REFERENCES models (id), task TEXT NOT NULL, "
        "created TEXT NOT NULL, text TEXT NOT NULL, cut INTEGER NOT NULL, choices TEXT NOT NULL",
    },
)
"""Its version is also that of how digests are made."""
CUT: Final = 1
LIMITED: Final = 2
"""Bits of the column `cut`; answers of earlier versions have the first alone."""


class ResponseCache:
    """See the module's docstring. Safe to use from several threads. What goes wrong with the file is a StoreError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._store = Store(path, SCHEMA)
        self._run = self._store.run

    def of(self, facts: Mapping[str, Json], earlier: Mapping[str, Json] | None = None) -> "ModelCache":
        """The answers of the model that these facts describe; those that an earlier version kept by other facts of it
        are found, too."""
        return ModelCache(self, facts, earlier)

    def close(self) -> None:
        """Close the file; nothing waits to be written."""
        self._store.close()

    def _read(self, text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError as error:
            raise StoreError(f"{self.path}: a row is damaged: {error}") from None


class ModelCache:
    """One model's answers. A question is a mapping of JSON values (else a TypeError); the digest of both names the
    row."""

    def __init__(
        self, store: ResponseCache, facts: Mapping[str, Json], earlier: Mapping[str, Json] | None = None
    ) -> None:
        self._store = store
        self.reused = Reuse()
        """Answers that it had."""
        self.model = hashlib.sha256(_json(facts)).hexdigest()[:32]
        """Digest of the facts."""
        self._models = [self.model] + [hashlib.sha256(_json(facts)).hexdigest()[:32] for facts in [earlier] if facts]
        store._run("INSERT OR IGNORE INTO models VALUES (?, ?)", self.model, _text(facts))

    def get(
        self, key: Mapping[str, Json], *, is_whole: Callable[[Answer], bool] = lambda answer: True
    ) -> Answer | None:
        """The answer to this question, or None. One that is not whole, by the rule of today, is forgotten."""
        digests = [_digest_of(model, key) for model in self._models]
        columns, places = "text, cut, choices, created, digest", ", ".join("?" for _ in digests)
        found = self._store._run(f"SELECT {columns} FROM answers WHERE digest IN ({places})", *digests)
        if not found:
            return None
        text, cut, choices, created, digest = min(found, key=lambda row: digests.index(row[-1]))
        words, likely = self._store._read(text), self._store._read(choices)
        answer = Answer(words, choices=likely, cut=bool(cut & CUT), limited=bool(cut & LIMITED))
        if not is_whole(answer):
            self._store._run("DELETE FROM answers WHERE digest = ?", digest)
            return None
        self.reused.add(str(created))
        return answer

    def put(self, key: Mapping[str, Json], answer: str, task: str = "") -> None:
        """Keep an answer; the first under a key stays, and a FailedAnswer is none. `task` is for the summary (or the
        key has one)."""
        if isinstance(answer, FailedAnswer):
            return
        kept = answer if isinstance(answer, Answer) else Answer(answer)
        name = task or str(key.get("task", ""))
        values = (
            _digest_of(self.model, key),
            self.model,
            name,
            datetime.now(UTC).isoformat(timespec="microseconds"),
            _text(str(kept)),
            CUT * kept.cut | LIMITED * kept.limited,
            _text(dict(kept.choices)),
        )
        self._store._run("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?)", *values)


def _digest_of(model: str, key: Mapping[str, Json]) -> str:
    return hashlib.sha256(model.encode() + _json(key)).hexdigest()


def _json(value: Json) -> bytes:
    """The same bytes for the same value."""
    return _text(value).encode("utf-8", "surrogatepass")


def _text(value: Json) -> str:
    """The same text for the same value. Not escaped: an escaped pair of lone surrogates reads as the character they
    would make."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
