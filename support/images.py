"""Images that are opened when they are looked at, known by their content, and never kept decoded for long.

    ref = ImageRef.at(Path("cat.jpg"))            # reads nothing yet
    ref.open()                                    # decoded: a PIL image
    key = keep(ref)                               # the digest of what is in the file
    picture(key)                                  # a PromptImage, which decodes when a model looks at it

lm-eval asks for the images of all documents before the first answer, and decoded they would not fit in memory. A
picture that is missing, broken or too large raises OSError when it is looked at, so that one sample fails and not the
run. Nothing here trusts the names that data give: see `support.image_folders`.

What is shown, to a local model, a server or a judge, is one picture (`decode`): upright by its EXIF orientation, the
first frame of an animation, 16 bits and more scaled to 8, transparency dropped as `convert("RGB")` drops it.
"""

import hashlib
import os
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import ExifTags, Image

from support.files import read_regular
from support.image_formats import check_format, kind, open_image
from support.unpacking import open_zip, read_member

MAX_PIXELS: Final = 50_000_000
"""A larger picture is a failed sample, not an out-of-memory error for the whole run."""

DECODED: Final = 16
"""How many decoded pictures are held at a time."""

MAX_BYTES: Final = 256 << 20
"""A larger image file is not read."""

Size = tuple[int, int]
"""Width and height in pixels."""

Reader = Callable[[], bytes]
"""Gives the bytes of an image file; raises OSError."""


_REFS: dict[str, "ImageRef"] = {}
_UNREADABLE: Final = "unreadable-"
"""What keys of pictures begin with that could not be read."""
_SHOWN_OTHERWISE: set[str] = set()
"""Keys of the pictures that earlier versions did not show as they are shown now."""


def keep(ref: "ImageRef") -> str:
    """Make an image known to `picture`; its key: a digest of its content, or of its name where it is not read."""
    try:
        data = ref.read()
        check_format(data)
        key = _digest(data)
        if key not in _REFS and _is_shown_otherwise(data):
            _SHOWN_OTHERWISE.add(key)
    except OSError:
        said = repr(ref) if ref.name else f"{ref!r} {ref.why}"  # without a name, what is wrong tells two apart
        key = _UNREADABLE + hashlib.sha256(said.encode("utf-8", "backslashreplace")).hexdigest()[:21]
    _REFS.setdefault(key, ref)
    return key


def problem_of(key: str) -> str:
    """Why there is no picture of this key, as far as that was looked at; "" where there is one, or none is meant."""
    ref = _REFS.get(key)
    if ref is None or not (ref.problem or key.startswith(_UNREADABLE)):
        return ""
    return ref.why or "can't be read"


def keep_known(ref: "ImageRef", key: str, otherwise: bool) -> None:
    """Make an image known by the key that `keep` gave it before; what is read of it later is held against that."""
    if otherwise and key not in _REFS:
        _SHOWN_OTHERWISE.add(key)
    _REFS.setdefault(key, ref)


def is_read(key: str) -> bool:
    """Whether a key is of a picture's content."""
    return not key.startswith(_UNREADABLE)


def is_shown_otherwise(key: str) -> bool:
    """Whether earlier versions showed the image of a key otherwise."""
    return key in _SHOWN_OTHERWISE


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def _read_kept(key: str) -> bytes:
    """The bytes that the key is of; OSError. Others would be answered, and kept, in the name of these."""
    data = _REFS[key].read()
    check_format(data)
    if _digest(data) != key:
        raise OSError(f"image {shorten(_REFS[key].name)!r} has changed since its table was read")
    return data


def picture(key: str) -> "PromptImage":
    """The image of this key."""
    return PromptImage(key)


