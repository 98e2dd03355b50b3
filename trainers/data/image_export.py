"""Where the pictures of a dataset are: columns with bytes in them, folders and zips; and how they are given on.

    places = Places.beside(Path("VLFeedback"))           # its own folder, merged_images/, images/, merged_images.zip, images.zip
    places.find("/home/x/cache/merged_images/7.jpg")     # the Picture, by its name within the places

What a row says about a picture is not trusted: a name that climbs out, a link that leads out, a URL, a member too large
give a Picture that is not there. Only the places are read, and they are named by the user or stand beside the data.
"""

import hashlib
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from support.image_folders import ZIP, is_absolute, resolve_folder, there
from support.images import ImageRef, image_bytes, kind


class Given(NamedTuple):
    """The pictures of one record as a file has them."""

    images: list[Any]
    """Those that are there: paths, or structs of bytes and path."""
    names: dict[str, list[Any]]
    """Two columns: what all are called, as text (`image_names`), and whether each is among the images
    (`image_there`)."""


class Unreadable(Protocol):
    """Who counts pictures that are there and can't be given on."""

    unreadable_images: int


class ImageExporter:
    """How the pictures of one data file are given in it: as paths that open, or as bytes; what is not there is not
    given.

    Only paths that were found within the data's places leave; what a row called its picture is no path to anybody who
    reads the file.
    """

    def __init__(
        self, path: Path, *, structs: bool, embed: bool = False, copy: bool = True, counts: Unreadable | None = None
    ) -> None:
        """For the file `path`: `structs` of bytes and path for parquet, else plain paths, relative where they are below
        its folder.

        `embed`: bytes in structs, and copies beside the file where paths are plain. Without `copy` nothing is unpacked:
        a member of a zip is given as `zip://MEMBER::ZIP`, and bytes of a table not at all.
        """
        self.folder = path.parent
        self.copies = path.parent / f"{path.stem}_images"
        self.structs, self.embed, self.copy, self.counts = structs, embed, copy, counts
        self.give = lru_cache(maxsize=64)(self._all)  # the pairs of one row share its pictures
        self._unreadable: set[int] = set()

    def _all(self, pictures: tuple[ImageRef, ...]) -> Given:
        """What is given of the pictures of one record."""
        given = [self._one(picture) for picture in pictures]
        names: dict[str, list[Any]] = {
            "image_names": [told_name(picture) for picture in pictures],
            "image_there": [one is not None for one in given],
        }
        return Given([one for one in given if one is not None], names)

    def _one(self, picture: ImageRef) -> Any:
        """The picture as a record has it; None for one that is not there, or is no image."""
        if not there(picture):
            return None
        if self.structs and self.embed:
            data = self._read(picture)
            return None if data is None else {"bytes": data, "path": safe_name(picture)}
        path = self._path(picture)
        return path if path is None or not self.structs else {"bytes": None, "path": path}

    def _path(self, picture: ImageRef) -> str | None:
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
        folder = resolve_folder(self.folder)
        if (
            not self.structs
            and file.is_relative_to(folder)
            and ":" not in (path := file.relative_to(folder).as_posix())
        ):
            return path  # with a colon it might be taken for an address
        return str(file.absolute())

    def _read(self, picture: ImageRef) -> bytes | None:
        data = image_bytes(picture)
        if data is None:
            self._count(picture)
        return data

    def _count(self, picture: ImageRef) -> None:
        if self.counts is not None and (key := hash(picture)) not in self._unreadable:
            self._unreadable.add(key)
            self.counts.unreadable_images += 1

    def _copied(self, data: bytes) -> Path:
        """A copy under the digest of the content: made once, and never again."""
        path = resolve_folder(self.folder) / self.copies.name / f"{hashlib.sha256(data).hexdigest()[:32]}{kind(data)}"
        if not path.exists() or path.stat().st_size != len(data):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            temporary.write_bytes(data)
            os.replace(temporary, path)
        return path


_MEMBER = re.compile(r"(?!.*(?:::|://|\.\.))[^\s/*?\[\]\\#|][^*?\[\]\\#|\x00-\x1f]*")
"""Members whose names say nothing else in an address."""


def _begins_as_image(file: Path) -> bool:
    try:
        with file.open("rb", buffering=0) as opened:
            return kind(opened.read(16)) is not None
    except OSError:
        return False


def path_for_row(picture: ImageRef, data: Path) -> str:
    """What a row of the file `data` calls the picture: its path below that file's folder, else the name it came with,
    made safe."""
    folder = resolve_folder(data.parent)
    if picture.file is not None and picture.member is None and picture.file.is_relative_to(folder):
        return picture.file.relative_to(folder).as_posix()
    return safe_name(picture)


def told_name(picture: ImageRef) -> str:
    """Its name as text for others to read: of an absolute path, which tells of somebody's machine, the end that finds
    it again."""
    return "/".join(picture.name.replace("\\", "/").split("/")[-2:]) if is_absolute(picture.name) else picture.name


def safe_name(picture: ImageRef) -> str:
    """Its name where others may open it as a path: of what leads elsewhere, such as an address or "..", the end that
    leads nowhere."""
    name = picture.name
    parts = re.split(r"[/\\]", name)
    if not (is_absolute(name) or ".." in parts or "://" in name or "::" in name):
        return name
    return "/".join(part for part in parts[-2:] if part.strip(".") and ":" not in part)
