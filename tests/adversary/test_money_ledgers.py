"""What befalls a ledger while it is used, and what servers do to batches: nothing paid is lost, no question hangs."""

import json
import multiprocessing
import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from support.errors import BudgetSpent, StoreError
from tasks.judges.batch import BatchJudge
from tasks.judges.ledger import Ledger
from tasks.judges.openai import OpenAIJudge
from tasks.judges.protocol import GREEDY
from tasks.judges.settings import JudgeSettings
from tests.conftest import completion

pytestmark = pytest.mark.usefixtures("no_keys")
MODEL = "gpt-4o-2024-11-20"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "l.sqlite"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BatchJudge, "poll", 0.01)
    monkeypatch.setattr(BatchJudge, "settled", 0.0)


def judge_of(server: Any, ledger: Path | Ledger, *, budget: float | None = None, **settings: Any) -> OpenAIJudge:
    made = JudgeSettings(**{"timeout": 5.0, "attempts": 3, "concurrency": 4} | settings)
    kept = ledger if isinstance(ledger, Ledger) else Ledger(ledger)
    return OpenAIJudge(MODEL, url=server.url, ledger=kept, budget=budget, settings=made)


def batches_of(server: Any, ledger: Path, *, budget: float | None = None, **settings: Any) -> BatchJudge:
    made = JudgeSettings(**{"timeout": 5.0} | settings)
    return BatchJudge(MODEL, url=server.url, ledger=Ledger(ledger), budget=budget, settings=made)


def prompts(count: int) -> list[tuple[str, None]]:
    return [(f"Question {n}: rate this.", None) for n in range(count)]


def times_paid(server: Any) -> Counter[str]:
    return Counter(entry["messages"][-1]["content"] for entry in server.log)


# --- the file


def on_call(server: Any, number: int, act: Callable[[], object]) -> None:
    """Do something while this call is on its way."""

    waiting = [act]  # two calls may come between two looks at the log

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        if len(server.log) >= number and waiting:
            waiting.pop()()
        return 200, completion(MODEL, "Rating: 3 " + "x" * 3000, 10, None)

    server.answer = answer


def remove(path: Path) -> None:
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()


def replace_by_a_new_one(path: Path) -> None:
    remove(path)
    Ledger(path).close()


GONE = {"removed": remove, "replaced": replace_by_a_new_one, "moved": lambda path: path.rename(f"{path}.old")}


@pytest.mark.parametrize("kind", GONE)
def test_a_ledger_that_is_taken_away_ends_the_run(kind: str, server: Any, path: Path) -> None:
    """What is written to a file without a name is lost, and paid for again."""
    on_call(server, 5, lambda: GONE[kind](path))
    with pytest.raises(StoreError, match=r"l\.sqlite: .*(removed|replaced)"):
        judge_of(server, path).ask_many(prompts(60))
    assert len(server.log) <= 5 + 2 * 4


def test_a_full_disk_ends_the_run_and_what_was_kept_is_not_asked_again(server: Any, path: Path) -> None:
    ledger = Ledger(path)
    on_call(server, 9, lambda: ledger._store.run("PRAGMA max_page_count = 1"))
    server.delay = 0.02
    with pytest.raises(StoreError, match=r"l\.sqlite"):
        judge_of(server, ledger).ask_many(prompts(200))
    assert len(server.log) < 150
    ledger.close()
    assert None not in judge_of(server, path).ask_many(prompts(200))
    paid = times_paid(server)
    assert len(paid) == 200
    assert paid.total() - 200 <= 2 * 4  # on their way then


