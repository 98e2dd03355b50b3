"""How far two raters agree, and whether a rater is biased by the position or the length of a text.

    agreement = agree([1, 4, 5, None], [1, 5, 5, 2])
    agreement.kappa.value, agreement.kappa.low, agreement.kappa.high
    position_bias(items, positions, ratings).p

A rater is a list of ratings of the same items in the same order, on any scale of numbers. None is no rating: such an
item is left out and counted. Intervals are 95% bootstrap intervals over items, or over groups of items that depend on
each other. A measure that is not defined (all ratings equal) is nan.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

RESAMPLES: Final = 2000
ALPHA: Final = 0.05

_CELLS: Final = 500_000  # groups x resamples in memory at once: a few MB, which stay in the processor's cache

_TIE: Final = 1e-9  # 1.9 - 0.9 counts as 1 despite rounding


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A measure with its 95% interval; nan where there is none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How two raters of the same items agree."""

    items: int
    """Rated by both."""
    left_out: int
    """Not rated by one of them."""
    groups: int
    """Groups of items that were resampled."""
    exact: Measured
    """% of items with the same rating."""
    within_one: Measured
    """% of items whose ratings differ by at most 1."""
    kappa: Measured
    """Cohen's kappa."""
    weighted_kappa: Measured
    """Cohen's kappa with quadratic weights, of the ratings' values (not of their ranks)."""
    spearman: Measured
    alpha: Measured
    """Krippendorff's alpha for ordinal ratings."""
    bias: Measured
    """Mean of the second rater's rating minus the first's."""


