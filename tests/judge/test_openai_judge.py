"""The judge through the official client against a real server: replies, faults, money, and what a kill costs."""

import base64
import json
import logging
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from support.errors import BudgetSpent, JudgeDown, JudgeError
from support.images import ImageRef, keep, picture
from support.progress import now_doing, show_on
from tasks.judges.ledger import Ledger
from tasks.judges.openai import OpenAIJudge
from tasks.judges.parameters import ROOM
from tasks.judges.protocol import Judge, Sampling
from tasks.judges.settings import JudgeSettings

pytestmark = pytest.mark.usefixtures("no_keys")
MODEL = "gpt-4o-2024-11-20"


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.sqlite")


def judge_of(
    server: Any, ledger: Ledger, *, key: str | None = None, budget: float | None = None, **settings: Any
) -> OpenAIJudge:
    made = JudgeSettings(**{"timeout": 5.0} | settings)
    return OpenAIJudge(MODEL, url=server.url, ledger=ledger, key=key, budget=budget, settings=made)


def prompts(count: int) -> list[tuple[str, None]]:
    return [(f"Question {n}: rate this.", None) for n in range(count)]


def test_it_is_a_judge_that_answers_many(server: Any, ledger: Ledger) -> None:
    judge: Judge = judge_of(server, ledger)
    assert judge.ask_many(prompts(5)) == [server.reply(prompt) for prompt, _ in prompts(5)]


def test_what_the_protocol_says_is_what_is_sent(server: Any, ledger: Ledger) -> None:
    judge_of(server, ledger, seed=7).ask("Rate.", None, Sampling(temperature=0.2, max_tokens=9, system="Be strict."))
    judge_of(server, ledger, seed=None).ask("Rate.", None, Sampling(temperature=None))
    first, second = server.log
    assert (first["model"], first["temperature"], first["max_tokens"], first["seed"]) == (MODEL, 0.2, 9, 7)
    assert first["messages"] == [{"role": "system", "content": "Be strict."}, {"role": "user", "content": "Rate."}]
    assert {"temperature", "max_tokens", "seed"}.isdisjoint(second)


def test_an_image_goes_as_it_is_or_smaller(server: Any, ledger: Ledger, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 200, 3), dtype=np.uint8)).save(path)
    shown = picture(keep(ImageRef.at(path)))
    judge_of(server, ledger).ask("Rate.", shown)
    judge_of(server, ledger, image_side=100, detail="low").ask("Rate.", shown)
    judge_of(server, ledger).ask("Rate.", Image.new("P", (8, 8)))
    urls = [entry["messages"][0]["content"][1]["image_url"] for entry in server.log]
    assert urls[0]["url"].startswith("data:image/jpeg;base64,")
    assert urls[1]["url"].startswith("data:image/png;base64,")
    assert urls[1]["detail"] == "low"
    assert len(urls[1]["url"]) < len(urls[0]["url"]) * 2
    assert [call.served for call in ledger.calls()] == [MODEL] * 3


def test_nothing_is_paid_for_twice(server: Any, ledger: Ledger, tmp_path: Path) -> None:
    first = judge_of(server, ledger).ask_many(prompts(6) + prompts(6))
    assert len(server.log) == 6
    assert judge_of(server, Ledger(tmp_path / "ledger.sqlite")).ask_many(prompts(6)) == first[:6]
    assert len(server.log) == 6
    judge_of(server, ledger).ask_many(prompts(1), repeat=1)
    for other in ({"seed": 1}, {"detail": "low"}):
        judge_of(server, ledger, **other).ask_many(prompts(1))
    assert len(server.log) == 8  # detail says nothing where there is no image
    judge_of(server, ledger).ask_many(prompts(1), Sampling(temperature=0.5))
    assert len(server.log) == 9


PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"


