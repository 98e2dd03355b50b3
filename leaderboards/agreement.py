"""Can a judge be trusted? How two raters agree, and what moves a rater that should not.

    agreement = agree([1, 4, 5, None], [1, 5, 5, 2])
    agreement.kappa.value, agreement.kappa.low, agreement.kappa.high
    position_bias(ratings, positions).p

Raters are lists of ratings of the same items in the same order; None is no rating, and such a pair is left out and counted. Intervals are
95%, from resampled items. A measure that is not defined (all ratings alike) is nan.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
RESAMPLES: Final = 2000
ALPHA: Final = 0.05


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
    exact: Measured
    """% of items with the same rating."""
    within_one: Measured
    """% of items whose ratings differ by one at most."""
    kappa: Measured
    """Cohen's kappa."""
    weighted_kappa: Measured
    """Cohen's kappa with quadratic weights."""
    spearman: Measured
    alpha: Measured
    """Krippendorff's alpha for ordinal ratings."""
    bias: Measured
    """Mean of the second's ratings minus the first's."""


def agree(first: Sequence[float | None], second: Sequence[float | None], *, seed: int = 0, resamples: int = RESAMPLES) -> Agreement:
    """How `second` agrees with `first`; ValueError where no item has both ratings."""
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    if not pairs:
        raise ValueError("no item is rated by both")
    values = sorted({value for pair in pairs for value in pair})
    place = {value: index for index, value in enumerate(values)}
    table = np.zeros((len(values), len(values)))
    for a, b in pairs:
        table[place[a], place[b]] += 1
    scale = np.array(values, dtype=np.float64)
    # A resample of items is a multinomial draw from the table of pairs: ten thousand items cost no more than ten.
    drawn = np.random.default_rng(seed).multinomial(len(pairs), table.ravel() / len(pairs), size=resamples)
    tables = np.concatenate([table[None], drawn.reshape(resamples, *table.shape).astype(np.float64)])

    def measured(of_tables: Array) -> Measured:
        spread = of_tables[1:][~np.isnan(of_tables[1:])]
        low, high = np.quantile(spread, [ALPHA / 2, 1 - ALPHA / 2]) if spread.size else (np.nan, np.nan)
        return Measured(value=float(of_tables[0]), low=float(low), high=float(high))

    distance = np.abs(scale[:, None] - scale[None, :])
    with np.errstate(divide="ignore", invalid="ignore"):
        return Agreement(
            items=len(pairs),
            left_out=len(first) - len(pairs),
            exact=measured(100 * _mean(tables, (distance == 0).astype(np.float64))),
            within_one=measured(100 * _mean(tables, (distance <= 1).astype(np.float64))),
            kappa=measured(_kappa(tables, 1.0 - np.eye(len(scale)))),
            weighted_kappa=measured(_kappa(tables, distance**2)),
            spearman=measured(_spearman(tables)),
            alpha=measured(_alpha(tables)),
            bias=measured(_mean(tables, scale[None, :] - scale[:, None])),
        )


def _mean(tables: Array, worth: Array) -> Array:
    """Mean over the items of what each pair of ratings is worth."""
    return np.asarray((tables * worth).sum(axis=(1, 2)) / tables.sum(axis=(1, 2)))


def _kappa(tables: Array, weight: Array) -> Array:
    """1 minus observed over expected disagreement."""
    total = tables.sum(axis=(1, 2))
    expected = tables.sum(axis=2)[:, :, None] * tables.sum(axis=1)[:, None, :] / total[:, None, None]
    return np.asarray(1 - (tables * weight).sum(axis=(1, 2)) / (expected * weight).sum(axis=(1, 2)))


def _spearman(tables: Array) -> Array:
    """Correlation of mid-ranks."""
    total = tables.sum(axis=(1, 2))

    def ranks(counts: Array) -> Array:
        return np.asarray(counts.cumsum(axis=1) - counts / 2 - total[:, None] / 2)

    rows, columns = tables.sum(axis=2), tables.sum(axis=1)
    x, y = ranks(rows), ranks(columns)
    covariance = (tables * x[:, :, None] * y[:, None, :]).sum(axis=(1, 2))
    return np.asarray(covariance / np.sqrt((rows * x**2).sum(axis=1) * (columns * y**2).sum(axis=1)))


