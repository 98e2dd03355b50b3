"""Annotation: a judge rates the answers to instructions, all of them or a part, and a killed run goes on where it was.

    annotate_folder(Path("runs/x/data"), judge, seed=0, done=print)                 # a run's data folder; how many calls failed
    annotate_rows(read_rows(data), judge, Path("second.jsonl"), seed=0, part=500)   # 500 rows of a dataset in the public form
    unread(Rows(Path("second.jsonl")))                                              # {"Helpfulness": 2, ...}: places without a rating

A folder's ratings go to `ratings-JUDGE.jsonl` in it, a dataset's to the file that is named, keyed by row index, since
ids repeat there. Each row says in which order the judge saw the texts and holds ratings by who wrote them, so that any
order can be had back (`rerated`). Two files of one folder are held against each other by `harness judge agree FIRST
SECOND`, as far as both have got; `published` writes such a file of the ratings that the public data came with.
"""

import hashlib
import heapq
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from support.errors import DataError
from support.files import JsonLines, atomic_write_text, file_lock
from support.images import ImageRef, decode, keep, picture
from tasks.judges.batch import BatchJudge
from tasks.judges.protocol import Judge, ask_all, current_judge, judging, use_judge
from trainers.config.data import ASPECTS, RatingMode, TextOrder
from trainers.data.rows import Completion, Row
from trainers.vlfeedback.answers import read_answers
from trainers.vlfeedback.instructions import Instruction
from trainers.vlfeedback.rating_prompt import Rating, parse, questions

TASK = "vlfeedback"
"""What the calls are booked under."""
BATCH = 64
"""Instructions judged between two writes."""
BATCH_API = 4096
"""The same where they go in files: about as many as one file holds with their pictures."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One instruction and the texts to be rated together."""

    key: str
    """Of its row of ratings."""
    prompt: str
    image: Callable[[], Image.Image]
    """The picture; raises OSError where there is none to be had."""
    texts: Mapping[str, str]
    """Who wrote it -> the text, in the order the data have them."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """What its row of ratings holds besides; a row that has other values there is of other data or settings."""


@dataclass(kw_only=True)
class RatingCounts:
    """What became of the instructions, as far as they were looked at this time."""

    rated: int = 0
    """Now or before."""
    failed: int = 0
    """Judge calls without a reply; made again next time."""
    pictures: int = 0
    """Instructions whose picture is missing, broken or too large; tried again next time."""
    left_out: int = 0
    """Instructions that can't be rated so: of fewer than two texts, or of no picture or several."""
    unread: Counter[str] = field(default_factory=Counter)
    """Aspect -> texts whose rating could not be read from the reply."""


T = TypeVar("T")


def annotate(
    items: Iterable[Item],
    rows: JsonLines,
    *,
    seed: int,
    mode: RatingMode = "joint",
    order: TextOrder = "shuffled",
    done: Callable[[int], None] = lambda more: None,
    counts: RatingCounts | None = None,
) -> int:
    """Have the current judge rate every item that has no row yet; returns how many failed (calls, pictures), to be
    tried again next time.

    An item's row is written when all its replies are there. Rows come in the order of the items, but for those that
    failed before. An item that has got another text since (an answer that had failed) is rated anew as a whole, since
    texts are rated beside each other.
    """
    counts = RatingCounts() if counts is None else counts
    failed_before = counts.failed + counts.pictures
    size = BATCH_API if isinstance(current_judge(), BatchJudge) else BATCH
    for batch in _batches(_waiting(items, rows, counts, done), size):
        rows.append(_rate(batch, seed, mode, order, counts))
        done(len(batch))
    _settle(rows)
    return counts.failed + counts.pictures - failed_before


def _waiting(
    items: Iterable[Item], rows: JsonLines, counts: RatingCounts, done: Callable[[int], None]
) -> Iterator[Item]:
    for item in items:
        if len(item.texts) < 2:
            counts.left_out += 1
        elif item.key in rows.by_id and _whole(item, rows):
            counts.rated += 1
            counts.unread += unread_in(rows.by_id[item.key])
            done(1)
        else:
            yield item


