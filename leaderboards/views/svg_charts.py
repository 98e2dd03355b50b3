"""Where the marks of a chart stand: geometry only, as numbers and short strings; a template draws it.

    chart = bars(entries, base="scenes-base")
    chart.rows[0].at, chart.rows[0].low, chart.rows[0].high     # in % of the chart's width

Interval charts and curves show the range the data lie in, not the range from 0: their marks are points and intervals,
whose distances are read against the axis. Nothing here escapes anything.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from leaderboards.board.entry import Entry
from leaderboards.views.learning_curves import Point
from support.markdown import number, span

_BOUNDS: dict[str, float] = {"%": 100, "0-6": 6}
"""What a score of the unit is at most; at least it is 0."""

_PAD = 0.06  # of the range, on either side, so that no mark stands on the frame

_LEAST = 1e-300  # a range within this and its inverse can be divided into steps

CURVE_FRAME = (44, 12, 350, 184)  # left, top, right, bottom of the plotting area, as the template draws it

AXIS_GAP = (132, 280)  # at least, so that names fit; at most
PROFILE_WIDTH = 1180
PROFILE_FRAME = (66, 74, 264)  # left, top, bottom


class Tick(NamedTuple):
    """A labelled place on an axis, in % of its length or in pixels."""

    at: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One model's score and interval."""

    model: str
    value: str
    interval: str
    is_base: bool

    at: float | None
    """Of the score, in % of the chart's width; None = no score."""

    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Bars:
    """The scores of all models by one metric, the best first."""

    rows: list[Bar]
    ticks: list[Tick]

    @property
    def base(self) -> Bar | None:
        """The base's row, where it has an interval."""
        return next((row for row in self.rows if row.is_base and row.low is not None), None)


@dataclass(frozen=True, kw_only=True)
class CurveLine:
    """One arm of a learning curve, in pixels."""

    arm: str
    points: str
    band: str
    """The outline of its intervals; empty = there are fewer than two."""

    whiskers: list[tuple[float, float, float]]
    """Each interval: x, and the y of both ends."""

    dots: list[tuple[float, float]]
    numbers: list[tuple[int, str]]
    """Step and score, as text with its interval."""


@dataclass(frozen=True, kw_only=True)
class CurveChart:
    """One metric against training step."""

    label: str
    lines: list[CurveLine]
    across: list[Tick]
    up: list[Tick]

    @property
    def summary(self) -> str:
        """The chart in words."""
        arms = (
            f"{line.arm}: " + ", ".join(f"{text} at step {step}" for step, text in line.numbers) for line in self.lines
        )
        return f"{self.label} against training step. " + "; ".join(arms)


class Axis(NamedTuple):
    """One metric of the profile; `best` is at the top."""

    at: float
    task: str
    metric: str
    best: str
    worst: str


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One model across the axes; a gap where it has no score."""

    model: str
    segments: list[str]
    dots: list[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """All models across all metrics, each axis over all scores and intervals on the board, the better end on top."""

    axes: list[Axis]
    traces: list[Trace]
    width: float


def best_first(entry: Entry) -> tuple[bool, float, str]:
    """What to sort entries of one column by; those without a score come last."""
    value = entry.value or 0.0
    return entry.value is None, -value if entry.higher_is_better else value, entry.model


def bars(entries: Sequence[Entry], *, base: str | None) -> Bars:
    """The entries of one column; those without a score come last."""
    low, high = _range(entries)
    place = _scale(low, high, 0, 100)
    ranked = sorted(entries, key=best_first)
    rows = [
        Bar(
            model=entry.model,
            value=number(entry.value, entry.unit),
            interval=span(entry.low, entry.high, entry.unit).strip(),
            is_base=entry.model == base,
            at=None if entry.value is None else place(entry.value),
            low=None if entry.low is None else place(entry.low),
            high=None if entry.high is None else place(entry.high),
        )
        for entry in ranked
    ]
    return Bars(rows=rows, ticks=[Tick(place(value), text) for value, text in _ticks(low, high, 4)])


def curve(label: str, arms: Mapping[str, Sequence[Point]]) -> CurveChart | None:
    """A metric's arms; None if no checkpoint has a score."""
    scored = {
        arm: [p for p in sorted(points, key=lambda p: p.step) if p.entry.value is not None]
        for arm, points in arms.items()
    }
    scored = {arm: points for arm, points in scored.items() if points}
    if not scored:
        return None
    left, top, right, bottom = CURVE_FRAME
    steps = [point.step for points in scored.values() for point in points]
    low, high = _range([point.entry for points in scored.values() for point in points])
    x, y = _scale(min(steps), max(steps), left + 8, right - 8), _scale(low, high, bottom, top)
    lines = []
    for arm, points in scored.items():
        dots = [(x(p.step), y(p.entry.value)) for p in points if p.entry.value is not None]
        with_interval = [
            (p.step, p.entry.low, p.entry.high) for p in points if p.entry.low is not None and p.entry.high is not None
        ]
        outline = [(x(step), y(below)) for step, below, _ in with_interval]
        outline += [(x(step), y(above)) for step, _, above in reversed(with_interval)]
        numbers = [
            (p.step, number(p.entry.value, p.entry.unit) + span(p.entry.low, p.entry.high, p.entry.unit))
            for p in points
        ]
        whiskers = [(x(step), y(below), y(above)) for step, below, above in with_interval]
        band = _points(outline) if len(with_interval) > 1 else ""
        lines.append(CurveLine(arm=arm, points=_points(dots), band=band, whiskers=whiskers, dots=dots, numbers=numbers))
    across = [Tick(x(value), text) for value, text in _ticks(min(steps), max(steps), 4) if value == int(value)]
    up = [Tick(y(value), text) for value, text in _ticks(low, high, 4)]
    return CurveChart(label=label, lines=lines, across=across, up=up)