def test_a_clock_that_jumps_voids_no_claim(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, other = Ledger(path), Ledger(path)
    token = ledger.claims.take("k")
    assert token
    real = time.time
    for days in (2, -2, 400):
        monkeypatch.setattr(time, "time", lambda days=days: real() + days * 86400)
        assert other.claims.take(f"other {days}")  # which shows life, and forgets the dead
        assert other.claims.take("k") is None
    ledger.claims.release("k", token)


def test_holders_of_long_ago_are_forgotten(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(path)
    with sqlite3.connect(path) as db:
        db.execute("INSERT INTO holders VALUES ('h', 'another machine', 1, '', 0, 0)")
        db.execute("INSERT INTO holders VALUES ('i', ?, 1, '', -1e9, 0)", (ledger.claims._place,))
    ledger.claims.show_life()
    ((count,),) = sqlite3.connect(path).execute("SELECT COUNT(*) FROM holders").fetchall()
    assert count == 1


def use_in_child(ledger: Ledger, pipe: Any) -> None:
    try:
        pipe.send(ledger.claims.take("of the child"))
    except StoreError as error:
        pipe.send(error)
    os._exit(0)


def test_a_child_of_fork_does_not_use_its_parents_ledger(path: Path) -> None:
    """Both would be one holder, whose claims end with the child."""
    ledger, other = Ledger(path), Ledger(path)
    token = ledger.claims.take("k")
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=use_in_child, args=(ledger, theirs))
    child.start()
    assert ours.poll(20)
    assert isinstance(found := ours.recv(), StoreError), found
    child.join()
    assert other.claims.take("k") is None
    assert ledger.claims.holds("k", str(token))


def test_two_hundred_calls_at_once_pay_once(server: Any, path: Path) -> None:
    server.delay = 0.2
    askers = [
        threading.Thread(target=judge_of(server, path, concurrency=200).ask_many, args=(prompts(400),))
        for _ in range(2)
    ]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert times_paid(server) == Counter(prompt for prompt, _ in prompts(400))


# --- budgets


@pytest.mark.parametrize("batch", (False, True))
@pytest.mark.parametrize("limit", (0.0, 1e-9, 1e-5))
def test_a_budget_below_the_first_call_pays_for_none(limit: float, batch: bool, server: Any, path: Path) -> None:
    make = batches_of if batch else judge_of
    for _ in range(2):
        with pytest.raises(BudgetSpent):
            make(server, path, budget=limit).ask_many(prompts(20))
    assert (len(server.log), len(server.files)) == (0, 0)


def test_what_is_kept_is_free(server: Any, path: Path) -> None:
    judge_of(server, path).ask_many(prompts(20))
    for make in (judge_of, batches_of):
        assert None not in make(server, path, budget=0.0).ask_many(prompts(20))
    assert len(server.log) == 20


@pytest.mark.parametrize("share", (2, 3))
def test_a_budget_holds_where_only_some_replies_have_a_count(share: int, server: Any, path: Path) -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 5}

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        counted = len(server.log) % share == 0
        return 200, completion(MODEL, "Rating: 3, so", 7, None) | {"usage": usage if counted else None}

    server.answer = answer
    with pytest.raises(BudgetSpent):
        judge_of(server, path, budget=0.004).ask_many(prompts(300))
    (total,) = Ledger(path).summary()
    assert total.estimated == total.calls - total.calls // share
    assert 0.003 < Ledger(path).spent() <= 0.004


def test_a_budget_holds_over_retries_and_repeats(server: Any, path: Path) -> None:
    server.faults = ["status:500", None, "null", None, "no usage"] * 40
    judge = judge_of(server, path, budget=0.004)

    def ask_all() -> None:
        for repeat in range(9):
            judge.ask_many(prompts(30), repeat=repeat)

    with pytest.raises(BudgetSpent):
        ask_all()
    assert 0.003 < Ledger(path).spent() <= 0.004


# --- batches


def leave_open(server: Any, path: Path, monkeypatch: pytest.MonkeyPatch, count: int, at: str = "") -> None:
    """A batch that is made and not collected."""

    class KilledError(Exception):
        pass

    def raise_killed(*_: Any, **__: Any) -> Any:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(at or "openai.resources.batches.AsyncBatches.retrieve", raise_killed)
        with pytest.raises(KilledError):
            batches_of(server, path).ask_many(prompts(count))


UNNAMED = "tasks.judges.open_batches.OpenBatches.name"


