"""When two images are the same image: digests, perceptual hashes and thumbnails, kept in a file by path, size and time.

    hashes = hash_image(image, name)                      # digest of the pixels, perceptual hash, COCO id
    with HashCache(Path("fingerprints.sqlite")) as cache: # an image file is read once, in this process or another
        cache.facts_of(image)                             # ImageFacts(digest, hashes, problem)
    looks_alike(one, other)                               # Hamming distance of two copies of one image, else None

The perceptual hash is 128 bits of the `imagehash` library: the 64-bit DCT hash above the 64-bit gradient hash. It says
little by itself: images that are all one colour have random hashes, and drawings of few shapes come within 12 bits of
others by chance. So near hashes are only candidates, and the colours of an 8 x 8 thumbnail decide (`looks_alike`). Of
photographs, JPEG down to quality 25, half and double size, another aspect ratio and a border of 1% cut off are found; a
border of 5% cut off, mirroring and greyscale are not.
"""

import base64
import hashlib
import json
import os
import re
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from support.errors import one_line
from support.files import file_lock
from support.images import ImageRef, Size, decode_reduced, reduction, size_in
from support.parsing import parse_json
from support.sqlite import Schema, Store
from trainers.data.embedded import EmbeddedPicture

IMAGE_FACTS: Final = "fingerprints.sqlite"
"""Name of the cache in a run's folder."""
SCHEMA: Final = Schema(
    what="a file of fingerprints",
    mark="VLMF",
    tables={
        "fingerprints": "file TEXT PRIMARY KEY, value TEXT NOT NULL",
        "files": "place BLOB PRIMARY KEY, size INTEGER NOT NULL, changed INTEGER NOT NULL, digest TEXT NOT NULL, "
        "problem TEXT NOT NULL",
    },
    before={"fingerprints": ("file", "value")},
)
HASH_BITS: Final = 128
DISTANCE: Final = 12
"""Bits in which the perceptual hashes of two copies may differ: re-encoded and resized photographs stay below,
different ones start near 30."""
SIDE: Final = 8
"""Of the thumbnail, in pixels."""
LEAST: Final = 256
"""Pixels of the shorter side at which a picture is hashed, at least; larger ones are halved until they come near it."""
COLOURS: Final = 10.0
"""Root mean square difference of two thumbnails (0-255) up to which they are copies; different images with near hashes
start at 12."""
CONTRAST: Final = 0.35
"""The same as a share of the image's own spread: two white pages differ little in colour, and need not be one page."""
PLAIN: Final = 4.0
"""Spread of a thumbnail (0-255) below which an image is all one colour and its perceptual hash is random."""


@dataclass(frozen=True, kw_only=True)
class ImageHashes:
    """Hashes that identify one image."""

    content: str
    """sha256 of its size and RGB pixels, upright and on white: one image as PNG and as lossless WebP has one
    content. Of one whose shorter side has 512 pixels or more, the pixels reduced by 2, 4 or 8: as JPEG it is reduced
    while it is decoded, so that a PNG made of such a JPEG has another content, and looks alike."""
    perceptual: int
    """Perceptual hash, 128 bits; compare with `looks_alike`, not by equality."""
    thumbnail: bytes = field(repr=False)
    """8 x 8 RGB pixels, 192 bytes."""
    coco: int | None = None
    """Its number in COCO, if its name tells."""
    size: Size | None = field(default=None, compare=False)
    """Width and height in pixels, as the file has them; None where that is not known."""

    @cached_property
    def colours(self) -> NDArray[np.float64]:
        """The thumbnail as 64 x 3 numbers."""
        return np.frombuffer(self.thumbnail, dtype=np.uint8).astype(np.float64).reshape(-1, 3)

    @cached_property
    def spread(self) -> float:
        """Standard deviation of the thumbnail's colours around their mean, 0-255."""
        return float(np.sqrt(((self.colours - self.colours.mean(axis=0)) ** 2).mean()))

    @property
    def is_plain(self) -> bool:
        """Whether the image is so much of one colour that its perceptual hash says nothing."""
        return self.spread < PLAIN


