"""The gate: has anything become worse since the baseline?

    old, new = source(Path("baseline.json")), source(Path("runs/x/board"))
    result = check(old, new, metrics=metric_of, settings=GateSettings(tolerances={"scenes_mme.total": 20}))
    result.passed, result.regressions, result.unmet, result.errors

A metric regresses when the same questions show it significantly worse, or when it falls by more than its tolerance. A
claim ("this task is better now") is unmet unless the same questions show it significantly better. What cannot be
compared is an error and never a pass: a missing result or sample log, another task version, judge, limit or number of
samples, other prompts or rules, other questions, fewer of them scored, a value that its own log does not give.

Of several runs with the same weights and settings the first is compared, on both sides, and that is told.

A guard of a checked metric (see `GuardTest`: recall beside CHAIR, the share of empty answers beside every score) fails
the gate, too, if it is worse, whatever the metric itself does; and a claim is unmet if one is.

A metric that says how a model answers, not how well (`entry.is_neutral`: how long, how often yes), is neither worse nor
better and no test fails it; a tolerance limits how far it may move, either way.

If nothing has changed, the tests fail at most 5% of gates, however many metrics they look at: p-values are two-sided
and Holm-adjusted, over all metrics and over all guards, so that each of these two families is worse by chance in 2.5%.
A tolerance is no test: one that is smaller than the scores' own spread fails by chance.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from leaderboards.board.board import newest
from leaderboards.board.entry import Entry, Key, is_neutral
from leaderboards.board.sample import Sample
from leaderboards.comparison.flips import flips
from leaderboards.comparison.guards import Guard, Guards, unguarded
from leaderboards.comparison.paired_logs import (
    Logs,
    Metrics,
    guard_values,
    match_logs,
    protocol_differences,
    value_in,
)
from leaderboards.comparison.reruns import describe_reruns
from leaderboards.gate.recomputed import LogCheck, Rescore, check_interval
from leaderboards.gate.result import Checked, Claim, GateResult, Unchecked, name_of
from leaderboards.gate.source import GateSource, metric_key
from leaderboards.statistics.guard_test import GuardTest
from leaderboards.statistics.matches import Matched
from leaderboards.statistics.resampling import Counted, CountsMetric
from leaderboards.statistics.significance import holm
from leaderboards.statistics.verdict import PairedTest, adjusted, verdicts
from support.errors import BoardError, CompareError, did_you_mean
from support.markdown import line, number

_MUST_BE_EQUAL = ("version", "judge", "unit", "higher_is_better", "limit", "samples")


@dataclass(frozen=True, kw_only=True)
class GateSettings:
    """What the gate allows and what it asks for."""

    tolerances: Mapping[str, float] = field(default_factory=dict)
    """"task.metric" -> the worsening allowed, in the metric's unit, from 0 up."""

    require_better: Collection[str] = ()
    """"task", for its headline metric, or "task.metric": these must be significantly better."""

    models: tuple[str, str] | None = None
    """The baseline's model and the current one to compare; None = each model with the one of its name."""

    resamples: int = 10_000
    """Of the bootstrap and of the permutation test."""

    def __post_init__(self) -> None:
        for name, allowed in self.tolerances.items():
            if not 0 <= allowed < math.inf:  # against nan nothing is ever worse
                raise BoardError(f"tolerance for {name}: must be a number from 0 up, is {allowed}")

    @property
    def named(self) -> set[str]:
        """Metrics, and tasks, that an option names."""
        return {*self.tolerances, *self.require_better}

    def selects(self, entry: Entry) -> bool:
        """True if the entry is of the baseline's model."""
        return self.models is None or entry.model == self.models[0]

    def checks(self, entry: Entry) -> bool:
        """True if the gate looks at the entry's metric: a headline, or named by an option."""
        return entry.headline or _dotted(entry) in self.named


class _IncomparableError(ValueError):
    """Why two entries cannot be compared."""


