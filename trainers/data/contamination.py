"""The leak check: which rows of the training data show or ask what a benchmark shows or asks.

    benchmark = benchmark_of("pope", load_tasks(...)["pope"])          # or a Benchmark of one's own documents
    leaks = find_leaks(rows, [benchmark], cache=HashCache(path))
    leaks.summary()                                                    # {"pope": 212}: rows that show one of its images
    clean = drop(rows, leaks)                                          # without these rows

COCO images are in LLaVA, SVIT, POPE, CHAIR and AMBER alike. An image is a benchmark's if its pixels are the same, if
both names say the same COCO id, or if the two look alike (`image_hashes.looks_alike`: re-encoded, resized). A question
about such an image may be the benchmark's own, too. A question by itself is evidence only if it is specific (see
questions.py). Such rows are listed; only rows with a benchmark's image are counted in `summary` and dropped.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Final, Literal, Protocol, TypeVar

from PIL import Image

from support import images as pictures
from support.errors import DataError
from support.images import ImageRef
from support.markdown import cell, table
from support.progress import report
from trainers.data.duplicates import PerceptualIndex
from trainers.data.image_hashes import DISTANCE, HashCache, ImageFacts, ImageHashes, coco_id, hash_image, looks_alike
from trainers.data.questions import Question, common_sentences, question_similarity, same_questions
from trainers.data.rows import Preference, Row

Evidence = Literal[
    "same image", "same COCO id", "looks alike",
    "same question on same image", "same question", "near-duplicate question",
]  # fmt: skip
OF_IMAGES: Final[tuple[Evidence, ...]] = ("same image", "same COCO id", "looks alike")
"""Evidence that a row shows an image of a benchmark."""
ASKED: Final[Evidence] = "same question on same image"
ALL: Final[tuple[Evidence, ...]] = (*OF_IMAGES, ASKED, "same question", "near-duplicate question")

SIMILAR: Final = 0.8
"""Share of shingles that near-duplicate questions have in common."""
FARTHEST: Final = 32
"""The largest distance that may be asked for, in bits: above it, hashes of different images are near each other."""
CHUNK: Final = 512
"""Rows whose images are read at a time."""

Data = TypeVar("Data", Row, Preference)


@dataclass(frozen=True, kw_only=True)
class Document:
    """One question of a benchmark."""

    id: str
    question: str
    images: tuple[Image.Image | ImageRef, ...] = ()
    name: str = ""
    """What the benchmark calls the image, if that may hold a COCO id."""


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
    """Bits, if they look alike."""
    similarity: float | None = None
    """Of the questions, 0-1, if they are evidence."""

    @property
    def of_image(self) -> bool:
        """Whether the row shows the document's image."""
        return any(kind in OF_IMAGES for kind in self.evidence)


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What of a benchmark was compared with the data."""

    documents: int
    images: int
    """Distinct ones."""
    unreadable: int
    """Images that could not be read: known by name at most, so that leaks may be missed."""


@dataclass(frozen=True, kw_only=True)
class Leaks:
    """All leaks found, and how much was looked at."""

    leaks: tuple[Leak, ...]
    """By row, then task, then document in the benchmark's order."""
    rows: int
    unreadable: int
    """Images of the training data that could not be read."""
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
        """Task -> rows of the training data that show one of its images; 0 for a task that none shows."""
        shown = {(leak.task, leak.row) for leak in self.leaks if leak.of_image}
        return {task: sum(of == task for of, _ in shown) for task in self.tasks}

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
            unread = "Pictures of benchmarks that can't be read, so that leaks may be missed"
            text += f"\n**{unread}: {', '.join(lost)}.**\n"
        head = ["task", "documents", "images", "rows with its image", *ALL]
        rows = []
        for task, checked in self.tasks.items():
            numbers = (checked.documents, checked.images, summary[task], *(counts[task][kind] for kind in ALL))
            rows.append([cell(task), *map(str, numbers)])
        text += f"\n{table(head, rows)}\n"
        if self.leaks:
            rows = [
                [str(leak.row), *map(cell, (leak.row_id, leak.task, leak.document)), _describe(leak)]
                for leak in self.leaks[:shown]
            ]
            text += f"\n{table(['row', 'id', 'task', 'document', 'evidence'], rows)}\n"
            if len(self.leaks) > shown:
                text += f"\nand {len(self.leaks) - shown} more.\n"
        return text


