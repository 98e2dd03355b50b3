"""The documentation site (mkdocs.yml): its pages, links and headings against the files; the slow test builds it."""

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
REPOSITORY = (ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md")
PAGES = (*REPOSITORY, *sorted(DOCS.glob("*.md")))


@pytest.fixture(scope="module")
def hooks() -> Any:
    spec = spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pages_of(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
        return
    for part in nav.values() if isinstance(nav, dict) else nav:
        yield from pages_of(part)


def prose(path: Path) -> str:
    return re.sub(r"^```.*?^```|`[^`\n]+`", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_in_the_navigation_once_and_is_there(hooks: Any) -> None:
    shown = list(pages_of(SITE["nav"]))
    there = {path.name for path in DOCS.glob("*.md")} | {name for name in hooks.GENERATED if name.endswith(".md")}
    assert sorted(shown) == sorted(there)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page: Path, hooks: Any) -> None:
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?:|mailto:", target):
            continue
        name, _, heading = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if page.parent == DOCS and name in hooks.GENERATED:
            continue
        if not path.exists() or (heading and path.suffix == ".md" and heading not in anchors(path)):
            wrong.append(target)
    assert not wrong


def test_links_between_the_readme_and_the_docs_are_links_within_the_site(hooks: Any) -> None:
    text = "[a](docs/gate.md#x) [b](../README.md) [c](../CHANGELOG.md) [`action.yml`](../action.yml) [l](LICENSE)"
    assert hooks.move_links(text) == "[a](gate.md#x) [b](index.md) [c](CHANGELOG.md) `action.yml` l"


def test_a_list_behind_a_paragraph_begins_after_an_empty_line(hooks: Any) -> None:
    assert hooks.separate_lists("Text:\n- a\n  b\n- c") == "Text:\n\n- a\n  b\n- c"
    assert hooks.separate_lists("- a\nb\n- c\n\n```\nx\n- y\n```") == "- a\nb\n- c\n\n```\nx\n- y\n```"


def test_a_command_of_the_gallery_that_fails_ends_the_build(hooks: Any) -> None:
    with pytest.raises(RuntimeError, match="leaderbord: exit code 2"):
        hooks.run_harness(["leaderbord"])


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_takes_nothing_from_elsewhere(tmp_path: Path) -> None:
    program = [sys.executable]
    if find_spec("mkdocs") is None:
        program = [str(ROOT / ".venv-docs/bin/python")]
        if not Path(program[0]).exists():
            pytest.skip("the site's packages are not installed: make docs")
    command = [*program, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    made = {path.relative_to(tmp_path / "site").as_posix() for path in (tmp_path / "site").rglob("*.html")}
    assert {page.replace(".md", ".html") for page in pages_of(SITE["nav"])} <= made
    loaded = re.compile(
        r"<(?:script|img|iframe)[^>]+src=\"https?:|<link[^>]+rel=\"(?:stylesheet|preconnect)\"[^>]+https?:"
    )
    outside = [name for name in made if loaded.search((tmp_path / "site" / name).read_text(encoding="utf-8"))]
    assert outside == []
    assert "flips" in (tmp_path / "site/gallery/board.html").read_text(encoding="utf-8")
    assert "harness train-then-eval" in (tmp_path / "site/search/search_index.json").read_text(encoding="utf-8")
