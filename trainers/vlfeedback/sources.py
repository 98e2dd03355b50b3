"""Sources of instructions: VLFeedback's nine and its red-team part, and any table, folder of images or hub dataset.

    declared()["LLaVAR"].published                                       # 13,770: what VLFeedback took from it
    source = open_source(Source(name="LLaVAR", path="llavar.json", images="finetune.zip"))
    for item in source.items(): ...                                      # an Item, or a str: why a row is none

`sources.toml` says of each declared source where it lives and how its rows are laid out. A row asks in one of these
layouts: "conversations" (LLaVA's and SVIT's: the first human turn, since an instruction of VLFeedback is one prompt;
later turns refer to answers that nobody gave), "columns" (a prompt or question beside a picture), "rows" (either of the
two, what any other table is read as), "choices" (a question and its choices), "actions" (a question and possible
actions) and "m3it" (instruction and inputs).

Rows are read one at a time, and pictures when they are looked at, so sources may be larger than memory. Rows are not
trusted: a picture is looked for only inside the folder or zip of the source, a URL is never fetched, and no script of a
hub dataset is run.
Errors: `DataError`, one line that names the source, what is wrong with it and what it has.
"""

import base64
import binascii
import csv
import hashlib
import io
import json
import os
import re
import sys
import tomllib
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Any, Final, TextIO

from support.errors import DataError, did_you_mean
from support.images import ImageRef
from trainers.config.data import InstructionSource

TABLE: Final = Path(__file__).with_name("sources.toml")
SCENES: Final = "scenes"
HUB: Final = "hub:"
TABLES: Final = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
IMAGES: Final = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
PROMPT_COLUMNS: Final = ("prompt", "question", "instruction", "query", "questions", "question_prompt")
IMAGE_COLUMNS: Final = (
    *("image", "images", "img", "image_path", "img_path", "image_file", "file_name", "filename"),
    *("figure_path", "image_base64_str", "image_id"),
)
ID_COLUMNS: Final = ("id", "index", "question_id")
CONVERSATION_COLUMNS: Final = ("conversations", "conversatons", "messages")
LONGEST_NAME: Final = 1024
"""A longer text in an image column is base64, not a path."""
MAX_BYTES: Final = 100_000_000
"""A larger image file is not read."""
CHUNK: Final = 1 << 20
"""Characters read at a time."""

Row = Mapping[str, Any]
Reopen = Callable[[str], Any]
"""Gives the cell of a column again, so that a row need not be kept for its picture."""


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


@dataclass(frozen=True, slots=True)
class LazyPicture(ImageRef):
    """A picture in a cell of a table, read again when it is looked at."""

    reader: Callable[[], bytes] = field(default=bytes, repr=False)

    def read(self) -> bytes:
        """The bytes of the image file; raises OSError."""
        return self.reader()


@cache
def declared() -> dict[str, Declared]:
    """VLFeedback's sources, by name."""
    rows: list[dict[str, Any]] = tomllib.loads(TABLE.read_text(encoding="utf-8"))["source"]
    found: dict[str, Declared] = {}
    for row in rows:
        values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
        found[row["name"]] = Declared(**values)
    return found


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
    if place is not None and place.startswith(HUB):
        return _from_hub(source, place, known)
    if place is None:
        assert known is not None
        return _declared_on_hub(source, known)
    path = Path(place).expanduser()
    if not path.exists():
        if source.path is not None:
            raise DataError(f"{source.name}: no file or folder {source.path!r}")
        raise unknown(source.name)
    if known is not None and known.needs and source.images is None and not (path.is_dir() and _has_pictures(path)):
        raise DataError(
            f"{source.name}: has no pictures of its own: give images = the folder or zip with {known.needs}"
        )
    if path.is_dir() and known is None:
        return _folder(source, path)
    tables = _declared_tables(known, path) if known is not None and path.is_dir() else [path]
    return _tables(source, known, tables, where=str(path), within=None)


def unknown(name: str) -> DataError:
    """No such source: what there is, and what was perhaps meant."""
    names = [*declared(), SCENES]
    more = "hub:OWNER/NAME, or the path of a table or of a folder of images"
    return DataError(f"no source {name!r}{did_you_mean(name, names)}, {more}")


