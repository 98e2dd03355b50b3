"""Near-duplicate prompts: equal words, or a large share of common five-character shingles (Jaccard).

near_texts(questions, benchmark, 0.8)     # (question, entry, similarity), all of them, no sampling
"""

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Words = NDArray[np.uint64]

SHINGLE: Final = 5
"""Characters in a shingle of text."""

_IMAGE_TOKEN: Final = re.compile(
    r"<\s*/?\s*(?:image|img|imagehere|image_?\d+)\s*>|<\|?image(?:_pad)?\|?>", re.IGNORECASE
)


class _OnlyWords(dict[int, str]):
    """A table for `str.translate`: punctuation, separators and control characters become spaces."""

    def __missing__(self, code: int) -> str:
        sign = chr(code)
        self[code] = " " if unicodedata.category(sign)[0] in "PZC" else sign
        return self[code]


_WORDS: Final = _OnlyWords()


def normal_prompt(text: str) -> str:
    """A prompt's words in lower case, separated by single spaces, without image tokens and punctuation; symbols such as
    + and < stay."""
    words = unicodedata.normalize("NFKC", _IMAGE_TOKEN.sub(" ", text)).casefold()
    return " ".join(words.translate(_WORDS).split())


def prompt_key(text: str) -> str:
    """A digest of a prompt's normal form: equal for prompts of the same words."""
    return hashlib.sha256(normal_prompt(text).encode()).hexdigest()[:32]


def similarity(one: str, other: str) -> float:
    """Jaccard similarity of the five-character shingles of two normal prompts, 0-1."""
    (_, left, _), (_, right, _) = _hash_shingles([one]), _hash_shingles([other])
    common = len(np.intersect1d(left, right, assume_unique=True))
    return common / (len(left) + len(right) - common) if common else 0.0


