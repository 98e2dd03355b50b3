"""A verdict is better only if its guards held; the gate fails by a guard, and by chance no more often than it says."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from leaderboards.board.entry import Entry
from leaderboards.board.sample import Sample
from leaderboards.comparison.guards import Guard
from leaderboards.comparison.paired_logs import guard_values, verdict_of
from leaderboards.gate.gate import GateSettings, check
from leaderboards.gate.result import GateResult
from leaderboards.gate.source import GateSource
from leaderboards.statistics.guard_test import is_beyond
from leaderboards.statistics.resampling import Record
from leaderboards.views.columns import mark, outcome
from tasks.metric import mean_of, ratio_of
from tests.leaderboards.makers import MakeEntry

WRONG = mean_of("wrong", scale=100)
RECALL = Guard(
    name="recall",
    what="recall fell",
    unit="%",
    metric=ratio_of("covered", "objects", scale=100),
    higher_is_better=True,
    count=lambda records, sample: records.get("chair_s"),
    share=0.05,
)
EMPTY = Guard(
    name="empty_answers",
    what="more answers are empty",
    unit="%",
    metric=mean_of("empty", scale=100),
    higher_is_better=False,
    count=lambda records, sample: {"image": sample.image, "empty": not sample.answer},
    points=1.0,
)
Log = dict[str, Sample]


def log(wrong: list[int], covered: list[int], objects: int = 10, answer: str = "A cat.") -> Log:
    """A log of one answer an image."""
    found = {}
    for index, (made_up, named) in enumerate(zip(wrong, covered, strict=True)):
        record: dict[str, Any] = {"image": str(index), "wrong": made_up, "covered": named, "objects": objects}
        found[str(index)] = Sample(
            run="r",
            task="scenes_chair",
            id=str(index),
            image=str(index),
            prompt="?",
            answer=answer,
            records={"chair_s": record},
            reply=None,
        )
    return found


N = 100
BASE = log([1] * 50 + [0] * 50, [8] * N)
FEWER = [1] * 10 + [0] * 90


@pytest.mark.parametrize(
    ("after", "words"),
    (
        (log(FEWER, [8] * N), "better"),
        (log(FEWER, [9] * N), "better"),  # it names more
        (log(FEWER, [7] * 40 + [8] * 60), "better"),  # 5% less: exactly what is allowed
        (log(FEWER, [7] * 60 + [8] * 40), "not better: recall fell"),
        (log(FEWER, [0] * N), "not better: recall fell"),
        (log(FEWER, [8] * N, answer=""), "not better: more answers are empty"),
        (log([0] * N, [0] * N, answer=""), "not better: recall fell, more answers are empty"),
        (log([1] * 50 + [0] * 50, [0] * N), "not separable"),
        (log([1] * 90 + [0] * 10, [0] * N), "worse"),
    ),
)
def test_better_needs_guards_that_held(after: Log, words: str) -> None:
    found = verdict_of(BASE, after, "chair_s", WRONG, higher_is_better=False, guards=(RECALL, EMPTY))
    assert found.words == words
    assert found.outcome == words.partition(":")[0]
    assert outcome("chair_s", found) == words
    assert mark("chair_s", found) == {"better": "▲", "worse": "▼", "not better": "△"}.get(found.outcome, "≈")


def test_a_fall_by_chance_is_not_held_against_a_model() -> None:
    rng = np.random.default_rng(1)
    covered = [int(n) for n in rng.integers(0, 11, 12)]
    other = [covered[-1], *covered[:-1]]
    few, less = log([1] * 12, covered), log([0] * 12, other[:6] + [max(0, n - 1) for n in other[6:]])
    found = verdict_of(few, less, "chair_s", WRONG, higher_is_better=False, guards=(RECALL,))
    (guard,) = found.guards
    assert guard.base is not None
    assert guard.other is not None
    assert is_beyond(guard.base, guard.other, guard.allowed, higher_is_better=True)
    assert guard.p > 0.05
    assert found.outcome == "better"


def test_what_a_side_has_nothing_of_is_worse_and_what_the_base_lacks_is_not_tested() -> None:
    bare = {id: replace(one, records={"chair_s": one.records["chair_s"], "x": {}}) for id, one in BASE.items()}

    def count(records: Mapping[str, Record], sample: Sample) -> Record | None:
        return records["chair_s"] if "x" in records else None

    guard = replace(RECALL, count=count)
    better = log(FEWER, [8] * N)
    found = verdict_of(bare, better, "chair_s", WRONG, higher_is_better=False, guards=(guard,))
    assert found.words == "not better: recall fell"
    assert verdict_of(better, bare, "chair_s", WRONG, higher_is_better=False, guards=(guard,)).guards == ()
    assert guard_values(BASE, (RECALL, EMPTY)) == {"recall": 80.0, "empty_answers": 0.0}
    assert guard_values(BASE, (guard,)) == {}


def gate(make_entry: MakeEntry, before: Log | None, after: Log | None, **more: Any) -> GateResult:
    sides = []
    for run, own in (("old", before), ("new", after)):
        value = WRONG([one.records["chair_s"] for one in own.values()]) if own else 50.0
        entry: Entry = make_entry(run=run, metric="chair_s", value=value, samples=N, low=None, high=None)
        samples = [replace(one, run=run) for one in own.values()] if own else []
        sides.append(GateSource(entries=[replace(entry, **more.get(run, {}))], samples={run: samples}.__getitem__))
    return check(
        *sides,
        metrics=lambda task, name: WRONG,
        guards=lambda task, name: (RECALL, EMPTY),
        settings=GateSettings(resamples=1000, **more.get("settings", {})),
    )


def test_the_gate_fails_by_a_guard_alone(make_entry: MakeEntry) -> None:
    found = gate(make_entry, BASE, log(FEWER, [4] * N), settings={"require_better": ["scenes_chair"]})
    assert not found.passed
    assert "better by 40.0: recall fell from 80.0 to 40.0 % (guard, p <0.0001)" in str(found.checked[0])
    assert [claim.met for claim in found.claims] == [False]
    assert "not shown to be better, recall fell from 80.0 to 40.0 %" in str(found.claims[0])
    assert gate(make_entry, BASE, log(FEWER, [8] * N), settings={"require_better": ["scenes_chair"]}).passed


def test_without_samples_the_gate_looks_at_the_guards_values(make_entry: MakeEntry) -> None:
    settings = {"tolerances": {"scenes_chair.chair_s": 1.0}}
    values = {"old": {"guards": {"recall": 80.0}}, "new": {"guards": {"recall": 60.0}}}
    found = gate(make_entry, None, None, settings=settings, **values)
    assert "recall fell from 80.0 to 60.0 % (guard, by more than 4.0, not tested)" in found.checked[0].reason
    assert gate(make_entry, None, None, settings=settings, old=values["old"], new=values["old"]).passed


def test_guards_of_models_that_are_equal_fail_few_gates(make_entry: MakeEntry) -> None:
    rng, failed = np.random.default_rng(0), 0
    for _ in range(80):
        sides = [log([int(x) for x in rng.integers(0, 2, N)], [int(x) for x in rng.integers(0, 11, N)]) for _ in "ab"]
        failed += not gate(make_entry, *sides).passed
    assert failed <= 10  # 5% of 80, and three standard deviations


def test_a_value_of_a_guard_that_its_log_does_not_give_is_told(make_entry: MakeEntry) -> None:
    after = log(FEWER, [8] * N)
    assert gate(make_entry, BASE, after, new={"guards": {"recall": 80.0}}).passed
    found = gate(make_entry, BASE, after, new={"guards": {"recall": 99.0}})
    assert any("its recall is 99, but its log gives 80: score it anew" in error for error in found.errors)
    assert not gate(make_entry, BASE, after, new={"guards": {"made up": 1.0}}).passed
