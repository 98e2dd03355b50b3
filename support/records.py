"""Records of data files: JSON lines, a JSON list or parquet; read as a stream, written whole or not at all.

    files = data_files(Path("VLFeedback"), lambda columns: "completions" in columns)
    for record in read(files[0], torn=print): ...

A last line that was cut off while it was written is left out and told; anything else that is no record is an error with
its place.
"""

import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

from support.errors import DataError

Record = dict[str, Any]

TEXT = (".jsonl", ".jsonl.gz", ".json")
PARQUET = ".parquet"

BATCH = 128
"""Parquet rows held at a time; they may have their images with them."""

_CHUNK = 1 << 20


def suffix(path: Path) -> str:
    """The kind of a data file by its name; "" for another one."""
    return next((known for known in (*TEXT, PARQUET) if path.name.lower().endswith(known)), "")


def data_files(data: Path, wanted: Callable[[Collection[str]], bool]) -> list[Path]:
    """The file itself, or the shards in a folder (or in its `data`) whose records have the `wanted` columns, in the
    order of their names.

    JSON lines win over parquet, which is the same data once more in a clone of MMInstruction/VLFeedback.
    """
    if data.is_file():
        if not suffix(data):
            raise DataError(f"{data}: not a data file; known: {', '.join((*TEXT, PARQUET))}, or a folder of them")
        return [data]
    if not data.is_dir():
        raise DataError(f"{data}: no such file or folder")
    for kinds in (TEXT, (PARQUET,)):
        for folder in (data, data / "data"):
            found = _looked_at(folder, kinds, wanted)
            files = [path for path, holds in found.items() if holds is True]
            series = {_series(path) for path in files}
            if len(series) > 1:
                raise DataError(
                    f"{folder}: which of {', '.join(path.name for path in files)}? Name one, they are not shards of one another"
                )
            for path, holds in found.items():
                if isinstance(holds, DataError) and _series(path) in series:
                    raise holds
            if files:
                return files
    raise DataError(f"{data}: no file in it holds such data ({', '.join((*TEXT, PARQUET))})")


def holds(data: Path, wanted: Callable[[Collection[str]], bool]) -> bool:
    """Whether the file, or a file of the folder, has such records."""
    if data.is_file():
        return bool(suffix(data)) and wanted(columns(data))
    return any(
        holding is True
        for folder in (data, data / "data")
        for holding in _looked_at(folder, (*TEXT, PARQUET), wanted).values()
    )


def _looked_at(
    folder: Path, kinds: Collection[str], wanted: Callable[[Collection[str]], bool]
) -> dict[Path, bool | DataError]:
    """The data files of a folder in the order of their names: whether they have such records, or why they can't be
    read."""
    found: dict[Path, bool | DataError] = {}
    for path in sorted(folder.glob("[!.]*")):
        if path.is_file() and suffix(path) in kinds:
            try:
                found[path] = wanted(columns(path))
            except DataError as error:
                found[path] = error
    return found


def _series(path: Path) -> str:
    return re.sub(r"\d+", "#", path.name)


def columns(path: Path) -> list[str]:
    """The columns of a file's first record; none where there is no record."""
    if suffix(path) == PARQUET:
        return list(_parquet(path).schema_arrow.names)
    return list(next(read(path), {}))


def read(path: Path, torn: Callable[[], None] | None = None) -> Iterator[Record]:
    """The records of one file; `torn` is called for a last line that was cut off."""
    if suffix(path) == PARQUET:
        yield from read_parquet(path)
        return
    try:
        with _opened(path) as file:
            start = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
        with _opened(path) as file:
            yield from _list(path, file) if start == b"[" else _lines(path, file, torn)
    except (EOFError, zlib.error, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: can't be read: {error}") from error


def _opened(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path, "rb")) if path.name.lower().endswith(".gz") else path.open("rb")


_HALF = re.compile(rb"\xed[\xa0-\xbf]")


def _halves(line: bytes) -> bool:
    """Whether it may hold half a character: escaped, or in bytes that are almost UTF-8."""
    return b"\\ud" in line or b"\\uD" in line or (b"\xed" in line and _HALF.search(line) is not None)


def _lines(path: Path, file: IO[bytes], torn: Callable[[], None] | None) -> Iterator[Record]:
    for number, line in enumerate(file, start=1):
        if line.isspace():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            if line.endswith(b"\n"):
                raise DataError(f"{path}, line {number}: not JSON: {error}") from None
            if torn is not None:
                torn()
            return
        yield _record(record, f"{path}, line {number}", halves=_halves(line))


def _list(path: Path, file: IO[bytes]) -> Iterator[Record]:
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogatepass")
    decoder = json.JSONDecoder()
    buffer, place, number = text.read(_CHUNK).lstrip()[1:], 0, 0
    while True:
        while True:
            place = _skip(buffer, place, first=number == 0)
            if place < len(buffer):
                break
            buffer, place = text.read(_CHUNK), 0
            if not buffer:
                raise DataError(f"{path}: the list ends after record {number} without its bracket")
        if buffer[place] == "]":
            return
        try:
            record, place = decoder.raw_decode(buffer, place)
        except RecursionError as error:
            raise DataError(f"{path}, record {number + 1}: not JSON: {error}") from None
        except ValueError as error:
            more = text.read(max(_CHUNK, len(buffer) - place))
            if not more:
                raise DataError(f"{path}, record {number + 1}: not JSON: {error}") from None
            buffer, place = buffer[place:] + more, 0
            continue
        number += 1
        yield _record(record, f"{path}, record {number}", halves=True)


_BETWEEN = re.compile(r"[\s,]*")


def _skip(buffer: str, place: int, first: bool) -> int:
    found = _BETWEEN.match(buffer, place)
    return found.end() if found else place


def _record(record: Any, where: str, halves: bool) -> Record:
    if not isinstance(record, dict):
        raise DataError(f"{where}: {type(record).__name__} where an object is due")
    try:
        return cast(Record, _whole_characters(record)) if halves else record
    except RecursionError:
        raise DataError(f"{where}: nested too deeply") from None


def _whole_characters(value: Any) -> Any:
    """JSON may hold half a character, which no UTF-8 file can: the replacement character stands for it."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_whole_characters(key): _whole_characters(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_whole_characters(inner) for inner in value]
    return value


def _parquet(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path, pre_buffer=False)  # which would hold every image of the file
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a parquet file: {error}") from error


def read_parquet(path: Path) -> Iterator[Record]:
    """The records of a parquet file of any name."""
    import pyarrow as pa

    file = _parquet(path)
    try:
        for batch in file.iter_batches(batch_size=BATCH):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: can't be read: {error}") from error


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write to; what is there becomes `path` when the block ends well, and is gone when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(records: Iterable[Record], path: Path) -> int:
    """Write a `.jsonl` file, or one list for `.json`; returns how many."""
    as_list = path.suffix.lower() == ".json"
    count = 0
    with whole(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write("[" if as_list else "")
        for record in records:
            between = ("\n" if count == 0 else ",\n") if as_list else ""
            file.write(between + json.dumps(record, ensure_ascii=False) + ("" if as_list else "\n"))
            count += 1
        file.write("\n]\n" if as_list else "")
    return count


def write_parquet(records: Iterable[Record], path: Path, schema: Any, group: int) -> int:
    """Write records in row groups of `group`, in place: for a path that `whole` gives; returns how many."""
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
