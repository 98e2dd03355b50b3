"""The one rule of what a row may name as its picture: a file in the folder, or a member of the archive, of the data.

    ImageTree(Path("bench")).find("val/7.jpg")                     # an ImageRef: that file, or one of that name below
    ImageIndex.beside(Path("VLFeedback")).find("/x/merged_images/7.jpg")     # by the end of its name
    ImageTree(Path("bench")).find("../7.jpg").problem              # "path outside the folder"

Rows are not trusted. A name that is a URL, that has "..", or that leads out of the folder by a symbolic link is never
opened, and an absolute name is never opened as such. One kind of link may lead out: those of a snapshot in the hub's
cache, into the blobs of the same dataset. What can't be had is an `ImageRef` with a `problem`, which raises OSError
when it is read.
"""

import base64
import binascii
import os
import re
import stat
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Final

from support.errors import DataError, first_line
from support.images import MAX_BYTES, ImageRef
from support.records import Record

OUTSIDE: Final = "path outside the folder"
URL: Final = "picture is a URL"
MISSING: Final = "missing picture"
AMBIGUOUS: Final = "ambiguous picture"
TOO_LARGE: Final = "picture file too large"
UNREADABLE: Final = "unreadable picture"
NONE: Final = "no picture"

REFUSED: Final = (OUTSIDE, URL)
"""Problems of names that lead out of the data."""

IMAGES: Final = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
BESIDE: Final = ("merged_images", "images")
"""Folders of pictures (or, with .zip, archives) beside preference data."""
ZIP: Final = "zip://"
LONGEST_NAME: Final = 1024
"""A longer text in an image column is base64, not a path."""


def there(picture: ImageRef) -> bool:
    """Whether there is anything to read."""
    return picture.file is not None or picture.data is not None or picture.reader is not None


def is_absolute(name: str) -> bool:
    """True for a path that starts at a root, in Unix or Windows form."""
    return name.startswith(("/", "\\")) or name[1:3] in {":\\", ":/"}


def _parts(name: str) -> tuple[str, ...]:
    return tuple(part for part in name.replace("\\", "/").split("/") if part not in {"", "."})


def _refuse(name: str, parts: Sequence[str]) -> str:
    """Why nothing may be looked for under a name; "" if something may."""
    if "://" in name:
        return URL
    return OUTSIDE if ".." in parts or "\0" in name else "" if parts else MISSING


# Places: folders and zips.


@lru_cache(maxsize=4096)
def resolve_folder(folder: Path) -> Path:
    """The folder with symbolic links resolved."""
    return folder.resolve()


@dataclass(frozen=True)
class _Folder:
    root: Path
    """Resolved."""

    @cached_property
    def _blobs(self) -> Path | None:
        """Where the hub's cache keeps the files of which the snapshot that this is (or is in) holds links."""
        for folder in (self.root, *self.root.parents):
            repository = folder.parent.parent
            if folder.parent.name == "snapshots" and repository.name.startswith(("datasets--", "models--")):
                return repository / "blobs"
        return None

    def at(self, name: str, path: str) -> ImageRef | None:
        """The file at `path` below the root, or at an absolute `path`, as the picture `name`; None if there is none."""
        full = self.root / path
        try:
            place = resolve_folder(full.parent) / full.name
            inside = place.is_relative_to(self.root)
            about = place.lstat()
            if stat.S_ISLNK(about.st_mode):
                target = place.resolve(strict=True)
                about = target.lstat()
                if target.is_relative_to(self.root):
                    place = target
                elif not (self._blobs and target.is_relative_to(self._blobs)):
                    inside = False
        except (OSError, RuntimeError, ValueError):  # RuntimeError: a link that leads to itself
            return None
        if not stat.S_ISREG(about.st_mode):
            return None
        problem = TOO_LARGE if about.st_size > MAX_BYTES else ""
        if problem or not inside:
            return ImageRef(name, problem=problem if inside else OUTSIDE)
        return ImageRef(name, place)

    def find(self, name: str, parts: tuple[str, ...]) -> ImageRef | None:
        """The picture at a name, or at the end of an absolute one."""
        absolute = is_absolute(name)
        paths = [name] if name.startswith("/") else []
        paths += ["/".join(tail) for tail in _tails(parts, absolute, self.root.name)]
        found = [picture for path in paths if (picture := self.at(name, path))]
        return next((picture for picture in found if not picture.problem), found[0] if found else None)


