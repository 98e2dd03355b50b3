"""A batch is paid once, wherever its process ends and whatever its files hold."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.errors import BudgetSpent
from tasks.judges.batch import BatchJudge
from tasks.judges.ledger import Ledger
from tasks.judges.openai import OpenAIJudge
from tasks.judges.settings import JudgeSettings

pytestmark = pytest.mark.usefixtures("no_keys")
MODEL = "gpt-4o-2024-11-20"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BatchJudge, "poll", 0.01)
    monkeypatch.setattr(BatchJudge, "settled", 0.0)


def judge_of(server: Any, path: Path, *, budget: float | None = None, **settings: Any) -> BatchJudge:
    made = JudgeSettings(**{"timeout": 5.0} | settings)
    return BatchJudge(MODEL, url=server.url, ledger=Ledger(path), budget=budget, settings=made)


def prompts(count: int) -> list[tuple[str, None]]:
    return [(f"Question {n}: rate this.", None) for n in range(count)]


def times_paid(server: Any) -> Counter[str]:
    return Counter(entry["messages"][-1]["content"] for entry in server.log)


class KilledError(Exception):
    """Stands for kill -9: nothing that follows is done."""


def raise_killed(*_: Any, **__: Any) -> Any:
    raise KilledError


POINTS = {
    "before the upload": ("openai.resources.files.AsyncFiles.create", 0),
    "between upload and batch": ("openai.resources.batches.AsyncBatches.create", 0),
    "between the batch and its row": ("tasks.judges.open_batches.OpenBatches.name", 1),
    "while it waits": ("openai.resources.batches.AsyncBatches.retrieve", 1),
    "before the output": ("openai.resources.files.AsyncFiles.content", 1),
    "within the output": ("tasks.judges.paid_replies.PaidReplies.read_body", 1),
    "before it is closed": ("tasks.judges.open_batches.OpenBatches.close", 1),
}


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_anywhere_costs_nothing(
    point: str, server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, made = POINTS[point]
    with monkeypatch.context() as patched:
        patched.setattr(place, raise_killed)
        with pytest.raises(KilledError):
            judge_of(server, tmp_path / "l.sqlite").ask_many(prompts(6))
    assert len(server.batches) == made
    judge = judge_of(server, tmp_path / "l.sqlite")
    assert judge.ask_many(prompts(8)) == [server.reply(prompt) for prompt, _ in prompts(8)]
    assert times_paid(server) == Counter(prompt for prompt, _ in prompts(8))
    assert judge.client.ledger.batches.find(MODEL, judge.identity) == []


def test_a_batch_is_found_behind_many_others(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("tasks.judges.open_batches.OpenBatches.name", raise_killed)
        with pytest.raises(KilledError):
            judge_of(server, tmp_path / "l.sqlite").ask_many(prompts(6))
    judge_of(server, tmp_path / "others.sqlite").ask_many([("Another.", None)])
    for number in range(5):
        server.batches[f"of others {number}"] = {**server.batches["batch-1"], "metadata": None}
    assert None not in judge_of(server, tmp_path / "l.sqlite").ask_many(prompts(6))
    assert times_paid(server) == Counter({**{prompt: 1 for prompt, _ in prompts(6)}, "Another.": 1})


def test_a_server_that_lists_no_batches_leaves_the_question_to_the_user(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("tasks.judges.open_batches.OpenBatches.name", raise_killed)
        with pytest.raises(KilledError):
            judge_of(server, tmp_path / "l.sqlite").ask_many(prompts(3))
    server.lists_batches = False
    for _ in range(2):
        replies = judge_of(server, tmp_path / "l.sqlite").ask_many(prompts(5))
        assert replies[3:] == [server.reply(prompt) for prompt, _ in prompts(5)[3:]]
        assert "it may be in a batch, and the server lists none (status 404)" in replies.lost[0].error
    assert len(server.batches) == 2
    assert None not in judge_of(server, tmp_path / "l.sqlite", retry_unread=True).ask_many(prompts(5))


def test_processes_share_batches(server: Any, tmp_path: Path) -> None:
    server.polls = 3
    found: list[Any] = []
    askers = [
        threading.Thread(target=lambda: found.append(judge_of(server, tmp_path / "l.sqlite").ask_many(prompts(9))))
        for _ in range(3)
    ]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert found == [[server.reply(prompt) for prompt, _ in prompts(9)]] * 3
    assert times_paid(server) == Counter(prompt for prompt, _ in prompts(9))


def test_a_question_in_a_batch_is_not_asked_by_itself(server: Any, tmp_path: Path) -> None:
    server.polls = 10**9
    path = tmp_path / "l.sqlite"
    asker = threading.Thread(target=judge_of(server, path).ask_many, args=(prompts(3),))
    asker.start()
    while not server.batches:
        time.sleep(0.01)
    single = OpenAIJudge(MODEL, url=server.url, ledger=Ledger(path))
    replies = single.ask_many(prompts(4))
    assert [reply is None for reply in replies] == [True, True, True, False]
    assert "in a batch on its way" in replies.lost[0].error
    server.polls = 1
    asker.join()
    assert None not in single.ask_many(prompts(4))
    assert times_paid(server) == Counter(prompt for prompt, _ in prompts(4))


def test_lines_of_another_runs_questions_are_kept_for_it(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("openai.resources.batches.AsyncBatches.retrieve", raise_killed)
        with pytest.raises(KilledError):
            judge_of(server, tmp_path / "l.sqlite").ask_many(prompts(6))
    assert None not in judge_of(server, tmp_path / "l.sqlite").ask_many(prompts(2))  # with another --limit
    single = OpenAIJudge(MODEL, url=server.url, ledger=Ledger(tmp_path / "l.sqlite"))
    assert single.ask_many(prompts(6)) == [server.reply(prompt) for prompt, _ in prompts(6)]
    assert times_paid(server) == Counter(prompt for prompt, _ in prompts(6))


def spoil(row: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {name: value for name, value in (row | changes).items() if value != "gone"}


DAMAGE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no JSON": lambda row: "{not JSON",
    "cut": lambda row: json.dumps(row)[:90],
    "no text": lambda row: b"\xff\xfe\x00",
    "no custom_id": lambda row: spoil(row, custom_id="gone"),
    "a number as custom_id": lambda row: spoil(row, custom_id=7),
    "an unknown custom_id": lambda row: spoil(row, custom_id="f" * 64),
    "an empty line": lambda row: "",
    "a list": lambda row: json.dumps([row]),
    "deep": lambda row: "[" * 100_000,
    "no body": lambda row: spoil(row, response={"status_code": 200}),
    "null": lambda row: spoil(row, response={"status_code": 200, "body": None}),
    "a body of text": lambda row: spoil(row, response={"status_code": 200, "body": "Rating: 3"}),
    "a body of an error": lambda row: spoil(row, response={"status_code": 200, "body": {"error": {"message": "x"}}}),
    "no status": lambda row: spoil(row, response={}),
    "a response of text": lambda row: spoil(row, response="Rating: 3"),
    "no response": lambda row: spoil(row, response="gone", error="gone"),
}
"""What may stand in place of a line of a completed batch's output."""


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_line_is_a_reply_that_can_t_be_read(kind: str, server: Any, tmp_path: Path) -> None:
    server.spoil = lambda place, row: DAMAGE[kind](row) if place == 3 else row  # in reverse: question 2 of 6
    for _ in range(2):
        replies = judge_of(server, tmp_path / "l.sqlite").ask_many(prompts(6))
        assert [place for place, reply in enumerate(replies) if reply is None] == [2]
        assert replies.lost[2].error
    assert times_paid(server) == Counter(prompt for prompt, _ in prompts(6))
    (total,) = Ledger(tmp_path / "l.sqlite").summary()
    assert (total.calls, total.losses) == (5, 1)
    server.spoil = None
    assert None not in judge_of(server, tmp_path / "l.sqlite", retry_unread=True).ask_many(prompts(6))


