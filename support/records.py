"""The one reader of data files: JSON lines, JSON lists, csv, tsv, parquet and zips of these, as a stream of records.

    for record in read(Path("table.jsonl")): ...               # the kind of the file is told by its ending
    for record in read_json(Path("answers.txt")): ...          # JSON, whatever the file is called

JSON may be a list of objects, one object a line, or objects one after the other; text is UTF-8, with or without a byte
order mark, with any line ends. Only one object of a file, and 128 rows of parquet, are in memory at a time. Anything
that is no record raises `DataError`, which names the file and the line. Only the end of a file may be incomplete, since
a writer may have been stopped: see `read`. Which files of a folder are one dataset, `support.shards` says.
"""

import csv
import gzip
import io
import json
import re
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count, islice
from pathlib import Path, PurePosixPath
from typing import IO, Any, AnyStr, Final, cast

from support.errors import DataError, first_line, one_line
from support.files import atomic_path, check_no_pointer
from support.unpacking import MAX_EXPANSION, member_problem, open_zip, overlapping, unpacked

Record = dict[str, Any]
Incomplete = Callable[[], None]
"""Called for a last record that was cut off while it was written."""

TEXT: Final = (".jsonl", ".jsonl.gz", ".json")
PARQUET: Final = ".parquet"
ARROW: Final = ".arrow"
"""What `datasets` saves (save_to_disk)."""
SEPARATED: Final = {".csv": ",", ".tsv": "\t"}
TABLES: Final = (*TEXT, *SEPARATED, PARQUET)

BATCH: Final = 128
"""Parquet rows held at a time; they may have their images with them."""
CHUNK: Final = 1 << 20
"""Characters of a JSON list read at a time."""

MAX_RECORD: Final = 400 << 20
"""Bytes of one row; the largest picture that is read has 342 MiB as base64."""

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
            yield from (record for _, record in _read_json(partial(_open, path), str(path), incomplete, strict))


def read_json(path: Path) -> Iterator[Record]:
    """The objects in a JSON file of any name; a last one that was cut off is an error."""
    return (record for _, record in read_lines(path))


def read_lines(
    path: Path, incomplete: Incomplete | None = None, *, strict: bool = True
) -> Iterator[tuple[int, Record]]:
    """As `read` of JSON, each object with the byte where its line starts (see `read_at`), -1 if it has no own line."""
    with _errors_as_data_errors(path):
        yield from _read_json(partial(_open, path), str(path), incomplete, strict)


def read_at(path: Path, offset: int) -> Record:
    """The object of the line that starts at a byte of an uncompressed file; OSError, TypeError, ValueError."""
    with path.open("rb") as file:
        file.seek(offset)
        text = file.readline().decode("utf-8", "surrogatepass")
    return _as_record(json.loads(text), text)


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
    kinds = (".jsonl", ".json", *SEPARATED)
    with open_zip(path) as archive:
        infos = archive.infolist()
        shared, named = overlapping(infos), Counter(info.filename for info in infos)
        tables = sorted((info for info in infos if PurePosixPath(info.filename).suffix.lower() in kinds), key=_name_of)
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
                yield from (record for _, record in _read_json(opened, where, None, strict=True))


def _name_of(info: zipfile.ZipInfo) -> str:
    return info.filename


def _open_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> IO[bytes]:
    return unpacked(archive.open(info), packed=info.compress_size, where=where)


def _lines_of(file: IO[AnyStr], where: str) -> Iterator[AnyStr]:
    """The lines of a file; DataError for one that is longer than any row."""
    for number in count(1):
        line = file.readline(MAX_RECORD + 1)
        if len(line) > MAX_RECORD:
            raise DataError(f"{where}, line {number}: over {MAX_RECORD:,} bytes long")
        if not line:
            return
        yield line


def _read_separated(file: IO[bytes], where: str, separator: str) -> Iterator[Record]:
    csv.field_size_limit(MAX_RECORD)  # images stand in cells
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    rows = csv.DictReader(_lines_of(text, where), delimiter=separator)
    try:
        for row in rows:
            yield {name.strip(): cell for name, cell in row.items() if name is not None}
    except csv.Error as error:
        raise DataError(f"{where}, line {rows.line_num}: {error}") from None


def _read_json(
    opened: Callable[[], IO[bytes]], where: str, incomplete: Incomplete | None, strict: bool
) -> Iterator[tuple[int, Record]]:
    """Objects with the byte where their line starts; -1 for those that don't stand on lines."""
    with opened() as file:
        by_line = _holds_an_object_a_line(file)
    with opened() as file:
        if by_line:
            yield from _read_json_lines(file, where, incomplete, strict)
        else:
            text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogatepass")
            yield from ((-1, record) for record in _read_json_texts(text, where))


