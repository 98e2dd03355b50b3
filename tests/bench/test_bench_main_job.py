"""How long the command line takes to answer, and the demo to run, as a user would run them."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HARNESS = [sys.executable, "-c", "from harness.cli.main import main; main()"]


def test_bench_help(benchmark: Any, figures: dict[str, float]) -> None:
    benchmark.pedantic(
        lambda: subprocess.run([*HARNESS, "--help"], check=True, capture_output=True), rounds=7, warmup_rounds=1
    )
    figures["help.seconds"] = benchmark.stats["median"]


def test_bench_demo(benchmark: Any, figures: dict[str, float], tmp_path: Path) -> None:
    peak: list[float] = []

    def demo() -> None:
        process = subprocess.Popen(
            [*HARNESS, "train-then-eval", "scenes-demo", "--out", str(tmp_path / f"{time.time_ns()}")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        peak.append(usage.ru_maxrss / 1024)

    benchmark.pedantic(demo, rounds=1)
    figures["demo.seconds"] = benchmark.stats["max"]
    figures["demo.peak_mb"] = max(peak)
