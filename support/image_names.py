"""Which picture a name in the data means: of those with its file name, the one whose path ends most like it.

    choose("count/1.png", [at("pics/count/1.png"), at("pics/color/1.png")])     # the first: two parts in common
    choose("vg/1.png", [at("coco/1.png")]).problem                             # "missing picture": only the file's name

A name that says a folder means no picture of another folder, however few pictures of its file name there are; only
COCO's names (000000442786.jpg, COCO_train2014_000000442786.jpg) say by themselves which picture they mean. A name
that several paths end alike in is ambiguous, unless all of them hold the same bytes.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Final

from support.images import ImageRef

MISSING: Final = "missing picture"
AMBIGUOUS: Final = "ambiguous picture"

IMAGES: Final = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
BESIDE: Final = ("merged_images", "images")
"""Folders of pictures (or, with .zip, archives) beside preference data: one means the other."""
SHOWN: Final = 4
"""How many paths a message names."""

_COCO: Final = re.compile(r"^COCO_(?:train|val|test)20\d\d_(?=\d{12})")
_COCO_NUMBER: Final = re.compile(r"^0{6}\d{6}(?=\.|$)")
_COCO_PREFIXES: Final = tuple(
    f"COCO_{part}_" for part in ("train2014", "val2014", "test2014", "test2015", "train2017", "val2017", "test2017")
)


def parts_of(name: str) -> tuple[str, ...]:
    """The folders and the file of a path in Unix or Windows form."""
    return tuple(part for part in name.replace("\\", "/").split("/") if part not in {"", "."})


def is_absolute(name: str) -> bool:
    """True for a path that starts at a root, in Unix or Windows form."""
    return name.startswith(("/", "\\")) or name[1:3] in {":\\", ":/"}


def spelled(part: str) -> str:
    """A name as it is compared: macOS writes an accent as a character of its own."""
    return part if part.isascii() else unicodedata.normalize("NFC", part)


def without_ending(file: str) -> str:
    """A picture's file name without its ending."""
    return PurePosixPath(file).stem if PurePosixPath(file).suffix.lower() in IMAGES else file


def _is_coco(file: str) -> bool:
    return _COCO_NUMBER.match(_COCO.sub("", file)) is not None


def coco_forms(file: str) -> tuple[str, ...]:
    """The names that COCO's releases give the picture of this name, this one first; of other names: itself."""
    if not _is_coco(file):
        return (file,)
    short = _COCO.sub("", file)
    return tuple(dict.fromkeys([file, short, *(prefix + short for prefix in _COCO_PREFIXES)]))


def file_forms(file: str) -> tuple[str, ...]:
    """The names that the picture of this name may have: in COCO's forms, and with an ending where it has none."""
    endings = () if PurePosixPath(file).suffix.lower() in IMAGES else IMAGES
    return tuple(form + ending for form in coco_forms(file) for ending in ("", *endings))


def keys_of(file: str) -> set[str]:
    """What a file name can be looked up by: itself, without its ending, in COCO's short form."""
    file = spelled(file)
    short = _COCO.sub("", file)
    return {file, without_ending(file), short, without_ending(short)}


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A picture that a name may mean."""

    picture: ImageRef
    path: tuple[str, ...]
    """The folders above the picture, those above the data's own among them, and its file."""
    own: bool = False
    """It lies right beside the rows that name it, or the name is its very path there."""


def _measure_likeness(parts: Sequence[str], candidate: Candidate) -> tuple[int, int]:
    """How many last parts a name and a path have in common, and how alike their files are spelled."""
    parts, path = tuple(map(spelled, parts)), tuple(map(spelled, candidate.path))
    file, other = parts[-1], path[-1]
    spelling = 3 if file == other else 2 if _COCO.sub("", file) == _COCO.sub("", other) else 1
    count = 1
    for one, two in zip(reversed(parts[:-1]), reversed(path[:-1]), strict=False):
        if one != two and not (one in BESIDE and two in BESIDE):
            break
        count += 1
    return count, spelling


def choose(name: str, candidates: Iterable[Candidate]) -> ImageRef | None:
    """The picture that a name means among those of its file name, or one that says why there is none; None without any.

    A picture that may not be read is chosen only where there is no other.
    """
    parts = parts_of(name)
    ranked: dict[ImageRef, tuple[int, int, bool]] = {}
    refused: list[ImageRef] = []
    for one in candidates:
        if one.picture.problem:
            refused.append(one.picture)
        else:
            rank = (*_measure_likeness(parts, one), one.own)
            ranked[one.picture] = max(rank, ranked.get(one.picture, rank))
    if not ranked:
        return refused[0] if refused else None
    best = max(ranked.values())
    found = [picture for picture, rank in ranked.items() if rank == best]
    count, _, own = best
    if count == 1 < len(parts) and not own and not _is_coco(parts[-1]):
        return ImageRef(name, problem=MISSING, detail=f"of this name there is {_list_paths(found)}, in another folder")
    if len(found) > 1 and not _hold_the_same(found):
        return ImageRef(name, problem=AMBIGUOUS, detail=f"it may be {_list_paths(found)}")
    return replace(next((one for one in found if one.member is None), found[0]), name=name)


def _hold_the_same(pictures: Sequence[ImageRef]) -> bool:
    """Whether all hold the same bytes, such as those of a zip that was unpacked beside itself."""
    try:
        first = pictures[0].read()
        return all(one.read() == first for one in pictures[1:])
    except OSError:
        return False


def _list_paths(pictures: Sequence[ImageRef]) -> str:
    named = [f"{one.file}::{one.member}" if one.member is not None else str(one.file) for one in pictures[:SHOWN]]
    more = f" and {len(pictures) - SHOWN} more" if len(pictures) > SHOWN else ""
    return ", ".join(named) + more
