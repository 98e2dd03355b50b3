"""Where benchmarks' data lie that the user need not name, and where they are from.

    stored("amber")              # HARNESS_DATA/amber, if there is anything in it; every command reads it there
    sources_of("amber").files    # what a script can bring there
    sources_of("amber").by_hand  # what a person must fetch, and from where

HARNESS_DATA is a folder with one folder a task. Without it: beside the hub's cache.
"""

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from support.downloads import Remote
from support.errors import SettingError
from support.files import cache_folder
from support.parsing import parse_toml
from tasks.registry import registry

VARIABLE: Final = "HARNESS_DATA"
DIGEST: Final = " sha256 "
"""What stands before the digest of a table."""
LIST: Final = Path(__file__).resolve().parent / "benchmarks" / "downloads.toml"


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A file that a script can bring."""

    path: str
    """Below the task's folder."""
    remote: Remote
    licence: str
    unpack: tuple[str, ...] = ()
    """Members that are taken out of it; then it goes away."""

    def is_in(self, folder: Path) -> bool:
        """Whether it is there, with its size."""
        if self.unpack:
            return all((folder / member).is_file() for member in self.unpack)
        file = folder / self.path
        return file.is_file() and self.remote.size in (None, file.stat().st_size)


@dataclass(frozen=True, kw_only=True)
class ByHand:
    """What a person must fetch."""

    what: str
    url: str
    path: str
    """Where it goes, below the task's folder."""


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where all data of a task are from."""

    files: tuple[SourceFile, ...] = ()
    by_hand: tuple[ByHand, ...] = ()

    def missing_from(self, folder: Path) -> list[SourceFile]:
        """The files that are not there yet."""
        return [file for file in self.files if not file.is_in(folder)]


def data_home() -> Path:
    """The folder of all tasks' data; SettingError for a HARNESS_DATA that is none."""
    given = os.environ.get(VARIABLE)
    if not given:
        return cache_folder() / "data"
    home = Path(given).expanduser()
    if home.is_file() or ("=" in given and not home.is_dir()):
        raise SettingError(f"{VARIABLE}={given}: is no folder; it names the one with a folder for each task's data")
    return home


def folder_of(task: str) -> Path:
    """Where the data of a task go."""
    return data_home() / task


def stored(task: str) -> Path | None:
    """The task's folder in HARNESS_DATA, else the table that its YAML names; None where there is neither."""
    folder = folder_of(task)
    with suppress(OSError):  # not there, or no folder
        if any(not path.name.startswith(".") for path in folder.iterdir()):
            return folder
    known = registry().tasks.get(task)
    return None if known is None else known.table


def describe_data(task: str, given: str | None) -> str | None:
    """What an entry says of the table of a task that names one: its path with the digest of its content; None for other
    data. `given`: what the user names in its place."""
    known = registry().tasks.get(task)
    where = given or stored(task)
    if known is None or known.table is None or where is None or not Path(where).is_file():
        return None
    digest = hashlib.sha256(Path(where).read_bytes()).hexdigest()[:16]
    return f"{given or known.table.name}{DIGEST}{digest}"


def sources_of(task: str) -> Sources | None:
    """Where a task's data are from; None where the hub has them."""
    return _read_list(LIST).get(task)


@cache
def _read_list(path: Path) -> dict[str, Sources]:
    return {task: _read_sources(table) for task, table in parse_toml(path.read_bytes()).items()}


def _read_sources(table: dict[str, Any]) -> Sources:
    files = []
    for one in table.get("files", ()):
        remote = Remote(url=one["url"], size=one.get("size"), sha256=one.get("sha256"))
        unpack = tuple(one.get("unpack", ()))
        files.append(SourceFile(path=one["path"], remote=remote, licence=one["licence"], unpack=unpack))
    return Sources(files=tuple(files), by_hand=tuple(ByHand(**one) for one in table.get("by_hand", ())))
