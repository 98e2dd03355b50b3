"""Fingerprints: when two pictures are the same picture, or two prompts the same question.

    mark = fingerprint(image, name)                       # digest of the pixels, perceptual hash, COCO id
    prints = Fingerprints(Path("fingerprints.sqlite"))    # the same for many files, each hashed once
    looks_alike(one, other)                               # Hamming distance of two pictures that look alike, else None
    LookIndex().near(mark.look, 12)                       # keys of all looks within 12 bits
    near_texts(questions, benchmark, 0.8)                 # (question, entry, similarity), all of them, no sampling
    Deduplicator().find(prompt, mark)                     # what was added before and is the same

A look is 128 bits of the `imagehash` library: the 64-bit DCT hash above the 64-bit gradient hash. It says little by
itself: pictures that are all one colour have looks of noise, and drawings of few shapes come within 12 bits of others
by chance. So a look only proposes, and the colours of an 8 x 8 thumbnail decide (`looks_alike`). Of photographs, JPEG
down to quality 25, half and double size, another aspect ratio and a border of 1% cut off are found; a border of 5% cut
off, mirroring and greyscale are not.
"""

import base64
import hashlib
import json
import os
import re
import sqlite3
import threading
import unicodedata
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Final, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from support.errors import DataError
from support.images import ImageRef, decode

Ints = NDArray[np.int64]
Words = NDArray[np.uint64]
K = TypeVar("K", bound=Hashable)

LOOK_BITS: Final = 128
DISTANCE: Final = 12
"""Bits in which the looks of two copies may differ: re-encoding and resizing of photographs stay below, strangers start
near 30."""
TINY: Final = 8
"""Side of the thumbnail, in pixels."""
COLOURS: Final = 10.0
"""Root mean square difference of two thumbnails (0-255) up to which they are copies; strangers with near looks start at
12."""
CONTRAST: Final = 0.35
"""The same as a share of the picture's own spread: two white pages differ little in colour, and need not be one
page."""
PLAIN: Final = 4.0
"""Spread of a thumbnail (0-255) below which a picture is all one colour and its look is noise."""

SHINGLE: Final = 5
"""Characters in a shingle of text."""


@dataclass(frozen=True, kw_only=True)
class ImageHashes:
    """What one picture is known by."""

    content: str
    """sha256 of its size and RGB pixels, upright and on white: one picture as PNG and as lossless WebP has one
    content."""
    look: int
    """Perceptual hash, 128 bits; say `looks_alike`, not equality."""
    tiny: bytes = field(repr=False)
    """8 x 8 RGB thumbnail, 192 bytes."""
    coco: int | None = None
    """Its number in COCO, where its name tells."""

    @cached_property
    def thumbnail(self) -> NDArray[np.float64]:
        """`tiny` as 64 x 3 numbers."""
        return np.frombuffer(self.tiny, dtype=np.uint8).astype(np.float64).reshape(-1, 3)

    @cached_property
    def spread(self) -> float:
        """Standard deviation of the thumbnail's colours around their mean, 0-255."""
        return float(np.sqrt(((self.thumbnail - self.thumbnail.mean(axis=0)) ** 2).mean()))

    @property
    def plain(self) -> bool:
        """Whether the picture is so much of one colour that its look says nothing."""
        return self.spread < PLAIN


def hash_image(image: Image.Image, name: str = "") -> ImageHashes:
    """The fingerprint of a picture; `name` is what its data call it, for the COCO id. Raises OSError for a broken
    file."""
    import imagehash

    rgb = _upright_rgb(image)
    grey = rgb.convert("L")
    bits = np.concatenate([imagehash.phash(grey).hash.ravel(), imagehash.dhash(grey).hash.ravel()])
    pixels = hashlib.sha256(f"{rgb.width}x{rgb.height} ".encode())
    pixels.update(np.asarray(rgb).data)
    return ImageHashes(
        content=pixels.hexdigest(),
        look=int.from_bytes(np.packbits(bits).tobytes(), "big"),
        tiny=rgb.resize((TINY, TINY), Image.Resampling.BOX).tobytes(),
        coco=coco_id(name),
    )


