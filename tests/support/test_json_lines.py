"""Files of rows that several processes add to."""

import multiprocessing
from pathlib import Path

import pytest

from support.files import JsonLines

FORK = multiprocessing.get_context("fork")


def append_many(path: Path, name: str) -> None:
    rows = JsonLines(path)
    for number in range(60):
        rows.append([{"id": f"{name}/{number}/{part}", "text": "x" * 500} for part in range(3)])


def test_rows_added_by_several_processes_at_once_are_all_whole(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"id": "first"}\n{"id": "cut by a dead pro')
    writers = [FORK.Process(target=append_many, args=(path, name)) for name in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert set(JsonLines(path).by_id) == {"first"} | {
        f"{name}/{number}/{part}" for name in "abc" for number in range(60) for part in range(3)
    }


def test_reading_leaves_a_line_that_is_being_written_alone(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"id": "a"}\n{"id": "b"')
    assert list(JsonLines(path).by_id) == ["a"]
    with path.open("ab") as writer:
        writer.write(b', "x": 1}\n')
    assert list(JsonLines(path).by_id) == ["a", "b"]


@pytest.mark.parametrize("length", (0, 5, 65536, 65537, 200_000))
def test_an_incomplete_line_of_any_length_is_cut_off(length: int, tmp_path: Path) -> None:
    for head in (b"", b'{"id": "a"}\n'):
        path = tmp_path / "rows.jsonl"
        path.write_bytes(head + b"x" * length)
        JsonLines(path).append([{"id": "b"}])
        assert path.read_bytes() == head + b'{"id": "b"}\n'
