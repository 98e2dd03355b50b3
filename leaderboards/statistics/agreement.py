"""Can a judge be trusted? How two raters agree, and what moves a rater that should not.

    agreement = agree([1, 4, 5, None], [1, 5, 5, 2])
    agreement.kappa.value, agreement.kappa.low, agreement.kappa.high
    position_bias(items, positions, ratings).p

Raters are lists of ratings of the same items in the same order, on any scale of numbers; None is no rating, and such a
pair is left out and counted. Intervals are 95%, from resampled items, or from resampled groups of items where some hang
together. A measure that is not defined (all ratings alike) is nan.
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

_CELLS: Final = 500_000  # groups x resamples held at once: a few MB, which stay in the processor's cache

_TIE: Final = 1e-9  # 1.9 and 0.9 are one apart, whatever their difference is in floats


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
    """Of items, as they were resampled."""
    exact: Measured
    """% of items with the same rating."""
    within_one: Measured
    """% of items whose ratings differ by one at most."""
    kappa: Measured
    """Cohen's kappa."""
    weighted_kappa: Measured
    """Cohen's kappa with quadratic weights, of the ratings themselves (not of their order)."""
    spearman: Measured
    alpha: Measured
    """Krippendorff's alpha for ordinal ratings."""
    bias: Measured
    """Mean of the second's ratings minus the first's."""


