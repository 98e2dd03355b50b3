import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leaderboards.board.board import Board
from leaderboards.board.entry import Entry
from leaderboards.board.sample import Sample
from leaderboards.comparison.paired_logs import Loader
from leaderboards.gate.gate import GateResult, check, render, source, to_json
from leaderboards.statistics.resampling import CountsMetric
from support.errors import BoardError
from tasks.metric import mean_of

MakeEntry = Callable[..., Entry]

METRIC = mean_of("hallucinated", scale=100)

LIKE_BASE = [1] * 12 + [0] * 48
WORSE = [1] * 30 + [0] * 30
SLIGHTLY_WORSE = [1] * 13 + [0] * 47
BETTER = [0] * 60


def logs(**runs: Sequence[int | None]) -> Loader:
    """A loader of runs, each given by its hallucinations, one an image; None = unscored. Other runs kept no log."""

    def load(run: str) -> list[Sample]:
        if run not in runs:
            return []
        return [
            Sample(
                run=run,
                task="scenes_chair",
                id=str(index),
                image=f"scene-{index}",
                prompt="Describe.",
                answer="A circle.",
                records={} if value is None else {"CHAIR_s": {"image": f"scene-{index}", "hallucinated": value}},
                reply=None,
            )
            for index, value in enumerate(runs[run])
        ]

    return load


NO_LOGS = logs()


def as_logged(entry: Entry, load: Loader) -> Entry:
    """The entry with the value that its log gives, where there is one."""
    try:
        records = [sample.records.get("CHAIR_s") for sample in load(entry.run)]
    except (ValueError, OSError):
        return entry
    found = [record["hallucinated"] for record in records if record is not None]
    return replace(entry, value=100 * sum(found) / len(found)) if found and entry.value is not None else entry


@pytest.fixture
def old(make_entry: MakeEntry) -> Entry:
    return make_entry(run="old", value=20.0, samples=60)


@pytest.fixture
def new(make_entry: MakeEntry) -> Entry:
    return make_entry(run="new", value=50.0, samples=60)


def gate(
    baseline: list[Entry],
    current: list[Entry],
    *,
    before: Loader = NO_LOGS,
    after: Loader = NO_LOGS,
    metric: CountsMetric | None = METRIC,
    tolerances: dict[str, float] | None = None,
    models: tuple[str, str] | None = None,
    require_better: Collection[str] = (),
    skipped: Sequence[tuple[Path, str]] = (),
    replaced: Sequence[Entry] = (),
) -> GateResult:
    return check(
        [as_logged(entry, before) for entry in baseline],
        [as_logged(entry, after) for entry in current],
        samples=(before, after),
        metrics=lambda task, name: metric if (task, name) == ("scenes_chair", "CHAIR_s") else None,
        tolerances=tolerances or {},
        models=models,
        require_better=require_better,
        skipped=skipped,
        replaced=replaced,
        resamples=1000,
    )


@pytest.mark.parametrize("after", (LIKE_BASE, SLIGHTLY_WORSE, BETTER))
def test_what_is_not_significantly_worse_passes(old: Entry, new: Entry, after: list[int]) -> None:
    result = gate([old], [new], before=logs(old=LIKE_BASE), after=logs(new=after))
    assert (result.passed, result.regressions, result.errors, result.compared) == (True, [], [], 1)
    assert render(result) == "**Gate passed**: 1 compared, 0 worse, 0 errors."


def test_what_is_significantly_worse_on_the_same_questions_regresses(old: Entry, new: Entry) -> None:
    result = gate([old], [new], before=logs(old=LIKE_BASE), after=logs(new=WORSE))
    assert not result.passed
    assert result.errors == []
    assert str(result.regressions[0]).startswith(
        "base scenes_chair CHAIR_s: 20.0 -> 50.0 %, worse by 30.0: significant (+30.0 ["
    )
    assert "60 images)" in str(result.regressions[0])


def test_a_rise_where_lower_is_worse_passes(old: Entry, new: Entry) -> None:
    old, new = replace(old, higher_is_better=True), replace(new, higher_is_better=True)
    assert gate([old], [new], before=logs(old=LIKE_BASE), after=logs(new=WORSE)).passed
    result = gate(
        [replace(old, value=50.0)], [replace(new, value=20.0)], before=logs(old=WORSE), after=logs(new=LIKE_BASE)
    )
    assert [regression.worsening for regression in result.regressions] == [30.0]