def _whole(item: Item, rows: JsonLines) -> bool:
    """Whether the item's row rates all its texts; DataError where it is of other data or other settings."""
    row = rows.by_id[item.key]
    for name, value in item.more.items():
        if row.get(name, value) != value:
            raise DataError(
                f"{rows.path}: row {item.key!r} has {name} {row[name]!r}, and {value!r} is asked for; give the same, or another file"
            )
    if strange := sorted(row["ratings"].keys() - item.texts.keys()):
        raise DataError(
            f"{rows.path}: row {item.key!r} rates answers that are not there ({', '.join(strange)}); give another file"
        )
    return set(row["ratings"]) == set(item.texts)


def _settle(rows: JsonLines) -> None:
    """Leave one row of each id in the file: items that were rated anew have two."""
    if rows.path.exists() and rows.path.read_bytes().count(b"\n") > len(rows.by_id):
        atomic_write_text(rows.path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows.by_id.values()))


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    found = iter(items)
    while batch := list(islice(found, size)):
        yield batch


def _rate(
    batch: Sequence[Item], seed: int, mode: RatingMode, order: TextOrder, counts: RatingCounts
) -> list[dict[str, Any]]:
    ready: list[tuple[Item, list[str]]] = []
    for item in batch:
        try:
            item.image().load()  # and let go again: a batch of decoded pictures may not fit in memory
        except OSError:
            counts.pictures += 1
            continue
        ready.append((item, order_of(item.texts, order, seed, item.key)))
    asked = [
        (place, aspects, prompt)
        for place, (item, names) in enumerate(ready)
        for aspects, prompt in questions(item.prompt, [item.texts[name] for name in names], mode).items()
    ]
    replies: list[dict[tuple[str, ...], str | None]] = [{} for _ in ready]
    given = ask_all((prompt, ready[place][0].image()) for place, _, prompt in asked)
    for (place, aspects, _), reply in zip(asked, given, strict=True):
        replies[place][aspects] = reply
        counts.failed += reply is None
    judge = current_judge().model
    rows = []
    for (item, names), own in zip(ready, replies, strict=True):
        whole = {aspects: reply for aspects, reply in own.items() if reply is not None}
        if len(whole) == len(own):
            rows.append(_row(item, names, whole, judge))
            counts.rated += 1
            counts.unread += unread_in(rows[-1])
    return rows


def order_of(texts: Mapping[str, str], order: TextOrder, seed: int, key: str) -> list[str]:
    """Who wrote the texts, in the order that the judge sees them."""
    if order == "authors":
        return list(texts)
    return random.Random(f"order/{seed}/{key}").sample(sorted(texts), len(texts))


def _row(item: Item, names: Sequence[str], replies: Mapping[tuple[str, ...], str], judge: str) -> dict[str, Any]:
    rated: dict[str, list[Rating | None]] = {}
    for aspects, reply in replies.items():
        rated |= parse(reply, len(names), aspects)
    by_name = {name: {aspect: rated[aspect][place] for aspect in ASPECTS} for place, name in enumerate(names)}
    row = {
        "id": item.key,
        "order": list(names),
        "ratings": {
            name: {aspect: found and found[0] for aspect, found in given.items()} for name, given in by_name.items()
        },
        "rationales": {
            name: {aspect: found[1] if found else "" for aspect, found in given.items()}
            for name, given in by_name.items()
        },
        "judge": judge,
        **item.more,
    }
    # What could not be read is kept as it came.
    return row | {"unread": list(replies.values())} if unread_in(row) else row


def unread_in(row: Mapping[str, Any]) -> Counter[str]:
    """Aspect -> texts of one row of ratings that have none there, because the reply could not be read."""
    return Counter(aspect for given in row["ratings"].values() for aspect, rating in given.items() if rating is None)


