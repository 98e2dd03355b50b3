"""What the gate found: as text, as markdown and as JSON values."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from leaderboards.board.entry import Entry, is_neutral
from leaderboards.comparison.compare import verdict_to_json
from leaderboards.comparison.flips import Flip
from leaderboards.statistics.guard_test import GuardTest
from leaderboards.statistics.verdict import PairedTest
from leaderboards.views.glossary import DIFFERENCE, OF_GATE, in_json, p_of
from support.markdown import cell, line, number, p_value, span, table


@dataclass(frozen=True, kw_only=True)
class Checked:
    """One metric of the baseline and the current score compared with it."""

    baseline: Entry
    current: Entry

    worsening: float
    """In the metric's unit; positive = worse. Of a neutral metric: how far it moved, either way."""

    verdict: PairedTest | None
    """On the same questions; None = there were no samples to compare."""

    tolerance: float | None
    """The worsening that was allowed; None = none was set."""

    untested: Sequence[GuardTest] = ()
    """Its guards by their values alone, where there were no samples to compare."""

    flips: list[Flip]
    """What became of each question; empty if the metric did not become worse, or there were no samples."""

    def __str__(self) -> str:
        unit = self.baseline.unit
        change = f"{number(self.baseline.value, unit)} -> {number(self.current.value, unit)} {line(unit)}".rstrip()
        way = "moved" if self.neutral else "worse" if self.worsening > 0 else "better"
        text = f"{self.name}: {change}, {way} by {number(abs(self.worsening), unit)}"
        return f"{text}: {self.reason}" if self.reason else text

    @property
    def neutral(self) -> bool:
        """True if its metric says how a model answers, not how well."""
        return is_neutral(self.baseline.metric)

    @property
    def name(self) -> str:
        """Model, task and metric, on one line."""
        return name_of(self.baseline, self.current)

    @property
    def reason(self) -> str:
        """Why it counts as worse; empty if it does not."""
        reasons = []
        if self.verdict is not None and self.verdict.outcome == "worse" and not self.neutral:
            reasons.append(f"significant ({_describe_test(self.verdict, self.baseline.unit)})")
        fallen = self.verdict.fallen if self.verdict is not None else [one for one in self.untested if one.worse]
        reasons += [_describe_guard(guard, tested=self.verdict is not None) for guard in fallen]
        if self.tolerance is not None and _exceeds(self.worsening, self.tolerance):
            reasons.append(f"over the tolerance of {self.tolerance:g}")
        return ", ".join(reasons)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A metric that must have become better."""

    baseline: Entry
    current: Entry

    verdict: PairedTest
    """Adjusted over the claims."""

    @property
    def name(self) -> str:
        """Model, task and metric, on one line."""
        return name_of(self.baseline, self.current)

    @property
    def met(self) -> bool:
        """True if the same questions show it."""
        return self.verdict.outcome == "better"

    def __str__(self) -> str:
        shown = "better" if self.met else "not shown to be better"
        guards = [_describe_guard(guard) for guard in self.verdict.fallen]
        return f"{self.name}: {', '.join([shown, *guards])} ({_describe_test(self.verdict, self.baseline.unit)})"


@dataclass(frozen=True, kw_only=True)
class Unchecked:
    """What could not be compared, and why."""

    name: str
    why: str

    claimed: bool = False
    """Whether it had to be better."""

    def __str__(self) -> str:
        return f"{self.name}: {self.why}" if self.name else self.why


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """What the gate found."""

    checked: list[Checked]
    claims: list[Claim]
    unchecked: list[Unchecked]

    notes: list[str] = field(default_factory=list)
    """What to know beside it: scores of which there are several runs."""

    @property
    def regressions(self) -> list[Checked]:
        """The metrics that became worse."""
        return [one for one in self.checked if one.reason]

    @property
    def unmet(self) -> list[Claim]:
        """The claims that the questions do not show."""
        return [claim for claim in self.claims if not claim.met]

    @property
    def failed(self) -> bool:
        """True if something became worse, or a claim is not shown, also for want of something to compare."""
        return bool(self.regressions or self.unmet) or any(one.claimed for one in self.unchecked)

    @property
    def errors(self) -> list[str]:
        """One line for each metric that could not be compared."""
        return [str(one) for one in self.unchecked]

    @property
    def compared(self) -> int:
        """How many metrics were compared."""
        return len(self.checked)

    @property
    def passed(self) -> bool:
        """True if everything was compared, nothing became worse, and every claim holds."""
        return not (self.regressions or self.unmet or self.unchecked)

    @property
    def summary(self) -> str:
        """In one line, without markup."""
        counts = [f"{self.compared} compared", f"{len(self.regressions)} worse"]
        untested = sum(one.verdict is None for one in self.checked)
        counts += [f"{untested} by tolerance alone"] if untested else []
        claims = len(self.claims) + sum(one.claimed for one in self.unchecked)
        counts += [f"{len(self.claims) - len(self.unmet)} of {claims} claims shown"] if claims else []
        return ", ".join([*counts, f"{len(self.unchecked)} errors"])


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
                _count_flips(one),
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
    if any(one.verdict for one in result.regressions) or any(one.verdict for one in result.claims):
        parts.append(f"{DIFFERENCE} {p_of(OF_GATE)}")
    if result.notes:
        parts.append("\n".join(f"- note: {cell(note)}" for note in result.notes))
    return "\n\n".join(parts)


def to_json(result: GateResult) -> dict[str, Any]:
    """The result as JSON values; of the flips only those that changed."""
    return {
        "passed": result.passed,
        "compared": result.compared,
        "checked": [
            _sides_to_json(one)
            | {"worsening": one.worsening, "tolerance": one.tolerance, "worse": bool(one.reason), "why": one.reason}
            for one in result.checked
        ],
        "regressions": [
            _sides_to_json(one)
            | {"why": one.reason}
            | {kind: [flip.id for flip in one.flips if flip.kind == kind] for kind in ("broken", "fixed")}
            for one in result.regressions
        ],
        "claims": [_sides_to_json(claim) | {"met": claim.met} for claim in result.claims],
        "errors": result.errors,
        "notes": result.notes,
        "glossary": in_json(OF_GATE),
    }


def _sides_to_json(one: Checked | Claim) -> dict[str, Any]:
    facts = {
        name: getattr(one.baseline, name) for name in ("task", "metric", "version", "judge", "unit", "higher_is_better")
    }
    sides = {
        side: {name: getattr(entry, name) for name in ("model", "run", "value", "samples", "scored")}
        for side, entry in (("baseline", one.baseline), ("current", one.current))
    }
    return facts | sides | {"verdict": verdict_to_json(one.verdict, one.baseline.metric)}


def _count_flips(one: Checked) -> str:
    counts = [sum(flip.kind == kind for flip in one.flips) for kind in ("broken", "fixed")]
    return " / ".join(map(str, counts)) if one.flips else ""


def _describe_test(verdict: PairedTest, unit: str) -> str:
    difference = number(verdict.difference, unit, signed=True) + span(verdict.low, verdict.high, unit)
    p = p_value(verdict.p)
    return f"{difference}, p {p if p.startswith('<') else f'= {p}'}, {verdict.images} images"


def _describe_guard(guard: GuardTest, *, tested: bool = True) -> str:
    how = f"p {p_value(guard.p)}" if tested else f"by more than {number(guard.allowed, guard.unit)}, not tested"
    return f"{line(guard.words)} {line(guard.unit)}".rstrip() + f" (guard, {how})"


def _exceeds(worsening: float, tolerance: float) -> bool:
    """A fall by exactly the tolerance is allowed, however the floats fall."""
    return worsening > tolerance and not math.isclose(worsening, tolerance, rel_tol=1e-9, abs_tol=1e-9)


def name_of(old: Entry, new: Entry | None = None) -> str:
    """Model, task and metric, on one line; both models if they have other names."""
    model = old.model if new is None or new.model == old.model else f"{old.model} -> {new.model}"
    return line(f"{model} {old.task} {old.metric}")
