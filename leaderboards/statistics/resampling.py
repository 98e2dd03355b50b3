"""Bootstrap resamples and swaps of whole images, which every interval and test is made of. Each image is counted once;
a resample sums the counts with other weights.

    sides = [Counted(records, metric) for records in (base, other)]
    images = common(sides)                                          # images that both have records of
    parts = sides[0].strata(images)
    counts = [side.counts(images) for side in sides]
    drawn = bootstrap(counts, parts, metric, resamples=10_000, seed=0)      # scores [resamples, 2]

Three rules give the resamples the spread of the benchmark:
- Answers about one image depend on each other, so images are drawn, never answers.
- A benchmark has a fixed number of images in each category (MME: 20 to 200), so images are drawn within categories.
- The variance of n draws from n images is too small by the factor (n - 1) / n, 5% for a category of 20. So n - 1 images
  are drawn, each with weight n / (n - 1): the rescaled bootstrap of Rao and Wu (1988), right for every n.

The draw depends only on the number of images, their strata and the seed. So all models and metrics over the same images
share one draw: it costs little more than scoring one of them, and each gets the same numbers as alone.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from support.errors import RecordsError

Array = NDArray[np.float64]

Record = Mapping[str, Any]
"""JSON values, and `image`: the id of the image asked about.

Two more keys have a meaning: `cluster` (records of one cluster are drawn together, in place of `image`) and `category`
(the part of the benchmark that the question belongs to). Neither may depend on the answer.
"""

# Numbers drawn at once.
_FEW = 4
"""Parts of a draw whose counts are in the cache at once."""
_CELLS = 200_000

# Resamples in memory at once: with many models the sums are as wide as the images.
_ROWS = 1024


_STEP: Final = 1e-3  # of an image: small enough for a derivative, large enough for floats
_LEAST: Final = 1e-9  # of a variance: less is rounding
_BITS: Final = 36  # of an image's change: sums of 100,000 images are exact


class CountsMetric(Protocol):
    """A score that is a function of counts summed over images."""

    def by_image(self, records: Iterable[Record], /) -> tuple[list[str], Array]:
        """Image ids, and the counts of each image [images, k]."""

    def value(self, sums: Array, /) -> Array:
        """Sums of counts [..., k] -> score [...]; nan or infinite where the denominator is 0."""


class Counted:
    """One model's records for one metric; each image is counted once, however many models it is compared with."""

    def __init__(self, records: Sequence[Record], metric: CountsMetric) -> None:
        self.records = records
        self.metric = metric
        self._strata: dict[tuple[str, ...], NDArray[np.int64]] = {}

    @cached_property
    def images(self) -> list[str]:
        """The image (or cluster) of each record; RecordsError where a record names none."""
        try:
            return list(map(image_of, self.records))
        except KeyError:
            raise RecordsError("a record names no image") from None

    @cached_property
    def tally(self) -> Counter[str]:
        """How many records each image has."""
        return Counter(self.images)

    @cached_property
    def right(self) -> NDArray[np.bool_] | None:
        """Whether each record is correct; None unless every record has `correct` as true or false."""
        correct = [record.get("correct") for record in self.records]
        return np.array(correct, dtype=bool) if all(value in (False, True) for value in correct) else None

    def counts(self, images: Sequence[str]) -> Array:
        """Counts [images, k], in the order of `images`; RecordsError where the metric fails on the records, or a count
        is not finite."""
        row, counts = self._by_image
        return counts[[row[image] for image in images]]

    def strata(self, images: Sequence[str]) -> NDArray[np.int64]:
        """`strata` of these records, kept."""
        key = tuple(images)
        if key not in self._strata:
            self._strata[key] = strata(self.records, images)
        return self._strata[key]

    @cached_property
    def _by_image(self) -> tuple[dict[str, int], Array]:
        try:
            images, counts = self.metric.by_image(self.records)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            # A sample log may have been written by another program.
            raise RecordsError(f"the metric can't count these records: {type(error).__name__}: {error}") from error
        if not np.isfinite(counts).all():  # `value` would take such a count for a missing denominator
            image = images[int(np.flatnonzero(~np.isfinite(counts).all(axis=1))[0])]
            raise RecordsError(f"image {image!r}: what the metric counts is no finite number")
        return {image: index for index, image in enumerate(images)}, counts


