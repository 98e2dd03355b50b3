import csv
import io
import json

import pytest
from markdown_it import MarkdownIt

from leaderboards.board.entry import from_json
from leaderboards.board.entry import to_json as entry_to_json
from leaderboards.statistics.ranks import Rank
from leaderboards.statistics.verdict import PairedTest
from leaderboards.views.columns import BoardComparison
from leaderboards.views.glossary import INTERVAL, MARKS, OF_BOARD, p_of
from leaderboards.views.markdown_report import differences, leaderboard, to_csv, to_json
from support.errors import BoardError
from support.markdown import cell, line
from tests.leaderboards.makers import MakeEntry

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
        if token.type == "table_close":
            break
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline":
            assert {child.type for child in token.children or []} <= {"text", "text_special"}
            rows[-1].append("".join(child.content for child in token.children or []))
    return rows


def verdict(**changes: object) -> PairedTest:
    usual = {
        "difference": -12.34,
        "low": -16.0,
        "high": -8.04,
        "p": 0.00005,
        "base": 19.3,
        "other": 6.96,
        "images": 300,
    }
    return PairedTest(**usual | {"higher_is_better": False} | changes)  # type: ignore[arg-type]


def test_a_row_is_a_model_and_a_column_a_metric(make_entry: MakeEntry) -> None:
    entries = [
        make_entry(model="base"),
        make_entry(model="tuned", value=5.8, low=None, high=None),
        make_entry(
            model="base",
            task="scenes_mme",
            metric="total",
            value=1531.26,
            low=1500,
            high=1560.04,
            unit="points",
            higher_is_better=True,
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


def test_a_line_has_no_breaks_and_invisible_characters_are_written_out() -> None:
    assert line("a\nb\r\nc\td\u2028e\x85f  g") == "a b c d e f g"
    assert line("\x1b[31mred\x00\x07\u202egnp\u202c.exe\u2066\u200b\ufeff\ud800\U000e0041") == (
        r"\u001b[31mred\u0000\u0007\u202egnp\u202c.exe\u2066\u200b\ufeff\ud800\U000e0041"
    )
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
    assert (
        shown(differences({"x": verdict(difference=2.0, low=0.5, high=3.0)}, units={"x": "%"}))[1][3]
        == "+2.0 [0.5, 3.0]"
    )


def test_a_board_of_a_thousand_models_and_twenty_tasks_is_whole(make_entry: MakeEntry) -> None:
    entries = [make_entry(model=f"model-{m}", task=f"task-{t}", value=m / 100) for m in range(1000) for t in range(20)]
    lines = leaderboard(entries).splitlines()
    assert lines[-2:] == ["", INTERVAL]
    lines = lines[:-2]
    assert len(lines) == 1002
    assert all(row.count("|") == 22 for row in lines)
    assert lines[-1].split("|")[1].strip() == "model-999"
    assert lines[-1].split("|")[-2].strip() == "10.0 [15.3, 23.0]"


# -- ranks and the base


def test_ranks_tie_and_the_difference_to_the_base_is_marked(make_entry: MakeEntry) -> None:
    entries = [make_entry(model=name) for name in ("base", "good", "bad", "same", "unknown")]
    base, good, bad, same, _ = (entry.key for entry in entries)
    text = leaderboard(
        entries,
        base="base",
        comparison=BoardComparison(
            verdicts={
                good: verdict(p=0.001),
                bad: verdict(difference=5.0, p=0.001),
                same: verdict(difference=-0.2, p=0.7),
            },
            ranks={good: Rank(low=1, high=1, ties=()), base: Rank(low=2, high=3, ties=("same",))},
        ),
    )
    table, legend = text.split("\n\n")
    score = "19.3 [15.3, 23.0]"
    assert shown(table)[1:] == [
        ["base (base)", f"{score} #2–3"],
        ["good", f"{score} #1 -12.3 ▲"],
        ["bad", f"{score} +5.0 ▼"],
        ["same", f"{score} -0.2 ≈"],
        ["unknown", score],
    ]
    assert f"Difference to base on the same questions: {MARKS} {p_of(OF_BOARD)}" in legend
    assert "#: the ranks" in legend


def test_without_verdicts_and_ranks_the_legend_is_of_intervals_and_without_these_there_is_none(
    make_entry: MakeEntry,
) -> None:
    assert leaderboard([make_entry()]).partition("\n\n")[2] == INTERVAL
    of_others = BoardComparison(verdicts={("x", "y", "z", "1", None): verdict()})
    assert leaderboard([make_entry()], comparison=of_others).partition("\n\n")[2] == INTERVAL
    assert "\n\n" not in leaderboard([make_entry(low=None, high=None)])


def test_an_unknown_base_is_refused_with_the_names_there_are(make_entry: MakeEntry) -> None:
    with pytest.raises(BoardError) as raised:
        leaderboard([make_entry(model="llava-7b"), make_entry(model="silkie")], base="lava-7b")
    assert (
        str(raised.value)
        == "base model 'lava-7b' is not on the board (did you mean 'llava-7b'?); known: llava-7b, silkie"
    )


def test_scores_of_another_tool_and_of_a_part_of_the_data_say_so(make_entry: MakeEntry) -> None:
    entries = [
        make_entry(model="a", provenance={"imported": "lm-eval"}),
        make_entry(model="b", provenance={"rows": "partial"}),
    ]
    assert [row[1] for row in shown(leaderboard(entries))[1:]] == [
        "19.3 [15.3, 23.0] (by lm-eval)",
        "19.3 [15.3, 23.0] (partial data)",
    ]


def test_how_a_model_answers_is_neither_better_nor_worse(make_entry: MakeEntry) -> None:
    entries = [
        make_entry(model=model, metric=metric)
        for metric in ("yes_rate", "length")
        for model in ("base", "up", "down", "same")
    ]
    by_model = {
        "up": verdict(difference=5.0, p=0.001),
        "down": verdict(difference=-5.0, p=0.001),
        "same": verdict(p=0.7),
    }
    verdicts = {entry.key: by_model[entry.model] for entry in entries if entry.model in by_model}
    ranks = {entry.key: Rank(low=1, high=1, ties=()) for entry in entries}
    comparison = BoardComparison(verdicts=verdicts, ranks=ranks)
    text = leaderboard(entries, comparison=comparison, base="base")
    table, legend = text.split("\n\n")
    score = "19.3 [15.3, 23.0]"
    assert shown(table) == [
        ["model", "scenes_chair yes_rate %", "scenes_chair length %"],
        ["base (base)", score, score],
        ["up", *[f"{score} +5.0 higher"] * 2],
        ["down", *[f"{score} -5.0 lower"] * 2],
        ["same", *[f"{score} -12.3 ≈"] * 2],
    ]
    assert "Higher, lower: of how a model answers" in legend
    assert "#" not in text
    rows = list(csv.DictReader(io.StringIO(to_csv(entries, comparison=comparison))))
    assert [row["outcome"] for row in rows[:4]] == ["", "higher", "lower", "not separable"]
    assert {row["rank_low"] for row in rows} == {""}
    assert shown(differences({"scenes_mme.yes_rate": verdict(difference=3.0)}))[1][::5] == [
        "scenes_mme.yes_rate",
        "higher",
    ]


def test_a_base_that_was_asked_differently_is_marked_and_told(make_entry: MakeEntry) -> None:
    entries = [make_entry(model=name) for name in ("base", "good", "other")]
    verdicts = {entry.key: verdict(p=0.001) for entry in entries[1:]}
    differences_to_base = {entries[2].key: ["split was 'val', is 'test'", "prompts was 'none', is 'official'"]}
    comparison = BoardComparison(verdicts=verdicts, protocol_differences=differences_to_base)
    table, legend = leaderboard(entries, comparison=comparison, base="base").split("\n\n")
    assert [row[1].split("] ")[-1] for row in shown(table)[2:]] == ["-12.3 ▲", "-12.3 ▲ ≠"]
    assert "≠: base was asked or rated differently" in legend
    assert "≠" not in leaderboard(entries, comparison=BoardComparison(verdicts=verdicts), base="base")
    rows = list(csv.DictReader(io.StringIO(to_csv(entries, comparison=comparison))))
    assert [row["asked_otherwise"] for row in rows] == [
        "",
        "",
        "split was 'val', is 'test'; prompts was 'none', is 'official'",
    ]
    told = json.loads(to_json(entries, comparison=comparison))["entries"]
    assert [row["asked_otherwise"] for row in told] == [[], [], differences_to_base[entries[2].key]]


def test_few_models_with_many_metrics_are_shown_a_row_a_metric(make_entry: MakeEntry) -> None:
    entries = [make_entry(model=model, metric=f"m{i}", value=float(i)) for model in ("base", "tuned") for i in range(9)]
    found = shown(leaderboard([*entries, make_entry(model="tuned", metric="own")], base="base"))
    assert found[0] == ["metric", "base (base)", "tuned"]
    assert found[3] == ["scenes_chair m2 % ↓", *["2.0 [15.3, 23.0]"] * 2]
    assert found[10] == ["scenes_chair own % ↓", "—", "19.3 [15.3, 23.0]"]
    many = [make_entry(model=f"model {n}", metric=f"m{i}") for n in range(12) for i in range(9)]
    assert len(shown(leaderboard(many))) == 13


# -- CSV and JSON


@pytest.mark.parametrize(
    "name",
    (
        "=1+1",
        "+1",
        "-1",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "\u200b=1",
        "\u200b =cmd|' /C calc'!A0",
        "＝1+1",
        '=HYPERLINK("http://e.org";"x")',
        "\n@x",
        "::error::x",
        " ::add-mask::x",
        "##[group]x",
        "\x00=1",
    ),
)
def test_no_text_in_a_csv_is_a_formula(make_entry: MakeEntry, name: str) -> None:
    (row,) = csv.DictReader(io.StringIO(to_csv([make_entry(model=name, judge=name, unit=name)])))
    for column in ("model", "judge", "unit"):
        assert row[column].startswith(("'", "\\u"))
        assert "\n" not in row[column]


def test_a_csv_keeps_every_digit_and_negative_numbers(make_entry: MakeEntry) -> None:
    entry = make_entry(value=-1.23456789, low=-2.5, high=0.0, unscored=2, model='a,"b"')
    ranks = {entry.key: Rank(low=1, high=3, ties=("x",))}
    text = to_csv([entry], comparison=BoardComparison(verdicts={entry.key: verdict()}, ranks=ranks))
    (row,) = csv.DictReader(io.StringIO(text))
    assert (row["model"], row["value"], row["low"], row["scored"]) == ('a,"b"', "-1.23456789", "-2.5", "298")
    assert (row["difference"], row["outcome"], row["rank_low"], row["rank_high"]) == ("-12.34", "better", "1", "3")
    assert (row["judge"], row["higher_is_better"]) == ("", "false")


def test_csv_and_json_hold_the_newest_and_the_headline_if_asked(make_entry: MakeEntry) -> None:
    entries = [
        make_entry(),
        make_entry(run="new", created="2026-02-01T00:00:00Z", value=1.0, low=0.0, high=2.0),
        make_entry(metric="x", headline=False),
    ]
    assert len(to_csv(entries).splitlines()) == 3
    assert [row["value"] for row in csv.DictReader(io.StringIO(to_csv(entries, only_headline=True)))] == ["1.0"]
    assert [row["run"] for row in json.loads(to_json(entries, only_headline=True))["entries"]] == ["new"]


def test_json_gives_the_entries_back_whole(make_entry: MakeEntry) -> None:
    entry = make_entry()
    comparison = BoardComparison(ranks={entry.key: Rank(low=1, high=2, ties=())})
    (row,) = json.loads(to_json([entry], comparison=comparison))["entries"]
    assert (row["rank_low"], row["rank_high"], row["outcome"], row["scored"]) == (1, 2, None, 300)
    assert from_json({name: row[name] for name in entry_to_json(entry)}, where="here") == entry
