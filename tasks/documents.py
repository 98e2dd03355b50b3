"""A benchmark's documents: from the hub at the pinned revision, or from local files for people behind a firewall.

    load(task="mme", data="lmms-lab/MME", revision="...", rows=2374, columns=[...])    # {"test": Dataset}
    load(task="mme", ..., paths={"mme": "/data/mme"})                                  # `--data mme=/data/mme`

The arguments are the `metadata` of the task's YAML, which lm-eval hands over; `paths` is what the user gave. In the
documents, images have become keys of `support.images`; `images` is the YAML's `doc_to_image`.

Local files: one file or a folder with .parquet, .jsonl, .json, .tsv or .csv in the columns of the hub data, or a zip of
such tables. A cell of the image column holds an image (datasets' own form), a file's path below the table's folder, or
base64 (in VLMEvalKit's tables also the index of the row that has it). A picture outside that folder or zip is never
opened: see `support.image_folders`. A task that names `rows_from` reads its own layout, from the hub's files or from a
folder; one that names `rows_from_folder` does so for folders without such a table.

Errors: `BenchmarkDataError`, one line that names the task and what is missing.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from support.errors import BenchmarkDataError, DataError, first_line
from support.image_folders import REFUSED, ImageIndex, ImageTree, picture_in_cell
from support.images import ImageRef, PromptImage, keep, picture
from support.records import PARQUET, Record, read

if TYPE_CHECKING:
    from datasets import Dataset

IMAGE: Final = "image"
FILE_COLUMNS: Final = ("image", "imagename", "image_name", "image_path", "file_name", "filename", "image_file")
"""What tables call the column with the image or its file."""
TABLES: Final = (PARQUET, ".jsonl", ".json", ".tsv", ".csv")

RowsReader = Callable[[Path], list[Record]]
Find = Callable[[str], ImageRef]


@dataclass(frozen=True, kw_only=True)
class DocumentSource:
    """Where a task's documents come from."""

    task: str
    data: str
    """Id of the dataset on the hub, or what its data are called."""
    revision: str
    columns: Sequence[str]
    """Columns that the task needs."""
    rows: int | None
    """How many the benchmark has; None where that may vary."""
    config: str | None = None
    split: str | Sequence[str] = "test"
    local: str | None = None
    """What to give as --data, where the hub has no table of it."""
    rows_from: str | None = None
    """Dotted name of the function that reads the task's own layout."""
    rows_from_folder: str | None = None
    """The same, for local folders without a table only."""
    paths: Mapping[str, str] | None = None
    """Task -> what the user gave as --data."""
    partial_data: bool = False
    """Whether rows may be missing."""


def images(doc: Mapping[str, Any]) -> list[PromptImage]:
    """What lm-eval shows with a document: its picture, or none."""
    return [picture(doc[IMAGE])] if doc[IMAGE] else []


def load(**metadata: Any) -> "dict[str, Dataset]":
    """The task's documents as lm-eval's `custom_dataset`; of the metadata, the fields of `DocumentSource` count."""
    names = {field.name for field in fields(DocumentSource)}
    source = DocumentSource(**{name: value for name, value in metadata.items() if name in names})
    task, given = source.task, (source.paths or {}).get(source.task)
    if given is not None:
        where, found = str(given), _read_local(source, Path(given).expanduser())
    elif source.local is not None:
        needs = f"give --data {task}=PATH, {source.local}"
        raise BenchmarkDataError(f"{task}: its data ({source.data}) is not on the hub as a table: {needs}")
    else:
        where, found = f"{source.data} at revision {source.revision}", _read_hub(source)
    missing = [name for name in source.columns if name not in found.column_names]
    if missing:
        has = ", ".join(found.column_names)
        raise BenchmarkDataError(f"{task}: {where} has no column {', '.join(missing)}; it has {has}")
    if source.rows is not None and len(found) != source.rows and not source.partial_data:
        counts = f"{len(found)} rows, the benchmark {source.rows}"
        raise BenchmarkDataError(f"{task}: {where} has {counts}; --partial-data scores what is there")
    return {"test": found}


def _rows_reader(dotted: str) -> RowsReader:
    module, _, name = dotted.rpartition(".")
    reader: RowsReader = getattr(importlib.import_module(module), name)
    return reader


def _read_hub(source: DocumentSource) -> "Dataset":
    from datasets import concatenate_datasets, load_dataset
    from huggingface_hub import snapshot_download

    data, revision = source.data, source.revision
    splits = [source.split] if isinstance(source.split, str) else list(source.split)
    try:
        if source.rows_from is not None:
            folder = Path(snapshot_download(data, repo_type="dataset", revision=revision))
            rows = _rows_reader(source.rows_from)(folder)
        else:
            parts = [load_dataset(data, source.config, split=split, revision=revision) for split in splits]
    except (OSError, ValueError) as error:  # datasets and huggingface_hub derive theirs from these
        failed = f"{source.task}: can't load {data} at revision {revision}: {first_line(error)}"
        raise BenchmarkDataError(f"{failed}; behind a firewall give --data {source.task}=PATH") from error
    if source.rows_from is not None:
        return _dataset_of_rows(source.task, rows, ImageTree(folder, guess=True).find)
    find = _find_downloaded(data)
    return concatenate_datasets([_dataset_of_table(source.task, part, find) for part in parts])


