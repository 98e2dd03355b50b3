"""Scores by kind of question on the page."""

import pytest

from leaderboards.board.sample import Sample
from leaderboards.views.categories import category_tables
from tasks.metric import mean_of
from tests.leaderboards.makers import MakeEntry, MakeSample, page, text_of

METRIC = mean_of("correct", scale=100)


@pytest.fixture
def logged(make_sample: MakeSample) -> dict[str, list[Sample]]:
    def log(run: str, right: dict[str, int]) -> list[Sample]:
        return [
            make_sample(
                run=run,
                id=f"{kind}{n}",
                records={"CHAIR_s": {"image": f"{kind}{n}", "category": kind, "correct": n < right[kind]}},
            )
            for kind in right
            for n in range(4)
        ]

    return {"run-1": log("run-1", {"a<b": 4, "c": 1}), "run-2": log("run-2", {"a<b": 2, "c": 3})}


def test_each_headline_metric_is_told_by_kind_of_question(
    make_entry: MakeEntry, logged: dict[str, list[Sample]]
) -> None:
    entries = [make_entry(value=60.0), make_entry(run="run-2", model="tuned", value=40.0)]
    (found,) = category_tables(entries, logged.__getitem__, lambda task, metric: METRIC)
    assert found.categories == ["a<b", "c"]
    values = {model: [(cell.value, cell.images) for cell in cells if cell] for model, cells in found.rows}
    assert list(values) == ["tuned", "base"]  # the best first; lower is better
    assert values == {"base": [("100.0", 4), ("25.0", 4)], "tuned": [("50.0", 4), ("75.0", 4)]}
    text = text_of(page(entries, title="Board", categories=[found]))
    assert "a<b" in text
    assert "By category" in text


def test_a_task_of_one_kind_a_log_that_is_lost_and_a_metric_that_nobody_knows_have_no_table(
    make_entry: MakeEntry, logged: dict[str, list[Sample]]
) -> None:
    def lost(run: str) -> list[Sample]:
        raise FileNotFoundError(run)

    entries = [make_entry()]
    alone = [sample for sample in logged["run-1"] if sample.id.startswith("c")]
    assert category_tables(entries, lambda run: alone, lambda task, metric: METRIC) == []
    assert category_tables(entries, lost, lambda task, metric: METRIC) == []
    assert category_tables(entries, logged.__getitem__, lambda task, metric: None) == []
