"""The page as its readers meet it: in a real browser, by mouse and keyboard, wide and narrow, light and dark, and full
of hostile words."""

from dataclasses import replace
from typing import Any

import pytest

from leaderboards.views.learning_curves import Point
from leaderboards.views.published import Reference
from tests.browser.board_page import (
    BASE,
    ENTRIES,
    METRICS,
    MODELS,
    POPE_F1,
    QUESTIONS,
    TUNED,
    Open,
    entry,
    html,
    sample,
    verdict,
)
from tests.leaderboards.makers import page

OWNED = "window.owned = (window.owned || 0) + 1"
HOSTILE = (
    f"<script>{OWNED}</script>",
    f"</script><script>{OWNED}</script>",
    f"<img src=x onerror='{OWNED}'>",
    f'"><svg onload="{OWNED}">',
    f"'-({OWNED})-'",
    f"javascript:{OWNED}",
    "{{ 7 * 7 }} ${7 * 7} <!-- --> ]]> &lt;b&gt; \u202eevil\u2066",
)


def test_it_opens_without_an_error_and_without_asking_anybody(opened_at_flips: Open) -> None:
    board = opened_at_flips(html())
    assert board.errors == []
    assert board.outside == []
    assert board.title() == "Board"


def test_hostile_words_are_read_and_never_run(opened: Open) -> None:
    everywhere = "\n".join(HOSTILE)
    models = [f"{text} {index}" for index, text in enumerate(HOSTILE)]
    columns = [
        (f"task {everywhere}", f"metric {everywhere}", everywhere, True, True),
        *((f"{i}{everywhere}", "m", "", True, True) for i in "ab"),
    ]
    changes = {"judge": everywhere, "version": everywhere, "provenance": {everywhere: everywhere}}
    entries = [entry(model, column, 1.0 + place, **changes) for place, model in enumerate(models) for column in columns]
    words: dict[str, Any] = {"task": columns[0][0], "image": everywhere, "prompt": everywhere, "reply": everywhere}
    samples = [
        sample(model, n, correct=n % 2 == place % 2, id=f"{n} {everywhere}", answer=f"{place} {everywhere}", **words)
        for place, model in enumerate(models)
        for n in range(3)
    ]
    samples = [replace(s, records={"m": {**s.records["f1"], "category": everywhere}}) for s in samples]
    reported = {"model": everywhere, "source": everywhere, "note": everywhere}
    points = [Point(step=step, entry=entries[0]) for step in (0, 5)]
    text = page(
        entries,
        title=everywhere,
        base=models[0],
        samples=lambda run: [s for s in samples if s.run == run],
        verdicts={e.key: verdict(e) for e in entries},
        curves={everywhere: {everywhere: points}},
        notes=[everywhere] * 5,
        protocol_differences={entries[0].key: [everywhere]},
        references=[Reference(task=columns[0][0], metric=columns[0][1], value=1.0, **reported)],
    )
    board = opened(text)
    board.flips()
    board.locator("[data-after]").first.click()
    board.locator("#flip-form [name=kind]").select_option("all")
    board.tally("Showing 3.")
    for control in ("columns", "theme"):
        assert board.locator(f"#{control}").is_visible()
    board.locator("#columns").select_option("t1")
    for button in board.locator(".sort:visible").all():
        button.click()
    answer = board.locator(".answer").first.text_content()
    assert answer.partition(" ")[2] == everywhere
    assert board.locator("article h3").first.text_content().startswith(everywhere)
    assert board.evaluate("window.owned") is None
    assert (board.dialogs, board.outside, board.errors) == ([], [], [])
    assert board.locator("body script:not([type])").count() == 1
    handlers = (
        "[...document.querySelectorAll('*')].flatMap(e => [...e.attributes]).filter(a => a.name.startsWith('on'))"
    )
    assert board.evaluate(f"{handlers}.length") == 0


def test_the_policy_stops_a_script_that_escaping_let_through(opened_at_flips: Open) -> None:
    """As if the template had lost its escaping."""
    injected = f"<script>{OWNED}</script><img src='https://example.org/x.png' onerror='{OWNED}'>"
    injected += "<base href='https://example.org/'>"
    text = html()
    assert "<main" in text
    board = opened_at_flips(text.replace("<main", f"{injected}<main", 1))
    assert board.evaluate("window.owned") is None
    assert board.evaluate("document.baseURI").startswith("file:")
    assert any("Content Security Policy" in error for error in board.errors)
    with pytest.raises(Exception, match="TrustedHTML"):
        board.evaluate("document.body.innerHTML = '<b>x</b>'")