# Where sources are.


def _declared_on_hub(source: InstructionSource, known: Declared) -> Opened:
    images = f"images = the folder or zip with {known.needs}" if known.needs and source.images is None else ""
    copy = "" if known.hub else f"path = a copy of {known.site}"
    if images or copy:
        raise DataError(
            f"{known.name}: can't be had whole from the hub: give {' and '.join(filter(None, (copy, images)))}"
        )
    folder = _download(source, known)
    # A snapshot is links into the blobs beside it.
    return _tables(
        source, known, _declared_tables(known, folder), where=f"{known.hub}@{folder.name}", within=folder.parent.parent
    )


def _download(source: InstructionSource, known: Declared) -> Path:
    from huggingface_hub import snapshot_download

    wanted = [*known.files, *known.pictures]
    try:
        return Path(snapshot_download(known.hub, repo_type="dataset", revision=source.revision, allow_patterns=wanted))
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{known.name}: can't have {known.hub} from the hub: {_first_line(error)}; give path = a local copy"
        ) from error


def _from_hub(source: InstructionSource, place: str, known: Declared | None) -> Opened:
    from datasets import load_dataset

    id, _, revision = place.removeprefix(HUB).partition("@")
    try:
        table = load_dataset(id, source.config, split=source.split, revision=revision or None)
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{source.name}: can't load {id}, split {source.split!r}, from the hub: {_first_line(error)}"
        ) from error
    reader = _Reader(source, known, _Pictures.at(source.images, None, None))
    return Opened(name=source.name, where=place, items=lambda: _usable(source, [(reader, reader.table(table, id))]))


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0]


def _declared_tables(known: Declared, folder: Path) -> list[Path]:
    for pattern in known.files:
        # A copy may hold the files without the folders they have on the hub.
        matches = sorted(folder.glob(pattern)) or sorted(folder.rglob(PurePosixPath(pattern).name))
        if found := [path for path in matches if path.is_file() and path.name not in known.not_files]:
            return found
    raise DataError(f"{known.name}: {folder} has none of its files: {', '.join(known.files)}")


def _has_pictures(folder: Path) -> bool:
    return any(Path(name).suffix.lower() in (*IMAGES, ".zip") for _, _, names in os.walk(folder) for name in names)


def _tables(
    source: InstructionSource, known: Declared | None, tables: Sequence[Path], where: str, within: Path | None
) -> Opened:
    readers = [
        _Reader(source, known, _Pictures.at(source.images, path.parent, within, known is not None)) for path in tables
    ]

    def items() -> Iterator[Item | str]:
        return _usable(source, [(reader, reader.file(path)) for reader, path in zip(readers, tables, strict=True)])

    return Opened(name=source.name, where=where, items=items)


Cells = tuple[Row, Reopen | None, Sequence[str], str]
"""Of one row: its cells, the way to a cell, the columns that are not in the cells, and its place."""


def _usable(source: InstructionSource, tables: Sequence[tuple["_Reader", Iterable[Cells]]]) -> Iterator[Item | str]:
    """The items of tables; raises DataError where no row of any has a prompt, or a picture."""
    columns: dict[str, None] = {}
    met: set[str] = set()
    for reader, rows in tables:
        for number, (row, reopen, hidden, place) in enumerate(rows):
            if number == 0:
                columns.update(dict.fromkeys([*row, *hidden]))
                for wanted in (source.prompt_column, source.image_column):
                    if wanted is not None and wanted not in columns:
                        raise DataError(f"{source.name}: {place} has no column {wanted!r}; it has {_some(columns)}")
            for item in reader.items(row, reopen, hidden, place):
                met.add(item if isinstance(item, str) else "")
                yield item
    if met and met <= {"no prompt", "no picture"}:
        what, column = ("picture", "image_column") if "no picture" in met else ("prompt", "prompt_column")
        raise DataError(f"{source.name}: no row has a {what}: its columns are {_some(columns)}; give {column}")


