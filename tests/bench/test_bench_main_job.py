"""What the command line takes to answer, and the demo to run, as a user would run them."""

import sys
from itertools import count
from pathlib import Path
from typing import Any

from tests.bench.usage import Usage, usage_of

HARNESS = [sys.executable, "-c", "from harness.cli.main import main; main()"]


def test_bench_help(benchmark: Any, figures: dict[str, float]) -> None:
    taken: list[Usage] = []
    benchmark.pedantic(lambda: taken.append(usage_of([*HARNESS, "--help"])), rounds=7, warmup_rounds=1)
    own = sorted(taken[1:], key=lambda usage: usage.cpu_seconds)  # without the warm-up
    figures["help.seconds"] = sorted(usage.seconds for usage in own)[len(own) // 2]
    figures["help.cpu_seconds"] = own[len(own) // 2].cpu_seconds


def test_bench_demo(benchmark: Any, figures: dict[str, float], tmp_path: Path) -> None:
    turns = count()

    def demo() -> Usage:
        return usage_of([*HARNESS, "train-then-eval", "scenes-demo", "--out", tmp_path / str(next(turns))])

    taken = benchmark.pedantic(demo, rounds=1)
    figures |= {
        "demo.seconds": taken.seconds,
        "demo.cpu_seconds": taken.cpu_seconds,
        "demo.peak_mb": taken.peak_mb,
    }
