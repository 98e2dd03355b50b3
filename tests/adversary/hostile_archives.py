"""Zips, gzip files and tables that are made to cost their reader hours or gigabytes, or to lead it elsewhere."""

import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

ROW = {"question": "Is it?", "image": "own.png"}
LINE = json.dumps(ROW).encode() + b"\n"
MEGABYTE = 1 << 20


def packed(start: bytes, block: bytes, times: int) -> bytes:
    """Deflated `start` and `times` blocks, made without unpacking them."""
    first, again = (zlib.compressobj(9, wbits=-15) for _ in range(2))
    head = first.compress(start) + first.flush(zlib.Z_FULL_FLUSH)
    piece = again.compress(block) + again.flush(zlib.Z_FULL_FLUSH)
    return head + piece * times + zlib.compressobj(9, wbits=-15).flush()


def write_gzip(path: Path, start: bytes, block: bytes, times: int) -> None:
    path.write_bytes(b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + packed(start, block, times) + bytes(8))


def write_zip(path: Path, name: str, data: bytes, told: int) -> None:
    """A zip of one member whose packed bytes these are, and which is said to have `told`."""
    sizes = struct.pack("<LLL", 0, len(data), told)
    body = b"PK\3\4" + struct.pack("<HHHHH", 20, 0, 8, 0, 33) + sizes + struct.pack("<HH", len(name), 0)
    body += name.encode() + data
    listing = b"PK\1\2" + struct.pack("<HHHHHH", 20, 20, 0, 8, 0, 33) + sizes
    listing += struct.pack("<HHHHHLL", len(name), 0, 0, 0, 0, 0, 0) + name.encode()
    path.write_bytes(body + listing + b"PK\5\6" + struct.pack("<HHHHLLH", 0, 0, 1, 1, len(listing), len(body), 0))


