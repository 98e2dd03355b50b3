"""AMBER: what a description of an image invents and leaves out; yes/no questions on existence, attributes, relations.

    nouns("A dog on the grass.", {"dog", "grass"})      # ["dog", "grass"]
    with use_similarity(lambda one, other: 0.0):
        describe("A dog.", doc, words)                  # {"nouns": 1, "hallucinated": 0, "covered": 1, ...}

A record is {image, kind, ...}: kind "generative" has the counts of one description, the others name the dimension of a
question.

The authors' script takes two words for one where spaCy's en_core_web_lg finds them more than 0.8 alike. That model is a
download: where it is not installed no two different words are alike, and results say so (`similarity()`). Questions are
answered by exactly "Yes" or "No"; anything else is wrong, and counts as neither. The positive class is "No".

The table of words (`tasks/benchmarks/data/amber_relation.json`) is the authors' relation.json and safe_words.txt
(github.com/junyangwang0410/AMBER, commit 5e1fd52, Apache-2.0), sorted and joined in one file.
"""

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module
from operator import eq
from pathlib import Path
from typing import Any, Final

import numpy as np

from support.errors import AnswerFileError
from tasks.answer_files import (
    Answered,
    OfficialAnswers,
    answer_in,
    check_any,
    covering,
    describe_missing,
    keep_once,
    read_fields,
    read_json,
    read_rows,
    read_text,
    reference,
)
from tasks.benchmarks import english
from tasks.columns import read_texts, read_yes_no
from tasks.metric import Array, Metric, Record, mean_of

Similarity = Callable[[str, str], float]
"""How alike two words are, at most 1."""

ALIKE: Final = 0.8
START: Final = 0.001
"""What every denominator of the authors' script begins with."""
MODEL: Final = "en_core_web_lg"

_SIMILARITY: ContextVar[Similarity | None] = ContextVar("amber_similarity", default=None)


@contextmanager
def use_similarity(function: Similarity) -> Iterator[None]:
    """Inside, words are compared by `function`."""
    token = _SIMILARITY.set(function)
    try:
        yield
    finally:
        _SIMILARITY.reset(token)


def similarity() -> tuple[str, Similarity | None]:
    """Which comparison of words is in use, and the comparison; None where no two different words are alike."""
    own = _SIMILARITY.get()
    if own is not None:
        return "own", own
    spacy = _load_spacy()
    return (MODEL, spacy) if spacy is not None else ("none", None)


@cache
def _load_spacy() -> Similarity | None:
    try:
        model = import_module("spacy").load(MODEL)
    except (ImportError, OSError):
        return None
    parsed = cache(model)

    @cache
    def alike(one: str, other: str) -> float:
        return float(parsed(one).similarity(parsed(other)))

    return alike


@dataclass(frozen=True)
class Words:
    """The benchmark's words."""

    association: Mapping[str, Sequence[str]]
    """A word -> words that may stand for it (relation.json)."""
    safe: Collection[str]
    """Words that are never counted (safe_words.txt)."""

    @cached_property
    def known(self) -> frozenset[str]:
        """All nouns that are looked at."""
        return frozenset(self.association).union(*self.association.values())

    def names_of(self, things: Sequence[str]) -> list[tuple[str, int]]:
        """What may name each of `things`, with its position: first all associated words, then the things themselves."""
        numbered = [(thing, position) for position, thing in enumerate(things)]
        associated = [(word, position) for thing, position in numbered for word in self.association.get(thing, ())]
        return associated + numbered


@cache
def words() -> Words:
    """The authors' words."""
    table = json.loads((Path(__file__).parent / "data" / "amber_relation.json").read_text(encoding="utf-8"))
    return Words(association=table["association"], safe=frozenset(table["safe"]))


def read_words(folder: Path) -> Words:
    """The words in a folder with AMBER's data files; our copy where it has none."""
    relation, safe = (next(iter(sorted(folder.rglob(name))), None) for name in ("relation.json", "safe_words.txt"))
    if relation is None or safe is None:
        return words()
    found = read_json(relation)
    if not isinstance(found, dict) or not all(isinstance(name, list) for name in found.values()):
        raise AnswerFileError(f"{relation}: must be an object with a list of words for each word")
    association = {word: list(map(str, others)) for word, others in found.items()}
    return Words(association=association, safe=frozenset(read_text(safe).splitlines()))


def nouns(text: str, known: Collection[str]) -> list[str]:
    """The nouns of `text` in their base form that are among `known`, in order; case counts."""
    return [noun for noun, _ in _nouns_as_written(text, known)]


