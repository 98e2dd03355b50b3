"""MMHal-Bench: 96 open questions of eight types; a judge rates each answer 0-6, and less than 3 says that it
hallucinates.

    parse_rating("It names a cap that is not there. Rating: 1")     # 1
    score([{"image": "1", "type": "attribute", "rating": 1}])       # 1.0

A record is {image, type, rating}. The official script gives an answer whose reply it can't read a 0; so does the task,
and the record says that it was `unrated`. An answer about which the judge could not be asked at all stays unscored.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from support.errors import AnswerFileError, DataError
from support.records import TEXT, columns, suffix
from tasks.answer_files import (
    ANSWER_FIELDS,
    Answered,
    OfficialAnswers,
    describe_missing,
    describe_unread,
    find_answers,
    read_fields,
    read_rows,
)
from tasks.judges.protocol import JudgeReply, JudgeSession, as_data, fill, scores_replies, template
from tasks.metric import Metric, mean_of

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image

Doc = Mapping[str, Any]
"""One question, with the fields of the published data: question_type, image_content, question, gt_answer."""

TYPES: Final = ("attribute", "adversarial", "comparison", "counting", "relation", "environment", "holistic", "other")
"""In the order in which the published data repeats them."""

RATINGS: Final = range(7)
FAITHFUL_FROM: Final = 3
BOUNDS: Final = (0.0, 6.0)
"""The lowest rating that says: no hallucination."""


def parse_rating(reply: str) -> int | None:
    """The only k from 0 to 6 for which "rating: k" occurs, in any case, else None.

    The official rule, which looks for substrings: "Rating: 10" is 1, "Rating: 5.5" is 5, and "Rating:4" is nothing.
    """
    lowered = reply.lower()
    found = [rating for rating in RATINGS if f"rating: {rating}" in lowered]
    return found[0] if len(found) == 1 else None


def judge(
    answers: Sequence[str],
    docs: Sequence[Doc],
    session: JudgeSession,
    image_of: "Callable[[Doc], Image | None]" = lambda doc: None,
) -> list[JudgeReply]:
    """The judge's ratings, from the texts alone as the official protocol has it, or with an image beside each."""
    theirs = session.official_prompt("mmhal")
    replies = session.ask_about(answers, docs, lambda doc, answer: (prompt(doc, answer, theirs), image_of(doc)))
    return [
        JudgeReply(rating=None, text="") if reply is None else JudgeReply(rating=parse_rating(reply), text=reply)
        for reply in replies
    ]


def prompt(doc: Doc, answer: str, theirs: str | None = None) -> str:
    """What the judge is asked about `answer`; in the authors' words where their template is given."""
    if theirs is not None:
        return theirs.format(", ".join(doc["image_content"]), doc["question"], doc["gt_answer"], answer)
    data = {
        "image_contents": list(doc["image_content"]),
        "question": doc["question"],
        "standard_answer": doc["gt_answer"],
        "model_answer": answer,
    }
    return fill(template("mmhal"), data=as_data(data))


def score_of(type: str) -> Metric:
    """Mean rating, 0-6, of the answers to questions of one type."""
    return mean_of("rating", among=lambda record: bool(record["type"] == type), bounds=BOUNDS)


score = mean_of("rating", bounds=BOUNDS)
"""Mean rating, 0-6."""

hallucination_rate = mean_of(lambda record: record["rating"] < FAITHFUL_FROM, scale=100)
"""% of answers rated below 3."""

score_attribute, score_adversarial, score_comparison, score_counting = (score_of(type) for type in TYPES[:4])
score_relation, score_environment, score_holistic, score_other = (score_of(type) for type in TYPES[4:])

informativeness = Metric(
    counts=lambda records: (
        sum(r["rating"] - FAITHFUL_FROM if r["rating"] >= FAITHFUL_FROM else r["rating"] for r in records),
        len(records),
    ),
    value=lambda sums: 100 * sums[..., 0] / sums[..., 1] / 3,
)
"""How much the answers say, hallucinated or not, in % of the most that could be (RLHF-V's reading of the ratings)."""

METRICS: Final = ("score", "hallucination_rate", *(f"score_{type}" for type in TYPES), "informativeness")
SIZE: Final = 96
REPLY_FIELDS: Final = ("reply", "judge_reply", "review", "gpt_review")
QUESTION: Final = {
    "question_type": f"one of {' '.join(TYPES)}",
    **{"image_content": "text or texts", "question": "text", "gt_answer": "text"},
}
"""What a question of the published data holds."""


def docs(dataset: "Dataset") -> "Dataset":
    """Rows with an id: their place in the fixed order."""
    kept = dataset.remove_columns([name for name in ("id",) if name in dataset.column_names])
    return kept.add_column("id", [str(index) for index in range(len(kept))])


