from collections.abc import Callable

import pytest
from markdown_it import MarkdownIt

from leaderboards.entry import Entry
from leaderboards.report import cell, differences, leaderboard, line
from leaderboards.verdict import Verdict

MakeEntry = Callable[..., Entry]

HOSTILE = [
    "a|b||c\\|d\\\\|",
    "trailing backslash\\",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[click](javascript:alert(1))",
    "![image](http://example.org/x.png)",
    "`code` ``more`` `",
    "**bold** *slanted* _slanted_ __init__ ~~gone~~",
    "&lt;b&gt; &#124; &amp;",
    "<!-- hidden",
    "# heading - | --- |",
]


def shown(markdown: str) -> list[list[str]]:
    """The table's cells as a reader sees them; fails if anything in a cell is more than text."""
    rows: list[list[str]] = []
    for token in MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown):
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline":
            assert {child.type for child in token.children or []} <= {"text", "text_special"}
            rows[-1].append("".join(child.content for child in token.children or []))
    return rows


def verdict(**changes: object) -> Verdict:
    usual = {"difference": -12.34, "low": -16.0, "high": -8.04, "p": 0.00005, "base": 19.3, "other": 6.96, "images": 300}
    return Verdict(**usual | {"higher_is_better": False} | changes)  # type: ignore[arg-type]


def test_a_row_is_a_model_and_a_column_a_metric(make_entry: MakeEntry) -> None:
    entries = [
        make_entry(model="base"),
        make_entry(model="tuned", value=5.8, low=None, high=None),
        make_entry(
            model="base", task="scenes_mme", metric="total", value=1531.26, low=1500, high=1560.04, unit="points", higher_is_better=True
        ),
    ]
    assert shown(leaderboard(entries)) == [
        ["model", "scenes_chair CHAIR_s % ↓", "scenes_mme total points ↑"],
        ["base", "19.3 [15.3, 23.0]", "1531.3 [1500.0, 1560.0]"],
        ["tuned", "5.8", "—"],
    ]


def test_what_could_not_be_scored_is_said(make_entry: MakeEntry) -> None:
    usual = {"metric": "score", "unit": "0-6", "higher_is_better": True, "samples": 96, "low": None, "high": None}
    entries = [
        make_entry(model="a", value=2.3051, unscored=2, **usual),
        make_entry(model="b", value=2.0, unscored=1, failed=3, **usual),
        make_entry(model="c", value=None, failed=96, **usual),
        make_entry(model="d", value=2.0, limit=8, **usual | {"samples": 8}),
    ]
    assert [row[1] for row in shown(leaderboard(entries))[1:]] == [
        "2.31 (94/96)",
        "2.00 (92/96, 3 failed)",
        "— (0/96, 96 failed)",
        "2.00 (limit 8)",
    ]


def test_versions_and_judges_never_share_a_column(make_entry: MakeEntry) -> None:
    entries = [
        make_entry(model="a", version="1"),
        make_entry(model="a", task="mmhal", judge="gpt", version="7"),
        make_entry(model="b", version="2", value=5.0, low=None, high=None),
        make_entry(model="b", task="mmhal", judge="exact", version="7"),
    ]
    header, a, b = shown(leaderboard(entries))
    assert header[1:] == [
        "scenes_chair CHAIR_s % ↓ (version 1)",
        "scenes_chair CHAIR_s % ↓ (version 2)",
        "mmhal CHAIR_s % ↓ (judge gpt)",
        "mmhal CHAIR_s % ↓ (judge exact)",
    ]
    score = "19.3 [15.3, 23.0]"
    assert a == ["a", score, "—", score, "—"]
    assert b == ["b", "—", "5.0", "—", score]


def test_units_and_directions_never_share_a_column(make_entry: MakeEntry) -> None:
    entries = [make_entry(), make_entry(model="b", unit="words"), make_entry(model="c", higher_is_better=True)]
    assert len(shown(leaderboard(entries))[0]) == 4


def test_of_two_numbers_for_one_cell_the_newer_is_shown(make_entry: MakeEntry) -> None:
    new = make_entry(run="new", value=1.0, low=None, high=None, created="2026-02-01T00:00:00Z")
    assert shown(leaderboard([new, make_entry()]))[1] == ["base", "1.0"]


def test_only_headline_metrics_when_asked(make_entry: MakeEntry) -> None:
    entries = [make_entry(), make_entry(metric="coverage", headline=False)]
    assert shown(leaderboard(entries, only_headline=True))[0] == ["model", "scenes_chair CHAIR_s % ↓"]
    assert len(shown(leaderboard(entries))[0]) == 3


def test_an_empty_board_says_so() -> None:
    assert leaderboard([]) == "No results."


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_shown_as_they_are_and_do_nothing(make_entry: MakeEntry, name: str) -> None:
    seen = " ".join(name.split())
    header, row = shown(leaderboard([make_entry(model=name, task=name, metric=name, judge=name, unit=name)]))
    assert row[0] == seen
    assert header == ["model", f"{seen} {seen} {seen} ↓ (judge {seen})"]
    assert shown(differences({name: verdict()}, units={name: name}))[1][0] == f"{seen} {seen} ↓"


def test_line_breaks_and_invisible_characters_are_taken_out() -> None:
    assert line("a\nb\r\nc\td\u2028e\x85f  g") == "a b c d e f g"
    assert line("\x1b[31mred\x00\x07\u202egnp\u202c.exe\u2066\u200b\ufeff\ud800\U000e0041") == "[31mredgnp.exe"
    assert cell("x\n| y") == "x \\| y"
    assert line("naïve 图 é") == "naïve 图 é"


def test_an_ordinary_name_stays_readable_in_a_terminal() -> None:
    assert cell("llava-1.5-7b scenes_chair CHAIR_s 0-6 % (v2)") == "llava-1.5-7b scenes_chair CHAIR_s 0-6 % (v2)"


def test_differences_are_shown_with_interval_p_and_outcome() -> None:
    verdicts = {
        "chair": verdict(),
        "mme": verdict(base=None, other=3.0, difference=None, low=None, high=None, p=1.0, higher_is_better=True),
        "none": verdict(difference=-0.04, low=-0.01, high=2.0, p=0.8),
    }
    assert shown(differences(verdicts, units={"chair": "%", "none": "%"})) == [
        ["metric", "base", "other", "difference", "p", "other is"],
        ["chair % ↓", "19.3", "7.0", "-12.3 [-16.0, -8.0]", "<0.0001", "better"],
        ["mme ↑", "—", "3.000", "—", "1.0000", "not separable"],
        ["none % ↓", "19.3", "7.0", "0.0 [0.0, 2.0]", "0.8000", "not separable"],
    ]


def test_a_rise_has_its_sign() -> None:
    assert shown(differences({"x": verdict(difference=2.0, low=0.5, high=3.0)}, units={"x": "%"}))[1][3] == "+2.0 [0.5, 3.0]"


def test_a_board_of_a_thousand_models_and_twenty_tasks_is_whole(make_entry: MakeEntry) -> None:
    entries = [make_entry(model=f"model-{m}", task=f"task-{t}", value=m / 100) for m in range(1000) for t in range(20)]
    lines = leaderboard(entries).splitlines()
    assert len(lines) == 1002
    assert all(row.count("|") == 22 for row in lines)
    assert lines[-1].split("|")[1].strip() == "model-999"
    assert lines[-1].split("|")[-2].strip() == "10.0 [15.3, 23.0]"
