"""Simulated runs with a known truth: does the 95% interval hold it in 93 to 97% of them, and how often is there a false
alarm?

Every simulation draws a benchmark anew: how hard its images are, and then what two models answer. The counts are drawn
as the official metric would take them, many images at once; the official function makes them a score.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator

from leaderboards.board.entry import Entry
from leaderboards.board.sample import Sample
from leaderboards.gate.gate import GateSettings, check
from leaderboards.gate.source import GateSource
from leaderboards.statistics.resampling import Array, Record
from leaderboards.statistics.verdict import Pair, compare, compare_repeats, interval, panel
from tasks.benchmarks import mme, mmhal, pope
from tasks.metric import mean_of
from tests.leaderboards.edge_cells import Cell, covered, grid
from tests.leaderboards.pair_cells import PairCell, pair_grid, simulate

SIMULATIONS, RESAMPLES = 1000, 600
SLOW_SIMULATIONS = {"MME": 250, "POPE F1": 400}
"""Of the two that take longest."""

MME_IMAGES: Mapping[str, int] = {
    **{"existence": 30, "count": 30, "position": 30, "color": 30, "posters": 147, "celebrity": 170, "scene": 200},
    **{"landmark": 200, "artwork": 200, "OCR": 20, "commonsense_reasoning": 70, "numerical_calculation": 20},
    **{"text_translation": 20, "code_reasoning": 20},
}
ALL_OF_MME = mme.total(tuple(MME_IMAGES))


@dataclass(frozen=True)
class Counted:
    """A metric on records that hold their image's counts ready."""

    official: Callable[[Array], Array]

    def by_image(self, records: Iterable[Record], /) -> tuple[list[str], Array]:
        found = list(records)
        return [r["image"] for r in found], np.array([r["counts"] for r in found])

    def value(self, sums: Array, /) -> Array:
        return self.official(sums)


def records_of(counts: Array, categories: Sequence[str] = ()) -> list[dict[str, Any]]:
    """One record an image."""
    named = [{"category": category} for category in categories] or [{}] * len(counts)
    return [
        {"image": str(index), "counts": row} | more for index, (row, more) in enumerate(zip(counts, named, strict=True))
    ]


@dataclass(frozen=True)
class Benchmark:
    """How a benchmark is drawn, and what two models would score on all that could be drawn."""

    official: Callable[[Array], Array]
    images: int
    categories: Sequence[str]

    counts: Callable[[Generator, Array, float], Array]
    """Of a model that is so much better than usual (in logits or rating points), about images of this hardness:
    [images, k]."""

    hardness: Callable[[Generator], Array]

    @property
    def metric(self) -> Counted:
        return Counted(self.official)

    def draw(self, rng: Generator, *skills: float) -> list[list[dict[str, Any]]]:
        """Records of models of these skills, about the same images."""
        hardness = self.hardness(rng)
        return [records_of(self.counts(rng, hardness, skill), self.categories) for skill in skills]

    def truth(self, skill: float) -> float:
        """From a benchmark so much larger that chance does not show."""
        rng = np.random.default_rng(99)
        sums = sum(self.counts(rng, self.hardness(rng), skill).sum(axis=0) for _ in range(1000))
        return float(self.official(np.asarray(sums)))


def chance(score: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-score)))


def mme_benchmark() -> Benchmark:
    """Two questions an image in 14 categories, some of which are easy; how hard an image is goes into both."""
    sizes = np.array(list(MME_IMAGES.values()))
    part = np.repeat(np.arange(len(sizes)), sizes)
    ease = np.array([3.0, 1.5, 1.0, 1.7, 2.0, 2.0, 1.8, 1.9, 1.0, 1.0, 1.0, -0.2, 0.5, 0.2])
    column = 4 * part

    def counts(rng: Generator, hardness: Array, skill: float) -> Array:
        right = (rng.random((2, len(part))) < chance(ease[part] + skill - hardness)).sum(axis=0)
        found = np.zeros((len(part), 4 * len(sizes)))
        rows = np.arange(len(part))
        found[rows, column], found[rows, column + 1], found[rows, column + 2], found[rows, column + 3] = (
            2,
            right,
            1,
            right == 2,
        )
        return found

    names = [name for name, size in MME_IMAGES.items() for _ in range(size)]
    return Benchmark(ALL_OF_MME.value, len(part), names, counts, lambda rng: rng.normal(0, 1.2, len(part)))


