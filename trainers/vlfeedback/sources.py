"""Sources of instructions: VLFeedback's nine and its red-team part, and any table, folder of images or hub dataset.

    declared()["LLaVAR"].published                                       # 13,770: what VLFeedback took from it
    source = open_source(InstructionSource(name="LLaVAR", path="llavar.json", images="finetune.zip"))
    for item in source.items(): ...                                      # an Item, or a str: why a row is none

`sources.toml` says of each declared source where it lives and how its rows are laid out: see
`trainers.vlfeedback.layouts`.

Rows are read one at a time, and pictures when they are looked at, so sources may be larger than memory. Rows are not
trusted: a picture is looked for only inside the folder or zip of the source (see `support.image_folders`), and no
script of a hub dataset is run.
Errors: `DataError`, one line that names the source, what is wrong with it and what it has.
"""

import hashlib
import json
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path, PurePosixPath
from typing import Any, Final

from support.errors import DataError, did_you_mean, first_line
from support.hub_progress import shown_as
from support.image_cells import NONE, picture_in_cell
from support.image_folders import ImageTree, has_pictures, images_below
from support.images import ImageRef
from support.parsing import parse_json
from support.records import PARQUET, SEPARATED, read, read_at, read_lines
from trainers.config.data import InstructionSource
from trainers.data.vlfeedback_format import fetch
from trainers.vlfeedback.layouts import LAYOUTS, Row, clean_prompt, find_cell, texts_in

SOURCES: Final = Path(__file__).with_name("sources.toml")
SCENES: Final = "scenes"
HUB: Final = "hub:"
TABLES: Final = (".jsonl", ".json", *SEPARATED, PARQUET)
IMAGE_COLUMNS: Final = tuple(
    "image images img image_path img_path image_file file_name filename figure_path image_base64_str image_id".split()
)
ID_COLUMNS: Final = ("id", "index", "question_id")
NO_PROMPT: Final = "no prompt"


@dataclass(frozen=True, kw_only=True)
class Declared:
    """A source of VLFeedback: what was taken from it and where it lives."""

    name: str
    published: int
    """Instructions in VLFeedback."""
    capability: str
    layout: str
    site: str
    licence: str
    hub: str = ""
    """Id of its dataset on the hub; "" where it is not there."""
    files: tuple[str, ...]
    """Patterns of its tables within the hub dataset or a copy, of which the first that matches counts."""
    not_files: tuple[str, ...] = ()
    """Names that match but hold no instructions."""
    pictures: tuple[str, ...] = ()
    """Patterns of the hub files with its pictures."""
    by_id: bool = False
    """A picture may be named after the row's id alone."""
    needs: str = ""
    """Where its pictures come from, where the hub has none."""
    unconfirmed: str = ""
    """What of this rests on hearsay; "" nothing."""


@dataclass(frozen=True, slots=True)
class Item:
    """One instruction a source has."""

    prompt: str
    picture: ImageRef
    origin: str = ""
    """Its id in the source's own data; "" where that has none."""


