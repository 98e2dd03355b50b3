"""Rows on disk: JSON lines that are only ever appended to, so that a run killed at any moment goes on where it was.

    rows = Rows(folder / "ratings.jsonl")
    for id in rows.missing(ids): rows.append({"id": id, ...})

A torn last line (the process died while writing it) is passed over when the file is read, and cut off before the next
rows are added. Several processes may add to one file; where work must not be done twice, `sole` makes one of them its
owner.
"""

import fcntl
import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


def publish_file(path: Path, data: bytes, place: Callable[[Path, Path], None] = os.replace) -> None:
    """Write beside `path`, and put there with `place` when safely on disk: as a whole or not at all."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    """A new name is on disk only when its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class JsonLines:
    """One file of rows, each with an `id`; of several with one id the last counts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.by_id: dict[str, dict[str, Any]] = {}
        if path.exists():
            self._read()

    def _read(self) -> None:
        text = self.path.read_bytes()
        for number, line in enumerate(text[: text.rfind(b"\n") + 1].splitlines(), start=1):
            try:
                row = json.loads(line)
                self.by_id[row["id"]] = row
            except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
                raise ValueError(f"{self.path}, line {number}: not a row of ours ({error})") from error

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows, durably, in one write."""
        new = [dict(row) for row in rows]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            fcntl.flock(
                file, fcntl.LOCK_EX
            )  # who has it is alone: a torn line is then a dead process's, not one being written
            _cut_torn(file)
            file.write(
                "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in new).encode("utf-8", "surrogatepass")
            )
            file.flush()
            os.fsync(file.fileno())
        self.by_id.update({row["id"]: row for row in new})

    def missing(self, ids: Iterable[str]) -> list[str]:
        """Those of `ids` that have no row yet."""
        return [id for id in ids if id not in self.by_id]


def _cut_torn(file: BinaryIO) -> None:
    """Cut off what stands after the last newline."""
    size = end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - 65536)
        file.seek(start)
        at = file.read(end - start).rfind(b"\n")
        if at >= 0:
            end = start + at + 1
            break
        end = start
    if end < size:
        file.truncate(end)


@contextmanager
def file_lock(path: Path, *, wait: bool) -> Iterator[bool]:
    """Inside, no other process has `path`'s lock file: True; False at once where another has it and `wait` is not
    wanted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


def atomic_write_text(path: Path, text: str) -> None:
    """Write a file that is either there in full or as it was before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