def rows(folder: Path) -> list[dict[str, Any]]:
    """The questions in a folder or zip with the benchmark's response_template.json and its pictures, or of that file;
    rows may hold their pictures, as RLAIF-V's do."""
    from support.image_folders import ImageTree, there
    from support.image_names import AMBIGUOUS

    file = _find_questions(folder) if folder.is_dir() else folder
    pictures = ImageTree(folder if folder.is_dir() or folder.suffix == ".zip" else folder.parent)
    found = []
    for row in read_rows(file):
        if row.get("image") is not None:
            found.append(row)
            continue
        # Addresses at their makers: only the file's name counts.
        named = pictures.find(str(row.get("image_src", "")).rsplit("/", 1)[-1])
        by_id = pictures.find(str(row.get("image_id")))
        image = named if there(named) or named.problem == AMBIGUOUS or not there(by_id) else by_id
        found.append({**row, "image": image})
    return found


def _find_questions(folder: Path) -> Path:
    """The template, or another file with the benchmark's questions, wherever in the folder it is."""
    for name in ("*template*.json", "*.json*"):
        for file in sorted(folder.rglob(name)):
            if suffix(file, TEXT) and _holds_questions(file):
                return file
    raise AnswerFileError(f"{folder}: has no response_template.json")


def _holds_questions(file: Path) -> bool:
    try:
        return set(QUESTION) <= set(columns(file))
    except DataError:
        return "template" in file.name  # whoever reads it says what is wrong


@scores_replies
def process_results(doc: Doc, results: list[JudgeReply]) -> dict[str, dict[str, Any]]:
    """One record for every metric; nothing where the judge could not be asked."""
    verdict = results[0]
    if verdict["rating"] is None and not verdict["text"]:
        return {}
    record: dict[str, Any] = {"image": doc["image"], "type": doc["question_type"], "rating": verdict["rating"] or 0}
    if verdict["rating"] is None:
        record["unrated"] = True
    return dict.fromkeys(METRICS, record)


def official_answers(path: Path, references: Path | None) -> OfficialAnswers:
    """The judge's 96 replies as the official script stores them, in the order of the questions: types go round.

    Or the answers themselves (the template with `model_answer`), which are still to be judged.
    """
    if path.is_dir():
        raise AnswerFileError(f"{path}: must be the file with the judge's replies, or the answers")
    found = read_rows(path)
    if len(found) != SIZE:
        raise AnswerFileError(f"{path}: has {len(found)} rows, the benchmark {SIZE} in a fixed order")
    _check_repeats(found, path)
    replies = [_reply(row, f"{path}: row {place}") for place, row in enumerate(found, start=1)]
    if all(reply is None for reply in replies):
        return _to_judge(found, path)
    types = [TYPES[index % len(TYPES)] for index in range(SIZE)]
    if any("question_type" in row for row in found):  # then they may be in another order
        kind = {"question_type": QUESTION["question_type"]}
        types = [row["question_type"] for row in read_fields(found, path, kind)]
    answered: list[Answered] = []
    for index, reply in enumerate(replies):
        if reply is None:
            raise AnswerFileError(f"{path}: row {index + 1} has no judge's reply; it has {', '.join(found[index])}")
        doc = {"image": str(index), "question_type": types[index]}
        verdict = JudgeReply(rating=parse_rating(reply), text=reply or " ")  # an empty reply is a reply
        answered.append(Answered(id=str(index), doc=doc, answer=verdict))
    unread = [sample.id for sample in answered if sample.answer["rating"] is None]
    models = sorted({str(row.get("model")) for row in found if row.get("model")})
    warnings = describe_unread(unread, SIZE, "no rating, or several, in the replies", "counted as 0")
    return OfficialAnswers(answered=answered, warnings=[*warnings, *(f"judged by {model}" for model in models)])


def _check_repeats(found: Sequence[Mapping[str, Any]], path: Path) -> None:
    """AnswerFileError where two rows name the same question about the same image: another one is missing then."""
    seen: dict[tuple[Any, ...], int] = {}
    for place, row in enumerate(found, start=1):
        key = tuple(str(row.get(name) or "") for name in ("image_id", "image_src", "question"))
        if key[2] and (key[0] or key[1]) and seen.setdefault(key, place) != place:
            raise AnswerFileError(f"{path}: rows {seen[key]} and {place} are the same question, so that one is missing")


def _to_judge(found: Sequence[Mapping[str, Any]], path: Path) -> OfficialAnswers:
    """Answers that have no rating yet."""
    rows = read_fields(found, path, QUESTION)
    answers = find_answers(rows, path, ANSWER_FIELDS, [row["question"] for row in rows])
    docs = [{"image": str(index), **{name: row[name] for name in QUESTION}} for index, row in enumerate(rows)]
    answered = [
        Answered(id=str(index), doc=doc, answer=answer)
        for index, (doc, answer) in enumerate(zip(docs, answers, strict=True))
    ]
    return OfficialAnswers(answered=answered, warnings=describe_missing(answers))


def _reply(row: Mapping[str, Any], where: str) -> str | None:
    """The text of a reply, in the API's form or beside an answer."""
    found = {name: row[name] for name in REPLY_FIELDS if isinstance(row.get(name), str)}
    match row:
        case {"choices": [{"message": {"content": str(text)}}, *_]}:
            found["choices"] = text
    if len(set(found.values())) > 1:
        raise AnswerFileError(f"{where} has {' and '.join(found)}: which is the judge's reply? Leave one")
    return next(iter(found.values()), None)
