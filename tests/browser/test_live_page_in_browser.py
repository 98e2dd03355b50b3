"""A page that is served while results come, in the browser."""

from pathlib import Path
from threading import Thread
from typing import Any

from harness.evaluation.live_page import LivePage
from tests.browser.board_page import Opened, html


def test_a_page_that_is_served_shows_new_results_by_itself_and_what_was_chosen(browser: Any, tmp_path: Path) -> None:
    board = tmp_path / "board"
    board.mkdir()
    (board / "a.json").write_text("{}")
    with LivePage(lambda state: html(title=f"{len(list(board.iterdir()))} files", live=state), places=[board]) as live:
        thread = Thread(target=live.serve)
        thread.start()
        context = browser.new_context()
        try:
            opened = Opened(context.new_page())
            opened.goto(live.address)
            opened.locator("#filter").fill("dpo")
            opened.until("location.search === '?models=dpo'")
            assert opened.title() == "1 files"
            (board / "b.json").write_text("{}")
            with opened.view.expect_navigation(timeout=10_000):
                pass
            assert opened.title() == "2 files"
            assert len(opened.column()) == 2
            assert all(url.startswith((live.address, "data:")) for url in opened.requests if "favicon" not in url)
        finally:
            context.close()
            live.stop()
            thread.join()
