"""A table or an archive of any kind is read within limits, or refused in one line: no bomb, no pipe, no way out."""

import contextlib
import gzip
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from support import json_records, unpacking
from support.errors import BenchmarkDataError, DataError, HarnessError
from support.image_folders import ImageIndex, ImageTree
from support.images import ImageRef
from support.records import read
from tasks import documents
from tests.adversary.hostile_archives import (
    LINE,
    LINES,
    MEGABYTE,
    TABLES,
    member,
    packed,
    write_zip,
    zip_of,
    zip_of_overlapping,
)
from tests.adversary.hostile_pictures import picture
from tests.adversary.test_untrusted_pictures import spent
from trainers.config.data import InstructionSource
from trainers.data.embedded import read_records as read_records_of_pairs
from trainers.data.pair_formats import read_pairs
from trainers.vlfeedback.sources import open_source

MEGABYTES, SECONDS = 300, 8


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rules at a tenth of the size, so that each case takes less than a second."""
    monkeypatch.setattr(json_records, "MAX_RECORD", 40 << 20)
    monkeypatch.setattr(unpacking, "MAX_EXPANSION", 2)
    monkeypatch.setattr(unpacking, "FREE", 16 << 20)
    monkeypatch.setattr(documents, "MAX_ROWS", 100_000)


def read_benchmark(path: Path) -> None:
    with pytest.raises(BenchmarkDataError, match=r"^t: [^\n]{8,400}$"):
        documents.load(task="t", data="t", revision="", columns=["question"], rows=1, paths={"t": str(path)})


def read_folder(path: Path) -> None:
    """The folder of the file: what is no file in it is passed by."""
    with pytest.raises(BenchmarkDataError, match=r"^t: [^\n]{8,400}$"):
        documents.load(task="t", data="t", revision="", columns=["question"], rows=1, paths={"t": str(path.parent)})


def read_records(path: Path) -> None:
    if path.is_file():
        with pytest.raises(DataError, match=r"^[^\n]{8,400}$"):
            list(read(path, strict=True))


def read_source(path: Path) -> None:
    with pytest.raises(HarnessError, match=r"^[^\n]{8,400}$"):
        list(open_source(InstructionSource(name="mine", path=str(path))).items())


READERS: Mapping[str, Callable[[Path], None]] = {
    "benchmark": read_benchmark,
    "folder": read_folder,
    "records": read_records,
    "source": read_source,
}
SLOW = ("parquet of rows",)
"""Read as a stream they are as long as they say, and no more."""


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", TABLES)
def test_a_hostile_table_is_refused_in_one_line(name: str, reader: str, tmp_path: Path) -> None:
    if name in SLOW and reader in ("records", "source"):
        pytest.skip("a stream of as many rows as it tells")
    file, write = TABLES[name]
    write(tmp_path / file)
    megabytes, seconds = spent(lambda: READERS[reader](tmp_path / file))
    many = 1500 if name == "parquet of long cells" else MEGABYTES
    assert (megabytes < many, seconds < SECONDS) == (True, True), (megabytes, seconds)


def test_honest_tables_are_read(tmp_path: Path) -> None:
    zip_of([("b/../t.jsonl", LINE), ("/etc/u.jsonl", LINE)], compression=zipfile.ZIP_DEFLATED)(tmp_path / "b.zip")
    (tmp_path / "c.jsonl").write_bytes(LINES)
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(LINES))
    assert [len(list(read(tmp_path / name))) for name in ("b.zip", "c.jsonl", "d.jsonl.gz")] == [2, 1000, 1000]


# Zips of pictures.

PNG, OTHER = picture(), picture(size=(9, 9))


def write_encrypted(path: Path) -> None:
    zip_of([("x.png", PNG)])(path)
    data = bytearray(path.read_bytes())
    for start, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(start) + at] |= 1
    path.write_bytes(data)


MEMBERS: Mapping[str, Callable[[Path], object]] = {
    "link": zip_of([(member("x.png", 0o120777), b"/etc/passwd")]),
    "twice": zip_of([("x.png", PNG), ("x.png", OTHER)]),
    "bzip2": zip_of([("x.png", PNG)], compression=zipfile.ZIP_BZIP2),
    "lzma": zip_of([("x.png", PNG)], compression=zipfile.ZIP_LZMA),
    "encrypted": write_encrypted,
    "one place": lambda path: zip_of_overlapping(path, "000x.png", PNG, 900),
    "tells less": lambda path: write_zip(path, "x.png", packed(PNG, bytes(MEGABYTE), 2000), len(PNG)),
    "tells more": lambda path: write_zip(path, "x.png", packed(PNG, b"", 0), 200 << 20),
    "300 MB": lambda path: write_zip(path, "x.png", packed(PNG, bytes(MEGABYTE), 300), 300 << 20),
    "zip in a zip": zip_of([("x.png", b"PK\3\4" + PNG)]),
    "folder": zip_of([("x.png/", b"")]),
}
BROKEN: Mapping[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "no zip": lambda path: path.write_bytes(b"PK"),
    "long list": TABLES["zip of a long list"][1],
    "cut off": lambda path: path.write_bytes(b"PK\5\6" + b"\xff" * 18),
}


def finders(path: Path) -> Iterator[Callable[[], ImageRef]]:
    yield lambda: ImageTree(path).find("x.png")
    yield lambda: ImageTree(path.parent).find("x.png")
    yield lambda: ImageIndex.of(path).find("x.png")


@pytest.mark.parametrize("name", MEMBERS)
def test_a_hostile_member_is_no_picture(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    MEMBERS[name](path)

    def look() -> None:
        for find in finders(path):
            with pytest.raises(OSError, match=r"^[^\n]{8,300}$"):
                find().open()

    megabytes, seconds = spent(look)
    assert (megabytes < MEGABYTES, seconds < SECONDS) == (True, True), (megabytes, seconds)


@pytest.mark.parametrize("name", BROKEN)
def test_a_zip_that_is_none_is_an_error_of_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    BROKEN[name](path)

    def look() -> None:
        for find in finders(path):
            with pytest.raises(HarnessError, match=r"^[^\n]{8,300}$"):
                assert find().open()

    megabytes, seconds = spent(look)
    assert (megabytes < MEGABYTES, seconds < SECONDS) == (True, True), (megabytes, seconds)


@pytest.mark.parametrize(
    "name", ("../x.png", "/x.png", "a/../../x.png", "C:\\x.png", "..\\x.png", "a\0b/x.png", "\u202ex.png")
)
def test_a_members_name_writes_nothing_anywhere(name: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    zip_of([(name, PNG), ("own.png", OTHER)])(tmp_path / "in" / "a.zip")
    before = sorted(tmp_path.rglob("*"))
    for find in (ImageTree(tmp_path / "in").find, ImageIndex.of(tmp_path / "in" / "a.zip").find):
        assert find("own.png").open().size == (9, 9)
        found = find(name)
        assert found.problem or found.read() == PNG
    assert sorted(tmp_path.rglob("*")) == before


def test_preference_data_leave_out_what_a_zip_may_not_show(tmp_path: Path) -> None:
    zip_of([("x.png", PNG), (member("y.png", 0o120777), b"/etc/passwd")])(tmp_path / "images.zip")
    names = ("x.png", "y.png", "../x.png", "/dev/zero", "http://x/x.png")
    rows = [{"images": [name], "prompt": f"p{name}", "chosen": "a cat", "rejected": "a dog"} for name in names]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = list(read_pairs(tmp_path / "pairs.jsonl", None, "trl"))
    assert [not pair.images[0].problem for pair in pairs] == [True, False, False, False, False]


# What `datasets` saved.


def write_arrow(path: Path) -> bytes:
    rows = [{"images": [{"bytes": PNG[:64], "path": None}], "prompt": "q", "chosen": "a cat", "n": [1] * 9}] * 9
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    return path.read_bytes()


@pytest.mark.parametrize("read_all", (read, read_records_of_pairs), ids=("records", "pairs"))
def test_places_beyond_an_arrow_file_end_no_process(read_all: Callable[[Path], Iterator[Any]], tmp_path: Path) -> None:
    path = tmp_path / "data.arrow"
    whole = write_arrow(path)
    assert len(list(read_all(path))) == 9

    def read_torn() -> None:
        for at in range(len(whole) // 3 // 4 * 4, len(whole), 4):
            for places in (b"\xff\xff\xff\x7f", b"\0\0\0\x80"):
                path.write_bytes(whole[:at] + places + whole[at + 4 :])
                with contextlib.suppress(DataError):
                    list(read_all(path))

    megabytes, _ = spent(read_torn)
    assert megabytes < MEGABYTES