def _upright_rgb(image: Image.Image) -> Image.Image:
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith(("I", "F")):  # 16 bits and more, which `convert` would cut off at 255
        values = np.asarray(upright, dtype=np.float64)
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        upright = Image.fromarray(np.nan_to_num((values - low) * (255 / max(high - low, 1))).astype(np.uint8))
    if upright.has_transparency_data:
        # What is hidden has no colour: encoders are free to write any.
        white = Image.new("RGBA", upright.size, "white")
        return Image.alpha_composite(white, upright.convert("RGBA")).convert("RGB")
    return upright.convert("RGB")


def looks_alike(one: ImageHashes, other: ImageHashes, distance: int = DISTANCE) -> int | None:
    """In how many bits the looks of two copies of one picture differ; None for pictures that are no copies, or too
    plain to tell."""
    bits = (one.look ^ other.look).bit_count()
    if bits > distance or one.plain or other.plain:
        return None
    apart = float(np.sqrt(((one.thumbnail - other.thumbnail) ** 2).mean()))
    return bits if apart <= min(COLOURS, CONTRAST * max(one.spread, other.spread)) else None


_COCO: Final = re.compile(r"(?<![0-9A-Za-z])(?:COCO_(?:train|val|test)20\d\d_)?0{6}(\d{6})(?!\d)")


def coco_id(name: str) -> int | None:
    """The COCO id in the name, path or id of a picture: twelve digits, of which six are 0; None where there is none."""
    found = _COCO.search(name)
    return int(found[1]) if found and int(found[1]) else None