def _holds_an_object_a_line(file: IO[bytes]) -> bool:
    """False for a list, and for a file whose first object goes on after its first line."""
    start = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"["):
        return False
    line, newline, _ = (start + (b"" if b"\n" in start else file.readline(MAX_RECORD))).partition(b"\n")
    try:
        json.loads(text := line.decode("utf-8", "surrogatepass"))
    except json.JSONDecodeError as error:
        return not newline or not _may_go_on(error, text)
    except (ValueError, RecursionError):  # no UTF-8, or a number of thousands of digits
        pass
    return True


def _may_go_on(error: json.JSONDecodeError, text: str) -> bool:
    """Whether the text may be JSON as far as it goes, and only ends too early."""
    longest_token = 16
    return error.msg.startswith("Unterminated string") or error.pos >= len(text.rstrip()) - longest_token


def _read_json_lines(
    file: IO[bytes], where: str, incomplete: Incomplete | None, strict: bool
) -> Iterator[tuple[int, Record]]:
    offset = 0
    for number, line in enumerate(_lines_of(file, where), start=1):
        start = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if start and not start.isspace():
            try:
                value = json.loads(text := start.decode("utf-8", "surrogatepass"))
            except (ValueError, RecursionError) as error:
                if strict or line.endswith(b"\n"):
                    raise DataError(f"{where}, line {number}: not JSON: {error}") from None
                if incomplete is not None:
                    incomplete()
                return
            try:
                record = _as_record(value, text)
            except TypeError as error:
                raise DataError(f"{where}, line {number}: {error}") from None
            yield offset + len(line) - len(start), record
        offset += len(line)


_BETWEEN: Final = re.compile(r"[\s,\[\]]*")


def _read_json_texts(text: IO[str], where: str) -> Iterator[Record]:
    """The objects of a list, or objects one after the other; only the one that is being read is in memory."""
    decoder = json.JSONDecoder()
    held, at, lines_before, depth, size, ended, newline = "", 0, 0, 0, CHUNK, False, "\n"

    def line_of(place: int) -> str:
        return f"line {lines_before + held.count(newline, 0, place) + 1}"

    while True:
        between = _BETWEEN.match(held, at)
        at = between.end() if between else at
        depth += between[0].count("[") - between[0].count("]") if between else 0
        if at < len(held):
            try:
                value, end = decoder.raw_decode(held, at)
                record = _as_record(value, held[at:end])
            except json.JSONDecodeError as error:
                if ended or not _may_go_on(error, held):
                    raise DataError(f"{where}, {line_of(error.pos)}: not JSON: {error.msg}") from None
            except (TypeError, ValueError, RecursionError) as error:
                raise DataError(f"{where}, {line_of(at)}: {error}") from None
            else:
                yield record
                at = end
                continue
        elif ended:
            if depth:
                raise DataError(f"{where}: the list ends without its bracket")
            return
        if len(held) - at > MAX_RECORD:
            raise DataError(f"{where}, {line_of(at)}: a record of over {MAX_RECORD:,} bytes")
        # Twice as much each time: an object of many chunks is parsed again from its start.
        size = CHUNK if at == len(held) else min(size * 2, 1 << 30)
        lines_before += held.count(newline, 0, at)
        more = text.read(size)
        held, at, ended = held[at:] + more, 0, not more


_HALF: Final = re.compile(r"[\ud800-\udfff]|\\u[dD][89a-fA-F]")


def _as_record(value: Any, source: str) -> Record:
    """A JSON value that must be an object, whose JSON text is `source`; TypeError."""
    if not isinstance(value, dict):
        raise TypeError(f"{type(value).__name__} where an object is due")
    if (source.isascii() and "\\u" not in source) or not _HALF.search(source):
        return value
    try:
        return cast(Record, _with_whole_characters(value))
    except RecursionError:
        raise TypeError("nested too deeply") from None


def _with_whole_characters(value: Any) -> Any:
    """JSON may hold half a character, which no UTF-8 file can: the replacement character stands for it."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_with_whole_characters(key): _with_whole_characters(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_whole_characters(inner) for inner in value]
    return value


def open_parquet(path: Path) -> Any:
    """A pyarrow ParquetFile that holds no more than it is asked for; DataError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    _check_file(path)
    try:
        check_no_pointer(path)
        # Without a buffer, and with pre_buffer, the column of a whole row group is read at once, with all its images.
        return pq.ParquetFile(path, pre_buffer=False, buffer_size=CHUNK)
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
