"""One board has one set of verdicts: the page's sentences and table, the leaderboard in print, and `compare`."""

import random
import re
from collections import Counter
from typing import Any

import pytest

from leaderboards.board.entry import Entry
from leaderboards.board.sample import Sample
from leaderboards.comparison.compare import compare_runs
from leaderboards.comparison.compare_board import compare_board
from leaderboards.views.columns import outcome
from leaderboards.views.markdown_report import leaderboard
from leaderboards.views.page_tables import board_table
from support.markdown import p_value
from tasks.metric import mean_of
from tests.leaderboards.makers import MakeEntry, page, text_of

METRICS = {"a": True, "b": True, "c": False}
"""Metric -> whether higher is better; the first is a task's headline."""
TASKS, IMAGES = ("t1", "t2", "t3"), 40
BASE, TUNED = "base", "tuned"


def make_board(seed: int, make_entry: MakeEntry) -> tuple[list[Entry], dict[str, list[Sample]]]:
    """Two models whose chances to be right differ at random, by task and metric."""
    rng = random.Random(seed)
    entries: list[Entry] = []
    logs: dict[str, list[Sample]] = {BASE: [], TUNED: []}
    for task in TASKS:
        chances = {name: (start := rng.uniform(0.3, 0.7), start + rng.choice((-0.3, 0.0, 0.3))) for name in METRICS}
        for place, model in enumerate((BASE, TUNED)):
            rows: list[dict[str, dict[str, Any]]] = [
                {name: {"image": f"i{n}", "x": float(rng.random() < chances[name][place])} for name in METRICS}
                for n in range(IMAGES)
            ]
            logs[model] += [
                Sample(
                    run=model, task=task, id=str(n), image=f"i{n}", prompt="?", answer="yes", records=row, reply=None
                )
                for n, row in enumerate(rows)
            ]
            for index, (name, up) in enumerate(METRICS.items()):
                value = 100 * sum(row[name]["x"] for row in rows) / IMAGES
                about = {"task": task, "metric": name, "higher_is_better": up, "headline": index == 0}
                entries.append(make_entry(run=model, model=model, value=value, low=None, high=None, **about))
    return entries, logs


@pytest.mark.parametrize("seed", range(10))
def test_page_leaderboard_and_compare_say_the_same(seed: int, make_entry: MakeEntry) -> None:
    entries, logs = make_board(seed, make_entry)
    metric = mean_of("x", scale=100)
    of_board = compare_board(
        entries, samples=logs.__getitem__, metrics=lambda *_: metric, base=BASE, only_headline=False
    )
    pair = compare_runs(
        [entry for entry in entries if entry.model == BASE],
        [entry for entry in entries if entry.model == TUNED],
        samples=(logs.__getitem__, logs.__getitem__),
        metrics=lambda *_: metric,
    )
    by_pair = {
        (change.after.task, change.after.metric): (
            outcome(change.after.metric, change.verdict),
            p_value(change.verdict.p),
            change.after.headline,
        )
        for change in pair.changes
        if change.verdict is not None
    }
    assert len(by_pair) == len(TASKS) * len(METRICS)
    rows = board_table(entries, BASE, of_board).against
    assert {
        (row.column.key.task, row.column.key.metric): (row.outcome, row.p, row.column.headline) for row in rows
    } == (by_pair)
    kinds = Counter(words for words, _, _ in by_pair.values())
    printed = leaderboard(entries, base=BASE, comparison=of_board).partition("\n\n")[0]
    assert {"better": printed.count("▲"), "worse": printed.count("▼")} == {
        "better": kinds["better"],
        "worse": kinds["worse"],
    }
    sentence = re.search(
        r"tuned (is .*?\.) 2 models", text_of(page(entries, title="Board", base=BASE, verdicts=of_board.verdicts))
    )
    assert sentence
    better = sum(words == "better" for words, _, headline in by_pair.values() if headline)
    told = re.search(r"better than base on (\d) of 3 tasks", sentence[1])
    assert (int(told[1]) if told else 0) == better
    worse = {f"{task} {name}" for (task, name), (words, _, _) in by_pair.items() if words == "worse"}
    assert set(re.findall(r"t\d [abc]", sentence[1])) == worse
    assert ("is not separable from base on 3 tasks." in sentence[1]) == (not better and not worse)
