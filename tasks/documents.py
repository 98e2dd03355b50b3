"""A benchmark's documents: from the hub at the pinned revision, or from local files for people behind a firewall.

    load(task="mme", data="lmms-lab/MME", revision="...", rows=2374, columns=[...])    # {"test": Dataset}
    load(task="mme", ..., paths={"mme": "/data/mme"})                                  # `--data mme=/data/mme`

The arguments are the `metadata` of the task's YAML, which lm-eval hands over; `paths` is what the user gave. What was
put into HARNESS_DATA/TASK needs no --data (see `tasks.data_folder`). In the documents, images have become keys of
`support.images`; `images` is the YAML's `doc_to_image`.

What its columns hold is declared in the YAML and checked here: see `tasks.columns`. Rows that come twice count once.

Local files: one file or a folder with .parquet, .jsonl, .json, .tsv or .csv in the columns of the hub data, or a zip of
such tables. A cell of the image column holds an image (datasets' own form), a file's path below the table's folder, or
base64 (in VLMEvalKit's tables also the index of the row that has it). A picture outside that folder or zip is never
opened: see `support.image_folders`. A task that names `rows_from` reads its own layout, from the hub's files or from a
folder; one that names `rows_from_folder` does so for folders without such a table.

Errors: `BenchmarkDataError`, one line that names the task and what is missing.
"""

import importlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from support.errors import BenchmarkDataError, DataError, first_line
from support.image_cells import Find
from support.image_folders import ImageTree, there
from support.image_names import AMBIGUOUS
from support.images import ImageRef, PromptImage, encoded, picture
from support.records import ARROW, PARQUET, Record, check_parquet, columns, read
from tasks.columns import needed_columns, read_columns, shown
from tasks.data_files import (
    TABLES,
    UNREAD,
    choose_tables,
    find_dataset,
    kind_of,
    other_language,
    other_split,
    tables_below,
    tell_choice,
    unread_below,
)
from tasks.data_folder import sources_of, stored
from tasks.hub_data import fetch_folder, fetch_tables, note_other_data
from tasks.table_pictures import FILE_COLUMNS, IMAGE, columns_of_rows, image_column, with_picture_keys
from tasks.vlmevalkit import TABLES as TABLES_OF_KIT
from tasks.vlmevalkit import Table, check_versions, choose_file, other_version

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)

MAX_ROWS: Final = 5_000_000
"""Of a benchmark's tables, whose rows are all held; the largest benchmarks have half a million."""

RowsReader = Callable[[Path], list[Record]]


@dataclass(frozen=True, kw_only=True)
class DocumentSource:
    """Where a task's documents come from."""

    task: str
    data: str
    """Id of the dataset on the hub, or what its data are called."""
    revision: str
    moved_to: str | None = None
    """Its second id on the hub, which is used where the first one can't be read."""
    columns: Sequence[str] | Mapping[str, str]
    """Columns that the task needs; those it may have, too, where it says what each holds (see `tasks.columns`)."""
    rows: int | None
    """How many the benchmark has; None where that may vary."""
    config: str | None = None
    split: str | Sequence[str] = "test"
    local: str | None = None
    """What to give as --data, where the hub has no table of it."""
    rows_from: str | None = None
    """Dotted name of the function that reads the task's own layout."""
    rows_from_folder: str | None = None
    """The same, for local folders (or files called as `own_files`) without a table only."""
    own_files: Sequence[str] = ()
    """What `rows_from_folder` reads is called, where that is always the same."""
    paths: Mapping[str, str] | None = None
    """Task -> what the user gave as --data."""
    key: Sequence[str] = ()
    """Columns that tell rows apart, where the benchmark has any."""
    other_names: Mapping[str, str] = field(default_factory=dict)
    """Column -> what other public tables of the benchmark call it."""
    constants: Mapping[str, str] = field(default_factory=dict)
    """Column -> what each row has there of a table without it."""
    partial_data: bool = False
    """Whether rows may be missing."""
    without_picture: bool = False
    """Whether a row's cell may be empty: it is asked without a picture; of other tasks it is a failed sample."""

    @property
    def where(self) -> str:
        """Where the rows are from, in words."""
        return str((self.paths or {}).get(self.task, f"{self.data} at revision {self.revision}"))

    @property
    def splits(self) -> Sequence[str]:
        """The names of its splits."""
        return [self.split] if isinstance(self.split, str) else list(self.split)

    @property
    def kinds(self) -> Mapping[str, str] | None:
        """What each column holds; None where the task does not say."""
        return self.columns if isinstance(self.columns, Mapping) else None


