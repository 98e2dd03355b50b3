"""Which files of a folder are one dataset, and what is refused."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from support.errors import DataError
from support.records import read
from support.shards import data_files, holds


def wanted(columns: Any) -> bool:
    return "prompt" in columns


def put(folder: Path, files: dict[str, Any]) -> None:
    """Files whose rows have these numbers; text for other files."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name, rows in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(rows, str):
            path.write_text(rows)
            continue
        records = [{"id": place, "prompt": f"What is {number}?"} for place, number in enumerate(rows)]
        if name.endswith(".parquet"):
            pq.write_table(pa.Table.from_pylist(records), path)
        else:
            path.write_text("".join(json.dumps(record) + "\n" for record in records))


ONE = range(50)
TWO = range(50, 100)


@pytest.mark.parametrize(
    ("files", "found"),
    (
        ({"a.jsonl": ONE}, ["a.jsonl"]),
        ({"p-0.jsonl": ONE, "p-1.jsonl": TWO}, ["p-0.jsonl", "p-1.jsonl"]),
        (
            {
                f"data/{split}-0000{n}-of-00002.parquet": range(50 * n, 50 * n + 9)
                for n in (0, 1)
                for split in ("train",)
            }
            | {"data/test-00000-of-00001.parquet": range(900, 909), "README.md": "text"},
            ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
        ),
        ({"train.jsonl": ONE, "validation.jsonl": TWO, "test.jsonl": range(200, 210)}, ["train.jsonl"]),
        ({"rlaif_train.parquet": ONE, "rlaif_val.parquet": TWO}, ["rlaif_train.parquet"]),
        ({"train/0000.parquet": ONE, "test/0000.parquet": TWO}, ["train/0000.parquet"]),
        ({"data/train/0000.parquet": ONE, "data/test/0000.parquet": TWO}, ["data/train/0000.parquet"]),
        ({"test-00000-of-00001.parquet": ONE}, ["test-00000-of-00001.parquet"]),
        ({"part-00000001.jsonl": ONE, "part-00000002.jsonl": TWO}, ["part-00000001.jsonl", "part-00000002.jsonl"]),
        ({"a.jsonl": ONE, "a.parquet": ONE}, ["a.jsonl"]),
        ({"a.jsonl": ONE, "a.jsonl.bak": "x", ".a.jsonl.swp": "x", "info.json": '{"rows": 1}'}, ["a.jsonl"]),
        ({"all.jsonl": ONE, "data/train-00000-of-00001.parquet": ONE}, ["all.jsonl"]),  # a clone of VLFeedback
    ),
)
def test_shards_of_one_split_are_one_dataset(files: dict[str, Any], found: list[str], tmp_path: Path) -> None:
    put(tmp_path, files)
    assert [str(path.relative_to(tmp_path)) for path in data_files(tmp_path, wanted)] == found
    assert holds(tmp_path, wanted)


@pytest.mark.parametrize(
    "files",
    (
        {"p.jsonl": ONE, "p-old.jsonl": ONE},
        {"p.jsonl": ONE, "p.backup.jsonl": TWO},
        {"p.jsonl": ONE, "p.json": ONE},
        {"p.jsonl": ONE, "Copy of p.jsonl": TWO},
        {"p-1.jsonl": ONE, "p-1 (1).jsonl": TWO},
        {"p-v1.jsonl": ONE, "p-v2.jsonl": TWO},
        {"p_v1.parquet": ONE, "p_v2.parquet": TWO},
        {"p-2026-11-29.jsonl": ONE, "p-2026-11-30.jsonl": TWO},
        {"p-20261129.jsonl": ONE, "p-20261130.jsonl": TWO},
        {"p-1.jsonl": ONE, "p-2.jsonl": range(5, 60)},
        {"p-1.jsonl": ONE, "p-2.jsonl": ONE},
        {"p-00000-of-00002.parquet": ONE, "p-00000-of-00003.parquet": TWO},
        {"p-0.jsonl": ONE, "p-1.parquet": TWO},
        {"train-a.jsonl": ONE, "train-b.jsonl": TWO, "test.jsonl": range(200, 210)},
    ),
)
def test_versions_of_one_file_are_not_shards(files: dict[str, Any], tmp_path: Path) -> None:
    put(tmp_path, files)
    with pytest.raises(DataError, match=r"which of .*\? Name one, they "):
        data_files(tmp_path, wanted)


def test_files_are_named_by_a_pattern(tmp_path: Path) -> None:
    put(tmp_path, {"data/train-0.parquet": ONE, "data/train-1.parquet": TWO, "data/test-0.parquet": range(200, 210)})
    assert [path.name for path in data_files(tmp_path / "data" / "t*-0.parquet", wanted)] == [
        "test-0.parquet",
        "train-0.parquet",
    ]
    assert holds(tmp_path / "data" / "test-*.parquet", wanted)
    with pytest.raises(DataError, match="no such file or folder"):
        data_files(tmp_path / "data" / "dev-*.parquet", wanted)


def test_what_is_left_alone_and_what_is_missing_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path, {"train-00000-of-00003.parquet": ONE, "test-00000-of-00001.parquet": TWO})
    with caplog.at_level(logging.INFO):
        data_files(tmp_path, wanted)
    assert "the split train is read; left alone: test-00000-of-00001.parquet" in caplog.text
    assert "1 of 3 shards are here" in caplog.text


def test_what_datasets_saved_is_read(tmp_path: Path) -> None:
    from datasets import Dataset

    Dataset.from_list([{"prompt": f"What is {number}?"} for number in range(300)]).save_to_disk(str(tmp_path / "saved"))
    (file,) = data_files(tmp_path / "saved", wanted)
    assert [record["prompt"] for record in read(file)] == [f"What is {number}?" for number in range(300)]
    file.write_bytes(b"no table")
    with pytest.raises(DataError, match="not a file that datasets saved"):
        list(read(file))