def test_p_values_are_adjusted_for_the_number_of_metrics(old: Entry, new: Entry) -> None:
    before, after = logs(old=[0] * 60), logs(new=[1] * 6 + [0] * 54)  # p = 1/32 alone
    assert len(gate([old], [new], before=before, after=after).regressions) == 1
    many = [f"model-{number}" for number in range(3)]
    result = gate(
        [replace(old, model=m) for m in many], [replace(new, model=m) for m in many], before=before, after=after
    )
    assert (result.compared, result.regressions) == (3, [])


@pytest.mark.parametrize(("value", "passed"), ((22.0, True), (22.3, True), (22.31, False), (15.0, True)))
def test_a_tolerance_decides_where_there_are_no_samples(old: Entry, new: Entry, value: float, passed: bool) -> None:
    result = gate([old], [replace(new, value=value)], tolerances={"scenes_chair.CHAIR_s": 2.3})
    assert (result.passed, result.errors) == (passed, [])
    assert "1 by tolerance alone" in result.summary
    if not passed:
        assert (
            str(result.regressions[0])
            == "base scenes_chair CHAIR_s: 20.0 -> 22.3 %, worse by 2.3: over the tolerance of 2.3"
        )


def test_a_tolerance_holds_beside_the_samples(old: Entry, new: Entry) -> None:
    before, after, slightly = logs(old=LIKE_BASE), logs(new=SLIGHTLY_WORSE), replace(new, value=21.7)
    result = gate([old], [slightly], before=before, after=after, tolerances={"scenes_chair.CHAIR_s": 1.0})
    assert [regression.reason for regression in result.regressions] == ["over the tolerance of 1"]
    generous = gate([old], [new], before=before, after=logs(new=WORSE), tolerances={"scenes_chair.CHAIR_s": 99.0})
    assert ["significant" in regression.reason for regression in generous.regressions] == [True]


def test_metrics_are_checked_if_headline_or_tolerated(old: Entry, new: Entry) -> None:
    entries = [
        [entry, replace(entry, metric="coverage", headline=False, higher_is_better=True)]
        for entry in (old, replace(new, value=20))
    ]
    before, after = logs(old=LIKE_BASE), logs(new=LIKE_BASE)
    assert gate(*entries, before=before, after=after).compared == 1
    assert gate(*entries, before=before, after=after, tolerances={"scenes_chair.coverage": 1.0}).compared == 2


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
    result = gate(
        [old],
        [current],
        before=logs(old=LIKE_BASE),
        after=logs(new=LIKE_BASE),
        tolerances={"scenes_chair.CHAIR_s": 9.0},
    )
    assert not result.passed
    assert result.regressions == []
    assert result.errors[0].startswith("base scenes_chair CHAIR_s: ")
    assert words in result.errors[0]
    assert result.errors[1:] == ["nothing was compared"]


def test_the_matching_version_is_found_among_several(old: Entry, new: Entry) -> None:
    current = [replace(new, value=20.0), replace(new, run="later", version="2", created="2026-02-01T00:00:00Z")]
    assert gate([old], current, before=logs(old=LIKE_BASE), after=logs(new=LIKE_BASE)).passed


def test_a_baseline_scored_anew_by_another_version_asks_for_that_one_alone(old: Entry, new: Entry) -> None:
    anew = replace(old, run="anew", version="2", created="2026-02-01T00:00:00Z")
    before = logs(old=LIKE_BASE, anew=LIKE_BASE)
    assert gate([old, anew], [replace(new, version="2")], before=before, after=logs(new=LIKE_BASE)).passed
    assert not gate([old, anew], [replace(new, version="2")], before=before, after=logs(new=WORSE)).passed
    assert "version was '2', is '1'" in gate([old, anew], [new], before=before, after=logs(new=LIKE_BASE)).errors[0]


def test_of_several_results_the_newest_is_checked(old: Entry, new: Entry) -> None:
    fixed = replace(new, run="fixed", value=20.0, created="2026-02-01T00:00:00Z")
    tolerances = {"scenes_chair.CHAIR_s": 1.0}
    assert gate([old], [fixed, new], tolerances=tolerances).passed
    assert not gate([old], [replace(new, created="2026-03-01T00:00:00Z"), fixed], tolerances=tolerances).passed


@pytest.mark.parametrize(
    ("before", "after", "metric"),
    (
        (NO_LOGS, logs(new=LIKE_BASE), METRIC),
        (logs(old=LIKE_BASE), NO_LOGS, METRIC),
        (logs(old=LIKE_BASE), logs(new=[]), METRIC),
        (logs(old=LIKE_BASE), logs(new=LIKE_BASE), None),
    ),
)
def test_nothing_to_compare_by_is_an_error(
    old: Entry, new: Entry, before: Loader, after: Loader, metric: CountsMetric | None
) -> None:
    result = gate([old], [new], before=before, after=after, metric=metric)
    assert result.errors == [
        "base scenes_chair CHAIR_s: no samples and no tolerance to compare by",
        "nothing was compared",
    ]