def images(doc: Mapping[str, Any]) -> list[PromptImage]:
    """What lm-eval shows with a document: its picture, or none."""
    return [picture(doc[IMAGE])] if doc[IMAGE] else []


def load(**metadata: Any) -> "dict[str, Dataset]":
    """The task's documents as lm-eval's `custom_dataset`; of the metadata, the fields of `DocumentSource` count."""
    names = {setting.name for setting in fields(DocumentSource)}
    source = DocumentSource(**{name: value for name, value in metadata.items() if name in names})
    if source.task not in (source.paths or {}) and (folder := stored(source.task)) is not None:
        source = replace(source, paths={**(source.paths or {}), source.task: str(folder)})
    task, where, given = source.task, source.where, (source.paths or {}).get(source.task)
    if given is not None:
        found = _read_local(source, Path(given).expanduser())
    elif source.local is not None:
        by_script = f"run `harness data get {task}`, or " if sources_of(task) else ""
        needs = f"{by_script}give --data {task}=PATH, {source.local}"
        raise BenchmarkDataError(f"{task}: its data ({source.data}) is not on the hub as a table: {needs}")
    else:
        found = _read_hub(source)
    if given is not None or len(found) != source.rows:
        found = _drop_repeats(source, found)
    if source.rows is not None and len(found) != source.rows and not source.partial_data:
        counts = f"{len(found)} rows, the benchmark {source.rows}"
        raise BenchmarkDataError(f"{task}: {where} has {counts}; --partial-data scores what is there")
    return {"test": found}


def _check_image_column(source: DocumentSource, names: Sequence[str]) -> None:
    """BenchmarkDataError where a task needs a column with pictures and there is none: nothing would be shown."""
    if image_column(names) is None:
        _check_columns(source, [*names, *(own for own, other in source.other_names.items() if other in names)])


def _check_columns(source: DocumentSource, names: Sequence[str]) -> None:
    missing = [name for name in needed_columns(source.columns) if name not in names]
    if missing:
        lacks = f"has no column {', '.join(missing)}; it has {', '.join(names)}"
        raise BenchmarkDataError(f"{source.task}: {source.where} {lacks}")


