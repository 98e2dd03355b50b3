"""What preference data are made of: pictures, rows of rated answers, and pairs to learn from.

    row.completions[0].ratings["Helpfulness"]        # "4", as the data have it; "N/A" happens
    row.images[0].open()                             # a PIL image, read only now

Readers of every format give these, and every writer, rule and trainer takes them. `row` is the place in the data: ids repeat in VLFeedback.
"""

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from PIL import Image

from tasks.pictures import decode


@dataclass(frozen=True, slots=True)
class Picture:
    """An image that is read when it is looked at: of a file, of a member of a zip, or of bytes."""

    name: str
    """As the data name it, such as "merged_images/7.jpg"; never opened as a path."""
    file: Path | None = None
    """The image file, or the zip that holds `member`."""
    member: str | None = None
    data: bytes | None = field(default=None, repr=False)

    def read(self) -> bytes:
        """The bytes of the image file; raises OSError."""
        if self.data is not None:
            return self.data
        if self.file is None:
            raise OSError(f"image {self.name!r} is not there")
        if self.member is None:
            return self.file.read_bytes()
        try:
            return _archive(self.file).read(self.member)
        except (
            KeyError,
            RuntimeError,
            NotImplementedError,
            zipfile.BadZipFile,
            zlib.error,
        ) as error:  # what zipfile raises for broken ones
            raise OSError(f"{self.file}: {error}") from None

    def open(self) -> Image.Image:
        """The decoded image; raises OSError for one that is missing, broken or too large."""
        return decode(self.read())


@lru_cache(maxsize=4)
def _archive(path: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One model's answer and what the judge made of it."""

    model: str
    response: str
    ratings: Mapping[str, str] = field(default_factory=dict)
    """Aspect -> rating as the data write it: "1" to "5", or what is no number. An aspect that is not there was not rated."""
    rationales: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One instruction about images, and the answers to it."""

    index: int
    """Place in the data, from 0: the key."""
    id: str
    """As the data have it; repeats."""
    prompt: str
    images: tuple[Picture, ...] = ()
    completions: tuple[Completion, ...] = ()
    source: str = ""
    """Where the instruction is from, where the data say so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """One pair to learn from, and where it comes from."""

    id: str
    prompt: str
    images: tuple[Picture, ...]
    chosen: str
    rejected: str
    margin: float | None = None
    """Score of `chosen` minus that of `rejected` by the rule that made the pair, in rating points; None where nobody rated."""
    row: int
    """Index of its row: pairs of one row share prompt and images."""
    row_id: str = ""
    chosen_model: str = ""
    rejected_model: str = ""
    chosen_ratings: Mapping[str, str] = field(default_factory=dict)
    rejected_ratings: Mapping[str, str] = field(default_factory=dict)
