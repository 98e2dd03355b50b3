"""What is packed in data files is unpacked within limits: the one opener of zips, and of gzip.

    with open_zip(path) as archive: ...               # checked before its members are listed
    member_problem(info, overlapping(infos))          # why a member is not read; "" if it is
    read_member(archive, "7.jpg", most=MAX_BYTES)
    unpacked(gzip.open(path), packed=size, where=str(path))    # a stream that ends a bomb
    unpack(path, folder, ["annotations/captions_val2014.json"])    # onto disk, members that our own lists name

No other member is ever unpacked to disk, so that a member's name leads nowhere.
"""

import io
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Final

from support.errors import DataError, HarnessError, first_line
from support.files import atomic_path, check_no_pointer

MAX_LISTING: Final = 128 << 20
"""Bytes of a zip's list of members, about a million of them; in memory it is ten times as much."""
MAX_EXPANSION: Final = 50
"""Tables become at most so many times as large, beyond `FREE`; questions and answers are packed to about a tenth."""
FREE: Final = 64 << 20
"""Bytes that anything may be unpacked to."""

_HEADER: Final = 30
"""Bytes before each member, at least."""

LINK: Final = "a link"
ENCRYPTED: Final = "encrypted"
PACKED_OTHERWISE: Final = "packed by another method than deflate"
OVERLAPPING: Final = "in the place of other members"


def open_zip(path: Path) -> zipfile.ZipFile:
    """A zip, opened to be read. OSError for what is no file; zipfile's errors; BadZipFile for too many members."""
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe that nobody writes would wait
        raise OSError("not a file")
    check_no_pointer(path)
    if (size := _size_of_listing(path)) > MAX_LISTING:
        raise zipfile.BadZipFile(f"its list of members has {size} bytes, over the limit of {MAX_LISTING}")
    return zipfile.ZipFile(path)


def _size_of_listing(path: Path) -> int:
    """Bytes of the list of members as the end of the file tells them, the larger where it tells them twice."""
    longest_comment, end, locator = 1 << 16, struct.calcsize("<4s4H2LH"), struct.calcsize("<4sLQL")
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - longest_comment - end - locator))
        tail = file.read()
        at = tail.rfind(b"PK\x05\x06")
        if at < 0 or len(tail) < at + end:
            return 0  # no zip, as zipfile will say
        told = int(struct.unpack_from("<L", tail, at + 12)[0])
        if tail[max(0, at - locator) : at].startswith(b"PK\x06\x07"):
            file.seek(max(0, size - len(tail) + at - locator - 56))
            record = file.read(56)
            told = max(told if told < 0xFFFFFFFF else 0, int(struct.unpack_from("<Q", record.ljust(56, b"\0"), 40)[0]))
    return told


def overlapping(infos: Iterable[zipfile.ZipInfo]) -> set[str]:
    """Names of members that lie where others do: a small file could be unpacked without end."""
    found: set[str] = set()
    end, before = 0, ""
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.header_offset < end:
            found |= {before, info.filename}
        here = info.header_offset + _HEADER + info.compress_size
        if here > end:
            end, before = here, info.filename
    return found


def member_problem(info: zipfile.ZipInfo, shared: set[str]) -> str:
    """Why a member is not read, `shared` being the names of the overlapping ones; "" if it is."""
    encrypted, unix_mode = 0x1, info.external_attr >> 16
    if stat.S_ISLNK(unix_mode):
        return LINK
    if info.flag_bits & encrypted:
        return ENCRYPTED
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return PACKED_OTHERWISE
    return OVERLAPPING if info.filename in shared else ""


def read_member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """The bytes of a member of at most `most`; zipfile's errors, OverflowError for more."""
    info = archive.getinfo(name)
    if info.file_size > most:
        raise OverflowError(f"{info.file_size} bytes is over the limit of {most}")
    with archive.open(info) as member:
        return member.read(info.file_size)  # without a number, all that is packed is unpacked, whatever size it tells


def unpack(path: Path, folder: Path, names: Sequence[str]) -> None:
    """Write these members of a zip to their paths below a folder, each whole or not at all. DataError."""
    try:
        with open_zip(path) as archive:
            infos = archive.infolist()
            shared, by_name = overlapping(infos), {info.filename: info for info in infos}
            for name in names:
                info = by_name.get(name)
                problem = "not in it" if info is None else member_problem(info, shared)
                if info is None or problem:
                    raise DataError(f"{path}: {name} is {problem}")
                with (
                    atomic_path(folder / name) as temporary,
                    archive.open(info) as member,
                    unpacked(member, packed=info.compress_size, where=f"{path}: {name}") as source,
                    temporary.open("wb") as file,
                ):
                    shutil.copyfileobj(source, file, 1 << 20)
    except (KeyError, RuntimeError, EOFError, ValueError, struct.error, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, HarnessError):
            raise
        raise DataError(f"{path}: can't be unpacked: {first_line(error)}") from None


class _Unpacked(io.RawIOBase):
    def __init__(self, file: IO[bytes], most: int, where: str) -> None:
        self.file, self.most, self.left, self.where = file, most, most, where

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]  # any writable buffer
        data = self.file.read(len(buffer))
        self.left -= len(data)
        if self.left < 0:
            raise DataError(
                f"{self.where}: unpacks to over {self.most:,} bytes, {MAX_EXPANSION} times its size; unpack it first"
            )
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self.file.close()
        super().close()


def unpacked(file: IO[bytes], *, packed: int, where: str) -> IO[bytes]:
    """A stream of packed data of `packed` bytes, which raises DataError once it has become too much."""
    return io.BufferedReader(_Unpacked(file, max(FREE, MAX_EXPANSION * packed), where), 1 << 16)
