"""Annotation: a judge rates the answers to all instructions or a part of them; a killed run continues where it was.

    annotate_folder(Path("runs/x/data"), judge, RatingProtocol(seed=0)).missing             # calls that failed
    annotate_rows(read_rows(data), judge, Path("second.jsonl"), RatingProtocol(part=500))   # 500 rows of a dataset

A folder's ratings go to `ratings-JUDGE.jsonl` in it, a dataset's to the file that is named, keyed by row index, since
ids repeat there. Each row holds the order in which the judge saw the texts, and the ratings by who wrote the text, so
that the data's own order can be restored (`with_ratings`). Two files of one folder are compared by `harness judge agree
FIRST SECOND`, as far as both have got; `write_published` writes such a file of the ratings that the public data have.
"""

import hashlib
import heapq
import json
import logging
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from support.errors import DataError
from support.files import JsonLines, atomic_write_text, file_lock, short_name
from support.images import ImageRef, decode, keep, picture
from support.judge_names import EARLIER, SCENES
from support.parsing import parse_object
from support.progress import Stage
from support.records import batches
from tasks.judges.batch import BatchJudge
from tasks.judges.openai import OpenAIJudge
from tasks.judges.protocol import Judge, reasons_of
from tasks.judges.reasons import reasons_in_words
from trainers.config.data import ASPECTS, RatingMode, TextOrder
from trainers.data.rows import Completion, Row
from trainers.data.scores import number
from trainers.vlfeedback.answers import read_answers
from trainers.vlfeedback.instructions import Instruction
from trainers.vlfeedback.rating_counts import RatingCounts, is_unreadable, unread_in
from trainers.vlfeedback.rating_prompt import Rating, parse, questions

log = logging.getLogger(__name__)

TASK = "vlfeedback"
"""What the ledger books the calls under."""
BATCH = 64
"""Instructions judged between two writes."""
BATCH_API = 4096
"""The same for a judge that takes files of calls: about as many as one file holds with their images."""


@dataclass(frozen=True, kw_only=True)
class RatingProtocol:
    """How answers are rated."""

    seed: int = 0
    """Draws the part, and the order in which the judge sees the texts."""
    part: int | float | None = None
    """So many instructions, or such a share of them (below 1, or 1.0); None: all."""
    mode: RatingMode = "joint"
    order: TextOrder = "shuffled"

    def settings(self) -> dict[str, Any]:
        """What a row of ratings records of it."""
        return {"seed": self.seed, "mode": self.mode, "shown": self.order}


@dataclass(frozen=True, kw_only=True)
class Item:
    """One instruction and the texts to be rated together."""

    key: str
    """Of its row of ratings."""
    prompt: str
    image: Callable[[], Image.Image]
    """Opens the image; OSError if there is none to be had."""
    texts: Mapping[str, str]
    """Who wrote it -> the text, in the data's order."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """What its row of ratings holds besides; a row with other values there is of other data or settings."""


T = TypeVar("T")


def annotate(
    items: Iterable[Item], rows: JsonLines, judge: Judge, protocol: RatingProtocol, *, total: int = 0
) -> RatingCounts:
    """Have the judge rate every item that has no row yet; `total` items, if known, are reported as progress.

    An item's row is written when all its replies are there; rows are in the order of the items, except after failures.
    An item with a new text (an answer that had failed before) is rated again as a whole: texts are rated together.
    """
    counts, stage = RatingCounts(), Stage("ratings", total)
    size = BATCH_API if isinstance(judge, BatchJudge) else BATCH
    if isinstance(judge, OpenAIJudge):
        words = judge.settings.in_words()
        items = (replace(item, more={**item.more, "judge_settings": words}) for item in items)
    for batch in batches(_select_unrated(items, rows, getattr(judge, "identity", ""), counts, stage), size):
        rows.append(_rate(batch, judge, protocol, counts))
        stage.add(len(batch))
    if isinstance(judge, OpenAIJudge):
        judge.tell_reuse("ratings")
    _drop_repeated_rows(rows)
    if counts.without_server:
        text = "%s: %d ratings were kept without their judge's server, which may be another"
        log.warning(text, rows.path, counts.without_server)
    if counts.unread:
        told = (
            f"{counts.unread.total()} ratings could not be read from the judge's replies; the first: {counts.example}"
        )
        log.warning(told)
    if counts.missing:
        log.warning(f"{counts.missing} ratings failed: {reasons_in_words(counts.reasons)}")
    return counts


def _select_unrated(
    items: Iterable[Item], rows: JsonLines, server: str, counts: RatingCounts, stage: Stage
) -> Iterator[Item]:
    for item in items:
        if len(item.texts) < 2:
            counts.left_out += 1
        elif item.key in rows.by_id and _is_rated(item, rows, server):
            counts.add(rows.by_id[item.key])
            counts.without_server += bool(server) and "server" not in rows.by_id[item.key]
            stage.add()
        else:
            yield item


def _is_rated(item: Item, rows: JsonLines, server: str) -> bool:
    """Whether the item's row rates all its texts; DataError if it is of other data, settings or another server."""
    row = rows.by_id[item.key]
    if row.get("server", server) != server:
        differs = f"is rated by the judge at {row['server']!r}, and {server!r} is to be asked"
        ways = "--judge-known-as names a server that moved; where it is another, move the file away"
        raise DataError(f"{rows.path}: row {item.key!r} {differs}; {ways}")
    for name, value in item.more.items():
        if row.get(name, value) != value:
            differs = f"has {name} {row[name]!r}, and {value!r} is asked for"
            raise DataError(f"{rows.path}: row {item.key!r} {differs}; give the same, or another file")
    if strange := sorted(row["ratings"].keys() - item.texts.keys()):
        names = ", ".join(strange)
        raise DataError(f"{rows.path}: row {item.key!r} rates answers that are not there ({names}); give another file")
    # The ledger has replies that could not be read; one that was forgotten there is asked for again.
    return set(row["ratings"]) == set(item.texts) and not (server and is_unreadable(row))


