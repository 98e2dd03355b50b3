"""MMStar, RealWorldQA, TextVQA and MMMU: what their rules read of an answer, and what is counted."""

import json
from pathlib import Path
from typing import Any

import pytest

from support.errors import AnswerFileError
from tasks.benchmarks import mmmu, mmstar, realworldqa, textvqa
from tests.tasks.conftest import score
from tests.tasks.conftest import write_lines as write


@pytest.mark.parametrize(
    ("answer", "letter"),
    (
        ("A", "A"),
        ("b", "B"),
        ("  C. a bus\n", "C"),
        ("Because it is red", "B"),  # the first letter, whatever word it begins
        ("(D) a cup", "D"),
        ("( D)", None),
        ("Option C is right", "C"),
        ("option: C", None),
        ("The answer is\nB", "B"),
        ("The answer is (B)", None),
        ("It is B", None),
        ("E", None),
        ("(", None),
        ("the answer is ", None),
        ("", None),
    ),
)
def test_mmstar_reads_the_beginning_of_an_answer(answer: str, letter: str | None) -> None:
    """As eval/vlmeval/evaluate/mmstar.py of MMStar-Benchmark/MMStar reads it, followed by hand."""
    assert mmstar.parse(answer) == letter


def test_mmstar_shows_options_that_stand_in_columns_alone() -> None:
    columns = {"A": "dog", "B": "cat", "C": "", "D": None}
    assert mmstar.prompt({"question": "Which?", **columns}) == "<image>Which?\nA. dog\nB. cat"
    whole = "Which?\nOptions: A: dog, B: cat"
    assert mmstar.prompt({"question": whole, **columns}) == mmstar.prompt({"question": whole}) == f"<image>{whole}"


def mmstar_row(number: int, prediction: Any, category: str = "math") -> dict[str, Any]:
    about = {"answer": "A", "category": category, "l2_category": "geometry", "bench": "MathVista"}
    return {"index": number, "question": "Which?", **about, "prediction": prediction}


def test_mmstar_counts_by_ability(tmp_path: Path) -> None:
    rows = [
        mmstar_row(0, "A"),
        mmstar_row(1, "It is A"),
        mmstar_row(2, "a dog", "coarse perception"),
        mmstar_row(3, None, "science & technology"),
    ]
    found = mmstar.official_answers(write(tmp_path / "a.jsonl", rows), None)
    scores = score("mmstar", found)
    assert (scores["accuracy"], scores["math"], scores["coarse_perception"]) == (50, 50, 100)
    assert scores["science_and_technology"] == 0
    assert list(found.warnings) == [
        "1 of 4 rows have no prediction and count as wrong",
        "4 answers, the benchmark has 1500",
    ]
    assert found.partial
    with pytest.raises(AnswerFileError, match="row 1: category 'sport': must be one of coarse perception"):
        mmstar.official_answers(write(tmp_path / "b.jsonl", [mmstar_row(0, "A", "sport")]), None)


WHERE = "Where is it?\n\nA. Left\nB. Right turn\nC. 1.5 m\n\nPlease answer directly with only the letter."


@pytest.mark.parametrize(
    ("answer", "question", "said"),
    (
        ("B", WHERE, "b"),
        ("b.", WHERE, "b"),
        ("(B)", WHERE, "b"),
        ("B. Right turn", WHERE, "b"),
        ("Right turn, not Left", WHERE, "b"),  # the option that comes first in the answer
        ("It is on the Left.", WHERE, "a"),
        ("left", WHERE, "left"),  # options are looked for in their own case
        ("1.5 m", WHERE, "15 m"),  # the answer loses its signs, the option does not
        ("Two", "How many?", "2"),
        ("Two.", "How many?", "two"),
        ("1.5", "How far?", "15"),
        (" Yes ", "Is it?", "yes"),
        ("", WHERE, ""),
    ),
)
def test_realworldqa_reads_an_option_or_all_of_an_answer(answer: str, question: str, said: str) -> None:
    """As lmms_eval/tasks/realworldqa/utils.py of EvolvingLMMs-Lab/lmms-eval reads it, followed by hand."""
    assert realworldqa.read(answer, question) == said


def test_realworldqa_letters_options_in_their_order() -> None:
    assert realworldqa.read("cup", "Which?\nC. dog\nD. cup") == "b"


