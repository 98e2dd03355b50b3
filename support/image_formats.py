"""The one opener of image files: which formats are decoded, and what a file may cost before and while it is.

    with open_image(data, pixels=50_000_000) as image: ...    # a Pillow image whose pixels are not read yet; OSError
    kind(data)                                                # ".png"; None for what is not read
    is_image(data)                                            # True also for an image of a format that is refused

Image files are not trusted. Six decoders are used, chosen by the first bytes, never by the name: Pillow has others that
start programs (EPS) or are seldom tested. A file may be small and its picture may still cost gigabytes or hours; what
is known of that is refused here with its reason (see `_check_before`, `_check_opened`, `_Watched`).
"""

import io
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from PIL import Image, UnidentifiedImageError

FORMATS: Final = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp", "TIFF": ".tif"}
"""Formats that are decoded -> the usual ending of their files. JPEG has MPO in it: its first picture counts."""
READ: Final = "JPEG, PNG, WebP, GIF, BMP and TIFF are read"

MAX_SIDE: Final = 65_535
"""Pixels; no JPEG has more. Pillow's decoder of packed BMP takes 255 rows at a time."""
MAX_RATIO: Final = 400
"""Of the longer side to the shorter: image processors scale the shorter one up to their model's, hundreds of pixels."""
MAX_SCANS: Final = 100
"""Of a progressive JPEG, which has about 10: each goes over all pixels again."""
MAX_SEGMENTS: Final = 100_000
"""Of a JPEG, before its pixels."""
MAX_EXIF: Final = 128 << 10
"""Bytes; a JPEG's own limit is 64 KiB. An entry may repeat all of it, and there may be thousands."""
MAX_SECONDS: Final = 15
"""Processor time that reading one file may take."""
_READ_AGAIN: Final = 4
"""How many times its own size may be read of a file: the entries of a TIFF may all name the same bytes."""

_STARTS: Final = (
    *((b"\xff\xd8\xff", "JPEG"), (b"\x89PNG\r\n\x1a\n", "PNG"), (b"GIF87a", "GIF"), (b"GIF89a", "GIF")),
    *((start, "TIFF") for start in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
)
_FAMILIES: Final = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"hevc": "HEIC"}
_OTHERS: Final = (
    *((b"\0\0\0\x0cjP  ", "JPEG 2000"), (b"\xff\x4f\xff\x51", "JPEG 2000"), (b"\0\0\0\x0cJXL ", "JPEG XL")),
    *((b"\xff\x0a", "JPEG XL"), (b"II\xbc", "JPEG XR"), (b"8BPS", "PSD"), (b"icns", "ICNS"), (b"\0\0\1\0", "ICO")),
    *((b"SIMPLE  =", "FITS"), (b"\xd7\xcd\xc6\x9a", "WMF"), (b"DDS ", "DDS"), (b"qoif", "QOI")),
    *((b"%!PS", "PostScript (EPS)"), (b"\xc5\xd0\xd3\xc6", "PostScript (EPS)"), (b"gimp xcf", "XCF")),
    *((b"\x76\x2f\x31\x01", "OpenEXR"), (b"#?RADIANCE", "Radiance HDR"), (b"/* XPM", "XPM"), (b"\x8aMNG", "MNG")),
)
_OTHER_TEXTS: Final = ((re.compile(rb"P[1-7fFy]\s"), "PPM"), (re.compile(rb"#define \w+_width "), "XBM"))
_HTML: Final = frozenset("html head body title meta script style link div center p h1 h2 h3 pre iframe table".split())
_NO_IMAGES: Final = (
    (re.compile(rb"\s*[\[{]\s*[\"\]}\[{]"), "JSON"),
    (re.compile(rb"version https://git-lfs"), "a pointer of Git LFS (git lfs pull fetches the file)"),
    (re.compile(rb"%PDF-"), "a PDF file"),
    (re.compile(rb"PK\x03\x04"), "a zip"),
    (re.compile(rb"\x1f\x8b"), "a gzip file"),
    (re.compile(rb"ID3|OggS|\x1aE\xdf\xa3|.{4}ftyp", re.DOTALL), "a video or sound file"),
)