def _drop_repeated_rows(rows: JsonLines) -> None:
    """Leave one row of each id in the file: items that were rated again have two."""
    if rows.path.exists() and rows.path.read_bytes().count(b"\n") > len(rows.by_id):
        atomic_write_text(rows.path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows.by_id.values()))


def _rate(batch: Sequence[Item], judge: Judge, protocol: RatingProtocol, counts: RatingCounts) -> list[dict[str, Any]]:
    """The rows of those items whose replies are all there."""
    ready: list[tuple[Item, list[str]]] = []
    for item in batch:
        try:
            item.image().load()  # and let go again: a batch of decoded images may not fit in memory
        except OSError as error:
            counts.pictures += 1
            counts.lost.append((item.key, f"image can't be shown: {error}"))
            continue
        ready.append((item, order_of(item.texts, protocol.order, protocol.seed, item.key)))
    asked = [
        (place, aspects, prompt)
        for place, (item, names) in enumerate(ready)
        for aspects, prompt in questions(item.prompt, [item.texts[name] for name in names], protocol.mode).items()
    ]
    replies: list[dict[tuple[str, ...], str | None]] = [{} for _ in ready]
    given = judge.ask_many(((prompt, ready[place][0].image()) for place, _, prompt in asked), label=TASK)
    for (place, aspects, _), reply in zip(asked, given, strict=True):
        replies[place][aspects] = reply
    for call, why in reasons_of(given).items():
        counts.failed += 1
        counts.lost.append((ready[asked[call][0]][0].key, why.error))
        counts.may_pass |= why.may_pass
    rows = []
    for (item, names), own in zip(ready, replies, strict=True):
        complete = {aspects: reply for aspects, reply in own.items() if reply is not None}
        if len(complete) == len(own):
            rows.append(_make_row(item, names, complete, judge))
            counts.add(rows[-1])
    return rows


def order_of(texts: Mapping[str, str], order: TextOrder, seed: int, key: str) -> list[str]:
    """Who wrote the texts, in the order in which the judge sees them."""
    if order == "authors":
        return list(texts)
    return random.Random(f"order/{seed}/{key}").sample(sorted(texts), len(texts))


