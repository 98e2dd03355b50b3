import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.benchmarks import pope

ANSWERS = "pope/answers/llava-v1.5-13b_{}.jsonl"
QUESTIONS = "pope/questions_llava_e3e3926/coco_pope_{}.json"


def test_every_golden_edge_case_is_read_as_officially(golden_json: Callable[[str], Any]) -> None:
    for case in golden_json("pope/edge_cases_parse.jsonl"):
        assert pope.parse(case["response"]) == case["official_label"], case


def test_an_empty_answer_is_a_yes() -> None:
    assert pope.parse("") == "yes"


@given(st.text(), st.text())
def test_nothing_after_the_first_full_stop_is_read(before: str, after: str) -> None:
    before = before.replace(".", "")
    assert pope.parse(f"{before}.{after}") == pope.parse(before)


@pytest.mark.parametrize("split", pope.SPLITS)
def test_golden_answers_of_each_split_score_as_officially(split: str, golden_json: Callable[[str], Any]) -> None:
    expected = golden_json("pope/expected_scores.json")["llava-v1.5-13b (questions_llava_e3e3926)"][split]
    assert_scores(read(golden_json, split), expected)


def test_golden_full_sentences_score_as_officially(golden_json: Callable[[str], Any]) -> None:
    (expected,) = [scores for name, scores in golden_json("pope/expected_scores.json").items() if "verbose910" in name]
    answers = [row["answer"] for row in golden_json("pope/answers/llava-1.5-verbose910_random.jsonl")]
    questions = golden_json("pope/questions/coco_pope_random.json")[: len(answers)]
    assert len(answers) == 910
    assert_scores(records(answers, questions, "random"), expected)


def test_mean_f1_of_golden_answers_is_the_published_one(golden_json: Callable[[str], Any]) -> None:
    expected = golden_json("pope/expected_scores.json")["llava-v1.5-13b (questions_llava_e3e3926)"]["mean_f1"]
    every = [record for split in pope.SPLITS for record in read(golden_json, split)]
    assert pope.mean_f1(every) == pytest.approx(100 * expected, abs=1e-9)


def test_mean_f1_needs_every_split() -> None:
    one = {"image": "1", "category": "random", "predicted": "yes", "truth": "yes", "correct": True}
    assert math.isnan(pope.mean_f1([one]))


def read(golden_json: Callable[[str], Any], split: str) -> list[dict[str, object]]:
    answers = [row["text"] for row in golden_json(ANSWERS.format(split))]
    return records(answers, golden_json(QUESTIONS.format(split)), split)


def records(answers: Sequence[str], questions: Sequence[dict[str, str]], split: str) -> list[dict[str, object]]:
    return [
        pope.process_results({"image": q["image"], "category": split, "answer": q["label"]}, [a])["f1"]
        for a, q in zip(answers, questions, strict=True)
    ]


def assert_scores(found: list[dict[str, object]], expected: dict[str, float]) -> None:
    assert pope.accuracy(found) == pytest.approx(100 * expected["accuracy"], abs=1e-9)
    assert pope.precision(found) == pytest.approx(100 * expected["precision"], abs=1e-9)
    assert pope.recall(found) == pytest.approx(100 * expected["recall"], abs=1e-9)
    assert pope.f1(found) == pytest.approx(100 * expected["f1"], abs=1e-9)
    assert pope.yes_rate(found) == pytest.approx(100 * expected["yes_ratio"], abs=1e-9)
