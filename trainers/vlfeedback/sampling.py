"""Draws a run's instructions from its sources: by weights and a seed, without duplicates, with their pictures in the
run's folder.

    drawn = instructions_of(data, seed, folder / "images")
    shares(1000, {"SVIT": 22823, "RTVLM": 2100})             # {"SVIT": 916, "RTVLM": 84}

Which instructions are drawn depends on the seed and on what they say, not on where they stand in a file: each has a
place in an order of digests, and the first of a source that nothing speaks against are taken. A source that runs short
leaves the rest of its share to the others. Pictures keep their bytes and are named by them, so that a run that was
interrupted goes on where it was; `sampling.json` beside the pictures' folder says of each source what there was, what
was drawn, and what was left out why. Rows are counted as left out for their words, or for having no picture, wherever
they stand; for what their picture is, or as duplicates, only where they were looked at.
"""

import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Final

from support.errors import DataError
from support.files import atomic_write, atomic_write_text
from support.image_formats import open_image
from support.images import MAX_PIXELS, ImageRef
from support.progress import report
from trainers.config.data import Data, Filters, InstructionSource
from trainers.data.duplicates import Deduplicator
from trainers.data.image_hashes import DISTANCE, IMAGE_FACTS, HashCache, ImageFacts
from trainers.data.near_texts import normal_prompt
from trainers.vlfeedback.instructions import Instruction, scenes_instructions
from trainers.vlfeedback.sources import SCENES, Item, Opened, declared, open_source

