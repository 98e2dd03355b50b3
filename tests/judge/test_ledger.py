import dataclasses
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import run
from support.errors import StoreError
from tasks.judges.ledger import Call, Ledger, Loss, now
from tasks.judges.openai import OpenAIJudge
from tasks.judges.protocol import Sampling


def call(number: int, **changes: object) -> Call:
    names = (f"{number:064x}", "mmhal", "gpt-4o-2024-11-20", "gpt-4o-2024-11-20", f"Rating: {number}")
    fixed = Call(*names, 100, 10, 0.00035, 0.5, 1, False, now())
    return dataclasses.replace(fixed, **changes)  # type: ignore[arg-type]


def test_what_was_put_is_there_for_the_next_process(tmp_path: Path) -> None:
    Ledger(tmp_path / "deep" / "l.sqlite").put(call(1))
    again = Ledger(tmp_path / "deep" / "l.sqlite")
    assert again.reply(call(1).key) == "Rating: 1"
    assert again.reply(call(2).key) is None
    assert list(again.calls()) == [call(1, created=next(again.calls()).created)]


OF_AN_EARLIER_VERSION = Path(__file__).with_name("earlier_ledger.sql")
"""As harness wrote it before replies had a finish reason: three calls, a loss, a batch on its way, a claim."""


def test_a_ledger_of_an_earlier_version_is_not_paid_for_again(
    tmp_path: Path, server: Any, no_keys: None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "l.sqlite"
    sqlite3.connect(path).executescript(OF_AN_EARLIER_VERSION.read_text(encoding="utf-8"))
    for _ in range(2):  # the second time its columns are there
        judge = OpenAIJudge("gpt-4o-2024-11-20", url=server.url, ledger=Ledger(path))
        assert judge.ask_many([("Question 0", None), ("Question 1", None)]) == ["Rating: 4", "Rating: 5"]
        assert judge.ask_many([("Question 2", None)], Sampling(max_tokens=3, system="Rate.")) == ["0.5"]
        judge.client.ledger.close()
    assert not server.log
    ledger = Ledger(path)
    assert {(call.finish, call.asked) for call in ledger.calls()} == {("stop", "")}
    (batch,) = ledger.batches.find(judge.model)
    assert (batch.id, batch.name, batch.keys) == ("batch-7", "batch-7", ["k-1", "k-2"])
    assert ledger.claims.take("k-claimed")
    (total,) = ledger.summary()
    assert (total.calls, total.losses, total.price) == (3, 1, None)
    assert run(["judge", "ledger", "--ledger", str(path)]) == 0
    assert "mmhal" in capsys.readouterr().out


def test_a_reply_with_half_a_surrogate_pair_is_kept_and_shared(tmp_path: Path) -> None:
    one, other = Ledger(tmp_path / "a.sqlite"), Ledger(tmp_path / "b.sqlite")
    one.put(call(1, reply="Rating: \ud83d"))
    one.export(tmp_path / "calls.jsonl")
    assert other.import_from(tmp_path / "calls.jsonl") == (1, 0, 0)
    assert other.reply(call(1).key) == "Rating: \ud83d"


def test_the_first_reply_under_a_key_stays(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite")
    ledger.put(call(1))
    ledger.put(call(1, reply="Rating: 6"))
    assert ledger.reply(call(1).key) == "Rating: 1"


def test_the_summary_adds_up_calls_losses_and_money(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite")
    for number in range(3):
        ledger.put(call(number))
    ledger.put(call(9, task="mmvet", price=None, prompt_tokens=None))
    lost = call(5, completion_tokens=0, price=0.00025)
    ledger.lose(Loss.of(lost, "content filter"))
    first, second = ledger.summary()
    counts = (first.calls, first.losses, first.prompt_tokens, first.completion_tokens)
    assert (first.task, *counts) == ("mmhal", 3, 1, 400, 30)
    assert first.price == pytest.approx(0.0013)
    assert (second.task, second.price) == ("mmvet", None)
    assert ledger.spent() == pytest.approx(0.0013)
    assert ledger.completion_tokens("mmhal", "gpt-4o-2024-11-20") == 10
    assert ledger.completion_tokens("mmhal", "other") is None


def test_verdicts_can_be_shared(tmp_path: Path) -> None:
    mine, theirs = Ledger(tmp_path / "a.sqlite"), Ledger(tmp_path / "b.sqlite")
    for number in range(3):
        mine.put(call(number))
    theirs.put(call(0))
    theirs.put(call(1, reply="Rating: 5"))
    assert mine.export(tmp_path / "calls.jsonl") == 3
    assert theirs.import_from(tmp_path / "calls.jsonl") == (1, 1, 1)
    assert theirs.reply(call(1).key) == "Rating: 5"
    assert theirs.import_from(tmp_path / "calls.jsonl") == (0, 2, 1)


@pytest.mark.parametrize(
    ("line", "complaint"),
    (
        ("{", r"calls\.jsonl: line 1: not JSON"),
        ('{"key": "x"}', r"line 1: must have exactly key, task, model"),
        (json.dumps(dataclasses.asdict(call(1)) | {"reply": None}), "line 1: a field has the wrong type"),
    ),
)
def test_a_file_that_is_no_export_changes_nothing(line: str, complaint: str, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite")
    (tmp_path / "calls.jsonl").write_text(line, encoding="utf-8")
    with pytest.raises(StoreError, match=complaint):
        ledger.import_from(tmp_path / "calls.jsonl")
    with pytest.raises(StoreError, match="can't be read"):
        ledger.import_from(tmp_path / "none.jsonl")
    assert not list(ledger.calls())


def test_a_file_that_is_no_ledger_is_named(tmp_path: Path) -> None:
    (tmp_path / "l.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreError, match=r"l\.sqlite: can't be used as a ledger"):
        Ledger(tmp_path / "l.sqlite")
