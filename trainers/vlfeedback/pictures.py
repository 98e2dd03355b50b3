"""Where the pictures of a dataset are: columns with bytes in them, folders and zips; and how they are given on.

    places = Places.beside(Path("VLFeedback"))           # its own folder, merged_images/, images/, merged_images.zip, images.zip
    places.find("/home/x/cache/merged_images/7.jpg")     # the Picture, by its name within the places

What a row says about a picture is not trusted: a name that climbs out, a link that leads out, a URL, a member too large give a Picture
that is not there. Only the places are read, and they are named by the user or stand beside the data.
"""

import base64
import binascii
import hashlib
import os
import re
import stat
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from trainers.rows import Picture
from trainers.vlfeedback.records import DataError, Record

MAX_BYTES = 256 << 20
"""A larger image file is taken as not there."""

BESIDE = ("merged_images", "images")

_KINDS = {b"\xff\xd8\xff": ".jpg", b"\x89PNG\r\n\x1a\n": ".png", b"GIF8": ".gif", b"BM": ".bmp", b"II*\0": ".tif", b"MM\0*": ".tif"}


@dataclass(frozen=True)
class _Folder:
    root: Path
    """Resolved."""

    def find(self, name: str, parts: tuple[str, ...]) -> Picture | None:
        absolute = _is_absolute(name)
        if absolute and (inside := self._file(name)):
            return Picture(name, inside)
        for tail in _tails(parts, absolute, self.root.name):
            if found := self._file(f"{self.root}/{'/'.join(tail)}"):
                return Picture(name, found)
        return None

    def _file(self, path: str) -> Path | None:
        folder, _, name = path.rpartition("/")
        resolved = _resolved(Path(folder or "/"))
        if not (resolved == self.root or resolved.is_relative_to(self.root)):
            return None
        try:
            about = os.lstat(f"{resolved}/{name}")
            if stat.S_ISLNK(about.st_mode):
                target = (resolved / name).resolve()
                about = target.lstat()
                return target if target.is_relative_to(self.root) and _readable(about) else None
        except (OSError, RuntimeError):  # RuntimeError: a link that leads to itself
            return None
        return resolved / name if _readable(about) else None


def _readable(about: os.stat_result) -> bool:
    return stat.S_ISREG(about.st_mode) and about.st_size <= MAX_BYTES


@lru_cache(maxsize=4096)
def _resolved(folder: Path) -> Path:
    return folder.resolve()


@dataclass(frozen=True)
class _Zip:
    path: Path
    members: frozenset[str]
    by_name: dict[str, str | None]
    """File name -> its member; None where several have it."""

    def find(self, name: str, parts: tuple[str, ...]) -> Picture | None:
        absolute = _is_absolute(name)
        for tail in _tails(parts, absolute, self.path.stem):
            if (member := "/".join(tail)) in self.members:
                return Picture(name, self.path, member)
        only = self.by_name.get(parts[-1]) if absolute or len(parts) == 1 else None
        return Picture(name, self.path, only) if only else None


def _is_absolute(name: str) -> bool:
    return name.startswith(("/", "\\")) or name[1:3] in {":\\", ":/"}


def _tails(parts: tuple[str, ...], absolute: bool, place: str) -> list[tuple[str, ...]]:
    """What of a name may stand below a place: all of it, without the place's own name in front; of an absolute one the end."""
    if absolute:
        return [parts[-2:], parts[-1:]] if len(parts) > 1 else [parts]
    return [parts, parts[1:]] if len(parts) > 1 and parts[0] == place else [parts]


@lru_cache(maxsize=8)
def _zip(path: Path) -> _Zip:
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a zip of images: {error}") from error
    encrypted = 0x1
    readable = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    # The size told here is also the most that will be unpacked.
    members = [
        info.filename
        for info in infos
        if not info.is_dir() and info.file_size <= MAX_BYTES and not info.flag_bits & encrypted and info.compress_type in readable
    ]
    by_name: dict[str, str | None] = {}
    for member in members:
        name = member.rsplit("/", 1)[-1]
        by_name[name] = None if name in by_name else member
    return _Zip(path, frozenset(members), by_name)


