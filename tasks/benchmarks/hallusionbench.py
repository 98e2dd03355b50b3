"""HallusionBench: yes/no questions on illusions, charts, maps and more, each on a figure and on a changed figure.

    parse_verdict("Incorrect.")     # 0; correct 1, unclear 2
    qacc(records)                   # % of questions right on all figures of their set

A record is {image, cluster, category, subcategory, figure, question, visual_input, truth, check, correct, same, words}.
A judge checks each answer against the true one; "unclear" counts as right only where a question that needs an image got
none. Question pairs span the figures of a set, so the set is what was drawn by chance.

All 1129 questions are the task `hallusionbench`; `hallusionbench_image` has the 951 with an image, which is what most
toolkits score.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from support.errors import AnswerFileError
from tasks.answer import FailedAnswer
from tasks.answer_files import (
    Answered,
    OfficialAnswers,
    answer_in,
    check_any,
    covering,
    describe_missing,
    keep_once,
    read_fields,
    read_rows,
    reference,
)
from tasks.columns import read_yes_no
from tasks.judges.protocol import JudgeReply, JudgeSession, Sampling, as_data, fill, scores_replies, template
from tasks.metric import Metric, Record, mean_of

if TYPE_CHECKING:
    from datasets import Dataset

SAMPLING: Final = Sampling(temperature=None)
"""The authors leave the judge's temperature at its server's default."""
WRONG, RIGHT, UNCLEAR = 0, 1, 2
DEPENDENT, SUPPLEMENT = "VD", "VS"
"""Questions that make no sense without their image, and such that do."""
Cause = Literal["LH", "VI", "Mixed"]


class Check(JudgeReply):
    """The judge on one answer: `rating` is 0 wrong, 1 right, 2 unclear."""

    same: bool | None
    """Whether the answer agrees with that on the unchanged figure; None where nobody was asked."""
    answer: str


def parse_verdict(reply: str) -> int:
    """The official reading: "incorrect" anywhere is wrong, else "correct" anywhere is right, else it is unclear."""
    lowered = reply.lower()
    return WRONG if "incorrect" in lowered else RIGHT if "correct" in lowered else UNCLEAR


def pair_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The question, whatever the figure."""
    return tuple(str(row[name]) for name in ("category", "subcategory", "set_id", "question_id"))


def judge(answers: Sequence[str], docs: Sequence[Mapping[str, Any]], session: JudgeSession) -> list[Check]:
    """The judge's checks; of wrong answers on changed figures also whether they repeat that on the unchanged one."""
    theirs, theirs_same = session.official_prompt("hallusionbench"), session.official_prompt("hallusionbench_same")
    replies = session.ask_about(answers, docs, lambda doc, answer: (prompt_for(doc, answer, theirs), None), SAMPLING)
    checks = []
    for answer, reply in zip(answers, replies, strict=True):
        rating, text = (None, "") if reply is None else (parse_verdict(reply), reply or " ")
        checks.append(Check(rating=rating, text=text, same=None, answer=str(answer)))
    unchanged = {
        pair_of(doc): answer
        for answer, doc in zip(answers, docs, strict=True)
        if str(doc["figure_id"]) == "0" and not isinstance(answer, FailedAnswer)
    }
    compared = [
        index
        for index, (check, doc) in enumerate(zip(checks, docs, strict=True))
        if check["rating"] == WRONG and str(doc["figure_id"]) != "0" and pair_of(doc) in unchanged
    ]
    same = session.ask_about(
        [answers[index] for index in compared],
        [docs[index] for index in compared],
        lambda doc, answer: (same_prompt(answer, unchanged[pair_of(doc)], theirs_same), None),
        SAMPLING,
    )
    for index, reply in zip(compared, same, strict=True):
        checks[index]["same"] = None if reply is None else "same" in reply.lower()  # the official reading
    return checks


def prompt_for(doc: Mapping[str, Any], answer: str, theirs: str | None = None) -> str:
    """What the judge is asked about an answer; in the authors' words where their template is given."""
    if theirs is not None:
        return _join_pieces(theirs, doc["question"], doc["gt_answer_details"], answer)
    data = {"question": doc["question"], "reference_answer": doc["gt_answer_details"], "answer": answer}
    return fill(template("hallusionbench"), data=as_data(data))