def _describe(leak: Leak) -> str:
    more = {"looks alike": f" ({leak.distance} bits)", "near-duplicate question": f" ({leak.similarity or 0:.2f})"}
    return ", ".join(kind + more.get(kind, "") for kind in leak.evidence)


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
"""Task -> the field that starts with the plain number of its image in COCO."""


def benchmark_of(task: str, loaded: LoadedTask) -> Benchmark:
    """The documents of a task as lm-eval has loaded it; ids are those of the sample log."""
    return Benchmark(task=task, documents=_read_documents(task, loaded))


def _read_documents(task: str, loaded: LoadedTask) -> Iterator[Document]:
    for index, doc in enumerate(loaded.eval_docs):
        id, name = str(doc.get("id", index)), _find_image_name(task, doc)
        images = tuple(loaded.doc_to_image(doc) or ())
        yield Document(id=id, question=str(loaded.doc_to_text(doc)), images=images, name=name)


def _find_image_name(task: str, doc: Mapping[str, Any]) -> str:
    if task in NUMBERED_AS_COCO:
        digits = re.match(r"\d{1,12}(?!\d)", str(doc.get(NUMBERED_AS_COCO[task], "")))
        return digits[0].zfill(12) if digits else ""
    names = (doc[key] for key in doc if "image" in key or "file" in key or key.endswith("id"))
    return next((name for name in names if isinstance(name, str) and coco_id(name) is not None), "")


def find_leaks(
    rows: Iterable[Row | Preference],
    benchmarks: Sequence[Benchmark],
    *,
    cache: HashCache | None = None,
    distance: int = DISTANCE,
    similar: float = SIMILAR,
    total: int = 0,
) -> Leaks:
    """Compare training data with benchmarks; pairs of one row count as the row. `total`: rows, for progress."""
    if not 0 <= distance <= FARTHEST:
        raise DataError(f"distance {distance}: must be 0 to {FARTHEST} bits of {PerceptualIndex.PARTS * 16}")
    if not 0 < similar <= 1:
        raise DataError(f"similarity {similar}: must be above 0 and at most 1")
    cache = cache or HashCache()
    known = _Documents(benchmarks, cache, distance)
    checked: dict[int, _CheckedRow] = {}
    unreadable = 0
    rest = iter(rows)
    while chunk := list(islice(rest, CHUNK)):
        new = list({_key(row): row for row in chunk if _key(row) not in checked}.values())
        facts = list(cache.facts_of_all(image for row in new for image in row.images))
        known.compare([one.hashes for one in facts if one.hashes])
        following = iter(facts)
        for row in new:
            shown = [(image, next(following)) for image in row.images]
            unreadable += sum(one.hashes is None for _, one in shown)
            contents = [one.hashes.content for _, one in shown if one.hashes]
            row_id = row.id if isinstance(row, Row) else row.row_id
            about = (contents or [image.name for image in row.images] or [f"row {_key(row)}"])[0]
            question = Question.of(row.prompt, about)
            checked[_key(row)] = _CheckedRow(row_id or row.id, question, known.hits(shown, row_id))
        report("look for leaks", len(checked), total)
    leaks = tuple(_make_leaks(checked, known, similar))
    return Leaks(leaks=leaks, rows=len(checked), unreadable=unreadable, tasks=known.tasks)


def drop(rows: Iterable[Data], leaks: Leaks) -> Iterator[Data]:
    """The rows, or pairs, that show no image of a benchmark."""
    dropped = leaks.dropped
    return (row for row in rows if _key(row) not in dropped)


def _key(row: Row | Preference) -> int:
    return row.index if isinstance(row, Row) else row.row


@dataclass(slots=True)
class _Hit:
    """Why a row and a document are too close."""

    evidence: list[Evidence]
    distance: int | None = None
    similarity: float | None = None


@dataclass(frozen=True, slots=True)
class _CheckedRow:
    """What is kept of a row."""

    id: str
    question: Question
    hits: dict[int, _Hit]
    """By the document's place."""


