"""Which files of a folder are one dataset: its shards, of one split, in one version.

    data_files(Path("VLFeedback"), lambda columns: "completions" in columns)
    data_files(Path("rlaif/data/train-*.parquet"), wanted)          # a pattern: the files that the user names

A folder's files may be other things as well: splits (`test-00000-of-00001.parquet`), earlier versions, backups, the
same rows once more as parquet. Only shards are read together; what is left alone is said, and what can't be told is
refused.
"""

import json
import logging
import re
from collections.abc import Callable, Collection, Sequence
from glob import glob, has_magic
from itertools import islice
from pathlib import Path
from typing import Final

from support.errors import DataError
from support.records import ARROW, PARQUET, TEXT, columns, read, suffix

log = logging.getLogger(__name__)

Wanted = Callable[[Collection[str]], bool]
"""Whether records with these columns are meant."""

KINDS: Final = ((*TEXT,), (PARQUET,), (ARROW,))
"""Kinds of data files; the first that a folder has is read."""
_FOLDERS: Final = (".", "data", "train", "data/train")
"""Where a folder's data may lie, below it."""
_SPLIT: Final = re.compile(r"(?:^|[-_.])(train|test|validation|valid|val|dev|eval)(?=[-_.]|$)")
_NUMBERED: Final = re.compile(r"(?<![A-Za-z])v\d+|(?<!\d)20\d\d[-_]?[01]\d[-_]?[0-3]\d(?!\d)|\(\d+\)|-of-\d+|(\d+)")
"""Numbers in a file's name; only a shard's own is a group: not a version, a date, a copy's or the count of shards."""
_COMPARED: Final = 32
"""Records at the start of two files that are held against each other."""
_NUMBERING: Final = frozenset({"id", "idx", "row", "row_id"})


def is_there(data: Path) -> bool:
    """Whether there is a file, a folder, or a file that fits a pattern."""
    return data.exists() or bool(_find_matches(data))


def _find_matches(data: Path) -> list[Path]:
    """The data files that a pattern names."""
    found = map(Path, glob(str(data))) if has_magic(str(data)) else ()
    return sorted(path for path in found if path.is_file() and suffix(path, _list_endings()))


def _list_endings() -> tuple[str, ...]:
    return tuple(ending for kinds in KINDS for ending in kinds)


def data_files(data: Path, wanted: Wanted) -> list[Path]:
    """The file itself, the files that fit a pattern, or the shards in a folder (or in its `data` or `train`) whose
    records have the `wanted` columns, in the order of their names.

    JSON lines win over parquet, which is the same data once more in a clone of MMInstruction/VLFeedback; the split
    `train` wins over others.
    """
    endings = ", ".join(_list_endings())
    if data.is_file():
        if not suffix(data, _list_endings()):
            raise DataError(f"{data}: not a data file; known: {endings}, or a folder of them")
        return [data]
    if not data.is_dir():
        if named := _find_matches(data):
            _check_versions(named, data)
            return named
        raise DataError(f"{data}: no such file or folder")
    for kinds in KINDS:
        for folder in map(data.joinpath, _FOLDERS):
            found = _check_columns(folder, kinds, wanted)
            files = _take_train(folder, [path for path, holds in found.items() if holds is True])
            series = {_find_series(path) for path in files}
            if len(series) > 1:
                raise DataError(
                    f"{folder}: which of {_list_names(files)}? Name one, they are not shards of one another"
                )
            for path, holds in found.items():
                if isinstance(holds, DataError) and _find_series(path) in series:
                    raise holds
            if files:
                _check_versions(files, folder)
                _check_other_kinds(folder, files, wanted)
                return files
    raise DataError(f"{data}: no file in it holds such data ({endings}){_say_what_is_there(data, wanted)}")


def _say_what_is_there(data: Path, wanted: Wanted) -> str:
    """Where in a folder such data lie, or what else its first data file holds."""
    told = ""
    for path in islice((one for one in sorted(data.rglob("*")) if suffix(one, _list_endings())), _COMPARED):
        try:
            found = columns(path)
        except DataError:
            continue
        if wanted(found):
            return f"; name the folder {path.parent}"
        told = told or f"; {path.relative_to(data)} has the columns {', '.join(found) or '(none)'}"
    return told