def _tails(parts: tuple[str, ...], absolute: bool, place: str) -> list[tuple[str, ...]]:
    """Parts of a name to look for in a place: all, or all but the place's name; of an absolute name the end."""
    if absolute:
        return [parts[-2:], parts[-1:]] if len(parts) > 1 else [parts]
    return [parts, parts[1:]] if len(parts) > 1 and parts[0] == place else [parts]


@dataclass(frozen=True)
class _Zip:
    path: Path
    members: Mapping[str, str]
    """Member -> why it can't be read; "" if it can."""
    by_name: Mapping[str, str | None]
    """File name -> its readable member; None where several have it."""

    def at(self, name: str, member: str) -> ImageRef | None:
        if problem := self.members.get(member):
            return ImageRef(name, problem=problem)
        return ImageRef(name, self.path, member) if member in self.members else None

    def find(self, name: str, parts: tuple[str, ...]) -> ImageRef | None:
        """The member at a name, at the end of an absolute one, or the only one of that file name."""
        absolute = is_absolute(name)
        for tail in _tails(parts, absolute, self.path.stem):
            if found := self.at(name, "/".join(tail)):
                return found
        only = self.by_name.get(parts[-1]) if absolute or len(parts) == 1 else None
        return self.at(name, only) if only else None


@lru_cache(maxsize=64)
def _zip(path: Path) -> _Zip:
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a zip of images: {first_line(error)}") from error
    members = {info.filename: _member_problem(info) for info in infos if not info.is_dir()}
    by_name: dict[str, str | None] = {}
    for member, problem in members.items():
        if not problem:
            name = member.rsplit("/", 1)[-1]
            by_name[name] = None if name in by_name else member
    return _Zip(path, members, by_name)


def _member_problem(info: zipfile.ZipInfo) -> str:
    encrypted, unix_mode = 0x1, info.external_attr >> 16
    if stat.S_ISLNK(unix_mode):
        return OUTSIDE
    if info.flag_bits & encrypted or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return UNREADABLE
    # The size told here is also the most that will be unpacked.
    return TOO_LARGE if info.file_size > MAX_BYTES else ""


# Preference data: a few places, and names that others wrote on their own machines.