def _some(columns: Iterable[str]) -> str:
    return ", ".join(list(columns)[:16])


# A folder of images.


def _folder(source: InstructionSource, folder: Path) -> Opened:
    """Images with fixed prompts, with prompts.txt, with a table beside them, or each with a text file of its own."""
    tables = sorted(path for path in folder.iterdir() if path.suffix in TABLES and path.is_file())
    prompts = source.prompts
    if not prompts and (folder / "prompts.txt").is_file():
        prompts = tuple(
            line
            for text in (folder / "prompts.txt").read_text(encoding="utf-8-sig").splitlines()
            if (line := text.strip())
        )
    if not prompts and len(tables) == 1:
        beside = source.model_copy(update={"images": source.images or str(folder)})
        return _tables(beside, None, tables, where=str(tables[0]), within=None)
    if not prompts and tables:
        raise DataError(
            f"{source.name}: {folder} has several tables ({', '.join(path.name for path in tables)}): give path = one of them"
        )
    if not prompts and not any(path.with_suffix(".txt").is_file() for path in _images_of(folder)):
        raise DataError(
            f"{source.name}: {folder} asks nothing: give prompts = [...], a prompts.txt, a table, or a .txt beside each image"
        )
    pictures = _Pictures.at(str(folder), None, None)

    def items() -> Iterator[Item | str]:
        for path in _images_of(folder):
            name = path.relative_to(folder).as_posix()
            try:
                picture = pictures.find(name)
                texts = prompts or (path.with_suffix(".txt").read_text(encoding="utf-8-sig"),)
            except _None as none:
                yield str(none)
            except FileNotFoundError:
                yield "no prompt"
            except (OSError, UnicodeDecodeError):
                yield "unreadable prompt"
            else:
                for text in texts:
                    yield Item(asked, picture, name) if (asked := _clean(text)) else "no prompt"

    return Opened(name=source.name, where=str(folder), items=items)


def _images_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGES and path.is_file())


# Rows of tables.


class _None(Exception):
    """Why a row is no instruction."""


