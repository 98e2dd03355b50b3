"""Boards of strangers, such as those of a pull request: no file of one hangs the gate or fills the memory."""

import hashlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.evaluation.check_boards import check_boards
from leaderboards.board.board import Board
from leaderboards.board.sample import MAX_SAMPLES
from tests.adversary.mute_answers import base, put_answers

RUN, LOG = "base-chair.json", "base-chair.samples.parquet"
Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = Board(tmp_path_factory.mktemp("hostile") / "board")
    put_answers(found, "base", "chair", base)
    return found.folder


def link(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to("/dev/zero")

    return change


def pipe(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return change


def grow(name: str) -> Change:
    """To 20 GB of zeros, which take no room on the disk."""
    return lambda folder: os.truncate(folder / name, 20 << 30)


def repeat_row(rows: int, cell: str) -> Change:
    """A log in which one row, with this answer, stands for very many."""

    def change(folder: Path) -> None:
        schema = pq.read_schema(folder / LOG)
        same, cells = pa.array([0] * rows, pa.int32()), {"answer": cell, "repeats": "[]"}
        columns = [
            pa.array([False] * rows)
            if pa.types.is_boolean(field.type)
            else pa.DictionaryArray.from_arrays(same, pa.array([cells.get(field.name, "{}")]))
            for field in schema
        ]
        sink = io.BytesIO()
        pq.write_table(pa.table(dict(zip(schema.names, columns, strict=True))), sink, store_schema=False)
        assert len(sink.getvalue()) < 5 << 20
        (folder / LOG).write_bytes(sink.getvalue())
        document = json.loads((folder / RUN).read_text()) | {"samples": hashlib.sha256(sink.getvalue()).hexdigest()}
        (folder / RUN).write_text(json.dumps(document))

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    (
        (link(RUN), "not a file"),
        (link(LOG), "not a file"),
        (link("other.json"), "not a file"),
        (pipe(RUN), "not a file"),
        (pipe(LOG), "not a file"),
        (pipe("other.json"), "not a file"),
        (grow(RUN), "bytes is over the limit of"),
        (grow(LOG), "bytes is over the limit of"),
        (repeat_row(MAX_SAMPLES + 1, "A dog."), "1,000,001 samples are over the limit of 1,000,000"),
        pytest.param(
            repeat_row(5_000, "A dog. " * (1 << 16)), "unpacks to over 1,073,741,824 bytes", marks=pytest.mark.slow
        ),
    ),
)
def test_a_hostile_file_of_a_board_is_an_error_of_the_gate_at_once(
    change: Change, words: str, board: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "board"
    folder.mkdir()
    for name in (RUN, LOG):
        (folder / name).write_bytes((board / name).read_bytes())
    assert check_boards(board, folder).passed
    change(folder)
    result = check_boards(board, folder)
    assert not result.passed
    assert words in " ".join(result.errors)