def test_other_questions_are_an_error(old: Entry, new: Entry) -> None:
    def moved(run: str) -> list[Sample]:
        return [
            replace(sample, image="elsewhere") if sample.id == "3" else sample for sample in logs(new=LIKE_BASE)(run)
        ]

    def doubled(run: str) -> list[Sample]:
        return [*logs(new=LIKE_BASE)(run)] * 2

    def renumbered(run: str) -> list[Sample]:
        return [replace(sample, id="60") if sample.id == "59" else sample for sample in logs(new=LIKE_BASE)(run)]

    def damaged(run: str) -> list[Sample]:
        raise ValueError(f"{run}.samples.parquet: not the samples")

    for after, words in (
        (logs(new=LIKE_BASE[:-1]), "run new: its log has 59 of its 60 samples"),
        (logs(new=[*LIKE_BASE, 0]), "run new: its log has 61 of its 60 samples"),
        (renumbered, "sample '59' is in one log only"),
        (moved, "sample '3' was about image 'scene-3', is about 'elsewhere'"),
        (doubled, "run new logs a sample of scenes_chair twice"),
        (damaged, "new.samples.parquet: not the samples"),
        (logs(new=[None] * 60), "60 samples of the baseline's log are rated, now only 0"),
    ):
        result = gate([old], [new], before=logs(old=LIKE_BASE), after=after, tolerances={"scenes_chair.CHAIR_s": 99.0})
        assert words in result.errors[0]
        assert not result.passed


def test_images_rated_on_one_side_only_are_left_out(old: Entry, new: Entry) -> None:
    old, new = replace(old, unscored=1), replace(new, unscored=1)
    result = gate([old], [new], before=logs(old=[None, *LIKE_BASE[1:]]), after=logs(new=[*WORSE[:-1], None]))
    verdict = result.regressions[0].verdict
    assert verdict is not None
    assert verdict.images == 58


def test_an_image_with_one_of_two_ratings_missing_is_left_out_whole(old: Entry, new: Entry) -> None:
    def two_an_image(load: Loader, run: str) -> list[Sample]:
        shared = {str(index): f"scene-{index // 2}" for index in range(60)}
        return [
            replace(
                s,
                image=shared[s.id],
                records={name: {**record, "image": shared[s.id]} for name, record in s.records.items()},
            )
            for s in load(run)
        ]

    before = partial(two_an_image, logs(old=[None, *LIKE_BASE[1:]]))
    after = partial(two_an_image, logs(new=WORSE))
    result = gate([replace(old, unscored=1)], [new], before=before, after=after)
    verdict = result.regressions[0].verdict
    assert verdict is not None
    assert verdict.images == 29


def test_a_model_is_held_against_one_of_another_name(old: Entry, new: Entry) -> None:
    bystander = replace(old, model="bystander")
    result = gate(
        [old, bystander],
        [replace(new, model="tuned")],
        before=logs(old=LIKE_BASE),
        after=logs(new=WORSE),
        models=("base", "tuned"),
    )
    assert (result.compared, result.errors) == (1, [])
    assert str(result.regressions[0]).startswith("base -> tuned scenes_chair CHAIR_s: ")


def test_comparing_nothing_is_an_error(old: Entry, new: Entry) -> None:
    assert gate([], [new]).errors == ["nothing was compared"]
    assert gate([old], [new], models=("bas", "base")).errors == [
        "model bas: not in the baseline (did you mean 'base'?); known: base",
        "nothing was compared",
    ]


def test_a_tolerance_for_nothing_is_an_error(old: Entry, new: Entry) -> None:
    result = gate(
        [old], [new], before=logs(old=LIKE_BASE), after=logs(new=LIKE_BASE), tolerances={"scenes_chair.chair_s": 1.0}
    )
    assert result.errors == [
        "tolerance for scenes_chair.chair_s: not in the baseline (did you mean 'scenes_chair.CHAIR_s'?); known: scenes_chair.CHAIR_s"
    ]
    assert not result.passed


def test_a_log_is_read_once_for_all_metrics(old: Entry, new: Entry) -> None:
    read: list[str] = []

    def counting(run: str) -> Sequence[Sample]:
        read.append(run)
        return logs(old=LIKE_BASE, new=LIKE_BASE)(run)

    pairs = [[entry, replace(entry, judge="j")] for entry in (old, replace(new, value=20.0))]
    result = check(
        *pairs, samples=(counting, counting), metrics=lambda task, name: METRIC, tolerances={}, resamples=1000
    )
    assert result.compared == 2
    assert read == ["old", "new"]


