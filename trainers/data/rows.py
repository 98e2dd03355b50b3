"""What preference data are made of: pictures, rows of rated answers, and pairs to learn from.

    row.completions[0].ratings["Helpfulness"]        # "4", as the data have it; "N/A" happens
    row.images[0].open()                             # a PIL image, read only now

Readers of every format give these, and every writer, rule and trainer takes them. `row` is the place in the data: ids
repeat in VLFeedback.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from support.images import ImageRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One model's answer and what the judge made of it."""

    model: str
    response: str
    ratings: Mapping[str, str] = field(default_factory=dict)
    """Aspect -> rating as the data write it: "1" to "5", or what is no number. An aspect that is not there was not
    rated."""
    rationales: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One instruction about images, and the answers to it."""

    index: int
    """Place in the data, from 0: the key."""
    id: str
    """As the data have it; repeats."""
    prompt: str
    images: tuple[ImageRef, ...] = ()
    completions: tuple[Completion, ...] = ()
    source: str = ""
    """Where the instruction is from, where the data say so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """One pair to learn from, and where it comes from."""

    id: str
    prompt: str
    images: tuple[ImageRef, ...]
    chosen: str
    rejected: str
    places: tuple[int, ...] = ()
    """Where in the prompt each image stands, in characters; () for all in front."""
    margin: float | None = None
    """Score of `chosen` minus that of `rejected` by the rule that made the pair, in rating points; None where nobody
    rated."""
    row: int
    """Index of its row: pairs of one row share prompt and images."""
    row_id: str = ""
    chosen_model: str = ""
    rejected_model: str = ""
    chosen_ratings: Mapping[str, str] = field(default_factory=dict)
    rejected_ratings: Mapping[str, str] = field(default_factory=dict)
