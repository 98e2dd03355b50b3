"""Writing files so that a kill at any moment leaves the old file or the new one, never half of one.

    atomic_write_text(path, text)
    with atomic_path(path) as temporary: figure.savefig(temporary)
    with file_lock(path, wait=False) as mine: ...
    lines = JsonLines(folder / "ratings.jsonl"); lines.append({"id": id, ...} for id in lines.missing(ids))

The only place of the project that replaces, links or locks files.
"""

import errno
import fcntl
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from support.errors import InputError, StoreError
from support.full_disk import naming_full_disk
from support.parsing import parse_object


@contextmanager
def atomic_path(path: Path, move: Callable[[Path, Path], None] = os.replace, *, durable: bool = True) -> Iterator[Path]:
    """A name beside `path` to write to; it becomes `path` at the end, or goes away if the block raises.

    It keeps `path`'s suffix, by which some writers tell the format. `move=place` replaces no file.
    A file that is not `durable` may be lost if the machine stops: for one of many that can be made again.
    """
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(8)}.tmp{path.suffix}")
    try:
        with naming_full_disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            if durable:
                _sync(temporary)
            move(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if durable:
        _sync(path.parent)


def atomic_write(path: Path, data: bytes, move: Callable[[Path, Path], None] = os.replace) -> None:
    """Write a file that is either there in full or as it was before."""
    with atomic_path(path, move) as temporary:
        temporary.write_bytes(data)


def atomic_write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text that is either there in full or as it was before."""
    atomic_write(path, text.encode("utf-8"))


def check_regular_files(folder: Path, patterns: Iterable[str] = ("*", "*/*")) -> None:
    """InputError for a folder with a pipe, a device or a socket in it: reading that may never end."""
    for pattern in patterns:
        for path in folder.glob(pattern):
            with suppress(OSError):  # a link to nothing, which whoever reads it tells of
                mode = path.stat().st_mode
                if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                    raise InputError(f"{path}: is no regular file")


_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def short_name(name: str, most: int = 100) -> str:
    """`name` where it is at most so long, else its beginning and a digest: file systems allow 255 bytes."""
    return name if len(name) <= most else f"{name[:most]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def place(temporary: Path, path: Path) -> None:
    """Move a file to a path, as os.replace, but FileExistsError if one is there: of two writers, only one succeeds.

    A file system without links (FAT, many network mounts) cannot ensure that for two writers at the same moment.
    """
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if path.exists():
            raise FileExistsError(f"{path.name} is there already") from None
        os.replace(temporary, path)


_POINTER = b"version https://git-lfs.github.com/spec/"


def check_no_pointer(path: Path) -> None:
    """OSError for what a clone without Git LFS has in a file's place."""
    with path.open("rb") as file:
        _check_beginning(path, file.read(len(_POINTER)))


def _check_beginning(path: Path, data: bytes) -> None:
    if data.startswith(_POINTER):
        raise OSError(f"{path.name} is a Git LFS pointer, not the file: run `git lfs pull` where it was cloned")


def finish(part: Path, path: Path) -> None:
    """Make a file that was written beside `path`, over one run or several, the file at `path`: durable, in one step."""
    _sync(part)
    os.replace(part, path)
    _sync(path.parent)


def read_regular(path: Path, most: int) -> bytes:
    """The bytes of a regular file of at most `most` bytes; OSError, at once, for a device, a pipe or a folder, and for
    a Git LFS pointer.

    OverflowError for a larger one, also if it grows while it is read.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):  # opening alone can set a device off
        raise OSError(f"{path}: not a file")
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe that has just taken its place would wait
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise OSError(f"{path}: not a file")
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(most + 1) if about.st_size <= most else b""
    finally:
        os.close(descriptor)
    if max(about.st_size, len(data)) > most:
        raise OverflowError(f"{max(about.st_size, len(data))} bytes is over the limit of {most}")
    _check_beginning(path, data)
    return data


def _sync(path: Path) -> None:
    """Flush a file to disk; of a folder, the names in it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def file_lock(path: Path, *, wait: bool) -> Iterator[int | None]:
    """Hold the lock of `path` (a hidden file beside it); with `wait`, wait until no other process holds it.

    Gives the lock's descriptor, never 0, which child processes may hold on to; None if another process has the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield None
        else:
            yield file.fileno()


def cache_folder() -> Path:
    """Where the project keeps what can be made or fetched again: beside the Hugging Face hub's cache."""
    return Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface") / "vlm-harness"


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, waiting for it; no file is left in it. File systems that lock no folder give none."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class JsonLines:
    """One file of rows, each with an `id`; of several with one id the last counts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.by_id: dict[str, dict[str, Any]] = {}
        if path.exists():
            self._read()

    def _read(self) -> None:
        text = self.path.read_bytes()
        for number, line in enumerate(text[: text.rfind(b"\n") + 1].splitlines(), start=1):
            try:
                row = parse_object(line)
                self.by_id[str(row["id"])] = row
            except (ValueError, KeyError) as error:
                raise StoreError(f"{self.path}, line {number}: not a row of ours ({error})") from error

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows, durably, in one write."""
        new = [dict(row) for row in rows]
        with naming_full_disk(self.path):
            self._append_lines(new)
        self.by_id.update({row["id"]: row for row in new})

    def _append_lines(self, new: Iterable[Mapping[str, Any]]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            # Under the lock, an incomplete last line is a dead process's, not one being written.
            fcntl.flock(file, fcntl.LOCK_EX)
            _cut_incomplete_line(file)
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in new)
            file.write(text.encode("utf-8", "surrogatepass"))
            file.flush()
            os.fsync(file.fileno())

    def missing(self, ids: Iterable[str]) -> list[str]:
        """Those of `ids` that have no row yet."""
        return [id for id in ids if id not in self.by_id]


def _cut_incomplete_line(file: BinaryIO) -> None:
    """Cut off what stands after the last newline."""
    size = end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - 65536)
        file.seek(start)
        at = file.read(end - start).rfind(b"\n")
        if at >= 0:
            end = start + at + 1
            break
        end = start
    if end < size:
        file.truncate(end)
