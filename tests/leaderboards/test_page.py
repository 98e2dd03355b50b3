"""The page as text: complete, escaped, the same each time. What a browser makes of it is tested under tests/browser."""

import base64
import hashlib
import re
import subprocess
import sys
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from leaderboards.board.entry import Entry
from leaderboards.statistics.ranks import Rank
from leaderboards.statistics.verdict import PairedTest
from leaderboards.views.html_page import write_page
from leaderboards.views.learning_curves import Point
from leaderboards.views.markdown_report import leaderboard
from leaderboards.views.published import Reference
from support.errors import BoardError
from tests.leaderboards.makers import MakeEntry, MakeSample, index, logs_of, page, picture, text_of

HOSTILE = "</script><img src=x onerror=alert(1)>\"'&`{{7*7}}"


def verdict(difference: float, p: float, **changes: Any) -> PairedTest:
    usual: dict[str, Any] = {"base": 19.3, "other": 19.3 + difference, "images": 300, "higher_is_better": False}
    return PairedTest(difference=difference, low=difference - 2, high=difference + 2, p=p, **usual | changes)


@pytest.fixture
def two(make_entry: MakeEntry) -> list[Entry]:
    return [make_entry(), make_entry(run="run-2", model="tuned", value=4.0, low=2.0, high=6.5)]


def test_the_same_board_gives_the_same_page(two: list[Entry], make_sample: MakeSample) -> None:
    samples = logs_of(make_sample(), make_sample(run="run-2"))
    first, second = (
        page(two, title="Board", samples=samples, thumbnails=lambda task, image: picture("red")) for _ in range(2)
    )
    assert first == second


def test_every_score_stands_in_the_table_with_its_interval_and_what_it_lacks(make_entry: MakeEntry) -> None:
    entries = [
        make_entry(unscored=2, failed=1, unparsed=4, limit=50, samples=50),
        make_entry(model="other", value=None, low=None, high=None),
    ]
    text = text_of(page(entries, title="Board"))
    assert "19.3 [15.3, 23.0]" in text
    assert "47/50, 1 failed, 4 unparsed, limit 50" in text
    assert "Partial: what was scored on a part of a benchmark" in text


def test_a_cost_that_is_not_known_is_no_zero(make_entry: MakeEntry) -> None:
    judged = make_entry(judge="my-judge", cost=0.0, provenance={"judge cost": "not known of 9 calls"})
    assert "unknown" in text_of(page([judged], title="Board"))
    partly = make_entry(judge="my-judge", cost=1.5, provenance={"judge cost": "not known of 9 calls"})
    assert "1.50 + unknown" in text_of(page([partly], title="Board"))
    assert "unknown" not in text_of(page([make_entry(judge="gpt-4o", cost=1.5)], title="Board"))


def test_a_cell_says_what_the_markdown_says_of_its_score(make_entry: MakeEntry) -> None:
    provenance = {"rows": "partial", "imported": "lm-eval <0.4>", "leaks": "12"}
    entry = make_entry(samples=50, unscored=1, failed=2, unparsed=3, provenance=provenance)
    cut = make_entry(model="cut", limit=24)
    text = text_of(page([entry, cut], title="Board"))
    assert "47/50, 2 failed, 3 unparsed, partial data, by lm-eval <0.4>, 12 leaked" in text
    assert "limit 24" in text
    markdown = leaderboard([entry, cut]).replace("\\", "")
    for note in ("47/50", "2 failed", "3 unparsed", "partial data", "by lm-eval <0.4>", "12 leaked", "limit 24"):
        assert note in markdown
        assert note in text


def test_what_is_neither_better_nor_worse_gets_no_direction(make_entry: MakeEntry) -> None:
    up: dict[str, Any] = {"metric": "random_yes_rate", "task": "pope", "headline": False}
    entries = [make_entry(**up), make_entry(run="run-2", model="tuned", value=4.0, low=2.0, high=6.5, **up)]
    verdicts = {entries[1].key: verdict(-15.3, 0.001)}
    html = page(
        entries, title="Board", base="base", verdicts=verdicts, ranks={entries[1].key: Rank(low=1, high=2, ties=())}
    )
    body = re.sub(r"<(script|style)\b.*?</\1>", "", html, flags=re.S).split("<main")[1]
    assert not re.search(r'class="(better|worse)"|[▲▼]', body)
    assert "lower is better" not in body
    text = text_of(body)
    assert "↓ -15.3 lower than the base, neither better nor worse" in text
    assert re.search(r"pope random_yes_rate \(%\) ↓ lower -15.3", text)
    assert "rank" not in text
    html = page(entries, title="Board", base="base", verdicts={entries[1].key: verdict(-15.3, 0.5)})
    assert "≈ -15.3 not separable" in text_of(html)


