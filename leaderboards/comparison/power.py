"""How sharply a task sees: which difference a run of n samples can show, and how many samples a claim needs.

    power = paired(base_records, other_records, mme.perception, unit="points")
    power.detectable()                 # 51.3: what the whole run shows
    power.detectable(samples=500)      # of so many questions
    power.samples_for(20)              # how many questions a claim of 20 points needs

A difference is seen if 80% of runs would find it significant at the 5% level, two-sided, as one metric taken alone: it
is 2.80 standard errors, as `PairedTest.mde`. In a panel of several metrics each needs a little more. The error is the
best that is known: of two models' answers to the same questions; else of one model's, with a second model assumed
independent of it; else of assumed right and wrong answers. It shrinks with the root of the number of images, each with
as many questions as before.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from leaderboards.board.board import Board, newest
from leaderboards.board.entry import Entry
from leaderboards.board.sample import Sample
from leaderboards.statistics.resampling import CountsMetric, Record, bootstrap, counts_of, image_of, strata
from leaderboards.statistics.significance import DETECTED
from leaderboards.statistics.verdict import compare
from support.errors import CompareError, did_you_mean
from support.markdown import cell, number, table

RANGES: Final = {"%": 100.0, "0-6": 6.0, "1-10": 9.0}
"""Unit -> how far its values lie apart at most, where an answer by itself has one."""


_MOST_IMAGES: Final = 1e12


@dataclass(frozen=True, kw_only=True)
class Power:
    """What is known of the chance in a difference of two models on one metric."""

    error: float
    """Standard error of the difference on `images` images, in `unit`."""

    images: int

    samples: int
    """Questions about these."""

    unit: str

    basis: str
    """What the error comes from and supposes, in words."""

    def detectable(self, samples: int | None = None) -> float:
        """The true difference, in `unit`, that 80% of runs of so many questions (None: of as many as here) find;
        CompareError below 1."""
        if samples is not None and samples < 1:
            raise CompareError(f"samples must be at least 1, but is {samples}")
        return DETECTED * self.error * math.sqrt(self.samples / (samples or self.samples))

    def samples_for(self, difference: float) -> int:
        """How many questions, about whole images, let 80% of runs find a true difference.

        CompareError for a difference that is not more than 0, that no two scores can have, or that is too small.
        """
        if not 0 < difference <= self.widest or math.isinf(difference):
            bounds = "more than 0" + (f" and at most {self.widest:g}" if math.isfinite(self.widest) else "")
            raise CompareError(f"difference must be {bounds} {self.unit}".rstrip() + f", but is {difference:g}")
        needed = self.images * (self.detectable() / difference) * (self.detectable() / difference)
        if needed > _MOST_IMAGES:
            raise CompareError(
                f"a difference of {difference:g} {self.unit}".rstrip() + f" needs more than {_MOST_IMAGES:.0e} images"
            )
        images = max(1, math.ceil(needed - 1e-9))  # a whole number, however floats fall
        return math.ceil(images * self.samples / self.images)

    @property
    def widest(self) -> float:
        """The largest difference that two scores can have, in `unit`."""
        return RANGES.get(self.unit, math.inf)


def paired(
    base: Sequence[Record],
    other: Sequence[Record],
    metric: CountsMetric,
    *,
    unit: str,
    names: tuple[str, str] = ("", ""),
) -> Power:
    """From two models' answers to the same questions; CompareError where these show no chance at all."""
    verdict = compare(base, other, metric, higher_is_better=True)
    if verdict.mde is None:
        raise CompareError(
            f"no spread between {_and(names)}: {verdict.images} images, scores {verdict.base} and {verdict.other}"
        )
    asked = {image_of(record) for record in other}
    samples = sum(image_of(record) in asked for record in base)
    basis = f"{_and(names)} on the same {verdict.images} images, paired"
    return Power(error=verdict.mde / DETECTED, images=verdict.images, samples=samples, unit=unit, basis=basis)


def single(records: Sequence[Record], metric: CountsMetric, *, unit: str, name: str = "") -> Power:
    """From one model's answers: a second one with as much spread, whose answers have nothing to do with the first
    one's.

    Two models fail on the same hard images, the more so if one was trained from the other, and that makes the true
    error smaller.
    """
    images = list(dict.fromkeys(map(image_of, records)))
    counts = [counts_of(records, images, metric)]
    drawn = (
        bootstrap(counts, strata(records, images), metric, resamples=10_000, seed=0)
        if len(images) > 1
        else np.empty((0, 1))
    )
    drawn = drawn[np.isfinite(drawn)]
    error = float(drawn.std()) if drawn.size else 0.0
    who = name or "the model"
    if error <= 1e-9 * float(abs(drawn).max(initial=0)):
        raise CompareError(f"no spread in the answers of {who} ({len(images)} images)")
    basis = (
        f"{who} alone on {len(images)} images, and a second model supposed independent of it: "
        "with paired answers a run sees more"
    )
    return Power(error=math.sqrt(2) * error, images=len(images), samples=len(records), unit=unit, basis=basis)