class HashCache:
    """Fingerprints of image files, kept in an SQLite file (several processes may share it) by the digest of the file.

    Each file is hashed once. Files that can't be read raise OSError each time, and are not remembered.
    """

    VERSION: Final = 1
    """Of the way fingerprints are made."""
    BATCH: Final = 256
    """Fingerprints written at a time; a kill loses no more."""

    def __init__(self, cache: Path | None = None) -> None:
        self.made = 0
        """Pictures hashed, as opposed to found in the file."""
        self._path = cache
        self._lock = threading.Lock()
        self._making = [threading.Lock() for _ in range(256)]
        self._memory: dict[tuple[Path | str, str | None], ImageHashes] = {}
        self._new: list[tuple[str, str]] = []
        self._file: sqlite3.Connection | None = None
        if cache is not None:
            try:
                cache.parent.mkdir(parents=True, exist_ok=True)
                self._file = sqlite3.connect(cache, timeout=60, check_same_thread=False, isolation_level=None)
                # Not written ahead: while another process switches to that, SQLite says locked at once, whatever the
                # timeout.
                self._file.execute("BEGIN IMMEDIATE")
                self._file.execute(
                    "CREATE TABLE IF NOT EXISTS fingerprints (file TEXT PRIMARY KEY, value TEXT NOT NULL)"
                )
                self._file.execute("COMMIT")
            except (sqlite3.Error, OSError) as error:
                raise DataError(f"{cache}: no file of fingerprints: {error}") from None

    def __enter__(self) -> "HashCache":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what is new."""
        with self._lock:
            self._write()
            if self._file is not None:
                self._file.close()
                self._file = None

    def of(self, picture: ImageRef) -> ImageHashes:
        """The fingerprint of a picture; raises OSError for one that is missing, broken or too large."""
        place: tuple[Path | str, str | None] | None = (
            (picture.file, picture.member) if picture.data is None and picture.file else None
        )
        known = self._memory.get(place) if place else None
        if known is None:
            data = picture.read()
            digest = hashlib.sha256(data).hexdigest()
            # One file is often shown by several rows in a row: the second thread waits for what the first is making.
            with self._making[int(digest[:8], 16) % len(self._making)]:
                known = self._memory.get((digest, None)) or self._stored(digest) or self._make(data, digest)
                self._memory[digest, None] = known
            if place:
                self._memory[place] = known
        coco = coco_id(picture.name) or coco_id(picture.member or (picture.file.name if picture.file else ""))
        return known if known.coco == coco else replace(known, coco=coco)

    def of_all(self, pictures: Iterable[ImageRef], workers: int | None = None) -> Iterator[ImageHashes | OSError]:
        """The fingerprints of pictures, in their order, with the error in the place of each that can't be read;
        `workers` threads."""
        threads = workers or os.cpu_count() or 1
        rest = iter(pictures)
        with ThreadPoolExecutor(threads) as pool:
            waiting: deque[Future[ImageHashes | OSError]] = deque(
                pool.submit(self._try, picture) for picture in islice(rest, 4 * threads)
            )
            while waiting:
                done = waiting.popleft().result()
                waiting.extend(pool.submit(self._try, picture) for picture in islice(rest, 1))
                yield done

    def _try(self, picture: ImageRef) -> ImageHashes | OSError:
        try:
            return self.of(picture)
        except OSError as error:
            return error

    def _make(self, data: bytes, digest: str) -> ImageHashes:
        made = hash_image(decode(data))
        value = [made.content, f"{made.look:032x}", base64.b64encode(made.tiny).decode()]
        with self._lock:
            self.made += 1
            if self._file is not None:
                self._new.append((f"{self.VERSION}/{digest}", json.dumps(value)))
                if len(self._new) >= self.BATCH:
                    self._write()
        return made

    def _stored(self, digest: str) -> ImageHashes | None:
        if self._file is None:
            return None
        try:
            with self._lock:
                row = self._file.execute(
                    "SELECT value FROM fingerprints WHERE file = ?", (f"{self.VERSION}/{digest}",)
                ).fetchone()
        except sqlite3.Error as error:
            raise DataError(f"{self._path}: can't be read: {error}") from None
        if row is None:
            return None
        content, look, tiny = json.loads(row[0])
        return ImageHashes(content=content, look=int(look, 16), tiny=base64.b64decode(tiny))

    def _write(self) -> None:
        if self._file is not None and self._new:
            try:
                self._file.execute("BEGIN IMMEDIATE")
                self._file.executemany("INSERT OR REPLACE INTO fingerprints VALUES (?, ?)", self._new)
                self._file.execute("COMMIT")
            except sqlite3.Error as error:
                raise DataError(f"{self._path}: can't be written: {error}") from None
        self._new = []


class LookIndex(Generic[K]):
    """Finds looks that differ in few bits, among tens of thousands, exactly.

    A look is cut into 8 parts of 16 bits. Where two differ in fewer than 16 bits, one part differs in one bit or none:
    each part is looked up with each bit turned. Larger distances are searched one by one.
    """

    PARTS: Final = LOOK_BITS // 16
    NEARBY: Final = np.array([0] + [1 << bit for bit in range(16)], dtype=np.int64)
    UNSORTED: Final = 2048
    """Looks at the end that are compared one by one until there are enough of them to sort."""
    BLOCK: Final = 256
    """Looks searched for at a time."""

    def __init__(self) -> None:
        self.keys: list[K] = []
        self._looks: Words = np.zeros((16, 2), dtype=np.uint64)
        self._sorted = 0
        self._order: Ints = np.zeros(0, dtype=np.int64)
        self._starts: Ints = np.zeros(0, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.keys)

    def add(self, key: K, look: int) -> None:
        """Add a look; a key may have several."""
        if len(self.keys) == len(self._looks):
            self._looks = np.concatenate([self._looks, np.zeros_like(self._looks)])
        self._looks[len(self.keys)] = _words(look)
        self.keys.append(key)

    def near(self, look: int, distance: int = DISTANCE) -> list[K]:
        """Keys of the looks that differ in `distance` bits or fewer, nearest first, then in the order they were
        added."""
        return [
            self.keys[place] for _, place in sorted((bits, place) for _, place, bits in self._hits([look], distance))
        ]

    def near_all(self, looks: Sequence[int], distance: int = DISTANCE) -> Iterator[tuple[int, K]]:
        """For all of many looks, by their place: the keys of those that differ in `distance` bits or fewer."""
        for start in range(0, len(looks), self.BLOCK):
            for query, place, _ in self._hits(looks[start : start + self.BLOCK], distance):
                yield start + query, self.keys[place]

    def _hits(self, looks: Sequence[int], distance: int) -> Iterator[tuple[int, int, int]]:
        """(query, place, bits)."""
        if len(self) - self._sorted > max(self.UNSORTED, self._sorted // 2):
            self._sort()
        wanted = np.stack([_words(look) for look in looks])
        first = self._sorted if distance < 2 * self.PARTS else 0
        query, place = self._candidates(wanted) if first else (np.zeros(0, dtype=np.int64),) * 2
        rest = np.arange(first, len(self))
        query = np.concatenate([query, np.repeat(np.arange(len(looks)), len(rest))])
        place = np.concatenate([place, np.tile(rest, len(looks))])
        bits = np.bitwise_count(self._looks[place] ^ wanted[query]).sum(axis=1)
        near = np.flatnonzero(bits <= distance)
        yield from zip(query[near].tolist(), place[near].tolist(), bits[near].tolist(), strict=True)

    def _sort(self) -> None:
        self._sorted = len(self)
        cells = _cells(self._looks[: self._sorted])
        self._order = np.argsort(cells.ravel(), kind="stable") // self.PARTS
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(cells.ravel(), minlength=self.PARTS << 16))])

    def _candidates(self, wanted: Words) -> tuple[Ints, Ints]:
        """Queries and the places of all looks of which a part differs in one bit or none, each pair once."""
        cells = (_cells(wanted)[:, :, None] ^ self.NEARBY).reshape(len(wanted), -1)
        low, high = self._starts[cells.ravel()], self._starts[cells.ravel() + 1]
        query = np.repeat(np.repeat(np.arange(len(wanted)), cells.shape[1]), high - low)
        pairs = np.unique(query * self._sorted + self._order[_ranges(low, high)])
        return pairs // self._sorted, pairs % self._sorted


def _words(look: int) -> Words:
    return np.array([look >> 64, look & (1 << 64) - 1], dtype=np.uint64)


def _cells(looks: Words) -> Ints:
    """n looks of two words as n x 8 numbers, one for each value of each part."""
    parts = looks.view(np.uint16).astype(np.int64)
    return parts + (np.arange(parts.shape[1]) << 16)


_IMAGE_TOKEN: Final = re.compile(
    r"<\s*/?\s*(?:image|img|imagehere|image_?\d+)\s*>|<\|?image(?:_pad)?\|?>", re.IGNORECASE
)


class _OnlyWords(dict[int, str]):
    """Punctuation, separators and control characters as spaces, looked up once a character."""

    def __missing__(self, code: int) -> str:
        sign = chr(code)
        self[code] = " " if unicodedata.category(sign)[0] in "PZC" else sign
        return self[code]


_WORDS: Final = _OnlyWords()


def normal_prompt(text: str) -> str:
    """The words of a prompt: image tokens, punctuation, case and the kinds of spaces gone; signs such as + and <
    stay."""
    words = unicodedata.normalize("NFKC", _IMAGE_TOKEN.sub(" ", text)).casefold()
    return " ".join(words.translate(_WORDS).split())


def prompt_key(text: str) -> str:
    """A short digest that prompts of the same words share."""
    return hashlib.sha256(normal_prompt(text).encode()).hexdigest()[:32]


def similarity(one: str, other: str) -> float:
    """Share of the five-character shingles of two normal prompts that they have in common, 0-1 (Jaccard)."""
    (_, left, _), (_, right, _) = _flat([one]), _flat([other])
    common = len(np.intersect1d(left, right, assume_unique=True))
    return common / (len(left) + len(right) - common) if common else 0.0


def near_texts(queries: Sequence[str], entries: Sequence[str], threshold: float = 0.8) -> list[tuple[int, int, float]]:
    """All (query, entry, similarity) of normal prompts whose `similarity` is `threshold` or more, exactly.

    The rarest shingles of a text (a share of 1 - threshold of them, and one more) must hold one of the rarest of any
    text that similar, so only texts that share such a one are compared. Memory goes with the entries: make the shorter
    list the entries.
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
    """The entries of `near_texts`: flat arrays of shingles, which are numbered from the rarest up."""

    BLOCK: Final = 1024
    """Queries taken at a time."""
    PAIRS: Final = 20_000
    """Pairs compared at a time."""

    def __init__(self, texts: Sequence[str], threshold: float) -> None:
        self.threshold = threshold
        owners, hashes, self.sizes = _flat(texts)
        self.parities = _parities(owners, hashes, len(texts))
        self.vocabulary, numbers, counts = np.unique(hashes, return_inverse=True, return_counts=True)
        self.rank = np.empty(len(counts), dtype=np.int64)
        self.rank[np.argsort(counts, kind="stable")] = np.arange(len(counts))
        ranks = self.rank[numbers]
        order = np.lexsort((ranks, owners))
        owners, ranks = owners[order], ranks[order]
        self.members = owners * len(self.vocabulary) + ranks
        first = _place_within(owners, len(texts)) < self._prefix(self.sizes)[owners]
        by_rank = np.argsort(ranks[first], kind="stable")
        self.prefix_ranks, self.prefix_owners = ranks[first][by_rank], owners[first][by_rank]

    def _prefix(self, sizes: Ints) -> Ints:
        needed: Ints = np.ceil(sizes * self.threshold - 1e-9).astype(np.int64)
        return sizes - needed + 1

    def near(self, texts: Sequence[str]) -> list[tuple[int, int, float]]:
        owners_of_all, hashes, sizes = _flat(texts)
        if not len(self.vocabulary) or not len(hashes):
            return []
        places = np.minimum(np.searchsorted(self.vocabulary, hashes), len(self.vocabulary) - 1)
        known = self.vocabulary[places] == hashes
        owners, ranks = owners_of_all[known], self.rank[places[known]]
        order = np.lexsort((ranks, owners))
        owners, ranks = owners[order], ranks[order]
        # Shingles that no entry has are the rarest of all: they come first in the prefix, and match nothing.
        counts = np.bincount(owners, minlength=len(texts))
        room = self._prefix(sizes) - (sizes - counts)
        first = _place_within(owners, len(texts)) < room[owners]
        low = np.searchsorted(self.prefix_ranks, ranks[first], side="left")
        high = np.searchsorted(self.prefix_ranks, ranks[first], side="right")
        query, entry = np.repeat(owners[first], high - low), self.prefix_owners[_ranges(low, high)]
        # Cheap looks first: most pairs that share a rare shingle are only of one template.
        total = sizes[query] + self.sizes[entry]
        allowed = total - 2 * np.ceil(total * (self.threshold / (1 + self.threshold)) - 1e-9)
        fits = np.abs(sizes[query] - self.sizes[entry]) <= allowed
        query, entry, allowed = query[fits], entry[fits], allowed[fits]
        fits = (
            np.bitwise_count(_parities(owners_of_all, hashes, len(texts))[query] ^ self.parities[entry]).sum(axis=1)
            <= allowed
        )
        pairs = np.unique(query[fits] * len(self.sizes) + entry[fits])
        query, entry = pairs // len(self.sizes), pairs % len(self.sizes)
        starts = np.concatenate([[0], np.cumsum(counts)])
        found: list[tuple[int, int, float]] = []
        for start in range(0, len(query), self.PAIRS):
            some, others = query[start : start + self.PAIRS], entry[start : start + self.PAIRS]
            wanted = (
                np.repeat(others, counts[some]) * len(self.vocabulary) + ranks[_ranges(starts[some], starts[some + 1])]
            )
            hit = self.members[np.minimum(np.searchsorted(self.members, wanted), len(self.members) - 1)] == wanted
            common = np.bincount(np.repeat(np.arange(len(some)), counts[some]), weights=hit, minlength=len(some))
            values = common / (sizes[some] + self.sizes[others] - common)
            for place in np.flatnonzero(values >= self.threshold - 1e-12):
                found.append((int(some[place]), int(others[place]), float(values[place])))
        return found


