"""How often a server is asked that says "later", refuses everything, or does not say what a call has cost."""

import asyncio
import json
import logging
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import run
from support.errors import BudgetSpent, JudgeDown, JudgeError
from tasks.judges.batch import BatchJudge
from tasks.judges.failures import TransientError
from tasks.judges.ledger import Ledger
from tasks.judges.openai import OpenAIJudge
from tasks.judges.pace import FIRST_CALLS, LONGEST_WAIT, Pace, Refusals, wait_before_try
from tasks.judges.protocol import Replies
from tasks.judges.settings import ClientSettings, JudgeSettings

pytestmark = pytest.mark.usefixtures("no_keys")
MODEL = "gpt-4o-2024-11-20"


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.sqlite")


def judge_of(server: Any, ledger: Ledger, *, budget: float | None = None, **settings: Any) -> OpenAIJudge:
    made = JudgeSettings(**{"timeout": 5.0} | settings)
    return OpenAIJudge(MODEL, url=server.url, ledger=ledger, budget=budget, settings=made)


def prompts(count: int) -> list[tuple[str, None]]:
    return [(f"Question {n}: rate this.", None) for n in range(count)]


def pace_of(**settings: Any) -> Pace:
    refusals = Refusals()
    refusals.replied = True
    return Pace("m", ClientSettings(**settings), refusals)


def later(after: float | None = None) -> TransientError:
    return TransientError("too many requests: slow down", after, limited=True)


