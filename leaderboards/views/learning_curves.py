"""A learning curve: a metric against training step, with its 95% interval, one line an arm.

The axis holds the scores and their intervals, and an arrow says which end is better.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from leaderboards.board.entry import Entry
from leaderboards.views.columns import arrow
from support.plots import line_styles, new_figure, plot_style, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Point:
    """One scored checkpoint."""

    step: int
    entry: Entry


def learning_curves(arms: Mapping[str, Mapping[str, Sequence[Point]]], path: Path, note: str = "") -> None:
    """Write a PNG with one panel a metric: `arms` maps metric label -> arm -> points, the base as step 0 of every
    arm."""
    with plot_style():
        save_figure(_draw(arms, note), path)


def _draw(arms: Mapping[str, Mapping[str, Sequence[Point]]], note: str) -> "Figure":
    figure = new_figure(figsize=(4.2 * len(arms), 3.4))
    axes = figure.subplots(1, len(arms), squeeze=False)[0]
    styles = dict(zip(dict.fromkeys(arm for lines in arms.values() for arm in lines), line_styles(), strict=False))
    for axis, (label, lines) in zip(axes, arms.items(), strict=True):
        for arm, points in lines.items():
            shown = [point for point in points if point.entry.value is not None]
            values = [point.entry.value or 0.0 for point in shown]
            ends = [(point.entry.low, point.entry.high) for point in shown]
            errors = [
                [value - low if low is not None else 0.0 for value, (low, _) in zip(values, ends, strict=True)],
                [high - value if high is not None else 0.0 for value, (_, high) in zip(values, ends, strict=True)],
            ]
            steps = [point.step for point in shown]
            axis.errorbar(steps, values, yerr=errors, label=arm, capsize=3, **styles[arm])
        axis.set_title(" ".join(filter(None, (label, _arrow(lines)))))
        axis.set_xlabel("optimizer step")
        axis.grid()
        axis.legend()
    if note:
        figure.supxlabel(note, fontsize=8)
    return figure


def _arrow(lines: Mapping[str, Sequence[Point]]) -> str:
    """Which direction is better."""
    entry = next((point.entry for points in lines.values() for point in points), None)
    return arrow(entry.metric, entry.higher_is_better) if entry else ""
