"""Keys of pictures that were read before: a benchmark's tens of thousands are not read at each start.

    keys = keep_all(refs)                             # as `keep` of each; of files, known ones by path, size and times
    known = recall_table([arrow], "image", rows=9)    # a KnownPicture for each row of a table that is the same file

What is kept stands in one SQLite file beside the hub's cache. It is never trusted with more than time: bytes that are
read are held against their key (see `support.images`), and where the file can't be used pictures are read.
"""

import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from support.errors import StoreError
from support.files import cache_folder
from support.images import ImageRef, is_read, is_shown_otherwise, keep, keep_known
from support.records import batches
from support.sqlite import Row, Schema, Store

log = logging.getLogger(__name__)

FILE: Final = "pictures.sqlite"
SCHEMA: Final = Schema(
    what="a file of picture keys",
    mark="VLMP",
    tables={
        "files": "place BLOB PRIMARY KEY, stamp TEXT NOT NULL, key TEXT NOT NULL, otherwise INTEGER NOT NULL",
        "tables": "place BLOB PRIMARY KEY, stamp TEXT NOT NULL, pictures TEXT NOT NULL",
    },
)
QUIET_TIME: Final = 2 * 10**9
"""Nanoseconds after which two changes of a file can't have the same time."""
_ASKED: Final = 500
"""Files of one query."""


class KnownPicture(NamedTuple):
    """What is kept of a picture."""

    key: str
    otherwise: bool
    """Whether earlier versions showed it otherwise."""


def keep_all(refs: Sequence[ImageRef]) -> list[str]:
    """The keys of pictures, which are known to `picture` from then on; those of unchanged files are not read."""
    files = {ref.file for ref in refs if ref.file is not None and not ref.problem}
    stamps = {file: stamp for file in files if (stamp := _stamp([file])) is not None}
    if not stamps:
        return [keep(ref) for ref in refs]
    with _open() as store:
        places = [_place([ref.file], ref.member or "") if ref.file in stamps else b"" for ref in refs]
        known = _recall_files(store, list(filter(None, places)))
        keys: list[str] = []
        new: dict[bytes, ImageRef] = {}
        for place, ref in zip(places, refs, strict=True):
            found = known.get((place, stamps[ref.file])) if ref.file in stamps else None
            if found is not None:
                keep_known(ref, found.key, found.otherwise)
            elif place:
                new[place] = ref
            keys.append(keep(ref) if found is None else found.key)
        steady = {file for file, stamp in stamps.items() if _is_steady([file], stamp)}
        key_of = dict(zip(places, keys, strict=True))
        rows = [(place, stamps[ref.file], key_of[place]) for place, ref in new.items() if ref.file in steady]
        rows = [row for row in rows if is_read(row[-1])]
        _write(store, "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", [(*row, _flag(row[-1])) for row in rows])
    return keys


def _flag(key: str) -> int:
    return int(is_shown_otherwise(key))


def recall_table(files: Sequence[Path], column: str, rows: int) -> list[KnownPicture] | None:
    """What is kept of the pictures in a column of a table that consists of these files; None where that is nothing."""
    stamp = _stamp(files)
    if not files or stamp is None:
        return None
    with _open() as store:
        found = _run(store, "SELECT stamp, pictures FROM tables WHERE place = ?", _place(files, column))
    if not found or found[0][0] != stamp:
        return None
    try:
        known = [KnownPicture(str(key), bool(otherwise)) for key, otherwise in json.loads(found[0][1])]
    except (ValueError, TypeError):
        return None
    return known if len(known) == rows else None


def remember_table(files: Sequence[Path], column: str, keys: Sequence[str]) -> None:
    """Keep the keys of a table's pictures, which have just been read."""
    stamp = _stamp(files)
    if not files or stamp is None or not _is_steady(files, stamp):
        return
    pictures = json.dumps([(key, is_shown_otherwise(key)) for key in keys])
    with _open() as store:
        _write(store, "INSERT OR REPLACE INTO tables VALUES (?, ?, ?)", [(_place(files, column), stamp, pictures)])


@contextmanager
def _open() -> Iterator[Store | None]:
    """The store; None where it can't be used, which costs time only."""
    try:
        store = Store(cache_folder() / FILE, SCHEMA)
    except StoreError as error:
        log.debug("%s", error)
        yield None
        return
    try:
        yield store
    finally:
        store.close()


def _recall_files(store: Store | None, places: Sequence[bytes]) -> dict[tuple[bytes, str], KnownPicture]:
    found: dict[tuple[bytes, str], KnownPicture] = {}
    for asked in batches(dict.fromkeys(places), _ASKED):
        marks = ", ".join("?" * len(asked))
        for place, stamp, key, otherwise in _run(store, f"SELECT * FROM files WHERE place IN ({marks})", *asked):
            found[place, stamp] = KnownPicture(key, bool(otherwise))
    return found


def _run(store: Store | None, statement: str, *values: object) -> list[Row]:
    """The rows; none where the store can't be used."""
    try:
        return store.run(statement, *values) if store else []
    except StoreError as error:
        log.debug("%s", error)
        return []


def _write(store: Store | None, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
    if store is None or not rows:
        return
    try:
        with store.writing():
            for row in rows:
                store.run(statement, *row)
    except StoreError as error:
        log.debug("%s", error)


def _place(files: Sequence[Path], part: str) -> bytes:
    names = [os.fsencode(file.absolute()) for file in files]
    return b"\0".join([*names, part.encode("utf-8", "surrogatepass")])


def _stamp(files: Sequence[Path]) -> str | None:
    """What changes with any change of the files: ctime can be set by nobody; None where one can't be read."""
    try:
        stats = [os.stat(file) for file in files]
    except OSError:
        return None
    return json.dumps([[one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns] for one in stats])


def _is_steady(files: Sequence[Path], stamp: str) -> bool:
    """Whether the files are as they were, and had the time to show a change."""
    latest = max(int(one[-1]) for one in json.loads(stamp))
    return _stamp(files) == stamp and time.time_ns() - latest > QUIET_TIME
