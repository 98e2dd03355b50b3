"""What the gate compares, and when it fails."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from leaderboards.board.entry import Entry
from leaderboards.board.sample import Sample
from leaderboards.comparison.paired_logs import Loader
from leaderboards.gate.gate import GateSettings, check
from leaderboards.gate.result import GateResult, render, to_json
from leaderboards.gate.source import GateSource
from tests.leaderboards.makers import (
    BETTER,
    LIKE_BASE,
    METRIC,
    SLIGHTLY_WORSE,
    TOLERANT,
    WORSE,
    as_logged,
    gate,
    logs,
    of_all,
)


@pytest.mark.parametrize("after", (LIKE_BASE, SLIGHTLY_WORSE, BETTER))
def test_what_is_not_significantly_worse_passes(old: Entry, new: Entry, after: list[int]) -> None:
    result = gate(old, new, LIKE_BASE, logs(new=after))
    assert (result.passed, result.regressions, result.errors, result.compared) == (True, [], [], 1)
    assert render(result) == "**Gate passed**: 1 compared, 0 worse, 0 errors."


def test_what_is_significantly_worse_on_the_same_questions_regresses(old: Entry, new: Entry) -> None:
    result = gate(old, new, LIKE_BASE, WORSE)
    assert not result.passed
    assert result.errors == []
    assert str(result.regressions[0]).startswith(
        "base scenes_chair CHAIR_s: 20.0 -> 50.0 %, worse by 30.0: significant (+30.0 ["
    )
    assert "60 images)" in str(result.regressions[0])


def test_a_rise_where_lower_is_worse_passes(old: Entry, new: Entry) -> None:
    old, new = replace(old, higher_is_better=True), replace(new, higher_is_better=True)
    assert gate(old, new, LIKE_BASE, WORSE).passed
    result = gate(replace(old, value=50.0), replace(new, value=20.0), WORSE, LIKE_BASE)
    assert [regression.worsening for regression in result.regressions] == [30.0]


def test_p_values_are_adjusted_for_the_number_of_metrics(old: Entry, new: Entry) -> None:
    before, after = [0] * 60, [1] * 5 + [0] * 55  # p = 1/32 alone
    assert len(gate(old, new, before, after).regressions) == 1
    many = [f"model-{number}" for number in range(3)]
    result = gate([replace(old, model=m) for m in many], [replace(new, model=m) for m in many], before, after)
    assert (result.compared, result.regressions) == (3, [])


@pytest.mark.parametrize(("value", "passed"), ((22.0, True), (22.3, True), (22.31, False), (15.0, True)))
def test_a_tolerance_decides_where_there_are_no_samples(old: Entry, new: Entry, value: float, passed: bool) -> None:
    result = gate(old, replace(new, value=value), tolerances={"scenes_chair.CHAIR_s": 2.3})
    assert (result.passed, result.errors) == (passed, [])
    assert "1 by tolerance alone" in result.summary
    if not passed:
        assert (
            str(result.regressions[0])
            == "base scenes_chair CHAIR_s: 20.0 -> 22.3 %, worse by 2.3: over the tolerance of 2.3"
        )


def test_a_tolerance_holds_beside_the_samples(old: Entry, new: Entry) -> None:
    before, after, slightly = logs(old=LIKE_BASE), logs(new=SLIGHTLY_WORSE), replace(new, value=21.7)
    result = gate(old, [slightly], before, after, tolerances={"scenes_chair.CHAIR_s": 1.0})
    assert [regression.reason for regression in result.regressions] == ["over the tolerance of 1"]
    generous = gate(old, new, before, WORSE, tolerances=TOLERANT)
    assert ["significant" in regression.reason for regression in generous.regressions] == [True]


def test_metrics_are_checked_if_headline_or_tolerated(old: Entry, new: Entry) -> None:
    baseline, current = (
        [entry, replace(entry, metric="coverage", headline=False, higher_is_better=True)]
        for entry in (old, replace(new, value=20))
    )
    assert gate(baseline, current, LIKE_BASE, LIKE_BASE).compared == 1
    assert gate(baseline, current, LIKE_BASE, LIKE_BASE, tolerances={"scenes_chair.coverage": 1.0}).compared == 2


def test_the_matching_version_is_found_among_several(old: Entry, new: Entry) -> None:
    current = [replace(new, value=20.0), replace(new, run="later", version="2", created="2026-02-01T00:00:00Z")]
    assert gate(old, current, LIKE_BASE, LIKE_BASE).passed


def test_a_baseline_scored_anew_by_another_version_asks_for_that_one_alone(old: Entry, new: Entry) -> None:
    anew = replace(old, run="anew", version="2", created="2026-02-01T00:00:00Z")
    before = logs(old=LIKE_BASE, anew=LIKE_BASE)
    assert gate([old, anew], replace(new, version="2"), before, LIKE_BASE).passed
    assert not gate([old, anew], replace(new, version="2"), before, WORSE).passed
    assert "version was '2', is '1'" in gate([old, anew], new, before, LIKE_BASE).errors[0]


def test_of_several_results_the_newest_is_checked(old: Entry, new: Entry) -> None:
    fixed = replace(new, run="fixed", value=20.0, created="2026-02-01T00:00:00Z")
    tolerances = {"scenes_chair.CHAIR_s": 1.0}
    assert gate(old, [fixed, new], tolerances=tolerances).passed
    assert not gate(old, [replace(new, created="2026-03-01T00:00:00Z"), fixed], tolerances=tolerances).passed


def test_images_rated_on_one_side_only_are_left_out(old: Entry, new: Entry) -> None:
    old, new = replace(old, unscored=1), replace(new, unscored=1)
    result = gate(old, new, logs(old=[None, *LIKE_BASE[1:]]), logs(new=[*WORSE[:-1], None]))
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
    result = gate(replace(old, unscored=1), new, before, after)
    verdict = result.regressions[0].verdict
    assert verdict is not None
    assert verdict.images == 29


def test_a_model_is_held_against_one_of_another_name(old: Entry, new: Entry) -> None:
    bystander = replace(old, model="bystander")
    result = gate([old, bystander], replace(new, model="tuned"), LIKE_BASE, WORSE, models=("base", "tuned"))
    assert (result.compared, result.errors) == (1, [])
    assert str(result.regressions[0]).startswith("base -> tuned scenes_chair CHAIR_s: ")


def test_comparing_nothing_is_an_error(old: Entry, new: Entry) -> None:
    assert gate([], new).errors == ["nothing was compared"]
    assert gate(old, new, models=("bas", "base")).errors == [
        "model bas: not in the baseline (did you mean 'base'?); known: base",
        "nothing was compared",
    ]


def test_a_tolerance_for_nothing_is_an_error(old: Entry, new: Entry) -> None:
    result = gate(old, new, LIKE_BASE, LIKE_BASE, tolerances={"scenes_chair.chair_s": 1.0})
    assert result.errors == [
        "tolerance for scenes_chair.chair_s: not in the baseline (did you mean 'scenes_chair.CHAIR_s'?); "
        "known: scenes_chair.CHAIR_s"
    ]
    assert not result.passed


def test_a_log_is_read_once_for_all_metrics(old: Entry, new: Entry) -> None:
    read: list[str] = []

    def counting(run: str) -> Sequence[Sample]:
        read.append(run)
        return logs(old=LIKE_BASE, new=LIKE_BASE)(run)

    pairs = [[entry, replace(entry, judge="j")] for entry in (old, replace(new, value=20.0))]
    result = gate(pairs[0], pairs[1], counting, counting, as_given=True)
    assert result.compared == 2
    assert read == ["old", "new"]


def test_hostile_names_stay_on_one_line_and_out_of_the_markup(old: Entry, new: Entry) -> None:
    name = "x\n::error::<b>|\u202e"
    result = gate(replace(old, model=name), replace(new, model=name), tolerances={"scenes_chair.CHAIR_s": 1.0})
    assert str(result.regressions[0]).startswith(r"x ::error::<b>|\u202e scenes_chair")
    assert "x ::error::\\<b\\>\\|" in render(result)
    missing = gate(replace(old, model=name), new)
    shown = r"x ::error::<b>|\u202e"
    assert missing.errors[0] == f"{shown} scenes_chair CHAIR_s: missing in the current results of {shown}"
    assert r"- error: x ::error::\<b\>\|\\u202e scenes_chair" in render(missing)


# -- claims


@pytest.mark.parametrize("name", ("scenes_chair", "scenes_chair.CHAIR_s"))
def test_a_claim_holds_only_where_the_questions_show_it(old: Entry, new: Entry, name: str) -> None:
    better = gate(old, replace(new, value=0.0), LIKE_BASE, BETTER, require_better=[name])
    assert (better.passed, [claim.met for claim in better.claims]) == (True, [True])
    assert "- shown: base scenes_chair CHAIR_s: better (-20.0" in render(better)
    same = gate(old, replace(new, value=20.0), LIKE_BASE, LIKE_BASE, require_better=[name])
    assert (same.passed, same.regressions, same.errors, len(same.unmet)) == (False, [], [], 1)
    assert "0 of 1 claims shown" in render(same)
    assert "NOT shown: base scenes_chair CHAIR_s: not shown to be better (0.0 " in render(same)


def test_a_claim_is_not_weakened_by_the_metrics_nobody_claims(old: Entry, new: Entry) -> None:
    tasks = ("scenes_chair", "other", "another")
    baseline, current = (
        [replace(entry, task=task, value=value) for task in tasks] for entry, value in ((old, 100 * 5 / 60), (new, 0.0))
    )
    before, after = (of_all(load, tasks) for load in (logs(old=[1] * 5 + [0] * 55), logs(new=[0] * 60)))  # p = 1/32
    result = gate(baseline, current, before, after, as_given=True, require_better=["scenes_chair"])
    assert (result.compared, [claim.met for claim in result.claims]) == (3, [True])


def test_a_claim_without_samples_or_about_nothing_is_an_error(old: Entry, new: Entry) -> None:
    result = gate(
        old, replace(new, value=1.0), tolerances={"scenes_chair.CHAIR_s": 1.0}, require_better=["scenes_chair"]
    )
    assert result.errors[0] == "base scenes_chair CHAIR_s: no samples to compare by"
    result = gate(old, new, LIKE_BASE, LIKE_BASE, require_better=["scenes_char"])
    assert result.errors[0].startswith("require better scenes_char: not in the baseline (did you mean 'scenes_chair'?)")


# -- where nothing changed


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
            GateSource(entries=[of_task(entry) for entry in baseline], samples=taken.__getitem__),
            GateSource(entries=[of_task(entry) for entry in current], samples=taken.__getitem__),
            metrics=lambda task, name: METRIC,
            settings=GateSettings(resamples=300),
        )
        assert (result.compared, result.errors) == (4, [])
        failed += bool(result.regressions)
    assert failed <= 15


# -- what is said


def test_a_metric_that_became_worse_lists_what_flipped(old: Entry, new: Entry) -> None:
    result = gate(old, new, LIKE_BASE, WORSE)
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
    assert gate(old, replace(new, value=20.0), LIKE_BASE, LIKE_BASE).checked[0].flips == []


# -- how, not how well


@pytest.fixture
def rates(old: Entry, new: Entry) -> tuple[Entry, Entry]:
    first, second = (replace(entry, metric="chair.yes_rate", headline=False) for entry in (old, new))
    return first, second


def drift(rates: tuple[Entry, Entry], values: Sequence[int], **options: Any) -> GateResult:
    before, after = (of_all(load, metrics=["chair.yes_rate"]) for load in (logs(old=LIKE_BASE), logs(new=values)))
    current = replace(rates[1], value=100 * sum(values) / 60)
    return gate([rates[0]], current, before, after, as_given=True, **options)


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
        f"require better {name}: it says how a model answers, not how well, so nothing is better; "
        "a tolerance limits how far it may move"
    ]


def test_a_metric_of_how_not_how_well_costs_the_others_no_power(old: Entry, new: Entry) -> None:
    names = ("CHAIR_s", "a.yes_rate", "b.yes_rate", "length")
    baseline, current = (
        [replace(entry, metric=name, value=value) for name in names]
        for entry, value in ((old, 0.0), (new, 100 * 5 / 60))
    )
    sides = (logs(old=[0] * 60), logs(new=[1] * 5 + [0] * 55))  # p = 1/32 alone
    result = gate(baseline, current, *(of_all(load, metrics=names) for load in sides), as_given=True)
    assert (result.compared, [one.baseline.metric for one in result.regressions]) == (4, ["CHAIR_s"])