def _make_row(item: Item, names: Sequence[str], replies: Mapping[tuple[str, ...], str], judge: Judge) -> dict[str, Any]:
    rated: dict[str, list[Rating | None]] = {}
    for aspects, reply in replies.items():
        rated |= parse(reply, len(names), aspects)
    by_name = {name: {aspect: rated[aspect][place] for aspect in ASPECTS} for place, name in enumerate(names)}
    points = {name: {of: found and found[0] for of, found in given.items()} for name, given in by_name.items()}
    reasons = {name: {of: found[1] if found else "" for of, found in given.items()} for name, given in by_name.items()}
    row = {"id": item.key, "order": list(names), "ratings": points, "rationales": reasons, "judge": judge.model}
    server = getattr(judge, "identity", "")  # of the scenes judge there is none
    row |= ({"server": server} if server else {}) | dict(item.more)
    # A reply of which a rating could not be read is kept.
    return row | {"unread": list(replies.values())} if unread_in(row) else row


def select_part(items: Iterable[T], part: int | float | None, seed: int, key: Callable[[T], str]) -> Iterator[T]:
    """A part of the items in their order: a number of them, or about a share (a float up to 1.0); None: all.

    The choice depends on seed and keys alone, and a larger part contains every smaller one. Memory: the selected items.
    """
    if part is None:
        yield from items
        return
    if isinstance(part, bool) or part <= 0 or (isinstance(part, float) and part > 1):
        raise DataError(f"part {part!r}: must be a number of instructions (1, 2, ...), or a share above 0, at most 1.0")
    if isinstance(part, float):
        yield from (item for item in items if _draw_number(seed, key(item)) < part)
        return
    numbered = ((_draw_number(seed, key(item)), place, item) for place, item in enumerate(items))
    drawn = heapq.nsmallest(part, numbered, key=lambda one: one[:2])
    yield from (item for _, _, item in sorted(drawn, key=lambda one: one[1]))


