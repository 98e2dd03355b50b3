"""Preference data that are there already, as a recipe's [dataset] names them: rated answers, of which pairs are made,
or the pairs.

    found = read_preferences(recipe.dataset)
    found.train, found.held_out          # Preferences, split by prompt: no question is on both sides
    print(found.summary())               # what was read, left out and held out
    found.digest                         # changes with any pair or picture, whatever its place on disk

Only images in the places that the recipe names are opened; see support/image_folders.py.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

from support.errors import DataError, first_few
from support.image_folders import there
from support.images import ImageRef
from support.progress import report
from trainers.config.data import PairOptions, PreferenceFile
from trainers.data.image_hashes import HashCache, ImageFacts
from trainers.data.pair_formats import IMAGE_TOKEN, SeenPairs, read_pairs
from trainers.data.pair_rules import PairCounts, best_answers, pair_up, rule_of, settle
from trainers.data.pair_split import prompt_key, split
from trainers.data.rows import Preference
from trainers.data.vlfeedback_format import Seen, fetch, fetch_public, holds_rows, read_rows

Item = TypeVar("Item")

PUBLIC = "public"
"""Stands for MMInstruction/VLFeedback on the hub."""
HUB = "hub:"

_HUB_ID = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./-]+))?")
_FILES = ("*.jsonl", "*.jsonl.gz", "*.json", "*.parquet", "*.zip", "*.jpg", "*.jpeg", "*.png", "*.webp")
"""Of a hub dataset: data and images, no code."""


@dataclass(frozen=True, kw_only=True)
class FoundPairs:
    """What there is to train on."""

    train: list[Preference]
    held_out: list[Preference]
    dropped: int
    """Pairs left out because an image is not there or does not open."""
    read: str
    """What was met while reading, in a line."""
    digest: str
    """Of every pair on either side."""

    def summary(self) -> str:
        """What was read and what becomes of it, in a line."""
        parts = [self.read, f"{len(self.train):,} pairs to train on", f"{len(self.held_out):,} held out"]
        return "; ".join(parts + [f"{self.dropped:,} left out for want of their picture"] * (self.dropped > 0))


def read_preferences(dataset: PreferenceFile, cache: HashCache | None = None) -> FoundPairs:
    """Read all that [dataset] names. InputError for data, rules or images that can't be used.

    Each image file is read and decoded once; with a file, `cache` knows those that were read before.
    """
    path = locate(dataset.read)
    cache = cache or HashCache()
    images = None if dataset.images is None else Path(dataset.images)
    if not path.is_dir() and not path.is_file():
        raise DataError(
            f"[dataset] read = {dataset.read!r}: no such file or folder; known: a path, {PUBLIC!r}, or {HUB}OWNER/NAME"
        )
    made_of_rows = dataset.format is None and holds_rows(path)
    pairs, told = (_pairs_of_rows if made_of_rows else _pairs_as_given)(path, images, dataset)
    pairs = _without_tokens(pairs, dataset)
    usable = _without_broken(_without_absent(pairs, dataset), dataset, cache)
    sides: dict[str, list[Preference]] = {"train": [], "test": []}
    for pair in usable:
        sides[split(prompt_key(pair), dataset.test_share, dataset.split_seed)].append(pair)
    if not sides["train"]:
        raise DataError(f"[dataset] read = {dataset.read!r} gives no pair to train on: {told}; loosen its rule")
    return FoundPairs(
        train=sides["train"],
        held_out=sides["test"],
        dropped=len(pairs) - len(usable),
        read=told,
        digest=digest(usable, cache),
    )


def locate(read: str) -> Path:
    """Where the data lie; what is on the hub is downloaded, or found in its cache."""
    if read == PUBLIC:
        return fetch_public()
    if not read.startswith(HUB):
        return Path(read)
    match = _HUB_ID.fullmatch(read.removeprefix(HUB))
    if match is None:
        raise DataError(f"[dataset] read = {read!r}: write it as {HUB}OWNER/NAME or {HUB}OWNER/NAME@REVISION")
    return fetch(match["id"], match["revision"], _FILES)


def _pairs_of_rows(path: Path, images: Path | None, dataset: PreferenceFile) -> tuple[list[Preference], str]:
    seen, counts = Seen(), PairCounts()
    read = _report_each(islice(read_rows(path, images, seen=seen), dataset.limit))
    rule, rows = settle(rule_of(dataset), read)
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
            for best in best_answers(rows, rule, dataset.split_seed)
        ]
        return found, f"{seen.summary()}; {len(found):,} best answers by rule {rule.name!r}"
    found = list(pair_up(rows, rule, counts))
    lost = {"ties": counts.ties, "without a rating": counts.skipped_non_numeric, "refused": counts.refused}
    left = "".join(f", {count:,} {what}" for what, count in lost.items() if count)
    return found, f"{seen.summary()}; {counts.pairs:,} pairs by rule {rule.name!r}{left}"


def _pairs_as_given(path: Path, images: Path | None, dataset: PreferenceFile) -> tuple[list[Preference], str]:
    asked = sorted({name for name in ("take", *PairOptions.model_fields) if name in dataset.model_fields_set})
    if asked:
        raise DataError(
            f"[dataset] {asked[0]} is for rated answers; {dataset.read!r} holds pairs, or nothing that is known"
        )
    seen = SeenPairs()
    pairs = islice(read_pairs(path, images, dataset.format, seen=seen), dataset.limit)
    return list(_report_each(pairs)), seen.summary()


def _report_each(items: Iterable[Item]) -> Iterator[Item]:
    for count, item in enumerate(items, start=1):
        report("read preferences", count, 0)
        yield item


_TOKEN = re.compile(rf"\s*{IMAGE_TOKEN}\s*$|{IMAGE_TOKEN}[ \t]*\n?")
"""With the line that it stands on alone."""


def _without_tokens(pairs: list[Preference], dataset: PreferenceFile) -> list[Preference]:
    """A token that marks the place of an image in others' prompts is no text to learn from, whichever this model
    uses."""
    if dataset.image_tokens == "drop":
        pairs = [
            # A count of 0 would mean all of them.
            replace(pair, prompt=_TOKEN.sub("", pair.prompt, count=len(pair.images))) if pair.images else pair
            for pair in pairs
        ]
    held = [pair for pair in pairs if IMAGE_TOKEN in pair.prompt]
    if held:
        refused = dataset.image_tokens == "refuse"
        what = (
            "image_tokens = 'drop' takes out as many as there are pictures" if refused else "more of them than pictures"
        )
        raise DataError(
            f"{dataset.read}: {len(held):,} of {len(pairs):,} pairs have {IMAGE_TOKEN!r} in their prompt: "
            f"{first_few([pair.id for pair in held])}; {what}"
        )
    return pairs


def _without_absent(pairs: list[Preference], dataset: PreferenceFile) -> list[Preference]:
    lost = [pair for pair in pairs if not all(map(there, pair.images))]
    if lost and dataset.missing_images == "refuse":
        names = dict.fromkeys(image.name for pair in lost for image in pair.images if not there(image))
        named = ", ".join(map(repr, names))
        more = " ..." if len(named) > 200 else ""
        raise DataError(
            f"{dataset.read}: {len(lost):,} of {len(pairs):,} pairs lack their picture: {named[:200]}{more}; "
            "name their folder or zip as images, or leave them out by missing_images = 'drop'"
        )
    gone = {pair.id for pair in lost}
    return [pair for pair in pairs if pair.id not in gone]


def _without_broken(pairs: list[Preference], dataset: PreferenceFile, cache: HashCache) -> list[Preference]:
    """An image that does not open would end the training when it is reached."""
    problems = {image: facts.problem for image, facts in _facts_of(pairs, cache).items() if facts.problem}
    lost = [pair for pair in pairs if any(image in problems for image in pair.images)]
    if lost and dataset.missing_images == "refuse":
        first = next(image for image in lost[0].images if image in problems)
        raise DataError(
            f"{dataset.read}: the picture of {len(lost):,} of {len(pairs):,} pairs does not open: "
            f"{first_few([pair.id for pair in lost])}; "
            f"the first is {first.name!r}: {problems[first]}; mend them, or leave them out by missing_images = 'drop'"
        )
    return [pair for pair in pairs if not any(image in problems for image in pair.images)]


def digest(pairs: Sequence[Preference], cache: HashCache | None = None) -> str:
    """Of what the pairs say, what their images are called and what these files hold, in their order; not of where
    those lie. OSError."""
    facts = _facts_of(pairs, cache or HashCache())
    if unreadable := next((one for one in facts.values() if not one.digest), None):
        raise OSError(unreadable.problem)
    total = hashlib.sha256()
    for pair in pairs:
        shown = [(image.name, facts[image].digest) for image in pair.images]
        total.update(json.dumps([pair.id, pair.prompt, shown, pair.chosen, pair.rejected]).encode())
    return total.hexdigest()[:16]


def _facts_of(pairs: Sequence[Preference], cache: HashCache) -> dict[ImageRef, ImageFacts]:
    images = list(dict.fromkeys(image for pair in pairs for image in pair.images))
    return dict(zip(images, cache.facts_of_all(images), strict=True))