def test_waits_double_up_to_a_minute() -> None:
    assert [wait_before_try(tries) for tries in range(1, 11)] == [0.25, 0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    assert wait_before_try(10**6) == LONGEST_WAIT


@pytest.mark.parametrize(
    ("asked", "least"),
    (
        ([None], 0.25),
        ([None] * 2, 0.5),
        ([None] * 4, 2.0),
        ([None] * 9, 60.0),
        ([5.0], 5.0),
        ([5.0, 3.0], 3.0),
        ([0.01], 0.01),
        ([0.01] * 3, 0.5),  # what it asks for does not help
        ([0.0] * 4, 1.0),
        ([7.0, None], 0.5),
        ([None, None, 50.0], 50.0),
        ([600.0], 60.0),  # more than the setting allows
    ),
)
def test_the_next_call_waits_for_what_is_asked_or_for_twice_as_long(asked: list[float | None], least: float) -> None:
    async def wait() -> float:
        pace = pace_of()
        for after in asked:
            pace.not_before = 0.0
            pace.limit(later(after), time.monotonic())
        return pace.not_before - time.monotonic()

    assert least * 0.99 <= asyncio.run(wait()) + 0.05 < least * 1.25 + 0.1


def test_calls_that_were_on_their_way_do_not_double_the_wait() -> None:
    async def wait() -> tuple[float, float]:
        pace, sent = pace_of(), time.monotonic()
        for _ in range(16):
            pace.limit(later(), sent)
        return pace.not_before - time.monotonic(), pace.at_once

    left, room = asyncio.run(wait())
    assert left < 0.4
    assert room == 8


def test_a_limited_server_is_asked_one_call_at_a_time_until_it_replies() -> None:
    async def most(limited: bool) -> int:
        pace, calling, seen = pace_of(concurrency=6), 0, 0

        async def call() -> None:
            nonlocal calling, seen
            async with pace.turn(1):
                calling += 1
                seen = max(seen, calling)
                await asyncio.sleep(0.01)
                calling -= 1

        if limited:
            pace.limit(later(0.05), time.monotonic())
        started = time.monotonic()
        await asyncio.gather(*(call() for _ in range(6)))
        assert (time.monotonic() - started > 0.05) == limited or not limited
        pace.went_through(reply=True)
        assert pace.limited_since is None
        return seen

    assert asyncio.run(most(limited=False)) == 6
    assert asyncio.run(most(limited=True)) == 1


def test_nobody_waits_for_a_round_that_has_ended() -> None:
    async def wait() -> None:
        pace = pace_of(requests_per_minute=1)
        pace.limit(later(600), time.monotonic())
        waiting = [asyncio.create_task(pace.turn(1).__aenter__()) for _ in range(20)]
        await asyncio.sleep(0.02)
        await pace.end()
        await asyncio.wait_for(asyncio.gather(*waiting), 5)

    asyncio.run(wait())


def test_a_server_that_only_says_later_is_asked_seldom_and_the_user_is_told(
    server: Any, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server.always = "429"
    with pytest.raises(
        JudgeDown, match=r"3 questions in a row got no reply in 2 tries \(too many requests: Slow down\)"
    ):
        judge_of(server, ledger, attempts=2, patience=1.0, concurrency=16).ask_many(prompts(50))
    assert len(server.log) <= FIRST_CALLS + 7
    assert "limited by the server, waiting 1 s (too many requests: Slow down)" in caplog.text


def test_a_question_that_is_always_too_much_is_given_up_and_the_others_are_not(server: Any, ledger: Ledger) -> None:
    judge = judge_of(server, ledger, attempts=2, patience=0.1, concurrency=1)
    assert judge.ask_many(prompts(2)) == [server.reply(prompt) for prompt, _ in prompts(2)]
    server.always = "429:10"
    replies = judge.ask_many(prompts(3))
    assert isinstance(replies, Replies)
    assert {place: why.error for place, why in replies.lost.items()} == {2: "too many requests: Slow down"}


def test_short_pauses_are_not_told(server: Any, ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    server.faults = [None, "429:10", None, "429:20"]
    assert None not in judge_of(server, ledger).ask_many(prompts(20))
    assert "limited" not in caplog.text


@pytest.mark.parametrize("fault", [f"status:{status}" for status in (402, 403, 404, 405, 406, 410, 413, 415, 418, 422)])
def test_a_server_that_refuses_all_is_asked_eight_times_at_most(fault: str, server: Any, ledger: Ledger) -> None:
    server.always = fault
    with pytest.raises(JudgeError, match="Something is wrong"):
        judge_of(server, ledger).ask_many(prompts(40))
    assert len(server.log) <= FIRST_CALLS


def test_what_ends_the_run_is_kept_in_the_ledger(server: Any, ledger: Ledger) -> None:
    server.always = "status:422"
    judge = judge_of(server, ledger)
    with pytest.raises(JudgeError, match="the first 8 requests were all refused: refused request: Something is wrong"):
        judge.ask_many(prompts(40))
    assert ledger.failures() == {("", MODEL): ["refused request: Something is wrong"] * 8}
    server.always = None
    assert None not in judge.ask_many(prompts(40))
    assert ledger.failures() == {}


def test_refusals_of_several_kinds_or_after_a_reply_do_not_end_the_run(server: Any, ledger: Ledger) -> None:
    server.faults = ["status:422", "status:413"] * 6
    replies = judge_of(server, ledger, concurrency=4).ask_many(prompts(20))
    assert sum(reply is None for reply in replies) == 12
    server.faults = [None] + ["status:422"] * 15
    replies = judge_of(server, ledger, concurrency=1).ask_many(prompts(40))
    assert sum(reply is None for reply in replies) == 8 + 7


def test_each_question_has_its_own_reason(server: Any, ledger: Ledger) -> None:
    server.faults = [None, "status:422", "filter", "status:413"]
    replies = judge_of(server, ledger, concurrency=1).ask_many(prompts(5))
    assert isinstance(replies, Replies)
    assert {place: why.error for place, why in replies.lost.items()} == {
        1: "refused request: Something is wrong",
        2: "content filter",
        3: "status 413: Something is wrong",
    }
    assert not any(why.may_pass for why in replies.lost.values())
    server.faults = ["status:500"]
    replies = judge_of(server, ledger, attempts=1).ask_many(prompts(2))
    assert isinstance(replies, Replies)
    assert replies.lost[1].error == "status 500: Something is wrong"
    assert replies.lost[1].may_pass


@pytest.mark.parametrize("faults", (["no usage"], ["no usage", "filter"]))
def test_a_call_whose_cost_is_not_told_is_charged_by_an_estimate(
    faults: list[str], server: Any, ledger: Ledger
) -> None:
    server.faults = faults * 200
    judge = judge_of(server, ledger, budget=0.004, concurrency=4)
    with pytest.raises(BudgetSpent):
        judge.ask_many(prompts(200))
    assert 0.003 < judge.client.paid <= 0.004
    (total,) = ledger.summary()
    assert total.price == pytest.approx(judge.client.paid)
    assert total.estimated == len(server.log) - sum(entry["fault"] == "filter" for entry in server.log)


PROGRAM = """
import sys
from pathlib import Path
from tasks.judges.ledger import Ledger
from tasks.judges.openai import OpenAIJudge
from tasks.judges.protocol import Replies
from tasks.judges.settings import JudgeSettings
settings = JudgeSettings(timeout=1, concurrency=4)
judge = OpenAIJudge("m", url=sys.argv[1], ledger=Ledger(Path(sys.argv[2])), settings=settings)
replies = judge.ask_many([(f"Question {n}: rate this.", None) for n in range(30)])
print(sum(reply is None for reply in replies))
"""


def test_two_processes_that_wait_longer_than_a_call_may_take_pay_once(server: Any, tmp_path: Path) -> None:
    server.faults, server.delay = ["429:2500"] * 8, 0.05
    command = [sys.executable, "-c", PROGRAM, server.url, str(tmp_path / "ledger.sqlite")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=120)[0].split() for process in both] == [["0"], ["0"]]
    asked = Counter(entry["messages"][0]["content"] for entry in server.answered)
    assert (len(asked), max(asked.values())) == (30, 1)


def test_the_ledger_shows_why_questions_have_no_reply(
    server: Any, ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    server.faults = [None, "status:413", "filter", "filter"]
    judge_of(server, ledger, concurrency=1).ask_many(prompts(6), label="mmhal")
    why = "content filter (2), status 413: Something is wrong (1)"
    assert run(["judge", "ledger", "--ledger", str(ledger.path)]) == 0
    assert f"3 questions of mmhal have no reply of {MODEL}: {why}" in capsys.readouterr().out
    assert run(["judge", "ledger", "--ledger", str(ledger.path), "--json"]) == 0
    (lost,) = json.loads(capsys.readouterr().out)["without reply"]
    assert lost["reasons"] == {"content filter": 2, "status 413: Something is wrong": 1}
    assert None not in judge_of(server, ledger, retry_unread=True).ask_many(prompts(6), label="mmhal")
    assert run(["judge", "ledger", "--ledger", str(ledger.path)]) == 0
    assert "no reply" not in capsys.readouterr().out


def test_a_batch_that_is_refused_line_by_line_ends_the_run(server: Any, ledger: Ledger) -> None:
    server.faults = ["status:422"] * 20
    judge = BatchJudge(MODEL, url=server.url, ledger=ledger)
    judge.poll = 0.01
    with pytest.raises(JudgeError, match="the first 20 requests were all refused"):
        judge.ask_many(prompts(20))


def test_a_batch_api_that_is_not_there_is_told_in_the_servers_words(server: Any, ledger: Ledger) -> None:
    judge = BatchJudge(MODEL, url=server.url.replace("/v1", "/v2"), ledger=ledger)
    with pytest.raises(JudgeDown, match="batches: 404: Not Found; they are kept"):
        judge.ask_many(prompts(2))
