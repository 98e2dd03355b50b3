"""MM-Vet: 218 open questions that need one or several of six capabilities; a judge grades each answer from 0.0 to 1.0.

    parse_grade("0.5 since")        # 0.5
    total(records)                  # 100 * the mean grade

A record is {image, capabilities, grade, grades}: several runs of the judge give several grades, whose mean counts. A
reply in which no grade can be read after five tries is a 0, as in the authors' script, and the record says that it is
`unrated`.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from support.errors import AnswerFileError
from tasks.answer import FailedAnswer
from tasks.answer_files import (
    Answered,
    OfficialAnswers,
    answer_in,
    check_any,
    describe_missing,
    read_fields,
    read_json,
    reference,
)
from tasks.judges.protocol import JudgeReply, JudgeSession, Question, Sampling, as_data, fill, scores_replies, template
from tasks.metric import Metric, Record, mean_of

if TYPE_CHECKING:
    from datasets import Dataset

CAPABILITIES: Final = ("rec", "ocr", "know", "gen", "spat", "math")
INTEGRATIONS: Final = tuple(
    """
    rec_know_gen rec ocr_spat ocr_spat_math rec_spat ocr ocr_math rec_know rec_ocr_know_gen rec_ocr_gen_spat
    rec_ocr_spat rec_ocr ocr_know_spat rec_know_spat ocr_gen_spat rec_ocr_spat_math
    """.split()
)
"""Which capabilities the questions need together, the most frequent first."""
TEMPERATURES: Final = (0.0, 0.0, 0.5, 1.0, 1.5)
"""Of the first try and of those after a reply that can't be read."""
MAX_TOKENS: Final = 3
QUESTIONS: Final = "mm-vet.json"
REMINDER: Final = "\nPredict the correctness of the answer (digit): "


def parse_grade(reply: str) -> float | None:
    """The official reading: what stands before the first space is a number from 0 to 1."""
    try:
        grade = float(reply.split(" ")[0].strip())
    except ValueError:
        return None
    return grade if 0.0 <= grade <= 1.0 else None


def judge(answers: Sequence[str], docs: Sequence[Mapping[str, Any]], session: JudgeSession) -> list[JudgeReply]:
    """The judge's grades: up to five tries, each later one with a reminder and a higher temperature."""
    theirs = session.official_prompt("mmvet")
    graded = [JudgeReply(rating=None, text="") for _ in answers]
    unread = list(range(len(answers)))
    for number, temperature in enumerate(TEMPERATURES):
        replies = session.ask_about(
            [answers[index] for index in unread],
            [docs[index] for index in unread],
            partial(_question, theirs=theirs, reminder=REMINDER if number else ""),
            Sampling(temperature=temperature, max_tokens=MAX_TOKENS, cut_is_whole=True),
        )
        for index, reply in zip(unread, replies, strict=True):
            graded[index] = JudgeReply(rating=parse_grade(reply or ""), text="" if reply is None else reply or " ")
        # A call that failed left nothing to read, and is not made again.
        unread = [index for index in unread if graded[index]["rating"] is None and graded[index]["text"]]
    return graded


def _question(doc: Mapping[str, Any], answer: str, *, theirs: str | None, reminder: str) -> Question:
    return prompt_for(doc, answer, theirs) + reminder, None


def prompt_for(doc: Mapping[str, Any], answer: str, theirs: str | None = None) -> str:
    """What the judge is asked about an answer; in the authors' words where their template is given."""
    if theirs is not None:
        truth = doc["answer"].replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
        return theirs + "\n" + " | ".join([doc["question"], truth, answer, ""])
    truth = doc["answer"].replace("<AND>", " AND ").replace("<OR>", " OR ")
    return fill(template("mmvet"), data=as_data({"question": doc["question"], "ground_truth": truth, "answer": answer}))


def mean_grade(fits: Callable[[Record], bool]) -> Metric:
    """100 times the mean grade of the records that fit."""
    return mean_of("grade", scale=100, among=fits, digits=1)


def of_capability(name: str) -> Metric:
    """Over all questions that need a capability, among others."""
    return mean_grade(lambda record: name in record["capabilities"])


def of_integration(name: str) -> Metric:
    """Over the questions that need exactly these capabilities."""
    wanted = sorted(name.split("_"))
    return mean_grade(lambda record: sorted(record["capabilities"]) == wanted)


total = mean_grade(lambda record: True)
rec, ocr, know, gen, spat, math = (of_capability(name) for name in CAPABILITIES)
int_rec_know_gen, int_rec, int_ocr_spat, int_ocr_spat_math, int_rec_spat, int_ocr, int_ocr_math, int_rec_know = (
    of_integration(name) for name in INTEGRATIONS[:8]
)
int_rec_ocr_know_gen, int_rec_ocr_gen_spat, int_rec_ocr_spat, int_rec_ocr, int_ocr_know_spat, int_rec_know_spat = (
    of_integration(name) for name in INTEGRATIONS[8:14]
)
int_ocr_gen_spat, int_rec_ocr_spat_math = (of_integration(name) for name in INTEGRATIONS[14:])

METRICS: Final = ("total", *CAPABILITIES, *(f"int_{name}" for name in INTEGRATIONS))


def of_run(number: int) -> Metric:
    """The total of one of the judge's runs."""
    return mean_of(lambda record: float(record["grades"][number]), scale=100, digits=1)