def image_of(record: Record) -> str:
    """The unit of resampling that a record belongs to: its cluster, else its image."""
    return str(record.get("cluster", record["image"]))


def common(models: Sequence[Counted]) -> list[str]:
    """The images that all models have records of, in the first one's order; RecordsError if there is none, or the
    numbers of records of an image differ."""
    tallies = [model.tally for model in models]
    images = [image for image in tallies[0] if all(image in tally for tally in tallies)]
    if not images:
        raise RecordsError(f"no image is in {'both' if len(models) == 2 else 'all'} sets of records")
    for image in images:
        for tally in tallies:
            if (own := tally[image]) != (first := tallies[0][image]):
                raise RecordsError(f"image {image!r} has {first} records in one and {own} in the other")
    return images


def counts_of(records: Sequence[Record], images: Sequence[str], metric: CountsMetric) -> Array:
    """Counts [images, k], in the order of `images`."""
    return Counted(records, metric).counts(images)


def strata(records: Iterable[Record], images: Sequence[str]) -> NDArray[np.int64]:
    """The number of each image's stratum [images]: its category, if every image is in exactly one.

    A category with a single image shows no spread: all such categories together are one stratum; a single such category
    joins the smallest other one.
    """
    category_of: dict[str, str] = {}
    wanted = set(images)
    for record in records:
        category = str(record.get("category", ""))
        if (image := image_of(record)) in wanted and category_of.setdefault(image, category) != category:
            return np.zeros(len(images), dtype=np.int64)
    own = [category_of[image] for image in images]
    sizes = Counter(own)
    single = [category for category, size in sizes.items() if size == 1]
    large = sorted((size, category) for category, size in sizes.items() if size > 1)
    place = {category: index for index, (_, category) in enumerate(large)}
    rest = 0 if len(single) == 1 else len(large)
    return np.array([place.get(category, rest) for category in own], dtype=np.int64)


