"""Which files of a folder are a task's table: those of its configuration and split, as the hub would choose them.

    choose_tables(Path("MMBench"), config="en", splits=["dev"], wanted=...)     # [[en/dev-00000-of-00001.parquet]]

A clone of a hub dataset has all its configurations and splits beside one another. Its README.md says in a YAML header
(`configs`) which files are which; without one, the names of folders and files do (`en/dev-*`, `data/image-*`). What is
left alone is said. Nothing outside the folder is read, whatever a README says.
"""

import logging
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, Final, TypeVar

from support.errors import DataError
from support.files import read_regular
from support.parsing import parse_yaml
from support.records import ARROW, PARQUET, TEXT, columns, suffix

log = logging.getLogger(__name__)

_T = TypeVar("_T")

TABLES: Final = (PARQUET, ARROW, *TEXT, ".tsv", ".csv")
"""Kinds of tables; the first of which a folder has files that hold the task's columns is read."""
ARCHIVE: Final = ".zip"
"""A table may be packed together with its pictures."""
UNREAD: Final = (".tar", ".gz", ".tgz", ".xz", ".bz2", ".zst", ".7z", ".rar")
"""Archives that are not looked into, webdataset's among them."""
_CACHED: Final = "cache-"
"""What `datasets` keeps beside a saved table: results of its own."""
_LANGUAGE: Final = 2
"""Letters of a language's code."""
MAX_README: Final = 16 << 20
MAX_PATTERNS: Final = 256
"""Patterns that one with braces may stand for."""
_BRACES: Final = re.compile(r"\{([^{}]*)\}")

Wanted = Callable[[Collection[str]], bool]
"""Whether a table with these columns is meant."""

_NAMES_OF_SPLITS: Final = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
"""What names of files and folders call the usual splits (the hub's own list), and which split that is."""
_SHARD: Final = re.compile(r"(?P<split>\w+(?:\.\w+)*)-\d{5}-of-\d{5}\b.*")
_NUMBERED: Final = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\b.*")
_SAVED: Final = "data"
"""What save_to_disk calls the shards of any split."""
_PARTIAL: Final = "partial-"
"""Before a split, where the hub has converted the first part of a large one only."""
_DEFAULT: Final = frozenset({"data", "default"})
"""Folders of a dataset's configuration without a name."""


def kind_of(file: Path) -> str:
    """The ending that tells what kind of file it is."""
    return suffix(file, (*TABLES, ARCHIVE)) or file.suffix.lower()


def tables_below(folder: Path) -> list[Path]:
    """All tables of a folder."""
    return [
        path for path in files_below(folder, TABLES) if not (path.suffix == ARROW and path.name.startswith(_CACHED))
    ]


def unread_below(folder: Path) -> list[Path]:
    """The archives of a folder that nothing here reads, and zips."""
    return files_below(folder, (*UNREAD, ARCHIVE))


def files_below(folder: Path, kinds: Collection[str]) -> list[Path]:
    """The files of these kinds in a folder, at any depth; not those of hidden folders, such as `.git`."""
    found = (path for path in folder.rglob("*") if kind_of(path) in kinds and path.is_file())
    return sorted(path for path in found if not any(part.startswith(".") for part in _parts(folder, path)))


def find_dataset(folder: Path, ids: Sequence[str], wanted: Wanted | None) -> Path | None:
    """The folder of one dataset in a folder of several: the clone of the first of these hub ids that has one, right
    below, below its owner's folder, or in the hub's cache; else, of those that hold `wanted` tables, the one of whose
    name all words are words of the ids. None where none is, or several are."""
    below = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    for id in ids:
        owner, _, name = id.rpartition("/")
        called = {_squash(name), _squash(f"datasets--{owner}--{name}")}
        clones = [path for path in below if _squash(path.name) in called]
        clones += [inner for path in below if path.name == owner and (inner := path / name).is_dir()]
        if clones := [path for path in clones if tables_below(path)]:
            return clones[0] if len(clones) == 1 else None
    if wanted is None:
        return None
    words = {word for id in ids for word in _words(id)}
    holding = [path for path in below if any(_may_hold(table, wanted) for table in tables_below(path))]
    alike = [path for path in holding if words.issuperset(_words(path.name))]
    return alike[0] if len(alike) == 1 and len(holding) > 1 else None


