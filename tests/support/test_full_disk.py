"""A full disk is one line that names it, whichever library ran into it."""

import errno
import shutil
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.cli import application
from support import full_disk
from support.errors import RunError, UsageError
from support.files import JsonLines, atomic_path, atomic_write_text
from support.full_disk import describe_full_disk, naming_full_disk


class Usage:
    total, free = 1, 0


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every disk is full."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage)


def chained(inner: Exception, outer: Exception) -> Exception:
    outer.__context__ = inner
    return outer


TOLD = {
    "the system": OSError(errno.ENOSPC, "No space left on device"),
    "the system, with a name": OSError(errno.ENOSPC, "No space left on device", "/data/run/x.json"),
    "a quota": OSError(errno.EDQUOT, "Disk quota exceeded"),
    "safetensors": Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
    "arrow": OSError("[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device"),
    "sqlite": sqlite3.OperationalError("database or disk is full"),
    "torch": RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),
    "torch's writer": RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
    "behind another error": chained(OSError(errno.ENOSPC, "No space left"), ValueError("I/O operation on closed file")),
    "two behind": chained(chained(OSError(errno.ENOSPC, "x"), KeyError("y")), RuntimeError("z")),
}


@pytest.mark.parametrize("library", TOLD)
@pytest.mark.usefixtures("full")
def test_a_full_disk_is_named(library: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no space left on its disk") as error, naming_full_disk(tmp_path):
        raise TOLD[library]
    where = "/data/run/x.json" if "with a name" in library else str(tmp_path)
    assert str(error.value).startswith(f"{where}: ")
    assert describe_full_disk(TOLD[library]) is not None


OTHERS = (
    OSError(errno.EACCES, "Permission denied", "x"),
    FileNotFoundError(errno.ENOENT, "No such file", "x"),
    RuntimeError("CUDA out of memory"),
    ValueError("28"),
    KeyError("no"),
    KeyboardInterrupt(),
)


@pytest.mark.parametrize("error", OTHERS, ids=repr)
@pytest.mark.usefixtures("full")
def test_other_errors_stay_what_they_are(error: BaseException, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as found, naming_full_disk(tmp_path):
        raise error
    assert found.value is error


def test_torchs_words_count_on_a_full_disk_only(tmp_path: Path) -> None:
    assert describe_full_disk(TOLD["torch"], tmp_path) is None


@pytest.mark.usefixtures("full")
def test_an_error_of_ours_keeps_its_words(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="mine"), naming_full_disk(tmp_path):
        raise UsageError("mine") from OSError(errno.ENOSPC, "x")


def test_writers_of_files_name_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    atomic_write_text(tmp_path / "a.json", "old")
    with pytest.raises(RunError, match=r"a\.json: no space left"), atomic_path(tmp_path / "a.json"):
        refuse()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.json", "old")]
    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(RunError, match=r"rows\.jsonl: no space left"):
        JsonLines(tmp_path / "rows.jsonl").append([{"id": "1"}])


def test_any_command_says_it_in_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def raises(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(application, "root_command", lambda: SimpleNamespace(main=raises))
    monkeypatch.setattr(full_disk, "_measure_free", lambda place: 0.0)
    assert application.run(["models"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("harness: ")
    assert "no space left on its disk" in line