def agree(
    first: Sequence[float | None],
    second: Sequence[float | None],
    *,
    groups: Sequence[str] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Agreement:
    """How far `second` agrees with `first`; ValueError if no item has both ratings.

    `groups` has the group of each item: ratings from one judge call depend on each other, so whole groups are drawn.
    """
    triples = zip(first, second, groups if groups is not None else range(len(first)), strict=True)
    rated = [(a, b, group) for a, b, group in triples if a is not None and b is not None]
    if not rated:
        raise ValueError("no item is rated by both")
    pairs, kind = _index_pairs([(a, b) for a, b, _ in rated])
    place = {group: index for index, group in enumerate(dict.fromkeys(group for _, _, group in rated))}
    counts = _count_pairs(np.array([place[group] for _, _, group in rated]), kind)
    values = _compute_measures(pairs, np.asarray(counts.sum(axis=0), dtype=np.float64)[None])
    drawn = [_compute_measures(pairs, weights @ counts) for weights in _draw_groups(len(place), resamples, seed)]

    def measured(name: str) -> Measured:
        # A single group, drawn again and again, shows no spread.
        ends = _interval(np.concatenate([block[name] for block in drawn])) if len(place) > 1 else (np.nan, np.nan)
        return Measured(value=float(values[name][0]), low=float(ends[0]), high=float(ends[1]))

    return Agreement(
        items=len(rated),
        left_out=len(first) - len(rated),
        groups=len(place),
        **{name: measured(name) for name in values},
    )


class _Pairs(NamedTuple):
    """The distinct pairs of ratings that occur."""

    scale: Array
    """The distinct ratings, ascending [values]."""
    left: Indices
    """Index in `scale` of the first rater's rating [pairs]."""
    right: Indices
    """Index in `scale` of the second rater's rating [pairs]."""


def _index_pairs(rated: Sequence[tuple[float, float]]) -> tuple[_Pairs, Indices]:
    """The distinct pairs, and the index of each item's pair."""
    both = np.array(rated, dtype=np.float64)
    scale, codes = np.unique(both, return_inverse=True)
    left, right = codes.reshape(both.shape).T
    distinct, kind = np.unique(left * len(scale) + right, return_inverse=True)
    return _Pairs(scale, distinct // len(scale), distinct % len(scale)), kind


def _count_pairs(rows: Indices, columns: Indices) -> Any:
    """Counts [groups, pairs]; sparse, since there may be as many pairs as items."""
    from scipy.sparse import csr_array  # inside: slow to import, and boards don't need it

    return csr_array((np.ones(len(rows)), (rows, columns)), shape=(rows.max() + 1, columns.max() + 1))


def _draw_groups(groups: int, resamples: int, seed: int) -> Iterator[Array]:
    """How often each group is in each resample, in blocks [some resamples, groups]."""
    rng = np.random.default_rng(seed)
    step = max(1, _CELLS // groups)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(0, groups, size=(rows, groups)) + groups * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * groups).reshape(rows, groups).astype(np.float64)


def _interval(values: Array) -> Array:
    known = values[~np.isnan(values)]
    return np.quantile(known, [ALPHA / 2, 1 - ALPHA / 2]) if known.size else np.array([np.nan, np.nan])


def _compute_measures(pairs: _Pairs, weights: Array) -> dict[str, Array]:
    """The measures of `Agreement` by name, each [resamples], from the counts of pairs [resamples, pairs].

    Computed from each rater's counts of ratings, never from a square table, so that a scale of a thousand values needs
    no more memory than one of five.
    """
    scale, left, right = pairs
    total = weights.sum(axis=1)
    rows, columns = weights @ _onehot(left, len(scale)), weights @ _onehot(right, len(scale))
    apart = scale[right] - scale[left]
    same = weights @ (left == right).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "exact": 100 * same / total,
            "within_one": 100 * (weights @ (np.abs(apart) <= 1 + _TIE).astype(np.float64)) / total,
            "kappa": 1 - (total - same) * total / (total**2 - (rows * columns).sum(axis=1)),
            "weighted_kappa": _quadratic_kappa(scale, weights @ apart**2, rows, columns, total),
            "spearman": _spearman(pairs, weights, rows, columns),
            "alpha": _alpha(pairs, weights, rows + columns),
            "bias": weights @ apart / total,
        }


def _onehot(codes: Indices, values: int) -> Any:
    from scipy.sparse import csr_array

    return csr_array((np.ones(len(codes)), (np.arange(len(codes)), codes)), shape=(len(codes), values))


def _quadratic_kappa(scale: Array, observed: Array, rows: Array, columns: Array, total: Array) -> Array:
    """1 - (observed / expected squared difference)."""
    both = rows + columns
    # Centred on the mean rating, so that no large equal squares cancel.
    centred = scale - (both @ scale / (2 * total))[:, None]
    product = (rows * centred).sum(axis=1) * (columns * centred).sum(axis=1)
    expected = (both * centred**2).sum(axis=1) - 2 * product / total
    return np.where(np.count_nonzero(both, axis=1) > 1, 1 - observed / expected, np.nan)


def _mid_ranks(counts: Array) -> Array:
    """Rank of each value, ties at their mean rank, shifted so that the mean rank is 0."""
    return np.asarray(counts.cumsum(axis=-1) - counts / 2 - counts.sum(axis=-1, keepdims=True) / 2)


def _spearman(pairs: _Pairs, weights: Array, rows: Array, columns: Array) -> Array:
    x, y = _mid_ranks(rows), _mid_ranks(columns)
    covariance = (weights * x[:, pairs.left] * y[:, pairs.right]).sum(axis=1)
    return np.asarray(covariance / np.sqrt((rows * x**2).sum(axis=1) * (columns * y**2).sum(axis=1)))


def _alpha(pairs: _Pairs, weights: Array, both: Array) -> Array:
    """Krippendorff's alpha of two raters; the distance of two ordinal values is that of their mid-ranks among all
    ratings."""
    ranks, total = _mid_ranks(both), both.sum(axis=1)
    observed = 2 * (weights * (ranks[:, pairs.left] - ranks[:, pairs.right]) ** 2).sum(axis=1)
    return np.asarray(1 - (total - 1) * observed / (2 * total * (both * ranks**2).sum(axis=1)))


def krippendorff_alpha(raters: Sequence[Sequence[float | None]]) -> float:
    """Krippendorff's alpha for ordinal ratings by any number of raters, over items with at least two ratings."""
    items = [[value for value in item if value is not None] for item in zip(*raters, strict=True)]
    items = [item for item in items if len(item) > 1]
    if not items:
        return float("nan")
    values, counts = np.unique(np.concatenate(items), return_counts=True)
    if len(values) < 2:
        return float("nan")
    ranks = _mid_ranks(counts.astype(np.float64))
    rank = dict(zip(values.tolist(), ranks.tolist(), strict=True))
    observed = 0.0
    for item in items:
        own = [rank[float(value)] for value in item]
        observed += 2 * (len(own) * sum(r * r for r in own) - sum(own) ** 2) / (len(own) - 1)
    total = int(counts.sum())
    return float(1 - (total - 1) * observed / (2 * total * (counts * ranks**2).sum()))


@dataclass(frozen=True, kw_only=True)
class PositionBias:
    """Whether the position of a text in the prompt changed its rating."""

    means: Mapping[int, float]
    """Position -> mean rating."""
    test: Literal["Friedman", "sign test", "Kruskal-Wallis", "none"]
    """The first two compare texts of one item: used if at least half of the items have one text in every position."""
    p: float
    """p-value of equal ratings in all positions; nan where it can't be tested."""
    effect: float
    """0 (no effect of position) to 1: Kendall's W within items, epsilon squared for Kruskal-Wallis."""
    items: int
    """Items tested."""
    left_out: int
    """Items not tested, since a position is missing."""


def position_bias(items: Sequence[str], positions: Sequence[int], ratings: Sequence[float | None]) -> PositionBias:
    """Mean rating by position, and a test of it; the order of texts must have been random."""
    rated = [(item, at, value) for item, at, value in zip(items, positions, ratings, strict=True) if value is not None]
    places = sorted({at for _, at, _ in rated})
    by_place = {at: [value for _, place, value in rated if place == at] for at in places}
    by_item: dict[str, list[tuple[int, float]]] = {}
    for item, at, value in rated:
        by_item.setdefault(item, []).append((at, value))
    sorted_items = [sorted(pairs) for pairs in by_item.values()]
    whole = [[value for _, value in pairs] for pairs in sorted_items if [at for at, _ in pairs] == places]
    test, p, effect = _test_positions(list(by_place.values()), whole, most=2 * len(whole) >= len(by_item))
    within = test in ("Friedman", "sign test")
    return PositionBias(
        means={at: float(np.mean(values)) for at, values in by_place.items()},
        test=test,
        p=p,
        effect=effect,
        items=len(whole) if within else len(by_item) if test == "Kruskal-Wallis" else 0,
        left_out=len(by_item) - len(whole) if within else 0,
    )


def _test_positions(
    by_place: Sequence[Sequence[float]], whole: Sequence[Sequence[float]], *, most: bool
) -> tuple[Literal["Friedman", "sign test", "Kruskal-Wallis", "none"], float, float]:
    """Name of the test, p and effect size."""
    from scipy import stats  # inside: importing it takes half a second

    places = len(by_place)
    if places < 2 or len({value for values in by_place for value in values}) < 2:
        return "none", float("nan"), float("nan")
    if not most or len(whole) < 2:
        result = stats.kruskal(*by_place)
        return "Kruskal-Wallis", float(result.pvalue), float(result.statistic) / (sum(map(len, by_place)) - 1)
    if all(len(set(values)) == 1 for values in whole):
        return "none", float("nan"), float("nan")
    if places > 2:
        result = stats.friedmanchisquare(*zip(*whole, strict=True))
        return "Friedman", float(result.pvalue), float(result.statistic) / (len(whole) * (places - 1))
    # With two positions Friedman's test is the sign test, which is exact.
    wins, losses = sum(a > b for a, b in whole), sum(a < b for a, b in whole)
    p = float(stats.binomtest(wins, wins + losses).pvalue)
    return "sign test", p, (wins - losses) ** 2 / ((wins + losses) * len(whole))


@dataclass(frozen=True, kw_only=True)
class VerbosityBias:
    """Whether longer texts are rated higher."""

    spearman: float
    """Spearman's correlation of rating and length, over all texts."""
    within: float
    """The same among the texts of one item, mean over items; nan where no item has two that differ."""


def verbosity_bias(items: Sequence[str], lengths: Sequence[float], ratings: Sequence[float | None]) -> VerbosityBias:
    """Correlation of rating and length, over all texts and within items."""
    by_item: dict[str, list[tuple[float, float]]] = {}
    for item, length, value in zip(items, lengths, ratings, strict=True):
        if value is not None:
            by_item.setdefault(item, []).append((length, value))
    inside = [_rank_correlation(texts) for texts in by_item.values()]
    known = [value for value in inside if value == value]
    overall = _rank_correlation([text for texts in by_item.values() for text in texts])
    return VerbosityBias(spearman=overall, within=float(np.mean(known)) if known else float("nan"))


def _rank_correlation(points: Sequence[tuple[float, float]]) -> float:
    from scipy import stats

    if len({x for x, _ in points}) < 2 or len({y for _, y in points}) < 2:
        return float("nan")
    x, y = (stats.rankdata(values) for values in zip(*points, strict=True))
    # Not spearmanr: its p-value costs a second for a thousand items of four texts.
    return float(np.corrcoef(x, y)[0, 1])


@dataclass(frozen=True, kw_only=True)
class SelfConsistency:
    """How far a rater agrees with itself over repeats."""

    items: int
    """Items rated in every repeat."""
    left_out: int
    """Items not rated in every repeat."""
    same: float
    """% of items with the same rating in all repeats."""
    alpha: float
    """Krippendorff's alpha for ordinal ratings, over items rated at least twice."""
    spread: float
    """Mean standard deviation within an item."""


def self_consistency(repeats: Sequence[Sequence[float | None]]) -> SelfConsistency:
    """Agreement of the repeats, each with a rating (or None) of every item; nan if no item is rated in all."""
    items = list(zip(*repeats, strict=True))
    whole = [item for item in items if None not in item]
    table = np.array(whole, dtype=np.float64)
    return SelfConsistency(
        items=len(whole),
        left_out=len(items) - len(whole),
        same=100 * float((table == table[:, :1]).all(axis=1).mean()) if whole else float("nan"),
        alpha=krippendorff_alpha(repeats),
        spread=float(table.std(axis=1).mean()) if whole else float("nan"),
    )


class Disagreement(NamedTuple):
    """An item with two different ratings."""

    id: str
    first: float
    second: float


def largest_disagreements(
    ids: Sequence[str], first: Sequence[float | None], second: Sequence[float | None], count: int = 10
) -> list[Disagreement]:
    """The `count` items on which the raters differ most."""
    rated = zip(ids, first, second, strict=True)
    differing = [Disagreement(item, a, b) for item, a, b in rated if a is not None and b is not None and a != b]
    return sorted(differing, key=lambda one: (-abs(one.first - one.second), one.id))[:count]