def test_hostile_names_stay_on_one_line_and_out_of_the_markup(old: Entry, new: Entry) -> None:
    name = "x\n::error::<b>|\u202e"
    result = gate([replace(old, model=name)], [replace(new, model=name)], tolerances={"scenes_chair.CHAIR_s": 1.0})
    assert str(result.regressions[0]).startswith("x ::error::<b>| scenes_chair")
    assert "x ::error::\\<b\\>\\|" in render(result)
    missing = gate([replace(old, model=name)], [new])
    assert (
        missing.errors[0] == "x ::error::<b>| scenes_chair CHAIR_s: missing in the current results of x ::error::<b>|"
    )
    assert "- error: x ::error::\\<b\\>\\| scenes_chair" in render(missing)


# -- claims
# --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ("scenes_chair", "scenes_chair.CHAIR_s"))
def test_a_claim_holds_only_where_the_questions_show_it(old: Entry, new: Entry, name: str) -> None:
    better = gate(
        [old], [replace(new, value=0.0)], before=logs(old=LIKE_BASE), after=logs(new=BETTER), require_better=[name]
    )
    assert (better.passed, [claim.met for claim in better.claims]) == (True, [True])
    assert "- shown: base scenes_chair CHAIR_s: better (-20.0" in render(better)
    same = gate(
        [old], [replace(new, value=20.0)], before=logs(old=LIKE_BASE), after=logs(new=LIKE_BASE), require_better=[name]
    )
    assert (same.passed, same.regressions, same.errors, len(same.unmet)) == (False, [], [], 1)
    assert "0 of 1 claims shown" in render(same)
    assert "NOT shown: base scenes_chair CHAIR_s: not shown to be better (0.0 " in render(same)


def test_a_claim_is_not_weakened_by_the_metrics_nobody_claims(old: Entry, new: Entry) -> None:
    before, after = logs(old=[1] * 6 + [0] * 54), logs(new=[0] * 60)  # p = 1/32 alone
    many = [f"model-{number}" for number in range(3)]
    baseline, current = (
        [replace(entry, model=m) for m in many] for entry in (replace(old, value=10.0), replace(new, value=0.0))
    )
    headline = [baseline[0], *(replace(entry, task="other") for entry in baseline[1:])]
    now = [current[0], *(replace(entry, task="other") for entry in current[1:])]

    def of_all(run_logs: Loader) -> Loader:
        return lambda run: [s for sample in run_logs(run) for s in (sample, replace(sample, task="other"))]

    result = check(
        headline,
        now,
        samples=(of_all(before), of_all(after)),
        metrics=lambda task, name: METRIC,
        tolerances={},
        require_better=["scenes_chair"],
        resamples=1000,
    )
    assert (result.compared, [claim.met for claim in result.claims]) == (3, [True])


def test_a_claim_without_samples_or_about_nothing_is_an_error(old: Entry, new: Entry) -> None:
    result = gate(
        [old], [replace(new, value=1.0)], tolerances={"scenes_chair.CHAIR_s": 1.0}, require_better=["scenes_chair"]
    )
    assert result.errors[0] == "base scenes_chair CHAIR_s: no samples to compare by"
    result = gate([old], [new], before=logs(old=LIKE_BASE), after=logs(new=LIKE_BASE), require_better=["scenes_char"])
    assert result.errors[0].startswith("require better scenes_char: not in the baseline (did you mean 'scenes_chair'?)")


# -- entries and logs that do not tell the same
# ------------------------------------------------------------------------------------------


def raw(
    old: Entry, new: Entry, before: Loader, after: Loader, metric: CountsMetric = METRIC, **options: Any
) -> GateResult:
    return check(
        [old],
        [new],
        samples=(before, after),
        metrics=lambda task, name: metric,
        resamples=1000,
        **{"tolerances": {}} | options,
    )


def test_a_value_that_its_own_log_does_not_give_is_an_error(old: Entry, new: Entry) -> None:
    told, tolerances = replace(new, value=20.0), {"scenes_chair.CHAIR_s": 1.0}
    result = raw(old, told, logs(old=LIKE_BASE), logs(new=SLIGHTLY_WORSE), tolerances=tolerances)
    assert result.errors[0].endswith("run new: its value is 20 %, but its log gives 21.6667: score it anew")
    assert not result.passed
    lifted = raw(replace(old, value=50.0), told, logs(old=LIKE_BASE), logs(new=LIKE_BASE), tolerances=tolerances)
    assert "run old: its value is 50 %, but its log gives 20" in lifted.errors[0]


