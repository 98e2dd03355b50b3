"""The page on windows from a phone's to a desk's."""

import pytest

from tests.browser.board_page import BASE, ENTRIES, METRICS, MODELS, Open, entry, html, verdict
from tests.leaderboards.makers import page


def test_a_verdict_is_never_cut_off_however_wide_the_window(opened: Open) -> None:
    even = {e.key: verdict(e, p=0.5) for e in ENTRIES if e.model != BASE and e.value is not None}
    for width in (400, 800, 1280):
        board = opened(html(verdicts=even), width=width)
        cells = board.locator("#against td", has_text="not separable")
        assert cells.count() == len(even)
        cut = """cells => cells.filter(cell => {
            const frame = cell.closest(".scroll").getBoundingClientRect();
            return cell.getBoundingClientRect().right > frame.right + 1 || cell.scrollWidth > cell.clientWidth;
        }).length"""
        assert cells.evaluate_all(cut) == 0, width
    assert board.locator("#against .scroll").evaluate("region => region.scrollWidth - region.clientWidth") == 0


@pytest.mark.parametrize("width", (400, 600, 1280))
def test_it_fits_the_window_and_wide_tables_scroll_by_themselves(opened: Open, width: int) -> None:
    board = opened(html(title="A-title-without-any-place-to-break-" * 5), width=width)
    board.flips()
    board.locator("#columns").select_option("all")
    assert board.evaluate("document.documentElement.scrollWidth") == width
    region = board.locator("#board .scroll")
    assert region.get_attribute("aria-label")
    assert region.evaluate("region => region.scrollWidth <= region.clientWidth") == (width != 600)
    if width == 600:
        region.evaluate("region => { region.scrollLeft = 200; }")
        assert board.locator("#board tbody th").first.bounding_box()["x"] >= 0  # the model's name stays in sight


def test_on_a_phone_every_number_of_a_wide_board_is_on_the_screen_with_its_name(opened: Open) -> None:
    wide = [(f"task-{n}", f"metric-{n}", "%", True, True) for n in range(12)]
    entries = [entry(model, metric, 3.0 + place) for place, model in enumerate(MODELS) for metric in wide]
    board = opened(
        page(entries, title="Wide", base=BASE, verdicts={e.key: verdict(e) for e in entries[12:]}), width=390
    )
    assert board.evaluate("document.documentElement.scrollWidth") == 390
    for table in ("#board", "#against", "#cost"):
        outside = f"""[...document.querySelectorAll("{table} tbody :is(th, td)")].filter((cell) => {{
            const box = cell.getBoundingClientRect();
            return cell.offsetParent && (box.left < 0 || box.right > 390 || cell.scrollWidth > cell.clientWidth);
        }}).length"""
        assert board.evaluate(outside) == 0, table
    values = board.locator("#board tbody tr").first.locator("td:visible")
    assert values.count() == 12
    said = "cells => cells.map((cell) => getComputedStyle(cell, '::before').content)"
    assert values.evaluate_all(said)[3].startswith('"task-3 metric-3 % ↑"')
    board.locator("#board th", has_text="metric-11").get_by_role("button").click()
    assert board.column() == list(reversed(MODELS))


def test_models_are_sorted_by_size_and_by_date_where_there_is_room_for_them(opened: Open) -> None:
    known = {BASE: ("7063427072", "2026-01-31"), MODELS[1]: ("256484928", "2026-03-01"), MODELS[2]: ("", "2026-02-01")}
    entries = [
        entry(model, METRICS[2], 3.0, created=f"{date}T12:00:00+00:00", provenance={"model size": size})
        for model, (size, date) in known.items()
    ]
    board = opened(page(entries, title="Sizes"))
    shown = board.locator("#board tbody .about")
    assert shown.all_inner_texts() == ["7.06B", "2026-01-31", "256M", "2026-03-01", "—", "2026-02-01"]
    board.locator("#board th", has_text="Size").get_by_role("button").click()
    assert board.column() == [MODELS[1], BASE, MODELS[2]]  # what is not known is last
    board.locator("#board th", has_text="Scored").get_by_role("button").click()
    assert board.column() == [MODELS[1], MODELS[2], BASE]
    board.locator("#columns").select_option(label="All of pope")
    assert shown.first.is_visible()
    board.set_viewport_size({"width": 390, "height": 900})
    assert not any(cell.is_visible() for cell in shown.all())


@pytest.mark.parametrize("width", (390, 1280))
def test_names_of_any_length_and_script_stay_within_the_window(opened: Open, width: int) -> None:
    names = ["x" * 200, f"{'a' * 200}/{'b' * 200}", "word " * 40, "<i>/</i>", "//"]
    names += ["视觉语言模型/七十亿参数-" * 8, "نموذج/أساس"]
    entries = [entry(name, metric, 3.0 + place) for place, name in enumerate(names) for metric in METRICS]
    verdicts = {e.key: verdict(e) for e in entries if e.model != names[0] and e.headline}
    board = opened(page(entries, title="Names", base=names[0], verdicts=verdicts), width=width)
    board.locator("header details summary").first.click()
    assert board.evaluate("document.documentElement.scrollWidth") == width
    assert board.column() == [" ".join(name.split()) for name in names]
    assert board.locator(".verdict").count() == len(names) - 1
    tall = "said => said.filter((one) => one.getBoundingClientRect().height > 140).length"  # five lines
    assert board.locator(".verdict").evaluate_all(tall) == 0
    assert board.errors == []
