"""The leak check: which rows of the training data show or ask what a benchmark shows or asks.

    benchmark = benchmark_of("pope", load_tasks(...)["pope"])          # or a Benchmark of one's own documents
    leaks = find_leaks(rows, [benchmark], prints=Fingerprints(cache))
    leaks.summary()                                                    # {"pope": 212}: rows that show one of its pictures
    clean = drop(rows, leaks)                                          # without these rows

COCO runs through LLaVA, SVIT, POPE, CHAIR and AMBER alike. A picture is a benchmark's if its pixels are the same, if
both names say the same COCO id, or if they look alike (`fingerprints.looks_alike`: re-encoded, resized). A question
about such a picture may be the benchmark's own, too. A question by itself is evidence only where it is no common one:
sentences that are asked of more than `COMMON` pictures ("Describe this image.", "Please answer yes or no.") are left
out of both sides, and what is left must have `SPECIFIC` characters, and must not be near to questions about more than
`COMMON` pictures, as the members of a template are. Such rows are listed; only rows with a benchmark's picture are
counted in `summary` and dropped.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Final, Literal, Protocol, TypeVar

from PIL import Image

from support import images as pictures
from support.errors import DataError
from support.images import ImageRef
from trainers.data.image_hashes import (
    DISTANCE,
    HashCache,
    ImageHashes,
    LookIndex,
    coco_id,
    hash_image,
    looks_alike,
    near_texts,
    normal_prompt,
    similarity,
)
from trainers.data.rows import Preference, Row
from trainers.data.statistics import cell

Evidence = Literal[
    "same image",
    "same COCO id",
    "looks alike",
    "same question on same image",
    "same question",
    "near-duplicate question",
]
OF_IMAGES: Final[tuple[Evidence, ...]] = ("same image", "same COCO id", "looks alike")
"""Evidence that a row shows a picture of a benchmark."""
ASKED: Final[Evidence] = "same question on same image"
OF_QUESTIONS: Final[tuple[Evidence, ...]] = ("same question", "near-duplicate question")
ALL: Final[tuple[Evidence, ...]] = (*OF_IMAGES, ASKED, *OF_QUESTIONS)

SIMILAR: Final = 0.8
"""Share of shingles that near-duplicate questions have in common."""
COMMON: Final = 5
"""A sentence asked of more pictures than this, on one side, belongs to nobody."""
SPECIFIC: Final = 40
"""Characters a question must have without its common sentences to be evidence by itself."""
FARTHEST: Final = 32
"""Bits: beyond this, looks of strangers meet."""
CHUNK: Final = 512
"""Rows whose pictures are read at a time."""

Data = TypeVar("Data", Row, Preference)


@dataclass(frozen=True, kw_only=True)
class Document:
    """One question of a benchmark."""

    id: str
    question: str
    images: tuple[Image.Image | ImageRef, ...] = ()
    name: str = ""
    """What the benchmark calls the picture, where that may tell a COCO id."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What a task shows and asks."""

    task: str
    documents: Iterable[Document]
    """Read once."""