def near_texts(queries: Sequence[str], entries: Sequence[str], threshold: float = 0.8) -> list[tuple[int, int, float]]:
    """All (query, entry, similarity) of normal prompts whose `similarity` is at least `threshold`; exact, no sampling.

    Prefix filtering: two texts that similar share at least one of their rarest shingles (a share of 1 - threshold of
    each text's shingles, plus one), so only such pairs are compared. Memory grows with the entries: pass the shorter
    list as entries.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold {threshold}: must be above 0 and at most 1")
    found: list[tuple[int, int, float]] = []
    index = _TextIndex(entries, threshold)
    for start in range(0, len(queries), _TextIndex.BLOCK):
        found += [
            (start + query, entry, value)
            for query, entry, value in index.near(queries[start : start + _TextIndex.BLOCK])
        ]
    return found


class _TextIndex:
    """The entries of `near_texts` as flat arrays of shingles, numbered from the rarest to the most frequent."""

    BLOCK: Final = 1024
    """Queries taken at a time."""
    PAIRS: Final = 20_000
    """Pairs compared at a time."""

    def __init__(self, texts: Sequence[str], threshold: float) -> None:
        self.threshold = threshold
        owners, hashes, self.sizes = _hash_shingles(texts)
        self.parities = _parities(owners, hashes, len(texts))
        self.vocabulary, numbers, counts = np.unique(hashes, return_inverse=True, return_counts=True)
        self.rank = np.empty(len(counts), dtype=np.int64)
        self.rank[np.argsort(counts, kind="stable")] = np.arange(len(counts))
        ranks = self.rank[numbers]
        order = np.lexsort((ranks, owners))
        owners, ranks = owners[order], ranks[order]
        self.members = owners * len(self.vocabulary) + ranks
        first = _number_within(owners, len(texts)) < self._prefix_lengths(self.sizes)[owners]
        by_rank = np.argsort(ranks[first], kind="stable")
        self.prefix_ranks, self.prefix_owners = ranks[first][by_rank], owners[first][by_rank]

    def _prefix_lengths(self, sizes: Ints) -> Ints:
        needed: Ints = np.ceil(sizes * self.threshold - 1e-9).astype(np.int64)
        return sizes - needed + 1

    def near(self, texts: Sequence[str]) -> list[tuple[int, int, float]]:
        owners_of_all, hashes, sizes = _hash_shingles(texts)
        if not len(self.vocabulary) or not len(hashes):
            return []
        places = np.minimum(np.searchsorted(self.vocabulary, hashes), len(self.vocabulary) - 1)
        known = self.vocabulary[places] == hashes
        owners, ranks = owners_of_all[known], self.rank[places[known]]
        order = np.lexsort((ranks, owners))
        owners, ranks = owners[order], ranks[order]
        # Shingles that no entry has are the rarest of all: they come first in the prefix, and match nothing.
        counts = np.bincount(owners, minlength=len(texts))
        room = self._prefix_lengths(sizes) - (sizes - counts)
        first = _number_within(owners, len(texts)) < room[owners]
        low = np.searchsorted(self.prefix_ranks, ranks[first], side="left")
        high = np.searchsorted(self.prefix_ranks, ranks[first], side="right")
        query, entry = np.repeat(owners[first], high - low), self.prefix_owners[ranges(low, high)]
        # Cheap bounds first: most pairs that share a rare shingle only come from the same template.
        total = sizes[query] + self.sizes[entry]
        allowed = total - 2 * np.ceil(total * (self.threshold / (1 + self.threshold)) - 1e-9)
        fits = np.abs(sizes[query] - self.sizes[entry]) <= allowed
        query, entry, allowed = query[fits], entry[fits], allowed[fits]
        differing = _parities(owners_of_all, hashes, len(texts))[query] ^ self.parities[entry]
        fits = np.bitwise_count(differing).sum(axis=1) <= allowed
        pairs = np.unique(query[fits] * len(self.sizes) + entry[fits])
        query, entry = pairs // len(self.sizes), pairs % len(self.sizes)
        starts = np.concatenate([[0], np.cumsum(counts)])
        found: list[tuple[int, int, float]] = []
        for start in range(0, len(query), self.PAIRS):
            some, others = query[start : start + self.PAIRS], entry[start : start + self.PAIRS]
            own_ranks = ranks[ranges(starts[some], starts[some + 1])]
            wanted = np.repeat(others, counts[some]) * len(self.vocabulary) + own_ranks
            hit = self.members[np.minimum(np.searchsorted(self.members, wanted), len(self.members) - 1)] == wanted
            common = np.bincount(np.repeat(np.arange(len(some)), counts[some]), weights=hit, minlength=len(some))
            values = common / (sizes[some] + self.sizes[others] - common)
            for place in np.flatnonzero(values >= self.threshold - 1e-12):
                found.append((int(some[place]), int(others[place]), float(values[place])))
        return found


def _hash_shingles(texts: Sequence[str]) -> tuple[Ints, Words, Ints]:
    """The distinct shingles of texts: the text's index and the hash of each (sorted within a text), and the number of
    shingles of each text.

    A text shorter than a shingle is one shingle.
    """
    padded = [text + "\0" * (SHINGLE - len(text)) if 0 < len(text) < SHINGLE else text for text in texts]
    signs = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    lengths = np.array([len(text) for text in padded], dtype=np.int64)
    owners = np.repeat(np.arange(len(texts)), np.maximum(lengths - SHINGLE + 1, 0))
    starts = np.cumsum(lengths) - lengths
    at = ranges(starts, starts + np.maximum(lengths - SHINGLE + 1, 0))
    hashes = np.zeros(len(at), dtype=np.uint64)
    for step in range(SHINGLE):
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + signs[at + step]
    hashes ^= hashes >> np.uint64(29)
    order = np.lexsort((hashes, owners))
    owners, hashes = owners[order], hashes[order]
    new = np.ones(len(hashes), dtype=bool)
    new[1:] = (owners[1:] != owners[:-1]) | (hashes[1:] != hashes[:-1])
    return owners[new], hashes[new], np.bincount(owners[new], minlength=len(texts))


def _parities(owners: Ints, hashes: Words, count: int) -> Words:
    """256 bits a text: two texts differ in at most as many bits as shingles that only one of them has."""
    bits = owners * 256 + (hashes >> np.uint64(40)).astype(np.int64) % 256
    odd = (np.bincount(bits, minlength=count * 256) % 2).astype(bool)
    words: Words = np.packbits(odd.reshape(count, 256), axis=1).view(np.uint64)
    return words


def ranges(starts: NDArray[Any], ends: NDArray[Any]) -> Ints:
    """The concatenation of arange(start, end) for every pair."""
    lengths: Ints = ends - starts
    within: Ints = np.arange(int(lengths.sum())) + np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    return within


def _number_within(owners: Ints, count: int) -> Ints:
    """Each element's number among those of the same owner, from 0; owners are sorted."""
    starts = np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=count))])
    places: Ints = np.arange(len(owners)) - starts[owners]
    return places
