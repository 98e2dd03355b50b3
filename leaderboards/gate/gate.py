"""The gate: has anything become worse since the baseline?

    old, new = source(Path("baseline.json")), source(Path("runs/x/board"))
    result = check(old.entries, new.entries, samples=(old.samples, new.samples), metrics=metric_of,
    tolerances={"scenes_mme.total": 20}) result.passed, result.regressions, result.unmet, result.errors

A metric regresses when the same questions show it significantly worse, or when it falls by more than its tolerance. A
claim ("this task is better now") is unmet unless the same questions show it significantly better. What cannot be
compared is an error and never a pass: a missing result or sample log, another task version, judge, limit or number of
samples, other prompts or rules, other questions, fewer of them scored, a value that its own log does not give.

A metric that says how a model answers, not how well (`entry.is_neutral`: how long, how often yes), is neither worse nor
better and no test fails it; a tolerance limits how far it may move, either way.

Where nothing has changed, the tests fail 5% of gates at most, however many metrics they look at. A tolerance is no
test: one that is smaller than the scores' own spread fails as often as chance will have it.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from leaderboards.board.board import Board, newest, read_log, read_run
from leaderboards.board.entry import Entry, Key, is_neutral
from leaderboards.board.sample import Sample
from leaderboards.comparison.compare import verdict_to_json
from leaderboards.comparison.flips import Flip, flips
from leaderboards.comparison.paired_logs import Loader, Logs, match_logs, protocol_differences, value_in
from leaderboards.statistics.resampling import Counted, CountsMetric
from leaderboards.statistics.verdict import Matched, PairedTest, adjusted, verdicts
from support.errors import BoardError, CompareError, did_you_mean
from support.markdown import cell, line, number, p_value, span, table

__all__ = [
    "BoardError",
    "Checked",
    "Claim",
    "GateResult",
    "GateSource",
    "Loader",
    "Unchecked",
    "check",
    "render",
    "source",
    "to_json",
]

_EQUAL = ("version", "judge", "unit", "higher_is_better", "limit", "samples")


@dataclass(frozen=True, kw_only=True)
class GateSource:
    """One side's scores and where their logs are."""

    entries: list[Entry]
    samples: Loader

    skipped: list[tuple[Path, str]]
    """Files that could not be read, and why."""

    replaced: list[Entry]
    """Scores of weights that a newer run of their name replaced, where it has no such score: nothing stands for
    them."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """One metric of the baseline and its like of now."""

    baseline: Entry
    current: Entry

    worsening: float
    """In the metric's unit; positive = worse. Of a neutral metric: how far it moved, either way."""

    verdict: PairedTest | None
    """On the same questions; None = there were no samples to compare."""

    tolerance: float | None
    """The worsening that was allowed; None = none was set."""

    flips: list[Flip]
    """What became of each question; empty where the metric did not become worse, or there were no samples."""

    def __str__(self) -> str:
        unit = self.baseline.unit
        change = f"{number(self.baseline.value, unit)} -> {number(self.current.value, unit)} {line(unit)}".rstrip()
        way = "moved" if self.neutral else "worse" if self.worsening > 0 else "better"
        return f"{self.name}: {change}, {way} by {number(abs(self.worsening), unit)}" + (
            f": {self.reason}" if self.reason else ""
        )

    @property
    def neutral(self) -> bool:
        """Whether its metric says how a model answers, not how well."""
        return is_neutral(self.baseline.metric)

    @property
    def name(self) -> str:
        """Model, task and metric, on one line."""
        return _name(self.baseline, self.current)

    @property
    def reason(self) -> str:
        """Why it counts as worse; empty if it does not."""
        reasons = []
        if self.verdict is not None and self.verdict.outcome == "worse" and not self.neutral:
            reasons.append(f"significant ({_tested(self.verdict, self.baseline.unit)})")
        if self.tolerance is not None and _exceeds(self.worsening, self.tolerance):
            reasons.append(f"over the tolerance of {self.tolerance:g}")
        return ", ".join(reasons)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A metric that shall have become better."""

    baseline: Entry
    current: Entry

    verdict: PairedTest
    """Adjusted over the claims."""

    @property
    def name(self) -> str:
        """Model, task and metric, on one line."""
        return _name(self.baseline, self.current)

    @property
    def met(self) -> bool:
        """Whether the same questions show it."""
        return self.verdict.outcome == "better"

    def __str__(self) -> str:
        return f"{self.name}: {'better' if self.met else 'not shown to be better'} ({_tested(self.verdict, self.baseline.unit)})"


@dataclass(frozen=True, kw_only=True)
class Unchecked:
    """What could not be compared, and why."""

    name: str
    why: str

    def __str__(self) -> str:
        return f"{self.name}: {self.why}" if self.name else self.why


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """What the gate found."""

    checked: list[Checked]
    claims: list[Claim]
    unchecked: list[Unchecked]

    @property
    def regressions(self) -> list[Checked]:
        """The metrics that became worse."""
        return [one for one in self.checked if one.reason]

    @property
    def unmet(self) -> list[Claim]:
        """The claims that the questions do not show."""
        return [claim for claim in self.claims if not claim.met]

    @property
    def errors(self) -> list[str]:
        """One line for each metric that could not be compared."""
        return [str(one) for one in self.unchecked]

    @property
    def compared(self) -> int:
        """Metrics that could."""
        return len(self.checked)

    @property
    def passed(self) -> bool:
        """Whether everything was compared, nothing became worse, and every claim holds."""
        return not (self.regressions or self.unmet or self.unchecked)

    @property
    def summary(self) -> str:
        """In one line, without markup."""
        counts = [f"{self.compared} compared", f"{len(self.regressions)} worse"]
        untested = sum(one.verdict is None for one in self.checked)
        counts += [f"{untested} by tolerance alone"] if untested else []
        counts += [f"{len(self.claims) - len(self.unmet)} of {len(self.claims)} claims shown"] if self.claims else []
        return ", ".join([*counts, f"{len(self.unchecked)} errors"])


class _IncomparableError(ValueError):
    """Why two entries cannot be compared."""


def source(path: Path, *, partial: bool = False) -> GateSource:
    """The scores in a board's folder (or the one named `board` in a run's), or in the file of a single run, whatever it
    is called.

    A run's log is looked for beside its file, under the run's name or the file's. Scores of a board that a limit cut
    count only if `partial`; those of a single file, which was asked for by name, always do. BoardError for what is
    neither.
    """
    if path.is_file():
        return _of_file(path)
    if not path.is_dir():
        raise BoardError(f"{path}: no such file or folder; give a board's folder or a run's JSON file")
    board = Board(path / "board" if (path / "board").is_dir() else path)
    entries = board.standing(partial=partial)
    if not entries and not board.skipped and not any(board.folder.glob("*.json")):
        raise BoardError(f"{path}: no board: there is no run's JSON file in it")
    standing = {_column(entry) for entry in entries}
    old = [replace(entry, model=entry.model.removesuffix(f" (weights {entry.weights})")) for entry in board.replaced]
    return GateSource(
        entries=entries,
        samples=board.samples,
        skipped=board.skipped,
        replaced=[entry for entry in old if _column(entry) not in standing],
    )


def check(
    baseline: Sequence[Entry],
    current: Sequence[Entry],
    *,
    samples: tuple[Loader, Loader],
    metrics: Callable[[str, str], CountsMetric | None],
    tolerances: Mapping[str, float],
    require_better: Collection[str] = (),
    models: tuple[str, str] | None = None,
    skipped: Sequence[tuple[Path, str]] = (),
    replaced: Sequence[Entry] = (),
    resamples: int = 10_000,
) -> GateResult:
    """Compare each headline metric of `baseline`, and each in `tolerances` and `require_better`, with its like in
    `current`.

    `samples` are the two sides' logs; `metrics` gives the metric of a task by name, None if it is not known;
    `tolerances` maps "task.metric" to the worsening allowed, in the metric's unit; `require_better` names "task", for
    its headline, or "task.metric"; `models` names the baseline's model to take and the current one to hold against it,
    where they are not called the same; `skipped` are the baseline's files that could not be read, `replaced` its scores
    that newer weights left without a successor: each is an error, since what they asked for cannot be checked.
    BoardError for a tolerance that is negative or no number.
    """
    for name, allowed in tolerances.items():
        if not 0 <= allowed < math.inf:  # against nan nothing is ever worse
            raise BoardError(f"tolerance for {name}: must be a number from 0 up, is {allowed}")
    logs = Logs(samples[0]), Logs(samples[1])
    now = newest(current)
    of_model = _latest_versions([entry for entry in newest(baseline) if models is None or entry.model == models[0]])
    named = {*tolerances, *require_better}
    wanted = [entry for entry in of_model if entry.headline or _dotted(entry) in named]
    unchecked = [Unchecked(name=line(str(path)), why=f"can't be read: {line(why)}") for path, why in skipped]
    unchecked += [
        Unchecked(
            name=_name(entry, None),
            why=f"the baseline's score is of weights {line(str(entry.weights))}, its newest run has others",
        )
        for entry in replaced
        if (models is None or entry.model == models[0]) and (entry.headline or _dotted(entry) in named)
    ]
    if models is not None and not of_model:
        unchecked.append(
            Unchecked(
                name=f"model {line(models[0])}", why=f"not in the baseline{did_you_mean(models[0], _models(baseline))}"
            )
        )
    unchecked += [
        Unchecked(name=f"{what} {line(name)}", why=f"not in the baseline{did_you_mean(name, names)}")
        for what, given, names in (
            ("tolerance for", tolerances, {_dotted(entry) for entry in of_model}),
            ("require better", require_better, {name for entry in of_model for name in _names(entry)}),
        )
        for name in sorted(set(given) - names)
    ]
    neutral = {name for entry in of_model if is_neutral(entry.metric) for name in _names(entry)}
    unchecked += [
        Unchecked(
            name=f"require better {line(name)}",
            why="it says how a model answers, not how well, so nothing is better; a tolerance limits how far it may move",
        )
        for name in sorted(neutral & set(require_better))
    ]
    claimed = set(require_better) - neutral
    checked: list[Checked] = []
    matches: dict[Key, Matched] = {}
    for old in wanted:
        try:
            new = _counterpart(old, now, models[1] if models else old.model)
            worsening, tolerance = _worsening(old, new), tolerances.get(_dotted(old))
            match = _matched(old, new, logs, metrics(old.task, old.metric))
            if match is None and (tolerance is None or _names(old) & claimed):
                raise _IncomparableError(
                    "no samples to compare by" if tolerance is not None else "no samples and no tolerance to compare by"
                )
        except _IncomparableError as error:
            unchecked.append(Unchecked(name=_name(old, None), why=line(str(error))))
            continue
        checked.append(
            Checked(baseline=old, current=new, worsening=worsening, verdict=None, tolerance=tolerance, flips=[])
        )
        if match is not None:
            matches[old.key] = match
    tested = verdicts(matches, resamples=resamples)
    for one in [one for one in checked if one.baseline.key in tested and tested[one.baseline.key].difference is None]:
        checked.remove(one)
        unchecked.append(Unchecked(name=_name(one.baseline, None), why="the samples in common give no score"))
    if not checked:
        unchecked.append(Unchecked(name="", why="nothing was compared"))
    of_claims = [one for one in checked if _names(one.baseline) & claimed]
    claims = adjusted({one.baseline.key: tested[one.baseline.key] for one in of_claims})
    families: dict[bool, dict[Key, PairedTest]] = {
        True: {},
        False: {},
    }  # what can't fail the gate costs the others nothing
    for one in checked:
        if (key := one.baseline.key) in tested:
            families[one.neutral or one.baseline.run == one.current.run][key] = tested[key]
    among_all = adjusted(families[False]) | adjusted(families[True])
    checked = [replace(one, verdict=among_all.get(one.baseline.key)) for one in checked]
    return GateResult(
        checked=[
            replace(one, flips=_flips(one, logs, metrics)) if one.reason and not one.neutral else one for one in checked
        ],
        claims=[
            Claim(baseline=one.baseline, current=one.current, verdict=claims[one.baseline.key]) for one in of_claims
        ],
        unchecked=unchecked,
    )


def render(result: GateResult) -> str:
    """The result as markdown."""
    parts = [f"**Gate {'passed' if result.passed else 'failed'}**: {result.summary}."]
    if result.regressions:
        rows = [
            [
                cell(one.name),
                number(one.baseline.value, one.baseline.unit),
                number(one.current.value, one.current.unit),
                cell(one.baseline.unit),
                cell(one.reason),
                _flipped(one),
            ]
            for one in result.regressions
        ]
        parts.append(table(["worse", "baseline", "current", "unit", "why", "broken / fixed"], rows))
    if result.claims:
        parts.append(
            "\n".join(f"- {'shown' if claim.met else 'NOT shown'}: {cell(str(claim))}" for claim in result.claims)
        )
    if result.unchecked:
        parts.append("\n".join(f"- error: {cell(error)}" for error in result.errors))
    return "\n\n".join(parts)


def to_json(result: GateResult) -> dict[str, Any]:
    """The result as JSON values; of the flips, those that are."""
    return {
        "passed": result.passed,
        "compared": result.compared,
        "checked": [
            _sides(one)
            | {"worsening": one.worsening, "tolerance": one.tolerance, "worse": bool(one.reason), "why": one.reason}
            for one in result.checked
        ],
        "regressions": [
            _sides(one)
            | {"why": one.reason}
            | {kind: [flip.id for flip in one.flips if flip.kind == kind] for kind in ("broken", "fixed")}
            for one in result.regressions
        ],
        "claims": [_sides(claim) | {"met": claim.met} for claim in result.claims],
        "errors": result.errors,
    }


def _sides(one: Checked | Claim) -> dict[str, Any]:
    facts = {
        name: getattr(one.baseline, name) for name in ("task", "metric", "version", "judge", "unit", "higher_is_better")
    }
    sides = {
        side: {name: getattr(entry, name) for name in ("model", "run", "value", "samples", "scored")}
        for side, entry in (("baseline", one.baseline), ("current", one.current))
    }
    return facts | sides | {"verdict": verdict_to_json(one.verdict, one.baseline.metric)}


def _of_file(path: Path) -> GateSource:
    """A single run, which need not be called as its file on a board is."""
    try:
        found = read_run(path)
    except (ValueError, OSError, RecursionError) as error:
        raise BoardError(f"{path}: no run of a board: {str(error).removeprefix(f'{path.name}: ')}") from None

    def samples(run: str) -> list[Sample]:
        if run != found.run or found.samples is None:
            return []
        names = [f"{stem}.samples.parquet" for stem in dict.fromkeys((path.stem, run))]
        there = next((path.with_name(name) for name in names if path.with_name(name).is_file()), None)
        if there is None:
            raise BoardError(f"{path}: its sample log is missing beside it: no {' and no '.join(names)}")
        return read_log(there, found, path)

    return GateSource(entries=found.entries, samples=samples, skipped=[], replaced=[])


def _latest_versions(entries: Sequence[Entry]) -> list[Entry]:
    """Of each model, metric and judge the version scored last: a baseline that was scored anew by another one asks for
    that."""
    latest: dict[tuple[object, ...], Entry] = {}
    for entry in sorted(entries, key=lambda entry: (entry.when, entry.run)):
        latest[*_column(entry), entry.judge] = entry
    standing = {entry.key for entry in latest.values()}
    return [entry for entry in entries if entry.key in standing]


def _names(entry: Entry) -> set[str]:
    """What a claim may call it."""
    return {_dotted(entry), entry.task} if entry.headline else {_dotted(entry)}


def _counterpart(old: Entry, current: Sequence[Entry], model: str) -> Entry:
    """The current entry to hold against `old`."""
    found = [entry for entry in current if (entry.model, entry.task, entry.metric) == (model, old.task, old.metric)]
    if not found:
        raise _IncomparableError(f"missing in the current results of {model}")
    new = next((entry for entry in found if (entry.version, entry.judge) == (old.version, old.judge)), found[-1])
    for field in _EQUAL:
        if getattr(old, field) != getattr(new, field):
            raise _IncomparableError(f"{field} was {getattr(old, field)!r}, is {getattr(new, field)!r}")
    if otherwise := protocol_differences(old, new):
        raise _IncomparableError(f"{'; '.join(otherwise)}: score the baseline anew")
    if new.scored < old.scored:  # the unanswered may be the hard ones
        raise _IncomparableError(f"{_scored(old)} were scored, now only {_scored(new)}")
    return new


def _scored(entry: Entry) -> str:
    return f"{entry.scored} of {entry.samples} ({entry.unscored} unscored, {entry.failed} failed)"


def _matched(old: Entry, new: Entry, logs: tuple[Logs, Logs], metric: CountsMetric | None) -> Matched | None:
    """None where there is nothing to compare by."""
    try:
        before, after = logs[0].of(old), logs[1].of(new)
        for entry, log in ((old, before), (new, after)):
            if log and len(log) != entry.samples:
                raise CompareError(f"run {entry.run}: its log has {len(log)} of its {entry.samples} samples")
        if metric is None or not (before and after):
            return None
        _check_questions(before, after, same_model=old.model == new.model)
        _check_ratings(before, after, old.metric)
        for entry, log in ((old, before), (new, after)):
            _check_value(entry, log, metric)
        return match_logs(
            before, after, old.metric, lambda records: Counted(records, metric), higher_is_better=old.higher_is_better
        )
    except (ValueError, OSError) as error:
        raise _IncomparableError(str(error)) from error


def _check_questions(old: Mapping[str, Sample], new: Mapping[str, Sample], *, same_model: bool) -> None:
    """That both were asked the same; a prompt is as the model read it, with its own chat template, so only of one model
    are they equal."""
    for name in [*old, *new]:
        if name not in old or name not in new:
            raise CompareError(f"sample {name!r} is in one log only")
        if same_model and old[name].prompt != new[name].prompt:
            raise CompareError(
                f"sample {name!r} was asked {_ends(old[name].prompt)!r}, is asked {_ends(new[name].prompt)!r}"
            )


def _check_ratings(old: Mapping[str, Sample], new: Mapping[str, Sample], name: str) -> None:
    """That no fewer answers count than in the baseline, whatever the entry says; of how long answers are, a cut one
    tells nothing."""
    before, after = (
        sum(name in s.records and all(name in one.records for one in s.repeats) for s in log.values())
        for log in (old, new)
    )
    if after < before and not is_neutral(name):
        raise CompareError(f"{before} samples of the baseline's log are rated, now only {after}")


def _check_value(entry: Entry, log: Mapping[str, Sample], metric: CountsMetric) -> None:
    """That the log gives the entry's value: a tolerance looks at the one, the test at the other."""
    found, digits = (
        value_in(log, entry.metric, metric),
        getattr(metric, "digits", None),
    )  # which official scripts round to
    if found is None or entry.value is None:
        return
    if not math.isclose(
        found, entry.value, rel_tol=1e-6, abs_tol=1e-6 if digits is None else 1e-6 + 0.5 * 10.0**-digits
    ):
        raise CompareError(
            f"run {entry.run}: its value is {entry.value:g} {entry.unit}, but its log gives {found:g}: score it anew"
        )