def same_prompt(answer: str, unchanged: str, theirs: str | None = None) -> str:
    """What the judge is asked about two answers."""
    if theirs is not None:
        return _join_pieces(theirs, answer, unchanged)
    return fill(template("hallusionbench_same"), data=as_data({"first_answer": answer, "second_answer": unchanged}))


def _join_pieces(template: str, *texts: str) -> str:
    """The authors' pieces with texts between them; `template` has a NUL where one goes."""
    pieces = template.split("\0")
    return "".join(piece + text for piece, text in zip(pieces, (*texts, ""), strict=True))


def is_correct(doc: Mapping[str, Any], check: int) -> bool:
    """Right, or unclear about a supplementary image that was not there."""
    return check == RIGHT or (check == UNCLEAR and doc["category"] == SUPPLEMENT and str(doc["figure_id"]) == "0")


def _group_by(records: Iterable[Record], *names: str) -> list[list[Record]]:
    found: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for record in records:
        found[tuple(record[name] for name in names)].append(record)
    return list(found.values())


def _questions(records: Iterable[Record]) -> list[list[Record]]:
    return _group_by(records, "category", "subcategory", "set", "question")


def _figures(records: Iterable[Record]) -> list[list[Record]]:
    shown = [r for r in records if not (r["category"] == SUPPLEMENT and r["figure"] == "0")]
    return _group_by(shown, "category", "subcategory", "set", "figure")


def _all_right(group: Sequence[Record]) -> bool:
    return all(record["correct"] for record in group)


Part = Callable[[Record], bool]


def _share(
    groups: Callable[[list[Record]], list[list[Record]]], hit: Callable[[Sequence[Record]], float], part: Part
) -> Metric:
    def counts(records: Sequence[Record]) -> tuple[float, int]:
        found = groups([record for record in records if part(record)])
        return sum(hit(group) for group in found), len(found)

    return Metric(counts=counts, value=lambda sums: 100 * sums[..., 0] / sums[..., 1], digits=4)


def _each(records: list[Record]) -> list[list[Record]]:
    return [[record] for record in records]


def _everything(record: Record) -> bool:
    return True


aAcc = _share(_each, _all_right, _everything)
"""% of questions right."""
fAcc = _share(_figures, _all_right, _everything)
"""% of figures all of whose questions are right."""
qAcc = _share(_questions, _all_right, _everything)
"""% of questions right on every figure of their set."""
_CATEGORIES = (lambda r: bool(r["category"] == DEPENDENT), lambda r: bool(r["category"] == SUPPLEMENT))
aAcc_VD, aAcc_VS = (_share(_each, _all_right, part) for part in _CATEGORIES)
fAcc_VD, fAcc_VS = (_share(_figures, _all_right, part) for part in _CATEGORIES)
qAcc_VD, qAcc_VS = (_share(_questions, _all_right, part) for part in _CATEGORIES)
easy_aAcc = _share(_questions, _all_right, lambda record: bool(record["visual_input"] != "2"))
"""% of questions right on all their unchanged figures."""
hard_aAcc = _share(_questions, _all_right, lambda record: bool(record["visual_input"] == "2"))
"""% of questions right on all their changed figures."""
figure_correct = fAcc
figure_wrong = _share(_figures, lambda group: not any(record["correct"] for record in group), _everything)
figure_inconsistent = _share(
    _figures, lambda group: not _all_right(group) and any(record["correct"] for record in group), _everything
)
figure_score = Metric(
    counts=_share(_figures, lambda group: sum(r["correct"] for r in group) / len(group), _everything).counts,
    value=lambda sums: sums[..., 0] / sums[..., 1],
    digits=4,
)
"""Mean over figures of the share of their questions that are right, 0-1."""


def _bias(records: Sequence[Record]) -> tuple[int, ...]:
    wrong = [r for r in records if not r["correct"]]
    return (
        sum(r["correct"] == (r["truth"] == "1") for r in records),
        sum(r["truth"] == "1" for r in records),
        len(records),
        sum(r["truth"] == "0" for r in wrong),
        len(wrong),
    )