def test_a_value_may_be_rounded_as_the_official_script_rounds_it(old: Entry, new: Entry) -> None:
    sides = logs(old=SLIGHTLY_WORSE), logs(new=SLIGHTLY_WORSE)
    rounded = replace(METRIC, digits=1)
    assert raw(replace(old, value=21.7), replace(new, value=21.7), *sides, metric=rounded).passed
    assert not raw(replace(old, value=21.7), replace(new, value=21.8), *sides, metric=rounded).passed
    assert not raw(replace(old, value=21.7), replace(new, value=21.7), *sides).passed


def test_logs_of_both_sides_that_lack_the_same_samples_are_an_error(old: Entry, new: Entry) -> None:
    few = logs(old=LIKE_BASE[:20], new=LIKE_BASE[:20])
    result = raw(
        replace(old, value=60.0), replace(new, value=60.0), few, few, tolerances={"scenes_chair.CHAIR_s": 99.0}
    )
    assert "run old: its log has 20 of its 60 samples" in result.errors[0]


def test_a_log_that_lacks_the_task_is_an_error_and_no_tolerance_makes_up_for_it(old: Entry, new: Entry) -> None:
    def of_another(run: str) -> list[Sample]:
        return [replace(sample, task="scenes_pope") for sample in logs(new=LIKE_BASE)(run)]

    result = raw(
        old, replace(new, value=20.0), logs(old=LIKE_BASE), of_another, tolerances={"scenes_chair.CHAIR_s": 99.0}
    )
    assert result.errors[0] == "base scenes_chair CHAIR_s: run new: its log has no sample of scenes_chair"


def test_fewer_answers_that_count_in_the_log_are_an_error_whatever_the_entry_says(old: Entry, new: Entry) -> None:
    easy = logs(new=[None] * 20 + [0] * 40)
    result = raw(old, replace(new, value=0.0), logs(old=LIKE_BASE), easy)
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
    def spoilt(run: str) -> list[Sample]:
        return [replace(s, records={"CHAIR_s": record}) if s.id == "3" else s for s in logs(new=LIKE_BASE)(run)]

    result = raw(old, replace(new, value=20.0), logs(old=LIKE_BASE), spoilt, tolerances={"scenes_chair.CHAIR_s": 99.0})
    assert words in result.errors[0]
    assert not result.passed


def test_what_newer_weights_left_without_a_score_is_an_error(tmp_path: Path, old: Entry, new: Entry) -> None:
    first = [replace(old, provenance={"weights": "1"}), replace(old, task="scenes_pope", provenance={"weights": "1"})]
    Board(tmp_path).add(first, [])
    later = replace(old, run="later", provenance={"weights": "2"}, created="2026-02-01T00:00:00+00:00")
    Board(tmp_path).add([later], [])
    found = source(tmp_path)
    assert ([one.run for one in found.entries], [one.task for one in found.replaced]) == (["later"], ["scenes_pope"])
    options: dict[str, Any] = {"tolerances": {"scenes_chair.CHAIR_s": 99.0}, "replaced": found.replaced}
    result = gate(found.entries, [new], **options)
    assert result.errors == [
        "base scenes_pope CHAIR_s: the baseline's score is of weights 1, its newest run has others"
    ]
    other = gate([replace(one, model="base-2") for one in found.entries], [new], models=("base-2", "base"), **options)
    assert other.passed


def test_a_run_that_is_on_both_sides_costs_the_others_no_power(old: Entry, new: Entry) -> None:
    before, after = logs(old=[0] * 60), logs(old=[0] * 60, new=[1] * 6 + [0] * 54)  # p = 1/32 alone
    others = [replace(old, model=f"model-{number}") for number in range(3)]
    result = gate([old, *others], [new, *others], before=before, after=after)
    assert (result.compared, [one.baseline.model for one in result.regressions]) == (4, ["base"])


# -- what makes two scores of one benchmark
# ------------------------------------------------------------------------------------------------


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
    result = gate([pair[0]], [pair[1]], before=logs(old=LIKE_BASE), after=logs(new=LIKE_BASE))
    assert words in result.errors[0]
    assert not result.passed


def test_other_weights_and_a_revision_nobody_knows_are_compared(old: Entry, new: Entry) -> None:
    pair = (
        replace(old, provenance={"weights": "1", "revision": "aa"}),
        replace(new, value=20.0, provenance={"weights": "2"}),
    )
    assert gate([pair[0]], [pair[1]], before=logs(old=LIKE_BASE), after=logs(new=LIKE_BASE)).passed


