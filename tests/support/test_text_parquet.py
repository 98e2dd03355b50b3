"""Files of text columns against pyarrow's: each reads what the other wrote; damaged files are ValueErrors."""

import random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.text_parquet import UnsupportedParquetError, read_columns, write_columns

LIMITS: dict[str, int] = {"most_rows": 10_000, "most_bytes": 1 << 24}
CELL = st.one_of(st.none(), st.sampled_from(["", "yes", "ä\n", "🙂" * 50]), st.text(st.characters(codec="utf-8")))
ROWS = st.lists(st.tuples(CELL, st.sampled_from(["a", "b"]), st.booleans()), min_size=1, max_size=60)


def columns_of(rows: list[tuple[Any, ...]]) -> dict[str, list[Any]]:
    return dict(zip(("answer", "task", "cut"), map(list, zip(*rows, strict=True)), strict=True))


def written_by_pyarrow(columns: dict[str, list[Any]], **options: Any) -> bytes:
    schema = pa.schema([("answer", pa.string()), ("task", pa.string()), ("cut", pa.bool_())])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, schema=schema), sink, **options)
    return bytes(sink.getvalue())


@settings(max_examples=50, deadline=None)
@given(ROWS)
def test_what_is_written_is_read_by_pyarrow_and_here(rows: list[tuple[Any, ...]]) -> None:
    columns = columns_of(rows)
    data = write_columns(columns, len(rows))
    table = pq.read_table(pa.BufferReader(data))
    assert table.to_pydict() == columns == read_columns(data, **LIMITS)
    assert [field.type for field in table.schema] == [pa.string(), pa.string(), pa.bool_()]


@settings(max_examples=50, deadline=None)
@given(ROWS, st.sampled_from(["zstd", "gzip", "none"]), st.booleans(), st.sampled_from([7, 10_000]))
def test_what_pyarrow_writes_is_read(rows: list[tuple[Any, ...]], codec: str, dictionary: bool, group: int) -> None:
    columns = columns_of(rows)
    data = written_by_pyarrow(
        columns, compression=codec, use_dictionary=dictionary, row_group_size=group, data_page_size=64
    )
    assert read_columns(data, **LIMITS) == columns


def test_many_rows_are_read_whole() -> None:
    rows = [(str(row % 1_500) if row % 7 else None, "ab"[row % 2], row % 3 == 0) for row in range(9_000)]
    columns = columns_of(rows)
    assert read_columns(write_columns(columns, len(rows)), **LIMITS) == columns
    assert read_columns(written_by_pyarrow(columns, compression="zstd"), **LIMITS) == columns


@pytest.mark.parametrize("options", ({"compression": "snappy"}, {"data_page_version": "2.0"}))
def test_what_is_not_read_here_is_told_apart_from_damage(options: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedParquetError):
        read_columns(written_by_pyarrow(columns_of([("x" * 500, "a", True)] * 20), **options), **LIMITS)


def test_columns_of_other_kinds_are_told_apart_from_damage() -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"number": [1, 2]}), sink, compression="none")
    with pytest.raises(UnsupportedParquetError):
        read_columns(bytes(sink.getvalue()), **LIMITS)


def test_a_damaged_file_is_a_value_error() -> None:
    chance = random.Random(0)
    rows = [(f"answer {row}", "a", row % 5 == 0) for row in range(300)]
    whole = (write_columns(columns_of(rows), 300), written_by_pyarrow(columns_of(rows), compression="zstd"))
    damaged = 0
    for turn in range(400):
        data = bytearray(whole[turn % 2])
        if turn % 3:
            for _ in range(6):
                data[-1 - chance.randrange(len(data) if turn % 3 == 1 else 600)] = chance.randrange(256)
        else:
            del data[chance.randrange(len(data)) :]
        try:
            read_columns(bytes(data), **LIMITS)
        except (ValueError, UnsupportedParquetError):
            damaged += 1
    assert damaged > 300


def test_a_few_bytes_do_not_become_gigabytes() -> None:
    data = write_columns(columns_of([("x" * 1_000_000, "a", True)]), 1)
    with pytest.raises(ValueError, match="unpacks to over 1,000 bytes"):
        read_columns(data, most_rows=10, most_bytes=1_000)
    shown = written_by_pyarrow(columns_of([("x" * 100_000, "a", True)] * 5_000), compression="zstd")
    assert len(shown) < 10_000
    with pytest.raises(ValueError, match="unpacks to over"):
        read_columns(shown, most_rows=5_000, most_bytes=1 << 24)
    with pytest.raises(ValueError, match="5,000 samples are over the limit of 100"):
        read_columns(shown, most_rows=100, most_bytes=1 << 30)
