"""What every interval and test draws: whole images, whose counts are taken once and summed with other weights for each resample.

    images = common([base, other])                                 # those that both were asked about
    counts = [counts_of(records, images, metric) for records in (base, other)]
    drawn = bootstrap(counts, strata(base, images), metric, resamples=10_000, seed=0)      # scores [resamples, 2], paired

Three things make the spread of the resamples that of the benchmark. Answers about one image depend on each other, so images are drawn,
never answers. A benchmark with a fixed number of images in each category (MME: 20 to 200) would have the same number if it were made anew,
so images are drawn within categories. And n images drawn from n vary by (n - 1) / n too little, which is 5% for a category of 20: so n - 1
are drawn, each of weight n / (n - 1) (the rescaled bootstrap of Rao and Wu, 1988), which makes the variance of a sum right for every n.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

Record = Mapping[str, Any]
"""JSON values, and `image`: the id of the image asked about.

Two more keys have a meaning: `cluster`, where answers about several images hang together, and `category`, which part of the benchmark the
question belongs to. Neither may depend on the answer.
"""

_CELLS = 200_000  # numbers held at once: 1.6 MB stay in the processor's cache, and are not asked of the system again and again


class RecordsError(ValueError):
    """Records of several models, or of several askings of a judge, that cannot be held against each other; says which image it is about."""


class CountsMetric(Protocol):
    """A score that is a function of sums over images."""

    def by_image(self, records: Iterable[Record], /) -> tuple[list[str], Array]:
        """Image ids, and their counts [images, k]."""

    def value(self, sums: Array, /) -> Array:
        """Sums of counts [..., k] -> score [...]; nan or infinite where there is no denominator."""


def image_of(record: Record) -> str:
    """What is drawn when this record is."""
    return str(record.get("cluster", record["image"]))


def common(models: Sequence[Sequence[Record]]) -> list[str]:
    """The images about which all have records, in the first one's order; RecordsError if there is none, or one has more of one."""
    tallies = [tally(records) for records in models]
    images = [image for image in tallies[0] if all(image in found for found in tallies)]
    if not images:
        raise RecordsError(f"no image is in {'both' if len(models) == 2 else 'all'} sets of records")
    for image in images:
        for found in tallies:
            if found[image] != tallies[0][image]:
                raise RecordsError(f"image {image!r} has {tallies[0][image]} records in one and {found[image]} in the other")
    return images


def tally(records: Iterable[Record]) -> Counter[str]:
    """How many records each image has."""
    return Counter(map(image_of, records))


def counts_of(records: Iterable[Record], images: Sequence[str], metric: CountsMetric) -> Array:
    """Counts [images, k], in the order of `images`."""
    ids, counts = metric.by_image(records)
    row = {image: index for index, image in enumerate(ids)}
    return counts[[row[image] for image in images]]


def strata(records: Iterable[Record], images: Sequence[str]) -> NDArray[np.int64]:
    """The part of the benchmark that each image was drawn for [images]: its category, if every image is in exactly one.

    A category with one image shows no spread, so such categories are taken as one, and one that is left over goes to the smallest other.
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


def chunks(rows: int, width: int) -> Iterator[slice]:
    """`rows` in parts, so that a table of `width` columns stays in the processor's cache."""
    step = max(1, _CELLS // width)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def bootstrap(counts: Sequence[Array], parts: NDArray[np.int64], metric: CountsMetric, *, resamples: int, seed: int) -> Array:
    """Scores [resamples, len(counts)]: each resample draws the same images from all `counts`, every one [images, k].

    At least two images, and no stratum in `parts` [images] with one alone.
    """
    rng = np.random.default_rng(seed)
    beside = np.concatenate(counts, axis=1)
    scores = np.empty((resamples, len(counts)))
    for chunk in chunks(resamples, max(beside.shape)):
        sums = np.zeros((chunk.stop - chunk.start, beside.shape[1]))
        for part in np.unique(parts):
            own = beside[parts == part]
            used = own.any(axis=0)  # of MME's 56 counts, an image of one category has four
            sums[:, used] += _drawn_sums(rng, own[:, used], len(sums))
        scores[chunk] = value_of(metric, sums.reshape(len(sums), len(counts), -1))
    return scores


def _drawn_sums(rng: np.random.Generator, counts: Array, rows: int) -> Array:
    """Sums [rows, k] over n - 1 of the n images in `counts` [n, k], drawn with replacement, as if they were n."""
    images = len(counts)
    drawn = rng.integers(0, images, size=(rows, images - 1)) + images * np.arange(rows)[:, None]
    times = np.bincount(drawn.ravel(), minlength=rows * images).reshape(rows, images)
    return np.asarray(times.astype(np.float64) @ (counts * (images / (images - 1))))


def percentiles(scores: Array) -> tuple[float, float] | tuple[None, None]:
    """The middle 95% of those that are scores; (None, None) if none is."""
    scores = scores[np.isfinite(scores)]
    if not scores.size:
        return None, None
    low, high = np.percentile(scores, [2.5, 97.5])
    return float(low), float(high)
