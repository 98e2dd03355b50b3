"""The answers behind a board, packed for its page: bounded in size, read run by run, each block for a browser to open
by itself.

    packed = pack([Asked(label="pope", task="pope", metric="f1", runs={"base-1": "base"})], board.samples,
    thumbnails=picture) packed.index, packed.blocks, packed.left_out

All logs are read twice, one run at a time: first to see on which questions models differ, then to pack the chosen ones.
What is held of a question in between is a few numbers, however long its answers are.
"""

import base64
import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

from leaderboards.board.sample import Sample
from leaderboards.views.plain_prompts import without_template
from support.errors import BoardError

ANSWERS: Final = 300_000
"""How many answers a page holds at most: 60 runs of 5,000 questions."""

CHARACTERS: Final = 100_000_000
"""How many characters answers and judges' replies have at most, all together; compressed, some 30 MB."""

LONGEST: Final = 8_000
"""Characters of one prompt, answer or reply; a longer one is cut, and says so."""

PICTURES: Final = 16_000_000
"""Bytes of all thumbnails together."""

THUMBNAIL_BYTES: Final = 64 * 1024

_KINDS = ((b"\xff\xd8\xff", "jpeg"), (b"\x89PNG\r\n\x1a\n", "png"), (b"RIFF", "webp"))

CATEGORY: Final = ("category", "type", "kind", "dimension", "aspect")
"""How the tasks call what kind of question it is."""

_KEPT = "those on which most models differ"

Loader = Callable[[str], Sequence[Sample]]
"""Run id -> its samples; none, or a FileNotFoundError, where the run has no log."""

Thumbnails = Callable[[str, str], bytes | None]
"""Task and image id -> a small JPEG, PNG or WebP (shown 128 pixels wide, or enlarged); None = there is none."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """What an answer got."""

    label: str
    """As shown: "right", "rating 4", "2 hallucinated", ..."""

    score: float
    """More is better; two models' marks for one question are compared by it."""

    right: bool

    made_up: tuple[str, ...] | None = None
    """Words of the answer for what is not in the image; None where the task does not say which they are."""


Marker = Callable[[Sample, str], Mark | None]
"""A sample and its task's headline metric -> its mark; None = it has none."""


def mark(sample: Sample, metric: str) -> Mark | None:
    """By what the task counted: whether it is correct, a rating from 0 to 6, or how much was hallucinated."""
    record = sample.records.get(metric) or next(iter(sample.records.values()), None)
    if sample.answer is None or record is None:
        return None
    found, words = _mark(record), record.get("made_up")
    if found is None or not isinstance(words, list):
        return found
    return replace(found, made_up=tuple(word for word in words if isinstance(word, str)))