def test_a_batch_that_the_server_has_forgotten_is_told_and_asked_again_where_wanted(
    server: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_open(server, path, monkeypatch, 6)
    server.batches["another"] = server.batches.pop("batch-0")
    for _ in range(2):
        replies = batches_of(server, path).ask_many(prompts(8))
        assert [reply is None for reply in replies] == [True] * 6 + [False] * 2
        assert "batch-0" in replies.lost[0].error
        assert "retry_unread=true" in replies.lost[0].error
    assert None not in batches_of(server, path, retry_unread=True).ask_many(prompts(8))
    assert None not in batches_of(server, path).ask_many(prompts(8))


def test_files_of_a_batch_that_the_server_has_removed_are_replies_that_are_lost(
    server: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_open(server, path, monkeypatch, 6, at="openai.resources.files.AsyncFiles.content")
    for batch in server.batches.values():
        server.files.pop(batch["output"])
    for _ in range(2):
        replies = batches_of(server, path).ask_many(prompts(6))
        assert replies == [None] * 6
    assert len(server.batches) == 1
    assert None not in batches_of(server, path, retry_unread=True).ask_many(prompts(6))


def test_a_batch_is_found_behind_thousands_of_others(server: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_open(server, path, monkeypatch, 6, at=UNNAMED)
    for number in range(600):
        metadata = ({"harness": f"{number}"}, {"harness": 7}, None, {}, {"other": "x"})[number % 5]
        server.batches[f"of others {number}"] = {**server.batches["batch-0"], "metadata": metadata}
    assert None not in batches_of(server, path).ask_many(prompts(6))
    assert times_paid(server) == Counter(prompt for prompt, _ in prompts(6))


def test_a_list_without_an_end_is_no_list(server: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_open(server, path, monkeypatch, 6, at=UNNAMED)
    server.batches["batch-0"]["metadata"] = None
    server.has_more = True
    replies = batches_of(server, path).ask_many(prompts(7))
    assert [reply is None for reply in replies] == [True] * 6 + [False]
    assert "the server's list of batches has no end" in replies.lost[0].error


def test_two_copies_of_a_ledger_collect_one_batch(server: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_open(server, path, monkeypatch, 6)
    copy = path.with_name("copy.sqlite")
    with sqlite3.connect(path) as source, sqlite3.connect(copy) as target:
        source.backup(target)
    for ledger in (path, copy):
        assert None not in batches_of(server, ledger).ask_many(prompts(6))
    assert (len(server.batches), len(server.log)) == (1, 6)


# --- earlier versions


BEFORE = """
CREATE TABLE calls (key TEXT PRIMARY KEY, task TEXT NOT NULL, model TEXT NOT NULL, served TEXT NOT NULL,
    reply TEXT NOT NULL, prompt_tokens INTEGER, completion_tokens INTEGER, price REAL, latency REAL NOT NULL,
    attempts INTEGER NOT NULL, batch INTEGER NOT NULL, created TEXT NOT NULL, finish TEXT NOT NULL DEFAULT 'stop',
    asked TEXT NOT NULL DEFAULT '');
CREATE TABLE batches (id TEXT PRIMARY KEY, model TEXT NOT NULL, task TEXT NOT NULL, keys TEXT NOT NULL,
    created TEXT NOT NULL);
CREATE TABLE claims (key TEXT PRIMARY KEY, host TEXT NOT NULL, pid INTEGER NOT NULL, expires REAL NOT NULL);
"""


def before(server: Any, path: Path, prompt: str) -> str:
    """The key that versions before gave a question."""
    return str(judge_of(server, path.with_name("unused.sqlite")).request(prompt, None, GREEDY).before)


def earlier_ledger(server: Any, path: Path) -> None:
    """Replies to the first two of six questions, and a batch on its way with the next two."""
    keys = [before(server, path, prompt) for prompt, _ in prompts(6)]
    with sqlite3.connect(path) as db:
        db.executescript(BEFORE)
        for key in keys[:2]:
            facts = "'Rating: 6', 10, 3, 1e-5, 0.1, 1, 0, '2026-11-01T00:00:00+00:00', 'stop', ''"
            db.execute(f"INSERT INTO calls VALUES (?, 't', ?, ?, {facts})", (key, MODEL, MODEL))
        values = ("batch-of-before", MODEL, "t", json.dumps(keys[2:4]), "2026-11-30T00:00:00+00:00")
        db.execute("INSERT INTO batches VALUES (?, ?, ?, ?, ?)", values)
        db.execute("INSERT INTO claims VALUES (?, 'host', 1, 1e12)", (keys[4],))
    lines = [
        {"custom_id": key, "body": {"model": MODEL, "messages": [{"role": "user", "content": prompt}]}}
        for key, (prompt, _) in zip(keys[2:4], prompts(6)[2:4], strict=True)
    ]
    server.files["file-0"] = "\n".join(map(json.dumps, lines)).encode()
    state = {"polls": 0, "status": "in_progress", "metadata": None, "input": "file-0", "output": None, "errors": None}
    server.batches["batch-of-before"] = state


@pytest.mark.parametrize("single_first", (False, True))
def test_replies_and_batches_of_an_earlier_version_are_used_and_that_is_told(
    single_first: bool, server: Any, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    earlier_ledger(server, path)
    if single_first:
        replies = judge_of(server, path).ask_many(prompts(6))
        assert [reply is None for reply in replies] == [False, False, True, True, False, False]
        assert "in a batch on its way (batch-of-before)" in replies.lost[2].error
    judge = batches_of(server, path)
    assert judge.ask_many(prompts(6))[:2] == ["Rating: 6"] * 2
    assert times_paid(server) == Counter(prompt for prompt, _ in prompts(6)[2:])
    judge.tell_reuse("mmhal")
    assert "2 of them were kept without their server's address" in caplog.text
    assert Ledger(path).batches.find(MODEL, judge.identity) == []


def test_exports_pass_between_versions(server: Any, path: Path, tmp_path: Path) -> None:
    earlier_ledger(server, path)
    with sqlite3.connect(path) as db:
        db.row_factory = sqlite3.Row
        rows = [dict(row) for row in db.execute("SELECT * FROM calls")]
    export, other = tmp_path / "export.jsonl", tmp_path / "other.sqlite"
    export.write_text("".join(json.dumps(row | {"batch": bool(row["batch"])}) + "\n" for row in rows))
    assert Ledger(other).import_from(export) == (2, 0, 0)
    assert judge_of(server, other).ask_many(prompts(2)) == ["Rating: 6"] * 2
    assert not server.log
    assert judge_of(server, other).ask_many(prompts(3))[2]
    again, third = tmp_path / "again.jsonl", tmp_path / "third.sqlite"
    assert Ledger(other).export(again) == 3
    assert Ledger(third).import_from(again) == (3, 0, 0)
    assert list(map(asdict, Ledger(third).calls())) == list(map(asdict, Ledger(other).calls()))
    assert None not in judge_of(server, third).ask_many(prompts(3))
    assert len(server.log) == 1


ABSURD: dict[str, Any] = {
    "prompt_tokens": (2**70, -5, "NaN", 1e400, True),
    "price": (2**2000, -1.0, float("nan"), float("inf")),
    "latency": (float("nan"), "x", 2**70, None),
    "attempts": (2**70, "x", None, 1.5),
    "batch": (2**70, "x", None),
    "key": ("x", 7, ""),
}


@pytest.mark.parametrize("name", ABSURD)
def test_an_export_with_a_value_that_can_t_be_is_refused_in_a_line(
    name: str, server: Any, path: Path, tmp_path: Path
) -> None:
    judge_of(server, path).ask_many(prompts(1))
    export = tmp_path / "export.jsonl"
    Ledger(path).export(export)
    row = json.loads(export.read_text())
    for number, value in enumerate(ABSURD[name]):
        export.write_text(json.dumps(row | {name: value}))
        ledger = Ledger(tmp_path / f"{number}.sqlite")
        with pytest.raises(StoreError, match=r"export\.jsonl: line 1"):
            ledger.import_from(export)
        assert list(ledger.calls()) == []
