"""A benchmark's documents: from the hub at the pinned revision, or from local files for people behind a firewall.

    load(task="mme", data="lmms-lab/MME", revision="...", split="test", rows=2374, columns=[...])       # {"test": Dataset}
    load(task="mme", ..., paths={"mme": "/data/mme"})                                                   # `--data mme=/data/mme`

The arguments are the `metadata` of the task's YAML, which lm-eval hands over; `paths` is what the user gave. In the
documents, images have become keys of `support.images`; `images` is the YAML's `doc_to_image`.

Local files: one file or a folder with .parquet, .jsonl, .json, .tsv or .csv in the columns of the hub data. A cell of
the image column holds an image (datasets' own form), a file's path relative to the table, or base64 (in VLMEvalKit's
tables also the index of the row that has it). A task that names `rows_from` reads its own layout, from the hub's files
or from a folder; one that names `rows_from_folder` does so for folders without such a table.

Errors: `BenchmarkDataError`, one line that names the task and what is missing.
"""

import contextlib
import csv
import hashlib
import importlib
import io
import json
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from support.errors import BenchmarkDataError
from support.images import Base64Picture, PictureFile, PromptImage, keep, picture
from tasks.judges.official_prompts import cache_folder

if TYPE_CHECKING:
    from datasets import Dataset


IMAGE: Final = "image"
FILE_COLUMNS: Final = ("image", "imagename", "image_name", "image_path", "file_name", "filename", "image_file")
"""What tables call the column with the image or its file."""
TABLES: Final = (".parquet", ".jsonl", ".json", ".tsv", ".csv")
LONGEST_NAME: Final = 1024
"""A longer text in an image column is base64, not a path."""


def images(doc: Mapping[str, Any]) -> list[PromptImage]:
    """What lm-eval shows with a document: its picture, or none."""
    return [picture(doc[IMAGE])] if doc[IMAGE] else []


def load(
    *,
    task: str,
    data: str,
    revision: str,
    columns: Sequence[str],
    rows: int | None,
    config: str | None = None,
    split: str | Sequence[str] = "test",
    local: str | None = None,
    rows_from: str | None = None,
    rows_from_folder: str | None = None,
    paths: Mapping[str, str] | None = None,
    partial_data: bool = False,
    **_: Any,
) -> "dict[str, Dataset]":
    """The task's documents as lm-eval's `custom_dataset`; `partial_data` lets pass that rows are missing."""
    reader = _function(rows_from) if rows_from else None
    given = (paths or {}).get(task)
    if given is not None:
        where, path = str(given), Path(given).expanduser()
        if (
            rows_from_folder
            and path.is_dir()
            and not any(path.rglob(f"*{suffix}") for suffix in TABLES if suffix != ".json")
        ):
            reader = _function(rows_from_folder)
        found = _local(task, path, reader)
    elif local is not None:
        raise BenchmarkDataError(
            f"{task}: its data ({data}) is not on the hub as a table: give --data {task}=PATH, {local}"
        )
    else:
        where = f"{data} at revision {revision}"
        found = _from_hub(task, data, revision, config, [split] if isinstance(split, str) else list(split), reader)
    missing = [name for name in columns if name not in found.column_names]
    if missing:
        raise BenchmarkDataError(
            f"{task}: {where} has no column {', '.join(missing)}; it has {', '.join(found.column_names)}"
        )
    if rows is not None and len(found) != rows and not partial_data:
        raise BenchmarkDataError(
            f"{task}: {where} has {len(found)} rows, the benchmark {rows}; --partial-data scores what is there"
        )
    return {"test": found}


def _function(dotted: str) -> Callable[[Path], list[dict[str, Any]]]:
    module, _, name = dotted.rpartition(".")
    function: Callable[[Path], list[dict[str, Any]]] = getattr(importlib.import_module(module), name)
    return function


def _from_hub(
    task: str,
    data: str,
    revision: str,
    config: str | None,
    splits: list[str],
    reader: Callable[[Path], list[dict[str, Any]]] | None,
) -> "Dataset":
    from datasets import concatenate_datasets, load_dataset

    try:
        if reader is not None:
            from huggingface_hub import snapshot_download

            return _dataset(reader(Path(snapshot_download(data, repo_type="dataset", revision=revision))), None)
        parts = [load_dataset(data, config, split=split, revision=revision) for split in splits]
    except (OSError, ValueError) as error:  # datasets and huggingface_hub derive theirs from these
        reason = str(error).strip().split("\n")[0]
        raise BenchmarkDataError(
            f"{task}: can't load {data} at revision {revision}: {reason}; behind a firewall give --data {task}=PATH"
        ) from error
    return concatenate_datasets([_with_keys(part) for part in parts])


def unpack(archive: Path) -> Path:
    """The folder with what is in a .zip file, unpacked once into the user's cache folder."""
    state = archive.stat()
    name = hashlib.sha256(f"{archive.resolve()} {state.st_size} {state.st_mtime_ns}".encode()).hexdigest()[:16]
    target = cache_folder() / "unpacked" / name
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as part:
            try:
                with zipfile.ZipFile(archive) as opened:
                    opened.extractall(Path(part) / "all")  # which keeps names inside the folder
            except zipfile.BadZipFile as error:
                raise BenchmarkDataError(f"{archive}: {error}") from None
            with contextlib.suppress(OSError):  # another process was first
                (Path(part) / "all").rename(target)
    return target


