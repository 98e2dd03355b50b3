"""The objects in JSON text: one a line, a list of them, or one after the other, as a stream.

    for place, record in read_objects(partial(path.open, "rb"), str(path), None, strict=True): ...

Only one object is in memory at a time. Anything else is a `DataError`, which names the file and the line.
"""

import io
import json
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Iterator
from itertools import count
from typing import IO, Any, AnyStr, Final, cast

from support.errors import DataError

Record = dict[str, Any]
Incomplete = Callable[[], None]
"""Called for a last record that was cut off while it was written."""

CHUNK: Final = 1 << 20
"""Characters of a JSON list read at a time."""
LISTS: Final = frozenset({"data", "rows", "records", "items", "examples", "samples", "instances", "questions"})
"""What a file that is one object calls the list of its records."""
MAX_RECORD: Final = 400 << 20
"""Bytes of one row; the largest picture that is read has 342 MiB as base64."""


def lines_of(file: IO[AnyStr], where: str) -> Iterator[AnyStr]:
    """The lines of a file; DataError for one that is longer than any row."""
    for number in count(1):
        line = file.readline(MAX_RECORD + 1)
        if len(line) > MAX_RECORD:
            raise DataError(f"{where}, line {number}: over {MAX_RECORD:,} bytes long")
        if not line:
            return
        yield line


def read_objects(
    opened: Callable[[], IO[bytes]], where: str, incomplete: Incomplete | None, strict: bool
) -> Iterator[tuple[int, Record]]:
    """Objects with the byte where their line starts; -1 for those that don't stand on lines. A `.json` file may be one
    object that holds the others in a list, under one of the names of LISTS."""
    found = _read_any(opened, where, incomplete, strict)
    return _take_list(found) if where.lower().endswith(".json") else found


def _take_list(found: Iterator[tuple[int, Record]]) -> Iterator[tuple[int, Record]]:
    first = next(found, None)
    if first is None:
        return
    if (listed := _list_in(first[1])) and (second := next(found, None)) is None:
        yield from ((-1, record) for record in listed)
        return
    yield first
    if listed and second is not None:
        yield second
    yield from found


def _list_in(record: Record) -> list[Record]:
    """The records that an object holds in the first of LISTS; none where it holds other lists, too."""
    lists = {name: value for name, value in record.items() if isinstance(value, list)}
    ((name, listed),) = lists.items() if len(lists) == 1 else (("", []),)
    return listed if name.lower() in LISTS and all(isinstance(one, dict) for one in listed) else []


def _read_any(
    opened: Callable[[], IO[bytes]], where: str, incomplete: Incomplete | None, strict: bool
) -> Iterator[tuple[int, Record]]:
    with opened() as file:
        by_line = _holds_an_object_a_line(file, where)
    with opened() as file:
        if by_line:
            yield from _read_json_lines(file, where, incomplete, strict)
        else:
            text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogatepass")
            yield from ((-1, record) for record in _read_json_texts(text, where))


def _holds_an_object_a_line(file: IO[bytes], where: str) -> bool:
    """False for a list, and for a file whose first object goes on after its first line."""
    start = file.read(64)
    if start.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        raise DataError(f"{where}: is UTF-16; save it as UTF-8")
    start = start.lstrip(b"\xef\xbb\xbf \t\r\n")
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
    for number, line in enumerate(lines_of(file, where), start=1):
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
                record = as_record(value, text)
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
                record = as_record(value, held[at:end])
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


def as_record(value: Any, source: str) -> Record:
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
