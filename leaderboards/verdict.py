"""Better, worse, or not separable: two models on the same questions, judged by the official metric itself.

    compare(base_records, other_records, accuracy, higher_is_better=True)
    # Verdict(difference=2.1, low=0.4, high=3.9, p=0.015, base=71.0, other=73.1, images=500, outcome="better", ...)

A record is what a task counted for one answer, and names its image. Answers about one image depend on each other, so whole images are
drawn: the interval is a paired bootstrap over images, the p-value a permutation test which swaps the two models' answers image by image.
Both compute the metric anew from the drawn images' counts, so a ratio, an F1 or an acc+ is treated as what it is, never as a mean of
samples.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

Record = Mapping[str, Any]
"""JSON values, and `image`: the id of the image asked about; `cluster`, where answers about several images hang together."""

Outcome = Literal["better", "worse", "not separable"]

ALPHA = 0.05

_CELLS = 500_000  # images x resamples held at once: a few MB, which stay in the processor's cache

_TIE = 1e-9  # of the score: two ways to sum the same counts differ by less, two different answers by more

_K = TypeVar("_K")


class CountsMetric(Protocol):
    """A score that is a function of sums over images."""

    def by_image(self, records: Iterable[Record], /) -> tuple[list[str], Array]:
        """Image ids, and their counts [images, k]."""

    def value(self, sums: Array, /) -> Array:
        """Sums of counts [..., k] -> score [...]; nan or infinite where there is no denominator."""


class Pair(NamedTuple):
    """Two models' records for one metric."""

    base: Sequence[Record]
    other: Sequence[Record]
    metric: CountsMetric
    higher_is_better: bool


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How `other` stands against `base` on one metric, over the images both were asked about."""

    difference: float | None
    """other - base, in the metric's unit; None = one of them has no score."""

    low: float | None
    """Lower end of the difference's 95% interval; None = there is none."""

    high: float | None
    """Upper end of the difference's 95% interval; None = there is none."""

    p: float
    """Of a difference at least as large if the models were the same; adjusted for the size of the panel, if in one."""

    base: float | None
    other: float | None

    images: int
    """Images compared."""

    higher_is_better: bool

    @property
    def outcome(self) -> Outcome:
        """Of `other`, at the 5% level."""
        if self.difference is None or self.difference == 0 or self.p > ALPHA:
            return "not separable"
        return "better" if (self.difference > 0) == self.higher_is_better else "worse"


def compare(
    base: Sequence[Record],
    other: Sequence[Record],
    metric: CountsMetric,
    *,
    higher_is_better: bool,
    resamples: int = 10_000,
    seed: int = 0,
) -> Verdict:
    """The verdict on `other`; ValueError if an image has more records on one side, or none is on both."""
    ours, theirs = _paired_counts(base, other, metric)
    before, after = (_finite(_value(metric, counts.sum(axis=0))) for counts in (ours, theirs))
    low, high, p = None, None, 1.0
    if before is not None and after is not None:
        width = ours.shape[1]
        sums = _bootstrap_sums(np.hstack([ours, theirs]), resamples, seed)
        low, high = _interval(_value(metric, sums[:, width:]) - _value(metric, sums[:, :width]), images=len(ours))
        p = _permutation_p(ours, theirs, metric, resamples, seed)
    return Verdict(
        difference=None if before is None or after is None else after - before,
        low=low,
        high=high,
        p=p,
        base=before,
        other=after,
        images=len(ours),
        higher_is_better=higher_is_better,
    )


def interval(
    records: Sequence[Record], metric: CountsMetric, *, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float] | tuple[None, None]:
    """The 95% interval of one model's score; (None, None) below two images, or if no resample has a score."""
    images, counts = metric.by_image(records)
    if not images:
        return None, None
    return _interval(_value(metric, _bootstrap_sums(counts, resamples, seed)), images=len(images))