def test_a_header_sorts_by_mouse_and_keyboard_and_says_how(opened: Open) -> None:
    board = opened(html())
    head = board.locator("#board th", has_text="f1")
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert board.column() == [MODELS[3], MODELS[2], MODELS[0], MODELS[1]]  # the one without a score is last
    head.get_by_role("button").focus()
    board.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert board.column() == [MODELS[0], MODELS[2], MODELS[3], MODELS[1]]  # and stays last
    assert board.locator("#board th[aria-sort]").count() == 1
    board.locator("#board th", has_text="chair_s").get_by_role("button").click()
    assert board.column() == [MODELS[0], MODELS[1], MODELS[2], MODELS[3]]  # lower is better: the best first


def test_a_filter_leaves_the_models_with_these_letters_everywhere(opened: Open) -> None:
    board = opened(html())
    board.locator("#filter").fill("DPO")
    board.until("document.querySelector('#count').textContent === '2 of 4 models'")
    assert set(board.column()) == {MODELS[1], MODELS[2]}
    assert board.locator("#cost tbody tr:visible").count() == 2
    assert board.locator("#tasks .bars >> nth=0").locator("tbody tr:visible").count() == 2
    board.locator("#filter").fill("")
    board.until("document.querySelector('#count').textContent === ''")
    assert len(board.column()) == 4


def test_metrics_are_chosen_by_headline_all_or_task(opened: Open) -> None:
    board = opened(html())

    def shown() -> list[str]:
        return [str(text) for text in board.locator("#board th:visible .metric").all_text_contents()]

    assert shown() == ["Model", "chair_s", "f1", "score"]
    board.locator("#columns").select_option("all")
    assert shown() == ["Model", "chair_s", "length", "f1", "score"]
    board.locator("#columns").select_option(label="All of chair")
    assert shown() == ["Model", "chair_s", "length"]
    board.locator("#columns").select_option("headline")
    assert shown() == ["Model", "chair_s", "f1", "score"]


def test_flips_are_counted_and_shown_with_image_answers_and_the_judges_words(opened_at_flips: Open) -> None:
    board = opened_at_flips(html())
    form = board.locator("#flip-form")
    form.locator("[name=after]").select_option(label="dpo/checkpoint-47")
    wrong = sum(id > 2 and id % 3 == 0 for id in range(QUESTIONS))
    right = QUESTIONS - 3 - wrong
    assert board.tally("Showing 2.").startswith(
        f"1 better, 1 worse, {wrong} both wrong, {right} both right, 1 not scored on a side."
    )
    case = board.locator("article").first
    assert case.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 64
    assert case.locator("img").get_attribute("alt") == "Image scene-0"
    assert "Is there a cat in picture 0?" in case.inner_text()
    sides = case.locator(".side").all_inner_texts()
    assert all(words in sides[0] for words in ("no, a dog", "wrong", "Judged base."))
    assert all(words in sides[1] for words in ("yes, a cat", "right"))
    assert case.locator("mark").all_text_contents() == ["no", "dog", "yes", "cat"]
    form.locator("[name=kind]").select_option("unscored")
    board.tally("Showing 1.")
    assert "Generation failed." in board.locator("article").inner_text()
    form.locator("[name=kind]").select_option("all")
    form.locator("[name=category]").select_option("popular")
    board.tally("Showing 15.")
    form.locator("[name=words]").fill("picture 12?")
    board.tally("Showing 1.")


def test_the_words_that_a_task_calls_made_up_are_marked_and_not_the_difference(opened_at_flips: Open) -> None:
    said = {BASE: ("a Cat and dogs; a cathedral", ["cat", "dog"]), TUNED: ("a tree and a dog (made.up)", [])}
    samples = []
    for model, (answer, words) in said.items():
        one = sample(model, 0, correct=model == TUNED, answer=answer)
        samples.append(replace(one, records={"f1": {**one.records["f1"], "made_up": words}}))
    board = opened_at_flips(html(samples=lambda run: [one for one in samples if one.run == run]))
    marked = board.locator("#cases mark")
    assert marked.all_text_contents() == ["Cat", "dogs"]
    assert marked.first.get_attribute("title") == "not in the image"
    assert board.locator("#cases .answer").all_text_contents() == [answer for answer, _ in said.values()]