def encoded(shown: "PromptImage") -> bytes:
    """The bytes of the image's own file; raises OSError."""
    return _read_kept(shown.key)


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
        """ "PNG", "JPEG", ...: the kind of the image's file; None where the file does not show what is shown."""
        return _decoded(self.key).format

    @property
    def shown(self) -> str:
        """Names what is shown, for whatever is kept of it: answers about a picture that lay on its side are others."""
        return f"{self.key}-upright" if self.key in _SHOWN_OTHERWISE else self.key

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


def image_digest(image: Image.Image) -> str:
    """The image's key in its benchmark if it has one, else sha256 of its pixels, transparency included."""
    if isinstance(image, PromptImage):
        return image.shown
    # The bytes of a palette image do not include its colours.
    shown = image if image.mode in ("RGB", "L", "RGBA") else image.convert("RGBA")
    return hashlib.sha256(f"{image.mode} {image.size} ".encode() + shown.tobytes()).hexdigest()


@lru_cache(maxsize=DECODED)
def _decoded(key: str) -> Image.Image:
    return decode(_read_kept(key))


def decode(data: bytes) -> Image.Image:
    """The picture that the bytes of an image file show; OSError for one that is broken, of a format that is not read,
    or over a limit (see `support.image_formats`).

    Its `format` is None where the file itself does not show that.
    """
    with open_image(data, pixels=MAX_PIXELS) as image:
        image.load()
        return _as_shown(_upright(image))


