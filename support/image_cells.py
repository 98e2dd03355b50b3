"""The picture in a cell of a table or a field of a row, in any of the forms that data have.

    picture_in_cell("val/7.jpg", tree.find)                 # a name: what `find` gives for it
    picture_in_cell("iVBORw0KGgo...", tree.find)            # base64: its first bytes say that it is an image
    picture_in_cell({"bytes": None, "path": "7.jpg"}, ...)  # datasets' form; also {"url": "data:..."}

A name and base64 are told apart by content, never by length. A cell that holds no picture, or a broken one, is an
`ImageRef` with a `problem`, which raises OSError when it is read: it costs its row alone.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from support.image_formats import is_image
from support.images import ImageRef

UNREADABLE: Final = "unreadable picture"
SEVERAL: Final = "several pictures"
NONE: Final = "no picture"

LONGEST_NAME: Final = 1024
"""A longer text is no path."""
SMALLEST: Final = 16
"""Fewer bytes are no image."""

Find = Callable[[str], ImageRef]

_SPACE: Final = re.compile(r"\s+")
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]+={0,3}")
_HEAD: Final = 64
"""Characters of base64 that show what kind of file it is."""
_IMAGE_BEGINS: Final = re.compile(
    r"[/_]9j[/_]|iVBORw0KGg|R0lGOD|SUkqA|TU0AK|SUkrA|UklGR|Qk[0-3]|AAAADGpQIC|.{5}[GWm2]Z0eX[A-D]"
)
"""How base64 begins of every file that `is_image` takes, and of few others."""


def picture_in_cell(cell: Any, find: Find, name: str = "") -> ImageRef:
    """The picture in a cell: bytes (called `name`), base64, a name for `find`, a struct, or a list of one of these."""
    if isinstance(cell, ImageRef):
        return replace(cell, name=name or cell.name)
    if isinstance(cell, Mapping):
        return _read_struct(cell, find, name)
    if isinstance(cell, (list, tuple)):
        if len(cell) > 1:
            return ImageRef(name, problem=SEVERAL, detail=f"{len(cell)} in one cell")
        return picture_in_cell(cell[0] if cell else None, find, name)
    if isinstance(cell, (bytes, bytearray, memoryview)):
        return ImageRef(name, data=bytes(cell)) if len(cell) else _find_by_own_name(find, name)
    if isinstance(cell, str):
        return _read_text(cell, find, name)
    if isinstance(cell, (int, float)) and not isinstance(cell, bool) and cell == cell:  # a number, and not nan
        return find(f"{cell:.0f}" if isinstance(cell, float) and cell.is_integer() else str(cell))
    return _find_by_own_name(find, name) if cell is None or cell != cell else ImageRef(name, problem=UNREADABLE)


def _find_by_own_name(find: Find, name: str) -> ImageRef:
    return find(name) if name else ImageRef("", problem=NONE)


_DATA: Final = ("bytes", "data", "base64")
_NAMES: Final = (*("path", "url", "image_url", "image"), *("file_name", "filename", "file", "src"))
"""Keys of a struct under which an image stands, and those under which it is named or holds another cell."""


def _read_struct(cell: Mapping[Any, Any], find: Find, name: str) -> ImageRef:
    path = next((value for key in _NAMES if isinstance(value := cell.get(key), str) and value), "")
    for key in _DATA:
        data = cell.get(key)
        if isinstance(data, list) and data and all(isinstance(one, int) and 0 <= one < 256 for one in data):
            data = bytes(data)  # as some writers of JSON give bytes
        if isinstance(data, str) and data:
            try:
                data = decode_base64(data)
            except OSError as error:
                return ImageRef(name or path, problem=UNREADABLE, detail=str(error))
        if isinstance(data, (bytes, bytearray, memoryview)) and len(data):
            return ImageRef(name or path, data=bytes(data))
    for key in _NAMES:
        if cell.get(key):
            return picture_in_cell(cell[key], find, name)
    if said := [str(key) for key, value in cell.items() if value not in (None, "", [], {}) and key != "type"]:
        return ImageRef(name, problem=UNREADABLE, detail=f"a struct of {', '.join(said)}; of bytes, path or url none")
    return _find_by_own_name(find, name)


def _read_text(text: str, find: Find, name: str) -> ImageRef:
    try:
        data = bytes_in_text(text)
    except OSError as error:
        return ImageRef(name, problem=UNREADABLE, detail=str(error))
    if data is not None:
        return ImageRef(name, data=data)
    return find(text) if text.strip() else _find_by_own_name(find, name)


def bytes_in_text(text: str) -> bytes | None:
    """The bytes of the image file that a text is, by its beginning; None for a text that may be a name.

    Raises OSError for a text that is too long to be a name and is no base64 either.
    """
    stripped = text.strip()
    if stripped[:5].lower() == "data:" or ";base64," in stripped[:_HEAD]:
        return decode_base64(stripped)
    head = _SPACE.sub("", stripped[: 2 * _HEAD])[:_HEAD]
    if _BASE64.fullmatch(head):
        try:
            if is_image(decode_base64(head[: len(head) // 4 * 4])) and len(data := decode_base64(stripped)) >= SMALLEST:
                return data
        except OSError:
            pass
    if len(text) <= LONGEST_NAME:
        return None
    try:
        return decode_base64(stripped)
    except OSError:
        raise OSError(f"text of {len(text):,} characters is neither a name nor base64") from None


def parse_json(cell: Any) -> Any:
    """The list or struct that stands in a cell as JSON text; anything else as it is."""
    if isinstance(cell, str) and cell.lstrip()[:1] in ("[", "{"):
        with suppress(ValueError, RecursionError):
            return json.loads(cell)
    return cell


def is_image_text(text: str) -> bool:
    """Whether a text is an image itself: base64 or a `data:` address of one."""
    # Asked of every text of a dataset, of which most are sentences.
    head = "".join(text[:_HEAD].split())
    told = len(head) >= SMALLEST or len(text) <= _HEAD
    if told and not _IMAGE_BEGINS.match(head) and head[:5].lower() != "data:" and ";base64," not in text:
        return False
    try:
        return (data := bytes_in_text(text)) is not None and is_image(data)
    except OSError:
        return False


def decode_base64(text: str) -> bytes:
    """The bytes in base64 text or a `data:` address: with line breaks, without padding, in either alphabet; OSError."""
    head, comma, body = text.partition(",")
    if not comma or not (head[:5].lower() == "data:" or head.endswith(";base64")):
        body = text
    elif not head.lower().endswith(";base64"):
        return unquote_to_bytes(body)
    plain = _SPACE.sub("", body).replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise OSError(f"not base64: {error}") from None
