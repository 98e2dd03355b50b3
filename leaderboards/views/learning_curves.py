"""A learning curve: a metric against training step, with its 95% interval, one line an arm.

The axis holds the scores and their intervals, and an arrow says which end is better.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from leaderboards.board.entry import Entry
from leaderboards.views.columns import arrow
from support.files import atomic_path


@dataclass(frozen=True, kw_only=True)
class Point:
    """One scored checkpoint."""

    step: int
    entry: Entry


def learning_curves(arms: Mapping[str, Mapping[str, Sequence[Point]]], path: Path, note: str = "") -> None:
    """Write a PNG with one panel a metric: `arms` maps metric label -> arm -> points, the base as step 0 of every
    arm."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(arms), figsize=(4.2 * len(arms), 3.4), squeeze=False, layout="constrained")
    for axis, (label, lines) in zip(axes[0], arms.items(), strict=True):
        for arm, points in lines.items():
            shown = [point for point in points if point.entry.value is not None]
            values = [point.entry.value or 0.0 for point in shown]
            ends = [(point.entry.low, point.entry.high) for point in shown]
            errors = [
                [value - low if low is not None else 0.0 for value, (low, _) in zip(values, ends, strict=True)],
                [high - value if high is not None else 0.0 for value, (_, high) in zip(values, ends, strict=True)],
            ]
            steps = [point.step for point in shown]
            axis.errorbar(steps, values, yerr=errors, label=arm, marker="o", capsize=3)
        axis.set_title(" ".join(filter(None, (label, _arrow(lines)))), fontsize=10)
        axis.set_xlabel("optimizer step")
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=8, frameon=False)
    if note:
        figure.supxlabel(note, fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})
    plt.close(figure)


def _arrow(lines: Mapping[str, Sequence[Point]]) -> str:
    """Which direction is better."""
    entry = next((point.entry for points in lines.values() for point in points), None)
    return arrow(entry.metric, entry.higher_is_better) if entry else ""