class _Reader:
    """Rows of one source as items."""

    def __init__(self, source: InstructionSource, known: Declared | None, pictures: "_Pictures") -> None:
        self.source, self.known, self.pictures = source, known, pictures
        self.asks = LAYOUTS[known.layout if known else "rows"]
        self.extra: tuple[str, ...] = ()
        """Instructions of the file beside a table, for rows that have none."""

    def items(self, row: Row, reopen: Reopen | None, hidden: Sequence[str], place: str) -> Iterator[Item | str]:
        """What one row asks."""
        try:
            prompts = [asked for text in self._prompts(row) if (asked := _clean(text))]
            if not prompts:
                raise _None("no prompt")
            picture = self._picture(row, reopen, hidden, place)
        except _None as none:
            yield str(none)
            return
        origin = _first(row, ID_COLUMNS)
        for prompt in prompts:
            yield Item(prompt, picture, "" if origin is None else str(origin))

    def _prompts(self, row: Row) -> list[str]:
        if self.source.prompt_column is not None:
            return _texts(row.get(self.source.prompt_column))
        if self.extra and _first(row, ("instruction",)) is None:
            row = {
                **row,
                "instruction": self.extra[_digest(json.dumps(row, sort_keys=True, default=str)) % len(self.extra)],
            }
        return self.asks(row)

    def _picture(self, row: Row, reopen: Reopen | None, hidden: Sequence[str], place: str) -> ImageRef:
        columns = (self.source.image_column,) if self.source.image_column else IMAGE_COLUMNS
        for column in (name for wanted in columns for name in hidden if name.lower() == wanted.lower()):
            assert reopen is not None
            return LazyPicture(name=f"{place}/{column}", reader=partial(self._bytes, partial(reopen, column)))
        names = {name.strip().lower(): name for name in row}
        column = next(
            (
                names[wanted.lower()]
                for wanted in columns
                if row.get(names.get(wanted.lower(), "")) not in (None, "", [])
            ),
            "",
        )
        if not column and self.known is not None and self.known.by_id:
            column = next((names[wanted] for wanted in ID_COLUMNS if row.get(names.get(wanted, "")) is not None), "")
        if not column:
            raise _None("no picture")
        cell = _one(row[column])
        if isinstance(cell, Mapping) and not cell.get("bytes") and cell.get("path"):
            cell = cell["path"]
        if isinstance(cell, int):
            cell = str(cell)
        if isinstance(cell, str) and not _is_base64(cell):
            return self.pictures.find(cell)
        again = partial(reopen, column) if reopen is not None else partial(_same, cell)
        content = cell if isinstance(cell, str) else _bytes_of(cell)
        name = hashlib.sha256(
            content if isinstance(content, bytes) else content.encode("utf-8", "replace")
        ).hexdigest()[:16]
        return LazyPicture(name=name, reader=partial(self._bytes, again))

    def _bytes(self, again: Callable[[], Any]) -> bytes:
        """The image in a cell; raises OSError."""
        try:
            cell = _one(again())
            if isinstance(cell, Mapping) and not cell.get("bytes") and cell.get("path"):
                cell = str(cell["path"])
            if isinstance(cell, str) and not _is_base64(cell):
                return self.pictures.find(cell).read()
            return _bytes_of(cell)
        except (_None, LookupError, ValueError) as error:  # the table is not what it was when it was read first
            raise OSError(_first_line(error)) from None

    # Files.

    def file(self, path: Path) -> Iterator[Cells]:
        """The rows of a table, by its ending; of a zip: of the tables in it."""
        self.extra = _instructions_beside(path) if self.known is not None and self.known.layout == "m3it" else ()
        if path.suffix == ".parquet":
            yield from self.table(_parquet(self.source, path), path.name)
            return
        try:
            if path.suffix == ".jsonl":
                yield from ((row, partial(_cell_of_line, path, offset), (), path.name) for row, offset in _lines(path))
            elif path.suffix == ".zip":
                yield from ((row, None, (), path.name) for row in _rows_in_zip(path))
            elif path.suffix in TABLES:
                with path.open(encoding="utf-8-sig", newline="") as text:
                    yield from ((row, None, (), path.name) for row in _rows(text, path.suffix))
            else:
                raise DataError(f"{path}: is no table; known: {', '.join((*TABLES, '.zip'))}, or a folder of images")
        except (UnicodeDecodeError, json.JSONDecodeError, csv.Error, zipfile.BadZipFile, OSError) as error:
            raise DataError(f"{self.source.name}: {path}: {_first_line(error)}") from error

    def table(self, table: Any, name: str) -> Iterator[Cells]:
        """The rows of a datasets table; cells with images are not read."""
        from datasets import Image

        hidden = [column for column, feature in table.features.items() if _holds_bytes(feature)]
        for column in hidden:
            if isinstance(table.features[column], Image):
                table = table.cast_column(column, Image(decode=False))
            elif isinstance(getattr(table.features[column], "feature", None), Image):
                table = table.cast_column(column, type(table.features[column])(Image(decode=False)))
        shown = [column for column in table.column_names if column not in hidden]
        cells = table.select_columns(shown) if shown else None
        for index in range(len(table)):
            yield (
                (cells[index] if cells is not None else {}),
                partial(_cell_of_table, table, index),
                hidden,
                f"{name}/{index}",
            )


def _holds_bytes(feature: Any) -> bool:
    from datasets import Image

    inner = getattr(feature, "feature", feature)
    return (
        isinstance(inner, Image)
        or getattr(inner, "dtype", None) in ("binary", "large_binary")
        or (isinstance(inner, dict) and "bytes" in inner)
    )


def _parquet(source: InstructionSource, path: Path) -> Any:
    from datasets import load_dataset

    try:
        return load_dataset("parquet", data_files=[str(path)], split="train")
    except Exception as error:  # datasets wraps pyarrow's errors in its own, which derive from Exception
        raise DataError(f"{source.name}: {path}: {_first_line(error.__cause__ or error)}") from error


def _cell_of_table(table: Any, index: int, column: str) -> Any:
    return table[index][column]


