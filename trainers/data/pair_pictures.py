"""Which pictures a row of pairs names: those of its columns, and those of its messages.

    find_pictures(record, places, message, ("images", "image"))    # in their order; one that is not there has a problem

A row whose pictures stand in a column that nobody reads would be trained on without them: it is refused.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from support.errors import DataError
from support.image_cells import LONGEST_NAME, NONE, is_image_text, picture_in_cell
from support.image_folders import ImageIndex
from support.image_names import IMAGES
from support.images import ImageRef, kind
from support.records import Record
from trainers.data.conversations import Message, NoPair

COLUMNS: Final = (
    *("images", "image", "img_path", "image_path", "image_file", "image_url", "img_url", "img", "img_file", "img_name"),
    *("img_paths", "image_paths", "image_files", "image_urls", "imgs", "image_name", "image_filename"),
    *("picture", "pictures", "picture_path", "picture_file", "photo", "photos"),
    *("image_bytes", "image_data", "image_base64", "img_bytes", "jpg", "jpeg", "png", "webp"),
)
"""Columns in which pictures are looked for, in this order; the first that holds any is read."""

_TEXTS: Final = frozenset(
    (
        *("id", "idx", "row_id", "prompt", "question", "chosen", "rejected", "text", "conversations"),
        *("rejected_conversations", "chosen_model", "rejected_model", "image_names", "image_there", "origin_split"),
    )
)
"""Columns that are read as something else."""


def find_pictures(
    record: Record, places: ImageIndex, prompt: Message | None, first: Sequence[str], name: str = ""
) -> tuple[ImageRef, ...]:
    """The pictures of a row, `first` in the columns of its form; those that its prompt alone names are among them.

    `name` is what an embedded picture is called that has no name of its own. NoPair where places and pictures differ in
    number; DataError for a picture in a column that is not read.
    """
    columns = [*first, *(column for column in COLUMNS if column not in first)]
    given = places.pictures(record, *columns, name=name)
    marked = prompt.pictures if prompt is not None else ()
    named = [cell for cell in marked if cell is not None]
    if given and named and len(named) != len(given):
        raise NoPair("pictures in the prompt, and others in a column")
    if named and not given:
        return tuple(
            _make_absent(number) if cell is None else picture_in_cell(cell, places.find)
            for number, cell in enumerate(marked, start=1)
        )
    if given and marked and len(marked) < len(given):
        raise NoPair(f"places for {len(marked)} of {len(given)} pictures in the prompt")
    if not given and not marked:
        _refuse_unread(record, columns)
    return (*given, *(_make_absent(number) for number in range(len(given) + 1, len(marked) + 1)))


def _make_absent(number: int) -> ImageRef:
    return ImageRef(f"picture {number} of the prompt", problem=NONE)


def _refuse_unread(record: Record, columns: Sequence[str]) -> None:
    """DataError for a picture in a column that is not read."""
    for column, value in record.items():
        if column not in _TEXTS and column not in columns and _is_picture(value):
            said = f" ({value})" if isinstance(value, str) and len(value) < 100 else ""
            raise DataError(f"column {column!r} names a picture{said} and is not read; call it 'images'")


def _is_picture(value: Any) -> bool:
    if isinstance(value, ImageRef):
        return True
    if isinstance(value, bytes):
        return kind(value[:16]) is not None
    if isinstance(value, Mapping):
        return any(_is_picture(value.get(key)) for key in ("bytes", "path", "url"))
    if isinstance(value, list):
        return any(map(_is_picture, value))
    if not isinstance(value, str):
        return False
    is_name = len(value) <= LONGEST_NAME and "\n" not in value
    return value.startswith("data:image/") or (is_name and value.lower().endswith(IMAGES)) or is_image_text(value)