def _mark(record: Mapping[str, Any]) -> Mark | None:
    if isinstance(correct := record.get("correct"), bool | int):
        return Mark(label="right" if correct else "wrong", score=float(correct), right=bool(correct))
    if isinstance(rating := record.get("rating"), int | float):
        return Mark(
            label=f"rating {rating:g}", score=float(rating), right=rating >= 3
        )  # MMHal: below 3, something is hallucinated
    if isinstance(made_up := record.get("hallucinated"), bool | int):
        return Mark(
            label=f"{int(made_up)} hallucinated" if made_up else "none hallucinated",
            score=-float(made_up),
            right=not made_up,
        )
    return None


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One task, in one version, and the runs that answered it."""

    label: str
    task: str

    metric: str
    """By which answers are marked."""

    runs: Mapping[str, str]
    """Run id -> the name that its answers go by."""


class Block(NamedTuple):
    """Something that a browser opens by its id."""

    id: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Packed:
    """Answers and pictures as blocks of base64, and the index by which they are found."""

    index: list[dict[str, Any]]
    logged: set[tuple[str, str]]
    """Label and name of which there are answers."""

    blocks: list[Block]
    pictures: list[Block]

    answers: int
    """How many are in the blocks."""

    questions: int
    left_out: list[str]
    """In sentences, what a bound kept out."""

    notes: list[str]
    """Logs that could not be read."""


def pack(
    asked: Sequence[Asked],
    samples: Loader | None,
    *,
    thumbnails: Thumbnails | None = None,
    marks: Marker = mark,
    answers: int = ANSWERS,
    characters: int = CHARACTERS,
    pictures: int = PICTURES,
) -> Packed:
    """The answers of these runs; BoardError for a thumbnail that is no small image.

    Of more than `answers` answers or `characters` characters, those questions are kept on which most models differ, as
    many of each task as its share of all; so are pictures, of more than `pictures` bytes.
    """
    notes: list[str] = []
    surveys = [_Survey() for _ in asked]
    runs = dict.fromkeys(run for task in asked for run in task.runs) if samples else {}
    for run in runs:
        log = _log(samples, run, notes)
        for task, survey in zip(asked, surveys, strict=True):
            if run in task.runs:
                survey.read(log.get(task.task, ()), task.metric, marks)
    answered, written = (sum(getattr(survey, name) for survey in surveys) for name in ("answers", "characters"))
    # A part of each bound is a task's by its size, so that one of many questions does not push the others out.
    packings = [
        _Packing(
            task=task,
            kept=survey.kept(
                answers=_part(answers, survey.answers, answered),
                characters=_part(characters, survey.characters, written),
            ),
        )
        for task, survey in zip(asked, surveys, strict=True)
    ]
    blocks: list[Block] = []
    for run in runs:
        log = _log(samples, run, notes)
        for packing in packings:
            if run in packing.task.runs and (own := log.get(packing.task.task)):
                packing.logs[run] = _block(blocks, packing.rows(own, marks))
    album = _Album(thumbnails, pictures)
    index: list[dict[str, Any]] = []
    left = sum(len(packing.kept) for packing in packings)
    for packing, survey in zip(packings, surveys, strict=True):
        shown = album.of(packing.task.task, packing.kept, share=len(packing.kept) / max(left, 1))
        left -= len(packing.kept)
        if packing.logs:
            index.append(packing.indexed(_block(blocks, packing.questions(shown)), asked=len(survey.seen)))
    return Packed(
        index=index,
        logged={(group["label"], log["name"]) for group in index for log in group["logs"]},
        blocks=blocks,
        pictures=album.blocks,
        answers=sum(packing.answers for packing in packings),
        questions=sum(len(packing.kept) for packing in packings),
        left_out=_left_out(surveys, packings, album),
        notes=list(dict.fromkeys(notes)),
    )


def _part(bound: int, own: int, total: int) -> int:
    return own if total <= bound else bound * own // total


class _Question(NamedTuple):
    id: str
    image: str


@dataclass(slots=True)
class _Seen:
    """What is known of a question after the first reading."""

    first: int
    """Of the first answer, its hash."""

    answers: int = 0
    others: int = 0
    """Answers that are not the first one."""

    characters: int = 0
    scores: Counter[float] = field(default_factory=Counter)

    @property
    def difference(self) -> tuple[int, int]:
        """Pairs of models of which one is better, and answers in other words."""
        marked = self.scores.total()
        return marked * marked - sum(count * count for count in self.scores.values()), self.others


class _Survey:
    """One task's questions, as its logs are read."""

    def __init__(self) -> None:
        self.seen: dict[_Question, _Seen] = {}
        self.answers = 0
        self.characters = 0

    def read(self, log: Iterable[Sample], metric: str, marks: Marker) -> None:
        for sample in log:
            said = hash(sample.answer)
            seen = self.seen.setdefault(_question(sample), _Seen(said))
            length = sum(min(len(text or ""), LONGEST) for text in (sample.answer, sample.reply, sample.reasoning))
            seen.answers += 1
            seen.others += said != seen.first
            seen.characters += length
            if got := marks(sample, metric):
                seen.scores[got.score] += 1
            self.answers += 1
            self.characters += length

    def kept(self, *, answers: int, characters: int) -> list[_Question]:
        """As many questions as there is room for; those on which most models differ come first, else as asked."""
        chosen = []
        for question in sorted(self.seen, key=lambda question: self.seen[question].difference, reverse=True):
            seen = self.seen[question]
            if seen.answers <= answers and seen.characters <= characters:
                answers -= seen.answers
                characters -= seen.characters
                chosen.append(question)
        return chosen


class _Packing:
    """One task's answers to the questions that are kept, as its logs are read again."""

    def __init__(self, *, task: Asked, kept: Sequence[_Question]) -> None:
        self.task = task
        self.kept = kept
        self.logs: dict[str, str] = {}
        """Run -> its block."""
        self.answers = 0
        self.cut = 0
        self._places: dict[_Question, int] = {}
        self._chosen = frozenset(kept)
        self._prompts: dict[_Question, str] = {}
        self._categories: dict[_Question, str] = {}

    def rows(self, log: Sequence[Sample], marks: Marker) -> list[list[Any]]:
        """Of each answer: the place of its question, its words, mark and judge's words, the prompt, if it is not the
        question's, why it failed, has no score or could not be read, and what the model thought before it."""
        rows: list[list[Any]] = []
        for sample in log:
            question = _question(sample)
            if question not in self._chosen:
                continue
            place = self._places.setdefault(question, len(self._places))
            prompt = self._prompts.setdefault(question, sample.prompt)
            if not self._categories.get(question):
                self._categories[question] = _category(sample)  # a failed answer says none
            got = marks(sample, self.task.metric)
            given = [got.label, got.score, int(got.right)] if got else None
            if given and got and got.made_up is not None:
                given.append(list(got.made_up))
            own = self._cut(without_template(sample.prompt)) if sample.prompt != prompt else None
            row = [place, self._cut(sample.answer), given, self._cut(sample.reply), own, self._cut(sample.reason)]
            rows.append(row if sample.reasoning is None else [*row, self._cut(sample.reasoning)])
        self.answers += len(rows)
        return rows

    def questions(self, pictures: Mapping[str, str]) -> list[list[Any]]:
        """Of each question, by its place: its id, prompt, picture's block, image and category."""
        return [
            [q.id, self._cut(without_template(self._prompts[q])), pictures.get(q.image), q.image, self._categories[q]]
            for q in self._places
        ]

    def indexed(self, block: str, *, asked: int) -> dict[str, Any]:
        logs = [{"name": name, "block": self.logs[run]} for run, name in self.task.runs.items() if run in self.logs]
        return {"label": self.task.label, "asked": asked, "kept": len(self.kept), "block": block, "logs": logs}

    def _cut(self, text: str | None) -> str | None:
        if text is None or len(text) <= LONGEST:
            return text
        self.cut += 1
        return f"{text[:LONGEST]} … [cut here; {len(text):,} characters]"


