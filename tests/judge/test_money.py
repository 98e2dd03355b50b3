"""What is booked: the price of the model that answered, of cached input and of thoughts; told prices and budgets."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import run
from harness.evaluation.eval_settings import judge_facts
from harness.evaluation.make_judge import make_judge
from support.errors import BudgetSpent, SettingError, StoreError
from tasks.judges.ledger import Ledger
from tasks.judges.openai import OpenAIJudge
from tasks.judges.settings import JudgeSettings
from tasks.registry import registry
from tests.conftest import completion

pytestmark = pytest.mark.usefixtures("no_keys")


def answer_as(server: Any, *, served: str, usage: dict[str, Any], finish: str = "stop") -> None:
    """Have the server say who has answered, and what it counted."""

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        found = completion(served, "Rating: 4", 1, None) | {"usage": usage}
        found["choices"][0]["finish_reason"] = finish
        return 200, found

    server.answer = answer


def asked(server: Any, path: Path, model: str, **settings: Any) -> OpenAIJudge:
    judge = OpenAIJudge(model, url=server.url, ledger=Ledger(path), settings=JudgeSettings(**settings))
    judge.ask_many([("Question?", None)], label="mmhal")
    return judge


def count(prompt: int, completion: int, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion} | more


@pytest.mark.parametrize(
    ("served", "usage", "dollars"),
    (
        ("gpt-4o-2024-05-13", count(1000, 100), 0.0065),
        ("gpt-4o-2024-11-20", count(1000, 100), 0.0035),
        ("gpt-4o-2024-11-20", count(1000, 100, prompt_tokens_details={"cached_tokens": 800}), 0.0025),
        ("gpt-4o-2024-11-20", count(1000, 100, prompt_tokens_details={"cached_tokens": 10**6}), 0.00225),
        ("gpt-4o-2024-11-20", count(1000, 100, prompt_tokens_details={"cached_tokens": -5}), 0.0035),
        ("gpt-4o-2024-11-20", count(1000, 100, prompt_tokens_details=None), 0.0035),
        ("gpt-4o", count(1000, 100, completion_tokens_details={"reasoning_tokens": 90}), 0.0035),
        ("gpt-4o", count(1000, 100, total_tokens=1500), 0.0075),  # thoughts that the total alone has
        ("gpt-4o", count(1000, 100, total_tokens=0), 0.0035),
    ),
)
def test_a_reply_costs_what_its_model_and_its_tokens_cost(
    served: str, usage: dict[str, Any], dollars: float, server: Any, tmp_path: Path
) -> None:
    answer_as(server, served=served, usage=usage)
    judge = asked(server, tmp_path / "l.sqlite", "gpt-4o")
    (call,) = judge.client.ledger.calls()
    assert call.served == served
    assert call.price == pytest.approx(dollars)
    assert judge.client.paid == pytest.approx(dollars)


def test_a_reply_that_is_none_costs_what_its_model_costs(server: Any, tmp_path: Path) -> None:
    answer_as(server, served="gpt-4o-2024-05-13", usage=count(1000, 100), finish="content_filter")
    judge = asked(server, tmp_path / "l.sqlite", "gpt-4o")
    (total,) = judge.client.ledger.summary()
    assert (total.losses, total.served) == (1, "gpt-4o-2024-05-13")
    assert total.price == pytest.approx(0.0065)


def test_the_ledger_shows_money_by_the_model_that_answered(
    server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge = OpenAIJudge("gpt-4o", url=server.url, ledger=Ledger(tmp_path / "l.sqlite"))
    for number, served in enumerate(("gpt-4o-2024-05-13", "gpt-4o-2024-11-20", "gpt-4o-2024-11-20")):
        answer_as(server, served=served, usage=count(1000, 100, prompt_tokens_details={"cached_tokens": 10}))
        judge.ask_many([(f"Question {number}?", None)], label="mmhal")
    (total,) = judge.client.ledger.summary()
    assert total.calls == 3
    assert run(["judge", "ledger", "--ledger", str(tmp_path / "l.sqlite"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["ledger"]
    shown = {row["served"]: (row["calls"], row["cached_tokens"], round(row["price"], 6)) for row in rows}
    assert shown == {"gpt-4o-2024-05-13": (1, 10, 0.0065), "gpt-4o-2024-11-20": (2, 20, 0.006975)}
    assert run(["judge", "ledger", "--ledger", str(tmp_path / "l.sqlite")]) == 0
    assert "2000 (20 cached)" in capsys.readouterr().out


def test_a_price_that_nobody_knows_is_counted_as_not_known(server: Any, tmp_path: Path) -> None:
    judge = asked(server, tmp_path / "l.sqlite", "my-judge")
    assert (judge.client.paid, judge.client.unpriced) == (0.0, 1)
    told = asked(server, tmp_path / "other.sqlite", "my-judge", price="1000,2000")
    assert told.client.unpriced == 0
    (call,) = told.client.ledger.calls()
    assert call.price == pytest.approx((call.prompt_tokens or 0) * 0.001 + (call.completion_tokens or 0) * 0.002)


def test_a_budget_wants_a_price_and_takes_one_that_is_told(server: Any, tmp_path: Path) -> None:
    given: dict[str, Any] = {"url": server.url, "ledger": tmp_path / "l", "budget": 0.35}
    with pytest.raises(SettingError, match=r"no price of 'my-judge' is known; give it by --judge-price IN,OUT"):
        make_judge("my-judge", **given)
    make_judge("gpt-5-mini", **given)  # an alias, at a gateway
    judge = make_judge("my-judge", **given, settings=JudgeSettings(price="1000,1000"))
    server.reply = lambda prompt: "x" * 400
    with pytest.raises(BudgetSpent, match=r"\$0\.[23].* of \$0\.3500 is spent"):
        judge.ask_many([(f"Question {number}?", None) for number in range(9)])
    assert 0 < len(server.log) < 9
    free = make_judge("my-judge", **given | {"ledger": tmp_path / "free"}, settings=JudgeSettings(price="0,0"))
    assert len(free.ask_many([(f"Question {number}?", None) for number in range(9)])) == 9


def test_what_a_model_that_thinks_will_write_is_more_than_its_verdict(server: Any, tmp_path: Path) -> None:
    judge = OpenAIJudge("gpt-5-mini", url=server.url, ledger=Ledger(tmp_path / "l.sqlite"))
    plain = OpenAIJudge("gpt-4o", url=server.url, ledger=Ledger(tmp_path / "l.sqlite"))
    assert judge.client.expected_reply("mmvet", 3) == plain.client.expected_reply("mmvet", 3) + 500 == 503
    answer_as(server, served="gpt-5-mini-2025-08-07", usage=count(100, 80))
    judge.ask_many([("Question?", None)], label="mmvet")
    assert judge.client.expected_reply("mmvet", 3) == 80  # as the ledger knows


def test_a_deployment_that_has_answered_once_has_a_price(server: Any, tmp_path: Path) -> None:
    given: dict[str, Any] = {"url": server.url, "ledger": tmp_path / "l.sqlite"}
    answer_as(server, served="gpt-4o-2024-05-13", usage=count(1000, 100))
    first = asked(server, tmp_path / "l.sqlite", "my-deployment")
    assert first.client.estimate(1_000_000, 0) == 5
    later = make_judge("my-deployment", **given, budget=0.01)
    assert isinstance(later, OpenAIJudge)
    assert later.client.estimate(1_000_000, 0) == 5
    with pytest.raises(SettingError, match="no price of 'other-deployment'"):
        make_judge("other-deployment", **given, budget=0.01)
    with pytest.raises(BudgetSpent):
        later.ask_many([(f"Question {number}?", None) for number in range(9)])


def test_an_entry_says_which_price_was_told_and_what_is_not_known(server: Any, tmp_path: Path) -> None:
    task = registry().task("mmhal")
    unknown = asked(server, tmp_path / "l.sqlite", "my-judge")
    assert judge_facts(task, unknown)["judge cost"] == "not known of 1 calls"
    told = judge_facts(task, asked(server, tmp_path / "other.sqlite", "my-judge", price="0,0"))
    assert told["judge price"] == "0,0"
    assert "judge cost" not in told


def test_exported_calls_keep_their_cached_tokens_and_earlier_ones_have_none(server: Any, tmp_path: Path) -> None:
    answer_as(server, served="gpt-4o", usage=count(1000, 100, prompt_tokens_details={"cached_tokens": 7}))
    ledger = asked(server, tmp_path / "l.sqlite", "gpt-4o").client.ledger
    ledger.export(tmp_path / "calls.jsonl")
    row = json.loads((tmp_path / "calls.jsonl").read_text(encoding="utf-8"))
    for value, kept in ((7, 7), (None, 0)):
        given = {name: each for name, each in (row | {"cached_tokens": value}).items() if each is not None}
        (tmp_path / "given.jsonl").write_text(json.dumps(given), encoding="utf-8")
        other = Ledger(tmp_path / f"{kept}.sqlite")
        assert other.import_from(tmp_path / "given.jsonl") == (1, 0, 0)
        assert [call.cached_tokens for call in other.calls()] == [kept]
    for bad in ("7", -1, 0.5):
        (tmp_path / "bad.jsonl").write_text(json.dumps(row | {"cached_tokens": bad}), encoding="utf-8")
        with pytest.raises(StoreError, match="a field has the wrong type"):
            Ledger(tmp_path / "bad.sqlite").import_from(tmp_path / "bad.jsonl")