@cache
def declared() -> dict[str, Declared]:
    """VLFeedback's sources, by name."""
    rows: list[dict[str, Any]] = tomllib.loads(SOURCES.read_text(encoding="utf-8"))["source"]
    for row in rows:
        row |= {key: tuple(value) for key, value in row.items() if isinstance(value, list)}
    return {row["name"]: Declared(**row) for row in rows}


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A source that is there to be read."""

    name: str
    where: str
    """Path, or hub id and revision, for the record."""
    items: Callable[[], Iterator[Item | str]]
    """Reads it from the start: instructions, and for each row that is none the reason."""


def open_source(source: InstructionSource) -> Opened:
    """Find a source and the layout of its rows; downloads what is on the hub."""
    known = declared().get(source.name)
    place = source.path or (None if known else source.name)
    if place is None:
        return _open_declared(source, declared()[source.name])
    if place.startswith(HUB):
        return _open_hub(source, place, known)
    path = Path(place).expanduser()
    if not path.exists():
        if source.path is not None:
            raise DataError(f"{source.name}: no file or folder {source.path!r}")
        raise unknown(source.name)
    if known is not None and known.needs and source.images is None and not (path.is_dir() and has_pictures(path)):
        advice = f"give images = the folder or zip with {known.needs}"
        raise DataError(f"{source.name}: has no pictures of its own: {advice}")
    if path.is_dir() and known is None:
        return _open_folder(source, path)
    tables = _find_tables(known, path) if known is not None and path.is_dir() else [path]
    return _open_tables(source, known, tables, where=str(path))


def unknown(name: str) -> DataError:
    """No such source: what there is, and what was perhaps meant."""
    names = [*declared(), SCENES]
    more = "hub:OWNER/NAME, or the path of a table or of a folder of images"
    return DataError(f"no source {name!r}{did_you_mean(name, names)}, {more}")


# Where sources are.


def _open_declared(source: InstructionSource, known: Declared) -> Opened:
    """The hub dataset of a declared source, with its pictures."""
    images = f"images = the folder or zip with {known.needs}" if known.needs and source.images is None else ""
    copy = "" if known.hub else f"path = a copy of {known.site}"
    if images or copy:
        needed = " and ".join(filter(None, (copy, images)))
        raise DataError(f"{known.name}: can't be had whole from the hub: give {needed}")
    try:
        folder = fetch(known.hub, source.revision, [*known.files, *known.pictures])
    except DataError as error:
        raise DataError(f"{known.name}: {error}; give path = a local copy") from error
    return _open_tables(source, known, _find_tables(known, folder), where=f"{known.hub}@{folder.name}")


def _open_hub(source: InstructionSource, place: str, known: Declared | None) -> Opened:
    """Any dataset of the hub that is a table; its pictures are in it, or where the user says."""
    from datasets import load_dataset

    id, _, revision = place.removeprefix(HUB).partition("@")
    try:
        with shown_as(f"download {id}"):
            table = load_dataset(id, source.config, split=source.split, revision=revision or None)
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{source.name}: can't load {id}, split {source.split!r}, from the hub: {first_line(error)}"
        ) from error
    reader = _RowReader(source, known, _find_images(source, None))
    return Opened(name=source.name, where=place, items=lambda: _read_items(source, [(reader, _rows_of(table, id))]))


def _find_tables(known: Declared, folder: Path) -> list[Path]:
    for pattern in known.files:
        # A copy may hold the files without the folders they have on the hub.
        matches = sorted(folder.glob(pattern)) or sorted(folder.rglob(PurePosixPath(pattern).name))
        if found := [path for path in matches if path.is_file() and path.name not in known.not_files]:
            return found
    raise DataError(f"{known.name}: {folder} has none of its files: {', '.join(known.files)}")


def _find_images(source: InstructionSource, beside: Path | None, search: bool = True) -> ImageTree:
    if source.images is None:
        return ImageTree(beside, search=search, beside=True)
    root = Path(source.images).expanduser()
    if not root.exists():
        raise DataError(f"images = {source.images!r}: no such folder or zip")
    return ImageTree(root)


def _open_tables(source: InstructionSource, known: Declared | None, tables: Sequence[Path], where: str) -> Opened:
    readers = [_RowReader(source, known, _find_images(source, path.parent, known is not None)) for path in tables]

    def items() -> Iterator[Item | str]:
        return _read_items(source, [(reader, reader.rows(path)) for reader, path in zip(readers, tables, strict=True)])

    return Opened(name=source.name, where=where, items=items)


def _open_folder(source: InstructionSource, folder: Path) -> Opened:
    """Images with fixed prompts, with prompts.txt, with a table beside them, or each with a text file of its own."""
    tables = sorted(path for path in folder.iterdir() if path.suffix in TABLES and path.is_file())
    prompts = source.prompts
    if not prompts and (folder / "prompts.txt").is_file():
        lines = (folder / "prompts.txt").read_text(encoding="utf-8-sig").splitlines()
        prompts = tuple(line.strip() for line in lines if line.strip())
    if not prompts and len(tables) == 1:
        beside = source.model_copy(update={"images": source.images or str(folder)})
        return _open_tables(beside, None, tables, where=str(tables[0]))
    if not prompts and tables:
        names = ", ".join(path.name for path in tables)
        raise DataError(f"{source.name}: {folder} has several tables ({names}): give path = one of them")
    if not prompts and not any(path.with_suffix(".txt").is_file() for path in images_below(folder)):
        ways = "prompts = [...], a prompts.txt, a table, or a .txt beside each image"
        raise DataError(f"{source.name}: {folder} asks nothing: give {ways}")
    return Opened(name=source.name, where=str(folder), items=partial(_read_folder, folder, prompts))


def _read_folder(folder: Path, prompts: Sequence[str]) -> Iterator[Item | str]:
    """What is asked about each image of a folder: the prompts, or what the text file beside it says."""
    images = ImageTree(folder)
    for path in images_below(folder):
        picture = images.find(path.relative_to(folder).as_posix())
        if picture.problem:
            yield picture.problem
            continue
        try:
            texts = prompts or (path.with_suffix(".txt").read_text(encoding="utf-8-sig"),)
        except FileNotFoundError:
            yield NO_PROMPT
        except (OSError, UnicodeDecodeError):
            yield "unreadable prompt"
        else:
            for text in texts:
                yield Item(asked, picture, picture.name) if (asked := clean_prompt(text)) else NO_PROMPT


# Rows of tables.


@dataclass(frozen=True, slots=True, kw_only=True)
class _TableRow:
    cells: Row
    place: str
    """File, and for parquet the row."""
    reopen: Callable[[str], Any] | None = None
    """Gives the cell of a column again, so that a row need not be kept for its picture."""
    unread: Sequence[str] = ()
    """Columns with images, which are not in the cells."""


class _NoItem(Exception):
    """Why a row is no instruction."""


def _read_items(
    source: InstructionSource, tables: Sequence[tuple["_RowReader", Iterable[_TableRow]]]
) -> Iterator[Item | str]:
    """The items of tables; raises DataError where no row of any has a prompt, or a picture."""
    columns: dict[str, None] = {}
    met: set[str] = set()
    for reader, rows in tables:
        for number, row in enumerate(rows):
            if number == 0:
                columns.update(dict.fromkeys([*row.cells, *row.unread]))
                for wanted in (source.prompt_column, source.image_column):
                    if wanted is not None and wanted not in columns:
                        raise DataError(
                            f"{source.name}: {row.place} has no column {wanted!r}; it has {_list_some(columns)}"
                        )
            for item in reader.items(row):
                met.add(item if isinstance(item, str) else "")
                yield item
    if met and met <= {NO_PROMPT, NONE}:
        what, column = ("picture", "image_column") if NONE in met else ("prompt", "prompt_column")
        raise DataError(f"{source.name}: no row has a {what}: its columns are {_list_some(columns)}; give {column}")


def _list_some(columns: Iterable[str]) -> str:
    return ", ".join(list(columns)[:16])


class _RowReader:
    """Reads the rows of one source as items."""

    def __init__(self, source: InstructionSource, known: Declared | None, images: ImageTree) -> None:
        self.source, self.known, self.images = source, known, images
        self.read_prompts = LAYOUTS[known.layout if known else "rows"]
        self.extra: tuple[str, ...] = ()
        """Instructions of the file beside a table, for rows that have none."""

    def items(self, row: _TableRow) -> Iterator[Item | str]:
        """What one row asks."""
        try:
            prompts = [asked for text in self._prompts(row.cells) if (asked := clean_prompt(text))]
            if not prompts:
                raise _NoItem(NO_PROMPT)
            picture = self._find_picture(row)
        except _NoItem as why:
            yield str(why)
            return
        origin = find_cell(row.cells, ID_COLUMNS)
        for prompt in prompts:
            yield Item(prompt, picture, "" if origin is None else str(origin))

    def _prompts(self, row: Row) -> list[str]:
        if self.source.prompt_column is not None:
            return texts_in(row.get(self.source.prompt_column))
        if self.extra and find_cell(row, ("instruction",)) is None:
            place = _short_digest(json.dumps(row, sort_keys=True, default=str)) % len(self.extra)
            row = {**row, "instruction": self.extra[place]}
        return self.read_prompts(row)

    def _find_picture(self, row: _TableRow) -> ImageRef:
        wanted = [self.source.image_column] if self.source.image_column else list(IMAGE_COLUMNS)
        for column in (name for one in wanted for name in row.unread if name.lower() == one.lower()):
            return self._reread(row, column, None, f"{row.place}/{column}")
        column = self._image_column(row.cells, wanted)
        cell = _only(row.cells[column])
        found = picture_in_cell(cell, self.images.find)
        if found.problem:
            raise _NoItem(found.problem)
        if found.data is None:
            return found
        content = cell.encode("utf-8", "replace") if isinstance(cell, str) else found.data
        return self._reread(row, column, cell, hashlib.sha256(content).hexdigest()[:16])

    def _image_column(self, row: Row, wanted: Sequence[str]) -> str:
        names = {name.strip().lower(): name for name in row}
        columns = [names[one.lower()] for one in wanted if one.lower() in names]
        column = next((column for column in columns if row[column] not in (None, "", [])), None)
        if column is None and self.known is not None and self.known.by_id:
            column = next((names[one] for one in ID_COLUMNS if row.get(names.get(one, "")) is not None), None)
        if column is None:
            raise _NoItem(NONE)
        return column

    def _reread(self, row: _TableRow, column: str, cell: Any, name: str) -> ImageRef:
        """The picture in a cell, which is read again when it is looked at, or kept where it can't be."""
        again = partial(row.reopen, column) if row.reopen is not None else lambda: cell
        return ImageRef(name, reader=partial(self._read_cell, again))

    def _read_cell(self, again: Callable[[], Any]) -> bytes:
        """The image in a cell; raises OSError."""
        try:
            return picture_in_cell(_only(again()), self.images.find).read()
        except (_NoItem, LookupError, TypeError, ValueError) as error:  # the table was changed since it was read first
            raise OSError(first_line(error)) from None

    def rows(self, path: Path) -> Iterator[_TableRow]:
        """The rows of a table, by its ending; of a zip: of the tables in it."""
        self.extra = _instructions_beside(path) if self.known is not None and self.known.layout == "m3it" else ()
        if path.suffix == PARQUET:
            yield from _rows_of(_open_parquet(self.source, path), path.name)
        elif path.suffix not in (*TABLES, ".zip"):
            raise DataError(f"{path}: is no table; known: {', '.join((*TABLES, '.zip'))}, or a folder of images")
        try:
            if path.suffix == ".jsonl":
                for offset, cells in read_lines(path):
                    reopen = partial(_read_cell_at, path, offset) if offset >= 0 else None
                    yield _TableRow(cells=cells, place=path.name, reopen=reopen)
            elif path.suffix != PARQUET:
                for cells in read(path, strict=True):
                    yield _TableRow(cells=cells, place=path.name)
        except DataError as error:
            raise DataError(f"{self.source.name}: {error}") from error