def panel(pairs: Mapping[_K, Pair], *, resamples: int = 10_000, seed: int = 0) -> dict[_K, Verdict]:
    """The verdicts on several metrics, judged together."""
    return adjusted(
        {
            name: compare(base, other, metric, higher_is_better=higher_is_better, resamples=resamples, seed=seed)
            for name, (base, other, metric, higher_is_better) in pairs.items()
        }
    )


def adjusted(verdicts: Mapping[_K, Verdict]) -> dict[_K, Verdict]:
    """The same verdicts, with p-values by Holm's method: the chance of even one false "better" or "worse" among them stays below 5%."""
    p_values = holm([verdict.p for verdict in verdicts.values()])
    return {name: replace(verdict, p=p) for (name, verdict), p in zip(verdicts.items(), p_values, strict=True)}


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given."""
    result = [0.0] * len(p_values)
    floor = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[index]))
        result[index] = floor
    return result


def _paired_counts(base: Sequence[Record], other: Sequence[Record], metric: CountsMetric) -> tuple[Array, Array]:
    """Counts [images, k] of both, the images in the same order."""
    ours, theirs = (Counter(str(record.get("cluster", record["image"])) for record in records) for records in (base, other))
    common = [image for image in ours if image in theirs]
    if not common:
        raise ValueError("no image is in both sets of records")
    for image in common:
        if ours[image] != theirs[image]:
            raise ValueError(f"image {image!r} has {ours[image]} records in one and {theirs[image]} in the other")
    return _counts(base, common, metric), _counts(other, common, metric)


def _counts(records: Sequence[Record], images: Sequence[str], metric: CountsMetric) -> Array:
    ids, counts = metric.by_image(records)
    row = {image: index for index, image in enumerate(ids)}
    return counts[[row[image] for image in images]]


def _value(metric: CountsMetric, sums: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(metric.value(sums), dtype=np.float64)


def _finite(score: Array) -> float | None:
    return float(score) if np.isfinite(score) else None


def _chunks(images: int, resamples: int) -> Iterator[slice]:
    step = max(1, _CELLS // images)
    for start in range(0, resamples, step):
        yield slice(start, min(start + step, resamples))


def _bootstrap_sums(counts: Array, resamples: int, seed: int) -> Array:
    """Sums [resamples, k] over as many images as there are, drawn with replacement."""
    rng = np.random.default_rng(seed)
    images, width = counts.shape
    sums = np.empty((resamples, width))
    for chunk in _chunks(images, resamples):
        rows = chunk.stop - chunk.start
        drawn = rng.integers(0, images, size=(rows, images)) + images * np.arange(rows)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=rows * images).reshape(rows, images)
        sums[chunk] = weights.astype(np.float64) @ counts
    return sums


def _interval(scores: Array, *, images: int) -> tuple[float, float] | tuple[None, None]:
    scores = scores[np.isfinite(scores)]
    if images < 2 or not scores.size:  # one image drawn again and again shows no spread at all
        return None, None
    low, high = np.percentile(scores, [2.5, 97.5])
    return float(low), float(high)


def _permutation_p(base: Array, other: Array, metric: CountsMetric, resamples: int, seed: int) -> float:
    """Two-sided; a swap that leaves the metric without a score counts against a difference."""
    base_sum, other_sum = base.sum(axis=0), other.sum(axis=0)
    scores = _value(metric, base_sum), _value(metric, other_sum)
    threshold = abs(scores[1] - scores[0]) - _TIE * max(abs(scores[0]), abs(scores[1]))
    shifts = (other - base)[(other != base).any(axis=1)]  # to swap equal counts changes nothing
    if not len(shifts):
        return 1.0
    rng = np.random.default_rng(seed)
    extreme = 0
    for chunk in _chunks(len(shifts), resamples):
        octets = rng.integers(0, 256, size=(chunk.stop - chunk.start, -(-len(shifts) // 8)), dtype=np.uint8)
        moved = np.unpackbits(octets, axis=1, count=len(shifts)).astype(np.float64) @ shifts
        differences = _value(metric, other_sum - moved) - _value(metric, base_sum + moved)
        extreme += int(np.count_nonzero(~(abs(differences) < threshold)))
    return (1 + extreme) / (1 + resamples)
