"""Parquet files of text and boolean columns, read and written without pyarrow, which is larger than a light install.

    data = write_columns({"id": ["1", "2"], "cut": [True, False]}, count=2)
    columns = read_columns(data, most_rows=1_000, most_bytes=1 << 20)

Written are PLAIN pages under gzip: the same bytes for the same cells. Read are PLAIN and dictionary pages, under gzip,
zstd or nothing: what pyarrow writes of such columns. UnsupportedParquetError is raised for other valid files,
ValueError for damaged ones. The format: https://github.com/apache/parquet-format (parquet.thrift, Encodings.md).
"""

import gzip
import struct
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

Cells = list[Any]
"""Of one column: str, or bool; None for a null."""

_MAGIC: Final = b"PAR1"
_BOOLEAN, _TEXT = 0, 6  # physical types
_PLAIN, _PLAIN_DICTIONARY, _RLE, _RLE_DICTIONARY = 0, 2, 3, 8
_RAW, _GZIP, _ZSTD = 0, 2, 6
_DATA_PAGE, _DICTIONARY_PAGE = 0, 2
_UTF8: Final = 0
_REQUIRED, _OPTIONAL = 0, 1
_MOST_DEPTH: Final = 16


class UnsupportedParquetError(Exception):
    """A Parquet file with columns, encodings or compression that this module does not read."""


class _Damage(Exception):
    """What is wrong in a file."""


# Writing.


def write_columns(columns: Mapping[str, Sequence[Any]], count: int) -> bytes:
    """The file of columns with `count` cells each: bool where all cells are, else text or None."""
    body = bytearray(_MAGIC)
    chunks = []
    for name, cells in columns.items():
        kind = _BOOLEAN if cells and all(isinstance(cell, bool) for cell in cells) else _TEXT
        start, (page, whole) = len(body), _write_page(kind, cells)
        body += page
        facts = [(1, kind), (2, [_PLAIN, _RLE]), (3, [name.encode()]), (4, _GZIP), (5, _Wide(count)), (6, _Wide(whole))]
        facts += [(7, _Wide(len(page))), (9, _Wide(start))]
        chunks.append((kind, name, whole, [(2, _Wide(start)), (3, facts)]))
    schema: list[Any] = [[(4, b"schema"), (5, len(chunks))]]
    for kind, name, _, _ in chunks:
        text = [(6, _UTF8), (10, [(1, [])])] if kind == _TEXT else []
        schema.append([(1, kind), (3, _OPTIONAL), (4, name.encode()), *text])
    group = [(1, [chunk for *_, chunk in chunks]), (2, _Wide(sum(whole for *_, whole, _ in chunks))), (3, _Wide(count))]
    footer = _write_struct([(1, 2), (2, schema), (3, _Wide(count)), (4, [group]), (6, b"vlm-harness")])
    return bytes(body + footer + struct.pack("<I", len(footer)) + _MAGIC)


def _write_page(kind: int, cells: Sequence[Any]) -> tuple[bytes, int]:
    """A data page with its header, and the page's size before compression with the header's."""
    levels = _write_bits([cell is not None for cell in cells])
    there = [cell for cell in cells if cell is not None]
    if kind == _BOOLEAN:
        values = _pack(there)
    else:
        values = b"".join(struct.pack("<I", len(text)) + text for text in (str(cell).encode() for cell in there))
    raw = struct.pack("<I", len(levels)) + levels + values
    packed = gzip.compress(raw, mtime=0)
    page = [(1, len(cells)), (2, _PLAIN), (3, _RLE), (4, _RLE)]
    header = _write_struct([(1, _DATA_PAGE), (2, len(raw)), (3, len(packed)), (5, page)])
    return header + packed, len(header) + len(raw)


