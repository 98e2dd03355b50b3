"""Questions in batches: half the price, resumed by their ids, failed lines sent again."""

import threading
from pathlib import Path
from typing import Any

import pytest

from support.errors import JudgeError, SettingError
from tasks.judges.batch import BatchJudge
from tasks.judges.ledger import Ledger
from tasks.judges.settings import JudgeSettings

pytestmark = pytest.mark.usefixtures("no_keys")
MODEL = "gpt-4o-2024-11-20"


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.sqlite")


def judge_of(server: Any, ledger: Ledger, *, budget: float | None = None, **settings: Any) -> BatchJudge:
    made = JudgeSettings(**{"timeout": 5.0} | settings)
    judge = BatchJudge(MODEL, url=server.url, ledger=ledger, budget=budget, settings=made)
    judge.poll = 0.01
    return judge


def prompts(count: int) -> list[tuple[str, None]]:
    return [(f"Question {n}: rate this.", None) for n in range(count)]


def expected(server: Any, count: int) -> list[str]:
    return [server.reply(prompt) for prompt, _ in prompts(count)]


def test_replies_come_back_in_order_at_half_the_price_and_once(server: Any, ledger: Ledger) -> None:
    server.polls = 3
    judge = judge_of(server, ledger)
    assert judge.ask_many(prompts(20) + prompts(5)) == expected(server, 20) + expected(server, 5)
    assert len(server.batches) == 1
    (total,) = ledger.summary()
    assert total.price == pytest.approx((total.prompt_tokens * 2.5 + total.completion_tokens * 10) / 2e6)
    assert judge_of(server, ledger).ask_many(prompts(20)) == expected(server, 20)
    assert len(server.batches) == 1
    assert ledger.batches.find(MODEL, judge.identity) == []


def test_files_are_cut_by_lines_and_by_bytes(server: Any, ledger: Ledger) -> None:
    judge = judge_of(server, ledger)
    judge.most_lines = 8
    assert judge.ask_many(prompts(20)) == expected(server, 20)
    assert len(server.batches) == 3
    judge = judge_of(server, ledger)
    judge.most_bytes = 1000
    assert judge.ask_many(prompts(20), repeat=1) == expected(server, 20)
    assert len(server.batches) > 6


def test_failed_lines_and_expired_batches_are_sent_again(server: Any, ledger: Ledger) -> None:
    server.faults = [None, "status:500", None, "status:429"]
    assert judge_of(server, ledger).ask_many(prompts(10)) == expected(server, 10)
    assert len(server.batches) == 2
    server.batch_ends = "expired"
    assert judge_of(server, ledger).ask_many(prompts(10), repeat=1) == expected(server, 10)
    assert len(server.batches) == 4


def test_what_is_hopeless_is_left_without_a_reply(server: Any, ledger: Ledger) -> None:
    server.faults = ["status:400", "refusal"]
    judge = judge_of(server, ledger)
    replies = judge.ask_many(prompts(6))
    assert sum(reply is None for reply in replies) == 2
    assert dict(judge.client.failures) == {"refused request: status 400": 1, "refusal": 1}
    assert len(server.batches) == 1


def test_a_batch_on_its_way_is_waited_for_by_the_next_run(server: Any, ledger: Ledger) -> None:
    server.polls = 10**9
    first = judge_of(server, ledger)
    thread = threading.Thread(target=first.ask_many, args=(prompts(10),), daemon=True)
    thread.start()
    while not server.batches:
        thread.join(0.01)
    server.polls = 1  # both wait for it, and one of them collects
    assert judge_of(server, ledger).ask_many(prompts(12)) == expected(server, 12)
    thread.join(10)
    assert len(server.batches) == 2
    asked = [entry["messages"][0]["content"] for entry in server.log]
    assert sorted(asked) == sorted(prompt for prompt, _ in prompts(12))


def test_settings_of_single_calls_are_refused(server: Any, ledger: Ledger) -> None:
    with pytest.raises(SettingError, match="attempts, requests_per_minute: of single calls, would not act on batches"):
        judge_of(server, ledger, attempts=2, requests_per_minute=10.0)


def test_a_budget_is_looked_at_before_anything_is_sent(server: Any, ledger: Ledger) -> None:
    with pytest.raises(
        JudgeError, match=r"of \$0\.0010 is spent since .*, 100 questions for about \$0\.\d+ could pass it"
    ):
        judge_of(server, ledger, budget=0.001).ask_many(prompts(100))
    assert not server.batches
