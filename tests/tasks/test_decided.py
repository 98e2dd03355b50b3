"""A decided answer is read the same way whatever follows it."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks.benchmarks import amber, mme, mmstar, pope, scienceqa_img, seedbench_img
from tasks.early_exit import next_token_accuracy, next_token_record
from tasks.registry import registry
from tasks.thoughts import generated, is_decided

PIECES = [
    "Yes",
    "yes",
    "No",
    "no",
    "not",
    "nothing",
    "A",
    "B",
    "The answer is ",
    "the answer is ",
    "option ",
    "(",
    " ",
    "  ",
    ",",
    ".",
    ". ",
    "\n",
]
WORDS = st.lists(st.sampled_from([*PIECES, "é", "x", "😀"]), max_size=9).map("".join)


def amber_reading(answer: str) -> Any:
    doc = {"type": "discriminative-attribute-state", "truth": ["yes"], "image": "i", "id": "1"}
    record = amber.process_results(doc, [answer])["accuracy"]
    return record["answer"], record["correct"]


READINGS: dict[str, tuple[Callable[[str], bool] | None, Callable[[str], Any]]] = {
    "mme": (mme.decided({}), mme.parse),
    "pope": (pope.decided({}), lambda answer: (pope.parse(answer), pope.is_answer(answer))),
    "amber": (amber.decided({"type": "discriminative-attribute-state"}), amber_reading),
    "mmstar": (mmstar.decided({}), mmstar.parse),
    "scienceqa": (scienceqa_img.decided({}), scienceqa_img.parse),
    "seedbench": (seedbench_img.decided({}), seedbench_img.parse),
}


@pytest.mark.parametrize("name", READINGS)
@settings(max_examples=600, deadline=None)
@given(beginning=st.one_of(WORDS, st.text(max_size=6)), rest=st.one_of(WORDS, st.text(max_size=6)))
@example(beginning="no", rest="thing there.")
@example(beginning="no,", rest="thing there.")
@example(beginning="no ", rest="thing there.")
@example(beginning="Yes", rest="")
@example(beginning="Yes", rest=".")
@example(beginning="A. ", rest="The answer is B.")
def test_no_further_word_changes_what_is_read(name: str, beginning: str, rest: str) -> None:
    decided, read = READINGS[name]
    assert decided is not None
    if decided(beginning):
        assert read(beginning) == read(beginning + rest)
        assert decided(beginning + rest)


@pytest.mark.parametrize("name", READINGS)
@settings(max_examples=600, deadline=None)
@given(beginning=st.one_of(WORDS, st.text(max_size=6)), rest=st.one_of(WORDS, st.text(max_size=6)))
@example(beginning="  Yes", rest=" ")
@example(beginning=" No ", rest="thing there.")
@example(beginning="\nA", rest=". The answer is B.")
def test_no_further_word_changes_what_is_read_of_a_stripped_answer(name: str, beginning: str, rest: str) -> None:
    decided, read = READINGS[name]
    assert decided is not None
    if is_decided(beginning, "", decided):
        assert read(generated(beginning)) == read(generated(beginning + rest))


@pytest.mark.parametrize("name", sorted(READINGS.keys() - {"mmstar"}))
def test_what_the_official_rules_read_differs_with_white_space(name: str) -> None:
    """Of a file they read what is there; so a model's answer is stripped first."""
    _, read = READINGS[name]
    texts = [lead + word + end for word in ("Yes", "No", "A") for lead in ("", "    ") for end in ("", "\n")]
    assert any(read(text) != read(text.strip()) for text in texts)


@pytest.mark.parametrize(
    ("name", "answer", "over"),
    (
        ("mme", "Yes", False),
        ("mme", "Yes,", True),
        ("pope", "Yes", False),
        ("pope", "Yes, there is a dog.", True),
        ("pope", "No", False),
        ("pope", "No there", True),
        ("amber", "Yes", False),
        ("amber", "Yes.", True),
        ("amber", "", False),
        ("scienceqa", "A", False),
        ("scienceqa", "A. ", True),
        ("seedbench", "A", False),
        ("seedbench", "A.", True),
    ),
)
def test_when_an_answer_is_decided(name: str, answer: str, over: bool) -> None:
    decided, _ = READINGS[name]
    assert decided is not None
    assert decided(answer) is over


def test_a_description_is_never_decided() -> None:
    assert amber.decided({"type": amber.GENERATIVE}) is None
    assert amber.next_token({"type": amber.GENERATIVE, "truth": ["cat"]}) is None


def test_the_registry_finds_rules_and_choices() -> None:
    known = registry()
    rule = known.decided("mme", {})
    assert rule is not None
    assert (rule("Yes"), rule("Yes.")) == (False, True)
    assert known.decided("scenes_chair", {}) is None
    assert known.next_token("pope", {"answer": "Yes"}) == (("yes", "no"), "yes")
    assert known.next_token("scienceqa_img", {"choices": ["a", "b", "c"], "answer": 1}) == (("A", "B", "C"), "B")
    assert known.next_token("scenes_chair", {}) is None
    assert known.metric("mme", "next_token_accuracy") is next_token_accuracy


def test_the_likeliest_choice_counts() -> None:
    right = next_token_record("i", {"yes": -0.2, "no": -1.7}, "yes")
    wrong = next_token_record("i", {"yes": -0.2, "no": -0.1}, "yes")
    assert (right["correct"], wrong["correct"]) == (True, False)
    assert next_token_accuracy([right, wrong]) == 50