def _alpha(tables: Array) -> Array:
    """Krippendorff's alpha of two raters, ordinal distances: from how often values are met, by either."""
    coincidences = tables + tables.transpose(0, 2, 1)
    met = coincidences.sum(axis=2)
    total = met.sum(axis=1)
    upto = met.cumsum(axis=1)
    middle = upto - met / 2
    distance = (middle[:, :, None] - middle[:, None, :]) ** 2
    observed = (coincidences * distance).sum(axis=(1, 2))
    expected = (met[:, :, None] * met[:, None, :] * distance).sum(axis=(1, 2))
    return np.asarray(1 - (total - 1) * observed / expected)


@dataclass(frozen=True, kw_only=True)
class PositionBias:
    """Whether where a text stood in the prompt moved its rating."""

    means: Mapping[int, float]
    """Position -> mean rating."""
    p: float
    """Of a permutation test within items (Friedman where each item has all positions, else Kruskal-Wallis); nan where it can't be made."""


def position_bias(items: Sequence[str], positions: Sequence[int], ratings: Sequence[float | None]) -> PositionBias:
    """Mean rating by position, and a test; the order of texts must have been drawn by chance."""
    rated = [(item, at, value) for item, at, value in zip(items, positions, ratings, strict=True) if value is not None]
    places = sorted({at for _, at, _ in rated})
    by_place = {at: [value for _, place, value in rated if place == at] for at in places}
    means = {at: float(np.mean(values)) for at, values in by_place.items()}
    by_item: dict[str, dict[int, float]] = {}
    for item, at, value in rated:
        by_item.setdefault(item, {})[at] = value
    whole = [[found[at] for at in places] for found in by_item.values() if len(found) == len(places)]
    from scipy import stats  # inside: takes half a second

    if len(places) < 2 or len({value for _, _, value in rated}) < 2:
        return PositionBias(means=means, p=float("nan"))
    if len(places) > 2 and len(whole) == len(by_item) and len(whole) > 1:
        test = stats.friedmanchisquare(*zip(*whole, strict=True))
    else:
        test = stats.kruskal(*by_place.values())
    return PositionBias(means=means, p=float(test.pvalue))


@dataclass(frozen=True, kw_only=True)
class VerbosityBias:
    """Whether longer texts are rated higher."""

    spearman: float
    """Of rating with length, over all texts."""
    within: float
    """Mean over items of the same, among the texts of one item; nan where no item has two that differ."""


def verbosity_bias(items: Sequence[str], lengths: Sequence[float], ratings: Sequence[float | None]) -> VerbosityBias:
    """Rating against length, over all texts and within items."""
    rated = [(item, length, value) for item, length, value in zip(items, lengths, ratings, strict=True) if value is not None]
    by_item: dict[str, list[tuple[float, float]]] = {}
    for item, length, value in rated:
        by_item.setdefault(item, []).append((length, value))
    inside = [_rank_correlation(found) for found in by_item.values()]
    known = [value for value in inside if value == value]
    overall = _rank_correlation([(length, value) for _, length, value in rated])
    return VerbosityBias(spearman=overall, within=float(np.mean(known)) if known else float("nan"))


def _rank_correlation(pairs: Sequence[tuple[float, float]]) -> float:
    from scipy import stats

    if len({x for x, _ in pairs}) < 2 or len({y for _, y in pairs}) < 2:
        return float("nan")
    return float(stats.spearmanr(*zip(*pairs, strict=True)).statistic)


@dataclass(frozen=True, kw_only=True)
class SelfConsistency:
    """How a rater agrees with itself over repeats."""

    same: float
    """% of items rated alike in all repeats."""
    spread: float
    """Mean standard deviation within an item."""


def self_consistency(repeats: Sequence[Sequence[float | None]]) -> SelfConsistency:
    """Over items rated in every repeat; nan where there are none."""
    whole = [item for item in zip(*repeats, strict=True) if None not in item]
    if not whole:
        return SelfConsistency(same=float("nan"), spread=float("nan"))
    table = np.array(whole, dtype=np.float64)
    return SelfConsistency(same=100 * float((table == table[:, :1]).all(axis=1).mean()), spread=float(table.std(axis=1).mean()))


def largest_disagreements(
    ids: Sequence[str], first: Sequence[float | None], second: Sequence[float | None], count: int = 10
) -> list[tuple[str, float, float]]:
    """The items on which the raters differ most: id and both ratings."""
    pairs = [(item, a, b) for item, a, b in zip(ids, first, second, strict=True) if a is not None and b is not None and a != b]
    return sorted(pairs, key=lambda found: (-abs(found[1] - found[2]), found[0]))[:count]
