"""What a reader takes away from the page: its address, and files of its tables and drawings."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from leaderboards.views.html_page import write_page
from tests.browser.board_page import BASE, ENTRIES, MODELS, TUNED, Opened, html, verdict


@pytest.fixture
def board(browser: Any, tmp_path: Path) -> Iterator[Opened]:
    verdicts = {e.key: verdict(e) for e in ENTRIES if e.model == TUNED}
    write_page(tmp_path / "page.html", html(verdicts=verdicts))
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    found = Opened(context.new_page())
    found.goto((tmp_path / "page.html").as_uri())
    yield found
    context.close()


def saved(board: Opened, name: str) -> bytes:
    with board.view.expect_download() as download:
        board.get_by_role("button", name=name).click()
    return Path(download.value.path()).read_bytes()


def test_an_address_shows_what_its_page_showed(board: Opened) -> None:
    board.locator("#filter").fill("checkpoint")
    board.locator("#columns").select_option("t1")
    board.locator("#board th", has_text="f1").get_by_role("button").click()
    board.locator("#flips").scroll_into_view_if_needed()
    form = board.locator("#flip-form")
    form.locator("[name=kind]").select_option("all")
    board.tally("Showing 30.")
    form.locator("[name=category]").select_option("popular")
    form.locator("[name=words]").fill("picture 12?")
    board.tally("Showing 1.")
    board.until("location.search.includes('words=')")
    assert parse_qs(urlsplit(board.url).query)["before"] == [BASE]
    shown = board.column()
    board.reload()
    assert board.column() == shown
    assert set(shown) == set(MODELS[1:])
    assert board.locator("#board th", has_text="f1").get_attribute("aria-sort") == "descending"
    assert not board.locator("#board th", has_text="chair_s").is_visible()
    board.locator("#flips").scroll_into_view_if_needed()
    board.tally("Showing 1.")
    assert form.locator("[name=category]").input_value() == "popular"
    assert board.errors == []


def test_a_table_is_saved_as_it_stands_with_all_digits(board: Opened) -> None:
    board.locator("#filter").fill("dpo")
    board.until("document.querySelector('#count').textContent !== ''")
    rows = list(csv.reader(io.StringIO(saved(board, "Save Scores of each model, one column a metric as CSV").decode())))
    assert [row[0] for row in rows[1:]] == board.column()
    score = next(entry.value for entry in ENTRIES if entry.model == TUNED and entry.metric == "chair_s")
    of_tuned = next(row for row in rows if row[0] == TUNED)
    assert float(of_tuned[1]) == score
    assert "▼ +2.0" in of_tuned[2]
    text = saved(board, "Save Scores of each model, one column a metric as LaTeX").decode()
    assert text.count("\\\\") == 3
    assert r"dpo/checkpoint-47 & 4.3 {\scriptsize {[}4.1, 4.5]} $\blacktriangledown$ +2.0" in text
    assert r"\toprule" in text
    assert r"chair\_s \% $\downarrow$" in text


def test_a_drawing_is_saved_in_its_colours(board: Opened) -> None:
    drawing = saved(board, "Save drawing 1 as SVG")
    assert drawing.startswith(b"<svg")
    assert b'stroke="rgb' in drawing
    assert b"class=" not in drawing
    assert saved(board, "Save drawing 1 as PNG").startswith(b"\x89PNG")
    assert board.errors == []


def test_a_picture_is_shown_in_large_and_closed_by_a_key(board: Opened) -> None:
    board.flips()
    board.get_by_role("button", name="Enlarge image scene-0").first.click()
    dialog = board.get_by_role("dialog", name="Image scene-0")
    assert dialog.is_visible()
    assert dialog.locator("img").evaluate("image => image.decode().then(() => image.width)") > 400
    board.view.keyboard.press("Escape")
    assert not dialog.is_visible()
