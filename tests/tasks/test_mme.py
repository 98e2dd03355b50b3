import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.benchmarks import mme


def answer(image: str, category: str, correct: bool) -> dict[str, object]:
    return {"image": image, "category": category, "correct": correct}


def test_every_golden_edge_case_is_read_as_officially(golden_json: Callable[[str], Any]) -> None:
    for case in golden_json("mme/edge_cases_parse.jsonl"):
        assert mme.parse(case["response"]) == case["official_label"], case


@given(st.text())
def test_a_line_break_after_the_answer_changes_no_reading(text: str) -> None:
    assert mme.parse(text + "\n") == mme.parse(text)


@given(st.text())
def test_only_the_first_four_characters_are_read(text: str) -> None:
    assert mme.parse(text) == mme.parse(text.lower()[:4])


def test_a_category_is_worth_accuracy_plus_the_share_of_images_with_both_right() -> None:
    records = [answer("1", "OCR", True), answer("1", "OCR", True), answer("2", "OCR", True), answer("2", "OCR", False)]
    assert mme.total(("OCR",))(records) == pytest.approx(75 + 50)


def test_total_adds_categories_up_and_leaves_others_out() -> None:
    records = [answer("1", "count", True), answer("1", "count", True)]
    records += [answer("2", "color", False), answer("2", "color", True), answer("3", "x", True)]
    assert mme.total(("count", "color"))(records) == pytest.approx(200 + 50)


def test_one_picture_in_two_categories_makes_two_pairs() -> None:
    records = [answer("1", "count", True), answer("1", "color", False)]
    records += [answer("1", "count", True), answer("1", "color", True)]
    assert mme.total(("count", "color"))(records) == pytest.approx(200 + 50)
    assert mme.accuracy_plus()(records) == pytest.approx(50)
    assert mme.accuracy_plus(("count",))(records) == pytest.approx(100)


def test_a_category_without_questions_adds_nothing() -> None:
    records = [answer("1", "count", True), answer("1", "count", True)]
    assert mme.total(("count", "position"))(records) == pytest.approx(200)


def test_no_question_of_any_category_is_no_score() -> None:
    assert math.isnan(mme.total(("position",))([answer("1", "count", True)]))


def test_many_resamples_are_scored_in_one_go() -> None:
    records = [answer("1", "count", True), answer("1", "count", True)]
    records += [answer("2", "count", False), answer("2", "count", True)]
    metric = mme.total(("count", "color"))
    _, counts = metric.by_image(records)
    weights = np.array([[1, 1], [2, 0], [0, 2]])
    assert metric.value(weights @ counts) == pytest.approx([125, 200, 50])


@pytest.mark.parametrize("model", ("LaVIN", "llava-v1.5-13b"))
def test_golden_answers_score_as_officially(
    model: str, golden: Callable[[str], Path], golden_json: Callable[[str], Any]
) -> None:
    expected = golden_json("mme/expected_scores.json")[model]
    records = [record for path in sorted(golden(f"mme/{model}").glob("*.txt")) for record in read_answers(path)]
    assert len(records) == 2374
    for part, metric in (("Perception", mme.perception), ("Cognition", mme.cognition)):
        assert metric(records) == pytest.approx(expected[part]["total"], abs=1e-9)
        for category, score in expected[part]["subtasks"].items():
            assert mme.total((category,))(records) == pytest.approx(score, abs=1e-9), category


def read_answers(path: Path) -> list[dict[str, object]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines]
    return [answer(str(i // 2), path.stem, mme.parse(row[3]) == row[2].lower()) for i, row in enumerate(rows)]
