"""Each package imports only the floors below it, and no file or folder imports in a circle."""

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT: dict[str, set[str]] = {
    "harness": {"support", "tasks", "trainers", "leaderboards"},
    "trainers": {"support", "tasks"},
    "leaderboards": {"support"},
    "tasks": {"support"},
    "support": set(),
}
FILES = [path for package in MAY_IMPORT for path in sorted((ROOT / package).rglob("*.py"))]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


def imported(path: Path) -> Iterator[str]:
    """Every module a file imports, inside functions and for type checking too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else (node.module or "")


def circles(arrows: Mapping[str, set[str]]) -> list[str]:
    """What is left once everything that imports nothing left has been taken away, again and again."""
    left = {name: targets - {name} for name, targets in arrows.items()}
    while free := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in free:
            del left[name]
    # Whoever only imports into a circle is not part of it.
    while free := [name for name in left if not any(name in targets for targets in left.values())]:
        for name in free:
            del left[name]
    return sorted(left)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_imports_only_lower_floors(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    house = {name.split(".")[0] for name in imported(path)} & MAY_IMPORT.keys()
    assert house <= MAY_IMPORT[package] | {package}


def test_no_files_import_each_other() -> None:
    arrows = {
        name: {target for target in imported(path) if target in MODULES and target in imported_at_run_time(path)}
        for name, path in MODULES.items()
    }
    assert circles(arrows) == []


@cache
def imported_at_run_time(path: Path) -> frozenset[str]:
    """Every module, or name of one, that a file imports elsewhere than under TYPE_CHECKING."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    inside = {id(found) for node in guarded for found in ast.walk(node)}
    names: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in inside:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return frozenset(names)


def test_no_folders_import_each_other() -> None:
    arrows: defaultdict[str, set[str]] = defaultdict(set)
    for name, path in MODULES.items():
        for target in imported(path):
            if target in MODULES:
                arrows[folder_of(name)].add(folder_of(target))
    assert circles(arrows) == []


def folder_of(module: str) -> str:
    path = MODULES[module]
    return path.parent.relative_to(ROOT).as_posix()


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.relative_to(ROOT).parts[0] == "leaderboards"], ids=lambda path: path.name
)
def test_the_leaderboard_needs_no_torch_and_no_lm_eval(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported(path)} & {"torch", "lm_eval", "transformers"}


ONLY_IN = {
    "difflib.get_close_matches": "support/errors.py",
    "sqlite3.connect": "support/sqlite.py",
    "tabulate.tabulate": "support/markdown.py",
    **dict.fromkeys(("os.replace", "os.rename", "os.link", "fcntl.flock"), "support/files.py"),
}
"""What everybody needs and one file does."""

INTERFACES = ("forward",)
"""Methods whose parameters another library lays down."""


def calls(path: Path) -> Iterator[str]:
    """Dotted names of what a file uses of other modules: "os.replace", however it was imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.asname or alias.name: alias.name for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names:
            yield f"{names[node.value.id]}.{node.attr}"
        elif isinstance(node, ast.Name) and node.id in names:
            yield names[node.id]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_of_support_is_written_a_second_time(path: Path) -> None:
    found = {call for call in calls(path) if call in ONLY_IN}
    assert not {call for call in found if ONLY_IN[call] != path.relative_to(ROOT).as_posix()}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_and_its_functions_can_be_read_at_one_sitting(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 450
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, f"{node.name} has over 60 lines"
            names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            count = len([name for name in names if name not in ("self", "cls")])
            is_command = path.is_relative_to(ROOT / "harness" / "cli") and node.name.endswith("_command")
            assert count <= 8 or is_command or node.name in INTERFACES, f"{node.name} has {count} parameters"


@pytest.mark.parametrize("package", sorted(MAY_IMPORT.keys() - {"harness"}))  # its face is the Python interface
def test_package_faces_hold_a_docstring_only(package: str) -> None:
    body = ast.parse((ROOT / package / "__init__.py").read_text(encoding="utf-8")).body
    assert len(body) == 1
    assert isinstance(body[0], ast.Expr)
