"""CHAIR: which objects does a caption mention that are not in the image?

    vocabulary = Vocabulary(synonyms={"dog": "dog", "puppy": "dog"}, double_words={}, base_forms=list)
    record("1", "A puppy.", {"cat"}, vocabulary)     # {"hallucinated": 1, "mentions": 1, ...}

The rule is the official one: words of the caption are brought to a base form, listed pairs of words are merged into
one, some words give way to others, and what is left and names an object counts as a mention, every time it occurs. What
is listed is the `Vocabulary`.

COCO's has two variants. The authors' script takes singulars from pattern (`official`); most papers since 2023 use a
copy of it that takes WordNet lemmas instead (`lemma`), and objects of the image found by that, too. The task scores
both, under separate names.

The names of COCO's objects are those of the authors' list (`tasks/benchmarks/data/coco_objects.json`); images are
COCO's 2014 ones.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypedDict

from support.errors import AnswerFileError, first_line
from tasks.answer_files import (
    ANSWER_FIELDS,
    Answered,
    OfficialAnswers,
    describe_count,
    describe_missing,
    find_answers,
    keep_once,
    read_fields,
    read_json,
    read_rows,
    read_text,
    reference,
)
from tasks.benchmarks import english
from tasks.metric import mean_of, ratio_of

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The objects of a world and how captions may name them."""

    synonyms: Mapping[str, str]
    """A word, singular and lower-case, or a merged pair -> the object's name."""

    double_words: Mapping[str, str]
    """Two words "a b" -> the word they are together."""

    base_forms: Callable[[Sequence[str]], Sequence[str]]
    """The tokens of a caption -> a base form (a singular, a lemma) of each."""

    gives_way: Mapping[str, str] = field(default_factory=dict)
    """A word -> the word that, anywhere in the caption, takes it out: a seat is no chair where a toilet is."""


class CaptionCounts(TypedDict):
    """What CHAIR counts in one caption."""

    image: str
    hallucinated: int
    """Mentions of objects that are not in the image."""
    mentions: int
    covered: int
    """Objects of the image that are mentioned."""
    objects: int
    words: int
    """Length of the caption, in what white space separates."""
    tokens: int
    """Length of the caption, in words and punctuation marks, listed pairs being one."""
    made_up: list[str]
    """The caption's words, in lower case, for objects that are not in the image; each once."""


class Token(NamedTuple):
    """A word or a punctuation mark of a caption in its base form, or a listed pair of words as one."""

    base: str
    start: int
    """Its first character in the caption in lower case; -1 where the tokenizer rewrites it, as quotation marks."""
    end: int


def tokens_of(caption: str, vocabulary: Vocabulary) -> list[Token]:
    """The caption's words and punctuation marks in their base forms, listed pairs merged."""
    lower, end = caption.lower(), 0
    tokens = english.tokens(lower)
    places: list[tuple[int, int]] = []
    for token in tokens:
        start = lower.find(token, end)
        end = end if start < 0 else start + len(token)
        places.append((start, end))
    return list(_merge(vocabulary.base_forms(tokens), places, vocabulary.double_words))


def words_of(caption: str, vocabulary: Vocabulary) -> list[str]:
    """`tokens_of` without their places."""
    return [token.base for token in tokens_of(caption, vocabulary)]


def mentions(caption: str, vocabulary: Vocabulary) -> list[str]:
    """The objects `caption` mentions, in order, one as often as it is mentioned."""
    return objects_in(words_of(caption, vocabulary), vocabulary)


def objects_in(words: Sequence[str], vocabulary: Vocabulary) -> list[str]:
    """The objects that `words` name, in order, one as often as it is named."""
    there = frozenset(words)
    kept = [word for word in words if vocabulary.gives_way.get(word) not in there]
    return [vocabulary.synonyms[word] for word in kept if word in vocabulary.synonyms]


def record(image: str, caption: str, truth: Collection[str], vocabulary: Vocabulary) -> CaptionCounts:
    """The counts of one caption of an image in which the objects `truth` are."""
    present = frozenset(truth)
    tokens = tokens_of(caption, vocabulary)
    mentioned = objects_in([token.base for token in tokens], vocabulary)
    absent = {*mentioned} - present
    wrong = [token for token in tokens if token.start >= 0 and vocabulary.synonyms.get(token.base) in absent]
    return CaptionCounts(
        image=image,
        hallucinated=sum(name not in present for name in mentioned),
        mentions=len(mentioned),
        covered=len(present.intersection(mentioned)),
        objects=len(present),
        words=len(caption.split()),
        tokens=len(tokens),
        made_up=list(dict.fromkeys(caption.lower()[token.start : token.end] for token in wrong)),
    )


