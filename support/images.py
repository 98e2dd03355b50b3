"""Images that are opened when they are looked at, known by their content, and never kept decoded for long.

    ref = ImageRef.at(Path("cat.jpg"))            # reads nothing yet
    ref.open()                                    # decoded: a PIL image
    key = keep(ref)                               # the digest of what is in the file
    picture(key)                                  # a PromptImage, which decodes when a model looks at it

lm-eval asks for the images of all documents before the first answer, and decoded they would not fit in memory. A
picture that is missing, broken or too large raises OSError when it is looked at, so that one sample fails and not the
run. Nothing here trusts the names that data give: see `support.image_folders`.
"""

import hashlib
import io
import os
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from PIL import Image

MAX_PIXELS: Final = 50_000_000
"""A larger picture is a failed sample, not an out-of-memory error for the whole run."""

DECODED: Final = 16
"""How many decoded pictures are held at a time."""

MAX_BYTES: Final = 256 << 20
"""A larger image file is not read."""

Reader = Callable[[], bytes]
"""Gives the bytes of an image file; raises OSError."""


_REFS: dict[str, "ImageRef"] = {}


def keep(ref: "ImageRef") -> str:
    """Make an image known to `picture`; its key: a digest of its content, or of its name where it can't be read."""
    try:
        key = hashlib.sha256(ref.read()).hexdigest()[:32]
    except OSError:
        key = "unreadable-" + hashlib.sha256(repr(ref).encode("utf-8", "backslashreplace")).hexdigest()[:21]
    _REFS.setdefault(key, ref)
    return key


def picture(key: str) -> "PromptImage":
    """The image of this key."""
    return PromptImage(key)


def encoded(shown: "PromptImage") -> bytes:
    """The bytes of the image's own file; raises OSError."""
    return _REFS[shown.key].read()


class PromptImage(Image.Image):
    """A PIL image that is read when it is looked at."""

    def __init__(self, key: str) -> None:
        # Not the base class's: what that one sets is what __getattr__ finds in the decoded image.
        self.key = key

    def __getattr__(self, name: str) -> Any:
        if name in {"key", "__setstate__"}:
            raise AttributeError(name)
        return getattr(_decoded(self.key), name)

    @property
    def format(self) -> str | None:  # type: ignore[override]  # a plain attribute of the base class
        """ "PNG", "JPEG", ...: the kind of the image's file."""
        return _decoded(self.key).format

    def load(self) -> Any:
        """Read and decode; raises OSError."""
        return _decoded(self.key).load()

    def close(self) -> None:
        """Nothing is open."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "PromptImage":
        return self

    def __copy__(self) -> "PromptImage":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # To another process goes what the key stands for, since that process knows no readers.
        return decode, (encoded(self),)

    def __repr__(self) -> str:
        return f"<Picture {self.key}>"


@lru_cache(maxsize=DECODED)
def _decoded(key: str) -> Image.Image:
    return _REFS[key].open()


def decode(data: bytes) -> Image.Image:
    """The image in the bytes of an image file; raises OSError for one that is broken or larger than MAX_PIXELS."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pixel bombs, which are refused here at a lower size
            image = Image.open(io.BytesIO(data))
        if image.width * image.height > MAX_PIXELS:
            raise OSError(f"image of {image.width} x {image.height} pixels is over the limit of {MAX_PIXELS}")
        image.load()
    except (SyntaxError, ValueError, Image.DecompressionBombError) as error:  # Pillow's, beside OSError
        raise OSError(f"image can't be read: {error}") from None
    return image


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image that is read when it is looked at: of a file, of a member of a zip, of bytes, or by a function."""

    name: str
    """As the data name it, such as "merged_images/7.jpg"; never opened as a path."""
    file: Path | None = None
    """The image file, or the zip that holds `member`."""
    member: str | None = None
    data: bytes | None = field(default=None, repr=False)
    reader: Reader | None = field(default=None, repr=False)
    """Gives the bytes each time they are needed, such as those in a cell of a table."""
    problem: str = field(default="", compare=False, repr=False)
    """Why there is nothing to read; see `support.image_folders`."""

    @classmethod
    def at(cls, path: Path) -> "ImageRef":
        """An image file that the user names, or that this project wrote."""
        return cls(str(path), path)

    def read(self) -> bytes:
        """The bytes of the image file; raises OSError."""
        if self.data is not None:
            return self.data
        if self.reader is not None:
            return self.reader()
        if self.file is None:
            raise OSError(f"image {self.name!r} is not there{self.problem and f': {self.problem}'}")
        if self.member is None:
            _check_size(self.file, self.file.stat().st_size)
            return self.file.read_bytes()
        try:
            archive = _archive(self.file, os.getpid())
            _check_size(self.file, archive.getinfo(self.member).file_size)
            return archive.read(self.member)
        except (KeyError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            # What zipfile raises for broken ones.
            raise OSError(f"{self.file}: {self.member}: {error}") from None

    def open(self) -> Image.Image:
        """The decoded image; raises OSError for one that is missing, broken or too large."""
        return decode(self.read())


def _check_size(file: Path, size: int) -> None:
    if size > MAX_BYTES:
        raise OSError(f"{file}: an image of {size} bytes is over the limit of {MAX_BYTES}")


@lru_cache(maxsize=4)
def _archive(path: Path, process: int) -> zipfile.ZipFile:
    # One for each process: a forked one would move the position in the file that both have open.
    return zipfile.ZipFile(path)


_KINDS = {b"\xff\xd8\xff": ".jpg", b"\x89PNG\r\n\x1a\n": ".png", b"GIF8": ".gif", b"BM": ".bmp"}
_KINDS |= {b"II*\0": ".tif", b"MM\0*": ".tif"}


def kind(data: bytes) -> str | None:
    """The usual ending of an image file that begins like this; None for what is no image."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ".webp"
    if data[4:12] == b"ftypavif":
        return ".avif"
    return next((ending for start, ending in _KINDS.items() if data.startswith(start)), None)


def image_bytes(picture: ImageRef) -> bytes | None:
    """The bytes of its image file; None where there is no image to be had: no other file leaves in an image's place."""
    try:
        data = picture.read()
    except OSError:
        return None
    return data if kind(data) else None