def _nouns_as_written(text: str, known: Collection[str]) -> list[tuple[str, str]]:
    """The same, each with the word as it stands in `text`."""
    words = [word for word, tag in english.tagged(english.tokens(text)) if tag.startswith("NN")]
    return [(noun, word) for word in words if (noun := english.lemma(word)) in known]


def describe(text: str, truth: Sequence[str], traps: Sequence[str], words: Words) -> dict[str, Any]:
    """The counts of one description of an image: `truth` lists what is there, `traps` what people would expect."""
    near = _make_comparison()
    there, expected = words.names_of(truth), words.names_of(traps)
    covered: set[int] = set()
    trapped: set[int] = set()
    hallucinated = 0
    made_up: dict[str, None] = {}
    found = _nouns_as_written(text, words.known)
    for noun, written in found:
        if noun in words.safe:
            continue
        named = _find_first(there, noun, eq)
        if named is not None:
            covered.add(named)
            continue
        # A trap named literally does not end the search: a similar one before it counts, too, and so does a similar
        # thing that is there.
        trapped |= {position for same in (eq, near) if (position := _find_first(expected, noun, same)) is not None}
        like = _find_first(there, noun, near)
        if like is None:
            hallucinated += 1
            made_up[written] = None
        else:
            covered.add(like)
    counts = {"nouns": len(found), "hallucinated": hallucinated, "covered": len(covered), "truth": len(truth)}
    return {**counts, "trapped": len(trapped), "traps": len(traps), "made_up": list(made_up)}


def _make_comparison() -> Callable[[str, str], bool]:
    """Whether the comparison in use takes two words for one."""
    _, alike = similarity()
    return eq if alike is None else lambda one, other: alike(one, other) > ALIKE


def _find_first(names: Sequence[tuple[str, int]], noun: str, same: Callable[[str, str], bool]) -> int | None:
    return next((position for name, position in names if same(noun, name)), None)


GENERATIVE: Final = "generative"
DIMENSIONS: Final = {
    "discriminative-hallucination": "existence",
    "discriminative-attribute-state": "state",
    "discriminative-attribute-number": "number",
    "discriminative-attribute-action": "action",
}
"""The annotations' type -> dimension; every other discriminative type is a relation."""
ATTRIBUTES: Final = ("state", "number", "action")
ALL: Final = ("existence", *ATTRIBUTES, "relation")

_round = np.vectorize(lambda value: round(float(value), 1), otypes=[np.float64])
"""As Python rounds, to the last bit."""


def _count_descriptions(records: Sequence[Record]) -> tuple[float, ...]:
    own = [r for r in records if r["kind"] == GENERATIVE]
    fields = ("hallucinated", "nouns", "covered", "truth", "trapped", "traps")
    return *(sum(r[name] for r in own) for name in fields), sum(r["hallucinated"] == 0 for r in own), len(own)


def _share(part: int, whole: int) -> Callable[[Array], Array]:
    """Counts number `part` of `whole` in %, as the script adds up; nan where nothing was described."""
    return lambda sums: np.where(sums[..., 7] > 0, 100 * (sums[..., part] / (sums[..., whole] + START)), np.nan)


chair = Metric(counts=_count_descriptions, value=_share(0, 1), digits=1)
"""% of nouns that are not in the image."""
cover = Metric(counts=_count_descriptions, value=_share(2, 3), digits=1)
"""% of the image's things that are named."""
hal = Metric(counts=_count_descriptions, value=lambda sums: 100 - _share(6, 7)(sums), digits=1)
"""% of descriptions with a hallucination."""
cog = Metric(counts=_count_descriptions, value=_share(4, 5), digits=1)
"""% of the things people would expect, but are not there, that are named."""


def _count_questions(dimensions: Sequence[str]) -> Callable[[Sequence[Record]], tuple[float, ...]]:
    def counts(records: Sequence[Record]) -> tuple[float, ...]:
        own = [r for r in records if r["kind"] in dimensions]
        no = [r for r in own if r["answer"] == "No"]
        true_no, said_no_rightly = (sum(r["truth"] == "no" for r in group) for group in (own, no))
        return sum(r["correct"] for r in own), len(own), said_no_rightly, true_no, len(no)

    return counts


def _ratio(part: int, whole: int, starts: int) -> Callable[[Array], Array]:
    def value(sums: Array) -> Array:
        return np.where(sums[..., 1] > 0, 100 * (sums[..., part] / (sums[..., whole] + starts * START)), np.nan)

    return value