def test_another_prompt_is_an_error_for_one_model_while_two_have_templates_of_their_own(old: Entry, new: Entry) -> None:
    def rephrased(run: str) -> list[Sample]:
        return [replace(sample, prompt="Describe it!") for sample in logs(new=LIKE_BASE)(run)]

    current = replace(new, value=20.0)
    result = gate([old], [current], before=logs(old=LIKE_BASE), after=rephrased)
    assert "sample '0' was asked 'Describe.', is asked 'Describe it!'" in result.errors[0]
    other = replace(current, model="tuned")
    assert gate([old], [other], before=logs(old=LIKE_BASE), after=rephrased, models=("base", "tuned")).passed


@pytest.mark.parametrize("allowed", (float("nan"), float("inf"), -1.0))
def test_a_tolerance_that_allows_everything_or_nothing_is_refused(old: Entry, new: Entry, allowed: float) -> None:
    with pytest.raises(BoardError, match=r"tolerance for scenes_chair\.CHAIR_s: must be a number from 0 up"):
        gate([old], [new], tolerances={"scenes_chair.CHAIR_s": allowed})


def test_a_file_of_the_baseline_that_cannot_be_read_is_an_error(old: Entry, new: Entry) -> None:
    result = gate(
        [old], [new], before=logs(old=BETTER), after=logs(new=BETTER), skipped=[(Path("b/x.json"), "not JSON")]
    )
    assert (result.errors, result.passed) == (["b/x.json: can't be read: not JSON"], False)


# -- where nothing changed
# -----------------------------------------------------------------------------------------------------------------


def test_where_nothing_changed_at_most_one_gate_in_twenty_fails(old: Entry, new: Entry) -> None:
    """Four benchmarks, answers about one image alike, two models that are right as often: 300 times."""
    tasks = [f"task-{number}" for number in range(4)]
    baseline, current = ([replace(entry, task=task, samples=80, value=30.0) for task in tasks] for entry in (old, new))
    rng = np.random.default_rng(0)
    failed = 0
    for _ in range(300):
        chance = rng.beta(1, 2, size=(4, 40))  # of each image, for both models

        def answers(run: str, chance: Any = chance) -> list[Sample]:
            return [
                Sample(
                    run=run,
                    task=task,
                    id=f"{image}/{turn}",
                    image=str(image),
                    prompt="",
                    answer="",
                    records={
                        "CHAIR_s": {"image": str(image), "hallucinated": int(rng.random() < chance[place, image])}
                    },
                    reply=None,
                )
                for place, task in enumerate(tasks)
                for image in range(40)
                for turn in range(2)
            ]

        taken = {"old": answers("old"), "new": answers("new")}

        def of_task(entry: Entry, taken: Any = taken) -> Entry:
            return as_logged(entry, lambda run: [sample for sample in taken[run] if sample.task == entry.task])

        result = check(
            [of_task(entry) for entry in baseline],
            [of_task(entry) for entry in current],
            samples=(taken.__getitem__, taken.__getitem__),
            metrics=lambda task, name: METRIC,
            tolerances={},
            resamples=300,
        )
        assert (result.compared, result.errors) == (4, [])
        failed += bool(result.regressions)
    assert failed <= 15


# -- where scores come from
# ----------------------------------------------------------------------------------------------------------------


def keep(folder: Path, entry: Entry, values: Sequence[int]) -> None:
    Board(folder).add([entry], logs(**{entry.run: values})(entry.run))


def test_a_board_a_run_folder_and_a_single_file_give_the_same(tmp_path: Path, old: Entry) -> None:
    keep(tmp_path / "x" / "board", old, LIKE_BASE)
    moved = tmp_path / "baseline.json"  # called as its owner likes
    moved.write_bytes((tmp_path / "x" / "board" / "old.json").read_bytes())
    moved.with_name("baseline.samples.parquet").write_bytes(
        (tmp_path / "x" / "board" / "old.samples.parquet").read_bytes()
    )
    sources = [
        source(path)
        for path in (tmp_path / "x" / "board", tmp_path / "x", tmp_path / "x" / "board" / "old.json", moved)
    ]
    assert all(found.entries == [old] for found in sources)
    assert all(len(found.samples("old")) == 60 for found in sources)


