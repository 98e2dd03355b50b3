"""The statistics of rated data as markdown tables, beside what VLFeedback's authors published of theirs."""

from collections.abc import Mapping, Sequence

from support.markdown import cell, table
from trainers.config.data import ASPECTS
from trainers.data.published import PUBLISHED_RATINGS, PUBLISHED_RED_TEAM, published_model
from trainers.data.statistics import NOT_A_NUMBER, NOT_RATED, OFF_SCALE, POINTS, Statistics, mean_of, quantiles, shares

LONGEST_NAME = 80
"""Characters of a name from the data that are shown."""


def tables_of(found: Statistics) -> str:
    """All of the statistics; no heading above level 2, so that it fits a card or a report."""
    parts = [
        f"{found.rows:,} rows with {sum(found.answers.values()):,} answers of {len(found.answers)} models.",
        _rows(found),
        "## Ratings\n\n" + _ratings(found),
        "## Models\n\n" + _models(found),
        "## Pairs\n\n" + _pairs(found),
        "## Which model beats which\n\n" + _wins(found),
        "## Length\n\n" + _length(found),
        "## Ratings that are no number\n\n" + _unusable(found),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _shown(text: str) -> str:
    return cell(text if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]}…")


def _rows(found: Statistics) -> str:
    counts = ", ".join(f"{count} ({rows:,} rows)" for count, rows in sorted(found.answers_per_row.items()))
    text = f"Answers a row: {counts}. "
    if lengths := quantiles(found.prompt_characters):
        text += f"Characters of the prompt: {', '.join(f'{name} {value:,}' for name, value in lengths.items())}."
    named = [[_shown(source), f"{rows:,}"] for source, rows in found.sources.most_common() if source]
    return f"{text}\n\n{table(['source', 'rows'], named)}" if named else text


def _ratings(found: Statistics) -> str:
    rows = []
    for aspect in ASPECTS:
        rows += _rating_rows(aspect, found.distribution(aspect), PUBLISHED_RATINGS[aspect])
    if any(red for _, _, red, _ in found.ratings):
        red_team = found.distribution(ASPECTS[1], red_team=True)
        rows += _rating_rows("Ethical Considerations, red team", red_team, PUBLISHED_RED_TEAM)
    between = any(points not in (*POINTS, NOT_A_NUMBER, OFF_SCALE, NOT_RATED) for _, _, _, points in found.ratings)
    others = "; others count in the mean" if between else ""
    head = ["aspect", "", *POINTS, "mean", "ratings"]
    return f"{table(head, rows)}\n\nIn % of the ratings that are 1 to 5{others}."


def _rating_rows(label: str, found: Mapping[str, int], published: Sequence[float]) -> list[list[str]]:
    mean, total = mean_of(found), sum(found.get(points, 0) for points in POINTS)
    theirs = sum(points * share for points, share in enumerate(published, start=1)) / sum(published)
    ours = [f"{share:.1f}" for share in shares(found)] or [""] * len(POINTS)
    return [
        [label, "here", *ours, "" if mean is None else f"{mean:.2f}", f"{total:,}"],
        ["", "published", *(f"{share:.1f}" for share in published), f"{theirs:.2f}", ""],
    ]


def _models(found: Statistics) -> str:
    rows = []
    for model in found.models():
        published = published_model(model)
        theirs = published.means() if published else {}
        means = {aspect: mean_of(found.distribution(aspect, model=model)) for aspect in ASPECTS}
        average = _beside(found.average(model), published.average if published else None)
        length = f"{found.characters[model] / found.answers[model]:.0f}"
        ours = [_beside(means[aspect], theirs.get(aspect)) for aspect in ASPECTS]
        rows.append([_shown(model), f"{found.answers[model]:,}", *ours, average, length])
    head = ["model", "answers", *ASPECTS, "average", "characters"]
    return f"{table(head, rows)}\n\nMean ratings; in brackets what the paper says of the model (Table 2)."


def _beside(value: float | None, published: float | None) -> str:
    return ("" if value is None else f"{value:.2f}") + ("" if published is None else f" ({published:.2f})")


def _pairs(found: Statistics) -> str:
    head = ["rule", "pairs", "ties", "non-numeric", "refused", "rows without", "of equal texts"]
    numbers = {
        name: (one.pairs, one.ties, one.skipped_non_numeric, one.refused, one.rows_without_pairs, one.same_text)
        for name, one in found.pairs.items()
    }
    return table(head, [[_shown(name), *(f"{count:,}" for count in counts)] for name, counts in numbers.items()])


def _wins(found: Statistics) -> str:
    models = found.models()
    rates = {model: [found.win_rate(model, other) for other in models] for model in models}
    rows = [
        [_shown(model), *("" if rate is None else f"{100 * rate:.0f}" for rate in line)]
        for model, line in rates.items()
    ]
    return (
        f"{table(['', *map(_shown, models)], rows)}\n\nIn % of the pairs of the two (authors' rule) in which the row's "
        f"model is chosen; {sum(found.ties.values()):,} ties left out."
    )


def _length(found: Statistics) -> str:
    bias = found.length_bias()
    if bias.longer is None or bias.equal is None:
        return "No pairs."
    text = (
        f"Of {bias.pairs:,} pairs (authors' rule) {100 * bias.longer:.1f}% choose the longer answer, "
        f"{100 * bias.equal:.1f}% have answers of one length"
    )
    if bias.ratio is not None:
        text += f"; chosen answers are {bias.ratio:.2f} times as long (geometric mean)"
    if bias.correlation is not None:
        text += f". Rank correlation of length and mean rating: {bias.correlation:.2f}"
    return f"{text}."


def _unusable(found: Statistics) -> str:
    kinds = [(aspect, what) for aspect in ASPECTS for what in (NOT_A_NUMBER, OFF_SCALE, NOT_RATED)]
    counts = {
        model: [found.distribution(aspect, model=model)[what] for aspect, what in kinds] for model in found.models()
    }
    rows = [[_shown(model), *(f"{count:,}" for count in line)] for model, line in counts.items() if any(line)]
    if not rows:
        return "None: every answer has every rating."
    seen = ", ".join(f"{_shown(repr(rating))} ({count:,})" for rating, count in found.not_numbers.most_common())
    text = table(["model", *(f"{aspect}: {what}" for aspect, what in kinds)], rows)
    return f"{text}\n\nAmong them: {seen}." if seen else text
