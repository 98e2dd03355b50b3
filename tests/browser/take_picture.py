"""The picture of the board's page in README.md and docs/gallery.md, of a finished `make demo`.

python -m tests.browser.take_picture runs/scenes-demo docs/pictures/page.png
"""

import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from harness.cli.main import run
from tests.browser.conftest import chromium

WIDTH, HEIGHT, COLOURS = 1180, 860, 128


def take(folder: str, target: Path) -> None:
    """The top of the page of `folder`, as a small PNG at `target`."""
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        file, shot = Path(name, "board.html"), Path(name, "page.png")
        if run(["leaderboard", folder, "--base", "scenes-base", "--html", str(file), "-q"]) != 0:
            sys.exit(f"{folder}: has no page")
        browser = playwright.chromium.launch(
            executable_path=chromium(playwright.chromium.executable_path), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(file.as_uri())
        page.get_by_role("heading", level=1).wait_for()
        page.screenshot(path=shot)
        browser.close()
        Image.open(shot).convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE).save(target, optimize=True)


if __name__ == "__main__":
    take(sys.argv[1], Path(sys.argv[2]))
