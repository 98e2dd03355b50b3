"""What a command would do, take and lack, before anything is asked or paid for: what --dry-run prints.

found = forecast_of_scoring("score silkie", steps, costs, ready, out=Path("runs/eval"))
print(found.to_text())
found.to_json()              # questions, judge_calls, dollars, gigabytes, seconds, missing
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness.evaluation.benchmark_data import data_of
from harness.evaluation.judge_cost import JudgePlan
from harness.evaluation.preflight import Readiness
from harness.models.disk_use import describe_size
from harness.runs.scoring_cost import AT_ONCE, Planned, ScoringCost, add, in_hours
from support.errors import Need
from tasks.registry import TaskSpec
from trainers.vlfeedback.decode_plan import SERVED_AT_ONCE, SERVED_SECONDS, DecodePlan


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a command would do, take and lack. Of a number, None: not known before it runs."""

    title: str
    steps: Sequence[str]
    ready: Readiness
    out: Path | None = None
    questions: int | None = 0
    """To the models that are scored."""
    calls: int | None = 0
    """Of the judge."""
    dollars: float | None = 0.0
    """For judges and servers, at list prices."""
    seconds: float | None = None
    rate: str = ""
    """What the seconds are computed from."""
    judging: Sequence[JudgePlan] = ()
    """The judge's calls in more words, by task."""

    @property
    def gigabytes(self) -> float | None:
        """Written to the disks of caches."""
        use = self.ready.disk
        return None if self.ready.unsized else (use.download + use.convert) / 1e9

    @property
    def blocking(self) -> list[Need]:
        """What is missing, without keys, which no estimate needs."""
        return [need for need in self.ready.needs if not need.is_key]

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        numbers = {"questions": self.questions, "judge_calls": self.calls, "dollars": self.dollars}
        numbers |= {"gigabytes": self.gigabytes, "seconds": self.seconds}
        words = {"plan": self.title, "steps": list(self.steps), "out": None if self.out is None else str(self.out)}
        judging = [asdict(plan) for plan in self.judging]
        missing = [asdict(need) for need in self.ready.needs]
        return {**words, **numbers, "seconds_from": self.rate, "judging": judging, "missing": missing}

    def to_text(self) -> str:
        """For people: the steps, and what they take in all."""
        steps = [f"{number:3}. {step}" for number, step in enumerate(self.steps, start=1)]
        return "\n".join([self.title, *steps, f"in all: {', '.join(self._totals())}"])

    def _totals(self) -> list[str]:
        use = self.ready.disk
        told = ["questions not counted yet" if self.questions is None else f"{self.questions:,} questions"]
        told.append("judge calls not counted yet" if self.calls is None else f"{self.calls:,} judge calls")
        told.append("dollars not known" if self.dollars is None else f"${self.dollars:,.2f} at list prices")
        size = describe_size(use.download + use.convert) if use.download or use.convert else "0 GB"
        more = f", and {', '.join(self.ready.unsized)} of sizes not known" if self.ready.unsized else ""
        told.append(f"{size} to be downloaded or converted{more}")
        rate = f" ({self.rate})" if self.rate else ""
        return [*told, "time not known" if self.seconds is None else f"about {in_hours(self.seconds)}{rate}"]


def forecast_of_scoring(
    title: str,
    steps: Sequence[str],
    costs: Sequence[ScoringCost],
    ready: Readiness,
    *,
    out: Path | None = None,
    planned: Planned | None = None,
) -> Forecast:
    """Of models that cost so much each; the last of them as often as `planned`, where that is known."""
    times = [1] * (len(costs) - 1) + [1 if planned is None else planned.count or 1] if costs else []
    calls = add([cost.calls for cost in costs], times)
    seconds = add([cost.seconds for cost in costs], times)
    judging = {task.judging.task: task.judging for cost in costs for task in cost.tasks.values() if task.judging}
    rates = dict.fromkeys(cost.rate_words for cost in costs if cost.seconds is not None)
    return Forecast(
        title=title,
        steps=steps,
        ready=ready,
        out=out,
        questions=add([cost.questions for cost in costs], times),
        calls=calls,
        dollars=add([cost.dollars for cost in costs], times),
        seconds=None if seconds is None or calls is None else seconds + seconds_of_calls(calls),
        rate="; ".join(rates),
        judging=list(judging.values()),
    )


def forecast_of_judging(
    title: str, steps: Sequence[str], plans: Sequence[JudgePlan], ready: Readiness, *, out: Path | None = None
) -> Forecast:
    """Of answers that are there, which a judge is asked about."""
    calls = sum(plan.calls for plan in plans)
    return Forecast(
        title=title,
        steps=steps,
        ready=ready,
        out=out,
        calls=calls,
        dollars=add([plan.price for plan in plans]),
        seconds=seconds_of_calls(calls),
        rate=AT_ONCE if calls else "",
        judging=plans,
    )


def seconds_of_calls(calls: int) -> float:
    """About what a server takes for so many calls."""
    return calls * SERVED_SECONDS / SERVED_AT_ONCE


def with_building(forecast: Forecast, answers: DecodePlan, ratings: JudgePlan | None) -> Forecast:
    """The same with preference data that are built first: answers of the pool, and the judge's `ratings` of them."""
    left = [member for member in answers.members if member.left]
    paid = [member.dollars for member in left if member.dollars is not None]
    seconds = [member.seconds for member in left]
    if ratings is not None:
        seconds.append(seconds_of_calls(ratings.calls))
    rates = dict.fromkeys([forecast.rate, *(member.rate for member in left)])
    return replace(
        forecast,
        calls=add([forecast.calls, 0 if ratings is None else ratings.calls]),
        dollars=add([forecast.dollars, sum(paid), 0.0 if ratings is None else ratings.price]),
        seconds=add([forecast.seconds, *seconds]),
        rate="; ".join(filter(None, rates)),
        judging=[*forecast.judging, *([] if ratings is None else [ratings])],
    )


def tasks_without_data(tasks: Sequence[TaskSpec], ready: Readiness) -> list[str]:
    """The tasks whose data are missing."""
    missing = {need.what for need in ready.needs}
    return [task.name for task in tasks if data_of(task.name) in missing]