def agree(
    first: Sequence[float | None],
    second: Sequence[float | None],
    *,
    groups: Sequence[str] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Agreement:
    """How `second` agrees with `first`; ValueError where no item has both ratings.

    `groups` names what each item belongs to: ratings out of one call depend on each other, so whole groups are drawn.
    """
    triples = zip(first, second, groups if groups is not None else range(len(first)), strict=True)
    rated = [(a, b, group) for a, b, group in triples if a is not None and b is not None]
    if not rated:
        raise ValueError("no item is rated by both")
    pairs, kind = _pairs([(a, b) for a, b, _ in rated])
    place = {group: index for index, group in enumerate(dict.fromkeys(group for _, _, group in rated))}
    counts = _table(np.array([place[group] for _, _, group in rated]), kind)
    values = _measures(pairs, np.asarray(counts.sum(axis=0), dtype=np.float64)[None])[:, 0]
    drawn = np.hstack([_measures(pairs, weights @ counts) for weights in _draws(len(place), resamples, seed)])

    def measured(index: int) -> Measured:
        low, high = (
            _interval(drawn[index]) if len(place) > 1 else (np.nan, np.nan)
        )  # one group, drawn again and again, shows no spread
        return Measured(value=float(values[index]), low=float(low), high=float(high))

    return Agreement(
        items=len(rated),
        left_out=len(first) - len(rated),
        groups=len(place),
        exact=measured(0),
        within_one=measured(1),
        kappa=measured(2),
        weighted_kappa=measured(3),
        spearman=measured(4),
        alpha=measured(5),
        bias=measured(6),
    )


class _Pairs(NamedTuple):
    """The distinct pairs of ratings that occur."""

    scale: Array
    """The distinct ratings, rising [values]."""
    left: Indices
    """Where the first's rating of each pair is on the scale [pairs]."""
    right: Indices


def _pairs(rated: Sequence[tuple[float, float]]) -> tuple[_Pairs, Indices]:
    """The distinct pairs, and which of them each item is."""
    both = np.array(rated, dtype=np.float64)
    scale, codes = np.unique(both, return_inverse=True)
    left, right = codes.reshape(both.shape).T
    found, kind = np.unique(left * len(scale) + right, return_inverse=True)
    return _Pairs(scale, found // len(scale), found % len(scale)), kind


def _table(rows: Indices, columns: Indices) -> Any:
    """How often each row meets each column: sparse, as there may be as many pairs as items."""
    from scipy.sparse import csr_array  # inside: takes a moment, and the board needs none of it

    return csr_array((np.ones(len(rows)), (rows, columns)), shape=(rows.max() + 1, columns.max() + 1))


def _draws(groups: int, resamples: int, seed: int) -> Iterator[Array]:
    """How often each group is in each resample [some resamples, groups]."""
    rng = np.random.default_rng(seed)
    step = max(1, _CELLS // groups)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(0, groups, size=(rows, groups)) + groups * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * groups).reshape(rows, groups).astype(np.float64)


def _interval(values: Array) -> Array:
    known = values[~np.isnan(values)]
    return np.quantile(known, [ALPHA / 2, 1 - ALPHA / 2]) if known.size else np.array([np.nan, np.nan])


def _measures(pairs: _Pairs, weights: Array) -> Array:
    """The measures of `Agreement` in their order [measures, resamples], of how often each pair occurs [resamples,
    pairs].

    All go through what each rater's ratings add up to, never through a square table: a scale of a thousand values costs
    no more memory than one of five.
    """
    scale, left, right = pairs
    total = weights.sum(axis=1)
    rows, columns = weights @ _onehot(left, len(scale)), weights @ _onehot(right, len(scale))
    apart = scale[right] - scale[left]
    same = weights @ (left == right).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.stack(
            [
                100 * same / total,
                100 * (weights @ (np.abs(apart) <= 1 + _TIE).astype(np.float64)) / total,
                1 - (total - same) * total / (total**2 - (rows * columns).sum(axis=1)),
                _quadratic_kappa(scale, weights @ apart**2, rows, columns, total),
                _spearman(pairs, weights, rows, columns),
                _alpha(pairs, weights, rows + columns),
                weights @ apart / total,
            ]
        )


def _onehot(codes: Indices, values: int) -> Any:
    from scipy.sparse import csr_array

    return csr_array((np.ones(len(codes)), (np.arange(len(codes)), codes)), shape=(len(codes), values))


def _quadratic_kappa(scale: Array, observed: Array, rows: Array, columns: Array, total: Array) -> Array:
    """1 minus observed over expected squared difference."""
    met = rows + columns
    centred = scale - (met @ scale / (2 * total))[:, None]  # near the ratings drawn: large equal squares would cancel
    expected = (met * centred**2).sum(axis=1) - 2 * (rows * centred).sum(axis=1) * (columns * centred).sum(
        axis=1
    ) / total
    return np.where(np.count_nonzero(met, axis=1) > 1, 1 - observed / expected, np.nan)


def _mid_ranks(counts: Array) -> Array:
    """Rank of each value, ties in the middle, zero on average."""
    return np.asarray(counts.cumsum(axis=-1) - counts / 2 - counts.sum(axis=-1, keepdims=True) / 2)


def _spearman(pairs: _Pairs, weights: Array, rows: Array, columns: Array) -> Array:
    x, y = _mid_ranks(rows), _mid_ranks(columns)
    covariance = (weights * x[:, pairs.left] * y[:, pairs.right]).sum(axis=1)
    return np.asarray(covariance / np.sqrt((rows * x**2).sum(axis=1) * (columns * y**2).sum(axis=1)))


def _alpha(pairs: _Pairs, weights: Array, met: Array) -> Array:
    """Krippendorff's alpha of two raters; ordinal values are as far apart as their mid-ranks among all ratings."""
    ranks, total = _mid_ranks(met), met.sum(axis=1)
    observed = 2 * (weights * (ranks[:, pairs.left] - ranks[:, pairs.right]) ** 2).sum(axis=1)
    return np.asarray(1 - (total - 1) * observed / (2 * total * (met * ranks**2).sum(axis=1)))


def krippendorff_alpha(raters: Sequence[Sequence[float | None]]) -> float:
    """Krippendorff's alpha for ordinal ratings by any number of raters; items with fewer than two ratings say
    nothing."""
    items = [[value for value in item if value is not None] for item in zip(*raters, strict=True)]
    items = [item for item in items if len(item) > 1]
    if not items:
        return float("nan")
    values, met = np.unique(np.concatenate(items), return_counts=True)
    if len(values) < 2:
        return float("nan")
    ranks = _mid_ranks(met.astype(np.float64))
    rank = dict(zip(values.tolist(), ranks.tolist(), strict=True))
    observed = 0.0
    for item in items:
        own = [rank[float(value)] for value in item]
        observed += 2 * (len(own) * sum(r * r for r in own) - sum(own) ** 2) / (len(own) - 1)
    total = int(met.sum())
    return float(1 - (total - 1) * observed / (2 * total * (met * ranks**2).sum()))


@dataclass(frozen=True, kw_only=True)
class PositionBias:
    """Whether where a text stood in the prompt moved its rating."""

    means: Mapping[int, float]
    """Position -> mean rating."""
    test: Literal["Friedman", "sign test", "Kruskal-Wallis", "none"]
    """The first two compare texts of one item; they are used where most items have one text in every position."""
    p: float
    """Of means at least as different if position did not matter; nan where it can't be tested."""
    effect: float
    """0 (position says nothing) to 1 (it says all): Kendall's W within items, epsilon squared for Kruskal-Wallis."""
    items: int
    """Tested."""
    left_out: int
    """Not tested, as they lack a position."""


def position_bias(items: Sequence[str], positions: Sequence[int], ratings: Sequence[float | None]) -> PositionBias:
    """Mean rating by position, and a test; the order of texts must have been drawn by chance."""
    rated = [(item, at, value) for item, at, value in zip(items, positions, ratings, strict=True) if value is not None]
    places = sorted({at for _, at, _ in rated})
    by_place = {at: [value for _, place, value in rated if place == at] for at in places}
    by_item: dict[str, list[tuple[int, float]]] = {}
    for item, at, value in rated:
        by_item.setdefault(item, []).append((at, value))
    whole = [
        [value for _, value in sorted(found)] for found in by_item.values() if sorted(at for at, _ in found) == places
    ]
    test, p, effect = _position_test(list(by_place.values()), whole, most=2 * len(whole) >= len(by_item))
    within = test in ("Friedman", "sign test")
    return PositionBias(
        means={at: float(np.mean(values)) for at, values in by_place.items()},
        test=test,
        p=p,
        effect=effect,
        items=len(whole) if within else len(by_item) if test == "Kruskal-Wallis" else 0,
        left_out=len(by_item) - len(whole) if within else 0,
    )


def _position_test(
    by_place: Sequence[Sequence[float]], whole: Sequence[Sequence[float]], *, most: bool
) -> tuple[Literal["Friedman", "sign test", "Kruskal-Wallis", "none"], float, float]:
    """Name, p and effect size."""
    from scipy import stats  # inside: takes half a second

    places = len(by_place)
    if places < 2 or len({value for values in by_place for value in values}) < 2:
        return "none", float("nan"), float("nan")
    if not most or len(whole) < 2:
        found = stats.kruskal(*by_place)
        return "Kruskal-Wallis", float(found.pvalue), float(found.statistic) / (sum(map(len, by_place)) - 1)
    if all(len(set(values)) == 1 for values in whole):
        return "none", float("nan"), float("nan")
    if places > 2:
        found = stats.friedmanchisquare(*zip(*whole, strict=True))
        return "Friedman", float(found.pvalue), float(found.statistic) / (len(whole) * (places - 1))
    wins, losses = (
        sum(a > b for a, b in whole),
        sum(a < b for a, b in whole),
    )  # Friedman's test of two places, but exact
    p = float(stats.binomtest(wins, wins + losses).pvalue)
    return "sign test", p, (wins - losses) ** 2 / ((wins + losses) * len(whole))


@dataclass(frozen=True, kw_only=True)
class VerbosityBias:
    """Whether longer texts are rated higher."""

    spearman: float
    """Of rating with length, over all texts."""
    within: float
    """Mean over items of the same, among the texts of one item; nan where no item has two that differ."""


def verbosity_bias(items: Sequence[str], lengths: Sequence[float], ratings: Sequence[float | None]) -> VerbosityBias:
    """Rating against length, over all texts and within items."""
    rated = [
        (item, length, value) for item, length, value in zip(items, lengths, ratings, strict=True) if value is not None
    ]
    by_item: dict[str, list[tuple[float, float]]] = {}
    for item, length, value in rated:
        by_item.setdefault(item, []).append((length, value))
    inside = [_rank_correlation(found) for found in by_item.values()]
    known = [value for value in inside if value == value]
    overall = _rank_correlation([(length, value) for _, length, value in rated])
    return VerbosityBias(spearman=overall, within=float(np.mean(known)) if known else float("nan"))


def _rank_correlation(found: Sequence[tuple[float, float]]) -> float:
    from scipy import stats

    if len({x for x, _ in found}) < 2 or len({y for _, y in found}) < 2:
        return float("nan")
    x, y = (stats.rankdata(values) for values in zip(*found, strict=True))
    return float(
        np.corrcoef(x, y)[0, 1]
    )  # spearmanr finds a p-value, too: with a thousand items of four texts, for a second


@dataclass(frozen=True, kw_only=True)
class SelfConsistency:
    """How a rater agrees with itself over repeats."""

    items: int
    """Rated in every repeat."""
    left_out: int
    """Not rated in one of them."""
    same: float
    """% of the items that are rated alike in all repeats."""
    alpha: float
    """Krippendorff's alpha for ordinal ratings, of all items rated twice at least."""
    spread: float
    """Mean standard deviation within an item."""


def self_consistency(repeats: Sequence[Sequence[float | None]]) -> SelfConsistency:
    """Of the ratings of the same items in each repeat; nan where no item has all."""
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
    """An item, and two ratings of it that differ."""

    id: str
    first: float
    second: float


def largest_disagreements(
    ids: Sequence[str], first: Sequence[float | None], second: Sequence[float | None], count: int = 10
) -> list[Disagreement]:
    """The items on which the raters differ most."""
    rated = zip(ids, first, second, strict=True)
    found = [Disagreement(item, a, b) for item, a, b in rated if a is not None and b is not None and a != b]
    return sorted(found, key=lambda one: (-abs(one.first - one.second), one.id))[:count]
