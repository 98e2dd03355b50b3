"""Pairs that a model can't take: all of them, before training.

A picture that its processor refuses, such as one too narrow for its patches; a text with what stands for a picture.
"""

from collections.abc import Sequence
from typing import Any

from PIL import Image

from support.errors import TrainingError, first_few, first_line
from support.progress import report
from trainers.data.image_hashes import size_of
from trainers.data.rows import Preference

Size = tuple[int, int]


class RefusedPictures(TrainingError):
    """Pairs with a picture that the processor can't read; they can be left out."""

    def __init__(self, ids: Sequence[str], total: int, processor: str, first: str) -> None:
        self.ids = tuple(ids)
        super().__init__(
            f"{len(ids):,} of {total:,} pairs have a picture that {processor} refuses: {first_few(ids)}; "
            f"the first is {first}; leave them out by missing_images = 'drop' or max_bad_rows in [dataset]"
        )


class MarkedTexts(TrainingError):
    """Pairs whose texts hold what stands for a picture in this model; they can be left out."""

    def __init__(self, ids: Sequence[str], total: int, tokens: Sequence[str]) -> None:
        self.ids = tuple(ids)
        super().__init__(
            f"{len(ids):,} of {total:,} pairs have {', '.join(map(repr, tokens))} written in prompt or answer, which "
            f"is what stands for a picture in this model: {first_few(ids)}; take it out of their texts, or leave them "
            "out by max_bad_rows in [dataset]"
        )


def check_pictures(pairs: Sequence[Preference], processor: Any) -> None:
    """RefusedPictures for pairs that can't be trained on. Of a picture only the size is tried."""
    sizes = {picture: size_of(picture) for pair in pairs for picture in pair.images}
    known = list(dict.fromkeys(sizes.values()))
    refused: dict[Size, str] = {}
    # Processors refuse what is extreme: where they take that, they take what lies between.
    if any(_why_refused(size, processor) for size in find_extremes(known)):
        for count, size in enumerate(known, start=1):
            if why := _why_refused(size, processor):
                refused[size] = why
            report("check pictures", count, len(known))
    lost = [(pair.id, picture) for pair in pairs for picture in pair.images if sizes[picture] in refused]
    if lost:
        _, picture = lost[0]
        width, height = sizes[picture]
        first = f"{picture.name!r} ({width} x {height}): {refused[width, height]}"
        raise RefusedPictures(list(dict.fromkeys(id for id, _ in lost)), len(pairs), type(processor).__name__, first)


def find_extremes(sizes: Sequence[Size]) -> set[Size]:
    """The smallest and the largest by width, height, their ratio and their product."""
    measures = (lambda w, h: w, lambda w, h: h, lambda w, h: w / h, lambda w, h: w * h)
    return {best(sizes, key=lambda size: of(*size)) for of in measures for best in (min, max)} if sizes else set()


def _why_refused(size: Size, processor: Any) -> str:
    """What the processor says against a picture of this size; "" if it takes it."""
    try:
        processor.image_processor(images=[Image.new("RGB", size)], return_tensors="pt")
    except Exception as error:  # each processor has its own
        return first_line(error)
    return ""
