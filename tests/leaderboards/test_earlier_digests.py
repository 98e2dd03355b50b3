"""Boards of earlier versions: a task's digest is read as today's where prompts and rules are the same."""

from pathlib import Path

import pytest

from leaderboards.board.board import Board
from leaderboards.board.earlier_digests import SCHEME, SCHEME_FACT, _read_table, earliest_digest, with_current_digest
from tasks.registry import registry
from tasks.score_digest import score_digest

DEMO = Path(__file__).parents[1] / "runs" / "demo" / "board"


@pytest.mark.parametrize("task", sorted(_read_table()))
def test_the_last_digest_of_a_task_is_todays(task: str) -> None:
    """Fails when a task's code changes. No score moved: append the new digest to the table. A score moved: raise the
    task's version and take its line out."""
    assert _read_table()[task][-1] == score_digest(registry().task(task).path)


def test_an_entry_of_scheme_1_gets_the_digest_of_today() -> None:
    first, last = _read_table()["mme"][0], _read_table()["mme"][-1]
    assert with_current_digest("mme", {"task": first, "seed": "0"}) == {"task": last, "seed": "0", SCHEME_FACT: SCHEME}


@pytest.mark.parametrize("facts", ({"task": "0" * 16}, {}, {"task": _read_table()["mme"][-1], SCHEME_FACT: SCHEME}))
def test_other_entries_stay_as_they_are(facts: dict[str, str]) -> None:
    assert with_current_digest("mme", facts) == facts


def test_a_response_cache_keeps_its_names_while_the_rules_are_the_same() -> None:
    first, last = _read_table()["pope"][0], _read_table()["pope"][-1]
    assert earliest_digest("pope", last) == earliest_digest("pope", first) == first
    assert earliest_digest("pope", "f" * 16) == "f" * 16
    assert earliest_digest("no_such_task", last) == last


def test_a_demo_run_of_an_earlier_version_counts_as_scored_by_todays_rules() -> None:
    entries = Board(DEMO).current()
    assert {entry.task for entry in entries} == {"scenes_chair", "scenes_mme", "scenes_mmhal", "scenes_pope"}
    for entry in entries:
        assert entry.provenance["task"] == score_digest(registry().task(entry.task).path)
