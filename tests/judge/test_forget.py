"""`harness judge forget`: replies are asked for again, the money stays, and nothing else is touched."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import run
from tasks.judges.ledger import Call, Ledger, Loss
from tasks.judges.paid_bodies import Body

pytestmark = pytest.mark.usefixtures("no_keys")
JUDGE = "gpt-4o-2024-11-20"


def call(key: str, reply: str, **more: Any) -> Call:
    facts: dict[str, Any] = {"task": "mmhal", "model": JUDGE, "created": "2026-01-05T00:00:00+00:00"}
    facts |= {"served": JUDGE, "prompt_tokens": 10, "completion_tokens": 5, "price": 0.25, "latency": 1.0}
    return Call(key=key * 64, reply=reply, **{**facts, "attempts": 1, "batch": False, **more})


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    found = Ledger(tmp_path / "l.sqlite")
    found.put(call("a", "Rating: 4"))
    found.put(call("b", "I can't say."))
    found.put(call("c", "8 6", task="llava_bench_wild"))
    found.put(call("d", "hm", task="llava_bench_wild", model="other"))
    found.put(call("e", "hm", task="a task of someone"))
    found.put(call("f", "Rating: 4", created="2099-01-01T00:00:00+00:00"))
    return found


Forgetting = Callable[..., dict[str, Any]]


@pytest.fixture
def forgotten(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> Forgetting:
    def forgotten(*given: str) -> dict[str, Any]:
        assert run(["judge", "forget", "--ledger", str(ledger.path), "--json", *given]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    return forgotten


def keys_there(ledger: Ledger) -> str:
    return "".join(key for key in "abcdef" if ledger.reply(key * 64) is not None)


@pytest.mark.parametrize(
    ("given", "left"),
    (
        (("--unreadable",), "acef"),  # of a task that nobody knows a rule for, nothing is known
        (("--task", "mmhal"), "cde"),
        (("--judge", "other"), "abcef"),
        (("--task", "llava_bench_wild", "--unreadable"), "abcef"),
        (("--older-than", "1"), "f"),
        (("--key", "bbbbbb", "--key", "ccc"), "adef"),
        (("--judge", "other", "--task", "mmhal"), "abcdef"),
    ),
)
def test_what_all_options_name_is_forgotten_and_its_money_is_not(
    given: tuple[str, ...], left: str, ledger: Ledger, forgotten: Forgetting
) -> None:
    spent = ledger.spent()
    tried = forgotten(*given, "--dry-run")
    assert keys_there(ledger) == "abcdef"
    found = forgotten(*given)
    assert keys_there(ledger) == left
    assert found["replies"] == tried["replies"] == 6 - len(left)
    assert found["forgotten"] == tried["forgotten"]
    assert ledger.spent() == spent
    assert sum(total.calls for total in ledger.summary()) == 6
    assert forgotten(*given)["replies"] == 0  # what was forgotten is not there twice


def test_what_could_not_be_read_at_all_is_asked_again_once_its_cost_is_booked(
    ledger: Ledger, forgotten: Forgetting
) -> None:
    facts: dict[str, Any] = {"sent": {}, "batch": False, "latency": 1.0, "attempts": 1, "created": "2026-01-05"}
    for key in ("0a" * 32, "0b" * 32):
        ledger.bodies.keep(Body(key=key, data=b"<html>", **facts))
        ledger.fail(key, "mmhal", JUDGE, "no JSON")
    loss = Loss(
        key="0a" * 32, task="mmhal", model=JUDGE, reason="no JSON", prompt_tokens=1, completion_tokens=1, price=0.5
    )
    ledger.lose(loss, body=True)
    spent = ledger.spent()
    assert forgotten("--unreadable", "--task", "mmhal")["replies"] == 2  # this one, and "I can't say."
    assert ledger.bodies.find("0a" * 32) is None
    assert ledger.bodies.find("0b" * 32) is not None
    assert ledger.spent() == spent


@pytest.mark.parametrize(
    ("given", "said"),
    (
        ((), "name what to forget: --judge, --task,"),
        (("--task", "mmhall"), "unknown task in this ledger 'mmhall' (did you mean 'mmhal'?)"),
        (("--judge", "gpt-4"), "unknown judge in this ledger 'gpt-4'"),
    ),
)
def test_nothing_is_forgotten_by_mistake(
    given: tuple[str, ...], said: str, ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["judge", "forget", "--ledger", str(ledger.path), *given]) == 2
    assert said in capsys.readouterr().err
    assert keys_there(ledger) == "abcdef"


def test_an_unreadable_reply_is_quoted_forgotten_and_asked_again(
    server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger, common = str(tmp_path / "l.sqlite"), ("--judge-url", server.url, "--ledger", str(tmp_path / "l.sqlite"))
    command = ["eval", "--model", "scenes-base", "--tasks", "scenes_mmhal", "--limit", "8", "--judge", JUDGE, *common]
    command += ["--out", str(tmp_path / "run"), "--answers", str(tmp_path / "answers.sqlite")]
    server.reply = lambda prompt: "I am sorry,\nI can't judge that."
    assert run(command) == 4
    said = capsys.readouterr().err
    assert (
        '8 of 8 replies of the judge hold no rating: not scored; the first: "I am sorry, I can\'t judge that."' in said
    )
    asked = len(server.log)
    assert run(command) == 4
    assert len(server.log) == asked  # they are kept
    assert run(["judge", "forget", "--unreadable", "--ledger", ledger]) == 0
    server.reply = lambda prompt: "Rating: 4"
    assert run(command) == 0
    assert len(server.log) == 2 * asked


def test_ratings_that_nobody_can_read_end_a_build_and_are_asked_again_once_forgotten(
    server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--judge", JUDGE, "--judge-url", server.url, "--ledger", str(tmp_path / "l.sqlite")]
    command = ["vlfeedback", "build", "--source", "scenes", "--pool", "scenes", "--rows", "4", *common]
    command += ["--out", str(tmp_path / "built")]
    server.reply = lambda prompt: "I am sorry."
    assert run(command) == 4
    said = capsys.readouterr().err
    assert "4 of 4 instructions have no rating that could be read" in said
    assert 'the first: "I am sorry."' in said
    asked = len(server.log)
    assert run(command) == 4
    assert len(server.log) == asked
    assert run(["judge", "forget", "--unreadable", "--ledger", str(tmp_path / "l.sqlite")]) == 0
    assert run(command) == 4
    assert len(server.log) == 2 * asked


def test_a_bench_quotes_the_first_reply_without_a_verdict(
    server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.reply = lambda prompt: "Neither, I say."
    common = ["--judge-url", server.url, "--ledger", str(tmp_path / "l.sqlite"), "--out", str(tmp_path), "--limit", "4"]
    assert run(["judge", "bench", JUDGE, *common]) == 4
    assert 'the first reply without one: "Neither, I say."' in capsys.readouterr().out