def test_realworldqa_counts_its_two_kinds_of_questions(tmp_path: Path) -> None:
    options = {"question": "Where?", "A": "Left", "B": "Right", "answer": "B"}
    rows = [
        {"index": 0, **options, "prediction": "Right"},
        {"index": 1, **options, "prediction": "on the side"},
        {"index": 2, "question": "How many?", "A": None, "B": None, "answer": "2", "prediction": "two"},
    ]
    found = realworldqa.official_answers(write(tmp_path / "a.jsonl", rows), None)
    scores = score("realworldqa", found)
    assert scores["accuracy"] == pytest.approx(200 / 3)
    assert (scores["accuracy_options"], scores["accuracy_open"]) == (50, 100)
    asked = [sample.doc["question"] for sample in found.answered]
    assert asked[0] == f"Where?\nA. Left\nB. Right\n{realworldqa.ASKS_LETTER}"
    assert asked[2] == f"How many?\n{realworldqa.ASKS_WORD}"
    records = [realworldqa.process_results(one.doc, [one.answer])["accuracy"] for one in found.answered]
    assert [record.get("unparsed", False) for record in records] == [False, True, False]


@pytest.mark.parametrize(
    ("text", "form"),
    (
        ("The Dakota.", "dakota"),
        ("One, two?", "1 2"),
        ("1,000", "1000"),
        ("$1.50", "$1.50"),
        ("bob's", "bob 's"),
        ("dont", "don't"),
        ("coca-cola", "coca cola"),
        ("coca -cola", "coca cola"),
        ("new\nyork", "new york"),
        ("none", "0"),
        ("", ""),
    ),
)
def test_textvqa_compares_texts_as_its_script_does(text: str, form: str) -> None:
    """As EvalAIAnswerProcessor of LLaVA's llava/eval/m4c_evaluator.py, followed by hand."""
    assert textvqa.normal_form(text) == form


@pytest.mark.parametrize(
    ("answer", "same", "score"),
    (("dakota", 1, 0.3), ("Dakota!", 2, 0.6), ("the dakota", 3, 0.9), ("dakota", 4, 1), ("clos", 3, 0)),
)
def test_textvqa_counts_the_people_who_say_the_same(answer: str, same: int, score: float) -> None:
    """1 of 10: nine leave one out find 1/3, one finds none: 0.3."""
    assert textvqa.score(answer, ["dakota"] * same + [f"x{n}" for n in range(10 - same)]) == pytest.approx(score)


def test_textvqa_normalises_where_all_people_agree() -> None:
    assert textvqa.score("two", ["2"] * 10) == 1


@pytest.mark.parametrize(
    "prompt",
    (
        "What brand?\nAnswer the question using a single word or phrase.",
        "What brand?\nReference OCR token: A, B\nAnswer the question using a single word or phrase.",
        "Reference OCR token: A, B\nWhat brand?\nAnswer the question using a single word or phrase.",
        "OCR tokens: A, B. Question: What brand? Short answer:",
    ),
)
def test_textvqa_finds_the_question_in_llavas_prompts(prompt: str) -> None:
    assert textvqa.question_in(prompt) == "What brand?"


def test_textvqa_answers_of_llava_and_of_a_table(tmp_path: Path) -> None:
    people = ["dakota"] * 2 + [f"x{n}" for n in range(8)]
    data = [{"image_id": name, "question": "what brand?", "answers": people} for name in ("a", "b")]
    (tmp_path / "TextVQA_0.5.1_val.json").write_text(json.dumps({"data": data}), encoding="utf-8")
    lines = [{"question_id": "a", "prompt": "What brand?\nAnswer.", "text": "Dakota", "model_id": "m"}]
    lines.append({"question_id": "c", "prompt": "What brand?\nAnswer.", "text": "x", "model_id": "m"})
    found = textvqa.official_answers(write(tmp_path / "a.jsonl", lines), tmp_path)
    assert score("textvqa", found)["accuracy"] == pytest.approx(60)
    assert list(found.warnings) == [
        "1 answers are to no question of the references and are left out",
        "1 answers, the benchmark has 5000",
    ]
    table = [{"index": 1, "question": "what brand?", "answer": str(people), "prediction": "dakota"}]
    found = textvqa.official_answers(write(tmp_path / "b.jsonl", table), None)
    assert score("textvqa", found)["accuracy"] == pytest.approx(60)
    with pytest.raises(AnswerFileError, match="row 1: answer 'dakota': must be a list of 10 people's answers"):
        textvqa.official_answers(write(tmp_path / "c.jsonl", [{**table[0], "answer": "dakota"}]), None)


ANIMALS = {"A": "a dog", "B": "a cat", "C": "None"}


