"""`Power` as it is shown: markdown and JSON, of one task and of a panel of several."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from leaderboards.comparison.power import REPEATS, Power
from leaderboards.statistics.significance import ALPHA
from support.errors import CompareError
from support.markdown import cell, number, table


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The run that is asked about."""

    samples: int | None = None
    images: int | None = None
    """None, as `samples`: as many as the data have."""

    difference: float | None = None
    repeats: int | None = None
    """Of the judge; None: as the data were judged."""

    tests: int = 1
    """The tests that Holm's adjustment is made for."""

    def drawn(self, power: Power) -> float:
        """How many images are planned."""
        if self.images is not None:
            return self.images
        return power.images * (self.samples or power.samples) / power.samples

    def detectable(self, power: Power) -> float:
        """The smallest difference that the planned run finds."""
        return power.detectable(images=self.drawn(power), repeats=self.repeats, tests=self.tests)


def render(power: Power, plan: Plan) -> str:
    """Markdown: what runs of several sizes see, what differences need, what repeats of the judge buy, and what the
    panel costs; the plan's own numbers are in it."""
    scale = _scale(power)
    asked = f"{power.samples:,} samples" + (f", {power.images:,} images" if power.images != power.samples else "")
    error = f"{_exact(power.error)} " + (f"on the scale {cell(power.unit)}" if scale else cell(power.unit))
    parts = [
        f"Standard error of a difference: {error.rstrip()}, from {cell(power.basis)} ({asked}).",
        _clusters(power),
        _judge(power, plan),
        _sizes(power, plan),
        _claims(power, plan),
        _repeats(power, plan),
        "A difference is seen if 80% of runs find it at the 5% level, two-sided"
        + (" (this metric alone)." if plan.tests == 1 else f", as one of {plan.tests} tests: {_holm(plan.tests)}"),
    ]
    return "\n\n".join(filter(None, parts))


def render_panel(panel: Mapping[str, Power], plan: Plan) -> str:
    """Markdown: one row a task (its name, metric and unit), each alone and as one of the plan's tests."""
    rows = []
    for name, power in panel.items():
        alone = power.detectable(images=plan.drawn(power), repeats=plan.repeats)
        seen = [f"{plan.drawn(power):,.0f}", _seen(power, alone), _seen(power, plan.detectable(power))]
        rows.append([cell(name), *seen, *([] if plan.difference is None else [_needed(power, plan)])])
    claim = [] if plan.difference is None else [f"images needed for {_exact(plan.difference)}"]
    headers = ["task", "images", "alone", f"as one of {plan.tests}", *claim]
    said = (
        "The smallest true difference that 80% of runs find at the 5% level, two-sided: of a metric alone, and as one "
        f"of {plan.tests} tests. {_holm(plan.tests)}"
    )
    bases: dict[str, list[str]] = {}
    for name, power in panel.items():
        bases.setdefault(power.basis, []).append(name)
    known = "\n".join(f"- {cell(', '.join(names))}: {cell(basis)}" for basis, names in bases.items())
    return f"{table(headers, rows)}\n\n{known}\n\n{said}"


def to_json(power: Power, plan: Plan) -> dict[str, Any]:
    """All numbers of the plan; null where no difference is seen."""
    seen = plan.detectable(power)
    needed: dict[str, int | None] = {"images_needed": None, "samples_needed": None}
    if plan.difference is not None:
        images = power.images_for(plan.difference, repeats=plan.repeats, tests=plan.tests)
        needed = {"images_needed": images, "samples_needed": math.ceil(images * power.samples / power.images)}
    repeats = plan.repeats or power.judged
    return {
        **asdict(power),
        "error": power.error,
        "correlation": power.correlation,
        "planned_images": plan.drawn(power),
        "repeats": repeats,
        "judge_share": power.spread.judge_share(plan.drawn(power), repeats) if power.judged > 1 else None,
        "tests": plan.tests,
        "level": ALPHA / plan.tests,
        "detectable": seen if math.isfinite(seen) else None,
        **needed,
    }


def _clusters(power: Power) -> str:
    """What it costs that questions share images; empty where each has its own, or where it is not known."""
    if power.cluster is None or power.correlation is None:
        return ""
    return (
        f"Questions about one image count together: the variance is {power.cluster:.2f} times that of as many "
        f"independent questions (correlation {power.correlation:.2f}, {power.samples / power.images:.3g} an image)."
    )


