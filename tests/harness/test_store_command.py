"""`harness store` on ledgers, stores of answers and files of fingerprints, whole and not."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from harness.cli.main import run
from harness.engine.response_cache import ResponseCache
from tasks.judges.ledger import Ledger
from trainers.data.image_hashes import HashCache

EARLIER: Path = Path(__file__).parents[1] / "judge" / "earlier_ledger.sql"


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """A ledger as it was written before ledgers had a mark: three calls and a loss."""
    with closing(sqlite3.connect(tmp_path / "earlier.sqlite")) as db:
        db.executescript(EARLIER.read_text(encoding="utf-8"))
    return tmp_path / "earlier.sqlite"


def test_each_store_is_known_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Ledger(tmp_path / "l").close()
    ResponseCache(tmp_path / "a").of({"weights": "1"}).put({"prompt": "q"}, "yes")
    HashCache(tmp_path / "f").close()
    assert run(["store", "check", *(str(tmp_path / name) for name in "laf")]) == 0
    ledger, answers, prints = capsys.readouterr().out.splitlines()
    assert ledger.startswith(f"{tmp_path / 'l'}: a ledger, whole: 0 calls")
    assert answers == f"{tmp_path / 'a'}: a store of answers, whole: 1 models, 1 answers"
    assert prints == f"{tmp_path / 'f'}: a file of fingerprints, whole: 0 fingerprints, 0 files"


def test_an_earlier_ledger_is_upgraded_once_and_loses_nothing(
    earlier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["store", "check", str(earlier)]) == 0
    assert "3 calls, 1 losses" in capsys.readouterr().out
    assert run(["store", "upgrade", str(earlier)]) == 0
    assert "ALTER TABLE calls ADD COLUMN finish" in capsys.readouterr().out
    assert run(["store", "upgrade", str(earlier)]) == 0
    assert capsys.readouterr().out == f"{earlier}: a ledger: nothing to do\n"
    with closing(Ledger(earlier)) as ledger:
        assert [call.reply[-1] for call in ledger.calls()] == ["4", "5", "5"]


def test_a_damaged_ledger_is_told_and_rescued(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "l.sqlite"
    with closing(Ledger(path)) as ledger:
        for number in range(300):
            ledger.fail(f"{number:064}", "mmhal", "gpt", "why " * 50)
    data = bytearray(path.read_bytes())
    data[-6 * 4096 : -4 * 4096] = b"\xff" * 2 * 4096
    path.write_bytes(data)
    assert run(["store", "check", str(path)]) == 1
    assert "a ledger, damaged: " in capsys.readouterr().out
    assert run(["store", "rescue", str(path), str(tmp_path / "new.sqlite")]) == 0
    assert run(["store", "check", str(tmp_path / "new.sqlite")]) == 0
    with closing(Ledger(tmp_path / "new.sqlite")) as ledger:
        (kept,) = ledger.failures().values()
        assert 200 < len(kept) <= 300


@pytest.mark.parametrize("kind", ("none", "text", "folder", "other"))
def test_what_is_no_store_is_named(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x"
    if kind == "text":
        path.write_text("notes" * 99)
    elif kind == "folder":
        path.mkdir()
    elif kind == "other":
        with closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE people (name TEXT)")
    for command in (["check", str(path)], ["upgrade", str(path)], ["rescue", str(path), str(tmp_path / "new")]):
        assert run(["store", *command]) == (2 if kind == "none" else 1)
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"harness: {path}: ")
    assert not (tmp_path / "new").exists()