def _merge(words: Sequence[str], places: Sequence[tuple[int, int]], double_words: Mapping[str, str]) -> Iterator[Token]:
    """Pairs from left to right; a word merged with the one before it starts no pair of its own."""
    taken = False
    for index, (first, second) in enumerate(pairwise([*words, ""])):
        if taken:
            taken = False
            continue
        merged = double_words.get(f"{first} {second}")
        taken = merged is not None
        start, end = places[index][0], places[index + taken][1]
        whole = start >= 0 and places[index + taken][0] >= 0
        yield Token(first if merged is None else merged, start if whole else -1, end)


chair_s = mean_of(lambda record: record["hallucinated"] > 0, scale=100)
"""% of captions that mention an object which is not there."""

chair_i = ratio_of("hallucinated", "mentions", scale=100)
"""% of all mentions that are of an object which is not there."""

coverage = ratio_of("covered", "objects", scale=100)
"""% of the objects there that are mentioned: what a caption pays for saying less."""

length = mean_of("words")
"""Mean length of a caption in words."""


BABY_AND_ADULT: Final = "bird cat dog horse sheep cow elephant bear zebra giraffe animal cub".split()
_PAIRS: Final = """
motor bike, motor cycle, air plane, traffic light, street light, traffic signal, stop light, fire hydrant, stop sign,
parking meter, suit case, sports ball, baseball bat, baseball glove, tennis racket, wine glass, hot dog, cell phone,
mobile phone, teddy bear, hair drier, potted plant, laptop computer, home plate, train track
"""
PAIRS: Final = tuple(" ".join(pair.split()) for pair in _PAIRS.split(","))
"""The pairs of words that the authors' script merges; "train track" only so that no train is read in it."""

Rule = Callable[[Sequence[str]], Sequence[str]]


def singulars(words: Sequence[str]) -> list[str]:
    """The official base forms: pattern.en's singulars, mistakes included ("bus" becomes "bu", which is no object)."""
    return [english.singular(word) for word in words]


def lemmas(words: Sequence[str]) -> list[str]:
    """The lemma variant's base forms: WordNet's lemma of each word as its tagged part of speech, else as a noun."""
    parts: dict[str, english.PartOfSpeech] = {"J": "a", "V": "v", "N": "n", "R": "r"}
    return [english.lemma(word, parts.get(tag[:1], "n")) for word, tag in english.tagged(words)]


def double_words(pairs: Collection[str]) -> dict[str, str]:
    """What the authors' script makes of pairs of words: `pairs` stay as they are, others become their one word."""
    return (
        dict(zip(pairs, pairs, strict=True))
        | {f"{age} {animal}": animal for age in ("baby", "adult") for animal in BABY_AND_ADULT}
        | {f"passenger {vehicle}": vehicle for vehicle in ("jet", "train")}
        | {"bow tie": "tie", "toilet seat": "toilet", "wine glas": "wine glass"}
    )


def coco_vocabulary(synonyms: Mapping[str, str], base_forms: Rule) -> Vocabulary:
    """COCO's 80 objects. A synonym that begins with a space (" motor bike") never matches, as officially."""
    pairs = double_words(PAIRS)
    return Vocabulary(synonyms=synonyms, double_words=pairs, base_forms=base_forms, gives_way={"seat": "toilet"})


def read_synonyms(text: str) -> dict[str, str]:
    """Name -> object, from the text of the authors' list: one object a line, its name first, others after ", "."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        names = line.strip().split(", ")
        found |= dict.fromkeys(names, names[0])
    return found


@cache
def coco_synonyms() -> Mapping[str, str]:
    """Name -> object, of the authors' list."""
    return {name: thing for thing, names in coco_objects()["chair"].items() for name in names}


@cache
def coco_objects() -> dict[str, Any]:
    """The table of `tasks/benchmarks/data/coco_objects.json`."""
    path = Path(__file__).parent / "data" / "coco_objects.json"
    table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return table


VARIANTS: Final[Mapping[str, Rule]] = {"official": singulars, "lemma": lemmas}
"""Name -> the base forms it takes."""

recall = coverage
"""% of the objects there that are mentioned."""

