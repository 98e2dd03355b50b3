"""How much of what a rate-limited server allows the judge makes use of. Nothing to compare with: the server's own limit
is the measure."""

from pathlib import Path
from typing import Any

import pytest

ALLOWED, SECONDS = 40.0, 12


@pytest.mark.parametrize("latency", (0.05,))
def test_bench_throughput(
    latency: float, benchmark: Any, figures: dict[str, float], server: Any, tmp_path: Path, no_keys: None
) -> None:
    from tasks.judges.ledger import Ledger
    from tasks.judges.openai import OpenAIJudge
    from tasks.judges.settings import JudgeSettings

    server.allowed, server.delay = ALLOWED, latency
    prompts = [(f"Question {n}: rate this.", None) for n in range(int(ALLOWED * SECONDS))]
    settings = JudgeSettings(concurrency=32)
    judge = OpenAIJudge("gpt-4o-2024-11-20", url=server.url, ledger=Ledger(tmp_path / "l.sqlite"), settings=settings)
    replies = benchmark.pedantic(lambda: judge.ask_many(prompts), rounds=1)
    assert replies == [server.reply(prompt) for prompt, _ in prompts]
    figures["judge.throughput_ratio"] = len(prompts) / benchmark.stats["max"] / ALLOWED