def pope_benchmark() -> Benchmark:
    """500 images with 6 questions in each of 3 splits; the three present objects are the same in all, the absent ones
    are not."""

    def counts(rng: Generator, hardness: Array, skill: float) -> Array:
        found = rng.binomial(3, chance(1.4 + skill - hardness)).astype(np.float64)
        parts = []
        for ease in (3.6, 2.8, 2.0):
            rejected = rng.binomial(3, chance(ease + skill - hardness))
            parts.append(
                np.stack([np.full(500, 6.0), found + rejected, found, found + 3 - rejected, np.full(500, 3.0)], axis=1)
            )
        return np.concatenate(parts, axis=1)

    return Benchmark(pope.mean_f1.value, 500, (), counts, lambda rng: rng.normal(0, 1.0, 500))


def mmhal_benchmark(copies: int = 1) -> Benchmark:
    """96 answers rated 0 to 6, most of them 0, 1 or 6, of `copies` questions about each image."""
    images = 96 // copies

    def counts(rng: Generator, hardness: Array, skill: float) -> Array:
        liking = 2.2 + skill - hardness + rng.normal(0, 2.0, (copies, images))
        return np.stack([np.clip(np.rint(liking), 0, 6).sum(axis=0), np.full(images, float(copies))], axis=1)

    return Benchmark(mmhal.score.value, images, (), counts, lambda rng: rng.normal(0, 1.5, images))


BENCHMARKS = {
    "MME": (mme_benchmark, 0.15),
    "POPE F1": (pope_benchmark, 0.1),
    "MMHal": (mmhal_benchmark, 0.5),
    "MMHal, two questions an image": (lambda: mmhal_benchmark(2), 0.5),
}


RUNS = 400
FAST = (
    Cell(kind="rate", images=20, questions=1, rho=0, rate=0.98),
    Cell(kind="rate", images=150, questions=1, rho=0, rate=0.98),
    Cell(kind="rate", images=40, questions=6, rho=0.8, rate=0.9),
    Cell(kind="rate", images=100, questions=6, rho=0.3, rate=0.5),
    Cell(kind="f1", images=100, questions=6, rho=0.3, rate=0.98),
    Cell(kind="mme", images=20, questions=2, rho=0.8, rate=0.9),
    Cell(kind="chair", images=100, questions=6, rho=0.3, rate=0.02),
    Cell(kind="ratings 0-6", images=40, questions=1, rho=0, rate=0.9),
    Cell(kind="ratings 1-5", images=100, questions=1, rho=0, rate=0.1),
    Cell(kind="rate", images=200, questions=1, rho=0, rate=0.9, gain=0.5, loss=0.01),
    Cell(kind="rate", images=100, questions=6, rho=0.3, rate=0.5, gain=0.3, loss=0.3),
)
ATTAINABLE = 0.045  # false alarms: with less, most runs have so few flips that no swaps can tell the models apart
FAST_PAIRS = (
    PairCell(kind="rate", images=100, questions=1, rho=0, rate=0.9, anew=0.5),
    PairCell(kind="rate", images=100, questions=6, rho=0.8, rate=0.5, anew=0.5),
    PairCell(kind="mme", images=100, questions=2, rho=0.3, rate=0.5, anew=0.5),
    PairCell(kind="chair", images=100, questions=6, rho=0.3, rate=0.1, anew=0.5),
)


def chance_of(share: float, runs: int) -> float:
    """How far a share of runs may be from what it should be: once in a thousand times it is further."""
    return 3.1 * math.sqrt(share * (1 - share) / runs)


def too_few(share: float, runs: int) -> bool:
    """Coverage below 93% by more than chance."""
    return share < 0.93 - chance_of(0.93, runs)


def faults(cell: PairCell, runs: int) -> list[str]:
    """What is wrong with verdicts by more than chance: false alarms that are no 3 to 5.5%, if 3% can be had; coverage;
    power more than 2 points below the best published test without more false alarms, if flips are not too few."""
    found, said = simulate(cell, runs), []
    if found.false_alarms > 0.055 + chance_of(0.055, runs):
        said.append("too many false alarms")
    if found.false_alarms < 0.03 - chance_of(0.03, runs) and found.attainable >= ATTAINABLE:
        said.append("too few false alarms")
    if too_few(found.coverage, runs):
        said.append("coverage")
    best = max((power for alarms, power in found.published.values() if alarms <= 0.055), default=0.0)
    if (
        found.power < best - 0.02 - chance_of(0.02, runs) and found.attainable >= ATTAINABLE
    ):  # on the same draws: few are found by one test alone
        said.append("power")
    return said


