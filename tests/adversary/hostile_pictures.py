"""Image files that are made to cost their reader hours, gigabytes or another program."""

import io
import struct
import zlib
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image


def save(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def picture(format: str = "PNG", size: tuple[int, int] = (64, 48), **options: object) -> bytes:
    """A small photograph-like picture."""
    noise = np.random.default_rng(size[0]).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return save(Image.fromarray(noise), format, **options)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *before: bytes, pixels: bytes = b"") -> bytes:
    """A grey PNG of this size; without `pixels`, of zeros as far as 64 MB go."""
    pixels = pixels or zlib.compress(bytes(min((width + 1) * height, 64 << 20)), 9)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(before) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def gif(
    width: int, height: int, *, comment: int = 0, comment_behind: int = 0, frame: tuple[int, int] = (4, 4)
) -> bytes:
    """A canvas with a small first frame between comments of so many blocks of 255 bytes."""
    blocks, behind = (b"!\xfe" + (b"\xff" + b"x" * 255) * many + b"\0" for many in (comment, comment_behind))
    pixels = b",\0\0\0\0" + struct.pack("<HH", *frame) + b"\0\x08\x09\0\x01\x08\x1cH\xb0 \x80\x80\0"
    return (
        b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\0\0\0\0\0\xff\xff\xff" + blocks + pixels + behind + b";"
    )


def tiff(tags: Mapping[int, tuple[int, ...]], size: int = 0) -> bytes:
    """A TIFF of these tags, all of type LONG, and `size` bytes for them to name."""
    entries, body, start = b"", b"", 8 + 2 + 12 * len(tags) + 4
    for tag, values in sorted(tags.items()):
        if len(values) == 1:
            entries += struct.pack("<HHLL", tag, 4, 1, values[0])
        else:
            entries += struct.pack("<HHLL", tag, 4, len(values), start + len(body))
            body += struct.pack(f"<{len(values)}L", *values)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0" + body + bytes(size)


GREY: Mapping[int, tuple[int, ...]] = {258: (8,), 262: (1,), 277: (1,)}


def tiff_of_tiles(side: int, tile: int) -> bytes:
    more = {256: (side,), 257: (side,), 259: (8,), 322: (tile,), 323: (tile,), 324: (500,), 325: (64,)}
    return tiff({**GREY, **more}, 600)


def tiff_of_one_strip_for_all(rows: int) -> bytes:
    """Each of its rows is a strip, and each strip is said to be the whole file."""
    data = tiff({**GREY, 256: (64,), 257: (rows,), 259: (5,), 278: (1,), 273: (8,) * rows, 279: (1 << 20,) * rows})
    return data + bytes(1 << 20)


def tiff_of_repeated_entries(entries: int, size: int) -> bytes:
    """Thousands of unknown tags that all name the same bytes."""
    head = {256: (8,), 257: (8,), 259: (1,), 273: (8,), 279: (64,), **GREY}
    own = b"".join(struct.pack("<HHLL", tag, 4, 1, *value) for tag, value in sorted(head.items()))
    more = b"".join(struct.pack("<HHLL", 40000 + tag, 7, size, 8) for tag in range(entries))
    count = struct.pack("<H", len(head) + entries)
    return b"II*\0\x08\0\0\0" + count + own + more + b"\0\0\0\0" + bytes(size)