def value_of(metric: CountsMetric, sums: Array) -> Array:
    """The scores of summed counts; nan or infinite where the denominator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(metric.value(sums), dtype=np.float64)


def bootstrap(
    counts: Sequence[Array], parts: NDArray[np.int64], metric: CountsMetric, *, resamples: int, seed: int
) -> Array:
    """Scores [resamples, len(counts)]: each resample draws the same images from all `counts`, each [images, k].

    Needs at least two images, and at least two in each stratum of `parts` [images].
    """
    return bootstrap_each([(metric, own) for own in counts], parts, resamples=resamples, seed=seed)


def bootstrap_each(
    sides: Sequence[tuple[CountsMetric, Array]], parts: NDArray[np.int64], *, resamples: int, seed: int
) -> Array:
    """As `bootstrap`, where each side has its own metric."""
    rng = np.random.default_rng(seed)
    table = _CountsTable([counts for _, counts in sides], parts)
    scores = np.empty((resamples, len(sides)))
    blocks = _group_by_metric(sides)
    for rows in _split_rows(resamples, len(parts)):
        drawn = [_draw(rng, part.stop - part.start, rows.stop - rows.start) for part in table.parts]
        for few in _split_rows(rows.stop - rows.start, _FEW * len(parts)):
            times = np.empty((few.stop - few.start, len(parts)))
            for part, own in zip(table.parts, drawn, strict=True):
                times[:, part] = _count_drawn(own[few], part.stop - part.start)
            sums = table.sums(times, rescaled=True)
            own_rows = slice(rows.start + few.start, rows.start + few.stop)
            for metric, places, columns in blocks:
                scores[own_rows, places] = value_of(metric, sums[:, columns].reshape(len(sums), len(places), -1))
    return scores


class Swaps(NamedTuple):
    """Differences of two models after swaps, and how much such a difference varies within strata."""

    differences: Array
    """[resamples, pairs]; nan or infinite where a swap leaves a side without a score."""

    variances: Array
    """Of each difference within strata [resamples, pairs]."""

    own: Array
    """Of the differences before any swap [pairs]; (of a single stratum all variances are 1, as they decide nothing)."""

    whole: Array
    """What they are compared with [pairs]: the variance if no stratum had a difference of its own."""

    def scale(self, pair: int, judge: float) -> tuple[Array, float]:
        """What to multiply each difference after swaps [resamples] and before them by, so that all vary as much.

        `judge` is the standard error that a judge adds.
        """
        whole = self.whole[pair] + judge**2
        least = max(whole * _LEAST, np.finfo(np.float64).tiny)
        scales = np.sqrt(
            max(whole, least) / np.maximum(np.append(self.variances[:, pair], self.own[pair]) + judge**2, least)
        )
        return scales[:-1], float(scales[-1])


def swapped(
    pairs: Sequence[tuple[CountsMetric, Array, Array]], parts: NDArray[np.int64], *, resamples: int, seed: int
) -> Swaps:
    """Differences, second - first, after swaps: each image changes sides with chance 1/2, the same images in all pairs.

    A pair is a metric and two models' counts, each [images, k]; `parts` [images] are the strata.
    """
    rng = np.random.default_rng(seed)
    shifts = [(metric, other - base) for metric, base, other in pairs]
    table = _CountsTable([shift for _, shift in shifts], parts)
    first, second = (
        np.concatenate([counts.sum(axis=0) for counts in side])
        for side in ([base for _, base, _ in pairs], [other for _, _, other in pairs])
    )
    spread = _SpreadOfSwaps(pairs, parts) if len(table.parts) > 1 else None
    blocks = _group_by_metric(shifts)
    differences, variances = np.empty((resamples, len(pairs))), np.ones((resamples, len(pairs)))
    images = len(parts)
    for rows in _split_rows(resamples, images):
        octets = rng.integers(0, 256, size=(rows.stop - rows.start, -(-images // 8)), dtype=np.uint8)
        changed = np.unpackbits(octets, axis=1, count=images).astype(np.float64)
        moved = table.sums(changed)
        less, more = second - moved, first + moved
        for metric, places, columns in blocks:
            sides = [own[:, columns].reshape(len(own), len(places), -1) for own in (less, more)]
            differences[rows, places] = value_of(metric, sides[0]) - value_of(metric, sides[1])
        if spread is not None:
            variances[rows] = spread.after(changed)
    if spread is None:
        return Swaps(differences, variances, *np.ones((2, len(pairs))))
    return Swaps(differences, variances, spread.after(np.zeros((1, images)))[0], spread.whole)


class _SpreadOfSwaps:
    """The variance of each swapped difference, by how much every image changes it, less the mean of its stratum.

    What is taken off is less the part that a single stratum would have too, which depends on the difference alone: it
    would order nothing anew.
    """

    def __init__(self, pairs: Sequence[tuple[CountsMetric, Array, Array]], parts: NDArray[np.int64]) -> None:
        order = np.argsort(parts, kind="stable")
        changes = np.stack([changes_by_swaps(*pair) for pair in pairs], axis=1)[order]
        own = [changes[parts[order] == part] for part in np.unique(parts)]
        ends = np.cumsum([len(changes) for changes in own])
        self._own = [(slice(end - len(changes), end), changes) for end, changes in zip(ends, own, strict=True)]
        by_part = np.stack([(one**2).sum(axis=0) * len(one) / max(len(one) - 1, 1) for one in own])
        self.whole = by_part.sum(axis=0)
        freedom = np.array([[max(len(one) - 1, 1)] for one in own])
        self._shared = (by_part**2 / freedom).sum(axis=0) / np.where(self.whole > 0, self.whole, 1) ** 2

    def after(self, changed: Array) -> Array:
        """[rows, pairs], of which images [rows, images] changed sides."""
        total, taken = np.zeros((len(changed), len(self.whole))), np.zeros((len(changed), len(self.whole)))
        for part, changes in self._own:
            sums = changes.sum(axis=0) - 2 * (changed[:, part] @ changes)
            total += sums
            taken += sums**2 / max(len(changes) - 1, 1)
        return np.asarray(np.maximum(self.whole - taken + self._shared * total**2, 0.0))


def changes_by_swaps(metric: CountsMetric, base: Array, other: Array) -> Array:
    """What each image adds to the difference [images], by the metric's slope between both models; rounded, so that
    sums have no rounding and depend on no other pair."""
    shift, middle = other - base, (base.sum(axis=0) + other.sum(axis=0)) / 2
    changes = (value_of(metric, middle + _STEP * shift) - value_of(metric, middle - _STEP * shift)) / (2 * _STEP)
    changes = np.where(np.isfinite(changes), changes, 0.0)
    largest = float(abs(changes).max(initial=0.0))
    unit = 2.0 ** (math.frexp(largest)[1] - _BITS)
    return np.asarray(np.rint(changes / unit) * unit)


class _CountsTable:
    """Counts of many sides in one table, so that one matrix product sums all of them."""

    def __init__(self, counts: Sequence[Array], parts: NDArray[np.int64]) -> None:
        order = np.argsort(parts, kind="stable")
        table = np.ascontiguousarray(np.concatenate(counts, axis=1)[order])
        ends = np.flatnonzero(np.diff(parts[order], append=parts.max() + 1)) + 1
        self.parts = [slice(int(start), int(end)) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
        """The rows of each stratum, once images are sorted by stratum."""
        self._width = table.shape[1]
        used = [_as_slice(np.flatnonzero(table[part].any(axis=0)).tolist()) for part in self.parts]
        self._own = [(columns, table[part, columns]) for part, columns in zip(self.parts, used, strict=True)]

    def sums(self, weights: Array, *, rescaled: bool = False) -> Array:
        """Weighted sums [rows, columns], of `weights` [rows, images]; with `rescaled` each stratum's times n / (n - 1).

        Integer counts are summed without rounding, so no column depends on how many others there are.
        """
        sums = np.zeros((len(weights), self._width))
        # Only columns that a stratum uses: an image of one MME category has 4 of 56.
        for part, (columns, counts) in zip(self.parts, self._own, strict=True):
            images = part.stop - part.start
            own = weights[:, part] @ counts
            sums[:, columns] += own * (images / (images - 1)) if rescaled else own
        return sums


def _group_by_metric(
    sides: Sequence[tuple[CountsMetric, Array]],
) -> list[tuple[CountsMetric, list[int], list[int] | slice]]:
    """Each metric, the indices of its sides, and the columns of these sides in the table of all counts."""
    starts = np.cumsum([0, *(counts.shape[1] for _, counts in sides)])
    blocks: dict[int, tuple[CountsMetric, list[int], list[int]]] = {}
    for place, (metric, _) in enumerate(sides):
        _, places, columns = blocks.setdefault(id(metric), (metric, [], []))
        places.append(place)
        columns += range(starts[place], starts[place + 1])
    return [(metric, places, _as_slice(columns)) for metric, places, columns in blocks.values()]


def _as_slice(columns: list[int]) -> list[int] | slice:
    """A slice where columns are consecutive, which copies nothing."""
    return slice(columns[0], columns[-1] + 1) if columns and columns[-1] - columns[0] == len(columns) - 1 else columns


def _split_rows(rows: int, width: int) -> Iterator[slice]:
    """Slices of `rows`, small enough that a table of `width` columns stays in the processor's cache."""
    step = max(1, min(_ROWS, _CELLS // width))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def _draw(rng: np.random.Generator, images: int, rows: int) -> NDArray[np.int32]:
    """n - 1 of n images, drawn with replacement, [rows, n - 1]."""
    return rng.integers(0, images, size=(rows, images - 1), dtype=np.int32)


def _count_drawn(drawn: NDArray[np.int32], images: int) -> NDArray[np.int64]:
    """How often [rows, images] each image was drawn."""
    rows = len(drawn)
    places = drawn + images * np.arange(rows)[:, None]
    return np.bincount(places.ravel(), minlength=rows * images).reshape(rows, images)


def percentiles(scores: Array) -> tuple[float, float] | tuple[None, None]:
    """The middle 95% of the finite scores; (None, None) if there is none."""
    scores = scores[np.isfinite(scores)]
    if not scores.size:
        return None, None
    low, high = np.percentile(scores, [2.5, 97.5])
    return float(low), float(high)