def unread(rows: JsonLines) -> dict[str, int]:
    """Aspect -> texts whose rating could not be read from the judge's reply, over a file of ratings."""
    total = sum((unread_in(row) for row in rows.by_id.values()), Counter())
    return {aspect: total[aspect] for aspect in ASPECTS}


def chosen(items: Iterable[T], part: int | float | None, seed: int, key: Callable[[T], str]) -> Iterator[T]:
    """A part of the items in their order: so many of them, or about such a share (a number below 1, or 1.0); None: all.

    The choice depends on seed and keys alone, and a larger part holds every smaller one. Holds no more items than are
    chosen.
    """
    if part is None:
        yield from items
        return
    if isinstance(part, bool) or part <= 0 or (isinstance(part, float) and part > 1):
        raise DataError(
            f"part {part!r}: must be a number of instructions (1, 2, ...), or a share above 0 and up to 1.0"
        )
    if isinstance(part, float):
        yield from (item for item in items if _lot(seed, key(item)) < part)
        return
    drawn = heapq.nsmallest(
        part, ((_lot(seed, key(item)), place, item) for place, item in enumerate(items)), key=lambda lot: lot[:2]
    )
    yield from (item for _, _, item in sorted(drawn, key=lambda lot: lot[1]))


def _lot(seed: int, key: str) -> float:
    """A number in [0, 1), as good as drawn for this key."""
    return (
        int.from_bytes(hashlib.sha256(f"part/{seed}/{key}".encode("utf-8", "surrogatepass")).digest()[:7], "big")
        / 2**56
    )


def ratings_file(folder: Path, judge: str, mode: RatingMode = "joint", order: TextOrder = "shuffled") -> Path:
    """Where a judge's ratings of the answers in `folder` go: a file for each way of asking."""
    ways = [way for way, usual in ((mode, "joint"), (order, "shuffled")) if way != usual]
    return folder / f"{'-'.join(['ratings', re.sub(r'[^A-Za-z0-9._-]', '-', judge), *ways])}.jsonl"


def annotate_folder(
    folder: Path,
    judge: Judge,
    *,
    seed: int,
    done: Callable[[int, int], None],
    into: Path | None = None,
    part: int | float | None = None,
    mode: RatingMode = "joint",
    order: TextOrder = "shuffled",
    counts: RatingCounts | None = None,
) -> int:
    """Have the answers in `folder` rated that are not yet, or those to a part of its instructions; how many failed, to
    be tried again.

    The part is a number of instructions or a share of them, drawn by the seed; a larger one later asks for what is
    missing.
    """
    instructions, answers = read_folder(folder)
    if isinstance(part, float) and 0 < part <= 1:
        part = max(1, round(part * len(instructions)))  # exact, since their number is known
    mine = list(chosen(instructions, part, seed, lambda instruction: instruction.id))
    so_far = 0

    def more(count: int) -> None:
        nonlocal so_far
        so_far += count
        done(so_far, len(mine))

    items = items_of(mine, answers, folder / "images", {"seed": seed, "mode": mode, "shown": order})
    with use_judge(judge), judging(TASK), _alone(into or ratings_file(folder, judge.model, mode, order)) as rows:
        return annotate(items, rows, seed=seed, mode=mode, order=order, done=more, counts=counts)


def items_of(
    instructions: Iterable[Instruction],
    answers: Mapping[str, Mapping[str, str]],
    images: Path,
    more: Mapping[str, Any] | None = None,
) -> Iterator[Item]:
    """Instructions of a folder with their answers (instruction id -> who -> text)."""
    for instruction in instructions:
        yield Item(
            key=instruction.id,
            prompt=instruction.prompt,
            image=lambda name=instruction.image: _within(images, name),  # type: ignore[misc]
            texts=answers.get(instruction.id, {}),
            more=more or {},
        )


