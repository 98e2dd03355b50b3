"""Which of several runs of a name counts: the one added last, of the weights that the name has now."""

import json
from pathlib import Path

import pytest

from leaderboards.board.board import Board, newest
from tests.leaderboards.makers import MakeEntry


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path / "board")


def _forget_sequences(board: Board) -> None:
    """Make the files those of an earlier version, which did not number runs."""
    for path in board.folder.glob("*.json"):
        data = json.loads(path.read_text())
        for entry in data["entries"]:
            del entry["sequence"]
        path.write_text(json.dumps(data))


def test_entries_come_in_the_order_in_which_runs_were_added(board: Board, make_entry: MakeEntry) -> None:
    dates = {"z": "2026-03-01T00:00:00+00:00", "b": "2031-01-01T00:00:00Z", "a": "2026-01-01T00:00:00Z"}
    added = [make_entry(run=run, created=created) for run, created in dates.items()]
    for entry in added:
        board.add([entry], [])
    assert board.entries() == added
    assert [entry.sequence for entry in board.entries()] == [1, 2, 3]
    board.add(added[:1], [])  # the same again does nothing
    assert [entry.sequence for entry in board.entries()] == [1, 2, 3]


def test_runs_that_were_not_numbered_come_oldest_first(board: Board, make_entry: MakeEntry) -> None:
    late = make_entry(run="a", created="2026-03-01T00:00:00+00:00")
    early = make_entry(run="z", created="2026-01-01T00:00:00Z")
    middle = [make_entry(run=run, created="2026-02-01T00:00:00.5+00:00") for run in ("b", "c")]
    for entry in (late, middle[1], early, middle[0]):
        board.add([entry], [])
    _forget_sequences(board)
    assert board.entries() == [early, *middle, late]
    board.add([make_entry(run="last", created="2025-01-01T00:00:00Z")], [])
    assert [entry.run for entry in board.entries()] == ["z", "b", "c", "a", "last"]


@pytest.mark.parametrize("numbered", (True, False))
@pytest.mark.parametrize("same_weights", (True, False))
def test_a_date_in_the_future_hides_no_other_run(
    board: Board, make_entry: MakeEntry, numbered: bool, same_weights: bool
) -> None:
    ahead = make_entry(run="ahead", value=0.0, created="2999-01-01T00:00:00Z", provenance={"weights": "w1"})
    weights = "w1" if same_weights else "w2"
    right = make_entry(run="right", value=12.5, created="2026-01-01T00:00:00Z", provenance={"weights": weights})
    board.add([ahead], [])
    board.add([right], [])
    if not numbered:
        _forget_sequences(board)
    assert [entry.value for entry in board.current()] == [12.5]
    assert [entry.run for entry in board.entries() if entry.in_future] == ["ahead"]
    assert newest([ahead, right]) == [right]


def test_the_newest_entry_of_a_key_stands(board: Board, make_entry: MakeEntry) -> None:
    first = make_entry(run="1", created="2026-01-01T00:00:00Z")
    others = [
        make_entry(run="2", created="2026-01-02T00:00:00Z", **change)
        for change in ({"task": "scenes_mme"}, {"metric": "CHAIR_i"}, {"version": "2"}, {"judge": "gpt"})
    ]
    other_model = make_entry(run="3", model="tuned", created="2026-01-03T00:00:00Z")
    again = make_entry(run="4", value=18.0, created="2026-01-04T00:00:00Z")
    for run in ([first], others, [other_model], [again]):
        board.add(run, [])
    assert board.current() == [again, *others, other_model]  # a model keeps its place when it is scored anew


def test_a_limited_run_neither_stands_nor_hides_a_whole_one(board: Board, make_entry: MakeEntry) -> None:
    whole = make_entry(run="1", created="2026-01-01T00:00:00Z")
    limited = make_entry(run="2", limit=8, samples=8, created="2026-01-02T00:00:00Z")
    board.add([whole], [])
    board.add([limited], [])
    assert board.current() == [whole]
    assert board.current(partial=True) == [whole]
    assert board.measured(8) == [limited]
    assert board.measured(None) == [whole]


def test_a_run_on_data_that_lack_rows_does_not_stand(board: Board, make_entry: MakeEntry) -> None:
    lacking = make_entry(provenance={"weights": "12ab", "rows": "partial"})
    board.add([lacking], [])
    assert board.current() == []
    assert board.current(partial=True) == [lacking]


def at(day: int, **changes: object) -> dict[str, object]:
    return {"run": f"run-{day}", "created": f"2026-01-0{day}T12:00:00Z", **changes}


def test_a_checkpoint_overwritten_in_place_never_stands_for_the_new_one(board: Board, make_entry: MakeEntry) -> None:
    old = make_entry(**at(1, provenance={"weights": "base", "adapter": "old"}))
    other = make_entry(**at(1, provenance={"weights": "base", "adapter": "old"}, task="pope"))
    new = make_entry(**at(2, provenance={"weights": "base", "adapter": "new"}))
    board.add([old, other], [])
    assert board.current() == [old, other]
    board.add([new], [])
    assert board.current() == [new]
    assert {(entry.task, entry.model) for entry in board.replaced} == {
        ("scenes_chair", "base (weights base+old)"),
        ("pope", "base (weights base+old)"),
    }
    assert newest([*board.entries()]) == [new]


def test_replaced_weights_can_be_shown_in_rows_of_their_own(board: Board, make_entry: MakeEntry) -> None:
    board.add(
        [
            make_entry(**at(1, value=10.0, low=None, high=None)),
            make_entry(**at(1, task="pope", value=20.0, low=None, high=None)),
        ],
        [],
    )
    board.add([make_entry(**at(2, provenance={"weights": "new"}, value=30.0, low=None, high=None))], [])
    shown = board.current(replaced=True)
    assert [(entry.model, entry.task, entry.value) for entry in shown] == [
        ("base", "scenes_chair", 30.0),
        ("base (weights sha256:12ab)", "scenes_chair", 10.0),
        ("base (weights sha256:12ab)", "pope", 20.0),
    ]
    assert newest(shown) == shown  # whoever shows them takes the newest again
    assert board.replaced == []


def test_even_a_limited_run_of_new_weights_ends_the_standing_of_the_old(board: Board, make_entry: MakeEntry) -> None:
    board.add([make_entry(**at(1))], [])
    board.add([make_entry(**at(2, provenance={"weights": "new"}, limit=8, samples=8))], [])
    assert board.current() == []
    assert [entry.run for entry in board.replaced] == ["run-1"]


def test_weights_that_are_put_back_stand_again(board: Board, make_entry: MakeEntry) -> None:
    for day, weights in enumerate(("old", "new", "old"), 1):
        board.add([make_entry(**at(day, provenance={"weights": weights}))], [])
    assert [entry.run for entry in board.current()] == ["run-3"]


def test_entries_that_do_not_know_their_weights_replace_nothing_and_stay(board: Board, make_entry: MakeEntry) -> None:
    known = make_entry(**at(1))
    imported = make_entry(**at(2, version="lm-eval 0.4.13/task 1", provenance={"imported": "lm-eval"}))
    board.add([known], [])
    board.add([imported], [])
    assert board.current() == [known, imported]
    assert board.replaced == []


def test_newest_does_not_depend_on_the_order_given(make_entry: MakeEntry) -> None:
    old, new = make_entry(run="1", created="2026-01-01T00:00:00Z"), make_entry(run="2", created="2026-01-02T00:00:00Z")
    assert newest([old, new]) == newest([new, old]) == [new]
