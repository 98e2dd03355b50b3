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


def coco_prefix(file: str) -> str:
    """What COCO's releases of 2014 put before a picture's number; "" for other names."""
    found = _COCO.match(file)
    return found[0] if found else ""


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


def parts_in_common(one: Sequence[str], other: Sequence[str]) -> int:
    """How many last parts two paths have in common; the folders of BESIDE are one."""
    count = 0
    for here, there in zip(reversed(one), reversed(other), strict=False):
        if spelled(here) != spelled(there) and not (here in BESIDE and there in BESIDE):
            break
        count += 1
    return count


@dataclass(frozen=True, kw_only=True, order=True)
class _Likeness:
    """How alike a name and a path are; the first difference decides."""

    is_coco: bool
    """Both have COCO's number of one picture and one ending: the pictures of a mask or a depth map have another."""
    parts: int
    """The last parts that they have in common."""
    spelling: int
    """3: the file's very name; 2: COCO's other form; 1: another ending, or none."""
    folder: bool
    """The folder's very name, too: not another of BESIDE."""
    own: bool

    @classmethod
    def of(cls, parts: Sequence[str], candidate: Candidate) -> "_Likeness":
        """Of the parts of a name and a picture."""
        path = candidate.path
        file, other = spelled(parts[-1]), spelled(path[-1])
        spelling = 3 if file == other else 2 if _COCO.sub("", file) == _COCO.sub("", other) else 1
        return cls(
            is_coco=spelling > 1 and _is_coco(file),
            parts=1 + parts_in_common(parts[:-1], path[:-1]),
            spelling=spelling,
            folder=len(parts) > 1 < len(path) and parts[-2] == path[-2],
            own=candidate.own,
        )


def choose(name: str, candidates: Iterable[Candidate]) -> ImageRef | None:
    """The picture that a name means among those of its file name, or one that says why there is none; None without any.

    A picture that may not be read is chosen only where there is no other.
    """
    parts = parts_of(name)
    ranked: dict[ImageRef, _Likeness] = {}
    refused: list[ImageRef] = []
    for one in candidates:
        if one.picture.problem:
            refused.append(one.picture)
        else:
            rank = _Likeness.of(parts, one)
            ranked[one.picture] = max(rank, ranked.get(one.picture, rank))
    if not ranked:
        return refused[0] if refused else None
    best = max(ranked.values())
    found = [picture for picture, rank in ranked.items() if rank == best]
    if best.parts == 1 < len(parts) and not best.own and not _is_coco(parts[-1]):
        return ImageRef(name, problem=MISSING, detail=f"of this name there is {_list_paths(found)}, in another folder")
    if len(found) > 1 and not _hold_the_same(found):
        return ImageRef(name, problem=AMBIGUOUS, detail=f"it may be {_list_paths(found)}")
    return replace(next((one for one in found if one.member is None), found[0]), name=name)


def _hold_the_same(pictures: Sequence[ImageRef]) -> bool:
    """Whether all hold the same bytes, such as those of a zip that was unpacked beside itself."""
    try:
        if len({one.size for one in pictures}) > 1:
            return False
        if len(pictures) == 2 and (_unpacks_to(*pictures) or _unpacks_to(*reversed(pictures))):
            return True  # reading both would read a whole dataset twice
        first = pictures[0].read()
        return all(one.read() == first for one in pictures[1:])
    except OSError:
        return False


def _unpacks_to(packed: ImageRef, file: ImageRef) -> bool:
    if packed.file is None or packed.member is None or file.file is None or file.member is not None:
        return False
    folder = packed.file.parent
    return file.file in (folder / packed.member, folder / packed.file.stem / packed.member)


def _list_paths(pictures: Sequence[ImageRef]) -> str:
    named = [f"{one.file}::{one.member}" if one.member is not None else str(one.file) for one in pictures[:SHOWN]]
    more = f" and {len(pictures) - SHOWN} more" if len(pictures) > SHOWN else ""
    return ", ".join(named) + more
