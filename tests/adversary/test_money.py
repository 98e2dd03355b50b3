"""What was paid is paid once: claims, budgets, replies that can't be read, and judges of one name at two addresses."""

import json
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.cli.main import run
from harness.evaluation.eval_settings import is_of_judge, judge_facts
from support.errors import BudgetSpent
from tasks.judges import claims
from tasks.judges.budgets import end_budgets
from tasks.judges.ledger import Ledger
from tasks.judges.openai import OpenAIJudge
from tasks.judges.paid_bodies import Body
from tasks.judges.settings import JudgeSettings
from tasks.registry import registry
from tests.conftest import Server, completion

pytestmark = pytest.mark.usefixtures("no_keys")
MODEL = "gpt-4o-2024-11-20"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "l.sqlite"


@pytest.fixture
def other_server() -> Iterator[Server]:
    running = Server()
    yield running
    running.stop()


def judge_of(url: str, ledger: Path | Ledger, *, budget: float | None = None, **settings: Any) -> OpenAIJudge:
    known_as = settings.pop("known_as", None)
    made = JudgeSettings(**{"timeout": 5.0, "attempts": 3, "concurrency": 4} | settings)
    kept = ledger if isinstance(ledger, Ledger) else Ledger(ledger)
    return OpenAIJudge(MODEL, url=url, ledger=kept, budget=budget, settings=made, known_as=known_as)


def prompts(count: int) -> list[tuple[str, None]]:
    return [(f"Question {n}: rate this.", None) for n in range(count)]


def times_paid(server: Any) -> Counter[str]:
    return Counter(entry["messages"][-1]["content"] for entry in server.log if entry["fault"] in (None, "no usage"))


# --- a judge is its server


SPELLINGS = (
    *("http://127.0.0.1:80", "http://127.0.0.1/", "http://127.0.0.1/v1", "http://127.0.0.1:80/v1/"),
    *("HTTP://127.0.0.1/v1/chat/completions", "http://user:secret@127.0.0.1/v1", "http://127.0.0.1//v1?key=secret"),
)


def test_one_address_is_one_judge_however_it_is_spelled(path: Path) -> None:
    keys = {judge_of(url, path).request("Rate.", None, judge_sampling()).key for url in SPELLINGS}
    assert len(keys) == 1
    others = ("https://127.0.0.1", "http://127.0.0.1:8000", "http://127.0.0.1/v2", "http://127.0.0.1/a", "http://host")
    keys |= {judge_of(url, path).request("Rate.", None, judge_sampling()).key for url in others}
    assert len(keys) == 1 + len(others)


def judge_sampling() -> Any:
    from tasks.judges.protocol import GREEDY

    return GREEDY


def test_one_name_at_two_addresses_shares_no_reply(server: Any, other_server: Server, path: Path) -> None:
    other_server.reply = lambda prompt: "Rating: 0"
    assert judge_of(server.url, path).ask_many(prompts(3)) == [server.reply(prompt) for prompt, _ in prompts(3)]
    assert judge_of(other_server.url, path).ask_many(prompts(3)) == ["Rating: 0"] * 3
    assert {call.server for call in Ledger(path).calls()} == {server.url, other_server.url}


def test_a_judge_that_moved_is_known_by_its_old_address_or_by_a_name(
    server: Any, other_server: Server, path: Path
) -> None:
    first = judge_of(server.url, path).ask_many(prompts(3))
    moved = judge_of(other_server.url, path, known_as=server.url.removesuffix("/v1"))
    assert moved.ask_many(prompts(3)) == first
    assert moved.client.servers == {server.url}  # where the replies are from
    judge_of(server.url, path, known_as="step 300").ask_many(prompts(3))
    assert judge_of(other_server.url, path, known_as="step 300").ask_many(prompts(3)) == first
    assert (len(server.log), len(other_server.log)) == (6, 0)


