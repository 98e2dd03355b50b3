"""vLLM in place of our own engine: the same answers, likelihoods and early ends; adapters on one server."""

import json
from pathlib import Path
from typing import Any

import pytest

from leaderboards.board.board import Board
from tests.vllm.conftest import FLAGS, answers, run
from tests.vllm.test_served_answers import TEXT, make_adapter

pytestmark = pytest.mark.slow

ENGINE = ("--engine", "vllm", *(word for name, value in FLAGS.items() for word in ("--engine-set", f"{name}={value}")))


def samples_of(board: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """(task, question) -> all that is kept of an answer, likelihoods to three places."""
    found = Board(board)
    kept = {}
    for entry in found.current():
        for each in found.samples(entry.run):
            text = json.loads(json.dumps(vars(each)), parse_float=lambda digits: round(float(digits), 3))
            kept[each.task, each.id] = {name: value for name, value in text.items() if name != "run"}
    return kept


def test_the_four_scenes_tasks_are_answered_as_by_our_own_engine(tmp_path: Path) -> None:
    command = ("eval", "--model", "scenes-base", "--tasks", "scenes")
    for out, more in (("own", ()), ("vllm", ENGINE)):
        assert run(*command, *more, "--answers", tmp_path / f"{out}.sqlite", "--out", tmp_path / out) == 0
    own, vllm = (samples_of(tmp_path / out / "board") for out in ("own", "vllm"))
    assert len(own) > 1500
    different = {key for key, sample in own.items() if vllm[key] != sample}
    # Of a likelihood the last digit may be another one.
    assert len(different) < 0.02 * len(own)
    assert {key for key in different if vllm[key]["answer"] != own[key]["answer"]} == set()
    values = [
        {entry.key: entry.value for entry in Board(tmp_path / out / "board").current()} for out in ("own", "vllm")
    ]
    assert values[0] == values[1]
    (known,) = {
        tuple(entry.provenance[name] for name in ("engine", "dtype", "server flags"))
        for entry in Board(tmp_path / "vllm" / "board").entries()
    }
    assert known == ("vllm", "float32", "block-size=32, enforce-eager=true")


def test_adapters_share_the_server_and_killed_runs_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    adapter = make_adapter(tmp_path / "rank-64", 64, TEXT)
    command = ("eval", "--model", "scenes-base", "--model", adapter, "--tasks", "scenes_chair", "--limit", "40")
    assert run(*command, "--out", tmp_path / "own") == 0
    with caplog.at_level("INFO"):
        assert run(*command, *ENGINE, "--out", tmp_path / "vllm") == 0
    assert sum("starting " in line and " serve " in line for line in caplog.messages) == 1
    seen = []
    for model in ("scenes-base", str(adapter)):
        own, vllm = (answers(tmp_path / out / "board", model) for out in ("own", "vllm"))
        assert vllm == own
        seen.append(tuple(own.values()))
    assert len(set(seen)) == 2
    caplog.clear()
    with caplog.at_level("INFO"):  # another board, the same answers
        assert run(*command, *ENGINE, "--out", tmp_path / "again") == 0
    assert any("40 answers" in line for line in caplog.messages)


def test_parity_with_exact_decoding(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("parity", "scenes-base", "scenes_pope", "--limit", "40", *ENGINE, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["samples"], found["differ"], found["failed"]) == (40, 0, [0, 0])
    assert found["engine"].startswith("vllm 0.")