def check(
    baseline: GateSource,
    current: GateSource,
    *,
    metrics: Metrics,
    guards: Guards = unguarded,
    settings: GateSettings | None = None,
    rescore: Rescore | None = None,
) -> GateResult:
    """Compare each headline metric of the baseline, and each that the settings name, with its current score.

    `rescore` computes the records of logs anew; without it they are believed.

    Files that could not be read, and scores whose weights were replaced without a new score, are errors: what they
    asked for cannot be checked.
    """
    settings = settings or GateSettings()
    entries = _latest_versions([entry for entry in newest(baseline.entries) if settings.selects(entry)])
    neutral = {name for entry in entries if is_neutral(entry.metric) for name in _names(entry)}
    claimed = set(settings.require_better) - neutral
    logs = Logs(baseline.samples), Logs(current.samples)
    pairs = Pairs(
        logs=logs, metrics=metrics, guards=guards, settings=settings, claimed=claimed, check_logs=LogCheck(rescore)
    )
    checked, matches, incomparable = _pair_scores(entries, newest(current.entries), pairs)
    tests = verdicts(matches, resamples=settings.resamples)
    no_score = {key for key, test in tests.items() if test.difference is None}
    unchecked = [*_find_unreadable(baseline, current, settings), *_find_unknown(baseline, entries, settings)]
    unchecked += [
        Unchecked(name=f"require better {line(name)}", why=_NEUTRAL)
        for name in sorted(neutral & set(settings.require_better))
    ]
    unchecked += incomparable
    why = "the samples in common give no score"
    unchecked += [_leave_out(one.baseline, why, claimed) for one in checked if one.baseline.key in no_score]
    checked = [one for one in checked if one.baseline.key not in no_score]
    if not checked:
        unchecked.append(Unchecked(name="", why=_why_nothing(baseline, current)))
    of_claims = [one for one in checked if _names(one.baseline) & claimed]
    claims = adjusted({one.baseline.key: tests[one.baseline.key] for one in of_claims})
    sides = [
        (side, getattr(one, name).key)
        for one in checked
        for side, name in ((baseline, "baseline"), (current, "current"))
    ]
    reruns = [describe_reruns(side.reruns[key]) for side, key in sides if key in side.reruns]
    return GateResult(
        checked=[_with_flips(one, logs, metrics) for one in _with_verdicts(checked, tests)],
        claims=[
            Claim(baseline=one.baseline, current=one.current, verdict=claims[one.baseline.key]) for one in of_claims
        ],
        unchecked=unchecked,
        notes=[
            *(f"{note}; the first counts" for note in dict.fromkeys(reruns)),
            *dict.fromkeys(pairs.check_logs.notes),
        ],
    )


_NEUTRAL = "it says how a model answers, not how well, so nothing is better; a tolerance limits how far it may move"


def _why_nothing(baseline: GateSource, current: GateSource) -> str:
    left_out = max(baseline.partial_runs, current.partial_runs)
    more = f": {left_out} runs with --limit or on partial data are left out; --partial includes them"
    return "nothing was compared" + (more if left_out else "")


def _find_unreadable(baseline: GateSource, current: GateSource, settings: GateSettings) -> Iterator[Unchecked]:
    """Files that could not be read, and the baseline's scores whose weights were replaced."""
    for path, why in dict.fromkeys([*baseline.skipped, *current.skipped]):
        yield Unchecked(name=line(str(path)), why=f"can't be read: {line(why)}")
    for entry in baseline.replaced:
        if settings.selects(entry) and settings.checks(entry):
            own = line(str(entry.weights))
            why = f"the baseline's score is of weights {own}, its newest run has others, or other settings"
            yield Unchecked(name=name_of(entry), why=why)


def _find_unknown(baseline: GateSource, entries: Sequence[Entry], settings: GateSettings) -> Iterator[Unchecked]:
    """What the settings name and the baseline does not have."""
    if settings.models is not None and not entries:
        models = list(dict.fromkeys(entry.model for entry in baseline.entries))
        why = f"not in the baseline{did_you_mean(settings.models[0], models)}"
        yield Unchecked(name=f"model {line(settings.models[0])}", why=why)
    for what, given, known in (
        ("tolerance for", settings.tolerances, {_dotted(entry) for entry in entries}),
        ("require better", settings.require_better, {name for entry in entries for name in _names(entry)}),
    ):
        for name in sorted(set(given) - known):
            yield Unchecked(name=f"{what} {line(name)}", why=f"not in the baseline{did_you_mean(name, known)}")


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """What is needed to compare scores."""

    logs: tuple[Logs, Logs]
    metrics: Metrics
    guards: Guards
    settings: GateSettings
    claimed: Collection[str]
    """What must be better."""
    check_logs: LogCheck

    def guards_of(self, entry: Entry) -> Sequence[Guard]:
        """The guards of an entry's metric; none where neither direction is better."""
        return () if is_neutral(entry.metric) else self.guards(entry.task, entry.metric)

    def compare_guards(self, old: Entry, new: Entry) -> list[GuardTest]:
        """The guards by the values that both entries have."""
        found = [guard.compare_values(old.guards, new.guards) for guard in self.guards_of(old)]
        return [guard for guard in found if guard is not None]