def test_rows_without_an_address_are_used_and_that_is_told(
    server: Any, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    judge = judge_of(server.url, path)
    judge.ask_many(prompts(3))
    with sqlite3.connect(path) as db:  # as versions before wrote them
        for prompt, _ in prompts(2):
            request = judge.request(prompt, None, judge_sampling())
            db.execute("UPDATE calls SET key = ?, server = '' WHERE key = ?", (request.before, request.key))
    again = judge_of("http://127.0.0.1:9/v1", path, known_as=server.url)
    assert None not in again.ask_many(prompts(3))
    again.tell_reuse("mmhal")
    assert "mmhal: 2 of them were kept without their server's address" in caplog.text
    assert len(server.log) == 3


def test_what_answered_survives_a_replay(server: Any, path: Path) -> None:
    server.answer = lambda body: (200, completion("served-7b", "Rating: 3", 10, None) | {"system_fingerprint": "fp_1"})
    judge_of(server.url, path).ask_many(prompts(2))
    again = judge_of("http://127.0.0.1:9/v1", path, known_as=server.url)
    assert again.ask_many(prompts(2)) == ["Rating: 3"] * 2
    assert (again.client.served, again.client.servers) == ({"served-7b"}, {server.url})
    assert {call.fingerprint for call in Ledger(path).calls()} == {"fp_1"}


def test_entries_and_boards_tell_servers_apart(server: Any, path: Path) -> None:
    server.answer = lambda body: (200, completion("served-7b", "Rating: 3", 10, None))
    task = registry().task("mmhal")
    judge_of(server.url, path).ask_many(prompts(2))
    again, other = judge_of(server.url, path), judge_of("http://127.0.0.1:9/v1", path)
    again.ask_many(prompts(2))
    facts = judge_facts(task, again)
    assert (facts["judge served"], facts["judge server"]) == ("served-7b", server.url)
    moved = judge_of("http://127.0.0.1:9/v1", path, known_as=server.url)
    entry = SimpleNamespace(provenance=facts)
    assert [is_of_judge(entry, judge) for judge in (again, moved, other)] == [True, True, False]  # type: ignore[arg-type]
    assert is_of_judge(SimpleNamespace(provenance={}), other)  # type: ignore[arg-type]  # of before
    assert "judge known as" not in facts
    assert judge_facts(task, moved)["judge known as"] == again.identity


# --- claims


CLAIM = """
import sys, time
from pathlib import Path
from tasks.judges.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]))
print(ledger.claims.take("k") is not None, flush=True)
time.sleep(60)
"""


def test_a_claim_holds_until_its_process_is_gone_and_is_void_at_once_then(path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", CLAIM, str(path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "True\n"
    ledger = Ledger(path)
    assert ledger.claims.take("k") is None
    ((holder,),) = sqlite3.connect(path).execute("SELECT holder FROM holders WHERE pid = ?", (other.pid,)).fetchall()
    with sqlite3.connect(path) as db:  # the number is another process's by now
        db.execute("UPDATE holders SET started = '1' WHERE holder = ?", (holder,))
    assert ledger.claims.take("k") is not None
    with sqlite3.connect(path) as db:
        db.execute("DELETE FROM asking")
        db.execute("INSERT INTO asking VALUES ('k', ?, 't')", (holder,))
        db.execute("UPDATE holders SET started = '' WHERE holder = ?", (holder,))
    assert ledger.claims.take("k") is None
    other.kill()
    other.wait()
    assert ledger.claims.take("k") is not None


ELSEWHERE = (("another machine", 20.0, False), ("another machine", -1.0, True))


@pytest.mark.parametrize(("place", "seconds", "is_free"), ELSEWHERE)
def test_a_claim_of_another_machine_ends_with_its_signs_of_life(
    place: str, seconds: float, is_free: bool, path: Path
) -> None:
    ledger = Ledger(path)
    with sqlite3.connect(path) as db:
        db.execute("INSERT INTO holders VALUES ('h', ?, 1, '', 0, ?)", (place, time.time() + seconds))
        db.execute("INSERT INTO asking VALUES ('k', 'h', 't')")
    assert (ledger.claims.take("k") is not None) == is_free


def test_only_who_took_a_claim_gives_it_up(path: Path) -> None:
    ledger, other = Ledger(path), Ledger(path)
    token = ledger.claims.take("k")
    assert token is not None
    other.claims.release("k", "another token")
    ledger.claims.release("k", "another token")
    assert other.claims.take("k") is None
    assert ledger.claims.take("k") is None  # nor does another thread of this process get it
    ledger.claims.release("k", token)
    assert other.claims.take("k") is not None


def test_a_claim_is_renewed_while_its_call_waits(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BEAT", 0.05)
    monkeypatch.setattr(claims, "VOID_AFTER", 0.4)
    ledger, other = Ledger(path), Ledger(path)
    token = ledger.claims.take("k")
    time.sleep(1.0)
    assert other.claims.take("k") is None
    monkeypatch.setattr(ledger.claims, "show_life", lambda: None)  # as where it is suspended
    time.sleep(0.8)
    assert (taken := other.claims.take("k")) is not None
    assert not ledger.claims.holds("k", str(token))
    ledger.claims.release("k", str(token))
    assert other.claims.holds("k", taken)


def test_threads_of_one_process_pay_once(server: Any, path: Path) -> None:
    server.delay = 0.05
    ledger = Ledger(path)
    askers = [threading.Thread(target=judge_of(server.url, ledger).ask_many, args=(prompts(12),)) for _ in range(4)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert times_paid(server) == Counter(prompt for prompt, _ in prompts(12))


def test_a_late_reply_of_a_suspended_process_changes_nothing_and_is_booked(
    server: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim is taken over while the call is on its way; both replies come."""
    server.delay = 0.5
    slow, fast = judge_of(server.url, path), judge_of(server.url, path)
    found: list[Any] = []
    asker = threading.Thread(target=lambda: found.append(slow.ask_many(prompts(1))))
    asker.start()
    while not server.log:
        time.sleep(0.01)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE holders SET beat = -1e9")
    monkeypatch.setattr(slow.client.ledger.claims, "show_life", lambda: None)
    server.reply, server.delay = lambda prompt: "Rating: 6", 0.0
    assert fast.ask_many(prompts(1)) == ["Rating: 6"]
    asker.join()
    assert found == [["Rating: 6"]]
    (total,) = Ledger(path).summary()
    assert (total.calls, total.losses) == (1, 1)


# --- budgets


@pytest.mark.parametrize("fault", (None, "no usage"))
def test_a_budget_is_a_total_over_repetitions(fault: str | None, server: Any, path: Path) -> None:
    server.always = fault
    for _ in range(3):
        with pytest.raises(BudgetSpent, match=r"of \$0\.0040 is spent since 20"):
            judge_of(server.url, path, budget=0.004).ask_many(prompts(200))
    assert 0.003 < Ledger(path).spent() <= 0.004
    judge_of(server.url, path, budget=0.008).ask_many(prompts(20))
    with pytest.raises(BudgetSpent):
        judge_of(server.url, path, budget=0.008).ask_many(prompts(400))
    assert 0.006 < Ledger(path).spent() <= 0.008


def test_a_command_that_ended_well_ends_its_budget_unless_another_is_at_work(server: Any, path: Path) -> None:
    first, second = (judge_of(server.url, path, budget=0.004) for _ in range(2))
    first.ask_many(prompts(20))
    spent = first.client.ledger.spent()
    second.begin_run()
    first.end_run()
    assert second.client.budget is not None
    assert second.client.budget.spent == pytest.approx(spent)  # it is still at work
    second.end_run()
    third = judge_of(server.url, path, budget=0.004)
    assert third.client.budget is not None
    assert third.client.budget.spent == 0
    end_budgets()


def test_processes_share_a_budget(server: Any, path: Path) -> None:
    server.delay = 0.02
    judges = [judge_of(server.url, path, budget=0.004) for _ in range(3)]

    def ask(number: int) -> None:
        with pytest.raises(BudgetSpent):
            judges[number].ask_many(prompts(200), repeat=number)

    askers = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert 0.003 < Ledger(path).spent() <= 0.004


def test_calls_on_their_way_at_a_kill_count_as_paid(server: Any, path: Path) -> None:
    killed = judge_of(server.url, path, budget=0.004)
    assert killed.client.budget is not None
    assert killed.client.budget.reserve(0.0035)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE holders SET pid = 2000000000")
    with pytest.raises(BudgetSpent, match=r"\$0\.00\d\d of \$0\.0040"):
        judge_of(server.url, path, budget=0.004).ask_many(prompts(50))
    assert Ledger(path).spent() <= 0.0005


ABSURD: tuple[Any, ...] = (-5, float("nan"), True, 3.5, 10**18, 10**30, "7", None, [1], 2**33)


@pytest.mark.parametrize("count", ABSURD)
def test_a_count_that_can_t_be_is_told_and_estimated(
    count: Any, server: Any, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    usage = {"prompt_tokens": count, "completion_tokens": 20}
    server.answer = lambda body: (200, completion(MODEL, "Rating: 3", 10, None) | {"usage": usage})
    judge = judge_of(server.url, path)
    judge.ask_many(prompts(3))
    (total,) = judge.client.ledger.summary()
    assert (total.estimated, total.prompt_tokens, total.completion_tokens) == (3, 18, 9)
    assert total.price is not None
    assert 0 < total.price < 0.001
    assert caplog.text.count("no count of tokens: estimates are booked in its place") == 1


def test_the_ledger_shows_what_is_estimated(server: Any, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.always = "no usage"
    judge_of(server.url, path).ask_many(prompts(3), label="mmhal")
    assert run(["judge", "ledger", "--ledger", str(path)]) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "mmhal" in line]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[3:7] == ["3", "0", "18", "15"]
    assert (cells[7].startswith("$0.000"), cells[8]) == (True, "3")
    assert run(["judge", "ledger", "--ledger", str(path), "--json"]) == 0
    (total,) = json.loads(capsys.readouterr().out)["ledger"]
    assert (total["estimated"], total["prompt_tokens"]) == (3, 18)


# --- replies that can't be read


def body(content: Any = "Rating: 3", finish: str = "stop", **more: Any) -> dict[str, Any]:
    made = completion(MODEL, "Rating: 3", 10, None)
    made["choices"][0] |= {"finish_reason": finish, "message": {"role": "assistant", "content": content}}
    return made | more


PAID: dict[str, Any] = {
    "null": body(None),
    "empty": body(""),
    "cut": body("Rating: 6 would be", "length"),
    "filtered": body(None, "content_filter"),
    "tool call": body("x", "tool_calls"),
    "never-ended thoughts": body("<think>4"),
    "a number": body(7),
    "no choices": body(choices=[]),
    "choices of text": body(choices="abc"),
    "no count, no message": body(choices=[{"index": 0, "finish_reason": "stop"}], usage=None),
    "deep": json.dumps(body()).encode().replace(b'"Rating: 3"', b"[" * 5000 + b"]" * 5000),
    "a tail": json.dumps(body()).encode() + b" }",
    "9 MiB": json.dumps(body("Rating: 6 " + "x" * 9 * 2**20)).encode(),
    "a stream": b"data: " + json.dumps(body()).encode(),
}
"""Bodies of completions that are no verdict, and cost."""
FREE: dict[str, Any] = {
    "html": b"<html>busy</html>",
    "nothing": b"",
    "half": b'{"id": "x", "obj',
    "null": None,
    "an error": {"error": {"message": "overloaded", "code": 500}},
    "zero tokens": body(None, usage={"prompt_tokens": 0, "completion_tokens": 0}),
    "no choices, no count": body(choices=[], usage=None),
}
"""Bodies that cost nothing."""


@pytest.mark.parametrize("kind", PAID)
def test_what_was_paid_and_can_t_be_read_is_not_asked_again_unless_wanted(
    kind: str, server: Any, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = "Question 1: rate this."
    server.answer = lambda asked: (200, PAID[kind] if asked["messages"][-1]["content"] == bad else body())
    for _ in range(3):
        replies = judge_of(server.url, path).ask_many(prompts(4))
        assert [reply is None for reply in replies] == [False, True, False, False]
        assert not replies.lost[1].may_pass
    assert len(server.log) == 4
    assert caplog.text.count("1 replies that were paid for can't be read") == 3
    (total,) = Ledger(path).summary()
    assert (total.calls, total.losses) == (3, 1)  # booked once
    server.answer = lambda asked: (200, body("Rating: 5"))
    assert judge_of(server.url, path, retry_unread=True).ask_many(prompts(4))[1] == "Rating: 5"
    assert judge_of(server.url, path).ask_many(prompts(4))[1] == "Rating: 5"
    assert len(server.log) == 5


@pytest.mark.parametrize("kind", FREE)
def test_what_costs_nothing_is_asked_again(kind: str, server: Any, path: Path) -> None:
    bodies = iter([FREE[kind]])
    server.answer = lambda asked: (200, next(bodies, body()))
    assert judge_of(server.url, path).ask_many(prompts(1)) == ["Rating: 3"]
    assert len(server.log) == 2
    (total,) = Ledger(path).summary()
    assert (total.calls, total.losses) == (1, 0)


def test_a_kill_before_a_reply_is_read_costs_nothing(server: Any, path: Path) -> None:
    judge = judge_of(server.url, path)
    request = judge.request("Question 0: rate this.", None, judge_sampling(), label="mmhal")
    came: dict[str, Any] = {"latency": 1.0, "attempts": 1, "batch": False, "created": "2026-12-01T10:00:00+00:00"}
    data = json.dumps(body("Rating: 2 \ud83d")).encode()
    judge.client.ledger.bodies.keep(Body(key=request.key, data=data, sent=request.body, **came))
    assert judge_of(server.url, path).ask_many(prompts(1), label="mmhal") == ["Rating: 2 \\ud83d"]
    assert not server.log
    (total,) = Ledger(path).summary()
    assert (total.calls, total.losses, total.estimated) == (1, 0, 0)


def test_a_reader_that_learns_reads_what_was_paid_for(server: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answer = lambda asked: (200, body("Rating: 4", "tool_calls"))
    assert judge_of(server.url, path).ask_many(prompts(2)) == [None, None]
    monkeypatch.setattr("tasks.judges.replies.ENDED", frozenset({"stop", "tool_calls"}))
    monkeypatch.setattr("tasks.judges.replies.KNOWN", frozenset({"stop", "tool_calls"}))
    assert judge_of(server.url, path).ask_many(prompts(2)) == ["Rating: 4"] * 2
    assert len(server.log) == 2
    (total,) = Ledger(path).summary()
    assert (total.calls, total.losses) == (2, 0)


def test_a_judge_of_which_nothing_can_be_read_is_asked_eight_times_in_all(server: Any, path: Path) -> None:
    server.answer = lambda asked: (200, body(None))
    for _ in range(3):
        with pytest.raises(Exception, match="the first 8 requests were all refused: no content"):
            judge_of(server.url, path).ask_many(prompts(30))
    assert len(server.log) == 8