class ImageIndex:
    """Folders and zips, searched in order. Of an absolute name only the end counts, unless it is in a folder."""

    def __init__(self, places: Sequence[_Folder | _Zip]) -> None:
        self.places = tuple(places)
        self.find = lru_cache(maxsize=64)(self._find)  # the pairs of one row stand together

    @classmethod
    def of(cls, images: Path) -> "ImageIndex":
        """What the user names: a folder (with its own merged_images/ and images/), or a zip."""
        if images.is_dir():
            return cls(_places_below(images))
        if images.is_file():
            return cls([_zip(images)])
        raise DataError(f"{images}: no such folder or zip of images")

    @classmethod
    def beside(cls, *folders: Path) -> "ImageIndex":
        """What stands beside the data under the usual names."""
        return cls([place for folder in folders for place in _places_below(folder)])

    @classmethod
    def inside(cls, *folders: Path) -> "ImageIndex":
        """Just these folders."""
        return cls([_Folder(folder.resolve()) for folder in folders])

    def _find(self, name: str) -> ImageRef:
        """The picture of this name; one that is not there has a problem."""
        if name.startswith(ZIP):
            return self._find_in_zip(name)
        parts = _parts(name)
        problem = _refuse(name, parts)
        for place in () if problem else self.places:
            if found := place.find(name, parts):
                if not found.problem:
                    return found
                problem = problem or found.problem
        return ImageRef(name, problem=problem or (OUTSIDE if is_absolute(name) else MISSING))

    def _find_in_zip(self, name: str) -> ImageRef:
        """What an ImageExporter without copies gave; only of a zip that is one of the places."""
        member, _, path = name.removeprefix(ZIP).partition("::")
        holding = [place for place in self.places if isinstance(place, _Zip) and member in place.members]
        zips = {str(place.path.absolute()): place for place in holding}
        moved = (place for place in zips.values() if place.path.name == Path(path).name)
        found = zips.get(path) or next(moved, None)
        return (found.at(member, member) if found else None) or ImageRef(name, problem=URL)

    def pictures(self, record: Record, *columns: str, name: str = "") -> tuple[ImageRef, ...]:
        """The pictures in the first of these columns that holds any: an image struct, a name, or a list of such.

        `name` is what an embedded picture is called that has no name of its own.
        """
        for column in columns:
            value = record.get(column)
            if value is not None and value != "" and value != []:
                listed = value if isinstance(value, list) else [value]
                alone = name if len(listed) == 1 else ""
                return tuple(picture_in_cell(item, self.find, alone) for item in listed)
        return ()

    def with_absent(self, record: Record, given: tuple[ImageRef, ...]) -> tuple[ImageRef, ...]:
        """The pictures `given` in a record, in the places of their names (see Given), and those that were absent."""
        names, there_then = record.get("image_names"), record.get("image_there")
        if not (isinstance(names, list) and isinstance(there_then, list) and len(names) == len(there_then)):
            return given
        if not all(isinstance(name, str) for name in names) or sum(map(bool, there_then)) != len(given):
            return given
        rest = iter(given)
        both = zip(names, there_then, strict=True)
        return tuple(self._rename(next(rest), name) if was else self.find(name) for name, was in both)

    def _rename(self, picture: ImageRef, name: str) -> ImageRef:
        if not there(picture):
            picture = self.find(name)
        return replace(picture, name=name or picture.name)


def _places_below(folder: Path) -> list[_Folder | _Zip]:
    root = folder.resolve()
    folders = [root, *(root / name for name in BESIDE)]
    zips = [root / f"{name}.zip" for name in BESIDE]
    # A folder that is a link to elsewhere is not taken for part of the data; the user can name it. A zip can only hold
    # what it holds.
    found: list[_Folder | _Zip] = [_Folder(path) for path in folders if path.is_dir() and path.resolve() == path]
    return found + [_zip(path) for path in zips if path.is_file()]


def within(data: Path, files: Sequence[Path], images: Path | None) -> ImageIndex:
    """Where a dataset's pictures are: what the user names, then its folder and the folders of its files."""
    own = data if data.is_dir() else data.parent
    beside = ImageIndex.beside(*dict.fromkeys([own, *(path.parent for path in files)]))
    return ImageIndex(ImageIndex.of(images).places + beside.places) if images is not None else beside