def _write_bits(flags: Sequence[bool]) -> bytes:
    """Definition levels: one run if all are the same, else bits in groups of eight."""
    if all(flags) or not any(flags):
        return _write_varint(len(flags) << 1) + bytes([bool(flags and flags[0])])
    return _write_varint((len(flags) + 7) // 8 << 1 | 1) + _pack(flags)


def _pack(flags: Sequence[bool]) -> bytes:
    """Eight flags a byte, the first in the lowest bit."""
    number = int("".join("1" if flag else "0" for flag in reversed(flags)) or "0", 2)
    return number.to_bytes((len(flags) + 7) // 8, "little")


@dataclass(frozen=True)
class _Wide:
    """An integer of 64 bits; a plain int is written as one of 32."""

    value: int


def _write_struct(members: Sequence[tuple[int, Any]]) -> bytes:
    """Thrift's compact form of a struct: field ids with int, _Wide, bytes, a struct like this or a list of one kind."""
    data, last = bytearray(), 0
    for number, value in members:
        data += bytes([(number - last) << 4 | _kind(value)]) + _write_value(value)
        last = number
    return bytes(data + b"\x00")


def _kind(value: Any) -> int:
    match value:
        case int():
            return 5
        case _Wide():
            return 6
        case bytes():
            return 8
        case [] | [(int(), _), *_]:
            return 12
    return 9


def _write_value(value: Any) -> bytes:
    match value:
        case int() | _Wide():
            number = value if isinstance(value, int) else value.value
            return _write_varint(number << 1)
        case bytes():
            return _write_varint(len(value)) + value
        case [] | [(int(), _), *_]:
            return _write_struct(value)
    kind = _kind(value[0])
    head = bytes([len(value) << 4 | kind]) if len(value) < 15 else bytes([0xF0 | kind]) + _write_varint(len(value))
    return head + b"".join(map(_write_value, value))


def _write_varint(number: int) -> bytes:
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*data, number])


# Reading.


def read_columns(data: bytes, *, most_rows: int, most_bytes: int) -> dict[str, Cells]:
    """The cells of every column. ValueError for a damaged file, or more rows or bytes of cells than allowed."""
    try:
        return _read_columns(data, most_rows, most_bytes)
    except _Damage as error:
        raise ValueError(f"a damaged parquet file: {error}") from None
    except (LookupError, TypeError, AttributeError, OverflowError, UnicodeError, struct.error, zlib.error) as error:
        raise ValueError(f"a damaged parquet file: {type(error).__name__}: {error}") from None


def _read_columns(data: bytes, most_rows: int, most_bytes: int) -> dict[str, Cells]:
    if len(data) < 12 or data[:4] != _MAGIC or data[-4:] != _MAGIC:
        raise ValueError("not a parquet file")
    (size,) = struct.unpack("<I", data[-8:-4])
    if size > len(data) - 12:
        raise _Damage("its footer is longer than the file")
    footer = _Reader(data[-8 - size : -8]).read_struct()
    if footer[3] > most_rows:
        raise ValueError(f"{footer[3]:,} samples are over the limit of {most_rows:,}")
    root, *fields = footer[2]
    if root[5] != len(fields):
        raise UnsupportedParquetError("nested columns")
    columns: dict[str, Cells] = {field[4].decode(): [] for field in fields}
    left = most_bytes
    for group in footer[4]:
        for field, chunk in zip(fields, group[1], strict=True):
            for cells in _read_chunk(data, chunk[3], field, group[3], left):
                left -= sum(sys.getsizeof(cell) for cell in cells)
                if left < 0:
                    raise ValueError(f"unpacks to over {most_bytes:,} bytes")
                columns[field[4].decode()] += cells
    if any(len(cells) != footer[3] for cells in columns.values()):
        raise _Damage("its columns do not have as many cells as it has rows")
    return columns


def _read_chunk(
    data: bytes, facts: Mapping[int, Any], field: Mapping[int, Any], rows: int, most: int
) -> Iterator[Cells]:
    """The cells of one column in one row group, page by page."""
    kind = field[1]
    if kind not in (_BOOLEAN, _TEXT) or field[3] not in (_REQUIRED, _OPTIONAL):
        raise UnsupportedParquetError("columns that are neither text nor boolean")
    known: Cells = []
    start = facts.get(11, facts[9])
    reader = _Reader(data, start if 0 < start < facts[9] else facts[9])
    while rows > 0:
        header = reader.read_struct()
        raw = _unpack(facts[4], reader.take(header[3]), header[2], most)
        if header[1] == _DICTIONARY_PAGE:
            known = _read_plain(_Reader(raw), kind, header[7][1])
            continue
        if header[1] != _DATA_PAGE:
            raise UnsupportedParquetError("pages of version 2")
        count = header[5][1]
        if not 0 < count <= rows:
            raise _Damage("a page has more cells than its rows")
        rows -= count
        yield _read_page(_Reader(raw), header[5], kind, known, optional=field[3] == _OPTIONAL)


def _read_page(page: "_Reader", facts: Mapping[int, Any], kind: int, known: Cells, *, optional: bool) -> Cells:
    there = [1] * facts[1]
    if optional:
        if facts[3] != _RLE:
            raise UnsupportedParquetError("levels in bits")
        (size,) = struct.unpack("<I", page.take(4))
        there = _Reader(page.take(size)).read_runs(1, facts[1])
    count = sum(there)
    if facts[2] == _PLAIN:
        values = iter(_read_plain(page, kind, count))
    elif facts[2] in (_PLAIN_DICTIONARY, _RLE_DICTIONARY):
        width = page.take(1)[0]
        values = iter([known[place] for place in page.read_runs(width, count)])
    else:
        raise UnsupportedParquetError(f"encoding {facts[2]}")
    return [next(values) if flag else None for flag in there]