def test_a_run_that_kept_no_log_can_be_compared_by_tolerance_only(tmp_path: Path, old: Entry, new: Entry) -> None:
    Board(tmp_path).add([old], [])
    for found in (source(tmp_path), source(tmp_path / "old.json")):
        current = replace(new, value=21.0)
        result = gate(found.entries, [current], before=found.samples, after=logs(new=LIKE_BASE))
        assert result.errors[0].endswith("no tolerance to compare by")
        assert gate(
            found.entries,
            [current],
            before=found.samples,
            after=logs(new=LIKE_BASE),
            tolerances={"scenes_chair.CHAIR_s": 2.0},
        ).passed


@pytest.mark.parametrize("metric", (METRIC, None))
@pytest.mark.parametrize("side", ("old", "new"))
def test_a_log_that_was_kept_and_is_missing_is_an_error_and_no_tolerance_makes_up_for_it(
    tmp_path: Path, old: Entry, new: Entry, side: str, metric: CountsMetric | None
) -> None:
    folders = {}
    for one in (old, replace(new, value=20.0)):
        folders[one.run] = tmp_path / one.run / "board"
        keep(folders[one.run], one, LIKE_BASE)
    (folders[side] / f"{side}.samples.parquet").unlink()

    def result(before: Path, after: Path) -> GateResult:
        sides = source(before), source(after)
        return gate(
            sides[0].entries,
            sides[1].entries,
            before=sides[0].samples,
            after=sides[1].samples,
            metric=metric,
            tolerances={"scenes_chair.CHAIR_s": 9.0},
        )

    found = result(folders["old"], folders["new"])
    assert not found.passed
    assert found.errors[0] == f"base scenes_chair CHAIR_s: run {side}: its sample log {side}.samples.parquet is missing"
    single = result(folders["old"] / "old.json", folders["new"] / "new.json")
    assert f"{side}.json: its sample log is missing beside it: no {side}.samples.parquet" in single.errors[0]


# -- how, not how well
# ---------------------------------------------------------------------------------------------------------------------


def neutral(load: Loader) -> Loader:
    return lambda run: [replace(s, records=dict.fromkeys(["chair.yes_rate"], s.records["CHAIR_s"])) for s in load(run)]


@pytest.fixture
def rates(old: Entry, new: Entry) -> tuple[Entry, Entry]:
    first, second = (replace(entry, metric="chair.yes_rate", headline=False) for entry in (old, new))
    return first, second


def drift(rates: tuple[Entry, Entry], values: Sequence[int], **options: Any) -> GateResult:
    old, new = rates
    return check(
        [old],
        [replace(new, value=100 * sum(values) / 60)],
        samples=(neutral(logs(old=LIKE_BASE)), neutral(logs(new=values))),
        metrics=lambda task, name: METRIC,
        resamples=1000,
        **{"tolerances": {}} | options,
    )


@pytest.mark.parametrize(("values", "moved"), ((WORSE, 30.0), (BETTER, 20.0)))
def test_a_metric_of_how_not_how_well_fails_by_a_tolerance_either_way_and_by_no_test(
    rates: tuple[Entry, Entry], values: list[int], moved: float
) -> None:
    name = "scenes_chair.chair.yes_rate"
    passed = drift(rates, values, tolerances={name: moved})
    assert (passed.passed, passed.compared) == (True, 1)
    assert passed.checked[0].verdict is not None
    assert passed.checked[0].verdict.outcome != "not separable"
    assert to_json(passed)["checked"][0]["verdict"]["outcome"] == ("higher" if values is WORSE else "lower")
    failed = drift(rates, values, tolerances={name: moved - 0.1})
    assert [one.reason for one in failed.regressions] == [f"over the tolerance of {moved - 0.1:g}"]
    assert f"moved by {moved:.1f}" in str(failed.regressions[0])
    headline = replace(rates[0], headline=True), replace(rates[1], headline=True)
    assert drift(headline, values).passed


def test_a_metric_of_how_not_how_well_can_t_be_claimed_to_be_better(rates: tuple[Entry, Entry]) -> None:
    name = "scenes_chair.chair.yes_rate"
    result = drift(rates, BETTER, tolerances={name: 50.0}, require_better=[name])
    assert (result.passed, result.claims, result.regressions) == (False, [], [])
    assert result.errors == [
        f"require better {name}: it says how a model answers, not how well, so nothing is better; a tolerance limits how far it may move"
    ]