def decode_reduced(data: bytes, side: int) -> tuple[Image.Image, Size]:
    """The image in a file, upright, otherwise as it is stored, and its own width and height; OSError as for `decode`.

    A JPEG is decoded at 1/2, 1/4 or 1/8 where its shorter side stays at `side` or more: all of the file is read, so
    that one that is cut short or broken is found, at half the time.
    """
    with open_image(data, pixels=MAX_PIXELS) as image:
        width, height = image.size
        factor = reduction(image.size, side)
        if image.format == "JPEG" and factor > 1:
            image.draft(None, (width // factor, height // factor))
        image.load()
        return _upright(image), (height, width) if _lies_on_its_side(image) else (width, height)


def reduction(size: Size, side: int) -> int:
    """1, 2, 4 or 8: how often the shorter side of a picture can be halved and stay at `side` or more, as a factor."""
    return next((factor for factor in (8, 4, 2) if min(size) // factor >= side), 1)


def size_in(data: bytes) -> Size:
    """Width and height of the upright image in a file, of which only the head is read; OSError."""
    with open_image(data, pixels=MAX_PIXELS) as image:
        width, height = image.size
        return (height, width) if _lies_on_its_side(image) else (width, height)


_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what makes an image upright."""
_ORIENTATION_IN: Final = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")
"""What an image's `info` calls the data that may have its orientation."""


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # EXIF that can't be read turns nothing; Pillow raises anything
        return 1
    return found if found in _TURNS else 1


def _lies_on_its_side(image: Image.Image) -> bool:
    return _orientation(image) >= 5  # of these turns each exchanges width and height


def _upright(image: Image.Image) -> Image.Image:
    turn = _TURNS.get(_orientation(image))
    if turn is None:
        return image
    turned = image.transpose(turn)
    turned.info = {name: value for name, value in image.info.items() if name not in _ORIENTATION_IN}
    return turned  # its format is None, as that of any new image


_PLAIN: Final = ("1", "L", "P", "RGB", "LA", "PA", "RGBA")


def _as_shown(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _in_eight_bits(image)
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] != 255:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a palette's transparency, which is what is dropped
            return image.convert("RGB")
    if image.format is not None and (image.mode not in _PLAIN or _is_animated(image)):
        image.format = None
    return image


def _is_animated(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # a second frame that can't be read is none
        return False


def _in_eight_bits(image: Image.Image) -> Image.Image:
    """Grey values of more than 8 bits scaled to 0-255, by the range of their type where they are in it."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0, neginf=0)
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    top = next((top for top in (1.0, 255.0, 65535.0) if high <= top and (top > 1 or image.mode.startswith("F"))), high)
    if image.mode.startswith("I;16"):
        top = 65535.0
    shown = Image.fromarray(((values - low) * (255 / max(top - low, 1e-9))).round().clip(0, 255).astype(np.uint8))
    shown.info = dict(image.info)
    return shown


_MAY_BE_OTHERWISE: Final = re.compile(rb"Exif|eXIf|EXIF|Orientation|irot|imir")


def _is_shown_otherwise(data: bytes) -> bool:
    """Whether a file is of those that earlier versions showed on their side, or with values over 255 cut off."""
    if not (_MAY_BE_OTHERWISE.search(data) or data[24:26] == b"\x10\0" or data[:2] in (b"II", b"MM")):
        return False
    try:
        with open_image(data, pixels=MAX_PIXELS) as image:
            return image.mode.startswith(("I", "F")) or (image.format != "TIFF" and _orientation(image) != 1)
    except OSError:  # it fails when it is looked at
        return False


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
    """Why there is nothing to read, as one of a few kinds; see `support.image_folders`."""
    detail: str = field(default="", compare=False, repr=False)
    """What the problem's kind does not say, such as the pictures that the name may mean."""

    @classmethod
    def at(cls, path: Path) -> "ImageRef":
        """An image file that the user names, or that this project wrote."""
        return cls(str(path), path)

    @property
    def why(self) -> str:
        """Why there is nothing to read, in full."""
        return self.problem + (f": {self.detail}" if self.detail else "")

    @property
    def size(self) -> int:
        """Bytes of the image file; raises OSError."""
        if self.file is None:
            return len(self.read())
        if self.member is None:
            return self.file.stat().st_size
        with _as_os_error(self.file, self.member):
            return _archive(self.file).getinfo(self.member).file_size

    def read(self) -> bytes:
        """The bytes of the image file; raises OSError."""
        if self.data is not None:
            return self.data
        if self.reader is not None:
            return self.reader()
        if self.file is None:
            raise OSError(f"image {shorten(self.name)!r} is not there{self.why and f': {self.why}'}")
        if self.member is None:
            with _as_os_error(self.file):
                return read_regular(self.file, MAX_BYTES)
        with _as_os_error(self.file, self.member):
            return read_member(_archive(self.file), self.member, MAX_BYTES)

    def open(self) -> Image.Image:
        """The decoded image; raises OSError for one that is missing, broken or too large."""
        return decode(self.read())


@contextmanager
def _as_os_error(*place: Path | str) -> Iterator[None]:
    where = ": ".join(map(str, place))
    try:
        yield
    except OverflowError as error:
        raise OSError(f"{where}: an image of {error}") from None
    except (KeyError, RuntimeError, EOFError, ValueError, struct.error, zipfile.BadZipFile, zlib.error) as error:
        # What zipfile raises for broken ones.
        raise OSError(f"{where}: {error}") from None


def shorten(name: str, most: int = 200) -> str:
    """A name as a message shows it: some cells hold a whole file."""
    return name if len(name) <= most else name[:most] + "..."


def stamp_of(path: Path) -> tuple[int, ...]:
    """What changes when another file takes a file's place, or it is written; () where there is none."""
    try:
        about = path.stat()
    except OSError:
        return ()
    return about.st_ino, about.st_size, about.st_mtime_ns


def _archive(path: Path) -> zipfile.ZipFile:
    return _open_archive(path, os.getpid(), stamp_of(path))


@lru_cache(maxsize=4)
def _open_archive(path: Path, process: int, stamp: tuple[int, ...]) -> zipfile.ZipFile:
    # One for each process: a forked one would move the position in the file that both have open.
    return open_zip(path)


def image_bytes(picture: ImageRef) -> bytes | None:
    """The bytes of its image file; None where there is no image to be had: no other file leaves in an image's place."""
    try:
        data = picture.read()
    except OSError:
        return None
    return data if kind(data) else None