def _read_plain(page: "_Reader", kind: int, count: int) -> Cells:
    if kind == _BOOLEAN:
        bits = int.from_bytes(page.take((count + 7) // 8), "little")
        return [bool(bits >> place & 1) for place in range(count)]
    return [page.take(*struct.unpack("<I", page.take(4))).decode() for _ in range(count)]


def _unpack(codec: int, data: bytes, size: int, most: int) -> bytes:
    """A page's bytes; ValueError where they are not as many as it says, or too many."""
    if size > most:
        raise ValueError(f"unpacks to over {most:,} bytes")
    if codec == _RAW:
        raw = data
    elif codec == _GZIP:
        raw = zlib.decompressobj(31).decompress(data, size + 1)
    elif codec == _ZSTD:
        raw = _unpack_zstd(data, size)
    else:
        raise UnsupportedParquetError(f"compression {codec}")
    if len(raw) != size:
        raise _Damage("a page is not as long as it says")
    return raw


def _unpack_zstd(data: bytes, size: int) -> bytes:
    from backports.zstd import ZstdDecompressor, ZstdError

    try:
        return bytes(ZstdDecompressor().decompress(data, size + 1))
    except ZstdError as error:
        raise _Damage(str(error)) from None


class _Reader:
    """Reads bytes from the front; _Damage where there are not enough."""

    def __init__(self, data: bytes, place: int = 0) -> None:
        self.data, self.place = data, place

    def take(self, size: int) -> bytes:
        end = self.place + size
        if size < 0 or end > len(self.data):
            raise _Damage("it ends too early")
        taken, self.place = self.data[self.place : end], end
        return taken

    def read_varint(self) -> int:
        number = 0
        for shift in range(0, 70, 7):
            byte = self.take(1)[0]
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number
        raise _Damage("an integer has more than 64 bits")

    def read_runs(self, width: int, count: int) -> list[int]:
        """`count` integers of `width` bits in the hybrid of runs and bits."""
        if width > 32:
            raise _Damage("an index has more than 32 bits")
        found: list[int] = []
        while len(found) < count:
            head = self.read_varint()
            if head & 1:
                bits = int.from_bytes(self.take((head >> 1) * width), "little")
                number = min((head >> 1) * 8, count - len(found))
                found += _split_bits(bits, width, number)
            else:
                value = int.from_bytes(self.take((width + 7) // 8), "little")
                found += [value] * min(head >> 1, count - len(found))
                if not head >> 1:
                    raise _Damage("an empty run")
        return found

    def read_struct(self, depth: int = 0) -> dict[int, Any]:
        """A struct in Thrift's compact form: field id -> value."""
        if depth > _MOST_DEPTH:
            raise _Damage("nested too deep")
        members: dict[int, Any] = {}
        number = 0
        while head := self.take(1)[0]:
            number = number + (head >> 4) if head >> 4 else self._read_integer()
            members[number] = self._read_value(head & 15, depth)
        return members

    def _read_value(self, kind: int, depth: int) -> Any:
        match kind:
            case 1 | 2:
                return kind == 1
            case 3:
                return self.take(1)[0]
            case 4 | 5 | 6:
                return self._read_integer()
            case 7:
                return self.take(8)
            case 8:
                return self.take(self.read_varint())
            case 9 | 10:
                return self._read_list(depth)
            case 12:
                return self.read_struct(depth + 1)
        raise _Damage(f"a value of kind {kind}")

    def _read_list(self, depth: int) -> list[Any]:
        if depth > _MOST_DEPTH:
            raise _Damage("nested too deep")
        head = self.take(1)[0]
        size = self.read_varint() if head >> 4 == 15 else head >> 4
        if size > len(self.data) - self.place:
            raise _Damage("it ends too early")
        if head & 15 in (1, 2):
            return [self.take(1)[0] == 1 for _ in range(size)]
        return [self._read_value(head & 15, depth + 1) for _ in range(size)]

    def _read_integer(self) -> int:
        number = self.read_varint()
        return (number >> 1) ^ -(number & 1)


def _split_bits(bits: int, width: int, count: int) -> list[int]:
    """The first `count` integers of `width` bits, the lowest bits first."""
    step = 1024  # shifting one huge integer once a value would take quadratic time
    found: list[int] = []
    mask, wide = (1 << width) - 1, (1 << width * step) - 1
    for start in range(0, count, step):
        some = bits >> start * width & wide
        found += [some >> place * width & mask for place in range(min(step, count - start))]
    return found
