"""NEEDS A DOCSTRING."""

import base64
import binascii
import os
import stat
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from support.errors import DataError
from support.images import ImageRef
from support.records import Record

MAX_BYTES = 256 << 20
"""A larger image file is taken as not there."""

BESIDE = ("merged_images", "images")


@dataclass(frozen=True)
class _Folder:
    root: Path
    """Resolved."""

    def find(self, name: str, parts: tuple[str, ...]) -> ImageRef | None:
        absolute = is_absolute(name)
        if absolute and (inside := self._file(name)):
            return ImageRef(name, inside)
        for tail in _tails(parts, absolute, self.root.name):
            if found := self._file(f"{self.root}/{'/'.join(tail)}"):
                return ImageRef(name, found)
        return None

    def _file(self, path: str) -> Path | None:
        folder, _, name = path.rpartition("/")
        resolved = resolve_folder(Path(folder or "/"))
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
def resolve_folder(folder: Path) -> Path:
    """The folder with symbolic links resolved."""
    return folder.resolve()


@dataclass(frozen=True)
class _Zip:
    path: Path
    members: frozenset[str]
    by_name: dict[str, str | None]
    """File name -> its member; None where several have it."""

    def find(self, name: str, parts: tuple[str, ...]) -> ImageRef | None:
        absolute = is_absolute(name)
        for tail in _tails(parts, absolute, self.path.stem):
            if (member := "/".join(tail)) in self.members:
                return ImageRef(name, self.path, member)
        only = self.by_name.get(parts[-1]) if absolute or len(parts) == 1 else None
        return ImageRef(name, self.path, only) if only else None


def is_absolute(name: str) -> bool:
    """True for a path that starts at a root, in Unix or Windows form."""
    return name.startswith(("/", "\\")) or name[1:3] in {":\\", ":/"}


def _tails(parts: tuple[str, ...], absolute: bool, place: str) -> list[tuple[str, ...]]:
    """What of a name may stand below a place: all of it, without the place's own name in front; of an absolute one the
    end."""
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
        if not info.is_dir()
        and info.file_size <= MAX_BYTES
        and not info.flag_bits & encrypted
        and info.compress_type in readable
    ]
    by_name: dict[str, str | None] = {}
    for member in members:
        name = member.rsplit("/", 1)[-1]
        by_name[name] = None if name in by_name else member
    return _Zip(path, frozenset(members), by_name)


class ImageIndex:
    """Folders and zips, looked through in order."""

    def __init__(self, places: Sequence[_Folder | _Zip]) -> None:
        self.places = tuple(places)
        self.find = lru_cache(maxsize=64)(self._find)  # the pairs of one row stand together

    @classmethod
    def of(cls, images: Path) -> "ImageIndex":
        """What the user names: a folder (with its own merged_images/ and images/), or a zip."""
        if images.is_dir():
            return cls(_below(images))
        if images.is_file():
            return cls([_zip(images)])
        raise DataError(f"{images}: no such folder or zip of images")

    @classmethod
    def beside(cls, *folders: Path) -> "ImageIndex":
        """What stands beside the data under the usual names."""
        return cls([place for folder in folders for place in _below(folder)])

    def _find(self, name: str) -> ImageRef:
        """The picture of this name; one that is not there raises OSError when it is read."""
        if name.startswith(ZIP):
            return self._in_zip(name)
        parts = tuple(part for part in name.replace("\\", "/").split("/") if part not in {"", "."})
        if parts and ".." not in parts and "\0" not in name and "://" not in name:
            for place in self.places:
                if found := place.find(name, parts):
                    return found
        return ImageRef(name)

    def _in_zip(self, name: str) -> ImageRef:
        """What an Outlet without copies gave; only of a zip that is one of the places."""
        member, _, path = name.removeprefix(ZIP).partition("::")
        zips = {
            str(place.path.absolute()): place
            for place in self.places
            if isinstance(place, _Zip) and member in place.members
        }
        moved = (place for place in zips.values() if place.path.name == Path(path).name)
        found = zips.get(path) or next(moved, None)
        return ImageRef(member, found.path, member) if found else ImageRef(name)

    def pictures(self, record: Record, *columns: str, name: str = "") -> tuple[ImageRef, ...]:
        """The pictures in the first of these columns that holds any: an image struct, a name, or a list of such.

        `name` is what an embedded picture is called that has no name of its own.
        """
        for column in columns:
            value = record.get(column)
            if value is not None and value != "" and value != []:
                listed = value if isinstance(value, list) else [value]
                return tuple(self._picture(item, name if len(listed) == 1 else "") for item in listed)
        return ()

    def _picture(self, value: Any, name: str) -> ImageRef:
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
            return ImageRef(name or path, data=data)
        return self.find(path or name)

    def with_absent(self, record: Record, given: tuple[ImageRef, ...]) -> tuple[ImageRef, ...]:
        """The pictures `given` in a record by the names beside them (see Given), and in their places those that were
        not there."""
        names, there_then = record.get("image_names"), record.get("image_there")
        if not (isinstance(names, list) and isinstance(there_then, list) and len(names) == len(there_then)):
            return given
        if not all(isinstance(name, str) for name in names) or sum(map(bool, there_then)) != len(given):
            return given
        rest = iter(given)
        return tuple(
            self._named(next(rest), name) if was else self.find(name)
            for name, was in zip(names, there_then, strict=True)
        )

    def _named(self, picture: ImageRef, name: str) -> ImageRef:
        if not there(picture):
            picture = self.find(name)
        return ImageRef(name or picture.name, picture.file, picture.member, picture.data)


def _below(folder: Path) -> list[_Folder | _Zip]:
    root = folder.resolve()
    folders = [root, *(root / name for name in BESIDE)]
    zips = [root / f"{name}.zip" for name in BESIDE]
    # A folder that is a link to elsewhere is not taken for part of the data; the user can name it. A zip can only hold
    # what it holds.
    return [_Folder(place) for place in folders if place.is_dir() and place.resolve() == place] + [
        _zip(place) for place in zips if place.is_file()
    ]


def there(picture: ImageRef) -> bool:
    """Whether there is anything to read."""
    return picture.file is not None or picture.data is not None


ZIP = "zip://"


def within(data: Path, files: Sequence[Path], images: Path | None) -> ImageIndex:
    """The places of the pictures of a dataset: what the user names, then what stands in its folder or beside its
    files."""
    beside = ImageIndex.beside(
        *dict.fromkeys([data if data.is_dir() else data.parent, *(path.parent for path in files)])
    )
    return ImageIndex(ImageIndex.of(images).places + beside.places) if images is not None else beside
