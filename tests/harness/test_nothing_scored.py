"""Where nothing was scored there is no value, no interval and no rank, whatever the official rule counts for a reply
without a rating."""

import json
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import Any

import pytest

from harness.evaluation.entries import Run, entries_of
from harness.evaluation.score_files import score
from harness.evaluation.scoring import Scored, score_answers, value_of
from leaderboards.board.entry import Entry, from_json, to_json
from leaderboards.board.sample import JudgeRepeat, Sample, from_parquet, to_parquet
from tasks.answer import FailedAnswer
from tasks.benchmarks import hallusionbench, llava_bench, mmhal
from tasks.metric import Metric
from tasks.registry import registry

UNREAD = "I can't say."


def mmhal_reply(text: str) -> Any:
    return {"rating": mmhal.parse_rating(text), "text": text}


def llava_reply(text: str) -> Any:
    reference, model = llava_bench.parse_scores(text) or (None, None)
    return {"rating": model, "text": text, "reference": reference}


def grade(text: str) -> Any:
    return {"rating": None if text == UNREAD else float(text), "text": text}


def mmhal_doc(number: int) -> dict[str, Any]:
    return {"image": str(number), "question_type": mmhal.TYPES[number % 8]}


def llava_doc(number: int) -> dict[str, Any]:
    return {"image": str(number), "category": llava_bench.CATEGORIES[number % 3]}


def mmvet_doc(number: int) -> dict[str, Any]:
    return {"image": str(number), "capability": [("rec", "ocr", "math")[number % 3]]}


JUDGED = {
    "mmhal": (mmhal_doc, mmhal_reply, "Rating: 4"),
    "llava_bench_wild": (llava_doc, llava_reply, "8 6"),
    "llava_bench_coco": (llava_doc, llava_reply, "8 6"),
    "mmvet": (mmvet_doc, grade, "0.5"),
}


def scored_of(task: str, replies: list[str]) -> Scored:
    make_doc, make_reply, _ = JUDGED[task]
    docs = [make_doc(number) for number in range(len(replies))]
    return score_answers(registry().task(task), docs, [make_reply(reply) for reply in replies], None)


@pytest.mark.parametrize("task", JUDGED)
def test_replies_without_any_rating_give_no_value_of_any_metric(task: str) -> None:
    scored = scored_of(task, [UNREAD] * 24)
    assert {scored.value(name) for name in scored.task.metrics} == {None}
    assert {scored.interval(name) for name in scored.task.metrics} == {(None, None)}
    assert (scored.counts.samples, scored.counts.unscored) == (24, 24)


@pytest.mark.parametrize(
    ("task", "metric", "value"),
    (("mmhal", "score", 4 / 8), ("llava_bench_wild", "model", -1.2), ("mmvet", "total", 6.2)),
)
def test_beside_a_rating_unread_replies_count_as_the_official_rule_says(task: str, metric: str, value: float) -> None:
    scored = scored_of(task, [JUDGED[task][2], *[UNREAD] * 7])
    assert scored.value(metric) == pytest.approx(value, abs=0.06)
    assert scored.counts.unscored == 7


@pytest.mark.parametrize(
    ("task", "read", "empty"),
    (
        ("mmhal", "score_attribute", "score_adversarial"),
        ("llava_bench_wild", "relative_conv", "relative_detail"),
        ("llava_bench_coco", "relative_conv", "relative_complex"),
        ("mmvet", "rec", "math"),
        ("mmvet", "int_rec", "int_ocr"),
    ),
)
def test_a_part_of_which_no_reply_was_read_has_no_value(task: str, read: str, empty: str) -> None:
    period = {"mmhal": 8}.get(task, 3)
    good = JUDGED[task][2]
    scored = scored_of(task, [good if number % period == 0 else UNREAD for number in range(24)])
    assert scored.value(read) is not None
    assert scored.value(empty) is None
    assert scored.interval(empty) == (None, None)


@pytest.mark.parametrize("task", sorted(registry().tasks))
@pytest.mark.parametrize("count", (0, 3))
def test_no_task_gives_a_value_where_every_answer_failed(task: str, count: int) -> None:
    spec = registry().task(task)
    scored = score_answers(spec, [{}] * count, [FailedAnswer("no picture")] * count, None) if not spec.judged else None
    scored = scored or Scored(
        task=spec, rounds=[[JudgeRepeat(records={}, reply=None)] * count], failed=[True] * count, texts=[None] * count
    )
    assert {scored.value(name) for name in spec.metrics} == {None}
    assert {scored.interval(name) for name in spec.metrics} == {(None, None)}


@pytest.mark.parametrize("number", (nan, float("inf"), -float("inf")))
def test_what_is_no_finite_number_is_no_value(number: float) -> None:
    metric = Metric(counts=lambda records: [1.0], value=lambda sums: sums[..., 0] * number)
    assert value_of(metric, [{"image": "1"}]) is None


def test_a_reference_without_points_gives_no_relative_score() -> None:
    assert scored_of("llava_bench_wild", ["0 6"] * 3).value("relative") is None


def test_an_unclear_verdict_was_read() -> None:
    check = hallusionbench.Check(rating=hallusionbench.UNCLEAR, text="Hm.", same=None, answer="Yes")
    names = ("category", "subcategory", "set_id", "figure_id", "question_id", "visual_input", "gt_answer")
    doc = dict.fromkeys(names, "1") | {"image": "1"}
    assert score_answers(registry().task("hallusionbench"), [doc], [check], None).value("aAcc") == 0


def entry_of(scored: Scored) -> Entry:
    run = Run(run="r", model="m", limit=None, created="2026-11-30T10:00:00+00:00", provenance={})
    return next(entries_of(scored, run, judge="j", seconds=1, cost=0, facts={}))


def test_boards_of_earlier_versions_lose_the_value_of_nothing() -> None:
    entry = replace(entry_of(scored_of("mmhal", [UNREAD] * 4)), value=0.0, low=0.0, high=0.0)
    read = from_json(to_json(entry), "r.json")
    assert (read.value, read.low, read.high) == (None, None, None)
    some = replace(entry, unscored=3)
    assert from_json(to_json(some), "r.json").value == 0.0
    repeated = replace(entry, provenance={"judge asked": "3"})
    assert from_json(to_json(repeated), "r.json").value == 0.0


@pytest.mark.parametrize(("unrated", "kept"), (((True, True), False), ((True, False), True), ((False, False), True)))
def test_logs_of_earlier_versions_lose_the_records_of_nothing(unrated: tuple[bool, ...], kept: bool) -> None:
    def sample(number: int, mark: bool) -> Sample:
        record = {"image": str(number), "type": "attribute", "rating": 0} | ({"unrated": True} if mark else {})
        fields: Any = {"run": "r", "task": "mmhal", "id": str(number), "image": str(number), "prompt": "?"}
        return Sample(**fields, answer="a", records={"score": record}, reply="Hm.")

    read = from_parquet(to_parquet([sample(number, mark) for number, mark in enumerate(unrated)]))
    assert [bool(one.records) for one in read] == [kept] * len(unrated)


def test_score_shows_no_value_and_says_why(tmp_path: Path) -> None:
    file = tmp_path / "replies.json"
    file.write_text(json.dumps([{"reply": UNREAD}] * 96), encoding="utf-8")
    found = score(registry().task("mmhal"), file)
    assert set(found.metrics.values()) == {None}
    assert (found.samples, found.unscored) == (96, 96)