def profile(columns: Sequence[Sequence[Entry]], models: Sequence[str]) -> Profile | None:
    """The models across these columns; None where fewer than three have a range, which a table shows as well."""
    drawn = []
    for column in columns:
        values = [entry.value for entry in column if entry.value is not None]
        if values and min(values) < max(values):
            # With the intervals in it, what can't be told apart stands close together.
            ends = values + [end for entry in column for end in (entry.low, entry.high) if end is not None]
            drawn.append((column, min(ends), max(ends)))
    if len(drawn) < 3:
        return None
    left, top, bottom = PROFILE_FRAME
    gap = min(max(AXIS_GAP[0], (PROFILE_WIDTH - 2 * left) // (len(drawn) - 1)), AXIS_GAP[1])
    axes: list[Axis] = []
    at: dict[str, list[tuple[float, float] | None]] = {model: [None] * len(drawn) for model in models}
    for index, (column, least, most) in enumerate(drawn):
        first, x = column[0], float(left + index * gap)
        worst, best = (least, most) if first.higher_is_better else (most, least)
        axes.append(Axis(x, first.task, first.metric, number(best, first.unit), number(worst, first.unit)))
        y = _scale(worst, best, bottom, top)
        for entry in column:
            if entry.value is not None and entry.model in at:
                at[entry.model][index] = (x, y(entry.value))
    traces = [
        Trace(model=model, segments=_segments(dots), dots=[dot for dot in dots if dot]) for model, dots in at.items()
    ]
    return Profile(axes=axes, traces=traces, width=2 * left + (len(drawn) - 1) * gap)


def _range(entries: Sequence[Entry]) -> tuple[float, float]:
    """What the axis must hold: all scores and intervals, with some room."""
    values = [value for entry in entries for value in (entry.value, entry.low, entry.high) if value is not None]
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    pad = _PAD * (high - low) or abs(high) * _PAD or 1.0
    ceiling = _BOUNDS.get(entries[0].unit, math.inf)
    # A file may hold a score outside of its unit's bounds, which is to be seen as well.
    floor, ceiling = 0.0 if low >= 0 else -math.inf, ceiling if high <= ceiling else math.inf
    # A bound is kept off the frame by a little, so that a mark on it is whole.
    return max(low - pad, floor - pad / 3), min(high + pad, ceiling + pad / 3)


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Linear from one range to another; the middle, where the first is a point."""

    def place(value: float) -> float:
        share = (value - low) / (high - low) if math.isfinite(high - low) and high != low else 0.5
        return round(start + share * (end - start), 2)

    return place


def _ticks(low: float, high: float, wanted: int) -> list[tuple[float, str]]:
    """Round numbers within the range, about as many as wanted."""
    if not _LEAST < high - low < 1 / _LEAST:
        return [(low, f"{low:g}")]
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9)) + (step / power == 2.5 and power < 10)
    first = math.ceil(low / step - 1e-9)
    values = [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]
    return [(value, f"{value + 0.0:.{decimals}f}") for value in values] or [(low, f"{low:g}")]


def _points(dots: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in dots)


def _segments(dots: Sequence[tuple[float, float] | None]) -> list[str]:
    runs = (
        [dot for dot in run if dot] for has_score, run in groupby(dots, key=lambda dot: dot is not None) if has_score
    )
    return [_points(run) for run in runs if len(run) > 1]
