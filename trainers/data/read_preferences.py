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
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

from support.errors import DataError, first_few
from support.image_marks import MARK, marks_in
from support.images import ImageRef
from support.progress import report
from support.shards import is_there
from trainers.config.data import PairOptions, PreferenceFile
from trainers.data.conversations import NoPair
from trainers.data.image_hashes import HashCache, ImageFacts
from trainers.data.image_places import count_marks, in_order, read_places
from trainers.data.pair_formats import SeenPairs, read_pairs
from trainers.data.pair_rules import PairCounts, best_answers, pair_up, rule_of, settle
from trainers.data.pair_split import prompt_key, split
from trainers.data.rows import Preference
from trainers.data.usable_pairs import PairFilter, describe_left_out, facts_of
from trainers.data.vlfeedback_format import REPOSITORY, REVISION, Seen, fetch, fetch_public, holds_rows, read_rows

log = logging.getLogger(__name__)

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
    left_out: Mapping[str, Sequence[str]]
    """Why pairs can't be used -> their ids."""
    read: str
    """What was met while reading, in a line."""
    digest: str
    """Of every pair on either side."""
    skipped: int = 0
    """Records that hold no pair."""

    @property
    def bad_rows(self) -> int:
        """Rows that gave no pair to train on."""
        return self.dropped + self.skipped

    @property
    def dropped(self) -> int:
        """Pairs that are left out."""
        return sum(map(len, self.left_out.values()))

    def summary(self) -> str:
        """What was read and what becomes of it, in a line."""
        parts = [self.read, f"{len(self.train):,} pairs to train on", f"{len(self.held_out):,} held out"]
        return "; ".join([*parts, *describe_left_out(self.left_out)])


def read_preferences(
    dataset: PreferenceFile, cache: HashCache | None = None, *, chosen_alone: bool = False
) -> FoundPairs:
    """Read all that [dataset] names. InputError for data, rules or images that can't be used.

    Each image file is read and decoded once; with a file, `cache` knows those that were read before. `chosen_alone`:
    the rejected answers are not learnt from.
    """
    pair_filter = PairFilter(dataset, cache or HashCache(), chosen_alone=chosen_alone or dataset.take == "best")
    usable, told, sides = _read_usable(dataset, pair_filter)
    held_out = sides["test"]
    if dataset.held_out is not None:
        other = dataset.model_copy(update={"read": dataset.held_out, "held_out": None, "test_share": 0.0})
        others, also_told, _ = _read_usable(other, pair_filter)
        rows = 1 + max((pair.row for pair in usable), default=-1)
        held_out = [replace(pair, id=f"held-out/{pair.id}", row=rows + place) for place, pair in enumerate(others)]
        usable, told = [*usable, *held_out], f"{told}; held out: {also_told}"
    if not sides["train"]:
        hint = ["loosen its rule"] if dataset.format is None and holds_rows(locate(dataset.read)) else []
        left = "; ".join([told, *describe_left_out(pair_filter.left_out), *hint])
        raise DataError(f"[dataset] read = {dataset.read!r} gives no pair to train on: {left}")
    if without := sum(not pair.images for pair in usable):
        log.warning("%s: %s of %s pairs have no picture", dataset.read, f"{without:,}", f"{len(usable):,}")
    return FoundPairs(
        train=sides["train"],
        held_out=held_out,
        left_out=pair_filter.left_out,
        read=told,
        digest=_digest(usable, pair_filter.facts),
        skipped=pair_filter.skipped,
    )


def _read_usable(
    dataset: PreferenceFile, pair_filter: PairFilter
) -> tuple[list[Preference], str, dict[str, list[Preference]]]:
    """The pairs of `read` that can be used, what was met, and the two sides of a split by prompt."""
    path = locate(dataset.read)
    if not is_there(path):
        raise DataError(
            f"[dataset] read = {dataset.read!r}: no such file or folder; known: a path, {PUBLIC!r}, or {HUB}OWNER/NAME"
        )
    images = None if dataset.images is None else Path(dataset.images)
    made_of_rows = dataset.format is None and holds_rows(path)
    pairs, told, skipped = (_pairs_of_rows if made_of_rows else _pairs_as_given)(path, images, dataset)
    usable = pair_filter.usable(_without_tokens(pairs, dataset, pair_filter), skipped)
    sides: dict[str, list[Preference]] = {"train": [], "test": []}
    for pair in usable:
        # With a share of nothing no pair is held out.
        sides[split(prompt_key(pair), 0 if dataset.held_out else dataset.test_share, dataset.split_seed)].append(pair)
    return usable, told, sides


def is_local(read: str) -> bool:
    """False for what is on the hub."""
    return read != PUBLIC and not read.startswith(HUB)


def settle_for(dataset: PreferenceFile, *, fetch: bool = True) -> tuple[PreferenceFile, list[str]]:
    """A recipe's [dataset] for other data than it was written for, and which of its keys go with its own data alone:
    their form, and for data that are pairs already the rule that makes pairs. `fetch`: to see what data on the hub are.
    """
    of_own = ["format", "held_out"]
    known = is_local(dataset.read) or (fetch and dataset.read != PUBLIC)
    if known and is_there(path := locate(dataset.read)) and not holds_rows(path):
        of_own += ["take", *PairOptions.model_fields]
    values = dataset.model_dump(exclude_unset=True)
    gone = [name for name in of_own if values.pop(name, None) is not None]
    return PreferenceFile.model_validate(values), gone


