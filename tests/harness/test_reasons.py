"""Why samples have no score: in each place where a user looks, in the server's own words."""

import json
import logging
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.cli.judging import exit_code_of
from harness.cli.main import run
from harness.evaluation.lost import lost_in_words, share_lost
from harness.evaluation.scoring import score_answers
from leaderboards.board.board import Board
from support.errors import LOSSY, OK
from tasks.answer import FailedAnswer
from tasks.judges.ledger import Ledger
from tasks.registry import registry

pytestmark = pytest.mark.usefixtures("no_keys")
MODEL = "gpt-4o-2024-11-20"


@pytest.fixture
def evaluated(server: Any, tmp_path: Path) -> Callable[..., int]:
    """`harness eval` of a model behind the server, one call at a time, each tried once."""

    def evaluated(*more: str, tasks: str = "scenes_mme", limit: int = 16) -> int:
        command = ["eval", "--model", f"openai:{MODEL}", "--model-url", server.url, "--ledger", str(tmp_path / "l")]
        command += ["--tasks", tasks, "--limit", str(limit), "--out", str(tmp_path / "run")]
        return run([*command, "--model-set", "concurrency=1", "--model-set", "attempts=1", *more])

    return evaluated


REASONS = {
    "status:413": "status 413: Something is wrong",
    "status:415": "status 415: Something is wrong",
    "status:422": "refused request: Something is wrong",
    "status:418": "status 418: Something is wrong",
    "status:400": "content filter",
    "status:500": "status 500: Something is wrong",
    "refusal": "refusal",
    "filter": "content filter",
}


