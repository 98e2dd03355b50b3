"""The pictures of docs/statistics.md, of simulated data that go through the product's own intervals and tests.

PYTHONPATH=. python -m tests.leaderboards.statistics_pictures          # writes docs/pictures/*.svg, always the same
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from leaderboards.statistics.edge_intervals import score_interval
from leaderboards.statistics.matches import Matched
from leaderboards.statistics.planned_test import Spread, smallest_difference
from leaderboards.statistics.resampling import Array, swapped
from leaderboards.statistics.significance import ALPHA, holm
from leaderboards.statistics.verdict import verdicts
from tasks.metric import mean_of

FOLDER: Final = Path(__file__).resolve().parents[2] / "docs" / "pictures"
SHARE: Final = mean_of("x", scale=100)

WIDTH, HEIGHT = 560, 250
BAR: Final = ' stroke-width="7"'
LEFT, TOP, RIGHT, BOTTOM = 56, 16, 544, 206
BLUE, RED, GREY = "#2166ac", "#c0392b", "#8a8a8a"

Scale = Callable[[float], float]


def counts(right: Array) -> Array:
    """Of one question an image."""
    return np.stack([right, np.ones(len(right))], axis=1).astype(np.float64)


def scales(across: tuple[float, float], up: tuple[float, float]) -> tuple[Scale, Scale]:
    """Values to pixels."""
    return (
        lambda value: LEFT + (value - across[0]) / (across[1] - across[0]) * (RIGHT - LEFT),
        lambda value: BOTTOM - (value - up[0]) / (up[1] - up[0]) * (BOTTOM - TOP),
    )


def line(x1: float, y1: float, x2: float, y2: float, colour: str = GREY, more: str = "") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{more}/>'


def dot(x: float, y: float, colour: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>'


def text(x: float, y: float, words: str, anchor: str = "middle", colour: str = "#333") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{words}</text>'


def path(points: Sequence[tuple[float, float]], colour: str) -> str:
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="1.5"/>'


def drawing(
    title: str, marks: Sequence[str], ticks: Sequence[tuple[float, str]], sides: Sequence[tuple[float, str]], words: str
) -> str:
    """The whole picture: marks within axes whose ticks are at pixels."""
    frame = [line(LEFT, BOTTOM, RIGHT, BOTTOM, "#333"), line(LEFT, TOP, LEFT, BOTTOM, "#333")]
    frame += [text(x, BOTTOM + 16, label) for x, label in ticks]
    frame += [text(LEFT - 6, y + 4, label, "end") for y, label in sides]
    body = "\n".join([*frame, *marks, text((LEFT + RIGHT) / 2, HEIGHT - 8, words)])
    body = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>\n{body}'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" font-family="sans-serif" '
        f'font-size="12">\n<title>{title}</title>\n{body}\n</svg>\n'
    )


def interval_picture() -> str:
    """Fifty benchmarks of 100 images of one model that is right on 95%."""
    rng, marks, misses = np.random.default_rng(1), [], 0
    x, y = scales((-1, 50), (84, 100))
    for at in range(50):
        right = rng.random(100) < 0.95
        low, high = score_interval(SHARE, [counts(right.astype(np.float64))], np.zeros(100, dtype=np.int64))
        assert low is not None
        assert high is not None
        missed = not low <= 95 <= high
        misses += missed
        colour = RED if missed else BLUE
        marks += [line(x(at), y(max(low, 84)), x(at), y(high), colour, ' stroke-width="2"')]
        marks += [dot(x(at), y(100 * right.mean()), colour)]
    marks.append(line(LEFT, y(95), RIGHT, y(95), "#333", ' stroke-dasharray="4 3"'))
    title = f"Intervals of 50 simulated benchmarks: {50 - misses} of 50 hold the truth, 95%"
    sides = [(y(value), f"{value}%") for value in (85, 90, 95, 100)]
    return drawing(title, marks, [], sides, f"50 benchmarks of 100 images; true rate 95% (dashed); {misses} miss it")


def swaps_picture() -> str:
    """One comparison: the differences after swaps, and the one seen."""
    rng, parts = np.random.default_rng(3), np.zeros(200, dtype=np.int64)
    base = rng.random(200) < 0.7
    other = np.where(rng.random(200) < 0.2, rng.random(200) < 0.9, base)
    sides = counts(base.astype(np.float64)), counts(other.astype(np.float64))
    match = Matched(base=[sides[0]], other=[sides[1]], metric=SHARE, higher_is_better=True, parts=parts)
    test = verdicts({"": match})[""]
    seen = test.difference or 0.0
    found = swapped([(SHARE, *sides)], parts, resamples=10_000, seed=0).differences[:, 0]
    values, often = np.unique(np.round(found, 6), return_counts=True)
    x, y = scales((-9, 9), (0, float(often.max()) / 100 * 1.05))
    marks = [
        line(x(value), BOTTOM, x(value), y(count / 100), RED if abs(value) >= seen - 1e-6 else GREY, BAR)
        for value, count in zip(values.tolist(), often.tolist(), strict=True)
        if abs(value) < 9
    ]
    marks.append(line(x(seen), TOP, x(seen), BOTTOM, BLUE, ' stroke-dasharray="4 3"'))
    marks.append(text(x(seen) + 4, TOP + 10, "seen", "start", BLUE))
    ticks = [(x(value), f"{value:+d}" if value else "0") for value in (-8, -4, 0, 4, 8)]
    return drawing(
        f"Differences after 10,000 swaps; seen {seen:+.1f}, p {test.p:.3f}",
        marks,
        ticks,
        [(y(value), f"{value}%") for value in (0, 5, 10)],
        f"difference after swaps, in points; seen {seen:+.1f}: p = {test.p:.3f} (red, of ties the half)",
    )


def holm_picture() -> str:
    """Twelve tests, of which four are of real differences."""
    rng = np.random.default_rng(4)
    p_values = sorted([*rng.random(8).tolist(), 0.0006, 0.0031, 0.008, 0.021])
    adjusted = holm(p_values)
    x, y = scales((0, 13), (-3.5, 0))
    marks = [path([(x(k + 1), y(np.log10(ALPHA / (12 - k)))) for k in range(12)], "#333")]
    marks += [
        dot(x(at + 1), y(np.log10(p)), BLUE if found <= ALPHA else GREY)
        for at, (p, found) in enumerate(zip(p_values, adjusted, strict=True))
    ]
    marks.append(line(LEFT, y(np.log10(ALPHA)), RIGHT, y(np.log10(ALPHA)), RED, ' stroke-dasharray="4 3"'))
    sides = [(y(value), label) for value, label in ((0, "1"), (-1, "0.1"), (-2, "0.01"), (-3, "0.001"))]
    ticks = [(x(rank), str(rank)) for rank in (1, 4, 8, 12)]
    found = sum(value <= ALPHA for value in adjusted)
    alone = sum(value <= ALPHA for value in p_values)
    title = f"Holm's adjustment of 12 p-values: {found} are found, {alone} are below 5%"
    words = f"12 tests by p; line: Holm's limit; dashed: 5%. Found: {found} (blue); alone: {alone}"
    return drawing(title, marks, ticks, sides, words)


def power_picture() -> str:
    """How often the test finds a true difference, alone and as one of 12, and what was promised."""
    rng, images, spread = np.random.default_rng(5), 200, Spread(answers=30.0**2)
    parts, metric = np.zeros(images, dtype=np.int64), mean_of("x")
    x, y = scales((0, 12), (0, 100))
    marks = [line(LEFT, y(80), RIGHT, y(80), GREY, ' stroke-dasharray="4 3"')]
    for tests, colour in ((1, BLUE), (12, RED)):
        promised = smallest_difference(spread, images, level=ALPHA / tests)
        marks.append(line(x(promised), BOTTOM, x(promised), y(80), colour, ' stroke-dasharray="2 3"'))
        points = []
        for gain in (0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0):
            hard = rng.normal(60, 20, (150, images))
            sides = hard, hard + rng.normal(gain, 30, hard.shape)
            every = {
                run: Matched(
                    base=[counts(sides[0][run])],
                    other=[counts(sides[1][run])],
                    metric=metric,
                    higher_is_better=True,
                    parts=parts,
                )
                for run in range(150)
            }
            found = [test.p <= ALPHA / tests for test in verdicts(every, resamples=2000).values()]
            points.append((x(gain), y(100 * float(np.mean(found)))))
        marks += [path(points, colour), *(dot(*point, colour) for point in points)]
    ticks = [(x(value), str(value)) for value in (0, 4, 8, 12)]
    sides_ = [(y(value), f"{value}%") for value in (0, 20, 40, 60, 80, 100)]
    words = "true difference, 200 images; blue: one test, red: one of 12; dotted: as promised"
    return drawing("Share of simulated runs that find a true difference", marks, ticks, sides_, words)


def judge_picture() -> str:
    """What repeats of a judge buy."""
    spread = Spread(answers=2.0, ratings=1.3, moods=0.003)
    x, y = scales((0.5, 10.5), (0, 0.7))
    marks = []
    for images, colour in ((100, BLUE), (500, RED)):
        points = [
            (x(repeats), y(smallest_difference(spread, images, repeats=repeats))) for repeats in (2, 3, 4, 5, 6, 8, 10)
        ]
        marks += [path(points, colour), *(dot(*point, colour) for point in points)]
        marks.append(text(RIGHT - 4, points[-1][1] - 8, f"{images} images", "end", colour))
    ticks = [(x(repeats), str(repeats)) for repeats in (2, 3, 5, 10)]
    sides = [(y(value), f"{value}") for value in (0.0, 0.2, 0.4, 0.6)]
    words = "--judge-repeats; up: smallest difference that 80% of runs find, on a scale of 0 to 6"
    return drawing("The smallest difference found, by repeats of the judge", marks, ticks, sides, words)


PICTURES: Final[dict[str, Callable[[], str]]] = {
    "interval.svg": interval_picture,
    "swaps.svg": swaps_picture,
    "holm.svg": holm_picture,
    "power.svg": power_picture,
    "judge.svg": judge_picture,
}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, draw in PICTURES.items():
        (FOLDER / name).write_text(draw(), encoding="utf-8")
