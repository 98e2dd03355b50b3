"""Pictures of the statistics, as PNG and SVG, and the report they stand in.

    report(statistics, Path("statistics"))           # statistics/report.md and its pictures

What is here and what was published differ in colour and in shape. The same statistics give the same files, byte for
byte.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from support.files import atomic_write_text
from support.plots import COLOURS, GREY, new_figure, plot_style, save_figure
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

HERE, PUBLISHED = COLOURS[0], COLOURS[4]
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
    folder.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, Path] = {}
    with plot_style():
        for name, make in _PICTURES.items():
            figure = make(statistics)
            if figure is not None:
                drawn[name] = folder / f"{name}.png"
                save_figure(figure, drawn[name])
                save_figure(figure, folder / f"{name}.svg")
    return drawn


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
    figure = new_figure(figsize=(3.1 * len(panels) + 0.4, 3.1))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (title, ours, theirs) in zip(axes, panels, strict=True):
        places = range(len(POINTS))
        bars = axis.bar([place - 0.2 for place in places], ours, 0.4, color=HERE, label="here")
        right = [place + 0.2 for place in places]
        axis.bar(right, theirs, 0.4, color=PUBLISHED, hatch="///", edgecolor="white", label="published")
        axis.bar_label(bars, fmt="%.0f", fontsize=7, padding=1, color=HERE)
        axis.set_xticks(list(places), POINTS)
        axis.set_title(title)
        axis.set_xlabel("rating")
        axis.grid(axis="y")
    axes[0].set_ylabel("% of answers")
    axes[0].legend(loc="upper left")
    axes[0].set_ylim(top=1.12 * max(max(*ours, *theirs) for _, ours, theirs in panels))
    return figure


def models(statistics: Statistics) -> "Figure | None":
    """Mean rating of each model, an aspect a panel, beside the published means."""
    shown = _choose_models(statistics)
    if not shown:
        return None
    figure = new_figure(figsize=(11, 0.32 * len(shown) + 1.5))
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
        axis.set_title(aspect)
        axis.set_xlabel("mean rating ↑")
        axis.grid()
    axes[0].set_yticks(list(rows), [_shorten(model) for model in shown])
    axes[0].set_ylim(len(shown) - 0.5, -0.5)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
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
    figure = new_figure(figsize=(size + 0.9, size))
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
    axis.set_title("% of pairs in which the row's model is chosen over the column's")
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
    figure = new_figure(figsize=(11, 4))
    left, right = figure.subplots(1, 2, sharey=True)
    x, y, errors = zip(*groups, strict=True)
    left.errorbar(x, y, yerr=errors, marker="o", capsize=3, color=HERE)
    left.set_title("all answers, in groups of equally many, with 95% intervals")
    left.set_ylabel("mean rating ↑")
    left.set_xlim(left=0)
    means = [statistics.characters[model] / statistics.answers[model] for model in shown]
    averages = [statistics.average(model) or 0.0 for model in shown]
    right.scatter(means, averages, color=HERE, s=22, zorder=3)
    low = min([*averages, *(group.rating - group.error for group in groups)])
    room = max(0.1, max([*averages, *(group.rating + group.error for group in groups)]) - low)
    left.set_ylim(low - 0.05 * room, low + 1.05 * room)
    # Labels stand in a column beside the panel, apart from each other, each with a line to its dot.
    for length, average, height, model in zip(
        means, averages, _space_labels(averages, room / SHOWN, low), shown, strict=True
    ):
        line = {"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "alpha": 0.6, "relpos": (0, 0.5), "shrinkA": 1}
        place = {"xytext": (1.03, height), "textcoords": ("axes fraction", "data"), "annotation_clip": False}
        right.annotate(_shorten(model), (length, average), fontsize=8, va="center", arrowprops=line, **place)
    right.set_title("mean of each model")
    for axis in (left, right):
        axis.set_xlabel("characters of the answer")
        axis.grid()
    return figure


def _space_labels(heights: Sequence[float], least: float, bottom: float) -> list[float]:
    """The heights, highest first, moved so that neighbours are `least` apart and none is below `bottom`."""
    moved: list[float] = []
    for height in heights:
        moved.append(min(height, moved[-1] - least) if moved else height)
    for place in reversed(range(len(moved))):
        moved[place] = max(moved[place], bottom)
        bottom = moved[place] + least
    return moved


class LengthGroup(NamedTuple):
    """Answers of about one length."""

    characters: float
    rating: float
    """Their means."""
    error: float
    """Half of the 95% interval of the mean rating, each answer taken by itself."""


def length_groups(statistics: Statistics, groups: int = BINS) -> list[LengthGroup]:
    """Groups of about equally many answers, shortest first; those of LONGEST and more left out."""
    cells = sorted((length, score, count) for (length, score), count in statistics.lengths.items() if length < LONGEST)
    total, seen = sum(count for _, _, count in cells), 0
    by_length: dict[int, list[tuple[float, int]]] = {}
    for length, score, count in cells:
        by_length.setdefault(length, []).append((score, count))
    grouped: list[list[tuple[int, float, int]]] = [[] for _ in range(groups)]
    for length, scores in by_length.items():
        number = sum(count for _, count in scores)
        place = min(int(groups * (seen + number / 2) / total), groups - 1)
        grouped[place] += [(length, score, count) for score, count in scores]
        seen += number
    return [_summarise(own) for own in grouped if own]


def _summarise(answers: Sequence[tuple[int, float, int]]) -> LengthGroup:
    number = sum(count for _, _, count in answers)
    characters = sum(length * count for length, _, count in answers) / number
    rating = sum(score * count for _, score, count in answers) / number
    squares = sum((score - rating) ** 2 * count for _, score, count in answers)
    return LengthGroup(characters, rating, 1.96 * math.sqrt(squares / max(number - 1, 1) / number))


_PICTURES: dict[str, Callable[[Statistics], "Figure | None"]]
_PICTURES = {"ratings": ratings, "models": models, "wins": wins, "lengths": lengths}
