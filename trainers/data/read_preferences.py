"""Preference data that are there already, as a recipe's [dataset] names them: rated answers, of which pairs are made,
or the pairs.

    found = read_preferences(recipe.dataset)
    found.train, found.held_out          # Preferences, split by prompt: no question is on both sides
    print(found.summary())               # what was read, left out and held out
    found.digest                         # changes with any pair or picture, whatever its place on disk

Nothing that a row says is opened or fetched but pictures below the places that the recipe names; see
trainers/data/image_export.py.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

from PIL import UnidentifiedImageError

from support.errors import DataError
from support.image_folders import there
from support.images import ImageRef
from trainers.config.data import PairOptions, PreferenceFile
from trainers.data.pair_formats import IMAGE_TOKEN, SeenPairs, read_pairs
from trainers.data.pair_rules import PairCounts, best_answers, pair_up, rule_of, settle
from trainers.data.pair_split import prompt_key, split
from trainers.data.rows import Preference, Row
from trainers.data.vlfeedback_format import Seen, fetch_public, holds_rows, read_rows

Item = TypeVar("Item")

PUBLIC = "public"
"""Stands for MMInstruction/VLFeedback on the hub."""
HUB = "hub:"

_HUB_ID = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./-]+))?")
_FILES = ("*.jsonl", "*.jsonl.gz", "*.json", "*.parquet", "*.zip", "*.jpg", "*.jpeg", "*.png", "*.webp")
"""Of a hub dataset: data and pictures, no code."""


@dataclass(frozen=True, kw_only=True)
class FoundPairs:
    """What there is to train on."""

    train: list[Preference]
    held_out: list[Preference]
    dropped: int
    """Pairs left out for a picture that is not there or does not open."""
    read: str
    """What was met while reading, in a line."""
    digest: str
    """Of every pair on either side."""

    def summary(self) -> str:
        """What was read and what becomes of it, in a line."""
        parts = [self.read, f"{len(self.train):,} pairs to train on", f"{len(self.held_out):,} held out"]
        return "; ".join(parts + [f"{self.dropped:,} left out for want of their picture"] * (self.dropped > 0))


def read_preferences(dataset: PreferenceFile, progress: Callable[[int], None] = lambda rows: None) -> FoundPairs:
    """Read all that [dataset] names; `progress` hears of every row or pair. InputError for data, rules or pictures that
    will not do."""
    path = locate(dataset.read)
    images = None if dataset.images is None else Path(dataset.images)
    if not path.is_dir() and not path.is_file():
        raise DataError(
            f"[dataset] read = {dataset.read!r}: no such file or folder; known: a path, {PUBLIC!r}, or {HUB}OWNER/NAME"
        )
    if dataset.format is None and holds_rows(path):
        pairs, told = _of_rows(path, images, dataset, progress)
    else:
        pairs, told = _of_pairs(path, images, dataset, progress)
    pairs, dropped = _with_pictures(_without_tokens(pairs, dataset), dataset)
    sides: dict[str, list[Preference]] = {"train": [], "test": []}
    for pair in pairs:
        sides[split(prompt_key(pair), dataset.test_share, dataset.split_seed)].append(pair)
    if not sides["train"]:
        raise DataError(f"[dataset] read = {dataset.read!r} gives no pair to train on: {told}; loosen its rule")
    return FoundPairs(train=sides["train"], held_out=sides["test"], dropped=dropped, read=told, digest=digest(pairs))


def locate(read: str) -> Path:
    """Where the data lie; what is on the hub is downloaded, or found in its cache."""
    if read == PUBLIC:
        return fetch_public()
    if not read.startswith(HUB):
        return Path(read)
    match = _HUB_ID.fullmatch(read.removeprefix(HUB))
    if match is None:
        raise DataError(f"[dataset] read = {read!r}: write it as {HUB}OWNER/NAME or {HUB}OWNER/NAME@REVISION")
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(match["id"], repo_type="dataset", revision=match["revision"], allow_patterns=list(_FILES))
        )
    except Exception as error:
        # The client raises httpx's, its own and the system's errors; each says what went wrong in its first line.
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"[dataset] read = {read!r}: can't be had from the hub: {why}") from error


def _of_rows(
    path: Path, images: Path | None, dataset: PreferenceFile, progress: Callable[[int], None]
) -> tuple[list[Preference], str]:
    seen, counts = Seen(), PairCounts()
    rows: Iterable[Row] = islice(read_rows(path, images, seen=seen), dataset.limit)
    rule, read = settle(rule_of(dataset), _counted(rows, progress))
    if dataset.take == "best":
        found = [
            Preference(
                id=str(best.row),
                prompt=best.prompt,
                images=best.images,
                chosen=best.completion,
                rejected="",
                row=best.row,
                row_id=best.row_id,
                chosen_model=best.model,
                chosen_ratings=best.ratings,
            )
            for best in best_answers(read, rule, dataset.split_seed)
        ]
        return found, f"{seen.summary()}; {len(found):,} best answers by rule {rule.name!r}"
    found = list(pair_up(read, rule, counts))
    lost = {"ties": counts.ties, "without a rating": counts.skipped_non_numeric, "refused": counts.refused}
    left = "".join(f", {count:,} {what}" for what, count in lost.items() if count)
    return found, f"{seen.summary()}; {counts.pairs:,} pairs by rule {rule.name!r}{left}"


def _of_pairs(
    path: Path, images: Path | None, dataset: PreferenceFile, progress: Callable[[int], None]
) -> tuple[list[Preference], str]:
    asked = sorted({name for name in ("take", *PairOptions.model_fields) if name in dataset.model_fields_set})
    if asked:
        raise DataError(
            f"[dataset] {asked[0]} is for rated answers; {dataset.read!r} holds pairs, or nothing that is known"
        )
    seen = SeenPairs()
    found = list(_counted(islice(read_pairs(path, images, dataset.format, seen=seen), dataset.limit), progress))
    return found, seen.summary()


def _counted(items: Iterable[Item], progress: Callable[[int], None]) -> Iterator[Item]:
    for count, item in enumerate(items, start=1):
        progress(count)
        yield item


_TOKEN = re.compile(rf"\s*{IMAGE_TOKEN}\s*$|{IMAGE_TOKEN}[ \t]*\n?")
"""With the line that it stands on alone."""


def _without_tokens(pairs: list[Preference], dataset: PreferenceFile) -> list[Preference]:
    """What stands for a picture in others' prompts is no text to learn from, whatever this model has in its place."""
    if dataset.image_tokens == "drop":
        pairs = [_without_its_tokens(pair) for pair in pairs]
    held = [pair.id for pair in pairs if IMAGE_TOKEN in pair.prompt]
    if held:
        ids = ", ".join(map(repr, held[:5])) + (" ..." if len(held) > 5 else "")
        refused = dataset.image_tokens == "refuse"
        what = (
            "image_tokens = 'drop' takes out as many as there are pictures" if refused else "more of them than pictures"
        )
        raise DataError(
            f"{dataset.read}: {len(held):,} of {len(pairs):,} pairs have {IMAGE_TOKEN!r} in their prompt: {ids}; {what}"
        )
    return pairs