def hash_file(data: bytes) -> ImageHashes:
    """The hashes of the image in a file; OSError for a broken one."""
    image, size = decode_reduced(data, LEAST)
    return hash_image(image, size=size)


def hash_image(image: Image.Image, name: str = "", size: Size | None = None) -> ImageHashes:
    """The hashes of an image; `name` is what its data call it, for the COCO id, `size` its own, where a large one was
    decoded at less. OSError for a broken file."""
    import imagehash

    rgb = _upright_rgb(image)
    width, height = size or rgb.size
    if (factor := reduction(rgb.size, LEAST)) > 1:
        rgb = rgb.reduce(factor)
    grey = rgb.convert("L")
    bits = np.concatenate([imagehash.phash(grey).hash.ravel(), imagehash.dhash(grey).hash.ravel()])
    pixels = hashlib.sha256(f"{width}x{height} ".encode())
    pixels.update(np.asarray(rgb).data)
    return ImageHashes(
        content=pixels.hexdigest(),
        perceptual=int.from_bytes(np.packbits(bits).tobytes(), "big"),
        thumbnail=rgb.resize((SIDE, SIDE), Image.Resampling.BOX).tobytes(),
        coco=coco_id(name),
        size=size or image.size,
    )


def _upright_rgb(image: Image.Image) -> Image.Image:
    # Photographs are large, and Pillow copies those that need no change, too.
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    upright = ImageOps.exif_transpose(image) if turned else image
    if upright.mode.startswith(("I", "F")):  # 16 bits and more, which `convert` would cut off at 255
        values = np.asarray(upright, dtype=np.float64)
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        upright = Image.fromarray(np.nan_to_num((values - low) * (255 / max(high - low, 1))).astype(np.uint8))
    if upright.has_transparency_data:
        # Hidden pixels have no colour of their own: encoders are free to write any.
        white = Image.new("RGBA", upright.size, "white")
        return Image.alpha_composite(white, upright.convert("RGBA")).convert("RGB")
    return upright if upright.mode == "RGB" else upright.convert("RGB")


def looks_alike(one: ImageHashes, other: ImageHashes, distance: int = DISTANCE) -> int | None:
    """In how many bits the perceptual hashes of two copies of one image differ; None for images that are no copies, or
    too plain to tell."""
    bits = (one.perceptual ^ other.perceptual).bit_count()
    if bits > distance or one.is_plain or other.is_plain:
        return None
    difference = float(np.sqrt(((one.colours - other.colours) ** 2).mean()))
    return bits if difference <= min(COLOURS, CONTRAST * max(one.spread, other.spread)) else None


_COCO: Final = re.compile(r"(?<![0-9A-Za-z])(?:COCO_(?:train|val|test)20\d\d_)?0{6}(\d{6})(?!\d)")


def coco_id(name: str) -> int | None:
    """The COCO id in the name, path or id of an image: twelve digits, of which six are 0; None if there is none."""
    found = _COCO.search(name)
    return int(found[1]) if found and int(found[1]) else None


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """What is known of an image file once it has been read."""

    digest: str
    """sha256 of the file; "" for one that can't be read."""
    hashes: ImageHashes | None
    """None for one that can't be decoded."""
    problem: str = ""
    """Why it can't be read or decoded."""


class FileVersion(NamedTuple):
    """An image file, or a member of a zip, as it is now."""

    place: bytes
    """Absolute path, and the member after a zero byte."""
    size: int
    changed: int
    """Nanoseconds since 1970."""


def version_of(image: ImageRef) -> FileVersion | None:
    """The version of an image's file; None for bytes, and for a file that is not there."""
    if image.data is not None or image.file is None:
        return None
    try:
        about = image.file.stat()
    except OSError:
        return None
    place = os.fsencode(image.file.absolute()) + b"\0" + (image.member or "").encode("utf-8", "surrogateescape")
    return FileVersion(place, about.st_size, about.st_mtime_ns)


def _known_by(image: ImageRef) -> FileVersion | str | None:
    """What facts of an image are kept by: its file's version, or the digest of a picture in a table."""
    return image.reader.digest if isinstance(image.reader, EmbeddedPicture) else version_of(image)


