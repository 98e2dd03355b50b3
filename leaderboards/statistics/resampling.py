"""What every interval and test draws: whole images, whose counts are taken once and summed with other weights for each
resample.

    sides = [Counted(records, metric) for records in (base, other)]
    images = common(sides)                                          # those that both were asked about
    parts = sides[0].strata(images)
    counts = [side.counts(images) for side in sides]
    drawn = bootstrap(counts, parts, metric, resamples=10_000, seed=0)      # scores [resamples, 2]

Three things make the spread of the resamples that of the benchmark. Answers about one image depend on each other, so
images are drawn, never answers. A benchmark with a fixed number of images in each category (MME: 20 to 200) would have
the same number if it were made anew, so images are drawn within categories. And n images drawn from n vary by (n - 1) /
n too little, which is 5% for a category of 20: so n - 1 are drawn, each of weight n / (n - 1) (the rescaled bootstrap
of Rao and Wu, 1988), which makes the variance of a sum right for every n.

What is drawn depends on the number of images, their strata and the seed alone. So any number of models and metrics over
the same images are scored on one draw, which costs little more than one of them, and none of them gets another number
for it.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from support.errors import RecordsError

Array = NDArray[np.float64]

Record = Mapping[str, Any]
"""JSON values, and `image`: the id of the image asked about.

Two more keys have a meaning: `cluster`, where answers about several images hang together, and `category`, which part of
the benchmark the question belongs to. Neither may depend on the answer.
"""

# numbers held at once: 1.6 MB stay in the processor's cache, and are not asked of the system again and again
_CELLS = 200_000

_ROWS = 1024  # resamples held at once, since many models' sums are as wide as many images


class CountsMetric(Protocol):
    """A score that is a function of sums over images."""

    def by_image(self, records: Iterable[Record], /) -> tuple[list[str], Array]:
        """Image ids, and their counts [images, k]."""

    def value(self, sums: Array, /) -> Array:
        """Sums of counts [..., k] -> score [...]; nan or infinite where there is no denominator."""


class Counted:
    """One model's records by one metric; what is counted of each image is taken once, however many models it is held
    against."""

    def __init__(self, records: Sequence[Record], metric: CountsMetric) -> None:
        self.records = records
        self.metric = metric
        self._strata: dict[tuple[str, ...], NDArray[np.int64]] = {}

    @cached_property
    def images(self) -> list[str]:
        """Of each record; RecordsError where one names none."""
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
        """Of each record whether it is correct; None where one does not say yes or no."""
        found = [record.get("correct") for record in self.records]
        return np.array(found, dtype=bool) if all(one in (False, True) for one in found) else None

    def counts(self, images: Sequence[str]) -> Array:
        """Counts [images, k], in the order of `images`; RecordsError where the metric can't count the records, or
        counts no numbers."""
        row, counts = self._by_image
        return counts[[row[image] for image in images]]

    def strata(self, images: Sequence[str]) -> NDArray[np.int64]:
        """As the function of that name says."""
        key = tuple(images)
        if key not in self._strata:
            self._strata[key] = strata(self.records, images)
        return self._strata[key]

    @cached_property
    def _by_image(self) -> tuple[dict[str, int], Array]:
        try:
            images, counts = self.metric.by_image(self.records)
        except (
            ArithmeticError,
            AttributeError,
            LookupError,
            TypeError,
            ValueError,
        ) as error:  # anyone may have written the log
            raise RecordsError(f"the metric can't count these records: {type(error).__name__}: {error}") from error
        if not np.isfinite(counts).all():  # which a metric may take for no denominator, or for a comparison that fails
            image = images[int(np.flatnonzero(~np.isfinite(counts).all(axis=1))[0])]
            raise RecordsError(f"image {image!r}: what the metric counts is no finite number")
        return {image: index for index, image in enumerate(images)}, counts


def image_of(record: Record) -> str:
    """What is drawn when this record is."""
    return str(record.get("cluster", record["image"]))


def common(models: Sequence[Counted]) -> list[str]:
    """The images about which all have records, in the first one's order; RecordsError if there is none, or one has more
    of one."""
    tallies = [model.tally for model in models]
    images = [image for image in tallies[0] if all(image in found for found in tallies)]
    if not images:
        raise RecordsError(f"no image is in {'both' if len(models) == 2 else 'all'} sets of records")
    for image in images:
        for found in tallies:
            if found[image] != tallies[0][image]:
                raise RecordsError(
                    f"image {image!r} has {tallies[0][image]} records in one and {found[image]} in the other"
                )
    return images


def counts_of(records: Sequence[Record], images: Sequence[str], metric: CountsMetric) -> Array:
    """Counts [images, k], in the order of `images`."""
    return Counted(records, metric).counts(images)


def strata(records: Iterable[Record], images: Sequence[str]) -> NDArray[np.int64]:
    """The part of the benchmark that each image was drawn for [images]: its category, if every image is in exactly one.

    A category with one image shows no spread, so such categories are taken as one, and one that is left over goes to
    the smallest other.
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
    """The scores of sums; what has no denominator is nan or infinite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(metric.value(sums), dtype=np.float64)


def bootstrap(
    counts: Sequence[Array], parts: NDArray[np.int64], metric: CountsMetric, *, resamples: int, seed: int
) -> Array:
    """Scores [resamples, len(counts)]: each resample draws the same images from all `counts`, every one [images, k].

    At least two images, and no stratum in `parts` [images] with one alone.
    """
    return bootstrap_each([(metric, own) for own in counts], parts, resamples=resamples, seed=seed)


def bootstrap_each(
    sides: Sequence[tuple[CountsMetric, Array]], parts: NDArray[np.int64], *, resamples: int, seed: int
) -> Array:
    """As `bootstrap`, of sides that have a metric each."""
    rng = np.random.default_rng(seed)
    beside = _Beside([counts for _, counts in sides], parts)
    scores = np.empty((resamples, len(sides)))
    blocks = _blocks(sides)
    for rows in _chunks(resamples, len(parts)):
        times = np.empty((rows.stop - rows.start, len(parts)))
        for part in beside.parts:
            times[:, part] = _times_drawn(rng, part.stop - part.start, len(times))
        sums = beside.sums(times, rescaled=True)
        for metric, places, columns in blocks:
            scores[rows, places] = value_of(metric, sums[:, columns].reshape(len(sums), len(places), -1))
    return scores


def swapped(
    pairs: Sequence[tuple[CountsMetric, Array, Array]], parts: NDArray[np.int64], *, resamples: int, seed: int
) -> Array:
    """Differences [resamples, pairs], second - first: each time the same images change sides, each with chance 1/2, in
    all pairs.

    A pair is a metric and two models' counts, each [images, k]; `parts` [images] are the strata. nan or infinite where
    a swap leaves a side without a score.
    """
    rng = np.random.default_rng(seed)
    shifts = [(metric, other - base) for metric, base, other in pairs]
    beside = _Beside([shift for _, shift in shifts], parts)
    first, second = (
        np.concatenate([counts.sum(axis=0) for counts in side])
        for side in ([base for _, base, _ in pairs], [other for _, _, other in pairs])
    )
    blocks = _blocks(shifts)
    differences = np.empty((resamples, len(pairs)))
    images = len(parts)
    for rows in _chunks(resamples, images):
        octets = rng.integers(0, 256, size=(rows.stop - rows.start, -(-images // 8)), dtype=np.uint8)
        moved = beside.sums(np.unpackbits(octets, axis=1, count=images).astype(np.float64))
        less, more = second - moved, first + moved
        for metric, places, columns in blocks:
            sides = [own[:, columns].reshape(len(own), len(places), -1) for own in (less, more)]
            differences[rows, places] = value_of(metric, sides[0]) - value_of(metric, sides[1])
    return differences


class _Beside:
    """Counts of many sides, side by side, so that one product of matrices sums all of them."""

    def __init__(self, counts: Sequence[Array], parts: NDArray[np.int64]) -> None:
        order = np.argsort(parts, kind="stable")
        table = np.ascontiguousarray(np.concatenate(counts, axis=1)[order])
        ends = np.flatnonzero(np.diff(parts[order], append=parts.max() + 1)) + 1
        self.parts = [slice(int(start), int(end)) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
        """Where each stratum's images stand, once they are put in the order of strata."""
        self._width = table.shape[1]
        used = [_columns(np.flatnonzero(table[part].any(axis=0)).tolist()) for part in self.parts]
        self._own = [(columns, table[part, columns]) for part, columns in zip(self.parts, used, strict=True)]

    def sums(self, weights: Array, *, rescaled: bool = False) -> Array:
        """Weighted sums [rows, columns], of `weights` [rows, images]; each stratum's n / (n - 1) times as much if
        `rescaled`.

        Whole counts are summed without rounding, so that no column depends on how many others there are.
        """
        found = np.zeros((len(weights), self._width))
        for part, (columns, counts) in zip(
            self.parts, self._own, strict=True
        ):  # of MME's 56 columns, an image of one category has four
            images = part.stop - part.start
            own = weights[:, part] @ counts
            found[:, columns] += own * (images / (images - 1)) if rescaled else own
        return found


