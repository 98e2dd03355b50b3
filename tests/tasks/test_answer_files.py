"""Answers made elsewhere: which field is the answer, what is none, and what becomes of questions answered twice."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.evaluation.score_files import score
from support.errors import AnswerFileError
from tasks.answer import FailedAnswer
from tasks.answer_files import ANSWER_FIELDS, answer_in, find_answers, keep_once
from tasks.judges.protocol import GREEDY, JudgeReply, Sampling, ThreadedJudge
from tasks.registry import registry
from tests.tasks.answer_makers import HALLUSION, LAYOUTS, REVIEWS, Layout
from tests.tasks.test_columns import JSON

FILE = Path("answers.jsonl")
DOGS = ("Is there a dog?", "Is there a cat?", "Is there a cup?")
SAID = ("Yes", "No", "Yes")
PROMPT = "Please describe this image in detail."


def rows_of(**columns: Any) -> list[dict[str, Any]]:
    """Three rows; a column is three cells, or one text for all."""
    cells = {name: (cell,) * 3 if isinstance(cell, str) else cell for name, cell in columns.items()}
    return [{name: found[place] for name, found in cells.items()} for place in range(3)]


@pytest.mark.parametrize(
    "rows",
    (
        rows_of(answer=SAID),
        rows_of(text=SAID),
        rows_of(answer="Yes"),
        rows_of(text=DOGS, answer=SAID, label=("yes", "no", "yes")),
        rows_of(answer=SAID, text=DOGS),
        rows_of(text=[f"<image>\n{question}" for question in DOGS], answer=SAID),
        rows_of(text=[f"{question}\nAnswer with one word." for question in DOGS], answer=SAID),
        rows_of(text=[question.upper() for question in DOGS], response=SAID),
        rows_of(text=PROMPT, answer=SAID),
        rows_of(caption=SAID, text="LLaVA"),
        rows_of(question=PROMPT, text=PROMPT, answer="Yes"),
        rows_of(prompt=PROMPT, text=PROMPT, answer="Yes"),
        rows_of(answer=SAID, text=SAID),
        rows_of(answer=SAID, text=[None, [], {}]),
        [{"answer": "Yes"}, {"text": "No"}, {"answer": "Yes"}],
    ),
)
def test_the_answer_is_not_the_question_nor_what_is_the_same_everywhere(rows: list[dict[str, Any]]) -> None:
    expected = ["Yes"] * 3 if all("Yes" in row.values() for row in rows) else list(SAID)
    assert find_answers(rows, FILE, ANSWER_FIELDS, DOGS) == expected


@pytest.mark.parametrize(
    ("rows", "complaint"),
    (
        (rows_of(answer=SAID, text=("No", "No", "Yes")), "row 1 has answer and text: which is the answer"),
        (rows_of(answer="Yes", text="No"), "row 1 has answer and text"),
        (rows_of(answer=("yes", "no", "yes"), response=SAID), "row 1 has answer and response"),
        (rows_of(text=DOGS), "text repeat the question"),
        (rows_of(text=DOGS, caption=DOGS), "text and caption repeat the question"),
        (rows_of(text=[f"{question} One word." for question in DOGS]), "text repeat the question"),
        (rows_of(label=SAID), "a row has neither answer, text, .* it has label"),
        (rows_of(answer=[None] * 3), r"3 of 3 rows have no answer \(null\)"),
        (rows_of(answer=[None, [], {}]), r"3 of 3 rows have no answer \(null, a list, an object\)"),
        (rows_of(text=[True, float("nan"), ["Yes"]]), r"no answer \(true or false, no number, a list\)"),
        ([{"answer": "Yes"}, {}, {"answer": "No"}], "a row has neither answer"),
    ),
)
def test_a_field_is_never_guessed(rows: list[dict[str, Any]], complaint: str) -> None:
    with pytest.raises(AnswerFileError, match=f"^answers.jsonl: .*{complaint}"):
        find_answers(rows, FILE, ANSWER_FIELDS, DOGS)


@pytest.mark.parametrize(
    ("rows", "left"),
    (
        (rows_of(answer=("yes", "no", "yes"), prediction="No"), None),
        (rows_of(answer=("Yes", "No", "Yes"), prediction="no", response="Yes"), None),
        (rows_of(answer=("no", "no", "yes"), prediction="No"), ["no", "no", "yes"]),
        (rows_of(answer=("yes", "no", "yes")), ["yes", "no", "yes"]),
    ),
)
def test_the_true_answers_are_not_taken_for_those_of_a_model_that_always_says_the_same(
    rows: list[dict[str, Any]], left: list[str] | None
) -> None:
    if left is not None:
        assert find_answers(rows, FILE, ANSWER_FIELDS, DOGS, ["yes", "no", "yes"]) == left
        return
    with pytest.raises(AnswerFileError, match=r"answer is the true answer in every row, and .*prediction the same in"):
        find_answers(rows, FILE, ANSWER_FIELDS, DOGS, ["yes", "no", "yes"])


@pytest.mark.parametrize("value", (None, [], ["Yes"], {}, {"text": "Yes"}, True, False, float("nan"), float("inf")))
def test_what_is_no_text_is_a_missing_answer(value: Any) -> None:
    answer = answer_in(value)
    assert isinstance(answer, FailedAnswer)
    assert str(answer) == ""
    assert answer.error.startswith("the file has no answer")


@pytest.mark.parametrize(("value", "text"), (("", ""), (" ", " "), ("Yes", "Yes"), (3, "3"), (0.5, "0.5")))
def test_text_and_numbers_are_answers(value: Any, text: str) -> None:
    assert answer_in(value) == text
    assert not isinstance(answer_in(value), FailedAnswer)


@given(st.lists(st.tuples(st.integers(0, 3), JSON), max_size=6))
def test_each_question_counts_once_or_the_file_is_refused(rows: list[tuple[int, Any]]) -> None:
    keys, answers = [key for key, _ in rows], [answer_in(value) for _, value in rows]
    differ = any(
        len({answer for other, answer in zip(keys, answers, strict=True) if other == key and type(answer) is str}) > 1
        for key in keys
    )
    if differ:
        with pytest.raises(AnswerFileError, match="answer it differently"):
            keep_once(keys, answers, FILE)
        return
    kept, told = keep_once(keys, answers, FILE)
    assert sorted(keys[place] for place in kept) == sorted(set(keys))
    assert bool(told) == (len(kept) < len(keys))
    for place in kept:
        if isinstance(answers[place], FailedAnswer):
            same = [answer for key, answer in zip(keys, answers, strict=True) if key == keys[place]]
            assert all(isinstance(answer, FailedAnswer) for answer in same)


named = pytest.mark.parametrize("layout", (*LAYOUTS, *REVIEWS), ids=lambda layout: layout.task)
answers_only = pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.task)


@named
def test_good_answers_are_read(layout: Layout, tmp_path: Path) -> None:
    found = layout.read(tmp_path)
    assert len(found.answered) == (3 if layout.missing_is_wrong and layout.references else len(layout.rows))
    assert not any(isinstance(sample.answer, FailedAnswer) for sample in found.answered)


@answers_only
@pytest.mark.parametrize("value", (None, [], ["Yes"], {}, {"x": "Yes"}, True))
def test_a_missing_answer_is_counted_and_told_and_never_its_python_text(
    layout: Layout, value: Any, tmp_path: Path
) -> None:
    if layout.task == "mmvet" and isinstance(value, dict):
        return  # grades
    rows = [*layout.rows[:-1], {**layout.rows[-1], layout.field: value}]
    found = layout.read(tmp_path, rows)
    assert str(value) not in [str(sample.answer) for sample in found.answered]
    missing = [sample for sample in found.answered if isinstance(sample.answer, FailedAnswer)]
    if layout.missing_is_wrong:
        assert not missing
        assert any("count as wrong" in line for line in found.warnings)
    else:
        assert len(missing) == 1
        assert any("have no answer" in line and "count as failed" in line for line in found.warnings)


@answers_only
def test_a_file_without_any_answer_is_refused(layout: Layout, tmp_path: Path) -> None:
    with pytest.raises(AnswerFileError, match="have no answer"):
        layout.read(tmp_path, [{**row, layout.field: None} for row in layout.rows])


@answers_only
def test_a_file_of_empty_answers_is_refused(layout: Layout, tmp_path: Path) -> None:
    with pytest.raises(AnswerFileError, match=f"all {len(layout.rows)} answers are empty"):
        layout.read(tmp_path, [{**row, layout.field: " "} for row in layout.rows])


def test_answers_beside_the_unfilled_template_are_found(tmp_path: Path) -> None:
    layout = next(layout for layout in LAYOUTS if layout.task == "mmhal")
    rows = [{**row, "model_answer": "", "response": f"A dog {place}."} for place, row in enumerate(layout.rows)]
    assert layout.read(tmp_path, rows).answered[1].answer == "A dog 1."


@pytest.mark.parametrize("layout", [one for one in (*LAYOUTS, *REVIEWS) if one.row_key], ids=lambda layout: layout.task)
def test_a_question_answered_twice_counts_once_or_is_refused(layout: Layout, tmp_path: Path) -> None:
    once = layout.read(tmp_path)
    twice = layout.read(tmp_path, [*layout.rows, layout.rows[0]])
    assert [(s.id, s.doc, s.answer) for s in twice.answered] == [(s.id, s.doc, s.answer) for s in once.answered]
    assert any("answer a question again and count once" in line for line in twice.warnings)
    other: dict[str, Any] = {layout.field: 9 if layout.field == "rating" else "Something else."}
    if layout.field == "tuple":
        other = {"tuple": [9, 1], "content": "9 1"}
    with pytest.raises(AnswerFileError, match=r"is there twice: rows 1 and .* answer it differently"):
        layout.read(tmp_path, [*layout.rows, {**layout.rows[0], **other}])


def test_an_object_with_a_member_twice_is_refused(tmp_path: Path) -> None:
    layout = next(layout for layout in LAYOUTS if layout.task == "mmvet")
    layout.read(tmp_path)
    for second, complaint in (('"y"', "'v1_0' is there twice, with different values"), ('"x"', "")):
        (tmp_path / "answers.json").write_text(f'{{"v1_0": "x", "v1_0": {second}}}', encoding="utf-8")
        if complaint:
            with pytest.raises(AnswerFileError, match=complaint):
                score(registry().task("mmvet"), tmp_path / "answers.json", tmp_path / "references")


@pytest.mark.parametrize(
    ("task", "told"),
    (
        ("pope", "answers 2 of 3 random questions; the others are not counted"),
        ("amber", "2 of the 3 yes/no questions are answered"),
        ("hallusionbench", "1127 of 1129 questions are not in the file"),
        ("mmbench", "no rotated rows"),
        ("mmstar", "2 answers, the benchmark has 1500"),
        ("realworldqa", "2 answers, the benchmark has 765"),
        ("textvqa", "2 answers, the benchmark has 5000"),
        ("mmmu", "2 answers, the benchmark has 900"),
        ("mmvet", "1 of 3 questions are not in the file"),
        ("scienceqa_img", "1 questions have no answer and count as wrong"),
        ("seedbench_img", "1 questions have no answer and count as wrong"),
        ("chair", "2 captions, the benchmark has 500"),
        ("object_halbench", "2 answers, the benchmark has 300"),
        ("llava_bench_wild", "2 reviews, the benchmark has 60 (90 on COCO)"),
    ),
)
def test_questions_that_are_missing_are_told(task: str, told: str, tmp_path: Path) -> None:
    layout = next(layout for layout in (*LAYOUTS, *REVIEWS) if layout.task == task)
    assert any(told in line for line in layout.read(tmp_path).warnings)


def test_rotations_that_are_missing_are_told(tmp_path: Path) -> None:
    layout = next(layout for layout in LAYOUTS if layout.task == "mmbench")
    rotated = {**layout.rows[0], "index": 1_000_001, "answer": "B"}
    found = layout.read(tmp_path, [*layout.rows, rotated])
    assert any("1 of 2 questions lack rotations of their options (2)" in line for line in found.warnings)
    assert not layout.read(tmp_path, [layout.rows[0], rotated]).warnings


def test_pope_answers_go_by_the_numbers_of_their_questions(tmp_path: Path) -> None:
    layout = next(layout for layout in LAYOUTS if layout.task == "pope")
    rows = [{"question_id": 10_000_003, "text": "Yes"}, {"question_id": 10_000_001, "text": "No"}]
    found = layout.read(tmp_path, rows)
    assert [(sample.id, sample.answer) for sample in found.answered] == [("random/3", "Yes"), ("random/1", "No")]
    assert found.answered[0].doc["answer"] == "yes"


@pytest.mark.parametrize(
    ("task", "change", "complaint"),
    (
        ("hallusionbench", {"gt_answer": "maybe"}, "row 2: gt_answer 'maybe': must be yes or no"),
        ("hallusionbench", {"category": None}, "row 2: category None: must be one of VD, VS"),
        ("hallusionbench", {"gpt4v_output_gpt_check": 3}, "row 2: gpt4v_output_gpt_check must be 0, 1 or 2"),
        ("mmbench", {"answer": "E"}, "row 2: answer 'E': must be the letter of an option: A, B"),
        ("mmbench", {"index": "x"}, "row 2: index 'x': must be a whole number"),
        ("amber", {"id": 7}, "there is no question 7"),
        ("llava_bench_wild", {"tuple": [8, True]}, "row 2: no two scores"),
        ("llava_bench_wild", {"score": [1, 2]}, "row 2 has tuple and score, and they differ"),
        ("rtvlm", {"rating": 11}, "row 2: rating 11: must be a number from 1 to 10"),
        ("rtvlm", {"rating": 6, "reply": "Rating: 7"}, "row 2 has rating 6 and a reply that says 7"),
        ("llava_bench_wild", {"tuple": [8, 2]}, "row 2: its review says 8 6, its scores are 8 2"),
        ("hallusionbench", {"gpt4v_output_gpt_check": "1", "same": "maybe"}, "row 2: same must be 0 or 1, is 'maybe'"),
        ("rtvlm", {"rating": None, "reply": ["9"]}, "row 2: reply .* must be text"),
        ("mmhal", {"question_type": "x"}, "row 96: question_type 'x': must be one of attribute"),
        ("mmhal", {"reply": "Rating: 1", "review": "Rating: 2"}, "row 96 has reply and review: which"),
        ("seedbench_img", {"question_id": None}, "row 2: question_id None: must be a name or a number"),
        ("object_halbench", {"objs": "dog"}, "the objs of image 2 are no list of texts"),
    ),
)
def test_a_value_that_means_nothing_is_refused_with_its_row(
    task: str, change: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    layout = next(layout for layout in (*LAYOUTS, *REVIEWS) if layout.task == task)
    with pytest.raises(AnswerFileError, match=complaint):
        layout.read(tmp_path, [*layout.rows[:-1], {**layout.rows[-1], **change}])


@named
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_value_in_any_field_is_read_or_refused_in_one_line(
    layout: Layout, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    names = [
        name for name in {**layout.rows[0], "text": 0, "objs": 0, "same": 0} if layout.task != "mmvet" or name != "id"
    ]
    changed = {**layout.rows[-1], data.draw(st.sampled_from(names)): data.draw(JSON)}
    error = ""
    try:
        found = layout.read(tmp_path_factory.mktemp("t"), [*layout.rows[:-1], changed])
    except AnswerFileError as refused:
        error = str(refused)
    assert "\n" not in error
    if error:
        return
    spec = registry().task(layout.task)
    for sample in found.answered:
        if spec.judged and isinstance(sample.answer, str):
            assert type(sample.answer) in (str, FailedAnswer)
        elif not isinstance(sample.answer, FailedAnswer):
            registry().process_results(layout.task)(sample.doc, [sample.answer])


def test_a_missing_answer_is_never_judged(tmp_path: Path) -> None:
    asked: list[str] = []

    class Counting(ThreadedJudge):
        model = "counting"

        def ask(self, prompt: str, image: Any = None, sampling: Sampling = GREEDY) -> str:
            asked.append(prompt)
            return "Correct."

    layout = next(layout for layout in LAYOUTS if layout.task == "hallusionbench")
    rows = [*layout.rows, {**layout.rows[0], "question_id": "9", "model_prediction": None}]
    layout.read(tmp_path, rows)
    found = score(registry().task("hallusionbench"), tmp_path / layout.name, judge=Counting())
    assert len(asked) == 2
    assert (found.samples, found.failed, found.unscored) == (3, 1, 0)


@pytest.mark.parametrize("value", (None, ["x"], True))
def test_a_missing_answer_among_grades_is_no_answer_to_be_judged(value: Any, tmp_path: Path) -> None:
    layout = next(layout for layout in LAYOUTS if layout.task == "mmvet")
    layout.read(tmp_path, [{"id": "v1_0", "value": {"score": [0.5]}}, {"id": "v1_1", "value": value}])
    found = score(registry().task("mmvet"), tmp_path / layout.name, tmp_path / "references")
    assert (found.metrics["total"], found.samples, found.failed, found.partial) == (50.0, 2, 1, True)


@pytest.mark.parametrize("layout", (*LAYOUTS, *REVIEWS), ids=lambda layout: layout.task)
def test_a_file_without_some_questions_is_partial_where_they_do_not_count_as_wrong(
    layout: Layout, tmp_path: Path
) -> None:
    whole = layout.task in ("mmhal", "rtvlm", "scienceqa_img", "seedbench_img")
    assert layout.read(tmp_path).partial is not whole


@pytest.mark.parametrize("empty", ("", " ", "\n"))
@pytest.mark.parametrize("task", ("pope", "chair", "amber", "mmhal", "mmvet"))
def test_empty_answers_are_told(task: str, empty: str, tmp_path: Path) -> None:
    layout = next(layout for layout in LAYOUTS if layout.task == task)
    found = layout.read(tmp_path, [*layout.rows[:-1], {**layout.rows[-1], layout.field: empty}])
    assert any(f"1 of {len(layout.rows)} answers are empty" in line for line in found.warnings)


def test_types_of_mmhal_come_from_its_rows_and_no_question_stands_twice(tmp_path: Path) -> None:
    layout = next(layout for layout in LAYOUTS if layout.task == "mmhal")
    rows = [{**row, "reply": f"Rating: {n % 8 % 7}", "image_id": n} for n, row in enumerate(layout.rows)][::-1]
    found = layout.read(tmp_path, rows)
    assert [sample.doc["question_type"] for sample in found.answered] == [row["question_type"] for row in rows]
    with pytest.raises(AnswerFileError, match="rows 1 and 96 are the same question"):
        layout.read(tmp_path, [*rows[:-1], rows[0]])
    unread = layout.read(tmp_path, [{"reply": "Fine."}] * 96)
    assert unread.warnings == [
        "no rating, or several, in the replies to 96 of 96 questions ('0', '1', '2', '3', '4' ...), so that nothing is"
        " scored"
    ]


@pytest.mark.parametrize("numbers", ((7, 5), (5, 5), (1, 0)))
def test_pope_answers_in_an_unknown_order_are_refused(numbers: tuple[int, int], tmp_path: Path) -> None:
    layout = next(layout for layout in LAYOUTS if layout.task == "pope")
    rows = [{"question_id": number, "answer": said} for number, said in zip(numbers, ("Yes", "No"), strict=True)]
    with pytest.raises(AnswerFileError, match="question_id are not the benchmark's, and come twice or in another"):
        layout.read(tmp_path, rows)
    asked = [{**row, "question": f"Is there a thing {n}?"} for n, row in enumerate(rows, start=1)]
    assert [sample.id for sample in layout.read(tmp_path, asked).answered] == ["random/1", "random/2"]


def test_a_check_stands_without_the_words(tmp_path: Path) -> None:
    layout = next(layout for layout in LAYOUTS if layout.task == "hallusionbench")
    row = {**layout.rows[0], **HALLUSION, "model_prediction": None, "gpt4v_output_gpt_check": "1"}
    (sample,) = layout.read(tmp_path, [row]).answered
    assert isinstance(sample.answer, dict)
    assert JudgeReply(rating=sample.answer["rating"], text=sample.answer["text"]) == JudgeReply(rating=1, text="1")