@dataclass(frozen=True, kw_only=True)
class Leak:
    """One row of the training data and one document of a benchmark that are too close."""

    row: int
    """`Row.index` or `Preference.row`."""
    row_id: str
    task: str
    document: str
    evidence: tuple[Evidence, ...]
    distance: int | None = None
    """Bits, where they look alike."""
    similarity: float | None = None
    """Of the questions, 0-1, where they are evidence."""

    @property
    def of_image(self) -> bool:
        """Whether the row shows the document's picture."""
        return any(kind in OF_IMAGES for kind in self.evidence)


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What of a benchmark was held against the data."""

    documents: int
    images: int
    """Distinct ones."""
    unreadable: int
    """Pictures that could not be read: known by name at most, so that leaks may be missed."""


@dataclass(frozen=True, kw_only=True)
class Leaks:
    """All leaks found, and how much was looked at."""

    leaks: tuple[Leak, ...]
    """By row, then task, then document in the benchmark's order."""
    rows: int
    unreadable: int
    """Pictures of the training data that could not be read."""
    tasks: Mapping[str, Checked]

    @property
    def counts(self) -> dict[str, dict[Evidence, int]]:
        """Task -> evidence -> rows of the training data."""
        found: dict[tuple[str, Evidence], set[int]] = defaultdict(set)
        for leak in self.leaks:
            for kind in leak.evidence:
                found[leak.task, kind].add(leak.row)
        return {task: {kind: len(found[task, kind]) for kind in ALL} for task in self.tasks}

    def summary(self) -> dict[str, int]:
        """Task -> rows of the training data that show one of its pictures; 0 for a task that none shows."""
        return {
            task: len({leak.row for leak in self.leaks if leak.task == task and leak.of_image}) for task in self.tasks
        }

    @property
    def dropped(self) -> frozenset[int]:
        """The rows that `drop` leaves out."""
        return frozenset(leak.row for leak in self.leaks if leak.of_image)

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "rows": self.rows,
            "unreadable": self.unreadable,
            "rows_with_image": self.summary(),
            "counts": self.counts,
            "tasks": {task: asdict(checked) for task, checked in self.tasks.items()},
            "leaks": [asdict(leak) | {"evidence": list(leak.evidence)} for leak in self.leaks],
        }

    def to_markdown(self, shown: int = 50) -> str:
        """A table of rows by task and evidence, and the first `shown` leaks."""
        summary, counts = self.summary(), self.counts
        text = f"{self.rows} rows checked, {len(self.dropped)} show a picture of a benchmark.\n"
        if self.unreadable:
            text += f"\n**{self.unreadable} pictures of the data can't be read: what they show was not checked.**\n"
        lost = [f"{cell(task)} {checked.unreadable}" for task, checked in self.tasks.items() if checked.unreadable]
        if lost:
            text += (
                f"\n**Pictures of benchmarks that can't be read, so that leaks may be missed: {', '.join(lost)}.**\n"
            )
        text += "\n" + _table(
            ["task", "documents", "images", "rows with its image", *ALL],
            [
                [cell(task), checked.documents, checked.images, summary[task], *(counts[task][kind] for kind in ALL)]
                for task, checked in self.tasks.items()
            ],
        )
        if self.leaks:
            rows = [
                [leak.row, cell(leak.row_id), cell(leak.task), cell(leak.document), _in_words(leak)]
                for leak in islice(self.leaks, shown)
            ]
            text += "\n" + _table(["row", "id", "task", "document", "evidence"], rows)
            if len(self.leaks) > shown:
                text += f"\nand {len(self.leaks) - shown} more.\n"
        return text


def _in_words(leak: Leak) -> str:
    more = {"looks alike": f" ({leak.distance} bits)", "near-duplicate question": f" ({leak.similarity or 0:.2f})"}
    return ", ".join(kind + more.get(kind, "") for kind in leak.evidence)


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)


class LoadedTask(Protocol):
    """What is needed of one of lm-eval's tasks."""

    @property
    def eval_docs(self) -> Iterable[Mapping[str, Any]]:
        """The documents that are scored."""

    def doc_to_text(self, doc: Any) -> Any:
        """What the model is asked."""

    def doc_to_image(self, doc: Any) -> Any:
        """What it is shown."""


NUMBERED_AS_COCO: Final = {"chair": "question_id", "object_halbench": "id"}
"""Task -> the field that starts with the plain number of its picture in COCO."""


def benchmark_of(task: str, loaded: LoadedTask) -> Benchmark:
    """The documents of a task as lm-eval has loaded it; ids are those of the sample log."""
    return Benchmark(task=task, documents=_documents(task, loaded))


def _documents(task: str, loaded: LoadedTask) -> Iterator[Document]:
    for index, doc in enumerate(loaded.eval_docs):
        yield Document(
            id=str(doc.get("id", index)),
            question=str(loaded.doc_to_text(doc)),
            images=tuple(loaded.doc_to_image(doc) or ()),
            name=_name(task, doc),
        )


def _name(task: str, doc: Mapping[str, Any]) -> str:
    if task in NUMBERED_AS_COCO:
        digits = re.match(r"\d{1,12}(?!\d)", str(doc.get(NUMBERED_AS_COCO[task], "")))
        return digits[0].zfill(12) if digits else ""
    names = (
        value
        for key, value in doc.items()
        if isinstance(value, str) and ("image" in key or "file" in key or key.endswith("id"))
    )
    return next((name for name in names if coco_id(name) is not None), "")


def find_leaks(
    rows: Iterable[Row | Preference],
    benchmarks: Sequence[Benchmark],
    *,
    prints: HashCache | None = None,
    distance: int = DISTANCE,
    similar: float = SIMILAR,
    done: Callable[[int], None] | None = None,
) -> Leaks:
    """Hold training data against benchmarks. `done` hears how many rows were looked at; pairs of one row count as the
    row."""
    if not 0 <= distance <= FARTHEST:
        raise DataError(f"distance {distance}: must be 0 to {FARTHEST} bits of {LookIndex.PARTS * 16}")
    if not 0 < similar <= 1:
        raise DataError(f"similarity {similar}: must be above 0 and at most 1")
    prints = prints or HashCache()
    known = _Known(benchmarks, prints, distance)
    asked: dict[int, _Asked] = {}
    unreadable = 0
    rest = iter(rows)
    while chunk := list(islice(rest, CHUNK)):
        new = list({_key(row): row for row in chunk if _key(row) not in asked}.values())
        marks = list(prints.of_all(picture for row in new for picture in row.images))
        known.compare([mark for mark in marks if isinstance(mark, ImageHashes)])
        found = iter(marks)
        for row in new:
            seen = [(picture, next(found)) for picture in row.images]
            unreadable += sum(isinstance(mark, OSError) for _, mark in seen)
            shows = [mark.content for _, mark in seen if not isinstance(mark, OSError)]
            asked[_key(row)] = _Asked(
                id=row.id if isinstance(row, Row) else row.row_id or row.id,
                question=_Question.of(
                    row.prompt, (shows or [picture.name for picture in row.images] or [f"row {_key(row)}"])[0]
                ),
                hits=known.hits(seen, row.id if isinstance(row, Row) else row.row_id),
            )
        if done:
            done(len(asked))
    return Leaks(leaks=tuple(_leaks(asked, known, similar)), rows=len(asked), unreadable=unreadable, tasks=known.tasks)