def _within(images: Path, name: str) -> Image.Image:
    """The picture of this name, if it is one in the folder."""
    path = (images / name).resolve()
    if not path.is_relative_to(images.resolve()):
        raise OSError(f"image {name!r} is not in {images}")
    return decode(path.read_bytes())


@contextmanager
def _alone(path: Path) -> Iterator[JsonLines]:
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
        instructions = [Instruction(**json.loads(line)) for line in lines if line]
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
        raise DataError(f"{folder / 'instructions.jsonl'}: no instructions: {error}") from None
    if (folder / "answers").exists():
        return instructions, read_answers(folder)
    answers: dict[str, dict[str, str]] = {}
    for key, row in JsonLines(folder / "answers.jsonl").by_id.items():
        name, _, member = key.rpartition("|")
        answers.setdefault(name, {})[member] = row["answer"]
    return instructions, answers


def annotate_rows(
    data: Iterable[Row],
    judge: Judge,
    out: Path,
    *,
    seed: int,
    part: int | float | None = None,
    mode: RatingMode = "joint",
    order: TextOrder = "shuffled",
    done: Callable[[int], None] = lambda more: None,
    counts: RatingCounts | None = None,
) -> int:
    """Have the completions of rows rated into `out`, whatever ratings they came with; how many failed, to be tried
    again next time.

    Streams: holds the rows of one batch, or where `part` is a number, that many. Rows without a picture or with several
    are left out.
    """
    counts = RatingCounts() if counts is None else counts
    settings = {"seed": seed, "mode": mode, "shown": order}

    def items() -> Iterator[Item]:
        for row in chosen(data, part, seed, lambda row: str(row.index)):
            texts = {name: completion.response for name, completion in named(row)} if len(row.images) == 1 else {}
            yield Item(
                key=str(row.index),
                prompt=row.prompt,
                image=lambda row=row: shown(row.images[0]),  # type: ignore[misc]
                texts=texts,
                more={"row_id": row.id, **settings},
            )

    with use_judge(judge), judging(TASK), _alone(out) as rows:
        return annotate(items(), rows, seed=seed, mode=mode, order=order, done=done, counts=counts)


def shown(image: ImageRef) -> Image.Image:
    """A picture as a judge gets it: its own file goes to a server that reads such files; raises OSError."""
    return picture(keep(image.read))


def named(row: Row) -> list[tuple[str, Completion]]:
    """Each completion under its model's name, the second of one model as MODEL.2."""
    seen: Counter[str] = Counter()
    found = []
    for completion in row.completions:
        seen[completion.model] += 1
        again = seen[completion.model]
        found.append((completion.model if again == 1 else f"{completion.model}.{again}", completion))
    return found


def rerated(data: Iterable[Row], ratings: JsonLines) -> Iterator[Row]:
    """The rows that `annotate_rows` rated, completions in the data's own order, with these ratings in place of their
    own."""
    for row in data:
        found = ratings.by_id.get(str(row.index))
        if found is not None:
            completions = tuple(
                replace(
                    completion,
                    ratings={
                        aspect: "N/A" if rating is None else str(rating)
                        for aspect, rating in found["ratings"][name].items()
                    },
                    rationales=found["rationales"][name],
                )
                for name, completion in named(row)
            )
            yield replace(row, completions=completions)


def published(data: Iterable[Row], ratings: JsonLines, out: Path) -> int:
    """Write the ratings that the rows in `ratings` came with, in the same form, for `harness judge agree`; returns how
    many rows."""
    lines = []
    for row in data:
        if str(row.index) in ratings.by_id:
            given = {name: {aspect: _points(text) for aspect, text in one.ratings.items()} for name, one in named(row)}
            line = {
                "id": str(row.index),
                "order": list(given),
                "ratings": given,
                "judge": "published",
                "row_id": row.id,
            }
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    atomic_write_text(out, "".join(lines))
    return len(lines)


def _points(text: str) -> float | None:
    """A rating as the data have it, as a number; None for what is none."""
    try:
        points = float(text)
    except ValueError:
        return None
    return points if points == points else None