NOT_DONE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "expired": lambda row: spoil(row, response=None, error={"code": "batch_expired", "message": "not executed"}),
    "429": lambda row: spoil(row, response={"status_code": 429, "body": {"error": {"message": "later"}}}),
    "500": lambda row: spoil(row, response={"status_code": "500", "body": None}),
}


@pytest.mark.parametrize("kind", NOT_DONE)
def test_a_line_that_was_not_done_goes_into_the_next_batch(kind: str, server: Any, tmp_path: Path) -> None:
    server.spoil = lambda place, row: NOT_DONE[kind](row) if place == 3 and len(server.batches) == 1 else row
    assert None not in judge_of(server, tmp_path / "l.sqlite").ask_many(prompts(6))
    assert len(server.batches) == 2


def test_of_two_lines_of_one_question_the_first_counts(server: Any, tmp_path: Path) -> None:
    def twice(place: int, row: dict[str, Any]) -> str:
        other = json.loads(json.dumps(row))
        other["response"]["body"]["choices"][0]["message"]["content"] = "Rating: 0"
        return f"{json.dumps(row)}\n{json.dumps(other)}"

    server.spoil = twice
    judge = judge_of(server, tmp_path / "l.sqlite")
    assert judge.ask_many(prompts(4)) == [server.reply(prompt) for prompt, _ in prompts(4)]
    (total,) = judge.client.ledger.summary()
    assert (total.calls, total.losses) == (4, 0)


@pytest.mark.parametrize("status", ("expired", "cancelled", "failed"))
def test_what_a_batch_has_done_before_its_end_is_used(status: str, server: Any, tmp_path: Path) -> None:
    server.batch_ends, server.done_of_ended = status, 0 if status == "failed" else 3
    assert None not in judge_of(server, tmp_path / "l.sqlite").ask_many(prompts(6))
    assert times_paid(server) == Counter(prompt for prompt, _ in prompts(6))
    assert len(server.batches) == 2


def test_a_budget_counts_batches_on_their_way(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("openai.resources.batches.AsyncBatches.retrieve", raise_killed)
        with pytest.raises(KilledError):
            judge_of(server, tmp_path / "l.sqlite", budget=0.002).ask_many(prompts(2))
    with pytest.raises(BudgetSpent, match=r"\$0\.0015 of \$0\.0020 is spent since .*, 3 questions for about"):
        judge_of(server, tmp_path / "l.sqlite", budget=0.002).ask_many(prompts(9)[6:])
    assert None not in judge_of(server, tmp_path / "l.sqlite", budget=0.002).ask_many(prompts(2))
    assert Ledger(tmp_path / "l.sqlite").spent() < 0.0005
