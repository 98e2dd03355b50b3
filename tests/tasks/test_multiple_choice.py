"""ScienceQA, MMBench and SEED-Bench: what is read as a choice, and what is counted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.errors import AnswerFileError, BenchmarkDataError
from tasks.benchmarks import mmbench, scienceqa_img, seedbench_img
from tests.tasks.conftest import score
from tests.tasks.conftest import write_lines as write
from tests.tasks.table_rows import ROWS, load_table

OPTIONS = {"A": "a cat", "B": "a dog", "C": "two dogs", "D": "None of the above"}


# ScienceQA


def test_every_golden_scienceqa_edge_case_is_read_as_officially(golden_json: Callable[[str], Any]) -> None:
    for case in golden_json("scienceqa/edge_cases_parse.jsonl"):
        letter = scienceqa_img.parse(case["pred"])
        assert (letter or "FAILED") == case["official_letter"], case
        choices = case["n_choices"]
        truth = case["official_pred_idx"] if case["official_pred_idx"] >= 0 else 0
        assert scienceqa_img.is_correct(letter, truth, choices) == (case["official_pred_idx"] >= 0), case


@given(st.text())
def test_scienceqa_reads_any_text_as_a_letter_or_not_at_all(text: str) -> None:
    letter = scienceqa_img.parse(text)
    assert letter == scienceqa_img.parse(text)
    assert letter is None or letter in text


def test_a_scienceqa_question_without_an_answer_is_wrong(tmp_path: Path) -> None:
    questions = [
        {"question_id": str(n), "n_choices": 2, "choices": ["dog", "cat"], "answer": 0, "has_image": n < 2}
        for n in range(4)
    ]
    write(tmp_path / "test_questions.jsonl", questions)
    path = write(tmp_path / "a.jsonl", [{"question_id": n, "text": "A"} for n in ("0", "2", "9")])
    found = scienceqa_img.official_answers(path, tmp_path)
    assert score("scienceqa_img", found) == pytest.approx({"accuracy": 50, "accuracy_all": 50, "answer_length": 0.5})
    assert list(found.warnings) == [
        "2 questions have no answer and count as wrong",
        "1 answers are to no question of the references and are left out",
    ]
    other = write(tmp_path / "b.jsonl", [{"question_id": "x", "text": "A"}])
    with pytest.raises(AnswerFileError, match="none of its question ids"):
        scienceqa_img.official_answers(other, tmp_path)


def test_a_scienceqa_prompt_has_context_question_and_letters() -> None:
    doc = {"hint": "Look.", "question": "Which?", "choices": ["dog", "cat"], "answer": 1}
    assert scienceqa_img.prompt(doc) == f"<image>Context: Look.\nWhich?\nA. dog\nB. cat\n{scienceqa_img.SUFFIX}"
    assert scienceqa_img.prompt({**doc, "hint": ""}).startswith("<image>Which?\n")
    assert scienceqa_img.target(doc) == "B"


# MMBench


def test_every_golden_mmbench_edge_case_is_read_as_officially(golden_json: Callable[[str], Any]) -> None:
    for case in golden_json("mmbench/edge_cases_can_infer.jsonl"):
        assert (mmbench.read_option(case["prediction"], case["choices"]) or False) == case["vlmevalkit_option"], case


@given(st.text(), st.dictionaries(st.sampled_from("ABCD"), st.text(max_size=8), min_size=2))
def test_mmbench_reads_any_text_as_an_option_a_refusal_or_not_at_all(answer: str, options: dict[str, str]) -> None:
    chosen = mmbench.read_option(answer, options)
    assert chosen == mmbench.read_option(answer, options)
    assert chosen is None or chosen == "Z" or chosen in options


@pytest.mark.parametrize(
    ("answer", "option"),
    (
        ("B", "B"),
        ("A dog is in the image", "B"),  # an article, then the option's text
        ("C is what I see in this picture", None),  # the letter is too far from the end, and no option's text is there
        ("The answer is d", "D"),
        ("I'm sorry, but without the image provided", "Z"),
        ("A cat and a dog", None),
        ("", None),
    ),
)
def test_mmbench_reads_letters_near_the_end_then_what_is_said_then_the_options(answer: str, option: str | None) -> None:
    assert mmbench.read_option(answer, OPTIONS) == option


def test_a_question_is_right_only_if_all_its_rotations_are(tmp_path: Path) -> None:
    rows = [
        {"index": 1, "question": "?", "A": "dog", "B": "cat", "answer": "A", "prediction": "A"},
        {"index": 1_000_001, "question": "?", "A": "cat", "B": "dog", "answer": "B", "prediction": "A"},
        {"index": 2, "question": "?", "A": "dog", "B": "cat", "answer": "A", "prediction": "dog"},
        {"index": 1_000_002, "question": "?", "A": "cat", "B": "dog", "answer": "B", "prediction": "B."},
    ]
    found = mmbench.official_answers(write(tmp_path / "a.jsonl", rows), None)
    assert score("mmbench", found) == pytest.approx({"accuracy": 50, "vanilla_accuracy": 100, "answer_length": 1})
    assert not found.warnings
    assert "no rotated rows" in mmbench.official_answers(write(tmp_path / "b.jsonl", rows[::2]), None).warnings[0]


def test_rotations_move_the_options_and_the_answer_with_them() -> None:
    row = {"index": 5, "question": "?", "A": "one", "B": "two", "C": "three", "D": None, "answer": "B"}
    found = mmbench.rotations(row)
    assert [r["index"] for r in found] == [5, 1_000_005, 2_000_005]
    assert [r[r["answer"]] for r in found] == ["two", "two", "two"]
    assert [r["answer"] for r in found] == ["B", "C", "A"]
    assert all(sorted(mmbench.options_of(r).values()) == ["one", "three", "two"] for r in found)


def test_an_mmbench_table_may_be_tab_separated(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("index\tquestion\tA\tB\tC\tanswer\tprediction\n3\t?\tdog\tcat\t\tA\tA\n", encoding="utf-8")
    assert score("mmbench", mmbench.official_answers(path, None))["accuracy"] == 100
    path.write_text("index\tquestion\tA\tB\tanswer\n3\t?\tdog\tcat\tA\n", encoding="utf-8")
    with pytest.raises(AnswerFileError, match=r"a\.tsv: a row lacks prediction"):
        mmbench.official_answers(path, None)


# SEED-Bench


@given(st.text())
def test_seedbench_reads_only_the_bare_letter(text: str) -> None:
    assert seedbench_img.parse(text) == (text if text in ("A", "B", "C", "D") else None)


def test_seedbench_of_videos_alone_is_refused(tmp_path: Path) -> None:
    found = load_table("seedbench_img", [{**ROWS["seedbench_img"], "data_type": "video"}], tmp_path)
    with pytest.raises(BenchmarkDataError, match="none of 1 rows is about an image"):
        seedbench_img.docs(found)


def test_seedbench_counts_questions_on_images_by_dimension(tmp_path: Path) -> None:
    kinds = (("image", 1), ("image", 5), ("image", 5), ("video", 10))
    questions = [
        {"question_id": n, "data_type": kind, "data_id": f"{n}.jpg", "answer": "A", "question_type_id": type}
        for n, (kind, type) in enumerate(kinds)
    ]
    (tmp_path / "SEED-Bench.json").write_text(json.dumps({"questions": questions}), encoding="utf-8")
    path = write(tmp_path / "a.jsonl", [{"question_id": 0, "text": "A"}, {"question_id": 1, "text": "A."}])
    found = seedbench_img.official_answers(path, tmp_path)
    scores = score("seedbench_img", found)
    assert scores["accuracy"] == pytest.approx(100 / 3)
    assert (scores["scene_understanding"], scores["instance_counting"]) == (100, 0)
    assert list(found.warnings) == ["1 questions have no answer and count as wrong"]