def _cell_of_line(path: Path, offset: int, column: str) -> Any:
    with path.open("rb") as file:
        file.seek(offset)
        return json.loads(file.readline())[column]


def _same(cell: Any) -> Any:
    return cell


def _lines(path: Path) -> Iterator[tuple[Row, int]]:
    """The objects of a file of JSON lines, and the byte where each starts."""
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if text.strip():
                try:
                    row = json.loads(text)
                except ValueError as error:
                    raise DataError(f"{path}, line {number}: not JSON: {_first_line(error)}") from None
                if not isinstance(row, dict):
                    raise DataError(f"{path}, line {number}: must be an object, is {type(row).__name__}")
                yield row, offset + len(line) - len(text)
            offset += len(line)


def _rows_in_zip(path: Path) -> Iterator[Row]:
    with zipfile.ZipFile(path) as archive:
        members = [name for name in sorted(archive.namelist()) if PurePosixPath(name).suffix in TABLES[:-1]]
        if not members:
            raise DataError(f"{path}: has no table ({', '.join(TABLES[:-1])}) in it")
        for name in members:
            with archive.open(name) as file:
                yield from _rows(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""), PurePosixPath(name).suffix)


def _rows(text: TextIO, suffix: str) -> Iterator[Row]:
    if suffix in (".csv", ".tsv"):
        csv.field_size_limit(sys.maxsize)  # images stand in cells
        rows = csv.DictReader(text, delimiter="\t" if suffix == ".tsv" else ",")
        yield from ({name.strip(): cell for name, cell in row.items() if name is not None} for row in rows)
    else:
        yield from _objects(text)


def _objects(text: TextIO) -> Iterator[Row]:
    """The objects of a JSON list, or of JSON texts one after the other, of which only one is in memory."""
    decoder = json.JSONDecoder()
    held, at, ended, wanted, depth = "", 0, False, CHUNK, 0
    while True:
        start, at = at, _past_separators(held, at)
        depth += held.count("[", start, at) - held.count("]", start, at)
        if at < len(held):
            try:
                row, at = decoder.raw_decode(held, at)
            except json.JSONDecodeError:
                if ended:
                    raise
            else:
                if not isinstance(row, dict):
                    raise DataError(f"{getattr(text, 'name', 'table')}: must hold objects, holds {type(row).__name__}")
                yield row
                continue
        elif ended:
            if depth:
                raise DataError(f"{getattr(text, 'name', 'table')}: ends in the middle of its list")
            return
        # Twice as much each time: an object of many chunks is parsed again from its start.
        wanted = CHUNK if at == len(held) else min(wanted * 2, 1 << 30)
        more = text.read(wanted)
        held, at, ended = held[at:] + more, 0, not more


_SEPARATORS: Final = re.compile(r"[\s\[\],]*")


def _past_separators(text: str, at: int) -> int:
    found = _SEPARATORS.match(text, at)
    return found.end() if found else at