def find_format(data: bytes) -> str | None:
    """Which of `FORMATS` a file is of, by its first bytes; None for another one."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:2] == b"BM" and data[6:10] == bytes(4):  # two letters alone begin many a text
        return "BMP"
    return next((name for start, name in _STARTS if data.startswith(start)), None)


def kind(data: bytes) -> str | None:
    """The usual ending of an image file that begins like this; None for one that is not read."""
    found = find_format(data)
    return FORMATS[found] if found else None


def is_image(data: bytes) -> bool:
    """Whether this is how an image file begins, also one of the refused formats that pictures come in.

    Only those whose beginning can't be that of a name in base64's letters.
    """
    return find_format(data) is not None or data[4:8] == b"ftyp" or data.startswith(b"\0\0\0\x0cjP  ")


def _find_other(data: bytes) -> str | None:
    """The format of an image file that is not read, by its first bytes."""
    if data[4:8] == b"ftyp" and data[8:12] in (*_FAMILIES, b"mif1", b"msf1"):
        return _FAMILIES.get(data[8:12], "HEIC or AVIF")
    if data[:4] == b"\1\0\0\0" and data[40:44] == b" EMF":
        return "EMF"
    head = data[:1024]
    if found := next((name for start, name in _OTHERS if head.startswith(start)), None):
        return found
    if _find_root(head) == "svg":
        return "SVG"
    return next((name for start, name in _OTHER_TEXTS if start.match(head)), None)


def _find_root(head: bytes) -> str | None:
    """The name of the root of a text with tags, by its document type or first tag; "" where the beginning does not say
    it, None for what is no such text."""
    rest = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if not re.match(rb"<[!?a-zA-Z]", rest):
        return None
    for start, end in ((b"<?", b"?>"), (b"<!--", b"-->")) * 8:  # these may stand before the root
        while rest.startswith(start):
            rest = rest.partition(end)[2].lstrip()
    found = re.match(rb"<(?:!doctype\s+)?(?:\w+:)?(\w+)", rest, re.IGNORECASE)
    return found[1].decode("ascii", "replace").lower() if found else ""


def check_format(data: bytes) -> str:
    """Which of `FORMATS` a file is of; OSError that names what it is instead, and what to do."""
    if found := find_format(data):
        return found
    if other := _find_other(data):
        raise OSError(f"image of the format {other} is not read; convert it to PNG or JPEG ({READ})")
    if not data:
        raise OSError("an empty file, not an image")
    root = _find_root(data[:1024])
    what = None if root is None else "a web page" if root in _HTML else "text with tags (XML or HTML)"
    if what := what or next((what for start, what in _NO_IMAGES if start.match(data)), None):
        raise OSError(f"{what}, not an image ({READ})")
    raise OSError(f"not an image that is known ({READ})")


@contextmanager
def open_image(data: bytes, *, pixels: int) -> Iterator[Image.Image]:
    """The image in a file, not read yet, of at most so many pixels; OSError for whatever goes wrong in the block.

    What the block reads of it is limited, in time as well; see `MAX_SECONDS`.
    """
    name = check_format(data)
    _check_before(data, name, pixels)
    file = _Watched(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pixel bombs, which are refused at a lower size, and of odd tags
            image: Image.Image = Image.open(file, formats=(name,))
            check_size(image.size, pixels)
            _check_opened(image, data, pixels)
            yield image
    except UnidentifiedImageError:  # its own words name an address in memory
        raise OSError(f"image can't be read: the head of the {name} file is broken") from None
    except Image.DecompressionBombError:  # which tells Pillow's own limit
        raise OSError(f"image of more than {pixels} pixels is over the limit") from None
    except OSError:
        raise
    except Exception as error:  # decoders raise anything at bytes that nobody foresaw
        raise OSError(f"image can't be read: {error or type(error).__name__}") from None
    finally:
        file.until = float("inf")


def check_size(size: tuple[int, int], pixels: int) -> None:
    """OSError for more than so many pixels, or for a longer side than pictures have."""
    width, height = size
    if width * height > pixels:
        raise OSError(f"image of {width} x {height} pixels is over the limit of {pixels}")
    if max(size) > MAX_SIDE:
        raise OSError(f"image of {width} x {height} pixels is over the limit of {MAX_SIDE} a side")
    if max(size) > MAX_RATIO * min(size):
        raise OSError(f"image of {width} x {height} pixels has one side over {MAX_RATIO} times the other")


class _Watched(io.BytesIO):
    """A file in memory that stops whoever reads it for too long, or the same bytes again and again.

    Decoders read in small pieces, so that each of them comes by here.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.left = _READ_AGAIN * len(data) + (16 << 20)
        self.until = time.thread_time() + MAX_SECONDS  # of this thread: a busy machine refuses no picture

    def read(self, size: int | None = -1, /) -> bytes:
        """As of any file; OSError."""
        if time.thread_time() > self.until:
            raise OSError(f"image takes more than {MAX_SECONDS} seconds to read")
        data = super().read(size)
        self.left -= len(data)
        if self.left < 0:
            raise OSError("image whose parts name the same bytes again and again")
        return data


