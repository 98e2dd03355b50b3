"""The board in each of its forms: as a terminal of 80, 120 and 200 columns draws it, as LaTeX, as CSV.

The expected texts are beside this file; `pytest tests/leaderboards/test_tables.py --force-regen` writes them anew.
"""

import csv
import io
import re
from dataclasses import replace

import pytest
from pytest_regressions.file_regression import FileRegressionFixture
from rich.console import Console

from leaderboards.board.entry import Entry
from leaderboards.statistics.ranks import Rank
from leaderboards.statistics.verdict import PairedTest
from leaderboards.views.columns import BoardComparison
from leaderboards.views.markdown_report import leaderboard_blocks
from support.markdown import cell, table
from support.tables import Block, Cell, Table, blocks_of, to_csv, to_latex, to_markdown
from support.terminal import draw
from tests.leaderboards.makers import MakeEntry

CODES = re.compile(r"\x1b\[[0-9;]*m")


def drawn(blocks: list[Block], width: int, *, no_color: bool = False) -> str:
    """What a terminal gets, codes and all."""
    screen = io.StringIO()
    console = Console(
        file=screen, width=width, force_terminal=True, color_system="standard", no_color=no_color, highlight=False
    )
    draw(blocks, console)
    return screen.getvalue()


def lines_of(text: str) -> str:
    return "\n".join(line.rstrip() for line in CODES.sub("", text).splitlines()) + "\n"


def board(make_entry: MakeEntry) -> tuple[list[Entry], BoardComparison]:
    """Three models on three tasks; the third lacks one."""
    scores = {
        "llava-1.5-7b": (48.1, 85.9, 2.3),
        "runs/povid/checkpoint-40": (31.6, 86.9, 2.1),
        "runs/dpo_beta_0.1/checkpoint-200": (35.0, None, 2.8),
    }
    metrics = (("chair", "CHAIR_s", "%", False), ("pope", "f1", "%", True), ("mmhal", "score", "0-6", True))
    entries = []
    for model, values in scores.items():
        for (task, metric, unit, higher), value in zip(metrics, values, strict=True):
            if value is None:
                continue
            wide = 0.2 if unit == "0-6" else 2.5
            judge = "gpt-4-0613" if task == "mmhal" else None
            more = {"higher_is_better": higher, "value": value, "low": value - wide, "high": value + wide}
            entries.append(make_entry(model=model, task=task, metric=metric, unit=unit, judge=judge, **more))
    entries = [replace(entry, failed=3) if entry.task == "pope" else entry for entry in entries]
    usual = {"p": 0.0005, "base": 48.1, "images": 500}
    fell = PairedTest(difference=-16.5, low=-20.0, high=-13.0, other=31.6, higher_is_better=False, **usual)  # type: ignore[arg-type]
    lost = PairedTest(difference=-0.2, low=-0.3, high=-0.1, other=2.1, higher_is_better=True, **usual)  # type: ignore[arg-type]
    found = BoardComparison(
        verdicts={entries[3].key: fell, entries[5].key: lost},
        ranks={entry.key: Rank(low=1, high=2, ties=()) for entry in entries if entry.task == "chair"},
    )
    return entries, found


@pytest.mark.parametrize("width", (80, 120, 200))
def test_the_board_fits_the_terminal(width: int, make_entry: MakeEntry, file_regression: FileRegressionFixture) -> None:
    entries, found = board(make_entry)
    text = drawn(leaderboard_blocks(entries, comparison=found, base="llava-1.5-7b", ranked=True), width)
    shown = lines_of(text)
    assert max(map(len, shown.splitlines())) <= width
    assert shown.count("[29.1, 34.1]") == shown.count("[84.4, 89.4]") == shown.count("[2.60, 3.00]") == 1
    file_regression.check(shown, basename=f"board-{width}", extension=".txt")


def test_the_board_as_latex(make_entry: MakeEntry, file_regression: FileRegressionFixture) -> None:
    entries, found = board(make_entry)
    text = to_latex(leaderboard_blocks(entries, comparison=found, base="llava-1.5-7b", ranked=True))
    file_regression.check(text + "\n", basename="board", extension=".tex")


def test_colours_say_better_and_worse_and_bold_the_best(make_entry: MakeEntry) -> None:
    entries, found = board(make_entry)
    blocks = leaderboard_blocks(entries, comparison=found, base="llava-1.5-7b", ranked=True)
    text = drawn(blocks, 200)
    assert re.search(r"\x1b\[1m31\.6\x1b", text)
    assert not re.search(r"\x1b\[1m48\.1\x1b", text)
    assert re.search(r"\x1b\[32m▲", text)
    assert re.search(r"\x1b\[31m▼", text)
    plain = drawn(blocks, 200, no_color=True)
    assert not re.search(r"\x1b\[3[0-9]m", plain)
    assert lines_of(plain) == lines_of(text)