def _without_its_tokens(pair: Preference) -> Preference:
    # A count of 0 would mean all of them.
    return replace(pair, prompt=_TOKEN.sub("", pair.prompt, count=len(pair.images))) if pair.images else pair


def _with_pictures(pairs: list[Preference], dataset: PreferenceFile) -> tuple[list[Preference], int]:
    pairs, absent = _without_absent(pairs, dataset)
    pairs, broken = _without_broken(pairs, dataset)
    return pairs, absent + broken


def _without_broken(pairs: list[Preference], dataset: PreferenceFile) -> tuple[list[Preference], int]:
    """All pictures are decoded once: one that does not open would end the run in the midst of it."""
    pictures = list(dict.fromkeys(image for pair in pairs for image in pair.images))
    with ThreadPoolExecutor() as pool:
        broken = {picture: why for picture, why in zip(pictures, pool.map(_trouble, pictures), strict=True) if why}
    lost = [pair for pair in pairs if any(image in broken for image in pair.images)]
    if lost and dataset.missing_images == "refuse":
        ids = ", ".join(repr(pair.id) for pair in lost[:5]) + (" ..." if len(lost) > 5 else "")
        first = next(image for image in lost[0].images if image in broken)
        raise DataError(
            f"{dataset.read}: the picture of {len(lost):,} of {len(pairs):,} pairs does not open: {ids}; the first is {first.name!r}: "
            f"{broken[first]}; mend them, or leave them out by missing_images = 'drop'"
        )
    return [pair for pair in pairs if not any(image in broken for image in pair.images)], len(lost)


def _trouble(picture: ImageRef) -> str:
    """Why a picture does not open; "" for one that does."""
    try:
        picture.open()
    except UnidentifiedImageError:
        return "not an image that is known"
    except OSError as error:
        return " ".join(str(error).split()) or type(error).__name__
    return ""


def _without_absent(pairs: list[Preference], dataset: PreferenceFile) -> tuple[list[Preference], int]:
    lost = [pair for pair in pairs if not all(map(there, pair.images))]
    if not lost:
        return pairs, 0
    if dataset.missing_images == "refuse":
        named = ", ".join(
            repr(name)
            for name in dict.fromkeys(image.name for pair in lost for image in pair.images if not there(image))
        )
        more = " ..." if len(named) > 200 else ""
        raise DataError(
            f"{dataset.read}: {len(lost):,} of {len(pairs):,} pairs lack their picture: {named[:200]}{more}; "
            "name their folder or zip as images, or leave them out by missing_images = 'drop'"
        )
    gone = {pair.id for pair in lost}
    return [pair for pair in pairs if pair.id not in gone], len(lost)


def digest(pairs: Sequence[Preference]) -> str:
    """Of what the pairs say, what their pictures are called and what these files hold, in their order; not of where
    those lie. OSError."""
    pictures = list(dict.fromkeys(picture for pair in pairs for picture in pair.images))
    with ThreadPoolExecutor() as pool:
        held = dict(zip(pictures, pool.map(_content, pictures), strict=True))
    total = hashlib.sha256()
    for pair in pairs:
        shown = [(picture.name, held[picture]) for picture in pair.images]
        total.update(json.dumps([pair.id, pair.prompt, shown, pair.chosen, pair.rejected]).encode())
    return total.hexdigest()[:16]


def _content(picture: ImageRef) -> str:
    return hashlib.sha256(picture.read()).hexdigest()