def _local(task: str, path: Path, reader: Callable[[Path], list[dict[str, Any]]] | None) -> "Dataset":
    if not path.exists():
        raise BenchmarkDataError(f"{task}: --data {path}: no such file or folder")
    if reader is not None and not any(path.glob("**/*.parquet")):
        try:
            return _dataset(reader(path), path if path.is_dir() else path.parent)
        except (OSError, ValueError) as error:
            raise BenchmarkDataError(f"{task}: --data {path}: {error}") from error
    tables = (
        [path]
        if path.is_file()
        else sorted(file for file in path.rglob("*") if file.suffix in TABLES and file.is_file())
    )
    if not tables:
        raise BenchmarkDataError(f"{task}: --data {path}: no {', '.join(TABLES)} file in it")
    kinds = {table.suffix for table in tables}
    if len(kinds) > 1:
        raise BenchmarkDataError(
            f"{task}: --data {path}: tables of several kinds ({', '.join(sorted(kinds))}); name one of them"
        )
    if kinds == {".parquet"}:
        from datasets import load_dataset

        return _with_keys(load_dataset("parquet", data_files=[str(table) for table in tables], split="train"))
    return _dataset([row for table in tables for row in _rows(task, table)], path if path.is_dir() else path.parent)


def _rows(task: str, table: Path) -> list[dict[str, Any]]:
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BenchmarkDataError(f"{task}: {table}: {error}") from None
    if table.suffix in (".tsv", ".csv"):
        csv.field_size_limit(sys.maxsize)  # images stand in cells
        return list(csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if table.suffix == ".tsv" else ","))
    try:
        rows = (
            json.loads(text)
            if table.suffix == ".json"
            else [json.loads(line) for line in text.split("\n") if line.strip()]
        )
    except json.JSONDecodeError as error:
        raise BenchmarkDataError(f"{task}: {table}: not JSON: {error}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise BenchmarkDataError(f"{task}: {table}: must hold a list of objects")
    return rows


def _dataset(rows: list[dict[str, Any]], folder: Path | None) -> "Dataset":
    """Rows as a dataset, with keys for the images that their image column names or holds."""
    from datasets import Dataset

    names = list(dict.fromkeys(name for row in rows for name in row))
    column = next((name for name in FILE_COLUMNS if name in names), None)
    cells = [row.get(column) for row in rows] if column else [None] * len(rows)
    with_index = {str(row["index"]): cell for row, cell in zip(rows, cells, strict=True) if "index" in row}
    files = _Files(folder)
    keys = [_key(with_index.get(str(cell), cell) if str(cell).isdecimal() else cell, files) for cell in cells]
    return Dataset.from_dict({name: [row.get(name) for row in rows] for name in names} | {IMAGE: keys})


class _Files:
    """Pictures of a folder, by path or by bare name."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.by_name: dict[str, Path] | None = None

    def find(self, name: str) -> Path:
        direct = (self.folder or Path()) / name
        if direct.is_file() or self.folder is None:
            return direct
        if self.by_name is None:
            self.by_name = {file.name: file for file in self.folder.rglob("*") if file.is_file()}
        return self.by_name.get(Path(name).name, direct)


def _key(cell: Any, files: _Files) -> str:
    """The picture key of one cell; "" where it holds none."""
    if isinstance(cell, list):
        cell = cell[0] if cell else None
    if cell is None or cell == "":
        return ""
    if isinstance(cell, Mapping):  # datasets' form
        if cell.get("bytes"):
            data = bytes(cell["bytes"])
            return keep(lambda: data)
        return keep(PictureFile(files.find(str(cell.get("path")))))
    text = str(cell)
    if len(text) > LONGEST_NAME:
        return keep(Base64Picture(text))
    return keep(PictureFile(files.find(text)))


def _with_keys(table: "Dataset") -> "Dataset":
    """A datasets table whose image column has become keys; the bytes stay in the memory-mapped file."""
    column = next((name for name in FILE_COLUMNS if name in table.column_names), None)
    if column is None:
        return table.add_column(IMAGE, [""] * len(table))
    raw = table.select_columns([column]).cast_column(column, _undecoded(table.features[column]))
    keys = [_key_of_row(raw, column, index) for index in range(len(raw))]
    return table.remove_columns([IMAGE] if IMAGE in table.column_names else []).add_column(IMAGE, keys)


def _undecoded(feature: Any) -> Any:
    from datasets import Image, List

    if isinstance(feature, Image):
        return Image(decode=False)
    if isinstance(feature, List) and isinstance(feature.feature, Image):
        return List(Image(decode=False))
    return feature


def _key_of_row(raw: "Dataset", column: str, index: int) -> str:
    def cell() -> Any:
        value = raw[index][column]
        return value[0] if isinstance(value, list) and value else value

    value = cell()
    if isinstance(value, Mapping) and value.get("bytes"):

        def read() -> bytes:
            return bytes(cell()["bytes"])

        return keep(read)
    return _key(value, _Files(None))
