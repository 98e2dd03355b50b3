"""Rows on disk: JSON lines that are only ever appended to, so that a run killed at any moment goes on where it was.

    rows = Rows(folder / "ratings.jsonl")
    for id in rows.missing(ids): rows.append({"id": id, ...})

A torn last line (the process died while writing it) is cut off when the file is opened again.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


class Rows:
    """One file of rows, each with an `id`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.by_id: dict[str, dict[str, Any]] = {}
        if path.exists():
            self._read()

    def _read(self) -> None:
        text = self.path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):
            with self.path.open("r+b") as file:
                file.truncate(len(whole))
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                row = json.loads(line)
                self.by_id[row["id"]] = row
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise ValueError(f"{self.path}, line {number}: not a row of ours ({error})") from error

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows, durably, in one write."""
        new = [dict(row) for row in rows]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in new).encode())
            file.flush()
            os.fsync(file.fileno())
        self.by_id.update({row["id"]: row for row in new})

    def missing(self, ids: Iterable[str]) -> list[str]:
        """Those of `ids` that have no row yet."""
        return [id for id in ids if id not in self.by_id]


def write_whole(path: Path, text: str) -> None:
    """Write a file that is either there in full or as it was before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