def test_more_cases_come_on_demand_and_the_reader_goes_on_where_they_begin(opened_at_flips: Open) -> None:
    board = opened_at_flips(html())
    board.locator("#flip-form [name=kind]").select_option("all")
    board.tally(f"Showing {QUESTIONS}.")
    assert board.locator("article").count() == 20
    board.locator("#more").click()
    assert board.locator("article").count() == QUESTIONS
    assert not board.locator("#more").is_visible()
    assert "picture 20?" in board.evaluate("document.activeElement.textContent")


def test_a_mark_in_the_table_leads_to_the_flips_behind_it(opened: Open) -> None:
    board = opened(html())
    board.locator(f"#board [data-task=pope][data-after='{TUNED}']").click()
    board.tally("Showing 2.")
    chosen = board.locator("#flip-form select").evaluate_all(
        "selects => selects.map(select => select.selectedOptions[0].textContent)"
    )
    assert chosen[:4] == ["pope", BASE, "dpo/checkpoint-47", "better or worse"]
    board.until("document.querySelector('#flips').getBoundingClientRect().top < 300")


def test_no_answer_is_opened_before_somebody_looks(opened: Open) -> None:
    count = "const Real = DecompressionStream; window.opened = 0; window.DecompressionStream = "
    count += "class extends Real { constructor(kind) { super(kind); window.opened += 1; } };"
    board = opened(html(), script=count)
    board.locator("#board th", has_text="f1").get_by_role("button").click()
    assert board.evaluate("window.opened") == 0
    board.flips()
    assert board.evaluate("window.opened") == 3  # the questions, and two models' answers
    board.locator("#flip-form [name=kind]").select_option("all")
    board.tally(f"Showing {QUESTIONS}.")
    assert board.evaluate("window.opened") == 3


def test_answers_that_cannot_be_opened_are_said_to_be(opened: Open) -> None:
    text = html()
    before, tag, block = text.partition('<script type="text/plain" id="b1">')
    board = opened(f"{before}{tag}AAAA{block[4:]}")
    board.locator("#flips").scroll_into_view_if_needed()
    assert "could not be opened" in board.tally("could not be opened")
    assert board.locator("article").count() == 0


def test_what_others_reported_can_be_sorted_and_filtered_apart_from_the_board(opened: Open) -> None:
    values = {"low": 1.0, "high": 99.0}
    board = opened(html(references=[Reference(model=name, value=value, **POPE_F1) for name, value in values.items()]))
    names = board.locator("#reported tbody tr:visible th bdi")
    assert names.all_text_contents() == ["low", "high"]
    board.locator("#reported th", has_text="f1").get_by_role("button").click()
    assert names.all_text_contents() == ["high", "low"]
    assert board.column()[0] != "high"
    board.locator("#filter").fill("low")
    board.until("document.querySelector('#count').textContent === '0 of 4 models'")
    assert names.all_text_contents() == ["low"]


def test_drawings_say_their_numbers_to_who_does_not_see_them(opened: Open) -> None:
    board = opened(html())
    curve = board.get_by_role("img", name="chair_s (%) against training step")
    assert "dpo: 2.3 [2.1, 2.5] at step 0" in curve.get_attribute("aria-label")
    assert curve.locator(".whisker").count() == 3
    assert curve.locator(".band").count() == 1
    bars = board.locator("#tasks table").first
    assert bars.locator("caption").text_content()
    assert bars.locator("tbody .reach").count() == len(MODELS)
    assert bars.locator("tbody .figure").first.inner_text().split() == ["2.3", "[2.1,", "2.5]"]
    assert board.get_by_role("img", name="Profile of the models over 3 metrics").count() == 1
    assert board.get_by_role("table", name="What scoring each model took").locator("tbody tr").count() == len(MODELS)