def zip_of(members: Iterable[tuple[str | zipfile.ZipInfo, bytes]], **options: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", **options) as archive:  # type: ignore[call-overload]
            for name, data in members:
                archive.writestr(name, data)

    return write


def member(name: str, mode: int = 0o100644, **fields: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def zip_of_overlapping(path: Path, name: str, data: bytes, count: int) -> None:
    """Many members of one place: each entry of the list names the same bytes."""
    packer = zlib.compressobj(9, wbits=-15)
    packed = packer.compress(data) + packer.flush()
    crc, listing = zlib.crc32(data), b""
    sizes = struct.pack("<LLL", crc, len(packed), len(data))
    body = b"PK\3\4" + struct.pack("<HHHHH", 20, 0, 8, 0, 33) + sizes + struct.pack("<HH", len(name), 0)
    body += name.encode() + packed
    for number in range(count):
        own = f"{number}{name}".encode()[-len(name) :] if number else name.encode()
        listing += b"PK\1\2" + struct.pack("<HHHHHH", 20, 20, 0, 8, 0, 33) + sizes
        listing += struct.pack("<HHHHHLL", len(own), 0, 0, 0, 0, 0, 0) + own
    end = b"PK\5\6" + struct.pack("<HHHHLLH", 0, 0, count, count, len(listing), len(body), 0)
    path.write_bytes(body + listing + end)


def zip_of_a_long_list(path: Path) -> None:
    """It tells a list of 3 GB of members, in a sparse file."""
    size = 3 << 30
    with path.open("wb") as file:
        file.truncate(size)
        file.seek(size)
        file.write(b"PK\5\6" + struct.pack("<HHHHLLH", 0, 0, 0xFFFF, 0xFFFF, size, 0, 0))


def write_sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 30)


def write_deep(path: Path) -> None:
    path.write_bytes(b'{"question": ' + b"[" * 1_000_000 + b"]" * 1_000_000 + b', "image": "own.png"}\n')


def write_digits(path: Path) -> None:
    path.write_bytes(b'{"question": ' + b"9" * 100_000 + b', "image": "own.png"}\n')


def write_digits_in_list(path: Path) -> None:
    path.write_bytes(b'[\n{"question": ' + b"9" * 100_000 + b', "image": "own.png"}]\n')


def write_parquet_of_rows(path: Path) -> None:
    """Millions of rows in a few kilobytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    column = pa.DictionaryArray.from_arrays(pa.nulls(6_000_000, pa.int8()).fill_null(0), pa.array(["own.png"]))
    pq.write_table(pa.table({"question": column, "image": column}), path, compression="zstd")


def write_parquet_of_long_cells(path: Path) -> None:
    """A long text that each of many rows shows once more."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    places = pa.nulls(20_000, pa.int32()).fill_null(0)
    column = pa.DictionaryArray.from_arrays(places, pa.array(["x" * (8 << 20)]))
    names = pa.DictionaryArray.from_arrays(places, pa.array(["own.png"]))
    pq.write_table(
        pa.table({"question": column, "image": names}), path, compression="zstd", dictionary_pagesize_limit=1 << 30
    )


LARGE = 3000
LONG = json.dumps(ROW | {"question": "Is it? " * 150}).encode() + b"\n"
CELL, LINES, CSV = b'{"question": "', LONG * 1000, (b"a" * 1000 + b",own.png\n") * 1000
HEAD = b"question,image\n"
TABLES: Mapping[str, tuple[str, Callable[[Path], object]]] = {
    "gzip of one line": ("t.jsonl.gz", lambda path: write_gzip(path, CELL, b"x" * MEGABYTE, LARGE)),
    "gzip of zeros": ("t.jsonl.gz", lambda path: write_gzip(path, b"", bytes(MEGABYTE), LARGE)),
    "gzip of lines": ("t.jsonl.gz", lambda path: write_gzip(path, b"", LINES, LARGE)),
    "gzip of a list": ("t.jsonl.gz", lambda path: write_gzip(path, b"[\n", LINES.replace(b"\n", b",\n"), LARGE)),
    "zip of one line": (
        "t.zip",
        lambda path: write_zip(path, "t.jsonl", packed(CELL, b"x" * MEGABYTE, LARGE), 3 << 30),
    ),
    "zip of lines": ("t.zip", lambda path: write_zip(path, "t.jsonl", packed(b"", LINES, LARGE), 3 << 30)),
    "zip of a csv": ("t.zip", lambda path: write_zip(path, "t.csv", packed(HEAD, CSV, LARGE), 3 << 30)),
    "zip of one cell": ("t.zip", lambda path: write_zip(path, "t.csv", packed(HEAD, b"x" * MEGABYTE, LARGE), 3 << 30)),
    "zip that lies": ("t.zip", lambda path: write_zip(path, "t.jsonl", packed(b"", bytes(MEGABYTE), LARGE), 100)),
    "zip of one place": ("t.zip", lambda path: zip_of_overlapping(path, "0000t.jsonl", LINE * 300_000, 3000)),
    "zip of a long list": ("t.zip", zip_of_a_long_list),
    "zip with a link": ("t.zip", zip_of([(member("t.jsonl", 0o120777), b"/etc/passwd")])),
    "zip with a table twice": ("t.zip", zip_of([("t.jsonl", LINE), ("t.jsonl", LINE + LINE)])),
    "zip of bzip2": ("t.zip", zip_of([("t.jsonl", LINE)], compression=zipfile.ZIP_BZIP2)),
    "zip of lzma": ("t.zip", zip_of([("t.jsonl", LINE)], compression=zipfile.ZIP_LZMA)),
    "zip in a zip": ("t.zip", zip_of([("t.zip", b"PK")])),
    "no zip": ("t.zip", lambda path: path.write_bytes(b"PK\5\6 no zip")),
    "line of a gigabyte": ("t.jsonl", write_sparse),
    "json of a gigabyte": ("t.json", write_sparse),
    "csv of a gigabyte": ("t.csv", write_sparse),
    "tsv of a gigabyte": ("t.tsv", write_sparse),
    "parquet of a gigabyte": ("t.parquet", write_sparse),
    "deep json": ("t.jsonl", write_deep),
    "deep json list": ("t.json", write_deep),
    "digits": ("t.jsonl", write_digits),
    "digits in a list": ("t.json", write_digits_in_list),
    "pipe": ("t.jsonl", lambda path: os.mkfifo(path)),
    "pipe of gzip": ("t.jsonl.gz", lambda path: os.mkfifo(path)),
    "pipe of a zip": ("t.zip", lambda path: os.mkfifo(path)),
    "pipe of parquet": ("t.parquet", lambda path: os.mkfifo(path)),
    "parquet of rows": ("t.parquet", write_parquet_of_rows),
    "parquet of long cells": ("t.parquet", write_parquet_of_long_cells),
}