def drop(rows: Iterable[Data], leaks: Leaks) -> Iterator[Data]:
    """The rows, or pairs, that show no picture of a benchmark."""
    dropped = leaks.dropped
    return (row for row in rows if _key(row) not in dropped)


def _key(row: Row | Preference) -> int:
    return row.index if isinstance(row, Row) else row.row


@dataclass(slots=True)
class _Hit:
    """How a row and a document meet."""

    evidence: list[Evidence]
    distance: int | None = None
    similarity: float | None = None


@dataclass(frozen=True, slots=True)
class _Question:
    """A question by its sentences."""

    sentences: tuple[str, ...]
    picture: str

    @classmethod
    def of(cls, text: str, picture: str) -> "_Question":
        parts = (normal_prompt(part) for part in _SENTENCE_END.split(text))
        return cls(tuple(part for part in parts if part), picture)

    @property
    def whole(self) -> str:
        return " ".join(self.sentences)

    def without(self, common: frozenset[str]) -> str:
        return " ".join(sentence for sentence in self.sentences if sentence not in common)


_SENTENCE_END: Final = re.compile(r"(?<=[.?!:;。？！：；])\s+|\n+|(?<=[。？！：；])")


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is kept of a row."""

    id: str
    question: _Question
    hits: dict[int, _Hit]
    """By the document's place."""


class _Known:
    """The benchmarks' documents, by all that tells their pictures."""

    def __init__(self, benchmarks: Sequence[Benchmark], prints: HashCache, distance: int) -> None:
        self.documents: list[tuple[str, str]] = []
        """(task, id)."""
        self.questions: list[_Question] = []
        self.tasks: dict[str, Checked] = {}
        self._by_content: dict[str, list[int]] = defaultdict(list)
        self._by_coco: dict[int, list[int]] = defaultdict(list)
        self._prints: dict[str, ImageHashes] = {}
        self._looks: LookIndex[str] = LookIndex()
        self._alike: dict[str, list[tuple[str, int]]] = {}
        self._distance = distance
        for benchmark in benchmarks:
            if benchmark.task in self.tasks:
                raise DataError(f"{benchmark.task}: given twice")
            self.tasks[benchmark.task] = self._add(benchmark, prints)

    def _add(self, benchmark: Benchmark, prints: HashCache) -> Checked:
        first, contents, unreadable = len(self.documents), set(), 0
        for document in benchmark.documents:
            place = len(self.documents)
            self.documents.append((benchmark.task, document.id))
            picture = f"{benchmark.task} {document.id}"
            cocos = {coco_id(document.name)}
            for image in document.images:
                try:
                    mark = _print(image, prints)
                except OSError:
                    unreadable += 1
                    cocos.add(coco_id(image.name) if isinstance(image, ImageRef) else None)
                    continue
                picture = mark.content
                contents.add(picture)
                cocos.add(mark.coco)
                self._by_content[picture].append(place)
                if picture not in self._prints:
                    self._prints[picture] = mark
                    if not mark.plain:
                        self._looks.add(picture, mark.look)
            for coco in cocos - {None}:
                assert coco is not None
                self._by_coco[coco].append(place)
            self.questions.append(_Question.of(document.question, picture))
        if len(self.documents) == first:
            raise DataError(f"{benchmark.task}: has no documents to check against")
        return Checked(documents=len(self.documents) - first, images=len(contents), unreadable=unreadable)

    def hits(self, seen: Sequence[tuple[ImageRef, ImageHashes | OSError]], row_id: str) -> dict[int, _Hit]:
        """The documents that show one of a row's pictures."""
        found: dict[int, _Hit] = {}

        def add(places: Iterable[int], kind: Evidence, distance: int | None = None) -> None:
            for place in places:
                hit = found.setdefault(place, _Hit([]))
                if kind not in hit.evidence:
                    hit.evidence.append(kind)
                    hit.distance = distance if distance is not None else hit.distance

        for _, mark in seen:
            if not isinstance(mark, OSError):
                add(self._by_content.get(mark.content, ()), "same image")
        for picture, mark in seen:
            coco = mark.coco if isinstance(mark, ImageHashes) else coco_id(picture.name)
            # The id of a row tells of its picture only where it has one.
            coco = coco or (coco_id(row_id) if len(seen) == 1 else None)
            add(self._by_coco.get(coco, ()) if coco else (), "same COCO id")
        for _, mark in seen:
            if not isinstance(mark, OSError):
                for content, bits in sorted(self._alike[mark.content], key=lambda near: near[1]):
                    add(
                        (place for place in self._by_content[content] if "same image" not in _kinds(found, place)),
                        "looks alike",
                        bits,
                    )
        return found

    def compare(self, marks: Sequence[ImageHashes]) -> None:
        """Find out which pictures these look like, all at once; `hits` needs it."""
        new = list({mark.content: mark for mark in marks if mark.content not in self._alike}.values())
        self._alike |= {mark.content: [] for mark in new}
        new = [mark for mark in new if not mark.plain]
        for place, content in self._looks.near_all([mark.look for mark in new], self._distance):
            mark = new[place]
            bits = looks_alike(mark, self._prints[content], self._distance)
            if bits is not None and content != mark.content:
                self._alike[mark.content].append((content, bits))