def _question(sample: Sample) -> _Question:
    return _Question(sample.id, sample.image)


def _category(sample: Sample) -> str:
    """What kind of question it is, if the task says so."""
    return next(filter(None, map(category_of, sample.records.values())), "")


def category_of(record: Mapping[str, Any]) -> str:
    """What kind of question a record is of; empty where its task does not say."""
    return next((record[name] for name in CATEGORY if isinstance(record.get(name), str)), "")


def _log(samples: Loader | None, run: str, notes: list[str]) -> dict[str, list[Sample]]:
    """A run's samples by task; a log that cannot be read is named in `notes`."""
    by_task: dict[str, list[Sample]] = {}
    try:
        for sample in samples(run) if samples else ():
            by_task.setdefault(sample.task, []).append(sample)
    except FileNotFoundError:
        return {}
    except (ValueError, OSError) as error:
        notes.append(f"Answers of run {run} are left out: {error}")
        return {}
    return by_task


def _left_out(surveys: Sequence[_Survey], packings: Sequence[_Packing], album: "_Album") -> list[str]:
    asked, kept = sum(len(survey.seen) for survey in surveys), sum(len(packing.kept) for packing in packings)
    said = []
    if kept < asked:
        said.append(f"Of {asked:,} questions, {kept:,} are in this page, {_KEPT}; harness compare shows the others.")
    if album.left_out:
        said.append(
            f"Pictures of {album.left_out:,} images are left out, so that the page stays small; {_KEPT} have theirs."
        )
    if cut := sum(packing.cut for packing in packings):
        said.append(f"{cut:,} texts of more than {LONGEST:,} characters are cut.")
    return said


class _Album:
    """Thumbnails as base64, each once, however often it is shown, and as many as `room` bytes hold."""

    def __init__(self, thumbnails: Thumbnails | None, room: int) -> None:
        self.thumbnails = thumbnails
        self.room = room
        self.blocks: list[Block] = []
        self.left_out = 0
        self._by_digest: dict[str, str] = {}

    def of(self, task: str, questions: Iterable[_Question], *, share: float) -> dict[str, str]:
        """Image -> its block, of the first questions first, in a share of the room that is left."""
        found: dict[str, str] = {}
        if self.thumbnails is None:
            return found
        until = self.room - int(self.room * share)
        for image in dict.fromkeys(question.image for question in questions):
            if self.room <= until:
                self.left_out += 1
            elif (data := self.thumbnails(task, image)) is not None:
                found[image] = self._stored(task, image, data)
        return found

    def _stored(self, task: str, image: str, data: bytes) -> str:
        kind = next((kind for head, kind in _KINDS if data.startswith(head)), None)
        if kind is None or (kind == "webp" and data[8:12] != b"WEBP"):
            raise BoardError(
                f"thumbnail of image {image!r} of {task} is no JPEG, PNG or WebP: it begins with {data[:8]!r}"
            )
        if len(data) > THUMBNAIL_BYTES:
            raise BoardError(
                f"thumbnail of image {image!r} of {task} has {len(data)} bytes, more than {THUMBNAIL_BYTES}"
            )
        digest = hashlib.sha256(data).hexdigest()
        if digest not in self._by_digest:
            self._by_digest[digest] = f"p{len(self.blocks)}"
            self.blocks.append(Block(self._by_digest[digest], f"data:image/{kind};base64,{_base64(data)}"))
            self.room -= len(data)
        return self._by_digest[digest]


def _block(blocks: list[Block], value: object) -> str:
    """Keep a JSON value, compressed; its id."""
    data = gzip.compress(json.dumps(value, separators=(",", ":")).encode(), compresslevel=6, mtime=0)
    blocks.append(Block(f"b{len(blocks)}", _base64(data)))
    return blocks[-1].id


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
