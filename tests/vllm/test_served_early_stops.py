"""Early stops and likelihoods of a real vLLM: what they change of a score is nothing."""

from pathlib import Path

import pytest

from leaderboards.board.board import Board
from leaderboards.board.sample import Sample
from tasks.early_exit import next_token_accuracy
from tasks.registry import NEXT_TOKEN
from tests.vllm.conftest import SET, run

pytestmark = pytest.mark.slow


def samples_of(folder: Path) -> dict[tuple[str, str], Sample]:
    board = Board(folder / "board")
    return {
        (each.task, each.id): each for run in {entry.run for entry in board.entries()} for each in board.samples(run)
    }


def records_of(one: Sample) -> dict[str, object]:
    """What scores are computed from, but for an answer's length: that of one that was cut is not known."""
    kept = {name: record for name, record in one.records.items() if name not in (NEXT_TOKEN, "answer_length")}
    return {name: {key: value for key, value in record.items() if key != "words"} for name, record in kept.items()}


def test_answers_that_end_early_score_as_full_ones_and_first_tokens_are_as_likely_as_here(
    vllm: str, tmp_path: Path
) -> None:
    """Asked to describe as well, the model goes on in some answers."""
    asked = ("--tasks", "scenes_pope,scenes_mme", "--limit", "60", "--prompt-suffix", " describe the image.")
    command = ("eval", "--model", "scenes-base", *asked)
    served = ("--serve", "vllm", *SET, "--ledger", tmp_path / "l.sqlite")
    for out, more in (("local", ()), ("early", served), ("full", (*served, "--full-answers"))):
        assert run(*command, *more, "--out", tmp_path / out) == 0
    local, early, full = (samples_of(tmp_path / out) for out in ("local", "early", "full"))
    assert local.keys() == early.keys() == full.keys()
    assert [records_of(one) for one in early.values()] == [records_of(full[key]) for key in early]
    assert [records_of(one) for one in early.values()] == [records_of(local[key]) for key in early]
    assert all(str(full[key].answer).startswith(str(one.answer)) for key, one in early.items())
    assert sum(len(str(one.answer)) for one in early.values()) < sum(len(str(one.answer)) for one in full.values())
    told = {entry.provenance["early stops"] for entry in Board(tmp_path / "early" / "board").entries()}
    assert told == {"max_tokens 5, stop '.'"}
    for key, one in local.items():
        ours, theirs = (side[NEXT_TOKEN] for side in (one.records, early[key].records))
        assert ours["correct"] == theirs["correct"]
        assert theirs["logprobs"] == pytest.approx(ours["logprobs"], abs=1.5e-4)  # both have four digits
    assert next_token_accuracy([one.records[NEXT_TOKEN] for one in early.values()]) == next_token_accuracy(
        [one.records[NEXT_TOKEN] for one in local.values()]
    )