RECORD: Final = "sampling.json"
RESERVE: Final = 1000
"""Candidates of a source that are kept in memory at least."""
BATCH: Final = 256
"""Pictures that are looked at, and held in memory, at a time."""
ENDINGS: Final = {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif"}


def instructions_of(data: Data, seed: int, images: Path) -> list[Instruction]:
    """The instructions of a run; their pictures are written to `images`, and what was drawn from where to sampling.json
    beside it."""
    if not data.sources:
        return scenes_instructions(data, seed, images)
    with HashCache(images.parent / IMAGE_FACTS) as hashes:
        draw = _Draw(data, seed, images, hashes)
        found = draw.all()
    atomic_write_text(images.parent / RECORD, json.dumps(draw.record(), indent=2, ensure_ascii=False) + "\n")
    if not found:
        why = "; ".join(f"{one.name}: {one.available} candidates, {_list_reasons(one.filtered)}" for one in draw.parts)
        raise DataError(f"no instruction could be drawn ({why})")
    return found


def shares(total: int, weights: Mapping[str, float]) -> dict[str, int]:
    """`total` divided by weight, in whole numbers, by largest remainder; of equal remainders the first gets more."""
    exact = {name: Fraction(weight) for name, weight in weights.items()}
    whole = sum(exact.values())
    parts = {name: total * weight / whole for name, weight in exact.items()}
    found = {name: int(part) for name, part in parts.items()}
    rest = sorted(parts, key=lambda name: parts[name] - found[name], reverse=True)[: total - sum(found.values())]
    return {name: count + (name in rest) for name, count in found.items()}


def _list_reasons(filtered: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(filtered.items())) or "none left out"


# Candidates of a source, in the order of the seed.


def order(seed: int, source: str, item: Item) -> int:
    """The place of an item, from 0 to 2^64."""
    text = "\0".join((str(seed), source, item.picture.name, item.prompt))
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def prompt_fault(prompt: str, filters: Filters) -> str | None:
    """Why a prompt's length rules it out; None where it does not."""
    words, characters = len(prompt.split()), len(prompt)
    if words < filters.min_words or characters < filters.min_characters:
        return "too short"
    limits = ((words, filters.max_words), (characters, filters.max_characters))
    return "too long" if any(most is not None and count > most for count, most in limits) else None


@dataclass
class _Part:
    """One source while it is drawn from."""

    source: InstructionSource
    opened: Opened | None
    """None for the scenes, which never end."""
    weight: float | None
    """None: a fixed count."""
    share: int = 0
    """Instructions it was to give at first."""
    wanted: int = 0
    """The same with what others left over."""
    drawn: int = 0
    rows: int = 0
    available: int = 0
    """Candidates whose words pass and that have a picture."""
    filtered: Counter[str] = field(default_factory=Counter)
    candidates: Iterator[Item] = field(default_factory=lambda: iter(()))
    ended: bool = False

    @property
    def name(self) -> str:
        return self.source.name


def candidates(part: _Part, seed: int, filters: Filters, reserve: int) -> Iterator[Item]:
    """All items of the source that pass by their words, in the seed's order; `reserve` are in memory, and more are read
    when needed."""
    above, first = -1, True
    while True:
        nearest: list[tuple[int, int, Item]] = []
        assert part.opened is not None
        beyond = False
        for number, item in enumerate(part.opened.items()):
            reason = item if isinstance(item, str) else prompt_fault(item.prompt, filters)
            if first:
                part.rows += 1
                part.available += reason is None
                part.filtered.update([reason] if reason else [])
            if reason is not None or isinstance(item, str):
                continue
            place = order(seed, part.name, item)
            if place <= above:
                continue
            if len(nearest) < reserve:
                heapq.heappush(nearest, (-place, -number, item))
            else:
                beyond = True
                if -place > nearest[0][0]:
                    heapq.heapreplace(nearest, (-place, -number, item))
        nearest.sort(key=lambda entry: entry[:2], reverse=True)
        yield from (item for _, _, item in nearest)
        if not beyond:
            return
        # Rows of one place say the same about a picture of the same name: those that did not fit are duplicates.
        above, first, reserve = -nearest[-1][0], False, reserve * 4


# Drawing.


class _Draw:
    """All sources of a run, and what was taken from them."""

    def __init__(self, data: Data, seed: int, images: Path, hashes: HashCache) -> None:
        self.data, self.seed, self.images, self.hashes = data, seed, images, hashes
        self.known: Deduplicator[str] = Deduplicator(DISTANCE if data.filters.near else -1)
        self.groups: dict[str, str] = {}
        """Instruction -> the first one about the same picture."""
        self.about: Counter[str] = Counter()
        """First instruction about a picture -> how many there are about it."""
        self.wordings: Counter[str] = Counter()
        self.files: dict[str, str] = {}
        """Content of a picture -> its file: the second encoding of a picture is not written."""
        self.held: dict[ImageRef, bytes] = {}
        """The files of the pictures that were read just now, so that none is read again to be copied."""
        self.taken: dict[str, list[Instruction]] = {}
        self.parts = _open_parts(data)
        for part in self.parts:
            if part.opened is not None:
                part.candidates = candidates(part, seed, data.filters, 2 * data.instructions + RESERVE)

    def all(self) -> list[Instruction]:
        """The instructions, source by source."""
        total = self.data.instructions
        for part, share in zip(self.parts, _divide(self.parts, total), strict=True):
            part.share = part.wanted = share
        while True:
            for part in self.parts:
                self._take(part)
            missing = total - sum(part.drawn for part in self.parts)
            open_parts = {part.name: part for part in self.parts if part.weight is not None and not part.ended}
            if not missing or not open_parts:
                break
            for name, more in shares(missing, {name: part.weight or 0 for name, part in open_parts.items()}).items():
                open_parts[name].wanted += more
        for part in self.parts:
            if part.opened is None and part.drawn:
                scenes = self.data.model_copy(update={"instructions": part.drawn})
                self.taken[part.name] = scenes_instructions(scenes, self.seed, self.images)
        return [instruction for part in self.parts for instruction in self.taken.get(part.name, [])]

    def _take(self, part: _Part) -> None:
        if part.opened is None:
            part.drawn = part.wanted
            return
        taken = self.taken.setdefault(part.name, [])
        while part.drawn < part.wanted and not part.ended:
            batch = list(islice(part.candidates, min(BATCH, part.wanted - part.drawn)))
            part.ended = not batch
            facts_of_batch = self.hashes.facts_of_all(self._hold(item.picture) for item in batch)
            for item, facts in zip(batch, facts_of_batch, strict=True):
                instruction, fault = self._check(part, item, facts)
                if instruction is None:
                    part.filtered[fault] += 1
                else:
                    taken.append(instruction)
                    part.drawn += 1
            self.held.clear()
            report("instructions", sum(one.drawn for one in self.parts), self.data.instructions)

    def _hold(self, picture: ImageRef) -> ImageRef:
        """The picture, whose bytes are held once it has been read."""

        def read() -> bytes:
            self.held[picture] = data = picture.read()
            return data

        return replace(picture, reader=read)

    def _check(self, part: _Part, item: Item, facts: ImageFacts) -> tuple[Instruction | None, str]:
        """The instruction, its picture written; or None and why not."""
        seen = facts.hashes
        if seen is None:
            return None, "unreadable picture"
        filters, wording = self.data.filters, normal_prompt(item.prompt)
        duplicate = self.known.find(item.prompt, seen)
        if duplicate is not None and duplicate.kind == "same prompt and image":
            return None, "duplicate"
        if duplicate is not None and duplicate.kind == "same prompt, image looks alike":
            return None, "near-duplicate"
        if filters.per_prompt is not None and self.wordings[wording] >= filters.per_prompt:
            return None, "duplicate prompt"
        group = self.groups[duplicate.of] if duplicate is not None else None
        if group is not None and filters.per_image is not None and self.about[group] >= filters.per_image:
            return None, "duplicate image"
        if seen.content not in self.files:
            try:
                name = self._copy_picture(item.picture, facts)
            except OSError:
                return None, "unreadable picture"
            if name is None:
                return None, "small picture"
            self.files[seen.content] = name
        asked = hashlib.sha256(item.prompt.encode("utf-8", "surrogatepass")).hexdigest()
        id = f"{part.name}/{seen.content[:16]}-{asked[:12]}"
        self.known.add(id, item.prompt, seen)
        self.groups[id] = group or id
        self.about[group or id] += 1
        self.wordings[wording] += 1
        values = {"id": id, "prompt": item.prompt, "image": self.files[seen.content], "kind": "question"}
        return Instruction(**values, source=part.name, origin=item.origin), ""

    def _copy_picture(self, picture: ImageRef, facts: ImageFacts) -> str | None:
        """The name that the picture's file has in the run's folder; None for one that is too small, which is not
        written. OSError."""
        data = self.held.get(picture) or picture.read()
        with open_image(data, pixels=MAX_PIXELS) as opened:
            side, format = min(opened.size), opened.format or "image"
        if side < self.data.filters.min_side:
            return None
        digest = hashlib.sha256(data).hexdigest()
        path = self.images / f"{digest[:16]}.{ENDINGS.get(format, format.lower())}"
        if not (path.exists() and path.stat().st_size == len(data)):
            atomic_write(path, data)
        if digest == facts.digest:
            self.hashes.remember(ImageRef.at(path), facts)
        return path.name

    def record(self) -> dict[str, object]:
        """What sampling.json says."""
        return {
            "seed": self.seed,
            "wanted": self.data.instructions,
            "drawn": sum(part.drawn for part in self.parts),
            "filters": self.data.filters.model_dump(),
            "sources": [
                {
                    "name": part.name,
                    "from": part.opened.where if part.opened else SCENES,
                    "weight": part.weight,
                    "share": part.share,
                    "drawn": part.drawn,
                    "short": max(0, part.share - part.drawn),
                    "from_others": max(0, part.drawn - part.share),
                    "rows": part.rows if part.opened else None,
                    "available": part.available if part.opened else None,
                    "filtered": dict(sorted(part.filtered.items())),
                }
                for part in self.parts
            ],
        }


def _open_parts(data: Data) -> list[_Part]:
    names = Counter(source.name for source in data.sources)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise DataError(f"two sources are named {twice[0]!r}: give each a name of its own, and its place as path")
    published = {source.name: _published_count(source) for source in data.sources}
    any_published = any(published.values())
    parts: list[_Part] = []
    for source in data.sources:
        weight = None if source.count else source.weight or published[source.name]
        if weight is None and source.count is None:
            if any_published:
                beside = "sources that are weighted by VLFeedback's own figures"
                raise DataError(f"{source.name}: needs a weight or a count beside {beside}")
            weight = 1.0
        parts.append(_Part(source=source, opened=None if source.name == SCENES else open_source(source), weight=weight))
    return parts


def _published_count(source: InstructionSource) -> float | None:
    if source.weight is not None or source.count is not None or source.name not in declared():
        return None
    return float(declared()[source.name].published)


def _divide(parts: Sequence[_Part], total: int) -> list[int]:
    fixed = sum(part.source.count or 0 for part in parts)
    weights = {part.name: part.weight for part in parts if part.weight is not None}
    if fixed > total or (fixed < total and not weights):
        raise DataError(f"the counts of the sources are {fixed} in all, and instructions = {total}")
    weighted = shares(total - fixed, weights) if weights else {}
    return [part.source.count or weighted[part.name] for part in parts]
