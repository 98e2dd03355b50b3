"""The one rule of what a row may name as its picture: a file in the folder, or a member of the archive, of the data.

    ImageTree(Path("bench")).find("val/7.jpg")                     # an ImageRef: that path, or the one that ends so
    ImageIndex.of(Path("VLFeedback")).find("/x/merged_images/7.jpg")         # by the end of its path, see image_names
    ImageTree(Path("bench")).find("../7.jpg").problem              # "path outside the folder"

Rows are not trusted. A name that is a URL, that has "..", or that leads out of the folder by a symbolic link is never
opened, and an absolute name means what its end means in the data, never a file elsewhere. One kind of link may lead
out: those of a snapshot in the hub's cache, into the blobs of the same dataset. What can't be had is an `ImageRef` with
a `problem`, which raises OSError when it is read.
"""

import os
import stat
import struct
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import unquote

from support.errors import DataError, first_line
from support.image_cells import UNREADABLE, parse_json, picture_in_cell
from support.image_names import (
    AMBIGUOUS,
    BESIDE,
    IMAGES,
    MISSING,
    Candidate,
    choose,
    coco_prefix,
    file_forms,
    is_absolute,
    keys_of,
    parts_in_common,
    parts_of,
    spelled,
)
from support.images import MAX_BYTES, ImageRef, stamp_of
from support.records import Record
from support.unpacking import LINK, member_problem, open_zip, overlapping

OUTSIDE: Final = "path outside the folder"
URL: Final = "picture is a URL"
TOO_LARGE: Final = "picture file too large"

REFUSED: Final = (OUTSIDE, URL)
"""Problems of names that lead out of the data."""

ZIP: Final = "zip://"
FILE: Final = "file://"


def there(picture: ImageRef) -> bool:
    """Whether there is anything to read."""
    return picture.file is not None or picture.data is not None or picture.reader is not None


def _refuse(name: str, parts: Sequence[str]) -> str:
    """Why nothing may be looked for under a name; "" if something may."""
    if "://" in name:
        return URL
    return OUTSIDE if ".." in parts or "\0" in name else "" if parts else MISSING


def _as_path(name: str) -> str:
    """A name without the spaces around it, and as a path where it is one's `file:` address."""
    name = name.strip()
    return unquote(name.removeprefix(FILE)) if name.startswith(FILE) else name


# Places: folders and zips.


@lru_cache(maxsize=4096)
def resolve_folder(folder: Path) -> Path:
    """The folder with symbolic links resolved."""
    return folder.resolve()