def test_a_score_that_was_asked_differently_from_the_base_says_in_which_words(two: list[Entry]) -> None:
    otherwise = {two[1].key: ["revision was 'a', is '<b>'", "split was 'test', is 'tune'"]}
    html = page(two, title="Board", base="base", protocol_differences=otherwise)
    text = text_of(html)
    assert text.count("≠ asked differently") == 2  # in the cell, and over the words
    assert "scenes_chair CHAIR_s (%): revision was 'a', is '<b>'; split was 'test', is 'tune'" in text
    assert "asked differently" not in text_of(page(two, title="Board", base="base"))
    with pytest.raises(BoardError, match="of 'gone' on scenes_chair CHAIR_s"):
        page(two, title="Board", base="base", protocol_differences={("gone", *two[1].key[1:]): ["x"]})


def test_what_others_reported_stands_apart_with_its_source(make_entry: MakeEntry) -> None:
    entries = [
        make_entry(),
        make_entry(task="pope", metric="f1", provenance={"imported": "lm-eval"}),
        make_entry(task="mme", metric="p"),
    ]
    about: dict[str, Any] = {
        "task": "scenes_chair",
        "metric": "CHAIR_s",
        "value": 12.34,
        "source": f"A paper {HOSTILE}, Table 2",
    }
    references = [
        Reference(model=HOSTILE, note="asked <otherwise>", **about),
        Reference(model="elsewhere", **about | {"task": "gone"}),
        Reference(model="imported only", **about | {"task": "pope", "metric": "f1"}),
        Reference(model="later", **about | {"task": "mme", "metric": "p", "value": 5.0}),
    ]
    html = page(entries, title="Board", references=references)
    apart = html[html.index('<section id="reported"') :].split("</section>")[0]
    text = text_of(apart)
    assert f"{HOSTILE.replace('/', '/ ')} 12.3 — — A paper {HOSTILE}, Table 2" in text
    assert f"later — 5.0 — A paper {HOSTILE}, Table 2" in text
    assert f"A paper {HOSTILE}, Table 2: asked <otherwise>" in text
    assert "elsewhere" not in text_of(html)
    assert "imported only" not in text_of(html)
    assert "<img" not in html
    assert "12.3" not in text_of(html[: html.index('<section id="reported"')])  # among no measured ones
    assert 'id="reported"' not in page(entries, title="Board", references=references[1:3])


def test_many_notes_are_folded_into_one(two: list[Entry]) -> None:
    few, many = (page(two, title="Board", notes=[f"note {place}" for place in range(count)]) for count in (4, 5))
    assert few.count('<p class="notice">note') == 4
    assert "<summary>5 notes" in many
    assert all(f"<li>note {place}</li>" in many for place in range(5))


def test_leaked_training_rows_are_named_beside_the_score(make_entry: MakeEntry) -> None:
    assert "12 leaked" in text_of(page([make_entry(provenance={"leaks": "12"})], title="Board"))
    assert "leaked" not in text_of(page([make_entry(provenance={"leaks": "0"})], title="Board")).replace("leaks 0", "")


def test_versions_and_judges_never_share_a_column(make_entry: MakeEntry) -> None:
    entries = [
        make_entry(),
        make_entry(version="2"),
        make_entry(judge="gpt", task="mmhal"),
        make_entry(judge="exact", task="mmhal"),
    ]
    html = page(entries, title="Board")
    head = re.search(r'<table class="scores stacked">.*?</thead>', html, re.S)
    assert head
    assert head[0].count("<th ") == 1 + 4 + 1  # the model, its scores, the date
    assert {"version 1", "version 2", "judge gpt", "judge exact"} <= set(
        re.findall(r"(?:version|judge) \w+", text_of(head[0]))
    )


def test_rows_come_best_first_and_say_so(make_entry: MakeEntry) -> None:
    values: dict[str, float | None] = {"middle": 5.0, "none": None, "worst": 9.0, "best": 1.0}
    entries = [make_entry(model=model, value=value, low=None, high=None) for model, value in values.items()]
    board = page(entries, title="Board").split('id="tasks"')[0]
    assert re.findall(r'<tr data-model="(\w+)"', board) == ["best", "middle", "worst", "none"]
    assert 'aria-sort="ascending"' in board  # lower is better


def test_verdicts_are_marked_in_the_cell_and_listed(two: list[Entry]) -> None:
    html = page(two, title="Board", base="base", verdicts={two[1].key: verdict(-15.3, 0.001, mde=4.2)})
    text = text_of(html)
    assert "▲ -15.3 better" in text
    assert re.search(r"scenes_chair CHAIR_s \(%\) ↓ ▲ better -15.3 \[-17.3, -13.3\] 0.0010 19.3 4.0 4.2 300", text)


def test_a_difference_that_is_not_separable_is_no_improvement(two: list[Entry]) -> None:
    text = text_of(page(two, title="Board", base="base", verdicts={two[1].key: verdict(-15.3, 0.2)}))
    assert "≈ -15.3 not separable" in text
    assert "▲ -15.3" not in text


def test_ranks_are_shown_as_intervals(two: list[Entry]) -> None:
    text = text_of(page(two, title="Board", ranks={two[0].key: Rank(low=1, high=2, ties=("tuned",))}))
    assert "rank 1–2" in text