def test_flips_are_chosen_by_keyboard_alone(opened_at_flips: Open) -> None:
    board = opened_at_flips(html())
    board.locator(f"#board [data-task=pope][data-after='{TUNED}']").focus()
    board.keyboard.press("Enter")
    board.tally("Showing 2.")
    board.locator("#flip-form [name=kind]").focus()
    board.keyboard.press("ArrowDown")
    board.tally("Showing 1.")
    for _ in range(2):
        board.keyboard.press("Tab")
    board.keyboard.type("picture 99?")
    board.tally("Showing 0.")
    assert board.locator("article").count() == 0


@pytest.mark.parametrize("width", (400, 1280))
@pytest.mark.parametrize("scheme", ("light", "dark"))
def test_axe_finds_nothing_to_complain_about(opened: Open, axe: str, width: int, scheme: str) -> None:
    board = opened(html(notes=["A file was skipped."] * 5), width=width, scheme=scheme, bypass_csp=True)
    board.flips()
    board.locator("#columns").select_option("all")
    board.locator("[data-trace]").first.click()
    for summary in ("#runs", ".protocol", "header details"):
        board.locator(f"{summary} summary").first.click()
    board.evaluate(axe)
    found = board.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    assert [(rule["id"], [node["html"][:160] for node in rule["nodes"]][:3]) for rule in found["violations"]] == []
    assert len(found["passes"]) > 20


def test_the_theme_follows_the_system_until_it_is_chosen_and_the_choice_stays(opened: Open) -> None:
    board = opened(html(), scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    dark = board.evaluate(background)
    button = board.locator("#theme")
    assert button.get_attribute("aria-label") == "Use light colours"
    button.click()
    light = board.evaluate(background)
    assert light == "rgb(255, 255, 255)" != dark
    board.reload()
    assert board.evaluate(background) == light


def test_the_keyboard_reaches_the_content_first_and_every_focus_is_seen(opened: Open) -> None:
    board = opened(html())
    board.keyboard.press("Tab")
    assert board.evaluate("document.activeElement.textContent") == "Skip to the content"
    assert board.evaluate("document.activeElement.getBoundingClientRect().left") == 0
    reached = set()
    for _ in range(60):
        board.keyboard.press("Tab")
        name = board.evaluate("document.activeElement.id || document.activeElement.ariaLabel")
        outline = board.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        reached.add(name)
        if name is not None:
            assert outline in ("solid", "auto"), name
    assert {"theme", "filter", "columns", "Leaderboard table, scrolls"} <= reached


def test_a_chosen_model_comes_forward_in_the_profile(opened: Open) -> None:
    board = opened(html())
    button = board.locator("[data-trace]").nth(2)
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert board.locator(".trace.on").get_attribute("data-model") == button.get_attribute("data-trace")
    opacities = board.locator(".trace").evaluate_all("traces => traces.map(trace => getComputedStyle(trace).opacity)")
    assert sorted(opacities) == ["0.15", "0.15", "0.15", "1"]
    button.click()
    assert board.locator(".picked").count() == 0


def test_among_many_models_each_chosen_one_gets_a_colour_of_its_own(opened: Open) -> None:
    names = [f"model-{index}" for index in range(20)]
    scored = [entry(name, metric, 2 + len(name) / 10 + place) for place, name in enumerate(names) for metric in METRICS]
    board = opened(page(scored, title="Many"))
    for place in (0, 4, 9):
        board.locator("[data-trace]").nth(place).click()
    strokes = board.locator(".trace.on").evaluate_all("traces => traces.map(trace => getComputedStyle(trace).color)")
    borders = board.locator("[data-trace][aria-pressed=true]").evaluate_all(
        "all => all.map(one => getComputedStyle(one).borderLeftColor)"
    )
    assert len(set(strokes)) == 3
    assert sorted(strokes) == sorted(borders)
    board.locator("[data-trace]").nth(4).click()
    assert board.locator(".trace.on").count() == 2
    head = board.locator("#board th").first
    before = head.bounding_box()["y"]
    board.locator("#board .scroll").evaluate("region => { region.scrollTop = 300; }")
    assert head.bounding_box()["y"] == before  # the header stays over so many rows


def test_without_a_script_every_score_is_there(opened: Open) -> None:
    board = opened(html(), java_script_enabled=False)
    text = board.locator("#board").inner_text()
    assert all(f"{entry.value:.1f}" in text for entry in ENTRIES if entry.value is not None and entry.unit != "0-6")
    assert "length" in text
    assert board.locator("#tools").is_hidden()
    assert board.locator("noscript").is_visible()
