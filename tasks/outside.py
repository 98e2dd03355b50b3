"""Tasks that are not in this package: YAML files with their modules, in folders that the user names, and in packages.

    include(Path("mine"))                  # --include-path: every task in the folder has its name from now on
    module_file("mine_rule")               # mine/mine_rule.py

HARNESS_INCLUDE_PATH holds folders as PATH does; `include` adds to it, so that processes that this one starts have the
same tasks. A package names the one with its YAML files as an entry point of the group `harness.tasks`. Nothing is
imported before a function is wanted. A module's name begins at the folder, or is that in its package; a name that
another module has is a TaskError, since it would be one of the two by chance.
"""

import importlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from support.errors import SettingError, TaskError

VARIABLE: Final = "HARNESS_INCLUDE_PATH"
OPTION: Final = "--include-path"
GROUP: Final = "harness.tasks"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where some tasks are."""

    files: tuple[Path, ...]
    """Their YAML files."""
    root: Path
    """The folder at which the names of their modules begin."""
    package: str | None = None
    """The package that has all of their modules; None: any module below the folder is theirs."""


_FILES: Final[dict[Path, None]] = {}
"""YAML files that were named one by one."""


_INCLUDED: Final[dict[Path, None]] = {}
"""Folders that this process was told of, as they were written."""


def options() -> list[str]:
    """The options that another command needs to know the same tasks."""
    return [word for folder in _INCLUDED for word in (OPTION, str(folder))]


def include(folder: Path) -> None:
    """Know the tasks of a folder from now on; SettingError."""
    _INCLUDED[folder] = None
    folder = _check_folder(folder, f"{OPTION} {folder}")
    _find_places.cache_clear()  # it may have a new file
    known = [one for one in os.environ.get(VARIABLE, "").split(os.pathsep) if one]
    os.environ[VARIABLE] = os.pathsep.join(dict.fromkeys([*known, str(folder)]))


def add_file(path: Path) -> None:
    """Know the task of one YAML file from now on."""
    _FILES[path] = None


def places() -> tuple[Place, ...]:
    """All places there are; SettingError for a folder that is none, TaskError for one without a task."""
    return _find_places(os.environ.get(VARIABLE, ""), tuple(_FILES))


@cache
def _find_places(folders: str, files: tuple[Path, ...]) -> tuple[Place, ...]:
    named = [Path(one) for one in folders.split(os.pathsep) if one]
    roots = [_check_folder(one, f"{VARIABLE}={folders}") for one in dict.fromkeys(named)]
    found = [Place(files=_yaml_files(root, str(root)), root=root) for root in roots]
    found += [Place(files=(file,), root=file.parent) for file in files]
    for place in found:
        if str(place.root) not in sys.path:
            sys.path.append(str(place.root))
    return (*found, *_installed())


@cache
def _installed() -> tuple[Place, ...]:
    return tuple(_place_of(point) for point in entry_points(group=GROUP))


def _place_of(point: EntryPoint) -> Place:
    """Where an installed package has its tasks; nothing of it is imported."""
    top, *below = point.value.split(".")
    where = f"entry point {point.name} of {GROUP}: {point.value}"
    spec = find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        raise TaskError(f"{where}: no such package")
    package = Path(next(iter(spec.submodule_search_locations))).resolve()
    return Place(files=_yaml_files(package.joinpath(*below), where), root=package.parent, package=top)


def _check_folder(folder: Path, where: str) -> Path:
    found = folder.expanduser().resolve()
    if not found.is_dir():
        raise SettingError(f"{where}: {folder} is no folder; it names one with YAML files of tasks")
    return found


def _yaml_files(folder: Path, where: str) -> tuple[Path, ...]:
    hidden = [path for path in folder.rglob("*.yaml") if any(p.startswith(".") for p in path.relative_to(folder).parts)]
    found = tuple(sorted({*folder.rglob("*.yaml")} - {*hidden}))
    if not found:
        raise TaskError(f"{where}: no YAML file of a task in it")
    return found


def module_file(dotted: str) -> Path | None:
    """The file of a module from outside, which is not imported; None for any other module. TaskError where two have
    its name."""
    found = dict.fromkeys(file for place in places() for file in _files_of(place, dotted))
    if len(found) > 1:
        one, other = list(found)[:2]
        raise TaskError(f"{other}: the module name {dotted!r} is taken by {one}; rename one of them")
    file = next(iter(found), None)
    if file is not None:
        _check_free(dotted, file)
    return file


def module_of(dotted: str) -> ModuleType:
    """A module, imported: of this package, of an installed one, or from outside."""
    module_file(dotted)
    return importlib.import_module(dotted)


def named_modules(value: Any) -> Iterator[str]:
    """The modules from outside that the dotted names in a YAML's content say."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from named_modules(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from named_modules(inner)
    elif isinstance(value, str) and is_dotted(value) and module_file(module := value.rpartition(".")[0]) is not None:
        yield module


def is_dotted(text: str) -> bool:
    """Whether a text may be the name of something in a module."""
    return "." in text and all(part.isidentifier() for part in text.split("."))


def _files_of(place: Place, dotted: str) -> Iterator[Path]:
    parts = dotted.split(".")
    if place.package in (None, parts[0]):
        base = place.root.joinpath(*parts)
        yield from (file for file in (base / "__init__.py", base.parent / f"{base.name}.py") if file.is_file())


@cache
def _check_free(dotted: str, file: Path) -> None:
    """TaskError where Python would import another module of this name."""
    top = dotted.partition(".")[0]
    try:
        spec = find_spec(top)
    except ValueError:  # of a module that was made without one, such as __main__
        spec = None
    if not any(file.is_relative_to(where) for where in _locations(spec)):
        other = next(iter(_locations(spec)), "another module")
        raise TaskError(f"{file}: the module name {top!r} is taken by {other}; rename it")


def _locations(spec: ModuleSpec | None) -> list[Path]:
    if spec is None:
        return []
    folders = [Path(each).resolve() for each in spec.submodule_search_locations or ()]
    return folders or ([Path(spec.origin).resolve()] if spec.origin not in (None, "built-in", "frozen") else [])
