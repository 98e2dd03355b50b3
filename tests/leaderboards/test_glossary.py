"""One text says in all views what intervals, p-values and marks are."""

import html
import json
import re
from dataclasses import replace

import pytest

from leaderboards.board.entry import Entry
from leaderboards.comparison.compare import Change, Comparison, to_blocks
from leaderboards.comparison.compare import to_json as comparison_json
from leaderboards.statistics.ranks import Rank
from leaderboards.statistics.seed_groups import Seeds
from leaderboards.statistics.verdict import PairedTest
from leaderboards.views import glossary
from leaderboards.views.columns import BoardComparison
from leaderboards.views.html_page import page
from leaderboards.views.markdown_report import leaderboard, to_json
from support.tables import Table
from support.tables import to_markdown as as_markdown
from tests.leaderboards.makers import MakeEntry

TEST = PairedTest(
    difference=-12.3, low=-16.0, high=-8.0, p=0.001, base=19.3, other=7.0, images=300, higher_is_better=False, mde=4.0
)


@pytest.fixture
def board(make_entry: MakeEntry) -> tuple[list[Entry], BoardComparison]:
    entries = [make_entry(), make_entry(run="run-2", model="tuned", value=7.0, low=4.0, high=10.0)]
    ranks = {entries[1].key: Rank(low=1, high=1, ties=())}
    return entries, BoardComparison(verdicts={entries[1].key: TEST}, ranks=ranks)


def test_a_board_says_it_in_markdown_json_and_on_the_page(board: tuple[list[Entry], BoardComparison]) -> None:
    entries, comparison = board
    family = glossary.p_of(glossary.OF_BOARD)
    text = leaderboard(entries, comparison=comparison, base="base")
    for said in (glossary.INTERVAL, glossary.MARKS, family, glossary.RANK):
        assert text.count(said) == 1
    told = json.loads(to_json(entries, comparison=comparison))
    assert told["glossary"]["p"] == family
    assert told["glossary"].keys() >= {"low", "high", "difference_low", "difference_high", "p", "mde", "outcome"}
    assert told["glossary"].keys() <= told["entries"][1].keys()  # each is of a field that is there
    shown = page(entries, title="Board", base="base", comparison=comparison)
    words = html.unescape(re.sub(r"<[^>]*>", " ", shown.split('id="words"')[1].split("</details>")[0]))
    for said in (glossary.INTERVAL, glossary.DIFFERENCE, family, glossary.VISIBLE, glossary.SIGNS["better"]):
        assert said in words
    assert glossary.SIGNS["worse"] not in words  # of the marks those that are there
    assert f'title="{html.escape(family)}"' in shown
    assert f'title="{html.escape(glossary.SIGNS["better"])}"' in shown


def test_a_comparison_of_two_names_its_own_family(board: tuple[list[Entry], BoardComparison]) -> None:
    one, other = board[0]
    change = Change(before=one, after=replace(other), verdict=TEST, why="", protocol_differences=[])
    found = Comparison(before="base", after="tuned", changes=[change], formats=[], flips=[], notes=[])
    family = glossary.p_of(glossary.OF_PAIR)
    blocks = to_blocks(found)
    assert family in as_markdown(blocks)
    assert all(family in block.caption for block in blocks if isinstance(block, Table))
    assert comparison_json(found)["glossary"]["p"] == family


def test_tests_over_seeds_are_not_said_to_be_permutations(board: tuple[list[Entry], BoardComparison]) -> None:
    one, other = board[0]
    third = replace(other, run="run-3", model="single")
    seeds = replace(TEST, seeds=Seeds(base=1, other=3, higher=0, lower=3, worse=3))
    of_both = BoardComparison(verdicts={other.key: seeds, third.key: TEST})
    for comparison, entries, unit in (
        (BoardComparison(verdicts={other.key: seeds}), [one, other], "seed"),
        (of_both, [one, other, third], "both"),
    ):
        said = glossary.p_of(glossary.OF_BOARD, unit)  # type: ignore[arg-type]
        assert ("permutation" in said) == (unit == "both")
        assert said in leaderboard(entries, comparison=comparison, base="base")
        told = json.loads(to_json(entries, comparison=comparison))["glossary"]
        assert (told["p"], told["seeds"]) == (said, glossary.SEEDS)
        assert html.escape(said) in page(entries, title="Board", base="base", comparison=comparison)
    change = Change(before=one, after=other, verdict=seeds, why="", protocol_differences=[])
    found = Comparison(before="base", after="tuned", changes=[change], formats=[], flips=[], notes=[])
    text = as_markdown(to_blocks(found))
    assert "permutation" not in text
    assert glossary.SEEDS in text
    assert "permutation" not in json.dumps(comparison_json(found))


def test_no_view_has_words_of_its_own_for_a_test_or_an_interval() -> None:
    from tests.test_floor_plan import ROOT

    own = re.compile(r"Holm-adjusted over the|p from a permutation test|permutation test over images")
    files = [*ROOT.glob("leaderboards/**/*.py"), *ROOT.glob("leaderboards/**/*.jinja"), *ROOT.glob("harness/**/*.py")]
    found = [
        path.name
        for path in files
        if path.name != "glossary.py" and any(own.search(row) for row in path.read_text(encoding="utf-8").splitlines())
    ]
    assert found == []
