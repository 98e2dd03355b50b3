"""Pictures of the statistics, as PNG and SVG, and the report they stand in.

    report(statistics, Path("statistics"))           # statistics/report.md and its pictures

Colours are Okabe and Ito's, which colour-blind readers tell apart; what is here and what was published differ in shape
too. The same statistics give the same files, byte for byte.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.files import atomic_path, atomic_write_text
from trainers.config.data import ASPECTS
from trainers.data.published import PUBLISHED_RATINGS, PUBLISHED_RED_TEAM, published_model
from trainers.data.statistics import LONGEST, POINTS, Statistics, mean_of, shares
from trainers.data.statistics_tables import tables_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 16
"""At most this many models are in a picture: those with most answers."""
BINS = 12
"""Groups of equally many answers that the length picture has."""

HERE, PUBLISHED, GREY = "#0072B2", "#E69F00", "#666666"
_STYLE: Any = {"svg.hashsalt": "vlfeedback", "text.parse_math": False, "font.size": 9}
_STYLE |= {"axes.spines.top": False, "axes.spines.right": False}
_DOTS: Any = {"s": 64, "marker": "D", "facecolors": "none", "edgecolors": PUBLISHED, "linewidths": 1.6}


def report(statistics: Statistics, folder: Path, title: str = "Rated data") -> Path:
    """Write report.md and its pictures into `folder`, and return its path."""
    pictures = draw(statistics, folder)
    text = f"# {title}\n\n" + tables_of(statistics)
    headings = ("Ratings", "Models", "Which model beats which", "Length")
    for heading, name in zip(headings, _PICTURES, strict=True):
        if name in pictures:
            text = text.replace(f"## {heading}\n\n", f"## {heading}\n\n![{heading}]({name}.png)\n\n", 1)
    atomic_write_text(folder / "report.md", text)
    return folder / "report.md"


def draw(statistics: Statistics, folder: Path) -> dict[str, Path]:
    """Write the pictures for which there are data; name -> PNG, with an SVG beside it."""
    import matplotlib as mpl

    folder.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, Path] = {}
    with mpl.rc_context(_STYLE):
        for name, make in _PICTURES.items():
            figure = make(statistics)
            if figure is not None:
                drawn[name] = folder / f"{name}.png"
                _save(figure, drawn[name])
                _save(figure, folder / f"{name}.svg")
    return drawn


def _save(figure: "Figure", path: Path) -> None:
    # Neither date nor version: the same numbers are the same file.
    metadata = {"Software": None} if path.suffix == ".png" else {"Date": None, "Creator": None}
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=150, metadata=metadata)


def _new_figure(**kwargs: Any) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(layout="constrained", **kwargs)


def _shorten(model: str) -> str:
    shown = "".join(character if character.isprintable() else " " for character in model)
    return shown if len(shown) <= 26 else shown[:25] + "…"


def _choose_models(statistics: Statistics) -> list[str]:
    most = {model for model, _ in statistics.answers.most_common(SHOWN)}
    return [model for model in statistics.models() if model in most and statistics.average(model) is not None]


def ratings(statistics: Statistics) -> "Figure | None":
    """How often each rating is given, an aspect a panel, beside the published shares."""
    panels = [(aspect, shares(statistics.distribution(aspect)), PUBLISHED_RATINGS[aspect]) for aspect in ASPECTS]
    red = shares(statistics.distribution("Ethical Considerations", red_team=True))
    if red:
        panels.append(("Ethical Considerations, red team", red, PUBLISHED_RED_TEAM))
    panels = [panel for panel in panels if panel[1]]
    if not panels:
        return None
    figure = _new_figure(figsize=(3.1 * len(panels) + 0.4, 3.1))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (title, ours, theirs) in zip(axes, panels, strict=True):
        places = range(len(POINTS))
        bars = axis.bar([place - 0.2 for place in places], ours, 0.4, color=HERE, label="here")
        right = [place + 0.2 for place in places]
        axis.bar(right, theirs, 0.4, color=PUBLISHED, hatch="///", edgecolor="white", label="published")
        axis.bar_label(bars, fmt="%.0f", fontsize=7, padding=1, color=HERE)
        axis.set_xticks(list(places), POINTS)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("rating")
        _draw_grid(axis, "y")
    axes[0].set_ylabel("% of answers")
    axes[0].legend(frameon=False, fontsize=8, loc="upper left")
    axes[0].set_ylim(top=1.12 * max(max(*ours, *theirs) for _, ours, theirs in panels))
    return figure


def models(statistics: Statistics) -> "Figure | None":
    """Mean rating of each model, an aspect a panel, beside the published means."""
    shown = _choose_models(statistics)
    if not shown:
        return None
    figure = _new_figure(figsize=(11, 0.32 * len(shown) + 1.5))
    axes = figure.subplots(1, 4, sharey=True, sharex=True)
    rows = range(len(shown))
    published = [published_model(model) for model in shown]
    for axis, aspect in zip(axes, [*ASPECTS, "average"], strict=True):
        if aspect == "average":
            ours = [statistics.average(model) for model in shown]
            theirs = [None if known is None else known.average for known in published]
        else:
            ours = [mean_of(statistics.distribution(aspect, model=model)) for model in shown]
            theirs = [None if known is None else known.means()[aspect] for known in published]
        for row, mine, other in zip(rows, ours, theirs, strict=True):
            if mine is not None and other is not None:
                axis.plot([mine, other], [row, row], color=GREY, linewidth=1, zorder=1)
        # A wide ring around a dot: both are seen where they agree.
        axis.scatter(*_drop_missing(theirs, rows), **_DOTS, label="published", zorder=2)
        axis.scatter(*_drop_missing(ours, rows), s=22, color=HERE, label="here", zorder=3)
        axis.set_title(aspect, fontsize=10)
        axis.set_xlabel("mean rating")
        _draw_grid(axis, "both")
    axes[0].set_xlim(0.9, 5.2)
    axes[0].set_yticks(list(rows), [_shorten(model) for model in shown])
    axes[0].set_ylim(len(shown) - 0.5, -0.5)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _drop_missing(values: Sequence[float | None], rows: Sequence[int]) -> tuple[list[float], list[int]]:
    found = [(value, row) for value, row in zip(values, rows, strict=True) if value is not None]
    return [value for value, _ in found], [row for _, row in found]


def wins(statistics: Statistics) -> "Figure | None":
    """How often the row's model is chosen over the column's, in % of their pairs by the authors' rule."""
    shown = _choose_models(statistics)
    rates = [[statistics.win_rate(model, other) for other in shown] for model in shown]
    if not any(rate is not None for row in rates for rate in row):
        return None
    size = 0.5 * len(shown) + 2.2
    figure = _new_figure(figsize=(size + 0.9, size))
    axis = figure.subplots()
    grid = [[math.nan if rate is None else 100 * rate for rate in row] for row in rates]
    image = axis.imshow(grid, cmap="PuOr_r", vmin=0, vmax=100)
    for row, line in enumerate(grid):
        for column, rate in enumerate(line):
            if not math.isnan(rate):
                colour = "white" if abs(rate - 50) > 32 else "black"
                axis.text(column, row, f"{rate:.0f}", ha="center", va="center", fontsize=8, color=colour)
    names = [_shorten(model) for model in shown]
    axis.set_xticks(range(len(shown)), names, rotation=40, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(len(shown)), names)
    axis.set_title("% of pairs in which the row's model is chosen over the column's", fontsize=10)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    figure.colorbar(image, ax=axis, shrink=0.7, label="% chosen")
    return figure


