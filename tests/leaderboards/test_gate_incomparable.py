"""What the gate does not compare: always an error, never a pass."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from leaderboards.board.entry import Entry
from leaderboards.board.sample import Sample
from leaderboards.comparison.paired_logs import Loader
from leaderboards.statistics.resampling import CountsMetric
from support.errors import BoardError
from tests.leaderboards.makers import (
    BETTER,
    LIKE_BASE,
    METRIC,
    NO_LOGS,
    NOTHING,
    SLIGHTLY_WORSE,
    TOLERANT,
    changed,
    gate,
    logs,
)


@pytest.mark.parametrize(
    ("change", "words"),
    (
        ({"version": "2"}, "version was '1', is '2'"),
        ({"judge": "gpt"}, "judge was None, is 'gpt'"),
        ({"samples": 59}, "samples was 60, is 59"),
        ({"limit": 60}, "limit was None, is 60"),
        ({"unit": "0-1"}, "unit was '%', is '0-1'"),
        ({"higher_is_better": True}, "higher_is_better was False, is True"),
        ({"value": None, "low": None, "high": None}, "value was 20.0, is —"),
        ({"unscored": 1}, "60 of 60 (0 unscored, 0 failed) were scored, now only 59 of 60 (1 unscored, 0 failed)"),
        ({"failed": 60}, "now only 0 of 60 (0 unscored, 60 failed)"),
        ({"task": "scenes_pope"}, "missing in the current results of base"),
        ({"metric": "CHAIR_i"}, "missing in the current results of base"),
        ({"model": "tuned"}, "missing in the current results of base"),
    ),
)
def test_an_incomparable_pair_is_an_error_never_a_pass(
    old: Entry, new: Entry, change: dict[str, Any], words: str
) -> None:
    current = replace(new, **{"value": 20.0} | change)
    result = gate(old, current, LIKE_BASE, LIKE_BASE, tolerances={"scenes_chair.CHAIR_s": 9.0})
    assert not result.passed
    assert result.regressions == []
    assert result.errors[0].startswith("base scenes_chair CHAIR_s: ")
    assert words in result.errors[0]
    assert result.errors[1:] == ["nothing was compared"]


@pytest.mark.parametrize(
    ("before", "after", "metric"),
    (
        (NO_LOGS, logs(new=LIKE_BASE), METRIC),
        (logs(old=LIKE_BASE), logs(new=LIKE_BASE), None),
    ),
)
def test_nothing_to_compare_by_is_an_error(
    old: Entry, new: Entry, before: Loader, after: Loader, metric: CountsMetric | None
) -> None:
    result = gate(old, new, before, after, metric=metric)
    assert result.errors == [
        "base scenes_chair CHAIR_s: no samples and no tolerance to compare by",
        "nothing was compared",
    ]


@pytest.mark.parametrize("after", (NO_LOGS, logs(new=[])))
def test_a_log_can_not_be_left_out_where_the_baseline_has_one(old: Entry, new: Entry, after: Loader) -> None:
    result = gate(old, replace(new, value=20.0), logs(old=LIKE_BASE), after, tolerances={"scenes_chair.CHAIR_s": 9.0})
    assert "run new kept no sample log, and the baseline's run old did" in result.errors[0]


def damaged(run: str) -> list[Sample]:
    raise ValueError(f"{run}.samples.parquet: not the samples")


def twice(run: str) -> list[Sample]:
    return [*logs(new=LIKE_BASE)(run)] * 2


@pytest.mark.parametrize(
    ("after", "words"),
    (
        (logs(new=LIKE_BASE[:-1]), "run new: its log has 59 of its 60 samples"),
        (logs(new=[*LIKE_BASE, 0]), "run new: its log has 61 of its 60 samples"),
        (changed(logs(new=LIKE_BASE), "59", id="60"), "sample '59' is in one log only"),
        (
            changed(logs(new=LIKE_BASE), "3", image="elsewhere"),
            "sample '3' was about image 'scene-3', is about 'elsewhere'",
        ),
        (twice, "run new logs a sample of scenes_chair twice"),
        (damaged, "new.samples.parquet: not the samples"),
        (logs(new=[None] * 60), "60 samples of the baseline's log are rated, now only 0"),
    ),
)
def test_other_questions_are_an_error(old: Entry, new: Entry, after: Loader, words: str) -> None:
    result = gate(old, new, LIKE_BASE, after, tolerances=TOLERANT)
    assert words in result.errors[0]
    assert not result.passed


# -- entries and logs that do not tell the same


def test_a_value_that_its_own_log_does_not_give_is_an_error(old: Entry, new: Entry) -> None:
    told, tolerances = replace(new, value=20.0), {"scenes_chair.CHAIR_s": 1.0}
    result = gate(old, told, LIKE_BASE, SLIGHTLY_WORSE, as_given=True, tolerances=tolerances)
    assert result.errors[0].endswith("run new: its value is 20 %, but its log gives 21.6667: score it anew")
    assert not result.passed
    lifted = gate(replace(old, value=50.0), told, LIKE_BASE, LIKE_BASE, as_given=True, tolerances=tolerances)
    assert "run old: its value is 50 %, but its log gives 20" in lifted.errors[0]


@pytest.mark.parametrize(("digits", "value", "passed"), ((1, 21.7, True), (1, 21.8, False), (None, 21.7, False)))
def test_a_value_may_be_rounded_as_the_official_script_rounds_it(
    old: Entry, new: Entry, digits: int | None, value: float, passed: bool
) -> None:
    sides = logs(old=SLIGHTLY_WORSE), logs(new=SLIGHTLY_WORSE)
    metric = replace(METRIC, digits=digits)
    result = gate(replace(old, value=21.7), replace(new, value=value), *sides, as_given=True, metric=metric)
    assert result.passed == passed


def test_logs_of_both_sides_that_lack_the_same_samples_are_an_error(old: Entry, new: Entry) -> None:
    few = logs(old=LIKE_BASE[:20], new=LIKE_BASE[:20])
    result = gate(old, new, few, few, tolerances=TOLERANT)
    assert "run old: its log has 20 of its 60 samples" in result.errors[0]


def test_a_log_that_lacks_the_task_is_an_error_and_no_tolerance_makes_up_for_it(old: Entry, new: Entry) -> None:
    of_another = changed(logs(new=LIKE_BASE), task="scenes_pope")
    result = gate(old, new, LIKE_BASE, of_another, tolerances=TOLERANT)
    assert result.errors[0] == "base scenes_chair CHAIR_s: run new: its log has no sample of scenes_chair"


def test_fewer_answers_that_count_in_the_log_are_an_error_whatever_the_entry_says(old: Entry, new: Entry) -> None:
    result = gate(old, new, LIKE_BASE, logs(new=[None] * 20 + [0] * 40))
    assert "60 samples of the baseline's log are rated, now only 40" in result.errors[0]


@pytest.mark.parametrize(
    ("record", "words"),
    (
        ({"image": "scene-3", "hallucinated": "many"}, "the metric can't count these records: ValueError"),
        ({"image": "scene-3"}, "the metric can't count these records: KeyError"),
        ({"hallucinated": 1}, "names no image"),
        (
            {"image": "scene-3", "hallucinated": float("nan")},
            "image 'scene-3': what the metric counts is no finite number",
        ),
        (
            {"image": "scene-3", "hallucinated": float("inf")},
            "image 'scene-3': what the metric counts is no finite number",
        ),
    ),
)
def test_records_that_cannot_be_counted_are_an_error(
    old: Entry, new: Entry, record: dict[str, Any], words: str
) -> None:
    spoilt = changed(logs(new=LIKE_BASE), "3", records={"CHAIR_s": record})
    current = replace(new, value=20.0)
    result = gate(old, current, LIKE_BASE, spoilt, as_given=True, tolerances=TOLERANT)
    assert words in result.errors[0]
    assert not result.passed


def test_a_run_that_is_on_both_sides_costs_the_others_no_power(old: Entry, new: Entry) -> None:
    before, after = logs(old=[0] * 60), logs(old=[0] * 60, new=[1] * 5 + [0] * 55)  # p = 1/32 alone
    others = [replace(old, model=f"model-{number}") for number in range(3)]
    result = gate([old, *others], [new, *others], before, after)
    assert (result.compared, [one.baseline.model for one in result.regressions]) == (4, ["base"])


# -- what makes two scores of one benchmark


@pytest.mark.parametrize(
    ("before", "after", "words"),
    (
        (
            {"task": "0a"},
            {"task": "0b"},
            "digest of the task's prompts and rules was '0a', is '0b': score the baseline anew",
        ),
        ({"prompts": "own"}, {"prompts": "official"}, "whose prompts the judge was asked in was 'own', is 'official'"),
        ({}, {"prompt suffix": " Be brief."}, "prompt suffix was 'none', is 'Be brief.'"),
        ({"split": "x"}, {}, "split was 'x', is 'none'"),
        (
            {"judge served": "gpt-4-0613"},
            {"judge served": "gpt-4-1106"},
            "judge served was 'gpt-4-0613', is 'gpt-4-1106'",
        ),
        ({"revision": "aa"}, {"revision": "bb"}, "revision was 'aa', is 'bb'"),
    ),
)
def test_another_way_of_asking_is_an_error(
    old: Entry, new: Entry, before: dict[str, str], after: dict[str, str], words: str
) -> None:
    pair = replace(old, provenance=before), replace(new, value=20.0, provenance=after)
    result = gate([pair[0]], [pair[1]], LIKE_BASE, LIKE_BASE)
    assert words in result.errors[0]
    assert not result.passed


def test_other_weights_and_a_revision_nobody_knows_are_compared(old: Entry, new: Entry) -> None:
    pair = (
        replace(old, provenance={"weights": "1", "revision": "aa"}),
        replace(new, value=20.0, provenance={"weights": "2"}),
    )
    assert gate([pair[0]], [pair[1]], LIKE_BASE, LIKE_BASE).passed


def test_another_prompt_is_an_error_for_one_model_while_two_have_templates_of_their_own(old: Entry, new: Entry) -> None:
    rephrased = changed(logs(new=LIKE_BASE), prompt="Describe it!")
    current = replace(new, value=20.0)
    result = gate(old, current, LIKE_BASE, rephrased)
    assert "sample '0' was asked 'Describe.', is asked 'Describe it!'" in result.errors[0]
    other = replace(current, model="tuned")
    assert gate(old, [other], LIKE_BASE, rephrased, models=("base", "tuned")).passed


@pytest.mark.parametrize("allowed", (float("nan"), float("inf"), -1.0))
def test_a_tolerance_that_allows_everything_or_nothing_is_refused(old: Entry, new: Entry, allowed: float) -> None:
    with pytest.raises(BoardError, match=r"tolerance for scenes_chair\.CHAIR_s: must be a number from 0 up"):
        gate(old, new, tolerances={"scenes_chair.CHAIR_s": allowed})


def test_a_file_of_the_baseline_that_cannot_be_read_is_an_error(old: Entry, new: Entry) -> None:
    more = replace(NOTHING, skipped=[(Path("b/x.json"), "not JSON")])
    result = gate(old, new, BETTER, BETTER, more=more)
    assert (result.errors, result.passed) == (["b/x.json: can't be read: not JSON"], False)