def test_replies_of_earlier_versions_are_found_again(ledger: Ledger, tmp_path: Path) -> None:
    """Keys as version 0.1 made them: they must never change."""
    (tmp_path / "a.png").write_bytes(base64.b64decode(PNG))
    image = picture(keep(ImageRef.at(tmp_path / "a.png")))
    image.load()

    def key(sampling: Sampling, shown: Any = None, repeat: int = 0, model: str = MODEL, **settings: Any) -> str:
        judge = OpenAIJudge(model, ledger=ledger, url="http://x/v1", settings=JudgeSettings(**settings))
        return judge.request("Rate é.", shown, sampling, repeat).before

    assert [
        key(Sampling()),
        key(Sampling(temperature=0.2, max_tokens=9, system="Be strict.")),
        key(Sampling(), image, detail="low"),
        key(Sampling(max_tokens=3), structured=True),
        key(Sampling(), repeat=2, seed=None),
        key(Sampling(temperature=None, max_tokens=9), model="o3"),
    ] == [
        "48f3bb5cfa713b3cd97441857f35143e0779f26b7f709e53fd667e3664a4e563",
        "ba5054ce392d9552f0dc0262f51d0095f9cb08b077c269038ae5d468635cb4d0",
        "0177ea6aa8b4392157aa6400dfd5243cf1a60db8ce0c42013cf483623a0de6b3",
        "6daf6b35174825e88c563566cc7ff34c7090b375058543bf9573db4fb39e0f17",
        "6683a6c30f63100d84e18d1ca9b40e5a348d28cdab51264fa65bdc732297de5b",
        "464dc974d38d523249cde31c88ccff6f0d00138b857d73659862ea7227bc3898",
    ]


RETRIED = ("429", "429:30", "status:500", "status:503", "cut", "truncated", "html")
PAID = ("no choices", "null", "empty", "refusal", "filter")
"""Replies that can't be read, with a count of tokens."""


@pytest.mark.parametrize("fault", RETRIED)
def test_what_may_pass_is_tried_again(fault: str, server: Any, ledger: Ledger) -> None:
    server.faults = [fault]
    judge = judge_of(server, ledger)
    assert judge.ask("Rate.") == server.reply("Rate.")
    assert (judge.client.asked, dict(judge.client.failures)) == (2, {})
    (call,) = ledger.calls()
    assert call.attempts == 2


def test_a_server_that_hangs_is_asked_again(server: Any, ledger: Ledger) -> None:
    server.faults = ["hang:3"]
    assert judge_of(server, ledger, timeout=0.3).ask("Rate.") == server.reply("Rate.")


@pytest.mark.parametrize(
    ("fault", "why"), (("status:400", "content filter"), ("refusal", "refusal"), ("filter", "content filter"))
)
def test_what_is_hopeless_is_not_tried_again_and_is_no_reply(fault: str, why: str, server: Any, ledger: Ledger) -> None:
    server.faults = [None, fault]
    judge = judge_of(server, ledger, concurrency=1)
    replies = judge.ask_many(prompts(3))
    assert [reply is None for reply in replies] == [False, True, False]
    assert dict(judge.client.failures) == {why: 1}
    assert judge.client.asked == 3
    (total,) = ledger.summary()
    assert (total.calls, total.losses) == (2, 0 if fault == "status:400" else 1)


@pytest.mark.parametrize(
    ("fault", "said"), (("quota", "exceeded your current quota"), ("status:401", "Something is wrong"))
)
def test_a_refused_key_or_an_empty_account_ends_the_run_at_once(
    fault: str, said: str, server: Any, ledger: Ledger
) -> None:
    server.faults = [None, None]
    server.always = fault
    judge = judge_of(server, ledger, concurrency=1)
    with pytest.raises(JudgeDown, match=said):
        judge.ask_many(prompts(10))
    assert len(list(ledger.calls())) == 2
    assert judge.client.asked == 3