def test_models_are_sorted_by_their_average_rank(make_entry: MakeEntry) -> None:
    entries, found = board(make_entry)
    [shown, legend] = leaderboard_blocks(entries, comparison=found, ranked=True)
    assert isinstance(shown, Table)
    assert [row[0].text for row in shown.cells] == [
        *("runs/povid/checkpoint-40", "llava-1.5-7b", "runs/dpo_beta_0.1/checkpoint-200")
    ]
    assert [row[1].text for row in shown.cells] == ["1.67", "2.33", "—"]
    assert "of models that have them all" in str(legend)
    [as_given, _] = leaderboard_blocks(entries, comparison=found)
    assert isinstance(as_given, Table)
    assert as_given.cells[0][0].text == "llava-1.5-7b"
    assert "average rank ↓" not in as_given.headers


def test_a_score_that_says_nothing_leads_nothing(make_entry: MakeEntry) -> None:
    mute = make_entry(model="mute", metric="CHAIR_s", value=0.0, higher_is_better=False, samples=10, empty=10)
    other = make_entry(model="other", metric="CHAIR_s", value=40.0, higher_is_better=False, samples=10, empty=0)
    third = make_entry(model="third", metric="CHAIR_s", value=50.0, higher_is_better=False, samples=10, empty=0)
    assert mute.mute
    [shown, *_] = leaderboard_blocks([mute, other, third], ranked=True)
    assert isinstance(shown, Table)
    assert {row[0].text: row[1].best for row in shown.cells} == {"other": True, "third": False, "mute": False}


HOSTILE = ["50% & more_of #1 {x} $y$ \\end{table} ~^", "a | b", "=cmd()", "<b>bold</b>", "[link](http://x)"]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_is_markup_in_any_form(text: str) -> None:
    found: list[Block] = [Table([text, "n"], [[text, "1"]], caption=text)]
    [back] = blocks_of(to_markdown(found))
    assert isinstance(back, Table)
    assert (back.headers[0], back.cells[0][0].text) == (text, text)
    rows = list(csv.reader(io.StringIO(to_csv(found))))
    assert rows[1] == [("'" + text) if text.startswith("=") else text, "1"]
    latex = to_latex(found)
    bare = latex.replace(r"\textbackslash{}", "").replace(r"\{", "").replace(r"\}", "")
    assert bare.count("{") == bare.count("}")
    for sign in "%#_$":
        inside = re.sub(r"\$\\\w+\$", "", latex.split(r"\toprule")[1])
        assert not re.search(rf"(?<!\\)\{sign}", inside)
    assert text in lines_of(drawn(found, 200))


def test_csv_has_the_ends_of_intervals_and_the_remarks_apart() -> None:
    cells: list[list[Cell | str]] = [["a", Cell("61.2", "58.0", "64.3", "#1", "(limit 8)")], ["b", "-1.5 [-2.0, -1.0]"]]
    rows = list(csv.DictReader(io.StringIO(to_csv([Table(["model", "f1"], cells), "A legend."]))))
    assert rows[0] == {"model": "a", "f1": "61.2", "f1 low": "58.0", "f1 high": "64.3", "f1 note": "#1 (limit 8)"}
    assert rows[1] == {"model": "b", "f1": "-1.5", "f1 low": "-2.0", "f1 high": "-1.0", "f1 note": ""}


def test_tables_in_a_report_are_found_and_the_rest_kept() -> None:
    rows = [[cell("a_b | c"), "1.0 [0.5, 1.5]"]]
    text = (
        f"# Report\n\nSome words.\n\n{table(['what', 'f1'], rows)}\n\n- a list\n- of two\n\n{table(['x'], [['y']])}\n"
    )
    before, first, between, second = blocks_of(text)
    assert (before, between) == ("# Report\n\nSome words.", "- a list\n- of two")
    assert isinstance(first, Table)
    assert isinstance(second, Table)
    assert first.cells[0] == [Cell("a_b | c"), Cell("1.0", "0.5", "1.5")]


def test_text_is_left_aligned_and_numbers_are_right_aligned() -> None:
    found = Table(["model", "n", "why"], [["a", "1,234", "some"], ["b", "—", "words"], ["c", "7", ""]])
    assert found.numeric == [False, True, False]
    assert re.search(r"\|:-+\|-+:\|:-+\|", to_markdown([found]))


def test_a_table_wider_than_the_terminal_is_drawn_in_parts() -> None:
    heads = ["model", *(f"metric_{number}" for number in range(12))]
    found = Table(heads, [["a-model", *(f"{number}.0" for number in range(12))]])
    shown = lines_of(drawn([found], 60))
    assert max(map(len, shown.splitlines())) <= 60
    assert len(re.findall("^model ", shown, re.MULTILINE)) == shown.count("a-model") > 1
    assert re.findall(r"metric_\d+", shown) == heads[1:]


def test_no_word_is_lost_on_a_terminal_that_is_too_narrow() -> None:
    found = Table(["model", "what it is"], [["a/very_long_path/to/" * 4, "words of a text that goes on"]])
    shown = "".join(lines_of(drawn([found], 24)).split())
    assert "a/very_long_path/to/" in shown
    assert all(word in shown for word in "words of a text that goes on".split())