# Benchmarks and sources of instructions: a folder with all that is below it.


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A picture below a root."""

    path: str
    """Relative to the root; of a zip: the member."""
    archive: _Zip | None


_COCO: Final = re.compile(r"^COCO_(?:train|val|test)20\d\d_")


class ImageTree:
    """A folder and the zips below it, or a zip. Names are paths in it, or file names with or without ending."""

    def __init__(self, root: Path | None, *, search: bool = True, guess: bool = False) -> None:
        """No root: no picture. `search`: find file names below, too. `guess`: of several take the first by path."""
        self.root, self.search, self.guess = root, search, guess
        self.find = lru_cache(maxsize=1 << 17)(self._find)  # benchmarks and sources ask many times about one picture

    def _find(self, name: str) -> ImageRef:
        """The picture of this name; one that is not there has a problem."""
        parts = _parts(name)
        problem = _refuse(name, parts) or (OUTSIDE if is_absolute(name) else "")
        found = None
        if self.root is not None and not problem:
            if self.root.is_dir():
                found = self._folder.at(name, "/".join(parts))
            else:
                found = _zip(self.root).at(name, "/".join(parts)) if self.root.suffix.lower() == ".zip" else None
            if found is None and (self.search or not self.root.is_dir()):
                found = self._search(name, "/".join(parts))
        return found or ImageRef(name, problem=problem or MISSING)

    @cached_property
    def _folder(self) -> _Folder:
        return _Folder((self.root or Path()).resolve())

    def _search(self, name: str, path: str) -> ImageRef | None:
        own = PurePosixPath(path).name
        found = self._entries.get(own) or self._entries.get(_without_ending(own)) or []
        if len(found) > 1:
            found = [entry for entry in found if f"/{entry.path}".endswith(f"/{path}")] or found
            found = [entry for entry in found if entry.archive is None] or found  # a zip unpacked beside itself
        if len(found) > 1 and not self.guess:
            return ImageRef(name, problem=AMBIGUOUS)
        for entry in found[:1]:
            return self._folder.at(name, entry.path) if entry.archive is None else entry.archive.at(name, entry.path)
        return None

    @cached_property
    def _entries(self) -> dict[str, list[_Entry]]:
        """Name and stem -> pictures; COCO's long names also stand under their number."""
        found: dict[str, list[_Entry]] = {}
        for entry in self._all_entries():
            name = PurePosixPath(entry.path).name
            short = _COCO.sub("", name)
            for key in {name, _without_ending(name), short, _without_ending(short)}:
                found.setdefault(key, []).append(entry)
        return found

    def _all_entries(self) -> Iterator[_Entry]:
        root = self._folder.root
        for file in [root] if root.is_file() else sorted(_files_below(root)):
            if file.suffix.lower() in IMAGES and file != root:
                yield _Entry(path=file.relative_to(root).as_posix(), archive=None)
            elif file.suffix.lower() == ".zip":
                archive = _zip(file)
                pictures = (one for one in archive.members if PurePosixPath(one).suffix.lower() in IMAGES)
                yield from (_Entry(path=member, archive=archive) for member in pictures)
            elif file == root:
                raise DataError(f"{file}: must be a folder or a zip")


def _files_below(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (Path(parent) / name for name in names)


def has_pictures(folder: Path) -> bool:
    """Whether a folder holds any image or zip, at any depth."""
    return any(file.suffix.lower() in (*IMAGES, ".zip") for file in _files_below(folder))


def images_below(folder: Path) -> list[Path]:
    """All image files of a folder, at any depth."""
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGES and file.is_file())


def _without_ending(name: str) -> str:
    return PurePosixPath(name).stem if PurePosixPath(name).suffix.lower() in IMAGES else name


# Cells.


def is_base64(text: str) -> bool:
    """Whether a text in an image column is the picture itself and not its name."""
    return len(text) > LONGEST_NAME or text.startswith("data:image/")


def decode_base64(text: str) -> bytes:
    """The bytes in base64 text or a `data:` address; OSError."""
    try:
        return base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise OSError(f"not base64: {error}") from None


def picture_in_cell(cell: Any, find: Callable[[str], ImageRef], name: str = "") -> ImageRef:
    """The picture in a cell: bytes (called `name`), base64, a name for `find`, or datasets' bytes and path."""
    if isinstance(cell, ImageRef):
        return replace(cell, name=name or cell.name)
    data = cell.get("bytes") if isinstance(cell, Mapping) else cell
    path = cell.get("path") if isinstance(cell, Mapping) else None
    path = path if isinstance(path, str) else ""
    if isinstance(cell, str) and not is_base64(cell):
        return find(cell)
    if isinstance(data, str) and data:
        try:
            data = decode_base64(data)
        except OSError:
            return ImageRef(name or path, problem=UNREADABLE)
    if isinstance(data, bytes) and data:
        return ImageRef(name or path, data=data)
    return find(path or name) if path or name else ImageRef("", problem=NONE)