class Places:
    """Folders and zips, looked through in order."""

    def __init__(self, places: Sequence[_Folder | _Zip]) -> None:
        self.places = tuple(places)
        self.find = lru_cache(maxsize=64)(self._find)  # the pairs of one row stand together

    @classmethod
    def of(cls, images: Path) -> "Places":
        """What the user names: a folder (with its own merged_images/ and images/), or a zip."""
        if images.is_dir():
            return cls(_below(images))
        if images.is_file():
            return cls([_zip(images)])
        raise DataError(f"{images}: no such folder or zip of images")

    @classmethod
    def beside(cls, *folders: Path) -> "Places":
        """What stands beside the data under the usual names."""
        return cls([place for folder in folders for place in _below(folder)])

    def _find(self, name: str) -> Picture:
        """The picture of this name; one that is not there raises OSError when it is read."""
        if name.startswith(ZIP):
            return self._in_zip(name)
        parts = tuple(part for part in name.replace("\\", "/").split("/") if part not in {"", "."})
        if parts and ".." not in parts and "\0" not in name and "://" not in name:
            for place in self.places:
                if found := place.find(name, parts):
                    return found
        return Picture(name)

    def _in_zip(self, name: str) -> Picture:
        """What an Outlet without copies gave; only of a zip that is one of the places."""
        member, _, path = name.removeprefix(ZIP).partition("::")
        zips = {str(place.path.absolute()): place for place in self.places if isinstance(place, _Zip) and member in place.members}
        moved = (place for place in zips.values() if place.path.name == Path(path).name)
        found = zips.get(path) or next(moved, None)
        return Picture(member, found.path, member) if found else Picture(name)

    def pictures(self, record: Record, *columns: str, name: str = "") -> tuple[Picture, ...]:
        """The pictures in the first of these columns that holds any: an image struct, a name, or a list of such.

        `name` is what an embedded picture is called that has no name of its own.
        """
        for column in columns:
            value = record.get(column)
            if value is not None and value != "" and value != []:
                listed = value if isinstance(value, list) else [value]
                return tuple(self._picture(item, name if len(listed) == 1 else "") for item in listed)
        return ()

    def _picture(self, value: Any, name: str) -> Picture:
        if isinstance(value, str):
            return self.find(value)
        data = value.get("bytes") if isinstance(value, dict) else value
        path = value.get("path") if isinstance(value, dict) else None
        path = path if isinstance(path, str) else ""
        if isinstance(data, str):
            try:
                data = base64.b64decode(data, validate=True)
            except binascii.Error:
                data = None
        if isinstance(data, bytes):
            return Picture(name or path, data=data)
        return self.find(path or name)

    def with_absent(self, record: Record, given: tuple[Picture, ...]) -> tuple[Picture, ...]:
        """The pictures `given` in a record by the names beside them (see Given), and in their places those that were not there."""
        names, there_then = record.get("image_names"), record.get("image_there")
        if not (isinstance(names, list) and isinstance(there_then, list) and len(names) == len(there_then)):
            return given
        if not all(isinstance(name, str) for name in names) or sum(map(bool, there_then)) != len(given):
            return given
        rest = iter(given)
        return tuple(self._named(next(rest), name) if was else self.find(name) for name, was in zip(names, there_then, strict=True))

    def _named(self, picture: Picture, name: str) -> Picture:
        if not there(picture):
            picture = self.find(name)
        return Picture(name or picture.name, picture.file, picture.member, picture.data)


def _below(folder: Path) -> list[_Folder | _Zip]:
    root = folder.resolve()
    folders = [root, *(root / name for name in BESIDE)]
    zips = [root / f"{name}.zip" for name in BESIDE]
    # A folder that is a link to elsewhere is not taken for part of the data; the user can name it. A zip can only hold what it holds.
    return [_Folder(place) for place in folders if place.is_dir() and place.resolve() == place] + [
        _zip(place) for place in zips if place.is_file()
    ]


def there(picture: Picture) -> bool:
    """Whether there is anything to read."""
    return picture.file is not None or picture.data is not None


def kind(data: bytes) -> str | None:
    """The usual ending of an image file that begins like this; None for what is no image."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ".webp"
    if data[4:12] == b"ftypavif":
        return ".avif"
    return next((ending for start, ending in _KINDS.items() if data.startswith(start)), None)


def image_bytes(picture: Picture) -> bytes | None:
    """The bytes of its image file; None where there is no image to be had: no other file leaves in an image's place."""
    try:
        data = picture.read()
    except OSError:
        return None
    return data if kind(data) else None


class Given(NamedTuple):
    """The pictures of one record as a file has them."""

    images: list[Any]
    """Those that are there: paths, or structs of bytes and path."""
    names: dict[str, list[Any]]
    """Two columns: what all are called, as text (`image_names`), and whether each is among the images (`image_there`)."""


class Unreadable(Protocol):
    """Who counts pictures that are there and can't be given on."""

    unreadable_images: int


