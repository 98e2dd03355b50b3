"""The pictures of a benchmark's table: each row's cell becomes a key of `support.images`; pictures stay where they are.

    with_picture_keys("mme", table, find, may_lack=False) # a datasets table; nothing is read that was read before
    keys_of_rows("mme", rows, find, may_lack=False)       # rows that are held anyway

Pictures that can't be had are counted and told; their samples fail when they are looked at.
"""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from support.files import check_no_pointer
from support.image_cells import NONE, SEVERAL, Find, is_image_text, picture_in_cell
from support.image_folders import REFUSED
from support.image_names import AMBIGUOUS, coco_forms, parts_of
from support.images import ImageRef, is_read, keep_known, shorten
from support.picture_keys import keep_all, recall_table, remember_table
from tasks.columns import is_nothing

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)

IMAGE: Final = "image"
FILE_COLUMNS: Final = (
    "decoded_image",  # beside `image`, which then has a path
    "image",
    "imagename",
    "image_name",
    "image_path",
    "file_name",
    "filename",
    "image_file",
    "images",
    "img",
    "image_1",  # beside image_2, ...: several pictures a row
)
"""What tables call the column with the image or its file."""
FURTHER: Final = tuple(f"image_{number}" for number in range(2, 10))
"""What tables with several pictures a row call those behind the first."""
_LIST: Final = re.compile(r"""\s*\[\s*(['"])([^'"]+)\1\s*\]\s*""")
"""A list of one text, as JSON or as Python writes it."""


def image_column(names: Sequence[str], is_empty: Callable[[str], bool] = lambda name: False) -> str | None:
    """The column with the pictures, an empty one only where there is no other; None where there is none."""
    there = [name for name in FILE_COLUMNS if name in names]
    return next((name for name in there if not is_empty(name)), there[0] if there else None)


def keys_of_rows(task: str, rows: Sequence[Mapping[str, Any]], find: Find, *, may_lack: bool) -> list[str]:
    """The key of each row's picture; "" where it has none, and may have none."""
    names = {name for row in rows for name in row}
    column = image_column([*names], lambda name: all(is_nothing(row.get(name)) for row in rows))
    cells = [row.get(column) for row in rows] if column else [None] * len(rows)
    cells = [_read_list(cell) for cell in cells]
    with_index = {_as_index(row["index"]): cell for row, cell in zip(rows, cells, strict=True) if "index" in row}
    found = [picture_in_cell(_follow_index(cell, with_index), find) for cell in cells]
    return _keys_of(task, found, may_lack or column is None)


def columns_of_rows(
    task: str, rows: Sequence[Mapping[str, Any]], find: Find, *, may_lack: bool
) -> dict[str, list[str]]:
    """The keys of each row's picture, as `IMAGE`, and those of its further pictures, "" where it has fewer."""
    further = [name for name in FURTHER if any("image_1" in row and name in row for row in rows)]
    found = {
        name: _keys_of(task, [picture_in_cell(_read_list(row.get(name)), find) for row in rows], may_lack=True)
        for name in further
    }
    return {IMAGE: keys_of_rows(task, rows, find, may_lack=may_lack), **found}


def with_picture_keys(task: str, table: "Dataset", find: Find, *, may_lack: bool) -> "Dataset":
    """A table whose image column has become keys, "" where a row has none and may have none; the bytes stay in its
    memory-mapped files."""
    column = image_column(table.column_names, lambda name: table.data.column(name).null_count == len(table))
    if column is None:
        return table.add_column(IMAGE, [""] * len(table))
    keys = {IMAGE: _read_column(task, table, column, find, may_lack)}
    if column == "image_1":
        there = [name for name in FURTHER if name in table.column_names]
        keys |= {name: _read_column(task, table, name, find, may_lack=True) for name in there}
    for name, cells in keys.items():
        table = table.remove_columns([name] if name in table.column_names else []).add_column(name, cells)
    return table


def _read_column(task: str, table: "Dataset", column: str, find: Find, may_lack: bool) -> list[str]:
    raw = table.select_columns([column]).cast_column(column, _without_decoding(table.features[column]))
    return _keys_of_column(task, raw, column, find, [Path(file["filename"]) for file in table.cache_files], may_lack)


def _keys_of_column(
    task: str, raw: "Dataset", column: str, find: Find, files: Sequence[Path], may_lack: bool
) -> list[str]:
    """The keys, without a look at the pictures where the table's files are those that they were made of."""
    known = recall_table(files, column, len(raw))
    if known is not None and (may_lack or all(key for key, _ in known)):
        for index, (key, otherwise) in enumerate(known):
            if key:
                keep_known(_picture_in_row(raw, column, index, find), key, otherwise)
        return [key for key, _ in known]
    found = [_picture_of_row(raw, column, index, find) for index in range(len(raw))]
    keys = _keys_of(task, found, may_lack)
    kept = {SEVERAL, *([NONE] if may_lack else [])}
    if all(one.reader is not None or one.problem in kept for one in found):  # they are in these files
        remember_table(files, column, keys)
    return keys


