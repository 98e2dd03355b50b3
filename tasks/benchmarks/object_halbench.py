"""Object HalBench: which objects does a detailed answer speak of that are not in the image? CHAIR with objects
extracted by a judge.

    record("1", ["dog", "car"], {"dog"}, "A dog beside a car.")     # {"hallucinated": 1, "mentions": 2, ...}

The judge lists the objects of an answer, each of them is brought to nouns (by spaCy's en_core_web_trf where it is
installed, else by NLTK's tagger and WordNet's lemmas; a record says which), and what of that names a COCO object is a
mention. Where nobody extracted objects, the script's other path reads the words of the answer themselves, as CHAIR
does, with WordNet's noun lemmas.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final, TypeGuard

from support.errors import AnswerFileError
from tasks.answer import FailedAnswer
from tasks.answer_files import (
    ANSWER_FIELDS,
    QUESTION_FIELDS,
    Answered,
    OfficialAnswers,
    describe_count,
    describe_missing,
    find_answers,
    keep_once,
    read_fields,
    read_rows,
    read_text,
    reference,
    values,
)
from tasks.benchmarks import chair, english
from tasks.judges.protocol import JudgeReply, JudgeSession, Sampling, as_data, fill, scores_replies, template
from tasks.metric import Metric, mean_of, ratio_of

SAMPLING: Final = Sampling(temperature=0.2, max_tokens=512)
"""What the authors' script asks of its judge."""
SHORT: Final = 3
"""An answer of so few words names no objects; the judge isn't asked."""
NOUN_TAGS: Final = ("NNP", "NNPS", "NN", "NNS")

Nouns = Callable[[str], list[tuple[str, bool]]]
"""A phrase -> the base form of each of its words, and whether it is a noun."""


class Extraction(JudgeReply):
    """The COCO objects that an answer names; the rating is their number, None where it is unknown."""

    named: list[str]
    answer: str
    nouns: str
    """Who read the nouns: "spacy", "nltk", or "given" where the objects came so, "words" where the answer's own words
    were read."""


def vocabulary_of(synonyms: Mapping[str, str]) -> chair.Vocabulary:
    """CHAIR's vocabulary with the refined list: every name of several words counts as one."""
    pairs = [name for name in synonyms if " " in name]
    return chair.Vocabulary(
        synonyms=synonyms,
        double_words=chair.double_words([*pairs, "home plate", "train track"]),
        base_forms=lambda words: [english.lemma(word) for word in words],
        gives_way={"seat": "toilet"},
    )


@cache
def refined() -> chair.Vocabulary:
    """The vocabulary of the authors' refined list."""
    synonyms = dict(chair.coco_synonyms())
    for thing, change in chair.coco_objects()["object_halbench"].items():
        synonyms |= dict.fromkeys(change["also"], thing)
        for name in change["not"]:
            del synonyms[name]
    return vocabulary_of(synonyms)


def record(image: str, named: Sequence[str], truth: Collection[str], answer: str) -> dict[str, Any]:
    """The counts of one answer that names the COCO objects `named`."""
    present = frozenset(truth)
    return {
        "image": image,
        "hallucinated": sum(name not in present for name in named),
        "mentions": len(named),
        "covered": len(present.intersection(named)),
        "objects": len(present),
        "words": len(answer.strip().split(" ")),
        "made_up": [name for name in dict.fromkeys(named) if name not in present],
    }


# The authors' script takes the ratio first and a hundred times that after; the other way round, a last digit can come
# out otherwise.
def _percent(ratio: Metric) -> Metric:
    return Metric(counts=ratio.counts, value=lambda sums: 100 * (sums[..., 0] / sums[..., 1]), digits=2)


def _percent_left(ratio: Metric) -> Metric:
    """What is missing to 100%."""
    return Metric(counts=ratio.counts, value=lambda sums: 100 * (1 - sums[..., 0] / sums[..., 1]), digits=2)


