"""Which pictures a row of pairs names: those of its columns, and those of its messages.

    find_pictures(record, places, message, ("images", "image"))    # in their order; one that is not there has a problem

A row whose pictures stand in a column that nobody reads would be trained on without them: it is refused.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from support.errors import DataError
from support.image_cells import LONGEST_NAME, NONE, is_image_text, parse_json, picture_in_cell
from support.image_folders import ImageIndex, there
from support.image_formats import is_image
from support.image_names import IMAGES
from support.images import ImageRef
from support.records import Record
from trainers.data.conversations import Message, NoPair
from trainers.data.image_places import names_in

OTHERS: Final = "pictures in the prompt, and others in a column"

COLUMNS: Final = (
    *("images", "image", "img_path", "image_path", "image_file", "image_url", "img_url", "img", "img_file", "img_name"),
    *("img_paths", "image_paths", "image_files", "image_urls", "imgs", "image_name", "image_filename"),
    *("picture", "pictures", "picture_path", "picture_file", "photo", "photos"),
    *("image_bytes", "image_data", "image_base64", "img_bytes", "jpg", "jpeg", "png", "webp"),
)
"""Columns in which pictures are looked for, in this order; the first that holds any is read."""

_READ: Final = frozenset(
    (
        *COLUMNS,
        *("id", "idx", "row_id", "prompt", "question", "chosen", "rejected", "text", "conversations"),
        *("rejected_conversations", "chosen_model", "rejected_model", "image_names", "image_there", "origin_split"),
        *("completions", "models", "chosen_ratings", "rejected_ratings"),
    )
)
"""Columns in which pictures are looked for, or that are read as something else."""
_ID: Final = re.compile(r"(?:image|img|picture|photo)[_-]?(?:ids?|keys?|hash|uid|uuid|md5|sha256)", re.IGNORECASE)
"""Columns by which some data find the pictures of another table."""


def find_pictures(
    record: Record, places: ImageIndex, prompt: Message | None, first: Sequence[str], name: str = ""
) -> tuple[ImageRef, ...]:
    """The pictures of a row, `first` in the columns of its form; those that its prompt alone names are among them.

    `name` is what an embedded picture is called that has no name of its own. NoPair where places and pictures differ in
    number; DataError for a picture in a column that is not read.
    """
    columns = [*first, *(column for column in COLUMNS if column not in first)]
    given = places.pictures(record, *columns, name=name)
    marked = () if prompt is None else prompt.pictures or names_in(prompt.text)
    named = [cell for cell in marked if cell is not None]
    if given and named and len(named) != len(given):
        raise NoPair(OTHERS)
    if named and not given:
        return tuple(
            _make_absent(number) if cell is None else picture_in_cell(cell, places.find)
            for number, cell in enumerate(marked, start=1)
        )
    if named:
        return _in_order_of(tuple(picture_in_cell(cell, places.find) for cell in named), given)
    if given and marked and len(marked) < len(given):
        raise NoPair(f"places for {len(marked)} of {len(given)} pictures in the prompt")
    if not given and not marked and (unread := unread_columns(record, ids=True)):
        value = record[unread[0]]
        said = f" ({value})" if isinstance(value, str | int) and len(str(value)) < 100 else ""
        raise DataError(f"column {unread[0]!r} names a picture{said} and is not read; call it 'images'")
    return (*given, *(_make_absent(number) for number in range(len(given) + 1, len(marked) + 1)))


def _in_order_of(named: tuple[ImageRef, ...], given: tuple[ImageRef, ...]) -> tuple[ImageRef, ...]:
    """The pictures that the prompt names, in its order, where a column has the same ones; NoPair where it has others.

    Names that lead to nothing here are not held against the column, nor files against pictures that are embedded.
    """
    ours, theirs = Counter(map(_say_what_is_read, named)), Counter(map(_say_what_is_read, given))
    comparable = len({type(place) for place in (*ours, *theirs)}) == 1 and all(map(there, (*named, *given)))
    if comparable and ours != theirs:
        raise NoPair(OTHERS)
    return named if comparable else given


def _say_what_is_read(picture: ImageRef) -> object:
    return picture.data or picture.reader or (picture.file, picture.member)


def _make_absent(number: int) -> ImageRef:
    return ImageRef(f"picture {number} of the prompt", problem=NONE)


def unread_columns(record: Record, *, ids: bool = False) -> list[str]:
    """The columns that name a picture, or hold one, and are not looked into; with `ids`, those of its key, too."""
    return [
        column
        for column, value in record.items()
        if column not in _READ
        and (_is_picture(value) or (ids and _ID.fullmatch(column) and value not in (None, "", [])))
    ]


def _is_picture(value: Any) -> bool:
    """Whether a value is a picture or the name of one, or has one in it, at any depth and as JSON text."""
    if isinstance(value, ImageRef):
        return True
    if isinstance(value, bytes):
        return is_image(value[:16])
    if isinstance(value, Mapping):
        return any(map(_is_picture, value.values()))
    if isinstance(value, list):
        return any(map(_is_picture, value))
    if not isinstance(value, str):
        return False
    if not isinstance(inner := parse_json(value), str):
        return _is_picture(inner)
    is_name = len(value) <= LONGEST_NAME and "\n" not in value
    return value.startswith("data:image/") or (is_name and value.lower().endswith(IMAGES)) or is_image_text(value)
