import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from support.errors import SettingError
from tasks.judges import prices
from tasks.judges.ledger import Ledger
from tasks.judges.openai import OpenAIJudge
from tasks.judges.protocol import Sampling
from tests.judge.reply_makers import body, judge_of, prompts


def test_a_price_is_per_million_tokens_and_half_in_a_batch() -> None:
    assert prices.price("gpt-4o-2024-11-20", 1_000_000, 0) == 2.5
    assert prices.price("gpt-4o-2024-11-20", 1000, 100) == pytest.approx(0.0035)
    assert prices.price("gpt-4o-2024-11-20", 1000, 100, batch=True) == pytest.approx(0.00175)


def test_an_unknown_price_is_not_zero() -> None:
    assert prices.price("my-own-judge", 1000, 100) is None


@pytest.mark.parametrize(
    ("model", "url", "dollars"),
    (
        ("gpt-4o", None, (2.5, 10)),
        ("gpt-5-mini", "http://127.0.0.1:8000/v1", (0.25, 2)),
        ("gpt-5.4", None, (2.5, 15)),
        ("openai/gpt-4o", "http://gateway:4000/v1", (2.5, 10)),
        ("openai/gpt-4o", "https://openrouter.ai/api/v1", (2.5, 10)),
        ("gpt-4o-2024-11-20", "https://x.openai.azure.com/openai/v1", (2.5, 10)),
        ("models/gemini-2.5-flash", "https://generativelanguage.googleapis.com/v1beta/openai", (0.3, 2.5)),
        ("claude-opus-4-8", "https://api.anthropic.com/v1", (5, 25)),
        ("ft:gpt-4o-2024-08-06:me::x", None, (3.75, 15)),
    ),
)
def test_aliases_routers_and_providers_have_a_price(model: str, url: str | None, dollars: tuple[float, float]) -> None:
    tariff = prices.Tariff(model=model, url=url)
    found = tariff.cost(1_000_000, 0, calls=1000), tariff.cost(0, 1_000_000, calls=1000)
    assert found == pytest.approx(dollars)


@pytest.mark.parametrize(
    "model", ("my-judge", "gpt-oss-120b", "google/gemma-3-4b-it", "Qwen/Qwen2.5-VL-7B-Instruct", "lmsys/gpt-4o", "")
)
def test_what_anybody_may_serve_has_no_price_of_its_name(model: str) -> None:
    for url in (None, "http://localhost:8000/v1"):
        assert prices.Tariff(model=model, url=url).cost(1000, 100) is None


def test_many_small_calls_have_no_large_calls_price() -> None:
    tariff = prices.Tariff(model="gpt-5.4")
    once, often = tariff.cost(1_000_000, 0), tariff.cost(1_000_000, 0, calls=1000)
    assert once is not None
    assert often is not None
    assert once == pytest.approx(2 * often)  # above 272,000 tokens
    assert prices.price("gpt-5.4", 1_000_000, 0, calls=1000) == often


def test_the_model_that_has_answered_is_paid_for() -> None:
    azure = prices.Tariff(model="my-deployment", url="https://x.openai.azure.com/openai/deployments/my-deployment")
    assert azure.cost(1_000_000, 0) is None
    assert azure.cost(1_000_000, 0, served="gpt-4o-2024-11-20") == 2.5
    alias = prices.Tariff(model="gpt-4o")
    assert alias.cost(1_000_000, 0, served="gpt-4o-2024-05-13") == 5
    assert alias.cost(1_000_000, 0, served="gpt-4o-someday") == 2.5  # a budget must not count it as nothing


def test_cached_input_is_cheaper_and_a_told_price_stands_over_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert prices.Tariff(model="gpt-4o").cost(1_000_000, 0, cached=400_000) == pytest.approx(0.6 * 2.5 + 0.4 * 1.25)
    assert prices.Tariff(model="gpt-4o", told=(0, 0)).cost(1_000_000, 5, served="gpt-4o-2024-11-20") == 0
    assert prices.Tariff(model="x", told=(1, 4)).cost(1_000_000, 500_000, batch=True) == 3
    own = tmp_path / "prices.toml"
    own.write_text('[models."gpt-4o"]\ninput = 8\noutput = 9\ncached = 2\n')
    monkeypatch.setenv("HARNESS_PRICES", str(own))
    for served in ("", "gpt-4o-2024-11-20"):  # the user's price of an alias holds for what it stands for
        assert prices.Tariff(model="gpt-4o").cost(1_000_000, 0, cached=500_000, served=served) == 5