def _judge(power: Power, plan: Plan) -> str:
    if power.judge is None:
        return ""
    who = f"Judge {cell(power.judge)}"
    if power.judged == 1:
        return (
            f"{who}: asked once, so what its repeats would differ by is not known, and not in these numbers beyond "
            "what shows between answers. `--judge-repeats 3` in one run of each model tells."
        )
    repeats = plan.repeats or power.judged
    share = power.spread.judge_share(plan.drawn(power), repeats)
    moods = math.sqrt(power.spread.moods)
    return (
        f"{who}: asked {power.judged} times. With {repeats} {'repeat' if repeats == 1 else 'repeats'} it is "
        f"{100 * share:.0f}% of the variance of a difference; all answers of a repeat share a deviation of "
        f"{_exact(moods) if moods else '0'} (standard deviation)."
    )


def _sizes(power: Power, plan: Plan) -> str:
    each = power.samples / power.images
    sizes = {math.ceil(power.samples * share) / each for share in (0.1, 0.25, 0.5, 1)} | {plan.drawn(power)}
    rows = []
    for images in sorted(sizes):
        seen = power.detectable(images=images, repeats=plan.repeats, tests=plan.tests)
        clusters = [f"{images:,.0f}"] if each != 1 else []
        rows.append([*clusters, f"{math.ceil(images * each - 1e-9):,}", _seen(power, seen)])
    headers = [*(["images"] if each != 1 else []), "samples"]
    return table([*headers, f"smallest difference seen {_scale(power) or cell(power.unit)}".rstrip()], rows)


def _claims(power: Power, plan: Plan) -> str:
    """Empty where the data see no difference that there can be."""
    whole = power.detectable(repeats=plan.repeats, tests=plan.tests)
    claims = {claim for share in (2, 1, 0.5) if (claim := whole * share) <= power.widest and math.isfinite(claim)}
    each = power.samples / power.images
    rows = []
    for claim in sorted(claims | ({plan.difference} if plan.difference is not None else set()), reverse=True):
        try:
            images = power.images_for(claim, repeats=plan.repeats, tests=plan.tests)
        except CompareError:
            if claim == plan.difference:
                raise
            continue  # by so many repeats no number of images shows it
        rows.append([_exact(claim), *([f"{images:,}"] if each != 1 else []), f"{math.ceil(images * each):,}"])
    if not rows:
        return ""
    headers = [*(["images needed"] if each != 1 else []), "samples needed"]
    return table([f"difference {_scale(power) or cell(power.unit)}".rstrip(), *headers], rows)


def _repeats(power: Power, plan: Plan) -> str:
    """What more repeats of the judge buy; empty where its share is not known."""
    if power.judged == 1:
        return ""
    drawn = plan.drawn(power)
    rows = [
        [
            str(repeats),
            f"{100 * power.spread.judge_share(drawn, repeats):.0f}%",
            _seen(power, power.detectable(images=drawn, repeats=repeats, tests=plan.tests)),
        ]
        for repeats in REPEATS
    ]
    once = (
        " With one repeat, what its answers share is in no test: false alarms are more than 5%."
        if power.spread.moods
        else ""
    )
    shown = table(["--judge-repeats", "the judge's share of the variance", "smallest difference seen"], rows)
    return f"{shown}\n\nOf {drawn:,.0f} images.{once}"


def _needed(power: Power, plan: Plan) -> str:
    try:
        return f"{power.images_for(plan.difference or 0.0, repeats=plan.repeats, tests=plan.tests):,}"
    except CompareError as error:
        return cell(str(error))


def _holm(tests: int) -> str:
    return (
        f"Holm's adjustment asks a p of at most {ALPHA / tests:.2g} of the smallest of {tests}; where others of them "
        "are found too, it asks less of this one, and the power is more."
    )


def _seen(power: Power, difference: float) -> str:
    return _exact(difference) if difference <= power.widest and math.isfinite(difference) else "none"


def _scale(power: Power) -> str:
    """A unit such as 0-6 in brackets: after a number it would be one more number; empty for others."""
    unit = cell(power.unit)
    return f"({unit})" if unit[:1].isdecimal() else ""


def _exact(value: float) -> str:
    """Three digits, and never 0."""
    return number(value, "points") if value >= 10 else f"{value:.3g}"