def exif(entries: int, size: int) -> bytes:
    """EXIF of which each entry names all of its bytes."""
    more = b"".join(struct.pack("<HHLL", 1000 + tag, 7, size, 8) for tag in range(entries))
    return (b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", entries) + more).ljust(size + 6, b"\0")


def exif_in_text(size: int) -> bytes:
    """As ImageMagick writes it."""
    return chunk(
        b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n9\n" + exif(5000, size).hex().encode())
    )


def jpeg_of_exif(parts: int) -> bytes:
    """EXIF in many segments, which readers put together."""
    whole = exif(20_000, 60_000 * parts)[6:]
    pieces = [b"Exif\0\0" + whole[at : at + 60_000] for at in range(0, len(whole), 60_000)]
    segments = b"".join(b"\xff\xe1" + struct.pack(">H", len(piece) + 2) + piece for piece in pieces)
    data = picture("JPEG")
    return data[:2] + segments + data[2:]


def jpeg_of_scans(count: int) -> bytes:
    """A progressive picture of 49 million pixels whose last scan comes again and again."""
    data = save(Image.new("RGB", (7000, 7000), (10, 20, 30)), "JPEG", progressive=True)
    scan = data[data.rfind(b"\xff\xda") : -2]
    return data[:-2] + scan * count + b"\xff\xd9"


def jpeg_of_scans_behind_fill(count: int) -> bytes:
    """The same behind a marker without a length, which a careless reader would take for one with a length."""
    data = jpeg_of_scans(count)
    at = data.index(b"\xff\xda")
    return data[:at] + b"\xff\x01" + data[at:]


def tiff_of_jpeg_scans(count: int) -> bytes:
    scans = jpeg_of_scans(count)
    tags = {256: (7000,), 257: (7000,), 259: (7,), 273: (0,), 278: (7000,), 279: (len(scans),), **GREY, 262: (6,)}
    start = 8 + 2 + 12 * len(tags) + 4
    return tiff({**tags, 273: (start,)}) + scans


def webp(width: int, height: int) -> bytes:
    """An extended WebP with this canvas and a small frame."""
    small = save(Image.new("RGB", (4, 4)), "WEBP", lossless=True)[12:]
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBP" + b"VP8X" + struct.pack("<L", 10) + bytes(4) + sides + small
    return b"RIFF" + struct.pack("<L", len(body)) + body


def bmp_of_deltas(width: int, deltas: int) -> bytes:
    """A packed BMP of one row, with jumps of 255 rows."""
    jumps = b"\0\2\xff\xff" * deltas + b"\0\1"
    start = 14 + 40 + 1024
    head = struct.pack("<LllHHLLllLL", 40, width, 1, 1, 8, 1, len(jumps), 0, 0, 256, 0)
    return b"BM" + struct.pack("<LLL", start + len(jumps), 0, start) + head + bytes(1024) + jumps


def apng(frames: int) -> bytes:
    first, second = Image.new("L", (8, 8)), Image.new("L", (8, 8), 9)
    data = save(first, "PNG", save_all=True, append_images=[second])
    at = data.index(b"acTL") + 4
    counted = data[:at] + struct.pack(">I", frames) + data[at + 4 :]
    return counted[: at + 8] + struct.pack(">I", zlib.crc32(counted[at - 4 : at + 8])) + counted[at + 12 :]


SHOWN: Mapping[str, Callable[[], bytes]] = {
    "GIF with a long comment": lambda: gif(8, 8, comment=200),
    "APNG that tells two thousand million frames": lambda: apng(0x7FFFFFFF),
    "WebP of one frame": lambda: webp(4, 4),
    "JPEG of many segments": lambda: (d := picture("JPEG"))[:2] + b"\xff\xfe\0\4ab" * 5000 + d[2:],
    "JPEG with a film behind it": lambda: picture("JPEG") + b"\xff\xda\xff\xdb" * 5000,
}
"""Odd files that are shown."""

BOMBS: Mapping[str, Callable[[], bytes]] = {
    "PNG of 60,000 x 60,000": lambda: png(60_000, 60_000),
    "PNG of 4 thousand million pixels a side": lambda: png(0x7FFFFFFF, 0x7FFFFFFF, pixels=zlib.compress(b"\0" * 9)),
    "PNG of one row": lambda: png(49_000_000, 1),
    "PNG of one column": lambda: png(1, 49_000_000),
    "PNG of a strip": lambda: png(60_000, 2),
    "PNG of text": lambda: png(8, 8, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(900 << 20), 9))),
    "PNG of many texts": lambda: png(8, 8, *[chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 20), 9))] * 2000),
    "PNG of EXIF": lambda: png(8, 8, chunk(b"eXIf", exif(20_000, 16 << 20)[6:])),
    "PNG of EXIF in text": lambda: png(8, 8, exif_in_text(400_000)),
    "GIF of 65,535 x 65,535": lambda: gif(65_535, 65_535),
    "GIF whose frame is larger than it": lambda: gif(4, 4, frame=(60_000, 60_000)),
    "GIF of a comment": lambda: gif(8, 8, comment=800_000),
    "WebP of 16 million a side": lambda: webp(1 << 24, 200),
    "WebP of 16,383 x 16,383": lambda: webp(16_383, 16_383),
    "BMP of deltas": lambda: bmp_of_deltas(49_000_000, 1000),
    "BMP of 65,535 deltas": lambda: bmp_of_deltas(65_535, 1000),
    "TIFF of large tiles": lambda: tiff_of_tiles(64, 45_056),
    "TIFF of one strip for all": lambda: tiff_of_one_strip_for_all(20_000),
    "TIFF of repeated entries": lambda: tiff_of_repeated_entries(20_000, 4 << 20),
    "TIFF of 60,000 x 60,000": lambda: tiff({**GREY, 256: (60_000,), 257: (60_000,), 259: (1,), 273: (8,), 279: (64,)}),
    "TIFF of JPEG scans": lambda: tiff_of_jpeg_scans(5000),
    "JPEG of scans": lambda: jpeg_of_scans(5000),
    "JPEG of scans behind fill": lambda: jpeg_of_scans_behind_fill(5000),
    "JPEG of EXIF": lambda: jpeg_of_exif(100),
}
"""Refused, each within seconds and little memory."""