def test_a_base_that_is_not_on_the_board_is_an_error_with_the_nearest_name(two: list[Entry]) -> None:
    with pytest.raises(BoardError, match=r"'tunde' is not on the board \(did you mean 'tuned'\?\); known: base, tuned"):
        page(two, title="Board", base="tunde")


def test_a_verdict_on_a_score_that_is_not_shown_is_an_error(two: list[Entry]) -> None:
    with pytest.raises(BoardError, match="verdict or rank of 'gone' on scenes_chair CHAIR_s"):
        page(two, title="Board", base="base", verdicts={("gone", *two[1].key[1:]): verdict(-1, 0.5)})


def test_words_from_models_and_data_never_become_markup(make_entry: MakeEntry, make_sample: MakeSample) -> None:
    entry = make_entry(
        model=HOSTILE,
        task=HOSTILE,
        metric=HOSTILE,
        unit=HOSTILE,
        judge=HOSTILE,
        version=HOSTILE,
        provenance={HOSTILE: HOSTILE},
    )
    sample = make_sample(
        id=HOSTILE, image=HOSTILE, task=HOSTILE, prompt=HOSTILE, answer=HOSTILE, reply=HOSTILE, records={HOSTILE: {}}
    )
    curves = {HOSTILE: {HOSTILE: [Point(step=0, entry=entry), Point(step=9, entry=entry)]}}
    html = page(
        [entry],
        title=HOSTILE,
        base=HOSTILE,
        samples=logs_of(sample),
        curves=curves,
        notes=[HOSTILE],
        verdicts={entry.key: verdict(0, 1)},
    )
    assert "<img" not in html
    assert html.count("<script") == html.count("</script>") == 1 + len(index(html)) * 2 + 1
    assert "49" not in text_of(html).replace("19.3", "")
    assert text_of(html).count("{{7*7}}") > 5


def test_invisible_and_reversing_characters_are_written_out_in_names(make_entry: MakeEntry) -> None:
    html = page([make_entry(model="good\u202egnp.exe\u200b\x00")], title="a\u202eb")
    assert not re.search("[\u202e\u200b\x00]", html)
    assert r"good\u202egnp.exe\u200b\u0000" in html


def test_half_a_surrogate_pair_does_not_cost_the_page(
    make_entry: MakeEntry, make_sample: MakeSample, tmp_path: Path
) -> None:
    html = page(
        [make_entry(provenance={"note": "\ud800"})],
        title="\ud800",
        samples=logs_of(make_sample(answer="\ud800 cat", prompt="\udfff")),
    )
    write_page(tmp_path / "page.html", html)
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == html


def test_nothing_is_fetched_and_only_the_known_script_and_style_may_run(
    two: list[Entry], make_sample: MakeSample
) -> None:
    html = page(two, title="Board", samples=logs_of(make_sample()), thumbnails=lambda task, image: picture("red"))
    assert not re.search(r"https?:|//\w", re.sub(r"<(script|style)\b.*?</\1>", "", html, flags=re.S))
    assert not re.search(
        r"""\s(src|on\w+|style)=|@import|url\(""", re.sub(r"<script\b.*?</script>", "", html, flags=re.S)
    )
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy
    rules = unescape(policy[1])
    assert rules.startswith("default-src 'none';")
    assert "unsafe" not in rules
    for tag in ("script", "style"):
        content = re.search(rf"<{tag}>(.*?)</{tag}>", html, re.S)
        assert content
        digest = base64.b64encode(hashlib.sha256(content[1].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in rules


def test_a_tasks_cost_counts_once_however_many_metrics_it_has(make_entry: MakeEntry) -> None:
    judged = {"task": "mmhal", "judge": "gpt", "cost": 1.5, "seconds": 60.0, "samples": 96, "failed": 6}
    entries = [
        make_entry(metric="score", **judged),
        make_entry(metric="rate", **judged),
        make_entry(cost=0.5, seconds=30.0),
    ]
    cost = text_of(page(entries, title="Board")).split("Judge cost and time")[1]
    # 96 + 300 samples, 90 of them judged; 2 USD, 1.5 minutes.
    assert "base gpt 396 90 2.00 22.22 1.5" in cost


def test_what_ran_is_listed_with_the_task_where_tasks_differ(make_entry: MakeEntry) -> None:
    entries = [
        make_entry(provenance={"seed": "0", "task": "aa"}),
        make_entry(task="pope", metric="f1", provenance={"seed": "0", "task": "bb"}),
    ]
    runs = text_of(page(entries, title="Board")).split("What ran for the scores")[1]
    assert "seed 0 task aa (scenes_chair) task bb (pope)" in runs


def test_an_empty_board_is_a_page_too() -> None:
    assert "No results." in text_of(page([], title="Board"))


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "page.html"
    write_page(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_page(path, "\ud800")
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_making_a_page_loads_no_model_library() -> None:
    code = (
        "import sys; from leaderboards.views.html_page import page; page([], title='x'); "
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {
        "torch",
        "transformers",
        "lm_eval",
        "datasets",
        "matplotlib",
        "pandas",
        "tasks",
        "trainers",
        "harness",
    } & set(loaded)
