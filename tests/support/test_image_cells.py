"""A cell is a name or a picture by its content, whatever its form and length, and a bad one costs itself alone."""

import base64
import io
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from support.image_cells import NONE, SEVERAL, UNREADABLE, bytes_in_text, is_image_text, picture_in_cell
from support.image_formats import _STARTS, is_image
from support.images import ImageRef


def image_file(format: str, side: int = 2) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(buffer, format)
    return buffer.getvalue()


def find(name: str) -> ImageRef:
    return ImageRef(name, problem="asked for")


PNG = image_file("PNG")
TEXT = base64.b64encode(PNG).decode()
URL_SAFE = base64.urlsafe_b64encode(PNG).decode()
FORMS: dict[str, Any] = {
    "bytes": PNG,
    "bytearray": bytearray(PNG),
    "memoryview": memoryview(PNG),
    "base64": TEXT,
    "base64 without padding": TEXT.rstrip("="),
    "url-safe base64": URL_SAFE.rstrip("="),
    "base64 in lines": "\n".join(TEXT[at : at + 20] for at in range(0, len(TEXT), 20)) + "\r\n",
    "base64 after a space": f" {TEXT}",
    "data address": f"data:image/png;base64,{TEXT}",
    "data address of another kind": f"DATA:application/octet-stream;charset=x;base64,{TEXT}",
    "data address in lines": f"data:image/png;base64,\n{TEXT[:30]}\n{TEXT[30:]}",
    "percent-encoded address": "data:image/png," + "".join(f"%{byte:02x}" for byte in PNG),
    "address without its scheme": f"image/png;base64,{TEXT}",
    "struct": {"bytes": PNG, "path": None},
    "struct with a path": {"bytes": PNG, "path": "x.png"},
    "struct of base64": {"bytes": TEXT, "path": "x.png"},
    "struct of data": {"data": TEXT},
    "struct called base64": {"base64": TEXT},
    "buffer as JavaScript writes it": {"type": "Buffer", "data": list(PNG)},
    "struct of numbers": {"bytes": list(PNG)},
    "struct of a data address": {"bytes": None, "path": f"data:image/png;base64,{TEXT}"},
    "address in a struct": {"url": f"data:image/png;base64,{TEXT}"},
    "a message's part": {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{TEXT}"}},
    "another message's part": {"type": "image", "image": TEXT},
    "list of one": [{"bytes": PNG}],
    "image": ImageRef("x", data=PNG),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_picture_is_read_in_any_form(form: str) -> None:
    assert picture_in_cell(FORMS[form], find).read() == PNG


@pytest.mark.parametrize("format", ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000"))
@pytest.mark.parametrize("side", (1, 96))
def test_base64_of_an_image_is_one_whatever_its_kind_and_length(format: str, side: int) -> None:
    data = image_file(format, side)
    assert picture_in_cell(base64.b64encode(data).decode(), find).read() == data


@pytest.mark.parametrize(
    ("cell", "name"),
    (
        ("val/7.jpg", "val/7.jpg"),
        ("R0lGOD", "R0lGOD"),
        ("iVBORw0KGgo", "iVBORw0KGgo"),
        ("Qk1/x", "Qk1/x"),
        ("BMW", "BMW"),
        ("QmFzZTY0IG9mIHdvcmRzIGlzIGEgbmFtZQ==", "QmFzZTY0IG9mIHdvcmRzIGlzIGEgbmFtZQ=="),
        ({"bytes": None, "path": "7.jpg"}, "7.jpg"),
        ({"bytes": b"", "path": "7.jpg"}, "7.jpg"),
        ({"path": "7.jpg"}, "7.jpg"),
        ({"file_name": "7.jpg", "width": 8}, "7.jpg"),
        ({"src": "7.jpg"}, "7.jpg"),
        ({"path": {"path": "7.jpg"}}, "7.jpg"),
        (7, "7"),
        (7.0, "7"),
        (["7.jpg"], "7.jpg"),
        ({"url": "https://example.org/7.jpg"}, "https://example.org/7.jpg"),
    ),
)
def test_a_name_is_looked_for(cell: Any, name: str) -> None:
    assert (found := picture_in_cell(cell, find)).name == name
    assert found.problem == "asked for"


@pytest.mark.parametrize(
    ("cell", "problem"),
    (
        (None, NONE),
        ("", NONE),
        (" \n", NONE),
        (b"", NONE),
        ([], NONE),
        ({}, NONE),
        ({"bytes": None, "path": None}, NONE),
        (float("nan"), NONE),
        (["a.jpg", "b.jpg"], SEVERAL),
        (True, UNREADABLE),
        ({"type": "image", "pixels": [1, 2]}, UNREADABLE),
        ({"bytes": None, "path": None, "uri": "7.jpg"}, UNREADABLE),
        ({"bytes": None, "path": "", "uri": None}, NONE),
        ({"data": "no base64!"}, UNREADABLE),
        ("data:image/png;base64,!!!", UNREADABLE),
        ({"bytes": "no base64!", "path": "7.jpg"}, UNREADABLE),
        ("a sentence, no picture. " * 100, UNREADABLE),
    ),
)
def test_what_holds_no_picture_says_so(cell: Any, problem: str) -> None:
    assert picture_in_cell(cell, find).problem == problem


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["bytes", "path", "url", "image", "image_url"]) | st.text(), inner)
    ),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(JSON)
def test_any_cell_is_a_picture_a_name_or_a_problem(cell: Any) -> None:
    found = picture_in_cell(cell, find)
    if found.data is None:
        assert found.problem
        with pytest.raises(OSError, match="is not there"):
            found.read()
    else:
        with suppress(OSError):
            found.open()


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200) | st.binary(max_size=100).map(lambda data: base64.b64encode(data).decode()))
def test_a_short_text_is_bytes_only_where_it_begins_as_an_image(text: str) -> None:
    try:
        data = bytes_in_text(text)
    except OSError:
        return
    assert data is None or "base64," in text or text.strip()[:5].lower() == "data:" or data[:2] != b"PK"


BEGINNINGS = (*(start for start, _ in _STARTS), b"BM1234\0\0\0\0", b"RIFF1234WEBP", b"\0\0\0\x0cjP  ", b"1234ftyp")


@given(
    start=st.sampled_from(BEGINNINGS),
    first=st.binary(min_size=4, max_size=4),
    rest=st.binary(min_size=16, max_size=40),
    encode=st.sampled_from((base64.b64encode, base64.urlsafe_b64encode)),
    gap=st.integers(1, 80),
)
def test_an_image_in_base64_is_told_from_its_first_letters(
    start: bytes, first: bytes, rest: bytes, encode: Any, gap: int
) -> None:
    """In either alphabet, with line breaks, with spaces in front; "1234" stands for any bytes."""
    data = start.replace(b"1234", first) + rest
    text = encode(data).decode()
    assert is_image(data)
    assert is_image_text(text)
    assert is_image_text(" " * gap + "\n".join(text[i : i + gap] for i in range(0, len(text), gap)))
    assert is_image_text(f"data:image/png;base64,{text}")


@given(
    st.text(max_size=80), st.sampled_from(("", "the image shows ", "data:,", "iVBORw0KGg", "/9j/", "Qk0 ", "x;base64,"))
)
def test_a_text_is_an_image_only_if_its_bytes_are(text: str, before: str) -> None:
    whole = before + text
    held = None
    with suppress(OSError):
        held = bytes_in_text(whole)
    assert is_image_text(whole) == (held is not None and is_image(held))