@pytest.mark.parametrize("text", ("", "5", "1,2,3", "a,b", "1;2", "-1,2", "nan,1", "1e3,2", "$1,$2"))
def test_a_told_price_is_two_numbers(text: str) -> None:
    with pytest.raises(SettingError, match=r"--judge-price '.*': must be IN,OUT"):
        prices.read_price(text, "--judge-price")
    assert prices.read_price(" .5, 2. ", "--judge-price") == (0.5, 2)


def test_prices_are_looked_up_without_the_network() -> None:
    code = (
        "import socket\n"
        "def refuse(*_): raise AssertionError('the network')\n"
        "socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse\n"
        "from tasks.judges import prices\n"
        "import sys; assert 'genai_prices' not in sys.modules\n"
        "assert prices.price('gpt-4o', 1000, 100) and prices.price('no-model', 1, 1) is None\n"
        "import threading; assert threading.active_count() == 1\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("model", "size", "tokens"),
    (
        ("gpt-4.1-mini", (1024, 1024), 1659),  # 1,024 squares, OpenAI's own examples
        ("gpt-4.1-mini-2025-04-14", (1800, 2400), 2353),  # 33 x 44 = 1,452 squares
        ("o4-mini", (1024, 1024), 1762),
        ("openai/gpt-4o-mini", (512, 512), 8500),
        ("gpt-5", (512, 512), 210),
        ("gpt-5-2025-08-07", (512, 512), 210),
        ("o3", (512, 512), 225),
        ("gpt-5-mini", (256, 256), 77),  # measured: the sources are in judges.toml
        ("gpt-5-mini-2025-08-07", (2048, 768), 1844),
        ("gpt-5.4", (2560, 1440), 2931),
        ("gpt-5.5", (4032, 3024), 11868),
        ("gpt-6-sol", (1920, 1080), 2448),
        ("gemini-2.5-flash", (384, 384), 258),
        ("gemini-2.5-flash", (960, 540), 6 * 258),  # Google's example
        ("google/gemini-3.5-flash", (960, 540), 1120),
        ("claude-haiku-4-5", (1024, 1024), 1369),
        ("anthropic/claude-opus-4.8", (1920, 1080), 2691),
        ("Qwen/Qwen2.5-VL-7B-Instruct", (644, 476), 23 * 17),
        ("Qwen/Qwen3-VL-8B-Instruct", (640, 480), 20 * 15),
    ),
)
def test_images_are_counted_by_the_familys_rule(model: str, size: tuple[int, int], tokens: int) -> None:
    assert prices.image_tokens(model, *size) == tokens


@pytest.mark.parametrize(
    "model", ("gpt-4o", "gpt-4.1-mini", "gpt-5.5", "gemini-2.5-flash", "claude-opus-5", "qwen2-vl")
)
@pytest.mark.parametrize("size", ((1, 1), (1, 9000), (9000, 1), (6000, 6000)))
def test_images_of_any_shape_have_a_count(model: str, size: tuple[int, int]) -> None:
    assert 0 < prices.image_tokens(model, *size) < 30_000


@pytest.mark.parametrize(
    ("rule", "complaint"),
    (
        ("{ tiles = 5 }", r"models\.x\.images: unknown 'tiles'.*tile"),
        ("{ base = 5 }", "must have one of tile, patch, crop and flat"),
        ("{ patch = 32, flat = 3 }", "must have one of tile"),
        ("{ patch = -1 }", "must be a number of 0 or more"),
        ("7", "must be a table of numbers"),
    ),
)
def test_a_rule_for_images_that_is_none_is_refused(
    rule: str, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "prices.toml"
    own.write_text(f'[models."x"]\nimages = {rule}\n')
    monkeypatch.setenv("HARNESS_PRICES", str(own))
    with pytest.raises(SettingError, match=complaint):
        prices.image_tokens("x", 8, 8)


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


def test_an_alias_is_told_by_the_model_that_answered(
    server: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.answer = lambda request: (200, body(over={"model": "gpt-4-0314"}))
    judge = judge_of(server, tmp_path)
    assert None not in judge.ask_many(prompts(3))
    shut_down = "m: gpt-4-0314 was shut down on 2024-06-13: its scores can't be re-run"
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [shut_down]


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
