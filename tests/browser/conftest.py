"""A headless Chromium, from wherever one is: VLM_HARNESS_CHROMIUM, the PATH, Playwright's own, or `npm ci` in this
folder."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from leaderboards.views.html_page import write_page
from tests.browser.board_page import Open, Opened

HERE = Path(__file__).parent
NAMES = ("chromium", "chromium-browser", "chromium-headless-shell", "google-chrome", "google-chrome-stable")


def chromium(own: str) -> str | None:
    """The browser's program; None if there is none. `own` is where Playwright would have put its."""
    candidates = [os.environ.get("VLM_HARNESS_CHROMIUM"), *map(shutil.which, NAMES), own]
    for candidate in candidates:
        if candidate and Path(candidate).is_file():
            return candidate
    modules = HERE / "node_modules"
    if not (modules / "@sparticuz" / "chromium").is_dir() or shutil.which("node") is None:
        return None
    folder = modules / ".chromium"  # and not /tmp, where anybody could have put a program of that name
    folder.mkdir(exist_ok=True)
    found = subprocess.run(
        ["node", HERE / "chromium.mjs"],
        env={**os.environ, "TMPDIR": str(folder)},
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return found.stdout.strip()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A running browser; skips where there is none."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="Playwright is not installed: pip install playwright"
    )
    with playwright.sync_playwright() as running:
        program = chromium(running.chromium.executable_path)
        if program is None:
            pytest.skip("no Chromium: npm ci --prefix tests/browser, or set VLM_HARNESS_CHROMIUM to one")
        launched = running.chromium.launch(
            executable_path=program, args=["--no-sandbox"]
        )  # opens only files written here
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core; skips where it is not installed."""
    path = HERE / "node_modules" / "axe-core" / "axe.min.js"
    if not path.exists():
        pytest.skip("no axe-core: npm ci --prefix tests/browser")
    return path.read_text(encoding="utf-8")


@pytest.fixture
def opened_at_flips(opened: Open) -> Open:
    """Opens a page and comes to its flips."""

    def open_page(text: str, **options: Any) -> Opened:
        board = opened(text, **options)
        board.flips()
        return board

    return open_page


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Open]:
    contexts = []

    def open_page(text: str, *, width: int = 1280, scheme: str = "light", script: str = "", **options: Any) -> Opened:
        path = tmp_path / "page.html"
        write_page(path, text)
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce", **options
        )
        contexts.append(context)
        if script:
            context.add_init_script(script)
        found = Opened(context.new_page())
        found.goto(path.as_uri())
        return found

    yield open_page
    for context in contexts:
        context.close()