def _blocks(sides: Sequence[tuple[CountsMetric, Array]]) -> list[tuple[CountsMetric, list[int], list[int] | slice]]:
    """Each metric, the places of its sides, and the columns that these have where all counts stand side by side."""
    starts = np.cumsum([0, *(counts.shape[1] for _, counts in sides)])
    found: dict[int, tuple[CountsMetric, list[int], list[int]]] = {}
    for place, (metric, _) in enumerate(sides):
        _, places, columns = found.setdefault(id(metric), (metric, [], []))
        places.append(place)
        columns += range(starts[place], starts[place + 1])
    return [(metric, places, _columns(columns)) for metric, places, columns in found.values()]


def _columns(chosen: list[int]) -> list[int] | slice:
    """A slice where they are one after the other, since that copies nothing."""
    return slice(chosen[0], chosen[-1] + 1) if chosen and chosen[-1] - chosen[0] == len(chosen) - 1 else chosen


def _chunks(rows: int, width: int) -> Iterator[slice]:
    """`rows` in parts, so that a table of `width` columns stays in the processor's cache."""
    step = max(1, min(_ROWS, _CELLS // width))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def _times_drawn(rng: np.random.Generator, images: int, rows: int) -> NDArray[np.int64]:
    """How often [rows, images] each image is among n - 1 of n, drawn with replacement."""
    drawn = rng.integers(0, images, size=(rows, images - 1)) + images * np.arange(rows)[:, None]
    return np.bincount(drawn.ravel(), minlength=rows * images).reshape(rows, images)


def percentiles(scores: Array) -> tuple[float, float] | tuple[None, None]:
    """The middle 95% of those that are scores; (None, None) if none is."""
    scores = scores[np.isfinite(scores)]
    if not scores.size:
        return None, None
    low, high = np.percentile(scores, [2.5, 97.5])
    return float(low), float(high)
