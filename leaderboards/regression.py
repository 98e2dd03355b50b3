"""The gate: has anything become worse since the baseline?

    result = check(baseline, current, samples=(old.samples, new.samples), metrics=metric_of, tolerances={"scenes_mme.total": 20})
    result.passed, result.regressions, result.errors

A metric regresses when the same questions show it significantly worse, or when it falls by more than its tolerance. What cannot be
compared is an error and never a pass: a missing result, another task version, judge, limit or number of samples, other questions, fewer of
them scored.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from leaderboards.board import newest
from leaderboards.entry import Entry, Key
from leaderboards.report import cell, line, number, p_value, span, table
from leaderboards.sample import Sample
from leaderboards.verdict import CountsMetric, Record, Verdict, adjusted, compare

Loader = Callable[[str], list[Sample]]
"""Run id -> its samples; none, or a FileNotFoundError, where the run has no log."""

_EQUAL = ("version", "judge", "unit", "higher_is_better", "limit", "samples")


@dataclass(frozen=True, kw_only=True)
class Regression:
    """One metric that became worse."""

    baseline: Entry
    current: Entry

    worsening: float
    """In the metric's unit; positive = worse."""

    verdict: Verdict | None
    """On the same questions; None = there were no samples to compare."""

    tolerance: float | None
    """The worsening that was allowed; None = none was set."""

    def __str__(self) -> str:
        unit = self.baseline.unit
        change = f"{number(self.baseline.value, unit)} -> {number(self.current.value, unit)} {line(unit)}".rstrip()
        return f"{_name(self.baseline, self.current)}: {change}, worse by {number(self.worsening, unit)}: {self.reason}"

    @property
    def reason(self) -> str:
        """Why it counts."""
        unit, reasons = self.baseline.unit, []
        if self.verdict is not None and self.verdict.outcome == "worse":
            difference = number(self.verdict.difference, unit, signed=True) + span(self.verdict.low, self.verdict.high, unit)
            reasons.append(f"significant ({difference}, p = {p_value(self.verdict.p)}, {self.verdict.images} images)")
        if self.tolerance is not None and _exceeds(self.worsening, self.tolerance):
            reasons.append(f"over the tolerance of {self.tolerance:g}")
        return ", ".join(reasons)


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """What the gate found."""

    regressions: list[Regression]

    errors: list[str]
    """One line for each pair that could not be compared."""

    compared: int
    """Metrics that could."""

    @property
    def passed(self) -> bool:
        """Whether everything was compared and nothing became worse."""
        return not self.regressions and not self.errors


class _IncomparableError(ValueError):
    """Why two entries cannot be compared."""


@dataclass(frozen=True, kw_only=True)
class _Comparison:
    baseline: Entry
    current: Entry
    worsening: float
    tolerance: float | None


def check(
    baseline: Sequence[Entry],
    current: Sequence[Entry],
    *,
    samples: tuple[Loader, Loader],
    metrics: Callable[[str, str], CountsMetric | None],
    tolerances: Mapping[str, float],
    models: tuple[str, str] | None = None,
    resamples: int = 10_000,
) -> GateResult:
    """Compare each headline metric of `baseline`, and each in `tolerances`, with its like in `current`.

    `samples` are the two sides' logs; `metrics` gives the metric of a task by name, None if it is not known; `tolerances` maps
    "task.metric" to the worsening allowed, in the metric's unit; `models` names the baseline's model to take and the current one to hold
    against it, where they are not called the same.
    """
    loaders = cache(samples[0]), cache(samples[1])  # a run's log serves all its metrics
    now = newest(current)
    wanted = [entry for entry in newest(baseline) if _is_wanted(entry, tolerances, models)]
    comparisons: list[_Comparison] = []
    verdicts: dict[Key, Verdict] = {}
    unknown = tolerances.keys() - {_dotted(entry) for entry in wanted}
    errors = [f"tolerance for {line(name)}: not in the baseline" for name in sorted(unknown)]
    for old in wanted:
        try:
            new = _counterpart(old, now, models[1] if models else old.model)
            worsening, tolerance = _worsening(old, new), tolerances.get(_dotted(old))
            verdict = _verdict(old, new, loaders, metrics(old.task, old.metric), resamples)
            if verdict is None and tolerance is None:
                raise _IncomparableError("no samples and no tolerance to compare by")
        except _IncomparableError as error:
            errors.append(f"{_name(old, None)}: {line(str(error))}")
            continue
        comparisons.append(_Comparison(baseline=old, current=new, worsening=worsening, tolerance=tolerance))
        if verdict is not None:
            verdicts[old.key] = verdict
    if not comparisons:
        errors.append("nothing was compared")
    return GateResult(regressions=_regressions(comparisons, adjusted(verdicts)), errors=errors, compared=len(comparisons))