def _check_before(data: bytes, name: str, pixels: int) -> None:
    """OSError for what Pillow would spend too much on before it tells the picture's size."""
    if name == "JPEG":
        _check_jpeg(data)
    if name == "WEBP" and data[12:16] == b"VP8X":  # the decoder makes room for the whole canvas at once
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        check_size((width, height), pixels)


_MARKER: Final = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd8]")


def _check_jpeg(data: bytes) -> None:
    few = data.count(b"\xff\xda") <= MAX_SCANS  # a file of few scans is not looked at beyond its first
    at, scans, exif, segments = 2, 0, 0, 0
    while (found := _MARKER.search(data, at)) and data[found.start() + 1] != 0xD9:
        start, marker = found.end(), data[found.start() + 1]
        length = int.from_bytes(data[start : start + 2], "big")
        scans, segments = scans + (marker == 0xDA), segments + 1
        exif += length if marker == 0xE1 and data[start + 2 : start + 6] == b"Exif" else 0
        if scans and few:
            return
        check_exif(exif)
        if scans > MAX_SCANS or segments > MAX_SEGMENTS:
            raise OSError(f"JPEG of over {MAX_SCANS} scans or {MAX_SEGMENTS} segments")
        at = start + max(length, 2)


def check_exif(size: int) -> None:
    """OSError for more bytes of EXIF than any camera writes."""
    if size > MAX_EXIF:
        raise OSError(f"EXIF of {size} bytes is over the limit of {MAX_EXIF}")


_TILE: Final = (322, 323)
"""Tags of a TIFF: width and length of its tiles, for each of which the decoder makes room."""
_BYTE_COUNTS: Final = (279, 325)
"""Bytes of each strip, or of each tile."""


def _check_opened(image: Image.Image, data: bytes, pixels: int) -> None:
    """OSError for what the decoder would spend too much on, by what the head says."""
    tags: Any = getattr(image, "tag_v2", None)
    if tags is not None:
        tile = tuple(tags.get(tag, 0) for tag in _TILE)
        if all(isinstance(side, int) for side in tile) and tile[0] * tile[1] > pixels + MAX_SIDE:
            raise OSError(f"TIFF with tiles of {tile[0]} x {tile[1]} pixels is over the limit of {pixels}")
        counts = [count for tag in _BYTE_COUNTS for count in _as_numbers(tags.get(tag))]
        if sum(counts) > _READ_AGAIN * len(data):
            raise OSError("TIFF whose strips name the same bytes again and again")
        if image.info.get("compression") in ("jpeg", "tiff_jpeg") and data.count(b"\xff\xda") > MAX_SCANS + len(counts):
            raise OSError(f"TIFF with over {MAX_SCANS} scans of JPEG")
    for name in ("exif", "Raw profile type exif"):
        value = image.info.get(name)
        check_exif(len(value) // (2 if isinstance(value, str) else 1) if isinstance(value, (bytes, str)) else 0)


def _as_numbers(value: Any) -> list[int]:
    values = value if isinstance(value, tuple) else (value,)
    return [number for number in values if isinstance(number, int)]