def _draw_number(seed: int, key: str) -> float:
    """A number in [0, 1) that depends on seed and key alone."""
    digest = hashlib.sha256(f"part/{seed}/{key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def ratings_file(folder: Path, judge: str, mode: RatingMode = "joint", order: TextOrder = "shuffled") -> Path:
    """Where a judge's ratings of the answers in `folder` go: a file for each mode and order."""
    unusual = [way for way, usual in ((mode, "joint"), (order, "shuffled")) if way != usual]
    names = [short_name(re.sub(r"[^A-Za-z0-9._-]", "-", name)) for name in (judge, EARLIER)]
    new, old = (folder / f"{'-'.join(['ratings', name, *unusual])}.jsonl" for name in names)
    return old if judge == SCENES and old.exists() and not new.exists() else new


def annotate_folder(folder: Path, judge: Judge, protocol: RatingProtocol, *, into: Path | None = None) -> RatingCounts:
    """Have the answers in a run's data folder rated that are not yet, or those to a part of its instructions.

    A larger part later asks for what is missing.
    """
    instructions, answers = read_folder(folder)
    part = protocol.part
    if isinstance(part, float) and 0 < part <= 1:
        part = max(1, round(part * len(instructions)))  # exact, since their number is known
    mine = list(select_part(instructions, part, protocol.seed, lambda instruction: instruction.id))
    items = items_of(mine, answers, folder / "images", protocol.settings())
    with _lock_ratings(into or ratings_file(folder, judge.model, protocol.mode, protocol.order)) as rows:
        return annotate(items, rows, judge, protocol, total=len(mine))


def items_of(
    instructions: Iterable[Instruction],
    answers: Mapping[str, Mapping[str, str]],
    images: Path,
    more: Mapping[str, Any] | None = None,
) -> Iterator[Item]:
    """Instructions of a folder with their answers (instruction id -> who -> text)."""
    for one in instructions:
        image, texts = partial(_open_within, images, one.image), answers.get(one.id, {})
        yield Item(key=one.id, prompt=one.prompt, image=image, texts=texts, more=more or {})


def check_pictures(judge: Judge, instructions: Iterable[Instruction], images: Path) -> None:
    """SettingError if the judge needs more than a picture's pixels, and the first of a source does not have it."""
    if (check := getattr(judge, "check_picture", None)) is None:
        return
    for one in {one.source: one for one in reversed(list(instructions))}.values():
        with suppress(OSError):  # which is told when it is rated
            check(_open_within(images, one.image), one.image)


def _open_within(images: Path, name: str) -> Image.Image:
    """The image of this name in the folder; OSError for one that is not in it."""
    path = (images / name).resolve()
    if not path.is_relative_to(images.resolve()):
        raise OSError(f"image {name!r} is not in {images}")
    return decode(path.read_bytes())


@contextmanager
def _lock_ratings(path: Path) -> Iterator[JsonLines]:
    """The ratings in a file that no other process adds to meanwhile."""
    with file_lock(path, wait=False) as mine:
        if not mine:
            raise DataError(f"{path}: another process is rating into this file")
        yield JsonLines(path)


def read_folder(folder: Path) -> tuple[list[Instruction], dict[str, dict[str, str]]]:
    """The instructions, and each one's answers by who gave them, in the order they were drawn in."""
    for names in (("instructions.jsonl",), ("answers", "answers.jsonl"), ("images",)):
        if not any((folder / name).exists() for name in names):
            raise DataError(f"{folder}: has no {names[0]}; a run's data folder is wanted")
    try:
        lines = (folder / "instructions.jsonl").read_text(encoding="utf-8").split("\n")
        instructions = [Instruction(**parse_object(line)) for line in lines if line]
    except (ValueError, TypeError) as error:
        raise DataError(f"{folder / 'instructions.jsonl'}: no instructions: {error}") from None
    if (folder / "answers").exists():
        return instructions, read_answers(folder)
    answers: dict[str, dict[str, str]] = {}
    for key, row in JsonLines(folder / "answers.jsonl").by_id.items():
        name, _, member = key.rpartition("|")
        answers.setdefault(name, {})[member] = row["answer"]
    return instructions, answers


def annotate_rows(data: Iterable[Row], judge: Judge, out: Path, protocol: RatingProtocol) -> RatingCounts:
    """Have the completions of rows rated into `out`, whatever ratings they came with.

    Streams: one batch of rows is in memory, or as many as `part` says. Rows without an image, or with several, are left
    out.
    """

    def items() -> Iterator[Item]:
        for row in select_part(data, protocol.part, protocol.seed, lambda row: str(row.index)):
            texts = (
                {name: completion.response for name, completion in name_completions(row)}
                if len(row.images) == 1
                else {}
            )
            image = partial(open_for_judge, row.images[0] if row.images else ImageRef(""))
            more = {"row_id": row.id, **protocol.settings()}
            yield Item(key=str(row.index), prompt=row.prompt, image=image, texts=texts, more=more)

    total = protocol.part if isinstance(protocol.part, int) else 0
    with _lock_ratings(out) as rows:
        return annotate(items(), rows, judge, protocol, total=total)


def open_for_judge(image: ImageRef) -> Image.Image:
    """An image as a judge gets it: a server that reads its format is sent the file itself. OSError."""
    return picture(keep(image))


def name_completions(row: Row) -> list[tuple[str, Completion]]:
    """Each completion under its model's name, the second of one model as MODEL.2."""
    seen: Counter[str] = Counter()
    found = []
    for completion in row.completions:
        seen[completion.model] += 1
        count = seen[completion.model]
        found.append((completion.model if count == 1 else f"{completion.model}.{count}", completion))
    return found


def with_ratings(data: Iterable[Row], ratings: JsonLines) -> Iterator[Row]:
    """The rows that `annotate_rows` rated, completions in the data's own order, with these ratings in place of their
    own."""
    for row in data:
        found = ratings.by_id.get(str(row.index))
        if found is not None:
            completions = tuple(
                replace(
                    completion, ratings=ratings_as_text(found["ratings"][name]), rationales=found["rationales"][name]
                )
                for name, completion in name_completions(row)
            )
            yield replace(row, completions=completions)


def ratings_as_text(ratings: Mapping[str, int | None]) -> dict[str, str]:
    """Ratings as VLFeedback has them: one that could not be read is "N/A"."""
    return {aspect: "N/A" if rating is None else str(rating) for aspect, rating in ratings.items()}


def write_published(data: Iterable[Row], ratings: JsonLines, out: Path) -> int:
    """Write the ratings that the rows in `ratings` came with, in the same form, for `harness judge agree`; returns how
    many rows."""
    lines = []
    for row in data:
        if str(row.index) in ratings.by_id:
            given = {
                name: {of: number(text) for of, text in one.ratings.items()} for name, one in name_completions(row)
            }
            line = {"id": str(row.index), "order": list(given), "ratings": given, "judge": "published"}
            lines.append(json.dumps(line | {"row_id": row.id}, ensure_ascii=False) + "\n")
    atomic_write_text(out, "".join(lines))
    return len(lines)