response_hallucination = _percent(ratio_of(lambda r: r["hallucinated"] > 0, lambda r: r["mentions"] > 0))
"""% of the answers that name any COCO object which name one that is not there."""
object_hallucination = _percent(ratio_of("hallucinated", "mentions"))
"""% of named objects that are not there."""
response_correct = _percent_left(response_hallucination)
object_correct = _percent_left(object_hallucination)
object_recall = _percent(ratio_of("covered", "objects"))
"""% of the objects there that are named."""

length = mean_of("words", digits=2)
"""Mean length of an answer in words."""

METRICS: Final = tuple(
    "response_hallucination object_hallucination response_correct object_correct object_recall length".split()
)


def judge(answers: Sequence[str], docs: Sequence[Mapping[str, Any]], session: JudgeSession) -> list[Extraction]:
    """The objects of each answer by the judge; nothing is asked about answers of `SHORT` words or none."""
    long = [index for index, answer in enumerate(answers) if len(answer.split()) > SHORT]
    replies: list[str | None] = [None if isinstance(answer, FailedAnswer) else "[]" for answer in answers]
    asked = session.ask_about(
        [answers[index] for index in long],
        [docs[index] for index in long],
        lambda doc, answer: (prompt_for(doc["question"], answer), None),
        SAMPLING,
    )
    for index, reply in zip(long, asked, strict=True):
        replies[index] = reply
    return [_read_extraction(str(answer), reply) for answer, reply in zip(answers, replies, strict=True)]


def _read_extraction(answer: str, reply: str | None) -> Extraction:
    """The COCO objects in a judge's reply; None: there is no reply."""
    objects = None if reply is None else parse_objects(reply)
    named = None if objects is None else chair.objects_in(words_of_objects(objects), refined())
    return extraction(named, answer, noun_reader()[0], reply or "")


def extraction(named: list[str] | None, answer: str, nouns: str, text: str = "") -> Extraction:
    """The objects `named` in `answer`, None where nobody knows; `text` is the judge's reply."""
    rating = None if named is None else len(named)
    return Extraction(rating=rating, text=text, named=named or [], answer=answer, nouns=nouns)


def prompt_for(question: str, answer: str) -> str:
    """What the judge is asked about an answer."""
    return fill(template("object_halbench"), data=as_data({"question": question, "answer": answer}))


def parse_objects(reply: str) -> list[str] | None:
    """The list in a judge's reply: in a fenced block, or on its last line; None where there is none."""
    block = re.search(r"```(?:json)?[ \t]*\n(.*?)\n[ \t]*```", reply, re.DOTALL | re.IGNORECASE)
    for text in (block[1] if block else "", reply.strip().split("\n")[-1]):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            continue
        return found if _texts(found) else None
    return None


def _texts(value: object) -> TypeGuard[list[str]]:
    """Whether `value` is a list of texts."""
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def words_of_objects(objects: Iterable[str]) -> list[str]:
    """What extracted objects are counted as: the listed pairs of words in each, else its runs of nouns; no doubles."""
    _, nouns = noun_reader()
    pairs = refined().double_words
    found: list[str] = []
    for name in objects:
        tagged = nouns(f"a {name}")
        found += _merge_pairs([word for word, _ in tagged], pairs) or _join_nouns(tagged)
    return list(dict.fromkeys(found))


def _merge_pairs(words: Sequence[str], pairs: Mapping[str, str]) -> list[str]:
    found, position = [], 0
    while position < len(words):
        merged = pairs.get(" ".join(words[position : position + 2]))
        if merged is not None:
            found.append(merged)
        position += 1 if merged is None else 2
    return found


def _join_nouns(tagged: Iterable[tuple[str, bool]]) -> list[str]:
    runs: list[list[str]] = [[]]
    for word, noun in tagged:
        if noun:
            runs[-1].append(word)
        elif runs[-1]:
            runs.append([])
    return [" ".join(run) for run in runs if run]


@cache
def noun_reader() -> tuple[str, Nouns]:
    """Who reads the nouns of an extracted object: "spacy" as for the authors, "nltk" where its model is missing."""
    try:
        model = import_module("spacy").load("en_core_web_trf")
    except (ImportError, OSError):
        return "nltk", _read_nouns_with_nltk
    return "spacy", lambda phrase: [(token.lemma_, token.tag_ in NOUN_TAGS) for token in model(phrase)]


