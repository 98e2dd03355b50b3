"""Where the marks of a chart stand."""

import re

import pytest

from leaderboards.board.entry import Entry
from leaderboards.views.learning_curves import Point
from leaderboards.views.svg_charts import bars, curve, profile
from tests.leaderboards.makers import MakeEntry, page


@pytest.fixture
def two(make_entry: MakeEntry) -> list[Entry]:
    return [make_entry(), make_entry(run="run-2", model="tuned", value=4.0, low=2.0, high=6.5)]


def test_bars_stand_in_order_on_an_axis_that_holds_all_intervals(make_entry: MakeEntry) -> None:
    values: dict[str, tuple[float | None, float | None, float | None]] = {
        "b": (50.0, 40.0, 60.0),
        "none": (None, None, None),
        "a": (90.0, 80.0, 100.0),
    }
    entries = [
        make_entry(model=m, value=v, low=low, high=high, higher_is_better=True) for m, (v, low, high) in values.items()
    ]
    chart = bars(entries, base="b")
    assert [row.model for row in chart.rows] == ["a", "b", "none"]
    best, base, none = chart.rows
    assert none.at is none.low is none.high is None
    assert base.is_base
    places = [base.low, base.at, base.high, best.low, best.at, best.high]
    assert places == sorted(place for place in places if place is not None)
    assert 0 <= min(tick.at for tick in chart.ticks) <= max(tick.at for tick in chart.ticks) <= 100
    assert [tick.text for tick in chart.ticks] == ["40", "60", "80", "100"]


def test_ticks_have_the_decimals_that_tell_them_apart(make_entry: MakeEntry) -> None:
    chart = bars([make_entry(value=5.31, low=5.2, high=5.5, unit="0-6")], base=None)
    texts = [tick.text for tick in chart.ticks]
    assert len(set(texts)) == len(texts) >= 2


def test_a_curve_has_a_point_for_each_scored_checkpoint_and_a_band_where_there_are_intervals(
    make_entry: MakeEntry,
) -> None:
    points = [Point(step=20, entry=make_entry(value=4.0)), Point(step=0, entry=make_entry(value=19.3))]
    points.append(Point(step=10, entry=make_entry(value=None, low=None, high=None)))
    chart = curve("CHAIR", {"dpo": points, "empty": []})
    assert chart is not None
    (line,) = chart.lines
    assert [step for step, _ in line.numbers] == [0, 20]
    (first, second) = line.dots
    assert first[0] < second[0]
    assert first[1] < second[1]  # the higher score stands higher, at the smaller y
    assert len(line.band.split()) == 4
    assert len(line.whiskers) == 2
    assert chart.summary.startswith("CHAIR against training step. dpo: 19.3 [15.3, 23.0] at step 0, 4.0 ")
    assert curve("CHAIR", {"dpo": points[2:]}) is None


def test_the_best_is_on_top_of_every_axis_of_the_profile(make_entry: MakeEntry) -> None:
    columns = [
        [
            make_entry(metric=metric, model=model, value=value, higher_is_better=up, low=None, high=None)
            for model, value in (("a", 1.0), ("b", 2.0))
        ]
        for metric, up in (("x", True), ("y", False), ("z", True))
    ]
    columns[1].pop()  # b has no y
    columns[1].append(make_entry(metric="y", model="c", value=3.0, higher_is_better=False, low=None, high=None))
    drawing = profile(columns, ["a", "b", "c"])
    assert drawing is not None
    a, b, c = drawing.traces
    assert [axis.best for axis in drawing.axes] == ["2.0", "1.0", "2.0"]
    assert a.dots[0][1] > b.dots[0][1]
    assert a.dots[1][1] < c.dots[0][1]
    assert b.segments == []  # a gap on either side
    assert len(a.segments) == 1
    assert profile(columns[:2], ["a", "b", "c"]) is None


def test_scores_within_their_intervals_stand_close_in_the_profile(make_entry: MakeEntry) -> None:
    def apart(reach: float) -> float:
        columns = [
            [
                make_entry(metric=m, model=a, value=v, low=v - reach, high=v + reach)
                for a, v in (("a", 50.0), ("b", 51.0))
            ]
            for m in "xyz"
        ]
        drawing = profile(columns, ["a", "b"])
        assert drawing is not None
        one, other = (trace.dots[0][1] for trace in drawing.traces)
        return abs(one - other)

    assert apart(10.0) < 0.1 * apart(0.01)


@pytest.mark.parametrize(("arms", "bands"), ((2, 2), (10, 0)))
def test_every_arm_of_a_curve_has_a_mark_of_its_own_and_many_are_told_apart(
    make_entry: MakeEntry, arms: int, bands: int
) -> None:
    points = [Point(step=step, entry=make_entry(value=step, low=step - 1, high=step + 1)) for step in (1, 9)]
    html = page([points[0].entry], title="t", curves={"CHAIR": {f"arm {place}": points for place in range(arms)}})
    found = re.search(r'<section id="curves".*?</section>', html, re.S)
    assert found
    swatches = re.findall(r'<svg class="swatch.*?</svg>', found[0], re.S)
    assert len(set(swatches)) == len(swatches) == arms
    assert found[0].count('class="band') == bands
    assert found[0].count('class="whisker"') == 2 * arms


@pytest.mark.parametrize(
    "values", ((150.0, 160.0), (-5.0, -3.0), (-1e308, 1e308), (0.0, 5e-324), (50.0, 50.0), (0.0, 0.0))
)
@pytest.mark.parametrize("unit", ("%", "0-6", "points"))
def test_any_score_that_a_file_may_hold_can_be_drawn(
    values: tuple[float, float], unit: str, make_entry: MakeEntry
) -> None:
    columns = [
        [
            make_entry(run=f"r{place}", model=f"m{place}", task=task, unit=unit, value=value, low=None, high=None)
            for place, value in enumerate(values)
        ]
        for task in "abc"
    ]
    entries = [entry for column in columns for entry in column]
    html = page(
        entries,
        title="t",
        curves={"a": {"arm": [Point(step=place, entry=entry) for place, entry in enumerate(columns[0])]}},
    )
    marks = [float(at) for at in re.findall(r'<circle class="point" cx="([^"%]*)%"', html)]
    assert len(marks) == 6
    assert all(0 <= at <= 100 for at in marks)
    assert "nan" not in re.sub(r"<(script|style)\b.*?</\1>", "", html, flags=re.S)