def lengths(statistics: Statistics) -> "Figure | None":
    """Mean rating by length of the answer, over all answers and by model."""
    groups = length_groups(statistics)
    shown = _choose_models(statistics)
    if not groups:
        return None
    figure = _new_figure(figsize=(11, 4))
    left, right = figure.subplots(1, 2, sharey=True)
    left.plot([length for length, _ in groups], [mean for _, mean in groups], marker="o", color=HERE)
    left.set_title("all answers, in groups of equally many", fontsize=10)
    left.set_ylabel("mean rating")
    left.set_xlim(left=0)
    means = [statistics.characters[model] / statistics.answers[model] for model in shown]
    averages = [statistics.average(model) or 0.0 for model in shown]
    right.scatter(means, averages, color=HERE, s=22, zorder=3)
    # Labels stand in a column beside the panel, apart from each other, each with a line to its dot.
    for length, average, height, model in zip(means, averages, _space_labels(averages), shown, strict=True):
        line = {"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "alpha": 0.6, "relpos": (0, 0.5), "shrinkA": 1}
        place = {"xytext": (1.03, height), "textcoords": ("axes fraction", "data"), "annotation_clip": False}
        right.annotate(_shorten(model), (length, average), fontsize=8, va="center", arrowprops=line, **place)
    right.set_title("mean of each model", fontsize=10)
    for axis in (left, right):
        axis.set_xlabel("characters of the answer")
        axis.set_ylim(0.9, 5.1)
        _draw_grid(axis, "both")
    return figure


def _space_labels(heights: Sequence[float], least: float = 0.24) -> list[float]:
    """The heights, highest first, moved so that neighbours are `least` apart; within the scale if they fit."""
    moved: list[float] = []
    for height in heights:
        moved.append(min(height, moved[-1] - least) if moved else height)
    bottom = 1.0
    for place in reversed(range(len(moved))):
        moved[place] = max(moved[place], bottom)
        bottom = moved[place] + least
    return moved


def length_groups(statistics: Statistics, groups: int = BINS) -> list[tuple[float, float]]:
    """(mean characters, mean rating) of groups of about equally many answers, shortest first; those of LONGEST and more
    left out."""
    cells = sorted((length, score, count) for (length, score), count in statistics.lengths.items() if length < LONGEST)
    total, seen = sum(count for _, _, count in cells), 0
    sums = [[0.0, 0.0, 0] for _ in range(groups)]
    by_length: dict[int, list[float]] = {}
    for length, score, count in cells:
        found = by_length.setdefault(length, [0.0, 0.0])
        found[0] += score * count
        found[1] += count
    for length, (score_sum, number) in by_length.items():
        group = sums[min(int(groups * (seen + number / 2) / total), groups - 1)]
        group[0] += length * number
        group[1] += score_sum
        group[2] += int(number)
        seen += int(number)
    return [(length / count, score / count) for length, score, count in sums if count]


def _draw_grid(axis: Any, which: str) -> None:
    axis.grid(axis=which, alpha=0.25, linewidth=0.6)
    axis.set_axisbelow(True)


_PICTURES: dict[str, Callable[[Statistics], "Figure | None"]]
_PICTURES = {"ratings": ratings, "models": models, "wins": wins, "lengths": lengths}