def _read_nouns_with_nltk(phrase: str) -> list[tuple[str, bool]]:
    return [(english.lemma(word.lower()), tag in NOUN_TAGS) for word, tag in english.tagged(english.tokens(phrase))]


@scores_replies
def process_results(doc: Mapping[str, Any], results: list[Extraction]) -> dict[str, dict[str, Any]]:
    """One record for every metric; nothing where the judge's reply holds no list."""
    found = results[0]
    if found["rating"] is None:
        return {}
    counts = record(doc["image"], found["named"], doc["gt_objects"], found["answer"])
    return dict.fromkeys(METRICS, counts | {"nouns": found["nouns"]})


SIZE: Final = 300
QUESTIONS: Final = "obj_halbench_300_with_image.jsonl"
TRUTH: Final = "gt_objects.jsonl"


def rows(folder: Path) -> list[dict[str, Any]]:
    """The questions of the authors' file (images in it as base64), their objects from it or from COCO's annotations."""
    path = folder if folder.is_file() else reference(folder, QUESTIONS, what="questions with their images")
    found = read_rows(path)
    numbers = [_image_id(row, path) for row in found]
    truth = _read_truth(found, numbers, path.parent if folder.is_file() else folder, refined())
    return [
        {"id": f"{number}/{position}", "image": row.get("image")}
        | {"question": _question_of(row, path), "gt_objects": sorted(truth[position])}
        for position, (row, number) in enumerate(zip(found, numbers, strict=True))
    ]


def _image_id(row: Mapping[str, Any], path: Path) -> int:
    try:
        return int(str(row["image_id"]).rsplit("_", 1)[-1].split(".")[0])
    except (KeyError, ValueError):
        raise AnswerFileError(f"{path}: a row lacks the number image_id; it has {', '.join(row)}") from None


def _question_of(row: Mapping[str, Any], path: Path) -> str:
    found = row.get("question", row.get("prompt"))
    if not isinstance(found, str):
        raise AnswerFileError(f"{path}: a row has neither question nor prompt; it has {', '.join(row)}")
    return found


def _read_truth(
    found: Sequence[Mapping[str, Any]], numbers: Sequence[int], folder: Path | None, vocabulary: chair.Vocabulary
) -> list[Collection[str]]:
    """The objects of each row's image: by the row, or by `gt_objects.jsonl` or COCO's annotations in `folder`."""
    if all(_texts(row.get("gt_objects")) for row in found):
        return [frozenset(row["gt_objects"]) for row in found]
    ready = sorted(folder.rglob(TRUTH)) if folder is not None else []
    if not ready:
        made = chair.coco_truth(folder, set(numbers), vocabulary)
        return [made[number] for number in numbers]
    listed: dict[int, Collection[str]] = {}
    given = [{"object_halbench": row.get("nltk"), **row} for row in read_rows(ready[0])]
    for row in read_fields(given, ready[0], {"image_id": "number", "object_halbench": "texts or nothing"}):
        listed[row["image_id"]] = frozenset(row["object_halbench"])
    unknown = next((number for number in numbers if number not in listed), None)
    if unknown is not None:
        raise AnswerFileError(f"{ready[0]}: has no objects of image {unknown}")
    return [listed[number] for number in numbers]


