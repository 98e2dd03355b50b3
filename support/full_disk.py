"""A full disk told in one line that names it, whatever library ran into it.

with naming_full_disk(run_folder): train()
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from support.errors import HarnessError, RunError

_NUMBERS: Final = (errno.ENOSPC, errno.EDQUOT)
_WORDS: Final = ("no space left on device", "disk quota exceeded", "database or disk is full", "os error 28")
_VAGUE: Final = ("inline_container", "PytorchStreamWriter", "disk I/O error")
"""In what torch and SQLite say of a file that they could not write, for whatever reason."""
_FULL_BELOW: Final = 1 << 20
"""A disk with fewer free bytes is full: file systems keep some back."""


@contextmanager
def naming_full_disk(folder: Path) -> Iterator[None]:
    """Inside, an error of any library about a full disk is a RunError that names `folder`."""
    try:
        yield
    except HarnessError:
        raise
    except Exception as error:
        if (line := describe_full_disk(error, folder)) is None:
            raise
        raise RunError(line) from error


def describe_full_disk(error: BaseException, folder: Path | None = None) -> str | None:
    """One line that says which disk is full, if that is what an error is about; `folder` is where was written."""
    causes = list(_walk_causes(error))
    named = next((one.filename for one in causes if isinstance(one, OSError) and _is_full(one) and one.filename), None)
    places = [Path(os.fsdecode(named))] if named else [folder] if folder is not None else _list_usual_places()
    is_vague = any(word in str(one) for one in causes for word in _VAGUE)
    full = [place for place in places if is_full(place)]
    if not any(map(_is_full, causes)) and not (is_vague and full):
        return None
    where = ", ".join(map(str, full or (places if named or folder else []))) or "standard output, or a temporary file"
    return f"{where}: no space left on its disk, or your quota of it is used up; free some and run the same command"


def is_full(place: Path) -> bool:
    """Whether nothing more can be written where a path lies, or will lie."""
    return _measure_free(place) < _FULL_BELOW


def room_at(place: Path) -> float:
    """Bytes that are left for this user where a path lies, or will lie."""
    return _measure_free(place)


def _walk_causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was raised from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _is_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in _NUMBERS:
        return True
    return any(word in str(error).lower() for word in _WORDS)


def _list_usual_places() -> list[Path]:
    makers: tuple[Callable[[], str | Path], ...] = (
        Path.cwd,
        lambda: os.environ.get("HF_HOME") or Path.home(),
        tempfile.gettempdir,
    )
    found = []
    for make in makers:
        with suppress(OSError, RuntimeError):  # a folder that was removed, an account without a home
            found.append(Path(make()))
    return found


def _measure_free(place: Path) -> float:
    """Bytes that are left for this user where a path lies, or will lie."""
    for folder in (place, *place.absolute().parents):
        try:
            usage = shutil.disk_usage(folder)
            return usage.free if usage.total else float("inf")  # of /proc, which holds pipes
        except (OSError, ValueError):
            continue
    return float("inf")