def _ends(prompt: str) -> str:
    return prompt if len(prompt) <= 80 else f"{prompt[:38]} … {prompt[-38:]}"


def _flips(one: Checked, logs: tuple[Logs, Logs], metrics: Callable[[str, str], CountsMetric | None]) -> list[Flip]:
    if one.verdict is None:
        return []
    before, after = logs[0].of(one.baseline), logs[1].of(one.current)
    return flips(one.baseline, before, after, metrics(one.baseline.task, one.baseline.metric))


def _flipped(one: Checked) -> str:
    return (
        " / ".join(str(sum(flip.kind == kind for flip in one.flips)) for kind in ("broken", "fixed"))
        if one.flips
        else ""
    )


def _tested(verdict: PairedTest, unit: str) -> str:
    difference = number(verdict.difference, unit, signed=True) + span(verdict.low, verdict.high, unit)
    p = p_value(verdict.p)
    return f"{difference}, p {p if p.startswith('<') else f'= {p}'}, {verdict.images} images"


def _worsening(old: Entry, new: Entry) -> float:
    if old.value is None or new.value is None:
        raise _IncomparableError(f"value was {number(old.value, old.unit)}, is {number(new.value, new.unit)}")
    if is_neutral(old.metric):
        return abs(new.value - old.value)
    return old.value - new.value if old.higher_is_better else new.value - old.value


def _exceeds(worsening: float, tolerance: float) -> bool:
    """A fall by exactly the tolerance is allowed, however the floats fall."""
    return worsening > tolerance and not math.isclose(worsening, tolerance, rel_tol=1e-9, abs_tol=1e-9)


def _models(entries: Sequence[Entry]) -> list[str]:
    return list(dict.fromkeys(entry.model for entry in entries))


def _column(entry: Entry) -> tuple[str, str, str]:
    return entry.model, entry.task, entry.metric


def _dotted(entry: Entry) -> str:
    return f"{entry.task}.{entry.metric}"


def _name(old: Entry, new: Entry | None) -> str:
    model = old.model if new is None or new.model == old.model else f"{old.model} -> {new.model}"
    return line(f"{model} {old.task} {old.metric}")
