"""How sharply a task sees: which difference a run of n images can show, and how many images a claim needs.

    power = paired([base_records], [other_records], mme.perception, unit="points")
    power.detectable()                          # 51.3: what the whole run shows
    power.detectable(images=200, tests=12)      # of so many images, as one of 12 tests under Holm's adjustment
    power.images_for(20, repeats=3)             # how many images a claim of 20 points needs, if judged three times

A difference is seen if 80% of runs find it significant at the 5% level, two-sided. The spread is the best that is
known: of two models' answers to the same questions; else of one model's, with a second model assumed independent of
it; else of assumed right and wrong answers. Images are drawn, each with as many questions as before, so that questions
about one image count as the cluster they are; what a judge adds is told apart where it rated answers several times.
Holm's adjustment asks a p of 0.05 / tests of the smallest one, which a difference meets whatever the others are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from leaderboards.board.board import Board, newest
from leaderboards.board.entry import Entry
from leaderboards.board.sample import Sample, repeats_of
from leaderboards.comparison.paired_logs import same_questions
from leaderboards.statistics.planned_test import Spread, smallest_difference
from leaderboards.statistics.resampling import (
    Array,
    Counted,
    CountsMetric,
    Record,
    bootstrap,
    common,
    value_of,
)
from leaderboards.statistics.significance import ALPHA, judge_spread
from support.errors import CompareError, did_you_mean

RANGES: Final = {"%": 100.0, "0-6": 6.0, "1-10": 9.0}
"""Unit -> how far its values lie apart at most, where an answer by itself has one."""

REPEATS: Final = (1, 2, 3, 5, 10)
"""Of the judge, as compared by `harness power`."""

_MOST_IMAGES: Final = 1e12
_RESAMPLES: Final = 10_000
_NO_SPREAD: Final = 1e-9  # of a standard error, relative to the scores


@dataclass(frozen=True, kw_only=True)
class Power:
    """What is known of the chance in a difference of two models on one metric."""

    spread: Spread
    """In `unit`, squared."""

    images: int

    samples: int
    """Questions about these."""

    unit: str

    basis: str
    """What the spread comes from and supposes, in words."""

    cluster: float | None = None
    """Variance by images over that of as many independent questions (Kish's design effect); None: not known, as the
    metric needs an image's questions together."""

    judge: str | None = None
    """Who rated the answers."""

    judged: int = 1
    """How often: with one repeat, what the judge adds is part of the spread over images, or not known."""

    @property
    def error(self) -> float:
        """Standard error of the difference on `images` images, as they were judged, in `unit`."""
        return math.sqrt(self.spread.variance(self.images, self.judged))

    def detectable(
        self,
        samples: int | None = None,
        *,
        images: float | None = None,
        repeats: int | None = None,
        tests: int = 1,
    ) -> float:
        """The true difference, in `unit`, that 80% of runs find: of so many questions or images (None: as many as
        here), judged `repeats` times (None: as here), as one of `tests` under Holm's adjustment.

        Infinite where no difference is found; CompareError for less than one question.
        """
        if samples is not None and samples < 1:
            raise CompareError(f"samples must be at least 1, but is {samples}")
        drawn = self.images * (samples or self.samples) / self.samples if images is None else images
        return smallest_difference(self.spread, drawn, repeats=repeats or self.judged, level=ALPHA / tests)

    def images_for(self, difference: float, *, repeats: int | None = None, tests: int = 1) -> int:
        """How many images let 80% of runs find a true difference.

        CompareError for a difference that is not more than 0, that no two scores can have, that is too small, or that
        no number of images shows, since the judge alone makes scores differ by as much.
        """
        if not 0 < difference <= self.widest or math.isinf(difference):
            bounds = "more than 0" + (f" and at most {self.widest:g}" if math.isfinite(self.widest) else "")
            raise CompareError(f"difference must be {bounds} {self.unit}".rstrip() + f", but is {difference:g}")
        asked = f"a difference of {difference:g} {self.unit}".rstrip()
        least = self.detectable(images=_MOST_IMAGES, repeats=repeats, tests=tests)
        if least > difference and self.spread.moods:
            raise CompareError(
                f"{asked} is found by no number of images: the judge's moods alone hide up to {least:.3g}; "
                "ask for more --judge-repeats"
            )
        if least > difference:
            raise CompareError(f"{asked} needs more than {_MOST_IMAGES:.0e} images")
        low, high = 1, 2
        while self.detectable(images=high, repeats=repeats, tests=tests) > difference:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            seen = self.detectable(images=middle, repeats=repeats, tests=tests) <= difference
            low, high = (low, middle) if seen else (middle, high)
        return high

    def samples_for(self, difference: float, *, repeats: int | None = None, tests: int = 1) -> int:
        """The same in questions, about whole images."""
        return math.ceil(self.images_for(difference, repeats=repeats, tests=tests) * self.samples / self.images)

    @property
    def correlation(self) -> float | None:
        """Of the differences of two questions about one image; None where it is not known."""
        each = self.samples / self.images
        return None if self.cluster is None or each <= 1 else (self.cluster - 1) / (each - 1)

    @property
    def widest(self) -> float:
        """The largest difference that two scores can have, in `unit`."""
        return RANGES.get(self.unit, math.inf)


def paired(
    base: Sequence[Sequence[Record]],
    other: Sequence[Sequence[Record]],
    metric: CountsMetric,
    *,
    unit: str,
    names: tuple[str, str] = ("", ""),
    judge: str | None = None,
) -> Power:
    """From two models' answers to the same questions, each in every repeat of its judge (one without repeats);
    CompareError where these show no chance at all."""
    sides = [[Counted(records, metric) for records in side] for side in (base, other)]
    every = [one for side in sides for one in side]
    images = common(every)
    parts = every[0].strata(images)
    counts = [[one.counts(images) for one in side] for side in sides]
    drawn = _drawn([own for side in counts for own in side], parts, metric)
    answers, ratings = _variances(drawn, len(base), len(other))
    scores = [np.array([float(value_of(metric, own.sum(axis=0))) for own in side]) for side in counts]
    if not math.sqrt(answers + ratings) > _NO_SPREAD * float(np.abs(np.concatenate(scores)).max(initial=0)):
        before, after = (float(side.mean()) for side in scores)
        raise CompareError(f"no spread between {_and(names)}: {len(images)} images, scores {before} and {after}")
    kept = set(images)
    asked = sum(image in kept for image in sides[0][0].images)
    spread = Spread(
        answers=answers * len(images),
        ratings=ratings * len(images),
        moods=max(0.0, judge_spread(scores)[0] ** 2 - ratings / 2),
    )
    return Power(
        spread=spread,
        images=len(images),
        samples=asked,
        unit=unit,
        basis=f"{_and(names)} on the same {len(images)} images, paired",
        cluster=_design_effect([side[0] for side in sides], images, answers + ratings),
        judge=judge,
        judged=min(len(base), len(other)),
    )


def single(
    repeats: Sequence[Sequence[Record]], metric: CountsMetric, *, unit: str, name: str = "", judge: str | None = None
) -> Power:
    """From one model's answers: a second one with as much spread, whose answers have nothing to do with the first
    one's.

    Two models fail on the same hard images, the more so if one was trained from the other, and that makes the true
    error smaller.
    """
    sides = [Counted(records, metric) for records in repeats]
    images = common(sides) if sides and sides[0].records else []
    counts = [side.counts(images) for side in sides] if images else []
    drawn = _drawn(counts, sides[0].strata(images), metric) if len(images) > 1 else np.zeros((1, 1))
    answers, ratings = _variances(drawn, drawn.shape[1], 0)
    who = name or "the model"
    if not math.sqrt(answers + ratings) > _NO_SPREAD * float(abs(drawn).max(initial=0)):
        raise CompareError(f"no spread in the answers of {who} ({len(images)} images)")
    scores = [np.array([float(value_of(metric, own.sum(axis=0))) for own in counts])]
    return Power(
        spread=Spread(
            answers=2 * answers * len(images),
            ratings=2 * ratings * len(images),
            moods=max(0.0, judge_spread(scores)[0] ** 2 - ratings),
        ),
        images=len(images),
        samples=len(sides[0].records),
        unit=unit,
        basis=f"{who} alone on {len(images)} images, and a second model supposed independent of it: "
        "with paired answers a run sees more",
        cluster=_design_effect(sides[:1], images, answers + ratings),
        judge=judge,
        judged=len(repeats),
    )


def _drawn(counts: Sequence[Array], parts: Any, metric: CountsMetric) -> Array:
    """Bootstrap scores [resamples, repeats] that all have a score."""
    if len(parts) < 2:
        return np.zeros((1, len(counts)))
    drawn = bootstrap(counts, parts, metric, resamples=_RESAMPLES, seed=0)
    drawn = drawn[np.isfinite(drawn).all(axis=1)]
    return drawn if len(drawn) else np.zeros((1, len(counts)))


def _variances(drawn: Array, first: int, second: int) -> tuple[float, float]:
    """(What the answers, and what one repeat's rating noise add) to the variance of second - first over images.

    `drawn` [resamples, first + second]: what two repeats have in common is the answers', the rest is noise. A side
    without repeats is taken to have as much noise as the other.
    """
    table = np.atleast_2d(np.cov(drawn, rowvar=False, bias=True))
    parts = [slice(0, first), slice(first, first + second)]
    own = [float(np.diag(table)[part].mean()) for part in parts if table[part, part].size]
    sizes = [size for size in (first, second) if size]
    noises = [
        one - float((table[part, part].sum() - np.trace(table[part, part])) / (size * (size - 1)))
        for one, part, size in zip(own, parts, sizes, strict=False)
        if size > 1
    ]
    ratings = max(0.0, float(np.mean(noises))) * len(own) if noises else 0.0
    whole = sum(own) - 2 * (float(table[parts[0], parts[1]].mean()) if second else 0.0)
    return max(0.0, whole - ratings), ratings


def _design_effect(sides: Sequence[Counted], images: Sequence[str], variance: float) -> float | None:
    """`variance` by images over that by questions; None where an image's counts are not the sums of its questions'."""
    kept = set(images)
    loose = [
        Counted([_alone(record, f"{at}") for at, record in enumerate(_in_order(side, kept))], side.metric)
        for side in sides
    ]
    if len({len(one.records) for one in loose}) > 1 or len(loose[0].records) == len(images):
        return 1.0 if len(loose[0].records) == len(images) else None
    for one, side in zip(loose, sides, strict=True):
        if not np.allclose(one.counts(one.images).sum(axis=0), side.counts(images).sum(axis=0)):
            return None
    names = loose[0].images
    drawn = _drawn([one.counts(names) for one in loose], loose[0].strata(names), sides[0].metric)
    alone = float((drawn[:, -1] - (drawn[:, 0] if len(sides) > 1 else 0)).var())
    return variance / alone if alone > 0 else None


def _in_order(side: Counted, kept: set[str]) -> list[Record]:
    """The records of these images, image by image, so that two sides' are of the same questions."""
    found = [(image, at) for at, image in enumerate(side.images) if image in kept]
    return [side.records[at] for _, at in sorted(found)]


def _alone(record: Record, name: str) -> Record:
    """The record as if its question were the only one about its image."""
    return {**{key: value for key, value in record.items() if key != "cluster"}, "image": name}


def supposed(
    samples: int,
    *,
    unit: str,
    accuracy: float = 50.0,
    discordance: float | None = None,
    per_image: float = 1,
    correlation: float = 0.0,
) -> Power:
    """Without any answers: each question is right or wrong as a share of `accuracy` % are.

    The score is taken for the mean over the questions, each of which has the least or the most it can have. A share of
    right answers is one; a rate over some of the questions sees less, and ratings in between see more. `discordance`:
    on how many % of the questions just one of two models is right; None: as if they were independent, which at 50% is
    the most there can be by chance. `per_image` questions are about each image, and their differences are correlated by
    `correlation`. CompareError for a unit in which one answer has no range.
    """
    if unit not in RANGES:
        raise CompareError(
            f"unit {unit!r} has no range to suppose (known: {', '.join(RANGES)}); score a model on the task first"
        )
    if samples < 1:
        raise CompareError(f"samples must be at least 1, but is {samples}")
    if not 0 < accuracy < 100:
        raise CompareError(f"accuracy must be between 0 and 100 %, but is {accuracy:g}")
    if discordance is not None and not 0 < discordance <= 100:
        raise CompareError(f"discordance must be more than 0 and at most 100 %, but is {discordance:g}")
    if not 1 <= per_image <= samples:
        raise CompareError(f"questions of an image must be between 1 and the {samples} samples, but are {per_image:g}")
    if not 0 <= correlation <= 1:
        raise CompareError(f"correlation must be between 0 and 1, but is {correlation:g}")
    apart = 2 * accuracy / 100 * (1 - accuracy / 100) if discordance is None else discordance / 100
    why = f", as independent ones that are {accuracy:g}% right do" if discordance is None else ""
    what = (
        "the score to be the share of right answers"
        if unit == "%"
        else f"every answer to be rated {' or '.join(unit.split('-'))}"
    )
    alone = (
        "every question to stand for itself"
        if per_image == 1
        else f"{per_image:g} questions about each image, correlated by {correlation:g}"
    )
    cluster = 1 + (per_image - 1) * correlation
    return Power(
        spread=Spread(answers=RANGES[unit] ** 2 * apart * cluster / per_image),
        images=max(1, round(samples / per_image)),
        samples=samples,
        unit=unit,
        basis=f"no answers: two models supposed to differ on {100 * apart:.3g}% of the questions{why}, {alone}, "
        f"and {what}",
        cluster=cluster,
    )


def of_boards(
    boards: Sequence[Board],
    task: str,
    metric: str,
    counts: CountsMetric,
    *,
    model: str | None = None,
    against: str | None = None,
) -> Power | None:
    """From the logs of whole runs on some boards: of `model` and `against`, or of `model` alone, or of the two models
    scored last.

    Only runs of the version and by the judge of the newest (or of `model`'s newest) count. None where no model was
    scored or none kept a log; CompareError for a named one that was not, or did not.
    """
    current = [
        (board, entry) for board in boards for entry in board.current() if (entry.task, entry.metric) == (task, metric)
    ]
    home, found = {entry.run: board for board, entry in current}, [entry for _, entry in current]
    if model is not None and model == against:
        raise CompareError(f"{model!r} cannot be held against itself")
    for name in (model, against):
        if name is not None and name not in {entry.model for entry in found}:
            scored = sorted({entry.model for entry in found})
            raise CompareError(f"no whole run of {name!r} on {task} {metric}{did_you_mean(name, scored)}")
    if not found:
        return None
    if model is None and against is not None:
        model, against = against, None
    latest = max((entry for entry in found if model in (None, entry.model)), key=lambda entry: entry.by_date)
    alike = [entry for entry in newest(found) if (entry.version, entry.judge) == (latest.version, latest.judge)]
    alike.sort(key=lambda entry: entry.by_date, reverse=True)
    named = [name for name in (model, against) if name is not None]
    chosen = [entry for name in named for entry in alike if entry.model == name] if named else alike
    if len(chosen) < len(named):
        raise CompareError(
            f"{model!r} and {against!r} were scored on different versions of {task}, or by different judges"
        )
    logs: dict[str, dict[str, Sample]] = {}
    for entry in chosen:
        if len(logs) < 2 and (log := _log_of(home[entry.run], entry)):
            logs[entry.model] = log
        elif entry.model in named:
            raise CompareError(f"the run of {entry.model!r} on {task} kept no sample log")
    if not logs:
        return None
    every = {model: repeats_of(log) for model, log in logs.items()}
    records: Sequence[Sequence[Record]] = same_questions([one for own in every.values() for one in own], metric)
    if len(every) == 2:
        first, second = every
        split = len(every[first])
        return paired(
            records[:split], records[split:], counts, unit=latest.unit, names=(first, second), judge=latest.judge
        )
    return single(records, counts, unit=latest.unit, name=next(iter(every)), judge=latest.judge)


def _log_of(board: Board, entry: Entry) -> dict[str, Sample]:
    """Its samples that have a record of its metric, by id; none where it kept no log."""
    try:
        samples: list[Sample] = board.samples(entry.run)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise CompareError(f"the samples of {entry.model!r} can't be read: {error}") from None
    return {sample.id: sample for sample in samples if sample.task == entry.task and entry.metric in sample.records}


def _and(names: tuple[str, str]) -> str:
    return " and ".join(names) if all(names) else "two models"