def _squash(name: str) -> str:
    """A name as `MM-Vet` and `mmvet` share it."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def choose_tables(
    folder: Path,
    *,
    config: str | None,
    splits: Sequence[str],
    wanted: Wanted,
    kinds: Sequence[str] = TABLES,
    below: Sequence[Path] | None = None,
) -> list[list[Path]]:
    """The files of the task's table in a folder, those of one split in one list; an empty list where it has no table.

    Only files of these `kinds` are looked into: COCO's annotations are .json, too, and each is one large object. Where
    there is no table, zips that hold one are taken. `below` are all tables in the folder, where they are known.

    Of files that don't have the `wanted` columns all are returned: whoever reads them says what is missing. DataError
    where the folder has only several other splits than those of the task.
    """
    found = (
        below or tables_below(folder) or [path for path in files_below(folder, [ARCHIVE]) if _may_hold(path, wanted)]
    )
    own, listed = _listed_by_readme(folder, config, splits)
    chosen = [path for path in found if path in listed]
    if not chosen:
        own_files = [path for path in found if path in own] or _of_config(folder, found, config)
        chosen = _of_split(folder, own_files, splits)
    chosen = _of_kind(chosen, wanted, (*kinds, ARCHIVE))
    _tell_missing_shards(chosen)
    by_split: dict[str | None, list[Path]] = {}
    for path in chosen:
        by_split.setdefault(split_of(_parts(folder, path), splits), []).append(path)
    return list(by_split.values())


def _tell_missing_shards(chosen: Sequence[Path]) -> None:
    """A log line where files are `NAME-00000-of-00002` and not all of these are there."""
    there: dict[tuple[Path, str, int], set[int]] = {}
    for path in chosen:
        if found := _NUMBERED.fullmatch(path.name):
            of = (path.parent, found["name"], int(found["count"]))
            there.setdefault(of, set()).add(int(found["number"]))
    for (folder, name, count), numbers in there.items():
        if len(numbers) < count:
            log.warning("%s: %d of %d shards of %s are there", folder, len(numbers), count, name)


def tell_choice(folder: Path, chosen: Sequence[Path], below: Sequence[Path]) -> None:
    """A log line about which of a folder's tables are read, where others are left alone."""
    if left := [path for path in below if path not in chosen]:
        log.info("%s: read: %s; left alone: %s", folder, _list_names(folder, chosen), _list_names(folder, left))


# By README.md.


def _listed_by_readme(folder: Path, config: str | None, splits: Sequence[str]) -> tuple[set[Path], set[Path]]:
    """The files that the header of README.md gives for a configuration, and for its splits; none where it does not say
    so."""
    entry = _choose_entry(_read_configs(folder / "README.md"), config)
    files, base = entry.get("data_files"), str(entry.get("data_dir") or "")
    if isinstance(files, dict):
        files = [{"split": split, "path": path} for split, path in files.items()]
    listed = files if isinstance(files, list) else [files or "**/*"] if files or base else []
    parts = [one for one in listed if isinstance(one, dict)]
    own = _matching({place: str(part.get("split")) for place, part in enumerate(parts)}, splits)
    of_splits = [parts[place].get("path") for place in own]
    plain = [one for one in listed if isinstance(one, str)]
    return _glob_all(folder, base, plain), _glob_all(folder, base, of_splits)


def _glob_all(folder: Path, base: str, named: Sequence[object]) -> set[Path]:
    patterns = [pattern for one in named for pattern in (one if isinstance(one, list) else [one])]
    return {file for pattern in patterns for file in _glob_inside(folder, base, pattern)}


