"""What a benchmark of judges is: pairs of answers, how a judge is asked about them, and how its choice is read.

A judge sees two answers to a question about an image, and says which is better. Which answer it sees first is decided
by the benchmark's official protocol; it is also asked in the other order, so that a judge that follows the position is
found out.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

from tasks.judges.protocol import Sampling

FIRST: Final = 0
SECOND: Final = 1
"""Places of answers in a prompt."""

Reader = Callable[[str], int | None]
"""A judge's reply -> the place of the better answer; None for a reply that says none."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two answers to a question about an image."""

    id: str
    """Unique in its benchmark."""
    category: str
    question: str
    chosen: str
    """The answer that people, or the ground truth, prefer."""
    rejected: str
    image: str
    """Its key, see `support.images`; "" for a question without one."""
    chosen_first: bool
    """Whether the chosen answer stands first in the data."""


@dataclass(frozen=True, kw_only=True)
class PublishedJudge:
    """What others reported of a judge, in %."""

    model: str
    source: str
    scores: Mapping[str, float]
    """By category, `overall` or `macro`."""


@dataclass(frozen=True, kw_only=True)
class PairBench:
    """A benchmark of judges."""

    name: str
    title: str
    read: Callable[[Mapping[str, str], bool], list[Pair]]
    """What the user gave as --data, and whether rows may be missing -> all pairs; BenchmarkDataError."""
    prompt: Callable[[str, str, str, str | None], str]
    """Question, first answer, second answer, the authors' template or None for our words -> what a judge is asked."""
    sampling: Sampling
    """How the official protocol asks."""
    official: Reader
    """The official rule."""
    conclusion: Reader
    """What the reply says last: the official rule, but for one that another text in the reply can decide."""
    prompt_source: str
    """Name of the authors' template in `tasks.judges.official_prompts`."""
    random_order: bool = True
    """Whether the official protocol draws the order of the answers; else it is that of the data."""
    votes: bool = True
    """Whether the official protocol asks several times and takes the majority."""
    guesses: bool = False
    """Whether the official rule flips a coin where a reply says no place; else such a pair is left out."""
    macro: bool = True
    """Whether the mean over categories is reported beside the mean over pairs."""
    categories: Sequence[str] = ()
    """In the order in which they are shown; others come behind."""
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Several categories together under one name, as others report them."""
    published: Sequence[PublishedJudge] = ()
    note: str = ""
    """What to know before holding a score against published ones."""


def digest_of(pairs: Sequence[Pair]) -> str:
    """A digest of what is asked and what counts as right."""
    texts = json.dumps([asdict(pair) for pair in pairs], sort_keys=True)
    return hashlib.sha256(texts.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def with_unique_ids(ids: Sequence[str]) -> list[str]:
    """Ids, the second of one name as ID#2."""
    seen: dict[str, int] = {}
    found = []
    for id in ids:
        seen[id] = count = seen.get(id, 0) + 1
        found.append(id if count == 1 else f"{id}#{count}")
    return found
