"""The one reader of data files: JSON lines, JSON lists, csv, tsv, parquet and zips of these, as a stream of records.

    for record in read(Path("table.jsonl")): ...               # the kind of the file is told by its ending
    for record in read_json(Path("answers.txt")): ...          # JSON, whatever the file is called

JSON may be a list of objects, one object a line, objects one after the other, or one object that holds the list as its
`data`, `rows` or the like (see `support.json_records`); text is UTF-8, with or without a byte order mark, with any line
ends; tables with commas or tabs may be UTF-16, as spreadsheets write them. Only one object of a file, and 128 rows of
parquet, are in memory at a time. Anything that is no record raises `DataError`, which names the file and the line. Only
the end of a file may be incomplete, since a writer may have been stopped: see `read`. Which files of a folder are one
dataset, `support.shards` says.
"""

import csv
import gzip
import io
import json
import struct
import zipfile
import zlib
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final, cast

from support import json_records
from support.errors import DataError, first_line, one_line
from support.files import atomic_path, check_no_pointer
from support.json_records import as_record, lines_of, read_objects
from support.unpacking import MAX_EXPANSION, member_problem, open_zip, overlapping, unpacked

Record = json_records.Record
Incomplete = json_records.Incomplete

TEXT: Final = (".jsonl", ".ndjson", ".jsonl.gz", ".json")
PARQUET: Final = ".parquet"
ARROW: Final = ".arrow"
"""What `datasets` saves (save_to_disk)."""
SEPARATED: Final = {".csv": ",", ".tsv": "\t"}
TABLES: Final = (*TEXT, *SEPARATED, PARQUET)

BATCH: Final = 128
"""Parquet rows held at a time; they may have their images with them."""
_UNREADABLE = (
    EOFError,
    zlib.error,
    struct.error,
    OSError,
    UnicodeDecodeError,
    csv.Error,
    zipfile.BadZipFile,
    NotImplementedError,
)


def suffix(path: Path, known: Collection[str] = (*TEXT, PARQUET)) -> str:
    """The kind of a data file by its name; "" for another one."""
    return next((ending for ending in known if path.name.lower().endswith(ending)), "")


def columns(path: Path) -> list[str]:
    """The columns of a file's first record; none where there is no record."""
    if suffix(path) == PARQUET:
        return list(open_parquet(path).schema_arrow.names)
    if path.suffix == ARROW:
        return list(_open_arrow(path).schema.names)
    return list(next(read(path), {}))


# Reading.


def read(path: Path, incomplete: Incomplete | None = None, *, strict: bool = False) -> Iterator[Record]:
    """The records of one file; of a zip, those of its tables in the order of their names.

    A last JSON record that was cut off is left out, and `incomplete` called; with `strict` it is an error.
    """
    with _errors_as_data_errors(path):
        if suffix(path) == PARQUET:
            yield from read_parquet(path)
        elif path.suffix == ARROW:
            yield from (row for batch in read_arrow(path) for rows in slices(batch) for row in rows.to_pylist())
        elif path.suffix.lower() == ".zip":
            yield from _read_zip(path)
        elif separator := SEPARATED.get(path.suffix.lower()):
            with path.open("rb") as file:
                yield from _read_separated(file, str(path), separator)
        else:
            yield from (record for _, record in read_objects(partial(_open, path), str(path), incomplete, strict))


def read_json(path: Path) -> Iterator[Record]:
    """The objects in a JSON file of any name; a last one that was cut off is an error."""
    return (record for _, record in read_lines(path))


def read_lines(
    path: Path, incomplete: Incomplete | None = None, *, strict: bool = True
) -> Iterator[tuple[int, Record]]:
    """As `read` of JSON, each object with the byte where its line starts (see `read_at`), -1 if it has no own line."""
    with _errors_as_data_errors(path):
        yield from read_objects(partial(_open, path), str(path), incomplete, strict)


def read_at(path: Path, offset: int) -> Record:
    """The object of the line that starts at a byte of an uncompressed file; OSError, TypeError, ValueError."""
    with path.open("rb") as file:
        file.seek(offset)
        text = file.readline().decode("utf-8", "surrogatepass")
    return as_record(json.loads(text), text)


@contextmanager
def _errors_as_data_errors(path: Path) -> Iterator[None]:
    _check_file(path)
    try:
        check_no_pointer(path)
        yield
    except _UNREADABLE as error:
        raise DataError(f"{path}: can't be read: {first_line(error)}") from error


def _check_file(path: Path) -> None:
    """DataError for a device, a pipe or a folder, of which the first two may never end."""
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: not a file")


def _open(path: Path) -> IO[bytes]:
    if not path.name.lower().endswith(".gz"):
        return path.open("rb")
    return unpacked(cast(IO[bytes], gzip.open(path, "rb")), packed=path.stat().st_size, where=str(path))


def _read_zip(path: Path) -> Iterator[Record]:
    kinds = (".jsonl", ".ndjson", ".json", *SEPARATED)
    with open_zip(path) as archive:
        infos = archive.infolist()
        shared, named = overlapping(infos), Counter(info.filename for info in infos)
        found = (info for info in infos if PurePosixPath(info.filename).suffix.lower() in kinds)
        tables = sorted((info for info in found if not _is_hidden(info.filename)), key=_name_of)
        if not tables:
            raise DataError(f"{path}: has no table ({', '.join(kinds)}) in it")
        for info in tables:
            where, separator = f"{path}: {info.filename}", SEPARATED.get(PurePosixPath(info.filename).suffix.lower())
            problem = "there twice" if named[info.filename] > 1 else member_problem(info, shared)
            if problem:
                raise DataError(f"{where}: is not read: {problem}")
            opened = partial(_open_member, archive, info, where)
            if separator:
                with opened() as file:
                    yield from _read_separated(file, where, separator)
            else:
                yield from (record for _, record in read_objects(opened, where, None, strict=True))