@dataclass(frozen=True)
class _Folder:
    root: Path
    """Resolved."""
    base: bool = True
    """Names are paths below it, first of all."""
    called: tuple[str, ...] = ()
    """Its path as the user wrote it, where that goes by a link: names may end in this one, too."""
    within: Path | None = None
    """The folder of the data that it is a part of, resolved: links may lead to anything in that. None: it is that."""
    named: bool = False
    """The user names it as the folder of pictures: `images/...` in a row may mean it."""

    @cached_property
    def _blobs(self) -> Path | None:
        """Where the hub's cache keeps the files of which the snapshot that this is (or is in) holds links."""
        for folder in (self.root, *self.root.parents):
            repository = folder.parent.parent
            if folder.parent.name == "snapshots" and repository.name.startswith(("datasets--", "models--")):
                return repository / "blobs"
        return None

    @cached_property
    def _resolve(self) -> Callable[[str], tuple[Path, bool]]:
        """A folder below the root, or an absolute one, with links resolved; whether that is inside."""

        def resolve(path: str) -> tuple[Path, bool]:
            folder = resolve_folder(self.root / path)
            return folder, folder.is_relative_to(self.within or self.root)

        return lru_cache(maxsize=4096)(resolve)

    def at(self, name: str, path: str) -> ImageRef | None:
        """The file at `path` below the root, or at an absolute `path`, as the picture `name`; None if there is none."""
        file = path.rpartition("/")[2]
        try:
            folder, inside = self._resolve(path[: len(path) - len(file)])
            place = folder / file
            about = place.lstat()
            if stat.S_ISLNK(about.st_mode):
                target = place.resolve(strict=True)
                about = target.lstat()
                if target.is_relative_to(self.within or self.root):
                    place = target
                elif not (self._blobs and target.is_relative_to(self._blobs)):
                    inside = False
            elif not inside:
                target = place
        except (OSError, RuntimeError, ValueError):  # RuntimeError: a link that leads to itself
            return None
        if not stat.S_ISREG(about.st_mode):
            return None
        problem = TOO_LARGE if about.st_size > MAX_BYTES else ""
        if not inside:
            full = self.root / path
            return ImageRef(name, problem=OUTSIDE, detail=f"{full} is {target}" if full != target else "")
        if problem:
            return ImageRef(name, problem=problem)
        return ImageRef(name, place)

    @cached_property
    def _roots(self) -> tuple[tuple[str, ...], ...]:
        """The folders that this one is called by."""
        return tuple({self.root.parts, self.called or self.root.parts})

    @cached_property
    def _ends(self) -> Callable[[tuple[str, ...]], tuple[tuple[int, tuple[str, ...], bool], ...]]:
        return lru_cache(maxsize=4096)(self._find_ends)  # many names share a few folders

    def _find_ends(self, folders: tuple[str, ...]) -> tuple[tuple[int, tuple[str, ...], bool], ...]:
        """Ends of a name's folders that are folders here: how many folders in common that makes, most first; the end;
        whether it is all of them."""
        found = []
        for start in range(len(folders) + 1):
            end = folders[start:]
            try:
                is_there = not end or self.root.joinpath(*end).is_dir()
            except (OSError, ValueError):  # a part that is too long to be a name
                is_there = False
            if is_there:
                above = max(parts_in_common(folders[:start], root) for root in self._roots)
                found.append((len(end) + above, end, not start))
        return tuple(sorted(found, key=lambda one: -one[0]))

    @cached_property
    def _coco_prefixes(self) -> Callable[[tuple[str, ...]], frozenset[str]]:
        return lru_cache(maxsize=64)(self._find_coco_prefixes)

    def _find_coco_prefixes(self, folders: tuple[str, ...]) -> frozenset[str]:
        """How the names of COCO's pictures begin in a folder."""
        try:
            return frozenset(map(coco_prefix, os.listdir(self.root.joinpath(*folders))))
        except OSError:
            return frozenset()

    def _forms(self, folders: tuple[str, ...], file: str) -> Iterator[str]:
        """The file's name, then those that it may have in this folder: with an ending, in COCO's other form."""
        own, *others = file_forms(file)
        yield own
        for other in others:
            if coco_prefix(other) in self._coco_prefixes(folders):
                yield other

    def candidates(self, name: str, parts: tuple[str, ...]) -> Iterator[Candidate]:
        """The pictures at ends of a name, COCO's in either of their forms, but none that is less like the name than
        one before it: each look costs, and there are many names."""
        if name.startswith("/") and (found := self.at(name, name)):
            yield Candidate(picture=found, path=parts)
        if self.named and parts[0] in BESIDE and len(parts) > 1 and (found := self.at(name, "/".join(parts[1:]))):
            yield Candidate(picture=found, path=parts)
        most = -1
        for in_common, folders, whole in self._ends(parts[:-1]):
            if in_common < most:
                return
            for file in self._forms(folders, parts[-1]):
                if found := self.at(name, "/".join((*folders, file))):
                    for root in self._roots:
                        yield Candidate(picture=found, path=(*root, *folders, file), own=self.base and whole)
                    if file == parts[-1] and not found.problem:
                        most = in_common
                        break


@dataclass(frozen=True)
class _Zip:
    path: Path
    members: Mapping[str, str]
    """Member -> why it can't be read; "" if it can."""
    by_key: Mapping[str, Sequence[str]]
    """What a file name can be looked up by -> members."""

    def at(self, name: str, member: str) -> ImageRef | None:
        if problem := self.members.get(member):
            return ImageRef(name, problem=problem)
        return ImageRef(name, self.path, member) if member in self.members else None

    def candidates(self, name: str, parts: tuple[str, ...]) -> Iterator[Candidate]:
        """The members with the file name of a name, in either of COCO's forms."""
        forms = set(map(spelled, file_forms(parts[-1])))
        for member in dict.fromkeys(one for key in forms for one in self.by_key.get(key, ())):
            if (own := parts_of(member)) and spelled(own[-1]) in forms and (found := self.at(name, member)):
                yield Candidate(picture=found, path=(*self.path.parent.parts, self.path.stem, *own))


def _zip(path: Path) -> _Zip:
    return _read_zip(path, stamp_of(path))


