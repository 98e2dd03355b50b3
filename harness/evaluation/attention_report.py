"""The report of attention to images, for one model or two: values with intervals, table, plot and files.

print(write(Path("runs/attention"), base, tuned))     # the table; beside it attention.md, .png, .svg and .jsonl
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from harness.evaluation.attention import KINDS, Array, Attention, Kind
from leaderboards.statistics.verdict import Pair, PairedTest, interval, panel
from leaderboards.views.glossary import DIFFERENCE, INTERVAL, OF_TABLE, p_of
from support.errors import InputError
from support.files import atomic_write_text
from support.markdown import MISSING, cell, table
from support.plots import COLOURS, GREY, new_figure, plot_style, save_figure
from tasks.metric import Metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _mean_of(kind: Kind, what: str, scale: float) -> Metric:
    return Metric(
        counts=lambda records: (sum(r[f"{kind} {what}"] for r in records), sum(r[kind] for r in records)),
        value=lambda sums: scale * sums[..., 0] / sums[..., 1],
    )


def _gap_of(what: str, scale: float) -> Metric:
    return Metric(
        counts=lambda records: tuple(
            sum(r[name] for r in records)
            for name in (f"grounded {what}", "grounded", f"hallucinated {what}", "hallucinated")
        ),
        value=lambda sums: scale * (sums[..., 0] / sums[..., 1] - sums[..., 2] / sums[..., 3]),
    )


METRICS: Final[Mapping[str, Metric]] = {
    "answer tokens": _mean_of("tokens", "share", 100),
    "words of objects there": _mean_of("grounded", "share", 100),
    "words of objects not there": _mean_of("hallucinated", "share", 100),
    "there less not there": _gap_of("share", 100),
    "answer tokens, relative": _mean_of("tokens", "relative", 1),
    "words of objects there, relative": _mean_of("grounded", "relative", 1),
    "words of objects not there, relative": _mean_of("hallucinated", "relative", 1),
    "there less not there, relative": _gap_of("relative", 1),
}
"""Shares in %; relative shares as multiples of uniform attention."""


def _choose_metrics(found: Attention) -> dict[str, Metric]:
    """Those of `METRICS` that the task can give."""
    return {name: metric for name, metric in METRICS.items() if found.words or name.startswith("answer")}


def compare_models(base: Attention, tuned: Attention) -> dict[str, PairedTest]:
    """Paired tests of `tuned` against `base` over the documents measured for both, Holm-adjusted. InputError.

    "better" means a higher share, which need not be good.
    """
    if base.task != tuned.task:
        raise InputError(f"{base.model} was measured on {base.task}, {tuned.model} on {tuned.task}: nothing to compare")
    ours, theirs = ({one["id"] for one in found.records} for found in (base, tuned))
    if not (both := ours & theirs):
        raise InputError(f"{base.task}: no document was measured for both {base.model} and {tuned.model}")
    before, after = ([one for one in found.records if one["id"] in both] for found in (base, tuned))
    return panel(
        {name: Pair(before, after, metric, higher_is_better=True) for name, metric in _choose_metrics(base).items()}
    )


def by_layer(found: Attention, kind: Kind) -> Array | None:
    """Mean share of a kind in each layer [layers], 0 to 1; None where there is none of that kind."""
    count = sum(one[kind] for one in found.records)
    return np.sum([one[f"{kind} by layer"] for one in found.records], axis=0) / count if count else None


def render(base: Attention, tuned: Attention | None = None) -> str:
    """Markdown: each metric with its 95% interval, and the difference where there are two models."""
    verdicts = compare_models(base, tuned) if tuned is not None else {}
    header = ["attention on the image", "unit", cell(base.model)]
    header += [cell(tuned.model), "difference", "p", ""] if tuned is not None else []
    rows = []
    for name, metric in _choose_metrics(base).items():
        unit = "x even" if name.endswith("relative") else "%"
        row = [name, unit, _with_interval(base, metric)]
        if tuned is not None:
            row += [_with_interval(tuned, metric), *_difference_cells(verdicts[name])]
        rows.append(row)
    notes = [_describe_counts(found) for found in (base, tuned) if found is not None]
    notes += ["", INTERVAL if tuned is None else f"{INTERVAL} {DIFFERENCE} {p_of(OF_TABLE)}"]
    return f"{table(header, rows)}\n\n" + "\n".join(notes)


def _with_interval(found: Attention, metric: Metric) -> str:
    value = metric(found.records)
    if not np.isfinite(value):
        return MISSING
    low, high = interval(found.records, metric)
    return f"{value:.2f}" if low is None or high is None else f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _difference_cells(verdict: PairedTest) -> list[str]:
    if verdict.difference is None:
        return [MISSING, "", ""]
    ends = "" if verdict.low is None or verdict.high is None else f" [{verdict.low:+.2f}, {verdict.high:+.2f}]"
    outcome = {"better": "more", "worse": "less"}.get(verdict.outcome, verdict.outcome)
    return [f"{verdict.difference:+.2f}{ends}", f"{verdict.p:.3f}", outcome]


def _describe_counts(found: Attention) -> str:
    counts = {kind: sum(one[kind] for one in found.records) for kind in KINDS}
    words = f", {counts['grounded']} words of objects there, {counts['hallucinated']} of objects not there"
    why = f" ({cell('; '.join(found.failures[:3]))})" if found.failures else ""
    lost = f"; {found.failed} answers failed{why}, {found.empty} were empty" if found.failed + found.empty else ""
    read = (
        f"{len(found.records)} answers, {counts['tokens']} tokens{words if found.words else ''}, {found.layers} layers"
    )
    return f"{cell(found.model)}: {read}{lost}."


COLOUR_OF: Final[Mapping[Kind, str]] = {"tokens": GREY, "grounded": COLOURS[2], "hallucinated": COLOURS[1]}
LABELS: Final = dict(zip(KINDS, ("answer tokens", "objects there", "objects not there"), strict=True))


def _shorten(model: str) -> str:
    """Of a path, the last two parts."""
    return "/".join(Path(model).parts[-2:])


def plot(base: Attention, tuned: Attention | None, path: Path) -> None:
    """A PNG or SVG, by the path's suffix: share by layer, and the means with their 95% intervals. InputError for
    another suffix."""
    if path.suffix not in (".png", ".svg"):
        raise InputError(f"{path}: the plot is written as .png or .svg")
    with plot_style():
        save_figure(_draw(base, tuned), path)


def _draw(base: Attention, tuned: Attention | None) -> "Figure":
    models = [found for found in (base, tuned) if found is not None]
    figure = new_figure(figsize=(9.6, 3.8))
    curves, means = figure.subplots(1, 2, width_ratios=(3, 2))
    kinds = [kind for kind in KINDS if kind == "tokens" or base.words]
    for index, found in enumerate(models):
        filled = index == len(models) - 1
        for kind in kinds:
            line = by_layer(found, kind)
            if line is None:
                continue
            style, label = "o-" if filled else "o--", f"{LABELS[kind]}, {_shorten(found.model)}"
            curves.plot(range(1, len(line) + 1), 100 * line, style, color=COLOUR_OF[kind], markersize=3, label=label)
            metric = _mean_of(kind, "share", 100)
            value, (low, high) = metric(found.records), interval(found.records, metric)
            at = kinds.index(kind) + 0.3 * (index - (len(models) - 1) / 2)
            ends = None if low is None or high is None else [[max(0.0, value - low)], [max(0.0, high - value)]]
            face = COLOUR_OF[kind] if filled else "white"
            means.errorbar(at, value, yerr=ends, fmt="o", color=COLOUR_OF[kind], markerfacecolor=face, capsize=4)
    curves.set_xlabel("layer")
    curves.xaxis.get_major_locator().set_params(integer=True)
    curves.set_ylabel("attention on the image, %")
    curves.legend(fontsize=7, handlelength=4)
    means.set_xticks(range(len(kinds)), [LABELS[kind] for kind in kinds], fontsize=8)
    means.set_xlim(-0.6, len(kinds) - 0.4)
    title = f"\nhollow {_shorten(base.model)}, filled {_shorten(models[-1].model)}" if tuned else ""
    means.set_title(f"mean over layers, 95% interval{title}", fontsize=8)
    for axis in (curves, means):
        axis.grid()
    return figure


def write(out: Path, base: Attention, tuned: Attention | None = None) -> str:
    """The table; writes attention.md, .png, .svg, and .jsonl with the record of every answer."""
    text = render(base, tuned)
    models = [found for found in (base, tuned) if found is not None]
    lines = [
        json.dumps({"model": found.model, "task": found.task, **one}, ensure_ascii=False)
        for found in models
        for one in found.records
    ]
    atomic_write_text(out / "attention.jsonl", "".join(f"{line}\n" for line in lines))
    for suffix in ("png", "svg"):
        plot(base, tuned, out / f"attention.{suffix}")
    page = f"# Attention on images: {cell(base.task)}\n\n{text}\n\n![by layer](attention.png)\n"
    atomic_write_text(out / "attention.md", page)
    return text
