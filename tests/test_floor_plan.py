"""Each package imports only the floors below it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT: dict[str, set[str]] = {
    "harness": {"tasks", "trainers", "leaderboards"},
    "trainers": {"tasks"},
    "leaderboards": set(),
    "tasks": set(),
}
FILES = [path for package in MAY_IMPORT for path in sorted((ROOT / package).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_imports_only_lower_floors(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    house = {name.split(".")[0] for name in imported(path)} & MAY_IMPORT.keys()
    assert house <= MAY_IMPORT[package] | {package}


@pytest.mark.parametrize("path", [path for path in FILES if path.relative_to(ROOT).parts[0] == "leaderboards"], ids=lambda path: path.name)
def test_the_leaderboard_needs_no_torch_and_no_lm_eval(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported(path)} & {"torch", "lm_eval", "transformers"}


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_package_faces_hold_a_docstring_only(package: str) -> None:
    body = ast.parse((ROOT / package / "__init__.py").read_text(encoding="utf-8")).body
    assert len(body) == 1
    assert isinstance(body[0], ast.Expr)