def test_reasons_are_in_the_lines_the_json_the_entries_the_log_and_the_ledger(
    server: Any, evaluated: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.reply = lambda prompt: "yes"
    server.faults = [None, *REASONS, *["status:413"] * 3]
    assert evaluated("--json") == LOSSY
    said = capsys.readouterr()
    wrong = r"status 413: Something is wrong \(4, such as [^)]+\), content filter \(2, such as [^)]+\)"
    assert re.search(f"harness: scenes_mme: 11 of 16 failed: {wrong}", said.err)
    assert "what failed is asked again by: harness eval" in said.err  # one of them was the server's trouble
    found = json.loads(said.out)
    for entry in found["entries"]:
        assert f"harness: scenes_mme: 11 of 16 failed: {entry['provenance']['failures']}\n" in said.err
    board = Board(tmp_path / "run" / "board")
    samples = {sample.id: sample.reason for sample in board.samples(board.entries()[0].run)}
    reasons = list(samples.values())
    assert sorted(filter(None, reasons)) == sorted([*REASONS.values(), *["status 413: Something is wrong"] * 3])
    kept = [why for each in Ledger(tmp_path / "l").failures().values() for why in each]
    assert sorted(kept) == sorted(filter(None, reasons))
    listed = {why["reason"]: (why["count"], samples[why["example"]]) for why in found["reasons"]}
    assert listed == {why: (count, why) for why, count in Counter(filter(None, reasons)).items()}
    assert {(why["model"], why["task"]) for why in found["reasons"]} == {(f"openai:{MODEL}", "scenes_mme")}


def test_the_ledger_shows_which_questions_have_no_reply_by_reason_with_one_of_each(
    server: Any, evaluated: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.faults = [None, "refusal", "status:413", "refusal"]
    server.reply = lambda prompt: "yes"
    evaluated("--json")
    capsys.readouterr()
    command = ["judge", "ledger", "--ledger", str(tmp_path / "l"), "--failures"]
    assert run([*command, "--json"]) == OK
    rows = json.loads(capsys.readouterr().out)["failures"]
    shown = [(row["task"], row["judge"], row["reason"], row["count"]) for row in rows]
    task = "scenes_mme (answers)"
    assert shown == [(task, MODEL, "refusal", 2), (task, MODEL, "status 413: Something is wrong", 1)]
    assert "I can't." in rows[0]["example"]["answer"]  # it was paid for, and is kept
    assert rows[1]["example"]["answer"] == ""
    assert run(command) == OK
    table = capsys.readouterr().out
    assert table.count("scenes_mme (answers)") == 2
    assert rows[0]["example"]["key"][:12] in table
    server.faults = []
    evaluated("--model-set", "retry_unread=true")
    capsys.readouterr()
    assert run(command) == OK
    assert capsys.readouterr().out == "No failures.\n"


def test_what_will_fail_again_is_not_said_to_be_asked_again(
    server: Any, evaluated: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    server.faults = [None, "status:413", "refusal", "filter"]
    server.reply = lambda prompt: "yes"
    assert evaluated("--max-failed", "0.5") == OK
    said = capsys.readouterr().err
    reasons = r"status 413: Something is wrong \(1, such as [^)]+\), refusal \(1, such as [^)]+\)"
    assert re.search(f"warning: scenes_mme: 3 of 16 failed: {reasons}", said)
    assert "asked again" not in said


def test_answers_that_no_rule_can_read_count_as_lost_and_keep_their_official_score() -> None:
    docs = [
        {"image": f"{n}.jpg", "question": "Is there a cat?", "answer": "no", "category": "random"} for n in range(4)
    ]
    answers = ["Yes.", "No.", "A picture of it.", FailedAnswer("image can't be shown: cut")]
    scored = score_answers(registry().task("pope"), docs, answers, None)
    assert (scored.counts.failed, scored.counts.unscored, scored.counts.unparsed) == (1, 0, 1)
    assert scored.failures == "no rule could read the answer (1, such as 2), image can't be shown: cut (1, such as 3)"
    assert scored.value("random_accuracy") is not None
    assert share_lost(Result(samples=4, failed=1, unparsed=1)) == 0.5


def test_a_server_that_refuses_all_ends_the_run_with_its_words_and_no_score(
    server: Any, evaluated: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.always = "status:422"
    assert evaluated() == 1
    said = capsys.readouterr()
    assert said.err.endswith("the first 8 requests were all refused: refused request: Something is wrong\n")
    assert "go on with" not in said.err
    assert not said.out
    assert len(server.log) == 8
    assert Board(tmp_path / "run" / "board").entries() == []


@dataclass(frozen=True, kw_only=True)
class Result:
    task: str = "mme"
    model: str = "m"
    samples: int = 16
    failed: int = 0
    unscored: int = 0
    unparsed: int = 0
    failures: str = ""


@pytest.mark.parametrize(
    ("counts", "share", "words"),
    (
        ({}, 0, ""),
        ({"failures": "stale (1)"}, 0, ""),
        ({"samples": 0}, 0, ""),
        ({"failed": 16}, 1, "16 of 16 failed"),
        ({"failed": 16, "failures": "timeout (16)"}, 1, "16 of 16 failed: timeout (16)"),
        ({"unscored": 4, "failures": "a (3), b (1)"}, 0.25, "4 of 16 unscored: a (3), b (1)"),
        ({"unparsed": 1}, 1 / 16, "1 of 16 unparsed"),
        ({"failed": 1, "unparsed": 1}, 2 / 16, "1 of 16 failed, 1 unparsed"),
        (
            {"failed": 1, "unscored": 2, "unparsed": 1, "failures": "x (4)"},
            0.25,
            "1 of 16 failed, 2 unscored, 1 unparsed: x (4)",
        ),
        ({"unscored": 16, "unparsed": 16}, 1, "16 of 16 unscored, 16 unparsed"),
    ),
)
def test_what_is_lost_is_a_share_and_a_line(counts: dict[str, Any], share: float, words: str) -> None:
    assert share_lost(Result(**counts)) == pytest.approx(share)
    assert lost_in_words(Result(**counts)) == words


@pytest.mark.parametrize(
    ("results", "max_failed", "code", "lines"),
    (
        ([], 0.05, OK, []),
        ([Result()], 0.0, OK, []),
        ([Result(failed=16)], 0.05, LOSSY, ["harness: mme: 16 of 16 failed"]),
        ([Result(failed=16)] * 5, 0.05, LOSSY, ["harness: mme: 16 of 16 failed"]),
        ([Result(failed=1)], 0.1, OK, ["warning: mme: 1 of 16 failed"]),
        ([Result(failed=2)], 2 / 16, OK, ["warning: mme: 2 of 16 failed"]),
        ([Result(), Result(task="pope", unscored=8)], 0.05, LOSSY, ["harness: pope: 8 of 16 unscored"]),
        ([Result(unparsed=8), Result(model="n")], 0.05, LOSSY, ["harness: m: mme: 8 of 16 unparsed"]),
        (
            [Result(failed=8), Result(model="n", failed=4)],
            0.3,
            LOSSY,
            ["harness: m: mme: 8 of 16 failed", "warning: n: mme: 4 of 16 failed"],
        ),
        ([Result(failed=16)], 1.0, OK, ["warning: mme: 16 of 16 failed"]),
        ([Result(unparsed=1)], 0.1, OK, []),
        ([Result(failed=1, unparsed=1)], 0.2, OK, ["warning: mme: 1 of 16 failed, 1 unparsed"]),
    ),
)
def test_each_task_that_lost_samples_has_a_line(
    results: list[Any],
    max_failed: float,
    code: int,
    lines: list[str],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    assert exit_code_of(results, max_failed) == code
    told = capsys.readouterr().err.splitlines() + [f"warning: {message}" for message in caplog.messages]
    assert [line for line in dict.fromkeys(told) if line.startswith(("harness", "warning"))] == lines