def test_the_first_failure_is_told_with_how_it_is_tried_again(
    server: Any, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    server.faults = ["status:500", "status:503"]
    judge = judge_of(server, ledger, concurrency=1, attempts=4)
    seen: list[str] = []
    with show_on(lambda *told: seen.append(getattr(now_doing(), "what", ""))), caplog.at_level("INFO"):
        assert None not in judge.ask_many(prompts(3), label="mmhal")
    told = [record.getMessage() for record in caplog.records if "no reply" in record.getMessage()]
    assert len(told) == 1
    assert f"at {server.url}: no reply (status 500: Something is wrong); try 2 of 4 in 0.25 s, later" in told[0]
    assert any(server.url in words for words in seen)
    assert now_doing() is None


def test_a_judge_that_stays_down_ends_the_run_and_keeps_what_was_paid(server: Any, ledger: Ledger) -> None:
    server.faults = [None] * 4
    server.always = "status:500"
    with pytest.raises(
        JudgeDown, match=r"3 questions in a row got no reply in 2 tries \(status 500: Something is wrong\)"
    ):
        judge_of(server, ledger, attempts=2, concurrency=1).ask_many(prompts(20))
    assert len(list(ledger.calls())) == 4
    server.always = None
    judge = judge_of(server, ledger)
    assert None not in judge.ask_many(prompts(20))
    assert judge.client.asked == 16


def test_a_limited_server_loses_no_question_however_often_it_says_later(server: Any, ledger: Ledger) -> None:
    server.allowed = 20.0
    judge = judge_of(server, ledger, attempts=2, concurrency=32)
    assert judge.ask_many(prompts(60)) == [server.reply(prompt) for prompt, _ in prompts(60)]
    assert sum(entry["fault"] == "limit" for entry in server.log) > 0


def test_a_server_that_only_says_later_is_down_in_the_end(server: Any, ledger: Ledger) -> None:
    server.always = "429:10"
    with pytest.raises(JudgeDown, match="too many requests"):
        judge_of(server, ledger, attempts=2, patience=0.2, concurrency=2).ask_many(prompts(10))


def test_faults_in_three_of_ten_calls_lose_nothing_and_change_no_reply(server: Any, ledger: Ledger) -> None:
    rng = random.Random(0)
    kinds = [*RETRIED, *PAID, "no usage", "wrong model"]
    server.faults = [rng.choice(kinds) if rng.random() < 0.3 else None for _ in range(3000)]
    judge = judge_of(server, ledger)
    replies = judge.ask_many(prompts(400))
    lost = sum(reply is None for reply in replies)
    assert all(reply in (None, server.reply(prompt)) for reply, (prompt, _) in zip(replies, prompts(400), strict=True))
    assert lost == sum(judge.client.failures.values()) > 0
    assert set(judge.client.failures) == {"refusal", "content filter", "no choices", "no content"}
    assert lost == sum(entry["fault"] in PAID for entry in server.log)
    assert len(list(ledger.calls())) == 400 - lost
    assert judge.client.asked == len(server.log)
    assert judge.client.served == {MODEL, "another-model"}


def test_a_budget_is_not_passed(server: Any, ledger: Ledger) -> None:
    judge = judge_of(server, ledger, budget=0.004, concurrency=4)
    with pytest.raises(BudgetSpent, match=r"of \$0\.0040 is spent"):
        judge.ask_many(prompts(200))
    (total,) = ledger.summary()
    assert total.price is not None
    assert 0.001 < total.price <= 0.004
    assert total.calls == len(server.answered)


def test_limits_of_the_user_pace_the_calls(server: Any, ledger: Ledger) -> None:
    judge_of(server, ledger, requests_per_minute=1200).ask_many(prompts(60))  # 20 a second, after a burst of 2 s
    assert len(server.log) == 60
    started = time.monotonic()
    judge_of(server, ledger, requests_per_minute=1200).ask_many(prompts(60), repeat=1)
    assert time.monotonic() - started > 0.8  # at least the 20 that the burst does not cover


def test_no_key_and_no_image_is_logged(server: Any, ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server.faults = ["status:500", "429:10"]
    judge = judge_of(server, ledger, key="sk-very-secret")
    image = Image.new("RGB", (64, 64), (1, 2, 3))
    judge.ask("Rate.", image)
    server.always = "status:401"
    with pytest.raises(JudgeError) as error:
        judge.ask("Rate again.", image)
    assert server.log[0]["authorization"] == "Bearer sk-very-secret"
    data = server.log[0]["messages"][0]["content"][1]["image_url"]["url"][40:140]
    told = caplog.text + str(error.value) + repr(judge) + json.dumps([call.reply for call in ledger.calls()])
    assert "very-secret" not in told
    assert data not in told


def test_a_structured_reply_gives_the_verdict_alone(server: Any, ledger: Ledger) -> None:
    server.faults = ["no schema"]
    server.reply = lambda prompt: "Rating: 4"
    judge = judge_of(server, ledger, structured=True, retry_unread=True)
    assert judge.ask("Rate.", None, Sampling(max_tokens=3)) == "Rating: 4"
    assert (judge.client.asked, server.log[1]["response_format"]["json_schema"]["strict"]) == (2, True)
    assert server.log[1]["max_tokens"] == ROOM  # not the protocol's 3, which leave no room for JSON
    (total,) = ledger.summary()
    assert (total.calls, total.losses) == (1, 1)
    assert judge_of(server, ledger).ask("Rate.") == "Rating: 4"  # another call: it was asked otherwise
    assert len(server.log) == 3


def test_a_judge_may_be_asked_inside_a_running_loop(server: Any, ledger: Ledger) -> None:
    import asyncio

    async def ask() -> str:
        return judge_of(server, ledger).ask("Rate.")

    assert asyncio.run(ask()) == server.reply("Rate.")


PROGRAM = """
import sys
from pathlib import Path
from tasks.judges.ledger import Ledger
from tasks.judges.openai import OpenAIJudge
from tasks.judges.settings import JudgeSettings
url, path, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
judge = OpenAIJudge("gpt-4o-2024-11-20", url=url, ledger=Ledger(path), settings=JudgeSettings(concurrency=8))
replies = judge.ask_many([(f"Question {n}: rate this.", None) for n in range(count)])
print(judge.client.asked, sum(reply is None for reply in replies))
"""


def start(server: Any, path: Path, count: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", PROGRAM, server.url, str(path), str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def asked_for(server: Any) -> Counter[str]:
    return Counter(entry["messages"][0]["content"] for entry in server.answered)


def test_a_kill_costs_the_calls_in_flight_and_no_more(server: Any, tmp_path: Path) -> None:
    server.delay = 0.02
    path = tmp_path / "ledger.sqlite"
    process = start(server, path, 400)
    while len(server.log) < 150:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.2)
    with sqlite3.connect(path) as db:  # a body that was kept and not read yet is not asked for again
        ((unread,),) = db.execute("SELECT COUNT(*) FROM unread")
    kept = len(list(Ledger(path).calls())) + unread
    assert 0 < kept < 400
    again = start(server, path, 400)
    out, _ = again.communicate(timeout=120)
    assert again.returncode == 0
    assert out.split() == [str(400 - kept), "0"]
    counts = asked_for(server)
    assert len(counts) == 400
    assert sum(counts.values()) - 400 <= 8  # those in flight at the kill
    ledger = Ledger(path)
    moved = OpenAIJudge(MODEL, url="http://127.0.0.1:1/v1", ledger=ledger, known_as=server.url)
    replies = moved.ask_many(prompts(400))
    assert replies == [server.reply(prompt) for prompt, _ in prompts(400)]


def test_an_interrupt_ends_it_soon_and_keeps_what_was_paid(server: Any, tmp_path: Path) -> None:
    server.delay = 0.05
    path = tmp_path / "ledger.sqlite"
    process = start(server, path, 2000)
    while len(server.log) < 40:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) != 0
    kept = len(list(Ledger(path).calls()))
    assert 0 < kept <= len(server.log) < 1000


def test_two_processes_share_a_ledger_and_pay_once(server: Any, tmp_path: Path) -> None:
    server.delay = 0.01
    path = tmp_path / "ledger.sqlite"
    both = [start(server, path, 200) for _ in range(2)]
    outs = [process.communicate(timeout=120)[0].split() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert [out[1] for out in outs] == ["0", "0"]
    assert sum(int(out[0]) for out in outs) == 200
    assert asked_for(server) == Counter(prompt for prompt, _ in prompts(200))


def test_many_threads_share_a_ledger(server: Any, ledger: Ledger) -> None:
    found: list[list[str | None]] = []
    threads = [
        threading.Thread(target=lambda: found.append(judge_of(server, ledger).ask_many(prompts(20)))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[server.reply(prompt) for prompt, _ in prompts(20)]] * 4