def _read_declared(source: DocumentSource, columns: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
    """The columns that the task declares, with cells as what they mean; all as they are where it only names them."""
    if not any(map(len, columns.values())):
        raise BenchmarkDataError(f"{source.task}: {source.where} has no rows")
    found_as = {name: other for name, other in source.other_names.items() if name not in columns and other in columns}
    columns = {**columns, **{name: columns[other] for name, other in found_as.items()}}
    columns = {**{name: [text] * len(columns[IMAGE]) for name, text in source.constants.items()}, **columns}
    _check_columns(source, list(columns))
    try:
        return {IMAGE: columns[IMAGE]} | (read_columns(columns, source.kinds) if source.kinds else dict(columns))
    except ValueError as error:
        raise BenchmarkDataError(f"{source.task}: {source.where}: {error}") from None


def _drop_repeats(source: DocumentSource, found: "Dataset") -> "Dataset":
    """The rows, each key once; BenchmarkDataError where two rows of one key differ."""
    key = [name for name in source.key if name in found.column_names]
    if not key:
        return found
    rows = found.to_list()
    first: dict[tuple[str, ...], int] = {}
    kept: list[int] = []
    for place, row in enumerate(rows):
        before = first.setdefault(tuple(str(row[name]) for name in key), place)
        if before == place:
            kept.append(place)
        elif not _same_row(rows[before], row):
            both = f"both have {', '.join(f'{name} {shown(row[name])}' for name in key)}"
            which = f"rows {before + 1} and {place + 1}"
            raise BenchmarkDataError(f"{source.task}: {source.where}: {which} differ, and {both}")
    if len(kept) < len(rows):
        log.warning("%s: %s: %d rows come twice and count once", source.task, source.where, len(rows) - len(kept))
    return found.select(kept) if len(kept) < len(rows) else found


def _same_row(one: Record, other: Record) -> bool:
    if {**one, IMAGE: None} != {**other, IMAGE: None}:
        return False
    if one[IMAGE] == other[IMAGE] or not (one[IMAGE] and other[IMAGE]):
        return bool(one[IMAGE] == other[IMAGE])
    try:
        return encoded(picture(one[IMAGE])) == encoded(picture(other[IMAGE]))
    except OSError:
        return False


def _rows_reader(dotted: str) -> RowsReader:
    module, _, name = dotted.rpartition(".")
    reader: RowsReader = getattr(importlib.import_module(module), name)
    return reader


def _read_hub(source: DocumentSource) -> "Dataset":
    from datasets import concatenate_datasets

    ids = (source.data, *([source.moved_to] if source.moved_to else []))
    note_other_data(source.task, "")
    if source.rows_from is not None:
        folder = fetch_folder(task=source.task, ids=ids, revision=source.revision)
        try:
            rows = _rows_reader(source.rows_from)(folder)
        except (OSError, ValueError) as error:
            raise BenchmarkDataError(f"{source.task}: {source.where}: {first_line(error)}") from error
        return _dataset_of_rows(source, rows, ImageTree(folder).find)
    tables, find = fetch_tables(
        task=source.task, ids=ids, revision=source.revision, config=source.config, splits=source.splits
    )
    return concatenate_datasets([_dataset_of_table(source, table, find) for table in tables])


def _read_local(source: DocumentSource, path: Path) -> "Dataset":
    if not (path.is_dir() or path.is_file()):
        raise BenchmarkDataError(f"{source.task}: --data {path}: no such file or folder")
    find = ImageTree(path if path.is_dir() or path.suffix == ".zip" else path.parent, beside=True).find
    try:
        if path.is_dir() and (own := _find_own_folder(source, path)) is not None:
            return _read_files(source, own, _first_found(ImageTree(own, beside=True).find, find))
        return _read_files(source, path, find)
    except BenchmarkDataError:
        raise
    except (DataError, OSError, ValueError) as error:
        where = "" if str(error).startswith(str(path)) else f"--data {path}: "
        raise BenchmarkDataError(f"{source.task}: {where}{error}") from error


def _find_own_folder(source: DocumentSource, folder: Path) -> Path | None:
    """The task's dataset in a folder of several; None where it is not told by names."""
    ids = [source.task, source.data, *([source.moved_to] if source.moved_to else [])]
    return find_dataset(folder, ids, None if source.rows_from else partial(_has_columns, source))


def _first_found(near: Find, far: Find) -> Find:
    """What the dataset's own folder has of a name, else what the folder around it has, such as COCO's pictures."""

    def find(name: str) -> ImageRef:
        found = near(name)
        return found if there(found) or found.problem == AMBIGUOUS else far(name)

    return find


def _read_files(source: DocumentSource, path: Path, find: Find) -> "Dataset":
    """Raises DataError, OSError or ValueError that do not name the task."""
    tables = _choose_tables(source, path) if path.is_dir() else [[path]]
    files = [file for part in tables for file in part]
    kinds = {kind_of(file) for file in files}
    _tell_differences(source, path, files)
    if len(files) == 1 and (kit := _kit_table(source, files[0])) is not None:
        rows = list(islice(read(files[0], strict=True), MAX_ROWS + 1))
        _check_number(source, len(rows))
        return _dataset_of_rows(source, kit.rows(rows, files[0]), find)
    if (reader := _own_reader(source, path, files)) is not None:
        return _dataset_of_rows(source, _rows_reader(reader)(path), find)
    if not files or kinds & {*UNREAD}:
        packed = ", ".join(file.name for file in (files or unread_below(path))[:4])
        raise DataError(f"{path}: no {', '.join(TABLES)} file in it{f'; unpack {packed}' if packed else ''}")
    if len(kinds) > 1:
        raise DataError(f"{path}: tables of several kinds ({', '.join(sorted(kinds))}); name one of them")
    if kinds <= {PARQUET, ARROW}:
        found = _read_parquet(source, tables, find)
    else:
        rows = list(islice((row for file in files for row in read(file, strict=True)), MAX_ROWS + 1))
        _check_number(source, len(rows))
        found = _dataset_of_rows(source, rows, find)
    if len(files) > 1 and not source.key:
        _check_copies(found, files)
    return found


def _check_copies(found: "Dataset", files: Sequence[Path]) -> None:
    """DataError where files without a key hold the same rows; a few rows of a benchmark may be alike."""
    times = Counter(json.dumps(row, default=str, sort_keys=True) for row in found.to_list())
    again = sum(count for count in times.values() if count > 1)
    if again > len(found) / 2:
        of = "all" if again == len(found) else f"{again} of"
        raise DataError(f"{_list_files(files)}: {of} {len(found)} rows come several times; name one of the copies")


def _choose_tables(source: DocumentSource, folder: Path) -> list[list[Path]]:
    """The hub's table in a folder, else VLMEvalKit's of this task among its others, else whatever may be one."""
    below = tables_below(folder)
    named = None if _has_own_files(source, below) else choose_file(source.task, below)
    may_be_own = source.rows_from is not None or _may_have_own_layout(source, below)
    kinds = [kind for kind in TABLES if not (may_be_own and kind == ".json")]
    wanted = partial(_has_columns, source)
    try:
        found = choose_tables(
            folder, config=source.config, splits=source.splits, wanted=wanted, kinds=kinds, below=below
        )
    except DataError:
        if named is None:
            raise
        found = [[named]]
    others = [file for part in found for file in part if kind_of(file) in kinds and file != named]
    is_hubs = any(file.suffix.lower() != ".tsv" and _file_has_columns(source, file) for file in others)
    found = [[named]] if named is not None and not is_hubs else found
    chosen = [file for part in found for file in part]
    check_versions(source.task, chosen)
    tell_choice(folder, chosen, below)
    return found


def _tell_differences(source: DocumentSource, path: Path, files: Sequence[Path]) -> None:
    """Log lines, and a note for entries, about files that are of another language, split or version by their names."""
    language = other_language(path, files, source.config)
    split = other_split(path, files, source.splits) if path.is_dir() else ""
    version = "" if language or split else other_version(source.task, files)
    told = {"language": language, "split": split, "table": version}
    note_other_data(source.task, ", ".join(f"{what} {said}" for what, said in told.items() if said))


def _kit_table(source: DocumentSource, file: Path) -> Table | None:
    """VLMEvalKit's table of this task, where a file is that and not in the hub's columns."""
    kit = TABLES_OF_KIT.get(source.task)
    if kit is None or file.suffix.lower() != ".tsv":
        return None
    names = columns(file)
    in_hubs = source.rows_from is None and set(needed_columns(source.columns)) <= {*names, IMAGE}
    return kit if kit.holds(names) and not in_hubs else None


def _has_columns(source: DocumentSource, names: Collection[str]) -> bool:
    """Whether a table is the task's, by its columns; any image column will do."""
    there = {*names, *(name for name, other in source.other_names.items() if other in names)}
    if any(name in FILE_COLUMNS for name in names):
        there.add(IMAGE)
    return there.issuperset(needed_columns(source.columns))


def _own_reader(source: DocumentSource, path: Path, files: Sequence[Path]) -> str | None:
    """The function that reads the task's own layout, where that is what a path holds and not the hub's table."""
    kinds = {file.suffix.lower() for file in files}
    if source.rows_from is not None:
        is_table = (
            kinds
            and kinds <= {PARQUET, ARROW}
            and (path.is_file() or any(_file_has_columns(source, file) for file in files))
        )
        return None if is_table else source.rows_from
    if path.is_file():
        return source.rows_from_folder if path.name in source.own_files else None
    tables = [file for file in files if file.suffix.lower() != ".json"]  # those may be COCO's, and large
    is_own = _may_have_own_layout(source, files) and not any(_file_has_columns(source, file) for file in tables)
    return source.rows_from_folder if is_own else None


def _has_own_files(source: DocumentSource, files: Sequence[Path]) -> bool:
    return any(file.name in source.own_files for file in files)


def _may_have_own_layout(source: DocumentSource, files: Sequence[Path]) -> bool:
    """Whether what `rows_from_folder` reads may be among files."""
    return source.rows_from_folder is not None and (not source.own_files or _has_own_files(source, files))


def _file_has_columns(source: DocumentSource, file: Path) -> bool:
    try:
        return _has_columns(source, columns(file))
    except DataError:
        return True  # it is read, and says why it can't be


def _read_parquet(source: DocumentSource, tables: Sequence[Sequence[Path]], find: Find) -> "Dataset":
    """Each split by itself, as from the hub: their columns may differ in what the task does not need."""
    from datasets import concatenate_datasets, load_dataset
    from datasets.exceptions import DatasetsError

    shards = [file for part in tables for file in part]
    _check_number(source, sum(check_parquet(file) for file in shards if file.suffix.lower() == PARQUET))
    parts = []
    for files in tables:
        if len({tuple(sorted(columns(file))) for file in files}) > 1:
            raise DataError(f"{_list_files(files)}: their columns differ; name the folder of one dataset")
        try:
            builder = files[0].suffix.lower().removeprefix(".")
            table = load_dataset(builder, data_files=[str(file) for file in files], split="train")
        except DatasetsError as error:
            raise DataError(f"{_list_files(files)}: not shards of one table: {first_line(error)}") from None
        parts.append(_dataset_of_table(source, table, find))
    return concatenate_datasets(parts)


def _list_files(files: Sequence[Path]) -> str:
    return ", ".join(str(file) for file in files[:4]) + (", ..." if len(files) > 4 else "")


def _check_number(source: DocumentSource, rows: int) -> None:
    if rows > MAX_ROWS:
        raise BenchmarkDataError(f"{source.task}: {source.where} has over {MAX_ROWS:,} rows; no benchmark has so many")


def _dataset_of_rows(source: DocumentSource, rows: list[Record], find: Find) -> "Dataset":
    """Rows as a dataset, with keys for the images that their image column names or holds."""
    from datasets import Dataset

    names = list(dict.fromkeys(name for row in rows for name in row))
    if rows:
        _check_image_column(source, names)
    keys = columns_of_rows(source.task, rows, find, may_lack=source.without_picture)
    columns: dict[str, Sequence[Any]] = {**{name: [row.get(name) for row in rows] for name in names}, **keys}
    return Dataset.from_dict({name: _of_one_type(cells) for name, cells in _read_declared(source, columns).items()})


def _of_one_type(cells: Sequence[Any]) -> Sequence[Any]:
    """Cells that a table's column can hold: as they are, or each as JSON where they are of several types."""
    import pyarrow as pa

    try:
        pa.array(cells)
    except (pa.ArrowException, OverflowError, RecursionError, TypeError, ValueError):
        return [None if cell is None else json.dumps(cell, default=str) for cell in cells]
    return cells


def _dataset_of_table(source: DocumentSource, table: "Dataset", find: Find) -> "Dataset":
    """A datasets table whose image column has become keys; the bytes stay in the memory-mapped file."""
    _check_image_column(source, table.column_names)
    table = with_picture_keys(source.task, table, find, may_lack=source.without_picture)
    if source.kinds is None:
        _check_columns(source, table.column_names)
        return table
    # Of columns that the task does not declare, the names are enough.
    wanted = {*source.kinds, *source.other_names.values(), IMAGE}
    columns = {name: table[name][:] if name in wanted else () for name in table.column_names}
    read = _read_declared(source, columns)
    for name, cells in read.items():
        if cells != columns.get(name):
            table = table.remove_columns([name] if name in columns else []).add_column(name, cells)
    return table.select_columns(list(read))