yes_pct_diff = Metric(counts=_bias, value=lambda sums: (sums[..., 0] - sums[..., 1]) / sums[..., 2])
"""Share of answers that (by their correctness) say yes, minus the share of true yes."""
fp_ratio = Metric(counts=_bias, value=lambda sums: sums[..., 3] / sums[..., 4])
"""Share of wrong answers where no was true."""


def find_causes(records: Sequence[Record]) -> list[Cause]:
    """What each wrong answer to one question comes from: language hallucination, visual illusion, either."""
    first = next((r["check"] for r in records if r["figure"] == "0"), None)
    found = [_tell_causes(record, first) for record in records if not record["correct"]]
    return ["Mixed" if language and vision else "LH" if language else "VI" for language, vision in found]


def _tell_causes(record: Record, first: int | None) -> tuple[bool, bool]:
    """Whether an answer fails by language, and by vision; `first` is the check of that on the unchanged figure."""
    check, same = record["check"], bool(record["same"])
    if check == RIGHT:
        return False, False
    if record["category"] == DEPENDENT:
        repeated = record["figure"] != "0" and first == RIGHT and check == WRONG and same
        return repeated, True
    if record["figure"] == "0":  # asked without an image: unclear is right
        return check == WRONG, False
    if first == WRONG:
        return True, check == UNCLEAR or not same
    if first == RIGHT and check == WRONG and record["visual_input"] == "2" and same:
        return True, False
    return False, True


def _share_of_cause(cause: Cause) -> Metric:
    def counts(records: Sequence[Record]) -> tuple[int, int]:
        found = [each for group in _questions(records) for each in find_causes(group)]
        return found.count(cause), len(found)

    return Metric(counts=counts, value=lambda sums: 100 * sums[..., 0] / sums[..., 1], digits=4)


LH, VI, Mixed = _share_of_cause("LH"), _share_of_cause("VI"), _share_of_cause("Mixed")
"""% of the wrong answers that come from language, from vision, from either."""
answer_length = mean_of("words")

METRICS: Final = tuple(
    """
    aAcc fAcc qAcc easy_aAcc hard_aAcc aAcc_VD qAcc_VD fAcc_VD aAcc_VS qAcc_VS fAcc_VS figure_correct
    figure_inconsistent figure_wrong figure_score yes_pct_diff fp_ratio LH VI Mixed answer_length
    """.split()
)


def docs(dataset: "Dataset") -> "Dataset":
    """Rows with an id."""
    names = ("category", "subcategory", "set_id", "figure_id", "question_id")
    ids = ["_".join(str(part) for part in parts) for parts in zip(*(dataset[name] for name in names), strict=True)]
    return dataset.remove_columns([name for name in ("id",) if name in dataset.column_names]).add_column("id", ids)


def prompt(doc: Mapping[str, Any]) -> str:
    """The question as it is, with its image where it has one."""
    return ("<image>" if doc["image"] else "") + str(doc["question"])


@scores_replies
def process_results(doc: Mapping[str, Any], results: list[Check]) -> dict[str, dict[str, Any]]:
    """One record for every metric; nothing where the judge could not be asked."""
    check = results[0]
    if check["rating"] is None:
        return {}
    place = f"{doc['category']}/{doc['subcategory']}/{doc['set_id']}"
    record = {
        "image": doc["image"] or f"{place}/none",
        "cluster": place,
        "category": doc["category"],
        "subcategory": doc["subcategory"],
        "set": str(doc["set_id"]),
        "figure": str(doc["figure_id"]),
        "question": str(doc["question_id"]),
        "visual_input": str(doc["visual_input"]),
        "truth": str(doc["gt_answer"]),
        "check": int(check["rating"]),
        "correct": is_correct(doc, int(check["rating"])),
        "same": check["same"],
        "words": len(check["answer"].split()),
    }
    return dict.fromkeys(METRICS, record)