def locate(read: str) -> Path:
    """Where the data lie; what is on the hub is downloaded, or found in its cache."""
    if read == PUBLIC:
        return fetch_public()
    if not read.startswith(HUB):
        return Path(read)
    return fetch(*hub_id_of(read), _FILES)


def hub_id_of(read: str) -> tuple[str, str | None]:
    """Id and revision of data on the hub. DataError."""
    if read == PUBLIC:
        return REPOSITORY, REVISION
    match = _HUB_ID.fullmatch(read.removeprefix(HUB))
    if match is None:
        raise DataError(f"[dataset] read = {read!r}: write it as {HUB}OWNER/NAME or {HUB}OWNER/NAME@REVISION")
    return match["id"], match["revision"]


def _pairs_of_rows(path: Path, images: Path | None, dataset: PreferenceFile) -> tuple[list[Preference], str, int]:
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
        return found, f"{seen.summary()}; {len(found):,} best answers by rule {rule.name!r}", 0
    found = list(pair_up(rows, rule, counts))
    lost = {"ties": counts.ties, "without a rating": counts.skipped_non_numeric, "refused": counts.refused}
    left = "".join(f", {count:,} {what}" for what, count in lost.items() if count)
    return found, f"{seen.summary()}; {counts.pairs:,} pairs by rule {rule.name!r}{left}", 0


def _pairs_as_given(path: Path, images: Path | None, dataset: PreferenceFile) -> tuple[list[Preference], str, int]:
    asked = sorted({name for name in ("take", *PairOptions.model_fields) if name in dataset.model_fields_set})
    if asked:
        raise DataError(
            f"[dataset] {asked[0]} is for rated answers; {dataset.read!r} holds pairs, or nothing that is known"
        )
    seen = SeenPairs()
    pairs = islice(read_pairs(path, images, dataset.format, seen=seen), dataset.limit)
    return list(_report_each(pairs)), seen.summary(), seen.skipped.total()


def _report_each(items: Iterable[Item]) -> Iterator[Item]:
    for count, item in enumerate(items, start=1):
        report("read preferences", count, 0)
        yield item


_TOKEN = re.compile(rf"\s*(?:{MARK.pattern})\s*$|(?:{MARK.pattern})[ \t]*\n?", re.IGNORECASE)
"""With the line that it stands on alone."""


def _without_tokens(pairs: list[Preference], dataset: PreferenceFile, pair_filter: PairFilter) -> list[Preference]:
    """A token that marks the place of an image in others' prompts is no text to learn from, whichever this model
    uses."""
    drop = dataset.image_tokens == "drop"
    kept: list[Preference] = []
    held: list[tuple[Preference, str]] = []
    for pair in pairs:
        try:
            if not drop and count_marks(pair.prompt):
                held.append((pair, "image_tokens = 'drop' takes out as many as there are pictures"))
            else:
                kept.append(_drop_tokens(pair) if drop else pair)
        except NoPair as reason:
            held.append((pair, str(reason)))
    if held and not pair_filter.leave_out_marked([pair for pair, _ in held], len(pairs)):
        first, why = held[0]
        mark = marks_in(first.prompt)[0]
        raise DataError(
            f"{dataset.read}: {len(held):,} of {len(pairs):,} pairs have {mark!r} in their prompt: "
            f"{first_few([pair.id for pair, _ in held])}; {why}"
        )
    return kept


def _drop_tokens(pair: Preference) -> Preference:
    """The pair without its tokens, which must be as many as its images; several that stand among its words keep their
    places. NoPair."""
    count = len(pair.images)
    if not count_marks(pair.prompt):
        return pair
    text, places = read_places(pair.prompt, count, as_llava=True)
    if count == 1:  # wherever it stands, such as behind "USER: ", it is where the template puts it
        return replace(pair, prompt=_TOKEN.sub("", pair.prompt))
    return replace(pair, prompt=text, places=places, images=in_order(pair.prompt, pair.images))


def digest(pairs: Sequence[Preference], cache: HashCache | None = None) -> str:
    """Of what the pairs say, what their images are called and what these files hold, in their order; not of where
    those lie. OSError."""
    return _digest(pairs, facts_of(pairs, cache or HashCache()))


def _digest(pairs: Sequence[Preference], facts: Mapping[ImageRef, ImageFacts]) -> str:
    total = hashlib.sha256()
    for pair in pairs:
        shown = [(image.name, facts[image].digest) for image in pair.images]
        if unreadable := next((facts[image].problem for image in pair.images if not facts[image].digest), None):
            raise OSError(unreadable)
        total.update(json.dumps([pair.id, pair.prompt, shown, pair.chosen, pair.rejected, *pair.places]).encode())
    return total.hexdigest()[:16]
