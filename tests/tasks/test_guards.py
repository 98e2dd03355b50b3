"""Which answers are empty, and what a task's YAML may say of guards."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.errors import UnknownName
from tasks.empty_answers import INVISIBLE, count_words, is_empty, least_words
from tasks.guards import BUILT_IN, EMPTY_ANSWERS, describe_answer, read_guards, read_shortest
from tasks.registry import registry


@pytest.mark.parametrize(
    ("answer", "words"),
    (
        ("", 0),
        (" \n\t", 0),
        ("...", 0),
        ("<>|*_—“”", 0),
        ("👍", 0),
        ("A", 1),
        ("(B)", 1),
        ("7", 1),
        ("I can't tell.", 3),
        ("A dog, on grass.", 4),
        ("dog,cat;car/bus", 4),
        ("\u3164\u200b\u2800 \u115f", 0),
        ("Ein Mädchen läuft", 3),
        ("Собака на траве", 3),
        ("一只狗在草地上", 7),
        ("개가 잔디 위에 있다", 4),
    ),
)
def test_words_are_counted_and_empty_answers_found(answer: str, words: int) -> None:
    assert count_words(answer) == words
    assert is_empty(answer) == (words == 0)
    assert is_empty(answer, 4) == (words < 4)


@given(st.text())
def test_an_answer_is_empty_exactly_if_it_has_no_letter_and_no_digit(answer: str) -> None:
    assert is_empty(answer) == (not any(char.isalnum() and ord(char) not in INVISIBLE for char in answer))
    assert not is_empty(f"{answer} dog")
    assert count_words(f"{answer} dog") == count_words(answer) + 1


def test_a_description_needs_more_words_than_a_choice() -> None:
    amber = registry().task("amber").shortest
    assert least_words(amber, ("amber_score", "cover", "hal")) == 4
    assert least_words(amber, ("amber_score", "accuracy")) == 1  # "Yes" is whole
    assert describe_answer("Yes", {"image": "1", "cluster": "c", "correct": 1}, 1) == {
        "image": "1",
        "cluster": "c",
        "words": 1,
        "empty": False,
    }


METRICS = ("chair_s", "recall")


@pytest.mark.parametrize(
    ("metadata", "error"),
    (
        ({"guards": ["recall"]}, "guards: must be a mapping, is ['recall']"),
        ({"guards": {"chair": {"recall": 5}}}, "guards.chair: no such metric; there are chair_s, recall"),
        ({"guards": {"chair_s": {"cover": 5}}}, "guards.chair_s.cover: no such metric"),
        ({"guards": {"chair_s": {"recall": "5%"}}}, "guards.chair_s.recall: must be a number from 0 to below 100"),
        ({"guards": {"chair_s": {"recall": True}}}, "guards.chair_s.recall: must be a number from 0 to below 100"),
        ({"guards": {"chair_s": {"recall": 100}}}, "guards.chair_s.recall: must be a number from 0 to below 100"),
        ({"guards": {"recall": {"recall": 5}}}, "guards.recall.recall: no metric guards itself"),
    ),
)
def test_wrong_guards_are_told_with_their_key(metadata: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=re.escape(error)):
        read_guards(metadata, METRICS)


def test_wrong_numbers_of_words_are_told_with_their_key() -> None:
    with pytest.raises(ValueError, match=r"shortest\.recall: must be a number of words, is 0"):
        read_shortest({"shortest": {"recall": 0}}, METRICS)
    assert read_shortest({"shortest": {"recall": 4}}, METRICS) == {"recall": 4}
    assert read_guards({}, METRICS) == {}


def test_every_metric_is_guarded_by_empty_answers_and_every_guard_is_there() -> None:
    for task, spec in registry().tasks.items():
        for metric in spec.metrics:
            guards = registry().guards(task, metric)
            assert guards[EMPTY_ANSWERS][0] is BUILT_IN[EMPTY_ANSWERS]
    with pytest.raises(UnknownName):
        registry().guards("chair", "chair_x")


@pytest.mark.parametrize("task", ("chair", "amber", "object_halbench", "mmhal", "scenes_chair", "scenes_mmhal"))
def test_what_silence_improves_is_guarded_by_what_it_costs(task: str) -> None:
    spec = registry().task(task)
    for metric, found in spec.metrics.items():
        if not found.higher_is_better and metric not in ("yes_rate", "answer_length"):
            assert len(registry().guards(task, metric)) == 3, metric
    assert len(registry().guards(task, spec.headline)) == 3
