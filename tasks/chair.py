"""CHAIR: which objects does a caption mention that are not in the image?

    vocabulary = Vocabulary(synonyms={"dog": "dog", "puppy": "dog"}, double_words={}, singularize=str)
    record("1", "A puppy.", {"cat"}, vocabulary)     # {"hallucinated": 1, "mentions": 1, "covered": 0, "objects": 1, ...}

The rule is the official one: words of the caption are made singular, listed pairs of words are merged into one, some words give way to
others, and what is left and names an object counts as a mention, every time it occurs. What is listed is the `Vocabulary`;
`coco_vocabulary` makes that of COCO.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Final, TypedDict

from tasks.metric import Metric, mean_of, ratio_of


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The objects of a world and how captions may name them."""

    synonyms: Mapping[str, str]
    """A word, singular and lower-case, or a merged pair -> the object's name."""

    double_words: Mapping[str, str]
    """Two words "a b" -> the word they are together."""

    singularize: Callable[[str], str]
    """A token -> its singular; any other token as it is."""

    gives_way: Mapping[str, str] = field(default_factory=dict)
    """A word -> the word that, anywhere in the caption, takes it out: a seat is no chair where a toilet is."""


class Counts(TypedDict):
    """What CHAIR counts in one caption."""

    image: str
    hallucinated: int
    """Mentions of objects that are not in the image."""
    mentions: int
    covered: int
    """Objects of the image that are mentioned."""
    objects: int
    words: int
    """Length of the caption, in what white space separates (what other toolkits print as Len counts punctuation marks too)."""


SENTENCE_END: Final = re.compile(r"(?:(?<=[.!?])|(?<=[.!?][\"')\]]))\s+")


def tokens(caption: str) -> list[str]:
    """Lower-case words and punctuation marks, as nltk's `word_tokenize` has them.

    That one finds sentences by a model that must be downloaded. Sentences matter only because a full stop is cut off a word at the end of
    one, and for that any stop before white space will do; the words themselves are found by nltk's own rules, which need no data.
    """
    split = _word_tokenizer()
    return [token for sentence in SENTENCE_END.split(caption.lower()) for token in split(sentence)]


@cache
def _word_tokenizer() -> Callable[[str], list[str]]:
    from nltk.tokenize.destructive import NLTKWordTokenizer  # inside: takes a second or two

    tokenize: Callable[[str], list[str]] = NLTKWordTokenizer().tokenize
    return tokenize


def mentions(caption: str, vocabulary: Vocabulary) -> list[str]:
    """The objects `caption` mentions, in order, one as often as it is mentioned."""
    words = list(_merge([vocabulary.singularize(token) for token in tokens(caption)], vocabulary.double_words))
    there = frozenset(words)
    kept = [word for word in words if vocabulary.gives_way.get(word) not in there]
    return [vocabulary.synonyms[word] for word in kept if word in vocabulary.synonyms]


def record(image: str, caption: str, truth: Collection[str], vocabulary: Vocabulary) -> Counts:
    """The counts of one caption of an image in which the objects `truth` are."""
    present = frozenset(truth)
    mentioned = mentions(caption, vocabulary)
    return Counts(
        image=image,
        hallucinated=sum(name not in present for name in mentioned),
        mentions=len(mentioned),
        covered=len(present.intersection(mentioned)),
        objects=len(present),
        words=len(caption.split()),
    )


def _merge(words: list[str], double_words: Mapping[str, str]) -> Iterator[str]:
    """Pairs from left to right; a word merged with the one before it starts no pair of its own."""
    taken = False
    for first, second in pairwise([*words, ""]):
        if taken:
            taken = False
            continue
        merged = double_words.get(f"{first} {second}")
        taken = merged is not None
        yield first if merged is None else merged


chair_s = Metric(
    counts=lambda records: (sum(r["hallucinated"] > 0 for r in records), len(records)),
    value=lambda sums: 100 * sums[..., 0] / sums[..., 1],
)
"""% of captions that mention an object which is not there."""

chair_i = ratio_of("hallucinated", "mentions", scale=100)
"""% of all mentions that are of an object which is not there."""

coverage = ratio_of("covered", "objects", scale=100)
"""% of the objects there that are mentioned: what a caption pays for saying less."""

length = mean_of("words")
"""Mean length of a caption in words."""


BABY_AND_ADULT: Final = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "animal", "cub")
NO_OBJECTS: Final = ("home plate", "train track")
"""Pairs that are merged only to keep their words from being read: a train track is no train."""


def coco_vocabulary(synonyms_text: str, singularize: Callable[[str], str]) -> Vocabulary:
    """The vocabulary of COCO's 80 objects from the official synonym list: one object a line, its name first, synonyms after ", ".

    `singularize` is pattern.en's in the official script, mistakes included ("bus" becomes "bu", which is no object). A synonym with a
    space before it (" motor bike") is kept so and can't be met: that is how the official numbers come about.
    """
    synonyms: dict[str, str] = {}
    for line in synonyms_text.splitlines():
        names = line.strip().split(", ")
        synonyms |= dict.fromkeys(names, names[0])
    pairs = [name.strip() for name in synonyms if name.strip().count(" ") == 1]
    return Vocabulary(
        synonyms=synonyms,
        double_words={pair: pair for pair in (*pairs, *NO_OBJECTS)}
        | {f"{age} {animal}": animal for age in ("baby", "adult") for animal in BABY_AND_ADULT}
        | {f"passenger {vehicle}": vehicle for vehicle in ("jet", "train")}
        | {"bow tie": "tie", "toilet seat": "toilet", "wine glas": "wine glass"},
        singularize=singularize,
        gives_way={"seat": "toilet"},
    )