chair_s_lemma = mean_of(lambda record: record["lemma_hallucinated"] > 0, scale=100)
"""`chair_s` by the lemma variant."""

chair_i_lemma = ratio_of("lemma_hallucinated", "lemma_mentions", scale=100)
"""`chair_i` by the lemma variant."""

recall_lemma = ratio_of("lemma_covered", "lemma_objects", scale=100)
"""`recall` by the lemma variant."""

length_tokens = mean_of("lemma_tokens")
"""Mean length of a caption in words and punctuation marks, by the lemma variant (it prints a hundredth as Len)."""

IMAGES: Final = 500
"""How many images most papers describe."""
ONCE: Final = ("image", "words", "made_up")
"""What a record holds once for both variants."""
METRICS: Final = ("chair_s", "chair_i", "recall", "chair_s_lemma", "chair_i_lemma", "recall_lemma", "length")


def prompt(doc: Mapping[str, Any]) -> str:
    """The instruction most papers use."""
    return "<image>Please describe this image in detail."


def docs(dataset: "Dataset") -> "Dataset":
    """Rows with an id and the objects there for both variants; the hub's data has one list, which serves both."""
    columns = dataset.column_names
    if "id" not in columns:
        dataset = dataset.add_column("id", [str(number) for number in dataset["question_id"]])
    for name in VARIANTS:
        if name not in columns:
            dataset = dataset.add_column(name, [list(objects) for objects in dataset["gt_object"]])
    return dataset


def process_results(doc: Mapping[str, Any], results: list[str]) -> dict[str, dict[str, Any]]:
    """One record for every metric."""
    synonyms = doc.get("synonyms") or coco_synonyms()
    official, lemma = (coco_vocabulary(synonyms, base_forms) for base_forms in VARIANTS.values())
    counts = record(doc["image"], results[0], doc["official"], official)
    other = record(doc["image"], results[0], doc["lemma"], lemma)
    both = {**counts, **{f"lemma_{name}": value for name, value in other.items() if name not in ONCE}}
    return dict.fromkeys(METRICS, both)


def rows(folder: Path) -> list[dict[str, Any]]:
    """COCO's pictures in a folder that also has COCO's annotations: all, or those listed in `image_ids.json`."""
    wanted = next(iter(sorted(folder.rglob("image_ids.json"))), None)
    pictures = _pictures_by_number(folder)
    listed = read_json(wanted) if wanted else sorted(pictures)
    if not isinstance(listed, list):
        raise AnswerFileError(f"{wanted}: must be a list of image numbers")
    numbers = [_image_number(str(number), wanted or folder) for number in listed]
    truth = truths(folder, numbers, coco_synonyms())
    if unknown := [number for number in numbers if any(number not in objects for objects in truth.values())]:
        raise AnswerFileError(f"{folder}: image {unknown[0]} is not among those of gt_objects.jsonl")
    return [
        {"question_id": str(number), "image": pictures.get(number, f"{number}.jpg")}
        | {"gt_object": sorted(truth["official"][number])}
        | {name: sorted(objects[number]) for name, objects in truth.items()}
        for number in numbers
    ]


def _pictures_by_number(folder: Path) -> dict[int, str]:
    """COCO's number -> a picture's path, or COCO's name where several files may be it; other pictures are passed by."""
    found: dict[int, list[str]] = defaultdict(list)
    for file in sorted(folder.rglob("*.jpg")):
        if (digits := file.stem.rsplit("_", 1)[-1]).isdecimal():
            found[int(digits)].append(file.relative_to(folder).as_posix())
    return {number: paths[0] if len(paths) == 1 else f"{number:012d}.jpg" for number, paths in found.items()}


def _image_number(name: str, path: Path) -> int:
    """The number of a COCO picture, from its name or as it is."""
    digits = name.rsplit("_", 1)[-1].split(".")[0]
    if not digits.isdecimal():
        raise AnswerFileError(f"{path}: {name!r} is no COCO image number, nor a file name with one")
    return int(digits)