def _flat(texts: Sequence[str]) -> tuple[Ints, Words, Ints]:
    """The distinct shingles of texts: whose each is, its hash (sorted within a text), and how many each text has.

    A text shorter than a shingle is one shingle by itself.
    """
    padded = [text + "\0" * (SHINGLE - len(text)) if 0 < len(text) < SHINGLE else text for text in texts]
    signs = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    lengths = np.array([len(text) for text in padded], dtype=np.int64)
    owners = np.repeat(np.arange(len(texts)), np.maximum(lengths - SHINGLE + 1, 0))
    starts = np.cumsum(lengths) - lengths
    at = _ranges(starts, starts + np.maximum(lengths - SHINGLE + 1, 0))
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
    """256 bits a text, in which two texts differ no more often than they have shingles that the other has not: a quick
    first look."""
    bits = owners * 256 + (hashes >> np.uint64(40)).astype(np.int64) % 256
    odd = (np.bincount(bits, minlength=count * 256) % 2).astype(bool)
    words: Words = np.packbits(odd.reshape(count, 256), axis=1).view(np.uint64)
    return words


def _ranges(starts: NDArray[Any], ends: NDArray[Any]) -> Ints:
    """start..end-1 of every pair, one after the other."""
    lengths: Ints = ends - starts
    within: Ints = np.arange(int(lengths.sum())) + np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    return within