def spread(runs: int) -> Metric:
    """The standard deviation of the totals of so many runs."""
    return Metric(
        counts=lambda records: (*(sum(r["grades"][run] for r in records) for run in range(runs)), len(records)),
        value=lambda sums: np.asarray((100 * sums[..., :runs] / sums[..., runs:]).std(axis=-1)),
        digits=1,
    )


def docs(dataset: "Dataset") -> "Dataset":
    """Rows with an id, and their capabilities as a list."""
    listed = [_split_capabilities(value) for value in dataset["capability"]]
    kept = dataset.remove_columns([name for name in ("id", "capability") if name in dataset.column_names])
    return kept.add_column("id", [str(number) for number in dataset["question_id"]]).add_column("capability", listed)


def _split_capabilities(value: str | Sequence[str]) -> list[str]:
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else list(value)


def rows(path: Path) -> list[dict[str, Any]]:
    """The questions of the authors' mm-vet.json, or in a folder with it; their pictures lie somewhere beside it."""
    file = reference(path, QUESTIONS, what="questions with their pictures") if path.is_dir() else path
    found = _read_questions(file)
    return [{"question_id": number, "image": row["imagename"], **row} for number, row in found.items()]


@scores_replies
def process_results(doc: Mapping[str, Any], results: list[JudgeReply]) -> dict[str, dict[str, Any]]:
    """One record for every metric; nothing where the judge could not be asked."""
    verdict = results[0]
    if verdict["rating"] is None and not verdict["text"]:
        return {}
    grade = verdict["rating"] or 0.0
    grades = list(doc.get("grades") or [grade])
    capabilities = sorted(_split_capabilities(doc["capability"]))
    record: dict[str, Any] = {"image": doc["image"], "capabilities": capabilities, "grade": grade, "grades": grades}
    record["bard"] = bool(doc.get("bard"))
    if verdict["rating"] is None:
        record["unrated"] = True
    return dict.fromkeys(METRICS, record)


def official_answers(path: Path, references: Path | None) -> OfficialAnswers:
    """The script's grade file (question id -> model, content, score of each run), or a prediction file (id -> answer),
    still to be judged.

    `references` holds mm-vet.json, and bard_set.json where the scores of that subset are wanted, too.
    """
    file = reference(references, QUESTIONS, what="questions with their capabilities")
    questions = _read_questions(file)
    if path.is_dir():
        raise AnswerFileError(f"{path}: must be the file of grades or predictions")
    given = read_json(path)
    if not isinstance(given, dict) or not given:
        raise AnswerFileError(f"{path}: must be an object with a member for each question")
    subset = sorted(references.rglob("bard_set.json")) if references is not None else []
    bard = frozenset(map(str, read_json(subset[0]))) if subset else frozenset()
    answered: list[Answered] = []
    for number, value in given.items():
        if number not in questions:
            raise AnswerFileError(f"{path}: there is no question {number!r}")
        doc = {**questions[number], "image": questions[number]["imagename"], "bard": number in bard}
        if not isinstance(value, dict):
            answered.append(Answered(id=number, doc=doc, answer=answer_in(value)))
            continue
        grades, replies = _read_grades(value, path, number)
        verdict = JudgeReply(rating=sum(grades) / len(grades), text=" / ".join(replies) or " ")
        answered.append(Answered(id=number, doc={**doc, "grades": grades}, answer=verdict))
    check_any([sample.answer for sample in answered], path)
    missing = len(questions) - len(answered)
    warnings = [f"{missing} of {len(questions)} questions are not in the file"] if missing else []
    warnings += describe_missing(sample.answer for sample in answered)
    runs = {len(sample.doc.get("grades", ())) for sample in answered if not isinstance(sample.answer, FailedAnswer)}
    if len(runs) > 1:
        several = ", ".join(map(str, sorted(runs)))
        raise AnswerFileError(f"{path}: questions have different numbers of grades: {several}")
    (count,) = runs
    more = {"std": spread(count), **{f"run_{run + 1}": of_run(run) for run in range(count)}} if count else {}
    if bard and count:
        more |= {"bard_total": mean_grade(lambda r: bool(r["bard"]))}
        more |= {f"bard_{name}": _mean_grade_in_bard_set(name) for name in CAPABILITIES}
    return OfficialAnswers(answered=answered, warnings=warnings, partial=missing > 0, more=more)


def _read_questions(file: Path) -> dict[str, dict[str, Any]]:
    """Question id -> question, of the authors' file."""
    found = read_json(file)
    if not isinstance(found, dict) or not all(isinstance(row, dict) for row in found.values()):
        raise AnswerFileError(f"{file}: must be an object with an object for each question")
    kinds = {"imagename": "text", "question": "text", "answer": "text"}
    kinds["capability"] = f"several of {' '.join(CAPABILITIES)}"
    return dict(zip(found, read_fields(list(found.values()), file, kinds), strict=True))


def _mean_grade_in_bard_set(capability: str) -> Metric:
    return mean_grade(lambda record: bool(record["bard"]) and capability in record["capabilities"])


def _read_grades(value: Any, path: Path, number: str) -> tuple[list[float], list[str]]:
    match value:
        case {"score": [*grades]} if grades and all(map(_is_grade, grades)):
            replies = value.get("content")
            return [float(grade) for grade in grades], list(map(str, replies if isinstance(replies, list) else ()))
    raise AnswerFileError(f"{path}: question {number}: must have a list `score` of grades 0-1, or be the answer's text")


def _is_grade(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