def _kinds(found: Mapping[int, _Hit], place: int) -> list[Evidence]:
    return found[place].evidence if place in found else []


def _print(image: Image.Image | ImageRef, prints: HashCache) -> ImageHashes:
    if isinstance(image, pictures.PromptImage):
        return prints.of(ImageRef(name="", data=pictures.encoded(image)))
    return prints.of(image) if isinstance(image, ImageRef) else hash_image(image)


def _leaks(asked: Mapping[int, _Asked], known: _Known, similar: float) -> Iterator[Leak]:
    common = _common([row.question for row in asked.values()]) | _common(known.questions)
    for row in asked.values():
        for place, hit in row.hits.items():
            like = _likeness(row.question, known.questions[place], common)
            if like >= similar:
                hit.evidence.append(ASKED)
                hit.similarity = like
    for key, place, kind, like in _same_questions(asked, known.questions, common, similar):
        if place not in asked[key].hits:
            asked[key].hits[place] = _Hit([kind], similarity=like)
    for key in sorted(asked):
        row = asked[key]
        for place in sorted(row.hits):
            task, document = known.documents[place]
            hit = row.hits[place]
            kinds = tuple(kind for kind in ALL if kind in hit.evidence)
            yield Leak(
                row=key,
                row_id=row.id,
                task=task,
                document=document,
                evidence=kinds,
                distance=hit.distance,
                similarity=hit.similarity,
            )


def _common(questions: Iterable[_Question]) -> frozenset[str]:
    """Sentences that are asked of more than `COMMON` pictures."""
    pictures_of: dict[str, set[str]] = defaultdict(set)
    for question in questions:
        for sentence in question.sentences:
            if len(pictures_of[sentence]) <= COMMON:
                pictures_of[sentence].add(question.picture)
    return frozenset(sentence for sentence, shown in pictures_of.items() if len(shown) > COMMON)


def _likeness(one: _Question, other: _Question, common: frozenset[str]) -> float:
    """Of two questions about one picture: by what is their own, where both have that, else as they are."""
    left, right = one.without(common), other.without(common)
    if not left or not right:
        left, right = one.whole, other.whole
    return similarity(left, right)


def _same_questions(
    asked: Mapping[int, _Asked], questions: Sequence[_Question], common: frozenset[str], similar: float
) -> Iterator[tuple[int, int, Evidence, float]]:
    """(row, document's place, kind, similarity) of questions that are nobody else's."""
    rows: dict[str, list[int]] = defaultdict(list)
    for key, row in asked.items():
        rows[row.question.without(common)].append(key)
    places: dict[str, list[int]] = defaultdict(list)
    for place, question in enumerate(questions):
        places[question.without(common)].append(place)
    left, right = ([text for text in texts if len(text) >= SPECIFIC] for texts in (rows, places))
    near = [(left[query], right[entry], like) for query, entry, like in near_texts(left, right, similar)]
    about: dict[tuple[str, str], set[str]] = defaultdict(set)
    for one, other, _ in near:
        about["document", other] |= {asked[key].question.picture for key in rows[one]}
        about["row", one] |= {questions[place].picture for place in places[other]}
    for one, other, like in near:
        if len(about["document", other]) <= COMMON and len(about["row", one]) <= COMMON:
            kind: Evidence = "same question" if one == other else "near-duplicate question"
            yield from ((key, place, kind, like) for key in rows[one] for place in places[other])