def supposed(samples: int, *, unit: str, accuracy: float = 50.0, discordance: float | None = None) -> Power:
    """Without any answers: each question stands for itself, and is right or wrong as a share of `accuracy` % are.

    The score is taken for the mean over the questions, each of which has the least or the most it can have. A share of
    right answers is one; a rate over some of the questions sees less, and ratings in between see more. `discordance`:
    on how many % of the questions just one of two models is right; None: as if they were independent, which at 50% is
    the most there can be by chance. Questions about one image depend on each other, and that makes the true error
    larger. CompareError for a unit in which one answer has no range.
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
    apart = 2 * accuracy / 100 * (1 - accuracy / 100) if discordance is None else discordance / 100
    why = f", as independent ones that are {accuracy:g}% right do" if discordance is None else ""
    what = (
        "the score to be the share of right answers"
        if unit == "%"
        else f"every answer to be rated {' or '.join(unit.split('-'))}"
    )
    differ = f"no answers: two models supposed to differ on {100 * apart:.3g}% of the questions{why}"
    basis = f"{differ}, every question to stand for itself, and {what}"
    return Power(
        error=RANGES[unit] * math.sqrt(apart / samples), images=samples, samples=samples, unit=unit, basis=basis
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
    logs: dict[str, list[Record]] = {}
    for entry in chosen:
        if len(logs) < 2 and (records := _records(home[entry.run], entry)):
            logs[entry.model] = records
        elif entry.model in named:
            raise CompareError(f"the run of {entry.model!r} on {task} kept no sample log")
    match list(logs.items()):
        case [(first, one), (second, two)]:
            return paired(one, two, counts, unit=latest.unit, names=(first, second))
        case [(first, one)]:
            return single(one, counts, unit=latest.unit, name=first)
    return None


def render(power: Power, *, samples: int | None = None, difference: float | None = None) -> str:
    """Markdown: what runs of several sizes see, and what differences need; `samples` and `difference` are in it where
    given."""
    whole = power.detectable()
    sizes = {math.ceil(power.samples * share) for share in (0.1, 0.25, 0.5, 1)} | (
        {samples} if samples is not None else set()
    )
    claims = {claim for share in (2, 1, 0.5) if (claim := whole * share) <= power.widest}
    claims |= {difference} if difference is not None else set()
    unit = cell(power.unit)
    seen = [
        [f"{size:,}", _exact(sees) if (sees := power.detectable(size)) <= power.widest else "none"]
        for size in sorted(sizes)
    ]
    needed = [[_exact(claim), f"{power.samples_for(claim):,}"] for claim in sorted(claims, reverse=True)]
    scale = unit if unit[:1].isdecimal() else ""  # "0-6" after a number would be one more number
    error = f"{_exact(power.error)} " + (f"on the scale {scale}" if scale else unit)
    asked = f"{power.samples:,} samples" + (f", {power.images:,} images" if power.images != power.samples else "")
    about = f"Standard error of a difference: {error.rstrip()}, from {cell(power.basis)} ({asked})."
    meaning = "A difference is seen if 80% of runs find it at the 5% level (two-sided, this metric alone)."
    shown = f"({scale})" if scale else unit
    by_size = table(["samples", f"smallest difference seen {shown}".rstrip()], seen)
    by_claim = table([f"difference {shown}".rstrip(), "samples needed"], needed)
    return "\n\n".join((about, by_size, by_claim, meaning) if claims else (about, by_size, meaning))


def _exact(value: float) -> str:
    """Three digits, and never 0."""
    return number(value, "points") if value >= 10 else f"{value:.3g}"


def _records(board: Board, entry: Entry) -> list[Record]:
    try:
        samples: list[Sample] = board.samples(entry.run)
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise CompareError(f"the samples of {entry.model!r} can't be read: {error}") from None
    return [
        sample.records[entry.metric]
        for sample in samples
        if sample.task == entry.task and entry.metric in sample.records
    ]


def _and(names: tuple[str, str]) -> str:
    return " and ".join(names) if all(names) else "two models"
