"""Pictures that stand in a table, read when they are looked at: only those of a few rows are in memory.

    for record in read_records(Path("RLAIF-V/data/0.parquet")):
        record["image"]        # an ImageRef in place of the struct of bytes and path; its reader is an EmbeddedPicture

Two embedded pictures are equal if their bytes are. What is read of them while records go by is their digest alone.
"""

import hashlib
import logging
import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

from support.errors import DataError, one_line
from support.image_cells import bytes_in_text, is_image_text
from support.images import ImageRef
from support.records import (
    ARROW,
    PARQUET,
    TEXT,
    Incomplete,
    Record,
    open_parquet,
    read,
    read_arrow,
    read_at,
    read_lines,
    suffix,
)

ROWS: Final = 16
"""Rows whose pictures are read at a time."""
KEPT: Final = 4 + (os.cpu_count() or 1) // 4
"""How many times that many rows of a table stay in memory: pictures are looked at in about their order, a few a CPU."""

LARGE: Final = 256 << 20
"""Bytes of a row group that is slow to look into."""

log = logging.getLogger(__name__)

Steps = tuple[str | int, ...]
"""Keys and places that lead to a value within a record."""


@dataclass(frozen=True)
class EmbeddedPicture:
    """Reads one picture of a table."""

    digest: str
    """sha256 of its bytes."""
    table: Path = field(compare=False)
    row: int = field(compare=False)
    """Its place in the table; of JSON lines the byte where the line starts."""
    steps: Steps = field(compare=False)

    def __call__(self) -> bytes:
        """Its bytes; OSError if the table has been changed."""
        column = str(self.steps[0])
        try:
            if suffix(self.table, TEXT):
                value = read_at(self.table, self.row)[column]
            else:
                value = _open_table(self.table, os.getpid()).value(self.row, column)
            for step in self.steps[1:]:
                value = value[step]
            value = bytes_in_text(value) if isinstance(value, str) else value
        except (DataError, LookupError, TypeError, ValueError) as error:
            raise OSError(f"{self.table}, row {self.row}: can't be read again: {error}") from None
        if not isinstance(value, bytes) or hashlib.sha256(value).hexdigest() != self.digest:
            raise OSError(f"{self.table}, row {self.row}: its picture has changed since the table was read")
        return value


def read_records(path: Path, incomplete: Incomplete | None = None) -> Iterator[Record]:
    """As `support.records.read`, with pictures of parquet and Arrow tables, and of JSON lines, left in their place."""
    if suffix(path, (PARQUET, ARROW)):
        rows: Iterable[tuple[int, Record]] = enumerate(_read_rows(path))
    elif suffix(path, (".jsonl", ".json")):
        rows = read_lines(path, incomplete, strict=False)
    else:
        rows = ((-1, record) for record in read(path, incomplete))
    for row, record in rows:
        # What has no own line can't be found again.
        yield record if row < 0 else {name: _leave(value, path, row, (name,)) for name, value in record.items()}


def _leave(value: Any, table: Path, row: int, steps: Steps) -> Any:
    """A value with an ImageRef for each image struct and all bytes in it."""
    data = bytes_in_text(value) if isinstance(value, str) and is_image_text(value) else value
    if isinstance(data, bytes) and data:
        return ImageRef("", reader=EmbeddedPicture(hashlib.sha256(data).hexdigest(), table, row, steps))
    if isinstance(value, Mapping):
        found = {key: _leave(inner, table, row, (*steps, key)) for key, inner in value.items()}
        picture, name = found.get("bytes"), found.get("path")
        if isinstance(picture, ImageRef):
            return ImageRef(name if isinstance(name, str) else "", reader=picture.reader)
        address = found.get("url")
        return address if isinstance(address, ImageRef) and found.keys() <= {"url", "detail"} else found
    if isinstance(value, list):
        return [_leave(inner, table, row, (*steps, place)) for place, inner in enumerate(value)]
    return value


def _read_rows(path: Path) -> Iterator[Record]:
    import pyarrow as pa

    try:
        batches = read_arrow(path) if path.suffix == ARROW else open_parquet(path).iter_batches(batch_size=ROWS)
        for batch in batches:
            for start in range(0, batch.num_rows, ROWS):
                yield from batch.slice(start, ROWS).to_pylist()
    except (
        pa.ArrowException,
        OSError,
        ValueError,
        OverflowError,
    ) as error:  # text that is no UTF-8, times of year 10^6
        raise DataError(f"{path}: can't be read: {one_line(error)}") from error


class _Table:
    """Values of any row of a table; rows that are asked for in their order are read once."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._kept: OrderedDict[tuple[str, int, int], list[Any]] = OrderedDict()
        """(Column, first row, row behind the last one) -> values."""
        self._open: dict[str, tuple[int, int, Iterator[Any]]] = {}
        """Column -> a row group, its next row, and the batches from there to its end."""
        if path.suffix == ARROW:
            self._batches = list(read_arrow(path))  # these stay in the file
            sizes = [batch.num_rows for batch in self._batches]
        else:
            self._file = open_parquet(path)
            about = self._file.metadata
            groups = [about.row_group(group) for group in range(about.num_row_groups)]
            sizes = [group.num_rows for group in groups]
            if (largest := max((group.total_byte_size for group in groups), default=0)) > LARGE:
                log.warning(
                    "%s: row groups of up to %d MB, of which each look at a picture reads much; "
                    "`harness vlfeedback convert %s NEW.parquet --embed-images` writes it in small ones",
                    *(path, largest >> 20, path),
                )
        self._starts = [0, *accumulate(sizes)]

    def value(self, row: int, column: str) -> Any:
        """The value of a column in a row; DataError, LookupError."""
        with self._lock:
            for known, first, end in self._kept:
                if known == column and first <= row < end:
                    return self._kept[known, first, end][row - first]
            return self._read(row, column)

    def _read(self, row: int, column: str) -> Any:
        import pyarrow as pa

        group = bisect_right(self._starts, row) - 1
        if self._path.suffix == ARROW:
            return self._batches[group].column(column)[row - self._starts[group]].as_py()
        opened, at, batches = self._open.get(column, (group, row + 1, iter(())))
        if opened != group or at > row:
            at, batches = self._starts[group], self._file.iter_batches(ROWS, row_groups=[group], columns=[column])
        try:
            for batch in batches:
                first, at = at, at + batch.num_rows
                if row < at:
                    values = batch.column(0).to_pylist()
                    self._kept[column, first, at] = values
                    while len(self._kept) > KEPT:
                        self._kept.popitem(last=False)
                    self._open[column] = group, at, batches
                    return values[row - first]
        except (pa.ArrowException, OSError) as error:
            raise DataError(str(error)) from None
        raise LookupError(f"it has no row {row}")


@lru_cache(maxsize=64)
def _open_table(path: Path, process: int) -> _Table:
    # One for each process: a forked one would move the position in the file that both have open.
    return _Table(path)