def _pair_scores(
    entries: Sequence[Entry], current: Sequence[Entry], pairs: Pairs
) -> tuple[list[Checked], dict[Key, Matched], list[Unchecked]]:
    """Each metric with its current score, the counts to test it by, and what cannot be compared."""
    checked: list[Checked] = []
    matches: dict[Key, Matched] = {}
    incomparable: list[Unchecked] = []
    settings = pairs.settings
    for old in filter(settings.checks, entries):
        tolerance = settings.tolerances.get(_dotted(old))
        try:
            new = _find_current(old, current, settings.models[1] if settings.models else old.model)
            worsening = _worsening(old, new)
            match = _match(old, new, pairs)
            if match is None and tolerance is None:
                raise _IncomparableError("no samples and no tolerance to compare by")
            if match is None and _names(old) & set(pairs.claimed):
                raise _IncomparableError("no samples to compare by")
        except _IncomparableError as error:
            incomparable.append(_leave_out(old, line(str(error)), pairs.claimed))
            continue
        untested = pairs.compare_guards(old, new) if match is None else ()
        one = Checked(baseline=old, current=new, worsening=worsening, verdict=None, tolerance=tolerance, flips=[])
        checked.append(replace(one, untested=untested))
        if match is not None:
            matches[old.key] = match
    return checked, matches, incomparable


def _leave_out(old: Entry, why: str, claimed: Collection[str]) -> Unchecked:
    return Unchecked(name=name_of(old), why=why, claimed=bool(_names(old) & set(claimed)))


def _with_guards_adjusted(tests: Mapping[Key, PairedTest]) -> dict[Key, PairedTest]:
    """With the guards' p-values two-sided, and adjusted over all guards of all metrics."""
    each = {(key, guard.name): 2 * guard.p for key, test in tests.items() for guard in test.guards}
    found = dict(zip(each, holm(list(each.values())), strict=True))
    return {
        key: replace(test, guards=tuple(replace(guard, p=found[key, guard.name]) for guard in test.guards))
        for key, test in tests.items()
    }


def _with_verdicts(checked: Sequence[Checked], tests: Mapping[Key, PairedTest]) -> list[Checked]:
    """With p-values adjusted over the metrics that can fail the gate, and over the others by themselves."""
    families: dict[bool, dict[Key, PairedTest]] = {True: {}, False: {}}
    for one in checked:
        if (key := one.baseline.key) in tests:
            can_not_fail = one.neutral or one.baseline.run == one.current.run
            families[can_not_fail][key] = tests[key]
    found = _with_guards_adjusted(adjusted(families[False]) | adjusted(families[True]))
    return [replace(one, verdict=found.get(one.baseline.key)) for one in checked]


def _with_flips(one: Checked, logs: tuple[Logs, Logs], metrics: Metrics) -> Checked:
    """With what became of each question, if the metric became worse."""
    if not one.reason or one.neutral or one.verdict is None or one.worsening <= 0:
        return one
    before, after = logs[0].of(one.baseline), logs[1].of(one.current)
    return replace(one, flips=flips(one.baseline, before, after, metrics(one.baseline.task, one.baseline.metric)))


def _latest_versions(entries: Sequence[Entry]) -> list[Entry]:
    """Of each model, metric and judge the version scored last: that is the one to compare with."""
    latest: dict[tuple[object, ...], Entry] = {}
    for entry in sorted(entries, key=lambda entry: entry.by_sequence):
        latest[*metric_key(entry), entry.judge] = entry
    keys = {entry.key for entry in latest.values()}
    return [entry for entry in entries if entry.key in keys]


def _names(entry: Entry) -> set[str]:
    """How --require-better may name it."""
    return {_dotted(entry), entry.task} if entry.headline else {_dotted(entry)}


def _find_current(old: Entry, current: Sequence[Entry], model: str) -> Entry:
    """The current entry to compare with `old`."""
    found = [entry for entry in current if metric_key(entry) == (model, old.task, old.metric)]
    if not found:
        raise _IncomparableError(f"missing in the current results of {model}")
    new = next((entry for entry in found if (entry.version, entry.judge) == (old.version, old.judge)), found[-1])
    for name in _MUST_BE_EQUAL:
        if getattr(old, name) != getattr(new, name):
            raise _IncomparableError(f"{name} was {getattr(old, name)!r}, is {getattr(new, name)!r}")
    if differences := protocol_differences(old, new):
        raise _IncomparableError(f"{'; '.join(differences)}: score the baseline anew")
    if new.scored < old.scored:  # the unanswered may be the hard ones
        raise _IncomparableError(f"{_count_scored(old)} were scored, now only {_count_scored(new)}")
    return new


