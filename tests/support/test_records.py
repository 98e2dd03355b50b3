"""Every kind of data file gives the same records, a piece at a time, and errors name the file and the line."""

import gzip
import json
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from support import json_records, records
from support.errors import DataError

ROWS = [{"id": str(number), "text": f'é "[{number}]", \n{{' + "x" * number * 40} for number in range(9)]


def write_separated(path: Path, separator: str, encoding: str = "utf-8-sig", mark: str = "") -> None:
    quoted = [[f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in row.values()] for row in ROWS]
    text = "\r\n".join(separator.join(cells) for cells in [["id", " text"], *quoted])
    path.write_text(mark + text, encoding, newline="")


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("b/rows.json", json.dumps(ROWS[4:], indent=1))
        archive.writestr("a.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS[:4]))
        archive.writestr("readme.txt", "no table")
        archive.writestr("__MACOSX/b/._rows.json", b"\x00\x05\x16\x07")
        archive.writestr(".cache/rows.jsonl", "{}")


def write_parquet(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(ROWS), path)


LINES = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
FILES: dict[str, Callable[[Path], Any]] = {
    "lines.jsonl": lambda path: path.write_text(LINES, "utf-8"),
    "lines.json": lambda path: path.write_text(LINES + "\n\n", "utf-8"),
    "dos.jsonl": lambda path: path.write_text(LINES, "utf-8-sig", newline="\r\n"),
    "packed.jsonl.gz": lambda path: path.write_bytes(gzip.compress(LINES.encode())),
    "list.json": lambda path: path.write_text(json.dumps(ROWS, indent=1, ensure_ascii=False), "utf-8-sig"),
    "list.jsonl": lambda path: path.write_text("\n\n" + json.dumps(ROWS), "utf-8"),
    "one_by_one.json": lambda path: path.write_text("\n".join(json.dumps(row, indent=2) for row in ROWS), "utf-8"),
    "rows.csv": lambda path: write_separated(path, ","),
    "rows.TSV": lambda path: write_separated(path, "\t"),
    "rows.zip": write_zip,
    "lines.ndjson": lambda path: path.write_text(LINES, "utf-8"),
    "little.tsv": lambda path: write_separated(path, "\t", "utf-16"),
    "big.csv": lambda path: write_separated(path, ",", "utf-16-be", "\ufeff"),
    "wrapped.json": lambda path: path.write_text(json.dumps({"version": "1", "data": ROWS, "by": {"me": 1}}), "utf-8"),
    "rows.json": lambda path: path.write_text(json.dumps({"Rows": ROWS}, indent=1), "utf-8-sig"),
    "rows.parquet": write_parquet,
}


@pytest.mark.parametrize("chunk", (7, 1 << 20))
@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_gives_its_records(
    name: str, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_records, "CHUNK", chunk)
    FILES[name](tmp_path / name)
    assert list(records.read(tmp_path / name, strict=True)) == ROWS


@pytest.mark.parametrize(
    ("name", "record"),
    (
        ("a.json", {"data": [1, 2]}),
        ("a.json", {"data": [{"n": 1}], "answers": [2]}),
        ("a.json", {"turns": [{"n": 1}]}),
        ("a.json", {"data": []}),
        ("a.jsonl", {"data": [{"n": 1}]}),
    ),
)
def test_an_object_with_another_list_is_a_record(name: str, record: Any, tmp_path: Path) -> None:
    (tmp_path / name).write_text(json.dumps(record))
    assert list(records.read(tmp_path / name)) == [record]
    (tmp_path / "two.json").write_text(json.dumps({"data": [{"n": 1}]}) + "\n" + json.dumps(record) + "\n")
    assert len(list(records.read(tmp_path / "two.json"))) == 2


def test_a_line_is_found_again_by_its_byte(tmp_path: Path) -> None:
    for name in ("lines.jsonl", "dos.jsonl"):
        FILES[name](tmp_path / name)
        assert [records.read_at(tmp_path / name, at) for at, _ in records.read_lines(tmp_path / name)] == ROWS


@pytest.mark.parametrize(("text", "whole"), ((LINES[:-5], 8), ('{"id": "é', 0)))
def test_a_last_line_that_was_cut_off_is_left_out_and_told_or_an_error(text: str, whole: int, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(text, "utf-8")
    told: list[str] = []
    assert list(records.read(path, lambda: told.append("incomplete"))) == ROWS[:whole] == list(records.read(path))
    assert told == ["incomplete"]
    with pytest.raises(DataError, match=rf"a\.jsonl, line {whole + 1}: not JSON"):
        list(records.read(path, strict=True))


def numbered(count: int) -> str:
    return ",\n".join(json.dumps({"n": number, "text": "x" * 99}) for number in range(count))


@pytest.mark.parametrize(
    ("name", "text", "why"),
    (
        ("a.jsonl", '{"a": 1}\n{"a": \n{"a": 3}\n', "line 2: not JSON"),
        ("a.jsonl", '{"a": 1}\n[1]\n', "line 2: list where an object is due"),
        ("a.jsonl", "plain text\n", "line 1: not JSON"),
        ("a.json", '[{"a": 1},\n{"a": 2}', "the list ends without its bracket"),
        ("a.json", '[{"a": 1},\n{"a": ', "line 2: not JSON"),
        ("a.json", '[{"a": 1},\n2]', "line 2: int where an object is due"),
        ("a.json", '{"a": 1}\n]', "line 2: not JSON"),
        ("a.json", f"[{numbered(30)},\n{{'n': 30}},\n{numbered(30)}]", "line 31: not JSON"),
        ("a.json", '{"deep": ' + "[" * 100_000, "line 1: "),
        ("a.jsonl", '{"a": 1}'.encode("utf-16"), "is UTF-16; save it as UTF-8"),
        ("a.csv", "a,b,a\n1,2,3\n", "the column 'a' is there twice"),
        ("a.tsv", "a\tb\n1\t2\t\t\n1\t2\t3\n", r"line 3: has more cells than there are columns \(2\)"),
        ("a.csv", b"a,b\n1,\xff\n", "can't be read: 'utf-8' codec"),
        ("a.jsonl.gz", b"no gzip", "can't be read: "),
        ("a.zip", b"no zip", "can't be read: "),
        ("a.parquet", b"no parquet", "not a parquet file"),
    ),
)
def test_what_is_no_record_is_named_with_its_place(
    name: str, text: str | bytes, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_records, "CHUNK", 256)
    (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(DataError, match=rf"{name}(, |: ){why}") as caught:
        list(records.read(tmp_path / name, strict=True))
    assert "\n" not in str(caught.value)


def test_a_mistake_at_the_start_of_a_large_list_is_found_without_reading_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_records, "CHUNK", 256)
    read: list[int] = []

    class Counting:
        def __init__(self, pieces: Iterable[str]) -> None:
            self.pieces = iter(pieces)

        def read(self, size: int) -> str:
            read.append(size)
            return next(self.pieces, "")

    text: Any = Counting(['[{"n": 1}, {oops}, ' + "{" * 256, *["x" * 256] * 999])
    with pytest.raises(DataError, match="line 1: not JSON"):
        list(json_records._read_json_texts(text, "big.json"))
    assert len(read) == 1


@pytest.mark.parametrize("form", ("jsonl", "json"))
def test_half_a_character_becomes_the_replacement_character(form: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{form}"
    text = json.dumps({"a": "x \ud83d y", "b": "\ud83d\ude00"})
    path.write_text(f"[{text}]" if form == "json" else text)
    assert list(records.read(path)) == [{"a": "x \ufffd y", "b": "\U0001f600"}]