@lru_cache(maxsize=64)
def _read_zip(path: Path, stamp: tuple[int, ...]) -> _Zip:
    try:
        with open_zip(path) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
    except (OSError, ValueError, RuntimeError, struct.error, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a zip of images: {first_line(error)}") from error
    shared, members = overlapping(infos), {}
    for info in infos:
        again = info.filename in members  # which of the two is meant, nobody can tell
        members[info.filename] = AMBIGUOUS if again else _member_problem(info, shared)
    by_key: dict[str, list[str]] = defaultdict(list)
    for member in members:
        for key in keys_of(parts_of(member)[-1]) if parts_of(member) else ():
            by_key[key].append(member)
    return _Zip(path, members, by_key)


def _member_problem(info: zipfile.ZipInfo, shared: set[str]) -> str:
    if problem := member_problem(info, shared):
        return OUTSIDE if problem == LINK else UNREADABLE
    return TOO_LARGE if info.file_size > MAX_BYTES else ""


# Preference data: a few places, and names that others wrote on their own machines.


class ImageIndex:
    """Groups of folders and zips, searched in order: a name means what it means in the first group that has it."""

    def __init__(self, groups: Sequence[Sequence[_Folder | _Zip]], beside: Sequence[Path] = ()) -> None:
        """`beside`: folders of data files, of which `of_file` puts one in front."""
        self.groups = tuple(map(tuple, groups))
        self.beside = beside
        self.find = lru_cache(maxsize=64)(self._find)  # the pairs of one row stand together
        self.of_file = lru_cache(maxsize=64)(self._of_file)

    @classmethod
    def of(cls, images: Path) -> "ImageIndex":
        """What the user names: a folder (with its own merged_images/ and images/), or a zip."""
        if images.is_dir():
            return cls([_places_below(images, named=True)])
        if images.is_file():
            return cls([[_zip(images)]])
        raise DataError(f"{images}: no such folder or zip of images")

    @classmethod
    def inside(cls, *folders: Path) -> "ImageIndex":
        """Just these folders."""
        return cls([[_Folder(folder.resolve())] for folder in folders])

    def _of_file(self, file: Path) -> "ImageIndex":
        """The places in which a row of this file has its pictures: not the folders of the other files."""
        given = self.groups[: len(self.groups) - len(self.beside)]
        folders = dict.fromkeys([file.parent.resolve(), *self.beside[:1]])
        return ImageIndex([*given, *(self.groups[len(given) + self.beside.index(one)] for one in folders)])

    def _find(self, name: str) -> ImageRef:
        """The picture of this name; one that is not there has a problem."""
        name = _as_path(name)
        if name.startswith(ZIP):
            return self._find_in_zip(name)
        parts = parts_of(name)
        refused = ImageRef(name, problem=problem) if (problem := _refuse(name, parts)) else None
        for group in () if refused else self.groups:
            found = choose(name, (one for place in group for one in place.candidates(name, parts)))
            if found and (not found.problem or found.problem == AMBIGUOUS):
                return found
            refused = refused or found
        return refused or ImageRef(name, problem=OUTSIDE if is_absolute(name) else MISSING)

    def _find_in_zip(self, name: str) -> ImageRef:
        """What an ImageExporter without copies gave; only of a zip that is one of the places."""
        member, _, path = name.removeprefix(ZIP).partition("::")
        places = [place for group in self.groups for place in group]
        holding = [place for place in places if isinstance(place, _Zip) and member in place.members]
        zips = {str(place.path.absolute()): place for place in holding}
        moved = (place for place in zips.values() if place.path.name == Path(path).name)
        found = zips.get(path) or next(moved, None)
        return (found.at(member, member) if found else None) or ImageRef(name, problem=URL)

    def pictures(self, record: Record, *columns: str, name: str = "") -> tuple[ImageRef, ...]:
        """The pictures in the first of these columns that holds any: an image struct, a name, or a list of such.

        `name` is what an embedded picture is called that has no name of its own.
        """
        for column in columns:
            value = parse_json(record.get(column))
            if value is not None and value != "" and value != []:
                listed = value if isinstance(value, list) else [value]
                alone = name if len(listed) == 1 else ""
                return tuple(picture_in_cell(item, self.find, alone) for item in listed)
        return ()

    def with_absent(self, record: Record, given: tuple[ImageRef, ...]) -> tuple[ImageRef, ...]:
        """The pictures `given` in a record, in the places of their names (see Given), and those that were absent."""
        names, there_then = record.get("image_names"), record.get("image_there")
        if not (isinstance(names, list) and isinstance(there_then, list) and len(names) == len(there_then)):
            return given
        if not all(isinstance(name, str) for name in names) or sum(map(bool, there_then)) != len(given):
            return given
        rest = iter(given)
        both = zip(names, there_then, strict=True)
        return tuple(self._rename(next(rest), name) if was else self.find(name) for name, was in both)

    def _rename(self, picture: ImageRef, name: str) -> ImageRef:
        if not there(picture):
            written = picture.name
            picture = self.find(name)
            if not there(picture) and is_absolute(written):
                picture = replace(picture, detail=picture.detail or f"it was {written}")
        return replace(picture, name=name or picture.name)


def _places_below(folder: Path, *, named: bool = False) -> list[_Folder | _Zip]:
    root = folder.resolve()
    # A folder that is a link to elsewhere is not taken for part of the data; the user can name it. A zip can only hold
    # what it holds.
    real = [path for name in BESIDE if (path := root / name).is_dir() and path.resolve() == path]
    found: list[_Folder | _Zip] = [_Folder(root, called=folder.absolute().parts, named=named)]
    found += [_Folder(path, base=False, within=root) for path in real]
    return found + [_zip(path) for name in BESIDE if (path := root / f"{name}.zip").is_file()]


def within(data: Path, files: Sequence[Path], images: Path | None) -> ImageIndex:
    """Where a dataset's pictures are: what the user names, then its folder and the folders of its files."""
    own = data if data.is_dir() else data.parent
    folders = list(dict.fromkeys(folder.resolve() for folder in [own, *(path.parent for path in files)]))
    given = ImageIndex.of(images).groups if images is not None else ()
    return ImageIndex([*given, *map(_places_below, folders)], beside=folders)


# Benchmarks and sources of instructions: a folder with all that is below it.


class ImageTree:
    """A folder and the zips below it, or a zip. Names are paths in it, or file names with or without ending."""

    def __init__(self, root: Path | None, *, search: bool = True, beside: bool = False) -> None:
        """No root: no picture. `search`: find pictures below by the ends of their paths, too. `beside`: the rows stand
        in this folder, so that a picture right in it is theirs, whatever folder they say."""
        self.root, self.search, self.beside = root, search, beside
        self.find = lru_cache(maxsize=1 << 17)(self._find)  # benchmarks and sources ask many times about one picture

    def _find(self, name: str) -> ImageRef:
        """The picture of this name; one that is not there has a problem."""
        path = _as_path(name)
        return self._find_path(path) if path == name else replace(self._find_path(path), name=name)

    def _find_path(self, name: str) -> ImageRef:
        parts = parts_of(name)
        problem = _refuse(name, parts)
        if problem or self.root is None:
            return ImageRef(name, problem=problem or MISSING)
        found = None
        if self.root.is_dir():
            written = self._folder.at(name, name) if name.startswith("/") else None
            found = written if written and not written.problem else self._folder.at(name, "/".join(parts))
        elif self.root.suffix.lower() == ".zip":
            found = _zip(self.root).at(name, "/".join(parts))
        if found is None and (self.search or not self.root.is_dir()):
            found = choose(name, self._candidates(name, parts[-1]))
        return found or ImageRef(name, problem=OUTSIDE if is_absolute(name) else MISSING)

    @cached_property
    def _folder(self) -> _Folder:
        return _Folder((self.root or Path()).resolve())

    def _candidates(self, name: str, file: str) -> Iterator[Candidate]:
        for archive, path in dict.fromkeys(one for key in keys_of(file) for one in self._pictures.get(key, ())):
            if archive is None and (found := self._folder.at(name, path)):
                yield Candidate(
                    picture=found, path=(*self._folder.root.parts, *parts_of(path)), own=self.beside and "/" not in path
                )
            elif archive is not None and (found := _zip(archive).at(name, path)):
                yield Candidate(picture=found, path=(*archive.parent.parts, archive.stem, *parts_of(path)))

    @cached_property
    def _pictures(self) -> dict[str, list[tuple[Path | None, str]]]:
        """What a file name can be looked up by -> pictures: the zip that holds it, and its path there or below the
        root."""
        found: dict[str, list[tuple[Path | None, str]]] = defaultdict(list)
        for archive, path in self._all_pictures():
            for key in keys_of(parts_of(path)[-1]):
                found[key].append((archive, path))
        return found

    def _all_pictures(self) -> Iterator[tuple[Path | None, str]]:
        root = self._folder.root
        for file in [root] if root.is_file() else sorted(_files_below(root)):
            if file.suffix.lower() in IMAGES and file != root:
                yield None, file.relative_to(root).as_posix()
            elif file.suffix.lower() == ".zip":
                yield from ((file, one) for one in _zip(file).members if PurePosixPath(one).suffix.lower() in IMAGES)
            elif file == root:
                raise DataError(f"{file}: must be a folder or a zip")


def _files_below(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (Path(parent) / name for name in names)


def has_pictures(folder: Path) -> bool:
    """Whether a folder holds any image or zip, at any depth."""
    return any(file.suffix.lower() in (*IMAGES, ".zip") for file in _files_below(folder))


def images_below(folder: Path) -> list[Path]:
    """All image files of a folder, at any depth."""
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGES and file.is_file())