def _place_within(owners: Ints, count: int) -> Ints:
    """How many of the same owner stand before, for owners in order."""
    starts = np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=count))])
    places: Ints = np.arange(len(owners)) - starts[owners]
    return places


DuplicateKind = Literal["same prompt and image", "same prompt, image looks alike", "same image", "image looks alike"]


@dataclass(frozen=True, kw_only=True)
class Duplicate(Generic[K]):
    """What was there before."""

    kind: DuplicateKind
    of: K
    """Key of the first that it is a duplicate of."""


class Deduplicator(Generic[K]):
    """Says whether a prompt about a picture was there before: `find` looks it up, `add` remembers what is kept.

    Two prompts about one picture are no duplicates of each other: that the picture is there already is a kind of its
    own.
    """

    def __init__(self, distance: int = DISTANCE) -> None:
        self.distance = distance
        self._first: dict[str, K] = {}
        self._prompts: dict[tuple[str, str], K] = {}
        self._prints: dict[str, ImageHashes] = {}
        self._looks: LookIndex[str] = LookIndex()

    def find(self, prompt: str, picture: ImageHashes | None) -> Duplicate[K] | None:
        """The strongest kind of duplicate this is; `picture` is None for a prompt without a picture."""
        asked = prompt_key(prompt)
        content = picture.content if picture else ""
        if (asked, content) in self._prompts:
            return Duplicate(kind="same prompt and image", of=self._prompts[asked, content])
        if picture is None:
            return None
        alike = (
            []
            if picture.plain
            else [near for near in self._looks.near(picture.look, self.distance) if self._alike(picture, near)]
        )
        again = next((near for near in alike if (asked, near) in self._prompts), None)
        if again is not None:
            return Duplicate(kind="same prompt, image looks alike", of=self._prompts[asked, again])
        if content in self._first:
            return Duplicate(kind="same image", of=self._first[content])
        return Duplicate(kind="image looks alike", of=self._first[alike[0]]) if alike else None

    def add(self, key: K, prompt: str, picture: ImageHashes | None) -> None:
        """Remember a prompt about a picture."""
        content = picture.content if picture else ""
        self._prompts.setdefault((prompt_key(prompt), content), key)
        if picture is not None and content not in self._first:
            self._first[content] = key
            self._prints[content] = picture
            if not picture.plain:
                self._looks.add(content, picture.look)

    def _alike(self, picture: ImageHashes, content: str) -> bool:
        return looks_alike(picture, self._prints[content], self.distance) is not None