def truths(folder: Path | None, images: Collection[int], synonyms: Mapping[str, str]) -> dict[str, dict[int, set[str]]]:
    """Variant -> image -> the objects there: from `gt_objects.jsonl`, or by the variant's rule from annotations."""
    ready = sorted(folder.rglob("gt_objects.jsonl")) if folder is not None else []
    if ready:
        found: dict[str, dict[int, set[str]]] = {name: {} for name in VARIANTS}
        kinds = {"image_id": "number", "official": "texts", "nltk": "texts"}
        for row in read_fields(read_rows(ready[0]), ready[0], kinds):
            found["official"][row["image_id"]], found["lemma"][row["image_id"]] = set(row["official"]), set(row["nltk"])
        return found
    return {
        name: coco_truth(folder, images, coco_vocabulary(synonyms, base_forms)) for name, base_forms in VARIANTS.items()
    }


def coco_truth(folder: Path | None, images: Collection[int], vocabulary: Vocabulary) -> dict[int, set[str]]:
    """The objects of COCO images: those with a segmentation, and those that the five captions mention."""
    wanted = frozenset(images)
    found: dict[int, set[str]] = defaultdict(set)
    try:
        _add_objects(folder, wanted, vocabulary, found)
    except (KeyError, TypeError, AttributeError) as error:
        raise AnswerFileError(f"{folder}: COCO's annotations are not as published: {first_line(error)}") from None
    return {number: found[number] for number in wanted}


def _add_objects(
    folder: Path | None, wanted: Collection[int], vocabulary: Vocabulary, found: dict[int, set[str]]
) -> None:
    for part in ("train", "val"):
        instances = _read_annotations(folder, f"instances_{part}2014.json")
        names = {category["id"]: category["name"] for category in instances["categories"]}
        for annotation in instances["annotations"]:
            if annotation["image_id"] in wanted:
                found[annotation["image_id"]].add(vocabulary.synonyms[names[annotation["category_id"]]])
        for annotation in _read_annotations(folder, f"captions_{part}2014.json")["annotations"]:
            if annotation["image_id"] in wanted:
                found[annotation["image_id"]].update(mentions(annotation["caption"], vocabulary))


def _read_annotations(folder: Path | None, name: str) -> dict[str, Any]:
    path = reference(folder, name, what="COCO annotations (or gt_objects.jsonl, made from them)")
    whole = read_json(path)
    if not isinstance(whole, dict) or "annotations" not in whole:
        raise AnswerFileError(f"{path}: has no annotations")
    return whole


def official_answers(path: Path, references: Path | None) -> OfficialAnswers:
    """Captions {image_id, caption} as lines or a list, or under "imgToEval" as the authors' script writes them.

    `references` holds `gt_objects.jsonl`, or COCO's annotations; and the authors' `synonyms.txt`, if there is one.
    """
    captions, told = _read_captions(path)
    listed = sorted(references.rglob("synonyms.txt")) if references is not None else []
    synonyms = read_synonyms(read_text(listed[0])) if listed else dict(coco_synonyms())
    truth = truths(references, [number for number, _ in captions], synonyms)
    answered: list[Answered] = []
    for position, (number, caption) in enumerate(captions):
        if number not in truth["official"]:
            raise AnswerFileError(f"{path}: image {number} is not among those of the references")
        doc = {"image": str(number), "synonyms": synonyms} | {name: objects[number] for name, objects in truth.items()}
        answered.append(Answered(id=f"{number}/{position}", doc=doc, answer=caption))
    return OfficialAnswers(answered=answered, warnings=told, partial=len(answered) < IMAGES)


def _read_captions(path: Path) -> tuple[list[tuple[int, str]], list[str]]:
    """Image numbers with their captions, and what to say of them."""
    if path.is_dir():
        raise AnswerFileError(f"{path}: must be a file of captions")
    rows = read_rows(path)
    if len(rows) == 1 and isinstance(evaluated := rows[0].get("imgToEval"), dict):
        if not all(isinstance(row, dict) for row in evaluated.values()):
            raise AnswerFileError(f"{path}: imgToEval must hold an object an image")
        rows = [{"image_id": number, **row} for number, row in evaluated.items()]
    numbers = []
    for row in rows:
        number = row["image_id"] if row.get("image_id") is not None else row.get("image")
        if number is None:
            raise AnswerFileError(f"{path}: a row lacks image_id; it has {', '.join(row)}")
        numbers.append(_image_number(str(number), path))
    asked = prompt({}).removeprefix("<image>")
    captions = find_answers(rows, path, ANSWER_FIELDS, [asked] * len(rows))
    kept, told = keep_once(numbers, captions, path)
    told += describe_missing(captions[place] for place in kept)
    told += describe_count(len(kept), "captions", IMAGES)
    return [(numbers[place], captions[place]) for place in kept], told