def _f1(starts: int, epsilon: float, rounding: Callable[[Array], Array] = np.asarray) -> Callable[[Array], Array]:
    """From precision and recall after `rounding`: the script's own is to a tenth."""
    precision_of, recall_of = _ratio(2, 4, starts), _ratio(2, 3, starts)

    def value(sums: Array) -> Array:
        p, r = rounding(precision_of(sums)) / 100, rounding(recall_of(sums)) / 100
        return np.asarray(100 * (2 * p * r / (p + r + epsilon)))

    return value


def questions(
    dimensions: Sequence[str], epsilon: float = 0.0001, starts: int = 1
) -> tuple[Metric, Metric, Metric, Metric]:
    """Accuracy, precision, recall and F1 of the questions on `dimensions`, in %, as the script rounds them."""
    counts = _count_questions(dimensions)
    shares = (_ratio(0, 1, starts), _ratio(2, 4, starts), _ratio(2, 3, starts))
    accuracy, precision, recall = (Metric(counts=counts, value=value, digits=1) for value in shares)
    rounded = _f1(starts, epsilon, _round)
    return accuracy, precision, recall, Metric(counts=counts, value=_f1(starts, epsilon), rounded=rounded, digits=1)


accuracy, precision, recall, f1 = questions(ALL)
existence_accuracy, existence_precision, existence_recall, existence_f1 = questions(("existence",), epsilon=0.001)
attribute_accuracy, attribute_precision, attribute_recall, attribute_f1 = questions(ATTRIBUTES, starts=3)
state_accuracy, state_precision, state_recall, state_f1 = questions(("state",))
number_accuracy, number_precision, number_recall, number_f1 = questions(("number",))
action_accuracy, action_precision, action_recall, action_f1 = questions(("action",))
relation_accuracy, relation_precision, relation_recall, relation_f1 = questions(("relation",))


def _total(rounding: Callable[[Array], Array]) -> Callable[[Array], Array]:
    f1_of, chair_of = _f1(1, 0.0001, rounding), _share(0, 1)
    return lambda sums: (100 - rounding(chair_of(sums[..., :8])) + rounding(f1_of(sums[..., 8:]))) / 2


amber_score = Metric(
    counts=lambda records: (*_count_descriptions(records), *_count_questions(ALL)(records)),
    value=_total(np.asarray),
    rounded=_total(_round),
    digits=1,
    bounds=(0, 100),
)
"""Half of (100 - CHAIR + F1), from the rounded figures, as the paper adds them up."""


def _is_question(record: Record) -> bool:
    return bool(record["kind"] != GENERATIVE)


yes_rate = mean_of(lambda record: record["answer"] == "Yes", scale=100, among=_is_question)
answer_length = mean_of("words", among=_is_question)
"""Mean length of the answers to questions, in words."""

DESCRIBED: Final = ("chair", "cover", "hal", "cog")
_SCORES: Final = ("accuracy", "precision", "recall", "f1")
_ASKED_ABOUT: Final = ("existence", "attribute", "state", "number", "action", "relation")
ASKED: Final = (
    *(*_SCORES, *(f"{dimension}_{score}" for dimension in _ASKED_ABOUT for score in _SCORES)),
    *("yes_rate", "answer_length"),
)


def decided(doc: Mapping[str, Any]) -> Callable[[str], bool] | None:
    """Where yes or no is asked for: once the answer can't become "Yes" or "No" and nothing else."""
    return (
        None if doc["type"] == GENERATIVE else lambda answer: not ("Yes".startswith(answer) or "No".startswith(answer))
    )


def next_token(doc: Mapping[str, Any]) -> tuple[tuple[str, ...], str] | None:
    """Yes and no, where they are asked for."""
    truth = str(doc["truth"][0] if isinstance(doc["truth"], list) else doc["truth"]).lower()
    return None if doc["type"] == GENERATIVE else (("yes", "no"), truth)


def process_results(doc: Mapping[str, Any], results: list[str]) -> dict[str, dict[str, Any]]:
    """One record for every metric of the document's half, and for the score over both."""
    answer = results[0]
    record: dict[str, Any] = {"image": doc["image"], "words": len(answer.split())}
    if doc["type"] == GENERATIVE:
        own = describe(answer, doc["truth"], doc["hallu"], doc.get("words") or words())
        record |= {"kind": GENERATIVE, "similarity": similarity()[0], **own}
        return dict.fromkeys(("amber_score", *DESCRIBED), record)
    truth = str(doc["truth"][0] if isinstance(doc["truth"], list) else doc["truth"])
    kind = DIMENSIONS.get(doc["type"], "relation")
    record |= {"kind": kind, "truth": truth, "answer": answer, "correct": answer == truth.capitalize()}
    if answer not in ("Yes", "No"):
        record |= {"unparsed": True, "answer": "other"}
    return dict.fromkeys(("amber_score", *ASKED), record)