class Outlet:
    """How the pictures of one data file are given in it: as paths that open, or as bytes; what is not there is not given.

    Only paths that were found within the data's places leave; what a row called its picture is no path to anybody who reads the file.
    """

    def __init__(self, path: Path, *, structs: bool, embed: bool = False, copy: bool = True, counts: Unreadable | None = None) -> None:
        """For the file `path`: `structs` of bytes and path for parquet, else plain paths, relative where they are below its folder.

        `embed`: bytes in structs, and copies beside the file where paths are plain. Without `copy` nothing is unpacked: a member of a zip
        is given as `zip://MEMBER::ZIP`, and bytes of a table not at all.
        """
        self.folder = path.parent
        self.copies = path.parent / f"{path.stem}_images"
        self.structs, self.embed, self.copy, self.counts = structs, embed, copy, counts
        self.give = lru_cache(maxsize=64)(self._all)  # the pairs of one row share its pictures
        self._unreadable: set[int] = set()

    def _all(self, pictures: tuple[Picture, ...]) -> Given:
        """What is given of the pictures of one record."""
        given = [self._one(picture) for picture in pictures]
        names: dict[str, list[Any]] = {
            "image_names": [told_name(picture) for picture in pictures],
            "image_there": [one is not None for one in given],
        }
        return Given([one for one in given if one is not None], names)

    def _one(self, picture: Picture) -> Any:
        """The picture as a record has it; None for one that is not there, or is no image."""
        if not there(picture):
            return None
        if self.structs and self.embed:
            data = self._read(picture)
            return None if data is None else {"bytes": data, "path": safe_name(picture)}
        path = self._path(picture)
        return path if path is None or not self.structs else {"bytes": None, "path": path}

    def _path(self, picture: Picture) -> str | None:
        if picture.file is not None and picture.member is None and not self.embed:
            if _begins_as_image(picture.file):
                return self._told(picture.file)
            self._count(picture)
            return None
        data = self._read(picture)
        if data is None:
            return None
        if self.embed or self.copy:
            return self._told(self._copied(data))
        if picture.file is not None and picture.member is not None:
            told = self._told(picture.file)
            return f"{ZIP}{picture.member}::{told}" if _MEMBER.fullmatch(picture.member) and "::" not in told else None
        return None

    def _told(self, file: Path) -> str:
        folder = _resolved(self.folder)
        if not self.structs and file.is_relative_to(folder) and ":" not in (path := file.relative_to(folder).as_posix()):
            return path  # with a colon it might be taken for an address
        return str(file.absolute())

    def _read(self, picture: Picture) -> bytes | None:
        data = image_bytes(picture)
        if data is None:
            self._count(picture)
        return data

    def _count(self, picture: Picture) -> None:
        if self.counts is not None and (key := hash(picture)) not in self._unreadable:
            self._unreadable.add(key)
            self.counts.unreadable_images += 1

    def _copied(self, data: bytes) -> Path:
        """A copy under the digest of the content: made once, and never again."""
        path = _resolved(self.folder) / self.copies.name / f"{hashlib.sha256(data).hexdigest()[:32]}{kind(data)}"
        if not path.exists() or path.stat().st_size != len(data):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            temporary.write_bytes(data)
            os.replace(temporary, path)
        return path


ZIP = "zip://"

_MEMBER = re.compile(r"(?!.*(?:::|://|\.\.))[^\s/*?\[\]\\#|][^*?\[\]\\#|\x00-\x1f]*")
"""Members whose names say nothing else in an address."""


def _begins_as_image(file: Path) -> bool:
    try:
        with file.open("rb", buffering=0) as opened:
            return kind(opened.read(16)) is not None
    except OSError:
        return False


def path_for_row(picture: Picture, data: Path) -> str:
    """What a row of the file `data` calls the picture: its path below that file's folder, else the name it came with, made safe."""
    folder = _resolved(data.parent)
    if picture.file is not None and picture.member is None and picture.file.is_relative_to(folder):
        return picture.file.relative_to(folder).as_posix()
    return safe_name(picture)


def told_name(picture: Picture) -> str:
    """Its name as text for others to read: of an absolute path, which tells of somebody's machine, the end that finds it again."""
    return "/".join(picture.name.replace("\\", "/").split("/")[-2:]) if _is_absolute(picture.name) else picture.name


def safe_name(picture: Picture) -> str:
    """Its name where others may open it as a path: of what leads elsewhere, such as an address or "..", the end that leads nowhere."""
    name = picture.name
    parts = re.split(r"[/\\]", name)
    if not (_is_absolute(name) or ".." in parts or "://" in name or "::" in name):
        return name
    return "/".join(part for part in parts[-2:] if part.strip(".") and ":" not in part)


def within(data: Path, files: Sequence[Path], images: Path | None) -> Places:
    """The places of the pictures of a dataset: what the user names, then what stands in its folder or beside its files."""
    beside = Places.beside(*dict.fromkeys([data if data.is_dir() else data.parent, *(path.parent for path in files)]))
    return Places(Places.of(images).places + beside.places) if images is not None else beside