def _find_downloaded(data: str) -> Find:
    """Finds the files of a hub dataset by the absolute paths that `datasets` gives them in its cache."""
    from datasets.config import HF_DATASETS_CACHE
    from huggingface_hub.constants import HF_HUB_CACHE

    own = Path(HF_HUB_CACHE) / f"datasets--{data.replace('/', '--')}"
    return ImageIndex.inside(own, Path(HF_DATASETS_CACHE) / "downloads").find


def _read_local(source: DocumentSource, path: Path) -> "Dataset":
    task = source.task
    if not path.exists():
        raise BenchmarkDataError(f"{task}: --data {path}: no such file or folder")
    reader = source.rows_from
    if source.rows_from_folder and path.is_dir():
        has_table = any(any(path.rglob(f"*{suffix}")) for suffix in TABLES if suffix != ".json")
        reader = reader if has_table else source.rows_from_folder
    find = ImageTree(path if path.is_dir() or path.suffix == ".zip" else path.parent, guess=True).find
    if reader is not None and not any(path.glob(f"**/*{PARQUET}")):
        try:
            rows = _rows_reader(reader)(path)
        except (OSError, ValueError) as error:
            raise BenchmarkDataError(f"{task}: --data {path}: {error}") from error
        return _dataset_of_rows(task, rows, find)
    tables = [path]
    if path.is_dir():
        tables = sorted(file for file in path.rglob("*") if file.suffix in TABLES and file.is_file())
    if not tables:
        raise BenchmarkDataError(f"{task}: --data {path}: no {', '.join(TABLES)} file in it")
    kinds = {table.suffix for table in tables}
    if len(kinds) > 1:
        several = ", ".join(sorted(kinds))
        raise BenchmarkDataError(f"{task}: --data {path}: tables of several kinds ({several}); name one of them")
    if kinds == {PARQUET}:
        from datasets import load_dataset

        table = load_dataset("parquet", data_files=[str(file) for file in tables], split="train")
        return _dataset_of_table(task, table, find)
    try:
        rows = [row for file in tables for row in read(file, strict=True)]
    except DataError as error:
        raise BenchmarkDataError(f"{task}: {error}") from None
    return _dataset_of_rows(task, rows, find)


def _dataset_of_rows(task: str, rows: list[Record], find: Find) -> "Dataset":
    """Rows as a dataset, with keys for the images that their image column names or holds."""
    from datasets import Dataset

    names = list(dict.fromkeys(name for row in rows for name in row))
    column = _image_column(names)
    cells = [row.get(column) for row in rows] if column else [None] * len(rows)
    with_index = {str(row["index"]): cell for row, cell in zip(rows, cells, strict=True) if "index" in row}
    cells = [with_index.get(str(cell), cell) if str(cell).isdecimal() else cell for cell in cells]
    keys = [_key(cell, find, f"{task}: row {number}") for number, cell in enumerate(cells, start=1)]
    return Dataset.from_dict({name: [row.get(name) for row in rows] for name in names} | {IMAGE: keys})


def _dataset_of_table(task: str, table: "Dataset", find: Find) -> "Dataset":
    """A datasets table whose image column has become keys; the bytes stay in the memory-mapped file."""
    column = _image_column(table.column_names)
    if column is None:
        return table.add_column(IMAGE, [""] * len(table))
    raw = table.select_columns([column]).cast_column(column, _without_decoding(table.features[column]))
    keys = [_key_of_row(raw, column, index, find, f"{task}: row {index + 1}") for index in range(len(raw))]
    return table.remove_columns([IMAGE] if IMAGE in table.column_names else []).add_column(IMAGE, keys)


def _image_column(names: Sequence[str]) -> str | None:
    return next((name for name in FILE_COLUMNS if name in names), None)


def _key(cell: Any, find: Find, where: str) -> str:
    """The picture key of one cell; "" where it holds none."""
    cell = _first_of(cell)
    if cell is None or cell == "":
        return ""
    found = picture_in_cell(cell if isinstance(cell, (str, bytes, Mapping, ImageRef)) else str(cell), find)
    if found.problem in REFUSED:
        must = "pictures lie beside or below the table"
        raise BenchmarkDataError(f"{where}: image {found.name!r}: {found.problem}; {must}")
    return keep(found)


def _first_of(cell: Any) -> Any:
    return (cell[0] if cell else None) if isinstance(cell, list) else cell


def _without_decoding(feature: Any) -> Any:
    from datasets import Image, List

    if isinstance(feature, Image):
        return Image(decode=False)
    if isinstance(feature, List) and isinstance(feature.feature, Image):
        return List(Image(decode=False))
    return feature


def _key_of_row(raw: "Dataset", column: str, index: int, find: Find, where: str) -> str:
    def read_bytes() -> bytes:
        return bytes(_first_of(raw[index][column])["bytes"])

    cell = _first_of(raw[index][column])
    if isinstance(cell, Mapping) and cell.get("bytes"):
        return keep(ImageRef(f"{column}/{index}", reader=read_bytes))
    return _key(cell, find, where)