def test_a_metric_of_how_not_how_well_costs_the_others_no_power(old: Entry, new: Entry) -> None:
    before, after = logs(old=[0] * 60), logs(new=[1] * 6 + [0] * 54)  # p = 1/32 alone
    names = ("CHAIR_s", "a.yes_rate", "b.yes_rate", "length")

    def of_all(load: Loader) -> Loader:
        return lambda run: [replace(s, records=dict.fromkeys(names, s.records["CHAIR_s"])) for s in load(run)]

    result = check(
        [replace(old, metric=name, value=0.0) for name in names],
        [replace(new, metric=name, value=10.0) for name in names],
        samples=(of_all(before), of_all(after)),
        metrics=lambda task, name: METRIC,
        tolerances={},
        resamples=1000,
    )
    assert (result.compared, [one.baseline.metric for one in result.regressions]) == (4, ["CHAIR_s"])


def test_a_log_of_another_run_is_an_error(tmp_path: Path, old: Entry, new: Entry) -> None:
    keep(tmp_path, old, LIKE_BASE)
    keep(tmp_path / "other", old, BETTER)
    (tmp_path / "old.samples.parquet").write_bytes((tmp_path / "other" / "old.samples.parquet").read_bytes())
    found = source(tmp_path / "old.json")
    result = gate(found.entries, [replace(new, value=20.0)], before=found.samples, after=logs(new=LIKE_BASE))
    assert "not the samples that old.json was computed from" in result.errors[0]


def test_runs_cut_by_a_limit_count_when_asked_for(tmp_path: Path, old: Entry) -> None:
    cut = replace(old, limit=60)
    keep(tmp_path, cut, LIKE_BASE)
    assert (source(tmp_path).entries, source(tmp_path, partial=True).entries) == ([], [cut])
    assert source(tmp_path / "old.json").entries == [cut]


def test_a_file_whose_samples_are_of_another_run_is_an_error_though_its_digest_fits(
    tmp_path: Path, old: Entry, new: Entry
) -> None:
    keep(tmp_path, old, LIKE_BASE)
    keep(tmp_path, new, WORSE)
    data = (tmp_path / "old.samples.parquet").read_bytes()
    (tmp_path / "new.samples.parquet").write_bytes(data)
    edited = json.loads((tmp_path / "new.json").read_text()) | {
        "samples": json.loads((tmp_path / "old.json").read_text())["samples"]
    }
    (tmp_path / "new.json").write_text(json.dumps(edited))
    for found in (source(tmp_path), source(tmp_path / "new.json")):
        result = raw(
            old, replace(new, value=20.0), logs(old=LIKE_BASE), found.samples, tolerances={"scenes_chair.CHAIR_s": 99.0}
        )
        assert "new.samples.parquet: sample '0' of scenes_chair is of run 'old', not 'new'" in result.errors[0]


def test_what_is_no_source_is_refused_in_one_line(tmp_path: Path, old: Entry) -> None:
    keep(tmp_path / "board", old, LIKE_BASE)
    whole = json.loads((tmp_path / "board" / "old.json").read_text())
    (tmp_path / "empty").mkdir()
    for name, data, words in (
        ("nowhere", None, "no such file or folder"),
        ("empty", None, "no board: there is no run's JSON file in it"),
        ("a.json", b"{", "no run of a board"),
        ("b.json", b"\xff\xfe", "no run of a board"),
        ("c.json", json.dumps(whole | {"schema": 99}).encode(), "schema must be"),
        ("d.json", json.dumps(whole | {"run": "another"}).encode(), "entry 0: run must be 'another', not 'old'"),
        ("e.json", json.dumps(whole | {"entries": 3}).encode(), "entries must be a list"),
        ("f.json", b"[" * 100_000, "no run of a board"),
    ):
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(BoardError, match=words) as raised:
            source(tmp_path / name)
        assert "\n" not in str(raised.value)


# -- what is said
# --------------------------------------------------------------------------------------------------------------------------


def test_a_metric_that_became_worse_lists_what_flipped(old: Entry, new: Entry) -> None:
    result = gate([old], [new], before=logs(old=LIKE_BASE), after=logs(new=WORSE))
    kinds = [flip.kind for flip in result.regressions[0].flips]
    assert (kinds.count("broken"), kinds.count("still wrong"), len(kinds)) == (18, 12, 60)
    assert "18 / 0" in render(result)
    told = json.loads(json.dumps(to_json(result), allow_nan=False))
    assert told["regressions"][0]["broken"] == [str(index) for index in range(12, 30)]
    assert (told["passed"], told["checked"][0]["worse"], told["checked"][0]["verdict"]["outcome"]) == (
        False,
        True,
        "worse",
    )
    assert (
        gate([old], [replace(new, value=20.0)], before=logs(old=LIKE_BASE), after=logs(new=LIKE_BASE)).checked[0].flips
        == []
    )