_KNOWN: dict[FileVersion | str, tuple[str, Size | None]] = {}
"""Digest and size of every file that a cache of this process has told the facts of."""


def digest_of(image: ImageRef) -> str:
    """sha256 of an image's file, which is read only if nothing is known of it; OSError."""
    if isinstance(image.reader, EmbeddedPicture):
        return image.reader.digest
    known = _KNOWN.get(version) if (version := version_of(image)) else None
    return known[0] if known else hashlib.sha256(image.read()).hexdigest()


def size_of(image: ImageRef) -> Size:
    """Width and height of an image, the head of whose file is read only if nothing is known of it; OSError."""
    known = _KNOWN.get(key) if (key := _known_by(image)) else None
    return (known[1] if known else None) or size_in(image.read())


class HashCache:
    """Facts of image files, kept in an SQLite file that several processes may share.

    A file is read again only if its size or time of change is another; equal files are decoded once. What can't be read
    is not remembered; what can't be decoded is.
    """

    VERSION: Final = 3
    """Version of the hashes; those of other versions are not read: 1 has images of formats that are refused today, 2
    hashes of large pictures at full size."""
    BATCH: Final = 256
    """Rows written at a time; a kill loses no more."""

    def __init__(self, path: Path | None = None) -> None:
        """Without a path facts are kept in memory alone. StoreError for a file that can't be used."""
        self.made = 0
        """Images hashed, as opposed to found in the file."""
        self._lock = threading.Lock()
        self._making = [threading.Lock() for _ in range(256)]
        self._memory: dict[FileVersion | str, ImageFacts] = {}
        """By version of the file, and by digest."""
        self._new_hashes: list[tuple[str, str]] = []
        self._new_files: list[tuple[bytes, int, int, str, str]] = []
        self._file = None if path is None else Store(path, SCHEMA)

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

    def flush(self) -> None:
        """Write what is new, for other processes to find."""
        with self._lock:
            self._write()

    def of(self, image: ImageRef) -> ImageHashes:
        """The hashes of an image; OSError for one that is missing, broken or too large."""
        facts = self.facts_of(image)
        if facts.hashes is None:
            raise OSError(facts.problem)
        return facts.hashes

    def facts_of(self, image: ImageRef) -> ImageFacts:
        """What is known of an image; its file is read if it is new or has changed."""
        version = version_of(image)
        facts = None if version is None else self._memory.get(version) or self._stored_facts(version)
        if isinstance(image.reader, EmbeddedPicture):
            facts = self._facts_by_digest(image.reader.digest)
        if facts is None:
            try:
                data = image.read()
            except OSError as error:
                return ImageFacts(digest="", hashes=None, problem=problem_in(error))
            digest = hashlib.sha256(data).hexdigest()
            # One file is often shown by several rows in a row: the second thread waits for what the first is making.
            with self._making[int(digest[:8], 16) % len(self._making)]:
                facts = self._memory.get(digest) or self._make_facts(data, digest)
                self._memory[digest] = facts
            if version is not None and version == version_of(image):
                self._keep_file(version, facts)
        if (key := _known_by(image)) is not None:
            self._remember_in_process(key, facts)
        coco = coco_in(image)
        if facts.hashes is None or facts.hashes.coco == coco:
            return facts
        return replace(facts, hashes=replace(facts.hashes, coco=coco))

    def remember(self, image: ImageRef, facts: ImageFacts) -> None:
        """Keep these facts of an image's file, which was written just now."""
        version = version_of(image)
        if version is not None:
            self._remember_in_process(version, facts)
            self._keep_file(version, facts)

    def _remember_in_process(self, key: FileVersion | str, facts: ImageFacts) -> None:
        self._memory[key] = facts
        if facts.hashes is not None:
            _KNOWN[key] = facts.digest, facts.hashes.size

    def facts_of_all(self, images: Iterable[ImageRef], workers: int | None = None) -> Iterator[ImageFacts]:
        """What is known of each image, in their order, read by `workers` threads (None: one a CPU)."""
        threads = workers or os.cpu_count() or 1
        rest = iter(images)
        with ThreadPoolExecutor(threads) as pool:
            waiting: deque[Future[ImageFacts]] = deque(
                pool.submit(self.facts_of, image) for image in islice(rest, 4 * threads)
            )
            while waiting:
                done = waiting.popleft().result()
                waiting.extend(pool.submit(self.facts_of, image) for image in islice(rest, 1))
                yield done

    def digests(self) -> frozenset[str]:
        """Digests of the files whose hashes are kept."""
        rows = self._select("SELECT file FROM fingerprints WHERE file LIKE ?", f"{self.VERSION}/%")
        return frozenset(name.partition("/")[2] for (name,) in rows)

    def stored(self, digest: str) -> ImageHashes | None:
        """The hashes that are kept of the file with this digest."""
        rows = self._select("SELECT value FROM fingerprints WHERE file = ?", f"{self.VERSION}/{digest}")
        if not rows:
            return None
        try:
            content, perceptual, thumbnail, *size = parse_json(rows[0][0])
            return ImageHashes(
                content=str(content),
                perceptual=int(perceptual, 16),
                thumbnail=base64.b64decode(thumbnail),
                size=(int(size[0]), int(size[1])) if size else None,
            )
        except (ValueError, TypeError, IndexError):  # damaged, it is made again
            return None

    def keep(self, digest: str, made: ImageHashes) -> None:
        """Keep hashes that were made just now."""
        value = [made.content, f"{made.perceptual:032x}", base64.b64encode(made.thumbnail).decode(), *(made.size or ())]
        with self._lock:
            self.made += 1
            self._new_hashes.append((f"{self.VERSION}/{digest}", json.dumps(value)))
            self._write_if_many()

    def _make_facts(self, data: bytes, digest: str) -> ImageFacts:
        hashes = self.stored(digest)
        if hashes is None:
            try:
                hashes = hash_file(data)
            except OSError as error:
                return ImageFacts(digest=digest, hashes=None, problem=problem_in(error))
            self.keep(digest, hashes)
        return ImageFacts(digest=digest, hashes=hashes)

    def _facts_by_digest(self, digest: str) -> ImageFacts | None:
        if (known := self._memory.get(digest)) is None and (hashes := self.stored(digest)) is not None:
            return ImageFacts(digest=digest, hashes=hashes)
        return known

    def _stored_facts(self, version: FileVersion) -> ImageFacts | None:
        rows = self._select("SELECT digest, problem FROM files WHERE place = ? AND size = ? AND changed = ?", *version)
        if not rows:
            return None
        digest, problem = rows[0]
        hashes = None if problem else self.stored(digest)
        return ImageFacts(digest=digest, hashes=hashes, problem=problem) if problem or hashes else None

    def _keep_file(self, version: FileVersion, facts: ImageFacts) -> None:
        with self._lock:
            self._new_files.append((*version, facts.digest, facts.problem))
            self._write_if_many()

    def _select(self, query: str, *values: str | bytes | int) -> list[tuple[str, ...]]:
        return [] if self._file is None else self._file.run(query, *values)

    def _write_if_many(self) -> None:
        if max(len(self._new_hashes), len(self._new_files)) >= self.BATCH:
            self._write()

    def _write(self) -> None:
        if self._file is not None and (self._new_hashes or self._new_files):
            with self._file.writing():
                for hashed in self._new_hashes:
                    self._file.run("INSERT OR REPLACE INTO fingerprints VALUES (?, ?)", *hashed)
                for file in self._new_files:
                    self._file.run("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", *file)
        self._new_hashes, self._new_files = [], []


@contextmanager
def shared_cache(path: Path) -> Iterator[HashCache]:
    """A cache for one process at a time: of processes that train together, the first reads the images for all."""
    with file_lock(path, wait=True), HashCache(path) as cache:
        yield cache


def coco_in(image: ImageRef) -> int | None:
    """The COCO id in an image's name, or in that of its file."""
    return coco_id(image.name) or coco_id(image.member or (image.file.name if image.file else ""))


def problem_in(error: OSError) -> str:
    """Why an image can't be read or decoded, on one line."""
    return one_line(error) or type(error).__name__