def _count_scored(entry: Entry) -> str:
    return f"{entry.scored} of {entry.samples} ({entry.unscored} unscored, {entry.failed} failed)"


def _match(old: Entry, new: Entry, pairs: Pairs) -> Matched | None:
    """The counts of both sides; None if a side kept no samples, or the metric is not known."""
    metric = pairs.metrics(old.task, old.metric)
    try:
        before, after = pairs.logs[0].of(old), pairs.logs[1].of(new)
        for entry, log in ((old, before), (new, after)):
            if log and len(log) != entry.samples:
                raise CompareError(f"run {entry.run}: its log has {len(log)} of its {entry.samples} samples")
        if before and not after:
            raise CompareError(f"run {new.run} kept no sample log, and the baseline's run {old.run} did")
        if metric is None or not (before and after):
            return None
        _check_questions(before, after, same_model=old.model == new.model)
        pairs.check_logs(old, new, before, after)
        _check_ratings(before, after, old.metric)
        for entry, log in ((old, before), (new, after)):
            _check_value(entry, log, metric)
            check_interval(entry, log, metric)
            _check_guards(entry, log, pairs.guards_of(entry))
        return match_logs(
            before,
            after,
            old.metric,
            lambda records: Counted(records, metric),
            higher_is_better=old.higher_is_better,
            guards=pairs.guards_of(old),
        )
    except (ValueError, OSError) as error:
        raise _IncomparableError(str(error)) from error


def _check_questions(old: Mapping[str, Sample], new: Mapping[str, Sample], *, same_model: bool) -> None:
    """Both must have been asked the same. Prompts hold the model's chat template, so those of two models differ."""
    for name in [*old, *new]:
        if name not in old or name not in new:
            raise CompareError(f"sample {name!r} is in one log only")
        if same_model and old[name].prompt != new[name].prompt:
            raise CompareError(
                f"sample {name!r} was asked {_shorten(old[name].prompt)!r}, is asked {_shorten(new[name].prompt)!r}"
            )


def _check_ratings(old: Mapping[str, Sample], new: Mapping[str, Sample], name: str) -> None:
    """No fewer answers may count than in the baseline. An answer that was stopped early has no length, so a neutral
    metric may have fewer."""
    before, after = (
        sum(name in s.records and all(name in one.records for one in s.repeats) for s in log.values())
        for log in (old, new)
    )
    if after < before and not is_neutral(name):
        raise CompareError(f"{before} samples of the baseline's log are rated, now only {after}")


def _check_value(entry: Entry, log: Mapping[str, Sample], metric: CountsMetric) -> None:
    """The log must give the entry's value: a tolerance looks at the one, the test at the other."""
    found = value_in(log, entry.metric, metric)
    if entry.value is None:
        return
    if found is None:
        raise CompareError(f"run {entry.run}: its value is {entry.value:g} {entry.unit}, but its log gives none")
    digits = getattr(metric, "digits", None)  # official scripts round
    rounding = 0.0 if digits is None else 0.5 * 10.0**-digits
    if not math.isclose(found, entry.value, rel_tol=1e-6, abs_tol=1e-6 + rounding):
        raise CompareError(
            f"run {entry.run}: its value is {entry.value:g} {entry.unit}, but its log gives {found:g}: score it anew"
        )


def _check_guards(entry: Entry, log: Mapping[str, Sample], guards: Sequence[Guard]) -> None:
    """The log must give the values that the entry has of its guards."""
    found = guard_values(log, [guard for guard in guards if guard.name in entry.guards])
    for name, value in entry.guards.items():
        own = found.get(name)
        if own is None or not math.isclose(own, value, rel_tol=1e-6, abs_tol=1e-6):
            given = "none" if own is None else f"{own:g}"
            raise CompareError(f"run {entry.run}: its {name} is {value:g}, but its log gives {given}: score it anew")


def _shorten(prompt: str) -> str:
    return prompt if len(prompt) <= 80 else f"{prompt[:38]} … {prompt[-38:]}"


def _worsening(old: Entry, new: Entry) -> float:
    if old.value is None or new.value is None:
        raise _IncomparableError(f"value was {number(old.value, old.unit)}, is {number(new.value, new.unit)}")
    if is_neutral(old.metric):
        return abs(new.value - old.value)
    return old.value - new.value if old.higher_is_better else new.value - old.value


def _dotted(entry: Entry) -> str:
    return f"{entry.task}.{entry.metric}"