def _read_configs(readme: Path) -> list[dict[str, Any]]:
    """The configurations in a README's header; none where there is no header that can be read."""
    import yaml

    try:
        text = read_regular(readme, MAX_README).decode("utf-8-sig", "replace")
        header = re.match(r"\s*---\s*\n(.*?)\n---\s*(?:\n|$)", text, re.DOTALL)
        found = parse_yaml(header[1].encode(), yaml.SafeLoader) if header else None
    except (OSError, OverflowError, ValueError):
        return []
    listed = found.get("configs") if isinstance(found, dict) else None
    return [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []


def _choose_entry(configs: Sequence[dict[str, Any]], config: str | None) -> dict[str, Any]:
    """The configuration of this name; for none, the default one, or the only one."""
    if config is not None:
        found = [one for one in configs if one.get("config_name", "default") == config]
    else:
        found = [one for one in configs if one.get("default") is True]
        found = found or [one for one in configs if one.get("config_name", "default") == "default"] or list(configs)
    return found[0] if len(found) == 1 else {}


def _glob_inside(folder: Path, base: str, pattern: object) -> Iterable[Path]:
    """The files that a pattern names below the folder; none for one that leads anywhere else."""
    if not isinstance(pattern, str) or "://" in pattern + base:
        return
    for one in islice(_expand_braces(pattern), MAX_PATTERNS):
        path = PurePosixPath(base) / one
        if path.is_absolute() or ".." in path.parts:
            continue
        with suppress(ValueError, NotImplementedError, OSError, RecursionError):
            yield from (file for file in folder.glob(str(path)) if file.is_file())


def _expand_braces(pattern: str) -> Iterator[str]:
    """`a-{b,c}` as `a-b` and `a-c`: a pattern for each of the words between braces."""
    found = _BRACES.search(pattern)
    if found is None:
        yield pattern
        return
    for word in found[1].split(","):
        yield from _expand_braces(pattern[: found.start()] + word + pattern[found.end() :])


# By names.


def _of_config(folder: Path, files: Sequence[Path], config: str | None) -> list[Path]:
    """Those in the folder of a configuration, or with its name in theirs; for none, those of `data` or `default` before
    those of other folders. All, where no name says so."""
    if config is None:
        own = [path for path in files if _DEFAULT & {part.lower() for part in _parts(folder, path)[:-1]}]
    else:
        name = config.lower()
        own = [path for path in files if name in (part.lower() for part in _parts(folder, path)[:-1])]
        own = own or [path for path in files if any(name in _words(part) for part in _parts(folder, path))]
    return own or list(files)


def other_language(path: Path, files: Sequence[Path], config: str | None) -> str:
    """The language that the names of files, below `path`, say where it is not a configuration's; "" else. A benchmark's
    translations have as many rows as it: a log line tells of it."""
    for file in files if config is not None and len(config) == _LANGUAGE else ():
        parts = _parts(path, file) if path.is_dir() else (path.name,)
        words = [word for part in (*parts[:-1], parts[-1].partition(".")[0]) for word in _words(part)]
        others = [word for word in words if len(word) == _LANGUAGE and word.isalpha()]
        if others and config and config.lower() not in words:
            log.warning("%s: is %s by its name, the benchmark is %s; it is read", file, others[0], config)
            return others[0]
    return ""


def _of_split(folder: Path, files: Sequence[Path], splits: Sequence[str]) -> list[Path]:
    """Those whose names say that they are of these splits; all, where no name says a split that the task may have."""
    told = {path: split_of(_parts(folder, path), splits) for path in files}
    if own := _matching({path: split for path, split in told.items() if split is not None}, splits):
        return own
    others = _usual_splits(told.values())
    if len(others) > 1:
        raise DataError(f"{_told_and_due(folder, others, splits)}; name the file itself to read it")
    return list(files)


def other_split(folder: Path, files: Sequence[Path], splits: Sequence[str]) -> str:
    """The one split that the names of all files in a folder say where it is none of these; "" else. A log line tells of
    it."""
    told = {path: split_of(_parts(folder, path), splits) for path in files}
    others = _usual_splits(told.values())
    if not others or _matching({path: split for path, split in told.items() if split is not None}, splits):
        return ""
    log.warning("%s by the names of its files; it is read", _told_and_due(folder, others, splits))
    return ", ".join(others)


def _usual_splits(told: Collection[str | None]) -> list[str]:
    """The splits that all of several names say; none where one of them says no usual split."""
    others = sorted({split for split in told if split in _NAMES_OF_SPLITS})
    return others if all(split in others for split in told) else []


def _told_and_due(folder: Path, others: Sequence[str], splits: Sequence[str]) -> str:
    return f"{folder}: has the split {', '.join(others)}, the benchmark is {' and '.join(splits)}"


def split_of(parts: Sequence[str], splits: Sequence[str]) -> str | None:
    """The split that a path says: as `SPLIT-00000-of-00001`, by a folder, or in the file's name; None for none."""
    file = parts[-1].lower()
    if (shard := _SHARD.fullmatch(file)) and shard["split"] != _SAVED:
        return shard["split"]
    stem, own = file.partition(".")[0], {split.lower() for split in splits}
    names = [part.lower().removeprefix(_PARTIAL) for part in reversed(parts[:-1])]
    found = [name for name in (stem, *names) if name in own or name in _NAMES_OF_SPLITS]
    return next(iter([*found, *(word for word in _words(stem) if word in _NAMES_OF_SPLITS)]), None)


def _matching(named: Mapping[_T, str], splits: Sequence[str]) -> list[_T]:
    """What is of one of these splits; where none is, what calls one otherwise, as dev and validation do."""
    wanted = {split.lower() for split in splits}
    found = [one for one, name in named.items() if name.lower() in wanted]
    usual = {_NAMES_OF_SPLITS.get(name, name) for name in wanted}
    return found or [one for one, name in named.items() if _NAMES_OF_SPLITS.get(name.lower()) in usual]


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[-_. /]", name.lower()) if word]


def _of_kind(files: Sequence[Path], wanted: Wanted, kinds: Sequence[str]) -> list[Path]:
    """Of the first kind of which files hold the wanted columns, these; all files where none do."""
    for kind in kinds:
        if found := [path for path in files if kind_of(path) == kind and _may_hold(path, wanted)]:
            return found
    return list(files)


def _may_hold(path: Path, wanted: Wanted) -> bool:
    """Whether a file has the columns, or can't be read: whoever reads it says why."""
    try:
        return wanted(columns(path))
    except DataError:
        return kind_of(path) not in (".json", ARCHIVE)  # as many a .json or zip beside a table is none


def _parts(folder: Path, path: Path) -> tuple[str, ...]:
    return path.relative_to(folder).parts


def _list_names(folder: Path, files: Sequence[Path]) -> str:
    names = ", ".join(path.relative_to(folder).as_posix() for path in files[:6])
    return (names or "none") + (f", ... ({len(files)} files)" if len(files) > 6 else "")