@pytest.mark.parametrize("cell", FAST, ids=str)
def test_the_truth_is_in_the_interval_as_often_as_it_says(cell: Cell) -> None:
    assert not too_few(covered(cell, RUNS)[0], RUNS)


@pytest.mark.parametrize("cell", FAST_PAIRS, ids=str)
def test_verdicts_alarm_and_find_as_often_as_they_say(cell: PairCell) -> None:
    assert faults(cell, RUNS) == []


@pytest.mark.slow
def test_no_cell_of_the_whole_grid_covers_too_little() -> None:
    assert [cell for cell in grid() if too_few(covered(cell, 200)[0], 200)] == []


@pytest.mark.slow
def test_no_pair_of_the_whole_grid_is_judged_wrongly() -> None:
    assert [(cell, said) for cell in pair_grid() if (said := faults(cell, 300))] == []


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_interval_of_a_difference_covers_the_truth_in_95_of_100_runs(name: str) -> None:
    make, skill = BENCHMARKS[name]
    benchmark, rng = make(), np.random.default_rng(1)
    truth = benchmark.truth(skill) - benchmark.truth(0)
    hits, simulations = 0, SLOW_SIMULATIONS.get(name, SIMULATIONS)
    for _ in range(simulations):
        base, other = benchmark.draw(rng, 0, skill)
        verdict = compare(base, other, benchmark.metric, higher_is_better=True, resamples=RESAMPLES)
        assert verdict.low is not None
        assert verdict.high is not None
        hits += verdict.low <= truth <= verdict.high
    assert 0.93 <= hits / simulations <= 0.97


@pytest.mark.parametrize("name", ("MMHal", "MMHal, two questions an image"))
def test_the_interval_of_a_score_covers_the_truth_in_95_of_100_runs(name: str) -> None:
    benchmark, rng = BENCHMARKS[name][0](), np.random.default_rng(2)
    truth, hits = benchmark.truth(0), 0
    for _ in range(SIMULATIONS):
        low, high = interval(benchmark.draw(rng, 0)[0], benchmark.metric)
        assert low is not None
        assert high is not None
        hits += low <= truth <= high
    assert 0.93 <= hits / SIMULATIONS <= 0.97


def test_answers_counted_as_if_each_stood_for_itself_would_cover_too_little() -> None:
    rng, hits = np.random.default_rng(3), 0
    metric, risky = mean_of("wrong", scale=100), np.array([0.05, 0.95])
    for _ in range(200):
        wrong = rng.random((6, 60)) < rng.choice(risky, size=60)  # six questions an image, which fail together
        answers = [{"image": f"{i}/{j}", "wrong": int(wrong[j, i])} for i in range(60) for j in range(6)]
        low, high = interval(answers, metric)
        assert low is not None
        assert high is not None
        hits += low <= 50 <= high
    assert hits / 200 < 0.8


@pytest.mark.parametrize("drift", (0.0, 0.3))
def test_the_judge_s_repeats_widen_the_interval_as_far_as_they_drift(drift: float) -> None:
    rng, truth, metric, hits, alone = np.random.default_rng(4), 0.4, mmhal.score, 0, 0
    simulations = 400
    for _ in range(simulations):
        liking = rng.normal(3, 1.5, 96)
        sides = []
        for skill in (0.0, truth):
            quality = liking + skill + rng.normal(0, 1, 96)
            repeats = [quality + rng.normal(0, 0.5, 96) + rng.normal(0, drift) for _ in range(5)]
            sides.append([[{"image": str(i), "rating": float(r)} for i, r in enumerate(repeat)] for repeat in repeats])
        base, other = sides
        verdict = compare_repeats(base, other, metric, higher_is_better=True, resamples=RESAMPLES)
        assert verdict.low is not None
        assert verdict.high is not None
        hits += verdict.low <= truth <= verdict.high
        once = compare_repeats(base[:1], other[:1], metric, higher_is_better=True, resamples=200)
        assert once.low is not None
        assert once.high is not None
        alone += once.low <= truth <= once.high
    assert 0.92 <= hits / simulations <= 0.98
    assert (alone / simulations < 0.8) == (drift > 0)  # one repeat does not know that the judge drifts