def _is_hidden(member: str) -> bool:
    """Whether a member lies in a hidden folder, or is what macOS packs beside each file."""
    return any((part[:1] == "." and part != "..") or part == "__MACOSX" for part in PurePosixPath(member).parts)


def _name_of(info: zipfile.ZipInfo) -> str:
    return info.filename


def _open_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> IO[bytes]:
    return unpacked(archive.open(info), packed=info.compress_size, where=where)


def _read_separated(file: IO[bytes], where: str, separator: str) -> Iterator[Record]:
    csv.field_size_limit(json_records.MAX_RECORD)  # images stand in cells
    start = cast(io.BufferedReader, file).peek(2)
    encoding = "utf-16" if start.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig"
    text = io.TextIOWrapper(file, encoding=encoding, newline="")
    rows = csv.DictReader(lines_of(text, where), delimiter=separator)
    try:
        if again := [name for name, times in Counter(rows.fieldnames or ()).items() if name and times > 1]:
            raise DataError(f"{where}: the column {again[0]!r} is there twice")
        for row in rows:
            if any(row.pop(None, ())):  # what is behind the last column
                raise DataError(f"{where}, line {rows.line_num}: has more cells than there are columns ({len(row)})")
            yield {name.strip(): cell for name, cell in row.items()}
    except csv.Error as error:
        raise DataError(f"{where}, line {rows.line_num}: {error}") from None


def open_parquet(path: Path) -> Any:
    """A pyarrow ParquetFile that holds no more than it is asked for; DataError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    _check_file(path)
    try:
        check_no_pointer(path)
        # Without a buffer, and with pre_buffer, the column of a whole row group is read at once, with all its images.
        return pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: not a parquet file: {one_line(error)}") from error


def check_parquet(path: Path) -> int:
    """How many rows a parquet file has; DataError for rows that are far more than its bytes: a few cells may stand in
    all of them."""
    file, held, limit = open_parquet(path), 256 << 20, _limit_of_parquet(path)
    shown = 0
    for number in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(number)
        for part in map(group.column, range(group.num_columns)):
            known = part.total_uncompressed_size  # a cell that many rows show is in it once
            if known * part.num_values <= limit:
                continue
            size = min(max(held // known, 1), 1 << 12)
            for batch in file.iter_batches(size, row_groups=[number], columns=[part.path_in_schema]):
                shown += _count_bytes(batch)
                _check_unpacked(path, shown, limit)
    return int(file.metadata.num_rows)


def _limit_of_parquet(path: Path) -> int:
    return max(1 << 30, MAX_EXPANSION * path.stat().st_size)


def _count_bytes(batch: Any) -> int:
    """Bytes of a batch's cells, also where many rows show one that is held once."""
    import pyarrow as pa

    columns = (one.dictionary_decode() if pa.types.is_dictionary(one.type) else one for one in batch.columns)
    return sum(column.nbytes for column in columns)


def unpack(file: Any, path: Path | str, limit: int) -> Iterator[Record]:
    """The records of an open ParquetFile; DataError once their cells are over `limit` bytes."""
    shown = 0
    for batch in file.iter_batches(batch_size=BATCH):
        shown += _count_bytes(batch)
        _check_unpacked(path, shown, limit)
        yield from batch.to_pylist()


def _check_unpacked(path: Path | str, shown: int, limit: int) -> None:
    if shown > limit:
        raise DataError(f"{path}: unpacks to over {limit:,} bytes, {MAX_EXPANSION} times its size")


def read_arrow(path: Path) -> Iterator[Any]:
    """The batches that `datasets` saved, which stay in the file; DataError."""
    import pyarrow as pa

    shown, limit = 0, _limit_of_parquet(path)
    try:
        for batch in _open_arrow(path):
            batch.validate(full=True)  # a place beyond the file would end the process
            shown += _count_bytes(batch)
            _check_unpacked(path, shown, limit)
            yield batch
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: can't be read: {one_line(error)}") from error


def _open_arrow(path: Path) -> Any:
    import pyarrow as pa

    _check_file(path)
    try:
        return pa.ipc.open_stream(pa.memory_map(str(path)))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: not a file that datasets saved: {one_line(error)}") from error


def slices(batch: Any) -> Iterator[Any]:
    """The parts of an Arrow batch that are held at a time."""
    return (batch.slice(start, BATCH) for start in range(0, batch.num_rows, BATCH))


def read_parquet(path: Path) -> Iterator[Record]:
    """The records of a parquet file of any name."""
    import pyarrow as pa

    try:
        yield from unpack(open_parquet(path), path, _limit_of_parquet(path))
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: can't be read: {one_line(error)}") from error


# Writing.


def write_json(records: Iterable[Record], path: Path) -> int:
    """Write a `.jsonl` file, or one list for `.json`; returns how many."""
    as_list = path.suffix.lower() == ".json"
    count = 0
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write("[" if as_list else "")
        for record in records:
            between = ("\n" if count == 0 else ",\n") if as_list else ""
            file.write(between + json.dumps(record, ensure_ascii=False) + ("" if as_list else "\n"))
            count += 1
        file.write("\n]\n" if as_list else "")
    return count


def write_parquet(records: Iterable[Record], path: Path, schema: Any, group: int) -> int:
    """Write records in row groups of `group`, in place: for a path that `atomic_path` gives; returns how many."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in batches(records, group):
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
            count += len(batch)
    return count


def batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` items, the last one shorter."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