def _instructions_beside(path: Path) -> tuple[str, ...]:
    beside = path.with_name("instructions.json")
    if not beside.is_file():
        return ()
    try:
        found = json.loads(beside.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{beside}: {_first_line(error)}") from None
    return tuple(text for text in found if isinstance(text, str)) if isinstance(found, list) else ()


# What a row asks.


def _conversation(row: Row) -> list[str]:
    """The first human turn; of SVIT's rows, which hold several conversations, that of each."""
    cell = _first(row, CONVERSATION_COLUMNS)
    turns = cell if isinstance(cell, list) else []
    if turns and all(isinstance(talk, Mapping) and not {"from", "role"} & talk.keys() for talk in turns):
        return [asked for talk in turns for asked in _first_turn(talk.get("content"))]
    return _first_turn(turns)


def _first_turn(turns: Any) -> list[str]:
    for turn in turns if isinstance(turns, list) else []:
        if isinstance(turn, Mapping) and turn.get("from", turn.get("role")) in ("human", "user"):
            said = turn.get("value", turn.get("content"))
            if isinstance(said, list):
                said = "\n".join(str(part["text"]) for part in said if isinstance(part, Mapping) and part.get("text"))
            return _texts(said)
    return []


def _columns(row: Row) -> list[str]:
    """Prompt, question or instruction; with inputs where an instruction has them."""
    name = next((name for name in PROMPT_COLUMNS if _first(row, (name,)) not in (None, "", [])), "")
    asked = _texts(_first(row, (name,)))
    inputs = _texts(_first(row, ("inputs", "input"))) if name == "instruction" else []
    return [f"{text}\n{inputs[0]}" if inputs and inputs[0].strip() else text for text in asked]


def _any(row: Row) -> list[str]:
    return _conversation(row) if _first(row, CONVERSATION_COLUMNS) is not None else _columns(row)


_LETTER: Final = re.compile(r"^\s*[A-Da-d]\s*:")


def _choices(row: Row) -> list[str]:
    """The question, and a line for each choice."""
    texts = {letter: _first(row, (f"choice {letter}",)) for letter in "abcd"}
    lines = [
        f"{letter.upper()}: {_LETTER.sub('', text).strip()}" for letter, text in texts.items() if isinstance(text, str)
    ]
    return ["\n".join([asked.strip(), *lines]) for asked in _columns(row)]


def _actions(row: Row) -> list[str]:
    """The question and the actions to choose from, or the prompt that the row has whole."""
    actions = _first(row, ("actions",))
    if not isinstance(actions, list):
        return _columns({**row, "prompt": _first(row, ("question_prompt", "prompt", "question"))})
    lines = [f"({chr(ord('A') + index)}) {text}" for index, text in enumerate(actions)]
    return ["\n".join([asked.strip(), "Which action comes next?", *lines]) for asked in _columns(row)]


def _m3it(row: Row) -> list[str]:
    """The instruction, and under it the inputs or the question."""
    return _columns({**row, "prompt": None, "inputs": _first(row, ("inputs", "input", "question")), "question": None})


LAYOUTS: Final[Mapping[str, Callable[[Row], list[str]]]] = {
    "conversations": _conversation,
    "columns": _columns,
    "rows": _any,
    "choices": _choices,
    "actions": _actions,
    "m3it": _m3it,
}


def _first(row: Row, names: Sequence[str]) -> Any:
    """The cell of the first of the columns that is there and not empty, in any case of letters; None where none is."""
    for wanted in names:
        if row.get(wanted) is not None:
            return row[wanted]
    lower = {name.strip().lower(): name for name in row}
    return next((row[lower[wanted]] for wanted in names if wanted in lower and row[lower[wanted]] is not None), None)


def _texts(cell: Any) -> list[str]:
    if isinstance(cell, list):
        return [text for text in cell[:1] if isinstance(text, str)]
    return [cell] if isinstance(cell, str) else []


_TOKENS: Final = re.compile(r"[ \t]*<image>[ \t]*\n?", re.IGNORECASE)


def _clean(text: str) -> str:
    return _TOKENS.sub("", text).strip()


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


# Cells with pictures.


def _one(cell: Any) -> Any:
    if not isinstance(cell, list):
        return cell
    if len(cell) != 1:
        raise _None("several pictures" if cell else "no picture")
    return cell[0]


def _is_base64(text: str) -> bool:
    return len(text) > LONGEST_NAME or text.startswith("data:image/")


def _bytes_of(cell: Any) -> bytes:
    if isinstance(cell, Mapping):
        cell = cell.get("bytes")
    if isinstance(cell, bytes):
        return cell
    if not isinstance(cell, str):
        raise _None("no picture")
    try:
        return base64.b64decode(cell.partition(",")[2] if cell.startswith("data:") else cell, validate=True)
    except (binascii.Error, ValueError):
        raise _None("unreadable picture") from None


def _of_zip(picture: ImageRef) -> bytes:
    try:
        return picture.read()
    except (zlib.error, RuntimeError, EOFError) as error:  # damaged, encrypted or packed in an unknown way
        raise OSError(f"{picture.file}: {picture.member}: {_first_line(error)}") from None


_COCO: Final = re.compile(r"^COCO_(?:train|val|test)20\d\d_")


@dataclass(frozen=True)
class _Pictures:
    """The pictures of a source: of a folder (with the zips in it), or of a zip."""

    root: Path | None
    within: Path | None
    """No picture lies outside of it."""
    search: bool
    """Look for a name in the folders below, too."""

    @staticmethod
    def at(images: str | None, beside: Path | None, within: Path | None, search: bool = True) -> "_Pictures":
        root = Path(images).expanduser() if images is not None else beside
        if root is not None and not root.exists():
            raise DataError(f"images = {images!r}: no such folder or zip")
        inside = within if within is not None and images is None else root
        return _Pictures(root, inside.resolve() if inside is not None else None, search or images is not None)

    @cached_property
    def find(self) -> Callable[[str], ImageRef]:
        """Gives the picture of a name, which comes from the data and is not trusted; raises _None."""
        return lru_cache(maxsize=1 << 17)(self._find)  # sources ask many times about one picture

    def _find(self, name: str) -> ImageRef:
        if re.match(r"^\w+://", name):
            raise _None("picture is a URL")
        pure = PurePosixPath(name)
        if self.root is None:
            raise _None("missing picture")
        if pure.is_absolute() or ".." in pure.parts or "\0" in name:
            raise _None("path outside the folder")
        if self.root.is_dir():
            direct = self._file(name, self.root / name)
            if direct is not None:
                return direct
        if not self.search:
            raise _None("missing picture")
        found = self._index.get(pure.name) or self._index.get(_stem(pure.name)) or []
        if len(found) > 1:
            found = [one for one in found if f"/{one[0]}".endswith(f"/{name}")] or found
            found = [one for one in found if one[2] is None] or found  # of a zip that was unpacked beside itself
        if not found:
            raise _None("missing picture")
        if len(found) > 1:
            raise _None("ambiguous picture")
        _, file, member, size = found[0]
        if member is None:
            picture = self._file(name, file)
            if picture is None:
                raise _None("missing picture")
            return picture
        if size > MAX_BYTES:
            raise _None("picture file too large")
        return LazyPicture(
            name=name, file=file, member=member, reader=partial(_of_zip, ImageRef(name=name, file=file, member=member))
        )

    def _file(self, name: str, path: Path) -> ImageRef | None:
        """The file, where it is one and lies inside; None where there is none."""
        try:
            if not path.is_file():
                return None
            assert self.within is not None
            if not path.resolve().is_relative_to(self.within):
                raise _None("path outside the folder")
            if path.stat().st_size > MAX_BYTES:
                raise _None("picture file too large")
        except OSError:  # such as a name too long for the disk
            return None
        return ImageRef(name=name, file=path)

    @cached_property
    def _index(self) -> dict[str, list[tuple[str, Path, str | None, int]]]:
        """Name and stem -> (place, file, member, bytes); COCO's long names also stand under their number."""
        found: dict[str, list[tuple[str, Path, str | None, int]]] = {}
        for entry in self._everything():
            name = PurePosixPath(entry[0]).name
            for key in {name, _stem(name), _COCO.sub("", name), _stem(_COCO.sub("", name))}:
                found.setdefault(key, []).append(entry)
        return found

    def _everything(self) -> Iterator[tuple[str, Path, str | None, int]]:
        assert self.root is not None
        for file in [self.root] if self.root.is_file() else sorted(_walk(self.root)):
            if file.suffix.lower() in IMAGES:
                yield file.relative_to(self.root).as_posix(), file, None, 0
            elif file.suffix.lower() == ".zip":
                try:
                    with zipfile.ZipFile(file) as archive:
                        for member in archive.infolist():
                            if PurePosixPath(member.filename).suffix.lower() in IMAGES:
                                yield member.filename, file, member.filename, member.file_size
                except (zipfile.BadZipFile, OSError) as error:
                    raise DataError(f"{file}: {_first_line(error)}") from None
            elif file == self.root:
                raise DataError(f"images = {str(file)!r}: must be a folder or a zip")


def _walk(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (Path(parent) / name for name in names)


def _stem(name: str) -> str:
    return PurePosixPath(name).stem if PurePosixPath(name).suffix.lower() in IMAGES else name