class _Documents:
    """The benchmarks' documents, by all that identifies their images."""

    def __init__(self, benchmarks: Sequence[Benchmark], cache: HashCache, distance: int) -> None:
        self.documents: list[tuple[str, str]] = []
        """(task, id)."""
        self.questions: list[Question] = []
        self.tasks: dict[str, Checked] = {}
        self._places: dict[str, list[int]] = defaultdict(list)
        """Content of an image -> documents that show it."""
        self._coco_places: dict[int, list[int]] = defaultdict(list)
        self._hashes: dict[str, ImageHashes] = {}
        self._index: PerceptualIndex[str] = PerceptualIndex()
        self._alike: dict[str, list[tuple[str, int]]] = {}
        """Content of a row's image -> (content, bits) of the documents' images that it looks like."""
        self._distance = distance
        for benchmark in benchmarks:
            if benchmark.task in self.tasks:
                raise DataError(f"{benchmark.task}: given twice")
            self.tasks[benchmark.task] = self._add(benchmark, cache)

    def _add(self, benchmark: Benchmark, cache: HashCache) -> Checked:
        first, contents, unreadable = len(self.documents), set(), 0
        for document in benchmark.documents:
            place = len(self.documents)
            self.documents.append((benchmark.task, document.id))
            about = f"{benchmark.task} {document.id}"
            cocos = {coco_id(document.name)}
            for image in document.images:
                try:
                    hashes = _hash(image, cache)
                except OSError:
                    unreadable += 1
                    cocos.add(coco_id(image.name) if isinstance(image, ImageRef) else None)
                    continue
                about = hashes.content
                contents.add(about)
                cocos.add(hashes.coco)
                self._places[about].append(place)
                if about not in self._hashes:
                    self._hashes[about] = hashes
                    if not hashes.is_plain:
                        self._index.add(about, hashes.perceptual)
            for coco in cocos:
                if coco is not None:
                    self._coco_places[coco].append(place)
            self.questions.append(Question.of(document.question, about))
        if len(self.documents) == first:
            raise DataError(f"{benchmark.task}: has no documents to check against")
        return Checked(documents=len(self.documents) - first, images=len(contents), unreadable=unreadable)

    def hits(self, shown: Sequence[tuple[ImageRef, ImageFacts]], row_id: str) -> dict[int, _Hit]:
        """The documents that show one of a row's images."""
        found: dict[int, _Hit] = {}

        def add(places: Iterable[int], kind: Evidence, distance: int | None = None) -> None:
            for place in places:
                hit = found.setdefault(place, _Hit([]))
                if kind not in hit.evidence:
                    hit.evidence.append(kind)
                    hit.distance = distance if distance is not None else hit.distance

        contents = [facts.hashes.content for _, facts in shown if facts.hashes]
        for content in contents:
            add(self._places.get(content, ()), "same image")
        for image, facts in shown:
            coco = facts.hashes.coco if facts.hashes else coco_id(image.name)
            # The id of a row identifies its image only if it has one.
            coco = coco or (coco_id(row_id) if len(shown) == 1 else None)
            add(self._coco_places.get(coco, ()) if coco else (), "same COCO id")
        same = {place for place, hit in found.items() if "same image" in hit.evidence}
        for content in contents:
            for other, bits in sorted(self._alike[content], key=lambda near: near[1]):
                add((place for place in self._places[other] if place not in same), "looks alike", bits)
        return found

    def compare(self, images: Sequence[ImageHashes]) -> None:
        """Find out which images these look like, all at once; `hits` needs it."""
        new = list({one.content: one for one in images if one.content not in self._alike}.values())
        self._alike |= {one.content: [] for one in new}
        new = [one for one in new if not one.is_plain]
        for place, content in self._index.near_all([one.perceptual for one in new], self._distance):
            bits = looks_alike(new[place], self._hashes[content], self._distance)
            if bits is not None and content != new[place].content:
                self._alike[new[place].content].append((content, bits))


def _hash(image: Image.Image | ImageRef, cache: HashCache) -> ImageHashes:
    if isinstance(image, pictures.PromptImage):
        return cache.of(ImageRef(name="", data=pictures.encoded(image)))
    return cache.of(image) if isinstance(image, ImageRef) else hash_image(image)


def _make_leaks(rows: Mapping[int, _CheckedRow], known: _Documents, similar: float) -> Iterator[Leak]:
    common = common_sentences([row.question for row in rows.values()]) | common_sentences(known.questions)
    for row in rows.values():
        for place, hit in row.hits.items():
            value = question_similarity(row.question, known.questions[place], common)
            if value >= similar:
                hit.evidence.append(ASKED)
                hit.similarity = value
    asked = {key: row.question for key, row in rows.items()}
    for key, place, equal, value in same_questions(asked, known.questions, common, similar):
        if place not in rows[key].hits:
            kind: Evidence = "same question" if equal else "near-duplicate question"
            rows[key].hits[place] = _Hit([kind], similarity=value)
    for key in sorted(rows):
        row = rows[key]
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
