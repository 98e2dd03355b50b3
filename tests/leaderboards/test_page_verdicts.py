"""What the page says of its verdicts, and how it calls the models."""

import re
from typing import Any

import pytest

from leaderboards.board.entry import Entry
from leaderboards.statistics.guard_test import GuardTest
from leaderboards.statistics.verdict import PairedTest
from leaderboards.views.page_names import short_names
from tests.leaderboards.makers import MakeEntry, page, text_of

TUNED = "runs/a/checkpoint-47"


def verdict(difference: float, *, p: float = 0.001, up: bool = True, **changes: Any) -> PairedTest:
    usual: dict[str, Any] = {"base": 50.0, "other": 50.0 + difference, "images": 300, "higher_is_better": up}
    return PairedTest(difference=difference, low=difference - 2, high=difference + 2, p=p, **usual | changes)


@pytest.fixture
def scored(make_entry: MakeEntry) -> list[Entry]:
    """Base and one model on two tasks, and a metric that is no headline."""
    made = []
    for model, run in (("base", "run-1"), (TUNED, "run-2")):
        for task, metric, up, headline in (
            ("chair", "chair_s", False, True),
            ("chair", "coverage", True, False),
            ("chair", "chair_i", False, False),
            ("pope", "f1", True, True),
        ):
            made.append(
                make_entry(
                    model=model, run=run, task=task, metric=metric, higher_is_better=up, headline=headline, value=50.0
                )
            )
    return made


def verdicts_of(scored: list[Entry], **by_metric: PairedTest) -> Any:
    return {
        entry.key: by_metric[entry.metric] for entry in scored if entry.model == TUNED and entry.metric in by_metric
    }


def test_one_sentence_says_on_how_many_tasks_a_model_is_better_and_what_is_worse(scored: list[Entry]) -> None:
    found = verdicts_of(scored, chair_s=verdict(-5.0, up=False), coverage=verdict(-3.0), f1=verdict(0.5, p=0.4))
    text = text_of(page(scored, title="Board", base="base", verdicts=found))
    assert "checkpoint-47 is better than base on 1 of 2 tasks, worse on coverage." in text


def test_a_task_that_is_better_by_saying_less_does_not_count_as_better(scored: list[Entry]) -> None:
    fell = GuardTest(name="coverage", what="coverage fell", unit="%", base=60.0, other=56.0, allowed=0.0, p=0.001)
    found = verdicts_of(scored, chair_s=verdict(-5.0, up=False, guards=(fell,)), f1=verdict(-3.0))
    text = text_of(page(scored, title="Board", base="base", verdicts=found))
    assert "checkpoint-47 is worse than base on f1, not better on chair_s (coverage fell)" in text


def test_what_is_not_separable_is_said_to_be(scored: list[Entry]) -> None:
    found = verdicts_of(scored, chair_s=verdict(-0.5, up=False, p=0.6), f1=verdict(0.5, p=0.4))
    text = text_of(page(scored, title="Board", base="base", verdicts=found))
    assert "checkpoint-47 is not separable from base on 2 tasks." in text


def test_a_metric_that_fell_stands_among_the_headline_metrics(scored: list[Entry]) -> None:
    def folded(text: str) -> list[str]:
        heads = re.findall(
            r'<th scope="col" class="t\d+( extra)?".*?<span class="metric">(\w+)</span>', text, re.DOTALL
        )
        return [metric for extra, metric in heads if extra]

    assert folded(page(scored, title="Board", base="base")) == ["coverage", "chair_i"]
    found = verdicts_of(scored, coverage=verdict(-3.0), chair_i=verdict(-3.0, up=False))
    assert folded(page(scored, title="Board", base="base", verdicts=found)) == ["chair_i"]


def test_a_short_name_is_as_long_as_it_must_be_to_be_the_only_one() -> None:
    names = ["runs/a/checkpoint-47", "runs/b/checkpoint-47", "runs/a/checkpoint-24", "org/llava", "base", "/"]
    assert list(short_names(names).values()) == [
        "a/checkpoint-47", "b/checkpoint-47", "checkpoint-24", "llava", "base", "/",
    ]  # fmt: skip
    assert short_names(["x/a", "a"]) == {"x/a": "x/a", "a": "a"}
    assert short_names(["a/", "a"]) == {"a/": "a/", "a": "a"}


def test_a_short_name_has_the_whole_one_on_hover(scored: list[Entry]) -> None:
    text = page(scored, title="Board", base="base")
    assert f'<th scope="row" class="model"><bdi title="{TUNED}">checkpoint-47</bdi>' in text
    assert '<bdi>base</bdi> <span class="tag">base</span>' in text