def holds(data: Path, wanted: Wanted) -> bool:
    """Whether the file, a file that fits the pattern, or a file of the folder has such records."""
    if data.is_file():
        return bool(suffix(data, _list_endings())) and wanted(columns(data))
    if not data.is_dir():
        return any(wanted(columns(path)) for path in _find_matches(data)[:1])
    return any(
        holding is True
        for folder in map(data.joinpath, _FOLDERS)
        for holding in _check_columns(folder, _list_endings(), wanted).values()
    )


def _check_columns(folder: Path, kinds: Collection[str], wanted: Wanted) -> dict[Path, bool | DataError]:
    """The data files of a folder, sorted: whether each has such records, or why it can't be read."""
    found: dict[Path, bool | DataError] = {}
    for path in sorted(folder.glob("[!.]*")):
        if path.is_file() and suffix(path, _list_endings()) in kinds:
            try:
                found[path] = wanted(columns(path))
            except DataError as error:
                found[path] = error
    return found


def _take_train(folder: Path, files: Sequence[Path]) -> list[Path]:
    """Of files of several splits those of `train`."""
    splits = {path: found[1] for path in files if (found := _SPLIT.search(path.name.lower()))}
    train = [path for path in files if splits.get(path) == "train"]
    others = [path for path in files if path in splits and path not in train]
    if not train or not others:
        return list(files)
    log.info("%s: the split train is read; left alone: %s", folder, _list_names(others))
    return [path for path in files if path not in others]


def _check_versions(files: Sequence[Path], where: Path) -> None:
    """DataError for files that hold the same rows; a line where shards are missing."""
    starts: dict[int, Path] = {}
    for path in files if len(files) > 1 else ():
        own = {_identify(record) for record in islice(read(path), _COMPARED)}
        shared = [starts[key] for key in own if key in starts]
        if shared and 2 * len(shared) >= len(own):
            twice = _list_names([shared[0], path])
            raise DataError(f"{where}: which of {twice}? Name one, they hold the same rows: two versions, not shards")
        starts |= dict.fromkeys(own, path)
    told = [int(found[1]) for path in files if (found := re.search(r"-of-(\d+)", path.name))]
    if told and len(told) == len(files) < told[0]:
        log.warning("%s: %d of %d shards are here", where, len(files), told[0])


def _identify(record: dict[str, object]) -> int:
    """What a record says, however it is numbered."""
    return hash(json.dumps({key: record[key] for key in record if key not in _NUMBERING}, default=repr))


def _check_other_kinds(folder: Path, files: Sequence[Path], wanted: Wanted) -> None:
    """DataError for other rows beside them in files of another kind; a line for the same ones once more."""
    ours = {_cut_ending(path) for path in files}
    kinds = [ending for kind in KINDS for ending in kind if suffix(files[0], _list_endings()) not in kind]
    others = [path for path, holding in _check_columns(folder, kinds, wanted).items() if holding is True]
    others = [
        path
        for path in others
        if _find_series(path.with_name(_cut_ending(path))) in {_find_series(Path(one)) for one in ours}
    ]
    if strange := [path for path in others if _cut_ending(path) not in ours]:
        raise DataError(f"{folder}: which of {_list_names([*files, *strange])}? Name one, they are not of one kind")
    if others:
        log.info("%s: %s is read; left alone: %s", folder, _list_names(files), _list_names(others))


def _cut_ending(path: Path) -> str:
    return path.name[: -len(suffix(path, _list_endings()))]


def _find_series(path: Path) -> str:
    """What the names of shards of one dataset have in common."""
    return _NUMBERED.sub(lambda found: "#" if found[1] else found[0], path.name)


def _list_names(files: Sequence[Path]) -> str:
    return ", ".join(path.name for path in files[:8]) + (", ..." if len(files) > 8 else "")