ANNOTATION: Final = {
    "id": "number",
    "type": f"one of {GENERATIVE} {' '.join(DIMENSIONS)} discriminative-relation relation",
    "truth": "tasks.benchmarks.amber.read_truth",
    "hallu": "texts or nothing",
}
"""What a row of the annotations holds."""
QUERIES: Final = ("query_generative.json", "query_discriminative.json")


def rows(folder: Path) -> list[dict[str, Any]]:
    """All documents, from a folder with AMBER's data files and, somewhere in it, its pictures."""
    annotations = _read_annotations(folder)
    found = []
    for name in QUERIES:
        file = reference(folder, name, what="AMBER's queries")
        for row in read_fields(read_rows(file), file, {"id": "number", "image": "text", "query": "question"}):
            number = row["id"]
            if number not in annotations:
                raise AnswerFileError(f"{file}: question {number} has no annotation")
            about = {"id": str(number), "image": row["image"], "query": row["query"]}
            found.append({**about, **_truth(annotations[number])})
    return found


def _read_annotations(folder: Path | None) -> dict[int, dict[str, Any]]:
    file = reference(folder, "annotations.json", what="AMBER's annotations")
    return {row["id"]: row for row in read_fields(read_rows(file), file, ANNOTATION)}


def _truth(annotation: Mapping[str, Any]) -> dict[str, Any]:
    """The annotation, its truth a list in any case, since a table has one type a column."""
    return {name: annotation[name] for name in ("type", "truth", "hallu")}


def read_truth(cell: Any, row: Mapping[str, Any]) -> list[str]:
    """The things there, or the true answer alone; ValueError."""
    if row["type"] == GENERATIVE:
        return read_texts(cell)
    return [read_yes_no(cell[0] if isinstance(cell, list) and len(cell) == 1 else cell)]


def prompt(doc: Mapping[str, Any]) -> str:
    """The query as it is."""
    return f"<image>{doc['query']}"


def target(doc: Mapping[str, Any]) -> str:
    """Yes or No, or the things there."""
    return ", ".join(doc["truth"])


def official_answers(path: Path, references: Path | None) -> OfficialAnswers:
    """A list of {id, response} to all questions or some; `references` holds AMBER's data files."""
    annotations, own, images = _read_annotations(references), read_words(references or Path()), _map_images(references)
    rows = read_fields(read_rows(path), path, {"id": "number", "response": "any"})
    responses = [answer_in(row["response"]) for row in rows]
    check_any(responses, path)
    kept, told = keep_once([row["id"] for row in rows], responses, path)
    told += describe_missing(responses[place] for place in kept)
    answered: list[Answered] = []
    for place in kept:
        number = rows[place]["id"]
        if number not in annotations:
            raise AnswerFileError(f"{path}: there is no question {number!r}")
        doc = {"image": images.get(number, str(number)), "words": own, **_truth(annotations[number])}
        answered.append(Answered(id=str(number), doc=doc, answer=responses[place]))
    total = Counter(annotation["type"] == GENERATIVE for annotation in annotations.values())

    def coverage(answered: Sequence[Answered]) -> tuple[list[str], bool]:
        asked = Counter(sample.doc["type"] == GENERATIVE for sample in answered)
        return list(_describe_coverage(asked, total)), any(0 < asked[half] < total[half] for half in total)

    return covering(answered, told, coverage)


def _describe_coverage(asked: Mapping[bool, int], total: Mapping[bool, int]) -> Iterator[str]:
    """Which descriptions (True) and yes/no questions (False) are `asked`, of how many."""
    if asked.get(True):
        name = similarity()[0]
        unlike = f"spaCy's {MODEL} is not installed: no two different words are taken as alike"
        yield unlike if name == "none" else f"words are compared by {name}"
    else:
        yield "no descriptions: chair, cover, hal, cog and amber_score are left out"
    if not asked.get(False):
        yield "no yes/no questions: their metrics and amber_score are left out"
    for generative, what in ((True, "descriptions"), (False, "yes/no questions")):
        if 0 < asked.get(generative, 0) < total[generative]:
            yield f"{asked[generative]} of the {total[generative]} {what} are answered; the others are not counted"


def _map_images(folder: Path | None) -> dict[int, str]:
    """Which image each question is about: both halves ask about the same ones."""
    files = [file for name in QUERIES if folder is not None for file in sorted(folder.rglob(name))[:1]]
    kinds = {"id": "number", "image": "text"}
    return {row["id"]: row["image"] for file in files for row in read_fields(read_rows(file), file, kinds)}
