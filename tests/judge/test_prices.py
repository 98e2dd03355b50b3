from datetime import date
from pathlib import Path
from typing import Any

import pytest

from support.errors import SettingError
from tasks.judges import prices
from tasks.judges.ledger import Ledger
from tasks.judges.openai import OpenAIJudge
from tasks.judges.protocol import Sampling


def test_a_price_is_per_million_tokens_and_half_in_a_batch() -> None:
    assert prices.price("gpt-4o-2024-11-20", 1_000_000, 0) == 2.5
    assert prices.price("gpt-4o-2024-11-20", 1000, 100) == pytest.approx(0.0035)
    assert prices.price("gpt-4o-2024-11-20", 1000, 100, batch=True) == pytest.approx(0.00175)


def test_an_unknown_price_is_not_zero() -> None:
    assert prices.price("my-own-judge", 1000, 100) is None


@pytest.mark.parametrize(
    ("width", "height", "detail", "tokens"),
    (
        (1024, 1024, "auto", 765),
        (2048, 4096, "high", 1105),
        (512, 512, "auto", 255),
        (4096, 8192, "low", 85),
        (64, 64, "auto", 255),
    ),
)
def test_images_cost_by_the_published_tiles(width: int, height: int, detail: str, tokens: int) -> None:
    assert prices.image_tokens("gpt-4o-2024-11-20", width, height, detail) == tokens


def test_a_judge_that_was_shut_down_is_told() -> None:
    shut_down = "gpt-4-0314 was shut down on 2024-06-13: its scores can't be re-run"
    assert prices.retired("gpt-4-0314", date(2026, 1, 1)) == shut_down
    assert prices.retired("gpt-4-0314", date(2024, 1, 1)) is None
    assert prices.retired("gpt-4o-2024-11-20", date(2026, 1, 1)) is None
    assert "is to be shut down on 2027-01-14" in str(prices.retired("gpt-4o-2024-11-20", date(2026, 11, 21)))


def test_the_users_table_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "prices.toml"
    own.write_text(
        '[models."my-own-judge"]\ninput = 1\noutput = 2\n[models."gpt-4o-2024-11-20"]\ninput = 9\noutput = 9\n'
    )
    monkeypatch.setenv("HARNESS_PRICES", str(own))
    assert prices.price("my-own-judge", 1_000_000, 0) == 1
    assert prices.price("gpt-4o-2024-11-20", 1_000_000, 0) == 9
    assert prices.price("gpt-4-0613", 1_000_000, 0) == 30


@pytest.mark.parametrize(
    ("text", "complaint"),
    (("[", "no price table"), ("batch = 1", "must have entries"), ('[models."x"]\ninput = "a"', r"models\.x\.input")),
)
def test_a_table_that_is_none_is_one_line(
    text: str, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "prices.toml"
    own.write_text(text)
    monkeypatch.setenv("HARNESS_PRICES", str(own))
    with pytest.raises(SettingError, match=complaint):
        prices.price("x", 1, 1)


def test_what_a_call_will_cost_is_within_two_percent_of_what_it_did(server: Any, tmp_path: Path) -> None:
    judge = OpenAIJudge("gpt-4o-2024-11-20", url=server.url, ledger=Ledger(tmp_path / "l.sqlite"), key="x")
    server.reply = lambda prompt: "The answer names a dog. " * (20 + len(prompt) % 5) + "\nRating: 4"
    prompts = [
        (f"Rate this answer to question {n}. " + "It shows a dog on the grass. " * (40 + n % 7), None)
        for n in range(300)
    ]
    judge.ask_many(prompts[:40], label="mmhal")  # from which the length of replies is known
    expected = judge.client.expected_reply("mmhal")
    estimate = sum(
        prices.price(judge.model, judge.request(p, i, Sampling()).tokens, round(expected)) or 0 for p, i in prompts
    )
    judge.ask_many(prompts)
    assert judge.client.ledger.spent() == pytest.approx(estimate, rel=0.02)
