"""The likelihoods of a task's choices from the tokens that a server lists."""

from math import exp, log
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.models.next_token_logprobs import (
    FIRST,
    LIKELIEST,
    NOT_ASKED,
    NOT_GIVEN,
    OF_ANOTHER,
    REFUSED,
    told_in,
    weigh,
)
from tasks.thoughts import OF_A_THOUGHT

YES_NO = ("yes", "no")


def body_of(first: Any, content: str = "Yes", **message: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"content": content, **message}, "finish_reason": "stop"}
    return {"choices": [choice | {"logprobs": first}]}


def listing(*tokens: tuple[Any, Any]) -> dict[str, Any]:
    listed = [{"token": token, "logprob": value} for token, value in tokens]
    return {"content": [{**listed[0], "top_logprobs": listed}]}


def test_a_choice_has_the_mass_of_its_first_tokens_in_any_case_with_and_without_a_space() -> None:
    told = told_in(
        body_of(listing(("Yes", -1.0), ("\u2581yes", -2.0), ("yes", -2.5), ("\u0120NO", -3.0), ("Yesterday", -9.0))),
        asked=True,
    )
    found = weigh(told, YES_NO, "Yes")
    assert found.choices["yes"] == pytest.approx(log(exp(-1) + exp(-2) + exp(-2.5)))
    assert found.choices["no"] == pytest.approx(-3)


def test_letters_count_as_they_are_written() -> None:
    told = told_in(body_of(listing(("A", -0.5), (" a", -1.0), (" B", -2.0), ("x", -8)), "A"), asked=True)
    assert dict(weigh(told, ("A", "B", "C"), "A").choices) == {"A": -0.5, "B": -2.0}


def test_what_is_not_listed_is_missing_and_never_impossible() -> None:
    far = told_in(body_of(listing(("The", -0.2), ("A", -2.0))), asked=True)
    assert weigh(far, YES_NO, "The").missing == "the choices are not among the 2 likeliest tokens"
    close = told_in(
        body_of(listing(("The", -0.2), (" no", -3.0), ("I", -3.1))), asked=True
    )  # yes may be up to -3.1 + log 8
    assert weigh(close, YES_NO, "The").missing
    clear = told_in(body_of(listing(("No", -0.1), ("I", -6.0)), "No"), asked=True)
    assert dict(weigh(clear, YES_NO, "No").choices) == {"no": -0.1}


@given(
    st.dictionaries(
        st.sampled_from(["yes", "Yes", " yes", "YES", "no", "No", " no", "NO", "x", "y", "z"]),
        st.floats(0, 9),
        min_size=11,
    ),
    st.integers(1, 11),
)
def test_what_is_told_of_the_likeliest_is_what_the_whole_distribution_says(
    weights: dict[str, float], listed: int
) -> None:
    total = log(sum(map(exp, weights.values())))
    tokens = sorted(((text, weight - total) for text, weight in weights.items()), key=lambda one: -one[1])
    found = weigh(told_in(body_of(listing(*tokens[:listed]), ""), asked=True), YES_NO, "")
    every = {name: log(sum(exp(p) for text, p in tokens if text.strip().lower() == name)) for name in YES_NO}
    if found.choices:
        best = max(found.choices, key=lambda name: found.choices[name])
        assert every[best] >= max(every.values()) - 1e-5
    if listed == len(tokens):
        assert found.missing or dict(found.choices) == pytest.approx(every, abs=1e-5)


@pytest.mark.parametrize(
    ("first", "message", "why"),
    (
        (None, {}, NOT_GIVEN),
        ({"content": []}, {}, NOT_GIVEN),
        ({"content": [{"token": "Yes", "logprob": "high"}]}, {}, NOT_GIVEN),
        ({"content": [{"token": "Yes", "logprob": float("nan")}]}, {}, NOT_GIVEN),
        ({"content": "Yes"}, {}, NOT_GIVEN),
        (listing(("Let", -0.1)), {"reasoning_content": "Let me see"}, OF_A_THOUGHT),
        (listing(("Let", -0.1), ("yes", -4)), {}, OF_ANOTHER),
    ),
)
def test_why_there_are_none(first: Any, message: dict[str, Any], why: str) -> None:
    assert weigh(told_in(body_of(first, **message), asked=True), YES_NO, "Yes").missing == why


def test_a_kept_reply_says_whether_it_was_asked_for_them() -> None:
    assert weigh({}, YES_NO, "Yes").missing == NOT_ASKED
    assert weigh(told_in(body_of(None), asked=False), YES_NO, "Yes").missing == REFUSED


def test_a_token_of_bytes_may_be_of_any_answer() -> None:
    told = {FIRST: "\ufffd", LIKELIEST: [("\ufffd", -0.1), ("yes", -0.5), ("no", -1.0), ("x", -9.0)]}
    assert weigh(told, YES_NO, "é").choices