def render(result: GateResult) -> str:
    """The result as markdown."""
    verb = "passed" if result.passed else "failed"
    counts = f"{result.compared} compared, {len(result.regressions)} worse, {len(result.errors)} errors"
    parts = [f"**Gate {verb}**: {counts}."]
    if result.regressions:
        rows = [
            [
                cell(_name(r.baseline, r.current)),
                number(r.baseline.value, r.baseline.unit),
                number(r.current.value, r.current.unit),
                cell(r.baseline.unit),
                cell(r.reason),
            ]
            for r in result.regressions
        ]
        parts.append(table(["worse", "baseline", "current", "unit", "why"], rows))
    if result.errors:
        parts.append("\n".join(f"- error: {cell(error)}" for error in result.errors))
    return "\n\n".join(parts)


def _is_wanted(entry: Entry, tolerances: Mapping[str, float], models: tuple[str, str] | None) -> bool:
    return (models is None or entry.model == models[0]) and (entry.headline or _dotted(entry) in tolerances)


def _counterpart(old: Entry, current: Sequence[Entry], model: str) -> Entry:
    """The current entry to hold against `old`."""
    found = [entry for entry in current if (entry.model, entry.task, entry.metric) == (model, old.task, old.metric)]
    if not found:
        raise _IncomparableError(f"missing in the current results of {model}")
    new = next((entry for entry in found if (entry.version, entry.judge) == (old.version, old.judge)), found[-1])
    for field in _EQUAL:
        if getattr(old, field) != getattr(new, field):
            raise _IncomparableError(f"{field} was {getattr(old, field)!r}, is {getattr(new, field)!r}")
    if new.scored < old.scored:  # the unanswered may be the hard ones
        raise _IncomparableError(f"{_scored(old)} were scored, now only {_scored(new)}")
    return new


def _scored(entry: Entry) -> str:
    return f"{entry.scored} of {entry.samples} ({entry.unscored} unscored, {entry.failed} failed)"


def _verdict(old: Entry, new: Entry, loaders: tuple[Loader, Loader], metric: CountsMetric | None, resamples: int) -> Verdict | None:
    """None where there is nothing to compare by."""
    if metric is None:
        return None
    try:
        before, after = _log(loaders[0], old), _log(loaders[1], new)
        if not (before and after):
            return None
        base, other = _same_questions(before, after, old.metric)
        verdict = compare(base, other, metric, higher_is_better=old.higher_is_better, resamples=resamples)
    except (ValueError, OSError) as error:
        raise _IncomparableError(str(error)) from error
    if verdict.difference is None:
        raise _IncomparableError("the samples in common give no score")
    return verdict


def _log(load: Loader, entry: Entry) -> dict[str, Sample]:
    """The entry's samples by id."""
    try:
        samples = [sample for sample in load(entry.run) if sample.task == entry.task]
    except FileNotFoundError:
        return {}
    by_id = {sample.id: sample for sample in samples}
    if len(by_id) < len(samples):
        raise _IncomparableError(f"run {entry.run} logs a sample of {entry.task} twice")
    return by_id


def _same_questions(old: Mapping[str, Sample], new: Mapping[str, Sample], metric: str) -> tuple[list[Record], list[Record]]:
    """Both sides' records, of those images for which both have the same; the rest lacks a rating on one side."""
    for name in [*old, *new]:
        if name not in old or name not in new:
            raise _IncomparableError(f"sample {name!r} is in one log only")
        if old[name].image != new[name].image:
            raise _IncomparableError(f"sample {name!r} was about image {old[name].image!r}, is about {new[name].image!r}")
    one_sided = {
        str(record["image"])
        for name in old
        if (metric in old[name].records) != (metric in new[name].records)
        for record in _records((old[name], new[name]), metric)
    }
    base, other = (
        [record for record in _records((log[name] for name in old), metric) if str(record["image"]) not in one_sided] for log in (old, new)
    )
    return base, other


def _records(samples: Iterable[Sample], metric: str) -> list[Record]:
    return [sample.records[metric] for sample in samples if metric in sample.records]


def _regressions(comparisons: Sequence[_Comparison], verdicts: Mapping[Key, Verdict]) -> list[Regression]:
    found = []
    for comparison in comparisons:
        verdict, tolerance = verdicts.get(comparison.baseline.key), comparison.tolerance
        is_worse = verdict is not None and verdict.outcome == "worse"
        if is_worse or (tolerance is not None and _exceeds(comparison.worsening, tolerance)):
            found.append(
                Regression(
                    baseline=comparison.baseline,
                    current=comparison.current,
                    worsening=comparison.worsening,
                    verdict=verdict,
                    tolerance=tolerance,
                )
            )
    return found


def _worsening(old: Entry, new: Entry) -> float:
    if old.value is None or new.value is None:
        raise _IncomparableError(f"value was {number(old.value, old.unit)}, is {number(new.value, new.unit)}")
    return old.value - new.value if old.higher_is_better else new.value - old.value


def _exceeds(worsening: float, tolerance: float) -> bool:
    """A fall by exactly the tolerance is allowed, however the floats fall."""
    return worsening > tolerance and not math.isclose(worsening, tolerance, rel_tol=1e-9, abs_tol=1e-9)


def _dotted(entry: Entry) -> str:
    return f"{entry.task}.{entry.metric}"


def _name(old: Entry, new: Entry | None) -> str:
    model = old.model if new is None or new.model == old.model else f"{old.model} -> {new.model}"
    return line(f"{model} {old.task} {old.metric}")