@scores_replies
def process_results_image(doc: Mapping[str, Any], results: list[Check]) -> dict[str, dict[str, Any]]:
    """The same, without what needs the answers given without an image."""
    return {name: record for name, record in process_results(doc, results).items() if name not in ("LH", "VI", "Mixed")}


KEY: Final = {
    **{"category": "one of VD VS", "subcategory": "text", "set_id": "id", "figure_id": "id", "question_id": "id"},
}
"""What tells questions apart."""
TRUTH: Final = {"visual_input": "one of 0 1 2", "gt_answer": "one_zero"}
SIZE: Final = 1129
WITH_IMAGE: Final = 951
"""Of them."""


def official_answers(path: Path, references: Path | None) -> OfficialAnswers:
    """The script's result file: the questions with model_prediction, gpt4v_output_gpt_check (0, 1, 2) and same (0, 1).

    Rows may name their question only; then `references` holds HallusionBench.json. Rows without a check are still to be
    judged.
    """
    return _read_answers(path, references, only_images=False)


def official_answers_image(path: Path, references: Path | None) -> OfficialAnswers:
    """The same, without the questions that have no image."""
    return _read_answers(path, references, only_images=True)


def _read_answers(path: Path, references: Path | None, *, only_images: bool) -> OfficialAnswers:
    if path.is_dir():
        raise AnswerFileError(f"{path}: must be the file with the answers")
    found = read_rows(path)
    complete = all("gt_answer" in row and "visual_input" in row for row in found)
    found = read_fields(found, path, KEY | (TRUTH if complete else {}) | {"model_prediction": "any"})
    questions: dict[tuple[str, ...], Mapping[str, Any]] = {}
    if not complete:
        file = reference(references, "HallusionBench.json", what="questions with their true answers")
        asked = read_fields(read_rows(file), file, KEY | TRUTH | {"question": "text", "gt_answer_details": "text"})
        questions = {(*pair_of(row), row["figure_id"]): row for row in asked}
    answers = [_read_answer(row, place, path) for place, row in enumerate(found, start=1)]
    check_any(answers, path)
    keys = [(*pair_of(row), row["figure_id"]) for row in found]
    kept, warnings = keep_once(keys, answers, path)
    warnings += describe_missing(answers[place] for place in kept)
    answered: list[Answered] = []
    for place in kept:
        key, row, answer = keys[place], found[place], answers[place]
        if not complete and key not in questions:
            raise AnswerFileError(f"{path}: there is no question {'/'.join(key)}")
        if complete and not isinstance(answer, dict):
            row = read_fields([row], path, {"question": "text", "gt_answer_details": "text"})[0]
        doc = {**(row if complete else questions[key])}
        doc["image"] = "/".join((*key[:3], key[4])) if doc["visual_input"] != "0" else ""
        text = answer_in(row["model_prediction"])
        if doc["image"] or not only_images:
            answered.append(Answered(id="_".join(key), doc=doc, answer=answer, text=text))
    asked_for = sum(row["visual_input"] != "0" or not only_images for row in questions.values())
    size = asked_for or (WITH_IMAGE if only_images else SIZE)

    def coverage(answered: Sequence[Answered]) -> tuple[list[str], bool]:
        missing = size - len(answered)
        return [f"{missing} of {size} questions are not in the file"] if missing > 0 else [], missing > 0

    return covering(answered, warnings, coverage)


def _read_answer(row: Mapping[str, Any], place: int, path: Path) -> Check | str:
    """A row's answer, or its check by a judge where it has one."""
    text = answer_in(row["model_prediction"])
    if row.get("gpt4v_output_gpt_check") is None:
        return text
    check = str(row["gpt4v_output_gpt_check"]).removesuffix(".0")
    if check not in ("0", "1", "2"):
        raise AnswerFileError(f"{path}: row {place}: gpt4v_output_gpt_check must be 0, 1 or 2, is {check!r}")
    try:
        same = None if row.get("same") is None else read_yes_no(row["same"]) == "yes"
    except ValueError:
        raise AnswerFileError(f"{path}: row {place}: same must be 0 or 1, is {row['same']!r}") from None
    return Check(rating=int(check), text=check, same=same, answer=str(text))
