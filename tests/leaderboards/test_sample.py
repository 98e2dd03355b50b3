"""What a log keeps of a judge that was asked several times, and what verdicts make of it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator
from numpy.typing import NDArray

from leaderboards.board.entry import Entry
from leaderboards.board.sample import JudgeRepeat, Sample, from_parquet, repeats_of, to_parquet
from leaderboards.comparison.compare import compare_runs
from leaderboards.comparison.compare_board import compare_board
from leaderboards.comparison.paired_logs import verdict_of
from leaderboards.gate.gate import check
from leaderboards.gate.source import GateSource
from leaderboards.statistics.resampling import CountsMetric
from leaderboards.statistics.verdict import compare
from support.errors import CompareError, RecordsError
from tasks.metric import mean_of
from tests.leaderboards.makers import MakeEntry, MakeSample

Log = dict[str, Sample]

RATING = mean_of("rating")


def rated(rounds: Sequence[Sequence[float | None]], run: str = "run") -> Log:
    """A log of answers by what each repeat rated them: None = it gave no rating."""

    def records(index: int, rating: float | None) -> dict[str, dict[str, Any]]:
        return {} if rating is None else {"score": {"image": f"i{index}", "rating": float(rating)}}

    log = {}
    for index, (first, *others) in enumerate(zip(*rounds, strict=True)):
        log[str(index)] = Sample(
            run=run,
            task="mmhal",
            id=str(index),
            image=f"i{index}",
            prompt="?",
            answer="A dog.",
            records=records(index, first),
            reply=None if first is None else f"Rating: {first}",
            repeats=tuple(
                JudgeRepeat(records=records(index, one), reply=None if one is None else f"Rating: {one}")
                for one in others
            ),
        )
    return log


def test_a_log_gives_back_the_records_and_words_of_every_repeat() -> None:
    log = rated([[4, 2, 0], [5, None, 1], [3, 2, None]])
    back = {sample.id: sample for sample in from_parquet(to_parquet(list(log.values())))}
    assert back == log
    assert back["1"].repeats[0] == JudgeRepeat(records={}, reply=None)
    assert to_parquet(list(back.values())) == to_parquet(list(log.values()))


def test_half_a_surrogate_pair_in_a_further_reply_does_not_cost_the_log(make_sample: MakeSample) -> None:
    (back,) = from_parquet(to_parquet([make_sample(repeats=(JudgeRepeat(records={}, reply="good \ud83d!"),))]))
    assert back.repeats[0].reply == "good ?!"


def test_a_record_of_a_further_repeat_that_is_no_json_is_named(make_sample: MakeSample) -> None:
    with pytest.raises(ValueError, match="sample '0' of scenes_chair: repeats must be JSON values"):
        to_parquet([make_sample(repeats=(JudgeRepeat(records={"m": {"x": float("nan")}}, reply=None),))])


@pytest.mark.parametrize(
    "text",
    ('"x"', "{}", "[3]", '[{"records": {}}]', '[{"records": [], "reply": null}]', '[{"records": {}, "reply": 3}]'),
)
def test_repeats_of_another_form_are_refused(make_sample: MakeSample, text: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(pa.BufferReader(to_parquet([make_sample()])))
    sink = pa.BufferOutputStream()
    pq.write_table(table.set_column(table.column_names.index("repeats"), "repeats", pa.array([text])), sink)
    with pytest.raises(ValueError, match="sample '0' of scenes_chair: repeats must be a list of objects"):
        from_parquet(bytes(sink.getvalue()))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    (
        ("id", None, "id can't be None"),
        ("prompt", 3, "prompt can't be 3"),
        ("cut", None, "cut can't be None"),
        ("answer", 1.5, "answer can't be 1.5"),
        ("records", "[]", "records must map each metric to an object"),
        ("records", '{"CHAIR_s": 1}', "records must map each metric to an object"),
        ("records", "[" * 100_000, "nested too deep"),
    ),
)
def test_a_row_of_another_form_is_refused(make_sample: MakeSample, name: str, value: object, words: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(pa.BufferReader(to_parquet([make_sample()])))
    sink = pa.BufferOutputStream()
    pq.write_table(table.set_column(table.column_names.index(name), name, pa.array([value])), sink)
    with pytest.raises(ValueError, match=words):
        from_parquet(bytes(sink.getvalue()))


def test_each_repeat_is_a_log_of_its_own() -> None:
    first, second, third = repeats_of(rated([[4, 2], [5, None], [3, 2]]))
    assert [sample.records["score"]["rating"] for sample in first.values()] == [4, 2]
    assert [sample.reply for sample in second.values()] == ["Rating: 5", None]
    assert second["1"].records == {}
    assert third["1"].records["score"]["rating"] == 2
    assert first["0"].repeats == ()
    assert repeats_of({}) == [{}]


def test_an_answer_that_was_asked_about_less_often_has_no_records_in_the_other_repeats() -> None:
    log = rated([[4, 2], [5, 3]])
    log["1"] = rated([[4, 2]])["1"]
    assert [sample.records.keys() for sample in repeats_of(log)[1].values()] == [{"score"}, set()]


def verdict(before: Mapping[str, Sample], after: Mapping[str, Sample], **options: Any) -> Any:
    return verdict_of(before, after, "score", RATING, higher_is_better=True, **options)


def test_the_verdict_is_on_the_mean_over_repeats() -> None:
    found = verdict(rated([[1, 2, 3], [2, 3, 4]]), rated([[5, 5, 5], [6, 6, 6], [4, 4, 4]]))
    assert (found.base, found.other, found.difference, found.images, found.left_out) == (2.5, 5.0, 2.5, 3, 0)


def test_with_one_repeat_each_the_verdict_is_a_plain_comparison() -> None:
    rng = np.random.default_rng(3)
    values = rng.integers(0, 7, (2, 30))
    before, after = (rated([list(map(float, own))]) for own in values)
    ours, theirs = ([sample.records["score"] for sample in log.values()] for log in (before, after))
    assert verdict(before, after) == compare(ours, theirs, RATING, higher_is_better=True)


def test_an_image_that_one_repeat_left_unrated_is_left_out_of_all() -> None:
    found = verdict(rated([[1, 2, 3, 4], [1, None, 3, 4]]), rated([[2, 3, 4, None], [2, 3, 4, 5]]))
    assert (found.images, found.left_out, found.base, found.other) == (2, 2, 2.0, 3.0)
    with pytest.raises(RecordsError, match="every judge call"):
        verdict(rated([[1, 2], [None, None]]), rated([[1, 2]]))


def test_answers_about_other_images_are_no_pair() -> None:
    other = {"0": rated([[1, 1], [1, 1]])["1"]}
    with pytest.raises(CompareError, match="sample '0' was about image 'i0', is about 'i1'"):
        verdict(rated([[1], [1]]), other)


def drifting(rng: Generator, liking: NDArray[np.float64], repeats: int, drift: float) -> Log:
    """Answers of a model that is like any other, rated by a judge that likes all of them more or less whenever it is
    asked."""
    quality = liking + rng.normal(0, 1, len(liking))
    return rated([list(quality + rng.normal(0, 0.3, len(quality)) + rng.normal(0, drift)) for _ in range(repeats)])


def test_a_drifting_judge_widens_the_interval_of_the_difference() -> None:
    rng = np.random.default_rng(7)
    liking = rng.normal(3, 1, 80)
    before, after = drifting(rng, liking, 4, 0.5), drifting(rng, liking, 4, 0.5)
    once = [repeats_of(log)[0] for log in (before, after)]

    def width(ours: Log, theirs: Log) -> float:
        found = verdict(ours, theirs, resamples=2000)
        return float(found.high - found.low)

    assert width(before, after) > 1.2 * width(*once)


def test_a_drifting_judge_raises_few_false_alarms_where_its_repeats_are_in_the_log() -> None:
    rng, runs = np.random.default_rng(8), 120
    alarms = {"one repeat": 0, "all five": 0}
    for _ in range(runs):
        liking = rng.normal(3, 1, 40)
        before, after = drifting(rng, liking, 5, 0.4), drifting(rng, liking, 5, 0.4)
        alarms["all five"] += verdict(before, after, resamples=400).outcome != "not separable"
        alarms["one repeat"] += (
            verdict(repeats_of(before)[0], repeats_of(after)[0], resamples=400).outcome != "not separable"
        )
    assert alarms["one repeat"] > 0.25 * runs
    assert alarms["all five"] < 0.08 * runs


def test_comparison_gate_and_entries_agree_on_the_mean_over_repeats(make_entry: MakeEntry) -> None:
    steady = [[3.0] * 30 + [4.0] * 10, [3.0] * 30 + [5.0] * 10]
    before = rated(steady, run="old")
    after = rated([[value - 1 for value in repeat] for repeat in steady], run="new")
    logs = {"old": list(before.values()), "new": list(after.values())}

    def entry(run: str, model: str, value: float) -> Entry:
        usual: dict[str, Any] = {
            "task": "mmhal",
            "metric": "score",
            "unit": "0-6",
            "higher_is_better": True,
            "low": None,
            "high": None,
        }
        return make_entry(run=run, model=model, value=value, judge="j", samples=40, **usual)

    def metrics(task: str, name: str) -> CountsMetric:
        return RATING

    old, new = entry("old", "m", 3.375), entry("new", "m", 2.375)
    (change,) = compare_runs([old], [new], samples=(logs.__getitem__, logs.__getitem__), metrics=metrics).changes
    sides = [GateSource(entries=[entry], samples=logs.__getitem__) for entry in (old, new)]
    result = check(*sides, metrics=metrics)
    (checked,) = result.checked
    for found in (change.verdict, checked.verdict):
        assert found is not None
        assert (found.base, found.other, found.difference) == (old.value, new.value, -1.0)
        assert found.outcome == "worse"
    assert not result.passed


def test_ranks_of_a_board_are_by_all_repeats_as_its_values_are(make_entry: MakeEntry) -> None:
    ratings_of = {"steady": [[3.0] * 40] * 3, "falling": [[3.5] * 40, [1.0] * 40, [1.0] * 40]}
    logs = {run: list(rated(values, run=run).values()) for run, values in ratings_of.items()}
    usual: dict[str, Any] = {
        "task": "mmhal",
        "metric": "score",
        "unit": "0-6",
        "higher_is_better": True,
        "judge": "j",
        "samples": 40,
    }
    entries = [make_entry(run=run, model=run, **usual) for run in logs]

    def places(load: Mapping[str, list[Sample]]) -> dict[str, str]:
        found = compare_board(entries, samples=load.__getitem__, metrics=lambda task, name: RATING)
        return {key[0]: str(rank) for key, rank in found.ranks.items()}

    first = {run: [replace(sample, repeats=()) for sample in samples] for run, samples in logs.items()}
    assert places(first) == {"steady": "2", "falling": "1"}
    assert places(logs) == {"steady": "1–2", "falling": "1–2"}


def test_a_record_that_metrics_share_is_kept_once_and_earlier_logs_that_repeat_it_stay_readable(
    make_sample: MakeSample,
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    shared, own = {"image": "1", "correct": True}, {"image": "1", "words": 3}
    records = {"accuracy": shared, "f1": dict(shared), "length": own}
    sample = replace(make_sample(), records=records, repeats=(JudgeRepeat(records=records, reply="Yes."),))
    data = to_parquet([sample])
    table = pq.read_table(pa.BufferReader(data))
    assert json.loads(table["records"][0].as_py()) == [
        {"metrics": ["accuracy", "f1"], "record": shared},
        {"metrics": ["length"], "record": own},
    ]
    (found,) = from_parquet(data)
    assert found == sample
    assert found.records["accuracy"] is found.records["f1"]
    sink = pa.BufferOutputStream()
    for name, text in (
        ("records", json.dumps(records)),
        ("repeats", json.dumps([{"records": records, "reply": "Yes."}])),
    ):
        table = table.set_column(table.column_names.index(name), name, pa.array([text]))
    pq.write_table(table, sink)
    assert from_parquet(bytes(sink.getvalue())) == [sample]