def _picture_of_row(raw: "Dataset", column: str, index: int, find: Find) -> ImageRef:
    found = picture_in_cell(raw[index][column], find)
    return found if found.data is None else _picture_in_row(raw, column, index, find)


def _picture_in_row(raw: "Dataset", column: str, index: int, find: Find) -> ImageRef:
    return ImageRef(f"{column}/{index}", reader=partial(_read_cell, raw, column, index, find))


def _read_cell(raw: "Dataset", column: str, index: int, find: Find) -> bytes:
    return picture_in_cell(raw[index][column], find).read()


def _follow_index(cell: Any, with_index: Mapping[str, Any]) -> Any:
    """In VLMEvalKit's tables a cell may hold the index of the row that has its picture as base64."""
    other = with_index.get(number) if (number := _as_index(cell)).isdecimal() else None
    return other if isinstance(other, str) and is_image_text(other) else cell


def _as_index(cell: Any) -> str:
    """An index in one form: a table whose column has gaps has 7 as 7.0."""
    return str(cell).removesuffix(".0")


def _read_list(cell: Any) -> Any:
    """The one item of a list that is written as text, as that kit's tables have it; any other cell as it is."""
    found = _LIST.fullmatch(cell) if isinstance(cell, str) else None
    return cell if found is None else found[2]


def _keys_of(task: str, found: Sequence[ImageRef], may_lack: bool) -> list[str]:
    """The picture key of each row, "" where it has none and `may_lack` one; tells how many pictures can't be had. Their
    samples fail."""
    lost, found = [], _refuse_shared(found)
    untold = {"", SEVERAL, *([NONE] if may_lack else [])}  # several: SEED-Bench's videos, which nobody is asked about
    for number, one in enumerate(found, start=1):
        if one.problem not in untold:
            where = "; pictures lie beside or below the table" if one.problem in REFUSED else ""
            lost.append(f"row {number}, {shorten(one.name)!r}: {one.why}{where}")
    if lost:
        log.warning(f"{task}: {len(lost):,} of {len(found):,} pictures can't be had: {'; '.join(lost[:2])}")
    shown = [one for one in found if not (may_lack and one.problem == NONE)]
    keys = keep_all(shown)
    _check_pointers([one for one, key in zip(shown, keys, strict=True) if not is_read(key)])
    rest = iter(keys)
    return ["" if may_lack and one.problem == NONE else next(rest) for one in found]


def _refuse_shared(found: Sequence[ImageRef]) -> Sequence[ImageRef]:
    """The pictures, but none that names of several folders mean by its file name alone: it can't be all of them."""
    folders: dict[tuple[Path, str | None], dict[str, str]] = {}
    for one in found:
        if one.file is not None and not one.problem and (folder := _other_folder(one)):
            folders.setdefault((one.file, one.member), {}).setdefault(folder, one.name)
    shared = {place: names for place, names in folders.items() if len(names) > 1}
    if not shared:
        return found

    def refuse(one: ImageRef) -> ImageRef:
        names = shared.get((one.file, one.member)) if one.file is not None and _other_folder(one) else None
        said = f"{one.file} can't be {' and '.join(list(names.values())[:2])}" if names else ""
        return ImageRef(one.name, problem=AMBIGUOUS, detail=said) if names else one

    return [refuse(one) for one in found]


def _other_folder(picture: ImageRef) -> str:
    """The folder that a picture's name says, where that is not the one that it lies in, and no number of COCO's says
    which picture it is; "" else."""
    *_, folder, file = ("", *parts_of(picture.name))
    path = parts_of(picture.member) if picture.member is not None else picture.file.parts if picture.file else ()
    return "" if (folder,) == path[-2:-1] or len(coco_forms(file)) > 1 else folder


def _check_pointers(unread: Sequence[ImageRef]) -> None:
    """OSError where Git LFS did not bring the pictures: all of a clone's are missing then."""
    for one in unread:
        if one.file is not None and not one.problem:
            with suppress(FileNotFoundError, PermissionError, IsADirectoryError):
                check_no_pointer(one.file)


def _without_decoding(feature: Any) -> Any:
    from datasets import Image, List

    if isinstance(feature, Image):
        return Image(decode=False)
    if isinstance(feature, List) and isinstance(feature.feature, Image):
        return List(Image(decode=False))
    return feature
