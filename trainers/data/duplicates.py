"""Finding images that look like others, and training prompts that were there before.

PerceptualIndex().near(hashes.perceptual, 12)    # keys of all perceptual hashes within 12 bits
Deduplicator().find(prompt, hashes)              # what was added before and is the same
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Literal, TypeVar

import numpy as np

from trainers.data.image_hashes import DISTANCE, HASH_BITS, ImageHashes, looks_alike
from trainers.data.near_texts import Ints, Words, prompt_key, ranges

K = TypeVar("K", bound=Hashable)


class PerceptualIndex(Generic[K]):
    """Finds perceptual hashes that differ in few bits, among tens of thousands, exactly.

    A hash is cut into 8 parts of 16 bits. If two differ in fewer than 16 bits, one part differs in one bit or none:
    each part is looked up with each bit flipped. For larger distances all hashes are compared one by one.
    """

    PARTS: Final = HASH_BITS // 16
    NEARBY: Final = np.array([0] + [1 << bit for bit in range(16)], dtype=np.int64)
    UNSORTED: Final = 2048
    """Hashes added last that are compared one by one until there are enough of them to sort."""
    BLOCK: Final = 256
    """Hashes searched for at a time."""

    def __init__(self) -> None:
        self.keys: list[K] = []
        self._hashes: Words = np.zeros((16, 2), dtype=np.uint64)
        self._sorted = 0
        self._order: Ints = np.zeros(0, dtype=np.int64)
        self._starts: Ints = np.zeros(0, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.keys)

    def add(self, key: K, perceptual: int) -> None:
        """Add a perceptual hash; a key may have several."""
        if len(self.keys) == len(self._hashes):
            self._hashes = np.concatenate([self._hashes, np.zeros_like(self._hashes)])
        self._hashes[len(self.keys)] = _words(perceptual)
        self.keys.append(key)

    def near(self, perceptual: int, distance: int = DISTANCE) -> list[K]:
        """Keys of the hashes that differ in `distance` bits or fewer, nearest first, then in the order they were
        added."""
        hits = sorted((bits, place) for _, place, bits in self._hits([perceptual], distance))
        return [self.keys[place] for _, place in hits]

    def near_all(self, hashes: Sequence[int], distance: int = DISTANCE) -> Iterator[tuple[int, K]]:
        """(place in `hashes`, key) of all that differ in `distance` bits or fewer."""
        for start in range(0, len(hashes), self.BLOCK):
            for query, place, _ in self._hits(hashes[start : start + self.BLOCK], distance):
                yield start + query, self.keys[place]

    def _hits(self, hashes: Sequence[int], distance: int) -> Iterator[tuple[int, int, int]]:
        """(query, place, bits)."""
        if len(self) - self._sorted > max(self.UNSORTED, self._sorted // 2):
            self._sort()
        wanted = np.stack([_words(value) for value in hashes])
        first = self._sorted if distance < 2 * self.PARTS else 0
        query, place = self._candidates(wanted) if first else (np.zeros(0, dtype=np.int64),) * 2
        rest = np.arange(first, len(self))
        query = np.concatenate([query, np.repeat(np.arange(len(hashes)), len(rest))])
        place = np.concatenate([place, np.tile(rest, len(hashes))])
        bits = np.bitwise_count(self._hashes[place] ^ wanted[query]).sum(axis=1)
        near = np.flatnonzero(bits <= distance)
        yield from zip(query[near].tolist(), place[near].tolist(), bits[near].tolist(), strict=True)

    def _sort(self) -> None:
        self._sorted = len(self)
        cells = _cells(self._hashes[: self._sorted])
        self._order = np.argsort(cells.ravel(), kind="stable") // self.PARTS
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(cells.ravel(), minlength=self.PARTS << 16))])

    def _candidates(self, wanted: Words) -> tuple[Ints, Ints]:
        """Queries, and the places of all hashes of which a part differs in one bit or none; each pair once."""
        cells = (_cells(wanted)[:, :, None] ^ self.NEARBY).reshape(len(wanted), -1)
        low, high = self._starts[cells.ravel()], self._starts[cells.ravel() + 1]
        query = np.repeat(np.repeat(np.arange(len(wanted)), cells.shape[1]), high - low)
        pairs = np.unique(query * self._sorted + self._order[ranges(low, high)])
        return pairs // self._sorted, pairs % self._sorted


def _words(value: int) -> Words:
    return np.array([value >> 64, value & (1 << 64) - 1], dtype=np.uint64)


def _cells(hashes: Words) -> Ints:
    """n hashes of two words as n x 8 numbers, one for each value of each part."""
    parts = hashes.view(np.uint16).astype(np.int64)
    return parts + (np.arange(parts.shape[1]) << 16)


DuplicateKind = Literal["same prompt and image", "same prompt, image looks alike", "same image", "image looks alike"]


@dataclass(frozen=True, kw_only=True)
class Duplicate(Generic[K]):
    """What was there before."""

    kind: DuplicateKind
    of: K
    """Key of the first that it is a duplicate of."""


class Deduplicator(Generic[K]):
    """Says whether a prompt about an image was there before: `find` looks it up, `add` remembers what is kept.

    Two prompts about one image are no duplicates of each other: that the image is there already is a kind of its own.
    """

    def __init__(self, distance: int = DISTANCE) -> None:
        self.distance = distance
        self._first: dict[str, K] = {}
        self._prompts: dict[tuple[str, str], K] = {}
        self._by_content: dict[str, ImageHashes] = {}
        self._hashes: PerceptualIndex[str] = PerceptualIndex()

    def find(self, prompt: str, image: ImageHashes | None) -> Duplicate[K] | None:
        """The strongest kind of duplicate this is; `image` is None for a prompt without one."""
        asked = prompt_key(prompt)
        content = image.content if image else ""
        if (asked, content) in self._prompts:
            return Duplicate(kind="same prompt and image", of=self._prompts[asked, content])
        if image is None:
            return None
        near = [] if image.is_plain else self._hashes.near(image.perceptual, self.distance)
        alike = [each for each in near if looks_alike(image, self._by_content[each], self.distance) is not None]
        again = next((each for each in alike if (asked, each) in self._prompts), None)
        if again is not None:
            return Duplicate(kind="same prompt, image looks alike", of=self._prompts[asked, again])
        if content in self._first:
            return Duplicate(kind="same image", of=self._first[content])
        return Duplicate(kind="image looks alike", of=self._first[alike[0]]) if alike else None

    def add(self, key: K, prompt: str, image: ImageHashes | None) -> None:
        """Remember a prompt about an image."""
        content = image.content if image else ""
        self._prompts.setdefault((prompt_key(prompt), content), key)
        if image is not None and content not in self._first:
            self._first[content] = key
            self._by_content[content] = image
            if not image.is_plain:
                self._hashes.add(content, image.perceptual)
