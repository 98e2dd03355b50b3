"""The digest of what decides a task's scores: what its YAML says, and the code that the YAML names.

    score_digest(registry().task("mme").path)      # "3fa1c0d2e4b59687"

Moving a file, formatting it, or changing a docstring or a comment does not change the digest; changing a prompt, a
metric, a parser, or a table or prompt file that they read does. Code is followed from the functions that the YAML
names through everything they use within `FOLLOWED`. How a benchmark's files are read is left out (entries tell data
and revision apart by themselves), and so is what papers reported. Of modules from outside (`tasks.outside`), the whole
code takes part, with that of those modules they import, and files beside them that they name.
"""

import ast
import hashlib
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from tasks.outside import is_dotted, module_file

FOLDER: Final = Path(__file__).resolve().parent
FOLLOWED: Final = ("tasks.benchmarks", "tasks.scenes", "tasks.metric", "tasks.early_exit")
"""Packages and modules whose code takes part."""

LEFT_OUT: Final = frozenset(
    """
    dataset_kwargs rows_from rows_from_folder own_files without_picture answers answer_parts data moved_to revision
    local rows columns key description licence citation published official_judge guards shortest reads reads_reply
    categories together table rescores
    """.split()
)
"""Keys of a task's YAML that decide no score."""


@cache
def score_digest(path: Path) -> str:
    """16 hex digits for a task's YAML file."""
    content = yaml.load(path.read_text(encoding="utf-8"), _TextLoader)
    names = sorted(set(_find_dotted_names(content)))
    parts = [json.dumps(_drop_unscored(content), sort_keys=True, default=str)]
    seen: set[tuple[str, str]] = set()
    for name in names:
        module, _, symbol = name.rpartition(".")
        file = module_file(module)
        parts.extend(_collect_code(module, symbol, seen) if file is None else _collect_module(module, file, seen))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


class _FunctionName(str):
    """A dotted name behind `!function`."""


class _TextLoader(yaml.SafeLoader):
    """Reads `!function tasks.x.y` as the text "tasks.x.y"."""


_TextLoader.add_constructor("!function", lambda _, node: _FunctionName(node.value))


def _drop_unscored(value: Any) -> Any:
    """The YAML without keys that decide no score, and without the modules of the functions it names."""
    if isinstance(value, dict):
        return {key: _drop_unscored(inner) for key, inner in value.items() if key not in LEFT_OUT}
    if isinstance(value, list):
        return [_drop_unscored(inner) for inner in value]
    is_name = isinstance(value, _FunctionName) or _is_followed_name(value)
    return value.rpartition(".")[2] if is_name else value


def _find_dotted_names(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in LEFT_OUT:
                yield from _find_dotted_names(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _find_dotted_names(inner)
    elif _is_followed_name(value):
        yield value


def _is_followed_name(value: object) -> bool:
    if not isinstance(value, str) or not is_dotted(value):
        return False
    return value.startswith(tuple(f"{each}." for each in FOLLOWED)) or module_file(value.rpartition(".")[0]) is not None


def _collect(module: str, symbol: str, seen: set[tuple[str, str]]) -> Iterator[str]:
    """The code of a symbol in a module of ours; of a module from outside, or one that is the symbol, all of it."""
    whole = [module, f"{module}.{symbol}"] if symbol else [module]
    for name in whole:
        if (file := module_file(name)) is not None:
            yield from _collect_module(name, file, seen)
    yield from _collect_code(module, symbol, seen)
    if whole[-1].startswith(FOLLOWED) and _module_path(whole[-1]).exists():
        for each in _read_module(whole[-1]).defined:
            yield from _collect_code(whole[-1], each, seen)


_FILE_NAME: Final = re.compile(r"[\w\- ./]{1,200}")
"""What a text must be to name a file beside a module."""


def _collect_module(module: str, file: Path, seen: set[tuple[str, str]]) -> Iterator[str]:
    """The code of a module from outside, of all that it imports from there or from us, and the files that it names."""
    if (module, "") in seen:
        return
    seen.add((module, ""))
    tree = ast.parse(file.read_text(encoding="utf-8"))
    yield f"{file.name} = {_dump(tree)}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _collect(alias.name, "", seen)
        elif isinstance(node, ast.ImportFrom):
            origin = _absolute(module, file, node)
            for alias in node.names:
                yield from _collect(origin, alias.name, seen)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _FILE_NAME.fullmatch(node.value):
            beside = file.parent / node.value
            if ".." not in beside.parts and beside.is_relative_to(file.parent) and beside.is_file():
                yield f"{node.value} {hashlib.sha256(beside.read_bytes()).hexdigest()}"


def _absolute(module: str, file: Path, node: ast.ImportFrom) -> str:
    """The module that a statement imports from, in full."""
    if not node.level:
        return node.module or ""
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    return ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])


def _collect_code(module: str, symbol: str, seen: set[tuple[str, str]]) -> Iterator[str]:
    """The code of a symbol, the data files it names, and the same of everything it uses."""
    if (module, symbol) in seen or not module.startswith(FOLLOWED) or not _module_path(module).exists():
        return
    seen.add((module, symbol))
    code = _read_module(module)
    statement = code.defined.get(symbol)
    if statement is None:
        if symbol in code.imported:
            yield from _collect_code(*code.imported[symbol], seen)
        return
    yield f"{symbol} = {_dump(statement)}"
    for node in ast.walk(statement):
        if isinstance(node, ast.Name):
            yield from _collect_code(*code.imported.get(node.id, (module, node.id)), seen)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in code.imported:
            yield from _collect_code(".".join(code.imported[node.value.id]), node.attr, seen)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            for file in _find_data_files().get(node.value, ()):
                yield f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}"


@cache
def _find_data_files() -> dict[str, list[Path]]:
    """Table and prompt files by their name, and by what stands before its first dot: "mmhal.txt", "mmhal"."""
    found: dict[str, list[Path]] = {}
    for folder in (FOLDER / "benchmarks" / "data", FOLDER / "prompts"):
        for file in sorted(folder.iterdir()):
            for name in {file.name, file.name.partition(".")[0]}:
                found.setdefault(name, []).append(file)
    return found


def _module_path(module: str) -> Path:
    return FOLDER.parent / f"{module.replace('.', '/')}.py"


class _ModuleCode:
    """A module's top-level definitions, and where its imported names come from."""

    def __init__(self, path: Path) -> None:
        self.defined: dict[str, ast.stmt] = {}
        self.imported: dict[str, tuple[str, str]] = {}
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                self.imported |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
        for statement in tree.body:
            for name in _defined_names(statement):
                self.defined[name] = statement


def _defined_names(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        yield from (node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name))


@cache
def _read_module(module: str) -> _ModuleCode:
    return _ModuleCode(_module_path(module))


_NO_CODE: Final = frozenset(("annotation", "returns", "type_comment", "kind", "type_params", "ctx"))
"""Fields of syntax nodes that change no result, or that only some versions of Python have."""


def _dump(node: Any) -> str:
    """Syntax as text, the same in every version of Python: without positions, annotations and docstrings."""
    if isinstance(node, ast.AST):
        fields = {name: value for name, value in ast.iter_fields(node) if name not in _NO_CODE}
        if isinstance(fields.get("body"), list):
            fields["body"] = [each for each in fields["body"] if not _is_docstring(each)]
        shown = ", ".join(f"{name}={_dump(value)}" for name, value in fields.items() if value not in (None, []))
        return f"{type(node).__name__}({shown})"
    return f"[{', '.join(map(_dump, node))}]" if isinstance(node, list) else repr(node)


def _is_docstring(node: object) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