def official_answers(path: Path, references: Path | None) -> OfficialAnswers:
    """Answers {image_id, caption}, a line each, perhaps with extracted objects (`objs`); or the script's review.

    The objects in the image are each row's `gt_objects`, or come from `references` as for CHAIR; so does
    `synonyms_refine.txt`. Rows without an image_id answer the questions of the authors' file in `references`, in its
    order. Where a row has its question and no `objs`, a judge may extract them.
    """
    if path.is_dir():
        raise AnswerFileError(f"{path}: must be a file of answers")
    found = _add_image_ids(_unpack_review(read_rows(path), path), references)
    listed = sorted(references.rglob("synonyms_refine.txt")) if references is not None else []
    synonyms = (
        {name.strip(): thing for name, thing in chair.read_synonyms(read_text(listed[0])).items()} if listed else None
    )
    vocabulary = vocabulary_of(synonyms) if synonyms else refined()
    numbers = [_image_id(row, path) for row in found]
    truth = _read_truth(found, numbers, references, vocabulary)
    asked = [next((row[name] for name in QUESTION_FIELDS if isinstance(row.get(name), str)), None) for row in found]
    texts = find_answers(found, path, ANSWER_FIELDS, asked)
    said = [
        text if isinstance(text, FailedAnswer) else (text, row.get("objs"))
        for text, row in zip(texts, found, strict=True)
    ]
    kept, told = keep_once(list(zip(numbers, asked, strict=True)), said, path)
    told += describe_count(len(kept), "answers", SIZE)
    told += describe_missing(texts[place] for place in kept)
    answered: list[Answered] = []
    for position in kept:
        row, number, text = found[position], numbers[position], texts[position]
        objects = row.get("objs")
        if not (objects is None or _texts(objects)):
            raise AnswerFileError(f"{path}: the objs of image {number} are no list of texts: {objects!r}")
        doc = {"image": str(number), "gt_objects": truth[position], "question": asked[position]}
        id = f"{number}/{position}"
        if isinstance(text, FailedAnswer):
            answered.append(Answered(id=id, doc=doc, answer=text))
            continue
        text = text.replace("Assistant:", "").strip()
        if objects is not None:
            answer = extraction(chair.objects_in(objects, vocabulary), text, "given")
        else:
            answer = extraction(chair.mentions(text, vocabulary), text, "words")
        may_judge = objects is None and doc["question"] is not None
        answered.append(Answered(id=id, doc=doc, answer=answer, text=text, judge_instead=may_judge))
    return OfficialAnswers(
        answered=answered,
        warnings=[*told, *_describe_sources(answered, judged=False)],
        warnings_when_judged=[*told, *_describe_sources(answered, judged=True)],
        partial=len(kept) < SIZE,
    )


def _describe_sources(answered: Sequence[Answered], *, judged: bool) -> Iterator[str]:
    """Where the objects of how many answers come from."""
    there = [sample for sample in answered if not isinstance(sample.answer, FailedAnswer)]
    sources = Counter("judge" if judged and sample.judge_instead else str(sample.answer["nouns"]) for sample in there)
    for source, what in (
        ("given", "have their objects extracted in the file (objs)"),
        ("judge", f"have no extracted objects (objs): the judge lists them, nouns are read by {noun_reader()[0]}"),
        ("words", "have no extracted objects (objs): their own words were read, as the script does without its judge"),
    ):
        if sources[source]:
            yield f"{sources[source]} of {len(answered)} answers {what}"


def _unpack_review(found: list[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """The rows of the file that the authors' script writes (hall_*.json); any others as they are."""
    if len(found) != 1 or "sentences" not in found[0]:
        return found
    sentences = found[0]["sentences"]
    if not isinstance(sentences, list) or not all(isinstance(row, dict) for row in sentences):
        raise AnswerFileError(f"{path}: its sentences must be a list of objects")
    fields = (values(row, path, "image_id", "caption", "words", "mscoco_gt_words") for row in sentences)
    return [dict(zip(("image_id", "caption", "objs", "gt_objects"), row, strict=True)) for row in fields]


def _add_image_ids(found: list[dict[str, Any]], references: Path | None) -> list[dict[str, Any]]:
    """The rows, each with its image_id: the script takes it from the question in the same place."""
    if not found or "image_id" in found[0]:
        return found
    path = reference(references, QUESTIONS, what="questions that answers without image_id belong to")
    asked = read_rows(path)
    if len(asked) < len(found):
        raise AnswerFileError(f"{path}: has {len(asked)} questions, but there are {len(found)} answers")
    return [{"image_id": _image_id(question, path), **row} for question, row in zip(asked, found, strict=False)]