def _read_cell_at(path: Path, offset: int, column: str) -> Any:
    return read_at(path, offset)[column]


def _rows_of(table: Any, name: str) -> Iterator[_TableRow]:
    """The rows of a datasets table; cells with images are not read."""
    from datasets import Image

    unread = [column for column, feature in table.features.items() if _holds_bytes(feature)]
    for column in unread:
        feature = table.features[column]
        if isinstance(feature, Image):
            table = table.cast_column(column, Image(decode=False))
        elif isinstance(getattr(feature, "feature", None), Image):
            table = table.cast_column(column, type(feature)(Image(decode=False)))
    shown = [column for column in table.column_names if column not in unread]
    cells = table.select_columns(shown) if shown else None
    for index in range(len(table)):
        row = cells[index] if cells is not None else {}
        yield _TableRow(cells=row, place=f"{name}/{index}", reopen=partial(_cell_of_table, table, index), unread=unread)


def _cell_of_table(table: Any, index: int, column: str) -> Any:
    return table[index][column]


def _holds_bytes(feature: Any) -> bool:
    from datasets import Image

    inner = getattr(feature, "feature", feature)
    if isinstance(inner, dict):
        return "bytes" in inner
    return isinstance(inner, Image) or getattr(inner, "dtype", None) in ("binary", "large_binary")


def _open_parquet(source: InstructionSource, path: Path) -> Any:
    from datasets import load_dataset

    try:
        return load_dataset("parquet", data_files=[str(path)], split="train")
    except Exception as error:  # datasets wraps pyarrow's errors in its own, which derive from Exception
        raise DataError(f"{source.name}: {path}: {first_line(error.__cause__ or error)}") from error


def _instructions_beside(path: Path) -> tuple[str, ...]:
    beside = path.with_name("instructions.json")
    if not beside.is_file():
        return ()
    try:
        found = parse_json(beside.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{beside}: {first_line(error)}") from None
    return tuple(text for text in found if isinstance(text, str)) if isinstance(found, list) else ()


def _only(cell: Any) -> Any:
    """What a cell holds, or the one thing in its list."""
    if not isinstance(cell, list):
        return cell
    if len(cell) != 1:
        raise _NoItem("several pictures" if cell else NONE)
    return cell[0]


def _short_digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")