@pytest.mark.parametrize(
    ("answer", "letter"),
    (
        ("B", "B"),
        ("'B'.", "B"),
        ("B.'", None),  # signs are taken off one kind after the other: the full stop before the quote
        ("The answer is (B), not (A).", "A"),  # the last in brackets
        ("(B) as A says", "B"),  # brackets before bare letters
        ("A or B", "B"),
        ("A.", "A"),
        ("A. a dog", None),
        ("a cat", None),  # an option's text counts in more than five words only
        ("It looks like one, a CAT to me", "B"),
        ("There is a cat, and behind it a dog", "A"),
        ("", None),
    ),
)
def test_mmmu_reads_a_choice_as_its_authors_do(answer: str, letter: str | None) -> None:
    """As parse_multi_choice_response of MMMU-Benchmark/MMMU eval/eval_utils.py, followed by hand."""
    assert mmmu.read_choice(answer, ANIMALS) == letter


@pytest.mark.parametrize(
    ("answer", "meant"),
    (
        ("36 watts", {"36 watts", 36.0}),
        ("x = 3,000.456", {3000.0, 3000.46, 0.46}),
        ("The result is 5\nSo it is 7", {5.0, 7.0}),
        ("7", {7.0}),
        ("B", {" b", "b "}),
        ("1.5e3 m", {"1.5e3 m", 1500.0, 1.0, 3.0}),
        ("", {""}),
    ),
)
def test_mmmu_reads_what_an_open_answer_may_mean(answer: str, meant: set[str | float]) -> None:
    """As parse_open_response, followed by hand."""
    assert mmmu.read_open(answer) == meant


@pytest.mark.parametrize(
    ("answer", "truths", "right"),
    (
        ("It is 36.001 watts", ["36"], True),
        ("360", ["36"], False),
        ("It is a red dog", ["dog"], True),
        ("The answer is b", ["b"], True),
        ("blue", ["b"], False),
        ("It is three", ["3", "three"], True),
    ),
)
def test_mmmu_compares_numbers_and_looks_for_texts(answer: str, truths: list[str], right: bool) -> None:
    assert mmmu.is_right(mmmu.read_open(answer), truths) == right


def test_mmmu_draws_the_same_option_each_time() -> None:
    drawn = [mmmu.draw_choice(ANIMALS, f"validation_Art_{n}") for n in range(60)]
    assert drawn == [mmmu.draw_choice(ANIMALS, f"validation_Art_{n}") for n in range(60)]
    assert set(drawn) == set(ANIMALS)
    doc = {"id": "validation_Art_1", "question_type": "multiple-choice", "options": ["x", "y"], "image": "i"}
    record = mmmu.process_results({**doc, "answer": ["A"]}, ["?"])["accuracy"]
    assert record["unparsed"]
    other = mmmu.process_results({**doc, "answer": ["B"]}, ["?"])["accuracy"]
    assert record["correct"] != other["correct"]


def test_mmmu_puts_pictures_where_they_are_named() -> None:
    doc = {
        "question": "Is <image 2> like <image 1>?",
        "question_type": "multiple-choice",
        "options": ["<image 1>", "no"],
    }
    doc |= {"image": "", "image_2": "", "image_3": ""}
    ends = "\n\n(A) {}\n(B) no\n\n\nAnswer with the option's letter from the given choices directly."
    assert mmmu.prompt(doc) == "Is  like ?" + ends.format("")
    assert mmmu.prompt(doc | {"image": "a", "image_2": "b"}) == "Is <image> like <image>?" + ends.format("<image>")
    plain = {"question": "How many?", "question_type": "open", "options": [], "image": "a"}
    assert mmmu.prompt(plain).startswith("<image>How many?\n\nAnswer the question using a single word")


def test_mmmu_answers_of_its_authors_files(tmp_path: Path) -> None:
    options = {"all_choices": list(ANIMALS), "index2ans": ANIMALS}
    for subject, kind, truth, said in (
        ("Art", {"question_type": "multiple-choice", **options}, "B", "(B)"),
        ("Art_Theory", {"question_type": "multiple-choice", **options}, "A", "B"),
        ("Electronics", {"question_type": "short-answer"}, "30", "about 30 W"),
    ):
        (tmp_path / subject).mkdir()
        row = {"id": f"validation_{subject}_1", "answer": truth, "response": said, **kind}
        (tmp_path / subject / "output.json").write_text(json.dumps([row]), encoding="utf-8")
    scores = score("mmmu", mmmu.official_answers(tmp_path, None))
    assert scores["accuracy"] == pytest.approx(200 / 3)
    assert (scores["art_and_design"], scores["tech_and_engineering"]) == (50, 100)
    (tmp_path / "empty").mkdir()
    with pytest.raises(AnswerFileError, match=r"has no output\.json"):
        mmmu.official_answers(tmp_path / "empty", None)
