"""What is on a run's board, and runs whose samples have given records."""

import sys
from pathlib import Path
from typing import Any

from leaderboards.board.board import Board
from leaderboards.board.entry import Entry
from leaderboards.board.sample import Sample
from tasks.registry import registry
from tasks.scenes.scenes_mme import process_results

HARNESS = [sys.executable, "-c", "from harness.cli.main import main; main()"]
Records = dict[str, list[dict[str, Any]]]


def scores(out: Path) -> dict[tuple[str, str, str], tuple[Any, ...]]:
    """What a board says, without when and how long; checkpoints by their place in the run folder."""
    found = {}
    for e in Board(out / "board").current(partial=True):
        key = e.model.replace(out.as_posix(), "RUN"), e.task, e.metric
        found[key] = e.value, e.low, e.high, e.samples, e.limit, e.provenance.get("adapter")
    return found


def put(board: Board, model: str, task: str, records: Records, **changes: Any) -> None:
    """Add a run of `model` whose samples have these records by metric."""
    spec, run = registry().task(task), changes.pop("run", f"run-{model}-{task}")
    count = len(next(iter(records.values())))
    usual: dict[str, Any] = {"run": run, "model": model, "task": task, "version": spec.version, "samples": count}
    usual |= {"unit": "", "low": None, "high": None, "limit": None, "judge": None, "seconds": 1.0, "cost": 0.0}
    usual |= {"created": "2026-01-31T12:00:00+00:00", "provenance": {}} | changes
    entries = []
    for metric, own in records.items():
        value, higher = registry().metric(task, metric)(own), spec.metrics[metric].higher_is_better
        headline = metric == spec.headline
        entries.append(Entry(**usual, metric=metric, value=value, higher_is_better=higher, headline=headline))
    shared: dict[str, Any] = {"run": run, "task": task, "prompt": "?", "answer": "Yes", "reply": None}
    samples = []
    for index in range(count):
        of_one = {metric: own[index] for metric, own in records.items()}
        samples.append(Sample(id=str(index), image=str(index), records=of_one, **shared))
    board.add(entries, samples)


def right(count: int, of: int = 100, *, last: bool = False) -> Records:
    """Records of `of` yes/no answers of which the first (or last) `count` are right."""
    doc = {"category": "existence", "answer": "yes"}
    correct = [index >= of - count if last else index < count for index in range(of)]
    found = [process_results({**doc, "scene": str(n)}, ["yes" if yes else "no"]) for n, yes in enumerate(correct)]
    return {"accuracy": [records["accuracy"] for records in found]}
