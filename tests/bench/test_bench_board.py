"""How long `harness leaderboard` takes for 1,000 models on 20 tasks: from the files to markdown, in a process of its
own."""

import subprocess
import sys
from pathlib import Path
from typing import Any

SHOW = """
import sys, time
begin = time.perf_counter()
from pathlib import Path
from leaderboards.board.board import Board
from leaderboards.views.markdown_report import leaderboard
text = leaderboard(Board(Path(sys.argv[1])).current())
took = time.perf_counter() - begin
assert "torch" not in sys.modules
print(took, text.count(chr(10)))
"""


def fill(folder: Path) -> None:
    from leaderboards.board.board import Board
    from leaderboards.board.entry import Entry

    facts = {f"fact {index}": "0123456789abcdef" for index in range(20)}
    for model in range(1000):
        entries = [
            Entry(
                run=f"run-{model}",
                model=f"org/model-{model}",
                task=f"task-{task}",
                version="1.0",
                metric="accuracy",
                value=(37 * model + task) % 1000 / 10,
                unit="%",
                higher_is_better=True,
                headline=True,
                samples=3000,
                low=0.0,
                high=100.0,
                limit=None,
                judge=None,
                seconds=10.0,
                cost=0.0,
                created="2026-01-31T12:00:00+00:00",
                provenance={"weights": str(model), **facts},
            )
            for task in range(20)
        ]
        Board(folder).add(entries, [])


def test_bench_board(benchmark: Any, figures: dict[str, float], tmp_path: Path) -> None:
    fill(tmp_path)

    def show() -> float:
        told = subprocess.run(
            [sys.executable, "-c", SHOW, str(tmp_path)], check=True, capture_output=True, text=True
        ).stdout.split()
        assert int(told[1]) == 1001  # a line a model, and two for the head
        return float(told[0])

    took = [benchmark.pedantic(show, rounds=1, iterations=1, warmup_rounds=1), show(), show()]
    figures["board.seconds"] = sorted(took)[1]
