"""How the images of a dataset are written into a data file: as paths that open, as bytes, or as copies beside it.

    exporter = ImageExporter(Path("out/pairs.jsonl"), structs=False)
    exporter.give(pair.images)        # Given(images=["pairs_images/0f3c.png"], names={"image_names": [...], ...})

What a row calls its image is no path to whoever reads the file: only paths that support/image_folders.py found inside
the data's own folders and zips are written.
"""

import hashlib
import re
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from support.files import atomic_path
from support.image_folders import ZIP, resolve_folder, there
from support.image_formats import kind
from support.image_names import is_absolute
from support.images import ImageRef, image_bytes


class Given(NamedTuple):
    """The images of one record as a file has them."""

    images: list[Any]
    """Those that can be opened: paths, or structs of bytes and path."""
    names: dict[str, list[Any]]
    """Two columns: `image_names`, the names of all, and `image_there`, whether each is among the images."""


class Unreadable(Protocol):
    """Counts images that are there but can't be written."""

    unreadable_images: int


class ImageExporter:
    """Writes the images of one data file; what is not there, or is no image, is not among them."""

    def __init__(
        self, path: Path, *, structs: bool, embed: bool = False, copy: bool = True, counts: Unreadable | None = None
    ) -> None:
        """For the file `path`: `structs` of bytes and path for parquet, else plain paths, relative if they are below
        its folder.

        `embed`: bytes in structs, and copies beside the file where paths are plain. Without `copy` nothing is unpacked:
        a member of a zip is given as `zip://MEMBER::ZIP`, and bytes of a table not at all.
        """
        self.folder = path.parent
        self.copies = path.parent / f"{path.stem}_images"
        self.structs, self.embed, self.copy, self.counts = structs, embed, copy, counts
        self.give = lru_cache(maxsize=64)(self._give)  # the pairs of one row share its images
        self._unreadable: set[int] = set()

    def _give(self, images: tuple[ImageRef, ...]) -> Given:
        """The images of one record."""
        given = [self._write(image) for image in images]
        names: dict[str, list[Any]] = {"image_names": [portable_name(image) for image in images]}
        names["image_there"] = [one is not None for one in given]
        return Given([one for one in given if one is not None], names)

    def _write(self, image: ImageRef) -> Any:
        """The image as a record has it; None for one that is not there, or is no image."""
        if not there(image):
            return None
        if self.structs and self.embed:
            data = self._read(image)
            return None if data is None else {"bytes": data, "path": safe_name(image)}
        path = self._find_path(image)
        return path if path is None or not self.structs else {"bytes": None, "path": path}

    def _find_path(self, image: ImageRef) -> str | None:
        """A path that opens the image, for which it may be copied."""
        if image.file is not None and image.member is None and not self.embed:
            if _begins_as_image(image.file):
                return self._write_path(image.file)
            self._count(image)
            return None
        data = self._read(image)
        if data is None:
            return None
        if self.embed or self.copy:
            return self._write_path(self._copy(data))
        if image.file is not None and image.member is not None:
            path = self._write_path(image.file)
            return f"{ZIP}{image.member}::{path}" if _MEMBER.fullmatch(image.member) and "::" not in path else None
        return None

    def _write_path(self, file: Path) -> str:
        folder = resolve_folder(self.folder)
        if not self.structs and file.is_relative_to(folder):
            path = file.relative_to(folder).as_posix()
            if ":" not in path:  # which might be taken for an address
                return path
        return str(file.absolute())

    def _read(self, image: ImageRef) -> bytes | None:
        data = image_bytes(image)
        if data is None:
            self._count(image)
        return data

    def _count(self, image: ImageRef) -> None:
        if self.counts is not None and (key := hash(image)) not in self._unreadable:
            self._unreadable.add(key)
            self.counts.unreadable_images += 1

    def _copy(self, data: bytes) -> Path:
        """A copy named by the digest of the content, made once."""
        path = resolve_folder(self.folder) / self.copies.name / f"{hashlib.sha256(data).hexdigest()[:32]}{kind(data)}"
        if not path.exists() or path.stat().st_size != len(data):
            with atomic_path(path, durable=False) as temporary:
                temporary.write_bytes(data)
        return path


_MEMBER = re.compile(r"(?!.*(?:::|://|\.\.))[^\s/*?\[\]\\#|][^*?\[\]\\#|\x00-\x1f]*")
"""Names of zip members that have no special meaning in an address."""


def _begins_as_image(file: Path) -> bool:
    try:
        with file.open("rb", buffering=0) as opened:
            return kind(opened.read(16)) is not None
    except OSError:
        return False


def path_for_row(image: ImageRef, data: Path) -> str:
    """The image's name in a row of the file `data`: its path below that file's folder, else its safe name."""
    folder = resolve_folder(data.parent)
    if image.file is not None and image.member is None and image.file.is_relative_to(folder):
        return image.file.relative_to(folder).as_posix()
    return safe_name(image)


def portable_name(image: ImageRef) -> str:
    """Its name for others to read: of an absolute path, which only one machine has, the last two parts."""
    return "/".join(image.name.replace("\\", "/").split("/")[-2:]) if is_absolute(image.name) else image.name


def safe_name(image: ImageRef) -> str:
    """Its name where others may open it as a path: of an address, or a path with "..", the last two parts."""
    name = image.name
    parts = re.split(r"[/\\]", name)
    if not (is_absolute(name) or ".." in parts or "://" in name or "::" in name):
        return name
    return "/".join(part for part in parts[-2:] if part.strip(".") and ":" not in part)