@pytest.mark.parametrize(("before", "after"), ((2, 2), (3, 3), (1, 3)))
@pytest.mark.parametrize("mood", (0.1, 0.4))
def test_two_equal_models_are_told_apart_in_5_of_100_runs_at_most_however_seldom_a_moody_judge_was_asked(
    before: int, after: int, mood: float
) -> None:
    rng, alarms, simulations = np.random.default_rng(5), 0, 300
    for _ in range(simulations):
        liking = rng.normal(3, 1.4, 40)
        base, other = (
            [
                [{"image": str(i), "rating": float(r)} for i, r in enumerate(liking + noise + rng.normal(0, mood))]
                for _ in range(repeats)
            ]
            for noise, repeats in ((rng.normal(0, 1, 40), before), (rng.normal(0, 1, 40), after))
        )
        alarms += (
            compare_repeats(base, other, mmhal.score, higher_is_better=True, resamples=RESAMPLES).outcome
            != "not separable"
        )
    assert alarms / simulations <= 0.08  # 5% and what 300 runs may be above it once in a hundred times


def entry(run: str, task: str, value: float) -> Entry:
    return Entry(
        run=run,
        model="m",
        task=task,
        version="1",
        metric="score",
        value=value,
        unit="%",
        higher_is_better=True,
        headline=True,
        samples=40,
        low=None,
        high=None,
        limit=None,
        judge=None,
        seconds=1.0,
        cost=0.0,
        created="2026-01-31T12:00:00+00:00",
        provenance={},
    )


def test_the_gate_alarms_without_reason_in_at_most_5_of_100_runs() -> None:
    rng, metric, tasks, images = np.random.default_rng(5), mean_of("right", scale=100), ("a", "b", "c"), 40
    alarms = 0
    for _ in range(SIMULATIONS):
        logs: dict[str, list[Sample]] = {"old": [], "new": []}
        entries: dict[str, list[Entry]] = {"old": [], "new": []}
        for task in tasks:
            hardness = rng.normal(0, 1.5, images)
            for run in logs:
                right = rng.binomial(2, chance(0.8 - hardness)).tolist()  # of two questions an image
                records = [{"score": {"image": str(i), "right": found / 2}} for i, found in enumerate(right)]
                logs[run] += [
                    Sample(
                        run=run, task=task, id=str(i), image=str(i), prompt="?", answer="!", records=record, reply=None
                    )
                    for i, record in enumerate(records)
                ]
                entries[run].append(entry(run, task, 50 * sum(right) / images))
        sides = [GateSource(entries=entries[run], samples=logs.__getitem__) for run in ("old", "new")]
        result = check(*sides, metrics=lambda task, name: metric, settings=GateSettings(resamples=300))
        assert (result.errors, result.compared) == ([], len(tasks))
        alarms += not result.passed
    assert 5 <= alarms <= 0.05 * SIMULATIONS  # it is alive: about half of the 5%, as a rise is no alarm


def test_a_panel_names_a_difference_without_reason_in_at_most_5_of_100_runs() -> None:
    rng, made = (
        np.random.default_rng(6),
        [mmhal_benchmark(), mmhal_benchmark(2), mmhal_benchmark(3), mmhal_benchmark(4)],
    )
    found = 0
    for seed in range(500):
        pairs = {}
        for number, benchmark in enumerate(made):
            base, other = benchmark.draw(rng, 0, 0)
            pairs[number] = Pair(base, other, benchmark.metric, True)
        verdicts = panel(pairs, resamples=300, seed=seed)
        found += any(verdict.outcome != "not separable" for verdict in verdicts.values())
    assert 8 <= found <= 35  # where 25 are expected at most, and the binomial spread is 5


def test_80_of_100_runs_find_the_minimum_detectable_effect() -> None:
    benchmark, rng = mmhal_benchmark(), np.random.default_rng(7)
    skill, effects, finds = 0.868, [], 0
    for _ in range(400):
        base, other = benchmark.draw(rng, 0, skill)
        verdict = compare(base, other, benchmark.metric, higher_is_better=True, resamples=RESAMPLES)
        assert verdict.mde is not None
        effects.append(verdict.mde)
        finds += verdict.outcome == "better"
    truth = benchmark.truth(skill) - benchmark.truth(0)
    assert truth == pytest.approx(np.mean(effects), rel=0.05)  # the skill is chosen so
    assert 0.74 <= finds / 400 <= 0.86
